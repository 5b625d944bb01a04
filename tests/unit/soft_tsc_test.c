/* Guest time: the TSC's frequency, conversions, deadlines, and the KVM clock as a guest reads it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "engine/soft/kvmclock.h"
#include "engine/soft/lapic_state.h"
#include "engine/soft/tsc.h"

#define RAM_SIZE KIB(64)

struct fixture {
    struct mem mem;
    struct soft_vm svm;
    struct soft_cpu cpu;
};

static uint8_t ram[RAM_SIZE];
static unsigned rearms;

void soft_vec_park(struct soft_cpu *cpu)
{
    cpu->vec_live = false;
}

void lapic_timer_rearm(struct soft_lapic *l)
{
    (void)l;
    rearms++;
}

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t clock_monotonic_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t clock_realtime_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

int mem_read(const struct mem *mem, gpa_t gpa, void *buf, size_t len)
{
    (void)mem;
    if (gpa >= RAM_SIZE || len > RAM_SIZE - gpa)
        return -EFAULT;
    memcpy(buf, ram + gpa, len);
    return 0;
}

int mem_write(struct mem *mem, gpa_t gpa, const void *buf, size_t len)
{
    (void)mem;
    if (gpa >= RAM_SIZE || len > RAM_SIZE - gpa)
        return -EFAULT;
    memcpy(ram + gpa, buf, len);
    return 0;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    memset(ram, 0xcc, sizeof(ram));
    rearms = 0;
    f->svm.mem = &f->mem;
    f->cpu.svm = &f->svm;
    assert_int_equal(tsc_init(&f->svm, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static void the_frequency_is_the_clocks(void **state)
{
    struct fixture *f = *state;
    uint64_t ns = clock_ns(CLOCK_MONOTONIC_RAW), tsc = tsc_host(), by_tsc, by_clock;
    struct timespec wait = {.tv_nsec = 50 * 1000 * 1000};

    nanosleep(&wait, NULL);
    by_tsc = tsc_to_ns(&f->svm, tsc_host() - tsc);
    by_clock = clock_ns(CLOCK_MONOTONIC_RAW) - ns;
    assert_in_range(by_tsc, by_clock - by_clock / 200, by_clock + by_clock / 200);
}

static void conversion_is_exact_over_a_year(void **state)
{
    struct fixture *f = *state;
    uint64_t year_ns = NS_PER_SEC * 86400 * 365, ns;

    ns = tsc_to_ns(&f->svm, f->svm.tsc_hz * 86400 * 365);
    assert_in_range(ns, year_ns - 1000000, year_ns);
    assert_int_equal(tsc_to_ns(&f->svm, 0), 0);
}

static void deadlines_are_in_the_future_by_the_rest(void **state)
{
    struct fixture *f = *state;
    uint64_t now, due;

    f->cpu.tsc_offset = -tsc_host(); /* the guest's TSC begins at 0 */
    now = clock_monotonic_ns();
    due = tsc_deadline_ns(&f->cpu, tsc_guest(&f->cpu) + f->svm.tsc_hz);
    assert_in_range(due, now + NS_PER_SEC, now + NS_PER_SEC + 100 * NS_PER_MS);
    due = tsc_deadline_ns(&f->cpu, 0);
    assert_true(due <= clock_monotonic_ns());
    due = tsc_deadline_ns(&f->cpu, (uint64_t)INT64_MAX); /* a century */
    assert_true(due > clock_monotonic_ns() + NS_PER_SEC * 86400);
}

/* As Documentation/virt/kvm/x86/msr.rst tells a guest to compute it. */
static uint64_t guest_reads(const struct fixture *f, gpa_t gpa)
{
    uint32_t version, mul;
    uint64_t stamp, base, delta;
    int8_t shift;

    memcpy(&version, ram + gpa, 4);
    memcpy(&stamp, ram + gpa + 8, 8);
    memcpy(&base, ram + gpa + 16, 8);
    memcpy(&mul, ram + gpa + 24, 4);
    memcpy(&shift, ram + gpa + 28, 1);
    assert_int_equal(version & 1, 0);
    assert_int_equal(ram[gpa + 29] & 1, 1); /* TSC stable */
    delta = tsc_guest(&f->cpu) - stamp;
    if (shift >= 0)
        delta <<= shift;
    else
        delta >>= -shift;
    return base + (uint64_t)((unsigned __int128)delta * mul >> 32);
}

static void kvmclock_runs_as_the_hosts_clock(void **state)
{
    struct fixture *f = *state;
    uint64_t host, guest, expected;
    struct timespec wait = {.tv_nsec = 20 * 1000 * 1000};

    f->cpu.tsc_offset = 12345678901ULL;
    f->cpu.vec_live = true;
    assert_int_equal(kvmclock_msr_write(&f->cpu, MSR_KVM_SYSTEM_TIME_NEW, 0x1000 | 1), SOFT_OK);
    assert_false(f->cpu.vec_live);
    assert_int_equal(f->cpu.kvm_system_time, 0x1001);
    guest = guest_reads(f, 0x1000);
    host = clock_ns(CLOCK_MONOTONIC_RAW);
    nanosleep(&wait, NULL);
    guest = guest_reads(f, 0x1000) - guest;
    host = clock_ns(CLOCK_MONOTONIC_RAW) - host;
    assert_in_range(guest, host - host / 20, host + host / 20);
    /* Two structures, written at different times, agree to the nanosecond, and with tsc_to_ns(). */
    assert_int_equal(kvmclock_msr_write(&f->cpu, MSR_KVM_SYSTEM_TIME, 0x2000 | 1), SOFT_OK);
    assert_memory_equal(ram + 0x1008, ram + 0x2008, 24);
    expected = tsc_to_ns(&f->svm, tsc_host() - f->svm.tsc_base);
    assert_in_range(guest_reads(f, 0x2000), expected, expected + NS_PER_SEC);
    assert_int_equal(ram[0x1020], 0xcc);
}

