/* The local APIC: accepting, prioritizing and delivering interrupts; IPIs and messages (SDM vol. 3 11). */
#include "engine/soft/lapic.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/soft/lapic_state.h"
#include "engine/soft/ram.h"

#define RESET_VECTOR 0xfffffff0ULL

int lapic_init(struct soft_cpu *cpu, struct err *e)
{
    struct soft_lapic *l = calloc(1, sizeof(*l));
    int rc;

    if (!l)
        return err_set(e, ENOMEM, "out of memory for a local APIC");
    l->cpu = cpu;
    rc = lapic_timer_init(l, e);
    if (rc < 0) {
        free(l);
        return rc;
    }
    cpu->lapic = l;
    lapic_reset(cpu);
    return 0;
}

void lapic_fini(struct soft_cpu *cpu)
{
    if (!cpu->lapic)
        return;
    lapic_timer_fini(cpu->lapic);
    free(cpu->lapic);
    cpu->lapic = NULL;
}

static bool is_bsp(const struct soft_cpu *cpu)
{
    return cpu->vcpu->index == 0;
}

static void reset_registers(struct soft_lapic *l)
{
    for (unsigned i = 0; i < 4; i++) {
        atomic_store(&l->irr[i], 0);
        atomic_store(&l->tmr[i], 0);
        l->isr[i] = 0;
    }
    atomic_store(&l->tpr, 0);
    atomic_store(&l->ldr, 0);
    atomic_store(&l->dfr, UINT32_MAX);
    atomic_store(&l->svr, 0xff);
    for (unsigned i = 0; i < LVT_COUNT; i++)
        atomic_store(&l->lvt[i], LVT_MASKED);
    if (is_bsp(l->cpu))
        atomic_store(&l->lvt[LVT_LINT0], DELIVER_EXTINT << 8);
    atomic_store(&l->esr_pending, 0);
    l->esr = 0;
    l->icr = l->icr_high = 0;
    lapic_timer_reset(l);
}

void lapic_reset(struct soft_cpu *cpu)
{
    reset_registers(cpu->lapic);
    atomic_store(&cpu->lapic->init_pending, false);
    atomic_store(&cpu->lapic->sipi_vector, -1);
}

/* --- modes; other threads ask too --- */

static uint64_t apic_base(const struct soft_cpu *cpu)
{
    return __atomic_load_n(&cpu->apic_base, __ATOMIC_RELAXED);
}

bool lapic_is_enabled(const struct soft_cpu *cpu)
{
    return apic_base(cpu) & APIC_BASE_ENABLE;
}

bool lapic_is_x2apic(const struct soft_cpu *cpu)
{
    return lapic_is_enabled(cpu) && (apic_base(cpu) & APIC_BASE_X2APIC);
}

/* In x2APIC mode it follows from the id (11.12.10.2). */
uint32_t lapic_ldr(const struct soft_lapic *l)
{
    uint32_t id = l->cpu->vcpu->apic_id;

    if (!lapic_is_x2apic(l->cpu))
        return atomic_load(&l->ldr);
    return (id & ~15U) << 12 | 1U << (id & 15);
}

/* --- vectors in their 256-bit registers --- */

static int highest(const uint64_t *words)
{
    for (int i = 3; i >= 0; i--)
        if (words[i])
            return i * 64 + 63 - __builtin_clzll(words[i]);
    return -1;
}

static int highest_requested(const struct soft_lapic *l)
{
    for (int i = 3; i >= 0; i--) {
        uint64_t word = atomic_load_explicit(&l->irr[i], memory_order_acquire);

        if (word)
            return i * 64 + 63 - __builtin_clzll(word);
    }
    return -1;
}

uint8_t lapic_ppr(const struct soft_lapic *l) /* 11.8.3.1 */
{
    uint8_t tpr = (uint8_t)atomic_load_explicit(&l->tpr, memory_order_relaxed);
    int in_service = highest(l->isr);
    uint8_t class = in_service < 0 ? 0 : in_service & 0xf0;

    return (tpr & 0xf0) >= class ? tpr : class;
}

