"""What compactions give up is reclaimed whatever clients do; and how far a store of many keys looks to count them."""

import random
import struct
from bisect import bisect_left
from time import process_time
from types import SimpleNamespace

import pytest
from test_apply import Driver

from quorumd import limits
from quorumd.commands import Compact, DeleteRange, Kind, Put, Range, Status, Txn, encode, encode_record
from quorumd.compaction import Compaction
from quorumd.ownentries import OwnEntries
from quorumd_fastpath.apply import Store

# -- a leader with its store ----------------------------------------------------------------------------------------


class Leader:
    """Commands one after the other, and what a leader adds of its own as often as it may."""

    def __init__(self, quota, mode="revisions"):
        self.driver = Driver(quota)
        settings = SimpleNamespace(
            session_ttl=limits.SESSION_TTL, compaction=Compaction(mode=mode), quota_bytes=quota
        )
        self.own = OwnEntries(self.driver.store, settings)
        self.now = 0

    def run(self, op):
        """Whether it was done."""
        answer = self.driver.run(op)
        self.now += limits.COMPACT_EVERY
        for record in self.own.compactions(self.now) + self.own.reclaiming(self.now):
            self.driver.apply(*record)
        return answer is not Status.NO_SPACE


@pytest.mark.parametrize("at_once", [1, 100])
def test_a_value_that_is_overwritten_behind_many_small_keys_never_lacks_room(at_once):
    """Its history is a small part of the queue, at the end, and all of the quota."""
    leader = Leader(16 * limits.MIB)
    for first in range(0, 20_000, at_once):
        assert leader.run(Txn((), tuple(Put(b"k/%08d" % i, b"") for i in range(first, first + at_once))))
    assert all(leader.run(Put(b"state", bytes(64 * limits.KIB))) for _ in range(1000))


@pytest.mark.parametrize("mode", ["revisions", "off"])
def test_a_store_that_was_full_takes_writes_soon_after_all_was_deleted_and_compacted(mode):
    keys = 5000
    leader = Leader(keys * (80 + 96 + 10 + 100) + 20_000, mode)
    for i in range(keys):
        assert leader.run(Put(b"k/%08d" % i, bytes(100)))
    assert not leader.run(Txn((), tuple(Put(b"new%d" % i, bytes(500)) for i in range(100))))
    leader.run(DeleteRange(b"k/", b"k0"))
    leader.run(Compact(leader.driver.store.revision))
    assert [leader.run(Put(b"new", bytes(100))) for _ in range(5)][-1]


def test_who_drives_reclaiming_waits_for_each_of_its_entries_and_stops_at_the_end():
    leader = Leader(limits.MIB)
    own, store = leader.own, leader.driver.store
    assert own.reclaiming(0) == []
    for _ in range(200):
        leader.driver.run(Txn((), tuple(Put(b"%d" % i, b"") for i in range(limits.MAX_TXN_OPS))))
    leader.driver.run(Compact(store.revision))
    own.reclaims_after = store.applied + 1
    assert own.reclaiming(0) == []
    leader.driver.apply(Kind.NOOP, bytes(16))
    entries = 0
    while records := own.reclaiming(0):
        assert leader.driver.apply(*records[0]).status is Status.OK
        entries += 1
    assert 1 < entries < 5 and store.bytes == store.live_bytes


# -- logs of older rules --------------------------------------------------------------------------------------------


