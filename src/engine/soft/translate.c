/* Guest block to host code: decode, flags liveness, emission, and the cold code behind it. */
#include "engine/soft/translate.h"

#include <errno.h>

#include "base/bug.h"
#include "engine/soft/lockstep.h"
#include "engine/soft/mmu.h"
#include "engine/soft/perf_map.h"
#include "engine/soft/ram.h"
#include "engine/soft/smc.h"
#include "engine/soft/smp.h"
#include "engine/soft/tsc.h"

#define UNROLLED_INSNS (CACHE_BLOCK_INSNS * 3 / 4)

#define ATTENTION_DISP ((int32_t)offsetof(struct soft_cpu, attention) - CTX_BIAS)

static const struct insn *current(const struct trans *t)
{
    return &t->insn[t->at];
}

/* --- decoding --- */

static bool ends_block(const struct trans *t, const struct insn *insn)
{
    return insn->cls != INSN_INNOCUOUS && !trans_is_plain_stack(insn) && !trans_is_system(t->mode, insn) && !trans_is_string(t->mode, insn);
}

static int decode_at(struct trans *t, const struct code_place *place, unsigned off, struct insn *insn)
{
    unsigned bits = trans_is_wide(t) ? 64 : 32, here = (unsigned)PAGE_SIZE - off;
    uint8_t bytes[INSN_MAX_LEN];
    int rc = insn_decode(t->cpu->svm, insn, t->page + off, here, bits);
    bool whole = rc == 0 && (insn->cls != INSN_INVALID || here >= INSN_MAX_LEN);

    if (whole || t->count > 0 || here >= INSN_MAX_LEN || place->next_gpa == GPA_INVALID)
        return whole ? 0 : -EAGAIN;
    for (unsigned i = 0; i < INSN_MAX_LEN; i++)
        bytes[i] = i < here ? t->page[off + i] : place->next_hva[i - here];
    rc = insn_decode(t->cpu->svm, insn, bytes, INSN_MAX_LEN, bits);
    if (rc == 0)
        t->block->next_gpa = ALIGN_DOWN(place->next_gpa, PAGE_SIZE);
    return rc;
}

/* Whether the block goes on behind the branch: not where that leads back, for mostly it is taken then. */
static bool goes_on(const struct insn *insn, unsigned branches)
{
    return trans_is_conditional(insn) && (int64_t)insn->op[0].imm > 0 && branches < BLOCK_MAX_BRANCHES;
}

/*
 * Whether the block goes on where the jump leads: not where it has been. Kept source is compared with guest memory in one piece (keep_source()), so not
 * where others may write to that.
 */
static bool follows(const struct trans *t, const struct insn *insn, int64_t target, unsigned jumps)
{
    if (insn->mnemonic != ZYDIS_MNEMONIC_JMP || insn->op[0].kind != OPERAND_REL || jumps == BLOCK_MAX_JUMPS || target < 0 ||
        target >= (int64_t)PAGE_SIZE || (!trans_is_wide(t) && insn->opsize != 4) || block_crosses(t->block) || t->cpu->svm->mem->fd >= 0)
        return false;
    for (unsigned i = 0; i < t->count; i++)
        if (t->off[i] == target)
            return false;
    return true;
}

/* Whether the first `count` instructions, all of them innocuous, access memory. */
static bool access_memory(const struct trans *t, unsigned count)
{
    bool some = false;

    for (unsigned i = 0; i < count; i++) {
        if (t->insn[i].cls != INSN_INNOCUOUS)
            return false;
        some |= t->insn[i].has_mem && !t->insn[i].nop && t->insn[i].mnemonic != ZYDIS_MNEMONIC_LEA;
    }
    return some;
}

