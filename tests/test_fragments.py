"""Fragments: whole messages through a bad network, bounded memory whatever arrives."""

import heapq
import random
import struct
from itertools import count, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumd import fragments
from quorumd.fragments import MAX_FRAGMENTS, MAX_MESSAGE_BYTES, Fragment, Fragmenter, Reassembler, first_of
from quorumd.invariants import InvariantBroken
from quorumd.limits import (
    FRAGMENT_DEADLINE,
    FRAGMENT_RTO,
    FRAGMENT_SPAN,
    FRAGMENT_WINDOW,
    HEADER_BYTES,
    MAC_BYTES,
    MILLISECOND,
    MIN_MTU,
    NETWORK_MTU,
    SECOND,
)
from quorumd_fastpath import wire

KIND = wire.KIND_APPEND_ENTRIES


def message(size: int, seed: int = 0) -> bytes:
    """One encoded frame of `size` bytes."""
    payload = random.Random(seed).randbytes(size - HEADER_BYTES)
    return wire.encode_frame(KIND, 7, 1, 2, 3, 4, 5, 6, 7, 8, 9, payload)


def frame_of(fragment: Fragment) -> wire.Frame:
    """The frame that the fragment arrives in, through the real codec."""
    encoded = wire.encode_frame(
        fragments.KIND_FRAGMENT, 0, 1, 2, 3, 4, 5, fragment.message_id, fragment.number, fragment.total_bytes,
        fragment.total, fragment.payload,
    )
    return wire.parse_datagram(encoded)[0][0]


class Link:
    """One sender, one receiver, simulated time, and a network that loses, repeats and reorders."""

    def __init__(self, seed: int = 0, *, mtu: int = NETWORK_MTU, loss: float = 0, dup: float = 0, delay_ms: int = 1):
        self.random = random.Random(seed)
        self.now = SECOND
        self.sender: Fragmenter[str] = Fragmenter(mtu, first_id=1000)
        self.receiver: Reassembler[str] = Reassembler()
        self.loss, self.dup, self.delay_ms = loss, dup, delay_ms
        self.received: list[bytes] = []
        self.sent = 0
        self.longest = 0
        self._events: list = []
        self._order = count()

    def carry(self, what) -> None:
        for _ in range(2 if self.random.random() < self.dup else 1):
            if self.random.random() >= self.loss:
                at = self.now + self.random.randint(MILLISECOND // 10, self.delay_ms * MILLISECOND)
                heapq.heappush(self._events, (at, next(self._order), what))

    def run(self, duration: int) -> None:
        end = self.now + duration
        while self.now < end:
            for dest, fragment in self.sender.poll(self.now):
                self.sent += 1
                self.longest = max(self.longest, HEADER_BYTES + len(fragment.payload) + MAC_BYTES)
                self.carry(("there", dest, fragment))
            times = [self.sender.deadline(), self._events[0][0] if self._events else None, end]
            self.now = max(self.now + 1, min(at for at in times if at is not None))
            while self._events and self._events[0][0] <= self.now:
                self._arrive(heapq.heappop(self._events)[2])
            if not len(self.sender) and not self._events:
                return

    def _arrive(self, what) -> None:
        if what[0] == "back":
            assert self.sender.on_ack("peer", *what[1:], self.now)
            return
        fragment = what[2]
        bitmap, whole = self.receiver.on_fragment("me", frame_of(fragment), fragment.payload, self.now)
        if bitmap is not None:
            self.carry(("back", fragment.message_id, fragment.total, bitmap))
        if whole is not None:
            self.received.append(whole)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(HEADER_BYTES, 60_000), min_size=1, max_size=6),
    mtu=st.sampled_from([MIN_MTU, NETWORK_MTU, 9000, 65_000]),
    loss=st.sampled_from([0, 0.05, 0.3]),
    dup=st.sampled_from([0, 0.5]),
    delay_ms=st.sampled_from([1, 30, 100]),
)
def test_every_message_arrives_whole_and_once(seed, sizes, mtu, loss, dup, delay_ms):
    link = Link(seed, mtu=mtu, loss=loss, dup=dup, delay_ms=delay_ms)
    messages = [message(size, i) for i, size in enumerate(sizes)]
    for each in messages:
        assert link.sender.send("peer", each, link.now)
    link.run(3 * SECOND)
    link.loss = 0  # else the one acknowledgement that is missing may be lost as often as anybody likes to try
    link.run(1 * SECOND)
    assert sorted(link.received) == sorted(messages)
    assert link.longest <= mtu
    assert len(link.sender) == link.sender.bytes_waiting == 0
    assert len(link.receiver) == link.receiver.bytes_held == 0
    assert link.sender.deadline() is None
    assert link.receiver.malformed == link.receiver.refused == link.sender.expired == 0


