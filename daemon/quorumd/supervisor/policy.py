"""When a node that stopped is started again. No clock, no process: the caller says what time it is."""

import signal
from collections import deque
from enum import IntEnum
from typing import Final, NamedTuple

from quorumd.config import CrashLoop
from quorumd.limits import STEADY_LIFE_S


class NodeExit(IntEnum):
    """Exit codes of `quorumd node`."""

    CLEAN = 0
    CONFIG = 2
    DISK = 4
    NO_ROOM = 5
    INVARIANT = 6


# Starting again cannot help, or would trust a disk that just failed (fsync errors are reported once).
FINAL: Final = {
    NodeExit.CONFIG: "config or data directory refused",
    NodeExit.DISK: "disk error",
}
NOT_STARTED: Final = 71  # EX_OSERR: stands for the exit of a process that the kernel had no room for


class Verdict(NamedTuple):
    """What to do about an exit: start again after `delay_s`, or never (None), and why."""

    delay_s: float | None
    reason: str


class RestartPolicy:
    """Doubling back-off between `backoff_ms`, given up after `crash_loop.restarts` restarts in its span.

    SIGKILL comes from outside (an operator, a test, the kernel short of memory) and is no sign of a crash loop; nor is
    NOT_STARTED, which is what the kernel says when it is short before the start, nor NO_ROOM: a full disk has room
    again when somebody makes some. Each try reads the log, so the waits grow however long the node lived in between.
    """

    def __init__(self, backoff_ms: tuple[int, int], crash_loop: CrashLoop) -> None:
        self.backoff_ms = backoff_ms
        self.crash_loop = crash_loop
        self._restarts: deque[float] = deque()
        self._streak = 0

    def on_exit(self, code: int, now_s: float, lived_s: float = 0.0) -> Verdict:
        """What to do about an exit after a life of `lived_s`.

        code: as subprocess gives it, negative for a signal. now_s: on any clock that never goes back.
        """
        reason = describe_exit(code)
        if code in FINAL:
            return Verdict(None, reason)
        span = self.crash_loop.within_s
        while self._restarts and self._restarts[0] <= now_s - span:
            self._restarts.popleft()
        if lived_s >= STEADY_LIFE_S and code != NodeExit.NO_ROOM:
            self._streak = 0
        from_outside = code in (-signal.SIGKILL, NOT_STARTED, NodeExit.NO_ROOM)
        if len(self._restarts) >= self.crash_loop.restarts and not from_outside:
            return Verdict(None, f"crash loop: {len(self._restarts)} restarts in {span} s, last: {reason}")
        shortest, longest = self.backoff_ms
        delay_ms = min(shortest * 2 ** min(self._streak, 32), longest)
        self._streak += 1
        if not from_outside:
            self._restarts.append(now_s)
        return Verdict(delay_ms / 1000, reason)


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    if code == NodeExit.CLEAN:
        return "stopped cleanly"
    if code == NodeExit.INVARIANT:
        return "a defect stopped it (exit code 6)"
    if code == NodeExit.NO_ROOM:
        return "no room on its disk (exit code 5)"
    if code == NOT_STARTED:
        return "no process"
    if code in FINAL:
        return f"{FINAL[NodeExit(code)]} (exit code {code})"
    return f"exit code {code}"
