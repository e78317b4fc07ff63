"""The client's half of a session: which sequence numbers are under way, so that each executes exactly once."""

from collections import deque

from quorumd.client.operation import Operation
from quorumd.commands import session_halves
from quorumd.errors import Definite
from quorumd.limits import CLIENT_WRITE_BYTES_IN_FLIGHT, SESSION_TTL, SESSION_WINDOW_OPS
from quorumd.types import Nanoseconds, NodeId, SessionId


class Session:
    """One session id and its window.

    Invariant: every seq in `in_flight` is >= answered_below, and next_seq <= answered_below + SESSION_WINDOW_OPS. An
    operation that its caller gave up counts as answered: a late copy of it is refused by the cluster once it executed
    an operation that was sent when answered_below had passed its seq. Until then the late copy may still execute, after
    others that were sent after it was given up.
    """

    __slots__ = (
        "answered_below",
        "bytes_in_flight",
        "given_up",
        "id",
        "in_flight",
        "low",
        "next_seq",
        "opened",
        "seen_alive_at",
    )

    def __init__(self, session_id: SessionId) -> None:
        self.id = session_id
        self.low = session_halves(session_id)[1]
        """The half of the id that replies name the session by."""
        self.opened = False
        self.next_seq = 1
        self.answered_below = 1
        self.given_up = 0
        """The highest seq of those that ended, and may yet execute for all that is known."""
        self.in_flight: dict[int, Operation] = {}
        self.bytes_in_flight = 0
        self.seen_alive_at: Nanoseconds = 0
        """When the latest request left that the cluster answered within the session: it lives a TTL from here."""

    def take(self, writes: deque[Operation]) -> list[Operation]:
        """Takes the operations that may be under way from now on out of `writes`, and numbers them."""
        taken: list[Operation] = []
        left: list[Operation] = []
        while writes and self._has_room(len(writes[0].command)) and len(left) < SESSION_WINDOW_OPS:
            operation = writes.popleft()
            if operation.settled and self._may_be_overtaken(operation):
                left.append(operation)
            elif not operation.done:
                self._admit(operation)
                taken.append(operation)
        writes.extendleft(reversed(left))
        return taken

    def _has_room(self, size_bytes: int) -> bool:
        """Whether one more operation of `size_bytes` may be under way; one alone always may."""
        if self.next_seq - self.answered_below >= SESSION_WINDOW_OPS:
            return False
        return not self.in_flight or self.bytes_in_flight + size_bytes <= CLIENT_WRITE_BYTES_IN_FLIGHT

    def _may_be_overtaken(self, operation: Operation) -> bool:
        """Whether one that was given up before this settled one may execute after it.

        It cannot if this one's record can say that it counts as answered. So this one waits for those in flight that
        were sent before the other: all have deadlines.
        """
        if operation.outlives is None or operation.outlives[0] is not self:
            operation.outlives = self, self.given_up
        return self.answered_below <= operation.outlives[1]

    def _admit(self, operation: Operation) -> None:
        """Gives the operation its sequence number, once and for all its transmissions."""
        operation.session = self.id
        operation.window = self
        operation.seq = self.next_seq
        self.in_flight[operation.seq] = operation
        self.bytes_in_flight += len(operation.command)
        self.next_seq += 1

    def release(self, operation: Operation) -> None:
        """The operation has its outcome, whatever it is."""
        if self.in_flight.pop(operation.seq, None) is None:
            return
        self.bytes_in_flight -= len(operation.command)
        if not operation.reply_revision and not isinstance(operation.error, Definite):
            self.given_up = max(self.given_up, operation.seq)
        while self.answered_below < self.next_seq and self.answered_below not in self.in_flight:
            self.answered_below += 1

    def alive(self, operation: Operation) -> None:
        """An answer came to this operation; the cluster counts from no earlier than its first transmission."""
        self.seen_alive_at = max(self.seen_alive_at, operation.first_sent_at)


class Pulse:
    """When the session is to be kept alive, and how long it lives without.

    Nodes differ in that while their `session_ttl_ms` is being changed, one after the other, and whoever leads goes by
    its own: so the shortest counts that any of them has named.
    """

    __slots__ = ("_named", "since", "ttl")

    def __init__(self) -> None:
        self._named: dict[NodeId, Nanoseconds] = {}
        self.ttl: Nanoseconds = SESSION_TTL
        self.since: Nanoseconds | None = None
        """A keep-alive is due a third of the TTL from here; None: there is nothing to be kept alive."""

    def named(self, node: NodeId, ttl: Nanoseconds) -> None:
        """A node said by which TTL it would go."""
        self._named[node] = ttl
        self.ttl = min(self._named.values())

    @property
    def due(self) -> Nanoseconds | None:
        """When a keep-alive is."""
        return None if self.since is None else self.since + self.ttl // 3
