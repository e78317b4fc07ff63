"""The node's side of watches: streams, their numbers, windows, repetitions and deadlines. No socket in it.

A stream is between one client and this node in this life: requests are numbered one way, from 1, batches of items the
other, from a random number, and both are repeated until the other side says that it took them, in order. Whatever is
lost, repeated or overtaken, each is taken once. What is put in streams is the hub's (fastpath's watch.h); here is only
what carries it, so Python runs once a batch.

A client that proves nothing gets little: until its first acknowledgement a stream carries no events, and answers to a
few requests, so that a forged address brings its victim no more than a few small datagrams. An acknowledgement names a
batch, and so proves that whoever sent it was told the number: it cannot be guessed, and frames recorded of another
stream name others. Until then one batch is in flight, so that a client knows it for the first. A client that takes
nothing is not listened to: requests bring items that have no room of their own. What is not taken is repeated by the
client.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from itertools import count
from typing import NamedTuple

from quorumd import limits, watchcodec
from quorumd.errors import ProtocolError
from quorumd.fragments import Fragmenter
from quorumd.types import Address, Incarnation, Nanoseconds
from quorumd_fastpath import wire
from quorumd_fastpath.apply import Store
from quorumd_fastpath.watch import Hub
from quorumd_fastpath.wire import Counters, Outbox


class WatchRoom(NamedTuple):
    """How much the streams of one node hold, and how much is done for them in a turn; see Hub, and limits.py."""

    window_bytes: int
    total_bytes: int
    piece_bytes: int
    turn_cost: int


def widest() -> WatchRoom:
    """The room that a node's streams have unless it is told otherwise."""
    return WatchRoom(
        limits.WATCH_WINDOW_BYTES, limits.WATCH_TOTAL_BYTES, limits.WATCH_PIECE_BYTES, limits.WATCH_TURN_COST
    )


class _Batch:
    """Items that were sent together; unacknowledged. `message` is its fragments' id, 0 if it fits a datagram."""

    __slots__ = ("count", "first_at", "items", "message", "number", "sent_at")

    def __init__(self, number: int, items_count: int, items: bytes, now: Nanoseconds) -> None:
        self.number = number
        self.count = items_count
        self.items = items
        self.first_at = self.sent_at = now
        self.message = 0


class _Stream:
    """One stream. `batches`: unacknowledged, in order; their numbers end below `next_batch`."""

    __slots__ = (
        *("addr", "answer", "batches", "client", "first_batch", "heard_at", "key", "next_batch", "number", "proven"),
        *("retry", "slot", "taken", "timer"),
    )

    def __init__(
        self, key: tuple[Address, Incarnation, int], slot: int, first_batch: int, now: Nanoseconds
    ) -> None:
        self.key = key
        self.addr, self.client, self.number = key
        self.slot = slot
        self.taken = 0  # requests
        self.batches: deque[_Batch] = deque()
        self.first_batch = self.next_batch = first_batch
        self.proven = False  # the client has acknowledged something: it is where it says it is
        self.answer = False  # it waits to hear something
        self.heard_at = now
        self.retry: Nanoseconds = limits.WATCH_RETRY
        self.timer: Nanoseconds = 0  # when to repeat batches, 0: never; entries of the heap with another time are void


