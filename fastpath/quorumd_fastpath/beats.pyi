"""Heartbeats and their answers, taken off a slab in one call; see beats.pyx."""

from typing import TypeAlias

from quorumd_fastpath.wire import Slab

Beat: TypeAlias = tuple[int, int, int, int, int, int, int]
"""kind, flags, sender, index, commit, digest index, digest"""

class Beats:
    """The peers whose beats are taken, by the incarnation each proved; `limit` is above every plausible number."""

    def __init__(self, node: int, incarnation: int, limit: int) -> None: ...
    def know(self, node: int, incarnation: int) -> None:
        """Takes beats of that life of a peer only; of no life at all if it is 0."""

    def take(self, slab: Slab, cluster: int, term: int) -> tuple[list[Beat], list[int]]:
        """(beats, others): what was taken, and the slots left over.

        Both in the order of their slots. The slab is not changed. OverflowError for numbers above 64 bits.
        """
