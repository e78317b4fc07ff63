"""What ends a run: a node that ends by itself, no progress, a damaged log that is accepted. No process is started."""

import asyncio
import os
import random
import signal

import pytest

from quorumd import limits
from quorumd.chaos import run as run_module
from quorumd.chaos.bitflip import Place
from quorumd.chaos.cluster import ChaosCluster, Damage, Disks, Exit
from quorumd.chaos.display import Silent
from quorumd.chaos.run import ChaosRun, Options, Violated
from quorumd.chaos.workload import ACCOUNTS, COUNTERS, OPENING
from quorumd.config import load_config
from quorumd.errors import Rejected, Stopped
from quorumd.limits import SECTOR_BYTES
from quorumd.supervisor.policy import NodeExit

NAME = "wal-0000000000000001.seg"
NAMED = {"voter": False, "role": "follower", "reason": f"/data/{NAME}: offset 512, entry 3: bad_payload"}


@pytest.fixture
def run(tmp_path):
    options = Options(seconds=1, faults=("kill",), clients=1, rate=1, seed=1, nodes=3)
    return ChaosRun(load_config(), options, tmp_path, tmp_path / "history.jsonl", Silent())


async def forever():
    await asyncio.Event().wait()


def watched(run):
    return asyncio.run(run._watched(forever()))


@pytest.fixture
def deaf(run, monkeypatch):
    """A run that asks nobody, as nobody is there."""
    monkeypatch.setattr(run.cluster, "ask", lambda: None)
    return run


def test_a_node_that_ends_by_itself_is_a_violation(deaf):
    deaf.cluster.exits.append(Exit(2, "a defect stopped it (exit code 6): halted reason=x"))
    with pytest.raises(Violated, match="node 2 ended by itself: a defect stopped it"):
        watched(deaf)


def test_a_client_that_dies_ends_the_run(deaf):
    async def dies():
        raise ZeroDivisionError

    async def go():
        deaf.workload._tasks.append(asyncio.create_task(dies()))
        await deaf._watched(forever())

    with pytest.raises(ZeroDivisionError):
        asyncio.run(go())


def test_no_progress_is_a_violation_that_names_the_state_of_every_node(deaf, monkeypatch):
    monkeypatch.setattr(limits, "CHAOS_LIVENESS_S", 0.01)
    deaf.cluster._members[1].status = {"voter": True, "role": "leader", "term": 4, "leader": 1, "disk_full": True}
    deaf.cluster._members[1].status_s = float("inf")
    deaf.cluster._members[2].down.add(7)
    with pytest.raises(Violated) as violation:
        asyncio.run(deaf._recovered(0.0))
    assert "a write succeeds, with everything healed" in str(violation.value)
    assert "node 1: leader, disk full, term 4" in str(violation.value)
    assert "node 2: down; node 3: does not answer" in str(violation.value)


def test_recovery_lasts_to_the_success_of_the_first_write_that_began_after_the_last_heal(deaf, monkeypatch):
    monkeypatch.setattr(run_module, "POLL_S", 0.0)
    tally = deaf.workload.tally
    tally.wrote(1, 2)  # of an earlier round

    async def go():
        recovery = asyncio.create_task(deaf._recovered(0.0))
        await asyncio.sleep(0)
        healed_ns = tally.healed_ns
        tally.wrote(healed_ns - 1, healed_ns + 1_000_000_000)  # begun before
        for _ in range(3):
            await asyncio.sleep(0)
        assert not recovery.done()
        tally.wrote(healed_ns + 10_000_000, healed_ns + 2_000_000_000)
        tally.wrote(healed_ns + 20_000_000, healed_ns + 2_500_000_000)
        await recovery

    asyncio.run(go())
    assert deaf.report.recovery_s == 2.0


