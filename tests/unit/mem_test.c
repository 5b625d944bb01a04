/* Guest memory: where it lies, what is outside of it, and who is told when it is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem/mem.h"

struct notice {
    unsigned calls;
    gpa_t first, gpa;
    size_t len, total;
};

static void on_change(void *opaque, gpa_t gpa, size_t len)
{
    struct notice *n = opaque;

    if (n->calls++ == 0)
        n->first = gpa;
    n->gpa = gpa;
    n->len = len;
    n->total += len;
}

static void listen_to(struct mem *m, struct notice *n)
{
    *n = (struct notice){0};
    m->code_changed = on_change;
    m->code_changed_opaque = n;
}

static void memory_up_to_3_gib_is_one_region_at_0(void **state)
{
    const uint64_t sizes[] = {PAGE_SIZE, MIB(2), GIB(3) - PAGE_SIZE, GIB(3)};
    struct mem m;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        assert_int_equal(mem_init(&m, sizes[i], false, NULL), 0);
        assert_int_equal(m.region_count, 1);
        assert_true(m.regions[0].gpa == 0 && m.regions[0].size == sizes[i] && m.regions[0].hva == m.base);
        assert_true(m.page_count == sizes[i] / PAGE_SIZE && m.size == sizes[i]);
        assert_int_equal(m.fd, -1);
        mem_fini(&m);
        assert_null(m.base);
    }
}

static void the_rest_lies_at_4_gib_and_pages_are_numbered_densely(void **state)
{
    struct mem m;
    const struct mem_region *low, *high;

    (void)state;
    assert_int_equal(mem_init(&m, GIB(3) + MIB(5), false, NULL), 0);
    assert_int_equal(m.region_count, 2);
    low = mem_find(&m, GIB(3) - 1);
    high = mem_find(&m, GIB(4));
    assert_ptr_equal(low, &m.regions[0]);
    assert_ptr_equal(high, &m.regions[1]);
    assert_true(high->size == MIB(5) && high->hva == m.base + GIB(3));
    assert_true(low->first_page == 0 && high->first_page == GIB(3) / PAGE_SIZE);
    assert_true(m.page_count == (GIB(3) + MIB(5)) / PAGE_SIZE);
    assert_null(mem_find(&m, GIB(3)));
    assert_null(mem_find(&m, GIB(4) - 1));
    assert_ptr_equal(mem_find(&m, GIB(4) + MIB(5) - 1), high);
    assert_null(mem_find(&m, GIB(4) + MIB(5)));
    assert_null(mem_find(&m, UINT64_MAX));
    mem_fini(&m);
}

static void a_size_that_is_no_number_of_pages_is_refused(void **state)
{
    const uint64_t sizes[] = {0, 1, PAGE_SIZE - 1, MIB(2) + 512};
    struct mem m;
    struct err e;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        e.text[0] = '\0';
        assert_int_equal(mem_init(&m, sizes[i], false, &e), -EINVAL);
        assert_true(e.text[0] != '\0');
        assert_null(m.base);
        mem_fini(&m);
    }
}

static void more_than_the_host_can_map_is_refused_and_leaves_nothing(void **state)
{
    struct mem m;
    struct err e;

    (void)state;
    for (int shared = 0; shared < 2; shared++) {
        e.text[0] = '\0';
        assert_true(mem_init(&m, BIT(62), shared, &e) < 0);
        assert_non_null(strstr(e.text, "memory"));
        assert_null(m.base);
        assert_int_equal(m.fd, -1);
        mem_fini(&m);
    }
}

static void an_address_is_given_only_for_what_lies_whole_in_a_region(void **state)
{
    struct mem m;

    (void)state;
    assert_int_equal(mem_init(&m, MIB(2), false, NULL), 0);
    assert_ptr_equal(mem_hva(&m, 0, MIB(2)), m.base);
    assert_ptr_equal(mem_hva(&m, MIB(2) - 1, 1), m.base + MIB(2) - 1);
    assert_null(mem_hva(&m, MIB(2) - 1, 2));
    assert_null(mem_hva(&m, 0, MIB(2) + 1));
    assert_null(mem_hva(&m, MIB(2), 1));
    assert_null(mem_hva(&m, 0, SIZE_MAX));
    assert_null(mem_hva(&m, PAGE_SIZE, SIZE_MAX));
    assert_null(mem_hva(&m, UINT64_MAX, 1));
    assert_null(mem_hva(&m, UINT64_MAX - 7, 16));
    mem_fini(&m);
}

static void copies_are_all_or_nothing(void **state)
{
    const char text[] = "sixteen bytes ok";
    char back[16] = {0}, untouched[16];
    struct mem m;

    (void)state;
    memset(untouched, 0x77, sizeof(untouched));
    assert_int_equal(mem_init(&m, MIB(2), false, NULL), 0);
    assert_int_equal(mem_write(&m, MIB(2) - 16, text, 16), 0);
    assert_int_equal(mem_read(&m, MIB(2) - 16, back, 16), 0);
    assert_memory_equal(back, text, 16);

    assert_int_equal(mem_fill(&m, 0, 0x11, MIB(2)), 0);
    assert_int_equal(mem_write(&m, MIB(2) - 8, text, 16), -EFAULT);
    assert_int_equal(mem_fill(&m, MIB(2) - 8, 0x22, 16), -EFAULT);
    assert_int_equal(m.base[MIB(2) - 8], 0x11);
    memcpy(back, untouched, 16);
    assert_int_equal(mem_read(&m, MIB(2) - 8, back, 16), -EFAULT);
    assert_memory_equal(back, untouched, 16);
    assert_int_equal(mem_read(&m, UINT64_MAX - 3, back, 16), -EFAULT);
    assert_int_equal(mem_write(&m, UINT64_MAX - 3, back, 16), -EFAULT);
    assert_int_equal(mem_fill(&m, 0, 0, SIZE_MAX), -EFAULT);
    mem_fini(&m);
}

static void no_bytes_are_copied_anywhere(void **state)
{
    struct mem m;
    struct notice n;

    (void)state;
    assert_int_equal(mem_init(&m, PAGE_SIZE, false, NULL), 0);
    listen_to(&m, &n);
    assert_int_equal(mem_read(&m, GIB(5), NULL, 0), 0);
    assert_int_equal(mem_write(&m, GIB(5), NULL, 0), 0);
    assert_int_equal(mem_fill(&m, GIB(5), 0, 0), 0);
    assert_int_equal(n.calls, 0);
    mem_fini(&m);
}

/* Regions that touch are made by hand: today's two have a hole between them. */
static void a_copy_crosses_from_region_to_region(void **state)
{
    struct mem m;
    struct notice n;
    const uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    uint8_t back[8];

    (void)state;
    assert_int_equal(mem_init(&m, 2 * PAGE_SIZE, false, NULL), 0);
    /* The second page lies first. */
    m.regions[0] = (struct mem_region){.gpa = PAGE_SIZE, .size = PAGE_SIZE, .hva = m.base};
    m.regions[1] = (struct mem_region){.gpa = 0, .size = PAGE_SIZE, .hva = m.base + PAGE_SIZE, .first_page = 1};
    m.region_count = 2;
    listen_to(&m, &n);
    assert_int_equal(mem_write(&m, PAGE_SIZE - 3, bytes, 8), 0);
    assert_memory_equal(m.base + 2 * PAGE_SIZE - 3, bytes, 3);
    assert_memory_equal(m.base, bytes + 3, 5);
    assert_int_equal(n.total, 8);
    assert_true(n.first == PAGE_SIZE - 3 && n.gpa == PAGE_SIZE && n.len == 5);
    assert_int_equal(mem_read(&m, PAGE_SIZE - 3, back, 8), 0);
    assert_memory_equal(back, bytes, 8);
    assert_null(mem_hva(&m, PAGE_SIZE - 3, 8));
    assert_int_equal(mem_fill(&m, PAGE_SIZE - 2, 9, 4), 0);
    assert_int_equal(m.base[2 * PAGE_SIZE - 1], 9);
    assert_int_equal(m.base[1], 9);
    assert_int_equal(m.base[2], 6);
    mem_fini(&m);
}

