"""How a run looks: a live table on a terminal, lines elsewhere. Loads rich only when there is a terminal."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TextIO

from quorumd.chaos.faults import Injection
from quorumd.client.probe import Status
from quorumd.types import NodeId

if TYPE_CHECKING:
    from rich.console import Group

PLAIN_EVERY_S: Final = 10.0
COLUMNS: Final = ("node", "role", "term", "commit", "applied", "restarts", "now")


class View(NamedTuple):
    """What is to be seen at one moment."""

    spent_s: float
    planned_s: float
    phase: str
    rate: float
    outcomes: Mapping[str, int]
    active: Sequence[Injection]
    statuses: Mapping[NodeId, Status]
    states: Mapping[NodeId, str]
    restarts: Mapping[NodeId, int]

    @property
    def headline(self) -> str:
        counts = ", ".join(f"{self.outcomes.get(name, 0):,} {name}" for name in ("ok", "fail", "info"))
        planned = f" of {self.planned_s:.0f}" if self.spent_s <= self.planned_s else ""  # the plan ends before the run
        return f"{self.spent_s:.0f}{planned} s, {self.phase}: {self.rate:.0f} operations/s ({counts})"


class Display(Protocol):
    """Where a run tells people how it goes."""

    def note(self, text: str) -> None:
        """One line that stays."""
        ...

    def show(self, view: View) -> None: ...
    def close(self) -> None: ...


class Silent:
    """For --json."""

    def note(self, text: str) -> None:
        pass

    def show(self, view: View) -> None:
        pass

    def close(self) -> None:
        pass


class Plain:
    """Every note, and now and then a summary."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._next_s = time.monotonic() + PLAIN_EVERY_S

    def note(self, text: str) -> None:
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def show(self, view: View) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + PLAIN_EVERY_S
        self.note(f"{view.headline}; " + ", ".join(f"node {row[0]} {row[1]}" for row in rows(view)))

    def close(self) -> None:
        pass


class Live:
    """A table, redrawn in place, with the notes scrolling above it."""

    def __init__(self, title: str) -> None:
        from rich.console import Console  # noqa: PLC0415 - megabytes that only a terminal needs
        from rich.live import Live as RichLive  # noqa: PLC0415

        self.title = title
        self.live = RichLive(console=Console(), auto_refresh=False, transient=True)

    def note(self, text: str) -> None:
        self.live.console.print(text, markup=False, highlight=False)

    def show(self, view: View) -> None:
        if not self.live.is_started:
            self.live.start()
        self.live.update(table(self.title, view), refresh=True)

    def close(self) -> None:
        self.live.stop()


def for_stream(title: str, stream: TextIO) -> Display:
    """The live table if `stream` is a terminal, else lines."""
    return Live(title) if stream.isatty() else Plain(stream)


def rows(view: View) -> list[list[str]]:
    """A row for each node, in the order of COLUMNS."""
    found = []
    for node, state in view.states.items():
        status = view.statuses.get(node, {})
        role = str(status.get("role", "")) if status.get("voter") else "no voter" if status else state or "starting"
        figures = [str(status.get(name, "")) for name in ("term", "commit", "applied")]
        found.append([str(node), role, *figures, str(view.restarts[node]), state])
    return found


def table(title: str, view: View) -> "Group":
    """The view for rich."""
    from rich.console import Group  # noqa: PLC0415 - see Live
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    result = Table(box=None, padding=(0, 2, 0, 0))
    for name in COLUMNS:
        result.add_column(name, justify="left" if name in ("role", "now") else "right", no_wrap=True)
    for row in rows(view):
        result.add_row(*row, style="red" if row[-1] else "bold green" if row[1] == "leader" else None)
    active = [Text(f"  {injection.words}", style="yellow") for injection in view.active]
    return Group(Text(title, style="bold"), Text(view.headline), result, Text(f"at work: {len(active)}"), *active)
