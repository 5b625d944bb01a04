/* The text screen: every character of the code page, and the colours of attributes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <iconv.h>
#include <string.h>

#include "api/text_screen.h"

static const char *show(uint8_t character)
{
    static char line[TEXT_SCREEN_LINE];
    uint8_t cells[TEXT_SCREEN_ROW_BYTES] = {0};
    size_t len;

    cells[0] = character;
    text_screen_line(cells, line);
    len = strlen(line);
    assert_true(len >= TEXT_SCREEN_COLUMNS);
    line[len - (TEXT_SCREEN_COLUMNS - 1)] = '\0'; /* the others are blank */
    return line;
}

static void printable_characters_are_those_of_code_page_437(void **state)
{
    iconv_t cd = iconv_open("UTF-8", "CP437");

    (void)state;
    if (cd == (iconv_t)-1)
        skip();
    for (unsigned c = ' '; c < 256; c++) {
        char in = (char)c, out[8] = "", *from = &in, *to = out;
        size_t in_left = 1, out_left = sizeof(out) - 1;

        if (c == 0x7f)
            continue; /* a picture, like those below the blank */
        assert_int_equal(iconv(cd, &from, &in_left, &to, &out_left), 0);
        assert_string_equal(show((uint8_t)c), out);
    }
    iconv_close(cd);
}

static void control_characters_are_pictures(void **state)
{
    (void)state;
    assert_string_equal(show(0), " ");
    assert_string_equal(show(1), "\u263a");
    assert_string_equal(show(3), "\u2665");
    assert_string_equal(show('\n'), "\u25d9");
    assert_string_equal(show(0x1b), "\u2190");
    assert_string_equal(show(0x1f), "\u25bc");
    assert_string_equal(show(0x7f), "\u2302");
}

static void a_full_row_fits(void **state)
{
    uint8_t cells[TEXT_SCREEN_ROW_BYTES];
    char line[TEXT_SCREEN_LINE], digits[TEXT_SCREEN_COLUMNS * 2 + 1];

    (void)state;
    memset(cells, 0xdb, sizeof(cells)); /* a block, three bytes long */
    text_screen_line(cells, line);
    assert_int_equal(strlen(line), TEXT_SCREEN_COLUMNS * 3);
    text_screen_attributes(cells, digits);
    assert_int_equal(strlen(digits), TEXT_SCREEN_COLUMNS * 2);
    assert_memory_equal(digits, "dbdbdb", 6);
}

static void attributes_become_colours(void **state)
{
    static const struct {
        uint8_t attribute;
        const char *sgr;
    } expected[] = {{0x07, "\x1b[0;37;40m"}, {0x04, "\x1b[0;31;40m"}, {0x01, "\x1b[0;34;40m"},  {0x0e, "\x1b[0;93;40m"},
                    {0x1f, "\x1b[0;97;44m"}, {0x70, "\x1b[0;30;47m"}, {0xff, "\x1b[0;5;97;47m"}};
    char buf[TEXT_SCREEN_SGR];

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(expected); i++)
        assert_string_equal(text_screen_sgr(expected[i].attribute, buf), expected[i].sgr);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(printable_characters_are_those_of_code_page_437),
        cmocka_unit_test(control_characters_are_pictures),
        cmocka_unit_test(a_full_row_fits),
        cmocka_unit_test(attributes_become_colours),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
