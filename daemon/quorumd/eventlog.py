"""A log of events: one JSON object a line, rotated by size.

    {"ts": "2025-01-31T12:00:00.123Z", "level": "info", "source": "node-1", "event": "leader", "term": 3}

Each process writes a file of its own. A log that cannot be written (a full disk) loses lines, counts them in
`dropped`, and never stops the writer. A leaf: imports nothing of ours.
"""

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

import msgspec

LEVELS: Final = ("debug", "info", "warning", "error")
STDIO: Final = (1, 2)


def rotate(path: Path, keep: int) -> None:
    """Renames path -> path.1 -> ... -> path.keep, dropping the oldest. Raises OSError; a missing file is none."""
    for number in range(keep - 1, -1, -1):
        older = path.with_name(f"{path.name}.{number + 1}")
        newer = path.with_name(f"{path.name}.{number}") if number else path
        if newer.exists():
            newer.replace(older)


def tail(path: Path, lines: int, max_bytes: int = 16_384) -> list[str]:
    """The last `lines` lines of a file, none if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - max_bytes))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


class EventLog:
    """Writes events to `path` (None: nowhere) and, when given, in short to `mirror` for people.

    source: who speaks, such as "node-1". max_bytes: size at which the file is rotated; keep: rotated files kept.
    With `adopt_stdio`, stdout and stderr that already go to this file follow it through rotations, so that what
    the interpreter itself prints at a crash is in the current file too. Call `open()` before the first event.
    """

    def __init__(
        self, path: Path | None, source: str, max_bytes: int, keep: int, *,
        mirror: TextIO | None = None, adopt_stdio: bool = False, clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.source = source
        self.max_bytes = max_bytes
        self.keep = keep
        self.mirror = mirror
        self.adopt_stdio = adopt_stdio
        self.clock = clock
        self.dropped = 0
        self._fd = -1
        self._size_bytes = 0

    def open(self) -> "EventLog":
        """Opens the file for appending; its directory must exist. Raises OSError."""
        if self.path is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o640)
            self._size_bytes = os.fstat(self._fd).st_size
        return self

    def take_stdio(self) -> None:
        """From now on stdout and stderr, the interpreter's own words included, go to the file."""
        sys.stdout.flush()
        for fd in STDIO:
            os.dup2(self._fd, fd)

    def close(self) -> None:
        """Later events go only to the mirror."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def event(self, what: str, level: str = "info", **detail: object) -> None:
        """Writes one event: a stable word and its figures. Never raises for want of room or a reader."""
        now = datetime.fromtimestamp(self.clock(), UTC)
        stamp = f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z"
        record = {"ts": stamp, "level": level, "source": self.source, "event": what, **detail}
        line = msgspec.json.encode(record, enc_hook=str) + b"\n"
        if self._fd >= 0:
            self._write(line)
        if self.mirror is not None:
            self._tell(self.mirror, what, level, detail)

    def _write(self, line: bytes) -> None:
        try:
            if self._size_bytes and self._size_bytes + len(line) > self.max_bytes:
                self._rotate()
            self._size_bytes += os.write(self._fd, line)
        except OSError:
            self.dropped += 1

    def _rotate(self) -> None:
        if self.path is None:
            return
        old = self._fd
        followers = [fd for fd in STDIO if self.adopt_stdio and _same_file(fd, old)]
        rotate(self.path, self.keep)
        self.open()
        for fd in followers:
            os.dup2(self._fd, fd)
        os.close(old)

    def _tell(self, mirror: TextIO, what: str, level: str, detail: dict[str, object]) -> None:
        figures = " ".join(f"{key}={value}" for key, value in detail.items())
        sign = "" if level == "info" else f"{level}: "
        try:
            mirror.write(f"{self.source}: {sign}{what} {figures}".rstrip() + "\n")
            mirror.flush()
        except (OSError, ValueError):
            self.mirror = None  # nobody reads it any more


def stderr_is(path: Path) -> bool:
    """Whether this process's stderr already goes to `path`, as it does under the supervisor."""
    try:
        return os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat())
    except (OSError, ValueError):
        return False


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False
