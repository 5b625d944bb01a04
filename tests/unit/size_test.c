/* Sizes as people write them, there and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "config/options.h"

static void sizes_are_read_with_and_without_a_unit(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {{"0", 0},
                 {"1", 1},
                 {"4096", 4096},
                 {"0512", 512},
                 {"2048K", MIB(2)},
                 {"512M", MIB(512)},
                 {"512m", MIB(512)},
                 {"1G", GIB(1)},
                 {"3k", KIB(3)},
                 {"2t", GIB(2048)},
                 {"16777215T", 16777215ULL << 40},
                 {"18446744073709551615", UINT64_MAX}};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t bytes = 0;

        assert_int_equal(config_parse_size(cases[i].text, &bytes), 0);
        assert_true(bytes == cases[i].bytes);
    }
}

static void what_is_no_size_is_refused_and_changes_nothing(void **state)
{
    static const char *const none[] = {"",    "M",    "-1",   "+1",  " 1", "1 ", "1MB", "1MiB",
                                       "1 M", "0x10", "1.5G", "1e9", "1P", "K1", "ten", "1K1"};
    static const char *const beyond[] = {"18446744073709551616", "99999999999999999999999999", "16777216T", "17179869184G",
                                         "18014398509481984K"};
    uint64_t bytes = 12345;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(none); i++)
        assert_int_equal(config_parse_size(none[i], &bytes), -EINVAL);
    for (unsigned i = 0; i < ARRAY_SIZE(beyond); i++)
        assert_int_equal(config_parse_size(beyond[i], &bytes), -ERANGE);
    assert_true(bytes == 12345);
}

static void sizes_are_written_in_the_largest_unit_that_divides_them(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {{0, "0"},
                 {1, "1"},
                 {1023, "1023"},
                 {1024, "1K"},
                 {1025, "1025"},
                 {MIB(512), "512M"},
                 {GIB(1), "1G"},
                 {GIB(1536), "1536G"},
                 {GIB(2048), "2T"},
                 {UINT64_MAX, "18446744073709551615"},
                 {BIT(63), "8388608T"}};
    char buf[CONFIG_SIZE_TEXT];

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
        assert_string_equal(config_size_text(cases[i].bytes, buf), cases[i].text);
}

static void what_is_written_reads_the_same(void **state)
{
    char buf[CONFIG_SIZE_TEXT];

    (void)state;
    for (unsigned shift = 0; shift < 64; shift++)
        for (uint64_t factor = 1; factor < 2000; factor += 37) {
            uint64_t bytes = factor << shift, back = ~bytes;

            assert_int_equal(config_parse_size(config_size_text(bytes, buf), &back), 0);
            assert_true(back == bytes);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_read_with_and_without_a_unit),
        cmocka_unit_test(what_is_no_size_is_refused_and_changes_nothing),
        cmocka_unit_test(sizes_are_written_in_the_largest_unit_that_divides_them),
        cmocka_unit_test(what_is_written_reads_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
