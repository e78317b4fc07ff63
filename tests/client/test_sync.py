"""The blocking client against nodes on loopback sockets: threads, futures, pipelines, fork, the end."""

import gc
import inspect
import os
import random
import sys
import threading
import weakref

import pytest
from fakes import FakeCluster, Served

from quorumd.auth import Mac
from quorumd.client import Client, Compare, Put, Range, State, Txn, iothread, protocol
from quorumd.client.calls import successor
from quorumd.client.iothread import IoThread
from quorumd.client.ledger import Ledger
from quorumd.client.seat import Seat
from quorumd.client.session import Session
from quorumd.client.transmitter import Transmitter
from quorumd.commands import Kind, PutResult, RangeResult, Status, decode_command
from quorumd.errors import ConnectionLost, DiskFull, NotLeader, Overloaded, Rejected, Timeout, TooLarge
from quorumd.limits import MAX_KEY_BYTES, MAX_VALUE_BYTES, MILLISECOND


def test_every_call(client):
    assert client.put(b"k1", b"one").revision == 2
    assert client.get(b"k1").value == b"one"
    assert client.get(b"absent") is None
    assert client.get(b"k1", stale=True).value == b"one"
    client.put(b"k2", b"two")
    assert [kv.key for kv in client.range(b"k", b"l").kvs] == [b"k1", b"k2"]
    assert client.delete(b"k1") is True
    assert client.delete(b"k1") is False
    assert client.delete_range(b"k2").deleted == 1
    assert client.status()["node"] == 1
    assert client.status(3)["node"] == 3
    client.transfer_leader()
    assert client.members.keys() == {1, 2, 3}
    assert client.leader == 1
    assert client.state is State.CONNECTED
    assert 0 < client.session_safe_for() <= 30


def test_a_range_is_read_in_pages(client):
    for i in range(8):
        client.put(b"k%d" % i, b"v")
    found = client.range(b"k", b"l")  # the fake cuts every reply at three keys
    assert [kv.key for kv in found.kvs] == [b"k%d" % i for i in range(8)]
    assert found.count == 8
    assert not found.more
    limited = client.range(b"k", b"l", limit=5)
    assert len(limited.kvs) == 5
    assert limited.more


@pytest.mark.parametrize(
    ("key", "after"),
    [
        (b"a", b"a\0"),
        (b"k" * MAX_KEY_BYTES, b"k" * (MAX_KEY_BYTES - 1) + b"l"),
        (b"k" * (MAX_KEY_BYTES - 1) + b"\xff", b"k" * (MAX_KEY_BYTES - 2) + b"l"),
        (b"\xff" * MAX_KEY_BYTES, None),
    ],
)
def test_the_key_after(key, after):
    assert successor(key) == after


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client: client.put("text", b""), TypeError),
        (lambda client: client.put(b"k", "text"), TypeError),
        (lambda client: client.cas(b"k", "text", b"v"), TypeError),
        (lambda client: client.put(b"", b"v"), Rejected),
        (lambda client: client.put(b"k", bytes(MAX_VALUE_BYTES + 1)), TooLarge),
        (lambda client: client.get(b"k", timeout=0), ValueError),
        (lambda client: client.get(b"k", timeout=-1), ValueError),
        (lambda client: client.get(b"k", timeout=float("nan")), ValueError),
    ],
)
def test_arguments_that_make_no_sense(client, call, error):
    with pytest.raises(error):
        call(client)


def test_endpoints_that_make_no_sense():
    for endpoints in ([], ["nonsense"], ["127.0.0.1:99999"]):
        with pytest.raises(ValueError, match=r"."):
            Client(endpoints, timeout=1).get(b"k")
    with pytest.raises(ValueError, match="empty"):
        Client(["127.0.0.1:1"], key=b"")


def test_nothing_is_opened_by_the_constructor(served):
    threads = threading.active_count()
    Client(served.endpoints)
    assert threading.active_count() == threads


def test_a_client_opens_itself_at_the_first_call(served):
    client = Client(served.endpoints[0])
    assert client.state is State.LOST
    client.put(b"k", b"v")
    client.close()


def test_nobody_there():
    with Served(FakeCluster()) as nodes:
        endpoints = nodes.endpoints
    with pytest.raises(Timeout, match="no node answered"):
        Client.connect(endpoints, timeout=0.1)
    client = Client(endpoints, timeout=0.1)
    with pytest.raises(NotLeader):
        client.put(b"k", b"v")
    client.close()


def test_a_cluster_key():
    with Served(FakeCluster(mac=Mac(b"0123456789abcdef", b"client"))) as nodes:
        with Client.connect(nodes.endpoints, key=b"0123456789abcdef") as client:
            client.put(b"k", b"x" * 5000)
            assert client.get(b"k").value == b"x" * 5000
        for key in (None, b"another key"):
            with pytest.raises(Timeout):
                Client.connect(nodes.endpoints, key=key, timeout=0.1)


