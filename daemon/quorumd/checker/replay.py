"""The operations of a history in the order of their revisions, one revision after the other, on a store.

At most revisions there is nothing to choose: one answered operation made it. Where none did, an operation of unknown
outcome must have; where only deletes may have, one of them or an unknown one. `Replay` tries the most likely first. An
answer that does not fit names its suspects: the choices that may have changed what it looked at. The search goes back
to the last of those, not to the last of all, and on to the suspects of that one when it has no option left
(conflict-directed backjumping, Prosser 1993); with no suspect left, the history is not linearizable.

Where it is told what each revision changed, whoever makes one must change just that. The state is the same then
whatever was chosen (but for the versions of a key that a transaction writes twice, which no node of ours accepts), and
a choice is at fault only if it took an operation that was needed later.
"""

import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from quorumd.checker.history import Operation
from quorumd.checker.model import Item, execute, keys_of, may_write, told, touches
from quorumd.checker.realtime import Floor, out_of_time
from quorumd.checker.timeline import Effects, Says, effects, possible_effects, seen
from quorumd.limits import CHECK_CONFIGURATIONS

LOOK_AT_CLOCK = 256  # revisions between two looks
NOBODY: frozenset[int] = frozenset()


@dataclass(slots=True)
class Slot:
    """The answered operations that carry one revision."""

    maker: Operation | None = None
    """The one that made it for certain."""
    perhaps: list[Operation] = field(default_factory=list)
    """Deletes: one of them may have made it, the others found nothing to delete."""
    seen: list[Operation] = field(default_factory=list)
    """Those that changed nothing: their answers are exact at this revision."""


@dataclass(slots=True)
class Misfit:
    """The operation whose answer no replay explains, at the highest revision that any reached."""

    revision: int
    operation: Operation | None
    """None: nothing can have made the revision."""
    answer: Any
    """What the store would have answered."""
    reason: str = ""
    """Why else it does not fit, if the answer does."""


@dataclass(slots=True)
class _Choice:
    """A revision that several operations may have made, and how to take back what was done since it was reached."""

    revision: int
    options: Iterator[Operation]
    mark: int
    made_by: Operation | None = None
    blamed: set[int] = field(default_factory=set)
    """The earlier choices that may have to change before one of the options tried so far can fit."""


