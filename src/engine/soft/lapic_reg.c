/* The local APIC's registers as a guest sees them: the xAPIC page, the x2APIC MSRs; and saving them. */
#include "engine/soft/lapic_state.h"
#include "engine/soft/mmu.h"
#include "x86/paging.h"

/*
 * What can be written in an LVT entry (SDM vol. 3 figure 11-8). Bit 12, the delivery status, is always 0
 * here.
 */
static const uint32_t lvt_bits[LVT_COUNT] = {
    [LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PERF] = 0x107ff,
    [LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,   [LVT_ERROR] = 0x100ff,
};

#define LVT_STATUS BIT(12)
#define LVT_REMOTE_IRR BIT(14) /* of LINT0 and LINT1; read-only, and kernels that give up the APIC write a 1 */
#define SVR_BITS 0x3ffU
#define DIVIDE_BITS 0xbU
#define ICR_BITS 0xcdfffU /* shorthand, trigger, level, status, mode, vector */
#define ICR_LEVEL BIT(14)
#define ICR_TRIGGER_LEVEL BIT(15)
#define ICR_LOGICAL BIT(11)
#define ICR_SHORTHAND(icr) (((icr) >> 18) & 3)

static bool is_lvt(unsigned off)
{
    return off >= APIC_LVT && off <= APIC_LVT_LAST;
}

/* 32 of the 256 bits; off is within the register. */
static uint32_t vector_word(const uint64_t word, unsigned off)
{
    return (uint32_t)(word >> (off & 0x10 ? 32 : 0));
}

/* False when there is no such register in this mode. */
static bool reg_read(struct soft_lapic *l, unsigned off, uint32_t *value)
{
    bool x2 = lapic_is_x2apic(l->cpu);
    uint32_t id = l->cpu->vcpu->apic_id;

    if (is_lvt(off)) {
        *value = atomic_load(&l->lvt[(off - APIC_LVT) >> 4]);
        return true;
    }
    if (off >= APIC_ISR && off < APIC_ESR) {
        unsigned word = (off >> 5) & 3;

        *value = vector_word(off < APIC_TMR ? l->isr[word] : off < APIC_IRR ? atomic_load(&l->tmr[word]) : atomic_load(&l->irr[word]), off);
        return true;
    }
    switch (off) {
    case APIC_ID: *value = x2 ? id : id << 24; return true;
    case APIC_VERSION: *value = APIC_VERSION_VALUE; return true;
    case APIC_TPR: *value = atomic_load(&l->tpr); return true;
    case APIC_PPR: *value = lapic_ppr(l); return true;
    case APIC_EOI: *value = 0; return !x2;
    case APIC_LDR: *value = lapic_ldr(l); return true;
    case APIC_DFR: *value = atomic_load(&l->dfr); return !x2;
    case APIC_SVR: *value = atomic_load(&l->svr); return true;
    case APIC_ESR: *value = l->esr; return true;
    case APIC_ICR: *value = l->icr; return true;
    case APIC_ICR_HIGH: *value = l->icr_high; return !x2;
    case APIC_INITIAL_COUNT:
        soft_vec_park(l->cpu);
        *value = l->initial_count; /* written by this thread only */
        return true;
    case APIC_CURRENT_COUNT:
        soft_vec_park(l->cpu);
        *value = lapic_timer_count(l);
        return true;
    case APIC_DIVIDE: *value = l->divide; return true;
    default: return false;
    }
}

static void send_ipi(struct soft_lapic *l)
{
    bool x2 = lapic_is_x2apic(l->cpu);
    unsigned shorthand = ICR_SHORTHAND(l->icr);
    struct lapic_message m;

    soft_vec_park(l->cpu); /* other vCPUs are kicked through libc */
    m = (struct lapic_message){
        .vector = (uint8_t)l->icr,
        .delivery = DELIVERY(l->icr),
        .logical = l->icr & ICR_LOGICAL,
        .wide = x2,
        .dest = x2 ? l->icr_high : l->icr_high >> 24,
        .to_self = shorthand == 1,
        .to_all = shorthand >= 2,
        .but_self = shorthand == 3,
    };
    /* INIT level de-assert set arbitration ids on processors of old; now it does nothing (11.6.1). */
    if (m.delivery == DELIVER_INIT && (l->icr & ICR_TRIGGER_LEVEL) && !(l->icr & ICR_LEVEL))
        return;
    if (m.delivery == DELIVER_EXTINT)
        return;
    if ((m.delivery == DELIVER_FIXED || m.delivery == DELIVER_LOWEST) && m.vector < 16) {
        lapic_error(l, ESR_SEND_ILLEGAL, l->cpu);
        return;
    }
    lapic_send(l->cpu->svm, &m, l->cpu);
}

static void set_svr(struct soft_lapic *l, uint32_t value)
{
    atomic_store(&l->svr, value & SVR_BITS);
    if (value & SVR_ENABLE)
        return;
    for (unsigned i = 0; i < LVT_COUNT; i++) /* 11.4.7.2 */
        if (i != LVT_TIMER)
            atomic_fetch_or(&l->lvt[i], LVT_MASKED);
    lapic_timer_set_lvt(l, atomic_load(&l->lvt[LVT_TIMER]) | LVT_MASKED);
}

static void set_lvt(struct soft_lapic *l, unsigned which, uint32_t value)
{
    value &= lvt_bits[which];
    if (!(atomic_load(&l->svr) & SVR_ENABLE))
        value |= LVT_MASKED;
    if (which == LVT_TIMER)
        lapic_timer_set_lvt(l, value);
    else
        atomic_store(&l->lvt[which], value);
    /* The 8259 may have been waiting for LINT0 to open. */
    if (which == LVT_LINT0)
        soft_want_attention(l->cpu);
}

/* False when there is no such register in this mode. Vectors parked but for TPR, EOI and ICR. */
static bool reg_write(struct soft_lapic *l, unsigned off, uint32_t value)
{
    bool x2 = lapic_is_x2apic(l->cpu);

    switch (off) {
    case APIC_TPR:
        atomic_store(&l->tpr, value & 0xff);
        lapic_recheck(l);
        return true;
    case APIC_EOI: lapic_eoi(l); return true;
    case APIC_ICR:
        l->icr = value & ICR_BITS & ~(uint32_t)LVT_STATUS;
        send_ipi(l);
        return true;
    case APIC_ICR_HIGH: l->icr_high = value; return !x2;
    }
    soft_vec_park(l->cpu);
    if (is_lvt(off)) {
        set_lvt(l, (off - APIC_LVT) >> 4, value);
        return true;
    }
    switch (off) {
    case APIC_ID: /* fixed, as newer processors have it */
    case APIC_VERSION:
    case APIC_PPR:
    case APIC_CURRENT_COUNT: return !x2;
    case APIC_LDR: atomic_store(&l->ldr, value & 0xff000000); return !x2;
    case APIC_DFR: atomic_store(&l->dfr, value | 0x0fffffff); return !x2;
    case APIC_SVR: set_svr(l, value); return true;
    case APIC_ESR: l->esr = atomic_exchange(&l->esr_pending, 0); return true;
    case APIC_INITIAL_COUNT: lapic_timer_set_count(l, value); return true;
    case APIC_DIVIDE: lapic_timer_set_divide(l, value); return true;
    default: return off >= APIC_ISR && off < APIC_ESR && !x2;
    }
}

uint32_t lapic_mmio_read(struct soft_cpu *cpu, unsigned off)
{
    uint32_t value = 0;

    if (!reg_read(cpu->lapic, off & 0xff0, &value))
        lapic_error(cpu->lapic, ESR_ILLEGAL_REGISTER, cpu);
    return value;
}

void lapic_mmio_write(struct soft_cpu *cpu, unsigned off, uint32_t value)
{
    if (!reg_write(cpu->lapic, off & 0xff0, value))
        lapic_error(cpu->lapic, ESR_ILLEGAL_REGISTER, cpu);
}

/* --- MSRs --- */

/* Bits that must be 0 in a write to an x2APIC register (11.12.1.2); everything where it cannot be written. */
static uint64_t x2apic_reserved(unsigned off)
{
    if (is_lvt(off)) {
        unsigned which = (off - APIC_LVT) >> 4;

        return ~(uint64_t)(lvt_bits[which] | LVT_STATUS | (which == LVT_LINT0 || which == LVT_LINT1 ? LVT_REMOTE_IRR : 0));
    }
    switch (off) {
    case APIC_TPR:
    case APIC_SELF_IPI: return ~0xffULL;
    case APIC_EOI:
    case APIC_ESR: return ~0ULL;
    case APIC_SVR: return ~(uint64_t)SVR_BITS;
    case APIC_ICR: return UINT32_MAX & ~(uint64_t)ICR_BITS;
    case APIC_DIVIDE: return ~(uint64_t)DIVIDE_BITS;
    case APIC_INITIAL_COUNT: return ~(uint64_t)UINT32_MAX;
    default: return ~0ULL;
    }
}

static int x2apic_write(struct soft_lapic *l, unsigned off, uint64_t value)
{
    if (value & x2apic_reserved(off))
        return soft_raise_err(l->cpu, EXC_GP, 0);
    if (off == APIC_SELF_IPI) {
        l->icr = (uint32_t)value | 1U << 18;
        send_ipi(l);
        return SOFT_OK;
    }
    if (off == APIC_ICR)
        l->icr_high = value >> 32;
    return reg_write(l, off, (uint32_t)value) ? SOFT_OK : soft_raise_err(l->cpu, EXC_GP, 0);
}

int lapic_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
    struct soft_lapic *l = cpu->lapic;
    unsigned off = (msr - MSR_X2APIC_FIRST) << 4;
    uint32_t low;

    if (msr == MSR_APIC_BASE) {
        *value = cpu->apic_base;
        return SOFT_OK;
    }
    if (msr == MSR_TSC_DEADLINE) {
        soft_vec_park(cpu);
        *value = lapic_timer_deadline(l);
        return SOFT_OK;
    }
    if (!lapic_is_x2apic(cpu) || msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST || !reg_read(l, off, &low))
        return soft_raise_err(cpu, EXC_GP, 0);
    *value = off == APIC_ICR ? (uint64_t)l->icr_high << 32 | low : low;
    return SOFT_OK;
}

