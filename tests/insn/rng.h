/* A small generator whose numbers depend on the seed and the case alone, so that every case can be run again by itself. */
#pragma once

#include "base/types.h"

struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *r) /* xorshift64* */
{
    r->state ^= r->state >> 12;
    r->state ^= r->state << 25;
    r->state ^= r->state >> 27;
    return r->state * 0x2545f4914f6cdd1d;
}

static inline void rng_start(struct rng *r, uint64_t seed, uint64_t number)
{
    r->state = (seed * 0x9e3779b97f4a7c15 + number + 1) * 0xbf58476d1ce4e5b9;
    r->state ^= r->state >> 29;
    r->state |= r->state == 0;
    rng_next(r);
    rng_next(r);
}

/* 0 .. n - 1 */
static inline unsigned rng_below(struct rng *r, unsigned n)
{
    return (unsigned)((rng_next(r) >> 32) * n >> 32);
}

/* True once in n. */
static inline bool rng_one_in(struct rng *r, unsigned n)
{
    return rng_below(r, n) == 0;
}

static inline void rng_fill(struct rng *r, void *to, size_t n)
{
    uint8_t *p = to;

    for (; n >= 8; n -= 8, p += 8) {
        uint64_t v = rng_next(r);
        __builtin_memcpy(p, &v, 8);
    }
    for (uint64_t v = rng_next(r); n > 0; n--, v >>= 8)
        *p++ = (uint8_t)v;
}
