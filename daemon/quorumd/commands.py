"""Commands, entry records and reply records as bytes: the Python side. The C side is fastpath/commands.h.

A leaf: imports only errors and limits. All integers are little-endian and packed; `kv` and `op` mean the layouts below.

Entry record, a client's request and a log entry alike (40 bytes, then the command):
    u32 length, header included | u8 kind | u8 flags = 0 | u16 0 | u64 session_hi | u64 session_lo | u64 seq
    | u64 answered_below
Reply record (32 bytes, then the body):
    u32 length, header included | u8 status | u8 kind | u16 0 | u64 session_lo | u64 seq | u64 revision

Commands, after which nothing may follow; reserved bits are zero:
    PUT           u8 1 | u8 flags (1 prev_kv) | u16 0 | u32 key size | u32 value size | u64 lease | key | value
    DELETE_RANGE  u8 2 | u8 flags (1 prev_kv) | u16 0 | u32 key size | u32 end size | key | end
    RANGE         u8 3 | u8 flags (1 keys_only, 2 count_only) | u16 0 | u32 key size | u32 end size | u64 limit
                  | u64 revision | key | end
    TXN           u8 4 | u8 0 | u16 compares | u16 then | u16 orelse | compare... | (u32 size | op)... then | ... orelse
    compare       u8 target (0 version 1 create 2 mod 3 value 4 lease) | u8 result (0 = 1 > 2 < 3 !=) | u16 0
                  | u32 key size | u32 operand size (8 and a u64 unless target is value) | key | operand
    `op` inside a TXN is a PUT, DELETE_RANGE or RANGE.

Reply bodies of status OK (any other status: a UTF-8 reason, or nothing):
    kv            u64 create_revision | u64 mod_revision | u64 version | u64 lease | u32 key size | u32 value size
                  | key | value (empty in a keys_only range)
    PUT           nothing, or the kv that was replaced (only with prev_kv)
    DELETE_RANGE  u64 deleted | u32 n | kv... (only with prev_kv)
    RANGE         u64 count of all keys in the range | u8 more | u32 n | kv...
    TXN           u8 succeeded | u32 n | (u8 op | u32 size | body)...
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, NamedTuple, TypeAlias

from quorumd.errors import ProtocolError, Rejected, TooLarge
from quorumd.limits import (
    ENTRY_HEADER_BYTES,
    MAX_ENTRY_BYTES,
    MAX_KEY_BYTES,
    MAX_TXN_OPS,
    MAX_VALUE_BYTES,
    REPLY_HEADER_BYTES,
)

ALL: Final = b"\0"
"""As `end` of a range: every key from `key` on."""


class Kind(IntEnum):
    """Kinds of entry record."""

    NOOP = 0
    COMMAND = 1
    OPEN_SESSION = 2
    CLOSE_SESSION = 3
    EXPIRE_SESSION = 4  # internal; seq is the generation that must not have moved
    READ = 5  # linearizable, not logged
    STALE_READ = 6  # not logged
    KEEP_ALIVE = 7  # not logged


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


class OpCode(IntEnum):
    """First byte of a command."""

    PUT = 1
    DELETE_RANGE = 2
    RANGE = 3
    TXN = 4


Target: TypeAlias = Literal["version", "create", "mod", "value", "lease"]
Relation: TypeAlias = Literal["=", ">", "<", "!="]
_TARGETS: Final[tuple[Target, ...]] = ("version", "create", "mod", "value", "lease")
_RELATIONS: Final[tuple[Relation, ...]] = ("=", ">", "<", "!=")


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as a read returned it."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    """Puts since the key was created; starts at 1."""
    lease: int


@dataclass(frozen=True, slots=True)
class Put:
    """Sets a key. `prev_kv` asks for what it replaced."""

    key: bytes
    value: bytes
    lease: int = 0
    prev_kv: bool = False


@dataclass(frozen=True, slots=True)
class DeleteRange:
    """Deletes `key` (end empty), [key, end), or every key from `key` on (end ALL)."""

    key: bytes
    end: bytes = b""
    prev_kv: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """Reads a range of keys, named as in DeleteRange, in key order. limit 0: as many as one reply holds."""

    key: bytes
    end: bytes = b""
    limit: int = 0
    keys_only: bool = False
    count_only: bool = False
    revision: int = 0
    """0: the newest."""


@dataclass(frozen=True, slots=True)
class Compare:
    """`target` of `key` stands in `result` to `operand`. A missing key has 0 everywhere, and no value at all:
    a comparison of its value is false, whatever the relation."""

    key: bytes
    target: Target
    result: Relation
    operand: int | bytes

    @classmethod
    def version(cls, key: bytes, result: Relation, operand: int) -> "Compare":
        return cls(key, "version", result, operand)

    @classmethod
    def create_revision(cls, key: bytes, result: Relation, operand: int) -> "Compare":
        return cls(key, "create", result, operand)

    @classmethod
    def mod_revision(cls, key: bytes, result: Relation, operand: int) -> "Compare":
        return cls(key, "mod", result, operand)

    @classmethod
    def value(cls, key: bytes, result: Relation, operand: bytes) -> "Compare":
        return cls(key, "value", result, operand)

    @classmethod
    def lease(cls, key: bytes, result: Relation, operand: int) -> "Compare":
        return cls(key, "lease", result, operand)


SimpleOp: TypeAlias = Put | DeleteRange | Range


@dataclass(frozen=True, slots=True)
class Txn:
    """If every compare holds, `then` in order, else `orelse`; all at one revision. One branch may not put a key twice,
    nor put a key that it deletes."""

    compares: Sequence[Compare] = ()
    then: Sequence[SimpleOp] = ()
    orelse: Sequence[SimpleOp] = ()


Op: TypeAlias = SimpleOp | Txn


@dataclass(frozen=True, slots=True)
class PutResult:
    """Of a Put; `prev` only when prev_kv asked for it and the key was there."""

    revision: int
    prev: KeyValue | None = None


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """Of a DeleteRange; `prev` only when prev_kv asked for it."""

    revision: int
    deleted: int
    prev: tuple[KeyValue, ...] = ()


@dataclass(frozen=True, slots=True)
class RangeResult:
    """Of a Range; `count` is of all keys in it, whatever the limit."""

    revision: int
    kvs: tuple[KeyValue, ...]
    more: bool
    """The reply was cut by `limit` or by its size: go on at the last key + b"\\0"."""
    count: int


SimpleResult: TypeAlias = PutResult | DeleteResult | RangeResult


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Of a Txn; one response to each operation of the branch that ran."""

    revision: int
    succeeded: bool
    responses: tuple[SimpleResult, ...]


