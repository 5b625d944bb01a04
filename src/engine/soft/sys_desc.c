/* Segment and system descriptors: reads, checks, accessed and busy bits (SDM vol. 3 3.4, 3.5, ch. 5). */
#include "engine/soft/sys_desc.h"

#include "engine/soft/cpuid.h"
#include "engine/soft/mmu.h"

#define SEL_TI 4

uint32_t desc_limit(const struct desc *d)
{
    uint32_t limit = (uint32_t)(d->lo & 0xffff) | (uint32_t)(d->lo >> 32 & 0xf0000);

    return desc_attr(d) & SEG_G ? limit << 12 | 0xfff : limit;
}

uint64_t desc_base(const struct desc *d)
{
    return (d->lo >> 16 & 0xffffff) | (d->lo >> 32 & 0xff000000);
}

struct cpu_seg desc_segment(const struct desc *d, uint16_t sel)
{
    return (struct cpu_seg){
        .base = desc_base(d),
        .limit = desc_limit(d),
        .attr = desc_attr(d) | DESC_ACCESSED,
        .sel = sel,
    };
}

/* Where bytes [sel & ~7 + skip, + 8) of the selector's table lie. False when they are not all inside. */
static bool table_address(const struct soft_cpu *cpu, uint16_t sel, unsigned skip, gva_t *gva)
{
    uint32_t off = (sel & 0xfff8U) + skip;
    uint64_t base = cpu->gdtr.base;
    uint32_t limit = cpu->gdtr.limit;

    if (sel & SEL_TI) {
        if (cpu->ldtr.attr & SEG_UNUSABLE)
            return false;
        base = cpu->ldtr.base;
        limit = cpu->ldtr.limit;
    }
    if (off + 7 > limit)
        return false;
    *gva = base + off;
    if (!cpu->long_mode)
        *gva = (uint32_t)*gva;
    return gva_is_canonical(*gva) && gva_is_canonical(*gva + 7);
}

int desc_find(struct soft_cpu *cpu, uint16_t sel, struct desc *d, bool *found)
{
    d->lo = d->hi = 0;
    *found = !sel_is_null(sel) && table_address(cpu, sel, 0, &d->gva);
    return *found ? mmu_read(cpu, d->gva, &d->lo, 8, MMU_READ | MMU_SUPERVISOR) : SOFT_OK;
}

int desc_get(struct soft_cpu *cpu, uint16_t sel, uint8_t vector, uint32_t ext, struct desc *d)
{
    bool found;
    int result = desc_find(cpu, sel, d, &found);

    if (result == SOFT_OK && !found)
        result = desc_raise(cpu, vector, sel, ext);
    return result;
}

int desc_get_high(struct soft_cpu *cpu, uint16_t sel, uint8_t vector, struct desc *d)
{
    gva_t gva;

    if (!table_address(cpu, sel, 8, &gva))
        return desc_raise(cpu, vector, sel, 0);
    int result = mmu_read(cpu, gva, &d->hi, 8, MMU_READ | MMU_SUPERVISOR);
    if (result == SOFT_OK && (d->hi >> 40 & 0x1f))
        result = desc_raise(cpu, vector, sel, 0);
    return result;
}

int desc_mark(struct soft_cpu *cpu, struct desc *d, unsigned bits)
{
    void *hva;
    uint8_t byte;

    if ((d->lo >> 40 & bits) == bits)
        return SOFT_OK;
    int result = mmu_host(cpu, d->gva + 5, 1, MMU_WRITE | MMU_SUPERVISOR, &hva);
    if (result != SOFT_OK)
        return result;
    d->lo |= (uint64_t)bits << 40;
    if (hva) {
        __atomic_fetch_or((uint8_t *)hva, (uint8_t)bits, __ATOMIC_SEQ_CST);
        return SOFT_OK;
    }
    byte = (uint8_t)(d->lo >> 40);
    return mmu_write(cpu, d->gva + 5, &byte, 1, MMU_WRITE | MMU_SUPERVISOR);
}

struct cpu_seg seg_null(uint16_t sel, unsigned ring)
{
    return (struct cpu_seg){.sel = sel, .attr = SEG_UNUSABLE | ring << SEG_DPL_SHIFT};
}

struct cpu_seg seg_real(const struct cpu_seg *old, uint16_t sel)
{
    struct cpu_seg seg = *old;

    if (seg.attr & SEG_UNUSABLE) {
        seg.attr = SEG_P | SEG_S | DESC_WRITABLE | DESC_ACCESSED;
        seg.limit = 0xffff;
    }
    seg.sel = sel;
    seg.base = (uint32_t)sel << 4;
    return seg;
}

