// The memory that a power cut takes away, and a disk that is full: a preload library for `quorumd chaos` and the
// power-loss tests, and for nothing else.
//
// While a file $POWERLOSS_FULL exists, files below $POWERLOSS_DIR whose names begin with "wal-" do not grow: ENOSPC.
//
// For power cuts, two trees on one file system. What a process writes below $POWERLOSS_DIR goes to the real files there at once, so
// that it reads back what it wrote however it reads: these files play the page cache. $POWERLOSS_PLATTER plays the
// disk, and holds everything back that was not synced:
//
//     data/INODE    the durable bytes of a file: only fdatasync or fsync of that file copies them there
//     names/INODE   the durable entries of a directory ("f INODE name", "d INODE name"): only fsync of the directory
//     held/INODE    a hard link to the file, so that its inode number means that file until the power is cut
//
// There is no journal to keep consistent, whenever the process is killed: at a power cut platter.py compares the trees
// and drops, tears or keeps each sector and each name in which they differ. A kill amid a sync leaves a part of it on
// the platter, as a disk does. A sync first takes $POWERLOSS_SYNC_US ("lowest-highest", microseconds), then copies,
// so that there is always something that was written and is not yet durable.
//
// Not modelled, and taken for never synced: O_SYNC, sync(), syncfs(), sync_file_range(). Not seen: stores to shared
// mappings of a file that the same process has synced before. The platter must lie on the same file system as, and not
// below, $POWERLOSS_DIR. Only one process writes a given file. A removed directory cannot come back.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FILES = 1024, COPY_BYTES = 1 << 16 };

typedef struct {
    ino_t inode;
    off_t from, upto;         // the platter may differ from the file only here; under table_lock
    pthread_mutex_t syncing;  // a second sync must not return before the first has copied what it took over
} tracked_file;

static char root[PATH_MAX], platter[PATH_MAX], full[PATH_MAX];
static dev_t root_device;
static int active;  // whether writes are held back; never without `root`
static uint64_t latency_lowest_us, latency_highest_us, latency_state;
static tracked_file table[MAX_FILES];
static int tracked;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

static void give_up(const char* what) {
    int error = errno;
    dprintf(2, "powerloss: %s: %s\n", what, strerror(error));
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char* directory = getenv("POWERLOSS_DIR");
    const char* disk = getenv("POWERLOSS_PLATTER");
    const char* latency = getenv("POWERLOSS_SYNC_US");
    const char* no_room = getenv("POWERLOSS_FULL");
    struct stat info;
    if (directory == NULL) return;
    if (realpath(directory, root) == NULL || stat(root, &info) != 0) give_up("POWERLOSS_DIR");
    root_device = info.st_dev;
    if (no_room != NULL && snprintf(full, sizeof full, "%s", no_room) >= PATH_MAX) give_up("POWERLOSS_FULL");
    if (disk == NULL) return;
    if (realpath(disk, platter) == NULL) give_up("POWERLOSS_PLATTER");
    if (latency != NULL) sscanf(latency, "%lu-%lu", &latency_lowest_us, &latency_highest_us);
    latency_state = ((uint64_t)getpid() << 32 | (uint64_t)time(NULL)) | 1;
    active = 1;
}

// -- which files are ours ----------------------------------------------------------------------------------------------

static void path_on_platter(char* out, const char* kind, uint64_t inode) {
    if (snprintf(out, PATH_MAX, "%s/%s/%lu", platter, kind, inode) >= PATH_MAX) give_up("a path is too long");
}

// The path that `fd` was opened by; 0 if it is not `root` or below it.
static int path_below_root(int fd, char* path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = '\0';
    size_t prefix = strlen(root);
    return strncmp(path, root, prefix) == 0 && (path[prefix] == '/' || path[prefix] == '\0');
}

// Whether writing up to `end` would make a log file grow on a disk that is full; errno is ENOSPC then. A disk that is
// full takes what overwrites, so a segment that was filled ahead is written as before.
static int no_room(int fd, off_t end) {
    char path[PATH_MAX];
    struct stat info;
    if (full[0] == '\0' || access(full, F_OK) != 0) return 0;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_dev != root_device || end <= info.st_size) return 0;
    if (!path_below_root(fd, path) || strncmp(strrchr(path, '/'), "/wal-", 5) != 0) return 0;
    errno = ENOSPC;
    return 1;
}

// Under table_lock. A file is known by its inode, so that it does not matter how often and by which name it is open.
// Of one that this process sees for the first time nothing is known: all of it may differ from the platter.
static tracked_file* find(int fd, const struct stat* info) {
    char path[PATH_MAX];
    for (int i = 0; i < tracked; i++)
        if (table[i].inode == info->st_ino) return &table[i];
    if (!path_below_root(fd, path)) return NULL;
    if (tracked == MAX_FILES) give_up("too many files");
    tracked_file* file = &table[tracked++];
    file->inode = info->st_ino;
    file->from = 0;
    file->upto = INT64_MAX;
    pthread_mutex_init(&file->syncing, NULL);
    return file;
}

