"""The follower's side of the log: consistency check, appending, commit, the reorder window (thesis 3.5).

`verified` is the highest index up to which this log is known to equal that of the current term's leader. It is what
acknowledgements assert and what bounds the commit index: entries beyond it may be a deposed leader's.

Why a parked acknowledgement stays true. The ack "in term T, everything up to M" is released by Durable(seq) of the
Ready that held the range, perhaps long after this node entered a newer term and even overwrote the range. It asserts
something about the past: while in term T this log held the entries, every vote and append of a newer term was judged
by a log that held them, and all of that reaches the disk in order. That is what the thesis's proof of leader
completeness (3.6.3) uses: a candidate that won this node's vote later had the entries, or they were never committed.
Within term T the leader's log does not change, so nothing verified is overwritten; across terms the leader of T reads
the ack exactly as one that the network delayed. A message that would overwrite what is verified or committed is no
correct leader's: it is dropped and the operator told (peer_fault); invariants are for our own defects.
"""

from quorumd.consensus.engine import Append, Retainable, Role
from quorumd.consensus.messages import REFUSED, AppendEntries, AppendEntriesReply, Heartbeat, HeartbeatReply
from quorumd.consensus.raft.roles import become_follower
from quorumd.consensus.raft.state import State
from quorumd.invariants import invariant
from quorumd.limits import REORDER_WINDOW_BYTES, REORDER_WINDOW_MESSAGES
from quorumd.types import NOBODY, Index, NodeId


def on_append(s: State, m: AppendEntries) -> None:
    """AppendEntries of the current term."""
    if m.sender != s.leader and not follow(s, m.sender):
        return
    s.heard = True
    if m.entries and not m.prev_term <= m.entries_term <= s.term:
        return  # no leader writes that
    prev = m.prev_index
    log = s.log
    if prev == log.last and m.prev_term == log.last_term:
        if m.entries:
            take(s, m, 0)
    elif prev > log.last:
        hold(s, m)
        return
    elif not merge(s, m):
        return
    acknowledge(s, prev + m.entries, m.commit)
    if s.held:
        release(s)


def follow(s: State, sender: NodeId) -> bool:
    """Accepts `sender` as the leader of the current term unless another one is known."""
    if s.leader == NOBODY:
        become_follower(s, s.term, sender)
        return True
    s.peer_fault("second-leader-refused", sender)
    return False


def take(s: State, m: AppendEntries, skip: int) -> None:
    """Appends the message's entries but for the first `skip`, which this log has."""
    first = m.prev_index + 1 + skip
    last = m.prev_index + m.entries
    s.log.append(first, last, m.entries_term)
    s.appends.append(Append(first, last, m.entries_term, m.source, skip))


def merge(s: State, m: AppendEntries) -> bool:
    """Appends what is new of a message that begins within this log; False if it was rejected.

    "If an existing entry conflicts with a new one (same index but different terms), delete the existing entry and all
    that follow it" (figure 3.1), and only then: what matches stays, a late message must not shorten the log.
    """
    log = s.log
    prev, upto = m.prev_index, m.prev_index + m.entries
    known = max(s.commit, log.base)  # committed, so the same in every later leader's log (3.6.3)
    if prev > known:
        if log.term_at(prev) != m.prev_term:
            reject(s, m)
            return False
    else:
        meets = min(upto, known)  # the last committed entry that the message speaks of
        if meets >= log.base and log.term_at(meets) != (m.entries_term if meets > prev else m.prev_term):
            s.peer_fault("committed-entry-contradicted", m.sender)
            return False
    if upto <= known:
        return True
    at = max(prev, known) + 1
    if at <= log.last and log.term_at(at) == m.entries_term:
        at = min(log.run_end(at), upto) + 1
    if at > upto:
        return True
    if at <= log.last:
        invariant(at > s.commit, "a committed entry is never overwritten")
        if at <= s.verified:
            s.peer_fault("verified-entry-contradicted", m.sender)
            return False
        log.truncate(at - 1)
    take(s, m, at - prev - 1)
    return True


