/* The virtio device core: status, features, doorbells, resets, and what every kind of device saves and counts (virtio 1.2 2, 3). */
#include "virtio/virtio.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bug.h"

/*
 * Theory of operation. A doorbell adds one to rung and writes the queue's eventfd if rung was 0; the loop's thread reads the eventfd, takes
 * the lock, then takes rung to 0, and then looks at the ring. A doorbell that found rung above 0 is thus seen by a look at the ring that
 * comes after it, and a busy queue costs the driver no system call per request.
 *
 * Resets may find requests of the driver's under way in the host (virtio_hold()), and these may still write to guest memory. Everything else
 * is reset at once, but the driver sees status 0, or queue_reset 0, only when the last of them is done. Meanwhile no queue is ready, so
 * that the completions of old requests find nothing to be pushed to.
 *
 * A kick, a timer or a completion that was under way when a reset came takes the lock after it and finds the queue not ready, or finds what
 * the driver made of it since: both are harmless, because a look at a ring in which nothing is new does nothing.
 */
#define RING_FEATURES                                                                                                                      \
    (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_RING_RESET))

#define STATUS_DRIVERS                                                                                                                     \
    (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED)

struct saved {
    uint8_t status;
    uint8_t config_generation;
    uint64_t driver_features;
    uint16_t id; /* that the state belongs to a device of this shape */
    uint16_t queue_count;
};

static const struct state_field fields[] = {
    STATE_FIELD(struct saved, status), STATE_FIELD(struct saved, config_generation), STATE_FIELD(struct saved, driver_features),
    STATE_FIELD(struct saved, id),     STATE_FIELD(struct saved, queue_count),
};
static const struct state_desc desc = {"virtio", 1, fields, ARRAY_SIZE(fields)};

/* --- doorbells --- */

bool virtio_queue_ready(const struct virtio_device *dev, unsigned queue)
{
    const struct virtq_state *q = &dev->queues[queue].state;

    return (dev->state.status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET)) == VIRTIO_STATUS_DRIVER_OK && q->enabled &&
           !q->broken;
}

static void wake_loop(struct virtio_kick *kick)
{
    uint64_t one = 1;

    atomic_fetch_add(&kick->woken, 1);
    if (write(kick->event.fd, &one, sizeof(one)) < 0)
        return; /* EAGAIN: the counter is full, and the loop about to come */
}

static void kick_locked(struct virtio_device *dev, unsigned queue, uint64_t rung)
{
    dev->queues[queue].stats.kicks += rung;
    trace_kick(dev->env.trace, dev->label, queue);
    if (virtio_queue_ready(dev, queue))
        dev->ops->kick(dev, queue);
}

/* How many of what was read from the eventfd are doorbells that no virtio_doorbell() was called for. */
static uint64_t by_ioeventfd(struct virtio_kick *kick, uint64_t count)
{
    uint64_t others;

    kick->beyond += (int64_t)count - (int64_t)atomic_exchange(&kick->woken, 0);
    others = kick->beyond > 0 ? (uint64_t)kick->beyond : 0;
    kick->beyond -= (int64_t)others;
    return others;
}

static void on_kick(struct loop_fd *event, uint32_t events)
{
    struct virtio_kick *kick = container_of(event, struct virtio_kick, event);
    struct virtio_device *dev = kick->dev;
    uint64_t count, others;

    (void)events;
    if (read(event->fd, &count, sizeof(count)) < 0)
        return;
    others = by_ioeventfd(kick, count);
    pthread_mutex_lock(&dev->lock);
    dev->queues[kick->queue].stats.ioeventfd_kicks += others;
    kick_locked(dev, kick->queue, atomic_exchange(&kick->rung, 0) + others);
    pthread_mutex_unlock(&dev->lock);
}

void virtio_doorbell(struct virtio_device *dev, unsigned queue)
{
    if (queue >= dev->queue_count)
        return;
    if (dev->env.inline_work) {
        pthread_mutex_lock(&dev->lock);
        kick_locked(dev, queue, 1);
        pthread_mutex_unlock(&dev->lock);
    } else if (atomic_fetch_add(&dev->kicks[queue].rung, 1) == 0) {
        wake_loop(&dev->kicks[queue]);
    }
}

/* --- making and ending --- */

