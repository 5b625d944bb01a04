/* ELF headers are read as they are, refused with a sentence when they cannot be, and segments land where they say. */
#include "boot_fake.h"

#include "boot/elf.h"

static struct fake_elf small(bool is64)
{
    return (struct fake_elf){
        .is64 = is64, .entry = 0x100010, .count = 2, .seg = {{0xc0100000, 0x100000, 0x300, 0x300}, {0xc0200000, 0x200000, 0x80, 0x2000}}};
}

static void both_classes_are_read(void **state)
{
    (void)state;
    for (int is64 = 0; is64 < 2; is64++) {
        struct fake_elf spec = small(is64);
        struct fake_bytes b = fake_elf(&spec);
        struct elf_image elf;

        assert_true(elf_recognize(b.data, b.len));
        assert_int_equal(elf_parse(&elf, b.data, b.len, "k", NULL), 0);
        assert_int_equal(elf.is64, is64);
        assert_int_equal(elf.count, 2);
        assert_int_equal(elf.entry, 0x100010);
        assert_int_equal(elf.low, 0x100000);
        assert_int_equal(elf.high, 0x202000);
        assert_int_equal(elf.file_end, b.len);
        assert_int_equal(elf.seg[1].file_len, 0x80);
        assert_int_equal(elf.seg[1].mem_len, 0x2000);
        assert_false(elf.has_pvh);
        free(b.data);
    }
}

static void a_virtual_entry_becomes_its_physical_address(void **state)
{
    struct fake_elf spec = small(false);
    struct fake_bytes b;
    struct elf_image elf;

    (void)state;
    spec.entry = 0xc0200004;
    b = fake_elf(&spec);
    assert_int_equal(elf_parse(&elf, b.data, b.len, "k", NULL), 0);
    assert_int_equal(elf.entry, 0x200004);
    free(b.data);
}

static void the_pvh_note_is_found_in_both_classes(void **state)
{
    (void)state;
    for (int is64 = 0; is64 < 2; is64++) {
        struct fake_elf spec = small(is64);
        struct fake_bytes b;
        struct elf_image elf;

        spec.pvh_entry = 0x100020;
        b = fake_elf(&spec);
        assert_int_equal(elf_parse(&elf, b.data, b.len, "k", NULL), 0);
        assert_true(elf.has_pvh);
        assert_int_equal(elf.pvh_entry, 0x100020);
        free(b.data);
    }
}

static void a_pvh_entry_outside_of_the_image_is_refused(void **state)
{
    struct fake_elf spec = small(true);
    struct fake_bytes b;
    struct elf_image elf;
    struct err e;

    (void)state;
    spec.pvh_entry = 0x900000;
    b = fake_elf(&spec);
    assert_int_equal(elf_parse(&elf, b.data, b.len, "k", &e), -EINVAL);
    assert_says(e, "PVH entry");
    free(b.data);
}

static void a_note_of_impossible_size_is_no_note(void **state)
{
    struct fake_elf spec = small(false);
    struct fake_bytes b;
    struct elf_image elf;

    (void)state;
    spec.pvh_entry = 0x100020;
    b = fake_elf(&spec);
    for (unsigned word = 0; word < 2; word++) {
        static const uint32_t sizes[] = {0, 5, 0x1000, 0x7fffffff, 0xfffffff4, 0xffffffff};

        for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
            fake_put32(b, FAKE_NOTE_AT + word * 4, sizes[i]);
            assert_int_equal(elf_parse(&elf, b.data, b.len, "k", NULL), 0);
            assert_false(elf.has_pvh);
        }
        fake_put32(b, FAKE_NOTE_AT + word * 4, 4);
    }
    free(b.data);
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    (void)state;
    for (int is64 = 0; is64 < 2; is64++) {
        struct fake_elf spec = small(is64);
        struct fake_bytes b;

        spec.pvh_entry = 0x100020;
        b = fake_elf(&spec);
        for (size_t len = 4; len < b.len; len++) {
            struct fake_bytes cut = fake_cut(b, len);
            struct elf_image elf;
            struct err e = {{0}};

            assert_int_equal(elf_parse(&elf, cut.data, cut.len, "k", &e), -EINVAL);
            assert_says(e, "k is cut short");
            free(cut.data);
        }
        free(b.data);
    }
}

