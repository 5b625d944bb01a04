/* The virtio device core: status, features, doorbells on the loop and inline, resets with work under way, saved state, statistics. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "virtio_echo.h"

#define RING_FEATURES                                                                                                                      \
    (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_RING_RESET))
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

static bool on_interrupt(void *transport, int queue)
{
    struct fixture *f = transport;

    if (queue < 0)
        f->config_interrupts++;
    else
        f->interrupts[queue]++;
    return f->by_irqfd;
}

static void take_device(struct fixture *f, struct echo *echo)
{
    assert_non_null(echo);
    f->echo = echo;
    f->dev = &echo->dev;
    f->dev->interrupt = on_interrupt;
    f->dev->transport = f;
}

static int setup(void **state)
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

static int teardown(void **state)
{
    struct fixture *f = *state;

    virtio_free(f->dev);
    loop_free(f->loop);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

static void set_features(struct virtio_device *dev, uint64_t features)
{
    virtio_set_driver_features(dev, 0, (uint32_t)features);
    virtio_set_driver_features(dev, 1, (uint32_t)(features >> 32));
}

/* Up to FEATURES_OK. */
static void negotiate(struct fixture *f, uint64_t features)
{
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE);
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    set_features(f->dev, features);
    virtio_set_status(f->dev, AGREED);
}

static int enable(struct fixture *f, unsigned queue)
{
    driver_init(&f->driver[queue], &f->mem, 0x10000 + queue * RING_BYTES, RING_BYTES, ECHO_QUEUE_SIZE, f->dev->state.driver_features);
    driver_connect(&f->driver[queue], &f->dev->queues[queue].state);
    return virtio_enable_queue(f->dev, queue);
}

static void start(struct fixture *f, uint64_t features)
{
    negotiate(f, features);
    assert_int_equal(f->dev->state.status, AGREED);
    for (unsigned q = 0; q < ECHO_QUEUES; q++)
        assert_int_equal(enable(f, q), 0);
    virtio_set_status(f->dev, STARTED);
    assert_int_equal(f->dev->state.status, STARTED);
}

static int request(struct fixture *f, unsigned queue, const char *text)
{
    int token = driver_request(&f->driver[queue], text, (uint32_t)strlen(text), (uint32_t)strlen(text));

    assert_true(token >= 0);
    driver_show(&f->driver[queue]);
    return token;
}

static void expect_answer(struct fixture *f, unsigned queue, int token, const char *text)
{
    uint32_t len = 0;

    assert_int_equal(driver_take(&f->driver[queue], &len), token);
    assert_int_equal(len, strlen(text));
    for (size_t i = 0; i < strlen(text); i++)
        assert_int_equal(driver_in(&f->driver[queue], token)[i], text[i] ^ 0xff);
}

static void expect_silence(struct fixture *f, unsigned queue)
{
    uint32_t len;

    assert_int_equal(driver_take(&f->driver[queue], &len), DRIVER_NONE);
}

static void echo_once(struct fixture *f, unsigned queue, const char *text)
{
    int token = request(f, queue, text);

    virtio_doorbell(f->dev, queue);
    echo_settle(f->loop);
    expect_answer(f, queue, token, text);
}

/* --- status and features --- */

static void ring_features_are_added_to_the_devices_own(void **state)
{
    struct fixture *f = *state;

    assert_true(f->dev->features == (RING_FEATURES | BIT(ECHO_FEATURE)));
}

static void features_that_are_not_offered_are_refused(void **state)
{
    struct fixture *f = *state;

    for (unsigned bit = 0; bit < 64; bit++) {
        bool offered = f->dev->features >> bit & 1;

        virtio_set_status(f->dev, 0);
        negotiate(f, BIT(VIRTIO_F_VERSION_1) | BIT(bit));
        assert_int_equal(!!(f->dev->state.status & VIRTIO_STATUS_FEATURES_OK), offered);
    }
    assert_true(complaints > 0);
}

