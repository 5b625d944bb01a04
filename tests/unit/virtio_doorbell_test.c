/* The virtio device core: doorbells on the loop, inline and by eventfd; resets while the host has work. */
#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "virtio_echo_driver.h"

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

    start_and_hold(f);
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

    start_and_hold(f);
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

    start_and_hold(f);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
