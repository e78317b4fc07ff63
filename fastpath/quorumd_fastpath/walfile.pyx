"""System calls for the log's files: the sync thread, the file worker, and three blocking helpers.

Little policy lives here: which file, which offset and what to do about an error is storage's business. The threads run
wholly in C (walthread.h), never take the GIL, and tell the loop through an eventfd that something completed.

A failed write or sync is final: the first errno sticks and nothing is written after it, because what the page cache
holds is then no longer known (the sync that reported the error may have dropped the pages it could not write).
"""

import os

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from quorumd_fastpath.walframe cimport Batch

DEFAULT_WAL_JOBS = 4096
DEFAULT_FILE_JOBS = 16


cdef object failure(int error):
    return OSError(error, os.strerror(error))


cdef uint32_t power_of_two(object limit) except 0:
    if not 1 <= limit <= 1 << 20:
        raise ValueError(f"a queue of {limit} jobs is not within 1..{1 << 20}")
    return <uint32_t>(1 << (limit - 1).bit_length())


@cython.no_gc_clear  # __dealloc__ joins the thread, which reads the batches' memory until then
cdef class WalThread:
    """The thread that makes the log durable. One producer: all methods are called from one thread.

    Nothing is created before start(). `queue_limit` is the number of jobs (rounded up to a power of two) that may
    wait; how many bytes may wait is the caller's choice, by `queued_bytes`.
    """

    def __cinit__(self, object queue_limit=DEFAULT_WAL_JOBS):
        qthread_init(&self.thread.base, power_of_two(queue_limit))
        self.thread.jobs = <qwal_job*>calloc(self.thread.base.capacity, sizeof(qwal_job))
        if self.thread.jobs == NULL:
            raise MemoryError
        self.batches = []

    def __dealloc__(self):
        if self.thread.jobs == NULL:
            return
        with nogil:
            qthread_stop(&self.thread.base, 0)
        free(self.thread.jobs)

    def start(self):
        """Creates the eventfd and the thread; once. OSError if either cannot be had."""
        if self.thread.base.phase != QTHREAD_NEW:
            raise RuntimeError("the WAL thread was started before")
        cdef int error = qthread_start(&self.thread.base, qwal_run, &self.thread)
        if error:
            raise failure(error)

    def stop(self, bint drain=True):
        """Joins the thread, after what is queued is durable, or with drain=False after what is under way.

        Safe if it never started or was stopped before. All batches are free afterwards; `durable_seq` of reap() says
        what was made durable. Blocks for as long as the disk does.
        """
        with nogil:
            qthread_stop(&self.thread.base, drain)
        for batch in self.batches:
            (<Batch>batch).busy = False
        self.reaped += <uint64_t>len(self.batches)
        self.batches.clear()

    def fileno(self):
        """The eventfd, readable when jobs completed or failed; -1 unless the thread runs."""
        return self.thread.base.event_fd

    def submit(self, int fd, uint64_t offset, Batch batch not None, uint64_t seq):
        """Queues a finished batch for `offset` of `fd`. The batch is busy, and `fd` must stay open, until reaped.

        `seq` never goes back; it is durable when the *last* job that carries it is, so of a Ready that spans two
        segments the first job carries the seq before it. Raises the sticky OSError, BufferError when the queue is
        full, RuntimeError if the thread does not run or the batch is busy or not finished.
        """
        self.check(batch, seq)
        cdef int error = qwal_submit(&self.thread, fd, offset, batch.data_, batch.size, seq)
        if error == QJOB_FULL:
            raise BufferError("the WAL queue is full")
        if error == QJOB_STOPPED:
            raise RuntimeError("the WAL thread does not run")
        if error:
            raise failure(error)
        batch.busy = True
        self.batches.append(batch)
        self.last_seq = seq

    def submit_inline(self, int fd, uint64_t offset, Batch batch not None, uint64_t seq):
        """Writes and syncs in the calling thread, without the GIL: saves two hand-overs when nothing else waits.

        Only while `idle`, else RuntimeError. On return `seq` is durable and the batch free again (it is not reaped);
        on an error OSError, which sticks. Works without start().
        """
        self.check(batch, seq)
        cdef int error
        batch.busy = True
        with nogil:
            error = qwal_write_inline(&self.thread, fd, offset, batch.data_, batch.size, seq)
        batch.busy = False
        if error == QJOB_BUSY:
            raise RuntimeError("jobs are queued: an inline write would overtake them")
        if error:
            raise failure(error)
        self.last_seq = seq

    cdef int check(self, Batch batch, uint64_t seq) except -1:
        if batch.busy or not batch.finished:
            raise RuntimeError("the batch is busy or not finished")
        if seq < self.last_seq:
            raise ValueError(f"seq {seq} after {self.last_seq}")
        return 0

    def reap(self):
        """(durable_seq, errno, completed): drains the eventfd; the completed batches are free for begin() again.

        durable_seq counts inline writes too. errno is 0 or the first error; the batches it left unwritten stay busy
        until stop().
        """
        cdef uint64_t durable_seq, completed, submitted, queued_bytes
        cdef int error
        qthread_drain_event(&self.thread.base)
        qwal_state(&self.thread, &durable_seq, &error, &completed, &submitted, &queued_bytes)
        cdef Py_ssize_t count = <Py_ssize_t>(completed - self.reaped) if completed > self.reaped else 0
        done = self.batches[:count]
        del self.batches[:count]
        self.reaped += <uint64_t>count
        for batch in done:
            (<Batch>batch).busy = False
        return durable_seq, error, done

    @property
    def idle(self):
        """Whether nothing is queued or under way."""
        cdef uint64_t durable_seq, completed, submitted, queued_bytes
        cdef int error
        qwal_state(&self.thread, &durable_seq, &error, &completed, &submitted, &queued_bytes)
        return completed == submitted

    @property
    def queued_bytes(self):
        """Bytes submitted and not yet durable."""
        cdef uint64_t durable_seq, completed, submitted, queued_bytes
        cdef int error
        qwal_state(&self.thread, &durable_seq, &error, &completed, &submitted, &queued_bytes)
        return queued_bytes

    @property
    def error(self):
        """The errno that sticks, or 0."""
        cdef uint64_t durable_seq, completed, submitted, queued_bytes
        cdef int error
        qwal_state(&self.thread, &durable_seq, &error, &completed, &submitted, &queued_bytes)
        return error

    @property
    def sync_count(self):
        """Cycles synced so far (a cycle makes everything durable that was queued when it began)."""
        cdef uint64_t count, last_ns
        qwal_sync_figures(&self.thread, &count, &last_ns)
        return count

    @property
    def last_sync_ns(self):
        """What the syncs of the last cycle took, in nanoseconds."""
        cdef uint64_t count, last_ns
        qwal_sync_figures(&self.thread, &count, &last_ns)
        return last_ns

    def fsync_p99_us(self):
        """99th percentile over the last 512 syncs, in microseconds; 0 before the first."""
        return qwal_sync_p99_us(&self.thread)

    def oldest_pending_ns(self, uint64_t now):
        """Age at `now` (CLOCK_MONOTONIC, ns) of the oldest job that is not durable; 0 if there is none."""
        return qwal_oldest_pending_ns(&self.thread, now)


