"""Changes of role: what each of them sets, keeps and gives up. Who decides on them is in election.py.

Every change passes through one of the four functions here, so that nothing of an old role survives in a new one.
"""

from quorumd.consensus.base import NEVER
from quorumd.consensus.engine import NOOP, Role
from quorumd.consensus.messages import AppendEntries
from quorumd.consensus.progress import Progress
from quorumd.consensus.raft.state import State
from quorumd.invariants import invariant
from quorumd.limits import ENTRY_HEADER_BYTES
from quorumd.types import NOBODY, NodeId, Term


def become_follower(s: State, term: Term, leader: NodeId) -> None:
    """Follows `leader` (0: not known yet) in `term`. A newer term clears the vote and all that was verified."""
    was = s.role
    if term != s.term:
        adopt_term(s, term, NOBODY)
    if was == Role.LEADER:
        leave_leadership(s)
    if was != Role.FOLLOWER:
        s.set_role(Role.FOLLOWER)
        s.draw_timeout()
    if leader != s.leader or was != Role.FOLLOWER:
        s.leader = leader
        s.event("became-follower", leader=leader)


def adopt_term(s: State, term: Term, vote: NodeId) -> None:
    """Enters a newer term: what was verified against the old term's leader says nothing about the new one's."""
    invariant(term > s.term, "a term is adopted once")
    s.set_hard_state(term, vote)
    s.leader = NOBODY
    s.verified = 0
    s.ack = False
    s.gap_prev = s.refused = 0
    s.held.clear()
    s.held_bytes = s.held_entries = 0
    s.votes = {}


def leave_leadership(s: State) -> None:
    """Fails what only a leader can finish. Proposals are the core's to answer: they may yet commit."""
    s.end_leading()
    s.heartbeat_at = s.check_at = s.scan_at = NEVER
    s.own_pending.clear()
    s.own_match = 0
    s.matched = s.beat_due = s.draining = False
    s.turn_first = s.turn_bytes = 0
    # Their bytes are read from the log when they leave: the next leader may overwrite those in this very turn.
    s.messages = [m for m in s.messages if type(m) is not AppendEntries]
    # Having led is not having heard a leader.
    s.heard = False
    s.event("lost-leadership")


def become_pre_candidate(s: State) -> None:
    """Asks whether an election could be won (thesis 9.6). Neither term nor vote change: nothing becomes durable."""
    s.set_role(Role.PRE_CANDIDATE)
    s.leader = NOBODY
    s.heard = False
    s.votes = {s.node: True}
    s.campaign_transfer = False
    s.draw_timeout()
    s.event("became-pre-candidate")


def become_candidate(s: State, transfer: bool) -> None:
    """Runs in the next term. The own vote counts only once it is durable (election.own_vote_durable)."""
    s.set_role(Role.CANDIDATE)
    adopt_term(s, s.term + 1, s.node)
    s.heard = False
    s.campaign_transfer = transfer
    s.draw_timeout()
    s.event("became-candidate", transfer=int(transfer))


def become_leader(s: State) -> None:
    """Leads the current term, and appends the no-op that lets it commit what came before (3.6.2, 6.4)."""
    invariant(s.role == Role.CANDIDATE, "only a candidate is elected")
    s.set_role(Role.LEADER)
    s.leader = s.node
    s.vote_resend_at = NEVER
    s.election_deadline = NEVER
    s.held.clear()
    s.held_bytes = s.held_entries = 0
    last = s.log.last
    for node in s.others:
        s.peers[node] = Progress(node, last + 1, s.now)
    s.round = 0
    s.round_times.clear()
    s.confirmed = False
    s.lease_broken = False
    s.heartbeat_at = s.now + s.config.heartbeat_ns
    s.check_at = s.now + s.config.election_timeout_ns
    s.scan_at = NEVER
    # What the log held before counts as ours once every Ready so far, and the coming one if it has any of it, is
    # durable. Normally it is already: no vote request left before that.
    pending = s.next_seq if s.appends or s.hard_dirty else s.next_seq - 1
    s.own_pending.clear()
    s.own_match = 0
    if pending <= s.durable_seq:
        s.own_match = last
    else:
        s.own_pending.append((pending, last))
    s.term_start = last + 1
    s.matched = True
    s.turn_first = s.turn_bytes = 0
    s.append_own(1, ENTRY_HEADER_BYTES, NOOP)
    s.event("became-leader", last=last)
