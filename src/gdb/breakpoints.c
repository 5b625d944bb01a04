/* The breakpoints and watchpoints that gdb has inserted. */
#include <errno.h>

#include "gdb/session.h"

#define INT3 0xcc

/* The Z packets' types (GDB manual, E.2). */
enum z_type { Z_SOFTWARE, Z_HARDWARE, Z_WRITE, Z_READ, Z_ACCESS };

static bool in_memory(const struct gdb *g)
{
    return !(g->vm->engine->debug_caps & ENGINE_DEBUG_BREAKPOINTS);
}

/* --- software --- */

static struct gdb_breakpoint *find_soft(struct gdb *g, gva_t gva)
{
    for (unsigned i = 0; i < g->breakpoints.soft_count; i++)
        if (g->breakpoints.soft[i].gva == gva)
            return &g->breakpoints.soft[i];
    return NULL;
}

static int write_int3(struct gdb *g, struct gdb_breakpoint *b)
{
    static const uint8_t int3 = INT3;
    const struct cpu_state *s = gdb_state(g, g->selected, CPU_SREGS);
    struct gdb_mapping mapping;
    int error = s ? gdb_translate(s, &g->vm->mem, b->gva, &mapping) : -EIO;

    if (error)
        return error;
    b->gpa = mapping.gpa;
    error = mem_read(&g->vm->mem, b->gpa, &b->original, 1);
    return error ? error : mem_write(&g->vm->mem, b->gpa, &int3, 1);
}

static int insert_soft(struct gdb *g, gva_t gva)
{
    struct gdb_breakpoint *old = find_soft(g, gva);
    struct gdb_breakpoint b = {.gva = gva, .gpa = GPA_INVALID};
    int error;

    if (old && (old->gpa != GPA_INVALID || !in_memory(g)))
        return 0;
    if (!old && g->breakpoints.soft_count == VCPU_DEBUG_BREAKPOINTS)
        return -ENOSPC;
    error = in_memory(g) ? write_int3(g, &b) : 0;
    if (error)
        return error;
    if (!old)
        old = &g->breakpoints.soft[g->breakpoints.soft_count++];
    *old = b;
    return 0;
}

/* Not where the guest has written something else there. */
static void take_int3_out(struct gdb *g, const struct gdb_breakpoint *b)
{
    uint8_t now;

    if (b->gpa != GPA_INVALID && mem_read(&g->vm->mem, b->gpa, &now, 1) == 0 && now == INT3)
        mem_write(&g->vm->mem, b->gpa, &b->original, 1);
}

static int remove_soft(struct gdb *g, gva_t gva)
{
    struct gdb_breakpoint *b = find_soft(g, gva);

    if (!b)
        return -ENOENT;
    take_int3_out(g, b);
    *b = g->breakpoints.soft[--g->breakpoints.soft_count];
    return 0;
}

void gdb_breakpoints_hide(const struct gdb *g, gpa_t gpa, uint8_t *bytes, size_t len)
{
    for (unsigned i = 0; i < g->breakpoints.soft_count; i++) {
        const struct gdb_breakpoint *b = &g->breakpoints.soft[i];

        if (b->gpa != GPA_INVALID && b->gpa - gpa < len && bytes[b->gpa - gpa] == INT3)
            bytes[b->gpa - gpa] = b->original;
    }
}

void gdb_breakpoints_overwritten(struct gdb *g, gpa_t gpa, const uint8_t *bytes, size_t len)
{
    static const uint8_t int3 = INT3;

    for (unsigned i = 0; i < g->breakpoints.soft_count; i++) {
        struct gdb_breakpoint *b = &g->breakpoints.soft[i];

        if (b->gpa == GPA_INVALID || b->gpa - gpa >= len)
            continue;
        b->original = bytes[b->gpa - gpa];
        mem_write(&g->vm->mem, b->gpa, &int3, 1);
    }
}

/* --- the CPU's own --- */

/* The largest piece at the start of [gva, gva + len) that one debug register covers. */
static unsigned first_piece(gva_t gva, uint64_t len)
{
    unsigned size = 8;

    while (size > len || gva % size)
        size /= 2;
    return size;
}

static unsigned pieces_of(const struct gdb_point *p)
{
    unsigned count = 0;

    for (uint64_t done = 0; done < p->len && count <= VCPU_DEBUG_POINTS; count++)
        done += first_piece(p->gva + done, p->len - done);
    return count;
}

