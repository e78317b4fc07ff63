"""Do the replicas still hold the same state? Compares the digests that acknowledgements carry.

Every node digests its state at the same indexes (multiples of limits.DIGEST_EVERY). The node in the minority stops,
the leader included; if no digest has a majority, whoever notices stops too: nobody can say which state is right.

Digests are chained, so a replica that diverged is told so again at every later index, and never the contrary. A forged
datagram can claim a divergence but cannot hold back the genuine ones that follow. So without a cluster key a reason to
stop must stand for a while, in which no agreement at that index or a later one is heard.
Imports leaf modules only.
"""

from collections.abc import Callable

from quorumd.types import Index, Nanoseconds, NodeId

REMEMBERED = 16


class DigestJudge:
    """Collects (index, digest) per node and says whether this node may go on.

    own: this node's digest at an index, if it still has it. stands_for: how long a reason to stop must stand, in ns.
    """

    def __init__(
        self, node: NodeId, voters: int, own: Callable[[Index], int | None], stands_for: Nanoseconds = 0
    ) -> None:
        self._node = node
        self._quorum = voters // 2 + 1
        self._voters = voters
        self._own = own
        self._stands_for = stands_for
        self._suspect: tuple[Index, Nanoseconds, str] | None = None  # oldest reason not refuted: index, since, reason
        self._votes: dict[Index, dict[NodeId, int]] = {}
        self.agreed: tuple[Index, int] = (0, 0)  # newest index a majority agrees on, and its digest
        # Found equal to our own since the last reset. While nothing is doubted, hearing it again changes nothing.
        self.confirmed: tuple[Index, int] = (0, 0)

    def reset(self) -> None:
        """Another leader, or none: what was heard under the last one is void."""
        self._suspect = None
        self._votes.clear()
        self.confirmed = (0, 0)

    @property
    def doubts(self) -> bool:
        """Whether there is a reason to stop that is not refuted, however young."""
        return self._suspect is not None

    def standing(self, now: Nanoseconds) -> str:
        """The reason to stop, once it has stood for long enough; else ""."""
        suspect = self._suspect
        return suspect[2] if suspect is not None and now - suspect[1] >= self._stands_for else ""

    def _judged(self, index: Index, own: int, right: int, now: Nanoseconds) -> None:
        """Compares our digest at `index` with the right one."""
        if own == right:
            self.confirmed = (index, own)
        self._note(index, "" if own == right else self._reason(index, own, right), now)

    def _note(self, index: Index, reason: str, now: Nanoseconds) -> None:
        if reason:
            self._suspect = self._suspect or (index, now, reason)
        elif self._suspect is not None and index >= self._suspect[0]:
            self._suspect = None

    def hear(self, node: NodeId, index: Index, digest: int, now: Nanoseconds) -> None:
        """A peer's digest, for a leader to compare."""
        if index == 0 or index < self.agreed[0]:
            return
        own = self._own(index)
        if own is None:
            return
        votes = self._votes.setdefault(index, {})
        votes[node] = digest
        votes[self._node] = own
        while len(self._votes) > REMEMBERED:
            del self._votes[min(self._votes)]
        self._judge(index, votes, own, now)

    def _judge(self, index: Index, votes: dict[NodeId, int], own: int, now: Nanoseconds) -> None:
        counts: dict[int, int] = {}
        for digest in votes.values():
            counts[digest] = counts.get(digest, 0) + 1
        best, count = max(counts.items(), key=lambda item: item[1])
        if count >= self._quorum:
            self.agreed = (index, best)
            self._judged(index, own, best, now)
        elif count + self._voters - len(votes) < self._quorum:
            self._note(index, f"no majority agrees on the state at index {index}: {votes}", now)

    def told(self, index: Index, digest: int, now: Nanoseconds) -> None:
        """The leader says what a majority has at `index`."""
        own = self._own(index) if index else None
        if own is not None:
            self._judged(index, own, digest, now)

    @staticmethod
    def _reason(index: Index, own: int, majority: int) -> str:
        return (
            f"state at index {index} has digest {own:016x} here and {majority:016x} on a majority: "
            "this replica diverged; keep its directory for analysis and leave it down: the others serve"
        )
