/* The run loop of a vCPU over an engine that leaves the guest as it is told: exits, requests, calls, and how a VM ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/vcpu.h"

#define CPUS 3
#define QUEUE 64

/* --- an engine: run() sleeps until a kick, or until the test has queued an exit --- */

struct fake_cpu {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool kicked, failing;
    struct vm_exit queue[QUEUE];
    unsigned head, tail;
    struct vm_exit answered; /* the exit before, as run() got it back */
    bool inside;
    unsigned entries;
    pthread_t thread;
    sigset_t blocked;
    struct cpu_state state;
    unsigned set_groups;
    const struct vcpu_debug *debug; /* the last wish */
    int state_error;
};

static int init_error;
static unsigned engine_cpus; /* initialized and not finished */

static struct fake_cpu *fake(struct vcpu *vcpu)
{
    return vcpu->engine_data;
}

static int fake_vcpu_init(struct vcpu *vcpu, struct err *e)
{
    struct fake_cpu *f;

    if (init_error)
        return err_set(e, init_error, "no luck with CPU %u", vcpu->index);
    f = calloc(1, sizeof(*f));
    if (!f)
        return err_set(e, ENOMEM, "no memory");
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    f->thread = pthread_self();
    pthread_sigmask(SIG_SETMASK, NULL, &f->blocked);
    f->state.rip = 0x1234;
    f->state.cr3 = 0x5000;
    vcpu->engine_data = f;
    __atomic_add_fetch(&engine_cpus, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static void fake_vcpu_fini(struct vcpu *vcpu)
{
    struct fake_cpu *f = fake(vcpu);

    if (!pthread_equal(f->thread, pthread_self()))
        abort();
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f);
    vcpu->engine_data = NULL;
    __atomic_sub_fetch(&engine_cpus, 1, __ATOMIC_SEQ_CST);
}

static int fake_run(struct vcpu *vcpu, struct vm_exit *exit)
{
    struct fake_cpu *f = fake(vcpu);
    int rc = 0;

    pthread_mutex_lock(&f->lock);
    f->answered = *exit;
    f->entries++;
    f->inside = true;
    pthread_cond_broadcast(&f->changed);
    while (!f->kicked && !f->failing && f->head == f->tail)
        pthread_cond_wait(&f->changed, &f->lock);
    if (f->failing) {
        rc = -EPROTO;
    } else if (f->kicked) {
        f->kicked = false;
        exit->reason = VM_EXIT_INTR;
    } else {
        *exit = f->queue[f->head++ % QUEUE];
    }
    f->inside = false;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    return rc;
}

static void fake_kick(struct vcpu *vcpu)
{
    struct fake_cpu *f = fake(vcpu);

    pthread_mutex_lock(&f->lock);
    f->kicked = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static int fake_get_state(struct vcpu *vcpu, struct cpu_state *state, unsigned groups)
{
    struct fake_cpu *f = fake(vcpu);

    if (!pthread_equal(f->thread, pthread_self()) || f->inside)
        abort();
    (void)groups;
    *state = f->state;
    return f->state_error;
}

static int fake_set_state(struct vcpu *vcpu, const struct cpu_state *state, unsigned groups)
{
    struct fake_cpu *f = fake(vcpu);

    if (!pthread_equal(f->thread, pthread_self()) || f->inside)
        abort();
    f->state = *state;
    f->set_groups = groups;
    return f->state_error;
}

static int fake_debug(struct vcpu *vcpu, const struct vcpu_debug *debug)
{
    struct fake_cpu *f = fake(vcpu);

    if (!pthread_equal(f->thread, pthread_self()) || f->inside)
        abort();
    f->debug = debug;
    return f->state_error;
}

static const struct engine engine = {
    .name = "fake",
    .vcpu_init = fake_vcpu_init,
    .vcpu_fini = fake_vcpu_fini,
    .run = fake_run,
    .kick = fake_kick,
    .get_state = fake_get_state,
    .set_state = fake_set_state,
    .debug = fake_debug,
};

static void leave(struct vcpu *vcpu, struct vm_exit exit)
{
    struct fake_cpu *f = fake(vcpu);

    pthread_mutex_lock(&f->lock);
    f->queue[f->tail++ % QUEUE] = exit;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

/* Until everything queued was taken and the vCPU is inside again: the exits are carried out and counted. */
static void wait_until_inside(struct vcpu *vcpu)
{
    struct fake_cpu *f = fake(vcpu);

    pthread_mutex_lock(&f->lock);
    while (f->head != f->tail || !f->inside)
        pthread_cond_wait(&f->changed, &f->lock);
    pthread_mutex_unlock(&f->lock);
}

static unsigned entries(struct vcpu *vcpu)
{
    unsigned n;

    pthread_mutex_lock(&fake(vcpu)->lock);
    n = fake(vcpu)->entries;
    pthread_mutex_unlock(&fake(vcpu)->lock);
    return n;
}

/* --- a device: one register on both buses --- */

static struct {
    uint64_t off, value;
    unsigned size, reads, writes;
    enum vm_end end_on_write; /* a power switch, when it is set */
    struct vm *vm;
} device;

static uint64_t device_read(void *opaque, uint64_t off, unsigned size)
{
    (void)opaque;
    device.off = off;
    device.size = size;
    device.reads++;
    return 0x1122334455667788;
}

static void device_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    (void)opaque;
    device.off = off;
    device.size = size;
    device.value = value;
    device.writes++;
    if (device.end_on_write)
        vm_request_end(device.vm, device.end_on_write, (int)value, NULL);
}

static const struct bus_ops device_ops = {device_read, device_write};
static struct bus_range port = {.name = "port", .base = 0x60, .size = 8, .ops = &device_ops};
static struct bus_range window = {.name = "window", .base = 0xd0000000, .size = 8, .ops = &device_ops};

/* --- a VM --- */

static int setup(void **state)
{
    struct vm *vm = calloc(1, sizeof(*vm));

    if (!vm)
        return -1;
    init_error = 0;
    memset(&device, 0, sizeof(device));
    device.vm = vm;
    vm_init(vm);
    vm->engine = &engine;
    vm->loop = loop_new(NULL);
    bus_init(&vm->pio);
    bus_init(&vm->mmio);
    if (!vm->loop || bus_add(&vm->pio, &port, NULL) != 0 || bus_add(&vm->mmio, &window, NULL) != 0)
        return -1;
    *state = vm;
    return 0;
}

static int teardown(void **state)
{
    struct vm *vm = *state;

    for (unsigned i = vm->vcpu_count; i-- > 0;)
        vcpu_free(vm->vcpus[i]);
    bus_fini(&vm->pio);
    bus_fini(&vm->mmio);
    loop_free(vm->loop);
    vm_fini(vm);
    free(vm);
    return engine_cpus ? -1 : 0;
}

static struct vcpu *start_cpu(struct vm *vm)
{
    struct err e = {"no sentence"};

    if (vcpu_new(vm, 0, &e) != 0)
        fail_msg("%s", e.text);
    vcpu_resume_all(vm, VM_HOLD_MACHINE);
    return vm->vcpus[0];
}

static void start_cpus(struct vm *vm)
{
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(vcpu_new(vm, i, NULL), 0);
    vcpu_resume_all(vm, VM_HOLD_MACHINE);
}

/* --- life --- */

static void a_new_vcpu_stands_until_it_is_started(void **state)
{
    struct vm *vm = *state;

    assert_int_equal(vcpu_new(vm, 0, NULL), 0);
    assert_int_equal(vm->vcpu_count, 1);
    vcpu_pause_all(vm, VM_HOLD_MACHINE); /* it stands: its thread got past where it could have entered */
    assert_int_equal(entries(vm->vcpus[0]), 0);
    vcpu_resume_all(vm, VM_HOLD_MACHINE);
    wait_until_inside(vm->vcpus[0]);
    assert_in_range(entries(vm->vcpus[0]), 1, 2); /* the pause's kick may still have been on its way */
}

static void a_vcpu_that_the_engine_refuses_leaves_nothing(void **state)
{
    struct vm *vm = *state;
    struct err e = {""};

    init_error = ENODEV;
    assert_int_equal(vcpu_new(vm, 0, &e), -ENODEV);
    assert_string_equal(e.text, "no luck with CPU 0");
    assert_int_equal(vm->vcpu_count, 0);
    assert_null(vm->vcpus[0]);
}

static void freeing_works_whether_it_stands_or_runs(void **state)
{
    struct vm *vm = *state;

    assert_int_equal(vcpu_new(vm, 0, NULL), 0);
    vcpu_free(vm->vcpus[0]);
    assert_int_equal(vm->vcpu_count, 0);
    for (unsigned i = 0; i < 50; i++)
        vcpu_free(start_cpu(vm));
    start_cpus(vm);
    vcpu_free(vm->vcpus[1]); /* not the last: its place stays empty */
    assert_null(vm->vcpus[1]);
    assert_int_equal(vm->vcpu_count, CPUS);
    vcpu_free(vm->vcpus[2]);
    assert_int_equal(vm->vcpu_count, 1);
    assert_int_equal(engine_cpus, 1);
}

static void faults_reach_its_thread_and_other_signals_do_not(void **state)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}, others[] = {SIGINT, SIGTERM, SIGWINCH, SIGHUP, SIGALRM};
    struct fake_cpu *f = fake(start_cpu(*state));
    sigset_t mine;

    for (unsigned i = 0; i < ARRAY_SIZE(faults); i++)
        assert_int_equal(sigismember(&f->blocked, faults[i]), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
        assert_int_equal(sigismember(&f->blocked, others[i]), 1);
    pthread_sigmask(SIG_SETMASK, NULL, &mine);
    assert_int_equal(sigismember(&mine, SIGTERM), 0);
}

/* --- exits --- */

static void port_accesses_reach_the_bus_and_reads_come_back(void **state)
{
    struct vcpu *vcpu = start_cpu(*state);

    leave(vcpu, (struct vm_exit){.reason = VM_EXIT_PIO, .pio = {.port = 0x62, .size = 2, .write = true, .value = 0xabcd}});
    wait_until_inside(vcpu);
    assert_true(device.writes == 1 && device.off == 2 && device.size == 2 && device.value == 0xabcd);
    leave(vcpu, (struct vm_exit){.reason = VM_EXIT_PIO, .pio = {.port = 0x60, .size = 4}});
    wait_until_inside(vcpu);
    assert_int_equal(device.reads, 1);
    assert_int_equal(fake(vcpu)->answered.pio.value, 0x55667788);
    leave(vcpu, (struct vm_exit){.reason = VM_EXIT_PIO, .pio = {.port = 0x70, .size = 1}});
    wait_until_inside(vcpu);
    assert_int_equal(fake(vcpu)->answered.pio.value, 0xff);
    assert_int_equal(vcpu->exits[VM_EXIT_PIO], 3);
}

static void memory_mapped_accesses_reach_the_bus_and_reads_come_back(void **state)
{
    struct vcpu *vcpu = start_cpu(*state);

    leave(vcpu, (struct vm_exit){.reason = VM_EXIT_MMIO, .mmio = {.gpa = 0xd0000000, .size = 8, .write = true, .value = UINT64_MAX - 1}});
    wait_until_inside(vcpu);
    assert_true(device.writes == 1 && device.size == 8 && device.value == UINT64_MAX - 1);
    leave(vcpu, (struct vm_exit){.reason = VM_EXIT_MMIO, .mmio = {.gpa = 0xd0000000, .size = 8}});
    wait_until_inside(vcpu);
    assert_true(fake(vcpu)->answered.mmio.value == 0x1122334455667788);
    assert_int_equal(vcpu->exits[VM_EXIT_MMIO], 2);
}

static void exits_that_ask_for_nothing_are_counted(void **state)
{
    static const enum vm_exit_reason reasons[] = {VM_EXIT_HLT, VM_EXIT_MSR, VM_EXIT_HYPERCALL, VM_EXIT_EOI, VM_EXIT_INTR};
    struct vcpu *vcpu = start_cpu(*state);

    for (unsigned i = 0; i < ARRAY_SIZE(reasons); i++)
        for (unsigned n = 0; n <= i; n++)
            leave(vcpu, (struct vm_exit){.reason = reasons[i]});
    wait_until_inside(vcpu);
    for (unsigned i = 0; i < ARRAY_SIZE(reasons); i++)
        assert_int_equal(vcpu->exits[reasons[i]], i + 1);
    assert_int_equal(((struct vm *)*state)->end, VM_RUNNING);
}

static void accesses_inside_the_engine_are_counted_the_same(void **state)
{
    struct vm *vm = *state;
    struct vcpu vcpu = {.vm = vm};

    for (unsigned i = 0; i < 200; i++) {
        assert_true(vcpu_pio_read(&vcpu, 0x60, 1) == 0x88);
        vcpu_mmio_write(&vcpu, 0xd0000000, 4, i);
    }
    vcpu_pio_write(&vcpu, 0x61, 1, 7);
    assert_true(device.value == 7 && device.off == 1 && device.size == 1);
    assert_true(vcpu_mmio_read(&vcpu, 0xd0000000, 2) == 0x7788);
    assert_int_equal(vcpu.exits[VM_EXIT_PIO], 201);
    assert_int_equal(vcpu.exits[VM_EXIT_MMIO], 201);
    assert_true(vcpu.exit_ns[VM_EXIT_PIO] % 64 == 0);
}

/* --- how it ends --- */

/* The loop returns, and the vCPU entered the guest no more. */
static void check_end(struct vm *vm, enum vm_end end, const char *text)
{
    assert_int_equal(loop_run(vm->loop), 0);
    vcpu_pause_all(vm, VM_HOLD_MACHINE);
    assert_int_equal(vm->end, end);
    if (!strstr(vm->end_text, text))
        fail_msg("no \"%s\" in: %s", text, vm->end_text);
    assert_int_equal(vm->paused, vm->vcpu_count);
}

static void a_triple_fault_ends_it_and_says_where(void **state)
{
    struct vcpu *vcpu = start_cpu(*state);

    leave(vcpu, (struct vm_exit){.reason = VM_EXIT_SHUTDOWN});
    check_end(*state, VM_END_TRIPLE_FAULT, "rip 0x1234, cr3 0x5000");
    assert_int_equal(entries(vcpu), 1);
}

static void a_triple_fault_without_a_state_ends_it_too(void **state)
{
    struct vcpu *vcpu = start_cpu(*state);

    wait_until_inside(vcpu);
    fake(vcpu)->state_error = -EIO;
    leave(vcpu, (struct vm_exit){.reason = VM_EXIT_SHUTDOWN});
    check_end(*state, VM_END_TRIPLE_FAULT, "CPU 0 shut down");
    assert_null(strstr(((struct vm *)*state)->end_text, "rip 0x"));
}

static void an_engine_that_gives_up_ends_it_with_its_reason(void **state)
{
    struct vcpu *vcpu = start_cpu(*state);

    leave(vcpu, (struct vm_exit){.reason = VM_EXIT_INTERNAL, .internal = {"out of tables"}});
    check_end(*state, VM_END_INTERNAL, "the fake engine cannot run CPU 0 any further: out of tables");
    assert_int_equal(entries(vcpu), 1);
}

static void an_engine_that_fails_ends_it_with_the_error(void **state)
{
    struct vcpu *vcpu = start_cpu(*state);
    struct fake_cpu *f = fake(vcpu);

    pthread_mutex_lock(&f->lock);
    f->failing = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    check_end(*state, VM_END_INTERNAL, strerror(EPROTO));
}

static void a_breakpoint_that_nobody_set_ends_it(void **state)
{
    leave(start_cpu(*state), (struct vm_exit){.reason = VM_EXIT_DEBUG});
    check_end(*state, VM_END_INTERNAL, "no debugger");
}

/* The write that switches the machine off is the guest's last instruction, on every CPU. */
static void a_device_ends_it_and_no_vcpu_enters_again(void **state)
{
    struct vm *vm = *state;

    start_cpus(vm);
    for (unsigned i = 0; i < CPUS; i++)
        wait_until_inside(vm->vcpus[i]);
    device.end_on_write = VM_END_DEBUG_EXIT;
    leave(vm->vcpus[1], (struct vm_exit){.reason = VM_EXIT_PIO, .pio = {.port = 0x60, .size = 1, .write = true, .value = 0x42}});
    check_end(vm, VM_END_DEBUG_EXIT, "");
    assert_int_equal(vm->end_value, 0x42);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(entries(vm->vcpus[i]), 1);
}

static void the_first_end_wins(void **state)
{
    struct vm *vm = *state;

    vm_request_end(vm, VM_END_QUIT, 3, "first");
    vm_request_end(vm, VM_END_POWEROFF, 4, "second");
    check_end(vm, VM_END_QUIT, "first");
    assert_int_equal(vm->end_value, 3);
}

static void an_end_that_was_asked_for_before_the_loop_runs_is_not_lost(void **state)
{
    vm_request_end(*state, VM_END_QUIT, 0, NULL);
    check_end(*state, VM_END_QUIT, "");
}

static void a_long_sentence_is_cut(void **state)
{
    char text[1000];

    memset(text, 'z', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    vm_request_end(*state, VM_END_PANIC, 0, text);
    check_end(*state, VM_END_PANIC, "zzz");
}

/* As a reset does: it stands, gets a state, and goes on. */
static void after_a_reset_it_runs_on(void **state)
{
    struct vm *vm = *state;
    struct vcpu *vcpu = start_cpu(vm);

    device.end_on_write = VM_END_RESET;
    for (unsigned round = 1; round <= 20; round++) {
        leave(vcpu, (struct vm_exit){.reason = VM_EXIT_PIO, .pio = {.port = 0x64, .size = 1, .write = true, .value = 0xfe}});
        check_end(vm, VM_END_RESET, "");
        vm->end = VM_RUNNING;
        vcpu_resume_all(vm, VM_HOLD_MACHINE);
        wait_until_inside(vcpu);
        assert_int_equal(vcpu->exits[VM_EXIT_PIO], round);
    }
}

static void *ask_for_ends(void *arg)
{
    for (int i = 0; i < 200; i++)
        vm_request_end(arg, VM_END_QUIT, i, "again");
    return NULL;
}

static void an_end_can_be_asked_for_while_vcpus_come_and_go(void **state)
{
    struct vm *vm = *state;
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, ask_for_ends, vm), 0);
    for (unsigned i = 0; i < 30; i++) {
        start_cpus(vm);
        pthread_mutex_lock(&vm->lock);
        vm->end = VM_RUNNING;
        pthread_mutex_unlock(&vm->lock);
        for (unsigned n = CPUS; n-- > 0;)
            vcpu_free(vm->vcpus[n]);
    }
    pthread_join(thread, NULL);
    assert_int_equal(engine_cpus, 0);
}

