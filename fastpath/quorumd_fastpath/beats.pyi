"""Heartbeats and their answers, taken off a slab in one call; see beats.pyx."""

from typing import Generic, TypeVar

from quorumd_fastpath.wire import Slab

H = TypeVar("H", bound=tuple[int, ...])
R = TypeVar("R", bound=tuple[int, ...])

class Beats(Generic[H, R]):
    """The peers whose beats are taken, by the incarnation each proved; `limit` is above every plausible number.

    heartbeat, reply: named tuples of (sender, to, term, commit, round) and (sender, to, term, round, last).
    """

    def __init__(self, node: int, incarnation: int, limit: int, heartbeat: type[H], reply: type[R]) -> None: ...
    def know(self, node: int, incarnation: int) -> None:
        """Takes beats of that life of a peer only; of no life at all if it is 0."""

    def take(
        self, slab: Slab, cluster: int, term: int
    ) -> tuple[list[tuple[H | R, bool | None, int, int]], list[int]]:
        """(beats, others): what was taken, and the slots left over.

        A beat is (message, whether its sender's disk is full or None for a heartbeat, digest index, digest). Both in
        the order of their slots. The slab is not changed. OverflowError for numbers above 64 bits.
        """
