/* The local APIC: priorities, delivery modes, destinations, timer and mode changes (SDM vol. 3 ch. 11). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "engine/soft/kvmclock.h"
#include "engine/soft/lapic_state.h"
#include "engine/soft/mmu.h"
#include "engine/soft/tsc.h"

#define CPUS 4

struct fixture {
    struct vm vm;
    struct mem mem;
    struct soft_vm svm;
    struct vcpu vcpu[CPUS];
    struct soft_cpu cpu[CPUS];
    struct engine engine;
};

/* What the LAPIC does to the rest of Umbra. */
static struct {
    uint64_t now_ns;
    struct loop_timer *armed[CPUS]; /* by deadline_ns != 0 */
    unsigned kicks[CPUS];
    unsigned resets[CPUS];
    unsigned flushes;
    unsigned machine_resets;
    int ack_vector;
    uint8_t ended[16];
    unsigned ended_count;
} world;

void soft_vec_park(struct soft_cpu *cpu)
{
    cpu->vec_live = false;
}

void soft_mode_update(struct soft_cpu *cpu)
{
    (void)cpu;
}

void soft_cpu_init_reset(struct soft_cpu *cpu)
{
    world.resets[cpu->vcpu->index]++;
}

void vm_request_end(struct vm *vm, enum vm_end end, int value, const char *text)
{
    (void)vm;
    (void)value;
    (void)text;
    world.machine_resets += end == VM_END_RESET;
}

void mmu_flush_all(struct soft_cpu *cpu)
{
    (void)cpu;
    world.flushes++;
}

uint64_t clock_monotonic_ns(void)
{
    return world.now_ns;
}

void loop_timer_init(struct loop *loop, struct loop_timer *timer, void (*expired)(struct loop_timer *))
{
    timer->loop = loop;
    timer->expired = expired;
    timer->deadline_ns = 0;
    for (unsigned i = 0; i < CPUS; i++)
        if (!world.armed[i]) {
            world.armed[i] = timer;
            break;
        }
}

void loop_timer_set(struct loop_timer *timer, uint64_t deadline_ns)
{
    timer->deadline_ns = deadline_ns;
}

void loop_timer_cancel(struct loop_timer *timer)
{
    timer->deadline_ns = 0;
}

/* Guest time in this test: one tick is one nanosecond. */
uint64_t tsc_guest(const struct soft_cpu *cpu)
{
    return world.now_ns + cpu->tsc_offset;
}

uint64_t tsc_deadline_ns(const struct soft_cpu *cpu, uint64_t value)
{
    return value - cpu->tsc_offset;
}

static void advance(uint64_t ns)
{
    uint64_t end = world.now_ns + ns;

    for (;;) {
        struct loop_timer *next = NULL;

        for (unsigned i = 0; i < CPUS; i++)
            if (world.armed[i] && world.armed[i]->deadline_ns && world.armed[i]->deadline_ns <= end &&
                (!next || world.armed[i]->deadline_ns < next->deadline_ns))
                next = world.armed[i];
        if (!next)
            break;
        world.now_ns = MAX(world.now_ns, next->deadline_ns);
        next->deadline_ns = 0;
        next->expired(next);
    }
    world.now_ns = end;
}

static void kick(struct vcpu *vcpu)
{
    world.kicks[vcpu->index]++;
}

static int ack(void *opaque)
{
    (void)opaque;
    return world.ack_vector;
}

static void eoi(void *opaque, uint8_t vector)
{
    (void)opaque;
    world.ended[world.ended_count++ % 16] = vector;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    memset(&world, 0, sizeof(world));
    world.now_ns = NS_PER_SEC;
    world.ack_vector = -1;
    f->engine.kick = kick;
    f->vm.engine = &f->engine;
    f->vm.irqchip = (struct vm_irqchip){.extint_ack = ack, .eoi = eoi};
    f->svm.vm = &f->vm;
    f->svm.mem = &f->mem;
    f->svm.cpu_count = CPUS;
    for (unsigned i = 0; i < CPUS; i++) {
        f->vcpu[i].vm = &f->vm;
        f->vcpu[i].index = f->vcpu[i].apic_id = i;
        f->cpu[i].svm = &f->svm;
        f->cpu[i].vcpu = &f->vcpu[i];
        f->cpu[i].apic_base = APIC_BASE_DEFAULT | APIC_BASE_ENABLE | (i ? 0 : APIC_BASE_BSP);
        f->svm.cpus[i] = &f->cpu[i];
        assert_int_equal(lapic_init(&f->cpu[i], &e), 0);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < CPUS; i++)
        lapic_fini(&f->cpu[i]);
    free(f);
    return 0;
}

static void enable_all(struct fixture *f)
{
    for (unsigned i = 0; i < CPUS; i++)
        lapic_mmio_write(&f->cpu[i], APIC_SVR, SVR_ENABLE | 0xff);
}

