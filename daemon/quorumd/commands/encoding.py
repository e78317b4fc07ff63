"""Operations as the bytes of commands, and back."""

import struct
from typing import Final

from quorumd.commands.ops import (
    Compact,
    Compare,
    DeleteRange,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseList,
    LeaseRevoke,
    LeaseTimeToLive,
    Op,
    OpCode,
    Order,
    Put,
    Range,
    Relation,
    SimpleOp,
    SortTarget,
    Target,
    Txn,
    TxnOp,
)
from quorumd.commands.reader import Reader
from quorumd.errors import ProtocolError, Rejected, TooLarge
from quorumd.limits import (
    ENTRY_HEADER_BYTES,
    MAX_ENTRY_BYTES,
    MAX_KEY_BYTES,
    MAX_LEASE_TTL_MS,
    MAX_TXN_DEPTH,
    MAX_TXN_OPS,
    MAX_TXN_TOTAL,
    MAX_VALUE_BYTES,
)

CODES: Final = {
    Put: OpCode.PUT,
    DeleteRange: OpCode.DELETE_RANGE,
    Range: OpCode.RANGE,
    Txn: OpCode.TXN,
    Compact: OpCode.COMPACT,
    LeaseGrant: OpCode.LEASE_GRANT,
    LeaseRevoke: OpCode.LEASE_REVOKE,
    LeaseKeepAlive: OpCode.LEASE_KEEP_ALIVE,
    LeaseTimeToLive: OpCode.LEASE_TTL,
    LeaseList: OpCode.LEASE_LIST,
}
U64: Final = struct.Struct("<Q")
U32: Final = struct.Struct("<I")

_TARGETS: Final[tuple[Target, ...]] = ("version", "create", "mod", "value", "lease")
_RELATIONS: Final[tuple[Relation, ...]] = ("=", ">", "<", "!=")
_SORT_TARGETS: Final[tuple[SortTarget, ...]] = ("key", "version", "create", "mod", "value")
_ORDERS: Final[tuple[Order, ...]] = ("none", "ascend", "descend")

_SIMPLE: Final = struct.Struct("<BBHII")  # how PUT, DELETE_RANGE, RANGE and every compare begin
_TXN: Final = struct.Struct("<BBHHH")
_NUMBER: Final = struct.Struct("<BBHIQ")  # COMPACT and all about leases
_RANGE_NUMBERS: Final = struct.Struct("<QQ")
_OPTIONS: Final = struct.Struct("<QQQQQBB6s")
_PREV_KV, _IGNORE_VALUE, _IGNORE_LEASE = 1, 2, 4
_KEYS_ONLY, _COUNT_ONLY, _UNCOUNTED, _HAS_OPTIONS = 1, 2, 4, 8
_FLAGS: Final = {OpCode.PUT: 7, OpCode.DELETE_RANGE: 1, OpCode.RANGE: 15, OpCode.LEASE_TTL: 1}
_WITH_SECOND: Final = (OpCode.LEASE_GRANT, OpCode.LEASE_TTL)


# -- to bytes -------------------------------------------------------------------------------------------------------


def encode(op: Op) -> bytes:
    """The command's bytes. Raises Rejected or TooLarge for what every node would refuse."""
    match op:
        case Put() | DeleteRange() | Range():
            return _encode_simple(op)
        case Txn():
            return _encode_whole_txn(op)
        case Compact(revision):
            return _number(op, 0, revision, "revision")
        case LeaseGrant(ttl_ms, lease):
            if ttl_ms > MAX_LEASE_TTL_MS:
                raise TooLarge(f"a TTL of {ttl_ms} ms, at most {MAX_LEASE_TTL_MS} are allowed")
            return _number(op, 0, lease, "id") + U64.pack(_unsigned(ttl_ms, "ttl_ms"))
        case LeaseTimeToLive(lease, keys, skip):
            return _number(op, int(keys), lease, "id") + U64.pack(_unsigned(skip, "skip"))
        case LeaseRevoke(lease) | LeaseKeepAlive(lease):
            return _number(op, 0, lease, "id")
        case LeaseList():
            return _number(op, 0, 0, "id")


def _number(op: Op, flags: int, number: int, name: str) -> bytes:
    return _NUMBER.pack(CODES[type(op)], flags, 0, 0, _unsigned(number, name))


