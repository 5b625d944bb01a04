/* A debugger's breakpoints, watchpoints and single steps: beside the guest's own debug registers, and unseen by it. */
#include "engine/soft/debugger.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/soft/mmu.h"
#include "engine/soft/smp.h"

/* --- asked for --- */

static uint64_t page_bit(gva_t gva)
{
    return BIT((gva >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL >> 58);
}

static bool is_valid(const struct vcpu_debug *wish)
{
    if (wish->point_count > VCPU_DEBUG_POINTS || wish->breakpoint_count > VCPU_DEBUG_BREAKPOINTS)
        return false;
    for (unsigned i = 0; i < wish->point_count; i++) {
        const struct vcpu_debug_point *p = &wish->point[i];

        if ((p->len != 1 && p->len != 2 && p->len != 4 && p->len != 8) || p->gva % p->len)
            return false;
        if (p->kind == VCPU_DEBUG_EXECUTE && p->len != 1)
            return false;
    }
    return true;
}

static void arm(struct soft_cpu *cpu, struct soft_debugger *d, const struct vcpu_debug *wish)
{
    *d = (struct soft_debugger){.wish = *wish, .asleep = cpu->halted || cpu->wait_for_sipi};
    for (unsigned i = 0; i < wish->breakpoint_count; i++)
        d->code_pages |= page_bit(wish->breakpoint[i]);
    for (unsigned i = 0; i < wish->point_count; i++)
        *(wish->point[i].kind == VCPU_DEBUG_EXECUTE ? &d->code_pages : &d->data_pages) |= page_bit(wish->point[i].gva);
}

int debugger_set(struct vcpu *vcpu, const struct vcpu_debug *wish)
{
    struct soft_cpu *cpu = vcpu->engine_data;

    soft_vec_park(cpu);
    if (!wish) {
        free(cpu->debugger);
        cpu->debugger = NULL;
        return 0;
    }
    if (!is_valid(wish))
        return -EINVAL;
    if (!cpu->debugger)
        cpu->debugger = malloc(sizeof(*cpu->debugger));
    if (!cpu->debugger)
        return -ENOMEM;
    arm(cpu, cpu->debugger, wish);
    smp_enter(cpu);
    cpu->stats.flushes[FLUSH_DEBUGGER]++;
    mmu_flush_all(cpu); /* no shadow entry for a page with watchpoints, no jump to one with breakpoints */
    smp_leave(cpu);
    return 0;
}

/* --- met --- */

static void leave(struct soft_cpu *cpu, enum vcpu_debug_stop stop, gva_t gva, unsigned point)
{
    cpu->exit->reason = VM_EXIT_DEBUG;
    cpu->exit->debug.stop = stop;
    cpu->exit->debug.gva = gva;
    cpu->exit->debug.point = (uint8_t)point;
}

static gva_t code_gva(const struct soft_cpu *cpu)
{
    return cpu->code_bits == 64 ? cpu->rip : (uint32_t)(cpu->seg[SEG_CS].base + cpu->rip);
}

static bool is_met(const struct soft_debugger *d, unsigned n)
{
    switch (d->wish.point[n].kind) {
    case VCPU_DEBUG_WRITE: return d->write_met & BIT(n);
    case VCPU_DEBUG_READ: return d->read_met & BIT(n);
    case VCPU_DEBUG_ACCESS: return (d->read_met | d->write_met) & BIT(n);
    case VCPU_DEBUG_EXECUTE: break;
    }
    return false;
}

/* A watchpoint was met by what is complete now. */
static bool stops_for_data(struct soft_cpu *cpu)
{
    struct soft_debugger *d = cpu->debugger;

    if (!(d->read_met | d->write_met))
        return false;
    for (unsigned n = 0; n < d->wish.point_count; n++) {
        if (!is_met(d, n))
            continue;
        debugger_forget(cpu);
        leave(cpu, DEBUG_STOP_WATCH, d->met_gva[n], n);
        return true;
    }
    debugger_forget(cpu);
    return false;
}

static bool stops_for_code(struct soft_cpu *cpu)
{
    const struct soft_debugger *d = cpu->debugger;
    gva_t gva = code_gva(cpu);

    if (!(d->code_pages & page_bit(gva)))
        return false;
    for (unsigned i = 0; i < d->wish.breakpoint_count; i++) {
        if (d->wish.breakpoint[i] == gva) {
            leave(cpu, DEBUG_STOP_BREAKPOINT, gva, 0);
            return true;
        }
    }
    for (unsigned i = 0; i < d->wish.point_count; i++) {
        if (d->wish.point[i].kind == VCPU_DEBUG_EXECUTE && d->wish.point[i].gva == gva) {
            leave(cpu, DEBUG_STOP_EXECUTE, gva, i);
            return true;
        }
    }
    return false;
}

bool debugger_stops_before(struct soft_cpu *cpu)
{
    struct soft_debugger *d = cpu->debugger;

    if (stops_for_data(cpu)) /* by the frame of an interrupt */
        return true;
    if (d->wish.single_step && d->asleep) { /* something woke it, and was delivered */
        d->asleep = false;
        leave(cpu, DEBUG_STOP_STEP, 0, 0);
        return true;
    }
    return stops_for_code(cpu);
}

bool debugger_stops_after(struct soft_cpu *cpu)
{
    if (stops_for_data(cpu))
        return true;
    if (cpu->debugger->wish.single_step)
        leave(cpu, DEBUG_STOP_STEP, 0, 0);
    return cpu->debugger->wish.single_step;
}

bool debugger_steps_at(const struct soft_cpu *cpu, gva_t gva)
{
    return cpu->debugger->code_pages & page_bit(gva);
}

bool debugger_steps(const struct soft_cpu *cpu)
{
    const struct soft_debugger *d = cpu->debugger;

    /* Lockstep runs everything twice, which would meet watchpoints twice. */
    return d->wish.single_step || cpu->svm->lockstep || debugger_steps_at(cpu, code_gva(cpu));
}

bool debugger_holds_events(const struct soft_cpu *cpu)
{
    return cpu->debugger->wish.single_step && !cpu->debugger->asleep;
}

/* --- data --- */

void debugger_note(struct soft_cpu *cpu, gva_t gva, unsigned n, unsigned access)
{
    struct soft_debugger *d = cpu->debugger;

    for (unsigned i = 0; i < d->wish.point_count; i++) {
        const struct vcpu_debug_point *p = &d->wish.point[i];

        if (p->kind == VCPU_DEBUG_EXECUTE || (p->gva - gva >= n && gva - p->gva >= p->len))
            continue;
        d->met_gva[i] = MAX(p->gva, gva);
        *(access & MMU_WRITE ? &d->write_met : &d->read_met) |= (uint8_t)BIT(i);
    }
}

void debugger_complete(struct soft_cpu *cpu, const struct insn *insn)
{
    if (insn->mem_read)
        cpu->debugger->read_met |= cpu->debugger->write_met;
}

void debugger_forget(struct soft_cpu *cpu)
{
    cpu->debugger->read_met = cpu->debugger->write_met = 0;
}

bool debugger_watches(const struct soft_cpu *cpu, gva_t gva)
{
    const struct soft_debugger *d = cpu->debugger;

    if (!(d->data_pages & page_bit(gva)))
        return false;
    for (unsigned i = 0; i < d->wish.point_count; i++)
        if (d->wish.point[i].kind != VCPU_DEBUG_EXECUTE && ((d->wish.point[i].gva ^ gva) & ~PAGE_MASK) == 0)
            return true;
    return false;
}
