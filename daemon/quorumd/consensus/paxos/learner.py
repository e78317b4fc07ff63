"""The learner: which slots are chosen, and where their values come from if not from this node's own acceptance.

The watermark `commit` moves over contiguous chosen slots only. A follower takes its leader's word for a slot only if
it accepted that slot in the ballot of the message that says so: then it holds the very value that the leader means. In
any other ballot it may hold a value that lost, so it fetches. This, and that nobody believes a value chosen in a ballot
above its own promise without raising the promise (`on_values`), is what keeps CHOSEN (state.py): a leader could
otherwise tell its followers that slots are chosen of which it proposed other values in its own, lower ballot.
"""

from quorumd.consensus.base import NEVER
from quorumd.consensus.engine import Role
from quorumd.consensus.paxos import phase1
from quorumd.consensus.paxos.messages import Fetch, Values
from quorumd.consensus.paxos.roles import promise
from quorumd.consensus.paxos.state import State
from quorumd.limits import MAX_FETCHES, MAX_ON_WAY
from quorumd.types import NOBODY, Index, NodeId

# -- watermarks ---------------------------------------------------------------------------------------------------


def hear(s: State, chosen: Index) -> None:
    """The leader of the promised ballot says that everything up to `chosen` is chosen."""
    if chosen > s.watermark:
        s.watermark = chosen
        s.highest_chosen = max(s.highest_chosen, chosen)
    if s.watermark > s.commit:
        advance(s)


def advance(s: State) -> None:
    """Moves the watermark over what is accepted in the leader's ballot, and over what was learned otherwise.

    A leader's only up to its base: what it knows beyond from before its election it proposes again all the same, so
    that its acceptors have it in this ballot, and it may still be missing the value that it has to propose.
    """
    known = s.known
    leads = s.role == Role.LEADER
    while True:
        upto = min(s.watermark, s.received)
        if known.ranges:
            learned = known.end(s.commit + 1)
            upto = max(upto, min(learned, s.base) if leads else learned)
        if upto <= s.commit:
            return
        s.advance_commit(upto)


# -- fetching -----------------------------------------------------------------------------------------------------


def flush(s: State) -> None:
    """Decides when to fetch next: one request is under way, and progress without it is waited for."""
    if s.commit >= s.watermark:
        s.pull_at = NEVER
        s.pull_end = 0
        s.pull_tries = 0
    elif s.pull_at == NEVER:
        s.pull_mark = s.commit
        s.pull_at = s.now + grace(s)  # it may only be late: sent in another order than it arrives
    elif s.commit > s.pull_mark:
        s.pull_mark = s.commit
        s.pull_tries = 0
        done = s.pull_end and s.commit >= s.pull_end
        s.pull_at = s.now if done else s.now + grace(s)


def grace(s: State) -> int:
    """How long what is missing may be on its way, ns: a quarter of a heartbeat."""
    return s.config.heartbeat_ns // 4


def pull(s: State) -> None:
    """Asks for the first chosen slots that are missing. Repeated at heartbeats as long as nothing comes."""
    to = s.leader
    if s.role == Role.LEADER:
        to = s.base_sources[s.pull_tries % len(s.base_sources)]
    s.pull_at = s.now + s.config.heartbeat_ns
    if to == NOBODY:
        return
    s.pull_tries += 1
    s.pull_mark = s.commit
    first, last = s.commit + 1, s.watermark
    for begin, _ in s.known.ranges[:1]:
        last = min(last, begin - 1)
    for run in s.log.runs(first, last):
        if run.ballot == s.term:
            last = run.first - 1  # accepted in this ballot, so known to be chosen when the hole is closed
            break
    s.pull_end = last
    s.messages.append(Fetch(s.node, to, s.term, first, last, 0))


def on_fetch(s: State, m: Fetch) -> None:
    """Queues the question. Answers are put together at the end of the turn, when nothing can overwrite a slot between
    the answer and the moment its bytes are read from the log.
    """
    if len(s.fetches) < MAX_FETCHES:
        s.fetches.append(m)


