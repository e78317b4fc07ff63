"""A node that was stopped has what it missed soon, also where values go in fragments and are overtaken by others."""

import pytest

from quorumd import limits
from quorumd.sim.cluster import Cluster
from quorumd.sim.scenario import Scenario
from quorumd.types import ENGINES

PAUSE_S, ENOUGH_S = 2, 0.4
LARGE_ENOUGH_S = 10  # the simulated log has segments of 4 MiB, so Raft holds three such values for their predecessors


@pytest.mark.parametrize("engine", ENGINES)
def test_a_node_that_was_stopped_catches_up_at_once(engine):
    catches_up(engine, 1_400, (100, 200, 4_000, 9_000), ENOUGH_S)


@pytest.mark.parametrize("engine", ENGINES)
def test_large_values_that_come_out_of_order_and_find_no_room_are_sent_again_soon(engine):
    catches_up(engine, limits.LOOPBACK_MTU, (0, 100, 70_000), LARGE_ENOUGH_S)


def catches_up(engine, mtu, sizes, enough_s):
    scenario = Scenario(
        seed=1, nodes=3, engine=engine, phase1=2, phase2=2, mtu=mtu, ring_kib=32 * limits.KIB, delay_us=(100, 300),
        clients=4, workers=8, per_second=25.0, keys=100, sizes=sizes,
        weights=(0, 0, 1, 0, 0, 0, 0, 0, 0),
    )  # fmt: skip
    cluster = Cluster(scenario)
    world, machines = cluster.world, cluster.machines
    world.run(world.now + limits.SECOND)
    leader = cluster.leader
    lags = machines[next(node for node in cluster.ids if node != leader)]
    lags.pause()
    world.run(world.now + PAUSE_S * limits.SECOND)
    assert machines[leader].core.applier.applied - lags.core.applier.applied > 1_000
    lags.resume()
    for program in cluster.programs:
        program.running = False
    world.run(world.now + int(enough_s * limits.SECOND))
    assert cluster.agree(cluster.ids), cluster.describe()
