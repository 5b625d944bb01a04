/* The buses: which device answers which port or guest-physical address. */
#pragma once

#include <pthread.h>

#include "base/err.h"
#include "base/types.h"

struct bus_ops {
    /* off: bytes from the range's base; size: 1, 2, 4 or 8, always within the range. Any vCPU thread. */
    uint64_t (*read)(void *opaque, uint64_t off, unsigned size);
    void (*write)(void *opaque, uint64_t off, unsigned size, uint64_t value);
};

/* Embedded in the device. */
struct bus_range {
    const char *name;
    uint64_t base;
    uint64_t size;
    const struct bus_ops *ops;
    void *opaque;
};

#define BUS_MAX_RANGES 256

struct bus {
    pthread_rwlock_t lock;
    struct bus_range *ranges[BUS_MAX_RANGES]; /* sorted by base */
    unsigned count;

    /* Who can deliver writes to doorbells without the bus: an engine. Set before there are any; NULL: nobody. */
    int (*doorbell)(void *opaque, uint64_t addr, int fd, bool on);
    void *doorbell_opaque;
};

void bus_init(struct bus *);
void bus_fini(struct bus *);

/*
 * 0, -EEXIST when it overlaps another range (named in e), -ENOSPC, -EINVAL for an empty or wrapping one. The range must outlive its stay on
 * the bus. Any thread, a device's callback too: the bus holds no lock while it calls one. An access that another thread began before
 * bus_remove() may still reach the device after it.
 */
int bus_add(struct bus *, struct bus_range *, struct err *e);
void bus_remove(struct bus *, struct bus_range *);

/* An address that nobody answers reads all-ones and ignores writes. An access that leaves its range is split to bytes. */
uint64_t bus_read(struct bus *, uint64_t addr, unsigned size);
void bus_write(struct bus *, uint64_t addr, unsigned size, uint64_t value);

/* A place in a range where a write says no more than that it happened. */
struct bus_doorbell {
    uint64_t off;
    int fd; /* of an eventfd */
};

/*
 * The range that is, or was, on the bus at base has these doorbells: from now on, or no longer, a write to one may become 1 more in its
 * eventfd instead of a call of the range's write. To be called after bus_add() and before bus_remove(). Any thread.
 */
void bus_doorbells(struct bus *, uint64_t base, const struct bus_doorbell *, unsigned count, bool on);
