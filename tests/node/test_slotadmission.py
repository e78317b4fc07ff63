"""What a log with holes takes: memory stays bounded, and whatever fills it, the first open slot gets in."""

import random
from types import SimpleNamespace

import pytest
from world import Caller, World, consensus

from quorumd import commands, limits
from quorumd.commands import Kind
from quorumd.consensus.engine import Held, Role
from quorumd.consensus.paxos.messages import Accept, Values
from quorumd.slotadmission import SlotAdmission
from quorumd.slotlog import IslandRoom, SlotLog
from quorumd.sources import BytesSource, SlabSource
from quorumd.types import PAXOS
from quorumd_fastpath.ring import Ring
from quorumd_fastpath.wire import Slab

MOST = 400  # bytes of an entry here
ISLANDS = IslandRoom(1500, 12)
RING = 4000


def entry(size, fill):
    return commands.encode_record(Kind.COMMAND, bytes([fill % 251]) * 16, 1, 0, bytes(size - 40))


class Node:
    """Log and admission, driven as core.py does, with a disk that syncs when it is told."""

    def __init__(self):
        self.log = log = SlotLog(Ring(RING, 64), ISLANDS)
        self.storage = SimpleNamespace(
            room=lambda size, growing: True, claim=lambda size: None, settled=lambda: None, written=0,
            yield_ring=self.yield_ring,
        )
        self.admission = SlotAdmission(log, self.storage, SimpleNamespace(peers={}), SimpleNamespace(), 3, (2, 2))
        self.let_through = []
        self.top = 0

    def yield_ring(self):
        self.log.ring.pin = self.log.yieldable(self.storage.written) + 1

    def ask(self, first, records):
        """How many of these values, from the first on, are taken; they are in the log at the end of the turn."""
        message = Accept(2, 1, 9, first, len(records), 0, BytesSource(b"junk" + b"".join(records), 4))
        taken = self.admission.entries(message, 0, Held(0, 0))
        if taken is None and self.admission.entries_open:
            self.settle()
            taken = self.admission.entries(message, 0, Held(0, 0))
        if taken is None:
            return 0
        self.let_through.append((first, records[: taken.entries]))
        return taken.entries

    def settle(self):
        log = self.log
        for first, records in self.let_through:
            skip = max(log.committed + 1 - first, 0)  # the engine takes none that is known to be chosen
            if records[skip:]:
                log.place(first + skip, len(records[skip:]), b"".join(records[skip:]))
                self.yield_ring()
                log.absorb()
        self.let_through.clear()
        self.admission.settled()

    def take(self, first, records):
        taken = self.ask(first, records)
        self.settle()
        return taken

    def choose(self, upto):
        self.storage.written = self.log.prefix
        self.log.committed = max(self.log.committed, min(upto, self.log.prefix))
        self.yield_ring()
        self.log.absorb()

    def fill(self):
        """Open slots in all of the ring, islands behind a hole as many as there may be; the last slot of all."""
        slot = self.log.prefix + 1
        while self.log.ring.last == slot - 1 and self.take(slot, [entry(100, 1)]):
            slot += 1
        slot += 100
        while self.take(slot, [entry(100, 2)]):
            slot += 1
        return slot - 1


def full():
    node = Node()
    node.take(1, [entry(40, 0)])
    node.choose(1)
    node.top = node.fill()
    assert node.log.islands
    assert node.log.ring.pin == 2
    return node


def test_values_that_take_the_place_of_others_need_no_room_of_their_own():
    node = full()
    assert node.take(node.top - 2, [entry(100, 3)] * 3) == 3
    assert node.take(node.top - 2, [entry(100, 4)] * 30) == 3, "what is behind them would be more"
    assert node.take(2, [entry(100, 3)] * 10) == 10
    assert node.take(5, [entry(40, 3)] * 10) == 10
    assert node.take(1, [entry(400, 4)]) == 1, "it is chosen, and left out"


@pytest.mark.parametrize("message", [Accept, Values])
def test_the_first_open_slot_is_taken_whatever_fills_the_log(message):
    node = full()
    slab = Slab(2, 4096)
    values = [entry(MOST, 5), entry(MOST, 6), entry(100, 7)]
    assert slab.push(b"head" + b"".join([entry(40, 0), *values]), b"peer")
    source = SlabSource(slab, 0, 4, 40 + sum(map(len, values)))
    made = (Accept(2, 1, 9, 1, 4, 0, source), Values(2, 1, 9, 1, 4, 9, True, source))[message is Values]
    taken = node.admission.entries(made, 0, Held(0, 0))
    assert taken == made._replace(entries=2), "slots 1, which is chosen, and 2"
    node.let_through.append((1, [entry(40, 0), values[0]]))
    node.settle()
    assert node.take(3, [entry(MOST, 6)]) == 0
    node.log.committed = 2  # the value may yet be on its way to the disk
    assert node.take(3, [entry(MOST, 6)]) == 0
    assert node.take(3, [entry(100, 6)]) == 1
    for slot in range(3, 60):
        node.choose(slot - 1)
        assert node.take(slot, [entry(MOST, 6), entry(MOST, 7)]), slot
    assert node.log.held(59, 59) == entry(MOST, 6)


