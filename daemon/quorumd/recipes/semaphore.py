"""A semaphore: at most `permits` owners at a time, in the order in which they asked.

Two prefixes: those who wait stand in a line, and only its first may become an owner, by deleting its key there and
putting one among the owners in one transaction. Nobody else can add an owner meanwhile, so a count that was read before
can only have fallen: no count has to be guarded. Only the first of the line watches the owners.
"""

from quorumd.commands import DeleteRange, Put, Range, Txn
from quorumd.recipes import line as lines
from quorumd.recipes.effects import Script, clock, found
from quorumd.recipes.errors import SessionLost
from quorumd.recipes.fencing import Token
from quorumd.recipes.keys import end_of, prefix_of
from quorumd.recipes.lease import Lease
from quorumd.recipes.line import Line, Place
from quorumd.recipes.lock import Owner
from quorumd.types import Nanoseconds


class Semaphore(Owner):
    """All users of a name must give the same number of `permits`: each goes by its own.

    Tokens of owners at one time differ, and each is higher than that of whoever owned before it.
    """

    def __init__(self, lease: Lease, name: bytes | str, permits: int, *, value: bytes = b"") -> None:
        super().__init__(lease)
        if permits < 1:
            raise ValueError(f"a semaphore has at least one permit, not {permits}")
        prefix = prefix_of("semaphore", name)
        self.permits = permits
        self.value = value
        self._line = Line(prefix + b"w/", prefix + b"w/")
        self._owners = prefix + b"o/"

    def _take(self, until: Nanoseconds | None, patient: bool) -> Script[Token | None]:
        place = yield from lines.enter(self.lease, self._line, self.value, until, wait=patient)
        if place is None:
            return None
        place = yield from lines.await_turn(self.lease, self._line, place, until)
        owned = self._owners + place.key[len(self._line.own) :]
        try:
            return (yield from self._become_owner(place, owned, until, patient))
        except BaseException:
            self.lease.drop(place.key)
            raise

    def _become_owner(
        self, place: Place, owned: bytes, until: Nanoseconds | None, patient: bool
    ) -> Script[Token | None]:
        first, end = self._owners, end_of(self._owners)
        while True:
            counting = Txn([place.guard], [Range(first, end, count_only=True)])
            counted = yield from lines.persist(self.lease, counting, until)
            if not counted.succeeded:
                raise SessionLost("the contender's key is gone, and with it its place in the line")
            if found(counted, 0).count < self.permits:
                return (yield from self._move(place, owned, until))
            if not patient:
                yield from lines.leave(self.lease, place.token, until)
                return None
            yield from lines.await_change(self.lease, first, end, counted.revision, until)

    def _move(self, place: Place, owned: bytes, until: Nanoseconds | None) -> Script[Token]:
        move = Txn([place.guard], [DeleteRange(place.key), Put(owned, self.value, self.lease.id)], [Range(owned)])
        try:
            moved = yield from lines.persist(self.lease, move, until)
            self.lease.require((yield from clock()))
        except BaseException:
            self.lease.drop(owned)
            raise
        if moved.succeeded:
            return Token(moved.revision, owned)
        there = found(moved, 0).kvs  # of an earlier transmission of the same
        if not there:
            raise SessionLost("the contender's key is gone, and with it its place in the line")
        return Token(there[0].create_revision, owned)
