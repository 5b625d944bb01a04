/* What vCPUs do to each other: the lock of the code cache, lending a vCPU's tables, and running alone. */
#pragma once

#include "engine/soft/soft.h"

/*
 * Theory of operation
 *
 * A vCPU's shadow tables and jump caches belong to its thread while it is inside: between smp_enter() and smp_leave(). Outside are those
 * that sleep, stand, or wait for one of the locks here. Whoever needs the tables of another vCPU borrows them, which waits until that one is
 * outside, and keeps it from coming in. A vCPU that is inside finds attention set, and lets others have their way at the next boundary of
 * instructions (smp_yield()). So:
 *
 * - Inside an instruction nothing is waited for: pointers into guest memory stay good until its end.
 * - Who waits is outside, so that nobody waits for it.
 * - Who has borrowed one vCPU waits for nothing. Who borrows all (smp_exclusive_begin()) holds code_lock, so that there is one of that kind.
 *
 * Nothing here calls libc: guest vectors may be live. Every function is for the vCPU's own thread.
 */

/* soft_cpu.gate */
#define GATE_INSIDE 1U
#define GATE_BORROWED 2U
#define GATE_WANTED 4U /* and every multiple: how many want to borrow it, the borrower included */

void smp_enter(struct soft_cpu *);
void smp_leave(struct soft_cpu *);

/* Between two instructions: goes outside for as long as others want it. */
static inline void smp_yield(struct soft_cpu *cpu)
{
    if (atomic_load_explicit(&cpu->gate, memory_order_relaxed) >= GATE_WANTED) {
        smp_leave(cpu);
        smp_enter(cpu);
    }
}

/* soft_vm.code_lock, under which the code cache changes. May go outside in between; inside again when it returns. */
void smp_lock(struct soft_cpu *);
void smp_unlock(struct soft_cpu *);

/* Another vCPU's tables, for a moment in which nothing is waited for. The borrower is outside. */
void smp_borrow(struct soft_cpu *other);
void smp_return(struct soft_cpu *other);

/* All other vCPUs are outside between the two, and code_lock is held; this one is inside. Not while an instruction has begun to change things. */
void smp_exclusive_begin(struct soft_cpu *);
void smp_exclusive_end(struct soft_cpu *);

/* This thread has nothing useful to do: others may run. */
void smp_relax(void);
