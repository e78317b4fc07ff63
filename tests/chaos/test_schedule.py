"""Plans: seeds are the data."""

import pytest

from quorumd.chaos.faults import FAULTS, parse
from quorumd.chaos.schedule import plan

NODES = (1, 2, 3)
ALL = parse("all", len(NODES))
SEEDS = range(30)


def injections(rounds):
    return [injection for each in rounds for injection in each.injections]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_is_a_plan(seed):
    assert plan(seed, 60, ALL, NODES) == plan(seed, 60, ALL, NODES) != plan(seed + 1, 60, ALL, NODES)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("seconds", [1, 10, 120])
def test_a_plan_takes_about_as_long_as_was_asked_for(seed, seconds):
    rounds = plan(seed, seconds, ALL, NODES)
    spent_s = sum(each.storm_s + each.calm_s for each in rounds)
    assert seconds <= spent_s <= seconds + 15
    assert len({injection.number for injection in injections(rounds)}) == len(injections(rounds))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_fault_is_dealt_once_before_any_is_dealt_again(seed):
    dealt = [each.fault for each in sorted(injections(plan(seed, 120, ALL, NODES)), key=lambda each: each.number)]
    dealt.remove("bit-flip")
    for begin in range(0, len(dealt) - len(ALL), len(ALL) - 1):
        assert sorted([*dealt[begin : begin + len(ALL) - 1], "bit-flip"]) == sorted(ALL)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_fault_is_healed_in_its_round_but_the_bit_flip(seed):
    for injection in injections(plan(seed, 60, ALL, NODES)):
        shortest, longest = FAULTS[injection.fault].seconds
        if injection.fault == "bit-flip":
            assert injection.end_s is None
        else:
            assert shortest <= injection.end_s - injection.begin_s <= longest


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("seconds", [1, 10, 60, 120])
def test_one_bit_flips_in_the_last_quarter(seed, seconds):
    rounds = plan(seed, seconds, ALL, NODES)
    spent_s = 0.0
    flips = []
    for number, each in enumerate(rounds):
        flips += [(number, spent_s) for injection in each.injections if injection.fault == "bit-flip"]
        spent_s += each.storm_s + each.calm_s
    ((number, at_s),) = flips
    assert at_s >= 0.75 * seconds or number == len(rounds) - 1


@pytest.mark.parametrize("seed", SEEDS)
def test_only_what_was_asked_for_is_planned(seed):
    assert {each.fault for each in injections(plan(seed, 30, ("kill", "loss"), NODES))} == {"kill", "loss"}
    only_flip = injections(plan(seed, 10, ("bit-flip",), NODES))
    assert [each.fault for each in only_flip] == ["bit-flip"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("power", [True, False])
def test_power_fails_only_in_runs_with_power_loss(seed, power):
    faults = ("restart-all", "power-loss") if power else ("restart-all", "kill")
    cuts = {each.drawn.cut_power for each in injections(plan(seed, 120, faults, NODES)) if each.fault == "restart-all"}
    assert cuts == ({True, False} if power else {False})
