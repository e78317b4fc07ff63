"""When sessions and leases end: which expiries a leader proposes. Pure; the decision only, the entry is the log's.

Never early. A deadline is a full TTL, of this leader's monotonic clock, after the latest of: the keep-alive, which was
answered after a quorum confirmed that this node still led; its own election, since it cannot know what its
predecessors answered. After its loop stood still nothing falls due for an election timeout: what clients sent meanwhile
is read and confirmed first. Each lease and session is put off so only once until it is kept alive again: under a leader
whose every turn is slow they end all the same.
Time by which a leader is behind in applying does not count: what clients sent has to wait for that (Applier.heard).
An expiry names the generation that it means, so one that comes late is void. Once it is proposed no keep-alive is
answered OK: it may be applied any time. Nor is a lease said to be gone, as it may never be: who asks is to ask again.
A deposed leader's proposal is in its successor's log before whatever the
successor answers, or it is void. In Raft it is gone; in Multi-Paxos it may be chosen later, in a slot that the
successor did not use, when somebody leads who accepted it. So an expiry also names its leadership, by the index of the
no-op with which that began and which is applied before the expiry is proposed, and ends nothing behind another one. A
leader answers keep-alives once its own no-op is applied: what an earlier one proposed and this one never saw can only
come behind it.

Late by at most: under a leader that stays a turn and a commit, so a heartbeat and a round trip with a sync; the time
by which it is behind in applying; if its disk hangs and its ring is full, the time until it gives up
(timing.disk_stall_ms); if its loop stood still, the time that it did when they were due, and an election timeout;
another TTL for each change of leader; for sessions EXPIRE_SESSIONS_EVERY, an election timeout that it may rest, and
EXPIRE_MORE_EVERY for each MAX_EXPIRIES_PER_TURN that end at once.
"""

from typing import NamedTuple, Protocol

from quorumd.commands import Kind
from quorumd.limits import EXPIRE_AGAIN, EXPIRE_MORE_EVERY, EXPIRE_SESSIONS_EVERY, MAX_EXPIRIES_PER_TURN
from quorumd.types import Nanoseconds, SessionId

NO_BYTES = bytes(8)


class Expirable(Protocol):
    """What the policy asks of the store; quorumd_fastpath.apply.Store documents each."""

    @property
    def next_lease_due(self) -> Nanoseconds: ...

    def expired(
        self, now_ns: Nanoseconds, ttl_ns: Nanoseconds, again_ns: Nanoseconds, limit: int = ...
    ) -> list[tuple[SessionId, int]]: ...

    def leases_due(self, now_ns: Nanoseconds, again_ns: Nanoseconds, limit: int = ...) -> list[tuple[int, int]]: ...

    def session_expiring(self, session: SessionId) -> None: ...

    def lease_expiring(self, lease: int) -> None: ...


class Expiries(NamedTuple):
    """What is due: (session id, generation) and (lease id, generation)."""

    sessions: list[tuple[SessionId, int]]
    leases: list[tuple[int, int]]

    def records(self) -> list[tuple[int, bytes, int]]:
        """As entries: (kind, session, seq)."""
        found = [(int(Kind.EXPIRE_SESSION), session, generation) for session, generation in self.sessions]
        for lease, generation in self.leases:
            found.append((int(Kind.EXPIRE_LEASE), NO_BYTES + lease.to_bytes(8, "little"), generation))
        return found

    def proposed(self, store: Expirable) -> None:
        """They are in the log: from now on no keep-alive of theirs is answered OK."""
        for session, _ in self.sessions:
            store.session_expiring(session)
        for lease, _ in self.leases:
            store.lease_expiring(lease)


class ExpiryPolicy:
    """For the leader. `begin` with each leadership."""

    def __init__(self, session_ttl: Nanoseconds) -> None:
        self.session_ttl = session_ttl
        self._sessions_at: Nanoseconds = 0

    def begin(self, now: Nanoseconds) -> None:
        """This node leads from `now` on; the store was re-armed."""
        self._sessions_at = now + EXPIRE_SESSIONS_EVERY

    def next_due(self, store: Expirable) -> Nanoseconds:
        """Before that `due` finds nothing."""
        return min(self._sessions_at, store.next_lease_due)

    def due(self, now: Nanoseconds, store: Expirable) -> Expiries:
        """What to propose now; what is not proposed after all is named again in a while."""
        again = now + EXPIRE_AGAIN
        leases = store.leases_due(now, again, MAX_EXPIRIES_PER_TURN)  # first: nobody waits for the end of a session
        sessions: list[tuple[SessionId, int]] = []
        if now >= self._sessions_at:
            limit = MAX_EXPIRIES_PER_TURN - len(leases)
            sessions = store.expired(now, self.session_ttl, again, limit)
            self._sessions_at = now + (EXPIRE_MORE_EVERY if len(sessions) == limit else EXPIRE_SESSIONS_EVERY)
        return Expiries(sessions, leases)