static void a_driver_of_the_legacy_interface_is_refused(void **state)
{
    struct fixture *f = *state;

    negotiate(f, BIT(ECHO_FEATURE));
    assert_int_equal(f->dev->state.status, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    negotiate(f, BIT(ECHO_FEATURE) | BIT(VIRTIO_F_VERSION_1)); /* it may try again */
    assert_int_equal(f->dev->state.status, AGREED);
}

static void features_are_fixed_once_they_are_agreed(void **state)
{
    struct fixture *f = *state;

    negotiate(f, SPLIT);
    set_features(f->dev, PACKED);
    assert_true(f->dev->state.driver_features == SPLIT);
    virtio_set_driver_features(f->dev, 2, 0xffffffff);
    virtio_set_status(f->dev, 0);
    assert_true(f->dev->state.driver_features == 0);
    virtio_set_driver_features(f->dev, 2, 0xffffffff); /* there is no such half */
    assert_true(f->dev->state.driver_features == 0);
}

static void status_bits_stay_until_a_reset(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT);
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE);
    assert_int_equal(f->dev->state.status, STARTED);
    virtio_set_status(f->dev, STARTED | VIRTIO_STATUS_FAILED);
    assert_int_equal(f->dev->state.status, STARTED | VIRTIO_STATUS_FAILED);
    virtio_set_status(f->dev, 0);
    assert_int_equal(f->dev->state.status, 0);
}

static void the_driver_cannot_set_bits_that_are_not_its_own(void **state)
{
    struct fixture *f = *state;

    virtio_set_status(f->dev, 0xff & ~(VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK));
    assert_int_equal(f->dev->state.status, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FAILED);
}

static void a_device_starts_once_and_only_with_agreed_features(void **state)
{
    struct fixture *f = *state;

    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK);
    assert_int_equal(f->dev->state.status, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    assert_int_equal(f->echo->starts, 0);
    start(f, SPLIT);
    virtio_set_status(f->dev, STARTED);
    assert_int_equal(f->echo->starts, 1);
}

/* --- queues --- */

static void queues_are_enabled_between_features_and_start(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(enable(f, 0), -EINVAL); /* too early */
    assert_false(f->dev->queues[0].state.enabled);
    negotiate(f, SPLIT & ~BIT(VIRTIO_F_RING_RESET));
    assert_int_equal(enable(f, 0), 0);
    assert_int_equal(virtio_enable_queue(f->dev, 0), 0); /* it is */
    virtio_set_status(f->dev, STARTED);
    assert_int_equal(enable(f, 1), -EINVAL); /* too late */
    assert_int_equal(f->dev->state.status, STARTED);
    echo_once(f, 0, "still well");
    assert_int_equal(virtio_enable_queue(f->dev, ECHO_QUEUES), -EINVAL);
}

static void impossible_rings_make_the_device_need_a_reset(void **state)
{
    struct fixture *f = *state;

    negotiate(f, SPLIT);
    f->dev->queues[0].state.desc = GIB(64);
    assert_int_equal(virtio_enable_queue(f->dev, 0), -EINVAL);
    assert_int_equal(f->dev->state.status, AGREED | VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->config_interrupts, 0); /* none is sent before DRIVER_OK */
    assert_int_equal(enable(f, 1), -EINVAL);
    virtio_set_status(f->dev, STARTED | VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->dev->state.status, AGREED | VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->echo->starts, 0);
    virtio_set_status(f->dev, 0);
    start(f, SPLIT);
    echo_once(f, 0, "well again");
}

static void a_queue_is_reset_and_used_anew_while_others_go_on(void **state)
{
    struct fixture *f = *state;

    start(f, PACKED);
    echo_once(f, 0, "before");
    virtio_reset_queue(f->dev, 0);
    assert_int_equal(f->echo->queue_resets, 1);
    assert_false(f->dev->queues[0].state.enabled);
    assert_int_equal(f->dev->queues[0].state.size, ECHO_QUEUE_SIZE);
    virtio_doorbell(f->dev, 0); /* of a queue that is none: nothing */
    echo_once(f, 1, "others go on");
    assert_int_equal(enable(f, 0), 0);
    echo_once(f, 0, "after");
}

