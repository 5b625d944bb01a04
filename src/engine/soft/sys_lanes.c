/* Instructions that access memory lane by lane: gathers, scatters, masked moves; with each lane's faults. */
#include <string.h>

#include "engine/soft/mmu.h"
#include "engine/soft/sys.h"
#include "engine/soft/sys_prefix.h"
#include "engine/soft/vector_image.h"

static uint64_t size_mask(unsigned bytes)
{
    return bytes >= 8 ? UINT64_MAX : BIT(bytes * 8) - 1;
}

/* Vector length in bytes: VEX.L or EVEX.L'L (SDM vol. 2 2.3.5, 2.7.1). */
static unsigned vector_length(const struct insn *insn)
{
    const uint8_t *prefix = insn->bytes + insn->vex_off;

    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
        return 16u << (prefix[3] >> 5 & 3);
    return prefix[prefix[0] == 0xc5 ? 1 : 2] & 4 ? 32 : 16;
}

/* EVEX.aaa */
static unsigned evex_mask(const struct insn *insn)
{
    return insn->bytes[insn->vex_off + 3] & 7;
}

static uint64_t lane_get(const uint8_t *vector, unsigned lane, unsigned size)
{
    return size == 4 ? vec_get32(vector + lane * 4) : vec_get64(vector + lane * 8);
}

static void lane_set(uint8_t *vector, unsigned lane, unsigned size, uint64_t value)
{
    if (size == 4)
        vec_put32(vector + lane * 4, (uint32_t)value);
    else
        vec_put64(vector + lane * 8, value);
}

/* A set sign bit of each lane: how AVX writes a mask. */
static uint64_t sign_mask(const uint8_t *vector, unsigned lanes, unsigned size)
{
    uint64_t mask = 0;

    for (unsigned i = 0; i < lanes; i++)
        mask |= (uint64_t)(vector[i * size + size - 1] >> 7) << i;
    return mask;
}

/* One lane in memory; alignment is not checked (SDM vol. 2 2.4, and as CPUs do it). */
static int lane_load(struct soft_cpu *cpu, unsigned seg, uint64_t off, unsigned size, uint64_t *value)
{
    gva_t gva;
    int result = soft_linear(cpu, seg, off, size, false, &gva);

    *value = 0;
    return result != SOFT_OK ? result : mmu_read(cpu, gva, value, size, MMU_READ);
}

static int lane_store(struct soft_cpu *cpu, unsigned seg, uint64_t off, unsigned size, uint64_t value)
{
    gva_t gva;
    int result = soft_linear(cpu, seg, off, size, true, &gva);

    return result != SOFT_OK ? result : mmu_write(cpu, gva, &value, size, MMU_WRITE);
}

/* --- VMASKMOV, VPMASKMOV --- */

static unsigned maskmov_lane(uint16_t mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS || mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD ? 4 : 8;
}

/* Whether every lane of mask may be written, so that a fault leaves memory as it was. */
static int check_lanes(struct soft_cpu *cpu, unsigned seg, uint64_t ea, uint64_t ea_mask, unsigned size, uint64_t mask)
{
    for (unsigned i = 0; i < 64 && mask >> i; i++) {
        gva_t gva;
        int result;
        if (!(mask >> i & 1))
            continue;
        result = soft_linear(cpu, seg, (ea + i * size) & ea_mask, size, true, &gva);
        if (result == SOFT_OK)
            result = soft_check_write(cpu, gva, size);
        if (result != SOFT_OK)
            return result;
    }
    return SOFT_OK;
}

static int maskmov_load(struct soft_cpu *cpu, const struct insn *insn, unsigned size, unsigned lanes, uint64_t mask)
{
    uint8_t dest[VECTOR_BYTES];
    uint64_t ea = soft_ea(cpu, insn), ea_mask = size_mask(insn->addrsize);

    memset(dest, 0, sizeof(dest));
    for (unsigned i = 0; i < lanes; i++) {
        uint64_t value;
        int result;
        if (!(mask >> i & 1))
            continue;
        result = lane_load(cpu, insn->mem.seg, (ea + i * size) & ea_mask, size, &value);
        if (result != SOFT_OK)
            return result;
        lane_set(dest, i, size, value);
    }
    vec_image_write(cpu, insn->op[0].reg, dest, lanes * size);
    return SOFT_OK;
}

static int maskmov_store(struct soft_cpu *cpu, const struct insn *insn, unsigned size, unsigned lanes, uint64_t mask)
{
    uint8_t source[VECTOR_BYTES];
    uint64_t ea = soft_ea(cpu, insn), ea_mask = size_mask(insn->addrsize);
    int result = check_lanes(cpu, insn->mem.seg, ea, ea_mask, size, mask);

    vec_image_read(cpu, insn->op[2].reg, source);
    for (unsigned i = 0; i < lanes && result == SOFT_OK; i++)
        if (mask >> i & 1)
            result = lane_store(cpu, insn->mem.seg, (ea + i * size) & ea_mask, size, lane_get(source, i, size));
    return result;
}

/* VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ */
int sys_maskmov(struct soft_cpu *cpu, const struct insn *insn)
{
    unsigned size = maskmov_lane(insn->mnemonic), lanes = vector_length(insn) / size;
    uint8_t vector[VECTOR_BYTES];
    uint64_t mask;

    soft_vec_park(cpu);
    vec_image_read(cpu, insn->op[1].reg, vector);
    mask = sign_mask(vector, lanes, size);
    if (insn->op[0].kind == OPERAND_MEM)
        return maskmov_store(cpu, insn, size, lanes, mask);
    return maskmov_load(cpu, insn, size, lanes, mask);
}

/* --- MASKMOVDQU, MASKMOVQ: bytes to DS:rDI --- */

/* Slot of MMX register n: it is physical register n, and the image is in stack order. */
static const uint8_t *mmx_bytes(const struct soft_cpu *cpu, unsigned n)
{
    unsigned top = vec_get16(cpu->xsave + FX_FSW) >> 11 & 7;

    return cpu->xsave + FX_ST + 16 * ((n - top) & 7);
}

static void read_maskmov_operand(struct soft_cpu *cpu, const struct insn *insn, unsigned i, uint8_t out[VECTOR_BYTES])
{
    if (insn->mnemonic != ZYDIS_MNEMONIC_MASKMOVQ) {
        vec_image_read(cpu, insn->op[i].reg, out);
        return;
    }
    vec_image_use(cpu, XSTATE_X87);
    memcpy(out, mmx_bytes(cpu, insn->op[i].reg & 7), 8);
}

/* MASKMOVQ, MASKMOVDQU, VMASKMOVDQU */
int sys_maskmov_bytes(struct soft_cpu *cpu, const struct insn *insn)
{
    unsigned lanes = insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? 8 : 16, seg = sys_prefix_scan(insn).seg;
    uint8_t source[VECTOR_BYTES], vector[VECTOR_BYTES];
    uint64_t ea_mask = size_mask(insn->addrsize), ea = cpu->gpr[GPR_RDI] & ea_mask, mask;
    int result;

    soft_vec_park(cpu);
    if (lanes == 8 && vec_image_x87_pending(cpu))
        return soft_raise(cpu, EXC_MF);
    read_maskmov_operand(cpu, insn, 0, source);
    read_maskmov_operand(cpu, insn, 1, vector);
    mask = sign_mask(vector, lanes, 1);
    result = soft_check_alignment(cpu, ea + (cpu->code_bits == 64 && seg < SEG_FS ? 0 : cpu->seg[seg].base), lanes);
    if (result == SOFT_OK)
        result = check_lanes(cpu, seg, ea, ea_mask, 1, mask);
    for (unsigned i = 0; i < lanes && result == SOFT_OK; i++)
        if (mask >> i & 1)
            result = lane_store(cpu, seg, (ea + i) & ea_mask, 1, source[i]);
    if (result == SOFT_OK && insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ)
        vec_image_mmx(cpu);
    return result;
}

/* --- gathers and scatters: lanes from low to high; each one that is done is struck from the mask --- */

struct vsib_op {
    unsigned elem, index_size, lanes; /* bytes, bytes, count */
    uint8_t index[VECTOR_BYTES];
    uint64_t mask; /* lanes that are still to do */
};

static void vsib_shape(const struct insn *insn, struct vsib_op *op)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VSCATTERDPS:
    case ZYDIS_MNEMONIC_VPSCATTERDD:
        op->index_size = 4;
        op->elem = 4;
        break;
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VSCATTERDPD:
    case ZYDIS_MNEMONIC_VPSCATTERDQ:
        op->index_size = 4;
        op->elem = 8;
        break;
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VSCATTERQPS:
    case ZYDIS_MNEMONIC_VPSCATTERQD:
        op->index_size = 8;
        op->elem = 4;
        break;
    default: op->index_size = 8; op->elem = 8;
    }
    op->lanes = vector_length(insn) / MAX(op->index_size, op->elem);
}

static uint64_t vsib_address(const struct soft_cpu *cpu, const struct insn *insn, const struct vsib_op *op, unsigned lane)
{
    uint64_t index = lane_get(op->index, lane, op->index_size);

    if (op->index_size == 4)
        index = (uint64_t)(int64_t)(int32_t)index;
    return (soft_ea(cpu, insn) + index * insn->mem.scale) & size_mask(insn->addrsize);
}

/* What is left of an AVX mask register: lanes still to do are all ones, the others zero. */
static void write_vector_mask(struct soft_cpu *cpu, unsigned reg, const struct vsib_op *op)
{
    uint8_t vector[VECTOR_BYTES];

    memset(vector, 0, sizeof(vector));
    for (unsigned i = 0; i < op->lanes; i++)
        if (op->mask >> i & 1)
            lane_set(vector, i, op->elem, UINT64_MAX);
    vec_image_write(cpu, reg, vector, op->lanes * op->elem);
}

