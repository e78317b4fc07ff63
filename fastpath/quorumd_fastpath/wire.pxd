# Layouts shared by everything that moves bytes: frame header, entry record, reply record, slabs and outboxes.
# What lives here: structs, sizes, and the cdef functions other modules cimport. No policy.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libcpp.vector cimport vector

from quorumd_fastpath.replays cimport ReplayWindows

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "wire_layout.h" nogil:
    ctypedef struct qheader_packed:
        uint32_t magic
        uint8_t version
        uint8_t kind
        uint16_t flags
        uint64_t cluster
        uint32_t group
        uint16_t sender
        uint16_t receiver
        uint64_t sender_incarnation
        uint64_t receiver_incarnation
        uint64_t term
        uint64_t index
        uint64_t commit
        uint32_t count
        uint32_t payload_length
        uint32_t crc
        uint32_t reserved

    ctypedef struct qentry_packed:
        uint32_t length
        uint8_t kind
        uint8_t flags
        uint16_t reserved
        uint64_t session_hi
        uint64_t session_lo
        uint64_t seq
        uint64_t answered_below

    ctypedef struct qreply_packed:
        uint32_t length
        uint8_t status
        uint8_t kind
        uint16_t reserved
        uint64_t session_lo
        uint64_t seq
        uint64_t revision

cdef extern from "slot_guard.h" nogil:
    # Sanitized builds only: [0, used) of a slot may be touched, [used, size) may not. size is slot_bytes.
    void guard_slot(const char* slot, size_t used, size_t size)

cdef enum:
    HEADER_SIZE = 80
    ENTRY_HEADER_SIZE = 40
    REPLY_HEADER_SIZE = 32
    ADDR_SIZE = 28
    MAX_ENTRY_SIZE = 1572864

# Frame kinds.
cpdef enum:
    KIND_HELLO = 1
    KIND_HELLO_REPLY = 2
    KIND_FRAGMENT = 3
    KIND_FRAGMENT_ACK = 4
    KIND_REQUEST_VOTE = 16
    KIND_REQUEST_VOTE_REPLY = 17
    KIND_APPEND_ENTRIES = 18
    KIND_APPEND_ENTRIES_REPLY = 19
    KIND_HEARTBEAT = 20
    KIND_HEARTBEAT_REPLY = 21
    KIND_TIMEOUT_NOW = 22
    KIND_PREPARE = 32
    KIND_PROMISE = 33
    KIND_ACCEPT = 34
    KIND_ACCEPTED = 35
    KIND_REFUSED = 36
    KIND_FETCH = 37
    KIND_VALUES = 38
    KIND_CLIENT_HELLO = 64
    KIND_CLIENT_HELLO_REPLY = 65
    KIND_REQUEST = 66
    KIND_REPLY = 67
    KIND_STATUS = 68
    KIND_STATUS_REPLY = 69
    KIND_ADMIN = 70
    KIND_ADMIN_REPLY = 71
    KIND_WATCH = 72
    KIND_WATCH_EVENTS = 73

# Kinds of entry records, which are client request records too.
cpdef enum:
    ENTRY_NOOP = 0
    ENTRY_COMMAND = 1
    ENTRY_OPEN_SESSION = 2
    ENTRY_CLOSE_SESSION = 3
    ENTRY_EXPIRE_SESSION = 4
    ENTRY_READ = 5
    ENTRY_STALE_READ = 6
    ENTRY_KEEP_ALIVE = 7
    ENTRY_EXPIRE_LEASE = 8
    ENTRY_COMPACT = 9
    ENTRY_RULES = 10

# The op bytes of the commands that can only free bytes; the others are in quorumd/commands.
cdef enum:
    OP_DELETE_RANGE = 2
    OP_COMPACT = 5
    OP_LEASE_REVOKE = 7

cpdef enum:
    STATUS_OK = 0
    STATUS_NOT_LEADER = 1
    STATUS_REJECTED = 2
    STATUS_TOO_LARGE = 3
    STATUS_DISK_FULL = 4
    STATUS_OVERLOADED = 5
    STATUS_NO_SPACE = 6
    STATUS_SESSION_EXPIRED = 7
    STATUS_WINDOW_FULL = 8
    STATUS_ANSWERED = 9
    STATUS_TOO_MANY_SESSIONS = 10
    STATUS_STOPPED = 11
    STATUS_REPLY_EVICTED = 12
    STATUS_COMPACTED = 13
    STATUS_LEASE_NOT_FOUND = 14
    STATUS_LEASE_EXISTS = 15
    STATUS_KEY_NOT_FOUND = 16
    STATUS_FUTURE_REVISION = 17

