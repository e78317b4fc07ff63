"""The state machine against kv_model.py, the dumb one, and rule by rule; etcd's rules are in test_etcd_semantics.py."""

import random
import struct

import kv_model
import mvcc_model
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_model import Model

from quorumd import limits, statemachine
from quorumd.commands import (
    ALL,
    Compact,
    Compare,
    DeleteRange,
    KeyValue,
    Kind,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    Put,
    Range,
    Record,
    Status,
    Txn,
    decode,
    decode_replies,
    encode,
    encode_record,
)
from quorumd_fastpath import apply as native
from quorumd_fastpath import ring, wire
from quorumd_fastpath.apply import Store

S = bytes(range(16))
T = bytes(range(16, 32))
MIB = limits.MIB
ADDR = b"client"


class Driver:
    """A store that answers one entry at a time."""

    def __init__(self, quota=1 << 40, session_limit=1000, sessions=(S,)):
        self.store = Store(quota, session_limit)
        self.replies = wire.Replies(4 * MIB)
        self.outbox = wire.Outbox(64, 4 * MIB)
        self.log = []
        self.seqs = {}
        for session in sessions:
            self.apply(Kind.OPEN_SESSION, session)

    def answers(self):
        """Every reply that waits."""
        large = self.replies.flush(self.outbox)
        found = [reply for _, record in large for reply in decode_replies(record, 1)]
        for datagram, _ in self.outbox.drain():
            for frame, payload in wire.parse_datagram(datagram):
                found += decode_replies(payload, frame.count)
        self.replies.clear()
        return found

    def apply(self, kind, session=S, seq=0, answered_below=0, command=b"", now_ns=0):
        data = encode_record(kind, session, seq, answered_below, command)
        self.log.append(data)
        self.store.apply_bytes(data, self.store.applied + 1, 1, self.replies, [ADDR], now_ns)
        (reply,) = self.answers()
        return reply

    def raw(self, command, session=S):
        seq = self.seqs[session] = self.seqs.get(session, 0) + 1
        return self.apply(Kind.COMMAND, session, seq, seq, command)

    def run(self, op):
        """The result of an operation that succeeds, else its status."""
        reply = self.raw(encode(op))
        return decode(op, reply.revision, reply.body) if reply.status is Status.OK else reply.status

    def dump(self):
        return listing(self.store)


def listing(store):
    """Every key, page by page."""
    kvs, key = [], b"\0"
    while True:
        op = Range(key, ALL)
        status, revision, body = store.query(encode(op))
        assert status == Status.OK
        page = decode(op, revision, body)
        kvs += page.kvs
        if not page.more:
            assert len(kvs) == store.keys
            return kvs
        key = page.kvs[-1].key + b"\0"


MALFORMED = (Status.REJECTED, Status.TOO_LARGE)


def same(reply, expected):
    """Equal, reasons aside: those are for people. Malformed and too large are the same to the model: which comes first
    is nothing that a client could rely on."""
    if reply.status in MALFORMED and expected.status in MALFORMED:
        expected = expected._replace(status=reply.status)
    if expected.status in (Status.OK, Status.REPLY_EVICTED):
        return reply == expected
    return reply._replace(body=b"") == expected._replace(body=b"")


# ---------------------------------------------------------------- against the model

AWKWARD_KEYS = [
    b"a", b"a\0", b"a\0\0", b"ab", b"abcdefgh", b"abcdefgh\0", b"abcdefghi", b"b", b"\0", b"\0\0", b"\xff", b"\xff\xff",
    b"/registry/one", b"/registry/two", b"/registry/two\0", b"/registry/twofold", b"/regi",
    b"x" * 300, b"x" * 299 + b"y",
]


class Program:
    """Random commands over a few keys; `model` is asked for nothing but revisions and leases worth naming."""

    def __init__(self, rng, model):
        self.rng = rng
        self.model = model

    def key(self):
        return self.rng.choice(AWKWARD_KEYS) if self.rng.random() < 0.8 else b"key%03d" % self.rng.randrange(200)

    def end(self):
        return self.rng.choice([b"", b"", ALL, self.key(), self.key()])

    def value(self):
        return bytes([self.rng.randrange(256)]) * self.rng.choice([0, 1, 8, 100, 100, 1000])

    def revision(self):
        return max(0, self.model.revision + self.rng.choice([1, 0, -1, -3, -10, -50, -200]))

    def lease(self):
        return self.rng.choice([0, 0, 0, 7, 8, *self.model.leases])

    def put(self):
        keep_value, keep_lease = self.rng.random() < 0.1, self.rng.random() < 0.1
        value, lease = b"" if keep_value else self.value(), 0 if keep_lease else self.lease()
        return Put(self.key(), value, lease, self.rng.random() < 0.3, keep_value, keep_lease)

    def range(self):
        revision = self.revision() if self.rng.random() < 0.4 else 0
        flags = self.rng.random() < 0.2, self.rng.random() < 0.2
        op = Range(self.key(), self.end(), self.rng.choice([0, 0, 1, 2, 5]), *flags, revision)
        if self.rng.random() < 0.5:
            return op
        bounds = [self.revision() if self.rng.random() < 0.2 else 0 for _ in range(4)]
        target = self.rng.choice(["key", "version", "create", "mod", "value"])
        order = self.rng.choice(["none", "ascend", "descend"])
        return Range(
            op.key, op.end, op.limit, *flags, revision, target, order, *bounds, self.rng.choice([0, 0, 1, 3]),
            self.rng.random() < 0.2,
        )

    def simple(self):
        roll = self.rng.random()
        if roll < 0.6:
            return self.put()
        if roll < 0.75:
            return DeleteRange(self.key(), self.rng.choice([b"", self.end()]), self.rng.random() < 0.3)
        return self.range()

    def compare(self):
        result = self.rng.choice(["=", ">", "<", "!="])
        end = self.end() if self.rng.random() < 0.3 else b""
        if self.rng.random() < 0.3:
            return Compare.value(self.key(), result, self.value(), end)
        target = self.rng.choice(["version", "create", "mod", "lease"])
        return Compare(self.key(), target, result, self.rng.choice([0, 1, 2, 7, 50]), end)

    def txn(self, depth=1):
        branches = [tuple(self.branch_op(depth) for _ in range(self.rng.randrange(4))) for _ in range(2)]
        return Txn(tuple(self.compare() for _ in range(self.rng.randrange(3))), *branches)

    def branch_op(self, depth):
        return self.txn(depth + 1) if depth < 4 and self.rng.random() < 0.15 else self.simple()

    def other(self):
        """About history and leases."""
        roll = self.rng.random()
        if roll < 0.4:
            return Compact(self.revision())
        if roll < 0.7:
            return LeaseGrant(self.rng.choice([0, 1, 5000]), self.rng.choice([0, 7, 8, 9]))
        return LeaseRevoke(self.lease())

    def command(self):
        roll = self.rng.random()
        if roll < 0.65:
            return encode(self.simple())
        if roll < 0.7:
            return encode(self.other())
        command = encode(self.txn())
        if roll > 0.97:
            mutated = bytearray(command)
            mutated[self.rng.randrange(len(mutated))] = self.rng.choice([0, 1, 2, 3, 4, 255, self.rng.randrange(256)])
            return bytes(mutated)
        return command


