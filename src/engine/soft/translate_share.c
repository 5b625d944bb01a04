/* One lookup for several accesses of a block: which may follow which, and what they share. */
#include "engine/soft/translate.h"

/*
 * Theory of operation
 *
 * Accesses through the same base register, whose value changes between them by constants at most, mostly lie within a page: a structure's
 * fields, a stack frame, what a function pushes and pops. The first of them, the leader, looks its page up and checks that all of
 * them lie in it; the followers use what it found, the addend. That is in HOST_S2 as long as nothing else needs this register, and then in
 * the context, CTX_ADDEND, which costs a load. Several groups may be open at a time. Where there is an index, the addend has the base's value
 * at the leader on top, so that it and the index are an address.
 *
 * The stack's page and addend are kept in the context from one lookup to the next (CTX_STACK), until an entry is taken away, or somebody wants
 * attention, for which the code looks when it has not found the page: so calls and returns, which ask for it, need not look themselves.
 *
 * Nothing takes an entry away from a vCPU that is in translated code. If one is taken away while a block has been left for a moment, to fill
 * another, the block is not resumed (mmu_changes()).
 *
 * Where they do not lie in one page, the code goes on at the leader in another block of the same instructions, which shares nothing
 * (BLOCK_UNSHARED). It is found through a jump cache of its own, and leads back to blocks that share.
 *
 * A group may begin with reads and go on with writes: then it is mixed, and its leader looks into the write table, whose entries serve reads too.
 * A read must not need the right to write, nor set the D bit. So where there is no such entry and a fill for a read makes none, the code goes
 * on in the unshared block. There the write makes the entry, for the next time, or else leaves for step, which costs more than the detour. That
 * is why the write must be certain to follow the leader, with no branch in between.
 */

#define SPAN_MAX 128 /* bytes: the longer, the more often does a page end within */

/* A memory access at a register, another one times a scale, or REG_NONE, and a constant. */
struct access {
    unsigned base, index, scale;
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

    if ((insn->has_mem && !call) || !(call || ret || push || pop))
        return false;
    *a = (struct access){.base = GPR_RSP, .index = REG_NONE, .disp = push || call ? -8 : 0, .size = 8, .write = push || call};
    return true;
}

static unsigned homeless_operands(const struct insn *insn)
{
    const uint8_t gprs[] = {insn->reg.gpr, insn->rm.gpr, insn->vvvv.gpr, insn->opc.gpr};
    unsigned homeless = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(gprs); i++)
        homeless += gprs[i] != REG_NONE && trans_home(gprs[i]) == REG_NONE;
    return homeless;
}

static bool access_of(const struct insn *insn, struct access *a)
{
    const struct insn_mem *m = &insn->mem;

    if (insn->cls != INSN_INNOCUOUS)
        return stack_access(insn, a);
    if (!insn->has_mem || insn->nop || insn->mem_size == 0 || insn->mem_size > 64 || insn->masked_mem || insn->high_byte ||
        insn->addrsize != 8 || m->base == REG_NONE || m->vsib || m->rip_relative || m->seg == SEG_FS || m->seg == SEG_GS ||
        trans_home(m->base) == REG_NONE || m->disp < -SPAN_MAX * 256 || m->disp > SPAN_MAX * 256)
        return false;
    if (m->index != REG_NONE && trans_home(m->index) == REG_NONE)
        return false;
    *a = (struct access){.base = m->base,
                         .index = m->index,
                         .scale = m->scale,
                         .disp = (int32_t)m->disp,
                         .size = insn->mem_size,
                         .write = insn->mem_written};
    return true;
}

