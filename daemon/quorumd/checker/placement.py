"""Which operation of unknown outcome can have made which missing revision, judged by timelines alone.

Everything here holds whatever else happened, so a violation found here is one: a value that nothing can have written
where it was seen, and gaps for which there are too few operations (Hall's theorem, by augmenting paths). What passes
may still be contradictory; a replay decides.
"""

import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from quorumd.checker.history import Operation
from quorumd.checker.matching import augment
from quorumd.checker.timeline import Fact, Lull, Moment, Says, left_by, possible_effects

Slots = list[int]
"""Revisions that an unknown operation may have made, ascending."""


class Want(NamedTuple):
    """The values that explain what was seen: `value` alone, or any other."""

    equal: bool
    value: str | None

    def fits(self, value: str | None) -> bool:
        return (value == self.value) == self.equal


class OutOfTime(Exception):
    """The deadline passed before the operations were placed."""


class Stand(IntEnum):
    """How an unknown operation at a revision agrees with the timelines of its keys."""

    NEVER = 0
    WITH_OTHERS = 1
    """Only if some other unknown operation changes the same key before or behind it."""
    ALONE = 2


class Contradiction(Exception):
    """No assignment exists: the reason, and the operations that show it, or the revision that nothing made."""

    def __init__(self, reason: str, operations: list[Operation], gap: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.operations = operations
        self.gap = gap


class Placement:
    """The revisions that each unknown operation may have made, and a matching that gives each gap one of them.

    `lines` and `lulls` are the timelines of what was answered, `unknown` the operations that may have had effect with
    the revision above which each took it, `slots` the revisions that may be theirs, `gaps` those that must be, `base`
    the revision of the empty store, `deadline` a reading of time.monotonic. Raises Contradiction and OutOfTime.
    """

    def __init__(
        self, lines: dict[str, list[Fact]], lulls: dict[str, list[Lull]], unknown: list[tuple[Operation, int]],
        slots: Slots, gaps: Slots, base: int, deadline: float,
    ) -> None:
        self._deadline = deadline
        self._lines = lines
        self._lulls = lulls
        self._open = set(slots)
        self._musts: defaultdict[int, set[str]] = defaultdict(set)  # the keys that a slot's maker wrote, as was seen
        for key, spans in lulls.items():
            for span in spans:
                self._musts[span.after].add(key)
        self._writes: defaultdict[str, list[int]] = defaultdict(list)  # the revisions in which an answered write set it
        for key, facts in lines.items():
            self._writes[key] = [fact.moment // 2 for fact in facts if fact.says is Says.SET and not fact.moment & 1]
        self._slots = slots
        self._base = base
        self._above = {operation.index: above for operation, above in unknown}
        # key -> value -> the unknown operations that may leave it behind
        self._writers: defaultdict[str, dict[str | None, list[Operation]]] = defaultdict(dict)
        for operation, _ in unknown:
            for key, value in dict.fromkeys(possible_effects(operation)):
                self._writers[key].setdefault(value, []).append(operation)
        self._moments = {key: [fact.moment for fact in facts] for key, facts in lines.items()}
        self._known_places: defaultdict[str, dict[Moment, int]] = defaultdict(dict)
        # Unknown operations that alone can explain something that was seen: (above, up to) which revision.
        self._due: dict[int, tuple[int, int]] = {}
        for key, facts in lines.items():
            self._explain(key, facts)
        self._operations = {operation.index: operation for operation, _ in unknown}
        # Who may have made a slot and which slots an operation may have made, with how well they agree: best first.
        self._makers: defaultdict[int, list[tuple[Stand, int]]] = defaultdict(list)
        self._places: defaultdict[int, list[tuple[Stand, int]]] = defaultdict(list)
        for operation in sorted(self._operations.values(), key=self._urgency):
            self._look_at_clock()
            for slot in self._span(operation, self._above[operation.index]):
                stand = self._stands(operation, slot)
                if stand is not Stand.NEVER:
                    self._makers[slot].append((stand, operation.index))
                    self._places[operation.index].append((stand, slot))
        # An operation that took effect did so soon, most likely: while its client waited.
        for makers in self._makers.values():
            makers.sort(key=lambda edge: (-edge[0], -self._above[edge[1]]))
        for places in self._places.values():
            places.sort(key=lambda edge: (-edge[0], edge[1]))
        self._chosen = self._match(gaps)

    def _look_at_clock(self) -> None:
        if time.monotonic() > self._deadline:
            raise OutOfTime

    def _urgency(self, operation: Operation) -> tuple[float, int]:
        due = self._due.get(operation.index)
        return (due[1] if due else float("inf"), operation.index)

    def _span(self, operation: Operation, above: int) -> Slots:
        low, high = self._due.get(operation.index, (self._base, self._slots[-1] if self._slots else self._base))
        return self._slots[bisect_right(self._slots, max(low, above)) : bisect_right(self._slots, high)]

    def candidates(self) -> dict[int, list[Operation]]:
        """For each revision the operations that may have made it, the matched one first, then the likeliest."""
        found = {}
        for slot, edges in self._makers.items():
            able = [self._operations[index] for _, index in edges]
            first = self._chosen.get(slot)
            found[slot] = able if first is None else [first, *(other for other in able if other is not first)]
        return found

    # -- what was seen ----------------------------------------------------------------------------------------------

    def _explain(self, key: str, facts: list[Fact]) -> None:
        """Walks a timeline; whatever it shows that no answered operation explains, some unknown one must.

        `last` is the fact that told the value last, None if the key was absent from the beginning.
        """
        value: str | None = None
        known, since, last = True, 2 * self._base, None
        for fact in facts:
            if fact.says is Says.IS_NOT:
                if known and value == fact.value:
                    self._demand(key, fact, last, since, Want(False, fact.value))
                    known = False
                continue
            if fact.says is Says.IS and known and value != fact.value:
                self._demand(key, fact, last, since, Want(True, fact.value))
            value, known, since, last = fact.value, True, fact.moment, fact

    def _demand(self, key: str, fact: Fact, last: Fact | None, since: Moment, want: Want) -> None:
        """Some unknown operation left a fitting value between `since` and `fact`; if one alone can have, it did."""
        until = fact.moment
        chain: list[Operation] = []
        while True:
            able = list(dict.fromkeys(self._able(key, want, since, until, chain)))
            if not able:
                raise Contradiction(*self._unexplained(key, fact, last))
            if len(able) > 1:
                return
            (only,) = able
            chain.append(only)
            low, high = self._due.get(only.index, (self._base, until // 2))
            self._due[only.index] = max(since // 2, low), min(until // 2, high)
            if not self._span(only, self._above[only.index]):
                reason = f"{only.describe()} would have to take effect twice to explain {fact.operation.describe()}"
                raise Contradiction(reason, [fact.operation, only])
            held = last.value if last is not None else None
            if only.f != "cas" or only.value[0] == held:
                return
            # A compare-and-swap that took effect found its old value, which another one must have left before.
            want, until = Want(True, only.value[0]), until - 2

    def _able(
        self, key: str, want: Want, since: Moment, until: Moment, but: Container[Operation]
    ) -> Iterator[Operation]:
        """The unknown operations, others than `but`, that may leave such a value at a slot between two moments."""
        low, high = since // 2, until // 2
        for value in [want.value] if want.equal else self._writers[key]:
            if not want.fits(value):
                continue
            for operation in self._writers[key].get(value, ()):
                first = bisect_right(self._slots, max(low, self._above[operation.index]))
                if first < len(self._slots) and self._slots[first] <= high and operation not in but:
                    yield operation

    def _unexplained(self, key: str, fact: Fact, last: Fact | None) -> tuple[str, list[Operation]]:
        seen, after, named = fact.operation, "on the empty store", [fact.operation]
        if last is not None:
            after, named = f"after {last.operation.describe()}", [seen, last.operation]
        reason = (
            f'{seen.describe()} contradicts the order of revisions: nothing that may have written "{key}" explains it '
            f"{after}"
        )
        return reason, named

    # -- where an unknown operation may stand -----------------------------------------------------------------------

    def _stands(self, operation: Operation, slot: int) -> Stand:
        """NEVER only if `operation` at `slot` contradicts a timeline whatever the other unknown operations did."""
        if operation.f != "txn":
            ((key, value),) = possible_effects(operation)
            if not self._musts.get(slot, set()) <= {key}:
                return Stand.NEVER
            survives = self._survives(operation, key, value, slot)
            return survives and min(survives, self._applies(operation, value, slot))
        return max(self._branch_stands(operation, branch, slot) for branch in ("success", "failure"))

    def _branch_stands(self, operation: Operation, branch: str, slot: int) -> Stand:
        """The same for a transaction that takes one of its branches."""
        effects = left_by(operation.value[branch])
        if not effects or not self._musts.get(slot, set()) <= effects.keys():
            return Stand.NEVER
        stand = Stand.ALONE
        for key, value in effects.items():
            stand = min(stand, self._survives(operation, key, value, slot))
            if stand is Stand.NEVER:
                return stand
        if branch == "failure":
            return stand if operation.value["compare"] else Stand.NEVER
        for compare in operation.value["compare"]:
            stand = min(stand, self._holds(operation, compare, slot))
        return stand

    def _holds(self, operation: Operation, compare: list[Any], slot: int) -> Stand:
        """Whether a compare can hold just before `slot`."""
        key, target, relation, operand = compare
        if target == "value" and relation in ("=", "!="):
            return self._finds(operation, key, Want(relation == "=", operand), slot)
        if target == "mod_revision" and relation == "=" and operand:
            # The key was written at that revision and not since.
            writes = self._writes[key]
            place = bisect_left(writes, slot)
            last = writes[place - 1] if place else self._base
            return Stand.ALONE if last == operand or (last < operand < slot and operand in self._open) else Stand.NEVER
        return Stand.ALONE

    def _applies(self, operation: Operation, value: str | None, slot: int) -> Stand:
        """Whether it can have changed anything: a compare must hold, and what is deleted must exist."""
        if operation.f == "cas":
            if operation.value == [None, None]:
                return Stand.NEVER
            return self._finds(operation, operation.key, Want(True, operation.value[0]), slot)
        return Stand.ALONE if value is not None else self._finds(operation, operation.key, Want(False, None), slot)

    def _finds(self, operation: Operation, key: str, want: Want, slot: int) -> Stand:
        """Whether `operation` can find such a value just before `slot`."""
        facts = self._lines.get(key, [])
        place = self._place(key, 2 * slot - 1)
        while place and facts[place - 1].says is Says.IS_NOT:
            place -= 1
        last = facts[place - 1] if place else None
        held, since = (last.value, last.moment) if last is not None else (None, 2 * self._base)
        if want.fits(held):
            return Stand.ALONE
        return Stand.WITH_OTHERS if any(self._able(key, want, since, 2 * slot - 1, [operation])) else Stand.NEVER

    def _place(self, key: str, moment: Moment) -> int:
        """How many facts of a key are at or before a moment; remembered, as every operation on the key asks."""
        known = self._known_places[key]
        place = known.get(moment)
        if place is None:
            place = known[moment] = bisect_right(self._moments.get(key, []), moment)
        return place

    def _survives(self, operation: Operation, key: str, value: str | None, slot: int) -> Stand:
        """Whether what is seen next can be its value, unless that is overwritten before."""
        spans = self._lulls.get(key, [])
        place = bisect_left(spans, (slot,))
        if place and spans[place - 1].before > slot and (value is not None or operation.f != "txn"):
            return Stand.NEVER
        facts = self._lines.get(key, [])
        for place in range(self._place(key, 2 * slot), len(facts)):
            fact = facts[place]
            if fact.says is Says.SET or (fact.says is Says.IS and fact.value == value):
                break
            if fact.says is Says.IS_NOT and fact.value != value:
                continue
            if fact.says is Says.IS and fact.value not in self._writers[key]:
                return Stand.NEVER
            want = Want(fact.says is Says.IS, fact.value)
            others = any(self._able(key, want, 2 * slot, fact.moment, [operation]))
            return Stand.WITH_OTHERS if others else Stand.NEVER
        return Stand.ALONE

    # -- one operation for each gap ---------------------------------------------------------------------------------

    def _match(self, gaps: Slots) -> dict[int, Operation]:
        """A matching that covers `gaps` and what is due, if there is one for each alone (Mendelsohn & Dulmage 1958):
        a path from a gap never leaves an operation without its slot, so what is due comes first.

        First with the pairs alone that need no other unknown operation: they do not get into each other's way.
        """
        slot_of: dict[int, int] = {}
        taken: dict[int, int] = {}
        due = sorted((self._operations[index] for index in self._due), key=self._urgency)
        needy = set(gaps)
        for least in (Stand.ALONE, Stand.WITH_OTHERS):
            for operation in due:
                if operation.index not in slot_of:
                    augment(operation.index, _at_least(self._places, least), slot_of, taken, self._due)
        for operation in due:
            if operation.index not in slot_of:
                reason = f"no missing revision is left for {operation.describe()}, whose effect was seen"
                raise Contradiction(reason, [operation])
        for least in (Stand.ALONE, Stand.WITH_OTHERS):
            for gap in gaps:
                self._look_at_clock()
                if gap not in taken:
                    augment(gap, _at_least(self._makers, least), taken, slot_of, needy)
        for gap in gaps:
            if gap not in taken:
                raise Contradiction(*self._no_maker(gap), gap)
        return {slot: self._operations[index] for slot, index in taken.items()}

    def _no_maker(self, gap: int) -> tuple[str, list[Operation]]:
        able = [self._operations[index] for _, index in self._makers.get(gap, [])]
        if able:
            return f"revision {gap} is unexplained: what may have made it must have made other missing ones", able[:8]
        return f"revision {gap} is unexplained: nothing of known or unknown outcome can have made it", []


def _at_least(edges: Mapping[int, list[tuple[Stand, int]]], least: Stand) -> Callable[[int], Iterator[int]]:
    return lambda node: (other for stand, other in edges.get(node, ()) if stand >= least)
