"""Many runs: seeds over worker processes, what they showed together, and the command that replays a failure."""

import ctypes
import gc
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from quorumd.sim.coverage import words
from quorumd.sim.run import Outcome, Run
from quorumd.sim.scenario import draw, kinds

AHEAD: Final = 4  # tasks handed out for each worker
M_MMAP_THRESHOLD: Final = -3  # malloc.h: larger blocks are mapped, and given back when they are freed
LARGE_BYTES: Final = 131_072
COUNTING: Final = 0.95  # part of COVERED_BY seeds or more that must count
COVERED_BY: Final = 100  # seeds in which every word of coverage.words must be reached, and every fault strike, once


class Failure(NamedTuple):
    """A run that broke a rule."""

    seed: int
    check: str
    detail: str
    command: str


@dataclass
class Total:
    """What a campaign showed. Seconds are of simulated time, `cpu_s` of this machine's, over all workers.

    whole: the seeds decide on everything, so that everything must come up.
    """

    engine: str = "raft"
    whole: bool = True
    runs: int = 0
    counting: int = 0
    undecided: int = 0
    simulated_s: float = 0.0
    cpu_s: float = 0.0
    operations: int = 0
    committed: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, outcome: Outcome, cpu_s: float, command: str) -> None:
        """One more run."""
        self.runs += 1
        self.counting += outcome.counts and not outcome.violation
        self.undecided += outcome.undecided
        self.simulated_s += outcome.simulated_s
        self.cpu_s += cpu_s
        self.operations += outcome.operations
        self.committed += outcome.committed
        self.struck.update(outcome.struck)
        self.reached.update(outcome.reached)
        if outcome.violation:
            self.failures.append(Failure(outcome.scenario.seed, outcome.violation, outcome.detail, command))

    @property
    def unreached(self) -> list[str]:
        """Words of the coverage table, and faults, that came up less than once in COVERED_BY runs."""
        least = self.runs // COVERED_BY if self.whole else 0
        return [
            *(word for word in words(self.engine) if self.reached[word] < least),
            *(f"fault {kind}" for kind in kinds(self.engine) if self.struck[kind] < least),
        ]

    @property
    def idle(self) -> bool:
        """Whether too many of enough runs show nothing: a cluster that hardly works breaks no rule."""
        return self.runs >= COVERED_BY and self.counting < COUNTING * self.runs

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "engine": self.engine,
            "runs": self.runs,
            "counting": self.counting,
            "undecided": self.undecided,
            "simulated_s": round(self.simulated_s, 1),
            "cpu_s": round(self.cpu_s, 1),
            "operations": self.operations,
            "committed": self.committed,
            "struck": dict(sorted(self.struck.items())),
            "reached": dict(sorted(self.reached.items())),
            "unreached": self.unreached,
            "idle": self.idle,
            "failures": [failure._asdict() for failure in self.failures],
        }


class Limits(NamedTuple):
    """What every run of a campaign is drawn with instead of what its seed says; None: what it says."""

    engine: str = "raft"
    nodes: int | None = None
    only: Sequence[str] | None = None

    def command(self, seed: int) -> str:
        """The command that replays one run."""
        words = ["quorumd sim", *(["--engine", self.engine] if self.engine != "raft" else []), f"--seed {seed}"]
        if self.nodes is not None:
            words.append(f"--nodes {self.nodes}")
        if self.only is not None:
            words.append(f"--faults {','.join(self.only)}")
        return " ".join(words)


def one(task: tuple[int, Limits]) -> tuple[Outcome, float]:
    """One run and the CPU time it took; in a worker process."""
    seed, limits = task
    began = time.process_time()
    with _collected_once():
        outcome = Run(draw(seed, engine=limits.engine, nodes=limits.nodes, only=limits.only)).go()
    return outcome, time.process_time() - began


@contextmanager
def _collected_once() -> Iterator[None]:
    """Garbage is collected at the end of a run, and only then.

    What is left of a run are cycles around a few large buffers; a collector that counts objects finds them too small to
    bother, and after a hundred runs they fill the memory. During a run there is next to nothing to collect.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        if enabled:
            gc.enable()


def until(seeds: Iterable[int], deadline: float | None) -> Iterator[int]:
    """The seeds, as long as there is time (time.monotonic)."""
    for seed in seeds:
        if deadline is not None and time.monotonic() >= deadline:
            return
        yield seed


def campaign(
    seeds: Iterable[int],
    limits: Limits,
    *,
    jobs: int = 1,
    deadline: float | None = None,
    progress: Callable[[Total], None] = lambda total: None,
    stop_after: int = 1,
) -> Total:
    """Runs every seed, or those that there is time for. stop_after: failures after which no more is begun."""
    total = Total(limits.engine, whole=limits.nodes is None and limits.only is None)
    tasks = ((seed, limits) for seed in until(seeds, deadline))
    if jobs == 1:
        for task in tasks:
            outcome, cpu_s = one(task)
            total.add(outcome, cpu_s, limits.command(outcome.scenario.seed))
            progress(total)
            if len(total.failures) >= stop_after:
                break
        return total
    for outcome, cpu_s in _spread(tasks, jobs):
        total.add(outcome, cpu_s, limits.command(outcome.scenario.seed))
        progress(total)
        if len(total.failures) >= stop_after:
            break
    return total


def _spread(tasks: Iterator[tuple[int, Limits]], jobs: int) -> Iterator[tuple[Outcome, float]]:
    """The tasks' outcomes as they come. Raises BrokenProcessPool if a worker dies."""
    # Spawned, not forked: a worker begins with nothing of ours but the seed.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(one, task) for task in islice(tasks, AHEAD * jobs)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(one, task) for task in islice(tasks, len(done))}
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
