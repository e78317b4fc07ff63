"""The proposer under a stable leader: phase 2 for ever new slots, acceptances, what is chosen ("Made Moderately
Complex", section 2: a commander for each slot; here they are two numbers and a few ranges for each acceptor).

Nothing is sent from a step. A turn's inputs only change the state; `flush`, called once by Ready, counts and sends for
all of them together. That is the batching; pipelining is that `next` runs ahead of `match`.

Slots are pushed once, in order. UDP loses datagrams, so the leader looks for losses in three places:
1. an acknowledgement that has acceptances behind a hole: the hole is sent again,
2. a heartbeat's answer that names less than was sent before that heartbeat: the tail was lost,
3. no sign of life for two heartbeats: stop pushing until there is one.
A loss is believed again only on evidence newer than the last retransmission. Only open slots are sent again: what is
chosen meanwhile is the learner's to fetch.
"""

from quorumd.consensus.base import NEVER
from quorumd.consensus.engine import Durable, Propose
from quorumd.consensus.messages import HeartbeatReply
from quorumd.consensus.paxos import reads, transfer
from quorumd.consensus.paxos.messages import Accept, Accepted
from quorumd.consensus.paxos.peer import Peer
from quorumd.consensus.paxos.state import State
from quorumd.consensus.quorum import Ranges, covered_upto
from quorumd.invariants import invariant
from quorumd.limits import RESEND_MESSAGES
from quorumd.types import NOBODY, Index

# -- inputs -----------------------------------------------------------------------------------------------------


def on_propose(s: State, m: Propose) -> None:
    """Gives the staged entries their slots. The core asks `accepts_proposals` first, in the same turn."""
    invariant(s.transfer_to == NOBODY, "no proposals while leadership is handed over")
    invariant(not s.missing, "nothing is proposed before all that may be chosen is proposed again")
    invariant(s.commit >= s.base, "nothing is proposed before all that was chosen is here")
    invariant(m.entries > 0, "a proposal has entries")
    first = s.log.last + 1
    s.accept(first, s.log.last + m.entries, s.term, None)
    if not s.turn_first:
        s.turn_first = first
    s.turn_bytes += m.size_bytes


def on_durable_leader(s: State, m: Durable) -> None:
    """The leader's own acceptor is one of the quorum, once its disk has it, and need not be in it."""
    s.note_durable(m.seq)
    pending = s.own_pending
    while pending and pending[0][0] <= m.seq:
        _, s.own_match, s.own_above = pending.popleft()
        s.matched = True


def on_accepted(s: State, m: Accepted) -> None:
    """Phase 2b. Acceptances of this ballot only come here (`admit`); they are facts, however late."""
    p = s.peers[m.sender]
    p.active = True
    above = m.above
    if m.match > s.log.last or (above and any(not first <= last <= s.log.last for first, last in above)):
        return  # nobody accepts what was never proposed
    if m.match > p.match:
        p.acknowledged(m.match, s.now)
        p.above.cut(m.match)
        s.matched = True
    for first, last in above:
        if last > p.match:
            p.above.add(max(first, p.match + 1), last)
            s.matched = True
    if not p.replicating:
        resume(s, p)
    elif above and above[-1][1] > p.match:
        p.waiting_since = s.now
        resend(s, p, m.match, above[-1][1])


def on_heartbeat_reply(s: State, m: HeartbeatReply) -> None:
    """Confirms a round, shows that the acceptor lives, and what reached it."""
    p = s.peers[m.sender]
    p.active = True
    if m.round > s.round:
        return
    if m.round > p.round_acked:
        p.round_acked = m.round
        s.confirmed = True
    if not p.replicating:
        resume(s, p)
    elif p.mark and m.round >= p.mark_round:
        mark, p.mark = p.mark, 0
        if p.match < mark:
            on_tail_report(s, p, mark, m)


def on_tail_report(s: State, p: Peer, mark: Index, m: HeartbeatReply) -> None:
    """The acceptor is alive, has not acknowledged `mark`, and misses what comes after m.last."""
    p.waiting_since = s.now
    if m.last >= mark:
        send_empty(s, p)  # its disk is slow, or the acknowledgement was lost: ask for it again
    elif m.last >= p.match and m.round > p.resend_round:
        resend(s, p, m.last, mark, fresh=True)


def resume(s: State, p: Peer) -> None:
    """Pushes the open slots again: the acceptor was silent, whatever was sent to it then."""
    p.resume(max(s.commit, s.base) + 1, s.now)


# -- once a turn ------------------------------------------------------------------------------------------------


def flush(s: State) -> None:
    """Counts, confirms reads and sends, for all inputs of the turn together."""
    if s.matched:
        s.matched = False
        count(s)
    if s.reads_waiting or (s.confirmed and s.read_round):
        reads.flush(s)
    s.confirmed = False
    if s.beat_due:
        s.beat_due = False
        reads.begin_round(s)
    last = s.log.last
    for p in s.peers.values():
        if p.next <= last and p.replicating:
            push(s, p)
    s.turn_first = s.turn_bytes = 0
    if s.transfer_to and not s.transfer_sent:
        transfer.advance(s)


