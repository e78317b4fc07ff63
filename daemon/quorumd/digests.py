"""Do the replicas still hold the same state? Compares the digests that acknowledgements carry.

Every node digests its state at the same indexes (multiples of limits.DIGEST_EVERY). The node in the minority stops,
the leader included; if no digest has a majority, whoever notices stops too: nobody can say which state is right.
Imports leaf modules only.
"""

from collections.abc import Callable

from quorumd.types import Index, NodeId

REMEMBERED = 16


class DigestJudge:
    """Collects (index, digest) per node and says whether this node may go on."""

    def __init__(self, node: NodeId, voters: int, own: Callable[[Index], int | None]) -> None:
        self._node = node
        self._quorum = voters // 2 + 1
        self._voters = voters
        self._own = own
        self._votes: dict[Index, dict[NodeId, int]] = {}
        self.agreed: tuple[Index, int] = (0, 0)  # newest index a majority agrees on, and its digest

    def hear(self, node: NodeId, index: Index, digest: int) -> str:
        """A peer's digest; the reason to stop, or ""."""
        if index == 0 or index < self.agreed[0]:
            return ""
        own = self._own(index)
        if own is None:
            return ""
        votes = self._votes.setdefault(index, {})
        votes[node] = digest
        votes[self._node] = own
        while len(self._votes) > REMEMBERED:
            del self._votes[min(self._votes)]
        return self._judge(index, votes, own)

    def _judge(self, index: Index, votes: dict[NodeId, int], own: int) -> str:
        counts: dict[int, int] = {}
        for digest in votes.values():
            counts[digest] = counts.get(digest, 0) + 1
        best, count = max(counts.items(), key=lambda item: item[1])
        if count >= self._quorum:
            self.agreed = (index, best)
            return "" if own == best else self._reason(index, own, best)
        if count + self._voters - len(votes) < self._quorum:
            return f"no majority agrees on the state at index {index}: {votes}"
        return ""

    def told(self, index: Index, digest: int) -> str:
        """The leader says what a majority has at `index`; the reason to stop, or ""."""
        own = self._own(index) if index else None
        return "" if own is None or own == digest else self._reason(index, own, digest)

    @staticmethod
    def _reason(index: Index, own: int, majority: int) -> str:
        return (
            f"state at index {index} has digest {own:016x} here and {majority:016x} on a majority: "
            "this replica diverged; keep its directory for analysis and restart it with an empty one"
        )
