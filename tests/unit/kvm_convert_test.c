/* The state of a vCPU as KVM's structs and back: every register comes through, and special states mean the same on both sides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "engine/kvm/state.h"

#define SEED 0x57a7e

static void fill(void *p, size_t len)
{
    uint8_t *bytes = p;

    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)rand();
}

static void registers_come_through(void **state)
{
    struct cpu_state from = {0}, to = {0};
    struct kvm_regs regs;

    (void)state;
    srand(SEED);
    fill(from.gpr, sizeof(from.gpr));
    from.rip = 0xffffffff81000000;
    from.rflags = FLAG_IF | FLAG_ZF | FLAG_ONE;
    state_to_regs(&from, &regs);
    assert_true(regs.rsp == from.gpr[GPR_RSP] && regs.rdi == from.gpr[GPR_RDI] && regs.r15 == from.gpr[GPR_R15]);
    state_from_regs(&to, &regs);
    assert_memory_equal(&to, &from, sizeof(to));
}

static void assert_segment(const struct cpu_seg *a, const struct cpu_seg *b)
{
    assert_true(a->base == b->base && a->limit == b->limit && a->attr == b->attr && a->sel == b->sel);
}

static void segments_and_control_registers_come_through(void **state)
{
    struct cpu_state from = {0}, to = {0};
    struct kvm_sregs sregs;

    (void)state;
    cpu_state_long64(&from, 0x1000000, 0x9000, 0x8000, 0x1f);
    from.seg[SEG_FS].base = 0x7f0011223344;
    from.seg[SEG_CS].attr |= 3U << SEG_DPL_SHIFT | SEG_AVL;
    from.cr2 = 5;
    from.cr8 = 9;
    from.apic_base |= BIT(10);
    state_to_sregs(&from, &sregs);
    assert_int_equal(sregs.cs.l, 1);
    assert_int_equal(sregs.cs.dpl, 3);
    assert_int_equal(sregs.cs.type, 11);
    assert_int_equal(sregs.ldt.unusable, 1);
    assert_int_equal(sregs.tr.type, 11);
    state_from_sregs(&to, &sregs);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        assert_segment(&to.seg[i], &from.seg[i]);
    assert_segment(&to.tr, &from.tr);
    assert_segment(&to.ldtr, &from.ldtr);
    assert_true(to.gdtr.base == 0x8000 && to.gdtr.limit == 0x1f && to.idtr.limit == from.idtr.limit);
    assert_true(to.cr0 == from.cr0 && to.cr2 == 5 && to.cr3 == 0x9000 && to.cr4 == from.cr4 && to.cr8 == 9 && to.efer == from.efer &&
                to.apic_base == from.apic_base);
}

static void debug_registers_come_through(void **state)
{
    struct cpu_state from = {.dr = {1, 2, 3, 4}, .dr6 = DR6_FIXED | 1, .dr7 = DR7_FIXED | 3}, to = {0};
    struct kvm_debugregs debugregs;

    (void)state;
    state_to_debugregs(&from, &debugregs);
    state_from_debugregs(&to, &debugregs);
    assert_memory_equal(&to, &from, sizeof(to));
}

static void events_come_through(void **state)
{
    struct cpu_state from = {0}, to = {0};
    struct kvm_vcpu_events events = {.flags = KVM_VCPUEVENT_VALID_PAYLOAD};
    struct kvm_mp_state mp;

    (void)state;
    from.halted = from.nmi_pending = from.nmi_masked = from.interrupt_shadow = true;
    from.exception = (struct cpu_exception){
        .pending = true, .has_error = true, .has_payload = true, .vector = EXC_PF, .error = 6, .payload = 77};
    from.interrupt_injected = true;
    from.interrupt_vector = 0x31;
    state_to_events(&from, &events, &mp);
    assert_int_equal(mp.mp_state, KVM_MP_STATE_HALTED);
    assert_true(events.flags & KVM_VCPUEVENT_VALID_NMI_PENDING && events.flags & KVM_VCPUEVENT_VALID_SHADOW);
    state_from_events(&to, &events, &mp);
    assert_memory_equal(&to, &from, sizeof(to));
}

/* pending of an exception without KVM_CAP_EXCEPTION_PAYLOAD is a byte of padding. */
static void a_kvm_without_payloads_is_told_none(void **state)
{
    struct cpu_state s = {.exception = {.pending = true, .has_payload = true, .vector = EXC_PF}};
    struct kvm_vcpu_events events = {0};
    struct kvm_mp_state mp;

    (void)state;
    state_to_events(&s, &events, &mp);
    assert_int_equal(events.flags & KVM_VCPUEVENT_VALID_PAYLOAD, 0);
    assert_int_equal(events.exception.pending, 0);
    assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
    events.exception.pending = 1;
    state_from_events(&s, &events, &mp);
    assert_false(s.exception.pending);
}

static void a_processor_that_waits_is_one_whether_init_came_or_not(void **state)
{
    static const uint32_t waiting[] = {KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED};
    struct kvm_vcpu_events events = {0};
    struct kvm_mp_state mp;
    struct cpu_state s;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        mp.mp_state = waiting[i];
        state_from_events(&s, &events, &mp);
        assert_true(s.wait_for_sipi && !s.halted);
    }
    cpu_state_reset_ap(&s);
    state_to_events(&s, &events, &mp);
    assert_int_equal(mp.mp_state, KVM_MP_STATE_INIT_RECEIVED);
    assert_int_equal(s.apic_base & BIT(8), 0); /* not the boot processor */
}

static uint32_t lapic_register(const struct kvm_lapic_state *k, unsigned offset)
{
    uint32_t value;

    memcpy(&value, k->regs + offset, sizeof(value));
    return value;
}

static void a_state_without_a_local_apic_resets_it(void **state)
{
    struct kvm_lapic_state k;
    struct cpu_state s;

    (void)state;
    cpu_state_reset(&s);
    state_to_lapic(&s, &k, 0);
    assert_int_equal(lapic_register(&k, 0x350), 0x700); /* LINT0 of the boot processor: ExtINT */
    assert_int_equal(lapic_register(&k, 0x360), 0x10000);
    assert_int_equal(lapic_register(&k, 0xf0), 0xff);
    state_to_lapic(&s, &k, 3);
    assert_int_equal(lapic_register(&k, 0x350), 0x10000);
    assert_int_equal(lapic_register(&k, 0x20), 3U << 24);
}

static void the_local_apic_comes_through_in_either_mode(void **state)
{
    struct kvm_lapic_state k = {{0}};
    struct cpu_state s;

    (void)state;
    for (unsigned x2apic = 0; x2apic < 2; x2apic++) {
        cpu_state_reset(&s);
        s.apic_base |= x2apic ? BIT(10) : 0;
        for (unsigned slot = 0; slot < 64; slot++)
            s.lapic[slot] = slot * 3 + 1;
        state_to_lapic(&s, &k, 5);
        state_from_lapic(&s, &k, 5);
        for (unsigned slot = 0; slot < 64; slot++)
            assert_int_equal(s.lapic[slot], slot == 2 ? (x2apic ? 5 : 5U << 24) : slot * 3 + 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers_come_through),
        cmocka_unit_test(segments_and_control_registers_come_through),
        cmocka_unit_test(debug_registers_come_through),
        cmocka_unit_test(events_come_through),
        cmocka_unit_test(a_kvm_without_payloads_is_told_none),
        cmocka_unit_test(a_processor_that_waits_is_one_whether_init_came_or_not),
        cmocka_unit_test(a_state_without_a_local_apic_resets_it),
        cmocka_unit_test(the_local_apic_comes_through_in_either_mode),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
