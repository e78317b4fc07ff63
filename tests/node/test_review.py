"""Regressions of a review for safety and liveness: each test is a history that once broke a promise."""

import errno
import random

import pytest
from world import MS, Caller, World, fill_disk

from quorumd import commands, limits, recovery
from quorumd.commands import Kind, PutResult
from quorumd.consensus.engine import Append, TransferLeadership
from quorumd.errors import UNUSABLE_LOG, ConfigError, DiskError
from quorumd_fastpath.apply import Store
from quorumd_fastpath.crc import crc32c
from quorumd_fastpath.walframe import FORMAT_VERSION
from quorumd_fastpath.wire import Slab

pytestmark = pytest.mark.usefixtures("either_engine")

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


def propose(core, addr, *records):
    """Proposes records in one turn, however large they are together."""
    for record in records:
        core.clients.stage.collect_payload(record, 1, addr)
    core._propose(core.engine)
    core.settle()
    core.clients.stage.clear()


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
    member.disk.stick(world.now)
    before = storage._number
    command = commands.encode(commands.Put(b"k", b"x" * (500 * limits.KIB)))
    # One Ready, across a segment's end.
    propose(member.core, caller.name, *(commands.encode_record(Kind.COMMAND, caller.session, 2000, 1, command),) * 2)
    for _ in range(30):
        world.step()
        assert storage.synced_to <= unsynced_from(world, 1)
    assert storage._number == before + 1
    (first, _, _), (_, seq, _) = storage._in_flight
    member.disk.durable = lambda: first
    assert storage.poll(world.now) < seq


def filled_segments(seed):
    """A stopped single node with two segments, all of it below B; its disk, the caller."""
    world = World(1, seed=seed)
    world.elect()
    caller = Caller(world).open()
    for i in range(32):
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
    assert UNUSABLE_LOG in core.out_of_quorum
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


@pytest.mark.parametrize("source", [1, 2])
def test_the_header_of_another_segment_is_none(source):
    """A misdirected write: what it hides had been acknowledged, and was cut."""
    world, disk = filled_segments(5)
    assert sum(any(data[:512]) for data in disk.cache.values()) == 3
    disk.cache[3][:512] = bytes(disk.cache[source][:512])
    refused_untouched(world, disk)


def test_a_lost_first_segment_is_named():
    world, disk = filled_segments(6)
    disk.remove(1)
    core = world.start(1)
    assert core.engine is None and "missing" in core.out_of_quorum


def test_a_zeroed_segment_between_others_is_corruption():
    world, disk = filled_segments(6)
    disk.cache[2][:] = bytes(len(disk.cache[2]))
    number = max(n for n in disk.segments() if any(disk.cache[n][:512]))
    assert number > 2
    refused_untouched(world, disk)


def test_a_segment_cut_short_is_corruption():
    world, disk = filled_segments(6)
    del disk.cache[2][100_000:]
    core = world.start(1)
    assert core.engine is None and "short" in core.out_of_quorum


def test_a_segment_of_a_newer_format_is_not_taken_for_a_torn_one():
    world, disk = filled_segments(6)
    newest = max(n for n in disk.segments() if any(disk.cache[n][:512]))
    disk.cache[newest][8:16] = (FORMAT_VERSION + 1).to_bytes(4, "little") + bytes(4)
    disk.cache[newest][12:16] = crc32c(bytes(disk.cache[newest][:512])).to_bytes(4, "little")
    before = bytes(disk.cache[newest])
    with pytest.raises(ConfigError, match=rf"log format {FORMAT_VERSION + 1}, .* start the newer one again"):
        world.start(1)
    assert disk.cache[newest] == before


def test_a_segment_that_cannot_be_made_stops_the_node():
    """Unless the disk is full: a leader without a next segment would refuse writes and lead on."""
    world = World(3, seed=12)
    leader = world.elect()
    fill_disk(world.members[leader], errno.EIO)
    with pytest.raises(DiskError, match=r"wal-\d+.seg: cannot be made: EIO"):
        world.step(3000)


def test_a_flipped_bit_in_a_version_is_damage_and_no_newer_format():
    world, disk = filled_segments(6)
    disk.cache[2][8] ^= 1
    refused_untouched(world, disk)


def test_a_shortage_of_the_kernels_stops_no_node():
    world = World(3, seed=16)
    leader = world.elect()
    fill_disk(world.members[leader], errno.ENFILE)
    world.step(1500)
    world.members[leader].disk.prepare_errno = 0
    assert world.until(lambda: world.members[leader].core.storage._ahead)


