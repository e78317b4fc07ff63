"""Barriers: one that holds everybody up until it is taken away, and one that a group enters and leaves together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from quorumd.commands import Compare, DeleteRange, KeyValue, Put, Range, SimpleOp, Txn
from quorumd.limits import MAX_TXN_OPS
from quorumd.recipes import line as lines
from quorumd.recipes.effects import TRANSIENT, Script, clock, found, insist, read, transact
from quorumd.recipes.errors import NotHeld, SessionLost
from quorumd.recipes.keys import end_of, prefix_of
from quorumd.recipes.lease import Lease
from quorumd.types import Nanoseconds


class Barrier:
    """One key: while it is there, `wait` waits. It belongs to nobody, and stays until it is removed."""

    def __init__(self, name: bytes | str) -> None:
        self.key = prefix_of("barrier", name) + b"up"

    def create(self, timeout: float | None = None) -> Script[bool]:
        """Puts the barrier up; whether it was not up yet. timeout: seconds, None: the client's default."""
        until = lines.deadline((yield from clock()), timeout)
        absent = Compare.create_revision(self.key, "=", 0)
        return (yield from transact(Txn([absent], [Put(self.key, b"")]), until)).succeeded

    def remove(self, timeout: float | None = None) -> Script[bool]:
        """Takes it away, and lets everybody through who waits; whether it was up."""
        until = lines.deadline((yield from clock()), timeout)
        there = Compare.create_revision(self.key, ">", 0)
        return (yield from transact(Txn([there], [DeleteRange(self.key)]), until)).succeeded

    def wait(self, timeout: float | None = None) -> Script[bool]:
        """Waits until it is taken away, or is not up; whether that came within `timeout` seconds (None: however long).

        It may be up again when this returns. False too if the cluster could not be reached in that time; with 0 seconds
        it is asked once, within the client's default timeout.
        """
        until = lines.deadline((yield from clock()), timeout)
        created = 0  # the barrier that is waited for: another one stands where it was taken away
        while True:
            try:
                view = yield from insist(lambda limit: read(Range(self.key, keys_only=True), limit), until)
            except TRANSIENT:
                return False
            if not view.kvs or created not in (0, view.kvs[0].create_revision):
                return True
            created = view.kvs[0].create_revision
            if not (yield from lines.changed(None, self.key, b"", view.revision, until)):
                return False


@dataclass(frozen=True, slots=True)
class _View:
    """All of a double barrier at one revision."""

    revision: int
    gate: int
    """The gate's mod revision: whoever enters or leaves moves it, and changes nothing if somebody else did before."""
    opened: int
    """When the group was complete; 0: it is not. Who came in later than this is of no round yet."""
    members: tuple[KeyValue, ...]

    def has(self, key: bytes) -> bool:
        return any(kv.key == key for kv in self.members)

    def last_of(self, opened: int) -> bytes | None:
        """Who came last of those who are still in from the round that was complete at `opened`."""
        left = [kv for kv in self.members if kv.create_revision <= opened]
        return max(left, key=lambda kv: kv.create_revision).key if left else None


class DoubleBarrier:
    """`count` members enter together and leave together; whoever comes later waits for the next round.

    A member that dies, or whose time is over just as the group is complete, counts as having left. A group is complete
    when all are there at one moment; of one above 128, a member may go at that moment unnoticed. All must give the same
    `count`.
    """

    def __init__(self, lease: Lease, name: bytes | str, count: int) -> None:
        if count < 1:
            raise ValueError(f"a double barrier has at least one member, not {count}")
        prefix = prefix_of("doublebarrier", name)
        self.lease, self.count = lease, count
        self._gate, self._members, self._open = prefix + b"gate", prefix + b"in/", prefix + b"open"
        self._own: bytes | None = None
        self._opened = 0

    def enter(self, timeout: float | None = None) -> Script[None]:
        """Returns once `count` members are in. Raises NotAcquired in the end, or SessionLost; it is out then."""
        until = lines.deadline((yield from clock()), timeout)
        if self._own is not None:
            raise RuntimeError("this object is in already")
        own = self._members + self.lease.contender()
        with self._left_on_error(own):
            view = yield from self._come_in(own, until)
            while not view.opened:
                yield from lines.await_change(self.lease, self._open, b"", view.revision, until)
                view = yield from self._look(until)
                if not view.has(own):
                    raise SessionLost("the member's key is gone")
            self.lease.require((yield from clock()))
        self._own, self._opened = own, view.opened

    def _come_in(self, own: bytes, until: Nanoseconds | None) -> Script[_View]:
        while True:
            view = yield from self._look(until)
            if view.has(own):
                return view
            if view.opened and view.members:  # the round before is not over; its members leave, or die
                end = end_of(self._open)
                yield from lines.await_change(self.lease, self._members, end, view.revision, until)
                continue
            ops: list[SimpleOp] = [Put(self._gate, b""), Put(own, b"", self.lease.id)]
            there: list[Compare] = []
            if len(view.members) + 1 >= self.count:
                ops.append(Put(self._open, b""))
                # Who died or gave up since did not move the gate. A transaction has room for so many compares.
                seen = view.members[: MAX_TXN_OPS - 1]
                there = [Compare.create_revision(kv.key, "=", kv.create_revision) for kv in seen]
            elif view.opened:  # all members of the round before died
                ops.append(DeleteRange(self._open))
            yield from self._change(view, ops, until, there)

    def leave(self, timeout: float | None = None) -> Script[None]:
        """Leaves, and returns once all members of the round have left. Raises NotHeld if it is not in.

        Raises NotAcquired when the time is over; it has left then, or leaves as soon as the cluster can be reached, and
        does not know that everybody has.
        """
        until = lines.deadline((yield from clock()), timeout)
        own, self._own = self._own, None
        if own is None:
            raise NotHeld("this object is not in")
        with self._left_on_error(own):
            while (view := (yield from self._look(until))).has(own):
                alone = len(view.members) == 1
                after: list[SimpleOp] = [DeleteRange(self._open), DeleteRange(self._gate)]
                yield from self._change(view, [DeleteRange(own), *(after if alone else [Put(self._gate, b"")])], until)
            while (other := view.last_of(self._opened)) is not None:
                yield from lines.await_change(self.lease, other, b"", view.revision, until)
                view = yield from self._look(until)
            if view.opened == self._opened:  # the last one died, and could not take it away
                yield from self._change(view, [DeleteRange(self._open), DeleteRange(self._gate)], until)

    @contextmanager
    def _left_on_error(self, own: bytes) -> Iterator[None]:
        """On any error the member's key is left to the lease's errands; see lines.in_time for those that pass."""
        try:
            with lines.in_time():
                yield
        except BaseException:
            self.lease.drop(own)
            raise

    def _look(self, until: Nanoseconds | None) -> Script[_View]:
        members = Range(self._members, end_of(self._members), keys_only=True)
        result = yield from lines.persist(self.lease, Txn([], [Range(self._gate), Range(self._open), members]), until)
        gate, opened, inside = (found(result, position).kvs for position in range(3))
        return _View(
            result.revision, gate[0].mod_revision if gate else 0, opened[0].mod_revision if opened else 0, inside
        )

    def _change(
        self, view: _View, ops: Sequence[SimpleOp], until: Nanoseconds | None, also: Sequence[Compare] = ()
    ) -> Script[None]:
        """Changes what the view shows, if nobody did since, and `also` holds. The next look tells."""
        unchanged = Compare.mod_revision(self._gate, "=", view.gate)
        yield from lines.persist(self.lease, Txn([unchanged, *also], ops), until)
