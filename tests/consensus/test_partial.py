"""Nodes that disagree about who is alive: how soon something commits again, and whether leadership then stays put.

QUORUMD_SEEDS=N runs N seeds. bench/partial.py tabulates the same runs.
"""

import os

import pytest
from cluster import Node
from partial import ENGINES, HOLD_TIMEOUTS, SCENARIOS, Found, Scenario, any_links, directed, play
from paxoscluster import PAXOS_CONFIG, PaxosNode

from quorumd import connectivity

SEEDS = min(int(os.environ.get("QUORUMD_SEEDS", "2")), 40)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

UNDISTURBED = 0.25
"""Most timeouts when the leader keeps its quorum: nobody else may disturb it."""
ELECTION = 2.75
"""When those who are to elect no longer hear the leader: a timer of up to two, with room for one divided vote."""
STEPS_DOWN_FIRST = 4.75
"""When they still hear one that reaches no quorum: it steps down within two before."""

# What is to be in the way of a commit, by scenario: nothing, an election, or a leader that has to step down first.
BOUNDS = {
    "quorum-loss": STEPS_DOWN_FIRST,
    "constrained": ELECTION,
    "constrained-in-step": ELECTION,
    "bare-majority": STEPS_DOWN_FIRST,  # C needs the vote of the leader that stepped down
    "chained": UNDISTURBED,
    "row-of-five": STEPS_DOWN_FIRST,
    "one-way": UNDISTURBED,
    "one-way-back": UNDISTURBED,
    "one-way-of-five": UNDISTURBED,
    "mute-leader": ELECTION,
    "deaf-leader": STEPS_DOWN_FIRST,
}
CASES = [(engine, name) for engine in ENGINES for name in BOUNDS if (engine, name) != ("raft", "constrained")]
"""Raft elects nobody whose log is behind (raft/DIVERGENCE.md): that has a test of its own."""


def check(found: Found, bound: float) -> None:
    assert found.recovered is not None and found.recovered <= bound
    assert found.changes == 0, "whoever leads then goes on leading"
    assert found.silence <= UNDISTURBED, "and goes on committing"
    assert found.healed is not None and found.healed <= UNDISTURBED, "the links' return stops nothing"
    assert found.changes_healed == 0, "and deposes nobody"


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize(("engine", "name"), CASES)
def test_progress_under_partial_connectivity(engine, name, seed):
    hold = HOLD_TIMEOUTS if seed == 0 else HOLD_TIMEOUTS // 5
    check(play(BY_NAME[name], ENGINES[engine], seed, hold=hold), BOUNDS[name])


@pytest.mark.parametrize("seed", range(8 * SEEDS))
@pytest.mark.parametrize("word", ["", ">"], ids=["links", "directions"])
@pytest.mark.parametrize("engine", ENGINES)
def test_whatever_fails_at_once_whoever_still_has_a_majority_suffices(engine, word, seed):
    """For Raft only where links fail in both directions: a voter that goes on hearing the old leader may be ahead of
    all who could win."""
    scenario, possible = any_links(seed, word)
    found = play(scenario, ENGINES[engine], seed, hold=15)
    if found.recovered is None:
        assert not possible or (engine, word) == ("raft", ">"), scenario
    else:
        assert possible
        assert found.recovered <= STEPS_DOWN_FIRST
        assert found.changes == 0
        assert found.silence <= UNDISTURBED
    assert found.healed is not None and found.healed <= STEPS_DOWN_FIRST
    assert found.changes_healed <= 1


@pytest.mark.parametrize("seed", range(SEEDS))
def test_raft_waits_for_a_link_when_only_a_node_that_is_behind_reaches_a_quorum(seed):
    """Whoever has everything reaches no majority, and who reaches one gets no vote (thesis 3.6.1)."""
    found = play(BY_NAME["constrained"], Node, seed)
    assert found.recovered is None
    assert found.healed is not None and found.healed <= ELECTION
    assert found.changes_healed == 1


@pytest.mark.parametrize(
    ("name", "bound"),
    [("quorum-loss", UNDISTURBED), ("constrained", ELECTION), ("row-of-five", UNDISTURBED)],
)
def test_a_small_phase_2_quorum_keeps_its_leader_where_a_majority_is_lost(name, bound):
    """FPaxos, phase 1: 4 and phase 2: 2 of five: the leader needs one neighbour; who follows it needs three."""
    check(play(BY_NAME[name], PaxosNode, 1, PAXOS_CONFIG._replace(phase1=4, phase2=2)), bound)


@pytest.mark.parametrize(
    ("name", "letters", "shape"),
    [("quorum-loss", "ACBDE", "quorum-loss"), ("constrained", "ACBDE", "constrained"), ("chained", "ABC", "chained"),
     ("chained", "ABCDE", "row-of-five")],
)
def test_simulator_and_chaos_cut_the_same_links(name, letters, shape):
    nodes = list(range(1, len(letters) + 1))
    of = dict(zip(letters, nodes, strict=True))
    scenario: Scenario = BY_NAME[shape]
    every = {(a, b) for a in nodes for b in nodes if a != b}
    theirs = connectivity.SCENARIOS[name]
    assert set(theirs.cut(nodes)) == every - set(directed(scenario.kept, of))
    assert set(theirs.first(nodes) if theirs.first else ()) == set(directed(scenario.before, of))


def test_runs_follow_from_their_seed():
    runs = [play(BY_NAME["quorum-loss"], PaxosNode, 5, hold=5) for _ in range(2)]
    assert runs[0] == runs[1] != play(BY_NAME["quorum-loss"], PaxosNode, 6, hold=5)
