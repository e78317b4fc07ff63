"""The blocking faces: threads, sessions, loss, fork, the end."""

import os
import threading
from functools import partial
from time import monotonic

import pytest
from recipe_checks import check_clean
from recipe_fakes import FakeClient, suspend

from quorumd.client import Put, Txn
from quorumd.client.sinceboot import since_boot
from quorumd.commands import LeaseRevoke
from quorumd.errors import Compacted, ConnectionLost, Overloaded
from quorumd.limits import SECOND
from quorumd.recipes import sync
from quorumd.recipes.effects import Call, Wait, clock
from quorumd.recipes.errors import NotAcquired, NotHeld, SessionLost
from quorumd.recipes.sync import (
    Barrier,
    Cache,
    Counter,
    DoubleBarrier,
    Election,
    Instance,
    Lock,
    Membership,
    Observer,
    Party,
    PriorityQueue,
    Queue,
    ReadWriteLock,
    Semaphore,
    ServiceRegistry,
    Session,
)

LONG = 20.0  # seconds until a test is taken to hang


@pytest.fixture
def client():
    threads = set(threading.enumerate())
    made = FakeClient()
    yield made
    assert set(threading.enumerate()) <= threads, "a thread was left behind"


@pytest.fixture
def session(client):
    with Session(client) as opened:
        yield opened


def in_thread(work, *arguments):
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    return thread


def test_a_lock_between_threads(client, session):
    order, tokens = [], []
    first = Lock(session, "a/b").__enter__()
    assert first.holds() and first.confirm()

    def contend(number):
        with Session(client) as own, Lock(own, b"a/b") as lock:
            order.append(number)
            tokens.append(int(lock.token))
            assert client.execute(Txn([lock.token.guard()], [Put(b"x", b"%d" % number)])).succeeded

    threads = []
    for number in range(3):
        threads.append(in_thread(contend, number))
        client.store.await_keys(b"quorumd/lock/", number + 2, LONG)  # it stands in line before the next one comes
    token = first.token
    first.release()
    for thread in threads:
        thread.join(LONG)
    assert order == [0, 1, 2]
    assert tokens == sorted(tokens) and token < tokens[0]
    assert not client.execute(Txn([token.guard()], [Put(b"x", b"late")])).succeeded
    session.close()
    check_clean(client.store.model, b"x")


def test_acquiring_gives_up_in_time_and_leaves_the_line(client, session):
    with Lock(session, b"a") as lock:
        other = Lock(session, b"a")
        with pytest.raises(NotAcquired):
            other.acquire(0.05)
        assert other.try_acquire() is None
        assert not other.holds() and not other.confirm()
        with pytest.raises(NotHeld):
            _ = other.token
        with pytest.raises(RuntimeError, match="held already"):
            lock.acquire()
    client.store.await_keys(b"", 0, LONG)
    assert other.try_acquire() is not None
    other.release()
    with pytest.raises(NotHeld):
        other.release()


def test_a_reentrant_lock_is_released_as_often(client, session):
    lock = Lock(session, b"a", reentrant=True)
    with lock, lock:
        inner = lock.token
        assert lock.acquire() == inner
        lock.release()
        assert lock.holds()
    assert not lock.holds()
    with pytest.raises(NotHeld):
        lock.release()


def test_a_session_is_lost_before_the_cluster_ends_it(client):
    """With the cluster gone: the event and the callbacks come before the TTL is over, on a thread that may call."""
    told = []
    called = threading.Event()
    session = Session(client, ttl=0.6)

    def listener(reason):
        told.append((since_boot() / 1e9, reason, threading.current_thread().name))
        client.store.down = False
        client.execute(Put(b"from-callback", b""))
        session.close()  # from its own thread
        called.set()

    session.on_lost(listener)
    with session:
        lock = Lock(session, b"a").__enter__()
        client.store.down = True
        ends = session.lease.sent / 1e9 + session.ttl
        assert session.lost.wait(LONG)
        assert not session.alive and not lock.holds() and session.remaining() == 0.0
        assert called.wait(LONG)
        late = []
        session.on_lost(late.append)
        assert late == [told[0][1]]
        with pytest.raises(SessionLost):
            lock.acquire()
        with pytest.raises(NotHeld):
            lock.__exit__(None, None, None)
        error = ValueError("of the body")
        Lock(session, b"a").__exit__(ValueError, error, None)
        assert "NotHeld" in error.__notes__[0]
    assert told[0][0] < ends, "it came too late: somebody else may have held the lock by then"
    assert told[0][2] == "quorumd-session"
    assert client.store.model.kvs[b"from-callback"]


