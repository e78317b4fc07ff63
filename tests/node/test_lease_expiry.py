"""When leases end: a full TTL after what their holder was last told, never earlier, and soon after (expiry.py)."""

import pytest
from world import MS, Caller, World

from quorumd import commands
from quorumd.commands import Kind, LeaseGrant, LeaseKeepAlive, Put, Status
from quorumd.expiry import ExpiryPolicy
from quorumd.limits import EXPIRE_MORE_EVERY, EXPIRE_SESSIONS_EVERY, MAX_EXPIRIES_PER_TURN, SECOND

pytestmark = pytest.mark.usefixtures("either_engine")

TTL_MS = 2000
LATE_MS = 150  # a heartbeat, and a commit
ELECTION_MS = 120


class Holder(Caller):
    """Holds lease 7 with the key `k`; `lives_until`: what it may believe, by the time at which it asked."""

    def hold(self):
        self.open()
        asked = self.world.now
        assert self.write(LeaseGrant(TTL_MS, 7)).id == 7
        self.lives_until = asked + TTL_MS * MS
        self.write(Put(b"k", b"held", lease=7))
        return self

    def keep_alive(self, within_ms=5000):
        asked = self.world.now
        self.read_seq += 1
        command = commands.encode(LeaseKeepAlive(7))
        status = self.request(Kind.READ, self.read_seq, command, within_ms).status
        if status == Status.OK:
            self.lives_until = asked + TTL_MS * MS
        return status

    def held(self):
        """Whether any node still has the lease: it ends everywhere or nowhere, some a little later."""
        return any(core.store.lease(7) for core in self.world.cores())

    def ends(self, within_ms):
        """Waits for the end; ms between what the holder may believe and that, negative: too early."""
        self.world.until(lambda: not all(core.store.lease(7) for core in self.world.cores()), within_ms)
        return (self.world.now - self.lives_until) // MS


def ready(**options):
    world = World(**options)
    caller = Holder(world)
    caller.target = world.elect()
    return world, caller.hold()


def another(world, first):
    """Waits for a leader other than node `first`."""
    world.until(lambda: world.leader() is not None and world.leader().settings.node != first)


def test_a_lease_ends_a_ttl_after_its_last_keep_alive_and_takes_its_keys():
    world, holder = ready()
    for _ in range(4):
        world.step(TTL_MS - 200)
        assert holder.keep_alive() == Status.OK
    assert 0 <= holder.ends(2 * TTL_MS) <= LATE_MS
    assert holder.get(b"k") is None
    assert holder.keep_alive() == Status.LEASE_NOT_FOUND


