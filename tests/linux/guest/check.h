/* What the guest's test programs share: checksums, random numbers, and a check that says where it failed. */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                                                   \
    do {                                                                                                                                   \
        if (!(condition)) {                                                                                                                \
            printf("%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);                                                          \
            exit(1);                                                                                                                       \
        }                                                                                                                                  \
    } while (0)

/* FNV-1a over bytes: one running sum for everything that a program computes. */
static inline uint64_t sum_bytes(uint64_t sum, const void *data, size_t size)
{
    const unsigned char *p = data;

    for (size_t i = 0; i < size; i++)
        sum = (sum ^ p[i]) * 0x100000001b3ull;
    return sum;
}

#define SUM_START 0xcbf29ce484222325ull
#define SUM(sum, value) ((sum) = sum_bytes((sum), &(value), sizeof(value)))

/* xorshift64*: the same numbers everywhere. */
static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

static inline void report(const char *what, uint64_t sum)
{
    printf("%-24s %016llx\n", what, (unsigned long long)sum);
    fflush(stdout);
}