# Why a frame or datagram was dropped; indexes of Counters.
cpdef enum:
    DROP_NONE = 0
    DROP_BAD_MAGIC = 1
    DROP_BAD_VERSION = 2
    DROP_BAD_KIND = 3
    DROP_BAD_LENGTH = 4
    DROP_BAD_CRC = 5
    DROP_BAD_RESERVED = 6
    DROP_WRONG_CLUSTER = 7
    DROP_WRONG_RECEIVER = 8
    DROP_BAD_RECORD = 9
    DROP_BAD_MAC = 10
    DROP_OLD_INCARNATION = 11
    DROP_UNKNOWN_SENDER = 12
    DROP_STALE_RECEIVER = 13
    DROP_BAD_BODY = 14
    DROP_OVERFLOW = 15
    DROP_REASSEMBLY_FULL = 16
    DROP_REPLAYED = 17
    DROP_REASONS = 18

# Classes of staged client operations.
cpdef enum:
    WRITES = 0
    READS = 1
    STALE = 2
    OVERFLOW = 3

# One raw socket address; never looked into here. Only the first `length` bytes mean anything.
cdef struct qaddr:
    uint32_t length
    uint8_t data[28]

# Frame header, decoded (the packed form is documented in ARCHITECTURE.md).
cdef struct qframe:
    uint8_t kind
    uint16_t flags
    uint64_t cluster
    uint32_t group
    uint16_t sender
    uint16_t receiver
    uint64_t sender_incarnation
    uint64_t receiver_incarnation
    uint64_t term
    uint64_t index
    uint64_t commit
    uint32_t count
    uint32_t payload_length

# Entry record header, decoded.
cdef struct qentry:
    uint32_t length
    uint8_t kind
    uint64_t session_hi
    uint64_t session_lo
    uint64_t seq
    uint64_t answered_below
    const uint8_t* command
    uint32_t command_length

# One client operation staged: its record lies in a slab (or a reassembled payload) until clear().
cdef struct qstaged:
    const uint8_t* record
    uint32_t length
    qaddr addr

# A valid frame that is not a client request, on its way to Python.
cdef struct qparsed:
    int slot
    uint32_t payload_offset
    qframe frame

cdef struct qdatagram:
    qaddr addr
    uint32_t first_iov
    uint32_t iov_count
    uint32_t total

cdef class Counters:
    cdef uint64_t values[32]

cdef class Slab:
    cdef char* data
    cdef size_t slot_bytes      # distance between slots; the memory asked for each, padded
    cdef size_t slot_limit      # bytes of a slot that a datagram may use
    cdef int slots
    cdef int count
    cdef uint32_t* lengths      # 0: the datagram was dropped
    cdef qaddr* addrs

cdef class Outbox:
    cdef qdatagram* datagrams
    cdef int capacity
    cdef int count
    cdef iovec* iovs
    cdef int iov_capacity
    cdef int iov_count
    cdef int sealed             # datagrams below this index have their tail: nothing may be added to them
    cdef char* scratch
    cdef size_t scratch_capacity
    cdef size_t scratch_used
    cdef readonly uint32_t mtu
    cdef readonly uint32_t tail_room
    cdef uint64_t cluster
    cdef uint16_t sender
    cdef uint64_t incarnation
    cdef public uint64_t overflow

    # Whether open() with the same arguments would succeed; counts nothing.
    cdef bint has_room(self, const qaddr* addr, size_t size, int iovs) noexcept nogil
    # Room for `size` more bytes to `addr`, in the open datagram if it fits the mtu, else in a new one; 0 on success.
    # After it, copies and refs of at most `size` bytes in at most `iovs` pieces cannot fail. -1 is counted in overflow.
    cdef int open(self, const qaddr* addr, size_t size, int iovs) noexcept nogil
    # Copies into scratch (data NULL: only reserves there, for the caller to fill); the pointer to the copy, or NULL
    # when full. open() reserved the room. Copies in a row are adjacent in memory.
    cdef char* add_copy(self, const void* data, size_t size) noexcept nogil
    # Refers to memory that stays untouched until the outbox is sent or cleared.
    cdef int add_ref(self, const void* data, size_t size) noexcept nogil
    # Writes an 80-byte header for a frame from this node; payload_crc is crc32c(payload). Cluster, sender and sender
    # incarnation are this node's, whatever `frame` says.
    cdef void put_header(self, char* out, const qframe* frame, uint32_t payload_crc) noexcept nogil
    # open(), header and a copied payload of frame.payload_length bytes in one; 0 on success.
    cdef int add_frame(self, const qaddr* addr, const qframe* frame, const void* payload) noexcept nogil
    # Room for one more piece of the open datagram, adjacent pieces merged.
    cdef void add_piece(self, const void* data, size_t size) noexcept nogil

