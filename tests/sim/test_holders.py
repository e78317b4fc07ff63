"""What the simulator does to leases and clocks, and that whoever watches leases misses nothing."""

import itertools
from dataclasses import replace

import pytest

from quorumd.core import Core
from quorumd.sim.lease_observer import LeaseObserver, Stepped
from quorumd.sim.run import Run
from quorumd.sim.scenario import draw
from quorumd.types import ENGINES

RESTARTS = ("kill", "power-loss", "restart-all")


def restarting(engine):
    return replace(draw(1, engine=engine, nodes=3, only=RESTARTS), holders=3)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_entry_is_seen_once_and_in_order(engine, monkeypatch):
    seen, caught_up = [], LeaseObserver.caught_up
    entry = LeaseObserver.entry

    def see(observer, index, data, store):
        seen.append(index)
        entry(observer, index, data, store)

    def catch_up(observer, store):
        seen.extend(range(observer.seen + 1, store.applied + 1))
        caught_up(observer, store)

    monkeypatch.setattr(LeaseObserver, "entry", see)
    monkeypatch.setattr(LeaseObserver, "caught_up", catch_up)
    outcome = Run(restarting(engine)).go()
    assert not outcome.violation, outcome.detail
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) >= outcome.committed


def test_wall_clocks_jump_both_ways_between_the_lives_of_a_node(monkeypatch):
    walls: dict[int, list[int]] = {}
    start = Core.start

    def started(core, now, wall_ns):
        walls.setdefault(core.settings.node, []).append(wall_ns)
        start(core, now, wall_ns)

    monkeypatch.setattr(Core, "start", started)
    outcome = Run(restarting("raft")).go()
    assert not outcome.violation, outcome.detail
    jumps = [after - before for lives in walls.values() for before, after in itertools.pairwise(lives)]
    year = 365 * 86_400 * 10**9
    assert min(jumps) < -year and max(jumps) > year


@pytest.mark.parametrize("engine", ENGINES)
def test_leases_end_also_under_a_leader_whose_every_turn_is_slow(engine):
    scenario = replace(draw(1, engine=engine, nodes=1, only=("kill", "restart")), holders=2, slow=1)
    outcome = Run(scenario).go()
    assert not outcome.violation, outcome.detail
    assert outcome.reached["leases expired"]


def test_leases_end_late_under_a_leader_whose_disk_hangs_and_whose_ring_is_full():
    """It proposes nothing until it gives up, which the rule must know."""
    outcome = Run(draw(1014153, engine="paxos")).go()
    assert not outcome.violation, outcome.detail
    assert outcome.reached["leases expired"]


def test_what_nobody_saw_applied_is_caught_up_with(monkeypatch):
    """As if every node always read its entries back from the disk."""

    def apply(stepped, *given, **named):
        done = stepped._store.apply(*given, **named)
        stepped._observer.caught_up(stepped._store)
        return done

    monkeypatch.setattr(Stepped, "apply", apply)
    outcome = Run(restarting("raft")).go()
    assert not outcome.violation, outcome.detail
    assert outcome.reached["leases granted"] > 10 and not outcome.reached["leases expired"]
