/* The walk of the guest's page tables: what mmu.c builds on. */
#pragma once

#include "engine/soft/mmu.h"

/* What a walk found. */
struct mmu_mapping {
    gpa_t gpa;
    unsigned shift; /* of the guest's page: 12, 21, 22 or 30 */
    bool writable;  /* at the privilege of the access */
    bool dirty;     /* D is set, by now */
    bool dirtied;   /* by this walk */
    bool global;
};

bool mmu_access_is_user(const struct soft_cpu *, unsigned access);

/* As mmu_translate(), by page tables alone. No libc. */
int mmu_walk(struct soft_cpu *, gva_t gva, unsigned access, struct mmu_mapping *);
