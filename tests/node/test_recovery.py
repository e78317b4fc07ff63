"""What a starting node makes of its segments (recovery.py): each test is a log that was once taken for another."""

import pytest
from world import Caller, World

from quorumd import limits

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
    assert {number: bytes(data) for number, data in disk.cache.items()} == images


def test_what_was_made_ahead_and_never_begun_is_no_damage():
    world, _ = stopped(42, made_ahead=2)
    assert world.start(1).engine is not None
    world.elect()
