"""The hub of watches against the history in plain Python: ordered, unique, reliable, atomic, bounded, bookmarkable."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from watching import Reader, Written, covers, expected, worst_order

from quorumd import limits, watchcodec
from quorumd.commands import ALL, DeleteRange, Put, Txn
from quorumd_fastpath import watch
from quorumd_fastpath.watch import Hub

ROOMY = {
    "watchers": 100_000, "watcher_bytes": 1 << 26, "window_bytes": 1 << 20, "total_bytes": 1 << 28,
    "piece_bytes": 1 << 18,
}  # fmt: skip


class Driver:
    """A hub, its store, and streams whose items are read as they are taken."""

    def __init__(self, *, seed=1, turn_cost=1 << 15, **bounds):
        self.bounds = {**ROOMY, **bounds}
        self.hub = Hub(seed=seed, turn_cost=turn_cost, **self.bounds)
        self.written = Written()
        self.store = self.written.store
        self.readers: dict[tuple[int, int], Reader] = {}
        self.unacknowledged: dict[int, list[int]] = {}
        self.next_watch = 1

    def stream(self, *, opened=True):
        slot = self.hub.open_stream()
        self.unacknowledged[slot] = []
        if opened:
            self.hub.open_window(slot)
        return slot

    def close(self, slot):
        self.hub.close_stream(slot)
        del self.unacknowledged[slot]
        self.readers = {name: reader for name, reader in self.readers.items() if name[0] != slot}

    def watch(self, slot, key, end=b"", flags=0, start=0):
        watch_id, self.next_watch = self.next_watch, self.next_watch + 1
        reader = Reader(key, end, flags, start or self.store.revision + 1)
        self.readers[slot, watch_id] = reader
        assert self.hub.watch(self.store, slot, watch_id, key, end, flags, start)
        return watch_id

    def run(self, op):
        self.written.run(op)
        return self.hub.pump(self.store)

    def take(self, slot, limit=1 << 20):
        count, items = self.hub.take(slot, limit)
        for item in watchcodec.decode_items(items, count):
            for name, reader in self.readers.items():
                of_all = item.watch == 0 and name[0] == slot and reader.created and reader.ended is None
                if of_all or name == (slot, item.watch):
                    reader.take(item)
        if count:
            self.unacknowledged[slot].append(len(items))
        return count

    def acknowledge(self, slot):
        self.hub.acknowledged(slot, sum(self.unacknowledged[slot]))
        self.unacknowledged[slot] = []

    def settle(self):
        """Everything is taken and acknowledged until nothing moves any more."""
        for _ in range(10_000):
            _slots, more = self.hub.pump(self.store)
            taken = [self.take(slot) for slot in self.unacknowledged]
            for slot in self.unacknowledged:
                self.acknowledge(slot)
            if not any(taken) and not more:
                return
        raise AssertionError("the hub does not come to rest")

    def check(self, reader):
        assert not reader.pieces
        assert reader.batches == expected(self.written.history, reader.key, reader.end, reader.flags, reader.start)


KEYS = [b"a", b"ab", b"b", b"ba", b"c", b"d\xff"]
keys = st.sampled_from(KEYS)
ends = st.sampled_from([b"", b"", b"b", b"c", b"e", ALL])
puts = st.builds(Put, keys, st.binary(max_size=40))
deletes = st.builds(DeleteRange, keys, ends)
writes = puts | deletes | st.lists(deletes | st.builds(Put, keys, st.binary(max_size=200)), max_size=5)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), writes),
        st.tuples(st.just("write"), writes),
        st.tuples(st.just("watch"), st.integers(0, 2), keys, ends, st.integers(0, 7), st.integers(-8, 8)),
        st.tuples(st.just("take"), st.integers(0, 2)),
        st.tuples(st.just("acknowledge"), st.integers(0, 2)),
        st.tuples(st.just("progress"), st.integers(0, 2)),
        st.tuples(st.just("cancel"), st.integers(1, 20)),
        st.tuples(st.just("reopen"), st.integers(0, 2)),
        st.tuples(st.just("compact"), st.integers(0, 6)),
        st.tuples(st.just("pump")),
    ),
    max_size=60,
)


def least(piece_bytes):
    """What each stream may have outstanding, however much the others have."""
    return max(64, piece_bytes // 16)


def as_txn(op):
    """A list of operations as one transaction; of two puts of a key, or a put of what is deleted, the first counts."""
    if not isinstance(op, list):
        return op
    kept = []
    for one in op:
        touched = [each.key for each in kept if isinstance(each, Put)]
        deleted = [each for each in kept if isinstance(each, DeleteRange)]
        if isinstance(one, Put):
            clash = one.key in touched or any(covers(each.key, each.end, one.key) for each in deleted)
        else:
            clash = any(covers(one.key, one.end, key) for key in touched)
        if not clash:
            kept.append(one)
    return Txn((), tuple(kept))


def perform(driver, slots, step):
    what, *rest = step
    if what == "write":
        driver.written.run(as_txn(rest[0]))
        driver.hub.pump(driver.store)
    elif what == "watch":
        which, key, end, flags, offset = rest
        if end in (b"", ALL) or key < end:
            driver.watch(slots[which], key, end, flags, max(1, driver.store.revision + offset))
    elif what == "take":
        driver.take(slots[rest[0]], 100)
    elif what == "acknowledge":
        driver.acknowledge(slots[rest[0]])
    elif what == "progress":
        driver.hub.ask_progress(slots[rest[0]])
    elif what == "cancel":
        for slot in slots:
            if driver.hub.cancel(slot, rest[0]):
                del driver.readers[slot, rest[0]]
    elif what == "reopen":
        driver.close(slots[rest[0]])
        slots[rest[0]] = driver.stream()
    elif what == "compact":
        driver.written.compact(max(1, driver.store.revision - rest[0]))
        driver.hub.pump(driver.store)
    else:
        driver.hub.pump(driver.store)


@settings(max_examples=300, deadline=None)
@given(steps, st.sampled_from([(16, 100, 200), (64, 300, 1000), (1 << 18, 1 << 20, 1 << 28)]), st.sampled_from([3, 50]))
def test_every_watcher_gets_the_history_filtered(steps, bounds, turn_cost):
    piece, window, total = bounds
    driver = Driver(turn_cost=turn_cost, piece_bytes=piece, window_bytes=window, total_bytes=total)
    slots = [driver.stream() for _ in range(3)]
    for step in steps:
        perform(driver, slots, step)
        control = watchcodec.ITEM_BYTES * (2 * len(steps) + 10)  # what is not events has no window
        for slot in slots:
            assert driver.hub.outstanding(slot) <= window + control
        assert driver.hub.bytes == sum(driver.hub.outstanding(slot) for slot in slots)
        assert driver.hub.bytes <= total + control + len(slots) * least(piece)
    for slot in slots:
        driver.hub.ask_progress(slot)
    driver.settle()
    assert driver.hub.lagging == 0
    living = [reader for reader in driver.readers.values() if reader.ended is None]
    assert driver.hub.watcher_bytes == 2 * sum(len(reader.key) + len(reader.end) for reader in living)
    for reader in driver.readers.values():
        if reader.ended is None:
            driver.check(reader)
            assert reader.progress == driver.store.revision
            continue
        assert reader.ended.flags == watch.ENDED_COMPACTED
        whole = expected(driver.written.history, reader.key, reader.end, reader.flags, reader.start)
        assert reader.batches == whole[: len(reader.batches)]
        # Only history that is gone ends a watcher, and only one that needed some of it.
        assert reader.ended.revision <= driver.store.compacted
        assert max(reader.start, reader.revision) <= reader.ended.revision


def test_progress_is_of_the_watchers_that_were_created_before_it():
    driver = Driver()
    slot = driver.stream()
    driver.hub.ask_progress(slot)
    driver.run(Put(b"k", b"1"))
    late = driver.watch(slot, b"k", start=driver.store.revision)
    driver.settle()
    assert driver.readers[slot, late].progress == 0
    driver.check(driver.readers[slot, late])


def test_one_in_step_is_given_each_change_at_once():
    driver = Driver()
    slot = driver.stream()
    first = driver.watch(slot, b"k")
    driver.watch(slot, b"other")
    driver.run(Put(b"k", b"1"))
    driver.take(slot)
    driver.run(DeleteRange(b"k"))
    driver.take(slot)
    reader = driver.readers[slot, first]
    driver.check(reader)
    assert [event.deleted for _, (event,) in reader.batches] == [False, True]
    assert driver.readers[slot, 2].batches == []


def test_the_events_of_a_transaction_come_as_one_in_its_order():
    driver = Driver()
    slot = driver.stream()
    watcher = driver.watch(slot, b"\0", ALL)
    driver.run(Txn((), (Put(b"z", b"1"), Put(b"a", b"2"), Put(b"m", b"3"))))
    driver.take(slot)
    ((_, events),) = driver.readers[slot, watcher].batches
    assert [event.key for event in events] == [b"z", b"a", b"m"]
    assert all(event.created for event in events)


def test_a_revision_larger_than_the_window_arrives_whole():
    driver = Driver(piece_bytes=100, window_bytes=250, total_bytes=1000)
    slot = driver.stream()
    watcher = driver.watch(slot, b"\0", ALL, flags=watchcodec.PREV_KV)
    for value in (b"x" * 700, b"y" * 700):
        driver.run(Txn((), tuple(Put(b"%d" % i, value) for i in range(5))))
    while driver.hub.lagging:
        driver.settle()
    driver.check(driver.readers[slot, watcher])
    assert len(driver.readers[slot, watcher].batches) == 2


def test_a_slow_watcher_costs_its_window_and_the_others_nothing():
    driver = Driver(piece_bytes=1000, window_bytes=4000, total_bytes=1 << 20)
    slow, quick = driver.stream(), driver.stream()
    for slot in (slow, quick):
        driver.watch(slot, b"k")
    for i in range(1000):
        driver.run(Put(b"k", b"%0100d" % i))
        driver.take(quick)
        driver.acknowledge(quick)
        assert driver.hub.outstanding(slow) <= 4000
    driver.check(driver.readers[quick, 2])
    assert driver.hub.lagging == 1
    driver.settle()
    driver.check(driver.readers[slow, 1])


HISTORY, TURN_COST = 1000, 50
LAP = HISTORY // TURN_COST + 2  # turns


def with_a_history():
    """A driver with HISTORY changes of keys that nobody watches."""
    driver = Driver(piece_bytes=1000, window_bytes=4000, turn_cost=TURN_COST)
    for i in range(HISTORY):
        driver.run(Put(b"past/%d" % i, b""))
    return driver


def test_one_that_begins_in_the_past_each_turn_holds_up_nobody():
    driver = with_a_history()
    honest, greedy = driver.stream(), driver.stream()
    watcher = driver.watch(honest, b"large")
    driver.take(honest)
    driver.acknowledge(honest)
    driver.written.run(Put(b"large", bytes(3000)))  # more than a piece: read from history
    newest = 0
    for _ in range(LAP):
        driver.hub.cancel(greedy, newest)
        newest = driver.watch(greedy, b"nothing", start=2)
        driver.hub.pump(driver.store)
        driver.take(greedy)
        driver.acknowledge(greedy)
        driver.take(honest)
        driver.acknowledge(honest)
    driver.check(driver.readers[honest, watcher])


@pytest.mark.parametrize("seed", range(10))
def test_whoever_is_behind_is_passed_once_a_lap_however_many_begin_in_the_past(seed):
    rng = random.Random(seed)
    driver = with_a_history()
    herd, slot = driver.stream(), driver.stream()
    for _ in range(rng.randrange(LAP)):  # the walk is anywhere when they begin
        driver.watch(herd, b"nothing", start=2)
        driver.hub.pump(driver.store)
    numbers = rng.sample(range(HISTORY), 10)
    watchers = [driver.watch(slot, b"past/%d" % i, start=rng.randrange(2, i + 4)) for i in numbers]
    for _ in range(3 * LAP):  # what is left of one lap, one in which some join late, and a whole one
        driver.watch(herd, b"nothing", start=rng.randrange(2, 10))
        driver.hub.pump(driver.store)
        for each in (herd, slot):
            driver.take(each)
            driver.acknowledge(each)
    for watcher in watchers:
        assert len(driver.readers[slot, watcher].batches) == 1
        driver.check(driver.readers[slot, watcher])
    driver.settle()
    assert driver.hub.lagging == 0


def test_a_lap_ends_though_more_is_written_than_a_walk_passes():
    driver = with_a_history()
    ahead, late = driver.stream(), driver.stream()
    driver.watch(ahead, b"nothing", start=HISTORY - 2 * TURN_COST)
    driver.hub.pump(driver.store)  # amid a lap now
    watcher = driver.watch(late, b"past/7", start=2)
    for i in range(LAP):
        for k in range(2 * TURN_COST):
            driver.written.run(Put(b"%d/%d" % (i, k), b""))
        driver.hub.pump(driver.store)
        driver.take(late)
    assert len(driver.readers[late, watcher].batches) == 1


def test_a_stream_may_hold_what_is_still_free_and_a_little_always():
    driver = Driver(piece_bytes=1600, window_bytes=4000, total_bytes=10_000)
    first, second, closed = driver.stream(), driver.stream(), driver.stream(opened=False)
    assert [driver.hub.share(slot) for slot in (first, second, closed)] == [4000, 4000, 0]

    def filled(slot):
        driver.watch(slot, b"k")
        for _ in range(50):
            driver.run(Put(b"k", bytes(400)))
        return driver.hub.outstanding(slot)

    assert 3400 < filled(first) <= 4000
    assert 2500 < filled(second) <= driver.hub.bytes / 2  # half of what the first left
    for _ in range(6):  # each takes half of what there is, so that soon there is nearly nothing
        assert filled(driver.stream()) > 0
    poor = driver.stream()
    assert driver.hub.share(poor) == 100
    driver.acknowledge(first)
    driver.take(first)
    driver.acknowledge(first)
    assert driver.hub.share(poor) > 3000


@pytest.mark.parametrize("in_turn", [False, True], ids=["at once", "one after the other"])
def test_who_stops_acknowledging_takes_nothing_from_who_does_not(in_turn):
    """Streams that have everything filled up, and one of another key that acknowledges: it gets each event at once."""
    piece, window, total = 4096, 16_384, 1 << 18
    driver = Driver(piece_bytes=piece, window_bytes=window, total_bytes=total)
    count = 100
    stuck = [driver.stream() for _ in range(count)]
    honest = driver.stream()
    watcher = driver.watch(honest, b"lock")
    for number, slot in enumerate(stuck):
        driver.watch(slot, b"busy%d" % number if in_turn else b"busy")
    for number in range(count if in_turn else 1):
        for size in [*[900] * 20, *[150] * 6, *[0] * 6]:
            driver.run(Put(b"busy%d" % number if in_turn else b"busy", bytes(size)))
    assert driver.hub.bytes > total * 0.97  # hardly anything is free
    driver.take(honest)
    driver.acknowledge(honest)
    for i in range(20):
        driver.run(Put(b"lock", b"%0100d" % i))
        driver.take(honest)
        driver.acknowledge(honest)
        assert len(driver.readers[honest, watcher].batches) == i + 1
    driver.run(Put(b"lock", bytes(10 * piece)))  # and what is larger than all that is free, bit by bit
    for _ in range(1000):
        driver.hub.pump(driver.store)
        driver.take(honest)
        driver.acknowledge(honest)
    driver.check(driver.readers[honest, watcher])
    assert driver.hub.bytes <= total + (count + 1) * (least(piece) + 2 * watchcodec.ITEM_BYTES)
    driver.settle()
    assert driver.hub.lagging == 0


def test_a_share_that_shrinks_holds_up_nobody_who_waited_for_a_larger_one():
    driver = Driver(piece_bytes=4096, window_bytes=16_384, total_bytes=1 << 16)
    honest = driver.stream()
    watcher = driver.watch(honest, b"lock")
    driver.run(Put(b"lock", bytes(50_000)))  # its window is full: it waits for room for a whole piece
    for slot in [driver.stream() for _ in range(20)]:
        driver.watch(slot, b"busy")
    for _ in range(14):
        driver.run(Put(b"busy", bytes(100)))
    assert driver.hub.lagging == 1
    driver.take(honest)
    driver.acknowledge(honest)
    for _ in range(14):
        driver.written.run(Put(b"busy", bytes(100)))  # what it gives back the others take at once
    for _ in range(100):
        driver.hub.pump(driver.store)
        assert driver.hub.share(honest) < 4096
        driver.take(honest)
        driver.acknowledge(honest)
    driver.check(driver.readers[honest, watcher])


def test_a_stream_is_taken_bit_by_bit_while_more_is_put_in_it():
    driver = Driver()
    slot = driver.stream()
    watcher = driver.watch(slot, b"k")
    for i in range(1500):
        driver.run(Put(b"k", b"%0200d" % i))
        if i % 3:
            driver.take(slot, 700)
    driver.settle()
    driver.check(driver.readers[slot, watcher])


def test_one_whose_history_is_compacted_is_told_up_to_where():
    driver = Driver(piece_bytes=100, window_bytes=300, total_bytes=1000)
    slot = driver.stream()
    watcher = driver.watch(slot, b"k")
    for i in range(50):
        driver.run(Put(b"k", b"%d" % i))
    driver.take(slot)
    driver.written.compact(40)
    driver.run(Put(b"other", b""))  # which reclaims
    driver.settle()
    ended = driver.readers[slot, watcher].ended
    assert (ended.flags, ended.revision) == (watch.ENDED_COMPACTED, 40)
    assert (driver.hub.watchers, driver.hub.lagging) == (0, 0)


def test_one_that_needs_the_compacted_revision_itself_is_told_so_too():
    driver = Driver()
    slot = driver.stream(opened=False)
    for i in range(5):
        driver.run(Put(b"k", b"%d" % i))
    watcher = driver.watch(slot, b"k", start=4)
    driver.written.compact(4)
    for _ in range(5):
        driver.run(Put(b"other", b""))  # which reclaims
    driver.hub.open_window(slot)
    driver.settle()
    reader = driver.readers[slot, watcher]
    assert (reader.ended.revision, reader.batches) == (4, [])


def test_a_compaction_takes_nothing_from_one_in_step():
    driver = Driver()
    slot = driver.stream()
    watcher = driver.watch(slot, b"k")
    driver.run(Put(b"k", b"1"))
    driver.written.run(Put(b"k", b"2"))  # and before the hub looks:
    driver.written.compact(driver.store.revision)
    driver.settle()
    driver.check(driver.readers[slot, watcher])


def burst(driver, values, key=b"k"):
    """What is one apply, without a look of the hub's in between: puts, and a compaction of all of them."""
    for value in values:
        driver.written.run(Put(key, value))
    driver.written.compact(driver.store.revision)
    _, more = driver.hub.pump(driver.store)
    return more