/* A block of nothing but a loop is made of the loop several times, so that its accesses share lookups, and one branch leads back. */
static void unroll(struct trans *t)
{
    unsigned last = t->count - 1;

    if (t->count == 0 || t->count > UNROLLED_INSNS / 2 || block_crosses(t->block) || !trans_is_conditional(&t->insn[last]) ||
        (int64_t)trans_end(t, last) + (int64_t)t->insn[last].op[0].imm != t->off[0] || !access_memory(t, last))
        return;
    for (unsigned copies = MIN(UNROLLED_INSNS / t->count, BLOCK_MAX_ROUNDS); copies > 1; copies--)
        for (unsigned i = 0; i <= last; i++) {
            t->insn[t->count] = t->insn[i];
            t->off[t->count++] = t->off[i];
        }
}

/* A block stays within one page, but for one of a single instruction that runs on into the next. */
static void decode_block(struct trans *t, const struct code_place *place)
{
    unsigned off = place->gpa & PAGE_MASK, branches = 0, jumps = 0;

    t->count = 0;
    while (t->count < CACHE_BLOCK_INSNS && off < PAGE_SIZE) {
        struct insn *insn = &t->insn[t->count];
        if (decode_at(t, place, off, insn) != 0)
            break;
        t->block->vectors |= insn->unit != UNIT_GPR;
        t->off[t->count++] = (uint16_t)off;
        off += insn->len;
        if (goes_on(insn, branches)) {
            branches++;
        } else if (follows(t, insn, off + (int64_t)insn->op[0].imm, jumps)) {
            off += (int32_t)insn->op[0].imm;
            jumps++;
        } else if (ends_block(t, insn)) {
            break;
        }
    }
    t->decoded = t->count;
    unroll(t);
    t->off[t->count] = (uint16_t)off;
}

bool trans_runs_on(const struct trans *t, int64_t off)
{
    unsigned bits = trans_is_wide(t) ? 64 : 32;
    struct insn insn;

    if (off + INSN_MAX_LEN <= (int64_t)PAGE_SIZE)
        return false;
    return insn_decode(t->cpu->svm, &insn, t->page + off, (unsigned)(PAGE_SIZE - off), bits) != 0 || insn.cls == INSN_INVALID;
}

/* --- exits and cold code --- */

/* Leaves: what the exit wants to know stands behind the call. */
static void emit_exit(struct trans *t, enum code_exit exit, uint32_t operand)
{
    emit_call_to(&t->e, t->cache->call[exit][t->flags_saved]);
    emit32(&t->e, operand);
}

/* A block ends with it, so there is one site a block. */
void trans_step_exit(struct trans *t)
{
    struct soft_cache *cache = t->cache;
    bool known = t->at < t->count && current(t)->exec;

    emit_exit(t, known ? CODE_EXIT_INSN : CODE_EXIT_STEP, t->off[t->at]);
    if (known) {
        cache->sites[cache->site_count] = *current(t);
        emit32(&t->e, cache->site_count++);
    }
    t->ended = true;
}

struct trans_cold *trans_cold(struct trans *t, enum trans_cold_kind kind)
{
    BUG_ON(t->cold_count == TRANS_MAX_COLD);
    struct trans_cold *cold = &t->cold[t->cold_count++];

    *cold = (struct trans_cold){
        .kind = kind, .flags_saved = t->flags_saved, .at = (uint8_t)t->at, .guest_off = t->off[t->at], .restart = t->insn_start};
    return cold;
}

void trans_cold_from(struct trans_cold *cold, uint8_t *site)
{
    cold->sites[cold->site_count++] = site;
}

struct trans_cold *trans_cold_step(struct trans *t)
{
    struct trans_cold *cold = trans_cold(t, COLD_EXIT);

    cold->exit = CODE_EXIT_STEP;
    return cold;
}

struct block_link *trans_link(struct trans *t, uint8_t *site, enum link_kind kind, int64_t guest_off, uint16_t flags)
{
    struct block *b = t->block;

