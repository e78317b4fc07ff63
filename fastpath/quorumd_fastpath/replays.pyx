"""Copies of client datagrams, told from their originals.

The network may double a datagram and deliver the copy much later. Of an operation that was refused, the client may say
that it did not happen, and never will; a copy that is taken after the refusal would make that a lie, and so would one
that was taken before. So clients number their request datagrams, for each node and in each of its lives, and a node
takes every number once: it remembers the highest of each client and which of the 255 before it were taken (the
anti-replay window of RFC 4303, section 3.4.3). What is older than the window is a copy, or so late that the client has
sent again.

Room is bounded. A client not heard of for `life` may be forgotten; a copy that is older than that passes. While
nobody can be forgotten, the datagrams of further clients are dropped and counted. So where there is no window, nothing
was taken within a `life`: of the numbers below a client's first one none is a copy, they were only overtaken.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef enum:
    WAYS = 8        # windows that one client may have; a group of them is searched
    WINDOW = 256    # numbers that are told apart


cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    # The finalizer of MurmurHash3: client ids are random, and yet chosen by clients.
    value ^= value >> 33
    value *= <uint64_t>0xff51afd7ed558ccdULL
    value ^= value >> 33
    return value


cdef class ReplayWindows:
    """See above. Room for `clients`; `life` and every `now` are of one clock, in any unit."""

    def __cinit__(self, uint64_t clients, uint64_t life):
        if not 1 <= clients <= 1 << 24:
            raise ValueError(f"windows for {clients} clients")
        self.groups = (clients + WAYS - 1) // WAYS
        self.life = life
        # Untouched pages cost nothing.
        self.windows = <qwindow*>calloc(self.groups * WAYS, sizeof(qwindow))
        if self.windows == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.windows)

    cdef bint fresh(self, uint64_t client, uint64_t number, uint64_t now) noexcept nogil:
        cdef qwindow* group = self.windows + mixed(client) % self.groups * WAYS
        cdef qwindow* oldest = group
        cdef int way
        for way in range(WAYS):
            if group[way].client == client and client:
                group[way].used_at = now
                return advance(&group[way], number)
            if oldest.client and (not group[way].client or group[way].used_at < oldest.used_at):
                oldest = &group[way]
        if oldest.client and now - oldest.used_at < self.life:
            self.turned_away += 1
            return False
        oldest.client = client
        oldest.used_at = now
        oldest.highest = number
        memset(oldest.seen, 0, sizeof(oldest.seen))
        oldest.seen[0] = 1
        return True

    def take(self, uint64_t client, uint64_t number, uint64_t now):
        return self.fresh(client, number, now)


cdef bint advance(qwindow* window, uint64_t number) noexcept nogil:
    cdef uint64_t behind
    if number > window.highest:
        shift(window.seen, number - window.highest)
        window.highest = number
        window.seen[0] |= 1
        return True
    behind = window.highest - number
    if behind >= WINDOW or window.seen[behind >> 6] >> (behind & 63) & 1:
        return False
    window.seen[behind >> 6] |= <uint64_t>1 << (behind & 63)
    return True


# Makes room for `by` newer numbers at the low end.
cdef void shift(uint64_t* seen, uint64_t by) noexcept nogil:
    cdef int word
    cdef uint64_t words = by >> 6
    cdef uint64_t bits = by & 63
    cdef uint64_t value
    for word in range(3, -1, -1):
        value = 0
        if <uint64_t>word >= words:
            value = seen[word - words] << bits
            if bits and <uint64_t>word > words:
                value |= seen[word - words - 1] >> (64 - bits)
        seen[word] = value
