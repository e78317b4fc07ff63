"""Watches on whole nodes: what is committed reaches whoever watches, at a follower too, whatever befalls nodes."""

import random

import pytest
import world as worlds
from watching import expected
from world import MS, Caller, World

from quorumd import limits, watchcodec, watchplane
from quorumd.client.protocol import ClientProtocol
from quorumd.client.watcher import make_watcher
from quorumd.commands import ALL, Compact, DeleteRange, KeyValue, Kind, Put, Txn, encode, encode_record
from quorumd.errors import Compacted, Overloaded
from quorumd.watchcodec import Event
from quorumd.watchplane import WatchRoom
from quorumd_fastpath.watch import Hub

pytestmark = pytest.mark.usefixtures("either_engine")


class Watching:
    """A client that watches, and what it was given."""

    def __init__(self, world, seed=7):
        self.world = world
        self.name = b"watcher%d" % seed
        world.inbox[self.name] = []
        self.protocol = ClientProtocol(
            [f"node{i}:1" for i in world.ids], entropy=random.Random(seed).randbytes, resolve=lambda text: text
        )
        self.protocol.start(world.now)
        self.watchers = []
        self.batches = []

    def watch(self, key, end=b"", start=1, **options):
        chosen = {"prev_kv": True, "put": True, "delete": True, "progress": False, **options}
        watcher = make_watcher(key, end, start, **chosen)
        self.protocol.watching.add(watcher)
        self.watchers.append(watcher)
        self.batches.append([])
        return self.batches[-1]

    def turn(self):
        """What the client does in a millisecond."""
        arrived, self.world.inbox[self.name] = self.world.inbox[self.name], []
        for data in arrived:
            for frame, _ in worlds.wire.parse_datagram(data)[:1]:
                self.protocol.receive(data, f"node{frame.sender}:1", self.world.now)
        self.protocol.tick(self.world.now)
        for dest, data in self.protocol.take_datagrams():
            self.world.send(self.name, dest.removesuffix(":1").encode(), data)
        for watcher, batches in zip(self.watchers, self.batches, strict=True):
            while (waiting := self.protocol.watching.pop(watcher)) is not None:
                batches.append((waiting.revision, waiting.batch().events))

    def until(self, condition, within_ms=10_000):
        for _ in range(within_ms):
            if condition():
                return
            self.world.step()
            self.turn()
        raise AssertionError(f"not within {within_ms} simulated ms")

    def serving(self):
        """The node that the client is served by, or 0."""
        stream = self.protocol.watching._stream
        node = int(stream.address[4:-2]) if stream else 0
        core = self.world.members[node].core if node else None
        return node if core is not None and core.status()["watchers"] else 0


def history(world):
    """Every event of the store that has the most, as tests/watching.py keeps it."""
    store = max((core.store for core in world.cores()), key=lambda store: store.revision)
    events = []
    for revision, key, shown, replaced in store.events(2):
        prev = None if replaced is None else KeyValue(key, *replaced)
        kv = KeyValue(key, b"", 0, revision, 0, 0) if shown is None else KeyValue(key, *shown)
        events.append((revision, Event(kv, shown is None, prev)))
    return events


def test_a_follower_serves_what_is_committed():
    world = World()
    leader = world.elect()
    caller = Caller(world).open()
    watching = Watching(world)
    watching.watch(b"a", ALL)
    watching.until(watching.serving)
    while watching.serving() == leader:  # its turn comes
        watching.protocol.watching._leave(world.now, elsewhere=True)
        watching.until(watching.serving)
    for i in range(20):
        caller.put(b"k%d" % i, b"v")
    caller.write(Txn((), (Put(b"x", b"1"), DeleteRange(b"k1", b"k2"))))
    watching.until(lambda: len(watching.batches[0]) == 21)
    assert watching.serving() != leader
    assert watching.batches[0] == expected(history(world), b"a", ALL, watchcodec.PREV_KV, 1)
    figures = world.members[watching.serving()].core.status()
    assert (figures["watchers"], figures["watch_streams"], figures["watchers_lagging"]) == (1, 1, 0)


def test_it_goes_on_when_its_node_is_killed_and_when_the_leader_is():
    world = World()
    world.elect()
    caller = Caller(world).open()
    watching = Watching(world)
    watching.watch(b"a", ALL)
    for round_number in range(4):
        for i in range(5):
            caller.put(b"k%d" % i, b"%d" % round_number)
        watching.until(watching.serving)
        victim = world.elect() if round_number % 2 else watching.serving()
        world.stop(victim)
        caller.put(b"k", b"amid")
        watching.until(lambda: len(watching.batches[0]) >= 6 * (round_number + 1) - 1)  # noqa: B023
        world.start(victim)
    watching.until(lambda: len(watching.batches[0]) == 24)
    assert watching.batches[0] == expected(history(world), b"a", ALL, watchcodec.PREV_KV, 1)