/* SDM vol. 2 MOV, protected mode exceptions. */
int seg_prepare_data(struct soft_cpu *cpu, uint16_t sel, struct cpu_seg *out)
{
    struct desc d;

    if (sel_is_null(sel)) {
        *out = seg_null(sel, 0);
        return SOFT_OK;
    }
    int result = desc_get(cpu, sel, EXC_GP, 0, &d);
    if (result != SOFT_OK)
        return result;
    if (!(desc_type(&d) & SEG_S) || (desc_is_code(&d) && !(desc_type(&d) & DESC_WRITABLE)))
        return desc_raise(cpu, EXC_GP, sel, 0);
    if (!(desc_is_code(&d) && desc_is_conforming(&d)) && MAX(sel & 3U, cpu->cpl) > desc_dpl(&d))
        return desc_raise(cpu, EXC_GP, sel, 0);
    if (!desc_present(&d))
        return desc_raise(cpu, EXC_NP, sel, 0);
    *out = desc_segment(&d, sel);
    return desc_mark(cpu, &d, DESC_ACCESSED);
}

int seg_prepare_stack(struct soft_cpu *cpu, uint16_t sel, unsigned ring, uint8_t vector, uint32_t ext, struct cpu_seg *out)
{
    struct desc d;
    int result = desc_get(cpu, sel, vector, ext, &d);

    if (result != SOFT_OK)
        return result;
    if ((sel & 3U) != ring || desc_dpl(&d) != ring || desc_is_code(&d) ||
        (desc_type(&d) & (SEG_S | DESC_WRITABLE)) != (SEG_S | DESC_WRITABLE))
        return desc_raise(cpu, vector, sel, ext);
    if (!desc_present(&d))
        return desc_raise(cpu, EXC_SS, sel, ext);
    *out = desc_segment(&d, sel);
    return desc_mark(cpu, &d, DESC_ACCESSED);
}

int seg_load(struct soft_cpu *cpu, unsigned seg, uint16_t sel)
{
    struct cpu_seg loaded;
    int result = SOFT_OK;

    if (!cpu->protected_mode) {
        loaded = seg_real(&cpu->seg[seg], sel);
    } else if (seg != SEG_SS) {
        result = seg_prepare_data(cpu, sel, &loaded);
    } else if (sel_is_null(sel)) { /* a stack without a segment is for 64-bit code of the inner rings */
        if (cpu->code_bits != 64 || cpu->cpl == 3 || (sel & 3) != cpu->cpl)
            return soft_raise_err(cpu, EXC_GP, 0);
        loaded = seg_null(sel, cpu->cpl);
    } else {
        result = seg_prepare_stack(cpu, sel, cpu->cpl, EXC_GP, 0, &loaded);
    }
    if (result != SOFT_OK)
        return result;
    cpu->seg[seg] = loaded;
    if (seg == SEG_SS)
        soft_mode_update(cpu);
    return SOFT_OK;
}

bool desc_code_valid(const struct soft_cpu *cpu, const struct desc *d)
{
    return !cpu->long_mode || (desc_attr(d) & (SEG_L | SEG_DB)) != (SEG_L | SEG_DB);
}

int seg_prepare_code(struct soft_cpu *cpu, struct desc *d, uint16_t sel, unsigned ring, struct cpu_seg *out)
{
    *out = desc_segment(d, (uint16_t)((sel & 0xfffc) | ring));
    return desc_mark(cpu, d, DESC_ACCESSED);
}

int seg_check_target(struct soft_cpu *cpu, const struct cpu_seg *cs, uint64_t rip, uint32_t ext)
{
    bool inside = cpu->long_mode && (cs->attr & SEG_L) ? gva_is_canonical(rip) : rip <= cs->limit;

    return inside ? SOFT_OK : soft_raise_err(cpu, EXC_GP, ext);
}

int seg_read_pointer(struct soft_cpu *cpu, const struct insn *insn, uint16_t *sel, uint64_t *off)
{
    unsigned size = insn->opsize;
    uint64_t ea = soft_ea(cpu, insn);
    uint64_t value;

    if (size == 8 && cpu->svm->cpuid->amd) /* AMD has no 16:64 pointers, with REX.W either (APM vol. 3 JMP far, LSS) */
        size = 4;
    int result = soft_load(cpu, insn->mem.seg, ea, size, off);
    ea += size;
    if (insn->addrsize < 8)
        ea &= BIT(insn->addrsize * 8) - 1;
    if (result == SOFT_OK)
        result = soft_load(cpu, insn->mem.seg, ea, 2, &value);
    if (result == SOFT_OK)
        *sel = (uint16_t)value;
    return result;
}
