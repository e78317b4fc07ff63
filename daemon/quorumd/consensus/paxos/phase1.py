"""Phase 1: becoming the proposer, and what a new one has to propose before anything of its own.

    canvass   pre-prepare: would a phase-1 quorum promise?         (asks; changes nobody's state)
    campaign  prepare in a ballot of its own                       ("Paxos Made Simple", 2.2, phase 1a)
    lead      the promises of a phase-1 quorum are complete: one exchange has covered all open slots (section 3)

What the promises say decides for every slot, in this order:
1. at or below `base`: some acceptor knows it to be chosen, or no longer has it because it is. Never proposed: fetched.
2. accepted by some acceptor: the value of the highest ballot is proposed again (P2c), and no other.
3. accepted by none: a no-op closes the hole, so that what lies behind it can be applied.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import pairwise

from quorumd.consensus.ballotlog import BallotLog, Run
from quorumd.consensus.base import NEVER
from quorumd.consensus.engine import KEPT, NOOP, Durable, Role
from quorumd.consensus.paxos.ballots import next_ballot
from quorumd.consensus.paxos.messages import Fetch, Prepare, Promise, Refused, Values
from quorumd.consensus.paxos.roles import become_candidate, become_leader, become_pre_candidate, preempted
from quorumd.consensus.paxos.state import State
from quorumd.consensus.quorum import Outcome, outcome
from quorumd.invariants import invariant
from quorumd.limits import ADOPT_REQUESTS, OPEN_RUNS, OPEN_SLOTS
from quorumd.types import NOBODY, Index, NodeId

# -- asking -----------------------------------------------------------------------------------------------------


def canvass(s: State) -> None:
    """Asks first: a node that a phase-1 quorum would refuse, or that reaches none, raises no ballot."""
    become_pre_candidate(s, next_ballot(s.seen, s.node))
    ask(s)
    settle_pre(s)  # one node may be a quorum


def campaign(s: State, transfer: bool) -> None:
    """Runs for leader; `transfer`: on behalf of the present one, so without asking first and against its lease.

    The ballot is above every one this node ever promised or heard of; its own promise is durable before the first
    Prepare leaves, so no later life of this node uses it again.
    """
    become_candidate(s, next_ballot(s.seen, s.node), transfer)
    ask(s)


def ask(s: State) -> None:
    """Asks everyone whose answer is not complete. A Prepare waits until the own promise is durable."""
    pre = s.role == Role.PRE_CANDIDATE
    out = s.messages if pre else s.after
    ballot = s.asked if pre else s.term
    for to in s.others:
        if to not in s.votes if pre else not complete(s.promises.get(to)):
            out.append(Prepare(s.node, to, ballot, s.prepared_from, pre, s.campaign_transfer))
    s.prepare_at = s.now + s.config.heartbeat_ns


# -- answers ----------------------------------------------------------------------------------------------------


def on_pre_promise(s: State, m: Promise) -> None:
    """Counts an answer to the pre-prepare. A refusal names a higher promise: ask again, above it."""
    if not m.pre:
        return
    s.highest_chosen = max(s.highest_chosen, m.chosen)
    if m.granted:
        if m.ballot == s.asked:
            s.votes[m.sender] = True
            settle_pre(s)
    elif m.ballot >= s.asked:
        s.seen = max(s.seen, m.ballot)
        s.asked = next_ballot(s.seen, s.node)
        s.votes = {s.node: True}
        ask(s)


def settle_pre(s: State) -> None:
    """Campaigns if a phase-1 quorum would promise."""
    if outcome(s.votes, len(s.members), s.phase1) is Outcome.WON:
        campaign(s, transfer=False)


def on_promise(s: State, m: Promise) -> None:
    """Collects a promise of the ballot under way. Sets keyed by node and part: a duplicate never counts twice."""
    if m.pre or not m.granted or m.ballot != s.term or not plausible(m):
        return
    s.highest_chosen = max(s.highest_chosen, m.chosen)
    parts = s.promises.setdefault(m.sender, {})
    if complete(parts):
        return
    if any(other.parts != m.parts for other in parts.values()):
        parts.clear()  # of an answer to an earlier repetition, since when slots were learned
    parts[m.part] = m
    if len(parts) == m.parts and not complete(parts):
        parts.clear()
    settle(s)


def plausible(m: Promise) -> bool:
    """Whether an acceptor could say this: runs ascending, in lower ballots, no more parts than its bound makes."""
    at = 0
    for run in m.accepted:
        if not at < run.first <= run.last or not 0 <= run.ballot < m.ballot:
            return False
        at = run.last
    return 0 <= m.part < m.parts <= OPEN_RUNS


def complete(parts: dict[int, Promise] | None) -> bool:
    """Whether these parts leave no slot unspoken of: all are there, each begins where its predecessor ends.

    Parts of different answers to repetitions of one Prepare may mix: for each slot it is enough that this acceptor
    said, after it promised, what it had accepted.
    """
    if not parts or len(parts) != parts[next(iter(parts))].parts:
        return False
    runs = [parts[number].accepted for number in range(len(parts))]
    return all(after and before and after[0].first == before[-1].last + 1 for before, after in pairwise(runs))


def on_durable_candidate(s: State, m: Durable) -> None:
    """The candidate's own promise counts from the moment it is on disk."""
    s.note_durable(m.seq)
    if not s.hard_dirty and s.hard_seq <= s.durable_seq:
        accepted = tuple(s.log.runs(s.prepared_from))
        own = Promise(s.node, s.node, s.term, True, False, s.commit, s.log.first, 0, 1, accepted)
        s.promises[s.node] = {0: own}
        settle(s)


