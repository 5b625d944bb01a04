/* Lockstep: every translated block is run by step first and by the translator then, and the results are compared. */
#include "engine/soft/lockstep.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/soft/mmu.h"
#include "engine/soft/run.h"
#include "engine/soft/smc.h"
#include "engine/soft/step.h"
#include "engine/soft/switch.h"
#include "engine/soft/translate.h"
#include "x86/paging.h"

/*
 * Theory of operation
 *
 * Step goes first, with a journal of the memory that it writes, and leaves the state after each instruction in trail[]. Then
 * memory and registers are put back and the translated block runs. Where it stops, its state must be the one of the
 * trail with the same rip. Instructions that the translator leaves to step, and those that meet devices, end the trail:
 * nothing happens twice. There is one vCPU: another one would change memory between the two runs.
 */

#define JOURNAL_MAX 256

struct trail {
    uint64_t gpr[GPR_COUNT];
    uint64_t rip, rflags;
    uint64_t gs_base, kernel_gs_base;
    bool shadow;      /* of STI */
    unsigned journal; /* entries up to here are of this instruction and those before it */
};

struct lockstep {
    bool open; /* the journal notes */
    bool overflow;
    uint16_t flags_linked; /* BLOCK_LINKED: those that the link handed over */
    bool walked;           /* step walked page tables, and so may have set A and D bits in them */
    unsigned journal_count;
    struct journal_entry journal[JOURNAL_MAX];
    unsigned count;
    struct trail trail[CACHE_BLOCK_INSNS + 1]; /* [0]: before the first instruction */
    uint8_t vec_before[XSAVE_MAX] __attribute__((aligned(64)));
    uint8_t vec_after[XSAVE_MAX] __attribute__((aligned(64)));
};

int lockstep_init(struct soft_cpu *cpu, struct err *e)
{
    cpu->lockstep = aligned_alloc(64, ALIGN_UP(sizeof(*cpu->lockstep), 64));
    if (!cpu->lockstep)
        return err_set(e, ENOMEM, "cannot allocate the lockstep journal");
    cpu->lockstep->open = false;
    return 0;
}

void lockstep_fini(struct soft_cpu *cpu)
{
    free(cpu->lockstep);
}

static void copy(uint8_t *to, const uint8_t *from, unsigned n)
{
    size_t count = n;

    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); /* no memcpy: vectors may be live */
}

void lockstep_note(struct soft_cpu *cpu, uint8_t *hva, unsigned n)
{
    struct lockstep *l = cpu->lockstep;

    if (!l || !l->open)
        return;
    for (; n > 0 && l->journal_count < JOURNAL_MAX; hva += 64) {
        struct journal_entry *j = &l->journal[l->journal_count++];
        j->hva = hva;
        j->n = (uint8_t)MIN(n, 64);
        copy(j->old, hva, j->n);
        n -= j->n;
    }
    l->overflow |= n > 0;
}

static void record(struct soft_cpu *cpu, struct trail *t)
{
    for (unsigned i = 0; i < GPR_COUNT; i++)
        t->gpr[i] = cpu->gpr[i];
    t->rip = cpu->rip;
    t->rflags = cpu->rflags;
    t->gs_base = cpu->seg[SEG_GS].base;
    t->kernel_gs_base = cpu->kernel_gs_base;
    t->shadow = cpu->interrupt_shadow;
    t->journal = cpu->lockstep->journal_count;
}

static void restore(struct soft_cpu *cpu, const struct trail *t)
{
    for (unsigned i = 0; i < GPR_COUNT; i++)
        cpu->gpr[i] = t->gpr[i];
    cpu->rip = t->rip;
    cpu->rflags = t->rflags;
    cpu->seg[SEG_GS].base = t->gs_base;
    cpu->kernel_gs_base = t->kernel_gs_base;
    cpu->interrupt_shadow = t->shadow;
}