static void enter_x2apic(struct fixture *f)
{
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(lapic_msr_write(&f->cpu[i], MSR_APIC_BASE, f->cpu[i].apic_base | APIC_BASE_X2APIC), SOFT_OK);
}

/* The vCPUs that take vector now, as a bit mask; each ends it. */
static unsigned takers(struct fixture *f, int vector)
{
    unsigned mask = 0;

    for (unsigned i = 0; i < CPUS; i++) {
        if (lapic_pending(&f->cpu[i]) != vector)
            continue;
        assert_int_equal(lapic_take(&f->cpu[i]), vector);
        lapic_eoi(f->cpu[i].lapic);
        mask |= 1U << i;
    }
    return mask;
}

static void ipi(struct fixture *f, unsigned from, uint32_t dest, uint32_t icr)
{
    lapic_mmio_write(&f->cpu[from], APIC_ICR_HIGH, dest << 24);
    lapic_mmio_write(&f->cpu[from], APIC_ICR, icr);
}

static void msi(struct fixture *f, uint8_t vector)
{
    assert_int_equal(lapic_msi(&f->svm, APIC_BASE_DEFAULT, vector), 0);
}

/* --- reset --- */

static void reset_state_is_the_manuals(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < CPUS; i++) {
        assert_int_equal(lapic_mmio_read(&f->cpu[i], APIC_ID), i << 24);
        assert_int_equal(lapic_mmio_read(&f->cpu[i], APIC_VERSION) & 0xff, 0x14);
        assert_int_equal(lapic_mmio_read(&f->cpu[i], APIC_SVR), 0xff);
        assert_int_equal(lapic_mmio_read(&f->cpu[i], APIC_DFR), UINT32_MAX);
        assert_int_equal(lapic_mmio_read(&f->cpu[i], APIC_LDR), 0);
        for (unsigned off = APIC_LVT; off <= APIC_LVT_LAST; off += 16)
            assert_int_equal(lapic_mmio_read(&f->cpu[i], off), off == 0x350 && i == 0 ? 0x700 : 0x10000);
        assert_int_equal(lapic_pending(&f->cpu[i]), -1);
    }
}

static void a_disabled_apic_accepts_nothing_fixed(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(lapic_msi(&f->svm, APIC_BASE_DEFAULT, 0x40), -ENOENT);
    assert_int_equal(lapic_pending(&f->cpu[0]), -1);
    assert_int_equal(lapic_msi(&f->svm, APIC_BASE_DEFAULT, 0x400), 0); /* NMI */
    assert_true(atomic_load(&f->cpu[0].nmi_pending));
}

/* --- priorities --- */

static void higher_classes_nest_and_lower_ones_wait(void **state)
{
    struct fixture *f = *state;
    struct soft_cpu *cpu = &f->cpu[0];

    enable_all(f);
    msi(f, 0x41);
    msi(f, 0x4f);
    assert_int_equal(lapic_take(cpu), 0x4f);
    assert_int_equal(lapic_mmio_read(cpu, APIC_PPR), 0x40);
    assert_int_equal(lapic_pending(cpu), -1); /* 0x41 is of the same class */
    msi(f, 0x50);
    assert_int_equal(lapic_take(cpu), 0x50);
    assert_int_equal(lapic_mmio_read(cpu, APIC_ISR + 0x20), 1U << (0x4f - 0x40) | 1U << 16);
    lapic_mmio_write(cpu, APIC_EOI, 0);
    assert_int_equal(lapic_pending(cpu), -1);
    atomic_store(&cpu->attention, 0);
    lapic_mmio_write(cpu, APIC_EOI, 0);
    assert_int_not_equal(atomic_load(&cpu->attention), 0);
    assert_int_equal(lapic_take(cpu), 0x41);
    assert_int_equal(lapic_take(cpu), -1);
}

static void task_priority_holds_back_its_class_and_below(void **state)
{
    struct fixture *f = *state;
    struct soft_cpu *cpu = &f->cpu[0];

    enable_all(f);
    lapic_mmio_write(cpu, APIC_TPR, 0x45);
    assert_int_equal(lapic_cr8(cpu), 4);
    msi(f, 0x4f);
    assert_int_equal(lapic_pending(cpu), -1);
    assert_int_equal(lapic_take(cpu), -1);
    atomic_store(&cpu->attention, 0);
    lapic_set_cr8(cpu, 3);
    assert_int_not_equal(atomic_load(&cpu->attention), 0);
    assert_int_equal(lapic_mmio_read(cpu, APIC_TPR), 0x30);
    assert_int_equal(lapic_pending(cpu), 0x4f);
}

