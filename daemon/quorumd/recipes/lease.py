"""What one process knows of its lease, and the script that keeps it alive. No thread and no clock here.

The cluster ends a lease no earlier than a TTL after it received the last keep-alive, so no earlier than a TTL after
that keep-alive was *sent*. A margin before that, by this process's clock, the lease counts as lost here: whoever it
protected has then stopped, or knows that it must, before anybody else can hold what it held, as far as the two clocks
run at like speed over one TTL and this process gets to run. (When it does not, fencing tokens remain.)
"""

import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from quorumd.commands import (
    Compare,
    DeleteRange,
    LeaseGrant,
    LeaseGrantResult,
    LeaseKeepAlive,
    LeaseKeepAliveResult,
    LeaseRevoke,
    Txn,
)
from quorumd.errors import ConnectionLost, LeaseNotFound, QuorumdError
from quorumd.limits import (
    MILLISECOND,
    MIN_LEASE_TTL_MS,
    SESSION_ATTEMPT,
    SESSION_KEEP_ALIVES,
    SESSION_MARGIN_PARTS,
    SESSION_RETRY,
)
from quorumd.recipes.effects import TRANSIENT, Call, Pause, Script, clock, expect
from quorumd.recipes.errors import SessionLost
from quorumd.types import Nanoseconds

SWEEP_BATCH: Final = 64  # errands done before the next look at the clock


class Lease:
    """A lease of this process. Once `lost` is not empty it stays so.

    Invariant: while `lost` is empty and the clock is below `safe_until`, the cluster has the lease, clocks permitting.
    """

    def __init__(self, lease_id: int, ttl: Nanoseconds, sent: Nanoseconds) -> None:
        self.id = lease_id
        self.ttl = ttl
        self.lost = ""
        """Why it is lost; empty: it is not known to be."""
        self.closed = False
        """Whether its owner ended it, rather than lost it."""
        self.revoked = False
        """Whether the cluster said, after its owner ended it, that it is gone."""
        self.sent = sent
        """When the last request left that is known to have begun the TTL anew."""
        self.errands: dict[Compare, None] = {}
        """Each is about one key that nobody wants any more, and that may exist: to be deleted if the compare holds."""
        self.nudge: Callable[[], None] = lambda: None
        """Set by whoever drives `keep`: called when there are errands, or it is lost, from any thread or task."""
        self._numbers = itertools.count(1)

    @property
    def safe_until(self) -> Nanoseconds:
        """By when it is taken for lost unless another keep-alive is confirmed: a margin before the TTL is over."""
        return self.sent + self.ttl - self.ttl // SESSION_MARGIN_PARTS

    def confirmed(self, sent: Nanoseconds, ttl: Nanoseconds, now: Nanoseconds) -> None:
        """A keep-alive that left at `sent` was answered by `now`: too late if it was not alive then."""
        if self.alive(now):
            self.sent, self.ttl = max(self.sent, sent), ttl

    def alive(self, now: Nanoseconds) -> bool:
        """Whether what it protects is certainly still held, as far as clocks allow."""
        return not self.lost and now < self.safe_until

    def lose(self, why: str) -> None:
        """From now on it is lost, for the first reason given."""
        self.lost = self.lost or why
        self.nudge()

    def close(self) -> bool:
        """Its owner ends it; whether it is to be revoked: it was not lost before, and is not revoked yet."""
        self.closed = self.closed or not self.lost
        self.lose("the session was closed")
        return self.closed and not self.revoked

    def require(self, now: Nanoseconds) -> None:
        """Raises SessionLost unless it is alive."""
        if not self.lost and now >= self.safe_until:
            self.lose("no keep-alive was confirmed in time")
        if self.lost:
            raise SessionLost(self.lost)

    def contender(self) -> bytes:
        """The last part of a key that is this lease's and that nothing had or will have again."""
        return b"%016x-%x" % (self.id, next(self._numbers))

    def drop(self, key: bytes, value: bytes | None = None) -> None:
        """Has `key`, if it is this lease's, deleted by the keep-alive's script once the cluster can be reached.

        value: only if it has this value, which nobody else puts; for a key that others of this lease put as well.
        """
        mine = Compare.lease(key, "=", self.id) if value is None else Compare.value(key, "=", value)
        self.errands[mine] = None
        self.nudge()


