"""Ballots: (round, node id), packed into one integer so that the log, the WAL and the wire treat one like a term.

The order of the integers is that of the pairs, no two nodes ever use one ballot, and a node that needs a higher one
than any it has seen takes the next round ("Paxos Made Moderately Complex", section 2.2). Imports leaf modules only.
"""

from typing import Final

from quorumd.consensus.paxos.messages import Ballot
from quorumd.types import NodeId

NODE_BITS: Final = 16
NO_BALLOT: Final[Ballot] = 0


def ballot(round_: int, node: NodeId) -> Ballot:
    """The ballot of `node` in a round (from 1 on)."""
    return round_ << NODE_BITS | node


def round_of(of: Ballot) -> int:
    """The round of a ballot; 0 of NO_BALLOT."""
    return of >> NODE_BITS


def node_of(of: Ballot) -> NodeId:
    """Whose ballot it is; 0 of NO_BALLOT."""
    return of & ((1 << NODE_BITS) - 1)


def next_ballot(above: Ballot, node: NodeId) -> Ballot:
    """The lowest ballot of `node` in a round above that of `above`."""
    return ballot(round_of(above) + 1, node)
