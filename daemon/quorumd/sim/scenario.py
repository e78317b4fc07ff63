"""What one seed draws for one run. Everything else follows from it: the same scenario is the same run, to the byte.

Swarm testing (Groce et al., ISSTA 2012): each run enables a random subset of the faults and features, because faults
that are always on hide what only shows without them. The ranges are those of TigerBeetle's VOPR.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from quorumd import limits
from quorumd.connectivity import SCENARIOS as PARTIAL
from quorumd.sim.workload import Mix
from quorumd.types import Nanoseconds, NodeId

PATH_FAULTS = ("loss", "duplicate", "delay", "reorder", "stray", "net-flip")
LINK_FAULTS = ("isolate", "split", "one-way", "bridge", "flapping", "clog")
NODE_FAULTS = ("kill", "power-loss", "restart", "restart-all", "pause", "transfer")
DISK_FAULTS = ("slow-disk", "stalled-disk", "disk-full", "disk-error")
ROT_FAULTS = ("bit-flip", "misdirected", "wipe")
CLIENT_FAULTS = ("client-kill",)
PARTIAL_FAULTS = tuple(PARTIAL)
CONFIG_FAULTS = ("quota",)
FAULTS = (
    *PATH_FAULTS, *LINK_FAULTS, *NODE_FAULTS, *DISK_FAULTS, *ROT_FAULTS, *CLIENT_FAULTS, *PARTIAL_FAULTS,
    *CONFIG_FAULTS,
)
# Where slots are accepted in any order it matters what acceptors miss when a leader falls: drawn for Multi-Paxos only.
HOLE_FAULTS = ("deaf-leader",)
ALL_FAULTS = (*FAULTS, *HOLE_FAULTS)
LEAST_NODES = {
    **dict.fromkeys((*LINK_FAULTS, "transfer", *ROT_FAULTS, *HOLE_FAULTS), 2),
    **{name: scenario.least_nodes for name, scenario in PARTIAL.items()},
}
"""Of a cluster in which a fault makes sense; 1 for those that are not named."""

DELAYS_US = ((20, 100), (50, 500), (200, 3_000), (1_000, 15_000))
SYNCS_US = ((100, 500), (200, 2_000), (1_000, 7_000), (5_000, 40_000))
HOLDERS = (0, 0, 1, 2)  # of leases
READERS = (0, 0, 1)  # of history
RETAINED = (3, 50, limits.DEFAULT_RETAIN_REVISIONS)  # revisions of history
TIGHT = (0.4, 1.0, 2.0)  # quotas, as shares of what all keys take without history
A_KEY = 200  # bytes that a key with one version takes in the store beside the value, about
LONGEST_S = (0.3, 1.0, 4.0, 10.0)
QUICK_TURN = (20_000, 60_000)  # ns
SLOW_TURN = (0.45, 0.85)  # of a heartbeat; half of one counts as a stall
AT_ONCE = 5  # faults that may be under way together, more or less: with too many of them nothing ever happens

FEW = 16  # entries of a ring
WIDE_MTU, WIDE_RING_KIB, WIDE_INFLIGHT_KIB = 65_000, 8_192, 4_096  # large values come quickly through
WIDE_KIB = limits.WATCH_WINDOW_BYTES // limits.KIB
NARROW_RING_KIB = 1_024
SLAB_OF = 16  # datagrams of one value, at most, that a slow node is asked for
TINY = 1_300  # a value of which a transaction's fill a small part of the smallest ring
NARROW_FOR = 5_000  # a value that comes through a narrow window of a stream in a few round trips

MIN_SECONDS = 60
MIN_OPERATIONS = 300
MIN_FAULTS = 2


@dataclass(frozen=True)
class Scenario:
    """One run. Times are in the unit that the name says; `pause_s` is the mean time between two faults.

    skip: numbers of faults, in the order in which they strike, that do not (shrink.py looks for them).
    """

    seed: int
    nodes: int
    engine: str = "raft"
    phase1: int = 0  # sizes of Multi-Paxos's quorums; 0: a majority
    phase2: int = 0
    seconds: float = float(MIN_SECONDS)  # of the safety phase; longer until enough operations ended
    heartbeat_ms: int = 40
    election_timeout_ms: int = 120
    lease_reads: bool = False  # of Raft
    session_ttl_ms: int = 30_000
    mtu: int = 65_000
    mac_bytes: int = 0
    filter_incarnations: bool = True
    ring_kib: int = 8192
    ring_entries: int = 1 << 14
    island_kib: int = limits.ISLAND_BYTES // limits.KIB  # that may wait behind a hole of Multi-Paxos's log
    island_entries: int = limits.ISLAND_ENTRIES
    inflight_kib: int = 4096
    fillers: bool = False  # large values are written while disks are full
    disk_stall_ms: int = 3_000
    retain: int = limits.DEFAULT_RETAIN_REVISIONS
    quota_bytes: int = limits.DEFAULT_QUOTA_BYTES  # to begin with
    drift: float = 0.0  # clocks run up to this much too fast or too slow
    delay_us: tuple[int, int] = (50, 500)
    sync_us: tuple[int, int] = (200, 2_000)
    clients: int = 3
    workers: int = 2
    per_second: float = 2.0  # operations of each worker
    timeout_ms: int = 5_000
    keys: int = 4
    watchers: int = 0  # of each client program
    watch_window_kib: int = WIDE_KIB  # of one stream
    sizes: tuple[int, ...] = (0, 100)
    weights: tuple[int, ...] = (25, 5, 25, 5, 15, 5, 10, 5, 5)
    holders: int = 0  # of leases
    readers: int = 0  # of history
    slow: int = 0  # the node whose every turn takes most of a heartbeat; 0: none
    faults: tuple[str, ...] = ()
    pause_s: float = 2.0
    longest_s: float = 4.0  # of a fault
    skip: tuple[int, ...] = field(default=())

    @property
    def mix(self) -> Mix:
        """For the workload."""
        return Mix(self.keys, self.sizes, self.weights)

    @property
    def narrow(self) -> bool:
        """Whether a node has so little room for entries that it catches up a few at a time."""
        return self.ring_kib < NARROW_RING_KIB or self.island_entries < limits.ISLAND_ENTRIES

    def rng(self, purpose: str) -> random.Random:
        """Randomness of its own for each purpose, so that less of one leaves the others as they were."""
        return random.Random(f"{self.seed}/{purpose}")

    def turn_ns(self, node: NodeId) -> tuple[Nanoseconds, Nanoseconds]:
        """How long the turns of a node take."""
        if node != self.slow:
            return QUICK_TURN
        least, most = (int(part * self.heartbeat_ms * limits.MILLISECOND) for part in SLOW_TURN)
        return least, most

    def quota(self, dice: random.Random) -> int:
        """Bytes of a quota that the workload fills again and again, or never."""
        share = dice.choice((*TIGHT, 0.0))
        keys = self.keys * (A_KEY + sum(self.sizes) // len(self.sizes))
        return int(share * keys) or limits.DEFAULT_QUOTA_BYTES

    def facts(self) -> dict[str, Any]:
        """For people and JSON."""
        return asdict(self)


def kinds(engine: str) -> tuple[str, ...]:
    """Of the faults that seeds draw for an engine."""
    return ALL_FAULTS if engine == "paxos" else FAULTS


def draw(
    seed: int, *, engine: str = "raft", nodes: int | None = None, only: Sequence[str] | None = None
) -> Scenario:
    """The scenario of a seed. nodes, only (faults that may strike): instead of what the seed draws."""
    dice = random.Random(f"{seed}/scenario")
    drawn = dice.choice((1, 3, 3, 3, 3, 3, 5, 5, 7))
    heartbeat = dice.choice((20, 40, 40, 40, 80))
    ttl = dice.choice((2_000, 5_000, 30_000, 30_000))
    mtu = dice.choice((65_000, 65_000, 1_400, 1_400, 576))
    sizes = dice.choice(
        ((0, 100), (0, 100), (0, 300, 1_100, 1_300), (0, 100, 3_000), (0, 100, 5_000, 20_000), (0, 100, 70_000))
    )
    clients = dice.randint(1, 5)
    workers = dice.randint(1, 4)
    weights = tuple(dice.choice((0, 1, 1, 3)) * base for base in (25, 5, 25, 5, 15, 5, 10, 5, 5))
    election_timeout = heartbeat * dice.choice((3, 3, 4, 6))
    # Broadcast time << election timeout (thesis 3.9), or no cluster can work: a vote takes two trips and two syncs.
    bearable_us = election_timeout * 1_000 // 8
    pause = dice.choice((0.3, 1.0, 1.0, 3.0))
    scenario = Scenario(
        seed=seed,
        nodes=drawn,
        heartbeat_ms=heartbeat,
        election_timeout_ms=election_timeout,
        session_ttl_ms=ttl,
        mtu=mtu,
        mac_bytes=dice.choice((0, 16)),
        filter_incarnations=dice.random() < 0.7,
        ring_kib=dice.choice((6, 8)) * 1024,
        ring_entries=dice.choice((64, 512, 1 << 14)),
        inflight_kib=dice.choice((16, 256, 4096)),
        drift=dice.choice((0.0, 0.001, 0.05)),
        delay_us=dice.choice([d for d in DELAYS_US if d[1] <= bearable_us]),
        sync_us=dice.choice([s for s in SYNCS_US if s[1] <= bearable_us]),
        clients=clients,
        workers=workers,
        per_second=dice.uniform(6.0, 14.0) / (clients * workers),
        timeout_ms=dice.choice((300, 1_000, 5_000, 5_000, 20_000)),
        keys=dice.choice((1, 2, 4, 10)),
        sizes=sizes,
        weights=weights if weights[2] and sum(weights) > weights[2] else Scenario.weights,
        faults=_faults(seed, dice),
        pause_s=pause,
        longest_s=dice.choice([s for s in LONGEST_S if s <= AT_ONCE * pause]),
    )
    if nodes is not None:
        scenario = replace(scenario, nodes=nodes)
    wanted = scenario.faults if only is None else [fault for fault in ALL_FAULTS if fault in only]
    fitting = _fitting(wanted, scenario.nodes)
    if only is None and len(fitting) < MIN_FAULTS:
        fitting = ("loss", "kill", "power-loss")
    scenario = replace(scenario, faults=fitting, retain=scenario.rng("retain").choice(RETAINED))
    scenario = replace(scenario, holders=scenario.rng("leases").choice(HOLDERS))
    scenario = replace(scenario, readers=scenario.rng("readers").choice(READERS))
    scenario = _with_slow_node(scenario)
    scenario = _with_disks(_with_quota(_with_ring(_with_watchers(scenario))))
    if engine == "raft":
        return replace(scenario, lease_reads=scenario.rng("lease reads").random() < 0.25)
    return _with_paxos(scenario, more_faults=only is None)


def resized(scenario: Scenario, nodes: int) -> Scenario:
    """The same with so many nodes: without the faults that need more, and with quorums as they may be then."""
    phase2 = min(scenario.phase2, nodes // 2 + 1)
    return replace(
        scenario, nodes=nodes, faults=_fitting(scenario.faults, nodes), phase2=phase2,
        phase1=nodes + 1 - phase2 if phase2 else 0, slow=scenario.slow if scenario.slow <= nodes else 0,
    )  # fmt: skip


def _fitting(faults: Iterable[str], nodes: int) -> tuple[str, ...]:
    return tuple(fault for fault in faults if LEAST_NODES.get(fault, 1) <= nodes)


def _faults(seed: int, dice: random.Random) -> tuple[str, ...]:
    """A random subset. What was added later has dice of its own, so that older seeds draw all else as they did."""
    own = dict.fromkeys(PARTIAL, random.Random(f"{seed}/partial")) | {"quota": random.Random(f"{seed}/quota fault")}
    return tuple(fault for fault in FAULTS if own.get(fault, dice).random() < 0.4)


def _with_slow_node(scenario: Scenario) -> Scenario:
    """The same, in a fifth of the runs with a slow node, unless a value is so many datagrams that it, which reads one
    slab of them a turn, comes to none in time."""
    dice = scenario.rng("slow turns")
    slow = dice.random() < 0.2 and max(scenario.sizes) <= SLAB_OF * scenario.mtu
    return replace(scenario, slow=dice.randint(1, scenario.nodes) if slow else 0)


def _with_ring(scenario: Scenario) -> Scenario:
    """The same with a ring so small, in half of the runs with small values, that it is filled again and again."""
    dice = scenario.rng("ring")
    small = 64 if max(scenario.sizes) <= TINY else 192
    if max(scenario.sizes) > NARROW_FOR or dice.random() < 0.5:
        return scenario
    return replace(scenario, ring_kib=small)


def _with_quota(scenario: Scenario) -> Scenario:
    """The same, in a third of the runs with a quota that may soon be used up."""
    dice = scenario.rng("quota")
    return replace(scenario, quota_bytes=scenario.quota(dice)) if dice.random() < 0.33 else scenario


def _with_disks(scenario: Scenario) -> Scenario:
    """The same, in a third of the runs with little patience for a disk that hangs; with large values that fill disks
    in some of those in which disks get full, and with nothing in their way then."""
    dice = scenario.rng("disks")
    stall_ms = dice.choice((3_000, 3_000, max(200, 2 * scenario.sync_us[1] // 1_000)))
    scenario = replace(scenario, disk_stall_ms=stall_ms)
    if "disk-full" not in scenario.faults or dice.random() < 0.7:
        return scenario
    faults = tuple(fault for fault in scenario.faults if fault not in CONFIG_FAULTS)
    return replace(
        scenario, fillers=True, faults=faults, quota_bytes=limits.DEFAULT_QUOTA_BYTES, mtu=WIDE_MTU,
        ring_kib=WIDE_RING_KIB, inflight_kib=WIDE_INFLIGHT_KIB, watch_window_kib=WIDE_KIB,
    )  # fmt: skip


def _with_watchers(scenario: Scenario) -> Scenario:
    """The same with watchers, in two of five runs; with windows through which a value hardly fits, in some."""
    dice = scenario.rng("watch")
    narrow = (2, 8) if max(scenario.sizes) <= NARROW_FOR else (64,)
    return replace(
        scenario, watchers=dice.choice((0, 0, 0, 1, 2)), watch_window_kib=dice.choice((*narrow, WIDE_KIB))
    )


def _with_paxos(scenario: Scenario, *, more_faults: bool) -> Scenario:
    """The same with Multi-Paxos, in every third run with quorums other than majorities, in every other one with holes.

    Phase 1 needs more nodes then, phase 2 fewer: the other way round nothing would be gained.
    """
    dice, count = scenario.rng("quorums"), scenario.nodes
    phase2 = dice.randint(1, count // 2 + 1) if dice.random() < 0.33 else count // 2 + 1
    faults = scenario.faults
    if more_faults and count > 1 and scenario.rng("holes").random() < 0.5:
        faults += HOLE_FAULTS
    scenario = _with_islands(scenario)
    return replace(scenario, engine="paxos", phase1=count + 1 - phase2, phase2=phase2, faults=faults)


def _with_islands(scenario: Scenario) -> Scenario:
    """The same, in half of the runs with little room behind holes, and often before them: it is soon used up.

    Who has room for two values out of order, and gets hundreds at once, takes one in each heartbeat: so few only where
    the leader's ring holds few as well.
    """
    dice = scenario.rng("islands")
    if dice.random() < 0.5:
        return scenario
    ring_entries, island_entries = dice.choice((FEW, FEW, scenario.ring_entries)), dice.choice((2, 8, 64))
    return replace(
        scenario, ring_entries=ring_entries, island_kib=scenario.ring_kib // 4,
        island_entries=island_entries if ring_entries == FEW else 64,
    )  # fmt: skip
