/* EVEX instructions whose opmask switches lanes of their memory operand off, and with them those lanes' faults. */
#include "engine/soft/masked.h"

#include "engine/soft/mmu.h"
#include "engine/soft/vector_image.h"

/* The opmask's value, one bit a memory element. Compress and expand touch their first popcount(k) elements. */
static uint64_t active_elements(struct soft_cpu *cpu, const struct insn *insn, unsigned elements)
{
    soft_vec_park(cpu);
    uint64_t mask = vec_image_opmask(cpu, insn->mask_reg);

    if (insn->broadcast) { /* lane i has element i % elements */
        uint64_t needed = 0;
        for (unsigned i = 0; i < insn->broadcast; i++)
            needed |= (mask >> i & 1) << i % elements;
        return needed;
    }
    if (elements < 64)
        mask &= BIT(elements) - 1;
    if (insn->compressed) {
        unsigned count = (unsigned)__builtin_popcountll(mask);
        mask = count == 64 ? UINT64_MAX : BIT(count) - 1;
    }
    return mask;
}

static int linear(struct soft_cpu *cpu, const struct insn *insn, unsigned elem, bool write, gva_t *gva)
{
    uint64_t ea = soft_ea(cpu, insn) + (uint64_t)elem * insn->mem_elem;

    return soft_linear(cpu, insn->mem.seg, ea, insn->mem_elem, write, gva);
}

/* Every active lane by itself, through the buffer. */
static int run_by_lanes(struct soft_cpu *cpu, const struct step_entry *entry, gva_t gva0)
{
    const struct insn *insn = &entry->insn;
    unsigned size = insn->mem_elem;
    unsigned elements = insn->mem_size / size;
    uint64_t mask = active_elements(cpu, insn, elements);
    uint8_t *buf = cpu->exec->bounce + (gva0 & 63);
    gva_t gva;
    int result = SOFT_OK;

    for (unsigned i = 0; i < elements && result == SOFT_OK; i++) {
        for (unsigned b = 0; b < size; b++)
            buf[i * size + b] = 0;
        if (!(mask >> i & 1))
            continue;
        result = linear(cpu, insn, i, insn->mem_written, &gva);
        if (result == SOFT_OK && insn->mem_written)
            result = soft_check_write(cpu, gva, size);
        if (result == SOFT_OK && !insn->mem_written)
            result = mmu_read(cpu, gva, buf + i * size, size, MMU_READ);
    }
    if (result == SOFT_OK)
        result = step_run_stub(cpu, entry, buf);
    if (!insn->mem_written)
        return result;
    for (unsigned i = 0; i < elements && result == SOFT_OK; i++) {
        if (!(mask >> i & 1))
            continue;
        result = linear(cpu, insn, i, true, &gva);
        if (result == SOFT_OK)
            result = mmu_write(cpu, gva, buf + i * size, size, MMU_WRITE);
    }
    return result;
}

int masked_run(struct soft_cpu *cpu, const struct step_entry *entry)
{
    const struct insn *insn = &entry->insn;
    unsigned access = insn->mem_written ? MMU_WRITE : MMU_READ;
    gva_t gva;
    void *hva = NULL;
    int result = soft_linear(cpu, insn->mem.seg, soft_ea(cpu, insn), insn->mem_size, insn->mem_written, &gva);

    if (result == SOFT_OK)
        result = mmu_host(cpu, gva, insn->mem_size, access, &hva);
    if (result == SOFT_OK && hva)
        return step_run_stub(cpu, entry, hva); /* the whole operand is there: the CPU heeds the mask */
    return run_by_lanes(cpu, entry, soft_ea(cpu, insn));
}
