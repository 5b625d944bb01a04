/* Which protocol an image gets, what an extracted vmlinux is told, and that a reset boots anew. */
#include "boot_fake.h"

#include <unistd.h>

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

static struct boot_machine machine(const char *cmdline)
{
    return (struct boot_machine){.mem = &mem, .cmdline = cmdline, .acpi = {.cpus = 1}};
}

static void protocol_is(const struct fake_elf *spec, const char *protocol)
{
    struct fake_bytes b = fake_elf(spec);
    struct boot_image *img;
    struct err e = {{0}};

    assert_int_equal(boot_image_from_memory(&img, "k", b.data, b.len, NULL, 0, &e), 0);
    assert_string_equal(boot_image_protocol(img), protocol);
    boot_image_free(img);
    free(b.data);
}

static void linux_comes_before_multiboot_and_multiboot_before_pvh(void **state)
{
    struct fake_elf spec = fake_vmlinux_spec();

    (void)state;
    protocol_is(&spec, "Linux 64-bit");
    spec.pvh_entry = MIB(16);
    spec.multiboot = true;
    protocol_is(&spec, "Linux 64-bit");
    spec.linux_banner = false; /* linked like Linux, but another kernel */
    protocol_is(&spec, "multiboot");
    spec.multiboot = false;
    protocol_is(&spec, "PVH");
}

static void a_32_bit_image_is_never_64_bit_linux(void **state)
{
    struct fake_elf spec = fake_vmlinux_spec();

    (void)state;
    spec.is64 = false;
    spec.pvh_entry = MIB(16);
    protocol_is(&spec, "PVH");
    spec.multiboot = true;
    protocol_is(&spec, "multiboot");
}

static void refused(const void *data, size_t len, const char *what)
{
    struct boot_image *img = NULL;
    struct err e = {{0}};

    assert_int_equal(boot_image_from_memory(&img, "the-file", data, len, NULL, 0, &e), -EINVAL);
    assert_null(img);
    assert_says(e, "the-file");
    assert_says(e, what);
}

static void what_is_no_kernel_is_refused_by_what_it_is(void **state)
{
    static const char cpio[] = "070701000000010000", gzip[] = "\x1f\x8b\x08\0\0\0\0\0\0\0", text[] = "#!/bin/sh\n";
    struct fake_elf spec = {.is64 = true, .entry = 0x400000, .count = 1, .seg = {{0x400000, 0x400000, 0x1000, 0x1000}}};
    struct fake_bytes program = fake_elf(&spec);

    (void)state;
    refused(cpio, sizeof(cpio), "--kernel and --initrd swapped");
    refused(gzip, sizeof(gzip), "compressed with gzip as a whole; unpack it first");
    refused(text, sizeof(text), "none that umbra boots");
    refused("", 1, "none that umbra boots");
    refused(program.data, program.len, "neither a 64-bit Linux nor");
    free(program.data);
}

static void an_extracted_vmlinux_gets_a_header_made_up_for_it(void **state)
{
    struct fake_bytes b = fake_vmlinux();
    struct boot_params *z = mem_hva(&mem, BOOT_ZERO_PAGE_GPA, sizeof(*z));
    struct boot_machine m = machine("nokaslr");
    struct fake_elf spec = fake_vmlinux_spec();
    struct boot_image *img;

    (void)state;
    assert_int_equal(mem_fill(&mem, 0, 0xee, mem.size), 0);
    assert_int_equal(boot_image_from_memory(&img, "k", b.data, b.len, "initrd", 6, NULL), 0);
    assert_int_equal(boot_place(img, &m, cpu, NULL), 0);
    assert_int_equal(cpu->rip, spec.entry);
    assert_int_equal(cpu->gpr[GPR_RSI], BOOT_ZERO_PAGE_GPA);
    assert_int_equal(z->hdr.boot_flag, 0xaa55);
    assert_int_equal(z->hdr.header, 0x53726448);
    assert_true(z->hdr.version >= 0x20c);
    assert_int_equal(z->hdr.type_of_loader, 0xff);
    assert_int_equal(z->hdr.loadflags, LOADED_HIGH);
    assert_int_equal(z->hdr.kernel_alignment, MIB(2));
    assert_int_equal(z->hdr.cmdline_size, 2047);
    assert_int_equal(z->hdr.ramdisk_size, 6);
    assert_true(fake_segment_loaded(&mem, &spec, 1, 0, 0));
    boot_image_free(img);
    free(b.data);
}

static void an_extracted_vmlinux_is_moved_and_its_file_is_not(void **state)
{
    struct fake_bytes b = fake_vmlinux(), before = fake_cut(b, b.len);
    struct boot_machine m = machine("");
    struct boot_image *img;
    unsigned moved = 0;

    (void)state;
    assert_int_equal(boot_image_from_memory(&img, "k", b.data, b.len, NULL, 0, NULL), 0);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t value;

        assert_int_equal(boot_place(img, &m, cpu, NULL), 0);
        assert_int_equal(mem_read(&mem, MIB(16) + FAKE_RELOC64, &value, 8), 0);
        moved += value != FAKE_RELOC_VALUE;
    }
    assert_true(moved > 0);
    assert_memory_equal(b.data, before.data, b.len);
    boot_image_free(img);
    free(b.data);
    free(before.data);
}

