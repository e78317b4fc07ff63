"""The WAL of a log with holes: random Readys of an acceptor, crashes, power losses; the model is a dict."""

import random

import pytest
from world import CLUSTER, SEGMENT, MemoryDisk

from quorumd import commands, limits
from quorumd.commands import Kind
from quorumd.consensus.ballotlog import BallotLog
from quorumd.consensus.engine import KEPT, Append, HardState
from quorumd.errors import ConfigError, CorruptLog, DiskError
from quorumd.invariants import InvariantBroken
from quorumd.log import Log, entry_length
from quorumd.recovery import recover
from quorumd.slotlog import SlotLog
from quorumd.slotstorage import SlotStorage, outside
from quorumd.storage import Storage
from quorumd_fastpath import walframe
from quorumd_fastpath.apply import Store
from quorumd_fastpath.ring import Ring

RING_BYTES = 8 * limits.MIB
RING_ENTRIES = 256


def entry(rng):
    """Any command of a session that nobody opened; now and then a large one."""
    size = rng.choice([0, 10, 300, 3000, 200_000])
    put = commands.encode(commands.Put(b"k", rng.randbytes(8) * (size // 8)))
    return commands.encode_record(Kind.COMMAND, rng.randbytes(16), rng.randrange(1, 99), 1, put)


class SlowDisk(MemoryDisk):
    """Syncs its batches one after another."""

    def __init__(self):
        super().__init__()
        self.loads = 0

    def load(self, number):
        self.loads += 1
        return super().load(number)

    def work_on(self, batches):
        """As `work`, but only so many batches reach the platter."""
        unsynced, submitted = self.unsynced, self.submitted_seq
        done = [write for write in unsynced if write[3] < 0 or write[3] <= self.synced_seq + batches]
        self.unsynced = done
        self.submitted_seq = min(submitted, self.synced_seq + batches)
        self.work(self.now + 1)
        self.unsynced = [write for write in unsynced if write not in done]
        self.submitted_seq = submitted


def split(data):
    """Packed entries, one by one."""
    found, at = [], 0
    while at < len(data):
        length = entry_length(data, at)
        found.append(bytes(data[at : at + length]))
        at += length
    return found


class Acceptor:
    """Log, storage and disk of a node, driven as core.py drives them, and what they must hold."""

    def __init__(self, rng, disk=None):
        self.rng = rng
        self.disk = disk or SlowDisk()
        self.seq = self.durable = self.commit = self.applied = 0
        self.ballot = 1
        self.slots: dict[int, tuple[int, bytes]] = {}
        self.bytes_seq: dict[int, int] = {}  # the Ready that wrote the bytes of a slot
        self.history = [{}]
        self.events: list[str] = []
        self._open()
        if disk is None:
            self.storage.start_fresh(1)
        else:
            self.recovered = recover(self.storage, self.store, lambda what, **_: self.events.append(what))

    def _open(self):
        self.log = SlotLog(Ring(RING_BYTES, RING_ENTRIES))
        self.store = Store(limits.DEFAULT_QUOTA_BYTES, limits.MAX_SESSIONS)
        self.storage = SlotStorage(
            self.disk, self.log, cluster=CLUSTER, node=1, segment_bytes=SEGMENT,
            random_u64=lambda: self.rng.getrandbits(64),
        )

    @property
    def last(self):
        return max(self.slots, default=0)

    def accept(self, *items):
        """One Ready; items are (first, last, entries or KEPT)."""
        self.seq += 1
        appends = []
        for first, last, source in items:
            appends.append(Append(first, last, self.ballot, KEPT if source is KEPT else object()))
            packed = source if source is KEPT else b"".join(source)
            before = {slot: self.slots[slot][1] for slot in range(first, last + 1) if slot in self.slots}
            changed = self.log.place(first, last - first + 1, packed)
            for i, slot in enumerate(range(first, last + 1)):
                value = self.slots[slot][1] if source is KEPT else source[i]
                self.slots[slot] = (self.ballot, value)
                if source is not KEPT:
                    self.bytes_seq[slot] = self.seq
            differ = [slot for slot, old in before.items() if self.slots[slot][1] != old]
            assert changed == min(differ, default=0)
        hard_state = HardState(self.ballot, 1) if self.rng.random() < 0.2 else None
        self.storage.write(self.seq, hard_state, appends, self.commit)
        self.history.append(dict(self.slots))
        self.pin()

    def pin(self):
        self.log.ring.pin = min(self.applied, self.storage.written) + 1
        self.log.absorb()

    def poll(self):
        self.storage.maintain(self.disk.now)
        durable = self.storage.poll(self.disk.now)
        self.durable = max(self.durable, self.seq if not self.storage.busy else durable)
        written = 0
        while written + 1 in self.slots and self.bytes_seq[written + 1] <= self.durable:
            written += 1
        assert self.storage.written == written
        self.pin()

    def choose(self, upto):
        """Slots up to there are chosen; they are applied unless the dice are against it."""
        self.commit = self.log.committed = max(self.commit, upto)
        if self.rng.random() < 0.8:
            self.applied = min(self.commit, self.log.ring.last)
        self.pin()

    def step(self):
        rng = self.rng
        if rng.random() < 0.15:
            self.ballot += rng.randrange(1, 4)
        items, new = [], dict(self.slots)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            first = rng.randint(self.commit + 1, max(new, default=0) + rng.choice([1, 1, 4]))
            last = first + rng.randrange(6)
            held = all(slot in new for slot in range(first, last + 1))
            if held and rng.random() < 0.5:
                same = [new[slot][1] for slot in range(first, last + 1)]
                items.append((first, last, KEPT if rng.random() < 0.5 else same))
                continue
            values = [entry(rng) for _ in range(first, last + 1)]
            if self.storage.room(sum(map(len, values)), growing=True) and self.log.island_room(
                self.log.island_bytes + sum(map(len, values)), 1
            ):
                self.storage.claim(sum(map(len, values)))
                items.append((first, last, values))
                new.update({first + i: (0, value) for i, value in enumerate(values)})
        if items:
            self.accept(*items)
        self.storage.settled()

    def same(self, log, ballots):
        """Whether exactly the slots that the model has are held, in its ballots and with its bytes."""
        assert {slot: run.ballot for run in ballots.runs() for slot in range(run.first, run.last + 1)} == {
            slot: ballot for slot, (ballot, _) in self.slots.items()
        }
        for slot, (_, value) in self.slots.items():
            assert slot < log.ring.first or log.held(slot, slot) == value

    def reads_back(self, slot):
        """Entries from `slot` on, as the WAL has them, are what they should be; how many came."""
        assert self.storage.recall(slot)
        came = 0
        for record, data in self.storage.recalled():
            for i, value in enumerate(split(data)[: record.entries]):
                assert self.slots[record.first + i][1] == value
                came += 1
        return came


def run(acceptor, steps):
    rng = acceptor.rng
    for _ in range(steps):
        acceptor.step()
        acceptor.disk.work_on(rng.choice([0, 1, 1, 1, 2, 3, 100]))
        acceptor.poll()
        if acceptor.storage.written and rng.random() < 0.3:
            acceptor.choose(rng.randint(min(acceptor.commit, acceptor.storage.written), acceptor.storage.written))
        if acceptor.storage.written and rng.random() < 0.2:
            assert acceptor.reads_back(rng.randint(1, acceptor.storage.written))


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_what_was_durable_is_there_after_a_crash(seed, power):
    rng = random.Random(seed)
    acceptor = Acceptor(rng)
    for _ in range(4):
        run(acceptor, 40)
        durable = acceptor.durable
        if power:
            acceptor.disk.power_loss(rng, lose=rng.choice([0.1, 0.9]))
        else:
            acceptor.disk.killed()
        after = Acceptor(rng, acceptor.disk)
        ballots = after.recovered.terms
        assert isinstance(ballots, BallotLog)
        # A Ready may have reached the disk in part, slot by slot, if it was not reported durable.
        before, recovered = acceptor.history, {}
        for runs in ballots.runs():
            for slot in range(runs.first, runs.last + 1):
                value = after.log.held(slot, slot) if slot >= after.log.ring.first else before[-1][slot][1]
                assert (runs.ballot, value) in [state.get(slot) for state in before[durable:]]
                recovered[slot] = (runs.ballot, value)
        assert recovered.keys() >= before[durable].keys()
        if not power:
            assert recovered == acceptor.slots
        commit = after.recovered.applied
        assert commit <= acceptor.commit
        assert after.log.committed == commit or not recovered
        assert after.log.ring.first <= commit + 1
        assert after.storage.written == after.log.prefix == ballots.upto(1)
        store = Store(limits.DEFAULT_QUOTA_BYTES, limits.MAX_SESSIONS)
        for slot in range(1, commit + 1):
            store.apply_bytes(acceptor.slots[slot][1], slot, 1)
        assert (store.applied, store.digest) == (after.store.applied, after.store.digest)
        after.slots = recovered
        after.bytes_seq = dict.fromkeys(recovered, 0)
        after.commit = after.applied = commit
        after.ballot = acceptor.ballot + 1
        after.history = [dict(recovered)]
        after.same(after.log, ballots)
        for slot in range(1, after.storage.written + 1):
            assert after.reads_back(slot)
        acceptor = after
    assert acceptor.storage._number >= 2, "the runs must cross segments"


def test_open_slots_stay_in_memory_through_a_recovery_however_many():
    acceptor = Acceptor(random.Random(8))
    large = [commands.encode_record(Kind.COMMAND, bytes(16), i, 1, bytes(300_000)) for i in range(40)]
    for slot in range(1, 41):
        acceptor.accept((slot, slot, large[slot - 1 : slot]))
        acceptor.disk.work_on(9)
        acceptor.poll()
    acceptor.choose(2)
    acceptor.accept((41, 41, [entry(acceptor.rng)]))
    acceptor.disk.killed()
    after = Acceptor(acceptor.rng, acceptor.disk)
    assert after.recovered.applied == 2
    assert after.log.ring.first <= 3 < after.log.ring.last < 40
    assert after.log.held(3, 40) == b"".join(large[2:])
    assert after.storage.written == after.log.prefix == 41, "all of it can be read back, so all of it can be applied"


def test_slots_that_alternate_between_two_segments_cost_few_loads():
    acceptor = Acceptor(random.Random(9))
    values = [commands.encode_record(Kind.COMMAND, bytes(16), i, 1, bytes(20)) for i in range(60)]
    for first in (1, 2):
        for slot in range(first, 60, 2):
            acceptor.accept((slot, slot, values[slot : slot + 1]))
        for slot in range(101, 105 if first == 1 else 101):  # fills the first segment
            acceptor.disk.work_on(99)
            acceptor.poll()
            acceptor.accept((slot, slot, [commands.encode_record(Kind.COMMAND, bytes(16), 1, 1, bytes(1 << 20))]))
        acceptor.disk.work_on(99)
        acceptor.poll()
    assert acceptor.storage._number == 2
    acceptor.disk.killed()
    acceptor.disk.loads = 0
    after = Acceptor(acceptor.rng, acceptor.disk)
    assert after.log.held(1, 59) == b"".join(values[1:])
    assert after.disk.loads <= len(after.disk.segments()) + 4


def test_a_torn_tail_is_cut_and_the_slots_before_it_stay():
    acceptor = Acceptor(random.Random(1))
    values = [entry(acceptor.rng) for _ in range(4)]
    acceptor.accept((1, 2, values[:2]), (5, 5, values[2:3]))
    acceptor.disk.work(1)
    acceptor.poll()
    offset = acceptor.storage._offset
    acceptor.ballot = 2
    acceptor.accept((2, 2, values[3:]), (1, 1, KEPT))
    acceptor.disk.cache[1][offset + 80] ^= 1
    acceptor.disk.killed()
    after = Acceptor(acceptor.rng, acceptor.disk)
    assert after.events == ["torn_tail_cut", "recovered"]
    assert list(after.recovered.terms.runs()) == [(1, 2, 1), (5, 5, 1)]
    assert after.log.held(1, 2) == b"".join(values[:2])
    assert after.log.held(5, 5) == values[2]


def test_damage_below_what_was_durable_is_named():
    acceptor = Acceptor(random.Random(2))
    for slot in (3, 1):
        acceptor.accept((slot, slot, [entry(acceptor.rng)]))
        acceptor.disk.work(1)
        acceptor.poll()
    acceptor.storage.idle(limits.SECOND, 0)
    acceptor.disk.cache[1][512 + 64 + 40 + 20] ^= 1  # in the payload: the header is right, and names the slot
    acceptor.disk.killed()
    image = bytes(acceptor.disk.cache[1])
    with pytest.raises(CorruptLog, match=r"offset 512, entry 3: bad_payload"):
        Acceptor(acceptor.rng, acceptor.disk)
    assert bytes(acceptor.disk.cache[1]) == image


@pytest.mark.parametrize("damaged", ["header", "payload"])
def test_what_decayed_in_a_record_that_was_cut_in_two_is_not_read_back(damaged):
    acceptor = Acceptor(random.Random(3))
    acceptor.accept((1, 5, [entry(acceptor.rng) for _ in range(5)]))
    acceptor.accept((3, 3, [entry(acceptor.rng)]))
    acceptor.disk.work(1)
    acceptor.poll()
    record = acceptor.log.records.at(2)
    assert (record.first, record.entries, record.skip) == (4, 2, 3)
    assert acceptor.reads_back(4) == 2
    at = record.position % SEGMENT
    acceptor.disk.cache[1][at - 30 if damaged == "header" else at + record.length - 1] ^= 1
    assert acceptor.storage.recall(4)
    with pytest.raises(DiskError, match="entry 4"):
        acceptor.storage.recalled()


def test_kept_slots_cost_no_bytes_and_change_nothing_but_the_ballot():
    acceptor = Acceptor(random.Random(4))
    acceptor.accept((1, 40, [commands.encode_record(Kind.COMMAND, bytes(16), 1, 1, bytes(100_000))] * 40))
    acceptor.disk.work(1)
    acceptor.poll()
    before = acceptor.storage._number, acceptor.storage._offset
    acceptor.ballot = 9
    acceptor.accept((2, 39, KEPT))
    assert acceptor.storage.written == 40, "their bytes are where they were"
    assert (acceptor.storage._number, acceptor.storage._offset) <= (before[0], before[1] + 512)
    acceptor.disk.killed()
    after = Acceptor(acceptor.rng, acceptor.disk)
    assert list(after.recovered.terms.runs()) == [(1, 1, 1), (2, 39, 9), (40, 40, 1)]


def test_what_a_ready_brings_and_keeps_is_written_once_in_the_last_ballot():
    storage = Acceptor(random.Random(5)).storage
    source = object()
    items = [
        Append(1, 9, 1, source), Append(3, 4, 2, KEPT), Append(8, 12, 3, KEPT), Append(4, 6, 4, source),
    ]
    assert storage.surviving(items) == [
        Append(1, 2, 1, source), Append(3, 3, 2, source), Append(4, 6, 4, source), Append(7, 7, 1, source),
        Append(8, 9, 3, source), Append(10, 12, 3, KEPT),
    ]
    assert storage.surviving(items[:1]) == items[:1]


@pytest.mark.parametrize(
    ("first", "last", "left"),
    [(1, 2, [(3, 6)]), (7, 9, [(3, 6)]), (3, 6, []), (4, 4, [(3, 3), (5, 6)]), (1, 4, [(5, 6)]), (5, 9, [(3, 4)])],
)
def test_outside_leaves_what_lies_before_and_behind(first, last, left):
    assert [(part.first, part.last) for part in outside(Append(3, 6, 1, KEPT), first, last)] == left


def test_a_reacceptance_of_what_was_never_accepted_is_a_defect():
    acceptor = Acceptor(random.Random(6))
    acceptor.accept((1, 1, [entry(acceptor.rng)]))
    acceptor.storage.write(2, None, [Append(1, 2, 5, KEPT)], 0)
    acceptor.disk.killed()
    with pytest.raises(InvariantBroken, match="re-accepted"):
        Acceptor(acceptor.rng, acceptor.disk)


@pytest.mark.parametrize("kind", [walframe.ACCEPT, walframe.APPEND])
def test_a_record_of_the_other_engine_is_refused(kind):
    """Should the stamp be lost or forged: the log itself says whose it is."""
    disk, rng = MemoryDisk(), random.Random(7)
    of, other = (SlotStorage, Storage) if kind == walframe.ACCEPT else (Storage, SlotStorage)

    def make(cls):
        log = (SlotLog if cls is SlotStorage else Log)(Ring(RING_BYTES, RING_ENTRIES))
        return cls(disk, log, cluster=CLUSTER, node=1, segment_bytes=SEGMENT, random_u64=lambda: rng.getrandbits(64))

    storage = make(of)
    storage.start_fresh(1)
    assert storage.log.ring.append(entry(rng), 1, 1)
    storage.write(1, None, [Append(1, 1, 1, object())], 0)
    disk.killed()
    image = bytes(disk.cache[1])
    with pytest.raises(ConfigError, match=r"wal-0+1.seg: offset \d+: .*engine"):
        recover(make(other), Store(limits.DEFAULT_QUOTA_BYTES, limits.MAX_SESSIONS), lambda what, **_: None)
    assert bytes(disk.cache[1]) == image
