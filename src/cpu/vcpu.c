/* The one run loop of a vCPU: requests, VM entry, VM exit, what the exit asks for. */
#include "cpu/vcpu.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/clock.h"

#define STACK_BYTES MIB(1) /* less than a huge page, which some hosts would make of the usual 8 MiB */

const char *const vm_exit_names[VM_EXIT_REASON_COUNT] = {
    [VM_EXIT_PIO] = "PIO",           [VM_EXIT_MMIO] = "MMIO",           [VM_EXIT_HLT] = "HLT",
    [VM_EXIT_MSR] = "MSR",           [VM_EXIT_HYPERCALL] = "HYPERCALL", [VM_EXIT_SHUTDOWN] = "SHUTDOWN",
    [VM_EXIT_DEBUG] = "DEBUG",       [VM_EXIT_INTR] = "INTR",           [VM_EXIT_EOI] = "EOI",
    [VM_EXIT_INTERNAL] = "INTERNAL",
};

/* --- counting: only the vCPU's thread writes, so a load and a store do --- */

static unsigned long add(atomic_ulong *counter, unsigned long n)
{
    unsigned long before = atomic_load_explicit(counter, memory_order_relaxed);

    atomic_store_explicit(counter, before + n, memory_order_relaxed);
    return before;
}

#define TIME_ONE_IN 64

/* When the access began, or 0 when this one is not timed. */
static uint64_t access_begin(struct vcpu *vcpu, enum vm_exit_reason reason, uint64_t address)
{
    trace_exit(&vcpu->vm->trace, vcpu->index, reason, address);
    return add(&vcpu->exits[reason], 1) % TIME_ONE_IN == 0 ? clock_monotonic_ns() : 0;
}

static void access_end(struct vcpu *vcpu, enum vm_exit_reason reason, uint64_t began)
{
    uint64_t ns = began ? (clock_monotonic_ns() - began) * TIME_ONE_IN : 0;

    if (ns) {
        add(&vcpu->exit_ns[reason], ns);
        add(&vcpu->access_ns, ns);
    }
    trace_entry(&vcpu->vm->trace, vcpu->index);
}

uint64_t vcpu_pio_read(struct vcpu *vcpu, uint16_t port, unsigned size)
{
    uint64_t began = access_begin(vcpu, VM_EXIT_PIO, port);
    uint64_t value = bus_read(&vcpu->vm->pio, port, size);

    access_end(vcpu, VM_EXIT_PIO, began);
    return value;
}

void vcpu_pio_write(struct vcpu *vcpu, uint16_t port, unsigned size, uint64_t value)
{
    uint64_t began = access_begin(vcpu, VM_EXIT_PIO, port);

    bus_write(&vcpu->vm->pio, port, size, value);
    access_end(vcpu, VM_EXIT_PIO, began);
}

uint64_t vcpu_mmio_read(struct vcpu *vcpu, gpa_t gpa, unsigned size)
{
    uint64_t began = access_begin(vcpu, VM_EXIT_MMIO, gpa);
    uint64_t value = bus_read(&vcpu->vm->mmio, gpa, size);

    access_end(vcpu, VM_EXIT_MMIO, began);
    return value;
}

void vcpu_mmio_write(struct vcpu *vcpu, gpa_t gpa, unsigned size, uint64_t value)
{
    uint64_t began = access_begin(vcpu, VM_EXIT_MMIO, gpa);

    bus_write(&vcpu->vm->mmio, gpa, size, value);
    access_end(vcpu, VM_EXIT_MMIO, began);
}

/* --- exits --- */

static void triple_fault(struct vcpu *vcpu)
{
    struct cpu_state state;
    char text[128];

    if (vcpu->vm->engine->get_state(vcpu, &state, CPU_GPRS | CPU_SREGS) == 0)
        snprintf(text, sizeof(text), "the guest triple-faulted: CPU %u shut down at rip 0x%llx, cr3 0x%llx", vcpu->index,
                 (unsigned long long)state.rip, (unsigned long long)state.cr3);
    else
        snprintf(text, sizeof(text), "the guest triple-faulted: CPU %u shut down", vcpu->index);
    vm_request_end(vcpu->vm, VM_END_TRIPLE_FAULT, 0, text);
}

