/* Guest paging for the software engine: walks, shadow tables, fills and flushes. */
#pragma once

#include "engine/soft/soft.h"

enum mmu_access {
    MMU_READ = 0,
    MMU_WRITE = 1, /* or read-modify-write */
    MMU_FETCH = 2,
    /* Implicit supervisor access whatever the CPL: descriptor tables, TSS, stack of an inner ring. */
    MMU_SUPERVISOR = 4,
    MMU_USER_STACK = 8, /* as if at CPL 3 whatever the CPL */
};

/* What lies behind one guest page. */
struct mmu_target {
    gpa_t gpa;
    uint8_t *hva; /* NULL: no memory there, or read-only memory on a write: a bus access */
    bool global;  /* the mapping is global */
    bool large;
};

int mmu_init(struct soft_cpu *, struct err *);
void mmu_fini(struct soft_cpu *);

/*
 * Walks the guest's tables for gva with permission checks for access (SDM vol. 3 4.6), setting A and D by
 * cmpxchg. 32-bit callers pass truncated addresses. Paging off: identity. SOFT_OK or SOFT_FAULT (#PF).
 * Canonical checks are the caller's.
 */
int mmu_translate(struct soft_cpu *, gva_t gva, unsigned access, struct mmu_target *);

/*
 * Copies between a buffer and linear memory, across pages and into MMIO. A write checks every page before it
 * writes the first byte. n at most 4096. buf is plain memory; no libc inside. SOFT_OK or SOFT_FAULT.
 */
int mmu_read(struct soft_cpu *, gva_t gva, void *buf, unsigned n, unsigned access);
int mmu_write(struct soft_cpu *, gva_t gva, const void *buf, unsigned n, unsigned access);

/*
 * Host pointer to [gva, gva+n) when it lies in one page of RAM; *hva = NULL when it crosses a page or is MMIO
 * (then use mmu_read/mmu_write). Permission faults as above. Good until the end of the instruction; of a pointer for writing it has been
 * said that translated code of that page is to be dropped.
 */
int mmu_host(struct soft_cpu *, gva_t gva, unsigned n, unsigned access, void **hva);

/*
 * A miss in translated code: fills the shadow entry of gva for the current CPL. SOFT_OK: retry the access.
 * SOFT_SLOW: step must carry the instruction out (it also raises what there is to raise).
 */
int mmu_fill(struct soft_cpu *, gva_t gva, unsigned access);
/* Whether writes of translated code find an entry at gva. */
bool mmu_has_write_entry(const struct soft_cpu *, gva_t gva);

/*
 * Instruction side: gpa of the code byte at gva, by a small cache that every flush empties. SOFT_OK or
 * SOFT_FAULT.
 */
int mmu_fetch(struct soft_cpu *, gva_t gva, gpa_t *gpa, const uint8_t **hva);

/*
 * After mmu_fetch() of a page: true where nobody has asked since the guest's tables were walked for it. That is when the page may be
 * another, or hold what another process wrote.
 */
bool mmu_fetched_anew(struct soft_cpu *, gva_t gva);

/*
 * Translated code of the page at gva, which mmu_fetch() has found, may be entered by jumps of translated code from now on. False where what
 * that found is gone: then the code may not run, since nothing would make the return cache forget the page. Parks nothing.
 */
bool mmu_allow_fetch(struct soft_cpu *, gva_t gva);

/* Each also empties the instruction side. All: CR0.PG, CR0.WP, CR4.PGE/PAE/PSE/SMEP..., EFER.NXE changed. */
void mmu_flush_all(struct soft_cpu *);
void mmu_flush_nonglobal(struct soft_cpu *);       /* MOV CR3 */
void mmu_flush_page(struct soft_cpu *, gva_t gva); /* INVLPG */

/*
 * Where translated code finds the tables for a privilege (user = CPL 3): the read table; the write table
 * follows at MMU_TABLE_BYTES, and the supervisor's two follow the user's two. In front of the user's are SHADOW_FRONT zero bytes.
 */
#define MMU_TABLE_BITS 36 /* gva bits 12..47 */
#define MMU_TABLE_ENTRIES BIT(MMU_TABLE_BITS)
#define MMU_TABLE_BYTES (MMU_TABLE_ENTRIES * 8)
uint64_t *mmu_table(struct soft_cpu *, bool user); /* table[i] = hva - gva of page i; 0 = invalid */
/* How far the fetch table for a privilege is from the user's read table, in entries of 32 bits: shadow.h. */
uint64_t mmu_fetch_distance(struct soft_cpu *, bool user);

struct shadow_counts;
const struct shadow_counts *mmu_shadow_counts(const struct soft_cpu *); /* shadow.h */

/*
 * The tables were looked into at gva's bits 47:0, where nothing came to be: the memory that they need counts all the same. access: MMU_READ,
 * MMU_WRITE or MMU_FETCH.
 */
void mmu_note_miss(struct soft_cpu *, gva_t gva, unsigned access);

/*
 * Work that the paths above put off because it calls the kernel. The run loop calls it when attention was
 * set; parks the vectors.
 */
void mmu_maintain(struct soft_cpu *);

/*
 * True when the four PDPTEs that CR3 points to may be loaded: MOV to CR3, and to CR0 or CR4 where they cause
 * a load, raise #GP(0) otherwise (SDM vol. 3 4.4.1). Only for PAE paging outside long mode.
 */
bool mmu_pdptes_valid(struct soft_cpu *, uint64_t cr3);

/* Counts the times that entries were taken away: what translated code has found is good as long as this stays. */
uint32_t mmu_changes(const struct soft_cpu *);

/*
 * Zeroes every write entry for this page of guest memory (mem's index). The vCPU's own thread, or who has borrowed its tables (smp.h);
 * smc_protect() uses it.
 */
void mmu_revoke(struct soft_cpu *, uint64_t page);
