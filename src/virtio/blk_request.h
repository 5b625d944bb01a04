/* The disk device's inside: the device's struct and a request's, between blk.c and blk_request.c. */
#pragma once

#include "virtio/blk.h"

enum cache_mode { CACHE_DEFAULT, CACHE_WRITETHROUGH, CACHE_WRITEBACK };

struct blk_state {
    uint8_t cache; /* enum cache_mode: what the driver chose */
};

struct blk_request {
    struct block_request io;
    struct virtio_blk *blk;
    struct blk_request *next_free;
    unsigned queue;
    uint32_t type;
    struct virtq_chain chain;
    struct iovec *data; /* the part of the chain that is data; what io uses up */
    unsigned range_count, range_next;
    struct virtio_blk_range ranges[VIRTIO_BLK_RANGES_MAX];
};

struct virtio_blk {
    struct virtio_device dev;
    struct blk_state state;

    struct block_backend *backend;
    struct virtio_blk_config config; /* all but writeback */
    char serial[VIRTIO_BLK_ID_BYTES];

    /* Under the device's lock. */
    struct blk_request *free_requests;
    uint64_t unpublished; /* queues with used entries that the driver has not been shown */
    uint64_t stalled;     /* queues where there was no memory for one more request: looked at when another one is done */
    bool submitted;       /* to the backend, without flush_submissions() */
    uint64_t reads, writes, flushes, discards, write_zeroes, errors;
    uint64_t next_complaint_ns;
};

static inline struct virtio_blk *blk_of(struct virtio_device *dev)
{
    return container_of(dev, struct virtio_blk, dev);
}

/* The device's cache: whether a write may be answered before it is on disk. */
bool blk_is_write_back(const struct virtio_blk *);

/* The pool has one request from the start, so that there is always one, or one under way. 0 or -ENOMEM. */
int blk_init_requests(struct virtio_blk *);
void blk_fini_requests(struct virtio_blk *);

/* With the lock held. */
void blk_on_kick(struct virtio_device *, unsigned queue);
/* The backend's batch_done(), whose owner is the struct virtio_blk; takes the lock. */
void blk_on_batch_done(void *owner);
