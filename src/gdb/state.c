/* The state and the memory of the vCPU that the debugger looks at. */
#include <errno.h>
#include <string.h>

#include "gdb/session.h"

struct cpu_state *gdb_state(struct gdb *g, unsigned vcpu, unsigned groups)
{
    if (g->state_of != vcpu)
        g->state_groups = 0;
    g->state_of = vcpu;
    if (groups & ~g->state_groups) {
        if (vcpu_get_state(g->vm->vcpus[vcpu], g->state, groups & ~g->state_groups) != 0)
            return NULL;
        g->state_groups |= groups;
    }
    return g->state;
}

int gdb_state_set(struct gdb *g, unsigned groups)
{
    int error = vcpu_set_state(g->vm->vcpus[g->state_of], g->state, groups);

    if (error)
        gdb_state_forget(g);
    return error;
}

void gdb_state_forget(struct gdb *g)
{
    g->state_groups = 0;
}

/* The part of [gva, gva + len) that lies in gva's page: where it is, and how much. 0 or -errno. */
static int piece(struct gdb *g, gva_t gva, size_t len, gpa_t *gpa, size_t *here)
{
    const struct cpu_state *s = gdb_state(g, g->selected, CPU_SREGS);
    struct gdb_mapping mapping;
    int error = s ? gdb_translate(s, &g->vm->mem, gva, &mapping) : -EIO;

    if (error)
        return error;
    *gpa = mapping.gpa;
    *here = MIN(len, PAGE_SIZE - (gva & PAGE_MASK));
    return 0;
}

ssize_t gdb_memory_read(struct gdb *g, gva_t gva, void *buf, size_t len)
{
    uint8_t *to = buf;
    size_t done = 0, here;

    for (; done < len; done += here) {
        gpa_t gpa;
        int error = piece(g, gva + done, len - done, &gpa, &here);

        if (!error)
            error = mem_read(&g->vm->mem, gpa, to + done, here);
        if (error)
            return done ? (ssize_t)done : error;
        gdb_breakpoints_hide(g, gpa, to + done, here);
    }
    return (ssize_t)done;
}

static bool is_writable(struct gdb *g, gpa_t gpa)
{
    const struct mem_region *r = mem_find(&g->vm->mem, gpa);

    return r && !(r->flags & MEM_READONLY);
}

int gdb_memory_write(struct gdb *g, gva_t gva, const void *buf, size_t len)
{
    const uint8_t *from = buf;
    size_t done, here;
    gpa_t gpa;

    for (done = 0; done < len; done += here) {
        int error = piece(g, gva + done, len - done, &gpa, &here);

        if (error || !is_writable(g, gpa))
            return error ? error : -EFAULT;
    }
    for (done = 0; done < len; done += here) {
        int error = piece(g, gva + done, len - done, &gpa, &here);

        if (!error)
            error = mem_write(&g->vm->mem, gpa, from + done, here); /* which tells the engine that code may have changed */
        if (error)
            return error;
        gdb_breakpoints_overwritten(g, gpa, from + done, here);
    }
    return 0;
}