class Clients:
    """Sessions as UDP shows them: requests repeated, reordered, late, from sessions that ended or never were."""

    def __init__(self, rng, model):
        self.rng = rng
        self.model = model
        self.program = Program(rng, model)
        self.ids = {}
        self.next_seq = {}
        self.sent = []

    def session(self):
        """The session of one of eight clients; one that lost its session soon takes a new one."""
        client = self.rng.randrange(8)
        known = self.ids.get(client)
        if known is None or (known not in self.model.sessions and self.rng.random() < 0.3):
            known = self.ids[client] = self.rng.randbytes(16)
            self.next_seq[known] = 1
        return known

    def leadership(self):
        return self.rng.choice((0, self.model.leadership, self.model.leadership, self.rng.randrange(1, 500)))

    def record(self):
        roll = self.rng.random()
        session = self.session()
        known = self.model.sessions.get(session)
        if roll < 0.04 or (known is None and roll < 0.6):
            return Record(Kind.OPEN_SESSION, session, 0, 0, b"")
        if roll < 0.05:
            return Record(Kind.CLOSE_SESSION, session, 0, 0, b"")
        if roll < 0.08:
            generation = known.generation if known else 1
            generation -= self.rng.random() < 0.8
            return Record(Kind.EXPIRE_SESSION, session, generation, self.leadership(), b"")
        if roll < 0.09:
            return Record(Kind.NOOP, bytes(16), 0, 0, b"")
        if roll < 0.095:
            budget = self.rng.choice([0, 0, 1, 40, 5000])
            return Record(Kind.COMPACT, struct.pack("<QQ", 0, budget), self.program.revision(), 0, b"")
        if roll < 0.096:
            rules = struct.pack("<QQ", 0, self.rng.randint(1, limits.RULES_VERSION))
            return Record(Kind.RULES, rules, self.model.quota, 0, b"")
        if roll < 0.1:
            lease = self.program.lease()
            generation = self.model.leases.get(lease, (1,))[0] - (self.rng.random() < 0.3)
            return Record(Kind.EXPIRE_LEASE, struct.pack("<QQ", 0, lease), generation, self.leadership(), b"")
        if roll < 0.3 and self.sent:
            return self.rng.choice(self.sent[-30:])
        due = self.next_seq[session]
        seq = due + self.rng.choice([0, 0, 0, 0, 0, 1, 2, 5])
        self.next_seq[session] = max(due, seq) + self.rng.choice([0, 1, 1, 1])
        below = max(0, due - self.rng.choice([0, 1, 3, 40, 2000]))
        if self.rng.random() < 0.03:
            seq += self.rng.choice([1100, 1024 - seq + below])
        record = Record(Kind.COMMAND, session, seq, below, self.program.command())
        self.sent.append(record)
        return record


def shown(event):
    """As Store.events shows it."""
    versions = [
        kv and (kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)
        for kv in (event.kv, event.previous)
    ]
    return event.revision, event.key, *versions


@pytest.mark.parametrize("seed", range(30))
def test_same_answers_as_the_model(seed):
    rng = random.Random(seed)
    quota = rng.choice([1 << 40, 20_000, 60_000])
    driver, model = Driver(quota, 6, sessions=()), Model(quota, 6)
    clients = Clients(rng, model)
    for _ in range(600):
        record = clients.record()
        reply, expected = driver.apply(*record), model.apply(record)
        assert same(reply, expected), record
        assert (driver.store.revision, driver.store.keys) == (model.revision, len(model.kvs))
        assert (driver.store.bytes, driver.store.live_bytes) == (model.bytes, model.live_bytes)
        assert (driver.store.compacted, driver.store.changes) == (model.compacted, len(model.unreclaimed))
        assert (driver.store.sessions, driver.store.leases) == (len(model.sessions), len(model.leases))
    assert driver.store.events(model.compacted + 1) == [shown(event) for event in model.events(model.compacted + 1)]
    assert driver.dump() == [model.kvs[key] for key in sorted(model.kvs)]
    assert driver.store.executed == model.executed
    for session in clients.next_seq:
        known = model.sessions.get(session)
        assert (driver.store.session(session) or ())[:2] == ((known.generation, known.base) if known else ())


@pytest.mark.parametrize("seed", range(5))
def test_reads_are_those_of_the_model(seed):
    rng = random.Random(seed)
    driver, model = Driver(), Model()
    model.apply(Record(Kind.OPEN_SESSION, S, 0, 0, b""))
    program = Program(rng, model)
    for seq in range(1, 300):
        command = program.command()
        assert same(driver.raw(command), model.apply(Record(Kind.COMMAND, S, seq, seq, command)))
        command = program.command()
        status, revision, body = driver.store.query(command)
        expected, expected_revision, expected_body = model.read(command)
        assert (status in MALFORMED and expected in MALFORMED) or status == expected
        assert revision == expected_revision
        assert status != Status.OK or body == expected_body


def forget(driver):
    """Compacts all history, and applies entries until it is reclaimed."""
    revision = driver.store.revision
    assert driver.apply(Kind.COMPACT, bytes(16), revision).status in (Status.OK, Status.COMPACTED)
    while driver.store.changes:
        driver.store.apply_bytes(NOOP * 100, driver.store.applied + 1, 100)


NOOP = encode_record(Kind.NOOP, bytes(16), 0, 0)


def stress_key(rng, style):
    n = rng.randrange(4000)
    match style:
        case "counter":
            return b"key%08d" % n
        case "long prefix":
            return b"/very/long/common/prefix/of/keys/%d" % n
        case "binary":
            return struct.pack(">I", n * 2654435761 % 2**32)
        case _:
            return b"abc"[: rng.randrange(1, 4)] * rng.randrange(1, 60) + b"\0" * rng.randrange(3) + b"%d" % (n % 50)


@pytest.mark.parametrize("style", ["counter", "long prefix", "binary", "mixed"])
@pytest.mark.parametrize("seed", range(2))
def test_order_survives_splits_and_merges(style, seed):
    rng = random.Random(seed)
    driver, keys = Driver(), set()
    for step in range(9000):
        key = stress_key(rng, style)
        roll = rng.random()
        shrinking = step // 3000 == 1
        if roll < (0.3 if shrinking else 0.93):
            driver.run(Put(key, b""))
            keys.add(key)
        elif roll < 0.995:
            assert driver.run(DeleteRange(key)).deleted == (key in keys)
            keys.discard(key)
        else:
            first, end = sorted((key, stress_key(rng, style)))
            gone = {other for other in keys if first <= other < end}
            if len(gone) > 1000:
                continue
            if first != end:
                assert driver.run(DeleteRange(first, end)).deleted == len(gone)
            keys -= gone
        assert driver.store.keys == len(keys)
        if step % 300 == 0:
            assert [kv.key for kv in driver.dump()] == sorted(keys)
            first, end = sorted((key, stress_key(rng, style)))
            expected = sum(first <= other < end for other in keys) if first != end else first in keys
            if step % 900 == 0:
                forget(driver)
            assert driver.run(Range(first, end if first != end else b"", count_only=True)).count == expected
    assert driver.run(DeleteRange(b"\0", ALL)).deleted == len(keys)
    assert driver.dump() == []
    forget(driver)
    assert (driver.store.bytes, driver.store.changes) == (0, 0)


