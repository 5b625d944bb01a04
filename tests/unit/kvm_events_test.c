/* The KVM engine: kicks, interrupts from everywhere, eventfds instead of exits and calls, and a debugger. */
#include "kvm_guest.h"

#include <cpuid.h>
#include <sys/eventfd.h>

/* --- kicks, interrupts --- */

/*
 * Those that spin do so with interrupts on: one of the host's does not take a guest with interrupts off out on Bochs, whose VM entry masks it by the
 * guest's IF.
 */
GUEST(spins, "sti\n movb $1, %al\n out %al, $0x80\n 1: jmp 1b");

static void a_kick_takes_a_spinning_guest_out(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    LOAD(f, spins);
    for (unsigned i = 0; i < 200; i++) {
        vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
        if (i == 0)
            wait_told(f);
        usleep(i % 4 * 1000);                    /* long enough to be in the guest, or not */
        vcpu_pause_all(&f->vm, VM_HOLD_MACHINE); /* wherever it is between the two */
    }
    assert_true(exits(f, VM_EXIT_INTR) > 0);
}

GUEST(sleeps, "sti\n movb $1, %al\n out %al, $0x80\n 1: hlt\n jmp 1b");

static void a_message_reaches_a_sleeping_guest(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    LOAD(f, sleeps);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    for (unsigned i = 1; i <= 50; i++) {
        assert_int_equal(engine_kvm.msi(&f->vm, APIC, VECTOR), 0);
        assert_int_equal(wait_told(f), 0x44);
        assert_int_equal(counter(f), i);
    }
    assert_int_equal(engine_kvm.msi(&f->vm, APIC | 9 << 12, VECTOR), -ENOENT); /* there is no CPU 9 */
    assert_int_equal(exits(f, VM_EXIT_EOI), 0);
}

static void an_nmi_reaches_a_sleeping_guest(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    LOAD(f, sleeps);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    assert_int_equal(engine_kvm.nmi(f->vm.vcpus[0]), 0);
    assert_int_equal(wait_told(f), 0x44);
    assert_int_equal(counter(f), 1);
}

static void the_8259_interrupts_a_sleeping_guest(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    LOAD(f, sleeps);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    for (unsigned i = 1; i <= 20; i++) {
        engine_kvm.extint(&f->vm, true);
        assert_int_equal(wait_told(f), 0x44);
        assert_int_equal(counter(f), i);
        assert_int_equal(atomic_load(&f->acks), i);
    }
}

/* With interrupts off first: the line stands, and is taken when the guest lets it. */
GUEST(opens_late,
      "movb $1, %al\n out %al, $0x80\n movl $100000, %ecx\n 1: decl %ecx\n jnz 1b\n movb $2, %al\n out %al, $0x80\n sti\n 2: jmp 2b");

static void the_8259_waits_for_the_interrupt_window(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    LOAD(f, opens_late);
    engine_kvm.extint(&f->vm, true);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    for (unsigned i = 0; i < 3; i++)
        wait_told(f);
    assert_int_equal(atomic_load(&f->first_told[0]), 1);
    assert_int_equal(atomic_load(&f->first_told[1]), 2);
    assert_int_equal(atomic_load(&f->first_told[2]), 0x44);
    assert_int_equal(atomic_load(&f->acks), 1);
}

/* A level-triggered vector's end is reported only where the IOAPIC has it. */
static void ends_of_the_ioapics_vectors_are_reported(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    LOAD(f, sleeps);
    engine_kvm.ioapic_level(&f->vm, 5, APIC, VECTOR | LEVEL_ASSERT);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(engine_kvm.msi(&f->vm, APIC, VECTOR | LEVEL_ASSERT), 0);
        wait_told(f);
        assert_int_equal(atomic_load(&f->eois), i);
        assert_int_equal(atomic_load(&f->eoi_vector), VECTOR);
    }
    engine_kvm.ioapic_level(&f->vm, 5, 0, 0);
    assert_int_equal(engine_kvm.msi(&f->vm, APIC, VECTOR), 0);
    wait_told(f);
    assert_int_equal(atomic_load(&f->eois), 3);
    assert_int_equal(exits(f, VM_EXIT_EOI), 3);
}

