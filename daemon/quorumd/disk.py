"""The Disk port on Linux: one node's data directory. System calls only; policy is storage.py's.

Layout of the directory: `meta.json` (the stamp), `lock` (held with flock while a node runs), `wal-%016d.seg`.
Batches are written and synced by the fastpath's sync thread, segments made and read by its file worker; neither ever
takes the GIL. Any error of either is final (DiskError): after a failed fsync the page cache lies. A call that only
lacks room, before anything of the log was written, is not (NoRoom).
"""

import errno
import fcntl
import json
import os
import re
import select
import time
from collections.abc import Container, Sequence
from pathlib import Path

from quorumd import __version__, limits
from quorumd.errors import NO_ROOM, UNUSABLE_LOG, ConfigError, DiskError, NoRoom
from quorumd.ports import Meta
from quorumd.types import RAFT, STAMP_FORMAT, Nanoseconds
from quorumd_fastpath.walfile import FileWorker, WalThread, fdatasync_fd, fsync_dir
from quorumd_fastpath.walframe import Batch

SEGMENT = re.compile(r"wal-(\d{16})\.seg")


def failed(what: object, error: OSError) -> DiskError:
    """What a call that failed on `what` comes to, if it wrote nothing that counts: only a lack of room passes."""
    if error.errno in NO_ROOM:
        return NoRoom(f"{what}: {error.strerror}; the node can start when that is over")
    return DiskError(f"{what}: {error.strerror}")


