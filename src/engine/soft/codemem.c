/* Memory for generated code: one memfd mapped twice, writable for emitting and executable for running, never both. */
#include "engine/soft/codemem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif

static int open_memfd(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_EXEC);

    if (fd < 0 && errno == EINVAL) /* kernels before 6.3 know no MFD_EXEC and make every memfd executable */
        fd = memfd_create(name, MFD_CLOEXEC);
    return fd;
}

int codemem_init(struct codemem *m, const char *name, size_t size, struct err *e)
{
    int code = 0;
    int fd = open_memfd(name);

    *m = (struct codemem){.size = size};
    if (fd < 0)
        return err_set(e, errno, "cannot create memory for translated code (memfd_create: %s)", strerror(errno));
    if (ftruncate(fd, (off_t)size) != 0) {
        code = err_set(e, errno, "cannot reserve %zu bytes for translated code: %s", size, strerror(errno));
        goto close_fd;
    }
    m->rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    m->rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (m->rw == MAP_FAILED || m->rx == MAP_FAILED) {
        code = err_set(e, errno, "cannot map memory for translated code: %s; a security policy may forbid executable memory",
                       strerror(errno));
        codemem_fini(m);
    }
close_fd:
    close(fd);
    return code;
}

void codemem_fini(struct codemem *m)
{
    if (m->rw && m->rw != MAP_FAILED)
        munmap(m->rw, m->size);
    if (m->rx && m->rx != MAP_FAILED)
        munmap(m->rx, m->size);
    *m = (struct codemem){0};
}
