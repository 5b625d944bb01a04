/* What must hold for a queue of either format: included by the test of each, whose main() says which. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>

#include "virtq_driver.h"

#define RAM MIB(16)
#define BASE 0x10000
#define BYTES MIB(8)
#define FREE_GPA (BASE + BYTES) /* nothing of the driver's is from here on */
#define ROM_GPA 0xf0000000ULL

#define EVENT_IDX BIT(VIRTIO_F_EVENT_IDX)
#define INDIRECT BIT(VIRTIO_F_INDIRECT_DESC)

static uint64_t format; /* the feature bits that make it */

struct fixture {
    struct mem mem;
    struct virtq q;
    struct virtq_driver d;
    struct virtq_chain chain;
    /* What code_changed was told, and what the driver was shown at that time. */
    struct {
        gpa_t gpa;
        size_t len;
        bool shown;
    } changed[64];
    unsigned changes;
};

static void on_change(void *opaque, gpa_t gpa, size_t len)
{
    struct fixture *f = opaque;

    f->changed[f->changes % ARRAY_SIZE(f->changed)].gpa = gpa;
    f->changed[f->changes % ARRAY_SIZE(f->changed)].len = len;
    f->changed[f->changes++ % ARRAY_SIZE(f->changed)].shown = driver_has_used(&f->d);
}

