"""Which clusters are measured, and in which order. Pure: the same workload gives the same schedule."""

from collections.abc import Sequence
from itertools import product
from typing import Final, NamedTuple

from quorumd.compare.workload import Workload
from quorumd.config import Config
from quorumd.types import PAXOS, RAFT

FLEXIBLE: Final = {5: (4, 2)}
"""Nodes -> quorums of phase 1 and 2 of the third contender, where the config has none for so many: any two must share a
node."""


class Point(NamedTuple):
    """Where clusters are measured. delay_ms: one way.

    relayed: datagrams between nodes pass a relay, which can lose and delay them and costs time of its own; all values
    of such a factor are measured through one, so that they can be compared with each other.
    """

    nodes: int
    loss_percent: int
    delay_ms: float
    relayed: bool


class Axis(NamedTuple):
    """One factor, with the points that differ in it alone."""

    factor: str
    points: tuple[Point, ...]


class Contender(NamedTuple):
    """An engine as it is set up. quorums: None for majorities."""

    name: str
    engine: str
    quorums: tuple[int, int] | None = None


class Turn(NamedTuple):
    """One round of load on one contender's cluster."""

    round: int
    contender: Contender


def base(workload: Workload) -> Point:
    """The point from which one factor at a time is varied."""
    faults = workload.faults
    relayed = bool(faults.loss_percent or faults.delay_ms)
    return Point(workload.nodes, faults.loss_percent, faults.delay_ms, relayed)


def axes(workload: Workload) -> tuple[Axis, ...]:
    """The factors that are varied, in the order of the report."""
    origin, vary = base(workload), workload.vary
    found = (
        Axis("nodes", tuple(origin._replace(nodes=nodes) for nodes in vary.nodes)),
        Axis("loss_percent", tuple(origin._replace(loss_percent=loss, relayed=True) for loss in vary.loss_percent)),
        Axis("delay_ms", tuple(origin._replace(delay_ms=delay, relayed=True) for delay in vary.delay_ms)),
    )
    return tuple(axis for axis in found if axis.points)


def points(workload: Workload, *, full: bool) -> tuple[Point, ...]:
    """All points, each once, the base point first. full: every combination of the factors' values."""
    single = [base(workload), *(point for axis in axes(workload) for point in axis.points)]
    if not full:
        return tuple(dict.fromkeys(single))
    origin, vary = base(workload), workload.vary
    combined = product(
        vary.nodes or (origin.nodes,), vary.loss_percent or (origin.loss_percent,), vary.delay_ms or (origin.delay_ms,)
    )
    return tuple(dict.fromkeys([*single, *(Point(*values, relayed=True) for values in combined)]))


def contenders(nodes: int, config: Config) -> tuple[Contender, ...]:
    """Who is measured on so many nodes: with the config's quorums as well, where it has others than majorities for as
    many."""
    found = [Contender(RAFT, RAFT), Contender(PAXOS, PAXOS)]
    sizes, own, majority = FLEXIBLE.get(nodes), config.quorums, nodes // 2 + 1
    if own and len(config.nodes) == nodes and (own.phase1, own.phase2) != (majority, majority):
        sizes = own.phase1, own.phase2
    if sizes is not None:
        phase1, phase2 = sizes
        found.append(Contender(f"{PAXOS} {phase1}+{phase2}", PAXOS, (phase1, phase2)))
    return tuple(found)


def turns(among: Sequence[Contender], rounds: int) -> list[Turn]:
    """Every contender once a round, another one first in each: a machine that changes meanwhile hurts all alike."""
    order = []
    for number in range(rounds):
        first = number % len(among)
        order += [Turn(number, contender) for contender in (*among[first:], *among[:first])]
    return order


def timing(point: Point, heartbeat_ms: int, election_timeout_ms: int) -> tuple[int, int]:
    """Heartbeat and election timeout for a point, at least those given.

    A timeout below a few round trips elects for ever; this is what an operator would set: a heartbeat no shorter than
    one and a half ways, and a timeout of at least eight.
    """
    heartbeat = max(heartbeat_ms, -(-point.delay_ms * 3 // 2))
    return int(heartbeat), int(max(election_timeout_ms, 3 * heartbeat, 8 * point.delay_ms))
