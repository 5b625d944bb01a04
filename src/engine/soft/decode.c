/* Guest bytes to instruction record: Zydis decodes, one table row per sensitive mnemonic says who carries it out. */
#include <errno.h>

#include "engine/soft/insn.h"
#include "engine/soft/insn_table.h"
#include "engine/soft/soft.h"

#define ABSENT 0xff

static int decoder_for(ZydisDecoder *decoder, unsigned mode_bits)
{
    static const struct {
        ZydisMachineMode mode;
        ZydisStackWidth stack;
    } modes[] = {
        {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
        {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
        {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
    };
    unsigned i = mode_bits / 32; /* 16, 32, 64 -> 0, 1, 2 */

    return ZYAN_SUCCESS(ZydisDecoderInit(decoder, modes[i].mode, modes[i].stack)) ? 0 : -EINVAL;
}

static uint8_t gpr_number(ZydisRegister reg, bool *high)
{
    *high = false;
    if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) {
        *high = true;
        return (uint8_t)(reg - ZYDIS_REGISTER_AH + 4);
    }
    if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_BL)
        return (uint8_t)(reg - ZYDIS_REGISTER_AL);
    if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B)
        return (uint8_t)(reg - ZYDIS_REGISTER_SPL + 4);
    if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W)
        return (uint8_t)(reg - ZYDIS_REGISTER_AX);
    if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
        return (uint8_t)(reg - ZYDIS_REGISTER_EAX);
    if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15)
        return (uint8_t)(reg - ZYDIS_REGISTER_RAX);
    return REG_NONE;
}

static void decode_reg_operand(struct insn *insn, struct insn_operand *op, const ZydisDecodedOperand *z)
{
    ZydisRegister reg = z->reg.value;
    bool high;
    uint8_t gpr = gpr_number(reg, &high);

    if (gpr != REG_NONE) {
        op->kind = OPERAND_GPR;
        op->reg = gpr;
        op->high = high;
        insn->high_byte |= high && z->encoding != ZYDIS_OPERAND_ENCODING_NONE; /* implicit AH goes with any REX */
        return;
    }
    op->reg = (uint8_t)ZydisRegisterGetId(reg);
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_SEGMENT: op->kind = OPERAND_SEG; break;
    case ZYDIS_REGCLASS_CONTROL: op->kind = OPERAND_CR; break;
    case ZYDIS_REGCLASS_DEBUG: op->kind = OPERAND_DR; break;
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM: op->kind = OPERAND_VECTOR; break;
    default: op->kind = OPERAND_OTHER;
    }
}

static void decode_field(struct insn *insn, const struct insn_operand *op, const ZydisDecodedOperand *z)
{
    /* What may stay unwritten must be there before: CMOVcc, CMPXCHG; BSF and BSR of zero. */
    bool kept = (z->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) || insn->mnemonic == ZYDIS_MNEMONIC_BSF ||
                insn->mnemonic == ZYDIS_MNEMONIC_BSR;
    struct insn_field field = {op->reg, (uint8_t)op->size, op->read || kept, op->written};

    if (op->kind != OPERAND_GPR || op->high)
        return;
    switch (z->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG: insn->reg = field; break;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM: insn->rm = field; break;
    case ZYDIS_OPERAND_ENCODING_NDSNDD: insn->vvvv = field; break;
    case ZYDIS_OPERAND_ENCODING_OPCODE: insn->opc = field; break;
    default: break;
    }
}

