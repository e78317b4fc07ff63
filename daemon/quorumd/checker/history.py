"""A history: what clients asked, what they were told, and when.

A file holds JSON lines, one event a line, in the order in which the events happened (for equal `time_ns`, the order in
the file is the order in time):

    {"process": 3, "type": "invoke", "f": "write", "key": "a", "value": "7", "time_ns": 120}
    {"process": 3, "type": "ok", "f": "write", "key": "a", "value": "7", "revision": 12, "time_ns": 180}

`process` is an integer; a process has at most one operation open. `type` is `invoke`, then one of `ok` (done), `fail`
(did not happen and never will) and `info` (may have happened, at any time since the invoke, or yet may, or never will).
After `info` the number of the process is not used again; an invoke without completion counts as `info`. `f`:

    f      key         value in the invoke          in ok
    read   string      null                         value: what was read, null = the key is absent
    write  string      string, null deletes         -
    cas    string      [old, new], null = absent    succeeded: false = compared unequal, nothing written
    range  [from, to)  null                         value: list of [key, value], ascending
    txn    -           {"compare": [[key, target, op, operand], ...],
                        "success": [op, ...],
                        "failure": [op, ...]}       succeeded: which branch; results: a value or null for each op of it

A target is `value`, `version`, `create_revision` or `mod_revision`, an op of a compare `=`, `!=`, `<` or `>`, an op of
a branch `["read", key]` or `["write", key, value]`; a write is visible to later reads of its txn. As in etcd, an absent
key has no value (no compare with a string holds, only `= null` does) and 0 for the other targets. Keys and values are
strings, values tokens: whoever records maps large ones to short ones. A history begins with an empty store.

`revision` in an `ok` is optional, as only stores with one can tell; all of a history have one, or none. It is, for an
operation that changed the store, the revision that it made (one more than the last; all changes of one txn share it;
deleting an absent key changes nothing), for any other the revision at which its answer is exact. `"stale": true` on the
invoke of a read or range: the answer is the state at its revision, which need not be the newest (but must exist by
then). Fields not named here are ignored.

The events are Jepsen's (Kingsbury, jepsen.history): `process`, `type`, `f`, `value`, `time` with the key taken out of
`value`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final

from quorumd.checker.fields import FieldError, check_event
from quorumd.errors import HistoryError
from quorumd.invariants import invariant
from quorumd.limits import HISTORY_EVENTS

Path = str | PathLike[str]


class _Unset:
    """The value of an argument that was not given: null is a value of its own."""


UNSET: Final = _Unset()


@dataclass(slots=True)
class Event:
    """One line of a history; the fields are those of the format above, None where a line has none."""

    process: int
    type: str
    f: str
    key: Any
    value: Any
    time_ns: int
    revision: int | None = None
    succeeded: bool | None = None
    results: list[str | None] | None = None
    stale: bool = False


@dataclass(slots=True, eq=False)
class Operation:
    """An invoke with its completion. Compared by identity: a history may hold the same call twice.

    `invoked` and `completed` are positions in the history and order operations in real time: a precedes b if and only
    if a.completed < b.invoked. `completed` is None if the outcome is unknown: such an operation precedes nothing.
    """

    index: int
    """Its place among the operations of its history, by invoke."""
    process: int
    f: str
    key: Any
    value: Any
    """The argument, as in the invoke."""
    invoked: int
    invoke_ns: int
    stale: bool = False
    outcome: str = "info"
    """ok, fail or info."""
    completed: int | None = None
    complete_ns: int | None = None
    """When it was answered; of an `info`, when it was given up. None: never."""
    result: Any = None
    """Of an `ok` read the value, of an `ok` range its list of [key, value]."""
    succeeded: bool | None = None
    results: list[str | None] | None = None
    revision: int | None = None

    def describe(self) -> str:
        """The call and its answer on one line."""
        call = f"process {self.process} {self.f} {_call(self)}"
        if self.outcome == "info":
            return f"{call} -> unknown"
        if self.outcome == "fail":
            return f"{call} -> failed"
        parts = [] if self.revision is None else [f"revision {self.revision}"]
        if self.f in ("read", "range"):
            parts.insert(0, _short(self.result))
        if self.succeeded is not None:
            parts.insert(0, "succeeded" if self.succeeded else "compared unequal")
        if self.results is not None:
            parts.insert(1, _short(self.results))
        return f"{call} -> {', '.join(parts) or 'ok'}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _call(operation: Operation) -> str:
    """The argument of a call as people write it: `"k"`, `"k" = "v"`, `"k": "old" -> "new"`."""
    key, value = operation.key, operation.value
    match operation.f:
        case "write":
            return f"{_short(key)} = {_short(value)}"
        case "cas":
            return f"{_short(key)}: {_short(value[0])} -> {_short(value[1])}"
        case "txn":
            return _short(value)
        case _:
            return _short(key)


class Pairing:
    """What must hold between the events of a history; makes its operations as the events come."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._open: dict[int, Operation] = {}
        self._retired: set[int] = set()
        self._position = 0
        self._time_ns: int | None = None

    def add(self, event: Event) -> None:
        """Takes the next event. Raises FieldError if it cannot follow those before it."""
        if self._time_ns is not None and event.time_ns < self._time_ns:
            remedy = "events stand in the order in which they happened: sort them by time, equal times as recorded"
            raise FieldError("time_ns", f"goes back from {self._time_ns} to {event.time_ns}", remedy)
        self._time_ns = event.time_ns
        if event.type == "invoke":
            self._invoke(event)
        else:
            self._complete(event)
        self._position += 1

    def _invoke(self, event: Event) -> None:
        process = event.process
        if process in self._open:
            remedy = "complete it first, or give the new operation a process of its own"
            raise FieldError("process", f"{process} has an operation open already", remedy)
        if process in self._retired:
            remedy = "go on under a new number: that operation may still take effect"
            raise FieldError("process", f"{process} is used again after an info", remedy)
        operation = Operation(
            len(self.operations), process, event.f, event.key, event.value, self._position, event.time_ns, event.stale
        )
        self.operations.append(operation)
        self._open[process] = operation

    def _complete(self, event: Event) -> None:
        operation = self._open.pop(event.process, None)
        if operation is None:
            raise FieldError("type", f"is {event.type!r}, but process {event.process} has nothing open", "invoke first")
        for field in ("f", "key"):
            asked, told = getattr(operation, field), getattr(event, field)
            if told is not None and told != asked:
                remedy = "repeat that of the invoke, or leave it out"
                raise FieldError(field, f"is {told!r}, but the open operation has {asked!r}", remedy)
        operation.outcome, operation.complete_ns = event.type, event.time_ns
        if event.type == "info":
            self._retired.add(event.process)
            return
        operation.completed = self._position
        if event.type == "fail":
            return
        if event.f in ("read", "range"):
            operation.result = event.value
        elif event.value is not None and event.value != operation.value:
            raise FieldError("value", f"is {event.value!r}, not that of the invoke", "repeat it, or leave it out")
        if event.stale and not operation.stale:
            raise FieldError("stale", "is true, but not in the invoke", "say in the invoke that a stale answer will do")
        operation.succeeded, operation.results, operation.revision = event.succeeded, event.results, event.revision
        if event.f == "txn":
            _check_results(operation)


