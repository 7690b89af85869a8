/* Makes the N-th call that changes files below one folder fail, or kills the process group there.
 *
 * Loaded with LD_PRELOAD, on Linux. fault_arm() reads the variables anew, so that a process that
 * forks for each case can arm each child; a program started with them set is armed at once.
 *
 *   FAULT_ROOT   absolute path of the folder; calls elsewhere go through and are not counted
 *   FAULT_STATE  file of struct state, mapped by all processes of a case: it outlives a SIGKILL
 *   FAULT_AT     which call, from 1; 0 or absent: calls are only counted
 *   FAULT_CALL   which calls count: any, space (what takes room on a disk), or open, which has
 *                opening to read too
 *   FAULT_KIND   kill (before the call), torn (half of a write, then kill), or the number of an
 *                error that is returned instead
 *   FAULT_STICKY 1: from then on every such call
 *
 * Not seen: what the C library calls within itself (fwrite counts where it is called, not where
 * its buffer goes out), direct system calls, memory maps, and programs linked statically.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READ = 1, CREATE = 2, WRITE = 4, SYNC = 8, MOVE = 16, MAKE = 32, REMOVE = 64 };
enum { KILL = -1, TORN = -2 };

struct state {
    long count; /* calls seen */
    long hits;  /* calls that failed */
    char what[496]; /* the first of them */
};

static struct state *state;
static long fault_at;
static int calls, kind, sticky;
static char root[PATH_MAX];

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

__attribute__((constructor)) void fault_arm(void) {
    const char *call = variable("FAULT_CALL"), *how = variable("FAULT_KIND");
    if (state) munmap(state, sizeof *state);
    state = NULL;
    if (!*variable("FAULT_ROOT") || !*variable("FAULT_STATE")) return;
    snprintf(root, sizeof root, "%s", variable("FAULT_ROOT"));
    fault_at = atol(variable("FAULT_AT"));
    sticky = *variable("FAULT_STICKY") == '1';
    calls = CREATE | WRITE | SYNC | MOVE | MAKE | REMOVE;
    if (!strcmp(call, "space")) calls = CREATE | WRITE | MAKE | SYNC;
    if (!strcmp(call, "open")) calls = CREATE | READ;
    kind = !strcmp(how, "kill") ? KILL : !strcmp(how, "torn") ? TORN : atoi(how);
    int file = open(variable("FAULT_STATE"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof *state)) abort();
    void *map = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (map == MAP_FAILED) abort();
    state = map;
}

/* Path of a descriptor; "" where it has none. */
static void path_of(int fd, char *out) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, out, PATH_MAX - 1);
    out[length < 0 ? 0 : length] = 0;
}

static void absolute(int dirfd, const char *path, char *out) {
    char base[PATH_MAX] = "";
    if (*path == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return;
    }
    if (dirfd != AT_FDCWD) path_of(dirfd, base);
    else if (!getcwd(base, sizeof base)) *base = 0;
    if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) *out = 0;
}

/* 0: go on. TORN: write half, then call die(). Above: fail with this error. */
static int fault(int call, const char *name, const char *path) {
    size_t length = strlen(root);
    if (!state || !(call & calls) || strncmp(path, root, length)) return 0;
    if (path[length] && path[length] != '/') return 0;
    long number = __atomic_add_fetch(&state->count, 1, __ATOMIC_SEQ_CST);
    if (!fault_at || number < fault_at || (number > fault_at && !sticky)) return 0;
    if (__atomic_add_fetch(&state->hits, 1, __ATOMIC_SEQ_CST) == 1)
        snprintf(state->what, sizeof state->what, "%s %s", name, path + length);
    if (kind == KILL || (kind == TORN && !(call & WRITE))) kill(0, SIGKILL);
    return kind;
}

static int fault_at_path(int call, const char *name, int dirfd, const char *path) {
    char whole[PATH_MAX];
    if (!state || !(call & calls)) return 0;
    int before = errno;
    absolute(dirfd, path, whole);
    int found = fault(call, name, whole);
    errno = found > 0 ? found : before;
    return found;
}

static int fault_at_fd(int call, const char *name, int fd) {
    char whole[PATH_MAX];
    if (!state || !(call & calls)) return 0;
    int before = errno;
    path_of(fd, whole);
    int found = fault(call, name, whole);
    errno = found > 0 ? found : before;
    return found;
}

/* After half of a write has reached the file. */
static void die(void) {
    kill(0, SIGKILL);
}

