/* Chains of a queue of either format: what the device sees of them, and what a driver must not do. */
#pragma once

#include "virtq_fixture.h"

/* --- chains --- */

static void a_request_goes_out_and_its_answer_comes_back(void **state)
{
    static const uint32_t lens[][2] = {{1, 0}, {0, 2}, {5, 6}, {60, 0}, {0, 100}, {33, 44}, {100, 100}};
    struct fixture *f = *state;

    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        for (unsigned indirect = DRIVER_DIRECT; indirect <= DRIVER_MIXED_TABLE; indirect++) {
            if (indirect == DRIVER_MIXED_TABLE && format)
                continue;
            start(f, 64, INDIRECT | (event_idx ? EVENT_IDX : 0));
            f->d.indirect = indirect;
            for (unsigned i = 0; i < 40 * ARRAY_SIZE(lens); i++) {
                f->d.piece = i % 3 ? 3 + i : 0;
                check_request(f, lens[i % ARRAY_SIZE(lens)][0], lens[i % ARRAY_SIZE(lens)][1]);
            }
        }
    }
}

static void segments_are_where_the_driver_put_them(void **state)
{
    struct virtq_segment segs[] = {{FREE_GPA, 1}, {FREE_GPA + 0x1ffff, 77}, {RAM - 1, 1}, {0, 4096}};
    struct fixture *f = *state;

    driver_add(&f->d, segs, 2, 2);
    driver_show(&f->d);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    assert_int_equal(f->chain.readable, 2);
    assert_int_equal(f->chain.writable, 2);
    for (unsigned i = 0; i < ARRAY_SIZE(segs); i++) {
        assert_int_equal(f->chain.gpas[i], segs[i].gpa);
        assert_int_equal(f->chain.iov[i].iov_len, segs[i].len);
        assert_ptr_equal(f->chain.iov[i].iov_base, f->mem.base + segs[i].gpa);
    }
    assert_int_equal(f->chain.writable_len, 4097);
}

static void descriptors_without_a_byte_are_left_out(void **state)
{
    struct virtq_segment segs[] = {{UINT64_MAX, 0}, {FREE_GPA, 3}, {0, 0}, {FREE_GPA, 4}, {RAM, 0}};
    struct fixture *f = *state;
    int token = driver_add(&f->d, segs, 3, 2), empty = add(f, 0, 0, false);
    uint32_t len;

    driver_show(&f->d);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    assert_int_equal(f->chain.readable, 1);
    assert_int_equal(f->chain.writable, 1);
    assert_int_equal(f->chain.readable_len, 3);
    assert_int_equal(f->chain.writable_len, 4);
    virtq_push(&f->q, &f->chain, 4);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    assert_int_equal(f->chain.readable + f->chain.writable, 0);
    virtq_push(&f->q, &f->chain, 0);
    virtq_publish(&f->q);
    assert_int_equal(driver_take(&f->d, &len), token);
    assert_int_equal(driver_take(&f->d, &len), empty);
}

static void a_chain_may_be_as_long_as_the_queue_and_no_longer(void **state)
{
    static const uint16_t sizes[] = {1, 2, 8, 1024};
    struct fixture *f = *state;
    struct virtq_segment segs[VIRTQ_SIZE_MAX + 1];

    for (unsigned i = 0; i < ARRAY_SIZE(segs); i++)
        segs[i] = (struct virtq_segment){FREE_GPA + i, 1};
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        start(f, sizes[i], INDIRECT);
        for (unsigned n = 0; n < 3; n++) {
            uint32_t len;

            f->d.indirect = n & 1 && sizes[i] < 1024 ? DRIVER_TABLE : DRIVER_DIRECT;
            assert_true(driver_add(&f->d, segs, 0, sizes[i]) >= 0);
            driver_show(&f->d);
            serve(f, sizes[i]);
            assert_true(virtq_publish(&f->q));
            assert_true(driver_take(&f->d, &len) >= 0);
            assert_int_equal(len, sizes[i]);
        }
        start(f, sizes[i], INDIRECT);
        f->d.indirect = DRIVER_TABLE;
        f->d.area_bytes = 32768;
        driver_add(&f->d, segs, 0, sizes[i] + 1U);
        driver_show(&f->d);
        assert_breaks(f);
    }
}

