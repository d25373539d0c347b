/* Stands between a program and the files of one folder: writes down what is done to them, in order, and
 * makes it fail when told so. Loaded with LD_PRELOAD; see ../it/medium/mod.rs for the two sides of it.
 *
 *   MEDIUM_FOLDER   files directly in this folder are watched; what goes to standard output and standard
 *                   error is written down too, as what the program has told somebody
 *   MEDIUM_LOG      what is done is appended to this file
 *   MEDIUM_TROUBLE  while this file is there, its one word says what fails
 *   MEDIUM_AFTER    it begins to fail after so many writes; at once, if it is not set
 *   MEDIUM_NO_SYNC  a sync of a file whose name ends so returns at once and is not written down
 *
 * A record: kind (1 byte), length of the name (1), length of the data (4), offset or size (8), name, data;
 * numbers little-endian. One lock is held over each deed and its record, so their orders agree. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 4096
#define NAME 200

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char names[FILES][NAME]; /* of watched files that are open; "." is the folder itself */
static char folder[PATH_MAX], trouble[PATH_MAX];
static const char *no_sync;
static int log_fd = -1;
static long writes_left;

/* A child between fork and exec has one thread: nobody there would give the lock back. */
static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

__attribute__((constructor)) static void begin(void) {
    pthread_atfork(before_fork, after_fork, after_fork);
    const char *text = getenv("MEDIUM_FOLDER");
    if (!text || !realpath(text, folder)) folder[0] = 0;
    text = getenv("MEDIUM_TROUBLE");
    if (text) strncpy(trouble, text, sizeof trouble - 1);
    no_sync = getenv("MEDIUM_NO_SYNC");
    text = getenv("MEDIUM_AFTER");
    if (text) writes_left = atol(text);
    text = getenv("MEDIUM_LOG");
    if (text) {
        int fd = syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        /* out of the way of the numbers that the program counts on */
        log_fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 1000);
        if (fd >= 0) syscall(SYS_close, fd);
    }
}

static int ends(const char *name, const char *end) {
    size_t length = strlen(name), tail = strlen(end);
    return length >= tail && !strcmp(name + length - tail, end);
}

/* The name of a watched path inside the folder, "." for the folder, NULL for any other. */
static const char *inside(const char *path, char *buffer) {
    char whole[PATH_MAX], parent[PATH_MAX], kept[PATH_MAX];
    if (!folder[0] || !path || strlen(path) >= PATH_MAX) return NULL;
    if (realpath(path, whole) && !strcmp(whole, folder)) return ".";
    strcpy(kept, path);
    char *slash = strrchr(kept, '/');
    const char *name = slash ? slash + 1 : kept;
    if (slash) *slash = 0;
    if (!realpath(slash ? (*kept ? kept : "/") : ".", parent) || strcmp(parent, folder)) return NULL;
    size_t length = strlen(name);
    /* the index of the log is made anew after every crash */
    if (!length || length >= NAME || ends(name, "-shm")) return NULL;
    return strcpy(buffer, name);
}

static const char *of(int fd) {
    return fd >= 0 && fd < FILES && names[fd][0] ? names[fd] : NULL;
}

static void put(const void *data, size_t length) {
    const char *at = data;
    while (length) {
        ssize_t done = syscall(SYS_write, log_fd, at, length);
        if (done <= 0) abort(); /* a log with a gap would prove nothing */
        at += done;
        length -= done;
    }
}

static void record(char kind, const char *name, uint64_t offset, const void *data, uint32_t length) {
    if (log_fd < 0) return;
    int kept = errno;
    char head[14] = {kind, (char)strlen(name)};
    memcpy(head + 2, &length, 4);
    memcpy(head + 6, &offset, 8);
    put(head, sizeof head);
    put(name, strlen(name));
    put(data, length);
    errno = kept;
}

static int is_trouble(const char *word) {
    char text[64] = {0};
    if (!trouble[0] || writes_left > 0) return 0;
    int kept = errno, fd = syscall(SYS_openat, AT_FDCWD, trouble, O_RDONLY | O_CLOEXEC, 0);
    if (fd >= 0) {
        ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
        syscall(SYS_close, fd);
        if (length < 0) text[0] = 0;
    }
    errno = kept;
    return !strcmp(text, word);
}

static int64_t size_of(int fd) {
    struct stat found;
    return fstat(fd, &found) ? 0 : (int64_t)found.st_size;
}

/* Why a write that would end at `end` fails now; 0 if it does not. A full disk still takes what replaces. */
static int refusal(int fd, int64_t end) {
    if (is_trouble("full") && end > size_of(fd)) return ENOSPC;
    if (is_trouble("read-only")) return EROFS;
    if (is_trouble("write-fails")) return EIO;
    return 0;
}

