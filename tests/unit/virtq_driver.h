/* A driver of one virtqueue, split or packed, as virtio 1.2 2.7 and 2.8 describe it: for the tests of queues and devices, and for fuzzers. */
#pragma once

/*
 *     struct virtq_driver d;
 *     driver_init(&d, &mem, 0x10000, KIB(256), 64, features);  rings of 64 entries from 0x10000 on, then an area for each request's bytes
 *     driver_connect(&d, &queue->state);                       what the transport's registers would be told; then enable the queue
 *
 *     int token = driver_request(&d, &header, sizeof(header), 513);  bytes for the device, room for its answer; -1: the ring is full
 *     if (driver_show(&d))                                           shows what was requested since the last time
 *         ring the doorbell;                                         when the device wants it
 *     ...
 *     while ((token = driver_take(&d, &len)) >= 0)   what the device has used, and how many bytes it says that it wrote
 *         look at driver_in(&d, token);
 *
 * driver_add() makes a chain of any segments. The knobs piece, indirect and interrupts may be changed between calls. Nothing here aborts on
 * what a device or a fuzzer does to the rings: driver_take() then returns DRIVER_NONSENSE. The driver may run on a thread of its own.
 */

#include <string.h>

#include "base/bug.h"
#include "virtio/queue.h"

#define DRIVER_NONE (-1)
#define DRIVER_NONSENSE (-2)

#define DRIVER_FILL 0xee /* what is in the room for an answer at first */

enum driver_indirect {
    DRIVER_DIRECT,
    DRIVER_TABLE,      /* the whole chain in an indirect table */
    DRIVER_MIXED_TABLE /* the first descriptor direct, the others in a table; split only */
};

/* Split: flags and next; packed: id and flags. */
struct driver_desc {
    uint64_t addr;
    uint32_t len;
    union {
        uint16_t flags, id;
    };
    union {
        uint16_t next, packed_flags;
    };
};

#define DRIVER_NEXT 1U
#define DRIVER_WRITE 2U
#define DRIVER_INDIRECT 4U
#define DRIVER_AVAIL 0x80U
#define DRIVER_USED 0x8000U

struct driver_slot {
    bool busy;
    uint16_t descriptors;                      /* of the ring */
    uint16_t last;                             /* split: the chain's last descriptor */
    uint32_t out_off, out_len, in_off, in_len; /* in its area, of a driver_request() */
};

struct virtq_driver {
    struct mem *mem;
    uint64_t features;
    uint16_t size;
    gpa_t desc, driver, device; /* the rings, as in struct virtq_state */
    gpa_t area;                 /* of request 0 */
    uint32_t area_bytes;        /* of each request */

    /* Knobs. */
    uint32_t piece; /* cut each part of a driver_request() to segments of this many bytes at most; 0: do not */
    enum driver_indirect indirect;
    bool interrupts; /* by driver_set_interrupts() */

    uint16_t free_descriptors, free_head; /* split: a list through next; packed: a list of ids */
    uint16_t next, shown;                 /* split: avail indexes. packed: positions of descriptors */
    uint16_t last_used;
    uint8_t wrap, shown_wrap, used_wrap; /* packed */
    uint16_t held_flags;                 /* packed: of the first descriptor that is not shown */
    unsigned out;                        /* chains with the device, or about to be */
    uint16_t links[VIRTQ_SIZE_MAX];      /* the free list; split: chains too */
    struct driver_slot slots[VIRTQ_SIZE_MAX];
};

static inline bool driver_is_packed(const struct virtq_driver *d)
{
    return d->features >> VIRTIO_F_RING_PACKED & 1;
}

static inline bool driver_has_event_idx(const struct virtq_driver *d)
{
    return d->features >> VIRTIO_F_EVENT_IDX & 1;
}

static inline void driver_barrier(void)
{
    __asm__ volatile("mfence" : : : "memory");
}

static inline void *driver_at(const struct virtq_driver *d, gpa_t gpa)
{
    void *p = mem_hva(d->mem, gpa, 1);

    BUG_ON(!p);
    return p;
}

static inline uint16_t driver_get16(const struct virtq_driver *d, gpa_t gpa)
{
    return __atomic_load_n((uint16_t *)driver_at(d, gpa), __ATOMIC_ACQUIRE);
}

static inline void driver_put16(struct virtq_driver *d, gpa_t gpa, uint16_t value)
{
    __atomic_store_n((uint16_t *)driver_at(d, gpa), value, __ATOMIC_RELEASE);
}

static inline struct driver_desc *driver_desc_at(const struct virtq_driver *d, unsigned index)
{
    return driver_at(d, d->desc + (gpa_t)16 * index);
}

