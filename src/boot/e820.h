/* The memory map that boot protocols hand over, in the terms of INT 15h AX=E820h (ACPI 6.4 ch. 15). */
#pragma once

#include "mem/mem.h"

#define E820_RAM 1
#define E820_RESERVED 2

#define E820_MAX (MEM_MAX_REGIONS + 3)

struct e820_range {
    gpa_t gpa;
    uint64_t size;
    uint32_t type;
};

struct e820_map {
    unsigned count;
    struct e820_range range[E820_MAX]; /* ascending, not overlapping */
};

void e820_build(struct e820_map *, const struct mem *);
