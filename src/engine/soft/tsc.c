/* Guest time: finds the TSC's frequency and converts between its ticks and nanoseconds. */
#include "engine/soft/tsc.h"

#include <cpuid.h>
#include <errno.h>
#include <time.h>

#include "base/clock.h"
#include "engine/soft/kvmclock.h"
#include "engine/soft/lapic_state.h"

#define SAMPLES 16
#define SHORT_NS (1 * NS_PER_MS)
#define LONG_NS (6 * NS_PER_MS) /* readings are some 20 ns apart: a few millionths */
#define MULT_SHIFT 48

uint64_t tsc_host(void)
{
    return __builtin_ia32_rdtsc();
}

uint64_t tsc_guest(const struct soft_cpu *cpu)
{
    return tsc_host() + cpu->tsc_offset;
}

uint64_t tsc_to_ns(const struct soft_vm *svm, uint64_t ticks)
{
    return (uint64_t)((unsigned __int128)ticks * svm->tsc_mult >> MULT_SHIFT);
}

uint64_t tsc_deadline_ns(const struct soft_cpu *cpu, uint64_t value)
{
    int64_t ticks = (int64_t)(value - tsc_guest(cpu));
    uint64_t now_ns = clock_monotonic_ns(); /* read last: what lies between the two makes the deadline later, and not earlier */
    uint64_t ns;

    if (ticks <= 0)
        return now_ns;
    /* Rounded up: a guest that finds itself woken too early programs the rest of the time again. */
    ns = tsc_to_ns(cpu->svm, (uint64_t)ticks) + 1;
    return now_ns + MIN(ns, (uint64_t)INT64_MAX - now_ns);
}

void tsc_changed(struct soft_cpu *cpu)
{
    soft_vec_park(cpu);
    lapic_timer_rearm(cpu->lapic);
    kvmclock_update(cpu);
}

/* --- the frequency --- */

struct sample {
    uint64_t tsc, ns;
};

/* The closest of some pairs of readings. An interrupt between the two shows as a wide gap. */
static struct sample sample(void)
{
    struct sample best = {0, 0};
    uint64_t best_gap = UINT64_MAX;

    for (unsigned i = 0; i < SAMPLES; i++) {
        uint64_t before = tsc_host(), gap;
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
        gap = tsc_host() - before;
        if (gap < best_gap) {
            best_gap = gap;
            best.tsc = before + gap / 2;
            best.ns = (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
        }
    }
    return best;
}

static uint64_t measure(uint64_t wait_ns)
{
    struct sample from = sample(), to;
    struct timespec wait = {.tv_nsec = (long)wait_ns};

    nanosleep(&wait, NULL); /* woken early is no harm: the clock tells how long it was */
    do
        to = sample();
    while (to.ns - from.ns < wait_ns / 2);
    return (uint64_t)((unsigned __int128)(to.tsc - from.tsc) * NS_PER_SEC / (to.ns - from.ns));
}

/* What the processor or the hypervisor below us says, or 0. */
static uint64_t reported_hz(void)
{
    unsigned a, b, c, d;

    if (__get_cpuid(0x15, &a, &b, &c, &d) && a && b && c)
        return (uint64_t)c * b / a;
    __cpuid(1, a, b, c, d);
    if (!(c & BIT(31))) /* no hypervisor */
        return 0;
    __cpuid(0x40000000, a, b, c, d);
    if (a < 0x40000010)
        return 0;
    __cpuid(0x40000010, a, b, c, d);
    return (uint64_t)a * 1000;
}

int tsc_init(struct soft_vm *svm, struct err *e)
{
    uint64_t reported = reported_hz(), measured = measure(SHORT_NS);

    /* A report is exact where it is true; after a migration it may be another machine's. */
    if (reported > measured - measured / 1000 && reported < measured + measured / 1000)
        svm->tsc_hz = reported;
    else
        svm->tsc_hz = measure(LONG_NS);
    if (svm->tsc_hz < 1000000)
        return err_set(e, ENOTSUP, "the host's time-stamp counter does not run; the software engine needs one");
    svm->tsc_mult = (uint64_t)(((unsigned __int128)NS_PER_SEC << MULT_SHIFT) / svm->tsc_hz);
    svm->tsc_base = tsc_host();
    return 0;
}