/* A fresh queue, enabled. */
static void start(struct fixture *f, uint16_t size, uint64_t features)
{
    virtq_init(&f->q, &f->mem, VIRTQ_SIZE_MAX);
    driver_init(&f->d, &f->mem, BASE, BYTES, size, format | features);
    driver_connect(&f->d, &f->q.state);
    assert_int_equal(virtq_enable(&f->q, format | features), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    assert_non_null(f);
    assert_int_equal(mem_init(&f->mem, RAM, false, &e), 0);
    f->mem.regions[f->mem.region_count++] = (struct mem_region){
        .gpa = ROM_GPA, .size = PAGE_SIZE, .hva = f->mem.base, .flags = MEM_READONLY};
    start(f, 8, 0);
    assert_int_equal(virtq_chain_init(&f->chain, &f->q), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    virtq_chain_fini(&f->chain);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

static int add(struct fixture *f, gpa_t gpa, uint32_t len, bool writable)
{
    struct virtq_segment seg = {gpa, len};

    return driver_add(&f->d, &seg, !writable, writable);
}

/* Pops one and uses it. */
static void serve(struct fixture *f, uint32_t written)
{
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    virtq_push(&f->q, &f->chain, written);
}

static void assert_breaks(struct fixture *f)
{
    unsigned in_use = f->q.in_use;

    assert_int_equal(virtq_pop(&f->q, &f->chain), -EINVAL);
    assert_int_equal(f->q.state.broken, 1);
    assert_non_null(f->q.why);
    assert_int_equal(f->q.in_use, in_use);
    assert_int_equal(virtq_pop(&f->q, &f->chain), -EINVAL);
}

/* --- chains --- */

static void check_request(struct fixture *f, uint32_t out_len, uint32_t in_len)
{
    uint8_t out[100], seen[101], answer[100];
    uint32_t len = 0;
    int token;

    for (unsigned i = 0; i < sizeof(out); i++) {
        out[i] = (uint8_t)(i * 7 + out_len);
        answer[i] = (uint8_t)(i * 5 + in_len);
    }
    token = driver_request(&f->d, out, out_len, in_len);
    assert_true(token >= 0);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
    assert_true(driver_show(&f->d));
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    assert_int_equal(f->q.in_use, 1);
    assert_int_equal(f->chain.readable_len, out_len);
    assert_int_equal(f->chain.writable_len, in_len);
    assert_int_equal(virtq_read(&f->chain, 0, seen, sizeof(seen)), out_len);
    assert_memory_equal(seen, out, out_len);
    if (out_len > 3) {
        assert_int_equal(virtq_read(&f->chain, 3, seen, 1), 1);
        assert_int_equal(seen[0], out[3]);
    }
    assert_int_equal(virtq_read(&f->chain, out_len, seen, 1), 0);
    if (in_len > 1) {
        assert_int_equal(virtq_write(&f->chain, 1, answer + 1, sizeof(answer)), in_len - 1);
        assert_int_equal(driver_in(&f->d, token)[0], DRIVER_FILL);
        assert_int_equal(virtq_write(&f->chain, 0, answer, 1), 1);
    }
    virtq_push(&f->q, &f->chain, in_len > 1 ? in_len : 0);
    assert_int_equal(f->q.in_use, 0);
    assert_int_equal(driver_take(&f->d, &len), DRIVER_NONE);
    assert_true(virtq_publish(&f->q));
    assert_int_equal(driver_take(&f->d, &len), token);
    assert_int_equal(len, in_len > 1 ? in_len : 0);
    if (in_len > 1)
        assert_memory_equal(driver_in(&f->d, token), answer, in_len);
    assert_int_equal(driver_take(&f->d, &len), DRIVER_NONE);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
}

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

static bool was_changed(const struct fixture *f, gpa_t gpa, size_t len, bool shown)
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

/* --- notifications --- */

static void a_driver_kicks_when_kicks_are_on_and_the_device_has_seen_all(void **state)
{
    struct fixture *f = *state;

    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        start(f, 8, event_idx ? EVENT_IDX : 0);
        for (unsigned i = 0; i < 100; i++) {
            uint32_t len;

            driver_request(&f->d, "x", 1, 0);
            assert_true(driver_show(&f->d));
            assert_false(virtq_set_kicks(&f->q, false));
            driver_request(&f->d, "x", 1, 0);
            assert_false(driver_show(&f->d));
            serve(f, 0);
            assert_true(virtq_set_kicks(&f->q, true)); /* the second one came without a kick */
            serve(f, 0);
            assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
            assert_false(virtq_set_kicks(&f->q, false));
            assert_int_equal(virtq_pop(&f->q, &f->chain), 0); /* does not turn them on */
            driver_request(&f->d, "x", 1, 0);
            assert_false(driver_show(&f->d));
            serve(f, 0);
            assert_false(virtq_set_kicks(&f->q, true));
            virtq_publish(&f->q);
            for (unsigned n = 0; n < 3; n++)
                assert_true(driver_take(&f->d, &len) >= 0);
        }
    }
}

static void event_idx_saves_kicks_for_what_the_device_has_not_come_to(void **state)
{
    struct fixture *f = *state;

    start(f, 8, EVENT_IDX);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
    driver_request(&f->d, "x", 1, 0);
    assert_true(driver_show(&f->d));
    driver_request(&f->d, "x", 1, 0);
    assert_false(driver_show(&f->d));
    serve(f, 0);
    driver_request(&f->d, "x", 1, 0);
    assert_false(driver_show(&f->d));
    serve(f, 0);
    serve(f, 0);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
    driver_request(&f->d, "x", 1, 0);
    assert_true(driver_show(&f->d));
}

static void interrupts_come_when_the_driver_wants_them(void **state)
{
    struct fixture *f = *state;
    uint32_t len;

    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        start(f, 8, event_idx ? EVENT_IDX : 0);
        for (unsigned i = 0; i < 100; i++) {
            driver_set_interrupts(&f->d, false);
            for (unsigned n = 0; n < 3; n++)
                driver_request(&f->d, "x", 1, 0);
            driver_show(&f->d);
            serve(f, 0);
            assert_false(virtq_publish(&f->q));
            assert_true(driver_set_interrupts(&f->d, true)); /* that one was used meanwhile */
            assert_true(driver_take(&f->d, &len) >= 0);
            assert_false(driver_set_interrupts(&f->d, true));
            serve(f, 0);
            serve(f, 0);
            assert_true(virtq_publish(&f->q));
            assert_true(driver_take(&f->d, &len) >= 0);
            assert_true(driver_take(&f->d, &len) >= 0);
        }
        assert_int_equal(f->q.stats.interrupts, 100);
        assert_int_equal(f->q.stats.interrupts_suppressed, 100);
    }
}

static void event_idx_asks_for_an_interrupt_some_chains_on(void **state)
{
    struct fixture *f = *state;
    uint32_t len;

    for (unsigned ahead = 0; ahead < 6; ahead++) {
        start(f, 8, EVENT_IDX);
        f->d.interrupts = false;
        for (unsigned round = 0; round < 40; round++) {
            driver_interrupt_after(&f->d, (uint16_t)ahead);
            for (unsigned n = 0; n < 7; n++)
                driver_request(&f->d, "x", 1, 0);
            driver_show(&f->d);
            for (unsigned n = 0; n < 7; n++) {
                serve(f, 0);
                assert_int_equal(virtq_publish(&f->q), n == ahead);
            }
            for (unsigned n = 0; n < 7; n++)
                assert_true(driver_take(&f->d, &len) >= 0);
        }
    }
}

/* --- a long run, and one with threads --- */

static uint32_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(*seed >> 33);
}

