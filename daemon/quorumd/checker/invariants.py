"""What must be true of a cluster at every moment, seen from outside: facts go in, a Violation comes out.

Whoever watches the nodes (the simulator after every turn) tells what each of them shows: terms, roles, entries, commit
indexes, digests, and what it says to others. Nothing here knows how a node works. The rules of both engines are here,
those of one of them in `raft_invariants.py` and `paxos_invariants.py`.
"""

from collections.abc import Sequence

from quorumd.types import Index, NodeId, Term


class Violation(Exception):
    """A rule was broken. `check` names the rule, a stable word."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check = check
        self.detail = detail


class Invariants:
    """See the module's docstring. `members`: the voters of the cluster."""

    def __init__(self, members: Sequence[NodeId]) -> None:
        self.members = tuple(members)
        self.committed: Index = 0  # the highest index that any node ever took for committed
        self._digests: dict[Index, int] = {}
        self._commit: dict[NodeId, Index] = {}
        self._spoken_term: dict[NodeId, Term] = {}

    def started(self, node: NodeId, term: Term, vote: NodeId) -> None:
        """A new life, with the term and vote that its disk gave back: they cover all that earlier lives said."""
        spoken = self._spoken_term.get(node, 0)
        if term < spoken:
            raise Violation("hard-state-lost", f"node {node} spoke in term {spoken} and came back in term {term}")
        self._commit[node] = 0

    def applied(self, node: NodeId, index: Index, digest: int) -> None:
        """The node's state after `index`."""
        known = self._digests.setdefault(index, digest)
        if known != digest:
            raise Violation("state-differs", f"after {index} node {node} has digest {digest:016x}, others {known:016x}")

    def speaks(self, node: NodeId, term: Term, durable: Term) -> None:
        """A message of the node names its term; `durable` is the one on its disk."""
        if term > durable:
            raise Violation("term-before-durable", f"node {node} spoke in term {term} with term {durable} on its disk")
        if term > self._spoken_term.get(node, 0):
            self._spoken_term[node] = term

    def advances(self, node: NodeId, commit: Index) -> Index:
        """The node takes everything up to `commit` for committed; returns what it did before."""
        before = self._commit.get(node, 0)
        if commit < before:
            raise Violation("commit-moved-back", f"node {node}: from {before} to {commit}")
        self._commit[node] = commit
        self.committed = max(self.committed, commit)
        return before
