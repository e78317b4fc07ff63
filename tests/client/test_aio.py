"""The asyncio client against nodes on loopback sockets."""

import asyncio
import os
import threading
from functools import partial

import pytest
from fakes import FakeCluster, Served

from quorumd.auth import Mac
from quorumd.client import AsyncClient, AsyncWatch, Put, State, ioloop
from quorumd.client.sockets import UdpSockets
from quorumd.client.watcher import make_watcher
from quorumd.commands import Kind, PutResult, RangeResult, Status
from quorumd.errors import ConnectionLost, NotLeader, Rejected, Timeout


def test_every_call(served):
    async def run():
        async with AsyncClient(served.endpoints) as client:
            assert (await client.put(b"k1", b"one")).revision == 2
            assert (await client.get(b"k1")).value == b"one"
            assert await client.get(b"absent") is None
            assert (await client.get(b"k1", stale=True)).value == b"one"
            assert isinstance(await client.submit(Put(b"k2", b"two")), PutResult)
            assert [kv.key for kv in (await client.range(b"k", b"l")).kvs] == [b"k1", b"k2"]
            assert await client.delete(b"k1")
            assert not await client.delete(b"k1")
            assert (await client.delete_range(b"k2")).deleted == 1
            assert (await client.status())["node"] == 1
            assert (await client.status(3))["node"] == 3
            await client.transfer_leader()
            assert client.members.keys() == {1, 2, 3}
            assert client.leader == 1
            assert client.state is State.CONNECTED
            assert 0 < client.session_safe_for() <= 30
            with pytest.raises(TypeError):
                await client.put("text", b"")

    asyncio.run(run())
    assert served.cluster.sessions == {}


def test_what_one_turn_begins_shares_datagrams(served):
    async def run():
        async with AsyncClient(served.endpoints) as client:
            await client.put(b"k", b"v")
            before = served.cluster.datagrams
            results = await asyncio.gather(*(client.put(b"k%d" % i, b"v") for i in range(15)))
            assert all(isinstance(result, PutResult) for result in results)
            assert served.cluster.datagrams - before == 1

    asyncio.run(run())


def test_pages(served):
    async def run():
        async with AsyncClient(served.endpoints) as client:
            await asyncio.gather(*(client.put(b"k%d" % i, b"v") for i in range(8)))
            found = await client.range(b"k", b"l")
            assert isinstance(found, RangeResult)
            assert len(found.kvs) == 8

    asyncio.run(run())


def test_loss_and_large_values():
    async def run(endpoints, drop):
        async with AsyncClient(endpoints, key=b"0123456789abcdef") as client:
            drop()
            await client.put(b"large", bytes(200_000))
            assert (await client.get(b"large")).value == bytes(200_000)

    with Served(FakeCluster(mac=Mac(b"0123456789abcdef", b"client"))) as nodes:
        count = iter(range(100_000))

        def drop():
            nodes.drop = lambda datagram: next(count) % 7 == 0

        asyncio.run(run(nodes.endpoints, drop))
    assert set(nodes.cluster.executed.values()) == {1}


def test_cancelling_gives_up_waiting_and_nothing_else(served):
    async def run():
        async with AsyncClient(served.endpoints) as client:
            await client.put(b"k", b"v")
            served.cluster.verdict = lambda node, record: Status.OVERLOADED if record.kind is Kind.COMMAND else None
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.put(b"k", b"w")
            served.cluster.verdict = lambda node, record: None
            await client.put(b"k", b"x")
            assert (await client.get(b"k")).value == b"x"

    asyncio.run(run())


def test_what_is_cancelled_lets_those_leave_that_waited_for_it(served):
    async def run():
        async with AsyncClient(served.endpoints) as client:
            await client.put(b"k", b"v")
            served.drop = lambda datagram: True
            first, given_up = (asyncio.ensure_future(client.put(b"k", value, timeout=60)) for value in (b"1", b"2"))
            await asyncio.sleep(0)  # both begin
            await asyncio.sleep(0)  # and leave
            given_up.cancel()
            settled = asyncio.ensure_future(client.execute(Put(b"k", b"3"), settled=True, timeout=60))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            protocol = client._running().protocol
            assert protocol.waiting == 1
            first.cancel()
            for _ in range(3):  # it is told, takes it back, and sends
                await asyncio.sleep(0)
            assert protocol.waiting == 0
            served.drop = lambda datagram: False
            await settled
            assert (await client.get(b"k")).value == b"3"

    asyncio.run(run())


def test_nobody_there():
    with Served(FakeCluster()) as nodes:
        endpoints = nodes.endpoints

    async def run():
        with pytest.raises(Timeout, match="no node answered"):
            await AsyncClient.connect(endpoints, timeout=0.1)
        client = AsyncClient(endpoints, timeout=0.1)
        with pytest.raises(NotLeader):
            await client.put(b"k", b"v")
        await client.close()
        with pytest.raises(ConnectionLost):
            await client.put(b"k", b"v")

    asyncio.run(run())


def test_close_ends_what_is_under_way(served):
    async def run():
        client = await AsyncClient.connect(served.endpoints)
        await client.put(b"k", b"v")
        with served.lock:
            served.cluster.deaf = {1, 2, 3}
        pending = asyncio.create_task(client.put(b"k", b"w"))
        while not client._io.protocol.in_flight:
            await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ConnectionLost):
            await pending

    asyncio.run(run())


