"""The supervisor's parts that need no cluster: wiping, figures, display, node log, events."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from quorumd import eventlog
from quorumd.errors import ConfigError
from quorumd.eventlog import EventLog
from quorumd.supervisor import record
from quorumd.supervisor.display import Plain, cells, print_once
from quorumd.supervisor.figures import ProcessMeter, RateMeter, acceptance, leader_ready, node_figures
from quorumd.supervisor.fresh import wipe
from quorumd.supervisor.process import NodeProcess, node_command
from quorumd.supervisor.record import NodeRecord

STATUS = {
    "role": "leader", "term": 3, "leader": 2, "commit": 10, "applied": 9, "durable": 4096, "first": 1, "last": 11,
    "executed": 100, "fsync_p99_us": 1500, "auth": True, "incarnation": 7,
}  # fmt: skip


# -- --fresh --------------------------------------------------------------------------------------------------------


def test_wiping_removes_nothing_but_the_node_directories(make_config):
    config = make_config(2)
    for member in (1, 2):
        config.node_path(member).mkdir(parents=True)
    segments = ("wal-0000000000000001.seg", "wal-0000000000000002.seg.tmp")
    for name in ("meta.json", "lock", "node.log", "node.log.1", *segments):
        (config.node_path(1) / name).write_text("{}")
    (config.data_path / "supervisor.log").write_text("kept")
    (config.data_path / "node-7").mkdir()
    assert wipe(config) == [config.node_path(1), config.node_path(2)]
    assert sorted(path.name for path in config.data_path.iterdir()) == ["node-7", "supervisor.log"]
    assert wipe(config) == []


@pytest.mark.parametrize("name", ["notes.txt", "wal-1.seg", "meta.json.bak", "sub"])
def test_wiping_refuses_what_is_not_ours_before_it_removes_anything(make_config, name):
    config = make_config(2)
    for member in (1, 2):
        config.node_path(member).mkdir(parents=True)
        (config.node_path(member) / "meta.json").write_text("{}")
    (config.node_path(2) / name).mkdir()
    with pytest.raises(ConfigError, match=f"--fresh leaves .*node-2 alone .it holds {name}"):
        wipe(config)
    assert (config.node_path(1) / "meta.json").exists()
    assert (config.node_path(2) / "meta.json").exists()


def test_wiping_empties_a_linked_directory_and_keeps_the_link(make_config, tmp_path):
    config = make_config(1)
    config.data_path.mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "meta.json").write_text("{}")
    config.node_path(1).symlink_to(tmp_path / "disk")
    wipe(config)
    assert config.node_path(1).is_symlink()
    assert list((tmp_path / "disk").iterdir()) == []


# -- figures --------------------------------------------------------------------------------------------------------


def figures(config, status=None, node_record=None, process=(None, None), rate=None):
    return node_figures(config, 1, status=status, record=node_record, process=process, rate=rate)


def test_figures_have_the_documented_keys_and_nothing_else(make_config):
    config = make_config(1)
    keys = [
        "id", "pid", "alive", "role", "term", "leader", "commit", "applied", "durable", "first", "last", "proposed",
        "accepted", "revision", "watch_streams", "watchers", "watchers_lagging", "ops_per_s",
        "rss_bytes", "cpu_percent", "fsync_p99_us", "restarts", "address", "auth",
    ]  # fmt: skip
    assert list(figures(config)) == keys
    assert list(figures(config, STATUS)) == keys


def test_figures_of_a_node_that_answers(make_config):
    row = figures(make_config(1), STATUS | {"pid": 77}, None, (1 << 20, 2.5), 40.0)
    assert (row["role"], row["term"], row["leader"], row["commit"], row["applied"]) == ("leader", 3, 2, 10, 9)
    assert (row["alive"], row["pid"], row["rss_bytes"], row["auth"]) == (True, 77, 1 << 20, True)
    assert row["ops_per_s"] == 40.0


def test_figures_of_a_node_that_is_gone(make_config):
    row = figures(make_config(1), None, NodeRecord(restarts=3, reason="crash loop"))
    assert (row["alive"], row["pid"], row["role"], row["term"], row["restarts"]) == (False, None, None, None, 3)


@pytest.mark.parametrize(
    ("told", "shown"), [("pre_candidate", "candidate"), ("emperor", None), (None, None), (3, None)]
)
def test_roles_are_three_words(make_config, told, shown):
    assert figures(make_config(1), {"role": told})["role"] == shown


def test_nonsense_from_a_node_is_shown_as_nothing(make_config):
    row = figures(make_config(1), {"term": "x", "commit": None, "auth": 1, "applied": True, "ops_per_s": "many"})
    assert (row["term"], row["commit"], row["auth"], row["applied"], row["ops_per_s"]) == (None,) * 5


def test_the_leader_that_counts_has_the_highest_term_and_serves(make_config):
    config = make_config(1)
    old, new = (figures(config, STATUS | {"term": term}) for term in (3, 4))
    fresh = figures(config, STATUS | {"term": 5, "applied": 0})
    assert leader_ready([old, new, fresh]) is new
    assert leader_ready([fresh]) is None


def test_rates_come_from_the_running_count_of_one_life():
    meter = RateMeter()
    meter.note(1, {"executed": 100, "incarnation": 1}, 10.0)
    assert meter.rate(1) is None
    meter.note(1, {"executed": 150, "incarnation": 1}, 10.5)
    assert meter.rate(1) == 100.0
    meter.note(1, {"executed": 160, "incarnation": 2}, 11.0)
    assert meter.rate(1) is None


def test_the_meter_measures_a_process_until_it_is_gone():
    meter = ProcessMeter()
    rss, cpu = meter.measure(os.getpid())
    assert rss > 1 << 20
    assert cpu >= 0
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    meter.measure(process.pid)
    process.wait()
    assert meter.measure(process.pid) == (None, None)
    assert meter.measure(None) == (None, None)


# -- display --------------------------------------------------------------------------------------------------------


def test_plain_lines_tell_changes_and_everything_every_ten_seconds(make_config):
    config = make_config(1)
    stream = io.StringIO()
    plain = Plain(stream)
    row = figures(config, STATUS)
    plain.show([row], {}, 100.0)
    plain.show([row], {}, 101.0)
    assert stream.getvalue().count("\n") == 1
    plain.show([row | {"term": 4}], {}, 102.0)
    plain.show([row | {"term": 4}], {}, 111.0)
    assert stream.getvalue().count("\n") == 3
    assert "node 1: role leader, term 3, commit 10, applied 9, fsync p99 1.5 ms" in stream.getvalue()


def test_a_full_disk_behind_the_output_stops_nobody():
    def full(text):
        raise OSError(number, "no")

    plain = Plain(SimpleNamespace(write=full, flush=lambda: None))
    number = errno.ENOSPC
    plain.note("x")
    number = errno.EPIPE
    with pytest.raises(OSError, match="no"):
        plain.note("x")


def test_cells_are_empty_where_nothing_is_known(make_config):
    config = make_config(1)
    assert cells(figures(config), "gone") == ["1", "down", *[""] * 7, "0", config.node(1).client, "gone"]


def test_status_is_columns_without_a_terminal(make_config):
    stream = io.StringIO()
    print_once("title", [figures(make_config(1), STATUS)], {}, stream)
    title, header, line = stream.getvalue().splitlines()
    assert title == "title"
    assert line.index("leader") == header.index("role")


def test_the_acceptance_ratio_is_the_mean_of_the_nodes_shares(make_config):
    config = make_config(1)

    def rows(*counts):
        return [figures(config, {"proposed": p, "accepted": a}) | {"id": i} for i, (p, a) in enumerate(counts, 1)]

    assert acceptance(rows((0, 0), (0, 0))) is None
    assert acceptance(rows((80, 100), (20, 100), (0, 40))) == (0.8, {1: 1.0, 2: 1.0, 3: 0.4})
    earlier = rows((80, 100), (20, 100), (0, 40))
    assert acceptance(rows((80, 100), (20, 100), (0, 40)), earlier) is None
    assert acceptance(rows((80, 110), (30, 110), (0, 45)), earlier) == (0.8333, {1: 1.0, 2: 1.0, 3: 0.5})
    assert acceptance(rows((80, 120), (30, 80), (0, 40)), earlier) == (0.3333, {1: 1.0, 2: 0.0, 3: 0.0})
    late = [*rows((80, 100), (20, 100)), figures(config) | {"id": 3}]  # node 3 answers only now
    assert acceptance(rows((80, 110), (30, 110), (5_000, 5_000)), late) is None
    silent = [*rows((10, 10), (0, 10)), figures(config) | {"id": 3}]
    assert acceptance(silent) == (0.6667, {1: 1.0, 2: 1.0, 3: 0.0})


# -- processes --------------------------------------------------------------------------------------------------------


def test_the_command_of_a_node(make_config):
    config = make_config(1)
    command = node_command(config, 1, 0xAB)
    assert command[:5] == [sys.executable, "-P", "-m", "quorumd", "node"]
    assert command[5:] == [
        str(config.path), "--id", "1", "--parent-pid", str(os.getpid()), "--bootstrap", "00000000000000ab",
    ]  # fmt: skip
    assert "--bootstrap" not in node_command(config, 1, None)


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("", ""),
        ("one\ntwo\n\n", "two"),
        ('{"level": "error", "event": "disk", "ts": 1, "errno": 5}\n{"level": "info", "event": "x"}\n', "disk errno=5"),
        ('{"level": "info", "event": "bye"}\n', ""),
    ],
)
def test_last_words(tmp_path, printed, words):
    process = NodeProcess(1, tmp_path, 1 << 20, 2)
    (tmp_path / "node.log").write_text(printed)
    assert process.last_words() == words


def test_a_log_that_is_too_large_is_rotated_at_the_next_start(tmp_path):
    process = NodeProcess(1, tmp_path / "node-1", 10, 2)
    process.directory.mkdir()
    process.log_path.write_text("x" * 11)
    process.start([sys.executable, "-c", "print('new')"])
    code = None
    while code is None:
        os.waitid(os.P_PIDFD, process.pid_fd, os.WEXITED | os.WNOWAIT)
        code = process.reap()
    assert process.log_path.read_text() == "new\n"
    assert (process.directory / "node.log.1").read_text() == "x" * 11


def test_a_process_that_cannot_be_watched_does_not_run(tmp_path, monkeypatch):
    process, pids = NodeProcess(1, tmp_path / "node-1", 1 << 20, 2), []

    def refuse(pid):
        pids.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        process.start([sys.executable, "-c", "import time; time.sleep(60)"])
    assert process.pid is None and process.reap() is None
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_record_is_not_taken_for_another_process_with_its_pid():
    me = record.identify(os.getpid())
    assert me.alive
    for other in (replace(me, started=me.started - 1), replace(me, boot="another")):
        assert not other.alive
        assert record.kill(other, signal.SIGKILL) is False
        assert record.await_end(other, 0.0) is True
    assert record.await_end(me, 0.0) is False


def test_a_record_holds_when_the_clock_is_set():
    """psutil's create_time moves with the clock, the kernel's start time does not."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        ticks = os.sysconf("SC_CLK_TCK")
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - record.identify(child.pid).started / ticks
        assert -1 / ticks <= age_s < 60
    finally:
        child.communicate(b"\n")
    assert record.identify(child.pid) is None


