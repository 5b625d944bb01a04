/* Deterministic cache parameters of AMD's for a host that does not tell them: from the older leaves, which it does (APM vol. 3 E.4.4, E.4.15). */
#include "engine/soft/cpuid.h"
#include "x86/topology.h"

enum { CACHE_DATA = 1, CACHE_CODE, CACHE_UNIFIED };

struct cache {
    unsigned type, level;
    uint32_t bytes, line, ways; /* ways 0: fully associative */
};

/* What the 4 bits of 0x80000006 say; 9 refers to the very leaf that is made here. */
static unsigned ways_of(unsigned code)
{
    static const uint8_t ways[16] = {[1] = 1, 2, 3, 4, 6, 8, [8] = 16, 16, 32, 48, 64, 96, 128};

    return ways[code];
}

static struct cache level_1(unsigned type, uint32_t reg)
{
    return (struct cache){type, 1, (reg >> 24) << 10, reg & 0xff, reg >> 16 & 0xff};
}

static bool describe(const struct cache *c, uint32_t out[4])
{
    bool full = c->ways == 0 || c->ways == 0xff;

    if (!c->bytes || !c->line)
        return false;
    uint32_t ways = full ? c->bytes / c->line : c->ways;
    out[CPUID_EAX] = c->type | c->level << 5 | 1 << 8 | (uint32_t)full << 9;
    out[CPUID_EBX] = (c->line - 1) | (ways - 1) << 22;
    out[CPUID_ECX] = MAX(c->bytes / c->line / ways, 1u) - 1;
    out[CPUID_EDX] = 0;
    return true;
}

bool cpuid_amd_cache(const uint32_t l1[4], const uint32_t l2_l3[4], unsigned n, uint32_t out[4])
{
    const uint32_t l2 = l2_l3[CPUID_ECX], l3 = l2_l3[CPUID_EDX];
    const struct cache caches[] = {
        level_1(CACHE_DATA, l1[CPUID_ECX]),
        level_1(CACHE_CODE, l1[CPUID_EDX]),
        {CACHE_UNIFIED, 2, (l2 >> 16) << 10, l2 & 0xff, ways_of(l2 >> 12 & 0xf)},
        {CACHE_UNIFIED, 3, (l3 >> 18) << 19, l3 & 0xff, ways_of(l3 >> 12 & 0xf)},
    };

    return n < ARRAY_SIZE(caches) && describe(&caches[n], out);
}