def settle(s: State) -> None:
    """Leads if a phase-1 quorum, this node included, has promised."""
    given = {node: True for node, parts in s.promises.items() if complete(parts)}
    if s.node in given and outcome(given, len(s.members), s.phase1) is Outcome.WON:
        promises = {node: parts for node, parts in s.promises.items() if node in given}
        if beyond := too_far(s, promises):
            s.peer_fault("promise-too-far", beyond)
            del s.promises[beyond]
            return
        s.promises = promises
        lead(s)


def too_far(s: State, promises: Mapping[NodeId, Mapping[int, Promise]]) -> NodeId:
    """Who tells of more open slots than any node can hold; NOBODY if none does. What lies before one would be filled
    with no-ops: nothing from the network is trusted for a length.
    """
    parts = [part for of_node in promises.values() for part in of_node.values()]
    bound = chosen_base(s.commit, parts) + OPEN_SLOTS
    others = (part for part in parts if part.sender != s.node and part.accepted)
    return next((part.sender for part in others if part.accepted[-1].last > bound), NOBODY)


def on_refused(s: State, m: Promise | Refused) -> None:
    """Some acceptor promised a ballot above the one under way."""
    s.seen = max(s.seen, m.ballot)
    if s.role in (Role.CANDIDATE, Role.LEADER):
        preempted(s, m.ballot)


# -- what the promises oblige to ----------------------------------------------------------------------------------


def lead(s: State) -> None:
    """Proposes again, in the new ballot, everything that may be chosen, and one no-op that marks the leadership."""
    promises = [part for parts in s.promises.values() for part in parts.values()]
    s.base = chosen_base(s.commit, promises)
    s.base_sources = tuple(sorted({p.sender for p in promises if chosen_at(p) == s.base and p.sender != s.node}))
    s.watermark = s.base
    plan = highest_accepted(s.base, promises)
    become_leader(s)
    for run in plan.runs():
        readopt(s, run)
    for first, last in plan.holes(s.base + 1, plan.last):
        s.accept(first, last, s.term, NOOP)
    s.term_start = plan.last + 1
    s.accept(s.term_start, s.term_start, s.term, NOOP)
    s.adopt_at = s.now if s.missing else NEVER
    s.adopt_tries = 0
    s.pull_at = s.now if s.commit < s.base else NEVER
    s.pull_tries = 0
    s.recover_by = s.now + s.config.election_timeout_ns
    s.event("became-leader", last=s.term_start, base=s.base, missing=sum(r.last - r.first + 1 for r in s.missing))


def chosen_base(commit: Index, promises: Iterable[Promise]) -> Index:
    """The slot up to which some acceptor knows everything to be chosen, by its watermark or because it is trimmed."""
    return max(commit, *map(chosen_at, promises))


def chosen_at(promise: Promise) -> Index:
    """The highest slot that this promise shows to be chosen."""
    return max(promise.chosen, promise.retained - 1)


def highest_accepted(base: Index, promises: Iterable[Promise]) -> BallotLog:
    """For every slot above `base` the highest ballot in which an acceptor of the quorum accepted it (P2c)."""
    plan = BallotLog(base)
    runs = [run for p in promises for run in p.accepted if run.ballot and run.last > base]
    for run in sorted(runs, key=lambda run: run.ballot):
        plan.accept(max(run.first, base + 1), run.last, run.ballot)
    return plan


def readopt(s: State, run: Run) -> None:
    """Proposes the values accepted in `run` again: those this node holds at once, others when they are fetched."""
    at = run.first
    for own in list(s.log.runs(run.first, run.last)):
        if own.ballot == run.ballot:
            if at < own.first:
                s.missing.append(Run(at, own.first - 1, run.ballot))
            s.accept(own.first, own.last, s.term, KEPT)
            at = own.last + 1
    if at <= run.last:
        s.missing.append(Run(at, run.last, run.ballot))


def adopt(s: State, m: Values) -> None:
    """Proposes fetched values that were missing: accepted in the ballot that is adopted, or chosen since."""
    invariant(s.role == Role.LEADER, "only a leader misses what it has to propose")
    end = m.first + m.entries - 1
    still: deque[Run] = deque()
    for run in s.missing:
        first, last = max(run.first, m.first), min(run.last, end)
        if first > last or not (m.is_chosen or m.accepted_in == run.ballot):
            still.append(run)
            continue
        s.accept(first, last, s.term, m.source, first - m.first)
        if run.first < first:
            still.append(Run(run.first, first - 1, run.ballot))
        if last < run.last:
            still.append(Run(last + 1, run.last, run.ballot))
        s.recover_by = s.now + s.config.election_timeout_ns
        s.adopt_at = s.now + s.config.heartbeat_ns // 4  # the rest of the answer may follow
        s.matched = True
    s.missing = still
    if not still:
        s.adopt_at = NEVER


def fetch_missing(s: State) -> None:
    """Asks for the first missing values, each time another of the acceptors that have them."""
    s.adopt_at = s.now + s.config.heartbeat_ns
    for run in list(s.missing)[:ADOPT_REQUESTS]:
        holders = sorted(holders_of(s, run))
        if not holders:  # only this node's own promise told of it: check_recovery gives up
            continue
        to = holders[s.adopt_tries % len(holders)]
        s.messages.append(Fetch(s.node, to, s.term, run.first, run.last, run.ballot))
    s.adopt_tries += 1


def holders_of(s: State, run: Run) -> set[NodeId]:
    """Other acceptors that promised to have accepted the first slot of `run` in its ballot."""
    return {
        node
        for node, parts in s.promises.items()
        if node != s.node
        for part in parts.values()
        for held in part.accepted
        if held.ballot == run.ballot and held.first <= run.first <= held.last
    }
