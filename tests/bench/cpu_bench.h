/* The rows of cpu_bench: what each does, how often, and what it must come to. */
#pragma once

#include "bench.h"

/*
 * A row's work is fixed, so that every run of it anywhere does the same. run() does all of it and returns a checksum; what it
 * spends outside of row_start() .. row_stop() does not count.
 */
struct row {
    const char *name;
    uint64_t (*run)(uint64_t count);
    uint64_t count;    /* operations */
    uint64_t expected; /* checksum */
};

extern const struct row rows_compute[], rows_system[]; /* each ends with a row without a name */

void row_start(void);
void row_stop(void);

/* The compiler knows nothing of value from here on, and may not move its computation. */
#define KEEP(value) __asm__ volatile("" : "+r"(value))
#define KEEP_SSE(value) __asm__ volatile("" : "+x"(value))
#define KEEP_X87(value) __asm__ volatile("" : "+t"(value))
