"""Whole nodes under a random world: kills, power loss, partitions, loss, hanging disks, pauses, concurrent clients.

Checked all along: one leader a term, equal state at equal applied index, no read older than what was acknowledged or
read before it, exact counters, no torn write taken for corruption. At the end: everybody serves again and agrees.

QUORUMD_SEEDS=N runs N seeds. A failing one replays with `pytest tests/node/test_random_world.py -k "[SEED]"`.
"""

import os
import random
from collections import deque

import pytest
from world import CLUSTER, MS, Caller, MemoryDisk, World

from quorumd import commands, limits
from quorumd.answers import carry_out
from quorumd.commands import Compare, Kind, Put, Range, Status, Txn
from quorumd.consensus.engine import Role

pytestmark = pytest.mark.usefixtures("either_engine")

SEEDS = int(os.environ.get("QUORUMD_SEEDS", "20"))
CHAOS_MS = 4000
SLOTS = 4096  # datagrams that a paused node's sockets hold


class Slow:
    """Some cycles of a disk's thread do not come to its sync."""

    def __init__(self, disk: MemoryDisk, rng: random.Random):
        self.chance = 0.0
        sync = disk.sync
        disk.sync = lambda: None if rng.random() < self.chance else sync()


class Session(Caller):
    """A client that asks one thing after another and checks what it is told. `history` is shared by all of them."""

    def __init__(self, world, seed, history):
        super().__init__(world, seed)
        self.dice = random.Random(seed)
        self.history = history
        self.own = b"r%d" % seed  # the register that only this client writes, ever larger numbers
        self.written = 0
        self.deadline = 0
        self.opened = False
        self.stopping = False
        self.record = None
        self.steps = self.script()
        self.ask(next(self.steps))

    @property
    def idle(self):
        return self.record is None

    def script(self):
        """Yields (kind, op), is sent the reply."""
        reply = yield Kind.OPEN_SESSION, b""
        assert reply.status == Status.OK, reply
        while not self.stopping:
            choice = self.dice.random()
            if choice < 0.35:
                yield from self.write()
            elif choice < 0.65:
                yield from self.look(self.dice.choice(list(self.history.registers) or [self.own]))
            else:
                yield from self.count(b"c%d" % self.dice.randrange(2))

    def write(self):
        self.written += 1
        size = self.dice.choice((0, 0, 0, 300, 1150, 1190, 1230, 5000, 70_000))
        self.history.begun(self.own, self.written)
        reply = yield Kind.COMMAND, Put(self.own, b"%d " % self.written + b"x" * size)
        assert reply.status == Status.OK, reply
        self.history.done(self.own, self.written)

    def look(self, key):
        least = self.history.done_at(key)
        found = yield from self.fetch(key)
        value = int(found.value.split()[0]) if found else 0
        assert least <= value <= self.history.begun_at(key), (key, least, value)
        self.history.done(key, value)

    def fetch(self, key):
        op = Range(key)
        reply = yield Kind.READ, op
        assert reply.status == Status.OK, reply
        found = commands.decode(op, reply.revision, reply.body).kvs
        return found[0] if found else None

    def count(self, key):
        """Adds one, if nobody else did since the read."""
        found = yield from self.fetch(key)
        value, revision = (int(found.value), found.mod_revision) if found else (0, 0)
        op = Txn([Compare.mod_revision(key, "=", revision)], [Put(key, b"%d" % (value + 1))], [])
        reply = yield Kind.COMMAND, op
        assert reply.status == Status.OK, reply
        if commands.decode(op, reply.revision, reply.body).succeeded:
            self.history.counted(key, value + 1)

    # -- the wire --

    def ask(self, step):
        kind, op = step
        command = op if isinstance(op, bytes) else commands.encode(op)
        if kind == Kind.COMMAND:
            self.seq += 1
            self.asked = self.seq
        elif kind == Kind.READ:
            self.read_seq += 1
            self.asked = self.read_seq
        else:
            self.asked = 0
        answered = self.seq if kind == Kind.COMMAND else self.seq + 1
        self.record = commands.encode_record(kind, self.session, self.asked, answered, command)
        self.deadline = 0

    def turn(self):
        """One millisecond."""
        if self.idle:
            return
        reply = self.receive(self.asked)
        if reply is not None and reply.status in (Status.NOT_LEADER, Status.OVERLOADED, Status.STOPPED):
            hinted = int.from_bytes(reply.body[:2], "little") if reply.status == Status.NOT_LEADER else 0
            if hinted and hinted != self.target:
                self.target = hinted
                self.deadline = self.world.now
        elif reply is not None:
            self.record = None
            try:
                self.ask(self.steps.send(reply))
            except StopIteration:
                return
        if self.world.now >= self.deadline:
            if self.deadline:
                self.target = self.dice.choice(self.world.ids)
            self.deadline = self.world.now + self.dice.randint(30, 120) * MS
            self.transmit(self.record)


