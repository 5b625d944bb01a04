/* 4-level paging: page sizes, accessed and dirty bits, NX, WP, U/S, SMEP, reserved bits, error codes. */
#include "paging.h"
#include "test.h"

#define RW (PTE_P | PTE_W | PTE_U)
#define RET_CODE 0xc3

/* TCG leaves P out when it finds a reserved bit. */
#define check_reserved(error, va) check_pf((error) & ~(cpu_is_tcg() ? PF_P : 0), va)

static uint32_t read32(word va)
{
    uint32_t v = 0;

    TRY("movl (%1), %0", : "=&r"(v) : "r"(va) : "memory");
    return v;
}

static void write32(word va, uint32_t v)
{
    TRY("movl %0, (%1)", : : "r"(v), "r"(va) : "memory");
}

static void three_page_sizes(void)
{
    uint32_t *page = page_alloc();

    page[5] = 0x12345678;
    map_page(TEST_HIGH, page, RW);
    check_eq(read32(TEST_HIGH + 20), 0x12345678);
    map_2m(TEST_HIGH + 0x40000000, (word)page & ~0x1fffffUL, RW);
    check_eq(read32(TEST_HIGH + 0x40000000 + ((word)page & 0x1fffff) + 20), 0x12345678);
    if (cpu_has(F_PDPE1GB)) {
        map_1g(TEST_HIGH + 0x80000000, 0, RW);
        check_eq(read32(TEST_HIGH + 0x80000000 + (word)page + 20), 0x12345678);
        write32(TEST_HIGH + 0x80000000 + (word)page + 20, 77);
        check_eq(page[5], 77);
    }
    check_no_fault();
}

static void accessed_and_dirty(void)
{
    word va = TEST_HIGH;
    uint64_t *pte = (map_page(va, page_alloc(), RW), pte_at(va, 1));

    check_eq(*pte & (PTE_A | PTE_D), 0);
    (void)read32(va);
    check_eq(*pte & (PTE_A | PTE_D), PTE_A);
    for (unsigned level = 2; level <= 4; level++)
        check_eq(*pte_at(va, level) & PTE_A, PTE_A);
    write32(va, 1);
    check_eq(*pte & (PTE_A | PTE_D), PTE_A | PTE_D);
    *pte &= ~(PTE_A | PTE_D);
    invlpg((void *)va);
    write32(va, 1);
    check_eq(*pte & (PTE_A | PTE_D), PTE_A | PTE_D);
    *pte &= ~(PTE_A | PTE_D);
    invlpg((void *)va);
    (void)read32(va);
    write32(va, 2); /* the entry was cached clean */
    check_eq(*pte & (PTE_A | PTE_D), PTE_A | PTE_D);
    /* A fault sets no D. */
    *pte = (*pte & ~(PTE_W | PTE_A | PTE_D));
    invlpg((void *)va);
    write32(va, 3);
    check_pf(PF_P | PF_W, va);
    check_eq(*pte & PTE_D, 0);
    check_eq(*pte_at(va, 2) & PTE_D, 0);
}

static void dirty_of_large_pages(void)
{
    uint64_t *e = (map_2m(TEST_HIGH, 0x8000000, RW), pte_at(TEST_HIGH, 2));

    (void)read32(TEST_HIGH + 0x12345);
    check_eq(*e & (PTE_A | PTE_D), PTE_A);
    write32(TEST_HIGH + 0x1ff000, 5);
    check_eq(*e & (PTE_A | PTE_D), PTE_A | PTE_D);
    if (!cpu_has(F_PDPE1GB))
        return;
    e = (map_1g(TEST_HIGH + 0x40000000, 0, RW), pte_at(TEST_HIGH + 0x40000000, 3));
    (void)read32(TEST_HIGH + 0x48000000);
    check_eq(*e & (PTE_A | PTE_D), PTE_A);
    write32(TEST_HIGH + 0x48000000, 5);
    check_eq(*e & (PTE_A | PTE_D), PTE_A | PTE_D);
}

static void fetches_set_accessed(void)
{
    uint8_t *code = page_alloc();
    uint64_t *pte = (map_page(TEST_HIGH, code, RW), pte_at(TEST_HIGH, 1));

    code[0] = RET_CODE;
    TRY("call *%0", : : "r"(TEST_HIGH) : "memory");
    check_no_fault();
    check_eq(*pte & (PTE_A | PTE_D), PTE_A);
}

static void write_protect(void)
{
    map_page(TEST_HIGH, page_alloc(), PTE_P | PTE_U);
    write32(TEST_HIGH + 8, 1);
    check_pf(PF_P | PF_W, TEST_HIGH + 8);
    write_cr0(read_cr0() & ~(word)CR0_WP);
    write32(TEST_HIGH + 8, 1);
    check_no_fault();
    check_eq(*pte_at(TEST_HIGH, 1) & PTE_D, PTE_D);
    TRY_USER("movl %%eax, (%0)", : : "r"(TEST_HIGH + 8) : "memory"); /* ring 3 never may */
    check_pf(PF_P | PF_W | PF_U, TEST_HIGH + 8);
    write_cr0(read_cr0() | CR0_WP);
    write32(TEST_HIGH + 8, 1);
    check_pf(PF_P | PF_W, TEST_HIGH + 8);
}

