"""A smaller run that still breaks the same rule: fewer kinds of fault, fewer faults, fewer nodes, clients, operations.

Greedy, as in delta debugging (Zeller and Hildebrandt, 2002): each step tries one thing less, and keeps what still
fails. Randomness of its own for each purpose (Scenario.rng) is what makes a smaller run resemble the larger one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from quorumd.sim.run import CRASHED, HALTED, Outcome, Run
from quorumd.sim.scenario import Scenario, resized

Tell = Callable[[str], None]
CHUNKS: Final = (16, 4, 1)  # faults skipped together, ever fewer
ERRORS: Final = (HALTED, CRASHED)
NUMBERS: Final = re.compile(r"\d+(, \d+)*")


def shrink(outcome: Outcome, *, budget: int = 200, tell: Tell = lambda line: None) -> Outcome:
    """The smallest failing run found within `budget` runs; `outcome` itself if none is smaller."""
    best, left = outcome, budget
    improved = True
    while improved and left > 0:
        improved = False
        for what, scenario in smaller(best):
            if left <= 0:
                break
            left -= 1
            found = Run(scenario).go()
            if alike(found, outcome):
                tell(f"{what}: still {found.violation} after {found.simulated_s:.1f} s")
                best, improved = found, True
                break
    return best


def alike(found: Outcome, wanted: Outcome) -> bool:
    """Whether a run failed as another did. A smaller cluster that halts or crashes may do so for a reason of its own:
    then the error must be the same but for its numbers."""
    if found.violation not in ERRORS or found.violation != wanted.violation:
        return found.violation == wanted.violation
    return NUMBERS.sub("", found.detail) == NUMBERS.sub("", wanted.detail)


def smaller(outcome: Outcome) -> Iterator[tuple[str, Scenario]]:
    """Scenarios that are one thing less than the one that failed, the largest savings first."""
    scenario = outcome.scenario
    if outcome.simulated_s + 1 < scenario.seconds:
        yield "ends with the failure", replace(scenario, seconds=outcome.simulated_s + 1)
    for kind in scenario.faults:
        rest = tuple(other for other in scenario.faults if other != kind)
        if rest:
            yield f"without {kind}", replace(scenario, faults=rest)
    for nodes in (1, 3, 5):
        # A run without any fault cannot be asked for: no --faults means those that the seed draws.
        if nodes < scenario.nodes and (fewer := resized(scenario, nodes)).faults:
            yield f"{nodes} nodes", fewer
    if scenario.clients > 1:
        yield "fewer clients", replace(scenario, clients=scenario.clients // 2)
    if scenario.workers > 1:
        yield "fewer workers", replace(scenario, workers=scenario.workers // 2)
    if scenario.keys > 1:
        yield "one key", replace(scenario, keys=1)
    if scenario.per_second > 1:
        yield "slower clients", replace(scenario, per_second=scenario.per_second / 2)
    numbers = [number for number in range(1, outcome.drawn + 1) if number not in scenario.skip]
    for chunk in CHUNKS:
        for at in range(0, len(numbers), chunk):
            dropped = tuple(numbers[at : at + chunk])
            yield f"without faults {dropped}", replace(scenario, skip=(*scenario.skip, *dropped))
