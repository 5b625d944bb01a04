/* The echo device with its driver, and no transport between them: calls of the core in place of registers. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "virtio_echo.h"

#define SPLIT (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_RESET) | BIT(ECHO_FEATURE))
#define PACKED (SPLIT | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_EVENT_IDX))

#define AGREED (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK)
#define STARTED (AGREED | VIRTIO_STATUS_DRIVER_OK)

#define RING_BYTES KIB(64)

static unsigned complaints;

void log_guest(struct log_limit *limit, const char *fmt, ...)
{
    (void)limit, (void)fmt;
    complaints++;
}

struct fixture {
    struct mem mem;
    struct loop *loop;
    struct virtio_env env;
    struct echo *echo;
    struct virtio_device *dev;
    struct virtq_driver driver[ECHO_QUEUES];
    unsigned interrupts[ECHO_QUEUES], config_interrupts;
    bool by_irqfd; /* what the transport says of its interrupts */
};

static inline bool on_interrupt(void *transport, int queue)
{
    struct fixture *f = transport;

    if (queue < 0)
        f->config_interrupts++;
    else
        f->interrupts[queue]++;
    return f->by_irqfd;
}

static inline void take_device(struct fixture *f, struct echo *echo)
{
    assert_non_null(echo);
    f->echo = echo;
    f->dev = &echo->dev;
    f->dev->interrupt = on_interrupt;
    f->dev->transport = f;
}

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    complaints = 0;
    assert_int_equal(mem_init(&f->mem, MIB(1), false, &e), 0);
    f->loop = loop_new(&e);
    assert_non_null(f->loop);
    f->env = (struct virtio_env){.mem = &f->mem, .loop = f->loop};
    take_device(f, echo_new(&f->env, "echo0", &e));
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;

    virtio_free(f->dev);
    loop_free(f->loop);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

static inline void set_features(struct virtio_device *dev, uint64_t features)
{
    virtio_set_driver_features(dev, 0, (uint32_t)features);
    virtio_set_driver_features(dev, 1, (uint32_t)(features >> 32));
}

/* Up to FEATURES_OK. */
static inline void negotiate(struct fixture *f, uint64_t features)
{
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE);
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    set_features(f->dev, features);
    virtio_set_status(f->dev, AGREED);
}

static inline int enable(struct fixture *f, unsigned queue)
{
    driver_init(&f->driver[queue], &f->mem, 0x10000 + queue * RING_BYTES, RING_BYTES, ECHO_QUEUE_SIZE, f->dev->state.driver_features);
    driver_connect(&f->driver[queue], &f->dev->queues[queue].state);
    return virtio_enable_queue(f->dev, queue);
}

static inline void start(struct fixture *f, uint64_t features)
{
    negotiate(f, features);
    assert_int_equal(f->dev->state.status, AGREED);
    for (unsigned q = 0; q < ECHO_QUEUES; q++)
        assert_int_equal(enable(f, q), 0);
    virtio_set_status(f->dev, STARTED);
    assert_int_equal(f->dev->state.status, STARTED);
}

static inline int request(struct fixture *f, unsigned queue, const char *text)
{
    int token = driver_request(&f->driver[queue], text, (uint32_t)strlen(text), (uint32_t)strlen(text));

    assert_true(token >= 0);
    driver_show(&f->driver[queue]);
    return token;
}

static inline void expect_answer(struct fixture *f, unsigned queue, int token, const char *text)
{
    uint32_t len = 0;

    assert_int_equal(driver_take(&f->driver[queue], &len), token);
    assert_int_equal(len, strlen(text));
    for (size_t i = 0; i < strlen(text); i++)
        assert_int_equal(driver_in(&f->driver[queue], token)[i], text[i] ^ 0xff);
}

static inline void expect_silence(struct fixture *f, unsigned queue)
{
    uint32_t len;

    assert_int_equal(driver_take(&f->driver[queue], &len), DRIVER_NONE);
}

static inline void echo_once(struct fixture *f, unsigned queue, const char *text)
{
    int token = request(f, queue, text);

    virtio_doorbell(f->dev, queue);
    echo_settle(f->loop);
    expect_answer(f, queue, token, text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* With a request in queue 0 that the host has taken and not done. */
static inline void start_and_hold(struct fixture *f)
{
    start(f, SPLIT);
    f->echo->hold = true;
    request(f, 0, "on its way");
    virtio_doorbell(f->dev, 0);
    echo_settle(f->loop);
}