static void every_vector_arrives_once(void **state)
{
    struct fixture *f = *state;

    enable_all(f);
    for (unsigned v = 16; v < 256; v++) {
        msi(f, (uint8_t)v);
        assert_int_equal(lapic_mmio_read(&f->cpu[0], APIC_IRR + (v / 32) * 16) >> v % 32, 1);
    }
    for (unsigned v = 16; v < 256; v++)
        msi(f, (uint8_t)v); /* the same again is one request */
    for (int v = 255; v >= 16; v--)
        assert_int_equal(takers(f, v), 1);
    assert_int_equal(lapic_pending(&f->cpu[0]), -1);
}

static void only_level_vectors_are_ended_at_the_ioapic(void **state)
{
    struct fixture *f = *state;

    enable_all(f);
    assert_int_equal(lapic_msi(&f->svm, APIC_BASE_DEFAULT, 0x8000 | 0x61), 0);
    msi(f, 0x71);
    assert_int_equal(lapic_mmio_read(&f->cpu[0], APIC_TMR + 0x30), 2);
    assert_int_equal(takers(f, 0x71), 1);
    assert_int_equal(world.ended_count, 0);
    assert_int_equal(takers(f, 0x61), 1);
    assert_int_equal(world.ended_count, 1);
    assert_int_equal(world.ended[0], 0x61);
    msi(f, 0x61); /* now an edge */
    assert_int_equal(takers(f, 0x61), 1);
    assert_int_equal(world.ended_count, 1);
}

static void messages_elsewhere_or_with_bad_vectors_are_refused(void **state)
{
    struct fixture *f = *state;

    enable_all(f);
    assert_int_equal(lapic_msi(&f->svm, 0xfed00000, 0x40), -EINVAL);
    assert_int_equal(lapic_msi(&f->svm, BIT(40) | APIC_BASE_DEFAULT, 0x40), -EINVAL);
    assert_int_equal(lapic_msi(&f->svm, APIC_BASE_DEFAULT | 0x77000, 0x40), -ENOENT);
    lapic_msi(&f->svm, APIC_BASE_DEFAULT, 0x5);
    assert_int_equal(lapic_pending(&f->cpu[0]), -1);
    assert_int_equal(lapic_mmio_read(&f->cpu[0], APIC_ESR), 0); /* a write latches it */
    lapic_mmio_write(&f->cpu[0], APIC_ESR, 0);
    assert_int_equal(lapic_mmio_read(&f->cpu[0], APIC_ESR), ESR_RECEIVE_ILLEGAL);
    lapic_mmio_write(&f->cpu[0], APIC_ESR, 0);
    assert_int_equal(lapic_mmio_read(&f->cpu[0], APIC_ESR), 0);
}

/* --- IPIs --- */

static void physical_destinations_and_shorthands(void **state)
{
    struct fixture *f = *state;

    enable_all(f);
    ipi(f, 0, 2, 0x40);
    assert_int_equal(takers(f, 0x40), 1 << 2);
    assert_int_equal(world.kicks[2], 1);
    ipi(f, 1, 0xff, 0x41);
    assert_int_equal(takers(f, 0x41), 0xf);
    ipi(f, 1, 0, 0x40042); /* self */
    assert_int_equal(takers(f, 0x42), 1 << 1);
    ipi(f, 1, 0, 0x80043); /* all */
    assert_int_equal(takers(f, 0x43), 0xf);
    ipi(f, 1, 0, 0xc0044); /* all but self */
    assert_int_equal(takers(f, 0x44), 0xf & ~(1 << 1));
    ipi(f, 0, 9, 0x45);
    assert_int_equal(takers(f, 0x45), 0);
    assert_int_equal(lapic_mmio_read(&f->cpu[0], APIC_ICR), 0x45); /* idle again */
}

static void logical_destinations_flat_and_cluster(void **state)
{
    struct fixture *f = *state;

    enable_all(f);
    for (unsigned i = 0; i < CPUS; i++)
        lapic_mmio_write(&f->cpu[i], APIC_LDR, 1U << (24 + i));
    ipi(f, 0, 0xa, 0x840);
    assert_int_equal(takers(f, 0x40), 0xa);
    ipi(f, 0, 0xff, 0x840);
    assert_int_equal(takers(f, 0x40), 0xf);
    for (unsigned i = 0; i < CPUS; i++) { /* two clusters of two */
        lapic_mmio_write(&f->cpu[i], APIC_DFR, 0x0fffffff);
        lapic_mmio_write(&f->cpu[i], APIC_LDR, (i / 2) << 28 | 1U << (24 + i % 2));
    }
    ipi(f, 0, 0x12, 0x841);
    assert_int_equal(takers(f, 0x41), 1 << 3);
    ipi(f, 0, 0xf1, 0x841);
    assert_int_equal(takers(f, 0x41), 5);
    ipi(f, 0, 0x23, 0x841);
    assert_int_equal(takers(f, 0x41), 0);
}

