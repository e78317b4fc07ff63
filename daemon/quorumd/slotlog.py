"""The log of Multi-Paxos: slots are accepted in any order, so behind the ring's last slot there may be holes.

    ring       slots first..last without a hole, exactly as for Raft
    islands    accepted slots behind the ring's end, as pieces of packed bytes; they move into the ring when the hole
               before them is closed, without being written again

A slot that the ring has no room for becomes an island too, hole or not, so `place` always succeeds: how much may wait
is bounded by whoever admits messages and proposals (slotadmission.py). Rules kept here:

- Ring and islands do not overlap; islands do not overlap each other.
- A value placed over another one supersedes that slot alone. Inside the ring, which only grows and shrinks at its end,
  the slots behind it step aside as an island meanwhile. Equal bytes leave the ring untouched.
- Only what is chosen leaves the ring (`yieldable`, Applier.pin): an open slot may be accepted again with its old bytes.

The ballots are the engine's (consensus/ballotlog.py); this knows bytes only.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from quorumd import limits
from quorumd.consensus.engine import KEPT
from quorumd.invariants import InvariantBroken, invariant
from quorumd.log import Log, entry_length, skip_entries
from quorumd.types import Index
from quorumd_fastpath.ring import Ring, check_entries


class IslandRoom(NamedTuple):
    """How much may wait behind the ring's end."""

    size_bytes: int = limits.ISLAND_BYTES
    entries: int = limits.ISLAND_ENTRIES


USUAL: Final = IslandRoom()


class _Piece:
    """Slots first..last behind the ring's end, packed in `data`."""

    __slots__ = ("data", "first", "last")

    def __init__(self, first: Index, last: Index, data: bytes) -> None:
        self.first = first
        self.last = last
        self.data = data

    def part(self, first: Index, last: Index) -> bytes:
        """The bytes of first..last, which lie within it."""
        begin = skip_entries(self.data, first - self.first)
        if last == self.last:
            return self.data[begin:]
        return self.data[begin : begin + skip_entries(memoryview(self.data)[begin:], last - first + 1)]


