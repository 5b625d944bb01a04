/* Which arithmetic flags an instruction surely overwrites, those included that the manual calls undefined. */
#pragma once

#include "engine/soft/insn.h"

/* Of kinds of instructions: the flags that may keep something of their old value. */
struct host_flags {
    uint16_t logic; /* AND, OR, XOR, TEST, ANDN */
    uint16_t shift; /* SHL, SHR, SAR by a constant */
};

/* Tries the CPU out. */
struct host_flags host_flags_probe(void);
/* FLAG_ bits of those overwritten, whatever they were and the operands are, on the CPU that was probed. */
uint16_t host_flags_killed(const struct host_flags *, const struct insn *);
