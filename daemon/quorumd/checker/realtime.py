"""The order of revisions against the order in time: what the replies alone must obey, whatever they say of keys.

    an operation has a revision at or above those of all that were answered before it began,
    and above them if it made its revision
"""

from dataclasses import dataclass

from quorumd.checker.history import Operation

NEVER = -1
"""A revision below all."""


@dataclass(slots=True)
class Floor:
    """What was known when an operation began."""

    answered: int = NEVER
    """The highest revision of an answer; stale ones do not count, they may be old."""
    by: Operation | None = None
    made: int = NEVER
    """The highest revision of any answer: what made it had begun, so what begins now cannot make it or an older one."""
    made_by: Operation | None = None

    def below(self) -> int:
        """An operation that begins now and makes a revision makes one above this."""
        return max(self.answered, self.made)


def floors(operations: list[Operation]) -> dict[int, Floor]:
    """The floor of each operation, by its index. Linear in the operations, after two sorts."""
    begun = sorted(operations, key=lambda operation: operation.invoked)
    ended = [op for op in operations if op.outcome == "ok" and op.completed is not None and op.revision is not None]
    ended.sort(key=lambda operation: operation.completed or 0)
    found: dict[int, Floor] = {}
    now, next_ = Floor(), 0
    for operation in begun:
        while next_ < len(ended) and (ended[next_].completed or 0) < operation.invoked:
            now = _raised(now, ended[next_])
            next_ += 1
        found[operation.index] = now
    return found


def _raised(floor: Floor, answered: Operation) -> Floor:
    revision = answered.revision or 0
    if revision > floor.made:
        floor = Floor(floor.answered, floor.by, revision, answered)
    if not answered.stale and revision > floor.answered:
        floor = Floor(revision, answered, floor.made, floor.made_by)
    return floor


def out_of_time(operation: Operation, floor: Floor, made: bool) -> tuple[str, list[Operation]] | None:
    """The rule that an answered operation breaks with its revision, and the two operations; None if it breaks none."""
    revision = operation.revision or 0
    if not operation.stale and floor.by is not None and revision < floor.answered:
        return (
            f"goes back in time: {operation.describe()} began after {floor.by.describe()} was answered",
            [operation, floor.by],
        )
    if made and floor.made_by is not None and revision <= floor.below():
        return (
            f"revision {floor.made_by.revision} was seen too early: {operation.describe()}, which made it or an older "
            f"one, began after {floor.made_by.describe()} was answered",
            [operation, floor.made_by],
        )
    return None
