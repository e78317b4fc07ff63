"""The acceptor: promises and acceptances ("Paxos Made Simple", 2.2; "Made Moderately Complex", figure 2).

P1a: "An acceptor can accept a proposal numbered n iff it has not responded to a prepare request having a number
greater than n." Both what it promised and what it accepted is on disk before it is spoken of: every answer here is
parked until the Durable of its Ready. Nothing here asks in which order slots come: each is an instance of its own.

Why a parked acceptance stays true when this node has promised a higher ballot meanwhile: it says what was accepted in
the ballot that it names, and every later promise was made, and reaches the disk, after that.
"""

from collections.abc import Iterator

from quorumd.consensus.ballotlog import Run
from quorumd.consensus.engine import Role
from quorumd.consensus.paxos import learner
from quorumd.consensus.paxos.detector import follow, in_lease, owns
from quorumd.consensus.paxos.messages import Accept, Accepted, Prepare, Promise
from quorumd.consensus.paxos.roles import preempted, promise
from quorumd.consensus.paxos.state import State
from quorumd.limits import ACCEPTED_RANGES, PROMISE_RUNS
from quorumd.types import NOBODY, Index, NodeId

# -- phase 1 ----------------------------------------------------------------------------------------------------


def on_prepare(s: State, m: Prepare) -> None:
    """Promises, if the ballot is not below an earlier promise and no leader is alive that did not ask for it."""
    if not owns(s, m):
        return
    if m.ballot < s.term or (m.pre and m.ballot == s.term):
        s.speak(Promise(s.node, m.sender, s.term, False, m.pre, s.commit, s.log.first, 0, 1, ()))
        return
    if m.ballot > s.term and not m.transfer and in_lease(s):
        s.set_aside[m.sender] = m
        return
    if m.pre:  # promises nothing, so it waits for nothing
        s.messages.append(Promise(s.node, m.sender, m.ballot, True, True, s.commit, s.log.first, 0, 1, ()))
        return
    if s.role == Role.CANDIDATE:
        preempted(s, m.ballot)
    if m.ballot > s.term:
        promise(s, m.ballot, NOBODY)
    s.rest = True
    # Durable before it is spoken; a repeated one waits as well, for what was accepted since.
    s.after.extend(promise_parts(s, m.sender, m.first))


def promise_parts(s: State, to: NodeId, first: Index) -> Iterator[Promise]:
    """The promise with all that was accepted from `first` on, in parts that each fit a small datagram.

    Slots up to the watermark are left out: `chosen` speaks for them.
    """
    parts = split(list(s.log.runs(max(first, s.commit + 1))))
    for number, part in enumerate(parts):
        yield Promise(s.node, to, s.term, True, False, s.commit, s.log.first, number, len(parts), part)


def split(runs: list[Run]) -> list[tuple[Run, ...]]:
    """Parts of at most PROMISE_RUNS runs. Each begins where its predecessor ends, see messages.Promise."""
    parts: list[tuple[Run, ...]] = []
    at = 0
    while at < len(runs) or not parts:
        part = runs[at : at + PROMISE_RUNS - 1]
        at += len(part)
        if parts and part[0].first > (end := parts[-1][-1].last) + 1:
            part.insert(0, Run(end + 1, part[0].first - 1, 0))
        parts.append(tuple(part))
    return parts


# -- phase 2 ----------------------------------------------------------------------------------------------------


def on_accept(s: State, m: Accept) -> None:
    """Accept of the promised ballot: takes what is new of it, in whatever order it comes."""
    if not follow(s, m):
        return
    if m.entries:
        take(s, m)
    s.ack = True
    learner.hear(s, m.chosen)


def take(s: State, m: Accept) -> None:
    """Accepts the slots above the watermark that are not accepted in this ballot yet: below it all is chosen."""
    first, last = max(m.first, s.commit + 1), m.first + m.entries - 1
    if first > last or (first > s.received + 1 and s.crowded):
        return
    if first > s.log.last:
        s.accept(first, last, m.ballot, m.source, first - m.first)
        return
    for begin, end in list(s.log.below(first, last, m.ballot)):
        s.accept(begin, end, m.ballot, m.source, begin - m.first)


def flush(s: State) -> None:
    """One acknowledgement a Ready, of everything accepted in this ballot so far."""
    s.ack = False
    if s.role != Role.FOLLOWER or s.leader == NOBODY:
        return
    s.after.append(Accepted(s.node, s.leader, s.term, s.received, behind_holes(s)))


def behind_holes(s: State) -> tuple[tuple[Index, Index], ...]:
    """The lowest ranges beyond `received` that are accepted in the promised ballot."""
    if s.log.last == s.received:
        return ()
    runs = s.log.runs(s.received + 1)
    above = [(run.first, run.last) for run in runs if run.ballot == s.term]
    return tuple(above[:ACCEPTED_RANGES])
