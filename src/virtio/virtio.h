/* A virtio device apart from its transport: status, features, queues, and where its work runs (virtio 1.2 2, 3). */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/device.h"
#include "base/log.h"
#include "cpu/stats.h"
#include "cpu/trace.h"
#include "event/loop.h"
#include "mem/mem.h"
#include "virtio/queue.h"

enum virtio_id { VIRTIO_ID_NET = 1, VIRTIO_ID_BLK = 2, VIRTIO_ID_CONSOLE = 3, VIRTIO_ID_RNG = 4 };

/* Device status (virtio 1.2 2.1). */
#define VIRTIO_STATUS_ACKNOWLEDGE 1
#define VIRTIO_STATUS_DRIVER 2
#define VIRTIO_STATUS_DRIVER_OK 4
#define VIRTIO_STATUS_FEATURES_OK 8
#define VIRTIO_STATUS_NEEDS_RESET 64
#define VIRTIO_STATUS_FAILED 128

#define VIRTIO_QUEUES_MAX 64

struct virtio_device;

/*
 * What a kind of device does. All are called with the device's lock held; kick on the loop's thread or, with inline work, on a vCPU's; the
 * others on either. None may wait for the guest.
 */
struct virtio_ops {
    const char *name;
    enum virtio_id id;
    uint32_t pci_class;                                    /* class code of its PCI function */
    void (*start)(struct virtio_device *);                 /* DRIVER_OK was set: features and queues are fixed. May be NULL */
    void (*reset)(struct virtio_device *);                 /* forget everything: no chain may be pushed after it. May be NULL */
    void (*queue_reset)(struct virtio_device *, unsigned); /* the same for one queue (VIRTIO_F_RING_RESET). May be NULL */
    void (*kick)(struct virtio_device *, unsigned queue);  /* the driver has filled it: pop until empty */
    /* The device's own configuration; size 1, 2, 4 or 8; off + size <= config_size. write may be NULL: read-only */
    uint64_t (*config_read)(struct virtio_device *, unsigned off, unsigned size);
    void (*config_write)(struct virtio_device *, unsigned off, unsigned size, uint64_t value);
    void (*drain)(struct virtio_device *); /* returns when nothing is under way towards the host; called WITHOUT the lock. May be NULL */
    int (*save)(struct virtio_device *, struct state_writer *); /* beyond what every device has. May be NULL */
    /* May be NULL. Queues are loaded, and start() has been called when the device had been started. */
    int (*load)(struct virtio_device *, struct state_reader *, struct err *);
    void (*stats)(struct virtio_device *, struct stats_out *); /* beyond the queues'. May be NULL */
    /* Calls virtio_fini() and frees the rest, the struct too. Called without the lock; the device was drained and reset before. */
    void (*free)(struct virtio_device *);
};

struct virtio_state {
    uint8_t status;
    uint8_t config_generation;
    uint64_t driver_features;
};

/* What a device needs of the machine. */
struct virtio_env {
    struct mem *mem;
    struct loop *loop;
    bool inline_work;    /* a doorbell's work is done by the vCPU that rang it, not by the loop */
    struct trace *trace; /* may be NULL */
};

struct virtio_kick {
    struct loop_fd event; /* an eventfd: the doorbell writes it, or an engine's ioeventfd; the loop reads it */
    struct virtio_device *dev;
    unsigned queue;
    atomic_uint rung;     /* calls of virtio_doorbell() that the loop has not seen yet: all but the first need no wake-up */
    atomic_uint woken;    /* writes of our own to the eventfd that the loop has not counted yet */
    int64_t beyond;       /* what was read of the eventfd beyond those; negative while one is counted and not yet read. The loop's */
    unsigned held;        /* virtio_hold() */
    bool reset_under_way; /* of the queue; ends with the last virtio_release() */
};

/* The first member of a device's own struct. */
struct virtio_device {
    struct virtio_state state;

    const struct virtio_ops *ops;
    struct virtio_env env;
    char label[32];    /* "blk0": for messages and statistics */
    uint64_t features; /* offered */
    unsigned config_size;
    unsigned queue_count;
    struct virtq queues[VIRTIO_QUEUES_MAX];
    struct virtio_kick kicks[VIRTIO_QUEUES_MAX];
    pthread_mutex_t lock; /* guards all of the above and the device's own state */
    bool reset_under_way; /* of the device: status is not 0 before the last virtio_release() */
    struct log_limit complaints;

