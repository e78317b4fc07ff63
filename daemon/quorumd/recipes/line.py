"""Standing in line: what lock, read-write lock, semaphore and election have in common.

Each contender puts one key of its own, attached to its session's lease, and the store orders them by creation
revision. Whose key has nobody ahead of it owns the line; the creation revision of that key is its fencing token. The
others wait for the one just ahead of them, so that one departure wakes one contender.

A contender decides by a read that is guarded by its own key, *after* every wait: its lease may have expired while it
waited, and the predecessor's key then vanished for somebody else's sake (etcd 3.4.3's lock believed that it held).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from quorumd.commands import Compare, DeleteRange, Put, Range, RangeResult, SimpleOp, Txn, TxnResult
from quorumd.errors import LeaseNotFound, QuorumdError, Timeout
from quorumd.limits import CLIENT_TIMEOUT_S, SECOND, SESSION_GLANCE, SESSION_RETRY
from quorumd.recipes.effects import TRANSIENT, Pause, Script, clock, found, news, transact
from quorumd.recipes.errors import NotAcquired, NotHeld, SessionLost
from quorumd.recipes.fencing import Token
from quorumd.recipes.keys import end_of
from quorumd.recipes.lease import Lease
from quorumd.types import Nanoseconds

ATTEMPT: Final = int(CLIENT_TIMEOUT_S * SECOND)
"""The client repeats what was lost; so long it may try before the lease is looked at again."""


@dataclass(frozen=True, slots=True)
class Line:
    """`own`: the prefix under which a contender stands. `ahead`: the prefix of those whom it waits for."""

    own: bytes
    ahead: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """A contender's key, when it was created, and who was just ahead of it at `seen`; None: nobody."""

    key: bytes
    created: int
    seen: int
    predecessor: bytes | None

    @property
    def token(self) -> Token:
        """The fencing token of the owner, once this is the first place."""
        return Token(self.created, self.key)

    @property
    def guard(self) -> Compare:
        """Holds as long as the contender stands there."""
        return self.token.guard()


def deadline(now: Nanoseconds, timeout: float | None) -> Nanoseconds | None:
    """`timeout` seconds from `now`; None: never. Raises ValueError for a negative one."""
    if timeout is None:
        return None
    if not timeout >= 0:
        raise ValueError(f"timeout must not be negative, but is {timeout!r} seconds")
    return now + int(timeout * SECOND)


def attempt_until(lease: Lease | None, now: Nanoseconds, until: Nanoseconds | None) -> Nanoseconds:
    """The deadline of one attempt that begins now: then it is time to look at the lease, or at the clock, again."""
    limit = now + ATTEMPT if until is None else min(now + ATTEMPT, until)
    return limit if lease is None else min(limit, lease.safe_until)


@contextmanager
def in_time() -> Iterator[None]:
    """What kept the cluster from being reached until the time was over is raised as NotAcquired."""
    try:
        yield
    except TRANSIENT as error:
        raise NotAcquired("the cluster could not be reached in time") from error


def persist(
    lease: Lease | None, txn: Txn, until: Nanoseconds | None, *, unsure: list[bool] | None = None
) -> Script[TxnResult]:
    """Performs a transaction that may be repeated, through whatever passes. `unsure` grows if it was repeated.

    At `until` raises the last attempt's error (one of TRANSIENT); SessionLost once the lease cannot be relied on.
    """
    failure: QuorumdError = Timeout("the time was over before it was tried")
    while True:
        now = yield from clock()
        if lease is not None:
            lease.require(now)
        if until is not None and now >= until:
            raise failure
        limit = attempt_until(lease, now, until)
        try:
            return (yield from transact(txn, limit))
        except LeaseNotFound as error:
            if lease is None:
                raise
            lease.lose("the cluster ended the lease")
            raise SessionLost(lease.lost) from error
        except TRANSIENT as error:
            failure = error
            if unsure is not None:
                unsure.append(True)
            yield Pause(min(now + SESSION_RETRY, limit))