cdef class Stage:
    cdef vector[qstaged] writes_
    cdef vector[qstaged] reads_
    cdef vector[qstaged] stale_
    cdef vector[qstaged] overflow_
    cdef vector[qparsed] others
    cdef uint64_t write_bytes_
    cdef uint64_t read_bytes_
    cdef size_t capacity
    cdef list kept  # slabs and reassembled payloads that descriptors point into

    cdef vector[qstaged]* by_class(self, int which) noexcept nogil
    cdef ReplayWindows replays      # None: numbers are not looked at
    cdef uint64_t incarnation       # of this node: what numbered requests must be addressed to

    cdef void put_aside(self, int slot, qparsed* parsed, size_t payload_offset, uint64_t* drops) noexcept nogil
    cdef void walk(self, Slab slab, uint64_t cluster, ReplayWindows replays, uint64_t now,
                   uint64_t* drops) noexcept nogil
    cdef void take_records(self, const uint8_t* data, uint32_t count, const qaddr* addr, uint64_t* drops) noexcept nogil

cdef class Replies:
    cdef char* scratch
    cdef size_t capacity
    cdef size_t used
    cdef uint32_t mtu
    cdef size_t record_limit
    cdef size_t waiting              # records added and not yet flushed
    cdef vector[size_t] offsets      # of each record in scratch
    cdef vector[uint32_t] owner      # its address, as index into addrs; UINT32_MAX once flushed
    cdef vector[qaddr] addrs
    cdef vector[uint32_t] places     # each address's slot in the table
    cdef uint32_t* table             # open addressing: 1 + index into addrs, 0 free
    cdef uint32_t table_mask
    cdef vector[uint32_t] order      # of one flush: records by owner, each owner's in order
    cdef vector[uint32_t] begins
    cdef vector[uint32_t] oversize
    cdef public uint64_t overflow

    # Appends one reply record; 0 on success, -1 when full (counted in overflow: the client will retry).
    cdef int add_record(self, const qaddr* addr, uint8_t status, uint8_t kind, uint64_t session_lo, uint64_t seq,
                        uint64_t revision, const void* body, uint32_t body_length) noexcept nogil
    cdef int64_t owner_of(self, const qaddr* addr) noexcept nogil
    cdef void group(self) noexcept nogil
    cdef bint pack(self, Outbox outbox, uint16_t receiver) noexcept nogil
    cdef void pack_frame(self, Outbox outbox, uint16_t receiver, const qaddr* addr, size_t first, size_t end,
                         size_t size) noexcept nogil
    cdef void forget(self) noexcept nogil

# 0 when `data` starts with one well-formed entry record of at most `size` bytes, else -1; fills `out`.
cdef int decode_entry(const uint8_t* data, size_t size, qentry* out) noexcept nogil
cdef void encode_entry_header(uint8_t* out, uint32_t length, uint8_t kind, uint64_t session_hi, uint64_t session_lo,
                              uint64_t seq, uint64_t answered_below) noexcept nogil
# 1 and the next valid frame of a datagram, its payload at payload_offset; 0 at the end. `offset` starts at 0.
# What is dropped on the way is counted in `drops` (Counters.values).
cdef bint next_frame(const uint8_t* data, size_t size, size_t* offset, qframe* out, size_t* payload_offset,
                     uint64_t* drops) noexcept nogil
# Bytes (1..28) into `out`; ValueError else.
cdef int load_addr(object addr, qaddr* out) except -1


cdef inline bint logged(uint8_t kind) noexcept nogil:
    # Kinds that a log may hold.
    return kind <= ENTRY_EXPIRE_SESSION or ENTRY_EXPIRE_LEASE <= kind <= ENTRY_RULES
