"""What commands are judged by stands in the log: a setting changed later rewrites no history."""

import pytest
from world import Caller, World

from quorumd import commands, limits, ownentries
from quorumd.commands import Kind, Range, Status, decode_records, encode_record
from quorumd.limits import MIB, RULES_VERSION
from quorumd_fastpath.apply import Store

pytestmark = pytest.mark.usefixtures("either_engine")

LARGE = 200_000


def put(caller, seq):
    """The status of a put of a large value under a key of its own."""
    return caller.request(Kind.COMMAND, seq, commands.encode(commands.Put(b"k%d" % seq, bytes(LARGE)))).status


def restart(world, quota_bytes):
    """All nodes, as people do who edit the one config: each was told the other quota."""
    world.until(world.converged)
    for i in world.ids:
        world.stop(i)
    for i in world.ids:
        world.start(i, quota_bytes=quota_bytes)
    world.elect()


def world_of(quota_bytes):
    world = World(quota_bytes=quota_bytes)
    world.elect()
    caller = Caller(world).open()
    statuses = [put(caller, seq) for seq in range(1, 11)]
    return world, caller, statuses


def keys(caller, seq):
    request = Range(b"k", b"l", count_only=True)
    reply = caller.request(Kind.READ, seq, commands.encode(request))
    return commands.decode(request, reply.revision, reply.body).count


@pytest.mark.parametrize(("before", "after"), [(4 * MIB, 1 * MIB), (1 * MIB, 4 * MIB)])
def test_another_quota_is_for_what_comes_next(before, after):
    world, caller, statuses = world_of(before)
    fit = statuses.count(Status.OK)
    assert fit == (10 if before > after else 5) and set(statuses[fit:]) <= {Status.NO_SPACE}
    restart(world, after)
    assert keys(caller, 100) == fit
    # The setting in force is the log's until the first write of this leader, or its chores, have said the new one.
    world.step(3000)
    assert {core.store.quota_bytes for core in world.cores()} == {after}
    assert put(caller, 11) is (Status.OK if after > before else Status.NO_SPACE)
    world.until(world.converged)
    digests = {(core.store.applied, core.store.digest) for core in world.cores()}
    assert len(digests) == 1


def test_the_nodes_may_get_another_quota_one_after_the_other():
    world, caller, statuses = world_of(4 * MIB)
    for i in world.ids:
        world.until(world.converged)
        world.stop(i)
        world.start(i, quota_bytes=MIB)
        world.elect()
    world.step(3000)
    assert {core.store.quota_bytes for core in world.cores()} == {MIB}
    assert put(caller, 11) is Status.NO_SPACE and keys(caller, 100) == len(statuses)
    world.until(world.converged)
    assert len({(core.store.applied, core.store.digest) for core in world.cores()}) == 1


def test_the_rules_come_before_the_first_command():
    world = World(1)
    world.elect()
    Caller(world).open().put(b"k", b"v")
    core = world.members[1].core
    data = core.log.ring.copy(1, core.log.ring.last)
    kinds = [(record.kind, record.seq) for record in decode_records(bytes(data))]
    assert kinds[:2] == [(Kind.NOOP, 0), (Kind.RULES, limits.DEFAULT_QUOTA_BYTES)]
    assert [kind for kind, _ in kinds].count(Kind.RULES) == 1


def test_a_log_of_older_rules_goes_on_by_the_newest(monkeypatch):
    """As after an update of all nodes: what was, stays as it was; what comes is judged by what this version has."""
    monkeypatch.setattr(ownentries, "RULES_VERSION", 1)
    world, caller, _ = world_of(4 * MIB)
    assert {core.store.rules for core in world.cores()} == {1}
    monkeypatch.undo()
    restart(world, 4 * MIB)
    world.step(3000)
    assert {core.store.rules for core in world.cores()} == {RULES_VERSION}
    last = world.leader().engine.last
    world.step(3000)
    assert world.leader().engine.last == last  # it is said once
    assert put(caller, 11) is Status.OK
    world.until(world.converged)
    assert len({(core.store.applied, core.store.digest) for core in world.cores()}) == 1


def test_a_log_of_other_rules_is_not_applied():
    for version in (0, RULES_VERSION + 1):
        store = Store(MIB)
        other = bytes(8) + version.to_bytes(8, "little")
        with pytest.raises(RuntimeError, match=f"rules of version {version}, this version of quorumd has"):
            store.apply_bytes(encode_record(Kind.RULES, other, MIB, 0), 1, 1)
