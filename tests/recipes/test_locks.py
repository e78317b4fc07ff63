"""Locks, read-write locks, semaphores and candidates under schedules that a seed decides."""

import pytest
from recipe_checks import Owned, check_clean, check_order, check_owners, lives
from recipe_world import CALM, MS, QUICK, ROUGH, SECOND, Faults, World, end_of

from quorumd.commands import Put, Txn
from quorumd.errors import QuorumdError
from quorumd.limits import SESSION_GLANCE
from quorumd.recipes.effects import Call, Pause, clock, transact
from quorumd.recipes.election import Candidate
from quorumd.recipes.errors import NotAcquired, NotHeld, SessionLost
from quorumd.recipes.lock import Lock, ReadLock, WriteLock
from quorumd.recipes.party import Membership
from quorumd.recipes.queue import Queue
from quorumd.recipes.semaphore import Semaphore

FROZEN = Faults(lost_request=0.02, lost_reply=0.02, freeze=0.06, freeze_max=8 * SECOND)
REVOKED = Faults(lost_reply=0.02, revoke=0.02)
WORLDS = pytest.mark.parametrize("faults", [CALM, ROUGH, FROZEN, REVOKED], ids=["calm", "rough", "frozen", "revoked"])


class Contest:
    """Several actors own something in turns and write under its protection."""

    def __init__(self, world, make, *, actors=4, rounds=4):
        self.world, self.make, self.rounds = world, make, rounds
        self.owners = []
        self.fenced, self.unfenced = [], []
        self.held = {}  # actor -> owner object of the moment
        self.tasks = []
        for number in range(actors):
            actor = world.actor(f"actor {number}")
            self.tasks.append(actor.spawn(self.life(actor, number)))

    def life(self, actor, number):
        random = self.world.random
        for round_ in range(self.rounds):
            try:
                lease = yield from actor.session()
            except QuorumdError:
                continue
            try:
                for _ in range(2):
                    yield Pause((yield from clock()) + random.randrange(300 * MS))
                    yield from self.turn(actor, self.make(lease, number + round_))
            except (SessionLost, NotHeld):
                pass
            finally:
                self.held.pop(actor, None)
            yield from end_of(lease)

    def turn(self, actor, owner):
        random = self.world.random
        try:
            if random.random() < 0.2:
                token = yield from owner.try_acquire()
                if token is None:
                    return
            else:
                token = yield from owner.acquire(random.choice([None, 0.5, 3.0]))
        except NotAcquired:
            assert owner.token is None
            return
        assert owner.holds(self.world.now), "it was returned although it is known to be lost"
        self.held[actor] = owner
        exclusive = not isinstance(owner, ReadLock)
        self.owners.append(Owned(int(token), token.key, self.world.model.revision, exclusive))
        for _ in range(random.randrange(3)):
            yield Pause((yield from clock()) + random.randrange(400 * MS))
            try:
                guarded = Txn([token.guard()], [Put(b"fenced", b"%d" % token)])
                if exclusive and not (yield from transact(guarded)).succeeded:
                    break
                yield Call(Put(b"unfenced", b"%d" % token))
            except QuorumdError:
                continue
        self.held.pop(actor, None)
        yield from owner.release()

    def finish(self):
        self.world.finish(*self.tasks)
        self.world.run(self.world.now + 60 * SECOND)  # leases that nobody could revoke end
        for _, events in self.world.model.history:
            for event in events:
                for key, written in ((b"fenced", self.fenced), (b"unfenced", self.unfenced)):
                    if event.kv.key == key and not event.deleted:
                        written.append(int(event.kv.value))
        assert self.fenced == sorted(self.fenced), "a former owner wrote although its write was guarded"
        check_clean(self.world.model, b"fenced", b"unfenced")


def ahead_in_lock(key):
    return key[: key.rindex(b"/") + 1]


@WORLDS
@pytest.mark.parametrize("kind", [Lock, Candidate])
def test_one_owner_at_a_time(seed, faults, kind):
    world = World(seed, faults)
    if seed % 3 == 0:
        world.unreachable.append((4 * SECOND, (4 + seed % 5) * SECOND))
    contest = Contest(world, lambda lease, _: kind(lease, b"a/b"))

    def one_believes():
        believing = [
            actor.name for actor, owner in contest.held.items()
            if actor.frozen_until <= world.now and owner.holds(world.now)
        ]
        assert len(believing) <= 1, believing

    if faults is not REVOKED:  # by somebody else, a lease ends early, and its holder cannot know at once
        world.observers.append(one_believes)
    contest.finish()
    assert contest.owners
    check_owners(world.model, contest.owners, ahead_in_lock)
    if faults is CALM:
        check_order(contest.owners)


