# distutils: language = c++
"""The replicated state machine over the log: entries in, replies and a digest out.

Rules of this file: no system call, no clock, no randomness; what it does depends only on the entries applied. It walks
entries, looks after who waits for an answer, and leaves the meaning of an entry to machine.h. Loops run without the
GIL. Running out of memory raises MemoryError with an entry half applied: the process must stop, its log is sound.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport SIZE_MAX, UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from libcpp.optional cimport nullopt, optional
from libcpp.string_view cimport string_view
from libcpp.vector cimport vector

from quorumd_fastpath.crc cimport crc32c_update
from quorumd_fastpath.ring cimport Pending, ReadQueue, Ring, qread
from quorumd_fastpath.wire cimport (
    ADDR_SIZE, ENTRY_KEEP_ALIVE, ENTRY_STALE_READ, MAX_ENTRY_SIZE, Replies, Stage, decode_entry, qaddr, qentry, qstaged,
)

MAX_KEY_BYTES = KEY_LIMIT
MAX_VALUE_BYTES = VALUE_LIMIT
MAX_TXN_OPS = TXN_LIMIT
MAX_TXN_DEPTH = TXN_DEPTH_LIMIT
MAX_TXN_TOTAL = TXN_TOTAL_LIMIT
MAX_LOOKS = LOOKS_LIMIT
RULES_VERSION = RULES_NUMBER
MAX_LEASES = LEASE_LIMIT
MIN_LEASE_TTL_MS = MIN_TTL
MAX_LEASE_TTL_MS = MAX_TTL
RANGE_PAGE_BYTES = PAGE_LIMIT
SESSION_WINDOW_OPS = WINDOW_OPS_LIMIT
SESSION_WINDOW_BYTES = WINDOW_BYTES_LIMIT
ALL_SESSIONS_BYTES = ALL_BYTES_LIMIT
ALL_SESSIONS_OPS = ALL_OPS_LIMIT
ENDED_SESSIONS_KEPT = ENDED_LIMIT
KEY_OVERHEAD_BYTES = OVERHEAD
VERSION_OVERHEAD_BYTES = OVERHEAD_OF_VERSION
RECLAIMED_PER_ENTRY = RECLAIM_STEP
RECLAIM_COSTS = RECLAIM_VERSION, RECLAIM_TOMBSTONE, RECLAIM_KEY_BYTES
DIGEST_EVERY = DIGEST_STEP
CHECKPOINTS_KEPT = CHECKPOINT_LIMIT

cdef enum:
    OPERATION_WORK = 16     # of an entry or read, beside what it looks at; in looks at a key, as KeyStore::work


cdef int session_id(bytes session, SessionId* out) except -1:
    if PyBytes_GET_SIZE(session) != 16:
        raise ValueError("a session id has 16 bytes")
    memcpy(&out.high, PyBytes_AS_STRING(session), 8)
    memcpy(&out.low, PyBytes_AS_STRING(session) + 8, 8)
    return 0


cdef bytes session_bytes(const SessionId* id):
    cdef uint64_t halves[2]
    halves[0] = id.high
    halves[1] = id.low
    return PyBytes_FromStringAndSize(<const char*>halves, 16)


cdef int load_addr(object addr, qaddr* out) except -1:
    # None: nobody waits.
    memset(out, 0, sizeof(qaddr))
    if addr is None:
        return 0
    if not isinstance(addr, bytes) or not 0 < PyBytes_GET_SIZE(addr) <= ADDR_SIZE:
        raise ValueError(f"an address is 1 to {ADDR_SIZE} bytes")
    out.length = <uint32_t>PyBytes_GET_SIZE(addr)
    memcpy(out.data, PyBytes_AS_STRING(addr), out.length)
    return 0


cdef bytes bytes_of(string_view view):
    return PyBytes_FromStringAndSize(view.data(), view.size())


cdef tuple version_of(const Version* version):
    # None if there is none, or it is a tombstone.
    if version == NULL or version.dead():
        return None
    return (bytes_of(version.value()), version.create_revision, version.mod_revision, version.version, version.lease)


cdef class Store:
    """Ordered keys, leases, sessions and digest of one group. `quota_bytes` holds until the log says another; what
    `session_limit` refuses is replicated state, so all nodes must be given the same one."""

    def __cinit__(self, uint64_t quota_bytes, size_t session_limit=100_000, uint64_t key=0):
        self.machine = new Machine(quota_bytes, session_limit, key)

    def __dealloc__(self):
        del self.machine

    cdef Py_ssize_t step(self, const uint8_t* data, size_t size, const qaddr* addr, Replies replies,
                         uint64_t now_ns) except -1 nogil:
        cdef qentry record
        cdef Entry entry
        cdef Answer answer
        if decode_entry(data, size, &record) != 0:
            return 0
        entry.kind = record.kind
        entry.session.high = record.session_hi
        entry.session.low = record.session_lo
        entry.seq = record.seq
        entry.answered_below = record.answered_below
        entry.command = record.command
        entry.size = record.command_length
        answer = self.machine.apply(entry, now_ns)
        self.machine.store.spend(OPERATION_WORK)
        self.machine.store.spend_bytes(record.length + answer.size)
        self.machine.seal(crc32c_update(0, data, record.length), answer.status,
                          crc32c_update(0, answer.body, answer.size))
        if addr != NULL and addr.length != 0 and replies is not None:
            replies.add_record(addr, <uint8_t>answer.status, record.kind, record.session_lo, record.seq,
                               answer.revision, answer.body, <uint32_t>answer.size)
        return record.length

    cdef int check_next(self, uint64_t first_index) except -1:
        if first_index != self.machine.applied() + 1:
            raise ValueError(f"entry {first_index} cannot follow {self.machine.applied()}")
        return 0

    def apply(self, Ring ring not None, uint64_t first, uint64_t last, Pending pending=None, Replies replies=None,
              uint64_t now_ns=0, bint stop_at_compaction=False, uint64_t until=UINT64_MAX):
        """Applies first..last out of the ring; answers go to whoever waits in `pending`. Returns the last applied.

        stop_at_compaction: that is an entry that compacts, if there is one: the entries behind it reclaim what it gave
        up, and whoever follows the changes has to see them before. until: so is the one that brings `work` there.
        ValueError: `first` is not the next entry, or an entry is malformed. LookupError: the ring does not hold one.
        The entries before the one that the error names are applied.
        """
        cdef uint64_t index = first
        cdef const uint8_t* data = NULL
        cdef uint32_t length = 0
        cdef qaddr addr
        cdef bint held = True
        cdef bint sound = True
        cdef bint waits
        cdef uint64_t compacted = self.machine.store.compacted()
        self.check_next(first)
        with nogil:
            while index <= last:
                held = ring.locate(index, &data, &length) == 0
                if not held:
                    break
                waits = pending is not None and pending.take(index, &addr) == 0
                sound = self.step(data, length, &addr if waits else NULL, replies, now_ns) != 0
                if not sound:
                    break
                index += 1
                if stop_at_compaction and self.machine.store.compacted() != compacted:
                    break
                if self.machine.store.work() >= until:
                    break
        if not held:
            raise LookupError(f"entry {index} is not in the ring")
        if not sound:
            raise ValueError(f"entry {index} is malformed")
        return index - 1

    def apply_bytes(self, data not None, uint64_t first_index, uint64_t count, Replies replies=None, list addrs=None,
                    uint64_t now_ns=0, uint64_t until=UINT64_MAX):
        """Applies `count` entries that lie back to back and fill `data`, the first at `first_index`; the last one
        is that which brings `work` to `until`. Returns how many it applied.

        With `replies` and `addrs` (an address or None for each entry), answers them. ValueError: `first_index` is not
        the next, or an entry is malformed (those before it are applied), or the bytes are not exactly `count` entries.
        """
        cdef Py_buffer view
        cdef vector[qaddr] waiting
        cdef const qaddr* first_addr = NULL
        cdef uint64_t done = 0
        cdef size_t used = 0
        self.check_next(first_index)
        if addrs is not None:
            if <uint64_t>len(addrs) != count:
                raise ValueError(f"{len(addrs)} addresses for {count} entries")
            waiting.resize(count)
            for i in range(len(addrs)):
                load_addr(addrs[i], &waiting[i])
            first_addr = waiting.data()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                used = self.walk(<const uint8_t*>view.buf, view.len, count, first_addr, replies, now_ns, &done, until)
            if 0 < done < count and self.machine.store.work() >= until:
                return done
            if done != count:
                raise ValueError(f"entry {first_index + done} is malformed")
            if used != <size_t>view.len:
                raise ValueError(f"{view.len - used} bytes follow the {count} entries")
            return done
        finally:
            PyBuffer_Release(&view)

    cdef Py_ssize_t walk(self, const uint8_t* data, size_t size, uint64_t count, const qaddr* addrs, Replies replies,
                         uint64_t now_ns, uint64_t* done, uint64_t until) except -1 nogil:
        cdef size_t offset = 0
        cdef Py_ssize_t length
        while done[0] < count:
            length = self.step(data + offset, size - offset, &addrs[done[0]] if addrs != NULL else NULL, replies,
                               now_ns)
            if length == 0:
                break
            offset += length
            done[0] += 1
            if self.machine.store.work() >= until:
                break
        return offset

    cdef int answer_read(self, const uint8_t* data, size_t size, const qaddr* addr, Replies replies,
                         optional[uint64_t] now, uint64_t until) except -1 nogil:
        cdef qentry record
        cdef SessionId id
        cdef Answer answer
        cdef bint keeps_lease
        # Staging checked the record; one that is bad all the same has nobody to be answered.
        if decode_entry(data, size, &record) != 0:
            return 0
        # Keep-alives are as cheap as short, and must not wait: neither for work nor for room.
        keeps_lease = record.command_length != 0 and record.command[0] == KEEP_LEASE
        if record.kind == ENTRY_KEEP_ALIVE:
            id.high = record.session_hi
            id.low = record.session_lo
            answer = self.machine.keep_session(id, now)
        elif not keeps_lease and self.machine.store.work() >= until:
            return 1
        elif not keeps_lease and replies.used != 0 and replies.capacity - replies.used < MAX_ENTRY_SIZE:
            # A page and what stands around it may have no room: it is not put together for nothing, and the client
            # asks again. Alone any read has all the room that there is.
            replies.overflow += 1
            return 0
        else:
            if record.kind == ENTRY_STALE_READ:
                now = optional[uint64_t](nullopt)
            answer = self.machine.read(record.command, record.command_length, now)
        self.machine.store.spend(OPERATION_WORK)
        self.machine.store.spend_bytes(record.length + answer.size)
        replies.add_record(addr, <uint8_t>answer.status, record.kind, record.session_lo, record.seq, answer.revision,
                           answer.body, <uint32_t>answer.size)
        return 0

    def read(self, ReadQueue queue not None, uint64_t read_id, Replies replies not None, uint64_t now_ns,
             uint64_t until=UINT64_MAX):
        """Answers the reads of `read_id` from the state as it is now, and discards them from the queue.

        Once `work` is `until` only keep-alives are answered. False: the others are left for another call. Except stale
        ones, for the leader only: a keep-alive among them gives its session or lease a full TTL from `now_ns` on.
        """
        cdef size_t i
        cdef bint left = False
        cdef qread* waiting
        cdef optional[uint64_t] now = optional[uint64_t](now_ns)
        with nogil:
            for i in range(queue.find(read_id), queue.find(read_id + 1)):
                waiting = &queue.reads[i]
                if waiting.length == 0:
                    continue
                if self.answer_read(queue.bytes_.data() + waiting.offset, waiting.length, &waiting.addr, replies, now,
                                    until) != 0:
                    left = True
                else:
                    queue.forget(waiting)
        if not left:
            queue.remove(read_id)
        return not left

    def read_stale(self, Stage stage not None, Replies replies not None):
        """Answers the staged stale reads from the state as it is now."""
        cdef size_t i
        cdef qstaged* op
        with nogil:
            for i in range(stage.stale_.size()):
                op = &stage.stale_[i]
                self.answer_read(op.record, op.length, &op.addr, replies, optional[uint64_t](nullopt), UINT64_MAX)

    def query(self, bytes command not None, now_ns=None):
        """Runs one read-only command: (status, revision, body), as a reply would carry them. now_ns: as in read();
        None: as a stale read."""
        cdef optional[uint64_t] now
        cdef Answer answer
        if now_ns is not None:
            now = <uint64_t>now_ns
        answer = self.machine.read(<const uint8_t*>PyBytes_AS_STRING(command), PyBytes_GET_SIZE(command), now)
        return answer.status, answer.revision, PyBytes_FromStringAndSize(answer.body, answer.size)

    def events(self, uint64_t first_revision, size_t limit_revisions=SIZE_MAX):
        """The changes of up to `limit_revisions` revisions from `first_revision` on, in order, those of one revision
        together: (revision, key, version, replaced), the latter two (value, create_revision, mod_revision, version,
        lease) or None: a delete, and a key that was not there before.

        ValueError: the revision is compacted.
        """
        cdef const KeyStore* store = &self.machine.store
        cdef const Change* change
        cdef uint64_t number, revision = 0
        cdef size_t revisions = 0
        cdef list found = []
        if first_revision <= store.compacted():
            raise ValueError(f"revision {first_revision} is compacted, up to {store.compacted()}")
        number = store.seek_change(first_revision)
        while number != store.changes_end():
            change = &store.change(number)
            if change.revision() != revision:
                if revisions == limit_revisions:
                    break
                revisions += 1
                revision = change.revision()
            found.append((revision, bytes_of(change.record.key()), version_of(change.version),
                          version_of(change.previous())))
            number += 1
        return found

    def expired(self, uint64_t now_ns, uint64_t ttl_ns, uint64_t again_ns, size_t limit=SIZE_MAX):
        """(session id, generation) of up to `limit` sessions not seen for `ttl_ns`, by id; each is named again from
        `again_ns` on, unless it was seen since."""
        cdef Expired one
        cdef vector[Expired] found = self.machine.sessions.expired(now_ns, ttl_ns, again_ns, limit)
        return [(session_bytes(&one.id), one.generation) for one in found]

    def session_expiring(self, bytes session not None):
        """The session's expiry was proposed: keep-alives are refused from now on, until it does something."""
        cdef SessionId id = SessionId(0, 0)
        session_id(session, &id)
        self.machine.sessions.expiring(id)

    def rearm(self, uint64_t now_ns):
        """Every session and lease has a full TTL from `now_ns` on, and expiries proposed are void: for a new leader."""
        self.machine.sessions.rearm(now_ns)
        self.machine.leases.rearm(now_ns)

    def put_off(self, uint64_t until_ns, uint64_t ttl_ns):
        """No session, whose TTL is `ttl_ns`, and no lease is due before `until_ns`: after a stall of the loop.

        But for those that this was done for since they were seen or touched; expiries proposed stand.
        """
        self.machine.sessions.put_off(until_ns, ttl_ns)
        self.machine.leases.put_off(until_ns)

    def lease_touch(self, uint64_t lease, uint64_t now_ns):
        """Gives the lease a full TTL from `now_ns` on; False if there is none, or its expiry was proposed."""
        return self.machine.leases.touch(lease, now_ns) != NULL

    def lease_expiring(self, uint64_t lease):
        """The lease's expiry was proposed: keep-alives are refused from now on."""
        self.machine.leases.expiring(lease)

    def leases_due(self, uint64_t now_ns, uint64_t again_ns, size_t limit=SIZE_MAX):
        """(lease, generation) of up to `limit` leases whose TTL has passed, the longest overdue first; each is named
        again from `again_ns` on, unless it is touched or its expiry proposed."""
        cdef DueLease one
        cdef vector[DueLease] due = self.machine.leases.due(now_ns, again_ns, limit)
        return [(one.id, one.generation) for one in due]

    @property
    def next_lease_due(self):
        """Before that leases_due() names nothing, ns."""
        return self.machine.leases.next_due()

    def lease(self, uint64_t lease):
        """(generation, TTL in ms, number of keys) of a lease, else None."""
        cdef Lease* found = self.machine.leases.find(lease)
        if found == NULL:
            return None
        return found.generation, found.ttl_ms, found.keys.size()

    def session(self, bytes session not None):
        """(generation, answered_below, bytes of replies held) of an open session, else None."""
        cdef SessionId id
        cdef Session* found
        session_id(session, &id)
        found = self.machine.sessions.find(id)
        if found == NULL:
            return None
        return found.generation, found.window.base(), found.window.bytes()

    def checkpoint(self):
        """(index, digest) of the newest applied index that is a multiple of DIGEST_EVERY; (0, 0) before the first."""
        cdef Checkpoint newest = self.machine.checkpoint()
        return newest.index, newest.digest

    def digest_at(self, uint64_t index):
        """Digest at one of the last CHECKPOINTS_KEPT checkpoints, else None."""
        found = self.machine.digest_at(index)
        return found.value() if found.has_value() else None

    @property
    def applied(self):
        """Index of the last entry applied."""
        return self.machine.applied()

    @property
    def digest(self):
        """Chained over every entry applied and its reply."""
        return self.machine.digest()

    @property
    def revision(self):
        return self.machine.store.revision()

    @property
    def compacted(self):
        """The revision compacted last: reads below it are refused, and events up to it. 0: none."""
        return self.machine.store.compacted()

    @property
    def reclaiming(self):
        """Whether a compaction has given up what further entries have yet to reclaim."""
        return self.machine.store.reclaiming()

    @property
    def changes(self):
        """Changes whose history is held; those included that a compaction has yet to reclaim."""
        return self.machine.store.changes()

    @property
    def keys(self):
        """Keys that exist at the newest revision."""
        return self.machine.store.size()

    @property
    def bytes(self):
        """What counts against the quota: keys and all their versions, with a fixed overhead for each."""
        return self.machine.store.bytes()

    @property
    def live_bytes(self):
        """What `bytes` would be without history."""
        return self.machine.store.live_bytes()

    @property
    def work(self):
        """What this store has done in its life, in looks at a key: some 20 ns each. Not replicated."""
        return self.machine.store.work()

    @property
    def leases(self):
        """Leases granted and not ended."""
        return self.machine.leases.size()

    @property
    def quota_bytes(self):
        return self.machine.store.quota()

    @property
    def rules(self):
        """The version of the rules that the log has said commands are judged by (Kind.RULES), 0: none yet."""
        return self.machine.rules()

    @property
    def leadership(self):
        """The index of the newest NOOP applied, with which a leadership began; 0: none was."""
        return self.machine.leadership()

    @property
    def windows(self):
        """(bytes of answers, slots beyond a few each) that the windows of all sessions hold."""
        return self.machine.sessions.holdings().bytes, self.machine.sessions.holdings().ops

    @property
    def sessions(self):
        """Open sessions."""
        return self.machine.sessions.size()

    @property
    def executed(self):
        """Commands executed; a retry that was answered from its session is none."""
        return self.machine.executed()
