"""The asyncio faces: tasks, sessions, cancellation, loss, the end; and that they are the blocking ones' twins."""

import asyncio
import inspect
import os

import pytest
from recipe_checks import check_clean
from recipe_fakes import AsyncFakeClient, suspend

from quorumd.client import Put, Txn
from quorumd.errors import Compacted, ConnectionLost, Overloaded
from quorumd.limits import SECOND
from quorumd.recipes import aio, sync
from quorumd.recipes.aio import (
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
from quorumd.recipes.effects import Call, Wait, clock
from quorumd.recipes.errors import NotAcquired, NotHeld, SessionLost

LONG = 20.0


def run(scenario):
    async def bounded():
        async with asyncio.timeout(LONG):
            await scenario(AsyncFakeClient())
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left

    asyncio.run(bounded())


def test_locks_and_cancellation():
    async def scenario(client):
        async with Session(client) as session:
            held = Lock(session, b"a")
            await held.acquire()
            waiting = asyncio.create_task(Lock(session, b"a").acquire())
            while len(client.store.model.kvs) < 2:
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            while len(client.store.model.kvs) > 1:  # the session sweeps the cancelled contender's key away
                await asyncio.sleep(0)
            with pytest.raises(NotAcquired):
                await Lock(session, b"a").acquire(0.01)
            token = held.token
            assert held.holds() and await held.confirm()
            assert (await client.execute(Txn([token.guard()], [Put(b"x", b"")]))).succeeded
            await held.release()
            with pytest.raises(NotHeld):
                await held.release()
            async with Lock(session, b"a") as again:
                assert again.token > token
        check_clean(client.store.model, b"x")

    run(scenario)


def test_order_between_tasks():
    async def scenario(client):
        order = []

        async def contend(number, session):
            async with Lock(session, b"a"):
                order.append(number)

        async with Session(client) as session:
            async with Lock(session, b"a"):
                tasks = []
                for number in range(4):
                    tasks.append(asyncio.create_task(contend(number, session)))
                    while len(client.store.model.kvs) < number + 2:
                        await asyncio.sleep(0)
            await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3]

    run(scenario)


def test_a_lost_session():
    async def scenario(client):
        told = asyncio.Queue()

        async def listener(reason):
            client.store.down = False
            await client.execute(Put(b"from-callback", b""))
            await session.close()
            told.put_nowait((asyncio.get_running_loop().time(), reason))

        session = Session(client, ttl=0.5, on_lost=listener)
        async with session:
            lock = await Lock(session, b"a").__aenter__()
            client.store.down = True
            ends = session.lease.sent / 1e9 + session.ttl
            await session.lost.wait()
            at, reason = await told.get()
            assert at < ends and "keep-alive" in reason
            assert not session.alive and not lock.holds()
            session.on_lost(told.put_nowait)
            assert await told.get() == reason
            with pytest.raises(SessionLost):
                await Lock(session, b"a").acquire()
            with pytest.raises(NotHeld):
                await lock.release()

    run(scenario)


def test_a_session_outlives_its_ttl_and_closes_without_a_cluster(caplog):
    async def scenario(client):
        async with Session(client, ttl=0.15) as session:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.lost.wait(), 0.5)
        session = await Session(client).open()
        client.store.down = True
        await session.close()

    run(scenario)
    assert "ends by itself" in caplog.text


def test_the_others():
    async def scenario(client):
        async with Session(client) as session:
            rw = ReadWriteLock(session, b"rw")
            async with rw.read:
                assert await rw.write.try_acquire() is None
            async with Semaphore(session, b"s", 1):
                assert await Semaphore(session, b"s", 1).try_acquire() is None
            counter = Counter(client, b"c")
            assert (await counter.add(), await counter.value()) == (1, 1)
            barrier = Barrier(client, b"b")
            assert await barrier.create() and not await barrier.wait(0.01)
            assert await barrier.remove() and await barrier.wait()
            async with DoubleBarrier(session, b"d", 1):
                pass
            registry, instance = ServiceRegistry(client, b"web"), Instance(b"one", "127.0.0.1:80")
            await registry.register(session, instance)
            assert await registry.instances() == (instance,)
            async for seen in registry.observe():
                assert seen == (instance,)
                break
            await registry.deregister(session, instance)
            async with Membership(session, b"p", b"me"):
                assert [member.value for member in await Party(client, b"p").members()] == [b"me"]
            queue, ranked = Queue(client, b"q"), PriorityQueue(client, b"q")
            await queue.put(b"1")
            async with await queue.hold(session) as item:
                assert item.value == b"1" and int(item.token) > 0
            assert await queue.size() == 0
            await ranked.put(2, b"later")
            await ranked.put(1, b"sooner")
            assert await ranked.take() == b"sooner"
            with pytest.raises(ValueError, match="body"):
                async with await ranked.hold(session):
                    raise ValueError("of the body")
            assert await ranked.take() == b"later"

    run(scenario)