class SlotLog(Log):
    """See the module's docstring."""

    def __init__(self, ring: Ring, most: IslandRoom = USUAL) -> None:
        super().__init__(ring)
        self.most = most
        self._pieces: list[_Piece] = []  # the islands, ascending
        self._starts: list[Index] = []  # their first slots
        self._bytes = 0
        self._entries = 0

    # -- what is held -------------------------------------------------------------------------------------------

    @property
    def islands(self) -> int:
        """Number of pieces that wait behind the ring's end."""
        return len(self._pieces)

    @property
    def island_bytes(self) -> int:
        """Their size."""
        return self._bytes

    @property
    def island_entries(self) -> int:
        """The slots in them."""
        return self._entries

    def island_room(self, size_bytes: int, entries: int) -> bool:
        """Whether so much more may wait behind a hole. Asked before the engine is told of it."""
        return self._bytes + size_bytes <= self.most.size_bytes and self._entries + entries <= self.most.entries

    @property
    def waits_for_room(self) -> bool:
        """Whether there are islands that only a full ring keeps out of it."""
        return bool(self._pieces) and self._starts[0] == self.ring.last + 1

    @property
    def prefix(self) -> Index:
        """Last slot before the first hole."""
        upto = self.ring.last
        for piece in self._pieces:
            if piece.first != upto + 1:
                break
            upto = piece.last
        return upto

    def island(self, first: Index, last: Index) -> bytes | None:
        """Slots first..last, packed, if all of them are islands."""
        place = bisect_right(self._starts, first) - 1
        parts: list[bytes] = []
        while place >= 0 and first <= last and place < len(self._pieces):
            piece = self._pieces[place]
            if not piece.first <= first <= piece.last:
                break
            upto = min(last, piece.last)
            parts.append(piece.part(first, upto))
            first = upto + 1
            place += 1
        if first <= last or not parts:
            return None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def held(self, first: Index, last: Index) -> bytes | None:
        """Slots first..last, packed, if ring and islands have them all; else None."""
        ring = self.ring
        if first > ring.last:
            return self.island(first, last)
        if first < ring.first:
            return None
        if last <= ring.last:
            return ring.copy(first, last)
        rest = self.island(ring.last + 1, last)
        return None if rest is None else ring.copy(first, ring.last) + rest

    def island_end(self, slot: Index) -> Index:
        """Last slot of the piece that `slot` is in; slot - 1 if it is in none."""
        place = bisect_right(self._starts, slot) - 1
        return max(self._pieces[place].last, slot - 1) if place >= 0 else slot - 1

    def lengths(self, first: Index, last: Index) -> Iterator[int]:
        """Bytes of each of the slots first..last, none of which has left the ring; 0 for one that is not here."""
        while first <= last:
            end = min(last, self.ring.last if first <= self.ring.last else self.island_end(first))
            data = self.held(first, end) if first <= end else None
            if data is None:
                yield 0
                first += 1
                continue
            at = 0
            while at < len(data):
                length = entry_length(data, at)
                yield length
                at += length
            first = end + 1

    def fit(self, first: Index, last: Index, max_bytes: int) -> tuple[Index, int]:
        """See LogSizes.fit. Ring and WAL as for Raft, islands exactly; what is beyond them was staged this turn."""
        if not self._pieces or first < self.ring.first or last <= self.ring.last:
            return super().fit(first, last, max_bytes)
        upto, size = first - 1, 0
        if first <= self.ring.last:
            upto, size = super().fit(first, self.ring.last, max_bytes)
            if upto < self.ring.last:
                return upto, size
        while upto < last and (end := min(self.island_end(upto + 1), last)) > upto:
            data = self.island(upto + 1, end) or b""
            at = 0
            while upto < end:
                length = entry_length(data, at)
                if size and size + length > max_bytes:
                    return upto, size
                at, size, upto = at + length, size + length, upto + 1
        each = self.staged_entry_bytes
        more = min(max((max_bytes - size) // each, 0 if size else 1), last - upto)
        return upto + more, size + more * each

    def yieldable(self, written: Index) -> Index:
        """An open slot may have to be written once more, under a higher ballot."""
        return min(written, self.committed)

    # -- placing ------------------------------------------------------------------------------------------------

    def appends_at(self, first: Index) -> bool:
        """Whether slots from `first` on can go to the ring's end directly, nothing being there or behind it."""
        return first == self.ring.last + 1 and not self._pieces

    def place(self, first: Index, count: int, source: object, skip: int = 0) -> Index:
        """Accepts values for `count` slots from `first` on; the lowest slot that held other bytes before, or 0.

        source: entries packed in bytes, of which the first `skip` are left out; or KEPT: the bytes stay.
        """
        last = first + count - 1
        if source is KEPT:
            invariant(self._holds(first, last), f"slots {first}..{last} are to be kept, and not all are here")
            return 0
        if not isinstance(source, bytes):
            raise InvariantBroken(f"not entries in bytes: {source!r}")
        if skip or not check_entries(source, 0, len(source), count):  # seldom: not all of it is wanted
            source = source[skip_entries(source, skip) :]
            source = source[: skip_entries(source, count)]
        data = source
        invariant(first >= self.ring.first, f"slot {first} has left the ring: it is chosen")
        changed = 0
        inside = min(last, self.ring.last)
        if first <= inside:
            cut = skip_entries(data, inside - first + 1)
            changed = self._overwrite(first, inside, data[:cut])
            first, data = inside + 1, data[cut:]
        if first <= last:
            lowest = self._set_aside(first, last, data)
            changed = changed or lowest
        self.absorb()
        return changed

    def _holds(self, first: Index, last: Index) -> bool:
        first = max(first, self.ring.last + 1) if first >= self.ring.first else first
        while first <= last and (end := self.island_end(first)) >= first:
            first = end + 1
        return first > last

    def _overwrite(self, first: Index, last: Index, data: bytes) -> Index:
        """Slots first..last, all in the ring, get these bytes; the lowest one that had others, or 0."""
        ring = self.ring
        before = ring.copy(first, last)
        if before == data:
            return 0
        same, at = common_entries(before, data)
        changed, data = first + same, data[at:]
        behind = ring.copy(last + 1, ring.last) if last < ring.last else b""
        end = ring.last
        ring.truncate(changed - 1)
        self._insert(0, _Piece(changed, last, data))
        if behind:
            self._insert(1, _Piece(last + 1, end, behind))
        return changed

    def _set_aside(self, first: Index, last: Index, data: bytes) -> Index:
        """Slots behind the ring's end; the lowest one that was an island with other bytes, or 0."""
        changed = 0
        low = bisect_right(self._starts, first) - 1
        if low < 0 or self._pieces[low].last < first:
            low += 1
        high = low
        kept: list[_Piece] = []
        while high < len(self._pieces) and self._pieces[high].first <= last:
            old = self._pieces[high]
            begin, end = max(old.first, first), min(old.last, last)
            if not changed:
                old_part, new_part = old.part(begin, end), _Piece(first, last, data).part(begin, end)
                changed = 0 if old_part == new_part else begin + common_entries(old_part, new_part)[0]
            if old.first < first:
                kept.append(_Piece(old.first, first - 1, old.part(old.first, first - 1)))
            if old.last > last:
                kept.append(_Piece(last + 1, old.last, old.part(last + 1, old.last)))
            high += 1
        for _ in range(high - low):
            self._remove(low)
        for piece in sorted([*kept, _Piece(first, last, data)], key=lambda piece: piece.first):
            self._insert(low, piece)
            low += 1
        return changed

    def _insert(self, place: int, piece: _Piece) -> None:
        self._pieces.insert(place, piece)
        self._starts.insert(place, piece.first)
        self._bytes += len(piece.data)
        self._entries += piece.last - piece.first + 1

    def _remove(self, place: int) -> _Piece:
        piece = self._pieces.pop(place)
        del self._starts[place]
        self._bytes -= len(piece.data)
        self._entries -= piece.last - piece.first + 1
        return piece

    def absorb(self) -> None:
        """Islands that no hole parts from the ring any more move into it, as far as it has room."""
        ring = self.ring
        while self._pieces and self._pieces[0].first == ring.last + 1:
            first, last, data = self._pieces[0].first, self._pieces[0].last, self._pieces[0].data
            count = last - first + 1
            while count and not ring.append(data, first, count):
                count //= 2
            if not count:
                return
            self._remove(0)
            if ring.last < last:
                self._insert(0, _Piece(ring.last + 1, last, data[skip_entries(data, count) :]))


def common_entries(one: bytes, other: bytes) -> tuple[int, int]:
    """(entries, bytes) at the start of two packed sequences that are equal."""
    count = at = 0
    while at < min(len(one), len(other)):
        end = at + entry_length(one, at)
        if one[at:end] != other[at:end] or at + entry_length(other, at) != end:
            break
        count, at = count + 1, end
    return count, at
