/* The stack: pushes and pops. */
#include "engine/soft/translate.h"

/*
 * Theory of operation. What a function pushes and pops mostly shares one lookup, so between these accesses nothing leaves the block. There the
 * stack pointer needs not be up to date: HOST_SP moves once, before the first instruction that could leave or wants it for something else.
 * Until then it is late by sp_late, which accesses add to their displacement, and marks keep for whoever finds a fault.
 */

#define LATE_MAX 4096 /* bytes: struct block_mark has 16 bits */

static bool uses_sp(const struct insn *insn)
{
    return (insn->gprs_used & BIT(GPR_RSP)) || (insn->has_mem && (insn->mem.base == GPR_RSP || insn->mem.index == GPR_RSP));
}

/* ADD or SUB of a constant to RSP: the constant, or 0 for any other instruction, and where its flags are wanted. */
static int32_t added_to_sp(const struct trans *t, unsigned i)
{
    const struct insn *insn = &t->insn[i];
    const struct insn_operand *to = &insn->op[0], *by = &insn->op[1];
    bool adds = insn->mnemonic == ZYDIS_MNEMONIC_ADD;

    if ((!adds && insn->mnemonic != ZYDIS_MNEMONIC_SUB) || to->kind != OPERAND_GPR || to->reg != GPR_RSP || to->size != 8 ||
        by->kind != OPERAND_IMM || (int64_t)by->imm < -LATE_MAX || (int64_t)by->imm > LATE_MAX)
        return 0;
    if (i + 1 < t->count ? t->live[i + 1] : t->wanted_behind)
        return 0;
    return adds ? (int32_t)by->imm : -(int32_t)by->imm;
}

bool trans_bears_late_sp(const struct trans *t, unsigned i)
{
    const struct insn *insn = &t->insn[i];
    bool member = t->member_of[i] != TRANS_NO_GROUP;

    if ((member && t->group[t->member_of[i]].leader == i) || t->sp_late < -LATE_MAX || t->sp_late > LATE_MAX)
        return false;
    if (trans_is_followed(t, i))
        return true;
    switch (insn->cls) {
    case INSN_STACK: return member && !(insn->op[0].kind == OPERAND_GPR && insn->op[0].reg == GPR_RSP);
    case INSN_CONTROL: return member && (insn->mnemonic == ZYDIS_MNEMONIC_RET || insn->op[0].kind == OPERAND_REL);
    case INSN_INNOCUOUS:
        if (insn->has_mem && !insn->nop && insn->mnemonic != ZYDIS_MNEMONIC_LEA)
            return member && !(insn->gprs_used & BIT(GPR_RSP));
        return !uses_sp(insn) || added_to_sp(t, i);
    default: return false;
    }
}

void trans_settle_sp(struct trans *t)
{
    if (t->sp_late)
        trans_lea(t, HOST_SP, HOST_SP, t->sp_late);
    t->sp_late = 0;
}

bool trans_moves_sp(struct trans *t)
{
    int32_t by = added_to_sp(t, t->at);

    t->sp_late += by;
    return by;
}

bool trans_is_plain_stack(const struct insn *insn)
{
    if (insn->cls != INSN_STACK || insn->opsize * 8 != insn->mode_bits)
        return false;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
        return insn->op[0].kind == OPERAND_GPR ||
               (insn->mnemonic == ZYDIS_MNEMONIC_PUSH && (insn->op[0].kind == OPERAND_IMM || insn->has_mem));
    case ZYDIS_MNEMONIC_LEAVE: return true;
    default: return false;
    }
}

void trans_push_lookup(struct trans *t)
{
    trans_lea(t, HOST_S1, HOST_SP, -(int32_t)trans_word(t));
    trans_lookup(t, HOST_S1, trans_word(t), true);
}

void trans_push_done(struct trans *t)
{
    t->sp_late -= (int32_t)trans_word(t);
}

