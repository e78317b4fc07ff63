"""Watches as users have them, blocking and asyncio, against a real node in a process of its own."""

import asyncio
import os
import threading

import pytest

from quorumd.client import ALL, AsyncClient, Client, Put
from quorumd.commands import Compact
from quorumd.config import load_config
from quorumd.errors import Compacted, ConnectionLost, Timeout
from quorumd.supervisor.launch import temporary
from quorumd.supervisor.sandbox import free_ports, private_host

PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory):
    path = tmp_path_factory.mktemp("watched") / "cluster.yaml"
    host = private_host()
    peer, client = free_ports(host, 2)
    node = f"  - {{id: 1, peer: '{host}:{peer}', client: '{host}:{client}'}}"
    path.write_text("\n".join(["cluster: test", "data_dir: state", "nodes:", node, "storage: {segment_mib: 4}"]))
    with temporary(path):
        yield [node.client for node in load_config(path).nodes]


@pytest.fixture
def client(endpoints):
    with Client.connect(endpoints, timeout=PATIENCE_S) as connected:
        yield connected


@pytest.fixture
def prefix(request):
    """A key that no other test uses."""
    return request.node.name.encode()


def test_it_begins_after_what_was_acknowledged_before(client, prefix):
    client.put(prefix, b"before")
    with client.watch(prefix, prev_kv=True) as watch:
        first = client.put(prefix, b"1").revision
        client.delete(prefix)
        (put,) = watch.get(PATIENCE_S).events
        (delete,) = watch.get(PATIENCE_S).events
    assert (put.value, put.prev_kv.value, put.created, put.deleted) == (b"1", b"before", False, False)
    assert (delete.key, delete.deleted, delete.prev_kv.value) == (prefix, True, b"1")
    assert watch.revision == first + 1


def test_a_transaction_is_one_batch(client, prefix):
    with client.watch(prefix, prefix + b"z") as watch:
        client.txn(then=[Put(prefix + b"b", b""), Put(prefix + b"a", b"")])
        batch = next(watch)
    assert [event.key for event in batch.events] == [prefix + b"b", prefix + b"a"]
    assert batch.revision == batch.events[0].kv.mod_revision


def test_history_is_watched_from_a_revision(client, prefix):
    first = client.put(prefix, b"0").revision
    for i in range(1, 500):
        client.put_nowait(prefix, b"%d" % i)
    with client.watch(prefix, start_revision=first) as watch:
        assert sum(len(watch.get(PATIENCE_S).events) for _ in range(500)) == 500


def test_a_callback_may_use_the_client_and_other_threads_too(client, prefix):
    seen = []

    def follow(watch):
        for batch in watch:
            seen.append(client.get(prefix).value)
            if batch.events[0].value == b"last":
                watch.close()

    with client.watch(prefix) as watch:
        thread = threading.Thread(target=follow, args=(watch,))
        thread.start()
        client.put(prefix, b"first")
        client.put(prefix, b"last")
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert seen[-1] == b"last"


def test_waiting_ends_in_time_and_with_the_watch_and_with_the_client(endpoints, prefix):
    client = Client.connect(endpoints, timeout=PATIENCE_S)
    watch = client.watch(prefix)
    with pytest.raises(Timeout):
        watch.get(0.01)
    watch.close()
    assert list(watch) == []
    with pytest.raises(ConnectionLost):
        watch.get()
    other = client.watch(prefix)
    ended = threading.Thread(target=lambda: list(other))
    ended.start()
    client.close()
    ended.join(PATIENCE_S)
    assert not ended.is_alive()
    other.close()


def test_compacted_history_is_an_error_that_says_where_to_go_on(client, prefix):
    first = client.put(prefix, b"1").revision
    last = client.put(prefix, b"2").revision
    client.submit(Compact(last)).result(PATIENCE_S)
    with client.watch(prefix, start_revision=first) as watch, pytest.raises(Compacted) as caught:
        watch.get(PATIENCE_S)
    assert caught.value.revision == last + 1


def test_a_watch_goes_on_in_a_forked_child(client, prefix):
    with client.watch(prefix) as watch:
        client.put(prefix, b"before")
        assert watch.get(PATIENCE_S).events[0].value == b"before"
        pid = os.fork()
        if pid == 0:  # in the child: exit codes instead of exceptions
            code = 1
            try:
                code = 0 if watch.get(PATIENCE_S).events[0].value == b"after" else 2
                client.close()
            finally:
                os._exit(code)
        client.put(prefix, b"after")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert watch.get(PATIENCE_S).events[0].value == b"after"


def test_figures_say_who_watches(client, prefix):
    before = client.status()["watchers"]
    with client.watch(prefix), client.watch(prefix, ALL) as watch:
        client.put(prefix, b"1")
        watch.get(PATIENCE_S)
        assert client.status()["watchers"] == before + 2


def test_asyncio(endpoints, prefix):
    async def scenario():
        async with AsyncClient(endpoints, timeout=PATIENCE_S) as client:
            first = (await client.put(prefix, b"0")).revision
            async with client.watch(prefix, prev_kv=True) as watch:
                await client.put(prefix, b"1")
                batch = await watch.get(PATIENCE_S)
                assert (batch.events[0].value, batch.events[0].prev_kv.value) == (b"1", b"0")
                with pytest.raises(Timeout):
                    await watch.get(0.01)
                await client.delete(prefix)
                async for batch in watch:
                    assert batch.events[0].deleted
                    break
                assert watch.revision == first + 2
            past = client.watch(prefix, start_revision=first)
            assert (await anext(past)).revision == first
            await past.close()
            assert [batch async for batch in past] == []
            open_end = client.watch(prefix)
            waiting = asyncio.create_task(anext(open_end, None))
            await asyncio.sleep(0)
            await client.put(prefix + b"other", b"")
        assert await waiting is None
        await open_end.close()

    asyncio.run(scenario())
