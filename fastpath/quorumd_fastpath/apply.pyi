"""The replicated state machine over the log; see apply.pyx. Times are of this node's monotonic clock, ns."""

from typing_extensions import Buffer

from quorumd_fastpath.ring import Pending, ReadQueue, Ring
from quorumd_fastpath.wire import Replies, Stage

MAX_KEY_BYTES: int
MAX_VALUE_BYTES: int
MAX_TXN_OPS: int
MAX_TXN_DEPTH: int
MAX_TXN_TOTAL: int
MAX_LOOKS: int
RULES_VERSION: int
MAX_LEASES: int
MIN_LEASE_TTL_MS: int
MAX_LEASE_TTL_MS: int
RANGE_PAGE_BYTES: int
SESSION_WINDOW_OPS: int
SESSION_WINDOW_BYTES: int
ALL_SESSIONS_BYTES: int
ALL_SESSIONS_OPS: int
ENDED_SESSIONS_KEPT: int
"""Ended sessions that are remembered, so that a late copy of the request that opened one does not open it again."""
KEY_OVERHEAD_BYTES: int
"""What a key costs in the quota beyond its own bytes, once, however many versions it has."""
VERSION_OVERHEAD_BYTES: int
"""What each version of a key, a tombstone too, costs in the quota beyond its value."""
RECLAIMED_PER_ENTRY: int
"""What an entry reclaims after a compaction, besides twice what the changes of the entry before will cost. The unit is
a change that replaced nothing."""
RECLAIM_COSTS: tuple[int, int, int]
"""What reclaiming a change costs besides 1, and 1 for each KiB of value freed: if it replaced a version; if it is a
delete; and the bytes of a deleted key that cost 1 more."""
DIGEST_EVERY: int
CHECKPOINTS_KEPT: int

Shown = tuple[bytes, int, int, int, int]
"""A version of a key: value, create_revision, mod_revision, version, lease."""

class Store:
    """Ordered keys with their history, leases, sessions and digest of one group.

    `quota_bytes` holds until the log says another. What `session_limit` refuses is replicated state, so all nodes must
    be given the same one. An entry of rules that this version does not know raises RuntimeError; that, and
    MemoryError from any method, leave an entry half applied: the process must stop.
    """

    def __init__(self, quota_bytes: int, session_limit: int = 100_000, key: int = 0) -> None:
        """key: 64 bits that no client knows; nothing that is replicated depends on them."""

    def apply(
        self,
        ring: Ring,
        first: int,
        last: int,
        pending: Pending | None = None,
        replies: Replies | None = None,
        now_ns: int = 0,
        stop_at_compaction: bool = False,
        until: int = ...,
    ) -> int:
        """Applies first..last out of the ring; answers go to whoever waits in `pending`. Returns the last applied.

        stop_at_compaction: that is an entry that compacts, if there is one: the entries behind it reclaim what it gave
        up, and whoever follows the changes has to see them before. until: so is the one that brings `work` there.
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
        until: int = ...,
    ) -> int:
        """Applies `count` entries that lie back to back and fill `data`, the first at `first_index`; the last one
        is that which brings `work` to `until`. Returns how many it applied.

        With `replies` and `addrs` (an address or None for each entry), answers them. ValueError: `first_index` is not
        the next, or an entry is malformed (those before it are applied), or the bytes are not exactly `count` entries.
        """

    def read(self, queue: ReadQueue, read_id: int, replies: Replies, now_ns: int, until: int = ...) -> bool:
        """Answers the reads of `read_id` from the state as it is now, and discards them from the queue.

        Once `work` is `until` only keep-alives are answered. False: the others are left for another call. Except stale
        ones, for the leader only: a keep-alive among them gives its session or lease a full TTL from `now_ns` on.
        """

    def read_stale(self, stage: Stage, replies: Replies) -> None:
        """Answers the staged stale reads from the state as it is now."""

    def query(self, command: bytes, now_ns: int | None = None) -> tuple[int, int, bytes]:
        """Runs one read-only command: (status, revision, body), as a reply would carry them. now_ns: as in read();
        None: as a stale read."""

    def events(
        self, first_revision: int, limit_revisions: int = ...
    ) -> list[tuple[int, bytes, Shown | None, Shown | None]]:
        """The changes of up to `limit_revisions` revisions from `first_revision` on, in order, those of one revision
        together: (revision, key, version, replaced), the latter two (value, create_revision, mod_revision, version,
        lease) or None: a delete, and a key that was not there before.

        ValueError: the revision is compacted.
        """

    def expired(self, now_ns: int, ttl_ns: int, again_ns: int, limit: int = ...) -> list[tuple[bytes, int]]:
        """(session id, generation) of up to `limit` sessions not seen for `ttl_ns`, by id; each is named again from
        `again_ns` on, unless it was seen since."""

    def session_expiring(self, session: bytes) -> None:
        """The session's expiry was proposed: keep-alives are refused from now on, until it does something."""

    def rearm(self, now_ns: int) -> None:
        """Every session and lease has a full TTL from `now_ns` on, and expiries proposed are void: for a new leader."""

    def put_off(self, until_ns: int, ttl_ns: int) -> None:
        """No session, whose TTL is `ttl_ns`, and no lease is due before `until_ns`: after a stall of the loop.

        But for those that this was done for since they were seen or touched; expiries proposed stand.
        """

    def lease_touch(self, lease: int, now_ns: int) -> bool:
        """Gives the lease a full TTL from `now_ns` on; False if there is none, or its expiry was proposed."""

    def lease_expiring(self, lease: int) -> None:
        """The lease's expiry was proposed: keep-alives are refused from now on."""

    def leases_due(self, now_ns: int, again_ns: int, limit: int = ...) -> list[tuple[int, int]]:
        """(lease, generation) of up to `limit` leases whose TTL has passed, the longest overdue first; each is named
        again from `again_ns` on, unless it is touched or its expiry proposed."""

    @property
    def next_lease_due(self) -> int:
        """Before that leases_due() names nothing, ns."""

    def lease(self, lease: int) -> tuple[int, int, int] | None:
        """(generation, TTL in ms, number of keys) of a lease, else None."""

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
    def compacted(self) -> int:
        """The revision compacted last: reads below it are refused, and events up to it. 0: none."""

    @property
    def reclaiming(self) -> bool:
        """Whether a compaction has given up what further entries have yet to reclaim."""

    @property
    def changes(self) -> int:
        """Changes whose history is held; those included that a compaction has yet to reclaim."""

    @property
    def keys(self) -> int:
        """Keys that exist at the newest revision."""

    @property
    def bytes(self) -> int:
        """What counts against the quota: keys and all their versions, with a fixed overhead for each."""

    @property
    def live_bytes(self) -> int:
        """What `bytes` would be without history."""

    @property
    def work(self) -> int:
        """What this store has done in its life, in looks at a key: some 20 ns each. Not replicated."""

    @property
    def leases(self) -> int:
        """Leases granted and not ended."""

    @property
    def quota_bytes(self) -> int: ...
    @property
    def rules(self) -> int:
        """The version of the rules that the log has said commands are judged by (Kind.RULES), 0: none yet."""

    @property
    def leadership(self) -> int:
        """The index of the newest NOOP applied, with which a leadership began; 0: none was."""

    @property
    def windows(self) -> tuple[int, int]:
        """(bytes of answers, slots beyond a few each) that the windows of all sessions hold."""

    @property
    def sessions(self) -> int:
        """Open sessions."""

    @property
    def executed(self) -> int:
        """Commands executed; a retry that was answered from its session is none."""
