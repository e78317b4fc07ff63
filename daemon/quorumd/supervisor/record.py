"""What a running supervisor leaves in the data directory: a lock that says it runs, and a record of its processes.

The lock (flock on supervisor.lock) is the truth: it ends with the process, however that dies. The record
(supervisor.json) names pids together with when they started, because pids are reused.
"""

import fcntl
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from quorumd.config import Config
from quorumd.errors import Rejected
from quorumd.types import NodeId

LOCK_NAME: Final = "supervisor.lock"
RECORD_NAME: Final = "supervisor.json"
LOG_NAME: Final = "supervisor.log"


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A process that cannot be mistaken for another.

    started: in clock ticks since the boot `boot` (proc(5)). Not a time of day: that of a process that runs changes
    whenever the clock is set.
    """

    pid: int
    started: int
    boot: str

    @property
    def alive(self) -> bool:
        """Whether the process still is that one, and not a zombie."""
        return self == identify(self.pid)


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`process` is None while the node is down; `reason` says why."""

    process: ProcessRecord | None = None
    restarts: int = 0
    reason: str = ""


class SupervisorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The content of supervisor.json."""

    supervisor: ProcessRecord
    config: str
    nodes: dict[str, NodeRecord]

    def node(self, node_id: NodeId) -> NodeRecord:
        return self.nodes.get(str(node_id), NodeRecord())


def identify(pid: int) -> ProcessRecord | None:
    """The record of a process that runs now; None if there is none, or a zombie."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = line.rpartition(b")")[2].split()  # the name before may hold anything; these are field 3, the state, and on
    if fields[0] in (b"Z", b"X"):
        return None
    return ProcessRecord(pid=pid, started=int(fields[19]), boot=boot)


@contextmanager
def lock(config: Config) -> Iterator[None]:
    """Holds the data directory for one supervisor. Raises Rejected if another has it, OSError."""
    path = config.data_path / LOCK_NAME
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(config) from None
        yield
    finally:
        os.close(fd)


def check_unlocked(config: Config) -> None:
    """Raises Rejected if a supervisor runs on this data directory; writes nothing. `lock` has the last word."""
    if is_locked(config):
        raise _in_use(config)


def _in_use(config: Config) -> Rejected:
    record = read(config)
    whose = f" (pid {record.supervisor.pid})" if record else ""
    return Rejected(f"{config.data_path} is already in use by a running supervisor{whose}; stop it with `quorumd down`")


def is_locked(config: Config) -> bool:
    """Whether a supervisor runs on this data directory."""
    try:
        fd = os.open(config.data_path / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def write(config: Config, record: SupervisorRecord) -> None:
    """Replaces the record whole: a reader sees the old one or the new one."""
    path = config.data_path / RECORD_NAME
    beside = path.with_name(f"{path.name}.tmp")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    beside.replace(path)


def read(config: Config) -> SupervisorRecord | None:
    """The record of the latest supervisor, running or not; None without a readable one."""
    try:
        return msgspec.json.decode((config.data_path / RECORD_NAME).read_bytes(), type=SupervisorRecord)
    except (OSError, msgspec.DecodeError):
        return None


def running(config: Config) -> SupervisorRecord | None:
    """The record of the supervisor that runs on this data directory now."""
    record = read(config)
    return record if record and record.supervisor.alive and is_locked(config) else None


def await_end(record: ProcessRecord, timeout_s: float) -> bool:
    """Waits until that process is gone; False if it is still there after `timeout_s`."""
    try:
        fd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return True
    try:
        # Looked at only with the pidfd in hand: from here on the pid cannot come to mean another process unnoticed.
        if not record.alive:
            return True
        return bool(select.select([fd], [], [], timeout_s)[0])
    finally:
        os.close(fd)


def kill(record: ProcessRecord, number: signal.Signals) -> bool:
    """Signals that process and no other; False if it is gone. Raises PermissionError."""
    try:
        fd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return False
    try:
        if not record.alive:
            return False
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True
