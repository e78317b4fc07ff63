"""History and leases beyond single rules: many versions, reclaiming, determinism, deadlines; against the model."""

import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_model import Model
from test_apply import MIB, NOOP, Driver, S, by_client, listing, same, shown, staged

from quorumd import limits
from quorumd.commands import (
    ALL,
    Compact,
    Compare,
    DeleteRange,
    Kind,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    LeaseTimeToLive,
    Put,
    Range,
    Record,
    Status,
    Txn,
    decode,
    encode,
    encode_record,
)
from quorumd_fastpath import apply as native
from quorumd_fastpath import ring
from quorumd_fastpath.apply import Store

SECOND = limits.SECOND

# -- against the model ----------------------------------------------------------------------------------------------

KEYS = st.sampled_from([b"a", b"a\0", b"b", b"ba", b"c"])
ENDS = st.one_of(st.just(b""), st.just(ALL), KEYS)
VALUES = st.sampled_from([b"", b"1", b"2", b"long" * 20])
SMALL = st.integers(0, 12)
LEASES = st.integers(0, 3)
RANGES = st.builds(
    Range, KEYS, ENDS, st.integers(0, 3), st.booleans(), st.booleans(), SMALL,
    st.sampled_from(["key", "version", "create", "mod", "value"]), st.sampled_from(["none", "ascend", "descend"]),
    SMALL, SMALL, SMALL, SMALL, st.integers(0, 2), st.booleans(),
)
SIMPLE = st.one_of(
    st.builds(Put, KEYS, VALUES, LEASES, st.booleans()),
    st.builds(Put, KEYS, VALUES),
    st.builds(Put, KEYS, st.just(b""), LEASES, st.booleans(), st.just(True)),
    st.builds(Put, KEYS, VALUES, st.just(0), st.booleans(), st.just(False), st.just(True)),
    st.builds(DeleteRange, KEYS, ENDS, st.booleans()),
    RANGES,
)
RELATIONS = st.sampled_from(["=", ">", "<", "!="])
COMPARES = st.lists(
    st.one_of(
        st.builds(Compare, KEYS, st.sampled_from(["version", "create", "mod", "lease"]), RELATIONS, SMALL, ENDS),
        st.builds(Compare.value, KEYS, RELATIONS, VALUES, ENDS),
    ),
    max_size=2,
).map(tuple)


def txns(of):
    branches = st.lists(of, max_size=3).map(tuple)
    return st.builds(Txn, COMPARES, branches, branches)


OPS = st.one_of(
    SIMPLE, SIMPLE, txns(st.one_of(SIMPLE, txns(SIMPLE))), st.builds(Compact, SMALL),
    st.builds(LeaseGrant, st.just(1000), LEASES), st.builds(LeaseRevoke, LEASES),
)


@given(st.lists(OPS, max_size=25), st.sampled_from([1 << 40, 1500]))
@settings(max_examples=150)
def test_programs_run_as_the_model_runs_them(ops, quota):
    driver, model = Driver(quota), Model(quota)
    model.apply(Record(Kind.OPEN_SESSION, S, 0, 0, b""))
    for seq, op in enumerate(ops, 1):
        command = encode(op)
        assert same(driver.raw(command), model.apply(Record(Kind.COMMAND, S, seq, seq, command))), op
        assert (driver.store.bytes, driver.store.changes) == (model.bytes, len(model.unreclaimed))
        assert driver.store.live_bytes == model.live_bytes
    first = model.compacted + 1
    assert driver.store.events(first) == [shown(event) for event in model.events(first)]
    for revision in range(max(1, model.compacted), model.revision + 1):
        read = encode(Range(b"\0", ALL, revision=revision))
        assert driver.store.query(read) == model.read(read)
    for lease, (generation, ttl_ms) in model.leases.items():
        assert driver.store.lease(lease) == (generation, ttl_ms, len(model.attached(lease)))
    replayed = Store(quota, 1000)
    replayed.apply_bytes(b"".join(driver.log), 1, len(driver.log))
    assert (replayed.digest, replayed.bytes) == (driver.store.digest, driver.store.bytes)
    assert replayed.events(first) == driver.store.events(first)


