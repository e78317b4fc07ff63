"""One watcher of a client: what it asks for, how far it has got, and what waits for its user. Sans-IO.

The unit that a user is given is a batch: all events of one revision, which is to say of one transaction, together. Who
rebuilds a state from events is never shown half of a transaction, and may go on from `revision` + 1 after each batch.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from quorumd import watchcodec
from quorumd.commands import ALL
from quorumd.errors import QuorumdError, TooLarge
from quorumd.limits import (
    CLIENT_WATCH_BATCHES,
    CLIENT_WATCH_BYTES,
    CLIENT_WATCH_REVISION_BYTES,
    MAX_KEY_BYTES,
)
from quorumd.watchcodec import Event, Item

_BATCH_BYTES: Final = 200  # what a batch costs beside its events' bytes, about


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All events of one revision that a watcher wants, in the order of its operations.

    No events: progress, that is, everything up to `revision` was given before.
    """

    revision: int
    events: tuple[Event, ...] = ()


class Waiting(NamedTuple):
    """A batch as it came. Looked into only when its user takes it, on that user's thread."""

    revision: int
    body: bytes

    def batch(self) -> WatchBatch:
        """Raises ProtocolError for bytes that are no events."""
        return WatchBatch(self.revision, watchcodec.decode_events(self.body))


def _nobody() -> None:
    """Nobody waits."""


@dataclass(eq=False, slots=True)
class Watcher:
    """Made by a caller with what it asks for, changed by Watching only.

    resume: the first revision that has not been put in `waiting`. flags: watchcodec's. most_batches, most_bytes: that
    may wait for the user. progress: whether it is given to the user. waiter: called by the IO layer when there is a
    batch, or an end. id: in the stream, 0: not in it.
    """

    key: bytes
    end: bytes
    flags: int
    resume: int
    most_batches: int
    most_bytes: int
    progress: bool = False
    waiter: Callable[[], object] = _nobody
    id: int = 0
    created: bool = False
    paused: bool = False
    error: QuorumdError | None = None
    waiting: deque[Waiting] = field(default_factory=deque)
    waiting_bytes: int = 0
    _pieces: list[bytes] = field(default_factory=list)
    _piece_bytes: int = 0

    def left(self) -> None:
        """It is in no stream any more; what was begun of a revision comes again from its beginning."""
        self.id = 0
        self.created = False
        self._pieces = []
        self._piece_bytes = 0

    def take_events(self, item: Item) -> bool:
        """A piece of a revision; whether there is something new for the user."""
        if item.revision < self.resume:
            return False
        self._pieces.append(item.body)
        self._piece_bytes += len(item.body)
        if self._piece_bytes > CLIENT_WATCH_REVISION_BYTES:
            self.error = TooLarge(f"the events of revision {item.revision} exceed {CLIENT_WATCH_REVISION_BYTES} bytes")
            return True
        if item.flags & watchcodec.MORE:
            return False
        self._put(item.revision, b"".join(self._pieces))
        self._pieces = []
        self._piece_bytes = 0
        return True

    def take_progress(self, revision: int) -> bool:
        """Everything up to `revision` has come; whether the user is to hear of it."""
        if revision < self.resume or self._pieces:
            return False
        if not self.progress:
            self.resume = revision + 1
            return False
        if self.waiting and not self.waiting[-1].body:  # the user has yet to take the last, which this one includes
            self.waiting.pop()
            self.waiting_bytes -= _BATCH_BYTES
        self._put(revision, b"")
        return True

    def _put(self, revision: int, body: bytes) -> None:
        self.resume = revision + 1
        self.waiting.append(Waiting(revision, body))
        self.waiting_bytes += len(body) + _BATCH_BYTES

    def pop(self, taken: list[Waiting] | None = None) -> Waiting | None:
        """The next batch for the user. taken: gets it in the same step, for put_back()."""
        if not self.waiting:
            return None
        taken = [] if taken is None else taken
        taken.extend(map(deque.popleft, (self.waiting,)))  # one call: no signal's handler can raise in between
        self.waiting_bytes -= len(taken[0].body) + _BATCH_BYTES
        return taken[0]

    def put_back(self, taken: Waiting) -> None:
        """pop() was interrupted, or whatever came after it, before the user had the batch."""
        self.waiting.appendleft(taken)
        self.waiting_bytes = sum(len(each.body) + _BATCH_BYTES for each in self.waiting)

    @property
    def full(self) -> bool:
        """Whether so much waits for the user that no more is wanted."""
        return self.waiting_bytes > self.most_bytes or len(self.waiting) > self.most_batches

    @property
    def drained(self) -> bool:
        """Whether a paused one may go on."""
        return 2 * self.waiting_bytes <= self.most_bytes and 2 * len(self.waiting) <= self.most_batches


def make_watcher(
    key: bytes, end: bytes, resume: int, *, prev_kv: bool, put: bool, delete: bool, progress: bool
) -> Watcher:
    """A watcher of [key, end) from revision `resume` on. ValueError and TypeError for what makes no sense."""
    if not isinstance(key, bytes) or not isinstance(end, bytes):
        raise TypeError("keys are bytes")
    if not key or max(len(key), len(end)) > MAX_KEY_BYTES:
        raise ValueError(f"a key has 1 to {MAX_KEY_BYTES} bytes")
    if end not in (b"", ALL) and end <= key:
        raise ValueError("the range ends before it begins")
    if not put and not delete:
        raise ValueError("with neither puts nor deletes there is nothing to watch")
    if resume < 0:
        raise ValueError("revisions are not negative")
    flags = (
        (watchcodec.PREV_KV if prev_kv else 0)
        | (0 if put else watchcodec.NO_PUT)
        | (0 if delete else watchcodec.NO_DELETE)
    )
    return Watcher(key, end, flags, resume, CLIENT_WATCH_BATCHES, CLIENT_WATCH_BYTES, progress)
