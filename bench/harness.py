"""What the measuring scripts share: a real cluster started by `quorumd up`, a load beside it, a verdict.

    with Cluster() as cluster:                  # private loopback address, data below the temporary directory
        leader = cluster.settle()               # one leader, everybody has applied the same
        cluster.signal(leader, signal.SIGKILL)  # only processes that the cluster's own supervisor names
        cluster.until(lambda: cluster.caught_up(leader), "the killed node is back")

Nothing sleeps for a state: `until` asks again, up to a deadline. Every script says what it sees on stderr and puts
one JSON object on stdout; its exit code is 1 if a criterion does not hold.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from addresses import free_ports, private_host  # noqa: E402 - found by the line above

from quorumd import config as configs  # noqa: E402
from quorumd.client import Client  # noqa: E402
from quorumd.client.probe import Status, StatusProbe, sample  # noqa: E402
from quorumd.supervisor import record  # noqa: E402
from quorumd.types import ENGINES  # noqa: E402
from quorumd_fastpath.load import LoadGenerator  # noqa: E402
from quorumd_fastpath.udp import pack_addr  # noqa: E402

DEADLINE_S = 60.0
POLL_S = 0.02  # between two questions; the nodes share the machine with whoever asks
ENDING = (signal.SIGTERM, signal.SIGINT)
ANSWER_S = 0.3  # a node that runs answers in far less


class Failed(Exception):
    """The cluster did not get where it should have; the message says what was waited for."""


# -- the cluster ----------------------------------------------------------------------------------------------------


def own_addresses(count: int) -> tuple[str, list[int]]:
    """A loopback address that is this process's alone, and so many free UDP ports of it."""
    host = private_host()
    return host, free_ports(host, count)