def test_a_mebibyte_at_mtu_1400_with_loss_both_ways():
    link = Link(5, loss=0.05, delay_ms=1)
    link.sender.send("peer", message(1 << 20), link.now)
    started = link.now
    link.run(4 * SECOND)
    assert len(link.received) == 1
    assert link.now - started < 600 * MILLISECOND
    assert link.sent < 1.25 * (1 << 20) / link.sender.chunk_bytes


def test_only_what_is_missing_is_sent_again():
    link = Link()
    link.sender.send("peer", message(20_000), 0)
    first = link.sender.poll(0)
    missing = {3, 7}
    bitmap = b""
    for _, fragment in first:
        if fragment.number not in missing:
            bitmap, _ = link.receiver.on_fragment("me", frame_of(fragment), fragment.payload, 0)
    assert link.sender.on_ack("peer", 1000, len(first), bitmap, 1)
    assert link.sender.poll(FRAGMENT_RTO - 1) == []
    assert link.sender.deadline() == FRAGMENT_RTO
    assert {fragment.number for _, fragment in link.sender.poll(FRAGMENT_RTO)} == missing


def test_the_window_bounds_what_is_in_flight_per_destination():
    sender: Fragmenter[str] = Fragmenter(NETWORK_MTU)
    for dest in ("a", "b"):
        for _ in range(3):
            assert sender.send(dest, message(50_000), 0)
    out = sender.poll(0)
    assert len(out) == 2 * FRAGMENT_WINDOW
    assert sender.poll(0) == []
    (dest, first), *_ = out
    assert sender.on_ack(dest, first.message_id, first.total, b"\x07" + bytes((first.total - 1) // 8), 1)
    assert len(sender.poll(1)) == 3


def test_no_message_runs_further_ahead_of_one_that_is_held_up_than_a_window_of_numbers():
    sender: Fragmenter[str] = Fragmenter(MIN_MTU, first_id=0)
    small, begun = message(HEADER_BYTES + 10), set()

    def turn(acknowledged):
        while sender.send("peer", small, SECOND):
            pass
        for _, fragment in sender.poll(SECOND):
            begun.add(fragment.message_id)
        for number in sorted(begun & acknowledged):
            assert sender.on_ack("peer", number, 1, b"\x01", SECOND)

    for _ in range(20):
        turn(set(range(1, 10_000)))  # all but the first
    assert max(begun) == FRAGMENT_SPAN - 1
    turn({0})
    turn(set())
    assert max(begun) > FRAGMENT_SPAN


def test_a_slow_path_is_learned_and_not_flooded():
    link = Link(delay_ms=1)
    link.delay_ms = 150
    link.random.randint = lambda low, high: 150 * MILLISECOND
    link.sender.send("peer", message(60_000), link.now)
    link.run(4 * SECOND)
    assert len(link.received) == 1
    before = link.sent
    link.sender.send("peer", message(60_000, 1), link.now)
    link.run(4 * SECOND)
    assert len(link.received) == 2
    assert link.sent - before < 250  # 47 fragments; the lane was forgotten in between, so it learns anew


def test_a_path_that_becomes_slow_does_not_double_the_traffic():
    link = Link()
    link.sender.send("peer", message(1_000_000), link.now)
    link.run(5 * MILLISECOND)
    assert 100 < link.sent < 700
    link.random.randint = lambda low, high: 60 * MILLISECOND
    link.run(4 * SECOND)
    assert len(link.received) == 1
    assert link.sent < 1.4 * 1_000_000 / link.sender.chunk_bytes


def test_a_silent_destination_loses_its_queue_at_the_deadline():
    sender: Fragmenter[str] = Fragmenter(NETWORK_MTU)
    for _ in range(5):
        sender.send("dead", message(5000), 0)
    sender.send("alive", message(5000), 0)
    now = 0
    while now < FRAGMENT_DEADLINE:
        for dest, fragment in sender.poll(now):
            if dest == "alive":
                sender.on_ack(dest, fragment.message_id, fragment.total, b"\x0f", now)
        now = max(now + 1, sender.deadline() or FRAGMENT_DEADLINE)
    sender.poll(FRAGMENT_DEADLINE)
    assert sender.expired == 5
    assert len(sender) == sender.bytes_waiting == 0


def test_queues_are_bounded():
    sender: Fragmenter[str] = Fragmenter(NETWORK_MTU, queue_messages=2, queue_bytes=25_000)
    assert sender.send("a", message(10_000), 0)
    assert sender.send("a", message(10_000), 0)
    assert not sender.send("a", message(1000), 0)
    assert not sender.send("b", message(10_000), 0)
    assert sender.send("b", message(1000), 0)
    assert sender.refused == 2
    sender.forget("a")
    sender.forget("nobody")
    assert sender.bytes_waiting == 1000
    assert not sender.holds("a", 1)
    with pytest.raises(InvariantBroken):
        sender.send("a", bytes(MAX_MESSAGE_BYTES + 1), 0)


@pytest.mark.parametrize(
    ("message_id", "total", "bitmap", "sane"),
    [
        (1, 15, b"\x01\x00", True),
        (1, 15, b"\xff\x7f", True),
        (2, 15, b"\xff\x7f", True),  # done, or never was: late acknowledgements are normal
        (1, 14, b"\x01\x00", False),
        (1, 15, b"\x01", False),
        (1, 15, b"\x01\x00\x00", False),
        (1, 15, b"\xff\xff", False),  # a sixteenth of fifteen
        (1, 15, b"", False),
    ],
)
def test_hostile_acknowledgements(message_id, total, bitmap, sane):
    sender: Fragmenter[str] = Fragmenter(NETWORK_MTU)
    sender.send("peer", message(19_000), 0)
    assert len(sender.poll(0)) == 15
    assert sender.on_ack("peer", message_id, total, bitmap, 1) is sane
    assert sender.on_ack("stranger", message_id, total, bitmap, 1)
    assert len(sender) == (0 if bitmap == b"\xff\x7f" and message_id == 1 else 1)


def test_an_acknowledgement_of_what_was_never_sent_is_refused():
    sender: Fragmenter[str] = Fragmenter(NETWORK_MTU, window=2)
    sender.send("peer", message(19_000), 0)
    assert len(sender.poll(0)) == 2
    assert not sender.on_ack("peer", 1, 15, b"\x07\x00", 1)
    assert len(sender) == 1


def one(number=0, total=3, total_bytes=3000, *, message_id=9, size=1000, offset=None, kind=KIND, pad=0) -> tuple:
    """A hand-made fragment: (frame, payload)."""
    payload = struct.pack("<BBHI", kind, pad, 7, number * 1000 if offset is None else offset) + bytes(size)
    return frame_of(Fragment(message_id, number, total, total_bytes, payload)), payload


@pytest.mark.parametrize(
    "bad",
    [
        one(total=0),
        one(number=3),
        one(total=MAX_FRAGMENTS + 1),
        one(total_bytes=MAX_MESSAGE_BYTES + 1),
        one(total_bytes=HEADER_BYTES - 1),
        one(total=3, total_bytes=2**63),
        one(size=999),
        one(size=1001),
        one(offset=1),
        one(number=1, offset=0),
        one(pad=1),
        one(kind=fragments.KIND_FRAGMENT),
        one(kind=fragments.KIND_FRAGMENT_ACK),
        one(total=2000, total_bytes=1000, size=1),
        (one()[0], b""),
        (one()[0], b"\x12\0"),
    ],
)
def test_hostile_fragments_are_counted_and_hold_nothing(bad):
    receiver: Reassembler[str] = Reassembler()
    assert receiver.on_fragment("me", *bad, 0) == (None, None)
    assert receiver.malformed == 1
    assert receiver.bytes_held == len(receiver) == 0


def test_fragments_that_contradict_their_message():
    receiver: Reassembler[str] = Reassembler()
    assert receiver.on_fragment("me", *one(), 0) == (b"\x01", None)
    for bad in (one(1, total_bytes=2998, size=1000), one(1, kind=KIND + 1), one(1, 4, 4000)):
        assert receiver.on_fragment("me", *bad, 0) == (None, None)
    assert receiver.malformed == 3
    assert receiver.on_fragment("me", *one(1), 0) == (b"\x03", None)
    # Whole, but its own header is of another kind than its fragments said.
    assert receiver.on_fragment("me", *one(2), 0) == (None, None)
    assert receiver.bytes_held == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 5000), st.binary(max_size=1100)),
                max_size=30))
