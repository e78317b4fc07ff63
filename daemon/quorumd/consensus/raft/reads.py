"""Linearizable reads without log entries (thesis 6.4).

A read may be answered at the commit index of a moment at which this node was certainly the leader. That moment is
proved by a heartbeat round that began after the read came in: a majority that still answers in this term cannot have
elected a newer leader before. Rounds are numbered, an answer to an older round proves nothing about a newer read.
One round is in flight at a time and covers all reads that came before it began.
"""

from quorumd.consensus.messages import Heartbeat
from quorumd.consensus.progress import Progress
from quorumd.consensus.quorum import majority, reached
from quorumd.consensus.raft.state import State
from quorumd.types import Nanoseconds


def flush(s: State) -> None:
    """Releases reads whose round is confirmed and begins a round for those that wait."""
    if s.read_round and reached(_rounds(s), s.read_round, len(s.members), already=1):
        s.release(s.reads_inflight)
        s.reads_inflight = []
        s.read_round = 0
    if not s.reads_waiting or s.commit < s.term_start:
        # Until the no-op commits, the commit index may lag behind what an earlier leader acknowledged (6.4).
        return
    if not s.others:
        release_waiting(s)
    elif not s.read_round:
        begin_round(s)


def on_tick(s: State) -> None:
    """Releases the reads that wait if a lease covers them. At a tick only: between two of them `latest` grows old."""
    if s.commit >= s.term_start and lease_holds(s):
        release_waiting(s)


def release_waiting(s: State) -> None:
    """The reads that wait may be answered without a round."""
    s.read_index = s.commit
    s.release(s.reads_waiting)
    s.reads_waiting = []


def begin_round(s: State) -> None:
    """Sends a numbered heartbeat to everyone; takes along the reads that wait if no round is in flight."""
    s.round += 1
    if s.reads_waiting and not s.read_round and s.commit >= s.term_start:
        s.read_round = s.round
        s.read_index = s.commit
        s.reads_inflight = s.reads_waiting
        s.reads_waiting = []
        s.scan_at = min(s.scan_at, s.now + s.config.heartbeat_ns // 4)
    if s.config.lease_reads:
        _remember_round(s)
    for progress in s.peers.values():
        send_heartbeat(s, progress)


def nudge(s: State, progress: Progress) -> None:
    """A heartbeat of a round of its own to one follower: its answer tells what arrived, and proves older rounds too."""
    s.round += 1
    if s.config.lease_reads:
        _remember_round(s)
    send_heartbeat(s, progress)


def send_heartbeat(s: State, progress: Progress) -> None:
    """Sends the current round. The commit index stays within what the follower acknowledged (figure 3.1)."""
    if progress.replicating and (progress.mark_round <= progress.round_acked or not progress.mark):
        progress.mark = progress.next - 1
        progress.mark_round = s.round
    s.messages.append(Heartbeat(s.node, progress.node, s.term, min(s.commit, progress.match), s.round))


def on_round_answered(s: State, progress: Progress, round_: int) -> None:
    """Notes that a follower answered a newer round than before."""
    progress.round_acked = round_
    s.confirmed = True
    if s.config.lease_reads:
        for number, at in reversed(s.round_times):
            if number == round_:
                progress.confirmed_at = at
                break


def lease_holds(s: State) -> bool:
    """Whether a majority answered heartbeats that left so recently that its members still refuse to vote (6.4.1).

    A quarter of the election timeout is left for clocks that run at different speeds. Off unless configured: it
    trusts them. For a process that is stopped now the answer is old, and right: at `latest`, when the read had come,
    nobody else led.
    """
    if not s.config.lease_reads or s.lease_broken or not s.others:
        return False
    sent = sorted((p.confirmed_at for p in s.peers.values()), reverse=True)[majority(len(s.members)) - 2]
    timeout: Nanoseconds = s.config.election_timeout_ns
    return sent >= 0 and s.latest < sent + timeout - timeout // 4


def _remember_round(s: State) -> None:
    times = s.round_times
    times.append((s.round, s.now))
    while times[0][1] < s.now - s.config.election_timeout_ns:
        times.popleft()


def _rounds(s: State) -> list[int]:
    return [p.round_acked for p in s.peers.values()]
