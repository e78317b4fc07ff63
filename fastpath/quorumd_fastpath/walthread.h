// The two threads of walfile.pyx: one writes and syncs the log, one prepares and reads files.
//
// Neither ever touches Python: no object, no reference count, no GIL. Memory they read or fill belongs to objects
// that walfile.pyx keeps alive until a job is reaped or the thread is joined. Everything shared is under `lock`,
// except the job slots between `completed` and the `submitted` last seen, which belong to the thread.

#ifndef QUORUMD_WALTHREAD_H
#define QUORUMD_WALTHREAD_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

enum { QTHREAD_NEW = 0, QTHREAD_RUNNING = 1, QTHREAD_DRAINING = 2, QTHREAD_ABANDONED = 3, QTHREAD_JOINED = 4 };
enum { QWAL_SYNC_HISTORY = 512, QWAL_IOVECS = 64, QWAL_FILES = 16 };
enum { QJOB_FULL = -1, QJOB_STOPPED = -2, QJOB_BUSY = -3 };  // refusals, apart from every errno
enum { QFILE_PREPARE = 1, QFILE_READ = 2, QFILE_FILL_BYTES = 1 << 20 };

static inline uint64_t qclock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// -- whole writes, whole reads, syncs: 0 or an errno ---------------------------------------------------------------

// Writes all of `vecs` (which it uses up) at `offset`; a short write is continued, an interrupted one repeated.
static inline int qfile_write_all(int fd, struct iovec* vecs, int count, uint64_t offset) {
    while (count > 0) {
        if (vecs->iov_len == 0) {
            vecs++;
            count--;
            continue;
        }
        ssize_t written = pwritev(fd, vecs, count, (off_t)offset);
        if (written < 0) {
            if (errno == EINTR) continue;
            return errno;
        }
        if (written == 0) return EIO;
        offset += (uint64_t)written;
        size_t left = (size_t)written;
        while (count > 0 && left >= vecs->iov_len) {
            left -= vecs->iov_len;
            vecs++;
            count--;
        }
        if (left > 0) {
            vecs->iov_base = (char*)vecs->iov_base + left;
            vecs->iov_len -= left;
        }
    }
    return 0;
}

static inline int qfile_write(int fd, const void* data, size_t size, uint64_t offset) {
    struct iovec vec = {(void*)data, size};
    return qfile_write_all(fd, &vec, 1, offset);
}

// ENODATA when the file ends early.
static inline int qfile_read(int fd, char* out, size_t size, uint64_t offset) {
    while (size > 0) {
        ssize_t got = pread(fd, out, size, (off_t)offset);
        if (got < 0) {
            if (errno == EINTR) continue;
            return errno;
        }
        if (got == 0) return ENODATA;
        out += got;
        offset += (uint64_t)got;
        size -= (size_t)got;
    }
    return 0;
}

// The one place where the log is synced. QUORUMD_OMIT_FDATASYNC builds a quorumd that forgets to: the power-loss
// test must fail with it, or it proves nothing. Never defined in a build that anybody runs.
static inline int qfile_datasync(int fd) {
#ifdef QUORUMD_OMIT_FDATASYNC
    (void)fd;
    return 0;
#else
    int rc;
    do rc = fdatasync(fd);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : errno;
#endif
}

static inline int qfile_fullsync(int fd) {
    int rc;
    do rc = fsync(fd);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : errno;
}

static inline int qfile_sync_directory(const char* path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno;
    int error = qfile_fullsync(fd);
    close(fd);
    return error;
}

// -- what both threads share ---------------------------------------------------------------------------------------

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    pid_t owner;         // the process that started the thread: a fork has the memory but not the thread
    int event_fd;        // readable when something completed or failed; -1 before start and after stop
    int phase;
    uint64_t submitted;  // jobs ever queued
    uint64_t completed;  // jobs ever finished; completed..submitted are queued or under way
    uint32_t capacity;   // of the job array, a power of two
} qthread;

static inline void qthread_init(qthread* self, uint32_t capacity) {
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->wake, NULL);
    self->event_fd = -1;
    self->phase = QTHREAD_NEW;
    self->capacity = capacity;
}

// Starts with every signal blocked, so that signals keep going to Python's main thread.
static inline int qthread_start(qthread* self, void* (*run)(void*), void* argument) {
    self->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (self->event_fd < 0) return errno;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    self->phase = QTHREAD_RUNNING;
    self->owner = getpid();
    int error = pthread_create(&self->thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        self->phase = QTHREAD_NEW;
        close(self->event_fd);
        self->event_fd = -1;
    }
    return error;
}