class Replay:
    """One replay, from an empty store at revision `base` to revision `last`."""

    def __init__(
        self, slots: dict[int, Slot], floors: dict[int, Floor], candidates: dict[int, list[Operation]], base: int,
        last: int, deadline: float, changes: Mapping[int, Effects] | None = None,
    ) -> None:
        """`candidates` are the unknown operations that may have made a revision, the most likely first. `changes` is
        what each revision changed, if that is told; one that is not in it changed nothing."""
        self.steps = 0
        self.misfit: Misfit | None = None
        self._slots, self._floors, self._candidates = slots, floors, candidates
        self._base, self._last, self._deadline, self._changes = base, last, deadline, changes
        self._state: dict[str, Item] = {}
        self._undo: list[tuple[str, Item | None]] = []
        self._choices: list[_Choice] = []
        self._made_by: dict[int, Operation] = {}  # the operation chosen for a revision
        self._used: dict[int, int] = {}  # the revision that an unknown operation was chosen for
        self._suspects: _Suspects | None = None  # of nobody where the state is told
        if changes is None:
            self._suspects = _Suspects(slots, candidates, base, last, self._made_by, self._used)
        self._blamed: set[int] = set()  # the choices that may explain the last misfit

    def run(self) -> bool | None:
        """Whether some choice explains every answer; None if a limit was reached first."""
        if not self._agree(self._base, self._slots.get(self._base, Slot()), None):
            return False
        revision, turns, visited = self._base + 1, 0, 0
        while revision <= self._last:
            turns += 1
            if turns % LOOK_AT_CLOCK == 0 and time.monotonic() > self._deadline:
                return None
            slot = self._slots.get(revision)
            if slot is not None and slot.maker is not None:
                fits = self._make(revision, slot.maker)
            else:
                visited += 1
                fits = self._choose(revision)
            if fits:
                revision += 1
            elif not self._blamed:
                return False
            elif visited > CHECK_CONFIGURATIONS:
                return None
            else:
                revision = self._jump_back()
        return True

    def _choose(self, revision: int) -> bool:
        """Lets the next operation that fits make an open revision; if none is left, blames what may have spoilt it."""
        if not self._choices or self._choices[-1].revision != revision:
            self._choices.append(_Choice(revision, self._options(revision), len(self._undo)))
        choice = self._choices[-1]
        for operation in choice.options:
            holder = self._used.get(operation.index)
            if holder is not None:
                choice.blamed.add(holder)
                continue
            choice.made_by = self._made_by[revision] = operation
            if operation.outcome != "ok":
                self._used[operation.index] = revision
            if self._make(revision, operation):
                return True
            choice.blamed |= self._blamed
            self._take_back(choice)
        self._note(revision, None, None)
        self._choices.pop()
        self._blamed = choice.blamed - {revision}
        return False

    def _options(self, revision: int) -> Iterator[Operation]:
        """What may have made an open revision."""
        slot = self._slots.get(revision)
        if slot is not None:
            yield from slot.perhaps
        yield from self._candidates.get(revision, ())

    def _jump_back(self) -> int:
        """Takes everything back that was done since the last blamed choice, whose revision it returns."""
        target = max(self._blamed)
        while self._choices[-1].revision != target:
            self._take_back(self._choices.pop())
        choice = self._choices[-1]
        self._take_back(choice)
        choice.blamed |= self._blamed
        return target

    def _take_back(self, choice: _Choice) -> None:
        while len(self._undo) > choice.mark:
            self._set(*self._undo.pop())
        if choice.made_by is not None:
            self._used.pop(choice.made_by.index, None)
            del self._made_by[choice.revision]
            choice.made_by = None

    def _make(self, revision: int, operation: Operation) -> bool:
        """Lets `operation` make `revision`; whether its answer, and all others at the revision, fit."""
        self.steps += 1
        known = operation.outcome == "ok"
        answer, changes = execute(operation, self._state, revision)
        if known and answer != told(operation):
            return self._misfits(revision, revision - 1, operation, answer)
        if not changes:
            if known and not self._slots[revision].perhaps:
                self._note(revision, operation, answer, "it changed nothing")
            self._blame(operation, revision - 1)
            return False
        if self._changes is not None and (effect := self._effect(changes)) != self._changes.get(revision, {}):
            other = self._changes.get(revision, "nothing")
            if known:
                self._note(revision, operation, answer, f"it changes {effect}, and revision {revision} changed {other}")
            self._blamed = set()
            return False
        if known and (late := out_of_time(operation, self._floors[operation.index], made=True)):
            self._note(revision, operation, answer, late)
            self._blamed = set()
            return False
        for key, item in changes.items():
            self._undo.append((key, self._state.get(key)))
            self._set(key, item)
        slot = self._slots.get(revision)
        return slot is None or self._agree(revision, slot, operation)

    def _agree(self, revision: int, slot: Slot, maker: Operation | None) -> bool:
        """Whether every operation that carries `revision` without having made it fits the state."""
        for operation in (*slot.seen, *slot.perhaps):
            if operation is maker:
                continue
            self.steps += 1
            answer, changes = execute(operation, self._state, revision + 1)
            if answer != told(operation):
                return self._misfits(revision, revision, operation, answer)
            if changes:
                return self._misfits(revision, revision, operation, answer, "it would have made a revision of its own")
        return True

    def _misfits(self, revision: int, state: int, operation: Operation, answer: Any, reason: str = "") -> bool:
        """Notes that `operation` does not fit the state at revision `state`, and whose fault that may be."""
        self._note(revision, operation, answer, reason)
        self._blame(operation, state)
        return False

    def _blame(self, operation: Operation, at: int) -> None:
        """Who made the state at revision `at`, that the operation does not fit, what it is."""
        self._blamed = self._suspects.of(operation, self._state, at) if self._suspects is not None else set()

    def _effect(self, changes: Mapping[str, Item | None]) -> Effects:
        """What a watch tells of changes to the state; not of what was put and deleted at once."""
        return {key: item and item.value for key, item in changes.items() if item is not None or key in self._state}

    def _set(self, key: str, item: Item | None) -> None:
        if item is None:
            self._state.pop(key, None)
        else:
            self._state[key] = item

    def _note(self, revision: int, operation: Operation | None, answer: Any, reason: str = "") -> None:
        if self.misfit is None or revision > self.misfit.revision:
            self.misfit = Misfit(revision, operation, answer, reason)

    def last_writer(self, misfit: Misfit) -> Operation | None:
        """The newest answered operation at or below the misfit's revision that wrote what it looks at."""
        for revision in range(misfit.revision, self._base, -1):
            slot = self._slots.get(revision, Slot())
            for operation in (slot.maker, *slot.perhaps):
                if operation is None or operation is misfit.operation or misfit.operation is None:
                    continue
                if any(touches(misfit.operation, key) for key in may_write(operation)):
                    return operation
        return None