struct busy {
    struct fixture *f;
    struct virtq_chain out[32];
    unsigned popped;
    uint32_t sum[VIRTQ_SIZE_MAX]; /* of the bytes of each token's request */
    uint64_t seed;
    bool kicked, interrupted;
    unsigned done;
};

static void busy_driver(struct busy *b)
{
    struct fixture *f = b->f;
    unsigned n = next_random(&b->seed) % 4;
    uint8_t bytes[64];
    uint32_t len;
    int token;

    while (n--) {
        unsigned out_len = 1 + next_random(&b->seed) % sizeof(bytes);
        uint32_t sum = 0;

        for (unsigned i = 0; i < out_len; i++)
            sum += bytes[i] = (uint8_t)next_random(&b->seed);
        f->d.piece = next_random(&b->seed) % 3 ? 0 : 32 + next_random(&b->seed) % 16;
        f->d.indirect = next_random(&b->seed) % (format ? 2 : 3);
        token = driver_request(&f->d, bytes, out_len, 4);
        if (token < 0)
            break;
        b->sum[token] = sum;
    }
    if (driver_show(&f->d))
        b->kicked = true;
    if (!b->interrupted)
        return;
    b->interrupted = false;
    driver_set_interrupts(&f->d, false);
    do {
        while ((token = driver_take(&f->d, &len)) >= 0) {
            uint32_t answer;

            memcpy(&answer, driver_in(&f->d, token), 4);
            assert_int_equal(len, 4);
            assert_int_equal(answer, b->sum[token]);
            b->done++;
        }
        assert_int_equal(token, DRIVER_NONE);
    } while (driver_set_interrupts(&f->d, true));
}

static void busy_push(struct busy *b)
{
    unsigned which = next_random(&b->seed) % b->popped;
    struct virtq_chain chain = b->out[which];
    uint8_t bytes[64];
    size_t len = virtq_read(&chain, 0, bytes, sizeof(bytes));
    uint32_t sum = 0;

    for (size_t i = 0; i < len; i++)
        sum += bytes[i];
    assert_int_equal(virtq_write(&chain, 0, &sum, 4), 4);
    virtq_push(&b->f->q, &chain, 4);
    b->out[which] = b->out[--b->popped];
    b->out[b->popped] = chain;
}

static void busy_device(struct busy *b)
{
    struct virtq *q = &b->f->q;

    while (b->kicked && b->popped < ARRAY_SIZE(b->out)) {
        int rc;

        if (next_random(&b->seed) % 4 == 0)
            virtq_set_kicks(q, false);
        rc = virtq_pop(q, &b->out[b->popped]);
        assert_true(rc >= 0);
        if (rc == 0) {
            b->kicked = virtq_set_kicks(q, true);
        } else if (next_random(&b->seed) % 8 == 0) {
            virtq_unpop(q, &b->out[b->popped]);
        } else {
            b->popped++;
        }
    }
    for (unsigned n = next_random(&b->seed) % 5; n && b->popped; n--)
        busy_push(b);
    if (virtq_publish(q))
        b->interrupted = true;
    assert_int_equal(q->in_use, b->popped);
}

/* Each side acts only when it was woken: a kick or an interrupt too few would end the run. */
static void nothing_is_lost_in_a_long_random_run(void **state)
{
    struct fixture *f = *state;
    uint64_t first_seed = 1;

    for (unsigned n = 0; n < 40; n++, first_seed++) {
        const uint16_t sizes[] = {4, 16, 64, 256, format ? 5 : 8, format ? 37 : 32};
        struct busy *b = calloc(1, sizeof(*b));

        assert_non_null(b);
        b->f = f;
        b->seed = first_seed;
        start(f, sizes[n % ARRAY_SIZE(sizes)], INDIRECT | (n & 1 ? EVENT_IDX : 0));
        for (unsigned i = 0; i < ARRAY_SIZE(b->out); i++)
            assert_int_equal(virtq_chain_init(&b->out[i], &f->q), 0);
        for (unsigned i = 0; i < 4000; i++) {
            busy_driver(b);
            busy_device(b);
        }
        if (b->done < 2000)
            fail_msg("seed %llu: only %u requests were done", (unsigned long long)first_seed, b->done);
        for (unsigned i = 0; i < ARRAY_SIZE(b->out); i++)
            virtq_chain_fini(&b->out[i]);
        free(b);
    }
}

