"""The store that a history is compared with: a map of strings with etcd's counters, one operation at a time.

The only place that knows what an operation does. Both checkers ask `execute` what an operation would answer and change,
and `told` what the history says that it answered.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol

from quorumd.checker.history import Operation


class Item(NamedTuple):
    """A key's value and counters; a key without an item is absent."""

    value: str
    version: int
    """Writes since the key was made; 1 is the first."""
    create_revision: int
    mod_revision: int


Changes = dict[str, Item | None]
"""What an operation leaves behind, by key; None: deleted. Empty: it changed nothing, and made no revision."""
NOTHING: Final[Changes] = {}


class State(Protocol):
    """A state to read from: a dict of items, or what looks like one."""

    def get(self, key: str, /) -> Item | None:
        """The item of a key, None if it is absent."""

    def __iter__(self) -> Iterator[str]:
        """The keys that are present."""


def execute(operation: Operation, state: State, revision: int) -> tuple[Any, Changes]:
    """(answer, changes) of an operation in `state`; `revision` is the one that its changes would make.

    The answer is a value (read), a list of [key, value] (range), whether it succeeded (cas), [succeeded, results]
    (txn), None (write). Reads `state`, changes nothing.
    """
    match operation.f:
        case "read":
            return _value(state.get(operation.key)), NOTHING
        case "write":
            return None, _put(state.get(operation.key), operation.key, operation.value, revision)
        case "cas":
            item = state.get(operation.key)
            if _value(item) != operation.value[0]:
                return False, NOTHING
            return True, _put(item, operation.key, operation.value[1], revision)
        case "range":
            return _range(operation.key, state), NOTHING
        case _:
            return _txn(operation.value, state, revision)


def told(operation: Operation) -> Any:
    """The answer in the history of an `ok` operation, in the form of `execute`."""
    match operation.f:
        case "read" | "range":
            return operation.result
        case "cas":
            return operation.succeeded
        case "txn":
            return [operation.succeeded, operation.results]
        case _:
            return None


def touches(operation: Operation, key: str) -> bool:
    """Whether an operation reads, compares or may write `key`."""
    if operation.f == "range":
        return bool(operation.key[0] <= key < operation.key[1])
    return key in keys_of(operation)


def keys_of(operation: Operation) -> set[str]:
    """The keys that an operation names; a range names none, it has bounds."""
    if operation.f == "range":
        return set()
    if operation.f != "txn":
        return {operation.key}
    value = operation.value
    branches = (*value["success"], *value["failure"])
    return {compare[0] for compare in value["compare"]} | {op[1] for op in branches}


def may_write(operation: Operation) -> set[str]:
    """The keys that an operation might change in some state."""
    if operation.f in ("write", "cas"):
        return {operation.key}
    if operation.f != "txn":
        return set()
    return {op[1] for part in ("success", "failure") for op in operation.value[part] if op[0] == "write"}


def _value(item: Item | None) -> str | None:
    return None if item is None else item.value


def _put(item: Item | None, key: str, value: str | None, revision: int) -> Changes:
    if value is None:
        return NOTHING if item is None else {key: None}
    if item is None:
        return {key: Item(value, 1, revision, revision)}
    return {key: Item(value, item.version + 1, item.create_revision, revision)}


def _range(bounds: list[str], state: State) -> list[list[str]]:
    first, last = bounds
    found: list[list[str]] = []
    for key in sorted(key for key in state if first <= key < last):
        if (item := state.get(key)) is not None:
            found.append([key, item.value])
    return found


def _txn(value: dict[str, Any], state: State, revision: int) -> tuple[Any, Changes]:
    succeeded = all(_holds(compare, state) for compare in value["compare"])
    changes: Changes = {}
    results: list[str | None] = []
    for op in value["success" if succeeded else "failure"]:
        key = op[1]
        item = changes[key] if key in changes else state.get(key)
        if op[0] == "read":
            results.append(_value(item))
        else:
            changes.update(_put(item, key, op[2], revision))
            results.append(None)
    return [succeeded, results], changes


def _holds(compare: list[Any], state: State) -> bool:
    key, target, relation, operand = compare
    item = state.get(key)
    if operand is None:
        return bool((item is None) == (relation == "="))
    if target == "value":
        return item is not None and _related(relation, item.value, operand)
    return _related(relation, 0 if item is None else getattr(item, target), operand)


def _related(relation: str, left: Any, right: Any) -> bool:
    match relation:
        case "=":
            return bool(left == right)
        case "!=":
            return bool(left != right)
        case "<":
            return bool(left < right)
        case _:
            return bool(left > right)