def test_one_departure_wakes_one_contender():
    world = World(7)
    contest = Contest(world, lambda lease, _: Lock(lease, b"a"), actors=12, rounds=1)
    contest.finish()
    assert 0 < world.wakes <= len(lives(world.model, b"quorumd/lock/"))


def test_who_asked_first_has_it_first(seed):
    """Nobody gives up here: ownership follows the order of the contenders' keys."""
    world = World(seed, Faults(lost_reply=0.05))
    owners = []

    def once(actor):
        lease = yield from actor.session(ttl=20 * SECOND)
        lock = Lock(lease, b"fair")
        yield Pause(world.now + world.random.randrange(SECOND))
        token = yield from lock.acquire()
        owners.append(int(token))
        yield Pause(world.now + world.random.randrange(SECOND))
        yield from lock.release()

    world.finish(*[actor.spawn(once(actor)) for actor in (world.actor(f"actor {n}") for n in range(5))])
    assert len(owners) == 5
    assert owners == sorted(owners)


def test_unfenced_writes_do_go_out_of_order():
    """The counter-example: without it, the guarded writes of the test above would prove little."""
    for seed in range(200):
        world = World(seed, FROZEN)
        contest = Contest(world, lambda lease, _: Lock(lease, b"a"))
        contest.finish()
        if contest.unfenced != sorted(contest.unfenced):
            return
    raise AssertionError("no former owner ever wrote late")


@WORLDS
def test_readers_share_and_writers_do_not(seed, faults):
    world = World(seed, faults)
    contest = Contest(world, lambda lease, n: (WriteLock if n % 3 == 0 else ReadLock)(lease, b""), actors=5)
    contest.finish()

    def ahead_of(key):
        prefix = key[: key.rindex(b"/") - 1]
        return prefix + b"w/" if key[len(prefix) :].startswith(b"r") else prefix

    check_owners(world.model, contest.owners, ahead_of)


@WORLDS
def test_a_semaphore_has_so_many_permits(seed, faults):
    world = World(seed, faults)
    contest = Contest(world, lambda lease, _: Semaphore(lease, b"\xff\x00%", 2), actors=5)
    world.finish(*contest.tasks)
    spans = sorted(lives(world.model, b"quorumd/semaphore/\xff\x00%25/o/").values())
    for begin, _ in spans:
        assert sum(b <= begin < e for b, e in spans) <= 2
    check_owners(world.model, contest.owners, None, permits=2)
    world.run(world.now + 60 * SECOND)
    check_clean(world.model, b"fenced", b"unfenced")


def test_no_time_is_enough_for_what_is_free():
    world = World(1, QUICK)
    actor = world.actor("one")

    def script():
        lease = yield from actor.session()
        lock, other = Lock(lease, b"a"), Lock(lease, b"a")
        assert (yield from lock.acquire(0)) == lock.token
        with pytest.raises(NotAcquired):
            yield from other.acquire(0)
        assert len(world.model.kvs) == 1, "it did not stand in line for it"
        yield from lock.release()
        yield from end_of(lease)

    world.finish(actor.spawn(script()))


def test_a_time_that_is_none_changes_nothing():
    world = World(1, QUICK)
    actor = world.actor("one")

    def script():
        lease = yield from actor.session()
        lock, member = Lock(lease, b"a"), Membership(lease, b"p")
        yield from lock.acquire()
        yield from member.join()
        for give_up in (lock.release, member.leave):
            with pytest.raises(ValueError, match="negative"):
                yield from give_up(-1)
            yield from give_up()
        assert not world.model.kvs
        yield from end_of(lease)

    world.finish(actor.spawn(script()))


def test_a_waiter_learns_soon_that_its_session_was_closed():
    world = World(1, QUICK)
    actor = world.actor("one")

    def waiter(lease, waiting):
        with pytest.raises(SessionLost, match="closed"):
            yield from waiting
        return (yield from clock())

    def script():
        lease = yield from actor.session(ttl=60 * SECOND)
        yield from Lock(lease, b"a").acquire()
        waits = [Lock(lease, b"a").acquire(), Queue(b"q", b"p").hold(lease, None)]
        tasks = [actor.spawn(waiter(lease, waiting)) for waiting in waits]
        yield Pause(world.now + SECOND)
        lease.close()
        return tasks, world.now + SESSION_GLANCE

    ((tasks, by),) = world.finish(actor.spawn(script()))
    assert all(at <= by for at in world.finish(*tasks))
