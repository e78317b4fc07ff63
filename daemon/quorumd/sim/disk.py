"""One simulated disk: the page cache, the platter under it, and a sync thread that takes its time.

What survives what, as POSIX and the drive's sector promise it:
- a killed process loses what it had only queued; what it had written stays in the page cache
- a power loss keeps what was synced; of every other sector it is chance whether it reached the platter, in any order
- a file that was made and reported is on the platter under its name (the production code syncs the directory)

The queued half works as walthread.h does: one cycle takes all that is queued, writes it, syncs the files it touched,
and only then counts the batches as durable.
"""

import errno
import mmap
import random
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

from quorumd import limits
from quorumd.errors import DiskError, NoRoom
from quorumd.ports import Meta
from quorumd.types import Nanoseconds
from quorumd_fastpath.walframe import Batch

SECTOR = limits.SECTOR_BYTES
ZEROS = bytes(SECTOR)
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # a page that is only read is the kernel's page of zeros


class PowerCut(BaseException):
    """The machine lost power in the middle of a start. Not an Exception: no production code may catch it."""


class Scheduler(Protocol):
    """What a disk needs of the world."""

    now: Nanoseconds

    def at(self, when: Nanoseconds, action: Callable[[], None]) -> None: ...


class _Job(NamedTuple):
    number: int
    offset: int
    data: bytes
    ticket: int
    queued_at: Nanoseconds


