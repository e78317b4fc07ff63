from libc.stdint cimport uint64_t

cdef struct qwindow:
    uint64_t client     # 0: free
    uint64_t highest
    uint64_t seen[4]    # bit i: highest - i was taken
    uint64_t used_at

cdef class ReplayWindows:
    cdef qwindow* windows
    cdef uint64_t groups
    cdef uint64_t life
    cdef readonly uint64_t turned_away

    cdef bint fresh(self, uint64_t client, uint64_t number, uint64_t now) noexcept nogil