static void queues_are_not_reset_by_a_driver_that_did_not_agree_on_it(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT & ~BIT(VIRTIO_F_RING_RESET));
    virtio_reset_queue(f->dev, 0);
    virtio_reset_queue(f->dev, ECHO_QUEUES);
    assert_int_equal(f->echo->queue_resets, 0);
    echo_once(f, 0, "it is still there");
}

/* --- doorbells --- */

static void a_doorbells_work_is_the_loops(void **state)
{
    struct fixture *f = *state;
    int token;

    start(f, SPLIT);
    token = request(f, 1, "by and by");
    virtio_doorbell(f->dev, 1);
    expect_silence(f, 1);
    echo_settle(f->loop);
    expect_answer(f, 1, token, "by and by");
    assert_int_equal(f->interrupts[1], 1);
    assert_int_equal(f->interrupts[0], 0);
}

static void with_inline_work_it_is_done_at_once(void **state)
{
    struct fixture *f = *state;
    int token;

    f->dev->env.inline_work = true;
    start(f, SPLIT);
    token = request(f, 1, "at once");
    virtio_doorbell(f->dev, 1);
    expect_answer(f, 1, token, "at once");
    assert_int_equal(f->interrupts[1], 1);
    assert_int_equal(f->dev->queues[1].stats.kicks, 1);
}

static void many_doorbells_are_counted_and_wake_the_loop_once(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT);
    for (unsigned i = 0; i < 100; i++)
        virtio_doorbell(f->dev, 0);
    echo_settle(f->loop);
    assert_int_equal(f->echo->kicks, 1);
    assert_int_equal(f->dev->queues[0].stats.kicks, 100);
    echo_settle(f->loop);
    assert_int_equal(f->echo->kicks, 1);
    echo_once(f, 0, "and the next is heard too");
    assert_int_equal(f->dev->queues[0].stats.kicks, 101);
}

/* An engine's ioeventfd adds to the eventfd, and nobody calls virtio_doorbell(). */
static void ring_by_eventfd(struct fixture *f, unsigned queue, uint64_t times)
{
    assert_int_equal(write(f->dev->kicks[queue].event.fd, &times, sizeof(times)), sizeof(times));
}

static void doorbells_by_eventfd_are_kicks_and_counted_apart(void **state)
{
    struct fixture *f = *state;
    int token;

    start(f, SPLIT);
    token = request(f, 0, "by the kernel");
    ring_by_eventfd(f, 0, 1);
    echo_settle(f->loop);
    expect_answer(f, 0, token, "by the kernel");
    ring_by_eventfd(f, 0, 2);
    virtio_doorbell(f->dev, 0);
    virtio_doorbell(f->dev, 0);
    ring_by_eventfd(f, 0, 3);
    echo_settle(f->loop);
    virtio_doorbell(f->dev, 0);
    echo_settle(f->loop);
    assert_int_equal(f->dev->queues[0].stats.kicks, 9);
    assert_int_equal(f->dev->queues[0].stats.ioeventfd_kicks, 6);
}

static void interrupts_by_irqfd_are_counted(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT);
    echo_once(f, 0, "by a call");
    f->by_irqfd = true;
    echo_once(f, 0, "by an eventfd");
    assert_int_equal(f->dev->queues[0].stats.interrupts, 2);
    assert_int_equal(f->dev->queues[0].stats.irqfd_interrupts, 1);
}

static void a_doorbell_of_no_queue_or_before_the_start_does_nothing(void **state)
{
    struct fixture *f = *state;

    virtio_doorbell(f->dev, 0);
    virtio_doorbell(f->dev, ECHO_QUEUES);
    virtio_doorbell(f->dev, UINT32_MAX);
    echo_settle(f->loop);
    assert_int_equal(f->echo->kicks, 0);
}

static void a_reset_overtakes_a_doorbell(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT);
    request(f, 0, "too late");
    virtio_doorbell(f->dev, 0);
    virtio_set_status(f->dev, 0);
    echo_settle(f->loop);
    assert_int_equal(f->echo->kicks, 0);
    expect_silence(f, 0);
}

