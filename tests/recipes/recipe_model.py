"""The store, its leases and its history, as dumb as can be: what recipes are proven against."""

import itertools
import operator
from dataclasses import dataclass, field

from quorumd.commands import (
    ALL,
    Compare,
    DeleteRange,
    DeleteResult,
    KeyValue,
    LeaseGrant,
    LeaseGrantResult,
    LeaseKeepAlive,
    LeaseKeepAliveResult,
    LeaseRevoke,
    LeaseRevokeResult,
    Put,
    PutResult,
    Range,
    RangeResult,
    Txn,
    TxnResult,
)
from quorumd.errors import Compacted, LeaseNotFound
from quorumd.limits import RANGE_PAGE_BYTES
from quorumd.watchcodec import Event

RELATIONS = {"=": operator.eq, ">": operator.gt, "<": operator.lt, "!=": operator.ne}
ATTRIBUTES = {
    "create": "create_revision", "mod": "mod_revision", "version": "version", "lease": "lease", "key": "key",
    "value": "value",
}
MIN_TTL_MS = 1000
MILLISECOND = 1_000_000
KV_HEADER_BYTES = 40


def inside(key, first, end):
    if not end:
        return key == first
    return key >= first and (end == ALL or key < end)


class Budget:
    """What all ranges of one transaction share. The very first pair goes in whatever its size."""

    def __init__(self):
        self.left, self.fresh = RANGE_PAGE_BYTES, True

    def take(self, kv):
        size = KV_HEADER_BYTES + len(kv.key) + len(kv.value)
        if size > self.left and not self.fresh:
            return False
        self.left, self.fresh = max(self.left - size, 0), False
        return True


@dataclass
class ModelLease:
    ttl_ms: int
    touched: int
    keys: set = field(default_factory=set)

    def ends_at(self):
        return self.touched + self.ttl_ms * MILLISECOND


