/* anywhere_test's case: a piece of code that runs by step, which leaves a trail of states, and translated, and is compared with it. */
#pragma once

#include "compare.h"
#include "corpus.h"
#include "engine/soft/cache.h"
#include "engine/soft/ctx.h"
#include "engine/soft/lapic.h"
#include "engine/soft/mmu.h"
#include "sequence.h"

#define TRAIL_MAX 300
#define ARENA_BYTES (ARENA_PAGES * PAGE_SIZE)
#define RUNS_MAX 4000

struct trail {
    struct outcome at;
    uint64_t gs_base, kernel_gs_base;
    bool interruptible; /* IF is set, and it is not the instruction behind STI */
    bool shadow;
    uint8_t memory[ARENA_BYTES];
};

static struct test {
    struct machine machine;
    uint8_t pristine[ARENA_BYTES];
    uint8_t pages[ARENA_PAGES]; /* enum page_kind, of this case */
    struct assembler a;
    const char *name;
    bool by_hand;
    uint64_t seed, number;
    const uint8_t *code;
    unsigned code_len, flags;
    struct outcome in, out;
    struct trail trail[TRAIL_MAX + 1], end;
    unsigned count;   /* of trail, but for its first */
    uint8_t ended_by; /* the vector: of an exception, or of INT3 where a branch went */
    uint64_t interruptions, taken, operands, missed, faults, pieces, failed;
} t;

/* --- running a case --- */

static inline void map_page(unsigned page, enum page_kind kind, bool user)
{
    uint64_t pte = (ARENA_GPA + page * PAGE_SIZE) | PTE_P | (user ? PTE_U : 0) | (kind == PAGE_RO ? 0 : PTE_W) |
                   (kind == PAGE_CODE ? 0 : PTE_NX);

    machine_put(&t.machine, PT_GPA + 8 * page, kind == PAGE_ABSENT ? 0 : pte);
}

static inline void map_pages(void)
{
    for (unsigned i = 0; i < ARENA_PAGES; i++)
        map_page(i, t.pages[i], true);
    mmu_flush_all(t.machine.cpu);
}

static inline void changed(void)
{
    t.machine.vm.mem.code_changed(t.machine.vm.mem.code_changed_opaque, ARENA_GPA + CODE_FIRST * PAGE_SIZE, CODE_PAGES * PAGE_SIZE);
}

/* The state before the first instruction. Translations stay, unless the code is not what it was. */
static inline void load(void)
{
    struct machine *m = &t.machine;
    struct soft_cpu *cpu = m->cpu;
    uint8_t *code = m->arena + CODE_FIRST * PAGE_SIZE;

    if (memcmp(code, t.trail[0].memory + CODE_FIRST * PAGE_SIZE, CODE_PAGES * PAGE_SIZE) != 0)
        changed();
    memcpy(m->arena, t.trail[0].memory, ARENA_BYTES);
    if (t.flags & PIECE_32)
        machine_mode(m, 32, 0, 0);
    else
        set_mode(m, t.flags & PIECE_SUPERVISOR);
    machine_load(m, &t.in);
    cpu->kernel_gs_base = t.in.gpr[GPR_R13];
    cpu->interrupt_shadow = cpu->mov_ss_shadow = cpu->halted = false;
    atomic_store(&cpu->nmi_pending, false);
    SLOT(cpu, CTX_UNALIGNED) = CACHE_UNALIGNED_PERIOD;
    lapic_reset(cpu);
    lapic_mmio_write(cpu, 0xf0, 0x1ff);
}

static inline void start(void)
{
    memcpy(t.trail[0].memory, t.pristine, ARENA_BYTES);
    memcpy(t.trail[0].memory + (t.in.rip - ARENA), t.code, t.code_len);
    load();
}

static inline void note(struct trail *at)
{
    struct soft_cpu *cpu = t.machine.cpu;

    machine_store(&t.machine, &at->at);
    canonical_image(cpu->svm->cpuid, at->at.image);
    at->gs_base = cpu->seg[SEG_GS].base;
    at->kernel_gs_base = cpu->kernel_gs_base;
    at->shadow = cpu->interrupt_shadow;
    at->interruptible = (cpu->rflags & FLAG_IF) && !cpu->interrupt_shadow;
    memcpy(at->memory, t.machine.arena, ARENA_BYTES);
}

/*
 * What a handler of the guest's could mend before it goes back: a divisor of zeros at R13, a pointer that is not canonical. So the end tells of
 * flags here too.
 */
static inline bool repaired(void)
{
    static const uint8_t pointers[] = {GPR_R14, GPR_RSI, GPR_RDI};
    struct soft_cpu *cpu = t.machine.cpu;
    uint8_t *divisor = t.machine.arena + (cpu->gpr[GPR_R13] - ARENA) % ARENA_BYTES;
    bool mended = false;

    if (!t.by_hand || !delivered.seen || delivered.event != EVENT_EXCEPTION)
        return false;
    if (delivered.exc.vector == EXC_DE && !*divisor) {
        *divisor = 77;
        mended = true;
    }
    for (unsigned i = 0; delivered.exc.vector == EXC_GP && i < sizeof(pointers); i++)
        if (!gva_is_canonical(cpu->gpr[pointers[i]])) {
            cpu->gpr[pointers[i]] = cpu->gpr[GPR_R13];
            mended = true;
        }
    if (mended) {
        delivered.seen = false;
        t.machine.exit.reason = VM_EXIT_INTR;
    }
    return mended;
}

