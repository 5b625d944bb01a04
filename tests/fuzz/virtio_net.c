/* Fuzzes the virtio network device: rings and requests of a hostile driver, headers and frames of any kind, and saved states. */
#include <errno.h>

#include "../unit/virtq_driver.h"
#include "base/bug.h"
#include "virtio/net.h"
#include "virtio/net_header.h"

#define RAM MIB(2)
#define AREA KIB(512)
#define ENTRIES 16
#define STEPS_MAX 400
#define ALL_OFFLOADS (NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN)

enum { RX, TX, CTRL, QUEUES };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t left;
};

static uint32_t take(struct input *in, unsigned bytes)
{
    uint32_t value = 0;

    for (; bytes > 0 && in->left > 0; bytes--, in->left--)
        value = value << 8 | *in->data++;
    return value;
}

struct fuzzer {
    struct input in;
    struct mem mem;
    struct loop *loop;
    struct virtio_device *dev;
    struct virtq_driver queues[QUEUES];
    struct net_backend backend;
    bool reading;
    bool wait_to_send; /* owes a call of writable() */
};

/* --- the backend: checks what it was promised --- */

static struct fuzzer *fuzzer_of(struct net_backend *backend)
{
    return container_of(backend, struct fuzzer, backend);
}

static int send_frame(struct net_backend *backend, const struct iovec *iov, unsigned count)
{
    struct fuzzer *f = fuzzer_of(backend);
    struct virtio_net_hdr_v1 h;
    size_t len = 0;

    BUG_ON(count < 2 || iov[0].iov_len != NET_HEADER_BYTES || f->wait_to_send);
    memcpy(&h, iov[0].iov_base, sizeof(h));
    for (unsigned i = 1; i < count; i++) {
        BUG_ON(iov[i].iov_len == 0);
        len += iov[i].iov_len;
        BUG_ON((uint8_t *)iov[i].iov_base < f->mem.base || (uint8_t *)iov[i].iov_base + iov[i].iov_len > f->mem.base + RAM);
    }
    BUG_ON(len < NET_FRAME_MIN || len > NET_FRAME_MAX);
    BUG_ON(h.flags & ~VIRTIO_NET_HDR_F_NEEDS_CSUM);
    BUG_ON(h.flags && (!virtio_has(f->dev, VIRTIO_NET_F_CSUM) || h.csum_start + h.csum_offset + 2U > len));
    BUG_ON(h.gso_type && (!h.flags || !h.gso_size || h.hdr_len > len));
    switch (take(&f->in, 1) % 8) {
    case 0: f->wait_to_send = true; return -EAGAIN;
    case 1: return -EIO;
    default: return 0;
    }
}

static bool flush(struct net_backend *backend)
{
    struct fuzzer *f = fuzzer_of(backend);

    return f->reading && take(&f->in, 1) & 1;
}

static ssize_t recv_frame(struct net_backend *backend, const struct iovec *iov, unsigned count)
{
    struct fuzzer *f = fuzzer_of(backend);
    uint32_t what = take(&f->in, 1), len = what & 0x80 ? take(&f->in, 3) % (NET_FRAME_MAX + 1) : what;
    struct virtio_net_hdr_v1 h = {.flags = (uint8_t)take(&f->in, 1), .gso_type = (uint8_t)take(&f->in, 1)};

    BUG_ON(count != 2 || iov[0].iov_len != NET_HEADER_BYTES || iov[1].iov_len != NET_FRAME_MAX);
    if (f->in.left == 0 || what == 0x80)
        return -EAGAIN;
    if (what == 0x81)
        return -EIO;
    memcpy(iov[0].iov_base, &h, sizeof(h));
    memset(iov[1].iov_base, (int)len, MIN(len, 64U));
    if (len)
        ((uint8_t *)iov[1].iov_base)[0] = (uint8_t)what;
    return (ssize_t)(NET_HEADER_BYTES + len);
}

static void set_reading(struct net_backend *backend, bool on)
{
    fuzzer_of(backend)->reading = on;
}

static void set_offloads(struct net_backend *backend, unsigned offloads)
{
    (void)backend;
    BUG_ON(offloads & ~(unsigned)ALL_OFFLOADS);
    BUG_ON(offloads && !(offloads & NET_OFFLOAD_CSUM));
}

static void release(struct net_backend *backend)
{
    (void)backend;
}

static const struct net_ops ops = {
    .name = "fuzzer",
    .send = send_frame,
    .flush = flush,
    .recv = recv_frame,
    .set_reading = set_reading,
    .set_offloads = set_offloads,
    .free = release,
};

/* --- the driver --- */