def test_no_bytes_raise_and_nothing_leaks(parts):
    receiver: Reassembler[int] = Reassembler(limit_bytes=20_000, limit_messages=4, max_message_bytes=5000)
    for i, (number, total, total_bytes, payload) in enumerate(parts):
        frame = frame_of(Fragment(i % 3, number, total, total_bytes, payload))
        receiver.on_fragment(i % 2, frame, payload, i)
        assert receiver.bytes_held <= 20_000
        assert len(receiver) <= 4
    receiver.expire(FRAGMENT_DEADLINE + len(parts))
    assert len(receiver) == receiver.bytes_held == 0


def test_reassembly_is_bounded_in_all_and_for_each_sender():
    receiver: Reassembler[str] = Reassembler(limit_bytes=12_000, limit_messages=5, max_message_bytes=3000)
    for message_id in range(2):
        taken, _ = receiver.on_fragment("greedy", *one(message_id=message_id), 0)
        assert (taken is not None) is (message_id < 1)  # a quarter of the whole for one sender
    for i in range(3):
        assert receiver.on_fragment(f"other{i}", *one(), 0)[0] is not None
    assert receiver.on_fragment("late", *one(), 0) == (None, None)
    assert receiver.refused == 2
    assert receiver.on_fragment("other1", *one(1), 0)[0] is not None  # what was admitted goes on
    receiver.forget("other1")
    assert receiver.on_fragment("late", *one(), 0)[0] is not None
    receiver.expire(FRAGMENT_DEADLINE)
    assert receiver.expired == 4
    assert receiver.bytes_held == 0


