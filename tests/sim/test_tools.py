"""What stands around the runs: the disk's promises, replay commands, shrinking, the command line."""

import json
import random
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from quorumd import limits
from quorumd.checker.invariants import Violation
from quorumd.checker.paxos_invariants import PaxosInvariants
from quorumd.checker.raft_invariants import Entry, RaftInvariants
from quorumd.cli.sim import chosen, fault_list, replay
from quorumd.cli.sim import sim as command
from quorumd.errors import DiskError
from quorumd.sim import shrink as shrinking
from quorumd.sim.campaign import Total
from quorumd.sim.clients import Program
from quorumd.sim.coverage import words
from quorumd.sim.disk import SECTOR, SimDisk
from quorumd.sim.run import Outcome, Run
from quorumd.sim.scenario import ALL_FAULTS, FAULTS, LEAST_NODES, Scenario, draw, kinds
from quorumd.sim.world import World
from quorumd.types import ENGINES

SIZE = 64 * SECTOR


class Bytes:
    """A finished batch, as far as a disk looks at it."""

    def __init__(self, data):
        self._data = data

    def data(self):
        return memoryview(self._data)


def disk(sync_ns=1000):
    world = World()
    made = SimDisk("d", world, random.Random(1), (sync_ns, sync_ns))
    made.create(1, SIZE)
    return world, made


def test_what_was_synced_survives_a_power_loss_and_the_rest_is_chance():
    world, d = disk()
    d.append(1, 0, Bytes(b"a" * SECTOR), 1)
    world.run(world.now + 1000)
    assert d.durable() == 1 and d.holds(1, 0, SECTOR)
    d.append(1, SECTOR, Bytes(b"b" * 8 * SECTOR), 2)
    assert not d.holds(1, SECTOR, 1)
    d.lost_power(0.5)
    kept = [bytes(d.load(1)[at * SECTOR : (at + 1) * SECTOR]) for at in range(9)]
    assert kept[0] == b"a" * SECTOR
    assert set(kept[1:]) == {b"b" * SECTOR, bytes(SECTOR)}
    assert d.durable() == 0  # a new process has queued nothing yet


def test_a_killed_process_loses_what_it_queued_and_keeps_what_the_page_cache_has():
    world, d = disk()
    d.append(1, 0, Bytes(b"a" * SECTOR), 1)
    d.append(1, SECTOR, Bytes(b"b" * SECTOR), 2)  # waits for the next cycle
    d.killed()
    world.run(world.now + 10_000)
    assert bytes(d.load(1)[SECTOR : SECTOR + 1]) == b"\0"
    d.begin_segment(1, b"h" * SECTOR)
    d.killed()
    assert bytes(d.load(1)[:1]) == b"h"
    d.lost_power(1.0)
    assert bytes(d.load(1)[:1]) == b"\0"


def test_after_a_failed_sync_only_who_reads_past_the_cache_sees_what_the_disk_has():
    """Linux reports the failure once; the pages are clean from then on, and no further sync writes them."""
    world, d = disk()
    d.failing = True
    d.append(1, 0, Bytes(b"a" * SECTOR), 1)
    world.run(world.now + 1000)
    with pytest.raises(DiskError):
        d.durable()
    d.failing = False
    d.killed()
    d.sync_all()
    assert bytes(d.load(1)[:1]) == b"a" and not d.holds(1, 0, SECTOR)
    d.distrust(1)
    assert bytes(d.load(1)[:1]) == b"\0" and d.holds(1, 0, SECTOR)


def test_a_hanging_disk_finishes_nothing_until_it_works_again():
    world, d = disk()
    d.hang(True)
    d.append(1, 0, Bytes(b"a" * SECTOR), 1)
    world.run(world.now + 10_000)
    assert d.durable() == 0 and d.oldest_pending_ns() == 10_000
    d.hang(False)
    assert d.durable() == 1


