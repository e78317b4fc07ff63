"""Whether a history is linearizable: the one question, put to the checker that fits what the history tells."""

import time
from collections.abc import Mapping

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

    changes: what each revision changed, if something told. It is a hint of which operation of unknown outcome made
    which revision, and no more: an order found by it is one, and where none is the history is judged without it.
    """
    deadline = time.monotonic() + seconds
    answered = [operation for operation in operations if operation.outcome == "ok"]
    bare = [operation for operation in answered if operation.revision is None]
    if not bare:
        hinted = check_by_revisions(operations, deadline, changes) if changes is not None else None
        return hinted if hinted is not None and hinted.ok else check_by_revisions(operations, deadline)
    if len(bare) < len(answered):
        raise HistoryError(
            f"some answers carry a revision, but not that of process {bare[0].process} to what it asked at "
            f"{bare[0].invoke_ns} ns; give all of them one, or none"
        )
    return check_by_search(operations, deadline)
