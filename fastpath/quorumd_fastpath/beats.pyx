# distutils: language = c++
"""Heartbeats and their answers, taken off a slab in one call: on an idle node that is all that arrives.

Takes only what is beyond doubt: a datagram that is exactly one sound frame of one of the two kinds, between known
incarnations, of the current term. Everything else stays for the general path, which knows the reasons to drop a frame
and counts them; nothing is dropped or counted here. No system call, no policy, no clock.

What comes out are the daemon's own messages, of the two named tuples it gave: making them here saves the detour through
the constructor that a named tuple has in Python, which is most of what a heartbeat costs there.
"""

from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

from quorumd_fastpath.wire cimport (
    DROP_REASONS, HEADER_SIZE, KIND_HEARTBEAT, KIND_HEARTBEAT_REPLY, Slab, next_frame, qframe, qheader_packed
)

cdef enum:
    DISK_FULL = 256  # flag of a reply
    BEAT_BODY = 16   # digest index, digest
    REPLY_BODY = 24  # applied, digest index, digest


cdef inline bint beat_shaped(const uint8_t* data, size_t size) noexcept nogil:
    # Whether kind and lengths are those of one lone beat: asked before its CRC is computed, as most datagrams of a busy
    # node are none.
    cdef qheader_packed header
    if size != HEADER_SIZE + BEAT_BODY and size != HEADER_SIZE + REPLY_BODY:
        return False
    memcpy(&header, data, HEADER_SIZE)
    return (header.payload_length == size - HEADER_SIZE
            and header.kind == (KIND_HEARTBEAT if header.payload_length == BEAT_BODY else KIND_HEARTBEAT_REPLY))


cdef inline object named(type kind, tuple fields):
    cdef tuple arguments = (fields,)
    return (<PyTypeObject*>tuple).tp_new(kind, <PyObject*>arguments, NULL)


cdef class Beats:
    """The peers whose beats are taken, by the incarnation each proved; `limit` is above every plausible number.

    heartbeat, reply: named tuples of (sender, to, term, commit, round) and (sender, to, term, round, last).
    """

    def __cinit__(self, uint16_t node, uint64_t incarnation, uint64_t limit, type heartbeat not None,
                  type reply not None):
        if not issubclass(heartbeat, tuple) or not issubclass(reply, tuple):
            raise TypeError("messages are named tuples")
        self.heartbeat = heartbeat
        self.reply = reply
        self.node = node
        self.incarnation = incarnation
        self.limit = limit

    def know(self, uint16_t node, uint64_t incarnation):
        """Takes beats of that life of a peer only; of no life at all if it is 0."""
        cdef size_t i
        for i in range(self.known.size()):
            if self.known[i].node == node:
                self.known[i].incarnation = incarnation
                return
        self.known.push_back(qknown(node, incarnation))

    cdef bint genuine(self, const qframe* frame, uint64_t cluster, uint64_t term) noexcept nogil:
        cdef size_t i
        if (frame.cluster != cluster or frame.term != term or frame.receiver != self.node
                or frame.receiver_incarnation != self.incarnation or frame.sender_incarnation == 0
                or frame.index >= self.limit or frame.commit >= self.limit):
            return False
        for i in range(self.known.size()):
            if self.known[i].node == frame.sender:
                return self.known[i].incarnation == frame.sender_incarnation
        return False

    def take(self, Slab slab not None, uint64_t cluster, uint64_t term):
        """(beats, others): what was taken, and the slots left over.

        A beat is (message, whether its sender's disk is full or None for a heartbeat, digest index, digest). Both in
        the order of their slots. The slab is not changed.
        """
        cdef list beats = []
        cdef list others = []
        cdef int slot
        cdef size_t size, offset, payload_offset
        cdef const uint8_t* data
        cdef qframe frame
        cdef uint64_t digest[2]
        cdef uint64_t ignored[DROP_REASONS]
        memset(ignored, 0, sizeof(ignored))
        for slot in range(slab.count):
            data = <const uint8_t*>slab.data + slot * slab.slot_bytes
            size = slab.lengths[slot]
            offset = 0
            if (not beat_shaped(data, size) or not next_frame(data, size, &offset, &frame, &payload_offset, ignored)
                    or not self.genuine(&frame, cluster, term)):
                others.append(slot)
                continue
            memcpy(digest, data + size - sizeof(digest), sizeof(digest))  # both bodies end with it
            if frame.kind == KIND_HEARTBEAT:
                message = named(self.heartbeat, (frame.sender, self.node, term, frame.commit, frame.index))
                disk_full = None
            else:
                message = named(self.reply, (frame.sender, self.node, term, frame.index, frame.commit))
                disk_full = (frame.flags & DISK_FULL) != 0
            beats.append((message, disk_full, digest[0], digest[1]))
        return beats, others
