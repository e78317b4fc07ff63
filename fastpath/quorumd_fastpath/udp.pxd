# Batched UDP system calls; see udp.pyx.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, clockid_t, timespec

from quorumd_fastpath.wire cimport Outbox, Slab, iovec

cdef extern from "<time.h>" nogil:
    clockid_t CLOCK_BOOTTIME

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    cdef struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags

    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


# The clock of a node's loop: the time in which the machine was suspended counts.
cdef inline int64_t since_boot_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef class UdpSocket:
    cdef readonly str host
    cdef readonly int family
    cdef int asked_port
    cdef int fd
    cdef object sock
    cdef mmsghdr* inbound
    cdef iovec* inbound_pieces
    cdef char* controls
    cdef int inbound_size
    cdef Slab prepared           # what `inbound` points into, from its slot `prepared_first` on
    cdef int prepared_first
    cdef int used                # entries of `inbound` that the kernel wrote to since they were prepared
    cdef uint32_t last_drops     # the kernel's counter, which wraps
    cdef mmsghdr* outbound
    cdef readonly uint64_t kernel_drops
    cdef readonly uint64_t truncated
    cdef readonly uint64_t send_errors
    cdef readonly uint64_t datagrams_sent
    cdef readonly uint64_t bytes_sent

    cdef int reserve(self, int size) except -1
    cdef void prepare(self, Slab slab, int first, int amount) noexcept nogil
    cdef void take(self, Slab slab, int amount) noexcept nogil
    cdef uint64_t send_batch(self, Outbox outbox, int* first) noexcept nogil
    cdef uint64_t send_all(self, Outbox outbox) noexcept nogil
