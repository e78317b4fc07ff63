"""From segments on the disk to a node that may speak again, or to a named damage.

The scan takes batches in order until one is not valid. Whether that is the end, a torn write or corruption follows from
B, the highest `synced_to` of any believable batch header, those past the damage included:

    damage below B       was known durable: corruption. Nothing is cut; the node stays out of votes and acks.
    damage at or above B a write that never finished: cut there, zero what lies behind, sync, say so.
    a missing segment    with a later one behind it: corruption, whatever B is. A segment is only begun to be made when
                         the name of the one before it is durable, and they are removed from the end.

B trails what was acknowledged by the last batches before a crash; an idle node closes that gap within
limits.IDLE_SYNC. Damage to exactly those last batches of a busy node cannot be told from a torn write.

Everything read is synced before anything is reported durable or sent: the page cache may show records that never
reached the disk (Rebello et al., "Can Applications Recover from fsync Failures?", 2020). Where a sync failed before it
shows them as clean, and another sync would not write them: so the newest segments are read from the disk itself.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from quorumd import limits
from quorumd.consensus.ballotlog import BallotLog
from quorumd.consensus.engine import HardState
from quorumd.consensus.termlog import TermLog
from quorumd.errors import UNUSABLE_LOG, ConfigError, CorruptLog
from quorumd.invariants import invariant
from quorumd.log import skip_entries
from quorumd.logreplay import Replay, SlotReplay, TermReplay, head
from quorumd.slotstorage import SlotStorage
from quorumd.storage import RECORD_OVERHEAD, Position, Storage, check_intact
from quorumd.types import Index
from quorumd_fastpath import walframe
from quorumd_fastpath.apply import Store
from quorumd_fastpath.walframe import ScanResult, SegmentHeader

LOOK_AHEAD = 64  # records of a segment that are kept when another one is read
UNWRITTEN_SEGMENTS = 5  # beside those that the queue fills: one it begins in, one it ends in, one to spare, two ahead


class Recovered(NamedTuple):
    """What the log said: the vote, the terms (ballots) of its entries, and how far it is applied."""

    hard_state: HardState
    terms: TermLog | BallotLog
    applied: Index


class _Damage(NamedTuple):
    number: int
    offset: int
    entry: Index
    what: str


class _Scan:
    """State of the scan over all segments."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.hard_state = HardState(0, 0)
        self.log: Replay = SlotReplay(storage.slots) if isinstance(storage, SlotStorage) else TermReplay(storage.log)
        self.commit: Index = 0
        self.synced_to = 0
        self.end: Position | None = None
        self.prepared: list[int] = []
        self.damage: _Damage | None = None
        self.newest = 0  # number of the last file looked at
        self.missing = 0  # number of the first segment without a file, though a later one has one

    def segment(self, number: int, data: memoryview) -> None:
        """Takes the next segment in order, or notes the damage that ends the replay."""
        header = self._header(number, data)
        if header is None:
            return
        self._check_owner(number, header)
        self._check_whole(number, data)
        self._count(number)
        if self.prepared:
            self._damaged(self.prepared[0], 0, "the segment header")
        elif self.end is not None and header.prev_chain != self.end.chain:
            self._damaged(self.end.number, self.end.offset, "batches at the segment's end are missing")
        if self.damage is not None:
            self.hidden(data, header, limits.SECTOR_BYTES)
            return
        self.hard_state = HardState(header.term, header.vote)
        self.commit = max(self.commit, header.commit)
        result = walframe.scan(data, header, limits.SECTOR_BYTES, header.seed)
        self._records(number, data, result)
        self.end = Position(number, result.end_offset, header.seed, result.end_chain)
        if result.stop not in (None, "end"):
            self._damaged(number, result.stop_offset, result.stop or "", result.stop_index)
        self.hidden(data, header, result.end_offset)

    def beyond(self, number: int, data: memoryview) -> None:
        """Takes a segment behind the damage: only what it knew to be synced counts."""
        header = self._header(number, data)
        if header is None:
            return
        self._count(number)
        if header.cluster == self.storage.cluster:
            self.hidden(data, header, limits.SECTOR_BYTES)

    def _header(self, number: int, data: memoryview) -> SegmentHeader | None:
        """The header of this segment; None if there is none, which is noted. That of another one, which a misdirected
        read or write put here, is none: what lies behind it would not be believed, and cut."""
        header = walframe.decode_segment_header(data)
        if header is not None and header.number == number:
            return header
        self._headless(number, data)
        return None

    def _headless(self, number: int, data: memoryview) -> None:
        """A segment made ahead and never begun, or one that lost its header.

        Without the header no batch of it can be checked, but a batch that names this very place is one. If it says that
        something here was synced, so was the header before it; then it did not get lost in a torn write.
        """
        self._check_version(number, data)
        self._check_whole(number, data)
        self._count(number)
        claimed = walframe.claimed_synced(data, number * self.storage.segment_bytes)
        if claimed is None and not any(data[: limits.SECTOR_BYTES]):
            self.prepared.append(number)
            return
        self.synced_to = max(self.synced_to, claimed or 0)
        self._damaged(self.prepared[0] if self.prepared else number, 0, "the segment header")

    def _count(self, number: int) -> None:
        """Notes a segment that has no file: this one was made after it, so it was there."""
        if number != self.newest + 1 and not self.missing:
            self.missing = self.newest + 1
            self._damaged(self.missing, 0, "the segment is missing")
        self.newest = number

    def _check_version(self, number: int, data: memoryview) -> None:
        """A newer version's segments must not be taken for damaged ones, and cut."""
        version = walframe.segment_version(data)
        if version is not None and version > walframe.FORMAT_VERSION:
            raise ConfigError(
                f"{self.storage.disk.path(number)}: has log format {version}, this version of quorumd reads up to "
                f"{walframe.FORMAT_VERSION}; start the newer one again. Nothing was changed"
            )

    def _check_whole(self, number: int, data: memoryview) -> None:
        if len(data) < self.storage.segment_bytes:
            raise CorruptLog(
                f"{self.storage.disk.path(number)}: offset {len(data)}: the file is short, but a segment has its full "
                f"size before it has its name; nothing was changed. Remedy: {UNUSABLE_LOG}"
            )

    def hidden(self, data: memoryview, header: SegmentHeader, offset: int) -> None:
        """What batches behind the end knew: damage to an "end" is only seen by what lies past it."""
        if offset >= len(data):
            return
        synced_to, position = walframe.highest_synced(data, header, offset)
        self.synced_to = max(self.synced_to, synced_to)
        if position and self.damage is None:
            self._damaged(header.number, offset, "a batch is missing")

    def _damaged(self, number: int, offset: int, what: str, index: Index = 0) -> None:
        if self.damage is None:
            self.damage = _Damage(number, offset, index or self.log.terms.last + 1, what)

    def _check_owner(self, number: int, header: SegmentHeader) -> None:
        storage = self.storage
        path = storage.disk.path(number)
        if header.cluster != storage.cluster or header.node != storage.node:
            raise ConfigError(
                f"{path}: belongs to node {header.node} of cluster {header.cluster:016x}, not to node {storage.node} "
                f"of {storage.cluster:016x}; point data_dir at this node's own directory"
            )
        if header.segment_bytes != storage.segment_bytes:
            raise ConfigError(
                f"{path}: written with storage.segment_mib: {header.segment_bytes // limits.MIB}; "
                "set it to that value again"
            )

    def _records(self, number: int, data: memoryview, result: ScanResult) -> None:
        self.commit = max(self.commit, result.commit)
        self.synced_to = max(self.synced_to, result.synced_to)
        for kind, index, count, term, payload, length, position in result.records:
            if kind == walframe.HARD_STATE:
                self.hard_state = HardState(term, index)
                continue
            try:
                self.log.take(kind, index, count, term, position, data[payload : payload + length])
            except ConfigError as error:
                offset = position % self.storage.segment_bytes
                raise ConfigError(f"{self.storage.disk.path(number)}: offset {offset}: {error}") from None