@pytest.mark.parametrize("order", [1, -1])
def test_keys_in_order(order):
    driver = Driver()
    keys = [b"%06d" % n for n in range(2000)][::order]
    for key in keys:
        driver.run(Put(key, key))
    assert [kv.key for kv in driver.dump()] == sorted(keys)
    for key in keys:  # a queue: always the first, or always the last
        assert driver.run(DeleteRange(key, prev_kv=True)).prev[0].value == key
    assert driver.store.keys == 0


# ---------------------------------------------------------------- determinism and digest

def random_log(seed, size):
    model = Model(session_limit=6)
    clients = Clients(random.Random(seed), model)
    records = []
    for _ in range(size):
        records.append(clients.record())
        model.apply(records[-1])
    return [encode_record(*record) for record in records]


@pytest.mark.parametrize("seed", range(3))
def test_batching_and_clocks_leave_no_trace(seed):
    log = random_log(seed, 2100)
    rng = random.Random(seed)
    whole, pieces, ringed = Store(1 << 40, 6), Store(1 << 40, 6), Store(1 << 40, 6)
    whole.apply_bytes(b"".join(log), 1, len(log))
    done = 0
    while done < len(log):
        count = rng.randrange(1, 50)
        part = log[done : done + count]
        pieces.apply_bytes(b"".join(part), done + 1, len(part), now_ns=rng.randrange(1 << 60))
        done += len(part)
    entries = ring.Ring(8 << 20, 4096)
    entries.reset(1)
    assert entries.append(b"".join(log), 1, len(log))
    ringed.apply(entries, 1, 1000)
    ringed.apply(entries, 1001, len(log))
    assert whole.applied == len(log)
    for other in (pieces, ringed):
        assert (other.applied, other.digest, other.revision) == (whole.applied, whole.digest, whole.revision)
        assert other.checkpoint() == whole.checkpoint() == (2048, whole.digest_at(2048))
        assert other.digest_at(1024) == whole.digest_at(1024) is not None
        assert listing(other) == listing(whole)


def digest_of(*records):
    store = Store(1 << 40)
    store.apply_bytes(b"".join(records), 1, len(records))
    return store.digest


def test_any_difference_changes_the_digest():
    opened = encode_record(Kind.OPEN_SESSION, S, 0, 0)
    put = encode_record(Kind.COMMAND, S, 1, 1, encode(Put(b"k", b"v")))
    base = digest_of(opened, put)
    assert base == digest_of(opened, put)
    different = [
        digest_of(opened),
        digest_of(put, opened),
        digest_of(opened, put, put),
        digest_of(opened, encode_record(Kind.COMMAND, S, 1, 1, encode(Put(b"k", b"w")))),
        digest_of(opened, encode_record(Kind.COMMAND, S, 2, 1, encode(Put(b"k", b"v")))),
        digest_of(encode_record(Kind.OPEN_SESSION, T, 0, 0), put),
        digest_of(encode_record(Kind.NOOP, bytes(16), 0, 0)),
        0,
    ]
    assert len({base, *different}) == len(different) + 1


def test_a_different_state_shows_in_the_digest():
    """Two stores that disagree about a key answer the same entry differently."""
    put = encode_record(Kind.COMMAND, S, 1, 1, encode(Put(b"k", bytes(500))))
    log = [encode_record(Kind.OPEN_SESSION, S, 0, 0), put]
    large, small = Store(1 << 40), Store(100)
    large.apply_bytes(b"".join(log), 1, 2)
    small.apply_bytes(b"".join(log), 1, 2)
    assert large.digest != small.digest


def test_checkpoints():
    noop = encode_record(Kind.NOOP, bytes(16), 0, 0)
    store = Store(0)
    assert (store.checkpoint(), store.digest, store.digest_at(0)) == ((0, 0), 0, None)
    store.apply_bytes(noop * 1023, 1, 1023)
    assert store.checkpoint() == (0, 0)
    store.apply_bytes(noop, 1024, 1)
    assert store.checkpoint() == (1024, store.digest)
    store.apply_bytes(noop * 1024 * 66, 1025, 1024 * 66)
    kept = [index for index in range(1024, 68 * 1024, 1024) if store.digest_at(index) is not None]
    assert kept == [1024 * n for n in range(67 - native.CHECKPOINTS_KEPT + 1, 68)]
    assert store.digest_at(67 * 1024 - 1) is None


# ---------------------------------------------------------------- exactly once

PUT = encode(Put(b"k", b"v", prev_kv=True))


def test_a_retry_gets_the_first_answer():
    driver = Driver()
    first = driver.apply(Kind.COMMAND, S, 1, 1, PUT)
    second = driver.apply(Kind.COMMAND, S, 2, 1, PUT)
    assert (driver.store.revision, driver.store.executed) == (3, 2)
    assert driver.apply(Kind.COMMAND, S, 2, 1, PUT) == second
    assert driver.apply(Kind.COMMAND, S, 1, 1, PUT) == first
    assert (driver.store.revision, driver.store.executed) == (3, 2)


def test_pipelined_operations_that_udp_reordered_execute_once_each():
    driver = Driver()
    for seq in (3, 1, 2, 3, 1024, 1, 4):
        assert driver.apply(Kind.COMMAND, S, seq, 1, encode(Put(b"k%d" % seq, b""))).status is Status.OK
    assert driver.store.executed == driver.store.keys == 5


def test_the_edges_of_the_window():
    driver = Driver()
    assert driver.apply(Kind.COMMAND, S, 0, 0, PUT).status is Status.ANSWERED
    assert driver.apply(Kind.COMMAND, S, 1025, 0, PUT).status is Status.WINDOW_FULL
    assert driver.apply(Kind.COMMAND, S, 1024, 0, PUT).status is Status.OK
    assert driver.apply(Kind.COMMAND, S, 1033, 10, PUT).status is Status.OK
    assert driver.apply(Kind.COMMAND, S, 9, 1, PUT).status is Status.ANSWERED
    assert driver.apply(Kind.COMMAND, S, 10, 1, PUT).status is Status.OK
    assert driver.apply(Kind.COMMAND, S, 5, 2**64 - 1, PUT).status is Status.ANSWERED
    assert driver.apply(Kind.COMMAND, S, 2**64 - 1, 2**64 - 1, PUT).status is Status.OK
    assert driver.apply(Kind.COMMAND, S, 2**64 - 1, 2**64 - 1, PUT).status is Status.OK
    assert driver.store.executed == 4


def test_refusals_are_remembered_too():
    driver = Driver(quota=10)
    refused = driver.apply(Kind.COMMAND, S, 1, 1, encode(Put(b"k", b"v")))
    assert refused.status is Status.NO_SPACE
    assert driver.apply(Kind.COMMAND, S, 1, 1, encode(Put(b"k", b"v"))) == refused
    assert driver.store.executed == 1


