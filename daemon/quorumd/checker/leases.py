"""What leases promise, judged from outside: facts go in, a Violation comes out. Pure; times are true ones, of nobody's
clock.

- `lease-early`: none ends by expiry before a full TTL has passed since its holder sent the last grant or keep-alive
  that was answered OK, also if that answer comes after the end; and none is revoked that nobody asked to revoke. TTLs
  are measured by clocks that run up to `drift` too fast.
- `lease-lives-on`: nobody is told of a lease that had ended before the question, that it lives, nor of one that lives,
  that it is revoked or that there is none.
- `lease-keys`: the end of a lease deletes its keys at one revision, all of them, and no others.
- `lease-late`: under a leader that stays, with nothing in its way, a lease ends within its TTL and a bound, however
  slow the leader's turns are.

The facts are told in the order of the log and once, by whoever sees the first node apply an entry: an answer that rests
on the entry cannot have come before.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from quorumd.checker.invariants import Violation
from quorumd.limits import MILLISECOND, SECOND
from quorumd.types import Index, Nanoseconds


class Shown(NamedTuple):
    """A lease as a node's store has it. generation: index of the entry that granted it."""

    generation: Index
    ttl_ms: int
    keys: int


class Change(NamedTuple):
    """What one revision did to one key. lease: that the key belongs to afterwards, 0: to none; None: it is deleted."""

    key: bytes
    lease: int | None


@dataclass(slots=True)
class Life:
    """One lease from its grant to its end: an id may be granted again afterwards."""

    lease: int
    generation: Index
    ttl: Nanoseconds
    granted_at: Nanoseconds  # first applied
    keys: set[bytes] = field(default_factory=set)
    armed_at: Nanoseconds = 0  # when the latest grant or keep-alive that was answered OK was sent; 0: none was
    touched_at: Nanoseconds = 0  # when the latest of them was answered
    ended_at: Nanoseconds | None = None  # first applied
    expired: bool = False  # it ended so