def catch_up(driver):
    """So many more turns, in which nothing is applied, did those need that the next entry would overtake."""
    turns = 0
    while driver.hub.endangered(driver.store):
        driver.hub.pump(driver.store)
        turns += 1
    return turns


def test_a_compaction_amid_more_than_a_turn_feeds_ends_nobody_who_was_in_step():
    """With the real limits, 41 watchers of a put of 200 KiB are a turn's work; everybody is behind at the next put."""
    driver = Driver(turn_cost=limits.WATCH_TURN_COST)
    watchers = [(slot, driver.watch(slot, b"k")) for slot in (driver.stream() for _ in range(60))]
    other = driver.stream()
    watchers.append((other, driver.watch(other, b"other")))
    driver.settle()
    burst(driver, [bytes(200 << 10), b"small"])
    catch_up(driver)
    driver.run(Put(b"z", b""))  # which reclaims
    driver.settle()
    assert driver.store.changes == 1
    for name in watchers:
        driver.check(driver.readers[name])


def test_those_in_step_come_first_after_a_compaction_whoever_is_far_behind():
    driver = Driver(turn_cost=50)
    for i in range(1000):
        driver.run(Put(b"k%d" % (i % 10), b""))
    slot = driver.stream()
    driver.settle()
    watchers = [driver.watch(slot, b"k", ALL) for _ in range(30)]
    driver.settle()
    late = driver.stream()
    driver.watch(late, b"k", ALL, start=2)
    driver.hub.pump(driver.store)  # amid its lap now
    assert burst(driver, [b"1", b"2", b"3", b"4"])
    for _ in range(3):  # more than 30 * 4 / 50
        driver.hub.pump(driver.store)
    assert driver.hub.lagging == 1
    driver.run(Put(b"z", b""))
    driver.settle()
    for watcher in watchers:
        driver.check(driver.readers[slot, watcher])
    assert driver.readers[late, watchers[-1] + 1].ended.revision == driver.store.compacted


