/* A debugger's breakpoints, watchpoints and single steps: beside the guest's own debug registers, and unseen by it. */
#pragma once

#include "engine/soft/soft.h"

/*
 * Theory of operation. Code runs translated as long as it is elsewhere. Code in a page that holds a breakpoint is run by step, instruction by
 * instruction, with a look at each address before: the run loop asks debugger_steps(), and as it lets no such page into the fetch table,
 * translated code of other pages cannot get there without the run loop. A new breakpoint empties that table, and near links stay in their page.
 *
 * A page that holds a watched address gets no entry in the shadow tables (debugger_watches()), so that translated code leaves each access to
 * step. All accesses of C code go through mmu_read(), mmu_write() and mmu_host(), implicit ones such as the frames of interrupts too; they
 * note what was met, and the run loop reports it when the instruction is complete, or the exception or interrupt has been delivered.
 *
 * All of it by linear address, in every address space, as debug registers do.
 */
struct soft_debugger {
    struct vcpu_debug wish;
    uint64_t code_pages, data_pages; /* filters of pages with breakpoints and with watchpoints: one hashed bit each */
    bool asleep;                     /* the vCPU was halted when the step was asked for */
    uint8_t read_met, write_met;     /* a bit a point; by the running instruction */
    gva_t met_gva[VCPU_DEBUG_POINTS];
};

/* The engine's debug(): engine.h. */
int debugger_set(struct vcpu *, const struct vcpu_debug *);

/* --- the run loop's, where cpu->debugger is set --- */

/* Between events and the next instruction: true when that is not to run, and cpu->exit says why. */
bool debugger_stops_before(struct soft_cpu *);
/* After an instruction or a stretch of translated code: the same. */
bool debugger_stops_after(struct soft_cpu *);
/* The code at cpu->rip must be run by step. */
bool debugger_steps(const struct soft_cpu *);
/* The same of code at gva, as far as breakpoints go. */
bool debugger_steps_at(const struct soft_cpu *, gva_t gva);
/* Interrupts wait, because a single step is under way. */
bool debugger_holds_events(const struct soft_cpu *);

/* --- step's and the MMU's, likewise --- */

/* Data access to [gva, gva + n); access as in mmu.h. */
void debugger_note(struct soft_cpu *, gva_t gva, unsigned n, unsigned access);
/* The instruction is complete: a read-modify-write has read too. */
void debugger_complete(struct soft_cpu *, const struct insn *);
/* The instruction faulted: it met nothing. */
void debugger_forget(struct soft_cpu *);
/* Whether gva's page must have no shadow entry. */
bool debugger_watches(const struct soft_cpu *, gva_t gva);

/* Whether a repeated instruction ends after this iteration, and is entered once more for the next one. */
static inline bool debugger_one_iteration(const struct soft_cpu *cpu)
{
    const struct soft_debugger *d = cpu->debugger;

    return d && (d->wish.single_step || d->read_met || d->write_met);
}