/* One field of a 64-bit header is set to value: what is said? */
static void refused_with(size_t at, unsigned bytes, uint64_t value, const char *what)
{
    struct fake_elf spec = small(true);
    struct fake_bytes b = fake_elf(&spec);
    struct elf_image elf;
    struct err e = {{0}};

    memcpy(b.data + at, &value, bytes);
    assert_int_equal(elf_parse(&elf, b.data, b.len, "k", &e), -EINVAL);
    assert_says(e, what);
    free(b.data);
}

static void every_bad_header_has_its_sentence(void **state)
{
    const size_t segment = sizeof(Elf64_Ehdr);

    (void)state;
    refused_with(EI_DATA, 1, ELFDATA2MSB, "another kind of processor");
    refused_with(EI_CLASS, 1, 7, "another kind of processor");
    refused_with(offsetof(Elf64_Ehdr, e_machine), 2, EM_AARCH64, "machine 183");
    refused_with(offsetof(Elf64_Ehdr, e_type), 2, ET_REL, "object file");
    refused_with(offsetof(Elf64_Ehdr, e_type), 2, ET_CORE, "not a linked kernel");
    refused_with(offsetof(Elf64_Ehdr, e_phnum), 2, 0, "no program headers");
    refused_with(offsetof(Elf64_Ehdr, e_phentsize), 2, 32, "no program headers");
    refused_with(offsetof(Elf64_Ehdr, e_phoff), 8, UINT64_MAX - 3, "cut short");
    refused_with(offsetof(Elf64_Ehdr, e_entry), 8, 0x12345, "entry point");
    refused_with(segment + offsetof(Elf64_Phdr, p_offset), 8, UINT64_MAX, "cut short");
    refused_with(segment + offsetof(Elf64_Phdr, p_filesz), 8, 0x301, "impossible sizes");
    refused_with(segment + offsetof(Elf64_Phdr, p_paddr), 8, UINT64_MAX - 0x10, "impossible sizes");
}

static void segments_are_loaded_and_their_tails_zeroed(void **state)
{
    struct fake_elf spec = small(true);
    struct fake_bytes b = fake_elf(&spec);
    struct elf_image elf;
    struct mem mem;
    struct err e;

    (void)state;
    assert_int_equal(mem_init(&mem, MIB(4), false, NULL), 0);
    assert_int_equal(mem_fill(&mem, 0, 0xee, MIB(4)), 0);
    assert_int_equal(elf_parse(&elf, b.data, b.len, "k", NULL), 0);
    assert_int_equal(elf_fits(&elf, &mem, &e), 0);
    assert_int_equal(elf_place(&elf, &mem, &e), 0);
    assert_true(fake_segment_loaded(&mem, &spec, 0, 0, 0));
    assert_true(fake_segment_loaded(&mem, &spec, 1, 0, 0));
    assert_int_equal(*(uint8_t *)mem_hva(&mem, 0xfffff, 1), 0xee);
    assert_int_equal(*(uint8_t *)mem_hva(&mem, 0x202000, 1), 0xee);
    mem_fini(&mem);
    free(b.data);
}

static void an_image_that_memory_cannot_hold_does_not_fit(void **state)
{
    struct fake_elf spec = small(true);
    struct fake_bytes b = fake_elf(&spec);
    struct elf_image elf;
    struct mem mem;
    struct err e;

    (void)state;
    assert_int_equal(mem_init(&mem, MIB(2), false, NULL), 0);
    assert_int_equal(elf_parse(&elf, b.data, b.len, "k", NULL), 0);
    assert_int_equal(elf_fits(&elf, &mem, &e), -ENOMEM);
    assert_says(e, "k needs memory up to 3 MiB, the guest has 2 MiB; give it at least --memory 3M");
    mem_fini(&mem);
    free(b.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_classes_are_read),
        cmocka_unit_test(a_virtual_entry_becomes_its_physical_address),
        cmocka_unit_test(the_pvh_note_is_found_in_both_classes),
        cmocka_unit_test(a_pvh_entry_outside_of_the_image_is_refused),
        cmocka_unit_test(a_note_of_impossible_size_is_no_note),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(every_bad_header_has_its_sentence),
        cmocka_unit_test(segments_are_loaded_and_their_tails_zeroed),
        cmocka_unit_test(an_image_that_memory_cannot_hold_does_not_fit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