def log_by_rules(version):
    """What is refused for want of room here depends on what was reclaimed before."""
    rng = random.Random(7)
    session = b"s" * 16
    yield encode_record(Kind.RULES, struct.pack("<QQ", 0, version), 60_000, 0)
    yield encode_record(Kind.OPEN_SESSION, session, 0, 0)
    for seq in range(1, 6001):
        key = b"%03d" % rng.randrange(150)
        ops = [Put(key, bytes(rng.randrange(1200)))] * 8
        ops += [DeleteRange(key), DeleteRange(key, b"%03d" % rng.randrange(150))]
        yield encode_record(Kind.COMMAND, session, seq, seq, encode(rng.choice(ops)))
        if seq % 40 == 0:
            yield encode_record(Kind.COMPACT, bytes(16), seq // 4, 0)


def replayed(log):
    store = Store(1 << 30, 10)
    for record in log:
        store.apply_bytes(record, store.applied + 1, 1)
    return store


def test_a_log_by_rules_of_version_1_comes_to_what_it_came_to():
    """The figures are those of the last commit that knew no other version."""
    store = replayed(log_by_rules(1))
    assert (store.rules, store.revision, store.bytes, store.changes) == (1, 1565, 61_816, 128)
    assert store.digest == 0x1E188BDEE460A2D4
    assert replayed(log_by_rules(2)).digest != store.digest


def test_rules_hold_from_their_entry_on():
    driver = Driver()
    for _ in range(4000):
        driver.run(Put(b"k", b""))
    driver.run(Compact(driver.store.revision))

    def reclaimed(kind, session=bytes(16), seq=0):
        before = driver.store.changes
        driver.apply(kind, session, seq)
        return before - driver.store.changes

    assert driver.store.rules == 0 and reclaimed(Kind.NOOP) > 100
    assert reclaimed(Kind.RULES, struct.pack("<QQ", 0, 1), 1 << 40) > 100
    assert driver.store.rules == 1
    assert reclaimed(Kind.NOOP) == 16
    assert reclaimed(Kind.COMPACT, struct.pack("<QQ", 0, 50_000), driver.store.compacted) == 16
    assert reclaimed(Kind.RULES, struct.pack("<QQ", 0, 2), 1 << 40) == 16
    assert reclaimed(Kind.NOOP) > 100
    assert reclaimed(Kind.COMPACT, struct.pack("<QQ", 0, 50_000), driver.store.compacted) > 1000


# -- many keys ------------------------------------------------------------------------------------------------------


def in_transactions(driver, ops):
    for at in range(0, len(ops), limits.MAX_TXN_OPS):
        driver.run(Txn((), tuple(ops[at : at + limits.MAX_TXN_OPS])))


def compact(driver):
    driver.run(Compact(driver.store.revision))
    while driver.store.reclaiming:
        driver.apply(Kind.COMPACT, struct.pack("<QQ", 0, 1 << 40), driver.store.compacted)


@pytest.mark.parametrize("seed", range(3))
def test_ranges_over_many_runs_are_those_of_a_list(seed):
    """Counts, first keys and deletes where whole stretches of the index are dead, come back, or go."""
    rng = random.Random(seed)
    driver = Driver()
    numbers = list(range(80_000))
    if seed:
        rng.shuffle(numbers)
    in_transactions(driver, [Put(b"%08d" % n, b"") for n in numbers])
    keys = sorted(numbers)
    for round_ in range(12):
        low = rng.randrange(80_000)
        high = rng.choice([low + rng.randrange(300), low + rng.randrange(80_000)])
        first, last = bisect_left(keys, low), bisect_left(keys, high)
        assert driver.run(DeleteRange(b"%08d" % low, b"%08d" % high)).deleted == last - first
        gone = keys[first:last]
        del keys[first:last]
        if round_ % 4 == 3:
            compact(driver)
        back = rng.sample(gone, len(gone) // 50)
        in_transactions(driver, [Put(b"%08d" % n, b"") for n in back])
        keys = sorted(keys + back)
        assert driver.store.keys == len(keys)
        for _ in range(40):
            low, high = sorted((rng.choice([0, rng.randrange(81_000)]), rng.randrange(81_000)))
            first, last = bisect_left(keys, low), bisect_left(keys, high)
            answer = driver.run(Range(b"%08d" % low, b"%08d" % high, limit=2))
            assert answer.count == last - first
            assert [int(kv.key) for kv in answer.kvs] == keys[first:last][:2]
            assert answer.more == (last - first > 2)


def fastest(driver, op, times=5):
    command, took = encode(op), []
    for _ in range(times):
        began = process_time()
        assert driver.store.query(command)[0] == Status.OK
        took.append(process_time() - began)
    return min(took)


def store_of(count):
    driver = Driver()
    in_transactions(driver, [Put(b"k%08d" % n, b"") for n in range(count)])
    return driver


def test_a_thousand_counts_cost_about_the_same_in_a_store_of_any_size():
    """Counts are no looks: a transaction may ask for as many as it has room for."""
    small, large = store_of(3000), store_of(300_000)
    for options in ({"limit": 1}, {"count_only": True}):
        op = Txn((), tuple(Txn((), (Range(b"a", b"z", **options),) * 120) for _ in range(8)))
        assert fastest(large, op) < 5 * fastest(small, op)


def test_the_first_key_behind_many_that_were_deleted_is_found_at_once():
    """A queue whose items are taken from the front, and not compacted yet."""
    driver = store_of(100_000)
    op = Range(b"a", b"z", limit=1)
    before = fastest(driver, op, 50)
    driver.run(DeleteRange(b"k", b"k%08d" % 99_500))
    assert fastest(driver, op, 50) < 20 * before
