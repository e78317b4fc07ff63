# The threads behind the log's files; see walthread.h for what is shared and how.

from libc.stdint cimport uint32_t, uint64_t

from quorumd_fastpath.walframe cimport Batch

cdef extern from "walthread.h" nogil:
    enum:
        QTHREAD_NEW
        QJOB_FULL
        QJOB_STOPPED
        QJOB_BUSY
        QFILE_PREPARE
        QFILE_READ

    ctypedef struct qthread:
        int event_fd
        int phase
        uint64_t submitted
        uint64_t completed
        uint32_t capacity

    ctypedef struct qwal_job:
        pass

    ctypedef struct qwal:
        qthread base
        qwal_job* jobs

    ctypedef struct qfile_job:
        int kind
        int error
        int fd
        int recycle
        uint64_t offset
        uint64_t size
        char* out
        const char* temporary
        const char* final
        const char* header
        size_t header_size

    ctypedef struct qfile:
        qthread base
        qfile_job* jobs

    void qthread_init(qthread* self, uint32_t capacity)
    int qthread_start(qthread* self, void* (*run)(void*) noexcept nogil, void* argument)
    void qthread_stop(qthread* self, int drain)
    void qthread_drain_event(qthread* self)

    void* qwal_run(void* argument) noexcept
    int qwal_submit(qwal* self, int fd, uint64_t offset, const char* data, size_t size, uint64_t seq)
    int qwal_write_inline(qwal* self, int fd, uint64_t offset, const char* data, size_t size, uint64_t seq)
    void qwal_state(qwal* self, uint64_t* durable_seq, int* error, uint64_t* completed, uint64_t* submitted,
                    uint64_t* queued_bytes)
    void qwal_sync_figures(qwal* self, uint64_t* count, uint64_t* last_ns)
    uint32_t qwal_sync_p99_us(qwal* self)
    uint64_t qwal_oldest_pending_ns(qwal* self, uint64_t now)

    void* qfile_run(void* argument) noexcept
    int qfile_submit(qfile* self, const qfile_job* job, uint64_t reaped)
    qfile_job* qfile_slot(qfile* self, uint64_t number)
    uint64_t qfile_completed(qfile* self)
    int qfile_write(int fd, const void* data, size_t size, uint64_t offset)
    int qfile_datasync(int fd)
    int qfile_sync_directory(const char* path)

cdef class WalThread:
    cdef qwal thread
    cdef list batches           # submitted and not yet reaped, in order; keeps their memory while the thread reads it
    cdef uint64_t reaped        # jobs handed back by reap()
    cdef uint64_t last_seq      # never goes back

    cdef int check(self, Batch batch, uint64_t seq) except -1

cdef class FileWorker:
    cdef qfile thread
    cdef list kept              # (kind, tag, objects whose memory the job uses), by job number from `reaped` on
    cdef uint64_t reaped

    cdef int queue(self, qfile_job* job, tuple keep) except -1