static bool is_memory(struct soft_cpu *cpu, gva_t gva)
{
    struct mmu_target target;

    return gva_is_canonical(gva) && mmu_translate(cpu, gva, MMU_READ, &target) == SOFT_OK && target.hva;
}

/* A short string, in memory at both ends: within two pages. */
static bool string_repeatable(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t count = cpu->gpr[GPR_RCX], from = cpu->gpr[GPR_RSI], to = cpu->gpr[GPR_RDI];
    uint64_t bytes = count * 8;
    bool moves = (insn->opcode & ~1) == 0xa4;

    return count > 0 && count <= PAGE_SIZE / 8 && is_memory(cpu, to) && is_memory(cpu, to + bytes) &&
           (!moves || (is_memory(cpu, from) && is_memory(cpu, from + bytes)));
}

/* Whether the translator would carry out this instruction itself, without a device in its way. */
static bool repeatable(struct soft_cpu *cpu, uint32_t mode)
{
    struct step_entry *entry;

    if (step_fetch(cpu, &entry) != SOFT_OK)
        return false;
    const struct insn *insn = &entry->insn;
    bool stack = trans_is_plain_stack(insn);
    if (lockstep_is_random(insn))
        return false;
    if (trans_is_string(mode, insn))
        return string_repeatable(cpu, insn);
    if (insn->cls != INSN_INNOCUOUS && insn->cls != INSN_CONTROL && !stack && !trans_is_system(mode, insn))
        return false;
    if (!insn->has_mem || insn->nop || !insn->mem_size)
        return true;
    struct mmu_target target;
    gva_t gva;
    cpu->next_rip = cpu->rip + insn->len;
    return soft_linear(cpu, insn->mem.seg, soft_ea(cpu, insn), insn->mem_size, false, &gva) == SOFT_OK &&
           mmu_translate(cpu, gva, MMU_READ, &target) == SOFT_OK && target.hva &&
           mmu_translate(cpu, gva + insn->mem_size - 1, MMU_READ, &target) == SOFT_OK && target.hva;
}

/* Translated code does not stop at a string that is not repeatable. */
static bool is_at_string(struct soft_cpu *cpu, uint32_t mode)
{
    struct step_entry *entry;

    return step_fetch(cpu, &entry) == SOFT_OK && trans_is_string(mode, &entry->insn);
}

/* Whether the block's instruction number n is next, and not another one to which a branch led. */
static bool is_at_mark(const struct soft_cpu *cpu, const struct block *b, unsigned n)
{
    const struct block_mark *mark = &cpu->svm->cache->marks[b->first_mark + n];

    return n < b->mark_count && ALIGN_DOWN(cpu->lockstep->trail[0].rip, PAGE_SIZE) + mark->guest_off == cpu->rip;
}

/* Step over the block's instructions. SOFT_OK; anything else is the guest's new state, and there is nothing to compare. */
static int run_step(struct soft_cpu *cpu, const struct block *b)
{
    struct lockstep *l = cpu->lockstep;
    uint64_t exceptions = 0;

    for (unsigned i = 0; i < 32; i++)
        exceptions += cpu->stats.exceptions[i];
    l->count = 0;
    while (l->count < CACHE_BLOCK_INSNS && is_at_mark(cpu, b, l->count) && repeatable(cpu, b->mode)) {
        uint64_t rip = cpu->rip, rcx = cpu->gpr[GPR_RCX];
        int result = soft_step(cpu);
        if (result != SOFT_OK)
            return result;
        if (cpu->rip == rip && cpu->gpr[GPR_RCX] != rcx)
            return SOFT_FAULT; /* a string's first part */
        record(cpu, &l->trail[++l->count]);
        uint64_t now = 0;
        for (unsigned i = 0; i < 32; i++)
            now += cpu->stats.exceptions[i];
        if (now != exceptions)
            return SOFT_FAULT;
    }
    bool string_ahead = l->count && is_at_mark(cpu, b, l->count) && is_at_string(cpu, b->mode);
    return string_ahead ? SOFT_FAULT : SOFT_OK;
}

