"""One run: a safety phase with faults, a liveness phase with a majority healed, then everything healed and a verdict.

Safety: whatever strikes, no invariant breaks. Liveness (TigerBeetle's second phase): the faults stop, a random
majority is healed for good, the rest stays broken, and within a bounded time the majority must serve and agree. A run
that was too quiet does not count (`counts`): it shows nothing.
"""

import random
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from quorumd import limits
from quorumd.checker.history import Recorder, pair
from quorumd.checker.invariants import Violation
from quorumd.checker.linearizability import check
from quorumd.errors import CorruptLog, Diverged
from quorumd.invariants import InvariantBroken
from quorumd.sim.clients import Program, Worker
from quorumd.sim.cluster import Cluster
from quorumd.sim.coverage import reach
from quorumd.sim.faults import Faults
from quorumd.sim.holders import Holder
from quorumd.sim.lease_observer import gives_up_at_most, late_at_most, put_off_at_most
from quorumd.sim.machine import peer_address
from quorumd.sim.readers import Reader
from quorumd.sim.scenario import MIN_FAULTS, MIN_OPERATIONS, MIN_SECONDS, Scenario
from quorumd.sim.workload import Ask, read_back
from quorumd.sim.world import BEGINNING
from quorumd.types import NodeId

PATIENCE = 5  # a safety phase may last so many times its length to come by enough operations
LIVENESS = 40 * limits.SECOND  # within which a healed majority must serve, and agree
CATCH_UP = 10 * LIVENESS  # the same through narrow windows, if in every LIVENESS the last of them catches up with more
CHECK_SECONDS = 20.0
HALTED, CRASHED = "halted", "crashed"  # what a run that an error ended is said to have broken


@dataclass
class Outcome:
    """What came of a run. `violation` is the word of the check that failed, "" if none did."""

    scenario: Scenario
    violation: str = ""
    detail: str = ""
    undecided: bool = False  # too many unknown outcomes for the checker's patience; no rule is known to be broken
    simulated_s: float = 0.0
    operations: int = 0
    unknown: int = 0
    committed: int = 0
    events: int = 0
    drawn: int = 0  # the number of the last fault, whether or not it did harm
    struck: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)

    @property
    def counts(self) -> bool:
        """Whether enough happened for the run to show something."""
        busy = self.operations >= MIN_OPERATIONS and len(self.struck) >= MIN_FAULTS
        return busy and self.simulated_s >= MIN_SECONDS and not self.undecided


