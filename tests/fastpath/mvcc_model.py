"""The store once more, as dumb as can be: a list of everything that ever happened, dicts, sorting. Nothing is fast.

Shares no code with the C++ side but the layouts of commands. Every rule is written down as it would be explained;
kv_model.py puts sessions and entries around it.
"""

import operator
import struct
from dataclasses import dataclass, field

from quorumd.commands import (
    ALL,
    Compact,
    Compare,
    DeleteRange,
    KeyValue,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseList,
    LeaseRevoke,
    LeaseTimeToLive,
    Op,
    Put,
    Range,
    Status,
    Txn,
    TxnOp,
    decode_command,
)
from quorumd.errors import ProtocolError
from quorumd.limits import (
    MAX_KEY_BYTES,
    MAX_LEASE_TTL_MS,
    MAX_LEASES,
    MAX_TXN_OPS,
    MAX_TXN_TOTAL,
    MAX_VALUE_BYTES,
    MIN_LEASE_TTL_MS,
    RANGE_PAGE_BYTES,
    RULES_VERSION,
)

KEY_OVERHEAD = 80
VERSION_OVERHEAD = 96
RECLAIMED_PER_ENTRY = 512
RECLAIM_COSTS = 4, 30, 128  # a version freed, a delete; bytes of a deleted key that cost 1; beside 1, and 1 a KiB
RECLAIMED_BY_COUNT = 16  # rules of version 1
KV_HEADER = 40
MAX_PREVIOUS = MAX_VALUE_BYTES + MAX_KEY_BYTES + KV_HEADER
RELATIONS = {"=": operator.eq, ">": operator.gt, "<": operator.lt, "!=": operator.ne}
CODES = {Put: 1, DeleteRange: 2, Range: 3, Txn: 4}
SORT_KEYS = {
    "key": lambda kv: kv.key,
    "version": lambda kv: kv.version,
    "create": lambda kv: kv.create_revision,
    "mod": lambda kv: kv.mod_revision,
    "value": lambda kv: kv.value,
}
MASK = (1 << 64) - 1


class Refused(Exception):
    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


@dataclass(frozen=True)
class Event:
    revision: int
    key: bytes
    kv: KeyValue | None
    """None: deleted."""
    previous: KeyValue | None


@dataclass
class Held:
    """The versions of a key that are in memory, as (revision, value or None), oldest first."""

    versions: list[tuple[int, bytes | None]] = field(default_factory=list)


def pack_kv(kv: KeyValue, keys_only: bool = False) -> bytes:
    value = b"" if keys_only else kv.value
    header = struct.pack("<QQQQII", kv.create_revision, kv.mod_revision, kv.version, kv.lease, len(kv.key), len(value))
    return header + kv.key + value


def covers(key: bytes, end: bytes, other: bytes) -> bool:
    if end == b"":
        return other == key
    if end == ALL:
        return other >= key
    return key <= other < end


class Budget:
    """Bytes of pairs that the ranges of one reply may still add; the first pair of all always goes in."""

    def __init__(self, reserved: int) -> None:
        self.left = max(0, RANGE_PAGE_BYTES - reserved)
        self.first_is_free = reserved == 0

    def take(self, size: int) -> bool:
        if size > self.left and not self.first_is_free:
            return False
        self.left = max(0, self.left - size)
        self.first_is_free = False
        return True


# -- parsing --------------------------------------------------------------------------------------------------------


def parse(command: bytes) -> Op:
    """The operation, if every node would take it for one."""
    try:
        op = decode_command(command)
    except ProtocolError:
        raise Refused(Status.REJECTED) from None
    check_sizes(op)
    if isinstance(op, Txn):
        if size_of(op) > MAX_TXN_TOTAL:
            raise Refused(Status.TOO_LARGE)
        for branch in (op.then, op.orelse):
            changes(branch)
    return op


def size_of(txn: Txn) -> int:
    inner = [size_of(op) for op in (*txn.then, *txn.orelse) if isinstance(op, Txn)]
    return len(txn.compares) + len(txn.then) + len(txn.orelse) + sum(inner)


