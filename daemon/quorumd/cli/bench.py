"""`bench`: how fast is this cluster? The load side is fastpath's LoadGenerator; this is its dashboard."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from quorumd.cli.options import config_option, load
from quorumd.errors import Rejected, Timeout

if TYPE_CHECKING:
    from quorumd.config import Config
    from quorumd_fastpath.load import LoadGenerator

_SLICE_S: Final = 0.1  # between two looks at the figures
_WARM_UP_S: Final = 0.5
_OPEN_S: Final = 30.0  # for the clients' sessions
_REPLY_S: Final = 1.0
_MAX_LATENCY_US: Final = 60_000_000
_TEMPORARY: Final = """\
cluster: bench
engine: raft
data_dir: {directory}
nodes:
  - {{id: 1, peer: "{host}:7101", client: "{host}:7201"}}
  - {{id: 2, peer: "{host}:7102", client: "{host}:7202"}}
  - {{id: 3, peer: "{host}:7103", client: "{host}:7203"}}
"""


class Usage(NamedTuple):
    """What the nodes used so far, together: CPU seconds, and resident bytes now."""

    cpu_s: float
    rss_bytes: int


@click.command()
@click.option("--clients", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Logical clients.")
@click.option("--seconds", type=click.FloatRange(0.1, 86_400), default=5.0, show_default=True, help="How long.")
@click.option("--key-bytes", type=click.IntRange(8, 32_768), default=16, show_default=True)
@click.option("--value-bytes", type=click.IntRange(8, 1_048_576), default=256, show_default=True)
@click.option(
    "--per-datagram", type=click.IntRange(1, 1024), default=1, show_default=True,
    help="Operations of different clients that share a datagram.",
)
@click.option(
    "--reads", "reads_percent", type=click.IntRange(0, 100), default=0, show_default=True, metavar="PERCENT",
    help="Share of linearizable reads.",
)
@click.option("--fresh", is_flag=True, help="Against a three-node cluster made for this run and removed after it.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@config_option
def bench(fresh: bool, as_json: bool, **workload: Any) -> None:
    """Measure durable operations per second and their latency.

    Every client has a session of its own and one operation in flight. Load and nodes share this machine.
    """
    if fresh:
        with temporary_cluster() as config:
            result = measure(config, **workload)
    else:
        result = measure(load(), **workload)
    click.echo(json.dumps(result) if as_json else describe(result))


@contextmanager
def temporary_cluster() -> "Iterator[Config]":
    """A cluster for one run. Its loopback address comes from our pid, so it meets no other one's ports."""
    from quorumd.config import load_config  # noqa: PLC0415
    from quorumd.supervisor.launch import temporary  # noqa: PLC0415

    pid = os.getpid()
    host = f"127.{64 + (pid >> 16) % 64}.{(pid >> 8) % 256}.{pid % 254 + 1}"
    with tempfile.TemporaryDirectory(prefix="quorumd-bench-") as directory:
        path = Path(directory, "cluster.yaml")
        path.write_text(_TEMPORARY.format(directory=directory, host=host))
        with temporary(path):
            yield load_config(path)


