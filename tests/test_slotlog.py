"""The log with holes against the dumbest log there is, a dict of slot -> bytes; and where its records lie likewise."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumd import limits
from quorumd.consensus.ballotlog import BallotLog
from quorumd.consensus.engine import KEPT
from quorumd.invariants import InvariantBroken
from quorumd.log import RecordAt, RecordIndex, entry_length, skip_entries
from quorumd.slotlog import SlotLog, common_entries
from quorumd_fastpath.ring import Ring

unhurried = settings(deadline=None)  # the machine may be busy: no test is about time


def entry(size, fill):
    """An entry record of `size` bytes, at least 40, whose session is `fill`."""
    return struct.pack("<IBBHQQQQ", size, 1, 0, 0, fill, 2, 3, 0) + bytes([fill % 256]) * (size - 40)


# -- the index of records -------------------------------------------------------------------------------------------

overlays = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), max_size=25)


@settings(unhurried, max_examples=300)
@given(overlays)
def test_an_overlay_supersedes_exactly_its_range(ranges):
    records, places = RecordIndex(), {}
    for number, (first, count) in enumerate(ranges):
        records.overlay(RecordAt(first, count, number + 1, 1000 * number, 100 * count))
        places.update({first + i: (number, i) for i in range(count)})
    found = {}
    for place in range(len(records)):
        record = records.at(place)
        assert record.entries > 0
        assert records.written(place) == ranges[record.term - 1][1] - record.skip
        assert (record.position, record.length) == (1000 * (record.term - 1), 100 * ranges[record.term - 1][1])
        for i in range(record.entries):
            assert record.first + i not in found
            found[record.first + i] = (record.term - 1, record.skip + i)
    assert found == places
    for index in range(50):
        place = records.place_of(index)
        record = records.at(place) if place >= 0 else None
        assert (record is not None and index < record.first + record.entries) == (index in places)


@unhurried
@given(overlays, st.integers(0, 45))
def test_overlays_and_appends_agree_where_nothing_lies_behind(ranges, last):
    one, other = RecordIndex(), RecordIndex()
    for number, (first, count) in enumerate(ranges):
        record = RecordAt(first, count + 50, number, number, 1)  # reaches beyond all before it
        one.truncate(first - 1)
        one.overlay(record)
        other.add(record)
    one.truncate(last)
    other.truncate(last)
    assert [one.at(i) for i in range(len(one))] == [other.at(i) for i in range(len(other))]


# -- ring and islands -----------------------------------------------------------------------------------------------

RING_BYTES = 1200
RING_ENTRIES = 16
values = st.lists(st.tuples(st.integers(40, 90), st.integers(0, 3)), min_size=1, max_size=6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("place"), st.integers(-8, 12), values, st.integers(0, 2)),
        st.tuples(st.just("again"), st.integers(-8, 4), st.integers(1, 6)),
        st.tuples(st.just("pin"), st.integers(0, 6)),
    ),
    max_size=40,
)


class Checked:
    """A SlotLog and the dict that says what it must hold. Slots below `low` are chosen and may have left."""

    def __init__(self):
        self.log = SlotLog(Ring(RING_BYTES, RING_ENTRIES))
        self.model: dict[int, bytes] = {}
        self.low = 1

    def prefix(self):
        upto = self.low - 1
        while upto + 1 in self.model:
            upto += 1
        return upto

    def place(self, first, records, junk=0):
        changed = [first + i for i, record in enumerate(records) if self.model.get(first + i, record) != record]
        packed = b"".join([entry(41, 9)] * junk + records)
        assert self.log.place(first, len(records), packed + b"behind", junk) == min(changed, default=0)
        self.model.update({first + i: record for i, record in enumerate(records)})

    def pin(self, more):
        self.low = min(self.low + more, self.prefix() + 1)
        self.log.ring.pin = self.low
        self.log.absorb()

    def check(self):
        log, ring = self.log, self.log.ring
        assert log.prefix == self.prefix()
        assert log.waits_for_room == (log.prefix > ring.last)
        assert ring.first <= self.low
        top = max(self.model, default=0)
        waiting = {slot: data for slot, data in self.model.items() if slot > ring.last}
        assert log.island_bytes == sum(map(len, waiting.values()))
        assert log.island_room(limits.ISLAND_BYTES - log.island_bytes, limits.ISLAND_ENTRIES - len(waiting))
        assert not log.island_room(limits.ISLAND_BYTES - log.island_bytes + 1, 0)
        assert not log.island_room(0, limits.ISLAND_ENTRIES - len(waiting) + 1)
        sizes = [len(self.model.get(slot, b"")) for slot in range(ring.first, top + 3)]
        assert list(log.lengths(ring.first, top + 2)) == sizes
        assert list(log.lengths(ring.last + 1, top)) == sizes[ring.last + 1 - ring.first : -2]
        for slot in range(ring.first, top + 3):
            assert log.held(slot, slot) == self.model.get(slot)
            assert log.island(slot, slot) == (waiting.get(slot))
            assert (log.island_end(slot) >= slot) == (slot in waiting)


@settings(unhurried, max_examples=400)
@given(steps)
def test_ring_and_islands_hold_what_was_accepted(todo):
    checked = Checked()
    for step in todo:
        ring = checked.log.ring
        if step[0] == "pin":
            checked.pin(step[1])
        elif step[0] == "place":
            first = max(checked.prefix() + 1 + step[1], ring.first, checked.low)
            checked.place(first, [entry(size, fill) for size, fill in step[2]], step[3])
        else:  # the same values once more, as a new leader's Accept brings them
            first = max(checked.prefix() + 1 + step[1], ring.first)
            slots = [slot for slot in range(first, first + step[2]) if slot in checked.model]
            if slots and slots == list(range(slots[0], slots[-1] + 1)):
                before = ring.first, ring.last
                checked.place(slots[0], [checked.model[slot] for slot in slots])
                assert checked.log.place(slots[0], len(slots), KEPT) == 0
                assert (ring.first, ring.last) >= before
        checked.check()
    # Whatever waited enters the ring once what is before it may leave.
    while checked.log.ring.last < checked.prefix():
        checked.pin(checked.log.ring.last - checked.low + 1)
    checked.check()
    first, last = max(checked.log.ring.first, 1), max(checked.model, default=0)
    runs = [(a, b) for a in range(first, last + 1) for b in range(a, last + 1)]
    for a, b in runs:
        whole = all(slot in checked.model for slot in range(a, b + 1))
        assert checked.log.held(a, b) == (b"".join(checked.model[s] for s in range(a, b + 1)) if whole else None)


@settings(unhurried, max_examples=200)
@given(steps, st.integers(40, 400))
def test_fit_counts_every_slot_that_is_held(todo, budget):
    checked = Checked()
    for step in todo:
        if step[0] == "place":
            first = max(checked.prefix() + 1 + step[1], checked.log.ring.first, checked.low)
            checked.place(first, [entry(size, fill) for size, fill in step[2]])
    ring, top = checked.log.ring, max(checked.model, default=0)
    for first in range(ring.first, top + 1):
        last = first - 1
        while last + 1 in checked.model:
            last += 1
            size, upto = 0, first - 1
            for slot in range(first, last + 1):
                length = len(checked.model[slot])
                if slot > first and size + length > budget:
                    break
                size, upto = size + length, slot
            assert checked.log.fit(first, last, budget) == (upto, size)


def test_equal_bytes_leave_the_ring_untouched_and_others_leave_what_is_behind():
    log = SlotLog(Ring(4096, 16))
    records = [entry(60 + i, i) for i in range(6)]
    log.place(1, 6, b"".join(records))
    log.ring.pin = 7  # would be lowered by a truncation
    assert log.place(2, 3, b"".join(records[1:4])) == 0
    assert log.ring.pin == 7
    assert log.place(2, 3, records[1] + entry(80, 9) + records[3]) == 3
    assert (log.ring.pin, log.ring.last, log.islands) == (3, 6, 0)
    assert log.ring.copy(1, 6) == b"".join([*records[:2], entry(80, 9), *records[3:]])


def test_what_is_staged_this_turn_is_estimated_behind_islands():
    log = SlotLog(Ring(4096, 16))
    log.place(1, 1, entry(50, 1))
    log.place(3, 1, entry(60, 1))
    log.staged_entry_bytes = 100
    assert log.fit(3, 9, 400) == (6, 360)
    assert log.fit(3, 9, 50) == (3, 60)
    assert log.fit(4, 9, 50) == (4, 100)


@pytest.mark.parametrize(("first", "count"), [(1, 1), (4, 2), (5, 1), (6, 3), (9, 1)])
def test_kept_slots_must_be_here(first, count):
    log = SlotLog(Ring(120, 16))
    for slot in (1, 2, 3, 4, 6, 7):
        log.ring.pin = slot
        log.place(slot, 1, entry(40, slot))
    assert log.ring.first == 2
    assert log.place(6, 2, KEPT) == 0
    with pytest.raises(InvariantBroken, match="kept"):
        log.place(first, count, KEPT)


def test_a_slot_that_left_the_ring_is_not_placed_again():
    log = SlotLog(Ring(120, 16))
    for slot in range(1, 6):
        log.ring.pin = slot
        log.place(slot, 1, entry(40, slot))
    with pytest.raises(InvariantBroken, match="chosen"):
        log.place(log.ring.first - 1, 1, entry(40, 1))


def test_only_what_is_chosen_is_yielded():
    log = SlotLog(Ring(120, 16))
    assert log.yieldable(9) == 0
    log.committed = 5
    assert (log.yieldable(9), log.yieldable(3)) == (5, 3)


@unhurried
@given(values, values)
def test_common_entries_is_the_common_prefix(one, other):
    one, other = [[entry(*item) for item in items] for items in (one, other)]
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    found = common_entries(b"".join(one), b"".join(other))
    assert found == (count, sum(map(len, one[:count])))
    assert skip_entries(b"".join(one), count) == found[1]
    assert entry_length(one[0], 0) == len(one[0])


# -- ballots --------------------------------------------------------------------------------------------------------


@settings(unhurried, max_examples=300)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12), st.integers(1, 4)), max_size=25), st.integers(1, 45))
def test_a_ballot_log_is_a_dict_of_slots(accepted, at):
    log, model = BallotLog(), {}
    for first, count, ballot in accepted:
        log.accept(first, first + count - 1, ballot)
        model.update(dict.fromkeys(range(first, first + count), ballot))
    assert log.last == max(model, default=0)
    assert [log.ballot_at(slot) for slot in range(50)] == [model.get(slot) for slot in range(50)]
    runs = list(log.runs())
    assert len(runs) == log.count
    assert [(slot, run.ballot) for run in runs for slot in range(run.first, run.last + 1)] == sorted(model.items())
    assert all(a.last + 1 < b.first or a.ballot != b.ballot for a, b in pairwise(runs))
    upto = at - 1
    while upto + 1 in model:
        upto += 1
    assert log.upto(at) == upto
    if at in model:
        end = at
        while model.get(end + 1) == model[at]:
            end += 1
        assert log.run_end(at) == end
    cut = [(slot, run.ballot) for run in log.runs(at, at + 9) for slot in range(run.first, run.last + 1)]
    assert cut == [(slot, model[slot]) for slot in range(at, at + 10) if slot in model]
    holes = [slot for first, last in log.holes(at, at + 9) for slot in range(first, last + 1)]
    assert holes == [slot for slot in range(at, at + 10) if slot not in model]
