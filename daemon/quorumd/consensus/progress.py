"""A leader's view of one follower: how far its log is known to match, and what is on its way to it.

Two states, as in etcd's raft. Probing: where the logs part is not known, so one message at a time. Replicating: the
follower has confirmed a prefix in this term, so `next` runs ahead of `match` and messages are pipelined.
Imports leaf modules only.
"""

from collections import deque
from typing import NamedTuple

from quorumd.types import Index, Nanoseconds, NodeId


class ProgressStatus(NamedTuple):
    """What `quorumd status` shows of a follower."""

    node: NodeId
    match: Index
    next: Index
    replicating: bool
    inflight_messages: int
    inflight_bytes: int
    active: bool


class Progress:
    """Replication state of one follower, valid for one term of leadership. Mutated by `raft/replication.py`."""

    __slots__ = (
        "active",
        "confirmed_at",
        "inflight",
        "inflight_bytes",
        "mark",
        "mark_round",
        "match",
        "next",
        "node",
        "paused",
        "probe_round",
        "refused",
        "replicating",
        "resend_at",
        "resend_burst",
        "resend_from",
        "resend_mark",
        "resend_round",
        "resend_upto",
        "resend_wait",
        "round_acked",
        "waiting_since",
    )

    def __init__(self, node: NodeId, next_index: Index, now: Nanoseconds) -> None:
        self.node = node
        self.match: Index = 0  # durable there and equal to our log; only rises within a term; < next
        self.next: Index = next_index  # next index to send; match < next <= last + 1
        self.replicating = False
        # Sent, not acknowledged: (last index, size_bytes) in index order; empty while probing.
        self.inflight: deque[tuple[Index, int]] = deque()
        self.inflight_bytes = 0  # == sum of the sizes in `inflight`
        self.paused = False  # probing, and the one message is out
        self.probe_round = 0  # heartbeat round at that time; only answers to later ones prove it lost
        self.active = False  # heard from since check-quorum looked last
        self.round_acked = 0  # highest heartbeat round answered; <= the leader's round
        self.confirmed_at: Nanoseconds = -1  # when that round left; kept for lease reads only; -1: never
        # Loss detection (replication.py). Everything up to `mark` was sent before heartbeat `mark_round`.
        self.mark: Index = 0
        self.mark_round = 0
        self.waiting_since = now  # oldest instant since which something in flight shows no sign of arriving
        # The last retransmission: which range, the prev_index of whatever is sent after it, the round at that time,
        # and when it may be repeated.
        self.resend_from: Index = 0
        self.resend_upto: Index = 0
        self.resend_mark: Index = 0
        self.resend_round = 0
        self.resend_at: Nanoseconds = 0
        self.resend_wait: Nanoseconds = 0
        self.refused: Index = 0  # highest prev_index that it had no room for: what is missing up to it may be lost
        self.resend_burst = 1  # messages per retransmission; doubles while hole follows hole

    def sent(self, upto: Index, size_bytes: int, now: Nanoseconds) -> None:
        """Records a pipelined message that ends at `upto`."""
        inflight = self.inflight
        if not inflight:
            self.waiting_since = now
        inflight.append((upto, size_bytes))
        self.inflight_bytes += size_bytes
        self.next = upto + 1

    def acknowledged(self, match: Index, now: Nanoseconds) -> None:
        """Records that everything up to `match` (> self.match) is durable there."""
        self.match = match
        inflight = self.inflight
        while inflight and inflight[0][0] <= match:
            self.inflight_bytes -= inflight.popleft()[1]
        if self.next <= match:
            self.next = match + 1
        self.waiting_since = now

    def probe(self, next_index: Index) -> None:
        """Stops pipelining: find out with one message at a time from `next_index` where the logs meet."""
        self.replicating = False
        self.next = max(next_index, self.match + 1)
        self.inflight.clear()
        self.inflight_bytes = 0
        self.paused = False
        self.mark = 0

    def replicate(self, now: Nanoseconds) -> None:
        """The logs match up to `match`: pipeline from there."""
        self.replicating = True
        self.next = self.match + 1
        self.paused = False
        self.waiting_since = now
        self.resend_from = self.refused = 0
        self.resend_burst = 1

    def status(self) -> ProgressStatus:
        """Figures for the status command."""
        return ProgressStatus(
            self.node, self.match, self.next, self.replicating, len(self.inflight), self.inflight_bytes, self.active
        )
