/* The loop that runs guest code on the software engine: events first, then translated code or step. */
#include "engine/soft/run.h"

#include "base/bug.h"
#include "engine/soft/debug.h"
#include "engine/soft/debugger.h"
#include "engine/soft/flags_recipe.h"
#include "engine/soft/lapic.h"
#include "engine/soft/lockstep.h"
#include "engine/soft/mmu.h"
#include "engine/soft/smc.h"
#include "engine/soft/smp.h"
#include "engine/soft/switch.h"
#include "engine/soft/sys_desc.h"
#include "engine/soft/translate.h"
#include "engine/soft/tsc.h"

/* --- events --- */

static void tell_of_injection(struct soft_cpu *cpu, unsigned vector)
{
    struct trace *trace = &cpu->svm->vm->trace;

    if (trace_is_open(trace))
        soft_vec_park(cpu);
    trace_inject(trace, cpu->vcpu->index, vector);
}

static int deliver_interrupt(struct soft_cpu *cpu)
{
    int vector = lapic_take(cpu);

    if (vector < 0)
        return SOFT_OK;
    tell_of_injection(cpu, (unsigned)vector);
    struct soft_exception event = {.vector = (uint8_t)vector};
    cpu->halted = false;
    return soft_deliver(cpu, EVENT_EXTERNAL, &event);
}

static int deliver_nmi(struct soft_cpu *cpu)
{
    struct soft_exception event = {.vector = EXC_NMI};

    tell_of_injection(cpu, EXC_NMI);
    atomic_store(&cpu->nmi_pending, false);
    cpu->halted = false;
    return soft_deliver(cpu, EVENT_NMI, &event);
}

/*
 * What waits between two instructions, in the order of SDM vol. 3 table 6-2. The local APIC is asked only when something may have changed
 * there: whoever changes it sets attention.
 */
static int handle_events(struct soft_cpu *cpu)
{
    if (cpu->interrupt_shadow || cpu->mov_ss_shadow || cpu->wait_for_sipi)
        return SOFT_OK;
    if (cpu->debugger && debugger_holds_events(cpu))
        return SOFT_OK;
    if (atomic_load_explicit(&cpu->nmi_pending, memory_order_relaxed) && !cpu->nmi_masked)
        return deliver_nmi(cpu);
    if (cpu->ask_lapic) {
        cpu->ask_lapic = false;
        cpu->interrupt_waits = lapic_pending(cpu) >= 0;
    }
    if (!cpu->interrupt_waits || !(cpu->rflags & FLAG_IF))
        return SOFT_OK;
    cpu->ask_lapic = true; /* there may be another one behind it */
    return deliver_interrupt(cpu);
}

/* Someone wanted this thread: true when run() must return to the run loop. */
static bool answer_attention(struct soft_cpu *cpu, struct vm_exit *exit)
{
    if (!atomic_load_explicit(&cpu->attention, memory_order_relaxed))
        return false;
    atomic_exchange(&cpu->attention, 0);
    cpu->ask_lapic = true;
    smp_yield(cpu);
    smc_service(cpu);
    lapic_service(cpu);
    mmu_maintain(cpu);
    if (!atomic_load(&cpu->vcpu->requests))
        return false;
    exit->reason = VM_EXIT_INTR;
    return true;
}

/* --- translated code --- */

static uint32_t units(const struct soft_cpu *cpu)
{
    bool ts = cpu->cr0 & CR0_TS;
    bool em = cpu->cr0 & CR0_EM;
    uint32_t u = 1 << UNIT_GPR;

    if (em || ts)
        return u;
    u |= 1 << UNIT_X87 | 1 << UNIT_MMX;
    if (cpu->cr4 & CR4_OSFXSR)
        u |= 1 << UNIT_SSE;
    if ((cpu->cr4 & CR4_OSXSAVE) && (cpu->xcr0 & 6) == 6)
        u |= 1 << UNIT_AVX;
    if ((cpu->cr4 & CR4_OSXSAVE) && (cpu->xcr0 & 0xe6) == 0xe6)
        u |= 1 << UNIT_AVX512;
    return u;
}

