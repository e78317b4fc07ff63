"""The WAL of Multi-Paxos: the policy of storage.py, over a log whose slots are accepted in any order.

An ACCEPT record supersedes exactly its slots. A slot accepted again with the bytes it has costs a REACCEPT record,
which names slots and ballot and carries no bytes: a new leader's second phase over all open slots finds room on a full
disk too. Replay reads records in the order they were written, so the bytes it refers to are there, or the re-acceptance
is cut off with them.
"""

from collections import deque
from collections.abc import Callable, Sequence

from quorumd.consensus.engine import KEPT, Append, HardState
from quorumd.invariants import InvariantBroken, invariant
from quorumd.log import RecordAt, entry_length
from quorumd.ports import Disk
from quorumd.slotlog import SlotLog
from quorumd.storage import RECORD_OVERHEAD, Position, Storage
from quorumd.types import Index, Nanoseconds
from quorumd_fastpath import walframe
from quorumd_fastpath.walframe import Batch


class SlotStorage(Storage):
    """The running WAL of one node whose log may have holes."""

    KIND = walframe.ACCEPT

    def __init__(
        self,
        disk: Disk,
        log: SlotLog,
        *,
        cluster: int,
        node: int,
        segment_bytes: int,
        random_u64: Callable[[], int],
    ) -> None:
        super().__init__(
            disk, log, cluster=cluster, node=node, segment_bytes=segment_bytes, random_u64=random_u64
        )
        self.slots = log
        self._recorded = log.records.overlay
        # (seq, slot) of what is with the disk, both ascending: from that slot on something is not durable before `seq`.
        self._rewriting: deque[tuple[int, Index]] = deque()

    def resume(self, position: Position, hard_state: HardState, prepared: Sequence[int]) -> None:
        """See Storage.resume. What can be read back ends at the first hole."""
        super().resume(position, hard_state, prepared)
        self.written = self.slots.prefix

    def surviving(self, appends: Sequence[Append]) -> Sequence[Append]:
        """The items of one Ready, each without the slots that a later one took over.

        Bytes that this very Ready brings are on no disk yet: kept by a later item, they are written in its ballot.
        """
        if len(appends) < 2:
            return appends
        kept: list[Append] = []
        for item in appends:
            below: list[Append] = []
            pieces = [item]
            for old in kept:
                below += outside(old, item.first, item.last)
                first, last = max(old.first, item.first), min(old.last, item.last)
                if item.source is KEPT and old.source is not KEPT and first <= last:
                    below.append(old._replace(first=first, last=last, term=item.term))
                    pieces = [part for piece in pieces for part in outside(piece, first, last)]
            kept = below + pieces
        return sorted(kept, key=lambda item: item.first)

    def _to_write(self, seq: int, item: Append) -> None:
        """What lies in these slots on the disk is superseded, and what replaces it cannot be read back yet."""
        if item.source is KEPT:
            return
        while self._rewriting and self._rewriting[-1][1] >= item.first:
            self._rewriting.pop()
        self._rewriting.append((seq, item.first))
        self.written = min(self.written, item.first - 1)

    def poll(self, now: Nanoseconds) -> int:
        """See Storage.poll."""
        durable = super().poll(now)
        rewriting = self._rewriting
        if rewriting and rewriting[0][0] <= durable:
            while rewriting and rewriting[0][0] <= durable:
                rewriting.popleft()
            self.written = min(self.slots.prefix, rewriting[0][1] - 1) if rewriting else self.slots.prefix
        return durable

    def _write_run(self, batch: Batch | None, item: Append, seq: int, commit: Index) -> Batch:
        """Adds one item, whose bytes are partly in the ring, partly islands, or on the disk already."""
        if item.source is KEPT:
            return self._write_kept(batch, item, seq, commit)
        ring_last = self.slots.ring.last
        if item.last <= ring_last:
            return super()._write_run(batch, item, seq, commit)
        if item.first <= ring_last:
            batch = super()._write_run(batch, item._replace(last=ring_last), seq, commit)
        return self._write_island(batch, item._replace(first=max(item.first, ring_last + 1)), seq, commit)

    def _write_kept(self, batch: Batch | None, item: Append, seq: int, commit: Index) -> Batch:
        if batch is not None and self._budget(batch) < 0:
            self._submit(batch, seq - 1)
            batch = None
        if batch is None:
            batch = self._open(RECORD_OVERHEAD, seq, commit)
        taken = batch.reaccept(item.first, item.last - item.first + 1, item.term)
        invariant(taken, "an empty batch has room for a record without bytes")
        return batch

    def _write_island(self, batch: Batch | None, item: Append, seq: int, commit: Index) -> Batch:
        data = self.slots.island(item.first, item.last)
        if data is None:
            raise InvariantBroken(f"slots {item.first}..{item.last} are written, and their bytes are not here")
        first, at = item.first, 0
        while True:
            if batch is None:
                batch = self._open(entry_length(data, at) + RECORD_OVERHEAD, seq, commit)
            budget = self._budget(batch)
            upto, size = item.last, len(data) - at
            if size > budget:
                upto, size = first - 1, 0
                while size + (length := entry_length(data, at + size)) <= budget:
                    upto, size = upto + 1, size + length
            if upto < first:
                self._submit(batch, seq - 1)
                batch = None
                continue
            taken = batch.append_data(data[at : at + size], first, upto - first + 1, item.term, self.KIND)
            invariant(taken, "the batch was sized for these slots")
            self._recorded(RecordAt(first, upto - first + 1, item.term, self._position(batch) - size, size))
            first, at = upto + 1, at + size
            if first > item.last:
                return batch


def outside(item: Append, first: Index, last: Index) -> list[Append]:
    """The parts of an item before and behind first..last. What was skipped of its source no longer matters."""
    parts = []
    if item.first < first:
        parts.append(item._replace(last=min(item.last, first - 1)))
    if item.last > last:
        parts.append(item._replace(first=max(item.first, last + 1)))
    return parts
