"""A small world for node tests: production cores on a simulated clock, network and disks, one thread, one seed.

Time moves in steps of a millisecond; nothing sleeps and nothing is real but the code under test.
"""

import errno
import heapq
import random
from dataclasses import dataclass, field

from quorumd import commands, limits
from quorumd.commands import Kind, Status
from quorumd.consensus.engine import Role
from quorumd.consensus.paxos import PaxosConfig
from quorumd.consensus.raft import RaftConfig
from quorumd.core import Core
from quorumd.errors import DiskError, NoRoom
from quorumd.fragments import Fragmenter, Reassembler
from quorumd.ports import Meta
from quorumd.settings import NodeRandom, Settings
from quorumd.types import PAXOS, RAFT
from quorumd_fastpath import wire
from quorumd_fastpath.wire import Slab

MS = limits.MILLISECOND
SEGMENT = 4 * limits.MIB
ENGINE = RAFT  # of a world that is not told; the fixture `either_engine` changes it
CLUSTER = 0xC1C1


def consensus(engine, mtu=65_000):
    """The settings of an engine, the same for both."""
    kind = PaxosConfig if engine == PAXOS else RaftConfig
    return kind(
        40 * MS, 120 * MS, limits.MAX_APPEND_BYTES, limits.DEFAULT_INFLIGHT_BYTES, 256, datagram_bytes=mtu - 120
    )


class MemoryDisk:
    """The Disk port in memory: a page cache, the platter under it, and writes between the two."""

    def __init__(self):
        self.meta: Meta | None = None
        self.cache: dict[int, bytearray] = {}
        self.platter: dict[int, bytearray] = {}
        self.unsynced: list[tuple[int, int, bytes, int]] = []  # (segment, offset, bytes, seq; -1: header)
        self.synced_seq = 0
        self.submitted_seq = 0
        self.prepare_errno = 0
        self.preparing: list[tuple[int, int]] = []
        self.prepared_done: list[tuple[int, int]] = []
        self.read_queue: list[tuple[int, bytes]] = []
        self.stuck_since: int | None = None
        self.now = 0
        self.failure: str | None = None
        self.syncs = 0

    # start-up
    def read_meta(self):
        return self.meta

    def where(self):
        return "the directory"

    def write_meta(self, meta):
        self.meta = meta

    def segments(self):
        return sorted(self.cache)

    def load(self, number):
        return memoryview(self.cache[number]).toreadonly()

    def distrust(self, number):
        pass

    def loaded(self):
        pass

    def path(self, number):
        return f"wal-{number:016d}.seg"

    def sync_all(self):
        self.sync()
        for number, data in self.cache.items():  # a killed process leaves in the page cache what no sync had reached
            self.platter[number][:] = data

    def wipe(self, number, offset):
        size = len(self.cache[number]) - offset
        self.cache[number][offset:] = bytes(size)
        self.platter[number][offset:] = bytes(size)

    def remove(self, number):
        del self.cache[number]
        self.platter.pop(number, None)

    def create(self, number, size_bytes):
        if self.prepare_errno:
            raise NoRoom(f"{self.path(number)}: errno {self.prepare_errno}")
        self.cache[number] = bytearray(size_bytes)
        self.platter[number] = bytearray(size_bytes)

    # running
    def prepare(self, number, size_bytes):
        self.preparing.append((number, size_bytes))

    def prepared(self):
        done, self.prepared_done = self.prepared_done, []
        return done

    def begin_segment(self, number, header):
        self._write(number, 0, header, -1)

    def append(self, number, offset, batch, seq):
        self._write(number, offset, bytes(batch.data()), seq)
        self.submitted_seq = seq

    def _write(self, number, offset, data, seq):
        self.cache[number][offset : offset + len(data)] = data
        self.unsynced.append((number, offset, data, seq))

    def durable(self):
        if self.failure:
            raise DiskError(self.failure)
        return self.synced_seq

    def recycle(self):
        return None

    def read(self, number, offset, length, tag):
        if len(self.read_queue) >= limits.READ_BACKS:
            return False
        self.read_queue.append((tag, bytes(self.cache[number][offset : offset + length])))
        return True

    def reads(self):
        done, self.read_queue = self.read_queue, []
        return done

    def queued_bytes(self):
        return sum(len(data) for _, _, data, _ in self.unsynced)

    def oldest_pending_ns(self):
        return self.now - self.stuck_since if self.stuck_since is not None and self.unsynced else 0

    def sync_p99_us(self):
        return 0

    # what the world does to it
    def work(self, now):
        """One cycle of the background threads."""
        self.now = now
        for number, size in self.preparing:
            if not self.prepare_errno:
                self.create(number, size)
            self.prepared_done.append((number, self.prepare_errno))
        self.preparing = []
        if self.stuck_since is None:
            self.sync()

    def sync(self):
        for number, offset, data, _ in self.unsynced:
            self.platter[number][offset : offset + len(data)] = data
        self.unsynced = []
        if self.synced_seq != self.submitted_seq:
            self.syncs += 1
        self.synced_seq = self.submitted_seq

    def stick(self, now):
        self.stuck_since = now

    def killed(self):
        """The process died: the page cache stays, what was queued may or may not have been written; here it was."""
        self._reopened()

    def power_loss(self, rng, lose=0.9):
        """Un-synced writes are lost or torn sector by sector, in any order."""
        for number, offset, data, _ in self.unsynced:
            for at in range(0, len(data), limits.SECTOR_BYTES):
                if rng.random() >= lose:
                    piece = data[at : at + limits.SECTOR_BYTES]
                    self.platter[number][offset + at : offset + at + len(piece)] = piece
        self.cache = {number: bytearray(data) for number, data in self.platter.items()}
        self._reopened()

    def _reopened(self):
        self.unsynced = []
        self.synced_seq = self.submitted_seq = 0
        self.preparing, self.prepared_done, self.read_queue = [], [], []
        self.stuck_since = None


