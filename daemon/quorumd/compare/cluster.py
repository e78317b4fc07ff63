"""A cluster made for a while, node processes and perhaps a relay between them, and what its counters say.

Made and used on the main thread, which nodes are tied to. All processes end with this one, however it dies.
"""

import secrets
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
from msgspec.structs import replace

from quorumd import limits
from quorumd.chaos.layout import write_configs
from quorumd.chaos.links import LinkState
from quorumd.chaos.relay import Relay
from quorumd.client.probe import Status, StatusProbe, sample
from quorumd.compare.schedule import Contender, Point, timing
from quorumd.config import Config, Quorums, load_config
from quorumd.errors import Stopped
from quorumd.supervisor.figures import NodeFigures, node_figures
from quorumd.supervisor.process import NodeProcess, node_command
from quorumd.types import NodeId


class Counters(NamedTuple):
    """Running counts, all nodes together; `nodes` has those of each (proposed, accepted)."""

    datagrams: int
    bytes: int
    syncs: int
    cpu_s: float
    nodes: list[NodeFigures]


def settings(config: Config, contender: Contender, point: Point) -> Config:
    """The config of one contender's cluster at one point; its nodes are not those."""
    heartbeat_ms, election_timeout_ms = timing(
        point, config.timing.heartbeat_ms, config.timing.election_timeout_ms
    )
    quorums = Quorums(phase1=contender.quorums[0], phase2=contender.quorums[1]) if contender.quorums else None
    segment_mib = min(config.storage.segment_mib, limits.COMPARE_SEGMENT_MIB)
    return replace(
        config, engine=contender.engine, quorums=quorums, key_file=None,
        timing=replace(
            config.timing, heartbeat_ms=heartbeat_ms, election_timeout_ms=election_timeout_ms,
            session_ttl_ms=limits.COMPARE_SESSION_TTL_MS,
        ),
        storage=replace(config.storage, segment_mib=segment_mib),
    )


class Cluster:
    """One contender's nodes at one point. Use in a `with`."""

    def __init__(self, config: Config, contender: Contender, point: Point, directory: Path, seed: int) -> None:
        self.contender = contender
        self.point = point
        self.nodes: tuple[NodeId, ...] = tuple(range(1, point.nodes + 1))
        directory.mkdir()
        state = LinkState(loss=point.loss_percent / 100, delay_ms=point.delay_ms, spread=0.0)
        lanes, self.config = write_configs(
            settings(config, contender, point), directory, self.nodes, seed, relayed=point.relayed
        )
        self._lanes = [lane._replace(state=state) for lane in lanes]
        self._configs = {node: load_config(directory / f"node-{node}.yaml") for node in self.nodes}
        log_bytes, log_keep = config.supervisor.log_max_mib * limits.MIB, config.supervisor.log_keep
        self._processes: dict[NodeId, NodeProcess] = {}
        for node, own in self._configs.items():
            own.data_path.mkdir(parents=True)
            self._processes[node] = NodeProcess(node, own.node_path(node), log_bytes, log_keep)
        self._probe = StatusProbe(self.config, None)
        self._relay: Relay | None = None
        self._cpu_of_the_dead_s = 0.0

    def __enter__(self) -> "Cluster":
        """Starts everything and waits for a leader that serves. Raises Stopped, OSError."""
        try:
            self._probe.open()
            if self._lanes:
                self._relay = Relay(self._lanes)
            cluster = secrets.randbits(64) | 1
            for node in self.nodes:
                self._processes[node].start(node_command(self._configs[node], node, cluster))
            self.settle()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """No process of it is left when this returns."""
        self.kill(self.up())
        self._probe.close()
        if self._relay is not None:
            self._relay.close()

    # -- what is done to it -------------------------------------------------------------------------------------------

    def up(self) -> list[NodeId]:
        """The nodes that run."""
        return [node for node, process in self._processes.items() if process.pid is not None]

    def kill(self, nodes: Iterable[NodeId]) -> None:
        """SIGKILL; they are gone when this returns. Raises Stopped."""
        processes = [self._processes[node] for node in nodes]
        for process in processes:
            self._cpu_of_the_dead_s += _cpu_s(process.pid)
            process.send(signal.SIGKILL)
        for process in processes:
            self._until(partial(_ended, process), limits.CHAOS_KILL_S, "a node ends after its kill -9")

    def restart(self) -> None:
        """Starts whatever is down, and waits until all agree again. Raises Stopped, OSError."""
        for node, process in self._processes.items():
            if process.pid is None:
                process.start(node_command(self._configs[node], node, None))
        self.settle()

    # -- what it says -------------------------------------------------------------------------------------------------

    def statuses(self, timeout_s: float = limits.COMPARE_REPLY_S) -> dict[NodeId, Status]:
        """Of every node that answers in time."""
        return sample(self._probe, len(self.up()), timeout_s)

    def leader(self) -> NodeId:
        """The node that leads in the newest term; waits until one does. Raises Stopped."""
        return self._until(self._leader, limits.COMPARE_SETTLE_S, "a node leads")

    def _leader(self) -> NodeId:
        leaders = [
            (_number(status, "term"), node) for node, status in self.statuses().items() if status["role"] == "leader"
        ]
        return max(leaders, default=(0, 0))[1]

    def settle(self) -> None:
        """Waits until every node follows one leader and has applied what it committed. Raises Stopped."""
        self._until(self._settled, limits.COMPARE_SETTLE_S, "all nodes follow one leader")

    def _settled(self) -> bool:
        for node, process in self._processes.items():
            if process.reap() is not None:
                raise Stopped(f"node {node} of {self.contender.name} ended: {process.last_words()}")
        found = self.statuses(limits.COMPARE_POLL_S * 5)  # a node that is still starting does not answer
        agreed = {(each.get("leader"), each.get("term"), each.get("applied")) for each in found.values()}
        return len(found) == len(self.nodes) and len(agreed) == 1 and all(
            status.get("voter") and status.get("leader") and status.get("applied") for status in found.values()
        )

    def _until(self, condition: Callable[[], int], timeout_s: float, what: str) -> int:
        """Asks `condition` until it is not 0 or False; its value. Raises Stopped when the time is up."""
        deadline_s = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() >= deadline_s:
                raise Stopped(f"{self.contender.name}, {self.point.nodes} nodes: not within {timeout_s:g} s: {what}")
            time.sleep(limits.COMPARE_POLL_S)
        return value

    def counters(self) -> Counters:
        """Everything that is counted, now. Raises Stopped if a node does not answer."""
        found = self.statuses()
        if len(found) < len(self.up()):
            raise Stopped(f"{self.contender.name}, {self.point.nodes} nodes: not every node answers")
        sent = [status["peer_sent"] for status in found.values()]
        figures = [
            node_figures(self.config, node, status=found.get(node), record=None, process=(None, None), rate=None)
            for node in self.nodes
        ]
        return Counters(
            datagrams=sum(_number(each, "datagrams") for each in sent),
            bytes=sum(_number(each, "bytes") for each in sent),
            syncs=sum(_number(status, "syncs") for status in found.values()),
            cpu_s=self._cpu_of_the_dead_s + sum(_cpu_s(process.pid) for process in self._processes.values()),
            nodes=figures,
        )


def _ended(process: NodeProcess) -> bool:
    return process.pid is None or process.reap() is not None


def _number(status: object, key: str) -> int:
    value = status.get(key) if isinstance(status, dict) else None
    return value if isinstance(value, int) else 0


def _cpu_s(pid: int | None) -> float:
    """Of a process that is not reaped yet."""
    if pid is None:
        return 0.0
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