static void remove_kicks(struct virtio_device *dev, unsigned count)
{
    for (unsigned q = 0; q < count; q++) {
        loop_remove_fd(dev->env.loop, &dev->kicks[q].event);
        close(dev->kicks[q].event.fd);
    }
}

static int add_kick(struct virtio_device *dev, unsigned queue)
{
    struct virtio_kick *kick = &dev->kicks[queue];
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), rc;

    if (fd < 0)
        return -errno;
    *kick = (struct virtio_kick){.event = {fd, EPOLLIN, on_kick}, .dev = dev, .queue = queue};
    rc = loop_add_fd(dev->env.loop, &kick->event);
    if (rc)
        close(fd);
    return rc;
}

int virtio_init(struct virtio_device *dev, const struct virtio_ops *ops, const struct virtio_env *env, const char *label, uint64_t features,
                unsigned config_size, unsigned queue_count, uint16_t queue_size, struct err *e)
{
    int rc;

    BUG_ON(queue_count == 0 || queue_count > VIRTIO_QUEUES_MAX || !ops->kick || (config_size && !ops->config_read));
    memset(dev, 0, sizeof(*dev));
    dev->ops = ops;
    dev->env = *env;
    dev->features = features | RING_FEATURES;
    dev->config_size = config_size;
    dev->queue_count = queue_count;
    snprintf(dev->label, sizeof(dev->label), "%s", label);
    rc = pthread_mutex_init(&dev->lock, NULL);
    if (rc)
        return err_set(e, rc, "cannot create the lock of %s: %s", label, strerror(rc));
    for (unsigned q = 0; q < queue_count; q++) {
        virtq_init(&dev->queues[q], env->mem, queue_size);
        rc = add_kick(dev, q);
        if (rc) {
            remove_kicks(dev, q);
            pthread_mutex_destroy(&dev->lock);
            return err_set(e, -rc, "cannot create the doorbell of queue %u of %s: %s%s", q, label, strerror(-rc),
                           rc == -EMFILE ? " (ulimit -n raises the limit of open files)" : "");
        }
    }
    return 0;
}

void virtio_fini(struct virtio_device *dev)
{
    remove_kicks(dev, dev->queue_count);
    pthread_mutex_destroy(&dev->lock);
}

void virtio_free(struct virtio_device *dev)
{
    if (!dev)
        return;
    virtio_drain(dev);
    virtio_set_status(dev, 0);
    dev->ops->free(dev);
}

/* --- for kinds of devices --- */

static bool interrupt(struct virtio_device *dev, int queue)
{
    return dev->interrupt && dev->interrupt(dev->transport, queue);
}

/* Nothing is sent before DRIVER_OK (virtio 1.2 3.1.1, 2.1.2). */
void virtio_config_changed(struct virtio_device *dev)
{
    dev->state.config_generation++;
    if (dev->state.status & VIRTIO_STATUS_DRIVER_OK)
        interrupt(dev, -1);
}

