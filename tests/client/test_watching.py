"""The client's watchers against production nodes' streams, on a simulated clock and a network that does its worst.

Nodes are client planes over stores that apply one log, each at its own pace: everything of a watch but consensus.
"""

import heapq
import random
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from watching import Written, expected

from quorumd import limits, watchcodec
from quorumd.client import watcher as watcher_module
from quorumd.client import watching as watching_module
from quorumd.client.protocol import ClientProtocol
from quorumd.client.watcher import WatchBatch, Watcher, make_watcher
from quorumd.clientplane import ClientPlane
from quorumd.commands import ALL, DeleteRange, Put, Txn
from quorumd.errors import Compacted, ConnectionLost
from quorumd.limits import MILLISECOND as MS
from quorumd.limits import SECOND
from quorumd_fastpath.apply import Store
from quorumd_fastpath.wire import Outbox, Slab

CLUSTER = 0xC1C1


class Node:
    """A node that applies what it is told to, and serves watches from it."""

    def __init__(self, world, number):
        self.world = world
        self.number = number
        self.down = False
        self.leader = 1
        self.held_back = 0  # entries that it has yet to hear of
        self.start()

    def start(self):
        self.incarnation = self.world.now + self.number
        self.store = Store(1 << 40)
        self.outbox = Outbox(512, 1 << 22, self.world.mtu)
        self.plane = ClientPlane(
            self.number, self.outbox, self.world.mtu, self.incarnation, self.store,
            partial(random.Random(self.incarnation).getrandbits, 64),
        )  # fmt: skip
        self.plane.cluster = CLUSTER
        self.plane.hello = self.hello
        self.plane.leader = lambda: (self.leader, "")
        self.outbox.identify(CLUSTER, self.number, self.incarnation)
        self.slab = Slab(64, 1 << 16)

    def hello(self):
        return {
            "cluster": f"{CLUSTER:016x}", "node": self.number, "leader": 1, "term": 1, "mtu": self.world.mtu,
            "members": {str(n): f"node{n}:1" for n in self.world.nodes}, "session_ttl_ms": 30_000, "auth": False,
        }  # fmt: skip

    def turn(self, arrived):
        for data in arrived:
            self.slab.push(data, b"client")
        self.plane.collect(self.slab, self.world.now)
        behind = self.world.written.records[self.store.applied :]
        for record in behind[: max(0, len(behind) - self.held_back)]:
            compacted = self.store.compacted
            self.store.apply_bytes(record, self.store.applied + 1, 1)
            if self.store.compacted != compacted:
                break  # as the applier does
        self.plane.finish(self.world.now)
        sent = [data for data, _ in self.outbox.drain()]
        self.slab.clear()
        return sent


@dataclass
class User:
    """Takes the batches of one watcher, at a pace of its own, and watches on after a compaction."""

    key: bytes
    end: bytes
    options: dict
    start: int
    greed: float = 1.0
    watcher: Watcher = None
    batches: list[WatchBatch] = field(default_factory=list)
    segments: list[tuple[int, list[WatchBatch], int]] = field(default_factory=list)  # start, batches, where resumed

    def begin(self, protocol):
        self.watcher = make_watcher(self.key, self.end, self.start, **self.options)
        protocol.watching.add(self.watcher)

    def use(self, protocol, rng):
        while rng.random() < self.greed:
            waiting = protocol.watching.pop(self.watcher)
            if waiting is None:
                break
            self.batches.append(waiting.batch())
        error = self.watcher.error
        if error is not None and not self.watcher.waiting:
            assert isinstance(error, Compacted), error
            assert error.revision > max([self.start - 1, *(batch.revision for batch in self.batches)])
            self.segments.append((self.start, self.batches, error.revision))
            self.start, self.batches = error.revision, []
            self.begin(protocol)

    def check(self, history):
        for start, batches, resumed in [*self.segments, (self.start, self.batches, None)]:
            whole = expected(history, self.key, self.end, self.watcher.flags, start)
            events = [(batch.revision, batch.events) for batch in batches if batch.events]
            assert events == whole if resumed is None else events == whole[: len(events)]
            for number, batch in enumerate(batches):  # bookmarkable: progress is not ahead of an event
                if not batch.events:
                    before = sum(bool(earlier.events) for earlier in batches[:number])
                    assert before == sum(revision <= batch.revision for revision, _ in whole)