class LeaseRules:
    """See the module's docstring. drift: the part by which a clock is too fast or too slow, at most."""

    def __init__(self, drift: float = 0.0) -> None:
        self.drift = drift
        self.counts: Counter[str] = Counter()
        self.live: dict[int, Life] = {}
        self._ended: dict[int, list[Life]] = {}
        self._revocations: Counter[int] = Counter()  # asked for, and possible

    # -- what nodes apply ---------------------------------------------------------------------------------------

    def applied(
        self,
        now: Nanoseconds,
        shown: Mapping[int, Shown | None],
        changes: Iterable[Change],
        *,
        expires: int = 0,
    ) -> None:
        """An entry. shown: all leases known, after it. changes: of its revision. expires: the lease that it expires,
        if it is still the one meant; 0: it is no expiry."""
        changes = list(changes)
        ended = [life for life in self.live.values() if not _same(life, shown.get(life.lease))]
        if ended:
            for life in ended:
                self._end(life, now, expired=life.lease == expires)
            self._keys_gone({key for life in ended for key in life.keys}, changes, ended)
        else:
            self._attach(changes)
        self._granted(now, shown)
        for life in self.live.values():
            found = shown[life.lease]
            if found is not None and found.keys != len(life.keys):
                raise Violation("lease-keys", f"{_name(life)} has {found.keys} keys, not {sorted(life.keys)}")

    def resumed(self, now: Nanoseconds, shown: Mapping[int, Shown | None], keys: Mapping[bytes, int]) -> None:
        """Entries that nobody was seen to apply, at once: the state after them. keys: with the lease of each.

        What ended meanwhile did so in a way that is not known.
        """
        for life in list(self.live.values()):
            if not _same(life, shown.get(life.lease)):
                self._bury(life, now)
        self._granted(now, shown)
        for life in self.live.values():
            life.keys = {key for key, lease in keys.items() if lease == life.lease}

    def _granted(self, now: Nanoseconds, shown: Mapping[int, Shown | None]) -> None:
        for lease, found in shown.items():
            if found is not None and lease not in self.live:
                self.live[lease] = Life(lease, found.generation, found.ttl_ms * MILLISECOND, now)
                self.counts["leases granted"] += 1

    def _bury(self, life: Life, now: Nanoseconds) -> None:
        life.ended_at = now
        del self.live[life.lease]
        self._ended.setdefault(life.lease, []).append(life)

    def _end(self, life: Life, now: Nanoseconds, *, expired: bool) -> None:
        self._bury(life, now)
        life.expired = expired
        if expired:
            self._not_early(life)
        elif not self._revocations[life.lease]:
            raise Violation("lease-early", f"{_name(life)} was revoked, which nobody asked for")
        self.counts["leases expired" if expired else "leases revoked"] += 1

    def _attach(self, changes: Iterable[Change]) -> None:
        for change in changes:
            for life in self.live.values():
                life.keys.discard(change.key)
            if change.lease:
                owner = self.live.get(change.lease)
                if owner is None:
                    raise Violation("lease-keys", f"{change.key!r} belongs to lease {change.lease}, which has ended")
                owner.keys.add(change.key)

    @staticmethod
    def _keys_gone(keys: set[bytes], changes: list[Change], ended: list[Life]) -> None:
        gone = {change.key for change in changes if change.lease is None}
        if gone != keys or len(gone) != len(changes):
            names = ", ".join(map(_name, ended))
            raise Violation("lease-keys", f"{names} ended with the keys {sorted(keys)}; it changed {changes}")

    def _not_early(self, life: Life) -> None:
        """A clock that runs too fast is through with a TTL earlier by its drift."""
        if not life.expired or not life.armed_at or life.ended_at is None:
            return
        least = life.ttl / (1.0 + self.drift)
        if life.ended_at - life.armed_at < least:
            lived = (life.ended_at - life.armed_at) / SECOND
            raise Violation("lease-early", f"{_name(life)} expired {lived:.3f} s after what was answered was sent")

    # -- what holders ask and are told --------------------------------------------------------------------------

    def revocation(self, lease: int) -> None:
        """Somebody asks to revoke it."""
        self._revocations[lease] += 1

    def revocation_settled(self, lease: int) -> None:
        """... and has been told what came of it: it ends nothing from now on."""
        self._revocations[lease] -= 1

    def revoked(self, lease: int, asked: Nanoseconds) -> None:
        """A revocation that was sent at `asked` is answered OK."""
        self.revocation_settled(lease)
        life = self.live.get(lease)
        if life is not None and life.granted_at < asked:
            raise Violation("lease-lives-on", f"{_name(life)} lives, and is said to be revoked")

    def granted(self, lease: int, asked: Nanoseconds, now: Nanoseconds) -> None:
        """A grant that was sent at `asked` is answered OK."""
        lives = [life for life in self._lives(lease) if asked <= life.granted_at <= now]
        if not lives:
            raise Violation("lease-lives-on", f"lease {lease} is said to be granted, and was not")
        self._armed(lives, asked, now)

    def told_alive(self, lease: int, ttl_ms: int, asked: Nanoseconds, now: Nanoseconds, *, kept: bool) -> None:
        """A keep-alive (`kept`) or a look at it that was sent at `asked` is answered OK, with this TTL."""
        lives = [
            life
            for life in self._lives(lease)
            if life.granted_at <= now and (life.ended_at is None or life.ended_at >= asked)
        ]
        if not lives:
            raise Violation("lease-lives-on", f"lease {lease} is said to live, and had ended before the question")
        if all(life.ttl != ttl_ms * MILLISECOND for life in lives):
            raise Violation("lease-lives-on", f"lease {lease} is said to have a TTL of {ttl_ms} ms, not {lives}")
        if kept:
            self.counts["leases kept alive"] += 1
            self._armed(lives, asked, now)

    def not_found(self, lease: int, asked: Nanoseconds, *, kept: bool) -> None:
        """Something that was sent at `asked`, a keep-alive if `kept`, is told that there is no such lease."""
        self.counts["keep-alives refused"] += kept
        life = self.live.get(lease)
        if life is not None and life.granted_at < asked:
            raise Violation("lease-lives-on", f"{_name(life)} lives, and is said not to")

    def _lives(self, lease: int) -> list[Life]:
        lives = list(self._ended.get(lease, ()))
        if lease in self.live:
            lives.append(self.live[lease])
        return lives

    def _armed(self, lives: list[Life], asked: Nanoseconds, now: Nanoseconds) -> None:
        """Of several lives that the answer may mean, nobody can say which one it does."""
        if len(lives) > 1:
            return
        life = lives[0]
        life.armed_at, life.touched_at = max(life.armed_at, asked), now
        self._not_early(life)

    # -- not late -----------------------------------------------------------------------------------------------

    def not_overdue(
        self, leases: Iterable[int], now: Nanoseconds, rearmed: Nanoseconds, late: Nanoseconds,
        stalled: Nanoseconds = 0, put_off: Nanoseconds = 0,
    ) -> None:
        """None of these lives longer than a TTL and `late` after the latest of: its grant, a keep-alive's answer,
        `rearmed` (when a leader that began gave all of them a full TTL). If a leader stalled since then, the last time
        at `stalled`, it may have put the end off by `put_off`, once."""
        for lease in leases:
            life = self.live.get(lease)
            if life is None:
                continue
            since = max(life.granted_at, life.touched_at, rearmed)
            more = put_off if stalled >= since else 0
            if now - since > life.ttl / (1.0 - self.drift) + more + late:
                lives = (now - since) / SECOND
                raise Violation("lease-late", f"{_name(life)} lives {lives:.3f} s after it was armed last")


def _same(life: Life, shown: Shown | None) -> bool:
    return shown is not None and shown.generation == life.generation


def _name(life: Life) -> str:
    return f"lease {life.lease} (generation {life.generation}, TTL {life.ttl / SECOND:.3f} s)"
