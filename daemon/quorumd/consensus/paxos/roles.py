"""Changes of role: what each of them sets, keeps and gives up. Who decides on them is in detector.py and phase1.py.

Every change passes through one of the functions here, so that nothing of an old role survives in a new one.
"""

from quorumd.consensus.base import NEVER
from quorumd.consensus.engine import Role
from quorumd.consensus.paxos.messages import Accept, Ballot
from quorumd.consensus.paxos.peer import Peer
from quorumd.consensus.paxos.state import MAX_BACKOFF, State
from quorumd.invariants import invariant
from quorumd.types import NOBODY, NodeId


def become_follower(s: State, leader: NodeId) -> None:
    """Is an acceptor and learner only, of `leader` (0: not known yet). The promise stays as it is."""
    was = s.role
    if was == Role.LEADER:
        leave_leadership(s)
    redraw = was != Role.FOLLOWER
    if leader != NOBODY and s.backoff:
        s.backoff = 0
        redraw = True  # or the long wait of a duel would outlast it, for as long as the leader lives and then some
    if was != Role.FOLLOWER:
        s.set_role(Role.FOLLOWER)
        s.prepare_at = NEVER
    if redraw:
        s.draw_timeout()
    if leader != s.leader or was != Role.FOLLOWER:
        s.leader = leader
        s.event("became-follower", leader=leader)


def promise(s: State, ballot: Ballot, leader: NodeId) -> None:
    """Promises a higher ballot, that of `leader` if it leads already: whatever this node led or ran for is over."""
    s.set_promise(ballot)
    s.pull_at = NEVER
    s.pull_end = 0
    become_follower(s, leader)


def leave_leadership(s: State) -> None:
    """Fails what only a leader can finish. Proposals are the core's to answer: they may yet be chosen."""
    s.end_leading()
    s.heartbeat_at = s.check_at = s.scan_at = NEVER
    s.missing.clear()
    s.promises = {}
    s.base_sources = ()
    s.adopt_at = s.recover_by = s.pull_at = NEVER
    s.own_pending.clear()
    s.matched = s.beat_due = False
    s.turn_first = s.turn_bytes = 0
    # Not sent yet: their bytes are read from the log when they are, and another proposer may overwrite them before.
    s.messages = [m for m in s.messages if type(m) is not Accept]
    # Having led is not having heard a leader.
    s.heard = False
    s.event("lost-leadership")


def become_pre_candidate(s: State, ballot: Ballot) -> None:
    """Asks whether an election in `ballot` could be won. The promise does not change: nothing becomes durable."""
    s.set_role(Role.PRE_CANDIDATE)
    s.leader = NOBODY
    s.heard = False
    s.asked = ballot
    s.votes = {s.node: True}
    s.campaign_transfer = False
    s.prepared_from = s.commit + 1
    s.draw_timeout()
    s.event("became-pre-candidate")


def become_candidate(s: State, ballot: Ballot, transfer: bool) -> None:
    """Runs phase 1 in `ballot`. The own promise counts only once it is durable (phase1.on_durable_candidate)."""
    s.set_promise(ballot)
    s.set_role(Role.CANDIDATE)
    s.heard = False
    s.promises = {}
    s.campaign_transfer = transfer
    s.prepared_from = s.commit + 1
    s.pull_at = NEVER
    s.pull_end = 0
    s.draw_timeout()
    s.event("became-candidate", transfer=int(transfer))


def preempted(s: State, by: Ballot) -> None:
    """A higher ballot is about: give way, for longer each time, so that two proposers do not duel for ever.

    "If an acceptor ignores a prepare or accept request because it has already received a prepare request with a higher
    number, then it should probably inform the proposer, who should then abandon its proposal" (Made Simple, 2.2).
    """
    s.seen = max(s.seen, by)
    s.backoff = min(s.backoff + 1, MAX_BACKOFF)
    s.event("preempted", by=by)
    become_follower(s, NOBODY)


def become_leader(s: State) -> None:
    """Leads the promised ballot; phase1.lead says what is proposed first."""
    invariant(s.role == Role.CANDIDATE, "only who ran phase 1 leads")
    s.set_role(Role.LEADER)
    s.leader = s.node
    s.backoff = 0
    s.prepare_at = NEVER
    s.election_deadline = NEVER
    for node in s.others:
        s.peers[node] = Peer(node, s.base + 1, s.now)
    s.round = 0
    s.confirmed = False
    s.heartbeat_at = s.now + s.config.heartbeat_ns
    s.check_at = s.now + s.config.election_timeout_ns
    s.scan_at = NEVER
    s.own_pending.clear()
    s.own_match = 0
    s.own_above = ()
    s.matched = True
    s.turn_first = s.turn_bytes = 0