def test_peers_of_a_leader_that_seldom_listens_are_not_taken_for_dead():
    world = World(3, seed=17)
    leader = world.elect()
    core = world.members[leader].core
    rarely = core.settings.consensus._replace(election_timeout_ns=3000 * MS)
    core.settings = core.settings._replace(consensus=rarely)
    assert core._silent(world.now + 2500 * MS) == frozenset()
    assert len(core._silent(world.now + 6500 * MS)) == 2
    core.give_away(world.now + 6500 * MS)  # to one of them all the same: nobody knows better
    assert world.until(lambda: world.leader() and world.leader().settings.node != leader, 500)


def test_leadership_of_a_full_node_goes_to_one_with_room():
    """Two nodes whose disks filled up alike handed it to each other, for ever."""
    world = World(5, seed=13)
    world.members[world.elect()].core.engine.step(TransferLeadership(1))
    world.until(lambda: world.leader() and world.leader().settings.node == 1)
    caller = Caller(world).open()
    for i in (1, 2):
        fill_disk(world.members[i])
    for i in range(20):
        caller.put(b"k%d" % i, b"x" * (200 * limits.KIB))
        if world.members[1].core.storage.disk_full:
            break
    world.until(lambda: world.leader() and world.leader().settings.node > 2, 6000)


def test_a_leader_that_is_to_stop_gives_leadership_to_one_that_lives():
    world = World(3, seed=14)
    leader = world.elect()
    dead, other = (i for i in world.ids if i != leader)
    world.stop(dead)
    world.step(1500)
    for peer in world.leader().engine._s.peers.values():
        peer.active = False  # as right after each look of check-quorum, which is when a leader at rest is asked
    world.members[leader].core.give_away(world.now)
    world.until(lambda: world.leader() and world.leader().settings.node == other, 60)


def test_a_leadership_won_in_the_middle_of_a_turn_begins_when_it_is_won():
    """And not when the turn before ended: what the leader before had answered would end early."""
    world = World(3, seed=15)
    core = world.members[world.elect()].core
    core.on_peers(Slab(1, 65_000), world.now + 5 * MS)
    assert core.now == world.now + 5 * MS


def test_recovery_applies_a_part_of_a_record():
    world = World(1, seed=9)
    world.elect()
    caller = Caller(world).open()
    core = world.members[1].core
    put = commands.encode(commands.Put(b"k", b"v"))
    records = (commands.encode_record(Kind.COMMAND, caller.session, seq, 1, put) for seq in (1, 2, 3))
    propose(core, caller.name, *records)
    world.step(100)
    assert [core.log.records.at(place).entries for place in range(4)] == [1, 1, 1, 3]
    store = Store(limits.DEFAULT_QUOTA_BYTES, limits.MAX_SESSIONS)
    for first, count, entries in recovery._live(core.storage, 5):  # no batch header knew of more
        store.apply_bytes(entries, first, count)
    assert store.applied == 5


def test_what_is_not_on_the_disk_yet_is_not_read_back():
    world = World(1, seed=10)
    world.elect()
    Caller(world).open()
    storage = world.members[1].core.storage
    assert storage.recall(1)
    storage._to_write(1000, Append(2, 4, 1, None))  # a newer leader's in their place
    storage.forget_reads()
    assert not storage.recall(2)
    assert storage.written == 1


@pytest.mark.parametrize("damaged", ["header", "payload"])
def test_what_decayed_on_the_disk_is_named_and_not_read_back(damaged):
    """A node that runs does not scan its log again: damage since then shows only when an old entry is wanted."""
    world = World(1, seed=11)
    world.elect()
    caller = Caller(world).open()
    caller.put(b"k", b"value")
    world.step(100)
    core, disk = world.members[1].core, world.members[1].disk
    record = core.log.records.at(core.log.records.place_of(2))
    number, offset = divmod(record.position, core.settings.segment_bytes)
    disk.cache[number][offset - 30 if damaged == "header" else offset + record.length - 1] ^= 1
    assert core.storage.recall(2)
    with pytest.raises(DiskError, match=rf"wal-0+{number}.seg: offset {offset}: entry 2 .* an exact copy"):
        world.step()


def test_what_reads_otherwise_the_second_time_is_not_applied():
    """The two halves of a mirror, one of them rotten: the scan saw the good one."""
    world = World(1, seed=12)
    world.elect()
    Caller(world).open().put(b"k", b"good" * 100)
    world.step(200)
    world.stop(1)
    disk = world.members[1].disk
    load, seen = disk.load, []

    def of_either_half(number):
        seen.append(number)
        data = load(number)
        return data if len(seen) <= len(disk.segments()) else memoryview(bytes(data).replace(b"good", b"evil"))

    disk.load = of_either_half
    with pytest.raises(DiskError, match=r"wal-0+1.seg: offset \d+: entry \d+ .* an exact copy"):
        world.start(1)
    assert len(seen) > len(disk.segments())