def grant(ttl: Nanoseconds, until: Nanoseconds) -> Script[Lease]:
    """A new lease. Raises what the client raises when the cluster cannot be reached by `until`."""
    # The TTL counts from when the grant was sent: an answer that took longer than this is of little use.
    patience = max(ttl, MIN_LEASE_TTL_MS * MILLISECOND) // SESSION_KEEP_ALIVES
    while True:
        sent = yield from clock()
        attempt = min(until, sent + patience)
        try:
            granted = expect(LeaseGrantResult, (yield Call(LeaseGrant(-(-ttl // MILLISECOND)), attempt)))
        except TRANSIENT:
            # What may have been granted, and nobody knows by name, expires.
            if sent + SESSION_RETRY >= until:
                raise
            yield Pause(sent + SESSION_RETRY)
        else:
            return Lease(granted.id, granted.ttl_ms * MILLISECOND, sent)


def keep(lease: Lease) -> Script[None]:
    """Keeps the lease alive and does its errands, until it is lost. Returns by `lease.safe_until` at the latest."""
    retry_at: Nanoseconds = 0
    while not lease.lost:
        now = yield from clock()
        if now >= lease.safe_until:
            lease.lose("no keep-alive was confirmed in time")
            return
        due = max(lease.sent + lease.ttl // SESSION_KEEP_ALIVES, retry_at)
        if now >= due:
            yield from _renew(lease, now)
            retry_at = now + min(SESSION_RETRY, lease.ttl // SESSION_KEEP_ALIVES)
        elif lease.errands and now >= retry_at:
            if not (yield from sweep(lease, _attempt(lease, now))):
                retry_at = now + min(SESSION_RETRY, lease.ttl // SESSION_KEEP_ALIVES)
        else:
            until = min(due, lease.safe_until)
            waiting = lease.errands and retry_at > now
            yield Pause(min(until, retry_at) if waiting else until, interruptible=not waiting)


def _attempt(lease: Lease, now: Nanoseconds) -> Nanoseconds:
    """Until when a keep-alive, or all errands of a batch, may take: neither may hold off the next keep-alive."""
    return min(lease.safe_until, now + min(lease.ttl // SESSION_KEEP_ALIVES, SESSION_ATTEMPT))


def _renew(lease: Lease, now: Nanoseconds) -> Script[None]:
    try:
        kept = expect(LeaseKeepAliveResult, (yield Call(LeaseKeepAlive(lease.id), _attempt(lease, now))))
    except LeaseNotFound:
        lease.lose("the cluster ended the lease")
    except ConnectionLost:
        lease.lose("the client was closed")
    except QuorumdError:
        return  # it may have been renewed, but only an answer counts; nobody said that it ended either
    else:
        lease.confirmed(now, kept.ttl_ms * MILLISECOND, (yield from clock()))


def sweep(lease: Lease, until: Nanoseconds) -> Script[bool]:
    """Deletes the keys that nobody wants; whether none is left. What fails is tried again at the next call."""
    for mine in tuple(itertools.islice(lease.errands, SWEEP_BATCH)):
        try:
            yield Call(Txn([mine], [DeleteRange(mine.key)]), until)
        except QuorumdError:
            return False  # still an errand
        lease.errands.pop(mine, None)
    return not lease.errands


def revoke(lease: Lease, until: Nanoseconds) -> Script[None]:
    """Ends the lease, and with it every key that is attached to it. Raises what the client raises."""
    lease.close()
    with suppress(LeaseNotFound):  # it ended before
        yield Call(LeaseRevoke(lease.id), until)
    lease.revoked = True