static void a_doorbell_from_before_a_reset_does_not_harm_the_next_driver(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT);
    virtio_doorbell(f->dev, 0);
    virtio_set_status(f->dev, 0);
    start(f, PACKED);
    echo_settle(f->loop);
    assert_int_equal(f->dev->state.status, STARTED);
    expect_silence(f, 0);
    echo_once(f, 0, "undisturbed");
}

static void an_end_with_a_doorbell_pending_leaves_nothing_on_the_loop(void **state)
{
    struct fixture *f = *state;
    struct err e;
    bool freed = false;

    start(f, SPLIT);
    virtio_doorbell(f->dev, 0);
    f->echo->freed = &freed;
    virtio_free(f->dev);
    assert_true(freed);
    echo_settle(f->loop);
    virtio_free(NULL);
    take_device(f, echo_new(&f->env, "echo0", &e));
}

static void *run_loop(void *loop)
{
    return loop_run(loop) ? loop : NULL;
}

static void drivers_come_and_go_while_the_loop_works(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;
    void *failed;

    assert_int_equal(pthread_create(&thread, NULL, run_loop, f->loop), 0);
    for (unsigned round = 0; round < 300; round++) {
        uint32_t len;
        int token;

        start(f, round & 1 ? PACKED : SPLIT);
        token = request(f, 1, "to be answered");
        virtio_doorbell(f->dev, 1);
        while (driver_take(&f->driver[1], &len) != token)
            sched_yield();
        for (unsigned n = 0; n < ECHO_QUEUE_SIZE; n++) { /* how far the loop comes with these before the reset is all the same */
            if (driver_request(&f->driver[0], "x", 1, 0) >= 0)
                driver_show(&f->driver[0]);
            virtio_doorbell(f->dev, 0);
        }
        virtio_reset_queue(f->dev, 0);
        virtio_set_status(f->dev, 0);
        assert_int_equal(f->dev->state.status, 0);
    }
    loop_post(f->loop, echo_stop_loop, f->loop);
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    assert_int_equal(complaints, 0);
}

/* --- work that the host has --- */

static void a_reset_is_finished_when_the_host_is(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT);
    f->echo->hold = true;
    request(f, 0, "on its way");
    virtio_doorbell(f->dev, 0);
    echo_settle(f->loop);
    assert_int_equal(f->echo->held_queue, 0);
    virtio_set_status(f->dev, 0);
    assert_int_equal(f->echo->resets, 1);
    assert_int_equal(f->dev->state.status, VIRTIO_STATUS_ACKNOWLEDGE);
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER); /* an impatient driver */
    assert_int_equal(f->dev->state.status, VIRTIO_STATUS_ACKNOWLEDGE);
    assert_int_equal(enable(f, 0), -EINVAL);
    echo_complete(f->echo);
    assert_int_equal(f->dev->state.status, 0);
    expect_silence(f, 0);
    assert_int_equal(f->interrupts[0], 0);
    f->echo->hold = false;
    start(f, SPLIT);
    echo_once(f, 0, "anew");
}

static void a_queues_reset_is_finished_when_the_host_is(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT);
    f->echo->hold = true;
    request(f, 0, "on its way");
    virtio_doorbell(f->dev, 0);
    echo_settle(f->loop);
    virtio_reset_queue(f->dev, 0);
    assert_true(f->dev->kicks[0].reset_under_way);
    assert_int_equal(enable(f, 0), -EINVAL);
    assert_int_equal(f->dev->state.status, STARTED);
    echo_complete(f->echo);
    assert_false(f->dev->kicks[0].reset_under_way);
    expect_silence(f, 0);
    f->echo->hold = false;
    assert_int_equal(enable(f, 0), 0);
    echo_once(f, 0, "anew");
}

static void a_devices_reset_ends_that_of_a_queue(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT);
    f->echo->hold = true;
    request(f, 0, "on its way");
    virtio_doorbell(f->dev, 0);
    echo_settle(f->loop);
    virtio_reset_queue(f->dev, 0);
    virtio_set_status(f->dev, 0);
    assert_int_not_equal(f->dev->state.status, 0);
    echo_complete(f->echo);
    assert_int_equal(f->dev->state.status, 0);
    assert_false(f->dev->kicks[0].reset_under_way);
}