@dataclass
class Member:
    core: Core | None
    disk: MemoryDisk
    peers: Slab = field(default_factory=lambda: Slab(64, 65536))
    clients: Slab = field(default_factory=lambda: Slab(64, 65536))
    paused: bool = False
    halted: str = ""


class World:
    """n nodes. `cut` holds directed links that lose everything; `loss` is the chance that any datagram is lost."""

    def __init__(
        self, n=3, seed=0, *, engine=None, mtu=65000, bootstrap=CLUSTER, ring_bytes=8 * limits.MIB, **settings
    ):
        self.rng = random.Random(seed)
        self.now = 1_000 * MS
        self.amid = 0  # how long a process stops between looking at the clock and reading its sockets
        self.ids = list(range(1, n + 1))
        self.mtu = mtu
        self.engine = engine or ENGINE
        self.settings = settings
        self.ring_bytes = ring_bytes
        self.loss = 0.0
        self.duplicate = 0.0
        self.delay_ms = (0, 0)
        self.cut: set[tuple[int, int]] = set()
        self.wire: list[tuple[int, int, bytes, bytes, bytes]] = []
        self.sent = 0
        self.events: list[tuple[int, str, dict]] = []
        self.inbox: dict[bytes, list[bytes]] = {}
        self.members = {i: Member(None, MemoryDisk()) for i in self.ids}
        for i in self.ids:
            self.start(i, bootstrap=bootstrap)

    def start(self, i, *, bootstrap=False, **overrides):
        rng = random.Random(self.rng.getrandbits(64))
        values = {
            "node": i,
            "peers": {j: b"peer%d" % j for j in self.ids},
            "client_addresses": {j: f"node{j}:1" for j in self.ids},
            "consensus": consensus(self.engine, self.mtu),
            "hashes": {"nodes": 1, "engine": 2, "quorums": 3, "storage.quota_mib": 4},
            "mtu_peer": self.mtu,
            "mtu_client": self.mtu,
            "segment_bytes": SEGMENT,
            "ring_bytes": self.ring_bytes,
            "ring_entries": 1 << 14,
            "bootstrap": bootstrap,
        }
        settings = Settings(**{**values, **self.settings, **overrides})
        member = self.members[i]
        member.halted = ""
        member.core = Core(
            settings,
            member.disk,
            NodeRandom(rng.uniform, lambda: rng.getrandbits(64)),
            lambda what, **detail: self.events.append((i, what, detail)),
        )
        member.core.start(self.now, self.now)
        return member.core

    def stop(self, i, *, power=False):
        member = self.members[i]
        member.core = None
        if power:
            member.disk.power_loss(self.rng)
        else:
            member.disk.killed()
        member.peers.clear()
        member.clients.clear()

    # -- time and network -------------------------------------------------------------------------------------------

    def send(self, source: bytes, dest: bytes, data: bytes):
        self.sent += 1
        if self.rng.random() < self.loss or self._is_cut(source, dest):
            return
        for _ in range(2 if self.rng.random() < self.duplicate else 1):
            due = self.now + self.rng.randint(*self.delay_ms) * MS
            heapq.heappush(self.wire, (due, self.sent, dest, data, source))

    def _is_cut(self, source, dest):
        if source[:4] == b"peer" == dest[:4]:
            return (int(source[4:]), int(dest[4:])) in self.cut
        return False

    def isolate(self, i):
        self.cut |= {(i, j) for j in self.ids if j != i} | {(j, i) for j in self.ids if j != i}

    def heal(self):
        self.cut.clear()

    def _deliver(self):
        while self.wire and self.wire[0][0] <= self.now:
            _, _, dest, data, source = heapq.heappop(self.wire)
            if dest[:4] in (b"peer", b"node"):
                member = self.members[int(dest[4:])]
                if member.core is not None and not member.paused:
                    (member.peers if dest[:4] == b"peer" else member.clients).push(data, source)
            else:
                self.inbox.setdefault(dest, []).append(data)

    def step(self, ms=1):
        for _ in range(ms):
            self.now += MS
            self._deliver()
            for i, member in self.members.items():
                if member.core is not None and not member.paused:
                    self._turn(i, member)

    def _turn(self, i, member):
        core = member.core
        member.disk.work(self.now)
        if len(member.peers):
            core.on_peers(member.peers, self.now)
        if len(member.clients):
            core.on_clients(member.clients, self.now)
        core.finish(self.now, self.now + self.amid)
        self._carry(i, core)
        member.peers.clear()
        member.clients.clear()

    def _carry(self, i, core):
        self._emit(b"peer%d" % i, core.peer_outbox.drain())
        self._emit(b"node%d" % i, core.client_outbox.drain())

    def _emit(self, own, datagrams):
        for data, addr in datagrams:
            self.send(own, addr, data)

    def until(self, condition, within_ms=3000):
        """Steps until `condition()` is true; fails the test after `within_ms` simulated milliseconds."""
        for _ in range(within_ms):
            found = condition()
            if found:
                return found
            self.step()
        raise AssertionError(f"not within {within_ms} simulated ms: {condition}")

    # -- looking ----------------------------------------------------------------------------------------------------

    def cores(self):
        return [m.core for m in self.members.values() if m.core is not None and not m.paused]

    def leader(self):
        """The live leader of the highest term, once a majority follows it; else None."""
        leaders = [c for c in self.cores() if c.engine is not None and c.engine.role is Role.LEADER]
        if not leaders:
            return None
        best = max(leaders, key=lambda c: c.engine.term)
        followers = sum(c.engine is not None and c.engine.leader == best.settings.node for c in self.cores())
        return best if followers > len(self.ids) // 2 and best.applier.applied >= 1 else None

    def elect(self):
        return self.until(self.leader).settings.node

    def has(self, what):
        return [(i, detail) for i, event, detail in self.events if event == what]

    def converged(self):
        cores = [c for c in self.cores() if c.engine is not None]
        return len({(c.applier.applied, c.store.digest) for c in cores}) == 1


