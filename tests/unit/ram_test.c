/* Where initrds and command lines go, and what is said when they or the kernel do not fit. */
#include "boot_fake.h"

#include "boot/ram.h"

#define SIZE MIB(64)

static struct mem mem;

static int setup(void **state)
{
    (void)state;
    return mem_init(&mem, SIZE, false, NULL);
}

static int teardown(void **state)
{
    (void)state;
    mem_fini(&mem);
    return 0;
}

static void low_memory_ends_where_its_region_ends(void **state)
{
    (void)state;
    assert_int_equal(ram_low_top(&mem), SIZE);
}

static void an_initrd_lies_as_high_as_it_can_on_a_page(void **state)
{
    static const uint8_t data[5000] = {1, 2, 3, [4999] = 9};
    struct err e;
    gpa_t at;

    (void)state;
    assert_int_equal(ram_place_initrd(&mem, "i", data, sizeof(data), MIB(20), 0x7fffffff, &at, &e), 0);
    assert_int_equal(at, SIZE - 8192);
    assert_memory_equal(mem_hva(&mem, at, sizeof(data)), data, sizeof(data));
}

static void an_initrd_stays_below_the_kernels_limit(void **state)
{
    static const uint8_t data[5000];
    struct err e;
    gpa_t at;

    (void)state;
    assert_int_equal(ram_place_initrd(&mem, "i", data, sizeof(data), MIB(20), MIB(32) - 1, &at, &e), 0);
    assert_int_equal(at, MIB(32) - 8192);
}

static void an_initrd_never_reaches_below_its_floor(void **state)
{
    uint8_t *data = calloc(1, MIB(8));
    struct err e;
    gpa_t at;

    (void)state;
    /* Exactly full, then one byte more. */
    assert_int_equal(ram_place_initrd(&mem, "i", data, MIB(8), SIZE - MIB(8), UINT32_MAX, &at, &e), 0);
    assert_int_equal(at, SIZE - MIB(8));
    assert_int_equal(ram_place_initrd(&mem, "i", data, MIB(8), SIZE - MIB(8) + 1, UINT32_MAX, &at, &e), -ENOMEM);
    assert_says(e, "initrd i (8 MiB)");
    assert_says(e, "--memory");
    free(data);
}

static void an_initrd_beyond_the_kernels_limit_is_refused(void **state)
{
    static const uint8_t data[8192];
    struct err e;
    gpa_t at;

    (void)state;
    assert_int_equal(ram_place_initrd(&mem, "i", data, sizeof(data), MIB(20), MIB(20) + 100, &at, &e), -EFBIG);
    assert_says(e, "larger than this kernel can take");
    assert_int_equal(ram_place_initrd(&mem, "i", data, sizeof(data), GIB(3), UINT32_MAX, &at, &e), -EFBIG);
    assert_int_equal(ram_place_initrd(&mem, "i", data, UINT64_MAX / 2, MIB(1), UINT32_MAX, &at, &e), -EFBIG);
}

static void a_command_line_is_placed_with_its_nul(void **state)
{
    struct err e;

    (void)state;
    assert_int_equal(mem_fill(&mem, BOOT_CMDLINE_GPA, 0xff, 64), 0);
    assert_int_equal(ram_place_cmdline(&mem, "a=b quiet", 9, &e), 0);
    assert_string_equal(mem_hva(&mem, BOOT_CMDLINE_GPA, 10), "a=b quiet");
}

static void a_command_line_longer_than_the_kernel_takes_is_refused(void **state)
{
    char *line = calloc(1, BOOT_CMDLINE_MAX + 1);
    struct err e;

    (void)state;
    memset(line, 'x', BOOT_CMDLINE_MAX);
    assert_int_equal(ram_place_cmdline(&mem, "a=b quiet", 8, &e), -E2BIG);
    assert_says(e, "shorten --append");
    assert_int_equal(ram_place_cmdline(&mem, line, SIZE_MAX, &e), -E2BIG);
    line[BOOT_CMDLINE_MAX - 1] = 0;
    assert_int_equal(ram_place_cmdline(&mem, line, SIZE_MAX, &e), 0);
    free(line);
}

static void a_kernel_outside_of_memory_is_told_what_helps(void **state)
{
    struct err e;

    (void)state;
    assert_int_equal(ram_holds_kernel(&mem, MIB(1), SIZE - MIB(1), "k", &e), 0);
    assert_int_equal(ram_holds_kernel(&mem, MIB(1), SIZE - MIB(1) + 1, "k", &e), -ENOMEM);
    assert_says(e, "give it at least --memory 65M");
    assert_int_equal(ram_holds_kernel(&mem, MIB(1) - 1, 16, "k", &e), -EINVAL);
    assert_says(e, "below 1 MiB");
    assert_int_equal(ram_holds_kernel(&mem, GIB(3) - 1, 2, "k", &e), -EINVAL);
    assert_int_equal(ram_holds_kernel(&mem, UINT64_MAX - 5, 5, "k", &e), -EINVAL);
    assert_says(e, "below 3 GiB");
}

static void writes_outside_of_memory_name_what_was_written(void **state)
{
    struct err e;

    (void)state;
    assert_int_equal(ram_write(&mem, SIZE - 1, "ab", 2, "the thing", &e), -EFAULT);
    assert_says(e, "the thing");
    assert_int_equal(ram_zero(&mem, SIZE - 1, 2, "the thing", &e), -EFAULT);
    assert_int_equal(ram_write(&mem, GIB(100), NULL, 0, "nothing", &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(low_memory_ends_where_its_region_ends),
        cmocka_unit_test(an_initrd_lies_as_high_as_it_can_on_a_page),
        cmocka_unit_test(an_initrd_stays_below_the_kernels_limit),
        cmocka_unit_test(an_initrd_never_reaches_below_its_floor),
        cmocka_unit_test(an_initrd_beyond_the_kernels_limit_is_refused),
        cmocka_unit_test(a_command_line_is_placed_with_its_nul),
        cmocka_unit_test(a_command_line_longer_than_the_kernel_takes_is_refused),
        cmocka_unit_test(a_kernel_outside_of_memory_is_told_what_helps),
        cmocka_unit_test(writes_outside_of_memory_name_what_was_written),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