/* Whether HOST_S2 survives the instruction, which makes no access of its own. */
static bool spares_addend(const struct trans *t, unsigned i)
{
    const struct insn *insn = &t->insn[i];

    if (insn->cls != INSN_INNOCUOUS)
        return trans_is_conditional(insn) || trans_is_followed(t, i);
    if (insn->mnemonic == ZYDIS_MNEMONIC_LEA)
        return insn->mem.index == REG_NONE || trans_home(insn->mem.index) != REG_NONE;
    if (insn->has_mem && !insn->nop)
        return false;
    return homeless_operands(insn) <= 1;
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
    bool increments = insn->mnemonic == ZYDIS_MNEMONIC_INC, decrements = insn->mnemonic == ZYDIS_MNEMONIC_DEC;
    if ((increments || decrements) && is_gpr(&insn->op[0], base)) {
        *delta = increments ? 1 : -1;
        return true;
    }
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

/* --- finding groups --- */

static void move_bases(struct trans *t, unsigned count, const struct insn *insn)
{
    for (unsigned g = 0; g < count; g++) {
        struct trans_group *group = &t->group[g];
        int32_t delta, index_delta = 0;
        if (!group->open)
            continue;
        group->certain &= !trans_is_conditional(insn);
        group->open = keeps_base(insn, group->base, &delta) && (group->index == REG_NONE || keeps_base(insn, group->index, &index_delta));
        group->base_at += delta;
        group->at += delta + (int64_t)index_delta * group->scale;
    }
}

/* Whether the access lies near the others of an open group, which it then belongs to. */
static bool joins(struct trans_group *group, const struct access *a)
{
    int64_t lo = MIN(group->lo, group->at + a->disp), hi = MAX(group->hi, group->at + a->disp + (int64_t)a->size);

    if (!group->open || group->base != a->base || group->index != a->index || (a->index != REG_NONE && group->scale != a->scale) ||
        (a->write && !group->write && !group->certain) || hi - lo > SPAN_MAX)
        return false;
    group->mixed |= a->write && !group->write;
    group->write |= a->write;
    group->lo = lo;
    group->hi = hi;
    group->followers++;
    return true;
}

/* A place in the context for a new group. A group without followers gives way; REG_NONE: all are in use. */
static unsigned find_slot(struct trans *t, unsigned count)
{
    uint32_t used = 0;

    for (unsigned g = 0; g < count; g++)
        used |= t->group[g].open ? BIT(t->group[g].slot) : 0;
    for (unsigned g = 0; used == BIT(CTX_ADDENDS) - 1 && g < count; g++) {
        if (!t->group[g].open || t->group[g].followers)
            continue;
        t->group[g].open = false;
        used &= ~(uint32_t)BIT(t->group[g].slot);
    }
    return used == BIT(CTX_ADDENDS) - 1 ? REG_NONE : (unsigned)__builtin_ctz(~used);
}

/* The group of instruction number i, of `count` that there are: one that it joins or begins. */
static uint8_t find_group(struct trans *t, unsigned *count, unsigned i, const struct access *a)
{
    for (unsigned g = 0; g < *count; g++)
        if (joins(&t->group[g], a))
            return (uint8_t)g;
    unsigned slot = find_slot(t, *count);
    if (slot == REG_NONE)
        return TRANS_NO_GROUP;
    t->group[*count] = (struct trans_group){.base = (uint8_t)a->base,
                                            .index = (uint8_t)a->index,
                                            .scale = (uint8_t)a->scale,
                                            .write = a->write,
                                            .open = true,
                                            .certain = true,
                                            .slot = (uint8_t)slot,
                                            .leader = (uint8_t)i,
                                            .lo = a->disp,
                                            .hi = a->disp + (int64_t)a->size};
    return (uint8_t)(*count)++;
}

void trans_share_emitted(struct trans *t, unsigned i)
{
    if (t->member_of[i] != TRANS_NO_GROUP)
        t->addend_of = t->member_of[i];
    else if (!spares_addend(t, i))
        t->addend_of = TRANS_NO_GROUP;
}

static bool is_indirect_call(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_CALL && insn->op[0].kind != OPERAND_REL;
}

/* Which addends will be gone from the register when they are wanted. An indirect call's target is looked up before it pushes. */
static void find_stored(struct trans *t)
{
    t->addend_of = TRANS_NO_GROUP;
    for (unsigned i = 0; i < t->count; i++) {
        unsigned g = t->member_of[i];
        bool gone = t->addend_of != g || is_indirect_call(&t->insn[i]);
        if (g != TRANS_NO_GROUP && t->group[g].leader != i && gone)
            t->group[g].stored = true;
        trans_share_emitted(t, i);
    }
    t->addend_of = TRANS_NO_GROUP;
}

static bool is_of_stack(const struct trans_group *group)
{
    return group->base == GPR_RSP && group->index == REG_NONE;
}

/* Where it does not find what it needs, it leads to another block, or looks for attention. */
static bool may_share(const struct trans *t, unsigned i)
{
    return trans_is_wide(t) && !(t->mode & BLOCK_UNSHARED) && !trans_is_behind_sti(t, i);
}

void trans_share_find(struct trans *t)
{
    unsigned count = 0;

    for (unsigned i = 0; i < t->count; i++) {
        struct access a;
        t->member_of[i] = may_share(t, i) && access_of(&t->insn[i], &a) ? find_group(t, &count, i, &a) : TRANS_NO_GROUP;
        t->base_at[i] = t->member_of[i] == TRANS_NO_GROUP ? 0 : t->group[t->member_of[i]].base_at;
        move_bases(t, count, &t->insn[i]);
    }
    for (unsigned i = 0; i < t->count; i++)
        if (t->member_of[i] != TRANS_NO_GROUP && !t->group[t->member_of[i]].followers && !is_of_stack(&t->group[t->member_of[i]]))
            t->member_of[i] = TRANS_NO_GROUP;
    find_stored(t);
}

/* --- emission --- */

void trans_share_address(struct trans *t, unsigned i)
{
    const struct trans_group *group = &t->group[t->member_of[i]];
    struct emit *e = &t->e;

    if (group->index == REG_NONE)
        emit_lea(e, HOST_S1, trans_home(group->base), (int32_t)group->lo);
    else
        emit_op_sib(e, OP_LEA, true, HOST_S1, trans_home(group->base), trans_home(group->index), group->scale, (int32_t)group->lo);
}

/* The lookup for a group: HOST_S1 is its first address, and HOST_S2 the addend. */
static void look_up(struct trans *t, const struct trans_group *group)
{
    struct emit *e = &t->e;
    struct trans_cold *cold = trans_cold(t, group->mixed ? COLD_MIXED : COLD_UNSHARED);

    cold->size = (unsigned)(group->hi - group->lo);
    cold->gva_reg = HOST_S1;
    trans_share_address(t, t->at);
    emit_test_crossing(e, HOST_S1, cold->size, HOST_S2);
    trans_cold_from(cold, emit_jcc(e, CC_NZ));
    if (group->mixed)
        trans_find_entry(t, cold, HOST_S1, true);
    else
        trans_lookup_entry(t, HOST_S1, 1, group->write);
}

static int32_t stack_slot(const struct trans *t)
{
    return t->mode & BLOCK_USER ? CTX_USER_STACK : CTX_STACK;
}

int32_t trans_stack_addend(const struct trans *t)
{
    return stack_slot(t) + 8;
}

/* The stack is mostly in the page where it was last: if all accesses lie in that, no table is asked. */
static void find_on_stack(struct trans *t, const struct trans_group *group)
{
    struct emit *e = &t->e;

    emit_lea(e, HOST_S1, HOST_SP, (int32_t)group->lo);
    emit_op_mem(e, OP_SUB_LOAD, true, HOST_S1, HOST_CTX, stack_slot(t));
    emit_op_imm32(e, EXT_CMP, HOST_S1, (int32_t)(PAGE_SIZE - (group->hi - group->lo)));
    struct trans_cold *cold = trans_cold(t, COLD_STACK);
    trans_cold_from(cold, emit_jcc(e, CC_A));
    emit_load_ctx(e, HOST_S2, trans_stack_addend(t));
    cold->back = e->rw;
}

/* A call or return whose access to the stack is one of none. */
static bool is_alone(const struct trans *t, unsigned i)
{
    unsigned g = t->member_of[i];

    return g != TRANS_NO_GROUP && t->insn[i].cls == INSN_CONTROL && is_of_stack(&t->group[g]) && !t->group[g].followers;
}

/* One test for the page and for the alignment that the return cache wants. What is not aligned is looked up each time. */
bool trans_alone_on_stack(struct trans *t)
{
    struct emit *e = &t->e;

    if (!is_alone(t, t->at))
        return false;
    const struct trans_group *group = &t->group[t->member_of[t->at]];
    trans_flags_keep(t);
    emit_lea(e, HOST_S2, HOST_SP, (int32_t)group->lo);
    emit_op_mem(e, OP_SUB_LOAD, true, HOST_S2, HOST_CTX, stack_slot(t));
    emit_test_imm32(e, HOST_S2, ~((int32_t)PAGE_SIZE - 8));
    struct trans_cold *cold = trans_cold(t, COLD_STACK);
    trans_cold_from(cold, emit_jcc(e, CC_NZ));
    if (!group->write)
        emit_load_ctx(e, HOST_S1, trans_stack_addend(t));
    cold->back = e->rw;
    trans_forget(t);
    return true;
}

/* What trans_alone_on_stack() promises, of a lookup in a table. */
static void settle_alone(struct trans *t, const struct trans_group *group)
{
    struct emit *e = &t->e;

    if (!group->write)
        emit_mov(e, HOST_S1, HOST_S2);
    emit_lea(e, HOST_S2, HOST_SP, (int32_t)group->lo);
    emit_op_imm32(e, EXT_AND, HOST_S2, (int32_t)PAGE_SIZE - 8);
}

void trans_share_cold(struct trans *t, const struct trans_cold *cold)
{
    const struct trans_group *group = &t->group[t->member_of[cold->at]];
    struct emit *e = &t->e;

    t->insn_start = (uint8_t *)(uintptr_t)cold->restart;
    look_up(t, group);
    if (group->write) {
        emit_store_ctx(e, HOST_S2, trans_stack_addend(t));
        emit_and_page_start(e, HOST_S1);
        emit_op_mem(e, OP_XCHG, true, HOST_S1, HOST_CTX, stack_slot(t)); /* before the look for attention, for all to see */
    }
    trans_poll_cold(t);
    if (is_alone(t, cold->at))
        settle_alone(t, group);
    emit_land_at(emit_jmp(e), cold->back, e);
}

static void find_addend(struct trans *t, const struct trans_group *group)
{
    trans_flags_keep(t);
    if (is_of_stack(group))
        find_on_stack(t, group);
    else
        look_up(t, group);
    if (group->index != REG_NONE)
        emit_op_reg(&t->e, OP_ADD_LOAD, true, HOST_S2, trans_home(group->base));
    if (group->stored)
        emit_store_ctx(&t->e, HOST_S2, CTX_ADDEND(group->slot));
}

bool trans_shared(struct trans *t)
{
    unsigned g = t->member_of[t->at];

    if (g == TRANS_NO_GROUP)
        return false;
    if (t->group[g].leader == t->at) {
        find_addend(t, &t->group[g]);
        trans_forget(t);
    } else if (t->addend_of != g) {
        t->held[1] = REG_NONE;
        emit_load_ctx(&t->e, HOST_S2, CTX_ADDEND(t->group[g].slot));
    }
    return true;
}
