# The load generator's state; see load.pyx.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libcpp.vector cimport vector

from quorumd_fastpath.udp cimport UdpSocket
from quorumd_fastpath.wire cimport Counters, Outbox, Slab, qaddr

cdef extern from "wire_layout.h" nogil:
    ctypedef struct qreply_packed:
        uint32_t length
        uint8_t status
        uint8_t kind
        uint16_t reserved
        uint64_t session_lo
        uint64_t seq
        uint64_t revision

cdef enum Doing:
    CLOSED = 0       # its session is not open yet
    OPENING = 1
    IDLE = 2
    WRITING = 3
    READING = 4
    SWAPPING = 5

# One logical client: a session with at most one operation in flight.
cdef struct qclient:
    uint64_t seq             # of the operation in flight, or of the last one
    uint64_t acknowledged    # highest seq answered OK
    uint64_t read_seq
    uint64_t expected        # a swap compares the key's revision with it
    uint64_t counts_from_ns  # its latency does: when it was first sent or, in an open loop, was due
    uint64_t sent_ns         # it was first sent then
    uint64_t due_ns          # and is sent again then
    uint32_t key             # number of the operation's key
    uint8_t doing

cdef class LoadGenerator:
    cdef vector[qclient] clients
    cdef vector[uint32_t] free_        # clients without an operation in flight, first in first out
    cdef size_t free_head
    cdef vector[qaddr] targets
    cdef vector[uint16_t] target_ids
    cdef size_t target
    cdef UdpSocket sock
    cdef Slab slab
    cdef Outbox outbox
    cdef Counters counters
    cdef bytes template_write
    cdef bytes template_read
    cdef bytes template_swap
    cdef const char* write_bytes     # of the three templates
    cdef const char* read_bytes
    cdef const char* swap_bytes
    cdef size_t key_at_write
    cdef size_t key_at_read
    cdef size_t key_at_swap
    cdef size_t value_at
    cdef size_t record_bytes         # the longest request
    cdef size_t key_bytes
    cdef size_t value_bytes
    cdef uint32_t per_datagram
    cdef uint32_t reads_percent
    cdef uint32_t cas_percent
    cdef uint32_t key_count
    cdef vector[double] popularity   # of the keys, added up; empty: all are alike
    cdef vector[uint64_t] revisions  # by key: of the newest change that was acknowledged
    cdef bint open_loop
    cdef uint64_t arrival_ns         # of the next operation of an open loop; 0: now
    cdef uint32_t resend_ms
    cdef uint64_t session_hi
    cdef uint64_t session_base
    cdef uint64_t chance
    cdef double rate
    cdef double budget               # operations that the rate allows now
    cdef uint64_t budget_ns
    cdef uint64_t heard_ns           # the last answer that was no redirect
    cdef uint64_t scanned_ns
    cdef uint64_t busy               # operations in flight
    cdef uint64_t unopened
    cdef bint stopping
    cdef vector[uint64_t] histogram
    cdef uint64_t mark_ns
    cdef readonly uint64_t done            # and not refused
    cdef readonly uint64_t errors          # refused
    cdef readonly uint64_t resends
    cdef readonly uint64_t redirects
    cdef readonly uint64_t max_us
    cdef readonly uint64_t writes_done     # and swaps that swapped
    cdef readonly uint64_t marked_writes_done  # of those that were begun since mark()
    cdef readonly uint64_t swaps_failed
    cdef readonly int last_error_status

    cdef make_templates(self)
    cdef make_keys(self, double skew, uint32_t most)
    cdef void choose(self, uint32_t number) noexcept nogil
    cdef uint64_t draw(self) noexcept nogil
    cdef size_t build_swap(self, qclient* client, uint64_t session_lo, uint8_t* out) noexcept nogil
    cdef bint may_begin(self) noexcept nogil
    cdef bint take_free(self, uint32_t* out) noexcept nogil
    cdef size_t build(self, uint32_t number, uint64_t now, uint8_t* out) noexcept nogil
    cdef void resend(self, uint32_t number, uint64_t now) noexcept nogil
    cdef void begin(self, uint64_t now) noexcept nogil
    cdef bint send_some(self, uint64_t now) noexcept nogil
    cdef void scan(self, uint64_t now) noexcept nogil
    cdef void absorb(self, uint64_t now) noexcept nogil
    cdef void answered(self, uint32_t number, const qreply_packed* reply, const uint8_t* body, size_t size,
                       uint64_t now) noexcept nogil
    cdef void redirected(self, uint32_t number, const uint8_t* body, size_t size, uint64_t now) noexcept nogil
    cdef void finished(self, uint32_t number, uint64_t now, bint executed) noexcept nogil
    cdef void count_latency(self, uint64_t micros) noexcept nogil
