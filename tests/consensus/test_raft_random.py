"""Engines under a random network, random disks and crashes: figure 3.2 of the thesis, and progress afterwards.

A failing seed replays with `pytest tests/consensus/test_raft_random.py -k "[SEED]"`.
"""

import pytest
from cluster import CONFIG, Chaos

SIZES = (3, 3, 5, 2, 4, 1)


@pytest.mark.parametrize("seed", range(240))
def test_safety_under_faults_then_progress(seed):
    lease = seed % 7 == 3
    cluster = Chaos(seed, SIZES[seed % len(SIZES)], CONFIG._replace(lease_reads=lease))
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
        cluster = Chaos(11, 3)
        cluster.run(600)
        return cluster.checker.committed, cluster.checker.leaders, {n.id: n.engine.status() for n in cluster.nodes.values()}

    assert run() == run()


def test_a_healthy_cluster_has_one_election():
    for seed in range(3):
        cluster = Chaos(seed, 3)
        cluster.recover()
        cluster.run(5000)
        assert len(cluster.checker.leaders) == 1