def test_large_replies_are_evicted_oldest_first():
    driver = Driver()
    driver.apply(Kind.COMMAND, S, 1, 1, encode(Put(b"k", bytes(300_000))))
    read = encode(Range(b"k"))
    answers = {seq: driver.apply(Kind.COMMAND, S, seq, 1, read) for seq in (5, 2, 4, 3)}
    assert driver.store.session(S)[2] <= limits.SESSION_WINDOW_BYTES
    assert driver.apply(Kind.COMMAND, S, 2, 1, read)[::4] == (Status.REPLY_EVICTED, 2)
    for seq in (3, 4, 5):
        assert driver.apply(Kind.COMMAND, S, seq, 1, read) == answers[seq]
    # The newest is kept even when it has the lowest seq.
    driver = Driver()
    driver.apply(Kind.COMMAND, S, 1, 1, encode(Put(b"k", bytes(300_000))))
    answers = {seq: driver.apply(Kind.COMMAND, S, seq, 1, read) for seq in (5, 4, 3, 2)}
    assert driver.apply(Kind.COMMAND, S, 2, 1, read) == answers[2]
    assert driver.apply(Kind.COMMAND, S, 3, 1, read).status is Status.REPLY_EVICTED
    driver.apply(Kind.COMMAND, S, 6, 6, b"")
    assert driver.store.session(S)[2] < 100


def sessions_of(count):
    return [struct.pack("<QQ", n, n) for n in range(count)]


def test_all_sessions_together_keep_so_many_bytes_of_answers_and_lose_the_oldest_first():
    """An answer stays until the client's next operation: idle sessions are many, and read much with little."""
    driver = Driver(session_limit=1000)
    driver.apply(Kind.COMMAND, S, 1, 1, encode(Put(b"k", bytes(1024 * 1024))))
    ids, read = sessions_of(300), encode(Range(b"k"))
    for session in ids:
        driver.apply(Kind.OPEN_SESSION, session)
        driver.apply(Kind.COMMAND, session, 1, 1, read)
    kept, _ = driver.store.windows
    assert limits.ALL_SESSIONS_BYTES - 1_100_000 < kept <= limits.ALL_SESSIONS_BYTES
    again = [driver.apply(Kind.COMMAND, session, 1, 1, read).status for session in ids]
    lost = again.count(Status.REPLY_EVICTED)
    assert again == [Status.REPLY_EVICTED] * lost + [Status.OK] * (300 - lost)
    assert 300 - lost == limits.ALL_SESSIONS_BYTES // (kept // (300 - lost))
    for session in ids[:-1]:
        driver.apply(Kind.CLOSE_SESSION, session)
    driver.apply(Kind.COMMAND, ids[-1], 2, 2, encode(Put(b"small", b"")))
    assert driver.store.windows[0] < 100


def test_all_sessions_together_have_so_many_slots_and_each_a_few_of_its_own():
    wide = limits.ALL_SESSIONS_OPS // (limits.SESSION_WINDOW_OPS - 4)
    driver = Driver(session_limit=5000)
    ids = sessions_of(wide + 1)
    for session in ids:
        driver.apply(Kind.OPEN_SESSION, session)
    last = limits.SESSION_WINDOW_OPS
    assert {driver.apply(Kind.COMMAND, session, last, 1, PUT).status for session in ids[:-1]} == {Status.OK}
    assert driver.apply(Kind.COMMAND, ids[-1], last, 1, PUT).status is Status.WINDOW_FULL
    assert driver.apply(Kind.COMMAND, ids[-1], 4, 1, PUT).status is Status.OK
    assert driver.store.windows[1] <= limits.ALL_SESSIONS_OPS
    driver.apply(Kind.COMMAND, ids[0], last + 1, last + 1, PUT)  # it has every answer, and needs no room for them
    assert driver.apply(Kind.COMMAND, ids[-1], last, 1, PUT).status is Status.OK
    before = driver.store.windows[1]
    driver.apply(Kind.CLOSE_SESSION, ids[1])
    assert driver.store.windows[1] == before - (last - 4)


def test_a_window_shrinks_when_fewer_operations_are_unanswered_and_forgets_none_of_those():
    driver = Driver()
    first = {seq: driver.apply(Kind.COMMAND, S, seq, 1, encode(Put(b"k%d" % seq, b""))) for seq in range(1, 101)}
    assert driver.store.windows[1] == 128 - 4
    driver.apply(Kind.COMMAND, S, 101, 99, PUT)
    assert driver.store.windows[1] == 0
    assert [driver.apply(Kind.COMMAND, S, seq, 99, PUT) for seq in (99, 100)] == [first[99], first[100]]
    driver.apply(Kind.COMMAND, S, 108, 101, PUT)
    assert driver.store.windows[1] == 8 - 4


def test_nothing_that_is_replicated_depends_on_the_key_of_the_tables():
    one, other = Store(1 << 40, 1000, 1), Store(1 << 40, 1000, 2**64 - 1)
    for store in (one, other):
        driver = Driver()
        driver.store = store
        for session in sessions_of(50):
            driver.apply(Kind.OPEN_SESSION, session)
            driver.apply(Kind.COMMAND, session, 1, 1, PUT)
    assert one.digest == other.digest
    assert one.expired(10**9, 1, 10**9) == other.expired(10**9, 1, 10**9) != []


def test_sessions_open_and_end_once():
    driver = Driver(session_limit=2, sessions=())
    assert driver.apply(Kind.COMMAND, S, 1, 1, PUT).status is Status.SESSION_EXPIRED
    assert [driver.apply(Kind.OPEN_SESSION, S).status for _ in range(2)] == [Status.OK, Status.OK]
    assert driver.apply(Kind.OPEN_SESSION, T).status is Status.OK
    assert driver.apply(Kind.OPEN_SESSION, b"x" * 16).status is Status.TOO_MANY_SESSIONS
    assert [driver.apply(Kind.CLOSE_SESSION, S).status for _ in range(2)] == [Status.OK, Status.OK]
    assert driver.apply(Kind.COMMAND, S, 1, 1, PUT).status is Status.SESSION_EXPIRED
    assert driver.apply(Kind.OPEN_SESSION, b"x" * 16).status is Status.OK
    assert driver.store.sessions == 2


def test_a_late_copy_of_an_open_does_not_bring_a_session_back():
    driver = Driver()
    driver.apply(Kind.COMMAND, S, 1, 1, PUT)
    driver.apply(Kind.CLOSE_SESSION, S)
    assert driver.apply(Kind.OPEN_SESSION, S).status is Status.SESSION_EXPIRED
    assert driver.apply(Kind.COMMAND, S, 1, 1, PUT).status is Status.SESSION_EXPIRED
    assert driver.store.executed == 1
    for n in range(native.ENDED_SESSIONS_KEPT):  # what is remembered is bounded
        for kind in (Kind.OPEN_SESSION, Kind.CLOSE_SESSION):
            assert driver.apply(kind, b"other" + struct.pack("<Q3x", n)).status is Status.OK
    assert driver.apply(Kind.OPEN_SESSION, S).status is Status.OK


