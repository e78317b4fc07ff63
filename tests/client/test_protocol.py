"""The client without IO against a fake cluster on simulated time: every transition of the protocol, and all of them
at once under loss, duplication and reordering."""

import json

import pytest
from fakes import CLUSTER, FakeCluster, World
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumd.auth import Mac
from quorumd.client.calls import LEADER, check_accepted, operation_for, status_operation, transfer_operation
from quorumd.client.operation import REFUSALS, VERDICTS, Operation, Plane
from quorumd.client.protocol import ClientProtocol
from quorumd.client.routing import Router
from quorumd.client.states import State
from quorumd.commands import (
    DeleteRange,
    DeleteResult,
    Kind,
    Put,
    PutResult,
    Range,
    RangeResult,
    Reply,
    Status,
    encode_reply,
)
from quorumd.errors import (
    Compacted,
    ConnectionLost,
    Definite,
    DiskFull,
    FutureRevision,
    KeyNotFound,
    LeaseExists,
    LeaseNotFound,
    NoSpace,
    NotLeader,
    Overloaded,
    Rejected,
    ReplyEvicted,
    SessionExpired,
    Stopped,
    Timeout,
    TooLarge,
)
from quorumd.limits import (
    CLIENT_CLOSE_DEADLINE,
    CLIENT_FIRST_RETRY,
    CLIENT_LOOK_UP_AGAIN,
    CLIENT_QUEUE_OPS,
    CLIENT_READS_IN_FLIGHT,
    CLIENT_STALE_IN_FLIGHT,
    CLIENT_SUSPENDED_AFTER,
    MILLISECOND,
    SECOND,
    SESSION_WINDOW_OPS,
)
from quorumd_fastpath import wire

MS = MILLISECOND


def put(world: World, key: bytes = b"k", value: bytes = b"v", timeout: int = 5 * SECOND, **options) -> Operation:
    return operation_for(Put(key, value), world.now + timeout, **options)


def get(world: World, key: bytes = b"k", timeout: int = 5 * SECOND, **options) -> Operation:
    return operation_for(Range(key), world.now + timeout, **options)


def with_a_session() -> tuple[World, ClientProtocol]:
    """A world, and a client in it that has written something."""
    world = World(FakeCluster())
    client = world.client()
    opened = put(world, b"opened")
    world.submit(client, opened)
    assert world.run(SECOND, done(opened))
    return world, client


def done(*operations: Operation):
    return lambda: all(operation.done for operation in operations)


def writes_seen(cluster: FakeCluster) -> list[tuple[int, int]]:
    return [(node, record.seq) for node, record in cluster.seen if record.kind is Kind.COMMAND]


# -- the usual --------------------------------------------------------------------------------------------------------


def test_write_then_read():
    world = World(FakeCluster())
    client = world.client()
    write = put(world)
    world.submit(client, write)
    assert world.run(SECOND, done(write))
    assert isinstance(write.result(), PutResult)
    read = get(world)
    world.submit(client, read)
    assert world.run(SECOND, done(read))
    result = read.result()
    assert isinstance(result, RangeResult)
    assert [kv.value for kv in result.kvs] == [b"v"]
    assert client.cluster == CLUSTER
    assert client.router.members() == world.cluster.nodes


def test_nothing_is_sent_before_start():
    world = World(FakeCluster())
    client = world.client()
    assert client.take_datagrams() == []  # the hellos of start() are on their way
    assert world.states["client"] == []
    assert client.state is State.LOST


def test_one_endpoint_is_enough_to_find_the_leader():
    cluster = FakeCluster()
    cluster.elect(3)
    world = World(cluster)
    client = world.client(endpoints=["node2:7000"])
    write = put(world)
    world.submit(client, write)
    assert world.run(SECOND, done(write))
    assert writes_seen(cluster) == [(3, 1)]


def test_operations_waiting_together_share_datagrams():
    world = World(FakeCluster())
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    before = world.cluster.datagrams
    operations = [put(world, b"k%d" % i, b"x" * 20) for i in range(30)]
    world.submit(client, *operations)
    assert world.run(SECOND, done(*operations))
    assert world.cluster.datagrams - before == 2  # (1400 - 80) // (40 + 24 + 2..3 + 20) = 15 records each


def test_the_mtu_holds_for_every_datagram():
    world = World(FakeCluster(mtu=1400, mac=Mac(b"secret", b"client")))
    sizes = []
    world.filter = lambda source, dest, datagram: sizes.append(len(datagram)) or True
    client = world.client()
    operations = [put(world, b"k%d" % i, b"x" * (i * 97 % 5000)) for i in range(200)]
    world.submit(client, *operations)
    assert world.run(5 * SECOND, done(*operations))
    assert max(sizes) <= 1400
    assert all(operation.error is None for operation in operations)


def test_large_values_travel_in_fragments_both_ways():
    world = World(FakeCluster(), seed=3)
    world.loss = 0.05
    client = world.client()
    value = bytes(range(256)) * 4096
    write = put(world, b"large", value)
    world.submit(client, write)
    assert world.run(5 * SECOND, done(write))
    assert write.error is None
    read = get(world, b"large")
    world.submit(client, read)
    assert world.run(5 * SECOND, done(read))
    assert read.result().kvs[0].value == value
    assert max(world.cluster.executed.values()) == 1


