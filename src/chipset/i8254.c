/* The 8254 interval timer (Intel 8254 data sheet 231164) and port 0x61; every count is computed from the clock when it is asked for. */
#include "chipset/i8254.h"

#include <errno.h>

#include "base/clock.h"

/*
 * Interrupts that came too late (the host did not run us) are made up for at twice the rate, at most BACKLOG_MAX of them, and never closer
 * than MIN_INTERVAL_NS: a guest that counts ticks keeps its time, and none can keep the loop's thread busy.
 */
#define BACKLOG_MAX 16
#define MIN_INTERVAL_NS 100000ULL

#define PORT61_GATE2 0x01
#define PORT61_WRITABLE 0x0f
#define PORT61_REFRESH 0x10
#define PORT61_OUT2 0x20
#define REFRESH_NS 15085ULL

#define STATUS_OUT 0x80
#define STATUS_NULL_COUNT 0x40

#define CHANNEL(member) STATE_FIELD(struct i8254_channel, member)
static const struct state_field channel_fields[] = {
    CHANNEL(start),     CHANNEL(paused),    CHANNEL(reload), CHANNEL(next_reload),   CHANNEL(backlog),        CHANNEL(fired),
    CHANNEL(mode),      CHANNEL(bcd),       CHANNEL(access), CHANNEL(gate),          CHANNEL(counting),       CHANNEL(write_high),
    CHANNEL(write_low), CHANNEL(read_high), CHANNEL(latch),  CHANNEL(count_latched), CHANNEL(status_latched), CHANNEL(status),
};
static const struct state_desc channel_desc = {"i8254 channel", 1, channel_fields, ARRAY_SIZE(channel_fields)};

static const struct state_field port61_fields[] = {STATE_FIELD(struct i8254_state, port61)};
static const struct state_desc port61_desc = {"port 61", 1, port61_fields, ARRAY_SIZE(port61_fields)};

static uint64_t ticks_of(uint64_t ns)
{
    return ns / NS_PER_SEC * I8254_HZ + ns % NS_PER_SEC * I8254_HZ / NS_PER_SEC;
}

/* The first nanosecond of a tick. */
static uint64_t ns_of(uint64_t ticks)
{
    return ticks / I8254_HZ * NS_PER_SEC + (ticks % I8254_HZ * NS_PER_SEC + I8254_HZ - 1) / I8254_HZ;
}

static uint64_t ticks_now(void)
{
    return ticks_of(clock_monotonic_ns());
}

static bool is_periodic(const struct i8254_channel *c)
{
    return c->mode == 2 || c->mode == 3;
}

static bool is_triggered(const struct i8254_channel *c)
{
    return c->mode == 1 || c->mode == 5;
}

/* A count of 1 is illegal in the periodic modes (data sheet, "Mode 2"). */
static uint32_t period_of(const struct i8254_channel *c)
{
    return is_periodic(c) ? MAX(c->reload, 2) : MAX(c->reload, 1);
}

static uint64_t elapsed(const struct i8254_channel *c, uint64_t now)
{
    if (!c->gate && !is_triggered(c))
        return c->paused;
    return now - c->start;
}

static void take_next_reload(struct i8254_channel *c)
{
    if (c->next_reload)
        c->reload = c->next_reload;
    c->next_reload = 0;
}

/* Moves a periodic channel into its present period, and counts the ends of periods, or the end of a single shot, as interrupts due. */
static void settle(struct i8254_channel *c, uint64_t now)
{
    uint64_t ended = 0, periods;

    if (!c->counting)
        return;
    if (!is_periodic(c)) {
        /* Mode 0 rises at the terminal count, mode 4 one tick after it. Modes 1 and 5 need a gate, which channel 0 has not. */
        if (!c->fired && !is_triggered(c) && elapsed(c, now) >= period_of(c) + (c->mode == 4)) {
            c->fired = 1;
            ended = 1;
        }
    } else if (c->gate) {
        if (c->next_reload && now - c->start >= period_of(c)) {
            c->start += period_of(c);
            take_next_reload(c);
            ended = 1;
        }
        periods = (now - c->start) / period_of(c);
        c->start += periods * period_of(c);
        ended += periods;
    }
    c->backlog = (uint32_t)MIN(c->backlog + ended, BACKLOG_MAX);
}

static bool out_level(const struct i8254_channel *c, uint64_t now)
{
    uint64_t d, n = period_of(c);

    if (!c->counting)
        return c->mode != 0;
    d = elapsed(c, now);
    switch (c->mode) {
    case 0:
    case 1: return d >= n;
    case 2: return !c->gate || d % n != n - 1;
    case 3: return !c->gate || d % n < (n + 1) / 2;
    default: return d != n;
    }
}

