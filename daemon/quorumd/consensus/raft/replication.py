"""The leader's side of the log: proposals, sending, acknowledgements, commit (thesis 3.5, 3.6.2, 10.2).

Nothing is sent from a step. A turn's inputs only change the state; `flush`, called once by Ready, commits and sends
for all of them together. That is the batching; pipelining is that `next` runs ahead of `match`.

UDP loses datagrams, so the leader looks for losses in three places, the fastest first:
1. a rejection whose hint says that the follower merely lacks a range: that range is sent again (`resend`),
2. a heartbeat's answer that names a shorter log than was sent before that heartbeat: the tail was lost,
3. no sign of life for two heartbeats: stop pipelining and probe.
A loss is believed again only on evidence newer than the last retransmission, and at growing intervals.
"""

from quorumd.consensus import handover
from quorumd.consensus.base import NEVER
from quorumd.consensus.engine import Durable, Propose
from quorumd.consensus.messages import AppendEntries, AppendEntriesReply, Heartbeat, HeartbeatReply
from quorumd.consensus.progress import Progress
from quorumd.consensus.quorum import majority_index
from quorumd.consensus.raft import reads, transfer
from quorumd.consensus.raft.election import check_quorum
from quorumd.consensus.raft.state import State
from quorumd.invariants import invariant
from quorumd.types import NOBODY, Index

MAX_RESEND_BURST = 16
"""Messages in one retransmission at most."""


# -- inputs -----------------------------------------------------------------------------------------------------


def on_propose(s: State, m: Propose) -> None:
    """Gives the staged entries their indexes. The core asks `accepts_proposals` first, in the same turn."""
    invariant(s.transfer_to == NOBODY, "no proposals while leadership is handed over (3.10)")
    invariant(not s.draining, "no proposals before a majority answers again")
    invariant(m.entries > 0, "a proposal has entries")
    s.append_own(m.entries, m.size_bytes, None)


def on_durable_leader(s: State, m: Durable) -> None:
    """The leader's own disk is one of the majority, and not necessarily in it (10.2.1)."""
    s.note_durable(m.seq)
    pending = s.own_pending
    while pending and pending[0][0] <= m.seq:
        s.own_match = pending.popleft()[1]
        s.matched = True


def on_append_reply(s: State, m: AppendEntriesReply) -> None:
    """An acknowledgement, or a rejection, of this term."""
    p = s.peers[m.sender]
    p.active = True
    if m.rejected:
        on_rejected(s, p, m)
        return
    match = m.match
    if match > p.match:
        if match > s.log.last:
            return  # nobody holds what was never written
        p.acknowledged(match, s.now)
        s.matched = True
        if not p.replicating:
            p.replicate(s.now)
    elif match == p.match and not p.replicating:
        p.replicate(s.now)  # the answer to a probe that brought nothing new


def on_rejected(s: State, p: Progress, m: AppendEntriesReply) -> None:
    """The entry before the message was missing or of another term: back up by the hint (3.5)."""
    prev, hint = m.prev_index, m.hint_index
    if not p.match < prev < p.next or not p.match <= hint <= prev:
        return  # late: acknowledged since, or of a time before the last probe; or nonsense
    have = min(s.log.find_at_most(hint, m.hint_term), prev - 1)
    if not p.replicating:
        if prev == p.next - 1:  # the probe under way and no earlier one
            p.probe(have + 1)
    elif have == hint and s.log.term_at(hint) == m.hint_term:
        if p.refused < m.refused < p.next:
            p.refused = m.refused
            if p.resend_from <= m.refused + 1:
                p.resend_at = min(p.resend_at, s.now + p.resend_wait)  # no need to wait for what was thrown away
        resend(s, p, have, fresh=prev >= p.resend_mark)
    else:
        p.probe(have + 1)


