"""What the observer looks for in a Multi-Paxos node."""

from collections.abc import Sequence
from typing import Any

from quorumd.checker.paxos_invariants import PaxosInvariants
from quorumd.consensus.engine import KEPT, NOOP, Append, Engine, HardState, Role
from quorumd.consensus.messages import HeartbeatReply
from quorumd.consensus.paxos import Paxos
from quorumd.consensus.paxos.messages import Accept, Accepted, Prepare, Promise, Values
from quorumd.core import Core
from quorumd.sim.machine import Machine
from quorumd.sim.observer import Life, Observer, Seen, holds
from quorumd.types import NodeId, Term


class PaxosObserver(Observer[PaxosInvariants]):
    """See observer.py."""

    def __init__(self, invariants: PaxosInvariants) -> None:
        super().__init__(invariants)
        self._recovered: dict[NodeId, Term] = {}  # the last ballot in which it led and had proposed all that was open

    def started(self, machine: Machine, core: Core, engine: Engine) -> None:
        """See Observer.started. Its bytes are looked at as far as they are in memory."""
        self.invariants.holds(machine.node, engine.term_at)
        for slot in range(engine.commit + 1, engine.last + 1):
            ballot = engine.term_at(slot)
            if ballot is not None:
                values = self.checksums(core, slot, slot)
                self.invariants.takes(machine.node, ballot, slot, [values.get(slot)])

    def changed(self, machine: Machine, core: Core, engine: Engine, life: Life, before: Seen) -> None:
        """See Observer.changed."""
        node, seen, rules = machine.node, life.seen, self.invariants
        led = before.role is Role.LEADER and seen.role is Role.LEADER and before.term == seen.term
        if seen.role is Role.LEADER and not led:
            rules.leads(node, seen.term)
            self.reached["elections"] += 1
        if engine.accepts_proposals and self._recovered.get(node) != seen.term and isinstance(engine, Paxos):
            self._recovered[node] = seen.term
            rules.proposes(node, seen.term, engine.status().base, seen.last, engine.term_at)
        if seen.commit != before.commit:
            if led:
                rules.leader_commits(
                    node, seen.term, before.commit, seen.commit, lambda slot: holds(machine, core, slot)
                )
            rules.commits(node, seen.commit, engine.term_at)

    def written(self, node: NodeId, core: Core, appends: Sequence[Append]) -> None:
        """See Observer.written. Only what no later item of the same Ready replaced is still there to be looked at."""
        replaced: set[int] = set()
        end = core.engine.last if core.engine is not None else 0
        for item in reversed(appends):
            if item.source is KEPT:
                self.reached["values kept"] += 1
            elif item.source is NOOP and item.first < end:  # the one at the end is every new leader's
                self.reached["holes closed"] += 1
            values = self.checksums(core, item.first, item.last)
            slots = range(item.first, item.last + 1)
            self.invariants.takes(
                node, item.term, item.first, [None if slot in replaced else values.get(slot) for slot in slots]
            )
            replaced.update(slots)

    def heard(self, machine: Machine, core: Core, message: Any, durable: HardState) -> None:
        """See Observer.heard."""
        rules, node = self.invariants, machine.node
        match message:
            case Promise(granted=True, pre=False):
                rules.promises(node, message.ballot, durable.term)
                rules.speaks(node, message.ballot, durable.term)
            case Promise(granted=False, pre=False):
                self.reached["promises refused"] += 1
            case Values():
                self.reached["values fetched"] += 1
            case Accepted():
                rules.speaks(node, message.ballot, durable.term)
                rules.accepts(node, message.ballot)
                self._accepted(machine, core, message)
            case Prepare(pre=False) | Accept() | HeartbeatReply():
                rules.speaks(node, message.term, durable.term)

    def _accepted(self, machine: Machine, core: Core, message: Accepted) -> None:
        engine = core.engine
        if engine is None:
            return
        if message.ballot != engine.term:  # said of what was accepted before a higher promise: the log may differ
            for first, last in ((core.applier.commit + 1, message.match), *message.above):
                self.invariants.accepted_once(machine.node, message.ballot, range(first, last + 1))
            return
        self.reached["acknowledgements"] += 1
        self.reached["accepted behind holes"] += bool(message.above)
        ranges = ((core.applier.commit + 1, message.match), *message.above)
        slots = [slot for first, last in ranges for slot in range(first, last + 1)]
        self.invariants.accepted(
            machine.node, message.ballot, slots, engine.term_at, lambda slot: holds(machine, core, slot)
        )
