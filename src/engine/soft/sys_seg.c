/* Segment registers and their bases: moves, far pointer loads, FS/GS base, SWAPGS, and queries about descriptors. */
#include "engine/soft/sys.h"
#include "engine/soft/sys_desc.h"

/* ZYDIS_MNEMONIC_MOV with op[0] a segment register (8E) */
int sys_mov_to_seg(struct soft_cpu *cpu, const struct insn *insn)
{
    unsigned seg = insn->op[0].reg;
    uint64_t sel;

    if (seg == SEG_CS || seg >= SEG_COUNT)
        return soft_raise(cpu, EXC_UD);
    int result = soft_op_read(cpu, insn, 1, &sel);
    if (result == SOFT_OK)
        result = seg_load(cpu, seg, (uint16_t)sel);
    if (result == SOFT_OK && seg == SEG_SS)
        cpu->mov_ss_shadow = true;
    return result;
}

/* ZYDIS_MNEMONIC_MOV with op[1] a segment register (8C) */
int sys_mov_from_seg(struct soft_cpu *cpu, const struct insn *insn)
{
    if (insn->op[1].reg >= SEG_COUNT)
        return soft_raise(cpu, EXC_UD);
    return soft_op_write(cpu, insn, 0, cpu->seg[insn->op[1].reg].sel);
}

static unsigned pointer_segment(const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_LES: return SEG_ES;
    case ZYDIS_MNEMONIC_LSS: return SEG_SS;
    case ZYDIS_MNEMONIC_LFS: return SEG_FS;
    case ZYDIS_MNEMONIC_LGS: return SEG_GS;
    default: return SEG_DS;
    }
}

/* ZYDIS_MNEMONIC_LDS, LES, LSS, LFS, LGS */
int sys_load_far_pointer(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t off;
    uint16_t sel;
    int result = seg_read_pointer(cpu, insn, &sel, &off);

    if (result == SOFT_OK)
        result = seg_load(cpu, pointer_segment(insn), sel);
    if (result == SOFT_OK)
        soft_gpr_write(cpu, insn->op[0].reg, false, insn->op[0].size, off);
    return result;
}

/* --- bases --- */

static bool base_insns_offered(const struct soft_cpu *cpu)
{
    return cpu->code_bits == 64 && (cpu->cr4 & CR4_FSGSBASE);
}

static int read_base(struct soft_cpu *cpu, const struct insn *insn, unsigned seg)
{
    if (!base_insns_offered(cpu))
        return soft_raise(cpu, EXC_UD);
    return soft_op_write(cpu, insn, 0, cpu->seg[seg].base);
}

static int write_base(struct soft_cpu *cpu, const struct insn *insn, unsigned seg)
{
    uint64_t base;

    if (!base_insns_offered(cpu))
        return soft_raise(cpu, EXC_UD);
    int result = soft_op_read(cpu, insn, 0, &base);
    if (result != SOFT_OK)
        return result;
    if (!gva_is_canonical(base))
        return soft_raise_err(cpu, EXC_GP, 0);
    cpu->seg[seg].base = base;
    return SOFT_OK;
}

/* ZYDIS_MNEMONIC_RDFSBASE */
int sys_rdfsbase(struct soft_cpu *cpu, const struct insn *insn)
{
    return read_base(cpu, insn, SEG_FS);
}

/* ZYDIS_MNEMONIC_RDGSBASE */
int sys_rdgsbase(struct soft_cpu *cpu, const struct insn *insn)
{
    return read_base(cpu, insn, SEG_GS);
}

/* ZYDIS_MNEMONIC_WRFSBASE */
int sys_wrfsbase(struct soft_cpu *cpu, const struct insn *insn)
{
    return write_base(cpu, insn, SEG_FS);
}

/* ZYDIS_MNEMONIC_WRGSBASE */
int sys_wrgsbase(struct soft_cpu *cpu, const struct insn *insn)
{
    return write_base(cpu, insn, SEG_GS);
}

/* ZYDIS_MNEMONIC_SWAPGS */
int sys_swapgs(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t base = cpu->seg[SEG_GS].base;

    (void)insn;
    if (cpu->code_bits != 64)
        return soft_raise(cpu, EXC_UD);
    if (cpu->cpl != 0)
        return soft_raise_err(cpu, EXC_GP, 0);
    cpu->seg[SEG_GS].base = cpu->kernel_gs_base;
    cpu->kernel_gs_base = base;
    return SOFT_OK;
}

/* --- queries: ZF says whether the caller may, nothing about the selector faults --- */

