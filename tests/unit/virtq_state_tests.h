/* A queue of either format is enabled, reset, saved and loaded. */
#pragma once

#include "virtq_fixture.h"

/* --- enabling, reset, saved state --- */

static void only_possible_rings_can_be_enabled(void **state)
{
    struct fixture *f = *state;
    gpa_t *gpas[] = {&f->q.state.desc, &f->q.state.driver, &f->q.state.device};
    static const gpa_t bad[] = {BASE + 1, RAM, RAM - 2, UINT64_MAX - 15, BIT(63)};

    for (unsigned i = 0; i < ARRAY_SIZE(gpas); i++) {
        for (unsigned n = 0; n < ARRAY_SIZE(bad); n++) {
            virtq_reset(&f->q);
            driver_connect(&f->d, &f->q.state);
            *gpas[i] = bad[n];
            assert_int_equal(virtq_enable(&f->q, format), -EINVAL);
            assert_non_null(f->q.why);
            assert_int_equal(f->q.state.enabled, 0);
            assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
            driver_connect(&f->d, &f->q.state);
            assert_int_equal(virtq_enable(&f->q, format), 0);
            assert_null(f->q.why);
        }
    }
    virtq_reset(&f->q);
    driver_connect(&f->d, &f->q.state);
    f->q.state.device = ROM_GPA;
    assert_int_equal(virtq_enable(&f->q, format), -EINVAL);
    f->q.state.device = f->d.device;
    f->q.state.size = 0;
    assert_int_equal(virtq_enable(&f->q, format), -EINVAL);
    virtq_init(&f->q, &f->mem, 4);
    driver_connect(&f->d, &f->q.state);
    assert_int_equal(virtq_enable(&f->q, format), -EINVAL); /* 8 entries where 4 were offered */
}

static inline int enable_at(struct fixture *f, gpa_t desc, gpa_t driver, gpa_t device)
{
    virtq_reset(&f->q);
    f->q.state.size = 8;
    f->q.state.desc = desc;
    f->q.state.driver = driver;
    f->q.state.device = device;
    return virtq_enable(&f->q, format);
}

/* Rings of 8 entries, each apart, the others where they always are. */
static inline void assert_fits(struct fixture *f, gpa_t desc, gpa_t driver, gpa_t device)
{
    assert_int_equal(enable_at(f, desc, f->d.driver, f->d.device), 0);
    assert_int_equal(enable_at(f, f->d.desc, driver, f->d.device), 0);
    assert_int_equal(enable_at(f, f->d.desc, f->d.driver, device), 0);
}

static inline void assert_fits_not(struct fixture *f, gpa_t desc, gpa_t driver, gpa_t device)
{
    assert_int_equal(enable_at(f, desc, f->d.driver, f->d.device), -EINVAL);
    assert_int_equal(enable_at(f, f->d.desc, driver, f->d.device), -EINVAL);
    assert_int_equal(enable_at(f, f->d.desc, f->d.driver, device), -EINVAL);
}

static void a_queue_that_was_reset_starts_anew_with_another_size(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 5; i++)
        check_request(f, 3, 4);
    driver_request(&f->d, "x", 1, 0);
    driver_request(&f->d, "x", 1, 0);
    driver_show(&f->d);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    virtq_set_kicks(&f->q, false);
    virtq_reset(&f->q);
    assert_int_equal(f->q.in_use, 0);
    assert_int_equal(f->q.state.size, VIRTQ_SIZE_MAX);
    assert_int_equal(f->q.state.desc, 0);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
    assert_false(virtq_set_kicks(&f->q, true));
    assert_int_equal(f->q.stats.chains, 5);
    driver_init(&f->d, &f->mem, BASE + 0x8000, BYTES - 0x8000, 16, format | EVENT_IDX);
    driver_connect(&f->d, &f->q.state);
    assert_int_equal(virtq_enable(&f->q, format | EVENT_IDX), 0);
    for (unsigned i = 0; i < 40; i++)
        check_request(f, 3, 4);
    assert_int_equal(virtq_enable(&f->q, format | EVENT_IDX), 0); /* once more changes nothing */
    check_request(f, 3, 4);
}

static inline struct state_writer save(struct virtq *q)
{
    struct state_writer w;

    state_writer_init(&w);
    assert_int_equal(virtq_save(q, &w), 0);
    return w;
}

static inline int load(struct virtq *q, uint64_t features, const struct state_writer *w)
{
    struct state_reader r;
    struct err e = {{0}};
    int rc;

    state_reader_init(&r, w->data, w->len);
    rc = virtq_load(q, features, &r, &e);
    if (rc) {
        assert_int_equal(rc, -EINVAL);
        assert_true(strlen(e.text) > 10);
    }
    return rc;
}

