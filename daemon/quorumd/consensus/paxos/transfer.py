"""Leadership transfer: stop proposals, let the target catch up, tell it to campaign at once.

Any node could lead, whatever its log. One that has everything leads without fetching first. Whom to, and when to
give up, is in `consensus/handover.py`.
"""

from quorumd.consensus.messages import TimeoutNow
from quorumd.consensus.paxos import phase1
from quorumd.consensus.paxos.detector import owns
from quorumd.consensus.paxos.state import State


def advance(s: State) -> None:
    """Sends TimeoutNow if the target has all of the log. Repeated once a heartbeat: it can be lost."""
    peer = s.peers[s.transfer_to]
    if peer.match == s.log.last:
        s.transfer_sent = True
        s.messages.append(TimeoutNow(s.node, peer.node, s.term))


def on_timeout_now(s: State, m: TimeoutNow) -> None:
    """Campaigns at once; a stale duplicate costs an election but no safety."""
    if owns(s, m):
        s.event("transfer-received", leader=m.sender)
        phase1.campaign(s, transfer=True)