static void a_popped_chain_can_be_given_back(void **state)
{
    static const uint16_t sizes[] = {4, 8, 64};
    struct fixture *f = *state;
    struct virtq_chain second;
    uint32_t len;

    assert_int_equal(virtq_chain_init(&second, &f->q), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        start(f, sizes[i], EVENT_IDX);
        f->d.piece = 2;
        for (unsigned n = 0; n < 50; n++) {
            int a = driver_request(&f->d, "abc", 3, 0), b = driver_request(&f->d, "d", 1, 0);

            driver_show(&f->d);
            assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
            virtq_unpop(&f->q, &f->chain);
            assert_int_equal(f->q.in_use, 0);
            assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
            assert_int_equal(virtq_pop(&f->q, &second), 1);
            assert_int_equal(second.id, b);
            virtq_unpop(&f->q, &second);
            virtq_unpop(&f->q, &f->chain);
            serve(f, 0);
            assert_int_equal(f->chain.id, a);
            assert_int_equal(f->chain.readable_len, 3);
            serve(f, 0);
            virtq_publish(&f->q);
            assert_int_equal(driver_take(&f->d, &len), a);
            assert_int_equal(driver_take(&f->d, &len), b);
            assert_int_equal(driver_take(&f->d, &len), DRIVER_NONE);
        }
    }
    virtq_chain_fini(&second);
}

static void several_used_chains_appear_at_once_and_in_any_order(void **state)
{
    struct fixture *f = *state;
    struct virtq_chain chains[3];
    uint32_t len;

    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(virtq_chain_init(&chains[i], &f->q), 0);
    for (unsigned n = 0; n < 20; n++) {
        int token[3];

        for (unsigned i = 0; i < 3; i++)
            token[i] = driver_request(&f->d, NULL, 0, 10);
        driver_show(&f->d);
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(virtq_pop(&f->q, &chains[i]), 1);
        assert_int_equal(f->q.in_use, 3);
        for (unsigned i = 3; i-- > 0;) {
            virtq_push(&f->q, &chains[i], i + 1);
            assert_int_equal(driver_take(&f->d, &len), DRIVER_NONE);
        }
        assert_true(virtq_publish(&f->q));
        assert_false(virtq_publish(&f->q));
        for (unsigned i = 3; i-- > 0;) {
            assert_int_equal(driver_take(&f->d, &len), token[i]);
            assert_int_equal(len, i + 1);
        }
    }
    assert_int_equal(f->q.stats.chains, 60);
    assert_int_equal(f->q.stats.bytes_written, 120);
    assert_int_equal(f->q.stats.interrupts, 20);
    for (unsigned i = 0; i < 3; i++)
        virtq_chain_fini(&chains[i]);
}

static inline void on_change(void *opaque, gpa_t gpa, size_t len)
{
    struct fixture *f = opaque;

    f->changed[f->changes % ARRAY_SIZE(f->changed)].gpa = gpa;
    f->changed[f->changes % ARRAY_SIZE(f->changed)].len = len;
    f->changed[f->changes++ % ARRAY_SIZE(f->changed)].shown = driver_has_used(&f->d);
}

static inline bool was_changed(const struct fixture *f, gpa_t gpa, size_t len, bool shown)
{
    for (unsigned i = 0; i < f->changes; i++)
        if (f->changed[i].gpa <= gpa && gpa + len <= f->changed[i].gpa + f->changed[i].len && f->changed[i].shown == shown)
            return true;
    return false;
}

static void the_engine_learns_of_written_bytes_before_the_driver(void **state)
{
    struct virtq_segment segs[] = {{FREE_GPA, 8}, {FREE_GPA + 0x1000, 100}, {FREE_GPA + 0x2000, 100}, {FREE_GPA + 0x3000, 100}};
    struct fixture *f = *state;

    f->mem.code_changed = on_change;
    f->mem.code_changed_opaque = f;
    driver_add(&f->d, segs, 1, 3);
    driver_show(&f->d);
    serve(f, 150);
    assert_true(was_changed(f, FREE_GPA + 0x1000, 100, false));
    assert_true(was_changed(f, FREE_GPA + 0x2000, 50, false));
    assert_false(was_changed(f, FREE_GPA + 0x2032, 1, false));
    assert_false(was_changed(f, FREE_GPA, 1, false));
    f->changes = 0;
    virtq_publish(&f->q);
    assert_true(f->changes > 0); /* the ring itself */
    assert_false(was_changed(f, FREE_GPA + 0x1000, 1, true));
    f->mem.code_changed = NULL;
}

/* --- what a driver must not do --- */

static void a_buffer_outside_of_memory_breaks_the_queue(void **state)
{
    static const struct {
        gpa_t gpa;
        uint32_t len;
        bool writable, fine;
    } rows[] = {
        {RAM, 1, false, false},        {RAM - 4, 5, true, false},          {RAM - 4, 4, true, true},
        {UINT64_MAX, 1, false, false}, {UINT64_MAX - 15, 32, true, false}, {0, UINT32_MAX, true, false},
        {0, RAM, true, true},          {ROM_GPA, 16, true, false},         {ROM_GPA, 16, false, true},
        {BIT(63), 16, false, false},
    };
    struct fixture *f = *state;

    for (unsigned indirect = 0; indirect < 2; indirect++) {
        for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
            start(f, 8, INDIRECT);
            f->d.indirect = indirect ? DRIVER_TABLE : DRIVER_DIRECT;
            add(f, rows[i].gpa, rows[i].len, rows[i].writable);
            driver_show(&f->d);
            if (rows[i].fine)
                assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
            else
                assert_breaks(f);
        }
    }
}

