"""Barriers, counters, observers, views, parties and registries under schedules that a seed decides."""

import pytest
from recipe_checks import check_clean, lives
from recipe_world import CALM, MS, QUICK, ROUGH, SECOND, Faults, World, end_of, go_on, puts, up_to_call

from quorumd.commands import Put
from quorumd.errors import Compacted, Indefinite, QuorumdError, Rejected
from quorumd.recipes.barrier import Barrier, DoubleBarrier
from quorumd.recipes.counter import Counter
from quorumd.recipes.effects import Call, Clock, Pause, clock
from quorumd.recipes.election import Candidate, Election
from quorumd.recipes.errors import NotAcquired, NotHeld, SessionLost
from quorumd.recipes.lease import revoke
from quorumd.recipes.party import Instance, Membership, Party, Registration, ServiceRegistry
from quorumd.recipes.view import View, follow

REVOKED = Faults(revoke=0.01, lost_reply=0.02)
LOSSY = Faults(lost_request=0.04, lost_reply=0.04, refused=0.03)


@pytest.mark.parametrize("faults", [CALM, ROUGH], ids=["calm", "rough"])
def test_additions_to_a_counter_are_neither_lost_nor_doubled(seed, faults):
    world = World(seed, faults)
    sums, unsure = [], []

    def script(number):
        counter = Counter(b"hits")
        for _ in range(6):
            try:
                sums.append((yield from counter.add(number)))
            except Indefinite:
                unsure.append(number)
            except QuorumdError:
                continue

    world.finish(*[world.actor(f"adder {n}").spawn(script(n)) for n in (1, 1, 1, 1)])
    assert len(set(sums)) == len(sums)
    value = int(world.model.kvs[Counter(b"hits").key].value)
    assert len(sums) <= value <= len(sums) + len(unsure)


def test_a_counter_of_something_else():
    world = World(1)

    def script():
        counter = Counter(b"x")
        assert (yield from counter.value()) == 0
        assert (yield from counter.add(-3)) == -3
        yield Call(Put(counter.key, b"three"))
        with pytest.raises(Rejected, match="no number"):
            yield from counter.add()

    world.finish(world.actor("one").spawn(script()))


def test_nobody_passes_a_barrier_that_is_up(seed):
    world = World(seed, Faults(slow=0.2, compact=0.05))
    barrier = Barrier(b"gate")
    removed_at = []

    def owner():
        yield Pause((yield from clock()) + world.random.randrange(3 * SECOND))
        removed_at.append(world.now)
        assert (yield from barrier.remove())
        assert not (yield from barrier.remove())

    def waiter():
        passed = yield from barrier.wait(world.random.choice([None, 0.1, 10.0]))
        return passed, world.now

    def story():
        assert (yield from barrier.create())
        assert not (yield from barrier.create())
        waiters = [world.actor(f"waiter {n}").spawn(waiter()) for n in range(4)]
        return [*waiters, world.actor("owner").spawn(owner())]

    (tasks,) = world.finish(world.actor("one").spawn(story()))
    for passed, at in world.finish(*tasks)[:-1]:
        assert not passed or at > removed_at[0]


def test_who_waits_for_a_barrier_passes_although_it_is_up_again(seed):
    world = World(seed, Faults(slow=0.2, compact=0.3 * (seed % 2)))
    barrier = Barrier(b"gate")

    def story():
        yield from barrier.create()
        waiters = [world.actor(f"waiter {n}").spawn(barrier.wait()) for n in range(4)]
        yield Pause(world.now + 5 * SECOND)
        yield from barrier.remove()
        yield from barrier.create()
        return waiters

    (waiters,) = world.finish(world.actor("owner").spawn(story()))
    assert all(world.finish(*waiters))
    assert world.model.kvs


