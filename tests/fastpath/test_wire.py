"""Frames, slabs and outboxes against reference.py: the same bytes out, the same verdict on any bytes in."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumd import limits
from quorumd_fastpath import reference, wire

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
CLUSTER = 0x1122334455667788
ADDRS = [b"a" * 16, b"b" * 16, b"c" * 28, b"d"]
addresses = st.sampled_from(ADDRS)
kinds = st.sampled_from(sorted(reference.FRAME_KINDS))
payloads = st.binary(max_size=300)


@st.composite
def headers(draw, kind=kinds, cluster=U64):
    numbers = {"sender": U16, "receiver": U16, "flags": U16, "count": U32}
    numbers |= dict.fromkeys(("sender_incarnation", "receiver_incarnation", "term", "index", "commit"), U64)
    return reference.Header(
        kind=draw(kind), cluster=draw(cluster), **{name: draw(value) for name, value in numbers.items()}
    )


def encode(header: reference.Header, payload: bytes) -> bytes:
    return wire.encode_frame(
        header.kind,
        header.flags,
        header.cluster,
        header.sender,
        header.receiver,
        header.sender_incarnation,
        header.receiver_incarnation,
        header.term,
        header.index,
        header.commit,
        header.count,
        payload,
    )


def as_reference(frame: wire.Frame, payload: bytes) -> reference.ParsedFrame:
    assert frame.payload_length == len(payload)
    fields = frame._asdict()
    offset = fields.pop("payload_offset")
    del fields["payload_length"]
    return reference.ParsedFrame(reference.Header(**fields), offset, payload)


def drops_of(counters: wire.Counters) -> dict[str, int]:
    return {reason: count for reason, count in counters.as_dict().items() if count}


def expect_same_verdict(data: bytes) -> list[reference.ParsedFrame]:
    """parse_datagram and parse_frames on `data` agree with the reference; returns its frames."""
    frames, drops = reference.parse_datagram(data)
    counters = wire.Counters()
    assert [as_reference(frame, payload) for frame, payload in wire.parse_datagram(data, counters)] == frames
    assert drops_of(counters) == drops
    slab, counters = wire.Slab(3, 65536), wire.Counters()
    slab.push(b"before", ADDRS[1])
    assert slab.push(data, ADDRS[0])
    slab.push(b"behind", ADDRS[1])
    parsed = [
        as_reference(frame, bytes(slab.view(1)[frame.payload_offset : frame.payload_offset + frame.payload_length]))
        for frame in wire.parse_frames(slab, 1, counters)
    ]
    assert parsed == frames
    assert drops_of(counters) == drops
    return frames


# ---------------------------------------------------------------- frames


def test_sizes_and_limits_agree():
    assert wire.HEADER_BYTES == limits.HEADER_BYTES == reference.HEADER.size
    assert wire.ENTRY_HEADER_BYTES == limits.ENTRY_HEADER_BYTES == reference.ENTRY.size
    assert wire.REPLY_HEADER_BYTES == limits.REPLY_HEADER_BYTES == reference.REPLY.size
    assert wire.MAX_ENTRY_BYTES == limits.MAX_ENTRY_BYTES == reference.MAX_ENTRY_BYTES
    assert wire.MAGIC == reference.MAGIC
    assert wire.WIRE_VERSION == reference.VERSION
    kinds = {value for name, value in vars(wire).items() if name.startswith("KIND_")}
    assert kinds == reference.FRAME_KINDS


def test_format_version_2_is_these_bytes():
    frame = encode(reference.Header(18, 0x0102, CLUSTER, 3, 4, 5, 6, 7, 8, 9, 10), b"payload")
    assert frame.hex() == (
        "51524d4402120201887766554433221100000000030004000500000000000000"
        "0600000000000000070000000000000008000000000000000900000000000000"
        "0a00000007000000cf85b6d2000000007061796c6f6164"
    )


@given(header=headers(), payload=payloads)
def test_encoders_write_the_same_bytes(header, payload):
    frame = encode(header, payload)
    assert frame == reference.encode_frame(header, payload)
    assert reference.parse_datagram(frame)[0] == [reference.ParsedFrame(header, 80, payload)]


def test_encode_refuses_what_does_not_fit():
    fields = [20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    for position, bits in enumerate((8, 16, 64, 16, 16, 64, 64, 64, 64, 64, 32)):
        with pytest.raises(OverflowError):
            wire.encode_frame(*fields[:position], 1 << bits, *fields[position + 1 :])
    with pytest.raises(TypeError):
        wire.encode_frame(*fields, "text")


@given(frames=st.lists(st.tuples(headers(), payloads), max_size=5))
def test_a_datagram_of_frames_is_read_back(frames):
    data = b"".join(reference.encode_frame(header, payload) for header, payload in frames)
    assert [(frame.header, frame.payload) for frame in expect_same_verdict(data)] == frames


@given(data=st.binary(max_size=400))
def test_random_bytes(data):
    expect_same_verdict(data)
    expect_same_verdict(struct.pack("<IB", reference.MAGIC, reference.VERSION) + data)


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """`data` with a few bytes changed, cut out or put in."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        middle = draw(st.one_of(st.binary(min_size=1, max_size=1), st.binary(max_size=8)))
        data = data[:at] + middle + data[at + draw(st.integers(0, 4)) :]
    return data


