"""How much a store has done, by which a node knows when to look after other things; and that stopping for it leaves no
trace in what is replicated."""

import random

import pytest
from test_apply import MIB, Driver, S, by_client, listing, random_log, staged

from quorumd.commands import (
    ALL,
    Compare,
    DeleteRange,
    Kind,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseList,
    LeaseRevoke,
    LeaseTimeToLive,
    Put,
    Range,
    Status,
    Txn,
    encode,
    encode_record,
)
from quorumd_fastpath import ring
from quorumd_fastpath.apply import Store

KEYS = 1000
SORTED = Range(b"k", b"l", limit=1, sort_target="mod", order="descend")


@pytest.fixture
def driver():
    """KEYS keys under k, with values that differ in their last byte alone; ten of lease 7; another 100 leases."""
    driver = Driver()
    driver.run(LeaseGrant(10_000, 7))
    for at in range(0, KEYS, 100):
        puts = [Put(b"k%06d" % i, bytes(999) + b"%c" % (i % 256), 7 if i < 10 else 0) for i in range(at, at + 100)]
        driver.run(Txn((), tuple(puts)))
    driver.run(Put(b"a", b""))
    for lease in range(100, 200):
        driver.run(LeaseGrant(10_000, lease))
    return driver


@pytest.mark.parametrize(
    ("op", "least"),
    [
        (SORTED, 2 * KEYS),
        (Range(b"k", b"l", limit=1, sort_target="value"), 2 * KEYS + KEYS * 15),
        (Range(b"k", b"l", min_mod_revision=1 << 40), KEYS),
        (Range(b"k", b"l", count_only=True, revision=11), KEYS),
        (Range(b"k", b"l", limit=500), 500 + 500 * 15),
        (Txn((Compare.version(b"k", ">", 0, b"l"),)), KEYS),
        (Txn((Compare.value(b"k", "<", bytes(999) + b"\xff\xff", b"l"),)), KEYS + KEYS * 15),
        (Txn((), (Range(b"x"),) * 100), 100 * 16),
        (LeaseList(), 101),
        (LeaseTimeToLive(7, keys=True), 10),
    ],
    ids=["sort", "sort by value", "filter", "past count", "page", "compare", "compare values", "many", "leases", "ttl"],
)
def test_what_a_read_costs(driver, op, least):
    stage, _slab = staged((Kind.READ, S, 1, 0, encode(op)))
    queue, before = ring.ReadQueue(1 << 20), driver.store.work
    assert queue.enqueue(stage, 1)
    assert driver.store.read(queue, 1, driver.replies, 0)
    assert driver.answers()[0].status == Status.OK
    assert least <= driver.store.work - before <= 2 * least + 200