def on_heartbeat_reply(s: State, m: HeartbeatReply) -> None:
    """Confirms a round, shows that the follower lives, and what reached it."""
    p = s.peers[m.sender]
    p.active = True
    if m.round > s.round:
        return
    if m.round > p.round_acked:
        reads.on_round_answered(s, p, m.round)
    if p.replicating:
        if p.mark and m.round >= p.mark_round:
            mark, p.mark = p.mark, 0
            if p.match < mark:
                on_tail_report(s, p, mark, m)
    elif p.paused and m.round > p.probe_round:
        # Lost, or its answer was. An empty one is cheap and is answered with all that the follower verified.
        p.next = max(min(p.next, m.last + 1), p.match + 1)
        send_empty(s, p, p.next - 1)
        p.probe_round = s.round


def on_tail_report(s: State, p: Progress, mark: Index, m: HeartbeatReply) -> None:
    """The follower is alive, has not acknowledged `mark`, and its log ends at m.last."""
    p.waiting_since = s.now
    if m.last >= mark:
        send_empty(s, p, mark)  # its disk is slow, or the acknowledgement was lost: ask for it again
    elif m.last >= p.match:
        resend(s, p, m.last, fresh=m.round > p.resend_round)


# -- once a turn ------------------------------------------------------------------------------------------------


def flush(s: State) -> None:
    """Commits, confirms reads and sends, for all inputs of the turn together."""
    if s.matched:
        s.matched = False
        advance_commit(s)
    if s.reads_waiting or (s.confirmed and s.read_round):
        reads.flush(s)
    s.confirmed = False
    if s.beat_due:
        s.beat_due = False
        reads.begin_round(s)
    last = s.log.last
    for p in s.peers.values():
        if p.next <= last and (p.replicating or not p.paused):
            send_appends(s, p)
    s.turn_first = s.turn_bytes = 0
    if s.transfer_to and not s.transfer_sent:
        transfer.advance(s)


def advance_commit(s: State) -> None:
    """Commits what a majority holds durably, if it is of this term; what is older commits along with it.

    Counting replicas of older terms' entries is not enough: figure 3.7, thesis 3.6.2.
    """
    matches = [p.match for p in s.peers.values()]
    matches.append(s.own_match)
    index = majority_index(matches)
    if index > s.commit and index >= s.term_start:
        s.advance_commit(index)


def send_appends(s: State, p: Progress) -> None:
    """Sends what the follower lacks, one run of one term a message, as far as its window allows."""
    log = s.log
    config = s.config
    while (first := p.next) <= log.last:
        if not p.replicating:
            if p.paused:
                return
        elif p.inflight_bytes >= config.max_inflight_bytes or len(p.inflight) >= config.max_inflight_messages:
            return
        upto = log.run_end(first)
        if first == s.turn_first and s.turn_bytes <= config.max_append_bytes:
            size = s.turn_bytes  # just what was proposed this turn: no need to ask
        else:
            upto, size = s.sizes.fit(first, upto, config.max_append_bytes)
        if not send_run(s, p, first, upto):
            return
        if p.replicating:
            p.sent(upto, size, s.now)
            if s.scan_at == NEVER:
                s.scan_at = s.now + scan_interval(s)
        else:
            p.paused = True
            p.probe_round = s.round


def send_run(s: State, p: Progress, first: Index, upto: Index) -> bool:
    """One AppendEntries with first..upto, which are of one term; False if the log no longer reaches back that far."""
    prev = first - 1
    prev_term = s.log.term_at(prev)
    term = s.log.term_at(first)
    if prev_term is None or term is None:
        p.paused = True  # needs a snapshot; heartbeats keep it from campaigning meanwhile
        return False
    s.messages.append(AppendEntries(s.node, p.node, s.term, prev, prev_term, s.commit, term, upto - prev))
    return True


def send_empty(s: State, p: Progress, prev: Index) -> None:
    """Asks whether the follower's log matches ours at `prev`."""
    prev_term = s.log.term_at(prev)
    if prev_term is not None:
        s.messages.append(AppendEntries(s.node, p.node, s.term, prev, prev_term, s.commit, prev_term, 0))


