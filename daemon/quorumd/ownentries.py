"""What a leader puts into the log of its own accord: what commands are judged by, expiries, compactions. The decisions
only; core.py proposes them.

A log is replayed from its first entry, so all that decides what a command does must be the same for ever or be in the
log. The quota is a setting that people change, so it is an entry: RULES, before a cluster's first command and again
when the setting is another. It also names the version of all other rules (limits, overheads, budgets), so that a later
version of quorumd that has others refuses the log, or knows what to replay it by.
"""

from typing import TypeAlias

from quorumd.commands import Kind
from quorumd.compaction import CompactionPolicy
from quorumd.expiry import NO_BYTES, ExpiryPolicy
from quorumd.limits import RECLAIMED_AT_ONCE, RULES_VERSION
from quorumd.settings import Settings
from quorumd.types import Index, Nanoseconds
from quorumd_fastpath.apply import Store

Records: TypeAlias = list[tuple[int, bytes, int]]
"""Entries without a command: (kind, session, seq)."""


class OwnEntries:
    """One node's, for the time that it leads. `begin` with each leadership."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.expiry = ExpiryPolicy(settings.session_ttl)
        self._compaction = CompactionPolicy(settings.compaction)
        self.store = store
        self._quota = settings.quota_bytes
        self.reclaims_after: Index = 0
        """The entry that reclaims next must wait until this one is applied: it is the one before."""
        self.reclaims_at: Nanoseconds = 0
        """Likewise until then: the log had no room."""
        self.rules_said = False
        """Whether this leader has put them into the log: what it proposes from now on is judged by them. Of no use to a
        later leadership: cleared when this one ends."""

    def begin(self, now: Nanoseconds) -> None:
        """This node leads from `now` on."""
        self.store.rearm(now)
        self.expiry.begin(now)
        self.reclaims_after = self.reclaims_at = 0

    def rules(self) -> Records:
        """What commands are to be judged by from here on, if the log says something else or nothing."""
        if (self.store.rules, self.store.quota_bytes) == (RULES_VERSION, self._quota):
            return []
        return [(int(Kind.RULES), NO_BYTES + RULES_VERSION.to_bytes(8, "little"), self._quota)]

    @property
    def next_expiry(self) -> Nanoseconds:
        """Before that nothing expires."""
        return self.expiry.next_due(self.store)

    def compactions(self, now: Nanoseconds) -> Records:
        """At most one."""
        revision = self._compaction.due(now, self.store)
        return [] if revision is None else [(int(Kind.COMPACT), bytes(16), revision)]

    @property
    def reclaims(self) -> bool:
        """Whether this leader has to see to it that what compactions gave up is reclaimed, busy or not; and what it did
        for that before is applied, which without a quorum it never is."""
        return self.store.reclaiming and self.store.applied >= self.reclaims_after

    def reclaiming(self, now: Nanoseconds) -> Records:
        """At most one. Every entry reclaims a little of what compactions gave up, this one much: else writes that are
        refused for want of room would have to make that room, and an idle cluster would keep it all."""
        if not self.reclaims or now < self.reclaims_at:
            return []
        budget = RECLAIMED_AT_ONCE.to_bytes(8, "little")
        return [(int(Kind.COMPACT), NO_BYTES + budget, self.store.compacted)]
