/* A bzImage is unpacked, moved and entered as Linux's boot protocol says, and refused where it is damaged. */
#include "boot_fake.h"

#include "boot/bzimage.h"
#include "boot/e820.h"

#define INITRD "this is the initrd"

static struct mem mem;
static struct cpu_state *cpu;

static int setup(void **state)
{
    (void)state;
    cpu = fake_cpu();
    return mem_init(&mem, MIB(64), false, NULL);
}

static int teardown(void **state)
{
    (void)state;
    mem_fini(&mem);
    free(cpu);
    return 0;
}

static int boot(struct fake_bytes kernel, const char *cmdline, const char *initrd, struct err *e)
{
    struct boot_machine machine = {.mem = &mem, .cmdline = cmdline, .acpi = {.cpus = 1}};
    struct boot_image *img;
    int ret = boot_image_from_memory(&img, "k", kernel.data, kernel.len, initrd, initrd ? strlen(initrd) : 0, e);

    if (ret)
        return ret;
    assert_string_equal(boot_image_protocol(img), "Linux 64-bit");
    ret = boot_place(img, &machine, cpu, e);
    boot_image_free(img);
    return ret;
}

static int parse(struct fake_bytes b, struct bzimage *bz, struct err *e)
{
    struct boot_file f = {.name = (char[]){"k"}, .data = b.data, .size = b.len, .fd = -1};

    return bzimage_parse(bz, &f, e);
}

static struct boot_params *zero_page(void)
{
    return mem_hva(&mem, BOOT_ZERO_PAGE_GPA, sizeof(struct boot_params));
}

static void every_format_boots_to_the_same_image(void **state)
{
    struct fake_elf spec = fake_vmlinux_spec();
    struct fake_bytes vmlinux = fake_elf(&spec);

    (void)state;
    for (enum fake_codec c = 0; c < FAKE_CODECS; c++) {
        struct fake_bytes b = fake_bzimage(c, vmlinux);
        struct err e = {{0}};

        assert_int_equal(mem_fill(&mem, 0, 0xee, mem.size), 0);
        assert_int_equal(boot(b, "nokaslr", NULL, &e), 0);
        assert_true(fake_segment_loaded(&mem, &spec, 0, 0x10, 0x10 + sizeof(FAKE_BANNER)));
        assert_true(fake_segment_loaded(&mem, &spec, 1, 0, 0));
        free(b.data);
    }
    free(vmlinux.data);
}

static void an_uncompressed_payload_boots(void **state)
{
    struct fake_elf spec = fake_vmlinux_spec();
    struct fake_bytes vmlinux = fake_elf(&spec), packed = fake_bzimage(FAKE_LZ4, vmlinux);
    size_t at = (FAKE_SETUP_SECTS + 1) * 512 + 0x40;
    struct fake_bytes b = fake_alloc(at + vmlinux.len);
    struct err e = {{0}};

    (void)state;
    memcpy(b.data, packed.data, at);
    memcpy(b.data + at, vmlinux.data, vmlinux.len);
    fake_put32(b, 0x24c, (uint32_t)vmlinux.len); /* payload_length */
    assert_int_equal(boot(b, "", NULL, &e), 0);
    assert_true(fake_segment_loaded(&mem, &spec, 1, 0, 0));
    free(vmlinux.data);
    free(packed.data);
    free(b.data);
}

static void the_entry_state_is_that_of_the_64_bit_protocol(void **state)
{
    struct fake_bytes vmlinux = fake_vmlinux(), b = fake_bzimage(FAKE_ZSTD, vmlinux);
    const uint64_t *pml4, *pdpt, *pd;

    (void)state;
    assert_int_equal(boot(b, NULL, NULL, NULL), 0);
    assert_int_equal(cpu->rip, MIB(16) + 0x40);
    assert_int_equal(cpu->gpr[GPR_RSI], BOOT_ZERO_PAGE_GPA);
    assert_int_equal(cpu->seg[SEG_CS].sel, 0x10);
    assert_int_equal(cpu->seg[SEG_DS].sel, 0x18);
    assert_int_equal(cpu->seg[SEG_SS].sel, 0x18);
    assert_true(cpu->efer & EFER_LMA);
    assert_false(cpu->rflags & FLAG_IF);
    pml4 = mem_hva(&mem, cpu->cr3, PAGE_SIZE);
    pdpt = mem_hva(&mem, pml4[0] & ~PAGE_MASK, PAGE_SIZE);
    for (unsigned gib = 0; gib < 4; gib++) {
        pd = mem_hva(&mem, pdpt[gib] & ~PAGE_MASK, PAGE_SIZE);
        for (unsigned i = 0; i < 512; i++)
            assert_int_equal(pd[i], (GIB(gib) + MIB(2) * i) | 0x83);
    }
    assert_int_equal(pdpt[4], 0);
    free(vmlinux.data);
    free(b.data);
}

