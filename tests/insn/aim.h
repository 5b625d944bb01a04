/* Chooses registers and displacements so that every memory operand of an instruction lands where a case wants it. */
#pragma once

#include <Zydis/Zydis.h>

#include "encode.h"
#include "state.h"

struct insn_case {
    uint64_t seed, number;
    struct rng rng;
    enum source source;
    struct code code;
    bool decoded;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    uint64_t fs_base, gs_base;
    struct outcome in;
};

static inline int gpr_of(ZydisRegister reg)
{
    ZydisRegister largest = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

    return largest >= ZYDIS_REGISTER_RAX && largest <= ZYDIS_REGISTER_R15 ? (int)(largest - ZYDIS_REGISTER_RAX) : -1;
}

/* The page in the first column is followed by one of another kind, or by one of the same. */
static inline uint64_t random_target(struct rng *r, unsigned size)
{
    static const uint8_t edge[] = {5, 5, 5, 5, 7, 9, 10, 11, 12, 15, 3};
    static const uint8_t inside[] = {4, 5, 6, 7, 9, 11, 14, 15, 16, 4, 5, 6, 7, 9, 8, 18};

    size = MAX(size, 1);
    if (rng_one_in(r, 4)) {
        uint64_t end = ARENA + (pick(r, edge, sizeof(edge)) + 1) * PAGE_SIZE;
        return end - rng_below(r, size + 1);
    }
    uint64_t at = ARENA + pick(r, inside, sizeof(inside)) * PAGE_SIZE + rng_below(r, PAGE_SIZE - MIN(size, PAGE_SIZE) + 1);
    if (rng_one_in(r, 40))
        at = ARENA + PICK(r, 0, 3, 10, 13, 17) * PAGE_SIZE + rng_below(r, PAGE_SIZE);
    return rng_one_in(r, 2) ? at & ~63ULL : at;
}

static inline uint64_t segment_base(const struct insn_case *c, ZydisRegister seg)
{
    return seg == ZYDIS_REGISTER_FS ? c->fs_base : seg == ZYDIS_REGISTER_GS ? c->gs_base : 0;
}

static inline uint64_t register_value(const struct insn_case *c, ZydisRegister reg)
{
    int gpr = gpr_of(reg);

    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
        return c->in.rip + c->z.length;
    if (gpr < 0)
        return 0;
    uint64_t value = c->in.gpr[gpr];
    return c->z.address_width == 64 ? value : c->z.address_width == 32 ? (uint32_t)value : (uint16_t)value;
}

static inline uint64_t linear_of(const struct insn_case *c, const ZydisDecodedOperand *op)
{
    uint64_t at = op->mem.disp.has_displacement ? (uint64_t)op->mem.disp.value : 0;

    at += register_value(c, op->mem.base);
    if (op->mem.type != ZYDIS_MEMOP_TYPE_VSIB)
        at += register_value(c, op->mem.index) * op->mem.scale;
    if (c->z.address_width == 32)
        at = (uint32_t)at;
    if (c->z.address_width == 16)
        at = (uint16_t)at;
    at += segment_base(c, op->mem.segment);
    return c->code.bits == 64 ? at : (uint32_t)at;
}

static inline bool decode_again(struct insn_case *c)
{
    ZydisDecoder decoder;

    ZydisDecoderInit(&decoder, c->code.bits == 64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                     c->code.bits == 64 ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, c->code.bytes, INSN_MAX_LEN, &c->z, c->op)))
        return false;
    for (unsigned i = 0; i < c->z.operand_count_visible; i++) {
        ZydisDecodedOperand *op = &c->op[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && (c->z.attributes & ZYDIS_ATTRIB_HAS_SIB) && c->z.raw.modrm.mod == 0 &&
            (c->z.raw.sib.base & 7) == 5 && c->z.address_width != 16) { /* Zydis 4.0 takes it for R13D with 67 and REX.B */
            op->mem.base = ZYDIS_REGISTER_NONE;
            op->mem.disp.has_displacement = true;
            op->mem.disp.value = c->z.raw.disp.value;
        }
    }
    return true;
}

static inline void patch_displacement(struct insn_case *c, uint64_t value)
{
    unsigned bytes = c->z.raw.disp.size / 8;

    memcpy(c->code.bytes + c->z.raw.disp.offset, &value, bytes);
    c->decoded = decode_again(c);
}

static inline void aim_explicit(struct insn_case *c, ZydisDecodedOperand *op, uint64_t target)
{
    int base = gpr_of(op->mem.base);
    int index = op->mem.type == ZYDIS_MEMOP_TYPE_VSIB ? -1 : gpr_of(op->mem.index);
    uint64_t disp = op->mem.disp.has_displacement ? (uint64_t)op->mem.disp.value : 0;
    uint64_t offset = target - segment_base(c, op->mem.segment);

    if (c->z.address_width == 16)
        return; /* nothing is mapped below 64 KiB */
    if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP) {
        patch_displacement(c, offset - (c->in.rip + c->z.length));
    } else if (base < 0 && index < 0) {
        if (c->z.raw.disp.size >= 32)
            patch_displacement(c, offset);
    } else if (base < 0) {
        c->in.gpr[index] = (offset - disp) / op->mem.scale;
    } else if (base == index) {
        c->in.gpr[base] = (offset - disp) / (1u + op->mem.scale);
    } else {
        if (index >= 0 && c->z.address_width == 64 && rng_one_in(&c->rng, 2))
            c->in.gpr[index] = rng_below(&c->rng, 4096);
        c->in.gpr[base] = offset - disp - (index >= 0 ? register_value(c, op->mem.index) * op->mem.scale : 0);
        if (c->z.address_width == 32)
            c->in.gpr[base] = (uint32_t)c->in.gpr[base];
        if (c->z.address_width == 32 && c->code.bits == 64 && base != GPR_RSP && rng_one_in(&c->rng, 2))
            c->in.gpr[base] |= rng_next(&c->rng) << 32; /* the upper half does not count */
    }
}

