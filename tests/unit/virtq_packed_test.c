/* Packed virtqueues: what holds for every queue, and their own flags, wrap counters and sizes. */
#include "virtq_tests.h"

#define AVAIL_NOW DRIVER_AVAIL
#define AVAIL_NEXT_LAP DRIVER_USED

static void put_desc(struct fixture *f, unsigned index, uint16_t id, uint16_t flags)
{
    *driver_desc_at(&f->d, index) = (struct driver_desc){.addr = FREE_GPA, .len = 4, {.id = id}, {.packed_flags = flags}};
}

static void the_ring_is_laid_out_as_the_specification_says(void **state)
{
    struct fixture *f = *state;
    const struct driver_desc *first = driver_desc_at(&f->d, 0), *second = driver_desc_at(&f->d, 1);
    struct virtq_chain chain;

    assert_int_equal(virtq_chain_init(&chain, &f->q), 0);
    put_desc(f, 0, 40, AVAIL_NOW | DRIVER_WRITE);
    put_desc(f, 1, 41, AVAIL_NOW | DRIVER_WRITE);
    assert_int_equal(virtq_pop(&f->q, &chain), 1);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    virtq_push(&f->q, &f->chain, 3);
    virtq_push(&f->q, &chain, 0);
    assert_int_equal(first->id, 41);
    assert_int_equal(first->len, 3);
    assert_int_equal(first->packed_flags, AVAIL_NOW | DRIVER_WRITE); /* held back */
    assert_int_equal(second->id, 40);
    assert_int_equal(second->packed_flags, DRIVER_AVAIL | DRIVER_USED);
    virtq_publish(&f->q);
    assert_int_equal(first->packed_flags, DRIVER_AVAIL | DRIVER_USED | DRIVER_WRITE);
    virtq_chain_fini(&chain);
}

static void kicks_are_asked_for_in_the_device_area(void **state)
{
    struct fixture *f = *state;
    const uint16_t *wish = driver_at(&f->d, f->d.device);

    assert_int_equal(wish[1], 0);
    virtq_set_kicks(&f->q, false);
    assert_int_equal(wish[1], 1);
    virtq_set_kicks(&f->q, true);
    assert_int_equal(wish[1], 0);
    start(f, 3, EVENT_IDX);
    wish = driver_at(&f->d, f->d.device);
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
        assert_int_equal(wish[1], 2);
        assert_int_equal(wish[0], i % 3 | (i / 3 % 2 ? 0 : 0x8000));
        put_desc(f, i % 3, 0, i / 3 % 2 ? AVAIL_NEXT_LAP : AVAIL_NOW);
        serve(f, 0);
        virtq_publish(&f->q);
    }
}

static void every_size_runs_through_its_laps(void **state)
{
    static const uint16_t sizes[] = {1, 2, 3, 5, 7, 100, 257, 1000, 1023, 1024};
    struct fixture *f = *state;

    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
            unsigned size = sizes[i], length = size < 3 ? 1 : size < 100 ? 3 : 98;
            struct virtq_segment segs[98];
            uint32_t len;

            for (unsigned n = 0; n < length; n++)
                segs[n] = (struct virtq_segment){FREE_GPA + n, 1};
            start(f, sizes[i], event_idx ? EVENT_IDX : 0);
            for (unsigned n = 0; n < 2000; n++) {
                int token = driver_add(&f->d, segs, 0, length);

                assert_true(token >= 0);
                assert_true(driver_show(&f->d));
                serve(f, length);
                assert_int_equal(f->chain.slots, length);
                assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
                assert_true(virtq_publish(&f->q));
                assert_int_equal(driver_take(&f->d, &len), token);
                assert_int_equal(len, length);
            }
        }
    }
}

