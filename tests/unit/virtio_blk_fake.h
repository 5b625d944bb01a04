/* A virtio disk under test: a backend that is done when the test says so, the mock driver, and its requests. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "block_fake.h"
#include "virtio/blk.h"
#include "virtq_driver.h"

#define RAM MIB(4)
#define QUEUE_SIZE 64
#define AREA KIB(512) /* of each queue */
#define QUEUES 4
#define SECTORS 256
#define V1 BIT(VIRTIO_F_VERSION_1)
#define USUAL (V1 | BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES) | BIT(VIRTIO_BLK_F_CONFIG_WCE))

struct fixture {
    struct mem mem;
    struct loop *loop;
    struct block_fake *fake;
    bool fake_freed;
    struct virtio_device *dev;
    struct virtq_driver d[QUEUES];
    unsigned interrupts[QUEUES], config_interrupts;
    unsigned notices; /* of changed memory */
    gpa_t noticed;
};

/* In the library's place: memory can run out. */
static bool no_memory;

int virtq_chain_init(struct virtq_chain *c, const struct virtq *q)
{
    if (no_memory)
        return -ENOMEM;
    *c = (struct virtq_chain){.capacity = q->state.max_size};
    c->iov = malloc(c->capacity * sizeof(*c->iov));
    c->gpas = malloc(c->capacity * sizeof(*c->gpas));
    assert_true(c->iov && c->gpas);
    return 0;
}

static inline bool on_interrupt(void *transport, int queue)
{
    struct fixture *f = transport;

    loop_stop(f->loop);
    if (queue < 0)
        f->config_interrupts++;
    else
        f->interrupts[queue]++;
    return false;
}

static inline void on_code_changed(void *opaque, gpa_t gpa, size_t len)
{
    struct fixture *f = opaque;

    assert_true(len > 0);
    f->notices++;
    f->noticed = gpa;
}

struct disk {
    uint32_t block_size;
    bool read_only, on_loop;
    unsigned queues;
};

static inline void make(struct fixture *f, const struct disk *disk)
{
    struct virtio_env env = {.mem = &f->mem, .loop = f->loop, .inline_work = !disk->on_loop};
    struct virtio_blk_options o = {.serial = "UMBRA-0123456789-ABC", .queues = disk->queues, .optimal_io = KIB(64)};
    struct err e = {""};

    f->fake = block_fake_new(SECTORS * 512, disk->block_size ? disk->block_size : 512, disk->read_only);
    f->fake->freed = &f->fake_freed;
    f->dev = virtio_blk_new(&env, "blk0", &f->fake->backend, &o, &e);
    if (!f->dev)
        fail_msg("%s", e.text);
    f->dev->interrupt = on_interrupt;
    f->dev->transport = f;
}

static inline void start(struct fixture *f, uint64_t features)
{
    virtio_set_status(f->dev, 0);
    assert_int_equal(f->dev->state.status, 0);
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    virtio_set_driver_features(f->dev, 0, (uint32_t)features);
    virtio_set_driver_features(f->dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(f->dev, VIRTIO_STATUS_FEATURES_OK);
    assert_true(f->dev->state.status & VIRTIO_STATUS_FEATURES_OK);
    for (unsigned q = 0; q < f->dev->queue_count; q++) {
        driver_init(&f->d[q], &f->mem, KIB(4) + q * AREA, AREA, QUEUE_SIZE, features);
        driver_connect(&f->d[q], &f->dev->queues[q].state);
        assert_int_equal(virtio_enable_queue(f->dev, q), 0);
    }
    virtio_set_status(f->dev, VIRTIO_STATUS_DRIVER_OK);
}

static inline void start_usual(struct fixture *f)
{
    make(f, &(struct disk){0});
    start(f, USUAL);
}

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    assert_non_null(f);
    assert_int_equal(mem_init(&f->mem, RAM, false, &e), 0);
    f->mem.code_changed = on_code_changed;
    f->mem.code_changed_opaque = f;
    f->loop = loop_new(&e);
    assert_non_null(f->loop);
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;

    if (f->dev) {
        virtio_free(f->dev);
        assert_true(!f->fake || f->fake_freed);
    }
    no_memory = false;
    loop_free(f->loop);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

/* --- the driver's requests --- */

static inline int ask_on(struct fixture *f, unsigned queue, uint32_t type, uint64_t sector, const void *out, uint32_t out_len,
                         uint32_t in_len)
{
    uint8_t bytes[KIB(8)];
    struct virtio_blk_header header = {.type = type, .sector = sector};
    int token;

    memcpy(bytes, &header, sizeof(header));
    if (out_len)
        memcpy(bytes + sizeof(header), out, out_len);
    token = driver_request(&f->d[queue], bytes, (uint32_t)sizeof(header) + out_len, in_len + 1);
    assert_true(token >= 0);
    return token;
}

static inline int ask(struct fixture *f, uint32_t type, uint64_t sector, const void *out, uint32_t out_len, uint32_t in_len)
{
    return ask_on(f, 0, type, sector, out, out_len, in_len);
}

static inline void ring_bell(struct fixture *f, unsigned queue)
{
    if (driver_show(&f->d[queue]))
        virtio_doorbell(f->dev, queue);
}

/* The backend does all that it has, as one batch. */
static inline void finish_all(struct fixture *f)
{
    while (f->fake->first) {
        for (unsigned n = f->fake->waiting; n; n--)
            block_fake_done(f->fake, 0, 0);
        block_fake_batch_done(f->fake);
    }
}

static inline int taken(struct fixture *f, unsigned queue)
{
    uint32_t len;

    return driver_take(&f->d[queue], &len);
}

/* The status of a request that must be answered now, and be the only one. */
static inline uint8_t status_of(struct fixture *f, int token)
{
    uint32_t len;

    assert_int_equal(driver_take(&f->d[0], &len), token);
    assert_int_equal(len, f->d[0].slots[token].in_len);
    return driver_in(&f->d[0], token)[f->d[0].slots[token].in_len - 1];
}

static inline uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, const void *out, uint32_t out_len, uint32_t in_len)
{
    int token = ask(f, type, sector, out, out_len, in_len);

    ring_bell(f, 0);
    finish_all(f);
    return status_of(f, token);
}

static inline bool all_bytes(const uint8_t *bytes, uint8_t value, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != value)
            return false;
    return true;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