class World:
    """Nodes 1..n, one client, and the network between them."""

    def __init__(self, seed=0, nodes=3, *, mtu=1400, loss=0.0, duplicate=0.0, delay_ms=(0, 1)):
        self.rng = random.Random(seed)
        self.now = 1_000 * SECOND
        self.mtu = mtu
        self.loss, self.duplicate, self.delay_ms = loss, duplicate, delay_ms
        self.written = Written()
        self.nodes = {}
        for number in range(1, nodes + 1):
            self.nodes[number] = Node(self, number)
        self.wire = []
        self.sent = 0
        self.users = []
        self.protocol = ClientProtocol(
            [f"node{n}:1" for n in self.nodes], entropy=self.rng.randbytes, resolve=lambda text: text
        )
        self.protocol.start(self.now)

    def send(self, source, dest, data):
        self.sent += 1
        for _ in range(2 if self.rng.random() < self.duplicate else 1):
            if self.rng.random() >= self.loss:
                due = self.now + round(self.rng.uniform(*self.delay_ms) * MS)
                heapq.heappush(self.wire, (due, self.sent, self.rng.random(), source, dest, data))

    def watch(self, key, end=b"", *, start=1, greed=1.0, **options):
        chosen = {"prev_kv": False, "put": True, "delete": True, "progress": False, **options}
        user = User(key, end, chosen, start, greed)
        user.begin(self.protocol)
        self.users.append(user)
        return user

    def step(self, ms=1):
        for _ in range(ms):
            self.now += MS
            arrived = {}
            while self.wire and self.wire[0][0] <= self.now:
                _, _, _, source, dest, data = heapq.heappop(self.wire)
                if dest == "client":
                    self.protocol.receive(data, source, self.now)
                else:
                    arrived.setdefault(dest, []).append(data)
            for number, node in self.nodes.items():
                name = f"node{number}:1"
                if not node.down:
                    for data in node.turn(arrived.get(name, ())):
                        self.send(name, "client", data)
            for user in self.users:
                user.use(self.protocol, self.rng)
            self.protocol.tick(self.now)
            for dest, data in self.protocol.take_datagrams():
                self.send("client", dest, data)

    def until(self, condition, within_ms=30_000):
        for _ in range(within_ms):
            if condition():
                return
            self.step()
        raise AssertionError(f"not within {within_ms} simulated ms")

    def serving(self):
        """The node that the client has its stream with, else None."""
        stream = self.protocol.watching._stream
        served = [node for node in self.nodes.values() if node.plane.watches.status()["watchers"]]
        return next((n for n in served if stream and stream.address == f"node{n.number}:1"), None)

    def complete(self):
        return all(
            [b.revision for b in user.batches if b.events]
            == [r for r, _ in expected(self.written.history, user.key, user.end, user.watcher.flags, user.start)]
            for user in self.users
        )

    def check(self, within_ms=60_000):
        """Everything heals; then everybody has everything."""
        self.loss = self.duplicate = 0.0
        for node in self.nodes.values():
            node.down, node.leader, node.held_back = False, 1, 0
        for user in self.users:
            user.greed = 1.0
        self.until(self.complete, within_ms)
        self.step(20)
        for user in self.users:
            user.check(self.written.history)
        # Progress is asked for all the time, so a batch may have overtaken another just now; none waits for ever.
        self.until(lambda: not getattr(self.protocol.watching._stream, "early", None), 2_000)


NARROW = {
    "WATCH_PIECE_BYTES": 150, "WATCH_WINDOW_BYTES": 600, "WATCH_TURN_COST": 7,
    "WATCH_WINDOW_BATCHES": 4, "WATCH_TOTAL_BYTES": 900, "WATCH_SENT_PER_TURN": 10_000,
}  # fmt: skip