def fill_disk(member, error=errno.ENOSPC):
    """No segment more, and those made ahead are gone: only the rest of the current one is left."""
    member.disk.prepare_errno = error
    member.disk.prepared_done = [(number, error) for number, _ in member.disk.prepared_done]
    for number in member.disk.segments():
        if number > member.core.storage._number:
            member.disk.remove(number)
    member.core.storage._ahead.clear()
    member.core.storage._preparing = False


class Caller:
    """One client session over the world's network: sends records, follows redirects, resends until answered."""

    def __init__(self, world: World, seed=1, cluster=CLUSTER):
        self.world = world
        self.name = b"k%d" % seed
        self.session = random.Random(seed).randbytes(16)
        self.seq = 0
        self.read_seq = 1 << 32
        self.cluster = cluster
        self.target = world.ids[0]
        self.fragmenter = None
        self.reassembler = Reassembler()
        world.inbox[self.name] = []

    def open(self):
        reply = self.request(Kind.OPEN_SESSION, 0, b"")
        assert reply.status == Status.OK, reply
        return self

    def put(self, key, value, **options):
        return self.write(commands.Put(key, value, **options))

    def write(self, op, within_ms=5000):
        self.seq += 1
        reply = self.request(Kind.COMMAND, self.seq, commands.encode(op), within_ms)
        return commands.decode(op, reply.revision, reply.body) if reply.status == Status.OK else reply

    def fill(self, entries):
        """Writes so many entries to the leader, many to a turn, and does not wait for the answers."""
        while entries > 0:
            records = []
            for _ in range(min(entries, 64)):
                self.seq += 1
                command = commands.encode(commands.Put(b"k%d" % (self.seq % 7), b"v"))
                records.append(commands.encode_record(Kind.COMMAND, self.session, self.seq, self.seq, command))
            self.transmit(b"".join(records), self.world.leader().settings.node, len(records))
            entries -= len(records)
            self.world.step(2)

    def get(self, key, within_ms=5000):
        op = commands.Range(key)
        self.read_seq += 1
        reply = self.request(Kind.READ, self.read_seq, commands.encode(op), within_ms)
        if reply.status != Status.OK:
            return reply
        found = commands.decode(op, reply.revision, reply.body).kvs
        return found[0].value if found else None

    def request(self, kind, seq, command, within_ms=5000, resend_ms=40):
        answered = self.seq if kind == Kind.COMMAND else self.seq + 1
        record = commands.encode_record(kind, self.session, seq, answered, command)
        waited = 0
        while waited < within_ms:
            if waited % resend_ms == 0:
                if waited:
                    self.target = self.target % len(self.world.ids) + 1
                self.transmit(record)
            self.world.step()
            waited += 1
            reply = self.receive(seq)
            if reply is None:
                continue
            if reply.status == Status.NOT_LEADER:
                hinted = int.from_bytes(reply.body[:2], "little")
                if hinted:
                    self.target = hinted
                    self.transmit(record)
                continue
            return reply
        raise TimeoutError(f"no answer within {within_ms} simulated ms")

    def transmit(self, record, target=None, count=1):
        frame = wire.encode_frame(wire.KIND_REQUEST, 0, self.cluster, 0, 0, 0, 0, 0, 0, 0, count, record)
        dest = b"node%d" % (target or self.target)
        if len(frame) <= self.world.mtu:
            self.world.send(self.name, dest, frame)
            return
        if self.fragmenter is None:
            self.fragmenter = Fragmenter(self.world.mtu, first_id=self.world.rng.getrandbits(32))
        if not len(self.fragmenter):
            self.fragmenter.send(dest, frame, self.world.now)

    def receive(self, seq, note=lambda reply: None):
        if self.fragmenter is not None:
            for dest, fragment in self.fragmenter.poll(self.world.now):
                number, index, count, total, payload = fragment
                self.world.send(
                    self.name,
                    dest,
                    wire.encode_frame(
                        wire.KIND_FRAGMENT, 0, self.cluster, 0, 0, 0, 0, number, index, total, count, payload
                    ),
                )
        found = None
        arrived = [part for data in self.world.inbox[self.name] for part in wire.parse_datagram(data)]
        for frame, payload in arrived:
            if frame.kind == wire.KIND_FRAGMENT:
                sender = b"node%d" % frame.sender
                ack, whole = self.reassembler.on_fragment(sender, frame, payload, self.world.now)
                if ack is not None:
                    self.world.send(
                        self.name,
                        sender,
                        wire.encode_frame(
                            wire.KIND_FRAGMENT_ACK, 0, self.cluster, 0, 0, 0, 0, frame.term, 0, 0, frame.count, ack
                        ),
                    )
                arrived += wire.parse_datagram(whole) if whole else []
            elif frame.kind == wire.KIND_REPLY:
                for reply in commands.decode_replies(payload, frame.count):
                    note(reply)
                    if reply.seq == seq:
                        found = reply
            elif frame.kind == wire.KIND_FRAGMENT_ACK and self.fragmenter is not None:
                sender = b"node%d" % frame.sender
                self.fragmenter.on_ack(sender, frame.term, frame.count, payload, self.world.now)
        self.world.inbox[self.name] = []
        return found


