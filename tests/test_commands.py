"""The Python codec of commands, records and replies alone; tests/fastpath/test_apply.py holds it against the C side."""

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumd import commands, limits
from quorumd.commands import (
    ALL,
    Compact,
    CompactResult,
    Compare,
    DeleteRange,
    DeleteResult,
    KeyValue,
    Kind,
    LeaseGrant,
    LeaseGrantResult,
    LeaseKeepAlive,
    LeaseKeepAliveResult,
    LeaseList,
    LeaseListResult,
    LeaseRevoke,
    LeaseRevokeResult,
    LeaseTimeToLive,
    LeaseTimeToLiveResult,
    Put,
    PutResult,
    Range,
    RangeResult,
    Record,
    Reply,
    Status,
    Txn,
    TxnResult,
    decode,
    decode_command,
    decode_records,
    decode_replies,
    encode,
    encode_record,
    encode_reply,
)
from quorumd.errors import ProtocolError, QuorumdError, Rejected, TooLarge
from quorumd_fastpath import wire
from quorumd_fastpath.ring import check_entries

U64 = st.integers(0, 2**64 - 1)
KEYS = st.binary(min_size=1, max_size=40)
ENDS = st.one_of(st.just(b""), st.just(ALL), KEYS)
SIMPLE = st.one_of(
    st.builds(Put, KEYS, st.binary(max_size=100), U64, st.booleans()),
    st.builds(Put, KEYS, st.just(b""), st.just(0), st.booleans(), st.booleans(), st.booleans()),
    st.builds(DeleteRange, KEYS, ENDS, st.booleans()),
    st.builds(Range, KEYS, ENDS, U64, st.booleans(), st.booleans(), U64),
    st.builds(
        Range, KEYS, ENDS, U64, st.booleans(), st.booleans(), U64,
        st.sampled_from(["key", "version", "create", "mod", "value"]), st.sampled_from(["none", "ascend", "descend"]),
        U64, U64, U64, U64, U64, st.booleans(),
    ),
)
RELATIONS = st.sampled_from(["=", ">", "<", "!="])
COMPARES = st.one_of(
    st.builds(Compare, KEYS, st.sampled_from(["version", "create", "mod", "lease"]), RELATIONS, U64, ENDS),
    st.builds(Compare.value, KEYS, RELATIONS, st.binary(max_size=50), ENDS),
)


def txns(of):
    branches = st.lists(of, max_size=4).map(tuple)
    return st.builds(Txn, st.lists(COMPARES, max_size=4).map(tuple), branches, branches)


TXNS = txns(st.one_of(SIMPLE, txns(st.one_of(SIMPLE, txns(SIMPLE)))))
LEASES = st.one_of(
    st.builds(LeaseGrant, st.integers(0, limits.MAX_LEASE_TTL_MS), U64), st.builds(LeaseRevoke, U64),
    st.builds(LeaseKeepAlive, U64), st.builds(LeaseTimeToLive, U64, st.booleans(), U64), st.just(LeaseList()),
)
OPS = st.one_of(SIMPLE, TXNS, st.builds(Compact, U64), LEASES)
SESSIONS = st.binary(min_size=16, max_size=16)
RECORDS = st.builds(Record, st.sampled_from(Kind), SESSIONS, U64, U64, st.binary(max_size=60))
REPLIES = st.builds(
    Reply, st.sampled_from(Status), st.sampled_from(Kind), U64, U64, U64, st.binary(max_size=60)
)


@given(OPS)
def test_commands_round_trip(op):
    assert decode_command(encode(op)) == op


@given(OPS, st.data())
def test_a_command_cut_short_or_too_long_is_no_command(op, data):
    encoded = encode(op)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(ProtocolError):
        decode_command(encoded[:cut])
    with pytest.raises(ProtocolError):
        decode_command(encoded + b"\0")


@given(st.lists(RECORDS, max_size=5))
def test_records_round_trip(records):
    data = b"".join(encode_record(*record) for record in records)
    assert decode_records(data) == records
    # Peers may only send what belongs into a log.
    logged = all(
        record.kind <= Kind.EXPIRE_SESSION or Kind.EXPIRE_LEASE <= record.kind <= Kind.RULES for record in records
    )
    assert check_entries(data, 0, len(data), len(records)) is logged


@given(st.lists(REPLIES, max_size=5))
def test_replies_round_trip(replies):
    payload = b"".join(map(encode_reply, replies))
    assert decode_replies(payload, len(replies)) == replies
    with pytest.raises(ProtocolError):
        decode_replies(payload, len(replies) + 1)
    with pytest.raises(ProtocolError):
        decode_replies(payload + b"\0", len(replies))


