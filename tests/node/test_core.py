"""The node without IO: elections, durability, recovery, refusal, repair of connections. Simulated time only."""

import random

import pytest
from world import CLUSTER, MS, Caller, World, fill_disk

from quorumd import commands, limits
from quorumd.answers import carry_out
from quorumd.commands import Kind, Status
from quorumd.consensus.engine import Role
from quorumd.errors import DiskError
from quorumd.slotlog import IslandRoom

pytestmark = pytest.mark.usefixtures("either_engine")


def test_three_nodes_elect_and_serve():
    world = World(3, seed=1)
    world.elect()
    caller = Caller(world).open()
    assert caller.put(b"greeting", b"hello").revision == 2
    assert caller.get(b"greeting") == b"hello"
    world.until(world.converged)


def test_what_is_proposed_and_what_is_accepted_is_counted():
    world = World(3, seed=1)
    leader = world.elect()
    caller = Caller(world).open()
    for number in range(5):
        caller.put(b"k", b"%d" % number)
    world.until(world.converged)
    counts = {core.settings.node: (core.appender.proposed, core.appender.accepted) for core in world.cores()}
    assert counts == {i: (8 if i == leader else 0, 8) for i in world.ids}  # no-op, rules, session, five puts
    other = next(i for i in world.ids if i != leader)
    world.isolate(other)
    caller.put(b"k", b"without it")
    assert world.members[leader].core.status()["accepted"] == 9
    assert world.members[other].core.status()["accepted"] == 8


def test_a_single_node_serves_alone():
    world = World(1, seed=2)
    world.elect()
    caller = Caller(world).open()
    caller.put(b"k", b"v")
    assert caller.get(b"k") == b"v"


def test_nothing_is_answered_before_a_majority_has_it_on_disk():
    world = World(3, seed=3)
    leader = world.elect()
    caller = Caller(world).open()
    caller.target = leader
    for i in world.ids:
        world.members[i].disk.stick(world.now)
    with pytest.raises(TimeoutError):
        caller.write(commands.Put(b"k", b"v"), within_ms=1000)
    others = [i for i in world.ids if i != leader]
    for i in others:
        world.members[i].disk.stuck_since = None
    assert caller.request(commands.Kind.COMMAND, 1, commands.encode(commands.Put(b"k", b"v"))).status == Status.OK
    assert world.members[leader].disk.unsynced


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_killing_everything_loses_nothing_that_was_acknowledged(seed, power):
    world = World(3, seed=seed)
    world.elect()
    caller = Caller(world, seed).open()
    acknowledged = {}
    for round_ in range(3):
        for i in range(20):
            key, value = b"k%d" % i, b"%d/%d" % (round_, i)
            caller.put(key, value)
            acknowledged[key] = value
        for i in world.ids:
            world.stop(i, power=power)
        for i in world.ids:
            world.start(i)
        world.elect()
        for key, value in acknowledged.items():
            assert caller.get(key) == value
    world.until(world.converged)


def test_a_retry_executes_once_across_a_leader_change():
    world = World(3, seed=7)
    world.elect()
    caller = Caller(world).open()
    caller.put(b"n", b"1")
    before = world.leader().store.executed
    leader = world.leader().settings.node
    record = commands.encode_record(
        commands.Kind.COMMAND, caller.session, 2, 2, commands.encode(commands.Put(b"n", b"2"))
    )
    caller.transmit(record, leader)
    world.step(4)
    world.stop(leader)
    caller.seq = 2
    reply = caller.request(commands.Kind.COMMAND, 2, commands.encode(commands.Put(b"n", b"2")))
    again = caller.request(commands.Kind.COMMAND, 2, commands.encode(commands.Put(b"n", b"2")))
    assert (reply.status, reply.revision) == (again.status, again.revision) == (Status.OK, 3)
    assert world.leader().store.executed == before + 1


def test_a_deposed_leader_answers_no_stale_read():
    world = World(3, seed=8)
    old = world.elect()
    caller = Caller(world).open()
    caller.put(b"k", b"old")
    world.members[old].paused = True
    caller.target = old % 3 + 1
    caller.put(b"k", b"new")
    world.members[old].paused = False
    caller.target = old
    assert caller.get(b"k") == b"new"


def test_one_way_and_full_partitions_heal():
    world = World(3, seed=9)
    leader = world.elect()
    caller = Caller(world).open()
    caller.put(b"a", b"1")
    world.isolate(leader)
    caller.put(b"a", b"2")
    world.heal()
    world.cut.add((1, 2))
    caller.put(b"a", b"3")
    world.heal()
    world.until(world.converged, 5000)
    assert caller.get(b"a") == b"3"


