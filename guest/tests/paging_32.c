/* Paging of 32-bit kernels: two levels, 4 MiB pages with PSE, PAE; rights, A and D, reserved bits. */
#include "test.h"

#define POOL_PAGES 24
#define P 1u
#define W 2u
#define U 4u
#define A 0x20u
#define D 0x40u
#define PS 0x80u
#define G 0x100u
#define VA 0x40000000u

#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u

static uint8_t pool[POOL_PAGES][PAGE_SIZE] __attribute__((aligned(4096)));
static unsigned used;
static uint32_t *directory;
static uint64_t *pdpt; /* PAE */
static bool pae;

static void *page_alloc(void)
{
    check(used < POOL_PAGES);
    return memset(pool[used++], 0, PAGE_SIZE);
}

static void reload(void)
{
    write_cr3(read_cr3());
}

static void paging_off(void)
{
    write_cr0(read_cr0() & ~(word)CR0_PG);
    write_cr4(read_cr4() & ~(word)(CR4_PAE | CR4_PSE | CR4_PGE));
}

/* 0-16 MiB by 4 KiB pages, all for ring 3: 4 tables. */
static void two_levels(word cr4)
{
    paging_off();
    used = 0;
    pae = false;
    directory = page_alloc();
    for (unsigned i = 0; i < 4; i++) {
        uint32_t *table = page_alloc();
        for (unsigned j = 0; j < 1024; j++)
            table[j] = (i * 1024 + j) * PAGE_SIZE | P | W | U;
        directory[i] = (word)table | P | W | U;
    }
    write_cr4(read_cr4() | cr4);
    write_cr3((word)directory);
    write_cr0(read_cr0() | CR0_PG);
}

/* The same 16 MiB by 2 MiB pages. */
static void three_levels(void)
{
    uint64_t *table;

    paging_off();
    used = 0;
    pae = true;
    pdpt = page_alloc();
    table = page_alloc();
    for (unsigned i = 0; i < 8; i++)
        table[i] = i * 0x200000ull | P | W | U | PS;
    pdpt[0] = (word)table | P;
    pdpt[1] = (word)page_alloc() | P;
    write_cr4(read_cr4() | CR4_PAE);
    write_cr3((word)pdpt);
    write_cr0(read_cr0() | CR0_PG);
}

/* The entry that maps VA's page of 4 KiB. */
static uint32_t *pte(word va)
{
    uint32_t *e = &directory[va >> 22];

    if (!(*e & P))
        *e = (word)page_alloc() | P | W | U;
    return (uint32_t *)(*e & ~0xfffu) + (va >> 12 & 1023);
}

static uint64_t *pae_pte(word va)
{
    uint64_t *dir = (uint64_t *)(word)(pdpt[va >> 30] & ~0xfffull);
    uint64_t *e = &dir[va >> 21 & 511];

    if (!(*e & P))
        *e = (word)page_alloc() | P | W | U;
    return (uint64_t *)(word)(*e & ~0xfffull) + (va >> 12 & 511);
}

static void map(word va, const void *page, uint64_t bits)
{
    if (pae)
        *pae_pte(va) = (word)page | bits;
    else
        *pte(va) = (uint32_t)((word)page | bits);
    invlpg((void *)va);
}

static void read_at(word va)
{
    TRY("movl (%0), %%eax", : : "r"(va) : "memory", "eax");
}

static void write_at(word va)
{
    TRY("movl %1, (%0)", : : "r"(va), "r"(0x5a5a) : "memory");
}

/* What holds in every mode. */
static void rights_and_marks(void)
{
    uint32_t *page = page_alloc();

    read_at(VA + 4);
    check_pf(0, VA + 4);
    TRY_USER("movl %%eax, (%0)", : : "r"(VA + 8) : "memory");
    check_pf(PF_W | PF_U, VA + 8);
    map(VA, page, P);
    read_at(VA);
    check_no_fault();
    write_at(VA);
    check_pf(PF_P | PF_W, VA);
    write_cr0(read_cr0() & ~(word)CR0_WP);
    write_at(VA);
    check_no_fault();
    check_eq(*page, 0x5a5a);
    write_cr0(read_cr0() | CR0_WP);
    TRY_USER("movl (%0), %%eax", : : "r"(VA) : "memory", "eax");
    check_pf(PF_P | PF_U, VA);
    map(VA, page, P | W | U);
    TRY_USER("movl %%eax, (%0)", : : "r"(VA) : "memory");
    check_no_fault();
    map(VA, page, P | W | U);
    read_at(VA);
    check_eq((pae ? *pae_pte(VA) : *pte(VA)) & (A | D), A);
    write_at(VA);
    check_eq((pae ? *pae_pte(VA) : *pte(VA)) & (A | D), A | D);
    TRY("call *%0", : : "r"(VA + PAGE_SIZE) : "memory");
    check_fault_rip(EXC_PF, 0, VA + PAGE_SIZE);
}

static void two_level_paging(void)
{
    two_levels(0);
    rights_and_marks();
    check_eq(directory[VA >> 22] & (A | D), A);
    directory[VA >> 22] &= ~U;
    reload();
    TRY_USER("movl (%0), %%eax", : : "r"(VA) : "memory", "eax");
    check_pf(PF_P | PF_U, VA);
    directory[VA >> 22] &= ~W;
    reload();
    write_at(VA);
    check_pf(PF_P | PF_W, VA);
    paging_off();
}