def test_what_a_compaction_has_yet_to_reclaim_is_there_for_who_began_before():
    driver = Driver()
    slot = driver.stream(opened=False)
    watcher = driver.watch(slot, b"k")
    for i in range(3):
        driver.run(Put(b"k", b"%d" % i))
    driver.written.compact(driver.store.revision)
    refused = driver.watch(slot, b"k", start=driver.store.revision)
    driver.hub.open_window(slot)
    assert driver.hub.endangered(driver.store)
    driver.settle()
    assert not driver.hub.endangered(driver.store)
    driver.check(driver.readers[slot, watcher])
    assert driver.readers[slot, refused].ended.revision == driver.store.compacted


def test_a_revision_that_is_reclaimed_in_part_is_no_longer_there():
    driver = Driver()
    slot = driver.stream(opened=False)
    watchers = [driver.watch(slot, b"k", ALL, start=start) for start in range(2, 11)]
    for _ in watchers:
        driver.run(Txn((), tuple(Put(b"k%d" % i, b"") for i in range(100))))
    driver.written.compact(driver.store.revision)
    driver.run(Put(b"z", b""))
    assert driver.store.changes % 100 != 1  # it has stopped amid one
    driver.hub.open_window(slot)
    driver.settle()
    readers = [driver.readers[slot, watcher] for watcher in watchers]
    assert [reader.ended is None for reader in readers] == sorted(reader.ended is None for reader in readers)
    assert {reader.ended is None for reader in readers} == {True, False}
    for reader in readers:
        if reader.ended is None:
            driver.check(reader)
        else:
            assert (reader.batches, reader.ended.revision) == ([], 10)


