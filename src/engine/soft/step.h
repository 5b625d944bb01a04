/* Step: executes exactly one guest instruction. The slow path, the cold tier and the oracle. */
#pragma once

#include "engine/soft/codemem.h"
#include "engine/soft/soft.h"

#define STEP_CACHE_ENTRIES 16384
#define STEP_STUB_BYTES 128

struct step_entry {
    gpa_t gpa;     /* of the first byte; GPA_INVALID when empty, and so is one of zeros: its insn has no mode */
    uint8_t *stub; /* executable, for INSN_INNOCUOUS */
    bool has_stub;
    struct insn insn;
};

struct soft_exec {
    struct step_entry *entries;                    /* direct-mapped by gpa */
    struct codemem stubs;                          /* one slot an entry */
    uint64_t counts[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* instructions, by mnemonic */
    uint8_t *bounce;                               /* 64-aligned; memory operands that cross pages or meet devices */
};

int step_init(struct soft_cpu *, struct err *);
void step_fini(struct soft_cpu *);

/*
 * Fetches and decodes the instruction at cpu->rip without executing it. *insn stays valid until the next call.
 * SOFT_OK or SOFT_FAULT (fetch faults; an invalid instruction is not one).
 */
int step_fetch(struct soft_cpu *, struct step_entry **);

/* Runs the entry's stub on a host operand. SOFT_OK or SOFT_FAULT. For masked.c. */
int step_run_stub(struct soft_cpu *, const struct step_entry *, void *operand);
