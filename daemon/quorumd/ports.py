"""The ports through which core.py touches the world. node.py binds them to Linux, the simulator to its own.

No implementation lives here. Datagrams need no port: core.py reads a Slab and fills an Outbox, both plain memory.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from quorumd.types import RAFT, Nanoseconds
from quorumd_fastpath.walframe import Batch


class Meta(NamedTuple):
    """The stamp of a data directory (meta.json): whose it is, and the life that owns it now."""

    cluster: int  # 0: not yet part of a cluster
    node: int
    incarnation: int
    engine: str = RAFT  # whose log it holds; stamps of format 1 do not say it
    # For how long any of its lives may have promised a leader its lease (raft.lease_reads). Never falls: nobody knows
    # how long the last life ran, so it may have ended within the promise of the one before.
    promised: Nanoseconds = 0


class Disk(Protocol):
    """One node's data directory.

    The blocking half is for start-up only; the queued half never blocks the loop. Any failed write or sync raises
    DiskError, at once or from `durable`, and the node stops.
    """

    # -- start-up, blocking -------------------------------------------------------------------------------------

    def read_meta(self) -> Meta | None:
        """The stamp, or None in an empty directory."""
        ...

    def where(self) -> str:
        """What to call the directory in a message to the operator."""
        ...

    def write_meta(self, meta: Meta) -> None:
        """Replaces the stamp durably (temporary file, fsync, rename, fsync of the directory)."""
        ...

    def segments(self) -> Sequence[int]:
        """Numbers of the WAL segments present, ascending; prepared but unused ones included."""
        ...

    def load(self, number: int) -> memoryview:
        """A segment's bytes; valid until the next `load`."""
        ...

    def distrust(self, number: int) -> None:
        """What the page cache holds of a segment and need not write is read from the disk from now on: after a failed
        sync it may be what the disk does not have."""
        ...

    def loaded(self) -> None:
        """Recovery is over: the memory behind `load` may go."""
        ...

    def path(self, number: int) -> str:
        """What to call a segment in a message to the operator."""
        ...

    def sync_all(self) -> None:
        """fsync of every segment and of the directory: the page cache may show what never reached the disk."""
        ...

    def wipe(self, number: int, offset: int) -> None:
        """Overwrites a segment with zeros from `offset` on, and syncs it."""
        ...

    def remove(self, number: int) -> None:
        """Deletes a segment and syncs the directory."""
        ...

    def create(self, number: int, size_bytes: int) -> None:
        """Makes a zero-filled segment, durable with its directory entry."""
        ...

    # -- running, never blocking --------------------------------------------------------------------------------

    def prepare(self, number: int, size_bytes: int) -> None:
        """Starts to make a zero-filled segment in the background."""
        ...

    def prepared(self) -> Sequence[tuple[int, int]]:
        """(number, errno) of preparations that ended since the last call; errno 0: it is there, and durable."""
        ...

    def begin_segment(self, number: int, header: bytes) -> None:
        """Writes a segment's header; it is durable with the first batch appended to the segment."""
        ...

    def append(self, number: int, offset: int, batch: Batch, seq: int) -> None:
        """Queues a finished batch; `durable` reaches `seq` once it and all before it are synced. Takes the batch."""
        ...

    def durable(self) -> int:
        """Highest seq whose batch, and every one before it, is on the disk."""
        ...

    def recycle(self) -> Batch | None:
        """A batch that is done with, for reuse."""
        ...

    def read(self, number: int, offset: int, length: int, tag: int) -> bool:
        """Asks for bytes of a segment; False if too much is asked for already."""
        ...

    def reads(self) -> Sequence[tuple[int, bytes]]:
        """(tag, bytes) that came back since the last call."""
        ...

    def queued_bytes(self) -> int:
        """Bytes handed over and not yet durable."""
        ...

    def oldest_pending_ns(self) -> Nanoseconds:
        """Age of the oldest batch handed over and not yet durable; 0 if none."""
        ...

    def sync_p99_us(self) -> int:
        """99th percentile of recent syncs, microseconds."""
        ...
