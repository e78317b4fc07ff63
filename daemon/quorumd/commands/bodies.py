"""Results from the bodies of replies."""

import struct
from typing import Final

from quorumd.commands.encoding import CODES, U32, U64
from quorumd.commands.ops import (
    Compact,
    DeleteRange,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseList,
    LeaseRevoke,
    LeaseTimeToLive,
    Op,
    Put,
    Range,
    Txn,
    TxnOp,
)
from quorumd.commands.reader import Reader
from quorumd.commands.results import (
    CompactResult,
    DeleteResult,
    KeyValue,
    LeaseGrantResult,
    LeaseKeepAliveResult,
    LeaseListResult,
    LeaseRevokeResult,
    LeaseTimeToLiveResult,
    PutResult,
    RangeResult,
    Result,
    SimpleResult,
    TxnResult,
)
from quorumd.errors import ProtocolError

_KV: Final = struct.Struct("<QQQQII")
_DELETE_BODY: Final = struct.Struct("<QI")
_RANGE_BODY: Final = struct.Struct("<QBI")
_TXN_BODY: Final = struct.Struct("<BI")
_RESPONSE: Final = struct.Struct("<BI")
_GRANT_BODY: Final = struct.Struct("<QQ")
_TTL_BODY: Final = struct.Struct("<QQQBI")


def decode(op: Op, revision: int, body: bytes) -> Result:
    """The result that the body of an OK reply to `op` holds. Raises ProtocolError on bad bytes."""
    reader = Reader(body)
    result = _read(op, revision, reader)
    reader.finish()
    return result


def _read(op: Op, revision: int, reader: Reader) -> Result:
    match op:
        case Put() | DeleteRange() | Range() | Txn():
            return _read_txn_op(op, revision, reader)
        case Compact():
            return CompactResult(revision)
        case LeaseGrant():
            return LeaseGrantResult(revision, *reader.unpack(_GRANT_BODY))
        case LeaseRevoke():
            return LeaseRevokeResult(revision, *reader.unpack(U64))
        case LeaseKeepAlive():
            return LeaseKeepAliveResult(revision, *reader.unpack(U64))
        case LeaseTimeToLive():
            ttl_ms, left_ms, count, more, size = reader.unpack(_TTL_BODY)
            keys = tuple(reader.take(reader.unpack(U32)[0]) for _ in range(size))
            return LeaseTimeToLiveResult(revision, ttl_ms, left_ms, count, keys, _flag(more))
        case LeaseList():
            (size,) = reader.unpack(U32)
            return LeaseListResult(revision, tuple(reader.unpack(U64)[0] for _ in range(size)))


def _read_txn_op(op: TxnOp, revision: int, reader: Reader) -> SimpleResult | TxnResult:
    match op:
        case Put():
            return PutResult(revision, _read_kv(reader) if reader.data else None)
        case DeleteRange():
            deleted, size = reader.unpack(_DELETE_BODY)
            return DeleteResult(revision, deleted, tuple(_read_kv(reader) for _ in range(size)))
        case Range():
            count, more, size = reader.unpack(_RANGE_BODY)
            return RangeResult(revision, tuple(_read_kv(reader) for _ in range(size)), _flag(more), count)
        case Txn():
            return _read_txn(op, revision, reader)


def _read_txn(txn: Txn, revision: int, reader: Reader) -> TxnResult:
    succeeded, size = reader.unpack(_TXN_BODY)
    branch = txn.then if _flag(succeeded) else txn.orelse
    if size != len(branch):
        raise ProtocolError(f"{size} responses to {len(branch)} operations")
    responses = []
    for op in branch:
        code, length = reader.unpack(_RESPONSE)
        if code != CODES[type(op)]:
            raise ProtocolError(f"a response of type {code} to {type(op).__name__}")
        inner = Reader(reader.take(length))
        responses.append(_read_txn_op(op, revision, inner))
        inner.finish()
    return TxnResult(revision, bool(succeeded), tuple(responses))


def _read_kv(reader: Reader) -> KeyValue:
    create_revision, mod_revision, version, lease, key_size, value_size = reader.unpack(_KV)
    return KeyValue(reader.take(key_size), reader.take(value_size), create_revision, mod_revision, version, lease)


def _flag(byte: int) -> bool:
    if byte > 1:
        raise ProtocolError(f"a flag byte of {byte}")
    return bool(byte)