#define THREAD_REQUESTS 20000U

struct threads {
    struct fixture *f;
    sem_t kick, interrupt;
};

static void *device_thread(void *opaque)
{
    struct threads *t = opaque;
    struct virtq *q = &t->f->q;
    unsigned served = 0;

    while (served < THREAD_REQUESTS) {
        sem_wait(&t->kick);
        do {
            virtq_set_kicks(q, false);
            while (virtq_pop(q, &t->f->chain) == 1) {
                uint32_t value = 0;

                virtq_read(&t->f->chain, 0, &value, 4);
                value ^= 0x55aa55aa;
                virtq_write(&t->f->chain, 0, &value, 4);
                virtq_push(q, &t->f->chain, 4);
                served++;
                if (served % 3 == 0 && virtq_publish(q))
                    sem_post(&t->interrupt);
            }
            if (virtq_publish(q))
                sem_post(&t->interrupt);
        } while (virtq_set_kicks(q, true));
    }
    return NULL;
}

/* Two threads that sleep until they are woken: with a barrier too few this hangs, sooner or later. */
static void threads_do_not_sleep_through_each_others_work(void **state)
{
    struct fixture *f = *state;
    struct threads t = {.f = f};

    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        unsigned sent = 0, done = 0;
        pthread_t thread;
        uint32_t sums[16];

        start(f, 16, event_idx ? EVENT_IDX : 0);
        sem_init(&t.kick, 0, 0);
        sem_init(&t.interrupt, 0, 0);
        assert_int_equal(pthread_create(&thread, NULL, device_thread, &t), 0);
        while (done < THREAD_REQUESTS) {
            uint32_t len, answer;
            int token;

            while (sent < THREAD_REQUESTS && (token = driver_request(&f->d, &sent, 4, 4)) >= 0)
                sums[token] = sent++ ^ 0x55aa55aaU;
            if (driver_show(&f->d))
                sem_post(&t.kick);
            if (!driver_set_interrupts(&f->d, true))
                sem_wait(&t.interrupt);
            driver_set_interrupts(&f->d, false);
            while ((token = driver_take(&f->d, &len)) >= 0) {
                memcpy(&answer, driver_in(&f->d, token), 4);
                assert_int_equal(answer, sums[token]);
                done++;
            }
        }
        pthread_join(thread, NULL);
        sem_destroy(&t.kick);
        sem_destroy(&t.interrupt);
        assert_int_equal(f->q.stats.chains, THREAD_REQUESTS);
    }
}

#define DUEL_ROUNDS 60000U

struct duel {
    struct fixture *f;
    unsigned ready, prepared, started, finished; /* rounds; atomic */
    unsigned popped;
    bool device_saw;
};

static void tell(unsigned *where, unsigned round)
{
    __atomic_store_n(where, round, __ATOMIC_RELEASE);
}

static void wait_for(const unsigned *where, unsigned round)
{
    while (__atomic_load_n(where, __ATOMIC_ACQUIRE) != round)
        sched_yield();
}

/* In turns: an entry is shown while the driver asks for interrupts, and kicks are asked for while the driver shows a chain. */
static void *duel_device(void *opaque)
{
    struct duel *duel = opaque;
    struct virtq *q = &duel->f->q;

    for (unsigned round = 1; round <= DUEL_ROUNDS; round++) {
        wait_for(&duel->ready, round);
        if (round % 2 == 0) {
            virtq_set_kicks(q, false);
        } else if (virtq_pop(q, &duel->f->chain) == 1) {
            duel->popped++;
            virtq_push(q, &duel->f->chain, 0);
        }
        tell(&duel->prepared, round);
        wait_for(&duel->started, round);
        duel->device_saw = round % 2 ? virtq_publish(q) : virtq_set_kicks(q, true);
        tell(&duel->finished, round);
    }
    return NULL;
}

