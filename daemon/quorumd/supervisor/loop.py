"""The supervisor: starts one process per node, restarts what crashes, shows how it goes, stops everything in order.

    lock the data directory            refuses a second supervisor
    start every node                   with one random cluster id if no directory holds anything yet
    loop: signals, ended processes, due restarts, STATUS replies, the table
    SIGTERM to every node, SIGKILL after a deadline

One thread, one selector; it must be the main thread of its process, because each node asks the kernel to be killed
when the *thread* that started it ends. What a node says of itself is only shown, never acted on.
"""

import errno
import functools
import os
import secrets
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Final, Protocol

from quorumd import config as configs
from quorumd import environment, eventlog, limits
from quorumd.client.probe import Status
from quorumd.config import Config
from quorumd.endpoint import Endpoint, family_of
from quorumd.errors import NO_ROOM, SHORTAGES, ConfigError, Rejected, Stopped
from quorumd.supervisor import record
from quorumd.supervisor.display import Display
from quorumd.supervisor.figures import NodeFigures, ProcessMeter, RateMeter, leader_ready, node_figures
from quorumd.supervisor.fresh import wipe
from quorumd.supervisor.policy import NOT_STARTED, NodeExit, RestartPolicy
from quorumd.supervisor.process import NodeProcess, node_command
from quorumd.types import NodeId

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Command = Callable[[Config, NodeId, int | None], list[str]]


class Probe(Protocol):
    """Asks the nodes for their figures without waiting. See probe.StatusProbe."""

    def fileno(self) -> int: ...
    def ask(self) -> int: ...
    def collect(self) -> Mapping[NodeId, Status]: ...
    def close(self) -> None: ...


class _Member:
    """One node as the supervisor sees it."""

    def __init__(self, config: Config, node_id: NodeId) -> None:
        settings = config.supervisor
        self.process = NodeProcess(
            node_id, config.node_path(node_id), settings.log_max_mib * limits.MIB, settings.log_keep
        )
        self.policy = RestartPolicy(settings.restart_backoff_ms, settings.crash_loop)
        self.identity: record.ProcessRecord | None = None
        self.restarts = 0
        self.started_s = 0.0
        self.restart_at_s: float | None = None  # set while it waits for its next start
        self.reason = ""  # why it is down, or why it was last
        self.given_up = False
        self.exit_code = 0
        self.status: Status | None = None
        self.status_at_s = 0.0
        self.settled = False  # it has answered once, so its directory is stamped: bootstrap is over for it

    @property
    def record(self) -> record.NodeRecord:
        running = self.identity if self.process.pid is not None else None
        return record.NodeRecord(process=running, restarts=self.restarts, reason=self.reason)