# -- many versions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_any_version_of_many_is_found_also_behind_a_compaction(seed):
    rng = random.Random(seed)
    driver = Driver()
    values = {}
    for n in range(1500):
        deleted = rng.random() < 0.1 and n
        driver.run(DeleteRange(b"k") if deleted else Put(b"k", b"%d" % n))
        values[driver.store.revision] = None if deleted and driver.store.revision not in values else b"%d" % n
        if deleted:
            values[driver.store.revision] = None
        if rng.random() < 0.01:
            driver.apply(Kind.COMPACT, bytes(16), rng.randrange(driver.store.compacted, driver.store.revision) + 1)
        for _ in range(3):
            revision = rng.randrange(max(2, driver.store.compacted), driver.store.revision + 1)
            found = driver.run(Range(b"k", revision=revision)).kvs
            assert [kv.value for kv in found] == ([] if values[revision] is None else [values[revision]])


def test_events_are_the_puts_and_deletes_in_order():
    driver = Driver()
    driver.run(Put(b"b", b"1"))
    driver.run(Txn((), (Put(b"z", b"2"), DeleteRange(b"a", b"c"), Put(b"c", b"3"))))
    driver.run(Put(b"z", b"4"))
    assert driver.store.events(1) == [
        (2, b"b", (b"1", 2, 2, 1, 0), None),
        (3, b"z", (b"2", 3, 3, 1, 0), None),
        (3, b"b", None, (b"1", 2, 2, 1, 0)),
        (3, b"c", (b"3", 3, 3, 1, 0), None),
        (4, b"z", (b"4", 3, 4, 2, 0), (b"2", 3, 3, 1, 0)),
    ]
    assert [event[0] for event in driver.store.events(3, 1)] == [3, 3, 3]
    assert driver.store.events(2, 2) == driver.store.events(2)[:4]
    assert driver.store.events(5) == driver.store.events(3, 0) == []


# -- reclaiming -----------------------------------------------------------------------------------------------------


def test_no_entry_reclaims_more_than_its_share():
    driver = Driver()
    for _ in range(1000):
        driver.run(Put(b"k", bytes(100)))
    driver.run(Compact(driver.store.revision))
    assert driver.store.reclaiming
    held = [driver.store.changes]
    while driver.store.changes:
        driver.apply(Kind.NOOP, bytes(16))
        held.append(driver.store.changes)
    # The first change costs 1, as it replaced nothing; the last one may cost more than is left.
    share = 2 + native.RECLAIMED_PER_ENTRY // (1 + native.RECLAIM_COSTS[0])
    assert max(before - after for before, after in pairwise(held)) == share
    driver.apply(Kind.NOOP, bytes(16))
    assert (driver.store.bytes, driver.store.reclaiming) == (driver.store.live_bytes, False)


def test_reclaiming_keeps_up_with_the_largest_transactions():
    driver = Driver()
    ops = tuple(Put(b"%d" % n, b"") for n in range(limits.MAX_TXN_OPS))
    for n in range(60):
        driver.run(Txn((), ops))
        driver.apply(Kind.COMPACT, bytes(16), driver.store.revision)
        assert n < 30 or driver.store.changes <= 2 * limits.MAX_TXN_OPS
    assert driver.store.keys == limits.MAX_TXN_OPS