static uint16_t to_bcd(uint32_t value)
{
    return (uint16_t)(value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 | value / 1000 % 10 << 12);
}

static uint32_t from_bcd(uint16_t value)
{
    return (value & 15U) + (value >> 4 & 15U) * 10 + (value >> 8 & 15U) * 100 + (value >> 12) * 1000U;
}

/* The counting element as the guest reads it. */
static uint16_t count_of(const struct i8254_channel *c, uint64_t now)
{
    uint32_t modulus = c->bcd ? 10000 : 65536, count;
    uint64_t d, n = period_of(c);

    if (!c->counting)
        return 0;
    d = elapsed(c, now);
    if (c->mode == 2)
        count = (uint32_t)(n - d % n);
    else if (c->mode == 3) /* counts down by two, twice a period */
        count = (uint32_t)(n - d * 2 % n) & ~1U;
    else
        count = (uint32_t)((n + modulus - d % modulus) % modulus);
    return c->bcd ? to_bcd(count % modulus) : (uint16_t)count;
}

static void set_irq(struct i8254 *pit, bool level)
{
    if (pit->irq_level == level)
        return;
    pit->irq_level = level;
    irq_set(&pit->irq, level);
}

/* Channel 0: raises what is due, and arms the timer for what comes next. */
static void update_irq(struct i8254 *pit)
{
    struct i8254_channel *c = &pit->state.channel[0];
    uint64_t now_ns = clock_monotonic_ns(), deadline = 0;

    settle(c, ticks_of(now_ns));
    if (c->backlog && now_ns >= pit->earliest_ns) {
        c->backlog--;
        pit->earliest_ns = now_ns + MAX(is_periodic(c) ? ns_of(period_of(c)) / 2 : 0, MIN_INTERVAL_NS);
        set_irq(pit, false);
        set_irq(pit, true);
    }
    if (c->backlog)
        deadline = pit->earliest_ns;
    else if (c->counting && is_periodic(c))
        deadline = MAX(ns_of(c->start + period_of(c)), pit->earliest_ns);
    else if (c->counting && !is_triggered(c) && !c->fired)
        deadline = ns_of(c->start + period_of(c) + (c->mode == 4));
    if (deadline)
        loop_timer_set(&pit->timer, deadline);
    else
        loop_timer_cancel(&pit->timer);
}

static void timer_expired(struct loop_timer *timer)
{
    struct i8254 *pit = container_of(timer, struct i8254, timer);

    pthread_mutex_lock(&pit->lock);
    update_irq(pit);
    pthread_mutex_unlock(&pit->lock);
}

static void set_gate(struct i8254_channel *c, bool gate, uint64_t now)
{
    if (gate == c->gate)
        return;
    settle(c, now);
    c->gate = gate;
    if (!gate) {
        c->paused = c->counting ? now - c->start : 0;
    } else if (is_triggered(c)) {
        take_next_reload(c);
        c->counting = c->reload != 0;
        c->start = now;
    } else if (is_periodic(c)) {
        take_next_reload(c);
        c->start = now;
    } else {
        c->start = now - c->paused;
    }
}

static void load_count(struct i8254_channel *c, uint16_t value, uint64_t now)
{
    uint32_t count = c->bcd ? from_bcd(value) : value;

    if (!count)
        count = c->bcd ? 10000 : 65536;
    if (is_triggered(c) || (is_periodic(c) && c->counting)) {
        c->next_reload = count;
        return;
    }
    c->reload = count;
    c->start = now;
    c->paused = 0;
    c->fired = 0;
    c->counting = 1;
}

static void write_count(struct i8254 *pit, unsigned n, uint8_t value)
{
    struct i8254_channel *c = &pit->state.channel[n];
    uint64_t now = ticks_now();

    settle(c, now);
    if (c->access == 1) {
        load_count(c, value, now);
    } else if (c->access == 2) {
        load_count(c, (uint16_t)(value << 8), now);
    } else if (!c->write_high) {
        c->write_low = value;
        c->write_high = 1;
        if (c->mode == 0)
            c->counting = 0; /* the first byte stops the count and takes OUT low */
    } else {
        c->write_high = 0;
        load_count(c, (uint16_t)(value << 8 | c->write_low), now);
    }
    if (n == 0) {
        if (c->mode == 0)
            set_irq(pit, false);
        update_irq(pit);
    }
}

static void latch_count(struct i8254_channel *c, uint64_t now)
{
    if (c->count_latched)
        return;
    settle(c, now);
    c->latch = count_of(c, now);
    c->count_latched = 1;
}

