/* A virtqueue as the device sees it, split or packed (virtio 1.2 2.7, 2.8): chains out, used entries in, notifications when wanted. */
#pragma once

#include <sys/uio.h>

#include "base/err.h"
#include "base/state.h"
#include "mem/mem.h"

#define VIRTQ_SIZE_MAX 1024

/* Feature bits that rings depend on (virtio 1.2 6). */
#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX 29
#define VIRTIO_F_VERSION_1 32
#define VIRTIO_F_RING_PACKED 34
#define VIRTIO_F_RING_RESET 40

struct virtq_state {
    uint16_t max_size; /* what the device offers */
    uint16_t size;     /* what the driver chose */
    uint8_t enabled;
    uint8_t broken;                /* the driver broke the rules: nothing more is popped */
    uint64_t desc, driver, device; /* GPAs: descriptor table or ring; avail ring or driver area; used ring or device area */
    uint16_t avail_index;          /* next to pop. Packed: the position; the wrap counter apart */
    uint16_t used_index;           /* next to fill */
    uint16_t published_index;      /* what the driver has been shown; and the position of the last interrupt decision */
    uint8_t avail_wrap, used_wrap, published_wrap;
    uint8_t kicks_off; /* the device asked not to be kicked */
};

/* Of all times since virtq_init(). kicks is the owner's to count, the rest is counted here. */
struct virtq_stats {
    uint64_t kicks, chains, bytes_read, bytes_written, interrupts, interrupts_suppressed;
    uint64_t ioeventfd_kicks, irqfd_interrupts; /* of these: past any VM exit that we see, past any call of the engine */
};

/*
 * Not locked: the owner's lock guards all calls of one queue. Descriptors are copied once, then checked, and every segment has been found
 * to lie in RAM, so that a chain can be used without further looks at guest memory's bounds.
 */
struct virtq {
    struct virtq_state state;
    struct virtq_stats stats;

    struct mem *mem;
    uint64_t features;                        /* negotiated */
    void *desc_hva, *driver_hva, *device_hva; /* while enabled */
    unsigned in_use;                          /* chains popped and not pushed: never more than state.size */
    uint16_t held_flags;                      /* packed: of the first descriptor that was pushed and not published */
    const char *why;                          /* broken, or not enabled: what the driver did; goes on from "the driver " */
};

struct virtq_segment {
    gpa_t gpa;
    uint32_t len;
};

/* A request of the driver's: first what the device may read, then what it may write. */
struct virtq_chain {
    uint16_t id;                         /* split: the head's index; packed: the buffer id */
    uint16_t slots;                      /* ring entries that it takes (packed) */
    unsigned readable, writable;         /* segments: iov[0..readable) and iov[readable..readable + writable) */
    uint64_t readable_len, writable_len; /* bytes */
    unsigned capacity;
    struct iovec *iov;
    gpa_t *gpas; /* of each segment */
};

/* max_size: a power of two up to VIRTQ_SIZE_MAX. Allocates nothing. */
void virtq_init(struct virtq *, struct mem *, uint16_t max_size);
/* Of the device or of the queue: everything but max_size and stats is as after virtq_init(). Chains that are out must not be pushed. */
void virtq_reset(struct virtq *);

/*
 * The driver enabled it with size, desc, driver and device in state. Checks that size and rings are possible and in RAM: 0 or -EINVAL
 * (why says it). One that is enabled already stays as it is.
 */
int virtq_enable(struct virtq *, uint64_t features);

/* Room for the longest chain of a queue. 0 or -ENOMEM. */
int virtq_chain_init(struct virtq_chain *, const struct virtq *);
void virtq_chain_fini(struct virtq_chain *);

/*
 * 1: chain is the next one; 0: none there, or not enabled; -EINVAL: the driver broke the rules (broken and why are set, and it stays so).
 * After 0, and unless kicks are off, the driver kicks for the next chain. Descriptors without a byte are left out; a chain may be empty.
 */
int virtq_pop(struct virtq *, struct virtq_chain *);

/* Gives the most recently popped chain back to the driver's side, as if it had not been popped. No kick will tell of it again. */
void virtq_unpop(struct virtq *, const struct virtq_chain *);

/*
 * Makes the used entry: written bytes from the start of the writable part were filled, at most writable_len. Tells the engine of changed
 * code in them, so a device that filled anything behind a gap says more. The driver sees the entry only with virtq_publish(), so that
 * several chains (a merged packet) appear at once. Chains may be pushed in any order, into a broken queue too.
 */
void virtq_push(struct virtq *, const struct virtq_chain *, uint32_t written);

/* Shows all pushed entries to the driver. True when it wants an interrupt for them. False when there were none. */
bool virtq_publish(struct virtq *);

/*
 * Whether the driver shall kick. Turning kicks on returns true when chains came in meanwhile: then pop again, for no kick will tell.
 */
bool virtq_set_kicks(struct virtq *, bool on);

/* Bytes between the chain's readable or writable part and a buffer, at offset off. Returns how many were there, at most len. */
size_t virtq_read(const struct virtq_chain *, size_t off, void *buf, size_t len);
size_t virtq_write(const struct virtq_chain *, size_t off, const void *buf, size_t len);

/* No chain may be out, and all that was pushed be published. */
int virtq_save(struct virtq *, struct state_writer *);
/* Values that no queue can have are refused, and q is as before; an enabled queue is enabled again. */
int virtq_load(struct virtq *, uint64_t features, struct state_reader *, struct err *);
