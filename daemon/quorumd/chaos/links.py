"""What a faulty link does to a datagram, and how several faults of one link add up. No socket, no clock."""

import random
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from quorumd.types import NodeId

Link: TypeAlias = tuple[NodeId, NodeId]
"""(from, to): one direction."""

OVERTAKEN_MS: Final = (1.0, 20.0)
"""How much later a datagram arrives that others overtake."""


class LinkState(NamedTuple):
    """How a link is now. loss, duplicate, reorder: chances of each datagram; delay_ms: the mean, from which each takes
    up to `spread` of it less or more; cut: nothing passes.

    Datagrams keep their order, so those behind a slow one wait for it: with a spread most take longer than the mean.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay_ms: float = 0.0
    cut: bool = False
    spread: float = 0.5


PERFECT: Final = LinkState()


def combine(states: Iterable[LinkState]) -> LinkState:
    """The state of a link on which all of these are at work, each on its own."""
    passed = unrepeated = in_order = 1.0
    delay_ms, cut = 0.0, False
    for state in states:
        passed *= 1 - state.loss
        unrepeated *= 1 - state.duplicate
        in_order *= 1 - state.reorder
        delay_ms += state.delay_ms
        cut = cut or state.cut
    return LinkState(1 - passed, 1 - unrepeated, 1 - in_order, delay_ms, cut)


class LinkModel:
    """One direction of a link: decides how often and when each datagram arrives.

    Datagrams keep their order, however much each is delayed, unless `reorder` lets others overtake one.
    """

    def __init__(self, seed: int, state: LinkState = PERFECT) -> None:
        self.state = state
        self._random = random.Random(seed)
        self._latest_s = 0.0  # arrival of the last datagram that kept its place

    def arrivals(self, now_s: float) -> list[float]:
        """When the copies of a datagram sent at `now_s` arrive, in seconds of the same clock; empty: it is lost."""
        state, chance = self.state, self._random.random
        if state.cut or chance() < state.loss:
            return []
        copies = 2 if chance() < state.duplicate else 1
        return [self._arrival(now_s) for _ in range(copies)]

    def _arrival(self, now_s: float) -> float:
        state, rng = self.state, self._random
        arrival_s = now_s + state.delay_ms * rng.uniform(1 - state.spread, 1 + state.spread) / 1000
        if rng.random() < state.reorder:
            return arrival_s + rng.uniform(*OVERTAKEN_MS) / 1000
        self._latest_s = max(self._latest_s, arrival_s)
        return self._latest_s