def test_who_has_the_last_change_of_a_revision_is_past_it_while_a_crowd_holds_the_walk_up():
    driver = Driver(turn_cost=10)
    slot = driver.stream()
    watchers = [driver.watch(slot, b"k") for _ in range(40)]
    driver.settle()
    assert burst(driver, [b"1"])
    driver.run(Put(b"z", b""))  # which reclaims, amid the change: no node is as hasty
    driver.settle()
    readers = [driver.readers[slot, watcher] for watcher in watchers]
    assert {bool(reader.batches) for reader in readers} == {True, False}
    for reader in readers:
        assert (reader.ended is None) == bool(reader.batches)


def test_a_start_in_compacted_history_is_refused():
    driver = Driver()
    slot = driver.stream()
    for i in range(5):
        driver.run(Put(b"k", b"%d" % i))
    driver.written.compact(4)
    watcher = driver.watch(slot, b"k", start=4)
    again = driver.watch(slot, b"k", start=5)
    driver.settle()
    assert driver.readers[slot, watcher].ended.revision == 4
    driver.check(driver.readers[slot, again])


def test_a_future_start_waits():
    driver = Driver()
    slot = driver.stream()
    watcher = driver.watch(slot, b"k", start=driver.store.revision + 3)
    for i in range(5):
        driver.run(Put(b"k", b"%d" % i))
    driver.settle()
    assert [revision for revision, _ in driver.readers[slot, watcher].batches] == [4, 5, 6]


