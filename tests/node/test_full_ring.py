"""A leadership that is won in the same turn in which clients write, on a ring that is nearly full: what the engine put
into its log at once, the no-op, has its place before anybody is told that there is room.
"""

import pytest
from world import Caller, World

from quorumd import commands
from quorumd.commands import Kind, Put, Status

pytestmark = pytest.mark.usefixtures("either_engine")

RING = 64


def write_while_elected(unapplied, at_once, quota_bytes=None):
    """Nodes B and C hold entries that fill most of their rings, and that nobody commits, as A is gone. Clients send
    them writes in every turn, until one of them leads. quota_bytes: of B and C, other than that in the log."""
    world = World(ring_entries=RING)
    first = world.elect()
    caller = Caller(world).open()
    caller.put(b"x", b"y")
    world.until(world.converged)
    world.step(200)
    second, third = (i for i in world.ids if i != first)
    world.members[first].disk.stick(world.now)
    world.members[third].disk.stick(world.now)
    if quota_bytes is not None:
        for i in (second, third):
            world.members[i].core.own._quota = quota_bytes
    caller.target = first
    caller.fill(unapplied)
    world.step(30)
    world.stop(first)
    world.members[third].disk.stuck_since = None
    world.step()
    put = commands.encode(Put(b"k", b"v"))
    for _ in range(1500):
        if world.leader():
            return
        for i in (second, third):
            caller.seq += at_once
            seqs = range(caller.seq - at_once + 1, caller.seq + 1)
            records = [commands.encode_record(Kind.COMMAND, caller.session, seq, seq, put) for seq in seqs]
            caller.transmit(b"".join(records), i, at_once)
        world.step()
    raise AssertionError("nobody was elected")


@pytest.mark.parametrize("at_once", range(6, 11))
def test_writes_find_no_room_that_the_no_op_needs(at_once):
    write_while_elected(RING - 8, at_once)


@pytest.mark.parametrize("unapplied", [RING - 3, RING - 2, RING - 1])
def test_nor_do_the_rules(unapplied):
    write_while_elected(unapplied, 1, quota_bytes=1 << 30)


def test_what_was_applied_before_it_was_on_the_leaders_disk_leaves_the_ring_when_it_is():
    """A majority without the leader commits what then fills the leader's ring: its own disk is behind."""
    world = World(ring_entries=RING)
    leader = world.elect()
    caller = Caller(world).open()
    caller.target = leader
    caller.put(b"x", b"y")
    world.until(world.converged)
    member = world.members[leader]
    member.disk.stick(world.now)
    core = member.core
    while core.log.ring.room(100, 1):
        caller.put(b"k", b"v")
    assert core.applier.applied == core.engine.last > core.storage.written
    member.disk.stuck_since = None
    world.step(5)
    assert core.engine.last == core.storage.written
    assert core.log.ring.room(100, 1)


@pytest.mark.parametrize(
    ("size", "reason"), [(1, b"too many operations under way"), (200_000, b"the log has no room")]
)
def test_of_writes_that_do_not_all_fit_the_first_are_taken(size, reason):
    """Clients that are refused together come again together: if all were refused every time, none would ever pass."""
    world = World(ring_entries=RING)
    leader = world.elect()
    caller = Caller(world).open()
    caller.target = leader
    put = commands.encode(Put(b"k", bytes(size)))
    first = caller.seq + 1
    open_writes = set(range(first, first + 3 * RING))
    caller.seq = max(open_writes)
    rounds, ended, reasons = 0, {}, set()

    def note(reply):
        ended[reply.seq] = reply.status
        reasons.add(reply.body if reply.status == Status.OVERLOADED else reason)

    while open_writes:
        rounds += 1
        assert rounds <= 100, f"{len(open_writes)} writes never passed"
        ended.clear()
        core = world.members[leader].core
        for seq in sorted(open_writes):
            record = commands.encode_record(Kind.COMMAND, caller.session, seq, first, put)
            core.clients.stage.collect_payload(record, 1, caller.name)
        caller.transmit(b"")  # a turn with something from clients in it
        world.step(50)
        caller.receive(0, note)
        assert ended.keys() == open_writes  # each has its answer
        assert set(ended.values()) <= {Status.OK, Status.OVERLOADED}
        taken = {seq for seq, status in ended.items() if status == Status.OK}
        assert taken == set(sorted(open_writes)[: len(taken)]) != set()
        assert size > 1 or len(taken) == min(RING, len(open_writes))  # all that fit
        open_writes -= taken
    assert rounds > 2 and reasons == {reason}
    world.until(world.converged)
