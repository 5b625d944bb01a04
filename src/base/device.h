/* What the machine asks of every device alike: reset, drain, save and load. */
#pragma once

#include "base/state.h"

/*
 * One const table per kind of device; dev is the device's own struct. All of them run on the loop's
 * thread (or before it runs) while no vCPU runs.
 */
struct device_ops {
    const char *name;
    void (*reset)(void *dev);                                    /* to the state after power-on */
    void (*drain)(void *dev);                                    /* finish what is under way towards the host; NULL = never any */
    int (*save)(void *dev, struct state_writer *);               /* 0 or -errno */
    int (*load)(void *dev, struct state_reader *, struct err *); /* 0 or -errno; on failure the device is as before */
};
