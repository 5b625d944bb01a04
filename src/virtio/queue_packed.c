/* Packed virtqueues: one ring of descriptors that driver and device write in turn (virtio 1.2 2.8). */
#include "virtio/queue_ring.h"

#include <errno.h>

/* A side's wishes: position and wrap counter in the low half, flags in the high one (2.8.10). */
#define EVENT_WRAP (1U << 15)
#define EVENT_FLAGS_SHIFT 16
#define EVENT_FLAGS_MASK 3U
#define EVENT_ENABLE 0U
#define EVENT_DISABLE 1U
#define EVENT_DESC 2U

struct packed_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t flags;
};
_Static_assert(sizeof(struct packed_desc) == DESC_BYTES, "the layout of a descriptor is fixed");

static const char *size_wrong(uint16_t size)
{
    (void)size;
    return NULL; /* any, not only powers of two (2.8.10.1) */
}

static struct ring_parts parts(uint16_t size)
{
    return (struct ring_parts){.desc = {DESC_BYTES * size, 16, true}, .driver = {4, 4, false}, .device = {4, 4, true}};
}

static struct packed_desc *desc_at(const struct virtq *q, unsigned index)
{
    return (struct packed_desc *)q->desc_hva + index;
}

static void desc_written(struct virtq *q, unsigned index)
{
    ring_written(q, q->state.desc + (gpa_t)index * DESC_BYTES, DESC_BYTES);
}

/* --- positions: an index and the wrap counter of its lap --- */

static void advance(const struct virtq *q, uint16_t *index, uint8_t *wrap, unsigned by)
{
    unsigned to = *index + by;

    if (to >= q->state.size) {
        to -= q->state.size;
        *wrap ^= 1;
    }
    *index = (uint16_t)to;
}

/* From what was published to a position that is at most a lap ahead; more than a lap, when it is not. */
static unsigned ahead(const struct virtq *q, uint16_t index, uint8_t wrap)
{
    return index + (wrap == q->state.published_wrap ? 0U : q->state.size) - q->state.published_index;
}

/* Acquire: the descriptor, and the rest of its chain, are read after the flags that show them. */
static bool waiting(struct virtq *q)
{
    uint16_t flags = load16_acquire(&desc_at(q, q->state.avail_index)->flags);

    return !!(flags & DESC_AVAIL) == q->state.avail_wrap && !!(flags & DESC_USED) != q->state.avail_wrap;
}

/* --- chains --- */

/* Entries of a table follow each other; of their flags only WRITE means anything (2.8.7). */
static int collect_table(struct virtq *q, struct virtq_chain *c, const struct packed_desc *d)
{
    uint32_t entries;
    const uint8_t *table = ring_table(q, d->addr, d->len, &entries);

    if (!table)
        return -EINVAL;
    for (uint32_t i = 0; i < entries; i++) {
        struct packed_desc entry;
        int rc;

        copy_once(&entry, table + (size_t)i * DESC_BYTES, sizeof(entry));
        rc = ring_add(q, c, i, entry.addr, entry.len, entry.flags & DESC_WRITE);
        if (rc)
            return rc;
    }
    return 0;
}

static int collect(struct virtq *q, struct virtq_chain *c, unsigned room)
{
    uint16_t index = q->state.avail_index;
    uint8_t wrap = q->state.avail_wrap;

    for (unsigned nth = 0;; advance(q, &index, &wrap, 1)) {
        struct packed_desc d;
        int rc;

        if (nth == room)
            return ring_broken(q, "made more descriptors available than the queue has entries");
        copy_once(&d, desc_at(q, index), sizeof(d));
        if (d.flags & DESC_INDIRECT) {
            /* A chain is of one kind: direct descriptors, or one table (2.8.19). */
            if (nth || (d.flags & DESC_NEXT))
                return ring_broken(q, "put an indirect descriptor into a chain");
            rc = collect_table(q, c, &d);
        } else {
            rc = ring_add(q, c, nth, d.addr, d.len, d.flags & DESC_WRITE);
        }
        if (rc)
            return rc;
        nth++;
        if (!(d.flags & DESC_NEXT)) {
            c->id = d.id; /* the last one's counts (2.8.6) */
            c->slots = (uint16_t)nth;
            return 0;
        }
    }
}

