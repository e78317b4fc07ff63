"""Fixed seeds through the simulator: no rule breaks, enough happens, and the same seed is the same run to the byte.

QUORUMD_SIM_SEEDS=N runs N seeds (`make soak` runs fresh ones). A failing one replays with `quorumd sim --seed SEED`.
"""

import os
import subprocess
import sys
from collections import Counter

import pytest

from quorumd.sim.campaign import Limits, one
from quorumd.sim.coverage import words
from quorumd.sim.scenario import FAULTS, PARTIAL_FAULTS

SEEDS = int(os.environ.get("QUORUMD_SIM_SEEDS", "100"))
FIRST = 1000
REACHED: Counter[str] = Counter()
STRUCK: Counter[str] = Counter()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_no_rule_breaks(seed):
    outcome, _ = one((seed, Limits()))
    assert not outcome.violation, f"{outcome.violation}: {outcome.detail}\nreplay: quorumd sim --seed {seed}"
    assert outcome.counts
    REACHED.update(outcome.reached)
    STRUCK.update(outcome.struck)


@pytest.mark.skipif(SEEDS < 100, reason="a few seeds need not reach everything")
def test_the_seeds_above_reached_everything():
    assert [word for word in words("raft") if not REACHED[word]] == []
    assert [fault for fault in FAULTS if not STRUCK[fault]] == []


PARTIAL = ("--nodes", "5", "--faults", ",".join(PARTIAL_FAULTS))


@pytest.mark.parametrize(
    ("seed", "arguments"), [(2, ()), (33, ()), (4, PARTIAL), (4, ("--engine", "paxos", *PARTIAL))]
)
def test_the_same_seed_is_the_same_run_to_the_byte(seed, arguments, tmp_path):
    traces = []
    for hashing in ("1", "2"):
        trace, history = tmp_path / f"{hashing}.txt", tmp_path / f"{hashing}.jsonl"
        subprocess.run(
            [
                *(sys.executable, "-m", "quorumd", "sim", "--seed", str(seed), *arguments),
                *("--trace", trace, "--history", history),
            ],
            env={**os.environ, "PYTHONHASHSEED": hashing}, check=True, capture_output=True, timeout=120,
        )
        traces.append((trace.read_bytes(), history.read_bytes()))
    assert traces[0][0].count(b"\n") > 100
    assert traces[0] == traces[1]
