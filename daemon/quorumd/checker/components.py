"""A history cut into parts that cannot influence each other.

Linearizability is local (Herlihy & Wing 1990, section 3.3): a history is linearizable if and only if its part of each
object is. An object here is a set of keys that some transaction or range ties together; a key that only reads, writes
and compare-and-swaps name is an object of its own.
"""

from bisect import bisect_left
from collections.abc import Iterable

from quorumd.checker.history import Operation
from quorumd.checker.model import keys_of


class _Sets:
    """Disjoint sets of keys (Tarjan's union-find with path halving)."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, key: str) -> str:
        parent = self._parent
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    def unite(self, keys: Iterable[str]) -> None:
        first: str | None = None
        for key in keys:
            root = self.find(key)
            first = root if first is None else first
            self._parent[root] = self.find(first)


def components(operations: Iterable[Operation]) -> list[list[Operation]]:
    """The parts of a history, smallest first, each in the order of `operations`.

    Failed operations are in none, nor are reads and ranges of unknown outcome: no order contradicts them.
    """
    unseen = {("info", "read"), ("info", "range")}
    counted = [op for op in operations if op.outcome != "fail" and (op.outcome, op.f) not in unseen]
    sets = _Sets()
    for operation in counted:
        sets.unite(keys_of(operation))
    known = sorted({key for operation in counted for key in keys_of(operation)})

    def inside(bounds: tuple[str, str]) -> list[str]:
        return known[bisect_left(known, bounds[0]) : bisect_left(known, bounds[1])]

    for bounds in {tuple(operation.key) for operation in counted if operation.f == "range"}:
        sets.unite(inside(bounds))
    parts: dict[object, list[Operation]] = {}
    for operation in counted:
        names = inside((operation.key[0], operation.key[1])) if operation.f == "range" else keys_of(operation)
        part = sets.find(next(iter(names))) if names else operation
        parts.setdefault(part, []).append(operation)
    return sorted(parts.values(), key=len)