/* Keeps what memory holds now, and puts the old bytes back: newest first, so that the oldest come out on top. */
static void take_back(struct lockstep *l)
{
    for (unsigned i = 0; i < l->journal_count; i++)
        copy(l->journal[i].new, l->journal[i].hva, l->journal[i].n);
    for (unsigned i = l->journal_count; i-- > 0;)
        copy(l->journal[i].hva, l->journal[i].old, l->journal[i].n);
}

/*
 * How a block came back. A block that jumps to itself has the same rip before its first instruction and after its last, so the two
 * are told apart here.
 */
enum block_end {
    BLOCK_LEFT,   /* rip: the instruction that did not run */
    BLOCK_ENDED,  /* rip: what comes after the block */
    BLOCK_LINKED, /* the same, by a link, which hands over no flags that are not wanted */
    BLOCK_FAULT,
};

static enum block_end by_link(struct soft_cpu *cpu, const struct block_link *link)
{
    cpu->rip = link->kind != LINK_NEAR ? SLOT(cpu, CTX_TEMP) : SLOT(cpu, CTX_CODE_PAGE) + link->guest_off;
    cpu->lockstep->flags_linked = link->flags_wanted;
    return link->kind != LINK_NEAR ? BLOCK_ENDED : BLOCK_LINKED;
}

static bool fill(struct soft_cpu *cpu, const struct cache_miss *miss)
{
    gva_t gva = cache_miss_gva(cpu, miss);
    uint32_t changes = mmu_changes(cpu);

    return ((gva ^ (gva + miss->size - 1)) & ~PAGE_MASK) == 0 && gva_is_canonical(gva) &&
           mmu_fill(cpu, gva, miss->write ? MMU_WRITE : MMU_READ) == SOFT_OK && mmu_changes(cpu) == changes &&
           (!miss->mixed || mmu_has_write_entry(cpu, gva));
}

/* Runs the block once, filling shadow entries as it goes. */
static enum block_end run_block(struct soft_cpu *cpu, const struct block *b)
{
    const void *code = b->entry;

    SLOT(cpu, CTX_CODE_PAGE) = ALIGN_DOWN(cpu->rip, PAGE_SIZE);
    for (;;) {
        soft_vec_unpark(cpu);
        switch_to_code(cpu, code);
        uint64_t exit = SLOT(cpu, CTX_EXIT);
        const struct cache_miss *miss = cache_operand(cpu);
        switch ((enum code_exit)(exit & 0xf)) {
        case CODE_EXIT_NEXT: cpu->rip = SLOT(cpu, CTX_TEMP); return BLOCK_ENDED;
        case CODE_EXIT_UNSHARED: cpu->rip = SLOT(cpu, CTX_TEMP); return BLOCK_LEFT;
        case CODE_EXIT_LINK: return by_link(cpu, &cpu->svm->cache->links[cache_operand_word(cpu, 0)]);
        case CODE_EXIT_ATTENTION:
        case CODE_EXIT_STEP:
        case CODE_EXIT_INSN: cpu->rip = SLOT(cpu, CTX_CODE_PAGE) + cache_operand_word(cpu, 0); return BLOCK_LEFT;
        case CODE_EXIT_MISS:
            if (cache_is_unaligned_miss(cpu))
                SLOT(cpu, CTX_UNALIGNED) = CACHE_UNALIGNED_PERIOD;
            cpu->rip = SLOT(cpu, CTX_CODE_PAGE) + miss->guest_off;
            if (!fill(cpu, miss))
                return BLOCK_LEFT;
            code = (const uint8_t *)miss + miss->restart;
            continue;
        case CODE_EXIT_CALL:
            cpu->rip = SLOT(cpu, CTX_CODE_PAGE) + cache_operand_word(cpu, 0);
            if (!gva_is_canonical(SLOT(cpu, CTX_TEMP)))
                return BLOCK_LEFT;
            jump_cache_add_out(jump_cache_of(cpu, b->mode & ~(uint32_t)BLOCK_UNSHARED), SLOT(cpu, CTX_TEMP));
            code = (const uint8_t *)cache_operand(cpu) + (int32_t)cache_operand_word(cpu, 1);
            continue;
        default: return BLOCK_FAULT;
        }
    }
}

