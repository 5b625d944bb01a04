/* Enters kernels by multiboot 1: 32-bit, no paging, with memory map, command line and the initrd as a module. */
#include "boot/multiboot.h"

#include <errno.h>
#include <string.h>

#include "boot/e820.h"
#include "boot/layout.h"
#include "boot/loader.h"
#include "boot/longmode.h"
#include "boot/ram.h"

#define SEARCH_BYTES 8192
#define HEADER_MAGIC 0x1badb002u
#define LOADER_MAGIC 0x2badb002u

/* Header flags (3.1.2). A loader refuses the mandatory ones, 0-15, that it does not know. */
#define WANTS_PAGE_ALIGN BIT(0)
#define WANTS_MEMORY BIT(1)
#define WANTS_VIDEO BIT(2)
#define MANDATORY 0xffffu
#define HAS_ADDRESSES BIT(16)

/* Information flags (3.3). */
#define INFO_MEMORY BIT(0)
#define INFO_CMDLINE BIT(2)
#define INFO_MODULES BIT(3)
#define INFO_MMAP BIT(6)
#define INFO_LOADER BIT(9)

struct header_addresses { /* 12 bytes into the header */
    uint32_t header, load, load_end, bss_end, entry;
};

struct info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr, drives_length,
        drives_addr, config_table, boot_loader_name, apm_table;
};

struct module {
    uint32_t start, end, string, reserved;
};

struct mmap_entry {
    uint32_t size; /* of what follows */
    uint64_t gpa, bytes;
    uint32_t type;
} __attribute__((packed));

/* All that the information points to, written at BOOT_INFO_GPA as it is. */
struct block {
    struct info info;
    struct module module;
    struct mmap_entry mmap[E820_MAX];
    char loader[8];
    char module_name[256];
};

bool multiboot_find(struct multiboot_header *h, const void *data, size_t size)
{
    const uint8_t *p = data;

    for (size_t at = 0; at + 12 <= MIN(size, SEARCH_BYTES); at += 4) {
        uint32_t word[3];

        memcpy(word, p + at, sizeof(word));
        if (word[0] == HEADER_MAGIC && word[0] + word[1] + word[2] == 0) {
            *h = (struct multiboot_header){.at = at, .flags = word[1]};
            return true;
        }
    }
    return false;
}

/* Describes the part of the file that the header's addresses name (3.1.3) as one segment. */
static int use_addresses(struct elf_image *elf, const struct multiboot_header *h, const struct boot_file *f, struct err *e)
{
    struct header_addresses a;
    uint64_t off, file_len, mem_len;

    if (f->size - h->at < 12 + sizeof(a))
        return err_set(e, EINVAL, "kernel %s is cut short: its multiboot header lies beyond the end of the file (%zu bytes)", f->name,
                       f->size);
    memcpy(&a, f->data + h->at + 12, sizeof(a));
    if (a.load > a.header || a.header - a.load > h->at || (a.load_end && a.load_end < a.load))
        return err_set(e, EINVAL, "kernel %s is damaged: its multiboot header's addresses contradict each other", f->name);
    off = h->at - (a.header - a.load);
    file_len = a.load_end ? a.load_end - a.load : f->size - off;
    if (file_len > f->size - off)
        return err_set(e, EINVAL, "kernel %s is cut short: what it wants loaded lies beyond the end of the file (%zu bytes)", f->name,
                       f->size);
    mem_len = a.bss_end ? (uint64_t)a.bss_end - a.load : file_len;
    if ((a.bss_end && a.bss_end < a.load + file_len) || !mem_len || a.entry < a.load || a.entry - a.load >= mem_len)
        return err_set(e, EINVAL, "kernel %s is damaged: its multiboot header's addresses contradict each other", f->name);
    *elf = (struct elf_image){.data = f->data,
                              .size = f->size,
                              .name = f->name,
                              .entry = a.entry,
                              .low = a.load,
                              .high = a.load + mem_len,
                              .file_end = f->size,
                              .count = 1,
                              .seg = {{.off = off, .file_len = file_len, .vaddr = a.load, .paddr = a.load, .mem_len = mem_len}}};
    return 0;
}

