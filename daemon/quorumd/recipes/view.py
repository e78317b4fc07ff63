"""A copy of a range that follows the store: what a cache, a party and a service registry watch."""

import threading
from collections.abc import Callable, Iterable, Mapping

from quorumd.commands import KeyValue, Range
from quorumd.recipes.effects import Emit, Script, insist, news, read
from quorumd.recipes.keys import end_of
from quorumd.watchcodec import Event


class View:
    """The keys that begin with `prefix`, as they all were at `revision`; 0: nothing was read yet.

    Any thread may read while one script feeds it. Invariant: `kvs` never shows a part of a revision's changes.
    """

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.revision = 0
        self.resyncs = 0
        """How often it was read anew because the changes since could not be had."""
        self.ended: Exception | None = None
        """Why nobody feeds it any more."""
        self._kvs: dict[bytes, KeyValue] = {}
        self._lock = threading.Lock()

    def shows(self, revision: int) -> bool:
        """Whether it shows the change made at `revision`. Raises `ended` if it never will."""
        if self.revision >= revision:
            return True
        if self.ended is not None:
            raise self.ended
        return False

    def end(self, why: Exception) -> None:
        """Nobody feeds it any more, for the first reason given."""
        self.ended = self.ended or why

    def get(self, key: bytes) -> KeyValue | None:
        """The key as it was at `revision`."""
        return self._kvs.get(key)

    def snapshot(self) -> tuple[int, Mapping[bytes, KeyValue]]:
        """(revision, a copy of all keys at it)."""
        with self._lock:
            return self.revision, dict(self._kvs)

    def reset(self, revision: int, kvs: Iterable[KeyValue]) -> None:
        """Everything as it was read at `revision`."""
        fresh = {kv.key: kv for kv in kvs}
        with self._lock:
            self._kvs, self.revision = fresh, revision

    def apply(self, events: Iterable[Event]) -> None:
        """All events of whole revisions, in order."""
        with self._lock:
            for event in events:
                self.revision = max(self.revision, event.kv.mod_revision)
                if event.deleted:
                    self._kvs.pop(event.kv.key, None)
                else:
                    self._kvs[event.kv.key] = event.kv


def follow(view: View, show: Callable[[View], object] = lambda view: view) -> Script[None]:
    """A stream: keeps the view up to date for ever, and emits `show(view)` after each change, the first reading too.

    Goes on through leader changes, restarts and compactions. A change that was undone while it had to read anew shows
    in nothing but the revision.
    """
    end = end_of(view.prefix)
    while True:
        whole = yield from insist(lambda until: read(Range(view.prefix, end), until))
        view.reset(whole.revision, whole.kvs)
        while True:
            yield Emit(show(view))
            events = yield from news(view.prefix, end, view.revision)
            if events is None:
                view.resyncs += 1
                break
            view.apply(events)
