/* The relocation table behind the vmlinux in a bzImage, and the random virtual base that it makes possible. */
#pragma once

#include "boot/elf.h"

/* Positions in the unpacked payload; each group is an array of 32-bit sign-extended virtual addresses. */
struct reloc_table {
    size_t abs64, abs64_count;
    size_t inverse32, inverse32_count;
    size_t abs32, abs32_count;
};

/* False when the payload has no table, or one that does not fit the image in every entry: then it runs where it was linked. */
bool reloc_find(struct reloc_table *, const struct elf_image *);

/* Moves the image's virtual addresses by delta. data is the payload that the image was parsed from. */
void reloc_apply(const struct reloc_table *, const struct elf_image *, uint8_t *data, uint64_t delta);

/*
 * The distance to move by: a multiple of align, so that size bytes from the image's physical base up stay within the kernel's window of
 * 1 GiB. align is a power of two.
 */
uint64_t reloc_pick(uint64_t random, uint64_t low, uint64_t size, uint64_t align);

/* Whether the command line has word as a word of its own. */
bool cmdline_has(const char *cmdline, const char *word);
