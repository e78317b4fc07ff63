"""The client's half of a session: which sequence numbers are under way, so that each executes exactly once."""

from quorumd.client.operation import Operation
from quorumd.commands import session_halves
from quorumd.limits import CLIENT_WRITE_BYTES_IN_FLIGHT, SESSION_WINDOW_OPS
from quorumd.types import Nanoseconds, SessionId


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
        """The highest seq of those that ended without an answer that says what they did."""
        self.in_flight: dict[int, Operation] = {}
        self.bytes_in_flight = 0
        self.seen_alive_at: Nanoseconds = 0
        """When the latest request left that the cluster answered within the session: it lives a TTL from here."""

    def takes(self, operation: Operation) -> bool:
        """Whether one more operation may be under way, and this one already. One alone always may.

        A settled one may once its record can say that all those are answered that were given up: if it executes, they
        have executed before it or never will. That is a matter of those in flight, which all have deadlines.
        """
        if self.next_seq - self.answered_below >= SESSION_WINDOW_OPS:
            return False
        if operation.settled and self.answered_below <= self.given_up:
            return False
        return not self.in_flight or self.bytes_in_flight + len(operation.command) <= CLIENT_WRITE_BYTES_IN_FLIGHT

    def admit(self, operation: Operation) -> None:
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
        if not operation.reply_revision:
            self.given_up = max(self.given_up, operation.seq)
        while self.answered_below < self.next_seq and self.answered_below not in self.in_flight:
            self.answered_below += 1

    def alive(self, operation: Operation) -> None:
        """An answer came to this operation; the cluster counts from no earlier than its first transmission."""
        self.seen_alive_at = max(self.seen_alive_at, operation.first_sent_at)
