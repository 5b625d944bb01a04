/* The page tables of the 64-bit guests. */
/*
 * 0-1 GiB is identity-mapped by 2 MiB pages that are writable, executable and open to
 * ring 3; the I/O APIC and the local APIC stand at their addresses. The rest is the tests'.
 */
#pragma once

#include "cpu.h"

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

/* Error code of #PF. */
#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u

#define TEST_LOW 0x40000000UL    /* free up to 0xbfffffff, for compatibility mode too */
#define TEST_HIGH 0x8000000000UL /* a PML4 entry of its own; all above is free as well */

extern uint64_t boot_pml4[512], boot_pdpt[512], boot_pd0[512];

/* As every test finds them; the page pool is empty again. */
void paging_reset(void);

/* A zeroed page of the pool, at its physical address. */
void *page_alloc(void);

/* The entry that maps va at a level (1 = 4 KiB page, 2 = 2 MiB, 3 = 1 GiB), with the tables above it made when needed (P, W, U). */
uint64_t *pte_at(word va, unsigned level);

/* Maps a page: bits are PTE_*; and INVLPG. */
void *map_page(word va, const void *page, uint64_t bits);
void *map_2m(word va, uint64_t pa, uint64_t bits);
void *map_1g(word va, uint64_t pa, uint64_t bits);
void unmap_page(word va);

/* Two neighbouring pages of the pool at va, the second not present: p[PAGE_SIZE - n] is an operand that ends or crosses at a fault. */
uint8_t *map_edge(word va);

void tlb_flush_all(void);
