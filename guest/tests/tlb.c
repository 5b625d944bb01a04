/* What the TLB must forget and may keep: INVLPG, MOV CR3, global pages, PCID, INVPCID, changed upper levels. */
#include "paging.h"
#include "test.h"

#define RW (PTE_P | PTE_W | PTE_U)
#define CR3_NOFLUSH BIT(63)

/* Two pages with different contents; the tests remap one address between them. */
static uint32_t *page_of(uint32_t value)
{
    uint32_t *p = page_alloc();

    *p = value;
    return p;
}

static uint32_t peek(word va)
{
    return *(volatile uint32_t *)va;
}

static void set_pte(word va, const void *page, uint64_t bits)
{
    *pte_at(va, 1) = (word)page | bits;
}

static void invlpg_forgets_one_page(void)
{
    uint32_t *one = page_of(1), *two = page_of(2);

    map_page(TEST_HIGH, one, RW);
    check_eq(peek(TEST_HIGH), 1);
    set_pte(TEST_HIGH, two, RW);
    invlpg((void *)(TEST_HIGH + 0xabc)); /* any address of the page */
    check_eq(peek(TEST_HIGH), 2);
    TRY("invlpg (%0)", : : "r"(0x800000000000UL) : "memory"); /* non-canonical: nothing happens */
    check_no_fault();
}

static void invlpg_of_a_large_page(void)
{
    map_2m(TEST_HIGH, 0x8000000, RW);
    *(volatile uint32_t *)0x8000000 = 1;
    *(volatile uint32_t *)0x8200000 = 2;
    *(volatile uint32_t *)0x8001000 = 3;
    *(volatile uint32_t *)0x8201000 = 4;
    check_eq(peek(TEST_HIGH), 1);
    check_eq(peek(TEST_HIGH + 0x1000), 3);
    *pte_at(TEST_HIGH, 2) = 0x8200000 | RW | PTE_PS;
    invlpg((void *)(TEST_HIGH + 0x1ff000)); /* one address drops the whole page */
    check_eq(peek(TEST_HIGH), 2);
    check_eq(peek(TEST_HIGH + 0x1000), 4);
}

static void mov_to_cr3_flushes(void)
{
    uint32_t *one = page_of(1), *two = page_of(2);

    map_page(TEST_HIGH, one, RW);
    check_eq(peek(TEST_HIGH), 1);
    set_pte(TEST_HIGH, two, RW);
    write_cr3(read_cr3());
    check_eq(peek(TEST_HIGH), 2);
    *pte_at(TEST_HIGH, 4) = 0; /* an upper level */
    write_cr3(read_cr3());
    TRY("movl (%0), %%eax", : : "r"(TEST_HIGH) : "memory", "rax");
    check_pf(0, TEST_HIGH);
}

/* A page made present needs no flush: what is not present is not cached (SDM vol. 3 4.10.2.3). */
static void not_present_is_not_cached(void)
{
    uint32_t *one = page_of(1);

    map_page(TEST_HIGH, one, RW);
    unmap_page(TEST_HIGH);
    TRY("movl (%0), %%eax", : : "r"(TEST_HIGH) : "memory", "rax");
    check_pf(0, TEST_HIGH);
    set_pte(TEST_HIGH, one, RW);
    check_eq(peek(TEST_HIGH), 1);
    set_pte(TEST_HIGH, one, PTE_P);
    invlpg((void *)TEST_HIGH);
    check_eq(peek(TEST_HIGH), 1);
    set_pte(TEST_HIGH, one, RW);
    TRY("movl %1, (%0)", : : "r"(TEST_HIGH), "r"(5) : "memory"); /* may fault once, and then drops the entry */
    if (fault_count) {
        check_pf(PF_P | PF_W, TEST_HIGH);
        TRY("movl %1, (%0)", : : "r"(TEST_HIGH), "r"(5) : "memory");
    }
    check_no_fault();
    check_eq(*one, 5);
}