def test_fragments_under_way_are_not_started_again():
    world = World(FakeCluster())
    client = world.client()
    world.run(10 * MS)
    world.delay = (50 * MS, 50 * MS)
    sent = []
    world.filter = lambda source, dest, datagram: sent.append(datagram[5]) or True
    write = put(world, b"large", bytes(1 << 20))
    world.submit(client, write)
    assert world.run(5 * SECOND, done(write))
    assert write.error is None
    assert write.transmissions == 1
    assert sent.count(wire.KIND_FRAGMENT) < 2 * (1 << 20) / 1296


def test_the_window_bounds_what_is_under_way():
    world = World(FakeCluster(mtu=60_000))
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    lost_one = put(world)  # keeps answered_below where it is
    world.filter = lambda source, dest, datagram: False
    world.submit(client, lost_one)
    world.filter = lambda source, dest, datagram: True
    operations = [put(world, b"k%d" % i) for i in range(2 * SESSION_WINDOW_OPS)]
    world.submit(client, *operations)
    assert client.in_flight == SESSION_WINDOW_OPS
    assert world.run(SECOND, done(lost_one, *operations))
    assert max(world.cluster.executed.values()) == 1
    assert len(world.cluster.executed) == 2 * SESSION_WINDOW_OPS + 2


def test_more_than_the_queue_holds_is_refused_at_once():
    world = World(FakeCluster())
    world.cluster.deaf = {1, 2, 3}
    client = world.client()
    operation = put(world)
    for _ in range(CLIENT_QUEUE_OPS):
        client.submit(put(world), world.now)
    with pytest.raises(Overloaded):
        client.submit(operation, world.now)


def test_a_stale_read_of_a_revision_that_a_node_has_yet_to_reach_is_asked_of_others():
    world = World(FakeCluster())
    world.cluster.store[b"k"] = b"v"
    world.cluster.verdict = lambda node, record: Status.FUTURE_REVISION if node != 3 else None
    client = world.client()
    world.run(10 * MS)
    read = get(world, stale=True)
    world.submit(client, read)
    assert world.run(SECOND, done(read))
    assert read.result().kvs[0].value == b"v"
    world.cluster.verdict = lambda node, record: Status.FUTURE_REVISION
    never = get(world, stale=True)
    world.submit(client, never)
    assert world.run(60 * SECOND, done(never))
    assert type(never.error) is Timeout
    assert "does not exist yet" in str(never.error)


def test_stale_reads_go_to_any_node_and_need_no_leader():
    cluster = FakeCluster()
    cluster.store[b"k"] = b"old"
    world = World(cluster)
    client = world.client()
    world.run(10 * MS)
    cluster.leader = 0
    reads = [get(world, stale=True) for _ in range(6)]
    for read in reads:
        world.submit(client, read)
    assert world.run(SECOND, done(*reads))
    assert {node for node, _ in cluster.seen} == {1, 2, 3}


def test_status_and_transfer():
    world = World(FakeCluster())
    client = world.client()
    world.run(10 * MS)
    operations = [status_operation(node, world.now + SECOND) for node in (LEADER, 2, "node3:7000")]
    operations.append(transfer_operation(0, world.now + SECOND))
    world.submit(client, *operations)
    assert world.run(SECOND, done(*operations))
    assert [operation.document.get("node") for operation in operations[:3]] == [1, 2, 3]
    assert operations[3].document["ok"] is True
    unknown = status_operation(9, world.now + SECOND)
    world.submit(client, unknown)
    assert world.run(2 * SECOND, done(unknown))
    assert "no known address" in str(unknown.error)


# -- finding the leader again -----------------------------------------------------------------------------------------


def test_a_redirect_is_followed_at_once():
    world = World(FakeCluster())
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.cluster.elect(2)
    started = world.now
    write = put(world)
    world.submit(client, write)
    assert world.run(SECOND, done(write))
    assert world.now - started < 2 * MS
    assert writes_seen(world.cluster)[-2:] == [(1, 2), (2, 2)]


def test_without_a_hint_everyone_is_asked_again_after_a_pause():
    world = World(FakeCluster())
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.cluster.leader = 0
    write = put(world)
    world.submit(client, write)
    world.run(200 * MS)
    assert not write.done
    world.cluster.elect(3)
    started = world.now
    assert world.run(SECOND, done(write))
    assert world.now - started < 205 * MS
    assert max(world.cluster.executed.values()) == 1


def test_a_dead_leader_is_noticed_and_the_new_one_found():
    world = World(FakeCluster())
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.cluster.deaf = {1}
    world.cluster.leader = 0
    started = world.now
    write = put(world)
    world.submit(client, write)
    world.at(started + 150 * MS, lambda: world.cluster.elect(2))
    assert world.run(5 * SECOND, done(write))
    assert world.now - started < 250 * MS
    assert write.error is None


def test_hints_that_lead_in_circles_do_not_become_a_storm():
    cluster = FakeCluster()
    world = World(cluster)
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    real, cluster.leader = cluster.answer, 0

    def circle(node, record):
        other = node % 3 + 1
        reply = real(node, record)
        return reply._replace(body=other.to_bytes(2, "little") + cluster.nodes[other].encode())

    cluster.answer = circle
    write = put(world)
    world.submit(client, write)
    before = cluster.datagrams
    world.run(SECOND)
    assert cluster.datagrams - before < 150
    cluster.answer = real
    cluster.elect(2)
    assert world.run(SECOND, done(write))


