"""A history as one HTML file: a row per process, a bar per operation, what cannot be ordered in red.

The x axis is the order of events, not their time: in time, most operations are too short to be seen and to be told
apart, and linearizability is about order. Times stand above it. The file needs nothing beside itself.
"""

import html
from collections import Counter
from os import PathLike
from string import Template
from typing import Final

from quorumd.checker.history import Operation
from quorumd.checker.model import keys_of, touches
from quorumd.checker.verdict import Verdict

AROUND: Final = 50  # operations shown on each side of the violation
MAX_NAMED: Final = 24  # operations of the verdict that are listed
STEP: Final = 22  # pixels an event
ROW: Final = 30
BAR: Final = 22
TOP: Final = 30  # room for the times
LABEL_PIXELS: Final = 6.3  # of a character in a bar
TICKS: Final = 8  # events between two times

PAGE: Final = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --back: #fff; --panel: #f6f7f9; --ink: #1b1f24; --soft: #667080; --line: #dfe3e8;
  --ok: #b9dfc4; --ok-edge: #3f8f5b; --info: #f6dfa4; --info-edge: #a97b11; --fail: #dcdfe4; --fail-edge: #8a929e;
  --bad: #f7b4ae; --bad-edge: #c2281c; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171b; --panel: #1c2026; --ink: #e4e8ee; --soft: #97a1af; --line: #2d333c;
    --ok: #1f4a30; --ok-edge: #58b67a; --info: #55430f; --info-edge: #d9a83a; --fail: #30353d; --fail-edge: #838c99;
    --bad: #6d1f19; --bad-edge: #ff7b6e; } }
body { margin: 0; padding: 24px; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 20px; margin: 0 0 4px; }
.bad h1 { color: var(--bad-edge); }
p { margin: 4px 0; max-width: 110ch; overflow-wrap: anywhere; }
.soft { color: var(--soft); font-size: 13px; }
.legend span { display: inline-block; padding: 0 8px; margin: 0 10px 0 0; border: 1px solid; border-radius: 3px; }
.ok, rect.ok { background: var(--ok); fill: var(--ok); border-color: var(--ok-edge); stroke: var(--ok-edge); }
.info, rect.info { background: var(--info); fill: var(--info); border-color: var(--info-edge);
  stroke: var(--info-edge); }
.fail, rect.fail { background: var(--fail); fill: var(--fail); border-color: var(--fail-edge);
  stroke: var(--fail-edge); }