def _check_results(operation: Operation) -> None:
    branch = operation.value["success" if operation.succeeded else "failure"]
    results = operation.results or []
    if len(results) != len(branch):
        remedy = "one for each op of the branch taken"
        raise FieldError("results", f"has {len(results)} entries for {len(branch)} operations", remedy)


def pair(events: Iterable[Event]) -> list[Operation]:
    """The operations of a history, in the order of their invokes.

    Raises HistoryError, naming the event (counted from 1), if the events do not make a history.
    """
    pairing = Pairing()
    for number, event in enumerate(events, 1):
        try:
            pairing.add(event)
        except FieldError as error:
            raise HistoryError(f"event {number}: {error}") from None
    return pairing.operations


class Recorder:
    """Takes events as they happen, in memory; for one thread (a simulator, an asyncio loop).

    Invoke before the request leaves, complete after the answer has come: the order of the calls is the order in time.
    Misuse (two operations open in a process, a process used after `info`) is a defect of the caller: InvariantBroken.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._open: dict[int, Event] = {}
        self._retired: set[int] = set()

    def invoke(self, process: int, f: str, key: Any, value: Any, time_ns: int, stale: bool = False) -> None:
        """An operation begins. `key` and `value` as the format has them (None for the key of a txn)."""
        invariant(process not in self._open, "a process has at most one operation open")
        invariant(process not in self._retired, "a process ends with an unknown outcome")
        event = Event(process, "invoke", f, key, value, time_ns, None, None, None, stale)
        self._open[process] = event
        self._append(event)

    def complete(
        self, process: int, type_: str, time_ns: int, value: Any = UNSET, revision: int | None = None,
        succeeded: bool | None = None, results: list[str | None] | None = None,
    ) -> None:
        """The open operation of `process` ends as `type_`: ok, fail or info. An `ok` read or range needs `value`."""
        begun = self._open.pop(process, None)
        if begun is None:
            invariant(False, "an operation is invoked before it completes")
            return
        invariant(value is not UNSET or type_ != "ok" or begun.f not in ("read", "range"), "a read has its answer")
        if type_ == "info":
            self._retired.add(process)
        value = begun.value if value is UNSET else value
        self._append(
            Event(process, type_, begun.f, begun.key, value, time_ns, revision, succeeded, results, begun.stale)
        )

    def _append(self, event: Event) -> None:
        invariant(len(self.events) < HISTORY_EVENTS, "a history is bounded")
        invariant(not self.events or self.events[-1].time_ns <= event.time_ns, "time does not go back")
        self.events.append(event)

    def dump(self, path: Path) -> None:
        """Writes what was recorded so far to a file. Raises OSError."""
        dump(self.events, path)


def dump(events: Iterable[Event], path: Path) -> None:
    """Writes a history as JSON lines. Raises OSError."""
    with open(path, "w", encoding="utf-8") as file:
        for event in events:
            file.write(_line(event))


def _line(event: Event) -> str:
    fields: dict[str, Any] = {
        "process": event.process, "type": event.type, "f": event.f, "key": event.key, "value": event.value,
    }
    for name in ("revision", "succeeded", "results"):
        if (content := getattr(event, name)) is not None:
            fields[name] = content
    if event.stale:
        fields["stale"] = True
    fields["time_ns"] = event.time_ns
    return json.dumps(fields, ensure_ascii=False) + "\n"


def load(path: Path) -> list[Event]:
    """The events of a file, every field and their sequence checked.

    Raises HistoryError, naming file, line, field and remedy, and OSError.
    """
    events: list[Event] = []
    pairing = Pairing()
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                event = _parse(raw)
                pairing.add(event)
            except FieldError as error:
                raise HistoryError(f"{path}:{number}: {error}") from None
            events.append(event)
            if len(events) > HISTORY_EVENTS:
                raise HistoryError(f"{path}:{number}: more than {HISTORY_EVENTS} events; check a shorter history")
    return events


def _parse(raw: bytes) -> Event:
    """Raises FieldError."""
    try:
        line = json.loads(raw)
    except json.JSONDecodeError as error:
        what = f"no JSON: {error.msg} at column {error.colno}"  # the line that it names is always the first
        raise FieldError(None, what, "one object a line") from None
    except (ValueError, RecursionError) as error:
        raise FieldError(None, f"no JSON: {error}", "one object a line") from None
    if not isinstance(line, Mapping):
        raise FieldError(None, "no JSON object", "one object a line")
    fields = dict(line)
    check_event(fields)
    return Event(
        fields["process"], fields["type"], fields["f"], fields.get("key"), fields.get("value"), fields["time_ns"],
        fields.get("revision"), fields.get("succeeded"), fields.get("results"), fields.get("stale", False),
    )  # fmt: skip
