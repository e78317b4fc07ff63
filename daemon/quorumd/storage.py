"""WAL policy: where the next batch goes, when a segment ends, what is durable, what is left for a full disk.

The WAL only moves forward: a truncation or a rewritten range is a new record that supersedes the old on replay, so no
acknowledged byte is ever overwritten in place. Framing is fastpath's walframe; bytes leave through the Disk port.
Recovery is in recovery.py, which ends by handing a Position to `Storage.resume`.
"""

import errno
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from quorumd import limits
from quorumd.consensus.engine import Append, HardState
from quorumd.errors import NO_ROOM, UNUSABLE_LOG, DiskError, NoRoom
from quorumd.invariants import invariant
from quorumd.log import Log, RecordAt, skip_entries
from quorumd.ports import Disk
from quorumd.types import Index, Nanoseconds
from quorumd_fastpath import walframe
from quorumd_fastpath.crc import crc32c
from quorumd_fastpath.walframe import Batch

BATCH_OVERHEAD = 64 + limits.SECTOR_BYTES
RECORD_HEADER = struct.Struct("<4xIIB3xQ8xQ")  # payload CRC, payload length, kind, index, term; see wal_layout.h
RECORD_OVERHEAD = walframe.RECORD_HEADER_BYTES
# Kept free in every segment for a few dozen hard states and empty entries, which nobody asks room for.
SEGMENT_MARGIN = 16 * limits.KIB


class Position(NamedTuple):
    """Where the WAL goes on after recovery."""

    number: int
    offset: int
    seed: int
    chain: int