def test_largest_values_commit_in_small_datagrams_with_loss_both_ways():
    world = World(3, seed=10, mtu=1400)
    world.elect()
    world.loss = 0.05
    caller = Caller(world).open()
    value = random.Random(5).randbytes(limits.MAX_VALUE_BYTES)
    result = caller.write(commands.Put(b"big", value), within_ms=20_000)
    assert result.revision == 2
    world.loss = 0.0
    world.until(world.converged, 20_000)
    for core in world.cores():
        (found,) = commands.decode(
            commands.Range(b"big"), 2, core.store.query(commands.encode(commands.Range(b"big")))[-1]
        ).kvs
        assert found.value == value


def test_a_value_above_the_limit_is_a_definite_error():
    with pytest.raises(Exception, match=r"1048576|1 MiB"):
        commands.encode(commands.Put(b"k", b"x" * (limits.MAX_VALUE_BYTES + 1)))


def test_a_follower_far_behind_catches_up_from_the_log_on_disk():
    world = World(3, seed=11, ring_bytes=8 * limits.MIB)
    leader = world.elect()
    caller = Caller(world).open()
    behind = leader % 3 + 1
    world.stop(behind)
    for i in range(24):
        caller.put(b"k%d" % i, bytes([i]) * (512 * limits.KIB))
    assert world.leader().log.ring.first > 1
    world.start(behind)
    world.until(world.converged, 20_000)


def test_recovery_applies_what_the_log_knows_committed_and_reads_back_the_rest():
    world = World(3, seed=12, ring_bytes=8 * limits.MIB)
    world.elect()
    caller = Caller(world).open()
    for i in range(24):
        caller.put(b"k%d" % i, bytes([i]) * (512 * limits.KIB))
    for i in world.ids:
        world.stop(i, power=True)
    for i in world.ids:
        world.start(i)
    world.elect()
    for i in range(24):
        assert caller.get(b"k%d" % i) == bytes([i]) * (512 * limits.KIB)


# -- identity -------------------------------------------------------------------------------------------------------


def test_bootstrap_together_derives_one_cluster():
    world = World(3, seed=13, bootstrap=True)
    world.until(world.leader)
    clusters = {core.transport.cluster for core in world.cores()}
    assert len(clusters) == 1 and 0 not in clusters


def test_an_empty_directory_without_bootstrap_waits():
    world = World(3, seed=14, bootstrap=False)
    world.step(1000)
    assert all(core.engine is None for core in world.cores())
    assert "--bootstrap" in world.has("waiting")[0][1]["reason"]


@pytest.mark.parametrize("bootstrap", [False, True])
def test_a_wiped_voter_stays_out(bootstrap):
    world = World(3, seed=15, bootstrap=True)
    leader = world.elect()
    cluster = world.leader().transport.cluster
    Caller(world, cluster=cluster).open().put(b"k", b"v")
    wiped = leader % 3 + 1
    world.stop(wiped)
    world.members[wiped].disk.__init__()
    world.start(wiped, bootstrap=bootstrap)
    world.step(2000)
    core = world.members[wiped].core
    assert core.engine is None
    assert "must not vote" in core.out_of_quorum
    assert world.leader() is not None


def told_otherwise(seed, **differs):
    """A world in which the last node, which is named, comes back with another config."""
    world = World(3, seed=seed)
    world.elect()
    odd = world.ids[-1]
    hashes = world.members[odd].core.settings.hashes
    world.stop(odd)
    world.start(odd, hashes={**hashes, **differs})
    world.step(500)
    return world, odd


def test_other_config_is_refused_and_the_key_is_named():
    world, _ = told_otherwise(16, nodes=9)
    assert any("'nodes'" in detail["reason"] for _, detail in world.has("peer_refused"))


def test_another_quota_is_named_and_not_refused():
    world, odd = told_otherwise(17, **{"storage.quota_mib": 9})
    assert world.converged() and not world.has("peer_refused")
    told = [(node, detail["peer"]) for node, detail in world.has("peer_differs")]
    assert sorted(told) == [(1, odd), (2, odd), (odd, 1), (odd, 2)]
    assert all("'storage.quota_mib'" in detail["reason"] for _, detail in world.has("peer_differs"))


# -- damage ---------------------------------------------------------------------------------------------------------


def damaged_world(seed, flip):
    world = World(3, seed=seed)
    world.elect()
    caller = Caller(world).open()
    for i in range(10):
        caller.put(b"k%d" % i, b"v" * 100)
    world.step(200)
    victim = world.leader().settings.node % 3 + 1
    world.stop(victim)
    flip(world.members[victim].disk)
    world.start(victim)
    world.step(500)
    return world, victim


