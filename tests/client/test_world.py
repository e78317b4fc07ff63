"""What the world does to a client beside the network: garbage, suspends, signals, sys.exit, want of room."""

import asyncio
import errno
import gc
import os
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
from fakes import FakeCluster, World
from test_protocol import done, put
from test_sync import Interrupt

from quorumd.client import AsyncClient, Client, State, ioloop, iothread, sinceboot
from quorumd.client.iothread import IoThread
from quorumd.client.watcher import Watcher, make_watcher
from quorumd.client.watches import Watch
from quorumd.client.watching import Watching, _Stream
from quorumd.commands import Kind, PutResult
from quorumd.errors import ConnectionLost, Timeout
from quorumd.limits import MILLISECOND, SECOND
from quorumd.watchcodec import Ask, decode_requests


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


# -- garbage collection -----------------------------------------------------------------------------------------------


class Owner:
    """Part of a cycle, so that only the collector finds it."""

    def __init__(self, client):
        self.me, self.client = self, client


def test_a_client_may_be_collected_on_a_thread_that_computes_for_it(served):
    owner = Owner(Client.connect(served.endpoints))
    owner.client.put(b"k", b"v")
    io = owner.client._io
    owners = [owner]
    del owner

    def collect():
        with io._lock:  # as when any allocation under it starts a collection
            owners.clear()
            gc.collect()

    computing = threading.Thread(target=collect, daemon=True)
    computing.start()
    computing.join(5)
    assert not computing.is_alive()
    io._thread.join(5)
    assert not io._thread.is_alive()
    assert io._wake_fd < 0 and not io._bell


# -- what a user's code raises ----------------------------------------------------------------------------------------


def leave(called, *_):
    called.set()
    sys.exit("a user's code calls it")


def test_a_listener_that_exits_ends_nothing_but_itself(served, caplog):
    called = threading.Event()
    with Client(served.endpoints) as client:
        client.add_listener(partial(leave, called))
        client.put(b"k", b"v")
        assert called.wait(5)
        assert isinstance(client.put_nowait(b"k", b"w").result(5), PutResult)
        assert client._io._thread.is_alive()
    assert "a state listener failed" in caplog.text


def test_a_callback_that_exits_does_not_end_the_thread(served, client, caplog):
    called = threading.Event()
    with served.lock:
        client.put_nowait(b"k", b"v").add_done_callback(partial(leave, called))
    assert called.wait(5)
    assert isinstance(client.put_nowait(b"k", b"w").result(5), PutResult)
    assert client._io._thread.is_alive()
    assert "a callback of a future failed" in caplog.text


@pytest.fixture
def callers_settle(client, monkeypatch):
    """The client's thread leaves receiving and futures to whoever calls, as long as it runs."""
    client.put(b"k", b"v")
    io, settle = client._io, client._io._settle
    monkeypatch.setattr(io, "_wants_to_receive", lambda: False)
    monkeypatch.setattr(io, "_settle", lambda who: None if who is io and not io._stopping else settle(who))


def test_a_callback_that_exits_on_a_callers_thread_is_raised_there(served, client, callers_settle):
    with served.lock:
        begun = [client.put_nowait(b"k", b"w") for _ in range(3)]
        begun[0].add_done_callback(lambda _: sys.exit("now"))
    with pytest.raises(SystemExit, match="now"):
        while not begun[0].done() or client._io._promised:
            client.get(b"k")
    while not all(future.done() for future in begun):
        client.get(b"k")


def test_a_callback_that_exits_while_the_client_is_closed_leaves_no_thread(served, client, callers_settle):
    io = client._io
    served.drop = lambda datagram: True
    first, second = (client.put_nowait(b"k", b"w") for _ in range(2))
    first.add_done_callback(lambda _: sys.exit("now"))
    with pytest.raises(SystemExit, match="now"):
        client.close()
    io._thread.join(5)
    assert not io._thread.is_alive()
    assert isinstance(second.exception(5), ConnectionLost)


@pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")
def test_a_pipeline_does_not_wait_for_ever_for_a_thread_that_died(client, monkeypatch):
    client.put(b"k", b"v")
    io = client._io

    def die():
        raise RuntimeError

    monkeypatch.setattr(io, "_wants_to_receive", die)
    io._wake()
    io._thread.join(5)
    assert not io._thread.is_alive()
    monkeypatch.setattr(iothread, "GRACE", MILLISECOND)
    pipe = client.pipeline().put(b"k", b"w").get(b"k")
    results = pipe.execute(timeout=0.01, raise_first=False)
    assert [type(result) for result in results] == [Timeout, Timeout]
    client.close()
    io._release()  # as the thread would have


def test_what_an_asyncio_listener_raises_leaves_the_client_its_timer(served):
    """asyncio takes SystemExit out of the loop; who goes on with it has a client that still repeats what is lost."""
    loop = asyncio.new_event_loop()
    client = AsyncClient(served.endpoints)
    client.add_listener(lambda state: sys.exit(str(state)))
    with pytest.raises(SystemExit, match=str(State.CONNECTED)):
        loop.run_until_complete(client.put(b"k", b"v"))
    assert client._io._timer_at == client._io.protocol.next_deadline()
    assert isinstance(loop.run_until_complete(client.put(b"k", b"w")), PutResult)
    loop.run_until_complete(client.close())
    for task in asyncio.all_tasks(loop):  # what SystemExit cut off
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


# -- a start that fails -----------------------------------------------------------------------------------------------


def no_room(*_):
    raise OSError(errno.EMFILE, "Too many open files")


def no_thread(*_):
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("where", "what", "failing", "error"),
    [
        (iothread.os, "eventfd", no_room, OSError), (iothread.os, "dup", no_room, OSError),
        (iothread.select, "epoll", no_room, OSError), (threading.Thread, "start", no_thread, RuntimeError),
    ],
)  # fmt: skip
def test_a_client_that_could_not_be_started_can_be_started_later(served, monkeypatch, where, what, failing, error):
    client = Client(served.endpoints)
    before, threads = descriptors(), threading.active_count()
    with monkeypatch.context() as patched:
        patched.setattr(where, what, failing)
        for call in (partial(client.put, b"k", b"v"), partial(client.get, b"k")):
            with pytest.raises(error):
                call(timeout=0.1)
    assert (descriptors(), threading.active_count()) == (before, threads)
    client.put(b"k", b"v")
    assert client.put_nowait(b"k", b"w").result(5)
    client.close()
    assert descriptors() == before


# -- the session's TTL, and the clock ---------------------------------------------------------------------------------


def test_the_shortest_ttl_of_those_that_nodes_name_counts():
    cluster = FakeCluster()
    ttls, hello = {1: 6_000, 2: 60_000, 3: 30_000}, cluster.hello

    def hello_of(node):
        cluster.ttl_ms = ttls[node]
        return hello(node)

    kept_at = []

    def verdict(_, record):
        if record.kind is Kind.KEEP_ALIVE:
            kept_at.append(world.now)

    cluster.hello, cluster.verdict = hello_of, verdict
    world = World(cluster)
    client = world.client()
    opened = put(world)
    world.submit(client, opened)
    assert world.run(SECOND, done(opened))
    for node in (2, 3):  # whoever answers last changes nothing
        client._channel.ask_life(f"node{node}:7000", client._nonce, world.now)
    world.submit(client)
    began_at = world.now
    world.run(30 * SECOND)
    assert began_at < client.session_safe_until <= world.now + 6 * SECOND
    gaps = [later - earlier for earlier, later in zip([began_at, *kept_at], [*kept_at, world.now], strict=True)]
    assert max(gaps) <= 2 * SECOND + 10 * MILLISECOND
    ttls[2] = 3_000  # it is restarted with another setting, and heard of while the client is idle
    client._channel.ask_life("node2:7000", client._nonce, world.now)
    world.submit(client)
    world.run(10 * MILLISECOND)
    assert client.next_deadline() <= world.now + SECOND


