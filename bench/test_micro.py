"""Micro-benchmarks of the hot path (`make bench`). Each says what one round does; divide for a cost per operation."""

import os
import random

import pytest

from quorumd import commands, limits
from quorumd.commands import Kind
from quorumd.consensus.engine import Durable, HardState, Propose, Tick
from quorumd.consensus.messages import AppendEntries, AppendEntriesReply
from quorumd.consensus.raft import Raft, RaftConfig
from quorumd.consensus.termlog import TermLog
from quorumd_fastpath import crc, udp, walfile, walframe, wire
from quorumd_fastpath.apply import Store
from quorumd_fastpath.ring import Pending, Ring
from quorumd_fastpath.wire import Counters, Outbox, Replies, Slab, Stage

OPS = 1000
CLUSTER = 7
SESSION = bytes(range(16))
MS = limits.MILLISECOND
CONFIG = RaftConfig(40 * MS, 120 * MS, limits.MAX_APPEND_BYTES, limits.DEFAULT_INFLIGHT_BYTES, 256)


def put_record(seq, size=256):
    return commands.encode_record(
        Kind.COMMAND, SESSION, seq, seq, commands.encode(commands.Put(b"key-%04d" % (seq % 500), b"v" * size))
    )


def request(records):
    return wire.encode_frame(wire.KIND_REQUEST, 0, CLUSTER, 0, 0, 0, 0, 0, 0, 0, len(records), b"".join(records))


@pytest.fixture
def slab():
    """1000 client datagrams of one 256-byte put each."""
    slab = Slab(OPS, 4096)
    for seq in range(1, OPS + 1):
        slab.push(request([put_record(seq)]), b"client")
    return slab


@pytest.mark.parametrize("size", [64, 1024, 65_000])
def test_crc32c(benchmark, size):
    benchmark(crc.crc32c, random.Random(1).randbytes(size))


def test_stage_1000_datagrams(benchmark, slab):
    stage, counters = Stage(2 * OPS), Counters()

    def run():
        stage.clear()
        stage.collect(slab, CLUSTER, counters)

    benchmark(run)
    assert stage.writes == OPS


def test_parse_one_frame(benchmark):
    slab, counters = Slab(1), Counters()
    slab.push(wire.encode_frame(wire.KIND_HEARTBEAT, 0, CLUSTER, 1, 2, 3, 4, 5, 6, 7, 0, bytes(16)), b"peer")
    benchmark(wire.parse_frames, slab, 0, counters)


def test_ring_append_1000_staged(benchmark, slab):
    stage, counters, pending = Stage(2 * OPS), Counters(), Pending(4096)
    stage.collect(slab, CLUSTER, counters)
    ring = Ring(16 * limits.MIB, 1 << 14)

    def run():
        ring.reset(1)
        pending.clear()
        ring.append_staged(stage, 1, pending)

    benchmark(run)
    assert ring.last == OPS


def test_ring_to_outbox_1000_entries(benchmark, slab):
    stage, counters = Stage(2 * OPS), Counters()
    stage.collect(slab, CLUSTER, counters)
    ring = Ring(16 * limits.MIB, 1 << 14)
    ring.reset(1)
    ring.append_staged(stage, 1, None)
    outbox = Outbox(256, limits.MIB, 65_000)

    def run():
        outbox.clear()
        ring.send_run(outbox, b"peer", wire.KIND_APPEND_ENTRIES, 0, 2, 1, 5, 0, 0, 0, 5, 0, 1, OPS)

    benchmark(run)


def test_wal_frame_1000_entries(benchmark, slab):
    stage, counters = Stage(2 * OPS), Counters()
    stage.collect(slab, CLUSTER, counters)
    ring = Ring(16 * limits.MIB, 1 << 14)
    ring.reset(1)
    ring.append_staged(stage, 1, None)
    batch = walframe.Batch(4 * limits.MIB)

    def run():
        batch.begin(1, limits.SEGMENT_BYTES, 512, 1, 2, 0, 0, 1)
        batch.append(ring, 1, OPS, 5)
        batch.finish()

    benchmark(run)


