/* Sensitive instructions without leaving translated code: flags, interrupts on and off, SWAPGS, the TSC. */
#include "engine/soft/translate.h"

#define CTX_OF(member) ((int32_t)offsetof(struct soft_cpu, member) - CTX_BIAS)

/*
 * Theory of operation
 *
 * What is left of RFLAGS beside the arithmetic flags is in the context. IF may be set here as long as nothing waits for it, which
 * interrupt_waits tells: what comes later sets attention, and is taken at the next look for it. The instruction after STI is in the same
 * block, so it runs before any such look (SDM vol. 2 STI), or STI is left to step.
 */

static const struct insn *current(const struct trans *t)
{
    return &t->insn[t->at];
}

bool trans_is_system(uint32_t mode, const struct insn *insn)
{
    bool wide = !(mode & BLOCK_CODE32), user = mode & BLOCK_USER;

    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_STD: return true;
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI: return !user;
    case ZYDIS_MNEMONIC_SWAPGS:
    case ZYDIS_MNEMONIC_POPFQ: return wide && !user;
    case ZYDIS_MNEMONIC_PUSHFQ: return wide;
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP: return !(mode & BLOCK_NO_TSC);
    default: return false;
    }
}

/* --- single flags --- */

static void change_flag(struct trans *t, uint32_t flag, bool on)
{
    emit_ctx_imm32(&t->e, on ? EXT_OR : EXT_AND, CTX_RFLAGS, on ? flag : ~flag);
}

static void put_flag(struct trans *t, uint32_t flag, bool on)
{
    trans_flags_keep(t);
    change_flag(t, flag, on);
}

static void leave_if_interrupt_waits(struct trans *t)
{
    struct trans_cold *cold = trans_cold_step(t);

    _Static_assert(sizeof(((struct soft_cpu *)0)->interrupt_waits) == 1, "a byte is compared");
    emit8(&t->e, 0x80); /* cmp byte [ctx + interrupt_waits], 0 */
    emit_modrm_disp(&t->e, EXT_CMP, HOST_CTX, CTX_OF(interrupt_waits));
    emit8(&t->e, 0);
    trans_cold_from(cold, emit_jcc(&t->e, CC_NZ));
}

static bool emit_sti(struct trans *t)
{
    if (t->at + 1 == t->count)
        return false; /* the next instruction is in another block */
    trans_flags_keep(t);
    leave_if_interrupt_waits(t);
    change_flag(t, FLAG_IF, true);
    return true;
}

/* --- all flags --- */

/* The flags as the host has them, through the room that the context has below its pointer. */
static void emit_host_flags(struct emit *e, unsigned dst)
{
    emit8(e, 0x9c); /* pushfq */
    emit_rex(e, false, 0, 0, dst);
    emit8(e, (uint8_t)(0x58 | (dst & 7))); /* pop dst */
}

/* VM is never set here, and RF neither: translated code does not run with them. */
static void emit_pushf(struct trans *t)
{
    struct emit *e = &t->e;

    trans_push_lookup(t); /* keeps the flags, which are all wanted here */
    trans_flags_use(t);
    emit_lea_sum(e, HOST_S1, HOST_S1, HOST_S2);
    emit_host_flags(e, HOST_S2);
    emit_op_mem(e, OP_XOR_LOAD, true, HOST_S2, HOST_CTX, CTX_RFLAGS); /* the host's arithmetic flags, and the context's others */
    emit_op_imm32(e, EXT_AND, HOST_S2, FLAG_ARITH);
    emit_op_mem(e, OP_XOR_LOAD, true, HOST_S2, HOST_CTX, CTX_RFLAGS);
    emit_op_mem(e, OP_MOV_STORE, true, HOST_S2, HOST_S1, 0);
    t->flags_saved = true; /* they are still there, and no recipe */
    t->saved_as_recipe = false;
    trans_push_done(t);
}

/* Arithmetic flags from src: SAHF for those of the low byte, an addition that overflows for OF. */
static void emit_load_flags(struct emit *e, unsigned src)
{
    static const uint8_t flags_of_eax[] = {0x0f,
                                           0xba,
                                           0xe0,
                                           0x0b,
                                           /* bt eax, 11 */ 0x88,
                                           0xc4, /* mov ah, al */
                                           0x0f,
                                           0x92,
                                           0xc0,
                                           /* setc al */ 0x04,
                                           0x7f,  /* add al, 0x7f */
                                           0x9e}; /* sahf */

    emit_store_ctx(e, GPR_RAX, CTX_SAVE_RAX);
    emit_mov(e, GPR_RAX, src);
    emit_bytes(e, flags_of_eax, sizeof(flags_of_eax));
    emit_load_ctx(e, GPR_RAX, CTX_SAVE_RAX);
}

