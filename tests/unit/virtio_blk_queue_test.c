/* The virtio disk: many requests under way, batches, no memory for more, resets meanwhile. */
#include "virtio_blk_fake.h"

/* --- many at once --- */

static void many_are_under_way_and_are_answered_as_they_are_done(void **state)
{
    struct fixture *f = *state;
    int tokens[20];

    start_usual(f);
    for (unsigned i = 0; i < 20; i++)
        tokens[i] = ask(f, VIRTIO_BLK_T_IN, i, NULL, 0, 512);
    ring_bell(f, 0);
    assert_int_equal(f->fake->waiting, 20);
    assert_int_equal(f->fake->flushed, 20);
    for (unsigned i = 20; i-- > 0;) { /* the last first */
        block_fake_done(f->fake, i, 0);
        assert_int_equal(taken(f, 0), DRIVER_NONE); /* not before the batch is done */
        block_fake_batch_done(f->fake);
        assert_int_equal(taken(f, 0), tokens[i]);
        assert_true(all_bytes(driver_in(&f->d[0], tokens[i]), (uint8_t)(0x40 + i), 512));
    }
}

static void a_batch_is_one_interrupt_per_queue(void **state)
{
    struct fixture *f = *state;

    make(f, &(struct disk){.queues = QUEUES});
    start(f, USUAL | BIT(VIRTIO_BLK_F_MQ));
    for (unsigned q = 0; q < QUEUES; q++) {
        for (unsigned i = 0; i < 5; i++)
            ask_on(f, q, VIRTIO_BLK_T_IN, i, NULL, 0, 512);
        ring_bell(f, q);
    }
    assert_int_equal(f->fake->waiting, 5 * QUEUES);
    for (unsigned i = 0; i < 5 * QUEUES; i++)
        block_fake_done(f->fake, 0, 0);
    block_fake_batch_done(f->fake);
    for (unsigned q = 0; q < QUEUES; q++) {
        assert_int_equal(f->interrupts[q], 1);
        for (unsigned i = 0; i < 5; i++)
            assert_true(taken(f, q) >= 0);
        assert_int_equal(taken(f, q), DRIVER_NONE);
    }
}

static void what_comes_while_the_queue_is_run_is_run_too(void **state)
{
    struct fixture *f = *state;

    make(f, &(struct disk){0});
    for (unsigned packed = 0; packed < 2; packed++) {
        start(f, USUAL | BIT(VIRTIO_F_EVENT_IDX) | (packed ? BIT(VIRTIO_F_RING_PACKED) : 0));
        for (unsigned i = 0; i < 300; i++) {
            ask(f, VIRTIO_BLK_T_IN, i % SECTORS, NULL, 0, 512);
            ring_bell(f, 0); /* only when the device wants it */
            if (i % 3 == 0)
                finish_all(f);
            while (taken(f, 0) >= 0)
                continue;
        }
        finish_all(f);
        while (taken(f, 0) >= 0)
            continue;
        assert_int_equal(f->d[0].out, 0);
    }
}

static void the_loop_does_the_work_when_it_is_not_inline(void **state)
{
    struct fixture *f = *state;
    int token;

    make(f, &(struct disk){.on_loop = true});
    start(f, USUAL);
    token = ask(f, VIRTIO_BLK_T_GET_ID, 0, NULL, 0, 20);
    ring_bell(f, 0);
    assert_int_equal(taken(f, 0), DRIVER_NONE);
    loop_post(f->loop, (void (*)(void *))loop_stop, f->loop);
    assert_int_equal(loop_run(f->loop), 0);
    if (f->d[0].out) { /* the post came first */
        loop_post(f->loop, (void (*)(void *))loop_stop, f->loop);
        assert_int_equal(loop_run(f->loop), 0);
    }
    assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
}

static void without_memory_for_more_at_once_requests_wait_for_their_turn(void **state)
{
    struct fixture *f = *state;
    int tokens[2][3];

    make(f, &(struct disk){.queues = 2});
    start(f, USUAL | BIT(VIRTIO_BLK_F_MQ));
    no_memory = true; /* but for the one that there is from the start */
    for (unsigned q = 0; q < 2; q++) {
        for (unsigned i = 0; i < 3; i++)
            tokens[q][i] = ask_on(f, q, VIRTIO_BLK_T_IN, i, NULL, 0, 512);
        ring_bell(f, q);
    }
    for (unsigned n = 0; n < 6; n++) {
        assert_int_equal(f->fake->waiting, 1);
        assert_int_equal(f->fake->flushed, 1);
        block_fake_done(f->fake, 0, 0);
        block_fake_batch_done(f->fake);
    }
    for (unsigned q = 0; q < 2; q++)
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(taken(f, q), tokens[q][i]);
}

