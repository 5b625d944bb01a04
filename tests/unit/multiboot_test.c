/* Multiboot kernels: ELF images and such with addresses in their header, with memory map, command line and module. */
#include "boot_fake.h"

#include "boot/e820.h"
#include "boot/multiboot.h"

#define INITRD "the module's bytes"

enum { INFO_MEMORY = 1 << 0, INFO_CMDLINE = 1 << 2, INFO_MODULES = 1 << 3, INFO_MMAP = 1 << 6, INFO_LOADER = 1 << 9 };
enum { FLAGS, MEM_LOWER, MEM_UPPER, BOOT_DEVICE, CMDLINE, MODS_COUNT, MODS_ADDR, MMAP_LENGTH = 11, MMAP_ADDR, LOADER_NAME = 16 };

static struct mem mem;
static struct cpu_state *cpu;

static int setup(void **state)
{
    (void)state;
    cpu = fake_cpu();
    return mem_init(&mem, MIB(8), false, NULL);
}

static int teardown(void **state)
{
    (void)state;
    mem_fini(&mem);
    free(cpu);
    return 0;
}

static struct fake_elf spec(void)
{
    return (struct fake_elf){.multiboot = true,
                             .multiboot_flags = 3,
                             .entry = MIB(1) + 0x20,
                             .count = 2,
                             .seg = {{MIB(1), MIB(1), 0x1000, 0x1000}, {MIB(2), MIB(2), 0x200, 0x2000}}};
}

static int boot(struct fake_bytes kernel, const char *cmdline, const char *initrd, struct err *e)
{
    struct boot_machine machine = {.mem = &mem, .cmdline = cmdline, .acpi = {.cpus = 1}};
    struct boot_image *img;
    int ret = boot_image_from_memory(&img, "k", kernel.data, kernel.len, initrd, initrd ? strlen(initrd) : 0, e);

    if (ret)
        return ret;
    assert_string_equal(boot_image_protocol(img), "multiboot");
    ret = boot_place(img, &machine, cpu, e);
    boot_image_free(img);
    return ret;
}

static const uint32_t *info(void)
{
    return mem_hva(&mem, cpu->gpr[GPR_RBX], 88);
}

