"""Everything a Raft node knows, in one object, with the rule each field obeys written beside it.

What lives here: the fields, and the few mutators that more than one concern needs, so that each invariant is checked
at the one place that can break it. What may not: decisions. Those are in election, replication, following, reads and
transfer; `table.py` says which of their functions takes which message in which role.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from quorumd.consensus.base import NEVER, EngineState, Table
from quorumd.consensus.engine import Append, HardState, LogSizes, Random
from quorumd.consensus.messages import AppendEntries, RequestVote
from quorumd.consensus.progress import Progress
from quorumd.consensus.termlog import TermLog
from quorumd.invariants import invariant
from quorumd.types import NOBODY, Index, Nanoseconds, NodeId, Term


class RaftConfig(NamedTuple):
    """Times and limits; the thesis's timing requirement is broadcast time << election timeout << MTBF (3.9)."""

    heartbeat_ns: Nanoseconds
    election_timeout_ns: Nanoseconds
    """T: elections start after a random time in [T, 2T) without a leader."""
    max_append_bytes: int
    """Entries in one AppendEntries; a larger single entry goes alone."""
    max_inflight_bytes: int
    """Sent to one follower and not yet acknowledged; above it nothing new is sent."""
    max_inflight_messages: int
    lease_reads: bool = False
    """Answer reads without a round while a quorum's promise not to vote lasts; trusts clocks (thesis 6.4.1)."""
    datagram_bytes: int = 65_000
    """A larger entry is carried and resent by the transport in fragments: its absence does not prove a loss."""

    @property
    def promise_ns(self) -> Nanoseconds:
        """For how long a node that heard its leader promises it the lease."""
        return self.election_timeout_ns if self.lease_reads else 0

    def check(self) -> None:
        """Raises InvariantBroken on values with which no cluster can work."""
        invariant(0 < self.heartbeat_ns < self.election_timeout_ns, "0 < heartbeat < election timeout")
        invariant(self.max_append_bytes > 0, "max_append_bytes is positive")
        invariant(self.max_inflight_bytes > 0 and self.max_inflight_messages > 0, "the window is not empty")


