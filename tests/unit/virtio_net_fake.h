/* A virtio network device under test: a backend that records, the mock driver, and what both say to each other. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#include "virtio/net.h"
#include "virtio/net_header.h"
#include "virtq_driver.h"

#define RAM MIB(16)
#define AREA MIB(4) /* of each queue */
#define ENTRIES 64
#define FRAMES_MAX 1024

enum { RX, TX, CTRL, QUEUES };

#define F(name) BIT(VIRTIO_NET_F_##name)
#define PACKED BIT(VIRTIO_F_RING_PACKED)
#define EVENT_IDX BIT(VIRTIO_F_EVENT_IDX)
#define ALL_OFFLOADS (NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN)
#define USUAL (F(MAC) | F(STATUS) | F(MRG_RXBUF) | F(CTRL_VQ) | F(CTRL_RX) | F(CTRL_RX_EXTRA) | F(CTRL_MAC_ADDR))
#define OFFLOADS                                                                                                                           \
    (F(CSUM) | F(GUEST_CSUM) | F(HOST_TSO4) | F(HOST_TSO6) | F(HOST_ECN) | F(GUEST_TSO4) | F(GUEST_TSO6) | F(GUEST_ECN) |                  \
     F(CTRL_GUEST_OFFLOADS))

static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};

struct frame {
    struct virtio_net_hdr_v1 header;
    size_t len;
    uint8_t *data;
};

struct recorder {
    struct net_backend base;
    struct frame sent[FRAMES_MAX], waiting[FRAMES_MAX];
    unsigned sent_count, first_waiting, waiting_count;
    bool reading;
    unsigned offloads, flushes, drains;
    int send_result;     /* of the next send() */
    bool answers, freed; /* flush() tells of what waits */
};

struct fixture {
    struct loop *loop;
    struct mem mem;
    struct recorder *backend;
    struct virtio_device *dev;
    struct virtq_driver queues[QUEUES];
    unsigned interrupts[QUEUES + 1]; /* the last: of the configuration */
    unsigned doorbells[QUEUES];
};

/* --- the backend --- */

static inline struct recorder *recorder_of(struct net_backend *backend)
{
    return container_of(backend, struct recorder, base);
}

static inline int record(struct net_backend *backend, const struct iovec *iov, unsigned count)
{
    struct recorder *r = recorder_of(backend);
    struct frame *f = &r->sent[r->sent_count];
    int rc = r->send_result;

    assert_int_equal(iov[0].iov_len, NET_HEADER_BYTES);
    assert_in_range(count, 2, 257);
    if (rc)
        return rc;
    assert_in_range(r->sent_count, 0, FRAMES_MAX - 1);
    memcpy(&f->header, iov[0].iov_base, NET_HEADER_BYTES);
    for (unsigned i = 1; i < count; i++)
        f->len += iov[i].iov_len;
    assert_in_range(f->len, NET_FRAME_MIN, NET_FRAME_MAX);
    f->data = malloc(f->len);
    assert_non_null(f->data);
    for (size_t i = 1, at = 0; i < count; at += iov[i++].iov_len)
        memcpy(f->data + at, iov[i].iov_base, iov[i].iov_len);
    r->sent_count++;
    return 0;
}

static inline bool flush(struct net_backend *backend)
{
    struct recorder *r = recorder_of(backend);

    r->flushes++;
    return r->answers && r->reading && r->waiting_count;
}

static inline ssize_t deliver(struct net_backend *backend, const struct iovec *iov, unsigned count)
{
    struct recorder *r = recorder_of(backend);
    struct frame *f = &r->waiting[r->first_waiting % FRAMES_MAX];

    assert_int_equal(count, 2);
    assert_int_equal(iov[0].iov_len, NET_HEADER_BYTES);
    if (!r->waiting_count)
        return -EAGAIN;
    r->first_waiting++;
    r->waiting_count--;
    assert_in_range(f->len, 0, iov[1].iov_len);
    memcpy(iov[0].iov_base, &f->header, NET_HEADER_BYTES);
    memcpy(iov[1].iov_base, f->data, f->len);
    free(f->data);
    return (ssize_t)(NET_HEADER_BYTES + f->len);
}

static inline void set_reading(struct net_backend *backend, bool on)
{
    recorder_of(backend)->reading = on;
}

static inline void set_offloads(struct net_backend *backend, unsigned offloads)
{
    recorder_of(backend)->offloads = offloads;
}

static inline void drain(struct net_backend *backend)
{
    recorder_of(backend)->drains++;
}