    /* The transport's; set when it is attached. queue -1: the configuration changed. Called with the lock held. True: an irqfd sent it. */
    bool (*interrupt)(void *transport, int queue);
    void *transport;
};

/*
 * For a kind's constructor. features: the device's own; ring features and VERSION_1 are added. Every queue is of queue_size until changed
 * by virtq_init(). 0 or -errno with a sentence; virtio_fini() undoes it, with the vCPUs standing, on the loop's thread or while the loop
 * does not run.
 */
int virtio_init(struct virtio_device *, const struct virtio_ops *, const struct virtio_env *, const char *label, uint64_t features,
                unsigned config_size, unsigned queue_count, uint16_t queue_size, struct err *);
void virtio_fini(struct virtio_device *);
void virtio_free(struct virtio_device *); /* drains, resets, calls ops->free; where virtio_fini() may be called. NULL is fine */

static inline bool virtio_has(const struct virtio_device *dev, unsigned feature)
{
    return dev->state.driver_features >> feature & 1;
}

/* Device and queue are ready for work: DRIVER_OK, no NEEDS_RESET, queue enabled and not broken. */
bool virtio_queue_ready(const struct virtio_device *, unsigned queue);

/* --- for kinds of devices, with the lock held --- */

/* virtq_pop() of a ready queue; a broken one makes the device need a reset. 1, 0 or -EINVAL. */
int virtio_pop(struct virtio_device *, unsigned queue, struct virtq_chain *);
/* virtq_publish(), and the interrupt when the driver wants one. */
void virtio_publish(struct virtio_device *, unsigned queue);
/*
 * The host has begun to work on a chain of the queue, and may write to its memory: until as many virtio_release() a reset of the queue or
 * the device is not finished for the driver, and the queue not ready. So a completion needs no more than:
 *     if (virtio_queue_ready(dev, queue)) { virtq_push(); virtio_publish(); }
 *     virtio_release(dev, queue);
 * Not for what waits inside the device: that is forgotten by reset() and queue_reset().
 */
void virtio_hold(struct virtio_device *, unsigned queue);
void virtio_release(struct virtio_device *, unsigned queue);
/* The device's configuration changed: generation and interrupt. */
void virtio_config_changed(struct virtio_device *);
/* The driver misbehaves: NEEDS_RESET, a configuration interrupt, and a line in the log at most once a second. */
void virtio_broken(struct virtio_device *, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* --- for transports; they take the lock --- */

/* The driver rang: any vCPU's thread; takes the lock only with inline work. A queue that is none is ignored. */
void virtio_doorbell(struct virtio_device *, unsigned queue);
/*
 * virtio 1.2 3.1.1. 0 resets; the driver sees 0 when it is done. FEATURES_OK stays off when the features cannot be had, and DRIVER_OK
 * without FEATURES_OK. Bits that are set stay so until a reset.
 */
void virtio_set_status(struct virtio_device *, uint8_t status);
/* Before FEATURES_OK; checked there. Half 0 is bits 0-31, half 1 bits 32-63; there are no others. */
void virtio_set_driver_features(struct virtio_device *, unsigned half, uint32_t features);
/* With what is in the queue's state. 0, or -EINVAL when it cannot be done now, or with these values: then the device needs a reset. */
int virtio_enable_queue(struct virtio_device *, unsigned queue);
/* Only with VIRTIO_F_RING_RESET. Done when reset_under_way of the queue is false. */
void virtio_reset_queue(struct virtio_device *, unsigned queue);
/* Beyond config_size bytes read as zeros, and writes go nowhere. */
uint64_t virtio_config_read(struct virtio_device *, unsigned off, unsigned size);
void virtio_config_write(struct virtio_device *, unsigned off, unsigned size, uint64_t value);

/* --- for the machine: on the loop's thread or while it does not run, with the vCPUs standing --- */

void virtio_drain(struct virtio_device *);
int virtio_save(struct virtio_device *, struct state_writer *); /* after virtio_drain() */
/* Into a device made with the same options. A started one goes on. On failure it is in reset. */
int virtio_load(struct virtio_device *, struct state_reader *, struct err *);
/* Per queue: kicks, and those of them by ioeventfd; chains, bytes; interrupts sent, those of them by irqfd, and suppressed; and the kind's own. The group is the label. Any thread. */
void virtio_stats(struct virtio_device *, struct stats_out *);