class RealDisk:
    """See the module's docstring. `open` takes the lock and starts the threads; the constructor does nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = -1
        self._fileno = (-1, -1)
        self._wal = WalThread()
        self._worker = FileWorker()
        self._fds: dict[int, int] = {}
        self._written: dict[int, int] = {}  # seq of the newest batch in each segment that is open
        self._reading: dict[int, int] = {}  # tag -> segment
        self._preparing: dict[int, int] = {}
        self._read: list[tuple[int, bytes]] = []
        self._done: list[tuple[int, int]] = []
        self._free: list[Batch] = []
        self._next_tag = 1
        self._durable = 0
        self._wal_signalled = self._worker_signalled = True
        self._loaded = bytearray()

    def open(self) -> None:
        """Locks the directory. Raises ConfigError if another process runs on it, or it cannot be used."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._sync_names()
            self._lock = os.open(self.directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"{self.directory}: cannot be used as data directory: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"{self.directory}: another node runs on this directory; stop it first (quorumd down)"
            ) from None
        self._wal.start()
        self._worker.start()
        self._fileno = (self._wal.fileno(), self._worker.fileno())

    def _sync_names(self) -> None:
        """Makes the directory's own name durable, and its parents' up to the mount point, whoever made them."""
        path = self.directory.resolve()
        while not path.is_mount():
            path = path.parent
            try:
                fsync_dir(path)
            except PermissionError:
                return  # not made by this user, and so not just now

    def close(self) -> None:
        """Finishes what is queued, then lets the directory go."""
        self._wal.stop()
        self._worker.stop()
        for fd in (*self._fds.values(), self._lock):
            if fd >= 0:
                os.close(fd)
        self._fds.clear()
        self._lock = -1

    def filenos(self) -> tuple[int, int]:
        """File descriptors that become readable when a batch is durable, and when background file work is done."""
        return self._fileno

    def signalled(self, woken: Container[int]) -> bool:
        """Notes which of the two threads woke the loop: one that gave no sign since it was asked is not asked again.

        True if background file work ended.
        """
        wal, worker = self._fileno
        if wal in woken:
            self._wal_signalled = True
        if worker in woken:
            self._worker_signalled = True
        return self._worker_signalled

    # -- start-up -----------------------------------------------------------------------------------------------

    def read_meta(self) -> Meta | None:
        path = self.directory / "meta.json"
        try:
            raw = json.loads(path.read_bytes())
        except FileNotFoundError:
            if self.segments():
                raise ConfigError(f"{path}: missing beside a log; {UNUSABLE_LOG}") from None
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: unreadable ({error}); {UNUSABLE_LOG}") from None
        found = raw.get("format") if isinstance(raw, dict) else raw
        if found != STAMP_FORMAT:
            raise ConfigError(
                f"{path}: format {found!r}, but this version of quorumd reads {STAMP_FORMAT}; use the version that "
                "made it or name another data_dir"
            )
        try:
            cluster = int(raw["cluster"] or "0", 16)
            promised = int(raw.get("promised_ns", 0))
            return Meta(cluster, int(raw["node"]), int(raw["incarnation"]), str(raw.get("engine", RAFT)), promised)
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{path}: incomplete; {UNUSABLE_LOG}") from None

    def where(self) -> str:
        return str(self.directory)

    def write_meta(self, meta: Meta) -> None:
        content = {
            "format": STAMP_FORMAT,
            "cluster": f"{meta.cluster:016x}" if meta.cluster else None,
            "node": meta.node,
            "incarnation": meta.incarnation,
            "engine": meta.engine,
            "promised_ns": meta.promised,
            "created_by": f"quorumd {__version__}",
        }
        path, temporary = self.directory / "meta.json", self.directory / "meta.json.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(json.dumps(content).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            fsync_dir(self.directory)
        except OSError as error:
            raise failed(path, error) from error

    def segments(self) -> Sequence[int]:
        found = (SEGMENT.fullmatch(name) for name in os.listdir(self.directory))
        return sorted(int(match[1]) for match in found if match)

    def path(self, number: int) -> str:
        return str(self.directory / f"wal-{number:016d}.seg")

    def load(self, number: int) -> memoryview:
        """Read into memory and not mapped: a bad sector is then a DiskError with a name, not a SIGBUS."""
        try:
            with open(self.path(number), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if len(self._loaded) != size:
                    self._loaded = bytearray(size)
                view = memoryview(self._loaded)
                done = 0
                while done < size and (got := file.readinto(view[done:])):
                    done += got
        except OSError as error:
            raise failed(self.path(number), error) from error
        return view[:done]

    def distrust(self, number: int) -> None:
        try:
            with open(self.path(number), "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise failed(self.path(number), error) from error

    def loaded(self) -> None:
        """Recovery is over: the buffer of `load` goes back to the system."""
        self._loaded = bytearray()

    def sync_all(self) -> None:
        try:
            for number in self.segments():
                fd = os.open(self.path(number), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fdatasync_fd(fd)
                finally:
                    os.close(fd)
            fsync_dir(self.directory)
        except OSError as error:
            raise DiskError(f"{self.directory}: sync failed: {error.strerror}") from error

    def wipe(self, number: int, offset: int) -> None:
        try:
            fd = self._fd(number)
            size = os.fstat(fd).st_size
            zeros = bytes(min(limits.MIB, max(size - offset, 0)))
            while offset < size:
                offset += os.pwrite(fd, zeros[: size - offset], offset)
            fdatasync_fd(fd)
        except OSError as error:
            raise DiskError(f"{self.path(number)}: {error.strerror}") from error

    def remove(self, number: int) -> None:
        self._close(number)
        try:
            os.unlink(self.path(number))
            fsync_dir(self.directory)
        except OSError as error:
            raise failed(self.path(number), error) from error

    def create(self, number: int, size_bytes: int) -> None:
        self.prepare(number, size_bytes)
        seconds = (limits.CREATE_DEADLINE + limits.CREATE_PER_MIB * (size_bytes // limits.MIB)) / limits.SECOND
        deadline = time.monotonic() + seconds
        while not self._done:
            remaining = deadline - time.monotonic()
            if remaining < 0:
                raise NoRoom(f"{self.path(number)}: not made within {seconds:.0f} s; nothing failed, the disk is slow")
            self._wait_for_worker(remaining)
            self._collect()
        _, error = self._done.pop()
        if error:
            raise failed(self.path(number), OSError(error, os.strerror(error)))

    def _wait_for_worker(self, seconds: float) -> None:
        select.select([self._worker.fileno()], [], [], seconds)

    # -- running ------------------------------------------------------------------------------------------------

    def prepare(self, number: int, size_bytes: int) -> None:
        tag = self._next_tag
        self._next_tag += 1
        self._preparing[tag] = number
        self._worker.prepare(self.path(number) + ".tmp", self.path(number), size_bytes, None, tag)

    def _collect(self) -> None:
        self._worker_signalled = False
        for kind, tag, error, data in self._worker.done():
            if kind == "prepare":  # its tags are numbers apart from those of reads
                self._done.append((self._preparing.pop(tag), error))
                continue
            self._reading.pop(tag)
            if error or data is None:
                raise DiskError(f"{self.directory}: reading the log back failed: {os.strerror(error or errno.EIO)}")
            self._read.append((tag, data))

    def prepared(self) -> Sequence[tuple[int, int]]:
        if self._worker_signalled:
            self._collect()
        done, self._done = self._done, []
        return done

    def begin_segment(self, number: int, header: bytes) -> None:
        try:
            fd = self._fd(number)
            written = os.pwrite(fd, header, 0)
        except OSError as error:
            raise DiskError(f"{self.path(number)}: {error.strerror}") from error
        if written != len(header):
            raise DiskError(f"{self.path(number)}: short write of the segment header")

    def append(self, number: int, offset: int, batch: Batch, seq: int) -> None:
        fd = self._fds.get(number)
        try:
            self._wal.submit(self._fd(number) if fd is None else fd, offset, batch, seq)
        except OSError as error:
            raise DiskError(f"{self.path(number)}: {error.strerror}") from error
        except BufferError as error:
            raise DiskError(f"{self.path(number)}: {error}: the disk hangs, and no more writes can wait") from error
        self._written[number] = seq

    def durable(self) -> int:
        if not self._wal_signalled:
            return self._durable
        self._wal_signalled = False
        self._durable, error, batches = self._wal.reap()
        if error:
            raise DiskError(f"{self.directory}: writing the log failed: {os.strerror(error)}")
        if batches:
            self._free += batches[: limits.FREE_BATCHES]
            del self._free[limits.FREE_BATCHES :]
        return self._durable

    def recycle(self) -> Batch | None:
        return self._free.pop() if self._free else None

    def read(self, number: int, offset: int, length: int, tag: int) -> bool:
        if len(self._reading) >= limits.READ_BACKS:
            return False
        try:
            self._worker.read(self._fd(number), offset, length, tag)
        except OSError as error:
            raise DiskError(f"{self.path(number)}: {error.strerror}") from error
        self._reading[tag] = number
        return True

    def reads(self) -> Sequence[tuple[int, bytes]]:
        if self._worker_signalled:
            self._collect()
        done, self._read = self._read, []
        return done

    def queued_bytes(self) -> int:
        return self._wal.queued_bytes

    def oldest_pending_ns(self) -> Nanoseconds:
        return self._wal.oldest_pending_ns(time.monotonic_ns())

    def sync_p99_us(self) -> int:
        return self._wal.fsync_p99_us()

    @property
    def syncs(self) -> int:
        """Cycles of the sync thread so far, each of one fdatasync or, at a segment's end, two."""
        return self._wal.sync_count

    def _fd(self, number: int) -> int:
        fd = self._fds.get(number)
        if fd is None:
            if len(self._fds) >= limits.OPEN_SEGMENTS:
                self._close_idle()
            try:
                fd = self._fds[number] = os.open(self.path(number), os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                raise failed(self.path(number), error) from error
        return fd

    def _close_idle(self) -> None:
        """Closes what neither thread has work in: a log has more segments than a process may have files."""
        reading = set(self._reading.values())
        for number in list(self._fds):
            if number not in reading and self._written.get(number, 0) <= self._durable:
                self._close(number)

    def _close(self, number: int) -> None:
        self._written.pop(number, None)
        fd = self._fds.pop(number, -1)
        if fd >= 0:
            os.close(fd)


