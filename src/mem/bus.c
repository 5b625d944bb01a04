/* The buses: ranges sorted by address, found by binary search. */
#include "mem/bus.h"

#include <errno.h>
#include <string.h>

void bus_init(struct bus *bus)
{
    *bus = (struct bus){0};
    pthread_rwlock_init(&bus->lock, NULL);
}

void bus_fini(struct bus *bus)
{
    pthread_rwlock_destroy(&bus->lock);
}

/* The number of ranges that begin at or below addr. Lock held. */
static unsigned position(const struct bus *bus, uint64_t addr)
{
    unsigned low = 0, high = bus->count;

    while (low < high) {
        unsigned middle = low + (high - low) / 2;

        if (bus->ranges[middle]->base <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int overlap(const struct bus_range *new, const struct bus_range *old, struct err *e)
{
    return err_set(e, EEXIST, "%s at 0x%llx overlaps %s at 0x%llx", new->name, (unsigned long long)new->base, old->name,
                   (unsigned long long)old->base);
}

int bus_add(struct bus *bus, struct bus_range *range, struct err *e)
{
    uint64_t last = range->base + (range->size - 1);
    unsigned at;
    int error = 0;

    if (range->size == 0 || last < range->base)
        return err_set(e, EINVAL, "%s: a range of %llu bytes at 0x%llx is none", range->name, (unsigned long long)range->size,
                       (unsigned long long)range->base);
    pthread_rwlock_wrlock(&bus->lock);
    at = position(bus, range->base);
    if (at > 0 && bus->ranges[at - 1]->base + (bus->ranges[at - 1]->size - 1) >= range->base) {
        error = overlap(range, bus->ranges[at - 1], e);
    } else if (at < bus->count && bus->ranges[at]->base <= last) {
        error = overlap(range, bus->ranges[at], e);
    } else if (bus->count == BUS_MAX_RANGES) {
        error = err_set(e, ENOSPC, "%s: the bus has %u ranges already", range->name, bus->count);
    } else {
        memmove(&bus->ranges[at + 1], &bus->ranges[at], (bus->count - at) * sizeof(struct bus_range *));
        bus->ranges[at] = range;
        bus->count++;
    }
    pthread_rwlock_unlock(&bus->lock);
    return error;
}

void bus_remove(struct bus *bus, struct bus_range *range)
{
    pthread_rwlock_wrlock(&bus->lock);
    for (unsigned i = 0; i < bus->count; i++) {
        if (bus->ranges[i] != range)
            continue;
        bus->count--;
        memmove(&bus->ranges[i], &bus->ranges[i + 1], (bus->count - i) * sizeof(struct bus_range *));
        break;
    }
    pthread_rwlock_unlock(&bus->lock);
}

/* Who answers an access. A copy: the device is called without the lock, so it may move ranges itself, and others may move this one. */
struct target {
    struct bus_range range; /* size 0: nobody has the first byte */
    bool whole;             /* all bytes are the range's, or nobody's */
};

static struct target find(struct bus *bus, uint64_t addr, unsigned size)
{
    struct target t = {0};
    unsigned at;

    pthread_rwlock_rdlock(&bus->lock);
    at = position(bus, addr);
    if (at > 0 && addr - bus->ranges[at - 1]->base < bus->ranges[at - 1]->size) {
        t.range = *bus->ranges[at - 1];
        t.whole = t.range.size - (addr - t.range.base) >= size;
    } else {
        t.whole = at == bus->count || bus->ranges[at]->base - addr >= size;
    }
    pthread_rwlock_unlock(&bus->lock);
    return t;
}

static uint64_t all_ones(unsigned size)
{
    return UINT64_MAX >> (64 - 8 * size);
}

static uint64_t read_piece(const struct bus_range *range, uint64_t addr, unsigned size)
{
    return range->size ? range->ops->read(range->opaque, addr - range->base, size) & all_ones(size) : all_ones(size);
}

static void write_piece(const struct bus_range *range, uint64_t addr, unsigned size, uint64_t value)
{
    if (range->size)
        range->ops->write(range->opaque, addr - range->base, size, value & all_ones(size));
}

uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned size)
{
    struct target t = find(bus, addr, size);
    uint64_t value = 0;

    if (t.whole)
        return read_piece(&t.range, addr, size);
    for (unsigned i = 0; i < size; i++) {
        t = find(bus, addr + i, 1);
        value |= read_piece(&t.range, addr + i, 1) << (8 * i);
    }
    return value;
}

void bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t value)
{
    struct target t = find(bus, addr, size);

    if (t.whole) {
        write_piece(&t.range, addr, size, value);
        return;
    }
    for (unsigned i = 0; i < size; i++) {
        t = find(bus, addr + i, 1);
        write_piece(&t.range, addr + i, 1, value >> (8 * i));
    }
}

/* Where it cannot be done, writes reach the range's write. */
void bus_doorbells(struct bus *bus, uint64_t base, const struct bus_doorbell *doorbells, unsigned count, bool on)
{
    for (unsigned i = 0; bus->doorbell && i < count; i++)
        (void)bus->doorbell(bus->doorbell_opaque, base + doorbells[i].off, doorbells[i].fd, on);
}