def test_a_process_that_nobody_reaped_is_gone():
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert record.identify(child.pid) is None
    child.wait()


def test_a_damaged_record_is_no_record(make_config):
    config = make_config(1)
    config.data_path.mkdir()
    assert record.read(config) is None
    (config.data_path / record.RECORD_NAME).write_text("{")
    assert record.read(config) is None
    assert record.running(config) is None


# -- event log ------------------------------------------------------------------------------------------------------


def test_events_are_one_json_object_a_line(tmp_path):
    log = EventLog(tmp_path / "log", "node-1", 1 << 20, 3, clock=lambda: 1_700_000_000.1234).open()
    log.event("leader", term=3, path=tmp_path)
    log.event("odd", "warning", text="a\nb")
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert lines[0] == {
        "ts": "2023-11-14T22:13:20.123Z", "level": "info", "source": "node-1", "event": "leader", "term": 3,
        "path": str(tmp_path),
    }  # fmt: skip
    assert lines[1]["text"] == "a\nb"


def test_the_log_rotates_by_size_and_keeps_so_many(tmp_path):
    log = EventLog(tmp_path / "log", "n", 300, 2).open()
    for number in range(20):
        log.event("tick", number=number)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert all(path.stat().st_size <= 300 for path in tmp_path.iterdir())
    lines = [line for name in ("log.2", "log.1", "log") for line in (tmp_path / name).read_text().splitlines()]
    kept = [json.loads(line)["number"] for line in lines]
    assert kept == list(range(kept[0], 20))


