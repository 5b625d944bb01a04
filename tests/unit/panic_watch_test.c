/* The watch for the kernel's last words: found however the bytes come, and nothing else is taken for them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "machine/panic_watch.h"

#define START "---[ end Kernel panic - not syncing"

static bool feed(struct panic_watch *w, const char *text, char why[PANIC_LINE_MAX])
{
    return panic_watch_feed(w, (const uint8_t *)text, strlen(text), why);
}

static void assert_found(const char *text, const char *expected)
{
    struct panic_watch w = {0};
    char why[PANIC_LINE_MAX] = "";

    assert_true(feed(&w, text, why));
    assert_string_equal(why, expected);
}

static void assert_not_found(const char *text)
{
    struct panic_watch w = {0};
    char why[PANIC_LINE_MAX] = "untouched";

    assert_false(feed(&w, text, why));
    assert_string_equal(why, "untouched");
}

static void the_line_gives_the_reason(void **state)
{
    (void)state;
    assert_found(START ": VFS: Unable to mount root fs on unknown-block(0,0) ]---\n", "VFS: Unable to mount root fs on unknown-block(0,0)");
    assert_found(START ": Attempted to kill init! exitcode=0x00000100 ]---\r\n", "Attempted to kill init! exitcode=0x00000100");
}

static void a_time_stamp_may_stand_before_it(void **state)
{
    (void)state;
    assert_found("[    1.234567] " START ": oops ]---\n", "oops");
    assert_found("[12345.678901] " START ": oops ]---\n", "oops");
    assert_not_found("[ a 1.234567] " START ": oops ]---\n");
    assert_not_found("[    1.234567]" START ": oops ]---\n");
}

static void a_panic_without_a_reason_is_one(void **state)
{
    (void)state;
    assert_found(START " ]---\n", "");
    assert_found(START ":  ]---\n", "");
}

static void the_first_line_of_a_panic_is_not_the_last(void **state)
{
    (void)state;
    assert_not_found("Kernel panic - not syncing: oops\n");
    assert_not_found("---[ end trace 0000000000000000 ]---\n");
    assert_not_found("# echo '" START ": oops ]---'\n");
}

static void an_unfinished_line_waits_for_its_end(void **state)
{
    struct panic_watch w = {0};
    char why[PANIC_LINE_MAX];

    (void)state;
    assert_false(feed(&w, START ": oops ]---", why));
    assert_true(feed(&w, "\n", why));
    assert_string_equal(why, "oops");
}

static void it_is_found_byte_by_byte_among_other_lines(void **state)
{
    static const char text[] = "hello\n\n[    0.5] Kernel panic - not syncing: a\r\n[    0.6] " START ": a b ]---\r\nmore\n";
    struct panic_watch w = {0};
    char why[PANIC_LINE_MAX] = "";
    unsigned found = 0;

    (void)state;
    for (const char *p = text; *p; p++)
        found += panic_watch_feed(&w, (const uint8_t *)p, 1, why);
    assert_int_equal(found, 1);
    assert_string_equal(why, "a b");
}

static void nul_bytes_do_not_hide_it(void **state)
{
    static const char text[] = "\0---[ end Kernel\0 panic - not syncing: oops ]---\n";
    struct panic_watch w = {0};
    char why[PANIC_LINE_MAX];

    (void)state;
    assert_true(panic_watch_feed(&w, (const uint8_t *)text, sizeof(text) - 1, why));
    assert_string_equal(why, "oops");
}

static void the_longest_line_that_fits_is_seen_whole(void **state)
{
    char text[PANIC_LINE_MAX + 1];
    struct panic_watch w = {0};
    char why[PANIC_LINE_MAX];

    (void)state;
    memset(text, 'w', sizeof(text));
    memcpy(text, START ": ", sizeof(START ": ") - 1);
    text[PANIC_LINE_MAX - 1] = '\n';
    assert_true(panic_watch_feed(&w, (const uint8_t *)text, PANIC_LINE_MAX, why));
    assert_int_equal(strlen(why), PANIC_LINE_MAX - 1 - strlen(START ": "));
}

/* panic() itself formats the reason into 1024 bytes; printk cuts its lines at about as many. */
static void a_longer_line_is_a_panic_too_with_its_reason_cut(void **state)
{
    char text[1024];
    struct panic_watch w = {0};
    char why[PANIC_LINE_MAX] = "";

    (void)state;
    memset(text, 'w', sizeof(text));
    memcpy(text, START ": ", sizeof(START ": ") - 1);
    text[sizeof(text) - 1] = '\n';
    assert_true(panic_watch_feed(&w, (const uint8_t *)text, sizeof(text), why));
    assert_memory_equal(why, "wwww", 4);
    assert_true(strlen(why) < PANIC_LINE_MAX);
    assert_true(feed(&w, START ": next ]---\n", why));
    assert_string_equal(why, "next");
}

static void bytes_of_any_value_do_no_harm(void **state)
{
    struct panic_watch w = {0};
    char why[PANIC_LINE_MAX];
    uint32_t seed = 1;

    (void)state;
    for (unsigned i = 0; i < 100000; i++) {
        uint8_t byte = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);

        assert_false(panic_watch_feed(&w, &byte, 1, why));
        assert_true(w.len < PANIC_LINE_MAX);
    }
    assert_true(feed(&w, "\n" START ": found ]---\n", why));
    assert_string_equal(why, "found");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_line_gives_the_reason),
        cmocka_unit_test(a_time_stamp_may_stand_before_it),
        cmocka_unit_test(a_panic_without_a_reason_is_one),
        cmocka_unit_test(the_first_line_of_a_panic_is_not_the_last),
        cmocka_unit_test(an_unfinished_line_waits_for_its_end),
        cmocka_unit_test(it_is_found_byte_by_byte_among_other_lines),
        cmocka_unit_test(nul_bytes_do_not_hide_it),
        cmocka_unit_test(the_longest_line_that_fits_is_seen_whole),
        cmocka_unit_test(a_longer_line_is_a_panic_too_with_its_reason_cut),
        cmocka_unit_test(bytes_of_any_value_do_no_harm),
    };

    return cmocka_run_group_tests_name("panic_watch", tests, NULL, NULL);
}
