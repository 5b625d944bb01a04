/* The flat GDT and the identity page tables with which boot protocols enter a kernel. */
#pragma once

#include "cpu/cpu_state.h"
#include "mem/mem.h"

/* Writes GDT and page tables (the first 4 GiB, 2 MiB pages) and makes *bsp a 64-bit state: CS 0x10, DS 0x18. 0 or -errno. */
int longmode_enter(struct mem *, uint64_t rip, struct cpu_state *bsp, struct err *);

/* Writes the GDT and makes *bsp a 32-bit state without paging that uses it: CS 0x10, DS 0x18. 0 or -errno. */
int flat32_enter(struct mem *, uint32_t eip, struct cpu_state *bsp, struct err *);
