"""Durable writes a second, three nodes and the load on the same cores; beside the yardstick, if there is one.

    python bench/throughput.py --rounds 3 --seconds 5 [--floor YARDSTICK]

8-byte keys, 256-byte values, each acknowledged only when a majority has it on disk. A round measures each of the
workloads once with `quorumd bench` on one running cluster, and the yardstick (the cheapest replicated append that the
same system calls allow) once right after it with the same window, so that a noisy machine is noisy for both: A B A B.
The ratio reported is the median of those of the rounds.

Must show 7: 1000 clients, one put each in flight, one a datagram: at least 30,000/s.
"""

import json
import statistics
import subprocess
import sys
from typing import Any, NamedTuple

from harness import Cluster, Failed, parser_of, reported, say

KEY_BYTES, VALUE_BYTES = 8, 256
LEAST_PER_S = 30_000


class Workload(NamedTuple):
    """clients: operations in flight; per_datagram: of different clients, packed together."""

    name: str
    clients: int
    per_datagram: int


WORKLOADS = (
    Workload("1000 clients", 1000, 1),
    Workload("64 clients", 64, 1),
    Workload("1 client", 1, 1),
    Workload("pipelined, 32 a datagram", 1024, 32),
)


def ours(cluster: Cluster, load: Workload, seconds: float) -> dict[str, Any]:
    """One measurement of the cluster."""
    output = cluster.quorumd(
        "bench", "--json", "--clients", str(load.clients), "--per-datagram", str(load.per_datagram),
        "--key-bytes", str(KEY_BYTES), "--value-bytes", str(VALUE_BYTES), "--seconds", str(seconds),
    )
    found = json.loads(output.splitlines()[-1])
    if found["errors"]:
        raise Failed(f"{load.name}: {found['errors']} operations were refused")
    return {key: found[key] for key in ("ops_per_s", "latency_us", "cpu_us_per_op", "rss_bytes", "ops", "errors")}


def yardstick(floor: str, cluster: Cluster, load: Workload, seconds: float) -> dict[str, Any]:
    """One measurement of the floor, on the same file system."""
    command = [floor, str(load.clients), str(load.per_datagram), "1", str(seconds)]
    command += [str(KEY_BYTES + VALUE_BYTES), str(cluster.base)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 2 * seconds, check=False)
    for left in cluster.base.glob("floor-*"):
        left.unlink()
    if done.returncode:
        raise Failed(f"{floor}: exit code {done.returncode}: {done.stderr.strip()}")
    return dict(json.loads(done.stdout))


def tell(load: Workload, measured: dict[str, Any], floor: dict[str, Any] | None) -> None:
    latency = measured["latency_us"]
    beside = ""
    if floor is not None:
        beside = f"; floor {floor['ops_per_s']:,.0f}/s, p50 {floor['p50_us']:.0f}"
    say(
        f"  {load.name}: {measured['ops_per_s']:,.0f}/s, p50 {latency['p50']} p99 {latency['p99']} "
        f"max {latency['max']} us, {measured['cpu_us_per_op'] or 0:.1f} us of the nodes' CPU each, "
        f"{(measured['rss_bytes'] or 0) / 1e6:.0f} MB{beside}"
    )


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds."""
    found = {
        "ops_per_s": statistics.median(run["ours"]["ops_per_s"] for run in runs),
        **{
            f"{key}_us": statistics.median(run["ours"]["latency_us"][key] for run in runs)
            for key in ("p50", "p99", "max")
        },
        "cpu_us_per_op": statistics.median(run["ours"]["cpu_us_per_op"] or 0 for run in runs),
        "rss_mb": round(max(run["ours"]["rss_bytes"] or 0 for run in runs) / 1e6, 1),
    }
    if all(run["floor"] for run in runs):
        ratios = [run["ours"]["ops_per_s"] / run["floor"]["ops_per_s"] for run in runs]
        slower = [run["ours"]["latency_us"]["p50"] / run["floor"]["p50_us"] for run in runs]
        found["of_the_floor"] = round(statistics.median(ratios), 3)
        found["p50_times_the_floor"] = round(statistics.median(slower), 2)
        found["floor_ops_per_s"] = statistics.median(run["floor"]["ops_per_s"] for run in runs)
    return {**found, "runs": runs}


def run(rounds: int, seconds: float, floor: str | None, engine: str) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {load.name: [] for load in WORKLOADS}
    with Cluster(engine=engine) as cluster:
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for load in WORKLOADS:
                measured = ours(cluster, load, seconds)
                beside = yardstick(floor, cluster, load, seconds) if floor else None
                runs[load.name].append({"ours": measured, "floor": beside})
                tell(load, measured, beside)
    return {name: summary(each) for name, each in runs.items()}


def main() -> int:
    parser = parser_of(__doc__ or "", rounds=3, seconds=5.0)
    parser.add_argument("--floor", help="the yardstick's binary")
    options = parser.parse_args()
    with reported("throughput") as report:
        figures = run(options.rounds, options.seconds, options.floor, options.engine)
        for name, found in figures.items():
            ratio = f", {found['of_the_floor']} of the floor" if "of_the_floor" in found else ""
            say(f"{name}: {found['ops_per_s']:,.0f}/s, p50 {found['p50_us']} us{ratio}")
        report.judge("durable writes a second of 1000 clients", figures["1000 clients"]["ops_per_s"],
                     least=LEAST_PER_S)
    return report.finish(figures)


if __name__ == "__main__":
    sys.exit(main())
