/* Boot: recognizes a kernel file and fills guest memory and the first vCPU's state so that it starts. */
#pragma once

#include "base/err.h"
#include "boot/acpi/tables.h"
#include "cpu/cpu_state.h"
#include "mem/mem.h"

/* A kernel and its initrd, opened once for the life of a VM. */
struct boot_image;

/* What the kernel is to find. Borrowed for the call. */
struct boot_machine {
    struct mem *mem;
    const char *cmdline; /* NULL = empty */
    struct acpi_machine acpi;
};

/*
 * Opens and recognizes the files: bzImage, ELF with or without PVH note, multiboot. initrd may be NULL. All that can be
 * told without the guest's memory is told here. May block on the host's disk. 0 or -errno with a sentence.
 */
int boot_image_open(struct boot_image **, const char *kernel, const char *initrd, struct err *);

/*
 * The same from bytes in memory, which must outlive the image; name stands for the path in messages, and initrd may be
 * NULL.
 */
int boot_image_from_memory(struct boot_image **, const char *name, const void *kernel, size_t kernel_len, const void *initrd,
                           size_t initrd_len, struct err *);
void boot_image_free(struct boot_image *); /* NULL is fine */

/* "Linux 64-bit", "PVH" ...: how this image will be entered. */
const char *boot_image_protocol(const struct boot_image *);

/*
 * Fills guest memory (ACPI tables, kernel, initrd, boot data) and *bsp, which becomes a complete state from reset on. At the start and
 * again at each reset, while no vCPU runs; what RAM holds from before does not matter. Takes 0.05-1 s, for a bzImage is
 * decompressed each time rather than kept. 0 or -errno with a sentence.
 */
int boot_place(const struct boot_image *, const struct boot_machine *, struct cpu_state *bsp, struct err *);
