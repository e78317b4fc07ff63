"""Looks at every node after each of its turns, and listens to what it says, on behalf of checker.invariants.

It reads what the node shows anyway (engine, log, store) and stands between the node and its outbox; it changes
nothing. Most turns change nothing either, so the first comparison is what has to be cheap.
"""

import zlib
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from quorumd.checker.invariants import Entry, Invariants, Violation
from quorumd.consensus.engine import Append, HardState, Role
from quorumd.consensus.messages import (
    AppendEntries,
    AppendEntriesReply,
    HeartbeatReply,
    PeerMessage,
    RequestVote,
    RequestVoteReply,
)
from quorumd.core import Core
from quorumd.log import entry_length
from quorumd.sim.machine import Machine
from quorumd.storage import Storage
from quorumd.types import Index, Nanoseconds, NodeId, Term

Seen = tuple[Term, Role, Index, Term | None, Index, Index]
NOTHING_SEEN: Seen = (0, Role.FOLLOWER, 0, 0, 0, 0)


class _Life:
    """What was last seen of one node."""

    def __init__(self) -> None:
        self.core: Core | None = None
        self.seen = NOTHING_SEEN
        self.terms: list[Term] = [0]  # of entry i
        self.durable = HardState(0, 0)  # on the platter
        self.written: deque[tuple[int, HardState]] = deque()  # (ticket of the disk, what is durable with it)