def unwritten(storage: Storage) -> int:
    """How many of the newest segments a node may have written to that had synced none of what was queued."""
    return limits.WAL_QUEUE_BYTES // storage.least_filled + UNWRITTEN_SEGMENTS


def recover(storage: Storage, store: Store, log_event: Callable[..., None]) -> Recovered:
    """Replays the WAL into the ring, the record index and the store. Blocking; start-up only.

    Raises CorruptLog for damage below what was known durable, ConfigError for a foreign segment, DiskError on IO.
    """
    disk = storage.disk
    replay = _Scan(storage)
    storage.log.ring.reset(1)
    numbers = list(disk.segments())
    for number in numbers[-unwritten(storage) :]:
        disk.distrust(number)
    for number in numbers:
        data = disk.load(number)
        if replay.damage is None:
            replay.segment(number, data)
        else:
            replay.beyond(number, data)
    end = replay.end
    if replay.missing:
        raise CorruptLog(
            f"{disk.path(replay.missing)}: is missing, and was there: segments are made in order, and this log has "
            f"number {replay.newest}; nothing was changed. Remedy: {UNUSABLE_LOG}"
        )
    if end is None:
        raise CorruptLog(f"{disk.path(numbers[0] if numbers else 1)}: the log is missing; {UNUSABLE_LOG}")
    if replay.damage is not None:
        _cut_or_refuse(replay, end, numbers, storage, log_event)
        replay.prepared = []
    disk.sync_all()
    # Every entry at or below a logged commit index was durable on a quorum; B cannot lie above what we just synced.
    commit = min(replay.commit, replay.log.prefix)
    for first, count, entries in _live(storage, replay.log.reads_to(commit)):
        if first <= commit:
            known = min(count, commit - first + 1)
            store.apply_bytes(entries if known == count else head(entries, known), first, known)
        replay.log.restore(first, count, entries, commit)
    disk.loaded()
    storage.resume(end, replay.hard_state, replay.prepared)
    log_event(
        "recovered",
        term=replay.hard_state.term,
        last=replay.log.terms.last,
        applied=commit,
        segment=end.number,
        offset=end.offset,
    )
    return Recovered(replay.hard_state, replay.log.terms, commit)