Result: TypeAlias = SimpleResult | TxnResult


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


_SIMPLE: Final = struct.Struct("<BBHII")  # how every operation but TXN, and every compare, begins
_PUT: Final = struct.Struct("<BBHIIQ")
_RANGE: Final = struct.Struct("<BBHIIQQ")
_TXN: Final = struct.Struct("<BBHHH")
_NUMBERS: Final[dict[int, struct.Struct]] = {OpCode.PUT: struct.Struct("<Q"), OpCode.RANGE: struct.Struct("<QQ")}
_KV: Final = struct.Struct("<QQQQII")
_DELETE_BODY: Final = struct.Struct("<QI")
_RANGE_BODY: Final = struct.Struct("<QBI")
_TXN_BODY: Final = struct.Struct("<BI")
_RESPONSE: Final = struct.Struct("<BI")
_ENTRY: Final = struct.Struct("<IBBHQQQQ")
_REPLY: Final = struct.Struct("<IBBHQQQ")
_CODES: Final = {Put: OpCode.PUT, DeleteRange: OpCode.DELETE_RANGE, Range: OpCode.RANGE}
_U64: Final = struct.Struct("<Q")
_U32: Final = struct.Struct("<I")

_STATUSES: Final = tuple(Status)
_KINDS: Final = tuple(Kind)


def encode(op: Op) -> bytes:
    """The command's bytes. Raises Rejected or TooLarge for what every node would refuse."""
    return _encode_txn(op) if isinstance(op, Txn) else _encode_simple(op)