static void latch_status(struct i8254_channel *c, uint64_t now)
{
    bool null_count = !c->reload || c->next_reload;

    if (c->status_latched)
        return;
    settle(c, now);
    c->status = (uint8_t)((out_level(c, now) ? STATUS_OUT : 0) | (null_count ? STATUS_NULL_COUNT : 0) | c->access << 4 | c->mode << 1 |
                          c->bcd);
    c->status_latched = 1;
}

static void write_control(struct i8254 *pit, uint8_t value)
{
    unsigned n = value >> 6, mode = value >> 1 & 7;
    uint64_t now = ticks_now();
    struct i8254_channel *c;

    if (n == 3) { /* read-back */
        for (unsigned i = 0; i < 3; i++) {
            if (!(value & BIT(i + 1)))
                continue;
            if (!(value & 0x20))
                latch_count(&pit->state.channel[i], now);
            if (!(value & 0x10))
                latch_status(&pit->state.channel[i], now);
        }
        return;
    }
    c = &pit->state.channel[n];
    if (!(value & 0x30)) {
        latch_count(c, now);
        return;
    }
    *c = (struct i8254_channel){
        .access = value >> 4 & 3,
        .mode = (uint8_t)(mode > 5 ? mode - 4 : mode),
        .bcd = value & 1,
        .gate = c->gate,
    };
    if (n == 0) {
        /* What was due by the old count holds back no interrupt of the new one. */
        pit->earliest_ns = MIN(pit->earliest_ns, clock_monotonic_ns() + MIN_INTERVAL_NS);
        set_irq(pit, c->mode != 0);
        update_irq(pit);
    }
}

static uint8_t read_count(struct i8254_channel *c)
{
    uint64_t now = ticks_now();
    uint16_t count;
    bool high;

    if (c->status_latched) {
        c->status_latched = 0;
        return c->status;
    }
    settle(c, now);
    count = c->count_latched ? c->latch : count_of(c, now);
    high = c->access == 2 || (c->access == 3 && c->read_high);
    if (c->access == 3)
        c->read_high ^= 1;
    if (c->access != 3 || high)
        c->count_latched = 0;
    return (uint8_t)(high ? count >> 8 : count);
}

/* Accesses of more than a byte go byte by byte, as on the ISA bus. The control word cannot be read. */
static uint64_t ports_read(void *opaque, uint64_t off, unsigned size)
{
    struct i8254 *pit = opaque;
    uint64_t value = 0;

    pthread_mutex_lock(&pit->lock);
    for (unsigned i = 0; i < size; i++) {
        unsigned n = (unsigned)(off + i) & 3;

        value |= (uint64_t)(n < 3 ? read_count(&pit->state.channel[n]) : 0xff) << (8 * i);
    }
    pthread_mutex_unlock(&pit->lock);
    return value;
}

static void ports_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct i8254 *pit = opaque;

    pthread_mutex_lock(&pit->lock);
    for (unsigned i = 0; i < size; i++) {
        unsigned n = (unsigned)(off + i) & 3;
        uint8_t byte = (uint8_t)(value >> (8 * i));

        if (n < 3)
            write_count(pit, n, byte);
        else
            write_control(pit, byte);
    }
    pthread_mutex_unlock(&pit->lock);
}

static uint64_t port61_read(void *opaque, uint64_t off, unsigned size)
{
    struct i8254 *pit = opaque;
    uint64_t now_ns, value;

    (void)off;
    (void)size;
    pthread_mutex_lock(&pit->lock);
    now_ns = clock_monotonic_ns();
    settle(&pit->state.channel[2], ticks_of(now_ns));
    value = pit->state.port61;
    value |= now_ns / REFRESH_NS & 1 ? PORT61_REFRESH : 0;
    value |= out_level(&pit->state.channel[2], ticks_of(now_ns)) ? PORT61_OUT2 : 0;
    pthread_mutex_unlock(&pit->lock);
    return value;
}

static void port61_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct i8254 *pit = opaque;

    (void)off;
    (void)size;
    pthread_mutex_lock(&pit->lock);
    pit->state.port61 = value & PORT61_WRITABLE;
    set_gate(&pit->state.channel[2], value & PORT61_GATE2, ticks_now());
    pthread_mutex_unlock(&pit->lock);
}

static const struct bus_ops ports_ops = {ports_read, ports_write};
static const struct bus_ops port61_ops = {port61_read, port61_write};

/*
 * No firmware runs that would program a tick, so every channel waits for its first count (the chip's power-on state is undefined); OUT is
 * high, as in the mode 3 that a BIOS leaves, so that programming channel 0 is no edge.
 */