static void an_irqfd_interrupts_and_follows_its_route(void **s)
{
    struct fixture *f = *s;
    const struct irqfd_ops *irqfds = engine_kvm.irqfds;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), source;
    uint64_t one = 1;

    SKIP_WITHOUT_KVM();
    LOAD(f, sleeps);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    source = irqfds->add(&f->vm);
    assert_true(source >= 0);
    irqfds->route(&f->vm, source, APIC, VECTOR);
    assert_int_equal(irqfds->commit(&f->vm), 0);
    assert_int_equal(irqfds->connect(&f->vm, source, fd, true), 0);
    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
    wait_told(f);
    assert_int_equal(counter(f), 1);
    assert_int_equal(irqfds->connect(&f->vm, source, fd, false), 0);
    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one)); /* waits in the eventfd */
    assert_int_equal(sem_trywait(&f->told), -1);
    assert_int_equal(irqfds->connect(&f->vm, source, fd, true), 0);
    wait_told(f);
    assert_int_equal(counter(f), 2);
    assert_int_equal(irqfds->connect(&f->vm, source, fd, false), 0);
    irqfds->remove(&f->vm, source);
    close(fd);
}

GUEST(rings, "movw $100, %cx\n 1: movw %cx, %fs:0x40\n loop 1b\n sti\n movb $1, %al\n out %al, $0x80\n 2: jmp 2b");

static void an_ioeventfd_takes_the_place_of_the_exit(void **s)
{
    struct fixture *f = *s;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t count = 0;

    SKIP_WITHOUT_KVM();
    LOAD(f, rings);
    assert_int_equal(engine_kvm.ioeventfd(&f->vm, MMIO + 0x40, fd, true), 0);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
    assert_int_equal(count, 100);
    assert_int_equal(exits(f, VM_EXIT_MMIO), 0);
    stand(f);
    assert_int_equal(engine_kvm.ioeventfd(&f->vm, MMIO + 0x40, fd, false), 0);
    real_mode(&state);
    assert_int_equal(vcpu_set_state(f->vm.vcpus[0], &state, CPU_ALL), 0);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    assert_int_equal(exits(f, VM_EXIT_MMIO), 100);
    close(fd);
}

/* --- a debugger --- */

GUEST(debuggee, "movw $5, %ax\n int3\n movw $6, 0x600\n movw $7, %bx\n nop\n movb $1, %al\n sti\n out %al, $0x80\n 1: jmp 1b");
#define AT_INT3 (CODE + 3)
#define AT_STORE (CODE + 4)
#define AT_LOAD (CODE + 10)
#define AT_NOP (CODE + 13)

static struct vcpu_debug wishes;

static void on_stopped(void *opaque, struct vcpu *vcpu)
{
    struct fixture *f = opaque;

    (void)vcpu;
    sem_post(&f->told);
}

static void debug(struct fixture *f)
{
    assert_int_equal(vcpu_debug(f->vm.vcpus[0], &wishes), 0);
}

/* Goes on until the next stop, and looks at it. */
static void expect_stop(struct fixture *f, enum vcpu_debug_stop why, gva_t rip)
{
    struct vcpu *vcpu = f->vm.vcpus[0];

    vcpu_release(vcpu);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    vcpu_hold_all(&f->vm);
    assert_true(atomic_exchange(&vcpu->debug_stopped, false));
    assert_int_equal(vcpu->debug.debug.stop, why);
    assert_int_equal(vcpu_get_state(vcpu, &state, CPU_GPRS), 0);
    assert_int_equal(state.rip, rip);
}

/* QEMU's TCG, whose guests leave for no INT3 and have no debug registers. */
static bool is_tcg(void)
{
    unsigned a, b, c, d;

    __cpuid(0x40000000, a, b, c, d);
    if (b == 0x54474354)
        print_message("skip the CPU is QEMU's TCG, which does not do it\n");
    return b == 0x54474354;
}

static void start_debuggee(struct fixture *f, uint64_t rip)
{
    LOAD(f, debuggee);
    state.rip = rip;
    assert_int_equal(vcpu_set_state(f->vm.vcpus[0], &state, CPU_ALL), 0);
    f->vm.debugger = (struct vm_debugger){.opaque = f, .stopped = on_stopped};
}

static void single_steps_stop_behind_each_instruction(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    start_debuggee(f, AT_STORE);
    /* Once without steps, which has its pages mapped: on Bochs a step that leaves the guest for a page ends before its instruction. */
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    stand(f);
    start_debuggee(f, AT_STORE);
    wishes = (struct vcpu_debug){.single_step = true};
    debug(f);
    expect_stop(f, DEBUG_STOP_STEP, AT_LOAD);
    expect_stop(f, DEBUG_STOP_STEP, AT_NOP);
    expect_stop(f, DEBUG_STOP_STEP, AT_NOP + 1);
    expect_stop(f, DEBUG_STOP_STEP, AT_NOP + 3);
    assert_int_equal(vcpu_debug(f->vm.vcpus[0], NULL), 0);
    vcpu_release(f->vm.vcpus[0]);
    assert_int_equal(wait_told(f), 1);
}