/* --- arrival --- */

/* The target's thread has work. Its kick goes through libc, hence the parking. */
static void notify(struct soft_cpu *target, struct soft_cpu *self)
{
    const struct vcpu *vcpu = target->vcpu;

    soft_want_attention(target);
    if (self == target)
        return;
    if (self)
        soft_vec_park(self);
    /* A device that runs on the target's own thread: there is nobody to wake. */
    else if (vcpu->thread_started && pthread_equal(vcpu->thread, pthread_self()))
        return;
    target->svm->vm->engine->kick(target->vcpu);
}

static bool accept_fixed(struct soft_lapic *l, uint8_t vector, bool level, struct soft_cpu *self)
{
    if (!lapic_is_enabled(l->cpu) || !(atomic_load(&l->svr) & SVR_ENABLE))
        return false;
    if (vector < 16) {
        lapic_error(l, ESR_RECEIVE_ILLEGAL, self);
        return true;
    }
    /* TMR first: whoever takes the vector out of IRR looks at it. */
    if (level)
        atomic_fetch_or(&l->tmr[vector / 64], BIT(vector % 64));
    else
        atomic_fetch_and(&l->tmr[vector / 64], ~BIT(vector % 64));
    atomic_fetch_or(&l->irr[vector / 64], BIT(vector % 64));
    notify(l->cpu, self);
    return true;
}

static bool accept_message(struct soft_lapic *l, const struct lapic_message *m, struct soft_cpu *self)
{
    switch (m->delivery) {
    case DELIVER_FIXED:
    case DELIVER_LOWEST: return accept_fixed(l, m->vector, m->level_triggered, self);
    case DELIVER_NMI: atomic_store(&l->cpu->nmi_pending, true); break;
    case DELIVER_INIT:
        atomic_store(&l->sipi_vector, -1); /* in this order: a SIPI that follows stays */
        atomic_store(&l->init_pending, true);
        break;
    case DELIVER_STARTUP: atomic_store(&l->sipi_vector, m->vector); break;
    default: /* there is no SMM; the 8259 has a line of its own; 3 is reserved */ return false;
    }
    notify(l->cpu, self);
    return true;
}

void lapic_local(struct soft_lapic *l, enum lapic_lvt which, struct soft_cpu *self)
{
    uint32_t lvt = atomic_load(&l->lvt[which]);
    struct lapic_message m = {.vector = (uint8_t)lvt, .delivery = DELIVERY(lvt)};

    if ((lvt & LVT_MASKED) || m.delivery == DELIVER_STARTUP)
        return;
    accept_message(l, &m, self);
}

void lapic_error(struct soft_lapic *l, uint32_t bits, struct soft_cpu *self)
{
    uint32_t lvt = atomic_load(&l->lvt[LVT_ERROR]);

    /*
     * Only a new kind of error interrupts; an illegal vector in the error entry itself must not come back
     * here.
     */
    if (!(~atomic_fetch_or(&l->esr_pending, bits) & bits) || (lvt & LVT_MASKED) || (uint8_t)lvt < 16)
        return;
    accept_fixed(l, (uint8_t)lvt, false, self);
}

/* --- sending --- */

static bool is_named(const struct soft_lapic *l, const struct lapic_message *m)
{
    uint32_t ldr, dest = m->dest;

    if (dest == (m->wide ? UINT32_MAX : 0xff))
        return true;
    if (!m->logical)
        return dest == l->cpu->vcpu->apic_id;
    ldr = lapic_ldr(l);
    if (lapic_is_x2apic(l->cpu))
        return dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff);
    ldr >>= 24;
    if (atomic_load(&l->dfr) >> 28 == 0xf) /* flat model */
        return dest & ldr & 0xff;
    return (dest >> 4 == ldr >> 4 || dest >> 4 == 0xf) && (dest & ldr & 0xf);
}

