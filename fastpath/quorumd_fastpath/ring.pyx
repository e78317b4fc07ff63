"""The log ring: the newest entries of the log, as the very bytes that arrived and that go to disk and peers.

Entries lie back to back in a circle of memory, in index order; one that does not fit before the end of the memory
starts at its beginning, so an entry never wraps and a range of entries is at most two pieces of memory. Positions are
monotonic 64-bit byte counts; a position's place in memory follows from `wrap`, the position at which the memory last
began anew, because the live ones all lie within one capacity of the newest.

Eviction takes the oldest entries, never one at or above `pin`. Appending supersedes: an append at an index that the
ring holds drops that entry and all after it first, whether pinned or not.

Pending and ReadQueue, who waits for which index or read point, live here too: they are filled from the same staged
operations and by the same calls. That makes this file longer than most.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

from quorumd_fastpath.crc cimport crc32c_update
from quorumd_fastpath.wire cimport (
    ENTRY_HEADER_SIZE,
    ENTRY_NOOP,
    HEADER_SIZE,
    MAX_ENTRY_SIZE,
    Outbox,
    Replies,
    Slab,
    Stage,
    decode_entry,
    encode_entry_header,
    iovec,
    load_addr,
    logged,
    qaddr,
    qentry,
    qframe,
    qstaged,
)

cdef enum:
    RUN_BODY = 24                  # prev_term, entries_term, round
    READ_BYTES_KEPT = 1 << 20      # memory an emptied read queue holds on to

cdef uint64_t INDEX_LIMIT = <uint64_t>1 << 62

RUN_BODY_BYTES = RUN_BODY


cdef inline uint32_t entry_length(const uint8_t* entry) noexcept nogil:
    cdef uint32_t length
    memcpy(&length, entry, 4)
    return length


cdef uint64_t power_of_two(object wanted, object most) except 0:
    if not 1 <= wanted <= most:
        raise ValueError(f"a capacity of {wanted} is not within 1..{most}")
    return 1 << (wanted - 1).bit_length()


# Bytes of `count` records at the start of `data`, or 0 if they are not whole.
cdef size_t packed_size(const uint8_t* data, size_t size, uint64_t count) noexcept nogil:
    cdef size_t offset = 0
    cdef uint32_t length
    while count > 0:
        if size - offset < ENTRY_HEADER_SIZE:
            return 0
        length = entry_length(data + offset)
        if not ENTRY_HEADER_SIZE <= length <= MAX_ENTRY_SIZE or length > size - offset:
            return 0
        offset += length
        count -= 1
    return offset


def check_entries(data, size_t offset, size_t length, uint64_t count):
    """Whether data[offset : offset + length] is exactly `count` well-formed entries of kinds that a log may hold.

    For what peers send, before the engine sees it. False too when the range is not within `data`.
    """
    cdef Py_buffer view
    cdef qentry entry
    cdef const uint8_t* at
    cdef bint good
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    good = offset <= <size_t>view.len and length <= <size_t>view.len - offset
    if good:
        at = <const uint8_t*>view.buf + offset
        while good and count > 0:
            good = decode_entry(at, length, &entry) == 0 and logged(entry.kind)
            if good:
                at += entry.length
                length -= entry.length
                count -= 1
    PyBuffer_Release(&view)
    return good and length == 0


cdef class Ring:
    """A contiguous range first..last of entries; empty when first == last + 1.

    The memory costs nothing until it is written. The append methods are all or nothing: False, and nothing changed,
    when the entries do not fit without evicting one at or above `pin`. ValueError for an index that leaves a gap
    (above last + 1) or for bytes that are not entries; an index at or below `last` supersedes what was there and
    after, one below `first` starts the ring anew at that index.
    """

    def __cinit__(self, object capacity_bytes, object capacity_entries):
        if not ENTRY_HEADER_SIZE <= capacity_bytes <= 1 << 40:
            raise ValueError(f"a ring of {capacity_bytes} bytes")
        self.capacity_bytes = capacity_bytes
        self.capacity_entries = power_of_two(capacity_entries, 1 << 32)
        self.mask = self.capacity_entries - 1
        self.data = <char*>calloc(1, self.capacity_bytes)
        self.positions = <uint64_t*>calloc(self.capacity_entries, sizeof(uint64_t))
        self.lengths = <uint32_t*>calloc(self.capacity_entries, sizeof(uint32_t))
        if self.data == NULL or self.positions == NULL or self.lengths == NULL:
            raise MemoryError
        self.reset(1)

    def __dealloc__(self):
        free(self.data)
        free(self.positions)
        free(self.lengths)

    def reset(self, uint64_t next_index):
        """Empties the ring; the next entry has index `next_index`, which is pinned with all that follow."""
        if not 0 < next_index < INDEX_LIMIT:
            raise ValueError(f"index {next_index}")
        self.first_ = next_index
        self.last_ = next_index - 1
        self.pin_ = next_index
        self.head = self.tail = self.wrap = self.gap = 0

    @property
    def first(self):
        """Index of the oldest entry held."""
        return self.first_

    @property
    def last(self):
        """Index of the newest entry held; first - 1 when empty."""
        return self.last_

    @property
    def pin(self):
        """The lowest index that must stay: raise it as entries become durable and applied.

        Superseding entries lowers it to the first index that was superseded.
        """
        return self.pin_

    @pin.setter
    def pin(self, uint64_t index):
        self.pin_ = index

    # -- geometry --------------------------------------------------------------------------------------------------

    cdef bint holds(self, uint64_t first, uint64_t last) noexcept nogil:
        return self.first_ <= first <= last <= self.last_

    # Live positions lie in [wrap - capacity, wrap + capacity]: see the head of this file.
    cdef size_t offset_of(self, uint64_t position) noexcept nogil:
        if position >= self.wrap:
            return position - self.wrap
        return position + self.capacity_bytes - self.wrap

    # Bytes of the entries first..last, exactly: the gap before `wrap` is not counted.
    cdef uint64_t span(self, uint64_t first, uint64_t last) noexcept nogil:
        cdef uint64_t begin = self.positions[first & self.mask]
        cdef uint64_t at = self.positions[last & self.mask]
        cdef uint64_t size = at + self.lengths[last & self.mask] - begin
        return size - self.gap if begin < self.wrap <= at else size

    # The last of the longest prefix of first..last within max_bytes; at least `first`.
    cdef uint64_t longest(self, uint64_t first, uint64_t last, uint64_t max_bytes) noexcept nogil:
        cdef uint64_t low = first
        cdef uint64_t high = last
        cdef uint64_t middle
        while low < high:
            middle = low + (high - low + 1) // 2
            if self.span(first, middle) <= max_bytes:
                low = middle
            else:
                high = middle - 1
        return low

    cdef int locate(self, uint64_t index, const uint8_t** entry, uint32_t* length) noexcept nogil:
        if not self.holds(index, index):
            return -1
        entry[0] = <const uint8_t*>self.data + self.offset_of(self.positions[index & self.mask])
        length[0] = self.lengths[index & self.mask]
        return 0

    cdef int gather(self, uint64_t first, uint64_t last, iovec* out, int limit) noexcept nogil:
        if not self.holds(first, last) or limit < 1:
            return -1
        cdef uint64_t begin = self.positions[first & self.mask]
        cdef uint64_t at = self.positions[last & self.mask]
        cdef uint64_t end = at + self.lengths[last & self.mask]
        out[0].iov_base = self.data + self.offset_of(begin)
        if not begin < self.wrap <= at:
            out[0].iov_len = end - begin
            return 1
        if limit < 2:
            return -1
        out[0].iov_len = self.wrap - self.gap - begin
        out[1].iov_base = self.data
        out[1].iov_len = end - self.wrap
        return 2

    # -- appending ---------------------------------------------------------------------------------------------------

    # Where an append at `index` would start: right after the entry before it, or where the oldest was.
    cdef int cursor_at(self, uint64_t index, qcursor* out) except -1:
        if not 0 < index <= self.last_ + 1:
            raise ValueError(f"index {index} does not follow {self.last_}")
        if index > self.last_:
            out.position = self.head
        elif index > self.first_:
            out.position = self.positions[(index - 1) & self.mask] + self.lengths[(index - 1) & self.mask]
        else:
            out.position = self.tail
        out.offset = self.offset_of(out.position)
        return 0

    # Moves the cursor to where an entry of `length` goes; whether that is a new begin of the memory.
    cdef bint place(self, qcursor* cursor, uint32_t length) noexcept nogil:
        if cursor.offset + length <= self.capacity_bytes:
            return False
        cursor.position += self.capacity_bytes - cursor.offset
        cursor.offset = 0
        return True

    # True, and the ring is ready for `count` entries at positions start..end from first_index on: what they supersede
    # is dropped and the oldest entries evicted as far as needed. False, and nothing changed, if a pinned one would be.
    cdef bint admit(self, uint64_t first_index, uint64_t count, uint64_t start, uint64_t end) noexcept nogil:
        cdef uint64_t lowest = max(self.first_, min(self.pin_, first_index))
        cdef uint64_t begin = start
        if lowest < first_index:
            begin = self.positions[lowest & self.mask]
        else:
            lowest = first_index
        if end - begin > self.capacity_bytes or first_index + count - lowest > self.capacity_entries:
            return False
        self.first_ = min(self.first_, first_index)
        self.pin_ = min(self.pin_, first_index)
        while self.first_ < first_index and (end - self.positions[self.first_ & self.mask] > self.capacity_bytes
                                             or first_index + count - self.first_ > self.capacity_entries):
            self.first_ += 1
        self.tail = self.positions[self.first_ & self.mask] if self.first_ < first_index else start
        self.last_ = first_index - 1
        if start < self.wrap:  # nothing that is left lies behind it: the end of the memory is used again
            self.gap = 0
        return True

    # After admit() and place(): the entry at the cursor is the ring's newest.
    cdef void register(self, uint64_t index, qcursor* cursor, uint32_t length) noexcept nogil:
        self.positions[index & self.mask] = cursor.position
        self.lengths[index & self.mask] = length
        cursor.position += length
        cursor.offset += length
        self.last_ = index
        self.head = cursor.position

    cdef int take_packed(self, const uint8_t* data, size_t size, uint64_t first_index, uint64_t count,
                         uint64_t skip) except -1:
        cdef qcursor cursor
        cdef uint64_t start = 0
        cdef uint64_t i
        cdef uint32_t length
        cdef size_t skipped = packed_size(data, size, skip)
        cdef size_t used = packed_size(data + skipped, size - skipped, count)
        if count == 0 or used == 0 or (skip > 0 and skipped == 0) or first_index >= INDEX_LIMIT:
            raise ValueError(f"{size} bytes are not {skip} + {count} entries at {first_index}")
        data += skipped
        self.cursor_at(first_index, &cursor)
        cdef qcursor begin = cursor
        cdef size_t at = 0
        for i in range(count):
            length = entry_length(data + at)
            self.place(&cursor, length)
            if i == 0:
                start = cursor.position
            cursor.position += length
            cursor.offset += length
            at += length
        if not self.admit(first_index, count, start, cursor.position):
            return 0
        cursor = begin
        at = 0
        cdef size_t copied = 0
        cdef char* out = self.data + cursor.offset
        for i in range(count):
            length = entry_length(data + at)
            begin = cursor
            if self.place(&cursor, length):
                memcpy(out, data + copied, at - copied)
                copied = at
                out = self.data
                self.wrap = cursor.position
                self.gap = cursor.position - begin.position
            self.register(first_index + i, &cursor, length)
            at += length
        memcpy(out, data + copied, at - copied)
        return 1

    def append(self, data, uint64_t first_index, uint64_t count, uint64_t skip=0):
        """Copies `count` entries packed in `data`, after leaving out the first `skip`; the first gets `first_index`.

        Bytes after them are ignored.
        """
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return bool(self.take_packed(<const uint8_t*>view.buf, <size_t>view.len, first_index, count, skip))
        finally:
            PyBuffer_Release(&view)

    def append_slab(self, Slab slab not None, int slot, size_t offset, size_t length, uint64_t first_index,
                    uint64_t count, uint64_t skip=0):
        """append() from bytes offset .. offset + length of a slab's datagram. IndexError if they are not in it."""
        if not 0 <= slot < slab.count or offset > slab.lengths[slot] or length > slab.lengths[slot] - offset:
            raise IndexError("not within a datagram of the slab")
        cdef const uint8_t* data = <const uint8_t*>slab.data + slot * slab.slot_bytes + offset
        return bool(self.take_packed(data, length, first_index, count, skip))

    def append_staged(self, Stage stage not None, uint64_t first_index, Pending pending=None):
        """Copies the stage's writes in order; the address of each waits in `pending` for the answer."""
        cdef qcursor cursor
        cdef qcursor before
        cdef uint64_t start = 0
        cdef uint64_t i
        cdef uint64_t count = stage.writes_.size()
        cdef const qstaged* op
        if count == 0 or first_index >= INDEX_LIMIT:
            raise ValueError(f"{count} staged writes at {first_index}")
        self.cursor_at(first_index, &cursor)
        cdef qcursor begin = cursor
        with nogil:
            for i in range(count):
                op = &stage.writes_[i]
                self.place(&cursor, op.length)
                if i == 0:
                    start = cursor.position
                cursor.position += op.length
                cursor.offset += op.length
            if not self.admit(first_index, count, start, cursor.position):
                with gil:
                    return False
            cursor = begin
            for i in range(count):
                op = &stage.writes_[i]
                before = cursor
                if self.place(&cursor, op.length):
                    self.wrap = cursor.position
                    self.gap = cursor.position - before.position
                memcpy(self.data + cursor.offset, op.record, op.length)
                self.register(first_index + i, &cursor, op.length)
                if pending is not None:
                    pending.put(first_index + i, &op.addr)
        return True

    def append_noop(self, uint64_t index):
        """The empty entry of a new leader."""
        cdef uint8_t record[ENTRY_HEADER_SIZE]
        encode_entry_header(record, ENTRY_HEADER_SIZE, ENTRY_NOOP, 0, 0, 0, 0)
        return bool(self.take_packed(record, ENTRY_HEADER_SIZE, index, 1, 0))

    def append_record(self, uint64_t index, uint8_t kind, bytes session not None, uint64_t seq, uint64_t leadership=0):
        """An entry without a command, made on this node: kind, session id (16 bytes), seq (an expiry's generation).

        An EXPIRE_LEASE has 8 zeros and the lease for a session; a COMPACT 16 zeros, and the revision as seq;
        RULES 8 zeros, the version of the rules, and the quota as seq. leadership: of an expiry, the index of the NOOP
        with which its leader began; it is void behind another.
        """
        cdef uint8_t record[ENTRY_HEADER_SIZE]
        cdef uint64_t halves[2]
        if len(session) != 16 or not logged(kind):
            raise ValueError("a session id has 16 bytes, and a log only kinds that are logged")
        memcpy(halves, PyBytes_AS_STRING(session), 16)
        encode_entry_header(record, ENTRY_HEADER_SIZE, kind, halves[0], halves[1], seq, leadership)
        return bool(self.take_packed(record, ENTRY_HEADER_SIZE, index, 1, 0))

    def truncate(self, uint64_t last):
        """Drops every entry after `last`, pinned or not; below `first` that empties the ring (reset to last + 1)."""
        cdef qcursor cursor
        if last >= self.last_:
            return
        if last + 1 < self.first_:
            self.reset(last + 1)
            return
        self.cursor_at(last + 1, &cursor)
        self.head = cursor.position
        self.last_ = last
        self.pin_ = min(self.pin_, last + 1)

    def room(self, uint64_t size_bytes, uint64_t entries):
        """Whether `entries` more entries of that size together surely fit (after evicting what is not pinned)."""
        cdef uint64_t lowest = max(self.first_, min(self.pin_, self.last_ + 1))
        cdef uint64_t begin = self.positions[lowest & self.mask] if lowest <= self.last_ else self.head
        cdef uint64_t needed = size_bytes
        if entries == 0:
            return True
        if entries > self.capacity_entries or size_bytes > self.capacity_bytes:
            return False
        if size_bytes < entries * ENTRY_HEADER_SIZE:
            return False
        if self.offset_of(self.head) + size_bytes > self.capacity_bytes:
            # The entry at the end of the memory may leave a gap of up to its own size.
            needed += min(<uint64_t>MAX_ENTRY_SIZE, size_bytes - (entries - 1) * ENTRY_HEADER_SIZE)
        return (self.head + needed - begin <= self.capacity_bytes
                and self.last_ + 1 + entries - lowest <= self.capacity_entries)

    # -- reading -----------------------------------------------------------------------------------------------------

    def size_bytes(self, uint64_t first, uint64_t last):
        """Bytes of entries first..last, exactly. LookupError unless the ring holds them all."""
        if not self.holds(first, last):
            raise LookupError(f"the ring holds {self.first_}..{self.last_}, not {first}..{last}")
        return self.span(first, last)

    def fit(self, uint64_t first, uint64_t last, uint64_t max_bytes):
        """(upto, size): the longest prefix of first..last within max_bytes and what the ring holds; at least one entry.

        Exact, in O(log n). LookupError if the ring does not hold `first`.
        """
        last = min(last, self.last_)
        if not self.holds(first, last):
            raise LookupError(f"the ring holds {self.first_}..{self.last_}, not {first}")
        cdef uint64_t upto = self.longest(first, last, max_bytes)
        return upto, self.span(first, upto)

    def copy(self, uint64_t first, uint64_t last):
        """The entries first..last, packed. LookupError unless the ring holds them all."""
        cdef iovec pieces[2]
        cdef int count = self.gather(first, last, pieces, 2)
        if count < 0:
            raise LookupError(f"the ring holds {self.first_}..{self.last_}, not {first}..{last}")
        out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>self.span(first, last))
        memcpy(PyBytes_AS_STRING(out), pieces[0].iov_base, pieces[0].iov_len)
        if count == 2:
            memcpy(PyBytes_AS_STRING(out) + pieces[0].iov_len, pieces[1].iov_base, pieces[1].iov_len)
        return out

    # One frame of a run: header and body copied, entries by reference. False, counted by the outbox, when it is full.
    cdef bint send_frame(self, Outbox outbox, const qaddr* addr, const qframe* frame, const uint64_t* body,
                         uint64_t first, uint64_t last) noexcept nogil:
        cdef iovec pieces[2]
        cdef int count = self.gather(first, last, pieces, 2)
        cdef uint32_t crc = crc32c_update(0, body, RUN_BODY)
        cdef char* header
        cdef int i
        if outbox.open(addr, HEADER_SIZE + <size_t>frame.payload_length, count + 1) != 0:
            return False
        for i in range(count):
            crc = crc32c_update(crc, pieces[i].iov_base, pieces[i].iov_len)
        header = outbox.add_copy(NULL, HEADER_SIZE)
        outbox.put_header(header, frame, crc)
        outbox.add_copy(body, RUN_BODY)
        for i in range(count):
            outbox.add_ref(pieces[i].iov_base, pieces[i].iov_len)
        return True

    def send_run(self, Outbox outbox not None, bytes addr not None, uint8_t kind, uint16_t flags, uint16_t receiver,
                 uint64_t receiver_incarnation, uint64_t term, uint64_t prev_index, uint64_t commit,
                 uint64_t prev_term, uint64_t entries_term, uint64_t round_, uint64_t first, uint64_t last):
        """Queues entries first..last (one term's) as frames that each fit a datagram; the last index queued.

        Payload: prev_term, entries_term, round_ (u64 each), then the entries; each next frame's index and prev_term
        are the last entry's of the frame before. Stops, returning the index before it, at an entry too large for a
        datagram of its own (to be sent in fragments) and when the outbox is full.

        Entries are queued by reference: send or clear the outbox before anything is appended that may evict or
        supersede them. LookupError unless the ring holds first..last; ValueError unless prev_index is first - 1.
        """
        if prev_index != first - 1:
            raise ValueError(f"entries from {first} on do not follow {prev_index}")
        if not self.holds(first, last):
            raise LookupError(f"the ring holds {self.first_}..{self.last_}, not {first}..{last}")
        cdef qaddr raw
        load_addr(addr, &raw)
        cdef uint64_t body[3]
        cdef qframe frame
        cdef uint64_t upto
        cdef uint64_t size
        cdef uint64_t overhead = HEADER_SIZE + RUN_BODY + outbox.tail_room
        cdef uint64_t limit = outbox.mtu - overhead if outbox.mtu > overhead else 0
        memset(&frame, 0, sizeof(frame))
        frame.kind = kind
        frame.flags = flags
        frame.receiver = receiver
        frame.receiver_incarnation = receiver_incarnation
        frame.term = term
        frame.commit = commit
        body[0] = prev_term
        body[1] = entries_term
        body[2] = round_
        with nogil:
            while first <= last:
                upto = self.longest(first, last, limit)
                size = self.span(first, upto)
                if size > limit:
                    break
                frame.index = first - 1
                frame.count = <uint32_t>(upto - first + 1)
                frame.payload_length = <uint32_t>(RUN_BODY + size)
                if not self.send_frame(outbox, &raw, &frame, body, first, upto):
                    break
                body[0] = entries_term
                first = upto + 1
        return first - 1


