/* Opens kernel and initrd files: mapped when regular, read to the end when a pipe. */
#include "boot/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int too_large(const char *what, const char *path, size_t max, struct err *e)
{
    return err_set(e, EFBIG, "%s %s is larger than %llu MiB; is it the right file?", what, path, (unsigned long long)max >> 20);
}

/* Process substitution, /dev/stdin: no size beforehand and no second reading. */
static int read_stream(struct boot_file *f, int fd, const char *what, size_t max, struct err *e)
{
    size_t room = 1 << 20, len = 0;
    uint8_t *buf = malloc(room);

    if (!buf)
        return err_set(e, ENOMEM, "no memory to read %s %s", what, f->name);
    for (;;) {
        ssize_t got = read(fd, buf + len, room - len);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            free(buf);
            return err_set(e, errno, "cannot read %s %s: %s", what, f->name, strerror(errno));
        }
        if (!got)
            break;
        len += (size_t)got;
        if (len > max) {
            free(buf);
            return too_large(what, f->name, max, e);
        }
        if (len == room) {
            uint8_t *more = realloc(buf, room * 2);

            if (!more) {
                free(buf);
                return err_set(e, ENOMEM, "no memory to read %s %s", what, f->name);
            }
            buf = more;
            room *= 2;
        }
    }
    f->data = buf;
    f->size = len;
    f->owned = true;
    return 0;
}

static int map_regular(struct boot_file *f, int fd, const struct stat *st, const char *what, size_t max, struct err *e)
{
    void *map;

    if ((uint64_t)st->st_size > max)
        return too_large(what, f->name, max, e);
    if (!st->st_size)
        return 0;
    map = mmap(NULL, (size_t)st->st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return err_set(e, errno, "cannot map %s %s: %s", what, f->name, strerror(errno));
    f->data = map;
    f->size = (size_t)st->st_size;
    f->mtime = st->st_mtim;
    f->fd = fd;
    return 0;
}

int boot_file_open(struct boot_file *f, const char *what, const char *path, size_t max, struct err *e)
{
    struct stat st;
    int fd, ret;

    *f = (struct boot_file){.fd = -1};
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) {
        if (errno == ENOENT)
            return err_set(e, ENOENT, "%s %s does not exist", what, path);
        return err_set(e, errno, "cannot open %s %s: %s", what, path, strerror(errno));
    }
    if (fstat(fd, &st)) {
        ret = err_set(e, errno, "cannot look at %s %s: %s", what, path, strerror(errno));
        goto close_fd;
    }
    if (S_ISDIR(st.st_mode)) {
        ret = err_set(e, EISDIR, "%s %s is a directory; give the file in it", what, path);
        goto close_fd;
    }
    f->name = strdup(path);
    if (!f->name) {
        ret = err_set(e, ENOMEM, "no memory to open %s %s", what, path);
        goto close_fd;
    }
    ret = S_ISREG(st.st_mode) ? map_regular(f, fd, &st, what, max, e) : read_stream(f, fd, what, max, e);
    if (!ret && !f->size)
        ret = err_set(e, EINVAL, "%s %s is empty", what, path);
    if (ret) {
        if (f->fd >= 0)
            fd = -1; /* boot_file_close() has it */
        boot_file_close(f);
    }
close_fd:
    if (f->fd < 0 && fd >= 0)
        close(fd);
    return ret;
}

int boot_file_borrow(struct boot_file *f, const char *name, const void *data, size_t size, struct err *e)
{
    *f = (struct boot_file){.name = strdup(name), .data = data, .size = size, .fd = -1};
    return f->name ? 0 : err_set(e, ENOMEM, "no memory to open %s", name);
}

void boot_file_close(struct boot_file *f)
{
    if (f->owned) {
        free((void *)f->data);
    } else if (f->fd >= 0) {
        munmap((void *)f->data, f->size);
        close(f->fd);
    }
    free(f->name);
    *f = (struct boot_file){.fd = -1};
}

int boot_file_check(const struct boot_file *f, const char *what, struct err *e)
{
    struct stat st;

    if (f->fd < 0)
        return 0;
    if (fstat(f->fd, &st))
        return err_set(e, errno, "cannot look at %s %s: %s", what, f->name, strerror(errno));
    if ((size_t)st.st_size != f->size || st.st_mtim.tv_sec != f->mtime.tv_sec || st.st_mtim.tv_nsec != f->mtime.tv_nsec)
        return err_set(e, ESTALE, "%s %s was changed while the VM ran; start umbra again to boot the new one", what, f->name);
    return 0;
}

void boot_file_release_pages(const struct boot_file *f)
{
    if (f->fd >= 0)
        madvise((void *)f->data, f->size, MADV_DONTNEED);
}
