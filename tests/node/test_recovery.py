"""What a starting node makes of its segments (recovery.py): each test is a log that was once taken for another."""

import pytest
import world as world_module
from world import Caller, MemoryDisk, World

from quorumd import commands, limits, recovery
from quorumd.commands import Kind
from quorumd.consensus.engine import Append
from quorumd.engines import make_log, storage_of
from quorumd.errors import UNUSABLE_LOG
from quorumd_fastpath.apply import Store
from quorumd_fastpath.ring import Ring

pytestmark = pytest.mark.usefixtures("either_engine")


def stopped(seed, *, made_ahead):
    """A stopped single node that wrote two segments, with so many made ahead; its world, its disk."""
    world = World(1, seed=seed)
    world.elect()
    caller = Caller(world).open()
    while world.members[1].core.storage._number < 2:
        caller.put(b"k", b"x" * (300 * limits.KIB))
    world.step(200)
    world.stop(1)
    disk = world.members[1].disk
    for number in disk.segments():
        if number > 2:
            disk.remove(number)
    for number in range(3, 3 + made_ahead):
        disk.create(number, limits.MIN_SEGMENT_BYTES)
    return world, disk


@pytest.mark.parametrize(("made_ahead", "lost"), [(1, 1), (1, 2), (2, 2), (2, 3)])
@pytest.mark.parametrize("torn", [False, True])
def test_a_segment_that_vanished_is_missed_by_what_was_made_after_it(made_ahead, lost, torn):
    """One that was written to had the newest acknowledgements and votes; what is behind it may be empty."""
    world, disk = stopped(41, made_ahead=made_ahead)
    disk.remove(lost)
    if torn:  # a write at the end that never finished must not hide the gap behind it
        data = disk.cache[min(disk.segments())]
        data[-limits.SECTOR_BYTES :] = b"QBAT" + bytes(limits.SECTOR_BYTES - 4)
    images = {number: bytes(data) for number, data in disk.cache.items()}
    core = world.start(1)
    assert core.engine is None
    assert f"{lost:016d}.seg: is missing" in core.out_of_quorum, core.out_of_quorum
    assert UNUSABLE_LOG in core.out_of_quorum
    assert {number: bytes(data) for number, data in disk.cache.items()} == images


def test_what_was_made_ahead_and_never_begun_is_no_damage():
    world, _ = stopped(42, made_ahead=2)
    assert world.start(1).engine is not None
    world.elect()


def make_storage(disk, segment_bytes):
    ring = Ring(limits.RING_BYTES, limits.RING_ENTRIES)
    ring.reset(1)
    log = make_log(world_module.ENGINE, ring)
    return storage_of(log)(disk, log, cluster=1, node=1, segment_bytes=segment_bytes, random_u64=lambda: 43)


@pytest.mark.parametrize(
    ("segment_mib", "entry_kib"), [(4, 1535), (4, 1360), (5, 1280), (6, 1500), (7, 1400), (8, 1340), (64, 1360)]
)
def test_all_that_a_hanging_disk_left_unsynced_is_distrusted(segment_mib, entry_kib):
    """Entries that just do not fit leave a third of a small segment unused: the queue spans more of them."""
    disk = MemoryDisk()
    storage = make_storage(disk, segment_mib * limits.MIB)
    storage.start_fresh(1)

    def make_ahead(now):
        """The file worker goes on while the sync thread hangs."""
        storage.maintain(now)
        for number, size_bytes in disk.preparing:
            disk.create(number, size_bytes)
            disk.prepared_done.append((number, 0))
        disk.preparing = []
        storage.maintain(now)

    size = entry_kib * limits.KIB
    record = commands.encode_record(Kind.COMMAND, bytes(16), 1, 1, bytes(size - limits.ENTRY_HEADER_BYTES))
    index = 0
    for turn in range(3):
        make_ahead(turn * limits.SECOND)
    while storage.room(len(record), growing=True):
        index += 1
        storage.log.ring.pin = 0
        assert storage.log.ring.append(record, index, 1)
        storage.write(index, None, [Append(index, index, 1, None)], 0)
        for turn in range(3):
            make_ahead((10 * index + turn) * limits.SECOND)
    unsynced = {number for number, _, _, _ in disk.unsynced}
    assert disk.queued_bytes() + 2 * size > limits.WAL_QUEUE_BYTES
    distrusted = set()
    disk.distrust = distrusted.add
    recovery.recover(make_storage(disk, segment_mib * limits.MIB), Store(1 << 30, 100), lambda what, **detail: None)
    assert unsynced <= distrusted
