/* Delivery of exceptions and interrupts through the IVT or the IDT, in every mode (SDM vol. 3 ch. 6). */
#include "engine/soft/sys_event.h"

#include "engine/soft/mmu.h"
#include "engine/soft/sys_desc.h"
#include "engine/soft/sys_frame.h"
#include "engine/soft/sys_task.h"

#define DR6_BD BIT(13)
#define DR7_GD BIT(13)

/* One attempt to deliver one vector. */
struct delivery {
    uint8_t vector;
    bool software; /* INT n, INT3, INTO: the gate's DPL is checked */
    bool has_error;
    uint32_t error;
    uint32_t ext;   /* EXT bit of the error codes of faults met on the way */
    uint64_t rip;   /* return address */
    uint64_t flags; /* image to push */
};

/* An IDT gate's fields. */
struct gate {
    uint64_t offset;
    uint16_t sel;
    uint8_t type; /* five bits, S included */
    uint8_t ist;
};

static int gate_fault(struct soft_cpu *cpu, const struct delivery *d, uint8_t vector)
{
    return soft_raise_err(cpu, vector, d->vector * 8U + 2 + d->ext); /* IDT bit: SDM vol. 3 6.13 */
}

/* Flags on entry to a handler: interrupt gates also mask (SDM vol. 3 6.12.1.3). */
static uint64_t handler_flags(const struct soft_cpu *cpu, bool masks)
{
    return cpu->rflags & ~(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (masks ? FLAG_IF : 0));
}

static void enter_handler(struct soft_cpu *cpu, const struct cpu_seg *cs, const struct frame_stack *stack, uint64_t rip, uint64_t flags)
{
    cpu->seg[SEG_CS] = *cs;
    cpu->seg[SEG_SS] = stack->ss;
    cpu->gpr[GPR_RSP] = stack->sp;
    cpu->rip = cpu->next_rip = rip;
    cpu->rflags = flags;
    soft_mode_update(cpu);
}

/* --- real mode (SDM vol. 3 20.1.4) --- */

static int deliver_real(struct soft_cpu *cpu, const struct delivery *d)
{
    uint32_t vector; /* CS:IP */
    uint64_t frame[] = {d->flags, cpu->seg[SEG_CS].sel, d->rip};
    struct frame_stack stack;

    if (d->vector * 4U + 3 > cpu->idtr.limit)
        return gate_fault(cpu, d, EXC_GP);
    int result = mmu_read(cpu, (uint32_t)(cpu->idtr.base + d->vector * 4U), &vector, 4, MMU_READ);
    if (result != SOFT_OK)
        return result;
    struct cpu_seg cs = seg_real(&cpu->seg[SEG_CS], (uint16_t)(vector >> 16));
    result = seg_check_target(cpu, &cs, vector & 0xffff, d->ext);
    if (result != SOFT_OK)
        return result;
    frame_current(cpu, d->ext, &stack);
    result = frame_push(cpu, &stack, 2, frame, ARRAY_SIZE(frame));
    if (result == SOFT_OK)
        enter_handler(cpu, &cs, &stack, vector & 0xffff, cpu->rflags & ~(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF));
    return result;
}

/* --- protected and long mode --- */

/* Reads and checks the gate as far as it is the same for all types. */
static int read_gate(struct soft_cpu *cpu, const struct delivery *d, struct gate *gate)
{
    unsigned size = cpu->long_mode ? 16 : 8;
    unsigned off = d->vector * size;
    uint64_t raw[2] = {0};
    gva_t gva = cpu->idtr.base + off;

    if (off + size - 1 > cpu->idtr.limit)
        return gate_fault(cpu, d, EXC_GP);
    if (!cpu->long_mode)
        gva = (uint32_t)gva;
    else if (!gva_is_canonical(gva) || !gva_is_canonical(gva + size - 1))
        return gate_fault(cpu, d, EXC_GP);
    int result = mmu_read(cpu, gva, raw, size, MMU_READ | MMU_SUPERVISOR);
    if (result != SOFT_OK)
        return result;
    gate->type = raw[0] >> 40 & 0x1f;
    gate->sel = (uint16_t)(raw[0] >> 16);
    gate->ist = cpu->long_mode ? raw[0] >> 32 & 7 : 0;
    gate->offset = (raw[0] & 0xffff) | (raw[0] >> 32 & 0xffff0000) | raw[1] << 32;

    bool known = gate->type == DESC_INT || gate->type == DESC_TRAP;
    if (!cpu->long_mode) {
        known |= gate->type == DESC_INT16 || gate->type == DESC_TRAP16 || gate->type == DESC_TASK;
        if (gate->type == DESC_INT16 || gate->type == DESC_TRAP16)
            gate->offset &= 0xffff;
    }
    if (!known || (d->software && (raw[0] >> 45 & 3) < cpu->cpl))
        return gate_fault(cpu, d, EXC_GP);
    if (!(raw[0] >> 47 & 1))
        return gate_fault(cpu, d, EXC_NP);
    return SOFT_OK;
}

