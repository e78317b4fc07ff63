"""Flexible quorums on real processes: what a small phase-2 quorum buys, and what it costs.

    python bench/flexible.py --rounds 10

Five nodes with Multi-Paxos. Each round three followers are stopped (SIGSTOP: they do not come back by themselves),
`--writes` writes and linearizable reads are made one after the other, the three go on, and all agree again. With
`quorums: {phase1: 4, phase2: 2}` all of them succeed; with majorities the first write times out, which is checked too.
The price: with the leader killed and one follower stopped three are left, which elect nobody until a fourth is back.

Must show: every write and read of every round succeeds with 4 + 2 and is there afterwards; none does with majorities;
no leader among three nodes within 20 election timeouts, one after the fourth is back.
"""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from statistics import median

from harness import Cluster, Failed, percentile, reported, say

from quorumd.client import Client
from quorumd.errors import Timeout

NODES = 5
FLEXIBLE = "quorums: {phase1: 4, phase2: 2}"
LEADERLESS_TIMEOUTS = 20
REFUSED_S = 2.0  # a write that majorities must not commit is given so long
NEVER_RESTART = "supervisor: {restart_backoff_ms: [600000, 600000]}"


def three_stopped(cluster: Cluster, client: Client, round_number: int, writes: int) -> list[float]:
    """One round; latencies of the writes, in seconds."""
    leader = cluster.settle()
    stopped = [node for node in cluster.endpoints if node != leader][:3]
    found = []
    with halted(cluster, stopped):
        for number in range(writes):
            key, value = f"flexible/{number}".encode(), f"{round_number}/{number}".encode()
            begun_s = time.monotonic()
            client.put(key, value)
            found.append(time.monotonic() - begun_s)
            if value_of(client, key) != value:
                raise Failed(f"{key!r} is not what was just written")
    if cluster.settle() != leader:
        raise Failed("leadership moved although the leader never stopped")
    for number in range(writes):
        if value_of(client, f"flexible/{number}".encode()) != f"{round_number}/{number}".encode():
            raise Failed(f"write {number} of round {round_number} is lost")
    return found


def value_of(client: Client, key: bytes) -> bytes | None:
    """A linearizable read."""
    found = client.get(key)
    return found.value if found else None


class halted:
    """Stops nodes for the length of a `with`."""

    def __init__(self, cluster: Cluster, nodes: Sequence[int]) -> None:
        self.cluster, self.nodes = cluster, nodes

    def __enter__(self) -> None:
        for node in self.nodes:
            self.cluster.signal(node, signal.SIGSTOP)

    def __exit__(self, *error: object) -> None:
        for node in self.nodes:
            self.cluster.signal(node, signal.SIGCONT)


def majorities_wait() -> bool:
    """Whether a write with majorities as quorums fails while three of five are stopped."""
    with Cluster(nodes=NODES, engine="paxos") as cluster, cluster.client() as client:
        leader = cluster.settle()
        client.put(b"before", b"1")
        with halted(cluster, [node for node in cluster.endpoints if node != leader][:3]):
            try:
                client.put(b"during", b"1", timeout=REFUSED_S)
            except Timeout:
                return True
        return False


def three_elect_nobody() -> tuple[bool, float]:
    """With 4 + 2, the leader killed and a follower stopped: whether no leader came; seconds to one with a fourth."""
    with Cluster(f"{FLEXIBLE}\n{NEVER_RESTART}", nodes=NODES, engine="paxos") as cluster:
        leader = cluster.settle()
        others = [node for node in cluster.endpoints if node != leader]
        with halted(cluster, others[:1]):
            cluster.signal(leader, signal.SIGKILL)
            timeout_s = cluster.config.timing.election_timeout_ms / 1000
            quiet_until_s = time.monotonic() + LEADERLESS_TIMEOUTS * timeout_s
            nobody = True
            while time.monotonic() < quiet_until_s:
                nobody = nobody and cluster.leader() in (0, leader)
        begun_s = time.monotonic()
        cluster.until(lambda: cluster.leader() not in (0, leader), "a leader once four are up")
        return nobody, time.monotonic() - begun_s


def run(rounds: int, writes: int) -> list[float]:
    """All rounds on one cluster; latencies of the writes, in seconds."""
    latencies: list[float] = []
    with Cluster(FLEXIBLE, nodes=NODES, engine="paxos") as cluster, cluster.client() as client:
        for number in range(rounds):
            latencies += three_stopped(cluster, client, number, writes)
            say(f"  round {number + 1}: {writes} writes with three of five stopped")
    return latencies


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="(10)")
    parser.add_argument("--writes", type=int, default=50, help="of each round (50)")
    options = parser.parse_args()
    with reported("flexible") as report:
        latencies = run(options.rounds, options.writes)
        nobody, elected_s = three_elect_nobody()
        report.judge("writes made with three of five stopped", len(latencies), least=options.rounds * options.writes)
        report.judge("with majorities: writes that time out", majorities_wait(), least=1)
        report.judge("three of five with 4 + 2: leaders within 20 election timeouts", 1 - nobody, most=0)
    return report.finish({
        "writes": len(latencies),
        "write_p50_ms": round(1000 * median(latencies), 2),
        "write_p99_ms": round(1000 * percentile(latencies, 0.99), 2),
        "elected_with_the_fourth_s": round(elected_s, 3),
    })


if __name__ == "__main__":
    sys.exit(main())
