"""What strikes between the nodes of a simulated cluster: weather on all paths, and links that go. See faults.py."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from quorumd import connectivity, limits
from quorumd.consensus.engine import Role
from quorumd.sim.cluster import Cluster
from quorumd.sim.machine import Machine, client_address, peer_address
from quorumd.sim.network import Link, Weather
from quorumd.types import NodeId

Undo: TypeAlias = Callable[[], None]
"""Heals what struck."""
MS = limits.MILLISECOND
BEHIND_TIMEOUTS = (1, 8)  # election timeouts that a leader goes on without the node that is to fall behind


def leads(machine: Machine) -> bool:
    """Whether the node runs and takes itself for the leader."""
    engine = machine.core.engine if machine.core is not None else None
    return machine.runs and engine is not None and engine.role is Role.LEADER


class PathFaults:
    """A public method for each fault."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.scenario = cluster.scenario
        self._weathers: dict[int, dict[str, Any]] = {}

    # -- the path -----------------------------------------------------------------------------------------------

    def _weather(self, number: int, **change: Any) -> Undo:
        self._weathers[number] = change
        self._set_weather()

        def undo() -> None:
            del self._weathers[number]
            self._set_weather()

        return undo

    def _set_weather(self) -> None:
        network = self.cluster.network
        weather: Weather = network.calm
        for change in self._weathers.values():
            weather = replace(weather, **change)
        network.weather = weather

    def loss(self, dice: random.Random, number: int) -> Undo:
        return self._weather(number, loss=dice.choice((0.01, 0.05, 0.3)))

    def duplicate(self, dice: random.Random, number: int) -> Undo:
        return self._weather(number, duplicate=dice.choice((0.05, 0.5)))

    def delay(self, dice: random.Random, number: int) -> Undo:
        return self._weather(number, delay=(MS, dice.choice((5, 30, 100)) * MS))

    def reorder(self, dice: random.Random, number: int) -> Undo:
        return self._weather(number, late=dice.choice((0.05, 0.5)), late_by=dice.choice((1, 10, 100)) * MS)

    def stray(self, dice: random.Random, number: int) -> Undo:
        return self._weather(number, stray=dice.choice((0.01, 0.1)), stray_by=dice.choice((1, 10)) * limits.SECOND)

    def net_flip(self, dice: random.Random, number: int) -> Undo:
        return self._weather(number, flip=dice.choice((0.001, 0.02)))

    # -- links --------------------------------------------------------------------------------------------------

    def _cut(self, links: list[Link]) -> Undo | None:
        if not links:
            return None
        self.cluster.network.cut_links(links)
        return lambda: self.cluster.network.mend_links(links)

    def _between(self, some: list[NodeId], others: list[NodeId]) -> list[Link]:
        pairs = [(a, b) for a in some for b in others if a != b]
        return [(peer_address(a), peer_address(b)) for a, b in pairs] + [
            (peer_address(b), peer_address(a)) for a, b in pairs
        ]

    def isolate(self, dice: random.Random, number: int) -> Undo | None:
        """One node hears no peer; half the time no client either."""
        node = dice.choice(self.cluster.ids)
        links = self._between([node], self.cluster.ids)
        if dice.random() < 0.5:
            own = client_address(node)
            for program in self.cluster.programs:
                links += [(own, program.address), (program.address, own)]
        return self._cut(links)

    def split(self, dice: random.Random, number: int) -> Undo | None:
        ids = list(self.cluster.ids)
        dice.shuffle(ids)
        at = dice.randint(1, len(ids) - 1)
        return self._cut(self._between(ids[:at], ids[at:]))

    def one_way(self, dice: random.Random, number: int) -> Undo | None:
        """Some directed links, or one node that can be heard and hears nothing, or the reverse."""
        a, b = dice.sample(self.cluster.ids, 2)
        links = [(peer_address(a), peer_address(b))]
        if dice.random() < 0.5:
            links = [(peer_address(a), peer_address(other)) for other in self.cluster.ids if other != a]
            if dice.random() < 0.5:
                links = [(dest, source) for source, dest in links]
        return self._cut(links)

    def bridge(self, dice: random.Random, number: int) -> Undo | None:
        """Two halves that only one node connects."""
        ids = list(self.cluster.ids)
        dice.shuffle(ids)
        half = len(ids) // 2
        return self._cut(self._between(ids[1 : 1 + half], ids[1 + half :]))

    def flapping(self, dice: random.Random, number: int) -> Undo | None:
        """A link that goes and comes."""
        a, b = dice.sample(self.cluster.ids, 2)
        links = self._between([a], [b])
        period = dice.choice((20, 100, 400)) * MS
        state = {"on": True, "cut": False}

        def flap() -> None:
            if state["on"]:
                mend, cut = self.cluster.network.mend_links, self.cluster.network.cut_links
                (mend if state["cut"] else cut)(links)
                state["cut"] = not state["cut"]
                self.world.after(period, flap)

        def undo() -> None:
            state["on"] = False
            if state["cut"]:
                self.cluster.network.mend_links(links)

        flap()
        return undo

    def clog(self, dice: random.Random, number: int) -> Undo | None:
        a, b = dice.sample(self.cluster.ids, 2)
        link = (peer_address(a), peer_address(b))
        if link in self.cluster.network.clogged:
            return None
        self.cluster.network.clog(link)
        return lambda: self.cluster.network.unclog(link)

    def quorum_loss(self, dice: random.Random, number: int) -> Undo | None:
        return self._partial(dice, "quorum-loss")

    def constrained(self, dice: random.Random, number: int) -> Undo | None:
        return self._partial(dice, "constrained")

    def chained(self, dice: random.Random, number: int) -> Undo | None:
        return self._partial(dice, "chained")

    def _partial(self, dice: random.Random, name: str) -> Undo | None:
        """A scenario of connectivity.py around the leader of the moment, or around anybody if there is none."""
        scenario = connectivity.SCENARIOS[name]
        ids = self.cluster.ids
        if len(ids) < scenario.least_nodes:
            return None
        order = dice.sample(ids, len(ids))
        leader = self.cluster.leader
        order.sort(key=lambda node: node != leader)
        network = self.cluster.network
        at_work: list[list[Link]] = []
        state = {"over": False}

        def cut(links: list[connectivity.Link]) -> None:
            if not state["over"]:
                at_work.append([(peer_address(one), peer_address(other)) for one, other in links])
                network.cut_links(at_work[-1])

        def undo() -> None:
            state["over"] = True
            for links in at_work:
                network.mend_links(links)

        if scenario.first is None:
            cut(scenario.cut(order))
        else:
            cut(scenario.first(order))
            later = dice.randint(*BEHIND_TIMEOUTS) * self.scenario.election_timeout_ms * MS
            self.world.after(later, lambda: cut(scenario.cut(order)))
        return undo

    def deaf_leader(self, dice: random.Random, number: int) -> Undo | None:
        """A leader hears no peer, and much of what it sends them is lost, just when its clients are in a hurry.

        So each acceptor misses other slots, and nobody tells the leader, until another one has to close the holes.
        """
        network, leaders = self.cluster.network, [m for m in self.cluster.machines.values() if leads(m)]
        if not leaders:
            return None
        node = dice.choice(leaders).node
        others = [peer_address(other) for other in self.cluster.ids if other != node]
        out = [(peer_address(node), other) for other in others]
        if any(link in network.lossy for link in out):
            return None
        loss = dice.choice((0.3, 0.5, 0.7))
        network.lossy.update(dict.fromkeys(out, loss))
        deaf = [(other, peer_address(node)) for other in others]
        network.cut_links(deaf)
        for program in self.cluster.programs:
            program.hurry(self.scenario.heartbeat_ms * MS)

        def undo() -> None:
            network.mend_links(deaf)
            for link in out:
                del network.lossy[link]

        return undo