@pytest.mark.parametrize("kind", [Queue, PriorityQueue])
def test_a_process_puts_as_a_producer_of_its_own(kind, monkeypatch):
    async def scenario(client):
        queue = kind(client, b"q")
        drawn = []
        for pid in (os.getpid(), 1, 1, 2):
            with monkeypatch.context() as patch:
                patch.setattr(os, "getpid", lambda pid=pid: pid)
                await queue.put(*[1] * (kind is PriorityQueue), b"value")
            drawn.append(queue._logic.producer)
        assert drawn[1] == drawn[2] and len(set(drawn)) == 3
        assert await queue.size() == 4

    run(scenario)


def test_a_cache_is_not_readable_in_another_process(monkeypatch):
    async def scenario(client):
        async with Cache(client, b"c/") as cache:
            with monkeypatch.context() as patch:
                patch.setattr(os, "getpid", lambda: 1)
                for use in (lambda: cache.get(b"c/1"), cache.snapshot, lambda: cache.revision):
                    with pytest.raises(ConnectionLost, match="of its own"):
                        use()
                for work in (cache.wait_for(1), cache.open()):
                    with pytest.raises(ConnectionLost, match="of its own"):
                        await work
                await cache.close()
            assert cache.get(b"c/1") is None and await cache.wait_for(1)

    run(scenario)


def test_an_election():
    async def scenario(client):
        async with Session(client) as session:
            seen = []
            stream = Observer(client, b"e").observe()
            seen.append(await anext(stream))
            async with Election(session, b"e", b"me") as leader:
                seen.append((await anext(stream)).value)
                await leader.proclaim(b"still me")
                seen.append((await anext(stream)).value)
                assert (await leader.leader()).token == leader.token
            seen.append(await anext(stream))
            await stream.aclose()
            assert seen == [None, b"me", b"still me", None]

    run(scenario)


def test_a_cache():
    async def scenario(client):
        await client.execute(Put(b"c/1", b"one"))
        async with Cache(client, b"c/") as cache:
            revision = (await client.execute(Put(b"c/2", b"two"))).revision
            assert await cache.wait_for(revision, LONG)
            assert (cache.revision, cache.get(b"c/1").value) == (revision, b"one")
            assert sorted(cache.snapshot()[1]) == [b"c/1", b"c/2"]
            assert not await cache.wait_for(revision + 1, 0.01)
        client.store.down = True
        with pytest.raises(TimeoutError):
            await Cache(client, b"c/").open(0.05)

    run(scenario)


def test_a_cache_ends_for_who_waits_for_it_too():
    async def scenario(client):
        cache = await Cache(client, b"c/").open()
        waiting = asyncio.create_task(cache.wait_for(1 << 40))
        await asyncio.sleep(0)
        await cache.close()
        with pytest.raises(ConnectionLost):
            await waiting
        assert await cache.wait_for(1), "what it shows it still shows"

    run(scenario)


def test_a_cache_of_a_client_that_is_closed():
    async def scenario(client):
        client.store.watch_error = ConnectionLost("the client is closed")
        async with Cache(client, b"c/") as cache:
            with pytest.raises(ConnectionLost, match="client"):
                await cache.wait_for(1 << 40)
        client.store.closed = True
        with pytest.raises(ConnectionLost, match="client"):
            await Cache(client, b"c/").open()

    run(scenario)


