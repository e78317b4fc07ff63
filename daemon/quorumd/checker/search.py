"""Linearizability by search, for histories without revisions.

Wing & Gong (1993): linearize, one after the other, any operation that no other open one must precede, and go back where
that leads nowhere; Lowe (2017): never visit the same pair (set of linearized operations, state) twice. Differences:

- The set is (number of leading operations by invoke that all are in it, bits of those behind): a real-time order keeps
  the second part as short as the history is concurrent. Lowe walks a linked list of events instead.
- An operation whose answer says that it changed nothing is linearized as soon as it fits and never taken back: whatever
  might have come before it may come after it as well.
- An operation of unknown outcome may always wait until the next one that touches one of its keys: between the two come
  only others that wait for the same. If all that it changed is overwritten unseen, it may as well not have happened.

Deciding linearizability is NP-complete (Gibbons & Korach 1997): the search is bounded in configurations and in time.
"""

import math
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from quorumd.checker.components import components
from quorumd.checker.history import Operation
from quorumd.checker.model import Item, execute, keys_of, may_write, told, touches
from quorumd.checker.timeline import Makes, makes_revision
from quorumd.checker.verdict import Verdict
from quorumd.errors import HistoryError
from quorumd.limits import CHECK_CONFIGURATIONS

NAME: Final = "search"
LOOK_AT_CLOCK: Final = 256  # configurations between two looks
SHOWN: Final = 8  # operations that a violation names beside the one that fits nowhere

Cells = tuple[Item | None, ...]


class _Path(NamedTuple):
    """Operations in the order in which they were linearized, last first."""

    last: Operation
    before: "_Path | None"


class _Configuration(NamedTuple):
    """A point of the search. `base` leading operations are linearized, and those of `mask`, whose bit 0 is `base`'s."""

    base: int
    mask: int  # bit 0 is never set: `base` would be larger
    used: int  # bits of the unknown operations that took effect
    pending: int  # those of them that nothing looked at yet
    cells: Cells
    path: _Path | None


def check_by_search(operations: list[Operation], deadline: float) -> Verdict:
    """Whether any order explains the answers. `deadline` is a reading of time.monotonic.

    Raises HistoryError for what cannot be judged without revisions: stale reads, compares of create or mod revisions.
    """
    _refuse_what_needs_revisions(operations)
    steps, undecided = 0, ""
    for part in components(operations):
        search = _Search(part, deadline)
        found = search.run()
        steps += search.steps
        if found is False:
            reason, named = search.explanation()
            return Verdict(False, reason, NAME, named, steps)
        if found is None:
            undecided = undecided or search.given_up()
    return Verdict(None, undecided, NAME, [], steps) if undecided else Verdict(True, "linearizable", NAME, [], steps)


def _refuse_what_needs_revisions(operations: list[Operation]) -> None:
    for operation in operations:
        where = f"operation {operation.index + 1} ({operation.describe()})"
        if operation.stale and operation.outcome == "ok":
            raise HistoryError(f"{where}: a stale read can be checked only against its revision; record revisions")
        for compare in operation.value["compare"] if operation.f == "txn" else ():
            if compare[1] in ("create_revision", "mod_revision"):
                raise HistoryError(f"{where}: compares {compare[1]}, but the history has no revisions; record them")


class _View:
    """Cells as a state to read from."""

    __slots__ = ("cells", "index")

    def __init__(self, index: dict[str, int]) -> None:
        self.index = index
        self.cells: Cells = (None,) * len(index)

    def get(self, key: str, /) -> Item | None:
        place = self.index.get(key)
        return None if place is None else self.cells[place]

    def __iter__(self) -> Iterator[str]:
        return iter([key for key, place in self.index.items() if self.cells[place] is not None])


