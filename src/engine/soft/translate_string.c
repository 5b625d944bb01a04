/* REP MOVS and REP STOS in translated code: by runs within a page on both sides, each run by the host's own instruction. */
#include "engine/soft/run.h"
#include "engine/soft/sys_prefix.h"
#include "engine/soft/translate.h"

/*
 * Theory of operation
 *
 * Between two runs RCX, RSI and RDI tell how far it came, as between two iterations of the real instruction; so a miss, a fault of the
 * guest's and an interrupt leave there, and come back to the instruction's start. While a run is on, the pointers are the host's, and the
 * context has what makes them the guest's again: CTX_STRING_FROM, CTX_STRING_TO, and the elements that are left for later, CTX_STRING_LEFT.
 * A fault can come up within a run, for lookups do not see the upper bits of an address that is not canonical.
 */

#define OP_MOVS 0xa4 /* the low bit: not bytes */
#define OP_STOS 0xaa

#define CTX_OF(member) ((int32_t)offsetof(struct soft_cpu, member) - CTX_BIAS)

static const struct insn *current(const struct trans *t)
{
    return &t->insn[t->at];
}

static bool is_movs(const struct insn *insn)
{
    return (insn->opcode & ~1) == OP_MOVS;
}

static unsigned element(const struct insn *insn)
{
    return insn->opcode & 1 ? insn->opsize : 1;
}

bool trans_is_string(uint32_t mode, const struct insn *insn)
{
    if (insn->cls != INSN_STRING || (mode & BLOCK_CODE32) || insn->addrsize != 8 || ((insn->opcode & ~1) != OP_STOS && !is_movs(insn)))
        return false;
    struct sys_prefix prefix = sys_prefix_scan(insn);
    return prefix.rep && prefix.seg == SEG_DS;
}

static void leave_if(struct emit *e, struct trans_cold *cold, unsigned cc)
{
    trans_cold_from(cold, emit_jcc(e, cc));
}

/* What this code does not serve: downwards, and elements that may cross a page. */
static void leave_where_unusual(struct trans *t, const struct insn *insn)
{
    struct trans_cold *cold = trans_cold_step(t);
    unsigned size = element(insn);

    emit_test_ctx_imm32(&t->e, CTX_RFLAGS, FLAG_DF);
    leave_if(&t->e, cold, CC_NZ);
    if (size == 1)
        return;
    emit_test_low(&t->e, GPR_RDI, (uint8_t)(size - 1));
    leave_if(&t->e, cold, CC_NZ);
    if (!is_movs(insn))
        return;
    emit_test_low(&t->e, GPR_RSI, (uint8_t)(size - 1));
    leave_if(&t->e, cold, CC_NZ);
}

/* S1 or S2: the offset of a pointer in its page. */
static void page_offset(struct emit *e, unsigned dst, unsigned pointer)
{
    emit_op_reg(e, OP_MOV_LOAD, false, dst, pointer);
    emit_op_imm32(e, EXT_AND, dst, PAGE_MASK);
}

/* Elements of this run into RCX, the others into CTX_STRING_LEFT. */
static void measure_run(struct emit *e, const struct insn *insn)
{
    page_offset(e, HOST_S1, GPR_RDI);
    if (is_movs(insn)) {
        page_offset(e, HOST_S2, GPR_RSI);
        emit_op_reg(e, OP_CMP_LOAD, false, HOST_S1, HOST_S2);
        emit_cmov(e, CC_B, HOST_S1, HOST_S2);
    }
    emit_mov_simm32(e, HOST_S2, PAGE_SIZE);
    emit_op_reg(e, OP_SUB_LOAD, false, HOST_S2, HOST_S1);
    emit_shr(e, HOST_S2, (unsigned)__builtin_ctz(element(insn)));
    emit_op_reg(e, OP_CMP_LOAD, true, HOST_S2, GPR_RCX);
    emit_cmov(e, CC_A, HOST_S2, GPR_RCX);
    emit_op_reg(e, OP_SUB_LOAD, true, GPR_RCX, HOST_S2);
    emit_store_ctx(e, GPR_RCX, CTX_STRING_LEFT);
    emit_mov(e, GPR_RCX, HOST_S2);
}

static void move_pointers(struct emit *e, const struct insn *insn, uint8_t opcode)
{
    if (is_movs(insn))
        emit_op_mem(e, opcode, true, GPR_RSI, HOST_CTX, CTX_STRING_FROM);
    emit_op_mem(e, opcode, true, GPR_RDI, HOST_CTX, CTX_STRING_TO);
}

static void host_instruction(struct emit *e, const struct insn *insn)
{
    unsigned size = element(insn);

    if (size == 2)
        emit8(e, 0x66);
    emit8(e, 0xf3);
    if (size == 8)
        emit8(e, 0x48);
    emit8(e, insn->opcode);
}

bool trans_string(struct trans *t)
{
    const struct insn *insn = current(t);
    struct emit *e = &t->e;
    unsigned size = element(insn);

    if (!trans_is_string(t->mode, insn) || trans_is_behind_sti(t, t->at))
        return false;
    trans_flags_keep(t);
    leave_where_unusual(t, insn);
    const uint8_t *next_run = e->rw;
    emit_op_reg(e, OP_TEST, true, GPR_RCX, GPR_RCX);
    uint8_t *done = emit_jcc(e, CC_Z);
    trans_poll(t);
    if (is_movs(insn)) {
        trans_lookup_entry(t, GPR_RSI, size, false);
        emit_store_ctx(e, HOST_S2, CTX_STRING_FROM);
    }
    trans_lookup_entry(t, GPR_RDI, size, true);
    emit_store_ctx(e, HOST_S2, CTX_STRING_TO);
    measure_run(e, insn);
    move_pointers(e, insn, OP_ADD_LOAD);
    host_instruction(e, insn);
    move_pointers(e, insn, OP_SUB_LOAD);
    emit_load_ctx(e, GPR_RCX, CTX_STRING_LEFT);
    emit_land_at(emit_jmp(e), next_run, e);
    emit_land(e, done);
    return true;
}

void trans_string_faulted(struct soft_cpu *cpu)
{
    const uint8_t *host = (const uint8_t *)(uintptr_t)cpu->host_fault.pc;

    while (*host == 0x66 || *host == 0xf3 || *host == 0x48)
        host++;
    if ((*host & ~1) == OP_MOVS)
        cpu->gpr[GPR_RSI] -= SLOT(cpu, CTX_STRING_FROM);
    cpu->gpr[GPR_RDI] -= SLOT(cpu, CTX_STRING_TO);
    cpu->gpr[GPR_RCX] += SLOT(cpu, CTX_STRING_LEFT);
}
