"""Every operation that is under way: found by what its reply names, and by when something is to be done about it."""

import heapq
from collections.abc import Iterator
from typing import TypeAlias

from quorumd.client.operation import Operation, Plane
from quorumd.errors import QuorumdError
from quorumd.types import Nanoseconds

Key: TypeAlias = tuple[int, int, int]
"""(kind, low half of the session id, seq): what a reply record names its request by."""


class Ledger:
    """Operations from their admission (they have a key, and may be sent) to their outcome.

    Invariant: each has its `timer_at` among the timers. Timer entries of other times are left over, and ignored; they
    hold no operation, so a heap full of them costs little.
    """

    __slots__ = ("_timers", "completed", "next_seq", "pending", "reads", "stale")

    def __init__(self) -> None:
        self.pending: dict[Key, Operation] = {}
        self.completed: list[Operation] = []
        """Have their outcome, and wait for the IO layer."""
        self.reads = 0
        """How many of `pending` are reads by the leader, or what travels likewise."""
        self.stale = 0
        """How many of `pending` are stale reads."""
        self.next_seq = 1
        """The next number of what is no write, whose numbers are its session's."""
        self._timers: list[tuple[Nanoseconds, Key]] = []

    def admit(self, operation: Operation, key: Key) -> None:
        """From now on `key` finds it."""
        operation.key = key
        self.pending[key] = operation
        if operation.plane is Plane.READ:
            self.reads += 1
        elif operation.plane is Plane.STALE:
            self.stale += 1

    def admit_numbered(self, operation: Operation, kind: int, session_lo: int) -> None:
        """Gives what is no write its number and admits it; kind, session_lo: what its reply will say."""
        operation.seq = self.next_seq
        self.next_seq += 1
        self.admit(operation, (kind, session_lo, operation.seq))

    def set_timer(self, operation: Operation, at: Nanoseconds) -> None:
        """Something is to be done about it at that time, or at its deadline."""
        operation.timer_at = min(at, operation.deadline)
        heapq.heappush(self._timers, (operation.timer_at, operation.key))

    def next_timer(self) -> Nanoseconds | None:
        """When due() has something. Drops what is left over before it, or it would wake us for nothing."""
        timers = self._timers
        while timers:
            at, key = timers[0]
            operation = self.pending.get(key)
            if operation is not None and operation.timer_at == at:
                return at
            heapq.heappop(timers)
        return None

    def due(self, now: Nanoseconds) -> Iterator[Operation]:
        """Those whose time has come, once each."""
        while self._timers and self._timers[0][0] <= now:
            at, key = heapq.heappop(self._timers)
            operation = self.pending.get(key)
            if operation is not None and operation.timer_at == at:
                yield operation

    def complete(self, operation: Operation, error: QuorumdError | None) -> None:
        """Its outcome is known, admitted or not; the first outcome stands."""
        if not operation.done:
            operation.error = error
            self.finish(operation)
            self.completed.append(operation)

    def finish(self, operation: Operation) -> None:
        """Nothing more is to happen to it."""
        operation.done = True
        admitted = self.pending.pop(operation.key, None) is not None
        if operation.window is not None:  # also if an interrupt struck before it was admitted here
            operation.window.release(operation)
        elif admitted and operation.plane is Plane.READ:
            self.reads -= 1
        elif admitted and operation.plane is Plane.STALE:
            self.stale -= 1
