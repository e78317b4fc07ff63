"""`quorumd bench`: how fast is this cluster, on this machine, for this workload.

A closed loop: each client has one operation in flight. The load side runs in C on one socket and one thread, so what is
measured is the cluster; it shares the processors with the nodes when they are on this machine.
"""

import json
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import click
import psutil
import yaml
from hdrh.histogram import HdrHistogram

from quorumd import limits
from quorumd.cli.options import Finite, config_option, load
from quorumd.client.probe import Status, StatusProbe, resolved, sample
from quorumd.config import Config, load_config
from quorumd.endpoint import family_of
from quorumd.environment import read_key
from quorumd.errors import Rejected
from quorumd.supervisor.launch import temporary
from quorumd.supervisor.sandbox import make_directory, private_host, settings_of
from quorumd_fastpath.load import LoadGenerator
from quorumd_fastpath.udp import pack_addr

WARM_UP_S: Final = 1.0
STEP_S: Final = 0.1  # between updates of the progress bar
OPENING_S: Final = 20.0  # to open all sessions
REPLY_S: Final = 1.0
PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
LONGEST_US: Final = 600_000_000

Progress = Callable[[float], None]
"""Takes the share that is done, 0 to 1."""


class Plan(NamedTuple):
    """The workload. reads: percent of the operations that read; seconds: without the warm-up."""

    clients: int
    seconds: float
    key_bytes: int
    value_bytes: int
    per_datagram: int
    reads: int


@click.command()
@click.argument("config_path", metavar="[CONFIG]", required=False)
@click.option("--clients", type=click.IntRange(1), default=1000, show_default=True, help="Each has one in flight.")
@click.option("--seconds", type=Finite(0.1), default=5.0, show_default=True, help="To measure.")
@click.option("--key-bytes", type=click.IntRange(8), default=16, show_default=True)
@click.option("--value-bytes", type=click.IntRange(8), default=256, show_default=True)
@click.option(
    "--per-datagram", type=click.IntRange(1), default=1, show_default=True,
    help="Operations of different clients in one datagram.",
)
@click.option("--reads", type=click.IntRange(0, 100), default=0, show_default=True, metavar="PERCENT")
@click.option(
    "--fresh", is_flag=True,
    help="Measure a cluster with the settings of CONFIG that is made for this and taken down afterwards.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@config_option
def bench(config_path: str | None, *, fresh: bool, as_json: bool, **plan: Any) -> None:
    """Measure throughput and latency of the running cluster, or with --fresh of a temporary one.

    The keys written begin with "load-". CPU time and memory are those of the nodes, if they are on this machine.
    """
    config = load(config_path)
    workload = Plan(**plan)
    with fresh_cluster(config) if fresh else _as_it_is(config) as target, progress_bar(workload.seconds) as progress:
        report = measure(target, workload, progress)
    click.echo(json.dumps(report) if as_json else human(report))


def measure(config: Config, plan: Plan, progress: Progress) -> dict[str, Any]:
    """Runs the load and gives back the report. Raises Rejected if the cluster does not serve."""
    generator, nodes = prepare(config, plan)
    try:
        if not generator.open_sessions(OPENING_S):
            raise Rejected("the cluster does not serve: not all sessions could be opened; see `quorumd status`")
        generator.run(min(WARM_UP_S, plan.seconds))
        generator.reset()
        meter = NodeMeter(nodes)
        begun_s = time.monotonic()
        elapsed_s = 0.0
        while elapsed_s < plan.seconds:
            generator.run(min(STEP_S, plan.seconds - elapsed_s))
            elapsed_s = time.monotonic() - begun_s
            progress(min(1.0, elapsed_s / plan.seconds))
        cpu_s, rss_bytes = meter.read()
        if not generator.done:
            refused = f", and {generator.errors:,} were refused" if generator.errors else ""
            raise Rejected(f"no operation was done in {elapsed_s:.1f} s{refused}; see `quorumd status`")
        return report_of(config, plan, generator, elapsed_s, cpu_s=cpu_s, rss_bytes=rss_bytes)
    finally:
        generator.close()


def prepare(config: Config, plan: Plan) -> tuple[LoadGenerator, list[psutil.Process]]:
    """The generator, its socket open, and the nodes' processes on this machine. Raises Rejected, UsageError."""
    if config.key_file is not None:
        raise Rejected("bench sends no MACs and cannot measure a cluster with a key_file; use --fresh")
    probe = StatusProbe(config, read_key(config)).open()
    try:
        found = sample(probe, len(config.nodes), REPLY_S)
    finally:
        probe.close()
    clusters = {str(status.get("cluster")) for status in found.values() if status.get("voter")}
    if not clusters:
        raise Rejected(f"no node of cluster {config.cluster} answers; start it with `quorumd up`, or use --fresh")
    addresses = resolved(config)
    try:
        generator = LoadGenerator(
            [(node_id, pack_addr(*address)) for node_id, address in addresses.items()], int(clusters.pop(), 16),
            clients=plan.clients, per_datagram=plan.per_datagram, key_bytes=plan.key_bytes,
            value_bytes=plan.value_bytes, reads_percent=plan.reads, mtu=config.mtu_bytes,
            seed=secrets.randbits(39) | 1,  # sessions of an earlier run may still be open
        )
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context(silent=True)) from None
    generator.open(_own_address(addresses.values()))
    return generator, _processes(config, found)


