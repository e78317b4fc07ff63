"""The load generator against nodes on loopback sockets: what it sends is what a client would send, and what it says of
the answers is true."""

import pytest
from fakes import CLUSTER, FakeCluster, Served

from quorumd.commands import Kind, Put, Status, decode_command
from quorumd_fastpath.load import LoadGenerator
from quorumd_fastpath.udp import pack_addr
from quorumd_fastpath.wire import KIND_REPLY

HOST = "127.0.0.1"
DEADLINE_S = 20.0
SLICE_S = 0.02


@pytest.fixture
def served():
    with Served(FakeCluster(mtu=60_000)) as nodes:
        yield nodes


def addresses(served: Served) -> list[tuple[int, bytes]]:
    parted = {node: text.rpartition(":") for node, text in served.cluster.nodes.items()}
    return [(node, pack_addr(host, int(port))) for node, (host, _, port) in parted.items()]


@pytest.fixture
def load(served):
    made = []

    def make(clients=10, **options) -> LoadGenerator:
        generator = LoadGenerator(addresses(served), CLUSTER, clients=clients, **options)
        made.append(generator)
        generator.open(HOST)
        return generator

    yield make
    for generator in made:
        generator.close()
        generator.close()


def run_until(generator: LoadGenerator, condition) -> None:
    """In slices of real time, as its users do; the number of slices only ends a test that has failed."""
    for _ in range(int(DEADLINE_S / SLICE_S)):
        if condition():
            return
        generator.run(SLICE_S)
    pytest.fail("the load made no progress")


def test_each_client_writes_its_key_in_its_session(served, load):
    generator = load(clients=20, key_bytes=16, value_bytes=100)
    assert generator.open_sessions(DEADLINE_S)
    assert len(served.cluster.sessions) == 20
    run_until(generator, lambda: generator.done >= 200)
    assert generator.drain(DEADLINE_S)
    assert generator.in_flight == 0
    assert generator.errors == generator.redirects == 0
    assert set(served.cluster.executed.values()) == {1}
    acknowledged = generator.acknowledged()
    assert sum(acknowledged) == generator.done == sum(count for _, count in generator.latencies())
    for number, seq in enumerate(acknowledged):
        key = generator.key_of(number)
        assert len(key) == 16
        value = served.cluster.store[key]
        assert int.from_bytes(value[:8], "little") == seq
        assert value[8:] == b"v" * 92
    assert len(served.cluster.store) == 20


def test_operations_of_different_clients_share_datagrams(served, load):
    generator = load(clients=32, per_datagram=8)
    assert generator.open_sessions(DEADLINE_S)
    before, done = served.cluster.datagrams, generator.done
    run_until(generator, lambda: generator.done >= done + 320)
    assert generator.drain(DEADLINE_S)
    assert served.cluster.datagrams - before <= (generator.done - done) // 8 + generator.resends + 1
    assert set(served.cluster.executed.values()) == {1}


def test_reads_are_reads(served, load):
    generator = load(reads_percent=50)
    assert generator.open_sessions(DEADLINE_S)
    run_until(generator, lambda: generator.done >= 400)
    assert generator.drain(DEADLINE_S)
    kinds = [record.kind for _, record in served.cluster.seen]
    reads, writes = kinds.count(Kind.READ), kinds.count(Kind.COMMAND)
    assert 0.3 < reads / (reads + writes) < 0.7
    assert generator.errors == 0


def test_a_redirect_is_followed(served, load):
    with served.lock:
        served.cluster.elect(3)
    generator = load()
    assert generator.open_sessions(DEADLINE_S)
    assert generator.leader == 3
    assert generator.redirects > 0
    with served.lock:
        served.cluster.elect(2)
    done = generator.done
    run_until(generator, lambda: generator.done >= done + 50)
    assert generator.leader == 2
    assert generator.drain(DEADLINE_S)
    assert set(served.cluster.executed.values()) == {1}


def test_a_dead_leader_is_left_and_nothing_executes_twice(served, load):
    generator = load(resend_ms=20)
    assert generator.open_sessions(DEADLINE_S)
    run_until(generator, lambda: generator.done >= 50)
    with served.lock:
        served.cluster.deaf = {1}
        served.cluster.elect(2)
    done = generator.done
    run_until(generator, lambda: generator.done >= done + 50)
    assert generator.resends > 0
    assert generator.leader == 2
    assert generator.drain(DEADLINE_S)
    assert set(served.cluster.executed.values()) == {1}
    assert generator.errors == 0


def test_lost_answers_are_asked_for_again(served, load):
    numbers = iter(range(1_000_000))
    served.drop = lambda datagram: next(numbers) % 4 == 0
    generator = load(resend_ms=5)
    assert generator.open_sessions(DEADLINE_S)
    run_until(generator, lambda: generator.done >= 100)
    assert generator.drain(DEADLINE_S)
    assert generator.resends > 0
    assert set(served.cluster.executed.values()) == {1}


