"""Whether a history is linearizable: the one question, put to the checker that fits what the history tells."""

import time
from collections.abc import Mapping
from dataclasses import replace

from quorumd.checker.history import Operation
from quorumd.checker.revisions import check_by_revisions
from quorumd.checker.search import check_by_search
from quorumd.checker.timeline import Effects
from quorumd.checker.verdict import Verdict
from quorumd.errors import HistoryError
from quorumd.limits import CHECK_SECONDS


def check(
    operations: list[Operation], *, seconds: float = CHECK_SECONDS, changes: Mapping[int, Effects] | None = None
) -> Verdict:
    """The verdict on the operations of one history (of `history.pair`), within `seconds`.

    If every answer carries a revision, the revisions give the order and only unknown outcomes are searched
    (`revisions`); if none does any order is searched for (`search`). Raises HistoryError if only some do, and for what
    neither can judge: without revisions a stale read, or a compare of a create or mod revision.

    changes: what each revision changed, if a watch of all of it told. An order is looked for then in which every
    revision changes just that; where there is none, either the history is not linearizable whatever the watch told, or
    the two contradict each other, and the reason says which.
    """
    deadline = time.monotonic() + seconds
    answered = [operation for operation in operations if operation.outcome == "ok"]
    bare = [operation for operation in answered if operation.revision is None]
    if not bare:
        return check_by_revisions(operations, deadline) if changes is None else _with(changes, operations, deadline)
    if len(bare) < len(answered):
        raise HistoryError(
            f"some answers carry a revision, but not that of process {bare[0].process} to what it asked at "
            f"{bare[0].invoke_ns} ns; give all of them one, or none"
        )
    return check_by_search(operations, deadline)


def _with(changes: Mapping[int, Effects], operations: list[Operation], deadline: float) -> Verdict:
    """The verdict where what each revision changed was told; half of the time is for the look without it."""
    now = time.monotonic()
    told = check_by_revisions(operations, now + (deadline - now) / 2, changes)
    if told.ok:
        return told
    alone = check_by_revisions(operations, deadline)
    if alone.ok is False or told.ok is None:
        return alone
    reason = f"what each revision changed, as a watch told, and the answers cannot both be right: {told.reason}"
    return replace(told, reason=reason)
