/* The reset control register of PC chipsets: a byte at 0xcf9, among the ports of PCI configuration mechanism 1. */
#include "chipset/reset_ctl.h"

#include <errno.h>

#define PORTS 0xcf8
#define OFFSET 1
#define HARD_RESET 0x02
#define TRIGGER 0x04
#define FULL_RESET 0x08

static const struct state_field fields[] = {
    STATE_FIELD(struct reset_ctl_state, value),
};
static const struct state_desc desc = {"reset_ctl", 1, fields, ARRAY_SIZE(fields)};

uint8_t reset_ctl_read(struct reset_ctl *c)
{
    uint8_t value;

    pthread_mutex_lock(&c->lock);
    value = c->state.value;
    pthread_mutex_unlock(&c->lock);
    return value;
}

void reset_ctl_write(struct reset_ctl *c, uint8_t value)
{
    pthread_mutex_lock(&c->lock);
    c->state.value = value & (HARD_RESET | FULL_RESET);
    pthread_mutex_unlock(&c->lock);
    /* A soft reset (INIT) and a hard one come to the same: the machine starts anew. */
    if (value & TRIGGER)
        c->reset(c->opaque);
}

static uint64_t port_read(void *opaque, uint64_t off, unsigned size)
{
    if (off == OFFSET && size == 1)
        return reset_ctl_read(opaque);
    return UINT64_MAX; /* no PCI host bridge */
}

static void port_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    if (off == OFFSET && size == 1)
        reset_ctl_write(opaque, (uint8_t)value);
}

static const struct bus_ops ops = {port_read, port_write};

int reset_ctl_init(struct reset_ctl *c, struct bus *pio, void (*reset)(void *opaque), void *opaque, struct err *e)
{
    int error = 0;

    *c = (struct reset_ctl){.bus = pio, .reset = reset, .opaque = opaque};
    c->range = (struct bus_range){.name = "reset control", .base = PORTS, .size = 4, .ops = &ops, .opaque = c};
    pthread_mutex_init(&c->lock, NULL);
    if (pio)
        error = bus_add(pio, &c->range, e);
    if (error)
        pthread_mutex_destroy(&c->lock);
    return error;
}

void reset_ctl_fini(struct reset_ctl *c)
{
    if (c->bus)
        bus_remove(c->bus, &c->range);
    pthread_mutex_destroy(&c->lock);
}

void reset_ctl_reset(struct reset_ctl *c)
{
    pthread_mutex_lock(&c->lock);
    c->state = (struct reset_ctl_state){0};
    pthread_mutex_unlock(&c->lock);
}

static void device_reset(void *dev)
{
    reset_ctl_reset(dev);
}

static int device_save(void *dev, struct state_writer *w)
{
    struct reset_ctl *c = dev;
    struct reset_ctl_state copy = {reset_ctl_read(c)};

    return state_save(&desc, &copy, w);
}

static int device_load(void *dev, struct state_reader *r, struct err *e)
{
    struct reset_ctl *c = dev;
    struct reset_ctl_state copy = {0};
    int rc = state_load(&desc, &copy, r, e);

    if (rc)
        return rc;
    if (copy.value & ~(HARD_RESET | FULL_RESET))
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", desc.name);
    pthread_mutex_lock(&c->lock);
    c->state = copy;
    pthread_mutex_unlock(&c->lock);
    return 0;
}

const struct device_ops reset_ctl_device = {"reset_ctl", device_reset, NULL, device_save, device_load};
