/* Checks that kernels and initrds fit into guest RAM, and says what would help where they don't. */
#include "boot/ram.h"

#include <errno.h>
#include <string.h>

#include "boot/layout.h"

/* Bytes as MiB for a sentence, rounded up. */
static unsigned long long mib(uint64_t bytes)
{
    return (bytes >> 20) + !!(bytes & (MIB(1) - 1));
}

gpa_t ram_low_top(const struct mem *mem)
{
    const struct mem_region *r = mem_find(mem, 0);

    return r && !(r->flags & MEM_READONLY) ? r->size : 0;
}

static int outside(const char *name, gpa_t at, uint64_t len, struct err *e)
{
    return err_set(e, EFAULT, "%s: 0x%llx-0x%llx is not in the guest's memory", name, (unsigned long long)at,
                   (unsigned long long)(at + len - 1));
}

int ram_write(struct mem *mem, gpa_t at, const void *data, uint64_t len, const char *name, struct err *e)
{
    return len && mem_write(mem, at, data, len) ? outside(name, at, len, e) : 0;
}

int ram_zero(struct mem *mem, gpa_t at, uint64_t len, const char *name, struct err *e)
{
    return len && mem_fill(mem, at, 0, len) ? outside(name, at, len, e) : 0;
}

int ram_place_cmdline(struct mem *mem, const char *cmdline, size_t max, struct err *e)
{
    size_t len = strlen(cmdline);

    max = MIN(max, BOOT_CMDLINE_MAX - 1);
    if (len > max)
        return err_set(e, E2BIG, "the kernel's command line has %zu bytes, this kernel takes at most %zu; shorten --append", len, max);
    return ram_write(mem, BOOT_CMDLINE_GPA, cmdline, len + 1, "the command line", e);
}

int ram_holds_kernel(const struct mem *mem, gpa_t low, uint64_t len, const char *name, struct err *e)
{
    gpa_t top = ram_low_top(mem);

    if (low < BOOT_KERNEL_MIN_GPA)
        return err_set(e, EINVAL, "%s loads at 0x%llx, below 1 MiB, where boot data stands; link it at 1 MiB or above", name,
                       (unsigned long long)low);
    if (low >= MEM_LOW_TOP || len > MEM_LOW_TOP - low)
        return err_set(e, EINVAL, "%s loads at 0x%llx-0x%llx, but kernels must lie below 3 GiB; link it lower", name,
                       (unsigned long long)low, (unsigned long long)(low + len - 1));
    if (low + len > top)
        return err_set(e, ENOMEM, "%s needs memory up to %llu MiB, the guest has %llu MiB; give it at least --memory %lluM", name,
                       mib(low + len), mib(mem->size), mib(low + len));
    return 0;
}

int ram_place_initrd(struct mem *mem, const char *name, const void *data, uint64_t len, gpa_t floor, gpa_t last, gpa_t *at, struct err *e)
{
    gpa_t top = ram_low_top(mem);

    floor = ALIGN_UP(floor, PAGE_SIZE);
    if (floor >= MEM_LOW_TOP || len > MEM_LOW_TOP - floor || floor + len - 1 > last)
        return err_set(e, EFBIG, "initrd %s (%llu MiB) is larger than this kernel can take: %llu MiB", name, mib(len),
                       (unsigned long long)(MIN(last, MEM_LOW_TOP - 1) + 1 - MIN(floor, MIN(last, MEM_LOW_TOP))) >> 20);
    if (floor + len > top)
        return err_set(e, ENOMEM, "initrd %s (%llu MiB) does not fit beside the kernel in %llu MiB of memory; give at least --memory %lluM",
                       name, mib(len), mib(mem->size), mib(floor + len + MIB(16)));
    *at = ALIGN_DOWN(MIN(top, last + 1) - len, PAGE_SIZE);
    if (*at < floor)
        *at = floor;
    return ram_write(mem, *at, data, len, name, e);
}
