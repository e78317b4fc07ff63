"""Partial connectivity in the simulator: around the leader, healed whole, and progress where there can be any."""

import random
from dataclasses import replace

import pytest

from quorumd import connectivity, limits
from quorumd.sim.cluster import Cluster
from quorumd.sim.faults import Faults
from quorumd.sim.machine import peer_address
from quorumd.sim.scenario import FAULTS, LEAST_NODES, PARTIAL_FAULTS, Scenario, draw
from quorumd.types import ENGINES

QUIET = Scenario(1, 5, clients=1, workers=1, per_second=20.0)
TIMEOUT = QUIET.election_timeout_ms * limits.MILLISECOND


def cluster_of(nodes, engine):
    quorum = nodes // 2 + 1
    cluster = Cluster(replace(QUIET, nodes=nodes, engine=engine, phase1=quorum, phase2=quorum))
    run(cluster, 20)
    assert cluster.leader
    return cluster


def run(cluster, timeouts):
    cluster.world.run(cluster.world.now + timeouts * TIMEOUT)


def strike(cluster, name):
    """(what undoes it, the nodes in their order) of a fault of this name."""
    leader = cluster.leader
    undo = Faults(cluster).harm(name)(random.Random(3), 1)
    order = random.Random(3).sample(cluster.ids, len(cluster.ids))
    return undo, sorted(order, key=lambda node: node != leader)


def cut(cluster):
    return set(cluster.network.cut)


def addresses(links):
    return {(peer_address(one), peer_address(other)) for one, other in links}


@pytest.mark.parametrize("name", PARTIAL_FAULTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_links_fail_around_the_leader_and_all_come_back(name, engine):
    cluster = cluster_of(5, engine)
    undo, order = strike(cluster, name)
    scenario = connectivity.SCENARIOS[name]
    assert cut(cluster) == addresses((scenario.first or scenario.cut)(order))
    run(cluster, 20)
    assert cut(cluster) == addresses(scenario.cut(order))
    done = cluster.operations
    run(cluster, 20)
    stuck = (engine, name) == ("raft", "constrained")
    assert (cluster.operations == done) == stuck, "only Raft needs somebody whose log is up to date"
    undo()
    assert cut(cluster) == set()
    run(cluster, 20)
    assert cluster.operations > done


def test_what_was_to_fail_later_does_not_once_it_is_healed():
    cluster = cluster_of(5, "raft")
    undo, _ = strike(cluster, "constrained")
    undo()
    run(cluster, 20)
    assert cut(cluster) == set()


@pytest.mark.parametrize("name", PARTIAL_FAULTS)
def test_too_few_nodes_are_left_alone(name):
    nodes = LEAST_NODES[name] - 1
    assert strike(cluster_of(nodes, "raft"), name)[0] is None
    drawn = {fault for seed in range(50) for fault in draw(seed, nodes=nodes).faults}
    assert name not in drawn
    assert name not in draw(1, nodes=nodes, only=FAULTS).faults