class State(EngineState):
    """The state of one node. Only functions of this package touch it."""

    __slots__ = (
        "ack",
        "beat_due",
        "campaign_transfer",
        "check_at",
        "config",
        "draining",
        "gap_prev",
        "gap_term",
        "heard",
        "heartbeat_at",
        "held",
        "held_bytes",
        "held_entries",
        "lease_broken",
        "log",
        "matched",
        "own_match",
        "own_pending",
        "peers",
        "quiet_until",
        "refused",
        "rest",
        "round_times",
        "scan_at",
        "set_aside",
        "term_start",
        "turn_bytes",
        "turn_first",
        "verified",
        "vote_resend_at",
        "votes",
    )

    def __init__(
        self,
        node: NodeId,
        members: Sequence[NodeId],
        config: RaftConfig,
        hard_state: HardState,
        log: TermLog,
        sizes: LogSizes,
        random: Random,
        table: Table,
        now: Nanoseconds,
    ) -> None:
        super().__init__(node, members, hard_state, sizes, random, table, now)
        self.config = config
        # Durable, like term and vote (thesis figure 3.1). The vote is set at most once in a term; commit <= log.last.
        self.log: TermLog = log
        self._begin_elections()
        self._begin_follower()
        self._begin_leader(now)

    def _begin_elections(self) -> None:
        """Of every role."""
        self.quiet_until: Nanoseconds = 0  # votes are refused until then: a leader was heard less than T before
        # A message is stepped without a time of its own and `now` may be as old as the last turn. So a message only
        # notes that the timer is to be reset; the tick that follows does it.
        self.heard = False  # from the current leader, since the last tick
        self.rest = False  # the timer starts over at the next tick (a vote was granted)
        self.set_aside: dict[NodeId, RequestVote] = {}  # refused by a possibly stale `now`; judged again at the tick

    def _begin_follower(self) -> None:
        """Of followers and candidates."""
        self.verified: Index = 0  # entries up to it equal the log of this term's leader; <= log.last
        self.ack = False  # verified (or re-verified) something since the last Ready
        self.gap_prev: Index = 0  # highest prev_index beyond our log since the last Ready; 0: none
        self.gap_term: Term = 0  # and its prev_term
        # Reorder window: (message, size_bytes) by prev_index, of this term only; every prev_index > log.last
        self.held: dict[Index, tuple[AppendEntries, int]] = {}
        self.held_bytes = 0  # == sum of their sizes
        self.held_entries = 0  # == sum of their entries
        self.refused: Index = 0  # highest prev_index of this term that came beyond our log and found no room; 0: none
        self.votes: dict[NodeId, bool] = {}  # a set keyed by node: a duplicate never counts twice
        self.vote_resend_at: Nanoseconds = NEVER
        self.campaign_transfer = False  # the leader asked for this election

    def _begin_leader(self, now: Nanoseconds) -> None:
        """Of leaders; roles.become_leader renews it and roles.leave_leadership voids it."""
        # One for each other member in every role (it is the membership test too), renewed by every election won.
        self.peers: dict[NodeId, Progress] = {other: Progress(other, 1, now) for other in self.others}
        self.term_start: Index = 0  # the no-op of this term: only from it on are entries counted (figure 3.7)
        self.own_match: Index = 0  # own entries that are durable; <= log.last
        self.own_pending: deque[tuple[int, Index]] = deque()  # (Ready seq, last index it makes durable), rising
        self.matched = False  # some match index moved since the last Ready
        self.turn_first: Index = 0  # first index proposed since the last Ready; 0: none
        self.turn_bytes = 0
        self.heartbeat_at: Nanoseconds = NEVER
        self.beat_due = False  # a heartbeat round is to leave with the coming Ready
        self.check_at: Nanoseconds = NEVER  # check-quorum looks next
        self.draining = False  # no majority answered when it last looked: nothing new is taken until it looks again
        self.scan_at: Nanoseconds = NEVER  # loss detection looks next; NEVER while nothing is in flight
        self.round_times: deque[tuple[int, Nanoseconds]] = deque()  # when rounds left; lease reads only
        self.lease_broken = False  # TimeoutNow was sent in this term: a promise not to vote no longer binds

    # -- mutators shared by several concerns --------------------------------------------------------------------

    def set_hard_state(self, term: Term, vote: NodeId) -> None:
        """The only place that changes term or vote."""
        invariant(
            term > self.term or (term == self.term and self.vote in (NOBODY, vote)),
            "the term never falls and a vote is never taken back",
        )
        self.term = term
        self.vote = vote
        self.hard_dirty = True

    def advance_commit(self, index: Index) -> None:
        """The only place that moves the commit index; the caller has checked the rule of its role."""
        invariant(self.commit <= index <= self.log.last, "the commit index never falls and stays within the log")
        self.commit = index

    def append_own(self, count: int, size_bytes: int, source: object) -> None:
        """Appends `count` new entries as the leader (thesis 3.5: it never overwrites or deletes its own)."""
        log = self.log
        first = log.last + 1
        log.append(first, log.last + count, self.term)
        self.appends.append(Append(first, log.last, self.term, source))
        if not self.turn_first:
            self.turn_first = first
        self.turn_bytes += size_bytes

    def draw_timeout(self) -> None:
        """A fresh random timeout in [T, 2T), started now (thesis 3.4)."""
        base = self.config.election_timeout_ns
        self.timeout_ns = min(int(self.random.uniform(base, 2 * base)), 2 * base - 1)
        self.start_timer()
        self.election_deadline = max(self.election_deadline, self.quiet_until)  # later only by a former life's promise

    def start_timer(self) -> None:
        """The timeout last drawn, from now on.

        Not before what was heard was sent: who promised a leader not to vote within T promised not to run either.
        """
        self.election_deadline = self.latest + self.timeout_ns
        self.spared = False