static void a_saved_queue_goes_on_in_another(void **state)
{
    struct fixture *f = *state;

    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        uint64_t features = format | (event_idx ? EVENT_IDX : 0);

        start(f, 8, features);
        for (unsigned i = 0; i < 50; i++) {
            struct state_writer w, again;
            uint32_t len;

            f->d.piece = 0;
            check_request(f, 4, 5);
            driver_request(&f->d, "abc", 3, 0);
            driver_show(&f->d);
            if (i & 1)
                virtq_set_kicks(&f->q, false);
            w = save(&f->q);
            virtq_init(&f->q, &f->mem, VIRTQ_SIZE_MAX);
            assert_int_equal(load(&f->q, features, &w), 0);
            again = save(&f->q);
            assert_int_equal(again.len, w.len);
            assert_memory_equal(again.data, w.data, w.len);
            state_writer_fini(&again);
            state_writer_fini(&w);
            assert_int_equal(f->q.state.kicks_off, i & 1);
            serve(f, 0);
            assert_true(virtq_publish(&f->q));
            assert_true(driver_take(&f->d, &len) >= 0);
            virtq_set_kicks(&f->q, true);
        }
    }
}

static void a_queue_that_is_off_or_broken_is_saved_too(void **state)
{
    struct fixture *f = *state;
    struct state_writer w;

    add(f, RAM, 1, false);
    driver_show(&f->d);
    assert_breaks(f);
    w = save(&f->q);
    virtq_init(&f->q, &f->mem, VIRTQ_SIZE_MAX);
    assert_int_equal(load(&f->q, format, &w), 0);
    assert_breaks(f);
    state_writer_fini(&w);

    virtq_reset(&f->q);
    f->q.state.size = 999;
    f->q.state.desc = 0x1234567890;
    w = save(&f->q);
    start(f, 8, 0);
    assert_int_equal(load(&f->q, format, &w), 0);
    assert_int_equal(f->q.state.enabled, 0);
    assert_int_equal(f->q.state.size, 999);
    assert_int_equal(f->q.state.desc, 0x1234567890);
    assert_null(f->q.desc_hva);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
    state_writer_fini(&w);
}

/* Saves what no queue would and expects that it is refused, with the queue as before. */
static inline void assert_refused(struct fixture *f, const struct virtq_state *bad)
{
    struct virtq odd = f->q, before = f->q;
    struct state_writer w;

    odd.state = *bad;
    state_writer_init(&w);
    /* As virtq_save(), which would not take it when something seems to be unpublished. */
    odd.state.published_index = odd.state.used_index;
    odd.state.published_wrap = odd.state.used_wrap;
    assert_int_equal(virtq_save(&odd, &w), 0);
    assert_int_equal(load(&f->q, format, &w), -EINVAL);
    assert_memory_equal(&f->q, &before, sizeof(before));
    state_writer_fini(&w);
}

static void a_saved_state_that_no_queue_can_have_is_refused(void **state)
{
    struct fixture *f = *state;
    struct virtq_state good, bad;

    check_request(f, 4, 5);
    good = f->q.state;
#define WITH(...)                                                                                                                          \
    do {                                                                                                                                   \
        bad = good;                                                                                                                        \
        __VA_ARGS__;                                                                                                                       \
        assert_refused(f, &bad);                                                                                                           \
    } while (0)
    WITH(bad.max_size = 8);
    WITH(bad.size = 0);
    WITH(bad.size = VIRTQ_SIZE_MAX * 2);
    WITH(bad.enabled = 2);
    WITH(bad.broken = 2);
    WITH(bad.kicks_off = 2);
    WITH(bad.desc = RAM);
    WITH(bad.desc += 1);
    WITH(bad.driver = UINT64_MAX - 3);
    WITH(bad.device = ROM_GPA);
    WITH(bad.avail_index++);
    WITH(bad.used_index++);
    WITH(bad.avail_wrap = 2, bad.used_wrap = 2);
    WITH(bad.used_wrap ^= 1);
    WITH(bad.enabled = 0);
    WITH(bad.enabled = 0, bad.avail_index = bad.used_index = 0, bad.broken = 1);
    WITH(bad.enabled = 0, bad.avail_index = bad.used_index = 0, bad.kicks_off = 1);
    WITH(bad.enabled = 0, bad.avail_index = bad.used_index = 0, bad.avail_wrap = bad.used_wrap = 0);
    check_request(f, 4, 5);
}

#define STATE_TESTS                                                                                                                        \
    TEST(only_possible_rings_can_be_enabled), TEST(a_queue_that_was_reset_starts_anew_with_another_size),                                  \
        TEST(a_saved_queue_goes_on_in_another), TEST(a_queue_that_is_off_or_broken_is_saved_too),                                          \
        TEST(a_saved_state_that_no_queue_can_have_is_refused)
