/* Guest block to host code: its entries, its instructions one by one, and its place in the cache. */
#include "engine/soft/translate.h"

#include "base/bug.h"
#include "engine/soft/lockstep.h"
#include "engine/soft/mmu.h"
#include "engine/soft/perf_map.h"
#include "engine/soft/ram.h"
#include "engine/soft/smc.h"
#include "engine/soft/smp.h"
#include "engine/soft/tsc.h"

static const struct insn *current(const struct trans *t)
{
    return &t->insn[t->at];
}

static bool unit_runs(const struct trans *t, const struct insn *insn)
{
    return t->mode >> (BLOCK_UNITS_SHIFT + insn->unit) & 1;
}

static bool emit_insn(struct trans *t)
{
    const struct insn *insn = current(t);

    if (!unit_runs(t, insn))
        return false;
    if (t->cpu->svm->lockstep && lockstep_is_random(insn))
        return false;
    switch (insn->cls) {
    case INSN_INNOCUOUS: return trans_innocuous(t);
    case INSN_STACK: return trans_is_plain_stack(insn) ? trans_stack(t) : trans_system(t);
    case INSN_SENSITIVE: return trans_system(t);
    case INSN_CONTROL: return trans_control(t);
    case INSN_STRING: return trans_string(t);
    default: return false;
    }
}

/* The block's page, and the one that it runs on into, must be mapped where the jump in HOST_S1 leads. */
static uint8_t *emit_check(struct trans *t, struct trans_cold *cold, gpa_t page)
{
    struct emit *e = &t->e;

    emit_op_mem(e, OP_ADD_LOAD, true, HOST_S2, HOST_CTX, t->mode & BLOCK_USER ? CTX_USER_FETCH : CTX_FETCH);
    uint8_t *check = emit_cmp_gs_imm32(e, HOST_S2, (uint32_t)ram_page(t->cpu->svm->mem, page) + 1);
    trans_cold_from(cold, emit_jcc(e, CC_NZ));
    return check;
}

static void emit_dispatch_entry(struct trans *t)
{
    struct emit *e = &t->e;
    struct block *b = t->block;
    struct trans_cold *cold = trans_cold(t, COLD_STALE);

    b->dispatch = e->rw + e->rx_delta;
    emit_page_number(e, HOST_S2, HOST_S1);
    b->check = emit_check(t, cold, b->gpa);
    if (block_crosses(b)) {
        emit_lea(e, HOST_S2, HOST_S1, (int32_t)PAGE_SIZE);
        emit_page_number(e, HOST_S2, HOST_S2);
        emit_check(t, cold, b->next_gpa);
    }
    emit_align_jmp(e);
    b->landing_off = (uint8_t)(e->rw + e->rx_delta - b->dispatch);
    emit_and_page_start(e, HOST_S1);
    emit_store_ctx(e, HOST_S1, CTX_CODE_PAGE);
    if ((!t->count || t->live[0]) && !t->starts_saved)
        trans_flags_fetch(t);
}

static struct block_mark *add_mark(struct trans *t)
{
    struct soft_cache *cache = t->cache;
    struct block_mark *mark = &cache->marks[t->block->first_mark + t->block->mark_count++];

    mark->host_off = (uint32_t)(t->e.rw + t->e.rx_delta - t->block->code);
    mark->guest_off = t->off[t->at];
    mark->flags_dead = t->at < t->count ? FLAG_ARITH & ~t->live[t->at] : 0;
    mark->flags_saved = mark->string = false;
    mark->sp_late = (int16_t)t->sp_late;
    return mark;
}

/* Counts the instructions from number `first` on that are executed together. It takes three, so only with statistics wanted. */
static void emit_count(struct trans *t, unsigned first)
{
    unsigned i = first;

    if (!t->cpu->svm->count_insns)
        return;
    trans_forget(t);
    while (i < t->count && !trans_is_conditional(&t->insn[i]))
        i++;
    emit_load_ctx(&t->e, HOST_S1, CTX_INSNS);
    emit_lea(&t->e, HOST_S1, HOST_S1, (int32_t)(MIN(i + 1, t->count) - first));
    emit_store_ctx(&t->e, HOST_S1, CTX_INSNS);
}