static void other_address_spaces(void)
{
    uint32_t *one = page_of(1), *two = page_of(2);
    uint64_t *other = page_alloc();
    word own = read_cr3();

    map_page(TEST_HIGH, one, RW);
    memcpy(other, boot_pml4, PAGE_SIZE);
    other[TEST_HIGH >> 39 & 511] = 0;
    write_cr3((word)other);
    map_page(TEST_HIGH, two, RW);
    for (unsigned i = 0; i < 50; i++) {
        write_cr3(own);
        check_eq(peek(TEST_HIGH), 1);
        write_cr3((word)other);
        check_eq(peek(TEST_HIGH), 2);
    }
    write_cr3(own);
}

static void global_pages(void)
{
    uint32_t *one = page_of(1), *two = page_of(2);
    word cr4 = read_cr4();

    map_page(TEST_HIGH, one, RW | PTE_G);
    check_eq(peek(TEST_HIGH), 1);
    set_pte(TEST_HIGH, two, RW | PTE_G);
    invlpg((void *)TEST_HIGH); /* global ones too */
    check_eq(peek(TEST_HIGH), 2);
    set_pte(TEST_HIGH, one, RW | PTE_G);
    write_cr4(cr4 & ~(word)CR4_PGE);
    check_eq(peek(TEST_HIGH), 1);
    write_cr4(cr4);
    check_eq(peek(TEST_HIGH), 1);
    set_pte(TEST_HIGH, two, RW | PTE_G);
    write_cr3(read_cr3()); /* may keep it: the test allows both */
    uint32_t seen = peek(TEST_HIGH);
    check(seen == 1 || seen == 2);
}

static void pcid_rules(void)
{
    if (!cpu_has(F_PCID))
        test_skip("no PCID");
    word cr3 = read_cr3();
    TRY("mov %0, %%cr3", : : "r"(cr3 | CR3_NOFLUSH) : "memory"); /* without PCIDE bit 63 is reserved */
    check_fault_but_qemu(EXC_GP, 0, "reserved bits of CR3 are not checked");
    write_cr3(cr3 | 0x18);             /* PWT, PCD */
    write_cr4(read_cr4() | CR4_PCIDE); /* CR3[11:0] need only be 0 for PCIDE */
    write_cr4(read_cr4() & ~(word)CR4_PCIDE);
    write_cr3(cr3);
}

static void pcid_cannot_start_with_a_pcid(void)
{
    if (!cpu_has(F_PCID))
        test_skip("no PCID");
    word cr3 = read_cr3();
    write_cr3(cr3 | 0x20); /* ignored bits while PCIDE is clear */
    TRY("mov %0, %%cr4", : : "r"(read_cr4() | CR4_PCIDE) : "memory");
    check_fault_but_qemu(EXC_GP, 0, "CR3's PCID is not looked at");
    write_cr3(cr3);
}

static void pcids_keep_apart(void)
{
    if (!cpu_has(F_PCID))
        test_skip("no PCID");
    uint32_t *one = page_of(1), *two = page_of(2);
    uint64_t *other = page_alloc();
    word own = read_cr3();

    map_page(TEST_HIGH, one, RW);
    memcpy(other, boot_pml4, PAGE_SIZE);
    other[TEST_HIGH >> 39 & 511] = 0;
    write_cr4(read_cr4() | CR4_PCIDE);
    write_cr3((word)other | 5);
    map_page(TEST_HIGH, two, RW);
    for (unsigned i = 0; i < 50; i++) {
        write_cr3(own | 1 | (i & 1 ? CR3_NOFLUSH : 0));
        check_eq(read_cr3(), own | 1); /* bit 63 reads as 0 */
        check_eq(peek(TEST_HIGH), 1);
        write_cr3((word)other | 5 | (i & 2 ? CR3_NOFLUSH : 0));
        check_eq(peek(TEST_HIGH), 2);
    }
    /* Without bit 63 a load drops the PCID's entries, whatever they were. */
    write_cr3(own | 1);
    check_eq(peek(TEST_HIGH), 1);
    set_pte(TEST_HIGH, two, RW);
    write_cr3((word)other | 5);
    write_cr3(own | 1);
    check_eq(peek(TEST_HIGH), 2);
    write_cr3(own);
    write_cr4(read_cr4() & ~(word)CR4_PCIDE);
}

static void invpcid(uint64_t type, uint64_t pcid, word va)
{
    uint64_t descriptor[2] = {pcid, va};

    TRY("invpcid (%0), %1", : : "r"(descriptor), "r"(type) : "memory");
}