/* The handler's code segment; its ring is in cs->sel. */
static int load_handler_cs(struct soft_cpu *cpu, const struct delivery *d, const struct gate *gate, struct cpu_seg *cs)
{
    struct desc code;

    if (sel_is_null(gate->sel))
        return soft_raise_err(cpu, EXC_GP, d->ext);
    int result = desc_get(cpu, gate->sel, EXC_GP, d->ext, &code);
    if (result != SOFT_OK)
        return result;
    if (!desc_is_code(&code) || desc_dpl(&code) > cpu->cpl)
        return desc_raise(cpu, EXC_GP, gate->sel, d->ext);
    if (cpu->long_mode && (desc_attr(&code) & (SEG_L | SEG_DB)) != SEG_L)
        return desc_raise(cpu, EXC_GP, gate->sel, d->ext);
    if (!desc_present(&code))
        return desc_raise(cpu, EXC_NP, gate->sel, d->ext);
    unsigned ring = desc_is_conforming(&code) ? cpu->cpl : desc_dpl(&code);
    result = seg_prepare_code(cpu, &code, gate->sel, ring, cs);
    return result != SOFT_OK ? result : seg_check_target(cpu, cs, gate->offset, d->ext);
}

static int choose_stack(struct soft_cpu *cpu, const struct delivery *d, const struct gate *gate, unsigned ring, struct frame_stack *stack)
{
    if (gate->ist) {
        int result = frame_ist(cpu, gate->ist, ring, d->ext, stack);
        if (ring == cpu->cpl)
            stack->ss = cpu->seg[SEG_SS];
        return result;
    }
    if (ring < cpu->cpl)
        return frame_ring(cpu, ring, d->ext, stack);
    frame_current(cpu, d->ext, stack);
    if (cpu->long_mode)
        stack->bits = 64;
    return SOFT_OK;
}

/* A task of its own, which finds the error code on its stack. */
static int deliver_task(struct soft_cpu *cpu, const struct delivery *d, uint16_t sel)
{
    struct task_old old = {.rip = d->rip, .flags = d->flags, .ext = d->ext, .has_error = d->has_error, .error = d->error};

    return task_switch(cpu, TASK_CALL, sel, &old);
}

static int deliver_gate(struct soft_cpu *cpu, const struct delivery *d)
{
    uint64_t frame[6];
    unsigned n = 0;
    unsigned size;
    struct gate gate = {0};
    struct cpu_seg cs;
    struct frame_stack stack;
    int result = read_gate(cpu, d, &gate);

    if (result != SOFT_OK)
        return result;
    if (gate.type == DESC_TASK)
        return deliver_task(cpu, d, gate.sel);
    result = load_handler_cs(cpu, d, &gate, &cs);
    if (result == SOFT_OK)
        result = choose_stack(cpu, d, &gate, cs.sel & 3, &stack);
    if (result != SOFT_OK)
        return result;

    if (cpu->long_mode) {
        size = 8;
        stack.sp &= ~0xfULL; /* SDM vol. 3 6.14.2 */
    } else {
        size = gate.type >= DESC_INT ? 4 : 2;
    }
    if (cpu->long_mode || (cs.sel & 3) < cpu->cpl) {
        frame[n++] = cpu->seg[SEG_SS].sel;
        frame[n++] = cpu->gpr[GPR_RSP];
    }
    frame[n++] = d->flags;
    frame[n++] = cpu->seg[SEG_CS].sel;
    frame[n++] = d->rip;
    if (d->has_error)
        frame[n++] = d->error;
    result = frame_push(cpu, &stack, size, frame, n);
    if (result == SOFT_OK)
        enter_handler(cpu, &cs, &stack, gate.offset, handler_flags(cpu, !(gate.type & 1)));
    return result;
}

static int deliver_once(struct soft_cpu *cpu, const struct delivery *d)
{
    int result = cpu->protected_mode ? deliver_gate(cpu, d) : deliver_real(cpu, d);

    if (result == SOFT_OK) {
        cpu->halted = false;
        cpu->interrupt_shadow = false;
        cpu->mov_ss_shadow = false;
    }
    return result;
}

/* --- which event, and what becomes of a fault on the way --- */

/* Faults push RF set, so that the restarted instruction does not meet its breakpoint again (SDM vol.
 * 3 17.3.1.1). */
