"""What an idle cluster leaves out must not be missed: heartbeats, the peer socket, digests heard before, chores."""

from types import SimpleNamespace

import pytest
from world import CLUSTER, MS, Caller, World

from quorumd import commands, limits, peercodec
from quorumd.commands import Kind
from quorumd.consensus.engine import Role
from quorumd.consensus.messages import Heartbeat, HeartbeatReply
from quorumd.consensus.raft import RaftConfig
from quorumd.digests import DigestJudge
from quorumd_fastpath import wire
from quorumd_fastpath.wire import Slab, parse_datagram

pytestmark = pytest.mark.usefixtures("either_engine")


HEARTBEAT = 40 * MS


class Idle(World):
    """Reads a node's peer socket as node.py does: not before `hears_at`, if that is set. A node that rests takes no
    turn: its heartbeats are sent again."""

    def start(self, i, **options):
        self.spare = Slab(64, 65536)
        self.waited = self.heard = self.repeated = 0
        self.resting = {}  # node: (what it sent, when that is due again)
        return super().start(i, **options)

    def _turn(self, i, member):
        if i in self.resting and not len(member.clients) and self._rest(i, member.core):
            return
        self.resting.pop(i, None)
        if not member.core.hears_at > self.now:
            self.heard += len(member.peers) > 0
            super()._turn(i, member)
            return
        self.waited += 1
        waiting, member.peers = member.peers, self.spare
        super()._turn(i, member)
        member.peers = waiting

    def _rest(self, i, core):
        beats, due = self.resting[i]
        if self.now >= due:
            if due + HEARTBEAT > core.rests_until:
                return False
            self.repeated += 1
            self.resting[i] = beats, due + HEARTBEAT
            self._emit(b"peer%d" % i, beats)
        self.waited += 1
        return True

    def _carry(self, i, core):
        due = core.deadline(self.now)
        if core.rests_until >= due + HEARTBEAT:
            assert due == self.now + HEARTBEAT
            beats = core.peer_outbox.drain()
            self._emit(b"peer%d" % i, beats)
            self.resting[i] = beats, due
        super()._carry(i, core)


def beat(core, peer, kind, body, **fields):
    """A frame of the current term from `peer`, as it would send it."""
    me = core.transport
    header = {"flags": 0, "term": me.term, "index": 1, "commit": 1, **fields}
    return wire.encode_frame(
        kind, header["flags"], CLUSTER, peer.node, me.identity.node, peer.incarnation, me.identity.incarnation,
        header["term"], header["index"], header["commit"], 0, body,
    )


@pytest.mark.parametrize("kind", [wire.KIND_HEARTBEAT, wire.KIND_HEARTBEAT_REPLY])
@pytest.mark.parametrize("flags", [0, peercodec.DISK_FULL])
@pytest.mark.parametrize("digest", [(0, 0), (1024, 99)])
@pytest.mark.parametrize("numbers", [(7, 3), (0, 0), (limits.MAX_NUMBER - 1, 5), (limits.MAX_NUMBER, 5), (5, 1 << 63)])
def test_a_lone_beat_and_one_in_company_mean_the_same(kind, flags, digest, numbers):
    world = World(3, seed=1)
    core = world.members[world.elect()].core
    transport = core.transport
    peer = next(iter(transport.peers.values()))
    body = peercodec.BODY_HEARTBEAT.pack(*digest)
    if kind == wire.KIND_HEARTBEAT_REPLY:
        body = bytes(8) + body
    frame = beat(core, peer, kind, body, flags=flags, index=numbers[0], commit=numbers[1])
    seen = []
    for datagram in (frame, frame + frame):  # the second takes the general path
        slab = Slab(2, 4096)
        slab.push(datagram, peer.address)
        peer.disk_full, peer.heard_at = None, 0
        before = transport.counters.as_dict()
        messages = set(transport.receive(slab, world.now))
        dropped = {reason for reason, count in transport.counters.as_dict().items() if count != before[reason]}
        seen.append(
            (messages, peer.disk_full, peer.heard_at, set(transport.claims), set(transport.verdicts), dropped)
        )
        transport.claims.clear()
        transport.verdicts.clear()
    assert seen[0] == seen[1]
    assert len(seen[0][0]) == (max(numbers) < limits.MAX_NUMBER)
    assert all(type(message) in (Heartbeat, HeartbeatReply) for message in seen[0][0])


def test_an_idle_leader_hears_its_followers_before_check_quorum_looks():
    world = Idle(3, seed=2)
    leader = world.elect()
    world.step(200)
    core, engine = world.members[leader].core, world.members[leader].core.engine
    world.waited = world.heard = 0
    world.step(6000)
    assert engine.role is Role.LEADER and not world.has("quorum-lost")
    assert world.waited > 5500  # of the leader's turns; without hearing anybody it would have stepped down 45 times
    assert world.repeated > 80  # heartbeats, without a turn
    assert 0 < core.hears_at <= world.now + 120 * MS


