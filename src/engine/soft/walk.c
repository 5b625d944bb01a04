/* The walk of the guest's page tables, in every paging mode (SDM vol. 3 ch. 4). */
#include "engine/soft/walk.h"

#include "engine/soft/ram.h"
#include "engine/soft/smc.h"
#include "x86/paging.h"

bool mmu_access_is_user(const struct soft_cpu *cpu, unsigned access)
{
    if (access & MMU_USER_STACK)
        return true;
    return cpu->cpl == 3 && !(access & MMU_SUPERVISOR);
}

static uint32_t access_error(const struct soft_cpu *cpu, unsigned access, bool user)
{
    uint32_t error = user ? PF_USER : 0;

    if (access & MMU_WRITE)
        error |= PF_WRITE;
    /* SDM vol. 3 4.7: the I flag exists only with SMEP or with execute-disable. */
    if ((access & MMU_FETCH) && ((cpu->cr4 & CR4_SMEP) || ((cpu->cr4 & CR4_PAE) && (cpu->efer & EFER_NXE))))
        error |= PF_FETCH;
    return error;
}

/* An entry on the way down, kept for setting its A (and D) bit. */
struct walk_step {
    uint8_t *hva; /* NULL: not in memory that can be written */
    gpa_t gpa;
    uint64_t entry;
};

/* Reads the entry at gpa; outside of memory it is all-ones. */
static void entry_read(const struct soft_cpu *cpu, gpa_t gpa, unsigned size, struct walk_step *step)
{
    const struct mem_region *r = ram_find(cpu->svm->mem, gpa);
    uint8_t *hva = r ? r->hva + (gpa - r->gpa) : NULL;

    step->gpa = gpa;
    step->hva = r && !(r->flags & MEM_READONLY) ? hva : NULL;
    if (!hva)
        step->entry = size == 4 ? UINT32_MAX : UINT64_MAX;
    else if (size == 4)
        step->entry = __atomic_load_n((uint32_t *)hva, __ATOMIC_ACQUIRE);
    else
        step->entry = __atomic_load_n((uint64_t *)hva, __ATOMIC_ACQUIRE);
}

/* False when the entry has changed since it was read: walk again. */
static bool entry_set(struct soft_cpu *cpu, const struct walk_step *step, unsigned size, uint64_t bits)
{
    uint64_t want = step->entry | bits;
    bool done;

    if (want == step->entry || !step->hva)
        return true;
    if (size == 4) {
        uint32_t old = (uint32_t)step->entry;

        done = __atomic_compare_exchange_n((uint32_t *)step->hva, &old, (uint32_t)want, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
        uint64_t old = step->entry;

        done = __atomic_compare_exchange_n((uint64_t *)step->hva, &old, want, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    if (done && smc_has_code(cpu->svm, step->gpa))
        smc_written(cpu->svm, step->gpa, size, SMC_GUEST);
    return done;
}

static gpa_t walk_root(const struct soft_cpu *cpu, enum paging_mode mode)
{
    switch (mode) {
    case PAGING_4LEVEL: return cpu->cr3 & CR3_ADDR_4LEVEL;
    case PAGING_PAE: return cpu->cr3 & CR3_ADDR_PAE;
    default: return cpu->cr3 & CR3_ADDR_32;
    }
}

/*
 * The leaf decides: permissions (SDM vol. 3 4.6.1). user_page, writable: the AND over all levels; nx: the OR.
 */
static bool is_permitted(const struct soft_cpu *cpu, unsigned access, bool user, bool user_page, bool writable, bool nx)
{
    if (user && !user_page)
        return false;
    if ((access & MMU_WRITE) && !writable)
        return false;
    if (access & MMU_FETCH) {
        if (nx)
            return false;
        if (!user && user_page && (cpu->cr4 & CR4_SMEP))
            return false;
    }
    return true;
}

#define WALK_AGAIN (-1)

static int walk_once(struct soft_cpu *cpu, enum paging_mode mode, gva_t gva, unsigned access, struct mmu_mapping *out)
{
    bool user = mmu_access_is_user(cpu, access);
    bool nxe = cpu->efer & EFER_NXE;
    unsigned size = paging_entry_size(mode);
    unsigned level = paging_levels(mode), count = 0;
    uint64_t all_of = PTE_U | PTE_W; /* what every level allows */
    gpa_t table = walk_root(cpu, mode);
    struct walk_step steps[4];
    bool leaf, nx = false;
    uint64_t entry;

    for (;; level--) {
        struct walk_step *step = &steps[count];

        entry_read(cpu, table + (uint64_t)paging_index(mode, level, gva) * size, size, step);
        entry = step->entry;
        if (!(entry & PTE_P))
            return soft_raise_pf(cpu, gva, access_error(cpu, access, user));
        leaf = paging_is_leaf(mode, level, entry, cpu->cr4);
        if (entry & paging_reserved(mode, level, leaf, nxe))
            return soft_raise_pf(cpu, gva, access_error(cpu, access, user) | PF_PRESENT | PF_RSVD);
        if (mode != PAGING_PAE || level != 3) { /* the PDPTEs of PAE have no permissions and no A (4.4.1) */
            all_of &= entry;
            nx = nx || (mode != PAGING_32 && nxe && (entry & PTE_NX));
            count++;
        }
        if (leaf)
            break;
        table = entry & PTE_ADDR;
    }

    out->writable = (all_of & PTE_W) || (!user && !(cpu->cr0 & CR0_WP));
    if (!is_permitted(cpu, access, user, all_of & PTE_U, out->writable, nx))
        return soft_raise_pf(cpu, gva, access_error(cpu, access, user) | PF_PRESENT);

    for (unsigned i = 0; i < count; i++) {
        uint64_t bits = PTE_A | (i == count - 1 && (access & MMU_WRITE) ? PTE_D : 0);

        if (!entry_set(cpu, &steps[i], size, bits))
            return WALK_AGAIN;
    }
    out->shift = paging_shift(mode, level);
    out->gpa = (entry & PTE_ADDR & ~(BIT(out->shift) - 1)) | (gva & (BIT(out->shift) - 1));
    out->dirty = (entry & PTE_D) || (access & MMU_WRITE);
    out->dirtied = !(entry & PTE_D) && (access & MMU_WRITE);
    out->global = (entry & PTE_G) && (cpu->cr4 & CR4_PGE);
    return SOFT_OK;
}

int mmu_walk(struct soft_cpu *cpu, gva_t gva, unsigned access, struct mmu_mapping *out)
{
    enum paging_mode mode = paging_mode(cpu->cr0, cpu->cr4, cpu->efer);
    int rc;

    if (mode == PAGING_NONE) {
        *out = (struct mmu_mapping){.gpa = gva, .shift = PAGE_SHIFT, .writable = true, .dirty = true};
        return SOFT_OK;
    }
    cpu->stats.page_walks++;
    do
        rc = walk_once(cpu, mode, gva, access, out);
    while (rc == WALK_AGAIN);
    return rc;
}

bool mmu_pdptes_valid(struct soft_cpu *cpu, uint64_t cr3)
{
    for (unsigned i = 0; i < 4; i++) {
        struct walk_step step;

        entry_read(cpu, (cr3 & CR3_ADDR_PAE) + i * 8, 8, &step);
        if ((step.entry & PTE_P) && (step.entry & paging_reserved(PAGING_PAE, 3, false, true)))
            return false;
    }
    return true;
}