def test_many_threads_share_one_client(served, client):
    failures = []

    def work(number):
        try:
            for i in range(30):
                client.put(b"%d/%d" % (number, i), b"%d" % i)
                if client.get(b"%d/%d" % (number, i)).value != b"%d" % i:
                    failures.append((number, i))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(served.cluster.sessions) == 1
    assert set(served.cluster.executed.values()) == {1}


def test_lost_datagrams_are_repeated(served, client):
    client.put(b"k", b"v")
    dice = random.Random(1)  # no period, which could meet every transmission of one operation
    served.drop = lambda datagram: dice.random() < 1 / 3
    futures = [client.put_nowait(b"k%d" % i, b"v") for i in range(50)]
    assert all(isinstance(future.result(timeout=10), PutResult) for future in futures)
    for i in range(10):
        client.put(b"k%d" % i, b"w")
    served.drop = lambda datagram: False
    assert set(served.cluster.executed.values()) == {1}


def test_futures(client):
    futures = [client.put_nowait(b"k%d" % i, b"%d" % i) for i in range(200)]
    assert len({future.result(timeout=5).revision for future in futures}) == 200
    assert client.get_nowait(b"k7").result(timeout=5).value == b"7"
    assert client.get_nowait(b"absent").result(timeout=5) is None
    assert isinstance(client.submit(Range(b"k7")).result(timeout=5), RangeResult)
    called = threading.Event()
    client.put_nowait(b"k", b"v").add_done_callback(lambda future: called.set())
    assert called.wait(5)


def test_a_callback_may_use_the_client(client):
    found = []
    done = threading.Event()

    def go_on(future):
        client.put_nowait(b"next", b"v").add_done_callback(lambda second: (found.append(second.result()), done.set()))

    client.put_nowait(b"first", b"v").add_done_callback(go_on)
    assert done.wait(5)
    assert isinstance(found[0], PutResult)


@pytest.fixture
def callers_receive(client, monkeypatch):
    """The client's thread leaves receiving to whoever calls."""
    monkeypatch.setattr(client._io, "_wants_to_receive", lambda: False)


def test_a_callback_may_wait_for_an_answer_on_a_caller_that_received(served, client, callers_receive):
    client.put(b"k", b"v")
    found = []
    served.cluster.store[b"other"] = b"w"
    client.put_nowait(b"first", b"v").add_done_callback(lambda future: found.append(client.get(b"other").value))
    while not found:
        client.get(b"k")
    assert found == [b"w"]


def test_a_callback_may_wait_for_an_answer_on_the_thread(client):
    client.put(b"k", b"v")
    found = []
    done = threading.Event()

    def ask(future):
        found.append(client.get(b"k").value)
        done.set()

    client.put_nowait(b"first", b"v").add_done_callback(ask)
    assert done.wait(10)
    assert found == [b"v"]


def test_a_callback_may_close_the_client_on_a_caller_that_received(served, client, callers_receive):
    client.put(b"k", b"v")
    thread = client._io._thread
    client.put_nowait(b"first", b"v").add_done_callback(lambda future: client.close())
    with pytest.raises(ConnectionLost):
        while True:
            client.get(b"k")
    assert not thread.is_alive()
    assert served.cluster.sessions == {}


def test_callbacks_that_wait_do_not_pile_up_on_one_stack(served, client, callers_receive):
    client.put(b"k", b"v")
    depths = []

    def ask(future):
        client.get(b"k")
        depths.append(len(inspect.stack(0)))

    with served.lock:
        for i in range(100):
            client.put_nowait(b"k%d" % i, b"v").add_done_callback(ask)
    while len(depths) < 100:
        client.get(b"k")
    assert max(depths) - min(depths) < 10


def test_a_caller_receives_if_whoever_should_is_held_up(client, callers_receive, monkeypatch):
    class Held(Seat):
        """Somebody else has it when it is first asked for."""

        asked = 0

        def take(self, who):
            self.asked += 1
            return self.asked > 1 and super().take(who)

    held = Held()
    monkeypatch.setattr(client._io, "_receiving", held)
    monkeypatch.setattr(iothread, "LONGEST_WAIT", MILLISECOND)
    assert isinstance(client.put(b"k", b"v"), PutResult)
    assert held.asked > 1


class Interrupt:
    """As a context manager: raises KeyboardInterrupt before the nth instruction of these functions on this thread."""

    def __init__(self, nth, *functions):
        self.left, self.codes = nth, {function.__code__ for function in functions}

    def trace(self, frame, event, _argument):
        if frame.f_code not in self.codes:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
        return self.trace

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, kind, error, trace):
        sys.settrace(self.before)
        return kind is KeyboardInterrupt