@pytest.mark.parametrize(("read", "ok"), [("1.1", True), (None, False)])
def test_a_history_that_is_not_linearizable_is_a_violation_with_a_page(run, read, ok):
    recorder = run.workload.recorder
    recorder.invoke(1, "write", "key/1", "1.1", 10)
    recorder.complete(1, "ok", 20, revision=2)
    recorder.invoke(2, "read", "key/1", None, 30)
    recorder.complete(2, "ok", 40, value=read, revision=2)
    run._check_history()
    assert run.report.ok is ok
    assert run.history.with_suffix(".html").exists() is not ok
    assert bool(run.report.violations) is not ok


# -- the end of a run -------------------------------------------------------------------------------------------------

FINAL = {**dict.fromkeys(ACCOUNTS, f"{OPENING}:1.1"), **dict.fromkeys(COUNTERS)}
ENDED = Exit(2, "a defect stopped it (exit code 6)")


def test_what_happens_after_the_last_look_of_the_watch_counts(deaf, monkeypatch):
    async def drive():
        await asyncio.sleep(0)  # the watch looks
        deaf.cluster.exits.append(ENDED)
        return FINAL

    monkeypatch.setattr(deaf, "_drive", drive)
    report = asyncio.run(deaf.run())
    assert report.violations == ["node 2 ended by itself: a defect stopped it (exit code 6)"]


def test_what_the_end_of_the_nodes_shows_counts(deaf, monkeypatch):
    async def drive():
        deaf.workload.tally.nonsense.append("told nonsense")  # which is said once
        return FINAL

    async def close():
        deaf.cluster.exits.append(ENDED)

    monkeypatch.setattr(deaf, "_drive", drive)
    monkeypatch.setattr(deaf.cluster, "close", close)
    report = asyncio.run(deaf.run())
    assert sorted(report.violations) == ["node 2 ended by itself: a defect stopped it (exit code 6)", "told nonsense"]


def test_a_client_that_died_of_a_defect_keeps_nothing_from_being_closed_and_written(deaf, monkeypatch):
    closed = []

    async def drive():
        deaf.workload.recorder.invoke(1, "read", "key/1", None, 10)
        raise Violated("something else")

    async def die():
        raise ZeroDivisionError

    async def close():
        closed.append("cluster")

    async def stop():
        closed.append("spectator")

    monkeypatch.setattr(deaf, "_drive", drive)
    monkeypatch.setattr(deaf.workload, "stop", die)
    monkeypatch.setattr(deaf.spectator, "stop", stop)
    monkeypatch.setattr(deaf.cluster, "close", close)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(deaf.run())
    assert closed == ["spectator", "cluster"]
    assert len(deaf.history.read_text().splitlines()) == 1
    assert deaf.history.with_suffix(".timeline.jsonl").exists()


def test_a_node_that_does_not_end_keeps_the_relay_from_nothing(run, monkeypatch):
    class Relay:
        closed = False

        def close(self):
            self.closed = True

    async def kill(members):
        raise Stopped("node 1 did not end")

    relay = run.cluster._relay = Relay()
    monkeypatch.setattr(run.cluster, "_kill", kill)
    with pytest.raises(Stopped):
        asyncio.run(run.cluster.close())
    assert relay.closed


def test_answers_that_make_no_history_are_a_violation(run):
    recorder = run.workload.recorder
    recorder.invoke(1, "txn", None, {"compare": [], "success": [["read", "a"]], "failure": []}, 10)
    recorder.complete(1, "ok", 20, revision=2, succeeded=True, results=[])
    run._check_history()
    (violation,) = run.report.violations
    assert violation.startswith("what clients were told makes no history: event 2: ")


def test_a_whole_cluster_that_refuses_the_first_write_breaks_a_promise(deaf, monkeypatch):
    async def start():
        pass

    async def refuse():
        raise Rejected("the key is empty")

    monkeypatch.setattr(deaf.cluster, "start", start)
    monkeypatch.setattr(deaf, "_agreed", lambda: True)
    monkeypatch.setattr(deaf.spectator, "start", lambda: None)
    monkeypatch.setattr(deaf.workload, "open_accounts", refuse)
    with pytest.raises(Violated, match="with nothing broken yet a write failed: Rejected: the key is empty"):
        asyncio.run(deaf._drive())


