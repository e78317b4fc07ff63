"""Starts a supervisor as a process of its own and waits until it serves: `up --detach`, and clusters made for a while.

The child reports through a pipe, one line: "ready", or "failed CODE MESSAGE". It inherits the write end alone, so the
end of the pipe without a line means that it died.
"""

import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from quorumd import limits
from quorumd.errors import ConfigError, QuorumdError, Stopped

READY = "ready"
FAILED = "failed"
MAX_LINE = 1000  # so that a line goes through the pipe in one piece
_GRACE_S = 5.0  # beyond the supervisor's own deadline for a leader


class Reporter:
    """The child's side of the pipe; with None nobody waits. Only the first report counts."""

    def __init__(self, fd: int | None) -> None:
        self.fd = fd

    def ready(self) -> None:
        """A leader serves."""
        self._report(READY)

    def failed(self, code: int, message: str) -> None:
        """This process gives up, with exit code `code`."""
        self._report(f"{FAILED} {code} {' '.join(message.split())}")

    def _report(self, line: str) -> None:
        if self.fd is None:
            return
        fd, self.fd = self.fd, None
        try:
            os.write(fd, f"{line[:MAX_LINE]}\n".encode())
        except BrokenPipeError:
            return  # whoever waited is gone
        finally:
            os.close(fd)


def launch(
    config_path: Path, *, options: Sequence[str] = (), detached: bool, lifeline: int | None = None
) -> subprocess.Popen[bytes]:
    """Runs `quorumd up` in a child and returns once a leader serves.

    detached: in a session of its own, without a terminal; it outlives this process. lifeline: see loop.Supervisor.
    Raises ConfigError or Stopped with the child's reason; the child is gone then.
    """
    reader, writer = os.pipe()
    passed = [writer] if lifeline is None else [writer, lifeline]
    command = [sys.executable, "-P", "-m", "quorumd", "up", str(config_path.absolute()), "--ready-fd", str(writer)]
    if lifeline is not None:
        command += ["--lifeline-fd", str(lifeline)]
    try:
        child = subprocess.Popen(
            [*command, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=passed, start_new_session=detached, cwd="/" if detached else None,
        )
    finally:
        os.close(writer)
    try:
        line = _first_line(reader, limits.LEADER_DEADLINE_S + _GRACE_S)
    except BaseException:  # Ctrl-C while waiting: the child has a session of its own and did not hear it
        child.terminate()
        child.wait()
        raise
    finally:
        os.close(reader)
    if line == READY:
        return child
    child.terminate()
    child.wait()
    raise _failure(line)


def _first_line(fd: int, timeout_s: float) -> str | None:
    """Up to the line break; "" if the other end is gone, None if nothing came in time."""
    if not select.select([fd], [], [], timeout_s)[0]:
        return None
    return os.read(fd, 65_536).decode(errors="replace").partition("\n")[0]


def _failure(line: str | None) -> QuorumdError:
    if line is None:
        return Stopped(f"no leader after {limits.LEADER_DEADLINE_S:.0f} s; supervisor.log and node.log tell why")
    word, _, rest = line.partition(" ")
    code, _, message = rest.partition(" ")
    if word != FAILED:
        return Stopped("the supervisor ended before it was ready; supervisor.log tells why")
    return ConfigError(message) if code == "2" else Stopped(message)


@contextmanager
def temporary(config_path: Path, options: Sequence[str] = ()) -> Iterator[None]:
    """A cluster for the length of a `with`; it ends with this process even if that is killed."""
    held, given = os.pipe()  # the supervisor reads `held`; this process holds `given` and never writes
    try:
        child = launch(config_path, options=options, detached=False, lifeline=held)
    except BaseException:
        os.close(given)
        raise
    finally:
        os.close(held)
    try:
        yield
    finally:
        os.close(given)
        child.wait()