def test_expiry_is_ignored_once_the_generation_moved():
    driver = Driver()
    generation = driver.store.session(S)[0]
    driver.apply(Kind.COMMAND, S, 1, 1, PUT)
    assert driver.apply(Kind.EXPIRE_SESSION, S, generation).status is Status.REJECTED
    assert driver.store.session(S) == (generation + 1, 1, 0)
    driver.apply(Kind.COMMAND, S, 1, 1, PUT)  # a retry counts too: the client lives
    assert driver.apply(Kind.EXPIRE_SESSION, S, generation + 1).status is Status.REJECTED
    assert driver.apply(Kind.EXPIRE_SESSION, S, generation + 2).status is Status.OK
    assert driver.store.session(S) is None
    assert driver.apply(Kind.EXPIRE_SESSION, S, generation + 2).status is Status.SESSION_EXPIRED


def test_expiry_is_void_behind_another_leadership():
    driver = Driver()
    driver.apply(Kind.NOOP, bytes(16))
    first, generation = driver.store.applied, driver.store.session(S)[0]
    assert driver.store.leadership == first
    driver.apply(Kind.NOOP, bytes(16))
    second = driver.store.applied
    assert driver.store.leadership == second
    assert driver.apply(Kind.EXPIRE_SESSION, S, generation, first).status is Status.REJECTED
    assert driver.store.session(S) is not None
    assert driver.apply(Kind.EXPIRE_SESSION, S, generation, second).status is Status.OK


def test_deadlines():
    ids = [bytes([n]) * 16 for n in (9, 3, 200, 4)]
    driver = Driver(sessions=())
    for now, session in enumerate(ids):
        driver.apply(Kind.OPEN_SESSION, session, now_ns=100 + now)
    store = driver.store
    assert store.expired(199, 100, 299) == []
    assert store.expired(202, 100, 302) == [(ids[1], 1), (ids[0], 1), (ids[2], 1)]
    assert store.expired(203, 100, 303) == [(ids[3], 1)]
    assert store.expired(301, 100, 401) == []
    driver.apply(Kind.COMMAND, ids[0], 1, 1, PUT, now_ns=250)
    assert store.expired(302, 100, 402) == [(ids[1], 1), (ids[2], 1)]  # it may not have been proposed
    store.session_expiring(ids[3])
    assert store.expired(402, 100, 502) == [(ids[1], 1), (ids[0], 2), (ids[2], 1)]  # that of the fourth is in the log
    store.rearm(1000)
    assert store.expired(1099, 100, 1199) == []
    assert store.expired(1100, 100, 1150) == sorted((session, 2 if session == ids[0] else 1) for session in ids)
    store.put_off(2000, 100)  # seen at 1000
    store.put_off(2050, 100)  # once only
    assert store.expired(1999, 100, 2099) == []
    assert [store.expired(2000, 100, 2100, 3) for _ in range(3)] == [
        [(ids[1], 1), (ids[3], 1), (ids[0], 2)], [(ids[2], 1)], [],
    ]
    driver.apply(Kind.COMMAND, ids[0], 2, 2, PUT, now_ns=2000)
    store.put_off(2500, 100)
    assert store.expired(2499, 100, 2600) == sorted((session, 1) for session in ids[1:])
    assert store.expired(2500, 100, 2600) == [(ids[0], 3)]
    store.put_off(50, 100)  # a clock that has run for less than a TTL
    assert store.expired(0, 100, 100) == []  # a clock that was elsewhere before


# ---------------------------------------------------------------- commands

def test_put_and_revisions():
    driver = Driver()
    assert driver.store.revision == 1
    driver.run(LeaseGrant(1000, 4))
    assert driver.run(Put(b"k", b"1", lease=4)).revision == 2
    assert driver.run(DeleteRange(b"nothing")).revision == 2
    assert driver.run(Range(b"k")).revision == 2
    assert driver.run(Put(b"k", b"2", prev_kv=True)).prev == KeyValue(b"k", b"1", 2, 2, 1, 4)
    assert driver.run(Range(b"k")).kvs == (KeyValue(b"k", b"2", 2, 3, 2, 0),)
    assert driver.run(DeleteRange(b"k", prev_kv=True)).prev == (KeyValue(b"k", b"2", 2, 3, 2, 0),)
    assert driver.run(Put(b"k", b"3")).revision == 5
    assert driver.run(Range(b"k")).kvs == (KeyValue(b"k", b"3", 5, 5, 1, 0),)


def test_values_of_any_size_replace_each_other():
    driver = Driver()
    for size in [0, 1, 16, 17, 300, 299, 5, MIB, 0, 1000, 900, 20, MIB - 1, 64]:
        value = random.Random(size).randbytes(size)
        driver.run(Put(b"k", value))
        assert driver.run(Range(b"k")).kvs[0].value == value
        assert driver.store.live_bytes == native.KEY_OVERHEAD_BYTES + native.VERSION_OVERHEAD_BYTES + 1 + size
        forget(driver)
        assert driver.store.bytes == driver.store.live_bytes


@pytest.fixture
def compared():
    """Key "k": created at 2, modified at 4, version 3, lease 6, value "m"."""
    driver = Driver()
    driver.run(LeaseGrant(1000, 6))
    for value in (b"a", b"b", b"m"):
        driver.run(Put(b"k", value, lease=6))
    return driver


@pytest.mark.parametrize(("target", "actual"), [("version", 3), ("create", 2), ("mod", 4), ("lease", 6)])
@pytest.mark.parametrize(("result", "below", "equal", "above"), [
    ("=", False, True, False), ("!=", True, False, True), (">", True, False, False), ("<", False, False, True),
])
def test_compares(compared, target, actual, result, below, equal, above):
    for operand, expected in ((actual - 1, below), (actual, equal), (actual + 1, above), (2**64 - 1, above)):
        assert compared.run(Txn((Compare(b"k", target, result, operand),))).succeeded is expected
    # A missing key has 0 everywhere.
    for operand, expected in ((0, equal), (1, above)):
        assert compared.run(Txn((Compare(b"missing", target, result, operand),))).succeeded is expected


@pytest.mark.parametrize(("result", "below", "equal", "above"), [
    ("=", False, True, False), ("!=", True, False, True), (">", True, False, False), ("<", False, False, True),
])
def test_compares_of_values(compared, result, below, equal, above):
    for operand, expected in ((b"", below), (b"l\xff", below), (b"m", equal), (b"m\0", above), (b"\xff", above)):
        assert compared.run(Txn((Compare.value(b"k", result, operand),))).succeeded is expected
    assert compared.run(Txn((Compare.value(b"missing", result, b""),))).succeeded is False


