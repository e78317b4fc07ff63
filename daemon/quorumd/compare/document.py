"""The result as plain data: what the JSON file holds, and all that advice and pages know.

Shape: {"format", "quorumd", "begun", "seconds", "full", "workload", "machine", "axes": {factor: [point number]},
"points": [{"nodes", "loss_percent", "delay_ms", "relayed", "heartbeat_ms", "election_timeout_ms",
"contenders": [figures]}], "advice"}. Figures are those of `figures_of`; "failed" is a sentence, empty if all went well.
"""

import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from hdrh.histogram import HdrHistogram

import quorumd
from quorumd.compare.measure import Round
from quorumd.compare.run import Measured, PointResult
from quorumd.compare.schedule import axes
from quorumd.compare.workload import Workload

FORMAT: Final = 1
PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
CURVE: Final = (50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99)
LONGEST_US: Final = 600_000_000


def document(
    workload: Workload, results: Sequence[PointResult], *, full: bool, begun: str, seconds: float
) -> dict[str, Any]:
    """Everything but the advice."""
    known = [result.point for result in results]
    return {
        "format": FORMAT, "quorumd": quorumd.__version__, "begun": begun, "seconds": round(seconds, 1), "full": full,
        "workload": msgspec.to_builtins(workload), "machine": machine(),
        "axes": {axis.factor: [known.index(point) for point in axis.points] for axis in axes(workload)},
        "points": [_point(result) for result in results],
    }


def _point(result: PointResult) -> dict[str, Any]:
    heartbeat_ms, election_timeout_ms = result.timing
    return {
        **result.point._asdict(), "heartbeat_ms": heartbeat_ms, "election_timeout_ms": election_timeout_ms,
        "contenders": [figures_of(measured) for measured in result.measured],
    }


def figures_of(measured: Measured) -> dict[str, Any]:
    """One contender at one point. Per operation: per one answered, all nodes together; CPU in microseconds."""
    contender, rounds = measured.contender, measured.rounds
    ops = sum(each.ops for each in rounds)
    seconds = sum(each.seconds for each in rounds)
    histogram = _histogram(rounds)
    found: dict[str, Any] = {
        "name": contender.name, "engine": contender.engine, "quorums": contender.quorums, "failed": measured.failed,
        "ops": ops, "errors": sum(each.errors for each in rounds),
        "swaps_failed": sum(each.swaps_failed for each in rounds),
        "ops_per_s": round(ops / seconds, 1) if ops else None,
        "rounds": [
            {
                "ops_per_s": round(each.ops / each.seconds, 1), "latency_us": latency_us(_histogram([each])),
                "cpu_us_per_op": round(1e6 * each.cpu_s / each.ops, 2),
            }
            for each in rounds
        ],
        "latency_us": latency_us(histogram) if ops else None,
        "curve_us": [[share, histogram.get_value_at_percentile(share)] for share in CURVE] if ops else [],
        "failover_s": [None if gap is None else round(gap, 4) for gap in measured.failovers],
        "commits_without": measured.commits_without, "elects_without": measured.elects_without,
        "acceptance": _acceptance(rounds),
    }
    for name, total in (
        ("messages", sum(each.datagrams for each in rounds)), ("bytes", sum(each.bytes for each in rounds)),
        ("syncs", sum(each.syncs for each in rounds)), ("cpu_us", 1e6 * sum(each.cpu_s for each in rounds)),
    ):
        found[f"{name}_per_op"] = round(total / ops, 4) if ops else None
    return found


def _histogram(rounds: Sequence[Round]) -> HdrHistogram:
    histogram = HdrHistogram(1, LONGEST_US, 3)
    for each in rounds:
        for value_us, count in each.latencies:
            histogram.record_value(max(1, min(value_us, LONGEST_US)), count)
    return histogram


def latency_us(histogram: HdrHistogram) -> dict[str, int]:
    """Percentiles in microseconds."""
    return {name: int(histogram.get_value_at_percentile(share)) for name, share in PERCENTILES.items()}


def _acceptance(rounds: Sequence[Round]) -> dict[str, Any] | None:
    """P_i(x) of each node over all rounds, and their mean, P(x)."""
    known = [each.acceptance for each in rounds if each.acceptance]
    if not known:
        return None
    nodes = {str(node): round(statistics.fmean(shares[node] for shares in known), 4) for node in known[0]}
    return {"cluster": round(statistics.fmean(nodes.values()), 4), "nodes": nodes}


def waits(contender: Mapping[str, Any]) -> list[float]:
    """Seconds from each kill to the next write; infinite where there was none in time."""
    return [math.inf if gap is None else float(gap) for gap in contender["failover_s"]]


def median_wait(contender: Mapping[str, Any]) -> float | None:
    """The median of those; None if there are none, or half of them are infinite."""
    found = waits(contender)
    median = statistics.median(found) if found else math.inf
    return median if math.isfinite(median) else None


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": cpus[0].partition(":")[2].strip() if cpus else platform.machine(), "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(), "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def complete(document: Mapping[str, Any]) -> bool:
    """Whether every contender was measured to the end at the base point, which decides."""
    return not any(each["failed"] for each in document["points"][0]["contenders"])


def figures(point: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Of the contender with that name at a point, if it is there and was measured."""
    return next((each for each in point["contenders"] if each["name"] == name and each["ops"]), None)
