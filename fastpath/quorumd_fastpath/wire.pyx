# distutils: language = c++
"""Frames, client records and replies: bytes in a slab to staged operations, and back out through an outbox.

Rules of this file: no system call, no policy, no clock. Every length is checked before anything is read behind it, and
hostile bytes are counted and dropped, never raised. What is done once per record or reply runs without the GIL; Python
objects are made once per frame. Staged records and outbox pieces are references into memory of others: whoever clears a
slab, a ring or a reply buffer first clears what points into it.

One file above the usual size: header codec, slab, outbox, stage and replies share their structs and their loops inline.
"""

import collections

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from libcpp.vector cimport vector

from quorumd_fastpath.crc cimport crc32c_update

HEADER_BYTES = HEADER_SIZE
ENTRY_HEADER_BYTES = ENTRY_HEADER_SIZE
REPLY_HEADER_BYTES = REPLY_HEADER_SIZE
MAX_ENTRY_BYTES = MAX_ENTRY_SIZE
ADDR_BYTES = ADDR_SIZE
MAX_OTHER_FRAMES = MAX_OTHERS
MAGIC = 0x444D5251
WIRE_VERSION = 2

cdef enum:
    FRAME_MAGIC = 0x444D5251
    FRAME_VERSION = 2
    # sendmmsg refuses a datagram of more than 1024 pieces (UIO_MAXIOV).
    MAX_PIECES = 1000
    # Frames other than requests handed to Python for one slab: a datagram of 64 KiB may hold eight hundred.
    MAX_OTHERS = 4096
    # Addresses with replies waiting at once; more replies than that are dropped and asked for again.
    MAX_REPLY_ADDRS = 65536
    GONE = 0xFFFFFFFF

REASONS = (
    "bad_magic", "bad_version", "bad_kind", "bad_length", "bad_crc", "bad_reserved", "wrong_cluster", "wrong_receiver",
    "bad_record", "bad_mac", "old_incarnation", "unknown_sender", "stale_receiver", "bad_body", "overflow",
    "reassembly_full", "replayed",
)

Frame = collections.namedtuple(
    "Frame",
    "payload_offset payload_length kind flags group sender receiver sender_incarnation receiver_incarnation "
    "term index commit count cluster",
    module=__name__,
)


cdef inline object make_frame(uint32_t payload_offset, const qframe* frame):
    return Frame(
        payload_offset, frame.payload_length, frame.kind, frame.flags, frame.group, frame.sender, frame.receiver,
        frame.sender_incarnation, frame.receiver_incarnation, frame.term, frame.index, frame.commit, frame.count,
        frame.cluster,
    )


cdef int load_addr(object addr, qaddr* out) except -1:
    if not isinstance(addr, bytes) or not 0 < PyBytes_GET_SIZE(addr) <= ADDR_SIZE:
        raise ValueError(f"an address is 1 to {ADDR_SIZE} bytes")
    memset(out, 0, sizeof(qaddr))
    out.length = <uint32_t>PyBytes_GET_SIZE(addr)
    memcpy(out.data, PyBytes_AS_STRING(addr), out.length)
    return 0


cdef inline bytes addr_bytes(const qaddr* addr):
    return PyBytes_FromStringAndSize(<const char*>addr.data, addr.length)


cdef inline bint same_addr(const qaddr* a, const qaddr* b) noexcept nogil:
    return a.length == b.length and memcmp(a.data, b.data, a.length) == 0


# ---------------------------------------------------------------- frame header

cdef inline bint known_kind(uint8_t kind) noexcept nogil:
    return (KIND_HELLO <= kind <= KIND_FRAGMENT_ACK or KIND_REQUEST_VOTE <= kind <= KIND_TIMEOUT_NOW
            or KIND_PREPARE <= kind <= KIND_VALUES or KIND_CLIENT_HELLO <= kind <= KIND_WATCH_EVENTS)


cdef void pack_header(char* out, const qframe* frame, uint32_t payload_crc) noexcept nogil:
    cdef qheader_packed header
    header.magic = FRAME_MAGIC
    header.version = FRAME_VERSION
    header.kind = frame.kind
    header.flags = frame.flags
    header.cluster = frame.cluster
    header.group = frame.group
    header.sender = frame.sender
    header.receiver = frame.receiver
    header.sender_incarnation = frame.sender_incarnation
    header.receiver_incarnation = frame.receiver_incarnation
    header.term = frame.term
    header.index = frame.index
    header.commit = frame.commit
    header.count = frame.count
    header.payload_length = frame.payload_length
    header.crc = 0
    header.reserved = 0
    header.crc = crc32c_update(payload_crc, &header, HEADER_SIZE)
    memcpy(out, &header, HEADER_SIZE)


