"""Where the entries of an AppendEntries are: what the engine passes on as `source`, and never looks into.

Only an `append` item of a Ready copies them into the ring, so what the engine rejects never touches the log.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from quorumd.peercodec import BODY_APPEND
from quorumd.types import Index
from quorumd_fastpath.wire import Slab


class SlabSource(NamedTuple):
    """Entries of one AppendEntries where they arrived; valid until the slab is cleared."""

    slab: Slab
    slot: int
    offset: int
    length: int

    @property
    def size_bytes(self) -> int:
        return self.length

    def retain(self) -> "BytesSource":
        """A copy that outlives the slab, for messages the engine holds back."""
        return BytesSource(bytes(self.slab.view(self.slot)[self.offset : self.offset + self.length]), 0)


class BytesSource(NamedTuple):
    """Entries of one AppendEntries in memory of their own."""

    data: bytes
    offset: int

    @property
    def size_bytes(self) -> int:
        return len(self.data) - self.offset

    def retain(self) -> "BytesSource":
        return self


def chunks(entries: bytes, first: Index, last: Index, budget: int) -> Iterable[tuple[Index, Index, bytes]]:
    """Splits packed entries first..last into pieces that fit `budget` bytes, at least one entry each."""
    start = offset = 0
    begin = index = first
    while index <= last:
        (length,) = struct.unpack_from("<I", entries, offset)
        if offset + length - start > budget - BODY_APPEND.size and index > begin:
            yield begin, index - 1, entries[start:offset]
            begin, start = index, offset
        offset += length
        index += 1
    yield begin, last, entries[start:offset]