cdef class Pending:
    """Which client waits for which index: one address an index, `capacity` (a power of two) indexes at a time.

    An index that is `capacity` or more above one still waiting takes its slot: that client hears nothing, and repeats.
    """

    def __cinit__(self, object capacity=65536):
        self.capacity = power_of_two(capacity, 1 << 24)
        self.mask = self.capacity - 1
        self.addrs = <qaddr*>calloc(self.capacity, sizeof(qaddr))
        self.indexes = <uint64_t*>calloc(self.capacity, sizeof(uint64_t))
        if self.addrs == NULL or self.indexes == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.addrs)
        free(self.indexes)

    def __len__(self):
        return <Py_ssize_t>self.count

    cdef void put(self, uint64_t index, const qaddr* addr) noexcept nogil:
        cdef uint64_t slot = index & self.mask
        if self.indexes[slot] == 0:
            self.count += 1
        self.indexes[slot] = index
        self.addrs[slot] = addr[0]

    cdef int take(self, uint64_t index, qaddr* out) noexcept nogil:
        cdef uint64_t slot = index & self.mask
        if self.indexes[slot] != index or index == 0:
            return -1
        out[0] = self.addrs[slot]
        self.indexes[slot] = 0
        self.count -= 1
        return 0

    def add(self, uint64_t index, bytes addr not None):
        """`addr` waits for `index` (from 1 on)."""
        cdef qaddr raw
        load_addr(addr, &raw)
        if index == 0:
            raise ValueError("there is no entry 0")
        self.put(index, &raw)

    def pop(self, uint64_t index):
        """The address that waits for `index`, which then no longer does; None if there is none."""
        cdef qaddr raw
        if self.take(index, &raw) != 0:
            return None
        return PyBytes_FromStringAndSize(<const char*>raw.data, raw.length)

    def drop(self, uint64_t first, object last=None):
        """Forgets everyone who waits for first..last, or for `first` and all after it: whether those will happen is
        not known here."""
        cdef uint64_t upto = UINT64_MAX if last is None else last
        cdef uint64_t slot
        if self.count == 0:
            return
        for slot in range(self.capacity):
            if first <= self.indexes[slot] <= upto and self.indexes[slot] != 0:
                self.indexes[slot] = 0
                self.count -= 1

    def clear(self):
        """Forgets everyone."""
        self.drop(0)


