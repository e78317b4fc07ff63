# The replicated state machine: ordered store with its history, leases, sessions, digest.
# The C++ side is machine.h and what it includes.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libcpp.optional cimport optional
from libcpp.string_view cimport string_view
from libcpp.vector cimport vector

from quorumd_fastpath.wire cimport Replies, qaddr

cdef extern from "machine.h" namespace "quorumd" nogil:
    cdef enum Status:
        OK
        SESSION_EXPIRED

    cdef struct SessionId:
        uint64_t high
        uint64_t low

    cdef struct Expired:
        SessionId id
        uint64_t generation

    cdef struct Entry:
        uint8_t kind
        SessionId session
        uint64_t seq
        uint64_t answered_below
        const uint8_t* command
        size_t size

    cdef struct Answer:
        Status status
        uint64_t revision
        const char* body
        size_t size

    cdef struct Checkpoint:
        uint64_t index
        uint64_t digest

    cdef cppclass Window:
        uint64_t base()
        size_t bytes()

    cdef cppclass Session:
        uint64_t generation
        Window window

    cdef struct Version:
        uint64_t create_revision
        uint64_t mod_revision
        uint64_t version
        uint64_t lease
        uint32_t size
        bint dead()
        string_view value()

    cdef struct Record:
        string_view key()

    cdef struct Change:
        const Record* record
        const Version* version
        uint64_t revision()
        const Version* previous()

    cdef cppclass KeyStore:
        uint64_t revision()
        uint64_t compacted()
        bint reclaiming()
        uint64_t bytes()
        uint64_t live_bytes()
        uint64_t quota()
        size_t size()
        size_t changes()
        uint64_t seek_change(uint64_t revision)
        uint64_t changes_end()
        const Change& change(uint64_t number)
        uint64_t work()
        void spend(uint64_t work)
        void spend_bytes(uint64_t bytes)

    cdef cppclass LeaseKeys:
        size_t size()

    cdef struct Lease:
        uint64_t ttl_ms
        uint64_t generation
        LeaseKeys keys

    cdef struct DueLease:
        uint64_t id
        uint64_t generation

    cdef cppclass Leases:
        size_t size()
        Lease* find(uint64_t id)
        const Lease* touch(uint64_t id, uint64_t now) except +
        void expiring(uint64_t id)
        void rearm(uint64_t now) except +
        void put_off(uint64_t until)
        vector[DueLease] due(uint64_t now, uint64_t again, size_t limit) except +
        uint64_t next_due()

    cdef cppclass Holdings:
        size_t bytes
        size_t ops

    cdef cppclass Sessions:
        size_t size()
        size_t limit()
        Session* find(SessionId id)
        void expiring(SessionId id)
        void rearm(uint64_t now)
        void put_off(uint64_t until, uint64_t ttl)
        vector[Expired] expired(uint64_t now, uint64_t ttl, uint64_t again, size_t limit) except +
        const Holdings& holdings()

    cdef cppclass Machine:
        KeyStore store
        Leases leases
        Sessions sessions
        Machine(uint64_t quota, size_t session_limit, uint64_t key) except +
        uint64_t applied()
        uint64_t digest()
        uint64_t executed()
        uint64_t rules()
        uint64_t leadership()
        Answer apply(const Entry& entry, uint64_t now) except +
        void seal(uint32_t entry_crc, Status status, uint32_t body_crc) except +
        Checkpoint checkpoint()
        optional[uint64_t] digest_at(uint64_t index)
        Answer read(const uint8_t* command, size_t size, optional[uint64_t] now) except +
        Answer keep_session(SessionId id, optional[uint64_t] now) except +

    const uint8_t KEEP_LEASE "quorumd::LEASE_KEEP_ALIVE"

    # Mirrors of limits.py.
    const size_t LOOKS_LIMIT "quorumd::MAX_LOOKS"
    const uint64_t RULES_NUMBER "quorumd::RULES_VERSION"
    const size_t KEY_LIMIT "quorumd::MAX_KEY_SIZE"
    const size_t VALUE_LIMIT "quorumd::MAX_VALUE_SIZE"
    const size_t TXN_LIMIT "quorumd::MAX_TXN_OPS"
    const size_t TXN_DEPTH_LIMIT "quorumd::MAX_TXN_DEPTH"
    const size_t TXN_TOTAL_LIMIT "quorumd::MAX_TXN_TOTAL"
    const size_t LEASE_LIMIT "quorumd::MAX_LEASES"
    const uint64_t MIN_TTL "quorumd::MIN_LEASE_TTL_MS"
    const uint64_t MAX_TTL "quorumd::MAX_LEASE_TTL_MS"
    const size_t PAGE_LIMIT "quorumd::PAGE_SIZE"
    const uint64_t WINDOW_OPS_LIMIT "quorumd::WINDOW_OPS"
    const size_t WINDOW_BYTES_LIMIT "quorumd::WINDOW_BYTES"
    const size_t ALL_BYTES_LIMIT "quorumd::ALL_WINDOWS_BYTES"
    const size_t ALL_OPS_LIMIT "quorumd::ALL_WINDOWS_OPS"
    const size_t ENDED_LIMIT "quorumd::ENDED_KEPT"
    const uint64_t OVERHEAD "quorumd::KEY_OVERHEAD"
    const uint64_t OVERHEAD_OF_VERSION "quorumd::VERSION_OVERHEAD"
    const uint64_t RECLAIM_STEP "quorumd::RECLAIMED_PER_ENTRY"
    const uint64_t RECLAIM_VERSION "quorumd::VERSION_COST"
    const uint64_t RECLAIM_TOMBSTONE "quorumd::TOMBSTONE_COST"
    const uint64_t RECLAIM_KEY_BYTES "quorumd::KEY_BYTES_OF_A_UNIT"
    const uint64_t DIGEST_STEP "quorumd::DIGEST_EVERY"
    const size_t CHECKPOINT_LIMIT "quorumd::CHECKPOINTS_KEPT"


cdef class Store:
    cdef Machine* machine

    # Applies the entry that `data` begins with as the next one; answers it to `addr` unless that or `replies` is empty.
    # The record's length, or 0 when it is malformed: then nothing was applied. -1: out of memory, exception set.
    cdef Py_ssize_t step(self, const uint8_t* data, size_t size, const qaddr* addr, Replies replies,
                         uint64_t now_ns) except -1 nogil
    # Up to `count` entries, and none beyond the work `until` but the first, each answered to its own of `addrs` if that
    # is not NULL; counts them in `done`. Returns the bytes they took.
    cdef Py_ssize_t walk(self, const uint8_t* data, size_t size, uint64_t count, const qaddr* addrs, Replies replies,
                         uint64_t now_ns, uint64_t* done, uint64_t until) except -1 nogil
    # `now`: see Machine::read. What may find no room in `replies` is not executed (counted in overflow). 0: done with
    # it; 1: beyond the work `until`, and no keep-alive.
    cdef int answer_read(self, const uint8_t* data, size_t size, const qaddr* addr, Replies replies,
                         optional[uint64_t] now, uint64_t until) except -1 nogil
    cdef int check_next(self, uint64_t first_index) except -1