def test_a_txn_is_one_revision_and_sees_itself():
    driver = Driver()
    driver.run(Put(b"a", b"1"))
    result = driver.run(Txn((Compare.version(b"a", "=", 1),), (
        Put(b"b", b"2"), Range(b"a", ALL), DeleteRange(b"a", prev_kv=True), Range(b"a", ALL, keys_only=True),
    )))
    assert (result.revision, driver.store.revision, result.succeeded) == (3, 3, True)
    before, after = result.responses[1], result.responses[3]
    assert [kv.value for kv in before.kvs] == [b"1", b"2"]
    assert after.kvs == (KeyValue(b"b", b"", 3, 3, 1, 0),)
    assert result.responses[2].prev[0].value == b"1"
    assert driver.run(Txn((), (Range(b"a", ALL),))).revision == 3


@pytest.mark.parametrize("branch", [
    (Put(b"k", b"1"), Put(b"k", b"2")),
    (Put(b"k", b"1"), Range(b"k"), DeleteRange(b"k")),
    (DeleteRange(b"a", b"z"), Put(b"k", b"1")),
    (Put(b"k", b"1"), DeleteRange(b"k", ALL)),
])
def test_one_change_of_a_key_in_a_branch(branch):
    driver = Driver()
    assert driver.run(Txn((), (Put(b"other", b""), *branch))) is Status.REJECTED
    assert driver.run(Txn((), (), branch)) is Status.REJECTED  # even the branch that would not run
    assert (driver.store.keys, driver.store.revision) == (0, 1)
    allowed = (Put(b"k", b"1"), DeleteRange(b"a", b"k"), DeleteRange(b"b", b"c"), DeleteRange(b"k\0", ALL))
    assert driver.run(Txn((), allowed, allowed)).revision == 2


def test_quota():
    driver = Driver(quota=2000)
    fits = 2000 - native.KEY_OVERHEAD_BYTES - native.VERSION_OVERHEAD_BYTES - 1
    assert driver.run(Put(b"a", bytes(fits + 1))) is Status.NO_SPACE
    assert driver.run(Put(b"a", bytes(fits))).revision == 2
    assert driver.run(Put(b"a", b"")) is Status.NO_SPACE  # the old version stays
    assert driver.run(Txn((), (Range(b"a"),), (Put(b"b", b""),))).succeeded  # only the branch that runs counts
    assert driver.run(LeaseGrant(1000, 5)).id == 5
    # What makes room goes through, though a tombstone takes some first.
    assert driver.run(DeleteRange(b"a")).deleted == 1
    assert driver.store.bytes == 2000 + native.VERSION_OVERHEAD_BYTES
    assert driver.run(Put(b"b", b"")) is Status.NO_SPACE
    assert driver.run(Compact(3)).revision == 3
    assert driver.run(Put(b"b", b"", lease=5)).revision == 4
    assert driver.store.bytes == driver.store.live_bytes < 300
    assert driver.run(Put(b"c", bytes(2000 - driver.store.bytes - 177))).revision == 5
    assert driver.run(Put(b"d", b"")) is Status.NO_SPACE
    assert driver.run(LeaseRevoke(5)).deleted == 1
    assert driver.run(Txn((), (DeleteRange(b"c"), Put(b"d", b"")))) is Status.NO_SPACE


def raw_put(key, value):
    return struct.pack("<BBHIIQ", 1, 0, 0, len(key), len(value), 0) + key + value


@pytest.mark.parametrize(("command", "status"), [
    (b"", Status.REJECTED),
    (b"\x0b", Status.REJECTED),
    (b"\x09", Status.REJECTED),
    (struct.pack("<BBHIQ", 5, 1, 0, 0, 1), Status.REJECTED),
    (struct.pack("<BBHIQ", 10, 0, 0, 0, 1), Status.REJECTED),
    (struct.pack("<BBHIQ", 6, 0, 0, 0, 1), Status.REJECTED),
    (struct.pack("<BBHIIQQ", 3, 8, 0, 1, 0, 0, 0) + bytes(48) + b"k", Status.REJECTED),
    (struct.pack("<BBHIIQQ", 3, 8, 0, 1, 0, 0, 0) + bytes(40) + b"\5" + bytes(7) + b"k", Status.REJECTED),
    (struct.pack("<BBHIIQQ", 3, 8, 0, 1, 0, 0, 0) + bytes(41) + b"\3" + bytes(6) + b"k", Status.REJECTED),
    (struct.pack("<BBHIIQQ", 3, 8, 0, 1, 0, 0, 0) + b"\1" + bytes(46) + b"\1" + b"k", Status.REJECTED),
    (struct.pack("<BBHIIQ", 1, 2, 0, 1, 1, 0) + b"kv", Status.REJECTED),
    (struct.pack("<BBHIIQ", 1, 4, 0, 1, 1, 3) + b"kv", Status.REJECTED),
    (struct.pack("<BBHIIQ", 1, 8, 0, 1, 1, 0) + b"kv", Status.REJECTED),
    (raw_put(b"", b"v"), Status.REJECTED),
    (raw_put(b"k", b"v") + b"\0", Status.REJECTED),
    (raw_put(b"k", b"v")[:-1], Status.REJECTED),
    (raw_put(b"k" * (32 * 1024 + 1), b"v"), Status.TOO_LARGE),
    (raw_put(b"k", bytes(MIB + 1)), Status.TOO_LARGE),
    (struct.pack("<BBHII", 2, 0, 0, 1, 32 * 1024 + 1) + bytes(32 * 1024 + 2), Status.TOO_LARGE),
    (struct.pack("<BBHII", 2, 2, 0, 1, 0) + b"k", Status.REJECTED),
    (struct.pack("<BBHII", 2, 0, 1, 1, 0) + b"k", Status.REJECTED),
    (struct.pack("<BBHHH", 4, 0, 0, 129, 0), Status.TOO_LARGE),
    (struct.pack("<BBHHH", 4, 0, 0, 2, 0) + 2 * (struct.pack("<I", 10) + struct.pack("<BBHHH2x", 4, 0, 0, 0, 0)),
     Status.REJECTED),
    (struct.pack("<BBHHH", 4, 0, 1, 0, 0) + struct.pack("<BBHII", 5, 0, 0, 1, 8) + b"k" + bytes(8), Status.REJECTED),
    (struct.pack("<BBHHH", 4, 0, 1, 0, 0) + struct.pack("<BBHII", 0, 0, 0, 1, 7) + b"k" + bytes(7), Status.REJECTED),
    (struct.pack("<BBHHH", 4, 0, 1, 0, 0) + struct.pack("<BBHII", 0, 0, 0, 0, 8) + bytes(8), Status.REJECTED),
])
def test_bad_commands(command, status):
    driver = Driver()
    reply = driver.raw(command)
    assert reply.status is status
    assert reply.body.decode()  # a reason, in words
    assert driver.store.query(command)[0] == status
    assert (driver.store.revision, driver.store.keys) == (1, 0)