/* Without PSE the PS bit of a directory entry is ignored. */
static void ps_is_ignored_without_pse(void)
{
    uint32_t *page;

    two_levels(0);
    page = page_alloc();
    *page = 0x77;
    map(VA, page, P | W | U);
    directory[VA >> 22] |= PS;
    reload();
    check_but_qemu(*(volatile uint32_t *)VA == 0x77, "PS counts without PSE");
    paging_off();
}

static void four_megabyte_pages(void)
{
    uint32_t *e;

    two_levels(CR4_PSE);
    rights_and_marks();
    e = &directory[VA >> 22];
    *e = 0x400000 | P | W | U | PS;
    reload();
    *(volatile uint32_t *)0x712344 = 0x99;
    check_eq(*(volatile uint32_t *)(VA + 0x312344), 0x99);
    check_eq(*e & (A | D), A);
    write_at(VA + 0x3ffffc);
    check_eq(*e & (A | D), A | D);
    *e = 0x400000 | P | U | PS;
    reload();
    write_at(VA);
    check_pf(PF_P | PF_W, VA);
    *e = 0x600000 | P | W | U | PS; /* bit 21 is reserved */
    reload();
    read_at(VA);
    check_fault_but_qemu(EXC_PF, PF_P | PF_RSVD, "reserved bits of 4 MiB pages");
    paging_off();
}

static void global_pages(void)
{
    uint32_t *one, *two;

    two_levels(CR4_PGE);
    one = page_alloc();
    two = page_alloc();
    *one = 1;
    *two = 2;
    map(VA, one, P | W | U | G);
    check_eq(*(volatile uint32_t *)VA, 1);
    map(VA, two, P | W | U | G); /* INVLPG drops it */
    check_eq(*(volatile uint32_t *)VA, 2);
    *pte(VA) = (word)one | P | W | U | G;
    write_cr4(read_cr4() & ~(word)CR4_PGE);
    check_eq(*(volatile uint32_t *)VA, 1);
    paging_off();
}

static void pae_paging(void)
{
    three_levels();
    rights_and_marks();
    paging_off();
}

static void pae_no_execute(void)
{
    uint8_t *page;

    three_levels();
    page = page_alloc();
    *page = 0xc3;
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    map(VA, page, P | W | U | BIT(63));
    read_at(VA);
    check_no_fault();
    TRY("call *%0", : : "r"(VA) : "memory");
    check_fault_rip(EXC_PF, PF_P | PF_I, VA);
    map(VA, page, P | W | U);
    TRY("call *%0", : : "r"(VA) : "memory");
    check_no_fault();
    paging_off();
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_NXE);
}

static void pae_large_pages(void)
{
    uint64_t *dir;

    three_levels();
    dir = (uint64_t *)(word)(pdpt[1] & ~0xfffull);
    dir[0] = 0x800000 | P | W | U | PS;
    reload();
    *(volatile uint32_t *)0x812344 = 0x99;
    check_eq(*(volatile uint32_t *)(VA + 0x12344), 0x99);
    check_eq(dir[0] & (A | D), A);
    write_at(VA);
    check_eq(dir[0] & (A | D), A | D);
    paging_off();
}

/* The four entries of the PDPT are loaded by MOV to CR3 and no other time (SDM vol. 3 4.4.1); a reserved bit there is #GP. */
static void pae_pdpte_registers(void)
{
    three_levels();
    if (cpu_is_amd() || cpu_is_tcg()) {
        paging_off();
        test_skip("AMD and TCG read them from memory");
    }
    map(VA, page_alloc(), P | W | U);
    pdpt[1] &= ~(uint64_t)P;
    invlpg((void *)VA);
    read_at(VA);
    check_no_fault();
    reload();
    read_at(VA);
    check_pf(0, VA);
    pdpt[1] |= 2 | P; /* bit 1 is reserved there */
    TRY("mov %0, %%cr3", : : "r"(pdpt) : "memory");
    check_fault(EXC_GP, 0);
    paging_off();
}

static void turned_on_and_off(void)
{
    for (unsigned i = 0; i < 20; i++) {
        uint32_t *page;
        if (i & 1)
            three_levels();
        else
            two_levels(i & 2 ? CR4_PSE : 0);
        page = page_alloc();
        *page = i;
        map(VA, page, P);
        check_eq(*(volatile uint32_t *)VA, i);
        write_cr0(read_cr0() & ~(word)CR0_PG);
        check_eq(*page, i);
        write_cr0(read_cr0() | CR0_PG);
        check_eq(*(volatile uint32_t *)VA, i);
    }
    paging_off();
}

GUEST_TESTS({"two levels", two_level_paging}, {"PS is ignored without PSE", ps_is_ignored_without_pse},
            {"4 MiB pages", four_megabyte_pages}, {"global pages", global_pages}, {"PAE", pae_paging}, {"NX in PAE tables", pae_no_execute},
            {"2 MiB pages in PAE tables", pae_large_pages}, {"the PDPTE registers", pae_pdpte_registers},
            {"paging goes off and on", turned_on_and_off});