static int set_apic_base(struct soft_cpu *cpu, uint64_t value)
{
    uint64_t mode = value & (APIC_BASE_ENABLE | APIC_BASE_X2APIC);
    uint64_t old = cpu->apic_base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC);

    if (value & (PTE_BITS(63, GUEST_PHYS_BITS) | PTE_BITS(7, 0) | BIT(9)))
        return soft_raise_err(cpu, EXC_GP, 0);
    /* Figure 11-27: x2APIC is entered from xAPIC mode and left only to disabled. */
    if (mode == APIC_BASE_X2APIC || (mode == (APIC_BASE_ENABLE | APIC_BASE_X2APIC) && !(old & APIC_BASE_ENABLE)) ||
        (mode == APIC_BASE_ENABLE && (old & APIC_BASE_X2APIC)))
        return soft_raise_err(cpu, EXC_GP, 0);
    __atomic_store_n(&cpu->apic_base, value, __ATOMIC_RELAXED);
    if (!(mode & APIC_BASE_ENABLE) && (old & APIC_BASE_ENABLE)) { /* its state is lost (11.4.3) */
        soft_vec_park(cpu);
        lapic_reset(cpu);
    }
    cpu->stats.flushes[FLUSH_APIC_BASE]++;
    mmu_flush_all(cpu); /* the register page has moved, gone or come */
    soft_want_attention(cpu);
    return SOFT_OK;
}

