/* Far JMP and CALL, direct and through gates; software interrupts, BOUND, UD (SDM vol. 3 5.8, vol. 2 each). */
#include "engine/soft/sys.h"
#include "engine/soft/sys_desc.h"
#include "engine/soft/sys_event.h"
#include "engine/soft/sys_frame.h"
#include "engine/soft/sys_task.h"

/* Where a far transfer goes, fully checked; unless it was to another task. */
struct far_target {
    struct cpu_seg cs; /* the ring is in its selector */
    uint64_t rip;
    unsigned size;   /* bytes of one word of a CALL's frame */
    unsigned params; /* words that a call gate copies to the inner stack */
    bool task;       /* it was another task, which runs now */
};

static uint64_t truncate(uint64_t rip, unsigned size)
{
    return size == 8 ? rip : rip & (BIT(size * 8) - 1);
}

/* The pointer that the instruction names: an immediate, or offset and selector in memory. */
static int read_pointer(struct soft_cpu *cpu, const struct insn *insn, uint16_t *sel, uint64_t *off)
{
    const struct insn_operand *op = &insn->op[0];

    if (op->kind == OPERAND_FAR) {
        *off = truncate(op->imm, insn->opsize);
        *sel = op->far_sel;
        return SOFT_OK;
    }
    return seg_read_pointer(cpu, insn, sel, off);
}

static void commit(struct soft_cpu *cpu, const struct far_target *target)
{
    cpu->seg[SEG_CS] = target->cs;
    cpu->next_rip = target->rip;
    soft_mode_update(cpu);
}

static int resolve_real(struct soft_cpu *cpu, uint16_t sel, struct far_target *target)
{
    target->cs = seg_real(&cpu->seg[SEG_CS], sel);
    return seg_check_target(cpu, &target->cs, target->rip, 0);
}

/* Straight to a code segment: the CPL stays (SDM vol. 3 5.8.1). */
static int resolve_code(struct soft_cpu *cpu, struct desc *code, uint16_t sel, struct far_target *target)
{
    bool allowed = desc_is_conforming(code) ? desc_dpl(code) <= cpu->cpl : desc_dpl(code) == cpu->cpl && (sel & 3) <= cpu->cpl;

    if (!allowed || !desc_code_valid(cpu, code))
        return desc_raise(cpu, EXC_GP, sel, 0);
    if (!desc_present(code))
        return desc_raise(cpu, EXC_NP, sel, 0);
    int result = seg_prepare_code(cpu, code, sel, cpu->cpl, &target->cs);
    return result != SOFT_OK ? result : seg_check_target(cpu, &target->cs, target->rip, 0);
}

/* The code segment behind a call gate; a CALL may go inwards, a JMP not (SDM vol. 3 5.8.4). */
static int resolve_gate(struct soft_cpu *cpu, struct desc *gate, uint16_t gate_sel, bool call, struct far_target *target)
{
    uint16_t sel = (uint16_t)(gate->lo >> 16);
    struct desc code;
    int result = SOFT_OK;

    if (MAX(cpu->cpl, gate_sel & 3U) > desc_dpl(gate))
        return desc_raise(cpu, EXC_GP, gate_sel, 0);
    if (!desc_present(gate))
        return desc_raise(cpu, EXC_NP, gate_sel, 0);
    if (cpu->long_mode)
        result = desc_get_high(cpu, gate_sel, EXC_GP, gate);
    if (result != SOFT_OK)
        return result;
    target->rip = (gate->lo & 0xffff) | (gate->lo >> 32 & 0xffff0000) | gate->hi << 32;
    target->size = cpu->long_mode ? 8 : desc_type(gate) == DESC_CALL ? 4 : 2;
    target->params = cpu->long_mode ? 0 : gate->lo >> 32 & 0x1f;
    target->rip = truncate(target->rip, target->size);

    if (sel_is_null(sel))
        return soft_raise_err(cpu, EXC_GP, 0);
    result = desc_get(cpu, sel, EXC_GP, 0, &code);
    if (result != SOFT_OK)
        return result;
    bool inwards = call || desc_is_conforming(&code);
    if (!desc_is_code(&code) || desc_dpl(&code) > cpu->cpl || (!inwards && desc_dpl(&code) < cpu->cpl))
        return desc_raise(cpu, EXC_GP, sel, 0);
    if (cpu->long_mode && (desc_attr(&code) & (SEG_L | SEG_DB)) != SEG_L)
        return desc_raise(cpu, EXC_GP, sel, 0);
    if (!desc_present(&code))
        return desc_raise(cpu, EXC_NP, sel, 0);
    result = seg_prepare_code(cpu, &code, sel, desc_is_conforming(&code) ? cpu->cpl : desc_dpl(&code), &target->cs);
    return result != SOFT_OK ? result : seg_check_target(cpu, &target->cs, target->rip, 0);
}

/* A TSS, or a task gate, which names one. */
static int far_task(struct soft_cpu *cpu, const struct desc *d, uint16_t sel, bool call)
{
    struct task_old old = {.rip = cpu->next_rip, .flags = cpu->rflags};

    if (MAX(cpu->cpl, sel & 3U) > desc_dpl(d))
        return desc_raise(cpu, EXC_GP, sel, 0);
    if (desc_type(d) == DESC_TASK) {
        if (!desc_present(d))
            return desc_raise(cpu, EXC_NP, sel, 0);
        sel = task_gate_selector(d);
    }
    return task_switch(cpu, call ? TASK_CALL : TASK_JUMP, sel, &old);
}

