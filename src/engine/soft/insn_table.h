/* Which instructions C carries out, and which instruction sets the CPU model's features stand for. */
#pragma once

#include "engine/soft/insn.h"

/* Who carries out a mnemonic; exec NULL: the CPU itself. */
struct insn_row {
    uint8_t cls; /* enum insn_class */
    int (*exec)(struct soft_cpu *, const struct insn *);
};

/* The row for a decoded instruction: by mnemonic, and by its operands where forms share one. */
struct insn_row insn_row(const struct insn *);

/* Whether the CPU model offers the instruction's set. */
bool insn_offered(const struct soft_vm *, const ZydisDecodedInstruction *);
/* Hints and reserved NOPs: nothing happens, whatever the features are. */
bool insn_is_hint(const ZydisDecodedInstruction *);
/* Compress and expand: the active elements are contiguous in memory. */
bool insn_is_compressed(uint16_t mnemonic);
/* Instructions of SSE's extensions that need no SSE state, or use MMX or x87 registers. Returns enum insn_unit. */
uint8_t insn_sse_unit(const ZydisDecodedInstruction *);