static void invpcid_types(void)
{
    if (!cpu_has(F_INVPCID) || !cpu_has(F_PCID))
        test_skip("no INVPCID");
    uint32_t *one = page_of(1), *two = page_of(2);
    word own = read_cr3();

    write_cr4(read_cr4() | CR4_PCIDE);
    write_cr3(own | 3);
    for (uint64_t type = 0; type < 4; type++) {
        map_page(TEST_HIGH, one, RW);
        check_eq(peek(TEST_HIGH), 1);
        set_pte(TEST_HIGH, two, RW);
        invpcid(type, type < 2 ? 3 : 0, type ? 0 : TEST_HIGH);
        check_no_fault();
        check_eq(peek(TEST_HIGH), 2);
    }
    map_page(TEST_HIGH, one, RW | PTE_G);
    check_eq(peek(TEST_HIGH), 1);
    set_pte(TEST_HIGH, two, RW | PTE_G);
    invpcid(2, 0, 0); /* all, global ones too */
    check_eq(peek(TEST_HIGH), 2);
    invpcid(4, 0, 0);
    check_fault(EXC_GP, 0);
    invpcid(0, 0x1000, 0); /* a PCID of more than 12 bits */
    check_fault_but_qemu(EXC_GP, 0, "the descriptor is not checked");
    invpcid(0, 3, 0x800000000000);
    check_fault_but_qemu(EXC_GP, 0, "the descriptor is not checked");
    write_cr3(own);
    write_cr4(read_cr4() & ~(word)CR4_PCIDE);
}

/* The tables themselves are reached by other mappings, and entries of upper levels change under cached ones. */
static void upper_level_changes(void)
{
    uint32_t *one = page_of(1), *two = page_of(2);

    map_page(TEST_HIGH, one, RW);
    map_page(TEST_HIGH + 0x200000, two, RW);
    check_eq(peek(TEST_HIGH), 1);
    *pte_at(TEST_HIGH, 2) = *pte_at(TEST_HIGH + 0x200000, 2);
    invlpg((void *)TEST_HIGH);
    check_eq(peek(TEST_HIGH), 2);
    *pte_at(TEST_HIGH, 2) = 0x8000000 | RW | PTE_PS; /* a table becomes a large page */
    *(volatile uint32_t *)0x8000000 = 9;
    invlpg((void *)TEST_HIGH);
    check_eq(peek(TEST_HIGH), 9);
}

static void cr3_and_cr4_reserved_bits(void)
{
    if (cpu_is_tcg())
        test_skip("TCG takes them all and is lost then");
    TRY("mov %0, %%cr4", : : "r"(read_cr4() | BIT(40)) : "memory");
    check_fault(EXC_GP, 0);
    TRY("mov %0, %%cr4", : : "r"(read_cr4() & ~(word)CR4_PAE) : "memory"); /* not in long mode */
    check_fault(EXC_GP, 0);
    TRY("mov %0, %%cr0", : : "r"(read_cr0() & ~(word)CR0_PE) : "memory"); /* PG without PE */
    check_fault(EXC_GP, 0);
    TRY("mov %0, %%cr0", : : "r"((read_cr0() | CR0_NW) & ~(word)CR0_CD) : "memory"); /* NW without CD */
    check_fault(EXC_GP, 0);
}

GUEST_TESTS({"INVLPG forgets a page", invlpg_forgets_one_page}, {"INVLPG forgets a large page whole", invlpg_of_a_large_page},
            {"MOV to CR3 flushes", mov_to_cr3_flushes}, {"what is not present is not cached", not_present_is_not_cached},
            {"address spaces keep apart", other_address_spaces}, {"global pages", global_pages},
            {"CR3 bit 63 and the low bits", pcid_rules}, {"PCIDE can't be set with a PCID in CR3", pcid_cannot_start_with_a_pcid},
            {"PCIDs keep apart, and flush without bit 63", pcids_keep_apart}, {"INVPCID's types", invpcid_types},
            {"changed upper levels", upper_level_changes}, {"reserved bits of control registers", cr3_and_cr4_reserved_bits});