def test_a_cache_whose_opening_is_cancelled_leaves_no_task():
    async def scenario(client):
        client.store.down = True
        opening = asyncio.create_task(Cache(client, b"c/").open())
        while not any(task.get_name() == "quorumd-cache" for task in asyncio.all_tasks()):
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    run(scenario)


@pytest.mark.parametrize("error", [Compacted("history is gone"), Overloaded("too many watchers")])
def test_after_a_watch_that_ended_there_is_another(error):
    async def scenario(client):
        client.store.watch_error = error
        revision = (await client.execute(Put(b"k", b""))).revision

        def script():
            with pytest.raises(type(error)):
                yield Wait(b"k", b"", revision - 1)
            return (yield Wait(b"k", b"", revision - 1))

        assert [event.kv.key for event in await aio.Runner(client).run(script())] == [b"k"]

    run(scenario)


def test_what_a_lost_session_held_is_not_held():
    async def scenario(client):
        queue = Queue(client, b"q")
        for value in (b"1", b"2"):
            await queue.put(value)
        async with Session(client) as session:
            held, other = await queue.hold(session), await queue.hold(session)
            member, group, lock = Membership(session, b"p"), DoubleBarrier(session, b"d", 1), Lock(session, b"a")
            await member.join()
            await group.enter()
            await lock.acquire()
            session.lease.lose("it was lost")
            for give_up in (held.ack, other.release, member.leave, group.leave, lock.release):
                with pytest.raises(NotHeld, match="it was lost"):
                    await give_up()

    run(scenario)


def test_a_lock_that_was_not_held_by_the_clock_stays_so():
    async def scenario(client):
        async with Session(client, ttl=60.0) as session:
            lock = await Lock(session, b"a").__aenter__()
            clock, session._clock = session._clock, lambda: session.lease.safe_until
            with pytest.raises(NotHeld):
                await lock.release()
            session._clock = clock
            assert not session.alive
            await session.lost.wait()

    run(scenario)


def test_what_was_held_before_a_suspend_is_not_held_after_it(monkeypatch):
    asked = []

    def late_by_a_second():
        return (yield Call(Put(b"x", b""), (yield from clock()) + SECOND))

    async def scenario(client):
        async with Session(client, ttl=60.0) as session:
            lock = await Lock(session, b"a").__aenter__()
            suspend(monkeypatch)
            assert not lock.holds() and not session.alive and session.remaining() == 0.0
            with pytest.raises(SessionLost):
                await Lock(session, b"b").acquire()
            execute = client.execute
            monkeypatch.setattr(client, "execute", lambda op, *, timeout, **_: asked.append(timeout) or execute(op))
            await aio.Runner(client).run(late_by_a_second())
            monkeypatch.undo()

    run(scenario)
    assert 0 < asked[0] <= 1


def test_a_close_that_was_cancelled_is_no_loss_and_may_be_repeated():
    async def scenario(client):
        told = []
        session = await Session(client, on_lost=told.append).open()
        closing = asyncio.create_task(session.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await session.close()
        assert not told and not session.lost.is_set()
        assert not client.store.model.leases

    run(scenario)


def test_closing_waits_for_all_who_are_told_of_the_loss():
    async def scenario(client):
        told = []

        def listener(turns):
            async def listen(_reason):
                for _ in range(turns):
                    await asyncio.sleep(0)
                told.append(turns)

            return listen

        session = await Session(client).open()
        session.lease.lose("it was lost")
        await session.lost.wait()
        for turns in (20, 0):
            session.on_lost(listener(turns))
        await session.close()
        assert told == [0, 20]

    run(scenario)


def test_both_faces_have_the_same_names_and_arguments():
    assert sync.__all__ == aio.__all__
    for name in sync.__all__:
        ours, theirs = getattr(sync, name), getattr(aio, name)
        if not inspect.isclass(ours) or ours is theirs:
            continue
        public = {member for member in dir(ours) if not member.startswith("_")}
        assert public == {member for member in dir(theirs) if not member.startswith("_")}, name
        for member in {*public, "__init__"}:
            if callable(getattr(ours, member)):
                here, there = (list(inspect.signature(getattr(kind, member)).parameters) for kind in (ours, theirs))
                assert here == there, (name, member)
