"""What core.py asks of a state machine, and the one that there is: keys, leases, sessions and digest in a Store.

A state machine sees committed entries in order and nothing else. It must be deterministic: no clock, no randomness, no
order that depends on hashing. `now_ns` only tells when a session or lease was last heard of; it never reaches
replicated state.
"""

from typing import Protocol

from quorumd.expiry import Expirable
from quorumd.limits import DEFAULT_QUOTA_BYTES, MAX_SESSIONS
from quorumd.types import Index, Nanoseconds
from quorumd_fastpath.apply import Store
from quorumd_fastpath.ring import Pending, ReadQueue, Ring
from quorumd_fastpath.wire import Replies, Stage


class StateMachine(Expirable, Protocol):
    """The contract, with what the expiry policy asks; quorumd_fastpath.apply.Store documents each method."""

    @property
    def applied(self) -> Index: ...

    @property
    def revision(self) -> int:
        """Goes into every reply."""

    @property
    def work(self) -> int:
        """Grows with what it does; `until` is one of its values."""

    @property
    def digest(self) -> int:
        """Equal on all nodes at equal `applied`."""

    def apply(
        self,
        ring: Ring,
        first: Index,
        last: Index,
        pending: Pending | None = None,
        replies: Replies | None = None,
        now_ns: Nanoseconds = 0,
        stop_at_compaction: bool = False,
        until: int = ...,
    ) -> Index:
        """Applies committed entries; first == applied + 1. Returns the last applied."""

    def apply_bytes(
        self,
        data: bytes,
        first_index: Index,
        count: int,
        replies: Replies | None = None,
        addrs: list[bytes | None] | None = None,
        now_ns: Nanoseconds = 0,
        until: int = ...,
    ) -> int:
        """The same for entries that the ring no longer holds."""

    def read(self, queue: ReadQueue, read_id: int, replies: Replies, now_ns: Nanoseconds, until: int = ...) -> bool:
        """Answers the reads whose read point is reached; keep-alives are among them."""

    def read_stale(self, stage: Stage, replies: Replies) -> None:
        """Answers reads that do not ask for the newest state."""

    def rearm(self, now_ns: Nanoseconds) -> None:
        """Gives every session and lease a full TTL: at election."""

    def put_off(self, until_ns: Nanoseconds, ttl_ns: Nanoseconds) -> None:
        """Lets no session, of this TTL, and no lease be due before then, each once: after a stall of the loop."""

    def checkpoint(self) -> tuple[Index, int]:
        """The (index, digest) that nodes compare."""

    def digest_at(self, index: Index) -> int | None:
        """The digest at a recent checkpoint."""


def KeyValue(quota_bytes: int = DEFAULT_QUOTA_BYTES, session_limit: int = MAX_SESSIONS) -> StateMachine:
    """The key-value store. All nodes of a cluster must be given the same figures: refusing is replicated state too."""
    return Store(quota_bytes, session_limit)