def test_only_the_leader_itself_clears_a_doubt_about_it():
    router = Router(["a:1", "b:1"], lambda text: text)
    for node, text in ((1, "a:1"), (2, "b:1")):
        router.answered(node, text, {1: "a:1", 2: "b:1"})
    assert router.claimed(2, 1, 5)
    assert router.target() == (1, "a:1")
    router.doubt(0)
    assert not router.claimed(2, 1, 5)
    assert router.target() is None
    assert not router.claimed(2, 2, 4)  # an old term
    assert router.claimed(1, 1, 5)
    assert router.target() == (1, "a:1")
    assert not router.claimed(1, 1, 5)
    assert router.claimed(1, 2, 6)
    assert router.target() == (2, "b:1")
    assert not router.hinted(1, 1, "a:1", 0)  # from somebody who was asked before
    assert router.target() == (2, "b:1")
    assert router.hinted(2, 1, "a:1", 0)
    assert router.target() == (1, "a:1")


def test_a_restarted_leader_with_a_new_address_is_found():
    world = World(FakeCluster(1))
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.filter = lambda source, dest, datagram: dest != "node1:7000"
    world.run(MS)
    world.cluster.nodes[1] = "node1:8000"  # its name now resolves to another address
    client.router.resolved("node1:7000", "node1:8000")
    client.router._proven.clear()
    write = put(world)
    world.submit(client, write)
    assert world.run(5 * SECOND, done(write))
    assert write.error is None


def test_a_lost_datagram_among_many_raises_no_alarm():
    world = World(FakeCluster())
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.filter = lambda source, dest, datagram: source != "client"
    lost = put(world)
    world.submit(client, lost)
    world.filter = lambda source, dest, datagram: True
    world.run(CLIENT_FIRST_RETRY // 2)
    other = put(world)
    world.submit(client, other)
    world.run(CLIENT_FIRST_RETRY)
    assert lost.done
    assert other.done
    assert lost.transmissions == 2
    assert world.states["client"] == [State.CONNECTED]


# -- definite or not --------------------------------------------------------------------------------------------------

# (what happens to each transmission in turn, then forever) -> the error at the deadline
DEADLINES = [
    ("no leader ever", [], NotLeader),
    ("refused once, then no leader", [Status.NOT_LEADER], NotLeader),
    ("lost", ["lost"], Timeout),
    ("lost, then refused", ["lost", Status.OVERLOADED], Timeout),
    ("refused, then lost", [Status.OVERLOADED, "lost"], Timeout),
    ("executed, reply lost, then refused", ["mute", Status.DISK_FULL], Timeout),
    ("disk full", [Status.DISK_FULL], DiskFull),
    ("stopped", [Status.STOPPED, "leaderless"], Stopped),
]


@pytest.mark.parametrize(("script", "expected"), [row[1:] for row in DEADLINES], ids=[row[0] for row in DEADLINES])
def test_what_is_said_at_the_deadline(script, expected):
    cluster = FakeCluster(1)
    world = World(cluster)
    client = world.client()
    opening = put(world)
    world.submit(client, opening)
    world.run(SECOND, done(opening))
    steps = iter(script)
    last: list[object] = []
    muted: list[int] = []

    def verdict(node, record):
        step = next(steps, last[-1] if last else None)
        last.append(step)
        muted.append(step in ("lost", "mute"))
        if step == "leaderless" or not isinstance(step, Status):
            return None if step == "mute" else Status.NOT_LEADER
        return step

    cluster.verdict = verdict
    cluster.hint = False
    if script in ([], [Status.NOT_LEADER]) or "leaderless" in script:
        cluster.leader = 0
        if not script:
            cluster.deaf = {1}
            world.run(1)
            client.router.doubt(world.now)
    world.filter = lambda source, dest, datagram: dest != "client" or not (muted and muted[-1]) or datagram[5] != 67
    write = put(world, timeout=2 * SECOND)
    world.submit(client, write)
    assert world.run(3 * SECOND, done(write))
    assert type(write.error) is expected
    if isinstance(write.error, Definite):
        assert cluster.executed[write.session, write.seq] == 0


def test_a_second_refusal_by_one_node_may_be_a_late_copy_of_the_first():
    operation = Operation(Plane.WRITE, Kind.COMMAND, b"", 0)
    refusal = Overloaded("full")
    assert operation.definite
    operation.transmitted(1, 0)
    assert not operation.definite
    operation.refused(2, refusal)  # was not asked
    assert not operation.definite
    operation.refused(1, refusal)
    assert operation.definite
    operation.transmitted(2, 1)
    operation.refused(2, refusal)
    assert operation.definite
    operation.transmitted(1, 2)
    operation.refused(1, refusal)
    assert not operation.definite
    assert type(operation.out_of_time()) is Timeout


def test_a_refused_operation_is_repeated_once_a_pause_and_not_by_older_timers_too():
    world = World(FakeCluster())
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.cluster.verdict = lambda node, record: Status.OVERLOADED
    write = put(world)
    world.submit(client, write)
    world.run(55 * MS)
    assert write.transmissions == 2
    world.run(10 * MS)
    assert write.transmissions == 3


def test_every_status_is_either_success_refusal_or_verdict():
    assert REFUSALS.keys() | VERDICTS.keys() | {Status.OK} == set(Status)
    assert not REFUSALS.keys() & VERDICTS.keys()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.REJECTED, Rejected),
        (Status.TOO_LARGE, TooLarge),
        (Status.FUTURE_REVISION, FutureRevision),
        (Status.KEY_NOT_FOUND, KeyNotFound),
        (Status.LEASE_NOT_FOUND, LeaseNotFound),
        (Status.LEASE_EXISTS, LeaseExists),
        (Status.COMPACTED, Compacted),
        (Status.SESSION_EXPIRED, SessionExpired),
        (Status.REPLY_EVICTED, ReplyEvicted),
        (Status.ANSWERED, ConnectionLost),
    ],
)
def test_verdicts_end_an_operation_at_once(status, expected):
    world = World(FakeCluster())
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.cluster.verdict = lambda node, record: status
    write = put(world)
    world.submit(client, write)
    assert world.run(10 * MS, done(write))
    assert type(write.error) is expected


