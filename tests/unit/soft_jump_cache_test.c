/* Jump caches: what is found until when, and where an entry that nobody made leads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "engine/soft/cache.h"
#include "engine/soft/shadow.h"

#define WAY_OUT ((uint64_t)(uintptr_t)(code + 0x40)) /* executable */

struct fixture {
    uint8_t *front, *tables;
    struct soft_cache cache;
    struct jump_cache jc[JUMP_CACHES];
};

static uint8_t code[0x100], writable[0x100];

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    if (!f)
        return -1;
    f->front = mmap(NULL, SHADOW_FRONT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->front == MAP_FAILED)
        return -1;
    f->tables = f->front + SHADOW_FRONT;
    f->cache.mem.rx = code;
    f->cache.mem.rw = writable;
    f->cache.exit_next = writable + 0x40;
    for (unsigned k = 0; k < JUMP_CACHES; k++)
        assert_int_equal(jump_cache_init(&f->jc[k], k, f->tables, &f->cache, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    for (unsigned k = 0; k < JUMP_CACHES; k++)
        jump_cache_fini(&f->jc[k]);
    munmap(f->front, SHADOW_FRONT);
    free(f);
    return 0;
}

/* A block by the number of its dispatch. */
static struct block block(unsigned n)
{
    return (struct block){.dispatch = (uint8_t *)(uintptr_t)(0x10000 + n)};
}

static void add(struct jump_cache *jc, uint64_t rip, unsigned n)
{
    struct block b = block(n);

    jump_cache_add(jc, rip, &b);
}

static void expect(const struct jump_cache *jc, uint64_t rip, unsigned n)
{
    assert_ptr_equal(jump_cache_find(jc, rip), n ? block(n).dispatch : NULL);
}

/* Addresses that an entry which was never made might be taken for, among others. */
static const uint64_t addresses[] = {
    0, 1, 2, 3, 0x1000, 2 * JUMP_ENTRIES, 2 * JUMP_ENTRIES + 2, 0x400001, 0x7fffffffffff, 0xffffffff81000000, UINT64_MAX};

static void an_empty_cache_has_nothing(void **state)
{
    struct fixture *f = *state;

    for (unsigned k = 0; k < JUMP_CACHES; k++)
        for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++)
            expect(&f->jc[k], addresses[i], 0);
}

static void what_was_added_is_found_until_a_flush(void **state)
{
    struct fixture *f = *state;

    for (unsigned again = 0; again < 2; again++)
        for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++) {
            add(&f->jc[3], addresses[i], i + 1);
            expect(&f->jc[3], addresses[i], i + 1);
            expect(&f->jc[2], addresses[i], 0);
            expect(&f->jc[4], addresses[i], 0);
            add(&f->jc[3], addresses[i], i + 2); /* another block has taken its place */
            expect(&f->jc[3], addresses[i], i + 2);
            jump_cache_flush(&f->jc[3]);
            assert_int_equal(f->jc[3].filled_count, 0);
            for (unsigned k = 0; k < ARRAY_SIZE(addresses); k++)
                expect(&f->jc[3], addresses[k], 0);
        }
}

static void an_entry_is_for_one_address(void **state)
{
    static const uint64_t same[] = {0x1000, 0x1001, 0x1000 + 2 * JUMP_ENTRIES, 0x1001 + 2 * JUMP_ENTRIES};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(same); i++) {
        add(&f->jc[0], same[i], i + 1);
        for (unsigned k = 0; k < ARRAY_SIZE(same); k++)
            expect(&f->jc[0], same[k], k == i ? i + 1 : 0);
    }
    assert_int_equal(f->jc[0].filled_count, 1);
    jump_cache_flush(&f->jc[0]);
    for (unsigned k = 0; k < ARRAY_SIZE(same); k++)
        expect(&f->jc[0], same[k], 0);
}

