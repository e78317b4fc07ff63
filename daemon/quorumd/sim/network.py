"""The simulated network: datagrams that are lost, doubled, delayed, reordered, flipped, held for seconds or cut off.

A directed link loses everything while it is cut, and delivers nothing while it is clogged; what was clogged comes in
one burst. What the weather does to a datagram is drawn when it is sent.
"""

import random
from dataclasses import dataclass
from typing import Protocol

from quorumd.sim.world import between
from quorumd.types import Address, Nanoseconds

Link = tuple[Address, Address]


@dataclass
class Weather:
    """Chances are of each datagram. Times are nanoseconds."""

    delay: tuple[Nanoseconds, Nanoseconds]  # of every datagram
    loss: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0  # is delayed by up to `late_by` more: overtaken by what was sent after it
    late_by: Nanoseconds = 0
    stray: float = 0.0  # a copy turns up up to `stray_by` later, perhaps after its sender or receiver restarted
    stray_by: Nanoseconds = 0
    flip: float = 0.0  # arrives with one bit flipped


class Clock(Protocol):
    """What a network needs of the world."""

    now: Nanoseconds

    def deliver(self, when: Nanoseconds, dest: Address, data: bytes, source: Address) -> None: ...


class SimNetwork:
    """Between any two addresses. `deliver` of the world is called for each datagram that gets through."""

    def __init__(self, world: Clock, rng: random.Random, weather: Weather) -> None:
        self.world = world
        self.rng = rng
        self.calm = weather
        self.weather = weather
        self.cut: dict[Link, int] = {}  # how many faults cut it
        self.clogged: dict[Link, list[tuple[bytes, Nanoseconds]]] = {}
        self.lossy: dict[Link, float] = {}  # loss of its own, beside the weather's
        self.sent = self.lost = self.doubled = self.overtaken = self.strayed = self.flipped = self.blocked = 0

    def send(self, source: Address, dest: Address, data: bytes) -> None:
        """One datagram leaves."""
        self.sent += 1
        if self.cut and (source, dest) in self.cut:
            self.blocked += 1
            return
        weather, rng = self.weather, self.rng
        if self.lossy and rng.random() < self.lossy.get((source, dest), 0.0):
            self.lost += 1
            return
        if weather.loss and rng.random() < weather.loss:
            self.lost += 1
            return
        if weather.flip and rng.random() < weather.flip:
            self.flipped += 1
            data = flipped(data, rng)
        delay = between(rng, weather.delay)
        if weather.late and rng.random() < weather.late:
            self.overtaken += 1
            delay += rng.randint(0, weather.late_by)
        self._arrive(source, dest, data, delay)
        if weather.duplicate and rng.random() < weather.duplicate:
            self.doubled += 1
            self._arrive(source, dest, data, delay + rng.randint(0, max(weather.late_by, weather.delay[1])))
        if weather.stray and rng.random() < weather.stray:
            self.strayed += 1
            self._arrive(source, dest, data, rng.randint(0, weather.stray_by))

    def _arrive(self, source: Address, dest: Address, data: bytes, delay: Nanoseconds) -> None:
        held = self.clogged.get((source, dest)) if self.clogged else None
        if held is not None:
            held.append((data, delay))
        else:
            self.world.deliver(self.world.now + delay, dest, data, source)

    # -- faults -------------------------------------------------------------------------------------------------

    def cut_links(self, links: list[Link]) -> None:
        """Nothing gets through until `mend_links` was called for each of them as often."""
        for link in links:
            self.cut[link] = self.cut.get(link, 0) + 1

    def mend_links(self, links: list[Link]) -> None:
        """Ends one cut_links of the same links."""
        for link in links:
            self.cut[link] -= 1
            if not self.cut[link]:
                del self.cut[link]

    def clog(self, link: Link) -> None:
        """Holds what is sent on the link."""
        self.clogged.setdefault(link, [])

    def unclog(self, link: Link) -> None:
        """Everything held comes at once."""
        for data, delay in self.clogged.pop(link, ()):
            self.world.deliver(self.world.now + delay, link[1], data, link[0])


def flipped(data: bytes, rng: random.Random) -> bytes:
    """`data` with one bit flipped."""
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)
