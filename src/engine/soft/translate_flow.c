/* Near control flow: jumps, calls and returns. */
#include "engine/soft/translate.h"

static const struct insn *current(const struct trans *t)
{
    return &t->insn[t->at];
}

static int32_t popped_by_return(const struct trans *t, const struct insn *insn)
{
    int32_t extra = insn->operand_count && insn->op[0].kind == OPERAND_IMM ? (int32_t)(insn->op[0].imm & 0xffff) : 0;

    return (int32_t)trans_word(t) + extra;
}

/* CODE_EXIT_NEXT's operand. */
static uint32_t jump_to_take_back(const struct trans *t)
{
    const struct insn *insn = current(t);

    if (insn->mnemonic == ZYDIS_MNEMONIC_RET)
        return t->off[t->at] | (uint32_t)popped_by_return(t, insn) << CODE_NEXT_POPPED_SHIFT;
    return t->off[t->at];
}

/* On through the entry that HOST_S2 points to, if it is for the address in HOST_S1. */
static void jump_by_entry(struct emit *e, unsigned scale, int32_t disp, uint8_t **otherwise)
{
    emit_gs_index(e, OP_CMP_LOAD, HOST_S1, HOST_S2, scale, disp + (int32_t)offsetof(struct jump_entry, tag));
    *otherwise = emit_jcc(e, CC_NZ);
    emit_gs_index(e, OP_GROUP5, 4, HOST_S2, scale, disp + (int32_t)offsetof(struct jump_entry, code));
}

/* Twice the number of an address's entry in a jump cache, so that a scale of 8 leads to it. */
static void jump_index_of(struct emit *e, unsigned dst, unsigned address)
{
    _Static_assert(sizeof(struct jump_entry) == 16, "twice the scale of an index");
    emit_op_reg(e, OP_MOV_LOAD, false, dst, address);
    emit_op_imm32(e, EXT_AND, dst, (int32_t)((JUMP_ENTRIES - 1) * 2));
}

uint8_t *trans_jump(struct trans *t, uint32_t mode)
{
    struct emit *e = &t->e;
    uint8_t *otherwise;

    jump_index_of(e, HOST_S2, HOST_S1);
    jump_by_entry(e, 8, JUMP_CACHE_DISP(mode & (JUMP_CACHES - 1)), &otherwise);
    return otherwise;
}

/* --- the return cache: entries are 16 bytes, one for each 8 of the stack --- */

static int32_t return_cache(const struct trans *t)
{
    return RETURN_CACHE_DISP(t->mode & ~BLOCK_UNSHARED & (JUMP_CACHES - 1));
}

static void return_index(struct trans *t, unsigned dst)
{
    if (t->sp_late)
        emit_op_mem(&t->e, OP_LEA, false, dst, HOST_SP, t->sp_late);
    else
        emit_op_reg(&t->e, OP_MOV_LOAD, false, dst, HOST_SP);
    emit_op_imm32(&t->e, EXT_AND, dst, (RETURN_ENTRIES - 1) * 8);
}

/* Enters where the return address in `value` leads, where that is in the page: so it is one. */
static void enter_return(struct trans *t, unsigned value, unsigned index)
{
    int32_t code = return_cache(t) + (int32_t)offsetof(struct jump_entry, code);

    if (trans_end(t, t->at) >= PAGE_SIZE)
        return;
    emit_gs_index(&t->e, OP_MOV_STORE, value, index, 2, return_cache(t) + (int32_t)offsetof(struct jump_entry, tag));
    emit_align_site(&t->e, EMIT_GS_IMM32_AHEAD);
    trans_link(t, emit_store_gs_imm32(&t->e, index, 2, code), LINK_RETURN, trans_end(t, t->at), FLAG_ARITH);
}

/* The same of one that was pushed. scratch is lost, and HOST_S2 where the flags were not kept before. */
static void remember_return(struct trans *t, unsigned value, unsigned scratch)
{
    trans_flags_keep(t);
    t->flags_saved = true;
    return_index(t, scratch);
    enter_return(t, value, scratch);
}

/* Guest offset of a relative branch's target, from the page's start; false when it is out of a LEA's reach. */
static bool target_of(const struct trans *t, int64_t *off)
{
    *off = (int64_t)trans_end(t, t->at) + (int64_t)current(t)->op[0].imm;
    return *off >= INT32_MIN && *off <= INT32_MAX;
}