cdef int read_header(const uint8_t* data, size_t size, qframe* out) noexcept nogil:
    # DROP_NONE, or why not. After bad_reserved and bad_kind the CRC has vouched for payload_length, so that the frame
    # can be stepped over; after anything else the rest of the datagram cannot be trusted.
    cdef qheader_packed header
    cdef uint32_t crc
    if size < HEADER_SIZE:
        return DROP_BAD_LENGTH
    memcpy(&header, data, HEADER_SIZE)
    if header.magic != FRAME_MAGIC:
        return DROP_BAD_MAGIC
    if header.version != FRAME_VERSION:
        return DROP_BAD_VERSION
    if header.payload_length > size - HEADER_SIZE:
        return DROP_BAD_LENGTH
    crc = header.crc
    header.crc = 0
    if crc != crc32c_update(crc32c_update(0, data + HEADER_SIZE, header.payload_length), &header, HEADER_SIZE):
        return DROP_BAD_CRC
    out.kind = header.kind
    out.flags = header.flags
    out.cluster = header.cluster
    out.group = header.group
    out.sender = header.sender
    out.receiver = header.receiver
    out.sender_incarnation = header.sender_incarnation
    out.receiver_incarnation = header.receiver_incarnation
    out.term = header.term
    out.index = header.index
    out.commit = header.commit
    out.count = header.count
    out.payload_length = header.payload_length
    # Groups other than 0 are left for later: nobody here could tell them apart.
    if header.reserved != 0 or header.group != 0:
        return DROP_BAD_RESERVED
    if not known_kind(header.kind):
        return DROP_BAD_KIND
    return DROP_NONE


cdef bint next_frame(const uint8_t* data, size_t size, size_t* offset, qframe* out, size_t* payload_offset,
                     uint64_t* drops) noexcept nogil:
    cdef int reason
    while offset[0] < size:
        reason = read_header(data + offset[0], size - offset[0], out)
        if reason != DROP_NONE:
            drops[reason] += 1
            if reason != DROP_BAD_KIND and reason != DROP_BAD_RESERVED:
                offset[0] = size
                return False
        payload_offset[0] = offset[0] + HEADER_SIZE
        offset[0] = payload_offset[0] + out.payload_length
        if reason == DROP_NONE:
            return True
    return False


def encode_frame(
    uint8_t kind, uint16_t flags, uint64_t cluster, uint16_t sender, uint16_t receiver, uint64_t sender_incarnation,
    uint64_t receiver_incarnation, uint64_t term, uint64_t index, uint64_t commit, uint32_t count, payload=b"",
):
    """One whole frame, header and payload. OverflowError when a field does not fit its width."""
    cdef qframe frame
    cdef Py_buffer view
    cdef bytes out
    cdef char* data
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        if view.len > UINT32_MAX:
            raise OverflowError("payload above 4 GiB")
        frame = qframe(kind, flags, cluster, 0, sender, receiver, sender_incarnation, receiver_incarnation, term, index,
                       commit, count, <uint32_t>view.len)
        out = PyBytes_FromStringAndSize(NULL, HEADER_SIZE + view.len)
        data = PyBytes_AS_STRING(out)
        if view.len > 0:
            memcpy(data + HEADER_SIZE, view.buf, view.len)
        pack_header(data, &frame, crc32c_update(0, view.buf, view.len))
    finally:
        PyBuffer_Release(&view)
    return out


def parse_datagram(bytes data not None, Counters counters=None):
    """Every valid frame of one datagram with its payload; payload_offset counts from the start of `data`."""
    cdef size_t offset = 0
    cdef size_t payload_offset = 0
    cdef qframe frame
    cdef uint64_t ignored[DROP_REASONS]
    cdef uint64_t* drops = ignored
    cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef list frames = []
    memset(ignored, 0, sizeof(ignored))
    if counters is not None:
        drops = counters.values
    while next_frame(start, PyBytes_GET_SIZE(data), &offset, &frame, &payload_offset, drops):
        frames.append((make_frame(<uint32_t>payload_offset, &frame), data[payload_offset:offset]))
    return frames


def parse_frames(Slab slab not None, int slot, Counters counters not None):
    """Every valid frame of the slab's datagram `slot`; payload_offset counts from the start of the slot."""
    cdef size_t offset = 0
    cdef size_t payload_offset = 0
    cdef qframe frame
    cdef list frames = []
    slab_check(slab, slot)
    while next_frame(<const uint8_t*>slab.data + slot * slab.slot_bytes, slab.lengths[slot], &offset, &frame,
                     &payload_offset, counters.values):
        frames.append(make_frame(<uint32_t>payload_offset, &frame))
    return frames


# ---------------------------------------------------------------- entry records

cdef int decode_entry(const uint8_t* data, size_t size, qentry* out) noexcept nogil:
    cdef qentry_packed header
    if size < ENTRY_HEADER_SIZE:
        return -1
    memcpy(&header, data, ENTRY_HEADER_SIZE)
    if header.length < ENTRY_HEADER_SIZE or header.length > MAX_ENTRY_SIZE or header.length > size:
        return -1
    if header.flags != 0 or header.reserved != 0 or header.kind > ENTRY_RULES:
        return -1
    out.length = header.length
    out.kind = header.kind
    out.session_hi = header.session_hi
    out.session_lo = header.session_lo
    out.seq = header.seq
    out.answered_below = header.answered_below
    out.command = data + ENTRY_HEADER_SIZE
    out.command_length = header.length - ENTRY_HEADER_SIZE
    return 0


cdef void encode_entry_header(uint8_t* out, uint32_t length, uint8_t kind, uint64_t session_hi, uint64_t session_lo,
                              uint64_t seq, uint64_t answered_below) noexcept nogil:
    cdef qentry_packed header
    header.length = length
    header.kind = kind
    header.flags = 0
    header.reserved = 0
    header.session_hi = session_hi
    header.session_lo = session_lo
    header.seq = seq
    header.answered_below = answered_below
    memcpy(out, &header, ENTRY_HEADER_SIZE)