/* --- standing --- */

static void while_all_stand_nobody_is_in_the_guest(void **state)
{
    struct vm *vm = *state;

    start_cpus(vm);
    for (unsigned round = 0; round < 300; round++) {
        unsigned before[CPUS];

        vcpu_pause_all(vm, VM_HOLD_MACHINE);
        assert_int_equal(vm->paused, CPUS);
        for (unsigned i = 0; i < CPUS; i++) {
            assert_false(fake(vm->vcpus[i])->inside);
            before[i] = entries(vm->vcpus[i]);
            leave(vm->vcpus[i], (struct vm_exit){.reason = VM_EXIT_HLT});
        }
        if (round % 3 == 0)
            vcpu_pause_all(vm, VM_HOLD_MACHINE); /* again, while they stand */
        for (unsigned i = 0; i < CPUS; i++)
            assert_int_equal(entries(vm->vcpus[i]), before[i]);
        vcpu_resume_all(vm, VM_HOLD_MACHINE);
        if (round % 2 == 0)
            for (unsigned i = 0; i < CPUS; i++)
                wait_until_inside(vm->vcpus[i]);
    }
}

static void expect_standing(struct vm *vm, bool standing)
{
    if (!standing)
        for (unsigned i = 0; i < CPUS; i++)
            wait_until_inside(vm->vcpus[i]);
    assert_int_equal(vm->paused, standing ? CPUS : 0);
}