// After the write and not before: a sync that runs meanwhile promises nothing about it, and must not forget it.
static void note_written(int fd, off_t offset, off_t size) {
    struct stat info;
    int error = errno;
    if (!active || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_dev != root_device) {
        errno = error;
        return;
    }
    if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - size;  // a plain write: it ended where the file position is now
    pthread_mutex_lock(&table_lock);
    tracked_file* file = find(fd, &info);
    if (file != NULL) {
        int clean = file->from == file->upto;
        if (clean || offset < file->from) file->from = offset;
        if (clean || offset + size > file->upto) file->upto = offset + size;
    }
    pthread_mutex_unlock(&table_lock);
    errno = error;
}

static void note_resized(int fd) {
    note_written(fd, 0, INT64_MAX);
}

// -- what a sync does --------------------------------------------------------------------------------------------------

static void take_time(void) {
    uint64_t span = latency_highest_us - latency_lowest_us;
    pthread_mutex_lock(&table_lock);
    latency_state ^= latency_state << 13;
    latency_state ^= latency_state >> 7;
    latency_state ^= latency_state << 17;
    uint64_t latency_us = latency_lowest_us + (span ? latency_state % (span + 1) : 0);
    pthread_mutex_unlock(&table_lock);
    struct timespec left = {(time_t)(latency_us / 1000000), (long)(latency_us % 1000000) * 1000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) continue;
}

static void copy_range(int from_fd, int to_fd, off_t from, off_t upto) {
    char buffer[COPY_BYTES];
    while (from < upto) {
        size_t size = upto - from < COPY_BYTES ? (size_t)(upto - from) : COPY_BYTES;
        ssize_t got = pread(from_fd, buffer, size, from);
        if (got < 0) give_up("reading a file");
        if (got == 0) return;
        for (ssize_t done = 0; done < got;) {
            ssize_t put = syscall(SYS_pwrite64, to_fd, buffer + done, (size_t)(got - done), from + done);
            if (put < 0) give_up("writing the platter");
            done += put;
        }
        from += got;
    }
}

static void commit_bytes(int fd, ino_t inode, off_t from, off_t upto) {
    char link[64], path[PATH_MAX];
    struct stat source, target;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    path_on_platter(path, "held", inode);
    if (linkat(AT_FDCWD, link, AT_FDCWD, path, AT_SYMLINK_FOLLOW) != 0 && errno != EEXIST) {
        if (errno == ENOENT) return;  // it has no name any more: nothing of it can survive
        give_up(path);
    }
    int from_fd = open(link, O_RDONLY | O_CLOEXEC);  // `fd` itself may be open for writing only
    path_on_platter(path, "data", inode);
    int to_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (from_fd < 0 || to_fd < 0 || fstat(from_fd, &source) != 0 || fstat(to_fd, &target) != 0) give_up(path);
    if (source.st_size != target.st_size) {  // it grew or was cut: what lies between the writes may have changed too
        if (syscall(SYS_ftruncate, to_fd, source.st_size) != 0) give_up(path);
        from = 0;
        upto = source.st_size;
    }
    copy_range(from_fd, to_fd, from, upto < source.st_size ? upto : source.st_size);
    close(from_fd);
    close(to_fd);
}

static void commit_file(tracked_file* file, int fd) {
    pthread_mutex_lock(&file->syncing);
    pthread_mutex_lock(&table_lock);
    off_t from = file->from, upto = file->upto;
    file->from = file->upto = 0;
    pthread_mutex_unlock(&table_lock);
    take_time();
    commit_bytes(fd, file->inode, from, upto);  // even if nothing was written: the size may have changed
    pthread_mutex_unlock(&file->syncing);
}

// Holds what `name` is bound to at this moment, and says what that is; 0 if it has gone or is no file.
static ino_t hold(int directory_fd, const char* name) {
    char path[PATH_MAX], held[PATH_MAX];
    struct stat info;
    path_on_platter(path, "held/new", (uint64_t)gettid());
    if (linkat(directory_fd, name, AT_FDCWD, path, 0) != 0) {
        if (errno == ENOENT) return 0;
        give_up(name);
    }
    if (lstat(path, &info) != 0) give_up(path);
    path_on_platter(held, "held", info.st_ino);
    if (link(path, held) != 0 && errno != EEXIST) give_up(held);
    unlink(path);
    return S_ISREG(info.st_mode) ? info.st_ino : 0;
}