def check_sizes(op: Op | Compare) -> None:
    if isinstance(op, Txn):
        if max(len(op.compares), len(op.then), len(op.orelse)) > MAX_TXN_OPS:
            raise Refused(Status.TOO_LARGE)
        for part in (*op.compares, *op.then, *op.orelse):
            check_sizes(part)
    if not isinstance(op, Put | DeleteRange | Range | Compare):
        return
    if isinstance(op, Put) and len(op.value) > MAX_VALUE_BYTES:
        raise Refused(Status.TOO_LARGE)
    if isinstance(op, Put) and ((op.ignore_value and op.value) or (op.ignore_lease and op.lease)):
        raise Refused(Status.REJECTED)
    if not op.key:
        raise Refused(Status.REJECTED)
    if len(op.key) > MAX_KEY_BYTES or len(getattr(op, "end", b"")) > MAX_KEY_BYTES:
        raise Refused(Status.TOO_LARGE)


def changes(branch: "tuple[TxnOp, ...]") -> tuple[set[bytes], list[tuple[bytes, bytes]]]:
    """(keys put, ranges deleted) by the list; no two of its operations may change the same key, unless both delete."""
    puts: set[bytes] = set()
    deletes: list[tuple[bytes, bytes]] = []
    for op in branch:
        own_puts: set[bytes] = set()
        own_deletes: list[tuple[bytes, bytes]] = []
        match op:
            case Put():
                own_puts = {op.key}
            case DeleteRange():
                own_deletes = [(op.key, op.end)]
            case Txn():
                for inner_puts, inner_deletes in (changes(op.then), changes(op.orelse)):
                    own_puts |= inner_puts
                    own_deletes += inner_deletes
        if puts & own_puts or meets(puts, own_deletes) or meets(own_puts, deletes):
            raise Refused(Status.REJECTED)
        puts |= own_puts
        deletes += own_deletes
    return puts, deletes


def meets(puts: set[bytes], deletes: list[tuple[bytes, bytes]]) -> bool:
    return any(covers(*delete, key) for delete in deletes for key in puts)


def writes(op: Op) -> bool:
    if isinstance(op, Txn):
        return any(writes(inner) for inner in (*op.then, *op.orelse))
    return isinstance(op, Put | DeleteRange | Compact | LeaseGrant | LeaseRevoke)


# -- the store ------------------------------------------------------------------------------------------------------