static void lowest_priority_picks_one(void **state)
{
    struct fixture *f = *state;

    enable_all(f);
    for (unsigned i = 0; i < CPUS; i++) {
        lapic_mmio_write(&f->cpu[i], APIC_LDR, 1U << (24 + i));
        lapic_mmio_write(&f->cpu[i], APIC_TPR, i == 2 ? 0x10 : 0x20);
    }
    ipi(f, 0, 0xf, 0x940);
    assert_int_equal(takers(f, 0x40), 1 << 2);
    assert_int_equal(lapic_msi(&f->svm, APIC_BASE_DEFAULT | 0xb000 | 0xc, 0x41), 0); /* hint, logical, not 2 */
    assert_int_equal(__builtin_popcount(takers(f, 0x41)), 1);
}

static void init_and_startup_start_a_processor_once(void **state)
{
    struct fixture *f = *state;
    struct soft_cpu *ap = &f->cpu[1];

    enable_all(f);
    ipi(f, 0, 1, 0x0600 | 0x9a); /* SIPI without INIT: ignored */
    lapic_service(ap);
    assert_int_equal(ap->seg[SEG_CS].sel, 0);
    ipi(f, 0, 1, 0xc500);
    assert_true(world.kicks[1] >= 1);
    assert_int_equal(world.resets[1], 0); /* its own thread does it */
    ipi(f, 0, 1, 0x8500);                 /* de-assert: nothing */
    lapic_service(ap);
    assert_int_equal(world.resets[1], 1);
    assert_true(ap->wait_for_sipi);
    assert_int_equal(lapic_mmio_read(ap, APIC_SVR), 0xff);
    ap->rip = 77;
    ipi(f, 0, 1, 0x0600 | 0x9a);
    lapic_service(ap);
    assert_false(ap->wait_for_sipi);
    assert_int_equal(ap->seg[SEG_CS].sel, 0x9a00);
    assert_int_equal(ap->seg[SEG_CS].base, 0x9a000);
    assert_int_equal(ap->rip, 0);
    ipi(f, 0, 1, 0x0600 | 0x55); /* the second SIPI of the usual sequence */
    lapic_service(ap);
    assert_int_equal(ap->seg[SEG_CS].sel, 0x9a00);
    /* Both before the target looks. */
    ipi(f, 0, 2, 0xc500);
    ipi(f, 0, 2, 0x0600 | 0x10);
    lapic_service(&f->cpu[2]);
    assert_int_equal(f->cpu[2].seg[SEG_CS].base, 0x10000);
    assert_int_equal(world.machine_resets, 0);
}

static void init_of_the_boot_processor_resets_a_machine_without_firmware(void **state)
{
    struct fixture *f = *state;

    enable_all(f);
    ipi(f, 1, 0, 0xc500);
    lapic_service(&f->cpu[0]);
    assert_int_equal(world.machine_resets, 1);
    assert_int_equal(world.resets[0], 0);
    assert_false(f->cpu[0].wait_for_sipi);
    lapic_service(&f->cpu[0]);
    assert_int_equal(world.machine_resets, 1);
    assert_int_equal(lapic_msi(&f->svm, APIC_BASE_DEFAULT, 0x500), 0); /* a device's message may say INIT too */
    lapic_service(&f->cpu[0]);
    assert_int_equal(world.machine_resets, 2);
}

static void init_of_the_boot_processor_starts_firmware(void **state)
{
    struct fixture *f = *state;

    f->mem.regions[0] = (struct mem_region){.gpa = 0xffff0000, .size = 0x10000};
    f->mem.region_count = 1;
    enable_all(f);
    ipi(f, 1, 0, 0xc500);
    lapic_service(&f->cpu[0]);
    assert_int_equal(world.machine_resets, 0);
    assert_int_equal(world.resets[0], 1);
    assert_false(f->cpu[0].wait_for_sipi); /* it goes on at once */
}

static void nmi_ipis_and_illegal_vectors(void **state)
{
    struct fixture *f = *state;

    enable_all(f);
    lapic_mmio_write(&f->cpu[0], 0x370, 0xfe); /* the error interrupt */
    ipi(f, 0, 3, 0x400);
    assert_true(atomic_load(&f->cpu[3].nmi_pending));
    ipi(f, 0, 3, 0x0f);
    assert_int_equal(lapic_pending(&f->cpu[3]), -1);
    assert_int_equal(takers(f, 0xfe), 1);
    lapic_mmio_write(&f->cpu[0], APIC_ESR, 0);
    assert_int_equal(lapic_mmio_read(&f->cpu[0], APIC_ESR), ESR_SEND_ILLEGAL);
    lapic_mmio_read(&f->cpu[0], 0x10);
    lapic_mmio_write(&f->cpu[0], APIC_ESR, 0);
    assert_int_equal(lapic_mmio_read(&f->cpu[0], APIC_ESR), ESR_ILLEGAL_REGISTER);
}

