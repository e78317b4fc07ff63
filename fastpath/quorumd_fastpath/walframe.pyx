"""WAL framing in memory, format version 2. Pure: no system call, no clock; the simulator runs these very bytes.

A segment is a file of `segment_bytes` that starts with a 512-byte header. Then come batches, the unit of group commit,
each at a 512-byte boundary: a 64-byte header, records of a 40-byte header and their payload, zeros up to the next
boundary. Layouts are in wal_layout.h; version 1, which is read too, has neither ACCEPT nor REACCEPT records. What makes
a batch believable:

* its header's CRC is seeded by the segment's seed (header CRC and random nonce), so nothing that a recycled file held
  before can pass, and it names its own position, so nothing misplaced can;
* a running chain goes from the seed through every batch header and record header, so nothing can pass that was
  written after something else than what precedes it now;
* record headers carry their payload's CRC.

scan() takes batches whole: a batch with one bad record contributes nothing, because the next batch will be written
over it. Whether a stop is the log's end, a torn write or corruption is for storage to decide, by highest_synced().

Longer than most files here because the two sides of one format, writing and reading, are best read together.
"""

from collections import namedtuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset
from libcpp.vector cimport vector

from quorumd_fastpath.crc cimport crc32c_update
from quorumd_fastpath.ring cimport Ring
from quorumd_fastpath.wire cimport ENTRY_HEADER_SIZE, MAX_ENTRY_SIZE, iovec

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void** out, size_t alignment, size_t size)

cdef enum:
    SECTOR = 512
    BATCH_HEADER = 64
    RECORD_HEADER = 40
    ALIGNMENT = 4096
    MAGIC = 0x54414251  # "QBAT"
    VERSION = 2
    OLDEST = 1
    KIND_HARD_STATE = 1
    KIND_APPEND = 2
    KIND_TRUNCATE = 3
    KIND_ACCEPT = 4
    KIND_REACCEPT = 5

cdef enum Stop:
    STOP_NONE
    STOP_END
    STOP_BAD_HEADER
    STOP_OVERRUN
    STOP_BAD_CHAIN
    STOP_BAD_RECORD
    STOP_BAD_PAYLOAD

SECTOR_BYTES = SECTOR
BATCH_HEADER_BYTES = BATCH_HEADER
RECORD_HEADER_BYTES = RECORD_HEADER
FORMAT_VERSION = VERSION
OLDEST_VERSION = OLDEST
HARD_STATE = KIND_HARD_STATE
APPEND = KIND_APPEND
TRUNCATE = KIND_TRUNCATE
ACCEPT = KIND_ACCEPT
REACCEPT = KIND_REACCEPT

cdef tuple STOP_NAMES = (None, "end", "bad_header", "overrun", "bad_chain", "bad_record", "bad_payload")

SegmentHeader = namedtuple(
    "SegmentHeader",
    "number segment_bytes nonce cluster node term vote first_index commit prev_chain seed",
    module=__name__,
)
ScanResult = namedtuple(
    "ScanResult", "records end_offset end_chain commit synced_to seq batches stop stop_offset stop_index",
    module=__name__,
)


# Whether records of this kind carry entries.
cdef inline bint has_entries(uint8_t kind) noexcept nogil:
    return kind == KIND_APPEND or kind == KIND_ACCEPT


# Whether they speak of entries index .. index + count - 1.
cdef inline bint has_range(uint8_t kind) noexcept nogil:
    return has_entries(kind) or kind == KIND_REACCEPT


cdef inline size_t padded(size_t size) noexcept nogil:
    return (size + SECTOR - 1) & ~<size_t>(SECTOR - 1)


cdef inline uint32_t batch_crc(qwal_batch_packed header, uint32_t seed) noexcept nogil:
    header.crc = 0
    return crc32c_update(seed, &header, BATCH_HEADER)


cdef inline uint32_t record_crc(qwal_record_packed header, uint32_t chain) noexcept nogil:
    header.crc = 0
    return crc32c_update(chain, &header, RECORD_HEADER)


# -- writing ------------------------------------------------------------------------------------------------------