def test_an_interrupt_at_any_instruction_leaves_nobody_deaf(client, callers_receive):
    """Between the taking of what only one may have and the rest there is no moment that is safe from Ctrl-C."""
    client.put(b"k", b"v")
    io = client._io
    for nth in range(1, 300):
        client.put_nowait(b"other", b"w")  # for something to settle
        with Interrupt(nth, IoThread._await, IoThread._receive, IoThread._settle, Seat.take, Seat.leave) as interrupt:
            client.get(b"k")
        assert not io._receiving.taken and not io._settling.taken, nth
    assert interrupt.left > 0, "there are more instructions than were tried"
    assert client.get(b"k", timeout=5).value == b"v"
    last = client.put_nowait(b"other", b"x")
    while not last.done():
        client.get(b"k", timeout=5)


def test_an_interrupt_while_it_sends_leaves_no_write_under_way(client, callers_receive):
    client.put(b"k", b"v")
    io = client._io
    steps = (Session.take, Session._admit, Ledger.admit, Transmitter.records)
    for nth in range(1, 500):
        with Interrupt(nth, *steps) as interrupt:
            client.put(b"k", b"w")
        assert not io.protocol.session.in_flight, nth
    assert interrupt.left > 0, "there are more instructions than were tried"
    client.execute(Put(b"k", b"x"), settled=True, timeout=5)


def test_a_callback_that_does_not_return_does_not_hold_up_the_end(client, monkeypatch):
    client.put(b"k", b"v")
    thread = client._io._thread
    entered, go_on = threading.Event(), threading.Event()
    client.put_nowait(b"k", b"v").add_done_callback(lambda future: (entered.set(), go_on.wait()))
    assert entered.wait(5)
    monkeypatch.setattr(iothread, "GRACE", MILLISECOND)
    client.close()
    assert thread.is_alive()
    go_on.set()
    thread.join(5)
    assert not thread.is_alive()


def test_no_more_futures_are_begun_than_callbacks_take(client, callers_receive, monkeypatch):
    client.put(b"k", b"v")
    monkeypatch.setattr(iothread, "CLIENT_QUEUE_OPS", 3)
    callback = object()
    assert client._io._settling.take(callback)
    begun = []
    with pytest.raises(Overloaded, match="callback"):
        while len(begun) < 100:
            begun.append(client.put_nowait(b"k", b"v"))
            client.get(b"k")
    assert not any(future.done() for future in begun)
    client._io._settling.leave(callback)
    while not all(future.done() for future in begun):
        client.get(b"k")
    client.put_nowait(b"k", b"v")


def test_a_pipeline_that_does_not_fit_does_nothing(served, client, monkeypatch):
    client.put(b"k", b"v")
    monkeypatch.setattr(protocol, "CLIENT_QUEUE_OPS", 8)
    with client.pipeline() as pipe, pytest.raises(Overloaded):
        for i in range(9):
            pipe.put(b"p%d" % i, b"v")
        pipe.execute()
    client.put(b"k", b"w")
    assert served.cluster.store == {b"k": b"w"}
    with client.pipeline() as pipe:
        for i in range(8):
            pipe.put(b"p%d" % i, b"v")
    assert len(served.cluster.store) == 9


def test_the_client_goes_on_after_the_status_of_nonsense(client):
    with pytest.raises(ValueError, match="no port"):
        client.status("host")
    assert client.status(client.members[2])["node"] == 2


@pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_does_not_leave_callers_without_a_receiver(client, monkeypatch):
    client.put(b"k", b"v")
    io, turn = client._io, client._io._turn

    def fail_on_the_thread(readable):
        if threading.current_thread() is io._thread and io._receiving.taken:
            raise RuntimeError
        turn(readable)

    monkeypatch.setattr(io, "_turn", fail_on_the_thread)
    client.put_nowait(b"k", b"v")
    io._thread.join(5)
    assert not io._thread.is_alive()
    assert client.get(b"k", timeout=5).value == b"v"
    client.close()
    io._release()  # as the thread would have


def test_a_name_is_looked_up_by_one_thread_at_a_time(monkeypatch):
    asked, entered, answer = [], threading.Event(), threading.Event()

    def look_up(name):
        asked.append(name)
        entered.set()
        answer.wait()

    monkeypatch.setattr(iothread, "look_up", look_up)
    with Client(["name.invalid:1"]) as client:
        io = client._running()
        for _ in range(3):
            io.protocol.router.wanted.add("name.invalid:1")
            io._turn(False)
            assert entered.wait(5)
        answer.set()
    assert asked == ["name.invalid:1"]