cdef inline bint client_may_send(const qentry* entry) noexcept nogil:
    # A command has at least its op byte. Session records carry nothing: an entry that closes a session must stay small
    # enough to be let through when the disk is full.
    if entry.kind == ENTRY_COMMAND:
        return entry.command_length > 0
    if entry.kind == ENTRY_OPEN_SESSION or entry.kind == ENTRY_CLOSE_SESSION or entry.kind == ENTRY_KEEP_ALIVE:
        return entry.command_length == 0
    return entry.kind == ENTRY_READ or entry.kind == ENTRY_STALE_READ


cdef bint request_valid(const uint8_t* data, size_t size, uint32_t count) noexcept nogil:
    # Exactly `count` records that clients may send fill the payload.
    cdef qentry entry
    cdef uint32_t _
    for _ in range(count):
        if decode_entry(data, size, &entry) != 0 or not client_may_send(&entry):
            return False
        data += entry.length
        size -= entry.length
    return size == 0


cdef inline bint only_shrinks(const qstaged* op) noexcept nogil:
    cdef uint8_t kind = op.record[4]
    cdef uint8_t code
    if kind != ENTRY_COMMAND:
        return kind == ENTRY_CLOSE_SESSION
    code = op.record[ENTRY_HEADER_SIZE]
    return code == OP_DELETE_RANGE or code == OP_COMPACT or code == OP_LEASE_REVOKE


# ---------------------------------------------------------------- counters, slab

cdef class Counters:
    """How many frames or datagrams were dropped, by reason."""

    def __cinit__(self):
        memset(self.values, 0, sizeof(self.values))

    def increment(self, int reason, uint64_t amount=1):
        """Counts a drop that Python decided on; `reason` is one of DROP_*."""
        if not DROP_NONE < reason < DROP_REASONS:
            raise IndexError("no such drop reason")
        self.values[reason] += amount

    def as_dict(self):
        """Every reason with its count, zeros too."""
        return {name: self.values[reason] for reason, name in enumerate(REASONS, 1)}


cdef inline int slab_check(Slab slab, int slot) except -1:
    if not 0 <= slot < slab.count:
        raise IndexError("no such datagram in the slab")
    return 0


cdef class Slab:
    """Inbound datagrams in one block of memory, one slot each, with the address each came from.

    Pages are touched only as datagrams arrive. A view() stays valid memory for as long as it lives, but shows whatever
    the slot holds by then.
    """

    def __cinit__(self, int slots=256, size_t slot_bytes=65536):
        if slots < 1 or slot_bytes < 1 or slot_bytes > 1 << 30:
            raise ValueError("a slab needs at least one slot of at least one byte")
        self.slots = slots
        self.count = 0
        self.slot_limit = slot_bytes
        # An odd number of cache lines apart: slots at a distance of 64 KiB would all share a few sets of the L2 cache.
        self.slot_bytes = (((slot_bytes + 63) // 64 + 22) | 1) * 64
        self.data = <char*>malloc(<size_t>slots * self.slot_bytes)
        self.lengths = <uint32_t*>calloc(slots, sizeof(uint32_t))
        self.addrs = <qaddr*>calloc(slots, sizeof(qaddr))
        if self.data == NULL or self.lengths == NULL or self.addrs == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.data)
        free(self.lengths)
        free(self.addrs)

    def __len__(self):
        return self.count

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.slots * self.slot_bytes, True, flags)

    def push(self, data, bytes addr not None):
        """Copies one datagram in; False when the slab is full or the datagram exceeds a slot."""
        cdef Py_buffer view
        cdef qaddr raw
        load_addr(addr, &raw)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if self.count == self.slots or <size_t>view.len > self.slot_limit:
                return False
            guard_slot(self.data + self.count * self.slot_bytes, view.len, self.slot_bytes)
            if view.len > 0:
                memcpy(self.data + self.count * self.slot_bytes, view.buf, view.len)
            self.lengths[self.count] = <uint32_t>view.len
            self.addrs[self.count] = raw
            self.count += 1
        finally:
            PyBuffer_Release(&view)
        return True

    def clear(self):
        """Forgets every datagram; nothing staged from it may be used any more."""
        self.count = 0

    def view(self, int slot):
        """The bytes of datagram `slot`, not copied."""
        slab_check(self, slot)
        start = slot * self.slot_bytes
        return memoryview(self)[start:start + self.lengths[slot]]

    def addr(self, int slot):
        slab_check(self, slot)
        return addr_bytes(&self.addrs[slot])

    def shrink(self, int slot, size_t size):
        """Cuts `size` bytes off the end of datagram `slot` (a MAC that was checked)."""
        slab_check(self, slot)
        self.lengths[slot] -= <uint32_t>min(size, self.lengths[slot])
        guard_slot(self.data + slot * self.slot_bytes, self.lengths[slot], self.slot_bytes)

    def drop(self, int slot):
        """Empties datagram `slot`; it counts no further."""
        slab_check(self, slot)
        self.lengths[slot] = 0
        guard_slot(self.data + slot * self.slot_bytes, 0, self.slot_bytes)


# ---------------------------------------------------------------- outbox

