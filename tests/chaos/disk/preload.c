/* Preloaded into a member: writes and syncs of the files below one directory fail or are late, as a
 * page of memory says that it shares with the test (`faulty_disk.py` has the other end of it).
 * Without ESKER_TEST_DISK in the environment, or while the page is not armed, nothing is different.
 *
 * Memory maps that are written to would get past it: nothing here writes through one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#if !defined(__linux__) || !defined(__LP64__)
#error "offsets are one word of a Linux system call here"
#endif

enum { WRITES = 1, SYNCS = 2 };

struct control {
    uint32_t armed;           /* set last */
    uint32_t calls;           /* which: WRITES, SYNCS */
    uint32_t error;           /* the errno they fail with; 0: they are only late */
    uint32_t passes, times;   /* how many go well before, how many do not then */
    uint32_t from_ms, to_ms;  /* how late each of those is */
    uint32_t loses;           /* what a failed sync was to bring to the disk is gone at the end */
    uint32_t met;             /* told to the test: calls that failed or were late */
    uint32_t retried;         /* told: writes and syncs of a file after a sync of it had failed */
    char below[2048];         /* the directory */
};

struct file {
    dev_t device;
    ino_t number;
    char path[PATH_MAX];
    struct file *next;
};

/* What stood where something was written that is not synced yet. */
struct undo {
    dev_t device;
    ino_t number;
    off_t offset;
    size_t size;
    const struct file *lost;
    struct undo *earlier;
    char bytes[];
};

static struct control *control;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file *failed;
static struct undo *latest;
static unsigned seed;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("ESKER_TEST_DISK");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *page = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    seed = (unsigned)getpid();
    if (page != MAP_FAILED)
        control = page;
}

/* As a file system that gives up pages it could not write, and reads the old ones afterwards. */
__attribute__((destructor)) static void end(void)
{
    for (struct undo *each = latest; each; each = each->earlier) {
        int fd = each->lost ? open(each->lost->path, O_WRONLY | O_CLOEXEC) : -1;
        if (fd < 0)
            continue;
        syscall(SYS_pwrite64, fd, each->bytes, each->size, each->offset);
        close(fd);
    }
}

/* Whether `fd` is one of the files that matter, and which. */
static int watched(int fd, struct file *file)
{
    char name[32];
    struct stat status;
    if (!control || !__atomic_load_n(&control->armed, __ATOMIC_ACQUIRE))
        return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(name, file->path, sizeof file->path - 1);
    size_t prefix = strlen(control->below);
    if (size < (ssize_t)prefix || memcmp(file->path, control->below, prefix))
        return 0;
    file->path[size] = 0;
    if ((file->path[prefix] && file->path[prefix] != '/') || fstat(fd, &status))
        return 0;
    file->device = status.st_dev;
    file->number = status.st_ino;
    return 1;
}

/* The errno that a call of this kind fails with, or 0; the time it takes has passed then. */
static int fate(const struct file *file, unsigned call)
{
    unsigned milliseconds = 0;
    int error = 0;
    pthread_mutex_lock(&lock);
    for (const struct file *each = failed; each; each = each->next)
        if (each->device == file->device && each->number == file->number)
            control->retried++;
    if (control->calls & call) {
        if (control->passes) {
            control->passes--;
        } else if (control->times) {
            unsigned span = control->to_ms - control->from_ms + 1;
            control->times--;
            control->met++;
            milliseconds = control->from_ms + (unsigned)rand_r(&seed) % span;
            error = (int)control->error;
        }
    }
    pthread_mutex_unlock(&lock);
    if (milliseconds) {
        struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
        while (nanosleep(&left, &left))
            continue;
    }
    return error;
}

static void remember(int fd, const struct file *file, size_t size, off_t offset)
{
    struct undo *undo = calloc(1, sizeof *undo + size);
    if (!undo)
        abort();
    undo->device = file->device;
    undo->number = file->number;
    undo->offset = offset;
    undo->size = size;
    /* What lies behind the end of the file was nothing, and reads as zeros afterwards. */
    if (pread(fd, undo->bytes, size, offset) < 0)
        undo->size = 0;
    pthread_mutex_lock(&lock);
    undo->earlier = latest;
    latest = undo;
    pthread_mutex_unlock(&lock);
}

/* A sync of the file went well, and nothing is to undo; or it failed, and all of that is lost. */
static void settle(const struct file *file, int error)
{
    struct file *lost = NULL;
    if (error) {
        lost = malloc(sizeof *lost);
        if (!lost)
            abort();
        *lost = *file;
    }
    pthread_mutex_lock(&lock);
    if (lost) {
        lost->next = failed;
        failed = lost;
    }
    for (struct undo **place = &latest; *place;) {
        struct undo *each = *place;
        if (each->device != file->device || each->number != file->number || each->lost) {
            place = &each->earlier;
        } else if (lost) {
            each->lost = lost;
            place = &each->earlier;
        } else {
            *place = each->earlier;
            free(each);
        }
    }
    pthread_mutex_unlock(&lock);
}

/* A write at an offset, or where the file stands (-1). The first half of one that fails is there. */
static ssize_t put(int fd, const struct iovec *parts, int count, off_t offset)
{
    struct file file;
    int error = 0;
    if (watched(fd, &file)) {
        off_t place = offset < 0 ? lseek(fd, 0, SEEK_CUR) : offset;
        size_t size = 0;
        for (int i = 0; i < count; i++)
            size += parts[i].iov_len;
        error = fate(&file, WRITES);
        if (control->loses && place >= 0)
            remember(fd, &file, size, place);
        if (error && place >= 0)
            syscall(SYS_pwrite64, fd, parts->iov_base, parts->iov_len / 2, place);
    }
    if (error) {
        errno = error;
        return -1;
    }
    if (offset < 0)
        return syscall(SYS_writev, fd, parts, count);
    return syscall(SYS_pwrite64, fd, parts->iov_base, parts->iov_len, offset);
}

static int sync_by(long call, int fd)
{
    struct file file;
    if (!watched(fd, &file))
        return (int)syscall(call, fd);
    int error = fate(&file, SYNCS);
    int result = error ? -1 : (int)syscall(call, fd);
    settle(&file, result ? (error ? error : errno) : 0);
    if (error)
        errno = error;
    return result;
}

int fsync(int fd)
{
    return sync_by(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return sync_by(SYS_fdatasync, fd);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
    struct iovec part = {(void *)bytes, size};
    return put(fd, &part, 1, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset)
{
    return pwrite(fd, bytes, size, offset);
}

ssize_t write(int fd, const void *bytes, size_t size)
{
    struct iovec part = {(void *)bytes, size};
    return put(fd, &part, 1, -1);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return put(fd, parts, count, -1);
}
