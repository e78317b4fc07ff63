"""Raft's rules, of the thesis: election safety, leader append-only, log matching, leader completeness, state machine
safety (figure 3.2), and the durability that they stand on.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from quorumd.checker.invariants import Invariants, Violation
from quorumd.types import Index, NodeId, Term


class Entry(NamedTuple):
    """One log entry as a node shows it: its term, the term before it, a checksum of its bytes (None: not visible)."""

    term: Term
    prev_term: Term
    checksum: int | None


class RaftInvariants(Invariants):
    """See the module's docstring."""

    def __init__(self, members: Sequence[NodeId]) -> None:
        super().__init__(members)
        self._leaders: dict[Term, NodeId] = {}
        self._entries: dict[tuple[Index, Term], Entry] = {}
        self._committed: list[Term] = []  # term of entry i + 1
        self._votes: dict[tuple[NodeId, Term], NodeId] = {}
        self._acked: dict[Term, dict[NodeId, Index]] = {}

    # -- what a node is -----------------------------------------------------------------------------------------

    def started(self, node: NodeId, term: Term, vote: NodeId) -> None:
        """See Invariants.started."""
        super().started(node, term, vote)
        promised = self._votes.get((node, term))
        if promised is not None and promised != vote:
            raise Violation(
                "hard-state-lost", f"node {node} voted for {promised} in term {term} and came back with {vote}"
            )

    def leads(self, node: NodeId, term: Term, term_at: Callable[[Index], Term | None]) -> None:
        """The node leads the term. Election safety; and leader completeness, when it begins to."""
        other = self._leaders.setdefault(term, node)
        if other != node:
            raise Violation("two-leaders", f"nodes {other} and {node} both lead term {term}")
        voters = [member for member in self.members if member == node or self._votes.get((member, term)) == node]
        if len(voters) <= len(self.members) // 2:
            raise Violation("elected-by-too-few", f"node {node} leads term {term} by the votes of {voters} only")
        last = len(self._committed)
        if last and self._committed[-1] < term and term_at(last) != self._committed[-1]:
            raise Violation(
                "leader-completeness",
                f"node {node} leads term {term} without entry {last} of term {self._committed[-1]}, which is committed "
                f"(it has {term_at(last)} there)",
            )

    def appended(self, node: NodeId, first: Index, entries: Sequence[Entry]) -> None:
        """The node's log has these entries from `first` on. Log matching: one index and term, one entry, one past."""
        for index, entry in enumerate(entries, first):
            known = self._entries.setdefault((index, entry.term), entry)
            if known is entry or known == entry:
                continue
            if known.prev_term != entry.prev_term:
                raise Violation(
                    "log-matching",
                    f"entry {index} of term {entry.term} follows term {entry.prev_term} on node {node}, "
                    f"but term {known.prev_term} elsewhere",
                )
            if known.checksum is None:
                self._entries[index, entry.term] = entry
            elif entry.checksum is not None:
                raise Violation("log-matching", f"entry {index} of term {entry.term} on node {node} has other bytes")

    def shortened(self, node: NodeId, keeps: Index, led: bool) -> None:
        """The node's log was cut behind `keeps`. A leader only appends; nobody cuts what it knows to be committed."""
        if led:
            raise Violation("leader-append-only", f"node {node} cut its log behind {keeps} while it led")
        commit = self._commit.get(node, 0)
        if keeps < commit:
            raise Violation("committed-cut", f"node {node} cut its log behind {keeps}; {commit} is committed")

    def commits(self, node: NodeId, commit: Index, term_at: Callable[[Index], Term | None]) -> None:
        """The node takes everything up to `commit` for committed. State machine safety, entry by entry."""
        before = self.advances(node, commit)
        committed = self._committed
        for index in range(before + 1, commit + 1):
            term = term_at(index)
            if term is None:
                raise Violation("committed-missing", f"node {node} committed {commit} but does not hold {index}")
            if index > len(committed):
                committed.append(term)
            elif committed[index - 1] != term:
                raise Violation(
                    "committed-differs",
                    f"entry {index} is committed with term {committed[index - 1]}, on node {node} with term {term}",
                )

    # -- what a node says ---------------------------------------------------------------------------------------

    def votes(self, node: NodeId, term: Term, candidate: NodeId, durable: tuple[Term, NodeId]) -> None:
        """A message of the node grants its vote: one a term, through all its lives. `durable`: what its disk says."""
        if (term, candidate) != durable and term >= durable[0]:
            raise Violation("vote-before-durable", f"node {node} voted in term {term}; its disk has {durable}")
        other = self._votes.setdefault((node, term), candidate)
        if other != candidate:
            raise Violation("voted-twice", f"node {node} voted for {other} and for {candidate} in term {term}")

    def acknowledges(self, node: NodeId, term: Term, match: Index, durable: bool) -> None:
        """A message of the node says that it has everything up to `match` on its disk."""
        if not durable:
            raise Violation("ack-before-durable", f"node {node} acknowledged {match} before it was on its disk")
        acked = self._acked.setdefault(term, {})
        acked[node] = max(acked.get(node, 0), match)

    def leader_commits(
        self, node: NodeId, term: Term, commit: Index, entry_term: Term | None, own_durable: bool
    ) -> None:
        """The leader of `term` counts `commit` as held by a quorum: enough nodes have said so, itself by its disk.

        It counts entries of its own term only (3.6.2): an older one can be on a majority and yet be overwritten.
        """
        if entry_term != term:
            raise Violation("older-term-counted", f"node {node} committed {commit} of term {entry_term} in term {term}")
        acked = self._acked.get(term, {})
        holders = {other for other, match in acked.items() if match >= commit and other != node}
        if own_durable:
            holders.add(node)
        if len(holders) <= len(self.members) // 2:
            raise Violation(
                "commit-before-quorum",
                f"node {node} committed {commit} in term {term}; only nodes {sorted(holders)} have it on their disks",
            )
