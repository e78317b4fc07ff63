"""What operations bring. `revision` is always the store's when the operation ran, its own included."""

from dataclasses import dataclass
from typing import TypeAlias


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
    """Of a Range; `count` is of all keys in it at its revision, whatever limit and filters say; 0 if uncounted."""

    revision: int
    kvs: tuple[KeyValue, ...]
    more: bool
    """The reply was cut by `limit` or by its size: go on behind the last key, or skip what came."""
    count: int


SimpleResult: TypeAlias = PutResult | DeleteResult | RangeResult


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Of a Txn; one response to each operation of the branch that ran."""

    revision: int
    succeeded: bool
    responses: "tuple[SimpleResult | TxnResult, ...]"


@dataclass(frozen=True, slots=True)
class CompactResult:
    """Of a Compact."""

    revision: int


@dataclass(frozen=True, slots=True)
class LeaseGrantResult:
    """Of a LeaseGrant: what was granted."""

    revision: int
    id: int
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class LeaseRevokeResult:
    """Of a LeaseRevoke."""

    revision: int
    deleted: int
    """Keys that went with the lease."""


@dataclass(frozen=True, slots=True)
class LeaseKeepAliveResult:
    """Of a LeaseKeepAlive. The TTL counts from before the keep-alive was sent: the leader's began later."""

    revision: int
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class LeaseTimeToLiveResult:
    """Of a LeaseTimeToLive."""

    revision: int
    ttl_ms: int
    """Granted."""
    left_ms: int
    """Until the leader proposes to end it; 0 if it has."""
    count: int
    """Keys of the lease."""
    keys: tuple[bytes, ...] = ()
    more: bool = False
    """More keys than the reply holds: skip those that came."""


@dataclass(frozen=True, slots=True)
class LeaseListResult:
    """Of a LeaseList, ascending."""

    revision: int
    ids: tuple[int, ...]


LeaseResult: TypeAlias = (
    LeaseGrantResult | LeaseRevokeResult | LeaseKeepAliveResult | LeaseTimeToLiveResult | LeaseListResult
)
Result: TypeAlias = SimpleResult | TxnResult | CompactResult | LeaseResult
