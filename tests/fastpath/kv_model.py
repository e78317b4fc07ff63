"""The state machine once more, as dumb as can be: dicts, sorting, no sharing of code with the C++ side but the layouts.

The oracle of test_apply.py. Every rule is written down as it would be explained, and nothing is fast.
"""

import operator
import struct
from dataclasses import dataclass, field, replace

from quorumd.commands import (
    ALL,
    Compare,
    DeleteRange,
    KeyValue,
    Kind,
    Op,
    Put,
    Range,
    Record,
    Reply,
    SimpleOp,
    Status,
    Txn,
    decode_command,
    session_halves,
)
from quorumd.errors import ProtocolError
from quorumd.limits import (
    MAX_KEY_BYTES,
    MAX_TXN_OPS,
    MAX_VALUE_BYTES,
    RANGE_PAGE_BYTES,
    SESSION_WINDOW_BYTES,
    SESSION_WINDOW_OPS,
)

KEY_OVERHEAD = 128
ENDED_KEPT = 4096
KV_HEADER = 40
MAX_PREVIOUS = MAX_VALUE_BYTES + MAX_KEY_BYTES + KV_HEADER
RELATIONS = {"=": operator.eq, ">": operator.gt, "<": operator.lt, "!=": operator.ne}


class Refused(Exception):
    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


@dataclass
class Done:
    status: Status
    revision: int
    body: bytes
    evicted: bool = False


@dataclass
class ModelSession:
    generation: int = 0
    base: int = 1
    done: dict[int, Done] = field(default_factory=dict)


def pack_kv(kv: KeyValue, keys_only: bool = False) -> bytes:
    value = b"" if keys_only else kv.value
    header = struct.pack("<QQQQII", kv.create_revision, kv.mod_revision, kv.version, kv.lease, len(kv.key), len(value))
    return header + kv.key + value


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


