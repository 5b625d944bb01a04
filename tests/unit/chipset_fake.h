/* What a chipset device sees of Umbra: clocks that stand until they are moved, timers, recorded lines; and checks for every device alike. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/device.h"
#include "base/log.h"
#include "cpu/irq.h"
#include "event/loop.h"
#include "mem/bus.h"

#define FAKE_TIMERS 16
/* More timers than this in a row without time passing: the device would keep the loop's thread busy. */
#define FAKE_EXPIRIES_AT_ONCE 100

static struct {
    uint64_t mono_ns, real_ns;
    struct loop_timer *timers[FAKE_TIMERS];
    uint64_t expiries;
    uint64_t random;
    unsigned complaints;
} fake;

uint64_t clock_monotonic_ns(void)
{
    return fake.mono_ns;
}

uint64_t clock_realtime_ns(void)
{
    return fake.real_ns;
}

void loop_timer_init(struct loop *loop, struct loop_timer *timer, void (*expired)(struct loop_timer *))
{
    *timer = (struct loop_timer){.loop = loop, .expired = expired};
}

void loop_timer_cancel(struct loop_timer *timer)
{
    timer->deadline_ns = 0;
    for (unsigned i = 0; i < FAKE_TIMERS; i++)
        if (fake.timers[i] == timer)
            fake.timers[i] = NULL;
}

void loop_timer_set(struct loop_timer *timer, uint64_t deadline_ns)
{
    unsigned free_slot = 0;

    loop_timer_cancel(timer);
    while (fake.timers[free_slot])
        assert_in_range(++free_slot, 0, FAKE_TIMERS - 1);
    fake.timers[free_slot] = timer;
    timer->deadline_ns = MAX(deadline_ns, 1);
}

void log_guest(struct log_limit *limit, const char *fmt, ...)
{
    (void)limit, (void)fmt;
    fake.complaints++;
}

static inline void fake_start(uint64_t real_ns)
{
    memset(&fake, 0, sizeof(fake));
    fake.mono_ns = 1000 * NS_PER_SEC;
    fake.real_ns = real_ns;
}

/* Time passes; what is due on the way runs in its order. */
static inline void fake_advance(uint64_t ns)
{
    uint64_t end = fake.mono_ns + ns;
    unsigned at_once = 0;

    for (;;) {
        struct loop_timer *next = NULL;
        uint64_t at;

        for (unsigned i = 0; i < FAKE_TIMERS; i++)
            if (fake.timers[i] && fake.timers[i]->deadline_ns <= end && (!next || fake.timers[i]->deadline_ns < next->deadline_ns))
                next = fake.timers[i];
        at = next ? MAX(next->deadline_ns, fake.mono_ns) : end;
        at_once = at == fake.mono_ns ? at_once + 1 : 0;
        fake.real_ns += at - fake.mono_ns;
        fake.mono_ns = at;
        if (!next)
            break;
        assert_in_range(at_once, 0, FAKE_EXPIRIES_AT_ONCE);
        fake.expiries++;
        loop_timer_cancel(next);
        next->expired(next);
    }
}

static inline bool fake_timers_armed(void)
{
    for (unsigned i = 0; i < FAKE_TIMERS; i++)
        if (fake.timers[i])
            return true;
    return false;
}

/* --- lines --- */

struct fake_line {
    bool level;
    unsigned rises;
};

static inline void fake_line_set(void *opaque, unsigned line, bool level)
{
    struct fake_line *l = (struct fake_line *)opaque + line;

    if (level && !l->level)
        l->rises++;
    l->level = level;
}

static inline struct irq_line fake_irq(struct fake_line *lines, unsigned n)
{
    return (struct irq_line){fake_line_set, lines, n};
}

/* --- ports --- */

static inline uint8_t in8(struct bus *bus, uint16_t port)
{
    return (uint8_t)bus_read(bus, port, 1);
}

static inline void out8(struct bus *bus, uint16_t port, uint8_t value)
{
    bus_write(bus, port, 1, value);
}

/* --- saved state --- */

static inline struct state_writer fake_save(const struct device_ops *ops, void *dev)
{
    struct state_writer w;

    state_writer_init(&w);
    assert_int_equal(ops->save(dev, &w), 0);
    return w;
}

static inline int fake_load(const struct device_ops *ops, void *dev, const struct state_writer *w, size_t len)
{
    struct state_reader r;
    struct err e = {{0}};
    int rc;

    state_reader_init(&r, w->data, len);
    rc = ops->load(dev, &r, &e);
    if (rc) {
        assert_int_equal(rc, -EINVAL);
        assert_true(strlen(e.text) > 10);
    } else {
        assert_int_equal(r.pos, len);
    }
    return rc;
}

static inline void assert_saves_as(const struct device_ops *ops, void *dev, const struct state_writer *want)
{
    struct state_writer now = fake_save(ops, dev);

    assert_int_equal(now.len, want->len);
    assert_memory_equal(now.data, want->data, want->len);
    state_writer_fini(&now);
}

