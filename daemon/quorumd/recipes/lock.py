"""Locks: fair, with fencing tokens. One object is for one thread or task at a time; make as many as there are users."""

from typing import Final

from quorumd.commands import Txn
from quorumd.recipes import line as lines
from quorumd.recipes.effects import Script, clock, transact
from quorumd.recipes.errors import NotAcquired, NotHeld
from quorumd.recipes.fencing import Token
from quorumd.recipes.keys import prefix_of
from quorumd.recipes.lease import Lease
from quorumd.recipes.line import Line
from quorumd.types import Nanoseconds

FREE: Final = "free"
BUSY: Final = "acquiring"
HELD: Final = "held"


class Owner:
    """Something that one contender at a time owns, and that is lost with the session.

    Subclasses say how it is taken (`_take`). Invariant: `token` is not None exactly in the state HELD.
    """

    def __init__(self, lease: Lease, *, reentrant: bool = False) -> None:
        self.lease = lease
        self.reentrant = reentrant
        self.token: Token | None = None
        self._state = FREE
        self._depth = 0

    def acquire(self, timeout: float | None = None) -> Script[Token]:
        """Waits for its turn; returns the fencing token. timeout: seconds, None: as long as the session lives; 0: as
        try_acquire().

        Raises NotAcquired when the time is over, SessionLost when the session is; nothing is held then. Raises
        RuntimeError if this object holds already and is not re-entrant.
        """
        token = yield from self.try_acquire() if timeout == 0 else self._acquire(timeout, patient=True)
        if token is None:
            raise NotAcquired("not acquired in the time given")
        return token

    def try_acquire(self, timeout: float = 5.0) -> Script[Token | None]:
        """Acquires it if nobody holds it or waits for it; None otherwise. timeout: seconds, to reach the cluster."""
        return (yield from self._acquire(timeout, patient=False))

    def _acquire(self, timeout: float | None, *, patient: bool) -> Script[Token | None]:
        now = yield from clock()
        if self._state == HELD and self.reentrant and self.token is not None:
            if not self.holds(now):
                raise NotHeld("it was lost, and is to be released as often as it was acquired")
            self._depth += 1
            return self.token
        if self._state != FREE:
            raise RuntimeError(f"this object is {self._state} already; one object is for one user at a time")
        self._state = BUSY
        try:
            with lines.in_time():
                self.token = yield from self._take(lines.deadline(now, timeout), patient)
        finally:
            self._state, self._depth = (FREE, 0) if self.token is None else (HELD, 1)
        return self.token

    def _take(self, until: Nanoseconds | None, patient: bool) -> Script[Token | None]:
        raise NotImplementedError

    def release(self, timeout: float | None = None) -> Script[None]:
        """Gives it up. Raises NotHeld if it is not held, or was lost before: what was done since was not protected.

        When the cluster cannot be reached within `timeout` seconds (None: the session's life) the error says so, and
        the session goes on trying in the background.
        """
        if self.token is None:
            raise NotHeld("it is not held by this object")
        until = lines.deadline((yield from clock()), timeout)
        self._depth -= 1
        if self._depth:
            return
        token, self.token, self._state = self.token, None, FREE
        yield from lines.leave(self.lease, token, until)

    def forget(self) -> None:
        """It is lost, and there is nobody to tell: the object is free again."""
        self.token, self._state, self._depth = None, FREE, 0

    def holds(self, now: Nanoseconds) -> bool:
        """Whether it is held, as far as this process can tell without asking anybody. See `confirm`, and tokens."""
        return self.token is not None and self.lease.alive(now)

    def confirm(self, timeout: float | None = None) -> Script[bool]:
        """Asks the cluster whether it is held: true at some moment of the call, and perhaps no longer."""
        if self.token is None:
            return False
        until = lines.deadline((yield from clock()), timeout)
        return (yield from transact(Txn([self.token.guard()]), until)).succeeded


class Lock(Owner):
    """A mutual exclusion lock; whoever asked first has it first.

    name: any bytes or str; all who use it contend. value: stored in the contender's key, for whoever looks.
    reentrant: whether this object may acquire again what it holds; it then releases as often.
    """

    def __init__(self, lease: Lease, name: bytes | str, *, reentrant: bool = False, value: bytes = b"") -> None:
        super().__init__(lease, reentrant=reentrant)
        self.line = self._line(name)
        self.value = value

    def _line(self, name: bytes | str) -> Line:
        prefix = prefix_of("lock", name)
        return Line(prefix, prefix)

    def _take(self, until: Nanoseconds | None, patient: bool) -> Script[Token | None]:
        place = yield from lines.enter(self.lease, self.line, self.value, until, wait=patient)
        if place is None:
            return None
        place = yield from lines.await_turn(self.lease, self.line, place, until)
        return place.token


class WriteLock(Lock):
    """The exclusive side of a read-write lock: waits for everybody who came before."""

    def _line(self, name: bytes | str) -> Line:
        prefix = prefix_of("rwlock", name)
        return Line(prefix + b"w/", prefix)


class ReadLock(Lock):
    """The shared side of a read-write lock: waits for the writers who came before, so that no writer starves."""

    def _line(self, name: bytes | str) -> Line:
        prefix = prefix_of("rwlock", name)
        return Line(prefix + b"r/", prefix + b"w/")
