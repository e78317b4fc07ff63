"""What strikes the nodes of a simulated cluster, their disks and config, and its clients. See faults.py."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from quorumd import limits
from quorumd.sim.cluster import Cluster
from quorumd.sim.machine import Machine
from quorumd.sim.pathfaults import Undo
from quorumd.sim.rot import flip_synced_bit, misdirect_write
from quorumd.types import NodeId

MS = limits.MILLISECOND
AMID_SYNC = 0.7  # share of crashes that wait for a sync to strike in
FILLED = "filled"  # a key that no range of the workload has
FILLING = 900_000  # bytes of a value
FILLINGS = 16  # of them, at most: more than two segments hold
LOST_SECTORS = (0.5, 0.8, 0.9, 1.0)  # share of the un-synced sectors that a power loss takes


def nothing() -> None:
    """Undoes what needs no undoing."""


class NodeFaults:
    """A public method for each fault. struck: counts those that act later than they are drawn (HALTS).

    may_rot: the nodes whose storage may decay.
    """

    def __init__(self, cluster: Cluster, struck: Counter[str], may_rot: Sequence[NodeId]) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.scenario = cluster.scenario
        self.struck = struck
        self.may_rot = may_rot

    def _machine(self, dice: random.Random) -> Machine:
        return self.cluster.machines[dice.choice(self.cluster.ids)]

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

    def kill(self, dice: random.Random, number: int) -> Undo | None:
        return self._crash(dice, power=False)

    def power_loss(self, dice: random.Random, number: int) -> Undo | None:
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
                machine.disk.cut_after = dice.randrange(16)

        call_off = self._amid_sync(machine, dice, crash)

        def undo() -> None:
            state["over"] = True
            call_off()
            self.revive(machine)

        return undo

    def restart(self, dice: random.Random, number: int) -> Undo | None:
        """Stopped in good order; half the time it gives leadership away before."""
        machine = self._machine(dice)
        core = machine.core
        if core is None or machine.paused:
            return None

        state = {"over": False}

        def stop() -> None:
            if machine.core is core and not machine.paused and not state["over"]:
                machine.stop()
                machine.disk.closed()

        def undo() -> None:
            state["over"] = True
            self.revive(machine)

        if dice.random() < 0.5:
            machine.hand_over()
            self.world.after(dice.randint(0, 2 * self.scenario.election_timeout_ms) * MS, stop)
        else:
            stop()
        return undo

    def restart_all(self, dice: random.Random, number: int) -> Undo | None:
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

    def pause(self, dice: random.Random, number: int) -> Undo | None:
        machine = self._machine(dice)
        if not machine.runs:
            return None
        amid_turn = dice.random() < 0.5
        machine.pause(amid_turn=amid_turn)
        if amid_turn and dice.random() < 0.5:  # most promises last about as long
            self.world.after(dice.randint(0, self.scenario.election_timeout_ms * limits.MILLISECOND), machine.resume)
        return machine.resume

    def transfer(self, dice: random.Random, number: int) -> Undo | None:
        if not self.cluster.programs:
            return None
        self.cluster.programs[0].transfer(dice.choice((0, *self.cluster.ids)))
        return nothing

    # -- disks --------------------------------------------------------------------------------------------------

    def slow_disk(self, dice: random.Random, number: int) -> Undo | None:
        disk = self._machine(dice).disk
        disk.slowness = dice.choice((3, 10, 50))
        return lambda: setattr(disk, "slowness", 1)

    def stalled_disk(self, dice: random.Random, number: int) -> Undo | None:
        disk = self._machine(dice).disk
        if disk.stalled:
            return None
        disk.hang(True)
        return lambda: disk.hang(False)

    def disk_full(self, dice: random.Random, number: int) -> Undo | None:
        """No segment more, and no start. A node that stopped for want of room is started again once there is some."""
        machines = list(self.cluster.machines.values())
        full = machines if dice.random() < 0.3 else [dice.choice(machines)]
        for machine in full:
            machine.disk.full = True
        state = {"over": False}
        if self.scenario.fillers:
            self._fill(state)

        def undo() -> None:
            state["over"] = True
            for machine in full:
                machine.disk.full = False
                if machine.core is None and machine.wants_room:
                    machine.disk.killed()
                    self.revive(machine)

        return undo

    def _fill(self, state: dict[str, bool]) -> None:
        """A client writes large values as long as the disks are full: segments made ahead last for a while."""
        filler = self.cluster.add_program(workers=0)
        worker, left = filler.add_worker(), [FILLINGS]

        def write() -> None:
            if state["over"] or not left[0] or not filler.alive:
                return
            if worker.ask is None:
                left[0] -= 1
                filler.submit(worker, filler.mind.write(FILLED, FILLING))
            self.world.after(50 * MS, write)

        write()

    def disk_error(self, dice: random.Random, number: int) -> Undo | None:
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

    def bit_flip(self, dice: random.Random, number: int) -> Undo | None:
        """One bit of what was synced; half the time under the running node, which then may read it back."""
        return self._rot(dice, flip_synced_bit)

    def misdirected(self, dice: random.Random, number: int) -> Undo | None:
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

    def wipe(self, dice: random.Random, number: int) -> Undo | None:
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

    # -- the config ---------------------------------------------------------------------------------------------

    def quota(self, dice: random.Random, number: int) -> Undo | None:
        """Another quota, for which the nodes are restarted one after the other: until then leaders differ in theirs.

        Healed before the last one has, some keep the old one.
        """
        quota = self.scenario.quota(dice)
        down: list[Machine] = []
        state = {"over": False}

        def stop(machine: Machine) -> None:
            if state["over"]:
                return
            self.cluster.quotas[machine.node] = quota
            if machine.runs:
                machine.stop()
                machine.disk.closed()
                down.append(machine)
                self.world.after(dice.randint(0, 200) * MS, start)

        def start() -> None:
            if down:
                self.revive(down.pop(0))

        def undo() -> None:
            state["over"] = True
            while down:
                start()

        at = 0
        for machine in self.cluster.machines.values():
            self.world.after(at, partial(stop, machine))
            at += dice.choice((0, 300, 1_000)) * MS
        return undo

    # -- clients ------------------------------------------------------------------------------------------------

    def client_kill(self, dice: random.Random, number: int) -> Undo | None:
        if not self.cluster.programs:
            return None
        self.cluster.kill_program(dice.choice(self.cluster.programs))
        self.cluster.audience.attend(self.cluster.add_program())
        return nothing
