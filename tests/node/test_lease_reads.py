"""Leases of leaders (raft.lease_reads) outlive the lives, and the configs, of those who promised them."""

import pytest
from world import MS, World, consensus

from quorumd.types import RAFT

PROMISED_MS = 1000


def timing(lease_reads, election_ms):
    return consensus(RAFT)._replace(lease_reads=lease_reads, election_timeout_ns=election_ms * MS)


def leased():
    """A world, its leader, and the two nodes that promised it not to elect another one."""
    world = World(engine=RAFT, consensus=timing(True, PROMISED_MS))
    leader = world.elect()
    world.step(PROMISED_MS)
    return world, leader, [i for i in world.ids if i != leader]


def restart(world, nodes, **overrides):
    for i in nodes:
        world.stop(i)
        world.start(i, **overrides)


@pytest.mark.parametrize("config", [timing(False, 120), timing(True, 120)], ids=["off", "shorter"])
def test_nodes_restarted_with_another_config_elect_nobody_while_a_former_life_promised_a_leader_its_lease(config):
    world, leader, others = leased()
    world.isolate(leader)
    restart(world, others, consensus=config)
    world.step(PROMISED_MS // 2)
    restart(world, others, consensus=config)  # this life, too, has to keep what the first one promised
    world.step(PROMISED_MS - 1)
    assert {world.members[i].core.engine.leader for i in others} == {0}
    world.until(lambda: world.members[others[0]].core.engine.leader in others)


def test_the_stamp_holds_the_longest_promise():
    world, _, others = leased()
    disk = world.members[others[0]].disk
    for config, expected in ((timing(False, 120), 1000), (timing(True, 1500), 1500), (timing(True, 120), 1500)):
        restart(world, others[:1], consensus=config)
        assert disk.meta.promised == expected * MS
    assert World(engine=RAFT).members[1].disk.meta.promised == 0