static void a_cache_may_be_full(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < JUMP_ENTRIES; i++)
        add(&f->jc[7], 2 * i, 1);
    for (unsigned i = 0; i < JUMP_ENTRIES; i++)
        if (!jump_cache_find(&f->jc[7], 2 * i))
            fail_msg("entry %u was lost", i);
    for (unsigned i = 0; i < 10; i++)
        add(&f->jc[7], 2 * (JUMP_ENTRIES + i), 2);
    for (unsigned i = 0; i < 10; i++)
        expect(&f->jc[7], 2 * (JUMP_ENTRIES + i), 2);
    jump_cache_flush(&f->jc[7]);
    for (unsigned i = 0; i < JUMP_ENTRIES + 10; i++)
        if (jump_cache_find(&f->jc[7], 2 * i))
            fail_msg("%u was found", 2 * i);
}

/* --- returns --- */

static unsigned lead_out(const struct jump_cache *jc)
{
    unsigned n = 0;

    for (unsigned i = 0; i < RETURN_ENTRIES; i++)
        n += jc->returns[i].code == WAY_OUT;
    return n;
}

/* As a call in translated code does. */
static void enter_returns(struct jump_cache *jc)
{
    for (unsigned i = 0; i < RETURN_ENTRIES; i++)
        jc->returns[i] = (struct jump_entry){.tag = 0x400000 + i, .code = 0x20000 + i};
}

/* The tag may be what it likes: a return to address 0 comes upon an empty entry's code. */
static void a_return_that_nobody_entered_leads_out(void **state)
{
    struct fixture *f = *state;

    for (unsigned k = 0; k < JUMP_CACHES; k++)
        assert_int_equal(lead_out(&f->jc[k]), RETURN_ENTRIES);
}

static void a_flush_empties_the_returns(void **state)
{
    struct fixture *f = *state;

    for (unsigned k = 0; k < JUMP_CACHES; k++)
        enter_returns(&f->jc[k]);
    for (unsigned k = 0; k < JUMP_CACHES; k++) {
        assert_int_equal(lead_out(&f->jc[k]), 0); /* the flushes before were none of its */
        jump_cache_flush(&f->jc[k]);              /* though nothing was ever added */
        assert_int_equal(lead_out(&f->jc[k]), RETURN_ENTRIES);
        for (unsigned i = 0; i < RETURN_ENTRIES; i++)
            assert_int_equal(f->jc[k].returns[i].tag, 0);
    }
    enter_returns(&f->jc[5]);
    for (unsigned i = 0; i <= JUMP_ENTRIES; i++)
        add(&f->jc[5], 2 * i, 1);
    assert_int_equal(lead_out(&f->jc[5]), RETURN_ENTRIES); /* the flush of a full cache is one */
}

/* All lie in front of the tables, and none in another. */
static void caches_have_memory_of_their_own(void **state)
{
    struct fixture *f = *state;

    for (unsigned k = 0; k < JUMP_CACHES; k++) {
        const uint8_t *entries = (const uint8_t *)f->jc[k].entries, *returns = (const uint8_t *)f->jc[k].returns;

        assert_ptr_equal(entries, f->tables + JUMP_CACHE_DISP(k));
        assert_ptr_equal(returns, f->tables + RETURN_CACHE_DISP(k));
        assert_true(returns >= f->front && returns < entries);
        assert_ptr_equal(entries + JUMP_CACHE_BYTES, k + 1 < JUMP_CACHES ? (const uint8_t *)f->jc[k + 1].entries : f->tables);
        assert_ptr_equal(returns + RETURN_CACHE_BYTES,
                         k + 1 < JUMP_CACHES ? (const uint8_t *)f->jc[k + 1].returns : (const uint8_t *)f->jc[0].entries);
    }
}

#define JUMP_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        JUMP_TEST(an_empty_cache_has_nothing),
        JUMP_TEST(what_was_added_is_found_until_a_flush),
        JUMP_TEST(an_entry_is_for_one_address),
        JUMP_TEST(a_cache_may_be_full),
        JUMP_TEST(a_return_that_nobody_entered_leads_out),
        JUMP_TEST(a_flush_empties_the_returns),
        JUMP_TEST(caches_have_memory_of_their_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