@cython.no_gc_clear  # as above
cdef class FileWorker:
    """The thread that prepares segment files and reads old ones, one job after the other.

    `queue_limit` jobs (rounded up to a power of two) may be queued or finished and not yet collected.
    """

    def __cinit__(self, object queue_limit=DEFAULT_FILE_JOBS):
        qthread_init(&self.thread.base, power_of_two(queue_limit))
        self.thread.jobs = <qfile_job*>calloc(self.thread.base.capacity, sizeof(qfile_job))
        if self.thread.jobs == NULL:
            raise MemoryError
        self.kept = []

    def __dealloc__(self):
        if self.thread.jobs == NULL:
            return
        with nogil:
            qthread_stop(&self.thread.base, 0)
        free(self.thread.jobs)

    def start(self):
        """Creates the eventfd and the thread; once. OSError if either cannot be had."""
        if self.thread.base.phase != QTHREAD_NEW:
            raise RuntimeError("the file worker was started before")
        cdef int error = qthread_start(&self.thread.base, qfile_run, &self.thread)
        if error:
            raise failure(error)

    def stop(self, bint drain=False):
        """Joins the thread; with drain=False a file being filled is given up (ECANCELED) and the rest not begun.

        Safe if it never started or was stopped before. done() still returns what was finished.
        """
        with nogil:
            qthread_stop(&self.thread.base, drain)

    def fileno(self):
        """The eventfd, readable when jobs completed; -1 unless the thread runs."""
        return self.thread.base.event_fd

    def prepare(self, object path_temporary, object path_final, uint64_t size, bytes header, object tag,
                bint recycle=False):
        """Makes `path_final`: `size` bytes, zeros after `header`, durable together with its directory entry.

        Built as `path_temporary` (in the same directory) and renamed when its content is on the disk; on an error
        `path_temporary` is removed. With `recycle` it must exist with exactly that size (else EINVAL in done()): only
        the header is written, the stale rest stays. BufferError when the queue is full.
        """
        cdef bytes temporary = os.fsencode(path_temporary)
        cdef bytes final = os.fsencode(path_final)
        if not temporary or not final or b"\0" in temporary or b"\0" in final:
            raise ValueError("a path is empty or has a NUL in it")
        if header is not None and <uint64_t>len(header) > size:
            raise ValueError("the header is larger than the file")
        cdef qfile_job job
        job.kind = QFILE_PREPARE
        job.error = 0
        job.fd = -1
        job.recycle = recycle
        job.offset = 0
        job.size = size
        job.out = NULL
        job.temporary = PyBytes_AS_STRING(temporary)
        job.final = PyBytes_AS_STRING(final)
        job.header = NULL
        job.header_size = 0
        if header is not None:
            job.header = PyBytes_AS_STRING(header)
            job.header_size = <size_t>len(header)
        self.queue(&job, ("prepare", tag, (temporary, final, header)))

    def read(self, int fd, uint64_t offset, uint64_t length, object tag):
        """Reads exactly `length` bytes (at most 1 GiB); `fd` must stay open until done() returns the job.

        ENODATA if the file ends before. BufferError when the queue is full.
        """
        if length > <uint64_t>1 << 30:
            raise ValueError(f"a read of {length} bytes")
        out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
        cdef qfile_job job
        job.kind = QFILE_READ
        job.error = 0
        job.fd = fd
        job.recycle = 0
        job.offset = offset
        job.size = length
        job.out = PyBytes_AS_STRING(out)
        job.temporary = job.final = job.header = NULL
        job.header_size = 0
        # A zero-length read shares the empty bytes object: nothing is written to it.
        self.queue(&job, ("read", tag, out))

    cdef int queue(self, qfile_job* job, tuple keep) except -1:
        cdef int error = qfile_submit(&self.thread, job, self.reaped)
        if error == QJOB_FULL:
            raise BufferError("the file worker's queue is full")
        if error:
            raise RuntimeError("the file worker does not run")
        self.kept.append(keep)
        return 0

    def done(self):
        """[(kind, tag, errno, data)] of what completed since, in order; drains the eventfd.

        kind is "prepare" or "read"; data is None unless a read succeeded.
        """
        qthread_drain_event(&self.thread.base)
        cdef uint64_t completed = qfile_completed(&self.thread)
        cdef qfile_job* job
        results = []
        while self.reaped < completed:
            job = qfile_slot(&self.thread, self.reaped)
            kind, tag, kept = self.kept.pop(0)
            results.append((kind, tag, job.error, kept if job.kind == QFILE_READ and job.error == 0 else None))
            self.reaped += 1
        return results

    @property
    def queued(self):
        """Jobs not yet returned by done()."""
        return len(self.kept)


def write_sync(int fd, uint64_t offset, object data):
    """Writes all of `data` at `offset` and syncs `fd` (fdatasync), without the GIL. OSError."""
    cdef Py_buffer view
    cdef int error
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            error = qfile_write(fd, view.buf, <size_t>view.len, offset)
            if error == 0:
                error = qfile_datasync(fd)
    finally:
        PyBuffer_Release(&view)
    if error:
        raise failure(error)


def fdatasync_fd(int fd):
    """fdatasync without the GIL. OSError."""
    cdef int error
    with nogil:
        error = qfile_datasync(fd)
    if error:
        raise failure(error)


def fsync_dir(object path):
    """Makes the entries of directory `path` durable, without the GIL. OSError."""
    cdef bytes name = os.fsencode(path)
    cdef const char* raw = name
    cdef int error
    with nogil:
        error = qfile_sync_directory(raw)
    if error:
        raise failure(error)