def make_narrow(patch):
    """Windows, pieces and buffers so small that everything overflows all the time."""
    for name, value in NARROW.items():
        patch.setattr(limits, name, value)
    patch.setattr(watcher_module, "CLIENT_WATCH_BATCHES", 5)
    patch.setattr(watcher_module, "CLIENT_WATCH_BYTES", 2000)
    patch.setattr(watching_module, "CLIENT_WATCH_PROGRESS", 30 * MS)


@pytest.fixture
def narrow(monkeypatch):
    make_narrow(monkeypatch)


KEYS = [b"a", b"ab", b"b", b"ba", b"c"]
RANGES = [(b"a", b""), (b"b", b""), (b"a", b"b"), (b"ab", ALL), (b"\0", ALL), (b"b", b"c")]


def disturb(world, rng):
    """Something happens to the cluster, or to somebody who watches."""
    node = rng.choice(list(world.nodes.values()))
    match rng.randrange(11):
        case 0:
            node.down = not node.down
        case 1:
            node.down = False
            node.start()
        case 2:
            node.held_back = rng.choice([0, 3, 10])
        case 3:
            node.leader = rng.choice([0, 1, 1])
        case 4 | 5:
            key, end = rng.choice(RANGES)
            world.watch(
                key, end, start=max(1, world.written.store.revision - rng.randrange(-5, 20)),
                prev_kv=rng.random() < 0.5, put=rng.random() < 0.9, progress=rng.random() < 0.5,
                greed=rng.choice([1.0, 0.5, 0.05]),
            )  # fmt: skip
        case 6:
            world.written.compact(max(1, world.written.store.revision - rng.randrange(30)))
        case 7 if world.users:
            rng.choice(world.users).greed = rng.choice([0.0, 0.3, 1.0])
        case 8 | 9:  # as if the node had fallen silent
            world.protocol.watching._leave(world.now, elsewhere=True)
        case _ if len(world.users) > 3:
            world.protocol.watching.drop(world.users.pop(0).watcher)


def write(world, rng):
    def put(key):
        return Put(key, rng.randbytes(rng.choice([0, 5, 30, 400])))

    def delete():
        return DeleteRange(*rng.choice(RANGES))

    for _ in range(rng.choice([0, 1, 1, 3, 20])):
        some = rng.sample(KEYS, rng.randrange(1, 4))
        world.written.run(rng.choice([put(some[0]), put(some[0]), delete(), Txn((), tuple(put(key) for key in some))]))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    turns=st.integers(1, 40),
    loss=st.sampled_from([0.0, 0.1, 0.3]),
    duplicate=st.sampled_from([0.0, 0.3]),
    delay_ms=st.sampled_from([(0, 0), (0, 20), (5, 100)]),
)
def test_nothing_is_lost_or_doubled_whatever_happens(seed, turns, loss, duplicate, delay_ms):
    with pytest.MonkeyPatch.context() as patch:
        make_narrow(patch)
        rng = random.Random(seed)
        world = World(seed, loss=loss, duplicate=duplicate, delay_ms=delay_ms, mtu=rng.choice([600, 1400]))
        for _ in range(turns):
            write(world, rng)
            if rng.random() < 0.6:
                disturb(world, rng)
            world.step(rng.choice([1, 5, 60]))
        world.check()


def test_events_follow_writes_within_a_round_trip():
    world = World()
    user = world.watch(b"a")
    world.until(world.serving)
    world.step(50)
    world.written.run(Put(b"a", b"1"))
    world.step(3)
    ((batch),) = user.batches
    assert batch.events[0].created
    world.check()