class _Search:
    """The search over one component."""

    def __init__(self, part: list[Operation], deadline: float) -> None:
        self.steps = 0
        self._definite = [operation for operation in part if operation.outcome == "ok"]
        self._unknown = [operation for operation in part if operation.outcome == "info"]
        self._looks = [makes_revision(operation) is Makes.NO for operation in self._definite]
        self._index = {key: i for i, key in enumerate(sorted({key for op in part for key in keys_of(op)}))}
        self._view = _View(self._index)
        self._versions = any(compare[1] == "version" for op in part if op.f == "txn" for compare in op.value["compare"])
        self._deadline = deadline
        self._seen: set[tuple[int, int, int, int, Cells]] = set()
        self._seen_by: dict[tuple[int, int], bool] = {}
        # The configuration that got past the most answers in time, and the position of the one that it did not pass.
        self._furthest = _Configuration(0, 0, 0, 0, self._view.cells, None)
        self._reached: float = -1
        self._late = False

    def run(self) -> bool | None:
        """Whether the component is linearizable; None if a limit was reached first."""
        stack = [self._furthest]
        while stack:
            if len(self._seen) >= CHECK_CONFIGURATIONS:
                return None
            if len(self._seen) % LOOK_AT_CLOCK == 0 and time.monotonic() > self._deadline:
                self._late = True
                return None
            found = self._expand(stack.pop())
            if found is None:
                return True
            stack.extend(found)
        return False

    def _expand(self, at: _Configuration) -> list[_Configuration] | None:
        """What may follow `at`, the most promising last; None if every operation of known outcome is linearized."""
        while True:
            if at.base == len(self._definite):
                return None
            candidates, blocked = self._candidates(at)
            at, following, moved = self._take(at, candidates)
            if not moved:
                break
        place = (at.base, at.mask, at.used, at.pending, at.cells)
        if place in self._seen:
            return []
        self._seen.add(place)
        if blocked > self._reached:
            self._furthest, self._reached = at, blocked
        # The operation answered first must come soonest. Unknown ones are tried last: few took effect unseen.
        following.sort(key=lambda pair: -self._completed(pair[0]))
        found = [self._linearized(at, i, cells) for i, cells in following]
        return self._unknown_next(at, blocked) + found

    def _candidates(self, at: _Configuration) -> tuple[list[int], float]:
        """The operations that no other open one precedes, and the position of the first answer among them."""
        definite, found = self._definite, []
        blocked, i, mask, count = math.inf, at.base, at.mask, len(self._definite)
        while i < count and definite[i].invoked < blocked:
            found.append(i)
            blocked = min(blocked, self._completed(i))
            i, mask = i + 1, mask >> 1
            if mask & 1:
                ones = (~mask & (mask + 1)).bit_length() - 1
                i, mask = i + ones, mask >> ones
        return found, blocked

    def _completed(self, i: int) -> float:
        completed = self._definite[i].completed
        return math.inf if completed is None else completed

    def _take(
        self, at: _Configuration, candidates: list[int]
    ) -> tuple[_Configuration, list[tuple[int, Cells]], bool]:
        """Linearizes the candidates that fit and only look; returns those that fit and may change something too."""
        following: list[tuple[int, Cells]] = []
        moved, pending = False, [self._unknown[place] for place in _places(at.pending)]
        for i in candidates:
            operation = self._definite[i]
            if not all(self._looks_at(operation, other) for other in pending):
                continue
            cells = self._apply(operation, at.cells)
            if cells is not None and self._looks[i]:
                at, moved = self._linearized(at, i, cells), True
            elif cells is not None:
                following.append((i, cells))
        return at, following, moved

    def _linearized(self, at: _Configuration, i: int, cells: Cells) -> _Configuration:
        base, mask = at.base, at.mask | 1 << (i - at.base)
        if mask & 1:
            ones = (~mask & (mask + 1)).bit_length() - 1
            base, mask = base + ones, mask >> ones
        return _Configuration(base, mask, at.used, 0, cells, _Path(self._definite[i], at.path))

    def _unknown_next(self, at: _Configuration, blocked: float) -> list[_Configuration]:
        """The configurations in which an operation of unknown outcome takes effect next."""
        found = []
        for i, operation in enumerate(self._unknown):
            if operation.invoked > blocked:
                break
            if at.used >> i & 1:
                continue
            cells = self._apply(operation, at.cells)
            if cells is None or cells is at.cells:
                continue
            pending, unseen = 1 << i, False
            for place in _places(at.pending):
                if self._overwrites(operation, self._unknown[place]):
                    unseen = True
                elif not self._looks_at(operation, self._unknown[place]):
                    pending |= 1 << place
            if not unseen:
                path = _Path(operation, at.path)
                found.append(_Configuration(at.base, at.mask, at.used | 1 << i, pending, cells, path))
        return found

    def _looks_at(self, operation: Operation, pending: Operation) -> bool:
        """Whether `operation` touches a key of `pending`, and does more than to overwrite it."""
        pair = (pending.index, operation.index)
        if pair not in self._seen_by:
            touching = any(touches(operation, key) for key in keys_of(pending))
            self._seen_by[pair] = touching and not self._overwrites(operation, pending)
        return self._seen_by[pair]

    def _overwrites(self, operation: Operation, pending: Operation) -> bool:
        """Whether `operation` undoes all of `pending`, whatever that did."""
        return operation.f == "write" and may_write(pending) == {operation.key} and not self._versions

    def _apply(self, operation: Operation, cells: Cells) -> Cells | None:
        """The cells after `operation`, the same object if it changes nothing, None if its answer does not fit."""
        self.steps += 1
        self._view.cells = cells
        answer, changes = execute(operation, self._view, 0)
        if operation.outcome == "ok" and answer != told(operation):
            return None
        if not changes:
            return cells
        after = list(cells)
        for key, item in changes.items():
            # Counters that nothing compares would only tell equal states apart.
            version = item.version if item is not None and self._versions else 0
            after[self._index[key]] = None if item is None else Item(item.value, version, 0, 0)
        made = tuple(after)
        return cells if made == cells else made

    # -- what to say ------------------------------------------------------------------------------------------------

    def given_up(self) -> str:
        """Why nothing was decided."""
        keys = ", ".join(sorted(self._index)[:SHOWN])
        limit = "the time was up" if self._late else f"{CHECK_CONFIGURATIONS} configurations were visited"
        return f"not decided: {limit} before an order was found or excluded for the keys {keys}"

    def explanation(self) -> tuple[str, list[Operation]]:
        """The reason of a violation and its operations: the one that fits nowhere first, then those around it."""
        at = self._furthest
        candidates, blocked = self._candidates(at)
        misfit = next(self._definite[i] for i in candidates if self._completed(i) == blocked)
        others = [self._definite[i] for i in candidates if self._definite[i] is not misfit]
        names = sorted(key for key in self._index if touches(misfit, key))
        self._view.cells = at.cells
        state = ", ".join(f'"{key}" is {_shown(self._view.get(key))}' for key in names[:SHOWN]) or "the range is empty"
        count = at.base + at.mask.bit_count()
        beside = f"none of the {len(others)} others open then helps" if others else "no other is open then"
        reason = (
            f"no order explains {misfit.describe()}: the longest one has {count} of {len(self._definite)} operations "
            f"on these keys, after them {state}, and {beside}"
        )
        writers: list[Operation] = []
        path = at.path
        while path is not None and len(writers) < 2:
            looked = path.last.outcome == "ok" and makes_revision(path.last) is Makes.NO
            if not looked and any(key in names for key in may_write(path.last)):
                writers.append(path.last)
            path = path.before
        return reason, [misfit, *writers, *others[:SHOWN]]


def _places(bits: int) -> Iterator[int]:
    """Of the bits that are set, lowest first."""
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1


def _shown(item: Item | None) -> str:
    return "absent" if item is None else f'"{item.value}"'
