/* Far RET and IRET in every mode (SDM vol. 2 RET, IRET; vol. 3 5.8.6, 6.14.3). */
#include "engine/soft/sys.h"
#include "engine/soft/sys_desc.h"
#include "engine/soft/sys_frame.h"
#include "engine/soft/sys_task.h"

/* Where a return goes, checked but not yet loaded. */
struct far_return {
    struct cpu_seg cs; /* the ring is in its selector */
    struct cpu_seg ss; /* when has_stack */
    uint64_t rip;
    uint64_t sp;
    bool has_stack; /* SS:RSP come from the frame */
};

/* The return's code segment: to the same ring or an outer one. */
static int return_code(struct soft_cpu *cpu, uint16_t sel, uint64_t rip, struct far_return *ret)
{
    struct desc code;

    if (sel_is_null(sel))
        return soft_raise_err(cpu, EXC_GP, 0);
    int result = desc_get(cpu, sel, EXC_GP, 0, &code);
    if (result != SOFT_OK)
        return result;
    unsigned ring = sel & 3;
    bool fits = desc_is_conforming(&code) ? desc_dpl(&code) <= ring : desc_dpl(&code) == ring;
    if (!desc_is_code(&code) || ring < cpu->cpl || !fits || !desc_code_valid(cpu, &code))
        return desc_raise(cpu, EXC_GP, sel, 0);
    if (!desc_present(&code))
        return desc_raise(cpu, EXC_NP, sel, 0);
    ret->rip = rip;
    result = seg_prepare_code(cpu, &code, sel, ring, &ret->cs);
    return result != SOFT_OK ? result : seg_check_target(cpu, &ret->cs, rip, 0);
}

/* Its stack segment: null only for 64-bit code of the inner rings. */
static int return_stack(struct soft_cpu *cpu, uint16_t sel, uint64_t sp, struct far_return *ret)
{
    unsigned ring = ret->cs.sel & 3;

    ret->has_stack = true;
    ret->sp = sp;
    if (!sel_is_null(sel))
        return seg_prepare_stack(cpu, sel, ring, EXC_GP, 0, &ret->ss);
    if (!cpu->long_mode || !(ret->cs.attr & SEG_L) || ring == 3 || (sel & 3U) != ring)
        return soft_raise_err(cpu, EXC_GP, 0);
    ret->ss = seg_null(sel, ring);
    return SOFT_OK;
}

/* An outer ring must not keep data segments that it could not have loaded (SDM vol. 3 5.8.6). */
static void drop_data_segments(struct soft_cpu *cpu, unsigned ring)
{
    static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

    for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
        struct cpu_seg *seg = &cpu->seg[data[i]];
        bool conforming = (seg->attr & (DESC_CODE | DESC_CONFORMING)) == (DESC_CODE | DESC_CONFORMING);
        if (!(seg->attr & SEG_UNUSABLE) && !conforming && SEG_DPL(seg->attr) < ring)
            *seg = seg_null(0, 0);
    }
}

static uint64_t stack_pointer(const struct soft_cpu *cpu, const struct far_return *ret)
{
    if (cpu->long_mode && (ret->cs.attr & SEG_L))
        return ret->sp;
    if (ret->ss.attr & SEG_DB)
        return (uint32_t)ret->sp;
    return (cpu->gpr[GPR_RSP] & ~0xffffULL) | (ret->sp & 0xffff); /* a 16-bit stack loads SP alone */
}

/* popped: bytes that leave the current stack when the return stays on it. */
static void commit(struct soft_cpu *cpu, const struct far_return *ret, unsigned popped)
{
    unsigned ring = ret->cs.sel & 3;

    if (ret->has_stack) {
        cpu->gpr[GPR_RSP] = stack_pointer(cpu, ret);
        cpu->seg[SEG_SS] = ret->ss;
    } else {
        cpu->gpr[GPR_RSP] = frame_pointer_plus(cpu, popped);
    }
    if (cpu->protected_mode && ring > cpu->cpl)
        drop_data_segments(cpu, ring);
    cpu->seg[SEG_CS] = ret->cs;
    cpu->next_rip = ret->rip;
    soft_mode_update(cpu);
}

static int return_real(struct soft_cpu *cpu, uint16_t sel, uint64_t rip, struct far_return *ret)
{
    ret->cs = seg_real(&cpu->seg[SEG_CS], sel);
    ret->rip = rip;
    return seg_check_target(cpu, &ret->cs, rip, 0);
}

