"""Frames, client records and replies; see wire.pyx. An `addr` is 1 to 28 opaque bytes (ValueError otherwise)."""

from typing import NamedTuple

from typing_extensions import Buffer

from quorumd_fastpath.replays import ReplayWindows

HEADER_BYTES: int
ENTRY_HEADER_BYTES: int
REPLY_HEADER_BYTES: int
MAX_ENTRY_BYTES: int
ADDR_BYTES: int
MAX_OTHER_FRAMES: int
MAGIC: int
WIRE_VERSION: int

KIND_HELLO: int
KIND_HELLO_REPLY: int
KIND_FRAGMENT: int
KIND_FRAGMENT_ACK: int
KIND_REQUEST_VOTE: int
KIND_REQUEST_VOTE_REPLY: int
KIND_APPEND_ENTRIES: int
KIND_APPEND_ENTRIES_REPLY: int
KIND_HEARTBEAT: int
KIND_HEARTBEAT_REPLY: int
KIND_TIMEOUT_NOW: int
KIND_PREPARE: int
KIND_PROMISE: int
KIND_ACCEPT: int
KIND_ACCEPTED: int
KIND_REFUSED: int
KIND_FETCH: int
KIND_VALUES: int
KIND_CLIENT_HELLO: int
KIND_CLIENT_HELLO_REPLY: int
KIND_REQUEST: int
KIND_REPLY: int
KIND_STATUS: int
KIND_STATUS_REPLY: int
KIND_ADMIN: int
KIND_ADMIN_REPLY: int
KIND_WATCH: int
KIND_WATCH_EVENTS: int

ENTRY_NOOP: int
ENTRY_COMMAND: int
ENTRY_OPEN_SESSION: int
ENTRY_CLOSE_SESSION: int
ENTRY_EXPIRE_SESSION: int
ENTRY_READ: int
ENTRY_STALE_READ: int
ENTRY_KEEP_ALIVE: int
ENTRY_EXPIRE_LEASE: int
ENTRY_COMPACT: int
ENTRY_RULES: int

STATUS_OK: int
STATUS_NOT_LEADER: int
STATUS_REJECTED: int
STATUS_TOO_LARGE: int
STATUS_DISK_FULL: int
STATUS_OVERLOADED: int
STATUS_NO_SPACE: int
STATUS_SESSION_EXPIRED: int
STATUS_WINDOW_FULL: int
STATUS_ANSWERED: int
STATUS_TOO_MANY_SESSIONS: int
STATUS_STOPPED: int
STATUS_REPLY_EVICTED: int
STATUS_COMPACTED: int
STATUS_LEASE_NOT_FOUND: int
STATUS_LEASE_EXISTS: int
STATUS_KEY_NOT_FOUND: int
STATUS_FUTURE_REVISION: int

DROP_NONE: int
DROP_BAD_MAGIC: int
DROP_BAD_VERSION: int
DROP_BAD_KIND: int
DROP_BAD_LENGTH: int
DROP_BAD_CRC: int
DROP_BAD_RESERVED: int
DROP_WRONG_CLUSTER: int
DROP_WRONG_RECEIVER: int
DROP_BAD_RECORD: int
DROP_BAD_MAC: int
DROP_OLD_INCARNATION: int
DROP_UNKNOWN_SENDER: int
DROP_STALE_RECEIVER: int
DROP_BAD_BODY: int
DROP_OVERFLOW: int
DROP_REASSEMBLY_FULL: int
DROP_REPLAYED: int
DROP_REASONS: int
REASONS: tuple[str, ...]
"""Name of each drop reason, in the order of DROP_BAD_MAGIC..DROP_REPLAYED (reason 1 is REASONS[0])."""

WRITES: int
READS: int
STALE: int
OVERFLOW: int

