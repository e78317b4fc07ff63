"""Elections: pre-vote, votes, the terms of other nodes, check-quorum (thesis 3.4, 3.6.1, 4.2.3, 6.2, 9.6).

Time enters by `state.now` only, which moves at ticks. Messages do not carry a time, so a vote request that the
leader's lease would refuse is not refused at once: it is set aside and judged again by the tick of the same turn.
"""

from quorumd.consensus.engine import Durable, Role
from quorumd.consensus.messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    PeerMessage,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from quorumd.consensus.quorum import Outcome, majority, outcome
from quorumd.consensus.raft.roles import become_candidate, become_follower, become_leader, become_pre_candidate
from quorumd.consensus.raft.state import State
from quorumd.types import NOBODY

# -- terms (thesis 3.3: a server that sees a newer term enters it; a message of an older one is refused) --------------


def admit(s: State, m: PeerMessage) -> bool:
    """Settles a message whose term is not ours; True if the role's handler is to see it."""
    if m.term < s.term:
        refuse_old_term(s, m)
        return False
    match m:
        case RequestVote(pre=True):
            return True  # a pre-vote is a question about a term, not a term (9.6)
        case RequestVoteReply(pre=True, granted=True):
            return True  # echoes the term we asked about
        case RequestVote():
            if not m.transfer and in_lease(s):
                s.set_aside[m.sender] = m
                return False
            become_follower(s, m.term, NOBODY)
        case AppendEntries() | Heartbeat() | TimeoutNow():
            become_follower(s, m.term, m.sender)
        case _:
            become_follower(s, m.term, NOBODY)
    return True


def refuse_old_term(s: State, m: PeerMessage) -> None:
    """Tells the sender of the newer term; without this a deposed leader, or a stuck candidate, would never learn."""
    match m:
        case AppendEntries():
            s.speak(AppendEntriesReply(s.node, m.sender, s.term, 0, True, m.prev_index, 0, 0))
        case Heartbeat():
            s.speak(HeartbeatReply(s.node, m.sender, s.term, 0, s.log.last))
        case RequestVote():
            s.speak(RequestVoteReply(s.node, m.sender, s.term, False, m.pre))
        case _:
            pass  # answers to questions of an older term are void


def in_lease(s: State) -> bool:
    """Whether votes are refused because a leader is alive: heard of less than T ago, or this node itself (6.2, 4.2.3).

    A leader loses its lease by check-quorum, not by a vote request.
    """
    return s.role == Role.LEADER or s.heard or s.now < s.quiet_until


# -- votes ------------------------------------------------------------------------------------------------------


def on_request_vote(s: State, m: RequestVote) -> None:
    """Thesis 3.4 and 3.6.1: at most one vote a term, first come first served, only for a log as complete as ours."""
    if not m.transfer and in_lease(s):
        s.set_aside[m.sender] = m
        return
    complete = (m.last_term, m.last_index) >= (s.log.last_term, s.log.last)
    if m.pre:
        if m.term > s.term and complete:
            s.messages.append(RequestVoteReply(s.node, m.sender, m.term, True, True))
        else:
            s.speak(RequestVoteReply(s.node, m.sender, s.term, False, True))
        return
    if not (complete and s.leader == NOBODY and s.vote in (NOBODY, m.sender)):
        s.speak(RequestVoteReply(s.node, m.sender, s.term, False, False))
        return
    if s.vote == NOBODY:
        s.set_hard_state(s.term, m.sender)
    s.rest = True
    # The promise is durable before it is spoken: parked even when the vote is an old one, it costs nothing then.
    s.after.append(RequestVoteReply(s.node, m.sender, s.term, True, False))


def on_request_vote_leading(s: State, m: RequestVote) -> None:
    """A leader is its own lease for pre-votes; a candidate of its own term has lost already."""
    if not m.pre:
        s.speak(RequestVoteReply(s.node, m.sender, s.term, False, False))