def test_the_same_room_is_given_once_in_a_turn():
    assert [Node().ask(slot, [entry(MOST, 8)] * 4) for slot in (5, 7)] == [3, 3]
    node = Node()
    assert [node.ask(slot, [entry(MOST, 8)]) for slot in (5, 7, 9, 11)] == [1, 1, 1, 0]
    node = full()
    assert [node.ask(slot, [entry(MOST, 8)]) for slot in (2, 3, 4, 2)] == [1, 0, 0, 1]


@pytest.mark.parametrize("seed", range(30))
def test_memory_is_bounded_and_the_first_open_slot_never_waits(seed):
    dice, node = random.Random(seed), Node()
    log = node.log
    for _ in range(400):
        for _ in range(dice.choice((1, 1, 3))):
            begin = log.committed + 1
            first = max(begin + dice.choice((-2, 0, 0, 1, 5)), 1)
            if dice.random() < 0.4:
                first = max(log.prefix + dice.choice((-3, 1, 1, 2, 9)), begin)
            sizes = dice.choices((40, 40, 90, 300, MOST), k=dice.randint(1, 5))
            records = [entry(size, dice.randrange(9)) for size in sizes]
            taken = node.ask(first, records)
            if first <= log.committed + 1 <= first + len(records) - 1 and node.storage.written >= log.committed:
                assert taken >= log.committed + 2 - first
        node.settle()
        # A ring that is full may leave less than three entries unused: at its end, and where it begins anew.
        assert log.island_bytes <= ISLANDS.size_bytes + 4 * MOST
        assert log.held(log.committed + 1, log.prefix) is not None or log.prefix == log.committed
        if dice.random() < 0.3:
            node.choose(dice.randint(log.committed, log.prefix))
    for _ in range(100):
        node.choose(log.prefix)
        assert log.ring.last == log.prefix
        assert node.take(log.prefix + 1, [entry(MOST, 1)]) == 1


def test_what_a_leader_proposes_comes_behind_all_that_waits():
    node = Node()
    node.log.place(1, 10, b"".join(entry(410, i) for i in range(10)))
    assert node.log.ring.last == 9
    assert node.log.ring.room(40, 1)
    assert not node.admission.own(1, 40), "the ring has room for it, but not for what is before it as well"
    node.admission.settled()
    node.choose(10)
    assert node.admission.own(1, 40)


# -- whole nodes ------------------------------------------------------------------------------------------------------


def flood(world, caller, target, entries, size, at_once=32):
    """So many writes, not waited for; those that come at once are proposed together, or refused."""
    for _ in range(entries):
        caller.seq += 1
        command = commands.encode(commands.Put(b"k%d" % (caller.seq % 7), bytes(size)))
        record = commands.encode_record(Kind.COMMAND, caller.session, caller.seq, caller.seq, command)
        caller.transmit(record, target)
        if caller.seq % at_once == 0:
            world.step()


def test_a_leader_that_has_yet_to_learn_what_was_chosen_takes_no_writes():
    world = World(3, seed=3, engine=PAXOS)
    caller = Caller(world)
    caller.target = former = world.elect()
    caller.open()
    behind, other = (i for i in world.ids if i != former)
    world.isolate(behind)
    for i in range(20):
        caller.put(b"a%d" % i, bytes(1000))
    world.step(100)
    world.heal()
    world.isolate(former)
    core = world.members[behind].core
    held_back = world.members[other].core.engine._s
    for _ in range(2000):
        held_back.election_deadline = 1 << 62  # the other one does not run
        world.step()
        if core.engine.role is Role.LEADER:
            break
    assert core.engine.commit < core.engine.status().base
    world.cut = {(i, j) for i in world.ids for j in world.ids if i != j}  # what it fetches does not come
    last = core.engine.last
    flood(world, caller, behind, 600, 60_000)
    assert core.engine.role is Role.LEADER
    assert (core.engine.last, core.log.islands, len(core.clients.pending)) == (last, 1, 0), "its no-op, and no write"
    world.heal()
    world.until(lambda: world.leader() and world.leader().engine.accepts_proposals, 5000)
    caller.put(b"b", b"v")
    assert caller.get(b"b") == b"v"


def test_a_node_full_of_slots_that_lost_learns_what_was_chosen_instead():
    """A leader that was cut off, with a ring full of what nobody else has and hardly any room beside it."""
    config = consensus(PAXOS)._replace(max_append_bytes=8 * limits.KIB)
    world = World(
        3, seed=4, engine=PAXOS, ring_bytes=64 * limits.KIB, islands=IslandRoom(500, 4), consensus=config
    )
    caller = Caller(world)
    caller.target = lost = world.elect()
    caller.open()
    world.step(100)
    world.isolate(lost)
    flood(world, caller, lost, 90, 900, at_once=1)
    core = world.members[lost].core
    assert not core.log.ring.room(1000, 1)
    world.until(lambda: world.leader() and world.leader().settings.node != lost, 5000)
    caller = Caller(world, seed=2)
    caller.target = world.leader().settings.node
    caller.open()
    for i in range(80):
        caller.put(b"b%d" % i, bytes(1500))
    world.heal()
    world.until(lambda: core.engine.commit == world.leader().engine.commit, 5000)
    assert core.log.island_bytes <= 500 + 3 * 1700
    world.stop(next(i for i in world.ids if i not in (lost, world.leader().settings.node)))
    caller.put(b"c", b"v")
    assert caller.get(b"c") == b"v"