def count(s: State) -> None:
    """Moves the watermark over every slot that a phase-2 quorum accepted in this ballot.

    Slots up to `base` are not of this ballot: they are learned, not counted. Nor does the watermark pass a slot whose
    value is not here yet.
    """
    if s.commit < s.base:
        return
    # `peers` is keyed by node: an acceptor counts once, however often it is heard.
    matches = [p.match for p in s.peers.values()]
    above: list[Ranges] = [p.above.ranges for p in s.peers.values()]
    matches.append(s.own_match)
    above.append(s.own_above)
    upto = min(covered_upto(s.commit + 1, matches, above, s.phase2), s.received)
    if upto > s.commit:
        s.advance_commit(upto)


def push(s: State, p: Peer) -> None:
    """Sends what was not sent yet, as far as the window allows; a slot that waits for its value holds up the rest."""
    log, config = s.log, s.config
    while (first := p.next) <= log.last and log.ballot_at(first) == s.term:
        if p.inflight_bytes >= config.max_inflight_bytes or len(p.inflight) >= config.max_inflight_messages:
            return
        upto = log.run_end(first)
        if first == s.turn_first and s.turn_bytes <= config.max_append_bytes:
            size = s.turn_bytes  # just what was proposed this turn: no need to ask
        else:
            upto, size = s.sizes.fit(first, upto, config.max_append_bytes)
        s.messages.append(Accept(s.node, p.node, s.term, first, upto - first + 1, s.commit))
        p.sent(upto, size, s.now)
        if s.scan_at == NEVER:
            s.scan_at = s.now + scan_interval(s)


def send_empty(s: State, p: Peer) -> None:
    """Asks what the acceptor has accepted."""
    s.messages.append(Accept(s.node, p.node, s.term, s.commit + 1, 0, s.commit))


# -- losses -----------------------------------------------------------------------------------------------------


def resend(s: State, p: Peer, have: Index, upto: Index, fresh: bool = False) -> None:
    """Sends again the open slots in have+1..upto that the acceptor is not known to have; upto, or (`fresh`) the answer
    to a later heartbeat, arrived after they should have.

    A hole is sent again at first sight. Those up to resend_upto were already: once more only if something arrived that
    left after them, and not more often than loss detection looks.
    """
    fresh = fresh or upto > p.resend_mark
    if fresh and (s.now >= p.resend_at or p.resend_upto <= have):
        p.resend_upto = have
        p.resend_mark = p.next - 1
        p.resend_round = s.round
        p.resend_at = s.now + scan_interval(s)
    room, lost = RESEND_MESSAGES, fragments_are_lost(s, p)
    for begin, end in gaps(p, max(have, s.commit, s.base, p.resend_upto) + 1, min(upto, p.next - 1)):
        while begin <= end and room and s.log.ballot_at(begin) == s.term:
            if s.is_large(begin):
                if not lost:
                    begin += 1
                    continue
                p.suspect_match = -1  # carried anew from now on
            sent, _ = s.sizes.fit(begin, min(end, s.log.run_end(begin)), s.config.max_append_bytes)
            s.messages.append(Accept(s.node, p.node, s.term, begin, sent - begin + 1, s.commit))
            p.resend_upto = sent
            begin = sent + 1
            room -= 1


def gaps(p: Peer, first: Index, last: Index) -> list[tuple[Index, Index]]:
    """The stretches of first..last that the acceptor has not acknowledged."""
    found = []
    for begin, end in p.above.ranges:
        if begin > last:
            break
        if first < begin:
            found.append((first, begin - 1))
        first = max(first, end + 1)
    if first <= last:
        found.append((first, last))
    return found


def fragments_are_lost(s: State, p: Peer) -> bool:
    """Whether large values that are missing are to be sent again: else the transport may still be carrying, and
    resending, their fragments.

    It carries one after the other, so the wait is for progress, not for each value.
    """
    if p.suspect_match != p.match:
        p.suspect_match = p.match
        p.suspect_at = s.now + 2 * s.config.election_timeout_ns
    return s.now >= p.suspect_at


def scan_interval(s: State) -> int:
    """How often loss detection looks while something is in flight, in ns: a quarter of a heartbeat."""
    return s.config.heartbeat_ns // 4


def scan(s: State, beating: bool) -> None:
    """Nudges acceptors that are silent about what is in flight; stops pushing to those that stay silent.

    `beating`: heartbeats leave this very turn, which is as good as a nudge.
    """
    interval = scan_interval(s)
    waiting = False
    for p in s.peers.values():
        if not p.inflight:
            continue
        silent = s.now - p.waiting_since
        if silent >= 2 * s.config.heartbeat_ns:
            p.silence()
            continue
        waiting = True
        if silent >= interval and not beating:
            reads.nudge(s, p)
    if s.read_round:
        waiting = True
        if not beating:
            reads.begin_round(s)  # the round's heartbeats or their answers were lost
    s.scan_at = s.now + interval if waiting else NEVER