# -- losses -----------------------------------------------------------------------------------------------------


def resend(s: State, p: Progress, have: Index, fresh: bool) -> None:
    """Sends again the message(s) in flight after `have`, up to which the follower's log reaches without a hole.

    `fresh`: the evidence is younger than the last retransmission.
    """
    first = have + 1
    p.waiting_since = s.now
    if first == p.resend_from:
        if not fresh or s.now < p.resend_at:
            return
        p.resend_wait = min(2 * p.resend_wait, s.config.election_timeout_ns)
    else:
        p.resend_burst = min(2 * p.resend_burst, MAX_RESEND_BURST) if have == p.resend_upto else 1
        p.resend_wait = scan_interval(s)
    ends = [end for end, _ in p.inflight if end > have][: p.resend_burst]
    if not ends:
        return
    # All that was sent again has arrived, behind whatever left before: what is still missing of that is lost.
    lost = have >= p.resend_upto and first <= p.resend_mark
    remember_resend(s, p, first, ends[-1])
    if first != p.resend_from and not lost and s.sizes.fit(first, first, 1)[1] > s.config.datagram_bytes:
        p.resend_from = first
        # Its fragments are resent below us: give them time. But what came and was refused will not come again, nor
        # perhaps what left before that.
        wait = p.resend_wait if have <= p.refused else 2 * s.config.election_timeout_ns
        p.resend_at = s.now + wait
        return
    p.resend_from = first
    p.resend_at = s.now + p.resend_wait
    while first <= ends[-1]:
        upto = min(s.log.run_end(first), ends[-1])
        upto, _ = s.sizes.fit(first, upto, s.config.max_append_bytes)
        if not send_run(s, p, first, upto):
            return
        first = upto + 1


def remember_resend(s: State, p: Progress, first: Index, upto: Index) -> None:
    """Notes what was already sent, so that only younger evidence counts against this retransmission."""
    p.resend_upto = upto
    p.resend_mark = p.next - 1
    p.resend_round = s.round


def scan_interval(s: State) -> int:
    """How often loss detection looks while something is in flight, in ns: a quarter of a heartbeat."""
    return s.config.heartbeat_ns // 4


def scan(s: State, beating: bool) -> None:
    """Nudges followers that are silent about what is in flight; gives up pipelining to those that stay silent.

    `beating`: heartbeats leave this very turn, which is as good as a nudge.
    """
    interval = scan_interval(s)
    waiting = False
    for p in s.peers.values():
        if not p.inflight:
            continue
        silent = s.now - p.waiting_since
        if silent >= 2 * s.config.heartbeat_ns:
            p.probe(p.match + 1)
            continue
        waiting = True
        if silent >= interval and not beating:
            reads.nudge(s, p)
    if s.read_round:
        waiting = True
        if not beating:
            reads.begin_round(s)  # the round's heartbeats or their answers were lost
    s.scan_at = s.now + interval if waiting else NEVER


# -- time -------------------------------------------------------------------------------------------------------


def on_tick_leader(s: State) -> None:
    """Heartbeats, loss detection, check-quorum and the end of a transfer, each when due."""
    now = s.now
    beating = now >= s.heartbeat_at
    if now >= s.scan_at:
        scan(s, beating)
    if beating:
        s.heartbeat_at = now + s.config.heartbeat_ns
        s.transfer_sent = False
        s.beat_due = True  # flush sends it, with the commit index that this turn's answers allow
    if now >= s.transfer_deadline:
        handover.abort(s)
    if now >= s.check_at:
        check_quorum(s)
    if s.reads_waiting:
        reads.on_tick(s)


def on_other_leader(s: State, m: AppendEntries | Heartbeat) -> None:
    """Two leaders in one term cannot be (3.2, election safety). A peer claims so: do not follow, tell the operator."""
    s.peer_fault("second-leader-refused", m.sender)
