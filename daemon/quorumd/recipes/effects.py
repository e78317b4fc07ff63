"""What a recipe asks of the world. Each recipe is written once, as a generator that yields these and takes the answers.

    answer = yield Call(op, until)           the operation's result; its error is raised at the yield
    events = yield Wait(key, end, after)     the next events of a range after a revision; () once `until` has come
    now = yield Clock()                      the time since boot (sinceboot.py)
    yield Pause(until)                       let time pass
    yield Emit(item)                         a stream hands one item to its user, and goes on when asked for the next

A driver performs them: sync.py with a blocking client, aio.py with an awaiting one, and the tests with a model of the
store, a simulated clock and an order of events drawn from a seed. Nothing here, and no recipe, touches a thread, a
clock or a socket. All times are readings of that clock in nanoseconds.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from quorumd.commands import Op, Range, RangeResult, Txn, TxnResult
from quorumd.errors import Compacted, NotLeader, Overloaded, ReplyEvicted, SessionExpired, Timeout
from quorumd.invariants import InvariantBroken
from quorumd.limits import SESSION_RETRY
from quorumd.types import Nanoseconds
from quorumd.watchcodec import Event

R = TypeVar("R")
TRANSIENT: Final = (Timeout, NotLeader, Overloaded, SessionExpired, ReplyEvicted)
"""Errors after which the same operation may succeed. ConnectionLost is not: the client was closed."""


@dataclass(frozen=True, slots=True)
class Call:
    """One operation. The answer is its result; a range is read whole, at one revision.

    A write comes after whatever the same client's callers gave up before: what a recipe removes because it may be there
    is not put by a late copy of the request that was given up.
    """

    op: Op
    until: Nanoseconds | None = None
    """Deadline; None: the client's default timeout from now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Waits for the next events of [key, end) (end empty: of `key`) with a revision above `after`.

    The answer: all events of one or more whole revisions, in order, or () once `until` has come (None: never). Raises
    Compacted when the revisions after `after` are no longer held.
    """

    key: bytes
    end: bytes
    after: int
    until: Nanoseconds | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Until then. `interruptible`: or until something else is there to be done (see lease.Lease.nudge)."""

    until: Nanoseconds
    interruptible: bool = False


@dataclass(frozen=True, slots=True)
class Clock:
    """The answer: the time since boot."""


@dataclass(frozen=True, slots=True)
class Emit:
    """One item of a stream."""

    item: Any


Effect: TypeAlias = Call | Wait | Pause | Clock | Emit
Script: TypeAlias = Generator[Effect, Any, R]


def clock() -> Script[Nanoseconds]:
    """The time since boot."""
    now = yield Clock()
    return expect(int, now)


def transact(txn: Txn, until: Nanoseconds | None = None) -> Script[TxnResult]:
    """Performs a transaction."""
    result = yield Call(txn, until)
    return expect(TxnResult, result)


def read(request: Range, until: Nanoseconds | None = None) -> Script[RangeResult]:
    """Reads a range."""
    result = yield Call(request, until)
    return expect(RangeResult, result)


def insist(attempt: Callable[[Nanoseconds | None], Script[R]], until: Nanoseconds | None = None) -> Script[R]:
    """What the reading script `attempt(deadline)` returns, through whatever passes.

    At `until` raises the last attempt's error. If it has come already one attempt is made all the same, for as long as
    the client's default.
    """
    limit = until if until is None or (yield from clock()) < until else None
    while True:
        try:
            return (yield from attempt(limit))
        except (*TRANSIENT, Compacted):  # Compacted: between the pages of a long range
            now = yield from clock()
            if until is not None and now + SESSION_RETRY >= until:
                raise
            yield Pause(now + SESSION_RETRY)


def news(
    key: bytes, end: bytes, after: int, until: Nanoseconds | None = None
) -> Script[tuple[Event, ...] | None]:
    """The next events after a revision; () once `until` has come; None: look for yourself, something may have changed.

    That is so when history was compacted, and when the cluster would not watch for now.
    """
    try:
        events = yield Wait(key, end, after, until)
    except Compacted:
        return None
    except TRANSIENT:
        yield Pause((yield from clock()) + SESSION_RETRY)
        return None
    return expect(tuple, events)


def found(result: TxnResult, position: int) -> RangeResult:
    """The answer to the Range at `position` of the branch that ran."""
    return expect(RangeResult, result.responses[position])


def expect(kind: type[R], result: object) -> R:
    """`result`, which a driver promises to be a `kind`."""
    if not isinstance(result, kind):
        raise InvariantBroken(f"a driver answers with a {kind.__name__}, not with a {type(result).__name__}")
    return result
