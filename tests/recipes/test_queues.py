"""Queues under schedules that a seed decides: every item to one consumer, in order, none lost by `hold` and `ack`."""

import collections

import pytest
from recipe_checks import check_clean
from recipe_world import (
    CALM,
    MS,
    QUICK,
    ROUGH,
    SECOND,
    Faults,
    World,
    end_of,
    puts,
    up_to_call,
    with_a_lost_answer,
)

from quorumd.errors import Indefinite, QuorumdError, Rejected, Timeout
from quorumd.limits import MAX_VALUE_BYTES
from quorumd.recipes.effects import Pause, clock
from quorumd.recipes.errors import NotHeld, SessionLost
from quorumd.recipes.lease import grant, revoke, sweep
from quorumd.recipes.queue import PriorityQueue, Queue

FROZEN = Faults(lost_request=0.02, lost_reply=0.02, freeze=0.04, freeze_max=8 * SECOND)
REVOKED = Faults(lost_reply=0.03, revoke=0.02)
ITEMS = 12


class Line:
    """Producers and consumers of one queue; what was certainly put, perhaps put, certainly taken, perhaps taken."""

    def __init__(self, seed, faults, kind=Queue, producers=3):
        self.world = World(seed, faults)
        self.kind = kind
        self.put, self.maybe_put = [], []
        self.taken, self.unsure = [], 0
        self.producing = producers
        self.tasks = [self._spawn(f"producer {n}", self._produce(n)) for n in range(producers)]

    def _spawn(self, name, script):
        return self.world.actor(name).spawn(script)

    def queue(self, producer):
        return self.kind(b"jobs/today", producer)

    def _produce(self, number):
        queue = self.queue(b"p%d" % number)
        for n in range(ITEMS):
            value = b"%d-%d" % (number, n)
            yield Pause((yield from clock()) + self.world.random.randrange(200 * MS))
            try:
                yield from queue.put(value)
                self.put.append(value)
            except Indefinite:
                self.maybe_put.append(value)
            except QuorumdError:
                continue
        self.producing -= 1

    def taker(self, actor_number):
        queue = self.queue(b"c%d" % actor_number)
        idle = 0
        while idle < 3:
            try:
                value = yield from queue.take(self.world.random.choice([0.0, 0.5, 2.0]))
            except Indefinite:
                self.unsure += 1
                continue
            except QuorumdError:
                continue
            idle = idle + 1 if value is None and not self.producing else 0
            if value is not None:
                self.taken.append(value)


@pytest.mark.parametrize("faults", [CALM, ROUGH, FROZEN], ids=["calm", "rough", "frozen"])
def test_each_item_is_taken_once(seed, faults):
    line = Line(seed, faults)
    takers = [line._spawn(f"taker {n}", line.taker(n)) for n in range(4)]
    line.world.finish(*line.tasks, *takers)
    counted = collections.Counter(line.taken)
    assert max(counted.values()) == 1
    assert counted.keys() <= {*line.put, *line.maybe_put}
    missing = set(line.put) - counted.keys()
    assert len(missing) <= line.unsure, "an item is gone, and no consumer was told that it may be"
    check_clean(line.world.model)


def test_what_was_put_first_is_taken_first(seed):
    """Puts and takes that do not overlap: the queue is first in, first out."""
    world = World(seed, Faults(slow=0.3))
    puts = [Queue(b"", b"p%d" % n) for n in range(3)]
    out = []

    def script():
        for n in range(9):
            yield from puts[world.random.randrange(3)].put(b"%d" % n)
        for _ in range(9):
            out.append(int((yield from puts[0].take())))
        assert (yield from puts[0].take()) is None

    world.finish(world.actor("one").spawn(script()))
    assert out == list(range(9))


def test_lower_priorities_come_first_and_equals_in_order(seed):
    world = World(seed)
    queue = PriorityQueue(b"a/b", b"p")
    wanted, got = [], []

    def script():
        for n in range(12):
            priority = world.random.choice([0, 7, 300, (1 << 64) - 1])
            wanted.append((priority, n))
            yield from queue.put_at(priority, b"%d %d" % (priority, n))
        for _ in range(12):
            got.append(tuple(map(int, (yield from queue.take()).split())))
        with pytest.raises(ValueError, match="unsigned"):
            yield from queue.put_at(-1, b"")

    world.finish(world.actor("one").spawn(script()))
    assert got == sorted(wanted)


