"""In which ballot each slot was accepted: the log of Multi-Paxos without its bytes. It may have holes.

One leader's slots are one run however many they are, so a few runs describe millions. Imports leaf modules only.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from quorumd.consensus.paxos.messages import Ballot, Run
from quorumd.invariants import invariant
from quorumd.types import Index


class BallotLog:
    """Runs of equal ballot that do not overlap, ascending. Slots up to `base` are not held."""

    __slots__ = ("_runs", "base", "first", "last")

    def __init__(self, base: Index = 0) -> None:
        self.base = base
        self.first = base + 1  # lowest slot that can be held
        self.last = base  # highest slot accepted
        self._runs: list[Run] = []

    @property
    def count(self) -> int:
        """Number of runs."""
        return len(self._runs)

    def _at(self, slot: Index) -> Run | None:
        place = bisect_right(self._runs, slot, key=_first) - 1
        return self._runs[place] if place >= 0 and slot <= self._runs[place].last else None

    def ballot_at(self, slot: Index) -> Ballot | None:
        """The ballot that `slot` was accepted in; None if it was not, or is not held."""
        run = self._at(slot)
        return run.ballot if run else None

    def run_end(self, slot: Index) -> Index:
        """Last slot of the run that `slot` is in; slot - 1 in a hole."""
        run = self._at(slot)
        return run.last if run else slot - 1

    def upto(self, first: Index) -> Index:
        """Last slot of the stretch without a hole that begins at `first`; first - 1 if that is a hole."""
        upto = first - 1
        for run in self.runs(first):
            if run.first != upto + 1:
                break
            upto = run.last
        return upto

    def accept(self, first: Index, last: Index, ballot: Ballot) -> None:
        """Overlays exactly first..last, whatever was there."""
        invariant(self.base < first <= last, "slots that are held, at least one")
        low = bisect_left(self._runs, first - 1, key=_last)  # the first run that reaches the slot before
        high = bisect_right(self._runs, last + 1, key=_first)  # behind the last one that begins at the slot after
        new = [Run(first, last, ballot)]
        for old in self._runs[low:high]:
            if old.first < first:
                new.insert(0, Run(old.first, min(old.last, first - 1), old.ballot))
            if old.last > last:
                new.append(Run(max(old.first, last + 1), old.last, old.ballot))
        merged: list[Run] = []
        for run in new:
            if merged and merged[-1].ballot == run.ballot and merged[-1].last + 1 == run.first:
                merged[-1] = merged[-1]._replace(last=run.last)
            else:
                merged.append(run)
        self._runs[low:high] = merged
        self.last = max(self.last, last)

    def runs(self, first: Index = 1, last: Index | None = None) -> Iterator[Run]:
        """The runs within first..last, cut to it."""
        last = self.last if last is None else last
        for place in range(bisect_left(self._runs, first, key=_last), len(self._runs)):
            run = self._runs[place]
            if run.first > last:
                return
            yield Run(max(run.first, first), min(run.last, last), run.ballot)

    def holes(self, first: Index, last: Index) -> Iterator[tuple[Index, Index]]:
        """(first, last) of each hole within first..last."""
        for run in self.runs(first, last):
            if run.first > first:
                yield first, run.first - 1
            first = run.last + 1
        if first <= last:
            yield first, last


def _first(run: Run) -> Index:
    return run.first


def _last(run: Run) -> Index:
    return run.last