    BUG_ON(b->link_count == BLOCK_MAX_LINKS);
    struct block_link *link = &t->cache->links[b->first_link + b->link_count++];
    *link = (struct block_link){.site = site,
                                .kind = kind,
                                .guest_off = kind == LINK_NEAR ? (uint16_t)guest_off : 0,
                                .flags_wanted = flags,
                                .from = (uint32_t)(b - t->cache->blocks),
                                .to = BLOCK_NONE};
    return link;
}

bool trans_is_linked(const struct trans *t, int64_t guest_off)
{
    return guest_off >= 0 && guest_off < (int64_t)PAGE_SIZE && !trans_runs_on(t, guest_off);
}

static void emit_far(struct trans *t, int64_t guest_off, bool polled)
{
    trans_flags_hand_over(t);
    if (!polled)
        trans_poll(t);
    emit_load_ctx(&t->e, HOST_S1, CTX_CODE_PAGE);
    trans_lea(t, HOST_S1, HOST_S1, (int32_t)guest_off);
    emit_align_site(&t->e, 1);
    trans_link(t, emit_jmp(&t->e), LINK_FAR, guest_off, FLAG_ARITH);
}

void trans_goto(struct trans *t, int64_t guest_off, bool polled)
{
    if (trans_is_linked(t, guest_off)) {
        if (t->wanted_behind)
            trans_flags_use(t);
        emit_align_site(&t->e, 1);
        trans_link(t, emit_jmp(&t->e), LINK_NEAR, guest_off, t->wanted_behind)->polled = polled;
    } else {
        trans_flags_keep(t);
        emit_far(t, guest_off, polled);
    }
    t->ended = true;
}

static void emit_miss(struct trans *t, const struct trans_cold *cold)
{
    struct emit *e = &t->e;
    struct cache_miss miss = {.guest_off = (uint16_t)cold->guest_off,
                              .size = (uint8_t)cold->size,
                              .gva_reg = (uint8_t)(cold->gva_reg & 0xf),
                              .write = cold->write,
                              .mixed = cold->kind == COLD_MIXED};

    emit_call_to(e, t->cache->call[CODE_EXIT_MISS][cold->flags_saved]);
    miss.restart = (int32_t)(cold->restart - e->rw);
    emit_bytes(e, (const uint8_t *)&miss, sizeof(miss));
}

/* Most that are not aligned cross nothing either, and go on. One in many leaves as if it had found nothing. */
static void emit_unaligned(struct trans *t, const struct trans_cold *cold)
{
    struct emit *e = &t->e;

    emit_land(e, cold->unaligned);
    emit_count_down(e, CTX_UNALIGNED);
    uint8_t *often = emit_short_jcc(e, CC_B);
    emit_test_crossing(e, cold->gva_reg, cold->size, HOST_S2);
    emit_land_at(emit_jcc(e, CC_Z), cold->aligned, e);
    emit_land_short(e, often);
}

/* On with the block that shares no lookups, at the running page's guest offset. The branch for where nobody knows it. */
static uint8_t *emit_unshared(struct trans *t, int32_t guest_off)
{
    trans_poll(t);
    emit_load_ctx(&t->e, HOST_S1, CTX_CODE_PAGE);
    emit_lea(&t->e, HOST_S1, HOST_S1, guest_off);
    return trans_jump(t, t->mode | BLOCK_UNSHARED);
}

