/* Random registers, flags and vector state, with a taste for the values that matter. */
#pragma once

#include <string.h>

#include "engine/soft/vector_image.h"
#include "outcome.h"
#include "rng.h"

static inline uint64_t random_value(struct rng *r)
{
    static const uint64_t special[] = {0,
                                       1,
                                       2,
                                       0x7f,
                                       0x80,
                                       0xff,
                                       0x100,
                                       0x7fff,
                                       0x8000,
                                       0xffff,
                                       0x7fffffff,
                                       0x80000000,
                                       0xffffffff,
                                       0x100000000,
                                       0x7fffffffffffffff,
                                       0x8000000000000000,
                                       UINT64_MAX};

    switch (rng_below(r, 8)) {
    case 0:
    case 1: return special[rng_below(r, ARRAY_SIZE(special))];
    case 2: return rng_below(r, 130);
    case 3: return 1ULL << rng_below(r, 64);
    case 4: return (uint64_t) - (int64_t)rng_below(r, 1000);
    case 5: return (uint32_t)rng_next(r);
    default: return rng_next(r);
    }
}

/* 64 bytes as a vector register or memory may hold them. */
static inline void random_vector(struct rng *r, uint8_t *to)
{
    static const uint32_t f32[] = {0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7fa00000,
                                   1, 0x007fffff, 0x00800000, 0x7f7fffff, 0x4f000000, 0xcf000000, 0x3effffff, 0x40490fdb};
    static const uint64_t f64[] = {0,
                                   0x8000000000000000,
                                   0x3ff0000000000000,
                                   0xbff0000000000000,
                                   0x7ff0000000000000,
                                   0xfff0000000000000,
                                   0x7ff8000000000000,
                                   0x7ff4000000000000,
                                   1,
                                   0x000fffffffffffff,
                                   0x0010000000000000,
                                   0x7fefffffffffffff,
                                   0x43e0000000000000,
                                   0xc3e0000000000000,
                                   0x41e0000000000000,
                                   0x400921fb54442d18};

    switch (rng_below(r, 5)) {
    case 0:
        for (unsigned i = 0; i < 16; i++)
            memcpy(to + 4 * i, &f32[rng_below(r, 16)], 4);
        break;
    case 1:
        for (unsigned i = 0; i < 8; i++)
            memcpy(to + 8 * i, &f64[rng_below(r, 16)], 8);
        break;
    case 2:
        for (unsigned i = 0; i < 8; i++) {
            uint64_t v = random_value(r);
            memcpy(to + 8 * i, &v, 8);
        }
        break;
    default: rng_fill(r, to, VECTOR_BYTES);
    }
}

static inline void random_x87(struct rng *r, uint8_t *image)
{
    uint16_t control = (uint16_t)((rng_next(r) & 0xf00) | 0x7f);

    if (rng_one_in(r, 8))
        control &= (uint16_t) ~(1u << rng_below(r, 6));
    vec_put16(image + FX_FCW, control);
    vec_put16(image + FX_FSW, (uint16_t)(rng_next(r) & 0x7f00));
    if (rng_one_in(r, 8))
        vec_put16(image + FX_FSW, (uint16_t)(rng_next(r) & 0x7f7f));
    if (vec_get16(image + FX_FSW) & ~control & 0x3f) /* ES and B follow from the rest */
        vec_put16(image + FX_FSW, vec_get16(image + FX_FSW) | 0x8080);
    image[FX_FTW] = rng_one_in(r, 3) ? 0xff : (uint8_t)(rng_next(r) >> 20);
    for (unsigned i = 0; i < 8; i++) {
        uint8_t *st = image + FX_ST + 16 * i;
        rng_fill(r, st, 10);
        if (!rng_one_in(r, 4)) { /* a number that the others can be computed with */
            st[7] |= 0x80;
            vec_put16(st + 8, (uint16_t)((rng_next(r) & 0x8000) | (0x3fff - 70 + rng_below(r, 140))));
        } else if (rng_one_in(r, 2)) {
            vec_put16(st + 8, (uint16_t)((rng_next(r) & 0x8000) | (rng_one_in(r, 2) ? 0x7fff : 0)));
        }
    }
}

/* A legal XSAVE image in standard form; a component in four is in its initial state. */
static inline void random_image(struct rng *r, const struct soft_cpuid *model, uint8_t *image)
{
    uint64_t in_use = rng_next(r) | rng_next(r);
    uint8_t scratch[VECTOR_BYTES];

    memset(image, 0, 576);
    random_x87(r, image);
    uint32_t mxcsr = (uint32_t)(rng_next(r) & 0xe000) | 0x1f80;
    if (rng_one_in(r, 2))
        mxcsr |= (uint32_t)rng_next(r) & 0x7f;
    if (rng_one_in(r, 8))
        mxcsr &= ~(1u << (7 + rng_below(r, 6)));
    vec_put32(image + FX_MXCSR, mxcsr & model->mxcsr_mask);
    for (unsigned i = 0; i < 16; i++) {
        random_vector(r, scratch);
        memcpy(image + FX_XMM + 16 * i, scratch, 16);
    }
    for (unsigned i = XSTATE_AVX; i < XSTATE_COUNT; i++)
        for (unsigned at = 0; model->xcr0 & BIT(i) && at < model->xstate[i].size; at += VECTOR_BYTES)
            random_vector(r, image + model->xstate[i].offset + at);
    vec_put64(image + XSAVE_HEADER, in_use & model->xcr0);
}

static inline void random_registers(struct rng *r, struct outcome *in)
{
    for (unsigned i = 0; i < GPR_COUNT; i++)
        in->gpr[i] = random_value(r);
    in->rflags = (rng_next(r) & (FLAG_ARITH | FLAG_DF)) | FLAG_ONE | FLAG_IF;
    if (!rng_one_in(r, 4))
        in->rflags &= ~FLAG_DF;
    if (rng_one_in(r, 32))
        in->rflags |= FLAG_AC;
}