static void a_debuggers_int3_stops_the_guest(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    if (is_tcg())
        skip();
    start_debuggee(f, CODE);
    wishes = (struct vcpu_debug){.breakpoint_count = 1, .breakpoint = {AT_INT3}};
    debug(f);
    expect_stop(f, DEBUG_STOP_BREAKPOINT, AT_INT3);
}

static void watchpoints_and_hardware_breakpoints_stop_the_guest(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    if (is_tcg())
        skip();
    start_debuggee(f, AT_STORE);
    wishes = (struct vcpu_debug){.point_count = 2, .point = {{0x600, 2, VCPU_DEBUG_WRITE}, {AT_NOP, 1, VCPU_DEBUG_EXECUTE}}};
    debug(f);
    expect_stop(f, DEBUG_STOP_WATCH, AT_LOAD);
    assert_int_equal(f->vm.vcpus[0]->debug.debug.gva, 0x600);
    expect_stop(f, DEBUG_STOP_EXECUTE, AT_NOP);
    assert_int_equal(f->vm.vcpus[0]->debug.debug.point, 1);
}

/* With the wishes as they are the guest's handler is entered once, and comes back behind the instruction. */
static void expect_the_guests_own(struct fixture *f)
{
    f->vm.debugger = (struct vm_debugger){.opaque = f, .stopped = on_stopped};
    debug(f);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f); /* by its handler */
    wait_told(f); /* which came back behind it */
    assert_int_equal(atomic_load(&f->value), 1);
    assert_int_equal(counter(f), 1);
}

static void an_int3_of_the_guests_is_its_own(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    LOAD(f, debuggee);
    set_vector(f, EXC_BP);
    wishes = (struct vcpu_debug){.breakpoint_count = 1, .breakpoint = {AT_NOP}}; /* elsewhere */
    expect_the_guests_own(f);
}

GUEST(icebp, ".byte 0xf1\n sti\n movb $1, %al\n out %al, $0x80\n 1: jmp 1b");

static void an_int1_of_the_guests_is_its_own(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    if (is_tcg())
        skip();
    LOAD(f, icebp);
    set_vector(f, EXC_DB);
    wishes = (struct vcpu_debug){.point_count = 1, .point = {{0x600, 2, VCPU_DEBUG_WRITE}}}; /* elsewhere */
    expect_the_guests_own(f);
}

static void what_the_hardware_cannot_watch_is_refused(void **s)
{
    struct fixture *f = *s;
    static const struct vcpu_debug_point bad[] = {
        {0x600, 2, VCPU_DEBUG_READ}, {0x601, 2, VCPU_DEBUG_WRITE}, {0x600, 3, VCPU_DEBUG_WRITE}, {0x600, 2, VCPU_DEBUG_EXECUTE}};

    SKIP_WITHOUT_KVM();
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        wishes = (struct vcpu_debug){.point_count = 1, .point = {bad[i]}};
        assert_int_equal(vcpu_debug(f->vm.vcpus[0], &wishes), -EINVAL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KVM_TEST(a_kick_takes_a_spinning_guest_out),
        KVM_TEST(a_message_reaches_a_sleeping_guest),
        KVM_TEST(an_nmi_reaches_a_sleeping_guest),
        KVM_TEST(the_8259_interrupts_a_sleeping_guest),
        KVM_TEST(the_8259_waits_for_the_interrupt_window),
        KVM_TEST(ends_of_the_ioapics_vectors_are_reported),
        KVM_TEST(an_irqfd_interrupts_and_follows_its_route),
        KVM_TEST(an_ioeventfd_takes_the_place_of_the_exit),
        KVM_TEST(single_steps_stop_behind_each_instruction),
        KVM_TEST(a_debuggers_int3_stops_the_guest),
        KVM_TEST(watchpoints_and_hardware_breakpoints_stop_the_guest),
        KVM_TEST(an_int3_of_the_guests_is_its_own),
        KVM_TEST(an_int1_of_the_guests_is_its_own),
        KVM_TEST(what_the_hardware_cannot_watch_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
