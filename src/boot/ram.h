/* What guest RAM there is below 4 GiB, and what fits into it. */
#pragma once

#include "base/err.h"
#include "mem/mem.h"

/* End of the RAM that starts at 0. */
gpa_t ram_low_top(const struct mem *);

/* Copies or zeroes len bytes, which may be 0. -EFAULT with a sentence about name when some of them are not RAM. */
int ram_write(struct mem *, gpa_t at, const void *data, uint64_t len, const char *name, struct err *);
int ram_zero(struct mem *, gpa_t at, uint64_t len, const char *name, struct err *);

/* The command line at BOOT_CMDLINE_GPA, NUL-terminated. max: bytes that this kernel takes, without the NUL. 0 or -errno. */
int ram_place_cmdline(struct mem *, const char *cmdline, size_t max, struct err *);

/* Whether [low, low + len) is RAM at or above BOOT_KERNEL_MIN_GPA and below 4 GiB; else -errno with a sentence about name. */
int ram_holds_kernel(const struct mem *, gpa_t low, uint64_t len, const char *name, struct err *);

/*
 * Finds the highest page-aligned place for len bytes of file name, at or above floor and with its last byte at most at last, and
 * copies them there. 0 or -errno with a sentence.
 */
int ram_place_initrd(struct mem *, const char *name, const void *data, uint64_t len, gpa_t floor, gpa_t last, gpa_t *at, struct err *);
