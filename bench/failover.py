"""How long writes stop when the leader is gone: killed, and stopped; idle, and at half load.

    python bench/failover.py --rounds 20

Default timing (heartbeat 40 ms, election timeout 120 ms), 2 s until the supervisor restarts a node, no ICMP used.
A round: the leader gets SIGKILL (SIGSTOP), and at once a client begins a small put; the figure is the time from
before the signal to the answer. The client is the library's, which knew the old leader and finds the new one by
itself. Then the node returns (SIGCONT) and catches up before the next round begins.

Must show 2: median at most 0.25 s, maximum at most 0.6 s, in each of the four.
"""

import signal
import sys
import time
from contextlib import nullcontext
from typing import Any

from harness import Cluster, LoadProcess, Report, arguments, percentile, reported, say

from quorumd.client import Client

SETTINGS = "supervisor: {restart_backoff_ms: [2000, 2000], crash_loop: {restarts: 1000, within_s: 1}}"
MEDIAN_S, WORST_S = 0.25, 0.6
CLIENTS, VALUE_BYTES = 1000, 256


def one_round(cluster: Cluster, client: Client, what: signal.Signals, number: int) -> float:
    """Takes the leader away and gives it back; seconds without writes."""
    client.put(b"probe", b"before %d" % number)  # the client knows the leader
    leader = int(cluster.until(cluster.leader, "a leader"))
    restarts = cluster.restarts()[leader]
    begun_s = time.monotonic()
    cluster.signal(leader, what)
    client.put(b"probe", b"after %d" % number, timeout=30.0)
    gap_s = time.monotonic() - begun_s
    if what == signal.SIGSTOP:
        cluster.signal(leader, signal.SIGCONT)
    else:
        cluster.until(lambda: cluster.restarts()[leader] > restarts, "the killed node is started again")
    cluster.until(lambda: all(map(cluster.caught_up, cluster.members)), f"node {leader} has caught up")
    return gap_s


def series(
    report: Report, what: signal.Signals, rounds: int, rate: float | None, calibrate_s: float, engine: str
) -> dict[str, Any]:
    """`rounds` on one cluster. rate: None for an idle one, 0 for half of what it is measured to bear."""
    name = f"{what.name} of the leader, {'idle' if rate is None else 'half load'}"
    say(f"{name}: {rounds} rounds")
    with Cluster(SETTINGS, engine=engine) as cluster:
        loaded = rate is not None
        with LoadProcess(cluster, clients=CLIENTS, value_bytes=VALUE_BYTES) if loaded else nullcontext() as load:
            if load is not None:
                rate = rate or load.measure(calibrate_s) / 2
                load.ask("rate", rate)
                say(f"  load: {rate:.0f} writes a second")
            with cluster.client() as client:
                gaps = []
                for number in range(rounds):
                    gaps.append(one_round(cluster, client, what, number))
                    say(f"  {number + 1}: {gaps[-1] * 1000:.0f} ms")
    figures: dict[str, Any] = {
        "rounds": rounds, "load_per_s": round(rate or 0), "p50_s": percentile(gaps, 0.5),
        "p90_s": percentile(gaps, 0.9), "max_s": max(gaps), "all_s": [round(gap, 4) for gap in gaps],
    }
    report.judge(f"{name}: median, s", figures["p50_s"], most=MEDIAN_S)
    report.judge(f"{name}: maximum, s", figures["max_s"], most=WORST_S)
    return figures


def main() -> int:
    options = arguments(__doc__ or "", rounds=20, seconds=3.0)
    with reported("failover") as report:
        figures: dict[str, Any] = {}
        rate = 0.0
        for what in (signal.SIGKILL, signal.SIGSTOP):
            plan = options.seconds, options.engine
            figures[f"{what.name} idle"] = series(report, what, options.rounds, None, *plan)
            figures[f"{what.name} half load"] = series(report, what, options.rounds, rate, *plan)
            rate = figures[f"{what.name} half load"]["load_per_s"]
    return report.finish(figures)


if __name__ == "__main__":
    sys.exit(main())