static int differ(struct soft_cpu *cpu, const char *what, uint64_t step, uint64_t code)
{
    return soft_internal(cpu, "lockstep: block at 0x%llx: %s is 0x%llx after step and 0x%llx after translated code at 0x%llx",
                         (unsigned long long)cpu->lockstep->trail[0].rip, what, (unsigned long long)step, (unsigned long long)code,
                         (unsigned long long)cpu->rip);
}

/* The mark of the instruction at rip, or NULL. */
static const struct block_mark *mark_at(const struct soft_cpu *cpu, const struct block *b)
{
    const struct block_mark *marks = &cpu->svm->cache->marks[b->first_mark];

    for (unsigned i = 0; i < b->mark_count; i++)
        if (marks[i].guest_off == (cpu->rip & PAGE_MASK))
            return &marks[i];
    return NULL;
}

/* Flags that count where the block stopped at its instruction number i: those that this finds dead may hold anything. */
static uint64_t flags_that_count(const struct soft_cpu *cpu, const struct block *b, enum block_end end, unsigned i)
{
    if (end == BLOCK_LINKED)
        return ~(uint64_t)(FLAG_ARITH & ~cpu->lockstep->flags_linked);
    if (end == BLOCK_LEFT && i > 0 && i < b->mark_count)
        return ~(uint64_t)cpu->svm->cache->marks[b->first_mark + i].flags_dead;
    return UINT64_MAX;
}

/* A block that stopped within REP MOVS or REP STOS is between two iterations: t, where the instruction began, is brought there. */
static void advance_string(const struct soft_cpu *cpu, struct trail *t)
{
    uint64_t count = t->gpr[GPR_RCX] - cpu->gpr[GPR_RCX], bytes = cpu->gpr[GPR_RDI] - t->gpr[GPR_RDI];

    if (bytes != count && bytes != count * 2 && bytes != count * 4 && bytes != count * 8)
        return; /* and so they differ */
    t->gpr[GPR_RCX] -= count;
    t->gpr[GPR_RDI] += bytes;
    if (cpu->gpr[GPR_RSI] != t->gpr[GPR_RSI])
        t->gpr[GPR_RSI] += bytes;
}

static bool has_registers_of(const struct soft_cpu *cpu, const struct trail *t)
{
    for (unsigned r = 0; r < GPR_COUNT; r++)
        if (t->gpr[r] != cpu->gpr[r])
            return false;
    return true;
}

/* The trail's entry for where the block stopped, or count + 1. A loop's instructions are there several times, with other registers. */
static unsigned find_on_trail(const struct soft_cpu *cpu, enum block_end end)
{
    const struct lockstep *l = cpu->lockstep;
    unsigned first = l->count + 1;

    if (end != BLOCK_LEFT && l->trail[l->count].rip == cpu->rip)
        return l->count;
    for (unsigned i = 0; i <= l->count; i++) {
        if (l->trail[i].rip != cpu->rip)
            continue;
        if (has_registers_of(cpu, &l->trail[i]))
            return i;
        first = MIN(first, i);
    }
    return first;
}

