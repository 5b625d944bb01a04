/* The virtio console: bytes between the driver's two queues and the host's end. */
#include "virtio/console.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bug.h"

/*
 * Theory of operation. Output is copied into a ring by whoever does the queue's work, and leaves it on the loop's thread, which alone calls
 * the host and then without the lock. A buffer of the driver's that does not fit is put back, and done remembers how much of it was taken:
 * nothing of the driver's is ever kept, so that reset, save and load need no more than that number. Input has no buffer here at all; it waits
 * at the host's end, which is told when the driver has given room.
 */
#define F_SIZE 0
#define INPUT 0 /* receiveq of port 0 (virtio 1.2 5.3.2) */
#define OUTPUT 1
#define QUEUE_SIZE 128
#define OUT_BYTES 16384

struct window {
    uint16_t cols, rows;
};

struct config_layout { /* virtio 1.2 5.3.4 */
    struct window size;
    uint32_t max_nr_ports, emerg_wr; /* of features that are not offered */
};

struct console_state {
    uint64_t done; /* bytes of the next output chain that were taken */
    uint16_t cols, rows;
};

static const struct state_field fields[] = {
    STATE_FIELD(struct console_state, done),
    STATE_FIELD(struct console_state, cols),
    STATE_FIELD(struct console_state, rows),
};
static const struct state_desc desc = {"virtio-console", 1, fields, ARRAY_SIZE(fields)};

struct console {
    struct virtio_device dev;
    struct console_state state;

    struct virtio_console_host host;
    struct virtq_chain chain;
    struct loop_timer work; /* output to hand over, the room callback */
    bool room_wanted;       /* the host waits for room */
    bool out_blocked;       /* the host took less than it was given */
    size_t out_head, out_count;
    uint8_t out[OUT_BYTES]; /* taken from by the loop's thread only */
};

static struct console *console_of(struct virtio_device *dev)
{
    return container_of(dev, struct console, dev);
}

static void want_work(struct console *c)
{
    loop_timer_set(&c->work, 1); /* at once */
}

/* --- output --- */

/* From the chain to the ring. True when all of it is there. */
static bool take_chain(struct console *c)
{
    while (c->state.done < c->chain.readable_len && c->out_count < OUT_BYTES) {
        size_t tail = (c->out_head + c->out_count) % OUT_BYTES;
        size_t room = MIN(OUT_BYTES - c->out_count, OUT_BYTES - tail);
        size_t n = virtq_read(&c->chain, c->state.done, c->out + tail, room);

        c->out_count += n;
        c->state.done += n;
    }
    return c->state.done >= c->chain.readable_len;
}

/* As much as fits. Called with the lock held. */
static void take_output(struct console *c)
{
    struct virtio_device *dev = &c->dev;
    bool more = true;

    while (more && c->out_count < OUT_BYTES && virtio_pop(dev, OUTPUT, &c->chain) > 0) {
        more = take_chain(c);
        if (more) {
            virtq_push(&dev->queues[OUTPUT], &c->chain, 0);
            c->state.done = 0;
        } else {
            virtq_unpop(&dev->queues[OUTPUT], &c->chain);
        }
    }
    virtio_publish(dev, OUTPUT);
    if (c->out_count && !c->out_blocked)
        want_work(c);
}

/* Called with the lock held, which it lets go of while the host takes bytes. */
static void hand_over(struct console *c)
{
    while (c->out_count && !c->out_blocked) {
        size_t len = MIN(c->out_count, OUT_BYTES - c->out_head), taken = len;

        if (c->host.out) {
            pthread_mutex_unlock(&c->dev.lock);
            taken = c->host.out(c->host.opaque, c->out + c->out_head, len);
            pthread_mutex_lock(&c->dev.lock);
        }
        BUG_ON(taken > len);
        c->out_head = (c->out_head + taken) % OUT_BYTES;
        c->out_count -= taken;
        c->out_blocked = taken < len;
    }
}

static void on_work(struct loop_timer *timer)
{
    struct console *c = container_of(timer, struct console, work);
    bool tell;

    pthread_mutex_lock(&c->dev.lock);
    hand_over(c);
    take_output(c); /* what had no room before; a driver that goes on writing must not keep the loop here */
    tell = c->room_wanted && virtio_queue_ready(&c->dev, INPUT);
    if (tell)
        c->room_wanted = false;
    pthread_mutex_unlock(&c->dev.lock);
    if (tell && c->host.room)
        c->host.room(c->host.opaque);
}

void virtio_console_out_ready(struct virtio_device *dev)
{
    struct console *c = console_of(dev);

    pthread_mutex_lock(&dev->lock);
    c->out_blocked = false;
    want_work(c);
    pthread_mutex_unlock(&dev->lock);
}