static void the_zero_page_tells_what_there_is(void **state)
{
    struct fake_bytes vmlinux = fake_vmlinux(), b = fake_bzimage(FAKE_LZ4, vmlinux);
    struct boot_params *z = zero_page();
    struct e820_map map;

    (void)state;
    assert_int_equal(mem_fill(&mem, 0, 0xee, MIB(1)), 0);
    assert_int_equal(boot(b, "console=ttyS0", INITRD, NULL), 0);
    assert_int_equal(z->hdr.boot_flag, 0xaa55);
    assert_int_equal(z->hdr.header, 0x53726448);
    assert_int_equal(z->hdr.version, 0x20f);
    assert_int_equal(z->hdr.type_of_loader, 0xff);
    assert_true(z->hdr.loadflags & LOADED_HIGH);
    assert_int_equal(z->sentinel, 0);
    assert_int_equal(z->hdr.kernel_alignment, MIB(2));
    assert_string_equal(mem_hva(&mem, z->hdr.cmd_line_ptr, 14), "console=ttyS0");
    assert_int_equal(z->hdr.ramdisk_size, strlen(INITRD));
    assert_memory_equal(mem_hva(&mem, z->hdr.ramdisk_image, strlen(INITRD)), INITRD, strlen(INITRD));
    assert_memory_equal(mem_hva(&mem, z->acpi_rsdp_addr, 8), "RSD PTR ", 8);
    e820_build(&map, &mem);
    assert_int_equal(z->e820_entries, map.count);
    for (unsigned i = 0; i < map.count; i++) {
        assert_int_equal(z->e820_table[i].addr, map.range[i].gpa);
        assert_int_equal(z->e820_table[i].size, map.range[i].size);
        assert_int_equal(z->e820_table[i].type, map.range[i].type);
    }
    free(vmlinux.data);
    free(b.data);
}

static void without_an_initrd_the_zero_page_names_none(void **state)
{
    struct fake_bytes vmlinux = fake_vmlinux(), b = fake_bzimage(FAKE_LZ4, vmlinux);

    (void)state;
    assert_int_equal(boot(b, "", NULL, NULL), 0);
    assert_int_equal(zero_page()->hdr.ramdisk_image, 0);
    assert_int_equal(zero_page()->hdr.ramdisk_size, 0);
    free(vmlinux.data);
    free(b.data);
}

static void every_boot_gets_a_new_random_seed(void **state)
{
    struct fake_bytes vmlinux = fake_vmlinux(), b = fake_bzimage(FAKE_LZ4, vmlinux);
    uint8_t first[32];

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        const struct setup_data *seed;

        assert_int_equal(boot(b, "", NULL, NULL), 0);
        seed = mem_hva(&mem, zero_page()->hdr.setup_data, PAGE_SIZE);
        assert_int_equal(seed->next, 0);
        assert_int_equal(seed->type, SETUP_RNG_SEED);
        assert_true(seed->len >= sizeof(first));
        if (i)
            assert_memory_not_equal(first, seed->data, sizeof(first));
        memcpy(first, seed->data, sizeof(first));
    }
    free(vmlinux.data);
    free(b.data);
}

