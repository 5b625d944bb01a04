/* Per guest page: whether translated code was made from it, and which vCPUs may write to it directly. */
#pragma once

#include "engine/soft/soft.h"

/*
 * Invariant: while a page is marked, no write entry for it exists in any shadow table.
 *
 * A filler announces itself in writers[page] first and looks at code[page] then (smc_may_write());
 * smc_protect() marks the page first and looks at writers then. So one of the two sees the other, and no lock
 * is needed. Tables are changed only by their vCPU's own thread: with one vCPU smc_protect() runs on it; with
 * more, the vCPUs named in writers are those to kick and to wait for.
 */
struct soft_pages {
    uint64_t count;            /* pages of guest memory */
    _Atomic uint8_t *code;     /* [count] 1: translated code was made from this page */
    _Atomic uint64_t *writers; /* [count] one bit a vCPU: it may hold write entries */
    _Atomic uint64_t dropped;  /* statistics: pages of code that were written to */
};

_Static_assert(VCPU_MAX <= 64, "writers has one bit a vCPU");

int smc_init(struct soft_vm *, struct err *);
void smc_fini(struct soft_vm *);

/*
 * Marks the page as holding code: every writable shadow entry of every vCPU for it is revoked, and no new one
 * is filled. vCPU thread.
 */
void smc_protect(struct soft_vm *, gpa_t gpa);

/* True when translated code was made from this page. */
bool smc_has_code(const struct soft_vm *, gpa_t gpa);

/*
 * Someone writes to [gpa, gpa+len): the marks go and translated code of those pages is dropped
 * (cache_drop_page). Call it after the bytes are written: who translates the page meanwhile marks it first
 * and reads it then. Any thread that cache_drop_page() allows.
 */
void smc_written(struct soft_vm *, gpa_t gpa, uint64_t len);

static inline bool smc_page_has_code(const struct soft_vm *svm, uint64_t page)
{
    return atomic_load_explicit(&svm->pages->code[page], memory_order_seq_cst);
}

/*
 * Before a write entry is filled: announces it; false when the page holds code, so that there must be none.
 */
static inline bool smc_may_write(struct soft_vm *svm, uint64_t page, unsigned vcpu)
{
    struct soft_pages *pages = svm->pages;

    if (!(atomic_load_explicit(&pages->writers[page], memory_order_relaxed) & BIT(vcpu)))
        atomic_fetch_or(&pages->writers[page], BIT(vcpu));
    return !smc_page_has_code(svm, page);
}
