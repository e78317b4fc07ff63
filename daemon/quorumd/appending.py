"""From an append item of a Ready to bytes in the log: where an engine's sources are, and how they are copied.

Raft's log grows at its end, Multi-Paxos's in any order. The bytes of a source are copied here and nowhere else, so what
an engine rejects never touches the log.
"""

from quorumd import limits
from quorumd.applier import Applier
from quorumd.clientplane import ClientPlane
from quorumd.commands import Kind, encode_record
from quorumd.consensus.engine import KEPT, NOOP, Append
from quorumd.invariants import InvariantBroken, invariant
from quorumd.log import Log
from quorumd.slotlog import SlotLog
from quorumd.sources import BytesSource, SlabSource
from quorumd.storage import Storage
from quorumd.types import Index
from quorumd_fastpath.ring import Ring

EXPIRIES = (int(Kind.EXPIRE_SESSION), int(Kind.EXPIRE_LEASE))
NOOP_RECORD = encode_record(Kind.NOOP, bytes(16), 0, 0)


class Appender:
    """Raft's way: an item supersedes whatever was at its first entry and after."""

    def __init__(self, log: Log, storage: Storage, applier: Applier, clients: ClientPlane) -> None:
        self.log = log
        self.storage = storage
        self.applier = applier
        self.clients = clients
        self.internal: list[tuple[int, bytes, int]] = []  # (kind, session, seq) proposed by this node itself
        self.leads_from: Index = 0  # the no-op of this node's newest leadership
        self.accepted = 0  # entries that entered this log, each as often as it was proposed: by term or ballot
        self.proposed = 0  # those of them that this node proposed

    def append(self, item: Append) -> None:
        """Copies an accepted run into the ring; what it supersedes goes."""
        self._count(item)
        ring = self.log.ring
        if item.first <= ring.last:
            ring.truncate(item.first - 1)
            self.applier.superseded(item.first)
        if item.source is None:
            taken = self._append_own(ring, item.first, item.last - item.first + 1)
        else:
            taken = self._copy(item)
            if not taken:  # a no-op, or what the engine held back for its turn
                self.storage.yield_ring()
                taken = self._copy(item)
        invariant(taken, "room was checked before the engine was asked")

    def _count(self, item: Append) -> None:
        count = item.last - item.first + 1
        self.accepted += count
        # Only a leader's items have no message behind them: proposals, no-ops, slots it proposes again (KEPT).
        if item.source is None or item.source is NOOP or item.source is KEPT:
            self.proposed += count

    def _copy(self, item: Append) -> bool:
        """Entries of a peer, or a no-op, into the ring; False if it is full of what must stay."""
        ring, source = self.log.ring, item.source
        count = item.last - item.first + 1
        if source is NOOP:
            self.leads_from = item.first
            return ring.append_noop(item.first)
        if type(source) is SlabSource:
            slab, slot, offset, length = source
            return ring.append_slab(slab, slot, offset, length, item.first, count, item.skip)
        if type(source) is BytesSource:
            return ring.append(source.data[source.offset :], item.first, count, item.skip)
        raise InvariantBroken(f"unknown source of entries: {source!r}")

    def _append_own(self, ring: Ring, first: Index, count: int) -> bool:
        """Entries this leader proposed: its own expiries, or what clients staged."""
        if self.internal:
            records, self.internal = self.internal, []
            invariant(len(records) == count, "an internal proposal is one append item")
            return all(
                ring.append_record(first + i, kind, session, seq, self.leads_from if kind in EXPIRIES else 0)
                for i, (kind, session, seq) in enumerate(records)
            )
        stage = self.clients.stage
        invariant(stage.writes == count, "a client proposal is one append item")
        return ring.append_staged(stage, first, self.clients.pending)


class SlotAppender(Appender):
    """Multi-Paxos's way: an item takes exactly its slots, which may lie behind a hole, or be accepted once more."""

    def __init__(self, log: SlotLog, storage: Storage, applier: Applier, clients: ClientPlane) -> None:
        super().__init__(log, storage, applier, clients)
        self.slots = log

    def append(self, item: Append) -> None:
        """Copies the values of an accepted run into ring or islands."""
        self._count(item)
        log, source, first = self.slots, item.source, item.first
        if source is KEPT or source is NOOP:
            self.leads_from = max(self.leads_from, item.last)  # a new leader settles what its predecessors left open
        elif log.appends_at(first) and source is not None and self._copy(item):
            return
        elif log.appends_at(first) and source is None and log.ring.room(*self._own_size()):
            invariant(self._append_own(log.ring, first, item.last - first + 1), "the ring said that it has room")
            return
        changed = log.place(first, item.last - first + 1, KEPT if source is KEPT else self._packed(item), item.skip)
        if log.waits_for_room:
            self.storage.yield_ring()
            log.absorb()
        if changed:
            self.applier.superseded(changed, item.last)

    def _own_size(self) -> tuple[int, int]:
        """(bytes, entries) of what this leader proposes."""
        stage = self.clients.stage
        count = len(self.internal)
        return (count * limits.ENTRY_HEADER_BYTES, count) if count else (stage.write_bytes, stage.writes)

    def _packed(self, item: Append) -> bytes:
        """The entries of a source, in bytes of their own."""
        source, count = item.source, item.last - item.first + 1
        if source is NOOP:
            return NOOP_RECORD * count
        if isinstance(source, SlabSource | BytesSource):
            owned = source.retain()
            return owned.data[owned.offset :]
        if source is not None:
            raise InvariantBroken(f"unknown source of entries: {source!r}")
        size, _ = self._own_size()
        beside = Ring(size, count)
        beside.reset(item.first)
        invariant(self._append_own(beside, item.first, count), "it was made for them")
        return beside.copy(item.first, item.last)