static void an_elf_image_is_loaded_and_entered_in_32_bit_mode(void **state)
{
    struct fake_elf s = spec();
    struct fake_bytes b = fake_elf(&s);

    (void)state;
    assert_int_equal(mem_fill(&mem, 0, 0xee, mem.size), 0);
    assert_int_equal(boot(b, "", NULL, NULL), 0);
    assert_true(fake_segment_loaded(&mem, &s, 0, 0, 0));
    assert_true(fake_segment_loaded(&mem, &s, 1, 0, 0));
    assert_int_equal(cpu->rip, MIB(1) + 0x20);
    assert_int_equal(cpu->gpr[GPR_RAX], 0x2badb002);
    assert_int_equal(cpu->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(cpu->rflags & FLAG_IF, 0);
    assert_true(cpu->seg[SEG_CS].attr & SEG_DB);
    free(b.data);
}

static void the_information_names_memory_and_command_line(void **state)
{
    struct fake_elf s = spec();
    struct fake_bytes b = fake_elf(&s);

    (void)state;
    assert_int_equal(mem_fill(&mem, 0, 0xee, MIB(1)), 0);
    assert_int_equal(boot(b, "verbose test=3", NULL, NULL), 0);
    assert_int_equal(info()[FLAGS], INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER);
    assert_int_equal(info()[MEM_LOWER], 639);
    assert_int_equal(info()[MEM_UPPER], 7 * 1024);
    assert_int_equal(info()[MODS_COUNT], 0);
    assert_string_equal(mem_hva(&mem, info()[CMDLINE], 15), "verbose test=3");
    assert_string_equal(mem_hva(&mem, info()[LOADER_NAME], 6), "umbra");
    free(b.data);
}

static void the_memory_map_is_the_e820_map(void **state)
{
    struct fake_elf s = spec();
    struct fake_bytes b = fake_elf(&s);
    struct e820_map map;

    (void)state;
    assert_int_equal(boot(b, "", NULL, NULL), 0);
    e820_build(&map, &mem);
    assert_int_equal(info()[MMAP_LENGTH], map.count * 24);
    for (unsigned i = 0; i < map.count; i++) {
        uint32_t e[6]; /* size, address, length, type */

        assert_int_equal(mem_read(&mem, info()[MMAP_ADDR] + i * 24, e, 24), 0);
        assert_int_equal(e[0], 20);
        assert_int_equal(e[1] | (uint64_t)e[2] << 32, map.range[i].gpa);
        assert_int_equal(e[3] | (uint64_t)e[4] << 32, map.range[i].size);
        assert_int_equal(e[5], map.range[i].type);
    }
    free(b.data);
}

static void the_initrd_is_a_page_aligned_module_with_its_name(void **state)
{
    struct fake_elf s = spec();
    struct fake_bytes b = fake_elf(&s);
    uint32_t module[4];

    (void)state;
    assert_int_equal(boot(b, "", INITRD, NULL), 0);
    assert_int_equal(info()[MODS_COUNT], 1);
    assert_int_equal(mem_read(&mem, info()[MODS_ADDR], module, sizeof(module)), 0);
    assert_int_equal(module[0] % PAGE_SIZE, 0);
    assert_int_equal(module[1] - module[0], strlen(INITRD));
    assert_memory_equal(mem_hva(&mem, module[0], strlen(INITRD)), INITRD, strlen(INITRD));
    assert_string_equal(mem_hva(&mem, module[2], 7), "initrd");
    assert_int_equal(module[3], 0);
    free(b.data);
}

#define FLAT_HEADER_AT 0x40
#define FLAT_LEN 0x1800

/* A flat image whose header says: load all from 16 bytes on at 2 MiB, 0x2000 bytes of it with zeroes behind. */
static struct fake_bytes flat(uint32_t load_end, uint32_t bss_end, uint32_t entry)
{
    struct fake_bytes b = fake_alloc(FLAT_LEN);
    const uint32_t flags = 0x10003, load = (uint32_t)MIB(2);
    const uint32_t words[] = {0x1badb002, flags, -(0x1badb002u + flags), load + FLAT_HEADER_AT - 16, load, load_end, bss_end, entry};

    for (size_t i = 0; i < b.len; i++)
        b.data[i] = fake_byte(0, i);
    memcpy(b.data + FLAT_HEADER_AT, words, sizeof(words));
    return b;
}

static void a_flat_image_is_loaded_where_its_header_says(void **state)
{
    const uint32_t load = (uint32_t)MIB(2);
    struct fake_bytes b = flat(load + 0x1000, load + 0x2000, load + 0x100);
    const uint8_t *p = mem_hva(&mem, load, 0x2001);

    (void)state;
    assert_int_equal(mem_fill(&mem, 0, 0xee, mem.size), 0);
    assert_int_equal(boot(b, "", NULL, NULL), 0);
    assert_int_equal(cpu->rip, load + 0x100);
    assert_memory_equal(p, b.data + 16, 0x1000);
    for (unsigned i = 0x1000; i < 0x2000; i++)
        assert_int_equal(p[i], 0);
    assert_int_equal(p[0x2000], 0xee);
    free(b.data);
}

static void without_an_end_the_whole_file_is_loaded(void **state)
{
    const uint32_t load = (uint32_t)MIB(2);
    struct fake_bytes b = flat(0, 0, load);

    (void)state;
    assert_int_equal(mem_fill(&mem, 0, 0xee, mem.size), 0);
    assert_int_equal(boot(b, "", NULL, NULL), 0);
    assert_memory_equal(mem_hva(&mem, load, FLAT_LEN - 16), b.data + 16, FLAT_LEN - 16);
    assert_int_equal(*(uint8_t *)mem_hva(&mem, load + FLAT_LEN - 16, 1), 0xee);
    free(b.data);
}

static void addresses_in_the_header_win_over_elf_headers(void **state)
{
    struct fake_elf s = spec();
    struct fake_bytes b;
    const uint32_t load = (uint32_t)MIB(3);

    (void)state;
    s.multiboot_flags = 0x10003;
    b = fake_elf(&s);
    fake_put32(b, FAKE_MULTIBOOT_AT + 12, load);
    fake_put32(b, FAKE_MULTIBOOT_AT + 16, load);
    fake_put32(b, FAKE_MULTIBOOT_AT + 20, load + 0x100);
    fake_put32(b, FAKE_MULTIBOOT_AT + 28, load + 0x20);
    assert_int_equal(boot(b, "", NULL, NULL), 0);
    assert_int_equal(cpu->rip, load + 0x20);
    assert_memory_equal(mem_hva(&mem, load, 0x100), b.data + FAKE_MULTIBOOT_AT, 0x100);
    free(b.data);
}

static void contradicting_addresses_are_refused(void **state)
{
    const uint32_t load = (uint32_t)MIB(2);
    const struct {
        uint32_t load_end, bss_end, entry;
        const char *what;
    } bad[] = {
        {load - 1, 0, load, "contradict"},
        {load, 0, load, "contradict"},
        {load + 0x1000, load + 0xfff, load, "contradict"},
        {load + 0x1000, 0, load + 0x1000, "contradict"},
        {load + 0x1000, 0, load - 1, "contradict"},
        {load + FLAT_LEN - 15, 0, load, "cut short"},
        {UINT32_MAX, 0, load, "cut short"},
    };
    struct err e;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct fake_bytes b = flat(bad[i].load_end, bad[i].bss_end, bad[i].entry);

        assert_int_equal(boot(b, "", NULL, &e), -EINVAL);
        assert_says(e, bad[i].what);
        free(b.data);
    }
    for (unsigned i = 0; i < 2; i++) { /* header below load; more before the header than the file has */
        struct fake_bytes b = flat(0, 0, load);

        fake_put32(b, FLAT_HEADER_AT + 12, i ? load + FLAT_HEADER_AT + 4 : load - 4);
        assert_int_equal(boot(b, "", NULL, &e), -EINVAL);
        assert_says(e, "contradict");
        free(b.data);
    }
}

