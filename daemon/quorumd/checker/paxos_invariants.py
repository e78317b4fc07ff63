"""Multi-Paxos's rules, seen from outside.

A ballot belongs to one node, and has one value for a slot ("Paxos Made Moderately Complex", invariants A and C1); an
acceptor promises and accepts on its disk first; a value is chosen when a phase-2 quorum accepted it in one ballot, and
from then on every higher ballot proposes that value alone ("Paxos Made Simple", P2b). Values are told apart by their
checksums.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from quorumd.checker.invariants import Invariants, Violation
from quorumd.types import Index, NodeId, Term


class PaxosInvariants(Invariants):
    """See the module's docstring. `phase1`, `phase2`: the sizes of the quorums; `owner`: whose a ballot is."""

    def __init__(
        self, members: Sequence[NodeId], phase1: int, phase2: int, owner: Callable[[Term], NodeId]
    ) -> None:
        super().__init__(members)
        self._phase1, self._phase2, self._owner = phase1, phase2, owner
        self._values: dict[tuple[Index, Term], int] = {}  # of a slot in a ballot
        self._chosen: dict[Index, tuple[int, Term]] = {}  # value, and the lowest ballot it was chosen in
        self._promised: defaultdict[Term, set[NodeId]] = defaultdict(set)
        self._accepted: defaultdict[tuple[Index, Term], set[NodeId]] = defaultdict(set)
        self._bound: defaultdict[NodeId, Term] = defaultdict(int)  # highest promise that it gave
        self._said: defaultdict[NodeId, dict[Index, Term]] = defaultdict(dict)  # highest ballot named for each slot

    def leads(self, node: NodeId, ballot: Term) -> None:
        """The node leads in `ballot`: its own, and by the promises of a phase-1 quorum, itself among them."""
        if self._owner(ballot) != node:
            raise Violation("foreign-ballot", f"node {node} leads in ballot {ballot} of node {self._owner(ballot)}")
        promised = self._promised[ballot] | {node}
        if len(promised) < self._phase1:
            raise Violation(
                "elected-by-too-few", f"node {node} leads in ballot {ballot} by the promises of {sorted(promised)} only"
            )

    def proposes(
        self, node: NodeId, ballot: Term, base: Index, last: Index, ballot_at: Callable[[Index], Term | None]
    ) -> None:
        """The leader takes proposals, so it has proposed again all that is open: base+1..last, without a hole."""
        for slot in range(base + 1, last + 1):
            if ballot_at(slot) != ballot:
                raise Violation("hole-left", f"node {node} leads in {ballot} and proposed nothing for slot {slot}")

    def promises(self, node: NodeId, ballot: Term, durable: Term) -> None:
        """A message of the node promises to accept nothing below `ballot`; `durable` is the promise on its disk."""
        if durable < ballot:
            raise Violation("promise-before-durable", f"node {node} promised {ballot} with {durable} on its disk")
        self._promised[ballot].add(node)
        self._bound[node] = max(self._bound[node], ballot)

    def accepts(self, node: NodeId, ballot: Term) -> None:
        """The node says that it accepted something in `ballot`: what it accepted before it promised, it said before."""
        if ballot < self._bound[node]:
            raise Violation("accepted-below-promise", f"node {node} promised {self._bound[node]}, accepted in {ballot}")

    def takes(self, node: NodeId, ballot: Term, first: Index, values: Iterable[int | None]) -> None:
        """The node's log has these values (None: not visible) for slots from `first` on, as of `ballot`."""
        for slot, value in enumerate(values, first):
            if value is None:
                continue
            known = self._values.setdefault((slot, ballot), value)
            if known != value:
                raise Violation("two-values", f"slot {slot} in ballot {ballot}, one of them on node {node}")
            self._keeps(slot, ballot, value, node)

    def holds(self, node: NodeId, ballot_at: Callable[[Index], Term | None]) -> None:
        """What a node's disk gave back, in `ballot_at`: nothing less than it ever said that it accepted."""
        for slot, said in self._said[node].items():
            if (ballot_at(slot) or 0) < said:
                raise Violation(
                    "acceptance-lost", f"node {node} accepted slot {slot} in {said}, came back with {ballot_at(slot)}"
                )

    def accepted_once(self, node: NodeId, ballot: Term, slots: Iterable[Index]) -> None:
        """The node accepted the slots in `ballot`, or knew them chosen, before it promised a higher one."""
        for slot in slots:
            self._accepted[slot, ballot].add(node)

    def accepted(
        self,
        node: NodeId,
        ballot: Term,
        slots: Iterable[Index],
        ballot_at: Callable[[Index], Term | None],
        durable: Callable[[Index], bool],
    ) -> None:
        """The node says that it accepted the slots, none of which it knows to be chosen, in `ballot`."""
        said = self._said[node]
        for slot in slots:
            if not durable(slot):
                raise Violation("ack-before-durable", f"node {node} accepted slot {slot} before it was on its disk")
            if ballot_at(slot) != ballot:
                raise Violation(
                    "ack-of-another", f"node {node} has slot {slot} in {ballot_at(slot)} and says so in {ballot}"
                )
            said[slot] = ballot
            holders = self._accepted[slot, ballot]
            holders.add(node)
            value = self._values.get((slot, ballot))
            if value is not None and len(holders) >= self._phase2:
                self._choose(slot, ballot, value, node)

    def leader_commits(
        self, node: NodeId, ballot: Term, before: Index, commit: Index, durable: Callable[[Index], bool]
    ) -> None:
        """The leader of `ballot` counts slots before+1..commit as chosen: a phase-2 quorum accepted each, or knows."""
        for slot in range(before + 1, commit + 1):
            if (slot, ballot) not in self._values:
                continue  # chosen before this ballot: the leader fetched it
            holders = self._accepted[slot, ballot] | ({node} if durable(slot) else set())
            holders |= {other for other in self.members if other != node and self._commit.get(other, 0) >= slot}
            if len(holders) < self._phase2:
                raise Violation(
                    "commit-before-quorum",
                    f"node {node} counts slot {slot} as chosen in ballot {ballot}; accepted by {sorted(holders)} only",
                )

    def commits(self, node: NodeId, commit: Index, ballot_at: Callable[[Index], Term | None]) -> None:
        """The node takes every slot up to `commit` for chosen."""
        for slot in range(self.advances(node, commit) + 1, commit + 1):
            ballot = ballot_at(slot)
            if ballot is None:
                raise Violation("chosen-missing", f"node {node} takes {commit} for chosen but does not hold {slot}")
            value = self._values.get((slot, ballot))
            if value is not None:
                self._choose(slot, ballot, value, node)

    def _choose(self, slot: Index, ballot: Term, value: int, node: NodeId) -> None:
        known, lowest = self._chosen.setdefault(slot, (value, ballot))
        if known != value:
            raise Violation("chosen-differs", f"slot {slot} is chosen with two values, one of them on node {node}")
        if ballot < lowest:
            self._chosen[slot] = value, ballot

    def _keeps(self, slot: Index, ballot: Term, value: int, node: NodeId) -> None:
        known = self._chosen.get(slot)
        if known is not None and ballot >= known[1] and known[0] != value:
            raise Violation(
                "chosen-overwritten", f"node {node} took another value for slot {slot} in ballot {ballot}, which was "
                f"chosen in ballot {known[1]}",
            )  # fmt: skip