static bool backend_freed;

static inline void release(struct net_backend *backend)
{
    struct recorder *r = recorder_of(backend);

    for (unsigned i = 0; i < r->sent_count; i++)
        free(r->sent[i].data);
    while (r->waiting_count--)
        free(r->waiting[r->first_waiting++ % FRAMES_MAX].data);
    backend_freed = true;
    free(r);
}

static const struct net_ops recorder_ops = {"recorder", record, flush, deliver, set_reading, set_offloads, drain, release};

static inline uint8_t pattern(unsigned seed, size_t at)
{
    return (uint8_t)(seed * 37 + at * 11 + (at >> 8));
}

/* A frame on the wire, to this address, whose other bytes are the pattern of seed. */
static inline void put_frame_to(struct fixture *f, const uint8_t *to, size_t len, unsigned seed, struct virtio_net_hdr_v1 header)
{
    struct recorder *r = f->backend;
    struct frame *frame = &r->waiting[(r->first_waiting + r->waiting_count) % FRAMES_MAX];

    assert_in_range(r->waiting_count, 0, FRAMES_MAX - 1);
    *frame = (struct frame){header, len, malloc(len + 6)};
    assert_non_null(frame->data);
    for (size_t i = 0; i < len; i++)
        frame->data[i] = pattern(seed, i);
    memcpy(frame->data, to, 6);
    r->waiting_count++;
}

static inline void put_frame(struct fixture *f, size_t len, unsigned seed)
{
    put_frame_to(f, mac, len, seed, (struct virtio_net_hdr_v1){0});
}

/* What the loop does when the backend has frames. */
static inline void wire(struct fixture *f)
{
    while (f->backend->reading && f->backend->waiting_count)
        f->backend->base.readable(f->backend->base.opaque);
}

/* --- the driver --- */

static inline bool on_interrupt(void *transport, int queue)
{
    struct fixture *f = transport;

    f->interrupts[queue < 0 ? QUEUES : queue]++;
    return false;
}

static inline void show(struct fixture *f, unsigned queue)
{
    if (driver_show(&f->queues[queue])) {
        f->doorbells[queue]++;
        virtio_doorbell(f->dev, queue);
    }
}

static inline void connect_queue(struct fixture *f, unsigned queue)
{
    uint64_t features = f->dev->state.driver_features;

    driver_init(&f->queues[queue], &f->mem, 0x10000 + queue * AREA, AREA, ENTRIES, features);
    driver_connect(&f->queues[queue], &f->dev->queues[queue].state);
    assert_int_equal(virtio_enable_queue(f->dev, queue), 0);
}

