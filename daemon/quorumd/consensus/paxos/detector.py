"""Who is alive: ballots of other nodes, leases, election timers, check-quorum; and so who raises a ballot, and when.

None of this is needed for safety: "the election of a single leader is needed only to ensure progress" ("Paxos Made
Simple", section 3). Time enters by `state.now` only, which moves at ticks. Messages do not carry a time, so a
Prepare that the leader's lease would refuse is not refused at once: it is set aside and judged again by the tick of
the same turn.
"""

from typing import Any

from quorumd.consensus.engine import Durable, Role
from quorumd.consensus.messages import Heartbeat, TimeoutNow
from quorumd.consensus.paxos import phase1
from quorumd.consensus.paxos.ballots import node_of
from quorumd.consensus.paxos.messages import Accept, Fetch, Prepare, Promise, Refused, Values
from quorumd.consensus.paxos.roles import become_follower, promise
from quorumd.consensus.paxos.state import State
from quorumd.types import NOBODY

# -- ballots ----------------------------------------------------------------------------------------------------


def admit(s: State, m: Any) -> bool:
    """Settles a message whose ballot is not the promised one; True if the role's handler is to see it."""
    match m:
        case Prepare() | Fetch() | Values():
            return True  # questions and facts that do not depend on this node's ballot
        case Promise(pre=True):
            return True  # echoes the ballot that was asked about
        case Promise(granted=False) | Refused():
            if m.term > s.term:
                phase1.on_refused(s, m)
            return False
        case Accept() | Heartbeat() | TimeoutNow():
            if m.term < s.term:
                # Without an answer a deposed leader, or one whose acceptors moved on, would never learn.
                s.speak(Refused(s.node, m.sender, s.term))
                return False
            if not owns(s, m):
                return False
            promise(s, m.term, m.sender)
            return True
        case _:
            return False  # answers to what was asked in another ballot


def owns(s: State, m: Any) -> bool:
    """Whether the ballot is the sender's own: nobody else leads in it, or asks for it."""
    if node_of(m.term) == m.sender:
        return True
    s.peer_fault("second-leader-refused", m.sender)
    return False


def in_lease(s: State) -> bool:
    """Whether promises are withheld because a leader is alive: heard of less than T ago, or this node itself.

    A leader loses its lease by check-quorum, not by a Prepare.
    """
    return s.role == Role.LEADER or s.heard or s.now < s.quiet_until


# -- time -------------------------------------------------------------------------------------------------------


def on_tick_follower(s: State) -> None:
    """Resets the timer for what was heard since the last tick, then looks at it."""
    if s.heard:
        s.heard = False
        s.quiet_until = s.latest + s.config.election_timeout_ns
        s.start_timer()
    elif s.rest:
        s.start_timer()
    elif s.now >= s.election_deadline:
        phase1.canvass(s)
    s.rest = False


def on_tick_campaigning(s: State) -> None:
    """Over when the timeout passes; until then lost questions are repeated."""
    if s.now >= s.election_deadline:
        phase1.canvass(s)
    elif s.now >= s.prepare_at:
        phase1.ask(s)


def check_quorum(s: State) -> None:
    """A leader that no phase-2 quorum has answered for an election timeout can choose nothing: it steps down."""
    s.check_at = s.now + s.config.election_timeout_ns
    s.spared = False
    alive = 1
    for peer in s.peers.values():
        alive += peer.active
        peer.active = False
    if alive < s.phase2:
        s.event("quorum-lost", alive=alive)
        become_follower(s, NOBODY)


def check_recovery(s: State) -> None:
    """A leader that cannot get what it has to propose, or to learn, gives up: another quorum may not need it."""
    if s.now >= s.recover_by and (s.missing or s.commit < s.base):
        s.event("recovery-stuck", commit=s.commit, base=s.base)
        become_follower(s, NOBODY)


# -- acceptors and candidates hear of the leader ------------------------------------------------------------------


def on_durable(s: State, m: Durable) -> None:
    """Promises and acceptances are parked outside the engine; nothing here waits for them."""
    s.note_durable(m.seq)


def on_leader_found(s: State, m: Accept | Heartbeat) -> None:
    """A pre-candidate that meets the leader of the ballot it promised becomes its follower again."""
    if owns(s, m):
        become_follower(s, m.sender)
        s.handlers[type(m)](s, m)


def on_other_leader(s: State, m: Accept | Heartbeat) -> None:
    """Somebody claims to lead the ballot that this node runs for or leads."""
    s.peer_fault("second-leader-refused", m.sender)


def follow(s: State, m: Accept | Heartbeat | TimeoutNow) -> bool:
    """Whether the sender leads the promised ballot; this node follows it from now on."""
    if m.sender != s.leader:
        if not owns(s, m):
            return False
        become_follower(s, m.sender)
    s.heard = True
    return True