/* How far the three words that the relocation table names were moved. */
static uint64_t moved_by(void)
{
    const uint8_t *text = mem_hva(&mem, MIB(16), 0x3000);
    uint64_t v64, delta;
    uint32_t v32, inverse;

    memcpy(&v64, text + FAKE_RELOC64, 8);
    memcpy(&v32, text + FAKE_RELOC32, 4);
    memcpy(&inverse, text + FAKE_RELOC_INVERSE, 4);
    delta = v64 - FAKE_RELOC_VALUE;
    assert_int_equal(v32, (uint32_t)(FAKE_RELOC_VALUE + delta));
    assert_int_equal(inverse, (uint32_t)(FAKE_RELOC_VALUE - delta));
    return delta;
}

static void the_virtual_base_is_random(void **state)
{
    struct fake_bytes vmlinux = fake_vmlinux(), b = fake_bzimage(FAKE_LZ4, vmlinux);
    unsigned unlike = 0;
    uint64_t first = 0;

    (void)state;
    for (unsigned i = 0; i < 16; i++) {
        uint64_t delta;

        assert_int_equal(boot(b, "nokaslr=0 xnokaslr", NULL, NULL), 0);
        assert_true(zero_page()->hdr.loadflags & KASLR_FLAG);
        delta = moved_by();
        assert_int_equal(delta % MIB(2), 0);
        assert_true(MIB(18) + 0x5000 + delta <= GIB(1));
        if (!i)
            first = delta;
        unlike += delta != first;
    }
    assert_true(unlike > 0);
    free(vmlinux.data);
    free(b.data);
}

static void nokaslr_leaves_the_kernel_where_it_was_linked(void **state)
{
    struct fake_bytes vmlinux = fake_vmlinux(), b = fake_bzimage(FAKE_LZ4, vmlinux);

    (void)state;
    assert_int_equal(boot(b, "quiet nokaslr", NULL, NULL), 0);
    assert_int_equal(moved_by(), 0);
    assert_false(zero_page()->hdr.loadflags & KASLR_FLAG);
    free(vmlinux.data);
    free(b.data);
}

static void a_kernel_without_a_table_is_not_called_moved(void **state)
{
    struct fake_elf spec = fake_vmlinux_spec();
    struct fake_bytes vmlinux = fake_elf(&spec), b = fake_bzimage(FAKE_LZ4, vmlinux);

    (void)state;
    assert_int_equal(boot(b, "", NULL, NULL), 0);
    assert_false(zero_page()->hdr.loadflags & KASLR_FLAG);
    free(vmlinux.data);
    free(b.data);
}

static void a_kernel_cut_anywhere_is_refused(void **state)
{
    struct fake_bytes vmlinux = fake_vmlinux();

    (void)state;
    for (enum fake_codec c = 0; c < FAKE_CODECS; c++) {
        struct fake_bytes b = fake_bzimage(c, vmlinux);

        for (size_t len = 1; len < b.len; len += len < 0x280 ? 1 : 41) {
            struct fake_bytes cut = fake_cut(b, len);
            struct err e = {{0}};

            assert_int_equal(boot(cut, "", NULL, &e), -EINVAL);
            assert_says(e, "kernel k ");
            assert_says(e, len < 0x206 ? "none that umbra boots" : "cut short");
            free(cut.data);
        }
        free(b.data);
    }
    free(vmlinux.data);
}

static void damaged_payloads_are_refused_with_the_reason(void **state)
{
    struct fake_bytes vmlinux = fake_vmlinux(), b = fake_bzimage(FAKE_ZSTD, vmlinux);
    size_t payload = (FAKE_SETUP_SECTS + 1) * 512 + 0x40;
    struct err e;

    (void)state;
    fake_put32(b, b.len - 4, (uint32_t)vmlinux.len - 1);
    assert_int_equal(boot(b, "", NULL, &e), -EINVAL);
    assert_says(e, "kernel k cannot be unpacked");
    fake_put32(b, b.len - 4, UINT32_MAX);
    assert_int_equal(boot(b, "", NULL, &e), -EINVAL);
    assert_says(e, "would unpack to");
    fake_put32(b, b.len - 4, 0);
    assert_int_equal(boot(b, "", NULL, &e), -EINVAL);
    fake_put32(b, b.len - 4, (uint32_t)vmlinux.len);
    memcpy(b.data + payload, "BZh9", 4);
    assert_int_equal(boot(b, "", NULL, &e), -EINVAL);
    assert_says(e, "compressed with bzip2");
    memcpy(b.data + payload, "????", 4);
    assert_int_equal(boot(b, "", NULL, &e), -EINVAL);
    assert_says(e, "does not know");
    free(vmlinux.data);
    free(b.data);
}