/* Data that is read and written at every address from the segment's base on. */
static bool reaches_all(const struct cpu_seg *seg)
{
    return seg->limit == UINT32_MAX &&
           (seg->attr & (SEG_UNUSABLE | SEG_S | DESC_CODE | DESC_EXPAND_DOWN | DESC_WRITABLE)) == (SEG_S | DESC_WRITABLE);
}

static bool is_flat(const struct cpu_seg *seg)
{
    return seg->base == 0 && reaches_all(seg);
}

/* Of 32-bit code what nearly all systems run: one flat address space, and thread-local data behind FS or GS. */
static uint32_t segments(const struct soft_cpu *cpu)
{
    const struct cpu_seg *seg = cpu->seg;
    bool flat = cpu->protected_mode && !(cpu->rflags & FLAG_VM) && seg[SEG_CS].base == 0 && seg[SEG_CS].limit == UINT32_MAX &&
                cpu->stack_bits == 32 && is_flat(&seg[SEG_SS]) && is_flat(&seg[SEG_DS]);

    if (!flat)
        return RUN_STEP;
    return BLOCK_CODE32 | (reaches_all(&seg[SEG_FS]) ? BLOCK_FS : 0) | (reaches_all(&seg[SEG_GS]) ? BLOCK_GS : 0);
}

uint32_t run_mode(const struct soft_cpu *cpu)
{
    bool alignment_checks = cpu->cpl == 3 && (cpu->cr0 & CR0_AM) && (cpu->rflags & FLAG_AC);
    uint32_t mode = 0;

    if (cpu->code_bits == 16 || cpu->cpl == 1 || cpu->cpl == 2 || alignment_checks || cpu->svm->step_only ||
        (cpu->rflags & (FLAG_TF | FLAG_RF)) || (cpu->dr7 & DR7_ENABLES))
        return RUN_STEP;
    if (cpu->code_bits == 32) {
        mode = segments(cpu);
        if (mode == RUN_STEP)
            return RUN_STEP;
    }
    if (cpu->cpl == 3)
        mode |= BLOCK_USER | (cpu->cr4 & CR4_TSD ? BLOCK_NO_TSC : 0);
    return mode | units(cpu) << BLOCK_UNITS_SHIFT;
}

bool run_find_code(struct soft_cpu *cpu, struct code_place *place)
{
    gva_t next = ALIGN_DOWN(cpu->rip, PAGE_SIZE) + PAGE_SIZE;

    place->linked = false;
    if (!gva_is_canonical(cpu->rip) || mmu_fetch(cpu, cpu->rip, &place->gpa, &place->hva) != SOFT_OK || !place->hva)
        return false;
    bool may_run_on = next - cpu->rip < INSN_MAX_LEN && gva_is_canonical(next) && (cpu->code_bits == 64 || next <= UINT32_MAX);
    if (!may_run_on || mmu_fetch(cpu, next, &place->next_gpa, &place->next_hva) != SOFT_OK || !place->next_hva)
        place->next_gpa = GPA_INVALID; /* there may be no such page, and no need for it */
    return true;
}

/*
 * Memory that other processes map may have been written to without a word: then, where the guest has mapped a page anew for execution, its
 * blocks are compared with it. Whoever writes to a page that is being executed has to tell the guest, and the guest to map it anew.
 */
static bool was_written(struct soft_cpu *cpu, gva_t gva, gpa_t gpa, const uint8_t *hva)
{
    struct soft_vm *svm = cpu->svm;
    bool changed;

    if (svm->mem->fd < 0 || gpa == GPA_INVALID || !mmu_fetched_anew(cpu, gva) || !smc_has_code(svm, gpa))
        return false;
    smp_lock(cpu);
    changed = cache_page_differs(svm, ALIGN_DOWN(gpa, PAGE_SIZE), hva - (gpa & PAGE_MASK));
    smp_unlock(cpu);
    if (changed)
        smc_written(svm, ALIGN_DOWN(gpa, PAGE_SIZE), PAGE_SIZE, SMC_OUTSIDE);
    return changed;
}

/*
 * The block at cpu->rip, to which jumps of translated code lead from now on; linked: as in struct code_place. SOFT_OK, or SOFT_SLOW where
 * there is none: step finds out what is wrong with the address, or a debugger wants it to have the page.
 */