static void a_descriptor_of_another_lap_is_not_available(void **state)
{
    static const uint16_t flags[] = {0, AVAIL_NEXT_LAP, DRIVER_AVAIL | DRIVER_USED};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
        start(f, 1, 0);
        put_desc(f, 0, 0, flags[i]);
        assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
        put_desc(f, 0, 0, AVAIL_NOW);
        serve(f, 0);
        virtq_publish(&f->q);
        put_desc(f, 0, 0, flags[i] ^ DRIVER_AVAIL ^ DRIVER_USED);
        assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
        put_desc(f, 0, 0, AVAIL_NEXT_LAP);
        assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    }
}

static void a_driver_that_laps_the_device_breaks_the_queue(void **state)
{
    struct fixture *f = *state;

    for (unsigned pushed = 0; pushed < 2; pushed++) {
        start(f, 3, 0);
        for (unsigned i = 0; i < 3; i++)
            put_desc(f, i, 0, AVAIL_NOW);
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
        assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
        if (pushed)
            virtq_push(&f->q, &f->chain, 0); /* the driver has not been shown it */
        put_desc(f, 0, 0, AVAIL_NEXT_LAP);
        assert_breaks(f);
        assert_int_equal(f->q.in_use, 3 - pushed);
    }
}

static void a_chain_that_never_ends_breaks_the_queue(void **state)
{
    struct fixture *f = *state;

    for (unsigned out = 0; out < 5; out++) {
        start(f, 5, 0);
        for (unsigned i = 0; i < 5; i++)
            put_desc(f, i, 0, AVAIL_NOW | (i < out ? 0 : DRIVER_NEXT));
        for (unsigned i = 0; i < out; i++)
            assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
        assert_breaks(f);
    }
}

static void the_last_descriptor_of_a_chain_has_its_id(void **state)
{
    struct fixture *f = *state;

    put_desc(f, 0, 11, AVAIL_NOW | DRIVER_NEXT);
    put_desc(f, 1, 22, AVAIL_NOW | DRIVER_NEXT);
    put_desc(f, 2, 65535, AVAIL_NOW);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    assert_int_equal(f->chain.id, 65535);
    assert_int_equal(f->chain.slots, 3);
}

static void a_table_stands_alone_and_only_its_write_flags_count(void **state)
{
    struct virtq_segment segs[] = {{FREE_GPA, 8}, {FREE_GPA, 8}, {FREE_GPA, 8}};
    struct fixture *f = *state;

    start(f, 8, INDIRECT);
    f->d.indirect = DRIVER_TABLE;
    driver_add(&f->d, segs, 1, 2);
    for (unsigned i = 0; i < 3; i++) {
        struct driver_desc *entry = driver_at(&f->d, driver_area(&f->d, 0) + 16 * i);

        entry->id = 0xffff;
        entry->packed_flags |= DRIVER_NEXT | DRIVER_INDIRECT | DRIVER_AVAIL | DRIVER_USED;
    }
    driver_show(&f->d);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    assert_int_equal(f->chain.id, 0);
    assert_int_equal(f->chain.slots, 1);
    assert_int_equal(f->chain.readable, 1);
    assert_int_equal(f->chain.writable, 2);

    start(f, 8, INDIRECT); /* a table, and something behind it */
    f->d.indirect = DRIVER_TABLE;
    driver_add(&f->d, segs, 1, 2);
    f->d.held_flags |= DRIVER_NEXT;
    driver_show(&f->d);
    assert_breaks(f);

    start(f, 8, INDIRECT); /* a table behind something */
    put_desc(f, 0, 0, AVAIL_NOW | DRIVER_NEXT);
    put_desc(f, 1, 0, AVAIL_NOW | DRIVER_INDIRECT);
    driver_desc_at(&f->d, 1)->len = 16;
    assert_breaks(f);
}

