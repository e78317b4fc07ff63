"""What differs by `engine`: whose directory may be opened, and how entries enter a log with holes."""

import json
import random
from types import SimpleNamespace

import pytest
from world import MS, Caller, World, consensus

from quorumd import commands, limits
from quorumd.appending import NOOP_RECORD, SlotAppender
from quorumd.commands import Kind
from quorumd.consensus.engine import KEPT, NOOP, Append
from quorumd.disk import RealDisk
from quorumd.engines import empty, make_engine, make_log, storage_of
from quorumd.errors import ConfigError
from quorumd.invariants import InvariantBroken
from quorumd.log import Log
from quorumd.ports import Meta
from quorumd.slotlog import SlotLog
from quorumd.slotstorage import SlotStorage
from quorumd.sources import BytesSource, SlabSource
from quorumd.storage import Storage
from quorumd.types import PAXOS, RAFT
from quorumd_fastpath.ring import Pending, Ring
from quorumd_fastpath.wire import KIND_ACCEPTED, KIND_APPEND_ENTRIES_REPLY, Slab, Stage, parse_datagram

# -- directories ----------------------------------------------------------------------------------------------------


def test_a_directory_of_another_engine_is_refused_and_nothing_is_touched():
    world = World(1, seed=1)
    world.elect()
    Caller(world).open().put(b"k", b"v")
    world.stop(1)
    disk = world.members[1].disk
    assert disk.meta.engine == RAFT
    for stamped, configured in ((RAFT, PAXOS), (PAXOS, RAFT), ("unheard-of", RAFT)):
        disk.meta = disk.meta._replace(engine=stamped)
        before = disk.meta, {number: bytes(data) for number, data in disk.cache.items()}
        with pytest.raises(ConfigError, match=f"the directory .*'{stamped}'.* 'engine: {stamped}' again"):
            world.start(1, consensus=consensus(configured))
        assert (disk.meta, {number: bytes(data) for number, data in disk.cache.items()}) == before
    disk.meta = disk.meta._replace(engine=RAFT)
    world.start(1)
    world.elect()


def test_a_stamp_without_a_cluster_binds_to_no_engine():
    world = World(1, seed=2, bootstrap=False)
    world.stop(1)
    disk = world.members[1].disk
    assert disk.meta == Meta(0, 1, disk.meta.incarnation, RAFT)
    disk.meta = disk.meta._replace(engine=PAXOS)
    world.start(1, bootstrap=True)
    world.elect()
    assert disk.meta.engine == RAFT


def test_the_real_disk_keeps_the_engine_and_refuses_other_formats(tmp_path):
    disk = RealDisk(tmp_path)
    for meta in (Meta(0xAA, 1, 5, PAXOS), Meta(0, 1, 6), Meta(0xAA, 1, 7, promised=10**9)):
        disk.write_meta(meta)
        assert disk.read_meta() == meta
    file = tmp_path / "meta.json"
    stamp = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in stamp.items() if key != "promised_ns"}))
    assert disk.read_meta() == Meta(0xAA, 1, 7)  # of an earlier version
    for number in (1, 2, 3, 5, None):
        file.write_text(json.dumps(stamp | {"format": number}))
        before = file.read_bytes()
        with pytest.raises(ConfigError, match=f"format {number}, .* use the version that made it"):
            disk.read_meta()
        assert file.read_bytes() == before
    assert disk.where() == str(tmp_path)


def test_each_engine_has_its_log_and_no_other():
    ring = Ring(4096, 16)
    assert (type(make_log(RAFT, ring)), type(make_log(PAXOS, ring))) == (Log, SlotLog)
    assert storage_of(make_log(RAFT, ring)) is Storage
    assert storage_of(make_log(PAXOS, ring)) is SlotStorage
    for engine, other in ((RAFT, PAXOS), (PAXOS, RAFT)):
        settings = World(1, seed=3, engine=engine).members[1].core.settings
        assert settings.engine == engine
        with pytest.raises(InvariantBroken, match="the log of the engine that is configured"):
            make_engine(settings, empty(other), Log(ring), random.Random(1), MS)


# -- entries --------------------------------------------------------------------------------------------------------


def put(rng, size=0):
    command = commands.encode(commands.Put(b"k", bytes(size)))
    return commands.encode_record(Kind.COMMAND, rng.randbytes(16), rng.randrange(1, 99), 1, command)


class Bench:
    """A SlotAppender with a ring of its own, and what it did to those beside it."""

    def __init__(self, ring_bytes=2000):
        self.superseded: list[tuple[int, int]] = []
        self.log = SlotLog(Ring(ring_bytes, 64))
        self.clients = SimpleNamespace(stage=Stage(64), pending=Pending(64))
        self.yields = 0
        self.appender = SlotAppender(
            self.log,
            SimpleNamespace(yield_ring=self.yield_ring),
            SimpleNamespace(superseded=lambda *range_: self.superseded.append(range_)),
            self.clients,
        )

    def yield_ring(self):
        self.yields += 1

    def append(self, first, last, source, skip=0):
        self.appender.append(Append(first, last, 1, source, skip))


