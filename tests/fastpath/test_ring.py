"""The log ring against a list (reference_wal.RingModel), and what it sends and stages."""

import random
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from quorumd_fastpath import ring as ringmodule
from quorumd_fastpath import wire
from quorumd_fastpath.reference_wal import RingModel
from quorumd_fastpath.ring import Pending, ReadQueue, Ring, check_entries

ADDR = b"\x02\x00peer"
unhurried = settings(deadline=None)  # the machine may be busy: no test is about time


def record(size=40, kind=1, seq=0, fill=b"x"):
    """An entry record of `size` bytes, at least 40."""
    return struct.pack("<IBBHQQQQ", size, kind, 0, 0, 1, 2, seq, 0) + fill * (size - 40)


def filled(count=10, size=100, capacity=8192):
    ring = Ring(capacity, 64)
    for index in range(1, count + 1):
        assert ring.append(record(size, seq=index), index, 1)
    return ring


# -- against the model ------------------------------------------------------------------------------------------------


class RingMachine(RuleBasedStateMachine):
    """Any sequence of appends, truncations and pins, on ring and model alike; small capacities, so that it wraps."""

    entries = Bundle("entries")

    @initialize(capacity=st.integers(40, 1500), entries=st.integers(1, 20), start=st.integers(1, 5))
    def begin(self, capacity, entries, start):
        self.ring = Ring(capacity, entries)
        self.model = RingModel(capacity, 1 << (entries - 1).bit_length())
        self.ring.reset(start)
        self.model.reset(start)

    @rule(sizes=st.lists(st.integers(40, 400), min_size=1, max_size=6), back=st.integers(0, 8),
          skip=st.integers(0, 2), fill=st.binary(min_size=1, max_size=1))
    def append(self, sizes, back, skip, fill):
        index = max(1, self.model.next_index - back if back > 4 else self.model.next_index)
        records = [record(size, seq=i, fill=fill) for i, size in enumerate(sizes)]
        packed = record(77) * skip + b"".join(records) + b"trailing"
        assert self.ring.append(packed, index, len(records), skip) == self.model.append(records, index)

    @rule(sizes=st.lists(st.integers(40, 300), min_size=1, max_size=6))
    def append_slab(self, sizes):
        index = self.model.next_index
        records = [record(size, seq=i, fill=b"s") for i, size in enumerate(sizes)]
        slab = wire.Slab(2, 8192)
        slab.push(b"other", ADDR)
        slab.push(b"head" + b"".join(records), ADDR)
        taken = self.ring.append_slab(slab, 1, 4, sum(sizes), index, len(records))
        assert taken == self.model.append(records, index)

    @rule(sizes=st.lists(st.integers(40, 300), min_size=1, max_size=6))
    def append_staged(self, sizes):
        index = self.model.next_index
        records = [record(size, seq=i, fill=b"c") for i, size in enumerate(sizes)]
        stage = wire.Stage()
        stage.collect_payload(b"".join(records), len(records), ADDR)
        staged = [data for _, data in stage.records(wire.WRITES)]
        if not staged:
            return
        pending = Pending(64)
        taken = self.ring.append_staged(stage, index, pending)
        assert taken == self.model.append(staged, index)
        assert len(pending) == (len(staged) if taken else 0)

    @rule(size=st.integers(0, 1600), count=st.integers(0, 10))
    def room_keeps_its_promise(self, size, count):
        if self.ring.room(size, count) and count:
            sizes = [40] * (count - 1) + [size - 40 * (count - 1)]
            records = [record(n) for n in sizes]
            index = self.model.next_index
            assert self.ring.append(b"".join(records), index, count)
            assert self.model.append(records, index)

    @rule(back=st.integers(0, 12))
    def truncate(self, back):
        last = max(0, self.model.last - back)
        self.ring.truncate(last)
        self.model.truncate(last)

    @rule(ahead=st.integers(-3, 30))
    def move_pin(self, ahead):
        self.ring.pin = self.model.pin = max(0, self.model.pin + ahead)

    @invariant()
    def same(self):
        model, ring = self.model, self.ring
        assert (ring.first, ring.last, ring.pin) == (model.first, model.last, model.pin)
        if not model.entries:
            return
        middle = (model.first + model.last) // 2
        for first, last in ((model.first, model.last), (middle, middle), (middle, model.last), (model.first, middle)):
            content = model.copy(first, last)
            assert ring.copy(first, last) == content
            assert ring.size_bytes(first, last) == len(content)
        for budget in (0, 40, 200, 700, 5000):
            upto = model.first
            while upto < model.last and len(model.copy(model.first, upto + 1)) <= budget:
                upto += 1
            assert ring.fit(model.first, model.last + 3, budget) == (upto, len(model.copy(model.first, upto)))


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)


