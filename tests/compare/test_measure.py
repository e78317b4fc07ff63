"""What a round comes to, and how many nodes may be down: on a cluster and a load made up, with a clock of their own."""

from types import SimpleNamespace

import pytest

from quorumd import limits
from quorumd.commands import Status
from quorumd.compare import measure, workload
from quorumd.compare.cluster import Counters
from quorumd.compare.measure import Load
from quorumd.errors import Stopped

STEP_OPS = 2


class World:
    """Nodes that are killed, the load on them, and the time, which passes only while load runs.

    Each kill leaves writes on their way that were begun before it: one of them is acknowledged in each of the steps
    that follow.
    """

    def __init__(self, nodes=3):
        self.nodes = tuple(range(1, nodes + 1))
        self.alive = set(self.nodes)
        self.contender = SimpleNamespace(name="raft")
        self.point = SimpleNamespace(delay_ms=50.0)
        addresses = [
            SimpleNamespace(id=node, client_endpoint=SimpleNamespace(host="127.0.0.1", port=7000 + node))
            for node in self.nodes
        ]
        timing = SimpleNamespace(election_timeout_ms=120)
        self.config = SimpleNamespace(nodes=addresses, mtu_bytes=1400, timing=timing)
        self.now_s = 100.0
        self.on_their_way = 0
        self.refused = 0  # in each step
        self.stalled = False
        self.last_error_status = 0
        self.unsettled = []
        self.resends_ms = []
        self.reset()
        self.mark()
        self.writes_done = 0

    # -- the cluster

    def up(self):
        return sorted(self.alive)

    def leader(self):
        return min(self.alive)

    def kill(self, nodes):
        self.alive -= set(nodes)
        self.on_their_way = 5

    def restart(self):
        self.alive = set(self.nodes)

    def statuses(self):
        return {node: {"cluster": "c1"} for node in self.alive}

    def counters(self):
        return Counters(0, 0, 0, 0.0, [])

    # -- the load

    def monotonic(self):
        return self.now_s

    def run(self, seconds):
        self.now_s += seconds
        if self.on_their_way:
            self.on_their_way -= 1
            self.writes_done += 1
        elif len(self.alive) * 2 > len(self.nodes) and not self.stalled:
            self.writes_done += STEP_OPS
            self.marked_writes_done += STEP_OPS
            self.done += STEP_OPS
        self.errors += self.refused

    def set_resend(self, resend_ms):
        self.resends_ms.append(resend_ms)

    def drain(self, seconds):
        return True

    def settle(self, seconds):
        self.done += len(self.unsettled)
        self.counted += [(micros, 1) for micros in self.unsettled]
        return len(self.unsettled)

    def reset(self):
        self.done = self.errors = self.swaps_failed = 0
        self.counted = [(1000, STEP_OPS)]

    def mark(self):
        self.marked_writes_done = 0

    def latencies(self):
        return self.counted


@pytest.fixture
def world(monkeypatch):
    found = World()
    monkeypatch.setattr(measure, "time", found)
    monkeypatch.setattr(measure, "LoadGenerator", lambda *_, **__: found)
    monkeypatch.setattr(measure, "acceptance", lambda *_: None)
    return found


@pytest.fixture
def load(world):
    return Load(world, workload.Workload())


def test_what_a_dead_follower_acknowledged_before_it_died_is_no_write_without_it(load, world):
    assert load.commits_without() == 1
    assert world.alive == {1, 2, 3}
    assert load.elects_without() == 1


def test_a_failover_ends_with_the_first_write_of_another_node(load, world):
    world.on_their_way = 1  # told by the leader before its kill, and there before the clock counts
    assert load.failover() == pytest.approx(2 * measure.STEP_S)
    assert world.resends_ms == [limits.COMPARE_FAILOVER_RESEND_MS, 400]  # impatient only until then


def test_what_was_due_at_the_end_of_a_round_is_in_its_latencies_and_not_in_its_throughput(load, world):
    world.unsettled = [700_000, 1_400_000]
    found = load.round()
    assert (found.ops, found.errors) == (STEP_OPS, 0)
    assert found.latencies == [(1000, STEP_OPS), (700_000, 1), (1_400_000, 1)]


def test_a_round_of_which_much_is_refused_is_none(load, world):
    world.refused, world.last_error_status = 1, Status.NO_SPACE
    with pytest.raises(Stopped, match="raft: 1 of 3 operations were refused, the last with NO_SPACE"):
        load.round()
    world.stalled = True
    with pytest.raises(Stopped, match="raft: 1 of 1 operations were refused"):
        load.round()
    world.refused = 0
    with pytest.raises(Stopped, match=r"raft: no operation was answered in 0.6 s"):
        load.round()


def test_a_few_refusals_are_told_beside_the_figures(load, world, monkeypatch):
    world.refused = 1
    monkeypatch.setattr(measure.limits, "LOAD_ERRORS_SHARE", 0.5)
    found = load.round()
    assert (found.ops, found.errors) == (STEP_OPS, 1)
