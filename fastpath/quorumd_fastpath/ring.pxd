# The log ring: a bounded cache of the newest entries, and what refers to log positions by index.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libcpp.vector cimport vector

from quorumd_fastpath.wire cimport Outbox, iovec, qaddr, qframe

# Where the next entry would go: a monotonic byte position, and that position within the memory.
cdef struct qcursor:
    uint64_t position
    size_t offset

cdef class Ring:
    cdef char* data
    cdef size_t capacity_bytes
    cdef uint64_t* positions         # by index & mask: byte position (monotonic, modulo capacity_bytes) of the entry
    cdef uint32_t* lengths
    cdef uint64_t capacity_entries   # a power of two
    cdef uint64_t mask
    cdef uint64_t first_             # first_ == last_ + 1: empty
    cdef uint64_t last_
    cdef uint64_t head               # next byte position to write
    cdef uint64_t tail               # byte position of the oldest entry kept; head - tail <= capacity_bytes
    cdef uint64_t pin_               # entries >= pin_ are never evicted
    cdef uint64_t wrap               # where the memory last began anew: a multiple of capacity_bytes
    cdef uint64_t gap                # bytes skipped right before `wrap`, at the end of the memory

    # 0 and the entry's bytes, or -1 if the ring does not hold it.
    cdef int locate(self, uint64_t index, const uint8_t** entry, uint32_t* length) noexcept nogil
    # The bytes of first..last as iovecs (adjacent entries merged, so at most 2); the number used, or -1 if `limit` is
    # too small or the ring does not hold them all.
    cdef int gather(self, uint64_t first, uint64_t last, iovec* out, int limit) noexcept nogil

    cdef bint holds(self, uint64_t first, uint64_t last) noexcept nogil
    cdef size_t offset_of(self, uint64_t position) noexcept nogil
    cdef uint64_t span(self, uint64_t first, uint64_t last) noexcept nogil
    cdef uint64_t longest(self, uint64_t first, uint64_t last, uint64_t max_bytes) noexcept nogil
    cdef int cursor_at(self, uint64_t index, qcursor* out) except -1
    cdef bint place(self, qcursor* cursor, uint32_t length) noexcept nogil
    cdef bint admit(self, uint64_t first_index, uint64_t count, uint64_t start, uint64_t end) noexcept nogil
    cdef void register(self, uint64_t index, qcursor* cursor, uint32_t length) noexcept nogil
    cdef int take_packed(self, const uint8_t* data, size_t size, uint64_t first_index, uint64_t count,
                         uint64_t skip) except -1
    cdef bint send_frame(self, Outbox outbox, const qaddr* addr, const qframe* frame, const uint64_t* body,
                         uint64_t first, uint64_t last) noexcept nogil

cdef class Pending:
    cdef qaddr* addrs                # by index & mask
    cdef uint64_t* indexes           # the index the slot belongs to; 0: free
    cdef uint64_t mask
    cdef uint64_t capacity
    cdef uint64_t count

    cdef void put(self, uint64_t index, const qaddr* addr) noexcept nogil
    # 0 and the address, and the slot is free again; -1 if nobody waits for `index`.
    cdef int take(self, uint64_t index, qaddr* out) noexcept nogil

# One read waiting for its read point; the record lies in the queue's own memory.
cdef struct qread:
    uint64_t read_id
    qaddr addr
    size_t offset
    uint32_t length                  # 0: answered or given up; squeezed out later

cdef class ReadQueue:
    cdef vector[qread] reads         # in the order of arrival: ids and offsets ascend
    cdef vector[uint8_t] bytes_
    cdef size_t limit_bytes
    cdef size_t live_bytes           # of bytes_: those that a read still refers to
    cdef size_t live_reads           # of reads: those with a length

    # Where the reads of `read_id` and later ones begin.
    cdef size_t find(self, uint64_t read_id) noexcept nogil
    # One read is answered; its bytes stay until remove().
    cdef inline void forget(self, qread* read) noexcept nogil:
        self.live_bytes -= read.length
        self.live_reads -= read.length != 0
        read.length = 0
    # Forgets the reads of one id (answered, or given up); pointers into bytes_ are invalid afterwards.
    cdef void remove(self, uint64_t read_id) noexcept nogil
