/* What the programs that measure share: a clock, an end, and the rows that bench.py reads. */
#pragma once

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS 1000000000ULL

/* Ends the program with a sentence about errno. */
_Noreturn static inline void fail(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

static inline uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

static inline void print_row(const char *name, double value, int decimals, const char *unit)
{
    printf("row %s|%.*f|%s\n", name, decimals, value, unit);
    fflush(stdout);
}
