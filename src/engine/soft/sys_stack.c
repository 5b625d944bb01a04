/* Stack instructions, and those that change the system's flags: PUSHF, POPF, CLI, STI, CLD, STD (SDM vol. 2, each). */
#include "engine/soft/mmu.h"
#include "engine/soft/sys.h"
#include "engine/soft/sys_desc.h"
#include "engine/soft/sys_frame.h"

/* Changes that POPF may make: SDM vol. 2 POPF, table 4-15. */
#define POPF_ANY (FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID)

static unsigned iopl(const struct soft_cpu *cpu)
{
    return (cpu->rflags & FLAG_IOPL) >> FLAG_IOPL_SHIFT;
}

/* ZYDIS_MNEMONIC_PUSH, of every operand; a segment register is zero-extended */
int sys_push(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t value;
    int result = soft_op_read(cpu, insn, 0, &value);

    return result != SOFT_OK ? result : soft_push(cpu, insn->opsize, value);
}

/* The destination's address is computed with the stack pointer as it is after the pop. */
static int pop_to_memory(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t rsp = cpu->gpr[GPR_RSP];
    uint64_t value;
    int result = soft_pop(cpu, insn->opsize, &value);

    if (result != SOFT_OK)
        return result;
    result = soft_store(cpu, insn->mem.seg, soft_ea(cpu, insn), insn->opsize, value);
    if (result != SOFT_OK)
        cpu->gpr[GPR_RSP] = rsp;
    return result;
}

static int pop_segment(struct soft_cpu *cpu, const struct insn *insn)
{
    unsigned seg = insn->op[0].reg;
    uint64_t rsp = cpu->gpr[GPR_RSP];
    uint64_t value;
    int result = soft_pop(cpu, insn->opsize, &value);

    if (result != SOFT_OK)
        return result;
    result = seg_load(cpu, seg, (uint16_t)value);
    if (result != SOFT_OK)
        cpu->gpr[GPR_RSP] = rsp;
    else if (seg == SEG_SS)
        cpu->mov_ss_shadow = true;
    return result;
}

/* ZYDIS_MNEMONIC_POP, of every operand */
int sys_pop(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t value;

    if (insn->op[0].kind == OPERAND_MEM)
        return pop_to_memory(cpu, insn);
    if (insn->op[0].kind == OPERAND_SEG)
        return pop_segment(cpu, insn);
    int result = soft_pop(cpu, insn->opsize, &value);
    if (result == SOFT_OK) /* after the increment: POP SP gives what was on the stack */
        soft_gpr_write(cpu, insn->op[0].reg, false, insn->opsize, value);
    return result;
}

/* ZYDIS_MNEMONIC_PUSHA, PUSHAD */
int sys_pusha(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t frame[8];
    struct frame_stack stack;

    for (unsigned i = 0; i < 8; i++)
        frame[i] = cpu->gpr[i];
    frame_current(cpu, 0, &stack);
    int result = frame_push(cpu, &stack, insn->opsize, frame, ARRAY_SIZE(frame));
    if (result == SOFT_OK)
        cpu->gpr[GPR_RSP] = stack.sp;
    return result;
}

/* ZYDIS_MNEMONIC_POPA, POPAD */
int sys_popa(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t frame[8];
    int result = frame_peek(cpu, 0, insn->opsize, frame, ARRAY_SIZE(frame));

    if (result != SOFT_OK)
        return result;
    for (unsigned i = 0; i < 8; i++)
        if (7 - i != GPR_RSP)
            soft_gpr_write(cpu, 7 - i, false, insn->opsize, frame[i]);
    cpu->gpr[GPR_RSP] = frame_pointer_plus(cpu, 8U * insn->opsize);
    return SOFT_OK;
}

/* ZYDIS_MNEMONIC_PUSHF, PUSHFD, PUSHFQ */
int sys_pushf(struct soft_cpu *cpu, const struct insn *insn)
{
    return soft_push(cpu, insn->opsize, cpu->rflags & ~(FLAG_RF | FLAG_VM));
}

/* ZYDIS_MNEMONIC_POPF, POPFD, POPFQ */
int sys_popf(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t mask = POPF_ANY;
    uint64_t value;
    int result = soft_pop(cpu, insn->opsize, &value);

    if (result != SOFT_OK)
        return result;
    if (cpu->cpl <= iopl(cpu))
        mask |= FLAG_IF;
    if (cpu->cpl == 0)
        mask |= FLAG_IOPL;
    if (insn->opsize == 2)
        mask &= 0xffff;
    else
        cpu->rflags &= ~FLAG_RF;
    cpu->rflags = (cpu->rflags & ~mask) | (value & mask);
    return SOFT_OK;
}