def test_a_client_leaves_a_node_that_is_cut_off():
    world = World()
    world.elect()
    caller = Caller(world).open()
    watching = Watching(world)
    watching.watch(b"a", ALL)
    watching.until(watching.serving)
    lonely = watching.serving()
    world.isolate(lonely)
    caller.put(b"a", b"1")
    watching.until(lambda: watching.batches[0])
    assert watching.serving() != lonely


def test_a_compaction_reaches_only_those_who_had_not_read_so_far():
    world = World(1)
    world.elect()
    caller = Caller(world).open()
    watching = Watching(world)
    watching.watch(b"a")
    for i in range(10):
        caller.put(b"a", b"%d" % i)
    watching.until(lambda: len(watching.batches[0]) == 10)
    caller.write(Compact(8))
    watching.watch(b"a", start=8)
    watching.watch(b"a", start=9)
    watching.until(lambda: len(watching.batches[2]) == 3)
    assert isinstance(watching.watchers[1].error, Compacted)
    assert watching.watchers[1].error.revision == 9
    assert watching.watchers[0].error is None


def at_once(caller, ops):
    """Writes all of it in one datagram, so that a node applies it as one, as far as it may."""
    records = []
    for op in ops:
        caller.seq += 1
        records.append(encode_record(Kind.COMMAND, caller.session, caller.seq, caller.seq, encode(op)))
    caller.transmit(b"".join(records), caller.world.leader().settings.node, len(records))


def crowd(turn_cost, watchers):
    """A world with small turns of watches, and a client that watches `k` so many times, and once another key."""
    world = World(watch_room=WatchRoom(1 << 20, 1 << 26, 1 << 16, turn_cost))
    world.elect()
    caller = Caller(world).open()
    caller.put(b"k", b"0")
    watching = Watching(world)
    for _ in range(watchers):
        watching.watch(b"k")
    watching.watch(b"other")
    watching.until(lambda: all(batches for batches in watching.batches[:-1]))
    return world, caller, watching


def test_a_burst_that_ends_with_a_compaction_ends_no_watch_of_those_in_step():
    """The puts behind it reclaim what it gave up; a node applies them once everybody has got what was before it."""
    world, caller, watching = crowd(40, 60)
    revision = world.leader().store.revision
    puts = [Put(b"k", bytes(1024)), Put(b"k", b"2"), Put(b"k", b"3")]
    at_once(caller, [*puts, Compact(revision + len(puts)), *(Put(b"z", b"%d" % i) for i in range(5))])
    watching.until(lambda: all(core.store.revision == revision + 8 for core in world.cores()))
    assert [core.store.changes for core in world.cores()] == [5] * 3
    caller.put(b"other", b"1")
    watching.until(lambda: watching.batches[-1])
    assert [watcher.error for watcher in watching.watchers] == [None] * 61
    for batches in watching.batches[:-1]:
        got = [(at, event.value) for at, events in batches for event in events]
        assert got[1:] == [(revision + at, put.value) for at, put in enumerate(puts, 1)]


def test_a_node_waits_for_watchers_a_few_turns_and_leads_on_meanwhile():
    world, caller, watching = crowd(1, 60)
    watching.until(lambda: all(core.status()["watchers_lagging"] == 0 for core in world.cores()))
    leader, revision = world.leader(), world.leader().store.revision
    at_once(caller, [Put(b"k", b"1"), Compact(revision + 1), Put(b"z", b"2")])
    turns = 0
    while leader.store.revision < revision + 2:
        held = leader.store.compacted == revision + 1
        turns += held
        assert not held or leader.deadline(world.now) == world.now
        world.step()
        watching.turn()
    assert 1 <= turns <= limits.WATCH_HELD_TURNS + 1
    assert world.leader() is leader


def test_a_large_event_is_carried_in_fragments_and_lost_ones_come_again():
    world = World(1, mtu=1400)
    world.elect()
    caller = Caller(world).open()
    watching = Watching(world)
    watching.watch(b"a")
    world.loss = 0.1
    caller.put(b"a", b"x" * 200_000)
    caller.put(b"a", b"y" * 200_000)
    watching.until(lambda: len(watching.batches[0]) == 2)
    (_, (event,)) = watching.batches[0][1]
    assert (event.value[:1], event.prev_kv.value[:1], len(event.value)) == (b"y", b"x", 200_000)