static void emit_body(struct trans *t)
{
    trans_forget(t);
    t->sp_late = 0;
    emit_count(t, 0);
    for (t->at = 0; t->at < t->count && !t->ended; t->at++) {
        unsigned cold_count = t->cold_count;
        uint8_t link_count = t->block->link_count;
        bool flags_saved = t->flags_saved, saved_as_recipe = t->saved_as_recipe;
        int32_t sp_late = t->sp_late;
        struct block_mark *mark = add_mark(t);
        t->insn_start = t->e.rw;
        t->tracked = false;
        if (emit_insn(t)) {
            trans_share_emitted(t, t->at);
            if (!t->tracked)
                trans_forget(t);
            mark->string = current(t)->cls == INSN_STRING;
            mark->flags_saved = t->flags_saved; /* one that touches flags ends with the host's, and began with them */
            if (trans_is_conditional(current(t)) && !t->ended)
                emit_count(t, t->at + 1);
            if (t->at + 1 == t->count || !trans_bears_late_sp(t, t->at + 1))
                trans_settle_sp(t);
            continue;
        }
        t->e.rw = t->insn_start;
        t->cold_count = cold_count;
        t->flags_saved = flags_saved;
        t->saved_as_recipe = saved_as_recipe;
        t->block->link_count = link_count;
        t->sp_late = sp_late;
        trans_settle_sp(t);
        trans_step_exit(t);
    }
    if (t->ended)
        return;
    add_mark(t);
    t->insn_start = t->e.rw;
    if (t->count == 0)
        trans_step_exit(t); /* nobody knows the next page */
    else
        trans_goto(t, trans_end(t, t->count - 1), false);
}

static uint8_t *here(const struct trans *t)
{
    return t->e.rw + t->e.rx_delta;
}

/* Where near links come in that look first; the others too, if flags are to be saved before the first instruction. */
static void emit_near_entry(struct trans *t)
{
    t->flags_saved = false;
    t->block->polled = here(t);
    trans_poll_at_entry(t);
    if (!t->starts_saved)
        return;
    t->block->entry = here(t);
    trans_flags_keep(t);
}

/* Where only links lead to a block, so far, its entry for other jumps is cold; else that for links. */
static void emit_block(struct trans *t, bool linked)
{
    struct block *b = t->block;

    t->at = 0;
    if (!linked)
        emit_dispatch_entry(t);
    b->code = here(t);
    if (linked)
        emit_near_entry(t);
    const uint8_t *body = t->e.rw;
    b->entry = here(t);
    t->flags_saved = t->saved_as_recipe = t->starts_saved;
    emit_body(t);

    struct emit hot = t->e;
    t->e = t->cold_e;
    t->at = 0;
    if (linked)
        emit_dispatch_entry(t);
    else
        emit_near_entry(t);
    emit_land_at(emit_jmp(&t->e), body, &t->e);
    trans_emit_cold(t);
    trans_emit_link_exits(t);
    t->cold_e = t->e;
    t->e = hot;
}

/* Whether no near link leads out that nobody has looked before. All other ways out do look. */
static bool looks(const struct trans *t)
{
    for (unsigned n = 0; n < t->block->link_count; n++) {
        const struct block_link *link = &t->cache->links[t->block->first_link + n];
        if (link->kind == LINK_NEAR && !link->polled)
            return false;
    }
    return true;
}

static void keep_source(struct trans *t)
{
    struct soft_cache *cache = t->cache;

    t->block->source = (uint32_t)cache->source_used;
    t->block->guest_bytes = 0;
    for (unsigned i = 0; i < t->decoded; i++)
        for (unsigned k = 0; k < t->insn[i].len; k++, t->block->guest_bytes++)
            cache->source[cache->source_used++] = t->insn[i].bytes[k];
}