class History:
    """What all clients did: for each register the highest value begun and the highest known to everybody as done."""

    def __init__(self):
        self.registers = {}
        self.counters = {}

    def begun(self, key, value):
        self.registers.setdefault(key, [0, 0])[0] = value

    def done(self, key, value):
        register = self.registers.setdefault(key, [0, 0])
        register[1] = max(register[1], value)

    def begun_at(self, key):
        return self.registers.get(key, (0, 0))[0]

    def done_at(self, key):
        return self.registers.get(key, (0, 0))[1]

    def counted(self, key, value):
        values = self.counters.setdefault(key, set())
        assert value not in values, f"{key} counted to {value} twice"
        values.add(value)


class RandomWorld(World):
    """A world in which things happen."""

    def __init__(self, seed):
        dice = random.Random(seed)
        self.dice = dice
        super().__init__(
            dice.choice((1, 3, 3, 3, 3, 5)),
            seed,
            mtu=dice.choice((65000, 65000, 1400)),
            ring_bytes=dice.choice((6, 8)) * limits.MIB,
            filter_incarnations=dice.random() < 0.8,
            mac_bytes=dice.choice((0, 16)),
        )
        self.backlog = {i: deque(maxlen=SLOTS) for i in self.ids}
        self.paused_at = {}
        self.undo = []
        self.slow = {i: Slow(member.disk, dice) for i, member in self.members.items()}
        self.leaders = {}
        self.digests = {}
        self.history = History()
        self.sessions = [Session(self, seed * 100 + k, self.history) for k in range(1, 5)]

    def _deliver(self):
        for i, waiting in self.backlog.items():
            member = self.members[i]
            if member.paused:
                for item in [item for item in self.wire if item[0] <= self.now and self._for(item[2]) == i]:
                    self.wire.remove(item)
                    waiting.append(item)
            elif member.core is None:
                waiting.clear()
        self.wire.sort()
        super()._deliver()

    @staticmethod
    def _for(dest):
        return int(dest[4:]) if dest[:4] in (b"peer", b"node") else 0

    def pause(self, i):
        if self.members[i].core is not None:
            self.members[i].paused = True
            self.paused_at[i] = self.now

    def resume(self, i):
        """As node.py does after SIGCONT: first what waited in the sockets, then the clock."""
        member = self.members[i]
        if not member.paused:
            return
        member.paused = False
        for _, _, dest, data, source in self.backlog[i]:
            (member.peers if dest[:4] == b"peer" else member.clients).push(data, source)
        self.backlog[i].clear()
        if member.core is not None and self.now - self.paused_at[i] > 15 * MS:
            member.core.on_peers(member.peers, self.now)
            member.core.settle()
            member.peers.clear()
            member.core.stalled(self.now)

    def halt(self, i, power):
        if self.members[i].core is not None:
            self.members[i].paused = False
            self.backlog[i].clear()
            self.stop(i, power=power)

    def revive(self, i):
        if self.members[i].core is None:
            self.start(i)

    def disturb(self):
        """One fault, and most often its end a while later; now and then a second one falls into that while."""
        dice, i = self.dice, self.dice.choice(self.ids)
        what = dice.choice(("kill", "power", "blackout", "isolate", "cut", "network", "stick", "slow", "pause", "move"))
        undo = None
        if what in ("kill", "power"):
            self.halt(i, power=what == "power")
            undo = lambda: self.revive(i)  # noqa: E731
        elif what == "blackout":
            for j in self.ids:
                self.halt(j, power=dice.random() < 0.8)
            for j in self.ids:
                self.later(lambda j=j: self.revive(j))
        elif what in ("isolate", "cut"):
            links = {(i, j) for j in self.ids} | {(j, i) for j in self.ids}
            links = {dice.choice(sorted(links))} if what == "cut" else links
            self.cut |= links
            undo = lambda: self.cut.difference_update(links)  # noqa: E731
        elif what == "network":
            self.loss, self.duplicate = dice.choice((0, 0.02, 0.2)), dice.choice((0, 0.1))
            self.delay_ms = (0, dice.choice((0, 3, 15)))
            undo = self.quiet
        elif what == "stick":
            self.members[i].disk.stuck_since = self.now
            undo = lambda: setattr(self.members[i].disk, "stuck_since", None)  # noqa: E731
        elif what == "slow":
            self.slow[i].chance = dice.choice((0, 0.5, 0.9))
        elif what == "pause":
            self.pause(i)
            undo = lambda: self.resume(i)  # noqa: E731
        elif (leader := self.leader()) is not None:
            carry_out(leader, {"command": "transfer-leader", "to": i}, leader.engine.term)
        if undo:
            self.later(undo)

    def later(self, undo):
        self.undo.append((self.now + self.dice.randint(1, self.dice.choice((30, 500, 900))) * MS, undo))

    def undo_due(self):
        due = [undo for at, undo in self.undo if at <= self.now]
        self.undo = [(at, undo) for at, undo in self.undo if at > self.now]
        for undo in due:
            undo()

    def quiet(self):
        self.loss = self.duplicate = 0.0
        self.delay_ms = (0, 0)

    def check(self):
        for i, member in self.members.items():
            core = member.core
            if core is None:
                continue
            assert not core.out_of_quorum, core.out_of_quorum
            engine, applied = core.engine, core.applier.applied
            if engine.role is Role.LEADER:
                assert self.leaders.setdefault(engine.term, i) == i, f"two leaders in term {engine.term}"
            if applied:
                digest = core.store.digest
                assert self.digests.setdefault(applied, digest) == digest, f"diverged at {applied}"

    def tick(self):
        self.step()
        for session in self.sessions:
            session.turn()
        self.check()
        self.undo_due()

    def calm(self):
        """Everything works again."""
        for i in self.ids:
            self.resume(i)
            self.members[i].disk.stuck_since = None
            self.slow[i].chance = 0.0
            self.revive(i)
        self.heal()
        self.quiet()
        self.undo.clear()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_acknowledged_is_lost_and_everybody_recovers(seed):
    world = RandomWorld(seed)
    next_at = world.now
    for _ in range(CHAOS_MS):
        world.tick()
        if world.now >= next_at:
            world.disturb()
            next_at = world.now + world.dice.randint(20, 350) * MS
    world.calm()
    for session in world.sessions:
        session.stopping = True
    for _ in range(15_000):
        if all(session.idle for session in world.sessions) and world.leader() and world.converged():
            break
        world.tick()
    else:
        pytest.fail(f"no recovery: {[(c.engine.status(), c.applier.applied) for c in world.cores()]}")
    caller = Caller(world, 7, CLUSTER).open()
    for key, (begun, done) in world.history.registers.items():
        value = caller.get(key)
        assert done <= int(value.split()[0] if value else 0) <= begun
    for key, values in world.history.counters.items():
        assert values == set(range(1, len(values) + 1))
        assert caller.get(key) == b"%d" % len(values)