class Cluster:
    """A cluster under its own supervisor. `settings`: further lines of its config, YAML."""

    def __init__(self, settings: str = "", nodes: int = 3, engine: str = "raft") -> None:
        self.base = Path(tempfile.mkdtemp(prefix="quorumd-bench-"))
        self.host, ports = own_addresses(2 * nodes)
        members = [
            f"  - {{id: {i + 1}, peer: '{self.host}:{ports[2 * i]}', client: '{self.host}:{ports[2 * i + 1]}'}}"
            for i in range(nodes)
        ]
        self.path = self.base / "cluster.yaml"
        lines = ["cluster: bench", "data_dir: data", f"engine: {engine}", settings, "nodes:", *members, ""]
        self.path.write_text("\n".join(lines))
        self.config = configs.load_config(self.path)
        self.members = self.config.members
        self._probe = StatusProbe(self.config, None)

    def __enter__(self) -> Self:
        try:
            self.quorumd("up", "--detach", "--fresh")
            self._probe.open()
            self.settle()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            say(f"the logs are kept in {self.base}")
        self.close(keep=error is not None)

    def close(self, *, keep: bool = False) -> None:
        """Stops what runs and, unless `keep`, removes every file."""
        self._probe.close()
        running = record.running(self.config)
        if running is not None:
            for node in running.nodes.values():
                if node.process is not None:
                    record.kill(node.process, signal.SIGCONT)
            self.quorumd("down")
        if not keep:
            shutil.rmtree(self.base, ignore_errors=True)

    def quorumd(self, *arguments: str) -> str:
        """Runs the command line on this cluster; its stdout. Raises Failed with what it complained about."""
        command = [sys.executable, "-P", "-m", "quorumd", "--config", str(self.path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False)
        if done.returncode:
            raise Failed(f"quorumd {' '.join(arguments)}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    # -- what it says of itself

    def figures(self) -> dict[int, Status]:
        """Every node's STATUS, of those that answer."""
        return sample(self._probe, len(self.members), ANSWER_S)

    def leader(self, figures: Mapping[int, Status] | None = None) -> int:
        """The node that leads in the newest term; 0: none does."""
        known = self.figures() if figures is None else figures
        leaders = {number(status, "term"): node for node, status in known.items() if status.get("role") == "leader"}
        return leaders[max(leaders)] if leaders else 0

    @property
    def cluster_id(self) -> int:
        """As the wire has it."""
        return int(str(next(iter(self.figures().values()))["cluster"]), 16)

    @property
    def endpoints(self) -> dict[int, str]:
        """Node id -> "host:port" of its client address."""
        return {node.id: node.client for node in self.config.nodes}

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
        """Asks `condition` until it is true; its value. Raises Failed when the time is up."""
        deadline_s = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() >= deadline_s:
                states = {
                    node: {key: status.get(key) for key in ("role", "term", "leader", "commit", "applied", "reason")}
                    for node, status in self.figures().items()
                }
                raise Failed(f"not within {timeout_s:g} s: {what}; nodes: {states}")
            time.sleep(POLL_S)
        return value

    def settle(self) -> int:
        """Waits until one node leads, all know it, and all have applied the same; the leader."""
        return int(self.until(self._settled, "one leader, and all nodes have applied the same"))

    def _settled(self) -> int:
        figures = self.figures()
        leader = self.leader(figures)
        agreed = {(each["leader"], each["term"], each["commit"], each["applied"]) for each in figures.values()}
        return leader if leader and len(figures) == len(self.members) and len(agreed) == 1 else 0

    def caught_up(self, node: int) -> bool:
        """Whether a node follows (or leads), and has applied all that was committed a moment ago, load or not."""
        earlier = self.figures()
        leader = self.leader(earlier)
        committed = number(earlier.get(leader, {}), "commit")
        later = self.figures().get(node, {})
        return bool(leader) and later.get("leader") == leader and number(later, "applied") >= committed

    # -- what is done to it

    def processes(self) -> dict[int, record.ProcessRecord]:
        """The nodes that run, as the supervisor says."""
        running = record.running(self.config)
        if running is None:
            raise Failed("the supervisor is gone")
        return {int(node): each.process for node, each in running.nodes.items() if each.process is not None}

    def signal(self, node: int, what: signal.Signals) -> None:
        """Signals one node's process. Raises Failed if it does not run."""
        process = self.processes().get(node)
        if process is None or not record.kill(process, what):
            raise Failed(f"node {node} does not run")

    def restarts(self) -> dict[int, int]:
        """How often each node was started again."""
        running = record.running(self.config)
        return {int(node): each.restarts for node, each in running.nodes.items()} if running else {}

    def client(self, timeout: float = 10.0) -> Client:
        """A client that knows every node."""
        return Client.connect(list(self.endpoints.values()), timeout=timeout)


def number(status: Mapping[str, object], key: str) -> int:
    """A count in a STATUS reply; 0 if it is not there."""
    value = status.get(key)
    return value if isinstance(value, int) else 0


# -- load -----------------------------------------------------------------------------------------------------------


def load_generator(cluster: Cluster, *, clients: int, **options: Any) -> LoadGenerator:
    """An open generator with all its sessions. options: LoadGenerator's."""
    generator = LoadGenerator(_raw(cluster.endpoints), cluster.cluster_id, clients=clients, **options)
    generator.open(cluster.host)
    if not generator.open_sessions(DEADLINE_S):
        raise Failed(f"{clients} sessions did not open")
    return generator


def _raw(endpoints: Mapping[int, str]) -> list[tuple[int, bytes]]:
    parted = {node: endpoint.rpartition(":") for node, endpoint in endpoints.items()}
    return [(node, pack_addr(host, int(port))) for node, (host, _, port) in parted.items()]


class LoadProcess:
    """A LoadGenerator in a process of its own, so that what is measured beside it need not wait for its turn."""

    def __init__(self, cluster: Cluster, *, clients: int, **options: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, _raw(cluster.endpoints), cluster.cluster_id, cluster.host, {"clients": clients, **options})
        self._process = context.Process(target=_generate, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        if not self.ask("open"):
            raise Failed(f"{clients} sessions did not open")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join(DEADLINE_S)

    def ask(self, command: str, argument: float = 0.0) -> Any:
        """open, rate N, figures, pause, resume: see `_generate`."""
        self._pipe.send((command, argument))
        if not self._pipe.poll(2 * DEADLINE_S):
            raise Failed(f"the load generator does not answer to {command}")
        return self._pipe.recv()

    def pause(self) -> list[int]:
        """Begins nothing new and takes in what was answered; by client, the last operation acknowledged."""
        return list(self.ask("pause", 0.1))

    def measure(self, seconds: float) -> float:
        """Operations a second over so long."""
        begun, begun_s = self.ask("figures")["done"], time.monotonic()
        time.sleep(seconds)
        return float((self.ask("figures")["done"] - begun) / (time.monotonic() - begun_s))


def _generate(
    pipe: "Connection[Any, Any]", nodes: Sequence[tuple[int, bytes]], cluster: int, host: str, options: dict[str, Any]
) -> None:
    """The load process: runs until the other end of the pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and the pipe with it
    generator = LoadGenerator(nodes, cluster, **options)
    generator.open(host)
    paused = False
    try:
        while True:
            while paused or pipe.poll():
                command, argument = pipe.recv()
                paused = command == "pause" or (paused and command != "resume")
                pipe.send(_obey(generator, command, argument))
            generator.run(0.05)
    except (EOFError, BrokenPipeError):
        return
    finally:
        generator.close()


def _obey(generator: LoadGenerator, command: str, argument: float) -> Any:
    if command == "open":
        return generator.open_sessions(DEADLINE_S)
    if command == "rate":
        generator.set_rate(argument)
    if command == "pause":
        generator.drain(argument)
        return generator.acknowledged()
    return {key: getattr(generator, key) for key in ("done", "errors", "resends", "redirects")}


# -- figures --------------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile, share in 0..1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def latency_us(histogram: Sequence[tuple[int, int]]) -> dict[str, int]:
    """p50, p90, p99, p999 and max of LoadGenerator.latencies()."""
    total = sum(count for _, count in histogram)
    found = {}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
        seen = 0
        for micros, count in histogram:
            seen += count
            if seen >= share * total:
                found[name] = micros
                break
    return {**found, "max": histogram[-1][0] if histogram else 0}


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = cpus[0].partition(":")[2].strip() if cpus else platform.machine()
    revision = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "file_system": file_system(Path(tempfile.gettempdir())),
        "python": platform.python_version(),
        "revision": revision.stdout.strip(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`."""
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(len(point), kind) for _, point, kind in mounts if path.resolve().is_relative_to(point)]
    return max(holding)[1]


def say(line: str) -> None:
    """For people."""
    print(line, file=sys.stderr, flush=True)


class Report:
    """Criteria and figures of one script."""

    def __init__(self, script: str) -> None:
        self.script = script
        self.machine = machine()
        self.begun_s = time.monotonic()
        self.criteria: list[dict[str, Any]] = []

    def judge(self, what: str, value: float, most: float | None = None, least: float | None = None) -> None:
        """One criterion: `value` is at most `most`, or at least `least`."""
        passed = (most is None or value <= most) and (least is None or value >= least)
        bound = f"<= {most:g}" if most is not None else f">= {least:g}"
        self.criteria.append({"what": what, "value": round(value, 4), "bound": bound, "passed": passed})
        say(f"{'ok    ' if passed else 'FAILED'} {what}: {value:.4g} (bound {bound})")

    def finish(self, figures: Mapping[str, Any]) -> int:
        """Puts everything on stdout; the exit code."""
        passed = all(criterion["passed"] for criterion in self.criteria)
        whole = {
            "script": self.script, "passed": passed, "criteria": self.criteria, "figures": dict(figures),
            "machine": self.machine, "seconds": round(time.monotonic() - self.begun_s, 1),
        }
        print(json.dumps(whole, indent=2))
        return 0 if passed else 1


def end(number: int, frame: object) -> None:
    """A signal handler: the exit code is a shell's for that signal. A second one does not disturb the cleaning up."""
    for each in ENDING:
        signal.signal(each, lambda *_: None)  # not SIG_IGN, which `quorumd down` would inherit
    sys.exit(128 + number)


def end_by_signal() -> None:
    """From now on SIGTERM and Ctrl-C end this process by way of all its `finally`, so that no cluster stays behind."""
    for each in ENDING:
        signal.signal(each, end)


@contextmanager
def reported(script: str) -> Iterator[Report]:
    """A Report; what goes wrong on the way is told as JSON too, with exit code 1."""
    end_by_signal()
    report = Report(script)
    try:
        yield report
    except Failed as failure:
        say(f"FAILED {failure}")
        report.criteria.append({"what": str(failure), "value": 0, "bound": "", "passed": False})
        report.finish({})
        sys.exit(1)


def arguments(description: str, **defaults: float) -> argparse.Namespace:
    """--NAME for each default, of its type; and --engine."""
    parser = parser_of(description, **defaults)
    return parser.parse_args()


def parser_of(description: str, **defaults: float) -> argparse.ArgumentParser:
    """As `arguments`, for a script with options of its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"({default})")
    parser.add_argument("--engine", choices=ENGINES, default="raft", help="(raft)")
    return parser
