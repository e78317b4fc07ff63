"""What an enemy on the path may send: nothing raises, and what carries no genuine frame changes nothing.

Simulated time, production cores, hostile datagrams straight into both planes of every node. bench/hostile.py does the
same to real processes, a million at a time.
"""

import random
from collections import defaultdict

import pytest
from hostile_frames import FIELDS, Hostile, Recording, split
from world import CLUSTER, Caller, World

from quorumd import commands, limits
from quorumd.commands import Kind, Status
from quorumd.digests import DigestJudge
from quorumd.fragments import Reassembler
from quorumd.peercodec import BODY_APPEND, BODY_HEARTBEAT
from quorumd.transport import BODY_HELLO
from quorumd_fastpath import wire
from quorumd_fastpath.reference import HEADER

PUTS = 20  # in one request, so that a few hundred steps pass several digest checkpoints


def puts(caller):
    """One request frame of PUTS writes."""
    records = []
    for _ in range(PUTS):
        caller.seq += 1
        command = commands.encode(commands.Put(b"key-%d" % (caller.seq % 50), b"v" * 40))
        records.append(commands.encode_record(Kind.COMMAND, caller.session, caller.seq, caller.seq, command))
    return wire.encode_frame(wire.KIND_REQUEST, 0, CLUSTER, 0, 0, 0, 0, 0, 0, 0, len(records), b"".join(records))


class Attack:
    """A world under load whose genuine datagrams are recorded by destination, and an enemy who knows them."""

    def __init__(self, seed, **options):
        self.world = World(3, seed=seed, **options)
        self.world.elect()
        self.world.step(50)  # past the handshakes: their frames are of no more use
        self.recorded = defaultdict(Recording)
        self._send = self.world.send
        self.world.send = self._record
        self.caller = Caller(self.world, seed=seed + 100).open()
        self.caller.put(b"large", b"x" * 80_000)
        for _ in range(60):
            self.load()
            self.world.step()
        leader = self.world.leader().settings.node
        rng = random.Random(seed)
        self.hostile = {}
        for node in self.world.ids:
            self.hostile[b"peer%d" % node] = Hostile(rng, self.recorded[b"peer%d" % node])
            self.hostile[b"node%d" % node] = Hostile(rng, self.recorded[b"node%d" % leader])

    def _record(self, source, dest, data):
        if dest[:4] in (b"peer", b"node"):
            self.recorded[dest].add(data)
        self._send(source, dest, data)

    def load(self):
        leader = self.world.leader()
        if leader is not None:
            self.world.send(self.caller.name, b"node%d" % leader.settings.node, puts(self.caller))

    def volleys(self, sort, steps, each=20):
        """`each` datagrams a step into every plane of every node."""
        for step in range(steps):
            for dest, hostile in self.hostile.items():
                for i in range(each):
                    self._send(b"evil%d" % (i % 3), dest, getattr(hostile, sort)())
            if step % 5 == 0:
                self.load()
            self.world.step()

    def frame(self, sender, receiver, kind, **fields):
        """A frame with the right incarnations and CRC that nobody of the cluster sent."""
        cores = {node: member.core for node, member in self.world.members.items()}
        incarnations = [cores[node].transport.identity.incarnation for node in (sender, receiver)]
        numbers = [fields.get(name, 0) for name in ("term", "index", "commit", "count")]
        payload = fields.get("payload", b"")
        data = wire.encode_frame(
            kind, fields.get("flags", 0), CLUSTER, sender, receiver, *incarnations, *numbers, payload
        )
        self._send(b"evil", b"peer%d" % receiver, data)

    def drops(self):
        return [
            counters.as_dict()
            for member in self.world.members.values()
            for counters in (member.core.transport.counters, member.core.clients.counters)
        ]

    def serves(self):
        """Reads and writes work, and all nodes come to the same state."""
        assert isinstance(self.caller.put(b"after", b"all"), commands.PutResult)
        assert self.caller.get(b"after") == b"all"
        self.world.until(self.world.converged)


@pytest.mark.parametrize("mtu", [65_000, 1_400])
def test_noise_is_counted_and_changes_nothing(mtu):
    attack = Attack(31, mtu=mtu)
    term = attack.world.leader().engine.term
    attack.volleys("noise", 150)
    attack.serves()
    assert attack.world.leader().engine.term == term
    for drops in attack.drops():
        assert min(drops[reason] for reason in ("bad_magic", "bad_length", "bad_crc")) > 0


