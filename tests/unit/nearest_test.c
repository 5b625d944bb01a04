/* The nearest of some names: one that two edits reach, and the nearer of two. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/nearest.h"

static const char *nearest_to(const char *name)
{
    static const char *const names[] = {"memory", "kernel", "no-reboot", "web", "web2"};
    struct nearest n;

    nearest_begin(&n, name);
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        nearest_offer(&n, names[i]);
    return n.found ? n.found : "";
}

static void two_edits_are_near_and_three_are_not(void **state)
{
    (void)state;
    assert_string_equal(nearest_to("memory"), "memory");
    assert_string_equal(nearest_to("memori"), "memory");
    assert_string_equal(nearest_to("mmory"), "memory");
    assert_string_equal(nearest_to("kernnells"), "");
    assert_string_equal(nearest_to("noreboot"), "no-reboot");
    assert_string_equal(nearest_to("norebot"), "no-reboot");
    assert_string_equal(nearest_to("norebt"), "");
}

static void the_nearer_one_wins(void **state)
{
    (void)state;
    assert_string_equal(nearest_to("wen"), "web");
    assert_string_equal(nearest_to("wb2"), "web2");
}

static void names_of_any_length_can_be_compared(void **state)
{
    char name[500];

    (void)state;
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    assert_string_equal(nearest_to(name), "");
    assert_string_equal(nearest_to(""), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_edits_are_near_and_three_are_not),
        cmocka_unit_test(the_nearer_one_wins),
        cmocka_unit_test(names_of_any_length_can_be_compared),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
