/* Random encodings: legacy maps with their prefixes, VEX and EVEX, and the groups that need a share of their own. */
#pragma once

#include "engine/soft/insn.h"
#include "rng.h"

enum source {
    SRC_ONE_BYTE,
    SRC_0F,
    SRC_0F38,
    SRC_0F3A,
    SRC_X87,
    SRC_SSE,
    SRC_VEX,
    SRC_EVEX,
    SRC_STRING,
    SRC_STACK,
    SRC_BRANCH,
    SRC_BITS,
    SRC_LANES,
    SRC_BYTES,
    SRC_COUNT
};

struct code {
    uint8_t bytes[32]; /* a whole instruction always fits: what follows the opcode is random */
    unsigned len;
    unsigned bits; /* of the code segment */
};

static inline void code_put(struct code *c, unsigned byte)
{
    c->bytes[c->len++] = (uint8_t)byte;
}

static inline unsigned pick(struct rng *r, const uint8_t *from, unsigned n)
{
    return from[rng_below(r, n)];
}

#define PICK(r, ...) pick(r, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static inline unsigned random_byte(struct rng *r)
{
    return (unsigned)(rng_next(r) >> 40) & 0xff;
}

static inline void put_prefixes(struct code *c, struct rng *r, unsigned mandatory_in)
{
    if (rng_one_in(r, 24))
        code_put(c, 0xf0);
    if (rng_one_in(r, 12))
        code_put(c, PICK(r, 0x64, 0x65, 0x65, 0x2e, 0x36, 0x3e, 0x26));
    if (rng_one_in(r, 10))
        code_put(c, 0x67);
    if (rng_one_in(r, mandatory_in))
        code_put(c, 0x66);
    if (rng_one_in(r, mandatory_in))
        code_put(c, PICK(r, 0xf2, 0xf3));
    if (c->bits == 64 && !rng_one_in(r, 3))
        code_put(c, 0x40 | rng_below(r, 16));
}

/* ModRM with registers a third of the time, and short displacements more often than chance would have it. */
static inline void put_modrm_and_rest(struct code *c, struct rng *r)
{
    unsigned modrm = random_byte(r);

    if (rng_one_in(r, 3))
        modrm |= 0xc0;
    code_put(c, modrm);
    for (unsigned i = 0; i < 10; i++)
        code_put(c, rng_one_in(r, 8) ? 0 : random_byte(r));
}

static inline void put_vex(struct code *c, struct rng *r, unsigned map, unsigned opcode)
{
    unsigned last = random_byte(r);

    if (rng_one_in(r, 2))
        last |= 0x78; /* vvvv unused */
    if (rng_one_in(r, 16))
        code_put(c, PICK(r, 0x64, 0x65, 0x67));
    if (map == 1 && rng_one_in(r, 3)) {
        code_put(c, 0xc5);
        code_put(c, c->bits == 64 ? last : last | 0xc0);
    } else {
        code_put(c, 0xc4);
        code_put(c, (c->bits == 64 ? random_byte(r) & 0xe0 : 0xe0) | map);
        code_put(c, last);
    }
    code_put(c, opcode);
}

static inline void put_evex(struct code *c, struct rng *r, unsigned map, unsigned opcode)
{
    unsigned p1 = random_byte(r) | 4, p2 = random_byte(r);

    if (rng_one_in(r, 2))
        p1 |= 0x78;
    if (!rng_one_in(r, 4))
        p2 |= 8;
    if (!rng_one_in(r, 4))
        p2 &= ~0x10u; /* no broadcast or rounding */
    if (rng_one_in(r, 2))
        p2 &= ~0x87u; /* no mask */
    code_put(c, 0x62);
    code_put(c, (c->bits == 64 ? random_byte(r) & 0xf0 : 0xf0) | map);
    code_put(c, p1);
    code_put(c, p2);
    code_put(c, opcode);
}