/* Every element of the index register stays near, so that base + index * scale does. */
static inline void aim_indexes(struct insn_case *c, const ZydisDecodedOperand *op, const struct soft_cpuid *model)
{
    unsigned id = (unsigned)ZydisRegisterGetId(op->mem.index);
    bool quads = (c->z.opcode & 1) != 0;
    uint8_t v[VECTOR_BYTES];

    for (unsigned i = 0; i < VECTOR_BYTES; i += quads ? 8 : 4) {
        int64_t at = (int64_t)rng_below(&c->rng, 6000) - 3000;
        at /= op->mem.scale ? op->mem.scale : 1;
        memcpy(v + i, &at, quads ? 8 : 4);
    }
    vec_put64(c->in.image + XSAVE_HEADER, model->xcr0);
    if (id >= 16) {
        memcpy(c->in.image + model->xstate[XSTATE_HI16_ZMM].offset + 64 * (id - 16), v, 64);
        return;
    }
    memcpy(c->in.image + FX_XMM + 16 * id, v, 16);
    memcpy(c->in.image + model->xstate[XSTATE_AVX].offset + 16 * id, v + 16, 16);
    if (model->xcr0 & BIT(XSTATE_ZMM_HI256))
        memcpy(c->in.image + model->xstate[XSTATE_ZMM_HI256].offset + 32 * id, v + 32, 32);
}

static inline bool is_bit_test(const struct insn_case *c)
{
    ZydisMnemonic m = c->z.mnemonic;

    return m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR || m == ZYDIS_MNEMONIC_BTC;
}

static inline bool is_maskmov(const struct insn_case *c)
{
    ZydisMnemonic m = c->z.mnemonic;

    return m == ZYDIS_MNEMONIC_MASKMOVQ || m == ZYDIS_MNEMONIC_MASKMOVDQU || m == ZYDIS_MNEMONIC_VMASKMOVDQU;
}

static inline unsigned operand_bytes(const ZydisDecodedOperand *op)
{
    unsigned n = op->size / 8;

    return n ? n : 8;
}

static inline void aim(struct insn_case *c, const struct soft_cpuid *model)
{
    bool wild = rng_one_in(&c->rng, 60);

    if (c->z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) {
        c->in.gpr[GPR_RCX] = rng_below(&c->rng, rng_one_in(&c->rng, 8) ? 400 : 20);
        if (c->z.address_width == 32 && c->code.bits == 64)
            c->in.gpr[GPR_RCX] |= (rng_next(&c->rng) & 1) << 40;
    }
    if (is_bit_test(c) && c->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
        c->in.gpr[gpr_of(c->op[1].reg.value)] = (uint64_t)((int64_t)rng_below(&c->rng, 40000) - 20000);
    if (c->z.mnemonic == ZYDIS_MNEMONIC_ENTER || c->z.mnemonic == ZYDIS_MNEMONIC_LEAVE)
        c->in.gpr[GPR_RBP] = random_target(&c->rng, 8);
    for (unsigned i = 0; i < c->z.operand_count && c->decoded; i++) { /* hidden ones first: explicit ones have the last word */
        ZydisDecodedOperand *op = &c->op[i];
        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || i < c->z.operand_count_visible)
            continue;
        int base = gpr_of(op->mem.base);
        uint64_t target = random_target(&c->rng, operand_bytes(op));
        if (is_maskmov(c)) /* whether lanes that are off can fault is the CPU's affair */
            target = ARENA + 5 * PAGE_SIZE + (target & (PAGE_SIZE - 1));
        if (base >= 0)
            c->in.gpr[base] = target - segment_base(c, op->mem.segment);
    }
    for (unsigned i = 0; i < c->z.operand_count_visible && c->decoded; i++) {
        ZydisDecodedOperand *op = &c->op[i];
        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
            aim_indexes(c, op, model);
        aim_explicit(c, op, random_target(&c->rng, operand_bytes(op)));
        if (wild && gpr_of(op->mem.base) >= 0 && op->mem.type != ZYDIS_MEMOP_TYPE_VSIB)
            c->in.gpr[gpr_of(op->mem.base)] ^= 0x4000ULL << 44; /* not canonical */
    }
}

/* True when nothing that the instruction touches can lie outside the zone around the arena. */
static inline bool aimed(const struct insn_case *c)
{
    if (is_bit_test(c) && c->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER && c->op[1].size > 16) {
        uint64_t offset = c->in.gpr[gpr_of(c->op[1].reg.value)] + MIB(512);
        if (c->op[1].size == 32)
            offset = (uint32_t)offset;
        if (offset > MIB(1024))
            return false;
    }
    for (unsigned i = 0; i < c->z.operand_count; i++) {
        const ZydisDecodedOperand *op = &c->op[i];
        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            continue;
        uint64_t at = linear_of(c, op);
        bool canonical = gva_is_canonical(at) && gva_is_canonical(at + 64) && gva_is_canonical(at - 64);
        if (canonical && c->z.address_width == 16 && at < 0x10000 && segment_base(c, op->mem.segment) == 0)
            continue;
        if (canonical && (at < ARENA - KIB(32) || at > ARENA + MIB(32)))
            return false;
        if (!canonical && gva_is_canonical(at))
            return false; /* too near the edge to say what is there */
    }
    return true;
}
