/* What the two formats of rings do for the queue, and what both are made of. */
#pragma once

#include <string.h>

#include "virtio/queue.h"

/* Descriptor flags (virtio 1.2 2.7.5, 2.8.1). */
#define DESC_NEXT 1U
#define DESC_WRITE 2U
#define DESC_INDIRECT 4U
#define DESC_AVAIL (1U << 7) /* the last two: packed only */
#define DESC_USED (1U << 15)

#define DESC_BYTES 16U

struct ring_part {
    uint32_t bytes;
    uint32_t align;
    bool written; /* by the device */
};

struct ring_parts {
    struct ring_part desc, driver, device;
};

/* The queue is enabled; pop and push come in the order that queue.h asks for. */
struct ring_ops {
    const char *(*size_wrong)(uint16_t size); /* NULL: a ring can have it */
    struct ring_parts (*parts)(uint16_t size);
    int (*pop)(struct virtq *, struct virtq_chain *); /* the chain is empty; as virtq_pop() */
    void (*unpop)(struct virtq *, const struct virtq_chain *);
    void (*push)(struct virtq *, const struct virtq_chain *, uint32_t written);
    bool (*publish)(struct virtq *);              /* whether the driver wants an interrupt; something was pushed */
    void (*kicks)(struct virtq *);                /* tells the driver what state.kicks_off says */
    bool (*waiting)(struct virtq *);              /* a chain can be popped, or a mistake of the driver's be found */
    bool (*possible)(const struct virtq_state *); /* indexes of an enabled queue of which no chain is in use */
};

extern const struct ring_ops ring_split, ring_packed;

/* Marks the queue broken; why is the end of a sentence about the driver. -EINVAL. */
int ring_broken(struct virtq *, const char *why);

/* A descriptor of a buffer, which is the nth of the chain. 0 or -EINVAL. */
int ring_add(struct virtq *, struct virtq_chain *, unsigned nth, uint64_t gpa, uint32_t len, bool writable);

/* The table that a descriptor with the INDIRECT flag tells of: its address and number of entries. NULL: broken. */
const uint8_t *ring_table(struct virtq *, uint64_t gpa, uint32_t len, uint32_t *entries);

/* The device wrote a piece of a ring. */
static inline void ring_written(struct virtq *q, gpa_t gpa, size_t len)
{
    if (q->mem->code_changed)
        q->mem->code_changed(q->mem->code_changed_opaque, gpa, len);
}

static inline bool ring_has_event_idx(const struct virtq *q)
{
    return q->features >> VIRTIO_F_EVENT_IDX & 1;
}

/*
 * The driver changes guest memory at any moment. What comes from there is copied once, and only the copy is looked at: after the barrier
 * the compiler cannot go back to the original for a second look.
 */
static inline void copy_once(void *to, const void *from, size_t len)
{
    memcpy(to, from, len);
    __asm__ volatile("" : : "r"(to) : "memory");
}

static inline uint16_t load16(const void *p)
{
    return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
}

static inline uint16_t load16_acquire(const void *p)
{
    return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
}

static inline uint32_t load32(const void *p)
{
    return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}

static inline void store16(void *p, uint16_t value)
{
    __atomic_store_n((uint16_t *)p, value, __ATOMIC_RELAXED);
}

static inline void store16_release(void *p, uint16_t value)
{
    __atomic_store_n((uint16_t *)p, value, __ATOMIC_RELEASE);
}

static inline void store32(void *p, uint32_t value)
{
    __atomic_store_n((uint32_t *)p, value, __ATOMIC_RELAXED);
}

/*
 * A store before it is seen by the driver before a load after it is made: the one order that x86 does not keep by itself. (Written out:
 * the thread sanitizer knows no fences, and needs none of these.)
 */
static inline void barrier_store_load(void)
{
    __asm__ volatile("mfence" : : : "memory");
}
