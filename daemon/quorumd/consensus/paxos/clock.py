"""Time: the only functions that move `state.now`. Ticks fire what is due; a stall makes old knowledge of time void."""

from quorumd.consensus import handover
from quorumd.consensus.engine import Role, Stalled, Tick
from quorumd.consensus.paxos import detector, learner, phase1, proposer
from quorumd.consensus.paxos.state import State
from quorumd.types import Nanoseconds


def on_tick(s: State, m: Tick) -> None:
    """Everything of this turn has been stepped: now look at the clock."""
    s.move_clock(m.now, m.latest)
    role = s.role
    if role == Role.LEADER:
        on_tick_leader(s)
    elif role == Role.FOLLOWER:
        detector.on_tick_follower(s)
    else:
        detector.on_tick_campaigning(s)
    if s.now >= s.pull_at:
        learner.pull(s)
    if s.set_aside:
        judge_again(s)


def on_tick_leader(s: State) -> None:
    """Heartbeats, loss detection, the recovery, check-quorum and the end of a transfer, each when due."""
    now = s.now
    beating = now >= s.heartbeat_at
    if now >= s.scan_at:
        proposer.scan(s, beating)
    if beating:
        s.heartbeat_at = now + s.config.heartbeat_ns
        s.transfer_sent = False
        s.beat_due = True  # flush sends it, with the watermark that this turn's answers allow
    if now >= s.adopt_at:
        phase1.fetch_missing(s)
    if now >= s.transfer_deadline:
        handover.abort(s)
    if now >= s.check_at:
        detector.check_quorum(s)
        detector.check_recovery(s)


def judge_again(s: State) -> None:
    """Prepares that a stale clock would have refused; those that the lease still forbids are dropped."""
    waiting = list(s.set_aside.values())
    s.set_aside.clear()
    for message in waiting:
        if not detector.in_lease(s):
            s.deliver(message)


def on_stalled(s: State, m: Stalled) -> None:
    """This process did not run: every wait starts afresh, before the messages that piled up are judged by it.

    The same wait once only: see raft/clock.py.
    """
    s.move_clock(m.now)
    s.event("stalled")
    spared, s.spared = s.spared, True
    if s.role == Role.LEADER:
        if not spared:
            s.check_at = s.recover_by = s.now + s.config.election_timeout_ns
        s.heartbeat_at = s.now
        for peer in s.peers.values():
            peer.waiting_since = s.now
    elif not spared:
        s.draw_timeout()
        s.spared = True


def deadline(s: State) -> Nanoseconds:
    """When the next Tick is due."""
    if s.set_aside:
        return s.now
    if s.role == Role.LEADER:  # check-quorum looks along with the heartbeats
        return min(s.heartbeat_at, s.scan_at, s.transfer_deadline, s.pull_at, s.adopt_at)
    return min(s.election_deadline, s.prepare_at, s.pull_at)