void virtio_broken(struct virtio_device *dev, const char *fmt, ...)
{
    bool told = dev->state.status & VIRTIO_STATUS_NEEDS_RESET;
    char what[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    log_guest(&dev->complaints, "%s needs a reset by its driver: %s", dev->label, what);
    if (dev->reset_under_way)
        return;
    dev->state.status |= VIRTIO_STATUS_NEEDS_RESET;
    if (!told && (dev->state.status & VIRTIO_STATUS_DRIVER_OK))
        interrupt(dev, -1);
}

int virtio_pop(struct virtio_device *dev, unsigned queue, struct virtq_chain *chain)
{
    int rc;

    if (!virtio_queue_ready(dev, queue))
        return 0;
    rc = virtq_pop(&dev->queues[queue], chain);
    if (rc < 0)
        virtio_broken(dev, "on queue %u it %s", queue, dev->queues[queue].why);
    return rc;
}

void virtio_publish(struct virtio_device *dev, unsigned queue)
{
    bool wanted;

    if (!virtio_queue_ready(dev, queue))
        return;
    wanted = virtq_publish(&dev->queues[queue]);
    trace_completion(dev->env.trace, dev->label, queue, wanted);
    if (wanted && interrupt(dev, (int)queue))
        dev->queues[queue].stats.irqfd_interrupts++;
}

static bool holds_any(const struct virtio_device *dev)
{
    for (unsigned q = 0; q < dev->queue_count; q++)
        if (dev->kicks[q].held)
            return true;
    return false;
}

static void end_reset(struct virtio_device *dev)
{
    dev->reset_under_way = false;
    dev->state.status = 0;
    dev->state.driver_features = 0;
}

void virtio_hold(struct virtio_device *dev, unsigned queue)
{
    dev->kicks[queue].held++;
}

void virtio_release(struct virtio_device *dev, unsigned queue)
{
    struct virtio_kick *kick = &dev->kicks[queue];

    BUG_ON(kick->held == 0);
    if (--kick->held)
        return;
    kick->reset_under_way = false;
    if (dev->reset_under_way && !holds_any(dev))
        end_reset(dev);
}

/* --- for transports --- */

static void reset_locked(struct virtio_device *dev)
{
    dev->state.status &= (uint8_t)~VIRTIO_STATUS_DRIVER_OK; /* from here on no queue is ready */
    if (dev->ops->reset)
        dev->ops->reset(dev);
    for (unsigned q = 0; q < dev->queue_count; q++) {
        virtq_reset(&dev->queues[q]);
        dev->kicks[q].reset_under_way = false;
    }
    end_reset(dev);
    if (holds_any(dev)) {
        dev->reset_under_way = true;
        dev->state.status = VIRTIO_STATUS_ACKNOWLEDGE; /* anything but 0 */
    }
}

static bool accept_features(struct virtio_device *dev)
{
    uint64_t wanted = dev->state.driver_features;

    if (wanted & ~dev->features)
        log_guest(&dev->complaints, "the driver of %s wants features that are not offered: %#" PRIx64, dev->label, wanted & ~dev->features);
    else if (!(wanted & BIT(VIRTIO_F_VERSION_1)))
        log_guest(&dev->complaints, "the driver of %s is one for legacy devices: it does not take VIRTIO_F_VERSION_1", dev->label);
    else
        return true;
    return false;
}

static void add_status(struct virtio_device *dev, uint8_t added)
{
    if (dev->state.status & VIRTIO_STATUS_NEEDS_RESET)
        added &= VIRTIO_STATUS_FAILED;
    if ((added & VIRTIO_STATUS_FEATURES_OK) && !accept_features(dev))
        added &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
    if ((added & VIRTIO_STATUS_DRIVER_OK) && !((dev->state.status | added) & VIRTIO_STATUS_FEATURES_OK)) {
        log_guest(&dev->complaints, "the driver of %s sets DRIVER_OK without FEATURES_OK", dev->label);
        added &= (uint8_t)~VIRTIO_STATUS_DRIVER_OK;
    }
    dev->state.status |= added;
    if ((added & VIRTIO_STATUS_DRIVER_OK) && dev->ops->start)
        dev->ops->start(dev);
}

void virtio_set_status(struct virtio_device *dev, uint8_t status)
{
    pthread_mutex_lock(&dev->lock);
    if (status == 0)
        reset_locked(dev);
    else if (!dev->reset_under_way)
        add_status(dev, status & STATUS_DRIVERS & (uint8_t)~dev->state.status);
    pthread_mutex_unlock(&dev->lock);
}

void virtio_set_driver_features(struct virtio_device *dev, unsigned half, uint32_t features)
{
    pthread_mutex_lock(&dev->lock);
    if (half < 2 && !(dev->state.status & VIRTIO_STATUS_FEATURES_OK)) {
        uint64_t *all = &dev->state.driver_features;

        *all = (*all & ~((uint64_t)UINT32_MAX << 32 * half)) | (uint64_t)features << 32 * half;
    }
    pthread_mutex_unlock(&dev->lock);
}

/* Queues are set up between FEATURES_OK and DRIVER_OK, and after a reset of their own (virtio 1.2 3.1.1, 2.6.1). */
static bool may_enable(const struct virtio_device *dev, unsigned queue)
{
    uint8_t status = dev->state.status;

    if (!(status & VIRTIO_STATUS_FEATURES_OK) || (status & VIRTIO_STATUS_NEEDS_RESET))
        return false;
    if (dev->reset_under_way || dev->kicks[queue].reset_under_way)
        return false;
    return !(status & VIRTIO_STATUS_DRIVER_OK) || virtio_has(dev, VIRTIO_F_RING_RESET);
}

int virtio_enable_queue(struct virtio_device *dev, unsigned queue)
{
    int rc = -EINVAL;

    if (queue >= dev->queue_count)
        return -EINVAL;
    pthread_mutex_lock(&dev->lock);
    if (dev->queues[queue].state.enabled) {
        rc = 0;
    } else if (may_enable(dev, queue)) {
        rc = virtq_enable(&dev->queues[queue], dev->state.driver_features);
        if (rc)
            virtio_broken(dev, "for queue %u it %s", queue, dev->queues[queue].why);
    } else {
        log_guest(&dev->complaints, "the driver of %s enables queue %u at the wrong time (status %#x)", dev->label, queue,
                  (unsigned)dev->state.status);
    }
    pthread_mutex_unlock(&dev->lock);
    return rc;
}

void virtio_reset_queue(struct virtio_device *dev, unsigned queue)
{
    if (queue >= dev->queue_count)
        return;
    pthread_mutex_lock(&dev->lock);
    if (virtio_has(dev, VIRTIO_F_RING_RESET) && (dev->state.status & VIRTIO_STATUS_FEATURES_OK) && dev->queues[queue].state.enabled) {
        if (dev->ops->queue_reset)
            dev->ops->queue_reset(dev, queue);
        virtq_reset(&dev->queues[queue]);
        dev->kicks[queue].reset_under_way = dev->kicks[queue].held != 0;
    }
    pthread_mutex_unlock(&dev->lock);
}

uint64_t virtio_config_read(struct virtio_device *dev, unsigned off, unsigned size)
{
    uint64_t value = 0;

    pthread_mutex_lock(&dev->lock);
    if (off <= dev->config_size && size <= dev->config_size - off)
        value = dev->ops->config_read(dev, off, size);
    else
        for (unsigned i = 0; i < size && off < dev->config_size - MIN(i, dev->config_size); i++)
            value |= (dev->ops->config_read(dev, off + i, 1) & 0xff) << (8 * i);
    pthread_mutex_unlock(&dev->lock);
    return value;
}

void virtio_config_write(struct virtio_device *dev, unsigned off, unsigned size, uint64_t value)
{
    pthread_mutex_lock(&dev->lock);
    if (dev->ops->config_write && off <= dev->config_size && size <= dev->config_size - off)
        dev->ops->config_write(dev, off, size, value);
    pthread_mutex_unlock(&dev->lock);
}

/* --- for the machine --- */

void virtio_drain(struct virtio_device *dev)
{
    if (dev->ops->drain)
        dev->ops->drain(dev);
    pthread_mutex_lock(&dev->lock);
    BUG_ON(holds_any(dev));
    pthread_mutex_unlock(&dev->lock);
}

/*
 * A queue at rest has no chains out. That of a device which needs a reset may have lost some, with whatever was wrong; they will never come
 * back, and its positions mean nothing any more.
 */
static int save_queue(const struct virtio_device *dev, unsigned queue, struct state_writer *w)
{
    struct virtq copy = dev->queues[queue];
    struct virtq_state *s = &copy.state;

    if (dev->state.status & VIRTIO_STATUS_NEEDS_RESET) {
        copy.in_use = 0;
        s->used_index = s->published_index = s->avail_index;
        s->used_wrap = s->published_wrap = s->avail_wrap;
    }
    return virtq_save(&copy, w);
}

int virtio_save(struct virtio_device *dev, struct state_writer *w)
{
    struct saved saved;
    int rc;

    pthread_mutex_lock(&dev->lock);
    saved = (struct saved){
        .status = dev->state.status,
        .config_generation = dev->state.config_generation,
        .driver_features = dev->state.driver_features,
        .id = (uint16_t)dev->ops->id,
        .queue_count = (uint16_t)dev->queue_count,
    };
    rc = state_save(&desc, &saved, w);
    for (unsigned q = 0; q < dev->queue_count && !rc; q++)
        rc = save_queue(dev, q, w);
    if (!rc && dev->ops->save)
        rc = dev->ops->save(dev, w);
    pthread_mutex_unlock(&dev->lock);
    return rc;
}

static int check_saved(const struct virtio_device *dev, const struct saved *s, struct err *e)
{
    bool agreed = s->status & VIRTIO_STATUS_FEATURES_OK;

    if (s->id != dev->ops->id || s->queue_count != dev->queue_count)
        return err_set(e, EINVAL, "the saved state is of a virtio device of kind %u with %u queues, and %s is of kind %u with %u",
                       (unsigned)s->id, (unsigned)s->queue_count, dev->label, (unsigned)dev->ops->id, dev->queue_count);
    if (agreed && (s->driver_features & ~dev->features))
        return err_set(e, EINVAL, "the saved state of %s uses features that it does not have with these options: %#" PRIx64, dev->label,
                       s->driver_features & ~dev->features);
    if ((s->status & ~(STATUS_DRIVERS | VIRTIO_STATUS_NEEDS_RESET)) || (!agreed && (s->status & VIRTIO_STATUS_DRIVER_OK)) ||
        (agreed && !(s->driver_features & BIT(VIRTIO_F_VERSION_1))))
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", dev->label);
    return 0;
}

static int load_queues(struct virtio_device *dev, struct state_reader *r, struct err *e)
{
    for (unsigned q = 0; q < dev->queue_count; q++) {
        struct virtq *queue = &dev->queues[q];
        uint16_t max_size = queue->state.max_size;
        int rc = virtq_load(queue, dev->state.driver_features, r, e);

        if (rc)
            return rc;
        if (queue->state.max_size != max_size || (queue->state.enabled && !(dev->state.status & VIRTIO_STATUS_FEATURES_OK)) ||
            (queue->state.broken && !(dev->state.status & VIRTIO_STATUS_NEEDS_RESET)))
            return err_set(e, EINVAL, "the saved state of queue %u of %s does not fit to the device", q, dev->label);
    }
    return 0;
}

static int load_locked(struct virtio_device *dev, struct state_reader *r, struct err *e)
{
    struct saved saved = {0};
    int rc = state_load(&desc, &saved, r, e);

    if (!rc)
        rc = check_saved(dev, &saved, e);
    if (rc)
        return rc;
    dev->state = (struct virtio_state){saved.status, saved.config_generation, saved.driver_features};
    rc = load_queues(dev, r, e);
    if (rc)
        return rc;
    if ((dev->state.status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET)) == VIRTIO_STATUS_DRIVER_OK && dev->ops->start)
        dev->ops->start(dev);
    return dev->ops->load ? dev->ops->load(dev, r, e) : 0;
}

