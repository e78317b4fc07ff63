"""The operations of a history in the order of their revisions, one revision after the other, on a store.

At most revisions there is nothing to choose: one answered operation made it. Where none did, an operation of unknown
outcome must have; where only deletes may have, one of them or an unknown one. `Replay` goes back over such choices, the
most likely first, and visits no (revision, unknown operations used, values that depend on them) twice.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from quorumd.checker.history import Operation
from quorumd.checker.model import Item, execute, may_write, told, touches
from quorumd.checker.realtime import Floor, out_of_time
from quorumd.limits import CHECK_CONFIGURATIONS

LOOK_AT_CLOCK = 256  # revisions between two looks


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
    """What was done at one revision and how to take it back."""

    revision: int
    options: Iterator[Operation]
    mark: int
    used: int


class Replay:
    """One replay, from an empty store at revision `base` to revision `last`."""

    def __init__(
        self, slots: dict[int, Slot], floors: dict[int, Floor], candidates: dict[int, list[Operation]], base: int,
        last: int, deadline: float,
    ) -> None:
        """`candidates` are the unknown operations that may have made a revision, the most likely first."""
        self.steps = 0
        self.misfit: Misfit | None = None
        self._slots, self._floors, self._candidates = slots, floors, candidates
        self._base, self._last, self._deadline = base, last, deadline
        self._state: dict[str, Item] = {}
        self._undo: list[tuple[str, Item | None]] = []
        unknown = {operation.index: operation for found in candidates.values() for operation in found}
        self._bit = {index: 1 << place for place, index in enumerate(sorted(unknown))}
        self._depends = sorted({key for operation in unknown.values() for key in may_write(operation)})
        self._used = 0
        self._visited: set[tuple[int, int, tuple[Item | None, ...]]] = set()

    def run(self) -> bool | None:
        """Whether some choice explains every answer; None if a limit was reached first."""
        if not self._agree(self._base, self._slots.get(self._base, Slot()), None):
            return False
        choices: list[_Choice] = []
        revision = self._base + 1
        options = self._options(revision)
        turns = 0
        while revision <= self._last:
            turns += 1
            if len(self._visited) > CHECK_CONFIGURATIONS:
                return None
            if turns % LOOK_AT_CLOCK == 0 and time.monotonic() > self._deadline:
                return None
            option = next(options, None)
            if option is None:
                if not choices:
                    return False
                choice = choices.pop()
                self._back(choice.mark, choice.used)
                revision, options = choice.revision, choice.options
                continue
            choice = _Choice(revision, options, len(self._undo), self._used)
            if self._make(revision, option):
                choices.append(choice)
                revision += 1
                options = self._options(revision)
            else:
                self._back(choice.mark, choice.used)
        return True

    def _options(self, revision: int) -> Iterator[Operation]:
        """What may have made a revision."""
        slot = self._slots.get(revision)
        if slot is not None and slot.maker is not None:
            yield slot.maker
            return
        place = (revision, self._used, tuple([self._state.get(key) for key in self._depends]))
        if place in self._visited or revision > self._last:
            return
        self._visited.add(place)
        if slot is not None:
            yield from slot.perhaps
        for operation in self._candidates.get(revision, ()):
            if not self._used & self._bit[operation.index]:
                yield operation
        self._note(revision, None, None)

    def _make(self, revision: int, operation: Operation) -> bool:
        """Lets `operation` make `revision`; whether its answer, and all others at the revision, fit."""
        self.steps += 1
        known = operation.outcome == "ok"
        answer, changes = execute(operation, self._state, revision)
        if known and answer != told(operation):
            self._note(revision, operation, answer)
            return False
        if not changes:
            if known and not self._slots[revision].perhaps:
                self._note(revision, operation, answer, "it changed nothing")
            return False
        if known and (late := out_of_time(operation, self._floors[operation.index], made=True)):
            self._note(revision, operation, answer, late)
            return False
        if not known:
            self._used |= self._bit[operation.index]
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
                self._note(revision, operation, answer)
                return False
            if changes:
                self._note(revision, operation, answer, "it would have made a revision of its own")
                return False
        return True

    def _set(self, key: str, item: Item | None) -> None:
        if item is None:
            self._state.pop(key, None)
        else:
            self._state[key] = item

    def _back(self, mark: int, used: int) -> None:
        while len(self._undo) > mark:
            self._set(*self._undo.pop())
        self._used = used

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