def test_stdout_and_stderr_follow_the_log_through_rotations(tmp_path):
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from quorumd.eventlog import EventLog\n"
        "log = EventLog(Path(sys.argv[1]), 'n', 200, 3, adopt_stdio=True).open()\n"
        "for i in range(5): log.event('tick', number=i, padding='x' * 60)\n"
        "raise SystemExit('last words')\n"
    )
    path = tmp_path / "log"
    with path.open("ab") as file:
        subprocess.run([sys.executable, "-c", script, str(path)], stdout=file, stderr=file, check=False)
    assert path.read_text().splitlines()[-1] == "last words"


def test_a_log_that_cannot_be_written_counts_and_goes_on():
    log = EventLog(None, "n", 100, 1)
    log._fd = os.open("/dev/full", os.O_WRONLY)
    log.event("lost")
    log.close()
    assert log.dropped == 1


def test_people_read_the_mirror():
    mirror = io.StringIO()
    log = EventLog(None, "node-1", 1, 1, mirror=mirror)
    log.event("ready", leader=2)
    log.event("slow", "warning")
    assert mirror.getvalue() == "node-1: ready leader=2\nnode-1: warning: slow\n"
    mirror.close()
    log.event("unread")
    assert log.mirror is None


def test_the_tail_of_a_missing_file_is_empty(tmp_path):
    assert eventlog.tail(tmp_path / "none", 5) == []