// Lets the thread finish what is queued (or only what is under way) and joins it; safe in any phase, and more than
// once. In a forked child there is nothing to join.
static inline void qthread_stop(qthread* self, int drain) {
    if (self->phase == QTHREAD_NEW || self->phase == QTHREAD_JOINED) return;
    if (self->owner == getpid()) {
        pthread_mutex_lock(&self->lock);
        self->phase = drain ? QTHREAD_DRAINING : QTHREAD_ABANDONED;
        pthread_mutex_unlock(&self->lock);
        pthread_cond_signal(&self->wake);
        pthread_join(self->thread, NULL);
    }
    self->phase = QTHREAD_JOINED;
    close(self->event_fd);
    self->event_fd = -1;
}

static inline void qthread_notify(qthread* self) {
    uint64_t one = 1;
    // Can only fail when the counter is at its limit: then it is readable anyway.
    ssize_t rc = write(self->event_fd, &one, sizeof one);
    (void)rc;
}

// Before looking at what completed, never after: what completes in between makes the eventfd readable again.
static inline void qthread_drain_event(qthread* self) {
    uint64_t count;
    if (self->event_fd >= 0) {
        ssize_t rc = read(self->event_fd, &count, sizeof count);
        (void)rc;
    }
}

// -- the log ---------------------------------------------------------------------------------------------------------

typedef struct {
    const char* data;
    size_t size;
    uint64_t offset;
    uint64_t seq;
    uint64_t queued_ns;
    int fd;
} qwal_job;

typedef struct {
    qthread base;
    qwal_job* jobs;        // by job number & (capacity - 1)
    uint64_t queued_bytes; // of completed..submitted
    uint64_t durable_seq;  // every job with a seq up to this one is on the disk
    int error;             // the first errno; once set, nothing is written any more
    uint64_t sync_count;
    uint64_t last_sync_ns;
    uint32_t sync_us[QWAL_SYNC_HISTORY];
} qwal;

static inline qwal_job* qwal_slot(qwal* self, uint64_t number) {
    return &self->jobs[number & (self->base.capacity - 1)];
}

// Jobs that continue each other in one file go out in one pwritev.
static inline int qwal_write_jobs(qwal* self, uint64_t from, uint64_t upto) {
    while (from < upto) {
        struct iovec vecs[QWAL_IOVECS];
        const qwal_job* first = qwal_slot(self, from);
        uint64_t next_offset = first->offset;
        int count = 0;
        while (from < upto && count < QWAL_IOVECS) {
            const qwal_job* job = qwal_slot(self, from);
            if (job->fd != first->fd || job->offset != next_offset) break;
            vecs[count].iov_base = (void*)job->data;
            vecs[count].iov_len = job->size;
            next_offset += job->size;
            count++;
            from++;
        }
        int error = qfile_write_all(first->fd, vecs, count, first->offset);
        if (error != 0) return error;
    }
    return 0;
}

// Each distinct file once (beyond QWAL_FILES of them some twice, which is harmless).
static inline int qwal_sync_jobs(qwal* self, uint64_t from, uint64_t upto) {
    int synced[QWAL_FILES];
    int count = 0;
    for (; from < upto; from++) {
        int fd = qwal_slot(self, from)->fd;
        if (std::find(synced, synced + count, fd) != synced + count) continue;
        int error = qfile_datasync(fd);
        if (error != 0) return error;
        if (count < QWAL_FILES) synced[count++] = fd;
    }
    return 0;
}

// Under the lock.
static inline void qwal_record_sync(qwal* self, uint64_t elapsed_ns) {
    uint64_t elapsed_us = elapsed_ns / 1000;
    self->sync_us[self->sync_count % QWAL_SYNC_HISTORY] = elapsed_us > UINT32_MAX ? UINT32_MAX : (uint32_t)elapsed_us;
    self->sync_count++;
    self->last_sync_ns = elapsed_ns;
}

static inline void* qwal_run(void* argument) {
    qwal* self = (qwal*)argument;
    qthread* base = &self->base;
    pthread_mutex_lock(&base->lock);
    for (;;) {
        while (base->phase == QTHREAD_RUNNING && (base->completed == base->submitted || self->error != 0))
            pthread_cond_wait(&base->wake, &base->lock);
        if (base->phase == QTHREAD_ABANDONED || self->error != 0 || base->completed == base->submitted) break;
        uint64_t from = base->completed, upto = base->submitted;
        pthread_mutex_unlock(&base->lock);

        int error = qwal_write_jobs(self, from, upto);
        uint64_t began = qclock_ns();
        if (error == 0) error = qwal_sync_jobs(self, from, upto);
        uint64_t elapsed = qclock_ns() - began;

        pthread_mutex_lock(&base->lock);
        if (error != 0) {
            self->error = error;
        } else {
            for (uint64_t i = from; i < upto; i++) self->queued_bytes -= qwal_slot(self, i)->size;
            self->durable_seq = qwal_slot(self, upto - 1)->seq;
            qwal_record_sync(self, elapsed);
            base->completed = upto;
        }
        pthread_mutex_unlock(&base->lock);
        qthread_notify(base);
        pthread_mutex_lock(&base->lock);
    }
    pthread_mutex_unlock(&base->lock);
    return NULL;
}

