"""Which operation of unknown outcome can have made which missing revision, judged by timelines alone.

Everything here holds whatever else happened, so a violation found here is one: a value that nothing can have written
where it was seen, and gaps for which there are too few operations (Hall's theorem, by augmenting paths). What passes
may still be contradictory; a replay decides.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Container, Iterable

from quorumd.checker.history import Operation
from quorumd.checker.timeline import Fact, Moment, Says, possible_effects

Slots = list[int]
"""Revisions that an unknown operation may have made, ascending."""
Fits = Callable[[str | None], bool]


class Contradiction(Exception):
    """No assignment exists: the reason, and the operations that show it, or the revision that nothing made."""

    def __init__(self, reason: str, operations: list[Operation], gap: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.operations = operations
        self.gap = gap


class Placement:
    """The revisions that each unknown operation may have made, and a matching that gives each gap one of them.

    `lines` are the timelines of what was answered, `unknown` the operations that may have had effect with the revision
    above which each took it, `slots` the revisions that may be theirs, `gaps` those that must be, `base` the revision
    of the empty store. Raises Contradiction.
    """

    def __init__(
        self, lines: dict[str, list[Fact]], unknown: list[tuple[Operation, int]], slots: Slots, gaps: Slots, base: int
    ) -> None:
        self._lines = lines
        self._slots = slots
        self._base = base
        self._above = {operation.index: above for operation, above in unknown}
        self._writers: defaultdict[str, list[tuple[Operation, str | None]]] = defaultdict(list)
        for operation, _ in unknown:
            for key, value in possible_effects(operation):
                self._writers[key].append((operation, value))
        self._moments = {key: [fact.moment for fact in facts] for key, facts in lines.items()}
        # Unknown operations that alone can explain something that was seen: (above, up to) which revision.
        self._due: dict[int, tuple[int, int]] = {}
        for key, facts in lines.items():
            self._explain(key, facts)
        self.allowed: defaultdict[int, list[Operation]] = defaultdict(list)
        for operation, above in unknown:
            for slot in self._span(operation, above):
                if self._may_stand(operation, slot):
                    self.allowed[slot].append(operation)
        for operations in self.allowed.values():
            operations.sort(key=self._urgency)
        self.chosen = self._match(gaps, [operation for operation, _ in unknown if operation.index in self._due])

    def _urgency(self, operation: Operation) -> tuple[float, int]:
        due = self._due.get(operation.index)
        return (due[1] if due else float("inf"), operation.index)

    def _span(self, operation: Operation, above: int) -> Slots:
        low, high = self._due.get(operation.index, (self._base, self._slots[-1] if self._slots else self._base))
        return self._slots[bisect_right(self._slots, max(low, above)) : bisect_right(self._slots, high)]

    def candidates(self) -> dict[int, list[Operation]]:
        """For each revision the operations that may have made it, the matched one first, then the most urgent."""
        found = {}
        for slot, able in self.allowed.items():
            first = self.chosen.get(slot)
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
                    self._demand(key, fact, last, since, _differs(fact.value))
                    known = False
                continue
            if fact.says is Says.IS and known and value != fact.value:
                self._demand(key, fact, last, since, _equals(fact.value))
            value, known, since, last = fact.value, True, fact.moment, fact

    def _demand(self, key: str, fact: Fact, last: Fact | None, since: Moment, fits: Fits) -> None:
        able = self._able(key, fits, since, fact.moment)
        if not able:
            raise Contradiction(*self._unexplained(key, fact, last))
        if len(able) == 1:
            low, high = since // 2, fact.moment // 2
            earlier = self._due.get(able[0].index, (self._base, high))
            self._due[able[0].index] = max(low, earlier[0]), min(high, earlier[1])
            if not self._span(able[0], self._above[able[0].index]):
                reason = f"{able[0].describe()} would have to take effect twice to explain {fact.operation.describe()}"
                raise Contradiction(reason, [fact.operation, able[0]])

    def _able(
        self, key: str, fits: Fits, since: Moment, until: Moment, but: Operation | None = None
    ) -> list[Operation]:
        """The unknown operations that may leave a fitting value behind at a slot between two moments."""
        low, high = since // 2, until // 2
        found = []
        for operation, value in self._writers.get(key, ()):
            first = bisect_right(self._slots, max(low, self._above[operation.index]))
            inside = first < len(self._slots) and self._slots[first] <= high
            if operation is not but and inside and fits(value) and operation not in found:
                found.append(operation)
        return found

    def _unexplained(self, key: str, fact: Fact, last: Fact | None) -> tuple[str, list[Operation]]:
        seen = fact.operation
        if last is None:
            before, named = f'the store was empty and nothing that may have written "{key}" explains it', [seen]
        else:
            before = f'after {last.operation.describe()} nothing that may have written "{key}" explains it'
            named = [seen, last.operation]
        return f"{seen.describe()} contradicts the order of revisions: {before}", named

    # -- where an unknown operation may stand -----------------------------------------------------------------------

    def _may_stand(self, operation: Operation, slot: int) -> bool:
        """False only if `operation` at `slot` contradicts a timeline whatever the other unknown operations did."""
        if operation.f == "txn":
            return True
        ((key, value),) = possible_effects(operation)
        return self._applies(operation, key, value, slot) and self._survives(operation, key, value, slot)

    def _applies(self, operation: Operation, key: str, value: str | None, slot: int) -> bool:
        """Whether it can have changed anything: a compare must hold, and what is deleted must exist."""
        facts, moments = self._lines.get(key, []), self._moments.get(key, [])
        place = bisect_left(moments, 2 * slot)
        last = facts[place - 1] if place else None
        if last is not None and last.says is Says.IS_NOT:
            return True
        found, since = (last.value, last.moment) if last is not None else (None, 2 * self._base)

        def fits(held: str | None) -> bool:
            if value is None and held is None:
                return False
            return operation.f != "cas" or held == operation.value[0]

        return fits(found) or bool(self._able(key, fits, since, 2 * slot - 1, but=operation))

    def _survives(self, operation: Operation, key: str, value: str | None, slot: int) -> bool:
        """Whether what is seen next can be its value, unless that is overwritten before."""
        facts, moments = self._lines.get(key, []), self._moments.get(key, [])
        place = bisect_right(moments, 2 * slot)
        if place == len(facts) or facts[place].says is Says.SET:
            return True
        fact = facts[place]
        fits = _equals(fact.value) if fact.says is Says.IS else _differs(fact.value)
        return fits(value) or bool(self._able(key, fits, 2 * slot, fact.moment, but=operation))

    # -- one operation for each gap ---------------------------------------------------------------------------------

    def _match(self, gaps: Slots, demanded: list[Operation]) -> dict[int, Operation]:
        """A matching that covers `gaps` and `demanded`, if there is one for each alone (Mendelsohn & Dulmage 1958):
        a path from a gap never leaves an operation without its slot, so the demanded operations come first.
        """
        operations = {operation.index: operation for found in self.allowed.values() for operation in found}
        slots_of: defaultdict[int, list[int]] = defaultdict(list)
        for slot, found in sorted(self.allowed.items()):
            for operation in found:
                slots_of[operation.index].append(slot)
        slot_of: dict[int, int] = {}
        taken: dict[int, int] = {}
        indexes, needy = {operation.index for operation in demanded}, set(gaps)
        for operation in sorted(demanded, key=self._urgency):
            if not _augment(operation.index, slots_of.__getitem__, slot_of, taken, indexes):
                reason = f"no missing revision is left for {operation.describe()}, whose effect was seen"
                raise Contradiction(reason, [operation])
        for gap in gaps:
            if gap not in taken and not _augment(gap, self._indexes_at, taken, slot_of, needy):
                raise Contradiction(*self._no_maker(gap), gap)
        return {slot: operations[index] for slot, index in taken.items()}

    def _indexes_at(self, slot: int) -> list[int]:
        return [operation.index for operation in self.allowed.get(slot, ())]

    def _no_maker(self, gap: int) -> tuple[str, list[Operation]]:
        able = self.allowed.get(gap, [])
        if able:
            return f"revision {gap} is unexplained: what may have made it must have made other missing ones", able[:8]
        return f"revision {gap} is unexplained: nothing of known or unknown outcome can have made it", []


def _equals(value: str | None) -> Fits:
    return lambda other: other == value


def _differs(value: str | None) -> Fits:
    return lambda other: other != value


def _augment(
    start: int, edges: Callable[[int], Iterable[int]], mine: dict[int, int], theirs: dict[int, int],
    needy: Container[int],
) -> bool:
    """Matches `start` along a shortest alternating path, which ends where one is free or was matched without need.

    `mine` and `theirs` map each side to the other; those of `needy` stay matched.
    """
    came_from: dict[int, int] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for other in edges(node):
            if other in came_from:
                continue
            came_from[other] = node
            holder = theirs.get(other)
            if holder is not None and holder in needy:
                queue.append(holder)
                continue
            if holder is not None:
                del mine[holder]
            _flip(start, other, came_from, mine, theirs)
            return True
    return False


def _flip(start: int, end: int, came_from: dict[int, int], mine: dict[int, int], theirs: dict[int, int]) -> None:
    while True:
        node = came_from[end]
        previous = mine.get(node)
        mine[node], theirs[end] = end, node
        if node == start or previous is None:
            return
        end = previous
