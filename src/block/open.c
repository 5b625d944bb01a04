/* Opening a disk: what is fit to be one, whom it belongs to, which engine it gets; and a sentence for everything that is wrong. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "block/raw.h"

/* udev holds a lock on a block device for the moment in which it looks at it. */
#define LOCK_TRIES 20
#define LOCK_WAIT_NS (25 * NS_PER_MS)

/* --- what it is --- */

static const struct {
    const char *name; /* as qemu-img has it */
    uint64_t offset;
    const char *magic;
    size_t len;
} formats[] = {
    {"qcow2", 0, "QFI\xfb", 4}, /* the older qcow, too */
    {"qed", 0, "QED", 4},
    {"vmdk", 0, "KDMV", 4},
    {"vhdx", 0, "vhdxfile", 8},
    {"vpc", 0, "conectix", 8},
    {"vdi", 64, "\x7f\x10\xda\xbe", 4},
};

static int check_format(int fd, const char *path, struct err *e)
{
    char head[4096] __attribute__((aligned(4096))) = {0}; /* as O_DIRECT may want it */
    const char *dot = strrchr(path, '.');
    bool drop = dot && !strchr(dot, '/') && strcmp(dot, ".raw") != 0; /* the suffix; qemu-img must not write to what it reads */
    int stem = drop ? (int)(dot - path) : (int)strlen(path);

    if (pread(fd, head, sizeof(head), 0) < 0)
        return err_set(e, errno, "disk %s cannot be read: %s", path, strerror(errno));
    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
        if (memcmp(head + formats[i].offset, formats[i].magic, formats[i].len) == 0)
            return err_set(e, EINVAL, "disk %s is a %s image, and only raw ones are read: `qemu-img convert -O raw %s %.*s.raw` makes one",
                           path, formats[i].name, path, stem, path);
    return 0;
}

static int check_type(const struct stat *st, const char *path, struct err *e)
{
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
        return 0;
    if (S_ISDIR(st->st_mode))
        return err_set(e, EISDIR, "disk %s is a directory: a disk is an image file or a block device", path);
    return err_set(e, EINVAL, "disk %s is neither a file nor a block device", path);
}

static int open_failed(const struct block_options *o, int error, struct err *e)
{
    const char *path = o->path;

    switch (error) {
    case ENOENT: return err_set(e, error, "disk %s does not exist: `truncate -s 10G %s` makes an empty one", path, path);
    case EISDIR: return err_set(e, error, "disk %s is a directory: a disk is an image file or a block device", path);
    case EACCES:
    case EPERM:
    case EROFS:
        if (!o->read_only)
            return err_set(e, error, "disk %s cannot be opened for writing (%s): `%s,ro` opens it for reading", path, strerror(error),
                           path);
        break;
    case EBUSY:
        return err_set(e, error, "disk %s is in use by this host, mounted or part of another device: unmount it, or `%s,ro`", path, path);
    case EINVAL:
        if (o->direct)
            return err_set(e, error, "disk %s: its filesystem has no O_DIRECT; leave out ,direct", path);
        break;
    default: break;
    }
    return err_set(e, error, "disk %s cannot be opened: %s", path, strerror(error));
}

/* The file descriptor, or -errno. */
static int open_file(const struct block_options *o, struct stat *st, struct err *e)
{
    int flags = (o->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK; /* a FIFO would wait for its other end */
    int fd, error;

    if (stat(o->path, st))
        return open_failed(o, errno, e);
    error = check_type(st, o->path, e);
    if (error)
        return error;
    if (o->direct)
        flags |= O_DIRECT;
    if (S_ISBLK(st->st_mode) && !o->read_only)
        flags |= O_EXCL; /* not while it is mounted */
    fd = open(o->path, flags);
    if (fd < 0)
        return open_failed(o, errno, e);
    if (fstat(fd, st) || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK)) {
        error = err_set(e, errno, "disk %s: %s", o->path, strerror(errno));
        close(fd);
        return error;
    }
    error = check_type(st, o->path, e); /* what it is now */
    if (error) {
        close(fd);
        return error;
    }
    return fd;
}

