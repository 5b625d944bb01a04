/* Fuzzes the boot loader: kernel files of every kind, damaged as the input says, opened and placed into 64 MiB of guest memory. */
#include "unit/boot_kernels.h"

#define MEM_SIZE MIB(64)
#define FLAT_LEN 0x400

enum kind {
    RAW, /* the input is the kernel */
    VMLINUX,
    PVH_32,
    PVH_64,
    MULTIBOOT_ELF,
    MULTIBOOT_FLAT,
    BZIMAGE,                        /* and the other codecs */
    PACKED = BZIMAGE + FAKE_CODECS, /* the vmlinux is damaged before it is packed */
    KINDS,
};

enum option { NOKASLR = 1, WITH_INITRD = 2, CUT = 4, WITH_PCI = 8, WITH_CMDLINE = 16 };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mem mem;
static struct cpu_state cpu;
static struct fake_bytes base[KINDS];

static struct fake_bytes small_elf(bool is64, uint32_t pvh_entry, bool multiboot)
{
    struct fake_elf f = {.is64 = is64,
                         .multiboot = multiboot,
                         .multiboot_flags = 3,
                         .entry = MIB(1),
                         .pvh_entry = pvh_entry,
                         .count = 2,
                         .seg = {{MIB(1), MIB(1), 0x100, 0x100}, {MIB(2), MIB(2), 0x40, 0x1000}}};

    return fake_elf(&f);
}

static struct fake_bytes flat_multiboot(void)
{
    const uint32_t load = (uint32_t)MIB(2), flags = 0x10003;
    const uint32_t words[] = {0x1badb002, flags, -(0x1badb002u + flags), load + 64, load, load + 0x200, load + 0x2000, load + 16};
    struct fake_bytes b = fake_alloc(FLAT_LEN);

    memcpy(b.data + 64, words, sizeof(words));
    return b;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fake_check(!mem_init(&mem, MEM_SIZE, false, NULL));
    base[VMLINUX] = base[PACKED] = fake_vmlinux();
    base[PVH_32] = small_elf(false, (uint32_t)MIB(1), false);
    base[PVH_64] = small_elf(true, (uint32_t)MIB(1), false);
    base[MULTIBOOT_ELF] = small_elf(false, 0, true);
    base[MULTIBOOT_FLAT] = flat_multiboot();
    for (enum fake_codec c = 0; c < FAKE_CODECS; c++)
        base[BZIMAGE + c] = fake_bzimage(c, base[VMLINUX]);
    return 0;
}

/* The base with bytes replaced: the input is triples of a 16-bit position and a value. */
static struct fake_bytes damaged(struct fake_bytes whole, unsigned options, const uint8_t *data, size_t size)
{
    size_t len = whole.len;
    struct fake_bytes b;

    if (options & CUT && size >= 2) {
        len = 1 + (data[0] | (size_t)data[1] << 8) % len;
        data += 2;
        size -= 2;
    }
    b = fake_alloc(len);
    memcpy(b.data, whole.data, len);
    for (; size >= 3; data += 3, size -= 3)
        b.data[(data[0] | (size_t)data[1] << 8) % len] = data[2];
    return b;
}

static struct fake_bytes make_kernel(unsigned kind, unsigned options, const uint8_t *data, size_t size)
{
    struct fake_bytes b, packed;

    if (kind == RAW) {
        b = fake_alloc(size);
        memcpy(b.data, data, size);
        return b;
    }
    b = damaged(base[kind], options, data, size);
    if (kind != PACKED)
        return b;
    packed = fake_bzimage(FAKE_LZ4, b);
    free(b.data);
    return packed;
}

/* What is placed starts in RAM; what is refused says why, in one line. */
static void boot(struct fake_bytes kernel, unsigned options)
{
    struct boot_machine machine = {.mem = &mem,
                                   .cmdline = options & NOKASLR        ? "nokaslr"
                                              : options & WITH_CMDLINE ? "console=ttyS0 quiet"
                                                                       : NULL,
                                   .acpi = {.cpus = 1 + options % 64, .pci = options & WITH_PCI}};
    const uint8_t initrd[5000] = {1};
    struct boot_image *img;
    struct err e = {{0}};
    int ret = boot_image_from_memory(&img, "kernel", kernel.data, kernel.len, options & WITH_INITRD ? initrd : NULL, sizeof(initrd), &e);

    if (!ret) {
        fake_check(*boot_image_protocol(img) != 0);
        ret = boot_place(img, &machine, &cpu, &e);
        boot_image_free(img);
    }
    fake_check(ret ? ret < 0 && *e.text && !strchr(e.text, '\n') : cpu.rip >= BOOT_KERNEL_MIN_GPA && cpu.rip < MEM_SIZE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fake_bytes kernel;

    if (size < 2)
        return 0;
    kernel = make_kernel(data[0] % KINDS, data[1], data + 2, size - 2);
    boot(kernel, data[1]);
    free(kernel.data);
    return 0;
}
