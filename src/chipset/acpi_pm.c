/* ACPI fixed hardware (ACPI 6.4 4.8.3): PM1 event and control registers, the PM timer, the way to S5. */
#include "chipset/acpi_pm.h"

#include <errno.h>

#include "base/clock.h"

#define PM1_BYTES 6
#define REG_STATUS 0
#define REG_ENABLE 2
#define REG_CONTROL 4

/* PM1 status and enable bits (tables 4.11 and 4.12). */
#define TMR BIT(0)
#define BUS_MASTER BIT(4)
#define GLOBAL BIT(5)
#define POWER_BUTTON BIT(8)
#define RTC_ALARM BIT(10) /* never set: FIX_RTC. Linux enables it all the same, and reads back whether it could */
#define WAKE BIT(15)
#define STATUS_BITS (TMR | BUS_MASTER | GLOBAL | POWER_BUTTON | RTC_ALARM | WAKE)
#define ENABLE_BITS (TMR | GLOBAL | POWER_BUTTON | RTC_ALARM)

/* PM1 control bits (table 4.13). */
#define SCI_EN BIT(0)
#define BM_RLD BIT(1)
#define SLP_TYP(control) ((control) >> 10 & 7)
#define SLP_EN BIT(13)
#define CONTROL_BITS (BM_RLD | 7U << 10)

#define CARRY_TICKS BIT(31) /* TMR_STS is set whenever bit 31 of the 32-bit timer changes (4.8.2.1) */

static const struct state_field fields[] = {
    STATE_FIELD(struct acpi_pm_state, status),       STATE_FIELD(struct acpi_pm_state, enable),
    STATE_FIELD(struct acpi_pm_state, control),      STATE_FIELD(struct acpi_pm_state, timer_zero_ns),
    STATE_FIELD(struct acpi_pm_state, carries_seen),
};
static const struct state_desc desc = {"acpi_pm", 1, fields, ARRAY_SIZE(fields)};

/* --- the timer --- */

static uint64_t ticks(const struct acpi_pm_state *s, uint64_t now_ns)
{
    return (uint64_t)((unsigned __int128)(now_ns - s->timer_zero_ns) * ACPI_PM_TIMER_HZ / NS_PER_SEC);
}

/* CLOCK_MONOTONIC at which the timer has counted n ticks. */
static uint64_t tick_ns(const struct acpi_pm_state *s, uint64_t n)
{
    return s->timer_zero_ns + (uint64_t)(((unsigned __int128)n * NS_PER_SEC + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ);
}

static uint16_t status(const struct acpi_pm_state *s, uint64_t now_ns)
{
    return s->status | (ticks(s, now_ns) / CARRY_TICKS != s->carries_seen ? TMR : 0);
}

/* The SCI and the next carry follow from the registers. Lock held. */
static void update(struct acpi_pm *pm)
{
    struct acpi_pm_state *s = &pm->state;
    uint64_t now = clock_monotonic_ns();
    bool level = (status(s, now) & s->enable) != 0;

    if (level != pm->sci_level) {
        pm->sci_level = level;
        irq_set(&pm->sci, level);
    }
    if ((s->enable & TMR) && !(status(s, now) & TMR))
        loop_timer_set(&pm->carry, tick_ns(s, (s->carries_seen + 1) * CARRY_TICKS));
    else
        loop_timer_cancel(&pm->carry);
}

static void carried(struct loop_timer *t)
{
    struct acpi_pm *pm = container_of(t, struct acpi_pm, carry);

    pthread_mutex_lock(&pm->lock);
    update(pm);
    pthread_mutex_unlock(&pm->lock);
}

/* --- registers --- */

static uint16_t read_word(const struct acpi_pm_state *s, unsigned reg)
{
    switch (reg) {
    case REG_STATUS: return status(s, clock_monotonic_ns());
    case REG_ENABLE: return s->enable;
    default: return s->control;
    }
}

/* Status bits are cleared by writing ones. True when the guest asked for S5. */
static bool write_word(struct acpi_pm *pm, unsigned reg, uint16_t value, uint16_t mask)
{
    struct acpi_pm_state *s = &pm->state;

    switch (reg) {
    case REG_STATUS:
        s->status &= ~(value & mask & STATUS_BITS);
        if (value & mask & TMR)
            s->carries_seen = ticks(s, clock_monotonic_ns()) / CARRY_TICKS;
        return false;
    case REG_ENABLE: s->enable = (s->enable & ~mask) | (value & mask & ENABLE_BITS); return false;
    default: break;
    }
    s->control = (s->control & (~mask | SCI_EN)) | (value & mask & CONTROL_BITS);
    if (!(value & mask & SLP_EN))
        return false;
    if (SLP_TYP(s->control) == ACPI_SLP_TYP_S5)
        return true;
    log_guest(&pm->complaints, "sleep type %u is none of this machine's: only S5 (%u) is", (unsigned)SLP_TYP(s->control), ACPI_SLP_TYP_S5);
    return false;
}

static uint64_t pm1_read(void *opaque, uint64_t off, unsigned size)
{
    struct acpi_pm *pm = opaque;
    uint64_t value = 0;

    pthread_mutex_lock(&pm->lock);
    for (unsigned i = 0; i < size; i++) {
        unsigned at = (unsigned)off + i;

        value |= (uint64_t)(uint8_t)(read_word(&pm->state, at & ~1U) >> 8 * (at & 1)) << 8 * i;
    }
    pthread_mutex_unlock(&pm->lock);
    return value;
}

static void pm1_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct acpi_pm *pm = opaque;
    bool power_off = false;

    pthread_mutex_lock(&pm->lock);
    /* A register at a time, with the bytes of it that the access covers. */
    for (unsigned reg = (unsigned)off & ~1U; reg < off + size; reg += 2) {
        uint16_t word = 0, mask = 0;

        for (unsigned b = 0; b < 2; b++)
            if (reg + b >= off && reg + b < off + size) {
                word |= (uint16_t)((value >> 8 * (reg + b - off) & 0xff) << 8 * b);
                mask |= (uint16_t)(0xff << 8 * b);
            }
        power_off |= write_word(pm, reg, word, mask);
    }
    update(pm);
    pthread_mutex_unlock(&pm->lock);
    if (power_off)
        pm->power_off(pm->opaque);
}

