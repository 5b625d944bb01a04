/* What one instruction did, however it was run: on the host CPU, by step or translated. */
#pragma once

#include "cpu/cpu_state.h"

/*
 * Linear memory of the cases. It lies at the same addresses on the host, and low enough for 32-bit code. Around its
 * pages there is nothing for ZONE_BYTES, so that addresses which run away hit nobody's memory.
 */
#define ARENA 0x10000000ULL
#define ARENA_PAGES 20
#define ZONE_BYTES MIB(256)

enum page_kind { PAGE_ABSENT, PAGE_RW, PAGE_RO, PAGE_CODE };

static const uint8_t arena_page[ARENA_PAGES] = {
    [1] = PAGE_CODE, [2] = PAGE_CODE,                                                              /* and 3 absent: code may run into it */
    [4] = PAGE_RW,   [5] = PAGE_RW,   [6] = PAGE_RW,  [7] = PAGE_RW, [8] = PAGE_RO, [9] = PAGE_RW, /* 10 absent */
    [11] = PAGE_RW,  [12] = PAGE_RO,                                                               /* 13 absent */
    [14] = PAGE_RW,  [15] = PAGE_RW,  [16] = PAGE_RW,                                              /* 17 absent */
    [18] = PAGE_RO,
};

#define CODE_FIRST 1
#define CODE_PAGES 2

/* Where native code leaves: below the arena, within reach of a near jump from its code. */
#define TRAMPOLINE 0x0f004000ULL

struct outcome {
    uint64_t gpr[GPR_COUNT];
    uint64_t rip, rflags;
    bool faulted;
    uint8_t vector;
    uint32_t error;
    uint64_t cr2; /* page faults only */
    uint8_t image[XSAVE_MAX] __attribute__((aligned(64)));
};
