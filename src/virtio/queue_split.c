/* Split virtqueues: a table of descriptors, a ring of the driver's and a ring of the device's (virtio 1.2 2.7). */
#include "virtio/queue_ring.h"

#include <errno.h>

/* Both rings: flags, index, entries, and behind them the index at which the other side shall be told (2.7.6, 2.7.8). */
#define RING_FLAGS 0
#define RING_INDEX 2
#define RING_ENTRIES 4
#define AVAIL_ENTRY 2U
#define USED_ENTRY 8U

#define AVAIL_NO_INTERRUPT 1U
#define USED_NO_NOTIFY 1U

struct split_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};
_Static_assert(sizeof(struct split_desc) == DESC_BYTES, "the layout of a descriptor is fixed");

static const char *size_wrong(uint16_t size)
{
    return size & (size - 1) ? "chose a queue size that is no power of two" : NULL;
}

static struct ring_parts parts(uint16_t size)
{
    return (struct ring_parts){
        .desc = {DESC_BYTES * size, 16, false},
        .driver = {RING_ENTRIES + AVAIL_ENTRY * size + 2, 2, false},
        .device = {RING_ENTRIES + USED_ENTRY * size + 2, 4, true},
    };
}

/* Where the nth byte of the device's ring is; and that it was written. */
static uint8_t *used_at(const struct virtq *q, uint32_t off)
{
    return (uint8_t *)q->device_hva + off;
}

static void used_written(struct virtq *q, uint32_t off, size_t len)
{
    ring_written(q, q->state.device + off, len);
}

/* Acquire: entries and descriptors are read after the index that says that they are there. */
static uint16_t count_waiting(const struct virtq *q)
{
    return (uint16_t)(load16_acquire((uint8_t *)q->driver_hva + RING_INDEX) - q->state.avail_index);
}

static bool waiting(struct virtq *q)
{
    return count_waiting(q) != 0;
}

/* Follows a chain from a descriptor of the queue's table. */
static int collect(struct virtq *q, struct virtq_chain *c, uint16_t head)
{
    const uint8_t *table = q->desc_hva;
    uint32_t entries = q->state.size, index = head;
    bool indirect = false;

    for (unsigned nth = 0;;) {
        struct split_desc d;
        int rc;

        if (index >= entries)
            return ring_broken(q, "named a descriptor outside of its table");
        copy_once(&d, table + (size_t)index * DESC_BYTES, sizeof(d));
        if (d.flags & DESC_INDIRECT) {
            /* It ends the chain of direct ones, and is not found in a table (2.7.5.3.1); its WRITE flag says nothing (2.7.5.3.2). */
            if (indirect || (d.flags & DESC_NEXT))
                return ring_broken(q, indirect ? "put an indirect descriptor into an indirect table"
                                               : "made a chain that goes on behind an indirect descriptor");
            table = ring_table(q, d.addr, d.len, &entries);
            if (!table)
                return -EINVAL;
            indirect = true;
            index = 0;
            continue;
        }
        rc = ring_add(q, c, nth++, d.addr, d.len, d.flags & DESC_WRITE);
        if (rc)
            return rc;
        if (!(d.flags & DESC_NEXT))
            return 0;
        index = d.next;
    }
}

static int pop(struct virtq *q, struct virtq_chain *c)
{
    struct virtq_state *s = &q->state;
    uint16_t out = (uint16_t)(s->avail_index - s->published_index);
    int rc;

    if (count_waiting(q) > s->size - out)
        return ring_broken(q, "made more chains available than the queue has entries");
    c->id = load16((uint8_t *)q->driver_hva + RING_ENTRIES + AVAIL_ENTRY * (s->avail_index & (s->size - 1)));
    rc = collect(q, c, c->id);
    if (rc)
        return rc;
    s->avail_index++;
    return 1;
}

static void unpop(struct virtq *q, const struct virtq_chain *c)
{
    (void)c;
    q->state.avail_index--;
}

static void push(struct virtq *q, const struct virtq_chain *c, uint32_t written)
{
    uint32_t off = RING_ENTRIES + USED_ENTRY * (q->state.used_index & (q->state.size - 1U));

    store32(used_at(q, off), c->id);
    store32(used_at(q, off + 4), written);
    used_written(q, off, USED_ENTRY);
    q->state.used_index++;
}

static bool publish(struct virtq *q)
{
    struct virtq_state *s = &q->state;
    uint16_t event, fresh = (uint16_t)(s->used_index - s->published_index);

    /* Release: the buffers' bytes and all entries are there before the index that shows them (2.7.14). */
    store16_release(used_at(q, RING_INDEX), s->used_index);
    used_written(q, RING_INDEX, 2);
    /* The driver asks for an interrupt, then looks at the index once more; we write the index, then look whether it asks (2.7.7.2). */
    barrier_store_load();
    if (!ring_has_event_idx(q))
        return !(load16((uint8_t *)q->driver_hva + RING_FLAGS) & AVAIL_NO_INTERRUPT);
    /* Wanted when the entry of that index is among the fresh ones. */
    event = load16((uint8_t *)q->driver_hva + RING_ENTRIES + AVAIL_ENTRY * s->size);
    return (uint16_t)(event - s->published_index) < fresh;
}

static void kicks(struct virtq *q)
{
    uint32_t event = RING_ENTRIES + USED_ENTRY * q->state.size;

    if (!ring_has_event_idx(q)) {
        store16(used_at(q, RING_FLAGS), q->state.kicks_off ? USED_NO_NOTIFY : 0);
        used_written(q, RING_FLAGS, 2);
    } else { /* off: at one that has been shown, and so is 65535 chains away */
        store16(used_at(q, event), (uint16_t)(q->state.avail_index - q->state.kicks_off));
        used_written(q, event, 2);
    }
}

static bool possible(const struct virtq_state *s)
{
    return s->used_index == s->avail_index && s->published_index == s->avail_index && s->avail_wrap == 1 && s->used_wrap == 1 &&
           s->published_wrap == 1;
}

const struct ring_ops ring_split = {size_wrong, parts, pop, unpop, push, publish, kicks, waiting, possible};