class Mvcc:
    def __init__(self, quota: int = 1 << 40) -> None:
        self.quota = quota
        self.revision = 1
        self.compacted = 0
        self.kvs: dict[bytes, KeyValue] = {}
        self.history: list[Event] = []
        self.leases: dict[int, tuple[int, int]] = {}  # id -> (generation, TTL in ms)
        self.held: dict[bytes, Held] = {}
        self.unreclaimed: list[tuple[int, bytes, int]] = []
        self.rules = RULES_VERSION
        self.added = 0

    # What is read.

    def at(self, revision: int) -> dict[bytes, KeyValue]:
        """All keys as they were."""
        if revision == 0:
            return self.kvs
        kvs: dict[bytes, KeyValue] = {}
        for event in self.history:
            if event.revision <= revision:
                if event.kv is None:
                    kvs.pop(event.key, None)
                else:
                    kvs[event.key] = event.kv
        return kvs

    def select(self, key: bytes, end: bytes, revision: int = 0) -> list[KeyValue]:
        kvs = self.at(revision)
        return [kvs[other] for other in sorted(kvs) if covers(key, end, other)]

    def attached(self, lease: int) -> list[bytes]:
        return sorted(key for key, kv in self.kvs.items() if kv.lease == lease)

    def events(self, first: int) -> list[Event]:
        return [event for event in self.history if event.revision >= first]

    # What it costs.

    @property
    def bytes(self) -> int:
        return sum(
            KEY_OVERHEAD + len(key) + sum(VERSION_OVERHEAD + len(value or b"") for _, value in held.versions)
            for key, held in self.held.items()
        )

    @property
    def live_bytes(self) -> int:
        return sum(KEY_OVERHEAD + VERSION_OVERHEAD + len(kv.key) + len(kv.value) for kv in self.kvs.values())

    def reclaim(self) -> None:
        """Before each entry: a few changes that are compacted let go of what they replaced."""
        budget = (RECLAIMED_BY_COUNT if self.rules == 1 else RECLAIMED_PER_ENTRY) + 2 * self.added
        self.added = 0
        self.reclaim_for(budget)

    def reclaim_for(self, budget: int) -> None:
        while budget > 0 and self.unreclaimed and self.unreclaimed[0][0] <= self.compacted:
            revision, key, cost = self.unreclaimed.pop(0)
            budget -= 1 if self.rules == 1 else cost
            held = self.held[key]
            held.versions = [version for version in held.versions if version[0] >= revision]
            if held.versions == [(revision, None)]:
                del self.held[key]

    # What is written.

    def change(self, key: bytes, kv: KeyValue | None) -> None:
        """A change of the revision that finish() begins."""
        self.history.append(Event(self.revision + 1, key, kv, self.kvs.get(key)))
        versions = self.held.setdefault(key, Held()).versions
        of_version, of_delete, of_key = RECLAIM_COSTS
        freed = of_version + len(versions[-1][1] or b"") // 1024 if versions else 0
        cost = 1 + freed + (of_delete + len(key) // of_key if kv is None else 0)
        versions.append((self.revision + 1, None if kv is None else kv.value))
        self.unreclaimed.append((self.revision + 1, key, cost))
        self.added += 1 if self.rules == 1 else cost
        if kv is None:
            del self.kvs[key]
        else:
            self.kvs[key] = kv

    def finish(self) -> None:
        if self.history and self.history[-1].revision > self.revision:
            self.revision += 1

    def execute(self, op: Op, index: int, session: bytes) -> bytes:
        """The body of the reply to a checked operation that is logged."""
        match op:
            case Compact(revision):
                self.compact(revision)
                body = b""
            case LeaseGrant(ttl_ms, lease):
                body = self.grant(lease, ttl_ms, index, session)
            case LeaseRevoke(lease):
                body = self.revoke(lease)
            case LeaseKeepAlive() | LeaseTimeToLive() | LeaseList():
                raise Refused(Status.REJECTED)
            case _:
                body = self.run(op)
        self.finish()
        return body

    def compact(self, revision: int) -> None:
        if revision <= self.compacted:
            raise Refused(Status.COMPACTED)
        if revision > self.revision:
            raise Refused(Status.FUTURE_REVISION)
        self.compacted = revision

    def grant(self, lease: int, ttl_ms: int, index: int, session: bytes) -> bytes:
        if ttl_ms > MAX_LEASE_TTL_MS:
            raise Refused(Status.TOO_LARGE)
        if lease in self.leases:
            raise Refused(Status.LEASE_EXISTS)
        if len(self.leases) >= MAX_LEASES:
            raise Refused(Status.NO_SPACE)
        if lease == 0:
            high, low = struct.unpack("<QQ", session)
            lease = mix(mix(low, high), index) >> 1
            while lease == 0 or lease in self.leases:
                lease = (lease + 1) & (MASK >> 1)
        self.leases[lease] = index, max(ttl_ms, MIN_LEASE_TTL_MS)
        return struct.pack("<QQ", lease, self.leases[lease][1])

    def revoke(self, lease: int) -> bytes:
        if lease not in self.leases:
            raise Refused(Status.LEASE_NOT_FOUND)
        keys = self.attached(lease)
        for key in keys:
            self.change(key, None)
        del self.leases[lease]
        self.finish()
        return struct.pack("<Q", len(keys))

    def run(self, op: TxnOp) -> bytes:
        taken: dict[int, bool] = {}
        self.choose(op, taken)
        needs = self.check(op, taken)
        if needs[1] > MAX_PREVIOUS:
            raise Refused(Status.TOO_LARGE)
        if needs[0] and self.bytes + needs[0] > self.quota:
            raise Refused(Status.NO_SPACE)
        return self.perform(op, taken, Budget(needs[1] if isinstance(op, Txn) else 0))

    def choose(self, op: TxnOp, taken: dict[int, bool]) -> None:
        """Which branch each transaction takes: all compares see the state before the outermost one."""
        if isinstance(op, Txn):
            taken[id(op)] = all(self.holds(compare) for compare in op.compares)
            for inner in op.then if taken[id(op)] else op.orelse:
                self.choose(inner, taken)

    def holds(self, compare: Compare) -> bool:
        kvs = self.select(compare.key, compare.end)
        return all(self.stands(compare, kv) for kv in kvs) if kvs else self.stands(compare, None)

    def stands(self, compare: Compare, kv: KeyValue | None) -> bool:
        if compare.target == "value":
            return kv is not None and RELATIONS[compare.result](kv.value, compare.operand)
        actual = 0
        if kv is not None:
            actual = {
                "version": kv.version, "create": kv.create_revision, "mod": kv.mod_revision, "lease": kv.lease,
            }[compare.target]
        return RELATIONS[compare.result](actual, compare.operand)

    def check(self, op: TxnOp, taken: dict[int, bool]) -> tuple[int, int]:
        """(bytes that puts add to the store, bytes that prev_kv adds to the reply), on the state before."""
        match op:
            case Txn():
                growth = previous = 0
                for inner in op.then if taken[id(op)] else op.orelse:
                    more = self.check(inner, taken)
                    growth, previous = growth + more[0], previous + more[1]
                    if previous > MAX_PREVIOUS:
                        raise Refused(Status.TOO_LARGE)
                return growth, previous
            case Range():
                if op.revision > self.revision:
                    raise Refused(Status.FUTURE_REVISION)
                if op.revision and op.revision < self.compacted:
                    raise Refused(Status.COMPACTED)
                return 0, 0
            case Put():
                old = self.kvs.get(op.key)
                if (op.ignore_value or op.ignore_lease) and old is None:
                    raise Refused(Status.KEY_NOT_FOUND)
                if op.lease and op.lease not in self.leases:
                    raise Refused(Status.LEASE_NOT_FOUND)
                value = old.value if op.ignore_value else op.value
                growth = VERSION_OVERHEAD + len(value)
                if op.key not in self.held:
                    growth += KEY_OVERHEAD + len(op.key)
                return growth, len(pack_kv(old)) if old and op.prev_kv else 0
        return 0, sum(len(pack_kv(kv)) for kv in self.select(op.key, op.end)) if op.prev_kv else 0

    def perform(self, op: TxnOp, taken: dict[int, bool], budget: Budget) -> bytes:
        match op:
            case Put():
                return self.put(op)
            case DeleteRange():
                gone = self.select(op.key, op.end)
                for kv in gone:
                    self.change(kv.key, None)
                kvs = [pack_kv(kv) for kv in gone] if op.prev_kv else []
                return struct.pack("<QI", len(gone), len(kvs)) + b"".join(kvs)
            case Range():
                return self.range(op, budget)
        branch = op.then if taken[id(op)] else op.orelse
        body = struct.pack("<BI", taken[id(op)], len(branch))
        for inner in branch:
            part = self.perform(inner, taken, budget)
            body += struct.pack("<BI", CODES[type(inner)], len(part)) + part
        return body

    def put(self, op: Put) -> bytes:
        now = self.revision + 1
        old = self.kvs.get(op.key)
        created, version = (old.create_revision, old.version + 1) if old else (now, 1)
        value = old.value if op.ignore_value else op.value
        lease = old.lease if op.ignore_lease else op.lease
        self.change(op.key, KeyValue(op.key, value, created, now, version, lease))
        return pack_kv(old) if old and op.prev_kv else b""

    def range(self, op: Range, budget: Budget) -> bytes:
        every = self.select(op.key, op.end, op.revision)
        count = 0 if op.uncounted else len(every)
        if op.count_only:
            return struct.pack("<QBI", count, 0, 0)
        kvs = [
            kv for kv in every
            if kv.mod_revision >= op.min_mod_revision and kv.create_revision >= op.min_create_revision
            and (not op.max_mod_revision or kv.mod_revision <= op.max_mod_revision)
            and (not op.max_create_revision or kv.create_revision <= op.max_create_revision)
        ]
        kvs.sort(key=SORT_KEYS[op.sort_target], reverse=op.order == "descend")  # stable: what is equal stays in order
        kvs = kvs[op.skip :]
        packed: list[bytes] = []
        for kv in kvs:
            one = pack_kv(kv, op.keys_only)
            if (op.limit and len(packed) == op.limit) or not budget.take(len(one)):
                break
            packed.append(one)
        return struct.pack("<QBI", count, len(packed) < len(kvs), len(packed)) + b"".join(packed)


def mix(state: int, word: int) -> int:
    state = (state ^ word) * 0x9E3779B97F4A7C15 & MASK
    state ^= state >> 32
    state = state * 0xD6E8FEB86659FD93 & MASK
    return state ^ state >> 29
