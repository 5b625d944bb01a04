/* The debug-exit port 0xf4: a byte written there ends the VM. */
#pragma once

#include "base/device.h"
#include "mem/bus.h"

struct debug_exit {
    struct bus *bus;
    struct bus_range range;
    void (*exit)(void *opaque, uint8_t value);
    void *opaque;
};

/* pio: 0xf4. exit: on the vCPU's thread; the exit status is (value << 1) | 1. */
int debug_exit_init(struct debug_exit *, struct bus *pio, void (*exit)(void *opaque, uint8_t value), void *opaque, struct err *);
void debug_exit_fini(struct debug_exit *);

extern const struct device_ops debug_exit_device; /* stateless */