/* Step to the exception that ends it; records: into the trail. False where it has no end. */
static inline bool step_on(bool records)
{
    unsigned n = 0;

    while (!delivered.seen) {
        if (n == TRAIL_MAX || (soft_step(t.machine.cpu) == SOFT_EXIT && !delivered.seen))
            return false;
        repaired();
        if (records && !delivered.seen)
            note(&t.trail[n + 1]);
        n += !delivered.seen;
    }
    t.count = n;
    return t.machine.exit.reason != VM_EXIT_INTERNAL;
}

/* Translated code to the next event. */
static inline bool run_on(void)
{
    for (unsigned i = 0; i < RUNS_MAX && (!delivered.seen || repaired()) && t.machine.exit.reason != VM_EXIT_INTERNAL; i++)
        run_vcpu(&t.machine.vcpu, &t.machine.exit);
    return delivered.seen;
}

static inline bool go_on(void)
{
    delivered.seen = false;
    t.machine.exit.reason = VM_EXIT_INTR;
    return run_on();
}

/* --- comparing --- */

/* Whether the machine is in this state; all: arithmetic flags too. */
static const char *difference(const struct trail *want, bool all)
{
    const struct soft_cpu *cpu = t.machine.cpu;
    uint64_t low = t.flags & PIECE_32 ? UINT32_MAX : UINT64_MAX;

    machine_store(&t.machine, &t.out);
    canonical_image(cpu->svm->cpuid, t.out.image);
    if (t.out.rip != want->at.rip)
        return "rip";
    for (unsigned i = 0; i < GPR_COUNT; i++)
        if ((t.out.gpr[i] ^ want->at.gpr[i]) & low)
            return "a register";
    if ((t.out.rflags ^ want->at.rflags) & ~(uint64_t)(all ? FLAG_RF : FLAG_ARITH | FLAG_RF))
        return "flags";
    if (cpu->seg[SEG_GS].base != want->gs_base || cpu->kernel_gs_base != want->kernel_gs_base)
        return "a GS base";
    if (memcmp(t.out.image + FX_XMM, want->at.image + FX_XMM, 256) != 0)
        return "a vector register";
    return memcmp(t.machine.arena, want->memory, ARENA_BYTES) != 0 ? "memory" : NULL;
}

/* What ended the run came from outside. */
static inline bool is_event(void)
{
    return delivered.event == EVENT_EXTERNAL || delivered.event == EVENT_NMI;
}

static const char *end_difference(void)
{
    const char *what = NULL;

    if (is_event() || delivered.exc.vector != t.ended_by || t.end.at.error != (delivered.exc.has_error ? delivered.exc.error : 0) ||
        t.end.at.cr2 != (delivered.exc.vector == EXC_PF ? delivered.exc.cr2 : 0))
        what = "what ended it";
    return what ? what : difference(&t.end, t.ended_by == EXC_UD);
}

static inline void fail(const char *what, const char *where, const struct trail *want)
{
    t.failed++;
    printf("%s: %s differs, %s; again: anywhere_test --seed %llu --case %llu\n  code at 0x%llx:", t.name, what, where,
           (unsigned long long)t.seed, (unsigned long long)t.number, (unsigned long long)t.in.rip);
    for (unsigned i = 0; i < t.code_len; i++)
        printf(" %02x", t.code[i]);
    printf("\n  event %u vector %u cr2 0x%llx\n", delivered.event, delivered.exc.vector, (unsigned long long)delivered.exc.cr2);
    if (!want)
        return;
    printf("  rip 0x%llx, 0x%llx; rflags 0x%llx, 0x%llx\n", (unsigned long long)want->at.rip, (unsigned long long)t.out.rip,
           (unsigned long long)want->at.rflags, (unsigned long long)t.out.rflags);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        printf("  gpr %2u: 0x%016llx, 0x%016llx, 0x%016llx%s\n", i, (unsigned long long)t.in.gpr[i], (unsigned long long)want->at.gpr[i],
               (unsigned long long)t.out.gpr[i], want->at.gpr[i] == t.out.gpr[i] ? "" : " !");
    for (unsigned i = 0, told = 0; i < ARENA_BYTES && told < 32; i++)
        if (want->memory[i] != t.machine.arena[i]) {
            printf("  byte at 0x%llx: %02x, %02x\n", ARENA + i, want->memory[i], t.machine.arena[i]);
            told++;
        }
}

/* Step's way through the case, with the registers as they are now. */
static inline bool walk(void)
{
    start();
    note(&t.trail[0]);
    if (!step_on(true))
        return false;
    note(&t.end);
    t.ended_by = delivered.exc.vector;
    return true;
}