@pytest.mark.parametrize(
    ("op", "least"),
    [
        (DeleteRange(b"k", b"l"), 9 * KEYS),
        (DeleteRange(b"k", b"k000100", prev_kv=True), 900 + 100 * 15),
        (LeaseRevoke(7), 10 * 16),
        (Put(b"a", bytes(MIB)), MIB // 64),
        (Txn((), (Put(b"a", b""), SORTED)), 2 * KEYS),
        (Txn((), tuple(Put(b"p%d" % i, b"") for i in range(100)), (DeleteRange(b"d"), DeleteRange(b"p", b"q"))), 1600),
    ],
    ids=["delete", "previous", "revoke", "value", "sort", "puts"],
)
def test_what_an_entry_costs(driver, op, least):
    before = driver.store.work
    assert not isinstance(driver.run(op), Status)
    assert least <= driver.store.work - before <= 4 * least + 200


@pytest.mark.parametrize("seed", range(4))
def test_where_a_turn_stops_leaves_no_trace(seed):
    """Entries out of the ring and as bytes, each time with another budget. The digest covers what was answered."""
    log, rng = random_log(seed, 2100), random.Random(seed)
    whole, other = Driver(session_limit=6, sessions=()), Driver(session_limit=6, sessions=())
    whole.store.apply_bytes(b"".join(log), 1, len(log))
    entries = ring.Ring(8 << 20, 4096)
    entries.reset(1)
    assert entries.append(b"".join(log), 1, len(log))
    stops, done = 0, 0
    while done < len(log):
        until = other.store.work + rng.choice((0, 1, 100, 300, 1000))
        if rng.random() < 0.5:
            part = log[done : done + 40]
            count = other.store.apply_bytes(b"".join(part), done + 1, len(part), until=until)
        else:
            part = log[done:]
            count = other.store.apply(entries, done + 1, len(log), until=until) - done
        assert 1 <= count <= len(part)
        assert count == len(part) or other.store.work >= until
        stops += count < len(part)
        done += count
    assert stops > 100
    assert (other.store.applied, other.store.digest) == (whole.store.applied, whole.store.digest)
    assert other.store.checkpoint() == whole.store.checkpoint()
    assert listing(other.store) == listing(whole.store)


def test_the_first_entry_is_applied_and_none_beyond_the_work(driver):
    done = driver.store.applied
    command = encode(Txn((), (Put(b"z", b""), SORTED)))
    records = [encode_record(Kind.COMMAND, S, 500 + i, 500, command) for i in range(9)]
    work = driver.store.work
    assert driver.store.apply_bytes(b"".join(records), done + 1, 9, until=work) == 1
    one = driver.store.work - work
    assert driver.store.apply_bytes(b"".join(records[1:]), done + 2, 8, until=driver.store.work + 2 * one + 1) == 3
    assert driver.store.apply_bytes(b"".join(records[4:]), done + 5, 5) == 5
    with pytest.raises(ValueError, match="malformed"):
        driver.store.apply_bytes(b"?" * 100, done + 10, 1, until=0)


def test_who_waits_for_an_entry_is_answered_the_same_in_one_turn_and_in_many():
    answers = []
    for until in (0, (1 << 64) - 1):
        driver = Driver(sessions=())
        puts = [(Kind.COMMAND, S, i, 1, encode(Put(b"k", b"%d" % i))) for i in range(1, 9)]
        stage, _slab = staged((Kind.OPEN_SESSION, S, 0, 0), *puts)
        entries, pending = ring.Ring(1 << 20, 64), ring.Pending(64)
        entries.reset(1)
        assert entries.append_staged(stage, 1, pending)
        turns = 0
        while driver.store.applied < 9:
            driver.store.apply(entries, driver.store.applied + 1, 9, pending, driver.replies, 0, True, until)
            turns += 1
        answers.append((by_client(driver), driver.store.digest))
        assert turns == (9 if until == 0 else 1)
    assert answers[0] == answers[1]


def test_reads_beyond_the_work_are_left_and_keep_alives_are_not(driver):
    heavy = encode(SORTED)
    reads = [(Kind.READ, S, seq, 0, heavy) for seq in range(5)]
    stage, _slab = staged(*reads, (Kind.READ, S, 9, 0, encode(LeaseKeepAlive(7))), (Kind.KEEP_ALIVE, S, 10, 0))
    queue = ring.ReadQueue(1 << 20)
    assert queue.enqueue(stage, 3)
    found = []
    for _ in range(5):
        size = queue.size_bytes
        finished = driver.store.read(queue, 3, driver.replies, 0, driver.store.work + 1)
        assert queue.size_bytes < size
        found.append([reply.seq for reply in driver.answers()])
        assert finished == (len(queue) == 0)
    assert found == [[0, 9, 10], [1], [2], [3], [4]]
    assert finished
    assert driver.store.read(queue, 3, driver.replies, 0, 0)
    assert queue.enqueue(stage, 4)
    assert not driver.store.read(queue, 4, driver.replies, 0, 0)
    assert [reply.seq for reply in driver.answers()] == [9, 10]
    queue.reject(4, driver.replies, Status.OVERLOADED)
    assert [(reply.seq, reply.status) for reply in driver.answers()] == [(n, Status.OVERLOADED) for n in range(5)]
    assert (len(queue), queue.size_bytes) == (0, 0)


def test_stale_reads_can_wait_too(driver):
    stale = [(Kind.STALE_READ, bytes(16), seq, 0, encode(SORTED)) for seq in range(3)]
    touch = (Kind.STALE_READ, bytes(16), 7, 0, encode(LeaseKeepAlive(7)))
    stage, _slab = staged(*stale, touch, (Kind.READ, S, 8, 0, b""))
    queue = ring.ReadQueue(1 << 20)
    assert queue.enqueue(stage, 1, stale=True)
    assert len(queue) == 4
    assert not driver.store.read(queue, 1, driver.replies, 5, driver.store.work + 1)
    assert [(reply.seq, reply.status) for reply in driver.answers()] == [(0, Status.OK), (7, Status.REJECTED)]
    assert driver.store.read(queue, 1, driver.replies, 5)
    assert [(reply.seq, reply.status) for reply in driver.answers()] == [(1, Status.OK), (2, Status.OK)]


def test_work_is_not_replicated(driver):
    digest = driver.store.digest
    driver.store.query(encode(Range(b"\0", ALL)))
    other = Store(1 << 40, 1000)
    other.apply_bytes(b"".join(driver.log), 1, len(driver.log))
    assert other.digest == driver.store.digest == digest
    assert other.work < driver.store.work
