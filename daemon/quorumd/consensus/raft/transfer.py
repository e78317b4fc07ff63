"""Leadership transfer (thesis 3.10): stop proposals, let the target catch up, tell it to campaign at once."""

from quorumd.consensus.base import NEVER
from quorumd.consensus.engine import TransferLeadership
from quorumd.consensus.messages import TimeoutNow
from quorumd.consensus.raft import election
from quorumd.consensus.raft.state import State
from quorumd.types import NOBODY


def on_transfer(s: State, m: TransferLeadership) -> None:
    """Begins a transfer to `m.to`, or with 0 to the follower that has most of the log; replaces one under way."""
    target = m.to
    if target == NOBODY and s.others:
        target = max(s.peers.values(), key=lambda p: (p.match, p.active, -p.node)).node
    if target not in s.peers:
        s.event("transfer-refused", to=target)
        return
    if target == s.transfer_to:
        return
    s.transfer_to = target
    s.transfer_deadline = s.now + s.config.election_timeout_ns
    s.transfer_sent = False
    s.event("transfer-started", to=target)


def on_transfer_elsewhere(s: State, m: TransferLeadership) -> None:
    """Only a leader has leadership to give."""
    s.event("transfer-refused", to=m.to)


def advance(s: State) -> None:
    """Sends TimeoutNow if the target has all of the log. Repeated once a heartbeat: it can be lost."""
    progress = s.peers[s.transfer_to]
    if progress.match == s.log.last:
        # Delayed by the network it can start an election at any later moment of this term, lease or not.
        s.lease_broken = True
        s.transfer_sent = True
        s.messages.append(TimeoutNow(s.node, progress.node, s.term))


def abort(s: State) -> None:
    """Gives up after an election timeout and takes proposals again."""
    s.event("transfer-aborted", to=s.transfer_to)
    s.transfer_to = NOBODY
    s.transfer_deadline = NEVER


def on_timeout_now(s: State, m: TimeoutNow) -> None:
    """Campaigns at once; a stale duplicate costs an election but no safety."""
    s.event("transfer-received", leader=m.sender)
    election.campaign(s, transfer=True)
