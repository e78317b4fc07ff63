"""Commands, entry records and reply records: the Python side. The C side is fastpath/commands.h and what uses it.

A leaf: imports only errors and limits. `ops` has the operations, `results` what they bring, `encoding` the bytes of
commands, `bodies` those of results, `records` those of entries and replies around them.

All integers are little-endian and packed; `kv` and `op` mean the layouts below.

Entry record, a client's request and a log entry alike (40 bytes, then the command):
    u32 length, header included | u8 kind | u8 flags = 0 | u16 0 | u64 session_hi | u64 session_lo | u64 seq
    | u64 answered_below
Reply record (32 bytes, then the body):
    u32 length, header included | u8 status | u8 kind | u16 0 | u64 session_lo | u64 seq | u64 revision

Commands, after which nothing may follow; reserved bits are zero:
    PUT           u8 1 | u8 flags (1 prev_kv, 2 ignore_value, 4 ignore_lease) | u16 0 | u32 key size | u32 value size
                  | u64 lease | key | value
    DELETE_RANGE  u8 2 | u8 flags (1 prev_kv) | u16 0 | u32 key size | u32 end size | key | end
    RANGE         u8 3 | u8 flags (1 keys_only, 2 count_only, 4 uncounted, 8 options follow) | u16 0 | u32 key size
                  | u32 end size | u64 limit | u64 revision | options | key | end
    options       u64 skip | u64 min mod revision | u64 max mod | u64 min create | u64 max create
                  | u8 sort target (0 key 1 version 2 create 3 mod 4 value) | u8 order (0 none 1 ascend 2 descend)
                  | 6 bytes 0
    TXN           u8 4 | u8 0 | u16 compares | u16 then | u16 orelse | compare... | (u32 size | op)... then | ... orelse
    compare       u8 target (0 version 1 create 2 mod 3 value 4 lease) | u8 result (0 = 1 > 2 < 3 !=)
                  | u16 1 if it has an end, else 0 | u32 key size | u32 operand size (8 and a u64 unless target is
                  value) | u32 end size, if it has an end | key | operand | end
    COMPACT       u8 5 | u8 0 | u16 0 | u32 0 | u64 revision
    LEASE_GRANT   u8 6 | u8 0 | u16 0 | u32 0 | u64 id, 0: any | u64 TTL in ms
    LEASE_REVOKE  u8 7 | u8 0 | u16 0 | u32 0 | u64 id
    LEASE_KEEP_ALIVE  u8 8 | u8 0 | u16 0 | u32 0 | u64 id
    LEASE_TTL     u8 9 | u8 flags (1 keys) | u16 0 | u32 0 | u64 id | u64 keys to skip
    LEASE_LIST    u8 10 | u8 0 | u16 0 | u32 0 | u64 0
    `op` inside a TXN is a PUT, DELETE_RANGE, RANGE or TXN. LEASE_KEEP_ALIVE, LEASE_TTL and LEASE_LIST are not logged:
    they come in READ records (LEASE_LIST in STALE_READ ones as well).

Reply bodies of status OK (any other status: a UTF-8 reason, or nothing):
    kv            u64 create_revision | u64 mod_revision | u64 version | u64 lease | u32 key size | u32 value size
                  | key | value (empty in a keys_only range)
    PUT           nothing, or the kv that was replaced (only with prev_kv)
    DELETE_RANGE  u64 deleted | u32 n | kv... (only with prev_kv)
    RANGE         u64 count of all keys in the range at its revision, filters not counted; 0 if uncounted
                  | u8 more | u32 n | kv...
    TXN           u8 succeeded | u32 n | (u8 op | u32 size | body)...
    COMPACT       nothing
    LEASE_GRANT   u64 id | u64 TTL in ms
    LEASE_REVOKE  u64 keys deleted
    LEASE_KEEP_ALIVE  u64 TTL in ms
    LEASE_TTL     u64 TTL in ms | u64 ms left | u64 count of all keys | u8 more | u32 n | (u32 size | key)...
    LEASE_LIST    u32 n | u64 id...
"""

from quorumd.commands.bodies import decode
from quorumd.commands.encoding import decode_command, encode
from quorumd.commands.ops import (
    ALL,
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
    reads_only,
)
from quorumd.commands.records import (
    Kind,
    Record,
    Reply,
    Status,
    decode_records,
    decode_replies,
    encode_record,
    encode_reply,
    session_halves,
)
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

__all__ = [
    "ALL",
    "Compact",
    "CompactResult",
    "Compare",
    "DeleteRange",
    "DeleteResult",
    "KeyValue",
    "Kind",
    "LeaseGrant",
    "LeaseGrantResult",
    "LeaseKeepAlive",
    "LeaseKeepAliveResult",
    "LeaseList",
    "LeaseListResult",
    "LeaseRevoke",
    "LeaseRevokeResult",
    "LeaseTimeToLive",
    "LeaseTimeToLiveResult",
    "Op",
    "OpCode",
    "Order",
    "Put",
    "PutResult",
    "Range",
    "RangeResult",
    "Record",
    "Relation",
    "Reply",
    "Result",
    "SimpleOp",
    "SimpleResult",
    "SortTarget",
    "Status",
    "Target",
    "Txn",
    "TxnOp",
    "TxnResult",
    "decode",
    "decode_command",
    "decode_records",
    "decode_replies",
    "encode",
    "encode_record",
    "encode_reply",
    "reads_only",
    "session_halves",
]
