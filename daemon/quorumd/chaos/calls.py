"""Operations of the history format (see checker/history.py) and those of the client library, into each other. Pure.

A value is a token, a short string that is unique in its run. What is stored may be longer: a token that ends in ~N is
stored with N bytes of padding behind a blank. The token alone says so, so that whoever knows it can compare with it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from quorumd.commands import (
    Compare,
    DeleteRange,
    KeyValue,
    Op,
    Put,
    Range,
    RangeResult,
    Relation,
    Result,
    SimpleOp,
    SimpleResult,
    Txn,
    TxnResult,
)
from quorumd.errors import ProtocolError
from quorumd.limits import MAX_VALUE_BYTES

SEPARATOR: Final = b" "
SHOWN_BYTES: Final = 40
"""Of a damaged value."""
READS: Final = ("read", "range")
Token: TypeAlias = str
TxnCompare: TypeAlias = tuple[str, str, Relation, int | Token]
"""(key, "value" | "version" | "create_revision" | "mod_revision", relation, operand)."""
TxnOp: TypeAlias = tuple[str, str] | tuple[str, str, Token | None]
"""("read", key) or ("write", key, token or None to delete)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One operation to be: f, key and value as in its invoke, and the request that does it."""

    f: str
    key: Any
    value: Any
    request: Op
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The fields of an ok; those that do not belong to the operation's f are None. `found` is a read's or range's."""

    revision: int
    found: Any = None
    succeeded: bool | None = None
    results: list[Token | None] | None = None


def padded(token: Token, padding: int) -> Token:
    """The token of the same value with so many bytes of padding."""
    return f"{token}~{padding}" if padding else token


def number(text: str) -> int | None:
    """The number that is written there; None if it is none, as in a value that was damaged."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII) else None


def stored(token: Token) -> bytes:
    """The bytes that stand for a token; also for one that was read, of which nothing can be expected."""
    padding = number(token.partition("~")[2]) or 0
    return token.encode() + (SEPARATOR + b"." * padding if 0 < padding <= MAX_VALUE_BYTES else b"")


def token_of(value: bytes) -> Token:
    """The token that some bytes stand for; of a value that was cut or damaged, its padding included, one of nobody."""
    token = value.partition(SEPARATOR)[0].decode(errors="replace")
    if stored(token) == value and ("~" in token) == (SEPARATOR in value):
        return token
    return f"corrupt, {len(value)} bytes that begin with {value[:SHOWN_BYTES]!r}"


def read(key: str, *, stale: bool = False) -> Call:
    """One key."""
    return Call("read", key, None, Range(key.encode()), stale)


def span(begin: str, end: str, *, stale: bool = False) -> Call:
    """The keys of [begin, end)."""
    return Call("range", [begin, end], None, Range(begin.encode(), end.encode()), stale)


def write(key: str, token: Token | None) -> Call:
    """Sets a key; None deletes it."""
    return Call("write", key, token, _put(key, token))


def attach(key: str, token: Token, lease: int) -> Call:
    """Sets a key that ends with a lease."""
    return Call("write", key, token, Put(key.encode(), stored(token), lease))


def cas(key: str, old: Token | None, new: Token) -> Call:
    """Sets a key if it has the value `old`; None: if it is absent."""
    compare = Compare.version(key.encode(), "=", 0) if old is None else Compare.value(key.encode(), "=", stored(old))
    return Call("cas", key, [old, new], Txn([compare], [_put(key, new)]))


def txn(compares: Sequence[TxnCompare], success: Sequence[TxnOp], failure: Sequence[TxnOp] = ()) -> Call:
    """If all compares hold, `success`, else `failure`."""
    value = {
        "compare": [list(each) for each in compares],
        "success": [list(op) for op in success],
        "failure": [list(op) for op in failure],
    }
    then, orelse = [_op(op) for op in success], [_op(op) for op in failure]
    return Call("txn", None, value, Txn([_compare(*each) for each in compares], then, orelse))


def _compare(key: str, target: str, relation: Relation, operand: int | Token) -> Compare:
    if isinstance(operand, str):
        return Compare.value(key.encode(), relation, stored(operand))
    make = {
        "version": Compare.version, "create_revision": Compare.create_revision, "mod_revision": Compare.mod_revision
    }
    return make[target](key.encode(), relation, operand)


def _op(op: TxnOp) -> SimpleOp:
    return Range(op[1].encode()) if len(op) == 2 else _put(op[1], op[2])


def _put(key: str, token: Token | None) -> SimpleOp:
    return DeleteRange(key.encode()) if token is None else Put(key.encode(), stored(token))


def writes(call: Call) -> bool:
    """Whether it may change something, so that an unknown outcome matters."""
    if call.f == "txn":
        return any(op[0] == "write" for branch in ("success", "failure") for op in call.value[branch])
    return call.f not in READS


def answer_of(call: Call, result: Result) -> Answer:
    """What the history says of a result. Raises ProtocolError if it is none of this call's."""
    if call.f == "read":
        return Answer(result.revision, token_of_one(result))
    if call.f == "range":
        kvs = _range(result).kvs
        return Answer(result.revision, [[kv.key.decode(errors="replace"), token_of(kv.value)] for kv in kvs])
    if not isinstance(result, TxnResult):
        return Answer(result.revision)
    if call.f == "cas":
        return Answer(result.revision, succeeded=result.succeeded)
    results = [token_of_one(each) if isinstance(each, RangeResult) else None for each in result.responses]
    return Answer(result.revision, succeeded=result.succeeded, results=results)


def token_of_one(result: Result | SimpleResult) -> Token | None:
    """The token of the one key that was read; None: it is absent."""
    kv = one(result)
    return None if kv is None else token_of(kv.value)


def one(result: Result | SimpleResult) -> KeyValue | None:
    """The one key that was read. Raises ProtocolError if that is not what was read."""
    kvs = _range(result).kvs
    if len(kvs) > 1:
        raise ProtocolError(f"{len(kvs)} keys came where one was asked for")
    return kvs[0] if kvs else None


def _range(result: Result | SimpleResult) -> RangeResult:
    if not isinstance(result, RangeResult) or result.more:
        raise ProtocolError(f"a {type(result).__name__} came where a whole range was asked for")
    return result
