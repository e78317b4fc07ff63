"""The plan of a run: rounds of overlapping faults, from one seed. Pure: the same arguments give the same plan.

All faults of a round are healed before the next one begins, after a calm in which the cluster must have made progress.
Every fault is dealt once before any is dealt again. The bit flip is apart: one, in the last quarter, for good.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from quorumd.chaos.faults import FAULTS, BitFlip, Injection, PowerLoss
from quorumd.types import NodeId

AT_ONCE: Final = (1, 2, 2, 3, 3)
"""How many faults a round has, one of these."""
SPREAD_S: Final = 2.5
"""In which the faults of a round begin."""
CALM_S: Final = (0.5, 1.5)
LATE: Final = 0.75
"""Share of the run after which the bit flips."""


class Round(NamedTuple):
    """Injections by begin_s; after the last is healed, calm_s without faults."""

    injections: tuple[Injection, ...]
    calm_s: float

    @property
    def storm_s(self) -> float:
        """Until every fault is healed."""
        return max((injection.end_s or injection.begin_s for injection in self.injections), default=0.0)


def plan(seed: int, seconds: float, faults: Sequence[str], nodes: Sequence[NodeId]) -> list[Round]:
    """Rounds that take about `seconds` together, at least one. Raises nothing: `faults` were parsed."""
    rng = random.Random(seed)
    power = PowerLoss.name in faults
    passing = [name for name in faults if name != BitFlip.name]
    deck = _deal(rng, passing)
    flips = BitFlip.name in faults
    rounds: list[Round] = []
    number, spent_s = 0, 0.0
    while spent_s < seconds or not rounds:
        names = [next(deck) for _ in range(min(rng.choice(AT_ONCE), len(passing)))]
        if flips and spent_s >= LATE * seconds:
            names.append(BitFlip.name)
            flips = False
        injections = []
        for name in names:
            number += 1
            injections.append(_draw(rng, name, number, nodes, power))
        rounds.append(Round(_sorted(injections), rng.uniform(*CALM_S)))
        spent_s += rounds[-1].storm_s + rounds[-1].calm_s
    if flips:  # the last quarter held no beginning of a round
        last = rounds[-1]
        flip = _draw(rng, BitFlip.name, number + 1, nodes, power)
        rounds[-1] = last._replace(injections=_sorted([*last.injections, flip]))
    return rounds


def _deal(rng: random.Random, names: Sequence[str]) -> Iterator[str]:
    while names:
        yield from rng.sample(names, len(names))


def _draw(rng: random.Random, name: str, number: int, nodes: Sequence[NodeId], power: bool) -> Injection:
    fault = FAULTS[name]
    begin_s = rng.uniform(0, SPREAD_S)
    lasts_s = rng.uniform(*fault.seconds)
    return Injection(
        number=number, fault=name, begin_s=begin_s, end_s=None if name == BitFlip.name else begin_s + lasts_s,
        seed=rng.getrandbits(32), drawn=fault.draw(rng, nodes, power),
    )


def _sorted(injections: Sequence[Injection]) -> tuple[Injection, ...]:
    return tuple(sorted(injections, key=lambda injection: injection.begin_s))