static int lookup(struct soft_cpu *cpu, uint32_t mode, bool linked, struct block **b)
{
    struct code_place place;

    if ((cpu->debugger && debugger_steps(cpu)) || !run_find_code(cpu, &place))
        return SOFT_SLOW;
    if (was_written(cpu, cpu->rip, place.gpa, place.hva) || was_written(cpu, cpu->rip + PAGE_SIZE, place.next_gpa, place.next_hva))
        return SOFT_SLOW; /* step reads what is there */
    place.linked = linked;
    *b = translate_find(cpu, &place, mode);
    if (!*b || (block_crosses(*b) && cpu->debugger && debugger_steps_at(cpu, cpu->rip + PAGE_SIZE)))
        return SOFT_SLOW;
    bool allowed = mmu_allow_fetch(cpu, cpu->rip) && (!block_crosses(*b) || mmu_allow_fetch(cpu, cpu->rip + PAGE_SIZE));
    return allowed ? SOFT_OK : SOFT_SLOW;
}

static void enter(struct soft_cpu *cpu, const void *code)
{
    soft_vec_unpark(cpu);
    if (!cpu->svm->count_insns) {
        switch_to_code(cpu, code);
        return;
    }
    uint64_t start = tsc_host();
    switch_to_code(cpu, code);
    cpu->stats.code_ticks += tsc_host() - start;
}

/* In another mode the same rip means another block. */
static void select_mode(struct soft_cpu *cpu, uint32_t mode)
{
    struct jump_cache *jc = jump_cache_of(cpu, mode);

    if (jc->mode == mode)
        return;
    jc->mode = mode;
    jump_cache_flush(jc);
    jump_cache_flush(jump_cache_of(cpu, mode | BLOCK_UNSHARED));
}

/*
 * The block that a link leads to, linked from now on; NULL: none, or gone by now. A near one's is in the page that runs, whose present mapping
 * serves.
 */
static struct block *resolve_link(struct soft_cpu *cpu, uint32_t mode)
{
    struct soft_cache *cache = cpu->svm->cache;
    struct block_link *link = &cache->links[cache_operand_word(cpu, 0)];
    const struct block *from = &cache->blocks[link->from];
    uint32_t generation = atomic_load_explicit(&cache->generation, memory_order_relaxed);
    bool near = link->kind == LINK_NEAR;
    struct block *to;

    cpu->rip = near ? SLOT(cpu, CTX_CODE_PAGE) + link->guest_off : SLOT(cpu, CTX_TEMP);
    if (lookup(cpu, mode, near, &to) != SOFT_OK)
        return NULL;
    smp_lock(cpu); /* all blocks may be gone when it is there */
    bool there = atomic_load_explicit(&cache->generation, memory_order_relaxed) == generation;
    if (there && !from->dropped && !to->dropped && to->mode == (from->mode & ~(uint32_t)BLOCK_UNSHARED) &&
        (!near || block_in_page_of(to, from)))
        cache_link(cpu->svm, link, to);
    smp_unlock(cpu);
    return there ? to : NULL;
}

/* A jump led to a block that is not mapped at cpu->rip, or of which nobody knows that it is since the last flush. The one that is; NULL: none, or gone. */
static struct block *resolve_stale(struct soft_cpu *cpu, uint32_t mode)
{
    struct soft_cache *cache = cpu->svm->cache;
    struct block *led_to = &cache->blocks[cache_operand_word(cpu, 0)];
    uint32_t generation = atomic_load_explicit(&cache->generation, memory_order_relaxed);
    struct block *b;

    mode |= led_to->mode & BLOCK_UNSHARED;
    if (lookup(cpu, mode, false, &b) != SOFT_OK) {
        mmu_note_miss(cpu, cpu->rip, MMU_FETCH);
        return NULL;
    }
    if (b == led_to)
        return b;
    jump_cache_add(jump_cache_of(cpu, mode), cpu->rip, b);
    smp_lock(cpu);
    bool there = atomic_load_explicit(&cache->generation, memory_order_relaxed) == generation;
    if (there)
        cache_cut_far_links(cpu->svm, led_to);
    smp_unlock(cpu);
    return there ? b : NULL;
}

