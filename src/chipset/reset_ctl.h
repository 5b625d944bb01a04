/* The reset control register at port 0xcf9. */
#pragma once

#include <pthread.h>

#include "base/device.h"
#include "mem/bus.h"

struct reset_ctl_state {
    uint8_t value; /* bit 1: hard reset wanted, bit 3: full; bit 2 is the trigger and reads 0 */
};

struct reset_ctl {
    struct reset_ctl_state state;

    pthread_mutex_t lock;
    struct bus *bus; /* NULL when somebody else has the ports */
    struct bus_range range;
    void (*reset)(void *opaque);
    void *opaque;
};

/*
 * pio: 0xcf8-0xcfb, of which only a byte at 0xcf9 is this register; NULL when a PCI host bridge has these ports and forwards by the two
 * functions below. reset: called with no lock held, on the vCPU's thread.
 */
int reset_ctl_init(struct reset_ctl *, struct bus *pio, void (*reset)(void *opaque), void *opaque, struct err *);
void reset_ctl_fini(struct reset_ctl *);
void reset_ctl_reset(struct reset_ctl *);

/* A byte access at 0xcf9. */
uint8_t reset_ctl_read(struct reset_ctl *);
void reset_ctl_write(struct reset_ctl *, uint8_t value);

extern const struct device_ops reset_ctl_device;