class Process:
    """A node's process that ended with `code`; None: it runs. Its descriptor is that of a pipe."""

    pid = 1

    def __init__(self, code=None):
        self.code = code
        self.starts = 0
        self.signals = []  # in this life
        self.pid_fd, self.other_end = os.pipe()

    def start(self, command, environment):
        self.pid, self.code = 1, None
        self.starts += 1
        self.signals = []

    def send(self, number):
        self.signals.append(number)

    def reap(self):
        if self.code is not None:
            self.pid = None
        return self.code

    def last_words(self):
        return "halted"

    def close(self):
        os.close(self.pid_fd)
        os.close(self.other_end)


@pytest.fixture
def process(run):
    found = run.cluster._members[2].process = Process()
    yield found
    found.close()


def in_loop(call, *arguments):
    async def go():
        call(*arguments)

    asyncio.run(go())


@pytest.mark.parametrize(("code", "problem"), [(6, True), (-signal.SIGSEGV, True), (-signal.SIGKILL, False)])
def test_a_node_that_ended_before_its_kill_came_is_reported(run, process, code, problem):
    member = run.cluster._members[2]
    member.expected, process.code = True, code
    in_loop(run.cluster._reap, member)
    assert [ended.node for ended in run.cluster.exits] == ([2] if problem else [])
    assert member.ended.is_set()


def ends(cluster, member, code):
    member.process.code = code
    cluster._reap(member)


def test_a_node_that_ends_for_want_of_room_that_we_took_starts_again_when_there_is_some(run, process):
    cluster, member = run.cluster, run.cluster._members[2]

    def go():
        cluster.fill_disks([2], 7)
        cluster.fill_disks([2], 8)
        ends(cluster, member, NodeExit.NO_ROOM)
        cluster.empty_disks([2], 7)
        assert process.starts == 0  # the other injection goes on
        cluster.empty_disks([2], 8)
        assert process.starts == 1
        ends(cluster, member, -signal.SIGSEGV)

    in_loop(go)
    assert [ended.reason for ended in cluster.exits] == ["killed by SIGSEGV: halted"]
    cluster.check_room()


def test_room_that_is_there_again_before_the_end_was_seen_is_no_reason_to_stay_down(run, process):
    cluster, member = run.cluster, run.cluster._members[2]

    def go():
        cluster.fill_disks([2], 7)
        cluster.empty_disks([2], 7)
        ends(cluster, member, NodeExit.NO_ROOM)
        assert process.starts == 1
        cluster.check_room()
        ends(cluster, member, NodeExit.NO_ROOM)  # in a life in which we did nothing
        assert process.starts == 1

    in_loop(go)
    assert cluster.exits == []
    with pytest.raises(Stopped, match=r"this machine has no room below .*: node 2 ended: no room on its disk"):
        run._raise_what_is_wrong()


def test_room_starts_no_node_that_is_kept_down(run, process):
    cluster, member = run.cluster, run.cluster._members[2]

    async def go():
        cluster.fill_disks([2], 7)
        member.down.add(8)
        member.expected = True
        ends(cluster, member, NodeExit.NO_ROOM)  # before its kill came
        cluster.empty_disks([2], 7)
        assert process.starts == 0
        await cluster.release([2], 8)
        assert process.starts == 1

    asyncio.run(go())
    assert cluster.exits == []
    cluster.check_room()


def test_a_node_that_is_to_be_gone_at_the_end_is_not_started_for_room(run, process):
    cluster, member = run.cluster, run.cluster._members[2]

    def go():
        cluster.fill_disks([2], 7)
        cluster.empty_disks([2], 7)
        member.expected = True
        ends(cluster, member, NodeExit.NO_ROOM)

    in_loop(go)
    assert process.starts == 0


def test_a_pause_holds_a_node_that_is_started_while_it_lasts(run, process):
    cluster, member = run.cluster, run.cluster._members[2]

    async def go():
        await cluster.release([2], 9)
        assert process.signals == []
        cluster.pause([2], 7)
        ends(cluster, member, -signal.SIGKILL)
        await cluster.release([2], 8)
        assert process.signals == [signal.SIGSTOP]
        cluster.resume([2], 7)
        assert process.signals == [signal.SIGSTOP, signal.SIGCONT]

    process.pid = None
    member.expected = True
    asyncio.run(go())