def test_a_stream_gets_no_events_before_its_window_is_opened():
    driver = Driver()
    slot = driver.stream(opened=False)
    watcher = driver.watch(slot, b"k")
    for i in range(5):
        driver.run(Put(b"k", b"%d" % i))
    assert driver.take(slot) == 1  # that it was created
    assert driver.take(slot) == 0
    driver.hub.open_window(slot)
    driver.settle()
    driver.check(driver.readers[slot, watcher])


def test_what_is_wrong_with_a_watcher_is_said():
    driver = Driver(watchers=1)
    slot = driver.stream()
    assert driver.watch(slot, b"b", b"a")
    assert driver.watch(slot, b"b")
    assert driver.watch(slot, b"c")
    driver.settle()
    whys = [reader.ended and reader.ended.flags for reader in driver.readers.values()]
    assert whys == [watch.ENDED_REJECTED, None, watch.ENDED_OVERLOADED]
    assert not driver.hub.watch(driver.store, slot, 2, b"b", b"", 0, 0)  # that number is taken
    assert not driver.hub.watch(driver.store, slot, 9, b"b", b"", 8, 0)  # no such flag
    assert not driver.hub.cancel(slot, 77)
    with pytest.raises(IndexError):
        driver.hub.cancel(99, 1)


def test_keys_and_ends_are_bounded_in_bytes_and_given_back():
    driver = Driver(watcher_bytes=2 * 2 * 1000 + 2 * 10)

    def ends(slot):
        """Why a range of 1000 bytes has ended; None if it lives."""
        watcher = driver.watch(slot, b"k" * 500, b"l" * 500)
        driver.settle()
        ended = driver.readers[slot, watcher].ended
        return ended and ended.flags

    one, other = driver.stream(), driver.stream()
    assert [ends(one), ends(other), ends(other)] == [None, None, watch.ENDED_OVERLOADED]
    short = driver.watch(one, b"k" * 10)  # there is room for just that
    long = driver.watch(one, b"k")
    driver.settle()
    assert (driver.readers[one, short].ended, driver.readers[one, long].ended.flags) == (None, watch.ENDED_OVERLOADED)
    assert (driver.hub.watchers, driver.hub.watcher_bytes) == (3, 4020)
    assert driver.hub.cancel(one, 1)
    assert [ends(one), ends(one)] == [None, watch.ENDED_OVERLOADED]
    driver.close(other)
    assert [ends(one), ends(one)] == [None, watch.ENDED_OVERLOADED]
    driver.close(one)
    assert driver.hub.watcher_bytes == 0


