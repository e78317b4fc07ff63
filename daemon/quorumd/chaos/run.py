"""One run, in order:

    start        a fresh cluster, the relay between its nodes, clients that record, a spectator that watches
    storm, calm  rounds of the plan; after each, a write begun after the last heal must succeed within CHAOS_LIVENESS_S
    settle       clients stop, all is healed, every node is killed and started once more; all must come to one state
    judge        read everything, check the history, the workload's promises and what the spectator was told

Meanwhile a watch asks the nodes for their figures and ends the run at the first thing that must not happen.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from quorumd import limits
from quorumd.chaos.calls import token_of
from quorumd.chaos.cluster import ChaosCluster, Disks, sentence
from quorumd.chaos.display import Display, View
from quorumd.chaos.faults import FAULTS, DiskFull, Injection, PowerLoss
from quorumd.chaos.holders import all_ended, hold_leases
from quorumd.chaos.preload import compile_library
from quorumd.chaos.schedule import Round, plan
from quorumd.chaos.spectator import Spectator, contradictions
from quorumd.chaos.verdict import Report, agreed, broken_promises
from quorumd.chaos.workload import PADDING_BYTES, Workload
from quorumd.checker.history import pair
from quorumd.checker.linearizability import check
from quorumd.checker.page import write_page
from quorumd.config import Config
from quorumd.errors import HistoryError, QuorumdError, Stopped

WATCH_S: Final = 0.25
POLL_S: Final = 0.05
CONTRADICTIONS: Final = 5
"""Shown of those between a watch of the whole history and the operations."""
LAST: Final = 0
"""The number of the restart that ends the run; injections count from 1."""


class Options(NamedTuple):
    """What a run is to be. rate: operations a second of all clients together."""

    seconds: float
    faults: tuple[str, ...]
    clients: int
    rate: float
    seed: int
    nodes: int


class Violated(Exception):
    """Something happened that must not, or did not that must; the message says what."""


@contextmanager
def _must_succeed(what: str) -> Iterator[None]:
    """Around what nothing is in the way of: raises Violated for any answer but success."""
    try:
        yield
    except QuorumdError as error:
        raise Violated(f"{what} failed: {type(error).__name__}: {error}") from error


class Timeline:
    """What was injected and healed when, on the history's clock: JSON lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def add(self, action: str, injection: Injection) -> None:
        """action: inject, heal."""
        drawn = injection.drawn
        self.lines.append(
            {
                "time_ns": time.monotonic_ns(), "action": action, "number": injection.number,
                "fault": injection.fault, "words": injection.words, "nodes": drawn.nodes, "links": drawn.links,
            }
        )

    def dump(self, path: Path) -> None:
        """Raises OSError."""
        path.write_text("".join(json.dumps(line) + "\n" for line in self.lines))


