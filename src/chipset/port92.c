/* System control port A: bit 0 resets, bit 1 is the A20 gate, which is always open here. */
#include "chipset/port92.h"

#include <errno.h>

#define PORT 0x92
#define FAST_RESET 0x01
#define A20 0x02

static const struct state_field fields[] = {
    STATE_FIELD(struct port92_state, value),
};
static const struct state_desc desc = {"port92", 1, fields, ARRAY_SIZE(fields)};

static uint64_t port_read(void *opaque, uint64_t off, unsigned size)
{
    struct port92 *p = opaque;
    uint8_t value;

    (void)off, (void)size;
    pthread_mutex_lock(&p->lock);
    value = p->state.value;
    pthread_mutex_unlock(&p->lock);
    return value;
}

static void port_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct port92 *p = opaque;
    bool reset;

    (void)off, (void)size;
    pthread_mutex_lock(&p->lock);
    reset = (value & FAST_RESET) && !(p->state.value & FAST_RESET); /* the edge counts */
    p->state.value = (uint8_t)value & (FAST_RESET | A20);
    pthread_mutex_unlock(&p->lock);
    if (reset)
        p->reset(p->opaque);
}

static const struct bus_ops ops = {port_read, port_write};

int port92_init(struct port92 *p, struct bus *pio, void (*reset)(void *opaque), void *opaque, struct err *e)
{
    int error;

    *p = (struct port92){.bus = pio, .reset = reset, .opaque = opaque};
    p->range = (struct bus_range){.name = "port 92", .base = PORT, .size = 1, .ops = &ops, .opaque = p};
    pthread_mutex_init(&p->lock, NULL);
    port92_reset(p);
    error = bus_add(pio, &p->range, e);
    if (error)
        pthread_mutex_destroy(&p->lock);
    return error;
}

void port92_fini(struct port92 *p)
{
    bus_remove(p->bus, &p->range);
    pthread_mutex_destroy(&p->lock);
}

void port92_reset(struct port92 *p)
{
    pthread_mutex_lock(&p->lock);
    p->state = (struct port92_state){.value = A20};
    pthread_mutex_unlock(&p->lock);
}

static void device_reset(void *dev)
{
    port92_reset(dev);
}

static int device_save(void *dev, struct state_writer *w)
{
    struct port92 *p = dev;
    struct port92_state copy;

    pthread_mutex_lock(&p->lock);
    copy = p->state;
    pthread_mutex_unlock(&p->lock);
    return state_save(&desc, &copy, w);
}

static int device_load(void *dev, struct state_reader *r, struct err *e)
{
    struct port92 *p = dev;
    struct port92_state copy = {.value = A20};
    int rc = state_load(&desc, &copy, r, e);

    if (rc)
        return rc;
    if (copy.value & ~(FAST_RESET | A20))
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", desc.name);
    pthread_mutex_lock(&p->lock);
    p->state = copy;
    pthread_mutex_unlock(&p->lock);
    return 0;
}

const struct device_ops port92_device = {"port92", device_reset, NULL, device_save, device_load};
