/* Segment and system descriptors: what segment loads, far transfers and event delivery share. */
#pragma once

#include "engine/soft/soft.h"

/* System types (SDM vol. 3 table 3-2), with the S bit clear; code and data have SEG_S. */
enum desc_type {
    DESC_TSS16 = 1,
    DESC_LDT = 2,
    DESC_TSS16_BUSY = 3,
    DESC_CALL16 = 4,
    DESC_TASK = 5,
    DESC_INT16 = 6,
    DESC_TRAP16 = 7,
    DESC_TSS = 9, /* 32-bit, and the only one in long mode */
    DESC_TSS_BUSY = 11,
    DESC_CALL = 12,
    DESC_INT = 14,
    DESC_TRAP = 15,
};

#define DESC_ACCESSED 1
#define DESC_BUSY 2
#define DESC_WRITABLE 2    /* of data; readable, of code */
#define DESC_CONFORMING 4  /* of code */
#define DESC_EXPAND_DOWN 4 /* of data */
#define DESC_CODE 8

struct desc {
    uint64_t lo, hi; /* hi: the second half of a 16-byte descriptor of long mode */
    gva_t gva;
};

static inline uint32_t desc_attr(const struct desc *d) /* in the form of struct cpu_seg */
{
    return (uint32_t)(d->lo >> 40 & 0xff) | (uint32_t)(d->lo >> 52 & 0xf) << 12;
}

static inline unsigned desc_type(const struct desc *d) /* five bits, S included */
{
    return d->lo >> 40 & 0x1f;
}

static inline unsigned desc_dpl(const struct desc *d)
{
    return d->lo >> 45 & 3;
}

static inline bool desc_present(const struct desc *d)
{
    return d->lo >> 47 & 1;
}

static inline bool desc_is_code(const struct desc *d)
{
    return (desc_type(d) & (SEG_S | DESC_CODE)) == (SEG_S | DESC_CODE);
}

static inline bool desc_is_conforming(const struct desc *d) /* code only */
{
    return desc_type(d) & DESC_CONFORMING;
}

static inline bool sel_is_null(uint16_t sel)
{
    return (sel & 0xfffc) == 0;
}

/* An exception about a selector; ext is 1 while a hardware event is being delivered (SDM vol. 3 6.13). */
static inline int desc_raise(struct soft_cpu *cpu, uint8_t vector, uint16_t sel, uint32_t ext)
{
    return soft_raise_err(cpu, vector, (sel & 0xfffcU) | ext);
}

uint32_t desc_limit(const struct desc *);
uint64_t desc_base(const struct desc *); /* 32 bits of it */

/* The segment register that this code or data descriptor loads. */
struct cpu_seg desc_segment(const struct desc *, uint16_t sel);

/* Reads the descriptor of sel (8 bytes). *found is false for null and for what lies outside its table. */
int desc_find(struct soft_cpu *, uint16_t sel, struct desc *, bool *found);
/* The same, raising vector(sel) when it is not found. */
int desc_get(struct soft_cpu *, uint16_t sel, uint8_t vector, uint32_t ext, struct desc *);
/* Reads hi of a system descriptor in long mode; raises vector(sel) when it is cut off or its own type field
 * is not 0. */
int desc_get_high(struct soft_cpu *, uint16_t sel, uint8_t vector, struct desc *);
/* Sets bits of the type field in memory, if they are not set yet: a locked write, as accessed and busy are
 * set. */
int desc_mark(struct soft_cpu *, struct desc *, unsigned bits);

/* What a null selector loads; ring is kept in SS, which holds the CPL. */
struct cpu_seg seg_null(uint16_t sel, unsigned ring);
/* Segment register contents of real mode. Limit and attributes stay as they are. */
struct cpu_seg seg_real(const struct cpu_seg *old, uint16_t sel);

/* Checks of a load of ES, DS, FS or GS at the current CPL; fills *out. Null is fine. */
int seg_prepare_data(struct soft_cpu *, uint16_t sel, struct cpu_seg *out);
/* Checks of a stack segment for the given ring; vector is #GP or #TS. Not for null selectors. */
int seg_prepare_stack(struct soft_cpu *, uint16_t sel, unsigned ring, uint8_t vector, uint32_t ext, struct cpu_seg *out);
/* MOV, POP or Lxx to any of ES, SS, DS, FS, GS in any mode: checks, then loads it. */
int seg_load(struct soft_cpu *, unsigned seg, uint16_t sel);

/* Code segments: the L and D bits go together in long mode only (SDM vol. 3 5.2.1). */
bool desc_code_valid(const struct soft_cpu *, const struct desc *);
/* The CS that this descriptor loads for the given ring; marks the descriptor accessed. */
int seg_prepare_code(struct soft_cpu *, struct desc *, uint16_t sel, unsigned ring, struct cpu_seg *out);
/* #GP(ext) unless rip is within cs: its limit, or the canonical range when it is 64-bit code. */
int seg_check_target(struct soft_cpu *, const struct cpu_seg *cs, uint64_t rip, uint32_t ext);

/* The far pointer at insn's memory operand: an offset of the operand size, then the selector. */
int seg_read_pointer(struct soft_cpu *, const struct insn *, uint16_t *sel, uint64_t *off);
