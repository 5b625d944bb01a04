/* Descriptor table registers: LGDT, LIDT, SGDT, SIDT, LLDT, SLDT, LTR, STR (SDM vol. 2, each; vol. 3 2.4). */
#include "engine/soft/mmu.h"
#include "engine/soft/sys.h"
#include "engine/soft/sys_desc.h"

/* CR4.UMIP hides the tables' addresses from the outer rings (SDM vol. 3 2.5). */
static int check_umip(struct soft_cpu *cpu)
{
    return cpu->cpl != 0 && (cpu->cr4 & CR4_UMIP) ? soft_raise_err(cpu, EXC_GP, 0) : SOFT_OK;
}

static int check_ring0(struct soft_cpu *cpu)
{
    return cpu->cpl != 0 ? soft_raise_err(cpu, EXC_GP, 0) : SOFT_OK;
}

/* Limit in the first two bytes, base in the next four or, in 64-bit mode, eight. */
struct table_image {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

static int load_table(struct soft_cpu *cpu, const struct insn *insn, struct cpu_table *table)
{
    unsigned size = cpu->code_bits == 64 ? 10 : 6;
    struct table_image image = {0};
    gva_t gva;
    int result = check_ring0(cpu);

    if (result == SOFT_OK)
        result = soft_linear(cpu, insn->mem.seg, soft_ea(cpu, insn), size, false, &gva);
    if (result == SOFT_OK)
        result = mmu_read(cpu, gva, &image, size, MMU_READ);
    if (result != SOFT_OK)
        return result;
    if (size == 10 && !gva_is_canonical(image.base))
        return soft_raise_err(cpu, EXC_GP, 0);
    table->limit = image.limit;
    table->base = size == 6 && insn->opsize == 2 ? image.base & 0xffffff : image.base; /* 64-bit mode has one size */
    return SOFT_OK;
}

static int store_table(struct soft_cpu *cpu, const struct insn *insn, const struct cpu_table *table)
{
    unsigned size = cpu->code_bits == 64 ? 10 : 6;
    struct table_image image = {.limit = table->limit, .base = table->base};
    gva_t gva;
    int result = check_umip(cpu);

    if (result == SOFT_OK)
        result = soft_linear(cpu, insn->mem.seg, soft_ea(cpu, insn), size, true, &gva);
    return result != SOFT_OK ? result : mmu_write(cpu, gva, &image, size, MMU_WRITE);
}

/* ZYDIS_MNEMONIC_LGDT */
int sys_lgdt(struct soft_cpu *cpu, const struct insn *insn)
{
    return load_table(cpu, insn, &cpu->gdtr);
}

/* ZYDIS_MNEMONIC_LIDT */
int sys_lidt(struct soft_cpu *cpu, const struct insn *insn)
{
    return load_table(cpu, insn, &cpu->idtr);
}

/* ZYDIS_MNEMONIC_SGDT */
int sys_sgdt(struct soft_cpu *cpu, const struct insn *insn)
{
    return store_table(cpu, insn, &cpu->gdtr);
}

/* ZYDIS_MNEMONIC_SIDT */
int sys_sidt(struct soft_cpu *cpu, const struct insn *insn)
{
    return store_table(cpu, insn, &cpu->idtr);
}

/* The system segment that sel selects in the GDT; types: bit n set for each type that will do. */
static int load_system(struct soft_cpu *cpu, uint16_t sel, uint32_t types, struct desc *d, struct cpu_seg *seg)
{
    int result;

    if (sel & 4) /* in the LDT */
        return desc_raise(cpu, EXC_GP, sel, 0);
    result = desc_get(cpu, sel, EXC_GP, 0, d);
    if (result != SOFT_OK)
        return result;
    if (!(types >> desc_type(d) & 1))
        return desc_raise(cpu, EXC_GP, sel, 0);
    if (!desc_present(d))
        return desc_raise(cpu, EXC_NP, sel, 0);
    if (cpu->long_mode) {
        result = desc_get_high(cpu, sel, EXC_GP, d);
        if (result != SOFT_OK)
            return result;
    }
    *seg = (struct cpu_seg){
        .base = desc_base(d) | d->hi << 32,
        .limit = desc_limit(d),
        .attr = desc_attr(d),
        .sel = sel,
    };
    return gva_is_canonical(seg->base) ? SOFT_OK : desc_raise(cpu, EXC_GP, sel, 0);
}

/* What LLDT and LTR have in common before the descriptor. */
static int read_selector(struct soft_cpu *cpu, const struct insn *insn, uint16_t *sel)
{
    uint64_t value;

    if (!cpu->protected_mode)
        return soft_raise(cpu, EXC_UD);
    int result = check_ring0(cpu);
    if (result == SOFT_OK)
        result = soft_op_read(cpu, insn, 0, &value);
    if (result == SOFT_OK)
        *sel = (uint16_t)value;
    return result;
}

/* ZYDIS_MNEMONIC_LLDT */
int sys_lldt(struct soft_cpu *cpu, const struct insn *insn)
{
    uint16_t sel;
    struct desc d;
    struct cpu_seg ldtr;
    int result = read_selector(cpu, insn, &sel);

    if (result != SOFT_OK)
        return result;
    if (sel_is_null(sel))
        ldtr = seg_null(sel, 0);
    else
        result = load_system(cpu, sel, BIT(DESC_LDT), &d, &ldtr);
    if (result == SOFT_OK)
        cpu->ldtr = ldtr;
    return result;
}

/* ZYDIS_MNEMONIC_LTR */
int sys_ltr(struct soft_cpu *cpu, const struct insn *insn)
{
    uint16_t sel;
    struct desc d;
    struct cpu_seg tr;
    int result = read_selector(cpu, insn, &sel);

    if (result != SOFT_OK)
        return result;
    if (sel_is_null(sel))
        return soft_raise_err(cpu, EXC_GP, 0);
    result = load_system(cpu, sel, BIT(DESC_TSS) | (cpu->long_mode ? 0 : BIT(DESC_TSS16)), &d, &tr);
    if (result == SOFT_OK)
        result = desc_mark(cpu, &d, DESC_BUSY);
    if (result != SOFT_OK)
        return result;
    tr.attr |= DESC_BUSY;
    cpu->tr = tr;
    return SOFT_OK;
}

static int store_selector(struct soft_cpu *cpu, const struct insn *insn, uint16_t sel)
{
    if (!cpu->protected_mode)
        return soft_raise(cpu, EXC_UD);
    int result = check_umip(cpu);
    return result != SOFT_OK ? result : soft_op_write(cpu, insn, 0, sel);
}

/* ZYDIS_MNEMONIC_SLDT */
int sys_sldt(struct soft_cpu *cpu, const struct insn *insn)
{
    return store_selector(cpu, insn, cpu->ldtr.sel);
}

/* ZYDIS_MNEMONIC_STR */
int sys_str(struct soft_cpu *cpu, const struct insn *insn)
{
    return store_selector(cpu, insn, cpu->tr.sel);
}