/* Loads the lanes of op->mask into dest; stops at a fault. */
static int gather_lanes(struct soft_cpu *cpu, const struct insn *insn, struct vsib_op *op, uint8_t *dest)
{
    for (unsigned i = 0; i < op->lanes; i++) {
        uint64_t value;
        int result;
        if (!(op->mask >> i & 1))
            continue;
        result = lane_load(cpu, insn->mem.seg, vsib_address(cpu, insn, op, i), op->elem, &value);
        if (result != SOFT_OK)
            return result;
        lane_set(dest, i, op->elem, value);
        op->mask &= ~BIT(i);
    }
    return SOFT_OK;
}

/* After a fault the register keeps what lies above the lanes; after success that is 0. */
static void write_gathered(struct soft_cpu *cpu, const struct insn *insn, const struct vsib_op *op, const uint8_t *dest, int result)
{
    vec_image_write(cpu, insn->op[0].reg, dest, result == SOFT_OK ? op->lanes * op->elem : VECTOR_BYTES);
}

static int gather_vex(struct soft_cpu *cpu, const struct insn *insn, struct vsib_op *op)
{
    unsigned dest_reg = insn->op[0].reg, mask_reg = insn->op[2].reg;
    uint8_t dest[VECTOR_BYTES], vector[VECTOR_BYTES];
    int result;

    if (dest_reg == mask_reg || dest_reg == insn->mem.index || mask_reg == insn->mem.index)
        return soft_raise(cpu, EXC_UD);
    vec_image_read(cpu, mask_reg, vector);
    op->mask = sign_mask(vector, op->lanes, op->elem);
    vec_image_read(cpu, dest_reg, dest);
    result = gather_lanes(cpu, insn, op, dest);
    write_gathered(cpu, insn, op, dest, result);
    write_vector_mask(cpu, mask_reg, op);
    return result;
}

/* The lanes still to do. What lies above the lanes stays at a fault; success leaves nothing. */
static void set_evex_mask(struct soft_cpu *cpu, unsigned k, const struct vsib_op *op, int result)
{
    uint64_t above = result == SOFT_OK ? 0 : vec_image_opmask(cpu, k) & ~(BIT(op->lanes) - 1);

    vec_image_set_opmask(cpu, k, above | op->mask);
}

static int gather_evex(struct soft_cpu *cpu, const struct insn *insn, struct vsib_op *op)
{
    unsigned k = evex_mask(insn);
    uint8_t dest[VECTOR_BYTES];
    int result;

    if (!k || insn->op[0].reg == insn->mem.index)
        return soft_raise(cpu, EXC_UD);
    op->mask = vec_image_opmask(cpu, k) & (BIT(op->lanes) - 1);
    vec_image_read(cpu, insn->op[0].reg, dest);
    result = gather_lanes(cpu, insn, op, dest);
    write_gathered(cpu, insn, op, dest, result);
    set_evex_mask(cpu, k, op, result);
    return result;
}

/* VGATHERDPS, VGATHERDPD, VGATHERQPS, VGATHERQPD, VPGATHERDD, VPGATHERDQ, VPGATHERQD, VPGATHERQQ */
int sys_gather(struct soft_cpu *cpu, const struct insn *insn)
{
    struct vsib_op op;

    soft_vec_park(cpu);
    vsib_shape(insn, &op);
    vec_image_read(cpu, insn->mem.index, op.index);
    return insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ? gather_evex(cpu, insn, &op) : gather_vex(cpu, insn, &op);
}

/* The register operand, wherever the encoding's list has it. */
static unsigned scatter_source(const struct insn *insn)
{
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (insn->op[i].kind == OPERAND_VECTOR)
            return insn->op[i].reg;
    return 0;
}

/* VSCATTERDPS, VSCATTERDPD, VSCATTERQPS, VSCATTERQPD, VPSCATTERDD, VPSCATTERDQ, VPSCATTERQD, VPSCATTERQQ */
int sys_scatter(struct soft_cpu *cpu, const struct insn *insn)
{
    struct vsib_op op;
    uint8_t source[VECTOR_BYTES];
    unsigned k = evex_mask(insn);
    int result = SOFT_OK;

    if (!k)
        return soft_raise(cpu, EXC_UD);
    soft_vec_park(cpu);
    vsib_shape(insn, &op);
    vec_image_read(cpu, insn->mem.index, op.index);
    vec_image_read(cpu, scatter_source(insn), source);
    op.mask = vec_image_opmask(cpu, k) & (BIT(op.lanes) - 1);
    for (unsigned i = 0; i < op.lanes && result == SOFT_OK; i++) {
        if (!(op.mask >> i & 1))
            continue;
        result = lane_store(cpu, insn->mem.seg, vsib_address(cpu, insn, &op, i), op.elem, lane_get(source, i, op.elem));
        if (result == SOFT_OK)
            op.mask &= ~BIT(i);
    }
    set_evex_mask(cpu, k, &op, result);
    return result;
}