static int resolve(struct soft_cpu *cpu, const struct insn *insn, bool call, struct far_target *target)
{
    uint16_t sel;
    struct desc d;
    int result = read_pointer(cpu, insn, &sel, &target->rip);

    target->size = insn->opsize;
    target->params = 0;
    target->task = false;
    if (result != SOFT_OK)
        return result;
    if (!cpu->protected_mode)
        return resolve_real(cpu, sel, target);
    if (sel_is_null(sel))
        return soft_raise_err(cpu, EXC_GP, 0);
    result = desc_get(cpu, sel, EXC_GP, 0, &d);
    if (result != SOFT_OK)
        return result;
    if (desc_is_code(&d))
        return resolve_code(cpu, &d, sel, target);
    switch (desc_type(&d)) {
    case DESC_CALL: return resolve_gate(cpu, &d, sel, call, target);
    case DESC_CALL16:
        if (!cpu->long_mode)
            return resolve_gate(cpu, &d, sel, call, target);
        break;
    case DESC_TSS16:
    case DESC_TSS:
    case DESC_TASK:
        if (!cpu->long_mode) {
            target->task = true;
            return far_task(cpu, &d, sel, call);
        }
        break;
    default: break;
    }
    return desc_raise(cpu, EXC_GP, sel, 0);
}

/* ZYDIS_MNEMONIC_JMP, where sys_is_far() */
int sys_jmp_far(struct soft_cpu *cpu, const struct insn *insn)
{
    struct far_target target;
    int result = resolve(cpu, insn, false, &target);

    if (result == SOFT_OK && !target.task)
        commit(cpu, &target);
    return result;
}

/* A call gate to an inner ring: its stack gets the caller's SS:RSP, the parameters and the return address. */
static int call_inwards(struct soft_cpu *cpu, const struct far_target *target)
{
    uint64_t frame[FRAME_MAX];
    uint64_t params[32];
    unsigned n = 0;
    struct frame_stack stack;
    int result = frame_ring(cpu, target->cs.sel & 3, 0, &stack);

    if (result == SOFT_OK)
        result = frame_peek(cpu, 0, target->size, params, target->params);
    if (result != SOFT_OK)
        return result;
    frame[n++] = cpu->seg[SEG_SS].sel;
    frame[n++] = cpu->gpr[GPR_RSP];
    for (unsigned i = target->params; i > 0; i--)
        frame[n++] = params[i - 1];
    frame[n++] = cpu->seg[SEG_CS].sel;
    frame[n++] = cpu->next_rip;
    result = frame_push(cpu, &stack, target->size, frame, n);
    if (result != SOFT_OK)
        return result;
    cpu->seg[SEG_SS] = stack.ss;
    cpu->gpr[GPR_RSP] = stack.sp;
    commit(cpu, target);
    return SOFT_OK;
}

/* ZYDIS_MNEMONIC_CALL, where sys_is_far() */
int sys_call_far(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t frame[] = {cpu->seg[SEG_CS].sel, cpu->next_rip};
    struct far_target target;
    struct frame_stack stack;
    int result = resolve(cpu, insn, true, &target);

    if (result != SOFT_OK || target.task)
        return result;
    if (cpu->protected_mode && (target.cs.sel & 3) < cpu->cpl)
        return call_inwards(cpu, &target);
    frame_current(cpu, 0, &stack);
    if (target.size == 8)
        stack.bits = 64; /* a gate's, from compatibility mode too */
    result = frame_push(cpu, &stack, target.size, frame, ARRAY_SIZE(frame));
    if (result != SOFT_OK)
        return result;
    cpu->gpr[GPR_RSP] = stack.sp;
    commit(cpu, &target);
    return SOFT_OK;
}

/* --- interrupts and exceptions that instructions ask for --- */

static int software_interrupt(struct soft_cpu *cpu, uint8_t vector)
{
    struct soft_exception e = {.vector = vector};

    return soft_deliver(cpu, EVENT_SOFTWARE_INT, &e);
}

/* ZYDIS_MNEMONIC_INT */
int sys_int(struct soft_cpu *cpu, const struct insn *insn)
{
    return software_interrupt(cpu, (uint8_t)insn->op[0].imm);
}

/* ZYDIS_MNEMONIC_INT3 */
int sys_int3(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return software_interrupt(cpu, EXC_BP);
}

/* ZYDIS_MNEMONIC_INT1 */
int sys_int1(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return event_int1(cpu);
}

/* ZYDIS_MNEMONIC_INTO; decoding refuses it in 64-bit mode */
int sys_into(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return cpu->rflags & FLAG_OF ? software_interrupt(cpu, EXC_OF) : SOFT_OK;
}

/* ZYDIS_MNEMONIC_BOUND; decoding refuses it in 64-bit mode */
int sys_bound(struct soft_cpu *cpu, const struct insn *insn)
{
    unsigned size = insn->opsize;
    uint64_t ea = soft_ea(cpu, insn);
    uint64_t index = cpu->gpr[insn->op[0].reg];
    uint64_t lower;
    uint64_t upper;
    int result = soft_load(cpu, insn->mem.seg, ea, size, &lower);

    if (result == SOFT_OK)
        result = soft_load(cpu, insn->mem.seg, truncate(ea + size, insn->addrsize), size, &upper);
    if (result != SOFT_OK)
        return result;
    bool outside = size == 2 ? (int16_t)index < (int16_t)lower || (int16_t)index > (int16_t)upper
                             : (int32_t)index < (int32_t)lower || (int32_t)index > (int32_t)upper;
    return outside ? soft_raise(cpu, EXC_BR) : SOFT_OK;
}

/* ZYDIS_MNEMONIC_UD0, UD1, UD2 */
int sys_ud(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return soft_raise(cpu, EXC_UD);
}