def enter(
    lease: Lease, line: Line, value: bytes, until: Nanoseconds | None, *, wait: bool = True
) -> Script[Place | None]:
    """Takes the last place of the line; without `wait` only if it is the first as well, or None.

    On any error the key, if there is one, is left to the lease's errands.
    """
    key = line.own + lease.contender()
    conditions = [Compare.create_revision(key, "=", 0)]
    if not wait:
        conditions.append(Compare.create_revision(line.ahead, "=", 0, end_of(line.ahead)))
    try:
        entering = Txn(conditions, [_last_of(line), Put(key, value, lease.id)], [Range(key)])
        result = yield from persist(lease, entering, until)
        if result.succeeded:
            return Place(key, result.revision, result.revision, _only(found(result, 0)))
        mine = found(result, 0).kvs  # an earlier transmission's, for nobody else puts this key
        if not mine:
            return None
        return (yield from look(lease, line, Place(key, mine[0].create_revision, 0, None), until))
    except BaseException:
        lease.drop(key)
        raise


def look(lease: Lease, line: Line, place: Place, until: Nanoseconds | None) -> Script[Place]:
    """The place as it is now. Raises SessionLost if the contender's key is gone."""
    result = yield from persist(lease, Txn([place.guard], [_last_of(line, place.created - 1)]), until)
    if not result.succeeded:
        raise SessionLost("the contender's key is gone, and with it its place in the line")
    return replace(place, seen=result.revision, predecessor=_only(found(result, 0)))


def _last_of(line: Line, created: int = 0) -> Range:
    """Reads who came last; with `created`, of those who came at that revision or before."""
    return Range(
        line.ahead, end_of(line.ahead), limit=1, keys_only=True, sort_target="create", order="descend",
        max_create_revision=created, uncounted=True,
    )


def _only(last: RangeResult) -> bytes | None:
    return last.kvs[0].key if last.kvs else None


def await_turn(lease: Lease, line: Line, place: Place, until: Nanoseconds | None) -> Script[Place]:
    """Waits until nobody is ahead. On any error the key is left to the lease's errands: the place is given up.

    Raises NotAcquired at `until`, SessionLost when the lease, or the key, is lost.
    """
    try:
        while place.predecessor is not None:
            yield from await_change(lease, place.predecessor, b"", place.seen, until)
            place = yield from look(lease, line, place, until)
        # The read that found nobody ahead may have been answered long ago: this process may have stood still since.
        lease.require((yield from clock()))
        return place
    except BaseException:
        lease.drop(place.key)
        raise


def await_change(lease: Lease, key: bytes, end: bytes, after: int, until: Nanoseconds | None) -> Script[None]:
    """Returns once something of [key, end) has changed since revision `after`, or may have.

    Raises NotAcquired at `until`, SessionLost when the lease is lost.
    """
    if not (yield from changed(lease, key, end, after, until)):
        raise NotAcquired("not acquired in the time given")


def changed(lease: Lease | None, key: bytes, end: bytes, after: int, until: Nanoseconds | None) -> Script[bool]:
    """Waits until something of [key, end) has changed since revision `after`, or may have; False: `until` came first.

    Looks at the lease, if there is one, at least every SESSION_GLANCE: no thread has to wake another when it is lost.
    """
    while True:
        now = yield from clock()
        limit = until
        if lease is not None:
            lease.require(now)
            limit = min(now + SESSION_GLANCE, attempt_until(lease, now, until))
        if until is not None and now >= until:
            return False
        events = yield from news(key, end, after, limit)
        if events or events is None:
            return True


def leave(lease: Lease, token: Token, until: Nanoseconds | None = None, also: Sequence[SimpleOp] = ()) -> Script[None]:
    """Deletes the owner's key, and only if it is still that owner's. Raises NotHeld if it was gone already.

    When the cluster cannot be reached in time, the error says so and the key is left to the lease's errands.
    """
    repeated: list[bool] = []
    try:
        leaving = Txn([token.guard()], [DeleteRange(token.key), *also])
        result = yield from persist(lease, leaving, until, unsure=repeated)
    except BaseException:
        lease.drop(token.key)
        raise
    if not result.succeeded and not repeated:
        raise NotHeld("it was lost before it was released: the key that stood for it was gone")
