/* Split virtqueues: what holds for every queue, and their own tables, indexes and flags. */
#include "virtq_tests.h"

static uint16_t *avail_index(struct fixture *f)
{
    return driver_at(&f->d, f->d.driver + 2);
}

static void the_rings_are_laid_out_as_the_specification_says(void **state)
{
    struct fixture *f = *state;
    const uint8_t *used = driver_at(&f->d, f->d.device);
    uint32_t entry[2];
    int token;

    add(f, FREE_GPA, 1, true);
    driver_show(&f->d);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    token = add(f, FREE_GPA, 9, true);
    driver_show(&f->d);
    serve(f, 7);
    memcpy(entry, used + 4, sizeof(entry));
    assert_int_equal(entry[0], token);
    assert_int_equal(entry[1], 7);
    assert_int_equal(used[2], 0);
    virtq_publish(&f->q);
    assert_int_equal(used[2], 1);
    virtq_set_kicks(&f->q, false);
    assert_int_equal(used[0], 1);
    virtq_set_kicks(&f->q, true);
    assert_int_equal(used[0], 0);
}

static void an_index_that_jumps_by_more_than_the_queue_holds_breaks_it(void **state)
{
    struct fixture *f = *state;

    start(f, 8, 0);
    *avail_index(f) = 8;
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    start(f, 8, 0);
    *avail_index(f) = 9;
    assert_breaks(f);
    start(f, 8, 0);
    *avail_index(f) = 0xffff;
    assert_breaks(f);
    /* What is out counts, until the driver has been shown it back. */
    start(f, 8, 0);
    *avail_index(f) = 3;
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    virtq_push(&f->q, &f->chain, 0);
    *avail_index(f) = 9;
    assert_breaks(f);
    start(f, 8, 0);
    *avail_index(f) = 3;
    serve(f, 0);
    virtq_publish(&f->q);
    *avail_index(f) = 9;
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
}

static void no_more_chains_are_out_than_the_queue_has_entries(void **state)
{
    struct fixture *f = *state;

    *avail_index(f) = 8;
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
    *avail_index(f) = 9;
    assert_breaks(f);
    assert_int_equal(f->q.in_use, 8);
}

static void a_head_or_next_outside_of_its_table_breaks_the_queue(void **state)
{
    struct virtq_segment segs[] = {{FREE_GPA, 8}, {FREE_GPA, 8}, {FREE_GPA, 8}};
    struct fixture *f = *state;
    struct driver_desc entry = {.addr = FREE_GPA, .len = 5, {.flags = DRIVER_NEXT}, {.next = 3}};

    driver_add(&f->d, segs, 3, 0);
    driver_put16(&f->d, f->d.driver + 4, 8);
    driver_show(&f->d);
    assert_breaks(f);
    start(f, 8, 0);
    driver_add(&f->d, segs, 3, 0);
    driver_desc_at(&f->d, 1)->next = 8;
    driver_show(&f->d);
    assert_breaks(f);
    start(f, 8, INDIRECT);
    f->d.indirect = DRIVER_TABLE;
    driver_add(&f->d, segs, 3, 0);
    assert_int_equal(mem_write(&f->mem, driver_area(&f->d, 0) + 16, &entry, sizeof(entry)), 0);
    driver_show(&f->d);
    assert_breaks(f);
}

static void a_loop_breaks_the_queue(void **state)
{
    struct virtq_segment segs[] = {{FREE_GPA, 8}, {FREE_GPA, 0}, {FREE_GPA, 8}};
    struct fixture *f = *state;
    struct driver_desc entry = {.addr = FREE_GPA, .len = 0, {.flags = DRIVER_NEXT}, {.next = 0}};

    for (uint16_t to = 0; to < 3; to++) {
        start(f, 8, 0);
        driver_add(&f->d, segs, 3, 0);
        driver_desc_at(&f->d, 2)->flags |= DRIVER_NEXT;
        driver_desc_at(&f->d, 2)->next = to;
        driver_show(&f->d);
        assert_breaks(f);
    }
    start(f, 8, INDIRECT);
    f->d.indirect = DRIVER_TABLE;
    driver_add(&f->d, segs, 3, 0);
    assert_int_equal(mem_write(&f->mem, driver_area(&f->d, 0), &entry, sizeof(entry)), 0);
    driver_show(&f->d);
    assert_breaks(f);
}

