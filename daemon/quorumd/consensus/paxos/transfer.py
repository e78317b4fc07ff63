"""Leadership transfer: stop proposals, let the target catch up, tell it to campaign at once.

Any node could lead, whatever its log. One that has everything leads without fetching first.
"""

from quorumd.consensus.base import NEVER
from quorumd.consensus.engine import TransferLeadership
from quorumd.consensus.messages import TimeoutNow
from quorumd.consensus.paxos import phase1
from quorumd.consensus.paxos.detector import owns
from quorumd.consensus.paxos.state import State
from quorumd.types import NOBODY


def on_transfer(s: State, m: TransferLeadership) -> None:
    """Begins a transfer to `m.to`, or with 0 to the acceptor that has most of the log; replaces one under way."""
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
    peer = s.peers[s.transfer_to]
    if peer.match == s.log.last:
        s.transfer_sent = True
        s.messages.append(TimeoutNow(s.node, peer.node, s.term))


def abort(s: State) -> None:
    """Gives up after an election timeout and takes proposals again."""
    s.event("transfer-aborted", to=s.transfer_to)
    s.transfer_to = NOBODY
    s.transfer_deadline = NEVER


def on_timeout_now(s: State, m: TimeoutNow) -> None:
    """Campaigns at once; a stale duplicate costs an election but no safety."""
    if owns(s, m):
        s.event("transfer-received", leader=m.sender)
        phase1.campaign(s, transfer=True)
