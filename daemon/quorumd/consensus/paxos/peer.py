"""A leader's view of one acceptor: what it has accepted in the leader's ballot, and what is on its way to it."""

from typing import NamedTuple

from quorumd.consensus.progress import Progress
from quorumd.consensus.ranges import RangeSet
from quorumd.limits import REMEMBERED_RANGES
from quorumd.types import Index, Nanoseconds, NodeId


class PeerStatus(NamedTuple):
    """What `quorumd status` shows of an acceptor."""

    node: NodeId
    match: Index
    above: tuple[tuple[Index, Index], ...]
    next: Index
    replicating: bool
    inflight_messages: int
    inflight_bytes: int
    active: bool


class Peer(Progress):
    """Valid for one ballot. Here `match` is: every slot up to it is, durably, accepted there or known to be chosen.

    There is no probing: acceptances do not depend on what precedes them. `replicating` is false for an acceptor that
    fell silent, to which nothing is pushed until it speaks again.
    """

    __slots__ = ("above", "pushed_from", "suspect_at", "suspect_match")

    def __init__(self, node: NodeId, next_slot: Index, now: Nanoseconds) -> None:
        super().__init__(node, next_slot, now)
        self.replicating = True
        self.pushed_from = next_slot  # what was pushed since it was silent last is pushed_from..next-1
        self.above = RangeSet(REMEMBERED_RANGES)  # durably accepted there, behind holes; all > match
        # Large values count as lost from suspect_at on, unless `match` has moved since it was suspect_match.
        self.suspect_match: Index = -1
        self.suspect_at: Nanoseconds = 0

    def silence(self) -> None:
        """Nothing is pushed until it is heard of again."""
        self.replicating = False
        self.inflight.clear()
        self.inflight_bytes = 0
        self.mark = 0

    def resume(self, next_slot: Index, now: Nanoseconds) -> None:
        """It speaks again: push from `next_slot` on."""
        self.replicate(now)
        self.next = self.pushed_from = max(next_slot, self.match + 1)
        self.resend_upto = self.resend_mark = 0

    def figures(self) -> PeerStatus:
        """Figures for the status command."""
        return PeerStatus(
            self.node,
            self.match,
            tuple(self.above.ranges),
            self.next,
            self.replicating,
            len(self.inflight),
            self.inflight_bytes,
            self.active,
        )
