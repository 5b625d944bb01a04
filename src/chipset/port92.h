/* System control port A (0x92): fast A20 and fast reset. */
#pragma once

#include <pthread.h>

#include "base/device.h"
#include "mem/bus.h"

struct port92_state {
    uint8_t value; /* bit 1: A20, which reads as written and is always on */
};

struct port92 {
    struct port92_state state;

    pthread_mutex_t lock;
    struct bus *bus;
    struct bus_range range;
    void (*reset)(void *opaque);
    void *opaque;
};

/* pio: 0x92. reset: called with no lock held, on the vCPU's thread. */
int port92_init(struct port92 *, struct bus *pio, void (*reset)(void *opaque), void *opaque, struct err *);
void port92_fini(struct port92 *);
void port92_reset(struct port92 *);

extern const struct device_ops port92_device;
