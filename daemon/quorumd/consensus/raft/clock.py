"""Time: the only functions that move `state.now`. Ticks fire what is due; a stall makes old knowledge of time void."""

from quorumd.consensus.base import NEVER
from quorumd.consensus.engine import Role, Stalled, Tick
from quorumd.consensus.raft.election import in_lease, on_tick_campaigning, on_tick_follower
from quorumd.consensus.raft.replication import on_tick_leader
from quorumd.consensus.raft.state import State
from quorumd.types import Nanoseconds

_LEADER, _FOLLOWER = Role.LEADER, Role.FOLLOWER


def on_tick(s: State, m: Tick) -> None:
    """Everything of this turn has been stepped: now look at the clock."""
    s.move_clock(m.now, m.latest)
    role = s.role
    if role is _LEADER:
        on_tick_leader(s)
    elif role is _FOLLOWER:
        on_tick_follower(s)
    else:
        on_tick_campaigning(s)
    if s.set_aside:
        judge_again(s)


def judge_again(s: State) -> None:
    """Vote requests that a stale clock would have refused; those that the lease still forbids are dropped."""
    waiting = list(s.set_aside.values())
    s.set_aside.clear()
    for message in waiting:
        if not in_lease(s):
            s.deliver(message)


def on_stalled(s: State, m: Stalled) -> None:
    """This process did not run: every wait starts afresh, before the messages that piled up are judged by it.

    A leader neither steps down for answers that wait in its socket, nor trusts a lease from before. The same wait is
    put off once only: where every wake-up is late, leaders would else neither be missed nor miss their followers.
    """
    s.move_clock(m.now)
    s.event("stalled")
    spared, s.spared = s.spared, True
    if s.role == Role.LEADER:
        if not spared:
            s.check_at = s.now + s.config.election_timeout_ns
            s.draining = False
        s.heartbeat_at = s.now
        for progress in s.peers.values():
            progress.confirmed_at = -1
            progress.waiting_since = s.now
        s.round_times.clear()
    elif not spared:
        s.draw_timeout()
        s.spared = True


def deadline(s: State) -> Nanoseconds:
    """When the next Tick is due."""
    if s.set_aside:
        return s.now
    role = s.role
    if role is _LEADER:
        return min(s.heartbeat_at, s.scan_at, s.transfer_deadline)  # check-quorum looks along with the heartbeats
    if role is _FOLLOWER:
        return s.election_deadline
    return min(s.election_deadline, s.vote_resend_at, NEVER)
