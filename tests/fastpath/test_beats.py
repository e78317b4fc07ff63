"""Heartbeats taken off a slab, against reference.py: what is taken is genuine, all else is left as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumd.consensus.messages import Heartbeat, HeartbeatReply
from quorumd_fastpath import reference, wire
from quorumd_fastpath.beats import Beats

NODE, INCARNATION, CLUSTER, TERM, LIMIT = 1, 77, 0xC1C1, 5, 1 << 62
KNOWN = {2: 100, 3: 200, 4: 0}
GENUINE = {
    "kind": 20, "cluster": CLUSTER, "sender": 2, "receiver": NODE, "sender_incarnation": 100,
    "receiver_incarnation": INCARNATION, "term": TERM, "index": 9, "commit": 7,
}
# One field of a genuine heartbeat changed to each of these leaves it for the general path.
WRONG = {
    "kind": [19, 21, 22, 4, 70], "cluster": [0, CLUSTER + 1], "sender": [0, 1, 3, 4, 9], "receiver": [0, 2],
    "sender_incarnation": [0, 99, 101, 200], "receiver_incarnation": [0, 76, 78], "term": [0, 4, 6, LIMIT],
    "index": [LIMIT, (1 << 64) - 1], "commit": [LIMIT, (1 << 64) - 1], "reserved": [1], "group": [1],
}
BODIES = {20: 16, 21: 24}


def take(datagrams):
    """Beats.take on a slab of `datagrams`, and what the reference makes of them; the slab keeps its bytes."""
    slab = wire.Slab(max(len(datagrams), 1), 4096)
    for datagram in datagrams:
        assert slab.push(datagram, b"a" * 16)
    beats = Beats(NODE, INCARNATION, LIMIT, Heartbeat, HeartbeatReply)
    for node, incarnation in KNOWN.items():
        beats.know(node, incarnation)
    taken = beats.take(slab, CLUSTER, TERM)
    assert [bytes(slab.view(i)) for i in range(len(slab))] == datagrams
    assert taken == reference.take_beats(datagrams, NODE, INCARNATION, KNOWN, LIMIT, CLUSTER, TERM)
    return taken


def frame(payload=bytes(range(16)), **fields):
    return reference.encode_frame(reference.Header(**{**GENUINE, **fields}), payload)


def test_a_heartbeat_and_an_answer_are_taken_whatever_their_flags():
    digest = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    answer = frame(bytes(8) + bytes(range(16)), kind=21, sender=3, sender_incarnation=200, flags=256, count=3)
    beats, others = take([frame(), answer])
    assert beats == [
        (Heartbeat(sender=2, to=NODE, term=TERM, commit=7, round=9), None, *digest),
        (HeartbeatReply(sender=3, to=NODE, term=TERM, round=9, last=7), True, *digest),
    ]
    assert [type(message) for message, *_ in beats] == [Heartbeat, HeartbeatReply]
    assert others == []


def test_messages_are_tuples():
    with pytest.raises(TypeError):
        Beats(NODE, INCARNATION, LIMIT, Heartbeat, list)


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_one_doubtful_field_leaves_a_frame_to_the_general_path(field, value):
    assert take([frame(**{field: value}), frame()])[1] == [0]


@pytest.mark.parametrize(
    "damaged", [b"", frame()[:-1], frame() + b"\0", frame() * 2, frame(bytes(24)), frame(bytes(8))]
)
def test_what_is_not_one_whole_frame_is_left(damaged):
    assert take([damaged]) == ([], [0])


def test_a_flipped_bit_is_never_taken():
    sound = frame()
    for bit in range(len(sound) * 8):
        flipped = bytearray(sound)
        flipped[bit // 8] ^= 1 << bit % 8
        assert take([bytes(flipped)]) == ([], [0])


@st.composite
def datagrams(draw):
    """Near a beat: up to two of its fields are changed, its body may be of the wrong length, bytes may be damaged."""
    fields = dict(GENUINE, kind=draw(st.sampled_from([20, 21])), flags=draw(st.integers(0, 65535)))
    for field in draw(st.sets(st.sampled_from(sorted(WRONG)), max_size=2)):
        fields[field] = draw(st.sampled_from([*WRONG[field], GENUINE.get(field, 0)]))
    size = draw(st.sampled_from([BODIES.get(fields["kind"], 16)] * 6 + [0, 8, 16, 24, 25]))
    data = frame(draw(st.binary(min_size=size, max_size=size)), **fields)
    fault = draw(st.sampled_from(["none"] * 5 + ["cut", "more", "twice"]))
    return {"none": data, "cut": data[:-1], "more": data + b"\0", "twice": data * 2}[fault]


@given(st.lists(st.one_of(datagrams(), st.binary(max_size=200)), max_size=8))
def test_any_slab_is_judged_as_by_the_reference(found):
    beats, others = take(found)
    assert len(beats) + len(others) == len(found)


def test_a_newer_life_replaces_the_older_one():
    slab = wire.Slab(2, 4096)
    slab.push(frame(), b"a")
    slab.push(frame(sender_incarnation=101), b"a")
    beats = Beats(NODE, INCARNATION, LIMIT, Heartbeat, HeartbeatReply)
    assert beats.take(slab, CLUSTER, TERM) == ([], [0, 1])
    beats.know(2, 100)
    assert beats.take(slab, CLUSTER, TERM)[1] == [1]
    beats.know(2, 101)
    assert beats.take(slab, CLUSTER, TERM)[1] == [0]
    beats.know(2, 0)
    assert beats.take(slab, CLUSTER, TERM)[1] == [0, 1]