static void they_run_when_nobody_holds_them_any_more(void **state)
{
    struct vm *vm = *state;

    start_cpus(vm);
    for (unsigned round = 0; round < 50; round++) {
        vcpu_pause_all(vm, VM_HOLD_USER);
        vcpu_pause_all(vm, VM_HOLD_USER); /* holding does not count */
        vcpu_pause_all(vm, VM_HOLD_MACHINE);
        vcpu_resume_all(vm, VM_HOLD_MACHINE);
        assert_true(vm_is_held(vm, VM_HOLD_USER));
        assert_false(vm_is_held(vm, VM_HOLD_MACHINE));
        expect_standing(vm, true);
        vcpu_resume_all(vm, VM_HOLD_USER);
        expect_standing(vm, false);
        vcpu_resume_all(vm, VM_HOLD_USER);
        expect_standing(vm, false);
    }
}

static void an_end_holds_them_whoever_lets_go(void **state)
{
    struct vm *vm = *state;

    start_cpus(vm);
    vcpu_pause_all(vm, VM_HOLD_USER);
    vm_request_end(vm, VM_END_QUIT, 0, NULL);
    vcpu_resume_all(vm, VM_HOLD_USER);
    assert_true(vm_is_held(vm, VM_HOLD_MACHINE));
    vcpu_pause_all(vm, VM_HOLD_MACHINE);
    expect_standing(vm, true);
}

