/* Guest-physical memory: regions of RAM and ROM, gpa -> hva, and the notice that code may have changed. */
#pragma once

#include "base/err.h"
#include "base/types.h"

#define MEM_LOW_TOP GIB(3) /* RAM below 4 GiB ends here at the latest */
#define MEM_HIGH_BASE GIB(4)
#define MEM_MAX_REGIONS 8

enum mem_flags {
    MEM_READONLY = 1 << 0,
};

struct mem_region {
    gpa_t gpa;
    uint64_t size; /* bytes, whole pages */
    uint8_t *hva;
    unsigned flags;
    uint64_t first_page; /* index of its first page in [0, mem.page_count) */
};

/*
 * All RAM is one reservation, touched lazily. Regions are fixed after mem_init() for now; every
 * page of every region has a dense index, so that engines can keep per-page arrays.
 */
struct mem {
    struct mem_region regions[MEM_MAX_REGIONS];
    unsigned region_count;
    uint64_t page_count;
    uint64_t size; /* bytes of RAM */
    uint8_t *base;
    int fd; /* memfd when shared, else -1 */
    /* Called after anyone but a vCPU wrote guest memory; the engine sets it. Any thread. */
    void (*code_changed)(void *opaque, gpa_t gpa, size_t len);
    void *code_changed_opaque;
};

/* size: bytes, a multiple of PAGE_SIZE. shared: a memfd that other processes can map. 0 or -errno. */
int mem_init(struct mem *, uint64_t size, bool shared, struct err *);
void mem_fini(struct mem *);

/* All RAM back to zero, as at power-on (a reset keeps it; tests use this). */
void mem_clear(struct mem *);

/* The region that holds gpa, or NULL. */
const struct mem_region *mem_find(const struct mem *, gpa_t gpa);

/* Host address of [gpa, gpa+len) when it lies in one region; else NULL. len > 0. Overflow-safe. */
void *mem_hva(const struct mem *, gpa_t gpa, size_t len);

/* Copies; all or nothing. 0 or -EFAULT when any byte is outside RAM (or read-only, for a write). */
int mem_read(const struct mem *, gpa_t gpa, void *buf, size_t len);
int mem_write(struct mem *, gpa_t gpa, const void *buf, size_t len);
int mem_fill(struct mem *, gpa_t gpa, uint8_t byte, size_t len);
