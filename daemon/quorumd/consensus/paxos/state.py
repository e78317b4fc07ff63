"""Everything a Multi-Paxos node knows, in one object, with the rule each field obeys written beside it.

What lives here: the fields, and the few mutators that more than one concern needs, so that each invariant is checked
at the one place that can break it. What may not: decisions. Those are in acceptor, phase1, proposer, learner,
detector, reads and transfer; `table.py` says which of their functions takes which message in which role.

Two invariants carry the rest and are referred to by name:
PROMISED  no slot here is accepted in a ballot above `term`, the promise.
CHOSEN    whoever knows that a slot is chosen holds its value in a ballot at or above the one it was chosen in.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from quorumd.consensus.ballotlog import BallotLog, Run
from quorumd.consensus.base import NEVER, EngineState, Table
from quorumd.consensus.engine import Append, HardState, LogSizes, Random
from quorumd.consensus.paxos.ballots import node_of
from quorumd.consensus.paxos.messages import Ballot, Fetch, Prepare, Promise
from quorumd.consensus.paxos.peer import Peer
from quorumd.consensus.quorum import intersect, majority
from quorumd.consensus.ranges import RangeSet
from quorumd.invariants import invariant
from quorumd.limits import OPEN_RUNS, REMEMBERED_RANGES
from quorumd.types import NOBODY, Index, Nanoseconds, NodeId

MAX_BACKOFF = 2
"""How often the range of election timeouts doubles after elections lost to higher ballots."""


class PaxosConfig(NamedTuple):
    """Times, limits and quorum sizes."""

    heartbeat_ns: Nanoseconds
    election_timeout_ns: Nanoseconds
    """T: elections start after a random time in [T, 2T) without a leader."""
    max_append_bytes: int
    """Values in one Accept; a larger single value goes alone."""
    max_inflight_bytes: int
    """Sent to one acceptor and not yet acknowledged; above it nothing new is sent. Bounds answers to Fetch too."""
    max_inflight_messages: int
    datagram_bytes: int = 65_000
    """A larger value is carried and resent by the transport in fragments: its absence does not prove a loss."""
    phase1: int = 0
    """Promises that make a leader; 0: a majority."""
    phase2: int = 0
    """Acceptances that choose a value, and answers that confirm a read; 0: a majority."""

    def check(self, members: int) -> None:
        """Raises InvariantBroken on values with which no cluster can work."""
        invariant(0 < self.heartbeat_ns < self.election_timeout_ns, "0 < heartbeat < election timeout")
        invariant(self.max_append_bytes > 0, "max_append_bytes is positive")
        invariant(self.max_inflight_bytes > 0 and self.max_inflight_messages > 0, "the window is not empty")
        phase1, phase2 = self.quorums(members)
        invariant(0 < phase1 <= members and 0 < phase2 <= members, "a quorum has between one and all members")
        invariant(intersect(phase1, phase2, members), "every phase-1 quorum must meet every phase-2 quorum")

    def quorums(self, members: int) -> tuple[int, int]:
        """(phase 1, phase 2): sizes of the quorums."""
        return self.phase1 or majority(members), self.phase2 or majority(members)


class State(EngineState):
    """The state of one node. Only functions of this package touch it. `term` is the promised ballot."""

    __slots__ = (
        "ack",
        "adopt_at",
        "adopt_tries",
        "asked",
        "backoff",
        "base",
        "base_sources",
        "beat_due",
        "campaign_transfer",
        "check_at",
        "config",
        "fetches",
        "heard",
        "heartbeat_at",
        "highest_chosen",
        "known",
        "log",
        "matched",
        "missing",
        "on_way",
        "own_above",
        "own_match",
        "own_pending",
        "peers",
        "phase1",
        "phase2",
        "prepare_at",
        "prepared_from",
        "promises",
        "pull_at",
        "pull_end",
        "pull_mark",
        "pull_tries",
        "quiet_until",
        "received",
        "recover_by",
        "rest",
        "scan_at",
        "seen",
        "set_aside",
        "term_start",
        "turn_bytes",
        "turn_first",
        "votes",
        "watermark",
    )

    def __init__(
        self,
        node: NodeId,
        members: Sequence[NodeId],
        config: PaxosConfig,
        hard_state: HardState,
        log: BallotLog,
        sizes: LogSizes,
        random: Random,
        table: Table,
        now: Nanoseconds,
    ) -> None:
        super().__init__(node, members, hard_state, sizes, random, table, now)
        self.config = config
        self.phase1, self.phase2 = config.quorums(len(members))
        self.log: BallotLog = log  # durable; PROMISED
        self._begin_acceptor()
        self._begin_learner()
        self._begin_elections()
        self._begin_leader(now)

    def _begin_acceptor(self) -> None:
        # Every slot up to it is chosen here or accepted in the promised ballot; commit <= received <= log.last.
        self.received: Index = 0
        self.ack = False  # accepted something, or was asked, since the last Ready

    def _begin_learner(self) -> None:
        # As this ballot's leader told (a leader's own: its base): everything up to it is chosen. What is accepted here
        # in this ballot is that value; what is accepted in another one may be something else.
        self.watermark: Index = 0
        self.highest_chosen: Index = 0  # highest watermark anybody ever told; decides nothing but who campaigns first
        self.known = RangeSet(REMEMBERED_RANGES)  # chosen, behind a hole; every slot is held; all > commit
        self.pull_at: Nanoseconds = NEVER  # a Fetch is due then; NEVER while nothing chosen is missing
        self.pull_mark: Index = 0  # commit when pull_at was set: waits start over with progress
        self.pull_end: Index = 0  # last slot of the Fetch under way; 0: none
        self.pull_tries = 0  # Fetches without progress: a new leader asks another node each time
        self.fetches: list[Fetch] = []  # asked since the last Ready; at most MAX_FETCHES
        # Large values on their way to each node that asked, and since when: to ask again leaves their fragments alone.
        self.on_way: dict[NodeId, dict[Index, Nanoseconds]] = {}  # at most MAX_ON_WAY each

    def _begin_elections(self) -> None:
        self.seen: Ballot = self.term  # highest ballot heard of; >= term; a new ballot is above it
        self.quiet_until: Nanoseconds = 0  # promises are withheld until then: a leader was heard less than T before
        # A message is stepped without a time of its own and `now` may be as old as the last turn. So a message only
        # notes that the timer is to be reset; the tick that follows does it.
        self.heard = False  # from the leader of the promised ballot, since the last tick
        self.rest = False  # the timer starts over at the next tick (a promise was given)
        self.set_aside: dict[NodeId, Prepare] = {}  # refused by a possibly stale `now`; judged again at the tick
        self.backoff = 0  # elections lost to higher ballots since a leader was heard, at most MAX_BACKOFF
        self.asked: Ballot = 0  # the ballot of the pre-prepare under way
        self.votes: dict[NodeId, bool] = {}  # answers to it, keyed by node: a duplicate never counts twice
        self.prepare_at: Nanoseconds = NEVER  # unanswered (pre-)prepares are repeated then
        self.campaign_transfer = False  # the leader asked for this election
        self.prepared_from: Index = 0  # `first` of the Prepare under way, one for all its repetitions
        self.promises: dict[NodeId, dict[int, Promise]] = {}  # parts by number, of the ballot under way, by node

    def _begin_leader(self, now: Nanoseconds) -> None:
        """Of leaders; roles.become_leader renews it and roles.leave_leadership voids it."""
        # One for each other member in every role (it is the membership test too), renewed by every election won.
        self.peers: dict[NodeId, Peer] = {other: Peer(other, 1, now) for other in self.others}
        self.base: Index = 0  # every slot up to it was chosen before, and is not proposed in this ballot
        self.base_sources: tuple[NodeId, ...] = ()  # who told so
        self.term_start: Index = 0  # last slot of the recovery: reads wait for it
        self.missing: deque[Run] = deque()  # to be proposed, but its value, accepted in that ballot, is not here yet
        self.adopt_at: Nanoseconds = NEVER  # they are asked for then
        self.adopt_tries = 0  # how often they were: another holder is asked each time
        self.recover_by: Nanoseconds = NEVER  # without progress until then, leadership is given up
        self.own_match: Index = 0  # what the other peers' `match` and `above` are to them, of this node's own disk
        self.own_above: tuple[tuple[Index, Index], ...] = ()
        self.own_pending: deque[tuple[int, Index, tuple[tuple[Index, Index], ...]]] = deque()  # (seq, match, above)
        self.matched = False  # some acceptance is new since the last Ready
        self.turn_first: Index = 0  # first slot proposed since the last Ready; 0: none
        self.turn_bytes = 0
        self.heartbeat_at: Nanoseconds = NEVER
        self.beat_due = False  # a heartbeat round is to leave with the coming Ready
        self.check_at: Nanoseconds = NEVER  # check-quorum looks next
        self.scan_at: Nanoseconds = NEVER  # loss detection looks next; NEVER while nothing is in flight

    # -- mutators shared by several concerns --------------------------------------------------------------------

    def set_promise(self, ballot: Ballot) -> None:
        """The only place that changes the promise. Nothing accepted so far is of the new ballot."""
        invariant(ballot > self.term, "a promise is only ever raised")
        self.term = ballot
        self.vote = node_of(ballot)
        self.seen = max(self.seen, ballot)
        self.hard_dirty = True
        self.leader = NOBODY
        self.received = self.commit
        self.watermark = 0
        self.ack = False

    def accept(self, first: Index, last: Index, ballot: Ballot, source: object, skip: int = 0) -> None:
        """Accepts the values of `source` (see engine.Append) for slots first..last in `ballot`."""
        invariant(ballot <= self.term, "nothing is accepted in a ballot above the promise")
        invariant(first > self.commit, "a slot that is known to be chosen is not accepted again")
        self.log.accept(first, last, ballot)
        self.appends.append(Append(first, last, ballot, source, skip))
        if first <= self.received + 1:
            self.extend_received()

    def extend_received(self) -> None:
        """Moves `received` over what is accepted in the promised ballot and no other."""
        at = max(self.received, self.commit) + 1
        if self.log.ballot_at(at) == self.term:
            at = self.log.run_end(at) + 1
        self.received = at - 1

    def is_large(self, slot: Index) -> bool:
        """Whether a value does not fit a datagram: it travels in fragments, which have timers of their own."""
        return self.sizes.fit(slot, slot, 1)[1] > self.config.datagram_bytes

    @property
    def crowded(self) -> bool:
        """Whether so many runs are open that nothing is taken but what closes the first hole.

        Without a bound a promise could grow without one. What is not accepted is not acknowledged: it costs time only.
        """
        return self.log.last > self.received and self.log.count_from(self.commit + 1) >= OPEN_RUNS

    def advance_commit(self, slot: Index) -> None:
        """The only place that moves the watermark; the caller has checked the rule of its role."""
        invariant(self.commit <= slot <= self.log.last, "the watermark never falls and stays within the log")
        self.commit = slot
        self.known.cut(slot)
        if slot > self.received:
            self.extend_received()

    def draw_timeout(self) -> None:
        """A fresh random timeout, started now: in [T, 2T), the range doubling with every election lost to a rival."""
        base = self.config.election_timeout_ns
        span = base << self.backoff
        self.timeout_ns = min(int(self.random.uniform(base, base + span)), base + span - 1)
        self.start_timer()

    def start_timer(self) -> None:
        """The timeout last drawn, from now on.

        Who is behind what it heard to be chosen adds half a T: a leader that need not fetch first serves sooner. That
        is asked each time: one draw serves for as long as a leader does.
        """
        late = self.config.election_timeout_ns // 2 if self.commit < self.highest_chosen else 0
        self.election_deadline = self.latest + self.timeout_ns + late
        self.spared = False