static void cannot_go_on(struct vcpu *vcpu, const char *why)
{
    char text[sizeof(vcpu->vm->end_text)];

    snprintf(text, sizeof(text), "the %s engine cannot run CPU %u any further: %s", vcpu->vm->engine->name, vcpu->index, why);
    vm_request_end(vcpu->vm, VM_END_INTERNAL, 0, text);
}

/* Stands before the debugger hears of it, so that nothing of the guest's runs in between. */
static void debug_stop(struct vcpu *vcpu, const struct vm_exit *exit)
{
    const struct vm_debugger *debugger = &vcpu->vm->debugger;

    if (!debugger->stopped) {
        cannot_go_on(vcpu, "it met a breakpoint, and there is no debugger");
        return;
    }
    vcpu->debug = *exit;
    atomic_fetch_or(&vcpu->requests, VCPU_HOLD);
    atomic_store(&vcpu->debug_stopped, true);
    debugger->stopped(debugger->opaque, vcpu);
}

static void handle_exit(struct vcpu *vcpu, struct vm_exit *exit)
{
    struct vm *vm = vcpu->vm;

    switch (exit->reason) {
    case VM_EXIT_PIO:
        if (exit->pio.write)
            bus_write(&vm->pio, exit->pio.port, exit->pio.size, exit->pio.value);
        else
            exit->pio.value = (uint32_t)bus_read(&vm->pio, exit->pio.port, exit->pio.size);
        break;
    case VM_EXIT_MMIO:
        if (exit->mmio.write)
            bus_write(&vm->mmio, exit->mmio.gpa, exit->mmio.size, exit->mmio.value);
        else
            exit->mmio.value = bus_read(&vm->mmio, exit->mmio.gpa, exit->mmio.size);
        break;
    case VM_EXIT_HLT: /* the engine slept in run() */
    case VM_EXIT_MSR: /* and it answered these itself: they are here to be counted */
    case VM_EXIT_HYPERCALL:
    case VM_EXIT_EOI:
    case VM_EXIT_INTR: /* the requests come next in any case */ break;
    case VM_EXIT_SHUTDOWN: triple_fault(vcpu); break;
    case VM_EXIT_INTERNAL: cannot_go_on(vcpu, exit->internal.text); break;
    case VM_EXIT_DEBUG: debug_stop(vcpu, exit); break;
    case VM_EXIT_REASON_COUNT: cannot_go_on(vcpu, "it left the guest without a reason"); break;
    }
}

/* --- the thread --- */

/*
 * Stands while a pause or a hold is asked for, carrying out calls; *now_ns is then taken anew. False when the thread is to end. Called and left without the
 * lock.
 */
static bool answer_requests(struct vcpu *vcpu, uint64_t *now_ns)
{
    struct vm *vm = vcpu->vm;
    unsigned requests = atomic_load(&vcpu->requests);

    if (!requests)
        return true;
    pthread_mutex_lock(&vm->lock);
    vcpu->standing = true;
    vm->paused++;
    pthread_cond_broadcast(&vm->changed);
    while ((requests = atomic_load(&vcpu->requests)) && !(requests & VCPU_STOP)) {
        if (vcpu->call) {
            vcpu->call(vcpu, vcpu->call_arg);
            vcpu->call = NULL;
            pthread_cond_broadcast(&vm->changed);
        } else {
            pthread_cond_wait(&vm->changed, &vm->lock);
        }
    }
    vcpu->standing = false;
    vm->paused--;
    pthread_mutex_unlock(&vm->lock);
    if (vm->engine->stood && !(requests & VCPU_STOP))
        vm->engine->stood(vcpu);
    *now_ns = clock_monotonic_ns();
    return !(requests & VCPU_STOP);
}

/* What the exit was about, where that is an address. */
static uint64_t exit_address(const struct vm_exit *exit)
{
    switch (exit->reason) {
    case VM_EXIT_PIO: return exit->pio.port;
    case VM_EXIT_MMIO: return exit->mmio.gpa;
    case VM_EXIT_DEBUG: return exit->debug.gva;
    default: return 0;
    }
}

