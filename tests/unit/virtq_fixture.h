/* A virtqueue of either format with its driver: what its tests share. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
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

/* A fresh queue, enabled. */
static inline void start(struct fixture *f, uint16_t size, uint64_t features)
{
    virtq_init(&f->q, &f->mem, VIRTQ_SIZE_MAX);
    driver_init(&f->d, &f->mem, BASE, BYTES, size, format | features);
    driver_connect(&f->d, &f->q.state);
    assert_int_equal(virtq_enable(&f->q, format | features), 0);
}

static inline int setup(void **state)
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

static inline int teardown(void **state)
{
    struct fixture *f = *state;

    virtq_chain_fini(&f->chain);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

static inline int add(struct fixture *f, gpa_t gpa, uint32_t len, bool writable)
{
    struct virtq_segment seg = {gpa, len};

    return driver_add(&f->d, &seg, !writable, writable);
}

/* Pops one and uses it. */
static inline void serve(struct fixture *f, uint32_t written)
{
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    virtq_push(&f->q, &f->chain, written);
}

static inline void assert_breaks(struct fixture *f)
{
    unsigned in_use = f->q.in_use;

    assert_int_equal(virtq_pop(&f->q, &f->chain), -EINVAL);
    assert_int_equal(f->q.state.broken, 1);
    assert_non_null(f->q.why);
    assert_int_equal(f->q.in_use, in_use);
    assert_int_equal(virtq_pop(&f->q, &f->chain), -EINVAL);
}

static inline void check_request(struct fixture *f, uint32_t out_len, uint32_t in_len)
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
