"""The asyncio client against nodes on loopback sockets."""

import asyncio
import threading

import pytest
from fakes import FakeCluster, Served

from quorumd.auth import Mac
from quorumd.client import AsyncClient, Put, State
from quorumd.commands import Kind, PutResult, RangeResult, Status
from quorumd.errors import ConnectionLost, NotLeader, Rejected, Timeout


@pytest.fixture
def served():
    with Served(FakeCluster()) as nodes:
        yield nodes


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
        while not client._link.protocol.in_flight:
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