def test_an_idle_lease_costs_the_log_nothing():
    world, holder = ready()
    world.step(TTL_MS // 2)
    applied = world.cores()[0].applier.applied
    for _ in range(20):
        assert holder.keep_alive() == Status.OK
        world.step(TTL_MS // 2)
    assert {core.applier.applied for core in world.cores()} == {applied}


@pytest.mark.parametrize("heard_ms", [0, 500, 1900])
def test_a_new_leader_gives_a_full_ttl(heard_ms):
    """It cannot know of keep-alives that its predecessor answered a moment before it fell silent."""
    world, holder = ready()
    world.step(1900)
    assert holder.keep_alive() == Status.OK
    world.step(heard_ms)
    first = world.elect()
    world.isolate(first)
    another(world, first)
    elected = world.now
    world.until(lambda: any(core.store.lease(7) is None for core in world.cores()), 2 * TTL_MS)
    assert world.now >= max(holder.lives_until, elected + (TTL_MS - LATE_MS) * MS)
    assert world.now <= elected + (TTL_MS + LATE_MS) * MS


def test_a_deposed_leader_ends_no_lease():
    """Its clock says that the TTL is over, its proposal reaches nobody; meanwhile the holder talks to the new one."""
    world, holder = ready()
    first = world.elect()
    world.isolate(first)
    another(world, first)
    for _ in range(6):
        world.step(TTL_MS // 2)
        assert holder.keep_alive() == Status.OK
        assert holder.held()
    world.heal()
    for _ in range(4):
        world.step(TTL_MS // 2)
        assert holder.keep_alive() == Status.OK
    assert holder.get(b"k") == b"held"


def test_an_expiry_that_a_later_leader_never_saw_ends_nothing_under_the_one_after():
    """A deposed leader's proposals stay with it. In Multi-Paxos they are chosen after all, when it leads again, in the
    slots that the leader in between did not use; and that one has answered a keep-alive."""
    world, holder = ready()
    first = world.elect()
    core, other = world.members[first].core, Caller(world, seed=2).open()
    world.until(lambda: world.now >= holder.lives_until - 20 * MS, 2 * TTL_MS)
    world.isolate(first)
    command = commands.encode(Put(b"slot", b"of the next leader's no-op"))
    other.transmit(commands.encode_record(Kind.COMMAND, other.session, 1, 1, command), target=first)
    world.until(lambda: core.engine.last >= core.applier.applied + 2, 200)  # that, and the expiry
    another(world, first)
    second = world.leader().settings.node
    assert holder.keep_alive() == Status.OK
    world.heal()
    world.isolate(second)
    another(world, second)
    while world.now < holder.lives_until:
        assert all(core.store.lease(7) for core in world.cores())
        world.step(10)


def test_no_keep_alive_is_answered_between_the_proposal_of_an_expiry_and_its_end():
    """The leader is alone for a moment when the TTL is over: what it proposed then is applied once it is not."""
    world, holder = ready()
    leader = world.elect()
    core = world.members[leader].core
    world.until(lambda: world.now >= holder.lives_until - 20 * MS, 2 * TTL_MS)
    world.isolate(leader)
    world.until(lambda: core.engine.last > core.applier.applied, 200)  # the expiry, not committed
    world.heal()
    assert holder.keep_alive() == Status.OVERLOADED  # neither: it may live on under another leader
    world.step(LATE_MS)
    assert not holder.held()
    assert holder.keep_alive() == Status.LEASE_NOT_FOUND


def stall(world, ms):
    """Nobody runs for so long."""
    world.now += ms * MS
    for core in world.cores():
        core.stalled(world.now)


def test_what_holders_sent_during_a_stall_is_confirmed_before_anything_ends():
    world, holder = ready()
    world.step(1900)
    stall(world, 700)
    assert holder.keep_alive() == Status.OK
    assert 0 <= holder.ends(2 * TTL_MS) <= LATE_MS


def test_a_stall_puts_the_end_off_by_an_election_timeout():
    world, holder = ready()
    world.step(1900)
    stall(world, 700)
    resumed = world.now
    assert holder.ends(TTL_MS) >= 0
    assert 0 <= world.now - resumed - ELECTION_MS * MS <= LATE_MS * MS


def test_a_leader_whose_every_turn_is_a_stall_ends_leases_all_the_same():
    """Under load all turns may be long: were each to put them off, the lock of the dead would never be free."""
    world, holder = ready()
    while holder.held():
        world.step()
        for core in world.cores():
            core.stalled(world.now + MS)
        assert world.now <= holder.lives_until + (ELECTION_MS + 2 * LATE_MS) * MS


def test_a_keep_alive_is_not_left_to_a_later_leadership(monkeypatch):
    """It waits for apply while its node loses office. Should the node win again it knows nothing of the expiry that it
    had proposed: the keep-alive would be answered OK, and the lease end.
    """
    world, holder = ready()
    core = world.leader()
    monkeypatch.setattr(core.applier, "_apply", lambda now, until: None)
    other = Caller(world, seed=2)
    other.transmit(commands.encode_record(Kind.OPEN_SESSION, other.session, 0, 0), core.settings.node)
    world.until(lambda: core.applier.behind)
    holder.read_seq += 1
    asked = commands.encode_record(Kind.READ, holder.session, holder.read_seq, 0, commands.encode(LeaseKeepAlive(7)))
    holder.transmit(asked, core.settings.node)
    world.step(LATE_MS)
    assert holder.receive(holder.read_seq) is None
    core.give_away(world.now)
    another(world, core.settings.node)
    assert holder.receive(holder.read_seq).status == Status.NOT_LEADER


def test_a_process_that_stops_amid_a_turn_gives_a_full_ttl_from_when_it_goes_on():
    """What it reads then may have been sent just before, long after the turn first looked at the clock."""
    world, holder = ready()
    world.amid = 15 * MS
    assert holder.keep_alive() == Status.OK
    world.amid = 0
    assert 15 <= holder.ends(2 * TTL_MS) <= 15 + LATE_MS


def test_a_stall_does_not_bring_back_a_lease_whose_expiry_is_under_way():
    world, holder = ready()
    leader = world.elect()
    core = world.members[leader].core
    world.until(lambda: world.now >= holder.lives_until - 20 * MS, 2 * TTL_MS)
    world.isolate(leader)
    world.until(lambda: core.engine.last > core.applier.applied, 200)
    core.stalled(world.now)
    world.heal()
    assert holder.keep_alive() == Status.OVERLOADED
    world.step(LATE_MS)
    assert holder.keep_alive() == Status.LEASE_NOT_FOUND


def test_leases_that_survive_a_restart_of_everything_have_a_full_ttl():
    world, holder = ready()
    world.step(200)
    for i in world.ids:
        world.stop(i)
    world.now += 10 * SECOND
    for i in world.ids:
        world.start(i)
    world.elect()
    assert holder.keep_alive() == Status.OK
    assert 0 <= holder.ends(2 * TTL_MS) <= LATE_MS


class Crowded:
    """More sessions have ended than are named at once, and a lease."""

    next_lease_due = 1 << 62

    def expired(self, now_ns, ttl_ns, again_ns, limit):
        return [(bytes(16), 1)] * limit

    def leases_due(self, now_ns, again_ns, limit):
        return [(7, 1)]


def test_leases_do_not_wait_for_sessions_that_end_by_the_thousand():
    policy, now = ExpiryPolicy(SECOND), EXPIRE_SESSIONS_EVERY
    policy.begin(0)
    due = policy.due(now, Crowded())
    assert (due.leases, len(due.sessions)) == ([(7, 1)], MAX_EXPIRIES_PER_TURN - 1)
    assert policy.next_due(Crowded()) == now + EXPIRE_MORE_EVERY