Frame = NamedTuple(  # noqa: UP014 - in class form mypy refuses fields named like tuple's `count` and `index`
    "Frame",
    [
        ("payload_offset", int),
        ("payload_length", int),
        ("kind", int),
        ("flags", int),
        ("group", int),
        ("sender", int),
        ("receiver", int),
        ("sender_incarnation", int),
        ("receiver_incarnation", int),
        ("term", int),
        ("index", int),
        ("commit", int),
        ("count", int),
        ("cluster", int),
    ],
)
"""Header of one valid frame; its payload lies at payload_offset of the slot (or datagram) it was parsed from."""

def encode_frame(
    kind: int,
    flags: int,
    cluster: int,
    sender: int,
    receiver: int,
    sender_incarnation: int,
    receiver_incarnation: int,
    term: int,
    index: int,
    commit: int,
    count: int,
    payload: Buffer = b"",
) -> bytes:
    """One whole frame, header and payload. OverflowError when a field does not fit its width."""

def parse_datagram(data: bytes, counters: Counters | None = None) -> list[tuple[Frame, bytes]]:
    """Every valid frame of one datagram with its payload; payload_offset counts from the start of `data`."""

def parse_frames(slab: Slab, slot: int, counters: Counters) -> list[Frame]:
    """Every valid frame of the slab's datagram `slot`; payload_offset counts from the start of the slot.

    A frame of unknown kind or with reserved bits is stepped over; any other damage ends the datagram.
    """

class Counters:
    """How many frames or datagrams were dropped, by reason."""

    def increment(self, reason: int, amount: int = 1) -> None:
        """Counts a drop that Python decided on; `reason` is one of DROP_* (IndexError otherwise)."""

    def as_dict(self) -> dict[str, int]:
        """Every reason with its count, zeros too."""

class Slab:
    """Inbound datagrams in one block of memory, one slot each, with the address each came from.

    Methods that take a slot raise IndexError for one that holds no datagram.
    """

    def __init__(self, slots: int = 256, slot_bytes: int = 65536) -> None: ...
    def __len__(self) -> int: ...
    def push(self, data: Buffer, addr: bytes) -> bool:
        """Copies one datagram in; False when the slab is full or the datagram exceeds a slot."""

    def clear(self) -> None:
        """Forgets every datagram; nothing staged from it may be used any more."""

    def view(self, slot: int) -> memoryview:
        """The bytes of datagram `slot`, read-only, not copied; it shows what the slot holds when it is read."""

    def addr(self, slot: int) -> bytes: ...
    def shrink(self, slot: int, size: int) -> None:
        """Cuts `size` bytes off the end of datagram `slot` (a MAC that was checked)."""

    def drop(self, slot: int) -> None:
        """Empties datagram `slot`; it counts no further."""

class Outbox:
    """Outbound datagrams as lists of pieces: copies in a scratch block, and references to memory of others.

    Consecutive frames to one address share a datagram while it stays within `mtu`, less the tail room.
    Methods that take a datagram's number raise IndexError for one that is not there.
    """

    overflow: int
    """Frames refused because the outbox was full, or above the mtu."""
    @property
    def mtu(self) -> int: ...
    @property
    def tail_room(self) -> int: ...
    def __init__(self, datagrams: int = 4096, scratch_bytes: int = ..., mtu: int = 65000) -> None: ...
    def __len__(self) -> int: ...
    def identify(self, cluster: int, sender: int, incarnation: int) -> None:
        """Who speaks: goes into the header of every frame written from now on."""

    def set_tail_room(self, size: int) -> None:
        """Keeps `size` bytes of every datagram free for append_tail. Only while empty (ValueError)."""

    def frame(
        self,
        addr: bytes,
        kind: int,
        flags: int,
        receiver: int,
        receiver_incarnation: int,
        term: int,
        index: int,
        commit: int,
        count: int,
        payload: Buffer = b"",
    ) -> bool:
        """Queues one frame, its payload copied. False (counted in `overflow`) when full or above the mtu."""

    def append_tail(self, i: int, data: Buffer) -> None:
        """Ends datagram `i` with `data` (its MAC), at most the tail room; nothing joins it, or those before, after.

        Once per datagram, in order; ValueError otherwise.
        """

    def datagram(self, i: int) -> bytes:
        """The bytes of datagram `i`, joined."""

    def addr(self, i: int) -> bytes: ...
    def drain(self) -> list[tuple[bytes, bytes]]:
        """Every datagram joined, with its address; leaves the outbox empty."""

    def clear(self) -> None:
        """Forgets every datagram; the memory it referred to is free again."""

