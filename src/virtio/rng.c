/* The virtio entropy device: fills requests from getrandom(), and lets them wait where the rate is limited (virtio 1.2 5.4). */
#include "virtio/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"

#define PCI_CLASS 0x00ff00 /* unclassified, other */
#define QUEUE_SIZE 64

/* At most this much per request: a device may give less than was asked for (virtio 1.2 5.4.6.1), and so it never works for long. */
#define BATCH 64 /* requests at a time, however fast the driver adds some */
#define REQUEST_MAX 4096U

/*
 * Theory of operation of the limit. Each byte takes its time, as on a line of that rate, and paid_ns says up to when the bytes given so far
 * have kept the line busy. It may run ahead of now by BURST_NS. A request that would go further goes back to its queue; the timer then
 * looks at the queue again, with kicks off meanwhile. A reset needs to do no more than stop the timer: there are no requests elsewhere.
 */
#define BURST_NS NS_PER_SEC
#define RATE_MAX GIB(1024) /* as good as none */

struct rng {
    struct virtio_device dev;

    uint64_t bytes_per_second; /* 0: no limit */
    uint64_t paid_ns;          /* CLOCK_MONOTONIC */
    struct loop_timer timer;
    bool waiting; /* a request does, for the timer */
    struct virtq_chain chain;
    uint64_t bytes, waits;
};

static struct rng *rng_of(struct virtio_device *dev)
{
    return container_of(dev, struct rng, dev);
}

/* 0, and bytes are paid for; or when to look again. */
static uint64_t pay(struct rng *rng, uint32_t bytes)
{
    uint64_t now = clock_monotonic_ns(), after;

    if (!rng->bytes_per_second)
        return 0;
    after = MAX(rng->paid_ns, now) + (bytes * NS_PER_SEC + rng->bytes_per_second - 1) / rng->bytes_per_second;
    if (after > now + BURST_NS)
        return after - BURST_NS;
    rng->paid_ns = after;
    return 0;
}

/* Not more than a burst, or it would never be paid for. */
static uint32_t request_bytes(const struct rng *rng)
{
    uint64_t most = rng->bytes_per_second ? MIN(rng->bytes_per_second, REQUEST_MAX) : REQUEST_MAX;

    return (uint32_t)MIN(rng->chain.writable_len, most);
}

/* Bytes that the host gave; 0 if it could not, which the driver sees as an empty answer. */
static uint32_t fill(struct rng *rng, uint32_t bytes)
{
    uint8_t buf[REQUEST_MAX];
    ssize_t got;

    do
        got = getrandom(buf, bytes, 0);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return 0;
    return (uint32_t)virtq_write(&rng->chain, 0, buf, (size_t)got);
}

/* True when the queue is empty or no more are left in the batch, false when a request waits for the timer, or nothing more can be done. */
static bool serve(struct rng *rng, unsigned *left)
{
    int rc = 0;

    for (; *left > 0 && (rc = virtio_pop(&rng->dev, 0, &rng->chain)) == 1; --*left) {
        uint32_t bytes = request_bytes(rng);
        uint64_t later = bytes ? pay(rng, bytes) : 0;

        if (later) {
            virtq_unpop(&rng->dev.queues[0], &rng->chain);
            loop_timer_set(&rng->timer, later);
            rng->waiting = true;
            rng->waits++;
            return false;
        }
        bytes = bytes ? fill(rng, bytes) : 0;
        virtq_push(&rng->dev.queues[0], &rng->chain, bytes);
        rng->bytes += bytes;
    }
    return rc == 0 || !*left;
}

static void kick(struct virtio_device *dev, unsigned queue)
{
    struct rng *rng = rng_of(dev);
    unsigned left = BATCH;
    bool more;

    if (rng->waiting)
        return; /* the timer will look */
    virtq_set_kicks(&dev->queues[queue], false);
    do {
        more = serve(rng, &left);
        virtio_publish(dev, queue);
    } while (more && left && virtq_set_kicks(&dev->queues[queue], true));
    if (!more || left)
        return;
    loop_timer_set(&rng->timer, 0); /* others have their turn first */
    rng->waiting = true;
}

static void on_timer(struct loop_timer *timer)
{
    struct rng *rng = container_of(timer, struct rng, timer);

    pthread_mutex_lock(&rng->dev.lock);
    rng->waiting = false;
    if (virtio_queue_ready(&rng->dev, 0)) /* not when a reset came while the timer waited for the lock */
        kick(&rng->dev, 0);
    pthread_mutex_unlock(&rng->dev.lock);
}

static void reset(struct virtio_device *dev)
{
    loop_timer_cancel(&rng_of(dev)->timer);
    rng_of(dev)->waiting = false;
}

static void queue_reset(struct virtio_device *dev, unsigned queue)
{
    (void)queue;
    reset(dev);
}

static void stats(struct virtio_device *dev, struct stats_out *out)
{
    out->number(out, dev->label, "random bytes", rng_of(dev)->bytes);
    out->number(out, dev->label, "waits for the limit", rng_of(dev)->waits);
}

static void rng_free(struct virtio_device *dev)
{
    struct rng *rng = rng_of(dev);

    loop_timer_cancel(&rng->timer);
    virtq_chain_fini(&rng->chain);
    virtio_fini(dev);
    free(rng);
}

static const struct virtio_ops ops = {
    .name = "rng",
    .id = VIRTIO_ID_RNG,
    .pci_class = PCI_CLASS,
    .reset = reset,
    .queue_reset = queue_reset,
    .kick = kick,
    .stats = stats,
    .free = rng_free,
};

struct virtio_device *virtio_rng_new(const struct virtio_env *env, const char *label, uint64_t bytes_per_second, struct err *e)
{
    struct rng *rng = calloc(1, sizeof(*rng));

    if (!rng) {
        err_set(e, ENOMEM, "no memory for %s", label);
        return NULL;
    }
    if (virtio_init(&rng->dev, &ops, env, label, 0, 0, 1, QUEUE_SIZE, e))
        goto free_rng;
    if (virtq_chain_init(&rng->chain, &rng->dev.queues[0])) {
        err_set(e, ENOMEM, "no memory for the requests of %s", label);
        goto fini;
    }
    rng->bytes_per_second = MIN(bytes_per_second, RATE_MAX);
    loop_timer_init(env->loop, &rng->timer, on_timer);
    return &rng->dev;

fini:
    virtio_fini(&rng->dev);
free_rng:
    free(rng);
    return NULL;
}
