"""What clients choose does not decide how long a turn of the hub takes: keys, ids, sizes of values."""

import time

import pytest
from test_watch_hub import Driver

from quorumd import watchcodec
from quorumd.commands import ALL, Put, Txn

BYTES_PER_COST = 512  # watch.h
FULL = (1 << 64) - 1


def alike(n):
    """The n-th of many keys that are one to std::hash<std::string> of libstdc++ (MurmurHash64A, one seed for all)."""
    factor = 0xC6A4A7935BD1E995
    inverse = pow(factor, -1, 1 << 64)

    def mixed(word):
        word = word * factor & FULL
        return (word ^ word >> 47) * factor & FULL

    def unmixed(word):
        word = word * inverse & FULL
        return (word ^ word >> 47) * inverse & FULL

    state = (0xC70F6907 ^ 16 * factor & FULL) ^ mixed(n)
    return n.to_bytes(8, "little") + unmixed(state * factor & FULL ^ 0x1234567).to_bytes(8, "little")


def seconds(names):
    """How long watchers of these (id, key) take: to begin, not to concern an event, and to end. The best of three."""
    took = []
    for _ in range(3):
        driver = Driver()
        slot = driver.stream()
        for i in range(500):
            driver.written.run(Put(alike(1_000_000 + i), b""))
        begun = time.perf_counter()
        for number, key in names:
            assert driver.hub.watch(driver.store, slot, number, key, b"", 0, 0)
        driver.hub.pump(driver.store)
        driver.hub.close_stream(slot)
        took.append(time.perf_counter() - begun)
    return min(took)


def test_keys_that_are_made_to_fall_together_do_not():
    ordinary = seconds([(n, n.to_bytes(16, "little")) for n in range(1, 10_001)])
    assert seconds([(n, alike(n)) for n in range(1, 10_001)]) < 10 * ordinary


def test_ids_that_are_made_to_fall_together_do_not():
    ordinary = seconds([(n, b"k") for n in range(1, 10_001)])
    step = 20753 * 10273 * 5087  # a multiple of as many as libstdc++'s tables of this size have places
    assert seconds([(n * step, b"k") for n in range(1, 10_001)]) < 10 * ordinary


@pytest.mark.parametrize("key", [b"", b"k", b"1234567", b"12345678", b"123456789", b"k" * 1000])
def test_keys_of_any_length_are_found(key):
    driver = Driver(seed=1 << 63)
    slot = driver.stream()
    others = [driver.watch(slot, other) for other in (key + b"\0", key + b"x", b"x" + key) if other != key]
    driver.run(Put(b"other", b""))
    watcher = driver.watch(slot, key or b"\0")
    driver.run(Put(key or b"\0", b"v"))
    driver.settle()
    assert len(driver.readers[slot, watcher].batches) == 1
    for other in others:
        driver.check(driver.readers[slot, other])


def turns(driver, slots):
    """Bytes that were put in streams in each turn until nothing is left to do, if clients acknowledge at once."""
    put = []
    for _ in range(10_000):
        before = driver.hub.bytes
        _, more = driver.hub.pump(driver.store)
        put.append(driver.hub.bytes - before)
        for slot in slots:
            while driver.take(slot):
                driver.acknowledge(slot)
        if not more and not driver.hub.lagging:
            return put
    raise AssertionError("the hub does not come to rest")


@pytest.mark.parametrize("size", [20_000, 60_000, 300_000], ids=["in step", "with what it replaced", "in pieces"])
def test_what_a_turn_puts_in_streams_is_bounded_in_bytes(size):
    piece, cost = 100_000, 500
    driver = Driver(piece_bytes=piece, window_bytes=1 << 18, turn_cost=cost)
    slots = [driver.stream() for _ in range(50)]
    watchers = [driver.watch(slot, b"k", flags=watchcodec.PREV_KV) for slot in slots]
    other = driver.watch(slots[0], b"other")
    turns(driver, slots)
    for value in (b"x" * size, b"y" * size):
        driver.written.run(Txn((), (Put(b"k", value), Put(b"other", b""))))
        put = turns(driver, slots)
        assert sum(put) > 50 * size
        # A turn gives those in step something, and those behind; each time the last piece goes beyond the bound.
        assert max(put) < 2 * (cost * BYTES_PER_COST + piece) + 100 * watchcodec.ITEM_BYTES
    for slot, watcher in zip(slots, watchers, strict=True):
        driver.check(driver.readers[slot, watcher])
    driver.check(driver.readers[slots[0], other])


def test_more_watchers_of_one_key_than_a_turn_has_work_for_all_get_on():
    driver = Driver(turn_cost=20)
    slots = [driver.stream() for _ in range(3)]
    watchers = [(slot, driver.watch(slot, b"k", end)) for slot in slots for end in (b"", ALL) for _ in range(50)]
    for i in range(5):
        driver.written.run(Txn((), (Put(b"k", b"%d" % i), Put(b"later", b""), Put(b"l", b""))))
    assert max(turns(driver, slots)) < 300 * 2 * watchcodec.ITEM_BYTES + 50 * 100  # of which 300 say "created"
    for slot, watcher in watchers:
        driver.check(driver.readers[slot, watcher])


def test_those_who_begin_at_a_change_that_takes_several_turns_hold_up_nobody():
    driver = Driver(turn_cost=50)
    for i in range(10):
        driver.run(Put(b"k%d" % i, b""))
    crowd, honest = driver.stream(), driver.stream()
    for _ in range(100):
        driver.watch(crowd, b"k3", start=5)
    watcher = driver.watch(honest, b"k7", start=9)
    for _ in range(10):
        driver.hub.pump(driver.store)
        for slot in (crowd, honest):
            driver.take(slot)
            driver.acknowledge(slot)
        for _ in range(60):  # more than a turn's work
            driver.watch(crowd, b"k3", start=5)
    driver.check(driver.readers[honest, watcher])
    turns(driver, [crowd, honest])
    for reader in driver.readers.values():
        driver.check(reader)


def test_an_event_in_many_pieces_costs_no_more_than_in_one():
    def seconds(piece):
        took = []
        for _ in range(3):
            driver = Driver(piece_bytes=piece, window_bytes=1 << 22, turn_cost=1 << 20)
            slot = driver.stream()
            driver.watch(slot, b"k")
            driver.written.run(Put(b"k", bytes(1 << 20)))
            begun = time.perf_counter()
            driver.hub.pump(driver.store)
            took.append(time.perf_counter() - begun)
            assert driver.hub.lagging == 0
        return min(took)

    assert seconds(1 << 9) < 20 * seconds(1 << 17)


@pytest.mark.parametrize("piece", range(1, 130))
def test_an_event_may_be_cut_anywhere(piece):
    driver = Driver(piece_bytes=piece, window_bytes=1000, total_bytes=1000)
    slot = driver.stream()
    watcher = driver.watch(slot, b"key", flags=watchcodec.PREV_KV)
    for value in (b"one", b"", b"a longer one"):
        driver.run(Put(b"key", value))
    driver.settle()
    driver.check(driver.readers[slot, watcher])
