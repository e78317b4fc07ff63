"""Queues whose items are each given to one consumer.

    PREFIX i/ITEM    an item; ITEM is PRIORITY "/" (priority queues only) REVISION "-" PRODUCER "-" NUMBER
    PREFIX h/ITEM    somebody holds the item; attached to its session's lease

REVISION is the store's at some moment of the put, so the order of the keys is the order of all puts that did not
overlap; finding the first item costs the same whatever the queue's length.

What is promised. `take` removes the item in one transaction that compares and deletes, and that the client repeats at
most to one execution: no two consumers get one item. A consumer that dies after `take`, or whose `take` ended with an
Indefinite error, may have removed an item that nobody has. `hold` gives the item with a lease instead, and `ack`
removes it: a consumer that dies before `ack` gives it back when its lease ends, so no item is lost, and one may be
given twice; its token (higher at each hold) guards what is done with it. So may one whose `ack` was interrupted.
"""

import itertools
from dataclasses import dataclass
from typing import Final

from quorumd.commands import Compare, DeleteRange, KeyValue, LeaseKeepAlive, Put, Range, Txn
from quorumd.errors import LeaseNotFound, QuorumdError, Rejected
from quorumd.recipes import line as lines
from quorumd.recipes.effects import TRANSIENT, Call, Script, clock, found, insist, read, transact
from quorumd.recipes.errors import NotHeld, SessionLost
from quorumd.recipes.fencing import Token
from quorumd.recipes.keys import end_of, prefix_of
from quorumd.recipes.lease import Lease
from quorumd.types import Nanoseconds

PAGE: Final = 16
"""Items looked at at a time; more only while all of these are held."""
MAX_PRIORITY: Final = (1 << 64) - 1


class Queue:
    """First in, first out. producer: bytes without "/" that no other object, of no process, has: tells puts apart."""

    kind = "queue"

    def __init__(self, name: bytes | str, producer: bytes) -> None:
        prefix = prefix_of(self.kind, name)
        self.items, self.holds = prefix + b"i/", prefix + b"h/"
        self.producer = producer
        self._numbers = itertools.count(1)

    def put(self, value: bytes, timeout: float | None = None) -> Script[None]:
        """Appends an item. After an Indefinite error it may have been appended; putting again may append twice."""
        yield from self._put(b"", value, timeout)

    def _put(self, rank: bytes, value: bytes, timeout: float | None) -> Script[None]:
        until = lines.deadline((yield from clock()), timeout)
        view = yield from read(Range(self.items, count_only=True), until)
        key = self.items + rank + b"%016x-%s-%x" % (view.revision, self.producer, next(self._numbers))
        absent = Compare.create_revision(key, "=", 0)
        if not (yield from transact(Txn([absent], [Put(key, value)]), until)).succeeded:
            raise Rejected("another object puts as the same producer")

    def size(self, timeout: float | None = None) -> Script[int]:
        """How many items there are, those that are held included."""
        until = lines.deadline((yield from clock()), timeout)
        return (yield from read(Range(self.items, end_of(self.items), count_only=True), until)).count

    def take(self, timeout: float | None = 0.0) -> Script[bytes | None]:
        """Removes the first item that nobody holds and returns its value; None if none came within `timeout` seconds.

        timeout None: however long it takes; 0: one look, within the client's default timeout. Raises what the client
        raises if no look succeeds in that time, or the removal, which has the client's default timeout; after an
        Indefinite error an item may have been removed.
        """
        until = lines.deadline((yield from clock()), timeout)
        while (item := (yield from self._await_first(until))) is not None:
            taken = yield from transact(Txn(self._free(item), [Range(item.key), DeleteRange(item.key)]))
            if taken.succeeded:
                return found(taken, 0).kvs[0].value
        return None

    def hold(self, lease: Lease, timeout: float | None = 0.0) -> Script["Held | None"]:
        """Gives the first item that nobody holds to the lease's owner, until `ack`, `release` or the lease's end.

        None if none came within `timeout` seconds (None: as long as the session lives). Once one is found it tries to
        hold it for as long as the session lives. Raises SessionLost, or as `take` when no look succeeded.
        """
        until = lines.deadline((yield from clock()), timeout)
        while (item := (yield from self._await_first(until, lease))) is not None:
            mark, owner = self._mark(item.key), lease.contender()
            try:
                held = yield from self._hold(lease, item, mark, owner)
                lease.require((yield from clock()))
            except BaseException:
                lease.drop(mark, owner)  # the mark may be another hold's of this session, which stays
                raise
            if held is not None:
                return held
        return None

    def _hold(self, lease: Lease, item: KeyValue, mark: bytes, owner: bytes) -> Script["Held | None"]:
        """Puts the mark, which says `owner`, and reads the item; None if somebody else was first."""
        # All ranges of a transaction share one reply, which an item may fill: it is the only one in its branch.
        holding = Txn(self._free(item), [Put(mark, owner, lease.id), Range(item.key)], [Range(mark)])
        result = yield from lines.persist(lease, holding, None)
        if result.succeeded:
            return Held(lease, found(result, 1).kvs[0], Token(result.revision, mark))
        marked = found(result, 0).kvs
        if not marked or marked[0].value != owner:
            return None
        token = Token(marked[0].create_revision, mark)  # an earlier transmission put it
        reading = yield from lines.persist(lease, Txn([token.guard()], [Range(item.key)]), None)
        if not reading.succeeded:
            raise SessionLost("the hold is gone, and with it its lease")
        return Held(lease, found(reading, 0).kvs[0], token)

    def _free(self, item: KeyValue) -> list[Compare]:
        """The item is there, and nobody holds it."""
        held = Compare.create_revision(self._mark(item.key), "=", 0)
        return [Compare.create_revision(item.key, "=", item.create_revision), held]

    def _mark(self, item: bytes) -> bytes:
        return self.holds + item[len(self.items) :]

    def _await_first(self, until: Nanoseconds | None, lease: Lease | None = None) -> Script[KeyValue | None]:
        """The first item that nobody holds, once there is one; None when the time is over. At least one look."""
        prefix = self.items[:-2]
        looked = False
        while True:
            try:
                free, revision = yield from insist(lambda limit: self._look(limit, lease), until)
            except TRANSIENT:
                if looked:
                    return None
                raise
            if free is not None:
                return free
            looked = True
            if not (yield from lines.changed(lease, prefix, end_of(prefix), revision, until)):
                return None

    def _look(self, until: Nanoseconds | None, lease: Lease | None) -> Script[tuple[KeyValue | None, int]]:
        """The first item that nobody holds, without its value, and the revision of the first look."""
        key, end, seen = self.items, end_of(self.items), 0
        if lease is not None:
            now = yield from clock()
            lease.require(now)
            until = lines.attempt_until(lease, now, until)
        while True:
            items = Range(key, end, PAGE, keys_only=True, uncounted=True)
            held = Range(self.holds + key[len(self.items) :], end_of(self.holds), keys_only=True, uncounted=True)
            result = yield from transact(Txn([], [items, held]), until)
            seen = seen or result.revision
            marks = {kv.key for kv in found(result, 1).kvs}
            page = found(result, 0)
            free = next((kv for kv in page.kvs if self._mark(kv.key) not in marks), None)
            if free is not None or not page.more:
                return free, seen
            key = page.kvs[-1].key + b"\0"