@given(REPLIES)
def test_replies_are_those_that_the_node_writes(reply):
    replies, outbox = wire.Replies(1 << 16), wire.Outbox(4, 1 << 16)
    assert replies.add(b"client", *reply)
    replies.flush(outbox)
    ((frame, payload),) = wire.parse_datagram(outbox.drain()[0][0])
    assert decode_replies(payload, frame.count) == [reply]


@given(st.binary(max_size=200), OPS, st.integers(0, 3))
def test_decoders_raise_nothing_but_protocol_errors(data, op, count):
    for decoder in (
        decode_command, decode_records, lambda data: decode_replies(data, count), lambda data: decode(op, 7, data),
    ):
        try:
            decoder(data)
        except ProtocolError:
            continue


@given(OPS, st.data())
def test_mutated_commands_raise_nothing_but_protocol_errors(op, data):
    encoded = bytearray(encode(op))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_command(bytes(encoded))
    except ProtocolError:
        return
    try:
        assert encode(decoded) == bytes(encoded)
    except (Rejected, TooLarge):  # a key became empty: understood, but not sent
        return


def kv_bytes(kv):
    numbers = (kv.create_revision, kv.mod_revision, kv.version, kv.lease, len(kv.key), len(kv.value))
    return struct.pack("<QQQQII", *numbers) + kv.key + kv.value


ONE = KeyValue(b"k", b"v", 2, 5, 3, 9)
RANGE_BODY = struct.pack("<QBI", 7, 1, 1) + kv_bytes(ONE)


def test_result_bodies():
    assert decode(Put(b"k", b""), 5, b"") == PutResult(5, None)
    assert decode(Put(b"k", b""), 5, kv_bytes(ONE)) == PutResult(5, ONE)
    body = struct.pack("<QI", 4, 1) + kv_bytes(ONE)
    assert decode(DeleteRange(b"k"), 6, body) == DeleteResult(6, 4, (ONE,))
    assert decode(Range(b"k"), 6, RANGE_BODY) == RangeResult(6, (ONE,), True, 7)
    txn = Txn((), (Put(b"a", b""),), (Range(b"k"), Put(b"k", b"")))
    body = struct.pack("<BI", 0, 2) + struct.pack("<BI", 3, len(RANGE_BODY)) + RANGE_BODY + struct.pack("<BI", 1, 0)
    inner = TxnResult(8, False, (RangeResult(8, (ONE,), True, 7), PutResult(8, None)))
    assert decode(txn, 8, body) == inner
    outer = Txn((), (txn, Put(b"b", b"")))
    body = struct.pack("<BIBI", 1, 2, 4, len(body)) + body + struct.pack("<BI", 1, 0)
    assert decode(outer, 8, body) == TxnResult(8, True, (inner, PutResult(8)))


def test_result_bodies_of_leases_and_compaction():
    assert decode(Compact(3), 5, b"") == CompactResult(5)
    assert decode(LeaseGrant(10, 3), 5, struct.pack("<QQ", 3, 1000)) == LeaseGrantResult(5, 3, 1000)
    assert decode(LeaseRevoke(3), 5, struct.pack("<Q", 2)) == LeaseRevokeResult(5, 2)
    assert decode(LeaseKeepAlive(3), 5, struct.pack("<Q", 1000)) == LeaseKeepAliveResult(5, 1000)
    body = struct.pack("<QQQBI", 1000, 900, 3, 1, 2) + struct.pack("<I1sI2s", 1, b"a", 2, b"bc")
    assert decode(LeaseTimeToLive(3, keys=True), 5, body) == LeaseTimeToLiveResult(5, 1000, 900, 3, (b"a", b"bc"), True)
    assert decode(LeaseList(), 5, struct.pack("<IQQ", 2, 3, 9)) == LeaseListResult(5, (3, 9))


@pytest.mark.parametrize(
    ("op", "body"),
    [
        (Put(b"k", b""), b"x"),
        (Put(b"k", b""), kv_bytes(ONE) + b"x"),
        (Range(b"k"), RANGE_BODY[:-1]),
        (Range(b"k"), struct.pack("<QBI", 7, 2, 0)),
        (DeleteRange(b"k"), b""),
        (Txn((), (Put(b"k", b""),)), struct.pack("<BI", 1, 0)),
        (Txn((), (Put(b"k", b""),)), struct.pack("<BI", 1, 1) + struct.pack("<BI", 3, 0)),
        (Txn((), (Put(b"k", b""),)), struct.pack("<BI", 1, 1) + struct.pack("<BI", 1, 1)),
        (Txn((), (Txn(),)), struct.pack("<BIBI", 1, 1, 4, 6) + struct.pack("<BI", 1, 0) + b"x"),
        (Compact(3), b"x"),
        (LeaseGrant(10), struct.pack("<Q", 3)),
        (LeaseTimeToLive(3), struct.pack("<QQQBI", 1, 1, 1, 2, 0)),
        (LeaseList(), struct.pack("<IQ", 2, 3)),
    ],
)
def test_bad_result_bodies(op, body):
    with pytest.raises(ProtocolError):
        decode(op, 1, body)


