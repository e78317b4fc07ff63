"""The node's side of the client protocol: what is staged, refused, redirected, answered. No socket in it.

Client operations are never Python objects here: they are staged, proposed, applied and answered as batches in C. Only
the rare frames (hello, status, admin, fragments) are looked at one by one, a bounded number each turn.

Anybody may ask for a hello or status reply, under any source address, with a datagram that names no cluster. So what
such a question brings its victim is bounded: the answer leaves once. If it exceeds a datagram its fragments do, all
together, and are not sent again: who asked and lacks one asks again, as for any answer that is lost.

An admin command names the term of the leadership that it is meant for, so a copy of it is worth nothing once that has
ended; a copy that comes before is known by its client and number, and answered as the first was.
"""

import json
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quorumd import limits
from quorumd.fragments import Fragment, Fragmenter, Reassembler, first_of
from quorumd.types import Address, Incarnation, Nanoseconds, NodeId, Term
from quorumd.watchplane import WatchPlane, WatchRoom
from quorumd_fastpath import wire
from quorumd_fastpath.apply import Store
from quorumd_fastpath.replays import ReplayWindows
from quorumd_fastpath.ring import Pending, ReadQueue
from quorumd_fastpath.wire import READS, WRITES, Counters, Outbox, Replies, Slab, Stage

LEADER_HINT = struct.Struct("<H")
RARE_FRAMES_PER_TURN = 256
ACCEPTED: Mapping[str, Any] = {"ok": True, "error": ""}  # the answer to an admin command


def refusal(error: str) -> Mapping[str, Any]:
    """Likewise, with the reason."""
    return {"ok": False, "error": error}


