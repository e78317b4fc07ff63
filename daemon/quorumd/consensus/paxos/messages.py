"""Multi-Paxos's messages between nodes, in the words of Lamport's "Paxos Made Simple" and of van Renesse & Altinbuken's
"Paxos Made Moderately Complex" (there: p1a, p1b, p2a, p2b).

Any of them can be lost, duplicated, reordered, delayed past a restart. Heartbeat, HeartbeatReply and TimeoutNow are
shared with Raft (`consensus/messages.py`); their `term` is the ballot. `transport.py` maps all of them to frames and
knows a ballot as a term. Imports leaf modules only.
"""

from typing import NamedTuple

from quorumd.consensus.ballotlog import Run
from quorumd.types import Index, NodeId, Term

Ballot = Term
"""(round, node id) packed by `ballots.py` into one integer that orders like the pair; 0 is below every ballot."""


class Prepare(NamedTuple):
    """Phase 1a for all slots from `first` on.

    `pre`: would you promise? Nobody's state changes. `transfer`: the sitting leader asked for it; a node that hears
    that leader answers all the same.
    """

    sender: NodeId
    to: NodeId
    ballot: Ballot
    first: Index
    pre: bool
    transfer: bool

    @property
    def term(self) -> Term:
        return self.ballot


class Promise(NamedTuple):
    """Phase 1b. Granted: `ballot` is the one asked for, and the acceptor will accept nothing below it.

    `chosen` is the acceptor's watermark, `retained` the first slot it still has: every slot at or below `chosen`, or
    below `retained`, is chosen and must be fetched, never filled. `accepted` are its runs above `chosen`, from the
    asked slot on, in `parts` messages numbered from 0: they are one promise, and count when all of them are there. Each
    part begins where its predecessor ended, with a run of ballot 0 if nothing is accepted there: parts of two answers
    that leave a slot unspoken of do not pass for one.

    Not granted: `ballot` is the higher one that this acceptor promised (or, to a pre-prepare, its own promise, if it
    hears a leader).
    """

    sender: NodeId
    to: NodeId
    ballot: Ballot
    granted: bool
    pre: bool
    chosen: Index
    retained: Index
    part: int
    parts: int
    accepted: tuple[Run, ...]

    @property
    def term(self) -> Term:
        return self.ballot


class Accept(NamedTuple):
    """Phase 2a: slots first .. first+entries-1 have these values in `ballot`. `chosen` is the leader's watermark.

    A slot at or below `chosen` is chosen if the receiver accepted it in this very ballot. `source` is the handle to the
    bytes (never looked at by the engine); None when sending: the bytes are in the log.
    """

    sender: NodeId
    to: NodeId
    ballot: Ballot
    first: Index
    entries: int
    chosen: Index
    source: object = None

    @property
    def term(self) -> Term:
        return self.ballot


class Accepted(NamedTuple):
    """Phase 2b: every slot up to `match` is, durably, accepted here in `ballot` or known to be chosen; so are the slots
    of `above` (first, last), which lie behind holes. Cumulative: true however late it arrives.
    """

    sender: NodeId
    to: NodeId
    ballot: Ballot
    match: Index
    above: tuple[tuple[Index, Index], ...]

    @property
    def term(self) -> Term:
        return self.ballot


class Refused(NamedTuple):
    """The answer to an Accept, heartbeat or fetch of a ballot below `ballot`, which this acceptor promised."""

    sender: NodeId
    to: NodeId
    ballot: Ballot

    @property
    def term(self) -> Term:
        return self.ballot


class Fetch(NamedTuple):
    """Asks for the values of slots first..last.

    `accepted_in` 0: those the receiver knows to be chosen, as many as it has. Else those it accepted in that ballot:
    what a proposer adopts and does not have itself. `ballot` is the sender's promise, so that the answer finds it.
    """

    sender: NodeId
    to: NodeId
    ballot: Ballot
    first: Index
    last: Index
    accepted_in: Ballot

    @property
    def term(self) -> Term:
        return self.ballot


class Values(NamedTuple):
    """Answers a Fetch: slots first .. first+entries-1, all accepted in `accepted_in`; `is_chosen`: known to be chosen.

    `source` as in Accept. `ballot` repeats the Fetch's.
    """

    sender: NodeId
    to: NodeId
    ballot: Ballot
    first: Index
    entries: int
    accepted_in: Ballot
    is_chosen: bool
    source: object = None

    @property
    def term(self) -> Term:
        return self.ballot


PaxosMessage = Prepare | Promise | Accept | Accepted | Refused | Fetch | Values

__all__ = [
    "Accept",
    "Accepted",
    "Ballot",
    "Fetch",
    "PaxosMessage",
    "Prepare",
    "Promise",
    "Refused",
    "Run",
    "Values",
]