static void features_that_are_not_there_are_refused(void **state)
{
    struct fake_elf s = spec();
    struct fake_bytes b;
    struct err e;

    (void)state;
    s.multiboot_flags = 4;
    b = fake_elf(&s);
    assert_int_equal(boot(b, "", NULL, &e), -ENOTSUP);
    assert_says(e, "video mode");
    free(b.data);
    s.multiboot_flags = 0x8001;
    b = fake_elf(&s);
    assert_int_equal(boot(b, "", NULL, &e), -ENOTSUP);
    assert_says(e, "flags 0x8000");
    free(b.data);
}

static void a_flat_image_without_addresses_is_refused(void **state)
{
    struct fake_bytes b = fake_alloc(64);
    struct err e;

    (void)state;
    fake_put32(b, 8, 0x1badb002);
    fake_put32(b, 16, -0x1badb002u);
    assert_int_equal(boot(b, "", NULL, &e), -EINVAL);
    assert_says(e, "no load addresses");
    free(b.data);
}

static void a_header_counts_only_whole_aligned_and_in_the_first_8_kib(void **state)
{
    const uint32_t words[] = {0x1badb002, 3, -(0x1badb002u + 3)};
    struct multiboot_header h;

    (void)state;
    for (size_t at = 8100; at < 8300; at++) {
        struct fake_bytes b = fake_alloc(9000), cut;

        memcpy(b.data + at, words, sizeof(words));
        assert_int_equal(multiboot_find(&h, b.data, b.len), at % 4 == 0 && at + sizeof(words) <= 8192);
        cut = fake_cut(b, at + sizeof(words) - 1);
        assert_false(multiboot_find(&h, cut.data, cut.len));
        free(cut.data);
        b.data[at + 8] ^= 1; /* checksum */
        assert_false(multiboot_find(&h, b.data, b.len));
        free(b.data);
    }
}

static void a_kernel_cut_anywhere_is_refused(void **state)
{
    const uint32_t load = (uint32_t)MIB(2);
    struct fake_elf s = spec();
    struct fake_bytes whole[] = {fake_elf(&s), flat(load + FLAT_LEN - 16, 0, load)};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(whole); i++) {
        for (size_t len = 1; len < whole[i].len; len += 3) {
            struct fake_bytes cut = fake_cut(whole[i], len);
            struct err e = {{0}};

            assert_int_equal(boot(cut, "", NULL, &e), -EINVAL);
            assert_says(e, "k ");
            assert_says(e, "cut short");
            free(cut.data);
        }
        free(whole[i].data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_elf_image_is_loaded_and_entered_in_32_bit_mode),
        cmocka_unit_test(the_information_names_memory_and_command_line),
        cmocka_unit_test(the_memory_map_is_the_e820_map),
        cmocka_unit_test(the_initrd_is_a_page_aligned_module_with_its_name),
        cmocka_unit_test(a_flat_image_is_loaded_where_its_header_says),
        cmocka_unit_test(without_an_end_the_whole_file_is_loaded),
        cmocka_unit_test(addresses_in_the_header_win_over_elf_headers),
        cmocka_unit_test(contradicting_addresses_are_refused),
        cmocka_unit_test(features_that_are_not_there_are_refused),
        cmocka_unit_test(a_flat_image_without_addresses_is_refused),
        cmocka_unit_test(a_header_counts_only_whole_aligned_and_in_the_first_8_kib),
        cmocka_unit_test(a_kernel_cut_anywhere_is_refused),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
