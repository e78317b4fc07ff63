"""Messages that carry entries on their way out: from the ring by reference, else from what the WAL gave back.

A run that does not fit a datagram leaves as several frames; an entry that does not, in fragments. What is no longer in
memory is asked of the disk, and its message parked until it is there.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from quorumd.fragments import Fragmenter
from quorumd.log import Log
from quorumd.peercodec import BODY_APPEND, EntryRun
from quorumd.sources import chunks
from quorumd.types import Address, Incarnation, Index, Nanoseconds, NodeId, Term
from quorumd_fastpath import wire
from quorumd_fastpath.wire import Outbox

MAX_PARKED = 256  # first indexes that messages wait for, from disk


class Receiver(Protocol):
    """What must be known of a peer to send to it."""

    node: NodeId
    address: Address
    incarnation: Incarnation


class Sender(NamedTuple):
    """Who this node is in a frame."""

    cluster: int
    node: NodeId
    incarnation: Incarnation


class EntryRuns:
    """See the module's docstring. `single_bytes`: the largest payload of a frame that needs no fragments."""

    def __init__(
        self, outbox: Outbox, log: Log, fragmenter: Fragmenter[NodeId], single_bytes: int, sender: Callable[[], Sender]
    ) -> None:
        self.outbox = outbox
        self.log = log
        self.fragmenter = fragmenter
        self.single_bytes = single_bytes
        self._sender = sender  # of now: the cluster may be known late
        # By the first index they wait for from disk, then by receiver; a newer message replaces the older one.
        self._parked: dict[Index, dict[NodeId, EntryRun]] = {}
        self.recalls: set[Index] = set()  # first indexes wanted from the WAL; taken by applier

    def send(self, peer: Receiver, run: EntryRun, now: Nanoseconds) -> None:
        """Puts a run into the outbox, or parks it."""
        if run.first > run.last:
            self._put(peer, run, b"")
        elif run.first < self.log.ring.first:
            self._send_recalled(peer, run, now)
        elif run.last > self.log.ring.last:
            entries = self.log.held(run.first, run.last)
            if entries is not None:  # else it is no longer what the engine asked for
                self._send_packed(peer, run, run.last, entries, now)
        else:
            self._send_from_ring(peer, run, now)

    def _put(self, peer: Receiver, run: EntryRun, entries: bytes) -> None:
        body = BODY_APPEND.pack(run.prev_term, run.entries_term if entries else 0, 0)
        count = run.last - run.first + 1
        self.outbox.frame(
            peer.address, run.kind, run.flags, peer.node, peer.incarnation, run.term, run.first - 1, run.commit, count,
            body + entries,
        )  # fmt: skip

    def _send_from_ring(self, peer: Receiver, run: EntryRun, now: Nanoseconds) -> None:
        ring, first, prev_term = self.log.ring, run.first, run.prev_term
        while first <= run.last:
            done = ring.send_run(
                self.outbox, peer.address, run.kind, run.flags, peer.node, peer.incarnation, run.term, first - 1,
                run.commit, prev_term, run.entries_term, 0, first, run.last,
            )  # fmt: skip
            if done >= first:
                prev_term, first = run.entries_term, done + 1
                continue
            if ring.size_bytes(first, first) + BODY_APPEND.size <= self.single_bytes:
                return  # the outbox is full: the engine will find the gap and send again
            single = run._replace(first=first, last=first, prev_term=prev_term)
            if not self._send_fragmented(peer, single, ring.copy(first, first), now):
                return
            prev_term, first = run.entries_term, first + 1

    def _send_fragmented(self, peer: Receiver, run: EntryRun, entries: bytes, now: Nanoseconds) -> bool:
        sender = self._sender()
        body = BODY_APPEND.pack(run.prev_term, run.entries_term, 0)
        frame = wire.encode_frame(
            run.kind, run.flags, sender.cluster, sender.node, peer.node, sender.incarnation, peer.incarnation,
            run.term, run.first - 1, run.commit, run.last - run.first + 1, body + entries,
        )  # fmt: skip
        return self.fragmenter.send(peer.node, frame, now, (run.term, run.first - 1))

    def _send_recalled(self, peer: Receiver, run: EntryRun, now: Nanoseconds) -> None:
        """Entries older than the ring: from what the WAL gave back, else asked for and the message parked."""
        found = self.log.recalled(run.first, run.last)
        if found is not None:
            self._send_packed(peer, run, *found, now)
        elif run.first in self._parked or len(self._parked) < MAX_PARKED:  # else lost, like any datagram
            self._parked.setdefault(run.first, {})[peer.node] = run
            self.recalls.add(run.first)

    def _send_packed(self, peer: Receiver, run: EntryRun, upto: Index, entries: bytes, now: Nanoseconds) -> None:
        """Sends run.first..upto, which `entries` holds."""
        prev_term = run.prev_term
        for first, last, chunk in chunks(entries, run.first, upto, self.single_bytes):
            part = run._replace(first=first, last=last, prev_term=prev_term)
            if len(chunk) + BODY_APPEND.size <= self.single_bytes:
                self._put(peer, part, chunk)
            elif not self._send_fragmented(peer, part, chunk, now):
                return
            prev_term = run.entries_term

    def forget_parked(self) -> None:
        """What messages wait for was superseded; the engine sends again what is still wanted."""
        self._parked.clear()
        self.recalls.clear()

    def awaited(self, first: Index, last: Index) -> list[Index]:
        """The indexes within first..last that messages wait for; what was read back may begin before them."""
        return sorted(index for index in self._parked if first <= index <= last)

    def unparked(self, first: Index, term: Term) -> list[EntryRun]:
        """What waited for entries from `first` on; messages of a term gone by are dropped."""
        return [run for run in self._parked.pop(first, {}).values() if run.term == term]
