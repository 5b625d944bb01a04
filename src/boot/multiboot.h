/* Multiboot 1 (Multiboot Specification 0.6.96): the header in the image's first 8 KiB. */
#pragma once

#include "boot/elf.h"
#include "boot/file.h"

struct multiboot_header {
    size_t at; /* in the file */
    uint32_t flags;
};

/* Whether there is a header; *h is filled then. */
bool multiboot_find(struct multiboot_header *, const void *data, size_t size);

/*
 * Checks what the header asks for. Where it gives addresses of its own, elf becomes the one segment that they describe; otherwise elf is
 * the parsed file, with count 0 when it is no ELF file. 0 or -errno with a sentence.
 */
int multiboot_parse(const struct multiboot_header *, struct elf_image *elf, const struct boot_file *, struct err *);