static int compare(struct soft_cpu *cpu, const struct block *b, enum block_end end)
{
    static const char *const names[GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                 "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    struct lockstep *l = cpu->lockstep;
    unsigned i = find_on_trail(cpu, end);

    if (i > l->count)
        return differ(cpu, "rip", l->trail[l->count].rip, cpu->rip);
    struct trail *t = &l->trail[i];
    if (end == BLOCK_LEFT && mark_at(cpu, b) && mark_at(cpu, b)->string)
        advance_string(cpu, t);
    for (unsigned r = 0; r < GPR_COUNT; r++)
        if (t->gpr[r] != cpu->gpr[r])
            return differ(cpu, names[r], t->gpr[r], cpu->gpr[r]);
    if (t->gs_base != cpu->seg[SEG_GS].base)
        return differ(cpu, "the GS base", t->gs_base, cpu->seg[SEG_GS].base);
    if (t->kernel_gs_base != cpu->kernel_gs_base)
        return differ(cpu, "KERNEL_GS_BASE", t->kernel_gs_base, cpu->kernel_gs_base);
    cpu->interrupt_shadow = t->shadow; /* translated code has none: it does not stop there */
    uint64_t mask = i == l->count ? flags_that_count(cpu, b, end, i) : ~(uint64_t)FLAG_ARITH;
    if ((t->rflags ^ cpu->rflags) & mask)
        return differ(cpu, "rflags", t->rflags, cpu->rflags);
    if (i == 0)
        return soft_step(cpu); /* it left at once, for something that only step can do */
    if (i < l->count)
        return SOFT_OK; /* it stopped early: memory and vectors are those of the part that ran */
    for (unsigned k = l->journal_count; k-- > 0;)
        for (unsigned n = 0; n < l->journal[k].n; n++)
            if ((l->journal[k].hva[n] ^ l->journal[k].new[n]) & (l->walked ? ~(unsigned)(PTE_A | PTE_D) : ~0U))
                return differ(cpu, "memory", l->journal[k].new[n], l->journal[k].hva[n]);
    if (!b->vectors)
        return SOFT_OK;
    soft_vec_park(cpu);
    for (unsigned n = 32; n < XSAVE_MAX; n++) /* past x87's instruction and data pointers, which are host addresses */
        if ((n < 512 || n >= 576) && cpu->xsave[n] != l->vec_after[n]) /* the header tells how the CPU tracks use */
            return differ(cpu, "vector state", l->vec_after[n], cpu->xsave[n]);
    return SOFT_OK;
}

static struct block *find_block(struct soft_cpu *cpu, uint32_t mode)
{
    struct code_place place;

    return run_find_code(cpu, &place) ? translate_find(cpu, &place, mode) : NULL;
}

int lockstep_run(struct soft_cpu *cpu, uint32_t mode)
{
    struct lockstep *l = cpu->lockstep;
    struct block *b = find_block(cpu, mode);

    if (!b)
        return soft_step(cpu);
    if (b->vectors) {
        soft_vec_park(cpu);
        copy(l->vec_before, cpu->xsave, XSAVE_MAX);
    }
    l->journal_count = 0;
    l->overflow = false;
    record(cpu, &l->trail[0]);
    uint64_t walks = cpu->stats.page_walks;
    l->open = true;
    int result = run_step(cpu, b);
    l->open = false;
    l->walked = cpu->stats.page_walks != walks;
    if (result == SOFT_EXIT)
        return result;
    smc_service(cpu);
    if (result == SOFT_FAULT || l->overflow || b->dropped)
        return SOFT_OK; /* step's state stands */
    if (l->count == 0)
        return soft_step(cpu);
    if (b->vectors) {
        soft_vec_park(cpu);
        copy(l->vec_after, cpu->xsave, XSAVE_MAX);
        copy(cpu->xsave, l->vec_before, XSAVE_MAX);
    }
    take_back(l);
    restore(cpu, &l->trail[0]);
    cpu->stats.block_entries++;
    enum block_end end = run_block(cpu, b);
    if (end == BLOCK_FAULT)
        return soft_internal(cpu, "lockstep: host exception %d in the block at 0x%llx, where step met none", cpu->host_fault.trapno,
                             (unsigned long long)l->trail[0].rip);
    return compare(cpu, b, end);
}
