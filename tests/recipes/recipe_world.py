"""Many processes run recipes against the model, in an order and with faults that one seed decides.

A request takes time to the store and back; either way may be lost (the caller then learns Timeout at its deadline, and
whether the store executed it stays open), or be refused. A process may be frozen for longer than its lease lives, or
be killed. The store may be unreachable for everybody. What its caller gave up may be executed later: as with the real
client, until a write that the same process began after that was executed. Leases end no earlier than a TTL after the
last keep-alive was executed, and up to half a TTL later.
"""

import heapq
import random
from dataclasses import dataclass

from recipe_model import Model

from quorumd.commands import Put, Txn, reads_only
from quorumd.errors import NotLeader, QuorumdError, Timeout
from quorumd.recipes.effects import Call, Clock, Emit, Pause, Wait, clock
from quorumd.recipes.lease import grant, keep, revoke

MS = 1_000_000
SECOND = 1000 * MS
DEFAULT_TIMEOUT = 5 * SECOND


@dataclass(frozen=True)
class Faults:
    """Probabilities for each request, and for each step of a process to freeze before it."""

    lost_request: float = 0.0
    lost_reply: float = 0.0
    refused: float = 0.0
    freeze: float = 0.0
    freeze_max: int = 4 * SECOND
    late: float = 0.0  # of the requests that were lost, which arrive after their callers gave them up
    slow: float = 0.05  # of requests that take up to a second, rather than milliseconds
    compact: float = 0.0
    revoke: float = 0.0  # of executed operations, after which somebody revokes a lease that is not theirs


CALM = Faults()
QUICK = Faults(slow=0.0)  # for a story of its own times
ROUGH = Faults(late=0.5, lost_request=0.03, lost_reply=0.03, refused=0.03, freeze=0.01, compact=0.01)


def end_of(lease):
    """A script: revokes the lease if the store can be reached; else it ends by itself."""
    try:
        yield from revoke(lease, (yield from clock()) + SECOND)
    except QuorumdError:
        return


def up_to_call(script, wanted):
    """A script: what `script` does up to the first Call whose operation is `wanted`; returns that, not performed."""
    effect = next(script)
    while not (isinstance(effect, Call) and wanted(effect.op)):
        effect = script.send((yield effect))
    return effect


def go_on(script, effect):
    """A script: the rest of `script`, which has come to `effect`."""
    try:
        while True:
            effect = script.send((yield effect))
    except StopIteration as end:
        return end.value


def with_a_lost_answer(script, meanwhile):
    """A script: `script`, whose first Call is executed without its learning of it; `meanwhile` comes in between."""
    yield (yield from up_to_call(script, lambda op: True))
    yield from meanwhile
    return (yield from go_on(script, script.throw(Timeout("no answer"))))


def puts(key):
    """Whether an operation is a transaction that puts a key that has `key` in it."""
    return lambda op: isinstance(op, Txn) and any(isinstance(each, Put) and key in each.key for each in op.then)


class Actor:
    """One process: its tasks stand still while it is frozen."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.frozen_until = 0
        self.dead = False
        self.lease = None
        self.settled = -1  # when the latest of its writes began that were executed

    def spawn(self, script):
        task = Task(self, script)
        self.world.at(self.world.now, lambda: task.step(None, None))
        return task

    def session(self, ttl=2 * SECOND):
        """A script: the lease, kept alive by a task of this actor's."""
        while True:
            try:
                self.lease = yield from grant(ttl, self.world.now + SECOND)
                break
            except QuorumdError:
                continue
        self.spawn(keep(self.lease))
        return self.lease

    def kill(self):
        self.dead = True


class Task:
    """One script under way. `result` or `error` once it is `done`; what it emitted is in `emitted`."""

    def __init__(self, actor, script):
        self.actor, self.script, self.world = actor, script, actor.world
        self.done = False
        self.result = self.error = None
        self.emitted = []
        self.turn = 0
        self.world.tasks.append(self)

    def wake(self, turn, answer=None, error=None):
        """The answer to the effect of this turn; later ones to the same effect are ignored."""
        if turn != self.turn or self.actor.dead or self.done:
            return
        world = self.world
        if world.random.random() < world.faults.freeze:
            self.actor.frozen_until = world.now + world.random.randrange(world.faults.freeze_max)
        if self.actor.frozen_until > world.now:
            world.at(self.actor.frozen_until + world.random.randrange(MS), lambda: self._thaw(turn, answer, error))
        else:
            self.step(answer, error)

    def _thaw(self, turn, answer, error):
        if turn == self.turn and not self.actor.dead and not self.done:
            self.step(answer, error)

    def step(self, answer, error):
        while True:
            self.turn += 1
            try:
                effect = self.script.throw(error) if error is not None else self.script.send(answer)
            except StopIteration as end:
                self.done, self.result = True, end.value
                return
            except Exception as failure:
                self.done, self.error = True, failure
                return
            answer, error = None, None
            match effect:
                case Clock():
                    answer = self.world.now
                case Emit(item):
                    self.emitted.append(item)
                case _:
                    self.world.perform(self, effect)
                    return