static int how_opened(int flags) {
    if ((flags & O_ACCMODE) == O_RDONLY && !(flags & (O_CREAT | O_TRUNC))) return READ;
    return CREATE;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (fault_at_path(how_opened(flags), "open", AT_FDCWD, path) > 0) return -1; \
        return real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int dirfd, const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (fault_at_path(how_opened(flags), "open", dirfd, path) > 0) return -1; \
        return real(dirfd, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(name); \
        int how = *mode == 'r' && !strchr(mode, '+') ? READ : CREATE; \
        if (fault_at_path(how, "open", AT_FDCWD, path) > 0) return NULL; \
        return real(path, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    int found = fault_at_fd(WRITE, "write", fd);
    if (found > 0) return -1;
    if (found == TORN) {
        real(fd, data, size / 2);
        die();
    }
    return real(fd, data, size);
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) { \
        REAL(name); \
        int found = fault_at_fd(WRITE, "write", fd); \
        if (found > 0) return -1; \
        if (found == TORN) { \
            real(fd, data, size / 2, offset); \
            die(); \
        } \
        return real(fd, data, size, offset); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
    REAL(fwrite);
    int found = state ? fault_at_fd(WRITE, "fwrite", fileno(file)) : 0;
    if (found > 0) return 0;
    if (found == TORN) {
        real(data, size, count / 2, file);
        fflush(file);
        die();
    }
    return real(data, size, count, file);
}

/* A call that fails with -1: its type, name, parameters, arguments, and where it acts. */
#define CALL(type, name, parameters, arguments, kind_of_call, where) \
    type name parameters { \
        REAL(name); \
        int found = where(kind_of_call); \
        if (found > 0) return -1; \
        if (found == TORN) die(); \
        return real arguments; \
    }

#define AT_FD(call) fault_at_fd(call, __func__, fd)
#define AT_PATH(call) fault_at_path(call, __func__, AT_FDCWD, path)
#define AT_DIR(call) fault_at_path(call, __func__, dirfd, path)

CALL(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), WRITE, AT_FD)
CALL(ssize_t, pwritev, (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o), WRITE, AT_FD)
CALL(ssize_t, sendfile, (int fd, int in, off_t *o, size_t n), (fd, in, o, n), WRITE, AT_FD)
CALL(ssize_t, sendfile64, (int fd, int in, off64_t *o, size_t n), (fd, in, o, n), WRITE, AT_FD)
CALL(ssize_t, copy_file_range,
     (int in, off64_t *io, int fd, off64_t *o, size_t n, unsigned f), (in, io, fd, o, n, f),
     WRITE, AT_FD)
CALL(int, ftruncate, (int fd, off_t n), (fd, n), WRITE, AT_FD)
CALL(int, ftruncate64, (int fd, off64_t n), (fd, n), WRITE, AT_FD)
CALL(int, fallocate, (int fd, int how, off_t o, off_t n), (fd, how, o, n), WRITE, AT_FD)
CALL(int, fallocate64, (int fd, int how, off64_t o, off64_t n), (fd, how, o, n), WRITE, AT_FD)
CALL(int, fsync, (int fd), (fd), SYNC, AT_FD)
CALL(int, fdatasync, (int fd), (fd), SYNC, AT_FD)
CALL(int, rename, (const char *from, const char *path), (from, path), MOVE, AT_PATH)
CALL(int, renameat, (int d, const char *from, int dirfd, const char *path), (d, from, dirfd, path),
     MOVE, AT_DIR)
CALL(int, renameat2, (int d, const char *from, int dirfd, const char *path, unsigned how),
     (d, from, dirfd, path, how), MOVE, AT_DIR)
CALL(int, link, (const char *from, const char *path), (from, path), MAKE, AT_PATH)
CALL(int, linkat, (int d, const char *from, int dirfd, const char *path, int how),
     (d, from, dirfd, path, how), MAKE, AT_DIR)
CALL(int, symlink, (const char *to, const char *path), (to, path), MAKE, AT_PATH)
CALL(int, symlinkat, (const char *to, int dirfd, const char *path), (to, dirfd, path), MAKE, AT_DIR)
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), MAKE, AT_PATH)
CALL(int, mkdirat, (int dirfd, const char *path, mode_t mode), (dirfd, path, mode), MAKE, AT_DIR)
CALL(int, rmdir, (const char *path), (path), REMOVE, AT_PATH)
CALL(int, unlink, (const char *path), (path), REMOVE, AT_PATH)
CALL(int, unlinkat, (int dirfd, const char *path, int how), (dirfd, path, how), REMOVE, AT_DIR)