class Model:
    def __init__(self, quota: int = 1 << 40, session_limit: int = 1000) -> None:
        self.quota = quota
        self.session_limit = session_limit
        self.kvs: dict[bytes, KeyValue] = {}
        self.revision = 1
        self.sessions: dict[bytes, ModelSession] = {}
        self.ended: list[bytes] = []
        self.executed = 0

    @property
    def bytes(self) -> int:
        return sum(KEY_OVERHEAD + len(kv.key) + len(kv.value) for kv in self.kvs.values())

    # ------------------------------------------------------------ entries

    def apply(self, record: Record) -> Reply:
        status, revision, body = self.answer(record)
        return Reply(status, record.kind, session_halves(record.session)[1], record.seq, revision, body)

    def answer(self, record: Record) -> tuple[Status, int, bytes]:
        session = self.sessions.get(record.session)
        match record.kind:
            case Kind.NOOP:
                return Status.OK, self.revision, b""
            case Kind.OPEN_SESSION:
                return self.open(record.session), self.revision, b""
            case Kind.CLOSE_SESSION:
                self.end(record.session)
                return Status.OK, self.revision, b""
            case Kind.EXPIRE_SESSION:
                if session is None:
                    return Status.SESSION_EXPIRED, self.revision, b""
                if session.generation != record.seq:
                    return Status.REJECTED, self.revision, b""
                self.end(record.session)
                return Status.OK, self.revision, b""
            case Kind.COMMAND:
                return self.command(session, record)
        return Status.REJECTED, self.revision, b""

    def open(self, session: bytes) -> Status:
        if session not in self.sessions:
            if session in self.ended:
                return Status.SESSION_EXPIRED
            if len(self.sessions) >= self.session_limit:
                return Status.TOO_MANY_SESSIONS
            self.sessions[session] = ModelSession()
        self.sessions[session].generation += 1
        return Status.OK

    def end(self, session: bytes) -> None:
        if self.sessions.pop(session, None) is not None:
            self.ended = [*self.ended, session][-ENDED_KEPT:]

    def command(self, session: ModelSession | None, record: Record) -> tuple[Status, int, bytes]:
        if session is None:
            return Status.SESSION_EXPIRED, self.revision, b""
        session.generation += 1
        session.base = max(session.base, record.answered_below)
        session.done = {seq: done for seq, done in session.done.items() if seq >= session.base}
        if record.seq < session.base:
            return Status.ANSWERED, self.revision, b""
        if record.seq >= session.base + SESSION_WINDOW_OPS:
            return Status.WINDOW_FULL, self.revision, b""
        if record.seq in session.done:
            done = session.done[record.seq]
            if done.evicted and done.status is Status.OK:
                return Status.REPLY_EVICTED, done.revision, b""
            return done.status, done.revision, done.body
        self.executed += 1
        status, body = self.execute(record.command)
        session.done[record.seq] = Done(status, self.revision, body)
        for seq in sorted(session.done):
            held = sum(len(done.body) for done in session.done.values())
            if held > SESSION_WINDOW_BYTES and seq != record.seq and session.done[seq].body:
                session.done[seq] = replace(session.done[seq], body=b"", evicted=True)
        return status, self.revision, body

    # ------------------------------------------------------------ commands

    def read(self, command: bytes) -> tuple[Status, int, bytes]:
        try:
            op = self.parse(command)
        except Refused as refused:
            return refused.status, self.revision, b""
        branches = [*op.then, *op.orelse] if isinstance(op, Txn) else [op]
        if not all(isinstance(one, Range) for one in branches):
            return Status.REJECTED, self.revision, b""
        status, body = self.execute(command)
        return status, self.revision, body

    def execute(self, command: bytes) -> tuple[Status, bytes]:
        before = dict(self.kvs)
        try:
            body = self.run(self.parse(command))
        except Refused as refused:
            self.kvs = before
            return refused.status, b""
        if self.kvs != before:
            self.revision += 1
        return Status.OK, body

    def parse(self, command: bytes) -> Op:
        if command[:2] == b"\4\0" and len(command) >= 8 and max(struct.unpack_from("<HHH", command, 2)) > MAX_TXN_OPS:
            raise Refused(Status.TOO_LARGE)
        try:
            op = decode_command(command)
        except ProtocolError:
            raise Refused(Status.REJECTED) from None
        if not isinstance(op, Txn):
            self.check_sizes(op)
            return op
        for part in (*op.compares, *op.then, *op.orelse):
            self.check_sizes(part)
        for branch in (op.then, op.orelse):
            puts = [part.key for part in branch if isinstance(part, Put)]
            gone = [key for key in puts for part in branch if isinstance(part, DeleteRange) and covers(part, key)]
            if len(set(puts)) < len(puts) or gone:
                raise Refused(Status.REJECTED)
        return op

    def check_sizes(self, op: SimpleOp | Compare) -> None:
        if not op.key:
            raise Refused(Status.REJECTED)
        end = op.end if isinstance(op, DeleteRange | Range) else b""
        if len(op.key) > MAX_KEY_BYTES or len(end) > MAX_KEY_BYTES:
            raise Refused(Status.TOO_LARGE)
        if isinstance(op, Put) and len(op.value) > MAX_VALUE_BYTES:
            raise Refused(Status.TOO_LARGE)

    def run(self, op: Op) -> bytes:
        now = self.revision + 1
        if not isinstance(op, Txn):
            self.check_branch([op])
            return self.run_simple(op, now, Budget(0))
        succeeded = all(self.holds(compare) for compare in op.compares)
        branch = op.then if succeeded else op.orelse
        budget = Budget(self.check_branch(branch))
        body = struct.pack("<BI", succeeded, len(branch))
        for one in branch:
            part = self.run_simple(one, now, budget)
            code = {Put: 1, DeleteRange: 2, Range: 3}[type(one)]
            body += struct.pack("<BI", code, len(part)) + part
        return body

    def check_branch(self, branch: "list[SimpleOp] | tuple[SimpleOp, ...]") -> int:
        writes = any(not isinstance(op, Range) for op in branch)
        growth = previous = 0
        for op in branch:
            if isinstance(op, Range):
                if op.revision > self.revision:
                    raise Refused(Status.REJECTED)
                if op.revision and (op.revision < self.revision or writes):
                    raise Refused(Status.COMPACTED)
                continue
            if op.prev_kv:
                previous += sum(len(pack_kv(self.kvs[key])) for key in self.keys(op.key, getattr(op, "end", b"")))
            if isinstance(op, Put):
                old = self.kvs.get(op.key)
                more = len(op.value) - len(old.value) if old else KEY_OVERHEAD + len(op.key) + len(op.value)
                growth += max(0, more)
        if previous > MAX_PREVIOUS:
            raise Refused(Status.TOO_LARGE)
        if growth and self.bytes + growth > self.quota:
            raise Refused(Status.NO_SPACE)
        return previous

    def run_simple(self, op: SimpleOp, now: int, budget: Budget) -> bytes:
        if isinstance(op, Put):
            old = self.kvs.get(op.key)
            created, version = (old.create_revision, old.version + 1) if old else (now, 1)
            self.kvs[op.key] = KeyValue(op.key, op.value, created, now, version, op.lease)
            return pack_kv(old) if old and op.prev_kv else b""
        keys = self.keys(op.key, op.end)
        if isinstance(op, DeleteRange):
            gone = [self.kvs.pop(key) for key in keys]
            kvs = [pack_kv(kv) for kv in gone] if op.prev_kv else []
            return struct.pack("<QI", len(gone), len(kvs)) + b"".join(kvs)
        if op.count_only:
            return struct.pack("<QBI", len(keys), 0, 0)
        kvs = []
        for key in keys:
            packed = pack_kv(self.kvs[key], op.keys_only)
            if (op.limit and len(kvs) == op.limit) or not budget.take(len(packed)):
                break
            kvs.append(packed)
        return struct.pack("<QBI", len(keys), len(kvs) < len(keys), len(kvs)) + b"".join(kvs)

    def keys(self, key: bytes, end: bytes) -> list[bytes]:
        return sorted(other for other in self.kvs if covers(Range(key, end), other))

    def holds(self, compare: Compare) -> bool:
        kv = self.kvs.get(compare.key)
        if compare.target == "value":
            return kv is not None and RELATIONS[compare.result](kv.value, compare.operand)
        actual = 0
        if kv is not None:
            actual = {
                "version": kv.version, "create": kv.create_revision, "mod": kv.mod_revision, "lease": kv.lease,
            }[compare.target]
        return RELATIONS[compare.result](actual, compare.operand)


def covers(op: DeleteRange | Range, key: bytes) -> bool:
    if op.end == b"":
        return key == op.key
    if op.end == ALL:
        return key >= op.key
    return op.key <= key < op.end