def test_it_goes_on_elsewhere_when_the_node_dies():
    world = World()
    user = world.watch(b"a")
    world.until(world.serving)
    first = world.serving()
    for i in range(20):
        world.written.run(Put(b"a", b"%d" % i))
    world.step(5)
    first.down = True
    world.written.run(Put(b"a", b"last"))
    world.until(lambda: len(user.batches) == 21, within_ms=(limits.CLIENT_WATCH_PING + 2 * SECOND) // MS)
    assert world.serving() is not first
    world.check()


def test_it_goes_on_when_the_node_was_restarted():
    world = World(nodes=1)
    user = world.watch(b"a")
    world.written.run(Put(b"a", b"1"))
    world.until(lambda: user.batches)
    world.nodes[1].start()
    world.written.run(Put(b"a", b"2"))
    world.until(world.complete, within_ms=(limits.CLIENT_WATCH_PING + SECOND) // MS)
    world.check()


def test_it_leaves_a_node_that_knows_no_leader():
    world = World()
    world.watch(b"a")
    world.until(world.serving)
    first = world.serving()
    first.leader = 0
    first.held_back = 1 << 30
    world.written.run(Put(b"a", b"1"))
    world.until(world.complete, within_ms=8_000)
    assert world.serving() is not first


def test_it_stays_where_it_is_while_nothing_is_wrong():
    world = World()
    world.watch(b"a")
    world.until(world.serving)
    first = world.serving()
    sent = world.sent
    for _ in range(60):
        world.step(1000)
        assert world.serving() is first
    assert world.sent - sent < 60 * 12  # and next to nothing is said
    assert first.plane.watches.status()["watch_streams"] == 1


def test_a_slow_user_pauses_its_own_watcher_only(narrow):
    world = World()
    slow = world.watch(b"a", greed=0.0)
    quick = world.watch(b"a")
    for i in range(200):
        world.written.run(Put(b"a", b"%d" % i))
        world.step()
    world.until(lambda: len(quick.batches) == 200)
    assert slow.watcher.paused
    waiting = len(slow.watcher.waiting)
    assert waiting <= 6
    world.protocol.watching._leave(world.now, elsewhere=True)  # and with the next node it is no other
    world.step(200)
    assert len(slow.watcher.waiting) == waiting
    figures = world.serving().plane.watches.status()
    assert (figures["watch_streams"], figures["watchers"], figures["watchers_lagging"]) == (1, 1, 0)
    world.check()


def test_nothing_is_due_while_every_watcher_is_paused_and_no_node_answers(narrow):
    world = World(nodes=1)
    slow = world.watch(b"a", greed=0.0)
    for i in range(50):
        world.written.run(Put(b"a", b"%d" % i))
        world.step()
    world.until(lambda: slow.watcher.paused)
    world.nodes[1].down = True
    world.until(lambda: world.protocol.watching._stream is None)
    for _ in range(1_000):
        world.step()
        due = world.protocol.next_deadline()
        assert due is None or due > world.now, "its thread would spin"
    world.check()


def test_a_compaction_that_overtakes_a_slow_user_is_reported_with_where_to_go_on(narrow):
    world = World()
    slow = world.watch(b"a", greed=0.0)
    for i in range(100):
        world.written.run(Put(b"a", b"%d" % i))
        world.step()
    world.written.compact(60)
    slow.greed = 1.0
    world.until(lambda: slow.segments)
    start, batches, resumed = slow.segments[0]
    assert (start, resumed) == (1, 61)
    assert 0 < len(batches) < 60
    world.check()


def test_an_idle_watcher_outlives_compaction_by_knowing_how_far_it_has_got():
    world = World()
    user = world.watch(b"quiet")
    for i in range(100):
        world.written.run(Put(b"a", b"%d" % i))
    world.until(lambda: user.watcher.resume > 100, within_ms=15_000)
    world.written.compact(100)
    world.serving().down = True
    world.written.run(Put(b"quiet", b"now"))
    world.until(lambda: user.batches, within_ms=10_000)
    assert not user.segments
    world.check()


def test_large_values_and_large_transactions_arrive_whole():
    world = World(loss=0.05)
    user = world.watch(b"a", ALL, prev_kv=True)
    for value in (b"x" * 300_000, b"y" * 300_000):
        world.written.run(Txn((), tuple(Put(b"a%d" % i, value) for i in range(4))))
    world.until(lambda: len(user.batches) == 2)
    assert [len(batch.events) for batch in user.batches] == [4, 4]
    world.check()


def test_a_revision_that_was_half_received_comes_again_from_its_beginning(narrow):
    world = World(nodes=1)
    user = world.watch(b"a", ALL)
    world.until(world.serving)
    world.written.run(Txn((), tuple(Put(b"a%d" % i, b"%01000d" % i) for i in range(5))))
    world.until(lambda: user.watcher._pieces)
    assert not user.batches
    world.nodes[1].start()
    world.check()


def test_progress_that_nobody_takes_does_not_pile_up():
    world = World()
    user = world.watch(b"quiet", progress=True, greed=0.0)
    for _ in range(5):
        world.written.run(Put(b"a", b""))
        world.step(limits.CLIENT_WATCH_PROGRESS // MS + 100)
    assert [waiting.revision for waiting in user.watcher.waiting] == [world.written.store.revision]
    user.greed = 1.0
    world.step(10)
    assert [(batch.revision, batch.events) for batch in user.batches] == [(world.written.store.revision, ())]


def test_many_watchers_of_one_client_share_a_stream():
    world = World(loss=0.1)
    users = [world.watch(b"k%d" % i) for i in range(500)]
    for i in range(500):
        world.written.run(Put(b"k%d" % i, b""))
    world.until(lambda: all(user.batches for user in users))
    assert sum(node.plane.watches.status()["watchers"] for node in world.nodes.values()) == 500
    for user in users:
        world.protocol.watching.drop(user.watcher)
    world.users = []
    world.until(lambda: not any(node.plane.watches.status()["watchers"] for node in world.nodes.values()), 5_000)


def test_requests_that_a_node_has_no_room_for_are_repeated_until_it_has(monkeypatch):
    monkeypatch.setattr(limits, "WATCH_UNPROVEN_BYTES", 3 * watchcodec.ITEM_BYTES)
    world = World(1, nodes=1, loss=0.1)
    for i in range(200):
        world.watch(b"k%d" % i)
    for i in range(200):
        world.written.run(Put(b"k%d" % i, b"v"))
    world.until(world.complete)
    figures = world.nodes[1].plane.watches.status()
    assert figures["watch_requests_unproven"] > 0
    assert (figures["watchers"], figures["watch_requests_full"]) == (200, 0)
    world.check()


def test_the_longest_key_fits_a_request():
    world = World()
    key = b"k" * limits.MAX_KEY_BYTES
    user = world.watch(key, key[:-1] + b"l")
    world.written.run(Put(key, b"1"))
    world.until(lambda: user.batches)
    world.check()


def test_closing_the_client_ends_every_watcher_and_the_stream():
    world = World()
    user = world.watch(b"a")
    world.until(world.serving)
    world.users = []
    world.protocol.close(world.now)
    assert isinstance(user.watcher.error, ConnectionLost)
    assert user.watcher in world.protocol.watching.take_news()
    world.step(10)
    assert all(node.plane.watches.status()["watch_streams"] == 0 for node in world.nodes.values())
    with pytest.raises(ConnectionLost):
        user.begin(world.protocol)


def test_a_client_that_vanished_is_forgotten():
    world = World()
    world.watch(b"a")
    world.until(world.serving)
    node = world.serving()
    world.written.run(Put(b"a", b"1"))
    world.loss = 1.0
    world.users = []
    world.until(lambda: not node.plane.watches.status()["watch_streams"], within_ms=2 * limits.WATCH_SILENCE // MS)
    assert node.plane.watches.status()["watch_bytes"] == 0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"key": b""}, ValueError),
        ({"key": "text"}, TypeError),
        ({"key": b"b", "end": b"a"}, ValueError),
        ({"key": b"k" * (limits.MAX_KEY_BYTES + 1)}, ValueError),
        ({"put": False, "delete": False}, ValueError),
        ({"resume": -1}, ValueError),
    ],
)
def test_nonsense_is_refused_at_once(change, error):
    sound = {"key": b"a", "end": b"", "resume": 1, "prev_kv": False, "put": True, "delete": True, "progress": False}
    make_watcher(**sound)
    with pytest.raises(error):
        make_watcher(**{**sound, **change})