def test_overload_is_retried_or_raised_as_asked():
    world = World(FakeCluster())
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.cluster.verdict = lambda node, record: Status.OVERLOADED
    patient, hasty = put(world), put(world, retry=False)
    world.submit(client, patient, hasty)
    assert world.run(10 * MS, done(hasty))
    assert type(hasty.error) is Overloaded
    assert not patient.done
    world.cluster.verdict = lambda node, record: None
    assert world.run(SECOND, done(patient))
    assert patient.error is None


def test_what_is_never_sent_is_definite():
    world = World(FakeCluster())
    world.cluster.deaf = {1, 2, 3}
    client = world.client()
    write, read = put(world, timeout=SECOND), get(world, timeout=SECOND)
    world.submit(client, write, read)
    assert world.run(2 * SECOND, done(write, read))
    assert type(write.error) is type(read.error) is NotLeader


def test_cancelled_operations_free_the_window_and_complete_nothing():
    world = World(FakeCluster())
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.cluster.deaf = {1, 2, 3}
    write = put(world)
    world.submit(client, write)
    assert client.session.answered_below == 2
    client.cancel(write)
    assert client.session.answered_below == 3
    assert client.in_flight == 0
    world.run(SECOND)
    assert write not in world.completed


# -- the session ------------------------------------------------------------------------------------------------------


def test_an_expired_session_loses_what_was_sent_and_not_what_was_not():
    world = World(FakeCluster(mtu=60_000))
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.cluster.sessions.clear()
    operations = [put(world, b"k%d" % i) for i in range(SESSION_WINDOW_OPS + 10)]
    world.submit(client, *operations)
    assert world.run(SECOND, done(*operations))
    assert all(type(operation.error) is SessionExpired for operation in operations[:SESSION_WINDOW_OPS])
    assert all(operation.error is None for operation in operations[SESSION_WINDOW_OPS:])
    assert world.states["client"] == [State.CONNECTED, State.LOST, State.CONNECTED]
    errors = {id(operation.error) for operation in operations[:SESSION_WINDOW_OPS]}
    assert len(errors) == SESSION_WINDOW_OPS


def test_an_idle_session_is_kept_alive_and_its_end_is_noticed():
    world = World(FakeCluster(ttl_ms=3000))
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.run(10 * SECOND)
    pings = [record for _, record in world.cluster.seen if record.kind is Kind.KEEP_ALIVE]
    assert 9 <= len(pings) <= 11
    assert client.session_safe_until > world.now
    world.cluster.sessions.clear()
    assert world.run(2 * SECOND, lambda: client.state is State.LOST)
    assert client.session_safe_until is None
    read = get(world)
    world.submit(client, read)
    assert world.run(SECOND, done(read))
    assert client.state is State.LOST  # a read needs no session, and proves none
    write = put(world)
    world.submit(client, write)
    assert world.run(SECOND, done(write))
    assert write.error is None
    assert client.state is State.CONNECTED


def test_without_a_leader_the_state_is_suspended_until_one_answers():
    world = World(FakeCluster())
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.cluster.deaf = {1, 2, 3}
    write = put(world, timeout=60 * SECOND)
    world.submit(client, write)
    world.run(CLIENT_FIRST_RETRY + CLIENT_SUSPENDED_AFTER + MS)
    assert world.states["client"] == [State.CONNECTED, State.SUSPENDED]
    world.cluster.deaf = set()
    assert world.run(SECOND, done(write))
    assert world.states["client"] == [State.CONNECTED, State.SUSPENDED, State.CONNECTED]


def test_too_many_sessions_is_what_the_writes_are_told():
    world = World(FakeCluster())
    client = world.client()
    world.cluster.verdict = lambda node, record: Status.TOO_MANY_SESSIONS
    patient, hasty = put(world, timeout=SECOND), put(world, retry=False)
    world.submit(client, patient, hasty)
    assert world.run(2 * SECOND, done(patient, hasty))
    for operation in (patient, hasty):
        assert type(operation.error) is Overloaded
        assert "sessions" in str(operation.error)
    assert client.take_completed() == []


@pytest.mark.parametrize(
    ("status", "expected"), [(Status.REJECTED, Rejected), (Status.DISK_FULL, DiskFull), (Status.NO_SPACE, NoSpace)]
)
def test_a_session_that_cannot_be_opened_fails_the_writes_at_once(status, expected):
    world = World(FakeCluster())
    client = world.client()
    world.cluster.verdict = lambda node, record: status
    write = put(world)
    world.submit(client, write)
    assert world.run(10 * MS, done(write))
    assert type(write.error) is expected
    assert len(world.cluster.seen) == 1
    world.cluster.verdict = lambda node, record: None
    later = put(world)
    world.submit(client, later)
    assert world.run(SECOND, done(later))
    assert later.error is None


