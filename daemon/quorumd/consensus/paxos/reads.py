"""Linearizable reads without log entries.

A read may be answered at the watermark of a moment at which no higher ballot had chosen anything. That moment is
proved by a heartbeat round that began after the read came in and that a phase-2 quorum answered in this ballot: whoever
leads a higher one has the promises of a phase-1 quorum, which shares a node with every phase-2 quorum, and that node
would not have answered after its promise. Rounds are numbered, an answer to an older round proves nothing about a
newer read. One round is in flight at a time and covers all reads that came before it began.
"""

from quorumd.consensus.messages import Heartbeat, HeartbeatReply
from quorumd.consensus.paxos import learner
from quorumd.consensus.paxos.detector import follow
from quorumd.consensus.paxos.peer import Peer
from quorumd.consensus.paxos.state import State
from quorumd.consensus.quorum import reached


def flush(s: State) -> None:
    """Releases reads whose round is confirmed and begins a round for those that wait."""
    if s.read_round and confirmed(s, s.read_round):
        s.release(s.reads_inflight)
        s.reads_inflight = []
        s.read_round = 0
    if not s.reads_waiting or s.commit < s.term_start:
        # Until all that may have been chosen before is chosen again, the watermark may lag behind it.
        return
    if confirmed(s, s.round + 1):
        s.read_index = s.commit  # this node is a phase-2 quorum by itself
        s.release(s.reads_waiting)
        s.reads_waiting = []
    elif not s.read_round:
        begin_round(s)


def confirmed(s: State, round_: int) -> bool:
    """Whether a phase-2 quorum, this node included, has answered `round_` or a later one."""
    return reached((p.round_acked for p in s.peers.values()), round_, len(s.members), already=1, quorum=s.phase2)


def begin_round(s: State) -> None:
    """Sends a numbered heartbeat to everyone; takes along the reads that wait if no round is in flight."""
    s.round += 1
    if s.reads_waiting and not s.read_round and s.commit >= s.term_start:
        s.read_round = s.round
        s.read_index = s.commit
        s.reads_inflight = s.reads_waiting
        s.reads_waiting = []
        s.scan_at = min(s.scan_at, s.now + s.config.heartbeat_ns // 4)
    for p in s.peers.values():
        send_heartbeat(s, p)


def nudge(s: State, p: Peer) -> None:
    """A heartbeat of a round of its own to one acceptor: its answer tells what arrived, and proves older rounds too."""
    s.round += 1
    send_heartbeat(s, p)


def send_heartbeat(s: State, p: Peer) -> None:
    """Sends the current round and the watermark, and notes what was pushed before it."""
    if p.replicating and (p.mark_round <= p.round_acked or not p.mark):
        p.mark = p.next - 1
        p.mark_round = s.round
    s.messages.append(Heartbeat(s.node, p.node, s.term, s.commit, s.round))


def on_heartbeat(s: State, m: Heartbeat) -> None:
    """Heartbeat of the promised ballot: answered at once, it says nothing of the disk but the promise."""
    if not follow(s, m):
        return
    learner.hear(s, m.commit)
    s.speak(HeartbeatReply(s.node, m.sender, s.term, m.round, s.received))
