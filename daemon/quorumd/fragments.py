"""Messages larger than a datagram, both planes. Sans-IO: time comes in as an argument, frames go out as values.

A message is one complete encoded frame (its own header and CRC). It is cut into fragments of equal size, the last one
shorter; each travels as the payload of a FRAGMENT frame behind an 8-byte prefix. The receiver answers each fragment
with the bitmap of what it holds; the sender resends only what is missing, keeps at most `window` fragments
unacknowledged per destination, and gives a message up after `deadline`. It begins none that stands FRAGMENT_SPAN places
or more behind the oldest unacknowledged one: in a receiver's window of so many numbers none falls behind. A message may
arrive twice (its acknowledgement was lost and forgotten): whatever is inside must be idempotent, as every datagram is
anyway.

FRAGMENT frame: term = message id, index = fragment number, count = fragments in all, commit = bytes in all.
FRAGMENT_ACK frame: term = message id, count = fragments in all, payload = bitmap, bit i = fragment i is there; a full
bitmap means done.
"""

import struct
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final, Generic, NamedTuple, TypeVar

from quorumd.invariants import invariant
from quorumd.limits import (
    FRAGMENT_DEADLINE,
    FRAGMENT_QUEUE_BYTES,
    FRAGMENT_QUEUE_MESSAGES,
    FRAGMENT_RTO,
    FRAGMENT_SPAN,
    FRAGMENT_WINDOW,
    HEADER_BYTES,
    KIB,
    MAC_BYTES,
    MAX_ENTRY_BYTES,
    MIN_MTU,
    REASSEMBLY_BYTES,
    REASSEMBLY_MESSAGES,
)
from quorumd.types import Incarnation, Nanoseconds
from quorumd_fastpath.wire import Frame

KIND_FRAGMENT: Final = 3
KIND_FRAGMENT_ACK: Final = 4
MAX_MESSAGE_BYTES: Final = MAX_ENTRY_BYTES + 4 * KIB
MAX_RTO: Final = 25 * FRAGMENT_RTO
SHARE_OF_ONE: Final = 4  # one sender may hold 1/4 of the reassembly buffer
REMEMBERED_MESSAGES: Final = 4 * REASSEMBLY_MESSAGES  # completed ids kept, to acknowledge duplicates as done

_PREFIX: Final = struct.Struct("<BBHI")  # inner kind, zero, inner flags, offset of the chunk in the message
PREFIX_BYTES: Final = _PREFIX.size
_INNER: Final = struct.Struct("<5xBH")  # kind and flags inside the encoded frame