class Observer:
    """See the module's docstring. `reached` counts what runs have reached, by coverage.py's words."""

    def __init__(self, invariants: Invariants) -> None:
        self.invariants = invariants
        self.reached: Counter[str] = Counter()
        self.damaged: set[NodeId] = set()  # their storage was damaged where it must be noticed, or taken away
        self._lives: dict[NodeId, _Life] = {}
        self._executed: set[tuple[bytes, int]] = set()
        self._counted: Index = 0  # entries whose commands were looked at

    def watch(self, machine: Machine) -> None:
        """From now on, through all lives of its node."""
        self._lives[machine.node] = _Life()
        machine.after_turn = self._after_turn
        machine.on_event = self._on_event
        machine.on_stop = self.add_up

    # -- what it does -------------------------------------------------------------------------------------------

    def _after_turn(self, machine: Machine) -> None:
        core = machine.core
        if core is None:
            return
        life = self._lives[machine.node]
        engine = core.engine
        if core is not life.core or engine is None:
            self._look_at_start(machine, core, life)
            if engine is None:
                return
        last = engine.last
        commit, applied = core.applier.commit, core.applier.applied
        seen = (engine.term, engine.role, last, engine.term_at(last), commit, applied)
        if seen == life.seen:
            return
        before, life.seen = life.seen, seen
        node = machine.node
        led = before[1] is Role.LEADER and engine.role is Role.LEADER and before[0] == engine.term
        if seen[2:4] != before[2:4]:
            self._log_changed(node, core, life, led)
        if engine.role is Role.LEADER and not led:
            self.invariants.leads(node, engine.term, engine.term_at)
            self.reached["elections"] += 1
        if commit != before[4]:
            if led:
                own = holds(machine, core, commit)
                self.invariants.leader_commits(node, engine.term, commit, engine.term_at(commit), own)
            self.invariants.commits(node, commit, engine.term_at)
        if applied != before[5]:
            self.invariants.applied(node, applied, core.store.digest)
            self._count_commands(core, applied)

    def _look_at_start(self, machine: Machine, core: Core, life: _Life) -> None:
        """A new process, or one that has no log yet: does it take part, and may it?"""
        node = machine.node
        takes_part = core.engine is not None and not core.out_of_quorum
        if takes_part and node in self.damaged:
            raise Violation("damage-accepted", f"node {node} takes part with a damaged or missing log")
        if core.out_of_quorum and node not in self.damaged:
            raise Violation("false-alarm", f"node {node} stays out of the quorum: {core.out_of_quorum}")
        if core.engine is None or core is life.core:
            return
        life.core, life.seen, life.terms = core, NOTHING_SEEN, [0]
        if core.storage is not None:
            life.durable = core.storage.hard_state
            life.written.clear()
            self.invariants.started(node, *life.durable)
            self._read_along(machine, core.storage, life)
        self._listen(machine, core, life)
        self.reached["lives"] += 1

    def _log_changed(self, node: NodeId, core: Core, life: _Life, led: bool) -> None:
        """Finds what is new in the log, from its end back to what was there before."""
        engine = core.engine
        if engine is None:
            return
        terms, last = life.terms, engine.last
        same = min(len(terms) - 1, last)
        while same and terms[same] != engine.term_at(same):
            same -= 1
        if same < len(terms) - 1:
            self.invariants.shortened(node, same, led)
            self.reached["truncations"] += 1
            self.reached["superseded entries"] += min(last, len(terms) - 1) - same
            del terms[same + 1 :]
        checksums = self._checksums(core, same + 1, last)
        entries: list[Entry] = []
        for index in range(same + 1, last + 1):
            term = engine.term_at(index) or 0
            entries.append(Entry(term, terms[-1], checksums.get(index)))
            terms.append(term)
        self.invariants.appended(node, same + 1, entries)

    @staticmethod
    def _checksums(core: Core, first: Index, last: Index) -> dict[Index, int]:
        """Of the entries that the ring holds."""
        first = max(first, core.log.ring.first)
        found: dict[Index, int] = {}
        if first <= last:
            data, at = core.log.ring.copy(first, last), 0
            for index in range(first, last + 1):
                length = entry_length(data, at)
                found[index] = zlib.crc32(data[at : at + length])
                at += length
        return found

    def _count_commands(self, core: Core, applied: Index) -> None:
        """How many commands came through the log twice: retries that the sessions had to notice."""
        first = max(self._counted + 1, core.log.ring.first)
        if first > applied:
            return
        data, at = core.log.ring.copy(first, applied), 0
        for _ in range(first, applied + 1):
            length = entry_length(data, at)
            if data[at + 4] == 1:
                command = data[at + 8 : at + 24], int.from_bytes(data[at + 24 : at + 32], "little")
                self.reached["deduplicated retries"] += command in self._executed
                self._executed.add(command)
            elif data[at + 4] == 4:
                self.reached["expired sessions"] += 1
            at += length
        self._counted = applied

    # -- what it says -------------------------------------------------------------------------------------------

    @staticmethod
    def _read_along(machine: Machine, storage: Storage, life: _Life) -> None:
        write = storage.write

        def read(seq: int, hard_state: HardState | None, appends: Sequence[Append], commit: Index) -> None:
            write(seq, hard_state, appends, commit)
            if hard_state is not None:
                life.written.append((machine.disk.newest, hard_state))

        vars(storage)["write"] = read

    def _listen(self, machine: Machine, core: Core, life: _Life) -> None:
        send = core.transport.send
        invariants, node = self.invariants, machine.node

        def hear(message: PeerMessage, now: Nanoseconds) -> None:
            while life.written and life.written[0][0] <= machine.disk.synced:
                life.durable = life.written.popleft()[1]
            match message:
                case AppendEntriesReply():
                    invariants.speaks(node, message.term, life.durable.term)
                    self._acknowledges(machine, core, message)
                case RequestVoteReply(granted=True, pre=False):
                    invariants.votes(node, message.term, message.to, life.durable)
                    invariants.speaks(node, message.term, life.durable.term)
                case RequestVote(pre=False):
                    invariants.votes(node, message.term, node, life.durable)
                    invariants.speaks(node, message.term, life.durable.term)
                case AppendEntries() | HeartbeatReply():
                    invariants.speaks(node, message.term, life.durable.term)
            send(message, now)

        # An instance's own attribute: the class, which others use, stays as it is.
        vars(core.transport)["send"] = hear

    def _acknowledges(self, machine: Machine, core: Core, message: AppendEntriesReply) -> None:
        engine = core.engine
        if message.rejected or engine is None:
            return
        current = message.term == engine.term and message.match <= engine.last
        durable = not current or holds(machine, core, message.match)
        self.reached["acknowledgements"] += 1
        self.invariants.acknowledges(machine.node, message.term, message.match, durable)

    def _on_event(self, node: NodeId, what: str, detail: dict[str, Any]) -> None:
        word = EVENT_WORDS.get(what)
        if word is not None:
            self.reached[word] += 1

    def add_up(self, core: Core) -> None:
        """What a node counted in this life; once, at its end."""
        for reason, count in core.transport.counters.as_dict().items():
            if count:
                self.reached[f"dropped: {reason}"] += count
        self.reached["messages reassembled"] += core.transport.reassembler.completed
        self.reached["requests reassembled"] += core.clients.reassembler.completed


EVENT_WORDS = {
    "torn_tail_cut": "cut tails",
    "out_of_quorum": "refused damage",
    "transfer-received": "transfers",
    "quorum-lost": "quorums lost",
    "stalled": "stalls noticed",
    "disk_stalled": "hung disks noticed",
}


def holds(machine: Machine, core: Core, index: Index) -> bool:
    """Whether the record with entry `index` is on the platter."""
    if not index or core.storage is None:
        return True
    records = core.log.records
    place = records.place_of(index)
    if place < 0:
        return False
    record = records.at(place)
    if index >= record.first + record.entries:
        return False  # a hole, or not written yet
    number, offset = divmod(record.position, core.storage.segment_bytes)
    return machine.disk.holds(number, offset, record.length)