def test_close_ends_everything_and_the_session():
    world = World(FakeCluster())
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    pending = put(world)
    client.submit(pending, world.now)
    farewell = client.close(world.now)
    client.flush(world.now)
    world.run(CLIENT_CLOSE_DEADLINE, farewell_done := done(farewell))
    assert farewell_done()
    assert farewell.error is None
    assert world.cluster.sessions == {}
    assert type(pending.error) is ConnectionLost
    with pytest.raises(ConnectionLost):
        client.submit(put(world), world.now)


# -- strangers --------------------------------------------------------------------------------------------------------


def test_another_cluster_is_ignored():
    world = World(FakeCluster())
    client = world.client(cluster=CLUSTER + 1)
    world.run(SECOND)
    assert client.cluster == 0
    assert client.counters["wrong_cluster"] > 0


def test_hello_replies_to_others_are_ignored():
    world = World(FakeCluster())
    client = world.client()
    world.filter = lambda source, dest, datagram: False
    hello = wire.encode_frame(
        wire.KIND_CLIENT_HELLO_REPLY, 0, CLUSTER, 1, 0, 99, 0, 0, client._nonce + 1, 0, 0, world.cluster.hello(1)
    )
    client.receive(hello, "node1:7000", world.now)
    assert client.cluster == 0


@pytest.mark.parametrize(
    "change",
    [
        {"mtu": 100}, {"mtu": "1400"}, {"mtu": 70_000}, {"leader": -1}, {"leader": []}, {"members": []},
        {"members": {"x": "node1:7000"}}, {"members": {"1": 7}}, {"members": {"0": "node1:7000"}},
        {"session_ttl_ms": 0}, {"term": -1}, {"term": 1.5},
    ],
)
def test_hello_replies_that_make_no_sense(change):
    world = World(FakeCluster())
    real = world.cluster.hello
    world.cluster.hello = lambda node: json.dumps({**json.loads(real(node)), **change}).encode()
    client = world.client()
    world.run(100 * MS)
    assert client.cluster == 0
    assert client.counters["malformed"] > 0


def test_replies_of_another_cluster_are_ignored():
    world = World(FakeCluster())
    client = world.client()
    first = put(world)
    world.submit(client, first)
    world.run(SECOND, done(first))
    world.filter = lambda source, dest, datagram: False
    read = get(world, timeout=SECOND)
    world.submit(client, read)
    reply = encode_reply(Reply(Status.REJECTED, Kind.READ, read.key[1], read.seq, 1, b""))
    for cluster in (CLUSTER + 1, 0, CLUSTER):
        assert not read.done
        frame = wire.encode_frame(wire.KIND_REPLY, 0, cluster, 1, 0, 99, 0, 0, 0, 0, 1, reply)
        client.receive(frame, "node1:7000", world.now)
    assert type(read.error) is Rejected
    assert client.counters["wrong_cluster"] == 2


def test_a_node_with_the_wrong_key_is_not_understood():
    world = World(FakeCluster(mac=Mac(b"right", b"client")))
    client = world.client()
    world.cluster.mac = Mac(b"wrong", b"client")
    for fragment in world.cluster.fragmenters.values():
        fragment.poll(world.now)
    write = put(world, timeout=SECOND)
    world.submit(client, write)
    assert world.run(2 * SECOND, done(write))
    assert type(write.error) is NotLeader


@given(st.binary(max_size=300), st.sampled_from([3, 4, 65, 67, 69, 71, 66, 200]))
def test_no_bytes_from_the_network_raise(payload, kind):
    world = World(FakeCluster())
    client = world.client()
    write = put(world)
    world.submit(client, write)
    world.run(5 * MS)
    for count in (0, 1, 2**32 - 1):
        nonce = client._nonce
        frame = wire.encode_frame(kind, 0, CLUSTER, 1, 0, 99, 0, 7, nonce, len(payload) + 80, count, payload)
        client.receive(frame, "node1:7000", world.now)
        client.receive(payload + frame, "node1:7000", world.now)
        client.tick(world.now)
    world._send_all()
    assert world.run(6 * SECOND, done(write))