def test_queues_do_not_leave_their_keys_behind():
    """Keys made in order, each deleted once: what a tombstone costs goes with compaction, dead runs with it."""
    driver = Driver()
    for n in range(3000):
        driver.run(Put(b"job/%08d" % n, b"x"))
        driver.run(DeleteRange(b"job/%08d" % (n - 10)))
        if n % 100 == 0:
            driver.apply(Kind.COMPACT, bytes(16), driver.store.revision)
        if n % 500 == 0:
            assert driver.run(Range(b"job/", b"job0", count_only=True)).count == min(n + 1, 10)
            assert [kv.key for kv in driver.run(Range(b"job/", b"job0", limit=2)).kvs][:1] == [
                b"job/%08d" % max(0, n - 9)
            ]
    assert driver.store.bytes < 10_000 + 300 * 400


# -- determinism ----------------------------------------------------------------------------------------------------


def test_compactions_and_expiries_are_entries_like_others():
    """In pieces, out of a ring, at other times: the same digest, bytes and events."""
    rng = random.Random(5)
    driver = Driver()
    granted = {}
    for n in range(2000):
        roll = rng.random()
        if roll < 0.02:
            lease = driver.run(LeaseGrant(1000)).id
            granted[lease] = driver.store.applied
        elif roll < 0.03 and granted:
            lease = rng.choice(list(granted))
            generation = granted.pop(lease)
            assert driver.apply(Kind.EXPIRE_LEASE, struct.pack("<QQ", 0, lease), generation).status is Status.OK
        elif roll < 0.04:
            driver.apply(Kind.COMPACT, bytes(16), max(1, driver.store.revision - rng.randrange(50)))
        elif roll < 0.1:
            driver.run(DeleteRange(b"%02d" % rng.randrange(60), ALL if roll < 0.045 else b""))
        else:
            driver.run(Put(b"%02d" % rng.randrange(60), bytes(n % 50), rng.choice([0, *granted])))
    log, one = driver.log, driver.store
    pieces, ringed = Store(1 << 40, 1000), Store(1 << 40, 1000)
    done = 0
    while done < len(log):
        part = log[done : done + rng.randrange(1, 40)]
        pieces.apply_bytes(b"".join(part), done + 1, len(part), now_ns=rng.randrange(1 << 40))
        if rng.random() < 0.5:
            pieces.rearm(rng.randrange(1 << 40))
        pieces.put_off(rng.randrange(1 << 40), rng.randrange(1 << 40))
        for lease, _ in pieces.leases_due(rng.randrange(1 << 40), rng.randrange(1 << 40)):
            pieces.lease_expiring(lease)
        done += len(part)
    entries = ring.Ring(8 << 20, 4096)
    entries.reset(1)
    assert entries.append(b"".join(log), 1, len(log))
    ringed.apply(entries, 1, len(log))
    for other in (pieces, ringed):
        assert (other.digest, other.bytes, other.changes) == (one.digest, one.bytes, one.changes)
        assert other.events(one.compacted + 1) == one.events(one.compacted + 1)
        assert listing(other) == listing(one)


def test_expiry_is_void_behind_another_leadership():
    driver = Driver()
    driver.run(LeaseGrant(1000, 7))
    driver.apply(Kind.NOOP, bytes(16))
    first, generation = driver.store.applied, driver.store.lease(7)[0]
    driver.apply(Kind.NOOP, bytes(16))
    session, second = struct.pack("<QQ", 0, 7), driver.store.applied
    assert driver.apply(Kind.EXPIRE_LEASE, session, generation, first).status is Status.REJECTED
    assert driver.store.leases == 1
    assert driver.apply(Kind.EXPIRE_LEASE, session, generation, second).status is Status.OK
    assert driver.store.leases == 0