int multiboot_parse(const struct multiboot_header *h, struct elf_image *elf, const struct boot_file *f, struct err *e)
{
    uint32_t unknown = h->flags & MANDATORY & ~(uint32_t)(WANTS_PAGE_ALIGN | WANTS_MEMORY | WANTS_VIDEO);

    if (unknown)
        return err_set(e, ENOTSUP, "kernel %s asks for multiboot features that umbra does not have (flags 0x%x)", f->name, unknown);
    if (h->flags & WANTS_VIDEO)
        return err_set(e, ENOTSUP, "kernel %s asks for a video mode in its multiboot header, and this machine has no screen", f->name);
    if (h->flags & HAS_ADDRESSES)
        return use_addresses(elf, h, f, e);
    if (!elf->count)
        return err_set(e, EINVAL, "kernel %s has a multiboot header, but is no ELF file and gives no load addresses", f->name);
    if (elf->entry > UINT32_MAX)
        return err_set(e, EINVAL, "kernel %s has its entry at 0x%llx, and multiboot enters below 4 GiB; link it lower", f->name,
                       (unsigned long long)elf->entry);
    return 0;
}

static gpa_t inside(size_t offset)
{
    return BOOT_INFO_GPA + offset;
}

static void describe_memory(struct block *b, const struct mem *mem)
{
    struct e820_map map;

    e820_build(&map, mem);
    for (unsigned i = 0; i < map.count; i++)
        b->mmap[i] = (struct mmap_entry){.size = sizeof(b->mmap[i]) - sizeof(b->mmap[i].size),
                                         .gpa = map.range[i].gpa,
                                         .bytes = map.range[i].size,
                                         .type = map.range[i].type};
    b->info.mmap_addr = (uint32_t)inside(offsetof(struct block, mmap));
    b->info.mmap_length = (uint32_t)(map.count * sizeof(b->mmap[0]));
    b->info.mem_lower = (uint32_t)(BOOT_EBDA_GPA >> 10);
    b->info.mem_upper = (uint32_t)((ram_low_top(mem) - BOOT_KERNEL_MIN_GPA) >> 10);
}

/* The module's string: the file's name without its folder. */
static void describe_module(struct block *b, const struct boot_file *initrd, gpa_t at, uint64_t len)
{
    const char *slash = strrchr(initrd->name, '/');
    const char *name = slash ? slash + 1 : initrd->name;

    memcpy(b->module_name, name, MIN(strlen(name), sizeof(b->module_name) - 1));
    b->module = (struct module){
        .start = (uint32_t)at, .end = (uint32_t)(at + len), .string = (uint32_t)inside(offsetof(struct block, module_name))};
    b->info.mods_count = 1;
    b->info.mods_addr = (uint32_t)inside(offsetof(struct block, module));
}

static int multiboot_place(const struct boot_image *img, const struct boot_job *job, struct cpu_state *bsp, struct err *e)
{
    struct mem *mem = job->machine->mem;
    struct block b = {
        .info = {.flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER,
                 .cmdline = BOOT_CMDLINE_GPA,
                 .boot_loader_name = (uint32_t)inside(offsetof(struct block, loader))},
        .loader = "umbra",
    };
    uint64_t len;
    gpa_t at;
    int ret = elf_fits(&img->elf, mem, e);

    if (!ret)
        ret = elf_place(&img->elf, mem, e);
    if (!ret)
        ret = ram_place_cmdline(mem, job->cmdline, BOOT_CMDLINE_MAX - 1, e);
    if (!ret)
        ret = boot_place_initrd(job, img->elf.high, UINT32_MAX, &at, &len, e);
    if (ret)
        return ret;
    describe_memory(&b, mem);
    if (job->initrd)
        describe_module(&b, job->initrd, at, len);
    ret = ram_write(mem, BOOT_INFO_GPA, &b, sizeof(b), "the multiboot information", e);
    if (!ret)
        ret = flat32_enter(mem, (uint32_t)img->elf.entry, bsp, e);
    if (ret)
        return ret;
    bsp->gpr[GPR_RAX] = LOADER_MAGIC;
    bsp->gpr[GPR_RBX] = BOOT_INFO_GPA;
    return 0;
}

const struct boot_protocol multiboot_protocol = {.name = "multiboot", .place = multiboot_place};