def _encode_simple(op: SimpleOp) -> bytes:
    _check_key(op.key)
    match op:
        case Put(key, value, lease):
            _check_put(op)
            flags = op.prev_kv * _PREV_KV | op.ignore_value * _IGNORE_VALUE | op.ignore_lease * _IGNORE_LEASE
            header = _SIMPLE.pack(OpCode.PUT, flags, 0, len(key), len(value))
            return header + U64.pack(_unsigned(lease, "lease")) + key + value
        case DeleteRange(key, end, prev_kv):
            _check_end(end)
            return _SIMPLE.pack(OpCode.DELETE_RANGE, prev_kv, 0, len(key), len(end)) + key + end
        case Range(key, end):
            _check_end(end)
            options = _options(op)
            flags = op.keys_only * _KEYS_ONLY | op.count_only * _COUNT_ONLY | op.uncounted * _UNCOUNTED
            flags |= _HAS_OPTIONS if options else 0
            numbers = _RANGE_NUMBERS.pack(_unsigned(op.limit, "limit"), _unsigned(op.revision, "revision"))
            return _SIMPLE.pack(OpCode.RANGE, flags, 0, len(key), len(end)) + numbers + options + key + end


def _options(op: Range) -> bytes:
    """Empty unless the range filters, sorts or skips."""
    numbers = (
        _unsigned(op.skip, "skip"),
        _unsigned(op.min_mod_revision, "min_mod_revision"),
        _unsigned(op.max_mod_revision, "max_mod_revision"),
        _unsigned(op.min_create_revision, "min_create_revision"),
        _unsigned(op.max_create_revision, "max_create_revision"),
    )
    if op.sort_target not in _SORT_TARGETS or op.order not in _ORDERS:
        raise Rejected(f"no order {op.order!r} by {op.sort_target!r}")
    target, order = _SORT_TARGETS.index(op.sort_target), _ORDERS.index(op.order)
    return _OPTIONS.pack(*numbers, target, order, bytes(6)) if any(numbers) or target or order else b""


def _encode_whole_txn(txn: Txn) -> bytes:
    total = _check_txn(txn, 1)
    if total > MAX_TXN_TOTAL:
        raise TooLarge(f"a transaction of {total} operations and compares in all, at most {MAX_TXN_TOTAL} are allowed")
    encoded = _encode_txn(txn)
    limit = MAX_ENTRY_BYTES - ENTRY_HEADER_BYTES
    if len(encoded) > limit:
        raise TooLarge(f"the transaction has {len(encoded)} bytes, at most {limit} are allowed")
    return encoded


def _check_txn(txn: Txn, depth: int) -> int:
    """How many operations and compares it has, those of nested transactions included."""
    if depth > MAX_TXN_DEPTH:
        raise TooLarge(f"transactions are nested more than {MAX_TXN_DEPTH} deep")
    if max(len(txn.compares), len(txn.then), len(txn.orelse)) > MAX_TXN_OPS:
        raise TooLarge(f"a transaction has at most {MAX_TXN_OPS} compares and operations in a branch")
    nested = sum(_check_txn(op, depth + 1) for op in (*txn.then, *txn.orelse) if isinstance(op, Txn))
    return len(txn.compares) + len(txn.then) + len(txn.orelse) + nested


def _encode_txn(txn: Txn) -> bytes:
    parts = [_TXN.pack(OpCode.TXN, 0, len(txn.compares), len(txn.then), len(txn.orelse))]
    parts += map(_encode_compare, txn.compares)
    for op in (*txn.then, *txn.orelse):
        command = _encode_txn(op) if isinstance(op, Txn) else _encode_simple(op)
        parts.append(U32.pack(len(command)) + command)
    return b"".join(parts)


def _encode_compare(compare: Compare) -> bytes:
    _check_key(compare.key)
    _check_end(compare.end)
    operand = compare.operand
    if (compare.target == "value") is not isinstance(operand, bytes):
        raise Rejected(f"{compare.target} compared with {type(operand).__name__}: a value takes bytes, else an int")
    operand = operand if isinstance(operand, bytes) else U64.pack(_unsigned(operand, "operand"))
    target, result = _TARGETS.index(compare.target), _RELATIONS.index(compare.result)
    ranged = bool(compare.end)
    header = _SIMPLE.pack(target, result, ranged, len(compare.key), len(operand))
    return header + (U32.pack(len(compare.end)) if ranged else b"") + compare.key + operand + compare.end


def _check_put(op: Put) -> None:
    if len(op.value) > MAX_VALUE_BYTES:
        raise TooLarge(f"the value has {len(op.value)} bytes, at most {MAX_VALUE_BYTES} are allowed")
    if op.ignore_value and op.value:
        raise Rejected("ignore_value takes no value")
    if op.ignore_lease and op.lease:
        raise Rejected("ignore_lease takes no lease")


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


# -- from bytes -----------------------------------------------------------------------------------------------------


def decode_command(data: bytes) -> Op:
    """The operation that `encode` made these bytes from. Raises ProtocolError on bad bytes."""
    reader = Reader(data)
    code = data[0] if data else 0
    op = _read_number(reader) if OpCode.COMPACT <= code <= OpCode.LEASE_LIST else _read_txn_op(reader, 1)
    reader.finish()
    return op