def test_expiry_is_void_once_the_lease_is_another():
    driver = Driver()
    driver.run(LeaseGrant(1000, 7))
    generation = driver.store.lease(7)[0]
    assert generation == driver.store.applied
    driver.run(LeaseRevoke(7))
    session = struct.pack("<QQ", 0, 7)
    assert driver.apply(Kind.EXPIRE_LEASE, session, generation).status is Status.LEASE_NOT_FOUND
    driver.run(LeaseGrant(1000, 7))
    driver.run(Put(b"k", b"", 7))
    assert driver.apply(Kind.EXPIRE_LEASE, session, generation).status is Status.REJECTED
    assert driver.store.leases == driver.store.keys == 1
    assert driver.apply(Kind.EXPIRE_LEASE, session, driver.store.lease(7)[0]).status is Status.OK
    assert (driver.store.leases, driver.store.keys, driver.store.revision) == (0, 0, 3)


def test_compaction_that_is_overtaken_is_void():
    driver = Driver()
    driver.run(Put(b"k", b""))
    driver.run(Put(b"k", b""))
    assert driver.apply(Kind.COMPACT, bytes(16), 3).status is Status.OK
    assert driver.apply(Kind.COMPACT, bytes(16), 2).status is Status.COMPACTED
    assert driver.apply(Kind.COMPACT, bytes(16), 9).status is Status.FUTURE_REVISION
    assert driver.store.compacted == 3


# -- deadlines ------------------------------------------------------------------------------------------------------


def leased(*ttls_ms):
    """A store with leases 1, 2, ... granted at time 0."""
    driver = Driver()
    for lease, ttl_ms in enumerate(ttls_ms, 1):
        driver.run(LeaseGrant(ttl_ms, lease))
    return driver.store


AGAIN = 1 * SECOND


def due(store, now):
    return [lease for lease, _ in store.leases_due(now, now + AGAIN)]


def test_leases_are_due_in_order_and_named_again_unless_expiring():
    store = leased(3000, 1000, 2000, 1000)
    assert store.next_lease_due == 1 * SECOND
    assert due(store, 1 * SECOND - 1) == []
    assert store.leases_due(2 * SECOND, 3 * SECOND, 1) == [(2, store.lease(2)[0])]
    assert due(store, 2 * SECOND) == [4, 3]
    store.lease_expiring(4)
    assert due(store, 3 * SECOND - 1) == []
    assert store.next_lease_due == 3 * SECOND
    assert due(store, 3 * SECOND) == [1, 2, 3]
    for lease in (1, 2, 3):
        store.lease_expiring(lease)
    assert due(store, 100 * SECOND) == []
    assert store.next_lease_due == 2**64 - 1


