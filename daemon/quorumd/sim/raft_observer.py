"""What the observer looks for in a Raft node."""

from typing import Any

from quorumd.checker.raft_invariants import Entry, RaftInvariants
from quorumd.consensus.engine import Engine, HardState, Role
from quorumd.consensus.messages import (
    AppendEntries,
    AppendEntriesReply,
    HeartbeatReply,
    RequestVote,
    RequestVoteReply,
)
from quorumd.core import Core
from quorumd.sim.machine import Machine
from quorumd.sim.observer import Life, Observer, Seen, holds
from quorumd.types import NodeId


class RaftObserver(Observer[RaftInvariants]):
    """See observer.py."""

    def changed(self, machine: Machine, core: Core, engine: Engine, life: Life, before: Seen) -> None:
        """See Observer.changed."""
        node, seen, rules = machine.node, life.seen, self.invariants
        led = before.role is Role.LEADER and seen.role is Role.LEADER and before.term == seen.term
        if (seen.last, seen.last_term) != (before.last, before.last_term):
            self._log_changed(node, core, engine, life, led)
        if seen.role is Role.LEADER and not led:
            rules.leads(node, seen.term, engine.term_at)
            self.reached["elections"] += 1
        if seen.commit != before.commit:
            if led:
                own = holds(machine, core, seen.commit)
                rules.leader_commits(node, seen.term, seen.commit, engine.term_at(seen.commit), own)
            rules.commits(node, seen.commit, engine.term_at)

    def _log_changed(self, node: NodeId, core: Core, engine: Engine, life: Life, led: bool) -> None:
        """Finds what is new in the log, from its end back to what was there before."""
        terms, last = life.terms, engine.last
        same = min(len(terms) - 1, last)
        while same and terms[same] != engine.term_at(same):
            same -= 1
        if same < len(terms) - 1:
            self.invariants.shortened(node, same, led)
            self.reached["truncations"] += 1
            self.reached["superseded entries"] += min(last, len(terms) - 1) - same
            del terms[same + 1 :]
        checksums = self.checksums(core, same + 1, last)
        entries: list[Entry] = []
        for index in range(same + 1, last + 1):
            term = engine.term_at(index) or 0
            entries.append(Entry(term, terms[-1], checksums.get(index)))
            terms.append(term)
        self.invariants.appended(node, same + 1, entries)

    def heard(self, machine: Machine, core: Core, message: Any, durable: HardState) -> None:
        """See Observer.heard."""
        rules, node = self.invariants, machine.node
        match message:
            case AppendEntriesReply():
                rules.speaks(node, message.term, durable.term)
                self._acknowledges(machine, core, message)
            case RequestVoteReply(granted=True, pre=False):
                rules.votes(node, message.term, message.to, durable)
                rules.speaks(node, message.term, durable.term)
            case RequestVote(pre=False):
                rules.votes(node, message.term, node, durable)
                rules.speaks(node, message.term, durable.term)
            case AppendEntries() | HeartbeatReply():
                rules.speaks(node, message.term, durable.term)

    def _acknowledges(self, machine: Machine, core: Core, message: AppendEntriesReply) -> None:
        engine = core.engine
        if message.rejected or engine is None:
            return
        # Of a former term it says what was in the log then, which may be cut by now.
        durable = message.term != engine.term or (message.match <= engine.last and holds(machine, core, message.match))
        self.reached["acknowledgements"] += 1
        self.invariants.acknowledges(machine.node, message.term, message.match, durable)