def test_damage_below_what_was_durable_is_named_and_nothing_is_cut():
    images = {}

    def flip(disk):
        disk.cache[1][2048 + 100] ^= 1
        images.update({n: bytes(data) for n, data in disk.cache.items()})

    world, victim = damaged_world(17, flip)
    member = world.members[victim]
    assert member.core.engine is None
    assert "corruption" in member.core.out_of_quorum
    assert "wal-0000000000000001.seg" in member.core.out_of_quorum and "entry" in member.core.out_of_quorum
    assert {n: bytes(data) for n, data in member.disk.cache.items() if n in images} == images


def test_a_torn_tail_is_cut_and_the_node_goes_on():
    world = World(3, seed=18)
    world.elect()
    caller = Caller(world).open()
    caller.put(b"k", b"v")
    victim = world.leader().settings.node % 3 + 1
    disk = world.members[victim].disk
    disk.stick(world.now)
    caller.put(b"k", b"w")
    number, offset, data, _ = disk.unsynced[-1]
    world.members[victim].core = None
    disk.platter[number][offset : offset + 64] = data[:64]  # the header made it, the record did not
    disk.power_loss(world.rng, lose=1.0)
    world.start(victim)
    assert world.has("torn_tail_cut")
    world.until(world.converged)


def test_a_failed_write_stops_the_node():
    world = World(3, seed=19)
    leader = world.elect()
    caller = Caller(world).open()
    caller.target = leader
    world.members[leader].disk.failure = "sync failed: Input/output error"
    with pytest.raises(DiskError):
        caller.put(b"k", b"v")


# -- disk full, stalled disk --------------------------------------------------------------------------------------


def test_a_full_quorum_refuses_growth_definitely_and_recovers_by_itself():
    world = World(3, seed=20)
    world.elect()
    caller = Caller(world).open()
    for member in world.members.values():
        fill_disk(member)
    outcome = None
    for i in range(40):
        outcome = caller.put(b"k%d" % i, b"x" * (200 * limits.KIB))
        if not isinstance(outcome, commands.PutResult):
            break
    assert outcome.status == Status.DISK_FULL
    caller.seq -= 1
    deleted = caller.write(commands.DeleteRange(b"k0"))
    assert deleted.deleted == 1
    assert caller.get(b"k1") == b"x" * (200 * limits.KIB)
    for member in world.members.values():
        member.disk.prepare_errno = 0
    world.step(3000)
    assert isinstance(caller.put(b"again", b"y"), commands.PutResult)


def test_a_leader_whose_disk_alone_is_full_hands_over():
    world = World(3, seed=22)
    leader = world.elect()
    caller = Caller(world).open()
    fill_disk(world.members[leader])
    for i in range(20):
        caller.put(b"k%d" % i, b"x" * (200 * limits.KIB))
        if world.members[leader].core.storage.disk_full:
            break
    world.until(lambda: world.leader() and world.leader().settings.node != leader, 6000)
    assert world.has("disk_full")
    assert isinstance(caller.put(b"again", b"y" * (200 * limits.KIB)), commands.PutResult)


def test_a_full_leader_takes_a_delete_that_comes_together_with_a_write():
    world = World(3, seed=23)
    leader = world.elect()
    core = world.members[leader].core
    core._transfer_told = world.now + 3600 * limits.SECOND  # it stays
    caller = Caller(world).open()
    caller.target = leader
    fill_disk(world.members[leader])
    while not core.storage.disk_full:
        caller.put(b"k", b"x" * (200 * limits.KIB))
    put, delete = commands.Put(b"l", b"y" * (200 * limits.KIB)), commands.DeleteRange(b"k")
    caller.target = leader
    records = [
        commands.encode_record(Kind.COMMAND, caller.session, seq, caller.seq, commands.encode(op))
        for seq, op in ((caller.seq + 1, put), (caller.seq + 2, delete))
    ]
    caller.transmit(b"".join(records), count=2)
    statuses = {}
    world.until(lambda: note_replies(caller, statuses) == 2, 3000)
    assert statuses == {caller.seq + 1: Status.DISK_FULL, caller.seq + 2: Status.OK}


def note_replies(caller, statuses):
    """How many of the next two operations have been answered."""
    caller.receive(0, lambda reply: statuses.setdefault(reply.seq, reply.status))
    return len(statuses)


def test_a_leader_with_a_hanging_disk_hands_over():
    world = World(3, seed=21)
    leader = world.elect()
    caller = Caller(world).open()
    world.members[leader].disk.stick(world.now)
    caller.put(b"k", b"v")
    world.until(lambda: world.leader() and world.leader().settings.node != leader, 6000)
    assert world.has("disk_stalled")
    assert caller.get(b"k") == b"v"


