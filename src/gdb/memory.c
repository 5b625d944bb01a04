/* Guest memory as a debugger sees it: by linear address, through the page tables of a vCPU, with a supervisor's eyes. */
#include "gdb/memory.h"

#include <errno.h>

#include "x86/paging.h"

static gpa_t root(const struct cpu_state *s, enum paging_mode mode)
{
    switch (mode) {
    case PAGING_4LEVEL: return s->cr3 & CR3_ADDR_4LEVEL;
    case PAGING_PAE: return s->cr3 & CR3_ADDR_PAE;
    default: return s->cr3 & CR3_ADDR_32;
    }
}

/* The engine may be one that offers five levels, of which the rest of Umbra knows nothing. */
static unsigned levels(const struct cpu_state *s, enum paging_mode mode)
{
    return paging_levels(mode) + (mode == PAGING_4LEVEL && (s->cr4 & CR4_LA57));
}

static bool is_canonical(gva_t gva, unsigned bits)
{
    return (uint64_t)((int64_t)(gva << (64 - bits)) >> (64 - bits)) == gva;
}

int gdb_translate(const struct cpu_state *s, const struct mem *mem, gva_t gva, struct gdb_mapping *out)
{
    enum paging_mode mode = paging_mode(s->cr0, s->cr4, s->efer);
    unsigned level = levels(s, mode), size = paging_entry_size(mode);
    gpa_t table = root(s, mode);

    if (mode == PAGING_4LEVEL ? !is_canonical(gva, paging_shift(mode, level + 1)) : gva > UINT32_MAX)
        return -EFAULT;
    if (mode == PAGING_NONE) {
        *out = (struct gdb_mapping){.gpa = gva, .shift = PAGE_SHIFT};
        return 0;
    }
    for (;; level--) {
        uint64_t entry = 0;

        if (mem_read(mem, table + (uint64_t)paging_index(mode, level, gva) * size, &entry, size) != 0 || !(entry & PTE_P))
            return -EFAULT;
        if (paging_is_leaf(mode, level, entry, s->cr4)) {
            out->shift = paging_shift(mode, level);
            out->gpa = (entry & PTE_ADDR & ~(BIT(out->shift) - 1)) | (gva & (BIT(out->shift) - 1));
            return 0;
        }
        table = entry & PTE_ADDR;
    }
}