.named, rect.named { background: var(--bad); fill: var(--bad); border-color: var(--bad-edge); stroke: var(--bad-edge); }
rect.named { stroke-width: 2; }
rect.info { stroke-dasharray: 4 3; }
g.aside { opacity: .45; }
g.op:hover { opacity: 1; }
g.op:hover rect { stroke-width: 3; }
.chart { display: flex; margin: 14px 0; border: 1px solid var(--line); border-radius: 6px; background: var(--panel); }
.chart .rows { flex: none; border-right: 1px solid var(--line); }
.chart .scroll { overflow-x: auto; }
svg { display: block; }
svg text { fill: var(--ink); stroke: none; font: 11px ui-monospace, monospace; pointer-events: none; }
svg text.soft { fill: var(--soft); font-size: 10px; }
svg line { stroke: var(--line); }
.table { overflow-x: auto; }
table { border-collapse: collapse; font: 13px/1.5 ui-monospace, monospace; }
th, td { text-align: left; padding: 2px 16px 2px 0; vertical-align: top; white-space: nowrap; }
td:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 40ch; }
th { color: var(--soft); font-weight: normal; }
</style>
<body class="$verdict_class">
<h1>$title</h1>
<p>$reason</p>
<p class="soft">$counts</p>
$named
<div class="chart"><div class="rows">$rows</div><div class="scroll">$bars</div></div>
<p class="legend soft"><span class="ok">ok</span><span class="info">unknown outcome, open for ever</span><span
class="fail">failed, no effect</span><span class="named">named by the verdict</span></p>
<p class="soft">k→v reads, k=v writes, k:old→new compares and swaps; ✓ and ✗: compared equal or not; ∅: absent. Pale:
touches no key of the first operation named. From left to right: the order of events; above it, milliseconds. Point at a
bar for all of it.</p>
<p class="soft">$window</p>
<script>document.getElementById("first")?.scrollIntoView({inline: "center", block: "nearest"})</script>
</body>
</html>
""")

TITLES: Final = {True: "Linearizable", False: "Not linearizable", None: "Not decided"}


def write_page(path: str | PathLike[str], operations: list[Operation], verdict: Verdict) -> None:
    """Writes the page of a history and its verdict to `path`. Raises OSError."""
    text = page(operations, verdict)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def page(operations: list[Operation], verdict: Verdict) -> str:
    """The HTML text: the operations that the verdict names with those around the first one, the rest as counts."""
    shown = _window(operations, verdict)
    origin_ns = operations[0].invoke_ns if operations else 0
    chart = _Chart(shown, verdict.operations, origin_ns)
    hidden = len(operations) - len(shown)
    window = f"All {len(operations)} operations are shown."
    if hidden:
        window = f"{len(shown)} of {len(operations)} operations are shown; not shown: {_counts(operations, shown)}."
    return PAGE.substitute(
        title=TITLES[verdict.ok],
        verdict_class="bad" if verdict.ok is False else "",
        reason=html.escape(verdict.reason),
        counts=html.escape(f"{_counts(operations)}. Checked by {verdict.checker}, {verdict.steps:,} steps."),
        named=_table(verdict.operations[:MAX_NAMED], origin_ns),
        rows=chart.rows(),
        bars=chart.bars(),
        window=html.escape(window),
    )


def _window(operations: list[Operation], verdict: Verdict) -> list[Operation]:
    if not verdict.operations:
        return operations[: 2 * AROUND]
    middle = verdict.operations[0].index
    around = operations[max(0, middle - AROUND) : middle + AROUND + 1]
    named = {operation.index: operation for operation in verdict.operations[:MAX_NAMED]}
    return sorted(({operation.index: operation for operation in around} | named).values(), key=lambda op: op.index)


def _counts(operations: list[Operation], but: list[Operation] | None = None) -> str:
    left_out = {operation.index for operation in but or ()}
    counted = [operation for operation in operations if operation.index not in left_out]
    outcomes = Counter(operation.outcome for operation in counted)
    processes = len({operation.process for operation in counted})
    parts = ", ".join(f"{outcomes[outcome]:,} {outcome}" for outcome in ("ok", "fail", "info") if outcomes[outcome])
    return f"{len(counted):,} operations of {processes:,} processes ({parts or 'none'})"


def _table(named: list[Operation], origin_ns: int) -> str:
    if not named:
        return ""
    rows = []
    for operation in named:
        ended = "" if operation.complete_ns is None else _milliseconds(operation.complete_ns - origin_ns)
        revision = "" if operation.revision is None else str(operation.revision)
        began = _milliseconds(operation.invoke_ns - origin_ns)
        cells = (operation.index + 1, began, ended, revision, operation.describe())
        rows.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>operation</th><th>began, ms</th><th>ended, ms</th><th>revision</th><th>call and answer</th></tr>"
    return f'<div class="table"><table>{head}{"".join(rows)}</table></div>'


def _milliseconds(time_ns: int) -> str:
    return f"{time_ns / 1e6:,.3f}"


class _Chart:
    """Rows and bars of the operations shown."""

    def __init__(self, shown: list[Operation], named: list[Operation], origin_ns: int) -> None:
        self._shown = shown
        self._origin_ns = origin_ns
        self._keys = _keys(named[0]) if named else None
        self._named = {operation.index for operation in named}
        self._first = named[0].index if named else -1
        self._times = {op.invoked: op.invoke_ns for op in shown}
        self._times |= {op.completed: op.complete_ns or 0 for op in shown if op.completed is not None}
        self._column = {position: i for i, position in enumerate(sorted(self._times))}
        processes = sorted({operation.process for operation in shown})
        self._row = {process: i for i, process in enumerate(processes)}
        self._height = TOP + ROW * len(processes) + 6
        self._width = STEP * (len(self._column) + 2)

    def rows(self) -> str:
        """The names of the processes, which stay in place when the bars scroll."""
        texts = [
            f'<text x="10" y="{self._y(row) + BAR // 2 + 4}">process {process}</text>'
            for process, row in self._row.items()
        ]
        return f'<svg width="100" height="{self._height}">{"".join(texts)}</svg>'

    def bars(self) -> str:
        """Everything else."""
        parts = [self._grid(), *map(self._bar, self._shown)]
        return f'<svg width="{self._width}" height="{self._height}" role="img">{"".join(parts)}</svg>'

    def _related(self, operation: Operation) -> bool:
        """Whether it shares a key with the first operation named, of which a range has too many to list."""
        return not self._keys or operation.index in self._named or any(touches(operation, key) for key in self._keys)

    def _y(self, row: int) -> int:
        return TOP + row * ROW + (ROW - BAR) // 2

    def _grid(self) -> str:
        parts = []
        for position, column in self._column.items():
            if column % TICKS == 0:
                x = STEP * (column + 1)
                time = _milliseconds(self._times[position] - self._origin_ns)
                parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{self._height}"/>')
                parts.append(f'<text class="soft" x="{x}" y="16">{time}</text>')
        parts += [
            f'<line x1="0" x2="{self._width}" y1="{TOP + row * ROW}" y2="{TOP + row * ROW}"/>'
            for row in range(len(self._row))
        ]
        return "".join(parts)

    def _bar(self, operation: Operation) -> str:
        x = STEP * (self._column[operation.invoked] + 1)
        right = self._width if operation.completed is None else STEP * (self._column[operation.completed] + 1)
        y, width = self._y(self._row[operation.process]), max(right - x, STEP) - 3
        classes = f"{operation.outcome} named" if operation.index in self._named else operation.outcome
        name = ' id="first"' if operation.index == self._first else ""
        room = int((width - 6) / LABEL_PIXELS)
        label = _label(operation)
        label = label if len(label) <= room else label[: max(0, room - 1)] + "…"
        ended_ns = operation.complete_ns
        ended = "never" if ended_ns is None else f"{_milliseconds(ended_ns - self._origin_ns)} ms"
        title = (
            f"operation {operation.index + 1}: {operation.describe()}\n"
            f"from {_milliseconds(operation.invoke_ns - self._origin_ns)} ms to {ended}"
        )
        group = "op" if self._related(operation) else "op aside"
        return (
            f'<g class="{group}"{name}><title>{html.escape(title)}</title>'
            f'<rect class="{classes}" x="{x}" y="{y}" width="{width}" height="{BAR}" rx="3"/>'
            f'<text x="{x + 4}" y="{y + BAR // 2 + 4}">{html.escape(label)}</text></g>'
        )


def _keys(operation: Operation) -> set[str]:
    found = keys_of(operation)
    return found | {key for key, _ in operation.result or ()} if operation.f == "range" else found


def _label(operation: Operation) -> str:
    """The operation in a few characters, the telling part first."""

    def text(value: object) -> str:
        return "∅" if value is None else str(value)

    match operation.f:
        case "read":
            return f"{operation.key}→{text(operation.result) if operation.outcome == 'ok' else '?'}"
        case "write":
            return f"{operation.key}={text(operation.value)}"
        case "cas":
            mark = "✗" if operation.succeeded is False else ""
            return f"{mark}{operation.key}:{text(operation.value[0])}→{text(operation.value[1])}"
        case "range":
            return f"[{operation.key[0]},{operation.key[1]})"
        case _:
            mark = {True: "✓", False: "✗", None: "?"}[operation.succeeded]
            return f"txn{mark}"
