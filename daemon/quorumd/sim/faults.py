"""What strikes a simulated cluster, and when it is healed. From one seed; each fault that strikes has a number.

A fault is a method that does its harm and returns how to undo it, or None if it could do no harm just now. Damage to
storage, which nothing can undo before there is repair from peers, hits only the scenario's few chosen nodes.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from quorumd import connectivity, limits
from quorumd.consensus.engine import Role
from quorumd.sim.cluster import Cluster
from quorumd.sim.machine import Machine, client_address, peer_address
from quorumd.sim.network import Link, Weather
from quorumd.sim.rot import flip_synced_bit, misdirect_write
from quorumd.types import Nanoseconds, NodeId

Undo = Callable[[], None]
MS = limits.MILLISECOND
SHORTEST: Nanoseconds = 20 * MS
HALTS = ("kill", "power-loss", "restart-all")  # wait for a sync that may not come before they are healed
AMID_SYNC = 0.7  # share of crashes that wait for a sync to strike in
BEHIND_TIMEOUTS = (1, 8)  # election timeouts that a leader goes on without the node that is to fall behind
LOST_SECTORS = (0.5, 0.8, 0.9, 1.0)  # share of the un-synced sectors that a power loss takes


def leads(machine: Machine) -> bool:
    """Whether the node runs and takes itself for the leader."""
    engine = machine.core.engine if machine.core is not None else None
    return machine.runs and engine is not None and engine.role is Role.LEADER


def nothing() -> None:
    """Undoes what needs no undoing."""


class Faults:
    """See the module's docstring. `struck` counts the faults that did harm, by kind; `drawn` is the last number."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.scenario = cluster.scenario
        self.dice = self.scenario.rng("faults")
        self.struck: Counter[str] = Counter()
        self.over = False
        self.drawn = 0
        self._undos: dict[int, Undo] = {}
        self._weathers: dict[int, dict[str, Any]] = {}
        ids = list(cluster.ids)
        self.dice.shuffle(ids)
        self.may_rot = ids[: len(ids) - cluster.quorum]
        if self.scenario.faults:
            self._schedule()

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
        harm: Callable[[random.Random, int], Undo | None] = getattr(self, "_" + kind.replace("-", "_"))
        undo = harm(dice, number)
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

    def _machine(self, dice: random.Random) -> Machine:
        return self.cluster.machines[dice.choice(self.cluster.ids)]

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

    def _loss(self, dice: random.Random, number: int) -> Undo:
        return self._weather(number, loss=dice.choice((0.01, 0.05, 0.3)))

    def _duplicate(self, dice: random.Random, number: int) -> Undo:
        return self._weather(number, duplicate=dice.choice((0.05, 0.5)))

    def _delay(self, dice: random.Random, number: int) -> Undo:
        return self._weather(number, delay=(MS, dice.choice((5, 30, 100)) * MS))

    def _reorder(self, dice: random.Random, number: int) -> Undo:
        return self._weather(number, late=dice.choice((0.05, 0.5)), late_by=dice.choice((1, 10, 100)) * MS)

    def _stray(self, dice: random.Random, number: int) -> Undo:
        return self._weather(number, stray=dice.choice((0.01, 0.1)), stray_by=dice.choice((1, 10)) * limits.SECOND)

    def _net_flip(self, dice: random.Random, number: int) -> Undo:
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

    def _isolate(self, dice: random.Random, number: int) -> Undo | None:
        """One node hears no peer; half the time no client either."""
        node = dice.choice(self.cluster.ids)
        links = self._between([node], self.cluster.ids)
        if dice.random() < 0.5:
            own = client_address(node)
            for program in self.cluster.programs:
                links += [(own, program.address), (program.address, own)]
        return self._cut(links)

    def _split(self, dice: random.Random, number: int) -> Undo | None:
        ids = list(self.cluster.ids)
        dice.shuffle(ids)
        at = dice.randint(1, len(ids) - 1)
        return self._cut(self._between(ids[:at], ids[at:]))

    def _one_way(self, dice: random.Random, number: int) -> Undo | None:
        """Some directed links, or one node that can be heard and hears nothing, or the reverse."""
        a, b = dice.sample(self.cluster.ids, 2)
        links = [(peer_address(a), peer_address(b))]
        if dice.random() < 0.5:
            links = [(peer_address(a), peer_address(other)) for other in self.cluster.ids if other != a]
            if dice.random() < 0.5:
                links = [(dest, source) for source, dest in links]
        return self._cut(links)

    def _bridge(self, dice: random.Random, number: int) -> Undo | None:
        """Two halves that only one node connects."""
        ids = list(self.cluster.ids)
        dice.shuffle(ids)
        half = len(ids) // 2
        return self._cut(self._between(ids[1 : 1 + half], ids[1 + half :]))

    def _flapping(self, dice: random.Random, number: int) -> Undo | None:
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

    def _clog(self, dice: random.Random, number: int) -> Undo | None:
        a, b = dice.sample(self.cluster.ids, 2)
        link = (peer_address(a), peer_address(b))
        if link in self.cluster.network.clogged:
            return None
        self.cluster.network.clog(link)
        return lambda: self.cluster.network.unclog(link)

    def _quorum_loss(self, dice: random.Random, number: int) -> Undo | None:
        return self._partial(dice, "quorum-loss")

    def _constrained(self, dice: random.Random, number: int) -> Undo | None:
        return self._partial(dice, "constrained")

    def _chained(self, dice: random.Random, number: int) -> Undo | None:
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

    def _deaf_leader(self, dice: random.Random, number: int) -> Undo | None:
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

    # -- nodes --------------------------------------------------------------------------------------------------

    def halt(self, machine: Machine, dice: random.Random, *, power: bool) -> None:
        """Ends the process, if there is one. A loss of power takes what an ended one left in the page cache, too."""
        ran = machine.core is not None
        machine.stop()
        if power:
            machine.disk.lost_power(dice.choice(LOST_SECTORS))
        elif ran:
            machine.disk.killed()

    def _amid_sync(self, machine: Machine, dice: random.Random, action: Callable[[], None]) -> Callable[[], None]:
        """`action` happens now or, more often, while the disk is at its next sync; returns what calls that off.

        An idle disk has nothing to lose, and syncs are short: chance alone would seldom strike in one.
        """
        if dice.random() >= AMID_SYNC:
            action()
            return nothing
        when = dice.randint(0, machine.disk.sync_ns[0])

        def spring() -> None:
            self.world.after(when, action)

        def call_off() -> None:
            if spring in machine.disk.traps:
                machine.disk.traps.remove(spring)

        machine.disk.traps.append(spring)
        return call_off

    def revive(self, machine: Machine) -> None:
        """Starts the node, however often it takes: it can lose power while it starts."""
        if machine.core is None and not machine.start():
            machine.start()

    def _kill(self, dice: random.Random, number: int) -> Undo | None:
        return self._crash(dice, power=False)

    def _power_loss(self, dice: random.Random, number: int) -> Undo | None:
        return self._crash(dice, power=True)

    def _crash(self, dice: random.Random, *, power: bool) -> Undo | None:
        machine = self._machine(dice)
        if machine.core is None and not power:
            return None
        state = {"over": False}

        def crash() -> None:
            if state["over"]:
                return
            self.struck["power-loss" if power else "kill"] += 1
            self.halt(machine, dice, power=power)
            if power and dice.random() < 0.25:
                machine.disk.cut_after = dice.randrange(8)

        call_off = self._amid_sync(machine, dice, crash)

        def undo() -> None:
            state["over"] = True
            call_off()
            self.revive(machine)

        return undo

    def _restart(self, dice: random.Random, number: int) -> Undo | None:
        """Stopped in good order."""
        machine = self._machine(dice)
        if machine.core is None or machine.paused:
            return None
        machine.stop()
        machine.disk.closed()
        return lambda: self.revive(machine)

    def _restart_all(self, dice: random.Random, number: int) -> Undo | None:
        """Every node at once, and each comes back at a time of its own."""
        power = dice.random() < 0.7
        state = {"over": False}

        def crash() -> None:
            if state["over"]:
                return
            self.struck["restart-all"] += 1
            for machine in self.cluster.machines.values():
                self.halt(machine, dice, power=power)
                self.world.after(dice.randint(0, limits.SECOND), partial(back, machine))

        def back(machine: Machine) -> None:
            if not state["over"]:
                self.revive(machine)

        call_off = self._amid_sync(self._machine(dice), dice, crash)

        def undo() -> None:
            state["over"] = True
            call_off()
            for machine in self.cluster.machines.values():
                self.revive(machine)

        return undo

    def _pause(self, dice: random.Random, number: int) -> Undo | None:
        machine = self._machine(dice)
        if not machine.runs:
            return None
        amid_turn = dice.random() < 0.5
        machine.pause(amid_turn=amid_turn)
        if amid_turn and dice.random() < 0.5:  # most promises last about as long
            self.world.after(dice.randint(0, self.scenario.election_timeout_ms * limits.MILLISECOND), machine.resume)
        return machine.resume

    def _transfer(self, dice: random.Random, number: int) -> Undo | None:
        if not self.cluster.programs:
            return None
        self.cluster.programs[0].transfer(dice.choice((0, *self.cluster.ids)))
        return nothing

    # -- disks --------------------------------------------------------------------------------------------------

    def _slow_disk(self, dice: random.Random, number: int) -> Undo | None:
        disk = self._machine(dice).disk
        disk.slowness = dice.choice((3, 10, 50))
        return lambda: setattr(disk, "slowness", 1)

    def _stalled_disk(self, dice: random.Random, number: int) -> Undo | None:
        disk = self._machine(dice).disk
        if disk.stalled:
            return None
        disk.hang(True)
        return lambda: disk.hang(False)

    def _disk_full(self, dice: random.Random, number: int) -> Undo | None:
        """No segment more, and no start. A node that stopped for want of room is started again once there is some."""
        machines = list(self.cluster.machines.values())
        full = machines if dice.random() < 0.3 else [dice.choice(machines)]
        for machine in full:
            machine.disk.full = True

        def undo() -> None:
            for machine in full:
                machine.disk.full = False
                if machine.core is None and machine.wants_room:
                    machine.disk.killed()
                    self.revive(machine)

        return undo

    def _disk_error(self, dice: random.Random, number: int) -> Undo | None:
        """The next sync fails: the node must stop. Then the operator looks, and boots the machine, or only the node."""
        machine, boots = self._machine(dice), dice.random() < 0.5
        machine.disk.failing = True

        def undo() -> None:
            machine.disk.failing = False
            if machine.core is None or machine.disk.failed:
                # A node that is about to be told of the failed sync ends as well.
                machine.stop()
                if boots:
                    machine.disk.lost_power(1.0)
                else:
                    machine.disk.killed()
                self.revive(machine)

        return undo

    # -- storage that decays ------------------------------------------------------------------------------------

    def _victim(self, dice: random.Random) -> Machine | None:
        """A node whose storage may decay, unless it has already."""
        machine = self.cluster.machines[dice.choice(self.may_rot)] if self.may_rot else None
        if machine is None or machine.core is None or machine.node in self.cluster.observer.damaged:
            return None
        return machine

    def _bit_flip(self, dice: random.Random, number: int) -> Undo | None:
        """One bit of what was synced; half the time under the running node, which then may read it back."""
        return self._rot(dice, flip_synced_bit)

    def _misdirected(self, dice: random.Random, number: int) -> Undo | None:
        """A write went to another sector, over something that was synced."""
        return self._rot(dice, misdirect_write)

    def _rot(self, dice: random.Random, harm: Callable[[Machine, random.Random], bool]) -> Undo | None:
        machine = self._victim(dice)
        if machine is None:
            return None
        running = dice.random() < 0.5
        if not running:
            self.halt(machine, dice, power=True)
        if not harm(machine, dice):
            return lambda: self.revive(machine)
        self.cluster.observer.damaged.add(machine.node)

        def undo() -> None:
            self.halt(machine, dice, power=False)
            self.revive(machine)

        return undo

    def _wipe(self, dice: random.Random, number: int) -> Undo | None:
        """The node comes back with an empty directory, and half the time somebody bootstraps it once more."""
        machine = self._victim(dice)
        if machine is None or machine.disk.meta is None:
            return None
        self.halt(machine, dice, power=True)
        machine.disk.wiped()
        self.cluster.observer.damaged.add(machine.node)
        bootstrap = dice.random() < 0.5

        def undo() -> None:
            machine.start(bootstrap=bootstrap)

        return undo

    # -- clients ------------------------------------------------------------------------------------------------

    def _client_kill(self, dice: random.Random, number: int) -> Undo | None:
        if not self.cluster.programs:
            return None
        self.cluster.kill_program(dice.choice(self.cluster.programs))
        self.cluster.audience.attend(self.cluster.add_program())
        return nothing
