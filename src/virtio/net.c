/* A virtio network device: frames between the guest's queues and a network backend (virtio 1.2 5.1). */
#include "virtio/net.h"

#include <errno.h>
#include <limits.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

#include "base/bug.h"
#include "virtio/net_filter.h"
#include "virtio/net_header.h"

/*
 * Theory of operation. The backend's frames are read one by one into the device and laid from there into the driver's buffers, as many as
 * a frame needs (mergeable buffers), all shown at the end of a batch. When the buffers run out the frame stays, and the chains that were
 * taken for it stay out with the device; the backend is not read until a kick brings more. As long as there are buffers, kicks are off.
 *
 * The driver's frames go to the backend from where they are; only the header is copied and checked. A backend that is not ready leaves the
 * chain in the queue, until it calls.
 *
 * A batch has an end, so that a busy guest does not keep the loop from others: the rest is done in the loop's next round.
 */

enum { RX, TX, CTRL, QUEUES };

#define DEVICE_FEATURES                                                                                                                    \
    (BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_CTRL_VQ) |                          \
     BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | BIT(VIRTIO_NET_F_SPEED_DUPLEX))

#define QUEUE_SIZE 256
#define BATCH 256
#define MERGE_MAX 64   /* buffers of one frame; a driver whose are smaller than 1 KiB does not get the largest frames */
#define SPEED_MB 10000 /* what the configuration says, in lack of a truth */

struct virtio_net_stats {
    uint64_t rx_frames, rx_filtered, rx_dropped, tx_frames, tx_dropped, tx_lost;
};

struct virtio_net {
    struct virtio_device dev;
    struct net_filter filter;
    uint64_t guest_offloads; /* feature bits that are in effect now (5.1.6.5.6) */

    struct net_backend *backend;
    uint8_t mac[NET_MAC_BYTES]; /* after a reset */
    struct loop_timer again;    /* for the rest of a batch */
    struct virtio_net_stats stats;

    struct virtq_chain tx, ctrl;
    bool tx_waits; /* the backend calls when it is ready */

    struct virtq_chain held[MERGE_MAX]; /* popped for the frame below, and not pushed */
    unsigned held_count;
    size_t held_bytes;
    size_t frame_len; /* with the header; 0: there is none */
    struct virtio_net_hdr_v1 header;
    uint8_t frame[NET_FRAME_MAX];
};

_Static_assert(sizeof(struct virtio_net_hdr_v1) == NET_HEADER_BYTES, "the header of virtio 1 devices");

static struct virtio_net *net_of(struct virtio_device *dev)
{
    return container_of(dev, struct virtio_net, dev);
}

static void set_reading(struct virtio_net *net, bool on)
{
    net->backend->ops->set_reading(net->backend, on);
}

static void set_guest_offloads(struct virtio_net *net, uint64_t bits)
{
    net->guest_offloads = bits;
    net->backend->ops->set_offloads(net->backend, net_offloads_of(bits));
}

/* --- from the wire --- */

/* A frame from the backend that the driver wants. 0 or -EAGAIN. */
static int receive(struct virtio_net *net)
{
    const struct iovec iov[] = {{&net->header, NET_HEADER_BYTES}, {net->frame, sizeof(net->frame)}};
    ssize_t n = net->backend->ops->recv(net->backend, iov, ARRAY_SIZE(iov));

    if (n == -EAGAIN)
        return -EAGAIN;
    if (n < NET_HEADER_BYTES + NET_FRAME_MIN || !net_header_is_takeable(&net->header, net->guest_offloads)) {
        net->stats.rx_dropped++; /* a failure of the host's, or a frame from before the offloads were changed */
        return 0;
    }
    if (!net_filter_takes(&net->filter, net->frame)) {
        net->stats.rx_filtered++;
        return 0;
    }
    if (!(net->guest_offloads & BIT(VIRTIO_NET_F_GUEST_CSUM)))
        net->header.flags = 0;
    net->frame_len = (size_t)n;
    return 0;
}