def on_pre_vote_reply(s: State, m: RequestVoteReply) -> None:
    """Counts an answer to the pre-vote."""
    if not m.pre or m.term != s.term + m.granted:
        return
    s.votes[m.sender] = m.granted
    settle(s)


def on_vote_reply(s: State, m: RequestVoteReply) -> None:
    """Counts an answer to the vote. A late pre-vote answer of this very term is none."""
    if m.pre or m.term != s.term:
        return
    s.votes[m.sender] = m.granted
    settle(s)


def on_durable(s: State, m: Durable) -> None:
    """Followers' promises and acks are parked outside the engine; nothing here waits for them."""
    s.note_durable(m.seq)


def on_durable_candidate(s: State, m: Durable) -> None:
    """The candidate's own vote counts from the moment it is on disk."""
    s.note_durable(m.seq)
    if not s.hard_dirty and s.hard_seq <= s.durable_seq:
        s.votes[s.node] = True
        settle(s)


def settle(s: State) -> None:
    """Acts on the outcome of the pre-vote or vote, if there is one."""
    match outcome(s.votes, len(s.members)):
        case Outcome.WON if s.role == Role.PRE_CANDIDATE:
            campaign(s, transfer=False)
        case Outcome.WON:
            become_leader(s)
        case Outcome.LOST:
            become_follower(s, s.term, NOBODY)


# -- campaigning ------------------------------------------------------------------------------------------------


def on_election_timeout(s: State) -> None:
    """No leader, or no outcome, for this node's timeout: ask around first (pre-vote)."""
    become_pre_candidate(s)
    request_votes(s)
    settle(s)  # a single node wins here


def campaign(s: State, transfer: bool) -> None:
    """Runs for leader; `transfer`: on behalf of the present one, so without pre-vote and against its lease (3.10)."""
    become_candidate(s, transfer)
    request_votes(s)


def request_votes(s: State) -> None:
    """Asks everyone who has not answered. Real requests imply a durable term and vote, pre-votes nothing."""
    pre = s.role == Role.PRE_CANDIDATE
    out = s.messages if pre else s.after
    term = s.term + pre
    for to in s.others:
        if to not in s.votes:
            out.append(RequestVote(s.node, to, term, s.log.last, s.log.last_term, pre, s.campaign_transfer))
    s.vote_resend_at = s.now + s.config.heartbeat_ns


def on_tick_campaigning(s: State) -> None:
    """Over when the timeout passes (3.4: start a new election); until then lost requests are repeated."""
    if s.now >= s.election_deadline:
        on_election_timeout(s)
    elif s.now >= s.vote_resend_at:
        request_votes(s)


def on_tick_follower(s: State) -> None:
    """Resets the timer for what was heard since the last tick, then looks at it."""
    if s.heard:
        s.heard = False
        s.quiet_until = s.latest + s.config.election_timeout_ns  # no earlier than T after the leader spoke
        s.start_timer()
    elif s.rest:
        s.start_timer()
    elif s.now >= s.election_deadline:
        on_election_timeout(s)
    s.rest = False


# -- check-quorum -----------------------------------------------------------------------------------------------


def check_quorum(s: State) -> None:
    """A leader that a majority has not answered for an election timeout steps down (thesis 6.2).

    Not before those who still answer had a heartbeat's time to take the rest of its log: one of them may be the only
    server that reaches a majority, with this one's vote, which a log longer than that of the candidate would refuse it.
    """
    s.check_at = s.now + s.config.election_timeout_ns
    s.spared = False
    alive = 1
    behind = False
    for progress in s.peers.values():
        alive += progress.active
        behind = behind or (progress.active and progress.match < s.log.last)
        progress.active = False
    if alive >= majority(len(s.members)):
        s.draining = False
    elif behind and not s.draining:
        s.draining = True
        s.check_at = s.now + s.config.heartbeat_ns
    else:
        s.event("quorum-lost", alive=alive)
        become_follower(s, s.term, NOBODY)