/* Where anything but IF and the arithmetic flags changes, step decides what comes of it. */
static void emit_popf(struct trans *t)
{
    struct emit *e = &t->e;
    struct trans_cold *cold;

    trans_lookup(t, HOST_SP, 8, false);
    emit_op_sib(e, OP_MOV_LOAD, true, HOST_S2, HOST_SP, HOST_S2, 1, 0);
    emit_mov(e, HOST_S1, HOST_S2);
    emit_op_mem(e, OP_XOR_LOAD, true, HOST_S1, HOST_CTX, CTX_RFLAGS);
    cold = trans_cold_step(t);
    emit_test_imm32(e, HOST_S1, ~(int32_t)(FLAG_ARITH | FLAG_IF));
    trans_cold_from(cold, emit_jcc(e, CC_NZ));
    emit_test_imm32(e, HOST_S2, FLAG_IF);
    uint8_t *off = emit_jcc(e, CC_Z);
    leave_if_interrupt_waits(t);
    emit_land(e, off);
    emit_store_ctx(e, HOST_S2, CTX_RFLAGS);
    emit_load_flags(e, HOST_S2);
    t->flags_saved = false;
    emit_lea(e, HOST_SP, HOST_SP, 8);
}

/* --- the rest: flags stay --- */

static void emit_swapgs(struct trans *t)
{
    int32_t base = CTX_OF(seg[SEG_GS].base);

    emit_load_ctx(&t->e, HOST_S1, base);
    emit_load_ctx(&t->e, HOST_S2, CTX_OF(kernel_gs_base));
    emit_store_ctx(&t->e, HOST_S2, base);
    emit_store_ctx(&t->e, HOST_S1, CTX_OF(kernel_gs_base));
}

static void emit_rdtsc(struct trans *t, bool with_aux)
{
    static const uint8_t rdtsc[] = {0x0f, 0x31}, rdtscp[] = {0x0f, 0x01, 0xf9};
    static const uint8_t rorx_rdx_rdx_32[] = {0xc4, 0xe3, 0xfb, 0xf0, 0xd2, 0x20}, rorx_rdx_rax_32[] = {0xc4, 0xe3, 0xfb, 0xf0, 0xd0, 0x20};
    struct emit *e = &t->e;

    if (with_aux)
        emit_bytes(e, rdtscp, sizeof(rdtscp));
    else
        emit_bytes(e, rdtsc, sizeof(rdtsc));
    emit_load_ctx(e, HOST_S1, CTX_OF(tsc_offset));
    emit_bytes(e, rorx_rdx_rdx_32, sizeof(rorx_rdx_rdx_32));
    emit_lea_sum(e, GPR_RAX, GPR_RAX, GPR_RDX);
    emit_lea_sum(e, GPR_RAX, GPR_RAX, HOST_S1);
    emit_bytes(e, rorx_rdx_rax_32, sizeof(rorx_rdx_rax_32));
    emit_op_reg(e, OP_MOV_LOAD, false, GPR_RDX, GPR_RDX);
    emit_op_reg(e, OP_MOV_LOAD, false, GPR_RAX, GPR_RAX);
    if (with_aux)
        emit_op_mem(e, OP_MOV_LOAD, false, GPR_RCX, HOST_CTX, CTX_OF(tsc_aux));
}

bool trans_system(struct trans *t)
{
    const struct insn *insn = current(t);

    if (!trans_is_system(t->mode, insn))
        return false;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CLD: put_flag(t, FLAG_DF, false); return true;
    case ZYDIS_MNEMONIC_STD: put_flag(t, FLAG_DF, true); return true;
    case ZYDIS_MNEMONIC_CLI: put_flag(t, FLAG_IF, false); return true;
    case ZYDIS_MNEMONIC_STI: return emit_sti(t);
    case ZYDIS_MNEMONIC_PUSHFQ: emit_pushf(t); return true;
    case ZYDIS_MNEMONIC_POPFQ: emit_popf(t); return true;
    case ZYDIS_MNEMONIC_SWAPGS: emit_swapgs(t); return true;
    default: emit_rdtsc(t, insn->mnemonic == ZYDIS_MNEMONIC_RDTSCP); return true;
    }
}