static void decode_mem(struct insn *insn, const ZydisDecodedOperand *z)
{
    struct insn_mem *mem = &insn->mem;
    bool high;

    insn->has_mem = true;
    mem->seg = (uint8_t)ZydisRegisterGetId(z->mem.segment);
    mem->base = gpr_number(z->mem.base, &high);
    mem->rip_relative = z->mem.base == ZYDIS_REGISTER_RIP || z->mem.base == ZYDIS_REGISTER_EIP;
    mem->vsib = z->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
    mem->index = mem->vsib ? (uint8_t)ZydisRegisterGetId(z->mem.index) : gpr_number(z->mem.index, &high);
    mem->scale = z->mem.scale ? z->mem.scale : 1;
    mem->disp = z->mem.disp.has_displacement ? z->mem.disp.value : 0;
    insn->mem_elem = (uint8_t)(z->element_size / 8);
    if (z->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
        return;
    insn->mem_size = z->size / 8;
    if (insn->mnemonic == ZYDIS_MNEMONIC_CLFLUSH || insn->mnemonic == ZYDIS_MNEMONIC_CLFLUSHOPT || insn->mnemonic == ZYDIS_MNEMONIC_CLWB)
        insn->mem_size = 1; /* the line that holds this byte */
    insn->mem_read = z->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
    insn->mem_written = z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

/* SIB.base 5 without a ModRM displacement size is a plain disp32, whatever REX.B says (SDM vol. 2 table 2-3); Zydis 4.0 errs here. */
static void fix_base(struct insn *insn, const ZydisDecodedInstruction *z)
{
    if (!insn->has_mem || insn->addrsize == 2 || !(z->attributes & ZYDIS_ATTRIB_HAS_SIB) || z->raw.modrm.mod != 0 ||
        (z->raw.sib.base & 7) != 5)
        return;
    insn->mem.base = REG_NONE;
    insn->mem.disp = z->raw.disp.value;
}

static void decode_operand(struct insn *insn, const ZydisDecodedOperand *z)
{
    struct insn_operand op = {
        .size = z->size / 8, .read = z->actions & ZYDIS_OPERAND_ACTION_MASK_READ, .written = z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE};

    switch (z->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER: decode_reg_operand(insn, &op, z); break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        op.kind = OPERAND_MEM;
        if (z->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && z->encoding != ZYDIS_OPERAND_ENCODING_NONE)
            decode_mem(insn, z);
        else
            insn->implicit_mem = true;
        break;
    case ZYDIS_OPERAND_TYPE_POINTER:
        op.kind = OPERAND_FAR;
        op.imm = z->ptr.offset;
        op.far_sel = z->ptr.segment;
        break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        op.kind = z->imm.is_relative ? OPERAND_REL : OPERAND_IMM;
        op.imm = z->imm.value.u;
        break;
    default: return;
    }
    if (op.kind == OPERAND_GPR)
        insn->gprs_used |= BIT(op.high ? op.reg - 4 : op.reg);
    if (op.kind == OPERAND_GPR && op.written)
        insn->gprs_written |= BIT(op.high ? op.reg - 4 : op.reg);
    decode_field(insn, &op, z);
    if (z->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN && insn->operand_count < INSN_MAX_OPERANDS)
        insn->op[insn->operand_count++] = op;
}

static void decode_flags(struct insn *insn, const ZydisDecodedInstruction *z)
{
    if (!z->cpu_flags)
        return;
    insn->cpuflags_read = z->cpu_flags->tested & FLAG_ARITH;
    insn->cpuflags_undefined = z->cpu_flags->undefined & FLAG_ARITH;
    insn->cpuflags_written = (z->cpu_flags->modified | z->cpu_flags->set_0 | z->cpu_flags->set_1 | z->cpu_flags->undefined) & FLAG_ARITH;
}

static void decode_prefixes(struct insn *insn, const ZydisDecodedInstruction *z)
{
    insn->lock = z->attributes & ZYDIS_ATTRIB_HAS_LOCK;
    insn->rep = z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE);
    insn->repne = z->attributes & ZYDIS_ATTRIB_HAS_REPNE;
    for (unsigned i = 0; i < z->raw.prefix_count; i++) {
        uint8_t value = z->raw.prefixes[i].value;
        bool mandatory = z->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY;
        if ((value == 0xf2 || value == 0xf3) && mandatory)
            insn->prefix = value;
        if (value == 0x66 && (mandatory || (insn->mode_bits == 64 && z->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_EFFECTIVE)))
            insn->prefix66 = true;
    }
    if (z->attributes & ZYDIS_ATTRIB_HAS_REX)
        insn->rex = insn->bytes[z->raw.rex.offset];
    /* Outside 64-bit mode the prefix toggles; what counts is the width that comes out. For fences, CLFLUSH and MOVNTI it is another instruction's. */
    bool no_width = insn->opcode_map == 1 && (insn->opcode == 0xae || insn->opcode == 0xc3);
    if (insn->mode_bits != 64 && insn->unit == UNIT_GPR && z->operand_width == 16 && !no_width)
        insn->prefix66 = true;
}

static void decode_encoding(struct insn *insn, const ZydisDecodedInstruction *z)
{
    insn->encoding = (uint8_t)z->encoding;
    insn->opcode = z->opcode;
    switch (z->opcode_map) {
    case ZYDIS_OPCODE_MAP_0F: insn->opcode_map = 1; break;
    case ZYDIS_OPCODE_MAP_0F38: insn->opcode_map = 2; break;
    case ZYDIS_OPCODE_MAP_0F3A: insn->opcode_map = 3; break;
    default: insn->opcode_map = 0;
    }
    insn->vex_off = insn->modrm_off = insn->imm_off = ABSENT;
    if (z->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
        insn->modrm_off = z->raw.modrm.offset;
        insn->modrm = insn->bytes[insn->modrm_off];
    }
    if (z->attributes & ZYDIS_ATTRIB_HAS_VEX)
        insn->vex_off = z->raw.vex.offset;
    if (z->attributes & ZYDIS_ATTRIB_HAS_EVEX)
        insn->vex_off = z->raw.evex.offset;
    if (z->raw.imm[0].size) {
        insn->imm_off = z->raw.imm[0].offset;
        insn->imm_len = insn->len - insn->imm_off;
    }
}

static uint8_t unit_of(const ZydisDecodedInstruction *z)
{
    switch (z->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX: return UNIT_AVX512;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        if (z->meta.isa_ext == ZYDIS_ISA_EXT_BMI1 || z->meta.isa_ext == ZYDIS_ISA_EXT_BMI2)
            return UNIT_GPR;
        return z->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX ? UNIT_AVX512 : UNIT_AVX;
    default: break;
    }
    switch (z->meta.isa_ext) {
    case ZYDIS_ISA_EXT_X87: return UNIT_X87;
    case ZYDIS_ISA_EXT_MMX: return UNIT_MMX;
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_SSE4A:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
    case ZYDIS_ISA_EXT_GFNI: break;
    default: return z->meta.isa_set == ZYDIS_ISA_SET_SSE3X87 ? UNIT_X87 : UNIT_GPR;
    }
    return insn_sse_unit(z);
}

static uint8_t broadcast_lanes(const ZydisDecodedInstruction *z)
{
    switch (z->avx.broadcast.mode) {
    case ZYDIS_BROADCAST_MODE_1_TO_2: return 2;
    case ZYDIS_BROADCAST_MODE_1_TO_4:
    case ZYDIS_BROADCAST_MODE_2_TO_4: return 4;
    case ZYDIS_BROADCAST_MODE_1_TO_8:
    case ZYDIS_BROADCAST_MODE_2_TO_8:
    case ZYDIS_BROADCAST_MODE_4_TO_8: return 8;
    case ZYDIS_BROADCAST_MODE_1_TO_16:
    case ZYDIS_BROADCAST_MODE_2_TO_16:
    case ZYDIS_BROADCAST_MODE_4_TO_16:
    case ZYDIS_BROADCAST_MODE_8_TO_16: return 16;
    case ZYDIS_BROADCAST_MODE_1_TO_32: return 32;
    case ZYDIS_BROADCAST_MODE_1_TO_64: return 64;
    default: return 0;
    }
}

/* Whether an opmask suppresses the faults of the lanes that it switches off: not for the classes "NF" (SDM vol. 2 2.8). */
static bool suppresses_faults(const ZydisDecodedInstruction *z)
{
    switch (z->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_E1NF:
    case ZYDIS_EXCEPTION_CLASS_E2NF:
    case ZYDIS_EXCEPTION_CLASS_E3NF:
    case ZYDIS_EXCEPTION_CLASS_E4NF:
    case ZYDIS_EXCEPTION_CLASS_E5NF:
    case ZYDIS_EXCEPTION_CLASS_E6NF: return false;
    default: break;
    }
    /* E4NF in the SDM, E4 in Zydis 4.0 */
    return z->mnemonic != ZYDIS_MNEMONIC_VGF2P8AFFINEQB && z->mnemonic != ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB &&
           z->mnemonic != ZYDIS_MNEMONIC_VCVTNE2PS2BF16 && z->mnemonic != ZYDIS_MNEMONIC_VDBPSADBW;
}

static void classify(const struct soft_vm *svm, struct insn *insn, const ZydisDecodedInstruction *z)
{
    struct insn_row row = insn_row(insn);

    insn->cls = INSN_INVALID;
    if (insn_is_hint(z)) {
        insn->cls = INSN_INNOCUOUS;
        insn->unit = UNIT_GPR;
        insn->nop = true;
        return;
    }
    if (!insn_offered(svm, z))
        return;
    if (row.exec && (insn->mnemonic != ZYDIS_MNEMONIC_PAUSE || svm->many)) {
        insn->cls = row.cls;
        insn->exec = row.exec;
        return;
    }
    if (insn->implicit_mem || insn->mem.vsib || (insn->has_mem && !insn->mem_size && insn->mnemonic != ZYDIS_MNEMONIC_LEA))
        return; /* it does something that neither the CPU's own execution nor a handler covers */
    insn->cls = INSN_INNOCUOUS;
    insn->masked_mem = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && insn->has_mem && suppresses_faults(z) &&
                       z->avx.mask.reg != ZYDIS_REGISTER_NONE && z->avx.mask.reg != ZYDIS_REGISTER_K0;
    insn->mask_reg = insn->masked_mem ? (uint8_t)ZydisRegisterGetId(z->avx.mask.reg) : 0;
    insn->broadcast = broadcast_lanes(z);
    insn->compressed = insn_is_compressed(insn->mnemonic);
}

/* Others may write to the bytes meanwhile, so they are read once: the verdict and what is kept of them must be about the same instruction. */
int insn_decode(const struct soft_vm *svm, struct insn *insn, const uint8_t *guest_bytes, unsigned avail, unsigned mode_bits)
{
    uint8_t bytes[INSN_MAX_LEN];
    ZydisDecoder decoder;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

    if (decoder_for(&decoder, mode_bits) != 0)
        return -EINVAL;
    *insn = (struct insn){.mode_bits = (uint8_t)mode_bits, .cls = INSN_INVALID};
    insn->reg.gpr = insn->rm.gpr = insn->vvvv.gpr = insn->opc.gpr = REG_NONE;
    insn->mem.base = insn->mem.index = REG_NONE;
    avail = MIN(avail, INSN_MAX_LEN);
    for (unsigned i = 0; i < avail; i++)
        bytes[i] = __atomic_load_n(&guest_bytes[i], __ATOMIC_RELAXED);

    ZyanStatus status = ZydisDecoderDecodeFull(&decoder, bytes, avail, &z, operands);
    if (status == ZYDIS_STATUS_NO_MORE_DATA && avail < INSN_MAX_LEN)
        return -EAGAIN;
    if (!ZYAN_SUCCESS(status)) {
        insn->too_long = status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || status == ZYDIS_STATUS_NO_MORE_DATA;
        insn->len = (uint8_t)avail; /* what the verdict rests on, for who compares bytes */
        for (unsigned i = 0; i < avail; i++)
            insn->bytes[i] = bytes[i];
        return 0;
    }
    insn->len = z.length;
    for (unsigned i = 0; i < z.length; i++)
        insn->bytes[i] = bytes[i];
    insn->mnemonic = (uint16_t)z.mnemonic;
    insn->opsize = z.operand_width / 8;
    insn->addrsize = z.address_width / 8;
    insn->unit = unit_of(&z);
    decode_encoding(insn, &z);
    decode_prefixes(insn, &z);
    for (unsigned i = 0; i < z.operand_count; i++)
        decode_operand(insn, &operands[i]);
    fix_base(insn, &z);
    decode_flags(insn, &z);
    classify(svm, insn, &z);
    return 0;
}
