/* One lookup for several accesses of a block: which may follow which, and what they share. */
#include "engine/soft/translate.h"

/*
 * Theory of operation
 *
 * Accesses through the same base register, whose value changes between them by constants at most, mostly lie within a page: a structure's
 * fields, a stack frame, what a function pushes and pops. The first of them, the leader, looks its page up and checks that all of
 * them lie in it; HOST_S2 has the addend then, and the followers use it, as long as nothing else needs that register.
 *
 * Where they do not lie in one page, the code goes on at the leader in another block of the same instructions, which shares nothing
 * (BLOCK_UNSHARED). It is found through a jump cache of its own, and leads back to blocks that share.
 */

#define SPAN_MAX 128 /* bytes: the longer, the more often does a page end within */

/* A memory access at a register and a constant. */
struct access {
    unsigned base;
    int32_t disp;
    unsigned size;
    bool write;
};

static bool is_gpr(const struct insn_operand *op, unsigned gpr)
{
    return op->kind == OPERAND_GPR && op->reg == gpr && !op->high && op->size == 8;
}

static bool stack_access(const struct insn *insn, struct access *a)
{
    bool call = insn->cls == INSN_CONTROL && insn->mnemonic == ZYDIS_MNEMONIC_CALL;
    bool ret = insn->cls == INSN_CONTROL && insn->mnemonic == ZYDIS_MNEMONIC_RET;
    bool push = trans_is_plain_stack(insn) && insn->mnemonic == ZYDIS_MNEMONIC_PUSH;
    bool pop = trans_is_plain_stack(insn) && insn->mnemonic == ZYDIS_MNEMONIC_POP;

    if (insn->has_mem || !(call || ret || push || pop))
        return false;
    *a = (struct access){.base = GPR_RSP, .disp = push || call ? -8 : 0, .size = 8, .write = push || call};
    return true;
}

static bool access_of(const struct insn *insn, struct access *a)
{
    const struct insn_mem *m = &insn->mem;

    if (insn->cls != INSN_INNOCUOUS)
        return stack_access(insn, a);
    if (!insn->has_mem || insn->nop || insn->mem_size == 0 || insn->mem_size > 64 || insn->masked_mem || insn->high_byte ||
        insn->addrsize != 8 || m->base == REG_NONE || m->index != REG_NONE || m->vsib || m->rip_relative || m->seg == SEG_FS ||
        m->seg == SEG_GS || trans_home(m->base) == REG_NONE || m->disp < -SPAN_MAX * 256 || m->disp > SPAN_MAX * 256)
        return false;
    *a = (struct access){.base = m->base, .disp = (int32_t)m->disp, .size = insn->mem_size, .write = insn->mem_written};
    return true;
}

/* Whether HOST_S2 survives the instruction, which makes no access of its own. */
static bool spares_addend(const struct insn *insn)
{
    const uint8_t gprs[] = {insn->reg.gpr, insn->rm.gpr, insn->vvvv.gpr, insn->opc.gpr};
    unsigned homeless = 0;

    if (insn->cls != INSN_INNOCUOUS)
        return trans_is_conditional(insn);
    if (insn->mnemonic == ZYDIS_MNEMONIC_LEA)
        return insn->mem.index == REG_NONE || trans_home(insn->mem.index) != REG_NONE;
    if (insn->has_mem && !insn->nop)
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(gprs); i++)
        homeless += gprs[i] != REG_NONE && trans_home(gprs[i]) == REG_NONE;
    return homeless <= 1;
}

/* Whether the register's value behind the instruction is known from the one before: *delta is what comes on top. */
static bool keeps_base(const struct insn *insn, unsigned base, int32_t *delta)
{
    struct access a;

    *delta = 0;
    if (base == GPR_RSP && stack_access(insn, &a)) {
        *delta = a.write ? -8 : 8;
        return a.write || !insn->operand_count || !is_gpr(&insn->op[0], GPR_RSP); /* not POP RSP */
    }
    if (!(insn->gprs_written & BIT(base)))
        return true;
    bool adds = insn->mnemonic == ZYDIS_MNEMONIC_ADD, subtracts = insn->mnemonic == ZYDIS_MNEMONIC_SUB;
    if ((adds || subtracts) && is_gpr(&insn->op[0], base) && insn->op[1].kind == OPERAND_IMM) {
        int64_t imm = (int64_t)insn->op[1].imm;
        if (imm < -SPAN_MAX || imm > SPAN_MAX)
            return false;
        *delta = adds ? (int32_t)imm : -(int32_t)imm;
        return true;
    }
    return false;
}

/* Extends the group that instruction number i leads; returns how many follow. */
static unsigned find_followers(struct trans *t, unsigned i, const struct access *first)
{
    int64_t lo = first->disp, hi = first->disp + (int64_t)first->size, at = 0;
    unsigned followers = 0;
    int32_t delta;

    for (unsigned k = i; k < t->count; k++) {
        const struct insn *insn = &t->insn[k];
        struct access a;
        bool accesses = k == i || access_of(insn, &a);

        if (k != i && accesses) {
            if (a.base != first->base || (a.write && !first->write))
                break;
            int64_t from = MIN(lo, at + a.disp), to = MAX(hi, at + a.disp + (int64_t)a.size);
            if (to - from > SPAN_MAX)
                break;
            lo = from;
            hi = to;
            t->share[k].follows = true;
            followers++;
        } else if (!accesses && !spares_addend(insn)) {
            break;
        }
        if (!keeps_base(insn, first->base, &delta))
            break;
        at += delta;
    }
    t->share[i].leads = followers > 0;
    t->share[i].lo = (int32_t)lo;
    t->share[i].span = (uint16_t)(hi - lo);
    return followers;
}

void trans_share_find(struct trans *t)
{
    for (unsigned i = 0; i < t->count; i++)
        t->share[i] = (struct trans_share){0};
    if (!trans_is_wide(t) || (t->mode & BLOCK_UNSHARED))
        return;
    for (unsigned i = 0; i < t->count; i++) {
        struct access a;
        if (!t->share[i].follows && access_of(&t->insn[i], &a))
            find_followers(t, i, &a);
    }
}

bool trans_shared(struct trans *t, unsigned base, bool write)
{
    const struct trans_share *share = &t->share[t->at];
    struct emit *e = &t->e;

    if (!share->leads)
        return share->follows;
    trans_flags_keep(t);
    emit_lea(e, HOST_S1, base, share->lo);
    emit_test_crossing(e, HOST_S1, share->span, HOST_S2);
    trans_cold_from(trans_cold(t, COLD_UNSHARED), emit_jcc(e, CC_NZ));
    trans_lookup_entry(t, HOST_S1, 1, write);
    return true;
}