@pytest.mark.parametrize("faults", [CALM, ROUGH, FROZEN, REVOKED], ids=["calm", "rough", "frozen", "revoked"])
def test_no_item_is_lost_by_hold_and_ack(seed, faults):
    line = Line(seed, faults, kind=(Queue, PriorityQueue)[seed % 2])
    world = line.world
    done = []
    deaths = 0

    def holder(actor, number):
        nonlocal deaths
        queue = line.queue(b"h%d" % number)
        idle = 0
        lease = None
        while idle < 3:
            try:
                if lease is None or not lease.alive((yield from clock())):
                    lease = yield from actor.session()
                held = yield from queue.hold(lease, 1.0)
                if held is None:
                    idle = 0 if line.producing or any(b"/i/" in key for key in world.model.kvs) else idle + 1
                    continue
                chance = world.random.random()
                yield Pause((yield from clock()) + world.random.randrange(500 * MS))
                if chance < 0.1:
                    deaths += 1
                    lease.lose("this holder dies")  # its keep-alive ends, and nobody acknowledges
                    continue
                if chance < 0.2:
                    yield from held.release()
                    continue
                while True:
                    try:
                        yield from held.ack(None if chance < 0.6 else 0.5)
                        break
                    except Indefinite:
                        continue
                done.append(held.value)
            except (SessionLost, NotHeld):
                if lease is not None:
                    lease.lose("this holder begins anew")
            except QuorumdError:
                continue
        if lease is not None and lease.alive((yield from clock())):
            yield from end_of(lease)

    holders = []
    for number in range(3):
        actor = world.actor(f"holder {number}")
        holders.append(actor.spawn(holder(actor, number)))
    world.finish(*line.tasks, *holders)
    world.run(world.now + 60 * SECOND)
    counted = collections.Counter(done)
    assert not counted or max(counted.values()) == 1, "two consumers were told that they had removed one item"
    removed = set()
    for _, events in world.model.history:
        removed |= {event.kv.key for event in events if event.deleted and b"/i/" in event.kv.key}
    assert len(removed) >= len(line.put), "every item was removed by somebody who held it"
    check_clean(world.model)


def test_held_items_do_not_hide_free_ones():
    world = World(1)
    queue = Queue(b"q", b"p")
    actor = world.actor("one")

    def script():
        lease = yield from actor.session()
        for n in range(20):
            yield from queue.put(b"%d" % n)
        for _ in range(19):
            assert (yield from queue.hold(lease)) is not None
        assert (yield from queue.size()) == 20
        assert (yield from queue.take()) == b"19"
        assert (yield from queue.take()) is None
        assert (yield from queue.hold(lease, 0.2)) is None
        yield from revoke(lease, world.now + SECOND)
        assert (yield from queue.take()) == b"0"

    world.finish(actor.spawn(script()))


def test_a_producer_id_twice_is_refused():
    world = World(1)
    one, two = Queue(b"q", b"same"), Queue(b"q", b"same")

    def script():
        yield from one.put(b"1")
        world.model.revision -= 1  # the two must see one revision: nothing else was put in between
        with pytest.raises(Rejected, match="same producer"):
            yield from two.put(b"2")

    world.finish(world.actor("one").spawn(script()))


def test_no_put_is_overslept(seed):
    """Consumers that wait for as long as it takes: each item that comes wakes one of them."""
    world = World(seed, Faults(slow=0.3))
    taken = []

    def consumer(number):
        queue = Queue(b"q", b"c%d" % number)
        for _ in range(4):
            taken.append((yield from queue.take(None)))

    def producer():
        queue = Queue(b"q", b"p")
        for n in range(8):
            yield Pause((yield from clock()) + world.random.randrange(3 * SECOND))
            yield from queue.put(b"%d" % n)

    consumers = [world.actor(f"consumer {n}").spawn(consumer(n)) for n in range(2)]
    world.finish(*consumers, world.actor("producer").spawn(producer()))
    assert sorted(taken) == [b"%d" % n for n in range(8)]


@pytest.mark.parametrize("cancelled_first", [True, False])
def test_a_hold_that_is_given_up_spares_anothers_of_its_session(cancelled_first):
    """Both are about one item: by its lease alone the mark that stays could not be told from the one to be deleted."""
    world = World(1, QUICK)
    queue = Queue(b"q", b"p")

    def script():
        lease = yield from grant(60 * SECOND, world.now + SECOND)
        yield from queue.put(b"x")
        losing = queue.hold(lease)
        yield from up_to_call(losing, puts(b"/h/"))
        if not cancelled_first:
            held = yield from queue.hold(lease)
        with pytest.raises(KeyboardInterrupt):
            losing.throw(KeyboardInterrupt())
        if cancelled_first:
            held = yield from queue.hold(lease)
        assert (yield from sweep(lease, world.now + SECOND))
        assert (yield from queue.take()) is None, "it is held"
        yield from held.ack()
        assert not world.model.kvs

    world.finish(world.actor("one").spawn(script()))


def test_a_mark_that_nobody_wants_is_swept():
    world = World(1, QUICK)
    queue = Queue(b"q", b"p")

    def script():
        lease = yield from grant(60 * SECOND, world.now + SECOND)
        yield from queue.put(b"x")
        cancelled = queue.hold(lease)
        yield (yield from up_to_call(cancelled, puts(b"/h/")))
        with pytest.raises(KeyboardInterrupt):
            cancelled.throw(KeyboardInterrupt())
        assert (yield from queue.take()) is None
        assert (yield from sweep(lease, world.now + SECOND))
        assert (yield from queue.take()) == b"x"

    world.finish(world.actor("one").spawn(script()))


