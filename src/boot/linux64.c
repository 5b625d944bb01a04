/* Enters a vmlinux by Linux's 64-bit boot protocol, where its own decompressor would. */
#include "boot/linux64.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "boot/e820.h"
#include "boot/layout.h"
#include "boot/loader.h"
#include "boot/longmode.h"
#include "boot/ram.h"
#include "boot/reloc.h"

#define KERNEL_MAP_BASE 0xffffffff80000000ULL /* __START_KERNEL_map */
#define ALIGN_MIN MIB(2)                      /* startup_64 refuses less */

#define LOADER_UNDEFINED 0xff
#define VID_MODE_NORMAL 0xffff
#define CMDLINE_OLD_MAX 255 /* before protocol 2.06 */
#define PROTOCOL_CMDLINE_SIZE 0x206

#define SEED_BYTES 64

/* struct setup_data, a node of boot_params.hdr.setup_data, with room for its data; Linux wipes it after use. */
struct seed_node {
    uint64_t next;
    uint32_t type, len;
    uint8_t data[SEED_BYTES];
};

bool linux64_recognize(const struct elf_image *elf)
{
    static const char banner[] = "Linux version ";
    const struct elf_segment *s = &elf->seg[0];

    if (!elf->is64 || s->vaddr - s->paddr != KERNEL_MAP_BASE)
        return false;
    for (unsigned i = 0; i < elf->count; i++)
        if (memmem(elf->data + elf->seg[i].off, elf->seg[i].file_len, banner, sizeof(banner) - 1))
            return true;
    return false;
}

static int random_bytes(void *out, size_t len, struct err *e)
{
    ssize_t got = getrandom(out, len, 0);

    if (got == (ssize_t)len) /* up to 256 bytes come whole */
        return 0;
    return err_set(e, got < 0 ? errno : EIO, "the host gives no random numbers: %s", strerror(got < 0 ? errno : EIO));
}

/* What the kernel's decompressor does for KASLR, for the virtual addresses; the physical ones stay. *moved tells whether. */
static int randomize_base(const struct elf_image *elf, uint8_t *data, uint64_t align, bool *moved, struct err *e)
{
    struct reloc_table table;
    uint64_t random;
    int ret;

    *moved = false;
    if (!reloc_find(&table, elf))
        return 0;
    ret = random_bytes(&random, sizeof(random), e);
    if (ret)
        return ret;
    if (align < ALIGN_MIN || align & (align - 1))
        align = ALIGN_MIN;
    reloc_apply(&table, elf, data, reloc_pick(random, elf->low, elf->high - elf->low, align));
    *moved = true;
    return 0;
}

static int place_seed(struct mem *mem, struct err *e)
{
    struct seed_node node = {.type = SETUP_RNG_SEED, .len = SEED_BYTES};
    int ret = random_bytes(node.data, sizeof(node.data), e);

    return ret ? ret : ram_write(mem, BOOT_SETUP_DATA_GPA, &node, sizeof(node), "the random seed", e);
}

static void fill_e820(struct boot_params *zero_page, const struct mem *mem)
{
    struct e820_map map;

    e820_build(&map, mem);
    zero_page->e820_entries = (uint8_t)map.count;
    for (unsigned i = 0; i < map.count; i++)
        zero_page->e820_table[i] = (struct boot_e820_entry){.addr = map.range[i].gpa, .size = map.range[i].size, .type = map.range[i].type};
}

static int place_zero_page(const struct setup_header *header, const struct boot_job *job, bool kaslr, gpa_t initrd, uint64_t initrd_len,
                           struct err *e)
{
    struct mem *mem = job->machine->mem;
    struct boot_params *zero_page = calloc(1, sizeof(*zero_page));
    struct setup_header *h;
    int ret;

    if (!zero_page)
        return err_set(e, ENOMEM, "no memory to make the kernel's boot parameters");
    h = &zero_page->hdr;
    *h = *header;
    h->vid_mode = VID_MODE_NORMAL;
    h->type_of_loader = LOADER_UNDEFINED;
    h->loadflags = (uint8_t)((h->loadflags & ~(unsigned)KASLR_FLAG) | LOADED_HIGH | (kaslr ? KASLR_FLAG : 0));
    h->cmd_line_ptr = BOOT_CMDLINE_GPA;
    h->ramdisk_image = (uint32_t)initrd;
    h->ramdisk_size = (uint32_t)initrd_len;
    h->setup_data = BOOT_SETUP_DATA_GPA;
    zero_page->acpi_rsdp_addr = job->rsdp;
    fill_e820(zero_page, mem);
    ret = ram_write(mem, BOOT_ZERO_PAGE_GPA, zero_page, sizeof(*zero_page), "the kernel's boot parameters", e);
    free(zero_page);
    return ret;
}

int linux64_place(const struct elf_image *elf, uint8_t *data, const struct setup_header *header, const struct boot_job *job,
                  struct cpu_state *bsp, struct err *e)
{
    struct mem *mem = job->machine->mem;
    size_t cmdline_max = header->version >= PROTOCOL_CMDLINE_SIZE ? header->cmdline_size : CMDLINE_OLD_MAX;
    bool kaslr = false;
    uint64_t initrd_len;
    gpa_t initrd;
    int ret = elf_fits(elf, mem, e);

    if (!ret && data && !cmdline_has(job->cmdline, "nokaslr"))
        ret = randomize_base(elf, data, header->kernel_alignment, &kaslr, e);
    if (!ret)
        ret = elf_place(elf, mem, e);
    if (!ret)
        ret = ram_place_cmdline(mem, job->cmdline, cmdline_max, e);
    if (!ret)
        ret = boot_place_initrd(job, elf->high, header->initrd_addr_max, &initrd, &initrd_len, e);
    if (!ret)
        ret = place_seed(mem, e);
    if (!ret)
        ret = place_zero_page(header, job, kaslr, initrd, initrd_len, e);
    if (!ret)
        ret = longmode_enter(mem, elf->entry, bsp, e);
    if (!ret)
        bsp->gpr[GPR_RSI] = BOOT_ZERO_PAGE_GPA;
    return ret;
}

/* What a bzImage of any kernel of the last years would say; a vmlinux has no header of its own. */
static const struct setup_header vmlinux_header = {
    .boot_flag = 0xaa55,
    .header = 0x53726448, /* "HdrS" */
    .version = 0x20f,
    .initrd_addr_max = 0x7fffffff,
    .kernel_alignment = ALIGN_MIN,
    .relocatable_kernel = 1,
    .min_alignment = 21, /* 2 MiB */
    .xloadflags = XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G,
    .cmdline_size = 2047,
};

/* A vmlinux that was extracted from a bzImage still has the relocation table behind it; one from the kernel's build has none. */
static int vmlinux_place(const struct boot_image *img, const struct boot_job *job, struct cpu_state *bsp, struct err *e)
{
    struct elf_image copy = img->elf;
    struct reloc_table table;
    uint8_t *data = NULL;
    int ret;

    if (!cmdline_has(job->cmdline, "nokaslr") && reloc_find(&table, &img->elf)) {
        data = malloc(img->elf.size);
        if (!data)
            return err_set(e, ENOMEM, "no memory to relocate kernel %s (%zu MiB)", img->kernel.name, img->elf.size >> 20);
        memcpy(data, img->elf.data, img->elf.size);
        copy.data = data;
    }
    ret = linux64_place(&copy, data, &vmlinux_header, job, bsp, e);
    free(data);
    return ret;
}

const struct boot_protocol vmlinux_protocol = {.name = "Linux 64-bit", .place = vmlinux_place};