/* Returns whether one of them saw the other. */
static bool duel_round(struct duel *duel, unsigned round)
{
    struct virtq_driver *d = &duel->f->d;
    bool driver_saw;
    uint32_t len;

    if (round % 2)
        driver_set_interrupts(d, false);
    else
        driver_request(d, "x", 1, 0);
    tell(&duel->ready, round);
    wait_for(&duel->prepared, round);
    tell(&duel->started, round);
    for (volatile unsigned wait = round / 2 % 128; wait; wait--) /* the moments shift against each other */
        ;
    driver_saw = round % 2 ? driver_set_interrupts(d, true) : driver_show(d);
    wait_for(&duel->finished, round);
    if (round % 2)
        driver_take(d, &len);
    return driver_saw || duel->device_saw;
}

/* Both tell and then look at the same time: if neither saw the other, both would go to sleep. */
static void one_side_always_sees_the_other(void **state)
{
    struct fixture *f = *state;

    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        struct duel duel = {.f = f};
        unsigned missed = 0;
        pthread_t thread;

        start(f, 4, event_idx ? EVENT_IDX : 0);
        driver_request(&f->d, "x", 1, 0);
        driver_show(&f->d);
        assert_int_equal(pthread_create(&thread, NULL, duel_device, &duel), 0);
        for (unsigned round = 1; round <= DUEL_ROUNDS; round++)
            missed += !duel_round(&duel, round);
        pthread_join(thread, NULL);
        assert_int_equal(duel.popped, DUEL_ROUNDS / 2);
        assert_int_equal(f->q.stats.chains, DUEL_ROUNDS / 2);
        assert_int_equal(missed, 0);
    }
}

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

static int enable_at(struct fixture *f, gpa_t desc, gpa_t driver, gpa_t device)
{
    virtq_reset(&f->q);
    f->q.state.size = 8;
    f->q.state.desc = desc;
    f->q.state.driver = driver;
    f->q.state.device = device;
    return virtq_enable(&f->q, format);
}

/* Rings of 8 entries, each apart, the others where they always are. */
static void assert_fits(struct fixture *f, gpa_t desc, gpa_t driver, gpa_t device)
{
    assert_int_equal(enable_at(f, desc, f->d.driver, f->d.device), 0);
    assert_int_equal(enable_at(f, f->d.desc, driver, f->d.device), 0);
    assert_int_equal(enable_at(f, f->d.desc, f->d.driver, device), 0);
}

static void assert_fits_not(struct fixture *f, gpa_t desc, gpa_t driver, gpa_t device)
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

static struct state_writer save(struct virtq *q)
{
    struct state_writer w;

    state_writer_init(&w);
    assert_int_equal(virtq_save(q, &w), 0);
    return w;
}

static int load(struct virtq *q, uint64_t features, const struct state_writer *w)
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
static void assert_refused(struct fixture *f, const struct virtq_state *bad)
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

#define COMMON_TESTS                                                                                                                       \
    TEST(a_request_goes_out_and_its_answer_comes_back), TEST(segments_are_where_the_driver_put_them),                                      \
        TEST(descriptors_without_a_byte_are_left_out), TEST(a_chain_may_be_as_long_as_the_queue_and_no_longer),                            \
        TEST(a_popped_chain_can_be_given_back), TEST(several_used_chains_appear_at_once_and_in_any_order),                                 \
        TEST(the_engine_learns_of_written_bytes_before_the_driver), TEST(a_buffer_outside_of_memory_breaks_the_queue),                     \
        TEST(a_readable_buffer_behind_a_writable_one_breaks_the_queue), TEST(a_chain_of_four_gigabytes_breaks_the_queue),                  \
        TEST(indirect_tables_must_be_agreed_on_and_be_whole), TEST(what_was_popped_before_the_driver_broke_the_rules_can_be_pushed),       \
        TEST(a_driver_kicks_when_kicks_are_on_and_the_device_has_seen_all),                                                                \
        TEST(event_idx_saves_kicks_for_what_the_device_has_not_come_to), TEST(interrupts_come_when_the_driver_wants_them),                 \
        TEST(event_idx_asks_for_an_interrupt_some_chains_on), TEST(nothing_is_lost_in_a_long_random_run),                                  \
        TEST(threads_do_not_sleep_through_each_others_work), TEST(one_side_always_sees_the_other),                                         \
        TEST(only_possible_rings_can_be_enabled), TEST(a_queue_that_was_reset_starts_anew_with_another_size),                              \
        TEST(a_saved_queue_goes_on_in_another), TEST(a_queue_that_is_off_or_broken_is_saved_too),                                          \
        TEST(a_saved_state_that_no_queue_can_have_is_refused)

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
