"""The recipes for the blocking client. What each promises stands with its logic, in the module of its name.

    with Client.connect(endpoints) as client, Session(client) as session:
        with Lock(session, b"nightly/report") as lock:
            client.txn([lock.token.guard()], [Put(b"report", b"...")])
"""

import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from quorumd.client.sinceboot import since_boot
from quorumd.commands import KeyValue
from quorumd.errors import ConnectionLost
from quorumd.recipes import barrier, counter, election, lock, party, queue, semaphore
from quorumd.recipes.blocking import Face, Runner, blocking, giving_up
from quorumd.recipes.election import Leader
from quorumd.recipes.errors import NotHeld
from quorumd.recipes.exits import beside, parting
from quorumd.recipes.fencing import Token
from quorumd.recipes.party import Instance, Member
from quorumd.recipes.ports import BlockingClient
from quorumd.recipes.processes import OneProcess, ProducerPerProcess, new_producer
from quorumd.recipes.session import LOG, Session
from quorumd.recipes.view import View, follow


class Owner(Face[lock.Owner]):
    """What lock, semaphore and election share. As a context manager: acquired inside, within `timeout` seconds."""

    def __init__(self, session: Session, logic: lock.Owner, timeout: float | None) -> None:
        super().__init__(session.runner, logic)
        self.session = session
        self.timeout = timeout

    acquire = blocking(lock.Owner.acquire)
    try_acquire = blocking(lock.Owner.try_acquire)
    confirm = blocking(lock.Owner.confirm)

    def release(self, timeout: float | None = None) -> None:
        """As lock.Owner.release; raises NotHeld too if the session is lost, or another process's."""
        with parting(self._logic.forget):
            self._runner.run(self._logic.release(timeout))

    @property
    def token(self) -> Token:
        """The fencing token. Raises NotHeld unless it was acquired and not released; it may be lost all the same."""
        if self._logic.token is None:
            raise NotHeld("it is not held by this object")
        return self._logic.token

    def holds(self) -> bool:
        """Whether it is held, as far as this process can tell without asking anybody. See `confirm`, and `token`."""
        return self.session.alive and self._logic.holds(since_boot())

    def __enter__(self) -> Self:
        self.acquire(self.timeout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with beside(error):
            self.release()


class Lock(Owner):
    """See lock.Lock."""

    def __init__(
        self, session: Session, name: bytes | str, *, reentrant: bool = False, value: bytes = b"",
        timeout: float | None = None,
    ) -> None:
        super().__init__(session, lock.Lock(session.lease, name, reentrant=reentrant, value=value), timeout)


class ReadWriteLock:
    """`read` is shared, `write` is exclusive; both are locks as Lock, and first come is first served."""

    def __init__(self, session: Session, name: bytes | str, *, timeout: float | None = None) -> None:
        self.read = Owner(session, lock.ReadLock(session.lease, name), timeout)
        self.write = Owner(session, lock.WriteLock(session.lease, name), timeout)


class Semaphore(Owner):
    """See semaphore.Semaphore."""

    def __init__(
        self, session: Session, name: bytes | str, permits: int, *, value: bytes = b"", timeout: float | None = None
    ) -> None:
        super().__init__(session, semaphore.Semaphore(session.lease, name, permits, value=value), timeout)


class Observer(Face[election.Election]):
    """Watches an election; needs no session."""

    def __init__(self, client: BlockingClient, name: bytes | str) -> None:
        super().__init__(Runner(client), election.Election(name))

    leader = blocking(election.Election.leader)

    def observe(self) -> Iterator[Leader | None]:
        """See election.Election.observe."""
        return self._runner.stream(self._logic.observe())


class Election(Owner):
    """A candidate. As a context manager: leads inside. See election.Candidate; `campaign` and `resign` say it aloud."""

    def __init__(
        self, session: Session, name: bytes | str, value: bytes = b"", *, timeout: float | None = None
    ) -> None:
        super().__init__(session, election.Candidate(session.lease, name, value), timeout)
        self._observer = Observer(session.client, name)

    campaign = Owner.acquire
    resign = Owner.release
    proclaim = blocking(election.Candidate.proclaim)

    def leader(self, timeout: float | None = None) -> Leader | None:
        """Who leads now, this candidate or another."""
        return self._observer.leader(timeout)

    def observe(self) -> Iterator[Leader | None]:
        """See election.Election.observe."""
        return self._observer.observe()


class Barrier(Face[barrier.Barrier]):
    """See barrier.Barrier."""

    def __init__(self, client: BlockingClient, name: bytes | str) -> None:
        super().__init__(Runner(client), barrier.Barrier(name))

    create = blocking(barrier.Barrier.create)
    remove = blocking(barrier.Barrier.remove)
    wait = blocking(barrier.Barrier.wait)


class DoubleBarrier(Face[barrier.DoubleBarrier]):
    """See barrier.DoubleBarrier. As a context manager: everybody is inside together."""

    def __init__(self, session: Session, name: bytes | str, count: int, *, timeout: float | None = None) -> None:
        super().__init__(session.runner, barrier.DoubleBarrier(session.lease, name, count))
        self.timeout = timeout

    enter = blocking(barrier.DoubleBarrier.enter)
    leave = giving_up(barrier.DoubleBarrier.leave)

    def __enter__(self) -> Self:
        self.enter(self.timeout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with beside(error):
            self.leave(self.timeout)


class Counter(Face[counter.Counter]):
    """See counter.Counter."""

    def __init__(self, client: BlockingClient, name: bytes | str) -> None:
        super().__init__(Runner(client), counter.Counter(name))

    value = blocking(counter.Counter.value)
    add = blocking(counter.Counter.add)


class HeldItem(Face[queue.Held]):
    """An item that is held. As a context manager: acknowledged at the end, given back after an error."""

    ack = giving_up(queue.Held.ack)
    release = giving_up(queue.Held.release)

    @property
    def value(self) -> bytes:
        """What was put."""
        return self._logic.value

    @property
    def token(self) -> Token:
        """The fencing token: guards what is done with the item."""
        return self._logic.token

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with beside(error):
            if error is None:
                self.ack()
            else:
                self.release()


class _Queue(Face[queue.Queue]):
    """What both queues share."""

    def __init__(self, client: BlockingClient, logic: queue.Queue) -> None:
        super().__init__(Runner(client, ProducerPerProcess(logic)), logic)

    take = blocking(queue.Queue.take)
    size = blocking(queue.Queue.size)

    def hold(self, session: Session, timeout: float | None = 0.0) -> HeldItem | None:
        """See queue.Queue.hold."""
        held = session.runner.run(self._logic.hold(session.lease, timeout))
        return None if held is None else HeldItem(session.runner, held)


class Queue(_Queue):
    """See queue.Queue."""

    def __init__(self, client: BlockingClient, name: bytes | str) -> None:
        super().__init__(client, queue.Queue(name, new_producer()))

    put = blocking(queue.Queue.put)


class PriorityQueue(_Queue):
    """See queue.PriorityQueue: `put(priority, value)`, the lowest priority first."""

    def __init__(self, client: BlockingClient, name: bytes | str) -> None:
        super().__init__(client, queue.PriorityQueue(name, new_producer()))

    put = blocking(queue.PriorityQueue.put_at)


class Party(Face[party.Party]):
    """Who is there. Joining needs a session: see Membership."""

    def __init__(self, client: BlockingClient, name: bytes | str) -> None:
        super().__init__(Runner(client), party.Party(name))

    members = blocking(party.Party.members)

    def observe(self) -> Iterator[tuple[Member, ...]]:
        """See party.Party.observe."""
        return self._runner.stream(self._logic.observe())


class Membership(Face[party.Membership]):
    """See party.Membership. As a context manager: a member inside."""

    def __init__(self, session: Session, name: bytes | str, value: bytes = b"") -> None:
        super().__init__(session.runner, party.Membership(session.lease, name, value))

    join = blocking(party.Membership.join)
    leave = giving_up(party.Membership.leave)

    def __enter__(self) -> Self:
        self.join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with beside(error):
            self.leave()


class ServiceRegistry(Face[party.ServiceRegistry]):
    """Which instances of one service there are."""

    def __init__(self, client: BlockingClient, service: bytes | str) -> None:
        super().__init__(Runner(client), party.ServiceRegistry(service))
        self.service = service

    instances = blocking(party.ServiceRegistry.instances)

    def observe(self) -> Iterator[tuple[Instance, ...]]:
        """See party.ServiceRegistry.observe."""
        return self._runner.stream(self._logic.observe())

    def register(self, session: Session, instance: Instance, timeout: float | None = None) -> None:
        """See party.Registration.register."""
        session.runner.run(party.Registration(session.lease, self.service, instance).register(timeout))

    def deregister(self, session: Session, instance: Instance, timeout: float | None = None) -> None:
        """See party.Registration.deregister."""
        session.runner.run(party.Registration(session.lease, self.service, instance).deregister(timeout))


class Cache:
    """A copy of all keys that begin with `prefix`, kept up to date by a thread; reading it asks nobody. See view.View.

    What it shows is the store as it was at `revision`, a moment ago as long as the cluster can be reached. In a forked
    child nobody keeps the parent's up to date: reading it there raises ConnectionLost.
    """

    def __init__(self, client: BlockingClient, prefix: bytes) -> None:
        self._view = View(prefix)
        self._owner = OneProcess("cache")
        self._runner = Runner(client)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def open(self, timeout: float = 10.0) -> Self:
        """Starts its thread, and returns once everything was read. Raises TimeoutError, or what the client raised."""
        self._owner.claim()
        self._thread = threading.Thread(target=self._follow, name="quorumd-cache", daemon=True)
        self._thread.start()
        try:
            if not self.wait_for(1, timeout):
                raise TimeoutError(f"{self._view.prefix!r} was not read within {timeout} s")
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Ends its thread, and every wait_for; what it shows stays as it is. A forked child has nothing to end."""
        if self._owner.elsewhere:
            return
        self._end(ConnectionLost("the cache was closed"))
        self._runner.stop()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def revision(self) -> int:
        """The revision of the latest change that it shows, or of the reading it began with."""
        self._owner.require()
        return self._view.revision

    def get(self, key: bytes) -> KeyValue | None:
        """The key as it was at `revision`."""
        self._owner.require()
        return self._view.get(key)

    def snapshot(self) -> tuple[int, Mapping[bytes, KeyValue]]:
        """(revision, a copy of all keys at it)."""
        self._owner.require()
        return self._view.snapshot()

    def wait_for(self, revision: int, timeout: float | None = None) -> bool:
        """Waits until it shows the change that a write to it made at `revision`; whether that came in time.

        Raises ConnectionLost if it, or its client, is closed before, or whatever keeps it from following the store.
        """
        self._owner.require()
        with self._changed:
            return self._changed.wait_for(lambda: self._view.shows(revision), timeout)

    def _follow(self) -> None:
        try:
            for _ in self._runner.stream(follow(self._view)):
                with self._changed:
                    self._changed.notify_all()
        except ConnectionLost as error:  # closed, by its user or with the client
            self._end(error)
        except Exception as error:
            LOG.exception("a cache can no longer follow the store")
            self._end(error)

    def _end(self, why: Exception) -> None:
        with self._changed:
            self._view.end(why)
            self._changed.notify_all()


__all__ = [
    "Barrier", "Cache", "Counter", "DoubleBarrier", "Election", "HeldItem", "Instance", "Leader", "Lock",
    "Member", "Membership", "Observer", "Party", "PriorityQueue", "Queue", "ReadWriteLock", "Semaphore",
    "ServiceRegistry", "Session", "Token",
]