@given(data=st.data(), frames=st.lists(st.tuples(headers(), st.binary(max_size=60)), min_size=1, max_size=3))
def test_damaged_frames(data, frames):
    sound = b"".join(reference.encode_frame(header, payload) for header, payload in frames)
    expect_same_verdict(data.draw(damaged(sound)))


@given(
    frames=st.lists(
        st.tuples(st.integers(0, 255), st.sampled_from([0, 0, 1]), st.sampled_from([0, 0, 1 << 31]), payloads),
        max_size=4,
    )
)
def test_frames_for_later_versions_are_stepped_over(frames):
    data = b"".join(
        reference.encode_frame(reference.Header(kind, group=group, reserved=reserved), payload)
        for kind, group, reserved, payload in frames
    )
    expected = [
        payload
        for kind, group, reserved, payload in frames
        if kind in reference.FRAME_KINDS and not group and not reserved
    ]
    assert [frame.payload for frame in expect_same_verdict(data)] == expected


def test_every_single_bit_flip_is_noticed():
    frame = encode(reference.Header(20, term=5, index=9), b"payload")
    for bit in range(8 * len(frame)):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        assert wire.parse_datagram(bytes(flipped)) == []


# ---------------------------------------------------------------- counters, slab


def test_counters():
    counters = wire.Counters()
    assert list(counters.as_dict()) == list(wire.REASONS)
    assert len(wire.REASONS) == wire.DROP_REASONS - 1
    for reason, name in enumerate(wire.REASONS, 1):
        assert getattr(wire, f"DROP_{name.upper()}") == reason
        counters.increment(reason, reason)
    assert list(counters.as_dict().values()) == list(range(1, wire.DROP_REASONS))
    for reason in (wire.DROP_NONE, wire.DROP_REASONS, -1):
        with pytest.raises(IndexError):
            counters.increment(reason)


def test_slab_holds_what_was_pushed():
    slab = wire.Slab(2, 10)
    assert slab.push(b"0123456789", ADDRS[0])
    assert not slab.push(b"0123456789A", ADDRS[0])
    assert slab.push(bytearray(b""), ADDRS[2])
    assert not slab.push(b"full", ADDRS[0])
    assert (len(slab), bytes(slab.view(0)), slab.addr(1), len(slab.view(1))) == (2, b"0123456789", ADDRS[2], 0)
    slab.shrink(0, 4)
    assert bytes(slab.view(0)) == b"012345"
    slab.shrink(0, 99)
    assert bytes(slab.view(0)) == b""
    slab.clear()
    assert len(slab) == 0 and slab.push(b"again", ADDRS[3])
    slab.drop(0)
    assert bytes(slab.view(0)) == b""


def test_slab_refuses_misuse():
    slab = wire.Slab(2, 10)
    slab.push(b"x", ADDRS[0])
    for slot in (-1, 1, 2):
        for call in (
            slab.view,
            slab.addr,
            slab.drop,
            lambda slot: slab.shrink(slot, 1),
            lambda slot: wire.parse_frames(slab, slot, wire.Counters()),
        ):
            with pytest.raises(IndexError):
                call(slot)
    for addr in (b"", b"x" * 29):
        with pytest.raises(ValueError, match="1 to 28 bytes"):
            slab.push(b"x", addr)
    with pytest.raises(TypeError):
        slab.view(0)[0] = 1  # read-only
    for slots, size in ((0, 10), (10, 0)):
        with pytest.raises(ValueError, match="at least one"):
            wire.Slab(slots, size)


