/* The one error path: the sentence for the user, the errno for the caller. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/err.h"

static void the_code_comes_back_negative_and_the_sentence_is_kept(void **state)
{
    struct err e;

    (void)state;
    assert_int_equal(err_set(&e, ENOENT, "cannot open %s: %d tries", "kernel", 3), -ENOENT);
    assert_string_equal(e.text, "cannot open kernel: 3 tries");
    assert_int_equal(err_set(&e, EIO, "%s", ""), -EIO);
    assert_string_equal(e.text, "");
}

static void nobody_needs_to_want_the_sentence(void **state)
{
    (void)state;
    assert_int_equal(err_set(NULL, EBUSY, "%s", "unheard"), -EBUSY);
}

static void a_long_sentence_is_cut_and_ended(void **state)
{
    struct {
        struct err e;
        char after[8];
    } guarded;
    char longer[sizeof(guarded.e.text) + 100];

    (void)state;
    memset(longer, 'x', sizeof(longer));
    longer[sizeof(longer) - 1] = '\0';
    memset(guarded.after, 0x5a, sizeof(guarded.after));
    assert_int_equal(err_set(&guarded.e, EINVAL, "%s", longer), -EINVAL);
    assert_int_equal(strlen(guarded.e.text), sizeof(guarded.e.text) - 1);
    for (unsigned i = 0; i < sizeof(guarded.after); i++)
        assert_int_equal(guarded.after[i], 0x5a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_code_comes_back_negative_and_the_sentence_is_kept),
        cmocka_unit_test(nobody_needs_to_want_the_sentence),
        cmocka_unit_test(a_long_sentence_is_cut_and_ended),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
