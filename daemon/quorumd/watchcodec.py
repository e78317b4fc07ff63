"""The bodies of WATCH and WATCH_EVENTS frames: what a client asks of a stream of watches, and what a node puts in it.

A leaf. The node's items are encoded by fastpath's watch.h; the layouts of both are in ARCHITECTURE.md. Whatever comes
from the network may be nonsense: then ProtocolError is raised, nothing else.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from quorumd.commands import KeyValue
from quorumd.commands.reader import Reader
from quorumd.errors import ProtocolError
from quorumd.limits import MAX_KEY_BYTES

NO_LEADER: Final = 1
"""Frame flags of WATCH_EVENTS: this node knows no leader, and may be cut off from what happens."""
UNKNOWN_STREAM: Final = 2
"""The node has no such stream: it was dropped, or never begun here."""
REFUSED: Final = 4
"""The node has as many streams as it takes."""
CLOSE: Final = 1
"""Frame flags of WATCH: the client is done with the stream."""
PING: Final = 2
"""It wants an answer whatever the frame brings."""

PREV_KV: Final = 1
"""Flags of a watcher, as in fastpath's watch.pyi."""
NO_PUT: Final = 2
NO_DELETE: Final = 4
MORE: Final = 1
"""Flag of EVENTS: the revision goes on in the watcher's next item."""

_REQUEST: Final = struct.Struct("<IBBHQQII")
_ITEM: Final = struct.Struct("<IBBHQQ")
_EVENT: Final = struct.Struct("<BBHIIIQQQQ")
_PREVIOUS: Final = struct.Struct("<QQQQ")
REQUEST_BYTES: Final = _REQUEST.size
ITEM_BYTES: Final = _ITEM.size


class Ask(IntEnum):
    """Kinds of requests."""

    CREATE = 1
    CANCEL = 2
    PROGRESS = 3


class Tell(IntEnum):
    """Kinds of items."""

    CREATED = 1
    EVENTS = 2
    PROGRESS = 3
    ENDED = 4


class Why(IntEnum):
    """Why a watcher ended: the flags of ENDED."""

    COMPACTED = 1
    REJECTED = 2
    OVERLOADED = 3


class Request(NamedTuple):
    """What a client asks. `watch` names the watcher in its stream; key, end and revision only matter to CREATE."""

    kind: int
    watch: int = 0
    key: bytes = b""
    end: bytes = b""
    flags: int = 0
    revision: int = 0


class Item(NamedTuple):
    """What a node tells. `watch` 0: all watchers of the stream."""

    kind: int
    flags: int
    watch: int
    revision: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one key. Of a deleted one `kv` has the key and, as mod_revision, the revision of the delete.

    prev_kv: what the change replaced, if the watcher asked for it and there was something.
    """

    kv: KeyValue
    deleted: bool = False
    prev_kv: KeyValue | None = None

    @property
    def key(self) -> bytes:
        """The key that changed."""
        return self.kv.key

    @property
    def value(self) -> bytes:
        """Its value now; empty if it was deleted."""
        return self.kv.value

    @property
    def created(self) -> bool:
        """Whether the key was not there before."""
        return self.kv.version == 1


def encode_request(request: Request) -> bytes:
    """One request record. The callers check sizes."""
    kind, watch, key, end, flags, revision = request
    size = REQUEST_BYTES + len(key) + len(end)
    return _REQUEST.pack(size, kind, flags, 0, watch, revision, len(key), len(end)) + key + end


def decode_requests(payload: bytes, count: int) -> list[Request]:
    """Exactly `count` requests that fill the payload."""
    reader = Reader(payload)
    requests = []
    for _ in range(count):
        size, kind, flags, zero, watch, revision, key_size, end_size = reader.unpack(_REQUEST)
        if zero or size != REQUEST_BYTES + key_size + end_size or max(key_size, end_size) > MAX_KEY_BYTES + 1:
            raise ProtocolError("a watch request whose sizes contradict each other")
        requests.append(Request(kind, watch, reader.take(key_size), reader.take(end_size), flags, revision))
    reader.finish()
    return requests


def encode_item(item: Item) -> bytes:
    """One item, as watch.h does it."""
    kind, flags, watch, revision, body = item
    return _ITEM.pack(ITEM_BYTES + len(body), kind, flags, 0, watch, revision) + body


def decode_items(payload: bytes, count: int) -> list[Item]:
    """Exactly `count` items that fill the payload."""
    reader = Reader(payload)
    items = []
    for _ in range(count):
        size, kind, flags, _reserved, watch, revision = reader.unpack(_ITEM)
        if size < ITEM_BYTES:
            raise ProtocolError("an item shorter than its header")
        items.append(Item(kind, flags, watch, revision, reader.take(size - ITEM_BYTES)))
    reader.finish()
    return items


def encode_event(event: Event) -> bytes:
    """One event, as watch.h does it."""
    kv, prev = event.kv, event.prev_kv
    out = _EVENT.pack(
        event.deleted, prev is not None, 0, len(kv.key), len(kv.value), 0 if prev is None else len(prev.value),
        kv.create_revision, kv.mod_revision, kv.version, kv.lease,
    )  # fmt: skip
    if prev is None:
        return out + kv.key + kv.value
    held = _PREVIOUS.pack(prev.create_revision, prev.mod_revision, prev.version, prev.lease)
    return out + held + kv.key + kv.value + prev.value


def decode_events(body: bytes) -> tuple[Event, ...]:
    """The events of one revision, their pieces put together."""
    reader = Reader(body)
    events = []
    while reader.offset != len(body):
        kind, flags, _reserved, key_size, value_size, prev_size, *numbers = reader.unpack(_EVENT)
        replaced = reader.unpack(_PREVIOUS) if flags & 1 else None
        key = reader.take(key_size)
        kv = KeyValue(key, reader.take(value_size), *numbers)
        prev = None if replaced is None else KeyValue(key, reader.take(prev_size), *replaced)
        events.append(Event(kv, kind == 1, prev))
    return tuple(events)