def measure(
    config: "Config", *, clients: int, seconds: float, key_bytes: int, value_bytes: int, per_datagram: int,
    reads_percent: int,
) -> dict[str, Any]:
    """One run against a running cluster, as the object that --json prints. Raises Rejected, Timeout."""
    if config.key_file is not None:
        raise Rejected("bench speaks no MAC: run it against a cluster without key_file, or with --fresh")
    nodes = _nodes(config)
    try:
        generator = _generator(
            config, nodes, clients=clients, key_bytes=key_bytes, value_bytes=value_bytes, per_datagram=per_datagram,
            reads_percent=reads_percent,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        if not generator.open_sessions(_OPEN_S):
            raise Timeout(f"{clients} sessions were not open within {_OPEN_S:g} s; look at `quorumd status`")
        generator.run(_WARM_UP_S)
        generator.reset()
        before, began = _usage(nodes), time.perf_counter()
        _run(generator, seconds)
        took, after = time.perf_counter() - began, _usage(nodes)
    finally:
        generator.close()
    ops = generator.done
    return {
        "engine": config.engine,
        "nodes": len(config.nodes),
        "clients": clients,
        "key_bytes": key_bytes,
        "value_bytes": value_bytes,
        "per_datagram": per_datagram,
        "seconds": round(took, 3),
        "ops": ops,
        "ops_per_s": round(ops / took, 1),
        "latency_us": _percentiles(generator.latencies(), generator.max_us),
        "errors": generator.errors,
        "cpu_us_per_op": round((after.cpu_s - before.cpu_s) * 1e6 / max(ops, 1), 2),
        "rss_bytes": after.rss_bytes,
    }


def _nodes(config: "Config") -> "dict[int, dict[str, Any]]":
    """What each node that runs says of itself, by id. Raises Rejected if none answers."""
    from quorumd.client.probe import StatusProbe, sample  # noqa: PLC0415

    probe = StatusProbe(config, None).open()
    try:
        found = {node: dict(status) for node, status in sample(probe, len(config.nodes), _REPLY_S).items()}
    finally:
        probe.close()
    if not found:
        raise Rejected("no node answers; start the cluster with `quorumd up`, or add --fresh")
    return found


def _generator(config: "Config", nodes: "dict[int, dict[str, Any]]", **workload: Any) -> "LoadGenerator":
    from quorumd.endpoint import numeric  # noqa: PLC0415
    from quorumd_fastpath.load import LoadGenerator  # noqa: PLC0415
    from quorumd_fastpath.udp import pack_addr  # noqa: PLC0415

    addresses = [(node.id, pack_addr(numeric(node.client_endpoint.host), node.client_endpoint.port))
                 for node in config.nodes]
    cluster = int(next(iter(nodes.values()))["cluster"], 16)
    seed = time.time_ns() >> 10 & 0xFFFF_FFFF  # sessions of an earlier run must not be met again
    generator = LoadGenerator(addresses, cluster, mtu=config.mtu_bytes, seed=seed, **workload)
    own = "127.0.0.1" if all(node.client_endpoint.loopback for node in config.nodes) else "0.0.0.0"
    generator.open("::1" if config.nodes[0].client_endpoint.family == 6 else own)
    return generator


def _run(generator: "LoadGenerator", seconds: float) -> None:
    """Runs the load, with a progress bar if somebody looks."""
    if not sys.stderr.isatty():
        generator.run(seconds)
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    began, done = time.perf_counter(), 0
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("bench", total=seconds, rate="")
        while (passed := time.perf_counter() - began) < seconds:
            piece = min(_SLICE_S, seconds - passed)
            generator.run(piece)
            rate = (generator.done - done) / piece
            done = generator.done
            progress.update(task, completed=time.perf_counter() - began, rate=f"{rate:,.0f} ops/s")


def _usage(nodes: "dict[int, dict[str, Any]]") -> Usage:
    """CPU and memory of the nodes that run on this machine."""
    import psutil  # noqa: PLC0415

    cpu_s, rss_bytes = 0.0, 0
    for status in nodes.values():
        try:
            process = psutil.Process(int(status["pid"]))
            times = process.cpu_times()
            cpu_s += times.user + times.system
            rss_bytes += process.memory_info().rss
        except (psutil.Error, KeyError):
            continue  # on another machine, or gone
    return Usage(cpu_s, rss_bytes)


def _percentiles(latencies: list[tuple[int, int]], max_us: int) -> dict[str, int]:
    from hdrh.histogram import HdrHistogram  # noqa: PLC0415

    histogram = HdrHistogram(1, _MAX_LATENCY_US, 3)
    for micros, count in latencies:
        histogram.record_value(max(micros, 1), count)
    wanted = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
    return {**{name: int(histogram.get_value_at_percentile(p)) for name, p in wanted.items()}, "max": max_us}


def describe(result: dict[str, Any]) -> str:
    """The result for people."""
    latency = result["latency_us"]
    times = "  ".join(f"{name} {latency[name] / 1000:.2f} ms" for name in ("p50", "p90", "p99", "p999", "max"))
    return (
        f"{result['ops_per_s']:,.0f} operations/s  ({result['ops']:,} in {result['seconds']:.1f} s, "
        f"{result['clients']} clients, {result['key_bytes']} B keys, {result['value_bytes']} B values, "
        f"{result['per_datagram']} per datagram, durable on {result['nodes'] // 2 + 1} of {result['nodes']} nodes)\n"
        f"latency  {times}\n"
        f"errors {result['errors']}  node CPU {result['cpu_us_per_op']:.1f} us/op  "
        f"node memory {result['rss_bytes'] / 2**20:.0f} MiB"
    )