/* The rights of every level are combined. */
static void rights_of_upper_levels(void)
{
    word va = TEST_HIGH;

    map_page(va, page_alloc(), RW);
    for (unsigned level = 2; level <= 4; level++) {
        uint64_t *e = pte_at(va, level), old = *e;
        *e = old & ~PTE_W;
        tlb_flush_all();
        write32(va, 1);
        check_pf(PF_P | PF_W, va);
        *e = old & ~PTE_U;
        tlb_flush_all();
        TRY_USER("movl (%0), %%eax", : : "r"(va) : "memory", "rax");
        check_pf(PF_P | PF_U, va);
        *e = old | PTE_NX;
        tlb_flush_all();
        TRY("call *%0", : : "r"(va) : "memory");
        check_fault_rip(EXC_PF, PF_P | PF_I, va);
        *e = old & ~PTE_P;
        tlb_flush_all();
        (void)read32(va);
        check_pf(0, va);
        *e = old;
        tlb_flush_all();
        write32(va, 1);
        check_no_fault();
    }
}

static void user_and_supervisor(void)
{
    map_page(TEST_HIGH, page_alloc(), PTE_P | PTE_W);
    write32(TEST_HIGH, 1);
    check_no_fault();
    TRY_USER("movl (%0), %%eax", : : "r"(TEST_HIGH) : "memory", "rax");
    check_pf(PF_P | PF_U, TEST_HIGH);
    TRY_USER("movl %%eax, (%0)", : : "r"(TEST_HIGH) : "memory");
    check_pf(PF_P | PF_W | PF_U, TEST_HIGH);
    TRY_USER("jmp *%0", : : "r"(TEST_HIGH) : "memory");
    check_fault_rip(EXC_PF, PF_P | PF_U | PF_I, TEST_HIGH);
    TRY_USER("jmp *%0", : : "r"(TEST_HIGH + PAGE_SIZE) : "memory");
    check_fault_rip(EXC_PF, PF_U | PF_I, TEST_HIGH + PAGE_SIZE);
    check_eq(fault.cr2, TEST_HIGH + PAGE_SIZE);
    /* Implicit accesses of ring 3 are the supervisor's: the GDT on such a page. */
    memcpy((void *)TEST_HIGH, gdt, sizeof(gdt));
    lgdt((void *)TEST_HIGH, sizeof(gdt) - 1);
    TRY_USER("mov %0, %%es", : : "r"(SEL_UDATA) : "memory");
    check_no_fault();
    lgdt(gdt, sizeof(gdt) - 1);
}

static void no_execute(void)
{
    uint8_t *code = page_alloc();

    code[0] = RET_CODE;
    map_page(TEST_HIGH, code, RW | PTE_NX);
    check_eq(read32(TEST_HIGH) & 0xff, RET_CODE);
    TRY("call *%0", : : "r"(TEST_HIGH) : "memory");
    check_fault_rip(EXC_PF, PF_P | PF_I, TEST_HIGH);
    check_eq(fault.cr2, TEST_HIGH);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_NXE);
    invlpg((void *)TEST_HIGH);
    (void)read32(TEST_HIGH); /* now bit 63 is reserved */
    check_reserved(PF_P | PF_RSVD, TEST_HIGH);
    map_page(TEST_HIGH, code, RW);
    TRY("call *%0", : : "r"(TEST_HIGH) : "memory");
    check_no_fault();
    TRY("call *%0", : : "r"(TEST_HIGH + PAGE_SIZE) : "memory");
    check_fault_rip(EXC_PF, 0, TEST_HIGH + PAGE_SIZE); /* no I bit without NXE and SMEP */
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
}

static void smep(void)
{
    uint8_t *code = page_alloc();

    if (!cpu_has(F_SMEP))
        test_skip("no SMEP");
    code[0] = RET_CODE;
    map_page(TEST_HIGH, code, RW);
    TRY("call *%0", : : "r"(TEST_HIGH) : "memory");
    check_no_fault();
    /* All that runs must be the supervisor's then. */
    for (unsigned i = 0; i < 64; i++)
        boot_pd0[i] &= ~PTE_U;
    tlb_flush_all();
    write_cr4(read_cr4() | CR4_SMEP);
    TRY("call *%0", : : "r"(TEST_HIGH) : "memory");
    check_fault_rip(EXC_PF, PF_P | PF_I, TEST_HIGH);
    check_eq(read32(TEST_HIGH) & 0xff, RET_CODE);
    *pte_at(TEST_HIGH, 1) &= ~PTE_U;
    invlpg((void *)TEST_HIGH);
    TRY("call *%0", : : "r"(TEST_HIGH) : "memory");
    check_no_fault();
    write_cr4(read_cr4() & ~(word)CR4_SMEP);
}

