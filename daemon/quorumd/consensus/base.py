"""What the state of every engine has in common: identity, time, the role, and the Ready under construction.

The engines differ in what they decide; they do not differ in what a Ready is, in when a message has to wait for the
disk, or in how a timeout is drawn. That part stands here once. Imports leaf modules only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from quorumd.consensus.engine import Append, Event, HardState, LogSizes, Random, ReadState, Ready, Role
from quorumd.invariants import invariant
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
        "deliver",
        "durable_seq",
        "election_deadline",
        "events",
        "fault_told_at",
        "handed",
        "handlers",
        "hard_dirty",
        "hard_seq",
        "leader",
        "members",
        "messages",
        "next_seq",
        "node",
        "now",
        "others",
        "random",
        "reads",
        "reads_failed",
        "role",
        "sizes",
        "table",
        "term",
        "timeout_ns",
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
        self.timeout_ns: Nanoseconds = 0  # this node's last draw
        self.election_deadline: Nanoseconds = NEVER
        self.fault_told_at: Nanoseconds | None = None  # when the operator was last told of a peer's nonsense

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
