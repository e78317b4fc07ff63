"""`quorumd compare` as a user meets it: a small workload on real clusters, its files, what it refuses."""

import json
import subprocess
import sys

import pytest
from compare import canned

from quorumd.cli import compare
from quorumd.cli.main import run
from quorumd.compare import workload
from quorumd.compare.advice import advise

SMALL = """
name: small
clients: 4
mix: {reads: 40, writes: 40, cas: 20}
keys: {distribution: uniform, count: 20}
duration_s: 0.2
rounds: 2
faults: {leader_kills: 1, loss_percent: 5}
vary: {loss_percent: [], delay_ms: [], nodes: []}
"""
CONFIG = "cluster: small\ndata_dir: state\nnodes: [{id: 1, peer: '127.0.0.1:7101', client: '127.0.0.1:7201'}]\n"
CONFIG += "storage: {segment_mib: 4}\n"


def test_a_small_workload_end_to_end(tmp_path):
    (tmp_path / "w.yaml").write_text(SMALL)
    (tmp_path / "c.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "quorumd", "compare", "c.yaml", "--workload", "w.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done
    assert "recommendation: " in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml", "compare.html", "compare.json", "w.yaml"]
    document = json.loads((tmp_path / "compare.json").read_text())
    (point,) = document["points"]
    assert (point["nodes"], point["loss_percent"], point["relayed"]) == (3, 5, True)
    assert [contender["name"] for contender in point["contenders"]] == ["raft", "paxos"]
    for contender in point["contenders"]:
        assert contender["failed"] == ""
        assert (len(contender["rounds"]), contender["errors"]) == (2, 0)
        assert contender["messages_per_op"] > 0 and contender["bytes_per_op"] > 300  # values go to two others
        assert contender["syncs_per_op"] > 0 and contender["cpu_us_per_op"] > 0
        assert 0 < contender["failover_s"][0] < 15
        assert 0.5 < contender["acceptance"]["cluster"] <= 1
    assert "<svg" in (tmp_path / "compare.html").read_text()


def test_the_workload_is_named_with_its_line(tmp_path, capsys):
    path = tmp_path / "w.yaml"
    path.write_text("clients: 4\nloop: {kind: ajar}\n")
    assert run(["compare", "--workload", str(path)]) == 2
    assert f"{path}:2: loop.kind: ajar is not allowed" in capsys.readouterr().err
    assert run(["compare", "--workload", str(tmp_path / "none.yaml")]) == 2


def test_without_the_extra_it_says_which(monkeypatch, capsys):
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    assert run(["compare"]) == 2
    assert capsys.readouterr().err == "quorumd: the report needs jinja2: in a clone, pip install '.[compare]'\n"


def test_the_default_workload_can_be_copied(capsys):
    assert run(["compare", "--show-workload"]) == 0
    assert workload.parse(capsys.readouterr().out, "copy.yaml") == workload.Workload()


@pytest.mark.parametrize(("why", "code"), [("", 0), ("no leader was elected", 3)])
def test_a_cluster_that_failed_at_the_base_point_is_exit_code_3(tmp_path, monkeypatch, capsys, why, code):
    def measured(*arguments, full):
        whole = canned.document(
            lambda point: [canned.contender("raft", (9,) * 3), canned.contender("paxos", (9,) * 3, failed=why)]
        )
        return {**whole, "advice": advise(whole)}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "_measure", measured)
    assert run(["compare"]) == code
    assert why in capsys.readouterr().out
    assert (tmp_path / "compare.json").exists() and (tmp_path / "compare.html").exists()


@pytest.mark.parametrize("option", ["--report", "--json"])
def test_where_it_cannot_write_it_does_not_begin(option, tmp_path, capsys):
    assert run(["compare", option, str(tmp_path)]) == 2
    assert run(["compare", option, str(tmp_path / "no" / "file")]) == 2
    assert "no directory" in capsys.readouterr().err