static struct emit emitter(const struct soft_cache *cache, size_t at)
{
    return (struct emit){.rw = cache->mem.rw + at, .end = cache->mem.rw + at + BLOCK_MAX_CODE, .rx_delta = cache->mem.rx - cache->mem.rw};
}

/* code_lock is held, and the page is protected. */
static struct block *translate_block(struct soft_cpu *cpu, const struct code_place *place, uint32_t mode)
{
    struct soft_cache *cache = cpu->svm->cache;
    struct trans *t = cpu->trans;
    struct block *b = &cache->blocks[atomic_load_explicit(&cache->block_count, memory_order_relaxed)];
    uint64_t start = tsc_host();

    BUG_ON(cpu->vec_live);
    *b = (struct block){.gpa = place->gpa,
                        .next_gpa = GPA_INVALID,
                        .mode = mode,
                        .first_link = cache->link_count,
                        .first_mark = cache->mark_count,
                        .cold = cache->mem.rx + cache->cold_start + cache->cold_used};
    t->cpu = cpu;
    t->cache = cache;
    t->block = b;
    t->mode = mode;
    t->cold_count = 0;
    t->ended = false;
    t->e = emitter(cache, cache->used);
    t->cold_e = emitter(cache, cache->cold_start + cache->cold_used);
    t->page = place->hva - (place->gpa & PAGE_MASK);
    trans_decode(t, place);
    trans_flags_find(t, place->linked);
    trans_share_find(t);
    emit_block(t, place->linked);
    BUG_ON(t->e.overflow || t->cold_e.overflow);
    b->looks = looks(t);

    cache->mark_count += b->mark_count;
    cache->link_count += b->link_count;
    keep_source(t);
    b->code_size = (uint32_t)(t->e.rw + t->e.rx_delta - b->code);
    b->cold_size = (uint32_t)(t->cold_e.rw + t->cold_e.rx_delta - b->cold);
    cache->used = ALIGN_UP((size_t)(t->e.rw - cache->mem.rw), 16);
    cache->cold_used += b->cold_size;
    cache_insert(cpu->svm, b);
    cpu->stats.blocks_translated++;
    cpu->stats.bytes_translated += b->guest_bytes;
    cpu->stats.translate_ticks += tsc_host() - start;
    if (cpu->svm->perf_map)
        perf_map_add_block(cpu->svm->perf_map, b, cpu->rip);
    return b;
}

static void make_room(struct soft_cpu *cpu)
{
    smp_exclusive_begin(cpu);
    if (cache_full(cpu->svm->cache)) /* not emptied by another one meanwhile */
        cache_flush(cpu->svm);
    smp_exclusive_end(cpu);
}

#define TRIES 4

struct block *translate_find(struct soft_cpu *cpu, const struct code_place *place, uint32_t mode)
{
    struct soft_vm *svm = cpu->svm;
    struct block *b = cache_find(svm, place->gpa, place->next_gpa, mode);

    if (b)
        return b;
    soft_vec_park(cpu);
    for (unsigned i = 0; i < TRIES && !b; i++) {
        smc_protect(cpu, place->gpa); /* before the bytes are read: a later write drops the block */
        if (place->next_gpa != GPA_INVALID)
            smc_protect(cpu, place->next_gpa);
        smp_lock(cpu);
        if (cache_full(svm->cache)) {
            smp_unlock(cpu);
            make_room(cpu);
            continue;
        }
        smc_drop_stale(svm);
        if (smc_is_protected(svm, place->gpa) && (place->next_gpa == GPA_INVALID || smc_is_protected(svm, place->next_gpa))) {
            b = cache_find(svm, place->gpa, place->next_gpa, mode); /* another vCPU may have been quicker */
            if (!b)
                b = translate_block(cpu, place, mode);
        }
        smp_unlock(cpu);
    }
    return b;
}