cdef inline bint outbox_joins(Outbox box, const qaddr* addr, size_t size, int iovs) noexcept nogil:
    # Whether the open datagram takes it. An empty one (opened and never filled) is taken over by anybody.
    cdef qdatagram* last
    if box.count == 0 or box.count <= box.sealed:
        return False
    last = &box.datagrams[box.count - 1]
    if last.iov_count == 0:
        return True
    return (last.total + size + box.tail_room <= box.mtu and last.iov_count + <uint32_t>iovs < MAX_PIECES
            and same_addr(&last.addr, addr))


cdef qdatagram* outbox_at(Outbox box, int i) except NULL:
    if not 0 <= i < box.count:
        raise IndexError("no such datagram in the outbox")
    return &box.datagrams[i]


cdef class Outbox:
    """Outbound datagrams as lists of pieces: copies in a scratch block, and references to memory of others.

    Consecutive frames to one address share a datagram while it stays within `mtu`, less the tail room.
    """

    def __cinit__(self, int datagrams=4096, size_t scratch_bytes=4 << 20, uint32_t mtu=65000):
        if datagrams < 1 or mtu < HEADER_SIZE:
            raise ValueError("an outbox needs at least one datagram of at least one header")
        self.capacity = datagrams
        self.iov_capacity = 4 * datagrams + MAX_PIECES
        self.scratch_capacity = scratch_bytes
        self.mtu = mtu
        self.datagrams = <qdatagram*>calloc(datagrams, sizeof(qdatagram))
        self.iovs = <iovec*>calloc(self.iov_capacity, sizeof(iovec))
        self.scratch = <char*>malloc(scratch_bytes + 1)
        if self.datagrams == NULL or self.iovs == NULL or self.scratch == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.datagrams)
        free(self.iovs)
        free(self.scratch)

    def __len__(self):
        return self.count

    def identify(self, uint64_t cluster, uint16_t sender, uint64_t incarnation):
        """Who speaks: goes into the header of every frame written from now on."""
        self.cluster = cluster
        self.sender = sender
        self.incarnation = incarnation

    def set_tail_room(self, uint32_t size):
        """Keeps `size` bytes of every datagram free for append_tail. Only while empty (ValueError)."""
        if self.count > 0 or size + HEADER_SIZE > self.mtu:
            raise ValueError("tail room is set on an empty outbox and leaves room for a header")
        self.tail_room = size

    cdef bint has_room(self, const qaddr* addr, size_t size, int iovs) noexcept nogil:
        cdef bint joined = outbox_joins(self, addr, size, iovs)
        cdef size_t tails = <size_t>self.tail_room * (self.count + 1)
        # Two iovec slots to spare: the tails of the open datagram and of a new one.
        return (size + self.tail_room <= self.mtu and <uint32_t>iovs < MAX_PIECES - 1
                and (joined or self.count < self.capacity)
                and self.iov_count + iovs + 2 <= self.iov_capacity
                and self.scratch_used + size + tails <= self.scratch_capacity)

    cdef int open(self, const qaddr* addr, size_t size, int iovs) noexcept nogil:
        cdef qdatagram* target
        if not self.has_room(addr, size, iovs):
            self.overflow += 1
            return -1
        if outbox_joins(self, addr, size, iovs):
            target = &self.datagrams[self.count - 1]
            if target.iov_count == 0:
                target.addr = addr[0]
            return 0
        if self.count > 0 and self.tail_room > 0:
            self.iov_count += 1  # the slot behind the last datagram's pieces: its tail
        target = &self.datagrams[self.count]
        target.addr = addr[0]
        target.first_iov = self.iov_count
        target.iov_count = 0
        target.total = 0
        self.count += 1
        return 0

    cdef void add_piece(self, const void* data, size_t size) noexcept nogil:
        cdef qdatagram* target = &self.datagrams[self.count - 1]
        cdef iovec* piece
        target.total += <uint32_t>size
        if target.iov_count > 0:
            piece = &self.iovs[target.first_iov + target.iov_count - 1]
            if <const char*>piece.iov_base + piece.iov_len == <const char*>data:
                piece.iov_len += size
                return
        piece = &self.iovs[target.first_iov + target.iov_count]
        piece.iov_base = <void*>data
        piece.iov_len = size
        target.iov_count += 1
        self.iov_count += 1

    cdef char* add_copy(self, const void* data, size_t size) noexcept nogil:
        cdef char* copy = self.scratch + self.scratch_used
        if self.count == 0 or self.scratch_used + size > self.scratch_capacity or self.iov_count >= self.iov_capacity:
            self.overflow += 1
            return NULL
        if data != NULL and size > 0:
            memcpy(copy, data, size)
        self.scratch_used += size
        if size > 0:
            self.add_piece(copy, size)
        return copy

    cdef int add_ref(self, const void* data, size_t size) noexcept nogil:
        if self.count == 0 or self.iov_count >= self.iov_capacity:
            self.overflow += 1
            return -1
        if size > 0:
            self.add_piece(data, size)
        return 0

    cdef void put_header(self, char* out, const qframe* frame, uint32_t payload_crc) noexcept nogil:
        cdef qframe mine = frame[0]
        mine.cluster = self.cluster
        mine.sender = self.sender
        mine.sender_incarnation = self.incarnation
        pack_header(out, &mine, payload_crc)

    cdef int add_frame(self, const qaddr* addr, const qframe* frame, const void* payload) noexcept nogil:
        cdef char* header
        if self.open(addr, HEADER_SIZE + <size_t>frame.payload_length, 1) != 0:
            return -1
        header = self.add_copy(NULL, HEADER_SIZE)
        self.put_header(header, frame, crc32c_update(0, payload, frame.payload_length))
        self.add_copy(payload, frame.payload_length)
        return 0

    def frame(self, bytes addr not None, uint8_t kind, uint16_t flags, uint16_t receiver, uint64_t receiver_incarnation,
              uint64_t term, uint64_t index, uint64_t commit, uint32_t count, payload=b""):
        """Queues one frame, its payload copied. False (counted in `overflow`) when full or above the mtu."""
        cdef qaddr raw
        cdef qframe frame
        cdef Py_buffer view
        load_addr(addr, &raw)
        PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
        try:
            if <size_t>view.len > self.mtu:
                self.overflow += 1
                return False
            frame = qframe(kind, flags, 0, 0, 0, receiver, 0, receiver_incarnation, term, index, commit, count,
                           <uint32_t>view.len)
            return self.add_frame(&raw, &frame, view.buf) == 0
        finally:
            PyBuffer_Release(&view)

    def append_tail(self, int i, data):
        """Ends datagram `i` with `data` (its MAC), at most the tail room; nothing joins it, or those before, after."""
        cdef qdatagram* target = outbox_at(self, i)
        cdef Py_buffer view
        cdef iovec* piece
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if <size_t>view.len > self.tail_room or i < self.sealed:
                raise ValueError("tails go on in order, once, and fit the tail room")
            if self.tail_room == 0:
                return  # nothing to add, and no slot was kept for it
            piece = &self.iovs[target.first_iov + target.iov_count]
            piece.iov_base = self.scratch + self.scratch_used
            piece.iov_len = view.len
            memcpy(piece.iov_base, view.buf, view.len)
            self.scratch_used += view.len
            target.iov_count += 1
            target.total += <uint32_t>view.len
            self.sealed = i + 1
            if i == self.count - 1:
                self.iov_count += 1
        finally:
            PyBuffer_Release(&view)

    def datagram(self, int i):
        """The bytes of datagram `i`, joined."""
        cdef qdatagram* source = outbox_at(self, i)
        cdef bytes out = PyBytes_FromStringAndSize(NULL, source.total)
        cdef char* data = PyBytes_AS_STRING(out)
        cdef uint32_t j
        cdef iovec* piece
        for j in range(source.iov_count):
            piece = &self.iovs[source.first_iov + j]
            memcpy(data, piece.iov_base, piece.iov_len)
            data += piece.iov_len
        return out

    def addr(self, int i):
        return addr_bytes(&outbox_at(self, i).addr)

    def drain(self):
        """Every datagram joined, with its address; leaves the outbox empty."""
        out = [(self.datagram(i), self.addr(i)) for i in range(self.count) if self.datagrams[i].total > 0]
        self.clear()
        return out

    def clear(self):
        """Forgets every datagram; the memory it referred to is free again."""
        self.count = 0
        self.iov_count = 0
        self.scratch_used = 0
        self.sealed = 0