@pytest.mark.parametrize("how", ["ack", "release"])
def test_an_end_of_a_hold_that_is_cancelled_gives_the_item_back(how):
    """And spares what was done before: here the cancelled request never comes to the store."""
    world = World(1, QUICK)
    queue = Queue(b"q", b"p")

    def script():
        lease = yield from grant(60 * SECOND, world.now + SECOND)
        yield from queue.put(b"x")
        first = yield from queue.hold(lease)
        ending = getattr(first, how)()
        yield from up_to_call(ending, lambda op: True)
        with pytest.raises(KeyboardInterrupt):
            ending.throw(KeyboardInterrupt())
        assert (yield from sweep(lease, world.now + SECOND))
        second = yield from queue.hold(lease)
        assert second.value == b"x"
        lease.errands[first.token.guard()] = None  # as after a sweep whose answer was lost
        assert (yield from sweep(lease, world.now + SECOND))
        assert (yield from queue.take()) is None, "the later hold stands"
        yield from second.ack()
        assert not world.model.kvs

    world.finish(world.actor("one").spawn(script()))


@pytest.mark.parametrize(("how", "left"), [("ack", None), ("release", b"x")])
def test_what_did_not_reach_the_cluster_in_time_is_done_later_if_it_is_a_release(how, left):
    """An ack may be called again; what nobody gives back is hidden for as long as the session lives."""
    world = World(1, QUICK)
    queue = Queue(b"q", b"p")

    def script():
        lease = yield from grant(600 * SECOND, world.now + SECOND)
        yield from queue.put(b"x")
        held = yield from queue.hold(lease)
        world.unreachable.append((world.now, world.now + 2 * SECOND))
        with pytest.raises(Timeout):
            yield from getattr(held, how)(1.0)
        yield Pause(world.now + 2 * SECOND)
        assert (yield from sweep(lease, world.now + SECOND))
        assert (yield from queue.take()) == left
        yield from getattr(held, how)()
        assert not world.model.kvs

    world.finish(world.actor("one").spawn(script()))


def test_a_hold_whose_end_makes_no_sense_stands():
    world = World(1, QUICK)
    queue = Queue(b"q", b"p")

    def script():
        lease = yield from grant(60 * SECOND, world.now + SECOND)
        yield from queue.put(b"x")
        held = yield from queue.hold(lease)
        with pytest.raises(ValueError, match="negative"):
            yield from held.release(-1.0)
        assert not lease.errands

    world.finish(world.actor("one").spawn(script()))


def test_an_item_may_be_as_large_as_a_value(seed):
    """It fills a reply by itself; when answers are lost the item is read again, after its mark."""
    world = World(seed, CALM)
    actor = world.actor("one")
    queue = Queue(b"q", b"p")
    value = b"x" * MAX_VALUE_BYTES

    def script():
        lease = yield from actor.session(ttl=600 * SECOND)
        yield from queue.put(value)
        world.faults = Faults(lost_reply=0.5)
        held = yield from queue.hold(lease, None)
        world.faults = CALM
        assert held.value == value
        yield from held.ack()
        assert not world.model.kvs
        yield from end_of(lease)

    world.finish(actor.spawn(script()))


def test_a_release_whose_answer_was_lost_is_one_though_the_item_is_gone_since():
    world = World(1, QUICK)
    actor = world.actor("one")
    queue = Queue(b"q", b"p")

    def other():
        assert (yield from queue.take()) == b"x"

    def script():
        lease = yield from actor.session()
        yield from queue.put(b"x")
        held = yield from queue.hold(lease)
        yield from with_a_lost_answer(held.release(), other())
        yield from end_of(lease)

    world.finish(actor.spawn(script()))


def test_without_a_cluster_a_consumer_waits_no_longer_than_it_said():
    world = World(1, QUICK)
    actor = world.actor("one")
    queue = Queue(b"q", b"p")

    def script():
        lease = yield from actor.session(ttl=600 * SECOND)
        begun = world.now
        world.unreachable.append((begun + SECOND, begun + 60 * SECOND))
        assert (yield from queue.take(2.0)) is None, "it looked, and saw nothing"
        assert world.now <= begun + 2 * SECOND
        for consume in (queue.take(0.5), queue.hold(lease, 0.5)):
            begun = world.now
            with pytest.raises(Timeout):
                yield from consume
            assert world.now <= begun + SECOND // 2
        yield from queue.put(b"x", 600.0)
        assert (yield from queue.take()) == b"x"
        yield from end_of(lease)

    world.finish(actor.spawn(script()))