static void a_readable_buffer_behind_a_writable_one_breaks_the_queue(void **state)
{
    struct virtq_segment segs[] = {{FREE_GPA, 8}, {FREE_GPA, 8}, {FREE_GPA, 8}};
    struct fixture *f = *state;
    struct driver_desc *last;

    driver_add(&f->d, segs, 1, 2);
    last = driver_desc_at(&f->d, 2);
    if (format)
        last->packed_flags &= (uint16_t)~DRIVER_WRITE;
    else
        last->flags &= (uint16_t)~DRIVER_WRITE;
    driver_show(&f->d);
    assert_breaks(f);
}

static void a_chain_of_four_gigabytes_breaks_the_queue(void **state)
{
    struct virtq_segment segs[512];
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(segs); i++)
        segs[i] = (struct virtq_segment){0, RAM};
    for (unsigned n = 255; n <= 257; n++) {
        start(f, 512, 0);
        driver_add(&f->d, segs, n / 2, n - n / 2);
        driver_show(&f->d);
        if (n == 255)
            assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
        else
            assert_breaks(f);
    }
}

static void indirect_tables_must_be_agreed_on_and_be_whole(void **state)
{
    static const struct {
        uint64_t features;
        gpa_t gpa;
        uint32_t len;
        bool fine;
    } rows[] = {
        {INDIRECT, FREE_GPA, 16, true},      {0, FREE_GPA, 16, false},        {INDIRECT, FREE_GPA, 0, false},
        {INDIRECT, FREE_GPA, 15, false},     {INDIRECT, FREE_GPA, 17, false}, {INDIRECT, RAM - 8, 16, false},
        {INDIRECT, FREE_GPA + 3, 16, true},  {INDIRECT, RAM, 16, false},      {INDIRECT, UINT64_MAX - 15, 16, false},
        {INDIRECT, ROM_GPA + 32, 16, false}, /* readable, but what it says is a buffer outside of memory */
    };
    struct driver_desc entry = {.addr = FREE_GPA, .len = 5}, bad = {.addr = RAM, .len = 5};
    struct fixture *f = *state;

    memcpy(f->mem.base + 32, &bad, sizeof(bad)); /* ROM_GPA's bytes are those of page 0 */
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct driver_desc *desc;

        if (rows[i].fine)
            assert_int_equal(mem_write(&f->mem, rows[i].gpa, &entry, sizeof(entry)), 0);
        start(f, 8, rows[i].features);
        add(f, rows[i].gpa, rows[i].len, false);
        driver_show(&f->d);
        desc = driver_desc_at(&f->d, 0);
        if (format)
            desc->packed_flags |= DRIVER_INDIRECT | DRIVER_WRITE;
        else
            desc->flags |= DRIVER_INDIRECT | DRIVER_WRITE;
        if (!rows[i].fine) {
            assert_breaks(f);
            continue;
        }
        assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
        assert_int_equal(f->chain.readable_len, 5);
        assert_int_equal(f->chain.writable, 0);
    }
}

static void what_was_popped_before_the_driver_broke_the_rules_can_be_pushed(void **state)
{
    struct fixture *f = *state;
    struct virtq_chain chain;
    uint32_t len;
    int token = driver_request(&f->d, NULL, 0, 4);

    add(f, RAM, 1, false);
    driver_show(&f->d);
    assert_int_equal(virtq_chain_init(&chain, &f->q), 0);
    assert_int_equal(virtq_pop(&f->q, &chain), 1);
    assert_breaks(f);
    virtq_push(&f->q, &chain, 4);
    assert_true(virtq_publish(&f->q));
    assert_int_equal(driver_take(&f->d, &len), token);
    assert_int_equal(f->q.in_use, 0);
    assert_false(virtq_set_kicks(&f->q, true));
    virtq_reset(&f->q);
    assert_int_equal(f->q.state.broken, 0);
    assert_null(f->q.why);
    virtq_chain_fini(&chain);
}

#define CHAIN_TESTS                                                                                                                        \
    TEST(a_request_goes_out_and_its_answer_comes_back), TEST(segments_are_where_the_driver_put_them),                                      \
        TEST(descriptors_without_a_byte_are_left_out), TEST(a_chain_may_be_as_long_as_the_queue_and_no_longer),                            \
        TEST(a_popped_chain_can_be_given_back), TEST(several_used_chains_appear_at_once_and_in_any_order),                                 \
        TEST(the_engine_learns_of_written_bytes_before_the_driver), TEST(a_buffer_outside_of_memory_breaks_the_queue),                     \
        TEST(a_readable_buffer_behind_a_writable_one_breaks_the_queue), TEST(a_chain_of_four_gigabytes_breaks_the_queue),                  \
        TEST(indirect_tables_must_be_agreed_on_and_be_whole), TEST(what_was_popped_before_the_driver_broke_the_rules_can_be_pushed)