def _cut_or_refuse(
    replay: _Scan, end: Position, numbers: list[int], storage: Storage, log_event: Callable[..., None]
) -> None:
    damage, disk = replay.damage, storage.disk
    invariant(damage is not None, "only called for a damage")
    if damage is None:
        return
    where = f"{disk.path(damage.number)}: offset {damage.offset}, entry {damage.entry}: {damage.what}"
    if damage.number * storage.segment_bytes + damage.offset < replay.synced_to:
        raise CorruptLog(
            f"{where}; it lies below position {replay.synced_to}, which was known durable, so this is corruption and "
            f"not a torn write; nothing was changed. Remedy: {UNUSABLE_LOG}"
        )
    disk.wipe(end.number, end.offset)
    # From the end: should power be lost meanwhile, what is left must not have a hole that the log would grow across.
    for number in reversed(numbers):
        if number > end.number:
            disk.remove(number)
    log_event("torn_tail_cut", file=disk.path(end.number), offset=end.offset, entry=damage.entry, damage=damage.what)


def _live(storage: Storage, last: Index) -> Iterator[tuple[Index, int, memoryview | bytes]]:
    """(first, count, packed entries) of everything up to `last`, in the log's order, re-read from the segments.

    Raises DiskError for what is not as it was written.

    That order goes back and forth between two segments where slots were accepted out of order: what is wanted soon of
    the segment that is left is kept, so that it need not be read again for each such record.
    """
    records, disk = storage.log.records, storage.disk
    loaded = 0
    data = memoryview(b"")
    kept: dict[int, memoryview] = {}
    for place in range(len(records)):
        record = records.at(place)
        if record.first > last:
            return
        number, offset = divmod(record.position, storage.segment_bytes)
        stored = kept.pop(place, None)
        if stored is None:
            if number != loaded:
                _keep(storage, data, loaded, place, kept)
                data, loaded = disk.load(number), number
            stored = data[offset - RECORD_OVERHEAD : offset + record.length]
        check_intact(storage, record, stored)  # the disk may say something else than it said to the scan
        entries: memoryview | bytes = stored[RECORD_OVERHEAD:]
        if record.skip:
            entries = entries[skip_entries(entries, record.skip) :]
        count = min(record.entries, last - record.first + 1)
        if count < records.written(place):  # its tail was superseded, or is not wanted
            entries = head(entries, count)
        yield record.first, count, entries


def _keep(storage: Storage, data: memoryview, loaded: int, place: int, kept: dict[int, memoryview]) -> None:
    """Copies what the records soon after `place` have in the loaded segment."""
    records, size = storage.log.records, sum(map(len, kept.values()))
    for ahead in range(place + 1, min(place + LOOK_AHEAD, len(records))):
        record = records.at(ahead)
        number, offset = divmod(record.position, storage.segment_bytes)
        if number == loaded and ahead not in kept and size + record.length <= limits.READ_BACK_BYTES:
            kept[ahead] = memoryview(bytes(data[offset - RECORD_OVERHEAD : offset + record.length]))
            size += record.length
