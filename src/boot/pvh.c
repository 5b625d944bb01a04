/* Enters kernels by the PVH boot protocol (Xen docs/misc/pvh.pandoc): 32-bit, no paging, EBX = struct hvm_start_info. */
#include <assert.h>
#include <string.h>

#include "boot/e820.h"
#include "boot/layout.h"
#include "boot/loader.h"
#include "boot/longmode.h"
#include "boot/ram.h"

#define START_MAGIC 0x336ec578u /* "xEn3" with the 0x80 bit of the "E" set */
#define START_VERSION 1         /* has the memory map */

/* Xen public/arch-x86/hvm/start_info.h */
struct start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
    uint32_t memmap_entries, reserved;
};

struct modlist_entry {
    uint64_t paddr, size, cmdline_paddr, reserved;
};

struct memmap_entry {
    uint64_t addr, size;
    uint32_t type, reserved;
};

struct block {
    struct start_info info;
    struct modlist_entry module;
    struct memmap_entry memmap[E820_MAX];
};

static_assert(sizeof(struct start_info) == 56 && sizeof(struct modlist_entry) == 32 && sizeof(struct memmap_entry) == 24,
              "as the protocol has them");

static int pvh_place(const struct boot_image *img, const struct boot_job *job, struct cpu_state *bsp, struct err *e)
{
    struct mem *mem = job->machine->mem;
    struct block b = {.info = {.magic = START_MAGIC,
                               .version = START_VERSION,
                               .cmdline_paddr = BOOT_CMDLINE_GPA,
                               .rsdp_paddr = job->rsdp,
                               .memmap_paddr = BOOT_INFO_GPA + offsetof(struct block, memmap)}};
    struct e820_map map;
    int ret = elf_fits(&img->elf, mem, e);

    if (!ret)
        ret = elf_place(&img->elf, mem, e);
    if (!ret)
        ret = ram_place_cmdline(mem, job->cmdline, BOOT_CMDLINE_MAX - 1, e);
    if (!ret)
        ret = boot_place_initrd(job, img->elf.high, UINT32_MAX, &b.module.paddr, &b.module.size, e);
    if (ret)
        return ret;
    if (job->initrd) {
        b.info.nr_modules = 1;
        b.info.modlist_paddr = BOOT_INFO_GPA + offsetof(struct block, module);
    }
    e820_build(&map, mem);
    b.info.memmap_entries = map.count;
    for (unsigned i = 0; i < map.count; i++)
        b.memmap[i] = (struct memmap_entry){.addr = map.range[i].gpa, .size = map.range[i].size, .type = map.range[i].type};
    ret = ram_write(mem, BOOT_INFO_GPA, &b, sizeof(b), "the PVH start information", e);
    if (!ret)
        ret = flat32_enter(mem, (uint32_t)img->elf.pvh_entry, bsp, e);
    if (!ret)
        bsp->gpr[GPR_RBX] = BOOT_INFO_GPA;
    return ret;
}

const struct boot_protocol pvh_protocol = {.name = "PVH", .place = pvh_place};
