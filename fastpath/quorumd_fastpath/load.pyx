"""The load side of `quorumd bench`, batched in C so that it does not measure itself.

Many logical clients share one UDP socket; each has a session of its own and one operation in flight (a closed loop).
An operation that is not answered is sent again with the same sequence number, so it executes once whatever happens to
datagrams and leaders. Client i writes the key `key_of(i)`, and its value begins with the operation's sequence number:
after a crash, key i must hold at least `acknowledged()[i]`. With `keys`, every operation draws one of so many keys.

Compare-and-swap is a transaction on the revision that the key had when this generator last heard of a change of it, so
it fails exactly if another client's change was executed in between.

An open loop begins operation k at its time, k / rate, whether or not earlier ones were answered; its latency counts
from that time even if it had to wait for a free client, so that a stalled cluster cannot hide behind its own silence
("coordinated omission"). settle() ends a measurement: it counts what the stall has left unanswered.

Operations that are refused are errors, and count as neither done nor in a latency: a refusal may be quick.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset
from libcpp.algorithm cimport lower_bound

import struct

from quorumd_fastpath.crc cimport crc32c_update
from quorumd_fastpath.udp cimport UdpSocket, monotonic_ns
from quorumd_fastpath.wire cimport (
    ENTRY_COMMAND, ENTRY_HEADER_SIZE, ENTRY_OPEN_SESSION, ENTRY_READ, HEADER_SIZE, KIND_REPLY, KIND_REQUEST,
    REPLY_HEADER_SIZE, STATUS_NOT_LEADER, STATUS_OK, STATUS_OVERLOADED, Counters, Outbox, Slab,
    encode_entry_header, load_addr, next_frame, qaddr, qframe,
)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout)
    enum:
        POLLIN

cdef enum:
    SLOTS = 512
    MAX_CLIENTS = 1 << 20
    MAX_OPENING = 256            # sessions being opened at once
    EXACT = 2048                 # latencies below this many microseconds are exact, above to 1 in 1024
    HALF = 1024
    BUCKETS = 2048 + 1024 * 32
    SCAN_NS = 10000000
    PUT_BYTES = 20               # of a PUT command before key and value; commands.py has the layout
    RANGE_BYTES = 28
    TXN_BYTES = 20               # of a TXN with one comparison, before the compared key
    MAX_KEYS = 1 << 22
    RETRY_NS = 20000000          # after "no leader yet" or "overloaded"


cdef class LoadGenerator:
    """`clients` logical clients of the cluster whose nodes are `nodes`: (id, raw client address) each.

    per_datagram: operations of different clients that share a datagram. rate: operations a second, 0 for as many as
    are answered. resend_ms: an operation unanswered for so long is sent again. keys: how many there are, 0 for one a
    client; skew: 0 draws them evenly, s > 0 draws the k-th with a chance in proportion to k ** -s (Zipf). open_loop:
    see above; needs a rate. ValueError for sizes that do not fit.
    """

    def __init__(self, nodes, uint64_t cluster, *, uint32_t clients, uint32_t per_datagram=1, size_t key_bytes=16,
                 size_t value_bytes=256, uint32_t reads_percent=0, uint32_t mtu=65000, uint64_t seed=1,
                 double rate=0.0, uint32_t resend_ms=100, uint32_t cas_percent=0, uint32_t keys=0, double skew=0.0,
                 bint open_loop=False):
        cdef size_t record = ENTRY_HEADER_SIZE + PUT_BYTES + key_bytes + value_bytes
        cdef qaddr raw
        if cas_percent:
            record += TXN_BYTES + key_bytes + 12
        if not 1 <= clients <= MAX_CLIENTS:
            raise ValueError(f"clients: {clients} is not within 1..{MAX_CLIENTS}")
        if not 8 <= key_bytes <= 32768 or not 8 <= value_bytes <= 1048576:
            raise ValueError("keys have 8 to 32768 bytes, values 8 to 1048576")
        if per_datagram < 1 or per_datagram > clients or HEADER_SIZE + per_datagram * record > mtu:
            raise ValueError(f"{per_datagram} operations of {record} bytes do not fit a datagram of {mtu} bytes, or "
                             f"are more than the {clients} clients")
        if reads_percent + cas_percent > 100:
            raise ValueError("reads and swaps are more than 100 percent")
        if keys > MAX_KEYS or skew < 0:
            raise ValueError(f"keys: at most {MAX_KEYS}, skew: 0 or more")
        if skew > 0 and not keys:
            raise ValueError("a skew needs a number of keys")
        if open_loop and (rate <= 0 or per_datagram != 1):
            raise ValueError("an open loop needs a rate, and one operation a datagram")
        for node, addr in nodes:
            load_addr(addr, &raw)
            self.targets.push_back(raw)
            self.target_ids.push_back(node)
        if self.targets.empty():
            raise ValueError("no node to talk to")
        self.per_datagram = per_datagram
        self.key_bytes, self.value_bytes = key_bytes, value_bytes
        self.reads_percent, self.rate, self.resend_ms = reads_percent, rate, resend_ms
        self.cas_percent, self.key_count, self.open_loop = cas_percent, keys, open_loop
        self.record_bytes = record
        self.session_hi = seed * 0x9E3779B97F4A7C15ULL | 1
        self.session_base = seed << 24
        self.chance = self.session_hi
        self.make_templates()
        self.make_keys(skew, max(keys, clients))
        self.clients.resize(clients)
        memset(self.clients.data(), 0, clients * sizeof(qclient))
        self.free_.reserve(clients + 1)
        for number in range(clients):
            self.free_.push_back(number)
        self.unopened = clients
        self.histogram.resize(BUCKETS)
        # A datagram holds exactly `per_datagram` writes: the outbox would otherwise join frames to one address.
        self.outbox = Outbox(2048, 64 << 20, HEADER_SIZE + per_datagram * record)
        self.outbox.identify(cluster, 0, 0)
        self.slab = Slab(SLOTS, 65536)
        self.counters = Counters()

    cdef make_templates(self):
        key = bytes(self.key_bytes)
        put = struct.pack("<BBHIIQ", 1, 0, 0, self.key_bytes, self.value_bytes, 0)
        self.template_write = bytes(ENTRY_HEADER_SIZE) + put + key + b"v" * self.value_bytes
        self.template_read = (bytes(ENTRY_HEADER_SIZE) + struct.pack("<BBHIIQQ", 3, 0, 0, self.key_bytes, 0, 0, 0)
                              + key)
        self.template_swap = (
            bytes(ENTRY_HEADER_SIZE) + struct.pack("<BBHHHBBHII", 4, 0, 1, 1, 0, 2, 0, 0, self.key_bytes, 8) + key
            + bytes(8) + struct.pack("<I", len(put) + self.key_bytes + self.value_bytes) + put + key
            + b"v" * self.value_bytes
        )
        self.write_bytes, self.read_bytes = self.template_write, self.template_read
        self.swap_bytes = self.template_swap
        self.key_at_write = ENTRY_HEADER_SIZE + PUT_BYTES
        self.value_at = self.key_at_write + self.key_bytes
        self.key_at_read = ENTRY_HEADER_SIZE + RANGE_BYTES
        self.key_at_swap = ENTRY_HEADER_SIZE + TXN_BYTES

    cdef make_keys(self, double skew, uint32_t most):
        cdef uint32_t number
        cdef double total = 0.0
        if self.cas_percent:
            self.revisions.resize(most)
        if skew > 0:
            self.popularity.resize(self.key_count)
            for number in range(self.key_count):
                total += (number + 1) ** -skew
                self.popularity[number] = total
            for number in range(self.key_count):
                self.popularity[number] /= total

    def open(self, str host="127.0.0.1"):
        """Binds a socket on `host`, one of this machine's addresses. OSError if that fails."""
        self.sock = UdpSocket(host, 0)
        self.sock.open()
        self.sock.set_buffers(16 << 20)

    def close(self):
        """Closes the socket; harmless if it is not open."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    # -- running ----------------------------------------------------------------------------------------------------

    def run(self, double seconds):
        """Sends and receives for so long; sessions are opened as needed."""
        cdef uint64_t end = <uint64_t>monotonic_ns() + <uint64_t>(seconds * 1e9)
        cdef uint64_t now = <uint64_t>monotonic_ns()
        cdef pollfd waiting
        cdef bint more
        if self.sock is None:
            raise RuntimeError("open() comes first")
        waiting.fd = self.sock.fileno()
        waiting.events = POLLIN
        if self.budget_ns == 0:
            self.budget_ns = now
        while now < end:
            with nogil:
                if now - self.scanned_ns >= SCAN_NS:
                    self.scan(now)
                more = self.send_some(now)
            if self.outbox.count:
                self.sock.send(self.outbox)
            with nogil:
                poll(&waiting, 1, 0 if more else 1)
            while True:
                received = self.sock.receive(self.slab)
                if received == 0:
                    break
                now = <uint64_t>monotonic_ns()
                with nogil:
                    self.absorb(now)
                self.slab.clear()
                if received < SLOTS:
                    break
            now = <uint64_t>monotonic_ns()

    def open_sessions(self, double seconds):
        """Opens every client's session; whether all are open within so many seconds."""
        cdef uint64_t end = <uint64_t>monotonic_ns() + <uint64_t>(seconds * 1e9)
        self.stopping = True
        while self.unopened and <uint64_t>monotonic_ns() < end:
            self.run(0.01)
        self.stopping = False
        return self.unopened == 0

    def drain(self, double seconds):
        """Starts nothing new and waits for what is in flight; whether all of it was answered."""
        cdef uint64_t end = <uint64_t>monotonic_ns() + <uint64_t>(seconds * 1e9)
        self.stopping = True
        while self.busy and <uint64_t>monotonic_ns() < end:
            self.run(0.005)
        self.stopping = False
        self.arrival_ns = 0
        return self.busy == 0

    def settle(self, double seconds):
        """Ends a measurement: drains, then counts each operation that was due when this was called, and that is
        answered neither now nor refused, with the time that it has waited until now. How many those are."""
        cdef uint64_t end = <uint64_t>monotonic_ns()
        cdef uint64_t due = self.arrival_ns if self.open_loop else 0
        cdef uint64_t step = max(<uint64_t>(1e9 / self.rate), <uint64_t>1) if due else 0
        cdef uint64_t unanswered = 0
        cdef uint64_t now
        cdef size_t i
        self.drain(seconds)
        now = <uint64_t>monotonic_ns()
        with nogil:
            for i in range(self.clients.size()):
                if self.clients[i].doing in (WRITING, READING, SWAPPING):
                    self.count_latency((now - self.clients[i].counts_from_ns) // 1000)
                    unanswered += 1
            while due != 0 and due <= end:  # and found no free client
                self.count_latency((now - due) // 1000)
                unanswered += 1
                due += step
        return unanswered

    # Queues what may start now; whether the outbox filled up before that ended.
    cdef bint send_some(self, uint64_t now) noexcept nogil:
        cdef size_t waiting
        if self.open_loop and self.arrival_ns == 0:
            self.arrival_ns = now
        if self.rate > 0:
            self.budget += self.rate * <double>(now - self.budget_ns) * 1e-9
            self.budget = min(self.budget, max(self.rate * 0.01, <double>self.per_datagram))
        self.budget_ns = now
        while True:
            waiting = self.free_.size() - self.free_head
            if waiting == 0 or (waiting < self.per_datagram and self.busy > 0):
                return False
            if self.open_loop and self.unopened == 0 and self.arrival_ns > now:
                return False
            if not self.open_loop and self.rate > 0 and self.budget < min(<double>waiting, <double>self.per_datagram):
                return False
            if self.unopened and self.unopened + self.busy > waiting and self.busy >= <uint64_t>MAX_OPENING:
                return False
            if not self.may_begin():
                return False
            if self.outbox.count >= 512:
                return True
            self.begin(now)

    # Whether the client that waited longest may begin something: while stopping only to open its session.
    cdef bint may_begin(self) noexcept nogil:
        if self.free_head >= self.free_.size():
            return False
        return not self.stopping or self.clients[self.free_[self.free_head]].doing == CLOSED

    cdef bint take_free(self, uint32_t* out) noexcept nogil:
        if not self.may_begin():
            return False
        out[0] = self.free_[self.free_head]
        self.free_head += 1
        if self.free_head > 65536 and self.free_head * 2 > self.free_.size():
            self.free_.erase(self.free_.begin(), self.free_.begin() + self.free_head)
            self.free_head = 0
        return True

    # One datagram: the next operations of the clients that have waited longest.
    cdef void begin(self, uint64_t now) noexcept nogil:
        cdef size_t size = HEADER_SIZE + <size_t>self.per_datagram * self.record_bytes
        cdef qframe frame
        cdef uint32_t number = 0
        cdef char* payload
        cdef size_t used = 0
        cdef uint32_t count = 0
        cdef char* header
        if self.outbox.open(&self.targets[self.target], size, 2) != 0:
            return
        header = self.outbox.add_copy(NULL, HEADER_SIZE)
        payload = self.outbox.scratch + self.outbox.scratch_used
        while count < self.per_datagram and self.take_free(&number):
            used += self.build(number, now, <uint8_t*>payload + used)
            count += 1
            self.busy += 1
        self.budget -= count
        self.outbox.add_copy(NULL, used)
        memset(&frame, 0, sizeof(frame))
        frame.kind = KIND_REQUEST
        frame.count = count
        frame.payload_length = <uint32_t>used
        self.outbox.put_header(header, &frame, crc32c_update(0, payload, used))

    # Writes the client's current operation, a new one if it has none; the record's length.
    cdef size_t build(self, uint32_t number, uint64_t now, uint8_t* out) noexcept nogil:
        cdef qclient* client = &self.clients[number]
        cdef uint64_t session_lo = self.session_base + number
        cdef size_t length
        if client.doing == CLOSED or client.doing == IDLE:
            client.counts_from_ns = client.sent_ns = now
            if client.doing == CLOSED:
                client.doing = OPENING
            else:
                self.choose(number)
        client.due_ns = now + <uint64_t>self.resend_ms * 1000000
        if client.doing == OPENING:
            encode_entry_header(out, ENTRY_HEADER_SIZE, ENTRY_OPEN_SESSION, self.session_hi, session_lo, 0, 0)
            return ENTRY_HEADER_SIZE
        if client.doing == READING:
            length = self.key_at_read + self.key_bytes
            memcpy(out, self.read_bytes, length)
            encode_entry_header(out, <uint32_t>length, ENTRY_READ, self.session_hi, session_lo,
                                client.read_seq | <uint64_t>1 << 63, 0)
            put_key(out + self.key_at_read, self.key_bytes, client.key)
            return length
        if client.doing == SWAPPING:
            return self.build_swap(client, session_lo, out)
        length = self.value_at + self.value_bytes
        memcpy(out, self.write_bytes, length)
        encode_entry_header(out, <uint32_t>length, ENTRY_COMMAND, self.session_hi, session_lo, client.seq, client.seq)
        put_key(out + self.key_at_write, self.key_bytes, client.key)
        memcpy(out + self.value_at, &client.seq, 8)
        return length

    cdef size_t build_swap(self, qclient* client, uint64_t session_lo, uint8_t* out) noexcept nogil:
        cdef size_t length = self.key_at_swap + 2 * self.key_bytes + 12 + PUT_BYTES + self.value_bytes
        cdef uint8_t* at = out + self.key_at_swap
        memcpy(out, self.swap_bytes, length)
        encode_entry_header(out, <uint32_t>length, ENTRY_COMMAND, self.session_hi, session_lo, client.seq, client.seq)
        put_key(at, self.key_bytes, client.key)
        at += self.key_bytes
        memcpy(at, &client.expected, 8)
        at += 12 + PUT_BYTES
        put_key(at, self.key_bytes, client.key)
        memcpy(at + self.key_bytes, &client.seq, 8)
        return length

    # What the client does next, and with which key.
    cdef void choose(self, uint32_t number) noexcept nogil:
        cdef qclient* client = &self.clients[number]
        cdef uint64_t share = self.draw() % 100
        cdef double point
        client.key = number
        if self.popularity.size():
            point = <double>self.draw() / <double>(1 << 31)
            client.key = <uint32_t>(lower_bound(self.popularity.begin(), self.popularity.end(), point)
                                    - self.popularity.begin())
        elif self.key_count:
            client.key = <uint32_t>(self.draw() % self.key_count)
        if self.open_loop:
            client.counts_from_ns = self.arrival_ns
            self.arrival_ns += <uint64_t>(1e9 / self.rate)
        if share < self.reads_percent:
            client.doing = READING
            client.read_seq += 1
            return
        client.seq += 1
        if share < self.reads_percent + self.cas_percent:
            client.doing = SWAPPING
            client.expected = self.revisions[client.key]
        else:
            client.doing = WRITING

    # 31 bits of the generator's upper half: those of a congruential generator that are worth using.
    cdef uint64_t draw(self) noexcept nogil:
        self.chance = self.chance * 6364136223846793005ULL + 1442695040888963407ULL
        return self.chance >> 33

    # -- answers ----------------------------------------------------------------------------------------------------

    cdef void absorb(self, uint64_t now) noexcept nogil:
        cdef int slot
        cdef const uint8_t* data
        cdef const uint8_t* record
        cdef size_t offset, at, end
        cdef qframe frame
        cdef qreply_packed reply
        cdef uint64_t number
        for slot in range(self.slab.count):
            data = <const uint8_t*>self.slab.data + <size_t>slot * self.slab.slot_bytes
            offset = 0
            while next_frame(data, self.slab.lengths[slot], &offset, &frame, &at, self.counters.values):
                if frame.kind != KIND_REPLY:
                    continue
                end = at + frame.payload_length
                while end - at >= REPLY_HEADER_SIZE:
                    record = data + at
                    memcpy(&reply, record, REPLY_HEADER_SIZE)
                    if reply.length < REPLY_HEADER_SIZE or reply.length > end - at:
                        break
                    number = reply.session_lo - self.session_base
                    if number < self.clients.size():
                        self.answered(<uint32_t>number, &reply, record + REPLY_HEADER_SIZE,
                                      reply.length - REPLY_HEADER_SIZE, now)
                    at += reply.length

    cdef void answered(self, uint32_t number, const qreply_packed* reply, const uint8_t* body, size_t size,
                       uint64_t now) noexcept nogil:
        cdef qclient* client = &self.clients[number]
        cdef uint8_t status = reply.status
        cdef uint64_t expected = client.seq
        if client.doing == READING:
            expected = client.read_seq | <uint64_t>1 << 63
        elif client.doing == OPENING:
            expected = 0
        if client.doing == CLOSED or client.doing == IDLE or reply.seq != expected:
            return
        if status == STATUS_NOT_LEADER:
            self.redirected(number, body, size, now)
            return
        self.heard_ns = now
        if status == STATUS_OVERLOADED:
            client.due_ns = min(client.due_ns, now + RETRY_NS)
            return
        if status != STATUS_OK:
            self.errors += 1
            self.last_error_status = status
        if client.doing == OPENING:
            self.unopened -= 1
        elif client.doing != READING and status == STATUS_OK:
            if client.doing == SWAPPING and size and body[0] == 0:
                self.swaps_failed += 1
            else:
                client.acknowledged = client.seq
                self.writes_done += 1
                self.marked_writes_done += client.sent_ns >= self.mark_ns
                if self.cas_percent:
                    self.revisions[client.key] = max(self.revisions[client.key], reply.revision)
        self.finished(number, now, status == STATUS_OK)

    cdef void finished(self, uint32_t number, uint64_t now, bint executed) noexcept nogil:
        cdef qclient* client = &self.clients[number]
        if executed and client.doing != OPENING:
            self.done += 1
            self.count_latency((now - client.counts_from_ns) // 1000)
        client.doing = IDLE
        self.busy -= 1
        self.free_.push_back(number)

    # Follows the hint at once; without one, asks the next node a little later.
    cdef void redirected(self, uint32_t number, const uint8_t* body, size_t size, uint64_t now) noexcept nogil:
        cdef uint16_t leader = 0
        cdef size_t i
        self.redirects += 1
        if size >= 2:
            memcpy(&leader, body, 2)
        for i in range(self.target_ids.size()):
            if leader != 0 and self.target_ids[i] == leader:
                if self.target != i:
                    self.target = i
                    self.heard_ns = now
                self.resend(number, now)
                return
        self.clients[number].due_ns = min(self.clients[number].due_ns, now + RETRY_NS)

    cdef void resend(self, uint32_t number, uint64_t now) noexcept nogil:
        cdef qframe frame
        cdef char* header
        cdef char* payload
        cdef size_t used
        if self.outbox.open(&self.targets[self.target], HEADER_SIZE + self.record_bytes, 2) != 0:
            return
        self.resends += 1
        header = self.outbox.add_copy(NULL, HEADER_SIZE)
        payload = self.outbox.scratch + self.outbox.scratch_used
        used = self.build(number, now, <uint8_t*>payload)
        self.outbox.add_copy(NULL, used)
        memset(&frame, 0, sizeof(frame))
        frame.kind = KIND_REQUEST
        frame.count = 1
        frame.payload_length = <uint32_t>used
        self.outbox.put_header(header, &frame, crc32c_update(0, payload, used))

    # Sends again what is due; a node that answered nobody for the resend time is given up for the next one.
    cdef void scan(self, uint64_t now) noexcept nogil:
        cdef uint32_t number
        cdef bint late = False
        self.scanned_ns = now
        if self.heard_ns == 0:
            self.heard_ns = now
        for number in range(<uint32_t>self.clients.size()):
            if self.clients[number].doing not in (CLOSED, IDLE) and now >= self.clients[number].due_ns:
                if not late and now - self.heard_ns >= <uint64_t>self.resend_ms * 1000000:
                    self.target = (self.target + 1) % self.targets.size()
                    self.heard_ns = now - <uint64_t>self.resend_ms * 750000  # the next one gets a quarter of it
                late = True
                if self.outbox.count >= 1024:
                    return
                self.resend(number, now)

    # -- figures ----------------------------------------------------------------------------------------------------

    cdef void count_latency(self, uint64_t micros) noexcept nogil:
        cdef uint32_t shift = 0
        self.max_us = max(self.max_us, micros)
        while micros >> shift >= EXACT:
            shift += 1
        if shift == 0:
            self.histogram[micros] += 1
        elif shift <= 32:
            self.histogram[EXACT + (shift - 1) * HALF + (micros >> shift) - HALF] += 1

    def latencies(self):
        """(microseconds, count) of every operation done since the last reset, and of what settle() found, ascending."""
        cdef size_t i
        found = []
        for i in range(<size_t>BUCKETS):
            if self.histogram[i]:
                if i < <size_t>EXACT:
                    found.append((i, self.histogram[i]))
                else:
                    found.append((((i - EXACT) % HALF + HALF) << ((i - EXACT) // HALF + 1), self.histogram[i]))
        return found

    def reset(self):
        """Forgets figures (after a warm-up), not sessions or what was acknowledged."""
        memset(self.histogram.data(), 0, BUCKETS * sizeof(uint64_t))
        self.done = self.errors = self.resends = self.redirects = self.max_us = 0
        self.writes_done = self.swaps_failed = 0
        self.arrival_ns = 0

    def mark(self):
        """From now on `marked_writes_done` counts, from 0, the writes done that were also begun from now on."""
        self.mark_ns = <uint64_t>monotonic_ns()
        self.marked_writes_done = 0

    @property
    def in_flight(self):
        """Operations sent and not answered."""
        return self.busy

    @property
    def leader(self):
        """Id of the node that operations are sent to now."""
        return self.target_ids[self.target]

    def set_rate(self, double rate):
        """Operations a second from now on; 0 for as many as are answered."""
        self.rate, self.budget = rate, 0

    def set_resend(self, uint32_t resend_ms):
        """From now on an operation unanswered for so long is sent again, those that are under way included."""
        cdef uint64_t due = <uint64_t>monotonic_ns() + <uint64_t>resend_ms * 1000000
        cdef size_t i
        self.resend_ms = resend_ms
        for i in range(self.clients.size()):
            self.clients[i].due_ns = min(self.clients[i].due_ns, due)

    def acknowledged(self):
        """By client: the highest sequence number whose write was acknowledged (0: none)."""
        return [self.clients[i].acknowledged for i in range(self.clients.size())]

    def key_of(self, uint32_t number):
        """The key that client `number` writes and reads."""
        cdef bytes key = bytes(self.key_bytes)
        put_key(<uint8_t*><char*>key, self.key_bytes, number)
        return key


# "load-00000042" and padding, or in short keys the number in decimal digits.
cdef void put_key(uint8_t* out, size_t size, uint32_t number) noexcept nogil:
    cdef char text[24]
    memset(out, 107, size)  # "k"
    if size >= 13:
        snprintf(text, sizeof(text), b"load-%08u", number)
        memcpy(out, text, 13)
    else:
        snprintf(text, sizeof(text), b"%08u", number)
        memcpy(out, text, 8)