def test_wal_append_and_sync(benchmark, tmp_path):
    """One 512-byte batch written and fdatasync'ed in the calling thread: what this disk costs."""
    path = tmp_path / "wal"
    path.write_bytes(bytes(4 * limits.MIB))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    wal, batch, seq = walfile.WalThread(), walframe.Batch(65_536), iter(range(1, 1 << 30))

    def run():
        batch.begin(1, 4 * limits.MIB, 512, 1, 2, 0, 0, 1)
        batch.finish()
        wal.submit_inline(fd, 512, batch, next(seq))

    benchmark(run)
    os.close(fd)


def test_apply_1000_puts(benchmark):
    ring = Ring(16 * limits.MIB, 1 << 14)
    store = Store(limits.DEFAULT_QUOTA_BYTES, limits.MAX_SESSIONS)
    replies, outbox = Replies(limits.REPLY_SCRATCH_BYTES, 65_000), Outbox(256, 4 * limits.MIB, 65_000)
    ring.reset(1)
    opening = commands.encode_record(Kind.OPEN_SESSION, SESSION, 0, 0, b"")
    ring.append(opening, 1, 1)
    store.apply(ring, 1, 1)
    at = {"index": 2, "seq": 1}

    def fill():
        records = b"".join(put_record(at["seq"] + i) for i in range(OPS))
        ring.pin = at["index"]
        ring.append(records, at["index"], OPS)
        first = at["index"]
        at["index"] += OPS
        at["seq"] += OPS
        replies.flush(outbox)
        outbox.clear()
        return (first,), {}

    benchmark.pedantic(
        lambda first: store.apply(ring, first, first + OPS - 1, None, replies, 0), setup=fill, rounds=100
    )
    assert store.executed >= OPS


def test_udp_256_datagrams_there_and_back(benchmark):
    """sendmmsg of 256 datagrams of 350 bytes on loopback and recvmmsg of the same."""
    sender, receiver = udp.UdpSocket("127.0.0.1", 0), udp.UdpSocket("127.0.0.1", 0)
    sender.open()
    receiver.open()
    receiver.set_buffers(4 * limits.MIB)
    outbox, slab = Outbox(512, limits.MIB, 350), Slab(256)

    def run():
        for _ in range(256):
            outbox.frame(receiver.address, wire.KIND_STATUS, 0, 0, 0, 0, 0, 0, 0, bytes(270))
        sender.send(outbox)
        slab.clear()
        return receiver.receive(slab)

    assert benchmark(run) == 256
    sender.close()
    receiver.close()


class Sizes:
    """Entries of 300 bytes."""

    def fit(self, first, last, max_bytes):
        upto = min(last, first + max(max_bytes // 300, 1) - 1)
        return upto, (upto - first + 1) * 300


def leader():
    engine = Raft(1, [1, 2, 3], CONFIG, HardState(0, 0), TermLog(), Sizes(), random.Random(1), 0)
    engine.step(Tick(300 * MS))
    from quorumd.consensus.messages import RequestVoteReply

    engine.ready()
    engine.step(RequestVoteReply(2, 1, 1, True, True))
    ready = engine.ready()
    engine.step(Durable(ready.seq))
    engine.step(RequestVoteReply(2, 1, 1, True, False))
    ready = engine.ready()
    engine.step(Durable(ready.seq))
    for node in (2, 3):
        engine.step(AppendEntriesReply(node, 1, 1, engine.last, False, 0, 0, 0))
    engine.ready()
    return engine


def test_engine_leader_turn(benchmark):
    """Propose, Ready with appends for two followers, Durable, two acknowledgements, Ready with the commit."""
    engine = leader()

    def run():
        engine.step(Propose(32, 9600))
        ready = engine.ready()
        engine.step(Durable(ready.seq))
        for node in (2, 3):
            engine.step(AppendEntriesReply(node, 1, 1, engine.last, False, 0, 0, 0))
        return engine.ready()

    assert benchmark(run).committed is not None


def test_engine_follower_turn(benchmark):
    """AppendEntries, Ready with the append and the acknowledgement, Durable."""
    engine = Raft(2, [1, 2, 3], CONFIG, HardState(1, 1), TermLog(), Sizes(), random.Random(1), 0)

    def run():
        last = engine.last
        engine.step(AppendEntries(1, 2, 1, last, 1 if last else 0, last, 1, 32, None))
        ready = engine.ready()
        engine.step(Durable(ready.seq))
        return ready

    assert benchmark(run).messages_after_durable
