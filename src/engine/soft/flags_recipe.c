/* Recipes for arithmetic flags: of which instructions there is one, and how it is followed. */
#include "engine/soft/flags_recipe.h"

enum operation { LOGIC, ADD, SUB, CMP, OPERATIONS };

#define KIND(operation, wide) (FLAGS_RECIPE_FIRST + (operation)*2 + (wide))
#define CONSTANT_BITS 24

static bool fits(uint64_t imm)
{
    int64_t limit = 1 << (CONSTANT_BITS - 1);

    return (int64_t)imm >= -limit && (int64_t)imm < limit;
}

static uint32_t recipe(enum operation operation, const struct insn *insn, uint64_t constant)
{
    return KIND(operation, insn->op[0].size == 8) | (uint32_t)constant << 8;
}

uint32_t flags_recipe_of(const struct insn *insn, unsigned *gpr)
{
    const struct insn_operand *to = &insn->op[0], *by = &insn->op[1];
    bool by_constant = by->kind == OPERAND_IMM && fits(by->imm);

    if (insn->cls != INSN_INNOCUOUS || to->kind != OPERAND_GPR || (to->size != 4 && to->size != 8))
        return 0;
    *gpr = to->reg;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR: return recipe(LOGIC, insn, 0);
    case ZYDIS_MNEMONIC_TEST: return by->kind == OPERAND_GPR && by->reg == to->reg ? recipe(LOGIC, insn, 0) : 0;
    case ZYDIS_MNEMONIC_ADD: return by_constant ? recipe(ADD, insn, by->imm) : 0;
    case ZYDIS_MNEMONIC_SUB: return by_constant ? recipe(SUB, insn, by->imm) : 0;
    case ZYDIS_MNEMONIC_CMP: return by_constant ? recipe(CMP, insn, by->imm) : 0;
    default: return 0;
    }
}

/* SDM vol. 1 3.4.3.1: those of a sum or difference, which is the result. */
static uint64_t flags_of(uint64_t a, uint64_t b, uint64_t result, uint64_t sign, bool carry, bool adds)
{
    uint64_t flags = (a ^ b ^ result) & FLAG_AF, overflow = (a ^ result) & (adds ? ~(a ^ b) : a ^ b);

    flags |= carry ? FLAG_CF : 0;
    flags |= __builtin_parity(result & 0xff) ? 0 : FLAG_PF;
    flags |= result & (sign * 2 - 1) ? 0 : FLAG_ZF;
    flags |= result & sign ? FLAG_SF : 0;
    return flags | (overflow & sign ? FLAG_OF : 0);
}

uint64_t flags_recipe_follow(uint32_t recipe, uint64_t value)
{
    unsigned kind = (recipe & 0xff) - FLAGS_RECIPE_FIRST;
    uint64_t sign = kind & 1 ? BIT(63) : BIT(31), mask = sign * 2 - 1, by = (uint64_t)(int64_t)((int32_t)recipe >> 8) & mask;

    value &= mask;
    switch ((enum operation)(kind / 2)) {
    case ADD: return flags_of((value - by) & mask, by, value, sign, value < by, true);
    case SUB: return flags_of((value + by) & mask, by, value, sign, ((value + by) & mask) < by, false);
    case CMP: return flags_of(value, by, (value - by) & mask, sign, value < by, false);
    default: return flags_of(value, 0, value, sign, false, true);
    }
}

static void emit_kind(struct emit *e, enum operation operation, bool wide)
{
    switch (operation) {
    case ADD:
        emit_op_reg(e, OP_SUB_LOAD, wide, GPR_RAX, GPR_RCX);
        emit_op_reg(e, OP_ADD_LOAD, wide, GPR_RAX, GPR_RCX);
        break;
    case SUB:
        emit_op_reg(e, OP_ADD_LOAD, wide, GPR_RAX, GPR_RCX);
        emit_op_reg(e, OP_SUB_LOAD, wide, GPR_RAX, GPR_RCX);
        break;
    case CMP: emit_op_reg(e, OP_CMP_LOAD, wide, GPR_RAX, GPR_RCX); break;
    default: emit_op_reg(e, OP_TEST, wide, GPR_RAX, GPR_RAX); break;
    }
}

void flags_recipe_emit(struct emit *e)
{
    uint8_t *done[OPERATIONS * 2];

    emit_pop_ctx(e, CTX_RECIPE_BACK);
    emit_store_ctx(e, GPR_RAX, CTX_SAVE_RAX);
    emit_store_ctx(e, GPR_RCX, CTX_SAVE_RCX);
    emit_load_ctx(e, GPR_RAX, CTX_FLAGS_VALUE);
    emit_op_mem(e, OP_MOVSXD, true, GPR_RCX, HOST_CTX, CTX_SAVE_FLAGS);
    emit_sar(e, GPR_RCX, 32 - CONSTANT_BITS);
    for (unsigned kind = 0; kind < OPERATIONS * 2; kind++) {
        emit_cmp_ctx8(e, CTX_SAVE_FLAGS, (uint8_t)(FLAGS_RECIPE_FIRST + kind));
        uint8_t *next = emit_short_jcc(e, CC_NZ);
        emit_kind(e, (enum operation)(kind / 2), kind & 1);
        done[kind] = emit_jmp(e);
        emit_land_short(e, next);
    }
    for (unsigned kind = 0; kind < OPERATIONS * 2; kind++)
        emit_land(e, done[kind]);
    emit_flags_to_rax(e);
    emit_op_mem(e, OP_MOV_STORE, false, GPR_RAX, HOST_CTX, CTX_SAVE_FLAGS);
    emit_load_ctx(e, GPR_RCX, CTX_SAVE_RCX);
    emit_load_ctx(e, GPR_RAX, CTX_SAVE_RAX);
    emit_op_mem(e, OP_GROUP5, false, 4, HOST_CTX, CTX_RECIPE_BACK);
}