/* The target of an indirect branch into HOST_S1. */
static bool load_target(struct trans *t)
{
    const struct insn *insn = current(t);

    if (!insn->has_mem) {
        unsigned value = trans_value(t, insn->op[0].reg, HOST_S1);
        emit_op_reg(&t->e, OP_MOV_LOAD, trans_is_wide(t), HOST_S1, value);
        return true;
    }
    unsigned gva = trans_address(t);
    if (gva == REG_NONE)
        return false;
    trans_lookup(t, gva, trans_word(t), false);
    emit_op_sib(&t->e, OP_MOV_LOAD, trans_is_wide(t), HOST_S1, gva, HOST_S2, 1, 0);
    t->addend_of = TRANS_NO_GROUP;
    return true;
}

/*
 * Looks for attention before a jump out of the page or to anywhere, if it does not while it asks for the stack's page. False behind STI, where nobody
 * may: then the jump is step's.
 */
static bool look_before(struct trans *t)
{
    if (t->member_of[t->at] != TRANS_NO_GROUP)
        return true;
    if (trans_is_behind_sti(t, t->at))
        return false;
    trans_flags_keep(t);
    trans_poll(t);
    return true;
}

/* A look into the jump cache, and on. In place and not in a piece of common code, so that the CPU predicts each jump by itself. */
static bool jump_indirect(struct trans *t)
{
    if (!look_before(t) || !load_target(t))
        return false;
    trans_flags_keep(t);
    struct trans_cold *cold = trans_cold(t, COLD_NEXT);
    cold->jump = jump_to_take_back(t);
    trans_cold_from(cold, trans_jump(t, t->mode & ~BLOCK_UNSHARED));
    t->ended = true;
    return true;
}

static bool emit_jump(struct trans *t)
{
    int64_t off;

    if (current(t)->op[0].kind != OPERAND_REL)
        return jump_indirect(t);
    if (!target_of(t, &off))
        return false;
    if (trans_is_followed(t, t->at)) {
        t->tracked = true;
        return true;
    }
    bool linked = trans_is_linked(t, off);
    if (!linked && !look_before(t))
        return false;
    trans_goto(t, off, !linked);
    return true;
}

static void push_return_address(struct trans *t)
{
    int32_t off = (int32_t)trans_end(t, t->at);
    struct emit *e = &t->e;

    if (trans_alone_on_stack(t)) {
        emit_load_ctx(e, HOST_S1, CTX_CODE_PAGE);
        emit_lea(e, HOST_S1, HOST_S1, off);
        t->flags_saved = true;
        enter_return(t, HOST_S1, HOST_S2);
        emit_load_ctx(e, HOST_S2, trans_stack_addend(t));
        emit_op_sib(e, OP_MOV_STORE, true, HOST_S1, HOST_SP, HOST_S2, 1, -8);
        trans_push_done(t);
    } else if (trans_shared(t)) {
        emit_load_ctx(e, HOST_S1, CTX_CODE_PAGE);
        emit_lea(e, HOST_S1, HOST_S1, off);
        emit_op_sib(e, OP_MOV_STORE, true, HOST_S1, HOST_SP, HOST_S2, 1, t->sp_late - 8);
        trans_push_done(t);
        remember_return(t, HOST_S1, HOST_S2);
    } else {
        trans_push_lookup(t);
        emit_lea_sum(e, HOST_S1, HOST_S1, HOST_S2);
        emit_load_ctx(e, HOST_S2, CTX_CODE_PAGE);
        trans_lea(t, HOST_S2, HOST_S2, off);
        emit_op_mem(e, OP_MOV_STORE, trans_is_wide(t), HOST_S2, HOST_S1, 0);
        trans_push_done(t);
        remember_return(t, HOST_S2, HOST_S1);
    }
    trans_settle_sp(t);
}

/*
 * The jump cache is asked before the push: at an address that it does not have, which may be none, nothing has happened yet. Its entry's number
 * is kept over the push, which needs both scratch registers.
 */
static bool call_indirect(struct trans *t)
{
    int32_t entry = JUMP_CACHE_DISP(t->mode & ~BLOCK_UNSHARED & (JUMP_CACHES - 1));
    struct emit *e = &t->e;

    if (!look_before(t) || !load_target(t))
        return false;
    trans_flags_keep(t);
    struct trans_cold *cold = trans_cold(t, COLD_CALL);
    jump_index_of(e, HOST_S2, HOST_S1);
    emit_gs_index(e, OP_CMP_LOAD, HOST_S1, HOST_S2, 8, entry + (int32_t)offsetof(struct jump_entry, tag));
    trans_cold_from(cold, emit_jcc(e, CC_NZ));
    emit_store_ctx(e, HOST_S2, CTX_TARGET);
    t->addend_of = TRANS_NO_GROUP;
    push_return_address(t);
    emit_load_ctx(e, HOST_S2, CTX_TARGET);
    emit_gs_index(e, OP_MOV_LOAD, HOST_S1, HOST_S2, 8, entry + (int32_t)offsetof(struct jump_entry, tag));
    emit_gs_index(e, OP_GROUP5, 4, HOST_S2, 8, entry + (int32_t)offsetof(struct jump_entry, code));
    t->ended = true;
    return true;
}