class WatchPlane:
    """All streams of one node. `knows_leader` and `frame_of` (an encoded frame to a client) are the client plane's.

    random_u64: of the node's randomness, which no client can foresee.
    """

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        fragmenter: Fragmenter[Address],
        counters: Counters,
        knows_leader: Callable[[], bool],
        frame_of: Callable[..., bytes],
        random_u64: Callable[[], int],
        room: WatchRoom | None = None,
    ) -> None:
        self.store = store
        room = room or widest()
        self.hub = Hub(
            seed=random_u64(), watchers=limits.WATCHERS, watcher_bytes=limits.WATCHER_BYTES, **room._asdict()
        )
        self._random_u64 = random_u64
        self._untaken = {"unproven": 0, "full": 0}  # requests, by why not
        self._outbox = outbox
        self._fragmenter = fragmenter
        self._counters = counters
        self._knows_leader = knows_leader
        self._frame_of = frame_of
        self._room = outbox.mtu - limits.HEADER_BYTES - limits.MAC_BYTES
        # By when their clients were heard of, the longest ago first.
        self._streams: OrderedDict[tuple[Address, Incarnation, int], _Stream] = OrderedDict()
        self._by_slot: dict[int, _Stream] = {}
        self._to_answer: list[_Stream] = []
        self._to_fill: deque[_Stream] = deque()
        self._budget = 0  # bytes that may still be sent in this turn
        self._timers: list[tuple[Nanoseconds, int, _Stream]] = []
        self._order = count()
        self._more_at: Nanoseconds | None = None  # there is more to do at once

    # -- in -------------------------------------------------------------------------------------------------------

    def on_frame(self, addr: Address, frame: wire.Frame, payload: bytes, now: Nanoseconds) -> None:
        """A WATCH frame for this life of this node. What it brings leaves with finish()."""
        key = (addr, frame.sender_incarnation, frame.term)
        stream = self._streams.get(key)
        if frame.flags & watchcodec.CLOSE:
            if stream is not None:
                self._drop(stream)
            return
        if stream is None:
            stream = self._open(key, frame, now)
            if stream is None:
                return
        if frame.commit and not stream.first_batch <= frame.commit < stream.next_batch:
            self._counters.increment(wire.DROP_BAD_BODY)
            return
        stream.heard_at = now
        self._streams.move_to_end(key)
        self._acknowledged(stream, frame.commit)
        if frame.count:
            self._requested(stream, frame, payload)
        if (frame.count or frame.flags & watchcodec.PING) and not stream.answer:
            stream.answer = True
            self._to_answer.append(stream)

    def _open(self, key: tuple[Address, Incarnation, int], frame: wire.Frame, now: Nanoseconds) -> _Stream | None:
        addr, client, number = key
        if frame.index != 1 or len(self._streams) >= limits.WATCH_STREAMS:
            flag = watchcodec.REFUSED if frame.index == 1 else watchcodec.UNKNOWN_STREAM
            self._outbox.frame(addr, wire.KIND_WATCH_EVENTS, flag | self._flags(), 0, client, number, 0, 0, 0, b"")
            return None
        first_batch = (self._random_u64() >> 2) + 1  # not 0, and far from the end of a u64
        stream = _Stream(key, self.hub.open_stream(), first_batch, now)
        self._streams[key] = self._by_slot[stream.slot] = stream
        return stream

    def _acknowledged(self, stream: _Stream, highest: int) -> None:
        batches = stream.batches
        size = 0
        while batches and batches[0].number <= highest:
            size += len(batches.popleft().items)
        if not size:
            return
        if not stream.proven:
            stream.proven = True
            self.hub.open_window(stream.slot)
        self.hub.acknowledged(stream.slot, size)
        stream.retry = limits.WATCH_RETRY
        self._to_fill.append(stream)

    def _requested(self, stream: _Stream, frame: wire.Frame, payload: bytes) -> None:
        try:
            requests = watchcodec.decode_requests(payload, frame.count)
        except ProtocolError:
            self._counters.increment(wire.DROP_BAD_BODY)
            return
        for number, request in enumerate(requests, frame.index):
            if number != stream.taken + 1:
                continue
            reason = self._no_room(stream)
            if reason:
                self._untaken[reason] += frame.index + frame.count - number
                return
            stream.taken = number
            if not self._perform(stream.slot, request):
                self._counters.increment(wire.DROP_BAD_BODY)

    def _no_room(self, stream: _Stream) -> str:
        """Why the stream has no room for what a request puts in it, or "". That bounds what all hold; see watch.h."""
        outstanding = self.hub.outstanding(stream.slot)
        if not stream.proven:
            return "unproven" if outstanding >= limits.WATCH_UNPROVEN_BYTES else ""
        return "full" if outstanding > 2 * self.hub.share(stream.slot) else ""

    def _perform(self, slot: int, request: watchcodec.Request) -> bool:
        kind, watch, key, end, flags, revision = request
        if kind == watchcodec.Ask.CREATE:
            return self.hub.watch(self.store, slot, watch, key, end, flags, revision)
        if kind == watchcodec.Ask.CANCEL:
            self.hub.cancel(slot, watch)  # it may have ended by itself
            return True
        if kind == watchcodec.Ask.PROGRESS:
            self.hub.ask_progress(slot)
            return True
        return False

    # -- out ------------------------------------------------------------------------------------------------------

    def finish(self, now: Nanoseconds) -> None:
        """Ends a turn: what was applied is put in the streams; batches, answers and what is due again leave."""
        slots, more = self.hub.pump(self.store)
        for slot in slots:
            stream = self._by_slot.get(slot)
            if stream is not None:
                self._to_fill.append(stream)
        if self._to_fill:
            self._budget = limits.WATCH_SENT_PER_TURN
            while self._to_fill and self._budget > 0:
                stream = self._to_fill.popleft()
                if stream.slot >= 0:
                    self._fill(stream, now)
        self._more_at = now if more or self._to_fill else None
        if self._streams:
            self._keep_time(now)
        if self._to_answer:
            waiting, self._to_answer = self._to_answer, []
            for stream in waiting:
                if stream.answer and stream.slot >= 0:
                    self._put(stream, 0, 0, b"")

    def deadline(self) -> Nanoseconds | None:
        """When finish() has something to do next, or None."""
        if self._more_at is not None or not self._streams:
            return self._more_at
        silent = next(iter(self._streams.values())).heard_at + limits.WATCH_SILENCE
        return min(silent, self._timers[0][0]) if self._timers else silent

    @property
    def endangered(self) -> bool:
        """Whether finish() can do something at once for watchers that lack what the next entry may reclaim."""
        return self.hub.endangered(self.store)

    def _fill(self, stream: _Stream, now: Nanoseconds) -> None:
        """Sends what the stream holds, as far as its window and the turn's budget go."""
        most = limits.WATCH_WINDOW_BATCHES if stream.proven else 1
        while len(stream.batches) < most and self._budget > 0:
            items_count, items = self.hub.take(stream.slot, self._room)
            if not items_count:
                return
            batch = _Batch(stream.next_batch, items_count, items, now)
            stream.next_batch += 1
            stream.batches.append(batch)
            self._send(stream, batch, now)
            self._budget -= limits.WATCH_BATCH_COST + len(items)
            if self._budget <= 0:
                self._to_fill.append(stream)
            if not stream.timer or stream.timer > now + stream.retry:
                self._set_timer(stream, now + stream.retry)

    def _send(self, stream: _Stream, batch: _Batch, now: Nanoseconds) -> None:
        batch.sent_at = now
        if len(batch.items) <= self._room:
            self._put(stream, batch.number, batch.count, batch.items)
            return
        batch.message = 0
        if self._fragmenter.bytes_waiting > limits.WATCH_FRAGMENT_BYTES:
            return  # it leaves when it is due again: replies need the fragmenter too
        message = self._fragmenter.next_id
        frame = self._frame_of(
            wire.KIND_WATCH_EVENTS, self._flags(), stream.client, stream.number, batch.number, stream.taken,
            batch.count, batch.items,
        )  # fmt: skip
        if self._fragmenter.send(stream.addr, frame, now):
            batch.message = message

    def _put(self, stream: _Stream, number: int, items_count: int, items: bytes) -> None:
        stream.answer = False  # whatever leaves says how many requests were taken
        self._outbox.frame(
            stream.addr, wire.KIND_WATCH_EVENTS, self._flags(), 0, stream.client, stream.number, number, stream.taken,
            items_count, items,
        )  # fmt: skip

    def _flags(self) -> int:
        return 0 if self._knows_leader() else watchcodec.NO_LEADER

    # -- time -----------------------------------------------------------------------------------------------------

    def _set_timer(self, stream: _Stream, due: Nanoseconds) -> None:
        stream.timer = due
        heapq.heappush(self._timers, (due, next(self._order), stream))

    def _keep_time(self, now: Nanoseconds) -> None:
        while self._timers and self._timers[0][0] <= now:
            due, _, stream = heapq.heappop(self._timers)
            if stream.timer == due:
                self._on_timer(stream, now)
        while self._streams:
            stream = next(iter(self._streams.values()))
            if now - stream.heard_at < limits.WATCH_SILENCE:
                return
            self._drop(stream)

    def _on_timer(self, stream: _Stream, now: Nanoseconds) -> None:
        """Repeats what was not acknowledged; drops a stream whose client talks, and takes nothing for too long."""
        stream.timer = 0
        batches = stream.batches
        if not batches:
            return
        if now - batches[0].first_at >= limits.WATCH_SILENCE:
            self._drop(stream)
            return
        overdue = [batch for batch in batches if batch.sent_at + stream.retry <= now]
        for batch in overdue[: limits.WATCH_RESENT_AT_ONCE]:
            if batch.message and self._fragmenter.holds(stream.addr, batch.message):
                batch.sent_at = now  # its fragments have timers of their own
            else:
                self._send(stream, batch, now)
        if overdue:
            stream.retry = min(2 * stream.retry, limits.WATCH_MAX_RETRY)
        due = min(batch.sent_at for batch in batches) + stream.retry
        self._set_timer(stream, min(max(due, now + limits.MILLISECOND), batches[0].first_at + limits.WATCH_SILENCE))

    def _drop(self, stream: _Stream) -> None:
        self.hub.close_stream(stream.slot)
        del self._streams[stream.key], self._by_slot[stream.slot]
        stream.slot = -1
        stream.timer = 0

    # -- what others may ask --------------------------------------------------------------------------------------

    def status(self) -> Mapping[str, int]:
        """Figures for STATUS."""
        return {
            "watch_streams": len(self._streams),
            "watchers": self.hub.watchers,
            "watchers_lagging": self.hub.lagging,
            "watcher_bytes": self.hub.watcher_bytes,
            "watch_bytes": self.hub.bytes,
            **{f"watch_requests_{reason}": number for reason, number in self._untaken.items()},
        }
