"""What strikes a simulated cluster, and when it is healed. From one seed; each fault that strikes has a number.

A fault is a method of PathFaults or NodeFaults that does its harm and returns how to undo it, or None if it could do no
harm just now. Damage to storage, which nothing can undo before there is repair from peers, hits only the scenario's few
chosen nodes.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from quorumd import limits
from quorumd.sim.cluster import Cluster
from quorumd.sim.nodefaults import NodeFaults
from quorumd.sim.pathfaults import PathFaults, Undo
from quorumd.types import Nanoseconds

Harm: TypeAlias = Callable[[random.Random, int], Undo | None]
SHORTEST: Nanoseconds = 20 * limits.MILLISECOND
HALTS = ("kill", "power-loss", "restart-all")  # wait for a sync that may not come before they are healed


class Faults:
    """See the module's docstring. `struck` counts the faults that did harm, by kind; `drawn` is the last number."""

    def __init__(self, cluster: Cluster) -> None:
        self.world = cluster.world
        self.scenario = cluster.scenario
        self.dice = self.scenario.rng("faults")
        self.struck: Counter[str] = Counter()
        self.over = False
        self.drawn = 0
        self._undos: dict[int, Undo] = {}
        ids = list(cluster.ids)
        self.dice.shuffle(ids)
        self.paths = PathFaults(cluster)
        self.nodes = NodeFaults(cluster, self.struck, ids[: len(ids) - cluster.quorum])
        if self.scenario.faults:
            self._schedule()

    def harm(self, kind: str) -> Harm:
        """The method of a fault. Raises AttributeError if it has none."""
        name = kind.replace("-", "_")
        found: Harm = getattr(self.paths, name, None) or getattr(self.nodes, name)
        return found

    # -- when ---------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        pause = int(self.dice.expovariate(1 / self.scenario.pause_s) * limits.SECOND)
        self.world.after(pause, self._strike)

    def _strike(self) -> None:
        if self.over:
            return
        self._schedule()
        kind = self.dice.choice(self.scenario.faults)
        # Dice of its own: a fault that is skipped leaves those after it as they were.
        self.drawn += 1
        number = self.drawn
        dice = random.Random(f"{self.scenario.seed}/fault {number}")
        if number in self.scenario.skip:
            return
        undo = self.harm(kind)(dice, number)
        if undo is None:
            return
        if kind not in HALTS:
            self.struck[kind] += 1
        self.world.tell("fault", kind, number=number)
        self._undos[number] = undo
        lasts = dice.randint(SHORTEST, max(SHORTEST, int(self.scenario.longest_s * limits.SECOND)))
        self.world.after(lasts, lambda: self._undo(number))

    def _undo(self, number: int) -> None:
        undo = self._undos.pop(number, None)
        if undo is not None:
            self.world.tell("fault", "healed", number=number)
            undo()

    def stop(self) -> None:
        """Nothing strikes any more, and what struck is healed."""
        self.over = True
        for number in sorted(self._undos):
            self._undo(number)