@pytest.mark.parametrize("first", [1, 3], ids=["at the ring's end", "behind a hole"])
@pytest.mark.parametrize("source", ["slab", "bytes", "noop", "staged", "internal"])
def test_every_source_reaches_ring_and_islands(source, first):
    bench, rng = Bench(), random.Random(1)
    records = [put(rng) for _ in range(3)]
    expected, skip = records, 0
    if source == "slab":
        slab = Slab(2, 4096)
        assert slab.push(b"head" + b"".join([put(rng), *records]) + b"tail", b"peer")
        handle: object = SlabSource(slab, 0, 4, sum(map(len, records)) + len(records[0]))
        skip = 1
    elif source == "bytes":
        handle, skip = BytesSource(b"head" + b"".join([put(rng), *records]), 4), 1
    elif source == "noop":
        handle, expected = NOOP, [NOOP_RECORD] * 3
    elif source == "staged":
        handle = None
        assert bench.clients.stage.collect_payload(b"".join(records), 3, b"client")
    else:
        handle = None
        bench.appender.internal = [(int(Kind.EXPIRE_SESSION), bytes([i]) * 16, i) for i in range(3)]
        expected = [commands.encode_record(Kind.EXPIRE_SESSION, bytes([i]) * 16, i, 0) for i in range(3)]
    bench.append(first, first + 2, handle, skip)
    assert bench.log.held(first, first + 2) == b"".join(expected)
    assert bench.log.ring.last == (3 if first == 1 else 0)
    assert not bench.yields
    assert [bench.clients.pending.pop(first + i) for i in range(3)] == [b"client" if source == "staged" else None] * 3
    assert bench.appender.leads_from == (first + 2 if source == "noop" else 0)
    assert not bench.appender.internal
    assert not bench.superseded


def test_a_no_op_is_the_one_that_raft_writes():
    ring = Ring(4096, 16)
    assert ring.append_noop(1)
    assert ring.copy(1, 1) == NOOP_RECORD


def test_what_the_ring_has_no_room_for_waits_behind_it():
    bench, rng = Bench(ring_bytes=200), random.Random(2)
    records = [put(rng) for _ in range(6)]
    bench.append(1, 4, BytesSource(b"".join(records[:4]), 0))
    assert bench.clients.stage.collect_payload(b"".join(records[4:]), 2, b"client")
    bench.append(5, 6, None)
    assert bench.yields
    assert bench.log.ring.last < 4
    assert bench.log.held(1, 6) == b"".join(records)
    assert bench.clients.pending.pop(6) == b"client"


def test_only_other_bytes_supersede():
    bench, rng = Bench(), random.Random(3)
    records = [put(rng) for _ in range(4)]
    bench.append(1, 4, BytesSource(b"".join(records), 0))
    bench.append(2, 3, KEPT)
    bench.append(2, 4, BytesSource(b"".join(records[1:]), 0))
    assert (bench.superseded, bench.appender.leads_from) == ([], 3)
    bench.append(2, 3, BytesSource(records[1] + put(rng, 9), 0))
    assert bench.superseded == [(3, 3)]
    bench.append(1, 1, NOOP)
    assert (bench.superseded, bench.appender.leads_from) == ([(3, 3), (1, 1)], 3)
    with pytest.raises(InvariantBroken, match="source"):
        bench.append(9, 9, "what")


def test_only_those_who_wait_for_a_slot_that_was_overwritten_are_forgotten():
    world = World(1, seed=4, engine=PAXOS)
    world.elect()
    core = world.members[1].core
    for slot in (7, 8, 9):
        core.clients.pending.add(slot, b"client%d" % slot)
    core.applier.superseded(7, 8)
    assert [core.clients.pending.pop(slot) for slot in (7, 8, 9)] == [None, None, b"client9"]


def test_chosen_slots_that_wait_behind_a_full_ring_are_applied_in_their_turn():
    """The applier of a node whose ring was full of open slots when more were accepted, and all of them chosen."""
    world = World(1, seed=4)
    world.elect()
    caller = Caller(world).open()
    caller.put(b"k", b"v")
    core = world.members[1].core
    log = SlotLog(Ring(4 * limits.MAX_ENTRY_BYTES, 8))
    for i in range(1, core.applier.applied + 1):
        assert log.ring.append(core.log.ring.copy(i, i), i, 1)
    rng = random.Random(4)
    first, last = log.ring.last + 1, log.ring.last + 20
    log.place(first, 20, b"".join(put(rng) for _ in range(20)))
    assert log.ring.last < last
    core.applier.log = core.storage.log = log
    core.storage.written = core.applier.commit = log.committed = last
    for _ in range(20):
        core.applier.advance(world.now, world.now, 1, 1)
        assert core.applier.behind == (core.applier.applied < min(last, log.ring.last))
    assert core.applier.applied == core.store.applied == last
    assert log.islands == 0


# -- a lost acknowledgement -----------------------------------------------------------------------------------------


class Forgetful(World):
    """Loses every datagram of a kind that a node sends to its peers, while `loses` is set."""

    loses = 0

    def send(self, source, dest, data):
        lost = any(frame.kind == self.loses for frame, _ in parse_datagram(data))
        if not (lost and source[:4] == b"peer"):
            super().send(source, dest, data)


@pytest.mark.parametrize(("engine", "kind"), [(RAFT, KIND_APPEND_ENTRIES_REPLY), (PAXOS, KIND_ACCEPTED)])
def test_an_acknowledgement_that_was_lost_is_asked_for_again_without_another_write(engine, kind):
    """The new leader's first entry is on two nodes, and the one that leads does not know it: nobody could read."""
    world = Forgetful(3, seed=5, engine=engine)
    first = world.elect()
    caller = Caller(world).open()
    caller.put(b"k", b"v")
    world.step(300)
    world.stop(first)
    world.loses = kind
    world.until(lambda: world.leader() is not None)
    world.step(200)
    leader = world.leader()
    assert leader.engine.commit < leader.engine.last
    world.loses = 0
    world.until(lambda: leader.engine.commit == leader.engine.last, 200)
    caller.target = leader.settings.node
    assert caller.get(b"k") == b"v"
