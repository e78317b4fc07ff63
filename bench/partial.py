"""How long writes stop when nodes disagree about who is alive: partial connectivity, both engines.

    python bench/partial.py --rounds 10

The scenarios are those of tests/consensus/partial.py, made around whoever leads:

- in memory, exact: simulated clock, 1 ms a message, syncs up to 2 ms, so many seeds each;
- real processes with a relay between them (`quorumd chaos` has the same), default timing, the engines taking turns.

A real round: links fail, and at once a client begins a small put; the figure is the time from before the cut to the
answer, in election timeouts. The client is the library's, which knew the old leader and finds the new one by itself; it
gives up after 40 timeouts. Then 20 timeouts in which leaders are counted, then everything is mended, and all agree
again. Beside it a small load, so that a node that is cut off falls behind.

Must show: half of the writes succeed within 10 election timeouts wherever the engine can go on at all, and leadership
then stays put: always in memory; on real processes, which a busy machine may make late, but for one round in five. Raft
cannot elect anybody in a constrained election: that row says when writes went on after the links were mended.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from statistics import median
from typing import Any, NamedTuple

from harness import ROOT, Failed, Report, reported, say
from relayed import ASK_S, CUT, RelayedCluster

sys.path.insert(0, str(ROOT / "tests" / "consensus"))

import partial as scenarios

from quorumd.client import AsyncClient
from quorumd.errors import QuorumdError
from quorumd.types import ENGINES

REAL = ("quorum-loss", "constrained", "chained", "one-way")
CANNOT = {("raft", "constrained")}
MOST_TIMEOUTS = 10.0
GIVE_UP_TIMEOUTS = 40
HOLD_TIMEOUTS = 20
LOAD_EVERY_S = 0.005
CALM = 0.2  # changes of leader a real round: a busy machine may be late with a heartbeat, a livelock makes many


class Gap(NamedTuple):
    """Of one real round, in election timeouts; None: no write succeeded while the links were cut."""

    recovered: float | None
    changes: int
    healed: float


# -- in memory ------------------------------------------------------------------------------------------------------


def simulated(seeds: int) -> dict[str, Any]:
    """Every scenario with every engine, over so many seeds."""
    figures = {}
    for scenario in scenarios.SCENARIOS:
        for engine, node in scenarios.ENGINES.items():
            found = [scenarios.play(scenario, node, seed) for seed in range(seeds)]
            recovered = [each.recovered for each in found if each.recovered is not None]
            figures[f"{scenario.name}, {engine}"] = {
                "seeds": seeds, **spread(recovered, "recovered"), "stuck": seeds - len(recovered),
                "changes": sum(each.changes for each in found),
                "longest_silence": max(each.silence for each in found),
                **spread([each.healed for each in found if each.healed is not None], "healed"),
            }
            say(f"  in memory: {scenario.name}, {engine}: {figures[f'{scenario.name}, {engine}']}")
    return figures


def spread(values: list[float], name: str) -> dict[str, float | None]:
    """Median and maximum, None of nothing."""
    return {
        f"{name}_p50": round(median(values), 2) if values else None,
        f"{name}_max": round(max(values), 2) if values else None,
    }


# -- real processes -------------------------------------------------------------------------------------------------


class Nodes(RelayedCluster):
    """With a client that measures and one that makes load."""

    def __init__(self, engine: str, nodes: int) -> None:
        super().__init__(engine, nodes)
        self.puts = 0

    async def _opened(self, stack: AsyncExitStack) -> None:
        await self.agree()
        self.client = await stack.enter_async_context(await AsyncClient.connect(self.cluster.endpoints))
        load = await stack.enter_async_context(await AsyncClient.connect(self.cluster.endpoints))
        self.beside(self._load(load))

    async def _load(self, client: AsyncClient) -> None:
        while True:
            with suppress(QuorumdError):
                await client.put(b"load", b"x" * 100, timeout=GIVE_UP_TIMEOUTS * self.timeout_s)
            await asyncio.sleep(LOAD_EVERY_S)

    async def put(self, timeouts: float) -> float | None:
        """One write; how long it took in election timeouts, None if it failed within so many."""
        self.puts += 1
        begun_s = time.monotonic()
        try:
            await self.client.put(b"probe", b"%d" % self.puts, timeout=timeouts * self.timeout_s)
        except QuorumdError:
            return None
        return (time.monotonic() - begun_s) / self.timeout_s


async def one_round(nodes: Nodes, scenario: scenarios.Scenario, number: int) -> Gap:
    """Cuts, measures, mends."""
    cluster = nodes.cluster
    await nodes.put(GIVE_UP_TIMEOUTS)  # the client knows the leader
    await nodes.agree()
    leader = nodes.leader
    others = [node for node in cluster.nodes if node != leader]
    turned = others[number % len(others) :] + others[: number % len(others)]
    of = dict(zip(scenario.nodes, [leader, *turned], strict=True))
    if scenario.before:
        cluster.set_links(dict.fromkeys(scenarios.directed(scenario.before, of), CUT), 1)
        await asyncio.sleep(scenarios.BEFORE_TIMEOUTS * nodes.timeout_s)
    links = set(scenarios.directed(scenario.cut, of))
    if scenario.kept is not None:
        links |= set(cluster.links) - set(scenarios.directed(scenario.kept, of))
    cluster.set_links(dict.fromkeys(links, CUT), 2)
    recovered = await nodes.put(GIVE_UP_TIMEOUTS)
    changes = 0 if recovered is None else await leaders_in(nodes, HOLD_TIMEOUTS)
    cluster.clear_links(1)
    cluster.clear_links(2)
    healed = await nodes.put(10 * GIVE_UP_TIMEOUTS)
    if healed is None:
        raise Failed(f"{nodes.engine}, {scenario.name}: no write within {10 * GIVE_UP_TIMEOUTS} timeouts of mending")
    return Gap(recovered, changes, healed)


async def leaders_in(nodes: Nodes, timeouts: int) -> int:
    """How many newer leaders are seen in so many election timeouts."""
    await asyncio.sleep(4 * ASK_S)  # what is known of the leader that answered is of before
    terms = {nodes.newest_term()}
    deadline_s = time.monotonic() + timeouts * nodes.timeout_s
    while time.monotonic() < deadline_s:
        await asyncio.sleep(ASK_S)
        terms.add(nodes.newest_term())
    return len(terms - {0}) - 1 if terms - {0} else 0


async def real(rounds: int) -> dict[str, list[Gap]]:
    """Every scenario of REAL with every engine, the engines taking turns round by round."""
    gaps: dict[str, list[Gap]] = {}
    chosen = [scenario for scenario in scenarios.SCENARIOS if scenario.name in REAL]
    for size in sorted({len(scenario.nodes) for scenario in chosen}):
        async with AsyncExitStack() as stack:
            clusters = [await stack.enter_async_context(Nodes(engine, size)) for engine in ENGINES]
            for scenario in (each for each in chosen if len(each.nodes) == size):
                for number in range(rounds):
                    for nodes in clusters:
                        name = f"{scenario.name}, {nodes.engine}"
                        gaps.setdefault(name, []).append(await one_round(nodes, scenario, number))
                        say(f"  {name} {number + 1}: {gaps[name][-1]}")
    return gaps


def summary(gaps: list[Gap]) -> dict[str, Any]:
    """Of one scenario and engine."""
    recovered = [gap.recovered for gap in gaps if gap.recovered is not None]
    return {
        "rounds": len(gaps), **spread(recovered, "recovered"), "stuck": len(gaps) - len(recovered),
        "changes": sum(gap.changes for gap in gaps), **spread([gap.healed for gap in gaps], "healed"),
    }


def judge(report: Report, kind: str, figures: Mapping[str, Mapping[str, Any]], calm: float) -> None:
    """The criteria of the module's docstring. calm: how often leaders may change in all runs of a row together."""
    for name, each in figures.items():
        scenario, _, engine = name.partition(", ")
        if (engine, scenario) in CANNOT:
            report.judge(f"{kind}: {name}: writes go on after the mending, p50", each["healed_p50"], most=MOST_TIMEOUTS)
            continue
        if each["recovered_p50"] is None:
            raise Failed(f"{kind}: {name}: no write succeeded")
        report.judge(f"{kind}: {name}: p50, election timeouts", each["recovered_p50"], most=MOST_TIMEOUTS)
        report.judge(f"{kind}: {name}: leaders changed afterwards", each["changes"], most=calm)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="on real processes, of each scenario (10)")
    parser.add_argument("--seeds", type=int, default=40, help="in memory, of each scenario (40)")
    options = parser.parse_args()
    with reported("partial") as report:
        figures: dict[str, Any] = {}
        if options.seeds:
            figures["in memory"] = simulated(options.seeds)
            judge(report, "in memory", figures["in memory"], calm=0)
        if options.rounds:
            figures["real"] = {name: summary(gaps) for name, gaps in asyncio.run(real(options.rounds)).items()}
            judge(report, "real", figures["real"], calm=options.rounds * CALM)
    return report.finish(figures)


if __name__ == "__main__":
    sys.exit(main())