class Run:
    """One run of one scenario; `history` holds what its clients did, also after a violation."""

    def __init__(self, scenario: Scenario, trace: TextIO | None = None) -> None:
        self.scenario = scenario
        self.outcome = Outcome(scenario)
        self._trace = trace
        self._cluster: Cluster | None = None
        self._faults: Faults | None = None
        self._at_work: list[NodeId] = []  # who works for good
        self._healing = ""  # who works for good in the liveness phase, and how the rest was left

    @property
    def history(self) -> Recorder | None:
        """None if the cluster did not come to be."""
        return self._cluster.history if self._cluster is not None else None

    def go(self) -> Outcome:
        """Runs it to its end or to the first violation."""
        outcome = self.outcome
        try:
            cluster = self._cluster = Cluster(self.scenario, self._trace)
            faults = self._faults = Faults(cluster)
            self._safety(cluster)
            self._liveness(cluster, faults)
            self._ending(cluster)
        except Violation as violation:
            outcome.violation, outcome.detail = violation.check, violation.detail
        except (InvariantBroken, Diverged, CorruptLog) as error:
            outcome.violation, outcome.detail = HALTED, f"{type(error).__name__}: {error}"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome.violation = CRASHED
            outcome.detail = f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"
        self._sum_up()
        return outcome

    # -- phases -------------------------------------------------------------------------------------------------

    def _safety(self, cluster: Cluster) -> None:
        length = int(self.scenario.seconds * limits.SECOND)
        cluster.world.run(BEGINNING + length)
        longest = BEGINNING + PATIENCE * length
        while cluster.operations < MIN_OPERATIONS and cluster.world.now < longest:
            cluster.world.run(cluster.world.now + limits.SECOND)

    def _liveness(self, cluster: Cluster, faults: Faults) -> None:
        """A majority works for good, the rest stays broken: what must not happen is nothing."""
        dice = self.scenario.rng("liveness")
        faults.stop()
        healthy = [node for node in cluster.ids if node not in cluster.observer.damaged]
        dice.shuffle(healthy)
        majority, rest = sorted(healthy[: cluster.quorum]), sorted(set(cluster.ids) - set(healthy[: cluster.quorum]))
        cluster.world.tell("phase", "liveness", majority=majority)
        for node in majority:
            faults.nodes.revive(cluster.machines[node])
        self._at_work = majority
        self._healing = f"healed: {majority}"
        for node in rest:
            self._healing += f", node {node} {self._leave_broken(cluster, faults, node, dice)}"
        veterans = tuple(cluster.programs)
        probe = cluster.add_program(workers=0)
        self._serve(cluster, (probe, probe.mind.write("k0")))
        self._serve(cluster, (probe, probe.mind.read("k0")))
        self._serve(cluster, *((program, program.mind.write("k0")) for program in veterans))
        for program in (*cluster.programs, *cluster.holders, *cluster.readers):
            program.running = False
        self._answered(cluster, (*cluster.programs, *cluster.readers))
        self._agree(cluster, majority)
        self._leases_end(cluster)

    def _leases_end(self, cluster: Cluster) -> None:
        """Leases that nobody keeps alive end: those of now within the stated bound, those of before at all.

        Of the latter a keep-alive may still be on its way.
        """
        rules, holders, late = cluster.lease_rules, cluster.holders, late_at_most(self.scenario)
        if any(machine.disk.stalled for machine in cluster.machines.values()):
            late += gives_up_at_most(self.scenario)
        more = put_off_at_most(self.scenario)
        self._answered(cluster, holders)
        last = range(1, len(holders) + 1)
        cluster.leases.ids.update(last)
        for lease, holder in zip(last, holders, strict=True):
            holder.last_lease(lease)
        self._answered(cluster, holders)

        def ended() -> bool:
            leases = cluster.leases
            rules.not_overdue(last, cluster.world.now, leases.rearmed, late, leases.stalled, more)
            return not rules.live

        self._must(cluster, "lease-late", ended, lambda: f"the end of leases {sorted(rules.live)}")

    @staticmethod
    def _leave_broken(cluster: Cluster, faults: Faults, node: NodeId, dice: random.Random) -> str:
        """How it was left, in a word or two."""
        machine = cluster.machines[node]
        others = [other for other in cluster.ids if other != node]
        out = [(peer_address(node), peer_address(other)) for other in others]
        back = [(dest, source) for source, dest in out]
        how = dice.choice(("dead", "paused", "cut off", "deaf", "mute", "hanging disk", "well"))
        cluster.world.tell("phase", "left broken", node=node, how=how)
        if how == "dead":
            faults.nodes.halt(machine, dice, power=True)
            return how
        faults.nodes.revive(machine)
        if how == "paused" and machine.core is not None:
            machine.pause()
        elif how == "hanging disk":
            machine.disk.hang(True)
        links = {"cut off": out + back, "deaf": back, "mute": out}.get(how)
        if links:
            cluster.network.cut_links(links)
        return how

    def _answered(self, cluster: Cluster, askers: Sequence[Program | Holder | Reader]) -> None:
        """What is under way comes to an end, and nobody asks anything new."""
        self._must(
            cluster, "no-progress", lambda: all(asker.idle for asker in askers),
            lambda: f"the end of what {', '.join(asker.name for asker in askers if not asker.idle)} asked",
            self._caught_up(cluster),
        )  # fmt: skip

    def _serve(self, cluster: Cluster, *asks: tuple[Program, Ask]) -> None:
        """Each operation must come to a good end, asked again as long as it does not. That a tight quota is used up is
        one: the log says so."""
        waiting = [(program, program.add_worker(), ask) for program, ask in asks]

        def answered(worker: Worker) -> bool:
            return bool(worker.done or (cluster.tight and worker.without_room))

        def served() -> bool:
            for program, worker, ask in waiting:
                if worker.ask is None and not answered(worker):
                    program.submit(worker, ask)
            return all(answered(worker) for _, worker, _ in waiting)

        def unserved() -> str:
            left = [(program, ask) for program, worker, ask in waiting if not answered(worker)]
            return "a good answer to " + ", ".join(f"{program.name}: {ask.f} {ask.key}" for program, ask in left)

        self._must(cluster, "no-progress", served, unserved, self._caught_up(cluster))

    def _caught_up(self, cluster: Cluster) -> Callable[[], int]:
        """How far the last of those that work for good has come with what is committed by now: a quorum that needs it
        has no room for anything new before it is through, and through narrow windows that takes its time."""
        nodes, committed = self._at_work, cluster.invariants.committed
        return (lambda: min(cluster.least_applied(nodes), committed)) if self.scenario.narrow else (lambda: 0)

    def _agree(self, cluster: Cluster, nodes: list[NodeId]) -> None:
        """They come to one state."""
        def reached() -> int:
            return cluster.least_applied(nodes) if self.scenario.narrow else 0

        self._must(
            cluster, "no-agreement", lambda: cluster.agree(nodes), lambda: f"one state on nodes {nodes}", reached
        )

    def _must(
        self, cluster: Cluster, check_name: str, condition: Callable[[], bool], awaited: Callable[[], str],
        reached: Callable[[], int] = lambda: 0,
    ) -> None:  # fmt: skip
        """Lets time pass until the condition holds. Raises Violation after LIVENESS in which `reached` did not grow.

        awaited: what did not happen, for the violation.
        """
        world = cluster.world
        most, deadline, at_last = reached(), world.now + LIVENESS, world.now + CATCH_UP
        while not condition():
            if (now_at := reached()) > most:
                most, deadline = now_at, world.now + LIVENESS
            if world.now >= min(deadline, at_last):
                raise Violation(check_name, f"waited for {awaited()}; {self._healing}; {cluster.describe()}")
            world.run(world.now + 10 * limits.MILLISECOND)

    def _ending(self, cluster: Cluster) -> None:
        """Everything that can be healed is; what was acknowledged must be there, and explain every answer."""
        self._healing = "healed: all that can be"
        cluster.network.cut.clear()
        for machine in cluster.machines.values():
            machine.disk.hang(False)
            machine.resume()
            if machine.core is None and not machine.start():
                machine.start()  # it lost power while it started
        self._at_work = healthy = [node for node in cluster.ids if node not in cluster.observer.damaged]
        reader = cluster.add_program(workers=0)
        for key in range(self.scenario.keys):
            self._serve(cluster, (reader, reader.mind.read(f"k{key}")))
        self._must(cluster, "other-quota", lambda: cluster.ruled, lambda: "the leader's quota in the log")
        self._agree(cluster, healthy)
        cluster.sessions_kept()
        cluster.answers.executed()
        audience = cluster.audience
        audience.close()
        self._must(cluster, "watch-behind", lambda: not audience.behind, lambda: f"watchers: {audience.behind}")
        changes = audience.past.changes(read_back)
        verdict = check(pair(cluster.history.events), seconds=CHECK_SECONDS, changes=changes)
        if verdict.ok is False:
            raise Violation("linearizability", verdict.reason)
        self.outcome.undecided = verdict.ok is None

    def _sum_up(self) -> None:
        outcome, cluster, faults = self.outcome, self._cluster, self._faults
        if cluster is None or faults is None:
            return
        outcome.simulated_s = (cluster.world.now - BEGINNING) / limits.SECOND
        outcome.operations = cluster.operations
        outcome.unknown = sum(program.unknown for program in (*cluster.programs, *cluster.former))
        outcome.committed = cluster.invariants.committed
        outcome.events = cluster.world.events
        outcome.drawn = faults.drawn
        outcome.struck = faults.struck
        outcome.reached = reach(cluster)
