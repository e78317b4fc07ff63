"""`quorumd chaos` can fail: a build that answers before its disk has the write is caught, and says where to look."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from brokenbuilds import with_early_replies


@pytest.mark.skipif("QUORUMD_SOAK" not in os.environ, reason="real time decides what is lost; `make soak` runs it")
def test_replies_before_the_sync_are_caught(tmp_path):
    shadow = with_early_replies(tmp_path)
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(shadow)}
    # Of seed 44's plan: the power fails on all nodes at once seven times.
    load = ["--clients=40", "--rate=2000"]  # so that there is always an answer whose write is not yet synced
    command = [sys.executable, "-m", "quorumd", "chaos", "--seconds=12", "--faults=power-loss,restart-all", *load]
    done = subprocess.run(
        [*command, "--seed=44", "--json"], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 1, (done.stdout, done.stderr)
    report = json.loads(done.stdout)
    assert report["violations"] and report["outcomes"]["ok"] > 0, report
    kept = {path.name for path in Path(report["directory"]).iterdir()}
    assert {"history.jsonl", "history.timeline.jsonl", "node-1"} <= kept
