/* The MC146818 real-time clock (Motorola data sheet ADI-954) with the memory of a PC's CMOS behind it. */
#include "chipset/cmos.h"

#include <errno.h>
#include <time.h>

#include "base/clock.h"

enum cmos_index {
    RTC_SECOND = 0x00,
    RTC_SECOND_ALARM = 0x01,
    RTC_MINUTE = 0x02,
    RTC_MINUTE_ALARM = 0x03,
    RTC_HOUR = 0x04,
    RTC_HOUR_ALARM = 0x05,
    RTC_WEEKDAY = 0x06,
    RTC_DAY = 0x07,
    RTC_MONTH = 0x08,
    RTC_YEAR = 0x09,
    RTC_A = 0x0a,
    RTC_B = 0x0b,
    RTC_C = 0x0c,
    RTC_D = 0x0d,
    CMOS_EQUIPMENT = 0x14,
    CMOS_BASE_MEMORY = 0x15,     /* KiB, 2 bytes */
    CMOS_EXTENDED_MEMORY = 0x17, /* KiB above 1 MiB, 2 bytes, again at 0x30 */
    CMOS_EXTENDED_MEMORY2 = 0x30,
    CMOS_CHECKSUM = 0x2e, /* over 0x10-0x2d, high byte first */
    CMOS_CENTURY = 0x32,
    CMOS_MEMORY_16M = 0x34, /* 64 KiB units above 16 MiB, 2 bytes */
    CMOS_MEMORY_4G = 0x5b,  /* 64 KiB units above 4 GiB, 3 bytes */
};

#define A_UIP 0x80
#define A_DIVIDER_RESET 0x60 /* both bits */
#define A_RATE 0x0f
#define A_DEFAULT 0x26 /* 32768 Hz time base, 1024 Hz periodic rate */

#define B_SET 0x80
#define B_PIE 0x40
#define B_AIE 0x20
#define B_UIE 0x10
#define B_SQWE 0x08
#define B_BINARY 0x04
#define B_24H 0x02

#define C_IRQF 0x80
#define C_PF 0x40
#define C_AF 0x20
#define C_UF 0x10

#define D_VALID 0x80
#define HOUR_PM 0x80
#define ALARM_ANY 0xc0

#define UIP_NS 244000                /* UIP is set this long before the update (data sheet, "Update cycle") */
#define ALARM_LOOK_NS 10000000000ULL /* the host's date may be stepped while we wait: look again */
#define SECONDS_PER_DAY 86400
#define OFFSET_LIMIT_NS (INT64_MAX / 4 * 3) /* what start_clock() can make, and no overflow beside the host's date of this century */

static const struct state_field fields[] = {
    STATE_FIELD(struct cmos_state, index),       STATE_ARRAY(struct cmos_state, reg),          STATE_FIELD(struct cmos_state, offset_ns),
    STATE_FIELD(struct cmos_state, second_seen), STATE_FIELD(struct cmos_state, tick_seen_ns),
};
static const struct state_desc desc = {"cmos", 1, fields, ARRAY_SIZE(fields)};

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t floor_mod(int64_t a, int64_t b)
{
    return a - floor_div(a, b) * b;
}

static int64_t guest_ns(const struct cmos_state *s)
{
    return (int64_t)clock_realtime_ns() + s->offset_ns;
}

