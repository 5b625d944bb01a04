/* Opens kernel files, tells which boot protocol each speaks, and has it placed. */
#include "boot/boot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/decompress.h"
#include "boot/layout.h"
#include "boot/linux64.h"
#include "boot/loader.h"
#include "boot/ram.h"

#define KERNEL_FILE_MAX GIB(2) /* a vmlinux with debug information has most of a GiB */
#define INITRD_FILE_MAX MEM_LOW_TOP

static int unknown_kernel(const struct boot_file *f, struct err *e)
{
    bool supported;
    const char *compression = decompress_name(f->data, f->size, &supported);

    if (compression)
        return err_set(e, EINVAL, "kernel %s is compressed with %s as a whole; unpack it first", f->name, compression);
    if (f->size >= 5 && !memcmp(f->data, "07070", 5))
        return err_set(e, EINVAL, "kernel %s is a cpio archive, as initrds are; were --kernel and --initrd swapped?", f->name);
    return err_set(e, EINVAL, "kernel %s is none that umbra boots: no bzImage, ELF vmlinux, PVH or multiboot image, or cut short", f->name);
}

/*
 * An image may speak several protocols. A Linux takes the 64-bit one, which leaves it the least to do. For all others the multiboot
 * header comes before the PVH note: whoever links both in wants the modules and the command line in multiboot's form, and an
 * image without the header gets PVH.
 */
static int recognize(struct boot_image *img, struct err *e)
{
    const struct boot_file *f = &img->kernel;
    bool is_elf = elf_recognize(f->data, f->size);

    if (bzimage_recognize(f->data, f->size)) {
        img->protocol = &bzimage_protocol;
        return bzimage_parse(&img->bzimage, f, e);
    }
    if (is_elf) {
        int ret = elf_parse(&img->elf, f->data, f->size, f->name, e);

        if (ret)
            return ret;
    }
    if (is_elf && linux64_recognize(&img->elf)) {
        img->protocol = &vmlinux_protocol;
        return 0;
    }
    if (multiboot_find(&img->multiboot, f->data, f->size)) {
        img->protocol = &multiboot_protocol;
        return multiboot_parse(&img->multiboot, &img->elf, f, e);
    }
    if (is_elf && img->elf.has_pvh) {
        img->protocol = &pvh_protocol;
        return 0;
    }
    if (is_elf)
        return err_set(e, EINVAL, "kernel %s is an ELF file, but neither a 64-bit Linux nor one with a PVH note or a multiboot header",
                       f->name);
    return unknown_kernel(f, e);
}

static struct boot_image *image_new(struct err *e)
{
    struct boot_image *img = calloc(1, sizeof(*img));

    if (!img) {
        err_set(e, ENOMEM, "no memory to open the kernel");
        return NULL;
    }
    img->kernel.fd = -1;
    img->initrd.fd = -1;
    return img;
}

int boot_image_open(struct boot_image **out, const char *kernel, const char *initrd, struct err *e)
{
    struct boot_image *img = image_new(e);
    int ret;

    if (!img)
        return -ENOMEM;
    ret = boot_file_open(&img->kernel, "kernel", kernel, KERNEL_FILE_MAX, e);
    if (!ret)
        ret = recognize(img, e);
    if (!ret && initrd) {
        ret = boot_file_open(&img->initrd, "initrd", initrd, INITRD_FILE_MAX, e);
        img->has_initrd = !ret;
    }
    if (ret) {
        boot_image_free(img);
        return ret;
    }
    *out = img;
    return 0;
}

int boot_image_from_memory(struct boot_image **out, const char *name, const void *kernel, size_t kernel_len, const void *initrd,
                           size_t initrd_len, struct err *e)
{
    struct boot_image *img = image_new(e);
    int ret;

    if (!img)
        return -ENOMEM;
    ret = boot_file_borrow(&img->kernel, name, kernel, kernel_len, e);
    if (!ret)
        ret = recognize(img, e);
    if (!ret && initrd && !initrd_len)
        ret = err_set(e, EINVAL, "the initrd for kernel %s is empty", name);
    if (!ret && initrd) {
        ret = boot_file_borrow(&img->initrd, "initrd", initrd, initrd_len, e);
        img->has_initrd = !ret;
    }
    if (ret) {
        boot_image_free(img);
        return ret;
    }
    *out = img;
    return 0;
}

void boot_image_free(struct boot_image *img)
{
    if (!img)
        return;
    boot_file_close(&img->initrd);
    boot_file_close(&img->kernel);
    free(img);
}

const char *boot_image_protocol(const struct boot_image *img)
{
    return img->protocol->name;
}

int boot_place_initrd(const struct boot_job *job, gpa_t floor, gpa_t last, gpa_t *at, uint64_t *len, struct err *e)
{
    *at = 0;
    *len = 0;
    if (!job->initrd)
        return 0;
    *len = job->initrd->size;
    return ram_place_initrd(job->machine->mem, job->initrd->name, job->initrd->data, *len, floor, last, at, e);
}

int boot_place(const struct boot_image *img, const struct boot_machine *machine, struct cpu_state *bsp, struct err *e)
{
    struct boot_job job = {
        .machine = machine,
        .cmdline = machine->cmdline ? machine->cmdline : "",
        .initrd = img->has_initrd ? &img->initrd : NULL,
    };
    int ret = boot_file_check(&img->kernel, "kernel", e);

    if (!ret && job.initrd)
        ret = boot_file_check(job.initrd, "initrd", e);
    if (!ret)
        ret = acpi_write_tables(machine->mem, &machine->acpi, &job.rsdp, e);
    if (!ret)
        ret = img->protocol->place(img, &job, bsp, e);
    boot_file_release_pages(&img->kernel);
    boot_file_release_pages(&img->initrd);
    return ret;
}