class Model:
    """execute(op, now) -> result. `history`: [(revision, (Event, ...))], of every revision above `compacted`."""

    def __init__(self):
        self.revision = 1
        self.compacted = 0
        self.kvs = {}
        self.leases = {}
        self.history = []
        self.next_lease = 1000
        self.min_ttl_ms = MIN_TTL_MS
        self._events = []

    # -- operations -----------------------------------------------------------------------------------------------

    def execute(self, op, now=0):
        self._events = []
        match op:
            case LeaseGrant():
                self.next_lease += 1
                ttl_ms = max(op.ttl_ms, self.min_ttl_ms)
                self.leases[self.next_lease] = ModelLease(ttl_ms, now)
                return LeaseGrantResult(self.revision, self.next_lease, ttl_ms)
            case LeaseKeepAlive():
                lease = self._lease(op.id)
                lease.touched = now
                return LeaseKeepAliveResult(self.revision, lease.ttl_ms)
            case LeaseRevoke():
                deleted = len(self._lease(op.id).keys)
                self.end_lease(op.id)
                return LeaseRevokeResult(self.revision, deleted)
        self._check_leases(op)
        result = self._txn(op) if isinstance(op, Txn) else self._simple(op)
        self._commit()
        return result

    def end_lease(self, lease_id):
        self._events = []
        for key in sorted(self.leases[lease_id].keys):
            self._delete(key)
        del self.leases[lease_id]
        self._commit()

    def compact(self, revision):
        self.compacted = max(self.compacted, min(revision, self.revision))

    def events_after(self, key, end, after):
        """[(revision, events)] of the range; raises Compacted."""
        if after < self.compacted:
            raise Compacted(f"compacted at {self.compacted}")
        matching = []
        for revision, events in reversed(self.history):
            if revision <= after:
                break
            inner = tuple(event for event in events if inside(event.kv.key, key, end))
            if inner:
                matching.append((revision, inner))
        return matching[::-1]

    # -- inside ---------------------------------------------------------------------------------------------------

    def _lease(self, lease_id):
        if lease_id not in self.leases:
            raise LeaseNotFound(f"no lease {lease_id}")
        return self.leases[lease_id]

    def _check_leases(self, op):
        """A put with an unknown lease leaves no trace: the whole operation is refused."""
        ops = (op.then if self._holds_all(op.compares) else op.orelse) if isinstance(op, Txn) else (op,)
        for each in ops:
            if isinstance(each, Put) and each.lease:
                self._lease(each.lease)

    def _commit(self):
        if self._events:
            self.revision += 1
            self.history.append((self.revision, tuple(self._events)))

    def _holds_all(self, compares):
        return all(self._holds(compare) for compare in compares)

    def _holds(self, compare: Compare):
        kvs = [self.kvs[key] for key in self.kvs if inside(key, compare.key, compare.end)] or [None]
        return all(self._stands(compare, kv) for kv in kvs)

    def _stands(self, compare, kv):
        if compare.target == "value":
            return kv is not None and RELATIONS[compare.result](kv.value, compare.operand)
        return RELATIONS[compare.result](getattr(kv, ATTRIBUTES[compare.target]) if kv else 0, compare.operand)

    def _txn(self, txn: Txn):
        succeeded, budget = self._holds_all(txn.compares), Budget()
        responses = tuple(self._simple(op, budget) for op in (txn.then if succeeded else txn.orelse))
        return TxnResult(self.revision + bool(self._events), succeeded, responses)

    def _simple(self, op, budget=None):
        """budget None: the client reads a range by itself in pages, at one revision."""
        match op:
            case Put():
                return self._put(op)
            case DeleteRange():
                doomed = [key for key in sorted(self.kvs) if inside(key, op.key, op.end)]
                for key in doomed:
                    self._delete(key)
                return DeleteResult(self.revision + bool(self._events), len(doomed))
            case Range():
                return self._range(op, budget)
        raise TypeError(op)

    def _put(self, op):
        old = self.kvs.get(op.key)
        revision = self.revision + 1
        if old and old.lease:
            self.leases[old.lease].keys.discard(op.key)
        created, version = (old.create_revision, old.version + 1) if old else (revision, 1)
        kv = KeyValue(op.key, op.value, created, revision, version, op.lease)
        if op.lease:
            self.leases[op.lease].keys.add(op.key)
        self.kvs[op.key] = kv
        self._events.append(Event(kv, False))
        return PutResult(revision)

    def _delete(self, key):
        old = self.kvs.pop(key)
        if old.lease and old.lease in self.leases:
            self.leases[old.lease].keys.discard(key)
        self._events.append(Event(KeyValue(key, b"", 0, self.revision + 1, 0, 0), True))

    def _at(self, revision):
        kvs = {}
        for at, events in self.history:
            for event in events if at <= revision else ():
                if event.deleted:
                    del kvs[event.kv.key]
                else:
                    kvs[event.kv.key] = event.kv
        return kvs

    def _range(self, op, budget):
        if op.revision and op.revision < self.compacted:
            raise Compacted(f"compacted at {self.compacted}")
        state = self._at(op.revision) if op.revision else self.kvs
        kvs = [state[key] for key in sorted(state) if inside(key, op.key, op.end)]
        total = len(kvs)
        kvs = [kv for kv in kvs if kv.create_revision <= (op.max_create_revision or kv.create_revision)]
        if op.order != "none":
            kvs.sort(key=lambda kv: getattr(kv, ATTRIBUTES[op.sort_target]), reverse=op.order == "descend")
        count = len(kvs)
        more = bool(op.limit) and count > op.limit
        if op.limit:
            kvs = kvs[: op.limit]
        if op.count_only:
            kvs, more = [], False
        if op.keys_only:
            kvs = [KeyValue(kv.key, b"", kv.create_revision, kv.mod_revision, kv.version, kv.lease) for kv in kvs]
        if budget is not None:
            fitting = tuple(itertools.takewhile(budget.take, kvs))
            kvs, more = fitting, more or len(fitting) < len(kvs)
        return RangeResult(self.revision + bool(self._events), tuple(kvs), more, 0 if op.uncounted else total)