class Stage:
    """Client operations of one turn, checked and sorted by what must happen to them; they stay in their slab.

    `capacity` operations are taken; as many again are remembered to be refused with OVERLOADED (class OVERFLOW); the
    rest is counted and left for the client to repeat.
    """

    def __init__(self, capacity: int = 65536) -> None: ...
    @property
    def writes(self) -> int: ...
    @property
    def write_bytes(self) -> int: ...
    @property
    def reads(self) -> int: ...
    @property
    def read_bytes(self) -> int: ...
    @property
    def stale(self) -> int: ...
    @property
    def refused(self) -> int:
        """Operations above the capacity, to be answered with reject(OVERFLOW, ...)."""

    @property
    def writes_only_shrink(self) -> bool:
        """Whether no staged write can make the store grow: closed sessions, deletes, compactions, revocations only."""

    def records(self, which: int) -> list[tuple[bytes, bytes]]:
        """The staged records of a class with the address each came from: (addr, record), copied."""

    def expect_numbers(self, replays: ReplayWindows, incarnation: int) -> None:
        """From now on a REQUEST frame with a number is taken once, and only if it is addressed to `incarnation`."""

    def collect(self, slab: Slab, cluster: int, counters: Counters, now: int = 0) -> list[tuple[int, Frame]]:
        """Stages the records of every REQUEST frame for `cluster`; returns (slot, frame) of other valid frames.

        Among those are numbered requests for another incarnation, see expect_numbers; `now` is for its windows.

        All or nothing per frame. Of the others at most MAX_OTHER_FRAMES come back, the rest is counted as overflow. The
        slab must not be cleared before this stage is.
        """

    def collect_payload(self, payload: bytes, count: int, addr: bytes) -> bool:
        """Stages the records of one reassembled REQUEST payload; False when it is not exactly `count` valid ones."""

    def write_bytes_of(self, count: int) -> int:
        """Bytes of the first `count` staged writes, or of all if there are fewer."""

    def reject(
        self, which: int, replies: Replies, status: int, revision: int = 0, body: bytes = b"", kept: int = 0
    ) -> None:
        """Answers the staged operations of class `which` after the first `kept` with `status`, and forgets them."""

    def filter_growing(self, replies: Replies, status: int, revision: int = 0, body: bytes = b"") -> int:
        """Answers the staged writes that could make the store grow with `status`, keeps the others; how many it was."""

    def clear(self) -> None:
        """Forgets every operation and lets go of the slabs and payloads they lie in."""

class Replies:
    """Reply records waiting to be packed into REPLY frames by address, in order for each address."""

    overflow: int
    """Replies lost because there was no room; the client asks again."""
    def __init__(self, scratch_bytes: int = ..., mtu: int = 65000) -> None: ...
    def __len__(self) -> int: ...
    def add(
        self, addr: bytes, status: int, kind: int, session_lo: int, seq: int, revision: int, body: bytes = b""
    ) -> bool:
        """Queues one reply record; False (counted in `overflow`) when full."""

    def flush(self, outbox: Outbox, receiver: int = 0) -> list[tuple[bytes, bytes]]:
        """Packs what waits into REPLY frames; returns (address, record) of each record too large for a datagram.

        When the outbox fills up, the rest keeps waiting (len() > 0): send the outbox and flush again.
        """

    def clear(self) -> None:
        """Forgets every reply that waits."""