/* --- the 8259 --- */

static void extint_passes_through_lint0(void **state)
{
    struct fixture *f = *state;
    struct soft_cpu *cpu = &f->cpu[0];

    world.ack_vector = 0x30;
    lapic_extint(&f->svm, true);
    assert_int_equal(world.kicks[0], 1);
    assert_int_equal(lapic_pending(cpu), LAPIC_EXTINT);
    assert_int_equal(lapic_pending(&f->cpu[1]), -1);
    cpu->vec_live = true;
    assert_int_equal(lapic_take(cpu), 0x30);
    assert_false(cpu->vec_live);
    world.ack_vector = -1;
    assert_int_equal(lapic_take(cpu), -1); /* it went away */
    enable_all(f);
    lapic_mmio_write(cpu, 0x350, 0x10700);
    assert_int_equal(lapic_pending(cpu), -1);
    lapic_extint(&f->svm, false);
    lapic_mmio_write(cpu, 0x350, 0x51); /* fixed: the rising edge */
    lapic_extint(&f->svm, true);
    lapic_extint(&f->svm, true);
    assert_int_equal(takers(f, 0x51), 1);
    assert_int_equal(lapic_pending(cpu), -1);
    /* With the APIC off by its MSR, the line is the processor's own. */
    assert_int_equal(lapic_msr_write(cpu, MSR_APIC_BASE, APIC_BASE_DEFAULT | APIC_BASE_BSP), SOFT_OK);
    assert_int_equal(lapic_pending(cpu), LAPIC_EXTINT);
    assert_int_equal(world.flushes, 1);
}

/* --- timer --- */

static void one_shot_fires_once_and_not_early(void **state)
{
    struct fixture *f = *state;
    struct soft_cpu *cpu = &f->cpu[0];

    enable_all(f);
    lapic_mmio_write(cpu, APIC_DIVIDE, 0xb); /* by 1 */
    lapic_mmio_write(cpu, APIC_LVT, 0x60);
    lapic_mmio_write(cpu, APIC_INITIAL_COUNT, 1000000);
    assert_int_equal(lapic_mmio_read(cpu, APIC_CURRENT_COUNT), 1000000);
    advance(400000);
    assert_int_equal(lapic_mmio_read(cpu, APIC_CURRENT_COUNT), 600000);
    advance(599999);
    assert_int_equal(lapic_pending(cpu), -1);
    advance(1);
    assert_int_equal(takers(f, 0x60), 1);
    assert_int_equal(world.kicks[0], 1);
    assert_int_equal(lapic_mmio_read(cpu, APIC_CURRENT_COUNT), 0);
    advance(NS_PER_SEC);
    assert_int_equal(takers(f, 0x60), 0);
    assert_int_equal(lapic_mmio_read(cpu, APIC_INITIAL_COUNT), 1000000);
    lapic_mmio_write(cpu, APIC_INITIAL_COUNT, 1000000);
    lapic_mmio_write(cpu, APIC_INITIAL_COUNT, 0); /* stops it */
    advance(NS_PER_SEC);
    assert_int_equal(takers(f, 0x60), 0);
}

static void a_shot_that_ends_while_masked_is_lost(void **state)
{
    struct fixture *f = *state;
    struct soft_cpu *cpu = &f->cpu[0];

    enable_all(f);
    lapic_mmio_write(cpu, APIC_DIVIDE, 0xb);
    lapic_mmio_write(cpu, APIC_LVT, 0x10060);
    lapic_mmio_write(cpu, APIC_INITIAL_COUNT, 1000);
    advance(500);
    assert_int_equal(lapic_mmio_read(cpu, APIC_CURRENT_COUNT), 500);
    advance(1000);
    lapic_mmio_write(cpu, APIC_LVT, 0x60);
    advance(1000);
    assert_int_equal(takers(f, 0x60), 0);
    lapic_mmio_write(cpu, APIC_LVT, 0x10060);
    lapic_mmio_write(cpu, APIC_INITIAL_COUNT, 1000);
    advance(500);
    lapic_mmio_write(cpu, APIC_LVT, 0x60); /* in time */
    advance(500);
    assert_int_equal(takers(f, 0x60), 1);
}