def test_who_waits_for_a_barrier_waits_no_longer_than_it_said():
    world = World(1, QUICK)
    barrier = Barrier(b"gate")

    def toucher():
        for _ in range(300):
            yield Call(Put(barrier.key, b""))
            yield Pause(world.now + 10 * MS)

    def timed(seconds):
        begun = world.now
        assert not (yield from barrier.wait(seconds))
        assert world.now <= begun + seconds * SECOND + 20 * MS

    def story():
        yield from barrier.create()
        world.actor("toucher").spawn(toucher())
        yield from timed(1)
        yield from timed(0)
        world.unreachable.append((world.now, world.now + 20 * SECOND))
        yield from timed(0.5)
        removed = world.actor("owner").spawn(barrier.remove(60.0))
        assert (yield from barrier.wait())
        return [removed]

    (tasks,) = world.finish(world.actor("one").spawn(story()))
    world.finish(*tasks)


@pytest.mark.parametrize("dies", [True, False])
def test_nobody_is_let_in_by_a_member_that_is_gone(dies):
    """It was there when the other looked, and went without a trace at the gate before the other opened."""
    world = World(1, QUICK)
    first, second = world.actor("first"), world.actor("second")

    def member():
        lease = yield from first.session()
        with pytest.raises((NotAcquired, SessionLost)):
            yield from DoubleBarrier(lease, b"b", 2).enter(None if dies else 1.0)

    def script():
        lease = yield from second.session(ttl=60 * SECOND)
        gone = first.spawn(member())
        yield Pause(world.now + SECOND // 2)
        entering = DoubleBarrier(lease, b"b", 2).enter(5.0)
        opening = yield from up_to_call(entering, puts(b"/open"))
        if dies:
            yield from end_of(first.lease)
        yield Pause(world.now + 2 * SECOND)
        with pytest.raises(NotAcquired):
            yield from go_on(entering, opening)
        yield from end_of(lease)
        return gone

    (gone,) = world.finish(second.spawn(script()))
    world.finish(gone)


def test_leaving_without_a_cluster_takes_its_time_and_no_more():
    world = World(1, QUICK)
    actor = world.actor("one")

    def script():
        lease = yield from actor.session(ttl=60 * SECOND)
        barrier = DoubleBarrier(lease, b"b", 1)
        yield from barrier.enter()
        world.unreachable.append((world.now, world.now + 10 * SECOND))
        with pytest.raises(NotAcquired, match="reached"):
            yield from barrier.leave(0.5)
        yield Pause(world.now + 20 * SECOND)
        assert not any(b"/in/" in key for key in world.model.kvs), "it leaves once the cluster can be reached"
        yield from end_of(lease)

    world.finish(actor.spawn(script()))


@pytest.mark.parametrize("faults", [CALM, LOSSY, REVOKED], ids=["calm", "lossy", "revoked"])
def test_a_group_enters_and_leaves_together(seed, faults):
    """Rounds of three by five members who come again and again: at no moment is somebody in alone."""
    world = World(seed, faults)
    inside, log, completed = set(), [], []

    def member(actor):
        for _ in range(3):
            lease = yield from actor.session()
            try:
                barrier = DoubleBarrier(lease, b"work", 3)
                for _ in range(2):
                    yield from barrier.enter(30.0)
                    assert lease.alive(world.now)
                    inside.add(actor)
                    completed.append(barrier._opened)
                    log.append((barrier._opened, "in", barrier._own))
                    yield Pause((yield from clock()) + world.random.randrange(200 * MS))
                    log.append((barrier._opened, "out", barrier._own))
                    yield from barrier.leave(30.0)
                    log.append((barrier._opened, "gone", None))
            except QuorumdError:
                pass
            finally:
                inside.discard(actor)
            yield from end_of(lease)

    actors = [world.actor(f"member {n}") for n in range(5)]
    world.finish(*[actor.spawn(member(actor)) for actor in actors])
    world.run(world.now + 60 * SECOND)
    assert completed
    opened = {round_ for round_, what, _ in log if what == "in"}
    keys_of = {round_: {key for r, what, key in log if r == round_ and what == "in"} for round_ in opened}
    for round_, keys in keys_of.items():
        assert len(keys) <= 3, "more entered than the group has"
        if faults is CALM:
            alive = _members_at(world.model, round_)
            assert len(alive) == 3 and keys <= alive
            outs = [i for i, (r, what, _) in enumerate(log) if r == round_ and what == "out"]
            gone = [i for i, (r, what, _) in enumerate(log) if r == round_ and what == "gone"]
            assert not gone or max(outs) < min(gone), "somebody left before all were about to leave"
    check_clean(world.model, b"quorumd/doublebarrier/work/gate", b"quorumd/doublebarrier/work/open")


def test_rounds_follow_each_other_at_once(seed):
    """Who has left waits for its own round only: the others may be in the next one by then."""
    world = World(seed, Faults(slow=0.3))
    rounds = []

    def member(actor):
        lease = yield from actor.session(ttl=60 * SECOND)
        barrier = DoubleBarrier(lease, b"again", 2)
        for _ in range(4):
            yield from barrier.enter()
            rounds.append(barrier._opened)
            yield from barrier.leave()
        yield from end_of(lease)

    actors = [world.actor(f"member {n}") for n in range(2)]
    world.finish(*[actor.spawn(member(actor)) for actor in actors], limit=50 * SECOND)
    assert sorted(rounds) == sorted(2 * list(set(rounds))) and len(rounds) == 8
    assert not world.model.kvs


def _members_at(model, revision):
    alive = set()
    for at, events in model.history:
        if at > revision:
            break
        for event in events:
            if b"/in/" in event.kv.key:
                (alive.discard if event.deleted else alive.add)(event.kv.key)
    return alive


def test_a_barrier_of_one_and_misuse():
    world = World(1)
    actor = world.actor("one")

    def script():
        lease = yield from actor.session()
        barrier = DoubleBarrier(lease, b"b", 1)
        with pytest.raises(NotHeld):
            yield from barrier.leave()
        for _ in range(2):
            yield from barrier.enter()
            with pytest.raises(RuntimeError):
                yield from barrier.enter()
            yield from barrier.leave()
        lonely = DoubleBarrier(lease, b"b", 2)
        with pytest.raises(NotAcquired):
            yield from lonely.enter(0.5)
        yield Pause((yield from clock()) + SECOND)
        yield from revoke(lease, world.now + SECOND)
        with pytest.raises(SessionLost):
            yield from lonely.enter()

    world.finish(actor.spawn(script()))
    check_clean(world.model, b"quorumd/doublebarrier/b/gate")


@pytest.mark.parametrize("faults", [CALM, ROUGH], ids=["calm", "rough"])
def test_observers_see_leaders_in_order_and_the_last_one(seed, faults):
    world = World(seed, faults)
    observer = world.actor("observer").spawn(Election(b"e").observe())
    led = []

    def candidate(actor, number):
        for n in range(3):
            try:
                lease = yield from actor.session()
                candidate = Candidate(lease, b"e", b"%d.%d" % (number, n))
                led.append(int((yield from candidate.acquire(20.0))))
                yield from candidate.proclaim(b"again")
                yield Pause((yield from clock()) + world.random.randrange(300 * MS))
                yield from candidate.release()
                yield from revoke(lease, (yield from clock()) + SECOND)
            except QuorumdError:
                continue

    actors = [world.actor(f"candidate {n}") for n in range(3)]
    world.finish(*[actor.spawn(candidate(actor, n)) for n, actor in enumerate(actors)])
    world.run(world.now + 60 * SECOND)
    tokens = [int(leader.token) for leader in observer.emitted if leader is not None]
    assert tokens == sorted(tokens)
    assert set(tokens) <= {created for created, _ in lives(world.model, b"quorumd/election/e/").values()}
    if faults is CALM:  # one answer that is lost may cost five seconds, in which everybody led and resigned
        assert set(tokens) & set(led)
    assert observer.emitted[-1] is None, "everybody resigned, and the observer must hear of it"


@pytest.mark.parametrize("compact", [0.0, 0.3], ids=["kept", "compacted"])
def test_a_view_shows_the_store_as_it_was_at_its_revision(seed, compact):
    world = World(seed, Faults(compact=compact, lost_request=0.02))
    view = View(b"v/")
    follower = world.actor("follower").spawn(follow(view, lambda view: view.snapshot()))
    resyncs = []

    def writer(number):
        for _ in range(15):
            yield Pause((yield from clock()) + world.random.randrange(60 * MS))
            key = b"v/%d" % world.random.randrange(5)
            try:
                yield Call(Put(key, b"%d" % world.random.randrange(1000)))
            except QuorumdError:
                continue

    world.finish(*[world.actor(f"writer {n}").spawn(writer(n)) for n in range(3)])
    world.run(world.now + 10 * SECOND)
    resyncs.append(view.resyncs)
    assert dict(view.snapshot()[1]) == {key: kv for key, kv in world.model.kvs.items() if key.startswith(b"v/")}
    revisions = [revision for revision, _ in follower.emitted]
    assert revisions == sorted(revisions)
    for revision, kvs in follower.emitted:
        assert kvs == _contents_at(world.model, b"v/", revision)
    if compact == 0.0:
        assert not view.resyncs


def test_a_view_whose_reading_is_overtaken_by_compaction_reads_anew():
    script = follow(View(b"v/"))
    reading = next(script)
    assert script.throw(Compacted("between two pages")) == Clock()
    assert isinstance(script.send(0), Pause)
    assert script.send(None) == reading


def test_some_view_had_to_read_anew():
    for seed in range(60):
        world = World(seed, Faults(compact=0.3, slow=0.3))
        view = View(b"")
        world.actor("follower").spawn(follow(view))

        def writer(world=world):
            for n in range(30):
                yield Call(Put(b"k%d" % n, b""))

        world.finish(world.actor("writer").spawn(writer()))
        world.run(world.now + 10 * SECOND)
        if view.resyncs:
            return
    raise AssertionError("compaction never overtook a view")


def _contents_at(model, prefix, revision):
    contents = {}
    for at, events in model.history:
        if at > revision:
            break
        for event in events:
            if event.kv.key.startswith(prefix):
                if event.deleted:
                    contents.pop(event.kv.key, None)
                else:
                    contents[event.kv.key] = event.kv
    return contents


def test_a_party_and_a_registry(seed):
    world = World(seed, LOSSY)
    party, registry = Party(b"p/1"), ServiceRegistry(b"web")
    guests = world.actor("observer").spawn(party.observe())
    services = world.actor("watcher").spawn(registry.observe())
    actor = world.actor("one")

    def script():
        lease = yield from actor.session(ttl=30 * SECOND)
        first, second = Membership(lease, b"p/1", b"first"), Membership(lease, b"p/1", b"second")
        yield from first.join()
        yield from second.join()
        assert [member.value for member in (yield from read_on(party.members))] == [b"first", b"second"]
        yield from first.leave()
        with pytest.raises(NotHeld):
            yield from first.leave()
        instance = Instance(b"a/b", "10.0.0.1:80", {"zone": "x"})
        yield from Registration(lease, b"web", instance).register()
        assert (yield from read_on(registry.instances)) == (instance,)
        heir = yield from actor.session(ttl=30 * SECOND)
        moved = Instance(b"a/b", "10.0.0.2:80")
        yield from Registration(heir, b"web", moved).register()
        yield from Registration(lease, b"web", instance).deregister()  # it is the heir's by now
        assert (yield from read_on(registry.instances)) == (moved,)
        yield Pause((yield from clock()) + SECOND)
        for each in (lease, heir):
            each.lose("the process ends")

    def read_on(question):
        while True:
            try:
                return (yield from question())
            except QuorumdError:
                yield Pause((yield from clock()) + 10 * MS)

    world.finish(actor.spawn(script()))
    world.run(world.now + 90 * SECOND)
    check_clean(world.model)
    assert guests.emitted[-1] == () and services.emitted[-1] == ()
    assert any([member.value for member in members] == [b"second"] for members in guests.emitted)