/* Takes buffers until the frame has room. 1; 0: there are no more; -EINVAL: the driver broke the rules; -EMSGSIZE: it never will. */
static int take_buffers(struct virtio_net *net)
{
    unsigned most = virtio_has(&net->dev, VIRTIO_NET_F_MRG_RXBUF) ? MERGE_MAX : 1;

    while (net->held_bytes < net->frame_len) {
        struct virtq_chain *chain = &net->held[net->held_count];
        int rc;

        if (net->held_count == most)
            return -EMSGSIZE;
        rc = virtio_pop(&net->dev, RX, chain);
        if (rc <= 0)
            return rc;
        net->held_count++;
        net->held_bytes += chain->writable_len;
        if (chain->writable_len < NET_HEADER_BYTES) {
            virtio_broken(&net->dev, "a receive buffer has no room for a header");
            return -EINVAL;
        }
    }
    return 1;
}

/* The frame into the first of the held chains; the others stay. */
static void fill(struct virtio_net *net)
{
    struct virtq_chain used[MERGE_MAX];
    size_t first = net->held[0].writable_len, done = 0;
    unsigned count = 0;

    for (size_t room = 0; room < net->frame_len; count++)
        room += net->held[count].writable_len;
    net->header.num_buffers = (uint16_t)count;
    virtq_write(&net->held[0], 0, &net->header, NET_HEADER_BYTES);
    virtq_write(&net->held[0], NET_HEADER_BYTES, net->frame, MIN(first, net->frame_len) - NET_HEADER_BYTES);
    for (unsigned i = 0; i < count; i++) {
        size_t n = MIN(net->held[i].writable_len, net->frame_len - done);

        if (i > 0)
            virtq_write(&net->held[i], 0, net->frame + done - NET_HEADER_BYTES, n);
        virtq_push(&net->dev.queues[RX], &net->held[i], (uint32_t)n);
        net->held_bytes -= net->held[i].writable_len;
        done += n;
    }
    /* The descriptions of the pushed go behind the others, for the next ones. */
    memcpy(used, net->held, count * sizeof(used[0]));
    memmove(net->held, net->held + count, (net->held_count - count) * sizeof(used[0]));
    net->held_count -= count;
    memcpy(net->held + net->held_count, used, count * sizeof(used[0]));
    net->frame_len = 0;
    net->stats.rx_frames++;
}

enum rx_end { RX_NO_FRAMES, RX_NO_BUFFERS, RX_BROKEN, RX_MORE };

static enum rx_end rx_batch(struct virtio_net *net)
{
    for (unsigned left = BATCH; left > 0; left--) {
        int rc;

        if (!net->frame_len && receive(net) == -EAGAIN)
            return RX_NO_FRAMES;
        if (!net->frame_len)
            continue;
        rc = take_buffers(net);
        if (rc == 1) {
            fill(net);
        } else if (rc == -EMSGSIZE) {
            net->frame_len = 0;
            net->stats.rx_dropped++;
        } else {
            return rc ? RX_BROKEN : RX_NO_BUFFERS;
        }
    }
    return RX_MORE;
}

static void rx_run(struct virtio_net *net)
{
    struct virtq *q = &net->dev.queues[RX];
    enum rx_end end;

    if (!virtio_queue_ready(&net->dev, RX)) {
        set_reading(net, false);
        return;
    }
    do {
        virtq_set_kicks(q, false);
        end = rx_batch(net);
        virtio_publish(&net->dev, RX);
    } while (end == RX_NO_BUFFERS && virtq_set_kicks(q, true));
    set_reading(net, end == RX_NO_FRAMES || end == RX_MORE);
}

/* --- to the wire --- */

