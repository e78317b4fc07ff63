"""All watchers of one client, and the stream that serves them. Sans-IO: part of ClientProtocol.

At most one stream at a time, with one node, in one of its lives; any node will do. A stream is left for another when
the node falls silent, was restarted, has no leader, or does not know the stream; then every watcher asks the next node
to go on after the last revision that it has whole. Nothing is lost by that, since a node serves any revision that is
not compacted, and nothing comes twice.

A watcher whose user is slow is *paused*: it is cancelled in the stream, and goes on after its last revision once the
user has taken half of what waits. So the node keeps nothing for it, and the others of the same client go on.
"""

from collections import deque
from itertools import islice
from typing import Final

from quorumd import watchcodec
from quorumd.client.channel import Channel
from quorumd.client.routing import Router, SocketAddress
from quorumd.client.watcher import Waiting, Watcher
from quorumd.errors import Compacted, ConnectionLost, Overloaded, ProtocolError, QuorumdError, Rejected
from quorumd.limits import (
    CLIENT_WATCH_LEADERLESS,
    CLIENT_WATCH_PAUSE,
    CLIENT_WATCH_PING,
    CLIENT_WATCH_PROGRESS,
    CLIENT_WATCH_REQUESTS,
    CLIENT_WATCH_SILENCE,
    CLIENT_WATCHERS,
    WATCH_MAX_RETRY,
    WATCH_RETRY,
    WATCH_WINDOW_BATCHES,
)
from quorumd.types import Incarnation, Nanoseconds
from quorumd.watchcodec import Ask, Item, Request, Tell, Why
from quorumd_fastpath import wire

_LONGEST_PATIENCE: Final = 32 * CLIENT_WATCH_LEADERLESS


