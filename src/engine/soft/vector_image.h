/* The parked vector state: where each register lies in the standard XSAVE image, and what "initial state" means in it. */
#pragma once

#include "engine/soft/cpuid.h"
#include "engine/soft/soft.h"

/*
 * Everything here works on cpu->xsave after soft_vec_park(). A component whose XSTATE_BV bit is clear is in its initial
 * state and its bytes mean nothing (SDM vol. 1 13.6); MXCSR is the exception: its bytes always count.
 */

/* Offsets in the legacy region (SDM vol. 1 table 10-2). */
#define FX_FCW 0
#define FX_FSW 2
#define FX_FTW 4 /* abridged: bit n set = physical register n not empty */
#define FX_FOP 6
#define FX_FIP 8
#define FX_FDP 16
#define FX_MXCSR 24
#define FX_MXCSR_MASK 28
#define FX_ST 32
#define FX_XMM 160
#define FX_BYTES_USED 416

#define FCW_INIT 0x37f
#define MXCSR_INIT 0x1f80

#define VECTOR_BYTES 64

static inline uint16_t vec_get16(const uint8_t *p)
{
    uint16_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint32_t vec_get32(const uint8_t *p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint64_t vec_get64(const uint8_t *p)
{
    uint64_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
}

static inline void vec_put16(uint8_t *p, uint16_t v)
{
    __builtin_memcpy(p, &v, sizeof(v));
}

static inline void vec_put32(uint8_t *p, uint32_t v)
{
    __builtin_memcpy(p, &v, sizeof(v));
}

static inline void vec_put64(uint8_t *p, uint64_t v)
{
    __builtin_memcpy(p, &v, sizeof(v));
}

static inline uint64_t vec_xstate_bv(const struct soft_cpu *cpu)
{
    return vec_get64(cpu->xsave + XSAVE_HEADER);
}

/* Marks a component as in use, giving its bytes the initial state first when it was not. */
void vec_image_use(struct soft_cpu *, unsigned component);

/* Puts a component into its initial state (MXCSR is not touched). */
void vec_image_init(struct soft_cpu *, unsigned component);

/* All 64 bytes of vector register n (0..31), whatever part of them the guest may use. */
void vec_image_read(const struct soft_cpu *, unsigned n, uint8_t out[VECTOR_BYTES]);

/* The first size bytes (16, 32, 64) of register n; the rest up to the longest vector becomes 0, as VEX and EVEX do. */
void vec_image_write(struct soft_cpu *, unsigned n, const uint8_t *in, unsigned size);

uint64_t vec_image_opmask(const struct soft_cpu *, unsigned k);
void vec_image_set_opmask(struct soft_cpu *, unsigned k, uint64_t value);

/* An unmasked x87 exception waits (FSW.ES): the next waiting instruction raises #MF. */
static inline bool vec_image_x87_pending(const struct soft_cpu *cpu)
{
    return (vec_xstate_bv(cpu) & BIT(XSTATE_X87)) && (vec_get16(cpu->xsave + FX_FSW) & 0x80);
}

/* A new TOP. Registers keep their physical places, while the image is in stack order: slot i is physical register TOP + i. */
void vec_image_set_top(struct soft_cpu *, unsigned top);

/* What an MMX instruction does to the x87 state: TOP = 0, all tags valid. */
void vec_image_mmx(struct soft_cpu *);