def test_overload_is_waited_out_and_other_refusals_are_counted(served, load):
    generator = load(clients=4, resend_ms=20)
    assert generator.open_sessions(DEADLINE_S)
    refuse = iter([Status.OVERLOADED] * 8)
    served.cluster.verdict = lambda node, record: next(refuse, None)
    run_until(generator, lambda: generator.done >= 40)
    assert generator.errors == 0
    served.cluster.verdict = lambda node, record: Status.DISK_FULL
    run_until(generator, lambda: generator.errors >= 10)
    assert generator.last_error_status == Status.DISK_FULL
    served.cluster.verdict = lambda node, record: None
    assert generator.drain(DEADLINE_S)
    generator.reset()
    assert (generator.done, generator.errors, generator.resends, generator.max_us) == (0, 0, 0, 0)
    assert generator.latencies() == []


def test_what_is_refused_is_neither_done_nor_in_a_latency(served, load):
    generator = load(clients=4, reads_percent=50)
    assert generator.open_sessions(DEADLINE_S)
    generator.reset()
    served.cluster.verdict = lambda node, record: Status.NO_SPACE
    run_until(generator, lambda: generator.errors >= 20)
    assert generator.drain(DEADLINE_S)
    assert (generator.done, generator.writes_done, generator.latencies(), generator.max_us) == (0, 0, [], 0)
    served.cluster.verdict = lambda node, record: None
    run_until(generator, lambda: generator.done >= 20)
    assert generator.drain(DEADLINE_S)
    assert generator.done == sum(count for _, count in generator.latencies())


@pytest.mark.parametrize("per_datagram", [1, 3])
def test_nothing_is_asked_before_every_session_is_open(served, load, per_datagram):
    slow = load(clients=8, per_datagram=per_datagram)
    late = set()

    def verdict(node, record):  # one session in two opens at the second attempt only
        if record.kind is Kind.OPEN_SESSION and record.session[8] % 2 and record.session not in late:
            late.add(record.session)
            return Status.OVERLOADED
        return None

    served.cluster.verdict = verdict
    assert slow.open_sessions(DEADLINE_S)
    assert late
    assert {record.kind for _, record in served.cluster.seen} == {Kind.OPEN_SESSION}


def test_a_rate_is_kept(served, load):
    generator = load(clients=50)
    assert generator.open_sessions(DEADLINE_S)
    generator.set_rate(200.0)
    generator.reset()
    generator.run(0.5)
    assert 0 < generator.done <= 200 * 0.5 * 1.2 + 10


def test_swaps_swap_what_nobody_else_changed(served, load):
    generator = load(clients=1, cas_percent=100, keys=1, value_bytes=20)
    assert generator.open_sessions(DEADLINE_S)
    run_until(generator, lambda: generator.done >= 50)
    assert generator.drain(DEADLINE_S)
    assert (generator.swaps_failed, generator.writes_done, generator.errors) == (0, generator.done, 0)
    assert served.cluster.store == {generator.key_of(0): generator.done.to_bytes(8, "little") + b"v" * 12}
    with served.lock:
        served.cluster._run(Put(generator.key_of(0), b"from elsewhere"))
    swapped = generator.writes_done
    run_until(generator, lambda: generator.swaps_failed >= 5)
    assert generator.drain(DEADLINE_S)
    assert generator.writes_done == swapped
    assert served.cluster.store == {generator.key_of(0): b"from elsewhere"}


def test_swaps_of_several_clients_contend_and_one_of_them_wins(served, load):
    generator = load(clients=8, cas_percent=60, reads_percent=20, keys=2)
    assert generator.open_sessions(DEADLINE_S)
    generator.reset()
    run_until(generator, lambda: generator.done >= 1000)
    assert generator.drain(DEADLINE_S)
    assert generator.swaps_failed > 0 and generator.writes_done > 0
    # Each once: on a busy machine some are sent again.
    asked = {(record.session, record.seq) for _, record in served.cluster.seen if record.kind == Kind.COMMAND}
    assert generator.writes_done + generator.swaps_failed == len(asked)
    assert set(served.cluster.executed.values()) == {1}


@pytest.mark.parametrize(("skew", "least", "most"), [(0.0, 0.005, 0.06), (2.0, 0.5, 0.75)])
def test_keys_are_drawn_as_asked(served, load, skew, least, most):
    generator = load(clients=4, keys=40, skew=skew)
    assert generator.open_sessions(DEADLINE_S)
    run_until(generator, lambda: generator.done >= 1000)
    assert generator.drain(DEADLINE_S)
    keys = [decode_command(record.command).key for _, record in served.cluster.seen if record.kind is Kind.COMMAND]
    assert set(keys) <= {generator.key_of(number) for number in range(40)}
    assert least < keys.count(generator.key_of(0)) / len(keys) < most  # Zipf: 1 / (1 + 1/4 + 1/9 + ...) = 0.62