/* The frame of net->tx. 0, lost or not, or -EAGAIN. */
static int transmit(struct virtio_net *net)
{
    struct iovec iov[QUEUE_SIZE + 1];
    struct virtio_net_hdr_v1 header;
    size_t skip = NET_HEADER_BYTES, len;
    unsigned count = 1;
    int rc;

    if (net->tx.readable_len < NET_HEADER_BYTES + NET_FRAME_MIN || net->tx.readable_len > NET_HEADER_BYTES + NET_FRAME_MAX)
        goto dropped;
    len = net->tx.readable_len - NET_HEADER_BYTES;
    virtq_read(&net->tx, 0, &header, sizeof(header));
    if (!net_header_is_sendable(&header, len, net->dev.state.driver_features))
        goto dropped;
    iov[0] = (struct iovec){&header, sizeof(header)};
    for (unsigned i = 0; i < net->tx.readable; i++) {
        struct iovec part = net->tx.iov[i];
        size_t cut = MIN(skip, part.iov_len);

        skip -= cut;
        if (part.iov_len > cut)
            iov[count++] = (struct iovec){(uint8_t *)part.iov_base + cut, part.iov_len - cut};
    }
    rc = net->backend->ops->send(net->backend, iov, count);
    if (rc == -EAGAIN)
        return -EAGAIN;
    if (rc)
        net->stats.tx_lost++;
    else
        net->stats.tx_frames++;
    return 0;
dropped:
    net->stats.tx_dropped++;
    return 0;
}

/* Until the queue is empty, the backend is not ready, or no more are left in the batch. */
static void tx_batch(struct virtio_net *net, unsigned *left)
{
    for (; *left > 0 && virtio_pop(&net->dev, TX, &net->tx) == 1; --*left) {
        if (transmit(net) == -EAGAIN) {
            virtq_unpop(&net->dev.queues[TX], &net->tx);
            net->tx_waits = true;
            return;
        }
        virtq_push(&net->dev.queues[TX], &net->tx, 0);
    }
}

static void tx_run(struct virtio_net *net)
{
    struct virtq *q = &net->dev.queues[TX];
    unsigned left = BATCH;

    if (net->tx_waits || !virtio_queue_ready(&net->dev, TX))
        return;
    do {
        virtq_set_kicks(q, false);
        tx_batch(net, &left);
    } while (left > 0 && !net->tx_waits && virtq_set_kicks(q, true));
    if (!left)
        loop_timer_set(&net->again, 0);
    virtio_publish(&net->dev, TX);
    if (left < BATCH && net->backend->ops->flush && net->backend->ops->flush(net->backend))
        rx_run(net);
}

/* --- control (5.1.6.5) --- */

static bool set_offloads(struct virtio_net *net, uint8_t command)
{
    uint64_t bits;

    if (command != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
        virtq_read(&net->ctrl, sizeof(struct virtio_net_ctrl_hdr), &bits, sizeof(bits)) != sizeof(bits) ||
        (bits & ~(net->dev.state.driver_features & NET_GUEST_OFFLOADS)))
        return false;
    set_guest_offloads(net, bits);
    return true;
}

/* A class is there when its feature was negotiated. */
static bool command(struct virtio_net *net)
{
    struct virtio_net_ctrl_hdr h;

    if (virtq_read(&net->ctrl, 0, &h, sizeof(h)) != sizeof(h))
        return false;
    if (h.class == VIRTIO_NET_CTRL_RX)
        return virtio_has(&net->dev, h.cmd <= VIRTIO_NET_CTRL_RX_ALLMULTI ? VIRTIO_NET_F_CTRL_RX : VIRTIO_NET_F_CTRL_RX_EXTRA) &&
               net_filter_set_mode(&net->filter, h.cmd, &net->ctrl);
    if (h.class == VIRTIO_NET_CTRL_MAC)
        return virtio_has(&net->dev, h.cmd == VIRTIO_NET_CTRL_MAC_ADDR_SET ? VIRTIO_NET_F_CTRL_MAC_ADDR : VIRTIO_NET_F_CTRL_RX) &&
               net_filter_set_mac(&net->filter, h.cmd, &net->ctrl);
    return h.class == VIRTIO_NET_CTRL_GUEST_OFFLOADS && virtio_has(&net->dev, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) && set_offloads(net, h.cmd);
}