class _Stream:
    """A stream as the client sees it. Requests are numbered from 1; those up to `acked` were taken by the node. Batches
    are numbered from whatever the node says; those up to `taken` were taken here."""

    def __init__(
        self, number: int, address: SocketAddress, life: Incarnation, now: Nanoseconds, progress_at: Nanoseconds
    ) -> None:
        self.number = number
        self.address = address
        self.life = life
        self.watchers: dict[int, Watcher] = {}  # by id
        self.requests: deque[bytes] = deque()  # numbers acked + 1, acked + 2, ...
        self.acked = 0
        self.sent_to = 0  # the highest number sent so far
        self.taken = 0  # 0: no batch yet
        self.early: dict[int, tuple[int, bytes]] = {}  # batches that overtook one that is missing
        self.owes_ack = False
        self.heard_at = now
        self.asked_at: Nanoseconds | None = None  # since when something is unanswered
        self.repeat_at: Nanoseconds | None = None  # while something is
        self.retry: Nanoseconds = WATCH_RETRY
        self.leaderless_since: Nanoseconds | None = None
        self.progress_at = progress_at

    def ping_at(self) -> Nanoseconds:
        return self.heard_at + (CLIENT_WATCH_PING if self.leaderless_since is None else CLIENT_WATCH_LEADERLESS // 4)


class Watching:
    """The watchers of one client; nonce: of its hellos. Rules as ClientProtocol's: flush() after whatever changes."""

    def __init__(self, channel: Channel, router: Router, nonce: int) -> None:
        self._channel = channel
        self._router = router
        self._nonce = nonce
        self._watchers: dict[Watcher, None] = {}  # in the order in which they began
        self._news: dict[Watcher, None] = {}
        self._stream: _Stream | None = None
        self._next_stream = 1
        self._turn = nonce & 0xFFFF  # which node is asked: spreads clients, whose nonces are random, over the nodes
        self._next_id = 1
        self._not_before: Nanoseconds = 0
        self._patience: Nanoseconds = CLIENT_WATCH_LEADERLESS
        self._closed = False
        self.progress_every: Nanoseconds = CLIENT_WATCH_PROGRESS
        """How often the node is asked how far watchers without events have got."""

    # -- what the IO layer uses -----------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether frames may come at any time."""
        return self._stream is not None or bool(self._watchers)

    def take_news(self) -> list[Watcher]:
        """Watchers that have a batch or an end since the last call."""
        taken, self._news = list(self._news), {}
        return taken

    def add(self, watcher: Watcher) -> None:
        """Begins to watch from `watcher.resume` on. Raises Overloaded, ConnectionLost (closed)."""
        if self._closed:
            raise ConnectionLost("the client is closed")
        if len(self._watchers) >= CLIENT_WATCHERS:
            raise Overloaded(f"this client has {CLIENT_WATCHERS} watchers already")
        self._watchers[watcher] = None
        if self._stream is not None:
            self._create(self._stream, watcher)

    def drop(self, watcher: Watcher) -> None:
        """Its user is done with it."""
        if watcher in self._watchers:
            del self._watchers[watcher]
            self._cancel(watcher)

    def pop(self, watcher: Watcher, taken: list[Waiting] | None = None) -> Waiting | None:
        """The next batch for the user, if there is one, as Watcher.pop(); resumes a watcher that was paused."""
        batch = watcher.pop(taken)
        if watcher.paused and watcher.drained:
            watcher.paused = False
            if self._stream is not None and watcher in self._watchers:
                self._create(self._stream, watcher)
        return batch

    def put_back(self, watcher: Watcher, taken: Waiting) -> None:
        """pop() was interrupted, or whatever came after it, before the user had the batch."""
        watcher.put_back(taken)
        if not watcher.paused and watcher in self._watchers and self._stream is not None:
            self._cancel(watcher)  # it may have been resumed in part
            self._create(self._stream, watcher)

    def close(self, now: Nanoseconds) -> None:
        """Ends every watcher."""
        self._closed = True
        for watcher in list(self._watchers):
            self._end(watcher, ConnectionLost("the client was closed"))
        self._leave(now)

    # -- time and sending -----------------------------------------------------------------------------------------

    def next_deadline(self) -> Nanoseconds | None:
        """When flush() is due at the latest."""
        stream = self._stream
        if stream is None:
            return self._not_before if self._watchers and self._not_before else None
        due = [stream.progress_at]
        if stream.repeat_at is not None:
            due.append(stream.repeat_at)
        if stream.asked_at is not None:
            due.append(stream.asked_at + CLIENT_WATCH_SILENCE)
        else:
            due.append(stream.ping_at())
        if stream.leaderless_since is not None:
            due.append(stream.leaderless_since + self._patience)
        return min(due)

    def flush(self, now: Nanoseconds) -> None:
        """Everything that is due, and everything that may leave."""
        stream = self._stream
        if stream is not None and not self._watchers:
            self._leave(now)
            return
        if stream is not None and self._lost_patience(stream, now):
            self._leave(now, elsewhere=True)
        if self._stream is None and self._watchers and now >= self._not_before:
            self._begin(now)
        if self._stream is not None:
            self._send(self._stream, now)

    def _lost_patience(self, stream: _Stream, now: Nanoseconds) -> bool:
        if stream.asked_at is not None and now - stream.asked_at >= CLIENT_WATCH_SILENCE:
            return True
        if stream.leaderless_since is None or now - stream.leaderless_since < self._patience:
            return False
        self._patience = min(2 * self._patience, _LONGEST_PATIENCE)  # it may be the same everywhere
        return True

    def _begin(self, now: Nanoseconds) -> None:
        """Opens a stream with the node whose turn it is, once that has said which life it is in."""
        self._not_before = 0  # also if there is nothing to begin: what is due and cannot be done would be due for ever
        addresses = self._router.everyone()
        if not addresses or all(watcher.paused for watcher in self._watchers):
            return
        address = addresses[self._turn % len(addresses)]
        if not self._channel.greet(address, self._nonce, now):
            if self._channel.is_silent(address):
                self._next_node(now)
            return
        life, progress_at = self._channel.life(address), now + self.progress_every
        stream = self._stream = _Stream(self._next_stream, address, life, now, progress_at)
        self._next_stream += 1
        self._channel.counters["watch_streams"] += 1
        for watcher in self._watchers:
            if not watcher.paused:
                self._create(stream, watcher)

    def _next_node(self, now: Nanoseconds) -> None:
        self._turn += 1
        if self._turn % max(1, len(self._router.everyone())) == 0:
            self._not_before = now + CLIENT_WATCH_PAUSE

    def _leave(self, now: Nanoseconds, *, elsewhere: bool = False) -> None:
        """The stream is done with; whoever watches asks anew, `elsewhere`: another node."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        for watcher in stream.watchers.values():
            watcher.left()
        self._tell(stream.address, stream.life, stream.number, watchcodec.CLOSE, now)
        if elsewhere:
            self._next_node(now)

    def _send(self, stream: _Stream, now: Nanoseconds) -> None:
        if now >= stream.progress_at:
            stream.progress_at = now + self.progress_every
            if stream.watchers:
                stream.requests.append(watchcodec.encode_request(Request(Ask.PROGRESS)))
        first = stream.sent_to + 1
        if stream.repeat_at is not None and now >= stream.repeat_at:
            stream.retry = min(2 * stream.retry, WATCH_MAX_RETRY)
            stream.repeat_at = None
            if stream.sent_to == stream.acked:
                self._ping(stream, now)
            first = stream.acked + 1
        last = stream.acked + min(len(stream.requests), CLIENT_WATCH_REQUESTS)
        # Until a request was taken the node has no stream to put later ones in.
        if first <= last and (stream.acked or first == 1):
            self._send_requests(stream, first, last, now)
        if now >= stream.ping_at() and stream.asked_at is None:
            self._ping(stream, now)
        if stream.owes_ack:
            self._tell(stream.address, stream.life, stream.number, 0, now, commit=stream.taken)
            stream.owes_ack = False

    def _send_requests(self, stream: _Stream, first: int, last: int, now: Nanoseconds) -> None:
        """Requests of these numbers, as few frames as they fit; only one frame of a stream that is not begun."""
        requests = deque(islice(stream.requests, first - stream.acked - 1, last - stream.acked))
        while requests:
            packed = [requests.popleft()]
            size = len(packed[0])
            while requests and size + len(requests[0]) <= self._channel.room:
                size += len(requests[0])
                packed.append(requests.popleft())
            self._tell(
                stream.address, stream.life, stream.number, 0, now,
                index=first, commit=stream.taken, count=len(packed), payload=b"".join(packed),
            )  # fmt: skip
            first += len(packed)
            stream.sent_to = max(stream.sent_to, first - 1)
            if not stream.acked:
                break
        stream.owes_ack = False
        self._asked(stream, now)

    def _ping(self, stream: _Stream, now: Nanoseconds) -> None:
        self._tell(stream.address, stream.life, stream.number, watchcodec.PING, now, commit=stream.taken)
        self._asked(stream, now)

    def _asked(self, stream: _Stream, now: Nanoseconds) -> None:
        if stream.asked_at is None:
            stream.asked_at = now
        if stream.repeat_at is None:
            stream.repeat_at = now + stream.retry

    def _tell(
        self, address: SocketAddress, life: Incarnation, number: int, flags: int, now: Nanoseconds,
        *, index: int = 0, commit: int = 0, count: int = 0, payload: bytes = b"",
    ) -> None:  # fmt: skip
        self._channel.send_any(
            address, wire.KIND_WATCH, now, flags=flags, receiver=life, term=number, index=index, commit=commit,
            count=count, payload=payload,
        )  # fmt: skip

    # -- watchers -------------------------------------------------------------------------------------------------

    def _create(self, stream: _Stream, watcher: Watcher) -> None:
        watcher.id = self._next_id
        self._next_id += 1
        stream.watchers[watcher.id] = watcher
        request = Request(Ask.CREATE, watcher.id, watcher.key, watcher.end, watcher.flags, watcher.resume)
        stream.requests.append(watchcodec.encode_request(request))

    def _cancel(self, watcher: Watcher) -> None:
        stream = self._stream
        if stream is not None and stream.watchers.pop(watcher.id, None) is not None:
            stream.requests.append(watchcodec.encode_request(Request(Ask.CANCEL, watcher.id)))
            watcher.left()

    def _end(self, watcher: Watcher, error: QuorumdError) -> None:
        watcher.error = error
        self._watchers.pop(watcher, None)
        self._news[watcher] = None

    # -- frames that arrive ---------------------------------------------------------------------------------------

    def met(self, address: SocketAddress, life: Incarnation, now: Nanoseconds) -> None:
        """A node said which life it is in: a stream with an earlier one is gone."""
        stream = self._stream
        if stream is not None and stream.address == address and stream.life != life:
            self._leave(now)

    def receive(self, frame: wire.Frame, payload: bytes, source: SocketAddress, now: Nanoseconds) -> None:
        """A WATCH_EVENTS frame."""
        stream = self._stream
        if frame.receiver_incarnation != self._channel.incarnation:
            self._channel.counters["stray"] += 1
            return
        if stream is None or frame.term != stream.number or source != stream.address:
            if not frame.flags & watchcodec.UNKNOWN_STREAM:  # of a stream that was left: the node may forget it
                self._tell(source, frame.sender_incarnation, frame.term, watchcodec.CLOSE, now)
            return
        if frame.sender_incarnation != stream.life:
            return
        if frame.flags & (watchcodec.UNKNOWN_STREAM | watchcodec.REFUSED):
            self._leave(now, elsewhere=bool(frame.flags & watchcodec.REFUSED))
            return
        self._heard(stream, frame, now)
        if frame.index:
            self._on_batch(stream, frame, payload, now)

    def _heard(self, stream: _Stream, frame: wire.Frame, now: Nanoseconds) -> None:
        stream.heard_at = now
        if not frame.flags & watchcodec.NO_LEADER:
            stream.leaderless_since = None
            self._patience = CLIENT_WATCH_LEADERLESS
        elif stream.leaderless_since is None:
            stream.leaderless_since = now
        fresh = min(frame.commit, stream.sent_to) - stream.acked
        for _ in range(fresh):
            stream.requests.popleft()
            stream.acked += 1
        waits = stream.acked < stream.sent_to
        if fresh > 0 or not waits:
            stream.retry = WATCH_RETRY
            stream.repeat_at = now + stream.retry if waits else None
        stream.asked_at = now if waits else None

    def _on_batch(self, stream: _Stream, frame: wire.Frame, payload: bytes, now: Nanoseconds) -> None:
        stream.owes_ack = True  # a repeated one too: the acknowledgement was lost
        if not stream.taken:  # it is the first: until that is acknowledged there is no other
            stream.taken = frame.index - 1
        if not stream.taken < frame.index <= stream.taken + WATCH_WINDOW_BATCHES:
            return
        stream.early[frame.index] = (frame.count, payload)
        while (batch := stream.early.pop(stream.taken + 1, None)) is not None:
            stream.taken += 1
            try:
                for item in watchcodec.decode_items(batch[1], batch[0]):
                    self._on_item(stream, item)
            except ProtocolError:
                self._channel.counters["malformed"] += 1
                self._leave(now, elsewhere=True)
                return

    def _on_item(self, stream: _Stream, item: Item) -> None:
        if item.kind == Tell.PROGRESS:
            for watcher in stream.watchers.values():
                if watcher.created and watcher.take_progress(item.revision):
                    self._news[watcher] = None
            return
        found = stream.watchers.get(item.watch)
        if found is None:
            return  # it was cancelled meanwhile
        if item.kind == Tell.CREATED:
            found.created = True
        elif item.kind == Tell.ENDED:
            del stream.watchers[item.watch]
            found.left()
            self._end(found, _why(item))
        elif item.kind == Tell.EVENTS and found.take_events(item):
            self._news[found] = None
            if found.error is not None:
                self._cancel(found)
                self._end(found, found.error)
            elif found.full:
                found.paused = True
                self._channel.counters["watches_paused"] += 1
                self._cancel(found)


def _why(item: Item) -> QuorumdError:
    if item.flags == Why.COMPACTED:
        error = Compacted(f"the history up to revision {item.revision} is compacted; watch from the next one on")
        error.revision = item.revision + 1
        return error
    if item.flags == Why.OVERLOADED:
        return Overloaded("the node has as many watchers as it takes")
    return Rejected("the node takes no such watcher")