static inline void put_lanes(struct code *c, struct rng *r)
{
    switch (rng_below(r, 6)) {
    case 0: put_vex(c, r, 2, PICK(r, 0x2c, 0x2d, 0x2e, 0x2f, 0x8c, 0x8e)); break;
    case 1: put_vex(c, r, 2, 0x90 | rng_below(r, 4)); break;
    case 2: put_evex(c, r, 2, 0x90 | rng_below(r, 4)); break;
    case 3: put_evex(c, r, 2, 0xa0 | rng_below(r, 4)); break;
    case 4: put_evex(c, r, 2, PICK(r, 0x8a, 0x8b, 0x88, 0x89, 0x62, 0x63)); break;
    default:
        put_prefixes(c, r, 2);
        code_put(c, 0x0f);
        code_put(c, 0xf7);
    }
    put_modrm_and_rest(c, r);
    if (c->bytes[0] == 0xc4 || c->bytes[0] == 0x62) { /* SIB, for vector indexes */
        unsigned at = c->bytes[0] == 0xc4 ? 4 : 5;
        if (c->bytes[at] < 0xc0)
            c->bytes[at] = (uint8_t)((c->bytes[at] & 0xf8) | 4);
        c->bytes[2] |= 1; /* 66: the only prefix that they have */
        c->bytes[2] &= ~2u;
    }
}

static inline void put_legacy(struct code *c, struct rng *r, enum source source)
{
    static const uint8_t stack[] = {0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x5b, 0x5c,
                                    0x5d, 0x5e, 0x5f, 0x68, 0x6a, 0x8f, 0x9c, 0x9d, 0xc8, 0xc9, 0xff, 0x60, 0x61};
    static const uint8_t string[] = {0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
    static const uint8_t branch[] = {0xc2, 0xc3, 0xe0, 0xe1, 0xe2, 0xe3, 0xe8, 0xe9, 0xeb, 0xff, 0xff, 0x70, 0x71, 0x72,
                                     0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x7b, 0x7c, 0x7d, 0x7e, 0x7f};

    put_prefixes(c, r, source == SRC_SSE ? 2 : source == SRC_STRING ? 3 : 8);
    switch (source) {
    case SRC_STACK: code_put(c, pick(r, stack, sizeof(stack))); break;
    case SRC_STRING: code_put(c, pick(r, string, sizeof(string))); break;
    case SRC_X87: code_put(c, 0xd8 | rng_below(r, 8)); break;
    case SRC_BRANCH:
        if (rng_one_in(r, 4)) {
            code_put(c, 0x0f);
            code_put(c, 0x80 | rng_below(r, 16));
        } else {
            code_put(c, pick(r, branch, sizeof(branch)));
        }
        break;
    case SRC_BITS:
        code_put(c, 0x0f);
        code_put(c, PICK(r, 0xa3, 0xab, 0xb3, 0xbb, 0xba, 0xa4, 0xa5, 0xac, 0xad, 0xbc, 0xbd, 0xb8, 0xc7));
        break;
    case SRC_0F:
    case SRC_SSE:
        code_put(c, 0x0f);
        code_put(c, source == SRC_SSE ? PICK(r, 0x10, 0x20, 0x50, 0x60, 0x70, 0xc0, 0xd0, 0xe0, 0xf0) | rng_below(r, 16) : random_byte(r));
        break;
    case SRC_0F38:
    case SRC_0F3A:
        code_put(c, 0x0f);
        code_put(c, source == SRC_0F38 ? 0x38 : 0x3a);
        code_put(c, random_byte(r));
        break;
    default: code_put(c, random_byte(r));
    }
    put_modrm_and_rest(c, r);
}

static inline enum source random_code(struct rng *r, struct code *c, unsigned bits)
{
    static const uint8_t weight[SRC_COUNT] = {14, 8, 5, 4, 8, 10, 35, 45, 5, 5, 4, 4, 12, 1};
    unsigned n = rng_below(r, 160), source = 0;

    while (source < SRC_BYTES && n >= weight[source])
        n -= weight[source++];
    *c = (struct code){.bits = bits};
    switch (source) {
    case SRC_VEX:
        put_vex(c, r, PICK(r, 1, 1, 2, 2, 2, 3), random_byte(r));
        put_modrm_and_rest(c, r);
        break;
    case SRC_EVEX:
        put_evex(c, r, PICK(r, 1, 1, 2, 2, 2, 3), random_byte(r));
        put_modrm_and_rest(c, r);
        break;
    case SRC_LANES: put_lanes(c, r); break;
    case SRC_BYTES:
        for (unsigned i = 0; i < 16; i++)
            code_put(c, random_byte(r));
        break;
    default: put_legacy(c, r, (enum source)source);
    }
    return (enum source)source;
}