static void without_a_reset_the_host_answers(void **state)
{
    struct fixture *f = *state;
    int token;

    start(f, SPLIT);
    f->echo->hold = true;
    token = request(f, 0, "it takes a while");
    virtio_doorbell(f->dev, 0);
    echo_settle(f->loop);
    expect_silence(f, 0);
    virtio_drain(f->dev);
    expect_answer(f, 0, token, "it takes a while");
    assert_int_equal(f->interrupts[0], 1);
}

/* --- drivers that break the rules --- */

static void break_ring(struct fixture *f, unsigned queue)
{
    struct virtq_segment outside = {GIB(64), 1};

    driver_add(&f->driver[queue], &outside, 1, 0);
    driver_show(&f->driver[queue]);
    virtio_doorbell(f->dev, queue);
    echo_settle(f->loop);
}

static void a_broken_ring_makes_the_device_need_a_reset_and_tells_once(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT);
    break_ring(f, 1);
    assert_int_equal(f->dev->state.status, STARTED | VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->config_interrupts, 1);
    assert_int_equal(complaints, 1);
    for (unsigned q = 0; q < ECHO_QUEUES; q++) { /* nothing is done any more */
        request(f, q, "in vain");
        virtio_doorbell(f->dev, q);
    }
    echo_settle(f->loop);
    virtio_broken(f->dev, "it breaks %s more rules", "two");
    assert_int_equal(f->config_interrupts, 1);
    assert_int_equal(complaints, 2);
    expect_silence(f, 0);
    virtio_set_status(f->dev, 0);
    start(f, SPLIT);
    echo_once(f, 1, "well again");
}

static void breaking_a_device_that_is_being_reset_only_complains(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT);
    f->echo->hold = true;
    request(f, 0, "on its way");
    virtio_doorbell(f->dev, 0);
    echo_settle(f->loop);
    virtio_set_status(f->dev, 0);
    virtio_broken(f->dev, "%s", "it does what it must not");
    assert_int_equal(complaints, 1);
    assert_false(f->dev->state.status & VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->config_interrupts, 0);
}

/* --- the device's configuration --- */

static void configuration_is_read_in_any_size_and_beyond_its_end_as_zeros(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(virtio_config_read(f->dev, 0, 1), 0xc0);
    assert_int_equal(virtio_config_read(f->dev, 2, 2), 0xc3c2);
    assert_int_equal(virtio_config_read(f->dev, 16, 4), 0xd3d2d1d0);
    assert_true(virtio_config_read(f->dev, 8, 8) == 0xcfcecdcccbcac9c8);
    assert_int_equal(virtio_config_read(f->dev, 18, 4), 0xd3d2);
    assert_int_equal(virtio_config_read(f->dev, 16, 8), 0xd3d2d1d0);
    assert_int_equal(virtio_config_read(f->dev, 20, 1), 0);
    assert_int_equal(virtio_config_read(f->dev, 4088, 8), 0);
}

static void configuration_is_written_within_its_bounds(void **state)
{
    struct fixture *f = *state;

    virtio_config_write(f->dev, 4, 4, 0x11223344);
    assert_int_equal(virtio_config_read(f->dev, 4, 4), 0x11223344);
    virtio_config_write(f->dev, 18, 4, 0);
    virtio_config_write(f->dev, 20, 1, 0);
    assert_int_equal(f->echo->config_writes, 1);
}

static void a_change_is_told_by_generation_and_interrupt(void **state)
{
    struct fixture *f = *state;
    uint8_t generation = f->dev->state.config_generation;

    virtio_config_changed(f->dev);
    assert_int_equal(f->dev->state.config_generation, (uint8_t)(generation + 1));
    assert_int_equal(f->config_interrupts, 0);
    start(f, SPLIT);
    virtio_config_changed(f->dev);
    assert_int_equal(f->dev->state.config_generation, (uint8_t)(generation + 2));
    assert_int_equal(f->config_interrupts, 1);
}

/* --- saved state --- */

static struct state_writer save(struct fixture *f)
{
    struct state_writer w;

    state_writer_init(&w);
    virtio_drain(f->dev);
    assert_int_equal(virtio_save(f->dev, &w), 0);
    return w;
}