static void a_disk_that_has_no_memory_at_all_is_not_made(void **state)
{
    struct fixture *f = *state;
    struct virtio_env env = {.mem = &f->mem, .loop = f->loop};
    struct block_fake *fake = block_fake_new(SECTORS * 512, 512, false);
    struct err e = {""};

    fake->freed = &f->fake_freed;
    no_memory = true;
    assert_null(virtio_blk_new(&env, "blk0", &fake->backend, &(struct virtio_blk_options){.queues = 1}, &e));
    assert_non_null(strstr(e.text, "no memory"));
    assert_true(f->fake_freed);
}

/* --- resets --- */

static void a_reset_is_not_finished_while_a_read_can_write_to_memory(void **state)
{
    struct fixture *f = *state;
    gpa_t answer;
    int token;

    start_usual(f);
    token = ask(f, VIRTIO_BLK_T_IN, 3, NULL, 0, 512);
    answer = driver_area(&f->d[0], token) + f->d[0].slots[token].in_off;
    ring_bell(f, 0);
    virtio_set_status(f->dev, 0);
    assert_int_not_equal(f->dev->state.status, 0);
    f->notices = 0;
    block_fake_done(f->fake, 0, 0);
    assert_int_equal(f->dev->state.status, 0);
    assert_int_equal(f->notices, 1); /* the engine is told of what changed, though nobody is answered */
    assert_int_equal(f->noticed, answer);
    block_fake_batch_done(f->fake);
    assert_int_equal(taken(f, 0), DRIVER_NONE);
    assert_int_equal(f->interrupts[0], 0);
    start(f, USUAL);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, NULL, 0, 512), VIRTIO_BLK_S_OK);
}

static void a_reset_ends_a_request_of_several_ranges_after_the_one_under_way(void **state)
{
    struct virtio_blk_range ranges[] = {{2, 3, 0}, {10, 1, 0}};
    struct fixture *f = *state;

    start_usual(f);
    ask(f, VIRTIO_BLK_T_DISCARD, 0, ranges, sizeof(ranges), 0);
    ring_bell(f, 0);
    virtio_set_status(f->dev, 0);
    block_fake_done(f->fake, 0, 0);
    assert_int_equal(f->fake->waiting, 0);
    assert_int_equal(f->dev->state.status, 0);
}

static void a_queue_reset_leaves_the_other_queues_requests_alone(void **state)
{
    struct fixture *f = *state;
    int token;

    make(f, &(struct disk){.queues = 2});
    start(f, USUAL | BIT(VIRTIO_BLK_F_MQ) | BIT(VIRTIO_F_RING_RESET));
    ask_on(f, 1, VIRTIO_BLK_T_IN, 1, NULL, 0, 512);
    ring_bell(f, 1);
    token = ask(f, VIRTIO_BLK_T_IN, 0, NULL, 0, 512);
    ring_bell(f, 0);
    virtio_reset_queue(f->dev, 1);
    assert_true(f->dev->kicks[1].reset_under_way);
    block_fake_done(f->fake, 1, 0);
    assert_true(f->dev->kicks[1].reset_under_way);
    block_fake_done(f->fake, 0, 0);
    assert_false(f->dev->kicks[1].reset_under_way);
    block_fake_batch_done(f->fake);
    assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
    assert_int_equal(taken(f, 1), DRIVER_NONE);
    driver_init(&f->d[1], &f->mem, KIB(4) + AREA, AREA, QUEUE_SIZE, USUAL);
    driver_connect(&f->d[1], &f->dev->queues[1].state);
    assert_int_equal(virtio_enable_queue(f->dev, 1), 0);
    token = ask_on(f, 1, VIRTIO_BLK_T_IN, 1, NULL, 0, 512);
    ring_bell(f, 1);
    finish_all(f);
    assert_int_equal(taken(f, 1), token);
}

static void freeing_waits_for_what_is_under_way(void **state)
{
    struct fixture *f = *state;

    start_usual(f);
    for (unsigned i = 0; i < 10; i++)
        ask(f, VIRTIO_BLK_T_IN, i, NULL, 0, 512);
    ring_bell(f, 0);
    assert_int_equal(f->fake->waiting, 10);
    virtio_free(f->dev);
    f->dev = NULL;
    assert_true(f->fake_freed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(many_are_under_way_and_are_answered_as_they_are_done),
        TEST(a_batch_is_one_interrupt_per_queue),
        TEST(what_comes_while_the_queue_is_run_is_run_too),
        TEST(the_loop_does_the_work_when_it_is_not_inline),
        TEST(without_memory_for_more_at_once_requests_wait_for_their_turn),
        TEST(a_disk_that_has_no_memory_at_all_is_not_made),
        TEST(a_reset_is_not_finished_while_a_read_can_write_to_memory),
        TEST(a_reset_ends_a_request_of_several_ranges_after_the_one_under_way),
        TEST(a_queue_reset_leaves_the_other_queues_requests_alone),
        TEST(freeing_waits_for_what_is_under_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