/* Lays out a queue of size entries, empty, in [base, base + bytes). base: a multiple of 4096. Also after a reset of queue or device. */
static inline void driver_init(struct virtq_driver *d, struct mem *mem, gpa_t base, size_t bytes, uint16_t size, uint64_t features)
{
    bool packed = features >> VIRTIO_F_RING_PACKED & 1;

    memset(d, 0, sizeof(*d));
    d->mem = mem;
    d->features = features;
    d->size = size;
    d->desc = base;
    d->driver = d->desc + 16U * size;
    d->device = ALIGN_UP(d->driver + (packed ? 4 : 6 + 2U * size), 4);
    d->area = ALIGN_UP(d->device + (packed ? 4 : 6 + 8U * size), 64);
    BUG_ON(size == 0 || size > VIRTQ_SIZE_MAX || d->area > base + bytes);
    d->area_bytes = ALIGN_DOWN((uint32_t)((base + bytes - d->area) / size), 64U);
    BUG_ON(mem_fill(mem, base, 0, d->area - base));
    d->free_descriptors = size;
    for (unsigned i = 0; i < size; i++)
        d->links[i] = (uint16_t)(i + 1);
    d->wrap = d->shown_wrap = d->used_wrap = 1;
    d->interrupts = true;
}

static inline void driver_connect(const struct virtq_driver *d, struct virtq_state *s)
{
    s->size = d->size;
    s->desc = d->desc;
    s->driver = d->driver;
    s->device = d->device;
}

/* --- adding --- */

static inline gpa_t driver_area(const struct virtq_driver *d, int token)
{
    return d->area + (gpa_t)token * d->area_bytes;
}

static inline void driver_fill_table(struct virtq_driver *d, gpa_t table, const struct virtq_segment *segs, unsigned first, unsigned n,
                                     unsigned out)
{
    for (unsigned i = first; i < n; i++) {
        struct driver_desc desc = {.addr = segs[i].gpa, .len = segs[i].len};
        uint16_t flags = i >= out ? DRIVER_WRITE : 0;

        if (driver_is_packed(d)) {
            desc.packed_flags = flags;
        } else {
            desc.flags = (uint16_t)(flags | (i + 1 < n ? DRIVER_NEXT : 0));
            desc.next = (uint16_t)(i + 1 < n ? i + 1 - first : 0);
        }
        BUG_ON(mem_write(d->mem, table + (gpa_t)16 * (i - first), &desc, sizeof(desc)));
    }
}

/* Descriptors of the ring: those of segments [0, direct), and one for a table when table is not 0. Split. */
static inline void driver_put_split(struct virtq_driver *d, uint16_t head, const struct virtq_segment *segs, unsigned direct, unsigned n,
                                    unsigned out, gpa_t table)
{
    unsigned total = direct + (table != 0);
    uint16_t at = head;

    for (unsigned i = 0; i < total; i++, at = d->links[at]) {
        struct driver_desc *desc = driver_desc_at(d, at);
        bool more = i + 1 < total;

        d->slots[head].last = at;
        d->free_head = d->links[at];
        *desc = i < direct ? (struct driver_desc){.addr = segs[i].gpa, .len = segs[i].len, {.flags = i >= out ? DRIVER_WRITE : 0}}
                           : (struct driver_desc){.addr = table, .len = 16 * (n - direct), {.flags = DRIVER_INDIRECT}};
        desc->flags |= more ? DRIVER_NEXT : 0;
        desc->next = more ? d->links[at] : 0;
    }
    driver_put16(d, d->driver + 4 + 2 * (d->next & (d->size - 1U)), head);
    d->next++;
}

/* The same of a packed ring: the flags of the very first are written by driver_show(). */
static inline void driver_put_packed(struct virtq_driver *d, uint16_t id, const struct virtq_segment *segs, unsigned direct, unsigned n,
                                     unsigned out, gpa_t table)
{
    unsigned total = direct + (table != 0);

    for (unsigned i = 0; i < total; i++) {
        struct driver_desc *desc = driver_desc_at(d, d->next);
        uint16_t flags = d->wrap ? DRIVER_AVAIL : DRIVER_USED;

        flags |= i + 1 < total ? DRIVER_NEXT : 0;
        flags |= i >= direct ? DRIVER_INDIRECT : i >= out ? DRIVER_WRITE : 0;
        desc->addr = i < direct ? segs[i].gpa : table;
        desc->len = i < direct ? segs[i].len : 16 * (n - direct);
        desc->id = id;
        if (d->next == d->shown && d->wrap == d->shown_wrap)
            d->held_flags = flags;
        else
            driver_put16(d, d->desc + 16U * d->next + 14, flags);
        if (++d->next == d->size) {
            d->next = 0;
            d->wrap ^= 1;
        }
    }
}