static bool pushes_rf(const struct soft_exception *e)
{
    switch (e->vector) {
    case EXC_DB: return e->dr6 & DR6_BD;
    case EXC_NMI:
    case EXC_BP:
    case EXC_OF:
    case EXC_DF:
    case EXC_MC: return false;
    default: return true;
    }
}

/* Registers that change when the exception is recognized, whether or not its delivery succeeds (SDM vol.
 * 3 6.15, #PF). */
static void record_exception(struct soft_cpu *cpu, const struct soft_exception *e)
{
    if (e->vector == EXC_PF) {
        cpu->cr2 = e->cr2;
    } else if (e->vector == EXC_DB) {
        cpu->dr6 |= e->dr6;
        cpu->dr7 &= ~DR7_GD; /* SDM vol. 3 17.2.4 */
    }
    cpu->stats.exceptions[e->vector % ARRAY_SIZE(cpu->stats.exceptions)]++;
}

enum severity { BENIGN, CONTRIBUTORY, PAGE_FAULT };

static enum severity severity_of(uint8_t vector)
{
    switch (vector) {
    case EXC_DE:
    case EXC_TS:
    case EXC_NP:
    case EXC_SS:
    case EXC_GP: return CONTRIBUTORY;
    case EXC_PF: return PAGE_FAULT;
    default: return BENIGN;
    }
}

/* SDM vol. 3 table 6-5: whether a second exception while the first is delivered makes a double fault. */
static bool is_double_fault(uint8_t first, uint8_t second)
{
    enum severity a = severity_of(first);
    enum severity b = severity_of(second);

    return (a == CONTRIBUTORY && b == CONTRIBUTORY) || (a == PAGE_FAULT && b != BENIGN);
}

static struct delivery exception_delivery(const struct soft_cpu *cpu, const struct soft_exception *e)
{
    return (struct delivery){
        .vector = e->vector,
        .has_error = e->has_error,
        .error = e->error,
        .ext = 1,
        .rip = cpu->rip,
        .flags = cpu->rflags | (pushes_rf(e) ? FLAG_RF : 0),
    };
}

/* More than any chain has that ends. A task gate whose task raises #DB as it is entered may raise it for ever, where a CPU hangs. */
#define DELIVERIES 16

/* Delivers an exception, then the one that its delivery raised, until one arrives or the CPU shuts down. */
static int deliver_exceptions(struct soft_cpu *cpu, struct soft_exception e)
{
    for (unsigned n = 0; n < DELIVERIES; n++) {
        struct delivery d = exception_delivery(cpu, &e);

        record_exception(cpu, &e);
        int result = deliver_once(cpu, &d);
        if (result != SOFT_FAULT)
            return result;
        if (e.vector == EXC_DF) /* whatever it was: SDM vol. 3 6.15, #DF */
            break;
        if (is_double_fault(e.vector, cpu->exc.vector)) {
            if (cpu->exc.vector == EXC_PF)
                cpu->cr2 = cpu->exc.cr2;
            e = (struct soft_exception){.vector = EXC_DF, .has_error = true};
        } else {
            e = cpu->exc;
        }
    }
    cpu->exit->reason = VM_EXIT_SHUTDOWN;
    return SOFT_EXIT;
}

/* INT n, INT3, INTO: what goes wrong belongs to the instruction. */
static int deliver_software(struct soft_cpu *cpu, uint8_t vector)
{
    struct delivery d = {.vector = vector, .software = true, .rip = cpu->next_rip, .flags = cpu->rflags};
    int result = deliver_once(cpu, &d);

    if (result == SOFT_OK)
        cpu->stats.software_interrupts++;
    return result;
}

int event_int1(struct soft_cpu *cpu)
{
    struct delivery d = {.vector = EXC_DB, .ext = 1, .rip = cpu->next_rip, .flags = cpu->rflags};
    int result = deliver_once(cpu, &d);

    if (result == SOFT_OK)
        cpu->stats.exceptions[EXC_DB]++;
    return result;
}

int soft_deliver(struct soft_cpu *cpu, enum soft_event event, const struct soft_exception *e)
{
    struct delivery d = {.vector = e->vector, .ext = 1, .rip = cpu->rip, .flags = cpu->rflags};

    switch (event) {
    case EVENT_EXCEPTION: return deliver_exceptions(cpu, *e);
    case EVENT_SOFTWARE_INT: return deliver_software(cpu, e->vector);
    case EVENT_NMI:
        cpu->nmi_masked = true; /* SDM vol. 3 6.7.1 */
        cpu->stats.nmis++;
        d.vector = EXC_NMI;
        break;
    case EVENT_EXTERNAL: cpu->stats.interrupts++; break;
    }
    int result = deliver_once(cpu, &d);
    return result == SOFT_FAULT ? deliver_exceptions(cpu, cpu->exc) : result; /* interrupts are benign: one after the other */
}
