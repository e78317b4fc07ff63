"""MACs on datagrams: whoever lacks the key is not even parsed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumd.auth import Mac
from quorumd.limits import MAC_BYTES
from quorumd_fastpath.wire import KIND_HEARTBEAT, Counters, Outbox, Slab, parse_frames

KEY = b"0123456789abcdef"
ADDRESS = b"\x02\x00\x1b\x59\x7f\x00\x00\x01" + bytes(8)


@given(st.binary(max_size=2000), st.binary(min_size=1, max_size=200))
def test_what_is_sealed_opens_to_itself(datagram, key):
    mac = Mac(key, b"peer")
    sealed = mac.seal(datagram)
    assert len(sealed) == len(datagram) + MAC_BYTES
    assert mac.verify(sealed) is (len(datagram) > 0)
    assert mac.open(sealed) == (datagram or None)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_one_flipped_bit_is_noticed(datagram, data):
    mac = Mac(KEY, b"client")
    sealed = bytearray(mac.seal(datagram))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    assert not mac.verify(sealed)
    assert not mac.verify(bytes(sealed[:-1]))
    assert not mac.verify(bytes(sealed) + b"\0")


@pytest.mark.parametrize("size", range(MAC_BYTES + 1))
def test_what_is_too_short_for_a_tag_is_refused(size):
    assert not Mac(KEY, b"peer").verify(bytes(size))


def test_planes_and_keys_do_not_understand_each_other():
    sealed = Mac(KEY, b"peer").seal(b"datagram")
    for other in (Mac(KEY, b"client"), Mac(KEY + b"x", b"peer"), Mac(KEY[:-1], b"peer")):
        assert not other.verify(sealed)


def test_an_empty_key_is_refused():
    with pytest.raises(ValueError, match="empty"):
        Mac(b"", b"peer")


def test_the_tag_is_of_the_parts_together():
    mac = Mac(KEY, b"peer")
    assert mac.tag(b"ab", memoryview(b"c"), bytearray()) == mac.tag(b"abc")


def test_outbox_to_slab():
    mac = Mac(KEY, b"peer")
    outbox = Outbox(mtu=1400)
    outbox.set_tail_room(MAC_BYTES)
    outbox.identify(7, 1, 99)
    for i in range(40):
        assert outbox.frame(ADDRESS, KIND_HEARTBEAT, 0, 2, 5, i, 0, 0, 0, bytes(50))
    mac.seal_outbox(outbox)
    slab, counters = Slab(), Counters()
    for datagram, address in outbox.drain():
        assert len(datagram) <= 1400
        slab.push(datagram, address)
    slab.push(Mac(b"stranger", b"peer").seal(bytes(100)), ADDRESS)
    slab.push(b"", ADDRESS)
    mac.check_slab(slab, counters)
    frames = [frame for slot in range(len(slab)) for frame in parse_frames(slab, slot, counters)]
    assert [frame.term for frame in frames] == list(range(40))
    assert counters.as_dict()["bad_mac"] == 2
    assert sum(counters.as_dict().values()) == 2
