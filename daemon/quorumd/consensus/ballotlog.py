"""What a Multi-Paxos engine keeps of its log: the ballot in which each slot was accepted, never the value.

Unlike Raft's log it has holes, and ballots rise and fall along it. One proposer writes long stretches, so a handful of
runs (first, last, ballot) describes millions of slots. Imports leaf modules only.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from quorumd.invariants import invariant
from quorumd.types import Index, Term


class Run(NamedTuple):
    """Slots first..last, every one accepted in `ballot`."""

    first: Index
    last: Index
    ballot: Term


class BallotLog:
    """Runs of slots accepted in one ballot; slots 1..base are not held.

    `base`, `first` and `last` are plain attributes because the hot path lives on them; only this class writes.
    """

    __slots__ = ("_ballots", "_firsts", "_lasts", "base", "first", "last")

    def __init__(self, base: Index = 0) -> None:
        self.base = base
        self.first: Index = base + 1  # lowest slot this log can hold, accepted or not
        self.last: Index = base  # highest accepted slot; base when there is none
        # Of one length, one element a run. Runs ascend, do not overlap, and where two touch their ballots differ.
        self._firsts: list[Index] = []
        self._lasts: list[Index] = []
        self._ballots: list[Term] = []

    @property
    def count(self) -> int:
        """Number of runs."""
        return len(self._firsts)

    def count_from(self, slot: Index) -> int:
        """Number of runs that end at `slot` or behind it."""
        return len(self._lasts) - bisect_left(self._lasts, slot)

    def ballot_at(self, slot: Index) -> Term | None:
        """Ballot in which `slot` was accepted; None for a hole, beyond `last`, and at or below `base`."""
        if slot > self.last or slot <= self.base:
            return None
        if slot >= self._firsts[-1]:
            return self._ballots[-1]
        run = bisect_left(self._lasts, slot)
        return self._ballots[run] if self._firsts[run] <= slot else None

    def accept(self, first: Index, last: Index, ballot: Term) -> None:
        """Slots first..last are now accepted in `ballot`, whatever was there; their neighbours stay as they are."""
        invariant(self.base < first <= last, "a run is not empty and lies above the base")
        firsts, lasts, ballots = self._firsts, self._lasts, self._ballots
        if first == self.last + 1 and ballots and ballots[-1] == ballot:
            lasts[-1] = self.last = last
            return
        # Runs lo..hi-1 overlap or touch the new one: equal ones melt into it, what sticks out of others remains.
        lo = bisect_left(lasts, first - 1)
        hi = bisect_right(firsts, last + 1)
        pieces = []
        if lo < hi and firsts[lo] < first:
            if ballots[lo] == ballot:
                first = firsts[lo]
            else:
                pieces.append(Run(firsts[lo], min(lasts[lo], first - 1), ballots[lo]))
        tail = None
        if lo < hi and lasts[hi - 1] > last:
            if ballots[hi - 1] == ballot:
                last = lasts[hi - 1]
            else:
                tail = Run(max(firsts[hi - 1], last + 1), lasts[hi - 1], ballots[hi - 1])
        pieces.append(Run(first, last, ballot))
        if tail:
            pieces.append(tail)
        firsts[lo:hi] = [run.first for run in pieces]
        lasts[lo:hi] = [run.last for run in pieces]
        ballots[lo:hi] = [run.ballot for run in pieces]
        self.last = lasts[-1]

    def run_end(self, slot: Index) -> Index:
        """Last slot of the run that the accepted `slot` is in."""
        if self._firsts and self._firsts[-1] <= slot <= self.last:
            return self.last
        run = bisect_left(self._lasts, slot)
        invariant(run < len(self._lasts) and self._firsts[run] <= slot, "only an accepted slot is in a run")
        return self._lasts[run]

    def upto(self, first: Index) -> Index:
        """Last slot of the hole-free stretch that begins at `first`; first - 1 if `first` is a hole."""
        run = bisect_left(self._lasts, first)
        end = first - 1
        while run < len(self._lasts) and self._firsts[run] <= end + 1:
            end = self._lasts[run]
            run += 1
        return end

    def runs(self, first: Index = 1, last: Index | None = None) -> Iterator[Run]:
        """The runs between `first` and `last`, cut to that range, ascending."""
        if last is None:
            last = self.last
        run = bisect_left(self._lasts, first)
        while run < len(self._lasts) and self._firsts[run] <= last:
            yield Run(max(self._firsts[run], first), min(self._lasts[run], last), self._ballots[run])
            run += 1

    def holes(self, first: Index, last: Index) -> Iterator[tuple[Index, Index]]:
        """The stretches of first..last in which nothing was accepted, ascending."""
        return self.below(first, last, 0)

    def below(self, first: Index, last: Index, ballot: Term) -> Iterator[tuple[Index, Index]]:
        """The longest stretches of first..last in which nothing was accepted in `ballot` or above, ascending."""
        at = first
        for run in self.runs(first, last):
            if run.ballot >= ballot:
                if at < run.first:
                    yield at, run.first - 1
                at = run.last + 1
        if at <= last:
            yield at, last