def test_an_open_loop_counts_from_when_an_operation_was_due(served, load):
    generator = load(clients=1, rate=200.0, open_loop=True, resend_ms=5)
    assert generator.open_sessions(DEADLINE_S)
    served.drop = lambda datagram: True
    generator.reset()
    generator.run(0.3)
    assert generator.done == 0
    served.drop = lambda datagram: False
    run_until(generator, lambda: generator.done >= 40)
    late = sum(count for micros, count in generator.latencies() if micros > 100_000)
    assert late >= 30  # of the sixty that were due meanwhile; a closed loop would have begun a single one
    begun = generator.done
    assert generator.drain(DEADLINE_S)
    assert generator.done <= begun + 1


@pytest.mark.parametrize("open_loop", [True, False])
def test_what_a_stall_left_unanswered_counts(served, load, open_loop):
    generator = load(clients=2, rate=1000.0, open_loop=open_loop, resend_ms=5)
    assert generator.open_sessions(DEADLINE_S)
    assert generator.drain(DEADLINE_S)
    served.drop = lambda datagram: True
    generator.reset()
    generator.run(0.2)
    assert generator.in_flight == 2
    unanswered = generator.settle(0.1)
    counts = generator.latencies()
    assert (generator.done, sum(count for _, count in counts)) == (0, unanswered)
    assert unanswered >= 150 if open_loop else unanswered == 2  # two hundred were due, and two could begin
    assert counts[0][0] >= 95_000 and counts[-1][0] >= 280_000
    served.drop = lambda datagram: False
    assert generator.drain(DEADLINE_S)
    assert generator.settle(0.0) == 0


def test_only_writes_that_were_begun_since_the_mark_count_for_it(served, load):
    generator = load(clients=3, resend_ms=5)
    assert generator.open_sessions(DEADLINE_S)
    served.drop = lambda datagram: True
    run_until(generator, lambda: generator.in_flight == 3)
    known = generator.writes_done
    generator.mark()
    served.drop = lambda datagram: False
    assert generator.drain(DEADLINE_S)  # which begins nothing
    assert generator.writes_done == known + 3
    assert generator.marked_writes_done == 0
    run_until(generator, lambda: generator.writes_done > known + 8)
    assert generator.marked_writes_done == generator.writes_done - known - 3
    generator.mark()
    assert generator.marked_writes_done == 0


def test_what_is_not_an_answer_is_ignored(served, load):
    real = served.cluster._encode

    def garbled(node, kind, payload=b"", **fields):
        if kind == KIND_REPLY:
            payload = payload[:32] if len(payload) > 64 else payload + b"\xff" * 7
        return real(node, kind, payload, **fields)

    generator = load(clients=4, resend_ms=5)
    assert generator.open_sessions(DEADLINE_S)
    served.cluster._encode = garbled
    generator.run(0.1)
    served.cluster._encode = real
    done = generator.done
    run_until(generator, lambda: generator.done >= done + 20)
    assert set(served.cluster.executed.values()) == {1}


@pytest.mark.parametrize(
    "options",
    [
        {"clients": 0},
        {"clients": 1 << 21},
        {"clients": 1, "per_datagram": 2},
        {"clients": 10, "per_datagram": 0},
        {"clients": 10, "key_bytes": 7},
        {"clients": 10, "value_bytes": 7},
        {"clients": 10, "value_bytes": 2000, "mtu": 1400},
        {"clients": 10, "value_bytes": (1 << 20) + 1},
        {"clients": 10, "reads_percent": 60, "cas_percent": 41},
        {"clients": 10, "keys": (1 << 22) + 1},
        {"clients": 10, "skew": -1.0},
        {"clients": 10, "skew": 0.9},
        {"clients": 10, "open_loop": True},
        {"clients": 10, "open_loop": True, "rate": 10.0, "per_datagram": 2},
    ],
)
def test_sizes_that_do_not_fit(options):
    with pytest.raises(ValueError, match=r"."):
        LoadGenerator([(1, pack_addr(HOST, 1))], CLUSTER, **options)


def test_no_nodes_no_socket():
    with pytest.raises(ValueError, match="node"):
        LoadGenerator([], CLUSTER, clients=1)
    generator = LoadGenerator([(1, pack_addr(HOST, 1))], CLUSTER, clients=1)
    with pytest.raises(RuntimeError, match="open"):
        generator.run(0.01)


@pytest.mark.parametrize("key_bytes", [8, 12, 13, 16, 64])
def test_keys_differ_by_client(key_bytes):
    generator = LoadGenerator([(1, pack_addr(HOST, 1))], CLUSTER, clients=300, key_bytes=key_bytes)
    keys = {generator.key_of(number) for number in range(300)}
    assert len(keys) == 300
    assert {len(key) for key in keys} == {key_bytes}
