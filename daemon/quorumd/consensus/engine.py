"""The contract between a consensus engine and the node around it.

An engine is a deterministic object: same state and same inputs give the same outputs. It reads no clock, no
randomness, no disk and no socket; everything that happens to it is an input message, the tick included. What it
wants done comes out as one numbered `Ready`, whose fields say in which order to act:

    for message in arrived: engine.step(message)
    ready = engine.ready()            # None: nothing to do
      1. hard_state                   queue to the WAL under ready.seq
      2. append (truncations inside)  copy the bytes into the log, queue to the WAL under ready.seq
      3. messages                     send now; they assert nothing about this node's disk
      4. messages_after_durable       park; send once Durable(seq) with seq >= ready.seq arrived
      5. committed                    apply (first, last) to the state machine
      6. reads                        answer these read ids once `read_index` is applied
      7. events                       tell logs and metrics

Nothing blocks: 1 and 2 are queued, 4 waits, the rest goes on. `Durable(seq)` says that the hard state, truncations
and appends of *every* Ready up to seq are on disk; one that brought none of these, and no messages that wait for them,
need not be told of on its own. It counts Readys and not log indexes, because an index could
neither say "the vote is on disk" nor tell a range from the one that overwrote it while its sync was under way.

Imports leaf modules only.
"""

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from quorumd.types import Index, Nanoseconds, NodeId, Term


class Role(enum.IntEnum):
    """The role a node plays; its name in lower case is what `quorumd status` prints (pre-candidate: candidate)."""

    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


# -- inputs that do not come from a peer ------------------------------------------------------------------------


class Tick(NamedTuple):
    """Time has come to `now`; never goes back. Given at every loop turn after the peer socket was drained.

    Two readings of the clock, as a process may be stopped between any two lines. `now` was read before the sockets: no
    timer runs out over a message that came since. `latest` was read after them, so that everything stepped was sent
    before it: what a sender is promised for a time, not to vote and not to run, lasts from then on, and what this node
    was promised is judged by it. 0: `now`.
    """

    now: Nanoseconds
    latest: Nanoseconds = 0


class Propose(NamedTuple):
    """`entries` new entries of `size_bytes` together wait in the staging area for indexes. Leaders only."""

    entries: int
    size_bytes: int


class ReadIndex(NamedTuple):
    """Ask for a linearizable read point; `read_id` comes back in Ready.reads or Ready.reads_failed."""

    read_id: int


class Durable(NamedTuple):
    """Everything of every Ready up to and including `seq` is on this node's disk."""

    seq: int


class TransferLeadership(NamedTuple):
    """Hand leadership to `to`, or with 0 to the most up-to-date follower but those of `avoid`."""

    to: NodeId
    avoid: frozenset[NodeId] = frozenset()


class Stalled(NamedTuple):
    """This process did not run for a while (SIGSTOP, swap): what it knows of time is stale, start waits afresh."""

    now: Nanoseconds


# -- output -----------------------------------------------------------------------------------------------------


class HardState(NamedTuple):
    """What must be on disk before this node speaks of it: the term (ballot) and the vote (promise) in it."""

    term: Term
    vote: NodeId


class Append(NamedTuple):
    """Entries first..last, all of `term`, go into the log.

    From Raft whatever was at `first` and after is superseded. From Multi-Paxos the item overlays exactly first..last:
    what lies behind stays, and there may be a hole before it. Items of one Ready may overlap: later ones win.

    `source` is the handle the entries came with: None for staged proposals (always behind everything else), NOOP for
    empty entries, one for each index, KEPT for the bytes that are there already, otherwise the `source` of the message
    that carried them; `skip` leading entries of that source are left out, and so is what it has beyond `last`.
    """

    first: Index
    last: Index
    term: Term
    source: object
    skip: int = 0


NOOP: object = type("Noop", (), {"__repr__": lambda self: "NOOP"})()
"""Source of the entry a new leader appends to commit what its predecessors left (thesis 3.6.2, 6.4), and of those with
which a Paxos leader closes holes ("Paxos Made Simple", section 3). The last one of a Ready is the leadership's own."""

KEPT: object = type("Kept", (), {"__repr__": lambda self: "KEPT"})()
"""Source of slots whose values this node's log holds already: only the ballot is new (Paxos)."""


class ReadState(NamedTuple):
    """The read may be answered from any state that has applied `read_index`."""

    read_id: int
    read_index: Index


class Event(NamedTuple):
    """Something an operator wants to read in the log: `what` is a stable word, `detail` its figures."""

    what: str
    detail: dict[str, int]


class Ready(NamedTuple):
    """One batch of work; the module's docstring says in which order."""

    seq: int
    hard_state: HardState | None
    append: Sequence[Append]
    messages: Sequence[Any]
    messages_after_durable: Sequence[Any]
    committed: tuple[Index, Index] | None
    reads: Sequence[ReadState]
    reads_failed: Sequence[int]
    events: Sequence[Event]

    @property
    def touches_disk(self) -> bool:
        """Whether this Ready has anything that must become durable."""
        return self.hard_state is not None or bool(self.append)


class LogSizes(Protocol):
    """What an engine may ask of the bytes it never sees: how much of a range fits a budget."""

    def fit(self, first: Index, last: Index, max_bytes: int) -> tuple[Index, int]:
        """(upto, size_bytes): the longest prefix first..upto of first..last within `max_bytes`, at least one entry.

        Entries not yet in the ring (proposed this very turn) are estimated.
        """
        ...


@runtime_checkable
class Retainable(Protocol):
    """An AppendEntries `source` whose bytes are only borrowed until the turn ends (a slab slot).

    An engine that keeps the message for longer calls `retain` and uses what it returns as the source instead. A
    source without these is taken to own its bytes.
    """

    @property
    def size_bytes(self) -> int:
        """What retaining it would cost."""
        ...

    def retain(self) -> object:
        """A handle that owns its bytes, good for Append.source like the original."""
        ...


class Held(NamedTuple):
    """What waits in the engine for its predecessors: it will be appended without another question."""

    size_bytes: int
    entries: int


class Random(Protocol):
    """The seeded generator an engine draws its timeouts from."""

    def uniform(self, a: float, b: float) -> float: ...


class Engine(Protocol):
    """What `core.py` needs of Raft and of Multi-Paxos alike."""

    @property
    def role(self) -> Role: ...
    @property
    def term(self) -> Term: ...
    @property
    def leader(self) -> NodeId:
        """The leader this node believes in; 0 for none."""
        ...
    @property
    def commit(self) -> Index: ...
    @property
    def first(self) -> Index: ...
    @property
    def last(self) -> Index: ...
    @property
    def held(self) -> Held:
        """Messages kept until their predecessors come; they are appended then, in any Ready."""
        ...
    @property
    def hears_at(self) -> Nanoseconds:
        """When what peers say must be stepped at the latest, before the Tick of that time; 0: as soon as it arrives.

        Later than 0 only while this node leads with nothing under way.
        """
        ...
    @property
    def accepts_proposals(self) -> bool:
        """Whether Propose would be taken now (leader, no transfer under way, and nothing to be learned before)."""
        ...

    def step(self, message: object) -> None:
        """Takes one input. A peer's nonsense is ignored; only our own bugs raise (InvariantBroken)."""
        ...

    def ready(self) -> Ready | None:
        """The work that the inputs so far ask for, or None. Each piece is handed out exactly once."""
        ...

    def deadline(self) -> Nanoseconds:
        """When the next Tick is due at the latest."""
        ...

    def term_at(self, index: Index) -> Term | None:
        """Term of the entry at `index`; 0 for index 0; None if the log does not hold it."""
        ...
