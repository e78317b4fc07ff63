"""What a history with revisions says of each key, whatever happened to the operations of unknown outcome.

The branch that an answered operation took is known, so what it wrote is known without a replay, and so is most of what
it saw. These facts, in the order of revisions, are the timeline of a key.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from quorumd.checker.history import Operation
from quorumd.checker.model import keys_of

Moment = int
"""2r: the change that makes revision r. 2r + 1: the state at r, which is also the one that change r + 1 finds."""
Effects = dict[str, str | None]


class Says(Enum):
    """What a fact says of its key's value."""

    SET = 0
    IS = 1
    IS_NOT = 2


class Fact(NamedTuple):
    """At `moment` the key was set to, is, or is not `value` (None: absent), as `operation` shows."""

    moment: Moment
    says: Says
    value: str | None
    operation: Operation


class Lull(NamedTuple):
    """Nothing wrote the key between two revisions, both excluded: a compare found the first as its mod revision."""

    after: int
    before: int


class Makes(Enum):
    """Whether an answered operation made the revision it carries."""

    NO = 0
    YES = 1
    PERHAPS = 2
    """It deletes, which changes something only if there was something."""


def makes_revision(operation: Operation) -> Makes:
    """From the answer alone; the state decides what is left open."""
    written = _branch_writes(operation)
    if operation.f == "cas" and written == [None]:
        return Makes.NO if operation.value[0] is None else Makes.YES
    if any(value is not None for value in written):
        return Makes.YES
    return Makes.PERHAPS if written else Makes.NO


def _branch(operation: Operation) -> list[list[Any]]:
    branch: list[list[Any]] = operation.value["success" if operation.succeeded else "failure"]
    return branch


def _branch_writes(operation: Operation) -> list[str | None]:
    match operation.f:
        case "write":
            return [operation.value]
        case "cas":
            return [operation.value[1]] if operation.succeeded else []
        case "txn":
            return [op[2] for op in _branch(operation) if op[0] == "write"]
        case _:
            return []


def effects(operation: Operation) -> Effects:
    """The values that an operation that may have made its revision left behind, by key; deletes as None."""
    (left,) = branches(operation)
    return left


def branches(operation: Operation) -> tuple[Effects, ...]:
    """What an operation leaves behind where that is known, or else what it may, in either case."""
    match operation.f:
        case "write":
            return ({operation.key: operation.value},)
        case "cas":
            return ({} if operation.succeeded is False else {operation.key: operation.value[1]},)
        case "txn":
            names = {True: ("success",), False: ("failure",), None: ("success", "failure")}[operation.succeeded]
            return tuple(left_by(operation.value[name]) for name in names)
        case _:
            return ({},)


def left_by(branch: list[list[Any]]) -> Effects:
    """What a branch of a transaction leaves behind."""
    return {op[1]: op[2] for op in branch if op[0] == "write"}


def possible_effects(operation: Operation) -> Iterator[tuple[str, str | None]]:
    """Every (key, value) that an operation of unknown outcome might leave behind."""
    for branch in branches(operation):
        yield from branch.items()


def may_have_made(operation: Operation, change: Effects) -> bool:
    """Whether an operation of unknown outcome can have made a revision that changed just that."""
    return any(
        change.items() <= branch.items() and all(branch[key] is None for key in branch.keys() - change.keys())
        for branch in branches(operation)  # a delete of what is not there changes nothing
    )


def seen(operation: Operation, keys: Iterable[str]) -> Iterator[tuple[str, Says, str | None]]:
    """What an answered operation found before its own writes; `keys` are all that there are."""
    match operation.f:
        case "read":
            yield operation.key, Says.IS, operation.result
        case "range":
            held: dict[str, str] = dict(operation.result)
            first, last = operation.key
            for key in {key for key in keys if first <= key < last} | set(held):
                yield key, Says.IS, held.get(key)
        case "cas":
            yield operation.key, Says.IS if operation.succeeded else Says.IS_NOT, operation.value[0]
        case "txn":
            yield from _seen_by_compares(operation)
            written: set[str] = set()
            for op, result in zip(_branch(operation), operation.results or [], strict=True):
                if op[0] == "write":
                    written.add(op[1])
                elif op[1] not in written:
                    yield op[1], Says.IS, result


def _seen_by_compares(operation: Operation) -> Iterator[tuple[str, Says, str | None]]:
    compares = operation.value["compare"]
    if not operation.succeeded and len(compares) != 1:
        return
    for key, target, relation, operand in compares:
        if target != "value" or relation not in ("=", "!="):
            continue
        # A compare of an absent key with a string fails whatever the relation: `!=` "v" that failed says little.
        found_absent = not operation.succeeded and relation == "!=" and operand is None
        if (operation.succeeded and relation == "=") or found_absent:
            yield key, Says.IS, operand
        elif operation.succeeded == (relation == "!="):
            yield key, Says.IS_NOT, operand


def lulls(answered: Iterable[Operation]) -> dict[str, list[Lull]]:
    """The spans in which a key kept its mod revision, as the compares that held show; ascending, and one for each."""
    longest: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for operation in answered:
        if operation.f != "txn" or not operation.succeeded or makes_revision(operation) is Makes.PERHAPS:
            continue
        revision = operation.revision or 0
        before = revision if makes_revision(operation) is Makes.YES else revision + 1
        for key, target, relation, operand in operation.value["compare"]:
            if target == "mod_revision" and relation == "=" and operand:
                longest[key][operand] = max(before, longest[key].get(operand, 0))
    return {key: [Lull(*span) for span in sorted(spans.items())] for key, spans in longest.items()}


def timelines(answered: Iterable[Operation]) -> dict[str, list[Fact]]:
    """The facts of every key in the order of their moments; where moments are equal, what was set stands first."""
    answered = list(answered)
    keys = {key for operation in answered for key in keys_of(operation)}
    found: defaultdict[str, list[Fact]] = defaultdict(list)
    for operation in answered:
        revision, makes = operation.revision or 0, makes_revision(operation)
        state = 2 * revision + 1
        if makes is not Makes.PERHAPS:
            # Whether a delete found the state before its revision or the one at it, only a replay can tell.
            before = state - 2 if makes is Makes.YES else state
            for key, says, value in seen(operation, keys):
                found[key].append(Fact(before, says, value, operation))
        if makes is not Makes.NO:
            moment = state if makes is Makes.PERHAPS else state - 1
            for key, value in effects(operation).items():
                found[key].append(Fact(moment, Says.SET, value, operation))
    for facts in found.values():
        facts.sort(key=lambda fact: (fact.moment, fact.says is not Says.SET))
    return found
