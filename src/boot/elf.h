/* ELF images, 32- and 64-bit: what to load, where to enter, which notes they carry. */
#pragma once

#include "base/err.h"
#include "mem/mem.h"

#define ELF_MAX_SEGMENTS 32

struct elf_segment { /* PT_LOAD with p_memsz > 0; file_len bytes at off are inside the file */
    uint64_t off, file_len;
    uint64_t vaddr, paddr, mem_len; /* paddr + mem_len does not wrap */
};

struct elf_image {
    const uint8_t *data; /* borrowed */
    size_t size;
    const char *name; /* for sentences; borrowed */
    bool is64;
    uint64_t entry;     /* physical, as linked */
    uint64_t low, high; /* [low, high) holds every segment's physical addresses */
    uint64_t file_end;  /* where the ELF's own bytes end: headers, segments, sections */
    uint64_t pvh_entry; /* physical */
    bool has_pvh;
    unsigned count;
    struct elf_segment seg[ELF_MAX_SEGMENTS];
};

bool elf_recognize(const void *data, size_t size);

/* Reads and checks all headers. 0 or -errno with a sentence that starts with name. */
int elf_parse(struct elf_image *, const void *data, size_t size, const char *name, struct err *);

/* Whether all of it is RAM at or above BOOT_KERNEL_MIN_GPA and below 4 GiB; else -errno with a sentence. */
int elf_fits(const struct elf_image *, const struct mem *, struct err *);

/* Loads every segment at its physical address and zeroes what lies beyond its file bytes. After elf_fits(). */
int elf_place(const struct elf_image *, struct mem *, struct err *);