# -- the ring -------------------------------------------------------------------------------------------------------


def stuff(world, caller, target):
    """Writes whose answers nobody waits for, straight into a leader's staging area, until its ring is full."""
    core, seq = world.members[target].core, 5000
    for size in (400 * limits.KIB, 20 * limits.KIB, limits.KIB, 32, -1):
        for _ in range(25):
            seq += 1
            put = commands.encode(commands.Put(b"s%d" % seq, b"x" * size))
            kind, body = (Kind.COMMAND, put) if size >= 0 else (Kind.CLOSE_SESSION, b"")
            record = commands.encode_record(kind, random.Random(seq).randbytes(16), seq, 1, body)
            propose(core, caller.name, record)
            world.step()


def test_a_deposed_leader_whose_ring_is_full_of_its_own_takes_the_new_leaders_log():
    world = World(3, seed=7)
    leader = world.elect()
    caller = Caller(world).open()
    world.isolate(leader)
    world.members[leader].core.engine._s.check_at = 1 << 62  # it does not notice for a while
    stuff(world, caller, leader)
    assert not world.members[leader].core.log.ring.room(40, 1)
    world.until(lambda: world.leader() and world.leader().settings.node != leader)
    caller.target = leader % 3 + 1
    assert isinstance(caller.put(b"k", b"new"), PutResult)
    world.heal()
    world.until(world.converged, 10_000)


def test_a_leader_elected_with_a_full_ring_takes_its_no_op():
    world = World(3, seed=8)
    leader = world.elect()
    caller = Caller(world).open()
    world.isolate(leader)
    world.members[leader].core.engine._s.check_at = 1 << 62
    stuff(world, caller, leader)
    for i in world.ids:
        world.stop(i)
    world.heal()
    for i in world.ids:
        world.start(i)
        if i != leader:
            world.members[i].core.engine._s.election_deadline += 2000 * MS
    assert not world.members[leader].core.log.ring.room(40, 1)
    assert world.elect() == leader
    world.until(world.converged, 10_000)
    assert isinstance(caller.put(b"k", b"v"), PutResult)


def test_a_ring_full_of_uncommitted_entries_does_not_stop_the_next_leader():
    world = World(3, seed=8)
    leader = world.elect()
    caller = Caller(world).open()
    for i in world.ids:
        if i != leader:
            world.cut.add((i, leader))  # entries arrive, acknowledgements do not
    world.members[leader].core.engine._s.check_at = 1 << 62
    stuff(world, caller, leader)
    world.step(500)
    for i in world.ids:
        world.stop(i)
    world.heal()
    for i in world.ids:
        world.start(i)
    world.elect()
    caller.target = world.ids[0]
    world.until(world.converged, 20_000)
    world.until(lambda: isinstance(caller.put(b"k", b"v"), PutResult), 100)  # overloaded until all of it is applied


def test_a_cut_that_is_interrupted_leaves_no_hole():
    """Segment 3 behind a missing 2 would be taken for one made ahead; grown into, it would look like a loss of 2."""

    class PowerCut(Exception):
        pass

    world = World(1, seed=34)
    world.elect()
    Caller(world).open().put(b"k", b"v")
    member = world.members[1]
    offset = member.core.storage._offset
    world.stop(1)
    disk, remove = member.disk, member.disk.remove
    disk.cache[1][offset : offset + 4] = b"QBAT"  # a batch that never finished
    for number in (2, 3, 4):
        disk.create(number, limits.MIN_SEGMENT_BYTES)
    allowed = [1]

    def interrupted(number):
        if not allowed:
            raise PowerCut
        allowed.pop()
        remove(number)

    disk.remove = interrupted
    with pytest.raises(PowerCut):
        world.start(1)
    assert disk.segments() == [1, 2, 3]


def test_a_starting_node_syncs_what_it_read_before_it_speaks():
    world = World(1, seed=35)
    world.elect()
    Caller(world).open().put(b"k", b"v")
    world.stop(1)
    disk = world.members[1].disk
    # Everything is only in the page cache.
    disk.platter = {number: bytearray(len(data)) for number, data in disk.cache.items()}
    disk.stick(world.now)  # no write may be what syncs it
    world.start(1)
    assert disk.platter == disk.cache
