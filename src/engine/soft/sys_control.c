/* Near control flow: JMP, Jcc, CALL, RET, LOOPcc, JrCXZ in every mode (SDM vol. 2, each). */
#include "engine/soft/sys.h"

/*
 * The operand size says how much of the target counts. In 64-bit mode it is 8: a 66 prefix is ignored there,
 * as Intel does (AMD truncates to 16 bits); where decoding says 2 all the same, the target is truncated.
 */
static uint64_t truncate(uint64_t rip, unsigned size)
{
    return size == 8 ? rip : rip & (BIT(size * 8) - 1);
}

static int check_target(struct soft_cpu *cpu, uint64_t rip)
{
    bool inside = cpu->code_bits == 64 ? gva_is_canonical(rip) : rip <= cpu->seg[SEG_CS].limit;

    return inside ? SOFT_OK : soft_raise_err(cpu, EXC_GP, 0);
}

static int jump(struct soft_cpu *cpu, const struct insn *insn, uint64_t rip)
{
    rip = truncate(rip, insn->opsize);
    int result = check_target(cpu, rip);

    if (result == SOFT_OK)
        cpu->next_rip = rip;
    return result;
}

static int branch_target(struct soft_cpu *cpu, const struct insn *insn, uint64_t *rip)
{
    int result = soft_op_read(cpu, insn, 0, rip);

    if (result == SOFT_OK && insn->op[0].kind == OPERAND_REL)
        *rip += cpu->next_rip;
    return result;
}

/* The condition in an opcode's low four bits (SDM vol. 1 app. B). */
static bool condition(uint64_t flags, unsigned code)
{
    bool less = !(flags & FLAG_SF) != !(flags & FLAG_OF);
    bool holds;

    switch (code >> 1) {
    case 0: holds = flags & FLAG_OF; break;
    case 1: holds = flags & FLAG_CF; break;
    case 2: holds = flags & FLAG_ZF; break;
    case 3: holds = flags & (FLAG_CF | FLAG_ZF); break;
    case 4: holds = flags & FLAG_SF; break;
    case 5: holds = flags & FLAG_PF; break;
    case 6: holds = less; break;
    default: holds = less || (flags & FLAG_ZF); break;
    }
    return holds != (code & 1);
}

/* ZYDIS_MNEMONIC_JMP */
int sys_jmp(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t rip;

    if (sys_is_far(insn))
        return sys_jmp_far(cpu, insn);
    int result = branch_target(cpu, insn, &rip);
    return result != SOFT_OK ? result : jump(cpu, insn, rip);
}

/* ZYDIS_MNEMONIC_JO, JNO, JB, JNB, JZ, JNZ, JBE, JNBE, JS, JNS, JP, JNP, JL, JNL, JLE, JNLE */
int sys_jcc(struct soft_cpu *cpu, const struct insn *insn)
{
    if (!condition(cpu->rflags, insn->opcode & 0xf))
        return SOFT_OK;
    return jump(cpu, insn, cpu->next_rip + insn->op[0].imm);
}

/* ZYDIS_MNEMONIC_CALL */
int sys_call(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t rip;

    if (sys_is_far(insn))
        return sys_call_far(cpu, insn);
    int result = branch_target(cpu, insn, &rip);
    if (result != SOFT_OK)
        return result;
    rip = truncate(rip, insn->opsize);
    result = check_target(cpu, rip);
    if (result == SOFT_OK)
        result = soft_push(cpu, insn->opsize, cpu->next_rip);
    if (result == SOFT_OK)
        cpu->next_rip = rip;
    return result;
}

/* ZYDIS_MNEMONIC_RET */
int sys_ret(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t rsp = cpu->gpr[GPR_RSP];
    uint64_t rip;

    if (sys_is_far(insn))
        return sys_ret_far(cpu, insn);
    int result = soft_pop(cpu, insn->opsize, &rip);
    if (result != SOFT_OK)
        return result;
    result = jump(cpu, insn, rip);
    if (result != SOFT_OK) {
        cpu->gpr[GPR_RSP] = rsp;
        return result;
    }
    if (insn->op[0].kind == OPERAND_IMM) {
        unsigned size = cpu->stack_bits / 8;
        soft_gpr_write(cpu, GPR_RSP, false, size, cpu->gpr[GPR_RSP] + (uint16_t)insn->op[0].imm);
    }
    return SOFT_OK;
}

/* ZYDIS_MNEMONIC_LOOP, LOOPE, LOOPNE */
int sys_loop(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t count = soft_gpr_read(cpu, GPR_RCX, false, insn->addrsize) - 1;
    bool taken = truncate(count, insn->addrsize) != 0;

    if (insn->mnemonic == ZYDIS_MNEMONIC_LOOPE)
        taken &= (cpu->rflags & FLAG_ZF) != 0;
    else if (insn->mnemonic == ZYDIS_MNEMONIC_LOOPNE)
        taken &= (cpu->rflags & FLAG_ZF) == 0;
    int result = taken ? jump(cpu, insn, cpu->next_rip + insn->op[0].imm) : SOFT_OK;
    if (result == SOFT_OK)
        soft_gpr_write(cpu, GPR_RCX, false, insn->addrsize, count);
    return result;
}

/* ZYDIS_MNEMONIC_JCXZ, JECXZ, JRCXZ */
int sys_jrcxz(struct soft_cpu *cpu, const struct insn *insn)
{
    if (soft_gpr_read(cpu, GPR_RCX, false, insn->addrsize) != 0)
        return SOFT_OK;
    return jump(cpu, insn, cpu->next_rip + insn->op[0].imm);
}
