"""Raft's messages between nodes, one type each, in the words of Ongaro's thesis ("Consensus: Bridging Theory and
Practice").

Any of them can be lost, duplicated, reordered, delayed past a restart. `transport.py` maps them to frames; the field
order here is the order in the frame bodies documented in ARCHITECTURE.md. Imports leaf modules only.
"""

from typing import Final, NamedTuple

from quorumd.types import Index, NodeId, Term

REFUSED: Final = object()
"""In place of a source: entries came that this node could not keep, and the leader is to know."""


class RequestVote(NamedTuple):
    """Thesis 3.4, 3.6.1; `pre` marks the pre-vote of 9.6 (term is then the term the sender *would* run in).

    `transfer` is set when the sitting leader asked for this election (3.10): check-quorum's lease is then ignored.
    """

    sender: NodeId
    to: NodeId
    term: Term
    last_index: Index
    last_term: Term
    pre: bool
    transfer: bool


class RequestVoteReply(NamedTuple):
    """`term` of a granted pre-vote is the term asked for; of anything else the voter's own."""

    sender: NodeId
    to: NodeId
    term: Term
    granted: bool
    pre: bool


class AppendEntries(NamedTuple):
    """`entries` entries prev_index+1 .. prev_index+entries, all of `entries_term` (thesis 3.5); without any, a probe.

    `source` is the handle to the bytes (never looked at by the engine); None when sending: the bytes are in the log.
    Or REFUSED, of a message that lost its entries to it and is a probe now.
    """

    sender: NodeId
    to: NodeId
    term: Term
    prev_index: Index
    prev_term: Term
    commit: Index
    entries_term: Term
    entries: int
    source: object = None


class AppendEntriesReply(NamedTuple):
    """Accepted: `match` is durable here and equal to the sender's log. Rejected: entry `prev_index` did not match.

    hint_index/hint_term (thesis 3.5, fast back-up): the last entry of the follower at or below `prev_index`,
    already moved back to a term not above the leader's prev_term. `refused`, of a rejection only: the highest
    `prev_index` of a message that came whole since, and was given up for want of room; 0: none.
    """

    sender: NodeId
    to: NodeId
    term: Term
    match: Index
    rejected: bool
    prev_index: Index
    hint_index: Index
    hint_term: Term
    refused: Index = 0


class Heartbeat(NamedTuple):
    """Keeps followers from campaigning and confirms reads. `commit` never exceeds what the receiver has acked.

    `round` is numbered per leader and term; an answer confirms that round and no later one.
    """

    sender: NodeId
    to: NodeId
    term: Term
    commit: Index
    round: int


class HeartbeatReply(NamedTuple):
    """`last` is the follower's last index: a leader with nothing in flight learns from it that a tail was lost."""

    sender: NodeId
    to: NodeId
    term: Term
    round: int
    last: Index


class TimeoutNow(NamedTuple):
    """The leader asks the receiver to campaign at once (thesis 3.10)."""

    sender: NodeId
    to: NodeId
    term: Term


PeerMessage = (
    RequestVote | RequestVoteReply | AppendEntries | AppendEntriesReply | Heartbeat | HeartbeatReply | TimeoutNow
)