@pytest.mark.parametrize("seed", range(3))
def test_an_idle_leader_keeps_its_office_through_losses_and_serves_at_once(seed):
    world = Idle(3, seed=seed)
    world.loss = 0.05
    leader = world.elect()
    caller = Caller(world).open()
    caller.target = leader
    for round_ in range(4):
        world.step(1500)
        before = world.now
        caller.put(b"k", b"%d" % round_)
        assert world.now - before < 100 * MS
    assert world.leader().settings.node == leader
    assert world.waited > 2900


def at_rest(seed, **settings):
    """A world, and the core of its leader, which sent heartbeats and looked at its followers just now, and rests."""
    world = Idle(3, seed=seed, **settings)
    core = world.members[world.elect()].core
    world.step(200)
    world.until(lambda: core.settings.node in world.resting and core.rests_until >= world.now + 110 * MS)
    return world, core


def beat_now(core, due):
    """A turn of a leader without input, at the time of its heartbeat."""
    core.peer_outbox.clear()
    core.finish(due, due)


def test_what_a_leader_at_rest_sends_again_is_what_it_would_have_said():
    world, core = at_rest(11)
    beats, due = world.resting[core.settings.node]
    beat_now(core, due)
    core.deadline(due)
    said = [(parse_datagram(data), addr) for data, addr in core.peer_outbox.drain()]
    repeated = [(parse_datagram(data), addr) for data, addr in beats]
    assert len(said) == len(repeated) == 2
    for (new, new_addr), (old, old_addr) in zip(said, repeated, strict=True):
        ((frame, payload),), ((again, payload_again),) = new, old
        assert (new_addr, payload) == (old_addr, payload_again)
        assert frame._replace(index=0) == again._replace(index=0)
        assert frame.index == again.index + 1  # its round: an answer to the old one proves less, never more


@pytest.mark.parametrize("what", ["stream", "lease", "sync", "reclaiming"])
def test_nothing_else_falls_due_while_a_leader_rests(what):
    world, core = at_rest(12)
    due = world.resting[core.settings.node][1]
    assert due + HEARTBEAT <= core.rests_until <= core.hears_at
    soon = due + 7 * MS
    beat_now(core, due)
    if what == "stream":  # one of watches that is to be dropped
        stream = SimpleNamespace(heard_at=soon - limits.WATCH_SILENCE)
        core.clients.watches._streams["a stream"] = stream
    elif what == "lease":
        core.store = SimpleNamespace(next_lease_due=soon, reclaiming=False)
    elif what == "reclaiming":
        due_later, applied = world.now + limits.SECOND, core.store.applied
        core.store = SimpleNamespace(next_lease_due=due_later, reclaiming=True, applied=applied)
        core.own.store = core.store
        core._chores_due = soon
    else:
        core.storage._covered = False
        core.storage._idle_since = soon - limits.IDLE_SYNC
    core.deadline(due)
    assert core.rests_until == soon


def test_only_a_leader_rests_and_only_after_heartbeats_with_nothing_under_way():
    world, core = at_rest(13)
    for other in world.cores():
        other.deadline(world.now)
        assert other is core or other.rests_until == 0
    caller = Caller(world).open()
    caller.target = core.settings.node
    world.step(200)
    put = commands.encode(commands.Put(b"k", b"v"))
    world.members[caller.target].disk.stick(world.now)
    caller.transmit(commands.encode_record(Kind.COMMAND, caller.session, 1, 1, put))
    world.step(2)
    for _ in range(100):
        world.step()
        assert core.settings.node not in world.resting


def test_a_turn_between_two_heartbeats_ends_the_rest():
    world, core = at_rest(14)
    core.finish(world.now + 7 * MS, world.now + 7 * MS)
    core.deadline(world.now + 7 * MS)
    assert core.rests_until == 0


def test_an_idle_leader_without_followers_steps_down_as_soon_as_a_busy_one():
    world = Idle(3, seed=3)
    leader = world.elect()
    world.step(300)
    world.isolate(leader)
    engine = world.members[leader].core.engine
    world.until(lambda: engine.role is not Role.LEADER, within_ms=2 * 120 + 2)


def test_a_lease_hears_every_round():
    raft = RaftConfig(40 * MS, 120 * MS, limits.MAX_APPEND_BYTES, limits.DEFAULT_INFLIGHT_BYTES, 256, True, 65_000)
    world = Idle(3, seed=4, consensus=raft)
    core = world.members[world.elect()].core
    world.step(500)
    assert world.now < core.hears_at <= world.now + 40 * MS
    assert not world.resting  # each round has to be its own
    world.step(2000)
    assert core.engine.role is Role.LEADER