static void versions_grow_and_a_changed_offset_is_followed(void **state)
{
    struct fixture *f = *state;
    uint32_t before, after;
    uint64_t time;

    kvmclock_msr_write(&f->cpu, MSR_KVM_SYSTEM_TIME, 0x1001);
    memcpy(&before, ram + 0x1000, 4);
    time = guest_reads(f, 0x1000);
    f->cpu.tsc_offset += 1ULL << 50;
    tsc_changed(&f->cpu);
    memcpy(&after, ram + 0x1000, 4);
    assert_int_equal(after, before + 2);
    assert_in_range(guest_reads(f, 0x1000), time, time + NS_PER_SEC);
    assert_int_equal(rearms, 1);
    kvmclock_msr_write(&f->cpu, MSR_KVM_SYSTEM_TIME, 0x1000); /* switched off */
    tsc_changed(&f->cpu);
    memcpy(&after, ram + 0x1000, 4);
    assert_int_equal(after, before + 2);
}

/* Bit 1 of the flags at byte 29; the time goes on as if nothing had been. */
static void a_guest_that_was_stopped_is_told_so_until_it_has_seen_it(void **state)
{
    struct fixture *f = *state;
    uint64_t time;

    memset(ram + 0x1000, 0, 32);
    kvmclock_stopped(&f->cpu); /* nobody to tell */
    assert_int_equal(ram[0x1000 + 29], 0);
    kvmclock_msr_write(&f->cpu, MSR_KVM_SYSTEM_TIME, 0x1001);
    assert_int_equal(ram[0x1000 + 29], 1);
    time = guest_reads(f, 0x1000);
    kvmclock_stopped(&f->cpu);
    assert_int_equal(ram[0x1000 + 29], 3);
    assert_in_range(guest_reads(f, 0x1000), time, time + NS_PER_SEC);
}

static void every_frequency_scales(void **state)
{
    struct fixture *f = *state;
    static const uint64_t hz[] = {1000000, 999999999, 1000000000, 1000000001, 1999999999, 2000000000, 2600000000, 6000000000};

    for (unsigned i = 0; i < ARRAY_SIZE(hz); i++) {
        uint64_t ns;

        f->svm.tsc_hz = hz[i];
        f->svm.tsc_base = tsc_host() - hz[i] * 1000; /* a thousand seconds ago */
        kvmclock_msr_write(&f->cpu, MSR_KVM_SYSTEM_TIME, 0x1001);
        ns = guest_reads(f, 0x1000);
        assert_in_range(ns / NS_PER_MS, 999999, hz[i] < 100000000 ? 10000000 : 1001000);
    }
}

static void wall_clock_plus_system_time_is_now(void **state)
{
    struct fixture *f = *state;
    uint32_t words[3];
    uint64_t now;

    kvmclock_msr_write(&f->cpu, MSR_KVM_SYSTEM_TIME_NEW, 0x1001);
    assert_int_equal(kvmclock_msr_write(&f->cpu, MSR_KVM_WALL_CLOCK_NEW, 0x3000), SOFT_OK);
    memcpy(words, ram + 0x3000, sizeof(words));
    assert_int_equal(words[0] & 1, 0);
    assert_true(words[2] < NS_PER_SEC);
    now = words[1] * NS_PER_SEC + words[2] + guest_reads(f, 0x1000);
    assert_in_range(now, clock_realtime_ns() - NS_PER_SEC, clock_realtime_ns() + NS_PER_MS);
    assert_int_equal(ram[0x300c], 0xcc);
}

static void addresses_outside_memory_do_no_harm(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(kvmclock_msr_write(&f->cpu, MSR_KVM_SYSTEM_TIME, RAM_SIZE - 4 + 1), SOFT_OK);
    assert_int_equal(kvmclock_msr_write(&f->cpu, MSR_KVM_SYSTEM_TIME, UINT64_MAX), SOFT_OK);
    assert_int_equal(kvmclock_msr_write(&f->cpu, MSR_KVM_WALL_CLOCK, UINT64_MAX - 3), SOFT_OK);
}

#define TSC_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TSC_TEST(the_frequency_is_the_clocks),
        TSC_TEST(conversion_is_exact_over_a_year),
        TSC_TEST(deadlines_are_in_the_future_by_the_rest),
        TSC_TEST(kvmclock_runs_as_the_hosts_clock),
        TSC_TEST(versions_grow_and_a_changed_offset_is_followed),
        TSC_TEST(a_guest_that_was_stopped_is_told_so_until_it_has_seen_it),
        TSC_TEST(every_frequency_scales),
        TSC_TEST(wall_clock_plus_system_time_is_now),
        TSC_TEST(addresses_outside_memory_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