def _read_txn_op(reader: Reader, depth: int) -> TxnOp:
    if reader.data[:1] == bytes([OpCode.TXN]):
        return _read_txn(reader, depth)
    return _read_simple(reader)


def _read_simple(reader: Reader) -> SimpleOp:
    code, flags, reserved, key_size, size = reader.unpack(_SIMPLE)
    if not OpCode.PUT <= code <= OpCode.RANGE:
        raise ProtocolError(f"no operation begins with {code}")
    _check_reserved(flags & ~_FLAGS[OpCode(code)], reserved)
    if code == OpCode.PUT:
        (lease,) = reader.unpack(U64)
        kept = bool(flags & _IGNORE_VALUE), bool(flags & _IGNORE_LEASE)
        return Put(reader.take(key_size), reader.take(size), lease, bool(flags & _PREV_KV), *kept)
    if code == OpCode.DELETE_RANGE:
        return DeleteRange(reader.take(key_size), reader.take(size), bool(flags))
    return _read_range(reader, flags, key_size, size)


def _read_range(reader: Reader, flags: int, key_size: int, end_size: int) -> Range:
    limit, revision = reader.unpack(_RANGE_NUMBERS)
    options = reader.take(_OPTIONS.size) if flags & _HAS_OPTIONS else bytes(_OPTIONS.size)
    skip, min_mod, max_mod, min_create, max_create, target, order, reserved = _OPTIONS.unpack(options)
    if target >= len(_SORT_TARGETS) or order >= len(_ORDERS):
        raise ProtocolError(f"unknown order {order} by {target}")
    _check_reserved(0, any(reserved))
    if flags & _HAS_OPTIONS and not any(options):
        raise ProtocolError("options that say nothing")
    return Range(
        reader.take(key_size), reader.take(end_size), limit, bool(flags & _KEYS_ONLY), bool(flags & _COUNT_ONLY),
        revision, _SORT_TARGETS[target], _ORDERS[order], min_mod, max_mod, min_create, max_create, skip,
        bool(flags & _UNCOUNTED),
    )  # fmt: skip


def _read_txn(reader: Reader, depth: int) -> Txn:
    if depth > MAX_TXN_DEPTH:
        raise ProtocolError(f"transactions are nested more than {MAX_TXN_DEPTH} deep")
    _, flags, compares, then, orelse = reader.unpack(_TXN)
    _check_reserved(flags, 0)
    return Txn(
        tuple(_read_compare(reader) for _ in range(compares)),
        tuple(_read_branch_op(reader, depth) for _ in range(then)),
        tuple(_read_branch_op(reader, depth) for _ in range(orelse)),
    )


def _read_compare(reader: Reader) -> Compare:
    target, result, ranged, key_size, size = reader.unpack(_SIMPLE)
    if target >= len(_TARGETS) or result >= len(_RELATIONS) or ranged > 1:
        raise ProtocolError(f"unknown comparison {target}, {result}, {ranged}")
    end_size = reader.unpack(U32)[0] if ranged else 0
    if ranged and not end_size:
        raise ProtocolError("an end that says nothing")
    key, operand, end = reader.take(key_size), reader.take(size), reader.take(end_size)
    if _TARGETS[target] == "value":
        return Compare(key, "value", _RELATIONS[result], operand, end)
    if size != U64.size:
        raise ProtocolError(f"an operand of {size} bytes for {_TARGETS[target]}")
    return Compare(key, _TARGETS[target], _RELATIONS[result], U64.unpack(operand)[0], end)


def _read_branch_op(reader: Reader, depth: int) -> TxnOp:
    (size,) = reader.unpack(U32)
    inner = Reader(reader.take(size))
    op = _read_txn_op(inner, depth + 1)
    inner.finish()
    return op


def _read_number(reader: Reader) -> Op:
    code, flags, reserved, reserved_too, number = reader.unpack(_NUMBER)
    second = reader.unpack(U64)[0] if code in _WITH_SECOND else 0
    _check_reserved(flags & ~_FLAGS.get(OpCode(code), 0), reserved | reserved_too)
    match code:
        case OpCode.COMPACT:
            return Compact(number)
        case OpCode.LEASE_GRANT:
            return LeaseGrant(second, number)
        case OpCode.LEASE_REVOKE:
            return LeaseRevoke(number)
        case OpCode.LEASE_KEEP_ALIVE:
            return LeaseKeepAlive(number)
        case OpCode.LEASE_TTL:
            return LeaseTimeToLive(number, bool(flags), second)
    _check_reserved(0, number)
    return LeaseList()


def _check_reserved(flags: int, reserved: int) -> None:
    if flags or reserved:
        raise ProtocolError("reserved bits are set")
