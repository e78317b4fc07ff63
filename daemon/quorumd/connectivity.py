"""Partial connectivity: which links fail, by the order of the nodes, the leader first. A leaf: imports types only.

The three scenarios of "Omni-Paxos: Breaking the Barriers of Partial Connectivity" (EuroSys 2023, section 2). In each of
them nodes disagree about who is alive; what decides is who still reaches a quorum.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from quorumd.types import NodeId

Link: TypeAlias = tuple[NodeId, NodeId]
"""(from, to): one direction."""


def both_ways(pairs: Iterable[tuple[NodeId, NodeId]]) -> set[Link]:
    """Each link in both directions."""
    return {link for one, other in pairs for link in ((one, other), (other, one))}


def all_but(nodes: Sequence[NodeId], kept: Iterable[tuple[NodeId, NodeId]]) -> list[Link]:
    """Every link between the nodes except those of `kept`, both directions of each, sorted."""
    every = {(one, other) for one in nodes for other in nodes if one != other}
    return sorted(every - both_ways(kept))


def quorum_loss(nodes: Sequence[NodeId]) -> list[Link]:
    """Cuts every link but those of the second node, which alone reaches a quorum: the leader hears only it."""
    return all_but(nodes, [(nodes[1], other) for other in nodes])


def behind(nodes: Sequence[NodeId]) -> list[Link]:
    """Cuts the second node off from the leader, so that its log falls behind."""
    return sorted(both_ways([(nodes[0], nodes[1])]))


def constrained(nodes: Sequence[NodeId]) -> list[Link]:
    """As `quorum_loss`, with the leader gone: who reaches a quorum is behind, if `behind` came before."""
    return all_but(nodes, [(nodes[1], other) for other in nodes[2:]])


def chained(nodes: Sequence[NodeId]) -> list[Link]:
    """Leaves a row in which each node hears only its neighbours, the leader at one end."""
    return all_but(nodes, pairwise(nodes))


class Scenario(NamedTuple):
    """cut: the links that fail, of nodes in their order; first: those that fail some time before the others.

    least_nodes: with fewer of them, the leader or another node besides the second still reaches a quorum, or there is
    no row.
    """

    least_nodes: int
    cut: Callable[[Sequence[NodeId]], list[Link]]
    first: Callable[[Sequence[NodeId]], list[Link]] | None = None


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "quorum-loss": Scenario(4, quorum_loss),
    "constrained": Scenario(4, constrained, behind),
    "chained": Scenario(3, chained),
}