# ---------------------------------------------------------------- stage

cdef vector[qstaged]* class_checked(Stage stage, int which) except NULL:
    if not WRITES <= which <= OVERFLOW:
        raise IndexError("no such class of operations")
    return stage.by_class(which)


cdef inline void answer(const qstaged* op, Replies replies, uint8_t status, uint64_t revision, const void* body,
                        uint32_t body_length) noexcept nogil:
    cdef qentry entry
    if decode_entry(op.record, op.length, &entry) == 0:
        replies.add_record(&op.addr, status, entry.kind, entry.session_lo, entry.seq, revision, body, body_length)


cdef class Stage:
    """Client operations of one turn, checked and sorted by what must happen to them; they stay in their slab.

    `capacity` operations are taken; as many again are remembered to be refused with OVERLOADED; the rest is counted
    and left for the client to repeat.
    """

    def __cinit__(self, size_t capacity=65536):
        cdef int which
        self.capacity = capacity
        self.kept = []
        # All the room there will ever be (untouched pages cost nothing), so that push_back below cannot throw.
        for which in range(OVERFLOW + 1):
            self.by_class(which).reserve(capacity)
        self.others.reserve(MAX_OTHERS)

    cdef vector[qstaged]* by_class(self, int which) noexcept nogil:
        if which == WRITES:
            return &self.writes_
        if which == READS:
            return &self.reads_
        if which == STALE:
            return &self.stale_
        return &self.overflow_

    @property
    def writes(self):
        return self.writes_.size()

    @property
    def write_bytes(self):
        return self.write_bytes_

    def write_bytes_of(self, size_t count):
        """Bytes of the first `count` staged writes, or of all if there are fewer."""
        cdef size_t i
        cdef size_t total = 0
        if count >= self.writes_.size():
            return self.write_bytes_
        for i in range(count):
            total += self.writes_[i].length
        return total

    @property
    def reads(self):
        return self.reads_.size()

    @property
    def read_bytes(self):
        return self.read_bytes_

    @property
    def stale(self):
        return self.stale_.size()

    @property
    def refused(self):
        return self.overflow_.size()

    @property
    def writes_only_shrink(self):
        """Whether no staged write can make the store grow: closed sessions, deletes, compactions, revocations only."""
        cdef size_t i
        for i in range(self.writes_.size()):
            if not only_shrinks(&self.writes_[i]):
                return False
        return True

    def records(self, int which):
        """The staged records of a class with the address each came from, copied."""
        cdef vector[qstaged]* ops = class_checked(self, which)
        cdef size_t i
        cdef const qstaged* op
        cdef list found = []
        for i in range(ops.size()):
            op = &ops[0][i]
            found.append((addr_bytes(&op.addr), PyBytes_FromStringAndSize(<const char*>op.record, op.length)))
        return found

    cdef void take_records(self, const uint8_t* data, uint32_t count, const qaddr* addr,
                           uint64_t* drops) noexcept nogil:
        # The payload was found valid: `count` records that clients may send.
        cdef qentry entry
        cdef qstaged op
        cdef uint32_t _
        cdef vector[qstaged]* target
        op.addr = addr[0]
        for _ in range(count):
            if decode_entry(data, MAX_ENTRY_SIZE, &entry) != 0:
                return
            op.record = data
            op.length = entry.length
            data += entry.length
            if self.writes_.size() + self.reads_.size() + self.stale_.size() >= self.capacity:
                if self.overflow_.size() < self.capacity:
                    self.overflow_.push_back(op)
                else:
                    drops[DROP_OVERFLOW] += 1
                continue
            if entry.kind == ENTRY_READ or entry.kind == ENTRY_KEEP_ALIVE:
                target = &self.reads_
                self.read_bytes_ += op.length
            elif entry.kind == ENTRY_STALE_READ:
                target = &self.stale_
            else:
                target = &self.writes_
                self.write_bytes_ += op.length
            target.push_back(op)

    cdef void put_aside(self, int slot, qparsed* parsed, size_t payload_offset, uint64_t* drops) noexcept nogil:
        if self.others.size() == MAX_OTHERS:
            drops[DROP_OVERFLOW] += 1
            return
        parsed.slot = slot
        parsed.payload_offset = <uint32_t>payload_offset
        self.others.push_back(parsed[0])

    cdef void walk(self, Slab slab, uint64_t cluster, ReplayWindows replays, uint64_t now,
                   uint64_t* drops) noexcept nogil:
        cdef int slot
        cdef size_t offset, payload_offset
        cdef const uint8_t* data
        cdef qparsed parsed
        cdef bint numbered = self.incarnation != 0
        self.others.clear()
        for slot in range(slab.count):
            data = <const uint8_t*>slab.data + slot * slab.slot_bytes
            offset = 0
            while next_frame(data, slab.lengths[slot], &offset, &parsed.frame, &payload_offset, drops):
                if parsed.frame.kind != KIND_REQUEST:
                    self.put_aside(slot, &parsed, payload_offset, drops)
                elif parsed.frame.cluster != cluster:
                    drops[DROP_WRONG_CLUSTER] += 1
                elif not request_valid(data + payload_offset, parsed.frame.payload_length, parsed.frame.count):
                    drops[DROP_BAD_RECORD] += 1
                elif numbered and parsed.frame.index and parsed.frame.receiver_incarnation != self.incarnation:
                    self.put_aside(slot, &parsed, payload_offset, drops)
                elif (numbered and parsed.frame.index
                        and not replays.fresh(parsed.frame.sender_incarnation, parsed.frame.index, now)):
                    drops[DROP_REPLAYED] += 1
                else:
                    self.take_records(data + payload_offset, parsed.frame.count, &slab.addrs[slot], drops)

    def expect_numbers(self, ReplayWindows replays not None, uint64_t incarnation):
        """From now on a REQUEST frame with a number is taken once, and only if it is addressed to `incarnation`."""
        if not incarnation:
            raise ValueError("an incarnation is not 0")
        self.replays = replays
        self.incarnation = incarnation

    def collect(self, Slab slab not None, uint64_t cluster, Counters counters not None, uint64_t now=0):
        """Stages the records of every REQUEST frame for `cluster`; returns (slot, frame) of other valid frames.

        Among those are numbered requests for another incarnation, see expect_numbers; `now` is for its windows.
        All or nothing per frame. Of the others at most MAX_OTHER_FRAMES come back, the rest is counted as overflow. The
        slab must not be cleared before this stage is.
        """
        cdef size_t i
        cdef list others = []
        cdef ReplayWindows replays = self.replays
        with nogil:
            self.walk(slab, cluster, replays, now, counters.values)
        self.kept.append(slab)
        for i in range(self.others.size()):
            others.append((self.others[i].slot, make_frame(self.others[i].payload_offset, &self.others[i].frame)))
        return others

    def collect_payload(self, bytes payload not None, uint32_t count, bytes addr not None):
        """Stages the records of one reassembled REQUEST payload; False when it is not exactly `count` valid ones."""
        cdef qaddr raw
        cdef uint64_t ignored[DROP_REASONS]
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(payload)
        load_addr(addr, &raw)
        if not request_valid(data, PyBytes_GET_SIZE(payload), count):
            return False
        self.kept.append(payload)
        memset(ignored, 0, sizeof(ignored))
        self.take_records(data, count, &raw, ignored)
        return True

    def reject(self, int which, Replies replies not None, uint8_t status, uint64_t revision=0, bytes body not None=b"",
               size_t kept=0):
        """Answers the staged operations of class `which` after the first `kept` with `status`, and forgets them."""
        cdef vector[qstaged]* ops = class_checked(self, which)
        cdef const void* data = PyBytes_AS_STRING(body)
        cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(body)
        cdef size_t i
        cdef size_t gone = 0
        with nogil:
            for i in range(kept, ops.size()):
                answer(&ops[0][i], replies, status, revision, data, size)
                gone += ops[0][i].length
            while ops.size() > kept:
                ops.pop_back()
        if which == WRITES:
            self.write_bytes_ -= gone
        elif which == READS:
            self.read_bytes_ -= gone

    def filter_growing(self, Replies replies not None, uint8_t status, uint64_t revision=0, bytes body not None=b""):
        """Answers the staged writes that could make the store grow with `status`, keeps the others; how many it was."""
        cdef const void* data = PyBytes_AS_STRING(body)
        cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(body)
        cdef size_t before = self.writes_.size()
        cdef size_t i
        cdef size_t kept = 0
        with nogil:
            self.write_bytes_ = 0
            for i in range(before):
                if only_shrinks(&self.writes_[i]):
                    self.write_bytes_ += self.writes_[i].length
                    self.writes_[kept] = self.writes_[i]
                    kept += 1
                else:
                    answer(&self.writes_[i], replies, status, revision, data, size)
            while self.writes_.size() > kept:
                self.writes_.pop_back()
        return before - kept

    def clear(self):
        """Forgets every operation and lets go of the slabs and payloads they lie in."""
        cdef int which
        for which in range(OVERFLOW + 1):
            self.by_class(which).clear()
        self.write_bytes_ = 0
        self.read_bytes_ = 0
        self.kept.clear()