class Storage:
    """The running WAL of one node."""

    KIND = walframe.APPEND  # of the records that carry entries; slotstorage.py has the other kind

    def __init__(
        self,
        disk: Disk,
        log: Log,
        *,
        cluster: int,
        node: int,
        segment_bytes: int,
        random_u64: Callable[[], int],
    ) -> None:
        invariant(segment_bytes >= limits.MIN_SEGMENT_BYTES, "a segment must hold two of the largest entries")
        self.disk = disk
        self.log = log
        self.segment_bytes = segment_bytes
        # What a segment holds at least before the next is begun: an entry that did not fit may leave its size unused.
        self.least_filled = (
            segment_bytes - limits.SECTOR_BYTES - BATCH_OVERHEAD - SEGMENT_MARGIN - limits.MAX_ENTRY_BYTES
        )
        self.max_batch_bytes = segment_bytes // 4 + limits.MAX_ENTRY_BYTES
        self.synced_to = 0  # WAL position: everything below it is on the disk
        self.hard_state = HardState(0, 0)
        self.cluster = cluster
        self.node = node
        self._random_u64 = random_u64
        self._number = 0
        self._offset = 0
        self._seed = 0
        self._chain = 0
        self._ahead: list[int] = []  # prepared segments, ascending, all after _number
        self._wanted_ahead = 1 if segment_bytes >= 2 * limits.MIN_SEGMENT_BYTES else 2  # the largest entry finds room
        self._preparing = False
        self._prepare_errno = 0
        self._prepare_again: Nanoseconds = 0
        # (ticket, seq, WAL position behind the batch). The disk counts tickets: several batches may carry one seq, and
        # an idle one carries a seq that is durable already, so a seq could not say which of them are on the disk.
        self._in_flight: deque[tuple[int, int, int]] = deque()
        self._tickets = 0
        self._submitted = 0  # seq of the newest batch
        self._durable = 0  # highest seq that is durable
        self._covered = True  # the newest data batch lies below some batch's synced_to
        self._idle_since: Nanoseconds = 0
        self._claimed = 0
        self.written: Index = 0  # entries up to here can be read back; the newest may still be with the disk
        self._unwritten: deque[tuple[int, Index]] = deque()  # (seq, last index it writes)
        self._recorded: Callable[[RecordAt], None] = log.records.add
        self.reads: dict[int, list[RecordAt]] = {}  # asked back from the disk, by tag
        self._next_tag = 1

    # -- segments -----------------------------------------------------------------------------------------------

    def start_fresh(self, first_index: Index) -> None:
        """The very first segment of an empty directory (blocking; start-up only)."""
        self.disk.create(1, self.segment_bytes)
        self._begin_segment(1, first_index, 0)
        self.disk.sync_all()  # before the directory is stamped: a stamp without a log would look like a lost one

    def resume(self, position: Position, hard_state: HardState, prepared: Sequence[int]) -> None:
        """Goes on where recovery ended; everything before is already synced. Blocking; start-up only.

        A log that ends without room for a hard state is given its next segment first, or raises NoRoom: made in the
        background it might never be, as the first vote asked for would stop the node before.
        """
        self._number, self._offset, self._seed, self._chain = position
        self.hard_state = hard_state
        self._ahead = list(prepared)
        self.written = self.log.ring.last
        self.synced_to = self._number * self.segment_bytes + self._offset
        self._covered = False  # an idle batch is to say that all of it was just synced
        if not self._ahead and not self._fits(RECORD_OVERHEAD):
            self.disk.create(self._number + 1, self.segment_bytes)
            self._ahead.append(self._number + 1)

    def _begin_segment(self, number: int, first_index: Index, commit: Index) -> None:
        header = walframe.encode_segment_header(
            number=number,
            segment_bytes=self.segment_bytes,
            nonce=self._random_u64(),
            cluster=self.cluster,
            node=self.node,
            term=self.hard_state.term,
            vote=self.hard_state.vote,
            first_index=first_index,
            commit=commit,
            prev_chain=self._chain,
        )
        self.disk.begin_segment(number, header)
        decoded = walframe.decode_segment_header(header)
        invariant(decoded is not None, "a header we wrote must decode")
        self._number = number
        self._offset = limits.SECTOR_BYTES
        self._seed = self._chain = decoded.seed if decoded else 0

    def _fits(self, size_bytes: int) -> bool:
        """Whether the current segment takes another batch of `size_bytes`, the margin included."""
        return self._offset + size_bytes + BATCH_OVERHEAD <= self.segment_bytes

    def _room_here(self) -> int:
        return self.segment_bytes - self._offset - BATCH_OVERHEAD - SEGMENT_MARGIN

    def room(self, size_bytes: int, *, growing: bool) -> bool:
        """Whether entries of `size_bytes` can be logged now, besides what was claimed since the last `settled`.

        Growing entries leave a quarter of a segment untouched: on a full disk it still takes hard states, no-ops,
        expiries, deletes and compactions. At a segment's end less than one entry is left over.
        """
        need = size_bytes + self._claimed + (self.segment_bytes // 4 if growing else 0)
        if len(self._in_flight) >= limits.WAL_QUEUE_BATCHES:
            return False
        if self.disk.queued_bytes() + size_bytes + self._claimed > limits.WAL_QUEUE_BYTES:
            return False
        if need <= self._room_here():
            return True
        return need <= max(self._room_here() - limits.MAX_ENTRY_BYTES, 0) + len(self._ahead) * self.least_filled

    def claim(self, size_bytes: int) -> None:
        """What was found room for and is not written yet, so that a second question in the same turn counts it."""
        self._claimed += size_bytes

    def settled(self) -> None:
        """Everything claimed was written, or will not be."""
        self._claimed = 0

    @property
    def disk_full(self) -> bool:
        """Whether growing entries are refused because the file system has no room."""
        if not self._prepare_errno or self._ahead:
            return False
        return self._room_here() - limits.MAX_ENTRY_BYTES < self.segment_bytes // 4

    def maintain(self, now: Nanoseconds) -> None:
        """Keeps segments prepared ahead; tries again later when there is no room. Raises DiskError for other errors."""
        for number, error in self.disk.prepared():
            self._preparing = False
            self._prepare_errno = error
            if error not in (0, *NO_ROOM):
                raise DiskError(f"{self.disk.path(number)}: cannot be made: {errno.errorcode.get(error, error)}")
            if error:
                self._prepare_again = now + limits.PREPARE_RETRY
            else:
                self._ahead.append(number)
        if len(self._ahead) < self._wanted_ahead and not self._preparing and now >= self._prepare_again:
            self._preparing = True
            self.disk.prepare((self._ahead[-1] if self._ahead else self._number) + 1, self.segment_bytes)

    # -- writing ------------------------------------------------------------------------------------------------

    def write(self, seq: int, hard_state: HardState | None, appends: Sequence[Append], commit: Index) -> None:
        """Queues one Ready's hard state and appends; `poll` reports `seq` once all of it is on the disk.

        The bytes of the appends must be in the ring already. Several batches may be needed; only the last one carries
        `seq`, the others the seq before it, so that `seq` never becomes durable in part.
        """
        batch: Batch | None = None
        if hard_state is not None:
            self.hard_state = hard_state
            batch = self._open(RECORD_OVERHEAD, seq, commit)
            invariant(batch.hard_state(hard_state.term, hard_state.vote), "an empty batch has room for a hard state")
        for item in self.surviving(appends):
            batch = self._write_run(batch, item, seq, commit)
            self._to_write(seq, item)
        if batch is not None:
            self._submit(batch, seq)
            self._covered = False

    def _to_write(self, seq: int, item: Append) -> None:
        """What the item supersedes can no longer be read back, nor what replaces it yet."""
        kept = item.first - 1
        if self._unwritten and self._unwritten[-1][1] > kept:
            self._unwritten = deque((of, min(last, kept)) for of, last in self._unwritten)
        self.written = min(self.written, kept)
        self._unwritten.append((seq, item.last))

    def surviving(self, appends: Sequence[Append]) -> Sequence[Append]:
        """The items of one Ready without what a later one of them superseded: the ring holds only the survivors."""
        if len(appends) < 2:
            return appends
        kept: list[Append] = []
        bound = appends[-1].last
        for item in reversed(appends):
            last = min(item.last, bound)
            if item.first <= last:
                kept.append(item._replace(last=last))
            bound = min(bound, item.first - 1)
        return kept[::-1]

    def _write_run(self, batch: Batch | None, item: Append, seq: int, commit: Index) -> Batch:
        """Adds one append item, in as many batches as segment ends and the batch limit make of it."""
        ring = self.log.ring
        first = item.first
        while True:
            if batch is None:
                batch = self._open(ring.size_bytes(first, first) + RECORD_OVERHEAD, seq, commit)
            budget = self._budget(batch)
            upto, size = ring.fit(first, item.last, max(budget, 1))
            if size > budget:
                self._submit(batch, seq - 1)
                batch = None
                continue
            invariant(batch.append(ring, first, upto, item.term, self.KIND), "the batch was sized for this run")
            self._recorded(RecordAt(first, upto - first + 1, item.term, self._position(batch) - size, size))
            first = upto + 1
            if first > item.last:
                return batch

    def _budget(self, batch: Batch) -> int:
        """Payload bytes that one more record of the batch may carry; below 0 for none."""
        used = len(batch) + RECORD_OVERHEAD
        return min(self.max_batch_bytes, self.segment_bytes - self._offset - BATCH_OVERHEAD) - used

    def _position(self, batch: Batch) -> int:
        """WAL position behind what the open batch holds so far."""
        return self._number * self.segment_bytes + self._offset + len(batch)

    def _open(self, size_bytes: int, seq: int, commit: Index) -> Batch:
        """An empty batch at the next place that has room for it.

        Raises NoRoom if there is none: on a full disk term and vote may change more often than the margin has room for.
        """
        if not self._fits(size_bytes):
            if not self._ahead:
                why = errno.errorcode.get(self._prepare_errno, "is not made yet")
                raise NoRoom(
                    f"{self.disk.path(self._number)} is full, and there is no room for the next segment ({why}), so "
                    "that neither a vote nor an entry can be made durable; make room in that file system"
                )
            self._begin_segment(self._ahead.pop(0), self.log.ring.last + 1, commit)
        batch = self.disk.recycle() or Batch(2 * self.max_batch_bytes)
        batch.begin(
            self._number, self.segment_bytes, self._offset, self._seed, self._chain, self.synced_to, commit, seq
        )
        return batch

    def _submit(self, batch: Batch, seq: int) -> None:
        padded = batch.finish()
        self._chain = batch.chain
        self._tickets += 1
        self.disk.append(self._number, self._offset, batch, self._tickets)
        self._offset += padded
        self._submitted = seq
        self._in_flight.append((self._tickets, seq, self._number * self.segment_bytes + self._offset))

    def poll(self, now: Nanoseconds) -> int:
        """The highest seq that is durable. Raises DiskError when a write or sync failed: stop, never retry."""
        done = self.disk.durable()
        while self._in_flight and self._in_flight[0][0] <= done:
            _, self._durable, self.synced_to = self._in_flight.popleft()
            self._idle_since = now
        while self._unwritten and self._unwritten[0][0] <= self._durable:
            self.written = self._unwritten.popleft()[1]
        return self._durable

    @property
    def busy(self) -> bool:
        """Whether anything handed to the disk is not yet durable."""
        return bool(self._in_flight)

    def idle(self, now: Nanoseconds, commit: Index) -> None:
        """An idle node syncs one empty batch, so that what it acknowledged lies below a synced_to on the disk.

        Not in the margin, if that is all that is left: hard states need it more.
        """
        if self._covered or self._in_flight or now - self._idle_since < limits.IDLE_SYNC:
            return
        if self._room_here() < 0 and not self._ahead:
            self._idle_since = now  # no room until a segment is made: look again later
            return
        self._submit(self._open(0, self._submitted, commit), self._submitted)
        self._covered = True

    def deadline(self, now: Nanoseconds) -> Nanoseconds | None:
        """When `idle` or `maintain` has something to do, or None."""
        due = None if self._covered or self._in_flight else self._idle_since + limits.IDLE_SYNC
        if self._prepare_errno and not self._ahead and not self._preparing:
            due = min(due or self._prepare_again, self._prepare_again)
        return due

    # -- reading back -------------------------------------------------------------------------------------------

    def yield_ring(self) -> None:
        """Unpins what is on the disk already, applied or not: it can be read back, and the log must go on.

        Else a ring full of entries that wait for a commit could take neither the leader's no-op, which is to commit
        them, nor what a new leader puts in their place.
        """
        self.log.ring.pin = self.log.yieldable(self.written) + 1

    def recall(self, first: Index) -> bool:
        """Asks the disk for the entries from `first` on, several records at a time; False: try again later."""
        for under_way in self.reads.values():
            if under_way and under_way[0].first <= first < under_way[-1].first + under_way[-1].entries:
                return True
        records = self.log.records
        place = records.place_of(first)
        if place < 0 or first > self.written:
            return False
        wanted = [records.at(place)]
        start = wanted[0].position
        number = start // self.segment_bytes
        while place + 1 < len(records):
            place += 1
            record = records.at(place)
            if record.position // self.segment_bytes != number or record.first + record.entries - 1 > self.written:
                break
            if record.position < wanted[-1].position:  # slots were accepted in another order
                break
            if record.position + record.length - start > limits.READ_BACK_BYTES:
                break
            if len(wanted) == limits.READ_BACK_RECORDS:
                break
            wanted.append(record)
        start -= RECORD_OVERHEAD  # the first one's header holds the checksum of its payload
        length = wanted[-1].position + wanted[-1].length - start
        tag = self._next_tag
        if not self.disk.read(number, start % self.segment_bytes, length, tag):
            return False
        self._next_tag += 1
        self.reads[tag] = wanted
        return True

    def recalled(self) -> Sequence[tuple[RecordAt, bytes]]:
        """Records that came back from the disk, each with its packed entries, the first live one first.

        Raises DiskError for one that is not as it was written: it may have been synced long ago, and a follower or the
        store would take whatever the disk made of it since.
        """
        out: list[tuple[RecordAt, bytes]] = []
        for tag, data in self.disk.reads():
            wanted = self.reads.pop(tag)
            if not wanted:
                continue
            start, view = wanted[0].position - RECORD_OVERHEAD, memoryview(data)
            for record in wanted:
                at = record.position - start
                check_intact(self, record, view[at - RECORD_OVERHEAD : at + record.length])
                entries = data[at : at + record.length]
                out.append((record, entries[skip_entries(entries, record.skip) :] if record.skip else entries))
        return out

    def forget_reads(self) -> None:
        """What is under way was asked for before a truncation: ignore it when it comes."""
        for tag in self.reads:
            self.reads[tag] = self.reads[tag][:0]


def check_intact(storage: Storage, record: RecordAt, stored: memoryview) -> None:
    """Raises DiskError if what was read back, header and entries, is not what was written: the header must name the
    record, and the entries have its checksum."""
    if len(stored) == RECORD_OVERHEAD + record.length:
        payload_crc, length, kind, index, term = RECORD_HEADER.unpack_from(stored)
        named = (kind, index, term, length) == (storage.KIND, record.first - record.skip, record.term, record.length)
        if named and payload_crc == crc32c(stored[RECORD_OVERHEAD:]):
            return
    number, offset = divmod(record.position, storage.segment_bytes)
    raise DiskError(
        f"{storage.disk.path(number)}: offset {offset}: entry {record.first} and those behind it are not as they were "
        f"written; {UNUSABLE_LOG}"
    )