def _own_address(targets: Iterable[tuple[str, int]]) -> str:
    """The address of this machine from which the nodes are reached."""
    target = next(iter(targets))
    with socket.socket(family_of(target[0]), socket.SOCK_DGRAM) as unsent:
        unsent.connect(target)
        return str(unsent.getsockname()[0])


def _processes(config: Config, found: dict[int, Status]) -> list[psutil.Process]:
    """The nodes' processes, or none at all unless every node is here: half a figure would mislead."""
    processes = []
    for node in config.nodes:
        pid = found.get(node.id, {}).get("pid")
        if not isinstance(pid, int) or not node.client_endpoint.loopback:
            return []
        try:
            processes.append(psutil.Process(pid))
        except psutil.Error:
            return []
    return processes


class NodeMeter:
    """CPU time that the nodes spend between its making and `read`."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self._begun = {process: _cpu_s(process) for process in processes}

    def read(self) -> tuple[float | None, int | None]:
        """(seconds of CPU of all nodes together, resident bytes of the largest); (None, None) if one is gone."""
        if not self._begun:
            return None, None
        try:
            cpu_s = sum(_cpu_s(process) - begun for process, begun in self._begun.items())
            return cpu_s, max(process.memory_info().rss for process in self._begun)
        except psutil.Error:
            return None, None


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def report_of(
    config: Config, plan: Plan, generator: LoadGenerator, elapsed_s: float, *, cpu_s: float | None,
    rss_bytes: int | None,
) -> dict[str, Any]:
    """The figures in the shape that --json prints."""
    histogram = HdrHistogram(1, LONGEST_US, 3)
    for value_us, count in generator.latencies():
        histogram.record_value(max(1, min(value_us, LONGEST_US)), count)
    longest_us = generator.max_us
    # The histogram answers with the upper edge of a bucket, which may lie above the longest there was.
    latency_us = {
        name: min(int(histogram.get_value_at_percentile(share)), longest_us) for name, share in PERCENTILES.items()
    }
    done = generator.done
    return {
        "engine": config.engine, "nodes": len(config.nodes), "clients": plan.clients, "key_bytes": plan.key_bytes,
        "value_bytes": plan.value_bytes, "per_datagram": plan.per_datagram, "seconds": round(elapsed_s, 3),
        "ops": done, "ops_per_s": round(done / elapsed_s, 1),
        "latency_us": {**latency_us, "max": longest_us}, "errors": generator.errors,
        "cpu_us_per_op": None if cpu_s is None else round(cpu_s * 1e6 / done, 2), "rss_bytes": rss_bytes,
    }


def human(report: dict[str, Any]) -> str:
    """The report for people."""
    latency = "  ".join(f"{name} {value / 1000:.2f}" for name, value in report["latency_us"].items())
    lines = [
        f"{report['ops_per_s']:,.0f} operations/s: {report['ops']:,} in {report['seconds']:.1f} s, "
        f"{report['errors']} errors",
        f"latency in ms: {latency}",
    ]
    asked = report["ops"] + report["errors"]
    if report["errors"] > limits.LOAD_ERRORS_SHARE * asked:
        share = f"{report['errors'] / asked:.0%}"
        lines.append(f"{share} of the operations were refused, and all figures are of the others: see `quorumd status`")
    if report["cpu_us_per_op"] is not None:
        lines.append(
            f"nodes: {report['cpu_us_per_op']:.1f} us of CPU an operation (all {report['nodes']} together), "
            f"{report['rss_bytes'] / 1048576:.0f} MiB resident (the largest)"
        )
    return "\n".join(lines)


# -- around the measurement -----------------------------------------------------------------------------------------


@contextmanager
def _as_it_is(config: Config) -> Iterator[Config]:
    yield config


@contextmanager
def fresh_cluster(config: Config) -> Iterator[Config]:
    """A cluster like `config` on a loopback address of its own, in a directory beside config's that is removed."""
    directory = make_directory(config, "bench")
    try:
        path = directory / "bench.yaml"
        path.write_text(yaml.safe_dump(_alike(config, private_host())))
        with temporary(path):
            yield load_config(path)
    finally:
        shutil.rmtree(directory)


def _alike(config: Config, host: str) -> dict[str, Any]:
    plain = settings_of(config)
    plain["data_dir"] = "state"
    for i, node in enumerate(plain["nodes"]):
        node |= {"peer": f"{host}:{7101 + i}", "client": f"{host}:{7201 + i}"}
    return plain


@contextmanager
def progress_bar(seconds: float) -> Iterator[Progress]:
    """A bar on stderr if that is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda share: None
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.progress import Progress as Bar  # noqa: PLC0415

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"measuring for {seconds:g} s", total=1.0)
        yield lambda share: bar.update(task, completed=share)