/* The stack pointer's part of rBP, with what an offset added to it wraps around in. */
static uint64_t stack_part(const struct soft_cpu *cpu, uint64_t value)
{
    return cpu->stack_bits == 64 ? value : value & (BIT(cpu->stack_bits) - 1);
}

/* Pushes rBP and the frame pointers of the enclosing levels. */
static int enter_links(struct soft_cpu *cpu, unsigned size, unsigned level, uint64_t *frame)
{
    uint64_t value;
    int result = soft_push(cpu, size, cpu->gpr[GPR_RBP]);

    *frame = cpu->gpr[GPR_RSP];
    for (unsigned i = 1; result == SOFT_OK && i < level; i++) {
        result = soft_load(cpu, SEG_SS, stack_part(cpu, cpu->gpr[GPR_RBP] - i * size), size, &value);
        if (result == SOFT_OK)
            result = soft_push(cpu, size, value);
    }
    if (result == SOFT_OK && level > 0)
        result = soft_push(cpu, size, *frame);
    return result;
}

/* ZYDIS_MNEMONIC_ENTER */
int sys_enter(struct soft_cpu *cpu, const struct insn *insn)
{
    unsigned size = insn->opsize;
    uint64_t rsp = cpu->gpr[GPR_RSP];
    uint64_t frame;
    gva_t gva;
    int result = enter_links(cpu, size, insn->op[1].imm & 31, &frame);
    uint64_t top = stack_part(cpu, cpu->gpr[GPR_RSP] - (uint16_t)insn->op[0].imm);

    /* It faults where a push onto the new frame would. */
    if (result == SOFT_OK)
        result = soft_linear(cpu, SEG_SS, top, size, true, &gva);
    if (result == SOFT_OK)
        result = soft_check_write(cpu, gva, size);
    if (result != SOFT_OK) {
        cpu->gpr[GPR_RSP] = rsp;
        return result;
    }
    soft_gpr_write(cpu, GPR_RSP, false, cpu->stack_bits / 8, top);
    soft_gpr_write(cpu, GPR_RBP, false, size, frame);
    return SOFT_OK;
}

/* ZYDIS_MNEMONIC_LEAVE */
int sys_leave(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t frame = stack_part(cpu, cpu->gpr[GPR_RBP]);
    uint64_t value;
    int result = soft_load(cpu, SEG_SS, frame, insn->opsize, &value);

    if (result != SOFT_OK)
        return result;
    soft_gpr_write(cpu, GPR_RSP, false, cpu->stack_bits / 8, frame + insn->opsize);
    soft_gpr_write(cpu, GPR_RBP, false, insn->opsize, value);
    return SOFT_OK;
}

/* Who may change IF: SDM vol. 2 CLI, table 3-6. Otherwise CR4.PVI may give ring 3 a flag of its own, VIF. */
static bool may_change_if(const struct soft_cpu *cpu)
{
    return !cpu->protected_mode || cpu->cpl <= iopl(cpu);
}

static bool has_virtual_if(const struct soft_cpu *cpu)
{
    return cpu->cpl == 3 && (cpu->cr4 & CR4_PVI);
}

/* ZYDIS_MNEMONIC_CLI */
int sys_cli(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (may_change_if(cpu))
        cpu->rflags &= ~FLAG_IF;
    else if (has_virtual_if(cpu))
        cpu->rflags &= ~FLAG_VIF;
    else
        return soft_raise_err(cpu, EXC_GP, 0);
    return SOFT_OK;
}

/* ZYDIS_MNEMONIC_STI */
int sys_sti(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (may_change_if(cpu)) {
        cpu->interrupt_shadow = !(cpu->rflags & FLAG_IF); /* only where it was off */
        cpu->rflags |= FLAG_IF;
    } else if (has_virtual_if(cpu) && !(cpu->rflags & FLAG_VIP)) {
        cpu->rflags |= FLAG_VIF;
    } else {
        return soft_raise_err(cpu, EXC_GP, 0);
    }
    return SOFT_OK;
}

/* ZYDIS_MNEMONIC_CLD */
int sys_cld(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    cpu->rflags &= ~FLAG_DF;
    return SOFT_OK;
}

/* ZYDIS_MNEMONIC_STD */
int sys_std(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    cpu->rflags |= FLAG_DF;
    return SOFT_OK;
}
