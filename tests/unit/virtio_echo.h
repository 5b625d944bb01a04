/* A virtio device that answers each request with its bytes inverted: for the tests and the fuzzer of the core and the transport. */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "base/bug.h"
#include "event/loop.h"
#include "virtq_driver.h"
#include "virtio/virtio.h"

#define ECHO_ID 42
#define ECHO_QUEUES 3
#define ECHO_QUEUE_SIZE 16
#define ECHO_CONFIG_BYTES 20
#define ECHO_FEATURE 5 /* the device's own one */
#define ECHO_BYTES_MAX 256

struct echo_state {
    uint8_t config[ECHO_CONFIG_BYTES];
};

struct echo {
    struct virtio_device dev;

    struct echo_state saved;
    struct virtq_chain chain; /* being answered, or with the host */
    int held_queue;           /* whose chain is with the host; -1: none is */
    bool hold;                /* give the next request to the host, by whom echo_complete() ends it */
    unsigned starts, resets, queue_resets, kicks, config_writes;
    bool *freed;
};

static inline struct echo *echo_of(struct virtio_device *dev)
{
    return container_of(dev, struct echo, dev);
}

static inline void echo_answer(struct echo *echo, unsigned queue)
{
    uint8_t buf[ECHO_BYTES_MAX];
    size_t len = virtq_read(&echo->chain, 0, buf, sizeof(buf));

    for (size_t i = 0; i < len; i++)
        buf[i] ^= 0xff;
    len = virtq_write(&echo->chain, 0, buf, len);
    virtq_push(&echo->dev.queues[queue], &echo->chain, (uint32_t)len);
}

static inline void echo_kick(struct virtio_device *dev, unsigned queue)
{
    struct echo *echo = echo_of(dev);

    echo->kicks++;
    while (echo->held_queue < 0 && virtio_pop(dev, queue, &echo->chain) == 1) {
        if (echo->hold) {
            virtio_hold(dev, queue);
            echo->held_queue = (int)queue;
        } else {
            echo_answer(echo, queue);
        }
    }
    virtio_publish(dev, queue);
}

/* The host is done with the request that it was given. */
static inline void echo_complete(struct echo *echo)
{
    unsigned queue = (unsigned)echo->held_queue;

    if (echo->held_queue < 0)
        return;
    pthread_mutex_lock(&echo->dev.lock);
    echo->held_queue = -1;
    if (virtio_queue_ready(&echo->dev, queue)) {
        echo_answer(echo, queue);
        virtio_publish(&echo->dev, queue);
    }
    virtio_release(&echo->dev, queue);
    pthread_mutex_unlock(&echo->dev.lock);
}

static inline void echo_start(struct virtio_device *dev)
{
    echo_of(dev)->starts++;
}

static inline void echo_reset(struct virtio_device *dev)
{
    for (unsigned q = 0; q < dev->queue_count; q++)
        BUG_ON(virtio_queue_ready(dev, q)); /* whatever a reset ends in passing finds no queue to push to */
    echo_of(dev)->resets++;
}

static inline void echo_queue_reset(struct virtio_device *dev, unsigned queue)
{
    (void)queue;
    echo_of(dev)->queue_resets++;
}

static inline uint64_t echo_config_read(struct virtio_device *dev, unsigned off, unsigned size)
{
    uint64_t value = 0;

    BUG_ON(off + size > ECHO_CONFIG_BYTES);
    memcpy(&value, &echo_of(dev)->saved.config[off], size);
    return value;
}

static inline void echo_config_write(struct virtio_device *dev, unsigned off, unsigned size, uint64_t value)
{
    BUG_ON(off + size > ECHO_CONFIG_BYTES);
    echo_of(dev)->config_writes++;
    memcpy(&echo_of(dev)->saved.config[off], &value, size);
}

static inline void echo_drain(struct virtio_device *dev)
{
    echo_complete(echo_of(dev));
}

static const struct state_field echo_fields[] = {STATE_ARRAY(struct echo_state, config)};
static const struct state_desc echo_desc = {"echo", 1, echo_fields, ARRAY_SIZE(echo_fields)};

static inline int echo_save(struct virtio_device *dev, struct state_writer *w)
{
    return state_save(&echo_desc, &echo_of(dev)->saved, w);
}

static inline int echo_load(struct virtio_device *dev, struct state_reader *r, struct err *e)
{
    struct echo_state copy = {0};
    int rc = state_load(&echo_desc, &copy, r, e);

    if (!rc)
        echo_of(dev)->saved = copy;
    return rc;
}

static inline void echo_stats(struct virtio_device *dev, struct stats_out *out)
{
    out->number(out, dev->label, "starts", echo_of(dev)->starts);
}

static inline void echo_free(struct virtio_device *dev)
{
    struct echo *echo = echo_of(dev);

    if (echo->freed)
        *echo->freed = true;
    virtq_chain_fini(&echo->chain);
    virtio_fini(dev);
    free(echo);
}

static const struct virtio_ops echo_ops = {
    .name = "echo",
    .id = (enum virtio_id)ECHO_ID,
    .pci_class = 0x0780ff,
    .start = echo_start,
    .reset = echo_reset,
    .queue_reset = echo_queue_reset,
    .kick = echo_kick,
    .config_read = echo_config_read,
    .config_write = echo_config_write,
    .drain = echo_drain,
    .save = echo_save,
    .load = echo_load,
    .stats = echo_stats,
    .free = echo_free,
};

/* NULL with a sentence. */
static inline struct echo *echo_new(const struct virtio_env *env, const char *label, struct err *e)
{
    struct echo *echo = calloc(1, sizeof(*echo));

    BUG_ON(!echo);
    if (virtio_init(&echo->dev, &echo_ops, env, label, BIT(ECHO_FEATURE), ECHO_CONFIG_BYTES, ECHO_QUEUES, ECHO_QUEUE_SIZE, e)) {
        free(echo);
        return NULL;
    }
    echo->held_queue = -1;
    for (unsigned i = 0; i < ECHO_CONFIG_BYTES; i++)
        echo->saved.config[i] = (uint8_t)(0xc0 + i);
    BUG_ON(virtq_chain_init(&echo->chain, &echo->dev.queues[0]));
    return echo;
}

static inline void echo_stop_loop(void *loop)
{
    loop_stop(loop);
}

/* One round of the loop: what is ready now is done. */
static inline void echo_settle(struct loop *loop)
{
    loop_post(loop, echo_stop_loop, loop);
    BUG_ON(loop_run(loop));
}