class PriorityQueue(Queue):
    """The lowest priority first; first in, first out among equals."""

    kind = "priorityqueue"

    def put_at(self, priority: int, value: bytes, timeout: float | None = None) -> Script[None]:
        """Adds an item. priority: 0 to 2**64 - 1, lower ones come first. Errors as of Queue.put."""
        if not 0 <= priority <= MAX_PRIORITY:
            raise ValueError(f"the priority is {priority}; it must be an unsigned 64-bit number")
        yield from self._put(b"%016x/" % priority, value, timeout)

    def put(self, value: bytes, timeout: float | None = None) -> Script[None]:
        """Adds an item behind all others: of the highest priority number."""
        yield from self.put_at(MAX_PRIORITY, value, timeout)


@dataclass(frozen=True, slots=True)
class Held:
    """An item that is held. `token.guard()` holds as long as it is."""

    lease: Lease
    item: KeyValue
    token: Token

    @property
    def value(self) -> bytes:
        """What was put."""
        return self.item.value

    def ack(self, timeout: float | None = None) -> Script[None]:
        """Removes the item for good. Raises NotHeld if the hold was lost: the item may be given to others again.

        After an Indefinite error (within `timeout` seconds the cluster was not reached) it may be called again. If
        anything else interrupts it, a cancellation say, the item is given back in the background unless it was removed.
        """
        until = lines.deadline((yield from clock()), timeout)
        try:
            yield from self._end([DeleteRange(self.item.key), DeleteRange(self.token.key)], until, acked=True)
        except QuorumdError:
            raise
        except BaseException:
            self._give_back()
            raise

    def release(self, timeout: float | None = None) -> Script[None]:
        """Gives it back, to its place in the queue. Raises NotHeld if the hold was lost.

        When the cluster cannot be reached within `timeout` seconds (None: the session's life) the error says so, and
        the session goes on trying in the background, as it does when this is interrupted.
        """
        until = lines.deadline((yield from clock()), timeout)
        try:
            yield from self._end([DeleteRange(self.token.key)], until, acked=False)
        except BaseException:
            self._give_back()
            raise

    def _give_back(self) -> None:
        """Leaves it to the lease's errands: nobody would end the hold otherwise while the session lives."""
        self.lease.errands[self.token.guard()] = None  # this hold's mark, and no later one's under the same key
        self.lease.nudge()

    def _end(self, ops: list[DeleteRange], until: Nanoseconds | None, *, acked: bool) -> Script[None]:
        ending = Txn([self.token.guard()], ops, [Range(self.item.key)])
        result = yield from lines.persist(self.lease, ending, until)
        if result.succeeded:
            return
        # While the lease lives only this holder ends the hold: an earlier transmission, or call, did. A lease that
        # lives now lived all the time. An item that was given back is anybody's, and need not be there any more.
        left = any(kv.create_revision == self.item.create_revision for kv in found(result, 0).kvs)
        if (acked and left) or not (yield from self._lease_lives(until)):
            raise NotHeld("the hold was lost")

    def _lease_lives(self, until: Nanoseconds | None) -> Script[bool]:
        try:
            yield Call(LeaseKeepAlive(self.lease.id), until)
        except LeaseNotFound:
            return False
        return True