def test_one_that_a_compaction_ends_gives_its_bytes_back():
    driver = Driver(watcher_bytes=2)
    slot = driver.stream(opened=False)
    driver.watch(slot, b"k", start=2)
    driver.run(Put(b"k", b""))
    driver.run(Put(b"k", b""))
    driver.written.compact(2)
    driver.run(Put(b"other", b""))  # which reclaims
    driver.settle()
    assert driver.hub.watcher_bytes == 0
    again = driver.watch(slot, b"k")
    driver.settle()
    assert driver.readers[slot, again].ended is None


def test_streams_that_end_leave_nothing_behind():
    driver = Driver()
    slots = [driver.stream() for _ in range(5)]
    for slot in slots:
        driver.watch(slot, b"a", ALL)
        driver.watch(slot, b"a")
    driver.run(Put(b"a", b"1"))
    for slot in slots:
        driver.close(slot)
    assert (driver.hub.watchers, driver.hub.lagging, driver.hub.bytes) == (0, 0, 0)
    driver.run(Put(b"a", b"2"))
    assert driver.hub.take(driver.stream(), 1000) == (0, b"")


@pytest.mark.parametrize("seed", range(5))
def test_ten_thousand_ranges_come_and_go(seed):
    rng = random.Random(seed)
    driver = Driver()
    slot = driver.stream()
    held = {}
    for _ in range(2000):
        low, high = sorted((b"%04d" % rng.randrange(1000), b"%04d" % rng.randrange(1000)))
        end = rng.choice([high, ALL, b""]) if low < high else b""
        held[driver.watch(slot, low, end)] = (low, end)
        if rng.random() < 0.4:
            gone = rng.choice(list(held))
            assert driver.hub.cancel(slot, gone)
            del held[gone], driver.readers[slot, gone]
    driver.settle()
    for _ in range(10):
        key = b"%04d" % rng.randrange(1000)
        driver.run(Put(key, b""))
        driver.settle()
        concerned = {watcher for watcher, (low, end) in held.items() if covers(low, end, key)}
        got = {name[1] for name, reader in driver.readers.items() if reader.revision == driver.store.revision}
        assert got == concerned