static bool in_divider_reset(const struct cmos_state *s)
{
    return (s->reg[RTC_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

/* The time registers hold what was written to them. */
static bool is_halted(const struct cmos_state *s)
{
    return (s->reg[RTC_B] & B_SET) || in_divider_reset(s);
}

static uint8_t encode(const struct cmos_state *s, int value)
{
    return (uint8_t)(s->reg[RTC_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static int decode(const struct cmos_state *s, uint8_t value)
{
    return s->reg[RTC_B] & B_BINARY ? value : (value >> 4) * 10 + (value & 15);
}

static uint8_t encode_hour(const struct cmos_state *s, int hour)
{
    if (s->reg[RTC_B] & B_24H)
        return encode(s, hour);
    return encode(s, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static int decode_hour(const struct cmos_state *s, uint8_t value)
{
    if (s->reg[RTC_B] & B_24H)
        return decode(s, value);
    return decode(s, value & ~HOUR_PM) % 12 + (value & HOUR_PM ? 12 : 0);
}

/* Writes the running clock's time to the registers. */
static void latch_time(struct cmos_state *s)
{
    time_t seconds = floor_div(guest_ns(s), NS_PER_SEC);
    struct tm tm = {0};
    int year;

    gmtime_r(&seconds, &tm);
    year = (int)floor_mod(tm.tm_year + 1900, 10000);
    s->reg[RTC_SECOND] = encode(s, tm.tm_sec);
    s->reg[RTC_MINUTE] = encode(s, tm.tm_min);
    s->reg[RTC_HOUR] = encode_hour(s, tm.tm_hour);
    s->reg[RTC_WEEKDAY] = encode(s, tm.tm_wday + 1);
    s->reg[RTC_DAY] = encode(s, tm.tm_mday);
    s->reg[RTC_MONTH] = encode(s, tm.tm_mon + 1);
    s->reg[RTC_YEAR] = encode(s, year % 100);
    s->reg[CMOS_CENTURY] = encode(s, year / 100);
}

/* Lets the clock run on from the registers, ns into their second. A date that does not exist is carried over, as by timegm(). */
static void start_clock(struct cmos_state *s, int64_t ns)
{
    struct tm tm = {
        .tm_sec = decode(s, s->reg[RTC_SECOND]),
        .tm_min = decode(s, s->reg[RTC_MINUTE]),
        .tm_hour = decode_hour(s, s->reg[RTC_HOUR]),
        .tm_mday = decode(s, s->reg[RTC_DAY]),
        .tm_mon = decode(s, s->reg[RTC_MONTH]) - 1,
        .tm_year = decode(s, s->reg[CMOS_CENTURY]) % 100 * 100 + decode(s, s->reg[RTC_YEAR]) - 1900,
    };
    /* 146 years on either side of 1970: 64 bits of nanoseconds hold that, and the difference to the host's date too. */
    int64_t limit = INT64_MAX / (int64_t)NS_PER_SEC / 2;
    int64_t seconds = MIN(MAX(timegm(&tm), -limit), limit);

    s->offset_ns = seconds * (int64_t)NS_PER_SEC + ns - (int64_t)clock_realtime_ns();
    s->second_seen = seconds;
}

/* --- flags and interrupts --- */

static bool alarm_matches(uint8_t alarm, uint8_t now)
{
    return (alarm & ALARM_ANY) == ALARM_ANY || alarm == now;
}

/* The first second after `after` at which the alarm goes off; INT64_MAX when its registers name no time of day. */
static int64_t next_alarm(const struct cmos_state *s, int64_t after)
{
    for (int64_t t = after + 1; t <= after + SECONDS_PER_DAY;) {
        int in_day = (int)floor_mod(t, SECONDS_PER_DAY);

        if (!alarm_matches(s->reg[RTC_HOUR_ALARM], encode_hour(s, in_day / 3600)))
            t += 3600 - in_day % 3600;
        else if (!alarm_matches(s->reg[RTC_MINUTE_ALARM], encode(s, in_day / 60 % 60)))
            t += 60 - in_day % 60;
        else if (!alarm_matches(s->reg[RTC_SECOND_ALARM], encode(s, in_day % 60)))
            t++;
        else
            return t;
    }
    return INT64_MAX;
}

/* Periodic ticks per second; 0 = off. Rates 1 and 2 are those of 8 and 9 with this time base. */
static uint64_t periodic_hz(const struct cmos_state *s)
{
    unsigned rate = s->reg[RTC_A] & A_RATE;

    if (!rate || in_divider_reset(s))
        return 0;
    return 32768 >> ((rate < 3 ? rate + 7 : rate) - 1);
}

static uint64_t ticks_at(uint64_t ns, uint64_t hz)
{
    return ns / NS_PER_SEC * hz + ns % NS_PER_SEC * hz / NS_PER_SEC;
}

/* Sets the flags for all that happened since the last look. */
static void settle(struct cmos_state *s, uint64_t now_ns)
{
    uint64_t hz = periodic_hz(s);
    int64_t second;

    if (hz && ticks_at(now_ns, hz) != ticks_at(s->tick_seen_ns, hz))
        s->reg[RTC_C] |= C_PF;
    s->tick_seen_ns = now_ns;
    if (is_halted(s))
        return;
    second = floor_div(guest_ns(s), NS_PER_SEC);
    if (second == s->second_seen)
        return;
    s->reg[RTC_C] |= C_UF;
    if (next_alarm(s, s->second_seen) <= second)
        s->reg[RTC_C] |= C_AF;
    s->second_seen = second;
}

static uint64_t next_event(const struct cmos_state *s, uint64_t now_ns)
{
    uint8_t enabled = s->reg[RTC_B];
    uint64_t at = UINT64_MAX, hz = periodic_hz(s);

    if ((enabled & B_PIE) && hz) {
        uint64_t tick = ticks_at(now_ns, hz) + 1;

        at = tick / hz * NS_PER_SEC + (tick % hz * NS_PER_SEC + hz - 1) / hz;
    }
    if (!is_halted(s) && (enabled & (B_UIE | B_AIE))) {
        int64_t guest = guest_ns(s), second = floor_div(guest, NS_PER_SEC);
        uint64_t to_second = NS_PER_SEC - (uint64_t)floor_mod(guest, NS_PER_SEC);

        if (enabled & B_UIE) {
            at = MIN(at, now_ns + to_second);
        } else {
            int64_t alarm = next_alarm(s, second);

            if (alarm != INT64_MAX)
                at = MIN(at, now_ns + MIN((uint64_t)(alarm - second - 1) * NS_PER_SEC + to_second, ALARM_LOOK_NS));
        }
    }
    return at;
}

/* The interrupt line from the flags; while it stands, nothing more needs a timer. */
static void update(struct cmos *rtc)
{
    struct cmos_state *s = &rtc->state;
    uint64_t now_ns = clock_monotonic_ns(), at;
    bool level;

    settle(s, now_ns);
    level = s->reg[RTC_C] & s->reg[RTC_B] & (C_PF | C_AF | C_UF);
    s->reg[RTC_C] = (s->reg[RTC_C] & ~C_IRQF) | (level ? C_IRQF : 0);
    if (level != rtc->irq_level) {
        rtc->irq_level = level;
        irq_set(&rtc->irq, level);
    }
    at = level ? UINT64_MAX : next_event(s, now_ns);
    if (at == UINT64_MAX)
        loop_timer_cancel(&rtc->timer);
    else
        loop_timer_set(&rtc->timer, at);
}

static void timer_expired(struct loop_timer *timer)
{
    struct cmos *rtc = container_of(timer, struct cmos, timer);

    pthread_mutex_lock(&rtc->lock);
    update(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

/* --- registers --- */

static bool is_time(uint8_t index)
{
    return index == RTC_SECOND || index == RTC_MINUTE || index == RTC_HOUR || (index >= RTC_WEEKDAY && index <= RTC_YEAR) ||
           index == CMOS_CENTURY;
}

/* Registers A and B, which halt the clock and let it go on. */
static void write_control(struct cmos_state *s, uint8_t a, uint8_t b)
{
    bool was_halted = is_halted(s), was_reset = in_divider_reset(s);
    int64_t ns = floor_mod(guest_ns(s), NS_PER_SEC);

    if (!was_halted)
        latch_time(s);
    s->reg[RTC_A] = a & ~A_UIP;
    s->reg[RTC_B] = b & B_SET ? b & ~B_UIE : b;
    if (was_reset && !in_divider_reset(s)) {
        /* The first update comes half a second after the divider's release (data sheet, "Divider control"). */
        s->offset_ns += (int64_t)NS_PER_SEC / 2 - ns;
        ns = (int64_t)NS_PER_SEC / 2;
    }
    if (was_halted && !is_halted(s))
        start_clock(s, ns);
}

static uint8_t read_register(struct cmos *rtc)
{
    struct cmos_state *s = &rtc->state;
    uint8_t index = s->index, value;

    if (is_time(index) && !is_halted(s))
        latch_time(s);
    value = s->reg[index];
    if (index == RTC_A && !is_halted(s) && floor_mod(guest_ns(s), NS_PER_SEC) >= (int64_t)NS_PER_SEC - UIP_NS)
        value |= A_UIP;
    if (index == RTC_C) {
        update(rtc);
        value = s->reg[RTC_C];
        s->reg[RTC_C] = 0;
        update(rtc);
    }
    return value;
}

static void write_register(struct cmos *rtc, uint8_t value)
{
    struct cmos_state *s = &rtc->state;

    if (s->index == RTC_C || s->index == RTC_D)
        return;
    settle(s, clock_monotonic_ns());
    if (s->index == RTC_A) {
        write_control(s, value, s->reg[RTC_B]);
    } else if (s->index == RTC_B) {
        write_control(s, s->reg[RTC_A], value);
    } else if (is_time(s->index) && !is_halted(s)) {
        latch_time(s);
        s->reg[s->index] = value;
        start_clock(s, floor_mod(guest_ns(s), NS_PER_SEC));
    } else {
        s->reg[s->index] = value;
    }
    update(rtc);
}

/* Accesses of more than a byte go byte by byte, as on the ISA bus: a word written to 0x70 is index and value. */
static uint64_t port_read(void *opaque, uint64_t off, unsigned size)
{
    struct cmos *rtc = opaque;
    uint64_t value = 0;

    pthread_mutex_lock(&rtc->lock);
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)((off + i) & 1 ? read_register(rtc) : 0xff) << (8 * i);
    pthread_mutex_unlock(&rtc->lock);
    return value;
}

static void port_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct cmos *rtc = opaque;

    pthread_mutex_lock(&rtc->lock);
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));

        if ((off + i) & 1)
            write_register(rtc, byte);
        else
            rtc->state.index = byte & (CMOS_BYTES - 1); /* bit 7 would mask NMI, and no NMI comes from outside */
    }
    pthread_mutex_unlock(&rtc->lock);
}

static const struct bus_ops ops = {port_read, port_write};

static void store(struct cmos_state *s, unsigned index, unsigned bytes, uint64_t value)
{
    for (unsigned i = 0; i < bytes; i++)
        s->reg[index + i] = (uint8_t)(value >> (8 * i));
}

static void state_power_on(struct cmos_state *s, uint64_t memory_low, uint64_t memory_high)
{
    uint64_t above_1m = memory_low > MIB(1) ? memory_low - MIB(1) : 0;
    uint64_t above_16m = memory_low > MIB(16) ? memory_low - MIB(16) : 0;
    unsigned sum = 0;

    *s = (struct cmos_state){0};
    s->reg[RTC_A] = A_DEFAULT;
    s->reg[RTC_B] = B_24H;
    s->reg[RTC_D] = D_VALID;
    s->reg[CMOS_EQUIPMENT] = 0x02; /* a coprocessor, no floppy */
    store(s, CMOS_BASE_MEMORY, 2, MIN(memory_low >> 10, 640));
    store(s, CMOS_EXTENDED_MEMORY, 2, MIN(above_1m >> 10, UINT16_MAX));
    store(s, CMOS_EXTENDED_MEMORY2, 2, MIN(above_1m >> 10, UINT16_MAX));
    store(s, CMOS_MEMORY_16M, 2, MIN(above_16m >> 16, UINT16_MAX));
    store(s, CMOS_MEMORY_4G, 3, MIN(memory_high >> 16, 0xffffff));
    for (unsigned i = 0x10; i < CMOS_CHECKSUM; i++)
        sum += s->reg[i];
    s->reg[CMOS_CHECKSUM] = (uint8_t)(sum >> 8);
    s->reg[CMOS_CHECKSUM + 1] = (uint8_t)sum;
    s->second_seen = floor_div(guest_ns(s), NS_PER_SEC);
    s->tick_seen_ns = clock_monotonic_ns();
}

int cmos_init(struct cmos *rtc, struct bus *pio, struct loop *loop, struct irq_line irq, uint64_t memory_low, uint64_t memory_high,
              struct err *e)
{
    int rc;

    *rtc = (struct cmos){.bus = pio, .range = {"cmos", 0x70, 2, &ops, rtc}, .irq = irq};
    state_power_on(&rtc->state, memory_low, memory_high);
    loop_timer_init(loop, &rtc->timer, timer_expired);
    rc = pthread_mutex_init(&rtc->lock, NULL);
    if (rc)
        return err_set(e, rc, "cannot create the lock of the real-time clock");
    rc = bus_add(pio, &rtc->range, e);
    if (rc)
        pthread_mutex_destroy(&rtc->lock);
    return rc;
}

void cmos_fini(struct cmos *rtc)
{
    loop_timer_cancel(&rtc->timer);
    bus_remove(rtc->bus, &rtc->range);
    pthread_mutex_destroy(&rtc->lock);
}

void cmos_reset(struct cmos *rtc)
{
    pthread_mutex_lock(&rtc->lock);
    settle(&rtc->state, clock_monotonic_ns());
    rtc->state.reg[RTC_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    rtc->state.reg[RTC_C] = 0;
    update(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

static void device_reset(void *dev)
{
    cmos_reset(dev);
}

static int device_save(void *dev, struct state_writer *w)
{
    struct cmos *rtc = dev;
    struct cmos_state copy;
    uint64_t now_ns;

    pthread_mutex_lock(&rtc->lock);
    now_ns = clock_monotonic_ns();
    copy = rtc->state;
    pthread_mutex_unlock(&rtc->lock);
    settle(&copy, now_ns); /* what happened up to here is flags from here on */
    copy.tick_seen_ns = now_ns - copy.tick_seen_ns;
    return state_save(&desc, &copy, w);
}

static int device_load(void *dev, struct state_reader *r, struct err *e)
{
    struct cmos *rtc = dev;
    struct cmos_state copy = {0};
    int rc = state_load(&desc, &copy, r, e);

    if (rc)
        return rc;
    if (copy.index >= CMOS_BYTES || (copy.reg[RTC_A] & A_UIP) || copy.reg[RTC_D] != D_VALID ||
        (copy.reg[RTC_B] & (B_SET | B_UIE)) == (B_SET | B_UIE) || (copy.reg[RTC_C] & ~(C_IRQF | C_PF | C_AF | C_UF)) ||
        copy.offset_ns > OFFSET_LIMIT_NS || copy.offset_ns < -OFFSET_LIMIT_NS || copy.second_seen > INT64_MAX / 2 ||
        copy.second_seen < INT64_MIN / 2)
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", desc.name);
    pthread_mutex_lock(&rtc->lock);
    copy.tick_seen_ns = clock_monotonic_ns() - copy.tick_seen_ns;
    rtc->state = copy;
    update(rtc);
    pthread_mutex_unlock(&rtc->lock);
    return 0;
}

const struct device_ops cmos_device = {"cmos", device_reset, NULL, device_save, device_load};