def test_what_is_under_way_is_heard_at_once():
    world = World(3, seed=5)
    leader = world.elect()
    caller = Caller(world).open()
    caller.target = leader
    world.step(200)
    core = world.members[leader].core
    assert core.hears_at > 0
    world.members[leader].disk.stick(world.now)
    put = commands.encode(commands.Put(b"k", b"v"))
    caller.transmit(commands.encode_record(Kind.COMMAND, caller.session, 1, 1, put))
    world.step(2)
    assert core.hears_at == 0


def test_digests_that_are_settled_are_heard_no_more_and_anew_under_the_next_leader():
    world = World(3, seed=6)
    leader = world.elect()
    caller = Caller(world).open()
    caller.fill(limits.DIGEST_EVERY + 50)
    world.until(world.converged)
    index, digest = world.members[leader].core.store.checkpoint()
    assert index >= limits.DIGEST_EVERY

    def all_settled():
        return all(core.transport.settled == (core.engine.term, index, digest) for core in world.cores())

    world.until(all_settled)
    for core in world.cores():
        core.applier._compare = None  # nothing asks for it while all say the same
    world.step(500)
    for core in world.cores():
        del core.applier._compare
    world.stop(leader)
    world.until(lambda: (found := world.leader()) is not None and found.settings.node != leader)
    world.until(all_settled)
    assert all(core.applier.judge.agreed == (index, digest) for core in [world.leader()])


def test_a_divergence_after_agreement_is_still_found():
    world = World(3, seed=7, mac_bytes=16)
    leader = world.elect()
    caller = Caller(world).open()
    caller.fill(limits.DIGEST_EVERY + 50)
    world.until(lambda: world.members[leader].core.transport.settled[1] >= limits.DIGEST_EVERY)
    liar = next(core for core in world.cores() if core.settings.node != leader)
    index, digest = liar.store.checkpoint()
    liar.transport.report = lambda: peercodec.report(liar.applier.applied, index, digest ^ 1, disk_full=False)
    judge = world.members[leader].core.applier.judge
    world.until(lambda: judge._votes[index].get(liar.settings.node) == digest ^ 1, within_ms=200)


def test_confirmed_is_what_was_found_equal_since_the_last_reset():
    judge = DigestJudge(1, 3, {8: 80, 16: 160}.get)
    judge.hear(2, 8, 80, now=1)
    assert judge.confirmed == (8, 80)
    judge.hear(2, 16, 161, now=1)
    judge.hear(3, 16, 161, now=1)
    assert judge.confirmed == (8, 80) and judge.doubts
    judge.reset()
    assert judge.confirmed == (0, 0) and not judge.doubts
    judge.told(16, 160, now=2)
    assert judge.confirmed == (16, 160)


def test_an_idle_node_syncs_one_empty_batch_in_time_and_then_rests():
    world = World(3, seed=8)
    leader = world.elect()
    caller = Caller(world).open()
    caller.target = leader
    caller.put(b"k", b"v")
    disk = world.members[leader].disk
    before = disk.submitted_seq
    world.until(lambda: disk.submitted_seq > before, within_ms=100)
    world.step(100)
    after = disk.submitted_seq
    world.step(3000)
    assert disk.submitted_seq == after == before + 1


@pytest.mark.parametrize("seed", range(2))
def test_a_node_takes_no_turn_before_its_idle_sync_is_due(seed):
    world = World(3, seed=seed)
    caller = Caller(world)
    caller.target = world.elect()
    caller.open().put(b"k", b"v")
    world.until(lambda: all(core.storage.deadline(world.now) for core in world.cores()))
    world.step(seed)
    too_soon = 0
    for _ in range(200):
        world.step(1)
        too_soon += sum(core.deadline(world.now) <= world.now for core in world.cores())
    assert not too_soon
    assert all(core.storage.deadline(world.now) is None for core in world.cores())


def test_a_peer_silent_for_a_second_is_greeted_again_and_again():
    world = World(3, seed=9)
    leader = world.elect()
    world.step(200)
    other = next(i for i in world.ids if i != leader)
    hellos = []
    send = world.send

    def watch(source, dest, data):
        if (source, dest) == (b"peer%d" % leader, b"peer%d" % other) and data[5] == wire.KIND_HELLO:
            hellos.append(world.now)
        send(source, dest, data)

    world.send = watch
    world.step(2000)
    assert not hellos
    world.members[other].paused = True
    began = world.now
    world.step(2000)
    assert 960 * MS < hellos[0] - began < 1100 * MS
    assert len(hellos) > 10