static void set_zf(struct soft_cpu *cpu, bool on)
{
    cpu->rflags = (cpu->rflags & ~FLAG_ZF) | (on ? FLAG_ZF : 0);
}

/* The descriptor that operand i selects, if it is in its table; *visible: and the CPL and RPL may see it. */
static int query(struct soft_cpu *cpu, const struct insn *insn, unsigned i, struct desc *d, bool *visible)
{
    uint64_t sel;

    if (!cpu->protected_mode)
        return soft_raise(cpu, EXC_UD);
    int result = soft_op_read(cpu, insn, i, &sel);
    if (result == SOFT_OK)
        result = desc_find(cpu, (uint16_t)sel, d, visible);
    if (result == SOFT_OK && *visible && !(desc_is_code(d) && desc_is_conforming(d)))
        *visible = MAX(cpu->cpl, sel & 3) <= desc_dpl(d);
    return result;
}

/* System descriptors that LAR knows (SDM vol. 2 table 3-54), and those of them that have a limit, for LSL
 * (table 3-58). */
static bool system_type_known(const struct soft_cpu *cpu, unsigned type, bool has_limit)
{
    uint32_t types = BIT(DESC_LDT) | BIT(DESC_TSS) | BIT(DESC_TSS_BUSY);

    if (!cpu->long_mode)
        types |= BIT(DESC_TSS16) | BIT(DESC_TSS16_BUSY);
    if (!has_limit)
        types |= BIT(DESC_CALL) | (cpu->long_mode ? 0 : BIT(DESC_CALL16) | BIT(DESC_TASK));
    return types >> type & 1;
}

/* ZYDIS_MNEMONIC_LAR */
int sys_lar(struct soft_cpu *cpu, const struct insn *insn)
{
    struct desc d;
    bool visible;
    int result = query(cpu, insn, 1, &d, &visible);

    if (result != SOFT_OK)
        return result;
    if (visible && !(desc_type(&d) & SEG_S))
        visible = system_type_known(cpu, desc_type(&d), false);
    if (visible)
        soft_gpr_write(cpu, insn->op[0].reg, false, insn->op[0].size, d.lo >> 32 & 0xffff00);
    set_zf(cpu, visible);
    return SOFT_OK;
}

/* ZYDIS_MNEMONIC_LSL */
int sys_lsl(struct soft_cpu *cpu, const struct insn *insn)
{
    struct desc d;
    bool visible;
    int result = query(cpu, insn, 1, &d, &visible);

    if (result != SOFT_OK)
        return result;
    if (visible && !(desc_type(&d) & SEG_S))
        visible = system_type_known(cpu, desc_type(&d), true);
    if (visible)
        soft_gpr_write(cpu, insn->op[0].reg, false, insn->op[0].size, desc_limit(&d));
    set_zf(cpu, visible);
    return SOFT_OK;
}

/* ZYDIS_MNEMONIC_VERR */
int sys_verr(struct soft_cpu *cpu, const struct insn *insn)
{
    struct desc d;
    bool visible;
    int result = query(cpu, insn, 0, &d, &visible);

    if (result == SOFT_OK)
        set_zf(cpu, visible && (desc_type(&d) & SEG_S) && (!desc_is_code(&d) || (desc_type(&d) & DESC_WRITABLE)));
    return result;
}

/* ZYDIS_MNEMONIC_VERW */
int sys_verw(struct soft_cpu *cpu, const struct insn *insn)
{
    struct desc d;
    bool visible;
    int result = query(cpu, insn, 0, &d, &visible);

    if (result == SOFT_OK)
        set_zf(cpu, visible && (desc_type(&d) & SEG_S) && !desc_is_code(&d) && (desc_type(&d) & DESC_WRITABLE));
    return result;
}

/* ZYDIS_MNEMONIC_ARPL; in 64-bit mode its opcode is MOVSXD */
int sys_arpl(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t dest;
    uint64_t src;

    if (!cpu->protected_mode)
        return soft_raise(cpu, EXC_UD);
    int result = soft_op_read(cpu, insn, 1, &src);
    if (result == SOFT_OK)
        result = soft_op_read(cpu, insn, 0, &dest);
    if (result != SOFT_OK)
        return result;
    bool raise = (dest & 3) < (src & 3);
    if (raise)
        result = soft_op_write(cpu, insn, 0, (dest & ~3ULL) | (src & 3));
    if (result == SOFT_OK)
        set_zf(cpu, raise);
    return result;
}