/* --- whom it belongs to --- */

/*
 * flock() and not fcntl(): it belongs to the open file and not to the process, so that one machine with the same image twice is refused as
 * well, and /proc/locks shows its holder, which it does not for open-file-description locks.
 */
static long lock_holder(const struct stat *st)
{
    FILE *f = fopen("/proc/locks", "re");
    char line[256], file[64];
    long holder = 0;

    if (!f)
        return 0;
    snprintf(file, sizeof(file), "%02x:%02x:%" PRIu64, major(st->st_dev), minor(st->st_dev), (uint64_t)st->st_ino);
    while (!holder && fgets(line, sizeof(line), f)) {
        char kind[16], pid[16], of[64];

        /* "1: FLOCK  ADVISORY  WRITE 9282 fe:00:10952966 0 EOF"; who waits for a lock has "->" there, and is no holder */
        if (sscanf(line, "%*s %15s %*s %*s %15s %63s", kind, pid, of) == 3 && strcmp(kind, "FLOCK") == 0 && strcmp(of, file) == 0)
            holder = strtol(pid, NULL, 10); /* 0 or less: of another PID namespace */
    }
    fclose(f);
    return MAX(holder, 0);
}

static int locked_by_other(const struct block_options *o, const struct stat *st, struct err *e)
{
    const char *help = o->read_only ? "one that may write shares a disk with nobody" : "`,ro` for all of them lets them share it";
    char holder[64] = "another program";
    long pid = lock_holder(st);

    if (pid)
        snprintf(holder, sizeof(holder), "process %ld%s", pid, pid == getpid() ? " (this one)" : "");
    return err_set(e, EBUSY, "disk %s is in use by %s: %s", o->path, holder, help);
}

static int lock_file(const struct block_options *o, int fd, const struct stat *st, struct err *e)
{
    const struct timespec wait = {.tv_nsec = LOCK_WAIT_NS};
    int how = (o->read_only ? LOCK_SH : LOCK_EX) | LOCK_NB;
    int tries = S_ISBLK(st->st_mode) ? LOCK_TRIES : 1;

    while (flock(fd, how)) {
        if (errno == EINTR)
            continue;
        if (errno == EWOULDBLOCK) {
            if (--tries == 0)
                return locked_by_other(o, st, e);
            nanosleep(&wait, NULL);
            continue;
        }
        /* A filesystem without locks. A reader does no harm. */
        if (o->read_only)
            return 0;
        return err_set(e, errno, "disk %s cannot be locked against a second writer: %s", o->path, strerror(errno));
    }
    return 0;
}

/* --- its measures --- */

struct measures {
    uint64_t size;
    uint32_t least_block; /* what it can be asked in units of */
    uint32_t memory_align;
};

static int measure_device(int fd, const char *path, struct measures *m, struct err *e)
{
    int sector = 0;

    if (ioctl(fd, BLKGETSIZE64, &m->size) || ioctl(fd, BLKSSZGET, &sector) || sector <= 0)
        return err_set(e, errno ? errno : EINVAL, "disk %s does not tell its size: %s", path, strerror(errno));
    m->least_block = m->memory_align = (uint32_t)sector;
    return 0;
}

static int measure_file(int fd, const struct stat *st, bool direct, const char *path, struct measures *m, struct err *e)
{
    m->size = (uint64_t)st->st_size;
    m->least_block = 512;
    m->memory_align = 512;
#ifdef STATX_DIOALIGN
    struct statx sx;

    if (direct && statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && sx.stx_mask & STATX_DIOALIGN) {
        if (!sx.stx_dio_offset_align)
            return err_set(e, EINVAL, "disk %s: its filesystem has no O_DIRECT for it; leave out ,direct", path);
        m->least_block = MAX(m->least_block, sx.stx_dio_offset_align);
        m->memory_align = MAX(sx.stx_dio_mem_align, 1);
        return 0;
    }
#endif
    if (direct) { /* a kernel that does not tell: try it */
        char block[2 * 512] __attribute__((aligned(512)));

        if (m->size >= sizeof(block) && pread(fd, block, 512, 512) < 0 && errno == EINVAL)
            m->least_block = m->memory_align = 4096;
    }
    return 0;
}