static void run(struct vcpu *vcpu)
{
    const struct engine *engine = vcpu->vm->engine;
    struct vm_exit exit = {.reason = VM_EXIT_INTR};
    uint64_t now = clock_monotonic_ns();

    while (answer_requests(vcpu, &now)) {
        uint64_t before = now;
        int error;

        add(&vcpu->entries, 1);
        atomic_store_explicit(&vcpu->entered_ns, before, memory_order_relaxed);
        trace_entry(&vcpu->vm->trace, vcpu->index);
        error = engine->run(vcpu, &exit);
        now = clock_monotonic_ns();
        atomic_store_explicit(&vcpu->entered_ns, 0, memory_order_relaxed);
        add(&vcpu->run_ns, now - before);
        if (error) {
            cannot_go_on(vcpu, strerror(-error));
            continue;
        }
        trace_exit(&vcpu->vm->trace, vcpu->index, exit.reason, exit_address(&exit));
        before = now;
        add(&vcpu->exits[exit.reason], 1);
        handle_exit(vcpu, &exit);
        now = clock_monotonic_ns();
        add(&vcpu->exit_ns[exit.reason], now - before);
    }
}

/* The host CPUs that the configuration names for it. 0 or -errno. */
static int pin(const struct vcpu *vcpu, struct err *e)
{
    const struct config *c = &vcpu->vm->config;
    cpu_set_t wanted, got;

    if (!config_is_pinned(c, vcpu->index))
        return 0;
    CPU_ZERO(&wanted);
    for (unsigned i = 0; i < CPU_SETSIZE; i++)
        if (config_pins_to(c, vcpu->index, i))
            CPU_SET(i, &wanted);
    /* The kernel leaves out what there is not, and takes what is left. */
    if (pthread_setaffinity_np(pthread_self(), sizeof(wanted), &wanted) == 0 &&
        pthread_getaffinity_np(pthread_self(), sizeof(got), &got) == 0 && CPU_EQUAL(&wanted, &got))
        return 0;
    return err_set(e, EINVAL, "--pin: CPU %u cannot run on all the host CPUs named for it: some are offline, or not allowed to umbra",
                   vcpu->index);
}

static void *thread_main(void *arg)
{
    struct vcpu *vcpu = arg;
    struct vm *vm = vcpu->vm;
    char name[16];
    int error;

    snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
    pthread_setname_np(pthread_self(), name);
    prctl(PR_SET_TIMERSLACK, 1UL); /* ns: a guest's timer is as exact as the host's */
    error = pin(vcpu, vcpu->init_err);
    if (!error)
        error = vm->engine->vcpu_init(vcpu, vcpu->init_err);

    pthread_mutex_lock(&vm->lock);
    vcpu->init_error = error;
    vcpu->ready = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    if (error)
        return NULL;
    run(vcpu);
    vm->engine->vcpu_fini(vcpu);
    return NULL;
}

/* Signals for the process are the main thread's. Faults are the thread's own: one that is blocked would end the process. */
static int create_thread(struct vcpu *vcpu)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    sigset_t all_others, before;
    pthread_attr_t attr;
    int error;

    sigfillset(&all_others);
    for (unsigned i = 0; i < ARRAY_SIZE(faults); i++)
        sigdelset(&all_others, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all_others, &before);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    error = pthread_create(&vcpu->thread, &attr, thread_main, vcpu);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

int vcpu_new(struct vm *vm, unsigned index, struct err *e)
{
    struct vcpu *vcpu = calloc(1, sizeof(*vcpu));
    int error;

    if (!vcpu)
        return err_set(e, ENOMEM, "no memory for CPU %u", index);
    vcpu->vm = vm;
    vcpu->index = index;
    vcpu->apic_id = x86_apic_id(&vm->topology, index);
    vcpu->init_err = e;
    atomic_store(&vcpu->requests, VCPU_PAUSE);
    error = create_thread(vcpu);
    if (error) {
        free(vcpu);
        return err_set(e, error, "cannot start a thread for CPU %u: %s", index, strerror(error));
    }
    pthread_mutex_lock(&vm->lock);
    while (!vcpu->ready)
        pthread_cond_wait(&vm->changed, &vm->lock);
    error = vcpu->init_error;
    vcpu->init_err = NULL;
    pthread_mutex_unlock(&vm->lock);
    if (error) {
        pthread_join(vcpu->thread, NULL);
        free(vcpu);
        return error;
    }
    vcpu->thread_started = true;
    pthread_mutex_lock(&vm->lock);
    vm->vcpus[index] = vcpu;
    vm->vcpu_count = MAX(vm->vcpu_count, index + 1);
    pthread_mutex_unlock(&vm->lock);
    return 0;
}