cdef class ReadQueue:
    """Reads that wait for their read point: copies of the client records, grouped by read id.

    `limit_bytes` bounds the records held together. Ids ascend, so the reads of one stand together and are found by
    halving; the others are looked at only when they move down.
    """

    def __cinit__(self, size_t limit_bytes):
        self.limit_bytes = limit_bytes

    def __len__(self):
        """Reads waiting."""
        return <Py_ssize_t>self.live_reads

    @property
    def size_bytes(self):
        """Bytes of the records waiting."""
        return self.live_bytes

    def enqueue(self, Stage stage not None, uint64_t read_id, bint stale=False):
        """Copies the stage's reads, linearizable or stale, under `read_id`; False, and none taken, above the limit.

        ValueError: a higher id waits already."""
        cdef size_t wanted = 0
        cdef size_t i
        cdef size_t offset = self.bytes_.size()
        cdef const qstaged* op
        cdef qread read
        cdef vector[qstaged]* staged = &stage.stale_ if stale else &stage.reads_
        if self.reads.size() != 0 and self.reads.back().read_id > read_id:
            raise ValueError("read ids ascend")
        for i in range(staged.size()):
            wanted += staged[0][i].length
        if wanted > self.limit_bytes or self.live_bytes > self.limit_bytes - wanted:
            return False
        self.bytes_.resize(offset + wanted)
        for i in range(staged.size()):
            op = &staged[0][i]
            memcpy(self.bytes_.data() + offset, op.record, op.length)
            read.read_id = read_id
            read.addr = op.addr
            read.offset = offset
            read.length = op.length
            self.reads.push_back(read)
            offset += op.length
        self.live_bytes += wanted
        self.live_reads += staged.size()
        return True

    cdef size_t find(self, uint64_t read_id) noexcept nogil:
        cdef size_t middle, low = 0, high = self.reads.size()
        while low < high:
            middle = (low + high) // 2
            if self.reads[middle].read_id < read_id:
                low = middle + 1
            else:
                high = middle
        return low

    cdef void remove(self, uint64_t read_id) noexcept nogil:
        cdef size_t i, kept = 0, at = 0
        cdef qread* read
        for i in range(self.find(read_id), self.find(read_id + 1)):
            self.forget(&self.reads[i])
        # What is gone is squeezed out once it is the larger part; offsets ascend, so everything moves down.
        if self.bytes_.size() <= 2 * self.live_bytes:
            return
        for i in range(self.reads.size()):
            read = &self.reads[i]
            if read.length != 0:
                memmove(self.bytes_.data() + at, self.bytes_.data() + read.offset, read.length)
                read.offset = at
                at += read.length
                self.reads[kept] = read[0]
                kept += 1
        self.reads.resize(kept)
        self.bytes_.resize(at)
        if at == 0 and self.bytes_.capacity() > READ_BYTES_KEPT:
            self.bytes_.shrink_to_fit()

    def discard(self, uint64_t read_id):
        """Forgets the reads of `read_id`: answered, or their clients will repeat them."""
        self.remove(read_id)

    def reject(self, uint64_t read_id, Replies replies not None, uint8_t status, bytes body not None=b""):
        """Answers every read of `read_id` with `status` and `body`, revision 0, and forgets them."""
        cdef size_t i
        cdef const qread* read
        cdef qentry entry
        for i in range(self.find(read_id), self.find(read_id + 1)):
            read = &self.reads[i]
            if decode_entry(self.bytes_.data() + read.offset, read.length, &entry) == 0:  # else it is gone
                replies.add_record(&read.addr, status, entry.kind, entry.session_lo, entry.seq, 0,
                                   PyBytes_AS_STRING(body), <uint32_t>len(body))
        self.remove(read_id)