static void emit_cold(struct trans *t, const struct trans_cold *cold)
{
    struct emit *e = &t->e;

    if (cold->unaligned)
        emit_unaligned(t, cold);
    for (unsigned i = 0; i < cold->site_count; i++)
        emit_land(e, cold->sites[i]);
    t->flags_saved = cold->flags_saved;
    t->at = cold->at;
    switch (cold->kind) {
    case COLD_MISS: emit_miss(t, cold); break;
    case COLD_EXIT: emit_exit(t, cold->exit, (uint32_t)cold->guest_off); break;
    case COLD_UNSHARED: emit_land_at(emit_unshared(t, cold->guest_off), t->cache->exit_unshared, e); break;
    case COLD_MIXED:
        emit_land(e, emit_unshared(t, cold->guest_off));
        trans_share_address(t, cold->at);
        emit_miss(t, cold);
        break;
    case COLD_FAR: emit_far(t, cold->guest_off, false); break;
    case COLD_DISPATCH: emit_land(e, trans_jump(t, t->mode & ~BLOCK_UNSHARED)); __attribute__((fallthrough));
    case COLD_NEXT: emit_exit(t, CODE_EXIT_NEXT, cold->jump); break;
    case COLD_CALL:
        emit_exit(t, CODE_EXIT_CALL, (uint32_t)cold->guest_off);
        emit32(e, (uint32_t)(cold->restart - (e->rw - 4)));
        break;
    case COLD_STACK: trans_share_cold(t, cold); break;
    case COLD_RECIPE:
        emit_call_to(e, t->cache->follow_recipe);
        emit_land_at(emit_jmp(e), cold->back, e);
        break;
    case COLD_STALE:
        t->flags_saved = true;
        t->block->stale = e->rw;
        emit_exit(t, CODE_EXIT_STALE, (uint32_t)(t->block - t->cache->blocks));
        break;
    }
}

static void emit_link_exits(struct trans *t)
{
    for (unsigned n = 0; n < t->block->link_count; n++) {
        struct block_link *link = &t->cache->links[t->block->first_link + n];
        link->unlinked = t->e.rw;
        if (!t->e.overflow)
            cache_point_link(t->cache, link, t->e.rw);
        t->flags_saved = link->kind != LINK_NEAR;
        emit_exit(t, CODE_EXIT_LINK, t->block->first_link + n);
    }
}

void trans_poll(struct trans *t)
{
    struct trans_cold *cold = trans_cold(t, COLD_EXIT);

    cold->exit = CODE_EXIT_ATTENTION;
    emit_cmp_ctx_zero(&t->e, ATTENTION_DISP);
    trans_cold_from(cold, emit_jcc(&t->e, CC_NZ));
}

/*
 * A block has an entry that looks for attention first, for links that lead back in the page. Those that lead forward go behind the look, and so do
 * those to blocks that nobody leaves without one (block.looks). Jumps out of the page and to anywhere look before they jump; calls and returns
 * do while they ask for the stack's page. Code cannot go round without any of these, so an interrupt or a kick waits for a page's blocks at most. Where the flags are dead
 * this is CMP and JNE; else JRCXZ with RCX aside.
 */
static void emit_poll(struct trans *t)
{
    struct emit *e = &t->e;

    if (t->count && t->live[0] == 0) {
        trans_poll(t);
        return;
    }
    struct trans_cold *cold = trans_cold(t, COLD_EXIT);
    cold->exit = CODE_EXIT_ATTENTION;
    emit_mov(e, HOST_S1, GPR_RCX);
    emit_op_mem(e, OP_MOV_LOAD, false, GPR_RCX, HOST_CTX, ATTENTION_DISP);
    emit8(e, 0xe3); /* jrcxz: over the next two */
    uint8_t *skip = e->rw;
    emit8(e, 0);
    emit_mov(e, GPR_RCX, HOST_S1);
    trans_cold_from(cold, emit_jmp(e));
    if (!e->overflow)
        *skip = (uint8_t)(e->rw - (skip + 1));
    emit_mov(e, GPR_RCX, HOST_S1);
}

/* --- emission --- */

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
    if (t->count == 0 || trans_is_behind_sti(t, t->count))
        trans_step_exit(t); /* nobody knows the next page, or may look before that */
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
    emit_poll(t);
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
    for (unsigned i = 0; i < t->cold_count; i++)
        emit_cold(t, &t->cold[i]);
    emit_link_exits(t);
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
    decode_block(t, place);
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
