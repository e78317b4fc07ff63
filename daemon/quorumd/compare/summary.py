"""The result on a terminal: a table for each factor, then what to choose and why."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from quorumd.compare.document import median_wait

COLUMNS: Final = (
    "", "engine", "ops/s", "p50 ms", "p90", "p99", "p99.9", "msgs/op", "bytes/op", "syncs/op", "CPU us/op", "accepted",
    "failover s", "down: commits", "elects",
)
FACTORS: Final = {"nodes": "nodes", "loss_percent": "loss % (relayed)", "delay_ms": "delay ms (relayed)"}


def summary(document: Mapping[str, Any]) -> str:
    """All of it."""
    points = document["points"]
    varied = {i for numbers in document["axes"].values() for i in numbers}
    parts = [] if 0 in varied else [_table("base point", "", [("", points[0])])]
    for factor, numbers in document["axes"].items():
        parts.append(_table(FACTORS[factor], factor, [(f"{points[i][factor]:g}", points[i]) for i in numbers]))
    if document["full"]:
        parts.append(_table("every point", "", [(label(point), point) for point in points]))
    return "\n\n".join([*parts, conclusion(document["advice"])])


def label(point: Mapping[str, Any]) -> str:
    """A point in a few characters."""
    relayed = " relayed" if point["relayed"] else ""
    return f"{point['nodes']}n {point['loss_percent']}% {point['delay_ms']:g}ms{relayed}"


def conclusion(advice: Mapping[str, Any]) -> str:
    """What to choose."""
    named = {"either": "recommendation: either engine will do", "neither": "no recommendation"}
    choice = named.get(advice["choose"], f"recommendation: choose {advice['choose']}")
    elsewhere = [finding["sentence"] for finding in advice["findings"] if not finding["base"]]
    lines = [f"{choice}: {advice['reason']}"]
    if elsewhere:
        which = "medians of the rounds; the tables take all rounds together"
        lines.append(f"away from the base point ({which}): {'; '.join(elsewhere)}")
    return "\n".join([*lines, *advice["flexible"]])


def _table(title: str, factor: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    lines = [[title, *COLUMNS[1:]]]
    problems = []
    for name, point in rows:
        for number, contender in enumerate(point["contenders"]):
            lines.append([name if number == 0 else "", *cells(contender)])
            if contender["failed"]:
                problems.append(f"  {factor} {name}: {contender['failed']}")
    columns = telling(lines[1:])
    widths = {i: max(len(line[i]) for line in lines) for i in columns}
    text = [
        "  ".join(line[i].ljust(widths[i]) if i < 2 else line[i].rjust(widths[i]) for i in columns).rstrip()
        for line in lines
    ]
    return "\n".join([*text, *problems])


def telling(rows: Sequence[Sequence[str]]) -> list[int]:
    """The columns in which any row has something to say; the point and the contender always."""
    return [i for i in range(len(COLUMNS)) if i < 2 or any(row[i] for row in rows)]


def cells(contender: Mapping[str, Any]) -> list[str]:
    """One contender's figures as text, in the order of COLUMNS from "engine" on; empty where nothing is known."""
    latency = contender["latency_us"] or {}
    ratio = contender["acceptance"]
    return [
        contender["name"], _number(contender["ops_per_s"], ",.0f"),
        *(_number(latency.get(name), ",.2f", 1000) for name in ("p50", "p90", "p99", "p999")),
        _number(contender["messages_per_op"], ".2f"), _number(contender["bytes_per_op"], ",.0f"),
        _number(contender["syncs_per_op"], ".3f"), _number(contender["cpu_us_per_op"], ".1f"),
        f"{ratio['cluster']:.3f}" if ratio else "",
        _failover(contender),
        _number(contender["commits_without"], "d"), _number(contender["elects_without"], "d"),
    ]


def _failover(contender: Mapping[str, Any]) -> str:
    """The median of the kills, and how many were followed by no write in time."""
    gaps = contender["failover_s"]
    if not gaps:
        return ""
    none, median = gaps.count(None), median_wait(contender)
    shown = "none" if median is None else f"{median:.2f}"
    return f"{shown} ({none} of {len(gaps)}: none)" if none else shown


def _number(value: float | None, form: str, divisor: int = 1) -> str:
    return "" if value is None else format(value / divisor if divisor > 1 else value, form)