# -- its edges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grain", [1, 40])
@pytest.mark.parametrize("seed", range(100))
def test_any_course_of_things(seed, grain):
    """As the machine above, but mostly appends, of sizes that at grain 40 often end where the memory ends."""
    rng = random.Random(seed)
    capacity, entries = rng.randint(40, 1500) // grain * grain, rng.randint(1, 20)
    ring, model = Ring(capacity, entries), RingModel(capacity, 1 << (entries - 1).bit_length())
    for step in range(60):
        what = rng.random()
        if what < 0.6:
            longest = max(40, min(400, capacity // 2))
            sizes = [rng.randint(40, longest) // grain * grain for _ in range(rng.randint(1, 3))]
            records = [record(size, seq=step, fill=b"%d" % (i % 10)) for i, size in enumerate(sizes)]
            index = model.next_index
            assert ring.append(b"".join(records), index, len(records)) == model.append(records, index)
        elif what < 0.75:
            last = max(0, model.last - rng.randint(0, 4))
            ring.truncate(last)
            model.truncate(last)
        else:
            ring.pin = model.pin = max(0, model.pin + rng.randint(-1, 6))
        for first in range(model.first, model.last + 1):
            content = model.copy(first, model.last)
            assert ring.copy(first, model.last) == content
            assert ring.size_bytes(first, model.last) == len(content)


def test_pinned_entries_stay():
    ring = filled(10, 100, 1000)
    assert not ring.append(record(40), 11, 1)
    assert (ring.first, ring.last) == (1, 10)
    ring.pin = 3
    assert not ring.append(record(250), 11, 1)
    assert ring.append(record(200), 11, 1)
    assert (ring.first, ring.last) == (3, 11)


def test_a_suffix_that_wrapped_and_was_superseded_leaves_no_gap_behind():
    """What follows fills the memory to its end: the next append begins anew without leaving anything out."""
    ring = Ring(200, 8)
    for index, size in ((1, 80), (2, 80)):
        assert ring.append(record(size), index, 1)
    ring.pin = 3
    assert ring.append(record(60), 3, 1)  # leaves the last 40 bytes out
    ring.truncate(2)
    kept = record(40, fill=b"3"), record(50, fill=b"4")
    assert ring.append(kept[0], 3, 1)  # takes them
    assert ring.append(kept[1], 4, 1)
    assert ring.copy(3, 4) == b"".join(kept)
    assert ring.size_bytes(3, 4) == 90


def test_the_number_of_entries_is_bounded_too():
    ring = Ring(8192, 4)
    assert ring.append(record() * 4, 1, 4)
    assert not ring.append(record(), 5, 1)
    assert not ring.room(40, 1)
    ring.pin = 2
    assert ring.room(40, 1)
    assert ring.append(record(), 5, 1)
    assert (ring.first, ring.last) == (2, 5)


def test_gaps_and_malformed_entries_are_our_own_bugs():
    ring = filled(3)
    for index in (0, 5, 2**63):
        with pytest.raises(ValueError):
            ring.append(record(), index, 1)
    short = record(60)[:-1]
    for data, count in ((b"", 0), (b"", 1), (record(), 2), (short, 1), (struct.pack("<I", 39) + bytes(60), 1),
                        (struct.pack("<I", 0xFFFFFFFF) + bytes(60), 1), (record(), 2**64 - 1)):
        with pytest.raises(ValueError, match="not 0"):
            ring.append(data, 4, count)
    with pytest.raises(ValueError, match="not 2"):
        ring.append(record() * 2, 4, 1, skip=2)
    assert ring.last == 3
    slab = wire.Slab(2, 1024)
    slab.push(record(), ADDR)
    for slot, offset, length in ((1, 0, 40), (-1, 0, 40), (0, 1, 40), (0, 41, 0), (0, 2**63, 2**63)):
        with pytest.raises(IndexError):
            ring.append_slab(slab, slot, offset, length, 4, 1)
    for first, last in ((0, 1), (1, 4), (3, 2), (4, 4)):
        with pytest.raises(LookupError):
            ring.copy(first, last)
        with pytest.raises(LookupError):
            ring.size_bytes(first, last)
    with pytest.raises(LookupError):
        ring.fit(4, 4, 1000)
    for sizes in ((39, 8), (4096, 0)):
        with pytest.raises(ValueError, match=r"a (ring|capacity) of"):
            Ring(*sizes)


def test_records_made_here():
    ring = Ring(4096, 16)
    session = bytes(range(16))
    assert ring.append_noop(1)
    assert ring.append_record(2, wire.ENTRY_EXPIRE_SESSION, session, 77)
    assert ring.copy(1, 1) == struct.pack("<IBBHQQQQ", 40, wire.ENTRY_NOOP, 0, 0, 0, 0, 0, 0)
    assert ring.copy(2, 2) == struct.pack("<IBBH", 40, wire.ENTRY_EXPIRE_SESSION, 0, 0) + session + struct.pack(
        "<QQ", 77, 0)
    for kind, name in ((wire.ENTRY_READ, session), (wire.ENTRY_EXPIRE_SESSION, session[1:])):
        with pytest.raises(ValueError):
            ring.append_record(3, kind, name, 1)


@unhurried
@given(st.lists(st.tuples(st.integers(40, 200), st.integers(0, 4)), max_size=6), st.integers(0, 5),
       st.integers(0, 5), st.data())
def test_check_entries_wants_exactly_count_loggable_records(wanted, before, after, data):
    packed = b"".join(record(size, kind) for size, kind in wanted)
    padded = b"\xff" * before + packed + b"\xff" * after
    assert check_entries(padded, before, len(packed), len(wanted))
    assert not check_entries(padded, before, len(packed), len(wanted) + 1)
    assert not check_entries(padded, before, len(packed) + after + 1, len(wanted))
    assert not check_entries(padded, len(padded) + 1, 0, 0)
    if wanted:
        assert not check_entries(padded, before, len(packed), len(wanted) - 1)
        assert not check_entries(padded, before, len(packed) - 1, len(wanted))
        assert not check_entries(record(40, wire.ENTRY_READ) + packed, 0, 40 + len(packed), len(wanted) + 1)
        at = data.draw(st.sampled_from([5, 6, 7]))
        assert not check_entries(packed[:at] + b"\x01" + packed[at + 1 :], 0, len(packed), len(wanted))


@unhurried
@given(st.binary(max_size=200), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_check_entries_survives_anything(data, offset, length, count):
    assert check_entries(data, offset, length, count) in (True, False)


# -- sending ------------------------------------------------------------------------------------------------------


def send(ring, outbox, first, last, **changes):
    fields = {
        "kind": wire.KIND_APPEND_ENTRIES, "flags": 3, "receiver": 2, "receiver_incarnation": 22, "term": 9,
        "prev_index": first - 1, "commit": 4, "prev_term": 7, "entries_term": 8, "round_": 0,
    } | changes
    return ring.send_run(outbox, ADDR, *fields.values(), first, last)


def frames(outbox):
    """Every (frame, payload) of the outbox, through the parser that a peer runs (CRCs included)."""
    out = []
    for datagram, addr in outbox.drain():
        assert addr == ADDR
        out += wire.parse_datagram(datagram)
    return out


@unhurried
@given(st.lists(st.integers(40, 700), min_size=1, max_size=30), st.integers(576, 3000), st.integers(0, 16), st.data())
def test_a_run_goes_out_in_frames_that_fit_and_join_up(sizes, mtu, tail_room, data):
    ring = Ring(6000, 64)
    for index, size in enumerate(sizes, 1):
        ring.pin = index
        assert ring.append(record(size, seq=index, fill=bytes([index])), index, 1)
    outbox = wire.Outbox(256, 1 << 20, mtu)
    outbox.identify(11, 1, 111)
    outbox.set_tail_room(tail_room)
    first = data.draw(st.integers(ring.first, ring.last))
    last = data.draw(st.integers(first, ring.last))
    limit = mtu - tail_room - wire.HEADER_BYTES - ringmodule.RUN_BODY_BYTES
    fitting = first - 1
    while fitting < last and len(ring.copy(fitting + 1, fitting + 1)) <= limit:
        fitting += 1
    assert send(ring, outbox, first, last) == fitting
    assert all(len(outbox.datagram(i)) <= mtu - tail_room for i in range(len(outbox)))
    prev, prev_term = first - 1, 7
    for frame, payload in frames(outbox):
        assert (frame.kind, frame.flags, frame.term, frame.commit, frame.index) == (18, 3, 9, 4, prev)
        assert (frame.cluster, frame.sender, frame.sender_incarnation) == (11, 1, 111)
        assert (frame.receiver, frame.receiver_incarnation) == (2, 22)
        assert struct.unpack_from("<QQQ", payload) == (prev_term, 8, 0)
        assert payload[24:] == ring.copy(prev + 1, prev + frame.count)
        # As much as fits: the next entry would not have.
        if prev + frame.count < fitting:
            assert len(payload) - 24 + len(ring.copy(prev + frame.count + 1, prev + frame.count + 1)) > limit
        prev, prev_term = prev + frame.count, 8
    assert prev == fitting


def test_a_full_outbox_stops_the_run_and_says_where():
    ring = filled(10, 500)
    outbox = wire.Outbox(3, 1 << 20, 576 + 80)
    assert send(ring, outbox, 1, 10) == 3
    assert outbox.overflow == 1
    assert [frame.index for frame, _ in frames(outbox)] == [0, 1, 2]


def test_send_run_wants_a_range_the_ring_holds():
    ring = filled(3)
    outbox = wire.Outbox()
    for first, last in ((1, 4), (3, 2), (0, 1)):
        with pytest.raises((LookupError, OverflowError)):
            send(ring, outbox, first, last)
    with pytest.raises(ValueError, match="follow"):
        send(ring, outbox, 2, 3, prev_index=2)
    assert len(outbox) == 0


# -- who waits ------------------------------------------------------------------------------------------------------


def test_pending_answers_each_index_once():
    pending = Pending(4)
    for index in range(1, 5):
        pending.add(index, b"client%d" % index)
    assert len(pending) == 4
    assert pending.pop(2) == b"client2"
    assert pending.pop(2) is None
    assert pending.pop(0) is None
    pending.add(5, b"later")  # takes the slot of index 1
    assert pending.pop(1) is None
    assert len(pending) == 3
    pending.drop(4)
    assert [pending.pop(index) for index in range(6)] == [None, None, None, b"client3", None, None]
    for index in range(1, 5):
        pending.add(index, b"again%d" % index)
    pending.drop(2, 3)
    assert [pending.pop(index) for index in range(6)] == [None, b"again1", None, None, b"again4", None]
    pending.add(7, b"x")
    pending.clear()
    assert len(pending) == 0
    with pytest.raises(ValueError):
        pending.add(0, b"x")
    with pytest.raises(ValueError):
        pending.add(1, bytes(29))
    with pytest.raises(ValueError):
        Pending(0)


def staged(*records):
    stage = wire.Stage()
    assert stage.collect_payload(b"".join(records), len(records), ADDR)
    return stage


def test_staged_writes_take_their_addresses_along():
    ring = Ring(4096, 64)
    pending = Pending()
    stage = staged(record(60, seq=1), record(50, wire.ENTRY_READ), record(70, seq=2))
    assert ring.append_staged(stage, 1, pending)
    assert ring.copy(1, 2) == record(60, seq=1) + record(70, seq=2)
    assert [pending.pop(index) for index in (1, 2, 3)] == [ADDR, ADDR, None]
    assert ring.append_staged(stage, 3)
    with pytest.raises(ValueError, match="staged"):
        ring.append_staged(wire.Stage(), 5)


def replies_of(replies):
    outbox = wire.Outbox()
    replies.flush(outbox)
    out = []
    for frame, payload in frames(outbox):
        assert frame.kind == wire.KIND_REPLY
        offset = 0
        for _ in range(frame.count):
            length, status, _, _, _, seq, _ = struct.unpack_from("<IBBHQQQ", payload, offset)
            out.append((status, seq, payload[offset + 32 : offset + length]))
            offset += length
    return out


def test_reads_wait_by_id():
    queue = ReadQueue(1000)
    reads = [record(100, wire.ENTRY_READ, seq) for seq in range(9)]
    for read_id in (1, 2, 3):
        assert queue.enqueue(staged(*reads[read_id * 3 - 3 : read_id * 3]), read_id)
    assert (len(queue), queue.size_bytes) == (9, 900)
    assert not queue.enqueue(staged(reads[0], reads[1]), 4)
    assert len(queue) == 9
    queue.discard(2)
    queue.discard(77)
    assert (len(queue), queue.size_bytes) == (6, 600)
    replies = wire.Replies()
    queue.reject(1, replies, wire.STATUS_NOT_LEADER, b"hint")
    # What is left survives the squeezing out of what is gone, and new reads that take its place.
    assert (len(queue), queue.size_bytes) == (3, 300)
    assert queue.enqueue(staged(*reads[:6]), 5)
    queue.reject(3, replies, wire.STATUS_OVERLOADED)
    queue.reject(5, replies, wire.STATUS_STOPPED)
    assert replies_of(replies) == [
        *((wire.STATUS_NOT_LEADER, seq, b"hint") for seq in range(3)),
        *((wire.STATUS_OVERLOADED, seq, b"") for seq in range(6, 9)),
        *((wire.STATUS_STOPPED, seq, b"") for seq in range(6)),
    ]
    assert (len(queue), queue.size_bytes) == (0, 0)
    assert queue.enqueue(staged(*reads), 9)


@unhurried
@given(st.integers(0, 2**32))
def test_reads_leave_in_any_order_of_their_ids(seed):
    rng = random.Random(seed)
    queue, waiting, seq = ReadQueue(1 << 20), {}, 0
    for read_id in range(1, 60):
        sizes = [rng.randrange(40, 200) for _ in range(rng.randrange(4))]
        records = [record(size, wire.ENTRY_READ, seq + n) for n, size in enumerate(sizes)]
        seq += len(sizes)
        assert queue.enqueue(staged(*records), read_id)
        waiting[read_id] = records
        for _ in range(rng.randrange(3)):
            gone = rng.randrange(read_id + 2)  # some are gone already, or never were
            replies = wire.Replies()
            queue.reject(gone, replies, wire.STATUS_STOPPED)
            expected = [struct.unpack_from("<Q", each, 24)[0] for each in waiting.pop(gone, ())]
            assert [number for _, number, _ in replies_of(replies)] == expected
        records = [each for found in waiting.values() for each in found]
        assert (len(queue), queue.size_bytes) == (len(records), sum(map(len, records)))


def test_read_ids_ascend():
    queue = ReadQueue(1000)
    assert queue.enqueue(staged(record(kind=wire.ENTRY_READ)), 5)
    assert queue.enqueue(staged(record(kind=wire.ENTRY_READ)), 5)
    with pytest.raises(ValueError, match="ascend"):
        queue.enqueue(staged(record(kind=wire.ENTRY_READ)), 4)
    assert len(queue) == 2


def test_to_reject_all_reads_costs_as_many_steps_as_there_are():
    def cost(ids):
        queue, replies = ReadQueue(1 << 26), wire.Replies(1000)
        stage = staged(*[record(kind=wire.ENTRY_READ)] * 20)
        for read_id in range(ids):
            assert queue.enqueue(stage, read_id)
        begun = time.process_time()
        for read_id in range(ids):
            queue.reject(read_id, replies, wire.STATUS_NOT_LEADER)
        assert len(queue) == 0
        return time.process_time() - begun

    # Eight times as many: 8 is linear and 64 is not. Time of the process alone, the best of three.
    assert min(cost(8000) for _ in range(3)) < 32 * min(cost(1000) for _ in range(3))