static void ctrl_run(struct virtio_net *net)
{
    unsigned left = BATCH;

    for (; left > 0 && virtio_pop(&net->dev, CTRL, &net->ctrl) == 1; left--) {
        virtio_net_ctrl_ack ack = command(net) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;

        virtq_push(&net->dev.queues[CTRL], &net->ctrl, (uint32_t)virtq_write(&net->ctrl, 0, &ack, sizeof(ack)));
    }
    virtio_publish(&net->dev, CTRL);
    if (!left)
        loop_timer_set(&net->again, 0);
}

/* --- when there is work --- */

static void kick(struct virtio_device *dev, unsigned queue)
{
    struct virtio_net *net = net_of(dev);

    if (queue == RX)
        rx_run(net);
    else if (queue == TX)
        tx_run(net);
    else
        ctrl_run(net);
}

static void again(struct loop_timer *timer)
{
    struct virtio_net *net = container_of(timer, struct virtio_net, again);

    pthread_mutex_lock(&net->dev.lock);
    tx_run(net);
    ctrl_run(net);
    pthread_mutex_unlock(&net->dev.lock);
}

static void readable(void *opaque)
{
    struct virtio_net *net = opaque;

    pthread_mutex_lock(&net->dev.lock);
    rx_run(net);
    pthread_mutex_unlock(&net->dev.lock);
}

static void writable(void *opaque)
{
    struct virtio_net *net = opaque;

    pthread_mutex_lock(&net->dev.lock);
    net->tx_waits = false;
    tx_run(net);
    pthread_mutex_unlock(&net->dev.lock);
}

/* --- life --- */

static void start(struct virtio_device *dev)
{
    struct virtio_net *net = net_of(dev);

    set_guest_offloads(net, dev->state.driver_features & NET_GUEST_OFFLOADS);
    rx_run(net);
}

static void forget_buffers(struct virtio_net *net)
{
    net->held_count = 0;
    net->held_bytes = 0;
    net->frame_len = 0;
}

static void reset(struct virtio_device *dev)
{
    struct virtio_net *net = net_of(dev);

    set_reading(net, false);
    set_guest_offloads(net, 0);
    forget_buffers(net);
    net->tx_waits = false;
    net_filter_reset(&net->filter, net->mac);
}

static void queue_reset(struct virtio_device *dev, unsigned queue)
{
    struct virtio_net *net = net_of(dev);

    if (queue != RX)
        return;
    set_reading(net, false);
    forget_buffers(net);
}

static uint64_t config_read(struct virtio_device *dev, unsigned off, unsigned size)
{
    struct virtio_net *net = net_of(dev);
    struct virtio_net_config config = {
        .status = VIRTIO_NET_S_LINK_UP,
        .max_virtqueue_pairs = 1,
        .mtu = net->backend->mtu,
        .speed = SPEED_MB,
        .duplex = 1,
    };
    uint64_t value = 0;

    memcpy(config.mac, net->filter.mac, sizeof(config.mac));
    memcpy(&value, (uint8_t *)&config + off, size);
    return value;
}

/* Chains go back, and a frame without buffers is lost. The backend is read again, which finds the chains that no kick tells of. */
static void drain(struct virtio_device *dev)
{
    struct virtio_net *net = net_of(dev);

    pthread_mutex_lock(&dev->lock);
    while (net->held_count)
        virtq_unpop(&dev->queues[RX], &net->held[--net->held_count]);
    forget_buffers(net);
    if (net->backend->ops->drain)
        net->backend->ops->drain(net->backend);
    if (virtio_queue_ready(dev, RX))
        set_reading(net, true);
    pthread_mutex_unlock(&dev->lock);
}

struct saved {
    uint64_t guest_offloads;
};
static const struct state_field fields[] = {STATE_FIELD(struct saved, guest_offloads)};
static const struct state_desc desc = {"virtio-net", 1, fields, ARRAY_SIZE(fields)};