cdef class Batch:
    """One group commit being framed; reusable: begin() resets it.

    Memory starts at `initial_bytes` and doubles up to `limit_bytes`, which bounds the finished batch. The methods that
    add a record return False, and change nothing, when the record would exceed that limit or the segment's end.
    """

    def __cinit__(self, object limit_bytes, object initial_bytes=65536):
        if not 2 * SECTOR <= limit_bytes <= 1 << 30:
            raise ValueError(f"a batch limit of {limit_bytes} bytes is not within {2 * SECTOR}..{1 << 30}")
        self.limit = <size_t>limit_bytes & ~<size_t>(SECTOR - 1)
        self.capacity = min(padded(<size_t>max(initial_bytes, SECTOR)), self.limit)
        if posix_memalign(<void**>&self.data_, ALIGNMENT, self.capacity) != 0:
            self.data_ = NULL
            raise MemoryError

    def __dealloc__(self):
        free(self.data_)

    def __getbuffer__(self, Py_buffer* view, int flags):
        self.check_finished()
        PyBuffer_FillInfo(view, self, self.data_, <Py_ssize_t>self.size, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.exports -= 1

    def __len__(self):
        """Bytes used so far; after finish() with the padding."""
        return <Py_ssize_t>self.size

    cdef int check_idle(self) except -1:
        if self.busy:
            raise RuntimeError("the batch is with the WAL thread")
        if self.exports:
            raise BufferError("a memoryview of the batch is alive")
        return 0

    cdef int check_open(self) except -1:
        if not self.begun:
            raise RuntimeError("the batch is not between begin() and finish()")
        return 0

    cdef int check_open_for(self, uint8_t kind) except -1:
        self.check_open()
        if not has_entries(kind):
            raise ValueError(f"records of kind {kind} carry no entries")
        return 0

    def check_finished(self):
        """RuntimeError unless finish() was called after the last begin()."""
        if not self.finished:
            raise RuntimeError("the batch is not finished")

    def begin(self, uint64_t segment_number, uint64_t segment_bytes, uint64_t offset, uint32_t seed, uint32_t chain,
              uint64_t synced_to, uint64_t commit, uint64_t seq):
        """Starts a batch that will lie at `offset` of the segment; `chain` is the running chain before it.

        `synced_to` is the WAL position up to which everything is known durable now. ValueError for an offset that
        no batch can have; RuntimeError or BufferError while the last content is still in use.
        """
        self.check_idle()
        if offset % SECTOR or segment_bytes % SECTOR or not SECTOR <= offset < segment_bytes:
            raise ValueError(f"no batch can lie at offset {offset} of {segment_bytes}")
        if segment_number > UINT64_MAX // segment_bytes - 1:
            raise ValueError(f"segment number {segment_number}")
        cdef qwal_batch_packed header
        memset(&header, 0, sizeof(header))
        header.magic = MAGIC
        header.position = segment_number * segment_bytes + offset
        if synced_to > header.position:
            raise ValueError(f"synced_to {synced_to} lies beyond the batch at {header.position}")
        header.synced_to = synced_to
        header.commit = commit
        header.chain_in = chain
        header.seq = seq
        memcpy(self.data_, &header, BATCH_HEADER)
        self.size = BATCH_HEADER
        self.room_end = <size_t>min(<uint64_t>self.limit, segment_bytes - offset)
        self.records = 0
        self.seed_ = seed
        self.chain_ = chain
        self.begun = True
        self.finished = False

    @property
    def room(self):
        """Payload bytes that one more record may carry."""
        if not self.begun or self.size + RECORD_HEADER > self.room_end:
            return 0
        return self.room_end - self.size - RECORD_HEADER

    cdef int reserve(self, size_t size) except -1:
        self.check_open()
        if size > self.room_end - self.size:
            return 1
        if self.size + size <= self.capacity:
            return 0
        cdef size_t capacity = self.capacity
        while capacity < self.size + size:
            capacity *= 2
        capacity = min(capacity, self.limit)
        cdef char* data = NULL
        if posix_memalign(<void**>&data, ALIGNMENT, capacity) != 0:
            raise MemoryError
        memcpy(data, self.data_, self.size)
        free(self.data_)
        self.data_ = data
        self.capacity = capacity
        return 0

    cdef void put_record(self, uint8_t kind, uint64_t index, uint32_t count, uint64_t term, uint32_t payload_crc,
                         uint32_t payload_length) noexcept nogil:
        cdef qwal_record_packed header
        memset(&header, 0, sizeof(header))
        header.payload_crc = payload_crc
        header.payload_length = payload_length
        header.kind = kind
        header.index = index
        header.count = count
        header.term = term
        memcpy(self.data_ + self.size, &header, RECORD_HEADER)
        self.size += RECORD_HEADER + payload_length
        self.records += 1

    def hard_state(self, uint64_t term, uint64_t vote):
        """Adds the term and the vote given in it."""
        if self.reserve(RECORD_HEADER):
            return False
        self.put_record(KIND_HARD_STATE, vote, 0, term, 0, 0)
        return True

    def truncate(self, uint64_t last):
        """Adds: everything after index `last` is gone."""
        if self.reserve(RECORD_HEADER):
            return False
        self.put_record(KIND_TRUNCATE, last, 0, 0, 0, 0)
        return True

    def reaccept(self, uint64_t first, uint32_t count, uint64_t term):
        """Adds: the entries that the log has at `count` indexes from `first` on stay, and are of `term` now."""
        if first == 0 or count == 0 or first > UINT64_MAX - count:
            raise ValueError(f"{count} entries from {first} on")
        if self.reserve(RECORD_HEADER):
            return False
        self.put_record(KIND_REACCEPT, first, count, term, 0, 0)
        return True

    def append(self, Ring ring not None, uint64_t first, uint64_t last, uint64_t term, uint8_t kind=KIND_APPEND):
        """Adds entries first..last of the ring, copied.

        kind: APPEND, and they supersede whatever was at `first` and after; ACCEPT, and they supersede exactly
        first..last, which may lie behind a hole. LookupError if the ring does not hold them all.
        """
        self.check_open_for(kind)
        cdef iovec pieces[2]
        cdef int count = ring.gather(first, last, pieces, 2)
        if count < 1 or last - first >= UINT32_MAX:
            raise LookupError(f"the ring does not hold {first}..{last}")
        cdef size_t size = pieces[0].iov_len + (pieces[1].iov_len if count == 2 else 0)
        if size > self.room_end or self.reserve(RECORD_HEADER + size):
            return False
        cdef char* out = self.data_ + self.size + RECORD_HEADER
        cdef int i
        with nogil:
            for i in range(count):
                memcpy(out, pieces[i].iov_base, pieces[i].iov_len)
                out += pieces[i].iov_len
            self.put_record(kind, first, <uint32_t>(last - first + 1), term,
                            crc32c_update(0, out - size, size), <uint32_t>size)
        return True

    def append_data(self, object data, uint64_t first, uint32_t count, uint64_t term, uint8_t kind=KIND_APPEND):
        """Adds `count` entry records packed in `data`, the first at index `first`; as append().

        ValueError if `data` is not exactly that many records.
        """
        self.check_open_for(kind)
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not holds_records(<const uint8_t*>view.buf, <size_t>view.len, count):
                raise ValueError(f"{view.len} bytes are not {count} entry records")
            if <size_t>view.len > self.room_end or self.reserve(RECORD_HEADER + <size_t>view.len):
                return False
            memcpy(self.data_ + self.size + RECORD_HEADER, view.buf, <size_t>view.len)
            self.put_record(kind, first, count, term, crc32c_update(0, view.buf, <size_t>view.len),
                            <uint32_t>view.len)
        finally:
            PyBuffer_Release(&view)
        return True

    def finish(self):
        """Completes headers, chain and padding; the padded size in bytes. 0 records make an empty batch."""
        self.check_open()
        cdef qwal_batch_packed header
        cdef qwal_record_packed record
        cdef size_t offset = BATCH_HEADER
        cdef size_t end = self.size
        memcpy(&header, self.data_, BATCH_HEADER)
        header.length = <uint32_t>end
        header.records = self.records
        header.crc = batch_crc(header, self.seed_)
        memcpy(self.data_, &header, BATCH_HEADER)
        self.chain_ = header.crc
        while offset < end:
            memcpy(&record, self.data_ + offset, RECORD_HEADER)
            record.crc = record_crc(record, self.chain_)
            memcpy(self.data_ + offset, &record, RECORD_HEADER)
            self.chain_ = record.crc
            offset += RECORD_HEADER + record.payload_length
        # capacity, limit and the segment's end are multiples of the sector: the padding always has its place.
        self.size = padded(end)
        memset(self.data_ + end, 0, self.size - end)
        self.begun = False
        self.finished = True
        return self.size

    @property
    def chain(self):
        """The running chain after the batch: what the next batch's begin() wants. RuntimeError before finish()."""
        self.check_finished()
        return self.chain_

    def data(self):
        """The finished batch; while the view lives the batch cannot be begun again. RuntimeError before finish()."""
        return memoryview(self)


cdef bint holds_records(const uint8_t* data, size_t size, uint32_t count) noexcept nogil:
    cdef size_t offset = 0
    cdef uint32_t length
    while count > 0:
        if size - offset < ENTRY_HEADER_SIZE:
            return False
        memcpy(&length, data + offset, 4)
        if not ENTRY_HEADER_SIZE <= length <= MAX_ENTRY_SIZE or length > size - offset:
            return False
        offset += length
        count -= 1
    return offset == size and size > 0


# -- segment headers ------------------------------------------------------------------------------------------------

def encode_segment_header(uint64_t number, uint64_t segment_bytes, uint64_t nonce, uint64_t cluster, uint64_t node,
                          uint64_t term, uint64_t vote, uint64_t first_index, uint64_t commit, uint32_t prev_chain):
    """The 512 bytes that begin segment `number`; decode_segment_header() gives the seed they make."""
    if not valid_segment(number, segment_bytes):
        raise ValueError(f"segment {number} of {segment_bytes} bytes")
    cdef char block[SECTOR]
    cdef qwal_segment_packed header
    memset(block, 0, SECTOR)
    memset(&header, 0, sizeof(header))
    memcpy(header.magic, b"QRMDWAL1", 8)
    header.version = VERSION
    header.number = number
    header.segment_bytes = segment_bytes
    header.nonce = nonce
    header.cluster = cluster
    header.node = node
    header.term = term
    header.vote = vote
    header.first_index = first_index
    header.commit = commit
    header.prev_chain = prev_chain
    memcpy(block, &header, sizeof(header))
    header.crc = crc32c_update(0, block, SECTOR)
    memcpy(block, &header, sizeof(header))
    return PyBytes_FromStringAndSize(block, SECTOR)


cdef bint valid_segment(uint64_t number, uint64_t segment_bytes) noexcept nogil:
    return segment_bytes % SECTOR == 0 and segment_bytes > SECTOR and number < UINT64_MAX // segment_bytes


# Whether the first sector is a segment's and undamaged, of whatever version: magic, CRC and version keep their places.
cdef bint whole_header(object data, qwal_segment_packed* header) except -1:
    cdef Py_buffer view
    cdef char block[SECTOR]
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    cdef bint whole = view.len >= SECTOR
    if whole:
        memcpy(block, view.buf, SECTOR)
    PyBuffer_Release(&view)
    if not whole:
        return False
    memcpy(header, block, sizeof(header[0]))
    cdef uint32_t crc = header.crc
    header.crc = 0
    memcpy(block, header, sizeof(header[0]))
    header.crc = crc
    return memcmp(header.magic, b"QRMDWAL1", 8) == 0 and crc32c_update(0, block, SECTOR) == crc


def decode_segment_header(object data):
    """The SegmentHeader that `data` (512 bytes or more) begins with; None if damaged or of an unknown version."""
    cdef qwal_segment_packed header
    if not whole_header(data, &header) or not OLDEST <= header.version <= VERSION or header.reserved != 0:
        return None
    if not valid_segment(header.number, header.segment_bytes):
        return None
    cdef uint64_t nonce = header.nonce
    cdef uint32_t crc = header.crc
    return SegmentHeader(header.number, header.segment_bytes, nonce, header.cluster, header.node, header.term,
                         header.vote, header.first_index, header.commit, header.prev_chain,
                         crc32c_update(crc, &nonce, 8))


def segment_version(object data):
    """The version of the segment that `data` begins, be it a newer one; None if it is no segment, or damaged."""
    cdef qwal_segment_packed header
    return header.version if whole_header(data, &header) else None


# -- reading --------------------------------------------------------------------------------------------------------

cdef struct Segment:
    const uint8_t* data
    size_t size                # bytes of it that exist: the file may be shorter than the segment, or be longer
    uint64_t base              # WAL position of offset 0
    uint32_t seed

cdef struct Found:
    uint8_t kind
    uint64_t index
    uint32_t count
    uint64_t term
    size_t offset              # of the record header
    uint32_t payload_length

cdef struct Verdict:
    Stop stop
    size_t stop_offset
    uint64_t stop_index
    size_t end_offset
    uint32_t end_chain
    uint64_t commit
    uint64_t synced_to
    uint64_t seq
    uint64_t batches


# The header at `offset` (a sector boundary below size); everything that needs no context is checked.
cdef Stop read_batch_header(const Segment* segment, size_t offset, qwal_batch_packed* header) noexcept nogil:
    if segment.size - offset < BATCH_HEADER:
        return STOP_END
    memcpy(header, segment.data + offset, BATCH_HEADER)
    if header.magic != MAGIC:
        return STOP_END
    if batch_crc(header[0], segment.seed) != header.crc or header.position != segment.base + offset:
        return STOP_BAD_HEADER
    if header.reserved != 0 or header.reserved2 != 0 or header.synced_to > header.position:
        return STOP_BAD_HEADER
    if header.length < BATCH_HEADER or header.length > segment.size - offset:
        return STOP_OVERRUN
    return STOP_NONE


cdef bint valid_record(const qwal_record_packed* record) noexcept nogil:
    if record.flags != 0 or record.reserved != 0 or record.reserved2 != 0:
        return False
    cdef uint64_t least = <uint64_t>record.count * ENTRY_HEADER_SIZE
    if has_range(record.kind):
        return (record.count > 0 and record.index > 0 and record.index <= UINT64_MAX - record.count
                and (record.payload_length >= least if has_entries(record.kind) else record.payload_length == 0))
    if record.kind == KIND_HARD_STATE or record.kind == KIND_TRUNCATE:
        return record.count == 0 and record.payload_length == 0 and record.index < UINT64_MAX
    return False


# The records of one batch, at `offset`, with `header`; `chain` and `next_index` go on. Stops at the first bad one,
# with next_index then its index if its header can be believed.
cdef int read_records(const Segment* segment, size_t offset, const qwal_batch_packed* header, uint32_t* chain,
                      uint64_t* next_index, vector[Found]& out) except -1 nogil:
    cdef qwal_record_packed record
    cdef Found found
    cdef size_t end = offset + header.length
    cdef uint32_t left = header.records
    offset += BATCH_HEADER
    while left > 0:
        if end - offset < RECORD_HEADER:
            return STOP_BAD_RECORD
        memcpy(&record, segment.data + offset, RECORD_HEADER)
        if record_crc(record, chain[0]) != record.crc or not valid_record(&record):
            return STOP_BAD_RECORD
        if record.payload_length > end - offset - RECORD_HEADER:
            return STOP_BAD_RECORD
        if has_range(record.kind):
            next_index[0] = record.index
        if crc32c_update(0, segment.data + offset + RECORD_HEADER, record.payload_length) != record.payload_crc:
            return STOP_BAD_PAYLOAD
        found.kind = record.kind
        found.index = record.index
        found.count = record.count
        found.term = record.term
        found.offset = offset
        found.payload_length = record.payload_length
        out.push_back(found)
        chain[0] = record.crc
        if has_range(record.kind):
            next_index[0] = record.index + record.count
        elif record.kind == KIND_TRUNCATE:
            next_index[0] = record.index + 1
        offset += RECORD_HEADER + record.payload_length
        left -= 1
    return STOP_NONE if offset == end else STOP_BAD_RECORD


cdef int read_batches(const Segment* segment, size_t offset, uint32_t chain, Verdict* verdict,
                      vector[Found]& out) except -1 nogil:
    cdef qwal_batch_packed header
    cdef size_t kept
    cdef int stop = STOP_NONE
    while offset < segment.size:
        verdict.end_chain = chain
        stop = read_batch_header(segment, offset, &header)
        if stop == STOP_NONE and header.chain_in != chain:
            stop = STOP_BAD_CHAIN
        if stop == STOP_NONE:
            kept = out.size()
            chain = header.crc
            stop = read_records(segment, offset, &header, &chain, &verdict.stop_index, out)
            if stop != STOP_NONE:
                out.resize(kept)
        if stop != STOP_NONE:
            break
        verdict.commit = max(verdict.commit, header.commit)
        verdict.synced_to = max(verdict.synced_to, header.synced_to)
        verdict.seq = header.seq
        verdict.batches += 1
        verdict.end_chain = chain
        offset += padded(header.length)
    verdict.stop = <Stop>stop
    verdict.stop_offset = verdict.end_offset = offset
    return 0


cdef int open_segment(Segment* out, Py_buffer* view, object header) except -1:
    cdef uint64_t segment_bytes = header.segment_bytes
    out.data = <const uint8_t*>view.buf
    out.size = <size_t>min(segment_bytes, <uint64_t>view.len)
    out.base = <uint64_t>header.number * segment_bytes
    out.seed = header.seed
    return 0


def scan(object data, object header, size_t offset, uint32_t chain):
    """Walks the batches of a segment (`data` from its first byte on) from `offset`, `chain` being the chain there.

    Returns a ScanResult. records: (kind, index, count, term, payload_offset, payload_length, position) in order, the
    position being the WAL position of the record's header; those of a batch that is not wholly valid are left out.
    end_offset, end_chain: where the next batch goes. commit, synced_to: the highest of the valid batches, 0 without
    any; seq: the last one's. stop, at stop_offset (equal to end_offset):

        None           the batches fill `data` (or the segment, if that is smaller)
        "end"          no batch header here
        "bad_header"   one whose CRC does not fit this segment or that names another place
        "overrun"      longer than what is left of `data`
        "bad_chain"    valid, but not written after what precedes it
        "bad_record"   a record header is not valid, or the records do not fill the batch
        "bad_payload"  a payload's CRC does not fit

    stop_index: index of the first entry affected: that of the record which failed if its header is valid, else the
    next one expected (counted from header.first_index, so right from the first batch of the segment on).
    """
    if offset % SECTOR or offset < SECTOR:
        raise ValueError(f"no batch can lie at offset {offset}")
    cdef Py_buffer view
    cdef Segment segment
    cdef Verdict verdict
    cdef vector[Found] found
    memset(&verdict, 0, sizeof(verdict))
    verdict.end_chain = chain
    verdict.stop_index = header.first_index
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        open_segment(&segment, &view, header)
        with nogil:
            read_batches(&segment, offset, chain, &verdict, found)
    finally:
        PyBuffer_Release(&view)
    cdef size_t i
    records = []
    for i in range(found.size()):
        records.append((found[i].kind, found[i].index, found[i].count, found[i].term, found[i].offset + RECORD_HEADER,
                        found[i].payload_length, segment.base + found[i].offset))
    return ScanResult(records, verdict.end_offset, verdict.end_chain, verdict.commit, verdict.synced_to, verdict.seq,
                      verdict.batches, STOP_NAMES[<int>verdict.stop], verdict.stop_offset, verdict.stop_index)


def highest_synced(object data, object header, size_t from_offset):
    """(synced_to, position): the highest `synced_to` of any valid batch header at or after `from_offset`, and the
    highest position of such a header; (0, 0) if there is none.

    Looks at every 512-byte boundary past damage, needing nothing but the segment's seed; records are not looked at. A
    header left over from before an earlier cut may count too: what it says was durable below it, was.
    """
    cdef Py_buffer view
    cdef Segment segment
    cdef qwal_batch_packed batch
    cdef size_t offset
    cdef uint64_t synced_to = 0
    cdef uint64_t position = 0
    cdef Stop stop
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        open_segment(&segment, &view, header)
        with nogil:
            offset = padded(max(from_offset, <size_t>SECTOR)) if from_offset < segment.size else segment.size
            while offset < segment.size:
                stop = read_batch_header(&segment, offset, &batch)
                if stop == STOP_NONE or stop == STOP_OVERRUN:
                    synced_to = max(synced_to, batch.synced_to)
                    position = batch.position
                offset += SECTOR
    finally:
        PyBuffer_Release(&view)
    return synced_to, position


def claimed_synced(object data, uint64_t base):
    """The highest `synced_to` of whatever looks like a batch header of the segment at WAL position `base`, or None.

    For a segment that lost its header, and with it the seed that CRCs need: that a header names its own position, and
    knows nothing to be synced behind it, is all that can be asked of it.
    """
    cdef Py_buffer view
    cdef Segment segment
    cdef qwal_batch_packed batch
    cdef size_t offset = 0
    cdef uint64_t synced_to = 0
    cdef bint found = False
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        segment.data = <const uint8_t*>view.buf
        segment.size = view.len
        with nogil:
            while offset < segment.size and segment.size - offset >= BATCH_HEADER:
                memcpy(&batch, segment.data + offset, BATCH_HEADER)
                if batch.magic == MAGIC and batch.position == base + offset and batch.synced_to <= batch.position:
                    synced_to = max(synced_to, batch.synced_to)
                    found = True
                offset += SECTOR
    finally:
        PyBuffer_Release(&view)
    return synced_to if found else None