static int pop(struct virtq *q, struct virtq_chain *c)
{
    struct virtq_state *s = &q->state;
    int rc = collect(q, c, s->size - ahead(q, s->avail_index, s->avail_wrap));

    if (rc)
        return rc;
    advance(q, &s->avail_index, &s->avail_wrap, c->slots);
    return 1;
}

static void unpop(struct virtq *q, const struct virtq_chain *c)
{
    struct virtq_state *s = &q->state;

    if (c->slots > s->avail_index) {
        s->avail_index += s->size;
        s->avail_wrap ^= 1;
    }
    s->avail_index -= c->slots;
}

/* --- the way back --- */

/*
 * The driver looks at one descriptor only, the next that it expects: while that one's flags are held back, those behind it can be complete
 * in memory (2.8.9).
 */
static void push(struct virtq *q, const struct virtq_chain *c, uint32_t written)
{
    struct virtq_state *s = &q->state;
    struct packed_desc *d = desc_at(q, s->used_index);
    uint16_t flags = (uint16_t)((written ? DESC_WRITE : 0) | (s->used_wrap ? DESC_AVAIL | DESC_USED : 0));

    __atomic_store_n(&d->len, written, __ATOMIC_RELAXED);
    store16(&d->id, c->id);
    if (s->used_index == s->published_index && s->used_wrap == s->published_wrap)
        q->held_flags = flags;
    else
        store16(&d->flags, flags);
    desc_written(q, s->used_index);
    advance(q, &s->used_index, &s->used_wrap, c->slots);
}

static bool publish(struct virtq *q)
{
    struct virtq_state *s = &q->state;
    uint32_t wish, flags;

    /* Release: the buffers' bytes, this descriptor's fields and those behind it are there before these flags. */
    store16_release(&desc_at(q, s->published_index)->flags, q->held_flags);
    desc_written(q, s->published_index);
    /* The driver asks for an interrupt, then looks at the descriptor once more; we write the flags, then look whether it asks. */
    barrier_store_load();
    wish = load32(q->driver_hva); /* as one: position and flags belong together */
    flags = wish >> EVENT_FLAGS_SHIFT & EVENT_FLAGS_MASK;
    if (flags != EVENT_DESC || !ring_has_event_idx(q))
        return flags != EVENT_DISABLE;
    /* Wanted when that descriptor is among the fresh ones. One behind them, in the same lap, seems to be very far ahead. */
    return ahead(q, wish & (EVENT_WRAP - 1), !!(wish & EVENT_WRAP)) < ahead(q, s->used_index, s->used_wrap);
}

static void kicks(struct virtq *q)
{
    const struct virtq_state *s = &q->state;
    uint32_t wish = EVENT_ENABLE << EVENT_FLAGS_SHIFT;

    if (s->kicks_off)
        wish = EVENT_DISABLE << EVENT_FLAGS_SHIFT;
    else if (ring_has_event_idx(q))
        wish = EVENT_DESC << EVENT_FLAGS_SHIFT | (s->avail_wrap ? EVENT_WRAP : 0) | s->avail_index;
    store32(q->device_hva, wish);
    ring_written(q, s->device, 4);
}

static bool possible(const struct virtq_state *s)
{
    return s->avail_index < s->size && s->avail_wrap <= 1 && s->used_index == s->avail_index && s->used_wrap == s->avail_wrap &&
           s->published_index == s->avail_index && s->published_wrap == s->avail_wrap;
}

const struct ring_ops ring_packed = {size_wrong, parts, pop, unpop, push, publish, kicks, waiting, possible};
