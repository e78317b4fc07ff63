"""The supervisor's loop over stand-ins for nodes."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from quorumd import limits
from quorumd.client.probe import StatusProbe
from quorumd.errors import ConfigError, Rejected, Stopped
from quorumd.supervisor import record
from quorumd.supervisor.loop import Supervisor, check_addresses
from quorumd.supervisor.process import NodeProcess

from .conftest import Watcher, argument, events


def all_up(watcher: Watcher) -> bool:
    return all(row["role"] for row in watcher.rows)


def test_it_starts_all_shows_all_and_stops_all(make_config, supervise):
    config = make_config()
    leaders, pids = [], []

    def step(watcher: Watcher) -> bool:
        pids[:] = [row["pid"] for row in watcher.rows]
        return all_up(watcher) and bool(leaders)

    code, watcher = supervise(config, step, on_ready=leaders.append)
    assert code == 0
    assert [row["role"] for row in watcher.rows] == ["leader", "follower", "follower"]
    assert leaders[0]["id"] == 1
    assert all(row["alive"] and row["rss_bytes"] and row["restarts"] == 0 for row in watcher.rows)
    assert [row["address"] for row in watcher.rows] == config.client_endpoints
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert [event["event"] for event in events(config)] == [
        "start", *["node-started"] * 3, "ready", *["node-stopped"] * 3, "stopped",
    ]  # fmt: skip
    assert not record.is_locked(config)
    assert record.running(config) is None


def test_empty_directories_are_bootstrapped_with_one_random_id(make_config, supervise):
    config = make_config()
    supervise(config, all_up)
    ids = {argument(config, node_id, 1) for node_id in (1, 2, 3)}
    assert len(ids) == 1
    assert int(ids.pop(), 16) > 0
    supervise(config, all_up)
    assert [argument(config, node_id, 2) for node_id in (1, 2, 3)] == ["", "", ""]


def test_an_empty_directory_among_others_is_not_bootstrapped(make_config, supervise):
    config = make_config()
    supervise(config, all_up)
    for path in config.node_path(2).iterdir():
        path.unlink()
    _, watcher = supervise(config, all_up)
    assert argument(config, 2, 1) == ""
    assert any("empty directory of node 2" in note and "will not vote" in note for note in watcher.notes)


def test_fresh_begins_anew(make_config, supervise):
    config = make_config()
    supervise(config, all_up)
    first = argument(config, 1, 1)
    (config.node_path(1) / "wal-0000000000000001.seg").write_bytes(b"old")
    supervise(config, all_up, fresh=True)
    assert argument(config, 1, 1) not in ("", first)
    assert not (config.node_path(1) / "wal-0000000000000001.seg").exists()


def test_a_killed_node_is_restarted_without_a_second_bootstrap(make_config, supervise):
    config = make_config(extra="supervisor: {restart_backoff_ms: [1, 1]}")
    killed = []

    def step(watcher: Watcher) -> bool:
        if not killed and all_up(watcher):
            killed.append(watcher.rows[0]["pid"])
            os.kill(killed[0], signal.SIGKILL)
        return bool(killed) and watcher.rows[0]["restarts"] == 1 and watcher.rows[0]["role"] == "leader"

    _, watcher = supervise(config, step)
    assert watcher.rows[0]["pid"] != killed[0]
    assert watcher.notes[0] == "node 1: killed by SIGKILL; restart in 0.001 s"
    assert argument(config, 1, 2) == ""
    assert [row["restarts"] for row in watcher.rows] == [1, 0, 0]


def test_a_node_that_died_before_its_stamp_is_bootstrapped_with_the_same_id(make_config, supervise):
    config = make_config(extra="supervisor: {restart_backoff_ms: [1, 1]}")
    supervise(config, all_up, {2: {"crashes": 1, "code": 1, "words": "too early"}})
    assert argument(config, 2, 2) == argument(config, 2, 1) == argument(config, 1, 1) != ""


def test_a_crash_loop_ends_with_the_nodes_own_words_and_the_others_run_on(make_config, supervise):
    config = make_config(extra="supervisor: {restart_backoff_ms: [0, 0], crash_loop: {restarts: 2}}")
    words = "Traceback (most recent call last):\nValueError: the moon is full"

    def step(watcher: Watcher) -> bool:
        return watcher.rows[0]["role"] == "leader" and "crash loop" in watcher.troubles.get(3, "")

    _, watcher = supervise(config, step, {3: {"crashes": 99, "code": 1, "words": words}})
    assert watcher.troubles == {
        3: "crash loop: 2 restarts in 30 s, last: exit code 1: ValueError: the moon is full"
    }
    assert (watcher.rows[2]["alive"], watcher.rows[2]["pid"], watcher.rows[2]["restarts"]) == (False, None, 2)
    gone = [event for event in events(config) if event["event"] == "node-ended"]
    assert [event["level"] for event in gone] == ["warning", "warning", "error"]


def test_a_disk_that_failed_is_not_tried_again(make_config, supervise):
    config = make_config()
    line = json.dumps({"level": "error", "event": "disk", "errno": 5, "path": "wal-1"})

    def step(watcher: Watcher) -> bool:
        return watcher.rows[0]["role"] == "leader" and 2 in watcher.troubles

    _, watcher = supervise(config, step, {2: {"crashes": 99, "code": 4, "words": line}})
    assert watcher.troubles[2] == "disk error (exit code 4): disk errno=5 path=wal-1"
    assert watcher.rows[1]["restarts"] == 0


def refuse_once(monkeypatch, config, node_id, number):
    """The first start of that node fails with errno `number`."""
    start, refused = NodeProcess.start, []

    def refuse(process, command, environment=None):
        if process.directory == config.node_path(node_id) and not refused:
            refused.append(command)
            raise OSError(number, os.strerror(number))
        start(process, command, environment)

    monkeypatch.setattr(NodeProcess, "start", refuse)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE])
def test_a_start_that_the_kernel_has_no_room_for_is_tried_again(make_config, supervise, monkeypatch, number):
    config = make_config(extra="supervisor: {restart_backoff_ms: [1, 1]}")
    refuse_once(monkeypatch, config, 2, number)
    _, watcher = supervise(config, all_up)
    assert watcher.notes[0].startswith("node 2: no process: cannot be started: ")
    assert watcher.notes[0].endswith("; restart in 0.001 s")
    assert argument(config, 2, 1) == argument(config, 1, 1) != ""


def test_a_node_that_finds_its_disk_full_is_tried_again_for_as_long_as_it_takes(make_config, supervise):
    config = make_config(extra="supervisor: {restart_backoff_ms: [1, 1], crash_loop: {restarts: 2}}")
    line = json.dumps({"level": "error", "event": "no_room", "reason": "meta.json: No space left"})
    _, watcher = supervise(config, all_up, {2: {"crashes": 6, "code": 5, "words": line}})
    assert watcher.rows[1]["restarts"] == 6
    assert watcher.notes[0].startswith("node 2: no room on its disk (exit code 5): no_room reason=")
    assert watcher.notes[0].endswith("; restart in 0.001 s")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_start_that_finds_the_disk_full_is_tried_again(make_config, supervise, monkeypatch, number):
    config = make_config(extra="supervisor: {restart_backoff_ms: [1, 1]}")
    refuse_once(monkeypatch, config, 2, number)
    _, watcher = supervise(config, all_up)
    assert watcher.notes[0].startswith("node 2: no room on its disk (exit code 5): cannot be started: ")


def test_a_start_that_the_disk_refuses_is_not_tried_again(make_config, supervise, monkeypatch):
    config = make_config()
    refuse_once(monkeypatch, config, 2, errno.EROFS)
    _, watcher = supervise(config, lambda w: w.rows[0]["role"] == "leader" and 2 in w.troubles)
    assert watcher.troubles[2].startswith("disk error (exit code 4): cannot be started: ")
    assert watcher.rows[1]["restarts"] == 0


def test_when_no_node_is_left_it_ends_with_the_reason(make_config, supervise):
    config = make_config(1)
    with pytest.raises(Stopped, match="node 1: disk error"):
        supervise(config, lambda watcher: False, {1: {"crashes": 99, "code": 4, "words": "EIO"}})
    assert not record.is_locked(config)


def test_a_node_that_refuses_its_config_at_the_first_start_ends_it_all(make_config, supervise):
    config = make_config()
    with pytest.raises(ConfigError, match=r"quorumd: x\.yaml:1: nodes: wrong"):
        supervise(config, lambda w: False, {2: {"crashes": 9, "code": 2, "words": "quorumd: x.yaml:1: nodes: wrong"}})


def test_a_node_that_ignores_sigterm_is_killed_after_the_deadline(make_config, supervise, monkeypatch):
    monkeypatch.setattr(limits, "STOP_DEADLINE_S", 0.05)
    pids = []

    def step(watcher: Watcher) -> bool:
        pids[:] = [row["pid"] for row in watcher.rows]
        return all_up(watcher)

    supervise(make_config(), step, {2: {"stubborn": True}})
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_paused_node_does_not_hold_up_the_stop(make_config, supervise):
    def step(watcher: Watcher) -> bool:
        if all_up(watcher):
            os.kill(watcher.rows[1]["pid"], signal.SIGSTOP)
            return True
        return False

    config = make_config()
    supervise(config, step)
    assert [event["code"] for event in events(config) if event["event"] == "node-stopped"] == [-signal.SIGTERM] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it_in_order(make_config, supervise, number):
    sent = []

    def step(watcher: Watcher) -> bool:
        if all_up(watcher) and not sent:
            sent.append(watcher.looks)
            signal.raise_signal(number)
        return bool(sent)

    code, watcher = supervise(make_config(), step)
    assert code == 0
    assert watcher.notes[-1] == "stopping"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_end_of_the_lifeline_stops_it(make_config, supervise):
    reader, writer = os.pipe()
    cut = []

    def step(watcher: Watcher) -> bool:
        if all_up(watcher) and not cut:
            cut.append(writer)
            os.close(writer)
        return False

    def ended(watcher: Watcher) -> bool:
        step(watcher)
        return bool(cut)

    supervise(make_config(), ended, lifeline=reader)
    os.close(reader)


def test_a_second_supervisor_is_refused_and_disturbs_nothing(make_config, supervise):
    config = make_config()
    refusals = []

    def step(watcher: Watcher) -> bool:
        if not all_up(watcher):
            return False
        with pytest.raises(Rejected) as refusal:
            Supervisor(config, watcher.supervisor.probe, watcher, fresh=True).run()
        refusals.append(str(refusal.value))
        return True

    supervise(config, step)
    assert refusals == [
        f"{config.data_path} is already in use by a running supervisor (pid {os.getpid()}); stop it with `quorumd down`"
    ]


def test_nodes_of_an_earlier_run_are_waited_for_and_then_named(make_config, supervise, monkeypatch):
    config = make_config(1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as straggler:
        config.data_path.mkdir()
        me = record.identify(os.getpid())
        nodes = {"1": record.NodeRecord(process=record.identify(straggler.pid))}
        record.write(config, record.SupervisorRecord(supervisor=me, config="", nodes=nodes))
        monkeypatch.setattr(limits, "EARLIER_RUN_DEADLINE_S", 0.01)
        with pytest.raises(Rejected, match=f"still alive; end it first: kill -9 {straggler.pid}"):
            supervise(config, all_up)
        straggler.kill()
    supervise(config, all_up)


def test_an_address_that_is_taken_is_named(make_config):
    config = make_config(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(tuple(config.node(1).client_endpoint))
        with pytest.raises(ConfigError, match=r"cluster.yaml:4: nodes\[0\].client: .* is in use; stop what uses it"):
            check_addresses(config)
    check_addresses(config)


def test_the_record_names_processes_and_restarts(make_config, supervise):
    config = make_config()
    seen = []

    def step(watcher: Watcher) -> bool:
        if all_up(watcher):
            seen.append((record.running(config), [row["pid"] for row in watcher.rows]))
        return bool(seen)

    supervise(config, step)
    known, pids = seen[0]
    assert known.supervisor.pid == os.getpid()
    assert [known.node(node_id).process.pid for node_id in (1, 2, 3)] == pids
    assert known.config == str(config.path)


def test_a_silent_cluster_is_reported_once(make_config, supervise, monkeypatch):
    monkeypatch.setattr(limits, "LEADER_DEADLINE_S", 0.05)
    config = make_config()

    def step(watcher: Watcher) -> bool:
        return watcher.looks > 20 and any(note.startswith("no leader after") for note in watcher.notes)

    _, watcher = supervise(config, step, {1: {"leader": 0}})
    assert len([note for note in watcher.notes if note.startswith("no leader after")]) == 1


def test_the_probe_ignores_what_it_did_not_ask_for(make_config):
    config = make_config(1)
    probe = StatusProbe(config, None).open()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind((config.node(1).client_endpoint.host, 0))
        probe.ask()
        where = ("127.0.0.1", probe._open_socket.getsockname()[1])
        for noise in (b"", b"noise", bytes(80)):
            stranger.sendto(noise, where)
    assert probe.collect() == {}
    probe.close()
