/* Page tables of the architecture: modes, entry bits, reserved bits (SDM vol. 3 ch. 4). */
#pragma once

#include "x86/regs.h"

/*
 * MAXPHYADDR as the guest sees it (CPUID 0x80000008 EAX[7:0]). Guest-physical addresses never reach the
 * host's page tables as such, so this is a constant of the machine and not of the host.
 */
#define GUEST_PHYS_BITS 46

#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_PWT BIT(3)
#define PTE_PCD BIT(4)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_G BIT(8)
#define PTE_NX BIT(63)
#define PTE_ADDR 0x000ffffffffff000ULL

#define CR3_ADDR_4LEVEL PTE_ADDR
#define CR3_ADDR_PAE 0xffffffe0ULL
#define CR3_ADDR_32 0xfffff000ULL

/* Bits lo..hi, both included. */
#define PTE_BITS(hi, lo) ((~0ULL >> (63 - (hi))) & (~0ULL << (lo)))

enum paging_mode { PAGING_NONE, PAGING_32, PAGING_PAE, PAGING_4LEVEL };

/* SDM vol. 3 4.1.1 */
static inline enum paging_mode paging_mode(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    if (!(cr0 & CR0_PG))
        return PAGING_NONE;
    if (!(cr4 & CR4_PAE))
        return PAGING_32;
    return efer & EFER_LMA ? PAGING_4LEVEL : PAGING_PAE;
}

/* Levels are counted from the bottom: 1 = page table, 2 = page directory, 3 = PDPT, 4 = PML4. */
static inline unsigned paging_levels(enum paging_mode mode)
{
    return mode == PAGING_4LEVEL ? 4 : mode == PAGING_PAE ? 3 : 2;
}

/* Bytes of one entry. */
static inline unsigned paging_entry_size(enum paging_mode mode)
{
    return mode == PAGING_32 ? 4 : 8;
}

/* The lowest address bit that an entry of this level translates: its pages are 1 << this. */
static inline unsigned paging_shift(enum paging_mode mode, unsigned level)
{
    return PAGE_SHIFT + (level - 1) * (mode == PAGING_32 ? 10 : 9);
}

/*
 * Number of the entry for gva in its table. The PDPT of PAE has four entries; truncated addresses reach no
 * more.
 */
static inline unsigned paging_index(enum paging_mode mode, unsigned level, gva_t gva)
{
    return (gva >> paging_shift(mode, level)) & (mode == PAGING_32 ? 0x3ff : 0x1ff);
}

/* True when a present entry of this level maps a page rather than a table (SDM vol. 3 tables 4-4 to 4-20). */
static inline bool paging_is_leaf(enum paging_mode mode, unsigned level, uint64_t entry, uint64_t cr4)
{
    if (level == 1)
        return true;
    if (!(entry & PTE_PS))
        return false;
    switch (mode) {
    case PAGING_32: return level == 2 && (cr4 & CR4_PSE);
    case PAGING_PAE: return level == 2;
    case PAGING_4LEVEL: return level == 2 || level == 3;
    case PAGING_NONE: break;
    }
    return false;
}

/* The bits that must be 0 in a present entry of this level (same tables). PSE-36 is not offered. */
static inline uint64_t paging_reserved(enum paging_mode mode, unsigned level, bool leaf, bool nxe)
{
    uint64_t mask;

    if (mode == PAGING_32)
        return leaf && level == 2 ? PTE_BITS(21, 13) : 0;
    if (mode == PAGING_PAE && level == 3)
        return PTE_BITS(63, GUEST_PHYS_BITS) | PTE_BITS(8, 5) | PTE_BITS(2, 1);
    /* PAE reserves everything above the address; 4-level paging ignores 62:52. */
    mask = mode == PAGING_PAE ? PTE_BITS(62, GUEST_PHYS_BITS) : PTE_BITS(51, GUEST_PHYS_BITS);
    if (!nxe)
        mask |= PTE_NX;
    if (level == 4)
        mask |= PTE_PS;
    if (leaf && level > 1)
        mask |= PTE_BITS(paging_shift(mode, level) - 1, 13); /* bit 12 is PAT */
    return mask;
}
