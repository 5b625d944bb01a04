/* Memory for generated code: shared memory mapped twice, writable for emitting and executable for running, never both. */
#include "engine/soft/codemem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define LOWEST MIB(1)

/* Reserves room in the low 2 GiB, or NULL. Mostly the kernel finds some; else it is looked for, where kernels before 4.17 take an address for a hint. */
static void *place(size_t size)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *room = mmap(NULL, size, PROT_NONE, flags | MAP_32BIT, -1, 0);

    for (uint64_t at = LOWEST; room == MAP_FAILED && at + size <= GIB(2); at += MIB(16)) {
        room = mmap((void *)(uintptr_t)at, size, PROT_NONE, flags | MAP_FIXED_NOREPLACE, -1, 0); // NOLINT(performance-no-int-to-ptr)
        if (room != MAP_FAILED && (uintptr_t)room != at) {
            munmap(room, size);
            room = MAP_FAILED;
        }
    }
    return room == MAP_FAILED ? NULL : room;
}

/*
 * Anonymous, not a memfd, because perf looks into its map of generated code (perf_map.h) for what lies in anonymous memory only. A size of 0
 * makes mremap() map shared memory a second time and leave the first mapping alone.
 */
int codemem_init(struct codemem *m, size_t size, struct err *e)
{
    *m = (struct codemem){.size = size};
    m->rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m->rw == MAP_FAILED)
        return err_set(e, errno, "cannot reserve %zu bytes for translated code: %s", size, strerror(errno));
    void *room = place(size);
    if (!room) {
        codemem_fini(m);
        return err_set(e, ENOMEM,
                       "no room for %zu bytes of translated code in the low 2 GiB of address space; a smaller --code-cache may fit", size);
    }
    m->rx = mremap(m->rw, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, room);
    if (m->rx == MAP_FAILED)
        munmap(room, size);
    if (m->rx == MAP_FAILED || mprotect(m->rx, size, PROT_READ | PROT_EXEC) != 0) {
        int code = err_set(e, errno, "cannot map memory for translated code: %s; a security policy may forbid executable memory",
                           strerror(errno));
        codemem_fini(m);
        return code;
    }
    return 0;
}

void codemem_fini(struct codemem *m)
{
    if (m->rw && m->rw != MAP_FAILED)
        munmap(m->rw, m->size);
    if (m->rx && m->rx != MAP_FAILED)
        munmap(m->rx, m->size);
    *m = (struct codemem){0};
}