# The bitmap of the longest message cut for the smallest path must itself fit one datagram of that path.
_MIN_CHUNK: Final = MIN_MTU - HEADER_BYTES - PREFIX_BYTES - MAC_BYTES
MAX_FRAGMENTS: Final = -(-MAX_MESSAGE_BYTES // _MIN_CHUNK)
invariant(HEADER_BYTES + (MAX_FRAGMENTS + 7) // 8 + MAC_BYTES <= MIN_MTU, "an acknowledgement must fit a datagram")

K = TypeVar("K", bound=Hashable)


class Fragment(NamedTuple):
    """One FRAGMENT frame to send (kind KIND_FRAGMENT, flags 0)."""

    message_id: int  # -> term
    number: int  # -> index
    total: int  # -> count
    total_bytes: int  # -> commit
    payload: bytes


class _Outgoing:
    """One message on its way. Fragments below `next` were sent at least once; bit i of `acked` = fragment i arrived."""

    __slots__ = (
        *("acked", "chunk", "content", "count", "data", "first_at", "id", "inner", "next", "place", "resent"),
        *("sent_at", "started"),
    )

    def __init__(self, message_id: int, place: int, data: bytes, limit: int, content: Hashable) -> None:
        self.id = message_id
        self.place = place  # among all that ever waited in its lane
        self.content = content
        self.data = data
        self.count = -(-len(data) // limit)
        self.chunk = -(-len(data) // self.count)
        self.inner = _INNER.unpack_from(data)
        self.acked = 0
        self.next = 0
        self.first_at = [0] * self.count
        self.sent_at = [0] * self.count  # the latest time
        self.resent = 0  # bit i: fragment i was sent more than once, so its round trip says nothing (Karn)
        self.started: Nanoseconds | None = None

    def missing(self) -> int:
        """Bitmap of fragments sent and not acknowledged."""
        return ((1 << self.next) - 1) & ~self.acked

    def cut(self, number: int, now: Nanoseconds) -> Fragment:
        self.sent_at[number] = now
        offset = number * self.chunk
        kind, flags = self.inner
        payload = _PREFIX.pack(kind, 0, flags, offset) + self.data[offset : offset + self.chunk]
        return Fragment(self.id, number, self.count, len(self.data), payload)


class _Lane:
    """What waits for one destination, oldest message first."""

    __slots__ = ("heard", "messages", "places", "room_since", "round_trip", "rto", "timed_at")

    def __init__(self, rto: Nanoseconds) -> None:
        self.messages: deque[_Outgoing] = deque()
        self.places = 0
        self.rto = rto
        self.round_trip = 0  # smoothed, 0 = no sample yet
        self.timed_at: Nanoseconds | None = None  # the last sample that loss cannot have spoilt
        self.heard: Nanoseconds | None = None  # last acknowledgement
        self.room_since: Nanoseconds | None = None  # since when fresh fragments may be sent; None: there are none

    def in_flight(self) -> int:
        return sum(message.missing().bit_count() for message in self.messages)

    def next_due(self) -> Nanoseconds | None:
        """When the first unacknowledged fragment is to be sent again, at once if fresh ones wait."""
        if self.room_since is not None:
            return self.room_since
        due: Nanoseconds | None = None
        for message in self.messages:
            missing = message.missing()
            while missing:
                lowest = missing & -missing
                at = message.sent_at[lowest.bit_length() - 1] + self.rto
                due = at if due is None else min(due, at)
                missing ^= lowest
        return due

    def has_room(self, now: Nanoseconds) -> None:
        self.room_since = now if self.room_since is None else self.room_since

    def measured(self, sample: Nanoseconds, floor: Nanoseconds) -> None:
        self.round_trip = sample if not self.round_trip else (7 * self.round_trip + sample) // 8
        self.rto = min(max(floor, 2 * self.round_trip), max(floor, MAX_RTO))


def first_of(incarnation: Incarnation) -> int:
    """Where the message ids of a node's life begin: far from those of its other lives.

    Two incarnations may be neighbours, as where the wall clock was set back between them, and a receiver takes an id
    that it knows for a copy. So they are spread over all 64 bits (Fibonacci hashing, Knuth, TAOCP 6.4).
    """
    return incarnation * 0x9E37_79B9_7F4A_7C15 & 0xFFFF_FFFF_FFFF_FFFF


class Fragmenter(Generic[K]):
    """The sending half, for all destinations of one plane: put messages in with send(), take frames out with poll().

    mtu: bytes of a datagram on the path, of which `tail_bytes` are kept free for the MAC. first_id: where message ids
    begin; must be far from those of another life of the sender: a node passes `first_of`, a client a random number.
    """

    def __init__(
        self,
        mtu: int,
        *,
        first_id: int = 1,
        tail_bytes: int = MAC_BYTES,
        window: int = FRAGMENT_WINDOW,
        rto: Nanoseconds = FRAGMENT_RTO,
        deadline: Nanoseconds = FRAGMENT_DEADLINE,
        queue_messages: int = FRAGMENT_QUEUE_MESSAGES,
        queue_bytes: int = FRAGMENT_QUEUE_BYTES,
    ) -> None:
        self.chunk_bytes = mtu - HEADER_BYTES - PREFIX_BYTES - tail_bytes
        """Message bytes that one fragment carries at most."""
        invariant(self.chunk_bytes >= _MIN_CHUNK, "the path is narrower than the smallest supported mtu")
        self._next_id = first_id
        self._window = window
        self._rto = rto
        self._deadline = deadline
        self._queue_messages = queue_messages
        self._queue_bytes = queue_bytes
        self._lanes: dict[K, _Lane] = {}
        self.bytes_waiting = 0
        self.refused = 0
        """Messages not taken because a queue was full."""
        self.expired = 0
        """Messages given up at their deadline."""

    def __len__(self) -> int:
        return sum(len(lane.messages) for lane in self._lanes.values())

    def send(self, dest: K, message: bytes, now: Nanoseconds, content: Hashable = None) -> bool:
        """Takes one encoded frame for `dest`; False if it was refused because a queue is full. Follow with poll().

        content: names what the message carries; one of the same that still waits for `dest` is not sent again.
        """
        invariant(HEADER_BYTES <= len(message) <= MAX_MESSAGE_BYTES, "a message is one frame of bounded size")
        lane = self._lanes.get(dest)
        if content is not None and lane is not None and any(content == m.content for m in lane.messages):
            return True
        waiting = len(lane.messages) if lane else 0
        if waiting >= self._queue_messages or self.bytes_waiting + len(message) > self._queue_bytes:
            self.refused += 1
            return False
        if lane is None:
            lane = self._lanes[dest] = _Lane(self._rto)
        lane.messages.append(_Outgoing(self._next_id, lane.places, message, self.chunk_bytes, content))
        lane.places += 1
        lane.has_room(now)
        self._next_id = (self._next_id + 1) & 0xFFFF_FFFF_FFFF_FFFF
        self.bytes_waiting += len(message)
        return True

    def on_ack(self, source: K, message_id: int, total: int, bitmap: bytes, now: Nanoseconds) -> bool:
        """A FRAGMENT_ACK arrived from `source`; False if it contradicts what was sent. Follow with poll()."""
        lane = self._lanes.get(source)
        message = None if lane is None else next((m for m in lane.messages if m.id == message_id), None)
        if lane is None or message is None:
            return True  # late: the message is done or given up
        if total != message.count or len(bitmap) != (total + 7) // 8:
            return False
        claimed = int.from_bytes(bitmap, "little")
        if claimed >> message.next:
            return False  # claims fragments that never left
        lane.heard = now
        fresh = claimed & ~message.acked
        if fresh:
            self._measure(lane, message, fresh, now)
        message.acked |= fresh
        if message.acked.bit_count() == message.count:
            lane.messages.remove(message)
            self.bytes_waiting -= len(message.data)
        if not lane.messages:
            del self._lanes[source]
        elif fresh:
            lane.has_room(now)
        return True

    def _measure(self, lane: _Lane, message: _Outgoing, fresh: int, now: Nanoseconds) -> None:
        """Only a fragment sent once tells a round trip (Karn). But where every fragment is sent again before its
        acknowledgement can be here, none ever does; then the time since the first transmission, an upper bound, does.
        """
        once = fresh & ~message.resent
        if once:
            lane.timed_at = now
            lane.measured(now - message.sent_at[once.bit_length() - 1], self._rto)
        elif lane.timed_at is None or now - lane.timed_at > 4 * lane.rto:
            lane.measured(now - message.first_at[fresh.bit_length() - 1], self._rto)

    def poll(self, now: Nanoseconds) -> list[tuple[K, Fragment]]:
        """What is due: missing fragments again, and what the window allows. Gives up what is too old."""
        due: list[tuple[K, Fragment]] = []
        for dest, lane in list(self._lanes.items()):
            self._expire(lane, now)
            if not lane.messages:
                del self._lanes[dest]
                continue
            due += [(dest, fragment) for fragment in self._resend(lane, now)]
            due += [(dest, fragment) for fragment in self._fill(lane, now)]
        return due

    @property
    def next_id(self) -> int:
        """Id of the message that send() takes next."""
        return self._next_id

    def holds(self, dest: K, message_id: int) -> bool:
        """Whether a message is still on its way: neither acknowledged nor given up."""
        lane = self._lanes.get(dest)
        return lane is not None and any(message.id == message_id for message in lane.messages)

    def deadline(self) -> Nanoseconds | None:
        """When poll() has something to do next, or None if nothing waits."""
        return min((due for lane in self._lanes.values() if (due := lane.next_due()) is not None), default=None)

    def forget(self, dest: K) -> None:
        """Drops everything that waits for `dest` (a newer incarnation, a closed client)."""
        lane = self._lanes.pop(dest, None)
        if lane is not None:
            self.bytes_waiting -= sum(len(message.data) for message in lane.messages)

    def _fill(self, lane: _Lane, now: Nanoseconds) -> list[Fragment]:
        if lane.room_since is None:
            return []
        lane.room_since = None
        room = self._window - lane.in_flight()
        fragments: list[Fragment] = []
        end = lane.messages[0].place + FRAGMENT_SPAN
        for message in lane.messages:
            if room <= 0 or message.place >= end:
                break
            while room > 0 and message.next < message.count:
                if message.started is None:
                    message.started = now
                message.first_at[message.next] = now
                fragments.append(message.cut(message.next, now))
                message.next += 1
                room -= 1
        return fragments

    def _resend(self, lane: _Lane, now: Nanoseconds) -> list[Fragment]:
        fragments: list[Fragment] = []
        first_sent = now
        for message in lane.messages:
            missing = message.missing()
            while missing:
                lowest = missing & -missing
                number = lowest.bit_length() - 1
                if message.sent_at[number] + lane.rto <= now:
                    first_sent = min(first_sent, message.sent_at[number])
                    message.resent |= lowest
                    fragments.append(message.cut(number, now))
                missing ^= lowest
        if fragments and (lane.heard is None or lane.heard < first_sent):  # not loss: the path is slower than we think
            lane.rto = min(2 * lane.rto, max(self._rto, MAX_RTO))
        return fragments

    def _expire(self, lane: _Lane, now: Nanoseconds) -> None:
        """A message's time runs from its first fragment; a destination silent for all that time loses its queue."""
        while lane.messages:
            oldest = lane.messages[0]
            if oldest.started is None or now - oldest.started < self._deadline:
                return
            silent = lane.heard is None or lane.heard < oldest.started
            for _ in range(len(lane.messages) if silent else 1):
                self.bytes_waiting -= len(lane.messages.popleft().data)
                self.expired += 1
            lane.has_room(now)


class _Incoming:
    """One message being put together: its chunks by number. shape: (count, total bytes, (inner kind, inner flags))."""

    __slots__ = ("chunks", "deadline", "held", "shape")

    def __init__(self, shape: tuple[int, int, tuple[int, int]], deadline: Nanoseconds) -> None:
        self.shape = shape
        self.deadline = deadline
        self.chunks: list[bytes | None] = [None] * shape[0]
        self.held = 0  # bitmap of chunks


def _full(total: int) -> bytes:
    return ((1 << total) - 1).to_bytes((total + 7) // 8, "little")


class Reassembler(Generic[K]):
    """The receiving half, for all senders of one plane. Bounded in bytes and messages, in all and for one sender.

    A message is charged its full size at its first fragment, so whatever was admitted can also complete.
    """

    def __init__(
        self,
        *,
        limit_bytes: int = REASSEMBLY_BYTES,
        limit_messages: int = REASSEMBLY_MESSAGES,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        deadline: Nanoseconds = FRAGMENT_DEADLINE,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._limit_messages = limit_messages
        self._share_bytes = max(limit_bytes // SHARE_OF_ONE, max_message_bytes)
        self._max_message_bytes = max_message_bytes
        self._deadline = deadline
        self._messages: OrderedDict[tuple[K, int], _Incoming] = OrderedDict()  # by age, so by deadline
        self._done: OrderedDict[tuple[K, int], tuple[int, Nanoseconds]] = OrderedDict()  # count, forget at
        self._by_source: dict[K, int] = {}
        self.bytes_held = 0
        self.completed = 0
        """Messages that came together."""
        self.malformed = 0
        """Fragments that contradict their header, their message or the limits."""
        self.refused = 0
        """Fragments not taken because the buffer, or the sender's share of it, was full; the sender tries again."""
        self.expired = 0
        """Messages dropped incomplete at their deadline."""

    def __len__(self) -> int:
        return len(self._messages)

    def on_fragment(
        self, source: K, frame: Frame, payload: bytes | memoryview, now: Nanoseconds
    ) -> tuple[bytes | None, bytes | None]:
        """A FRAGMENT arrived: the FRAGMENT_ACK's bitmap (None: send none) and the message if it is whole now.

        `source` names one sender. The message still has to pass the codec and the receiver's checks.
        """
        self.expire(now)
        number, total = frame.index, frame.count
        key = (source, frame.term)
        if self._done.get(key, (0, 0))[0] == total > 0:
            return _full(total), None
        inner = self._well_formed(frame, payload)
        message = self._messages.get(key)
        if inner is None or (message and message.shape != (total, frame.commit, inner)):
            self.malformed += 1
            return None, None
        if message is None:
            message = self._admit(key, frame, inner, now)
            if message is None:
                self.refused += 1
                return None, None
        if message.chunks[number] is None:
            message.chunks[number] = bytes(payload[PREFIX_BYTES:])
            message.held |= 1 << number
        if message.held.bit_count() < total:
            return message.held.to_bytes((total + 7) // 8, "little"), None
        self._release(key)
        data = b"".join(chunk for chunk in message.chunks if chunk is not None)
        if _INNER.unpack_from(data) != inner:
            self.malformed += 1
            return None, None
        self._done[key] = (total, now + self._deadline)
        self._done.move_to_end(key)  # of an id that came again as another message: it is no longer the oldest
        self.completed += 1
        return _full(total), data

    def expire(self, now: Nanoseconds) -> None:
        """Drops incomplete messages past their deadline, and what is remembered of completed ones."""
        while self._messages:
            key, message = next(iter(self._messages.items()))
            if message.deadline > now:
                break
            self._release(key)
            self.expired += 1
        while self._done:
            key, (_, forget_at) = next(iter(self._done.items()))
            if forget_at > now and len(self._done) <= REMEMBERED_MESSAGES:
                break
            del self._done[key]

    def forget(self, source: K) -> None:
        """Drops what `source` has begun, and which of its messages were whole."""
        for key in [key for key in self._messages if key[0] == source]:
            self._release(key)
        for key in [key for key in self._done if key[0] == source]:
            del self._done[key]

    def _well_formed(self, frame: Frame, payload: bytes | memoryview) -> tuple[int, int] | None:
        """(inner kind, inner flags) if the fragment's size and place follow from its count and total, else None."""
        count, total, number = frame.count, frame.commit, frame.index
        if not (1 <= count <= MAX_FRAGMENTS and HEADER_BYTES <= total <= self._max_message_bytes and number < count):
            return None
        chunk = -(-total // count)
        if count > 1 and chunk < _MIN_CHUNK // 2:
            return None  # nobody cuts so fine; a byte apiece would cost us fifty
        begin = number * chunk
        if (count - 1) * chunk >= total or len(payload) != PREFIX_BYTES + min(chunk, total - begin):
            return None
        kind, zero, flags, offset = _PREFIX.unpack_from(payload)
        if zero or offset != begin or kind in (KIND_FRAGMENT, KIND_FRAGMENT_ACK):
            return None
        return kind, flags

    def _admit(self, key: tuple[K, int], frame: Frame, inner: tuple[int, int], now: Nanoseconds) -> _Incoming | None:
        total_bytes = frame.commit
        share = self._by_source.get(key[0], 0) + total_bytes
        full = self.bytes_held + total_bytes > self._limit_bytes or len(self._messages) >= self._limit_messages
        if full or share > self._share_bytes:
            return None
        self._by_source[key[0]] = share
        self.bytes_held += total_bytes
        message = self._messages[key] = _Incoming((frame.count, total_bytes, inner), now + self._deadline)
        return message

    def _release(self, key: tuple[K, int]) -> None:
        total_bytes = self._messages.pop(key).shape[1]
        self.bytes_held -= total_bytes
        left = self._by_source[key[0]] - total_bytes
        if left:
            self._by_source[key[0]] = left
        else:
            del self._by_source[key[0]]
