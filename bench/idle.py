"""What a cluster costs that has nothing to do.

    python bench/idle.py --seconds 5 --windows 5

A fresh cluster is left alone for a while, then its nodes' CPU time is taken over one window after the other, and their
resident memory at the end. Nobody asks the nodes anything within a window but their own supervisor, once a second. A
node's figure is the median of its windows: what else runs on the machine costs a sleeping node its caches, and with
them up to half as much again in the one window or the other.

Must show 8: at most 45 MB of resident memory a node, at most 1 % of a core; and no election.
"""

import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import psutil
from harness import Cluster, arguments, number, reported, say

MOST_RSS_MB, MOST_CPU_PERCENT = 45.0, 1.0


def cpu_s(pid: int) -> float:
    """CPU time of the process and its threads so far, in seconds; to the nanosecond, where /proc/PID/stat has 10 ms.

    The clock is what clock_getcpuclockid(3) answers for another process.
    """
    return time.clock_gettime((~pid << 3) | 2)


def window(pids: Mapping[int, int], seconds: float) -> dict[int, float]:
    """The CPU time each node takes within so long, in % of a core."""
    begun_s = time.monotonic()
    begun = {node: cpu_s(pid) for node, pid in pids.items()}
    time.sleep(seconds)
    took_s = time.monotonic() - begun_s
    return {node: 100 * (cpu_s(pid) - begun[node]) / took_s for node, pid in pids.items()}


def run(settle_s: float, seconds: float, windows: int, engine: str) -> dict[str, Any]:
    with Cluster(engine=engine) as cluster:
        time.sleep(settle_s)
        pids = {node: each.pid for node, each in cluster.processes().items()}
        before, leader = cluster.figures(), cluster.settle()
        begun_s = time.monotonic()
        shares = [window(pids, seconds) for _ in range(windows)]
        took_s = time.monotonic() - begun_s
        memory = {node: psutil.Process(pid).memory_info().rss / 1e6 for node, pid in pids.items()}
        after = cluster.figures()
    nodes: dict[str, Any] = {}
    for node in pids:
        turns = (number(after[node], "turns") - number(before[node], "turns")) / took_s
        of_node = [share[node] for share in shares]
        nodes[str(node)] = {
            "role": after[node]["role"], "cpu_percent": round(statistics.median(of_node), 2),
            "cpu_percent_windows": [round(share, 2) for share in of_node], "rss_mb": round(memory[node], 1),
            "turns_per_s": round(turns, 1), "elections": number(after[node], "term") - number(before[node], "term"),
        }
        say(f"  node {node}{' (leader)' if node == leader else ''}: {nodes[str(node)]}")
    return nodes


def main() -> int:
    options = arguments(__doc__ or "", rounds=1, seconds=5.0, windows=5, settle=5.0)
    with reported("idle") as report:
        runs = []
        for _ in range(options.rounds):
            say(f"idle for {options.settle:g} s, then {options.windows} times measured for {options.seconds:g} s")
            runs.append(run(options.settle, options.seconds, options.windows, options.engine))
        nodes = [node for each in runs for node in each.values()]
        report.judge("resident memory of a node, MB", max(node["rss_mb"] for node in nodes), most=MOST_RSS_MB)
        most = max(node["cpu_percent"] for node in nodes)
        report.judge("CPU of a node, % of a core, median of the windows", most, most=MOST_CPU_PERCENT)
        report.judge("elections within the window", sum(node["elections"] for node in nodes), most=0)
    return report.finish({"runs": runs})


if __name__ == "__main__":
    sys.exit(main())
