"""The order of revisions against the order in time: what the answers must obey, whatever they say of keys.

A revision that was seen in an answer exists from then on. So an operation that begins later has a revision at or above
it, and above it if it made its revision. Stale reads alone may show an older one; what they show exists all the same.
"""

from typing import Final, NamedTuple

from quorumd.checker.history import Operation


class Floor(NamedTuple):
    """What had been seen when an operation began."""

    revision: int
    """The highest of any answer, -1 if there was none."""
    by: Operation | None
    """Whose answer that was."""


NOTHING_SEEN: Final = Floor(-1, None)


def floors(operations: list[Operation]) -> dict[int, Floor]:
    """The floor of each operation, by its index. Linear in the operations, after two sorts."""
    begun = sorted(operations, key=lambda operation: operation.invoked)
    ends = sorted(
        (operation.completed, operation.index, operation.revision, operation)
        for operation in operations
        if operation.completed is not None and operation.revision is not None
    )
    found: dict[int, Floor] = {}
    floor, place = NOTHING_SEEN, 0
    for operation in begun:
        while place < len(ends) and ends[place][0] < operation.invoked:
            _, _, revision, answered = ends[place]
            if revision > floor.revision:
                floor = Floor(revision, answered)
            place += 1
        found[operation.index] = floor
    return found


def out_of_time(operation: Operation, floor: Floor, made: bool) -> str | None:
    """The rule that an answered operation breaks together with `floor.by`; None if it breaks none."""
    revision = operation.revision or 0
    if operation.stale or floor.by is None:
        return None
    if revision < floor.revision:
        return f"goes back in time: {operation.describe()} began after {floor.by.describe()} was answered"
    if made and revision == floor.revision:
        return (
            f"revision {revision} was seen too early: {operation.describe()}, which made it, began after "
            f"{floor.by.describe()} was answered"
        )
    return None