static inline void start_driver(struct fixture *f, uint64_t features)
{
    features |= BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_RESET);
    assert_int_equal(features & ~f->dev->features, 0);
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    virtio_set_driver_features(f->dev, 0, (uint32_t)features);
    virtio_set_driver_features(f->dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(f->dev, VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    assert_true(f->dev->state.status & VIRTIO_STATUS_FEATURES_OK);
    for (unsigned q = 0; q < QUEUES; q++)
        connect_queue(f, q);
    virtio_set_status(f->dev, f->dev->state.status | VIRTIO_STATUS_DRIVER_OK);
}

static inline void stop_loop(void *loop)
{
    loop_stop(loop);
}

/* Doorbells and timers that are due. */
static inline void run_loop(struct fixture *f)
{
    for (unsigned i = 0; i < 3; i++) {
        loop_post(f->loop, stop_loop, f->loop);
        assert_int_equal(loop_run(f->loop), 0);
    }
}

static inline void buffers(struct fixture *f, unsigned count, uint32_t len)
{
    for (unsigned i = 0; i < count; i++)
        assert_true(driver_request(&f->queues[RX], NULL, 0, len) >= 0);
    show(f, RX);
}

/* The next frame that the driver got: its number of buffers; the frame without header goes to data. 0: there is none. */
static inline unsigned take_frame(struct fixture *f, struct virtio_net_hdr_v1 *header, uint8_t *data, size_t *len)
{
    struct virtq_driver *d = &f->queues[RX];
    uint32_t n;
    int token = driver_take(d, &n);
    unsigned count = 1;

    if (token == DRIVER_NONE)
        return 0;
    assert_true(token >= 0);
    assert_true(n >= NET_HEADER_BYTES);
    memcpy(header, driver_in(d, token), NET_HEADER_BYTES);
    *len = n - NET_HEADER_BYTES;
    memcpy(data, driver_in(d, token) + NET_HEADER_BYTES, *len);
    for (; count < header->num_buffers; count++) {
        token = driver_take(d, &n);
        assert_true(token >= 0);
        memcpy(data + *len, driver_in(d, token), n);
        *len += n;
    }
    return count;
}

static inline void assert_gets(struct fixture *f, size_t len, unsigned seed, unsigned buffer_count)
{
    static uint8_t data[NET_FRAME_MAX + 4096];
    struct virtio_net_hdr_v1 header;
    size_t got;

    assert_int_equal(take_frame(f, &header, data, &got), buffer_count);
    assert_int_equal(header.num_buffers, buffer_count);
    assert_int_equal(got, len);
    for (size_t i = 6; i < len; i++)
        if (data[i] != pattern(seed, i))
            fail_msg("byte %zu of frame %u is %#x", i, seed, data[i]);
}

static inline void assert_gets_nothing(struct fixture *f)
{
    assert_false(driver_has_used(&f->queues[RX]));
}

static inline void send_with(struct fixture *f, struct virtio_net_hdr_v1 header, size_t len, unsigned seed)
{
    uint8_t *bytes = malloc(NET_HEADER_BYTES + len);

    assert_non_null(bytes);
    memcpy(bytes, &header, NET_HEADER_BYTES);
    for (size_t i = 0; i < len; i++)
        bytes[NET_HEADER_BYTES + i] = pattern(seed, i);
    assert_true(driver_request(&f->queues[TX], bytes, (uint32_t)(NET_HEADER_BYTES + len), 0) >= 0);
    free(bytes);
}

static inline void send_frame(struct fixture *f, size_t len, unsigned seed)
{
    send_with(f, (struct virtio_net_hdr_v1){0}, len, seed);
}

static inline void assert_sent(struct fixture *f, unsigned nth, size_t len, unsigned seed)
{
    const struct frame *frame = &f->backend->sent[nth];

    assert_in_range(nth, 0, f->backend->sent_count - 1);
    assert_int_equal(frame->len, len);
    for (size_t i = 0; i < len; i++)
        if (frame->data[i] != pattern(seed, i))
            fail_msg("byte %zu of frame %u is %#x", i, seed, frame->data[i]);
}

static inline unsigned take_all(struct fixture *f, unsigned queue)
{
    unsigned count = 0;
    uint32_t len;

    for (; driver_has_used(&f->queues[queue]); count++) {
        assert_true(driver_take(&f->queues[queue], &len) >= 0);
        if (queue == TX)
            assert_int_equal(len, 0);
    }
    return count;
}

static inline uint8_t control(struct fixture *f, uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
    struct virtq_driver *d = &f->queues[CTRL];
    uint8_t request[2048] = {class, cmd};
    uint32_t written;
    int token;

    assert_in_range(len, 0, sizeof(request) - 2);
    memcpy(request + 2, data, len);
    assert_true(driver_request(d, request, 2 + len, 1) >= 0);
    show(f, CTRL);
    token = driver_take(d, &written);
    assert_true(token >= 0);
    assert_int_equal(written, 1);
    return *driver_in(d, token);
}

static inline bool set_mode(struct fixture *f, uint8_t mode, uint8_t on)
{
    return control(f, VIRTIO_NET_CTRL_RX, mode, &on, 1) == VIRTIO_NET_OK;
}

/* --- life --- */

static inline struct virtio_device *make_device(struct fixture *f, unsigned offloads, struct recorder **backend)
{
    struct virtio_env env = {.mem = &f->mem, .loop = f->loop, .inline_work = true};
    struct recorder *r = calloc(1, sizeof(*r));
    struct virtio_device *dev;
    struct err e;

    assert_non_null(r);
    r->base = (struct net_backend){.ops = &recorder_ops, .offloads = offloads, .mtu = 9000};
    *backend = r;
    dev = virtio_net_new(&env, "net0", &r->base, mac, &e);
    assert_non_null(dev);
    dev->interrupt = on_interrupt;
    dev->transport = f;
    return dev;
}

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    assert_non_null(f);
    f->loop = loop_new(&e);
    assert_non_null(f->loop);
    assert_int_equal(mem_init(&f->mem, RAM, false, &e), 0);
    f->dev = make_device(f, ALL_OFFLOADS, &f->backend);
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;

    virtio_free(f->dev);
    mem_fini(&f->mem);
    loop_free(f->loop);
    free(f);
    return 0;
}