static void an_indirect_table_ends_the_chain_and_holds_no_other(void **state)
{
    struct virtq_segment segs[] = {{FREE_GPA, 8}, {FREE_GPA, 8}, {FREE_GPA, 8}};
    struct fixture *f = *state;
    struct driver_desc *desc;

    start(f, 8, INDIRECT);
    f->d.indirect = DRIVER_MIXED_TABLE;
    driver_add(&f->d, segs, 1, 2);
    driver_show(&f->d);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    assert_int_equal(f->chain.readable, 1);
    assert_int_equal(f->chain.writable, 2);

    start(f, 8, INDIRECT);
    f->d.indirect = DRIVER_MIXED_TABLE;
    driver_add(&f->d, segs, 1, 2);
    driver_desc_at(&f->d, 1)->flags |= DRIVER_NEXT; /* to the queue's descriptor 0 */
    driver_show(&f->d);
    assert_breaks(f);

    start(f, 8, INDIRECT);
    f->d.indirect = DRIVER_TABLE;
    driver_add(&f->d, segs, 1, 2);
    *(struct driver_desc *)driver_at(&f->d, FREE_GPA) = (struct driver_desc){.addr = FREE_GPA, .len = 5};
    desc = driver_at(&f->d, driver_area(&f->d, 0) + 16);
    *desc = (struct driver_desc){.addr = FREE_GPA, .len = 16, {.flags = DRIVER_INDIRECT}};
    driver_show(&f->d);
    assert_breaks(f);
}

static void rings_may_end_where_memory_does(void **state)
{
    assert_fits(*state, RAM - 128, RAM - 22, RAM - 72);
    assert_fits_not(*state, RAM - 112, RAM - 20, RAM - 68);
}

static void indexes_run_through_all_their_65536_values(void **state)
{
    struct fixture *f = *state;
    unsigned interrupts = 0;
    uint32_t len;

    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        start(f, 4, event_idx ? EVENT_IDX : 0);
        for (unsigned i = 0; i < 70000; i++) {
            int token = driver_request(&f->d, "x", 1, 0);

            assert_true(driver_show(&f->d));
            serve(f, 0);
            assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
            interrupts += virtq_publish(&f->q);
            assert_int_equal(driver_take(&f->d, &len), token);
        }
    }
    assert_int_equal(interrupts, 140000);
}

static void a_size_that_is_no_power_of_two_is_refused(void **state)
{
    struct fixture *f = *state;

    for (uint16_t size = 1; size <= 64; size++) {
        virtq_reset(&f->q);
        driver_connect(&f->d, &f->q.state);
        f->q.state.size = size;
        assert_int_equal(virtq_enable(&f->q, format), size & (size - 1) ? -EINVAL : 0);
    }
}

static void a_saved_state_with_the_wraps_of_a_packed_one_is_refused(void **state)
{
    struct fixture *f = *state;
    struct virtq_state bad = f->q.state;

    bad.avail_wrap = bad.used_wrap = 0;
    assert_refused(f, &bad);
    bad = f->q.state;
    bad.size = 9;
    assert_refused(f, &bad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        COMMON_TESTS,
        TEST(the_rings_are_laid_out_as_the_specification_says),
        TEST(an_index_that_jumps_by_more_than_the_queue_holds_breaks_it),
        TEST(no_more_chains_are_out_than_the_queue_has_entries),
        TEST(a_head_or_next_outside_of_its_table_breaks_the_queue),
        TEST(a_loop_breaks_the_queue),
        TEST(an_indirect_table_ends_the_chain_and_holds_no_other),
        TEST(indexes_run_through_all_their_65536_values),
        TEST(rings_may_end_where_memory_does),
        TEST(a_size_that_is_no_power_of_two_is_refused),
        TEST(a_saved_state_with_the_wraps_of_a_packed_one_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
