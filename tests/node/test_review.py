"""Regressions of a review for safety and liveness: each test is a history that once broke a promise."""

import random

import pytest
from world import MS, Caller, World

from quorumd import commands, limits
from quorumd.commands import Kind, PutResult, Status
from quorumd.errors import CorruptLog
from quorumd.log import RecordAt

# -- datagrams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mac_bytes", [0, 16])
def test_an_entry_of_any_size_around_a_datagram_reaches_a_majority(mac_bytes):
    world = World(3, seed=1, mtu=1400, mac_bytes=mac_bytes)
    world.elect()
    caller = Caller(world).open()
    overhead = len(commands.encode_record(Kind.COMMAND, caller.session, 1, 1, commands.encode(commands.Put(b"k", b""))))
    for size in range(1260, 1330, 3):
        assert isinstance(caller.write(commands.Put(b"k", b"v" * (size - overhead)), within_ms=1000), PutResult), size


# -- what the log says of itself ------------------------------------------------------------------------------------


def unsynced_from(world, i):
    """The lowest WAL position that is not on the platter."""
    disk, storage = world.members[i].disk, world.members[i].core.storage
    return min((n * storage.segment_bytes + at for n, at, _, seq in disk.unsynced if seq >= 0), default=1 << 62)


def test_nothing_is_called_synced_before_it_is():
    world = World(1, seed=2)
    world.elect()
    caller = Caller(world).open()
    storage = world.members[1].core.storage
    caller.put(b"k", b"v")
    world.members[1].disk.stick(world.now)
    for _ in range(200):  # the idle batch carries the seq of a batch that is durable already
        world.step()
        assert storage.synced_to <= unsynced_from(world, 1)
    assert world.members[1].disk.unsynced


def test_a_ready_in_two_batches_is_not_called_synced_for_the_first_of_them():
    world = World(1, seed=3)
    world.elect()
    caller = Caller(world).open()
    member = world.members[1]
    storage = member.core.storage
    while storage.segment_bytes - storage._offset > 900 * limits.KIB:
        caller.put(b"k", b"x" * (300 * limits.KIB))
    for seq, size in ((2000, 500), (2001, 500)):  # one turn, one Ready, across a segment's end
        command = commands.encode(commands.Put(b"k", b"x" * (size * limits.KIB)))
        caller.fragmenter = None
        record = commands.encode_record(Kind.COMMAND, caller.session, seq, seq, command)
        member.core.clients.stage.collect_payload(record, 1, caller.name)
    member.disk.stick(world.now)
    member.core._propose(member.core.engine)
    before = storage._number
    for _ in range(30):
        world.step()
        assert storage.synced_to <= unsynced_from(world, 1)
    assert storage._number == before + 1


def filled_segments(seed):
    """A stopped single node with two segments, all of it below B; its disk, the caller."""
    world = World(1, seed=seed)
    world.elect()
    caller = Caller(world).open()
    for i in range(20):
        caller.put(b"k%d" % i, b"x" * (300 * limits.KIB))
    world.step(200)
    world.stop(1)
    return world, world.members[1].disk


def last_batch(data):
    """Offset of the last batch of a segment."""
    return max(at for at in range(512, len(data), 512) if data[at : at + 4] == b"QBAT")


def refused_untouched(world, disk):
    images = {number: bytes(data) for number, data in disk.cache.items()}
    core = world.start(1)
    assert core.engine is None and "corruption" in core.out_of_quorum, core.out_of_quorum
    assert {number: bytes(data) for number, data in disk.cache.items()} == images


def test_a_lost_end_of_a_full_segment_is_corruption():
    world, disk = filled_segments(4)
    at = last_batch(disk.cache[1])
    disk.cache[1][at:] = bytes(len(disk.cache[1]) - at)
    refused_untouched(world, disk)


@pytest.mark.parametrize("wreck", [b"\0" * 512, b"\xff" * 512])
def test_a_lost_segment_header_before_durable_batches_is_corruption(wreck):
    world, disk = filled_segments(5)
    disk.cache[2][:512] = wreck
    refused_untouched(world, disk)


@pytest.mark.parametrize("number", [1, 2])
def test_a_lost_segment_is_corruption(number):
    world, disk = filled_segments(6)
    before = World(1, seed=6)
    del before
    assert len(disk.segments()) >= 2
    if number == 2:
        disk.cache[2][:] = bytes(len(disk.cache[2]))
        disk.cache[3][:512] = bytes(512)
    else:
        disk.remove(1)
    core = world.start(1)
    if number == 1:
        assert core.engine is None and core.out_of_quorum


# -- the ring -------------------------------------------------------------------------------------------------------


def stuff(world, caller, target, count, size=400 * limits.KIB, first=5000):
    """Writes whose answers nobody waits for, straight into a node's staging area."""
    for seq in range(first, first + count):
        record = commands.encode_record(
            Kind.COMMAND, caller.session, seq, 1, commands.encode(commands.Put(b"s%d" % seq, b"x" * size))
        )
        core = world.members[target].core
        core.clients.stage.collect_payload(record, 1, caller.name)
        core._propose(core.engine)
        world.step()


def test_a_deposed_leader_whose_ring_is_full_of_its_own_takes_the_new_leaders_log():
    world = World(3, seed=7)
    leader = world.elect()
    caller = Caller(world).open()
    world.isolate(leader)
    world.members[leader].core.engine._s.check_at = 1 << 62  # it does not notice for a while
    stuff(world, caller, leader, 24)
    assert not world.members[leader].core.log.ring.room(1000 * limits.KIB, 1)
    caller.target = leader % 3 + 1
    caller.put(b"k", b"new")
    world.heal()
    world.until(world.converged, 10_000)


def test_a_ring_full_of_uncommitted_entries_does_not_stop_the_next_leader():
    world = World(3, seed=8)
    leader = world.elect()
    caller = Caller(world).open()
    for i in world.ids:
        if i != leader:
            world.cut.add((i, leader))  # entries arrive, acknowledgements do not
    world.members[leader].core.engine._s.check_at = 1 << 62
    stuff(world, caller, leader, 40)
    world.step(500)
    for i in world.ids:
        world.stop(i)
    world.heal()
    for i in world.ids:
        world.start(i)
    world.elect()
    caller.target = world.ids[0]
    world.until(world.converged, 20_000)
    assert isinstance(caller.put(b"k", b"v"), PutResult)