static void push_gpr(struct trans *t, unsigned gpr)
{
    unsigned home = trans_home(gpr);

    if (trans_shared(t)) {
        unsigned value = trans_value(t, gpr, HOST_S1);
        emit_op_sib(&t->e, OP_MOV_STORE, true, value, HOST_SP, HOST_S2, 1, t->sp_late - 8);
        trans_push_done(t);
        return;
    }
    trans_push_lookup(t);
    if (home != REG_NONE) {
        emit_op_sib(&t->e, OP_MOV_STORE, trans_is_wide(t), home, HOST_S1, HOST_S2, 1, 0);
    } else {
        emit_lea_sum(&t->e, HOST_S1, HOST_S1, HOST_S2);
        emit_load_ctx(&t->e, HOST_S2, CTX_GPR((int)gpr));
        emit_op_mem(&t->e, OP_MOV_STORE, trans_is_wide(t), HOST_S2, HOST_S1, 0);
    }
    trans_push_done(t);
}

static void push_imm(struct trans *t, int32_t imm)
{
    if (trans_shared(t)) {
        emit_mov_simm32(&t->e, HOST_S1, imm);
        emit_op_sib(&t->e, OP_MOV_STORE, true, HOST_S1, HOST_SP, HOST_S2, 1, t->sp_late - 8);
        trans_push_done(t);
        return;
    }
    trans_push_lookup(t);
    emit_rex(&t->e, trans_is_wide(t), 0, HOST_S2, HOST_S1); /* mov [S1 + S2], imm32 */
    emit8(&t->e, 0xc7);
    emit8(&t->e, 0x04);
    emit8(&t->e, (uint8_t)((HOST_S2 & 7) << 3 | (HOST_S1 & 7)));
    emit32(&t->e, (uint32_t)imm);
    trans_push_done(t);
}

/* The value waits in CTX_TEMP while the push's own lookup takes both scratch registers. */
static bool push_mem(struct trans *t)
{
    unsigned gva = trans_address(t);

    if (gva == REG_NONE)
        return false;
    trans_lookup(t, gva, trans_word(t), false);
    emit_op_sib(&t->e, OP_MOV_LOAD, trans_is_wide(t), HOST_S2, gva, HOST_S2, 1, 0);
    emit_store_ctx(&t->e, HOST_S2, CTX_TEMP);
    trans_push_lookup(t);
    emit_lea_sum(&t->e, HOST_S1, HOST_S1, HOST_S2);
    emit_load_ctx(&t->e, HOST_S2, CTX_TEMP);
    emit_op_mem(&t->e, OP_MOV_STORE, trans_is_wide(t), HOST_S2, HOST_S1, 0);
    trans_push_done(t);
    return true;
}

unsigned trans_top_lookup(struct trans *t)
{
    if (trans_shared(t))
        return HOST_SP;
    unsigned top = trans_pointer(t, HOST_SP);
    trans_lookup(t, top, trans_word(t), false);
    return top;
}

static void pop_gpr(struct trans *t, unsigned gpr)
{
    unsigned home = trans_home(gpr), to = home == REG_NONE ? HOST_S1 : home;

    unsigned top = trans_top_lookup(t);
    emit_op_sib(&t->e, OP_MOV_LOAD, trans_is_wide(t), to, top, HOST_S2, 1, t->sp_late);
    if (home == REG_NONE)
        emit_store_ctx(&t->e, to, CTX_GPR((int)gpr));
    if (gpr != GPR_RSP)
        t->sp_late += (int32_t)trans_word(t);
}

static void leave(struct trans *t)
{
    unsigned frame = trans_pointer(t, GPR_RBP);

    trans_lookup(t, frame, trans_word(t), false);
    emit_op_sib(&t->e, OP_MOV_LOAD, trans_is_wide(t), HOST_S2, frame, HOST_S2, 1, 0);
    trans_lea(t, HOST_SP, GPR_RBP, (int32_t)trans_word(t));
    emit_mov(&t->e, GPR_RBP, HOST_S2);
}

bool trans_stack(struct trans *t)
{
    const struct insn *insn = &t->insn[t->at];

    if (!trans_is_plain_stack(insn))
        return false;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        if (insn->has_mem)
            return push_mem(t);
        if (insn->op[0].kind == OPERAND_GPR)
            push_gpr(t, insn->op[0].reg);
        else
            push_imm(t, (int32_t)insn->op[0].imm);
        return true;
    case ZYDIS_MNEMONIC_POP: pop_gpr(t, insn->op[0].reg); return true;
    default: leave(t); return true;
    }
}
