"""What the engine holds back until its predecessors come is appended without another question: its room is kept."""

import random
from types import SimpleNamespace

import pytest

from quorumd import commands, limits
from quorumd.admission import NOTHING_HELD, Admission
from quorumd.consensus.engine import Held
from quorumd.consensus.messages import REFUSED, AppendEntries
from quorumd.log import Log
from quorumd.transport import BytesSource
from quorumd_fastpath.ring import Ring

NOOP = commands.encode_record(commands.Kind.NOOP, bytes(16), 0, 0, b"")
CAPACITY = 16


def admission():
    """With a ring of 16 entries that are all pinned, and a disk that takes everything."""
    ring = Ring(limits.MIB, CAPACITY)
    ring.reset(1)
    ring.pin = 1
    storage = SimpleNamespace(
        room=lambda size, growing: True, claim=lambda size: None, settled=lambda: None, yield_ring=lambda: None,
        segment_bytes=limits.MIN_SEGMENT_BYTES,
    )
    return Admission(Log(ring), storage, SimpleNamespace(peers={}), SimpleNamespace(), 3), ring


def run(prev, count):
    return AppendEntries(2, 1, 1, prev, 1, 0, 1, count, BytesSource(NOOP * count, 0))


def test_what_was_released_counts_until_it_is_in_the_ring():
    asked, ring = admission()
    ring.append(NOOP * 4, 1, 4)
    assert asked.entries(run(5, 2), 4, NOTHING_HELD).entries == 2  # held: entry 5 is missing
    asked.settled()
    assert asked.entries(run(4, 1), 4, Held(2 * len(NOOP), 2)) is not None  # fills the gap: 5, 6 and 7 are on their way
    assert asked.entries(run(7, 10), 7, NOTHING_HELD) is None
    assert asked.entries(run(7, 9), 7, NOTHING_HELD) is None  # what was refused may come again only in the next turn
    asked.settled()
    ring.append(NOOP * 3, 5, 3)
    assert asked.entries(run(7, 9), 7, NOTHING_HELD) is not None


def test_what_is_held_leaves_room_for_what_fills_the_gap():
    asked, _ring = admission()
    refused = asked.entries(run(9, 9), 0, NOTHING_HELD)  # more than its share
    assert (refused.entries, refused.source) == (0, REFUSED)
    assert asked.entries(run(9, 8), 0, NOTHING_HELD).entries == 8
    asked.settled()
    assert asked.entries(run(0, 8), 0, Held(8 * len(NOOP), 8)) is not None


@pytest.mark.parametrize("seed", range(20))
def test_all_that_was_let_through_fits(seed):
    """An engine that holds, releases and appends at random never finds the ring too small."""
    dice = random.Random(seed)
    asked, ring = admission()
    last, held = 0, []  # the engine's log and its window, as (prev, entries)
    for _ in range(200):
        for _ in range(dice.randint(1, 4)):
            prev = last + dice.choice((0, 0, 1, 2, 5))
            entries = sum(count for _, count in held)
            taken = asked.entries(run(prev, dice.randint(1, 6)), last, Held(entries * len(NOOP), entries))
            if taken is None or not taken.entries:
                continue
            if prev > last:
                held.append((prev, taken.entries))
                continue
            last += taken.entries
            for prev, count in sorted(held):
                if prev <= last:
                    held.remove((prev, count))
                    last = max(last, prev + count)
        new = last - ring.last
        assert not new or ring.append(NOOP * new, ring.last + 1, new)
        asked.settled()
        ring.pin = dice.randint(ring.pin, ring.last + 1)