static void start(struct fuzzer *f)
{
    uint32_t low = take(&f->in, 4), high = take(&f->in, 1);
    uint64_t features = BIT(VIRTIO_F_VERSION_1) | (f->dev->features & low) | (high & 1 ? BIT(VIRTIO_F_RING_PACKED) : 0) |
                        (high & 2 ? BIT(VIRTIO_F_RING_RESET) : 0);

    virtio_set_status(f->dev, 0);
    f->wait_to_send = false;
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    virtio_set_driver_features(f->dev, 0, (uint32_t)features);
    virtio_set_driver_features(f->dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
    for (unsigned q = 0; q < QUEUES; q++) {
        driver_init(&f->queues[q], &f->mem, 0x1000 + q * AREA, AREA, ENTRIES, features);
        driver_connect(&f->queues[q], &f->dev->queues[q].state);
        if (virtio_enable_queue(f->dev, q))
            return;
    }
    virtio_set_status(f->dev, f->dev->state.status | VIRTIO_STATUS_DRIVER_OK);
}

static void show(struct fuzzer *f, unsigned queue)
{
    driver_show(&f->queues[queue]);
    virtio_doorbell(f->dev, queue);
}

static void request(struct fuzzer *f, unsigned queue)
{
    struct virtq_driver *d = &f->queues[queue];
    uint8_t out[4096];
    uint32_t out_len = queue == RX ? 0 : take(&f->in, 2) % 2048, in_len = queue == TX ? 0 : take(&f->in, 2) % 8192;

    d->piece = take(&f->in, 1) * 8;
    if (d->piece && (out_len + in_len) / d->piece > 200)
        d->piece = 0;
    d->indirect = take(&f->in, 1) & 1 ? DRIVER_TABLE : DRIVER_DIRECT;
    if (out_len + in_len == 0)
        in_len = 1;
    memset(out, 0, sizeof(out));
    for (unsigned i = 0; i < MIN(out_len, 24U); i++)
        out[i] = (uint8_t)take(&f->in, 1);
    if (take(&f->in, 1) & 1)
        memset(out, 0, NET_HEADER_BYTES); /* a plain frame */
    driver_request(d, out, out_len, in_len);
    show(f, queue);
}

/* Bytes of the rings, or of what a chain points to. */
static void scribble(struct fuzzer *f)
{
    struct virtq_driver *d = &f->queues[take(&f->in, 1) % QUEUES];
    uint32_t off = take(&f->in, 2) % (uint32_t)(d->area - d->desc);
    uint32_t value = take(&f->in, 2);

    BUG_ON(mem_write(&f->mem, d->desc + off, &value, 2));
}

static void save_and_load(struct fuzzer *f)
{
    struct state_writer w;
    struct state_reader r;
    struct err e;
    uint32_t at = take(&f->in, 2);
    int rc;

    state_writer_init(&w);
    virtio_drain(f->dev);
    BUG_ON(virtio_save(f->dev, &w));
    if (at) {
        w.data[at % w.len] = (uint8_t)take(&f->in, 1);
        w.len -= take(&f->in, 1) % 4 ? 0 : at % w.len;
    }
    state_reader_init(&r, w.data, w.len);
    rc = virtio_load(f->dev, &r, &e);
    BUG_ON(!at && rc);
    f->wait_to_send = false;
    state_writer_fini(&w);
}

static void stop(void *loop)
{
    loop_stop(loop);
}

static void step(struct fuzzer *f)
{
    uint32_t what = take(&f->in, 1), len, value;

    switch (what & 15) {
    case 0: start(f); break;
    case 1:
    case 2:
    case 3: request(f, RX); break;
    case 4:
    case 5: request(f, TX); break;
    case 6: request(f, CTRL); break;
    case 7: scribble(f); break;
    case 8:
        if (f->reading)
            f->backend.readable(f->backend.opaque);
        break;
    case 9:
        if (f->wait_to_send) {
            f->wait_to_send = false;
            f->backend.writable(f->backend.opaque);
        }
        break;
    case 10: virtio_doorbell(f->dev, take(&f->in, 1) % (QUEUES + 1)); break;
    case 11: save_and_load(f); break;
    case 12:
        value = take(&f->in, 1);
        virtio_reset_queue(f->dev, value % QUEUES);
        driver_init(&f->queues[value % QUEUES], &f->mem, 0x1000 + value % QUEUES * AREA, AREA, ENTRIES, f->dev->state.driver_features);
        driver_connect(&f->queues[value % QUEUES], &f->dev->queues[value % QUEUES].state);
        virtio_enable_queue(f->dev, value % QUEUES);
        break;
    case 13: virtio_config_read(f->dev, take(&f->in, 1) % 64, 1U << take(&f->in, 1) % 4); break;
    case 14: virtio_config_write(f->dev, take(&f->in, 1) % 64, 1U << take(&f->in, 1) % 4, take(&f->in, 4)); break;
    default:
        for (unsigned q = 0; q < QUEUES; q++)
            while (driver_take(&f->queues[q], &len) >= 0)
                ;
        loop_post(f->loop, stop, f->loop);
        BUG_ON(loop_run(f->loop));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
    static struct fuzzer f;
    struct virtio_env env;
    struct err e;

    if (!f.loop) {
        f.loop = loop_new(&e);
        BUG_ON(!f.loop || mem_init(&f.mem, RAM, false, &e));
    }
    f.in = (struct input){data, size};
    f.backend = (struct net_backend){.ops = &ops, .offloads = ALL_OFFLOADS};
    f.reading = f.wait_to_send = false;
    env = (struct virtio_env){.mem = &f.mem, .loop = f.loop, .inline_work = true};
    f.dev = virtio_net_new(&env, "net0", &f.backend, mac, &e);
    BUG_ON(!f.dev);
    start(&f);
    for (unsigned i = 0; i < STEPS_MAX && f.in.left > 0; i++)
        step(&f);
    virtio_free(f.dev);
    return 0;
}
