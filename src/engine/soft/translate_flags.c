/* Arithmetic flags in translated code: which are wanted where, and where they are kept while other code needs the host's. */
#include "engine/soft/flags_recipe.h"
#include "engine/soft/translate.h"

/*
 * Theory of operation
 *
 * The guest's arithmetic flags are the host's. A lookup destroys those; where the guest's are wanted later, they are put into CTX_SAVE_FLAGS
 * before, once, and come back before the next instruction that reads or partly writes them (flags_saved). Mostly none does: what is
 * wanted at a block's end is only what a jump to anywhere may find wanted there. So the convention between blocks is:
 *
 * - A link within the page hands over the host's flags. What its target wants is known by looking at it.
 * - A jump that looks into a jump cache hands over CTX_SAVE_FLAGS, and a target that wants flags takes them from there (block.dispatch), or
 *   leaves them there until it does (starts_saved). It may hand over a recipe instead, where nothing in its own block asks for them any more.
 */

#define LOOK_AHEAD 8 /* instructions of a successor: nearly all code writes flags before */

/* --- which are wanted --- */

static uint16_t killed(const struct trans *t, const struct insn *insn)
{
    return host_flags_killed(&t->cache->host_flags, insn);
}

/* Those wanted before an instruction that does not leave the block, of those wanted after it. */
static uint16_t wanted_before(const struct trans *t, const struct insn *insn, uint16_t after)
{
    if (insn->cls == INSN_INNOCUOUS)
        return (after & ~killed(t, insn)) | insn->cpuflags_read;
    if (insn->cls == INSN_STACK && insn->cpuflags_written == FLAG_ARITH)
        return 0; /* POPF */
    if (trans_is_plain_stack(insn) || trans_is_string(t->mode, insn) || (trans_is_system(t->mode, insn) && !insn->cpuflags_read))
        return after;
    return FLAG_ARITH;
}

/* Those wanted at an offset of the page, as far as a look ahead tells. */
static uint16_t wanted_at(const struct trans *t, int64_t off)
{
    uint16_t wanted = 0, open = FLAG_ARITH;
    unsigned bits = trans_is_wide(t) ? 64 : 32;
    struct insn insn;

    for (unsigned i = 0; i < LOOK_AHEAD && open; i++) {
        if (off < 0 || off >= (int64_t)PAGE_SIZE || insn_decode(t->cpu->svm, &insn, t->page + off, (unsigned)(PAGE_SIZE - off), bits) != 0)
            break;
        bool jump = insn.mnemonic == ZYDIS_MNEMONIC_JMP && insn.operand_count && insn.op[0].kind == OPERAND_REL;
        if (insn.cls != INSN_INNOCUOUS && !trans_is_plain_stack(&insn) && !jump)
            break;
        if (!jump) {
            wanted |= insn.cpuflags_read & open;
            open &= ~killed(t, &insn);
        }
        off += insn.len + (jump ? (int64_t)insn.op[0].imm : 0);
    }
    return wanted | open;
}

/* Those wanted where a branch to a known place of the page leads out of the block. */
static uint16_t wanted_there(const struct trans *t, unsigned i)
{
    return wanted_at(t, trans_end(t, i) + (trans_goes_round(t, i) ? 0 : (int64_t)t->insn[i].op[0].imm));
}

static bool is_relative(const struct insn *insn)
{
    return insn->cls == INSN_CONTROL && insn->operand_count && insn->op[0].kind == OPERAND_REL;
}

/* Those wanted behind the block's end, as far as that leads to known places of the page. */
static uint16_t wanted_by_successor(const struct trans *t)
{
    const struct insn *last = &t->insn[t->count - 1];
    int64_t next = trans_end(t, t->count - 1);

    if (trans_is_conditional(last))
        return wanted_at(t, next);
    if (last->cls != INSN_CONTROL)
        return next < (int64_t)PAGE_SIZE && t->count == CACHE_BLOCK_INSNS ? wanted_at(t, next) : FLAG_ARITH;
    if (!is_relative(last))
        return FLAG_ARITH;
    bool always = last->mnemonic == ZYDIS_MNEMONIC_JMP || last->mnemonic == ZYDIS_MNEMONIC_CALL; /* LOOP and JRCXZ go on behind, too */
    return wanted_there(t, t->count - 1) | last->cpuflags_read | (always ? 0 : wanted_at(t, next));
}

static bool destroys(const struct insn *insn)
{
    return insn->has_mem || (insn->cls != INSN_INNOCUOUS && !trans_is_conditional(insn));
}

/* Fills live[] from the end, with what is wanted behind it; true where an instruction in between has to keep some flag. */
static bool find_live(struct trans *t)
{
    uint16_t wanted = t->wanted_behind;
    bool kept = false;

    for (unsigned i = t->count; i-- > 0;) {
        const struct insn *insn = &t->insn[i];
        if (trans_is_followed(t, i)) {
            t->live[i] = wanted;
            continue;
        }
        if (trans_is_conditional(insn))
            wanted |= t->wanted_there[i] | insn->cpuflags_read;
        else if (i + 1 < t->count || insn->cls != INSN_CONTROL)
            wanted = wanted_before(t, insn, wanted);
        t->live[i] = wanted;
        kept |= wanted && (i == 0 || destroys(insn));
    }
    return kept;
}

