/* Lockstep: every translated block is run by step first and by the translator then, and the results are compared. */
#pragma once

#include "engine/soft/soft.h"

/* One entry of the journal: what memory held before step wrote it. */
struct journal_entry {
    uint8_t *hva;
    uint8_t old[64], new[64];
    uint8_t n;
};

/* mmu.c, before it writes [hva, hva+n) or hands out a pointer for writing: notes the old bytes while a journal is open. */
void lockstep_note(struct soft_cpu *, uint8_t *hva, unsigned n);

/*
 * Runs the block at cpu->rip both ways. SOFT_OK, or SOFT_EXIT; a difference ends the VM with a sentence that names the
 * instruction, the register and both values.
 */
int lockstep_run(struct soft_cpu *, uint32_t mode);

/* Instructions whose result differs from one execution to the next: step alone runs them. */
static inline bool lockstep_is_random(const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP: return true;
    default: return false;
    }
}

int lockstep_init(struct soft_cpu *, struct err *);
void lockstep_fini(struct soft_cpu *);
