/* The virtio device core: saved state. */
#include <errno.h>

#include "virtio_echo_driver.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_started_device_goes_on_in_a_fresh_machine),
        TEST(a_device_is_moved_at_every_stage_of_its_driver),
        TEST(a_device_that_needs_a_reset_is_moved_whatever_is_lost_in_it),
        TEST(loading_into_a_running_device_takes_its_place),
        TEST(truncated_state_is_refused_and_leaves_a_device_in_reset),
        TEST(impossible_state_is_refused),
        TEST(state_of_another_device_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