@pytest.mark.parametrize("mtu", [65_000, 1_400])
def test_replays_change_nothing(mtu):
    attack = Attack(32, mtu=mtu)
    world, caller = attack.world, attack.caller
    term = world.leader().engine.term
    attack.volleys("replay", 300)
    attack.serves()
    assert world.leader().engine.term == term
    # However often its request came again, no write was executed twice (some requests were crowded out of the slab).
    assert {core.store.executed for core in world.cores()} <= set(range(caller.seq * 9 // 10, caller.seq + 1))


@pytest.mark.parametrize("seed", range(6))
def test_mutations_with_a_right_crc_raise_nothing(seed):
    # They speak for a peer, so they may depose a leader and worse; they may not stop a process.
    attack = Attack(40 + seed, mtu=(65_000, 1_400)[seed % 2])
    attack.volleys("mutated", 250)
    assert all(drops["bad_kind"] and drops["reassembly_full"] for drops in attack.drops())


def mad_frame(attack, rng):
    """A well-formed peer frame whose every number is near one that its receiver knows, and none of them true."""
    world = attack.world
    receiver, sender = rng.sample(world.ids, 2)
    engine = world.members[receiver].core.engine
    status = engine.status()
    places = (engine.commit, engine.last, status.verified, status.own_match)

    def index():
        return max(0, rng.choice(places) + rng.choice((-3, -2, -1, 0, 0, 0, 1, 2, 3, 20)))

    def term():
        return max(0, engine.term + rng.choice((-1, *[0] * 20, 1)))

    counts = dict.fromkeys(range(wire.KIND_REQUEST_VOTE, wire.KIND_TIMEOUT_NOW + 1), 0)
    counts[wire.KIND_APPEND_ENTRIES] = rng.choice((0, 1, 2, 5))
    kind = rng.choice([*counts, *4 * [wire.KIND_APPEND_ENTRIES, wire.KIND_APPEND_ENTRIES_REPLY, wire.KIND_HEARTBEAT]])
    count = counts[kind]
    entries = count * commands.encode_record(Kind.NOOP, bytes(16), 0, 0, b"")
    payload = {
        wire.KIND_REQUEST_VOTE: (term(),),
        wire.KIND_APPEND_ENTRIES: (term(), term() if count else 0, 0),
        wire.KIND_APPEND_ENTRIES_REPLY: (index(), term(), index(), 0, 0),
        wire.KIND_HEARTBEAT: (0, 0),
        wire.KIND_HEARTBEAT_REPLY: (index(), 0, 0),
    }.get(kind, ())
    body = b"".join(number.to_bytes(8, "little") for number in payload) + entries
    numbers = {"term": term(), "index": index(), "commit": index(), "count": count}
    attack.frame(sender, receiver, kind, payload=body, flags=rng.choice((0, 1, 2, 3, 256)), **numbers)


@pytest.mark.parametrize("seed", range(4))
def test_a_peer_gone_mad_raises_nothing(seed):
    attack = Attack(70 + seed)
    rng = random.Random(seed)
    for step in range(300):
        for _ in range(rng.choice((0, 1, 3, 10))):
            mad_frame(attack, rng)
        if step % 4 == 0:
            attack.load()
        attack.world.step()


def test_a_third_of_each_with_a_full_disk():
    attack = Attack(50)
    for member in attack.world.members.values():
        member.disk.prepare_errno = 28
    for sort in ("noise", "replay", "mutated") * 3:
        attack.volleys(sort, 60)


@pytest.mark.parametrize("term", [1 << 62, 1 << 63, (1 << 64) - 1, (1 << 64) - 2])
def test_no_forged_term_uses_up_the_terms(term):
    attack = Attack(60)
    before = attack.world.leader().engine.term
    for sender in (1, 2, 3):
        for receiver in {1, 2, 3} - {sender}:
            for kind in range(wire.KIND_REQUEST_VOTE, wire.KIND_TIMEOUT_NOW + 1):
                attack.frame(sender, receiver, kind, term=term, index=term, commit=term, flags=3, payload=bytes(24))
    attack.world.step(500)
    assert attack.world.leader().engine.term == before
    attack.serves()


def test_terms_that_were_driven_up_still_elect_and_a_node_that_missed_it_catches_up():
    attack = Attack(61)
    world = attack.world
    absent = world.leader().settings.node % 3 + 1
    world.isolate(absent)
    for _ in range(4):
        for node in {1, 2, 3} - {absent}:
            term = world.members[node].core.engine.term + limits.MAX_TERM_STEP
            attack.frame(absent, node, wire.KIND_TIMEOUT_NOW, term=term)
        world.step(20)
    world.until(world.leader)
    assert world.leader().engine.term > 2 * limits.MAX_TERM_STEP
    world.heal()
    attack.serves()
    assert world.leader().engine.term < limits.MAX_NUMBER


def test_a_follower_whose_log_ends_within_a_record_of_the_leaders_disk_catches_up():
    attack = Attack(69, mtu=1_400)  # PUTS writes are one record on disk and two datagrams on the wire
    world = attack.world
    leader = world.leader().settings.node
    behind = leader % 3 + 1
    core = world.members[behind].core
    record = world.send

    def first_datagram_only(source, dest, data):
        to_follower = (source, dest) == (b"peer%d" % leader, b"peer%d" % behind)
        later = HEADER.unpack_from(data)[FIELDS.index("index")] > last
        if not (to_follower and later and data[5] == wire.KIND_APPEND_ENTRIES):
            record(source, dest, data)

    world.until(world.converged)
    last = core.engine.last
    world.send = first_datagram_only
    attack.load()
    world.until(lambda: core.engine.last > last, within_ms=50)
    assert core.engine.last - last < PUTS
    world.isolate(behind)
    world.send = record
    while world.members[leader].core.log.ring.first <= core.engine.last + 1:
        attack.load()
        world.step()
    world.heal()
    attack.serves()


def test_a_message_that_contradicts_what_is_committed_is_an_event():
    attack = Attack(62)
    world = attack.world
    leader = world.leader()
    follower = leader.settings.node % 3 + 1
    world.until(world.converged)
    core = world.members[follower].core
    noop = commands.encode_record(Kind.NOOP, bytes(16), 0, 0, b"")
    common = {"term": leader.engine.term + 5, "commit": core.engine.commit, "count": 2}
    for prev in (core.engine.commit - 5, core.engine.commit - 1, core.engine.commit):
        for prev_term, entries_term in ((0, 0), (leader.engine.term, leader.engine.term + 5), (0, 1)):
            payload = BODY_APPEND.pack(prev_term, entries_term, 0) + 2 * noop
            fields = {**common, "index": prev, "payload": payload}
            attack.frame(leader.settings.node, follower, wire.KIND_APPEND_ENTRIES, **fields)
    world.step(10)
    told = [detail for node, detail in world.has("committed-entry-contradicted") if node == follower]
    assert [detail["sender"] for detail in told] == [leader.settings.node], "told once, however often it is said"
    attack.serves()


def test_a_message_that_contradicts_what_its_own_leader_said_is_an_event():
    attack = Attack(63)
    world = attack.world
    leader = world.leader()
    follower = leader.settings.node % 3 + 1
    core = world.members[follower].core
    # Verified and not committed: the follower has an entry of this term that the leader cannot commit.
    for node in {1, 2, 3} - {leader.settings.node}:
        world.cut.add((node, leader.settings.node))
    last = core.engine.last
    attack.load()
    world.until(lambda: core.engine.last > last, within_ms=50)
    term = core.engine.term
    noop = commands.encode_record(Kind.NOOP, bytes(16), 0, 0, b"")
    assert core.engine.commit < core.engine.last and term == leader.engine.term
    for member in world.members.values():  # an older entries_term at a verified place
        member.core.transport.term = term
    attack.frame(
        leader.settings.node, follower, wire.KIND_APPEND_ENTRIES, term=term, index=core.engine.commit, count=1,
        payload=BODY_APPEND.pack(term - 1, term - 1, 0) + noop,
    )
    world.step(2)
    assert world.has("verified-entry-contradicted") or world.has("committed-entry-contradicted")
    world.heal()
    attack.serves()


def test_a_forged_claim_of_divergence_stops_nobody():
    attack = Attack(64)
    world = attack.world
    leader = world.leader()
    others = [node for node in world.ids if node != leader.settings.node]
    for step in range(1500):
        if step % 5 == 0:
            attack.load()
        index, digest = leader.store.checkpoint()
        for node in others:
            forged = BODY_HEARTBEAT.pack(index, digest ^ 1)
            attack.frame(
                leader.settings.node, node, wire.KIND_HEARTBEAT, term=leader.engine.term, index=step, payload=forged
            )
            report = (leader.applier.applied, index, digest ^ node)
            attack.frame(
                node, leader.settings.node, wire.KIND_HEARTBEAT_REPLY, term=leader.engine.term,
                payload=b"".join(number.to_bytes(8, "little") for number in report),
            )
        world.step()
    attack.serves()


def test_a_claim_of_divergence_counts_once_it_has_stood():
    own = {1024: 7, 2048: 8}
    judge = DigestJudge(1, 3, own.get, stands_for=300)
    judge.told(1024, 666, now=1000)
    assert not judge.standing(1299) and "diverged" in judge.standing(1300)
    judge.told(1024, 7, now=1310)
    assert not judge.standing(2000)
    judge.told(2048, 666, now=2000)
    judge.told(1024, 7, now=2100)  # an agreement of before says nothing about what came after
    assert judge.standing(2300)
    judge.reset()
    for node, digest in ((2, 666), (3, 667)):
        judge.hear(node, 1024, digest, now=3000)
    assert "no majority" in judge.standing(3300)
    judge.hear(2, 1024, 7, now=3310)
    assert not judge.standing(4000) and judge.agreed == (1024, 7)
    assert DigestJudge(1, 3, own.get).standing(0) == ""


def test_what_a_forged_handshake_taught_is_unlearned():
    attack = Attack(65)
    world = attack.world
    leader = world.leader().settings.node
    victim = leader % 3 + 1
    transport = world.members[victim].core.transport
    peer = transport.peers[leader]
    peer.nonce = 12345  # as if a handshake were under way, and somebody on the path had read its nonce
    hashes = list(transport.identity.hashes.values())
    body = BODY_HELLO.pack(12345, *hashes, wire.WIRE_VERSION, wire.WIRE_VERSION, 0)
    lives = (1 << 64) - 1, transport.identity.incarnation
    forged = wire.encode_frame(wire.KIND_HELLO_REPLY, 0, CLUSTER, leader, victim, *lives, 0, 0, 0, 0, body)
    world.send(b"evil", b"peer%d" % victim, forged)
    world.until(lambda: peer.incarnation == (1 << 64) - 1, within_ms=10)
    world.until(lambda: peer.incarnation == world.members[leader].core.transport.identity.incarnation)
    attack.serves()


def test_a_flood_of_handshakes_is_answered_sparingly():
    attack = Attack(66)
    world = attack.world
    victim = world.leader().settings.node
    sender = victim % 3 + 1
    hashes = list(world.members[victim].core.transport.identity.hashes.values())
    body = BODY_HELLO.pack(1, *hashes, wire.WIRE_VERSION, wire.WIRE_VERSION, 0)
    attack.recorded.clear()
    for _ in range(50):
        attack.frame(sender, victim, wire.KIND_HELLO, payload=body)
    world.step(2)
    answers = [data for kept in attack.recorded[b"peer%d" % sender].by_kind.values() for data in kept]
    kinds = [HEADER.unpack_from(frame)[FIELDS.index("kind")] for data in answers for frame in split(data)]
    assert kinds.count(wire.KIND_HELLO_REPLY) == 16
    attack.serves()


def test_fragments_finer_than_anybody_cuts_are_refused():
    """A byte apiece would cost fifty times what the sender is charged for it."""
    reassembler = Reassembler()
    payload = bytes((wire.KIND_REQUEST, 0, 0, 0, 0, 0, 0, 0)) + b"x"
    data = wire.encode_frame(wire.KIND_FRAGMENT, 0, 1, 1, 2, 0, 0, 9, 0, 2000, 2000, payload)
    frame = wire.parse_datagram(data)[0][0]
    assert reassembler.on_fragment(1, frame, payload, 0) == (None, None)
    assert reassembler.malformed == 1 and len(reassembler) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xff", b"null", b"[]", b"{}", b"[" * 60_000, b'{"command":"transfer-leader","to":[[[]]]}',
        b'{"command":"transfer-leader","to":true}', b'{"command":"transfer-leader","to":' + b"9" * 4000 + b"}",
        b'{"command":"transfer-leader","to":1e999}', b'{"command":"transfer-leader","to":"\\ud800"}', b"9" * 60_000,
        b'{"command":"transfer-leader","to":' + b"[" * 900 + b"]" * 900 + b"}",
    ],
    ids=range(13),
)
def test_any_admin_request_is_answered_or_dropped(body):
    world = World(1, seed=67)
    world.elect()
    frame = wire.encode_frame(wire.KIND_ADMIN, 0, CLUSTER, 0, 0, 0, 0, 0, 77, 0, 0, body)
    world.send(b"evil", b"node1", frame)
    world.step(3)
    answered = len(world.inbox.get(b"evil", ()))
    dropped = world.members[1].core.clients.counters.as_dict()["bad_body"]
    assert answered + dropped == 1
    assert Caller(world).open().request(Kind.KEEP_ALIVE, 1, b"").status == Status.OK