def nested(depth):
    """A put within `depth` transactions."""
    return Txn((), (nested(depth - 1) if depth > 1 else Put(b"k", b""),))


@pytest.mark.parametrize(
    ("op", "error"),
    [
        (Put(b"", b"v"), Rejected),
        (Range(b""), Rejected),
        (DeleteRange(b""), Rejected),
        (Put(b"k" * (limits.MAX_KEY_BYTES + 1), b""), TooLarge),
        (Put(b"k", bytes(limits.MAX_VALUE_BYTES + 1)), TooLarge),
        (Range(b"k", b"k" * (limits.MAX_KEY_BYTES + 1)), TooLarge),
        (Range(b"k", limit=-1), Rejected),
        (Range(b"k", skip=-1), Rejected),
        (Range(b"k", order="up"), Rejected),
        (Range(b"k", min_mod_revision=2**64), Rejected),
        (Put(b"k", b"v", ignore_value=True), Rejected),
        (Put(b"k", b"v", 3, ignore_lease=True), Rejected),
        (Compact(-1), Rejected),
        (LeaseGrant(limits.MAX_LEASE_TTL_MS + 1), TooLarge),
        (LeaseGrant(-1), Rejected),
        (Txn((Compare.version(b"k", "=", 3, b"k" * (limits.MAX_KEY_BYTES + 1)),)), TooLarge),
        (Txn((), (Txn((), (Put(b"", b""),)),)), Rejected),
        (Txn((), tuple(Txn((), (Range(b"k"),) * 16) for _ in range(64))), TooLarge),
        (nested(limits.MAX_TXN_DEPTH + 1), TooLarge),
        (Put(b"k", b"", lease=2**64), Rejected),
        (Txn((Compare(b"k", "value", "=", 3),)), Rejected),
        (Txn((Compare(b"k", "mod", "=", b"3"),)), Rejected),
        (Txn((Compare.version(b"", "=", 3),)), Rejected),
        (Txn((), (Put(b"k", b""),) * (limits.MAX_TXN_OPS + 1)), TooLarge),
        (Txn((), tuple(Put(b"%d" % i, bytes(limits.MAX_VALUE_BYTES)) for i in range(2))), TooLarge),
    ],
)
def test_what_no_node_would_take_is_not_sent(op, error):
    with pytest.raises(error):
        encode(op)


def test_the_largest_transactions_are_sent():
    assert decode_command(encode(nested(limits.MAX_TXN_DEPTH))) == nested(limits.MAX_TXN_DEPTH)
    many = Txn((), tuple(Txn((), (Range(b"k"),) * 15) for _ in range(64)))
    assert decode_command(encode(many)) == many


def test_the_largest_put_fits_a_record():
    command = encode(Put(b"k" * limits.MAX_KEY_BYTES, bytes(limits.MAX_VALUE_BYTES)))
    assert len(encode_record(Kind.COMMAND, bytes(16), 1, 1, command)) <= limits.MAX_ENTRY_BYTES


def test_a_record_above_the_limit_is_refused():
    with pytest.raises(TooLarge):
        encode_record(Kind.COMMAND, bytes(16), 1, 1, bytes(limits.MAX_ENTRY_BYTES))
    with pytest.raises(QuorumdError):
        encode_record(Kind.COMMAND, bytes(15), 1, 1)


def test_numbers_agree_with_the_wire():
    for kind in Kind:
        assert getattr(wire, f"ENTRY_{kind.name}") == kind
    for status in Status:
        assert getattr(wire, f"STATUS_{status.name}") == status
    assert len([name for name in dir(wire) if name.startswith("STATUS_")]) == len(Status)


def test_operations_are_values():
    for name in ("Put", "DeleteRange", "Range", "Compare", "Txn", "KeyValue", "PutResult", "TxnResult"):
        kind = getattr(commands, name)
        assert kind.__dataclass_params__.frozen
        assert dataclasses.is_dataclass(kind)