static bool is_target(const struct soft_cpu *cpu, const struct lapic_message *m, const struct soft_cpu *self)
{
    if (!lapic_is_enabled(cpu))
        return false;
    if (m->to_self)
        return cpu == self;
    if (m->to_all)
        return !(m->but_self && cpu == self);
    return is_named(cpu->lapic, m);
}

/* Lowest priority: the target with the lowest task priority; among equals the vector spreads them. */
static bool send_lowest(struct soft_vm *svm, const struct lapic_message *m, struct soft_cpu *self)
{
    struct soft_lapic *best = NULL;

    for (unsigned i = 0; i < svm->cpu_count; i++) {
        struct soft_cpu *cpu = svm->cpus[(i + m->vector) % svm->cpu_count];

        if (is_target(cpu, m, self) && (atomic_load(&cpu->lapic->svr) & SVR_ENABLE) &&
            (!best || atomic_load(&cpu->lapic->tpr) >> 4 < atomic_load(&best->tpr) >> 4))
            best = cpu->lapic;
    }
    return best && accept_message(best, m, self);
}

bool lapic_send(struct soft_vm *svm, const struct lapic_message *m, struct soft_cpu *self)
{
    bool accepted = false;

    if (m->delivery == DELIVER_LOWEST)
        return send_lowest(svm, m, self);
    for (unsigned i = 0; i < svm->cpu_count; i++)
        if (is_target(svm->cpus[i], m, self))
            accepted |= accept_message(svm->cpus[i]->lapic, m, self);
    return accepted;
}

int lapic_msi(struct soft_vm *svm, uint64_t addr, uint32_t data)
{
    struct lapic_message m = {
        .vector = (uint8_t)data,
        .delivery = DELIVERY(data),
        .level_triggered = data & BIT(15),
        .logical = addr & BIT(2),
        .dest = addr >> 12 & 0xff,
    };

    if (addr >> 20 != APIC_BASE_DEFAULT >> 20)
        return -EINVAL;
    /* The redirection hint asks for one processor of the group (10.11.1). */
    if ((addr & BIT(3)) && m.logical && m.delivery == DELIVER_FIXED)
        m.delivery = DELIVER_LOWEST;
    if (m.delivery == DELIVER_STARTUP) /* reserved in messages */
        return -EINVAL;
    return lapic_send(svm, &m, NULL) ? 0 : -ENOENT;
}

void lapic_extint(struct soft_vm *svm, bool level)
{
    struct soft_lapic *l = svm->cpus[0]->lapic;
    uint32_t lvt = atomic_load(&l->lvt[LVT_LINT0]);
    bool before = __atomic_exchange_n(&svm->extint_level, level, __ATOMIC_SEQ_CST);

    if (!level || before)
        return;
    if (!lapic_is_enabled(l->cpu) || DELIVERY(lvt) == DELIVER_EXTINT)
        notify(l->cpu, NULL);
    else
        lapic_local(l, LVT_LINT0, NULL); /* e.g. Linux's "virtual wire" timer: fixed, by the edge */
}

/* --- delivery to the vCPU; its thread --- */

static bool extint_waits(const struct soft_lapic *l)
{
    const struct soft_cpu *cpu = l->cpu;
    uint32_t lvt;

    if (!is_bsp(cpu) || !__atomic_load_n(&cpu->svm->extint_level, __ATOMIC_SEQ_CST))
        return false;
    if (!lapic_is_enabled(cpu)) /* the pin is the processor's INTR then (11.4.3) */
        return true;
    lvt = atomic_load_explicit(&l->lvt[LVT_LINT0], memory_order_relaxed);
    return !(lvt & LVT_MASKED) && DELIVERY(lvt) == DELIVER_EXTINT;
}

