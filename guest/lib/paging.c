/* Page tables of the 64-bit guests. */
#include "paging.h"
#include "test.h"

#define POOL_PAGES 512

extern uint64_t boot_pd3[512];
static uint8_t pool[POOL_PAGES][4096] __attribute__((aligned(4096)));
static unsigned pool_used;

void tlb_flush_all(void)
{
    word cr4 = read_cr4();

    if (cr4 & CR4_PGE) {
        write_cr4(cr4 & ~(word)CR4_PGE); /* global entries too (SDM vol. 3 4.10.4.1) */
        write_cr4(cr4);
    } else {
        write_cr3(read_cr3());
    }
}

void paging_reset(void)
{
    pool_used = 0;
    /* What maps this code is never absent in between. */
    for (unsigned i = 0; i < 512; i++)
        boot_pd0[i] = i * 0x200000ULL | PTE_P | PTE_W | PTE_U | PTE_PS;
    boot_pdpt[0] = (word)boot_pd0 | PTE_P | PTE_W | PTE_U;
    boot_pml4[0] = (word)boot_pdpt | PTE_P | PTE_W | PTE_U;
    for (unsigned i = 1; i < 512; i++) {
        boot_pml4[i] = 0;
        boot_pdpt[i] = i == 3 ? (word)boot_pd3 | PTE_P | PTE_W | PTE_U : 0;
    }
    write_cr3((word)boot_pml4);
    tlb_flush_all();
}

void *page_alloc(void)
{
    if (pool_used == POOL_PAGES)
        test_fail(__FILE_NAME__, __LINE__, "no page left in the pool");
    return memset(pool[pool_used++], 0, PAGE_SIZE);
}

uint64_t *pte_at(word va, unsigned level)
{
    uint64_t *table = (uint64_t *)(read_cr3() & PTE_ADDR);

    for (unsigned l = 4;; l--) {
        uint64_t *e = &table[va >> (12 + 9 * (l - 1)) & 511];
        if (l == level)
            return e;
        if (!(*e & PTE_P))
            *e = (word)page_alloc() | PTE_P | PTE_W | PTE_U;
        table = (uint64_t *)(*e & PTE_ADDR);
    }
}

static void *map_at(word va, uint64_t pa, uint64_t bits, unsigned level)
{
    *pte_at(va, level) = pa | bits;
    invlpg((void *)va);
    return (void *)va;
}

void *map_page(word va, const void *page, uint64_t bits)
{
    return map_at(va, (word)page, bits, 1);
}

void *map_2m(word va, uint64_t pa, uint64_t bits)
{
    return map_at(va, pa, bits | PTE_PS, 2);
}

void *map_1g(word va, uint64_t pa, uint64_t bits)
{
    return map_at(va, pa, bits | PTE_PS, 3);
}

void unmap_page(word va)
{
    *pte_at(va, 1) = 0;
    invlpg((void *)va);
}

uint8_t *map_edge(word va)
{
    uint8_t *p = map_page(va, page_alloc(), PTE_P | PTE_W | PTE_U);

    unmap_page(va + PAGE_SIZE);
    return p;
}