class _Suspects:
    """Which choices decide what an operation finds: however the others change, it finds what does not fit."""

    def __init__(
        self, slots: dict[int, Slot], candidates: dict[int, list[Operation]], base: int, last: int,
        made_by: dict[int, Operation], used: dict[int, int],
    ) -> None:
        self._made_by, self._used = made_by, used
        self._candidates = {revision: frozenset(op.index for op in found) for revision, found in candidates.items()}
        # What follows from an operation alone, by its index: a search asks for it again and again.
        self._finds: dict[int, list[tuple[str, Says, str | None]]] = {}
        self._sets: dict[int, frozenset[str]] = {}
        # key -> the open revisions that may have changed it, and those whose known maker set it, to what; ascending
        self._open: defaultdict[str, list[int]] = defaultdict(list)
        self._known: defaultdict[str, list[int]] = defaultdict(list)
        self._set_to: defaultdict[str, list[str | None]] = defaultdict(list)
        # (key, value) -> the unknown operations that may leave it behind
        self._writers: defaultdict[tuple[str, str | None], set[int]] = defaultdict(set)
        for revision in range(base + 1, last + 1):
            slot = slots.get(revision)
            if slot is not None and slot.maker is not None:
                for key, value in effects(slot.maker).items():
                    self._known[key].append(revision)
                    self._set_to[key].append(value)
                continue
            able = (*(slot.perhaps if slot is not None else ()), *candidates.get(revision, ()))
            for key in {key for operation in able for key in may_write(operation)}:
                self._open[key].append(revision)
        for operation in {op.index: op for found in candidates.values() for op in found}.values():
            for effect in possible_effects(operation):
                self._writers[effect].add(operation.index)

    def of(self, operation: Operation, state: dict[str, Item], at: int) -> set[int]:
        """The open revisions up to `at` that must get another maker before `operation` can fit; `state` is the one
        that it found, at revision `at`."""
        found: set[int] | None = None
        for key, says, value in self._must_find(operation):
            item = state.get(key)
            if says is Says.IS and value is not None and value != (item.value if item is not None else None):
                decisive = self._without(key, value, at)
                if decisive is not None and (found is None or len(decisive) < len(found)):
                    found = decisive
        return found if found is not None else self._all(operation, at)

    def _must_find(self, operation: Operation) -> list[tuple[str, Says, str | None]]:
        found = self._finds.get(operation.index)
        if found is None:
            if operation.outcome == "ok":
                found = list(seen(operation, self._open))
            else:
                found = [(operation.key, Says.IS, operation.value[0])] if operation.f == "cas" else []
            self._finds[operation.index] = found
        return found

    def _surely_sets(self, maker: Operation, key: str) -> bool:
        keys = self._sets.get(maker.index)
        if keys is None:
            keys = self._sets[maker.index] = frozenset(_certain(maker))
        return key in keys

    def _without(self, key: str, value: str, at: int) -> set[int] | None:
        """Choices that, while they stay, keep a key from being `value` at revision `at`; None if that takes them all.

        The last one that overwrote it; where the operations that may leave the value behind are, if they are used; and
        if they are not, where after that one they might be.
        """
        since, set_to = self._last_known(key, at)
        if set_to == value:
            return None
        able = self._writers.get((key, value), NOBODY)
        found = {self._used[index] for index in able if index in self._used}
        free = able - self._used.keys()
        for revision in reversed(self._window(key, since, at)):
            maker = self._made_by.get(revision)
            if maker is not None and maker.index not in able and key in may_write(maker):
                found.add(revision)
                if self._surely_sets(maker, key):
                    break
            if free and not free.isdisjoint(self._candidates.get(revision, NOBODY)):
                found.add(revision)
        return self._with_causes(found, at)

    def _all(self, operation: Operation, at: int) -> set[int]:
        """Every choice that has a part in what `operation` finds."""
        if operation.f == "range":
            looks = [(key, False) for key in self._open if touches(operation, key)]
        else:
            looks = [(key, False) for key in keys_of(operation)] + [(key, True) for key in _counted(operation)]
        found: set[int] = set()
        for key, whole in looks:
            found |= self._behind(key, whole, at)
        return self._with_causes(found, at)

    def _behind(self, key: str, whole: bool, at: int) -> set[int]:
        """The choices that made a key's value and mod revision; `whole`: its version and create revision as well."""
        found: set[int] = set()
        for revision in reversed(self._window(key, 0 if whole else self._last_known(key, at)[0], at)):
            found.add(revision)
            maker = self._made_by.get(revision)
            if maker is not None and not whole and self._surely_sets(maker, key):
                break
        return found

    def _with_causes(self, choices: set[int], at: int) -> set[int]:
        """`choices` up to `at` and, as the branch that an unknown transaction took depends on others, those."""
        found: set[int] = set()
        todo = list(choices)
        while todo:
            revision = todo.pop()
            if revision in found or revision > at:
                continue
            found.add(revision)
            maker = self._made_by.get(revision)
            if maker is not None and maker.f == "txn" and maker.outcome != "ok":
                counted = _counted(maker)
                for key in {compare[0] for compare in maker.value["compare"]}:
                    todo += self._behind(key, key in counted, revision - 1)
        return found

    def _last_known(self, key: str, at: int) -> tuple[int, str | None]:
        """When an answered operation last set a key, and to what."""
        known = self._known.get(key, [])
        place = bisect_right(known, at)
        return (known[place - 1], self._set_to[key][place - 1]) if place else (0, None)

    def _window(self, key: str, since: int, at: int) -> list[int]:
        """The open revisions after `since` and up to `at` that may have changed a key."""
        revisions = self._open.get(key, [])
        return revisions[bisect_left(revisions, since) : bisect_right(revisions, at)]


def _certain(maker: Operation) -> Iterable[str]:
    """The keys that an operation has set if it made a revision, whichever branch it took."""
    if maker.outcome == "ok":
        return effects(maker)
    if maker.f != "txn":
        return (maker.key,)
    written = [{op[1] for op in maker.value[branch] if op[0] == "write"} for branch in ("success", "failure")]
    return set.intersection(*[keys for keys in written if keys])


def _counted(operation: Operation) -> set[str]:
    """The keys of which an operation compares a counter that every write since the key was made has a part in."""
    if operation.f != "txn":
        return set()
    counters = ("version", "create_revision")
    return {key for key, target, _, operand in operation.value["compare"] if target in counters and operand != 0}
