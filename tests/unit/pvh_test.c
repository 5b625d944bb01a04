/* A kernel with a PVH note is entered in 32-bit mode with a start information that tells all there is. */
#include "boot_fake.h"

#include "boot/e820.h"

#define INITRD "module"

/* As Xen's public/arch-x86/hvm/start_info.h lays them out. */
struct start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist, cmdline, rsdp, memmap;
    uint32_t memmap_entries, reserved;
};

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

static struct fake_elf spec(bool is64)
{
    return (struct fake_elf){.is64 = is64,
                             .entry = MIB(1),
                             .pvh_entry = MIB(1) + 0x30,
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
    assert_string_equal(boot_image_protocol(img), "PVH");
    ret = boot_place(img, &machine, cpu, e);
    boot_image_free(img);
    return ret;
}

static const struct start_info *info(void)
{
    return mem_hva(&mem, cpu->gpr[GPR_RBX], sizeof(struct start_info));
}

static void both_classes_are_entered_at_the_note(void **state)
{
    (void)state;
    for (int is64 = 0; is64 < 2; is64++) {
        struct fake_elf s = spec(is64);
        struct fake_bytes b = fake_elf(&s);

        assert_int_equal(mem_fill(&mem, 0, 0xee, mem.size), 0);
        assert_int_equal(boot(b, "", NULL, NULL), 0);
        assert_int_equal(cpu->rip, MIB(1) + 0x30);
        assert_true(fake_segment_loaded(&mem, &s, 0, 0, 0));
        assert_true(fake_segment_loaded(&mem, &s, 1, 0, 0));
        free(b.data);
    }
}

static void the_entry_state_is_flat_32_bit_without_paging(void **state)
{
    struct fake_elf s = spec(false);
    struct fake_bytes b = fake_elf(&s);

    (void)state;
    assert_int_equal(boot(b, NULL, NULL, NULL), 0);
    assert_int_equal(cpu->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(cpu->cr4, 0);
    assert_int_equal(cpu->efer, 0);
    assert_int_equal(cpu->rflags & (FLAG_IF | FLAG_TF | FLAG_VM), 0);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        assert_int_equal(cpu->seg[i].base, 0);
        assert_int_equal(cpu->seg[i].limit, 0xffffffff);
    }
    assert_true(cpu->seg[SEG_CS].attr & SEG_DB);
    free(b.data);
}

static void the_start_information_is_of_version_1(void **state)
{
    struct fake_elf s = spec(false);
    struct fake_bytes b = fake_elf(&s);

    (void)state;
    assert_int_equal(mem_fill(&mem, 0, 0xee, MIB(1)), 0);
    assert_int_equal(boot(b, "a=1 b", NULL, NULL), 0);
    assert_int_equal(info()->magic, 0x336ec578);
    assert_int_equal(info()->version, 1);
    assert_int_equal(info()->flags, 0);
    assert_int_equal(info()->nr_modules, 0);
    assert_int_equal(info()->reserved, 0);
    assert_string_equal(mem_hva(&mem, info()->cmdline, 6), "a=1 b");
    assert_memory_equal(mem_hva(&mem, info()->rsdp, 8), "RSD PTR ", 8);
    free(b.data);
}

static void the_memory_map_is_the_e820_map(void **state)
{
    struct fake_elf s = spec(false);
    struct fake_bytes b = fake_elf(&s);
    struct e820_map map;

    (void)state;
    assert_int_equal(boot(b, "", NULL, NULL), 0);
    e820_build(&map, &mem);
    assert_int_equal(info()->memmap_entries, map.count);
    for (unsigned i = 0; i < map.count; i++) {
        struct {
            uint64_t addr, size;
            uint32_t type, reserved;
        } entry;

        assert_int_equal(mem_read(&mem, info()->memmap + i * sizeof(entry), &entry, sizeof(entry)), 0);
        assert_int_equal(entry.addr, map.range[i].gpa);
        assert_int_equal(entry.size, map.range[i].size);
        assert_int_equal(entry.type, map.range[i].type);
        assert_int_equal(entry.reserved, 0);
    }
    free(b.data);
}

static void the_initrd_is_the_only_module(void **state)
{
    struct fake_elf s = spec(false);
    struct fake_bytes b = fake_elf(&s);
    uint64_t module[4]; /* address, size, command line, reserved */

    (void)state;
    assert_int_equal(boot(b, "", INITRD, NULL), 0);
    assert_int_equal(info()->nr_modules, 1);
    assert_int_equal(mem_read(&mem, info()->modlist, module, sizeof(module)), 0);
    assert_int_equal(module[1], strlen(INITRD));
    assert_memory_equal(mem_hva(&mem, module[0], module[1]), INITRD, strlen(INITRD));
    assert_int_equal(module[3], 0);
    free(b.data);
}

static void a_kernel_cut_anywhere_is_refused(void **state)
{
    struct fake_elf s = spec(false);
    struct fake_bytes b = fake_elf(&s);

    (void)state;
    for (size_t len = 1; len < b.len; len += 3) {
        struct fake_bytes cut = fake_cut(b, len);
        struct err e = {{0}};

        assert_int_equal(boot(cut, "", NULL, &e), -EINVAL);
        assert_says(e, "k ");
        assert_says(e, "cut short");
        free(cut.data);
    }
    free(b.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_classes_are_entered_at_the_note),  cmocka_unit_test(the_entry_state_is_flat_32_bit_without_paging),
        cmocka_unit_test(the_start_information_is_of_version_1), cmocka_unit_test(the_memory_map_is_the_e820_map),
        cmocka_unit_test(the_initrd_is_the_only_module),         cmocka_unit_test(a_kernel_cut_anywhere_is_refused),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