def test_no_session_is_safe_by_a_clock_that_stood_still(served, monkeypatch):
    reading, slept = time.clock_gettime_ns, []
    moved_on = {time.CLOCK_BOOTTIME: 3600 * SECOND}
    monkeypatch.setattr(
        time, "clock_gettime_ns", lambda clock: reading(clock) + len(slept) * moved_on.get(clock, 0)
    )  # as the kernel's clocks do when the machine is suspended

    async def run():
        async with AsyncClient(served.endpoints) as client:
            await client.put(b"k", b"v")
            assert client.session_safe_for() > 0
            slept.append("an hour")
            assert client.session_safe_for() == 0.0
            await client.put(b"k", b"w")
            assert client.session_safe_for() > 0

    asyncio.run(run())
    with Client(served.endpoints) as client:
        client.put(b"k", b"v")
        assert client.session_safe_for() > 0
        slept.append("an hour")
        assert client.session_safe_for() == 0.0
        client.put(b"k", b"w")
        assert client.session_safe_for() > 0
        assert isinstance(client.put_nowait(b"k", b"x").result(5), PutResult)


# -- signals ----------------------------------------------------------------------------------------------------------


class Line:
    """An IoThread that was never started: the test puts batches into the watcher. `after`: they were taken."""

    def __init__(self):
        self.io = IoThread(["127.0.0.1:1"], None, None, [])
        self.watch, self.unwatch, self.put_back = self.io.watch, self.io.unwatch, self.io.put_back
        self.after = lambda: None

    def take_batch(self, watcher, taken):
        batch = self.io.take_batch(watcher, taken)
        self.after()
        return batch


def a_watch(line):
    make = partial(make_watcher, b"k", b"", prev_kv=False, put=True, delete=True, progress=True)
    return Watch(lambda: line, make, 1)


def test_a_batch_that_a_signal_kept_from_its_user_is_given_next():
    line = Line()
    watch = a_watch(line)
    for revision in (5, 6):
        watch._watcher._put(revision, b"")

    def interrupt():
        raise KeyboardInterrupt

    line.after = interrupt
    with pytest.raises(KeyboardInterrupt):
        watch.get(1)
    assert watch.revision == 4
    line.after = lambda: None
    assert [watch.get(1).revision for _ in range(2)] == [5, 6]
    assert watch._watcher.waiting_bytes == 0


def test_a_timer_that_a_suspend_made_late_is_set_anew(monkeypatch):
    """The loop's clock stood still meanwhile: a timer for what is due by now may have long to go."""
    now, sleeps = [0], []
    protocol = SimpleNamespace(next_deadline=lambda: 500 * MILLISECOND)
    loop = SimpleNamespace(call_later=lambda seconds, _: sleeps.append(seconds) or SimpleNamespace(cancel=list))
    monkeypatch.setattr(ioloop, "since_boot", lambda: now[0])
    monkeypatch.setattr(sinceboot, "since_boot", lambda: now[0])
    io = ioloop.IoLoop(protocol, loop, [])
    io._set_timer()
    io._set_timer()
    assert sleeps == [0.5]
    now[0] = 60 * SECOND
    io._set_timer()
    assert sleeps == [0.5, 0.0]
    protocol.next_deadline = lambda: 90 * SECOND
    io._set_timer()
    assert sleeps == [0.5, 0.0, 1.0]


def test_an_interrupt_at_any_instruction_of_taking_a_batch_loses_nothing():
    line = Line()
    watch = a_watch(line)
    watcher, watching = watch._watcher, line.io.protocol.watching
    steps = (Watching.pop, Watching._create, Watcher.pop)
    taken = []
    for nth in range(1, 300):
        stream = watching._stream = _Stream(nth, "node", 1, 0, 0)
        watcher._put(nth, b"")
        watcher.left()
        watcher.paused = True  # and drained, so whoever takes the batch resumes it
        with Interrupt(nth, *steps) as interrupt:
            taken.append(watch.get(1).revision)
        while watcher.waiting:
            taken.append(watch.get(1).revision)
        assert taken == list(range(1, nth + 1))
        assert watcher.waiting_bytes == 0 and not watcher.paused
        asked = {}
        for request in stream.requests:  # what the node makes of them
            (each,) = decode_requests(request, 1)
            if each.kind == Ask.CREATE:
                asked[each.watch] = each.revision
            else:
                asked.pop(each.watch, None)
        assert asked == {watcher.id: nth + 1} and stream.watchers == {watcher.id: watcher}
        if interrupt.left > 0:
            return
    pytest.fail("there are more instructions than were tried")