static int pending_vector(const struct soft_lapic *l)
{
    int vector;

    if (!lapic_is_enabled(l->cpu))
        return -1;
    vector = highest_requested(l);
    return vector >> 4 > lapic_ppr(l) >> 4 ? vector : -1;
}

int lapic_pending(struct soft_cpu *cpu)
{
    return extint_waits(cpu->lapic) ? LAPIC_EXTINT : pending_vector(cpu->lapic);
}

int lapic_take(struct soft_cpu *cpu)
{
    const struct vm_irqchip *chip = &cpu->svm->vm->irqchip;
    struct soft_lapic *l = cpu->lapic;
    int vector;

    if (extint_waits(l) && chip->extint_ack) {
        soft_vec_park(cpu);
        vector = chip->extint_ack(chip->opaque);
        if (vector >= 0)
            return vector;
    }
    vector = pending_vector(l);
    if (vector < 0)
        return -1;
    l->isr[vector / 64] |= BIT(vector % 64);
    atomic_fetch_and(&l->irr[vector / 64], ~BIT(vector % 64));
    return vector;
}

void lapic_recheck(struct soft_lapic *l)
{
    if (pending_vector(l) >= 0)
        soft_want_attention(l->cpu);
}

void lapic_eoi(struct soft_lapic *l)
{
    const struct vm_irqchip *chip = &l->cpu->svm->vm->irqchip;
    int vector = highest(l->isr);

    if (vector < 0)
        return;
    l->isr[vector / 64] &= ~BIT(vector % 64);
    if ((atomic_load(&l->tmr[vector / 64]) & BIT(vector % 64)) && chip->eoi) {
        soft_vec_park(l->cpu);
        chip->eoi(chip->opaque, (uint8_t)vector);
    }
    lapic_recheck(l);
}

uint64_t lapic_cr8(const struct soft_cpu *cpu)
{
    return atomic_load_explicit(&cpu->lapic->tpr, memory_order_relaxed) >> 4;
}

void lapic_set_cr8(struct soft_cpu *cpu, uint64_t value)
{
    atomic_store_explicit(&cpu->lapic->tpr, (uint32_t)(value & 0xf) << 4, memory_order_relaxed);
    lapic_recheck(cpu->lapic);
}

/*
 * INIT sends the BSP to the reset vector (9.4.2), where a PC's firmware takes it for a reset of the machine. A machine without
 * firmware has nothing there, so that it is reset at once.
 */
static bool starts_without_firmware(struct soft_cpu *cpu)
{
    if (!is_bsp(cpu) || ram_page(cpu->svm->mem, RESET_VECTOR) != RAM_NO_PAGE)
        return false;
    soft_vec_park(cpu);
    vm_request_end(cpu->svm->vm, VM_END_RESET, 0, "the guest sent INIT to its boot processor, which resets the machine (--no-reboot)");
    return true;
}

static void take_init(struct soft_cpu *cpu)
{
    if (starts_without_firmware(cpu))
        return;
    soft_vec_park(cpu);
    soft_cpu_init_reset(cpu);
    reset_registers(cpu->lapic);
    cpu->halted = false;
    cpu->wait_for_sipi = !is_bsp(cpu);
}

void lapic_service(struct soft_cpu *cpu)
{
    struct soft_lapic *l = cpu->lapic;
    int vector;

    if (atomic_exchange(&l->init_pending, false))
        take_init(cpu);
    vector = atomic_exchange(&l->sipi_vector, -1);
    if (vector < 0 || !cpu->wait_for_sipi) /* ignored unless waited for (9.4.3) */
        return;
    cpu->wait_for_sipi = false;
    cpu->seg[SEG_CS].sel = (uint16_t)(vector << 8);
    cpu->seg[SEG_CS].base = (uint64_t)vector << 12;
    cpu->rip = 0;
    soft_mode_update(cpu);
}