static int step_at(struct soft_cpu *cpu, uint64_t guest_off)
{
    cpu->rip = SLOT(cpu, CTX_CODE_PAGE) + guest_off;
    return soft_step(cpu);
}

/* The block of an access that is not aligned, as many before, will be made anew. False where its code is gone for good. */
static bool note_unaligned(struct soft_cpu *cpu, const struct cache_miss *miss)
{
    struct soft_cache *cache = cpu->svm->cache;
    uint32_t generation = atomic_load_explicit(&cache->generation, memory_order_relaxed);

    SLOT(cpu, CTX_UNALIGNED) = CACHE_UNALIGNED_PERIOD;
    cpu->stats.misses_unaligned++;
    smp_lock(cpu);
    bool there = atomic_load_explicit(&cache->generation, memory_order_relaxed) == generation;
    if (there)
        cache_note_unaligned(cpu->svm, miss);
    smp_unlock(cpu);
    return there;
}

/*
 * A shadow lookup found nothing: fill and go on at the instruction's start, as often as that helps, or step over it. It may be the one behind
 * STI, so it is carried out before anybody looks for events. SOFT_SLOW with *code, or NULL: on in a block that shares no lookups.
 */
static int handle_miss(struct soft_cpu *cpu, const void **code)
{
    const struct cache_miss *at = cache_operand(cpu);
    struct cache_miss miss = *at;
    gva_t gva = cache_miss_gva(cpu, &miss);
    bool crosses = ((gva ^ (gva + miss.size - 1)) & ~PAGE_MASK) != 0;
    uint32_t changes = mmu_changes(cpu);

    cpu->rip = SLOT(cpu, CTX_CODE_PAGE) + miss.guest_off;
    if (cache_is_unaligned_miss(cpu) && !note_unaligned(cpu, at))
        return soft_step(cpu);
    *code = NULL;
    if (miss.mixed && crosses)
        return SOFT_SLOW;
    cpu->stats.misses_crossing += crosses;
    if (!crosses && !gva_is_canonical(gva))
        mmu_note_miss(cpu, gva, miss.write ? MMU_WRITE : MMU_READ);
    if (crosses || !gva_is_canonical(gva) || mmu_fill(cpu, gva, miss.write ? MMU_WRITE : MMU_READ) != SOFT_OK)
        return soft_step(cpu);
    if (mmu_changes(cpu) != changes)
        return soft_step(cpu); /* the block may rely on what is no more */
    if (miss.mixed && !mmu_has_write_entry(cpu, gva)) {
        cpu->stats.misses_unshared++;
        return SOFT_SLOW;
    }
    *code = (const uint8_t *)at + miss.restart;
    return SOFT_SLOW; /* once more */
}

/* --- CTX_SAVE_FLAGS --- */

static uint64_t saved_flags(const struct soft_cpu *cpu)
{
    uint32_t saved = (uint32_t)SLOT(cpu, CTX_SAVE_FLAGS);

    if ((saved & 0xff) >= FLAGS_RECIPE_FIRST)
        return flags_recipe_follow(saved, SLOT(cpu, CTX_FLAGS_VALUE));
    return (saved >> 8 & (FLAG_ARITH & 0xff)) | (saved & 1 ? FLAG_OF : 0);
}

static void save_flags(struct soft_cpu *cpu)
{
    SLOT(cpu, CTX_SAVE_FLAGS) = (cpu->rflags & 0xff) << 8 | !!(cpu->rflags & FLAG_OF);
}

static int handle_fault(struct soft_cpu *cpu)
{
    const struct block_mark *mark;
    struct block *b = cache_block_at(cpu->svm->cache, (const void *)(uintptr_t)cpu->host_fault.pc, &mark);

    if (!b)
        return soft_internal(cpu, "host exception %d outside any block, at host address 0x%llx", cpu->host_fault.trapno,
                             (unsigned long long)cpu->host_fault.pc);
    if (mark->string)
        trans_string_faulted(cpu);
    cpu->gpr[GPR_RSP] += (uint64_t)(int64_t)mark->sp_late;
    if (b->mode & BLOCK_CODE32)
        cpu->gpr[GPR_RSP] = (uint32_t)cpu->gpr[GPR_RSP];
    if (mark->flags_saved)
        cpu->rflags = (cpu->rflags & ~(uint64_t)FLAG_ARITH) | saved_flags(cpu);
    return step_at(cpu, mark->guest_off); /* raises what the CPU found, with the guest's registers */
}