class Supervisor:
    """Runs the nodes of `config` until told to stop.

    probe: how nodes are asked; display: where people look; on_ready: called once, when a leader serves; fresh: empty
    the node directories first; lifeline: a file descriptor whose end of file means stop (the other end is with a
    process that the cluster must not outlive); detached: stdout and stderr go to the log.
    `command` and `clock` are seams for tests.
    """

    def __init__(
        self, config: Config, probe: Probe, display: Display, *, fresh: bool = False,
        on_ready: Callable[[NodeFigures], None] | None = None, lifeline: int | None = None,
        detached: bool = False, command: Command = node_command,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.probe = probe
        self.display = display
        self.fresh = fresh
        self.on_ready = on_ready
        self.lifeline = lifeline
        self.detached = detached
        self.command = command
        self.clock = clock
        self.members = {node_id: _Member(config, node_id) for node_id in config.members}
        settings = config.supervisor
        path = config.data_path / record.LOG_NAME
        self.log = eventlog.EventLog(
            path, "supervisor", settings.log_max_mib * limits.MIB, settings.log_keep, adopt_stdio=True
        )
        self.bootstrap: int | None = None
        self.started_s = 0.0
        self.ready = False
        self._late = False
        self._stopping = 0  # stop requests so far; the second one does not wait
        self._meter = ProcessMeter()
        self._rates = RateMeter()
        self._selector = selectors.DefaultSelector()
        self._identity: record.ProcessRecord | None = None

    # -- life -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Until a stop signal (0), or until no node is left that may be started again (1, or 2: config).

        Raises ConfigError and Rejected before anything is started, OSError.
        """
        environment.check_environment(self.config)
        record.check_unlocked(self.config)
        await_earlier_run(self.config)
        check_addresses(self.config)
        # Nothing was written so far.
        self.config.data_path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(record.lock(self.config))
            if self.fresh:
                wipe(self.config)
            stack.callback(self._selector.close)
            stack.callback(self.log.open().close)
            if self.detached:
                self.log.take_stdio()
            stack.callback(self.display.close)
            stack.enter_context(self._signals())
            self._selector.register(self.probe.fileno(), selectors.EVENT_READ, self._hear)
            if self.lifeline is not None:
                self._selector.register(self.lifeline, selectors.EVENT_READ, self._lose_lifeline)
            try:
                self._start_all()
                return self._loop()
            finally:
                self._stop_all()

    def stop(self) -> None:
        """Asks the loop to end; from a signal handler too."""
        self._stopping += 1

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop signals wake the selector, so that none is lost between a check and a wait."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)

        def request_stop(number: int, frame: FrameType | None) -> None:
            self.stop()

        earlier_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        # What is ignored stays ignored: that is how nohup keeps a process past its terminal.
        wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        earlier = {number: signal.signal(number, request_stop) for number in wanted}
        # The byte only ends the wait; the handler above has run by then.
        self._selector.register(reader, selectors.EVENT_READ, lambda: reader.recv(4096))
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(earlier_fd)
            reader.close()
            writer.close()

    def _loop(self) -> int:
        next_ask_s = next_show_s = self.clock()
        while not self._stopping:
            now_s = self.clock()
            if now_s >= next_ask_s:
                self.probe.ask()
                next_ask_s = now_s + (limits.REFRESH_S if self.ready else limits.STARTING_POLL_S)
            if now_s >= next_show_s:
                self._show(now_s)
                next_show_s = now_s + limits.REFRESH_S
            for member in self.members.values():
                if member.restart_at_s is not None and now_s >= member.restart_at_s:
                    self._start(member)
            waits = [member.restart_at_s for member in self.members.values() if member.restart_at_s is not None]
            self._wait(min(next_ask_s, next_show_s, *waits) - now_s)
            if self._is_hopeless():
                return self._give_up()
            if not self.ready and not self._late and self.clock() - self.started_s > limits.LEADER_DEADLINE_S:
                self._say_late()
        self.display.note("stopping")
        return 0

    def _is_hopeless(self) -> bool:
        """Whether there is nothing left to supervise, or a node's very first start was refused by what it found."""
        members = self.members.values()
        refused = any(member.exit_code == NodeExit.CONFIG and not member.restarts for member in members)
        return refused or all(member.given_up for member in members)

    def _give_up(self) -> int:
        down = [member for member in self.members.values() if member.given_up]
        for member in down:
            self.display.note(f"node {member.process.node_id} is down for good: {member.reason}")
        first = down[0]
        self.log.event("gave-up", "error", node=first.process.node_id, reason=first.reason)
        if first.exit_code == NodeExit.CONFIG:
            raise ConfigError(first.reason)
        raise Stopped(f"node {first.process.node_id}: {first.reason}")

    def _say_late(self) -> None:
        self._late = True
        states = "; ".join(
            f"node {node_id}: {member.reason or self._note(member) or 'running'}"
            for node_id, member in self.members.items()
        )
        self.log.event("no-leader", "warning", after_s=limits.LEADER_DEADLINE_S, states=states)
        self.display.note(f"no leader after {limits.LEADER_DEADLINE_S:.0f} s; {states}")

    # -- processes ------------------------------------------------------------------------------------------------

    def _start_all(self) -> None:
        self._identity = record.identify(os.getpid())
        self.started_s = self.clock()
        stated = environment.has_state(self.config)
        if not stated:
            self.bootstrap = secrets.randbits(64) | 1  # never 0, which means "unknown" on the wire
        elif empty := sorted(set(self.members) - set(stated)):
            names = ", ".join(map(str, empty))
            self.display.note(f"empty directory of node {names} in a cluster with state: it will not vote (see status)")
        self.log.event("start", config=self.config.source.name, bootstrap=self.bootstrap is not None, pid=os.getpid())
        for member in self.members.values():
            self._start(member)

    def _start(self, member: _Member) -> None:
        process = member.process
        member.restart_at_s = None
        member.started_s = self.clock()
        bootstrap = self.bootstrap
        if member.settled or environment.has_state(self.config, [process.node_id]):
            # An empty directory from here on is a lost one, and a node without memory must not vote.
            bootstrap, member.settled = None, True
        try:
            process.start(self.command(self.config, process.node_id, bootstrap))
        except OSError as error:
            full = NodeExit.NO_ROOM if error.errno in NO_ROOM else NodeExit.DISK
            code = NOT_STARTED if error.errno in SHORTAGES else full
            self._ended(member, code, f"cannot be started: {error}")
            return
        self._selector.register(process.pid_fd, selectors.EVENT_READ, functools.partial(self._reap, member))
        member.identity = record.identify(process.pid) if process.pid else None
        self.log.event("node-started", node=process.node_id, pid=process.pid, restarts=member.restarts)
        self._write_record()

    def _reap(self, member: _Member) -> None:
        fd = member.process.pid_fd
        code = member.process.reap()
        if code is None:
            return
        self._selector.unregister(fd)
        self._ended(member, code, "")

    def _ended(self, member: _Member, code: int, problem: str) -> None:
        node_id = member.process.node_id
        member.status, member.identity, member.exit_code = None, None, code
        if self._stopping:
            self.log.event("node-stopped", node=node_id, code=code)
            return
        now_s = self.clock()
        verdict = member.policy.on_exit(code, now_s, now_s - member.started_s)
        words = problem or (member.process.last_words() if code != NodeExit.CLEAN and code >= 0 else "")
        member.reason = f"{verdict.reason}: {words}" if words else verdict.reason
        member.given_up = verdict.delay_s is None
        if verdict.delay_s is not None:
            member.restarts += 1
            member.restart_at_s = now_s + verdict.delay_s
        self.log.event(
            "node-ended", "error" if member.given_up else "warning", node=node_id, code=code, reason=member.reason,
            restart_in_s=verdict.delay_s,
        )
        then = "not started again" if member.given_up else f"restart in {verdict.delay_s} s"
        self.display.note(f"node {node_id}: {member.reason}; {then}")
        self._write_record()

    def _stop_all(self) -> None:
        """SIGTERM, a deadline, SIGKILL. Leaves no process behind; a second stop request shortens the deadline to 0."""
        self._stopping = max(self._stopping, 1)
        requests = self._stopping
        deadline_s = self.clock() + limits.STOP_DEADLINE_S
        self._signal_all(signal.SIGTERM)
        while any(member.process.pid for member in self.members.values()):
            left_s = deadline_s - self.clock()
            if left_s <= 0 or self._stopping > requests:
                self._signal_all(signal.SIGKILL)
                left_s, requests = limits.STOP_DEADLINE_S, self._stopping
            self._wait(left_s)
        self._write_record()
        self.log.event("stopped")

    def _signal_all(self, number: signal.Signals) -> None:
        for member in self.members.values():
            member.process.send(number)
            if number == signal.SIGTERM:
                member.process.send(signal.SIGCONT)  # a stopped process would otherwise sit out the deadline

    # -- news -----------------------------------------------------------------------------------------------------

    def _wait(self, timeout_s: float) -> None:
        """Sleeps until something happens, and takes it in."""
        for key, _ in self._selector.select(max(0.0, timeout_s)):
            key.data()

    def _lose_lifeline(self) -> None:
        if self.lifeline is not None and not os.read(self.lifeline, 4096):
            self._selector.unregister(self.lifeline)
            self.stop()

    def _hear(self) -> None:
        now_s = self.clock()
        for node_id, status in self.probe.collect().items():
            member = self.members[node_id]
            if member.process.pid is None:
                continue
            member.status, member.status_at_s, member.settled = status, now_s, True
            self._rates.note(node_id, status, now_s)
        if not self.ready and (leader := leader_ready(self._rows(now_s))):
            self.ready = True
            took_s = round(now_s - self.started_s, 3)
            self.log.event("ready", leader=leader["id"], term=leader["term"], took_s=took_s)
            if self.on_ready is not None:
                self.on_ready(leader)

    def _show(self, now_s: float) -> None:
        notes = {node_id: note for node_id, member in self.members.items() if (note := self._note(member))}
        self.display.show(self._rows(now_s), notes, now_s)

    def _rows(self, now_s: float) -> list[NodeFigures]:
        rows = []
        for node_id, member in self.members.items():
            heard = member.status if now_s - member.status_at_s <= limits.FIGURES_FRESH_S else None
            process = self._meter.measure(member.process.pid)
            rate = self._rates.rate(node_id) if heard else None
            rows.append(
                node_figures(self.config, node_id, status=heard, record=member.record, process=process, rate=rate)
            )
        return rows

    def _note(self, member: _Member) -> str:
        if member.process.pid is None:
            return member.reason
        reason = (member.status or {}).get("reason")
        return str(reason) if reason else ""

    def _write_record(self) -> None:
        if self._identity is None:
            return
        nodes = {str(node_id): member.record for node_id, member in self.members.items()}
        try:
            record.write(
                self.config,
                record.SupervisorRecord(
                    supervisor=self._identity, config=str(self.config.path.absolute()), nodes=nodes
                ),
            )
        except OSError as error:  # a full disk must not take the nodes down with the supervisor
            self.log.event("record-not-written", "warning", reason=str(error))


def await_earlier_run(config: Config) -> None:
    """Waits for nodes that a killed supervisor left; they end by themselves. Raises Rejected if one does not."""
    earlier = record.read(config)
    if earlier is None:
        return
    deadline_s = time.monotonic() + limits.EARLIER_RUN_DEADLINE_S
    for node_id, node in earlier.nodes.items():
        if node.process and not record.await_end(node.process, max(0.0, deadline_s - time.monotonic())):
            raise Rejected(f"node {node_id} of an earlier run is still alive; end it first: kill -9 {node.process.pid}")


def check_addresses(config: Config) -> None:
    """Refuses addresses that this machine does not have or that are taken. Raises ConfigError."""
    for key, endpoint in configs.endpoints(config):
        try:
            _bind_once(endpoint)
        except socket.gaierror:
            raise config.source.error(key, f"{endpoint.host} is not a known name", "give an address") from None
        except PermissionError:
            what = f"port {endpoint.port} is reserved for root"
            raise config.source.error(key, what, "give a port from 1024 up") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                remedy = "stop what uses it (ss -ulpn shows what) or give another port"
                raise config.source.error(key, f"{endpoint} is in use", remedy) from None
            what = f"{endpoint.host} is not an address of this machine ({error.strerror})"
            remedy = "start each node on its own host: `quorumd node CONFIG --id N`"
            raise config.source.error(key, what, remedy) from None


def _bind_once(endpoint: Endpoint) -> None:
    host = endpoint.resolve()
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as taken:
        taken.bind((host, endpoint.port))
