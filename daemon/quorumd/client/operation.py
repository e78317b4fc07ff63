"""One operation on its way: what was sent to whom, what was answered, and what may therefore be said of it.

The rule that exactly-once rests on. A refusal (NOT_LEADER, OVERLOADED, ...) proves that one transmission did nothing,
and never will: a node takes a numbered datagram once, in one of its lives, whatever copies of it arrive (channel.py).
Replies do not name their transmission, and are duplicated and delayed as well: a refusal is therefore matched only to
the first transmission to that node, made while no other was unanswered. The outcome is definite if the operation was
never sent, or if every transmission was matched so; in all other cases it may have happened.
"""

from enum import Enum
from typing import Any, Final, Protocol

from quorumd.commands import Op, Result, Status, decode
from quorumd.errors import (
    Compacted,
    ConnectionLost,
    DiskFull,
    FutureRevision,
    KeyNotFound,
    LeaseExists,
    LeaseNotFound,
    NoSpace,
    NotLeader,
    Overloaded,
    QuorumdError,
    Rejected,
    ReplyEvicted,
    SessionExpired,
    Stopped,
    Timeout,
    TooLarge,
)
from quorumd.types import Nanoseconds

REFUSALS: Final[dict[Status, type[QuorumdError]]] = {
    Status.NOT_LEADER: NotLeader,
    Status.OVERLOADED: Overloaded,
    Status.DISK_FULL: DiskFull,
    Status.STOPPED: Stopped,
    Status.WINDOW_FULL: Overloaded,
    Status.TOO_MANY_SESSIONS: Overloaded,
}
"""This transmission did nothing; another one may succeed."""

VERDICTS: Final[dict[Status, type[QuorumdError]]] = {
    Status.REJECTED: Rejected,
    Status.TOO_LARGE: TooLarge,
    Status.NO_SPACE: NoSpace,
    Status.COMPACTED: Compacted,
    Status.FUTURE_REVISION: FutureRevision,
    Status.KEY_NOT_FOUND: KeyNotFound,
    Status.LEASE_NOT_FOUND: LeaseNotFound,
    Status.LEASE_EXISTS: LeaseExists,
    Status.SESSION_EXPIRED: SessionExpired,
    Status.REPLY_EVICTED: ReplyEvicted,
    Status.ANSWERED: ConnectionLost,
}
"""The end of the operation, whatever else was sent. Together with REFUSALS and OK: every status."""

_WORDS: Final = {
    Status.OVERLOADED: "the node's queues are full",
    Status.DISK_FULL: "a quorum of nodes has no disk space for new writes",
    Status.STOPPED: "the node does not serve",
    Status.WINDOW_FULL: "too many unanswered operations in the session, or in all of them",
    Status.TOO_MANY_SESSIONS: "the cluster has as many sessions as it allows",
    Status.REJECTED: "the node rejected the operation",
    Status.TOO_LARGE: "key, value or request is too large",
    Status.NO_SPACE: "the store's byte quota is used up; deletes still work",
    Status.COMPACTED: "that revision is no longer held",
    Status.FUTURE_REVISION: "that revision does not exist yet",
    Status.KEY_NOT_FOUND: "there is no such key, whose value or lease could stay",
    Status.LEASE_NOT_FOUND: "there is no such lease",
    Status.LEASE_EXISTS: "the lease exists",
    Status.SESSION_EXPIRED: "the session ended on the cluster; what was pending in it may have happened",
    Status.REPLY_EVICTED: "executed once, but its reply is no longer held",
    Status.ANSWERED: "the cluster takes the operation for answered already; this client cannot tell what it did",
}


def again(error: QuorumdError) -> QuorumdError:
    """The same error as an object of its own: raising one object in two places mixes up their tracebacks."""
    return type(error)(*error.args)


def error_of(status: Status, body: bytes) -> QuorumdError:
    """The error that a reply of this status stands for. `body` is the node's reason, UTF-8, or empty."""
    kind = REFUSALS.get(status) or VERDICTS[status]
    if status is Status.NOT_LEADER:
        return kind("the node asked does not lead")
    return kind(body.decode(errors="replace") or _WORDS[status])


class Plane(Enum):
    """How an operation travels."""

    WRITE = "write"  # in a session, to the leader, logged
    READ = "read"  # to the leader, repeated freely; keep-alives and opening a session travel likewise
    STALE = "stale"  # to any node, repeated freely
    CONTROL = "control"  # a frame of its own: status, admin


class Window(Protocol):
    """What is told when a write has its outcome; session.Session."""

    def release(self, operation: "Operation", /) -> None: ...


