/* anywhere_test's SIGTRAP: tells which host instructions of translated code are executed, and makes something happen at one of them. */
#pragma once

#include <signal.h>
#include <ucontext.h>

#include "anywhere.h"
#include "engine/soft/switch.h"

#define PLACES_MAX 20000
#define VECTOR 0x51

enum kind { KIND_INTERRUPT, KIND_NMI, KIND_CHANGE, KIND_COUNT };
static const char *const kind_names[] = {"an interrupt", "an NMI", "a store to the code"};

/* A host instruction that was executed, and behind how many of the guest's. */
struct place {
    uint8_t *pc;
    unsigned begun; /* guest instructions, this one included */
};

static struct {
    struct place place[PLACES_MAX]; /* in the order of execution */
    unsigned place_count;
} places;

/* What the handler works on. */
static volatile struct {
    bool steps, inside; /* the trap flag: notes places; the last one was in translated code */
    unsigned begun;
    uint8_t *armed, byte; /* writable address of INT3, and what was there */
    enum kind kind;
    bool fired;
} trap;

/* --- the handler --- */

static inline void happen(enum kind kind)
{
    struct soft_cpu *cpu = t.machine.cpu;

    switch (kind) {
    case KIND_INTERRUPT:
        if (lapic_msi(cpu->svm, APIC_BASE_DEFAULT, VECTOR) != 0)
            abort();
        break;
    case KIND_NMI:
        atomic_store(&cpu->nmi_pending, true);
        soft_want_attention(cpu);
        break;
    default: changed();
    }
}

/* How many guest instructions begin at this host address: those without code of their own share it with the next. */
static inline unsigned begins_at(const uint8_t *pc)
{
    struct soft_cache *cache = t.machine.cpu->svm->cache;
    const struct block_mark *mark;
    struct block *b = cache_block_at(cache, pc, &mark);
    unsigned n = 0;

    for (unsigned i = 0; b && i < b->mark_count; i++)
        n += b->code + cache->marks[b->first_mark + i].host_off == pc;
    return n;
}

static inline void handle(int signo, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct soft_cache *cache = t.machine.cpu->svm->cache;
    uint8_t *pc = (uint8_t *)regs[REG_RIP];

    (void)signo;
    (void)info;
    if (regs[REG_TRAPNO] == EXC_DB) {
        if (!cache_holds(cache, pc)) {
            if (trap.inside)
                regs[REG_EFL] &= ~(greg_t)FLAG_TF; /* C code of the engine, up to soft_vec_unpark() */
            trap.inside = false;
            return;
        }
        trap.inside = true;
        trap.begun += begins_at(pc);
        if (places.place_count < PLACES_MAX)
            places.place[places.place_count++] = (struct place){.pc = pc, .begun = trap.begun};
        return;
    }
    if (!trap.armed || pc != cache->mem.rx + (trap.armed - cache->mem.rw) + 1)
        abort();
    *trap.armed = trap.byte;
    trap.armed = NULL;
    trap.fired = true;
    regs[REG_RIP]--;
    happen(trap.kind);
}

static inline void catch_traps(void)
{
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

    sigemptyset(&action.sa_mask);
    if (sigaction(SIGTRAP, &action, NULL) != 0)
        abort();
}

/* The engine's own, which comes right before translated code. */
__attribute__((target("general-regs-only"))) void soft_vec_unpark(struct soft_cpu *cpu)
{
    if (!cpu->vec_live)
        switch_xrstor(cpu->xsave, cpu->vec_mask);
    cpu->vec_live = true;
    if (trap.steps)
        __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq" : : : "cc", "memory");
}
