"""The whole thing as a user meets it: real processes through the real command, on an address of their own."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from addresses import free_ports, private_host

from quorumd import config as configs
from quorumd.supervisor import record
from quorumd.supervisor.launch import temporary

DEADLINE_S = 60.0


def write_config(directory: Path, nodes: int = 3) -> Path:
    host = private_host()
    ports = free_ports(host, 2 * nodes)
    lines = [
        f"  - {{id: {i + 1}, peer: '{host}:{ports[2 * i]}', client: '{host}:{ports[2 * i + 1]}'}}" for i in range(nodes)
    ]
    path = directory / "cluster.yaml"
    extra = ["storage: {segment_mib: 4}", "supervisor: {restart_backoff_ms: [10, 10]}"]
    path.write_text("\n".join(["cluster: test", "data_dir: state", "nodes:", *lines, *extra]))
    return path


class Cluster:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = configs.load_config(path)

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Runs `quorumd --config THIS ...` and gives back its stdout, or stderr if it was to fail."""
        command = [sys.executable, "-m", "quorumd", "--config", str(self.path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr
        return done.stderr if code else done.stdout

    def status(self) -> list[dict]:
        command = [sys.executable, "-m", "quorumd", "--config", str(self.path), "status", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        return json.loads(done.stdout)["nodes"]

    def until(self, condition: Callable[[list[dict]], bool]) -> list[dict]:
        """Asks again until the status is as wanted."""
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            nodes = self.status()
            if condition(nodes):
                return nodes
        raise AssertionError(nodes)


def settled(nodes: list[dict]) -> bool:
    return sorted(str(node["role"]) for node in nodes) == ["follower", "follower", "leader"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    subject = Cluster(write_config(tmp_path_factory.mktemp("cluster")))
    subject("up", "--detach")
    yield subject
    if record.is_locked(subject.config):
        subject("down")


def gone(pids: list[int]) -> None:
    """Waits until these processes are no more."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([fd], [], [], DEADLINE_S)[0], f"{pid} lives on"
        finally:
            os.close(fd)


def test_detached_it_has_a_leader_at_once(cluster):
    nodes = cluster.status()
    assert sum(node["role"] == "leader" for node in nodes) == 1
    assert all(node["alive"] and node["pid"] and node["rss_bytes"] for node in nodes)
    assert [node["address"] for node in nodes] == cluster.config.client_endpoints
    assert "leader" in cluster("status")


def test_what_was_put_is_got(cluster):
    assert cluster("put", "greeting", "hello") == "OK\n"
    assert cluster("get", "greeting") == "hello\n"
    assert cluster("get", "nothing", code=1) == "quorumd: no key 'nothing'\n"
    assert cluster("cas", "greeting", "hello", "bye") == "OK\n"
    cluster("cas", "greeting", "hello", "again", code=1)
    assert cluster("range", "--prefix", "greet") == "greeting\tbye\n"
    cluster.until(lambda nodes: len({node["applied"] for node in nodes}) == 1)
    assert "acceptance ratio 1.000, " in cluster("status")
    told = json.loads(cluster("status", "--json"))
    assert told["acceptance"] == {"cluster": 1.0, "nodes": {"1": 1.0, "2": 1.0, "3": 1.0}}
    assert sum(node["proposed"] for node in told["nodes"]) == told["nodes"][0]["accepted"] > 0
    assert cluster("get", "greeting", "--stale") == "bye\n"
    assert cluster("del", "greeting") == "1\n"
    assert cluster("del", "greeting") == "0\n"


def test_what_happens_is_watched(cluster):
    revision = json.loads(cluster("status", "--json"))["nodes"][0]["revision"]
    cluster("put", "seen/a", "1")
    cluster("put", "seen/a", "2")
    cluster("del", "seen/a")
    history = ("watch", "--prefix", "seen/", "--rev", str(revision), "--prev-kv", "--limit", "3")
    lines = [line.split("\t")[1:] for line in cluster(*history).splitlines()]
    assert lines == [["put", "seen/a", "1"], ["put", "seen/a", "2", "1"], ["delete", "seen/a", "2"]]
    told = [json.loads(line) for line in cluster(*history, "--json").splitlines()]
    assert [event["event"] for event in told] == ["put", "put", "delete"]
    assert told[2]["prev_kv"]["value"] == "2"
    command = [sys.executable, "-m", "quorumd", "--config", str(cluster.path), "watch", "seen/b"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        cluster.until(lambda nodes: any(node["watchers"] for node in nodes))
        cluster("put", "seen/b", "now")
        assert process.stdout.readline().split("\t")[1:] == ["put", "seen/b", "now\n"]
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130


def test_a_second_up_is_refused(cluster):
    assert "is already in use by a running supervisor" in cluster("up", code=1)
    assert "is already in use by a running supervisor" in cluster("up", "--detach", "--fresh", code=1)
    assert all(node["alive"] for node in cluster.status())


def test_leadership_moves_where_it_is_told(cluster):
    leader = next(node["id"] for node in cluster.until(settled) if node["role"] == "leader")
    to = next(node_id for node_id in (1, 2, 3) if node_id != leader)
    cluster("transfer-leader", str(to))
    cluster.until(lambda nodes: settled(nodes) and nodes[to - 1]["role"] == "leader")


def test_a_killed_leader_comes_back_as_somebody(cluster):
    cluster("put", "kept", "value")
    leader = next(node for node in cluster.until(settled) if node["role"] == "leader")
    os.kill(leader["pid"], signal.SIGKILL)
    nodes = cluster.until(lambda nodes: settled(nodes) and nodes[leader["id"] - 1]["restarts"] >= 1)
    assert nodes[leader["id"] - 1]["pid"] != leader["pid"]
    assert cluster("get", "kept") == "value\n"


def test_what_nobody_answers_has_an_unknown_outcome(cluster):
    pids = [node["pid"] for node in cluster.until(settled)]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        assert "no node answered" in cluster("put", "kept", "maybe", "--timeout", "0.3", code=3)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert [node["pid"] for node in cluster.until(settled)] == pids


def test_the_log_can_be_read_while_the_node_runs(cluster):
    segment = sorted(cluster.config.node_path(1).glob("wal-*.seg"))[0]
    kinds = [json.loads(line)["record"] for line in cluster("logdump", str(segment), "--json").splitlines()]
    assert kinds[0] == "segment"
    assert "append" in kinds


def test_bench_measures_the_running_cluster(cluster):
    report = json.loads(cluster("bench", "--clients", "20", "--seconds", "0.3", "--reads", "50", "--json"))
    assert (report["nodes"], report["clients"], report["errors"]) == (3, 20, 0)
    assert report["ops"] > 0
    assert report["cpu_us_per_op"] > 0
    found = json.loads(cluster("range", "--prefix", "load-", "--limit", "1", "--json"))
    assert found["key"].startswith("load-00000000")
    assert "do not fit a datagram" in cluster("bench", "--per-datagram", "900", code=2)


def test_no_node_outlives_a_supervisor_that_was_killed(cluster):
    cluster("put", "kept", "for ever")
    pids = [node["pid"] for node in cluster.status()]
    running = record.running(cluster.config)
    os.kill(running.supervisor.pid, signal.SIGKILL)
    gone([running.supervisor.pid, *pids])
    assert "no cluster runs" in cluster("down", code=1)
    cluster("up", "--detach")
    assert cluster("get", "kept") == "for ever\n"


def test_down_stops_all_of_it_and_fresh_forgets(cluster):
    pids = [node["pid"] for node in cluster.status()]
    cluster("down")
    gone(pids)
    assert not any(node["alive"] for node in cluster.status())
    cluster("up", "--detach", "--fresh")
    assert cluster("range") == ""
    cluster("down")


def test_ctrl_c_in_the_foreground_stops_in_order(tmp_path):
    path = write_config(tmp_path, 1)
    command = [sys.executable, "-m", "quorumd", "up", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("ready: node 1 leads"):
                process.send_signal(signal.SIGINT)
                break
        assert process.wait(DEADLINE_S) == 0
    log = [json.loads(line) for line in (tmp_path / "state" / "supervisor.log").read_text().splitlines()]
    assert [(event["event"], event.get("code")) for event in log][-2:] == [("node-stopped", 0), ("stopped", None)]


def test_a_temporary_cluster_ends_with_its_owner(tmp_path):
    path = write_config(tmp_path, 1)
    config = configs.load_config(path)
    with temporary(path):
        pids = [node.process.pid for node in record.running(config).nodes.values()]
    gone(pids)
    assert record.running(config) is None


def test_a_temporary_cluster_ends_with_an_owner_that_was_killed(tmp_path):
    path = write_config(tmp_path, 1)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from quorumd.supervisor.launch import temporary\n"
        "with temporary(Path(sys.argv[1])):\n"
        "    print('ready', flush=True)\n"
        "    input()\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "ready\n"
        running = record.running(configs.load_config(path))
        owner.kill()
    gone([running.supervisor.pid, *(node.process.pid for node in running.nodes.values())])


def test_bench_fresh_leaves_nothing_behind(tmp_path):
    path = write_config(tmp_path, 1)
    before = sorted(tmp_path.rglob("*"))
    out = Cluster(path)("bench", "--fresh", "--clients", "3", "--seconds", "0.2")
    assert "operations/s" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_detach_reports_what_went_wrong(tmp_path):
    path = write_config(tmp_path, 1)
    subject = Cluster(path)
    (tmp_path / "state").write_text("in the way")
    assert "is not a directory; name a directory" in subject("up", "--detach", code=2)
