# Heartbeats taken off a slab; see beats.pyx.

from libc.stdint cimport uint16_t, uint64_t
from libcpp.vector cimport vector

from quorumd_fastpath.wire cimport qframe

cdef struct qknown:
    uint16_t node
    uint64_t incarnation  # 0: it may not speak

cdef class Beats:
    cdef type heartbeat
    cdef type reply
    cdef uint16_t node
    cdef uint64_t incarnation
    cdef uint64_t limit
    cdef vector[qknown] known

    cdef bint genuine(self, const qframe* frame, uint64_t cluster, uint64_t term) noexcept nogil