def test_a_touch_moves_the_deadline_and_names_the_lease_anew():
    store = leased(1000, 1000)
    assert store.lease_touch(1, SECOND // 2)
    assert due(store, SECOND) == [2]
    assert due(store, 3 * SECOND // 2) == [1]
    store.lease_expiring(1)
    assert store.lease_touch(2, 2 * SECOND)
    assert store.lease_touch(2, 3 * SECOND)
    assert due(store, 3 * SECOND) == []
    assert due(store, 4 * SECOND) == [2]
    assert not store.lease_touch(3, 0)


def test_a_lease_that_is_expiring_is_kept_alive_by_nobody_until_the_next_election():
    store = leased(1000)
    assert due(store, SECOND) == [1]
    store.lease_expiring(1)
    store.lease_expiring(99)  # gone meanwhile
    assert not store.lease_touch(1, SECOND)
    assert store.query(encode(LeaseKeepAlive(1)), SECOND)[0] == Status.OVERLOADED  # it may live on, nobody knows
    op = LeaseTimeToLive(1)
    assert decode(op, 1, store.query(encode(op), 0)[2]).left_ms == 0
    store.put_off(4 * SECOND, SECOND)  # after a stall: the entry is still under way
    assert not store.lease_touch(1, 4 * SECOND)
    assert due(store, 9 * SECOND) == []
    store.rearm(5 * SECOND)
    assert due(store, 6 * SECOND - 1) == []
    assert store.lease_touch(1, 6 * SECOND - 1)
    assert due(store, 7 * SECOND - 1) == [1]


def test_ended_leases_are_never_due_nor_pile_up():
    driver = Driver()
    for _ in range(2000):
        driver.run(LeaseGrant(limits.MAX_LEASE_TTL_MS, 7))
        driver.run(LeaseRevoke(7))
    driver.run(LeaseGrant(1000, 7))
    assert driver.store.leases_due(limits.MAX_LEASE_TTL_MS * limits.MILLISECOND, 0) == [(7, driver.store.lease(7)[0])]


@pytest.mark.parametrize("seed", range(5))
def test_deadlines_are_those_of_a_table(seed):
    rng = random.Random(seed)
    ttls = [rng.choice([1000, 1500, 4000]) for _ in range(40)]
    store = leased(*ttls)
    deadlines = {lease: ttl * limits.MILLISECOND for lease, ttl in enumerate(ttls, 1)}
    spared = set()  # put off or named since they were touched
    now = 0
    for _ in range(300):
        now += rng.randrange(SECOND // 4)
        for lease in rng.sample(range(1, 41), 3):
            assert store.lease_touch(lease, now)
            deadlines[lease] = now + ttls[lease - 1] * limits.MILLISECOND
            spared.discard(lease)
        if rng.random() < 0.02:
            store.rearm(now)
            deadlines = {lease: now + ttls[lease - 1] * limits.MILLISECOND for lease in range(1, 41)}
            spared.clear()
        elif rng.random() < 0.2:
            until = now + SECOND // 3
            store.put_off(until, SECOND)
            early = [lease for lease in deadlines if deadlines[lease] < until and lease not in spared]
            deadlines.update(dict.fromkeys(early, until))
            spared.update(early)
        expected = sorted(lease for lease, deadline in deadlines.items() if deadline <= now)
        assert sorted(due(store, now)) == expected
        deadlines.update(dict.fromkeys(expected, now + AGAIN))
        spared.update(expected)


def test_keep_alives_are_reads_that_touch():
    driver = Driver()
    driver.run(LeaseGrant(1000, 7))
    before = driver.store.digest
    queue = ring.ReadQueue(1 << 20)
    stage, _slab = staged(
        (Kind.READ, S, 1, 0, encode(LeaseKeepAlive(7))), (Kind.READ, S, 2, 0, encode(LeaseKeepAlive(8)))
    )
    assert queue.enqueue(stage, 5)
    driver.store.read(queue, 5, driver.replies, 9 * SECOND)
    answers = by_client(driver)
    assert [answers[b"client%d" % n][0].status for n in range(2)] == [Status.OK, Status.LEASE_NOT_FOUND]
    assert due(driver.store, 10 * SECOND - 1) == []
    assert due(driver.store, 10 * SECOND) == [7]
    assert driver.store.digest == before


def test_a_lease_of_many_large_keys_is_told_page_by_page():
    driver = Driver()
    driver.run(LeaseGrant(1000, 7))
    keys = [b"%02d" % n + bytes(30_000) for n in range(50)]
    for key in keys:
        driver.run(Put(key, b"", 7))
    found, more = [], True
    while more:
        op = LeaseTimeToLive(7, keys=True, skip=len(found))
        _, _, body = driver.store.query(encode(op), 0)
        assert len(body) < MIB + 100
        page = decode(op, 1, body)
        found, more = [*found, *page.keys], page.more
    assert found == keys


def test_the_number_of_leases_is_limited():
    store = Store(1 << 40)
    log = [encode_record(Kind.OPEN_SESSION, S, 0, 0)]
    log += [encode_record(Kind.COMMAND, S, n, n, encode(LeaseGrant(1000))) for n in range(1, limits.MAX_LEASES + 2)]
    store.apply_bytes(b"".join(log), 1, len(log))
    assert store.leases == limits.MAX_LEASES
    assert len(store.query(b"\x0a" + bytes(15))[2]) <= limits.RANGE_PAGE_BYTES
    store.apply_bytes(NOOP, store.applied + 1, 1)
