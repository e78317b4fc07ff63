"""One node's process: start, notice of its end, signals, its log."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from quorumd import eventlog, limits
from quorumd.config import Config
from quorumd.types import NodeId

LOG_NAME = "node.log"


def node_command(config: Config, node_id: NodeId, bootstrap: int | None) -> list[str]:
    """The command line of one node under this process."""
    command = [
        # -P: a yaml.py in the current directory must not become ours.
        sys.executable, "-P", "-m", "quorumd", "node", str(config.path.absolute()), "--id", str(node_id),
        "--parent-pid", str(os.getpid()),
    ]
    return command if bootstrap is None else [*command, "--bootstrap", f"{bootstrap:016x}"]


class NodeProcess:
    """The process of node `node_id`, or none. The parent must be the process's main thread: PDEATHSIG is per thread."""

    def __init__(self, node_id: NodeId, directory: Path, log_max_bytes: int, log_keep: int) -> None:
        self.node_id = node_id
        self.directory = directory
        self.log_max_bytes = log_max_bytes
        self.log_keep = log_keep
        self.pid_fd = -1
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        return self.directory / LOG_NAME

    @property
    def pid(self) -> int | None:
        """None when it does not run."""
        return self._child.pid if self._child else None

    def start(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Spawns it with stdout and stderr in its log. `pid_fd` becomes readable when it ends.

        Raises OSError; nothing runs then.

        environment: of the process; None: this one's.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.log_path.exists() and self.log_path.stat().st_size > self.log_max_bytes:
            eventlog.rotate(self.log_path, self.log_keep)
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            # A process group of its own: Ctrl-C in the terminal reaches the supervisor alone, which stops in order.
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, env=environment
            )
        finally:
            os.close(log)
        try:
            self.pid_fd = os.pidfd_open(child.pid)
        except OSError:  # nobody would hear of its end
            child.kill()
            child.wait(limits.STOP_DEADLINE_S)
            raise
        self._child = child

    def send(self, number: signal.Signals) -> None:
        """Signals it, if it runs. The pid cannot be another's: it is not reaped before `reap`."""
        if self._child is not None:
            self._child.send_signal(number)

    def reap(self) -> int | None:
        """Its exit code (negative: signal) once it ended, None while it runs or if it was never started."""
        if self._child is None:
            return None
        code = self._child.poll()
        if code is not None:
            os.close(self.pid_fd)
            self.pid_fd = -1
            self._child = None
        return code

    def last_words(self) -> str:
        """The latest complaint in its log, on one line; empty if there is none."""
        lines = [line for line in eventlog.tail(self.log_path, 50) if line.strip()]
        for line in reversed(lines):
            try:
                record = json.loads(line)
            except ValueError:
                return line.strip()  # the interpreter's own words: the last line of a traceback
            if isinstance(record, dict) and record.get("level") == "error":
                hidden = ("ts", "level", "source", "event")
                figures = " ".join(f"{key}={value}" for key, value in record.items() if key not in hidden)
                return f"{record.get('event')} {figures}".strip()
        return ""
