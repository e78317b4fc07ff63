"""Entry records and reply records: what stands around a command, and around the body of its result."""

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from quorumd.commands.reader import Reader
from quorumd.errors import ProtocolError, TooLarge
from quorumd.limits import ENTRY_HEADER_BYTES, MAX_ENTRY_BYTES, REPLY_HEADER_BYTES


class Kind(IntEnum):
    """Kinds of entry record. A log holds NOOP to EXPIRE_SESSION and EXPIRE_LEASE to RULES."""

    NOOP = 0
    COMMAND = 1
    OPEN_SESSION = 2
    CLOSE_SESSION = 3
    EXPIRE_SESSION = 4  # internal; seq is the generation that must not have moved, answered_below the newest NOOP
    READ = 5  # linearizable, not logged
    STALE_READ = 6  # not logged
    KEEP_ALIVE = 7  # of a session; not logged
    EXPIRE_LEASE = 8  # internal; session_lo is the lease; seq and answered_below as above
    COMPACT = 9  # internal; seq is the revision; session_lo, unless 0: only reclaims, and how much
    RULES = 10  # internal; seq is the quota in bytes, session_lo the version of the rules (limits.RULES_VERSION)


class Status(IntEnum):
    """Statuses of a reply record."""

    OK = 0
    NOT_LEADER = 1  # body: u16 leader or 0, then "host:port" of its client address or nothing
    REJECTED = 2
    TOO_LARGE = 3
    DISK_FULL = 4
    OVERLOADED = 5
    NO_SPACE = 6
    SESSION_EXPIRED = 7
    WINDOW_FULL = 8  # seq >= answered_below + SESSION_WINDOW_OPS: not executed
    ANSWERED = 9  # seq < answered_below: a stale duplicate
    TOO_MANY_SESSIONS = 10
    STOPPED = 11
    REPLY_EVICTED = 12  # executed once; the reply body is no longer held
    COMPACTED = 13
    LEASE_NOT_FOUND = 14
    LEASE_EXISTS = 15
    KEY_NOT_FOUND = 16  # whose value or lease was to stay
    FUTURE_REVISION = 17


class Reply(NamedTuple):
    """One reply record."""

    status: Status
    kind: Kind
    session_lo: int
    seq: int
    revision: int
    body: bytes


class Record(NamedTuple):
    """One entry record."""

    kind: Kind
    session: bytes
    seq: int
    answered_below: int
    command: bytes


_ENTRY: Final = struct.Struct("<IBBHQQQQ")
_REPLY: Final = struct.Struct("<IBBHQQQ")
_U64: Final = struct.Struct("<Q")
_STATUSES: Final = tuple(Status)
_KINDS: Final = tuple(Kind)


def encode_record(kind: int, session: bytes, seq: int, answered_below: int, command: bytes = b"") -> bytes:
    """One entry record. `session` has 16 bytes: session_hi, session_lo, both little-endian. Raises TooLarge."""
    length = ENTRY_HEADER_BYTES + len(command)
    if length > MAX_ENTRY_BYTES:
        raise TooLarge(f"the request has {length} bytes, at most {MAX_ENTRY_BYTES} are allowed")
    high, low = session_halves(session)
    return _ENTRY.pack(length, kind, 0, 0, high, low, seq, answered_below) + command


def session_halves(session: bytes) -> tuple[int, int]:
    """(session_hi, session_lo) of a session id; replies carry only the latter."""
    if len(session) != 16:
        raise ProtocolError(f"a session id has 16 bytes, not {len(session)}")
    return _U64.unpack_from(session, 0)[0], _U64.unpack_from(session, 8)[0]


def decode_records(data: bytes) -> list[Record]:
    """The entry records that fill `data`. Raises ProtocolError on bad bytes."""
    reader = Reader(data)
    records = []
    while reader.offset < len(data):
        length, kind, flags, reserved, high, low, seq, answered_below = reader.unpack(_ENTRY)
        if not ENTRY_HEADER_BYTES <= length <= MAX_ENTRY_BYTES or kind >= len(_KINDS) or flags or reserved:
            raise ProtocolError(f"bad entry header before byte {reader.offset}")
        command = reader.take(length - ENTRY_HEADER_BYTES)
        session = _U64.pack(high) + _U64.pack(low)
        records.append(Record(_KINDS[kind], session, seq, answered_below, command))
    return records


def encode_reply(reply: Reply) -> bytes:
    """One reply record."""
    length = REPLY_HEADER_BYTES + len(reply.body)
    header = _REPLY.pack(length, reply.status, reply.kind, 0, reply.session_lo, reply.seq, reply.revision)
    return header + reply.body


def decode_replies(payload: bytes, count: int) -> list[Reply]:
    """The `count` reply records that fill `payload`. Raises ProtocolError on bad bytes."""
    replies, offset = [], 0
    for _ in range(count):  # a client's hot path: no Reader
        if len(payload) - offset < REPLY_HEADER_BYTES:
            raise ProtocolError(f"a reply header cut short at byte {offset}")
        length, status, kind, reserved, session_lo, seq, revision = _REPLY.unpack_from(payload, offset)
        begin, offset = offset, offset + length
        whole = REPLY_HEADER_BYTES <= length <= len(payload) - begin
        if not whole or status >= len(_STATUSES) or kind >= len(_KINDS) or reserved:
            raise ProtocolError(f"bad reply header at byte {begin}")
        body = payload[begin + REPLY_HEADER_BYTES : offset]
        replies.append(Reply(_STATUSES[status], _KINDS[kind], session_lo, seq, revision, body))
    if offset != len(payload):
        raise ProtocolError(f"{len(payload) - offset} bytes too many")
    return replies