static void each_divider_divides(void **state)
{
    static const unsigned by[8] = {2, 4, 8, 16, 32, 64, 128, 1};
    struct fixture *f = *state;
    struct soft_cpu *cpu = &f->cpu[0];

    enable_all(f);
    lapic_mmio_write(cpu, APIC_LVT, 0x60);
    for (unsigned i = 0; i < 8; i++) {
        lapic_mmio_write(cpu, APIC_DIVIDE, (i & 3) | (i & 4) << 1);
        lapic_mmio_write(cpu, APIC_INITIAL_COUNT, 1000);
        advance(1000 * by[i] - 1);
        assert_int_equal(lapic_mmio_read(cpu, APIC_CURRENT_COUNT), 1);
        assert_int_equal(takers(f, 0x60), 0);
        advance(1);
        assert_int_equal(takers(f, 0x60), 1);
    }
}

static void periodic_keeps_its_grid_and_does_not_flood(void **state)
{
    struct fixture *f = *state;
    struct soft_cpu *cpu = &f->cpu[0];

    enable_all(f);
    lapic_mmio_write(cpu, APIC_DIVIDE, 0xb);
    lapic_mmio_write(cpu, APIC_LVT, 0x20061);
    lapic_mmio_write(cpu, APIC_INITIAL_COUNT, 4000000);
    for (unsigned i = 0; i < 5; i++) {
        advance(3999999);
        assert_int_equal(takers(f, 0x61), 0);
        advance(1);
        assert_int_equal(takers(f, 0x61), 1);
    }
    /* The process stood still: the clock jumps and no callback ran. */
    world.now_ns += 4000000ULL * 1000 + 1000000;
    advance(0);
    assert_int_equal(takers(f, 0x61), 1);
    assert_int_equal(world.kicks[0], 6);
    assert_int_equal(lapic_mmio_read(cpu, APIC_CURRENT_COUNT), 3000000);
    advance(2999999);
    assert_int_equal(takers(f, 0x61), 0);
    advance(1);
    assert_int_equal(takers(f, 0x61), 1);
    lapic_mmio_write(cpu, APIC_LVT, 0x30061); /* masked */
    advance(NS_PER_SEC);
    assert_int_equal(takers(f, 0x61), 0);
    /* A period of a nanosecond is not granted. */
    lapic_mmio_write(cpu, APIC_LVT, 0x20061);
    world.kicks[0] = 0;
    lapic_mmio_write(cpu, APIC_INITIAL_COUNT, 1);
    advance(10 * NS_PER_MS);
    assert_in_range(world.kicks[0], 1, 100);
}

static void tsc_deadline_fires_and_clears_itself(void **state)
{
    struct fixture *f = *state;
    struct soft_cpu *cpu = &f->cpu[0];
    uint64_t value, start;

    enable_all(f);
    cpu->tsc_offset = 5000;
    start = tsc_guest(cpu);
    assert_int_equal(lapic_msr_write(cpu, MSR_TSC_DEADLINE, start + 100), SOFT_OK);
    assert_int_equal(lapic_msr_read(cpu, MSR_TSC_DEADLINE, &value), SOFT_OK);
    assert_int_equal(value, 0); /* ignored in another mode */
    lapic_mmio_write(cpu, APIC_LVT, 0x40062);
    lapic_msr_write(cpu, MSR_TSC_DEADLINE, start + 1000);
    lapic_msr_read(cpu, MSR_TSC_DEADLINE, &value);
    assert_int_equal(value, start + 1000);
    advance(999);
    assert_int_equal(takers(f, 0x62), 0);
    advance(1);
    assert_int_equal(takers(f, 0x62), 1);
    lapic_msr_read(cpu, MSR_TSC_DEADLINE, &value);
    assert_int_equal(value, 0);
    world.kicks[0] = 0;
    lapic_msr_write(cpu, MSR_TSC_DEADLINE, 1); /* past: at once, by this thread */
    assert_int_equal(takers(f, 0x62), 1);
    assert_int_equal(world.kicks[0], 0);
    lapic_msr_write(cpu, MSR_TSC_DEADLINE, tsc_guest(cpu) + 1000);
    lapic_msr_write(cpu, MSR_TSC_DEADLINE, 0);
    advance(NS_PER_SEC);
    assert_int_equal(takers(f, 0x62), 0);
    lapic_mmio_write(cpu, APIC_INITIAL_COUNT, 1000); /* ignored in this mode */
    assert_int_equal(lapic_mmio_read(cpu, APIC_INITIAL_COUNT), 0);
    lapic_msr_write(cpu, MSR_TSC_DEADLINE, tsc_guest(cpu) + 1000);
    lapic_mmio_write(cpu, APIC_LVT, 0x62); /* leaving the mode disarms */
    advance(NS_PER_SEC);
    assert_int_equal(takers(f, 0x62), 0);
}