static int save(struct virtio_device *dev, struct state_writer *w)
{
    struct virtio_net *net = net_of(dev);
    struct saved saved = {net->guest_offloads};
    int rc = state_save(&desc, &saved, w);

    return rc ? rc : net_filter_save(&net->filter, w);
}

static int load(struct virtio_device *dev, struct state_reader *r, struct err *e)
{
    struct virtio_net *net = net_of(dev);
    struct saved saved = {0};
    int rc = state_load(&desc, &saved, r, e);

    if (rc)
        return rc;
    if (saved.guest_offloads & ~(dev->state.driver_features & NET_GUEST_OFFLOADS))
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", dev->label);
    rc = net_filter_load(&net->filter, r, e);
    if (!rc)
        set_guest_offloads(net, saved.guest_offloads);
    return rc;
}

static void stats(struct virtio_device *dev, struct stats_out *out)
{
    const struct virtio_net_stats *s = &net_of(dev)->stats;
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        {"frames received", s->rx_frames}, {"frames not for the guest", s->rx_filtered}, {"frames too large to receive", s->rx_dropped},
        {"frames sent", s->tx_frames},     {"frames with wrong headers", s->tx_dropped}, {"frames lost by the host", s->tx_lost},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
        out->number(out, dev->label, rows[i].name, rows[i].value);
}

static void fini_chains(struct virtio_net *net)
{
    virtq_chain_fini(&net->tx);
    virtq_chain_fini(&net->ctrl);
    for (unsigned i = 0; i < MERGE_MAX; i++)
        virtq_chain_fini(&net->held[i]);
}

static void net_device_free(struct virtio_device *dev)
{
    struct virtio_net *net = net_of(dev);

    loop_timer_cancel(&net->again);
    net_free(net->backend);
    fini_chains(net);
    virtio_fini(dev);
    free(net);
}

static const struct virtio_ops ops = {
    .name = "virtio-net",
    .id = VIRTIO_ID_NET,
    .pci_class = 0x020000, /* an Ethernet controller */
    .start = start,
    .reset = reset,
    .queue_reset = queue_reset,
    .kick = kick,
    .config_read = config_read,
    .drain = drain,
    .save = save,
    .load = load,
    .stats = stats,
    .free = net_device_free,
};

static int init_chains(struct virtio_net *net)
{
    int rc = virtq_chain_init(&net->tx, &net->dev.queues[TX]);

    if (!rc)
        rc = virtq_chain_init(&net->ctrl, &net->dev.queues[CTRL]);
    for (unsigned i = 0; i < MERGE_MAX && !rc; i++)
        rc = virtq_chain_init(&net->held[i], &net->dev.queues[RX]);
    return rc;
}

struct virtio_device *virtio_net_new(const struct virtio_env *env, const char *label, struct net_backend *backend, const uint8_t mac[6],
                                     struct err *e)
{
    struct virtio_net *net = calloc(1, sizeof(*net));

    if (!net) {
        err_set(e, ENOMEM, "no memory for %s", label);
        goto free_backend;
    }
    if (virtio_init(&net->dev, &ops, env, label,
                    DEVICE_FEATURES | (backend->mtu ? BIT(VIRTIO_NET_F_MTU) : 0) | net_offload_features(backend->offloads),
                    sizeof(struct virtio_net_config), QUEUES, QUEUE_SIZE, e))
        goto free_net;
    if (init_chains(net)) {
        err_set(e, ENOMEM, "no memory for the queues of %s", label);
        goto fini;
    }
    loop_timer_init(env->loop, &net->again, again);
    memcpy(net->mac, mac, NET_MAC_BYTES);
    net_filter_reset(&net->filter, net->mac);
    net->backend = backend;
    backend->readable = readable;
    backend->writable = writable;
    backend->opaque = net;
    return &net->dev;
fini:
    fini_chains(net);
    virtio_fini(&net->dev);
free_net:
    free(net);
free_backend:
    net_free(backend);
    return NULL;
}
