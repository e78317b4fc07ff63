"""A leader proposes compactions; every node forgets the same, also across elections and restarts."""

import pytest
from test_idle import Idle
from world import MS, Caller, World

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


# -- reclaiming what was compacted ----------------------------------------------------------------------------------

KEYS = 60 * limits.MAX_TXN_OPS


def deleted_and_compacted(world):
    """What takes several of a leader's entries to reclaim has just been compacted. Its caller."""
    caller = Caller(world).open()
    for first in range(0, KEYS, limits.MAX_TXN_OPS):
        puts = [commands.Put(b"k%06d" % n, b"v") for n in range(first, first + limits.MAX_TXN_OPS)]
        caller.write(commands.Txn((), tuple(puts)))
    result = caller.write(commands.DeleteRange(b"k", b"l"))
    assert result.deleted == KEYS
    caller.write(commands.Compact(result.revision))
    return caller


def reclaimed(world):
    return not any(store.reclaiming for store in stores(world))


@pytest.mark.parametrize("kind", [World, Idle])
def test_an_idle_cluster_reclaims_all_that_was_compacted_and_is_idle_again(kind):
    world = kind(compaction=Compaction(mode="off"))
    world.elect()
    deleted_and_compacted(world)
    assert world.leader().store.changes > KEYS
    world.until(lambda: reclaimed(world), within_ms=500)
    assert {(store.bytes, store.changes) for store in stores(world)} == {(0, 0)}
    world.step(50)  # for the last entry that was under way
    last, leader = world.leader().engine.last, world.leader()
    world.step(3000)
    assert (leader.engine.last, leader._reclaims) == (last, False)
    settle(world)
    assert len({store.digest for store in stores(world)}) == 1


def test_a_leader_that_has_to_reclaim_does_not_wait_for_its_next_heartbeat():
    world = World()
    core = world.members[world.elect()].core
    deleted_and_compacted(world)
    turns = 0
    while core.store.reclaiming:
        waits = core.store.applied < core.own.reclaims_after  # for what it did: its turn comes with that
        assert waits or core.deadline(world.now) <= world.now + 5 * MS
        world.step()
        turns += 1
    assert turns > 5


def test_a_leader_whose_log_has_no_room_to_reclaim_does_not_try_all_the_time(monkeypatch):
    world = World()
    core = world.members[world.elect()].core
    deleted_and_compacted(world)
    tries = []
    monkeypatch.setattr(core.admission, "own", lambda count, size: tries.append(count))
    world.step(3000)
    assert core.store.reclaiming and 0 < len(tries) < 10


def test_a_new_leader_goes_on_reclaiming():
    world = World()
    leader = world.elect()
    deleted_and_compacted(world)
    assert not reclaimed(world)
    world.stop(leader, power=True)
    world.start(leader)
    world.elect()
    world.until(lambda: reclaimed(world))


def test_no_entry_reclaims_while_the_one_before_is_under_way():
    """A leader that hears of nobody must not fill its log."""
    world = World()
    leader = world.elect()
    deleted_and_compacted(world)
    core = world.members[leader].core
    assert world.leader() is core
    for other in world.ids:
        if other != leader:
            world.isolate(other)
    last = core.engine.last
    world.step(100)
    assert core.engine.last <= last + 2
    world.heal()
    world.until(lambda: reclaimed(world))


def test_a_full_store_takes_writes_again_though_all_that_come_are_refused():
    world = World(quota_bytes=KEYS * 300)
    world.elect()
    caller = deleted_and_compacted(world)
    value = bytes(KEYS * 300 - 1000)
    assert caller.put(b"k", value[: limits.MAX_VALUE_BYTES]).status is Status.NO_SPACE
    world.step(200)
    assert isinstance(caller.put(b"k", value[: limits.MAX_VALUE_BYTES]), PutResult)
