"""Leadership transfer (thesis 3.10): stop proposals, let the target catch up, tell it to campaign at once.

Whom to, and when to give up, is in `consensus/handover.py`.
"""

from quorumd.consensus.messages import TimeoutNow
from quorumd.consensus.raft import election
from quorumd.consensus.raft.state import State


def advance(s: State) -> None:
    """Sends TimeoutNow if the target has all of the log. Repeated once a heartbeat: it can be lost."""
    progress = s.peers[s.transfer_to]
    if progress.match == s.log.last:
        # Delayed by the network it can start an election at any later moment of this term, lease or not.
        s.lease_broken = True
        s.transfer_sent = True
        s.messages.append(TimeoutNow(s.node, progress.node, s.term))


def on_timeout_now(s: State, m: TimeoutNow) -> None:
    """Campaigns at once; a stale duplicate costs an election but no safety."""
    s.event("transfer-received", leader=m.sender)
    election.campaign(s, transfer=True)
