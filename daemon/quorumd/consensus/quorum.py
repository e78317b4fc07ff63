"""Majority arithmetic: who has won, and what a majority holds. Pure functions over plain numbers.

Any two majorities of the same members share a node; that one fact carries every safety argument of the engines.
Imports leaf modules only.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence

from quorumd.types import NodeId


class Outcome(enum.IntEnum):
    """State of a vote in which every member speaks at most once."""

    PENDING = 0
    WON = 1
    LOST = 2


def majority(members: int) -> int:
    """Nodes in the smallest majority of `members` nodes."""
    return members // 2 + 1


def outcome(votes: Mapping[NodeId, bool], members: int) -> Outcome:
    """Result of the answers so far; LOST as soon as a majority can no longer be reached.

    `votes` is keyed by node, so a duplicated answer can never count twice.
    """
    granted = sum(votes.values())
    if granted >= majority(members):
        return Outcome.WON
    refused = len(votes) - granted
    return Outcome.LOST if members - refused < majority(members) else Outcome.PENDING


def majority_index(values: Sequence[int]) -> int:
    """Highest value that a majority has reached or passed; one value per member."""
    return sorted(values)[(len(values) - 1) // 2]


def reached(values: Iterable[int], threshold: int, members: int, already: int = 0) -> bool:
    """Whether `already` members plus those with a value at or above `threshold` are a majority."""
    for value in values:
        if value >= threshold:
            already += 1
    return already >= majority(members)
