"""What clients ask for, how it is written down in a history, and how replies are read back into it.

A value is a token such as "4.17/300": who wrote it, and how many bytes it is padded to. The bytes follow from the
token, so a history stays small, and a value that comes back with any byte changed is not the one that was written.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quorumd.commands import (
    Compare,
    DeleteRange,
    KeyValue,
    Op,
    Put,
    Range,
    RangeResult,
    Result,
    SimpleOp,
    Txn,
    TxnResult,
)
from quorumd.limits import RANGE_PAGE_BYTES

SHAPES = ("read", "stale", "write", "delete", "cas", "range", "check", "both", "snapshot")
"""Operations by their shape: check, both and snapshot are transactions over two keys."""


@dataclass(frozen=True)
class Mix:
    """What is asked for. weights: one for each of SHAPES. sizes: bytes of values, one of them drawn for each write."""

    keys: int
    sizes: Sequence[int]
    weights: Sequence[int] = (25, 5, 25, 5, 15, 5, 10, 5, 5)


@dataclass(frozen=True)
class Ask:
    """One operation: as the history has it, and as the client sends it."""

    f: str
    key: Any
    value: Any
    request: Op
    stale: bool = False


def spell(token: str) -> bytes:
    """The bytes of a token."""
    return token.encode().ljust(int(token.rpartition("/")[2]), b".")


def read_back(value: bytes) -> str:
    """The token of bytes that were read; bytes that no token has are given a name that nobody wrote."""
    token = value.rstrip(b".").decode("latin-1")
    size = token.rpartition("/")[2]
    return token if size.isdecimal() and spell(token) == value else f"corrupt: {value[:40]!r}, {len(value)} bytes"


class Mind:
    """What one client remembers of what it saw, to make compare-and-swaps that have a chance."""

    def __init__(self, name: str, mix: Mix, rng: random.Random) -> None:
        self.name = name
        self.mix = mix
        self.rng = rng
        self.seen: dict[str, KeyValue | None] = {}
        self._written = 0

    def next(self) -> Ask:
        """The next operation."""
        rng = self.rng
        shape = rng.choices(SHAPES, self.mix.weights)[0]
        if shape == "range" and self.mix.keys * max(self.mix.sizes) > RANGE_PAGE_BYTES // 2:
            shape = "read"  # the range would come in several pages, between which writes fall
        key = self._key()
        if shape in ("read", "stale"):
            return self.read(key, stale=shape == "stale")
        if shape == "write":
            return self.write(key)
        if shape == "delete":
            return Ask("write", key, None, DeleteRange(key.encode()))
        if shape == "range":
            return Ask("range", ["k", "l"], None, Range(b"k", b"l"))
        if shape == "cas":
            return self._cas(key)
        return self._txn(shape, key)

    def read(self, key: str, *, stale: bool = False) -> Ask:
        """Reads one key."""
        return Ask("read", key, None, Range(key.encode()), stale)

    def write(self, key: str, size: int | None = None) -> Ask:
        """Writes one key, a value never written before; of `size` bytes instead of what the mix says."""
        token = self._token(size)
        return Ask("write", key, token, Put(key.encode(), spell(token)))

    def _key(self) -> str:
        return f"k{self.rng.randrange(self.mix.keys)}"

    def _token(self, size: int | None = None) -> str:
        self._written += 1
        return f"{self.name}.{self._written}/{self.rng.choice(self.mix.sizes) if size is None else size}"

    def _cas(self, key: str) -> Ask:
        seen = self.seen.get(key)
        token = self._token()
        old = read_back(seen.value) if seen is not None else None
        compare = Compare.value(key.encode(), "=", seen.value) if seen is not None else absent(key)
        return Ask("cas", key, [old, token], Txn([compare], [Put(key.encode(), spell(token))]))

    def _txn(self, shape: str, key: str) -> Ask:
        other = self._key()
        compares: list[tuple[str, str, str, object]] = []
        success: list[tuple[str, ...]] = [("read", key), ("read", other)]
        failure: list[tuple[str, ...]] = []
        if shape != "snapshot" and other != key:
            success = [("write", key, self._token()), ("write", other, self._token()), ("read", key)]
        if shape == "check":
            seen = self.seen.get(key)
            revision = seen.mod_revision if seen is not None else 0
            compares = [self.rng.choice([(key, "mod_revision", "=", revision), (key, "version", ">", 1)])]
            failure = [("read", key), ("read", other)]
        return Ask(
            "txn",
            None,
            {"compare": [list(c) for c in compares], "success": [list(o) for o in success],
             "failure": [list(o) for o in failure]},
            Txn([compare_of(*c) for c in compares], [op_of(o) for o in success], [op_of(o) for o in failure]),
        )

    def learn(self, kvs: Sequence[KeyValue], asked: str | None) -> None:
        """What a read found; `asked`: the key of a read of one key."""
        if asked is not None and not kvs:
            self.seen[asked] = None
        for kv in kvs:
            self.seen[kv.key.decode()] = kv


def absent(key: str) -> Compare:
    """That there is no such key."""
    return Compare.version(key.encode(), "=", 0)


def compare_of(key: str, target: str, relation: Any, operand: Any) -> Compare:
    """A compare of a history as a command's."""
    make = {"mod_revision": Compare.mod_revision, "version": Compare.version}[target]
    return make(key.encode(), relation, operand)


def op_of(op: Sequence[Any]) -> SimpleOp:
    """An operation of a history's transaction as a command's."""
    key = op[1].encode()
    if op[0] == "read":
        return Range(key)
    return DeleteRange(key) if op[2] is None else Put(key, spell(op[2]))


def outcome(ask: Ask, result: Result) -> dict[str, Any]:
    """What the history keeps of a reply: value, revision, succeeded, results, as the kind of operation has them."""
    kept: dict[str, Any] = {"revision": result.revision}
    if isinstance(result, RangeResult):
        if ask.f == "read":
            kept["value"] = read_back(result.kvs[0].value) if result.kvs else None
        else:
            kept["value"] = [[kv.key.decode(), read_back(kv.value)] for kv in result.kvs]
    elif isinstance(result, TxnResult):
        kept["succeeded"] = result.succeeded
        if ask.f == "txn":
            kept["results"] = [
                (read_back(each.kvs[0].value) if each.kvs else None) if isinstance(each, RangeResult) else None
                for each in result.responses
            ]
    return kept