static int load_bytes(struct virtio_device *dev, const void *data, size_t len)
{
    struct state_reader r;
    struct err e = {""};
    int rc;

    state_reader_init(&r, data, len);
    rc = virtio_load(dev, &r, &e);
    if (rc) {
        assert_true(e.text[0]);
        assert_int_equal(dev->state.status, 0);
    } else {
        assert_int_equal(r.pos, len);
    }
    return rc;
}

/* The machine goes on with a device made anew, on the same memory. */
static void move_to_fresh_device(struct fixture *f)
{
    struct state_writer w = save(f);
    struct err e;

    virtio_free(f->dev);
    take_device(f, echo_new(&f->env, "echo0", &e));
    assert_int_equal(load_bytes(f->dev, w.data, w.len), 0);
    state_writer_fini(&w);
}

static void a_started_device_goes_on_in_a_fresh_machine(void **state)
{
    const uint64_t features[] = {SPLIT, PACKED, SPLIT | BIT(VIRTIO_F_EVENT_IDX)};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        int lost;

        virtio_set_status(f->dev, 0);
        start(f, features[i]);
        for (unsigned n = 0; n < 3 * ECHO_QUEUE_SIZE / 2; n++)
            echo_once(f, 1, "before");
        virtio_config_write(f->dev, 0, 4, 0x600df00d + i);
        lost = request(f, 2, "rung, and not heard before it was saved");
        virtio_doorbell(f->dev, 2);
        move_to_fresh_device(f);
        assert_int_equal(f->dev->state.status, STARTED);
        assert_int_equal(f->echo->starts, 1);
        assert_int_equal(virtio_config_read(f->dev, 0, 4), 0x600df00d + i);
        echo_settle(f->loop);
        expect_answer(f, 2, lost, "rung, and not heard before it was saved");
        for (unsigned q = 0; q < ECHO_QUEUES; q++)
            echo_once(f, q, "after");
    }
}

static void a_device_is_moved_at_every_stage_of_its_driver(void **state)
{
    struct fixture *f = *state;

    move_to_fresh_device(f);
    assert_int_equal(f->dev->state.status, 0);
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    set_features(f->dev, UINT64_MAX); /* that it may ask for everything is found out later */
    f->dev->queues[2].state.desc = 0x123456789;
    move_to_fresh_device(f);
    assert_true(f->dev->state.driver_features == UINT64_MAX);
    assert_true(f->dev->queues[2].state.desc == 0x123456789);
    set_features(f->dev, SPLIT);
    virtio_set_status(f->dev, AGREED);
    move_to_fresh_device(f);
    assert_int_equal(enable(f, 0), 0);
    move_to_fresh_device(f);
    assert_int_equal(f->echo->starts, 0);
    virtio_set_status(f->dev, STARTED);
    echo_once(f, 0, "all the way");
    virtio_reset_queue(f->dev, 0);
    move_to_fresh_device(f);
    assert_int_equal(enable(f, 0), 0);
    echo_once(f, 0, "and back");
}

static void a_device_that_needs_a_reset_is_moved_whatever_is_lost_in_it(void **state)
{
    const uint64_t features[] = {SPLIT, PACKED};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        virtio_set_status(f->dev, 0);
        start(f, features[i]);
        request(f, 0, "popped, and never pushed");
        assert_int_equal(virtio_pop(f->dev, 0, &f->echo->chain), 1);
        virtio_broken(f->dev, "it asks for what there is not");
        move_to_fresh_device(f);
        assert_int_equal(f->dev->state.status, STARTED | VIRTIO_STATUS_NEEDS_RESET);
        assert_int_equal(f->echo->starts, 0);
        echo_settle(f->loop);
        assert_int_equal(f->echo->kicks, 0);
        virtio_set_status(f->dev, 0);
        start(f, features[i]);
        echo_once(f, 0, "well again");
    }
}

