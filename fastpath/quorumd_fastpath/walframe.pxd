# WAL framing in memory; see walframe.pyx for the format.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "wal_layout.h" nogil:
    ctypedef struct qwal_segment_packed:
        char magic[8]
        uint32_t version
        uint32_t crc
        uint64_t number
        uint64_t segment_bytes
        uint64_t nonce
        uint64_t cluster
        uint64_t node
        uint64_t term
        uint64_t vote
        uint64_t first_index
        uint64_t commit
        uint32_t prev_chain
        uint32_t reserved

    ctypedef struct qwal_batch_packed:
        uint32_t magic
        uint32_t crc
        uint32_t length
        uint32_t records
        uint64_t position
        uint64_t synced_to
        uint64_t commit
        uint32_t chain_in
        uint32_t reserved
        uint64_t seq
        uint64_t reserved2

    ctypedef struct qwal_record_packed:
        uint32_t crc
        uint32_t payload_crc
        uint32_t payload_length
        uint8_t kind
        uint8_t flags
        uint16_t reserved
        uint64_t index
        uint32_t count
        uint32_t reserved2
        uint64_t term

cdef class Batch:
    cdef char* data_               # 4096-byte aligned
    cdef size_t capacity           # bytes allocated, a multiple of 512
    cdef size_t limit              # never grows beyond
    cdef size_t room_end           # where this batch must end: the limit, or the end of the segment if that is nearer
    cdef size_t size               # bytes used; after finish(): padded to a 512-byte boundary
    cdef uint32_t chain_           # before the batch; after finish(): after it
    cdef readonly uint32_t records
    cdef uint32_t seed_
    cdef Py_ssize_t exports        # memoryviews alive: the memory must not move or change
    cdef bint begun
    cdef bint finished             # between finish() and the next begin()
    cdef bint busy                 # handed to a WalThread, which reads the memory until the batch is reaped

    cdef int check_idle(self) except -1
    cdef int check_open(self) except -1
    cdef int check_open_for(self, uint8_t kind) except -1
    # 0, and `size` more bytes lie after the used ones; 1 when the batch may not become so large.
    cdef int reserve(self, size_t size) except -1
    # After reserve(): writes a record header whose crc finish() fills in.
    cdef void put_record(self, uint8_t kind, uint64_t index, uint32_t count, uint64_t term, uint32_t payload_crc,
                         uint32_t payload_length) noexcept nogil