/* ZYDIS_MNEMONIC_RET, where sys_is_far() */
int sys_ret_far(struct soft_cpu *cpu, const struct insn *insn)
{
    unsigned size = insn->opsize;
    unsigned drop = insn->op[0].kind == OPERAND_IMM ? (uint16_t)insn->op[0].imm : 0;
    uint64_t address[2]; /* IP, CS */
    uint64_t stack[2];   /* SP, SS */
    struct far_return ret = {.has_stack = false};
    int result = frame_peek(cpu, 0, size, address, 2);

    if (result != SOFT_OK)
        return result;
    uint16_t sel = (uint16_t)address[1];
    result = cpu->protected_mode ? return_code(cpu, sel, address[0], &ret) : return_real(cpu, sel, address[0], &ret);
    if (result != SOFT_OK)
        return result;
    if (cpu->protected_mode && (sel & 3) > cpu->cpl) {
        result = frame_peek(cpu, 2 * size + drop, size, stack, 2);
        if (result == SOFT_OK) /* the outer stack loses the parameters too */
            result = return_stack(cpu, (uint16_t)stack[1], stack[0] + drop, &ret);
        if (result != SOFT_OK)
            return result;
    }
    commit(cpu, &ret, 2 * size + drop);
    return SOFT_OK;
}

/* The flags that IRET may change, by the CPL and IOPL before it. */
static uint64_t iret_flags(const struct soft_cpu *cpu, unsigned size)
{
    uint64_t mask = FLAG_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;

    if (size >= 4)
        mask |= FLAG_RF | FLAG_AC | FLAG_ID;
    if (cpu->cpl <= (cpu->rflags & FLAG_IOPL) >> FLAG_IOPL_SHIFT)
        mask |= FLAG_IF;
    if (cpu->cpl == 0) {
        mask |= FLAG_IOPL;
        if (size >= 4 && cpu->protected_mode)
            mask |= FLAG_VIF | FLAG_VIP;
    }
    return mask;
}

static void commit_iret(struct soft_cpu *cpu, const struct far_return *ret, uint64_t flags, unsigned size)
{
    uint64_t mask = iret_flags(cpu, size);

    cpu->rflags = (cpu->rflags & ~mask) | (flags & mask);
    commit(cpu, ret, 3 * size);
}

/* With NT set IRET returns to the task that the TSS links to. */
static int return_to_task(struct soft_cpu *cpu)
{
    struct task_old old = {.rip = cpu->next_rip, .flags = cpu->rflags};
    uint64_t sel;
    int result = frame_task_link(cpu, &sel);

    return result != SOFT_OK ? result : task_switch(cpu, TASK_RETURN, (uint16_t)sel, &old);
}

static int iret_protected(struct soft_cpu *cpu, unsigned size)
{
    uint64_t frame[5]; /* IP, CS, FLAGS, SP, SS */
    struct far_return ret = {.has_stack = false};
    unsigned n = cpu->code_bits == 64 ? 5 : 3; /* 64-bit code always takes a stack from the frame */

    if (cpu->rflags & FLAG_NT)
        return cpu->long_mode ? soft_raise_err(cpu, EXC_GP, 0) : return_to_task(cpu);
    int result = frame_peek(cpu, 0, size, frame, n);
    if (result != SOFT_OK)
        return result;
    if (size == 4 && (frame[2] & FLAG_VM) && cpu->cpl == 0 && !cpu->long_mode)
        return soft_internal(cpu, "IRET asks for virtual-8086 mode, which this engine lacks");
    uint16_t sel = (uint16_t)frame[1];
    result = return_code(cpu, sel, frame[0], &ret);
    if (result == SOFT_OK && n == 3 && (sel & 3) > cpu->cpl) {
        n = 5;
        result = frame_peek(cpu, 3 * size, size, &frame[3], 2);
    }
    if (result == SOFT_OK && n == 5)
        result = return_stack(cpu, (uint16_t)frame[4], frame[3], &ret);
    if (result == SOFT_OK)
        commit_iret(cpu, &ret, frame[2], size);
    return result;
}

/* ZYDIS_MNEMONIC_IRET, IRETD, IRETQ */
int sys_iret(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t frame[3]; /* IP, CS, FLAGS */
    struct far_return ret = {.has_stack = false};

    cpu->nmi_masked = false; /* whether or not the rest faults (SDM vol. 3 6.7.1, 25.3) */
    if (cpu->protected_mode)
        return iret_protected(cpu, insn->opsize);
    int result = frame_peek(cpu, 0, insn->opsize, frame, 3);
    if (result == SOFT_OK)
        result = return_real(cpu, (uint16_t)frame[1], frame[0], &ret);
    if (result == SOFT_OK)
        commit_iret(cpu, &ret, frame[2], insn->opsize);
    return result;
}