static void loading_into_a_running_device_takes_its_place(void **state)
{
    struct fixture *f = *state;
    struct state_writer w = save(f);

    start(f, SPLIT);
    f->echo->hold = true;
    request(f, 0, "on its way");
    virtio_doorbell(f->dev, 0);
    echo_settle(f->loop);
    assert_int_equal(load_bytes(f->dev, w.data, w.len), 0);
    assert_int_equal(f->dev->state.status, 0);
    assert_int_equal(f->echo->held_queue, -1);
    state_writer_fini(&w);
}

static void truncated_state_is_refused_and_leaves_a_device_in_reset(void **state)
{
    struct fixture *f = *state;
    struct state_writer w;

    start(f, SPLIT);
    w = save(f);
    for (size_t len = 0; len < w.len; len++)
        assert_int_equal(load_bytes(f->dev, w.data, len), -EINVAL);
    assert_int_equal(load_bytes(f->dev, w.data, w.len), 0);
    echo_once(f, 0, "none the worse");
    state_writer_fini(&w);
}

/* What save() wrote, when the device is bent before and straightened after. */
static void expect_refused(struct fixture *f, struct state_writer *w)
{
    assert_int_equal(load_bytes(f->dev, w->data, w->len), -EINVAL);
    state_writer_fini(w);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;
    struct state_writer w;

    f->dev->state.status = VIRTIO_STATUS_DRIVER_OK; /* with no features agreed */
    w = save(f);
    expect_refused(f, &w);
    f->dev->state.status = 0x10; /* no such bit */
    w = save(f);
    expect_refused(f, &w);
    f->dev->state.status = AGREED; /* as a driver of the legacy interface */
    w = save(f);
    expect_refused(f, &w);
    start(f, SPLIT);
    f->dev->state.status = VIRTIO_STATUS_ACKNOWLEDGE; /* with queues enabled */
    w = save(f);
    expect_refused(f, &w);
    start(f, SPLIT);
    f->dev->queues[0].state.broken = 1; /* and nobody noticed */
    w = save(f);
    expect_refused(f, &w);
}

static void state_of_another_device_is_refused(void **state)
{
    struct fixture *f = *state;
    struct virtio_ops other = echo_ops;
    struct state_writer w;

    start(f, SPLIT);
    w = save(f);
    f->dev->features &= ~BIT(ECHO_FEATURE);
    expect_refused(f, &w);
    f->dev->features |= BIT(ECHO_FEATURE);
    start(f, SPLIT);
    w = save(f);
    f->dev->queue_count--;
    assert_int_equal(load_bytes(f->dev, w.data, w.len), -EINVAL);
    f->dev->queue_count++;
    other.id = VIRTIO_ID_NET;
    f->dev->ops = &other;
    assert_int_equal(load_bytes(f->dev, w.data, w.len), -EINVAL);
    f->dev->ops = &echo_ops;
    virtq_init(&f->dev->queues[2], &f->mem, 2 * ECHO_QUEUE_SIZE);
    expect_refused(f, &w);
}

/* --- statistics, and what the host lacks --- */

struct numbers {
    struct stats_out out;
    struct {
        char name[48];
        uint64_t value;
    } rows[64];
    unsigned count;
};

static void on_number(struct stats_out *out, const char *group, const char *name, uint64_t value)
{
    struct numbers *n = container_of(out, struct numbers, out);

    assert_string_equal(group, "echo0");
    assert_in_range(n->count, 0, ARRAY_SIZE(n->rows) - 1);
    snprintf(n->rows[n->count].name, sizeof(n->rows[0].name), "%s", name);
    n->rows[n->count++].value = value;
}

static uint64_t number(const struct numbers *n, const char *name)
{
    for (unsigned i = 0; i < n->count; i++)
        if (!strcmp(n->rows[i].name, name))
            return n->rows[i].value;
    fail_msg("no number is called %s", name);
    return 0;
}