static void a_read_only_region_is_read_and_not_written(void **state)
{
    struct mem m;
    struct notice n;
    uint8_t byte = 1;

    (void)state;
    assert_int_equal(mem_init(&m, 2 * PAGE_SIZE, false, NULL), 0);
    m.regions[0].flags = MEM_READONLY;
    listen_to(&m, &n);
    assert_int_equal(mem_read(&m, 5, &byte, 1), 0);
    assert_int_equal(byte, 0);
    assert_int_equal(mem_write(&m, 5, &byte, 1), -EFAULT);
    assert_int_equal(mem_fill(&m, 5, 1, 1), -EFAULT);
    assert_int_equal(n.calls, 0);
    mem_fini(&m);
}

static void writes_are_told_and_reads_are_not(void **state)
{
    struct mem m;
    struct notice n;
    uint8_t bytes[100] = {0};

    (void)state;
    assert_int_equal(mem_init(&m, MIB(2), false, NULL), 0);
    listen_to(&m, &n);
    assert_int_equal(mem_read(&m, 0x1000, bytes, sizeof(bytes)), 0);
    assert_int_equal(n.calls, 0);
    assert_int_equal(mem_write(&m, 0x1fff, bytes, sizeof(bytes)), 0);
    assert_int_equal(n.calls, 1);
    assert_true(n.gpa == 0x1fff && n.len == sizeof(bytes));
    assert_int_equal(mem_fill(&m, 0x3000, 0xcc, 0x2001), 0);
    assert_int_equal(n.calls, 2);
    assert_true(n.gpa == 0x3000 && n.len == 0x2001);
    assert_int_equal(mem_write(&m, MIB(2), bytes, 1), -EFAULT);
    assert_int_equal(n.calls, 2);
    mem_fini(&m);
}