static void odd_wishes_for_interrupts_are_taken_as_they_can_be(void **state)
{
    static const struct {
        uint16_t flags, position;
        uint64_t features;
        bool interrupt;
    } rows[] = {
        {0, 0xffff, EVENT_IDX, true},  {1, 0x8000, EVENT_IDX, false}, {2, 0x8000, EVENT_IDX, true},  {2, 0x8001, EVENT_IDX, false},
        {2, 0x0000, EVENT_IDX, false}, {2, 0x8064, EVENT_IDX, false}, {2, 0xffff, EVENT_IDX, false}, {2, 0x8001, 0, true},
        {3, 0x8001, EVENT_IDX, true},  {0xfffd, 0, EVENT_IDX, false},
    };
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        start(f, 8, rows[i].features);
        driver_put16(&f->d, f->d.driver, rows[i].position);
        driver_put16(&f->d, f->d.driver + 2, rows[i].flags);
        put_desc(f, 0, 0, AVAIL_NOW);
        serve(f, 0);
        if (virtq_publish(&f->q) != rows[i].interrupt)
            fail_msg("row %u", i);
    }
}

static void an_interrupt_at_a_position_of_the_next_lap_comes_there(void **state)
{
    struct fixture *f = *state;

    start(f, 3, EVENT_IDX);
    driver_put16(&f->d, f->d.driver, 1); /* position 1, the wrap counter 0 */
    driver_put16(&f->d, f->d.driver + 2, 2);
    for (unsigned i = 0; i < 9; i++) {
        put_desc(f, i % 3, 0, i / 3 % 2 ? AVAIL_NEXT_LAP : AVAIL_NOW);
        serve(f, 0);
        assert_int_equal(virtq_publish(&f->q), i == 4);
    }
}

static void a_saved_state_between_laps_goes_on_there(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 30; i++) {
        struct state_writer w;
        uint32_t len;

        if (i % 10 == 0)
            start(f, 5, EVENT_IDX);
        driver_request(&f->d, "x", 1, 0);
        driver_show(&f->d);
        w = save(&f->q);
        virtq_init(&f->q, &f->mem, VIRTQ_SIZE_MAX);
        assert_int_equal(load(&f->q, format | EVENT_IDX, &w), 0);
        state_writer_fini(&w);
        assert_int_equal(f->q.state.avail_wrap, (i % 10) / 5 ? 0 : 1);
        serve(f, 0);
        assert_true(virtq_publish(&f->q));
        assert_true(driver_take(&f->d, &len) >= 0);
    }
}

static void a_saved_position_outside_of_the_ring_is_refused(void **state)
{
    struct fixture *f = *state;
    struct virtq_state bad = f->q.state;

    bad.avail_index = bad.used_index = f->q.state.size;
    assert_refused(f, &bad);
    bad.avail_index = bad.used_index = UINT16_MAX;
    assert_refused(f, &bad);
}

static void rings_may_end_where_memory_does(void **state)
{
    assert_fits(*state, RAM - 128, RAM - 4, RAM - 4);
    assert_fits_not(*state, RAM - 112, RAM - 2, RAM - 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        COMMON_TESTS,
        TEST(the_ring_is_laid_out_as_the_specification_says),
        TEST(kicks_are_asked_for_in_the_device_area),
        TEST(every_size_runs_through_its_laps),
        TEST(a_descriptor_of_another_lap_is_not_available),
        TEST(a_driver_that_laps_the_device_breaks_the_queue),
        TEST(a_chain_that_never_ends_breaks_the_queue),
        TEST(the_last_descriptor_of_a_chain_has_its_id),
        TEST(a_table_stands_alone_and_only_its_write_flags_count),
        TEST(odd_wishes_for_interrupts_are_taken_as_they_can_be),
        TEST(an_interrupt_at_a_position_of_the_next_lap_comes_there),
        TEST(a_saved_state_between_laps_goes_on_there),
        TEST(rings_may_end_where_memory_does),
        TEST(a_saved_position_outside_of_the_ring_is_refused),
    };

    format = BIT(VIRTIO_F_RING_PACKED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
