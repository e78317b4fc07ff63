"""The bytes of the log: the newest entries in the ring, older ones in the WAL, found by a sparse index of its records.

The engine keeps terms; this keeps where bytes are. Both follow the same appends, in the same order, because the engine
hands out what it changed in each Ready and core.py applies it here at once.
"""

from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

from quorumd import limits
from quorumd.invariants import invariant
from quorumd.types import Index, Term
from quorumd_fastpath.ring import Ring


class RecordAt(NamedTuple):
    """What is live of one record of the WAL: `entries` entries from `first` on.

    Its payload lies packed at `position` (a WAL position), `length` bytes, and begins with `skip` entries that are not
    part of it any more: a later record took their places.
    """

    first: Index
    entries: int
    term: Term
    position: int
    length: int
    skip: int = 0


class RecordIndex:
    """Where each live run of entries lies in the WAL. Six machine words a record, not a Python object.

    Invariant: `first` ascends strictly; entry i lives in the last record whose first <= i, if that reaches it. A log
    with holes has entries that no record reaches.
    """

    __slots__ = ("_columns", "_counts", "_firsts", "_lengths", "_positions", "_skips", "_terms")

    def __init__(self) -> None:
        self._firsts = array("Q")
        self._counts = array("Q")  # from `first` on, as many as the record has on disk
        self._terms = array("Q")
        self._positions = array("Q")
        self._lengths = array("Q")
        self._skips = array("Q")
        self._columns = (self._firsts, self._counts, self._terms, self._positions, self._lengths, self._skips)

    def __len__(self) -> int:
        return len(self._firsts)

    def add(self, record: RecordAt) -> None:
        """A newly written record supersedes everything at and after its first index."""
        if self._firsts and self._firsts[-1] >= record.first:
            self.truncate(record.first - 1)
        self._append(record)

    def _append(self, record: RecordAt) -> None:
        first, entries, term, position, length, skip = record
        self._firsts.append(first)
        self._counts.append(entries)
        self._terms.append(term)
        self._positions.append(position)
        self._lengths.append(length)
        self._skips.append(skip)

    def overlay(self, record: RecordAt) -> None:
        """A newly written record supersedes exactly its own range: of an older one around it both ends stay."""
        firsts = self._firsts
        if not firsts or firsts[-1] + self._counts[-1] <= record.first:
            self._append(record)
            return
        after = record.first + record.entries
        low, high = bisect_left(firsts, record.first), bisect_left(firsts, after)
        new = [record]
        if high:
            old = self.at(high - 1)  # its head, if it has one before the new record, stays by the rule of `first`
            cut = after - old.first
            if old.entries > cut:
                written = self._counts[high - 1] - cut
                new.append(old._replace(first=after, entries=written, skip=old.skip + cut))
        for column, values in zip(self._columns, zip(*new, strict=True), strict=True):
            column[low:high] = array("Q", values)

    def truncate(self, last: Index) -> None:
        """Forgets entries after `last`. A record that straddles it stays: its tail is simply never asked for."""
        keep = bisect_right(self._firsts, last)
        for column in self._columns:
            del column[keep:]

    def at(self, place: int) -> RecordAt:
        """The record number `place`, its count limited to what the next one did not supersede."""
        first, count = self._firsts[place], self._counts[place]
        if place + 1 < len(self._firsts):
            count = min(count, self._firsts[place + 1] - first)
        return RecordAt(
            first, count, self._terms[place], self._positions[place], self._lengths[place], self._skips[place]
        )

    def written(self, place: int) -> int:
        """Entries that the record number `place` has on disk from its first live one on, superseded ones included."""
        return self._counts[place]

    def place_of(self, index: Index) -> int:
        """Number of the record that holds entry `index`, or -1. With holes: of the last one that begins before it."""
        return bisect_right(self._firsts, index) - 1


class Log:
    """Ring, record index and what was read back. Implements the engine's LogSizes."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.records = RecordIndex()
        self.committed: Index = 0  # entries up to here are committed, and in this log as they were
        self.staged_entry_bytes = limits.ENTRY_HEADER_BYTES  # average of what waits in the staging area
        self._recalled: dict[Index, tuple[Index, bytes]] = {}
        self._recalled_bytes = 0

    def fit(self, first: Index, last: Index, max_bytes: int) -> tuple[Index, int]:
        """See LogSizes.fit. Entries beyond the ring are those proposed this turn: their average size is known."""
        ring_last, ring_first = self.ring.last, self.ring.first
        if first < ring_first:
            return self._fit_older(first, min(last, ring_first - 1), max_bytes)
        if last <= ring_last:
            return self.ring.fit(first, last, max_bytes)
        upto, size = first - 1, 0
        if first <= ring_last:
            upto, size = self.ring.fit(first, ring_last, max_bytes)
            if upto < ring_last:
                return upto, size
        each = self.staged_entry_bytes
        more = min(max((max_bytes - size) // each, 0 if size else 1), last - upto)
        return upto + more, size + more * each

    def _fit_older(self, first: Index, last: Index, max_bytes: int) -> tuple[Index, int]:
        """Entries that are only on disk go one record at a time; a record never exceeds half a segment."""
        place = self.records.place_of(first)
        invariant(place >= 0, f"entry {first} is neither in the ring nor in the WAL")
        record = self.records.at(place)
        each = max(record.length // max(record.entries, 1), 1)
        upto = min(last, record.first + record.entries - 1, first + max(max_bytes // each, 1) - 1)
        return upto, (upto - first + 1) * each

    def held(self, first: Index, last: Index) -> bytes | None:
        """Entries first..last, packed, if all of them are in memory; else None."""
        return self.ring.copy(first, last) if self.ring.first <= first and last <= self.ring.last else None

    def absorb(self) -> None:
        """What waits outside the ring moves into it as far as it can: nothing, unless the log may have holes."""

    def yieldable(self, written: Index) -> Index:
        """The last entry that may leave the ring although it is not applied; `written`: what can be read back."""
        return written

    # -- reading back -------------------------------------------------------------------------------------------

    def recalled(self, first: Index, last: Index) -> tuple[Index, bytes] | None:
        """(upto, entries) read back from the WAL that begin at `first` and reach at most `last`, or None."""
        found = self._recalled.get(first)
        if found is None:
            return None
        have, data = found
        return (have, data) if have <= last else (last, take_entries(data, last - first + 1))

    def keep_recalled(self, first: Index, last: Index, data: bytes) -> None:
        """Remembers what came back from disk; the oldest goes when the bound is reached."""
        while self._recalled and self._recalled_bytes + len(data) > 4 * limits.READ_BACK_BYTES:
            oldest = next(iter(self._recalled))
            self._recalled_bytes -= len(self._recalled.pop(oldest)[1])
        if first not in self._recalled:
            self._recalled[first] = (last, data)
            self._recalled_bytes += len(data)

    def forget_recalled(self) -> None:
        """Nothing read back survives a truncation: what was there may have been superseded."""
        self._recalled.clear()
        self._recalled_bytes = 0


def entry_length(data: bytes | memoryview, offset: int) -> int:
    """Length in bytes of the entry record at `offset`."""
    return int.from_bytes(data[offset : offset + 4], "little")


def skip_entries(data: bytes | memoryview, count: int) -> int:
    """Offset behind the first `count` packed entries."""
    offset = 0
    for _ in range(count):
        offset += entry_length(data, offset)
    return offset


def take_entries(data: bytes, count: int) -> bytes:
    """The first `count` packed entries."""
    return data[: skip_entries(data, count)]
