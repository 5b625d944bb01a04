/* The debug-exit port 0xf4: a byte written there ends the VM. */
#include "chipset/debug_exit.h"

#define PORT 0xf4
#define PORTS 4 /* so that a word or a doubleword written to the port comes in one piece */

static uint64_t port_read(void *opaque, uint64_t off, unsigned size)
{
    (void)opaque, (void)off, (void)size;
    return 0; /* so that a guest can tell that the device is there: an absent port reads all-ones */
}

static void port_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct debug_exit *d = opaque;

    (void)size;
    if (off == 0)
        d->exit(d->opaque, (uint8_t)value);
}

static const struct bus_ops ops = {port_read, port_write};

int debug_exit_init(struct debug_exit *d, struct bus *pio, void (*exit)(void *opaque, uint8_t value), void *opaque, struct err *e)
{
    *d = (struct debug_exit){.bus = pio, .exit = exit, .opaque = opaque};
    d->range = (struct bus_range){.name = "debug-exit", .base = PORT, .size = PORTS, .ops = &ops, .opaque = d};
    return bus_add(pio, &d->range, e);
}

void debug_exit_fini(struct debug_exit *d)
{
    bus_remove(d->bus, &d->range);
}

/* It has no state, so each of these has nothing to do. */
static void device_reset(void *dev)
{
    (void)dev;
}

static int device_save(void *dev, struct state_writer *w)
{
    (void)dev;
    return w->error;
}

static int device_load(void *dev, struct state_reader *r, struct err *e)
{
    (void)dev, (void)r, (void)e;
    return 0;
}

const struct device_ops debug_exit_device = {"debug-exit", device_reset, NULL, device_save, device_load};
