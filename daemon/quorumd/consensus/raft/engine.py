"""The Raft engine: one object that takes inputs (`step`) and hands out work (`ready`). The contract is in
`consensus/engine.py`; the papers' rules are in the files of their concern; this one only wires them together.

    step(message) -- admit (terms) -- table[role][type] -- election | replication | following | reads | transfer
    ready()       -- flush of the role (commit, send, acknowledge: once for all inputs of the turn) -- Ready
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from quorumd.consensus.engine import HardState, Held, LogSizes, Random, Ready, Role
from quorumd.consensus.progress import ProgressStatus
from quorumd.consensus.raft import clock, following, replication
from quorumd.consensus.raft.election import admit
from quorumd.consensus.raft.state import RaftConfig, State
from quorumd.consensus.raft.table import PEER_MESSAGES, TABLE
from quorumd.consensus.termlog import TermLog
from quorumd.invariants import invariant
from quorumd.limits import MAX_MEMBERS
from quorumd.types import NOBODY, Index, Nanoseconds, NodeId, Term

_LEADER = Role.LEADER


class RaftStatus(NamedTuple):
    """Figures for the status command and the tests."""

    node: NodeId
    role: Role
    term: Term
    vote: NodeId
    leader: NodeId
    first: Index
    last: Index
    commit: Index
    verified: Index
    own_match: Index
    held_messages: int
    reads_waiting: int
    transfer_to: NodeId
    peers: tuple[ProgressStatus, ...]


class Raft:
    """One node of a Raft cluster (implements consensus.engine.Engine)."""

    __slots__ = ("_s",)

    def __init__(
        self,
        node: NodeId,
        members: Sequence[NodeId],
        config: RaftConfig,
        hard_state: HardState,
        log: TermLog,
        sizes: LogSizes,
        random: Random,
        now: Nanoseconds,
        first_ready_seq: int = 1,
        commit: Index = 0,
        applied: Index = 0,
        promised: Nanoseconds = 0,
    ) -> None:
        """Starts as a follower from what is on disk: `hard_state` and `log` must be synced.

        `commit` is known to be committed (a hint kept with the log; too low is harmless). The state machine has
        applied up to `applied`; the first Ready hands out applied+1 .. commit. A former life may have promised a leader
        not to vote, nor run, for as long as `promised` (thesis 6.4.1), by whatever its config was.
        """
        config.check()
        invariant(node in members and len(set(members)) == len(members), "a node is a member, and members differ")
        invariant(NOBODY not in members and len(members) <= MAX_MEMBERS, "member ids are 1..65535, at most MAX_MEMBERS")
        invariant(log.last_term <= hard_state.term, "no entry is newer than the term it was accepted in")
        s = State(node, members, config, hard_state, log, sizes, random, TABLE, now)
        s.next_seq = first_ready_seq
        s.durable_seq = first_ready_seq - 1
        s.commit = max(min(commit, log.last), log.base)
        invariant(applied <= s.commit, "only committed entries are applied")
        s.handed = max(applied, log.base)
        s.deliver = self.step
        s.quiet_until = now + max(promised, config.promise_ns)
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
            replication.flush(s)
        elif s.ack or s.gap_prev:
            following.flush(s)
        if not s.has_output:
            return None
        if s.appends and s.role is _LEADER:
            s.own_pending.append((s.next_seq, s.log.last))
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
        return self._s.term

    @property
    def leader(self) -> NodeId:
        """The leader this node believes in; 0 for none."""
        return self._s.leader

    @property
    def commit(self) -> Index:
        """As of the last Ready."""
        return self._s.commit

    @property
    def first(self) -> Index:
        return self._s.log.first

    @property
    def last(self) -> Index:
        return self._s.log.last

    @property
    def held(self) -> Held:
        s = self._s
        return Held(s.held_bytes, s.held_entries)

    @property
    def hears_at(self) -> Nanoseconds:
        """If this node leads and everybody has everything, only answers to heartbeats are to come.

        They are wanted when check-quorum looks; by a lease with every round.
        """
        s = self._s
        last = s.log.last
        if s.role is not _LEADER or s.commit != last or s.read_round or s.reads_waiting or s.transfer_to:
            return 0
        level = True
        for p in s.peers.values():
            level = level and p.replicating and p.match == last
        if not level:
            return 0
        return s.heartbeat_at if s.config.lease_reads else s.check_at

    @property
    def accepts_proposals(self) -> bool:
        """Whether Propose would be taken now."""
        s = self._s
        return s.role is _LEADER and s.transfer_to == NOBODY and not s.draining

    def term_at(self, index: Index) -> Term | None:
        """Term of the entry at `index`; 0 for index 0; None if the log does not hold it."""
        return self._s.log.term_at(index)

    def status(self) -> RaftStatus:
        """Figures for the status command; `peers` is meaningful on a leader only."""
        s = self._s
        peers = tuple(p.status() for p in s.peers.values()) if s.role is _LEADER else ()
        return RaftStatus(
            s.node,
            s.role,
            s.term,
            s.vote,
            s.leader,
            s.log.first,
            s.log.last,
            s.commit,
            s.verified,
            s.own_match,
            len(s.held),
            len(s.reads_waiting) + len(s.reads_inflight),
            s.transfer_to,
            peers,
        )
