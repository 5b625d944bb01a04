/* Saved state: what was saved comes back, older versions load, and anything else is refused with a sentence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/state.h"

struct chip {
    uint8_t byte;
    uint16_t word;
    uint32_t table[3];
    bool flag;
    uint64_t ns;
    uint16_t young; /* since version 2 */
    int host_fd;    /* never saved */
};

#define CHIP_FIELDS                                                                                                                        \
    STATE_FIELD(struct chip, byte), STATE_FIELD(struct chip, word), STATE_ARRAY(struct chip, table), STATE_FIELD(struct chip, flag),       \
        STATE_FIELD(struct chip, ns)

static const struct state_field fields_1[] = {CHIP_FIELDS};
static const struct state_field fields_2[] = {CHIP_FIELDS, {"young", offsetof(struct chip, young), 2, 1, 2}};
static const struct state_desc chip_1 = {"chip", 1, fields_1, ARRAY_SIZE(fields_1)};
static const struct state_desc chip_2 = {"chip", 2, fields_2, ARRAY_SIZE(fields_2)};

static const struct chip sample =
    {.byte = 0xfe, .word = 0x1234, .table = {1, 0x80000000, 0xffffffff}, .flag = true, .ns = 0x0123456789abcdef, .young = 77, .host_fd = 9};

static int load(const struct state_desc *desc, struct chip *chip, const void *data, size_t len, struct err *e)
{
    struct state_reader r;

    state_reader_init(&r, data, len);
    return state_load(desc, chip, &r, e);
}

static void what_was_saved_comes_back_and_the_rest_stays(void **state)
{
    struct state_writer w;
    struct chip chip = {.host_fd = 42};
    struct err e;

    (void)state;
    state_writer_init(&w);
    assert_int_equal(state_save(&chip_2, &sample, &w), 0);
    assert_int_equal(load(&chip_2, &chip, w.data, w.len, &e), 0);
    assert_int_equal(chip.byte, sample.byte);
    assert_int_equal(chip.word, sample.word);
    assert_memory_equal(chip.table, sample.table, sizeof(chip.table));
    assert_true(chip.flag);
    assert_true(chip.ns == sample.ns);
    assert_int_equal(chip.young, 77);
    assert_int_equal(chip.host_fd, 42);
    state_writer_fini(&w);
}

static void sections_follow_each_other(void **state)
{
    struct state_writer w;
    struct state_reader r;
    struct chip chip = {0};
    struct err e;

    (void)state;
    state_writer_init(&w);
    for (unsigned i = 0; i < 50; i++) {
        struct chip one = {.word = (uint16_t)i};
        assert_int_equal(state_save(&chip_1, &one, &w), 0);
    }
    state_reader_init(&r, w.data, w.len);
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(state_load(&chip_1, &chip, &r, &e), 0);
        assert_int_equal(chip.word, i);
    }
    assert_int_equal(r.pos, r.len);
    assert_int_equal(state_load(&chip_1, &chip, &r, &e), -EINVAL);
    assert_non_null(strstr(e.text, "chip"));
    state_writer_fini(&w);
}

static void numbers_are_stored_little_endian(void **state)
{
    static const struct state_field field[] = {STATE_FIELD(struct chip, word)};
    static const struct state_desc desc = {"c", 1, field, 1};
    static const uint8_t want[] = {1, 'c', 1, 0, 1, 0, 4, 'w', 'o', 'r', 'd', 2, 1, 0, 0x34, 0x12};
    struct state_writer w;

    (void)state;
    state_writer_init(&w);
    assert_int_equal(state_save(&desc, &sample, &w), 0);
    assert_int_equal(w.len, sizeof(want));
    assert_memory_equal(w.data, want, sizeof(want));
    state_writer_fini(&w);
}

static void a_field_younger_than_the_saved_version_keeps_its_value(void **state)
{
    struct state_writer w;
    struct chip chip = {.young = 5};
    struct err e;

    (void)state;
    state_writer_init(&w);
    assert_int_equal(state_save(&chip_1, &sample, &w), 0);
    assert_int_equal(load(&chip_2, &chip, w.data, w.len, &e), 0);
    assert_int_equal(chip.young, 5);
    assert_int_equal(chip.word, sample.word);
    state_writer_fini(&w);
}

static void a_newer_version_is_refused(void **state)
{
    struct state_writer w;
    struct chip chip = {0};
    struct err e;

    (void)state;
    state_writer_init(&w);
    assert_int_equal(state_save(&chip_2, &sample, &w), 0);
    assert_int_equal(load(&chip_1, &chip, w.data, w.len, &e), -EINVAL);
    assert_non_null(strstr(e.text, "version 2"));
    w.data[5] = 0; /* version 0 */
    assert_int_equal(load(&chip_2, &chip, w.data, w.len, &e), -EINVAL);
    state_writer_fini(&w);
}

