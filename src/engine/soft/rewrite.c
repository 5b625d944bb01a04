/* Re-encodes an innocuous instruction with other general registers and another memory operand. */
#include "engine/soft/insn.h"

struct encoder {
    uint8_t *out;
    unsigned len;
};

static void put(struct encoder *e, uint8_t byte)
{
    e->out[e->len++] = byte;
}

/* The host registers that end up in the encoding's fields. Vector and other registers keep their numbers. */
struct fields {
    unsigned reg;   /* ModRM.reg with its extension bits */
    unsigned base;  /* ModRM.rm or SIB.base with its extension bit */
    unsigned index; /* SIB.index; 0 without one */
    unsigned shift; /* SIB.scale */
    bool mem;
    bool sib;
    bool scaled;  /* EVEX: a displacement of a byte counts in units of the operand */
    int32_t disp; /* of the memory operand */
};

static unsigned mapped(const struct insn_field *field, const struct insn_rewrite *rw, unsigned original)
{
    return field->gpr == REG_NONE ? original : rw->map[field->gpr];
}

static void put_modrm(struct encoder *e, const struct fields *f)
{
    if (!f->mem) {
        put(e, 0xc0 | (f->reg & 7) << 3 | (f->base & 7));
        return;
    }
    /* [base] with base 5 or 13 has no form without displacement (SDM vol. 2 table 2-2). */
    bool short_disp = f->disp >= -128 && f->disp <= 127 && (!f->scaled || !f->disp);
    unsigned mod = !f->disp && (f->base & 7) != 5 ? 0 : short_disp ? 1 : 2;
    put(e, mod << 6 | (f->reg & 7) << 3 | (f->sib ? 4 : f->base & 7));
    if (f->sib)
        put(e, (uint8_t)(f->shift << 6 | (f->index & 7) << 3 | (f->base & 7)));
    for (unsigned i = 0; i < (mod == 2 ? 4 : mod); i++)
        put(e, (uint8_t)((uint32_t)f->disp >> (8 * i)));
}

/* Outside 64-bit mode the immediate's bit 7 is no part of the register that it names (SDM vol. 2 VBLENDVPS). */
static bool names_register(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_VBLENDVPS || insn->mnemonic == ZYDIS_MNEMONIC_VBLENDVPD ||
           insn->mnemonic == ZYDIS_MNEMONIC_VPBLENDVB;
}

static void put_imm(struct encoder *e, const struct insn *insn)
{
    uint8_t mask = insn->mode_bits != 64 && names_register(insn) ? 0x7f : 0xff;

    for (unsigned i = 0; i < insn->imm_len; i++)
        put(e, insn->bytes[insn->imm_off + i] & mask);
}

/*
 * Outside 64-bit mode W is ignored where it would make a general register 64 bits wide, and what is accessed in its place in memory (SDM vol. 2 2.2.1,
 * and each instruction's table).
 */
static bool ignores_w(const struct insn *insn)
{
    if (insn->mode_bits == 64)
        return false;
    for (unsigned i = 0; i < insn->operand_count; i++)
        if (insn->op[i].kind == OPERAND_GPR)
            return true;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_VMOVD:
    case ZYDIS_MNEMONIC_VPEXTRD:
    case ZYDIS_MNEMONIC_VPINSRD:
    case ZYDIS_MNEMONIC_VCVTSI2SS:
    case ZYDIS_MNEMONIC_VCVTSI2SD:
    case ZYDIS_MNEMONIC_VCVTUSI2SS:
    case ZYDIS_MNEMONIC_VCVTUSI2SD: return true;
    default: return insn->unit == UNIT_GPR;
    }
}

/* A byte register 4..7 means SPL..DIL only with a REX prefix, and AH..BH only without. */
static bool needs_rex(const struct insn_field *field, const struct insn_rewrite *rw)
{
    return field->gpr != REG_NONE && field->size == 1 && rw->map[field->gpr] >= 4;
}

/* 82 is 80 once more, outside 64-bit mode only. */
static uint8_t opcode_of(const struct insn *insn)
{
    return insn->opcode_map == 0 && insn->opcode == 0x82 ? 0x80 : insn->opcode;
}

static int rewrite_legacy(struct encoder *e, const struct insn *insn, const struct insn_rewrite *rw, const struct fields *f)
{
    bool short_inc = insn->mode_bits != 64 && insn->opcode_map == 0 && (insn->opcode & 0xf0) == 0x40;
    bool moffs = insn->has_mem && insn->modrm_off == 0xff; /* A0..A3 */
    bool in_opcode = insn->opc.gpr != REG_NONE && !short_inc;
    unsigned opc = in_opcode ? rw->map[insn->opc.gpr] : 0;
    unsigned rex = insn->rex & 8;

    if (insn->modrm_off != 0xff || moffs || short_inc)
        rex |= (f->reg >> 3 & 1) << 2 | (f->index >> 3 & 1) << 1 | (f->base >> 3 & 1);
    if (in_opcode)
        rex |= opc >> 3 & 1;
    bool force = !insn->high_byte && (needs_rex(&insn->reg, rw) || needs_rex(&insn->rm, rw) || needs_rex(&insn->opc, rw));
    if (insn->high_byte && rex)
        return -1;

    if (insn->lock)
        put(e, 0xf0);
    if (insn->prefix66)
        put(e, 0x66);
    if (insn->prefix)
        put(e, insn->prefix);
    if (rex || force)
        put(e, 0x40 | rex);
    if (insn->opcode_map >= 1)
        put(e, 0x0f);
    if (insn->opcode_map == 2)
        put(e, 0x38);
    if (insn->opcode_map == 3)
        put(e, 0x3a);

    if (short_inc)
        put(e, 0xff);
    else if (moffs)
        put(e, (insn->opcode & 2 ? 0x88 : 0x8a) | (insn->opcode & 1));
    else
        put(e, in_opcode ? (insn->opcode & 0xf8) | (opc & 7) : opcode_of(insn));
    if (insn->modrm_off != 0xff || moffs || short_inc)
        put_modrm(e, f);
    if (!moffs)
        put_imm(e, insn);
    return (int)e->len;
}