def test_pipelines(served, client):
    client.put(b"k", b"v")
    before = served.cluster.datagrams
    with client.pipeline() as pipe:
        for i in range(12):
            pipe.put(b"k%d" % i, b"v")
        pipe.get(b"k0").delete(b"k1")
        assert len(pipe) == 14
    assert [type(result).__name__ for result in pipe.results[11:]] == ["PutResult", "RangeResult", "DeleteResult"]
    assert served.cluster.datagrams - before <= 2
    served.cluster.verdict = lambda node, record: Status.DISK_FULL if record.kind is Kind.COMMAND else None
    pipe.put(b"k", b"v").get(b"k")
    full, found = pipe.execute(raise_first=False)
    assert isinstance(full, DiskFull)
    assert isinstance(found, RangeResult)
    with pytest.raises(DiskFull):
        pipe.put(b"k", b"v").execute()
    assert client.pipeline().execute() == []


def test_a_pipeline_that_fails_to_be_built_sends_nothing(served, client):
    with pytest.raises(KeyError), client.pipeline() as pipe:
        pipe.put(b"k", b"v")
        raise KeyError
    assert b"k" not in served.cluster.store


def test_refusals_are_raised_at_once_if_so_asked(served):
    served.cluster.verdict = lambda node, record: Status.OVERLOADED if record.kind is Kind.READ else None
    with Client.connect(served.endpoints, retry=False) as client, pytest.raises(Overloaded):
        client.get(b"k")


def test_states_are_told(served):
    states = []
    told = threading.Event()
    client = Client(served.endpoints)
    client.add_listener(lambda state: 1 / 0)  # a listener that fails hurts nobody
    client.add_listener(lambda state: (states.append(state), told.set()))
    client.put(b"k", b"v")
    assert told.wait(5)
    assert states == [State.CONNECTED]
    told.clear()
    with served.lock:
        served.cluster.sessions.clear()
    with pytest.raises(Exception, match="session"):
        client.put(b"k", b"v")
    assert told.wait(5)
    assert State.LOST in states
    client.put(b"k", b"v")
    assert client.state is State.CONNECTED
    client.close()


def test_close_ends_what_is_under_way(served):
    client = Client.connect(served.endpoints)
    client.put(b"k", b"v")
    with served.lock:
        served.cluster.deaf = {1, 2, 3}
    pending = client.put_nowait(b"k", b"w")
    failed = []

    def blocked():
        with pytest.raises(ConnectionLost):
            client.put(b"k", b"x", timeout=30)
        failed.append(True)

    thread = threading.Thread(target=blocked)
    thread.start()
    while client._io.protocol.in_flight + client._io.protocol.waiting < 2:
        pass
    client.close()
    thread.join()
    assert failed
    with pytest.raises(ConnectionLost):
        pending.result(timeout=5)
    with pytest.raises(ConnectionLost):
        client.get(b"k")
    client.close()


def test_close_takes_leave_of_the_cluster(served):
    client = Client.connect(served.endpoints)
    client.put(b"k", b"v")
    assert len(served.cluster.sessions) == 1
    client.close()
    assert served.cluster.sessions == {}
    assert not any(thread.name == "quorumd-client" for thread in threading.enumerate())


def test_a_forgotten_client_leaves_no_thread(served):
    client = Client.connect(served.endpoints)
    client.put(b"k", b"v")
    thread = client._io._thread
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork_the_child_is_a_client_of_its_own(served, client):
    client.put(b"parent", b"before")
    sent, told = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            client.put(b"child", b"here")
            ours = {fd.fileno() for fd in client._io._sockets.sockets()}
            os.write(told, client._io.protocol.session.id)
            code = 0 if ours and client.get(b"parent").value == b"before" else 2
            client.close()
        finally:
            os._exit(code)
    os.close(told)
    session = os.read(sent, 16)
    os.close(sent)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    client.put(b"parent", b"after")
    assert client.get(b"child").value == b"here"
    assert session != client._io.protocol.session.id
    assert {session, client._io.protocol.session.id} == {owner for owner, _ in served.cluster.executed}


def test_what_is_sent_for_compare_and_set(client, served):
    commands = []

    def verdict(node, record):
        if record.kind is Kind.COMMAND:
            commands.append(decode_command(record.command))
            return Status.REJECTED
        return None

    served.cluster.verdict = verdict
    for expected in (None, b"old"):
        with pytest.raises(Rejected):
            client.cas(b"k", expected, b"v")
    with pytest.raises(Rejected):
        client.txn([Compare.version(b"k", ">", 0)], [Put(b"k", b"v")])
    with client.pipeline() as pipe, pytest.raises(Rejected):
        pipe.cas(b"k", None, b"v").execute()
    missing = Txn((Compare.version(b"k", "=", 0),), (Put(b"k", b"v"),))
    assert commands == [
        missing,
        Txn((Compare.value(b"k", "=", b"old"),), (Put(b"k", b"v"),)),
        Txn((Compare.version(b"k", ">", 0),), (Put(b"k", b"v"),)),
        missing,
    ]
