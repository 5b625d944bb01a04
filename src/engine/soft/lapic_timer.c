/* The local APIC's timer: one-shot, periodic and TSC-deadline, on the I/O loop's timers (SDM vol. 3 11.5.4). */
#include <errno.h>

#include "base/clock.h"
#include "engine/soft/lapic_state.h"
#include "engine/soft/tsc.h"

/* A guest that asks for less would only keep the loop's thread busy. */
#define PERIOD_MIN_NS (100 * 1000ULL)

_Static_assert(LAPIC_TIMER_HZ == NS_PER_SEC, "a tick is a nanosecond below");

static unsigned divide_shift(uint32_t divide)
{
    return (((divide & 3) | (divide >> 1 & 4)) + 1) & 7; /* figure 11-10: 111 divides by 1 */
}

static enum lapic_timer_mode timer_mode(const struct soft_lapic *l)
{
    return LVT_TIMER_MODE(atomic_load(&l->lvt[LVT_TIMER]));
}

static uint64_t period_ns(const struct soft_lapic *l)
{
    uint64_t ns = (uint64_t)l->initial_count << divide_shift(l->divide);

    return timer_mode(l) == TIMER_PERIODIC ? MAX(ns, PERIOD_MIN_NS) : ns;
}

/* Lock held. Where the timer stands now decides when it fires next. */
static void rearm(struct soft_lapic *l)
{
    bool masked = atomic_load(&l->lvt[LVT_TIMER]) & LVT_MASKED;
    uint64_t now = clock_monotonic_ns(), period;

    l->due_ns = 0;
    switch (timer_mode(l)) {
    case TIMER_ONE_SHOT:
        if (l->initial_count && !l->expired && !masked)
            l->due_ns = l->start_ns + period_ns(l);
        break;
    case TIMER_PERIODIC:
        period = period_ns(l);
        if (l->initial_count && !masked)
            l->due_ns = l->start_ns + ((now - l->start_ns) / period + 1) * period;
        break;
    case TIMER_TSC_DEADLINE: /* masked or not: the MSR goes to 0 when it is reached */
        if (l->tsc_deadline)
            l->due_ns = tsc_deadline_ns(l->cpu, l->tsc_deadline);
        break;
    default: /* mode 3 is reserved: stopped */ break;
    }
    if (l->due_ns)
        loop_timer_set(&l->timer, l->due_ns);
    else
        loop_timer_cancel(&l->timer);
}

/* Loop thread. */
static void timer_expired(struct loop_timer *timer)
{
    struct soft_lapic *l = container_of(timer, struct soft_lapic, timer);
    uint64_t now = clock_monotonic_ns();
    bool fires;

    pthread_mutex_lock(&l->lock);
    /* The vCPU may have moved or stopped the timer after the loop took it off its heap. */
    fires = l->due_ns && now >= l->due_ns;
    if (fires) {
        l->tsc_deadline = 0;
        l->expired = true;
        if (timer_mode(l) == TIMER_PERIODIC) {
            uint64_t period = period_ns(l);

            /* Ticks that nobody could take are lost, not owed: one interrupt, and on with the old grid. */
            l->due_ns += ((now - l->due_ns) / period + 1) * period;
            loop_timer_set(&l->timer, l->due_ns);
        } else {
            l->due_ns = 0;
        }
    }
    pthread_mutex_unlock(&l->lock);
    if (fires)
        lapic_local(l, LVT_TIMER, NULL);
}

int lapic_timer_init(struct soft_lapic *l, struct err *e)
{
    int rc = pthread_mutex_init(&l->lock, NULL);

    if (rc)
        return err_set(e, rc, "cannot create the lock of a local APIC's timer");
    loop_timer_init(l->cpu->svm->vm->loop, &l->timer, timer_expired);
    return 0;
}

void lapic_timer_fini(struct soft_lapic *l)
{
    loop_timer_cancel(&l->timer);
    pthread_mutex_destroy(&l->lock);
}

