"""Linearizability of a history whose answers carry revisions: the order is given, it only has to be checked.

1. Two operations that made the same revision, or revisions against the order in time: a violation at once.
2. Revisions that nothing answered made (gaps) must be the work of operations of unknown outcome: `placement` says which
   may have made which, or that none can.
3. `replay` executes everything in the order of revisions and compares the answers.

Without unknown outcomes all of it is linear in the history, but for sorting. With them step 3 may in theory take
exponential time, as any search must; it is bounded, and step 2 settles nearly everything before.

The revision of the empty store at the beginning is not told. It lies below the first one seen, by as many as unknown
operations can have made before.
"""

from collections.abc import Mapping
from typing import Final

from quorumd.checker.history import Operation
from quorumd.checker.placement import Contradiction, OutOfTime, Placement
from quorumd.checker.realtime import floors, out_of_time
from quorumd.checker.replay import Misfit, Replay, Slot
from quorumd.checker.timeline import (
    Effects,
    Fact,
    Makes,
    lulls,
    makes_revision,
    may_have_made,
    possible_effects,
    timelines,
)
from quorumd.checker.verdict import Verdict
from quorumd.invariants import InvariantBroken

NAME: Final = "revisions"
UNEXPLAINED: Final = 1000  # more missing revisions than operations that may have made them: not worth a closer look

Broken = tuple[str, list[Operation]]
UNDECIDED: Final[Broken] = ("not decided: a limit was reached before the unknown outcomes were all tried", [])


def check_by_revisions(
    operations: list[Operation], deadline: float, changes: Mapping[int, Effects] | None = None
) -> Verdict:
    """Whether the order of revisions explains the answers, each of which must carry one.

    `deadline` is a reading of time.monotonic. `changes` is what each revision changed: with it every revision must
    be made by who changed just that, so a history that is not linearizable so may yet be.
    """
    check = _Check(operations, deadline, changes)
    broken = check.broken_order()
    if broken is not None:
        return Verdict(False, broken[0], NAME, broken[1], check.steps)
    return check.replay()


