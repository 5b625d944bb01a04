/* Ways out of a block: links, exits, looks for attention, and the cold code that leads there. */
#include "engine/soft/translate.h"

#include "base/bug.h"

#define ATTENTION_DISP ((int32_t)offsetof(struct soft_cpu, attention) - CTX_BIAS)

static const struct insn *current(const struct trans *t)
{
    return &t->insn[t->at];
}

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

static void emit_far(struct trans *t, int64_t guest_off)
{
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
        if (!polled)
            trans_poll(t);
        emit_far(t, guest_off);
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
    trans_poll_cold(t);
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
    case COLD_FAR:
        trans_flags_keep(t);
        trans_poll_cold(t);
        emit_far(t, cold->guest_off);
        break;
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

void trans_emit_cold(struct trans *t)
{
    for (unsigned i = 0; i < t->cold_count; i++)
        emit_cold(t, &t->cold[i]);
}

void trans_emit_link_exits(struct trans *t)
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

void trans_poll_cold(struct trans *t)
{
    emit_cmp_ctx_zero(&t->e, ATTENTION_DISP);
    uint8_t *none = emit_short_jcc(&t->e, CC_Z);
    emit_exit(t, CODE_EXIT_ATTENTION, t->off[t->at]);
    emit_land_short(&t->e, none);
}

/*
 * A block has an entry that looks for attention first, for links that lead back in the page. Those that lead forward go behind the look, and so do
 * those to blocks that nobody leaves without one (block.looks). Jumps out of the page and to anywhere look before they jump; calls and returns do
 * while they ask for the stack's page. Code cannot go round without any of these, so an interrupt or a kick waits for a page's blocks at most. Where
 * the flags are dead this is CMP and JNE; else JRCXZ with RCX aside.
 */
void trans_poll_at_entry(struct trans *t)
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