static int rewrite_vex(struct encoder *e, const struct insn *insn, const struct insn_rewrite *rw, const struct fields *f)
{
    const uint8_t *vex = insn->bytes + insn->vex_off;
    bool two = vex[0] == 0xc5;
    unsigned map = two ? 1 : vex[1] & 0x1f;
    uint8_t last = two ? (vex[1] & 0x7f) : vex[2]; /* W vvvv L pp */

    if (insn->mode_bits != 64)
        last |= 0x40; /* the fourth register bit is ignored outside 64-bit mode (SDM vol. 2 2.3.5.6) */
    if (ignores_w(insn))
        last &= 0x7f;
    if (insn->vvvv.gpr != REG_NONE)
        last = (last & 0x87) | ((~rw->map[insn->vvvv.gpr] & 0xf) << 3);
    put(e, 0xc4);
    put(e, (f->reg & 8 ? 0 : 0x80) | (f->index & 8 ? 0 : 0x40) | (f->base & 8 ? 0 : 0x20) | map);
    put(e, last);
    put(e, insn->opcode);
    if (insn->modrm_off != 0xff) /* VZEROUPPER has none */
        put_modrm(e, f);
    put_imm(e, insn);
    return (int)e->len;
}

static int rewrite_evex(struct encoder *e, const struct insn *insn, const struct insn_rewrite *rw, const struct fields *f)
{
    const uint8_t *evex = insn->bytes + insn->vex_off;
    uint8_t p0 = evex[1] & 0x0f;
    uint8_t p1 = evex[2];
    uint8_t p2 = evex[3];

    if (insn->mode_bits != 64) {
        p1 |= 0x40;
        p2 |= 0x08;
    }
    if (ignores_w(insn))
        p1 &= 0x7f;
    if (insn->vvvv.gpr != REG_NONE)
        p1 = (p1 & 0x87) | ((~rw->map[insn->vvvv.gpr] & 0xf) << 3);
    p0 |= (f->reg & 8 ? 0 : 0x80) | (f->reg & 16 ? 0 : 0x10) | (f->base & 8 ? 0 : 0x20);
    /* X extends the index of a memory operand, or a vector register in ModRM.rm to 32. */
    p0 |= ((f->mem ? f->index & 8 : f->base & 16) ? 0 : 0x40);
    put(e, 0x62);
    put(e, p0);
    put(e, p1);
    put(e, p2);
    put(e, insn->opcode);
    put_modrm(e, f);
    put_imm(e, insn);
    return (int)e->len;
}

/* The registers as the original encoding names them, extension bits included. */
static void original_fields(const struct insn *insn, struct fields *f)
{
    unsigned modrm = insn->modrm;

    f->reg = modrm >> 3 & 7;
    f->base = modrm & 7;
    if (insn->mode_bits != 64)
        return; /* eight registers of each kind */
    if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        const uint8_t *vex = insn->bytes + insn->vex_off;
        f->reg |= vex[1] & 0x80 ? 0 : 8;
        if (vex[0] == 0xc4)
            f->base |= vex[1] & 0x20 ? 0 : 8;
    } else if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
        const uint8_t *evex = insn->bytes + insn->vex_off;
        f->reg |= (evex[1] & 0x80 ? 0 : 8) | (evex[1] & 0x10 ? 0 : 16);
        f->base |= (evex[1] & 0x20 ? 0 : 8) | (evex[1] & 0x40 ? 0 : 16);
    } else {
        f->reg |= (insn->rex & 4) << 1;
        f->base |= (insn->rex & 1) << 3;
    }
}

int insn_rewrite(const struct insn *insn, const struct insn_rewrite *rw, uint8_t out[INSN_REWRITE_MAX])
{
    struct encoder e = {out, 0};
    struct fields f = {0};

    original_fields(insn, &f);
    f.scaled = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    if (insn->modrm_off == 0xff && insn->mode_bits != 64 && (insn->opcode & 0xf0) == 0x40) {
        f.reg = insn->opcode >> 3 & 1; /* INC is FF /0, DEC is FF /1: 40..4F mean REX in 64-bit mode */
        f.base = insn->opc.gpr == REG_NONE ? 0 : rw->map[insn->opc.gpr];
    } else if (insn->has_mem && insn->modrm_off == 0xff) {
        f.reg = GPR_RAX;
    } else {
        f.reg = mapped(&insn->reg, rw, f.reg);
        f.base = mapped(&insn->rm, rw, f.base);
    }
    if (insn->has_mem || rw->rm_in_memory) {
        f.mem = true;
        f.disp = rw->mem_disp;
        f.base = rw->mem_base;
        f.index = rw->mem_index == REG_NONE ? 0 : rw->mem_index;
        f.sib = rw->mem_index != REG_NONE || (f.base & 7) == 4;
        if (rw->mem_index == REG_NONE)
            f.index = f.sib ? 4 : 0; /* index 4 = none */
        else
            f.shift = (unsigned)__builtin_ctz(rw->mem_scale);
    }
    switch (insn->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_VEX: return rewrite_vex(&e, insn, rw, &f);
    case ZYDIS_INSTRUCTION_ENCODING_EVEX: return rewrite_evex(&e, insn, rw, &f);
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY: return rewrite_legacy(&e, insn, rw, &f);
    default: return -1;
    }
}
