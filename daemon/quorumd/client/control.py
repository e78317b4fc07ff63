"""A client's control frames: what is asked of the leader, or of the node they name. Sans-IO: part of ClientProtocol."""

import json
from collections import Counter, deque
from typing import Final

from quorumd.client.ledger import Ledger
from quorumd.client.operation import Operation
from quorumd.client.routing import Router, SocketAddress
from quorumd.client.transmitter import Transmitter
from quorumd.errors import Rejected
from quorumd.limits import MAX_NUMBER
from quorumd.types import Nanoseconds, NodeId, Term
from quorumd_fastpath import wire

CONTROL_REPLIES: Final = {wire.KIND_STATUS: wire.KIND_STATUS_REPLY, wire.KIND_ADMIN: wire.KIND_ADMIN_REPLY}


class Control:
    """Those that are under way. counters: of what was ignored, by reason."""

    def __init__(self, ledger: Ledger, transmitter: Transmitter, router: Router, counters: Counter[str]) -> None:
        self._ledger = ledger
        self._transmitter = transmitter
        self._router = router
        self._counters = counters
        self.waiting: deque[Operation] = deque()
        """To be sent, again or first."""

    def flush(self, now: Nanoseconds) -> None:
        """Sends each as soon as it is known where to."""
        queue, self.waiting = self.waiting, deque()
        for operation in queue:
            if not operation.done and not self._send(operation, now):
                self.waiting.append(operation)

    def _send(self, operation: Operation, now: Nanoseconds) -> bool:
        """Whether nothing is left to do for now."""
        try:
            target = self._target_of(operation)
        except ValueError as error:
            self._ledger.complete(operation, Rejected(str(error)))
            return True
        if target is None:
            return False
        if not operation.seq:
            self._ledger.admit_numbered(operation, CONTROL_REPLIES[operation.kind], 0)
            if operation.kind == wire.KIND_ADMIN:
                operation.target = target[0]  # a command that another node is asked as well could happen twice
        self._transmitter.control(operation, *target, now)
        return True

    def _target_of(self, operation: Operation) -> tuple[NodeId, SocketAddress] | None:
        """Whom it goes to (0: its id is not known), None: nobody yet. Raises ValueError for nonsense."""
        if operation.target == 0:
            return self._router.target()
        address = self._router.address_of(operation.target)
        node = operation.target if isinstance(operation.target, int) else 0
        return None if address is None else (node, address)

    def receive(self, frame: wire.Frame, payload: bytes) -> None:
        """A reply to one of them."""
        operation = self._ledger.pending.get((frame.kind, 0, frame.index))
        if operation is None or frame.term != operation.term:  # the latter: of a repetition of the question, below
            self._counters["stray"] += 1
            return
        try:
            document = json.loads(payload)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            self._counters["malformed"] += 1
            return
        term = document.get("term")
        if operation.kind == wire.KIND_ADMIN and not operation.term and type(term) is int and 0 < term < MAX_NUMBER:
            self._command(operation, term)
            return
        operation.document = document
        self._ledger.complete(operation, None)

    def _command(self, operation: Operation, term: Term) -> None:
        """The leader, asked without a term, did nothing but tell its own: now it is asked to act in that term only.

        However often this and its repetitions arrive, and however late, it happens once at most.
        """
        operation.term, operation.transmissions = term, 0
        if not operation.queued:
            operation.queued = True
            self.waiting.append(operation)
        self._ledger.set_timer(operation, operation.deadline)