def _encode_simple(op: SimpleOp) -> bytes:
    _check_key(op.key)
    match op:
        case Put(key, value, lease, prev_kv):
            if len(value) > MAX_VALUE_BYTES:
                raise TooLarge(f"the value has {len(value)} bytes, at most {MAX_VALUE_BYTES} are allowed")
            header = _PUT.pack(OpCode.PUT, prev_kv, 0, len(key), len(value), _unsigned(lease, "lease"))
            return header + key + value
        case DeleteRange(key, end, prev_kv):
            _check_end(end)
            return _SIMPLE.pack(OpCode.DELETE_RANGE, prev_kv, 0, len(key), len(end)) + key + end
        case Range(key, end, limit, keys_only, count_only, revision):
            _check_end(end)
            limit, revision = _unsigned(limit, "limit"), _unsigned(revision, "revision")
            flags = keys_only | count_only << 1
            return _RANGE.pack(OpCode.RANGE, flags, 0, len(key), len(end), limit, revision) + key + end


def _encode_txn(txn: Txn) -> bytes:
    if max(len(txn.compares), len(txn.then), len(txn.orelse)) > MAX_TXN_OPS:
        raise TooLarge(f"a transaction has at most {MAX_TXN_OPS} compares and operations in a branch")
    parts = [_TXN.pack(OpCode.TXN, 0, len(txn.compares), len(txn.then), len(txn.orelse))]
    for compare in txn.compares:
        _check_key(compare.key)
        operand = compare.operand
        if (compare.target == "value") is not isinstance(operand, bytes):
            raise Rejected(f"{compare.target} compared with {type(operand).__name__}: a value takes bytes, else an int")
        operand = operand if isinstance(operand, bytes) else _U64.pack(_unsigned(operand, "operand"))
        target, result = _TARGETS.index(compare.target), _RELATIONS.index(compare.result)
        parts.append(_SIMPLE.pack(target, result, 0, len(compare.key), len(operand)) + compare.key + operand)
    for op in (*txn.then, *txn.orelse):
        command = _encode_simple(op)
        parts.append(_U32.pack(len(command)) + command)
    encoded = b"".join(parts)
    limit = MAX_ENTRY_BYTES - ENTRY_HEADER_BYTES
    if len(encoded) > limit:
        raise TooLarge(f"the transaction has {len(encoded)} bytes, at most {limit} are allowed")
    return encoded


def _check_key(key: bytes) -> None:
    if not key:
        raise Rejected("the key is empty")
    if len(key) > MAX_KEY_BYTES:
        raise TooLarge(f"the key has {len(key)} bytes, at most {MAX_KEY_BYTES} are allowed")


def _check_end(end: bytes) -> None:
    if len(end) > MAX_KEY_BYTES:
        raise TooLarge(f"the end of the range has {len(end)} bytes, at most {MAX_KEY_BYTES} are allowed")


def _unsigned(number: int, name: str) -> int:
    if not 0 <= number < 1 << 64:
        raise Rejected(f"{name} is {number}; it must be an unsigned 64-bit number")
    return number


class _Reader:
    """Walks bytes; running out of them is a ProtocolError."""

    __slots__ = ("data", "offset")

    def __init__(self, data: bytes) -> None:
        self.data, self.offset = data, 0

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.offset:
            raise ProtocolError(f"truncated: {size} bytes expected at {self.offset} of {len(self.data)}")
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def kv(self) -> KeyValue:
        create_revision, mod_revision, version, lease, key_size, value_size = self.unpack(_KV)
        return KeyValue(self.take(key_size), self.take(value_size), create_revision, mod_revision, version, lease)

    def finish(self) -> None:
        if self.offset != len(self.data):
            raise ProtocolError(f"{len(self.data) - self.offset} bytes too many")


def decode(op: Op, revision: int, body: bytes) -> Result:
    """The result that the body of an OK reply to `op` holds. Raises ProtocolError on bad bytes."""
    return _decode_txn_body(op, revision, body) if isinstance(op, Txn) else _decode_simple_body(op, revision, body)


