"""The live table of `quorumd up`, and its plain twin for pipes. Loads rich only when a terminal is there to draw on."""

import errno
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from quorumd.supervisor.figures import NodeFigures

if TYPE_CHECKING:
    from rich.console import Group

PLAIN_EVERY_S: Final = 10.0
NO_PLACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
WIDE: Final = 104  # columns of a terminal that shows the whole table
COLUMNS: Final = (
    "node", "role", "term", "commit", "applied", "ops/s", "fsync p99", "rss", "cpu", "restarts",
    "client address", "note",
)


class Display(Protocol):
    """Where the supervisor tells people how things are."""

    def note(self, text: str) -> None:
        """One line that stays."""
        ...

    def show(self, rows: Sequence[NodeFigures], notes: dict[int, str], now_s: float) -> None:
        """The state of all nodes; `notes` has a sentence for those in trouble."""
        ...

    def close(self) -> None: ...


class Silent:
    """For a detached supervisor: its log says it all."""

    def note(self, text: str) -> None:
        pass

    def show(self, rows: Sequence[NodeFigures], notes: dict[int, str], now_s: float) -> None:
        pass

    def close(self) -> None:
        pass


class Plain:
    """A line a node whenever its role, term or health changes, and all of them every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._shown: dict[int, object] = {}
        self._next_s = 0.0

    def note(self, text: str) -> None:
        try:
            self.stream.write(f"{text}\n")
            self.stream.flush()
        except OSError as error:
            if error.errno not in NO_PLACE:  # a full disk must not take the nodes down with the supervisor
                raise

    def show(self, rows: Sequence[NodeFigures], notes: dict[int, str], now_s: float) -> None:
        due = now_s >= self._next_s
        if due:
            self._next_s = now_s + PLAIN_EVERY_S
        for row in rows:
            state = (row["role"], row["term"], row["alive"], row["restarts"], notes.get(row["id"]))
            if due or self._shown.get(row["id"]) != state:
                self._shown[row["id"]] = state
                texts = cells(row, notes.get(row["id"], ""))
                pairs = zip(COLUMNS[1:], texts[1:], strict=True)
                figures = ", ".join(f"{name} {text}" for name, text in pairs if text)
                self.note(f"node {row['id']}: {figures}")

    def close(self) -> None:
        pass


class Live:
    """The table, redrawn in place."""

    def __init__(self, title: str) -> None:
        from rich.console import Console  # noqa: PLC0415 - megabytes that only a terminal needs
        from rich.live import Live as RichLive  # noqa: PLC0415

        self.title = title
        self.live = RichLive(console=Console(), auto_refresh=False, transient=False)

    def note(self, text: str) -> None:
        self.live.console.print(text, markup=False, highlight=False)

    def show(self, rows: Sequence[NodeFigures], notes: dict[int, str], now_s: float) -> None:
        if not self.live.is_started:
            self.live.start()
        self.live.update(table(self.title, rows, notes, self.live.console.width), refresh=True)

    def close(self) -> None:
        self.live.stop()


def for_stream(title: str, stream: TextIO = sys.stdout) -> Display:
    """The live table if `stream` is a terminal, else plain lines."""
    return Live(title) if stream.isatty() else Plain(stream)


def print_once(title: str, rows: Sequence[NodeFigures], notes: dict[int, str], stream: TextIO) -> None:
    """The same table, once; in plain columns if `stream` is no terminal."""
    if stream.isatty():
        from rich.console import Console  # noqa: PLC0415 - see Live

        console = Console(file=stream)
        console.print(table(title, rows, notes, console.width))
        return
    lines = [list(COLUMNS), *(cells(row, notes.get(row["id"], "")) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    stream.write(f"{title}\n")
    for line in lines:
        stream.write("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() + "\n")


def table(title: str, rows: Sequence[NodeFigures], notes: dict[int, str], width: int) -> "Group":
    """The rows as a rich table for a terminal of `width` columns, with the notes below it."""
    from rich.console import Group  # noqa: PLC0415 - see Live
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown = COLUMNS[:-1] if width >= WIDE else COLUMNS[:-2]  # notes come below, the addresses are in the config
    result = Table(box=None, padding=(0, 2, 0, 0))
    for name in shown:
        result.add_column(name, justify="left" if name in ("role", "client address") else "right", no_wrap=True)
    for row in rows:
        style = "bold green" if row["role"] == "leader" else None if row["alive"] else "red"
        result.add_row(*cells(row, "")[: len(shown)], style=style)
    below = [Text(f"node {node_id}: {note}", style="red") for node_id, note in notes.items()]
    return Group(Text(title, style="bold"), result, *below)


def cells(row: NodeFigures, note: str) -> list[str]:
    """One row as text, in the order of COLUMNS; empty where nothing is known."""
    fsync, rss, cpu = row["fsync_p99_us"], row["rss_bytes"], row["cpu_percent"]
    rate = row["ops_per_s"]
    return [
        str(row["id"]),
        row["role"] or ("starting" if row["alive"] else "down"),
        _number(row["term"]),
        _number(row["commit"]),
        _number(row["applied"]),
        "" if rate is None else f"{rate:.0f}",
        "" if fsync is None else f"{fsync / 1000:.1f} ms",
        "" if rss is None else f"{rss / 1048576:.0f} MiB",
        "" if cpu is None else f"{cpu:.0f} %",
        str(row["restarts"]),
        row["address"],
        note,
    ]


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