static void a_missing_field_is_refused(void **state)
{
    static const struct state_desc without_last = {"chip", 1, fields_1, ARRAY_SIZE(fields_1) - 1};
    struct state_writer w;
    struct chip chip = {0};
    struct err e;

    (void)state;
    state_writer_init(&w);
    assert_int_equal(state_save(&without_last, &sample, &w), 0);
    assert_int_equal(load(&chip_1, &chip, w.data, w.len, &e), -EINVAL);
    assert_non_null(strstr(e.text, "no field ns"));
    state_writer_fini(&w);
}

static void an_unknown_a_resized_and_a_doubled_field_are_refused(void **state)
{
    static const struct state_field unknown[] = {{"wart", offsetof(struct chip, byte), 1, 1, 1}};
    static const struct state_field resized[] = {{"word", offsetof(struct chip, word), 1, 1, 1}};
    static const struct state_field recounted[] = {{"table", offsetof(struct chip, table), 4, 2, 1}};
    static const struct state_field doubled[] = {STATE_FIELD(struct chip, byte), STATE_FIELD(struct chip, byte)};
    static const struct state_desc bad[] = {
        {"chip", 1, unknown, 1}, {"chip", 1, resized, 1}, {"chip", 1, recounted, 1}, {"chip", 1, doubled, 2}};
    static const char *const why[] = {"does not know", "malformed field word", "malformed field table", "malformed field byte"};
    struct chip chip = {0};
    struct err e;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct state_writer w;

        state_writer_init(&w);
        assert_int_equal(state_save(&bad[i], &sample, &w), 0);
        assert_int_equal(load(&chip_1, &chip, w.data, w.len, &e), -EINVAL);
        assert_non_null(strstr(e.text, why[i]));
        state_writer_fini(&w);
    }
}

static void another_name_is_refused(void **state)
{
    static const struct state_desc chips = {"chips", 1, fields_1, ARRAY_SIZE(fields_1)};
    struct state_writer w;
    struct chip chip = {0};
    struct err e;

    (void)state;
    state_writer_init(&w);
    assert_int_equal(state_save(&chips, &sample, &w), 0);
    assert_int_equal(load(&chip_1, &chip, w.data, w.len, &e), -EINVAL);
    assert_non_null(strstr(e.text, "something else where chip should be"));
    state_writer_fini(&w);
}

/* Each in a block of its own length, so that a read beyond it is seen by the address sanitizer. */
static void every_truncation_is_refused(void **state)
{
    struct state_writer w;
    struct err e;

    (void)state;
    state_writer_init(&w);
    assert_int_equal(state_save(&chip_2, &sample, &w), 0);
    for (size_t len = 0; len < w.len; len++) {
        struct chip chip = {0};
        uint8_t *copy = malloc(len + !len);

        assert_non_null(copy);
        memcpy(copy, w.data, len);
        e.text[0] = '\0';
        assert_int_equal(load(&chip_2, &chip, copy, len, &e), -EINVAL);
        assert_true(e.text[0] != '\0');
        free(copy);
    }
    state_writer_fini(&w);
}

static void no_changed_byte_reaches_beyond_the_object(void **state)
{
    struct {
        uint8_t before[64];
        struct chip chip;
        uint8_t after[64];
    } guarded;
    uint8_t zero[64] = {0};
    struct state_writer w;
    struct err e;

    (void)state;
    state_writer_init(&w);
    assert_int_equal(state_save(&chip_2, &sample, &w), 0);
    for (size_t at = 0; at < w.len; at++)
        for (unsigned value = 0; value < 256; value++) {
            uint8_t kept = w.data[at];
            int rc;

            memset(&guarded, 0, sizeof(guarded));
            w.data[at] = (uint8_t)value;
            rc = load(&chip_2, &guarded.chip, w.data, w.len, &e);
            w.data[at] = kept;
            assert_true(rc == 0 || rc == -EINVAL);
            assert_memory_equal(guarded.before, zero, sizeof(zero));
            assert_memory_equal(guarded.after, zero, sizeof(zero));
            assert_int_equal(guarded.chip.host_fd, 0);
        }
    state_writer_fini(&w);
}

static void after_a_failure_nothing_more_is_written(void **state)
{
    struct state_writer w;

    (void)state;
    state_writer_init(&w);
    w.error = -ENOMEM;
    assert_int_equal(state_save(&chip_1, &sample, &w), -ENOMEM);
    assert_int_equal(w.len, 0);
    state_writer_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_saved_comes_back_and_the_rest_stays),
        cmocka_unit_test(sections_follow_each_other),
        cmocka_unit_test(numbers_are_stored_little_endian),
        cmocka_unit_test(a_field_younger_than_the_saved_version_keeps_its_value),
        cmocka_unit_test(a_newer_version_is_refused),
        cmocka_unit_test(a_missing_field_is_refused),
        cmocka_unit_test(an_unknown_a_resized_and_a_doubled_field_are_refused),
        cmocka_unit_test(another_name_is_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(no_changed_byte_reaches_beyond_the_object),
        cmocka_unit_test(after_a_failure_nothing_more_is_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