static int check_measures(const struct block_options *o, const struct measures *m, struct block_backend *b, struct err *e)
{
    uint32_t block = o->block_size ? o->block_size : m->least_block;

    if (block != 512 && block != 4096)
        return err_set(e, EINVAL, "disk %s: a block size of %u is not possible, only 512 or 4096", o->path, block);
    if (block < m->least_block)
        return err_set(e, EINVAL, "disk %s has blocks of %u bytes on this host: a block size of %u is too small", o->path, m->least_block,
                       block);
    if (!m->size)
        return err_set(e, EINVAL, "disk %s is empty: `truncate -s 10G %s` makes it a disk of 10 GiB", o->path, o->path);
    if (m->size % block)
        return err_set(e, EINVAL,
                       "disk %s has %" PRIu64 " bytes, which is not a multiple of %u: is it a raw image? `truncate -s %%%u %s` fills it up",
                       o->path, m->size, block, block, o->path);
    b->size = m->size;
    b->block_size = block;
    return 0;
}

/* A hole behind the end changes nothing, and tells whether there can be holes. */
static bool can_punch(int fd, const struct stat *st)
{
    off_t behind = (off_t)ALIGN_UP((uint64_t)st->st_size, PAGE_SIZE);

    if (S_ISBLK(st->st_mode))
        return true; /* where it cannot, the discard comes to nothing */
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, behind, PAGE_SIZE) == 0 || (errno != EOPNOTSUPP && errno != ENOSYS);
}

static int measure(const struct block_options *o, const struct stat *st, struct raw_file *file, struct err *e)
{
    struct measures m = {0};
    int error = S_ISBLK(st->st_mode) ? measure_device(file->fd, o->path, &m, e) : measure_file(file->fd, st, o->direct, o->path, &m, e);

    if (!error)
        error = check_measures(o, &m, &file->backend, e);
    if (error)
        return error;
    file->direct = o->direct;
    file->memory_align = m.memory_align;
    file->backend.read_only = o->read_only;
    file->backend.discard = !o->read_only && can_punch(file->fd, st);
    snprintf(file->backend.path, sizeof(file->backend.path), "%s", o->path);
    return 0;
}

/* --- opening --- */

static struct block_backend *new_engine(const struct block_options *o, const struct raw_file *file, struct loop *loop, struct err *e)
{
    struct block_backend *b;
    char why[128];

    if (o->engine == BLOCK_ENGINE_THREADS)
        return threads_new(file, loop, e);
    if (!block_uring_usable(why)) {
        if (o->engine == BLOCK_ENGINE_AUTO)
            return threads_new(file, loop, e);
        err_set(e, ENOTSUP, "disk %s: io_uring cannot be used here: %s", o->path, why);
        return NULL;
    }
    b = uring_new(file, loop, e);
    /* Usable, but not for one more: locked memory or file descriptors ran out. */
    return b || o->engine == BLOCK_ENGINE_URING ? b : threads_new(file, loop, e);
}

struct block_backend *block_open(const struct block_options *o, struct loop *loop, struct err *e)
{
    struct raw_file file = {.fd = -1};
    struct block_backend *b;
    struct stat st;

    file.fd = open_file(o, &st, e);
    if (file.fd < 0)
        return NULL;
    /* The lock first: what another one is writing need not make sense. */
    if (lock_file(o, file.fd, &st, e) || check_format(file.fd, o->path, e) || measure(o, &st, &file, e))
        goto close_file;
    b = new_engine(o, &file, loop, e);
    if (b)
        return b;
close_file:
    close(file.fd);
    return NULL;
}

void block_free(struct block_backend *b)
{
    if (!b)
        return;
    b->ops->drain(b);
    b->ops->free(b);
}