# -- all of it at once ------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    duplicates=st.sampled_from([0.0, 0.2, 0.5]),
    spread=st.sampled_from([1, 20, 100]),
    changes=st.lists(st.tuples(st.integers(1, 1500), st.integers(0, 3)), max_size=6),
)
def test_every_acknowledged_write_executed_exactly_once(seed, loss, duplicates, spread, changes):
    cluster = FakeCluster()
    world = World(cluster, seed)
    world.loss, world.duplicates, world.delay = loss, duplicates, (MS // 10, spread * MS)
    client = world.client()
    for at, leader in changes:
        world.at(world.now + at * MS, lambda leader=leader: cluster.elect(leader))
    world.at(world.now + 2500 * MS, lambda: cluster.elect(2))
    operations = []
    for i in range(60):
        operation = put(world, b"k%d" % i, b"%d" % i, timeout=20 * SECOND)
        operations.append(operation)
        world.at(world.now + i * 20 * MS, lambda operation=operation: world.submit(client, operation))
    assert world.run(30 * SECOND, done(*operations))
    for operation in operations:
        executed = cluster.executed[operation.session, operation.seq]
        assert executed <= 1
        if operation.error is None:
            assert executed == 1
    assert all(operation.error is None for operation in operations)
    assert len(cluster.store) == 60
    assert not client.in_flight
    world.run(SECOND)
    assert client.next_deadline() is None or client.next_deadline() > world.now


def test_results_are_decoded_by_what_was_asked():
    from quorumd.commands import DeleteRange

    world = World(FakeCluster())
    client = world.client()
    delete = operation_for(DeleteRange(b"k"), world.now + SECOND)
    world.submit(client, delete)
    assert world.run(SECOND, done(delete))
    assert delete.result() == DeleteResult(1, 0)
    assert delete.plane is Plane.WRITE


# -- limits, and what must not depend on each other --------------------------------------------------------------------


def connected(world: World, **options):
    """A client with a session."""
    client = world.client(**options)
    first = put(world)
    world.submit(client, first)
    assert world.run(SECOND, done(first))
    return client


def test_what_does_not_fit_as_a_whole_is_not_begun_in_part():
    world = World(FakeCluster())
    world.cluster.deaf = {1, 2, 3}
    client = world.client()
    client.submit_all([put(world) for _ in range(CLIENT_QUEUE_OPS - 1)], world.now)
    batch = [put(world, b"a"), put(world, b"b")]
    with pytest.raises(Overloaded):
        client.submit_all(batch, world.now)
    assert client.waiting == CLIENT_QUEUE_OPS - 1
    client.submit_all(batch[:1], world.now)
    assert client.waiting == CLIENT_QUEUE_OPS


def test_what_needs_no_leader_is_limited_too_while_nobody_answers():
    world = World(FakeCluster())
    world.cluster.deaf = {1, 2, 3}
    client = world.client()
    for _ in range(CLIENT_QUEUE_OPS // 2):
        client.submit(get(world, stale=True), world.now)
        client.submit(status_operation(2, world.now + SECOND), world.now)
    for operation in (get(world, stale=True), status_operation(2, world.now + SECOND)):
        with pytest.raises(Overloaded):
            client.submit(operation, world.now)


@pytest.mark.parametrize(
    "make", [put, get, lambda world: get(world, stale=True), lambda world: status_operation(2, world.now + 5 * SECOND)]
)
def test_what_ran_out_of_time_while_nobody_answers_waits_no_more(make):
    world = World(FakeCluster())
    world.cluster.deaf = {1, 2, 3}
    client = world.client()
    client.submit_all([make(world) for _ in range(CLIENT_QUEUE_OPS)], world.now)
    world.run(SECOND)
    assert client.waiting == CLIENT_QUEUE_OPS
    world.run(5 * SECOND)
    assert client.waiting == 0
    late = make(world)
    client.submit(late, world.now)
    assert (client.waiting, client.next_deadline() <= late.deadline) == (1, True)


def test_what_is_cancelled_while_nobody_answers_does_not_fill_the_client():
    world = World(FakeCluster())
    world.cluster.deaf = {1, 2, 3}
    client = world.client()
    patient = [put(world) for _ in range(1000)]
    client.submit_all(patient, world.now)
    for _ in range(CLIENT_QUEUE_OPS):
        operation = get(world)
        client.submit(operation, world.now)
        client.cancel(operation)
    assert client.waiting < 1100
    world.cluster.deaf = set()
    assert world.run(SECOND, done(*patient))
    assert sorted(seq for _, seq in writes_seen(world.cluster)) == list(range(1, 1001))


def test_writes_that_fail_for_want_of_a_session_leave_the_others_waiting():
    world = World(FakeCluster())
    client = world.client()
    full = [True]
    world.cluster.verdict = lambda _, record: (
        Status.OVERLOADED if record.kind is Kind.OPEN_SESSION and full[0] else None
    )
    patient, hasty = put(world), [put(world, retry=False) for _ in range(10)]
    world.submit(client, patient, *hasty)
    assert world.run(SECOND, done(*hasty))
    assert (client.waiting, patient.done) == (1, False)
    full[0] = False
    assert world.run(SECOND, done(patient))
    assert patient.error is None


def test_stale_reads_that_wait_hold_up_no_other_reads_and_are_limited():
    world = World(FakeCluster(mtu=60_000))
    client = connected(world)
    world.cluster.verdict = lambda node, record: Status.FUTURE_REVISION if record.kind is Kind.STALE_READ else None
    waiting = [get(world, stale=True, timeout=60 * SECOND) for _ in range(CLIENT_STALE_IN_FLIGHT + 100)]
    world.submit(client, *waiting)
    world.run(10 * MS)
    assert client.in_flight == CLIENT_STALE_IN_FLIGHT
    assert client.waiting == 100
    read = get(world, timeout=SECOND)
    world.submit(client, read)
    assert world.run(SECOND, done(read))
    assert read.error is None
    world.cluster.verdict = lambda node, record: None
    assert world.run(5 * SECOND, done(*waiting))
    assert all(operation.error is None for operation in waiting)
    assert not client.in_flight
    assert not client.waiting


def test_the_session_is_kept_alive_however_many_reads_wait():
    world = World(FakeCluster(mtu=60_000, ttl_ms=3000))
    client = connected(world)
    world.cluster.verdict = lambda node, record: Status.OVERLOADED if record.kind is Kind.READ else None
    world.submit(client, *(get(world, timeout=60 * SECOND) for _ in range(CLIENT_READS_IN_FLIGHT + 1)))
    world.run(5 * SECOND)
    assert any(record.kind is Kind.KEEP_ALIVE for _, record in world.cluster.seen)
    assert client.session_safe_until > world.now


def test_a_keep_alive_of_a_session_that_ended_does_not_end_the_next():
    world = World(FakeCluster(ttl_ms=3000))
    client = connected(world)
    old = client.session.id
    late = []

    def hold_back(source, dest, datagram):  # the answer to the write, until the keep-alive waits for a leader
        if dest == "client" and datagram[5] == wire.KIND_REPLY:
            late.append((source, datagram))
            return False
        return True

    world.cluster.sessions.clear()
    world.filter = hold_back
    write = put(world, timeout=60 * SECOND)
    world.submit(client, write)
    world.run(MS)
    assert late
    world.cluster.deaf = {1, 2, 3}
    world.run(1500 * MS)
    assert client.router.doubted
    world.filter = lambda source, dest, datagram: True
    client.receive(late[0][1], late[0][0], world.now)
    assert type(write.error) is SessionExpired
    world.cluster.deaf = set()
    writes = [put(world, b"k%d" % i) for i in range(3)]
    world.submit(client, *writes)
    assert world.run(SECOND, done(*writes))
    world.run(SECOND)
    assert [type(each.error) for each in writes] == [type(None)] * 3
    assert client.session.id != old
    assert world.states["client"][-1] is State.CONNECTED


def test_an_expired_session_is_nothing_that_a_read_can_tell():
    world = World(FakeCluster())
    client = connected(world)
    session = client.session
    world.cluster.verdict = lambda node, record: Status.SESSION_EXPIRED if record.kind is Kind.READ else None
    read = get(world)
    world.submit(client, read)
    assert world.run(SECOND, done(read))
    assert type(read.error) is SessionExpired
    assert client.session is session


# -- control frames ---------------------------------------------------------------------------------------------------


def test_the_status_of_nonsense_is_refused_before_it_is_asked_for():
    with pytest.raises(ValueError, match="no port"):
        status_operation("host-without-port", 1)


def test_an_address_that_cannot_be_resolved_ends_its_own_operation_only():
    def resolve(text):
        if text == "nonsense":
            raise ValueError("no host:port")
        return text

    world = World(FakeCluster())
    client = world.client()
    world.run(10 * MS)
    client.router._resolve = resolve
    bad = Operation(Plane.CONTROL, wire.KIND_STATUS, b"", world.now + SECOND, target="nonsense")
    good, read = status_operation(2, world.now + SECOND), get(world, stale=True)
    world.submit(client, bad, good, read)
    assert world.run(SECOND, done(bad, good, read))
    assert type(bad.error) is Rejected
    assert good.error is read.error is None


def term_in(datagram: bytes) -> int:
    return wire.parse_datagram(datagram)[0][0].term


def transferred(world: World, client, *, lost: int) -> tuple[Operation, list[str]]:
    """A transfer of which the first `lost` answers are lost, the leader having handed over; and who was told to."""
    asked = []

    def lose(source, dest, datagram):
        if datagram[5] not in (wire.KIND_ADMIN, wire.KIND_ADMIN_REPLY) or not term_in(datagram):
            return True
        if datagram[5] == wire.KIND_ADMIN:
            asked.append(dest)
            return True
        if len(asked) <= lost:
            world.cluster.elect(2)
            return False
        return True

    world.filter = lose
    operation = transfer_operation(2, world.now + SECOND)
    world.submit(client, operation)
    assert world.run(2 * SECOND, done(operation))
    return operation, asked


def test_a_transfer_whose_answer_was_lost_is_not_called_refused():
    world = World(FakeCluster())
    client = world.client()
    world.run(10 * MS)
    operation, asked = transferred(world, client, lost=1)
    assert asked == ["node1:7000"] * 2
    with pytest.raises(Timeout, match="not the leader"):
        check_accepted(operation)


def test_a_transfer_is_asked_of_one_node_only_whoever_leads_meanwhile():
    world = World(FakeCluster())
    client = world.client()
    world.run(10 * MS)
    world.at(world.now + 20 * MS, lambda: client.router.claimed(2, 2, 9))  # the client learns of the next leader
    _, asked = transferred(world, client, lost=1)
    assert asked == ["node1:7000"] * 2


def test_a_transfer_that_is_refused_at_once_is_refused():
    world = World(FakeCluster())
    client = world.client()
    world.run(10 * MS)
    world.cluster.elect(2)
    operation, asked = transferred(world, client, lost=0)
    assert asked == []  # node 1 said so when it was asked for its term
    with pytest.raises(Rejected, match="not the leader"):
        check_accepted(operation)


def test_a_transfer_is_for_the_term_that_its_leader_told_and_for_no_other():
    world = World(FakeCluster())
    client = world.client()
    world.run(10 * MS)
    sent, held = [], []

    def hold(source, dest, datagram):
        if datagram[5] == wire.KIND_ADMIN:
            sent.append(datagram)
        if datagram[5] == wire.KIND_ADMIN_REPLY and term_in(datagram):
            held.append(datagram)
            return False
        return True

    world.filter = hold
    operation = transfer_operation(2, world.now + SECOND)
    world.submit(client, operation)
    assert world.run(SECOND, lambda: bool(held))
    assert [term_in(datagram) for datagram in sent] == [0, 1]
    world.cluster.elect(1)
    world._arrive("client", "node1:7000", sent[0])  # a late copy of the question is answered with a later term
    assert world.run(SECOND, lambda: client.counters["stray"] > 0)
    assert (operation.done, operation.term) == (False, 1)
    client.receive(held[0], "node1:7000", world.now)
    assert operation.done
    check_accepted(operation)


def test_a_transfer_for_a_term_that_has_ended_is_refused():
    world = World(FakeCluster())
    client = world.client()
    world.run(10 * MS)

    def reelect(source, dest, datagram):
        if datagram[5] == wire.KIND_ADMIN and term_in(datagram):
            world.cluster.term += 1
        return True

    world.filter = reelect
    operation = transfer_operation(2, world.now + SECOND)
    world.submit(client, operation)
    assert world.run(2 * SECOND, done(operation))
    with pytest.raises(Rejected, match="another term"):
        check_accepted(operation)


# -- writes that were given up ----------------------------------------------------------------------------------------


def test_a_settled_write_waits_until_nothing_that_was_given_up_can_come_after_it():
    world, client = with_a_session()
    held: list[tuple[object, object, bytes]] = []
    lost = [True]

    def network(source, dest, datagram):
        if b"ghost" in datagram:
            held.append((source, dest, datagram))
        return not (b"ghost" in datagram or (lost[0] and b"first" in datagram))

    world.filter = network
    first, late = put(world, b"first", timeout=3 * SECOND), put(world, b"late", b"ghost")
    world.submit(client, first)
    world.submit(client, late)
    client.cancel(late)
    settled = operation_for(DeleteRange(b"late"), world.now + 3 * SECOND, settled=True)
    world.submit(client, settled)
    assert not world.run(SECOND, done(settled))
    assert not settled.transmissions
    lost[0] = False
    assert world.run(SECOND, done(first, settled))
    assert settled.error is None
    world.filter = lambda *_: True
    world._carry(*held[0])
    world.run(SECOND)
    assert world.cluster.seen[-1][1].command == late.command
    assert b"late" not in world.cluster.store


def test_a_settled_write_does_not_wait_for_what_was_answered():
    world, client = with_a_session()
    world.filter = lambda source, dest, datagram: b"first" not in datagram
    world.cluster.verdict = lambda node, record: Status.NO_SPACE if b"large" in record.command else None
    writes = [put(world, b"first"), put(world, b"other"), put(world, b"large"), put(world, b"settled", settled=True)]
    for write in writes:
        world.submit(client, write)
        world.run(10 * MS)
    assert all(write.done for write in writes[1:])


def test_other_writes_do_not_wait_behind_a_settled_one():
    world, client = with_a_session()
    world.filter = lambda source, dest, datagram: b"first" not in datagram
    writes = [put(world, b"first"), put(world, b"late"), put(world, b"settled", settled=True), put(world, b"other")]
    for write in writes:
        world.submit(client, write)
        if write is writes[1]:
            client.cancel(write)
    assert world.run(SECOND, done(writes[3]))
    client.cancel(put(world, b"never sent"))
    for number in range(20):  # what is given up later is nothing to it
        later = put(world, b"%d" % number)
        world.submit(client, later)
        client.cancel(later)
    assert not writes[2].done
    world.filter = lambda *_: True
    assert world.run(SECOND, done(writes[0], writes[2]))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_given_up_executes_before_a_settled_write_or_never(seed):
    cluster = FakeCluster()
    world = World(cluster, seed)
    client = world.client()
    world.loss, world.duplicates, world.delay = 0.1, 0.3, (MS, 300 * MS)
    dice, ended, promises = world.random, [], []
    for number in range(200):
        size = dice.choice((0, 0, 0, 3000))
        operation = put(world, b"%d" % number, bytes(size), timeout=dice.randint(50, 2000) * MS,
                        settled=dice.random() < 0.2)  # fmt: skip
        if operation.settled:
            promises.append((operation, [other for other in ended if other.done]))
        world.submit(client, operation)
        ended.append(operation)
        world.run(dice.randint(0, 30) * MS)
        if dice.random() < 0.3:
            client.cancel(dice.choice(ended))
            client.flush(world.now)
            world._send_all()
    world.run(10 * SECOND)
    order = {key: place for place, key in enumerate(cluster.executed)}
    place = {id(operation): order.get((operation.session, operation.seq)) for operation in ended}
    overtaken = [
        other.seq
        for settled, given_up in promises
        for other in given_up
        if None not in (place[id(settled)], place[id(other)]) and place[id(other)] > place[id(settled)]
    ]
    assert not overtaken
    assert sum(place[id(settled)] is not None for settled, _ in promises) > 5


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_name_is_not_looked_up_again_while_it_is_being_looked_up():
    router = Router(["a:1", "b:1"], lambda text: None)
    assert router.take_wanted() == {"a:1", "b:1"}
    router.doubt(0)
    router.resolved("b:1", None)
    router.probe(CLIENT_LOOK_UP_AGAIN, idle=False)
    assert router.take_wanted() == {"b:1"}
    router.resolved("a:1", None)
    router.resolved("b:1", "address")
    router.probe(2 * CLIENT_LOOK_UP_AGAIN, idle=False)
    assert router.take_wanted() == {"a:1", "b:1"}
    assert router.take_wanted() == set()