static void disabling_masks_every_lvt(void **state)
{
    struct fixture *f = *state;
    struct soft_cpu *cpu = &f->cpu[0];

    enable_all(f);
    lapic_mmio_write(cpu, APIC_LVT, 0x20060);
    lapic_mmio_write(cpu, APIC_INITIAL_COUNT, 1000000);
    lapic_mmio_write(cpu, APIC_SVR, 0xff);
    for (unsigned off = APIC_LVT; off <= APIC_LVT_LAST; off += 16) {
        assert_int_not_equal(lapic_mmio_read(cpu, off) & 0x10000, 0);
        lapic_mmio_write(cpu, off, 0x60); /* cannot be unmasked now */
        assert_int_not_equal(lapic_mmio_read(cpu, off) & 0x10000, 0);
    }
    advance(NS_PER_SEC);
    assert_int_equal(takers(f, 0x60), 0);
}

/* --- x2APIC --- */

static void modes_change_only_along_the_figure(void **state)
{
    struct fixture *f = *state;
    struct soft_cpu *cpu = &f->cpu[0];
    uint64_t base = APIC_BASE_DEFAULT | APIC_BASE_BSP, value;
    const uint64_t en = APIC_BASE_ENABLE, x2 = APIC_BASE_X2APIC;

    assert_int_equal(lapic_msr_read(cpu, 0x802, &value), SOFT_FAULT);
    assert_int_equal(cpu->exc.vector, EXC_GP);
    assert_int_equal(lapic_msr_write(cpu, MSR_APIC_BASE, base | x2), SOFT_FAULT);
    assert_int_equal(lapic_msr_write(cpu, MSR_APIC_BASE, base | en | 1), SOFT_FAULT);
    assert_int_equal(lapic_msr_write(cpu, MSR_APIC_BASE, base | en | BIT(50)), SOFT_FAULT);
    assert_int_equal(lapic_msr_write(cpu, MSR_APIC_BASE, base | en | x2), SOFT_OK);
    assert_int_equal(lapic_msr_write(cpu, MSR_APIC_BASE, base | en), SOFT_FAULT);
    assert_int_equal(lapic_msr_write(cpu, MSR_APIC_BASE, base), SOFT_OK);
    assert_int_equal(lapic_msr_write(cpu, MSR_APIC_BASE, base | en | x2), SOFT_FAULT);
    assert_int_equal(lapic_msr_write(cpu, MSR_APIC_BASE, base | en), SOFT_OK);
    assert_int_equal(lapic_msr_read(cpu, MSR_APIC_BASE, &value), SOFT_OK);
    assert_int_equal(value, base | en);
}

static void x2apic_registers_and_their_faults(void **state)
{
    struct fixture *f = *state;
    struct soft_cpu *cpu = &f->cpu[3];
    static const uint16_t readable[] = {0x802, 0x803, 0x808, 0x80a, 0x80d, 0x80f, 0x828, 0x830, 0x832,
                                        0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x839, 0x83e}; /* and 0x810 to 0x827 */
    static const uint16_t writable[] = {0x808, 0x80b, 0x80f, 0x828, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x83e, 0x83f};
    uint64_t value;

    enter_x2apic(f);
    for (unsigned msr = 0x800, r = 0, w = 0; msr < 0x900; msr++) {
        bool is_listed = r < ARRAY_SIZE(readable) && readable[r] == msr;
        bool can_read = is_listed || (msr >= 0x810 && msr <= 0x827);
        bool can_write = w < ARRAY_SIZE(writable) && writable[w] == msr;

        r += is_listed;
        w += can_write;
        assert_int_equal(lapic_msr_read(cpu, msr, &value), can_read ? SOFT_OK : SOFT_FAULT);
        assert_int_equal(lapic_msr_write(cpu, msr, 0), can_write ? SOFT_OK : SOFT_FAULT);
        if (can_write && msr != 0x830)
            assert_int_equal(lapic_msr_write(cpu, msr, BIT(33)), SOFT_FAULT);
    }
    lapic_msr_read(cpu, 0x802, &value);
    assert_int_equal(value, 3);
    lapic_msr_read(cpu, 0x80d, &value);
    assert_int_equal(value, 8);
    assert_int_equal(lapic_msr_write(cpu, 0x80b, 1), SOFT_FAULT);
    assert_int_equal(lapic_msr_write(cpu, 0x808, 0x100), SOFT_FAULT);
    assert_int_equal(lapic_msr_write(cpu, 0x830, BIT(20)), SOFT_FAULT);
    assert_int_equal(lapic_msr_write(cpu, 0x80f, 0x1ff), SOFT_OK);
    assert_int_equal(lapic_msr_write(cpu, 0x835, 0x5700), SOFT_OK); /* read-only status bits of LINT0 are not reserved */
    assert_int_equal(lapic_msr_read(cpu, 0x835, &value), SOFT_OK);
    assert_int_equal(value, 0x700);
    assert_int_equal(lapic_msr_write(cpu, 0x837, 0x4000), SOFT_FAULT); /* the error entry has no such bit */
}

