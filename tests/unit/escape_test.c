/* The escape key: what is the guest's comes through unchanged, and each letter after Ctrl-a has its action. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "cli/escape.h"

static enum escape_action after_the_key(uint8_t letter, uint8_t *byte)
{
    struct escape e = {0};

    assert_int_equal(escape_feed(&e, ESCAPE_KEY, byte), ESCAPE_NONE);
    enum escape_action action = escape_feed(&e, letter, byte);
    assert_false(e.pending);
    return action;
}

static void every_byte_but_the_key_is_the_guests(void **state)
{
    struct escape e = {0};

    (void)state;
    for (unsigned key = 0; key < 256; key++) {
        uint8_t byte = (uint8_t)~key;

        if (key == ESCAPE_KEY)
            continue;
        assert_int_equal(escape_feed(&e, (uint8_t)key, &byte), ESCAPE_BYTE);
        assert_int_equal(byte, key);
    }
}

static void each_letter_has_its_action(void **state)
{
    static const struct {
        char letter;
        enum escape_action action;
    } expected[] = {{'x', ESCAPE_QUIT},  {'h', ESCAPE_HELP},  {'?', ESCAPE_HELP},
                    {'s', ESCAPE_STATS}, {'b', ESCAPE_BREAK}, {'d', ESCAPE_DETACH}};
    uint8_t byte;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(expected); i++)
        assert_int_equal(after_the_key((uint8_t)expected[i].letter, &byte), expected[i].action);
}

static void the_key_twice_and_the_key_with_a_are_the_key(void **state)
{
    static const uint8_t letters[] = {ESCAPE_KEY, 'a'};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(letters); i++) {
        uint8_t byte = 0;

        assert_int_equal(after_the_key(letters[i], &byte), ESCAPE_BYTE);
        assert_int_equal(byte, ESCAPE_KEY);
    }
}

static void every_other_letter_is_unknown_and_reaches_nobody(void **state)
{
    uint8_t byte;

    (void)state;
    for (unsigned letter = 0; letter < 256; letter++)
        if (!letter || (letter != ESCAPE_KEY && !strchr("xh?sbad", (int)letter)))
            assert_int_equal(after_the_key((uint8_t)letter, &byte), ESCAPE_UNKNOWN);
}

static void the_byte_after_an_action_is_the_guests_again(void **state)
{
    static const uint8_t letters[] = {'x', 'h', 's', 'b', 'a', ESCAPE_KEY, 'z'};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(letters); i++) {
        struct escape e = {0};
        uint8_t byte;

        escape_feed(&e, ESCAPE_KEY, &byte);
        escape_feed(&e, letters[i], &byte);
        assert_int_equal(escape_feed(&e, 'x', &byte), ESCAPE_BYTE);
        assert_int_equal(byte, 'x');
    }
}

static void three_keys_are_one_for_the_guest_and_the_start_of_another(void **state)
{
    struct escape e = {0};
    uint8_t byte;

    (void)state;
    assert_int_equal(escape_feed(&e, ESCAPE_KEY, &byte), ESCAPE_NONE);
    assert_int_equal(escape_feed(&e, ESCAPE_KEY, &byte), ESCAPE_BYTE);
    assert_int_equal(escape_feed(&e, ESCAPE_KEY, &byte), ESCAPE_NONE);
    assert_int_equal(escape_feed(&e, 'x', &byte), ESCAPE_QUIT);
}

static void the_help_has_a_line_for_each_letter(void **state)
{
    char start[] = "Ctrl-a ?";

    (void)state;
    for (const char *letter = "xhsba"; *letter; letter++) {
        start[sizeof(start) - 2] = *letter;
        assert_non_null(strstr(escape_help, start));
    }
    assert_int_equal(escape_help[strlen(escape_help) - 1], '\n');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_but_the_key_is_the_guests),
        cmocka_unit_test(each_letter_has_its_action),
        cmocka_unit_test(the_key_twice_and_the_key_with_a_are_the_key),
        cmocka_unit_test(every_other_letter_is_unknown_and_reaches_nobody),
        cmocka_unit_test(the_byte_after_an_action_is_the_guests_again),
        cmocka_unit_test(three_keys_are_one_for_the_guest_and_the_start_of_another),
        cmocka_unit_test(the_help_has_a_line_for_each_letter),
    };

    return cmocka_run_group_tests_name("escape", tests, NULL, NULL);
}