// 0, the sticky errno, QJOB_FULL or QJOB_STOPPED.
static inline int qwal_submit(qwal* self, int fd, uint64_t offset, const char* data, size_t size, uint64_t seq) {
    qthread* base = &self->base;
    uint64_t now = qclock_ns();
    pthread_mutex_lock(&base->lock);
    int error = self->error;
    if (error == 0 && base->phase != QTHREAD_RUNNING) error = QJOB_STOPPED;
    if (error == 0 && base->submitted - base->completed >= base->capacity) error = QJOB_FULL;
    if (error == 0) {
        qwal_job job = {data, size, offset, seq, now, fd};
        *qwal_slot(self, base->submitted) = job;
        base->submitted++;
        self->queued_bytes += size;
    }
    pthread_mutex_unlock(&base->lock);
    if (error == 0) pthread_cond_signal(&base->wake);
    return error;
}

// Write and sync in the calling thread. QJOB_BUSY when something is queued or under way: it must not be overtaken.
static inline int qwal_write_inline(qwal* self, int fd, uint64_t offset, const char* data, size_t size, uint64_t seq) {
    qthread* base = &self->base;
    pthread_mutex_lock(&base->lock);
    int error = self->error;
    int busy = base->submitted != base->completed;
    pthread_mutex_unlock(&base->lock);
    if (error != 0) return error;
    if (busy) return QJOB_BUSY;
    error = qfile_write(fd, data, size, offset);
    uint64_t began = qclock_ns();
    if (error == 0) error = qfile_datasync(fd);
    uint64_t elapsed = qclock_ns() - began;
    pthread_mutex_lock(&base->lock);
    if (error != 0) {
        self->error = error;
    } else {
        self->durable_seq = seq;
        qwal_record_sync(self, elapsed);
    }
    pthread_mutex_unlock(&base->lock);
    return error;
}

static inline void qwal_state(qwal* self, uint64_t* durable_seq, int* error, uint64_t* completed, uint64_t* submitted,
                              uint64_t* queued_bytes) {
    pthread_mutex_lock(&self->base.lock);
    *durable_seq = self->durable_seq;
    *error = self->error;
    *completed = self->base.completed;
    *submitted = self->base.submitted;
    *queued_bytes = self->queued_bytes;
    pthread_mutex_unlock(&self->base.lock);
}

static inline void qwal_sync_figures(qwal* self, uint64_t* count, uint64_t* last_ns) {
    pthread_mutex_lock(&self->base.lock);
    *count = self->sync_count;
    *last_ns = self->last_sync_ns;
    pthread_mutex_unlock(&self->base.lock);
}

static inline uint32_t qwal_sync_p99_us(qwal* self) {
    uint32_t copy[QWAL_SYNC_HISTORY];
    pthread_mutex_lock(&self->base.lock);
    size_t count = (size_t)std::min<uint64_t>(self->sync_count, QWAL_SYNC_HISTORY);
    memcpy(copy, self->sync_us, count * sizeof *copy);
    pthread_mutex_unlock(&self->base.lock);
    if (count == 0) return 0;
    size_t rank = (count * 99 + 99) / 100 - 1;
    std::nth_element(copy, copy + rank, copy + count);
    return copy[rank];
}

static inline uint64_t qwal_oldest_pending_ns(qwal* self, uint64_t now) {
    uint64_t age = 0;
    pthread_mutex_lock(&self->base.lock);
    if (self->base.completed != self->base.submitted) {
        uint64_t queued = qwal_slot(self, self->base.completed)->queued_ns;
        age = now > queued ? now - queued : 0;
    }
    pthread_mutex_unlock(&self->base.lock);
    return age;
}

// -- files -----------------------------------------------------------------------------------------------------------

typedef struct {
    int kind;
    int error;           // 0 or an errno, set before `completed` passes this job
    int fd;              // read
    int recycle;         // prepare: `temporary` exists with the right size; only its header is written
    uint64_t offset;     // read
    uint64_t size;       // bytes to read, or size of the new file
    char* out;           // read: filled here
    const char* temporary;
    const char* final;
    const char* header;  // prepare: first bytes of the file, or NULL
    size_t header_size;
} qfile_job;