def test_a_revoked_session_is_lost_and_a_failing_listener_stops_nobody(client, caplog):
    heard = threading.Event()

    def broken(_reason):
        raise ValueError("no")

    with Session(client, ttl=0.3, on_lost=broken) as session:
        session.on_lost(lambda reason: heard.set())
        with client.store.changed:
            client.store.model.end_lease(session.lease.id)
        assert heard.wait(LONG)
    assert "listener" in caplog.text


def test_a_session_outlives_its_ttl_many_times(client):
    with Session(client, ttl=0.15) as session, Lock(session, b"a") as lock:
        assert not session.lost.wait(0.6)
        assert lock.holds() and lock.confirm()


def test_closing_without_a_cluster_takes_little_time(client, caplog):
    session = Session(client, ttl=30.0).open()
    client.store.down = True
    begun = monotonic()
    session.close()
    assert monotonic() - begun < 4.0
    assert "ends by itself" in caplog.text


def test_a_session_before_and_after(client):
    session = Session(client)
    with pytest.raises(RuntimeError, match="not open"):
        Lock(session, b"a")
    session.close()
    with session:
        with pytest.raises(RuntimeError, match="once"):
            session.open()
        assert 8.0 < session.remaining() <= 9.0
    with pytest.raises(SessionLost, match="closed"):
        Lock(session, b"a").acquire()
    assert not session.lost.is_set()
    with pytest.raises(ValueError, match="positive"):
        Session(client, ttl=0)


def test_a_forked_child_neither_uses_nor_harms_its_parents_session(client, session):
    lock = Lock(session, b"a").__enter__()
    pid = os.fork()
    if pid == 0:
        verdict = 1
        try:
            refused = 0
            for use in (lambda: Lock(session, b"b"), lock.acquire, session.require):
                try:
                    use()
                except SessionLost:
                    refused += 1
            session.close()
            revoked = any(isinstance(op, LeaseRevoke) for _, op in client.store.calls)
            verdict = 0 if refused == 3 and not session.alive and not lock.holds() and not revoked else 2
        finally:
            os._exit(verdict)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert session.alive and lock.confirm()
    lock.release()


