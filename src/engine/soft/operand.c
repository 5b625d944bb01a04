/* Operands of instructions that C carries out: registers, effective and linear addresses, memory, the stack. */
#include "engine/soft/debug.h"
#include "engine/soft/mmu.h"
#include "engine/soft/soft.h"

static uint64_t size_mask(unsigned size)
{
    return size >= 8 ? UINT64_MAX : BIT(size * 8) - 1;
}

uint64_t soft_gpr_read(const struct soft_cpu *cpu, unsigned reg, bool high, unsigned size)
{
    if (high)
        return cpu->gpr[reg - 4] >> 8 & 0xff;
    return cpu->gpr[reg] & size_mask(size);
}

void soft_gpr_write(struct soft_cpu *cpu, unsigned reg, bool high, unsigned size, uint64_t value)
{
    uint64_t *gpr = &cpu->gpr[high ? reg - 4 : reg];

    if (high)
        *gpr = (*gpr & ~0xff00ULL) | (value & 0xff) << 8;
    else if (size == 4)
        *gpr = (uint32_t)value; /* 32-bit results are zero-extended (SDM vol. 1 3.4.1.1) */
    else
        *gpr = (*gpr & ~size_mask(size)) | (value & size_mask(size));
}

uint64_t soft_ea(const struct soft_cpu *cpu, const struct insn *insn)
{
    const struct insn_mem *mem = &insn->mem;
    uint64_t ea = (uint64_t)mem->disp;

    if (mem->rip_relative)
        ea += cpu->next_rip;
    if (mem->base != REG_NONE)
        ea += cpu->gpr[mem->base];
    if (mem->index != REG_NONE && !mem->vsib)
        ea += cpu->gpr[mem->index] * mem->scale;
    return ea & size_mask(insn->addrsize);
}

