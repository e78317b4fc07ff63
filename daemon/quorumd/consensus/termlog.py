"""What an engine keeps of its log: the term of every entry, never the bytes.

Terms do not fall along a log, and one leader writes long stretches, so a handful of runs (first index, term)
describes millions of entries. Imports leaf modules only.
"""

from bisect import bisect_right
from collections.abc import Iterator

from quorumd.invariants import invariant
from quorumd.types import Index, Term


class TermLog:
    """Entries base+1 .. last as runs of equal term. `base` is the entry before the first one held; it keeps its term.

    Reads of `last` and `last_term` are plain attributes because the hot path lives on them; only this class writes.
    """

    __slots__ = ("_firsts", "_tail", "_terms", "base", "base_term", "last", "last_term")

    def __init__(self, base: Index = 0, base_term: Term = 0) -> None:
        self.base = base
        self.base_term = base_term
        self.last = base  # >= base
        self.last_term = base_term  # term of `last`
        # _firsts and _terms rise strictly and have one length. The first run begins at `base`, whose entry is not
        # held: a sentinel that makes every lookup a bisect without a special case.
        self._firsts: list[Index] = [base]
        self._terms: list[Term] = [base_term]
        self._tail = base  # == _firsts[-1]

    @property
    def first(self) -> Index:
        """Lowest index held; last + 1 when the log is empty."""
        return self.base + 1

    def term_at(self, index: Index) -> Term | None:
        """Term of the entry at `index`, `base` included; None if the log does not hold it."""
        if index > self.last or index < self.base:
            return None
        if index >= self._tail:
            return self.last_term
        return self._terms[bisect_right(self._firsts, index) - 1]

    def run_end(self, index: Index) -> Index:
        """Last index of the stretch of equal term that `index` is in."""
        if index >= self._tail:
            return self.last
        run = bisect_right(self._firsts, index)
        return self._firsts[run] - 1

    def append(self, first: Index, last: Index, term: Term) -> None:
        """Adds entries first..last of one term at the end."""
        invariant(first == self.last + 1 and last >= first, "the log grows at its end and without holes")
        if term != self.last_term:
            invariant(term > self.last_term, "terms never fall along a log")
            self._firsts.append(first)
            self._terms.append(term)
            self._tail = first
            self.last_term = term
        self.last = last

    def truncate(self, last: Index) -> None:
        """Drops everything after `last`."""
        invariant(self.base <= last <= self.last, "a truncation leaves a prefix")
        while self._firsts[-1] > last:
            self._firsts.pop()
            self._terms.pop()
        self._tail = self._firsts[-1]
        self.last_term = self._terms[-1]
        self.last = last

    def find_at_most(self, index: Index, term: Term) -> Index:
        """Highest index <= `index` whose term is <= `term`; `base` if there is none (fast back-up, thesis 3.5)."""
        index = max(min(index, self.last), self.base)
        run = bisect_right(self._terms, term)  # runs before this one have a term <= `term`
        if run == len(self._terms):
            return index
        return max(min(index, self._firsts[run] - 1), self.base)

    def runs(self) -> Iterator[tuple[Index, Index, Term]]:
        """(first, last, term) of every stretch of equal term, in order."""
        for at, (first, term) in enumerate(zip(self._firsts, self._terms, strict=True)):
            last = self._firsts[at + 1] - 1 if at + 1 < len(self._firsts) else self.last
            first = max(first, self.base + 1)
            if first <= last:
                yield first, last, term
