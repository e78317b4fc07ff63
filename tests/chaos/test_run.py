"""`quorumd chaos` end to end, on real processes; tests/powerloss/test_chaos.py shows that it can fail."""

import io
import json
import os
import subprocess
import sys

import psutil
import pytest

from quorumd.chaos.display import Plain, View, table
from quorumd.chaos.faults import Drawn, Injection
from quorumd.checker.history import load, pair
from quorumd.checker.linearizability import check
from quorumd.types import ENGINES


def chaos(tmp_path, *arguments, **environment):
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), **environment}
    command = [sys.executable, "-m", "quorumd", "chaos", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cluster_survives_kills_pauses_partitions_and_loss(tmp_path, engine):
    history = tmp_path / "history.jsonl"
    faults = ["kill", "pause", "partition", "loss"]
    options = ["--engine", engine, "--seconds=5", "--seed=1", "--json", "--history", str(history)]
    done = chaos(tmp_path, *options, "--faults", ",".join(faults))
    assert done.returncode == 0, (done.stdout, done.stderr)
    report = json.loads(done.stdout)
    assert report["ok"] is True and report["violations"] == []
    assert report["outcomes"]["ok"] > 500 and report["increments"] > 0 and report["restarts"] >= 3
    assert report["leases"]["granted"] > 5 and report["leases"]["kept alive"] > 5
    operations = pair(load(history))
    assert sum(operation.outcome == "ok" for operation in operations) >= report["outcomes"]["ok"]
    assert check(operations).ok
    timeline = [json.loads(line) for line in history.with_suffix(".timeline.jsonl").read_text().splitlines()]
    assert {line["fault"] for line in timeline} == set(faults)
    assert sorted(line["number"] for line in timeline if line["action"] == "inject") == sorted(
        line["number"] for line in timeline if line["action"] == "heal"
    )
    assert list((tmp_path / "state" / "quorumd").iterdir()) == []
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in left if str(tmp_path) in " ".join(command or ())]


@pytest.mark.parametrize(("spent_s", "shown"), [(12.4, "12 of 60 s, round 3: "), (60.6, "61 s, round 3: ")])
def test_the_headline_names_the_planned_time_while_that_lasts(spent_s, shown):
    assert VIEW._replace(spent_s=spent_s).headline.startswith(shown)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--faults=kill,earthquake"], "there is no fault 'earthquake'"),
        (["--faults=bit-flip", "--nodes=1"], "bit-flip needs at least 3 nodes"),
        (["--seconds=0"], "--seconds"),
        (["--engine=zab"], "--engine"),
    ],
)
def test_nonsense_is_a_usage_error(tmp_path, arguments, complaint):
    done = chaos(tmp_path, *arguments)
    assert done.returncode == 2 and complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "state").exists()


def test_a_missing_compiler_is_one_sentence_and_leaves_nothing(tmp_path):
    done = chaos(tmp_path, "--faults=power-loss", CC="no-such-compiler")
    assert done.returncode == 2 and "need a C compiler" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "state" / "quorumd").iterdir()) == []


# -- how it looks ---------------------------------------------------------------------------------------------------

KILL = Injection(number=1, fault="kill", begin_s=0, end_s=1, seed=1, drawn=Drawn((2,)))
VIEW = View(
    12.4, 60.0, "round 3", 399.6, {"ok": 4000, "info": 2}, [KILL],
    {1: {"voter": True, "role": "leader", "term": 4, "commit": 99, "applied": 99}, 3: {"voter": False}},
    {1: "", 2: "down", 3: ""}, {1: 0, 2: 1, 3: 2},
)


def test_lines_for_a_pipe():
    stream = io.StringIO()
    plain = Plain(stream)
    plain.show(VIEW)
    assert stream.getvalue() == ""  # a summary comes now and then only
    plain._next_s = 0
    plain.show(VIEW)
    assert stream.getvalue() == (
        "12 of 60 s, round 3: 400 operations/s (4,000 ok, 0 fail, 2 info); "
        "node 1 leader, node 2 down, node 3 no voter\n"
    )


def test_the_table_names_what_is_at_work():
    from rich.console import Console

    console = Console(file=io.StringIO(), width=100)
    console.print(table("quorumd chaos", VIEW))
    text = console.file.getvalue()
    assert "kill node 2" in text and "leader" in text and "down" in text