/*
 * An indirect call's target is not in the jump cache: the call is begun once more when it is. SOFT_SLOW with *code, or else step has carried the call
 * out, as far as it came.
 */
static int handle_call(struct soft_cpu *cpu, uint32_t mode, const void **code)
{
    const struct soft_cache *cache = cpu->svm->cache;
    uint64_t call = SLOT(cpu, CTX_CODE_PAGE) + cache_operand_word(cpu, 0), target = SLOT(cpu, CTX_TEMP);
    uint32_t generation = atomic_load_explicit(&cache->generation, memory_order_relaxed), changes = mmu_changes(cpu);
    struct block *b;

    *code = (const uint8_t *)cache_operand(cpu) + (int32_t)cache_operand_word(cpu, 1);
    cpu->rip = target;
    bool found = gva_is_canonical(target) && lookup(cpu, mode, false, &b) == SOFT_OK;
    cpu->rip = call;
    if (!found)
        return soft_step(cpu);
    jump_cache_add(jump_cache_of(cpu, mode), target, b);
    if (generation != atomic_load_explicit(&cache->generation, memory_order_relaxed) || mmu_changes(cpu) != changes)
        return soft_step(cpu); /* the code is gone, or relies on what is no more */
    return SOFT_SLOW;
}

/*
 * A jump that the jump cache knows nothing of. Where it leads to an address that is not canonical it is taken back, and step raises its fault.
 * (A direct jump to such an address, which stands within 2 GiB of the last canonical one, faults at its target.)
 */
static int handle_jump(struct soft_cpu *cpu)
{
    cpu->rip = SLOT(cpu, CTX_TEMP);
    if (gva_is_canonical(cpu->rip))
        return SOFT_OK;
    uint32_t jump = cache_operand_word(cpu, 0);
    cpu->gpr[GPR_RSP] -= jump >> CODE_NEXT_POPPED_SHIFT;
    return step_at(cpu, jump & CODE_NEXT_OFF);
}

/* Goes on with a block that was found for cpu->rip, or not: its code, or NULL where somebody wants this thread first. */
static const void *go_on(struct soft_cpu *cpu, const struct block *b)
{
    if (!b || atomic_load_explicit(&cpu->attention, memory_order_relaxed))
        return NULL;
    SLOT(cpu, CTX_CODE_PAGE) = ALIGN_DOWN(cpu->rip, PAGE_SIZE);
    return b->entry;
}

/* The block at cpu->rip that shares no lookups, or NULL where step is to come on. */
static const void *unshared_code(struct soft_cpu *cpu, uint32_t mode)
{
    struct block *b;

    if (lookup(cpu, mode | BLOCK_UNSHARED, false, &b) != SOFT_OK)
        return NULL;
    jump_cache_add(jump_cache_of(cpu, mode | BLOCK_UNSHARED), cpu->rip, b);
    return go_on(cpu, b);
}

/*
 * Where to enter translated code at cpu->rip; NULL: nowhere, or somebody wants this thread once more. Then step carries out one instruction, for
 * a block that begins by leaving for attention would not come on where others write to its page again and again.
 */
static const void *entry_point(struct soft_cpu *cpu, uint32_t mode)
{
    struct jump_cache *jc = jump_cache_of(cpu, mode);
    struct block *b;

    if (atomic_load_explicit(&cpu->attention, memory_order_relaxed))
        return NULL;
    const void *code = jump_cache_find(jc, cpu->rip);
    if (code) {
        save_flags(cpu);
        SLOT(cpu, CTX_TEMP) = cpu->rip;
        return code;
    }
    if (lookup(cpu, mode, false, &b) != SOFT_OK)
        return NULL;
    jump_cache_add(jc, cpu->rip, b);
    return go_on(cpu, b);
}

