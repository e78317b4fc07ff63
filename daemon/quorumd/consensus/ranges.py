"""A small ordered set of index ranges: what lies beyond a hole. Imports leaf modules only."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from quorumd.types import Index


class RangeSet:
    """Disjoint ranges that do not touch, ascending, at most `limit` of them: of more, the highest are forgotten.

    Whoever uses it must be able to do without what is forgotten (ask for it again, or send it again).
    """

    __slots__ = ("limit", "ranges")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.ranges: list[tuple[Index, Index]] = []

    def add(self, first: Index, last: Index) -> None:
        """Adds first..last (last >= first)."""
        ranges = self.ranges
        lo = bisect_left(ranges, first - 1, key=_last)
        hi = bisect_right(ranges, last + 1, key=_first)
        if lo < hi:
            first = min(first, ranges[lo][0])
            last = max(last, ranges[hi - 1][1])
        ranges[lo:hi] = [(first, last)]
        del ranges[self.limit :]

    def end(self, index: Index) -> Index:
        """Last index of the range that holds `index`; index - 1 if none does."""
        at = bisect_left(self.ranges, index, key=_last)
        if at < len(self.ranges) and self.ranges[at][0] <= index:
            return self.ranges[at][1]
        return index - 1

    def cut(self, upto: Index) -> None:
        """Forgets everything up to `upto`."""
        ranges = self.ranges
        while ranges and ranges[0][0] <= upto:
            _, last = ranges.pop(0)
            if last > upto:
                ranges.insert(0, (upto + 1, last))
                return

    def clear(self) -> None:
        """Forgets everything."""
        self.ranges.clear()


def covered_end(ranges: Sequence[tuple[Index, Index]], index: Index) -> Index:
    """Last index of the range of `ranges` (ascending, disjoint) that holds `index`; index - 1 if none does."""
    for first, last in ranges:
        if first > index:
            break
        if last >= index:
            return last
    return index - 1


def _first(item: tuple[Index, Index]) -> Index:
    return item[0]


def _last(item: tuple[Index, Index]) -> Index:
    return item[1]