class ChaosRun:
    """One run in `directory`. The history goes to `history`, the timeline beside it."""

    def __init__(self, config: Config, options: Options, directory: Path, history: Path, display: Display) -> None:
        self.options = options
        self.directory = directory
        self.history = history
        self.display = display
        self.timeline = Timeline()
        self.report = Report(options.seed, options.faults, options.nodes)
        self.active: list[Injection] = []
        self.phase = "starting"
        faults = options.faults
        power, full = PowerLoss.name in faults, DiskFull.name in faults
        disks = Disks(compile_library(directory), power, full) if power or full else None
        self._power = power
        self.cluster = ChaosCluster(config, directory, nodes=options.nodes, seed=options.seed, disks=disks)
        self.workload = Workload(
            self.cluster.endpoints, key=self.cluster.key, clients=options.clients, rate=options.rate, seed=options.seed
        )
        self.spectator = Spectator(self.workload.new_client)
        self._rounds = plan(options.seed, options.seconds, faults, self.cluster.nodes)
        self._planned_s = sum(each.storm_s + each.calm_s for each in self._rounds)
        self._begun_s = time.monotonic()

    async def run(self) -> Report:
        """All of it. Raises OSError, QuorumdError if the run itself could not go on; the history is written first."""
        self._begun_s = time.monotonic()
        final: dict[str, str | None] | None = None
        try:
            async with AsyncExitStack() as closing:  # each step is made whatever the one before it raised
                closing.push_async_callback(self.cluster.close)
                closing.push_async_callback(self.spectator.stop)
                closing.push_async_callback(self.workload.stop)
                try:
                    final = await self._watched(self._drive())
                except Violated as violation:
                    self.report.violations.append(str(violation))
        except Stopped as error:
            if not self.report.violations:
                raise
            self._tell(str(error))
        finally:
            self._write(self.history, self.workload.recorder.dump)
            self._write(self.history.with_suffix(".timeline.jsonl"), self.timeline.dump)
        self.report.seconds = round(time.monotonic() - self._begun_s, 1)
        self._sum_up(final)
        self._check_history()
        return self.report

    async def _watched(self, drive: Coroutine[Any, Any, dict[str, str | None]]) -> dict[str, str | None]:
        """Runs `drive`, unless the watch finds something first."""
        driver, watch = asyncio.create_task(drive), asyncio.create_task(self._watch())
        try:
            await asyncio.wait((driver, watch), return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()  # raises
            return await driver
        finally:
            for task in (driver, watch):
                task.cancel()
            await asyncio.gather(driver, watch, return_exceptions=True)

    # -- the watch ----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            self.cluster.ask()
            self.workload.check()
            self.spectator.check()
            self._raise_what_is_wrong()
            self._show()
            await asyncio.sleep(WATCH_S)

    def _raise_what_is_wrong(self) -> None:
        self.cluster.check_room()
        for problem in self._what_is_wrong():
            raise Violated(problem)

    def _what_is_wrong(self) -> Iterator[str]:
        yield from (f"node {node} ended by itself: {reason}" for node, reason in self.cluster.exits)
        yield from self.cluster.problems
        yield from self.workload.tally.nonsense

    def _show(self) -> None:
        cluster, tally = self.cluster, self.workload.tally
        self.display.show(
            View(
                time.monotonic() - self._begun_s, self._planned_s, self.phase, tally.rate, tally.outcomes,
                self.active, cluster.statuses(), cluster.states(), cluster.restarts(),
            )
        )

    # -- the course of things -----------------------------------------------------------------------------------------

    async def _drive(self) -> dict[str, str | None]:
        workload = self.workload
        await self.cluster.start()
        await self._until(self._agreed, limits.CHAOS_START_S, "all nodes vote and follow one leader")
        self.spectator.start()
        with _must_succeed("with nothing broken yet a write"):
            await workload.open_accounts()
        workload.start()
        hold_leases(workload)
        for number, each in enumerate(self._rounds, 1):
            self.phase = f"round {number} of {len(self._rounds)}"
            await self._storm(each)
            await self._recovered(each.calm_s)
            self.report.rounds += 1
            if len(workload.recorder.events) >= limits.CHAOS_EVENTS:
                self._tell("the history is full: the run ends here")
                break
        await self._settle()
        self.phase = "reading everything"
        with _must_succeed("with everything healed a read"):
            final = await workload.read_all()
            self.report.violations += await self.spectator.judge()
        return final

    async def _storm(self, storm: Round) -> None:
        begun_s = time.monotonic()
        moments = [(each.begin_s, "inject", each) for each in storm.injections]
        moments += [(each.end_s, "heal", each) for each in storm.injections if each.end_s is not None]
        for at_s, action, injection in sorted(moments, key=lambda moment: moment[0]):
            await asyncio.sleep(begun_s + at_s - time.monotonic())
            await self._act(action, injection)

    async def _act(self, action: str, injection: Injection) -> None:
        fault = FAULTS[injection.fault]
        if action == "inject":
            injection = fault.aim(injection, self.cluster)
        else:
            injection = next(each for each in self.active if each.number == injection.number)
        self.timeline.add(action, injection)
        if action == "inject":
            self._tell(f"+ {injection.words}")
            self.active.append(injection)
            self.report.injected[fault.name] = self.report.injected.get(fault.name, 0) + 1
            await fault.inject(self.cluster, injection)
        else:
            self._tell(f"- {injection.words}")
            self.active.remove(injection)
            await fault.heal(self.cluster, injection)
        self.workload.padding = PADDING_BYTES if self.cluster.bulky else 0

    def _tell(self, text: str) -> None:
        self.display.note(f"{time.monotonic() - self._begun_s:6.1f} s  {text}")

    async def _recovered(self, calm_s: float) -> None:
        """Progress since the last heal, and a moment of peace."""
        tally = self.workload.tally
        tally.healed()
        what = "a write succeeds, with everything healed"
        await self._until(lambda: tally.recovered_ns > 0, limits.CHAOS_LIVENESS_S, what)
        took_s = (tally.recovered_ns - tally.healed_ns) / 1e9
        self.report.recovery_s = round(max(self.report.recovery_s, took_s), 3)
        await asyncio.sleep(max(0.0, calm_s - took_s))

    async def _settle(self) -> None:
        cluster = self.cluster
        self.phase = "settling"
        await self.workload.stop()
        with _must_succeed("with everything healed a read"):
            self.report.violations += await all_ended(self.workload.new_client)
        await cluster.stop(cluster.nodes, LAST)
        if self._power:
            await cluster.cut_power(cluster.nodes)
        await cluster.release(cluster.nodes, LAST)
        await self._until(self._agreed, limits.CHAOS_START_S, "all nodes have the same state, after a last restart")
        await self._until(cluster.names_damage, limits.CHAOS_START_S, "the node with a damaged log says so")
        cluster.check_damaged()
        self._raise_what_is_wrong()

    def _agreed(self) -> bool:
        return agreed(self.cluster.statuses(), self.cluster.voters())

    async def _until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Raises Violated, with the state of every node, if `condition` does not hold within `seconds`."""
        deadline_s = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= deadline_s:
                states = sentence(self.cluster.statuses(), self.cluster.states())
                raise Violated(f"no progress: not within {seconds:g} s: {what}; {states}")
            await asyncio.sleep(POLL_S)

    # -- the verdict --------------------------------------------------------------------------------------------------

    def _sum_up(self, final: dict[str, str | None] | None) -> None:
        report, tally = self.report, self.workload.tally
        report.outcomes, report.errors = dict(tally.outcomes), dict(tally.errors)
        report.increments = sum(tally.acknowledged.values())
        report.leases = dict(tally.leases)
        report.restarts = sum(self.cluster.restarts().values())
        report.watched, report.watch_unjudged = self.spectator.batches, self.spectator.unjudged
        found = [*self._what_is_wrong(), *(broken_promises(tally, final) if final is not None else ())]
        report.violations += [each for each in dict.fromkeys(found) if each not in report.violations]

    def _write(self, path: Path, write: Callable[[Path], None]) -> None:
        """Evidence; that it could not be written changes no verdict."""
        try:
            write(path)
        except OSError as error:
            self.report.unwritten.append(f"{path} was not written: {error}")

    def _check_history(self) -> None:
        try:
            operations = pair(self.workload.recorder.events)
        except HistoryError as error:
            self.report.violations.append(f"what clients were told makes no history: {error}")
            return
        cut_off = sum(operation.complete_ns is None for operation in operations)
        self._tell(f"checking {len(operations):,} operations{f', {cut_off} of them cut off' if cut_off else ''}")
        changes = None if self.spectator.unjudged else self.spectator.past.changes(token_of)
        if changes is not None:
            self.report.violations += islice(contradictions(changes, operations), CONTRADICTIONS)
        verdict = check(operations, seconds=limits.CHAOS_CHECK_S, changes=changes)
        self.report.linearizable = verdict.ok
        if verdict.ok is False:
            page = self.history.with_suffix(".html")
            self._write(page, lambda path: write_page(path, operations, verdict))
            self.report.violations.append(f"not linearizable: {verdict.reason} ({page.name} shows it)")
        elif verdict.ok is None:
            self.report.undecided = verdict.reason
