"""Leadership transfer, as far as it is the same in every engine: whom to, and when to give up.

What makes the target campaign is the engines' own (`transfer.py` in each). Imports leaf modules only.
"""

from collections.abc import Mapping
from typing import Protocol

from quorumd.consensus.base import NEVER
from quorumd.consensus.engine import TransferLeadership
from quorumd.consensus.progress import Progress
from quorumd.types import NOBODY, Nanoseconds, NodeId


class Timing(Protocol):
    """What of an engine's config matters here."""

    @property
    def election_timeout_ns(self) -> Nanoseconds: ...


class Leading(Protocol):
    """What of an engine's state does."""

    transfer_to: NodeId
    transfer_deadline: Nanoseconds
    transfer_sent: bool

    @property
    def now(self) -> Nanoseconds: ...
    @property
    def config(self) -> Timing: ...
    @property
    def peers(self) -> Mapping[NodeId, Progress]: ...
    def event(self, what: str, **detail: int) -> None: ...


def on_transfer(s: Leading, m: TransferLeadership) -> None:
    """Begins a transfer to `m.to`, or with 0 to the peer that has most of the log; replaces one under way."""
    target = m.to
    if target == NOBODY:
        fit = [peer for peer in s.peers.values() if peer.node not in m.avoid]
        target = max(fit, key=lambda p: (p.match, p.active, -p.node)).node if fit else NOBODY
    if target not in s.peers:
        s.event("transfer-refused", to=target)
        return
    if target == s.transfer_to:
        return
    s.transfer_to = target
    s.transfer_deadline = s.now + s.config.election_timeout_ns
    s.transfer_sent = False
    s.event("transfer-started", to=target)


def on_transfer_elsewhere(s: Leading, m: TransferLeadership) -> None:
    """Only a leader has leadership to give."""
    s.event("transfer-refused", to=m.to)


def abort(s: Leading) -> None:
    """Gives up after an election timeout and takes proposals again."""
    s.event("transfer-aborted", to=s.transfer_to)
    s.transfer_to = NOBODY
    s.transfer_deadline = NEVER