static int segment_fault(struct soft_cpu *cpu, unsigned seg)
{
    return soft_raise_err(cpu, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
}

/* Limit and type checks of legacy segments (SDM vol. 3 5.3, 5.4). */
static int check_segment(struct soft_cpu *cpu, unsigned index, uint64_t off, unsigned size, bool write)
{
    const struct cpu_seg *seg = &cpu->seg[index];
    uint64_t last = off + size - 1;

    if (seg->attr & SEG_UNUSABLE)
        return segment_fault(cpu, index);
    if (cpu->protected_mode && (cpu->rflags & FLAG_VM) == 0) {
        bool code = seg->attr & 8;
        if (write && (code || !(seg->attr & 2)))
            return segment_fault(cpu, index);
        if (!write && code && !(seg->attr & 2))
            return segment_fault(cpu, index);
    }
    if ((seg->attr & 0xc) == 4 && cpu->protected_mode) { /* expand-down data: valid above the limit */
        uint64_t top = seg->attr & SEG_DB ? UINT32_MAX : UINT16_MAX;
        if (off <= seg->limit || last > top)
            return segment_fault(cpu, index);
    } else if (last > seg->limit) {
        return segment_fault(cpu, index);
    }
    return SOFT_OK;
}

static int linear(struct soft_cpu *cpu, unsigned seg, uint64_t off, unsigned size, bool write, gva_t *gva)
{
    if (cpu->code_bits == 64) {
        uint64_t addr = off + (seg == SEG_FS || seg == SEG_GS ? cpu->seg[seg].base : 0);
        if (!gva_is_canonical(addr) || (size > 1 && !gva_is_canonical(addr + size - 1)))
            return segment_fault(cpu, seg);
        *gva = addr;
        return SOFT_OK;
    }
    int result = check_segment(cpu, seg, off, size ? size : 1, write);
    if (result != SOFT_OK)
        return result;
    *gva = (uint32_t)(cpu->seg[seg].base + off);
    return SOFT_OK;
}

int soft_linear(struct soft_cpu *cpu, unsigned seg, uint64_t off, unsigned size, bool write, gva_t *gva)
{
    int result = linear(cpu, seg, off, size, write, gva);

    if (result == SOFT_OK && (cpu->dr7 & DR7_ENABLES))
        debug_check_data(cpu, *gva, size, write);
    return result;
}

int soft_check_write(struct soft_cpu *cpu, gva_t gva, unsigned n)
{
    for (uint64_t off = 0; off < n; off = ALIGN_DOWN(gva + off, PAGE_SIZE) + PAGE_SIZE - gva) {
        struct mmu_target target;
        int result = mmu_translate(cpu, gva + off, MMU_WRITE, &target);
        if (result != SOFT_OK)
            return result;
    }
    return SOFT_OK;
}

int soft_check_alignment(struct soft_cpu *cpu, gva_t gva, unsigned size)
{
    if ((gva & (size - 1)) == 0 || cpu->cpl != 3 || !(cpu->cr0 & CR0_AM) || !(cpu->rflags & FLAG_AC))
        return SOFT_OK;
    return soft_raise_err(cpu, EXC_AC, 0);
}

int soft_load(struct soft_cpu *cpu, unsigned seg, uint64_t off, unsigned size, uint64_t *value)
{
    gva_t gva;
    int result = soft_linear(cpu, seg, off, size, false, &gva);

    *value = 0;
    if (result == SOFT_OK)
        result = soft_check_alignment(cpu, gva, size);
    return result != SOFT_OK ? result : mmu_read(cpu, gva, value, size, MMU_READ);
}

int soft_store(struct soft_cpu *cpu, unsigned seg, uint64_t off, unsigned size, uint64_t value)
{
    gva_t gva;
    int result = soft_linear(cpu, seg, off, size, true, &gva);

    if (result == SOFT_OK)
        result = soft_check_alignment(cpu, gva, size);
    return result != SOFT_OK ? result : mmu_write(cpu, gva, &value, size, MMU_WRITE);
}

int soft_op_read(struct soft_cpu *cpu, const struct insn *insn, unsigned i, uint64_t *value)
{
    const struct insn_operand *op = &insn->op[i];

    switch (op->kind) {
    case OPERAND_GPR: *value = soft_gpr_read(cpu, op->reg, op->high, op->size); return SOFT_OK;
    case OPERAND_SEG: *value = cpu->seg[op->reg].sel; return SOFT_OK;
    case OPERAND_IMM:
    case OPERAND_REL:
    case OPERAND_FAR: *value = op->imm; return SOFT_OK;
    case OPERAND_MEM: return soft_load(cpu, insn->mem.seg, soft_ea(cpu, insn), op->size, value);
    default: return soft_internal(cpu, "operand %u of mnemonic %u is not a number", i, insn->mnemonic);
    }
}

int soft_op_write(struct soft_cpu *cpu, const struct insn *insn, unsigned i, uint64_t value)
{
    const struct insn_operand *op = &insn->op[i];

    if (op->kind == OPERAND_GPR) {
        soft_gpr_write(cpu, op->reg, op->high, op->size, value);
        return SOFT_OK;
    }
    if (op->kind == OPERAND_MEM)
        return soft_store(cpu, insn->mem.seg, soft_ea(cpu, insn), op->size, value);
    return soft_internal(cpu, "operand %u of mnemonic %u cannot be written", i, insn->mnemonic);
}

static uint64_t stack_mask(const struct soft_cpu *cpu)
{
    return size_mask(cpu->stack_bits / 8);
}

static void stack_set(struct soft_cpu *cpu, uint64_t sp)
{
    uint64_t mask = stack_mask(cpu);

    cpu->gpr[GPR_RSP] = cpu->stack_bits == 32 ? (uint32_t)sp : (cpu->gpr[GPR_RSP] & ~mask) | (sp & mask);
}

int soft_push(struct soft_cpu *cpu, unsigned size, uint64_t value)
{
    uint64_t sp = (cpu->gpr[GPR_RSP] - size) & stack_mask(cpu);
    int result = soft_store(cpu, SEG_SS, sp, size, value);

    if (result == SOFT_OK)
        stack_set(cpu, sp);
    return result;
}

int soft_pop(struct soft_cpu *cpu, unsigned size, uint64_t *value)
{
    uint64_t sp = cpu->gpr[GPR_RSP] & stack_mask(cpu);
    int result = soft_load(cpu, SEG_SS, sp, size, value);

    if (result == SOFT_OK)
        stack_set(cpu, sp + size);
    return result;
}