# -- sessions, digests ------------------------------------------------------------------------------------------------


def test_sessions_expire_after_a_full_ttl_and_only_then():
    world = World(3, seed=22, session_ttl=2000 * MS)
    world.elect()
    caller = Caller(world).open()
    caller.put(b"k", b"v")
    world.step(1500)
    assert isinstance(caller.put(b"k", b"w"), commands.PutResult)
    world.step(4000)
    assert caller.put(b"k", b"x").status == Status.SESSION_EXPIRED


def test_a_diverged_replica_stops():
    from quorumd.errors import Diverged

    world = World(3, seed=23)
    leader = world.elect()
    caller = Caller(world).open()
    world.until(world.converged)
    victim = leader % 3 + 1
    # What a flipped bit in memory would do: the victim's state silently differs from now on.
    from quorumd_fastpath import apply

    store = world.members[victim].core.store
    other = apply.Store(limits.DEFAULT_QUOTA_BYTES, limits.MAX_SESSIONS)
    noop = commands.encode_record(commands.Kind.NOOP, b"\1" * 16, 9, 0, b"")
    for index in range(1, store.applied + 1):
        other.apply_bytes(noop, index, 1)
    world.members[victim].core.applier.store = world.members[victim].core.store = other
    world.members[victim].core.applier.judge._own = other.digest_at
    with pytest.raises(Diverged, match="diverged"):
        for i in range(1200):
            caller.transmit(
                commands.encode_record(
                    commands.Kind.COMMAND, caller.session, 1 + i, 1 + i, commands.encode(commands.Put(b"k", b"%d" % i))
                ),
                leader,
            )
            world.step()
        world.step(5000)  # without a key the reason must stand for a while


def test_old_lives_and_strangers_are_counted_and_dropped():
    world = World(3, seed=24)
    leader = world.elect()
    recorded = []
    send = world.send
    world.send = lambda source, dest, data: (recorded.append((source, dest, data)), send(source, dest, data))
    world.step(200)
    world.send = send
    victim = leader % 3 + 1
    world.stop(victim)
    world.start(victim)
    world.until(world.converged)
    for source, dest, data in recorded:
        send(source, dest, data)
    world.step(50)
    drops = world.members[victim].core.transport.counters.as_dict()
    assert drops["stale_receiver"] > 0
    assert world.leader() is not None


@pytest.mark.parametrize("seed", range(4))
def test_loss_duplication_and_reordering(seed):
    world = World(3, seed=100 + seed)
    world.loss, world.duplicate, world.delay_ms = 0.1, 0.2, (0, 8)
    world.until(world.leader, 10_000)
    caller = Caller(world, seed)
    caller.request(commands.Kind.OPEN_SESSION, 0, b"", within_ms=20_000)
    for i in range(40):
        assert caller.write(commands.Put(b"k", b"%d" % i), within_ms=20_000).revision == i + 2
    world.loss = world.duplicate = 0.0
    world.until(world.converged, 10_000)
    assert {core.store.executed for core in world.cores()} == {40}


def test_same_seed_same_history():
    def run():
        world = World(3, seed=25)
        world.loss = 0.05
        world.elect()
        caller = Caller(world).open()
        for i in range(10):
            caller.put(b"k%d" % i, b"v")
        return world.sent, world.now, [c.store.digest for c in world.cores()], world.events

    assert run() == run()


def test_leadership_moves_on_request():
    world = World(3, seed=26)
    leader = world.elect()
    target = leader % 3 + 1
    core = world.leader()
    assert carry_out(core, {"command": "transfer-leader", "to": target}, core.engine.term)["ok"]
    world.until(lambda: world.leader() and world.leader().settings.node == target)
    assert world.members[leader].core.engine.role is Role.FOLLOWER


def test_cluster_id_is_what_bootstrap_was_told():
    assert World(1, seed=27).members[1].core.transport.cluster == CLUSTER


def test_a_follower_that_was_away_catches_up_while_writes_go_on():
    """It is pushed new slots, which fill the islands of Multi-Paxos, while it fetches the old ones. The answers
    to a fetch come in one turn, and each follows the one before, which is in the log only after that turn."""
    world = World(3, seed=21, islands=IslandRoom(entries=20))
    caller = Caller(world)
    caller.target = leader = world.elect()
    caller.open()
    away = next(i for i in world.ids if i != leader)
    world.members[away].paused = True
    caller.fill(12_000)
    world.members[away].paused = False
    begun = world.now
    while world.members[away].core.applier.applied < world.members[leader].core.applier.applied - 200:
        caller.fill(64)
    assert world.now - begun < 100 * MS