static void each_queue_counts_kicks_chains_bytes_and_interrupts(void **state)
{
    struct fixture *f = *state;
    struct numbers n = {.out = {.number = on_number}};

    start(f, SPLIT);
    echo_once(f, 1, "12345");
    driver_set_interrupts(&f->driver[1], false);
    echo_once(f, 1, "1234567");
    virtio_stats(f->dev, &n.out);
    assert_int_equal(number(&n, "queue 1 kicks"), 2);
    assert_int_equal(number(&n, "queue 1 chains"), 2);
    assert_int_equal(number(&n, "queue 1 bytes read"), 12);
    assert_int_equal(number(&n, "queue 1 bytes written"), 12);
    assert_int_equal(number(&n, "queue 1 interrupts"), 1);
    assert_int_equal(number(&n, "queue 1 interrupts suppressed"), 1);
    assert_int_equal(number(&n, "queue 0 kicks"), 0);
    assert_int_equal(number(&n, "queue 2 chains"), 0);
    assert_int_equal(number(&n, "starts"), 1);
    assert_int_equal(f->interrupts[1], 1);
}

static unsigned open_files(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;

    assert_non_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void a_host_without_files_to_spare_is_told_and_nothing_leaks(void **state)
{
    struct fixture *f = *state;
    unsigned before = open_files();
    struct rlimit limit, low;
    struct err e = {""};
    struct echo *echo;
    int lowest = dup(STDIN_FILENO);

    assert_true(lowest >= 0);
    close(lowest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    low = limit;
    low.rlim_cur = (rlim_t)lowest + ECHO_QUEUES - 1; /* one too few */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    echo = echo_new(&f->env, "echo1", &e);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_null(echo);
    assert_non_null(strstr(e.text, "echo1"));
    assert_non_null(strstr(e.text, "ulimit -n"));
    assert_int_equal(open_files(), before);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ring_features_are_added_to_the_devices_own),
        TEST(features_that_are_not_offered_are_refused),
        TEST(a_driver_of_the_legacy_interface_is_refused),
        TEST(features_are_fixed_once_they_are_agreed),
        TEST(status_bits_stay_until_a_reset),
        TEST(the_driver_cannot_set_bits_that_are_not_its_own),
        TEST(a_device_starts_once_and_only_with_agreed_features),
        TEST(queues_are_enabled_between_features_and_start),
        TEST(impossible_rings_make_the_device_need_a_reset),
        TEST(a_queue_is_reset_and_used_anew_while_others_go_on),
        TEST(queues_are_not_reset_by_a_driver_that_did_not_agree_on_it),
        TEST(a_doorbells_work_is_the_loops),
        TEST(with_inline_work_it_is_done_at_once),
        TEST(many_doorbells_are_counted_and_wake_the_loop_once),
        TEST(doorbells_by_eventfd_are_kicks_and_counted_apart),
        TEST(interrupts_by_irqfd_are_counted),
        TEST(a_doorbell_of_no_queue_or_before_the_start_does_nothing),
        TEST(a_reset_overtakes_a_doorbell),
        TEST(a_doorbell_from_before_a_reset_does_not_harm_the_next_driver),
        TEST(an_end_with_a_doorbell_pending_leaves_nothing_on_the_loop),
        TEST(drivers_come_and_go_while_the_loop_works),
        TEST(a_reset_is_finished_when_the_host_is),
        TEST(a_queues_reset_is_finished_when_the_host_is),
        TEST(a_devices_reset_ends_that_of_a_queue),
        TEST(without_a_reset_the_host_answers),
        TEST(a_broken_ring_makes_the_device_need_a_reset_and_tells_once),
        TEST(breaking_a_device_that_is_being_reset_only_complains),
        TEST(configuration_is_read_in_any_size_and_beyond_its_end_as_zeros),
        TEST(configuration_is_written_within_its_bounds),
        TEST(a_change_is_told_by_generation_and_interrupt),
        TEST(a_started_device_goes_on_in_a_fresh_machine),
        TEST(a_device_is_moved_at_every_stage_of_its_driver),
        TEST(a_device_that_needs_a_reset_is_moved_whatever_is_lost_in_it),
        TEST(loading_into_a_running_device_takes_its_place),
        TEST(truncated_state_is_refused_and_leaves_a_device_in_reset),
        TEST(impossible_state_is_refused),
        TEST(state_of_another_device_is_refused),
        TEST(each_queue_counts_kicks_chains_bytes_and_interrupts),
        TEST(a_host_without_files_to_spare_is_told_and_nothing_leaks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
