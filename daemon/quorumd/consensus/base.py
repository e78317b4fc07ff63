"""What the state of every engine has in common: identity, time, the role, and the Ready under construction.

The engines differ in what they decide; they do not differ in what a Ready is, in when a message has to wait for the
disk, or in how a timeout is drawn. That part stands here once. Imports leaf modules only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from quorumd.consensus.engine import Append, Event, HardState, LogSizes, Random, ReadIndex, ReadState, Ready, Role
from quorumd.invariants import InvariantBroken, invariant
from quorumd.types import NOBODY, Index, Nanoseconds, NodeId, Term

NEVER: Nanoseconds = 1 << 62
"""A deadline that does not come."""
FAULT_EVERY: Nanoseconds = 1_000_000_000
"""A peer that talks nonsense can do so at line rate: the operator reads of it once in this time."""

Handler: TypeAlias = Callable[[Any, Any], None]
Table: TypeAlias = Mapping[Role, Mapping[type, Handler]]

_NOTHING: tuple[Any, ...] = ()


class EngineState:
    """Fields and mutators of the state that do not depend on the protocol."""

    __slots__ = (
        "after",
        "appends",
        "commit",
        "confirmed",
        "deliver",
        "durable_seq",
        "election_deadline",
        "events",
        "fault_told_at",
        "handed",
        "handlers",
        "hard_dirty",
        "hard_seq",
        "latest",
        "leader",
        "members",
        "messages",
        "next_seq",
        "node",
        "now",
        "others",
        "random",
        "read_index",
        "read_round",
        "reads",
        "reads_failed",
        "reads_inflight",
        "reads_waiting",
        "role",
        "round",
        "sizes",
        "spared",
        "table",
        "term",
        "timeout_ns",
        "transfer_deadline",
        "transfer_sent",
        "transfer_to",
        "vote",
    )

    def __init__(
        self,
        node: NodeId,
        members: Sequence[NodeId],
        hard_state: HardState,
        sizes: LogSizes,
        random: Random,
        table: Table,
        now: Nanoseconds,
    ) -> None:
        self.node = node
        self.members = tuple(members)
        self.others = tuple(m for m in members if m != node)
        self.sizes = sizes
        self.random = random
        self.table = table
        self.deliver: Callable[[object], None] = lambda _message: None  # the engine's step, for messages judged again

        # -- durable ------------------------------------------------------------------------------------------
        self.term: Term = hard_state.term  # never falls
        self.vote: NodeId = hard_state.vote
        self.hard_dirty = False  # term or vote changed since the last Ready
        self.hard_seq = 0  # the Ready that carried the last hard state

        # -- of every role ------------------------------------------------------------------------------------
        self.role: Role = Role.FOLLOWER
        self.handlers: Mapping[type, Handler] = table[Role.FOLLOWER]  # the row for `role`
        self.leader: NodeId = NOBODY
        self.commit: Index = 0  # never falls; handed <= commit
        self.handed: Index = 0  # highest index handed out in Ready.committed
        self.now: Nanoseconds = now  # never falls
        self.latest: Nanoseconds = now  # of the last tick; >= now, never falls
        self.timeout_ns: Nanoseconds = 0  # this node's last draw
        self.election_deadline: Nanoseconds = NEVER
        self.spared = False  # a stall put off the timer that runs: the next one does not do so again
        self.fault_told_at: Nanoseconds | None = None  # when the operator was last told of a peer's nonsense

        # -- of leaders: reads that wait for a round, and a transfer under way ----------------------------------
        self.round = 0  # last heartbeat round begun in this term
        self.confirmed = False  # some peer answered a newer round since the last Ready
        self.reads_waiting: list[int] = []
        self.read_round = 0  # the round in flight that covers `reads_inflight`; 0: none
        self.read_index: Index = 0  # commit when that round began
        self.reads_inflight: list[int] = []
        self.transfer_to: NodeId = NOBODY
        self.transfer_deadline: Nanoseconds = NEVER
        self.transfer_sent = False  # TimeoutNow left since the last heartbeat

        # -- of the coming Ready ------------------------------------------------------------------------------
        self.next_seq = 1
        self.durable_seq = 0  # < next_seq
        self.appends: list[Append] = []
        self.messages: list[object] = []
        self.after: list[object] = []
        self.reads: list[ReadState] = []
        self.reads_failed: list[int] = []
        self.events: list[Event] = []

    # -- mutators -----------------------------------------------------------------------------------------------

    def speak(self, message: object) -> None:
        """Sends at once, or after the sync if the term in it is not on disk yet."""
        if self.hard_dirty or self.hard_seq > self.durable_seq:
            self.after.append(message)
        else:
            self.messages.append(message)

    def event(self, what: str, **detail: int) -> None:
        """Tells the operator."""
        self.events.append(Event(what, {"term": self.term, **detail}))

    def peer_fault(self, what: str, sender: NodeId) -> None:
        """A peer said what no correct peer says, or somebody in its name; the caller drops it."""
        if self.fault_told_at is None or self.now - self.fault_told_at >= FAULT_EVERY:
            self.fault_told_at = self.now
            self.event(what, sender=sender)

    def set_role(self, role: Role) -> None:
        """The only place that changes the role, and with it which functions take the messages."""
        self.role = role
        self.handlers = self.table[role]
        self.spared = False

    def move_clock(self, now: Nanoseconds, latest: Nanoseconds = 0) -> None:
        """The only place that moves time (see Tick)."""
        self.now = max(self.now, now)
        self.latest = max(self.latest, self.now, latest)

    def release(self, read_ids: Sequence[int]) -> None:
        """These reads may be answered."""
        for read_id in read_ids:
            self.reads.append(ReadState(read_id, self.read_index))

    def end_leading(self) -> None:
        """Fails the reads that only a leader can answer, and ends a transfer."""
        self.reads_failed += self.reads_inflight
        self.reads_failed += self.reads_waiting
        self.reads_inflight = []
        self.reads_waiting = []
        self.read_round = 0
        self.confirmed = False
        self.transfer_to = NOBODY
        self.transfer_deadline = NEVER

    def note_durable(self, seq: int) -> None:
        """Everything up to Ready `seq` is on disk; a repeated or older answer changes nothing."""
        invariant(seq < self.next_seq, "only a Ready that was handed out can become durable")
        self.durable_seq = max(self.durable_seq, seq)

    # -- the Ready ----------------------------------------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        """Whether there is anything to hand out."""
        return bool(
            self.messages
            or self.after
            or self.appends
            or self.commit > self.handed
            or self.hard_dirty
            or self.reads
            or self.events
            or self.reads_failed
        )

    def hand_out(self) -> Ready:
        """Everything collected since the last Ready, once."""
        seq = self.next_seq
        self.next_seq = seq + 1
        hard_state = None
        if self.hard_dirty:
            hard_state = HardState(self.term, self.vote)
            self.hard_dirty = False
            self.hard_seq = seq
        appends: Sequence[Any] = _NOTHING
        if self.appends:
            appends, self.appends = self.appends, []
        messages: Sequence[Any] = _NOTHING
        if self.messages:
            messages, self.messages = self.messages, []
        after: Sequence[Any] = _NOTHING
        if self.after:
            after, self.after = self.after, []
        committed = None
        if self.commit > self.handed:
            committed = (self.handed + 1, self.commit)
            self.handed = self.commit
        reads: Sequence[Any] = _NOTHING
        failed: Sequence[Any] = _NOTHING
        events: Sequence[Any] = _NOTHING
        if self.reads or self.reads_failed:
            reads, self.reads = self.reads, []
            failed, self.reads_failed = self.reads_failed, []
        if self.events:
            events, self.events = self.events, []
        return Ready(seq, hard_state, appends, messages, after, committed, reads, failed, events)


# -- inputs that are taken alike ----------------------------------------------------------------------------------


def void(_s: EngineState, _m: object) -> None:
    """A late answer: the question is no longer open."""


def forbidden(s: EngineState, m: object) -> None:
    """The core must not do this."""
    raise InvariantBroken(f"{type(m).__name__} given to a {s.role.name.lower()}")


def on_read_index(s: EngineState, m: ReadIndex) -> None:
    """Queues a read; the engine's flush at the end of the turn puts it on a round, or answers it."""
    s.reads_waiting.append(m.read_id)


def on_read_index_elsewhere(s: EngineState, m: ReadIndex) -> None:
    """Not the leader: the client must ask elsewhere."""
    s.reads_failed.append(m.read_id)
