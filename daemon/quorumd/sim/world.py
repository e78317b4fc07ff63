"""Simulated time: one heap of events, taken in order of time and of their making. One thread, no real clock."""

import heapq
from collections.abc import Callable
from random import Random
from typing import Any, TextIO

from quorumd import limits
from quorumd.types import Address, Nanoseconds

BEGINNING = 1_000 * limits.SECOND
"""The first instant. Not zero: production code must not take a time of 0 for "never"."""


def between(rng: Random, bounds: tuple[Nanoseconds, Nanoseconds]) -> Nanoseconds:
    """Some time of [low, high): what is drawn for every datagram and every turn, so not with the costly `randint`."""
    low, high = bounds
    return low + int(rng.random() * (high - low))


class World:
    """Clock, events and the trace. `endpoints` maps an address to who takes datagrams there."""

    def __init__(self, trace: TextIO | None = None) -> None:
        self.now: Nanoseconds = BEGINNING
        self.endpoints: dict[Address, Callable[[bytes, Address], None]] = {}
        self.trace = trace
        self._heap: list[tuple[Nanoseconds, int, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0
        self.events = 0

    def at(self, when: Nanoseconds, action: Callable[..., None], *given: Any) -> None:
        """`action(*given)` happens at `when`, after everything made for that instant before."""
        self._made += 1
        heapq.heappush(self._heap, (when, self._made, action, given))

    def after(self, delay: Nanoseconds, action: Callable[[], None]) -> None:
        """`action()` happens `delay` nanoseconds from now."""
        self.at(self.now + delay, action)

    def deliver(self, when: Nanoseconds, dest: Address, data: bytes, source: Address) -> None:
        """A datagram arrives at `when`, if somebody is there then to take it."""
        self.at(when, self._arrive, dest, data, source)

    def _arrive(self, dest: Address, data: bytes, source: Address) -> None:
        take = self.endpoints.get(dest)
        if take is not None:
            take(data, source)

    def run(self, until: Nanoseconds) -> None:
        """Lets time pass to `until`."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            self.now, _, action, given = pop(heap)
            self.events += 1
            action(*given)
        self.now = until

    def tell(self, who: str, what: str, **detail: object) -> None:
        """A line of the timeline, if one is kept."""
        if self.trace is not None:
            words = " ".join(f"{key}={value}" for key, value in detail.items())
            self.trace.write(f"{(self.now - BEGINNING) / limits.SECOND:12.6f} {who:8} {what} {words}".rstrip() + "\n")
