"""Quorum arithmetic: who has won, and what a quorum holds. Pure functions over plain numbers.

Any two majorities of the same members share a node; that one fact carries every safety argument of Raft. Paxos needs
less: every phase-1 quorum shares a node with every phase-2 quorum (Howard, Malkhi & Spiegelman, "Flexible Paxos").
Imports leaf modules only.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from quorumd.consensus.ranges import covered_end
from quorumd.types import Index, NodeId


class Outcome(enum.IntEnum):
    """State of a vote in which every member speaks at most once."""

    PENDING = 0
    WON = 1
    LOST = 2


Ranges: TypeAlias = Sequence[tuple[Index, Index]]
"""(first, last) of ranges, ascending and disjoint."""


def majority(members: int) -> int:
    """Nodes in the smallest majority of `members` nodes."""
    return members // 2 + 1


def intersect(first: int, second: int, members: int) -> bool:
    """Whether any `first` of the members share a node with any `second` of them."""
    return first + second > members


def outcome(votes: Mapping[NodeId, bool], members: int, quorum: int = 0) -> Outcome:
    """Result of the answers so far; LOST as soon as `quorum` (0: a majority) of them can no longer be granted.

    `votes` is keyed by node, so a duplicated answer can never count twice.
    """
    quorum = quorum or majority(members)
    granted = sum(votes.values())
    if granted >= quorum:
        return Outcome.WON
    refused = len(votes) - granted
    return Outcome.LOST if members - refused < quorum else Outcome.PENDING


def majority_index(values: Sequence[int]) -> int:
    """Highest value that a majority has reached or passed; one value per member."""
    return sorted(values)[(len(values) - 1) // 2]


def quorum_index(values: Sequence[int], quorum: int) -> int:
    """Highest value that `quorum` members have reached or passed; one value per member."""
    return sorted(values)[-quorum]


def covered_upto(first: Index, matches: Sequence[Index], above: Sequence[Ranges], quorum: int) -> Index:
    """Last index of the stretch from `first` on of which every single index is held by `quorum` members.

    first - 1 if there is none. The members hold everything up to matches[i], and above[i] beyond it. It is not always
    the same members who hold an index: that is why the matches alone are not enough with holes.
    """
    if not any(above):
        return max(quorum_index(matches, quorum), first - 1)
    upto = first - 1
    while True:
        at = upto + 1
        ends = [match if match >= at else covered_end(ranges, at) for match, ranges in zip(matches, above, strict=True)]
        end = quorum_index(ends, quorum)
        if end < at:
            return upto
        upto = end


def reached(values: Iterable[int], threshold: int, members: int, already: int = 0, quorum: int = 0) -> bool:
    """Whether `already` members plus those with a value at or above `threshold` are a quorum (0: a majority)."""
    for value in values:
        if value >= threshold:
            already += 1
    return already >= (quorum or majority(members))
