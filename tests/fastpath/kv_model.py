"""The state machine once more, as dumb as can be: sessions and entries around mvcc_model.py. The oracle of
test_apply.py and test_history.py."""

import struct
from dataclasses import dataclass, field, replace

from mvcc_model import Mvcc, Refused, parse, writes

from quorumd.commands import Kind, LeaseKeepAlive, LeaseList, LeaseTimeToLive, Record, Reply, Status, session_halves
from quorumd.limits import SESSION_WINDOW_BYTES, SESSION_WINDOW_OPS

ENDED_KEPT = 128 * 1024


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


class Model(Mvcc):
    def __init__(self, quota: int = 1 << 40, session_limit: int = 1000) -> None:
        super().__init__(quota)
        self.session_limit = session_limit
        self.sessions: dict[bytes, ModelSession] = {}
        self.ended: list[bytes] = []
        self.executed = 0
        self.applied = 0
        self.leadership = 0

    # ------------------------------------------------------------ entries

    def apply(self, record: Record) -> Reply:
        status, revision, body = self.answer(record)
        return Reply(status, record.kind, session_halves(record.session)[1], record.seq, revision, body)

    def answer(self, record: Record) -> tuple[Status, int, bytes]:
        self.reclaim()
        self.applied += 1
        session = self.sessions.get(record.session)
        match record.kind:
            case Kind.NOOP:
                self.leadership = self.applied
                return Status.OK, self.revision, b""
            case Kind.OPEN_SESSION:
                return self.open(record.session), self.revision, b""
            case Kind.CLOSE_SESSION:
                self.end(record.session)
                return Status.OK, self.revision, b""
            case Kind.EXPIRE_SESSION:
                if session is None:
                    return Status.SESSION_EXPIRED, self.revision, b""
                if session.generation != record.seq or self.superseded(record):
                    return Status.REJECTED, self.revision, b""
                self.end(record.session)
                return Status.OK, self.revision, b""
            case Kind.COMMAND:
                return self.command(session, record)
            case Kind.RULES:
                self.quota, self.rules = record.seq, session_halves(record.session)[1]
                return Status.OK, self.revision, b""
            case Kind.EXPIRE_LEASE | Kind.COMPACT:
                status, body = self.internal(record)
                return status, self.revision, body
        return Status.REJECTED, self.revision, b""

    def superseded(self, expiry: Record) -> bool:
        return expiry.answered_below not in (0, self.leadership)

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
        status, body = self.try_command(record)
        session.done[record.seq] = Done(status, self.revision, body)
        for seq in sorted(session.done):
            held = sum(len(done.body) for done in session.done.values())
            if held > SESSION_WINDOW_BYTES and seq != record.seq and session.done[seq].body:
                session.done[seq] = replace(session.done[seq], body=b"", evicted=True)
        return status, self.revision, body

    def internal(self, record: Record) -> tuple[Status, bytes]:
        """What a leader proposes of its own."""
        try:
            if record.kind is Kind.COMPACT:
                budget = session_halves(record.session)[1]
                if budget and self.rules > 1:
                    self.reclaim_for(budget)
                else:
                    self.compact(record.seq)
                return Status.OK, b""
            lease = session_halves(record.session)[1]
            if lease in self.leases and (self.leases[lease][0] != record.seq or self.superseded(record)):
                raise Refused(Status.REJECTED)
            return Status.OK, self.revoke(lease)
        except Refused as refused:
            return refused.status, b""

    # ------------------------------------------------------------ commands

    def try_command(self, record: Record) -> tuple[Status, bytes]:
        try:
            return Status.OK, self.execute(parse(record.command), self.applied, record.session)
        except Refused as refused:
            return refused.status, b""

    def read(self, command: bytes) -> tuple[Status, int, bytes]:
        """As a stale read."""
        try:
            op = parse(command)
            if writes(op) or isinstance(op, LeaseKeepAlive | LeaseTimeToLive):
                raise Refused(Status.REJECTED)
            if isinstance(op, LeaseList):
                ids = sorted(self.leases)
                return Status.OK, self.revision, struct.pack(f"<I{len(ids)}Q", len(ids), *ids)
            return Status.OK, self.revision, self.run(op)
        except Refused as refused:
            return refused.status, self.revision, b""