/* A chain of segments, the first out of them readable, the others writable. Its token, or DRIVER_NONE: the ring is full. */
static inline int driver_add(struct virtq_driver *d, const struct virtq_segment *segs, unsigned out, unsigned in)
{
    unsigned n = out + in, direct = n;
    uint16_t token = d->free_head;
    gpa_t table = 0;

    BUG_ON(n == 0);
    if (d->indirect == DRIVER_TABLE)
        direct = 0;
    else if (d->indirect == DRIVER_MIXED_TABLE && n > 1)
        direct = 1;
    if (direct + (direct < n) > d->free_descriptors)
        return DRIVER_NONE;
    if (direct < n) {
        table = driver_area(d, token);
        BUG_ON(16 * (n - direct) > d->area_bytes);
        driver_fill_table(d, table, segs, direct, n, out);
    }
    d->slots[token] = (struct driver_slot){.busy = true, .descriptors = (uint16_t)(direct + (direct < n))};
    if (driver_is_packed(d)) {
        d->free_head = d->links[token];
        driver_put_packed(d, token, segs, direct, n, out, table);
    } else {
        driver_put_split(d, token, segs, direct, n, out, table);
    }
    d->free_descriptors = (uint16_t)(d->free_descriptors - d->slots[token].descriptors);
    d->out++;
    return token;
}

static inline unsigned driver_cut(const struct virtq_driver *d, struct virtq_segment *segs, gpa_t gpa, uint32_t len)
{
    unsigned n = 0;

    while (len) {
        uint32_t here = d->piece ? MIN(d->piece, len) : len;

        BUG_ON(n == VIRTQ_SIZE_MAX);
        segs[n++] = (struct virtq_segment){gpa, here};
        gpa += here;
        len -= here;
    }
    return n;
}

/* out_len bytes for the device and room for in_len of its own, in the request's area. Its token, or DRIVER_NONE: the ring is full. */
static inline int driver_request(struct virtq_driver *d, const void *out, uint32_t out_len, uint32_t in_len)
{
    struct virtq_segment segs[2 * VIRTQ_SIZE_MAX];
    uint32_t out_off, in_off, table;
    unsigned outs, ins;
    gpa_t area = driver_area(d, d->free_head);
    int token;

    if (d->free_descriptors == 0)
        return DRIVER_NONE;
    outs = driver_cut(d, segs, area, out_len);
    ins = driver_cut(d, segs + outs, area, in_len);
    table = d->indirect == DRIVER_DIRECT ? 0 : 16 * (outs + ins);
    out_off = table;
    in_off = out_off + out_len;
    BUG_ON((uint64_t)in_off + in_len > d->area_bytes);
    for (unsigned i = 0; i < outs + ins; i++)
        segs[i].gpa += i < outs ? out_off : in_off;
    BUG_ON(out_len && mem_write(d->mem, area + out_off, out, out_len));
    BUG_ON(in_len && mem_fill(d->mem, area + in_off, DRIVER_FILL, in_len));
    token = driver_add(d, segs, outs, ins);
    if (token >= 0) {
        d->slots[token].out_off = out_off;
        d->slots[token].out_len = out_len;
        d->slots[token].in_off = in_off;
        d->slots[token].in_len = in_len;
    }
    return token;
}

/* Where a request's bytes and its answer are; valid until its token comes from driver_add() again. */
static inline uint8_t *driver_out(const struct virtq_driver *d, int token)
{
    return driver_at(d, driver_area(d, token) + d->slots[token].out_off);
}

static inline uint8_t *driver_in(const struct virtq_driver *d, int token)
{
    return driver_at(d, driver_area(d, token) + d->slots[token].in_off);
}

static inline bool driver_wants_kick(const struct virtq_driver *d, uint16_t old, uint8_t old_wrap)
{
    uint32_t wish, event, fresh, distance;

    if (!driver_is_packed(d)) {
        if (!driver_has_event_idx(d))
            return !(driver_get16(d, d->device) & 1);
        event = driver_get16(d, d->device + 4 + 8U * d->size);
        return (uint16_t)(d->next - event - 1) < (uint16_t)(d->next - old);
    }
    wish = __atomic_load_n((uint32_t *)driver_at(d, d->device), __ATOMIC_ACQUIRE);
    if (wish >> 16 != 2)
        return wish >> 16 != 1;
    event = wish & 0x7fff;
    fresh = d->next + (d->wrap == old_wrap ? 0U : d->size) - old;
    distance = event + ((wish >> 15 & 1) == old_wrap ? 0U : d->size) - old; /* huge when it lies behind */
    return distance < fresh;
}