class Operation:
    """One operation from submit() to its outcome. Made by a caller, changed by ClientProtocol only.

    kind: of the record, or of the frame (Plane.CONTROL). command: its bytes. deadline: nanoseconds on the caller's
    clock. request: what `command` encodes, to decode the reply by. retry: whether a definite OVERLOADED is
    retried until the deadline. settled: whether a write waits until none of the client's that were given up can execute
    after it. target: for Plane.CONTROL a node id, or "host:port"; 0 is the leader, for an admin command whoever leads
    when it is first sent.
    """

    __slots__ = (
        "asked",
        "backoff",
        "command",
        "deadline",
        "document",
        "done",
        "error",
        "first_sent_at",
        "key",
        "kind",
        "message_id",
        "outlives",
        "plane",
        "proven_refused",
        "queued",
        "refusal",
        "reply_body",
        "reply_revision",
        "request",
        "retry",
        "retry_after",
        "sent_at",
        "seq",
        "session",
        "settled",
        "target",
        "term",
        "timer_at",
        "transmissions",
        "unproven",
        "waiter",
        "window",
    )

    def __init__(
        self,
        plane: Plane,
        kind: int,
        command: bytes,
        deadline: Nanoseconds,
        *,
        request: Op | None = None,
        retry: bool = True,
        settled: bool = False,
        target: int | str = 0,
    ) -> None:
        self.plane = plane
        self.kind = kind
        self.command = command
        self.deadline = deadline
        self.request = request
        self.retry = retry
        self.settled = settled
        self.target = target
        self.waiter: Any = None  # the caller's own: a lock, a future
        # The outcome.
        self.done = False
        self.error: QuorumdError | None = None
        self.reply_revision = 0
        self.reply_body = b""
        self.document: dict[str, Any] = {}  # of a control reply
        # The way there.
        self.session = b""
        self.window: Window | None = None  # of a write, once it has its sequence number
        self.outlives: tuple[Window, int] | None = None  # of a settled one: whom it must not come before, by seq
        self.seq = 0
        self.key: tuple[int, int, int] = (0, 0, 0)  # where ClientProtocol finds it when the reply comes
        self.queued = False  # waits for a transmission
        self.transmissions = 0
        self.first_sent_at: Nanoseconds = 0
        self.sent_at: Nanoseconds = 0
        self.asked = 0  # node of the last transmission
        self.message_id = 0  # of the fragments it left in
        self.term = 0  # in which an admin command is to happen, if the leader has told it
        self.retry_after: Nanoseconds = 0
        self.backoff: Nanoseconds = 0
        self.timer_at: Nanoseconds = 0
        self.refusal: QuorumdError | None = None  # the latest
        self.proven_refused: tuple[int, ...] = ()  # nodes whose one transmission was refused
        self.unproven = 0  # transmissions not known to have done nothing; never falls once it exceeds one

    def may_pass(self, status: Status) -> bool:
        """Whether a reply of this status ends one transmission only: another, or another node, may succeed."""
        behind = status is Status.FUTURE_REVISION and self.plane is Plane.STALE
        return behind or status in REFUSALS

    def transmitted(self, node: int, now: Nanoseconds) -> None:
        """One more transmission left for `node`."""
        if node in self.proven_refused:
            self.unproven += 1  # a late copy of the first refusal could be taken for this one's: never provable
        self.unproven += 1
        if not self.transmissions:
            self.first_sent_at = now
        self.transmissions += 1
        self.sent_at = now
        self.asked = node

    def refused(self, node: int, error: QuorumdError) -> None:
        """`node` says that it did nothing."""
        self.refusal = error
        if self.unproven == 1 and node == self.asked:
            self.unproven = 0
            self.proven_refused += (node,)

    @property
    def definite(self) -> bool:
        """Whether it certainly did not happen."""
        return self.unproven == 0

    def out_of_time(self) -> QuorumdError:
        """The error at the deadline of an operation that was sent."""
        if self.definite and self.refusal is not None:
            return self.refusal
        last = f", the last answer was: {self.refusal}" if self.refusal is not None else ""
        return Timeout(f"no answer in time; sent {self.transmissions} times, last to node {self.asked}{last}")

    def result(self) -> Result:
        """The decoded reply. Raises the operation's error, or ProtocolError if the reply makes no sense."""
        if self.error is not None:
            raise self.error
        if self.request is None:
            raise TypeError("this operation has no result")
        return decode(self.request, self.reply_revision, self.reply_body)
