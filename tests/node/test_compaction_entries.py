"""A leader proposes compactions; every node forgets the same, also across elections and restarts."""

import pytest
from world import Caller, World

from quorumd import commands, limits
from quorumd.commands import Kind, PutResult, Range, RangeResult, Status
from quorumd.compaction import Compaction

pytestmark = pytest.mark.usefixtures("either_engine")

RETAIN = 20


def stores(world):
    return [world.members[i].core.store for i in world.ids]


def settle(world):
    """Until all nodes have applied the same."""
    world.step(300)
    assert len({store.applied for store in stores(world)}) == 1


def test_every_node_forgets_the_same():
    world = World(compaction=Compaction(retain=RETAIN))
    world.elect()
    caller = Caller(world).open()
    for n in range(100):
        assert isinstance(caller.put(b"k", b"%d" % n), PutResult)
        world.step(20)
    settle(world)
    first = stores(world)[0]
    assert first.revision - RETAIN - 10 <= first.compacted <= first.revision - RETAIN
    assert first.changes <= RETAIN + 30
    for store in stores(world):
        assert (store.compacted, store.bytes, store.digest) == (first.compacted, first.bytes, first.digest)


def test_a_new_leader_goes_on_where_the_old_one_ended():
    world = World(compaction=Compaction(retain=RETAIN))
    caller = Caller(world)
    for round_ in range(3):
        caller.target = leader = world.elect()
        if not round_:
            caller.open()
        for n in range(40):
            caller.put(b"k", b"%d" % n)
            world.step(20)
        before = world.members[leader].core.store.compacted
        assert before >= 40 * (round_ + 1) - 2 * RETAIN
        world.stop(leader, power=True)
        world.start(leader)
        world.step(1000)
    settle(world)
    first = stores(world)[0]
    assert first.compacted >= before
    assert {(store.compacted, store.digest) for store in stores(world)} == {(first.compacted, first.digest)}


def test_large_values_that_are_overwritten_do_not_fill_the_quota():
    world = World(quota_bytes=1 * limits.MIB)
    world.elect()
    caller = Caller(world).open()
    for n in range(60):
        assert isinstance(caller.put(b"k", bytes([n]) * 50_000), PutResult), n
        world.step(150)
    settle(world)
    assert all(store.compacted > 0 for store in stores(world))


def test_a_compaction_asked_for_is_answered_and_remembered():
    world = World()
    world.elect()
    caller = Caller(world).open()
    for n in range(5):
        caller.put(b"k", b"%d" % n)
    assert caller.request(Kind.COMMAND, 6, commands.encode(commands.Compact(4))).status is Status.OK
    assert caller.request(Kind.COMMAND, 6, commands.encode(commands.Compact(4))).status is Status.OK  # a retry
    read = Range(b"k", revision=4)
    reply = caller.request(Kind.READ, 50, commands.encode(read))
    result = commands.decode(read, reply.revision, reply.body)
    assert isinstance(result, RangeResult)
    assert result.kvs[0].value == b"2"
    assert caller.request(Kind.READ, 51, commands.encode(Range(b"k", revision=3))).status is Status.COMPACTED