/* Whether the host's flags are needed, for what the block was entered with, before other code destroys them. */
static bool needs_host_flags(const struct trans *t)
{
    for (unsigned i = 0; i < t->count; i++) {
        const struct insn *insn = &t->insn[i];
        if (trans_is_followed(t, i))
            continue;
        if (insn->mnemonic == ZYDIS_MNEMONIC_JMP && is_relative(insn))
            return t->wanted_behind && trans_is_linked(t, (int64_t)trans_end(t, i) + (int64_t)insn->op[0].imm);
        if (destroys(insn))
            return false;
        if (trans_is_conditional(insn) || trans_flags_touched(insn))
            return true;
    }
    return t->wanted_behind;
}

/* First as if all were wanted: looking at other code is needed only where that would have some kept. */
static void find_wanted(struct trans *t)
{
    t->wanted_behind = FLAG_ARITH;
    for (unsigned i = 0; i < t->count; i++)
        t->wanted_there[i] = FLAG_ARITH;
    if (t->count == 0 || !find_live(t))
        return;
    t->wanted_behind = wanted_by_successor(t);
    for (unsigned i = 0; i < t->count; i++)
        if (trans_is_conditional(&t->insn[i]))
            t->wanted_there[i] = wanted_there(t, i);
    find_live(t);
}

void trans_flags_find(struct trans *t, bool linked)
{
    find_wanted(t);
    t->starts_saved = !linked && t->count && t->live[0] && !needs_host_flags(t);
}

/* --- where they are --- */

static uint16_t live(const struct trans *t)
{
    return t->at < t->count ? t->live[t->at] : FLAG_ARITH;
}

bool trans_flags_touched(const struct insn *insn)
{
    return insn->cpuflags_read | insn->cpuflags_written;
}

/* Whether the block ends by handing the flags over to a jump to anywhere, and nothing from the running instruction on asks for them. */
static bool only_handed_over(const struct trans *t)
{
    if (t->count == 0)
        return false;
    const struct insn *last = &t->insn[t->count - 1];
    bool calls_or_jumps = last->mnemonic == ZYDIS_MNEMONIC_JMP || last->mnemonic == ZYDIS_MNEMONIC_CALL;

    if (last->cls != INSN_CONTROL || last->cpuflags_read)
        return false;
    if (is_relative(last) && (!calls_or_jumps || trans_is_linked(t, (int64_t)trans_end(t, t->count - 1) + (int64_t)last->op[0].imm)))
        return false;
    for (unsigned i = t->at; i < t->count; i++)
        if (trans_flags_touched(&t->insn[i]))
            return false;
    return true;
}

/* The recipe for the flags that are the host's here, if it can be made: the value is in its register still. 0: none. */
static uint32_t recipe_here(const struct trans *t, unsigned *gpr)
{
    uint16_t written = 0;
    unsigned i = t->at;

    while (i > 0 && !t->insn[i - 1].cpuflags_written) {
        const struct insn *between = &t->insn[--i];
        written |= between->gprs_written | (between->cls == INSN_STACK ? BIT(GPR_RSP) : 0);
    }
    if (i == 0 || killed(t, &t->insn[i - 1]) != FLAG_ARITH)
        return 0;
    uint32_t recipe = flags_recipe_of(&t->insn[i - 1], gpr);
    return recipe && !(written & BIT(*gpr)) && trans_home(*gpr) != REG_NONE ? recipe : 0;
}

void trans_flags_keep(struct trans *t)
{
    unsigned gpr = REG_NONE;

    if (!live(t) || t->flags_saved)
        return;
    uint32_t recipe = only_handed_over(t) ? recipe_here(t, &gpr) : 0;
    if (recipe) {
        emit_store_ctx(&t->e, trans_home(gpr), CTX_FLAGS_VALUE);
        emit_store_ctx_imm32(&t->e, CTX_SAVE_FLAGS, recipe);
    } else {
        emit_flags_save(&t->e, HOST_S2);
    }
    t->saved_as_recipe = recipe;
    t->flags_saved = true;
}

void trans_flags_fetch(struct trans *t)
{
    struct trans_cold *cold = trans_cold(t, COLD_RECIPE);

    emit_cmp_ctx8(&t->e, CTX_SAVE_FLAGS, FLAGS_RECIPE_FIRST - 1);
    trans_cold_from(cold, emit_jcc(&t->e, CC_A));
    cold->back = t->e.rw;
    emit_flags_restore(&t->e);
}

void trans_flags_use(struct trans *t)
{
    if (t->flags_saved && t->saved_as_recipe)
        trans_flags_fetch(t);
    else if (t->flags_saved)
        emit_flags_restore(&t->e);
    t->flags_saved = false;
}