static struct gdb_point *find_hard(struct gdb *g, const struct gdb_point *p)
{
    for (unsigned i = 0; i < g->breakpoints.hard_count; i++) {
        struct gdb_point *other = &g->breakpoints.hard[i];

        if (other->gva == p->gva && other->len == p->len && other->kind == p->kind)
            return other;
    }
    return NULL;
}

static int insert_hard(struct gdb *g, const struct gdb_point *p)
{
    unsigned used = pieces_of(p);

    if (p->kind == VCPU_DEBUG_READ && !(g->vm->engine->debug_caps & ENGINE_DEBUG_READS))
        return -ENOTSUP; /* gdb makes one of an access watchpoint then */
    if (p->len == 0 || p->gva + p->len - 1 < p->gva)
        return -EINVAL;
    if (find_hard(g, p))
        return 0;
    for (unsigned i = 0; i < g->breakpoints.hard_count; i++)
        used += pieces_of(&g->breakpoints.hard[i]);
    if (used > VCPU_DEBUG_POINTS)
        return -ENOSPC;
    g->breakpoints.hard[g->breakpoints.hard_count++] = *p;
    return 0;
}

static int remove_hard(struct gdb *g, const struct gdb_point *p)
{
    struct gdb_point *found = find_hard(g, p);

    if (!found)
        return -ENOENT;
    *found = g->breakpoints.hard[--g->breakpoints.hard_count];
    return 0;
}

const struct gdb_point *gdb_point_met(const struct gdb *g, gva_t gva)
{
    for (unsigned i = 0; i < g->breakpoints.hard_count; i++) {
        const struct gdb_point *p = &g->breakpoints.hard[i];

        if (p->kind != VCPU_DEBUG_EXECUTE && gva - p->gva < p->len)
            return p;
    }
    return NULL;
}

/* --- all --- */

/* False for a type that is a software breakpoint. */
static bool is_hard(unsigned type, gva_t gva, uint64_t len, struct gdb_point *p)
{
    static const enum vcpu_debug_kind kinds[] = {
        [Z_HARDWARE] = VCPU_DEBUG_EXECUTE,
        [Z_WRITE] = VCPU_DEBUG_WRITE,
        [Z_READ] = VCPU_DEBUG_READ,
        [Z_ACCESS] = VCPU_DEBUG_ACCESS,
    };

    if (type == Z_SOFTWARE)
        return false;
    *p = (struct gdb_point){.gva = gva, .len = type == Z_HARDWARE ? 1 : len, .kind = kinds[type]};
    return true;
}

int gdb_insert(struct gdb *g, unsigned type, gva_t gva, uint64_t len)
{
    struct gdb_point p;

    if (type > Z_ACCESS)
        return -ENOTSUP;
    return is_hard(type, gva, len, &p) ? insert_hard(g, &p) : insert_soft(g, gva);
}

int gdb_remove(struct gdb *g, unsigned type, gva_t gva, uint64_t len)
{
    struct gdb_point p;

    if (type > Z_ACCESS)
        return -ENOTSUP;
    return is_hard(type, gva, len, &p) ? remove_hard(g, &p) : remove_soft(g, gva);
}

void gdb_remove_all(struct gdb *g)
{
    for (unsigned i = 0; i < g->breakpoints.soft_count; i++)
        take_int3_out(g, &g->breakpoints.soft[i]);
    g->breakpoints.soft_count = g->breakpoints.hard_count = 0;
}

void gdb_breakpoints_reset(struct gdb *g)
{
    for (unsigned i = 0; i < g->breakpoints.soft_count; i++) {
        take_int3_out(g, &g->breakpoints.soft[i]);
        g->breakpoints.soft[i].gpa = GPA_INVALID; /* the new kernel may be elsewhere: gdb inserts it anew when it next stops */
    }
}

void gdb_breakpoints_wish(const struct gdb *g, struct vcpu_debug *wish)
{
    wish->breakpoint_count = g->breakpoints.soft_count;
    for (unsigned i = 0; i < g->breakpoints.soft_count; i++)
        wish->breakpoint[i] = g->breakpoints.soft[i].gva;
    wish->point_count = 0;
    for (unsigned i = 0; i < g->breakpoints.hard_count; i++) {
        const struct gdb_point *p = &g->breakpoints.hard[i];

        for (uint64_t done = 0; done < p->len;) {
            unsigned size = first_piece(p->gva + done, p->len - done);

            wish->point[wish->point_count++] = (struct vcpu_debug_point){.gva = p->gva + done, .len = (uint8_t)size, .kind = p->kind};
            done += size;
        }
    }
}
