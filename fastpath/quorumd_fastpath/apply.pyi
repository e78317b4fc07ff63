"""The replicated state machine over the log; see apply.pyx. Times are of this node's monotonic clock, ns."""

from typing_extensions import Buffer

from quorumd_fastpath.ring import Pending, ReadQueue, Ring
from quorumd_fastpath.wire import Replies, Stage

MAX_KEY_BYTES: int
MAX_VALUE_BYTES: int
MAX_TXN_OPS: int
RANGE_PAGE_BYTES: int
SESSION_WINDOW_OPS: int
SESSION_WINDOW_BYTES: int
ENDED_SESSIONS_KEPT: int
"""Ended sessions that are remembered, so that a late copy of the request that opened one does not open it again."""
KEY_OVERHEAD_BYTES: int
"""What a key costs in the quota beyond its own bytes and its value's."""
DIGEST_EVERY: int
CHECKPOINTS_KEPT: int

class Store:
    """Ordered keys, sessions and digest of one group.

    What `quota_bytes` and `session_limit` refuse is replicated state, so all nodes must be given the same ones.
    MemoryError from any method leaves an entry half applied: the process must stop.
    """

    def __init__(self, quota_bytes: int, session_limit: int = 100_000) -> None: ...
    def apply(
        self,
        ring: Ring,
        first: int,
        last: int,
        pending: Pending | None = None,
        replies: Replies | None = None,
        now_ns: int = 0,
    ) -> None:
        """Applies first..last out of the ring; answers go to whoever waits in `pending`.

        ValueError: `first` is not the next entry, or an entry is malformed. LookupError: the ring does not hold one.
        The entries before the one that the error names are applied.
        """

    def apply_bytes(
        self,
        data: Buffer,
        first_index: int,
        count: int,
        replies: Replies | None = None,
        addrs: list[bytes | None] | None = None,
        now_ns: int = 0,
    ) -> None:
        """Applies `count` entries that lie back to back and fill `data`, the first at `first_index`.

        With `replies` and `addrs` (an address or None for each entry), answers them. ValueError: `first_index` is not
        the next, or an entry is malformed (those before it are applied), or the bytes are not exactly `count` entries.
        """

    def read(self, queue: ReadQueue, read_id: int, replies: Replies) -> None:
        """Answers all reads of `read_id` from the state as it is now, and discards them from the queue."""

    def read_stale(self, stage: Stage, replies: Replies) -> None:
        """Answers the staged stale reads from the state as it is now."""

    def query(self, command: bytes) -> tuple[int, int, bytes]:
        """Runs one read-only command: (status, revision, body), as a reply would carry them."""

    def touch(self, stage: Stage, replies: Replies, now_ns: int) -> None:
        """Answers the staged keep-alives; the sessions that they name were seen at `now_ns`. For the leader only."""

    def expired(self, now_ns: int, ttl_ns: int, limit: int = ...) -> list[tuple[bytes, int]]:
        """(session id, generation) of up to `limit` sessions not seen for `ttl_ns`, by id; each is named once a TTL."""

    def rearm(self, now_ns: int) -> None:
        """Every session was seen at `now_ns`: for a new leader, and after a stall."""

    def session(self, session: bytes) -> tuple[int, int, int] | None:
        """(generation, answered_below, bytes of replies held) of an open session, else None."""

    def checkpoint(self) -> tuple[int, int]:
        """(index, digest) of the newest applied index that is a multiple of DIGEST_EVERY; (0, 0) before the first."""

    def digest_at(self, index: int) -> int | None:
        """Digest at one of the last CHECKPOINTS_KEPT checkpoints, else None."""

    @property
    def applied(self) -> int:
        """Index of the last entry applied."""

    @property
    def digest(self) -> int:
        """Chained over every entry applied and its reply."""

    @property
    def revision(self) -> int: ...
    @property
    def keys(self) -> int: ...
    @property
    def bytes(self) -> int:
        """What counts against the quota: keys, values and a fixed overhead a key."""

    @property
    def quota_bytes(self) -> int: ...
    @property
    def sessions(self) -> int:
        """Open sessions."""

    @property
    def executed(self) -> int:
        """Commands executed; a retry that was answered from its session is none."""