# ---------------------------------------------------------------- replies

cdef inline uint64_t addr_hash(const qaddr* addr) noexcept nogil:
    cdef uint64_t words[4]
    cdef uint64_t mixed
    memset(words, 0, sizeof(words))
    memcpy(words, addr.data, addr.length)
    mixed = words[0] * 0x9E3779B97F4A7C15ULL
    mixed = (mixed ^ (mixed >> 29) ^ words[1]) * 0xBF58476D1CE4E5B9ULL
    mixed = (mixed ^ (mixed >> 32) ^ words[2]) * 0x94D049BB133111EBULL
    mixed = (mixed ^ (mixed >> 29) ^ words[3] ^ addr.length) * 0x9E3779B97F4A7C15ULL
    return mixed ^ (mixed >> 32)


cdef inline uint32_t reply_length(Replies replies, size_t record) noexcept nogil:
    cdef uint32_t length
    memcpy(&length, replies.scratch + replies.offsets[record], sizeof(length))
    return length


cdef class Replies:
    """Reply records waiting to be packed into REPLY frames by address, in order for each address."""

    def __cinit__(self, size_t scratch_bytes=8 << 20, uint32_t mtu=65000):
        if mtu <= HEADER_SIZE or scratch_bytes < REPLY_HEADER_SIZE:
            raise ValueError("replies need room for a record")
        self.capacity = scratch_bytes
        self.mtu = mtu
        self.record_limit = scratch_bytes // REPLY_HEADER_SIZE
        self.table_mask = 2 * MAX_REPLY_ADDRS - 1
        self.scratch = <char*>malloc(scratch_bytes)
        self.table = <uint32_t*>calloc(2 * MAX_REPLY_ADDRS, sizeof(uint32_t))
        if self.scratch == NULL or self.table == NULL:
            raise MemoryError
        # As in Stage: all the room there will ever be, so that nothing below can throw.
        self.offsets.reserve(self.record_limit)
        self.owner.reserve(self.record_limit)
        self.order.reserve(self.record_limit)
        self.oversize.reserve(self.record_limit)
        self.addrs.reserve(MAX_REPLY_ADDRS)
        self.places.reserve(MAX_REPLY_ADDRS)
        self.begins.reserve(MAX_REPLY_ADDRS + 1)

    def __dealloc__(self):
        free(self.scratch)
        free(self.table)

    def __len__(self):
        return self.waiting

    cdef int64_t owner_of(self, const qaddr* addr) noexcept nogil:
        # Index of `addr` in addrs, added if new; -1 when there are too many.
        cdef uint32_t place
        if self.owner.size() > 0 and self.owner.back() != GONE and same_addr(&self.addrs[self.owner.back()], addr):
            return self.owner.back()
        place = <uint32_t>addr_hash(addr) & self.table_mask
        while self.table[place] != 0:
            if same_addr(&self.addrs[self.table[place] - 1], addr):
                return self.table[place] - 1
            place = (place + 1) & self.table_mask
        if self.addrs.size() == MAX_REPLY_ADDRS:
            return -1
        self.addrs.push_back(addr[0])
        self.places.push_back(place)
        self.table[place] = <uint32_t>self.addrs.size()
        return self.addrs.size() - 1

    cdef int add_record(self, const qaddr* addr, uint8_t status, uint8_t kind, uint64_t session_lo, uint64_t seq,
                        uint64_t revision, const void* body, uint32_t body_length) noexcept nogil:
        cdef qreply_packed header
        cdef size_t size = REPLY_HEADER_SIZE + <size_t>body_length
        cdef int64_t owner = -1
        if self.used + size <= self.capacity:
            owner = self.owner_of(addr)
        if owner < 0:
            self.overflow += 1
            return -1
        header.length = <uint32_t>size
        header.status = status
        header.kind = kind
        header.reserved = 0
        header.session_lo = session_lo
        header.seq = seq
        header.revision = revision
        memcpy(self.scratch + self.used, &header, REPLY_HEADER_SIZE)
        if body_length > 0:
            memcpy(self.scratch + self.used + REPLY_HEADER_SIZE, body, body_length)
        self.offsets.push_back(self.used)
        self.owner.push_back(<uint32_t>owner)
        self.used += size
        self.waiting += 1
        return 0

    def add(self, bytes addr not None, uint8_t status, uint8_t kind, uint64_t session_lo, uint64_t seq,
            uint64_t revision, bytes body not None=b""):
        """Queues one reply record; False (counted in `overflow`) when full."""
        cdef qaddr raw
        load_addr(addr, &raw)
        return self.add_record(&raw, status, kind, session_lo, seq, revision, PyBytes_AS_STRING(body),
                               <uint32_t>PyBytes_GET_SIZE(body)) == 0

    cdef void group(self) noexcept nogil:
        # Counting sort of the waiting records by owner; begins[a]..begins[a + 1] of `order` are those of address a.
        cdef size_t i
        cdef uint32_t total = 0
        cdef uint32_t amount
        self.begins.assign(self.addrs.size() + 1, 0)
        for i in range(self.owner.size()):
            if self.owner[i] != GONE:
                self.begins[self.owner[i]] += 1
        for i in range(self.addrs.size()):
            amount = self.begins[i]
            self.begins[i] = total
            total += amount
        self.order.resize(total)
        for i in range(self.owner.size()):
            if self.owner[i] != GONE:
                self.order[self.begins[self.owner[i]]] = <uint32_t>i
                self.begins[self.owner[i]] += 1
        # Each begin has moved to its own end, which is the next one's begin.
        for i in range(self.addrs.size(), 0, -1):
            self.begins[i] = self.begins[i - 1]
        self.begins[0] = 0

    cdef void pack_frame(self, Outbox outbox, uint16_t receiver, const qaddr* addr, size_t first, size_t end,
                         size_t size) noexcept nogil:
        # One REPLY frame of order[first:end], `size` bytes of records; the outbox has the room.
        cdef qframe frame
        cdef size_t i, record
        cdef char* header
        cdef uint32_t length
        if outbox.open(addr, HEADER_SIZE + size, 1) != 0:
            return
        header = outbox.add_copy(NULL, HEADER_SIZE)
        for i in range(first, end):
            record = self.order[i]
            length = reply_length(self, record)
            outbox.add_copy(self.scratch + self.offsets[record], length)
            self.owner[record] = GONE
        self.waiting -= end - first
        memset(&frame, 0, sizeof(frame))
        frame.kind = KIND_REPLY
        frame.receiver = receiver
        frame.count = <uint32_t>(end - first)
        frame.payload_length = <uint32_t>size
        outbox.put_header(header, &frame, crc32c_update(0, header + HEADER_SIZE, size))

    cdef bint pack(self, Outbox outbox, uint16_t receiver) noexcept nogil:
        # False when the outbox filled up first; the records not packed keep waiting.
        cdef size_t limit = min(self.mtu, outbox.mtu) - HEADER_SIZE
        cdef size_t a, first, end, size
        cdef uint32_t length
        limit = limit - outbox.tail_room if limit > outbox.tail_room else 0
        self.group()
        for a in range(self.addrs.size()):
            first = self.begins[a]
            while first < self.begins[a + 1]:
                end = first
                size = 0
                while end < self.begins[a + 1]:
                    length = reply_length(self, self.order[end])
                    if size + length > limit:
                        break
                    size += length
                    end += 1
                if end == first:
                    self.oversize.push_back(self.order[first])
                    first += 1
                    continue
                if not outbox.has_room(&self.addrs[a], HEADER_SIZE + size, 1):
                    return False
                self.pack_frame(outbox, receiver, &self.addrs[a], first, end, size)
                first = end
        return True

    cdef void forget(self) noexcept nogil:
        cdef size_t i
        for i in range(self.places.size()):
            self.table[self.places[i]] = 0
        self.places.clear()
        self.addrs.clear()
        self.offsets.clear()
        self.owner.clear()
        self.used = 0
        self.waiting = 0

    def flush(self, Outbox outbox not None, uint16_t receiver=0):
        """Packs what waits into REPLY frames; returns (address, record) of each record too large for a datagram.

        When the outbox fills up, the rest keeps waiting (len() > 0): send the outbox and flush again.
        """
        cdef size_t i, record
        cdef list too_large = []
        cdef bint all_packed
        if self.waiting == 0:
            return too_large
        self.oversize.clear()
        with nogil:
            all_packed = self.pack(outbox, receiver)
        for i in range(self.oversize.size()):
            record = self.oversize[i]
            too_large.append((
                addr_bytes(&self.addrs[self.owner[record]]),
                PyBytes_FromStringAndSize(self.scratch + self.offsets[record], reply_length(self, record)),
            ))
            self.owner[record] = GONE
            self.waiting -= 1
        if all_packed:
            self.forget()
        return too_large

    def clear(self):
        """Forgets every reply that waits."""
        self.forget()
