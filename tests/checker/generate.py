"""Random histories: clients of a store that does one thing after the other, and ways to spoil what they recorded."""

import copy
from random import Random

from quorumd.checker.history import Event

from . import brute


class Call:
    """An operation under way, with the fields that `brute.perform` reads."""

    def __init__(self, process, f, key, value, stale) -> None:
        self.process, self.f, self.key, self.value, self.stale = process, f, key, value, stale
        self.outcome, self.answer, self.revision = None, None, None
        self.done = False


def history(
    seed: int, operations: int = 6, processes: int = 3, keys: str = "ab", values: str | None = "123",
    unknown: float = 0.15, failed: float = 0.05, functions: str = "read write cas txn range delete",
    revisions: bool = True, stale: float = 0.1, start: int | None = None,
    targets: str = "value value version create_revision mod_revision", states: list | None = None,
) -> list[Event]:
    """A linearizable history. `values` None: every written value is a new one. states: is given (store, revision) of
    the beginning, and after every change."""
    random = Random(seed)
    store: dict = {}
    states = [] if states is None else states
    states.append(({}, random.randrange(1, 4) if start is None else start))
    open_: dict[int, Call] = {}
    ids = list(range(processes))
    events: list[Event] = []
    begun = 0
    numbers = iter(range(1, 10**9))
    while begun < operations or open_:
        i = random.randrange(processes)
        process = ids[i]
        time_ns = len(events) * 10
        call = open_.get(process)
        if call is None:
            if begun == operations:
                continue
            begun += 1
            call = propose(random, process, keys, values, functions, stale, numbers, targets)
            open_[process] = call
            value = copy.deepcopy(call.value)
            events.append(Event(process, "invoke", call.f, call.key, value, time_ns, stale=call.stale))
            call.outcome = "ok"
            chance = random.random()
            if chance < unknown:
                call.outcome = "info"
            elif chance < unknown + failed and not call.stale:
                call.outcome = "fail"
            call.first = len(states) - 1
        elif not call.done and random.random() < 0.6:
            call.done = True
            if call.outcome == "fail":
                continue
            if call.outcome == "info" and random.random() < 0.5:
                continue
            if call.stale:
                seen, revision = random.choice(states)
                call.answer, _ = brute.perform(call, copy.deepcopy(seen), revision)
                call.revision = revision
                continue
            revision = states[-1][1]
            call.answer, changed = brute.perform(call, store, revision + 1)
            call.revision = revision + 1 if changed else revision
            if changed:
                states.append((copy.deepcopy(store), revision + 1))
        elif call.done:
            del open_[process]
            events.append(completion(call, time_ns, revisions))
            if call.outcome == "info":
                ids[i] = max(ids) + 1
    return events


def lose_answers(events: list[Event], first: int, last: int) -> list[Event]:
    """The same history with the answers of its `first` to `last` operations lost; their clients go on as new ones."""
    names: dict[int, int] = {}
    free, count = max(event.process for event in events) + 1, 0
    found = []
    for event in copy.deepcopy(events):
        process = event.process
        event.process = names.get(process, process)
        if event.type != "invoke":
            count += 1
            if first < count <= last:
                event.type, event.revision, event.succeeded, event.results = "info", None, None, None
                names[process], free = free, free + 1
        found.append(event)
    return found


def propose(random, process, keys, values, functions, stale, numbers, targets) -> Call:
    def new():
        return str(next(numbers)) if values is None else random.choice(values)

    def some():
        """A value to compare with."""
        if values is None:
            return str(random.randrange(1, 40))
        return random.choice([*values, None])

    f = random.choice(functions.split())
    key = random.choice(keys)
    old = f in ("read", "range") and random.random() < stale
    if f == "delete":
        return Call(process, "write", key, None, False)
    if f == "read":
        return Call(process, f, key, None, old)
    if f == "range":
        return Call(process, f, ["a", random.choice("bcz")], None, old)
    if f == "write":
        return Call(process, f, key, new(), False)
    if f == "cas":
        return Call(process, f, key, [some(), random.choice([new(), new(), None])], False)
    compares = []
    for _ in range(random.randrange(3)):
        target = random.choice(targets.split())
        operand = random.randrange(5)
        relation = random.choice(["=", "!=", "<", ">"])
        if target == "value":
            operand = some()
            relation = relation if operand is not None else random.choice(["=", "!="])
        compares.append([random.choice(keys), target, relation, operand])

    def branch():
        ops = []
        for _ in range(random.randrange(3)):
            one = random.choice(keys)
            ops.append(random.choice([["read", one], ["write", one, new()], ["write", one, None]]))
        return ops

    return Call(process, "txn", None, {"compare": compares, "success": branch(), "failure": branch()}, False)


def completion(call, time_ns, revisions) -> Event:
    value, succeeded, results, revision = call.value, None, None, None
    if call.outcome == "ok":
        revision = call.revision if revisions else None
        if call.f in ("read", "range"):
            value = call.answer
        elif call.f == "cas":
            succeeded = call.answer
        elif call.f == "txn":
            succeeded, results = call.answer
    return Event(
        call.process, call.outcome, call.f, call.key, copy.deepcopy(value), time_ns, revision, succeeded, results,
        call.stale,
    )  # fmt: skip


def spoil(events: list[Event], seed: int, values: str = "123") -> list[Event]:
    """The history with one or two lies in it; it may still be linearizable."""
    random = Random(seed)
    events = copy.deepcopy(events)
    for _ in range(random.choice([1, 1, 2])):
        answers = [event for event in events if event.type == "ok"]
        if not answers:
            break
        event = random.choice(answers)
        kind = random.choice(["answer", "answer", "revision", "outcome", "shift"])
        if kind == "revision" and event.revision is not None:
            event.revision = max(0, event.revision + random.choice([-2, -1, 1, 2]))
        elif kind == "shift" and event.revision is not None:
            step = random.choice([-1, 1])
            for other in answers:
                if other.revision >= event.revision:
                    other.revision = max(0, other.revision + step)
        elif kind == "outcome" and event.f not in ("read", "range"):
            event.type = "fail"
            event.revision = event.succeeded = event.results = None
        else:
            lie(random, event, values)
    return events


def lie(random, event, values) -> None:
    if event.f == "read":
        event.value = random.choice([*values, None])
    elif event.f == "range" and event.value:
        if random.random() < 0.5:
            event.value.pop(random.randrange(len(event.value)))
        else:
            random.choice(event.value)[1] = random.choice(values)
    elif event.f == "cas":
        event.succeeded = not event.succeeded
    elif event.f == "txn" and event.results:
        place = random.randrange(len(event.results))
        event.results[place] = random.choice([*values, None])
