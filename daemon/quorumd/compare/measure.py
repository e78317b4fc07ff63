"""Load on one cluster: rounds of it, kills of the leader under it, and how many nodes the cluster does without.

The load side runs in C on one thread of this process, so that what is measured is the cluster; on one machine it shares
the processors with the nodes, for every contender alike.
"""

import random
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from quorumd import limits
from quorumd.commands import Status
from quorumd.compare.cluster import Cluster
from quorumd.compare.workload import Workload
from quorumd.errors import Rejected, Stopped
from quorumd.supervisor.figures import acceptance
from quorumd.types import NodeId
from quorumd_fastpath.load import LoadGenerator
from quorumd_fastpath.udp import pack_addr

STEP_S = 0.001
OPENING_S = 20.0


class Round(NamedTuple):
    """One round of load. acceptance: by node, of the proposals of the round.

    latencies: (microseconds, how often), of the operations done and of those that were under way or due at its end.
    """

    ops: int
    seconds: float
    errors: int
    swaps_failed: int
    latencies: list[tuple[int, int]]
    datagrams: int
    bytes: int
    syncs: int
    cpu_s: float
    acceptance: dict[NodeId, float] | None


class Load:
    """The clients of one cluster, who keep their sessions from round to round. Use in a `with`."""

    def __init__(self, cluster: Cluster, workload: Workload) -> None:
        self.cluster = cluster
        self.workload = workload
        keys, loop = workload.keys, workload.loop
        endpoints = [(node.id, node.client_endpoint) for node in cluster.config.nodes]
        # An answer takes two ways between nodes at least; what is on its way is not to be asked for again.
        self._resend_ms = 100 + int(6 * cluster.point.delay_ms)
        status = next(iter(cluster.statuses().values()), {})
        try:
            self.generator = LoadGenerator(
                [(node, pack_addr(endpoint.host, endpoint.port)) for node, endpoint in endpoints],
                int(str(status.get("cluster")), 16), clients=workload.clients, key_bytes=keys.bytes,
                value_bytes=workload.values.bytes, reads_percent=workload.mix.reads, cas_percent=workload.mix.cas,
                keys=keys.count, skew=keys.skew if keys.distribution == "zipf" else 0.0, rate=loop.rate or 0.0,
                open_loop=loop.kind == "open", mtu=cluster.config.mtu_bytes, seed=random.getrandbits(39) | 1,
                resend_ms=self._resend_ms,
            )
        except ValueError as error:
            raise Rejected(f"the workload cannot be run: {error}") from None
        self._host = endpoints[0][1].host

    def __enter__(self) -> "Load":
        """Opens all sessions. Raises Stopped if the cluster does not serve, OSError."""
        self.generator.open(_own_address(self._host))
        if not self.generator.open_sessions(OPENING_S):
            self.generator.close()
            raise Stopped(f"{self.cluster.contender.name}: not all sessions could be opened within {OPENING_S:g} s")
        return self

    def __exit__(self, *error: object) -> None:
        self.generator.close()

    # -- rounds -------------------------------------------------------------------------------------------------------

    def round(self) -> Round:
        """Warms up, then measures for the workload's duration. Raises Stopped if nothing was done, or much refused."""
        generator, cluster = self.generator, self.cluster
        generator.run(min(limits.COMPARE_WARM_UP_S, self.workload.duration_s))
        generator.drain(limits.COMPARE_DRAIN_S)  # or what is in flight would wait for the counters to be read
        before = cluster.counters()
        generator.reset()
        begun_s = time.monotonic()
        generator.run(self.workload.duration_s)
        elapsed_s = time.monotonic() - begun_s
        ops, errors, failed = generator.done, generator.errors, generator.swaps_failed
        generator.settle(limits.COMPARE_DRAIN_S)
        if errors > limits.LOAD_ERRORS_SHARE * (ops + errors):
            raise Stopped(
                f"{cluster.contender.name}: {errors:,} of {ops + errors:,} operations were refused, the last with "
                f"{Status(generator.last_error_status).name}"
            )
        if not ops:
            raise Stopped(f"{cluster.contender.name}: no operation was answered in {elapsed_s:.1f} s")
        after = cluster.counters()
        # What was in flight at the end is in the counters and in latency, and not in throughput.
        scale = ops / generator.done
        ratio = acceptance(after.nodes, before.nodes)
        return Round(
            ops=ops, seconds=elapsed_s, errors=errors, swaps_failed=failed, latencies=generator.latencies(),
            datagrams=round(scale * (after.datagrams - before.datagrams)),
            bytes=round(scale * (after.bytes - before.bytes)), syncs=round(scale * (after.syncs - before.syncs)),
            cpu_s=scale * (after.cpu_s - before.cpu_s), acceptance=ratio.nodes if ratio else None,
        )

    # -- kills --------------------------------------------------------------------------------------------------------

    def failover(self) -> float | None:
        """Kills the leader under load; seconds to the next write, None if there was none. All nodes run afterwards."""
        self.generator.run(limits.COMPARE_WARM_UP_S)
        leader = self.cluster.leader()
        begun_s = time.monotonic()
        self.cluster.kill([leader])
        # Or it would be the clients' patience that is measured: whom they ask is told the dead leader's name at first.
        self.generator.set_resend(limits.COMPARE_FAILOVER_RESEND_MS)
        gap_s = self._next_write(begun_s, limits.COMPARE_FAILOVER_S)
        self.generator.set_resend(self._resend_ms)
        self.generator.drain(limits.COMPARE_DRAIN_S)
        self.cluster.restart()
        return gap_s

    def _next_write(self, begun_s: float, timeout_s: float) -> float | None:
        """Seconds since `begun_s`, a kill, at which a write of a node that runs is acknowledged."""
        self.generator.run(STEP_S)  # takes in what the killed node had sent
        known = self.generator.writes_done
        return self._until(lambda: self.generator.writes_done > known, begun_s, timeout_s)

    def _goes_on(self, timeout_s: float) -> bool:
        """Whether a write is acknowledged in time that is begun from now on. One begun before a follower's kill proves
        nothing: what the follower said of it may still be on its way to the leader."""
        self.generator.mark()
        return self._until(lambda: self.generator.marked_writes_done > 0, time.monotonic(), timeout_s) is not None

    def _until(self, condition: Callable[[], bool], begun_s: float, timeout_s: float) -> float | None:
        """Runs load until `condition` holds; seconds since `begun_s`, None if it took longer."""
        while not condition():
            if time.monotonic() - begun_s > timeout_s:
                return None
            self.generator.run(STEP_S)
        return time.monotonic() - begun_s

    def commits_without(self) -> int:
        """How many followers can be down, killed one after another, while writes go on under the leader there is."""
        return self._without(leaders=False)

    def elects_without(self) -> int:
        """How many nodes can be down, each leader killed in turn, while another is elected and writes go on."""
        return self._without(leaders=True)

    def _without(self, *, leaders: bool) -> int:
        cluster = self.cluster
        timeout_s = max(limits.COMPARE_WITHOUT_S, 0.02 * cluster.config.timing.election_timeout_ms)
        down = 0
        while down + 1 < len(cluster.nodes):
            leader = cluster.leader()
            cluster.kill([leader] if leaders else [node for node in cluster.up() if node != leader][:1])
            if not self._goes_on(timeout_s):
                break
            down += 1
        cluster.restart()
        self.generator.drain(limits.COMPARE_DRAIN_S)
        return down


def _own_address(host: str) -> str:
    """The address of this machine from which `host` is reached."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unsent:
        unsent.connect((host, 9))
        return str(unsent.getsockname()[0])