def test_states_are_told(served):
    states = []

    async def run():
        client = AsyncClient([served.endpoints[0]])
        assert client.state is State.LOST
        listener = states.append
        client.add_listener(lambda state: 1 / 0)
        client.add_listener(listener)
        await client.put(b"k", b"v")
        assert states == [State.CONNECTED]
        with served.lock:
            served.cluster.sessions.clear()
        with pytest.raises(Exception, match="session"):
            await client.put(b"k", b"v")
        client.remove_listener(listener)
        await client.put(b"k", b"v")
        await client.close()

    asyncio.run(run())
    assert states == [State.CONNECTED, State.LOST]


def test_another_loop_begins_anew(served):
    client = AsyncClient(served.endpoints)
    asyncio.run(client.put(b"k", b"v"))
    assert asyncio.run(client.get(b"k")).value == b"v"
    asyncio.run(client.close())


def test_it_is_closed_on_another_loop(served):
    client = AsyncClient(served.endpoints)
    asyncio.run(client.put(b"k", b"v"))
    io = client._io
    asyncio.run(client.close())
    assert io._sockets.sockets() == []
    assert len(served.cluster.sessions) == 1  # until its TTL has passed: nobody can wait for an answer on that loop


def test_a_watch_is_closed_on_another_loop(served):
    client = AsyncClient(served.endpoints)
    watch = client.watch(b"k", start_revision=1)

    async def begin():
        async with asyncio.timeout(5):
            await watch.__aenter__()

    asyncio.run(begin())
    asyncio.run(watch.close())
    asyncio.run(client.close())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_closes_nothing_of_its_parents(served):
    async def unwind(client, watch, sent):
        await watch.close()
        await client.close()
        for _ in range(3):
            await asyncio.sleep(0)  # whatever the loop that it inherited has yet to do
        return len(sent)

    async def run():
        async with AsyncClient(served.endpoints) as client:
            await client.put(b"k", b"v")
            session, sent = client._io.protocol.session.id, []
            watch = client.watch(b"k", start_revision=1)
            await watch.__aenter__()
            child = os.fork()
            if child == 0:
                code = 99
                try:
                    UdpSockets.send = lambda self, address, datagram: sent.append(datagram)
                    code = await unwind(client, watch, sent)
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            await client.put(b"k", b"w")
            assert client._io.protocol.session.id == session
            await watch.close()

    asyncio.run(run())
    assert set(served.cluster.executed.values()) == {1}


def test_cancelled_while_it_connects_it_leaves_nothing_open():
    with Served(FakeCluster()) as nodes:
        endpoints = nodes.endpoints

    async def run():
        client = AsyncClient(endpoints)
        entering = asyncio.create_task(client.__aenter__())
        while client._io is None:
            await asyncio.sleep(0)
        io = client._io
        assert io._sockets.sockets()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert io._sockets.sockets() == []
        with pytest.raises(ConnectionLost):
            await client.get(b"k")

    asyncio.run(run())


def test_a_name_is_looked_up_once_at_a_time(monkeypatch):
    asked, entered, answer = [], threading.Event(), threading.Event()

    def look_up(name):
        asked.append(name)
        entered.set()
        answer.wait()

    monkeypatch.setattr(ioloop, "look_up", look_up)

    async def run():
        client = AsyncClient(["name.invalid:1"])
        io = client._running()
        for _ in range(3):
            io.protocol.router.wanted.add("name.invalid:1")
            io._flush()
            await asyncio.sleep(0)
            assert entered.wait(5)
        await client.close()
        answer.set()

    asyncio.run(run())
    assert asked == ["name.invalid:1"]


def test_the_status_of_nonsense_is_refused(served):
    async def run():
        async with AsyncClient(served.endpoints) as client:
            with pytest.raises(ValueError, match="no port"):
                await client.status("host")
            assert (await client.get(b"k", stale=True)) is None

    asyncio.run(run())


class Idle:
    """A line on which nothing happens."""

    def __init__(self):
        self.watchers = []

    def watch(self, watcher):
        self.watchers.append(watcher)

    def unwatch(self, watcher):
        self.watchers.remove(watcher)

    def take_batch(self, watcher):
        return None


@pytest.mark.parametrize("begin", [AsyncWatch.get, AsyncWatch.__aenter__])
def test_a_watch_that_is_closed_while_it_begins_has_ended(begin):
    async def run():
        line, found = Idle(), asyncio.get_running_loop().create_future()
        make = partial(make_watcher, b"k", b"", prev_kv=False, put=True, delete=True, progress=False)

        async def start():
            return await found

        watch = AsyncWatch(lambda: line, make, start)
        waiting = asyncio.create_task(begin(watch))
        await asyncio.sleep(0)
        await watch.close()
        found.set_result(1)
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionLost):
                await waiting
        assert line.watchers == []

    asyncio.run(run())


def test_rejections_and_no_thread(served):
    async def run():
        async with AsyncClient(served.endpoints[0]) as client:
            served.cluster.leader = 1
            served.cluster.verdict = lambda node, record: Status.REJECTED
            with pytest.raises(Rejected):
                await client.cas(b"k", None, b"v")
            assert threading.active_count() == threads

    threads = threading.active_count()
    asyncio.run(run())