static ssize_t written(int fd, const void *data, size_t length, int64_t offset, int is_positioned) {
    const char *name = of(fd);
    if (!name) {
        int is_said = (fd == 1 || fd == 2) && !is_positioned;
        if (!is_said) return is_positioned ? syscall(SYS_pwrite64, fd, data, length, offset)
                                           : syscall(SYS_write, fd, data, length);
        pthread_mutex_lock(&lock);
        record('A', "", 0, data, length);
        ssize_t done = syscall(SYS_write, fd, data, length);
        pthread_mutex_unlock(&lock);
        return done;
    }
    pthread_mutex_lock(&lock);
    int flags = fcntl(fd, F_GETFL);
    if (!is_positioned) offset = flags & O_APPEND ? size_of(fd) : lseek(fd, 0, SEEK_CUR);
    int problem = refusal(fd, offset + (int64_t)length);
    ssize_t done = -1;
    if (problem) {
        errno = problem;
    } else {
        done = is_positioned ? syscall(SYS_pwrite64, fd, data, length, offset)
                             : syscall(SYS_write, fd, data, length);
        if (done > 0) record('W', name, offset, data, done);
        if (writes_left > 0) writes_left--;
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t write(int fd, const void *data, size_t length) { return written(fd, data, length, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return written(fd, data, length, at, 1); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) { return written(fd, data, length, at, 1); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!of(fd) && fd != 1 && fd != 2) return syscall(SYS_writev, fd, parts, count);
    ssize_t all = 0;
    for (int part = 0; part < count; part++) {
        ssize_t done = written(fd, parts[part].iov_base, parts[part].iov_len, 0, 0);
        if (done < 0) return all ? all : done;
        all += done;
        if ((size_t)done < parts[part].iov_len) break;
    }
    return all;
}

static ssize_t fetched(int fd, void *data, size_t length, int64_t offset, int is_positioned) {
    /* what else lies in the folder, such as a configuration, is on a good disk */
    if (of(fd) && strstr(of(fd), ".db") && is_trouble("read-fails")) {
        errno = EIO;
        return -1;
    }
    return is_positioned ? syscall(SYS_pread64, fd, data, length, offset) : syscall(SYS_read, fd, data, length);
}

ssize_t read(int fd, void *data, size_t length) { return fetched(fd, data, length, 0, 0); }
ssize_t pread(int fd, void *data, size_t length, off_t at) { return fetched(fd, data, length, at, 1); }
ssize_t pread64(int fd, void *data, size_t length, off64_t at) { return fetched(fd, data, length, at, 1); }

static int opened(int at, const char *path, int flags, mode_t mode) {
    char buffer[NAME];
    const char *name = at == AT_FDCWD || (path && *path == '/') ? inside(path, buffer) : NULL;
    if (!name) return syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    int is_new = flags & O_CREAT && faccessat(at, path, F_OK, 0);
    int to_write = (flags & O_ACCMODE) != O_RDONLY, problem = 0;
    if (is_new && is_trouble("full")) problem = ENOSPC;
    if ((is_new || to_write) && is_trouble("read-only")) problem = EROFS;
    if (to_write && ends(name, ".db") && is_trouble("file-read-only")) problem = EACCES;
    int fd = -1;
    if (problem) {
        errno = problem;
    } else {
        fd = syscall(SYS_openat, at, path, flags, mode);
    }
    if (fd >= 0 && fd < FILES) {
        strcpy(names[fd], name);
        if (is_new) record('C', name, 0, "", 0);
        else if (flags & O_TRUNC) record('T', name, 0, "", 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define WITH_MODE mode_t mode = 0; if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
int open(const char *path, int flags, ...) { WITH_MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { WITH_MODE return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { WITH_MODE return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { WITH_MODE return opened(at, path, flags, mode); }

int close(int fd) {
    if (!of(fd)) return syscall(SYS_close, fd);
    pthread_mutex_lock(&lock);
    names[fd][0] = 0;
    int done = syscall(SYS_close, fd);
    pthread_mutex_unlock(&lock);
    return done;
}

static int cut(int fd, int64_t size) {
    const char *name = of(fd);
    if (!name) return syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    int problem = refusal(fd, size), done = -1;
    if (problem) {
        errno = problem;
    } else if (!(done = syscall(SYS_ftruncate, fd, size))) {
        record('T', name, size, "", 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off64_t size) { return cut(fd, size); }

static int synced(int fd, long number) {
    const char *name = of(fd);
    if (!name) return syscall(number, fd);
    if (no_sync && ends(name, no_sync)) return 0;
    pthread_mutex_lock(&lock);
    int done = -1;
    if (is_trouble("sync-fails")) {
        errno = EIO;
    } else if (!(done = syscall(number, fd))) {
        record(strcmp(name, ".") ? 'S' : 'D', name, 0, "", 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int unlink(const char *path) {
    char buffer[NAME];
    const char *name = inside(path, buffer);
    if (!name) return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (is_trouble("read-only")) {
        errno = EROFS;
    } else if (!(done = syscall(SYS_unlinkat, AT_FDCWD, path, 0))) {
        record('U', name, 0, "", 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

/* What the model of the disk knows nothing about must not pass unseen. */
int rename(const char *from, const char *to) {
    char buffer[NAME];
    if (inside(from, buffer) || inside(to, buffer)) record('X', "rename", 0, "", 0);
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

static int allocated(int fd, int mode, int64_t offset, int64_t length) {
    if (of(fd)) record('X', "fallocate", 0, "", 0);
    return syscall(SYS_fallocate, fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length) { return allocated(fd, mode, offset, length); }
int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return allocated(fd, mode, offset, length); }
int posix_fallocate(int fd, off_t offset, off_t length) { return allocated(fd, 0, offset, length) ? errno : 0; }
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return allocated(fd, 0, offset, length) ? errno : 0; }
