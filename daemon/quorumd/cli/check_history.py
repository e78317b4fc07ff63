"""`quorumd check`: whether a recorded history of operations is linearizable."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from quorumd.cli.options import Finite, OutputFile, evidence, judging
from quorumd.limits import CHECK_SECONDS

if TYPE_CHECKING:
    from quorumd.checker.history import Operation

LINEARIZABLE: Final = 0
VIOLATION: Final = 1
UNDECIDED: Final = 3
EXIT_CODES: Final = {True: LINEARIZABLE, False: VIOLATION, None: UNDECIDED}
VERDICTS: Final = {True: "linearizable", False: "NOT linearizable", None: "not decided"}


@click.command()
@click.argument("history", metavar="HISTORY.jsonl", type=click.Path(exists=True, dir_okay=False))
@click.option("--html", "page", metavar="OUT.html", type=OutputFile(), help="Write the page here.")
@click.option(
    "--seconds", type=Finite(0), default=CHECK_SECONDS, show_default=True, help="Give up after this long."
)
@judging("the check")
def check(history: str, page: Path | None, seconds: float) -> int:
    """Check whether the operations in HISTORY.jsonl are linearizable.

    A violation is shown in HISTORY.html beside the history unless --html names another file. The format is described
    in ARCHITECTURE.md.

    Exit codes: 0 linearizable, 1 not linearizable, 2 unreadable, 3 not decided, in time or at all.
    """
    from quorumd.checker.history import load, pair  # noqa: PLC0415 - `node` must not carry the checker
    from quorumd.checker.linearizability import check as judge  # noqa: PLC0415
    from quorumd.checker.page import write_page  # noqa: PLC0415
    from quorumd.errors import HistoryError  # noqa: PLC0415

    operations = pair(load(history))
    if not operations:
        raise HistoryError(f"{history}: no operation in it; was it recorded at all?")
    try:
        verdict = judge(operations, seconds=seconds)
    except HistoryError as error:
        raise HistoryError(f"{history}: {error}") from None
    click.echo(f"{history}: {VERDICTS[verdict.ok]} (by {verdict.checker}, {verdict.steps} steps)")
    for line in summary(operations):
        click.echo(f"  {line}")
    if verdict.ok is not True:
        click.echo(verdict.reason)
    for operation in verdict.operations:
        click.echo(f"  operation {operation.index + 1}, {operation.invoke_ns} ns: {operation.describe()}")
    if page is None and verdict.ok is False:
        page = Path(f"{history.removesuffix('.jsonl')}.html")
    if page is not None:
        with evidence(page):
            write_page(page, operations, verdict)
            click.echo(f"shown in {page}")
    return EXIT_CODES[verdict.ok]


def summary(operations: "list[Operation]") -> list[str]:
    """What a history holds: a line for each kind of operation with its outcomes, and one for the whole."""
    from quorumd.checker.model import keys_of  # noqa: PLC0415

    kinds = Counter((operation.f, operation.outcome) for operation in operations)
    lines = []
    for f in ("read", "write", "cas", "range", "txn"):
        counts = [f"{kinds[f, outcome]} {outcome}" for outcome in ("ok", "fail", "info") if kinds[f, outcome]]
        if counts:
            lines.append(f"{f}: {', '.join(counts)}")
    processes = len({operation.process for operation in operations})
    keys = len({key for operation in operations for key in keys_of(operation)})
    return [f"operations: {len(operations)}, processes: {processes}, keys: {keys}", *lines]