def acknowledge(s: State, upto: Index, leader_commit: Index) -> None:
    """The log equals the leader's up to `upto`: say so when durable, and commit what the leader has committed of it."""
    verified = s.verified
    if upto > verified:
        s.verified = verified = upto
    s.ack = True
    commit = leader_commit if leader_commit < verified else verified
    if commit > s.commit:
        s.advance_commit(commit)


def reject(s: State, m: AppendEntries) -> None:
    """Asserts nothing but where this log could meet the leader's."""
    hint, hint_term = backup_hint(s, m.prev_index, m.prev_term)
    s.speak(AppendEntriesReply(s.node, m.sender, s.term, 0, True, m.prev_index, hint, hint_term))


def backup_hint(s: State, prev_index: Index, prev_term: int) -> tuple[Index, int]:
    """(index, term) of the last entry up to prev_index with a term up to prev_term: none after it can match."""
    hint = max(s.log.find_at_most(prev_index, prev_term), s.commit)
    return hint, s.log.term_at(hint) or 0


# -- reorder window ---------------------------------------------------------------------------------------------


def hold(s: State, m: AppendEntries) -> None:
    """Keeps a message that came before its predecessor; Ready reports the gap if it is still there at its end."""
    prev = m.prev_index
    if prev >= s.gap_prev:
        s.gap_prev = prev
        s.gap_term = m.prev_term
    if m.source is REFUSED:
        s.refused = max(s.refused, prev)
    if not m.entries or prev in s.held:
        return
    size = m.source.size_bytes if isinstance(m.source, Retainable) else 0
    # What comes soonest is what the log needs first: behind one that is not held, the rest waits in vain.
    while len(s.held) >= REORDER_WINDOW_MESSAGES or s.held_bytes + size > REORDER_WINDOW_BYTES:
        farthest = max(s.held, default=0)
        s.refused = max(s.refused, farthest, prev)
        if farthest <= prev:
            return
        drop(s, farthest)
    if isinstance(m.source, Retainable):
        m = m._replace(source=m.source.retain())
    s.held[prev] = m, size
    s.held_bytes += size
    s.held_entries += m.entries


def drop(s: State, prev: Index) -> AppendEntries:
    """Takes a message out of the window."""
    m, size = s.held.pop(prev)
    s.held_bytes -= size
    s.held_entries -= m.entries
    return m


def release(s: State) -> None:
    """Takes the held messages that the log has reached, in order."""
    for prev in sorted(s.held):
        if prev > s.log.last:
            return
        m = drop(s, prev)
        if merge(s, m):
            acknowledge(s, prev + m.entries, m.commit)


# -- heartbeats and the end of the turn ---------------------------------------------------------------------------


def on_heartbeat(s: State, m: Heartbeat) -> None:
    """Heartbeat of the current term.

    Its commit index never exceeds what this node acknowledged in this term, perhaps in an earlier life; so it
    verifies that much too, which is how a restarted follower learns it without an append.
    """
    if m.sender != s.leader and not follow(s, m.sender):
        return
    s.heard = True
    if s.commit < m.commit <= s.log.last:
        s.verified = max(s.verified, m.commit)
        s.advance_commit(m.commit)
    s.speak(HeartbeatReply(s.node, m.sender, s.term, m.round, s.log.last))


def on_leader_found(s: State, m: AppendEntries | Heartbeat) -> None:
    """A candidate that meets the leader of its term becomes its follower (3.4)."""
    become_follower(s, s.term, m.sender)
    s.handlers[type(m)](s, m)


def flush(s: State) -> None:
    """One acknowledgement a Ready, of all that it verified, and one report of a gap."""
    if s.role != Role.FOLLOWER or s.leader == NOBODY:
        return
    if s.ack:
        s.ack = False
        s.after.append(AppendEntriesReply(s.node, s.leader, s.term, s.verified, False, 0, 0, 0))
    if s.gap_prev:
        if s.gap_prev > s.log.last:
            hint, hint_term = backup_hint(s, s.gap_prev, s.gap_term)
            s.speak(AppendEntriesReply(s.node, s.leader, s.term, 0, True, s.gap_prev, hint, hint_term, s.refused))
        s.gap_prev = 0