static void commit_entries(int lock_fd, int fd, ino_t inode) {
    char path[PATH_MAX], target[PATH_MAX];
    struct stat info;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DIR* directory = opendir(path);
    path_on_platter(path, "names/new", (uint64_t)gettid());
    int out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (lock_fd < 0 || directory == NULL || out < 0) give_up(path);
    for (struct dirent* entry; (entry = readdir(directory)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (fstatat(dirfd(directory), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (S_ISDIR(info.st_mode)) {
            dprintf(out, "d %lu %s\n", (uint64_t)info.st_ino, entry->d_name);
        } else {
            ino_t held = hold(dirfd(directory), entry->d_name);
            if (held != 0) dprintf(out, "f %lu %s\n", (uint64_t)held, entry->d_name);
        }
    }
    closedir(directory);
    close(out);
    path_on_platter(target, "names", inode);
    if (syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, target, 0) != 0) give_up(target);
}

// Several processes may sync a directory that they share: one at a time, or an older listing would win.
static void commit_directory(int fd, ino_t inode) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.4000s/lock", platter);
    take_time();
    int lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    flock(lock_fd, LOCK_EX);
    commit_entries(lock_fd, fd, inode);
    close(lock_fd);
}

// Whether `fd` is a file or directory of ours; if so, what it holds now is durable when this returns.
static int commit(int fd) {
    struct stat info;
    char path[PATH_MAX];
    if (!active || fstat(fd, &info) != 0 || info.st_dev != root_device) return 0;
    if (S_ISDIR(info.st_mode)) {
        if (!path_below_root(fd, path)) return 0;
        commit_directory(fd, info.st_ino);
        return 1;
    }
    if (!S_ISREG(info.st_mode)) return 0;
    pthread_mutex_lock(&table_lock);
    tracked_file* file = find(fd, &info);
    pthread_mutex_unlock(&table_lock);
    if (file == NULL) return 0;
    commit_file(file, fd);
    return 1;
}

// -- the calls that are taken over -------------------------------------------------------------------------------------
// System calls directly: the C library's functions of these names are the ones below.

int fsync(int fd) {
    return commit(fd) ? 0 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    return commit(fd) ? 0 : (int)syscall(SYS_fdatasync, fd);
}

static off_t total(const struct iovec* vecs, int count) {
    off_t size = 0;
    for (int i = 0; i < count; i++) size += (off_t)vecs[i].iov_len;
    return size;
}

static off_t here(int fd) {
    return full[0] == '\0' ? 0 : lseek(fd, 0, SEEK_CUR);
}

static ssize_t written(int fd, off_t offset, ssize_t size) {
    if (size > 0) note_written(fd, offset, size);
    return size;
}

ssize_t write(int fd, const void* data, size_t size) {
    if (no_room(fd, here(fd) + (off_t)size)) return -1;
    return written(fd, -1, syscall(SYS_write, fd, data, size));
}

ssize_t writev(int fd, const struct iovec* vecs, int count) {
    if (no_room(fd, here(fd) + total(vecs, count))) return -1;
    return written(fd, -1, syscall(SYS_writev, fd, vecs, count));
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
    if (no_room(fd, offset + (off_t)size)) return -1;
    return written(fd, offset, syscall(SYS_pwrite64, fd, data, size, offset));
}

// 64-bit systems pass an offset in the first of its two words.
ssize_t pwritev(int fd, const struct iovec* vecs, int count, off_t offset) {
    if (no_room(fd, offset + total(vecs, count))) return -1;
    return written(fd, offset, syscall(SYS_pwritev, fd, vecs, count, offset, 0));
}

ssize_t pwritev2(int fd, const struct iovec* vecs, int count, off_t offset, int flags) {
    if (no_room(fd, offset + total(vecs, count))) return -1;
    return written(fd, offset, syscall(SYS_pwritev2, fd, vecs, count, offset, 0, flags));
}

int ftruncate(int fd, off_t size) {
    if (no_room(fd, size)) return -1;
    int rc = (int)syscall(SYS_ftruncate, fd, size);
    if (rc == 0) note_resized(fd);
    return rc;
}

int fallocate(int fd, int mode, off_t offset, off_t size) {
    if (no_room(fd, offset + size)) return -1;
    int rc = (int)syscall(SYS_fallocate, fd, mode, offset, size);
    if (rc == 0) note_resized(fd);
    return rc;
}

// Returns the error, and has no fallback for file systems that cannot: nobody here needs one.
int posix_fallocate(int fd, off_t offset, off_t size) {
    return fallocate(fd, 0, offset, size) == 0 ? 0 : errno;
}

ssize_t copy_file_range(int in, off64_t* in_at, int out, off64_t* out_at, size_t size, unsigned flags) {
    ssize_t copied = syscall(SYS_copy_file_range, in, in_at, out, out_at, size, flags);
    if (copied > 0) note_resized(out);
    return copied;
}

ssize_t sendfile(int out, int in, off_t* at, size_t size) {
    ssize_t copied = syscall(SYS_sendfile, out, in, at, size);
    if (copied > 0) note_resized(out);
    return copied;
}

// The names that programs built with 64-bit offsets use.
#define SAME_AS(name) __attribute__((alias(#name)))
ssize_t pwrite64(int, const void*, size_t, off64_t) SAME_AS(pwrite);
ssize_t pwritev64(int, const struct iovec*, int, off64_t) SAME_AS(pwritev);
ssize_t pwritev64v2(int, const struct iovec*, int, off64_t, int) SAME_AS(pwritev2);
int ftruncate64(int, off64_t) SAME_AS(ftruncate);
int fallocate64(int, int, off64_t, off64_t) SAME_AS(fallocate);
int posix_fallocate64(int, off64_t, off64_t) SAME_AS(posix_fallocate);
ssize_t sendfile64(int, int, off64_t*, size_t) SAME_AS(sendfile);