size_t virtio_console_drain(struct virtio_device *dev)
{
    struct console *c = console_of(dev);
    size_t left;

    pthread_mutex_lock(&dev->lock);
    c->out_blocked = false;
    hand_over(c);
    left = c->out_count;
    pthread_mutex_unlock(&dev->lock);
    return left;
}

/* --- input --- */

size_t virtio_console_receive(struct virtio_device *dev, const uint8_t *data, size_t len)
{
    struct console *c = console_of(dev);
    size_t taken = 0;

    pthread_mutex_lock(&dev->lock);
    while (taken < len && virtio_pop(dev, INPUT, &c->chain) > 0) {
        size_t n = virtq_write(&c->chain, 0, data + taken, len - taken);

        if (n == 0) {
            virtio_broken(dev, "a buffer for input has no room");
            break;
        }
        virtq_push(&dev->queues[INPUT], &c->chain, (uint32_t)n);
        taken += n;
    }
    virtio_publish(dev, INPUT);
    if (taken < len)
        c->room_wanted = true;
    pthread_mutex_unlock(&dev->lock);
    return taken;
}

void virtio_console_resize(struct virtio_device *dev, uint16_t cols, uint16_t rows)
{
    struct console *c = console_of(dev);

    pthread_mutex_lock(&dev->lock);
    if (c->state.cols != cols || c->state.rows != rows) {
        c->state.cols = cols;
        c->state.rows = rows;
        virtio_config_changed(dev);
    }
    pthread_mutex_unlock(&dev->lock);
}

/* --- what every device has --- */

static void console_kick(struct virtio_device *dev, unsigned queue)
{
    struct console *c = console_of(dev);

    if (queue == OUTPUT)
        take_output(c);
    else if (c->room_wanted)
        want_work(c);
}

/* What was taken from the driver goes out all the same. */
static void console_reset(struct virtio_device *dev)
{
    console_of(dev)->state.done = 0;
}

static void console_queue_reset(struct virtio_device *dev, unsigned queue)
{
    if (queue == OUTPUT)
        console_of(dev)->state.done = 0;
}

static uint64_t console_config_read(struct virtio_device *dev, unsigned off, unsigned size)
{
    const struct console *c = console_of(dev);
    const struct config_layout config = {.size = {c->state.cols, c->state.rows}};
    uint64_t value = 0;

    memcpy(&value, (const uint8_t *)&config + off, size);
    return value;
}

static void console_drain(struct virtio_device *dev)
{
    virtio_console_drain(dev);
}

/* Drained before: the bytes that wait for the host are not the guest's any more and are not saved. */
static int console_save(struct virtio_device *dev, struct state_writer *w)
{
    return state_save(&desc, &console_of(dev)->state, w);
}

/* The window is the one that is there now. */
static int console_load(struct virtio_device *dev, struct state_reader *r, struct err *e)
{
    struct console *c = console_of(dev);
    struct console_state copy = {0};
    int rc = state_load(&desc, &copy, r, e);

    if (rc)
        return rc;
    c->state.done = copy.done;
    if (copy.cols != c->state.cols || copy.rows != c->state.rows)
        virtio_config_changed(dev);
    want_work(c); /* the queues may hold what nobody will kick for */
    return 0;
}

static void console_free(struct virtio_device *dev)
{
    struct console *c = console_of(dev);

    loop_timer_cancel(&c->work);
    virtq_chain_fini(&c->chain);
    virtio_fini(dev);
    free(c);
}

static const struct virtio_ops ops = {
    .name = "console",
    .id = VIRTIO_ID_CONSOLE,
    .pci_class = 0x078000, /* communication controller, other */
    .reset = console_reset,
    .queue_reset = console_queue_reset,
    .kick = console_kick,
    .config_read = console_config_read,
    .drain = console_drain,
    .save = console_save,
    .load = console_load,
    .free = console_free,
};

struct virtio_device *virtio_console_new(const struct virtio_env *env, const char *label, const struct virtio_console_host *host,
                                         struct err *e)
{
    struct console *c = calloc(1, sizeof(*c));

    if (!c) {
        err_set(e, ENOMEM, "no memory for %s", label);
        return NULL;
    }
    if (virtio_init(&c->dev, &ops, env, label, BIT(F_SIZE), sizeof(struct config_layout), 2, QUEUE_SIZE, e) != 0)
        goto free_console;
    if (virtq_chain_init(&c->chain, &c->dev.queues[OUTPUT]) != 0) {
        err_set(e, ENOMEM, "no memory for a chain of %s", label);
        goto fini_device;
    }
    c->host = *host;
    loop_timer_init(env->loop, &c->work, on_work);
    return &c->dev;

fini_device:
    virtio_fini(&c->dev);
free_console:
    free(c);
    return NULL;
}
