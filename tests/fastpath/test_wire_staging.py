"""Client records staged from datagrams, and replies packed by address, against reference.py."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumd_fastpath import reference, wire

U64 = st.integers(0, (1 << 64) - 1)
CLUSTER = 0x1122334455667788
ADDRS = [b"a" * 16, b"b" * 16, b"c" * 28, b"d"]
addresses = st.sampled_from(ADDRS)

# Kinds and command lengths on both sides of what a client may send.
entries = st.builds(
    reference.Entry,
    kind=st.sampled_from([1, 1, 1, 2, 3, 5, 6, 7]),
    session_hi=U64,
    session_lo=U64,
    seq=U64,
    answered_below=U64,
    command=st.binary(max_size=30),
).map(lambda entry: entry if entry.kind in (1, 5, 6) else reference.Entry(entry.kind, 1, 2, entry.seq))
sound_entries = entries.filter(lambda entry: entry.kind != 1 or entry.command)
any_entries = st.one_of(entries, st.builds(reference.Entry, kind=st.integers(0, 9), command=st.binary(max_size=3)))


@st.composite
def request_payloads(draw, of=sound_entries):
    """(payload, count), some of them damaged."""
    records = [reference.encode_entry(entry) for entry in draw(st.lists(of, max_size=6))]
    payload, count = b"".join(records), len(records)
    fault = draw(st.sampled_from(["none"] * 6 + ["count", "cut", "more", "flags", "reserved", "length", "byte"]))
    if fault == "count":
        count = max(count + draw(st.sampled_from([-1, 1, 1 << 31])), 0)
    elif fault == "cut":
        payload = payload[: -draw(st.integers(1, 50))]
    elif fault == "more":
        payload += draw(st.binary(min_size=1, max_size=60))
    elif fault in ("flags", "reserved"):
        payload += reference.encode_entry(reference.Entry(1, command=b"x"), **{fault: 1})
        count += 1
    elif fault == "length":
        length = draw(st.sampled_from([0, 39, 41, 100, wire.MAX_ENTRY_BYTES, wire.MAX_ENTRY_BYTES + 1, 0xFFFFFFFF]))
        payload = struct.pack("<I", length) + payload[4:]
    elif fault == "byte" and payload:
        at = draw(st.integers(0, len(payload) - 1))
        payload = payload[:at] + draw(st.binary(min_size=1, max_size=1)) + payload[at + 1 :]
    return payload, count


@st.composite
def datagrams(draw):
    """(bytes, address): REQUEST frames, other frames, frames of another cluster, and sometimes rubbish."""
    data = b""
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from([66, 66, 66, 64, 68, 99]))
        cluster = draw(st.sampled_from([CLUSTER, CLUSTER, CLUSTER, 0, 1]))
        payload, count = draw(request_payloads(of=st.one_of(sound_entries, any_entries)))
        data += reference.encode_frame(reference.Header(kind, cluster=cluster, count=count), payload)
    return data + draw(st.sampled_from([b"", b"", b"", b"rubbish", bytes(100)])), draw(addresses)


CLASSES = ("writes", "reads", "stale", "overflow")


def staged(stage: wire.Stage) -> dict[str, list[tuple[bytes, bytes]]]:
    return {name: stage.records(which) for which, name in enumerate(CLASSES)}


def fill(stage: wire.Stage, *staged_entries: reference.Entry, addr: bytes = ADDRS[0]) -> None:
    payload = b"".join(map(reference.encode_entry, staged_entries))
    assert stage.collect_payload(payload, len(staged_entries), addr)


def answers(replies: wire.Replies) -> list[tuple[bytes, reference.Reply]]:
    """Everything that waits, flushed and decoded."""
    outbox = wire.Outbox()
    outbox.identify(CLUSTER, 1, 1)
    assert replies.flush(outbox) == []
    found = []
    for data, addr in outbox.drain():
        for frame in reference.parse_datagram(data)[0]:
            decoded = reference.decode_replies(frame.payload, frame.header.count)
            assert decoded is not None
            found += [(addr, reply) for reply in decoded]
    return found


# ---------------------------------------------------------------- staging


@given(arrived=st.lists(datagrams(), max_size=6), capacity=st.sampled_from([1, 3, 1000]))
def test_collect_agrees_with_the_reference(arrived, capacity):
    expected = reference.stage(arrived, CLUSTER, capacity)
    slab, counters, stage = wire.Slab(8, 1 << 16), wire.Counters(), wire.Stage(capacity)
    for data, addr in arrived:
        assert slab.push(data, addr)
    others = stage.collect(slab, CLUSTER, counters)
    assert [(slot, frame.kind, frame.payload_offset, frame.count) for slot, frame in others] == [
        (slot, frame.header.kind, frame.payload_offset, frame.header.count) for slot, frame in expected.others
    ]
    assert staged(stage) == {name: getattr(expected, name) for name in CLASSES}
    assert {reason: count for reason, count in counters.as_dict().items() if count} == expected.drops
    assert (stage.writes, stage.reads, stage.stale, stage.refused) == tuple(
        len(getattr(expected, name)) for name in CLASSES
    )
    assert stage.write_bytes == sum(len(record) for _, record in expected.writes)
    assert stage.read_bytes == sum(len(record) for _, record in expected.reads)
    stage.clear()
    assert not any(staged(stage).values())
    assert (stage.write_bytes, stage.read_bytes) == (0, 0)


def test_a_flood_of_other_frames_is_cut_off():
    assert wire.MAX_OTHER_FRAMES == reference.MAX_OTHER_FRAMES
    slab, counters, stage = wire.Slab(8, 1 << 16), wire.Counters(), wire.Stage(10)
    for _ in range(8):
        assert slab.push(wire.encode_frame(wire.KIND_STATUS, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) * 800, b"a")
    assert len(stage.collect(slab, CLUSTER, counters)) == wire.MAX_OTHER_FRAMES
    assert counters.as_dict()["overflow"] == 8 * 800 - wire.MAX_OTHER_FRAMES


@given(request=request_payloads(of=st.one_of(sound_entries, any_entries)))
def test_collect_payload_agrees_with_the_reference(request):
    payload, count = request
    expected = reference.request_records(payload, count)
    stage = wire.Stage()
    assert stage.collect_payload(payload, count, ADDRS[0]) is (expected is not None)
    assert sum(map(len, staged(stage).values())) == len(expected or [])


@given(data=st.binary(max_size=200), count=st.integers(0, 5))
def test_random_payloads(data, count):
    accepted = wire.Stage().collect_payload(data, count, ADDRS[0])
    assert accepted is (reference.request_records(data, count) is not None)


def test_the_largest_entry_and_one_byte_more():
    body = bytes(wire.MAX_ENTRY_BYTES - wire.ENTRY_HEADER_BYTES)
    for command, accepted in ((body, True), (body + b"x", False)):
        record = reference.encode_entry(reference.Entry(1, command=command))
        assert wire.Stage().collect_payload(record, 1, ADDRS[0]) is accepted


def test_kinds_that_clients_may_not_send():
    for kind in range(256):
        for command in (b"", b"x"):
            record = reference.encode_entry(reference.Entry(kind, command=command))
            allowed = (kind in (2, 3, 7) and not command) or (kind == 1 and bool(command)) or kind in (5, 6)
            assert wire.Stage().collect_payload(record, 1, ADDRS[0]) is allowed, (kind, command)


def test_a_stage_keeps_what_it_points_into():
    stage, counters = wire.Stage(), wire.Counters()
    slab = wire.Slab(1, 1 << 16)
    record = reference.encode_entry(reference.Entry(1, command=b"kept"))
    slab.push(reference.encode_frame(reference.Header(66, count=1), record), ADDRS[0])
    stage.collect(slab, 0, counters)
    del slab
    stage.collect_payload(bytes(bytearray(record)), 1, ADDRS[1])
    assert staged(stage)["writes"] == [(ADDRS[0], record), (ADDRS[1], record)]


def test_reject_answers_a_class_and_forgets_it():
    stage, replies = wire.Stage(2), wire.Replies()
    fill(stage, reference.Entry(1, 1, 2, 3, command=b"w"), reference.Entry(5, 0, 0, 4, command=b"r"))
    fill(stage, reference.Entry(7, 1, 2, 5), addr=ADDRS[1])
    stage.reject(wire.WRITES, replies, wire.STATUS_NOT_LEADER, 9, b"\x02\x00host:1")
    stage.reject(wire.OVERFLOW, replies, wire.STATUS_OVERLOADED)
    assert (stage.writes, stage.write_bytes, stage.reads, stage.refused) == (0, 0, 1, 0)
    assert answers(replies) == [
        (ADDRS[0], reference.Reply(1, 1, 2, 3, 9, b"\x02\x00host:1")),
        (ADDRS[1], reference.Reply(5, 7, 2, 5, 0)),
    ]
    stage.reject(wire.READS, replies, wire.STATUS_STOPPED)
    assert (stage.reads, stage.read_bytes) == (0, 0)
    with pytest.raises(IndexError):
        stage.reject(5, replies, 0)


@pytest.mark.parametrize("which, kind", [(wire.WRITES, 1), (wire.READS, 5)])
def test_reject_keeps_the_first_ones(which, kind):
    stage, replies = wire.Stage(), wire.Replies()
    entries = [reference.Entry(kind, 1, 2, seq, command=b"c" * seq) for seq in range(1, 5)]
    fill(stage, *entries)
    stage.reject(which, replies, wire.STATUS_OVERLOADED, 9, b"why", kept=3)
    assert [record for _, record in stage.records(which)] == [reference.encode_entry(entry) for entry in entries[:3]]
    assert (stage.write_bytes if which == wire.WRITES else stage.read_bytes) == 3 * 40 + 1 + 2 + 3
    assert answers(replies) == [(ADDRS[0], reference.Reply(5, kind, 2, 4, 9, b"why"))]
    stage.reject(which, replies, wire.STATUS_OVERLOADED, kept=4)  # fewer are there
    assert len(stage.records(which)) == 3 and not answers(replies)


def test_how_much_the_first_writes_are():
    stage = wire.Stage()
    fill(stage, *(reference.Entry(1, 1, 2, seq, command=b"c" * seq) for seq in range(1, 4)))
    assert [stage.write_bytes_of(count) for count in range(5)] == [0, 41, 83, 126, 126]


@given(staged_entries=st.lists(sound_entries, max_size=12))
def test_a_full_disk_lets_only_shrinking_writes_through(staged_entries):
    stage, replies = wire.Stage(), wire.Replies()
    fill(stage, *staged_entries)
    writes = [entry for entry in staged_entries if entry.kind in (1, 2, 3)]
    kept = [entry for entry in writes if reference.only_shrinks(entry)]
    assert stage.writes_only_shrink is (kept == writes)
    assert stage.filter_growing(replies, wire.STATUS_DISK_FULL, 7) == len(writes) - len(kept)
    assert [record for _, record in staged(stage)["writes"]] == [reference.encode_entry(entry) for entry in kept]
    assert stage.write_bytes == sum(40 + len(entry.command) for entry in kept)
    assert stage.writes_only_shrink
    assert [reply for _, reply in answers(replies)] == [
        reference.Reply(4, entry.kind, entry.session_lo, entry.seq, 7)
        for entry in writes
        if not reference.only_shrinks(entry)
    ]


def test_only_deletes_compaction_revocations_and_session_ends_shrink():
    for op in range(256):
        stage = wire.Stage()
        fill(stage, reference.Entry(1, command=bytes([op])), reference.Entry(3))
        assert stage.writes_only_shrink is (op in (2, 5, 7))


# ---------------------------------------------------------------- replies

replies_strategy = st.lists(
    st.tuples(
        addresses,
        st.builds(reference.Reply, st.integers(0, 255), st.integers(0, 255), U64, U64, U64, st.binary(max_size=90)),
    ),
    max_size=20,
)


def add(replies: wire.Replies, addr: bytes, reply: reference.Reply) -> bool:
    return replies.add(addr, reply.status, reply.kind, reply.session_lo, reply.seq, reply.revision, reply.body)


@given(waiting=replies_strategy, mtu=st.integers(112, 400), tail=st.sampled_from([0, 16]))
def test_flush_packs_like_the_reference(waiting, mtu, tail):
    outbox, replies = wire.Outbox(64, 1 << 16, mtu + tail), wire.Replies(1 << 16, 65000)
    outbox.set_tail_room(tail)
    outbox.identify(CLUSTER, 7, 8)
    for addr, reply in waiting:
        assert add(replies, addr, reply)
    assert len(replies) == len(waiting)
    records = [(addr, reference.encode_reply(reply)) for addr, reply in waiting]
    packed, too_large = reference.group_replies(records, mtu - 80)
    assert replies.flush(outbox, 3) == too_large
    header = {"kind": 67, "cluster": CLUSTER, "sender": 7, "sender_incarnation": 8, "receiver": 3}
    frames = []
    for addr, payload in packed:
        count = next(n for n in range(1, 21) if reference.decode_replies(payload, n) is not None)
        frames.append((addr, reference.encode_frame(reference.Header(count=count, **header), payload)))
    assert outbox.drain() == [(data, addr) for addr, data in reference.join_frames(frames, mtu)]
    assert len(replies) == 0 and replies.flush(outbox) == []


@given(waiting=replies_strategy, later=replies_strategy, datagrams_a_time=st.integers(1, 3))
def test_a_full_outbox_loses_no_reply(waiting, later, datagrams_a_time):
    outbox, replies = wire.Outbox(datagrams_a_time, 1 << 16, 250), wire.Replies(1 << 16, 65000)
    got: dict[bytes, list[reference.Reply]] = {}

    def flush():
        assert replies.flush(outbox) == []
        for data, addr in outbox.drain():
            for frame in reference.parse_datagram(data)[0]:
                got.setdefault(addr, []).extend(reference.decode_replies(frame.payload, frame.header.count) or [])

    for addr, reply in waiting:
        add(replies, addr, reply)
    flush()
    for addr, reply in later:
        add(replies, addr, reply)
    for _ in range(len(waiting) + len(later)):
        flush()
    assert len(replies) == 0
    assert outbox.overflow == replies.overflow == 0
    expected: dict[bytes, list[reference.Reply]] = {}
    for addr, reply in waiting + later:
        expected.setdefault(addr, []).append(reply)
    assert got == expected


def test_many_addresses_are_kept_apart():
    outbox, replies = wire.Outbox(8192, 8 << 20, 65000), wire.Replies()
    addrs = [struct.pack("<HHIQ", 2, i, 0x0100007F, 0) for i in range(5000)]
    for seq in (1, 2):
        for addr in addrs:
            replies.add(addr, 0, 1, 0, seq, 0, addr)
    assert replies.flush(outbox) == []
    drained = outbox.drain()
    assert [addr for _, addr in drained] == addrs
    for data, addr in drained:
        [frame] = reference.parse_datagram(data)[0]
        decoded = reference.decode_replies(frame.payload, frame.header.count)
        assert decoded is not None
        assert [(reply.seq, reply.body) for reply in decoded] == [(1, addr), (2, addr)]


def test_full_replies_refuse_and_count():
    replies = wire.Replies(100, 65000)
    reply = reference.Reply(0, 1, body=b"x" * 8)
    assert [add(replies, ADDRS[0], reply) for _ in range(4)] == [True, True, False, False]
    assert (len(replies), replies.overflow) == (2, 2)
    replies.clear()
    assert len(replies) == 0 and answers(replies) == []
    assert add(replies, ADDRS[1], reply)
    assert answers(replies) == [(ADDRS[1], reply)]
