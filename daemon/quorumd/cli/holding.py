"""Runs a command while something is held, and ends the command when it is lost."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from quorumd.errors import ConfigError
from quorumd.limits import SECOND

if TYPE_CHECKING:
    from quorumd.recipes.lease import Lease
    from quorumd.recipes.sync import Owner

LOST: Final = 4  # exit code: what protected the command was lost, and the command was ended
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127  # as shells have it

# The command must not outlive the process that holds the lock for it, whatever ends that one: the kernel kills it.
# Python ignores two signals from its start, which the command would inherit.
_TIED: Final = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os._exit(137)
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except FileNotFoundError:
    code = 127
except OSError:
    code = 126
os.write(2, f"quorumd: cannot run {sys.argv[2]!r}\\n".encode("utf-8", "surrogateescape"))
os._exit(code)
"""


class Holding:
    """One command, run while `owner` is held; `run` returns its exit code, or LOST.

    grace_s: from SIGTERM to SIGKILL once it is lost, as long as nobody else can have it (see `patience`).
    """

    def __init__(self, owner: "Owner", command: Sequence[str], grace_s: float) -> None:
        if not command:
            raise ConfigError("no command to run: quorumd lock NAME -- COMMAND")
        self._owner, self._command, self._grace_s = owner, command, grace_s
        self._lost = False
        self._early: list[int] = []  # signals that came before there was a process
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """The command's exit code (128 + the number of the signal that ended it), or LOST."""
        token = self._owner.token
        environment = dict(os.environ)
        environment["QUORUMD_FENCING_TOKEN"] = str(int(token))
        environment["QUORUMD_FENCING_KEY"] = os.fsdecode(token.key)
        tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *self._command]
        before = handle(self._pass_on, signal.SIGTERM, signal.SIGHUP) | handle(_wait_for_command, signal.SIGINT)
        try:
            self._process = subprocess.Popen(tied, env=environment)
            for number in self._early:
                self._process.send_signal(number)
            self._owner.session.on_lost(self._end)  # at once, if it is lost by now
            code = self._process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._lost or not self._owner.holds():
            return LOST
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)

    def _end(self, _reason: str) -> None:
        """On the session's thread: it has nothing else to do by now."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._lost = True
        process.terminate()
        killer = threading.Timer(min(self._grace_s, patience(self._owner.session.lease)), process.kill)
        killer.daemon = True
        killer.start()
        process.wait()
        killer.cancel()


def patience(lease: "Lease") -> float:
    """Seconds for which nobody else can hold what a lost lease held, as far as clocks allow.

    A lease that nobody confirmed counts as lost a margin early: that margin is left, unless this process stood still.
    One that is lost before its time was, as a rule, ended by the cluster: others may hold already what it held, and
    nothing is left.
    """
    from quorumd.client.sinceboot import since_boot  # noqa: PLC0415 - usage errors need none of this

    now = since_boot()
    return 0.0 if now < lease.safe_until else max(0, lease.sent + lease.ttl - now) / SECOND


def handle(handler: Callable[[int, FrameType | None], None], *numbers: int) -> dict[int, Any]:
    """Installs a handler, except for signals that are ignored; {number: what was installed before}.

    What whoever started this process had it ignore, as nohup does, stays ignored: the command inherits that.
    """
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}


def leave_the_line(number: int, _frame: FrameType | None) -> None:
    """A handler for signals that come while there is no command yet: the session is closed on the way out."""
    sys.exit(128 + number)


def _wait_for_command(_number: int, _frame: FrameType | None) -> None:
    """A terminal sends Ctrl-C to the command as well: what it makes of it decides when this process ends."""