def in_child(work):
    """What `work()` returns, as bytes, in a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, work())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as told:
        answer = told.read()
    os.waitpid(pid, 0)
    return answer


@pytest.mark.parametrize("kind", [Queue, PriorityQueue])
def test_a_forked_child_puts_as_another_producer(client, kind):
    """Each has a copy of the store here, so both put at one revision: only their producers tell the keys apart."""
    queue = kind(client, b"q")
    put = partial(queue.put, *[1] * (kind is PriorityQueue), b"value")

    def key():
        put()
        (only,) = client.store.model.kvs
        return only

    theirs = in_child(key)
    assert theirs.startswith(b"quorumd/") and theirs != key()


def test_a_cache_is_not_readable_in_a_forked_child(client):
    client.put(b"c/1", b"one")
    unopened = Cache(client, b"c/")

    def read():
        refusals = []
        look, wait = (lambda: cache.revision), partial(cache.wait_for, 1)
        for use in (partial(cache.get, b"c/1"), cache.snapshot, look, wait, cache.open):
            try:
                use()
            except ConnectionLost as error:
                refusals.append(str(error))
        cache.close()
        with unopened:
            return b"%d %s %s" % (len(refusals), refusals[0].encode(), unopened.get(b"c/1").value)

    with Cache(client, b"c/") as cache:
        told = in_child(read)
        assert cache.get(b"c/1").value == b"one"
    assert told == b"5 the cache is process %d's; a forked child opens one of its own one" % os.getpid()


def test_the_others(client, session):
    rw = ReadWriteLock(session, b"rw")
    with rw.read, ReadWriteLock(session, b"rw").read:
        assert rw.write.try_acquire() is None
    with rw.write as lock:
        assert lock.holds()
    with Semaphore(session, b"s", 2), Semaphore(session, b"s", 2):
        assert Semaphore(session, b"s", 2).try_acquire() is None
    with pytest.raises(ValueError, match="permit"):
        Semaphore(session, b"s", 0)
    counter = Counter(client, b"c")
    assert counter.add() == 1 and counter.add(41) == 42 and counter.value() == 42
    barrier = Barrier(client, b"b")
    assert barrier.create() and not barrier.wait(0.01) and barrier.remove() and barrier.wait()
    with DoubleBarrier(session, b"d", 1):
        pass
    with pytest.raises(NotAcquired):
        DoubleBarrier(session, b"d", 2).enter(0.05)
    registry = ServiceRegistry(client, b"web")
    instance = Instance(b"one", "127.0.0.1:80")
    registry.register(session, instance)
    assert registry.instances() == (instance,) == next(registry.observe())
    registry.deregister(session, instance)
    assert registry.instances() == ()
    with Membership(session, b"p", b"me"):
        assert [member.value for member in Party(client, b"p").members()] == [b"me"]
        assert len(next(Party(client, b"p").observe())) == 1


def test_queues(client, session):
    queue = Queue(client, b"q")
    queue.put(b"1")
    queue.put(b"2")
    with queue.hold(session) as item:
        assert item.value == b"1"
        assert client.execute(Txn([item.token.guard()], [Put(b"x", b"")])).succeeded
        assert queue.take() == b"2"
    assert queue.size() == 0 and queue.take() is None and queue.hold(session) is None
    queue.put(b"3")
    with pytest.raises(ValueError, match="body"), queue.hold(session):
        raise ValueError("of the body")
    assert queue.take(LONG) == b"3"
    later = in_thread(lambda: queue.put(b"4"))
    assert queue.take(LONG) == b"4"
    later.join()
    ranked = PriorityQueue(client, b"q")
    ranked.put(2, b"later")
    ranked.put(1, b"sooner")
    assert [ranked.take(), ranked.take()] == [b"sooner", b"later"]


def test_an_election_and_its_observers(client, session):
    observer = Observer(client, b"e").observe()
    assert next(observer) is None
    with Election(session, b"e", b"me") as leader:
        seen = next(observer)
        assert (seen.value, seen.token) == (b"me", leader.token)
        leader.proclaim(b"still me")
        assert next(observer).value == b"still me" == leader.leader().value
        assert next(leader.observe()).token == leader.token
    assert next(observer) is None
    observer.close()
    candidate = Election(session, b"e")
    candidate.campaign()
    candidate.resign()
    with pytest.raises(NotHeld):
        candidate.proclaim(b"no")


def test_a_cache(client):
    client.execute(Put(b"c/1", b"one"))
    with Cache(client, b"c/") as cache:
        assert cache.get(b"c/1").value == b"one"
        revision = client.execute(Put(b"c/2", b"two")).revision
        assert cache.wait_for(revision, LONG)
        assert cache.revision == revision
        assert sorted(cache.snapshot()[1]) == [b"c/1", b"c/2"]
        assert not cache.wait_for(revision + 1, 0.01)
    assert cache.get(b"c/2").value == b"two"
    client.store.down, client.timeout = True, 0.1
    with pytest.raises(TimeoutError):
        Cache(client, b"c/").open(0.05)


def test_a_cache_ends_for_who_waits_for_it_too(client):
    cache = Cache(client, b"c/").open()
    raised = []

    def wait():
        with pytest.raises(ConnectionLost) as caught:
            cache.wait_for(1 << 40, LONG)
        raised.append(caught)

    waiting = in_thread(wait)
    cache.close()
    waiting.join(LONG)
    assert raised
    assert cache.wait_for(1), "what it shows it still shows"


def test_a_cache_of_a_client_that_is_closed(client):
    client.store.watch_error = ConnectionLost("the client is closed")
    with Cache(client, b"c/") as cache, pytest.raises(ConnectionLost, match="client"):
        cache.wait_for(1 << 40, LONG)
    client.store.closed = True
    with pytest.raises(ConnectionLost, match="client"):
        Cache(client, b"c/").open(LONG)


def test_a_cache_whose_opening_fails_leaves_no_thread(client, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    cache = Cache(client, b"c/")
    monkeypatch.setattr(cache, "wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.open()


@pytest.mark.parametrize("error", [Compacted("history is gone"), Overloaded("too many watchers")])
def test_after_a_watch_that_ended_there_is_another(client, error):
    client.store.watch_error = error
    revision = client.put(b"k", b"").revision

    def script():
        with pytest.raises(type(error)):
            yield Wait(b"k", b"", revision - 1)
        return (yield Wait(b"k", b"", revision - 1))

    assert [event.kv.key for event in sync.Runner(client).run(script())] == [b"k"]


def test_what_a_lost_session_held_is_not_held(client):
    queue = Queue(client, b"q")
    for value in (b"1", b"2"):
        queue.put(value)
    with Session(client) as session:
        held, other = queue.hold(session), queue.hold(session)
        member, group, lock = Membership(session, b"p"), DoubleBarrier(session, b"d", 1), Lock(session, b"a")
        member.join()
        group.enter()
        lock.acquire()
        session.lease.lose("it was lost")
        for give_up in (held.ack, other.release, member.leave, group.leave, lock.release):
            with pytest.raises(NotHeld, match="it was lost"):
                give_up()


def test_a_lock_that_was_not_held_by_the_clock_stays_so(client):
    """Whoever releases late is told, and then no answer to a keep-alive may revive the session with the key in it."""
    with Session(client, ttl=60.0) as session:
        lock = Lock(session, b"a").__enter__()
        clock, session._clock = session._clock, lambda: session.lease.safe_until
        with pytest.raises(NotHeld):
            lock.release()
        session._clock = clock
        assert not session.alive
        assert session.lost.wait(LONG)


def test_what_was_held_before_a_suspend_is_not_held_after_it(client, monkeypatch):
    asked = []

    def late_by_a_second():
        return (yield Call(Put(b"x", b""), (yield from clock()) + SECOND))

    with Session(client, ttl=60.0) as session:
        lock = Lock(session, b"a").__enter__()
        suspend(monkeypatch)
        assert not lock.holds() and not session.alive and session.remaining() == 0.0
        with pytest.raises(SessionLost):
            Lock(session, b"b").acquire()
        execute = client.execute
        monkeypatch.setattr(client, "execute", lambda op, *, timeout, **_: asked.append(timeout) or execute(op))
        sync.Runner(client).run(late_by_a_second())
        monkeypatch.undo()
    assert 0 < asked[0] <= 1, "the client's clock is another one: it is told how long, and not until when"


def test_a_suspend_is_noticed_soon_after_it(client, monkeypatch):
    with Session(client, ttl=300.0) as session:
        suspend(monkeypatch)
        assert session.lost.wait(LONG), "it looks again no sooner than the next keep-alive was due, in 100 seconds"
        monkeypatch.undo()


def test_closing_in_two_threads_is_no_loss(client):
    told = []
    session = Session(client, on_lost=told.append).open()
    session.lease.close()  # so far another thread's close has come
    session.close()
    session.close()
    assert not told and not session.lost.is_set()
    assert not client.store.model.leases
    assert sum(isinstance(op, LeaseRevoke) for _, op in client.store.calls) == 1


def test_a_stream_is_no_call(client):
    runner = sync.Runner(client)
    with pytest.raises(TypeError, match="iterated"):
        runner.run(Observer(client, b"e")._logic.observe())
    runner.stop()
    with pytest.raises(ConnectionLost):
        runner.run(Counter(client, b"c")._logic.value())
