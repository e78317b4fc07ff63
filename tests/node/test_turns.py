"""A turn does a bounded amount of work, whatever clients ask for, and goes on in the next one (applier.py)."""

import pytest
from test_lease_expiry import TTL_MS, Holder
from world import MS, Caller, World

from quorumd import limits
from quorumd.commands import Kind, LeaseKeepAlive, Put, Range, Status, Txn, encode, encode_record

pytestmark = pytest.mark.usefixtures("either_engine")

KEYS = 1000
ONE = 2 * KEYS + 400  # what a read of SORTED costs at most, and an entry with one
TURN = 5 * ONE
SORTED = Range(b"k", b"l", limit=1, sort_target="mod", order="descend")


class Watched(World):
    """Notes the most work that a node did in one turn."""

    most = 0

    def _turn(self, i, member):
        store = member.core.store
        before = store.work
        super()._turn(i, member)
        self.most = max(self.most, store.work - before)


@pytest.fixture
def world(monkeypatch):
    """KEYS keys under k, and turns that do little."""
    world = Watched()
    caller = Caller(world)
    caller.target = world.elect()
    caller.open()
    for at in range(0, KEYS, 100):
        caller.write(Txn((), tuple(Put(b"k%06d" % i, b"") for i in range(at, at + 100))))
    world.until(world.converged)
    monkeypatch.setattr(limits, "TURN_WORK", TURN)
    world.most = 0
    world.caller = caller
    return world


def ask(caller, kind, seqs, op, target):
    """Many operations in one datagram; their statuses by seq as they are answered."""
    command = encode(op)
    records = [encode_record(kind, caller.session, seq, seqs[0], command) for seq in seqs]
    caller.transmit(b"".join(records), target, len(records))
    found = {}
    collect(caller, found, len(seqs))
    return found


def collect(caller, found, count):
    """Waits for so many answers."""

    def all_there():
        caller.receive(0, lambda reply: found.update({reply.seq: reply.status}))
        return len(found) == count

    caller.world.until(all_there)


def test_entries_that_look_at_many_keys(world):
    leader = world.leader()
    node, term = leader.settings.node, leader.engine.term
    seqs = list(range(100, 300))
    began = world.now
    found = ask(world.caller, Kind.COMMAND, seqs, Txn((), (Put(b"z", b""), SORTED)), node)
    assert list(found) == seqs
    assert set(found.values()) == {Status.OK}
    assert (world.now - began) // MS >= len(seqs) // 6
    assert world.most <= TURN + ONE + 1000
    world.until(world.converged)
    assert (world.leader().settings.node, world.leader().engine.term) == (node, term)
    assert not world.has("stalled")


@pytest.mark.parametrize("stale", [False, True], ids=["confirmed", "stale"])
def test_reads_that_look_at_many_keys(world, stale):
    leader = world.leader()
    term = leader.engine.term
    node = leader.settings.node if not stale else next(i for i in world.ids if i != leader.settings.node)
    seqs = list(range(1000, 1200))
    found = ask(world.caller, Kind.STALE_READ if stale else Kind.READ, seqs, SORTED, node)
    assert list(found) == seqs
    assert set(found.values()) == {Status.OK}
    assert world.most <= TURN + ONE
    assert world.leader().engine.term == term
    core = world.members[node].core
    assert not core.applier.behind
    assert len(core.clients.reads) == 0


def test_a_node_that_has_more_to_do_does_not_wait(world):
    node = world.elect()
    core = world.members[node].core
    records = [encode_record(Kind.STALE_READ, bytes(16), seq, 0, encode(SORTED)) for seq in range(50)]
    world.caller.transmit(b"".join(records), node, 50)
    world.until(lambda: core.applier.behind)
    assert core.deadline(world.now) == world.now
    assert core.rests_until == 0
    world.until(lambda: not core.applier.behind)
    assert core.deadline(world.now) > world.now


def test_reads_that_wait_too_long_are_refused(world):
    node = world.elect()
    core = world.members[node].core
    total = 8 * limits.READ_WAIT // MS
    found = {}
    for at in range(0, total, 400):
        records = [encode_record(Kind.READ, world.caller.session, at + i, 0, encode(SORTED)) for i in range(400)]
        world.caller.transmit(b"".join(records), node, 400)
    collect(world.caller, found, total)
    assert len(core.clients.reads) == 0
    answered = sum(status == Status.OK for status in found.values())
    assert limits.READ_WAIT // MS * 5 <= answered < total
    assert set(found.values()) == {Status.OK, Status.OVERLOADED}


def test_a_keep_alive_waits_for_no_read(world):
    holder = Holder(world, 2)
    holder.target = node = world.elect()
    holder.hold()
    records = [encode_record(Kind.READ, world.caller.session, seq, 0, encode(SORTED)) for seq in range(400)]
    world.caller.transmit(b"".join(records), node, 400)
    assert holder.keep_alive(within_ms=20) == Status.OK
    assert len(world.members[node].core.clients.reads) > 200


def test_a_lease_does_not_end_while_its_keep_alives_wait_for_entries(world, monkeypatch):
    """As many entries as take longer than its TTL: it is kept alive as far as the holder could."""
    holder = Holder(world, 2)
    holder.target = world.elect()
    holder.hold()
    monkeypatch.setattr(limits, "TURN_WORK", 1)
    world.caller.fill(3000)
    began = world.now
    assert holder.keep_alive() == Status.OK
    assert world.now - began > (TTL_MS - 200) * MS
    monkeypatch.undo()
    assert holder.ends(3 * TTL_MS) >= 0
    assert holder.request(Kind.READ, 1 << 33, encode(LeaseKeepAlive(7))).status == Status.LEASE_NOT_FOUND


def test_what_a_node_far_behind_reads_back_is_applied_in_turns_too(monkeypatch):
    monkeypatch.setattr(limits, "TURN_WORK", 3000)
    world = Watched(ring_bytes=64 * limits.KIB)
    caller = Caller(world)
    caller.target = world.elect()
    caller.open()
    caller.fill(500)
    world.until(world.converged)
    lagging = next(i for i in world.ids if i != world.elect())
    core = world.members[lagging].core
    with monkeypatch.context() as patch:
        patch.setattr(core.applier, "_apply", lambda now, until: None)
        caller.fill(2000)
        world.step(100)
    assert core.applier.applied + 1 < core.log.ring.first
    world.most = 0
    world.until(world.converged)
    assert 1000 < world.most < 4000


def test_what_is_read_back_is_applied_and_not_read_once_for_each_record():
    world = World(ring_entries=64)
    leader = world.elect()
    caller = Caller(world).open()
    caller.target = leader
    caller.put(b"a", b"b")
    world.until(world.converged)
    behind = world.members[leader % 3 + 1]
    applier, read, lengths = behind.core.applier, behind.disk.read, []
    apply, applier._apply = applier._apply, lambda now, until: None

    def counted(number, offset, length, tag):
        lengths.append(length)
        return read(number, offset, length, tag)

    behind.disk.read = counted
    for i in range(300):
        caller.put(b"k%d" % (i % 5), b"v" * 50)
    assert applier.applied + 64 < behind.core.log.ring.first
    applier._apply = apply
    world.until(world.converged)
    assert len(lengths) < 5
