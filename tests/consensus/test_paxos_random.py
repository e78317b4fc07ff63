"""Multi-Paxos under a random network, random disks and crashes: one value to a slot, and progress afterwards.

A failing seed replays with `pytest tests/consensus/test_paxos_random.py -k "[SEED]"`.
"""

import os

import pytest
from cluster import ENTRY_BYTES, Chaos
from paxoscluster import PAXOS_CONFIG, PaxosNode

from quorumd.consensus.engine import Tick

SHAPES = ((3, 0, 0), (3, 0, 0), (5, 0, 0), (5, 4, 2), (2, 0, 0), (4, 2, 3), (3, 0, 0), (5, 2, 4), (3, 3, 1), (1, 0, 0))
"""(nodes, phase-1 quorum, phase-2 quorum); 0: a majority."""
SEEDS = int(os.environ.get("QUORUMD_SEEDS", "220"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_one_value_to_a_slot_under_faults_then_progress(seed):
    nodes, phase1, phase2 = SHAPES[seed % len(SHAPES)]
    cluster = Chaos(seed, nodes, PAXOS_CONFIG._replace(phase1=phase1, phase2=phase2), PaxosNode)
    cluster.run(1000)
    cluster.recover()
    before = len(cluster.checker.committed)
    cluster.run(1000)
    assert cluster.leader is not None
    assert len(cluster.checker.committed) > before
    behind = len(cluster.checker.committed) - min(node.applied for node in cluster.nodes.values())
    assert behind < 150, "everyone keeps up once nothing is lost"


def test_the_same_seed_gives_the_same_run():
    def run():
        cluster = Chaos(11, 3, node=PaxosNode)
        cluster.run(600)
        states = [node.engine.status() for node in cluster.nodes.values()]
        return cluster.checker.committed, cluster.checker.leaders, states

    assert run() == run()


def test_a_healthy_cluster_has_one_election():
    for seed in range(3):
        cluster = Chaos(seed, 3, node=PaxosNode)
        cluster.recover()
        cluster.run(5000)
        assert len(cluster.checker.leaders) == 1


class Load(Chaos):
    """A closed loop of 1000 entries under way, no faults but loss."""

    def __init__(self, loss):
        roomy = PAXOS_CONFIG._replace(
            max_append_bytes=1000 * ENTRY_BYTES, max_inflight_bytes=4000 * ENTRY_BYTES, max_inflight_messages=256
        )
        super().__init__(3, 3, roomy, PaxosNode)
        self.loss, self.duplication, self.delay, self.disk, self.rate = loss, 0, 5, 3, 0

    def _traffic(self):
        leader = self.leader
        if leader and (room := 1000 - (leader.engine.last - leader.engine.commit)) >= 20:
            leader.propose(*range(min(room, 100)))
            self._push(0, leader.id, Tick(self.now))


def test_losses_and_reordering_cost_little_throughput_and_no_election():
    committed = {}
    for loss in (0, 0.05):
        cluster = Load(loss)
        cluster.run(600)
        assert len(cluster.checker.leaders) == 1
        committed[loss] = len(cluster.checker.committed)
        behind = committed[loss] - min(node.applied for node in cluster.nodes.values())
        assert behind < 5000, "learners keep up with what is lost on the way to them"
    assert committed[0.05] > 0.8 * committed[0]