static void headers_that_cannot_be_served_are_refused(void **state)
{
    struct fake_bytes vmlinux = fake_vmlinux(), b = fake_bzimage(FAKE_ZSTD, vmlinux);
    struct bzimage bz;
    struct err e;

    (void)state;
    assert_int_equal(parse(b, &bz, &e), 0);
    assert_int_equal(bz.vmlinux_len, vmlinux.len);
    b.data[0x206] = 7; /* protocol 2.07 */
    assert_int_equal(parse(b, &bz, &e), -EINVAL);
    assert_says(e, "too old (boot protocol 2.07)");
    b.data[0x206] = 15;
    b.data[0x236] = 0; /* xloadflags */
    assert_int_equal(parse(b, &bz, &e), -EINVAL);
    assert_says(e, "32-bit Linux");
    b.data[0x236] = XLF_KERNEL_64;
    fake_put32(b, 0x248, UINT32_MAX); /* payload_offset */
    assert_int_equal(parse(b, &bz, &e), -EINVAL);
    assert_says(e, "cut short");
    fake_put32(b, 0x248, 0x40);
    fake_put32(b, 0x24c, 3); /* payload_length */
    assert_int_equal(parse(b, &bz, &e), -EINVAL);
    assert_says(e, "names no payload");
    free(vmlinux.data);
    free(b.data);
}

static void a_payload_that_is_no_64_bit_elf_is_refused(void **state)
{
    struct fake_elf spec = {.entry = MIB(1), .count = 1, .seg = {{MIB(1), MIB(1), 0x1000, 0x1000}}};
    struct fake_bytes elf32 = fake_elf(&spec), b = fake_bzimage(FAKE_XZ, elf32);
    struct fake_bytes text = fake_alloc(1000), t = fake_bzimage(FAKE_XZ, text);
    struct err e;

    (void)state;
    assert_int_equal(boot(b, "", NULL, &e), -EINVAL);
    assert_says(e, "32-bit Linux");
    assert_int_equal(boot(t, "", NULL, &e), -EINVAL);
    assert_says(e, "k is ");
    free(elf32.data);
    free(b.data);
    free(text.data);
    free(t.data);
}

static void a_command_line_is_limited_by_the_header(void **state)
{
    struct fake_bytes vmlinux = fake_vmlinux(), b = fake_bzimage(FAKE_LZ4, vmlinux);
    char line[2049];
    struct err e;

    (void)state;
    memset(line, 'x', sizeof(line));
    line[2048] = 0;
    assert_int_equal(boot(b, line, NULL, &e), -E2BIG);
    assert_says(e, "at most 2047");
    line[2047] = 0;
    assert_int_equal(boot(b, line, NULL, &e), 0);
    free(vmlinux.data);
    free(b.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_boots_to_the_same_image),
        cmocka_unit_test(an_uncompressed_payload_boots),
        cmocka_unit_test(the_entry_state_is_that_of_the_64_bit_protocol),
        cmocka_unit_test(the_zero_page_tells_what_there_is),
        cmocka_unit_test(without_an_initrd_the_zero_page_names_none),
        cmocka_unit_test(every_boot_gets_a_new_random_seed),
        cmocka_unit_test(the_virtual_base_is_random),
        cmocka_unit_test(nokaslr_leaves_the_kernel_where_it_was_linked),
        cmocka_unit_test(a_kernel_without_a_table_is_not_called_moved),
        cmocka_unit_test(a_kernel_cut_anywhere_is_refused),
        cmocka_unit_test(damaged_payloads_are_refused_with_the_reason),
        cmocka_unit_test(headers_that_cannot_be_served_are_refused),
        cmocka_unit_test(a_payload_that_is_no_64_bit_elf_is_refused),
        cmocka_unit_test(a_command_line_is_limited_by_the_header),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