static void smap(void)
{
    if (!cpu_has(F_SMAP))
        test_skip("no SMAP");
    map_page(TEST_HIGH, page_alloc(), RW);
    for (unsigned i = 0; i < 64; i++)
        boot_pd0[i] &= ~PTE_U;
    tlb_flush_all();
    write_cr4(read_cr4() | CR4_SMAP);
    (void)read32(TEST_HIGH);
    check_pf(PF_P, TEST_HIGH);
    TRY("stac\n" AT "movl (%0), %%eax\nclac", : : "r"(TEST_HIGH) : "memory", "rax");
    check_no_fault();
    write_cr4(read_cr4() & ~(word)CR4_SMAP);
}

static void reserved_bits(void)
{
    unsigned width = cpuid(0x80000008, 0).a & 0xff;
    word va = TEST_HIGH;

    map_page(va, page_alloc(), RW);
    for (unsigned level = 1; level <= 4; level++) {
        uint64_t *e = pte_at(va, level), old = *e;
        if (width < 52) {
            *e = old | BIT(51);
            tlb_flush_all();
            (void)read32(va);
            check_reserved(PF_P | PF_RSVD, va);
            TRY_USER("movl %%eax, (%0)", : : "r"(va) : "memory");
            check_reserved(PF_P | PF_RSVD | PF_W | PF_U, va);
        }
        if (level == 4) {
            *e = old | PTE_PS;
            tlb_flush_all();
            (void)read32(va);
            check_reserved(PF_P | PF_RSVD, va);
        }
        *e = old;
        tlb_flush_all();
    }
    map_2m(TEST_HIGH + 0x200000, 0x8000000 + 0x2000, RW); /* bit 13 of a 2M page */
    (void)read32(TEST_HIGH + 0x200000);
    check_reserved(PF_P | PF_RSVD, TEST_HIGH + 0x200000);
    *pte_at(va, 1) = BIT(51) | BIT(62); /* not present: nothing is reserved */
    invlpg((void *)va);
    (void)read32(va);
    check_pf(0, va);
}

static void ignored_bits_do_not_matter(void)
{
    map_page(TEST_HIGH, page_alloc(), RW | 0xe00 | 0x7fUL << 52);
    write32(TEST_HIGH, 1);
    check_no_fault();
    check_eq(*pte_at(TEST_HIGH, 1) & (0xe00 | 0x7fUL << 52), 0xe00 | 0x7fUL << 52);
}

static void read_modify_write_faults_as_a_write(void)
{
    map_page(TEST_HIGH, page_alloc(), PTE_P | PTE_U);
    TRY("addl $1, (%0)", : : "r"(TEST_HIGH) : "memory");
    check_pf(PF_P | PF_W, TEST_HIGH);
    TRY("lock cmpxchgl %%ecx, (%0)", : : "r"(TEST_HIGH), "a"(55), "c"(1) : "memory"); /* writes even when unequal */
    check_pf(PF_P | PF_W, TEST_HIGH);
    TRY("btsl $1, (%0)", : : "r"(TEST_HIGH) : "memory");
    check_pf(PF_P | PF_W, TEST_HIGH);
    TRY("btl $1, (%0)", : : "r"(TEST_HIGH) : "memory");
    check_no_fault();
    unmap_page(TEST_HIGH);
    TRY("addl $1, (%0)", : : "r"(TEST_HIGH) : "memory");
    check_fault_but_qemu(EXC_PF, PF_W, "reads first");
    TRY("xchg %%eax, (%0)", : : "r"(TEST_HIGH) : "memory", "rax");
    check_fault_but_qemu(EXC_PF, PF_W, "reads first");
    TRY("cmpl $1, (%0)", : : "r"(TEST_HIGH) : "memory");
    check_pf(0, TEST_HIGH);
}

GUEST_TESTS({"4K, 2M and 1G pages translate", three_page_sizes}, {"A and D are set by what uses the page", accessed_and_dirty},
            {"A and D of large pages", dirty_of_large_pages}, {"a fetch sets A, not D", fetches_set_accessed},
            {"CR0.WP binds ring 0", write_protect}, {"rights of all levels are combined", rights_of_upper_levels},
            {"U/S keeps ring 3 out, but not its descriptors' loads", user_and_supervisor}, {"NX, and bit 63 without NXE", no_execute},
            {"SMEP", smep}, {"SMAP", smap}, {"reserved bits", reserved_bits}, {"ignored bits are left alone", ignored_bits_do_not_matter},
            {"read-modify-write faults as a write", read_modify_write_faults_as_a_write});