static void x2apic_destinations(void **state)
{
    struct fixture *f = *state;

    enter_x2apic(f);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(lapic_msr_write(&f->cpu[i], 0x80f, 0x1ff), SOFT_OK);
    lapic_msr_write(&f->cpu[0], 0x830, 2ULL << 32 | 0x40);
    assert_int_equal(takers(f, 0x40), 1 << 2);
    lapic_msr_write(&f->cpu[0], 0x830, 0xffffffffULL << 32 | 0x40);
    assert_int_equal(takers(f, 0x40), 0xf);
    lapic_msr_write(&f->cpu[0], 0x830, 0xffULL << 32 | 0x40);
    assert_int_equal(takers(f, 0x40), 0);
    lapic_msr_write(&f->cpu[0], 0x830, 5ULL << 32 | 0x840); /* logical, cluster 0 */
    assert_int_equal(takers(f, 0x40), 5);
    lapic_msr_write(&f->cpu[0], 0x830, 0x10005ULL << 32 | 0x840);
    assert_int_equal(takers(f, 0x40), 0);
    lapic_msr_write(&f->cpu[1], 0x83f, 0x44);
    assert_int_equal(takers(f, 0x44), 1 << 1);
    assert_int_equal(lapic_msi(&f->svm, APIC_BASE_DEFAULT | 0x3000, 0x45), 0);
    assert_int_equal(takers(f, 0x45), 1 << 3);
}

/* --- saving --- */

static void a_saved_state_comes_back(void **state)
{
    struct fixture *f = *state;
    struct soft_cpu *cpu = &f->cpu[0];
    static struct cpu_state saved, again;

    enable_all(f);
    lapic_mmio_write(cpu, APIC_DIVIDE, 0xb);
    lapic_mmio_write(cpu, APIC_LVT, 0x60);
    lapic_mmio_write(cpu, APIC_LDR, 0x5000000);
    lapic_mmio_write(cpu, APIC_INITIAL_COUNT, 1000000);
    lapic_mmio_write(cpu, APIC_TPR, 0x20);
    msi(f, 0x55);
    msi(f, 0x91);
    assert_int_equal(lapic_take(cpu), 0x91);
    advance(300000);
    lapic_get_state(cpu, &saved);
    lapic_reset(cpu);
    assert_int_equal(lapic_pending(cpu), -1);
    advance(NS_PER_SEC);
    lapic_set_state(cpu, &saved);
    lapic_get_state(cpu, &again);
    assert_memory_equal(saved.lapic, again.lapic, sizeof(saved.lapic));
    lapic_mmio_write(cpu, APIC_EOI, 0);
    assert_int_equal(takers(f, 0x55), 1);
    advance(699999);
    assert_int_equal(takers(f, 0x60), 0);
    advance(1);
    assert_int_equal(takers(f, 0x60), 1);
    memset(&saved, 0, sizeof(saved)); /* no LAPIC in it */
    lapic_set_state(cpu, &saved);
    assert_int_equal(lapic_mmio_read(cpu, APIC_SVR), 0xff);
}

#define LAPIC_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LAPIC_TEST(reset_state_is_the_manuals),
        LAPIC_TEST(a_disabled_apic_accepts_nothing_fixed),
        LAPIC_TEST(higher_classes_nest_and_lower_ones_wait),
        LAPIC_TEST(task_priority_holds_back_its_class_and_below),
        LAPIC_TEST(every_vector_arrives_once),
        LAPIC_TEST(only_level_vectors_are_ended_at_the_ioapic),
        LAPIC_TEST(messages_elsewhere_or_with_bad_vectors_are_refused),
        LAPIC_TEST(physical_destinations_and_shorthands),
        LAPIC_TEST(logical_destinations_flat_and_cluster),
        LAPIC_TEST(lowest_priority_picks_one),
        LAPIC_TEST(init_and_startup_start_a_processor_once),
        LAPIC_TEST(init_of_the_boot_processor_resets_a_machine_without_firmware),
        LAPIC_TEST(init_of_the_boot_processor_starts_firmware),
        LAPIC_TEST(nmi_ipis_and_illegal_vectors),
        LAPIC_TEST(extint_passes_through_lint0),
        LAPIC_TEST(one_shot_fires_once_and_not_early),
        LAPIC_TEST(a_shot_that_ends_while_masked_is_lost),
        LAPIC_TEST(each_divider_divides),
        LAPIC_TEST(periodic_keeps_its_grid_and_does_not_flood),
        LAPIC_TEST(tsc_deadline_fires_and_clears_itself),
        LAPIC_TEST(disabling_masks_every_lvt),
        LAPIC_TEST(modes_change_only_along_the_figure),
        LAPIC_TEST(x2apic_registers_and_their_faults),
        LAPIC_TEST(x2apic_destinations),
        LAPIC_TEST(a_saved_state_comes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