static void state_reset(struct i8254_state *s)
{
    *s = (struct i8254_state){0};
    for (unsigned i = 0; i < 3; i++)
        s->channel[i] = (struct i8254_channel){.mode = 3, .access = 3, .gate = i != 2};
}

int i8254_init(struct i8254 *pit, struct bus *pio, struct loop *loop, struct irq_line irq, struct err *e)
{
    int rc;

    *pit = (struct i8254){
        .bus = pio,
        .ports = {"i8254", 0x40, 4, &ports_ops, pit},
        .port61 = {"port 61", 0x61, 1, &port61_ops, pit},
        .irq = irq,
    };
    state_reset(&pit->state);
    loop_timer_init(loop, &pit->timer, timer_expired);
    rc = pthread_mutex_init(&pit->lock, NULL);
    if (rc)
        return err_set(e, rc, "cannot create the lock of the interval timer");
    rc = bus_add(pio, &pit->ports, e);
    if (rc)
        goto destroy_lock;
    rc = bus_add(pio, &pit->port61, e);
    if (rc)
        goto remove_ports;
    set_irq(pit, true);
    return 0;

remove_ports:
    bus_remove(pio, &pit->ports);
destroy_lock:
    pthread_mutex_destroy(&pit->lock);
    return rc;
}

void i8254_fini(struct i8254 *pit)
{
    loop_timer_cancel(&pit->timer);
    bus_remove(pit->bus, &pit->port61);
    bus_remove(pit->bus, &pit->ports);
    pthread_mutex_destroy(&pit->lock);
}

void i8254_reset(struct i8254 *pit)
{
    pthread_mutex_lock(&pit->lock);
    state_reset(&pit->state);
    pit->earliest_ns = 0;
    set_irq(pit, true);
    update_irq(pit);
    pthread_mutex_unlock(&pit->lock);
}

static void device_reset(void *dev)
{
    i8254_reset(dev);
}

static int device_save(void *dev, struct state_writer *w)
{
    struct i8254 *pit = dev;
    struct i8254_state copy;
    uint64_t now;

    pthread_mutex_lock(&pit->lock);
    now = ticks_now();
    copy = pit->state;
    pthread_mutex_unlock(&pit->lock);
    for (unsigned i = 0; i < 3; i++) {
        copy.channel[i].start = now - copy.channel[i].start;
        state_save(&channel_desc, &copy.channel[i], w);
    }
    return state_save(&port61_desc, &copy, w);
}

static bool is_possible(const struct i8254_channel *c)
{
    return c->mode <= 5 && c->access >= 1 && c->access <= 3 && c->bcd <= 1 && c->gate <= 1 && c->reload <= 65536 &&
           c->next_reload <= 65536 && c->backlog <= BACKLOG_MAX && c->counting <= 1 && (!c->counting || c->reload) && c->fired <= 1 &&
           c->write_high <= 1 && c->read_high <= 1 && c->count_latched <= 1 && c->status_latched <= 1;
}

/* The gates of channels 0 and 1 are wired, that of channel 2 is a bit of port 0x61. */
static bool gates_are_possible(const struct i8254_state *s)
{
    return s->channel[0].gate && s->channel[1].gate && s->channel[2].gate == (s->port61 & PORT61_GATE2);
}

static int device_load(void *dev, struct state_reader *r, struct err *e)
{
    struct i8254 *pit = dev;
    struct i8254_state copy;
    const struct i8254_channel *c = &copy.channel[0];
    uint64_t now;
    int rc;

    state_reset(&copy);
    for (unsigned i = 0; i < 3; i++) {
        rc = state_load(&channel_desc, &copy.channel[i], r, e);
        if (rc)
            return rc;
        if (!is_possible(&copy.channel[i]))
            return err_set(e, EINVAL, "the saved state of %s holds impossible values", channel_desc.name);
    }
    rc = state_load(&port61_desc, &copy, r, e);
    if (rc)
        return rc;
    if ((copy.port61 & ~PORT61_WRITABLE) || !gates_are_possible(&copy))
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", port61_desc.name);
    pthread_mutex_lock(&pit->lock);
    now = ticks_now();
    for (unsigned i = 0; i < 3; i++)
        copy.channel[i].start = now - copy.channel[i].start;
    pit->state = copy;
    /* Loading is no interrupt: what is due comes later, and the line is as it was. */
    pit->earliest_ns = clock_monotonic_ns() + MIN_INTERVAL_NS;
    set_irq(pit, c->mode != 0 || (c->counting && c->fired && !c->backlog));
    update_irq(pit);
    pthread_mutex_unlock(&pit->lock);
    return 0;
}

const struct device_ops i8254_device = {"i8254", device_reset, NULL, device_save, device_load};