def _decode_simple_body(op: SimpleOp, revision: int, body: bytes) -> SimpleResult:
    if isinstance(op, Put) and not body:
        return PutResult(revision)
    reader = _Reader(body)
    result: SimpleResult
    if isinstance(op, Put):
        result = PutResult(revision, reader.kv())
    elif isinstance(op, DeleteRange):
        deleted, size = reader.unpack(_DELETE_BODY)
        result = DeleteResult(revision, deleted, tuple(reader.kv() for _ in range(size)))
    else:
        count, more, size = reader.unpack(_RANGE_BODY)
        result = RangeResult(revision, tuple(reader.kv() for _ in range(size)), _flag(more), count)
    reader.finish()
    return result


def _decode_txn_body(txn: Txn, revision: int, body: bytes) -> TxnResult:
    reader = _Reader(body)
    succeeded, size = reader.unpack(_TXN_BODY)
    branch = txn.then if _flag(succeeded) else txn.orelse
    if size != len(branch):
        raise ProtocolError(f"{size} responses to {len(branch)} operations")
    responses = []
    for op in branch:
        code, length = reader.unpack(_RESPONSE)
        if code != _CODES[type(op)]:
            raise ProtocolError(f"a response of type {code} to {type(op).__name__}")
        responses.append(_decode_simple_body(op, revision, reader.take(length)))
    reader.finish()
    return TxnResult(revision, bool(succeeded), tuple(responses))


def _flag(byte: int) -> bool:
    if byte > 1:
        raise ProtocolError(f"a flag byte of {byte}")
    return bool(byte)


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
    reader = _Reader(data)
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
    for _ in range(count):  # a client's hot path: no _Reader
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


def decode_command(data: bytes) -> Op:
    """The operation that `encode` made these bytes from. Raises ProtocolError on bad bytes."""
    reader = _Reader(data)
    if data[:1] == bytes([OpCode.TXN]):
        op: Op = _read_txn(reader)
    else:
        op = _read_simple(reader)
    reader.finish()
    return op


def _read_simple(reader: _Reader) -> SimpleOp:
    code, flags, reserved, key_size, size = reader.unpack(_SIMPLE)
    numbers = reader.unpack(_NUMBERS[code]) if code in _NUMBERS else ()
    key, rest = reader.take(key_size), reader.take(size)
    _check_reserved(flags & (~3 if code == OpCode.RANGE else ~1), reserved)
    match code, numbers:
        case OpCode.PUT, (lease,):
            return Put(key, rest, lease, bool(flags))
        case OpCode.DELETE_RANGE, ():
            return DeleteRange(key, rest, bool(flags))
        case OpCode.RANGE, (limit, revision):
            return Range(key, rest, limit, bool(flags & 1), bool(flags & 2), revision)
    raise ProtocolError(f"no operation begins with {code}")


def _read_txn(reader: _Reader) -> Txn:
    _, flags, compares, then, orelse = reader.unpack(_TXN)
    _check_reserved(flags, 0)
    return Txn(
        tuple(_read_compare(reader) for _ in range(compares)),
        tuple(_read_branch_op(reader) for _ in range(then)),
        tuple(_read_branch_op(reader) for _ in range(orelse)),
    )


def _read_compare(reader: _Reader) -> Compare:
    target, result, reserved, key_size, size = reader.unpack(_SIMPLE)
    if target >= len(_TARGETS) or result >= len(_RELATIONS):
        raise ProtocolError(f"unknown comparison {target}, {result}")
    _check_reserved(0, reserved)
    key, operand = reader.take(key_size), reader.take(size)
    if _TARGETS[target] == "value":
        return Compare(key, "value", _RELATIONS[result], operand)
    if size != _U64.size:
        raise ProtocolError(f"an operand of {size} bytes for {_TARGETS[target]}")
    return Compare(key, _TARGETS[target], _RELATIONS[result], _U64.unpack(operand)[0])


def _read_branch_op(reader: _Reader) -> SimpleOp:
    (size,) = reader.unpack(_U32)
    inner = _Reader(reader.take(size))
    op = _read_simple(inner)
    inner.finish()
    return op


def _check_reserved(flags: int, reserved: int) -> None:
    if flags or reserved:
        raise ProtocolError("reserved bits are set")
