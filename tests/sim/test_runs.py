"""Fixed seeds through the simulator: no rule breaks, enough happens, and the same seed is the same run to the byte.

QUORUMD_SIM_SEEDS=N runs N seeds of each engine (`make soak` runs fresh ones). One that fails names the command that
replays it.
"""

import os
import subprocess
import sys
from collections import Counter

import pytest

from quorumd.sim.campaign import Limits, one
from quorumd.sim.coverage import words
from quorumd.sim.scenario import PARTIAL_FAULTS, kinds
from quorumd.types import ENGINES

SEEDS = int(os.environ.get("QUORUMD_SIM_SEEDS", "50"))  # of each engine
FIRST = 1000
REACHED: dict[str, Counter[str]] = {engine: Counter() for engine in ENGINES}
STRUCK: dict[str, Counter[str]] = {engine: Counter() for engine in ENGINES}


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
@pytest.mark.parametrize("engine", ENGINES)
def test_no_rule_breaks(engine, seed):
    limits = Limits(engine)
    outcome, _ = one((seed, limits))
    assert not outcome.violation, f"{outcome.violation}: {outcome.detail}\nreplay: {limits.command(seed)}"
    assert outcome.counts
    REACHED[engine].update(outcome.reached)
    STRUCK[engine].update(outcome.struck)


@pytest.mark.skipif(SEEDS < 50, reason="a few seeds need not reach everything")
@pytest.mark.parametrize("engine", ENGINES)
def test_the_seeds_above_reached_everything(engine):
    assert [word for word in words(engine) if not REACHED[engine][word]] == []
    assert [fault for fault in kinds(engine) if not STRUCK[engine][fault]] == []


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