static uint64_t timer_read(void *opaque, uint64_t off, unsigned size)
{
    struct acpi_pm *pm = opaque;
    uint32_t value;

    (void)size;
    pthread_mutex_lock(&pm->lock);
    value = (uint32_t)ticks(&pm->state, clock_monotonic_ns());
    pthread_mutex_unlock(&pm->lock);
    return value >> 8 * off;
}

static void timer_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    (void)opaque, (void)off, (void)size, (void)value; /* read-only (4.8.3.3) */
}

static const struct bus_ops pm1_ops = {pm1_read, pm1_write};
static const struct bus_ops timer_ops = {timer_read, timer_write};

/* --- life --- */

static void state_reset(struct acpi_pm_state *s)
{
    *s = (struct acpi_pm_state){.control = SCI_EN, .timer_zero_ns = clock_monotonic_ns()};
}

int acpi_pm_init(struct acpi_pm *pm, struct bus *pio, struct loop *loop, struct irq_line sci, void (*power_off)(void *opaque), void *opaque,
                 struct err *e)
{
    int error;

    *pm = (struct acpi_pm){.bus = pio, .sci = sci, .power_off = power_off, .opaque = opaque};
    pm->pm1 = (struct bus_range){.name = "ACPI PM1", .base = ACPI_PM1_EVENT_PORT, .size = PM1_BYTES, .ops = &pm1_ops, .opaque = pm};
    pm->pm_timer = (struct bus_range){.name = "ACPI PM timer", .base = ACPI_PM_TIMER_PORT, .size = 4, .ops = &timer_ops, .opaque = pm};
    pthread_mutex_init(&pm->lock, NULL);
    loop_timer_init(loop, &pm->carry, carried);
    state_reset(&pm->state);
    error = bus_add(pio, &pm->pm1, e);
    if (error)
        goto destroy_lock;
    error = bus_add(pio, &pm->pm_timer, e);
    if (error)
        goto remove_pm1;
    return 0;

remove_pm1:
    bus_remove(pio, &pm->pm1);
destroy_lock:
    pthread_mutex_destroy(&pm->lock);
    return error;
}

void acpi_pm_fini(struct acpi_pm *pm)
{
    loop_timer_cancel(&pm->carry);
    bus_remove(pm->bus, &pm->pm_timer);
    bus_remove(pm->bus, &pm->pm1);
    pthread_mutex_destroy(&pm->lock);
}

void acpi_pm_reset(struct acpi_pm *pm)
{
    pthread_mutex_lock(&pm->lock);
    state_reset(&pm->state);
    update(pm);
    pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
    pthread_mutex_lock(&pm->lock);
    pm->state.status |= POWER_BUTTON;
    update(pm);
    pthread_mutex_unlock(&pm->lock);
}

bool acpi_pm_power_button_enabled(struct acpi_pm *pm)
{
    bool enabled;

    pthread_mutex_lock(&pm->lock);
    enabled = pm->state.enable & POWER_BUTTON;
    pthread_mutex_unlock(&pm->lock);
    return enabled;
}

static void device_reset(void *dev)
{
    acpi_pm_reset(dev);
}

static int device_save(void *dev, struct state_writer *w)
{
    struct acpi_pm *pm = dev;
    struct acpi_pm_state copy;

    pthread_mutex_lock(&pm->lock);
    copy = pm->state;
    copy.timer_zero_ns = clock_monotonic_ns() - copy.timer_zero_ns;
    pthread_mutex_unlock(&pm->lock);
    return state_save(&desc, &copy, w);
}

static int device_load(void *dev, struct state_reader *r, struct err *e)
{
    struct acpi_pm *pm = dev;
    struct acpi_pm_state copy;
    uint64_t now = clock_monotonic_ns();
    int rc;

    state_reset(&copy);
    rc = state_load(&desc, &copy, r, e);
    if (rc)
        return rc;
    /* The time since zero may be longer than this host is up: the subtraction wraps, and so does the one in ticks(). */
    copy.timer_zero_ns = now - copy.timer_zero_ns;
    if ((copy.status & ~(STATUS_BITS & ~TMR)) || (copy.enable & ~ENABLE_BITS) || !(copy.control & SCI_EN) ||
        (copy.control & ~(CONTROL_BITS | SCI_EN)) || copy.carries_seen > ticks(&copy, now) / CARRY_TICKS)
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", desc.name);
    pthread_mutex_lock(&pm->lock);
    pm->state = copy;
    update(pm);
    pthread_mutex_unlock(&pm->lock);
    return 0;
}

const struct device_ops acpi_pm_device = {"acpi_pm", device_reset, NULL, device_save, device_load};