/* Asks first, then waits: several vCPUs come to a stand at the same time. */
static void ask_to_stand(struct vcpu *vcpu, enum vcpu_request request)
{
    atomic_fetch_or(&vcpu->requests, request);
    vcpu->vm->engine->kick(vcpu);
}

static void wait_until_standing(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;

    pthread_mutex_lock(&vm->lock);
    while (!vcpu->standing)
        pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
}

/* It stands before it is told to end, so that no kick can meet an engine's vCPU that is being freed. */
void vcpu_free(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;

    ask_to_stand(vcpu, VCPU_PAUSE);
    wait_until_standing(vcpu);
    pthread_mutex_lock(&vm->lock);
    vm->vcpus[vcpu->index] = NULL; /* vm_request_end() kicks it no more */
    while (vm->vcpu_count && !vm->vcpus[vm->vcpu_count - 1])
        vm->vcpu_count--;
    atomic_fetch_or(&vcpu->requests, VCPU_STOP);
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    pthread_join(vcpu->thread, NULL);
    free(vcpu);
}

static void stand_all(struct vm *vm, enum vcpu_request request)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        ask_to_stand(vm->vcpus[i], request);
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        wait_until_standing(vm->vcpus[i]);
}

void vcpu_pause_all(struct vm *vm, enum vm_hold who)
{
    pthread_mutex_lock(&vm->lock);
    vm->holds |= who;
    pthread_mutex_unlock(&vm->lock);
    stand_all(vm, VCPU_PAUSE);
}

void vcpu_resume_all(struct vm *vm, enum vm_hold who)
{
    pthread_mutex_lock(&vm->lock);
    vm->holds &= ~(unsigned)who;
    for (unsigned i = 0; i < vm->vcpu_count && !vm->holds; i++)
        atomic_fetch_and(&vm->vcpus[i]->requests, ~(unsigned)VCPU_PAUSE);
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

void vcpu_hold_all(struct vm *vm)
{
    stand_all(vm, VCPU_HOLD);
}

void vcpu_release(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;

    pthread_mutex_lock(&vm->lock);
    atomic_fetch_and(&vcpu->requests, ~(unsigned)VCPU_HOLD);
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

/* --- calls --- */

struct state_call {
    struct cpu_state *state;
    const struct cpu_state *new_state;
    unsigned groups;
    int error;
};

static void set_state(struct vcpu *vcpu, void *arg)
{
    struct state_call *call = arg;

    call->error = vcpu->vm->engine->set_state(vcpu, call->new_state, call->groups);
}

static void get_state(struct vcpu *vcpu, void *arg)
{
    struct state_call *call = arg;

    call->error = vcpu->vm->engine->get_state(vcpu, call->state, call->groups);
}

/* fn runs with vm->lock held: engines never take it. */
static void call_on_thread(struct vcpu *vcpu, void (*fn)(struct vcpu *, void *), void *arg)
{
    struct vm *vm = vcpu->vm;

    pthread_mutex_lock(&vm->lock);
    vcpu->call_arg = arg;
    vcpu->call = fn;
    pthread_cond_broadcast(&vm->changed);
    while (vcpu->call)
        pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
}

int vcpu_set_state(struct vcpu *vcpu, const struct cpu_state *state, unsigned groups)
{
    struct state_call call = {.new_state = state, .groups = groups};

    call_on_thread(vcpu, set_state, &call);
    return call.error;
}

int vcpu_get_state(struct vcpu *vcpu, struct cpu_state *state, unsigned groups)
{
    struct state_call call = {.state = state, .groups = groups};

    call_on_thread(vcpu, get_state, &call);
    return call.error;
}

struct debug_call {
    const struct vcpu_debug *debug;
    int error;
};

static void set_debug(struct vcpu *vcpu, void *arg)
{
    struct debug_call *call = arg;

    call->error = vcpu->vm->engine->debug(vcpu, call->debug);
}

int vcpu_debug(struct vcpu *vcpu, const struct vcpu_debug *debug)
{
    struct debug_call call = {.debug = debug};

    call_on_thread(vcpu, set_debug, &call);
    return call.error;
}