typedef struct {
    qthread base;
    qfile_job* jobs;
} qfile;

static inline qfile_job* qfile_slot(qfile* self, uint64_t number) {
    return &self->jobs[number & (self->base.capacity - 1)];
}

static inline int qfile_stopping(qfile* self) {
    pthread_mutex_lock(&self->base.lock);
    int stopping = self->base.phase == QTHREAD_ABANDONED;
    pthread_mutex_unlock(&self->base.lock);
    return stopping;
}

static inline int qfile_fill(qfile* self, int fd, uint64_t size) {
    // calloc of this size maps fresh zero pages; only ever read, they cost no memory.
    char* zeros = (char*)calloc(1, QFILE_FILL_BYTES);
    if (zeros == NULL) return ENOMEM;
    int error = 0;
    for (uint64_t offset = 0; error == 0 && offset < size; offset += QFILE_FILL_BYTES) {
        error = qfile_write(fd, zeros, (size_t)std::min<uint64_t>(QFILE_FILL_BYTES, size - offset), offset);
        if (error == 0 && qfile_stopping(self)) error = ECANCELED;
    }
    free(zeros);
    return error;
}

static inline int qfile_check_size(int fd, uint64_t size) {
    struct stat info;
    if (fstat(fd, &info) != 0) return errno;
    return (uint64_t)info.st_size == size ? 0 : EINVAL;
}

static inline int qfile_sync_parent(const char* path) {
    char* parent = strdup(path);
    if (parent == NULL) return ENOMEM;
    char* slash = strrchr(parent, '/');
    if (slash == NULL) strcpy(parent, ".");  // paths are never empty: checked by walfile.pyx
    else slash[slash == parent ? 1 : 0] = '\0';
    int error = qfile_sync_directory(parent);
    free(parent);
    return error;
}

// The file gets its final name only when its content is on the disk; the name itself is then synced too.
static inline int qfile_prepare(qfile* self, const qfile_job* job) {
    int fd = open(job->temporary, O_WRONLY | O_CLOEXEC | (job->recycle ? 0 : O_CREAT | O_TRUNC), 0600);
    if (fd < 0) return errno;
    int error = job->recycle ? qfile_check_size(fd, job->size) : qfile_fill(self, fd, job->size);
    if (error == 0 && job->header != NULL) error = qfile_write(fd, job->header, job->header_size, 0);
    if (error == 0) error = qfile_fullsync(fd);
    if (close(fd) != 0 && error == 0) error = errno;
    if (error == 0 && rename(job->temporary, job->final) != 0) error = errno;
    if (error != 0) {
        unlink(job->temporary);
        return error;
    }
    return qfile_sync_parent(job->final);
}

static inline void* qfile_run(void* argument) {
    qfile* self = (qfile*)argument;
    qthread* base = &self->base;
    pthread_mutex_lock(&base->lock);
    for (;;) {
        while (base->phase == QTHREAD_RUNNING && base->completed == base->submitted)
            pthread_cond_wait(&base->wake, &base->lock);
        if (base->phase == QTHREAD_ABANDONED || base->completed == base->submitted) break;
        qfile_job* job = qfile_slot(self, base->completed);
        pthread_mutex_unlock(&base->lock);
        job->error = job->kind == QFILE_PREPARE ? qfile_prepare(self, job)
                                                : qfile_read(job->fd, job->out, (size_t)job->size, job->offset);
        pthread_mutex_lock(&base->lock);
        base->completed++;
        pthread_mutex_unlock(&base->lock);
        qthread_notify(base);
        pthread_mutex_lock(&base->lock);
    }
    pthread_mutex_unlock(&base->lock);
    return NULL;
}

// 0, QJOB_FULL or QJOB_STOPPED. `reaped` jobs were taken by the caller: the slots of the others are in use.
static inline int qfile_submit(qfile* self, const qfile_job* job, uint64_t reaped) {
    qthread* base = &self->base;
    pthread_mutex_lock(&base->lock);
    int error = 0;
    if (base->phase != QTHREAD_RUNNING) error = QJOB_STOPPED;
    else if (base->submitted - reaped >= base->capacity) error = QJOB_FULL;
    if (error == 0) {
        *qfile_slot(self, base->submitted) = *job;
        base->submitted++;
    }
    pthread_mutex_unlock(&base->lock);
    if (error == 0) pthread_cond_signal(&base->wake);
    return error;
}

static inline uint64_t qfile_completed(qfile* self) {
    pthread_mutex_lock(&self->base.lock);
    uint64_t completed = self->base.completed;
    pthread_mutex_unlock(&self->base.lock);
    return completed;
}

#endif
