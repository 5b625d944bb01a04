/* The relocation table is found only where it is whole, and moves exactly the words that it names. */
#include "boot_fake.h"

#include "boot/reloc.h"

static void parse(struct elf_image *elf, struct fake_bytes b)
{
    assert_int_equal(elf_parse(elf, b.data, b.len, "k", NULL), 0);
}

static void all_three_groups_are_found(void **state)
{
    struct fake_bytes b = fake_vmlinux();
    struct elf_image elf;
    struct reloc_table t;

    (void)state;
    parse(&elf, b);
    assert_true(reloc_find(&t, &elf));
    assert_int_equal(t.abs64_count, 1);
    assert_int_equal(t.inverse32_count, 1);
    assert_int_equal(t.abs32_count, 1);
    free(b.data);
}

static void the_table_of_newer_kernels_has_two_groups(void **state)
{
    struct fake_bytes b = fake_vmlinux(), two = fake_alloc(b.len - 8);
    struct elf_image elf;
    struct reloc_table t;

    (void)state;
    memcpy(two.data, b.data, two.len - 8);
    memcpy(two.data + two.len - 8, b.data + b.len - 8, 8);
    parse(&elf, two);
    assert_true(reloc_find(&t, &elf));
    assert_int_equal(t.abs64_count, 1);
    assert_int_equal(t.inverse32_count, 0);
    assert_int_equal(t.abs32_count, 1);
    free(b.data);
    free(two.data);
}

static void addresses_move_and_nothing_else_does(void **state)
{
    const uint64_t delta = MIB(34);
    struct fake_bytes b = fake_vmlinux(), before = fake_cut(b, b.len);
    struct elf_image elf;
    struct reloc_table t;
    uint64_t v64;
    uint32_t v32, inverse;

    (void)state;
    parse(&elf, b);
    assert_true(reloc_find(&t, &elf));
    reloc_apply(&t, &elf, b.data, delta);
    memcpy(&v64, b.data + FAKE_DATA_AT + FAKE_RELOC64, 8);
    memcpy(&v32, b.data + FAKE_DATA_AT + FAKE_RELOC32, 4);
    memcpy(&inverse, b.data + FAKE_DATA_AT + FAKE_RELOC_INVERSE, 4);
    assert_int_equal(v64, FAKE_RELOC_VALUE + delta);
    assert_int_equal(v32, (uint32_t)(FAKE_RELOC_VALUE + delta));
    assert_int_equal(inverse, (uint32_t)(FAKE_RELOC_VALUE - delta));
    memcpy(b.data + FAKE_DATA_AT + FAKE_RELOC64, before.data + FAKE_DATA_AT + FAKE_RELOC64, 8);
    memcpy(b.data + FAKE_DATA_AT + FAKE_RELOC32, before.data + FAKE_DATA_AT + FAKE_RELOC32, 4);
    memcpy(b.data + FAKE_DATA_AT + FAKE_RELOC_INVERSE, before.data + FAKE_DATA_AT + FAKE_RELOC_INVERSE, 4);
    assert_memory_equal(b.data, before.data, b.len);
    free(b.data);
    free(before.data);
}

static void a_table_that_does_not_fit_the_image_is_none(void **state)
{
    const uint32_t base = (uint32_t)(FAKE_KERNEL_MAP + MIB(16));
    /* Below the image, at its end, across its end, in the zeroed tail, far away. */
    const uint32_t outside[] = {base - 4, base + 0x3000, base + 0x2ffe, (uint32_t)(FAKE_KERNEL_MAP + MIB(18) + 0x800), 0x1000};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(outside); i++)
        for (unsigned word = 1; word <= 5; word += 2) {
            struct fake_bytes b = fake_vmlinux();
            struct elf_image elf;
            struct reloc_table t;

            fake_put32(b, b.len - 24 + word * 4, outside[i]);
            parse(&elf, b);
            assert_false(reloc_find(&t, &elf));
            free(b.data);
        }
}

static void an_image_without_a_whole_table_has_none(void **state)
{
    struct fake_bytes b = fake_vmlinux();
    struct elf_image elf;
    struct reloc_table t;

    (void)state;
    for (size_t cut = 1; cut <= 24; cut++) {
        struct fake_bytes shorter = fake_cut(b, b.len - cut);

        parse(&elf, shorter);
        if (cut != 8) /* what is left then is a table of two groups */
            assert_false(reloc_find(&t, &elf));
        free(shorter.data);
    }
    fake_put32(b, b.len - 4, 0); /* a fourth group */
    parse(&elf, b);
    assert_false(reloc_find(&t, &elf));
    free(b.data);
}

static void the_distance_keeps_the_image_in_its_window(void **state)
{
    const uint64_t low = MIB(16), size = MIB(46), align = MIB(2);
    uint64_t random = 1, most = 0;

    (void)state;
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t d = reloc_pick(random, low, size, align);

        assert_int_equal(d % align, 0);
        assert_true(low + d + size <= GIB(1));
        most = MAX(most, d);
        random = random * 6364136223846793005ULL + 1442695040888963407ULL;
    }
    assert_int_equal(most, GIB(1) - low - size);
    assert_int_equal(reloc_pick(7, low, GIB(1) - low, align), 0);
    assert_int_equal(reloc_pick(7, low, GIB(1), align), 0);
    assert_int_equal(reloc_pick(7, GIB(1), 1, align), 0);
}

static void a_word_of_the_command_line_is_a_whole_word(void **state)
{
    (void)state;
    assert_true(cmdline_has("nokaslr", "nokaslr"));
    assert_true(cmdline_has("a nokaslr b", "nokaslr"));
    assert_true(cmdline_has("xnokaslr nokaslr", "nokaslr"));
    assert_false(cmdline_has("xnokaslr", "nokaslr"));
    assert_false(cmdline_has("nokaslr=1", "nokaslr"));
    assert_false(cmdline_has("", "nokaslr"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_three_groups_are_found),
        cmocka_unit_test(the_table_of_newer_kernels_has_two_groups),
        cmocka_unit_test(addresses_move_and_nothing_else_does),
        cmocka_unit_test(a_table_that_does_not_fit_the_image_is_none),
        cmocka_unit_test(an_image_without_a_whole_table_has_none),
        cmocka_unit_test(the_distance_keeps_the_image_in_its_window),
        cmocka_unit_test(a_word_of_the_command_line_is_a_whole_word),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
