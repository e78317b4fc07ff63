"""What a client can ask of the store: operations as values. etcd's, with etcd's meanings."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, TypeAlias

ALL: Final = b"\0"
"""As `end` of a range: every key from `key` on."""


class OpCode(IntEnum):
    """First byte of a command."""

    PUT = 1
    DELETE_RANGE = 2
    RANGE = 3
    TXN = 4
    COMPACT = 5
    LEASE_GRANT = 6
    LEASE_REVOKE = 7
    LEASE_KEEP_ALIVE = 8
    LEASE_TTL = 9
    LEASE_LIST = 10


Target: TypeAlias = Literal["version", "create", "mod", "value", "lease"]
Relation: TypeAlias = Literal["=", ">", "<", "!="]
SortTarget: TypeAlias = Literal["key", "version", "create", "mod", "value"]
Order: TypeAlias = Literal["none", "ascend", "descend"]


@dataclass(frozen=True, slots=True)
class Put:
    """Sets a key. `prev_kv` asks for what it replaced.

    A lease attaches the key to it, 0 detaches it. ignore_value (with an empty value) keeps the value, ignore_lease
    (with lease 0) the lease; both fail if there is no such key.
    """

    key: bytes
    value: bytes
    lease: int = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


@dataclass(frozen=True, slots=True)
class DeleteRange:
    """Deletes `key` (end empty), [key, end), or every key from `key` on (end ALL)."""

    key: bytes
    end: bytes = b""
    prev_kv: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """Reads a range of keys, named as in DeleteRange, in key order. limit 0: as many as one reply holds.

    With a sort target and no order the order is ascending; what is equal comes in key order. A limit is one of the
    sorted and filtered keys.
    """

    key: bytes
    end: bytes = b""
    limit: int = 0
    keys_only: bool = False
    count_only: bool = False
    revision: int = 0
    """0: the newest."""
    sort_target: SortTarget = "key"
    order: Order = "none"
    min_mod_revision: int = 0
    """Keys last changed before it are left out; the other three likewise, 0: no bound."""
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0
    skip: int = 0
    """This many are left out in front, once filtered and sorted: with the revision of the first page it reads on."""
    uncounted: bool = False
    """The count is 0: at a past revision counting takes a look at every key."""


@dataclass(frozen=True, slots=True)
class Compare:
    """`target` of `key` stands in `result` to `operand`. A missing key has 0 everywhere, and no value at all:
    a comparison of its value is false, whatever the relation.

    With an `end`, named as in DeleteRange, it must hold for every key of the range; an empty range is a missing key.
    """

    key: bytes
    target: Target
    result: Relation
    operand: int | bytes
    end: bytes = b""

    @classmethod
    def version(cls, key: bytes, result: Relation, operand: int, end: bytes = b"") -> "Compare":
        return cls(key, "version", result, operand, end)

    @classmethod
    def create_revision(cls, key: bytes, result: Relation, operand: int, end: bytes = b"") -> "Compare":
        return cls(key, "create", result, operand, end)

    @classmethod
    def mod_revision(cls, key: bytes, result: Relation, operand: int, end: bytes = b"") -> "Compare":
        return cls(key, "mod", result, operand, end)

    @classmethod
    def value(cls, key: bytes, result: Relation, operand: bytes, end: bytes = b"") -> "Compare":
        return cls(key, "value", result, operand, end)

    @classmethod
    def lease(cls, key: bytes, result: Relation, operand: int, end: bytes = b"") -> "Compare":
        return cls(key, "lease", result, operand, end)


SimpleOp: TypeAlias = Put | DeleteRange | Range


@dataclass(frozen=True, slots=True)
class Txn:
    """If every compare holds, `then` in order, else `orelse`; all at one revision.

    A transaction in it chooses its branch by the state before the outermost one. What runs may not put a key twice,
    nor put a key and delete it, nested transactions included; the two branches of one exclude each other.
    """

    compares: Sequence[Compare] = ()
    then: Sequence["TxnOp"] = ()
    orelse: Sequence["TxnOp"] = ()


TxnOp: TypeAlias = SimpleOp | Txn


@dataclass(frozen=True, slots=True)
class Compact:
    """Forgets what only reads below `revision` need; changes up to it can no longer be watched."""

    revision: int


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """Makes a lease. id 0: the cluster chooses one. A TTL below the least one is raised to it."""

    ttl_ms: int
    id: int = 0


@dataclass(frozen=True, slots=True)
class LeaseRevoke:
    """Ends a lease; its keys are deleted, all at one revision."""

    id: int


@dataclass(frozen=True, slots=True)
class LeaseKeepAlive:
    """Gives a lease a full TTL from now on."""

    id: int


@dataclass(frozen=True, slots=True)
class LeaseTimeToLive:
    """Asks how long a lease has left and, with `keys`, which keys it has, the first `skip` left out."""

    id: int
    keys: bool = False
    skip: int = 0


@dataclass(frozen=True, slots=True)
class LeaseList:
    """Asks for the ids of all leases."""


LeaseOp: TypeAlias = LeaseGrant | LeaseRevoke | LeaseKeepAlive | LeaseTimeToLive | LeaseList
Op: TypeAlias = SimpleOp | Txn | Compact | LeaseOp


def reads_only(op: Op) -> bool:
    """Whether the operation changes nothing that is replicated: such ones are not logged."""
    if isinstance(op, Txn):
        return all(reads_only(inner) for inner in (*op.then, *op.orelse))
    return isinstance(op, Range | LeaseKeepAlive | LeaseTimeToLive | LeaseList)