def frame(kind=worlds.wire.KIND_WATCH, *, flags=0, life=0, term=5, index=1, commit=0, count=0, payload=b""):
    return worlds.wire.encode_frame(kind, flags, worlds.CLUSTER, 0, 0, 99, life, term, index, commit, count, payload)


def test_nonsense_is_counted_and_nothing_else():
    world = World(1)
    world.elect()
    core = world.members[1].core
    life = core.transport.identity.incarnation
    request = watchcodec.encode_request(watchcodec.Request(watchcodec.Ask.CREATE, 1, b"k"))
    for data in (
        frame(life=life, count=1, payload=b"short"),
        frame(life=life, count=2, payload=request),
        frame(life=life, count=1, payload=request[:-1]),
        frame(life=life, commit=7),  # acknowledges what was never sent
        frame(life=life, count=1, payload=request.replace(b"\x01\x00", b"\x63\x00", 1)),  # no such kind
    ):
        before = core.clients.counters.as_dict()["bad_body"]
        world.send(b"somebody", b"node1", data)
        world.step(3)
        assert core.clients.counters.as_dict()["bad_body"] == before + 1
    assert core.status()["watchers"] == 0


def test_each_life_of_each_node_seeds_its_index_of_ranges_from_its_randomness(monkeypatch):
    seeds = []

    def seeded(seed, **rest):
        seeds.append(seed)
        return Hub(seed=seed, **rest)

    monkeypatch.setattr(watchplane, "Hub", seeded)
    for _ in range(2):
        world = World()
        world.elect()
        world.stop(2)
        world.start(2)
    assert len(seeds) == 8
    assert len(set(seeds[:4])) == 4
    assert max(seeds) > 1 << 32
    assert seeds[4:] == seeds[:4]  # and from nothing else


def test_watchers_whose_keys_are_too_long_together_are_refused():
    world = World(1)
    world.elect()
    core = world.members[1].core
    hub = core.clients.watches.hub
    slot = hub.open_stream()
    longest = b"k" * limits.MAX_KEY_BYTES
    for number in range(1, 600):
        hub.watch(core.store, slot, number, longest, b"l" + longest[1:], 0, 0)
    status = core.status()
    assert (status["watchers"], status["watcher_bytes"]) == (512, limits.WATCHER_BYTES)
    watching = Watching(world)
    watching.watch(b"a")
    watching.until(lambda: watching.watchers[0].error is not None)
    assert isinstance(watching.watchers[0].error, Overloaded)
    hub.close_stream(slot)
    watching.watch(b"a")
    watching.until(watching.serving)
    assert core.status()["watcher_bytes"] == 2