def answer_all(s: State) -> None:
    """Answers what was asked in this turn; everybody gets one window full."""
    budgets: dict[NodeId, int] = {}
    for m in s.fetches:
        arrived(s, m)
        budgets[m.sender] = answer(s, m, budgets.get(m.sender, s.config.max_inflight_bytes))
    s.fetches.clear()


def answer(s: State, m: Fetch, budget: int) -> int:
    """Sends what is known to be chosen, or what was accepted in exactly the ballot that is asked for; returns the rest
    of the budget, which what travels already counts against.

    Both are true whatever the ballots of asker and answerer are by now: the first for good, the second because there
    is one value to a slot and ballot. What is known to be chosen is sent as that, whatever was asked for.
    """
    first, last = m.first, min(m.last, s.log.last if m.accepted_in else s.commit)
    if first < s.log.first:
        return budget
    for run in s.log.runs(first, last):
        at = run.first
        while at <= run.last and budget > 0:
            chosen = at <= s.commit
            if not chosen and run.ballot != m.accepted_in:
                break
            end = min(run.last, s.commit) if chosen else run.last
            upto, size = s.sizes.fit(at, end, min(s.config.max_append_bytes, budget))
            budget -= size
            if not (s.is_large(at) and travels(s, m.sender, at)):
                s.messages.append(Values(s.node, m.sender, m.ballot, at, upto - at + 1, run.ballot, chosen))
            at = upto + 1
    return budget


def arrived(s: State, m: Fetch) -> None:
    """Forgets the large values on their way to the asker that it must have by now, or asks for no more.

    A learner asks from its watermark on. The transport carries one after the other: the wait is for progress, so what
    arrives gives the rest new time.
    """
    on_way = s.on_way.get(m.sender)
    if not on_way:
        return
    forgotten = s.now - 4 * s.config.election_timeout_ns
    rest = {slot: since for slot, since in on_way.items() if since > forgotten and (m.accepted_in or slot >= m.first)}
    if not m.accepted_in and min(on_way) < m.first:
        rest = dict.fromkeys(rest, s.now)
    s.on_way[m.sender] = rest


def travels(s: State, to: NodeId, slot: Index) -> bool:
    """Whether the large value of `slot` is on its way to `to` in fragments, which have timers of their own.

    If it is not, or has been for two election timeouts, it is to be sent now. One that was pushed counts as on its way
    when it is first asked for.
    """
    on_way = s.on_way.setdefault(to, {})
    since = on_way.get(slot)
    if since is None and len(on_way) >= MAX_ON_WAY:
        return True
    if since is not None and s.now < since + 2 * s.config.election_timeout_ns:
        return True
    on_way[slot] = s.now
    return since is None and is_pushed(s, to, slot)


def is_pushed(s: State, to: NodeId, slot: Index) -> bool:
    """Whether this node, as leader, has sent `slot` to `to` and has no acknowledgement of it yet."""
    peer = s.peers[to]
    sent = s.role == Role.LEADER and peer.replicating and max(peer.match + 1, peer.pushed_from) <= slot < peer.next
    return sent and s.log.ballot_at(slot) == s.term


def on_values(s: State, m: Values) -> None:
    """An answer to a Fetch, perhaps a late one: chosen values are always welcome."""
    if not m.entries:
        return
    if m.is_chosen and m.accepted_in > s.term:
        promise(s, m.accepted_in, NOBODY)  # PROMISED, CHOSEN; a leader of a lower ballot ends here
    if s.missing:
        phase1.adopt(s, m)
    if m.is_chosen:
        learn(s, m)


def learn(s: State, m: Values) -> None:
    """Takes chosen values. A slot accepted here in m.accepted_in or above has that value already (P2c)."""
    first, last = max(m.first, s.commit + 1), m.first + m.entries - 1
    if s.role == Role.LEADER:
        last = min(last, s.base)  # above it a leader proposes and counts itself
    if first > last or (first > s.received + 1 and s.crowded):
        return
    for begin, end in list(s.log.below(first, last, m.accepted_in)):
        s.accept(begin, end, m.accepted_in, m.source, begin - m.first)
    s.known.add(first, last)
    s.ack = s.matched = True  # a follower has more than it said; a leader may count what lies behind
    s.recover_by = s.now + s.config.election_timeout_ns  # of a leader: it gets on
    advance(s)
