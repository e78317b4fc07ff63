"""The Multi-Paxos engine: one object that takes inputs (`step`) and hands out work (`ready`). The contract is in
`consensus/engine.py`; the papers' rules are in the files of their role; this one only wires them together.

    step(message) -- admit (ballots) -- table[role][type] -- acceptor | phase1 | proposer | learner | reads | transfer
    ready()       -- flush of the role (count, send, acknowledge: once for all inputs of the turn) -- Ready
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from quorumd.consensus.ballotlog import BallotLog
from quorumd.consensus.base import NEVER
from quorumd.consensus.engine import HardState, Held, LogSizes, Random, Ready, Role
from quorumd.consensus.paxos import acceptor, clock, learner, proposer
from quorumd.consensus.paxos.ballots import NODE_BITS
from quorumd.consensus.paxos.detector import admit
from quorumd.consensus.paxos.peer import PeerStatus
from quorumd.consensus.paxos.state import PaxosConfig, State
from quorumd.consensus.paxos.table import PEER_MESSAGES, TABLE
from quorumd.invariants import invariant
from quorumd.limits import MAX_MEMBERS
from quorumd.types import NOBODY, Index, Nanoseconds, NodeId, Term

_LEADER = Role.LEADER
_HELD = Held(0, 0)


class PaxosStatus(NamedTuple):
    """Figures for the status command and the tests. `term` is the promised ballot, `vote` the node it belongs to."""

    node: NodeId
    role: Role
    term: Term
    vote: NodeId
    leader: NodeId
    first: Index
    last: Index
    commit: Index
    received: Index
    own_match: Index
    runs: int
    base: Index
    missing: int
    reads_waiting: int
    transfer_to: NodeId
    peers: tuple[PeerStatus, ...]


class Paxos:
    """One node of a Multi-Paxos cluster: proposer, acceptor and learner (implements consensus.engine.Engine)."""

    __slots__ = ("_s",)

    def __init__(
        self,
        node: NodeId,
        members: Sequence[NodeId],
        config: PaxosConfig,
        hard_state: HardState,
        log: BallotLog,
        sizes: LogSizes,
        random: Random,
        now: Nanoseconds,
        first_ready_seq: int = 1,
        commit: Index = 0,
        applied: Index = 0,
    ) -> None:
        """Starts as a follower from what is on disk: `hard_state` and `log` must be synced.

        `commit` is known to be chosen (a hint kept with the log; too low is harmless). The state machine has applied
        up to `applied`; the first Ready hands out applied+1 .. commit.
        """
        config.check(len(members))
        invariant(node in members and len(set(members)) == len(members), "a node is a member, and members differ")
        invariant(NOBODY not in members and len(members) <= MAX_MEMBERS, "member ids are 1..65535, at most MAX_MEMBERS")
        invariant(all(member < 1 << NODE_BITS for member in members), "a ballot has room for a member's id")
        newest = max((run.ballot for run in log.runs()), default=0)
        invariant(newest <= hard_state.term, "nothing was accepted in a ballot above the promise")
        s = State(node, members, config, hard_state, log, sizes, random, TABLE, now)
        s.next_seq = first_ready_seq
        s.durable_seq = first_ready_seq - 1
        s.commit = max(min(commit, log.upto(log.first)), log.base)
        invariant(applied <= s.commit, "only chosen slots are applied")
        s.handed = max(applied, log.base)
        s.extend_received()
        s.deliver = self.step
        s.draw_timeout()
        self._s = s

    # -- input and output ---------------------------------------------------------------------------------------

    def step(self, message: object) -> None:
        """Takes one input. What a peer says wrongly is ignored; only a defect of ours raises (InvariantBroken)."""
        s = self._s
        kind = type(message)
        if kind in PEER_MESSAGES:
            m: Any = message
            if m.sender not in s.peers or m.to != s.node:
                return
            if m.term != s.term and not admit(s, m):
                return
        s.handlers[kind](s, message)

    def ready(self) -> Ready | None:
        """The work that the inputs so far ask for, or None. Each piece is handed out exactly once."""
        s = self._s
        if s.role is _LEADER:
            proposer.flush(s)
        elif s.ack:
            acceptor.flush(s)
        if s.pull_at != NEVER or s.commit < s.watermark:
            learner.flush(s)
        if s.fetches:
            learner.answer_all(s)
        if not s.has_output:
            return None
        if s.appends and s.role is _LEADER:
            s.own_pending.append((s.next_seq, s.received, acceptor.behind_holes(s)))
        return s.hand_out()

    def deadline(self) -> Nanoseconds:
        """When the next Tick is due at the latest."""
        return clock.deadline(self._s)

    # -- views --------------------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        return self._s.role

    @property
    def term(self) -> Term:
        """The promised ballot."""
        return self._s.term

    @property
    def leader(self) -> NodeId:
        """The leader this node believes in; 0 for none."""
        return self._s.leader

    @property
    def commit(self) -> Index:
        """The chosen watermark, as of the last Ready."""
        return self._s.commit

    @property
    def first(self) -> Index:
        return self._s.log.first

    @property
    def last(self) -> Index:
        """The highest accepted slot; there may be holes before it."""
        return self._s.log.last

    @property
    def held(self) -> Held:
        """Nothing: slots are accepted in any order."""
        return _HELD

    @property
    def hears_at(self) -> Nanoseconds:
        """If this node leads and everybody has everything, only answers to heartbeats are to come.

        They are wanted when check-quorum looks.
        """
        s = self._s
        last = s.log.last
        if s.role is not _LEADER or s.commit != last or s.read_round or s.reads_waiting or s.transfer_to:
            return 0
        for p in s.peers.values():
            if not p.replicating or p.match != last:
                return 0
        return s.check_at

    @property
    def accepts_proposals(self) -> bool:
        """Whether Propose would be taken now: not while values that were, or may be, chosen are yet to be fetched.

        Without them nothing new can be chosen, or answered, and all that is proposed would wait in memory.
        """
        s = self._s
        return s.role is _LEADER and s.transfer_to == NOBODY and not s.missing and s.commit >= s.base

    def term_at(self, index: Index) -> Term | None:
        """Ballot in which the slot was accepted; 0 for slot 0; None for a hole and what the log does not hold."""
        return self._s.log.ballot_at(index) if index else 0

    def status(self) -> PaxosStatus:
        """Figures for the status command; `peers` is meaningful on a leader only."""
        s = self._s
        peers = tuple(p.figures() for p in s.peers.values()) if s.role is _LEADER else ()
        return PaxosStatus(
            s.node,
            s.role,
            s.term,
            s.vote,
            s.leader,
            s.log.first,
            s.log.last,
            s.commit,
            s.received,
            s.own_match,
            s.log.count,
            s.base,
            sum(run.last - run.first + 1 for run in s.missing),
            len(s.reads_waiting) + len(s.reads_inflight),
            s.transfer_to,
            peers,
        )