@pytest.mark.parametrize(("seed", "lagging"), [(0, 2000), (1, 0), (2, 0), (1 << 63, 0)])
def test_ranges_in_the_worst_order_of_another_seed_are_found_in_few_steps(seed, lagging):
    """What looking at the index costs counts in a turn; all fall behind if that is too much."""
    hub = Driver(seed=seed, turn_cost=200).hub
    written = Written()
    slot = hub.open_stream()
    hub.open_window(slot)
    for number, key in enumerate(worst_order(0, 2000), 1):
        assert hub.watch(written.store, slot, number, key, key + b"~", 0, 0)
    written.run(Txn((), tuple(Put(b"%d" % i, b"") for i in range(20))))  # before all ranges: they concern nobody
    _, more = hub.pump(written.store)
    assert (hub.lagging, more) == (lagging, bool(lagging))


def test_the_numbers_of_both_sides_are_the_same():
    assert list(watchcodec.Tell) == [watch.CREATED, watch.EVENTS, watch.PROGRESS, watch.ENDED]
    assert list(watchcodec.Why) == [watch.ENDED_COMPACTED, watch.ENDED_REJECTED, watch.ENDED_OVERLOADED]
    for name in ("MORE", "PREV_KV", "NO_PUT", "NO_DELETE"):
        assert getattr(watch, name) == getattr(watchcodec, name)
    with pytest.raises(ValueError, match="window"):
        Hub(seed=1, watchers=1, watcher_bytes=1, window_bytes=10, total_bytes=100, piece_bytes=10, turn_cost=1)
    assert limits.MAX_KEY_BYTES  # the codec's bound on keys