class _Check:
    """The steps over one history."""

    def __init__(
        self, operations: list[Operation], deadline: float, changes: Mapping[int, Effects] | None
    ) -> None:
        self.steps = 0
        self._all = operations
        self._deadline = deadline
        self._changes = changes
        self._answered = [operation for operation in operations if operation.outcome == "ok"]
        self._floors = floors(operations)
        self._slots: dict[int, Slot] = {}
        self._lines: dict[str, list[Fact]] | None = None
        self._first = min((op.revision or 0 for op in self._answered), default=0)
        self._last = max((op.revision or 0 for op in self._answered), default=0)

    def broken_order(self) -> Broken | None:
        """Sorts the operations into slots; the first rule that they break without a look at what they say of keys."""
        for operation in self._answered:
            slot = self._slots.setdefault(operation.revision or 0, Slot())
            makes = makes_revision(operation)
            if makes is Makes.YES:
                if operation.revision == 0:
                    return f"no operation can have made revision 0: {operation.describe()}", [operation]
                if slot.maker is not None:
                    reason = f"revision {operation.revision} was made twice: by {slot.maker.describe()}"
                    return f"{reason} and by {operation.describe()}", [operation, slot.maker]
                slot.maker = operation
            elif makes is Makes.PERHAPS:
                slot.perhaps.append(operation)
            else:
                slot.seen.append(operation)
            floor = self._floors[operation.index]
            reason_of_time = out_of_time(operation, floor, makes is Makes.YES)
            if reason_of_time is not None and floor.by is not None:
                return reason_of_time, [operation, floor.by]
        return None

    def replay(self) -> Verdict:
        """The verdict of steps 2 and 3."""
        unknown = self._unknown()
        first = self._slots.get(self._first)
        highest = self._first - 1 if first is not None and first.maker is not None else self._first
        # Who may have made the revisions up to the first one seen: whoever began when no later one had been seen.
        early = sum(above < self._first for _, above in unknown) + (len(first.perhaps) if first is not None else 0)
        if self._changes:  # the first is told, and before it the store was empty
            highest, early = min(highest, max(min(self._changes) - 1, 0)), 0
        broken: Broken | None = None
        for base in range(highest, max(highest - early, 0) - 1, -1):
            found = self._replay_from(base, unknown)
            if found is None:
                return Verdict(True, "linearizable", NAME, [], self.steps)
            if found == UNDECIDED:
                return Verdict(None, found[0], NAME, [], self.steps)
            # The start that explains most of the history fails for the most telling reason.
            if broken is None or _reached(found) > _reached(broken):
                broken = found
        if broken is None:
            raise InvariantBroken("a history without a maker of revision 0 starts at 0 at the latest")
        reason, named = self._with_failures(broken)
        return Verdict(False, reason, NAME, named, self.steps)

    def _unknown(self) -> list[tuple[Operation, int]]:
        """Operations that may have made a revision that matters, with the one above which they made it."""
        found = []
        for operation in self._all:
            above = self._floors[operation.index].revision
            if operation.outcome == "info" and above < self._last and any(possible_effects(operation)):
                found.append((operation, above))
        return found

    def _replay_from(self, base: int, unknown: list[tuple[Operation, int]]) -> Broken | None:
        answered = sum(slot.maker is not None or bool(slot.perhaps) for r, slot in self._slots.items() if r > base)
        missing = self._last - base - answered
        if missing > len(unknown) + UNEXPLAINED:
            return self._too_many(base, missing, len(unknown))
        open_ = [r for r in range(base + 1, self._last + 1) if (s := self._slots.get(r)) is None or s.maker is None]
        candidates: dict[int, list[Operation]] = {}
        gaps = [r for r in open_ if r not in self._slots or not self._slots[r].perhaps]
        if open_ and (unknown or gaps):
            if self._lines is None:
                self._lines = timelines(self._answered)
            try:
                placement = Placement(self._lines, lulls(self._answered), unknown, open_, gaps, base, self._deadline)
            except OutOfTime:
                return UNDECIDED
            except Contradiction as contradiction:
                return contradiction.reason, contradiction.operations or self._around(contradiction.gap)
            candidates = placement.candidates()
            if self._changes is not None:
                told = self._changes
                candidates = {
                    revision: [operation for operation in able if may_have_made(operation, told.get(revision, {}))]
                    for revision, able in candidates.items()
                }
        replay = Replay(self._slots, self._floors, candidates, base, self._last, self._deadline, self._changes)
        found = replay.run()
        self.steps += replay.steps
        if found is None:
            return UNDECIDED
        return None if found or replay.misfit is None else self._explained(replay, replay.misfit)

    def _too_many(self, base: int, missing: int, unknown: int) -> Broken:
        made = sorted(r for r, slot in self._slots.items() if r > base and (slot.maker is not None or slot.perhaps))
        gap = next((place for place, r in enumerate(made, base + 1) if place != r), base + len(made) + 1)
        reason = (
            f"revision {gap} is unexplained: {missing} revisions from there on were made by nothing that was answered, "
            f"and {unknown} operations of unknown outcome may have made one"
        )
        return reason, self._around(gap)

    def _explained(self, replay: Replay, misfit: Misfit) -> Broken:
        operation = misfit.operation
        if operation is None:
            return f"revision {misfit.revision} is unexplained", self._around(misfit.revision)
        writer = replay.last_writer(misfit)
        after = f"after {writer.describe()}" if writer is not None else "on the empty store"
        why = misfit.reason or f"{after} the answer at that revision is {misfit.answer!r}"
        return f"{operation.describe()} is wrong: {why}", [operation] if writer is None else [operation, writer]

    def _around(self, revision: int) -> list[Operation]:
        """The answered operations next to a revision."""
        below = max((op for op in self._answered if (op.revision or 0) < revision), key=_revision, default=None)
        above = min((op for op in self._answered if (op.revision or 0) >= revision), key=_revision, default=None)
        return [operation for operation in (above, below) if operation is not None]

    def _with_failures(self, broken: Broken) -> Broken:
        """The violation, with the failed operation that would explain it if it had taken effect."""
        reason, operations = broken
        named = operations[:1]
        for failed in self._all:
            if failed.outcome != "fail" or not named or named[0].f not in ("read", "cas"):
                continue
            seen = named[0].result if named[0].f == "read" else named[0].value[0]
            if seen is not None and (named[0].key, seen) in possible_effects(failed):
                return f"{reason}; yet {failed.describe()} wrote that value", [*operations, failed]
        return reason, operations


def _reached(broken: Broken) -> int:
    return max(map(_revision, broken[1][:1]), default=0)


def _revision(operation: Operation) -> int:
    return operation.revision or 0
