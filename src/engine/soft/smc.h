/* Per guest page: whether translated code was made from it, and which vCPUs may write to it directly. */
#pragma once

#include "engine/soft/soft.h"

/*
 * Theory of operation
 *
 * While a page is marked as code, no vCPU holds a write entry for it in its shadow tables, or its bit in writers is set and whoever marked
 * the page waits for it. Both sides announce themselves first and look then, so that one of the two sees the other:
 *
 * - A vCPU that is to write sets its bit in writers, and looks at code then (smc_may_write()). Where the page is code it fills no entry, and
 *   says that it writes (smc_written()). The bit stays until the vCPU is outside (smp.h), which is after the instruction's end.
 * - A vCPU that is to translate marks the page, and takes the write entries of the vCPUs in writers away then, borrowing them
 *   (smc_protect()): only after that are the bytes read.
 * - A device writes its bytes, and says so then (smc_written()).
 *
 * smc_written() drops nothing: it only marks the page as stale, and asks all vCPUs to look before their next block (smc_service()). So it
 * waits for nothing and can be called by any thread, in the middle of an instruction. The first vCPU that looks drops the blocks, under
 * code_lock, and the others wait for that. A vCPU that sees a flag, or takes an interrupt, which another sent after having changed code,
 * therefore runs the new code. A stale page is not written directly either: its blocks may still be found.
 */
enum page_code { PAGE_PLAIN, PAGE_CODE, PAGE_STALE };

/* Who writes. */
enum smc_writer {
    SMC_GUEST,   /* a vCPU: its stores, and A and D bits */
    SMC_DEVICE,  /* and whoever else in this process */
    SMC_OUTSIDE, /* another process, to memory that it shares */
    SMC_WRITERS
};

#define SMC_STALE_MAX 64

struct soft_pages {
    uint64_t count;                        /* pages of guest memory */
    _Atomic uint8_t *code;                 /* [count] enum page_code */
    _Atomic uint64_t *writers;             /* [count] one bit a vCPU: it may hold write entries, or is just writing */
    _Atomic uint64_t marked;               /* statistics: pages that became code */
    _Atomic uint64_t written[SMC_WRITERS]; /* and were written to, which made them stale */

    atomic_uint stale_lock; /* held for a few instructions, spun for: pages become stale, and are taken, under it */
    unsigned stale_count;
    bool more_stale; /* than are in the list: found by their mark only */
    uint64_t stale[SMC_STALE_MAX];
};

_Static_assert(VCPU_MAX <= 64, "writers has one bit a vCPU");

int smc_init(struct soft_vm *, struct err *);
void smc_fini(struct soft_vm *);

/*
 * Marks the page that holds gpa as code, and takes away every write entry of every vCPU for it. That holds until the vCPU goes outside
 * the next time: smc_is_protected() tells, under code_lock. vCPU thread, between two instructions; may go outside.
 */
void smc_protect(struct soft_cpu *, gpa_t gpa);
bool smc_is_protected(const struct soft_vm *, gpa_t gpa);

/* True when translated code was made from this page. */
bool smc_has_code(const struct soft_vm *, gpa_t gpa);

/*
 * Someone writes to [gpa, gpa+len): translated code of those pages is to be dropped. A device calls it after the bytes are written, a vCPU that
 * has set its bit in writers (smc_may_write()) before or after. Any thread; no libc.
 */
void smc_written(struct soft_vm *, gpa_t gpa, uint64_t len, enum smc_writer);

/* Between two instructions: drops what became stale. May go outside. */
void smc_service(struct soft_cpu *);
/* The same for the tables that all share; the caller holds code_lock. */
void smc_drop_stale(struct soft_vm *);

static inline bool smc_page_has_code(const struct soft_vm *svm, uint64_t page)
{
    return atomic_load_explicit(&svm->pages->code[page], memory_order_seq_cst) != PAGE_PLAIN;
}

/*
 * Before a write entry is filled, or guest memory is written: announces it; false when the page holds code, so that there must be no entry and
 * the writer has to tell of it.
 */
static inline bool smc_may_write(struct soft_vm *svm, uint64_t page, unsigned vcpu)
{
    struct soft_pages *pages = svm->pages;

    if (!(atomic_load_explicit(&pages->writers[page], memory_order_relaxed) & BIT(vcpu)))
        atomic_fetch_or(&pages->writers[page], BIT(vcpu));
    return !smc_page_has_code(svm, page);
}
