"""What watchers must be told, and whether they were: the true history of events, and an account for each watcher.

The guarantees are those that etcd's robustness tests check (etcd tests/robustness/validate/watch.go; "Watch guarantees"
in its API documentation): ordered, unique, reliable, atomic, resumable, bookmarkable, and in each event the previous
value, the sign that the key was created, and only what the watcher asked for. A rule that is broken is a Violation,
raised when the watcher is told what breaks it; what was not told at all shows in `Account.behind` once the run is over.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from quorumd.checker.invariants import Violation
from quorumd.commands import ALL, KeyValue
from quorumd.watchcodec import NO_DELETE, NO_PUT, PREV_KV, Event

Change = tuple[bytes, bytes | None, int]
"""(key, value, lease); value None: the key was deleted."""
_Versions = tuple[list[int], list[KeyValue | None]]
"""The revisions at which a key changed, and what it was from then on."""
_NONE: _Versions = ([], [])
_SHOWN = 3  # of each side, in the detail of a violation


class Past:
    """Every event of a store since its beginning. Compaction forgets nothing here.

    Only keys, values and leases come from outside; what a change replaced, creation revisions and versions are worked
    out anew, by the rules of etcd's data model, so a watch and the store that serves it cannot be wrong alike.
    """

    def __init__(self) -> None:
        self.revision = 1  # everything up to it is known; a store begins with revision 1
        self.compacted = 0  # the highest compaction that any node has applied
        self._revisions: list[int] = []
        self._events: list[tuple[Event, ...]] = []  # of those revisions, with what each replaced
        self._versions: defaultdict[bytes, _Versions] = defaultdict(lambda: ([], []))

    def add(self, revision: int, changes: Iterable[Change]) -> tuple[Event, ...]:
        """The next revision that changed anything, and its events."""
        if revision <= self.revision:
            raise Violation("history-order", f"revision {revision} after {self.revision}")
        events = tuple(self._event(revision, *change) for change in changes)
        self._revisions.append(revision)
        self._events.append(events)
        self.revision = revision
        return events

    def reaches(self, revision: int) -> None:
        """Everything up to `revision` was added."""
        self.revision = max(self.revision, revision)

    def _event(self, revision: int, key: bytes, value: bytes | None, lease: int) -> Event:
        revisions, versions = self._versions[key]
        replaced = versions[-1] if versions else None
        revisions.append(revision)
        if value is None:
            versions.append(None)
            return Event(KeyValue(key, b"", 0, revision, 0, 0), True, replaced)
        created, version = (revision, 0) if replaced is None else (replaced.create_revision, replaced.version)
        made = KeyValue(key, value, created, revision, version + 1, lease)
        versions.append(made)
        return Event(made, False, replaced)

    def state(self, revision: int, key: bytes = b"", end: bytes = ALL) -> dict[bytes, KeyValue]:
        """The keys of a range, all by default, as they were at a revision that is known."""
        names = [name for name in self._versions if covers(key, end, name)] if end else [key]
        keys: dict[bytes, KeyValue] = {}
        for name in names:
            revisions, versions = self._versions.get(name, _NONE)
            place = bisect_right(revisions, revision)
            if place and (version := versions[place - 1]) is not None:
                keys[name] = version
        return keys

    def changes(self, text: Callable[[bytes], str]) -> dict[int, dict[str, str | None]]:
        """What each revision that changed anything changed, in the words of a history: `text` of a value, None of a
        delete."""
        return {
            revision: {
                event.key.decode(errors="replace"): None if event.deleted else text(event.value) for event in events
            }
            for revision, events in self.between(0, self.revision)
        }

    def between(self, after: int, last: int) -> Iterator[tuple[int, tuple[Event, ...]]]:
        """The revisions above `after`, up to `last`, that changed anything, with their events."""
        for place in range(bisect_right(self._revisions, after), bisect_right(self._revisions, last)):
            yield self._revisions[place], self._events[place]


class Account:
    """What one watcher of [key, end) was told since it asked for everything from revision `start` on.

    flags: watchcodec's. A watch that goes on after a compaction, or is begun anew by its user, is another account.
    """

    def __init__(self, past: Past, name: str, key: bytes, end: bytes, flags: int, start: int) -> None:
        self.past = past
        self.name = name
        self.key = key
        self.end = end
        self.flags = flags
        self.start = start
        self.upto = start - 1  # everything up to it was given, or needs not be
        self._given: dict[int, tuple[Event, ...]] = {}
        self._bookmark = 0

    def batch(self, revision: int, events: tuple[Event, ...]) -> None:
        """It was given these events as all that it wants of this revision. Raises Violation."""
        if revision < self.start:
            self._broken("watch-resume", f"revision {revision} came, {self.start} was to be the first")
        given = self._given.get(revision)
        if given is not None:
            split = sorted(map(_change, (*given, *events))) == sorted(map(_change, self._wanted(revision)))
            self._broken("watch-split" if split else "watch-repeated", f"revision {revision} came twice")
        if revision <= self._bookmark:
            self._broken("watch-bookmark", f"revision {revision} came after progress {self._bookmark}")
        if revision <= self.upto:
            self._broken("watch-order", f"revision {revision} came after {self.upto}")
        if revision > self.past.revision:
            self._broken("watch-invented", f"revision {revision}; the newest is {self.past.revision}")
        missing = self._next(revision - 1)
        if missing:
            self._broken("watch-gap", f"revision {missing} did not come before {revision}")
        wanted = self._wanted(revision)
        if events != wanted:
            self._broken(self._difference(events, wanted), f"revision {revision}: {_show(events)}, not {_show(wanted)}")
        self._given[revision] = events
        self.upto = revision

    def progress(self, revision: int) -> None:
        """It was told that everything up to `revision` was given. Raises Violation."""
        if revision > self.past.revision:
            self._broken("watch-bookmark", f"progress {revision}; the newest revision is {self.past.revision}")
        missing = self._next(revision)
        if missing:
            self._broken("watch-bookmark", f"progress {revision} before revision {missing}")
        if revision < self.upto:
            self._broken("watch-bookmark", f"progress {revision} after {self.upto}")
        self._bookmark = self.upto = revision

    def compacted(self, resume: int) -> None:
        """It was ended because what it lacks is compacted, up to `resume` - 1. Raises Violation if that is not so."""
        if not self.upto < resume - 1 <= self.past.compacted:
            self._broken(
                "watch-compacted", f"history is there from {resume} on, it is told; it has all up to {self.upto}, "
                f"and {self.past.compacted} is compacted"
            )  # fmt: skip

    @property
    def behind(self) -> int:
        """The first revision that it has yet to be given; 0: it has everything there is."""
        return self._next(self.past.revision)

    def _next(self, last: int) -> int:
        """The first revision up to `last` that has something for it and was not given; 0: none."""
        for revision, events in self.past.between(self.upto, last):
            if any(map(self._wants, events)):
                return revision
        return 0

    def _wants(self, event: Event) -> bool:
        unwanted = NO_DELETE if event.deleted else NO_PUT
        return not self.flags & unwanted and covers(self.key, self.end, event.key)

    def _wanted(self, revision: int) -> tuple[Event, ...]:
        found = (event for _, events in self.past.between(revision - 1, revision) for event in events)
        whole = filter(self._wants, found)
        return tuple(event if self.flags & PREV_KV else Event(event.kv, event.deleted) for event in whole)

    def _difference(self, events: tuple[Event, ...], wanted: tuple[Event, ...]) -> str:
        """The word for what is wrong with the events of a revision."""
        if not all(map(self._wants, events)):
            return "watch-filter"
        changes, right = list(map(_change, events)), list(map(_change, wanted))
        if changes != right:
            return "watch-order" if sorted(changes) == sorted(right) else "watch-split"
        if any(one.created != other.created for one, other in zip(events, wanted, strict=True)):
            return "watch-created"
        if any(one.prev_kv != other.prev_kv for one, other in zip(events, wanted, strict=True)):
            return "watch-previous"
        return "watch-event"

    def _broken(self, check: str, detail: str) -> None:
        raise Violation(check, f"{self.name} on {self.key!r}..{self.end!r} with flags {self.flags}: {detail}")


def covers(key: bytes, end: bytes, other: bytes) -> bool:
    """Whether `other` is in the range, named as etcd does."""
    return other == key if not end else key <= other and (end == ALL or other < end)


def _change(event: Event) -> tuple[bytes, bool]:
    return event.key, event.deleted


def _show(events: tuple[Event, ...]) -> str:
    shown = [
        f"{'delete' if event.deleted else 'put'} {event.key!r} {_brief(event.kv)} over {_brief(event.prev_kv)}"
        for event in events[:_SHOWN]
    ]
    return f"{len(events)} events ({'; '.join(shown)})"


def _brief(kv: KeyValue | None) -> str:
    if kv is None:
        return "nothing"
    return f"{kv.value[:16]!r} (created {kv.create_revision}, modified {kv.mod_revision}, version {kv.version})"
