"""The whole comparison: for every point the contenders' clusters side by side; then rounds, kills, what they bear."""

import random
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from quorumd.compare.cluster import Cluster
from quorumd.compare.measure import Load, Round
from quorumd.compare.schedule import Contender, Point, Turn, contenders, points, turns
from quorumd.compare.workload import Workload
from quorumd.config import Config
from quorumd.errors import Stopped

Note = Callable[[str], None]
"""Takes a line for people."""


class Measured:
    """What one contender did at one point."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.rounds: list[Round] = []
        self.failovers: list[float | None] = []
        self.commits_without: int | None = None
        self.elects_without: int | None = None
        self.failed = ""


class PointResult(NamedTuple):
    """One point; contenders in their order."""

    point: Point
    timing: tuple[int, int]
    measured: tuple[Measured, ...]


class Run:
    """One comparison. `directory` gets a directory for each cluster."""

    def __init__(self, config: Config, workload: Workload, directory: Path, note: Note, *, full: bool) -> None:
        self.config = config
        self.workload = workload
        self.directory = directory
        self.note = note
        self.points = points(workload, full=full)
        self._begun_s = time.monotonic()

    def run(self) -> list[PointResult]:
        """Raises Rejected if the workload cannot be run at all, OSError."""
        return [self._point(number, point) for number, point in enumerate(self.points, 1)]

    def _say(self, text: str) -> None:
        self.note(f"{time.monotonic() - self._begun_s:6.0f} s  {text}")

    def _point(self, number: int, point: Point) -> PointResult:
        self._say(f"point {number} of {len(self.points)}: {describe(point)}")
        among = contenders(point.nodes, self.config)
        measured = {contender: Measured(contender) for contender in among}
        timing = (0, 0)
        place = self.directory / str(number)
        place.mkdir()
        with ExitStack() as stack:
            loads: dict[Contender, Load] = {}
            for contender in among:
                directory = place / contender.name.replace(" ", "-")
                try:
                    cluster = Cluster(self.config, contender, point, directory, random.getrandbits(32))
                    timing = cluster.config.timing.heartbeat_ms, cluster.config.timing.election_timeout_ms
                    stack.enter_context(cluster)
                    loads[contender] = stack.enter_context(Load(cluster, self.workload))
                except Stopped as error:
                    self._give_up(measured[contender], error)
            self._each(turns(among, self.workload.rounds), loads, measured, _round)
            self._each(turns(among, self.workload.faults.leader_kills), loads, measured, _kill)
            if any(contender.quorums for contender in among) and self.workload.mix.reads < 100:
                self._each(turns(among, 1), loads, measured, _bear)
        shutil.rmtree(place)  # two dozen logs a point would fill a small disk
        return PointResult(point, timing, tuple(measured.values()))

    def _each(
        self, order: Sequence[Turn], loads: dict[Contender, Load], measured: dict[Contender, Measured],
        act: Callable[[Load, Measured], None],
    ) -> None:
        """Acts on one cluster after the other; one that fails is given up, the others go on."""
        for turn in order:
            result = measured[turn.contender]
            if result.failed:
                continue
            try:
                act(loads[turn.contender], result)
            except Stopped as error:
                self._give_up(result, error)

    def _give_up(self, result: Measured, error: Stopped) -> None:
        result.failed = str(error)
        self._say(f"given up: {error}")


def _round(load: Load, result: Measured) -> None:
    result.rounds.append(load.round())


def _kill(load: Load, result: Measured) -> None:
    result.failovers.append(load.failover())


def _bear(load: Load, result: Measured) -> None:
    result.commits_without = load.commits_without()
    result.elects_without = load.elects_without()


def describe(point: Point) -> str:
    """A point in a few words."""
    parts = [f"{point.nodes} nodes"]
    if point.loss_percent:
        parts.append(f"{point.loss_percent} % loss")
    if point.delay_ms:
        parts.append(f"{point.delay_ms:g} ms delay")
    if point.relayed:
        parts.append("through the relay")
    return ", ".join(parts)