/* Writes an element of the nth field of that name. */
static inline void fake_set_field(struct state_writer *w, const char *name, unsigned nth, unsigned element, uint64_t value)
{
    size_t len = strlen(name), at;

    for (at = 0; at + len + 4 <= w->len; at++)
        if (w->data[at] == len && memcmp(w->data + at + 1, name, len) == 0 && nth-- == 0)
            break;
    assert_true(at + len + 4 <= w->len);
    at += 1 + len;
    memcpy(w->data + at + 3 + (size_t)element * w->data[at], &value, w->data[at]);
}

/* That value is refused, and the device is as before. */
static inline void assert_refused(const struct device_ops *ops, void *dev, const char *name, unsigned nth, unsigned element, uint64_t value)
{
    struct state_writer before = fake_save(ops, dev), changed = fake_save(ops, dev);

    fake_set_field(&changed, name, nth, element, value);
    if (fake_load(ops, dev, &changed, changed.len) == 0)
        fail_msg("%s takes %s[%u] = %#llx", ops->name, name, element, (unsigned long long)value);
    assert_saves_as(ops, dev, &before);
    state_writer_fini(&changed);
    state_writer_fini(&before);
}

static inline void assert_truncations_are_refused(const struct device_ops *ops, void *dev)
{
    struct state_writer whole = fake_save(ops, dev);

    for (size_t len = 0; len < whole.len; len++) {
        assert_int_equal(fake_load(ops, dev, &whole, len), -EINVAL);
        assert_saves_as(ops, dev, &whole);
    }
    state_writer_fini(&whole);
}

/* What from saves, to loads, and to is then what from is. */
static inline void assert_round_trip(const struct device_ops *ops, void *from, void *to)
{
    struct state_writer saved = fake_save(ops, from);

    assert_int_equal(fake_load(ops, to, &saved, saved.len), 0);
    assert_saves_as(ops, to, &saved);
    state_writer_fini(&saved);
}

/* --- hostility --- */

static inline void fake_seed(uint64_t seed)
{
    const char *given = getenv("UMBRA_SEED");

    fake.random = given ? strtoull(given, NULL, 0) : seed;
    if (!fake.random)
        fake.random = 1;
    print_message("UMBRA_SEED=%#llx\n", (unsigned long long)fake.random);
}

static inline uint64_t fake_random(void)
{
    fake.random ^= fake.random << 13;
    fake.random ^= fake.random >> 7;
    fake.random ^= fake.random << 17;
    return fake.random * 0x2545f4914f6cdd1dULL >> 11;
}

/* Whatever the guest did, it can be saved and loaded. */
static inline void assert_state_is_loadable(const struct device_ops *ops, void *dev)
{
    struct state_writer saved = fake_save(ops, dev);

    assert_int_equal(fake_load(ops, dev, &saved, saved.len), 0);
    state_writer_fini(&saved);
    saved = fake_save(ops, dev);
    assert_int_equal(fake_load(ops, dev, &saved, saved.len), 0);
    assert_saves_as(ops, dev, &saved);
    state_writer_fini(&saved);
}

/* Time goes on for ns, in which the device may want at most that many timers. */
static inline void assert_is_quiet(uint64_t ns, uint64_t most)
{
    uint64_t before = fake.expiries;

    fake_advance(ns);
    assert_in_range(fake.expiries - before, 0, most);
}

/* Accesses of every size in and around span bytes at one of the bases, while time goes by. */
static inline void fuzz_registers(struct bus *bus, const uint64_t *bases, unsigned count, unsigned span, unsigned rounds,
                                  const struct device_ops *ops, void *dev)
{
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t addr = bases[fake_random() % count] + fake_random() % (span + 4) - 2;
        unsigned size = 1U << fake_random() % 4;

        if (fake_random() % 3)
            bus_write(bus, addr, size, fake_random() << (fake_random() % 2 * 32));
        else
            assert_true((bus_read(bus, addr, size) & ~(UINT64_MAX >> (64 - 8 * size))) == 0);
        if (i % 16 == 0)
            assert_is_quiet(fake_random() % NS_PER_MS, 20);
        if (i % 64 == 0)
            assert_state_is_loadable(ops, dev);
        if (i % 1024 == 0)
            assert_is_quiet(fake_random() % NS_PER_SEC, 11000);
    }
}

/* Saved states with wrong bytes are refused, or give a device that works and keeps the loop's thread no busier than a guest could. */
static inline void fuzz_load(const struct device_ops *ops, void *dev, unsigned rounds)
{
    struct state_writer good = fake_save(ops, dev);

    for (unsigned i = 0; i < rounds; i++) {
        struct state_writer before = fake_save(ops, dev), bad = fake_save(ops, dev);

        for (uint64_t n = 1 + fake_random() % 3; n > 0; n--)
            bad.data[fake_random() % bad.len] = (uint8_t)fake_random();
        if (fake_load(ops, dev, &bad, bad.len))
            assert_saves_as(ops, dev, &before);
        else
            assert_state_is_loadable(ops, dev);
        assert_is_quiet(50 * NS_PER_MS, 600);
        if (i % 8 == 0)
            assert_int_equal(fake_load(ops, dev, &good, good.len), 0);
        state_writer_fini(&bad);
        state_writer_fini(&before);
    }
    state_writer_fini(&good);
}