def test_a_view_outlives_its_slab():
    slab = wire.Slab(1, 1 << 16)
    slab.push(b"still here", ADDRS[0])
    view = slab.view(0)
    del slab
    assert bytes(view) == b"still here"


# ---------------------------------------------------------------- outbox

outgoing = st.lists(st.tuples(addresses, headers(cluster=st.just(CLUSTER)), st.binary(max_size=120)), max_size=12)


def send(outbox: wire.Outbox, addr: bytes, header: reference.Header, payload: bytes) -> bool:
    return outbox.frame(
        addr,
        header.kind,
        header.flags,
        header.receiver,
        header.receiver_incarnation,
        header.term,
        header.index,
        header.commit,
        header.count,
        payload,
    )


@given(frames=outgoing, mtu=st.integers(80, 600), tail=st.sampled_from([0, 16]))
def test_outbox_joins_like_the_reference(frames, mtu, tail):
    outbox = wire.Outbox(64, 1 << 16, mtu + tail)
    outbox.set_tail_room(tail)
    outbox.identify(CLUSTER, 7, 8)
    taken = []
    for addr, header, payload in frames:
        mine = reference.Header(
            **{**{name: getattr(header, name) for name in header.__slots__}, "sender": 7, "sender_incarnation": 8}
        )
        fits = 80 + len(payload) <= mtu
        assert send(outbox, addr, header, payload) is fits
        if fits:
            taken.append((addr, reference.encode_frame(mine, payload)))
    assert outbox.overflow == len(frames) - len(taken)
    joined = reference.join_frames(taken, mtu)
    assert [(outbox.addr(i), outbox.datagram(i)) for i in range(len(outbox))] == joined
    for i in range(len(outbox)):
        outbox.append_tail(i, bytes([i]) * tail)
    assert outbox.drain() == [(data + bytes([i]) * tail, addr) for i, (addr, data) in enumerate(joined)]
    assert len(outbox) == 0 and outbox.drain() == []


def test_a_full_outbox_refuses_and_counts():
    outbox = wire.Outbox(2, 1 << 16, 1000)
    header = reference.Header(20)
    assert send(outbox, ADDRS[0], header, b"") and send(outbox, ADDRS[1], header, b"")
    assert not send(outbox, ADDRS[0], header, b"")
    assert send(outbox, ADDRS[1], header, b"")  # joins the open datagram
    assert (len(outbox), outbox.overflow) == (2, 1)
    outbox.clear()
    assert send(outbox, ADDRS[0], header, b"")
    scarce = wire.Outbox(100, 300, 1000)
    assert [send(scarce, ADDRS[0], header, b"") for _ in range(5)] == [True] * 3 + [False] * 2
    assert len(scarce.datagram(0)) == 240


def test_a_frame_after_a_tail_opens_a_new_datagram():
    outbox = wire.Outbox(4, 1 << 12, 1000)
    outbox.set_tail_room(4)
    header = reference.Header(20)
    send(outbox, ADDRS[0], header, b"one")
    outbox.append_tail(0, b"TAIL")
    send(outbox, ADDRS[0], header, b"two")
    send(outbox, ADDRS[1], header, b"three")
    outbox.append_tail(1, b"more")
    first, second, third = (data for data, _ in outbox.drain())
    assert first.endswith(b"oneTAIL") and second.endswith(b"twomore") and third.endswith(b"three")


def test_outbox_refuses_misuse():
    outbox = wire.Outbox(4, 1 << 12, 200)
    with pytest.raises(ValueError, match="tail room"):
        outbox.set_tail_room(121)
    outbox.set_tail_room(4)
    assert (outbox.mtu, outbox.tail_room) == (200, 4)
    send(outbox, ADDRS[0], reference.Header(20), b"")
    with pytest.raises(ValueError, match="tail room"):
        outbox.set_tail_room(0)
    with pytest.raises(ValueError, match="fit the tail room"):
        outbox.append_tail(0, b"12345")
    outbox.append_tail(0, b"1234")
    with pytest.raises(ValueError, match="once"):
        outbox.append_tail(0, b"1234")
    for i in (-1, 1):
        for call in (outbox.datagram, outbox.addr, lambda i: outbox.append_tail(i, b"")):
            with pytest.raises(IndexError):
                call(i)
    with pytest.raises(ValueError, match="1 to 28 bytes"):
        outbox.frame(b"", 20, 0, 0, 0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="at least one"):
        wire.Outbox(0)