/* Shows what was added to the device. True when the device wants to be kicked for it. */
static inline bool driver_show(struct virtq_driver *d)
{
    uint16_t old = d->shown;
    uint8_t old_wrap = d->shown_wrap;

    if (d->next == old && d->wrap == old_wrap)
        return false;
    if (driver_is_packed(d))
        driver_put16(d, d->desc + 16U * old + 14, d->held_flags);
    else
        driver_put16(d, d->driver + 2, d->next);
    d->shown = d->next;
    d->shown_wrap = d->wrap;
    driver_barrier(); /* shown, before the device's wish is read */
    return driver_wants_kick(d, old, old_wrap);
}

/* --- taking --- */

static inline bool driver_has_used(const struct virtq_driver *d)
{
    uint16_t flags;

    if (!driver_is_packed(d))
        return driver_get16(d, d->device + 2) != d->last_used;
    flags = driver_get16(d, d->desc + 16U * d->last_used + 14);
    return !!(flags & DRIVER_AVAIL) == d->used_wrap && !!(flags & DRIVER_USED) == d->used_wrap;
}

/* An interrupt when ahead more entries (packed: descriptors) than now are used, and one more. */
static inline void driver_interrupt_after(struct virtq_driver *d, uint16_t ahead)
{
    uint32_t wish;

    if (!driver_has_event_idx(d)) {
        if (driver_is_packed(d))
            driver_put16(d, d->driver + 2, 0);
        else
            driver_put16(d, d->driver, 0);
    } else if (driver_is_packed(d)) {
        wish = d->last_used + ahead;
        wish = wish < d->size ? wish | (uint32_t)d->used_wrap << 15 : (wish - d->size) | (d->used_wrap ^ 1U) << 15;
        __atomic_store_n((uint32_t *)driver_at(d, d->driver), wish | 2U << 16, __ATOMIC_RELEASE);
    } else {
        driver_put16(d, d->driver + 4 + 2U * d->size, (uint16_t)(d->last_used + ahead));
    }
}

/* True: something was used meanwhile, of which no interrupt will tell. */
static inline bool driver_set_interrupts(struct virtq_driver *d, bool on)
{
    d->interrupts = on;
    if (on) {
        driver_interrupt_after(d, 0);
        driver_barrier(); /* asked for, before the ring is looked at again */
        return driver_has_used(d);
    }
    if (driver_is_packed(d))
        driver_put16(d, d->driver + 2, 1);
    else if (driver_has_event_idx(d))
        driver_put16(d, d->driver + 4 + 2U * d->size, (uint16_t)(d->last_used - 1)); /* far off */
    else
        driver_put16(d, d->driver, 1);
    return false;
}

/* The token of the next used chain, and the bytes that were written to it; DRIVER_NONE, or DRIVER_NONSENSE. */
static inline int driver_take(struct virtq_driver *d, uint32_t *len)
{
    uint32_t id;

    if (!driver_has_used(d))
        return DRIVER_NONE;
    if (driver_is_packed(d)) {
        struct driver_desc *desc = driver_desc_at(d, d->last_used);

        id = __atomic_load_n(&desc->id, __ATOMIC_RELAXED);
        *len = driver_get16(d, d->desc + 16U * d->last_used + 14) & DRIVER_WRITE ? __atomic_load_n(&desc->len, __ATOMIC_RELAXED) : 0;
    } else {
        uint32_t *entry = driver_at(d, d->device + 4 + 8U * (d->last_used & (d->size - 1U)));

        id = __atomic_load_n(entry, __ATOMIC_RELAXED);
        *len = __atomic_load_n(entry + 1, __ATOMIC_RELAXED);
    }
    if (id >= d->size || !d->slots[id].busy)
        return DRIVER_NONSENSE;
    d->slots[id].busy = false;
    d->free_descriptors = (uint16_t)(d->free_descriptors + d->slots[id].descriptors);
    d->out--;
    if (driver_is_packed(d)) {
        d->links[id] = d->free_head;
        d->last_used = (uint16_t)(d->last_used + d->slots[id].descriptors);
        if (d->last_used >= d->size) {
            d->last_used = (uint16_t)(d->last_used - d->size);
            d->used_wrap ^= 1;
        }
    } else {
        d->links[d->slots[id].last] = d->free_head;
        d->last_used++;
    }
    d->free_head = (uint16_t)id;
    if (d->interrupts && driver_has_event_idx(d))
        driver_interrupt_after(d, 0);
    return (int)id;
}