def test_the_largest_of_everything():
    driver = Driver()
    largest = Put(b"k" * limits.MAX_KEY_BYTES, bytes(MIB), prev_kv=True)
    assert driver.run(largest).prev is None
    assert len(driver.run(largest).prev.value) == MIB
    page = driver.run(Range(b"k", ALL))
    assert (len(page.kvs), page.more) == (1, False)
    assert driver.run(DeleteRange(b"a", ALL, prev_kv=True)).prev == page.kvs
    ops = tuple(Put(b"%d" % n, b"") for n in range(limits.MAX_TXN_OPS))
    assert driver.run(Txn((Compare.version(b"x", "=", 0),) * limits.MAX_TXN_OPS, ops)).succeeded


def test_ranges_are_cut_at_a_page():
    driver = Driver()
    for n in range(5):
        driver.run(Put(b"k%d" % n, bytes(400_000)))
    page = driver.run(Range(b"k", ALL))
    assert ([kv.key for kv in page.kvs], page.more, page.count) == ([b"k0", b"k1"], True, 5)
    assert len(driver.dump()) == 5
    both = driver.run(Txn((), (Range(b"k3"), Range(b"k1", ALL), Range(b"k0", keys_only=True))))
    assert [(len(part.kvs), part.more) for part in both.responses] == [(1, False), (1, True), (1, False)]
    assert driver.run(DeleteRange(b"k", ALL, prev_kv=True)) is Status.TOO_LARGE
    many = Txn((), tuple(Put(b"k%d" % n, b"", prev_kv=True) for n in range(3)))
    assert driver.run(many) is Status.TOO_LARGE
    few = Txn((), (Range(b"k2", ALL), *(Put(b"k%d" % n, b"", prev_kv=True) for n in range(2)), Range(b"k3")))
    reply = driver.raw(encode(few))
    assert len(reply.body) <= limits.RANGE_PAGE_BYTES
    responses = decode(few, reply.revision, reply.body).responses
    assert [len(part.kvs) for part in (responses[0], responses[3])] == [0, 0]
    assert driver.run(DeleteRange(b"k", ALL)).deleted == 5


# ---------------------------------------------------------------- hostile bytes

@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_random_bytes_as_command(command):
    assert_refused_alike(command)