class ClientPlane:
    """Staging area, replies and the rare frames. Policy (who leads, what is full) is core.py's."""

    def __init__(
        self,
        node: NodeId,
        outbox: Outbox,
        mtu: int,
        incarnation: Incarnation,
        store: Store,
        random_u64: Callable[[], int],
        watch_room: WatchRoom | None = None,
    ) -> None:
        self.node = node
        self.incarnation = incarnation
        self.cluster = 0
        self.outbox = outbox
        self.stage = Stage(limits.MAX_STAGED_OPS)
        self.replays = ReplayWindows(limits.CLIENT_WINDOWS, limits.CLIENT_DATAGRAM_LIFE)
        self.stage.expect_numbers(self.replays, incarnation)
        self.replies = Replies(limits.REPLY_SCRATCH_BYTES, mtu)
        self.pending = Pending(limits.MAX_PENDING_OPS)
        self.reads = ReadQueue(limits.READ_QUEUE_BYTES)
        self.counters = Counters()
        self.fragmenter: Fragmenter[Address] = Fragmenter(mtu, first_id=first_of(incarnation))
        self.reassembler: Reassembler[Address] = Reassembler()
        # Cuts answers and keeps none. A client must not take one's fragments for those of a message of the other.
        self.answer_cutter: Fragmenter[Address] = Fragmenter(mtu, first_id=first_of(incarnation) ^ 1 << 63)
        self.hello: Callable[[], Mapping[str, Any]] = dict
        self.status: Callable[[], Mapping[str, Any]] = dict
        self.admin: Callable[[Mapping[str, Any], Term], Mapping[str, Any]] = lambda _, __: refusal("not serving")
        self._carried_out: deque[tuple[Incarnation, int]] = deque(maxlen=limits.ADMIN_REMEMBERED)
        self.leader: Callable[[], tuple[NodeId, str]] = lambda: (0, "")
        self.watches = WatchPlane(
            store, outbox, self.fragmenter, self.counters, self._knows_leader, self._client_frame, random_u64,
            watch_room,
        )  # fmt: skip
        self.rare = 0
        self._collected = False

    def collect(self, slab: Slab, now: Nanoseconds) -> None:
        """Stages every operation of the slab and answers its rare frames. Valid until the slab is cleared."""
        self.rare = 0
        self._collected = True
        for slot, frame in self.stage.collect(slab, self.cluster, self.counters, now):
            self.rare += 1
            if self.rare > RARE_FRAMES_PER_TURN:
                self.counters.increment(wire.DROP_OVERFLOW)
                continue
            payload = bytes(slab.view(slot)[frame[0] : frame[0] + frame[1]])
            self._rare(slab.addr(slot), frame, payload, now)

    def _rare(self, addr: Address, frame: wire.Frame, payload: bytes, now: Nanoseconds) -> None:
        kind = frame[2]
        if kind in (wire.KIND_CLIENT_HELLO, wire.KIND_REQUEST):  # a request for another life of this node
            self._answer(addr, wire.KIND_CLIENT_HELLO_REPLY, frame, self.hello())
        elif kind == wire.KIND_STATUS:
            self._answer(addr, wire.KIND_STATUS_REPLY, frame, self.status())
        elif kind == wire.KIND_ADMIN and frame[13] == self.cluster:
            self._admin(addr, frame, payload)
        elif kind == wire.KIND_WATCH and frame[13] == self.cluster:
            self._watch(addr, frame, payload, now)
        elif kind == wire.KIND_FRAGMENT and frame[13] == self.cluster:
            self._fragment(addr, frame, payload, now)
        elif kind == wire.KIND_FRAGMENT_ACK and frame[13] == self.cluster:
            if not self.fragmenter.on_ack(addr, frame[9], frame[12], payload, now):
                self.counters.increment(wire.DROP_BAD_BODY)
        else:
            self.counters.increment(wire.DROP_BAD_KIND)

    def _answer(self, addr: Address, kind: int, frame: wire.Frame, body: Mapping[str, Any], term: Term = 0) -> None:
        payload = json.dumps(body).encode()
        if len(payload) <= self.outbox.mtu - self.outbox.tail_room - limits.HEADER_BYTES:
            self.outbox.frame(addr, kind, 0, frame[5], frame[7], term, frame[10], 0, 0, payload)
            return
        if len(payload) > limits.MAX_ANSWER_BYTES:
            self.counters.increment(wire.DROP_OVERFLOW)
            return
        self.answer_cutter.send(addr, self._client_frame(kind, 0, frame[7], term, frame[10], 0, 0, payload), 0)
        self.rare += self._put_fragments(self.answer_cutter.poll(0))
        self.answer_cutter.forget(addr)

    def _admin(self, addr: Address, frame: wire.Frame, payload: bytes) -> None:
        try:
            command = json.loads(payload)
        except (ValueError, RecursionError):
            command = None
        if not isinstance(command, dict):
            self.counters.increment(wire.DROP_BAD_BODY)
            return
        number, term = (frame[7], frame[10]), frame[9]
        answer: Mapping[str, Any] = ACCEPTED
        if number not in self._carried_out:
            answer = self.admin(command, term)
            if answer["ok"]:
                self._carried_out.append(number)
        self._answer(addr, wire.KIND_ADMIN_REPLY, frame, answer, term)

    def _watch(self, addr: Address, frame: wire.Frame, payload: bytes, now: Nanoseconds) -> None:
        if frame.receiver_incarnation == self.incarnation:
            self.watches.on_frame(addr, frame, payload, now)
        else:  # a stream with another life of this node
            self._answer(addr, wire.KIND_CLIENT_HELLO_REPLY, frame, self.hello())

    # -- large messages -----------------------------------------------------------------------------------------

    def _fragment(self, addr: Address, frame: wire.Frame, payload: bytes, now: Nanoseconds) -> None:
        ack, message = self.reassembler.on_fragment(addr, frame, payload, now)
        if ack is None:
            self.counters.increment(wire.DROP_REASSEMBLY_FULL)
            return
        self._put(addr, wire.KIND_FRAGMENT_ACK, frame[9], count=frame[12], payload=ack)
        if message is None:
            return
        for inner, inner_payload in wire.parse_datagram(message, self.counters):
            if inner[2] == wire.KIND_WATCH and inner[13] == self.cluster:
                self._watch(addr, inner, inner_payload, now)
            elif inner[2] != wire.KIND_REQUEST or inner[13] != self.cluster:
                self.counters.increment(wire.DROP_BAD_KIND)
            elif inner[10] and inner[8] != self.incarnation:
                self._answer(addr, wire.KIND_CLIENT_HELLO_REPLY, inner, self.hello())
            elif inner[10] and not self.replays.take(inner[7], inner[10], now):
                self.counters.increment(wire.DROP_REPLAYED)
            elif not self.stage.collect_payload(inner_payload, inner[12], addr):
                self.counters.increment(wire.DROP_BAD_RECORD)

    def finish(self, now: Nanoseconds) -> None:
        """Ends the turn: answers and events leave, what is due again too; the staged descriptors go with their slab."""
        self.watches.finish(now)
        if len(self.replies):
            self._flush(now)
        if self.fragmenter.bytes_waiting:
            self._put_fragments(self.fragmenter.poll(now))
        if self.reassembler.bytes_held:
            self.reassembler.expire(now)
        if self._collected:
            self._collected = False
            self.stage.clear()

    def _flush(self, now: Nanoseconds) -> None:
        """Packs the replies by address into the outbox; what exceeds a datagram leaves in fragments."""
        for addr, record in self.replies.flush(self.outbox):
            self.fragmenter.send(addr, self._client_frame(wire.KIND_REPLY, 0, 0, 0, 0, 0, 1, record), now)

    def _client_frame(
        self, kind: int, flags: int, client: Incarnation, term: int, index: int, commit: int, count: int, payload: bytes
    ) -> bytes:
        return wire.encode_frame(
            kind, flags, self.cluster, self.node, 0, self.incarnation, client, term, index, commit, count, payload
        )

    def deadline(self) -> Nanoseconds | None:
        """When fragments or watches are due again, or None."""
        watches = self.watches.deadline()
        if not self.fragmenter.bytes_waiting:
            return watches
        fragments = self.fragmenter.deadline()
        return watches if fragments is None else fragments if watches is None else min(watches, fragments)

    def _put_fragments(self, fragments: Sequence[tuple[Address, Fragment]]) -> int:
        for dest, (message_id, number, count, total_bytes, payload) in fragments:
            self._put(
                dest, wire.KIND_FRAGMENT, message_id, index=number, commit=total_bytes, count=count, payload=payload
            )
        return len(fragments)

    def _put(
        self,
        addr: Address,
        kind: int,
        term: int,
        *,
        flags: int = 0,
        index: int = 0,
        commit: int = 0,
        count: int = 0,
        payload: bytes = b"",
    ) -> None:
        self.outbox.frame(addr, kind, flags, 0, 0, term, index, commit, count, payload)

    # -- refusals -----------------------------------------------------------------------------------------------

    def hint(self) -> bytes:
        """Body of NOT_LEADER: who leads, and where its clients are served."""
        node, address = self.leader()
        return LEADER_HINT.pack(node) + address.encode()

    def _knows_leader(self) -> bool:
        return self.leader()[0] != 0

    def redirect(self, revision: int) -> None:
        """Answers every staged operation that only a leader may take with where the leader is."""
        body = self.hint()
        for which in (WRITES, READS):
            self.stage.reject(which, self.replies, wire.STATUS_NOT_LEADER, revision, body)

    def refuse(self, which: int, status: int, revision: int, reason: str = "", *, kept: int = 0) -> None:
        """Answers the staged operations of one class, after the first `kept`, with a definite refusal."""
        self.stage.reject(which, self.replies, status, revision, reason.encode(), kept)
