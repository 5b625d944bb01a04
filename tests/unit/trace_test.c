/* The window of a VM's trace: what it keeps, when it closes, and that many threads fill it without losing or mixing anything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/vcpu.h"

#define THREADS 4
#define EACH 20000

static int setup(void **state)
{
    *state = calloc(1, sizeof(struct trace));
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    trace_free(*state);
    free(*state);
    return 0;
}

static void without_a_window_nothing_is_kept(void **state)
{
    struct trace *t = *state;

    trace_entry(t, 0);
    trace_exit(NULL, 0, VM_EXIT_PIO, 0x60);
    trace_kick(NULL, "blk0", 0);
    assert_int_equal(trace_count(t), 0);
    trace_close(t);
    assert_int_equal(trace_count(t), 0);
}

static void each_kind_of_event_is_kept_with_what_it_tells(void **state)
{
    struct trace *t = *state;
    const struct trace_event *e;

    assert_int_equal(trace_open(t, 100, NULL), 0);
    trace_entry(t, 3);
    trace_exit(t, 3, VM_EXIT_MMIO, 0xfee00000);
    trace_kick(t, "a-name-that-is-longer", 2);
    trace_completion(t, "blk0", 1, true);
    trace_interrupt(t, "blk0", 0xfee01000, 0x4031);
    trace_inject(t, 2, 0x31);
    trace_fill(t, 1, 0xffff888000001234, 0x100001234);
    trace_close(t);
    trace_entry(t, 0);
    e = t->events;
    assert_int_equal(trace_count(t), TRACE_KIND_COUNT);
    for (unsigned i = 0; i < TRACE_KIND_COUNT; i++) {
        assert_int_equal(e[i].kind, i);
        assert_true(i == 0 || e[i].ns >= e[i - 1].ns);
    }
    assert_int_equal(e[0].number, 3);
    assert_string_equal(e[0].who, "");
    assert_int_equal(e[1].reason, VM_EXIT_MMIO);
    assert_int_equal(e[1].address, 0xfee00000);
    assert_string_equal(e[2].who, "a-name-that-is-");
    assert_int_equal(e[2].number, 2);
    assert_int_equal(e[3].data, 1);
    assert_int_equal(e[4].address, 0xfee01000);
    assert_int_equal(e[4].data, 0x4031);
    assert_int_equal(e[5].number, 2);
    assert_int_equal(e[5].data, 0x31);
    assert_int_equal(e[6].number, 1);
    assert_int_equal(e[6].address, 0xffff888000001234);
    assert_int_equal(e[6].data, 0x100001);
}

static void a_full_window_closes_itself(void **state)
{
    struct trace *t = *state;

    assert_int_equal(trace_open(t, 3, NULL), 0);
    assert_true(trace_is_open(t));
    for (unsigned i = 0; i < 10; i++)
        trace_kick(t, "net0", i);
    assert_false(trace_is_open(t));
    assert_int_equal(trace_count(t), 3);
    trace_close(t);
    assert_int_equal(t->events[2].number, 2);
}

static void a_window_that_is_opened_again_is_empty(void **state)
{
    struct trace *t = *state;

    assert_int_equal(trace_open(t, 3, NULL), 0);
    trace_entry(t, 0);
    assert_int_equal(trace_open(t, 1, NULL), 0);
    assert_int_equal(trace_count(t), 0);
    trace_entry(t, 7);
    trace_close(t);
    assert_int_equal(t->events[0].number, 7);
}

static void device_accesses_of_a_vcpu_are_an_exit_and_an_entry(void **state)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    struct vcpu *vcpu = calloc(1, sizeof(*vcpu));
    const struct trace_event *e;

    (void)state;
    vm_init(vm);
    bus_init(&vm->pio);
    bus_init(&vm->mmio);
    *vcpu = (struct vcpu){.vm = vm, .index = 5};
    assert_int_equal(trace_open(&vm->trace, 100, NULL), 0);
    vcpu_pio_read(vcpu, 0x60, 1);
    vcpu_mmio_write(vcpu, 0xfec00000, 4, 1);
    trace_close(&vm->trace);
    e = vm->trace.events;
    assert_int_equal(trace_count(&vm->trace), 4);
    assert_true(e[0].kind == TRACE_EXIT && e[0].reason == VM_EXIT_PIO && e[0].address == 0x60 && e[0].number == 5);
    assert_true(e[1].kind == TRACE_ENTRY && e[1].number == 5);
    assert_true(e[2].kind == TRACE_EXIT && e[2].reason == VM_EXIT_MMIO && e[2].address == 0xfec00000);
    assert_int_equal(e[3].kind, TRACE_ENTRY);
    bus_fini(&vm->mmio);
    bus_fini(&vm->pio);
    vm_fini(vm);
    free(vcpu);
    free(vm);
}

/* --- many threads --- */

struct writer {
    pthread_t thread;
    struct trace *trace;
    unsigned number;
};

/* Events whose parts belong together. */
static void *write_events(void *arg)
{
    struct writer *w = arg;

    for (unsigned i = 0; i < EACH; i++)
        trace_exit(w->trace, w->number, VM_EXIT_PIO, (uint64_t)w->number << 32 | i);
    return NULL;
}

static void start(struct writer w[THREADS], struct trace *t)
{
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct writer){.trace = t, .number = i};
        assert_int_equal(pthread_create(&w[i].thread, NULL, write_events, &w[i]), 0);
    }
}

static void join(struct writer w[THREADS])
{
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(w[i].thread, NULL);
}

/* Whole events; those of a thread come in order, and without gaps where there may be none. */
static void check(const struct trace *t, bool gaps)
{
    uint64_t next[THREADS] = {0};

    for (unsigned long i = 0; i < trace_count(t); i++) {
        const struct trace_event *e = &t->events[i];
        uint64_t number = e->address >> 32, n = e->address & UINT32_MAX;

        assert_true(e->number == number && number < THREADS);
        assert_true(gaps ? n >= next[number] : n == next[number]);
        next[number] = n + 1;
    }
}

static void threads_that_write_at_once_lose_and_mix_nothing(void **state)
{
    struct writer w[THREADS];
    struct trace *t = *state;

    assert_int_equal(trace_open(t, THREADS * EACH, NULL), 0);
    start(w, t);
    join(w);
    trace_close(t);
    assert_int_equal(trace_count(t), THREADS * EACH);
    check(t, false);
}

static void a_window_opens_and_closes_while_threads_write(void **state)
{
    struct writer w[THREADS];
    struct trace *t = *state;

    start(w, t);
    for (unsigned i = 0; i < 300; i++) {
        assert_int_equal(trace_open(t, 1 + i % 50, NULL), 0);
        if (i % 3)
            sched_yield();
        trace_close(t);
        check(t, true);
    }
    join(w);
}

#define TRACE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TRACE_TEST(without_a_window_nothing_is_kept),
        TRACE_TEST(each_kind_of_event_is_kept_with_what_it_tells),
        TRACE_TEST(a_full_window_closes_itself),
        TRACE_TEST(a_window_that_is_opened_again_is_empty),
        TRACE_TEST(device_accesses_of_a_vcpu_are_an_exit_and_an_entry),
        TRACE_TEST(threads_that_write_at_once_lose_and_mix_nothing),
        TRACE_TEST(a_window_opens_and_closes_while_threads_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