@given(st.integers(0, 2**32), st.data())
@settings(max_examples=300)
def test_mutated_commands(seed, data):
    command = bytearray(Program(random.Random(seed), Model()).command())
    for _ in range(data.draw(st.integers(1, 3))):
        command[data.draw(st.integers(0, len(command) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(command)))
    assert_refused_alike(bytes(command))
    assert_refused_alike(bytes(command[:cut]))


def assert_refused_alike(command):
    store, model = Store(1 << 40), Model()
    for record in (
        Record(Kind.OPEN_SESSION, S, 0, 0, b""),
        Record(Kind.COMMAND, S, 1, 0, encode(Put(b"a", b"1"))),
        Record(Kind.COMMAND, S, 2, 0, command),
    ):
        store.apply_bytes(encode_record(*record), store.applied + 1, 1)
        expected = model.apply(record)
    status, expected_status = store.query(command)[0], model.read(command)[0]
    assert status == expected_status or (status in MALFORMED and expected_status in MALFORMED)
    assert (store.revision, store.keys, store.bytes) == (model.revision, len(model.kvs), model.bytes)
    assert expected.status is not Status.OK or listing(store) == [model.kvs[key] for key in sorted(model.kvs)]


@given(st.binary(max_size=200), st.integers(0, 3))
def test_random_bytes_as_log(data, count):
    store = Store(1 << 40)
    try:
        store.apply_bytes(data, 1, count)
    except ValueError:
        assert store.applied <= count
    else:
        assert store.applied == count


def test_entries_come_in_order_and_whole():
    noop = encode_record(Kind.NOOP, bytes(16), 0, 0)
    store = Store(0)
    for first, data, count in ((2, noop, 1), (0, noop, 1), (1, noop + b"x", 1), (2, b"x" * 40, 1), (2, noop[:-1], 1)):
        with pytest.raises(ValueError, match="entr"):
            store.apply_bytes(data, first, count)
    assert store.applied == 1
    with pytest.raises(ValueError, match="addresses"):
        store.apply_bytes(noop, 2, 1, None, [])
    with pytest.raises(ValueError, match="address"):
        store.apply_bytes(noop, 2, 1, None, [b""])
    with pytest.raises(ValueError, match="16 bytes"):
        store.session(b"short")


def test_kinds_that_are_never_logged_do_nothing():
    driver = Driver()
    for kind in (Kind.READ, Kind.STALE_READ, Kind.KEEP_ALIVE):
        assert driver.apply(kind, S, 1, 1, PUT).status is Status.REJECTED
    assert (driver.store.revision, driver.store.session(S)[0]) == (1, 1)


# ---------------------------------------------------------------- ring, queue and stage

def staged(*records):
    """A stage holding these client requests, from client0, client1, ..."""
    slab, stage = wire.Slab(len(records)), wire.Stage(100)
    for n, record in enumerate(records):
        frame = wire.encode_frame(wire.KIND_REQUEST, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, encode_record(*record))
        slab.push(frame, b"client%d" % n)
    assert stage.collect(slab, 1, wire.Counters()) == []
    return stage, slab


def by_client(driver):
    driver.replies.flush(driver.outbox)
    return {
        addr: decode_replies(payload, frame.count)
        for datagram, addr in driver.outbox.drain()
        for frame, payload in wire.parse_datagram(datagram)
    }


def test_apply_from_the_ring_answers_who_waits():
    driver = Driver(sessions=())
    stage, _slab = staged(
        (Kind.OPEN_SESSION, S, 0, 0), (Kind.COMMAND, S, 1, 1, PUT), (Kind.COMMAND, S, 2, 1, PUT),
        (Kind.OPEN_SESSION, T, 0, 0),
    )
    entries, pending = ring.Ring(1 << 20, 64), ring.Pending(64)
    entries.reset(1)
    assert entries.append_staged(stage, 1, pending)
    pending.drop(4)
    driver.store.apply(entries, 1, 4, pending, driver.replies, 5)
    answers = by_client(driver)
    assert [(addr, reply.status, reply.seq, reply.revision) for addr, (reply,) in sorted(answers.items())] == [
        (b"client0", Status.OK, 0, 1), (b"client1", Status.OK, 1, 2), (b"client2", Status.OK, 2, 3),
    ]
    assert len(pending) == 0
    assert driver.store.expired(105, 100, 205) == sorted([(S, 3), (T, 1)])
    with pytest.raises(LookupError):
        driver.store.apply(entries, 5, 5)
    with pytest.raises(ValueError, match="follow"):
        driver.store.apply(entries, 1, 4)
    driver.store.apply(entries, 5, 4)


def test_reads_wait_for_their_id():
    driver = Driver()
    driver.run(Put(b"k", b"v"))
    queue = ring.ReadQueue(1 << 20)
    read, write = encode(Range(b"k")), encode(Put(b"k", b"w"))
    for read_id in (7, 8):
        stage, _slab = staged((Kind.READ, S, 10 + read_id, 0, read), (Kind.READ, S, 20 + read_id, 0, write))
        assert queue.enqueue(stage, read_id)
    driver.store.read(queue, 8, driver.replies, 0)
    assert len(queue) == 2
    answers = by_client(driver)
    (first,), (second,) = answers[b"client0"], answers[b"client1"]
    assert (first.status, first.kind, first.seq, first.revision) == (Status.OK, Kind.READ, 18, 2)
    assert decode(Range(b"k"), 2, first.body).kvs[0].value == b"v"
    assert (second.status, second.seq) == (Status.REJECTED, 28)
    driver.run(Put(b"k", b"new"))
    driver.store.read(queue, 7, driver.replies, 0)
    assert decode(Range(b"k"), 3, by_client(driver)[b"client0"][0].body).kvs[0].value == b"new"
    assert len(queue) == 0
    assert driver.store.executed == 2


def test_stale_reads():
    driver = Driver()
    driver.run(Put(b"k", b"v"))
    txn = Txn((Compare.version(b"k", "=", 1),), (Range(b"k"),), (Range(b"x"),))
    stage, _slab = staged(
        (Kind.STALE_READ, bytes(16), 1, 0, encode(txn)), (Kind.STALE_READ, bytes(16), 2, 0, b"junk"),
        (Kind.STALE_READ, bytes(16), 3, 0, encode(Txn((), (), (DeleteRange(b"k"),)))),
    )
    driver.store.read_stale(stage, driver.replies)
    answers = by_client(driver)
    (reply,) = answers[b"client0"]
    assert decode(txn, reply.revision, reply.body).responses[0].kvs[0].value == b"v"
    assert [answers[b"client%d" % n][0].status for n in (1, 2)] == [Status.REJECTED] * 2
    assert driver.store.keys == 1


def test_a_read_whose_answer_may_have_no_room_is_not_executed():
    driver = Driver()
    driver.run(Put(b"large", bytes(MIB)))
    driver.run(Put(b"small", b"v"))
    driver.run(LeaseGrant(1000, 7))
    large = [(Kind.READ, S, seq, 0, encode(Range(b"large"))) for seq in range(90)]
    small = (Kind.READ, S, 100, 0, encode(Range(b"small")))
    touches = (Kind.READ, S, 101, 0, encode(LeaseKeepAlive(7))), (Kind.KEEP_ALIVE, S, 102, 0)
    stage, _slab = staged(*large, small, *touches)
    queue = ring.ReadQueue(1 << 20)
    assert queue.enqueue(stage, 1)
    driver.store.read(queue, 1, driver.replies, 9 * limits.SECOND)
    assert len(queue) == 0
    # Of 4 MiB the fourth page would find less than one left. So might the small one, for all that is known before it
    # is executed; only keep-alives are surely short.
    assert driver.replies.overflow == 88
    assert [reply.seq for reply in driver.answers()] == [0, 1, 2, 101, 102]
    assert driver.store.leases_due(10 * limits.SECOND - 1, 0) == []
    stage, _slab = staged(small, *((Kind.STALE_READ, *each) for _, *each in large))
    assert queue.enqueue(stage, 2)
    driver.store.read(queue, 2, driver.replies, 9 * limits.SECOND)
    driver.store.read_stale(stage, driver.replies)
    assert driver.replies.overflow == 88 + 87
    assert [reply.seq for reply in driver.answers()] == [0, 1, 2, 100]


def test_a_read_that_is_alone_has_all_the_room_there_is():
    driver = Driver()
    driver.run(Put(b"large", bytes(MIB)))
    driver.replies = wire.Replies(MIB + 200)
    queue = ring.ReadQueue(1 << 20)
    for read_id in (1, 2):
        stage, _slab = staged((Kind.READ, S, read_id, 0, encode(Range(b"large"))))
        assert queue.enqueue(stage, read_id)
        driver.store.read(queue, read_id, driver.replies, 0)
        assert [reply.seq for reply in driver.answers()] == [read_id]
    assert driver.replies.overflow == 0


def keep_alive(driver, now, *sessions):
    """Statuses of keep-alives for these sessions, as a leader answers them at `now`."""
    queue = ring.ReadQueue(1 << 20)
    stage, _slab = staged(*((Kind.KEEP_ALIVE, session, seq, 0) for seq, session in enumerate(sessions, 5)))
    assert queue.enqueue(stage, 1)
    driver.store.read(queue, 1, driver.replies, now)
    answers = by_client(driver)
    replies = [answers[b"client%d" % n][0] for n in range(len(sessions))]
    assert [(reply.kind, reply.seq) for reply in replies] == [(Kind.KEEP_ALIVE, n + 5) for n in range(len(sessions))]
    return [reply.status for reply in replies]


def test_keep_alives():
    driver = Driver(sessions=(S, T))
    before = driver.store.digest
    assert keep_alive(driver, 1000, S, b"?" * 16) == [Status.OK, Status.SESSION_EXPIRED]
    assert driver.store.expired(1050, 100, 1150) == [(T, 1)]
    assert driver.store.digest == before


def test_a_session_that_is_expiring_is_kept_alive_by_nobody_until_it_does_something_or_the_next_election():
    driver = Driver(sessions=(S, T))
    for session in (S, T, b"?" * 16):
        driver.store.session_expiring(session)
    driver.store.put_off(1000, 100)  # after a stall: the entries are still under way
    assert keep_alive(driver, 1000, S, T) == [Status.OVERLOADED] * 2  # they may live on, nobody knows
    driver.apply(Kind.COMMAND, S, 1, 1, PUT)
    assert keep_alive(driver, 1000, S, T) == [Status.OK, Status.OVERLOADED]
    driver.store.rearm(2000)
    assert keep_alive(driver, 2000, S, T) == [Status.OK] * 2


# ---------------------------------------------------------------- numbers

@pytest.mark.parametrize("name", [
    "MAX_KEY_BYTES", "MAX_VALUE_BYTES", "MAX_TXN_OPS", "RANGE_PAGE_BYTES", "SESSION_WINDOW_OPS", "SESSION_WINDOW_BYTES",
    "ALL_SESSIONS_BYTES", "ALL_SESSIONS_OPS",
    "DIGEST_EVERY", "MAX_TXN_DEPTH", "MAX_TXN_TOTAL", "RULES_VERSION", "MAX_LOOKS", "MAX_LEASES", "MIN_LEASE_TTL_MS",
    "MAX_LEASE_TTL_MS",
])
def test_limits_agree_with_the_native_side(name):
    assert getattr(native, name) == getattr(limits, name)


def test_the_model_has_the_same_constants():
    assert mvcc_model.KEY_OVERHEAD == native.KEY_OVERHEAD_BYTES
    assert mvcc_model.VERSION_OVERHEAD == native.VERSION_OVERHEAD_BYTES
    assert mvcc_model.RECLAIMED_PER_ENTRY == native.RECLAIMED_PER_ENTRY
    assert mvcc_model.RECLAIM_COSTS == native.RECLAIM_COSTS
    assert kv_model.ENDED_KEPT == native.ENDED_SESSIONS_KEPT


def test_the_factory():
    store = statemachine.KeyValue(quota_bytes=77, session_limit=1)
    assert (store.applied, store.revision, store.digest) == (0, 1, 0)
    assert isinstance(store, Store)
    assert store.quota_bytes == 77