static bool emit_call(struct trans *t)
{
    int64_t off;

    if (current(t)->op[0].kind != OPERAND_REL)
        return call_indirect(t);
    if (!target_of(t, &off))
        return false;
    bool linked = trans_is_linked(t, off);
    if (!linked && !look_before(t))
        return false;
    push_return_address(t);
    trans_goto(t, off, !linked || t->member_of[t->at] != TRANS_NO_GROUP);
    return true;
}

/* The address that a return pops into HOST_S1, and where it is looked for in the return cache into HOST_S2. */
static void load_return_address(struct trans *t)
{
    if (trans_alone_on_stack(t)) {
        emit_op_sib(&t->e, OP_MOV_LOAD, true, HOST_S1, HOST_SP, HOST_S1, 1, 0);
        return;
    }
    unsigned top = trans_top_lookup(t);
    emit_op_sib(&t->e, OP_MOV_LOAD, trans_is_wide(t), HOST_S1, top, HOST_S2, 1, t->sp_late);
    trans_flags_keep(t);
    return_index(t, HOST_S2);
}

static bool emit_return(struct trans *t)
{
    uint8_t *otherwise;

    if (!look_before(t))
        return false;
    load_return_address(t);
    t->sp_late += popped_by_return(t, current(t));
    trans_settle_sp(t);
    jump_by_entry(&t->e, 2, return_cache(t), &otherwise);
    struct trans_cold *cold = trans_cold(t, COLD_DISPATCH);
    cold->jump = jump_to_take_back(t);
    trans_cold_from(cold, otherwise);
    t->ended = true;
    return true;
}

/* Jcc rel8 is 7x and rel32 0F 8x with the same condition in the low bits. */
bool trans_is_conditional(const struct insn *insn)
{
    return insn->cls == INSN_CONTROL &&
           ((insn->opcode_map == 0 && (insn->opcode & 0xf0) == 0x70) || (insn->opcode_map == 1 && (insn->opcode & 0xf0) == 0x80)) &&
           insn->opsize * 8 >= MIN(insn->mode_bits, 32);
}

/* Out of the block, to a guest offset from this page's start, where the condition holds. */
static void leave_by(struct trans *t, unsigned cc, int64_t off)
{
    if (trans_is_linked(t, off)) {
        emit_align_site(&t->e, 2);
        trans_link(t, emit_jcc(&t->e, cc), LINK_NEAR, off, t->wanted_there[t->at]);
    } else {
        struct trans_cold *cold = trans_cold(t, COLD_FAR);
        cold->guest_off = (int32_t)off;
        trans_cold_from(cold, emit_jcc(&t->e, cc));
    }
}

/* The block goes on behind it, or where it leads, unless it is the last. */
static bool emit_conditional(struct trans *t)
{
    unsigned cc = current(t)->opcode & 0xf;
    bool last = t->at + 1 == t->count;
    int64_t off;

    if (!target_of(t, &off))
        return false;
    bool stays = trans_is_linked(t, off) && (!last || trans_is_linked(t, trans_end(t, t->at)));
    if (!stays && trans_is_behind_sti(t, t->at))
        return false; /* as in look_before() */
    trans_flags_use(t);
    if (trans_goes_round(t, t->at))
        leave_by(t, cc ^ 1, trans_end(t, t->at));
    else
        leave_by(t, cc, off);
    if (last)
        trans_goto(t, trans_end(t, t->at), false);
    t->tracked = true;
    return true;
}

bool trans_control(struct trans *t)
{
    const struct insn *insn = current(t);

    if (!trans_is_wide(t) && insn->opsize != 4) /* a 16-bit one truncates EIP */
        return false;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_JMP: return emit_jump(t);
    case ZYDIS_MNEMONIC_CALL: return emit_call(t);
    case ZYDIS_MNEMONIC_RET: return emit_return(t);
    default: break;
    }
    return trans_is_conditional(insn) && emit_conditional(t);
}
