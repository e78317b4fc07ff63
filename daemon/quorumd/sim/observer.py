"""Looks at every node after each of its turns, and listens to what it says, on behalf of checker.invariants.

It reads what the node shows anyway (engine, log, store) and stands between the node and its outbox; it changes
nothing. Most turns change nothing either, so the first comparison is what has to be cheap. What differs between the
engines is in raft_observer.py and paxos_observer.py.
"""

import zlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from quorumd.checker.invariants import Invariants, Violation
from quorumd.consensus.engine import Append, Engine, HardState, Role
from quorumd.core import Core
from quorumd.errors import NoRoom
from quorumd.log import entry_length
from quorumd.sim.machine import Machine
from quorumd.storage import Storage
from quorumd.types import Index, Nanoseconds, NodeId, SessionId, Term
from quorumd_fastpath.apply import Store

Rules = TypeVar("Rules", bound=Invariants)


class Seen(NamedTuple):
    """What a node shows after a turn."""

    term: Term
    role: Role
    last: Index
    last_term: Term | None
    commit: Index
    applied: Index


NOTHING_SEEN = Seen(0, Role.FOLLOWER, 0, 0, 0, 0)


class Life:
    """What was last seen of one node."""

    def __init__(self) -> None:
        self.core: Core | None = None
        self.seen = NOTHING_SEEN
        self.terms: list[Term] = [0]  # of entry i
        self.durable = HardState(0, 0)  # on the platter
        self.written: deque[tuple[int, HardState]] = deque()  # (ticket of the disk, what is durable with it)


class Observer(Generic[Rules]):
    """See the module's docstring. `reached` counts what runs have reached, by coverage.py's words.

    applied: is shown the store of a node that has applied something. session_ended: is told of a session that expired.
    """

    def __init__(self, invariants: Rules) -> None:
        self.invariants = invariants
        self.reached: Counter[str] = Counter()
        self.damaged: set[NodeId] = set()  # their storage was damaged where it must be noticed, or taken away
        self.applied: Callable[[Store], None] = lambda store: None
        self.session_ended: Callable[[SessionId], None] = lambda session: None
        self._lives: dict[NodeId, Life] = {}
        self._executed: set[tuple[bytes, int]] = set()
        self._counted: Index = 0  # entries whose commands were looked at

    def watch(self, machine: Machine) -> None:
        """From now on, through all lives of its node."""
        self._lives[machine.node] = Life()
        machine.after_turn = self._after_turn
        machine.on_event = self._on_event
        machine.on_stop = self.add_up
        machine.on_failure = self._failed

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
        last, applier = engine.last, core.applier
        shown = engine.term, engine.role, last, engine.term_at(last), applier.commit, applier.applied
        if shown == life.seen:
            return
        before, seen = life.seen, Seen._make(shown)
        life.seen = seen
        self.changed(machine, core, engine, life, before)
        self.reached["turns with messages parked"] += core.parked
        if seen.applied != before.applied:
            self.invariants.applied(machine.node, seen.applied, core.store.digest)
            self._count_commands(core, seen.applied)
            self.reached["watchers behind"] += core.clients.watches.hub.lagging
            self.applied(core.store)

    def _failed(self, machine: Machine, error: Exception) -> None:
        """A node ends by itself: its disk must be the reason, as in production nobody starts it again."""
        disk = machine.disk
        if isinstance(error, NoRoom):
            self.reached["stops for room"] += 1
        full = isinstance(error, NoRoom) and disk.refused_room
        if not full and not disk.failed and machine.node not in self.damaged:
            raise Violation("stopped-itself", f"node {machine.node}: {type(error).__name__}: {error}")

    def started(self, machine: Machine, core: Core, engine: Engine) -> None:
        """A new life takes part with what its disk gave back."""

    def changed(self, machine: Machine, core: Core, engine: Engine, life: Life, before: Seen) -> None:
        """The node shows something new, `life.seen`."""
        raise NotImplementedError

    def heard(self, machine: Machine, core: Core, message: Any, durable: HardState) -> None:
        """The node says something, while its disk has `durable`."""
        raise NotImplementedError

    def written(self, node: NodeId, core: Core, appends: Sequence[Append]) -> None:
        """The node hands entries to its disk."""

    def _look_at_start(self, machine: Machine, core: Core, life: Life) -> None:
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
            self._read_along(machine, core, core.storage, life)
            self.started(machine, core, core.engine)
        self._listen(machine, core, life)
        self.reached["lives"] += 1

    @staticmethod
    def checksums(core: Core, first: Index, last: Index) -> dict[Index, int]:
        """Of the entries that are in memory."""
        first = max(first, core.log.ring.first)
        found: dict[Index, int] = {}
        data = core.log.held(first, last) if first <= last else None
        if data is not None:
            at = 0
            for index in range(first, last + 1):
                length = entry_length(data, at)
                found[index] = zlib.crc32(data[at : at + length])
                at += length
        return found

    def _count_commands(self, core: Core, applied: Index) -> None:
        """How many commands came through the log twice: retries that the sessions had to notice."""
        first = max(self._counted + 1, core.log.ring.first)
        data, at = core.log.held(first, applied) if first <= applied else None, 0
        if data is None:
            return
        for _ in range(first, applied + 1):
            length = entry_length(data, at)
            if data[at + 4] == 1:
                command = data[at + 8 : at + 24], int.from_bytes(data[at + 24 : at + 32], "little")
                self.reached["deduplicated retries"] += command in self._executed
                self._executed.add(command)
            elif data[at + 4] == 4:
                self._expires(core, bytes(data[at + 8 : at + 24]))
            at += length
        self._counted = applied

    def _expires(self, core: Core, session: SessionId) -> None:
        """An expiry was applied. It is void if its session was seen meanwhile."""
        if core.store.session(session) is None:
            self.reached["expired sessions"] += 1
            self.session_ended(session)

    # -- what it says -------------------------------------------------------------------------------------------

    def _read_along(self, machine: Machine, core: Core, storage: Storage, life: Life) -> None:
        write = storage.write

        def read(seq: int, hard_state: HardState | None, appends: Sequence[Append], commit: Index) -> None:
            write(seq, hard_state, appends, commit)
            if hard_state is not None:
                life.written.append((machine.disk.newest, hard_state))
            if appends:
                self.written(machine.node, core, appends)

        vars(storage)["write"] = read

    def _listen(self, machine: Machine, core: Core, life: Life) -> None:
        send = core.transport.send

        def hear(message: Any, now: Nanoseconds) -> None:
            while life.written and life.written[0][0] <= machine.disk.synced:
                life.durable = life.written.popleft()[1]
            self.heard(machine, core, message, life.durable)
            send(message, now)

        # An instance's own attribute: the class, which others use, stays as it is.
        vars(core.transport)["send"] = hear

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
