/* Stubs: one innocuous instruction as host code on the guest's registers, its memory operand behind a pointer. */
#pragma once

#include "engine/soft/insn.h"

/*
 * Writes the stub for switch_to_stub() to rw (at most STEP_STUB_BYTES). The memory operand is at the host address in the
 * slot CTX_TEMP. Returns its length, or -1 where the instruction has no encoding on other registers.
 */
int stub_emit(const struct insn *, uint8_t *rw);