/* A doorbell that had been rung and not yet been answered is in no state: every queue is looked at. */
int virtio_load(struct virtio_device *dev, struct state_reader *r, struct err *e)
{
    int rc;

    virtio_drain(dev);
    pthread_mutex_lock(&dev->lock);
    reset_locked(dev);
    rc = load_locked(dev, r, e);
    if (rc)
        reset_locked(dev);
    for (unsigned q = 0; q < dev->queue_count; q++)
        if (virtio_queue_ready(dev, q))
            wake_loop(&dev->kicks[q]);
    pthread_mutex_unlock(&dev->lock);
    return rc;
}

static void queue_stats(const struct virtio_device *dev, unsigned queue, struct stats_out *out)
{
    const struct virtq_stats *s = &dev->queues[queue].stats;
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        {"kicks", s->kicks},
        {"chains", s->chains},
        {"bytes read", s->bytes_read},
        {"bytes written", s->bytes_written},
        {"interrupts", s->interrupts},
        {"interrupts suppressed", s->interrupts_suppressed},
        {"kicks by ioeventfd", s->ioeventfd_kicks},
        {"interrupts by irqfd", s->irqfd_interrupts},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        char name[48];

        snprintf(name, sizeof(name), "queue %u %s", queue, rows[i].name);
        out->number(out, dev->label, name, rows[i].value);
    }
}

void virtio_stats(struct virtio_device *dev, struct stats_out *out)
{
    pthread_mutex_lock(&dev->lock);
    for (unsigned q = 0; q < dev->queue_count; q++)
        queue_stats(dev, q, out);
    if (dev->ops->stats)
        dev->ops->stats(dev, out);
    pthread_mutex_unlock(&dev->lock);
}