/* Runs translated code from cpu->rip until something needs C; does that. SOFT_OK or SOFT_EXIT. */
static int run_code(struct soft_cpu *cpu, uint32_t mode)
{
    const void *code = entry_point(cpu, mode);

    if (!code)
        return soft_step(cpu);
    for (;;) {
        cpu->stats.block_entries++;
        enter(cpu, code);
        enum code_exit exit = (enum code_exit)SLOT(cpu, CTX_EXIT);
        int result;
        /* Links may have led to blocks that other vCPUs made: what those wrote of them before is to be seen. */
        (void)atomic_load_explicit(&cpu->svm->cache->block_count, memory_order_acquire);
        cpu->stats.code_exits[exit]++;
        switch (exit) {
        case CODE_EXIT_NEXT: return handle_jump(cpu);
        case CODE_EXIT_INSN:
            cpu->rip = SLOT(cpu, CTX_CODE_PAGE) + cache_operand_word(cpu, 0);
            return soft_step_insn(cpu, &cpu->svm->cache->sites[cache_operand_word(cpu, 1)]);
        case CODE_EXIT_STEP: return step_at(cpu, cache_operand_word(cpu, 0));
        case CODE_EXIT_ATTENTION: cpu->rip = SLOT(cpu, CTX_CODE_PAGE) + cache_operand_word(cpu, 0); return SOFT_OK;
        case CODE_EXIT_FAULT: return handle_fault(cpu);
        case CODE_EXIT_LINK:
            code = go_on(cpu, resolve_link(cpu, mode));
            if (!code)
                return SOFT_OK;
            continue;
        case CODE_EXIT_STALE:
            cpu->rip = SLOT(cpu, CTX_TEMP);
            if (cpu->debugger && debugger_steps(cpu))
                return SOFT_OK;
            code = go_on(cpu, resolve_stale(cpu, mode));
            if (!code)
                return soft_step(cpu);
            continue;
        case CODE_EXIT_UNSHARED:
            cpu->rip = SLOT(cpu, CTX_TEMP);
            code = unshared_code(cpu, mode);
            if (!code)
                return soft_step(cpu);
            continue;
        case CODE_EXIT_CALL:
            result = handle_call(cpu, mode, &code);
            if (result != SOFT_SLOW)
                return result;
            continue;
        case CODE_EXIT_MISS:
            result = handle_miss(cpu, &code);
            if (result != SOFT_SLOW)
                return result;
            if (!code)
                code = unshared_code(cpu, mode);
            if (!code)
                return soft_step(cpu);
            continue;
        default: BUG_ON(true);
        }
    }
}

static int run_some(struct soft_cpu *cpu)
{
    bool step = cpu->interrupt_shadow || cpu->mov_ss_shadow || (cpu->debugger && debugger_steps(cpu));
    uint32_t mode = step ? RUN_STEP : run_mode(cpu);

    if (mode == RUN_STEP)
        return soft_step(cpu);
    select_mode(cpu, mode);
    if (cpu->svm->lockstep)
        return lockstep_run(cpu, mode);
    return run_code(cpu, mode);
}

static int run_debugged(struct soft_cpu *cpu)
{
    int result = SOFT_EXIT;

    if (!debugger_stops_before(cpu))
        result = run_some(cpu);
    return result == SOFT_OK && debugger_stops_after(cpu) ? SOFT_EXIT : result;
}

int run_vcpu(struct vcpu *vcpu, struct vm_exit *exit)
{
    struct soft_cpu *cpu = vcpu->engine_data;
    uint64_t start = tsc_host();
    int result = SOFT_OK;

    cpu->exit = exit;
    cpu->ask_lapic = true;
    smp_enter(cpu);
    for (;;) {
        if (answer_attention(cpu, exit))
            break;
        result = handle_events(cpu);
        if (result == SOFT_EXIT)
            break;
        if (cpu->halted || cpu->wait_for_sipi) {
            cpu->stats.run_ticks += tsc_host() - start;
            run_sleep(cpu);
            start = tsc_host();
            continue;
        }
        result = cpu->debugger ? run_debugged(cpu) : run_some(cpu);
        if (result == SOFT_EXIT)
            break;
    }
    soft_vec_park(cpu);
    cpu->stats.run_ticks += tsc_host() - start;
    smp_leave(cpu);
    return 0;
}