static void a_reset_boots_anew_whatever_memory_holds(void **state)
{
    struct fake_bytes vmlinux = fake_vmlinux(), b = fake_bzimage(FAKE_GZIP, vmlinux);
    struct boot_machine m = machine("nokaslr");
    struct fake_elf spec = fake_vmlinux_spec();
    struct cpu_state *again = fake_cpu();
    struct boot_image *img;

    (void)state;
    assert_int_equal(boot_image_from_memory(&img, "k", b.data, b.len, NULL, 0, NULL), 0);
    assert_int_equal(boot_place(img, &m, cpu, NULL), 0);
    assert_int_equal(mem_fill(&mem, 0, 0xee, mem.size), 0);
    assert_int_equal(boot_place(img, &m, again, NULL), 0);
    assert_memory_equal(cpu, again, sizeof(*cpu));
    assert_true(fake_segment_loaded(&mem, &spec, 1, 0, 0));
    assert_memory_equal(mem_hva(&mem, ACPI_AREA_GPA, 8), "RSD PTR ", 8);
    boot_image_free(img);
    free(again);
    free(vmlinux.data);
    free(b.data);
}

static void an_initrd_larger_than_memory_is_refused(void **state)
{
    struct fake_bytes b = fake_vmlinux(), initrd = fake_alloc(MIB(60));
    struct boot_machine m = machine("");
    struct boot_image *img;
    struct err e;

    (void)state;
    assert_int_equal(boot_image_from_memory(&img, "k", b.data, b.len, initrd.data, initrd.len, &e), 0);
    assert_int_equal(boot_place(img, &m, cpu, &e), -ENOMEM);
    assert_says(e, "initrd (60 MiB) does not fit");
    assert_says(e, "--memory");
    boot_image_free(img);
    assert_int_equal(boot_image_from_memory(&img, "k", b.data, b.len, initrd.data, 0, &e), -EINVAL);
    assert_says(e, "empty");
    free(b.data);
    free(initrd.data);
}

static void memory_below_what_the_kernel_needs_is_refused(void **state)
{
    struct fake_bytes vmlinux = fake_vmlinux(), b = fake_bzimage(FAKE_LZ4, vmlinux);
    struct mem little;
    struct boot_machine m = machine("");
    struct boot_image *img;
    struct err e;

    (void)state;
    assert_int_equal(boot_image_from_memory(&img, "k", b.data, b.len, NULL, 0, &e), 0);
    m.mem = &little;
    assert_int_equal(mem_init(&little, MIB(8), false, NULL), 0);
    assert_int_equal(boot_place(img, &m, cpu, &e), -ENOMEM);
    assert_says(e, "k needs memory up to 19 MiB, the guest has 8 MiB; give it at least --memory 19M");
    mem_fini(&little);
    boot_image_free(img);
    free(vmlinux.data);
    free(b.data);
}

static void a_kernel_on_disk_that_changed_is_not_booted(void **state)
{
    char path[] = "/tmp/boot_test.XXXXXX";
    struct fake_bytes b = fake_vmlinux();
    struct boot_machine m = machine("");
    struct boot_image *img;
    struct err e;
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, b.data, b.len), b.len);
    assert_int_equal(boot_image_open(&img, path, NULL, &e), 0);
    assert_int_equal(boot_place(img, &m, cpu, &e), 0);
    assert_int_equal(ftruncate(fd, 100), 0);
    assert_int_equal(boot_place(img, &m, cpu, &e), -ESTALE);
    assert_says(e, path);
    boot_image_free(img);
    assert_int_equal(boot_image_open(&img, path, "/nonexistent/initrd", &e), -EINVAL);
    assert_says(e, "cut short");
    close(fd);
    unlink(path);
    free(b.data);
}

static void files_that_are_not_there_are_named(void **state)
{
    struct boot_image *img;
    struct err e;

    (void)state;
    assert_int_equal(boot_image_open(&img, "/nonexistent/kernel", NULL, &e), -ENOENT);
    assert_says(e, "kernel /nonexistent/kernel does not exist");
    assert_int_equal(boot_image_open(&img, "/tmp", NULL, &e), -EISDIR);
    boot_image_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linux_comes_before_multiboot_and_multiboot_before_pvh),
        cmocka_unit_test(a_32_bit_image_is_never_64_bit_linux),
        cmocka_unit_test(what_is_no_kernel_is_refused_by_what_it_is),
        cmocka_unit_test(an_extracted_vmlinux_gets_a_header_made_up_for_it),
        cmocka_unit_test(an_extracted_vmlinux_is_moved_and_its_file_is_not),
        cmocka_unit_test(a_reset_boots_anew_whatever_memory_holds),
        cmocka_unit_test(an_initrd_larger_than_memory_is_refused),
        cmocka_unit_test(memory_below_what_the_kernel_needs_is_refused),
        cmocka_unit_test(a_kernel_on_disk_that_changed_is_not_booted),
        cmocka_unit_test(files_that_are_not_there_are_named),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