static void clearing_brings_zeros_back_and_is_told(void **state)
{
    struct mem m;
    struct notice n;

    (void)state;
    for (int shared = 0; shared < 2; shared++) {
        assert_int_equal(mem_init(&m, MIB(4), shared, NULL), 0);
        assert_int_equal(mem_fill(&m, 0, 0xaa, MIB(4)), 0);
        listen_to(&m, &n);
        mem_clear(&m);
        assert_int_equal(n.total, MIB(4));
        for (uint64_t i = 0; i < MIB(4); i++)
            assert_int_equal(m.base[i], 0);
        mem_fini(&m);
    }
}

static void shared_memory_is_seen_through_its_descriptor(void **state)
{
    struct mem m;
    uint8_t *other;

    (void)state;
    assert_int_equal(mem_init(&m, MIB(2), true, NULL), 0);
    assert_true(m.fd >= 0);
    other = mmap(NULL, MIB(2), PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0);
    assert_ptr_not_equal(other, MAP_FAILED);
    assert_int_equal(mem_write(&m, 0x12345, "x", 1), 0);
    assert_int_equal(other[0x12345], 'x');
    other[0x54321] = 'y';
    assert_int_equal(*(uint8_t *)mem_hva(&m, 0x54321, 1), 'y');
    munmap(other, MIB(2));
    mem_fini(&m);
    assert_int_equal(m.fd, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_up_to_3_gib_is_one_region_at_0),
        cmocka_unit_test(the_rest_lies_at_4_gib_and_pages_are_numbered_densely),
        cmocka_unit_test(a_size_that_is_no_number_of_pages_is_refused),
        cmocka_unit_test(more_than_the_host_can_map_is_refused_and_leaves_nothing),
        cmocka_unit_test(an_address_is_given_only_for_what_lies_whole_in_a_region),
        cmocka_unit_test(copies_are_all_or_nothing),
        cmocka_unit_test(no_bytes_are_copied_anywhere),
        cmocka_unit_test(a_copy_crosses_from_region_to_region),
        cmocka_unit_test(a_read_only_region_is_read_and_not_written),
        cmocka_unit_test(writes_are_told_and_reads_are_not),
        cmocka_unit_test(clearing_brings_zeros_back_and_is_told),
        cmocka_unit_test(shared_memory_is_seen_through_its_descriptor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
