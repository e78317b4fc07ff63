"""What the sync and the asyncio client share: from a user's arguments to an Operation, and from replies to results."""

import json
import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any, Final, TypeVar

from quorumd.client.operation import Operation, Plane
from quorumd.commands import (
    Compare,
    Kind,
    LeaseTimeToLive,
    LeaseTimeToLiveResult,
    Op,
    Put,
    Range,
    RangeResult,
    Result,
    Txn,
    encode,
    reads_only,
)
from quorumd.endpoint import parse_endpoint
from quorumd.errors import ProtocolError, Rejected, Timeout
from quorumd.limits import MAX_KEY_BYTES, MILLISECOND, SECOND
from quorumd.types import Nanoseconds
from quorumd_fastpath import wire

R = TypeVar("R")
LEADER: Final = 0


def deadline_after(now: Nanoseconds, timeout: float) -> Nanoseconds:
    """`timeout` seconds from `now`. Raises ValueError unless it is positive."""
    if not timeout > 0:
        raise ValueError(f"timeout must be positive, not {timeout!r} seconds")
    return now + int(timeout * SECOND)


def bytes_only(**named: object) -> None:
    """Raises TypeError naming the argument that is not bytes."""
    for name, value in named.items():
        if not isinstance(value, bytes):
            raise TypeError(f"{name} must be bytes, not {type(value).__name__}; encode it first")


def operation_for(
    request: Op, deadline: Nanoseconds, *, stale: bool = False, retry: bool = True, settled: bool = False
) -> Operation:
    """The operation that carries `request`. What only reads is not logged. Raises Rejected, TooLarge."""
    command = encode(request)
    if not reads_only(request):
        return Operation(Plane.WRITE, Kind.COMMAND, command, deadline, request=request, retry=retry, settled=settled)
    if stale:
        return Operation(Plane.STALE, Kind.STALE_READ, command, deadline, request=request, retry=retry)
    return Operation(Plane.READ, Kind.READ, command, deadline, request=request, retry=retry)


def status_operation(node: int | str, deadline: Nanoseconds) -> Operation:
    """Asks a node (id, "host:port", LEADER) for its figures. Raises ValueError if the text is no host:port."""
    if isinstance(node, str):
        parse_endpoint(node)
    return Operation(Plane.CONTROL, wire.KIND_STATUS, b"", deadline, target=node)


def transfer_operation(to: int, deadline: Nanoseconds) -> Operation:
    """Asks the leader to hand over to node `to`, 0: to whichever is most up to date."""
    body = json.dumps({"command": "transfer-leader", "to": to}).encode()
    return Operation(Plane.CONTROL, wire.KIND_ADMIN, body, deadline, target=LEADER)


def document_of(operation: Operation) -> dict[str, Any]:
    """The JSON document of a completed control operation. Raises its error."""
    if operation.error is not None:
        raise operation.error
    return operation.document


def check_accepted(operation: Operation) -> None:
    """Raises Rejected unless an admin command was accepted, Timeout if an earlier transmission of it may have been."""
    document = document_of(operation)
    if document.get("ok") is True:
        return
    reason = str(document.get("error") or "the node refused")
    if operation.transmissions > 1:  # the answer that was lost may have been yes, and this one be no because of it
        raise Timeout(f"an answer was lost, so it may have happened; the answer to a repetition was: {reason}")
    raise Rejected(reason)


def expect(kind: type[R], result: Result) -> R:
    """`result`, which must be a `kind`."""
    if not isinstance(result, kind):
        raise ProtocolError(f"a {type(result).__name__} came where a {kind.__name__} was asked for")
    return result


def compare_and_set(key: bytes, expected: bytes | None, value: bytes) -> Txn:
    """Put `value` if the key has the value `expected`, None: if there is no such key."""
    bytes_only(key=key, value=value)
    if expected is None:
        return Txn([Compare.version(key, "=", 0)], [Put(key, value)])
    bytes_only(expected=expected)
    return Txn([Compare.value(key, "=", expected)], [Put(key, value)])


def successor(key: bytes) -> bytes | None:
    """The lowest key above `key`, or None if there is none."""
    if len(key) < MAX_KEY_BYTES:
        return key + b"\0"
    stem = key.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def pages(request: Range) -> Generator[Range, Result, RangeResult]:
    """The reads that together answer `request`: yields each, takes its result, returns the whole.

    A reply holds at most 1 MiB; a longer range is several reads, all at the revision of the first, which is the one
    returned. Should that be compacted before the last page is read, the read fails with Compacted: a range that takes
    longer than history is kept would not do better a second time.
    """
    page = first = expect(RangeResult, (yield request))
    kvs = list(first.kvs)
    pinned = replace(request, revision=request.revision or first.revision, uncounted=True)
    in_key_order = request.sort_target == "key" and request.order != "descend"
    while page.more and page.kvs and not (request.limit and len(kvs) >= request.limit):
        limit = request.limit - len(kvs) if request.limit else 0
        if in_key_order:
            key = successor(page.kvs[-1].key)
            if key is None:
                break
            page = expect(RangeResult, (yield replace(pinned, key=key, limit=limit, skip=0)))
        else:
            page = expect(RangeResult, (yield replace(pinned, limit=limit, skip=request.skip + len(kvs))))
        kvs += page.kvs
    return RangeResult(first.revision, tuple(kvs), page.more, first.count)


def lease_pages(request: LeaseTimeToLive) -> Generator[LeaseTimeToLive, Result, LeaseTimeToLiveResult]:
    """Likewise of a lease with its keys; keys that come or go between the pages may be missed, or be there twice."""
    page = first = expect(LeaseTimeToLiveResult, (yield request))
    keys = list(first.keys)
    while page.more and page.keys:
        page = expect(LeaseTimeToLiveResult, (yield replace(request, skip=request.skip + len(keys))))
        keys += page.keys
    return replace(first, keys=tuple(keys), more=page.more)


def parts(request: Op) -> Generator[Op, Result, Result]:
    """The operations that together answer any one: several for what may exceed a reply."""
    match request:
        case Range():
            return (yield from pages(request))
        case LeaseTimeToLive(_, True):
            return (yield from lease_pages(request))
    return (yield request)


def ttl_ms(ttl: float) -> int:
    """A TTL of `ttl` seconds as the cluster takes it. Raises ValueError unless it is positive."""
    if not ttl > 0:
        raise ValueError(f"ttl must be positive, not {ttl!r} seconds")
    return math.ceil(ttl * SECOND / MILLISECOND)