def test_a_whole_message_is_acknowledged_again_and_delivered_once():
    sender: Fragmenter[str] = Fragmenter(NETWORK_MTU)
    receiver: Reassembler[str] = Reassembler()
    whole = message(3000)
    sender.send("peer", whole, 0)
    parts = [fragment for _, fragment in sender.poll(0)]
    results = [receiver.on_fragment("me", frame_of(part), part.payload, 0) for part in (*parts, *parts)]
    assert [result[1] for result in results] == [None, None, whole, None, None, None]
    assert {result[0] for result in results[2:]} == {b"\x07"}
    receiver.forget("me")
    assert receiver.on_fragment("me", frame_of(parts[0]), parts[0].payload, 0) == (b"\x01", None)


def deliver(receiver: Reassembler[str], first_id: int, size: int, now: int) -> bytes | None:
    """What becomes of one message of a sender that begins at this id."""
    sender: Fragmenter[str] = Fragmenter(NETWORK_MTU, first_id=first_id)
    sender.send("peer", message(size), now)
    parts = [fragment for _, fragment in sender.poll(now)]
    return [receiver.on_fragment("me", frame_of(part), part.payload, now)[1] for part in parts][-1]


def test_an_id_that_comes_again_as_another_message_keeps_no_older_one_remembered():
    receiver: Reassembler[str] = Reassembler()
    for now in range(0, 10 * FRAGMENT_DEADLINE, SECOND):
        assert deliver(receiver, 1, 3000 if now // SECOND % 2 else 5000, now) is not None
        if now == 0:
            assert deliver(receiver, 2, 3000, now) is not None
            assert deliver(receiver, 2, 3000, now) is None  # a copy
    assert deliver(receiver, 2, 3000, now) is not None


@pytest.mark.parametrize("incarnation", [1, 1_750_000_000 * SECOND, (1 << 63) - 1001])
def test_lives_of_a_node_do_not_share_message_ids_however_close_their_incarnations(incarnation):
    begins = sorted(first_of(incarnation + life) ^ half for life in range(1000) for half in (0, 1 << 63))
    apart = [after - before for before, after in pairwise([*begins, begins[0] + (1 << 64)])]
    assert min(apart) > 1 << 48  # messages, of either kind
