/* Guest memory as a debugger sees it: by linear address, through the page tables of a vCPU, with a supervisor's eyes. */
#pragma once

#include "cpu/cpu_state.h"
#include "mem/mem.h"

/* What an address leads to. */
struct gdb_mapping {
    gpa_t gpa;
    unsigned shift; /* of the guest's page: 12, 21, 22 or 30 */
};

/*
 * By the tables that s's control registers name, in any paging mode: permissions do not count, and no A or D bit is set. 0, or -EFAULT where
 * nothing is mapped. s needs CPU_SREGS; the vCPUs stand.
 */
int gdb_translate(const struct cpu_state *s, const struct mem *, gva_t gva, struct gdb_mapping *);
