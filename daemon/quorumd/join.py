"""What a node with an empty data directory may do: found a cluster, or stay out of votes.

A voter that lost its disk has amnesia: it could vote again in a term it voted in, and help elect a leader that lacks
committed entries. So an empty directory votes only after an explicit bootstrap, and a bootstrap only succeeds while
every member is empty. The cluster id is then the hash of all members' incarnations: each node derives the same id by
itself, and a node wiped later can never derive it again, because its incarnation has moved on.
"""

import struct
from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

from quorumd.errors import UNUSABLE_LOG
from quorumd.transport import BOOTSTRAPPING, Peer
from quorumd.types import Incarnation, NodeId


class Verdict(NamedTuple):
    """cluster: join it now (0: not yet). refusal: stay out for good. waiting: what is missing, for the operator."""

    cluster: int = 0
    refusal: str = ""
    waiting: str = ""


def derive_cluster(incarnations: Mapping[NodeId, Incarnation]) -> int:
    """The 64-bit id of the cluster that exactly these lives found together."""
    state = blake2b(digest_size=8, person=b"quorumd found")
    for node in sorted(incarnations):
        state.update(struct.pack("<HQ", node, incarnations[node]))
    return int.from_bytes(state.digest(), "little") | 1


def judge(
    node: NodeId, incarnation: Incarnation, peers: Mapping[NodeId, Peer], *, bootstrap: bool, refused: str = ""
) -> Verdict:
    """What an empty node may do, from what its peers said in their handshakes."""
    derived = derive_cluster({node: incarnation, **{peer.node: peer.incarnation for peer in peers.values()}})
    for peer in peers.values():
        if peer.answered and peer.cluster and not (bootstrap and peer.cluster == derived):
            if bootstrap and not all(other.answered for other in peers.values()):
                continue
            return Verdict(
                refusal=f"the data directory is empty, but node {peer.node} belongs to cluster {peer.cluster:016x}: "
                f"a voter that lost its disk must not vote; {UNUSABLE_LOG}; or start a new cluster with every "
                "directory empty"
            )
    missing = [peer.node for peer in peers.values() if not peer.answered]
    if not bootstrap:
        return Verdict(waiting="the data directory is empty; start every node with --bootstrap to found a cluster")
    if missing:
        return Verdict(waiting=f"bootstrapping needs every node once; no answer from {missing} yet")
    idle = [peer.node for peer in peers.values() if not peer.cluster and not peer.flags & BOOTSTRAPPING]
    if idle:
        return Verdict(waiting=f"nodes {idle} were started without --bootstrap")
    return Verdict(cluster=derived)