/* --- a debugger --- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct vcpu *stopped;
    unsigned count;
} debugger = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void on_debug_stop(void *opaque, struct vcpu *vcpu)
{
    assert_ptr_equal(opaque, &debugger);
    pthread_mutex_lock(&debugger.lock);
    debugger.stopped = vcpu;
    debugger.count++;
    pthread_cond_broadcast(&debugger.changed);
    pthread_mutex_unlock(&debugger.lock);
}

static void wait_for_debug_stops(unsigned count)
{
    pthread_mutex_lock(&debugger.lock);
    while (debugger.count < count)
        pthread_cond_wait(&debugger.changed, &debugger.lock);
    pthread_mutex_unlock(&debugger.lock);
}

static void start_debugged(struct vm *vm)
{
    debugger.count = 0;
    vm->debugger = (struct vm_debugger){.opaque = &debugger, .stopped = on_debug_stop};
    start_cpus(vm);
    for (unsigned i = 0; i < CPUS; i++)
        wait_until_inside(vm->vcpus[i]);
}

static void a_vcpu_at_a_breakpoint_stands_and_the_others_run(void **state)
{
    struct vm *vm = *state;
    const struct vm_exit stop = {.reason = VM_EXIT_DEBUG, .debug = {.stop = DEBUG_STOP_WATCH, .gva = 0x4444, .point = 2}};

    start_debugged(vm);
    leave(vm->vcpus[1], stop);
    wait_for_debug_stops(1);
    assert_ptr_equal(debugger.stopped, vm->vcpus[1]);
    assert_true(vm->vcpus[1]->debug_stopped);
    assert_int_equal(vm->vcpus[1]->debug.debug.gva, 0x4444);
    assert_int_equal(entries(vm->vcpus[1]), 1);
    leave(vm->vcpus[0], (struct vm_exit){.reason = VM_EXIT_HLT});
    wait_until_inside(vm->vcpus[0]);
    assert_int_equal(entries(vm->vcpus[0]), 2);
    vcpu_hold_all(vm);
    for (unsigned i = 0; i < CPUS; i++)
        assert_false(fake(vm->vcpus[i])->inside);
    assert_int_equal(entries(vm->vcpus[1]), 1);
    vcpu_release(vm->vcpus[1]);
    wait_until_inside(vm->vcpus[1]);
    assert_false(fake(vm->vcpus[0])->inside);
}

static void what_a_debugger_holds_no_reset_lets_go(void **state)
{
    struct vm *vm = *state;
    unsigned before[CPUS];

    start_debugged(vm);
    vcpu_hold_all(vm);
    for (unsigned i = 0; i < CPUS; i++)
        before[i] = entries(vm->vcpus[i]);
    vcpu_pause_all(vm, VM_HOLD_MACHINE);
    vcpu_release(vm->vcpus[0]);
    vcpu_resume_all(vm, VM_HOLD_MACHINE);
    wait_until_inside(vm->vcpus[0]);
    assert_int_equal(vm->paused, CPUS - 1);
    for (unsigned i = 1; i < CPUS; i++)
        assert_int_equal(entries(vm->vcpus[i]), before[i]);
}

static void what_a_debugger_wants_is_told_by_the_vcpus_own_thread(void **state)
{
    struct vm *vm = *state;
    static const struct vcpu_debug wish = {.single_step = true};

    start_debugged(vm);
    vcpu_hold_all(vm);
    assert_int_equal(vcpu_debug(vm->vcpus[2], &wish), 0);
    assert_ptr_equal(fake(vm->vcpus[2])->debug, &wish);
    fake(vm->vcpus[2])->state_error = -EINVAL;
    assert_int_equal(vcpu_debug(vm->vcpus[2], NULL), -EINVAL);
    assert_null(fake(vm->vcpus[2])->debug);
}

static void a_state_is_set_and_got_by_the_vcpus_own_thread(void **state)
{
    struct vm *vm = *state;
    static struct cpu_state in, out;

    assert_int_equal(vcpu_new(vm, 0, NULL), 0);
    cpu_state_long64(&in, 0xffffffff81000000, 0x1000, 0x2000, 0x1f);
    assert_int_equal(vcpu_set_state(vm->vcpus[0], &in, CPU_GPRS | CPU_SREGS), 0);
    assert_int_equal(fake(vm->vcpus[0])->set_groups, CPU_GPRS | CPU_SREGS);
    assert_int_equal(vcpu_get_state(vm->vcpus[0], &out, CPU_ALL), 0);
    assert_true(out.rip == in.rip && out.cr3 == in.cr3);
    fake(vm->vcpus[0])->state_error = -ERANGE;
    assert_int_equal(vcpu_set_state(vm->vcpus[0], &in, CPU_ALL), -ERANGE);
    assert_int_equal(vcpu_get_state(vm->vcpus[0], &out, CPU_ALL), -ERANGE);
}

static void a_state_can_be_got_between_pause_and_resume(void **state)
{
    struct vm *vm = *state;
    static struct cpu_state out;

    start_cpus(vm);
    for (unsigned round = 0; round < 100; round++) {
        vcpu_pause_all(vm, VM_HOLD_MACHINE);
        for (unsigned i = 0; i < CPUS; i++) {
            out.rip = 0;
            assert_int_equal(vcpu_get_state(vm->vcpus[i], &out, CPU_ALL), 0);
            assert_true(out.rip == 0x1234);
        }
        vcpu_resume_all(vm, VM_HOLD_MACHINE);
    }
}

#define VCPU_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        VCPU_TEST(a_new_vcpu_stands_until_it_is_started),
        VCPU_TEST(a_vcpu_that_the_engine_refuses_leaves_nothing),
        VCPU_TEST(freeing_works_whether_it_stands_or_runs),
        VCPU_TEST(faults_reach_its_thread_and_other_signals_do_not),
        VCPU_TEST(port_accesses_reach_the_bus_and_reads_come_back),
        VCPU_TEST(memory_mapped_accesses_reach_the_bus_and_reads_come_back),
        VCPU_TEST(exits_that_ask_for_nothing_are_counted),
        VCPU_TEST(accesses_inside_the_engine_are_counted_the_same),
        VCPU_TEST(a_triple_fault_ends_it_and_says_where),
        VCPU_TEST(a_triple_fault_without_a_state_ends_it_too),
        VCPU_TEST(an_engine_that_gives_up_ends_it_with_its_reason),
        VCPU_TEST(an_engine_that_fails_ends_it_with_the_error),
        VCPU_TEST(a_breakpoint_that_nobody_set_ends_it),
        VCPU_TEST(a_device_ends_it_and_no_vcpu_enters_again),
        VCPU_TEST(the_first_end_wins),
        VCPU_TEST(an_end_that_was_asked_for_before_the_loop_runs_is_not_lost),
        VCPU_TEST(a_long_sentence_is_cut),
        VCPU_TEST(after_a_reset_it_runs_on),
        VCPU_TEST(an_end_can_be_asked_for_while_vcpus_come_and_go),
        VCPU_TEST(while_all_stand_nobody_is_in_the_guest),
        VCPU_TEST(they_run_when_nobody_holds_them_any_more),
        VCPU_TEST(an_end_holds_them_whoever_lets_go),
        VCPU_TEST(a_vcpu_at_a_breakpoint_stands_and_the_others_run),
        VCPU_TEST(what_a_debugger_holds_no_reset_lets_go),
        VCPU_TEST(what_a_debugger_wants_is_told_by_the_vcpus_own_thread),
        VCPU_TEST(a_state_is_set_and_got_by_the_vcpus_own_thread),
        VCPU_TEST(a_state_can_be_got_between_pause_and_resume),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