def rebuilt(line):
    """The scenario that `quorumd sim` makes of such a command line."""
    given = command.make_context("sim", shlex.split(line)[2:]).params
    faults = fault_list(given["faults"])
    return chosen(given["seed"], given["engine"], given["nodes"], faults, given["skip"], given["changes"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(40))
def test_a_scenario_survives_its_replay_command(seed, engine):
    """As it was drawn, changed in some ways, and in each way in which it is shrunk."""
    dice = random.Random(seed)
    drawn = draw(seed, engine=engine, nodes=dice.choice((None, 3)))
    changed = replace(drawn, skip=(3, 4), keys=2, sizes=(0, 7), seconds=dice.choice((60, 12.5)))
    smaller = [scenario for _, scenario in shrinking.smaller(Outcome(changed, simulated_s=9.0, drawn=9))]
    assert len(smaller) > 5
    for scenario in (drawn, changed, *smaller):
        assert rebuilt(replay(scenario)) == scenario


def test_every_fault_is_drawn_and_has_its_method():
    from quorumd.sim.cluster import Cluster
    from quorumd.sim.faults import Faults

    drawn = {fault for seed in range(200) for fault in draw(seed).faults}
    assert drawn == set(FAULTS)
    faults = Faults(Cluster(draw(1)))
    assert all(callable(faults.harm(fault)) for fault in ALL_FAULTS)
    assert {fault for seed in range(200) for fault in draw(seed, engine="paxos").faults} == set(ALL_FAULTS)
    assert "deaf-leader" not in draw(1, engine="paxos", only=["kill"]).faults


def test_shrinking_keeps_what_fails_and_drops_the_rest(monkeypatch):
    """A rule that breaks whenever fault 5 of a kill strikes."""

    class Fake(Run):
        def go(self):
            s = self.scenario
            fails = "kill" in s.faults and 5 not in s.skip
            outcome = Outcome(s, "two-leaders" if fails else "", simulated_s=10.0)
            outcome.drawn = 8
            return outcome

    monkeypatch.setattr(shrinking, "Run", Fake)
    scenario = Scenario(1, 5, faults=("loss", "kill", "pause"), clients=4, workers=4, keys=8)
    smallest = shrinking.shrink(Fake(scenario).go(), budget=500).scenario
    assert (smallest.faults, smallest.nodes, smallest.clients, smallest.keys) == (("kill",), 1, 1, 1)
    assert set(smallest.skip) == {1, 2, 3, 4, 6, 7, 8}


def shrunk(monkeypatch, scenario, violation, go):
    """The smallest scenario found where `go(scenario)` says (violation, detail) of each."""

    class Fake(Run):
        def go(self):
            word, detail = go(self.scenario)
            return Outcome(self.scenario, word, detail, simulated_s=self.scenario.seconds, drawn=4)

    monkeypatch.setattr(shrinking, "Run", Fake)
    first = Fake(scenario).go()
    assert first.violation == violation
    return shrinking.shrink(first, budget=500).scenario


@pytest.mark.parametrize("phase2", [1, 2, 3])
def test_a_smaller_cluster_of_multi_paxos_has_quorums_that_meet_and_faults_that_fit(monkeypatch, phase2):
    tried = []

    def go(scenario):
        tried.append(scenario)
        return "two-leaders" if "kill" in scenario.faults else "", ""

    scenario = Scenario(
        1, 5, engine="paxos", phase1=6 - phase2, phase2=phase2, slow=4, faults=("kill", "chained", "quorum-loss")
    )
    smallest = shrunk(monkeypatch, scenario, "two-leaders", go)
    assert (smallest.nodes, smallest.phase1, smallest.phase2, smallest.slow) == (1, 1, 1, 0)
    for each in tried:
        assert 1 <= each.phase2 <= each.nodes // 2 + 1 and each.phase1 + each.phase2 == each.nodes + 1
        assert each.slow <= each.nodes
        assert all(LEAST_NODES.get(fault, 1) <= each.nodes for fault in each.faults)


@pytest.mark.parametrize("word", ["halted", "crashed"])
def test_another_error_than_the_one_that_is_looked_for_is_not_it(monkeypatch, word):
    """Three nodes fail as five did; one node for a reason of its own."""

    def go(scenario):
        nodes = list(range(scenario.nodes))
        why = f"ValueError: entry {len(nodes)} of {nodes} is gone" if len(nodes) > 1 else "ValueError: nobody is there"
        return word, why

    scenario = Scenario(1, 5, faults=("kill", "loss"))
    assert shrunk(monkeypatch, scenario, word, go).nodes == 3


def test_a_run_that_is_stuck_says_on_what(monkeypatch):
    """Nothing that clients ask ever reaches a node."""
    run = Run(replace(draw(3, nodes=3, only=["loss"]), seconds=1))
    monkeypatch.setattr(Program, "submit", lambda program, worker, ask: None)
    outcome = run.go()
    assert outcome.violation == "no-progress"
    assert re.match(r"waited for a good answer to \S+: write k0; healed: \[\d, \d\], node \d ", outcome.detail)


@pytest.mark.parametrize(("narrow", "begins_at", "given_s"), [(True, 0, 400), (True, 90, 140), (False, 90, 40)])
def test_who_catches_up_through_narrow_windows_is_given_time_until_it_is_through(narrow, begins_at, given_s):
    """Seed 1051846 of Multi-Paxos: a quorum needed whoever lagged, and had no room for anything new until then."""
    scenario = replace(draw(3, engine="paxos", nodes=3), ring_kib=8_192, island_entries=2 if narrow else 65_536)
    run, world = Run(scenario), SimpleNamespace(now=0, run=lambda until: setattr(world, "now", until))
    cluster = SimpleNamespace(
        world=world, describe=lambda: "", invariants=SimpleNamespace(committed=100),
        least_applied=lambda nodes: begins_at + world.now // (10 * limits.SECOND),  # others go on for ever
    )
    with pytest.raises(Violation):
        run._answered(cluster, [SimpleNamespace(idle=False, name="c1")])
    assert world.now == given_s * limits.SECOND


def test_a_real_run_of_multi_paxos_is_shrunk_to_fewer_nodes(monkeypatch):
    monkeypatch.setattr(Program, "submit", lambda program, worker, ask: None)
    drawn = draw(3, engine="paxos", nodes=5, only=["kill", "loss"])
    scenario = replace(drawn, seconds=1, phase1=4, phase2=2)
    smallest = shrinking.shrink(Run(scenario).go(), budget=12)
    assert (smallest.violation, smallest.scenario.nodes) == ("no-progress", 1)


# -- invariants: each one fails on what it forbids ----------------------------------------------------------------


def terms(*of):
    return lambda index: (0, *of)[index] if index <= len(of) else None


def test_each_rule_of_raft_is_broken_by_what_it_forbids():
    def broken(check, *steps):
        rules = RaftInvariants([1, 2, 3])
        with pytest.raises(Violation) as found:
            for name, *arguments in steps:
                getattr(rules, name)(*arguments)
        assert found.value.check == check

    vote = ("votes", 3, 4, 1, (4, 1))
    broken("elected-by-too-few", ("leads", 1, 4, terms()))
    broken("two-leaders", vote, ("leads", 1, 4, terms()), ("leads", 2, 4, terms()))
    broken("leader-completeness", ("commits", 1, 2, terms(1, 1)), vote, ("leads", 1, 4, terms(1, 2)))
    broken("voted-twice", vote, ("votes", 3, 4, 2, (5, 0)))
    broken("vote-before-durable", ("votes", 3, 4, 1, (4, 0)))
    broken("term-before-durable", ("speaks", 3, 4, 3))
    broken("hard-state-lost", vote, ("started", 3, 4, 2))
    broken("hard-state-lost", ("speaks", 3, 4, 4), ("started", 3, 3, 0))
    broken("commit-before-quorum", ("leader_commits", 1, 4, 9, 4, True))
    broken("older-term-counted", ("leader_commits", 1, 4, 9, 3, True))
    broken("log-matching", ("appended", 1, 2, [Entry(3, 1, 7)]), ("appended", 2, 2, [Entry(3, 2, 7)]))
    broken("log-matching", ("appended", 1, 2, [Entry(3, 1, 7)]), ("appended", 2, 2, [Entry(3, 1, 8)]))
    broken("leader-append-only", ("shortened", 1, 5, True))
    broken("committed-cut", ("commits", 1, 2, terms(1, 1)), ("shortened", 1, 1, False))
    broken("commit-moved-back", ("commits", 1, 2, terms(1, 1)), ("commits", 1, 1, terms(1, 1)))
    broken("committed-missing", ("commits", 1, 2, terms(1)))
    broken("committed-differs", ("commits", 1, 2, terms(1, 1)), ("commits", 2, 2, terms(1, 2)))
    broken("state-differs", ("applied", 1, 5, 1), ("applied", 2, 5, 2))
    broken("ack-before-durable", ("acknowledges", 1, 1, 5, False))


def test_each_rule_of_multi_paxos_is_broken_by_what_it_forbids():
    def broken(check, *steps):
        rules = PaxosInvariants([1, 2, 3], 2, 2, lambda ballot: ballot % 10)
        with pytest.raises(Violation) as found:
            for name, *arguments in steps:
                getattr(rules, name)(*arguments)
        assert found.value.check == check

    def yes(slot):
        return True

    def no(slot):
        return False

    def in11(slot):
        return 11

    chosen = ("takes", 1, 11, 1, [7]), ("accepted", 1, 11, [1], in11, yes), ("accepted", 2, 11, [1], in11, yes)
    broken("foreign-ballot", ("promises", 3, 11, 11), ("leads", 2, 11))
    broken("elected-by-too-few", ("leads", 1, 11))
    broken("hole-left", ("proposes", 1, 11, 1, 3, lambda slot: (0, 11, 11, 3)[slot]))
    broken("promise-before-durable", ("promises", 3, 21, 11))
    broken("two-values", ("takes", 1, 11, 1, [7]), ("takes", 2, 11, 1, [8]))
    broken("ack-before-durable", ("accepted", 2, 11, [1], in11, no))
    broken("accepted-below-promise", ("promises", 2, 21, 21), ("accepts", 2, 11))
    broken("ack-of-another", ("accepted", 2, 22, [1], in11, yes))
    broken("acceptance-lost", ("accepted", 2, 11, [1], in11, yes), ("holds", 2, lambda slot: None))
    broken("acceptance-lost", ("accepted", 2, 11, [1], in11, yes), ("holds", 2, lambda slot: 3))
    broken("commit-before-quorum", ("takes", 1, 11, 1, [7]), ("leader_commits", 1, 11, 0, 1, yes))
    counted = PaxosInvariants([1, 2, 3], 2, 2, lambda ballot: ballot % 10)
    counted.takes(1, 11, 1, [7])
    counted.accepted_once(2, 11, [1])
    counted.leader_commits(1, 11, 0, 1, yes)
    broken("chosen-overwritten", *chosen, ("takes", 3, 22, 1, [8]))
    broken("chosen-differs", *chosen, ("takes", 3, 3, 1, [8]), ("commits", 3, 1, lambda slot: 3))
    broken("chosen-missing", ("commits", 1, 1, lambda slot: None))
    broken("commit-moved-back", *chosen, ("commits", 1, 1, lambda slot: 11), ("commits", 1, 0, lambda slot: 11))
    broken("hard-state-lost", ("speaks", 3, 21, 21), ("started", 3, 11, 1))


# -- the command line ---------------------------------------------------------------------------------------------


def sim(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "quorumd", "sim", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_campaign_must_reach_everything_once_in_a_hundred_runs():
    def total(runs, each, **given):
        made = Total("paxos", runs=runs, **given)
        made.reached.update(dict.fromkeys(words("paxos"), each))
        made.struck.update(dict.fromkeys(kinds("paxos"), each))
        return made

    assert total(99, 0).unreached == []
    assert total(100, 1).unreached == total(299, 2).unreached == []
    assert total(300, 2).unreached == [*words("paxos"), *(f"fault {kind}" for kind in kinds("paxos"))]
    assert total(300, 0, whole=False).unreached == []
    rare = total(250, 9)
    rare.reached["cut tails"] = rare.struck["deaf-leader"] = 1
    assert rare.unreached == ["cut tails", "fault deaf-leader"]


def test_one_run_as_json_and_a_campaign():
    done = sim("--seed", "2", "--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0 and facts["counts"] and facts["violation"] == "" and facts["scenario"]["seed"] == 2
    done = sim("--seeds", "2..3", "--jobs", "2", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["runs"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seeds", "9..1"], "not a range"),
        (["--faults", "meteor"], "unknown fault 'meteor'"),
        (["--seeds", "1..2", "--trace", "x"], "for one run"),
        (["--seeds", "1..2", "--shrink"], "--shrink is for one run"),
        (["--minutes", "0.1", "--shrink"], "--shrink is for one run"),
        (["--minutes", "inf"], "inf is not in the range"),
        (["--seed", "1", "--jobs", "2"], "--jobs and --keep-going are for many runs"),
        (["--keep-going"], "--jobs and --keep-going are for many runs"),
        (["--seed", "1", "--trace", "none/x"], "none/x: there is no directory none"),
        (["--seed", "1", "--history", "none/x"], "none/x: there is no directory none"),
        (["--seed", "1", "--set", "nonsense=1"], "there are seed"),
        (["--seed", "1", "--set", "keys=many"], "not a JSON value"),
        (["--seed", "1", "--set", "keys=[1]"], "must be like"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments, says):
    done = sim(*arguments)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