int lapic_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    if (msr == MSR_APIC_BASE)
        return set_apic_base(cpu, value);
    if (msr == MSR_TSC_DEADLINE) {
        soft_vec_park(cpu);
        lapic_timer_set_deadline(cpu->lapic, value);
        return SOFT_OK;
    }
    if (!lapic_is_x2apic(cpu) || msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST)
        return soft_raise_err(cpu, EXC_GP, 0);
    return x2apic_write(cpu->lapic, (msr - MSR_X2APIC_FIRST) << 4, value);
}

/* --- saving --- */

void lapic_get_state(struct soft_cpu *cpu, struct cpu_state *state)
{
    struct soft_lapic *l = cpu->lapic;

    for (unsigned slot = 0; slot < ARRAY_SIZE(state->lapic); slot++) {
        uint32_t value = 0;

        reg_read(l, slot << 4, &value);
        state->lapic[slot] = value;
    }
    state->lapic[APIC_DFR >> 4] = atomic_load(&l->dfr); /* x2APIC mode hides these two */
    state->lapic[APIC_ICR_HIGH >> 4] = l->icr_high;
    state->tsc_deadline = lapic_timer_deadline(l);
}

static uint64_t slot_pair(const uint32_t *slots, unsigned base, unsigned i)
{
    return slots[(base >> 4) + i * 2] | (uint64_t)slots[(base >> 4) + i * 2 + 1] << 32;
}

void lapic_set_state(struct soft_cpu *cpu, const struct cpu_state *state)
{
    struct soft_lapic *l = cpu->lapic;
    const uint32_t *slots = state->lapic;

    lapic_reset(cpu);
    if (slots[APIC_VERSION >> 4] == 0)
        return;
    for (unsigned i = 0; i < 4; i++) {
        l->isr[i] = slot_pair(slots, APIC_ISR, i);
        atomic_store(&l->tmr[i], slot_pair(slots, APIC_TMR, i));
        atomic_store(&l->irr[i], slot_pair(slots, APIC_IRR, i));
    }
    atomic_store(&l->irr[0], atomic_load(&l->irr[0]) & ~0xffffULL); /* vectors below 16 do not exist */
    atomic_store(&l->tpr, slots[APIC_TPR >> 4] & 0xff);
    if (!lapic_is_x2apic(cpu))
        atomic_store(&l->ldr, slots[APIC_LDR >> 4] & 0xff000000);
    atomic_store(&l->dfr, slots[APIC_DFR >> 4] | 0x0fffffff);
    atomic_store(&l->svr, slots[APIC_SVR >> 4] & SVR_BITS);
    for (unsigned i = 0; i < LVT_COUNT; i++)
        atomic_store(&l->lvt[i], slots[(APIC_LVT >> 4) + i] & lvt_bits[i]);
    l->esr = slots[APIC_ESR >> 4];
    l->icr = slots[APIC_ICR >> 4] & ICR_BITS;
    l->icr_high = slots[APIC_ICR_HIGH >> 4];
    lapic_timer_load(l, slots[APIC_INITIAL_COUNT >> 4], slots[APIC_CURRENT_COUNT >> 4], slots[APIC_DIVIDE >> 4], state->tsc_deadline);
    lapic_recheck(l);
}