void lapic_timer_load(struct soft_lapic *l, uint32_t initial, uint32_t current, uint32_t divide, uint64_t deadline)
{
    pthread_mutex_lock(&l->lock);
    l->initial_count = initial;
    l->divide = divide & 0xb;
    l->expired = current == 0;
    l->start_ns = clock_monotonic_ns() - ((uint64_t)(initial - MIN(current, initial)) << divide_shift(l->divide));
    l->tsc_deadline = deadline;
    rearm(l);
    pthread_mutex_unlock(&l->lock);
}

void lapic_timer_reset(struct soft_lapic *l)
{
    lapic_timer_load(l, 0, 0, 0, 0);
}

void lapic_timer_set_lvt(struct soft_lapic *l, uint32_t value)
{
    uint32_t old;

    pthread_mutex_lock(&l->lock);
    /* A one-shot that ran out while masked has passed unseen. */
    old = atomic_load(&l->lvt[LVT_TIMER]);
    if ((old & LVT_MASKED) && timer_mode(l) == TIMER_ONE_SHOT && clock_monotonic_ns() - l->start_ns >= period_ns(l))
        l->expired = true;
    atomic_store(&l->lvt[LVT_TIMER], value);
    /* 11.5.4.1: going to or from TSC-deadline mode disarms the timer. */
    if ((LVT_TIMER_MODE(old) == TIMER_TSC_DEADLINE) != (LVT_TIMER_MODE(value) == TIMER_TSC_DEADLINE)) {
        l->tsc_deadline = 0;
        l->initial_count = 0;
    }
    rearm(l);
    pthread_mutex_unlock(&l->lock);
}

void lapic_timer_set_count(struct soft_lapic *l, uint32_t value)
{
    pthread_mutex_lock(&l->lock);
    if (timer_mode(l) != TIMER_TSC_DEADLINE) {
        l->initial_count = value;
        l->start_ns = clock_monotonic_ns();
        l->expired = false;
        rearm(l);
    }
    pthread_mutex_unlock(&l->lock);
}

void lapic_timer_set_divide(struct soft_lapic *l, uint32_t value)
{
    pthread_mutex_lock(&l->lock);
    if (l->divide != (value & 0xb)) {
        l->divide = value & 0xb;
        l->start_ns = clock_monotonic_ns(); /* a running count begins again at the new rate */
        rearm(l);
    }
    pthread_mutex_unlock(&l->lock);
}

void lapic_timer_set_deadline(struct soft_lapic *l, uint64_t value)
{
    bool reached = false;

    pthread_mutex_lock(&l->lock);
    if (timer_mode(l) == TIMER_TSC_DEADLINE) {
        reached = value && tsc_guest(l->cpu) >= value;
        l->tsc_deadline = reached ? 0 : value;
        rearm(l);
    }
    pthread_mutex_unlock(&l->lock);
    if (reached)
        lapic_local(l, LVT_TIMER, l->cpu);
}

uint64_t lapic_timer_deadline(struct soft_lapic *l)
{
    uint64_t value;

    pthread_mutex_lock(&l->lock);
    value = l->tsc_deadline;
    pthread_mutex_unlock(&l->lock);
    return value;
}

uint32_t lapic_timer_count(struct soft_lapic *l)
{
    uint64_t period, elapsed, left = 0;

    pthread_mutex_lock(&l->lock);
    period = period_ns(l);
    elapsed = clock_monotonic_ns() - l->start_ns;
    if (l->initial_count && timer_mode(l) == TIMER_PERIODIC)
        left = period - elapsed % period;
    else if (l->initial_count && timer_mode(l) == TIMER_ONE_SHOT && !l->expired && elapsed < period)
        left = period - elapsed;
    left = (left + BIT(divide_shift(l->divide)) - 1) >> divide_shift(l->divide);
    left = MIN(left, l->initial_count);
    pthread_mutex_unlock(&l->lock);
    return (uint32_t)left;
}

void lapic_timer_rearm(struct soft_lapic *l)
{
    pthread_mutex_lock(&l->lock);
    rearm(l);
    pthread_mutex_unlock(&l->lock);
}