class SimDisk:
    """Implements ports.Disk; outlives the processes that use it.

    sync_ns: (shortest, longest) duration of one cycle. woke: called when the process has something to collect.
    """

    def __init__(self, name: str, world: Scheduler, rng: random.Random, sync_ns: tuple[int, int]) -> None:
        self.name = name
        self.world = world
        self.rng = rng
        self.sync_ns = sync_ns
        self.meta: Meta | None = None
        self.cache: dict[int, mmap.mmap] = {}  # anonymous maps: a segment costs memory only where it is written
        self.platter: dict[int, mmap.mmap] = {}
        self.dirty: set[tuple[int, int]] = set()  # (segment, sector) that cache and platter may differ in
        self.lying: set[tuple[int, int]] = set()  # likewise, but since a sync failed they count as clean
        self.woke: Callable[[bool], None] = lambda file_work: None
        # Faults
        self.slowness = 1
        self.stalled = False
        self.full = False
        self.refused_room = False  # since it was made
        self.failing = False  # the next sync fails with EIO
        self.cut_after: int | None = None  # blocking operations until the power is cut
        self.traps: list[Callable[[], None]] = []  # each is called once, when the next cycle begins
        self.sectors_lost = self.sectors_distrusted = self.segments_begun = self.read_backs = 0
        self._life = 0
        self._begin()

    def _begin(self) -> None:
        """Of one process."""
        self._life += 1
        self._queue: deque[_Job] = deque()
        self._cycle: list[_Job] = []
        self._held = False  # the cycle's time is over, but the disk hangs
        self.newest = self.synced = 0  # tickets of the last batches queued and on the platter
        self._error = 0
        self._prepared: list[tuple[int, int]] = []
        self._preparing: list[tuple[int, int]] = []
        self._reading = 0
        self._reads: list[tuple[int, bytes]] = []
        self._free: list[Batch] = []

    # -- start-up, blocking (ports.Disk) ------------------------------------------------------------------------

    def _blocking(self) -> None:
        if self.cut_after is not None:
            self.cut_after -= 1
            if self.cut_after < 0:
                raise PowerCut

    def read_meta(self) -> Meta | None:
        return self.meta

    def where(self) -> str:
        return self.name

    def write_meta(self, meta: Meta) -> None:
        self._blocking()
        self._want_room()
        self.meta = meta

    def segments(self) -> Sequence[int]:
        return sorted(self.cache)

    def load(self, number: int) -> memoryview:
        return memoryview(self.cache[number]).toreadonly()

    def distrust(self, number: int) -> None:
        for segment, sector in sorted(self.lying):
            if segment == number:
                at = slice(sector * SECTOR, (sector + 1) * SECTOR)
                self.cache[number][at] = self.platter[number][at]
                self.lying.discard((segment, sector))
                self.sectors_distrusted += 1

    def loaded(self) -> None:
        pass

    def path(self, number: int) -> str:
        return f"{self.name}/wal-{number:016d}.seg"

    def sync_all(self) -> None:
        for number in self.segments():
            self._sync_now(number)

    def wipe(self, number: int, offset: int) -> None:
        data = self.cache[number]
        for at in range(offset // SECTOR * SECTOR, len(data), SECTOR):
            if data[at : at + SECTOR] != ZEROS:
                self._blocking()
                start = max(at, offset)
                self._write(number, start, bytes(at + SECTOR - start))
        self._sync_now(number)

    def _sync_now(self, number: int) -> None:
        """What a starting node waits for."""
        self._blocking()
        if self.failing:
            self._fail({number})
            raise DiskError(f"{self.name}: sync failed: errno {self._error}")
        self._sync(number)

    def _fail(self, numbers: Collection[int]) -> None:
        """A sync of these segments failed. Linux reports it once, and keeps the pages as clean."""
        self.lying |= {sector for sector in self.dirty if sector[0] in numbers}
        self.dirty -= self.lying
        self._error = errno.EIO

    def remove(self, number: int) -> None:
        self._blocking()
        del self.cache[number]
        del self.platter[number]
        self.dirty = {sector for sector in self.dirty if sector[0] != number}
        self.lying = {sector for sector in self.lying if sector[0] != number}

    def _want_room(self) -> None:
        if self.full:
            self.refused_room = True
            raise NoRoom(f"{self.name}: no space left")

    def create(self, number: int, size_bytes: int) -> None:
        self._blocking()
        self._want_room()
        self._make(number, size_bytes)

    def _make(self, number: int, size_bytes: int) -> None:
        self.cache[number] = mmap.mmap(-1, size_bytes, flags=PRIVATE)
        self.platter[number] = mmap.mmap(-1, size_bytes, flags=PRIVATE)

    # -- running, never blocking (ports.Disk) -------------------------------------------------------------------

    def prepare(self, number: int, size_bytes: int) -> None:
        self._preparing.append((number, size_bytes))
        self._later(self._finish_prepare)

    def _later(self, action: Callable[[], None]) -> None:
        """After a while, unless the process has ended by then."""
        life = self._life
        self.world.at(self.world.now + self._duration(), lambda: action() if life == self._life else None)

    def _duration(self) -> Nanoseconds:
        return self.rng.randint(*self.sync_ns) * self.slowness

    def _finish_prepare(self) -> None:
        number, size_bytes = self._preparing.pop(0)
        self.refused_room |= self.full
        if not self.full:
            self._make(number, size_bytes)
        self._prepared.append((number, errno.ENOSPC if self.full else 0))
        self.woke(True)

    def prepared(self) -> Sequence[tuple[int, int]]:
        done, self._prepared = self._prepared, []
        return done

    def begin_segment(self, number: int, header: bytes) -> None:
        self.segments_begun += number > 1
        self._write(number, 0, header)

    def append(self, number: int, offset: int, batch: Batch, seq: int) -> None:
        self.newest = seq
        self._queue.append(_Job(number, offset, bytes(batch.data()), seq, self.world.now))
        if len(self._free) < limits.FREE_BATCHES:
            self._free.append(batch)
        if not self._cycle:
            self._begin_cycle()

    def durable(self) -> int:
        if self._error:
            raise DiskError(f"{self.name}: writing the log failed: errno {self._error}")
        return self.synced

    def recycle(self) -> Batch | None:
        return self._free.pop() if self._free else None

    def read(self, number: int, offset: int, length: int, tag: int) -> bool:
        if self._reading >= limits.READ_BACKS:
            return False
        self._reading += 1
        self._later(lambda: self._finish_read(number, offset, length, tag))
        return True

    def _finish_read(self, number: int, offset: int, length: int, tag: int) -> None:
        self.read_backs += 1
        self._reads.append((tag, bytes(self.cache[number][offset : offset + length])))
        self.woke(True)

    def reads(self) -> Sequence[tuple[int, bytes]]:
        done, self._reads = self._reads, []
        self._reading -= len(done)
        return done

    def queued_bytes(self) -> int:
        return sum(len(job.data) for job in (*self._cycle, *self._queue))

    def oldest_pending_ns(self) -> Nanoseconds:
        pending = self._cycle or self._queue
        return self.world.now - pending[0].queued_at if pending else 0

    def sync_p99_us(self) -> int:
        return 0

    # -- the sync thread ----------------------------------------------------------------------------------------

    def _begin_cycle(self) -> None:
        self._cycle = list(self._queue)
        self._queue.clear()
        self._later(self._end_cycle)
        traps, self.traps = self.traps, []
        for spring in traps:
            spring()

    def _end_cycle(self) -> None:
        if self.stalled:
            self._held = True
            return
        if self._error:
            return
        for job in self._cycle:
            self._write(job.number, job.offset, job.data)
        if self.failing:
            self._fail({job.number for job in self._cycle})
            self._cycle = []
            self.woke(False)
            return
        for number in sorted({job.number for job in self._cycle}):
            self._sync(number)
        self.synced = self._cycle[-1].ticket
        self._cycle = []
        if self._queue:
            self._begin_cycle()
        self.woke(False)

    def _write(self, number: int, offset: int, data: bytes) -> None:
        """Into the page cache."""
        self.cache[number][offset : offset + len(data)] = data
        sectors = [(number, sector) for sector in range(offset // SECTOR, -(-(offset + len(data)) // SECTOR))]
        self.dirty.update(sectors)
        self.lying.difference_update(sectors)

    def _sync(self, number: int) -> None:
        cache, platter = self.cache[number], self.platter[number]
        synced = [sector for sector in self.dirty if sector[0] == number]
        for _, sector in synced:
            platter[sector * SECTOR : (sector + 1) * SECTOR] = cache[sector * SECTOR : (sector + 1) * SECTOR]
        self.dirty.difference_update(synced)

    def holds(self, number: int, offset: int, length: int) -> bool:
        """Whether these bytes are on the platter as they were last written."""
        end = offset + length
        for job in (*self._cycle, *self._queue):
            if job.number == number and job.offset < end and offset < job.offset + len(job.data):
                return False
        unwritten = self.dirty | self.lying
        return not any((number, sector) in unwritten for sector in range(offset // SECTOR, -(-end // SECTOR)))

    # -- what the world does to it ------------------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """Whether a sync has failed since the node was started."""
        return self._error != 0

    def hang(self, hanging: bool) -> None:
        """A cycle does not come to its end before the disk works again."""
        self.stalled = hanging
        if not hanging and self._held:
            self._held = False
            self._end_cycle()

    def closed(self) -> None:
        """The process ended in good order: what was queued is written and synced first, unless the disk hangs."""
        if self.stalled or self.failing or self._error:
            self.killed()
            return
        while self._cycle or self._queue:
            if not self._cycle:
                self._cycle = list(self._queue)
                self._queue.clear()
            self._end_cycle()
        self._begin()

    def killed(self) -> None:
        """The process died: of the cycle under way any first part was written; what was queued is lost."""
        written = self.rng.randint(0, len(self._cycle))
        for job in self._cycle[:written]:
            self._write(job.number, job.offset, job.data)
        self._begin()

    def lost_power(self, lose: float) -> None:
        """Each sector not synced is lost with the chance `lose`."""
        for job in self._cycle:
            self._write(job.number, job.offset, job.data)
        for number, sector in sorted(self.dirty | self.lying):
            at = slice(sector * SECTOR, (sector + 1) * SECTOR)
            if (number, sector) in self.lying or self.rng.random() < lose:
                self.cache[number][at] = self.platter[number][at]
                self.sectors_lost += 1
            else:
                self.platter[number][at] = self.cache[number][at]
        self.dirty.clear()
        self.lying.clear()
        self._begin()

    def wiped(self) -> None:
        """Replaced by an empty disk."""
        self.meta = None
        self.cache.clear()
        self.platter.clear()
        self.dirty.clear()
        self.lying.clear()
        self._begin()

    def rot(self, number: int, offset: int, data: bytes) -> None:
        """Bytes at rest change, in the cache and on the platter."""
        for image in (self.cache[number], self.platter[number]):
            image[offset : offset + len(data)] = data