# -- damaged logs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(run, tmp_path):
    path = tmp_path / NAME
    path.write_bytes(b"damaged")
    run.cluster.damage = Damage(2, Place(path, 3, 1), b"damaged")
    return run.cluster


def test_a_node_that_names_its_damage_and_stays_out_is_fine(damaged):
    assert not damaged.names_damage()
    damaged._judge_damaged(NAMED)
    damaged.check_damaged()
    assert damaged.names_damage()
    assert damaged.problems == []
    assert damaged.voters() == [1, 3]


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        ({"voter": True}, "node 2 votes with a damaged log"),
        ({"role": "leader"}, "node 2 votes with a damaged log"),
        ({"reason": ""}, "does not name the damage"),
    ],
)
def test_damage_that_is_accepted_is_a_violation(damaged, change, objection):
    for _ in range(2):
        damaged._judge_damaged(NAMED | change)
    (problem,) = damaged.problems
    assert objection in problem
    assert not damaged.names_damage()


def test_the_damage_is_to_be_named_in_every_life(damaged, process):
    damaged._judge_damaged(NAMED)
    in_loop(damaged._start, damaged._members[2])
    assert not damaged.names_damage()


def test_a_node_that_never_names_its_damage_is_a_violation(deaf, damaged, monkeypatch):
    async def done(*arguments):
        return []

    monkeypatch.setattr(limits, "CHAOS_START_S", 0.0)
    monkeypatch.setattr(run_module, "all_ended", done)
    monkeypatch.setattr(damaged, "stop", done)
    monkeypatch.setattr(damaged, "release", done)
    monkeypatch.setattr(deaf, "_agreed", lambda: True)
    with pytest.raises(Violated, match=r"0 s: the node with a damaged log says so; .*node 2: does not answer"):
        asyncio.run(deaf._settle())


def test_what_a_power_cut_takes_from_a_damaged_file_is_not_the_nodes_doing(tmp_path):
    disks = Disks(tmp_path / "unused.so", power=True, full=False)
    cluster = ChaosCluster(load_config(), tmp_path, nodes=3, seed=1, disks=disks)
    path = tmp_path / "node-2" / "cache" / NAME
    path.write_bytes(bytes(64 * SECTOR_BYTES))  # a name and bytes that nobody synced
    cluster.damage = Damage(2, Place(path, 3, 1), path.read_bytes())
    path.write_bytes(b"x" + bytes(64 * SECTOR_BYTES - 1))
    asyncio.run(cluster.cut_power([1]))
    (problem,) = cluster.problems
    assert "node 2 changed" in problem  # which a cut elsewhere does not hide
    cluster.problems.clear()
    platter = cluster._members[2].platter
    platter.cut(random.Random(1), lose=(0.0, 0.0))
    path.write_bytes(b"y" + bytes(64 * SECTOR_BYTES - 1))
    cluster.damage = Damage(2, Place(path, 3, 1), path.read_bytes())
    before = path.read_bytes()
    asyncio.run(cluster.cut_power([2]))
    cluster.check_damaged()
    assert cluster.problems == []
    assert path.read_bytes() != before


def test_a_voter_that_leaves_the_quorum_by_itself_is_a_violation(run):
    member = run.cluster._members[3]
    run.cluster._judge(member, {"voter": False, "reason": "waits for node 2"})  # not founded yet
    run.cluster._judge(member, {"voter": True, "reason": ""})
    assert run.cluster.problems == []
    run.cluster._judge(member, NAMED)
    (problem,) = run.cluster.problems
    assert "node 3 stays out of the quorum, and nobody damaged its log" in problem


@pytest.mark.parametrize("content", [b"repaired", None])
def test_damage_that_is_cut_silently_is_a_violation(damaged, content):
    path = damaged.damage.place.path
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    damaged.check_damaged()
    assert damaged.problems == [f"node 2 changed {NAME}, which is damaged at offset 3"]
