"""Partial connectivity as data: which links fail around a leader, and how long it takes until something commits again.

Quorum loss, constrained election and chained are the scenarios of "Omni-Paxos: Breaking the Barriers of Partial
Connectivity" (EuroSys 2023, section 2); the one-way link is the outage of Cloudflare of November 2020, whose etcd had a
node that could not hear the leader and kept campaigning. Nodes are letters here: A leads when the first link fails,
the others are whoever the seed says.
"""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from cluster import MS, Chaos, Node
from paxoscluster import PaxosNode

from quorumd.consensus.engine import Role, Tick

HOLD_TIMEOUTS = 100
"""How long the links stay cut after something has committed again: whoever leads then is to go on leading."""
GIVE_UP_TIMEOUTS = 40
PROPOSE_EVERY_MS = 5


class Scenario(NamedTuple):
    """links: kept in the end, "CB" for C to B in both directions, "A>B" for one; None: all that `cut` leaves.

    before: cut for BEFORE_TIMEOUTS, while the others go on, before the rest is.
    """

    name: str
    nodes: str
    kept: tuple[str, ...] | None = None
    cut: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


BEFORE_TIMEOUTS = 4

SCENARIOS = (
    Scenario("quorum-loss", "ABCDE", kept=("CA", "CB", "CD", "CE")),
    Scenario("constrained", "ABCDE", kept=("CB", "CD", "CE"), before=("AC",)),
    Scenario("constrained-in-step", "ABCDE", kept=("CB", "CD", "CE")),
    Scenario("bare-majority", "ABCDE", kept=("AC", "CB")),
    Scenario("chained", "ABC", kept=("AB", "BC")),
    Scenario("row-of-five", "ABCDE", kept=("AB", "BC", "CD", "DE")),
    Scenario("one-way", "ABC", cut=("A>B",)),
    Scenario("one-way-back", "ABC", cut=("B>A",)),
    Scenario("one-way-of-five", "ABCDE", cut=("A>B",)),
    Scenario("mute-leader", "ABC", cut=("A>B", "A>C")),
    Scenario("deaf-leader", "ABC", cut=("B>A", "C>A")),
)


class Found(NamedTuple):
    """Of one run. Times in election timeouts.

    recovered: from the last cut until something proposed after it was chosen; None: nothing was. changes: leaders
    elected in the HOLD_TIMEOUTS after that. silence: the longest time without a commit in those. healed: from the
    mending of all links until something proposed after that was chosen. changes_healed: leaders elected since then.
    """

    recovered: float | None
    changes: int
    silence: float
    healed: float | None
    changes_healed: int


class Partial(Chaos):
    """A calm cluster: messages take a millisecond, syncs up to two; every leader proposes all the time."""

    def __init__(self, seed: int, size: int, node: type[Node], config: Any = None) -> None:
        super().__init__(seed, size, config, node)
        self.faults = False
        self.disk = 2
        self.timeout_ms = self.nodes[1].config.election_timeout_ns // MS

    def _traffic(self) -> None:
        if self.now // MS % PROPOSE_EVERY_MS:
            return
        for node in self.nodes.values():
            if node.engine.role == Role.LEADER and node.engine.accepts_proposals:
                node.propose(self.proposed)
                self.proposed += 1
                self._push(0, node.id, Tick(self.now))

    def commits(self, limit_timeouts: float) -> float | None:
        """Runs until something that is proposed from now on has committed; after how many election timeouts."""
        begun, mark, at = self.now, self.proposed, len(self.checker.committed)
        while self.now - begun < limit_timeouts * self.timeout_ms * MS:
            self.run(1)
            committed = self.checker.committed
            while at < len(committed):
                value = committed[at][1]
                at += 1
                if isinstance(value, int) and value >= mark:
                    return self.timeouts(self.now - begun)
        return None

    def timeouts(self, ns: int) -> float:
        """A duration in election timeouts."""
        return ns / (self.timeout_ms * MS)

    def hold(self, timeouts: int) -> tuple[int, float]:
        """Runs that long; the leaders elected meanwhile, and the longest time without a commit, in timeouts."""
        led, longest = len(self.checker.leaders), 0.0
        left = timeouts * self.timeout_ms
        since, count = self.now, len(self.checker.committed)
        while left > 0:
            self.run(1)
            left -= 1
            if len(self.checker.committed) > count:
                since, count = self.now, len(self.checker.committed)
            longest = max(longest, self.timeouts(self.now - since))
        return len(self.checker.leaders) - led, longest


def directed(cuts: tuple[str, ...], of: dict[str, int]) -> Iterator[tuple[int, int]]:
    """The directed links that a scenario's words name."""
    for link in cuts:
        one, other = of[link[0]], of[link[-1]]
        yield one, other
        if ">" not in link:
            yield other, one


def any_links(seed: int, word: str) -> tuple[Scenario, bool]:
    """Links that fail by chance, of three or five nodes; whether somebody still has a majority, itself included.

    word: "" for links that fail in both directions, ">" for those that fail in one.
    """
    rng = random.Random(f"{seed}/links")
    nodes = rng.choice(("ABC", "ABCDE", "ABCDE"))
    chance = rng.choice((0.2, 0.35, 0.5))
    pairs = [(a, b) for a in nodes for b in nodes if a < b or (word and a != b)]
    cut = tuple(f"{a}{word}{b}" for a, b in pairs if rng.random() < chance)
    gone = set(directed(cut, dict(zip(nodes, range(len(nodes)), strict=True))))
    both = [sum((a, b) not in gone and (b, a) not in gone for b in range(len(nodes))) for a in range(len(nodes))]
    return Scenario(f"links-{seed}", nodes, cut=cut), max(both) > len(nodes) // 2


def play(scenario: Scenario, node: type[Node], seed: int, config: Any = None, hold: int = HOLD_TIMEOUTS) -> Found:
    """One run of a scenario."""
    cluster = Partial(seed, len(scenario.nodes), node, config)
    cluster.run(6 * cluster.timeout_ms + seed % 37)
    leader = cluster.leader
    if leader is None:
        raise AssertionError("no leader with all links at work")
    others = [member for member in cluster.members if member != leader.id]
    random.Random(f"{seed}/letters").shuffle(others)
    of = dict(zip(scenario.nodes, [leader.id, *others], strict=True))
    if scenario.before:
        cluster.cut = set(directed(scenario.before, of))
        cluster.run(BEFORE_TIMEOUTS * cluster.timeout_ms)
    cluster.cut |= set(directed(scenario.cut, of))
    if scenario.kept is not None:
        every = {(a, b) for a in cluster.members for b in cluster.members if a != b}
        cluster.cut |= every - set(directed(scenario.kept, of))
    recovered = cluster.commits(GIVE_UP_TIMEOUTS)
    changes, silence = cluster.hold(hold) if recovered is not None else (0, 0.0)
    cluster.heal()
    led = len(cluster.checker.leaders)
    healed = cluster.commits(GIVE_UP_TIMEOUTS)
    cluster.hold(10)
    return Found(recovered, changes, silence, healed, len(cluster.checker.leaders) - led)


ENGINES = {"raft": Node, "paxos": PaxosNode}