class World:
    """The model, the clock, and what happens when."""

    def __init__(self, seed, faults=CALM):
        self.random = random.Random(seed)
        self.faults = faults
        self.model = Model()
        self.now = SECOND
        self.tasks = []
        self.observers = []
        self.unreachable = []  # (from, to): no request arrives
        self._queue = []
        self._serial = 0
        self._waits = []
        self.wakes = 0  # of scripts that waited for events

    def actor(self, name):
        return Actor(self, name)

    def at(self, when, what):
        self._serial += 1
        heapq.heappush(self._queue, (max(when, self.now), self.random.random(), self._serial, what))

    def run(self, until):
        """Until that moment, or until nothing is left to happen."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, _, what = heapq.heappop(self._queue)
            what()
            for observe in self.observers:
                observe()
        self.now = max(self.now, until)

    def finish(self, *tasks, limit=600 * SECOND):
        """Until all of these are done; whatever has been lost by then is lost for good."""
        end = self.now + limit
        while not all(task.done or task.actor.dead for task in tasks) and self._queue and self._queue[0][0] < end:
            self.run(self._queue[0][0])
        for task in tasks:
            assert task.done or task.actor.dead, f"{task.actor.name} still waits at {self.now / SECOND:.3f} s"
            if task.error is not None:
                raise task.error
        return [task.result for task in tasks]

    # -- effects --------------------------------------------------------------------------------------------------

    def perform(self, task, effect):
        turn = task.turn
        match effect:
            case Pause(until, interruptible):
                self.at(until, lambda: task.wake(turn))
                lease = task.actor.lease
                if interruptible and lease is not None:
                    lease.nudge = lambda: self.at(self.now + MS, lambda: task.wake(turn))
                    if lease.errands:
                        lease.nudge()
            case Wait():
                self._wait(task, turn, effect)
            case Call(op, until):
                self._call(task, turn, op, self.now + DEFAULT_TIMEOUT if until is None else until)
            case _:
                raise TypeError(effect)

    def _delay(self):
        slow = self.random.random() < self.faults.slow
        return self.random.randrange(SECOND) if slow else self.random.randrange(MS // 10, 3 * MS)

    def _call(self, task, turn, op, until):
        chance = self.random.random()
        faults = self.faults
        if chance < faults.refused:
            self.at(self.now + MS, lambda: task.wake(turn, error=NotLeader("no leader")))
            return
        self.at(until, lambda: task.wake(turn, error=Timeout("no answer")))
        arrives = self.now + self._delay()
        for begin, end in self.unreachable:
            if begin <= arrives < end:
                arrives = end + self._delay()
        began = self.now
        if arrives >= until or chance < faults.refused + faults.lost_request:
            if not reads_only(op) and self.random.random() < faults.late:
                late = max(arrives, until) + self.random.randrange(8 * SECOND)
                self.at(late, lambda: task.actor.settled < until and self._execute(task, turn, op, began, lost=True))
            return
        lost = chance < faults.refused + faults.lost_request + faults.lost_reply
        self.at(arrives, lambda: self._execute(task, turn, op, began, lost=lost))

    def _execute(self, task, turn, op, began, *, lost):
        if not reads_only(op):
            task.actor.settled = max(task.actor.settled, began)
        answer = error = None
        try:
            answer = self.model.execute(op, self.now)
        except Exception as refusal:
            error = refusal
        self._after_change()
        self._watch_leases()
        if not lost:
            self.at(self.now + self._delay(), lambda: task.wake(turn, answer, error))

        leases = sorted(self.model.leases)
        if leases and self.random.random() < self.faults.revoke:
            self.model.end_lease(self.random.choice(leases))
            self._after_change()

    def _watch_leases(self):
        for lease_id, lease in self.model.leases.items():
            if not hasattr(lease, "watched"):
                lease.watched = True
                self._expire_later(lease_id)

    def _expire_later(self, lease_id):
        lease = self.model.leases[lease_id]
        late = self.random.randrange(lease.ttl_ms * MS // 2)
        self.at(lease.ends_at() + late, lambda: self._expire(lease_id))

    def _expire(self, lease_id):
        lease = self.model.leases.get(lease_id)
        if lease is None:
            return
        if lease.ends_at() > self.now:
            self._expire_later(lease_id)
        else:
            self.model.end_lease(lease_id)
            self._after_change()

    # -- watches --------------------------------------------------------------------------------------------------

    def _wait(self, task, turn, effect):
        if effect.until is not None:
            self.at(effect.until, lambda: task.wake(turn, ()))
        if not self._deliver(task, turn, effect):
            self._waits.append((task, turn, effect))

    def _deliver(self, task, turn, effect):
        """Whether there was something to deliver."""
        try:
            groups = self.model.events_after(effect.key, effect.end, effect.after)
        except Exception as error:
            failure = error
            self.at(self.now + self._delay(), lambda: task.wake(turn, error=failure))
            return True
        if not groups:
            return False
        taken = groups[: self.random.randint(1, len(groups))]
        events = tuple(event for _, inner in taken for event in inner)
        self.wakes += 1
        self.at(self.now + self._delay(), lambda: task.wake(turn, events))
        return True

    def _after_change(self):
        if self.random.random() < self.faults.compact:
            self.model.compact(self.model.revision - self.random.randrange(5))
        self._waits = [
            (task, turn, effect)
            for task, turn, effect in self._waits
            if turn == task.turn and not task.done and not self._deliver(task, turn, effect)
        ]