def test_a_forged_address_gets_little():
    world = World(1)
    world.elect()
    caller = Caller(world).open()
    life = world.members[1].core.transport.identity.incarnation
    request = watchcodec.encode_request(watchcodec.Request(watchcodec.Ask.CREATE, 1, b"a", ALL, 0, 1))
    for i in range(50):
        caller.put(b"a%d" % i, bytes(1000))
    world.send(b"victim", b"node1", frame(life=life, count=1, payload=request))
    world.step(2 * limits.WATCH_SILENCE // MS)
    assert sum(map(len, world.inbox[b"victim"])) < 10_000
    assert world.members[1].core.status()["watch_streams"] == 0


def test_recorded_frames_prove_nothing_from_another_address_or_later():
    """Of all that a client sent for its stream, acknowledgements too, nothing opens another one's window."""
    world = World(1)
    world.elect()
    caller = Caller(world).open()
    watching = Watching(world)
    watching.watch(b"a", ALL)
    sent, send = [], world.send
    world.send = lambda source, dest, data: (sent.append((source, data)), send(source, dest, data))
    for i in range(20):
        caller.put(b"a%d" % i, b"v")
        watching.until(lambda: len(watching.batches[0]) == i + 1)  # noqa: B023
    watching.protocol.watching.close(world.now)
    watching.turn()
    world.step(3)
    world.send = send
    recorded = [
        data
        for source, data in sent
        if source == watching.name
        for frame, _ in worlds.wire.parse_datagram(data)
        if frame.kind == worlds.wire.KIND_WATCH and not frame.flags & watchcodec.CLOSE
    ]
    assert len(recorded) > 20
    status = world.members[1].core.status
    assert status()["watch_streams"] == 0
    for name in (b"thief", watching.name):  # the second one's address may be somebody's who did not ask
        got = world.inbox[name] = []
        for data in recorded:
            world.send(name, b"node1", data)
            world.step(3)
            caller.put(b"a", b"secret" + bytes(1000))
        world.step(100)
        assert status()["watch_streams"] == 1
        assert got
        assert not any(b"secret" in data for data in got)
        assert sum(map(len, got)) < sum(map(len, recorded))
        world.step(2 * limits.WATCH_SILENCE // MS)
        assert status()["watch_streams"] == 0


def test_each_stream_numbers_its_batches_from_a_number_of_its_own():
    world = World(1)
    world.elect()
    life = world.members[1].core.transport.identity.incarnation
    request = watchcodec.encode_request(watchcodec.Request(watchcodec.Ask.CREATE, 1, b"a"))
    got = world.inbox[b"somebody"] = []
    for stream in range(1, 21):
        world.send(b"somebody", b"node1", frame(life=life, term=stream, count=1, payload=request))
        world.step(3)
    world.step(3)
    firsts = {answer.index for data in got for answer, _ in worlds.wire.parse_datagram(data)}
    assert len(firsts) == 20
    assert min(firsts) > 1 << 32
    assert max(firsts) <= 1 << 62


class Asking:
    """Asks for watchers that are rejected, each of which brings an item, and acknowledges what it is told to."""

    def __init__(self, world, name=b"asking"):
        self.world, self.name = world, name
        self.core = world.members[1].core
        self.life = self.core.transport.identity.incarnation
        world.inbox[name] = []
        self.taken = 0  # requests, as the node says
        self.batches = 0

    def ask(self, count=30, *, commit=0):
        """The next requests; whether all were taken."""
        first = self.taken + 1
        requests = [watchcodec.Request(watchcodec.Ask.CREATE, first + i, b"b", b"a") for i in range(count)]
        payload = b"".join(map(watchcodec.encode_request, requests))
        self.world.send(
            self.name, b"node1", frame(life=self.life, index=first, commit=commit, count=count, payload=payload)
        )
        self.world.step(3)
        arrived, self.world.inbox[self.name] = self.world.inbox[self.name], []
        for data in arrived:
            for answer, _ in worlds.wire.parse_datagram(data):
                self.taken = max(self.taken, answer.commit)
                self.batches = max(self.batches, answer.index)
        return self.taken == first + count - 1

    def untaken(self):
        status = self.core.status()
        return status["watch_requests_unproven"], status["watch_requests_full"]

    def fill(self):
        """Asks until it is not listened to any more."""
        for _ in range(10_000):
            if not self.ask():
                return
        raise AssertionError("everything is taken")


def test_a_client_that_never_acknowledged_anything_is_told_little():
    world = World(1)
    world.elect()
    asking = Asking(world)
    hub = asking.core.clients.watches.hub
    asking.fill()
    assert hub.bytes < limits.WATCH_UNPROVEN_BYTES + watchcodec.ITEM_BYTES
    assert asking.untaken() == (30 - asking.taken % 30, 0)
    assert not asking.ask()  # as often as it likes
    assert asking.ask(10, commit=asking.batches)  # it is there, and what was not taken is repeated
    assert hub.bytes < limits.WATCH_UNPROVEN_BYTES


def test_a_client_that_stops_acknowledging_is_not_listened_to(monkeypatch):
    world = World(1)
    world.elect()
    asking = Asking(world)
    watches = asking.core.clients.watches
    watches.hub = Hub(
        seed=1, watchers=10, watcher_bytes=1000, window_bytes=4096, total_bytes=8192, piece_bytes=2048, turn_cost=1000
    )
    assert asking.ask()
    assert asking.ask(commit=asking.batches)
    asking.fill()
    assert 4096 < watches.hub.bytes < 8192
    assert asking.untaken()[0] == 0
    assert asking.untaken()[1] > 0
    others = [Asking(world, b"asking%d" % i) for i in range(20)]
    for other in others:  # and all together have no more than the sum and a little each
        assert other.ask(5)  # even of who comes late
        assert other.ask(5, commit=other.batches)
        other.fill()
    least = 128  # a sixteenth of a piece
    assert watches.hub.bytes <= 8192 + limits.WATCH_UNPROVEN_BYTES + len(others) * (2 * least + watchcodec.ITEM_BYTES)
    assert not asking.ask(10)
    assert asking.ask(10, commit=asking.batches)  # what was not taken is, once it is repeated
