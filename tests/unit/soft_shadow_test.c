/* Shadow tables: what is filled, what each flush leaves, and how code pages are kept from writes. */
#include "soft_paging.h"

/* --- shadow tables --- */

static void a_fill_makes_the_entry_an_addend(void **state)
{
    struct fixture *f = *state;
    gva_t gva = 0xffff888000001000ULL;

    start_long(f);
    map_long(f, gva, DATA, PTE_P | PTE_W);
    assert_int_equal(mmu_fill(&f->cpu, gva + 0x123, MMU_READ), SOFT_OK);
    assert_int_equal(table_entry(f, false, false, gva) + gva, (uintptr_t)ram(f, DATA));
    assert_int_equal(table_entry(f, false, true, gva), 0); /* D is clear: the first write must walk */
    assert_int_equal(mmu_fill(&f->cpu, gva + 0x123, MMU_WRITE), SOFT_OK);
    assert_int_equal(table_entry(f, false, true, gva) + gva, (uintptr_t)ram(f, DATA));
    mmu_flush_all(&f->cpu);
    assert_int_equal(table_entry(f, false, false, gva), 0);
    assert_int_equal(table_entry(f, false, true, gva), 0);
    assert_int_equal(mmu_fill(&f->cpu, gva, MMU_READ), SOFT_OK); /* D is set by now: both at once */
    assert_true(table_entry(f, false, true, gva) != 0);
}

static void nothing_but_plain_ram_is_filled(void **state)
{
    struct fixture *f = *state;

    start_long(f);
    map_long(f, 0x1000, HOLE_GPA, PTE_P | PTE_W);
    assert_int_equal(mmu_fill(&f->cpu, 0x1000, MMU_READ), SOFT_SLOW);
    map_long(f, 0x1000, APIC_BASE_DEFAULT, PTE_P | PTE_W);
    assert_int_equal(mmu_fill(&f->cpu, 0x1000, MMU_WRITE), SOFT_SLOW);
    map_long(f, 0x1000, ROM_GPA, PTE_P | PTE_W | PTE_D);
    assert_int_equal(mmu_fill(&f->cpu, 0x1000, MMU_WRITE), SOFT_SLOW);
    assert_int_equal(mmu_fill(&f->cpu, 0x1000, MMU_READ), SOFT_OK);
    assert_int_equal(table_entry(f, false, true, 0x1000), 0);
    assert_int_equal(mmu_fill(&f->cpu, 0x2000, MMU_READ), SOFT_SLOW);
}

static void the_apic_page_hides_ram(void **state)
{
    struct fixture *f = *state;
    uint32_t value;

    start_long(f);
    f->cpu.apic_base = DATA | APIC_BASE_ENABLE;
    map_long(f, 0x1000, DATA, PTE_P | PTE_W);
    assert_int_equal(mmu_fill(&f->cpu, 0x1000, MMU_READ), SOFT_SLOW);
    assert_int_equal(mmu_read(&f->cpu, 0x1030, &value, 4, MMU_READ), SOFT_OK);
    assert_int_equal(value, 0xa1b2c3d4);
    f->cpu.apic_base |= APIC_BASE_X2APIC; /* no page in this mode */
    assert_int_equal(mmu_fill(&f->cpu, 0x1000, MMU_READ), SOFT_OK);
}

static void flushes_spare_global_entries_as_they_must(void **state)
{
    struct fixture *f = *state;

    start_long(f);
    map_long(f, 0x1000, DATA, PTE_P | PTE_W | PTE_D | PTE_G);
    map_long(f, 0x2000, DATA, PTE_P | PTE_W | PTE_D);
    for (unsigned i = 1; i <= 2; i++)
        assert_int_equal(mmu_fill(&f->cpu, i * 0x1000, MMU_READ), SOFT_OK);
    mmu_flush_nonglobal(&f->cpu);
    assert_true(table_entry(f, false, false, 0x1000) && table_entry(f, false, true, 0x1000));
    assert_false(table_entry(f, false, false, 0x2000) || table_entry(f, false, true, 0x2000));
    mmu_flush_page(&f->cpu, 0x1fff);
    assert_false(table_entry(f, false, false, 0x1000) || table_entry(f, false, true, 0x1000));

    f->cpu.cr4 &= ~CR4_PGE; /* G counts for nothing then */
    assert_int_equal(mmu_fill(&f->cpu, 0x1000, MMU_READ), SOFT_OK);
    mmu_flush_nonglobal(&f->cpu);
    assert_false(table_entry(f, false, false, 0x1000));
}

static void invlpg_takes_the_whole_large_page(void **state)
{
    struct fixture *f = *state;
    uint64_t all = PTE_P | PTE_W | PTE_U;
    gva_t far = 0x600000;

    start_long(f);
    build(f, PAGING_4LEVEL, 2, 0x400000, MIB(4), all, all | PTE_D);
    entry_put(f, PAGING_4LEVEL, 2, far, MIB(6) | all | PTE_PS | PTE_D);
    entry_put(f, PAGING_4LEVEL, 2, 0xa00000, MIB(10) | all | PTE_PS | PTE_D);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(mmu_fill(&f->cpu, 0x400000 + i * 0x1000, MMU_READ), SOFT_OK);
    assert_int_equal(mmu_fill(&f->cpu, 0xa00000, MMU_READ), SOFT_OK);
    /* The guest has split the page by now; the old pieces must go all the same. */
    entry_put(f, PAGING_4LEVEL, 2, 0x400000, 0);
    mmu_flush_page(&f->cpu, 0x401000);
    for (unsigned i = 0; i < 3; i++)
        assert_false(table_entry(f, false, false, 0x400000 + i * 0x1000));
    assert_true(table_entry(f, false, false, 0xa00000) != 0);

    build(f, PAGING_4LEVEL, 3, 0x40000000, 0, all, all | PTE_D);
    assert_int_equal(mmu_fill(&f->cpu, 0x40000000, MMU_READ), SOFT_OK);
    assert_int_equal(mmu_fill(&f->cpu, 0x40800000, MMU_READ), SOFT_OK);
    mmu_flush_page(&f->cpu, 0x40000000);
    assert_false(table_entry(f, false, false, 0x40800000));
}

static void invlpg_takes_both_halves_of_a_4m_page(void **state)
{
    struct fixture *f = *state;
    uint64_t all = PTE_P | PTE_W | PTE_U;

    set_mode(f, PAGING_32);
    build(f, PAGING_32, 2, 0x800000, MIB(8), all, all | PTE_D);
    assert_int_equal(mmu_fill(&f->cpu, 0x800000, MMU_READ), SOFT_OK);
    assert_int_equal(mmu_fill(&f->cpu, 0xa00000, MMU_READ), SOFT_OK);
    mmu_flush_page(&f->cpu, 0xa01000);
    assert_false(table_entry(f, false, false, 0x800000) || table_entry(f, false, false, 0xa00000));
}

static void protecting_a_page_revokes_every_write_entry(void **state)
{
    struct fixture *f = *state;
    uint64_t flags = PTE_P | PTE_W | PTE_U | PTE_D;

    start_long(f);
    for (unsigned i = 0; i < 8; i++) {
        map_long(f, 0x10000 + i * 0x1000, DATA, flags | (i & 1 ? PTE_G : 0));
        f->cpu.cpl = i & 2 ? 3 : 0;
        assert_int_equal(mmu_fill(&f->cpu, 0x10000 + i * 0x1000, MMU_WRITE), SOFT_OK);
    }
    map_long(f, 0x20000, DATA + 0x1000, flags);
    assert_int_equal(mmu_fill(&f->cpu, 0x20000, MMU_WRITE), SOFT_OK);
    smc_protect(&f->cpu, DATA + 0x10);
    assert_true(smc_has_code(&f->svm, DATA));
    for (unsigned i = 0; i < 8; i++) {
        f->cpu.cpl = i & 2 ? 3 : 0;
        assert_true(table_entry(f, i & 2, false, 0x10000 + i * 0x1000) != 0);
        assert_false(table_entry(f, i & 2, true, 0x10000 + i * 0x1000));
        assert_int_equal(mmu_fill(&f->cpu, 0x10000 + i * 0x1000, MMU_WRITE), SOFT_SLOW);
        assert_int_equal(mmu_fill(&f->cpu, 0x10000 + i * 0x1000, MMU_READ), SOFT_OK);
        assert_false(table_entry(f, i & 2, true, 0x10000 + i * 0x1000));
    }
    f->cpu.cpl = 3;
    assert_true(table_entry(f, true, true, 0x20000) != 0);
}

static void writing_to_a_code_page_drops_its_code_once(void **state)
{
    struct fixture *f = *state;
    uint64_t value = 0x1122334455667788ULL;
    void *hva;

    start_long(f);
    map_long(f, 0x1000, DATA, PTE_P | PTE_W);
    smc_protect(&f->cpu, DATA);
    assert_int_equal(mmu_write(&f->cpu, 0x1004, &value, 8, MMU_WRITE), SOFT_OK);
    assert_int_equal(get64(f, DATA + 4), value);
    assert_int_equal(seen.drop_count, 0); /* at the next boundary */
    assert_int_not_equal(atomic_load(&f->cpu.attention), 0);
    assert_false(table_entry(f, false, true, 0x1000));
    smc_service(&f->cpu);
    assert_int_equal(seen.drop_count, 1);
    assert_int_equal(seen.dropped[0], DATA);
    assert_false(smc_has_code(&f->svm, DATA));
    assert_int_equal(mmu_write(&f->cpu, 0x1004, &value, 8, MMU_WRITE), SOFT_OK);
    smc_service(&f->cpu);
    assert_int_equal(seen.drop_count, 1);
    assert_true(table_entry(f, false, true, 0x1000) != 0);
    smc_protect(&f->cpu, DATA);
    assert_false(table_entry(f, false, true, 0x1000));
    assert_int_equal(mmu_host(&f->cpu, 0x1004, 4, MMU_WRITE, &hva), SOFT_OK);
    assert_ptr_equal(hva, ram(f, DATA + 4));
    smc_service(&f->cpu);
    assert_int_equal(seen.drop_count, 2);
}

static void a_written_range_drops_the_code_of_all_its_pages(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 4; i++)
        smc_protect(&f->cpu, DATA + i * PAGE_SIZE);
    smc_written(&f->svm, DATA + PAGE_SIZE - 1, 2, SMC_DEVICE);
    smc_service(&f->cpu);
    assert_int_equal(seen.drop_count, 2);
    assert_true(smc_has_code(&f->svm, DATA + 2 * PAGE_SIZE));
    smc_written(&f->svm, DATA + 2 * PAGE_SIZE, 1, SMC_OUTSIDE);
    smc_written(&f->svm, 0, UINT64_MAX, SMC_GUEST);
    assert_int_equal(f->svm.pages->marked, 4);
    assert_int_equal(f->svm.pages->written[SMC_DEVICE], 2);
    assert_int_equal(f->svm.pages->written[SMC_OUTSIDE], 1);
    assert_int_equal(f->svm.pages->written[SMC_GUEST], 1);
    smc_service(&f->cpu);
    assert_int_equal(seen.drop_count, 4);
    smc_written(&f->svm, HOLE_GPA, 100, SMC_GUEST);
    smc_written(&f->svm, DATA, 0, SMC_GUEST);
    smc_protect(&f->cpu, HOLE_GPA);
    assert_false(smc_has_code(&f->svm, HOLE_GPA));
}

static void more_stale_pages_than_the_list_holds_are_all_dropped(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < SMC_STALE_MAX + 10; i++)
        smc_protect(&f->cpu, DATA + i * PAGE_SIZE);
    smc_written(&f->svm, DATA, (SMC_STALE_MAX + 5) * PAGE_SIZE, SMC_GUEST);
    smc_service(&f->cpu);
    assert_int_equal(seen.drop_count, SMC_STALE_MAX + 5);
    for (unsigned i = 0; i < SMC_STALE_MAX + 10; i++)
        assert_int_equal(smc_has_code(&f->svm, DATA + i * PAGE_SIZE), i >= SMC_STALE_MAX + 5);
}

static void a_stale_page_is_neither_written_directly_nor_translated(void **state)
{
    struct fixture *f = *state;

    start_long(f);
    map_long(f, 0x1000, DATA, PTE_P | PTE_W | PTE_D);
    smc_protect(&f->cpu, DATA);
    assert_true(smc_is_protected(&f->svm, DATA));
    smc_written(&f->svm, DATA, 1, SMC_GUEST);
    assert_false(smc_is_protected(&f->svm, DATA));
    assert_int_equal(mmu_fill(&f->cpu, 0x1000, MMU_WRITE), SOFT_SLOW);
    smc_protect(&f->cpu, DATA);
    assert_false(smc_is_protected(&f->svm, DATA));
    smc_service(&f->cpu);
    assert_int_equal(mmu_fill(&f->cpu, 0x1000, MMU_WRITE), SOFT_OK);
    smc_protect(&f->cpu, DATA);
    assert_true(smc_is_protected(&f->svm, DATA));
    assert_false(table_entry(f, false, true, 0x1000));
}

/* All of the address space onto the first 2 MiB. */
static void map_everything(struct fixture *f)
{
    start_long(f);
    for (unsigned i = 0; i < 512; i++) {
        put64(f, T4 + i * 8, T3 | PTE_P | PTE_W | PTE_U);
        put64(f, T3 + i * 8, T2 | PTE_P | PTE_W | PTE_U);
        put64(f, T2 + i * 8, PTE_PS | PTE_P | PTE_W | PTE_U | PTE_D);
    }
    f->cpu.cr3 = T4;
}

static void sparse_tables_are_given_back(void **state)
{
    struct fixture *f = *state;
    gva_t gva = 0;

    map_everything(f);
    mmu_maintain(&f->cpu); /* nothing to do yet */
    for (unsigned i = 0; i <= shadow_populated_limit(f->svm.mem->page_count) / 2; i++, gva += MIB(2)) {
        assert_int_equal(atomic_load(&f->cpu.attention), 0);
        assert_int_equal(mmu_fill(&f->cpu, gva, MMU_READ), SOFT_OK);
    }
    assert_int_not_equal(atomic_load(&f->cpu.attention), 0);
    assert_true(table_entry(f, false, false, 0) != 0);
    mmu_maintain(&f->cpu);
    assert_int_equal(table_entry(f, false, false, 0), 0);
    assert_int_equal(table_entry(f, false, true, gva - MIB(2)), 0);
    atomic_store(&f->cpu.attention, 0);
    assert_int_equal(mmu_fill(&f->cpu, 0, MMU_READ), SOFT_OK);
    assert_int_equal(atomic_load(&f->cpu.attention), 0);
    smc_protect(&f->cpu, 0);
    assert_int_equal(table_entry(f, false, true, 0), 0);
}

static void tables_that_were_only_looked_at_are_given_back_too(void **state)
{
    struct fixture *f = *state;

    start_long(f);
    f->cpu.cr3 = T4; /* nothing is mapped */
    for (unsigned i = 0; i < shadow_populated_limit(f->svm.mem->page_count); i++)
        assert_int_equal(mmu_fill(&f->cpu, i * MIB(2), MMU_WRITE), SOFT_SLOW);
    assert_int_equal(mmu_fill(&f->cpu, 0, MMU_WRITE), SOFT_SLOW); /* again: the same page */
    assert_int_equal(atomic_load(&f->cpu.attention), 0);
    assert_int_equal(mmu_fill(&f->cpu, 0, MMU_READ), SOFT_SLOW); /* of another table */
    assert_int_not_equal(atomic_load(&f->cpu.attention), 0);
}

/* By whoever looked: C code at what is not mapped, and translated code at what is no address. */
static void looks_that_fault_count_too(void **state)
{
    struct fixture *f = *state;
    uint32_t limit = shadow_populated_limit(f->svm.mem->page_count);
    uint64_t value;

    start_long(f);
    f->cpu.cr3 = T4; /* nothing is mapped */
    for (unsigned i = 0; i < limit; i++)
        assert_int_equal(mmu_read(&f->cpu, i * MIB(2), &value, 8, MMU_READ), SOFT_FAULT);
    assert_int_equal(atomic_load(&f->cpu.attention), 0);
    assert_int_equal(mmu_read(&f->cpu, limit * MIB(2), &value, 8, MMU_READ), SOFT_FAULT);
    assert_int_not_equal(atomic_load(&f->cpu.attention), 0);
    mmu_maintain(&f->cpu);
    atomic_store(&f->cpu.attention, 0);
    for (unsigned i = 0; i <= limit; i++)
        mmu_note_miss(&f->cpu, 0x7000000000000000 + i * MIB(2), i & 1 ? MMU_FETCH : MMU_WRITE);
    assert_int_not_equal(atomic_load(&f->cpu.attention), 0);
}

static void a_full_list_is_flushed_and_still_revocable(void **state)
{
    struct fixture *f = *state;

    map_everything(f);
    for (unsigned i = 0; i < SHADOW_RECORDS + 10; i++)
        assert_int_equal(mmu_fill(&f->cpu, (gva_t)i << 12, MMU_READ), SOFT_OK);
    assert_int_equal(table_entry(f, false, false, 0), 0);
    for (gpa_t page = 0; page < MIB(2); page += PAGE_SIZE)
        smc_protect(&f->cpu, page);
    for (unsigned i = 0; i < SHADOW_RECORDS + 10; i++)
        if (table_entry(f, false, true, (gva_t)i << 12))
            fail_msg("page %u can be written", i);
}

/* --- fetch tables --- */

static void code_may_be_jumped_to_where_it_was_asked_for(void **state)
{
    const gva_t gva = 0xffff888000001000ULL, other = gva + MIB(16); /* where the fetch cache has room for one of the two */
    struct fixture *f = *state;
    const uint8_t *hva;
    gpa_t gpa;

    start_long(f);
    map_long(f, gva, DATA, PTE_P | PTE_W | PTE_U);
    assert_false(mmu_allow_fetch(&f->cpu, gva)); /* nobody has found what is there */
    assert_int_equal(fetch_table_entry(f, false, gva), 0);
    assert_int_equal(mmu_fetch(&f->cpu, gva, &gpa, &hva), SOFT_OK);
    assert_int_equal(fetch_table_entry(f, false, gva), 0);
    assert_true(mmu_allow_fetch(&f->cpu, gva + 0x123));
    assert_int_equal(fetch_table_entry(f, false, gva), DATA / PAGE_SIZE + 1);
    assert_int_equal(fetch_table_entry(f, true, gva), 0);
    assert_int_equal(table_entry(f, false, false, gva), 0); /* it may not be read for that */
    f->cpu.cpl = 3;
    assert_false(mmu_allow_fetch(&f->cpu, gva)); /* it was the supervisor who found it */
    assert_int_equal(fetch_table_entry(f, true, gva), 0);
    allow_fetch(f, gva);
    assert_int_equal(fetch_table_entry(f, true, gva), DATA / PAGE_SIZE + 1);

    map_long(f, other, DATA + 0x1000, PTE_P | PTE_W | PTE_U);
    assert_int_equal(mmu_fetch(&f->cpu, other, &gpa, &hva), SOFT_OK);
    assert_int_equal(mmu_fetch(&f->cpu, gva, &gpa, &hva), SOFT_OK);
    assert_false(mmu_allow_fetch(&f->cpu, other));
    assert_int_equal(fetch_table_entry(f, true, other), 0);

    map_long(f, 0x1000, ROM_GPA, PTE_P | PTE_W | PTE_U);
    allow_fetch(f, 0x1000);
    assert_int_equal(fetch_table_entry(f, true, 0x1000), RAM_SIZE / PAGE_SIZE + 1);
}

static void flushes_forbid_fetches(void **state)
{
    struct fixture *f = *state;

    start_long(f);
    map_long(f, 0x1000, DATA, PTE_P | PTE_U | PTE_G);
    map_long(f, 0x2000, DATA, PTE_P | PTE_U);
    for (unsigned user = 0; user < 2; user++) {
        f->cpu.cpl = user ? 3 : 0;
        for (gva_t gva = 0x1000; gva <= 0x2000; gva += 0x1000) {
            allow_fetch(f, gva);
            assert_int_equal(fetch_table_entry(f, user, gva), DATA / PAGE_SIZE + 1);
        }
    }
    mmu_flush_nonglobal(&f->cpu);
    for (unsigned user = 0; user < 2; user++) {
        assert_int_not_equal(fetch_table_entry(f, user, 0x1000), 0);
        assert_int_equal(fetch_table_entry(f, user, 0x2000), 0);
    }
    assert_false(mmu_allow_fetch(&f->cpu, 0x2000)); /* what was found before a flush does not count */
    assert_int_equal(fetch_table_entry(f, true, 0x2000), 0);
    mmu_flush_all(&f->cpu);
    for (unsigned user = 0; user < 2; user++)
        assert_int_equal(fetch_table_entry(f, user, 0x1000), 0);
}

static void invlpg_forbids_fetches_of_the_page(void **state)
{
    struct fixture *f = *state;

    start_long(f);
    for (unsigned i = 1; i <= 3; i++)
        map_long(f, i * 0x1000, DATA + i * 0x1000, PTE_P | PTE_U | (i == 2 ? PTE_G : 0));
    for (unsigned user = 0; user < 2; user++) {
        f->cpu.cpl = user ? 3 : 0;
        for (unsigned i = 1; i <= 3; i++)
            allow_fetch(f, i * 0x1000);
    }
    mmu_flush_page(&f->cpu, 0x2fff);
    for (unsigned user = 0; user < 2; user++)
        for (unsigned i = 1; i <= 3; i++)
            assert_int_equal(fetch_table_entry(f, user, i * 0x1000), i == 2 ? 0 : DATA / PAGE_SIZE + i + 1);
    map_long(f, 0x2000, DATA + 0x8000, PTE_P | PTE_U);
    allow_fetch(f, 0x2000);
    assert_int_equal(fetch_table_entry(f, true, 0x2000), DATA / PAGE_SIZE + 9);
    mmu_flush_nonglobal(&f->cpu); /* it is global no more */
    assert_int_equal(fetch_table_entry(f, true, 0x2000), 0);
}

/* Nothing has read or written there: fetches alone tell that the pages are large. */
static void invlpg_forbids_fetches_of_the_whole_large_page(void **state)
{
    struct fixture *f = *state;
    uint64_t all = PTE_P | PTE_W;

    start_long(f);
    build(f, PAGING_4LEVEL, 2, 0x400000, MIB(4), all, all);
    entry_put(f, PAGING_4LEVEL, 2, 0xa00000, MIB(10) | all | PTE_PS);
    allow_fetch(f, 0x400000);
    allow_fetch(f, 0x5ff000);
    allow_fetch(f, 0xa00000);
    assert_int_equal(fetch_table_entry(f, false, 0x5ff000), 0x5ff + 1);
    mmu_flush_page(&f->cpu, 0x401000);
    assert_int_equal(fetch_table_entry(f, false, 0x400000), 0);
    assert_int_equal(fetch_table_entry(f, false, 0x5ff000), 0);
    assert_int_not_equal(fetch_table_entry(f, false, 0xa00000), 0);

    build(f, PAGING_4LEVEL, 3, 0x40000000, 0, all, all | PTE_G);
    allow_fetch(f, 0x40000000);
    allow_fetch(f, 0x40800000);
    mmu_flush_page(&f->cpu, 0x40001000);
    assert_int_equal(fetch_table_entry(f, false, 0x40000000), 0);
    assert_int_equal(fetch_table_entry(f, false, 0x40800000), 0);

    mmu_flush_all(&f->cpu);
    set_mode(f, PAGING_32);
    build(f, PAGING_32, 2, 0x800000, MIB(8), all, all);
    allow_fetch(f, 0x800000);
    allow_fetch(f, 0xa00000);
    mmu_flush_page(&f->cpu, 0xa01000);
    assert_int_equal(fetch_table_entry(f, false, 0x800000), 0);
    assert_int_equal(fetch_table_entry(f, false, 0xa00000), 0);
}

static void a_full_list_of_fetches_is_flushed(void **state)
{
    const gva_t base = 0x100000000;
    struct fixture *f = *state;

    map_everything(f);
    for (unsigned i = 0; i < SHADOW_FETCHES + 10; i++)
        allow_fetch(f, 0); /* which is one entry */
    for (unsigned i = 1; i < SHADOW_FETCHES; i++)
        allow_fetch(f, base + i * PAGE_SIZE);
    assert_int_equal(fetch_table_entry(f, false, 0), 1);
    assert_int_equal(fetch_table_entry(f, false, base + PAGE_SIZE), 2);
    for (unsigned i = 0; i < 10; i++)
        allow_fetch(f, base + (SHADOW_FETCHES + i) * PAGE_SIZE);
    assert_int_equal(fetch_table_entry(f, false, 0), 0);
    for (unsigned i = 1; i < SHADOW_FETCHES; i++)
        if (fetch_table_entry(f, false, base + i * PAGE_SIZE))
            fail_msg("page %u can be executed", i);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(fetch_table_entry(f, false, base + (SHADOW_FETCHES + i) * PAGE_SIZE), i + 1);
    mmu_flush_nonglobal(&f->cpu);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(fetch_table_entry(f, false, base + (SHADOW_FETCHES + i) * PAGE_SIZE), 0);
}

static void fetch_tables_are_given_back_too(void **state)
{
    uint32_t limit;
    struct fixture *f = *state;

    map_everything(f);
    limit = shadow_populated_limit(f->svm.mem->page_count);
    for (unsigned i = 0; i < limit; i++)
        allow_fetch(f, i * MIB(2));
    assert_int_equal(atomic_load(&f->cpu.attention), 0);
    allow_fetch(f, limit * MIB(2));
    assert_int_not_equal(atomic_load(&f->cpu.attention), 0);
    assert_int_equal(fetch_table_entry(f, false, limit * MIB(2)), 1);
    mmu_maintain(&f->cpu);
    for (unsigned i = 0; i <= limit; i++)
        assert_int_equal(fetch_table_entry(f, false, i * MIB(2)), 0);
    atomic_store(&f->cpu.attention, 0);
    allow_fetch(f, 0);
    assert_int_equal(fetch_table_entry(f, false, 0), 1);
    assert_int_equal(atomic_load(&f->cpu.attention), 0);
    mmu_flush_nonglobal(&f->cpu);
    assert_int_equal(fetch_table_entry(f, false, 0), 0);
}

/* The tables by themselves, whoever asked first. */
static void the_tables_know_large_pages_of_fetches_alone(void **state)
{
    struct soft_shadow s;
    struct err e;

    (void)state;
    assert_int_equal(shadow_init(&s, RAM_SIZE / PAGE_SIZE, &e), 0);
    shadow_allow_fetch(&s, 0x400000, 7, 21, false, false);
    assert_true(shadow_flush_page(&s, 0x401000));
    assert_int_equal(s.fetch[false][0x400], 0);
    shadow_allow_fetch(&s, 0x40000000, 8, 30, true, true);
    assert_true(shadow_flush_page(&s, 0x7ffff000));
    assert_int_equal(s.fetch[true][0x40000], 0);
    shadow_allow_fetch(&s, 0x1000, 9, 12, true, true);
    assert_false(shadow_flush_page(&s, 0x2000));
    assert_int_equal(s.fetch[true][1], 10);
    assert_false(shadow_maintain(&s));
    s.reclaim = true;
    assert_true(shadow_maintain(&s));
    assert_int_equal(s.fetch[true][1], 0);
    assert_int_equal(s.fetches[0].count + s.fetches[1].count, 0); /* a flush would touch what was given back */
    shadow_fini(&s);
}

/* --- changes --- */

/* Whether anything was taken away since the last question. */
static bool changed(struct fixture *f)
{
    static uint32_t before;
    uint32_t now = mmu_changes(&f->cpu);
    bool differs = now != before;

    before = now;
    return differs;
}

static void whatever_takes_entries_away_is_counted(void **state)
{
    struct fixture *f = *state;
    uint64_t all = PTE_P | PTE_W | PTE_U | PTE_D;

    start_long(f);
    map_long(f, 0x1000, DATA, all | PTE_G);
    build(f, PAGING_4LEVEL, 2, 0x400000, MIB(4), all, all);
    build(f, PAGING_4LEVEL, 3, 0x40000000, 0, all, all);
    changed(f);
    mmu_flush_all(&f->cpu);
    assert_true(changed(f));
    mmu_flush_nonglobal(&f->cpu);
    assert_true(changed(f));

    map_long(f, 0x1000, DATA, all | PTE_G);
    assert_int_equal(mmu_fill(&f->cpu, 0x1000, MMU_WRITE), SOFT_OK);
    assert_int_equal(mmu_fill(&f->cpu, 0x7000, MMU_READ), SOFT_SLOW);
    allow_fetch(f, 0x1000);
    mmu_maintain(&f->cpu); /* nothing to do */
    assert_false(changed(f));
    mmu_flush_page(&f->cpu, 0x1000);
    assert_true(changed(f));
    assert_int_equal(mmu_fill(&f->cpu, 0x1000, MMU_WRITE), SOFT_OK);
    assert_false(changed(f));
    smc_protect(&f->cpu, DATA);
    assert_false(table_entry(f, false, true, 0x1000));
    assert_true(changed(f));

    build(f, PAGING_4LEVEL, 2, 0x400000, MIB(4), all, all);
    assert_int_equal(mmu_fill(&f->cpu, 0x400000, MMU_READ), SOFT_OK);
    assert_false(changed(f));
    mmu_flush_page(&f->cpu, 0x401000);
    assert_true(changed(f));
    build(f, PAGING_4LEVEL, 3, 0x40000000, 0, all, all);
    assert_int_equal(mmu_fill(&f->cpu, 0x40000000, MMU_READ), SOFT_OK);
    assert_false(changed(f));
    mmu_flush_page(&f->cpu, 0x40001000);
    assert_true(changed(f));
}

static void a_full_list_and_memory_given_back_are_counted(void **state)
{
    struct fixture *f = *state;
    unsigned i;

    map_everything(f);
    changed(f);
    for (i = 0; i < SHADOW_RECORDS - 1; i++)
        assert_int_equal(mmu_fill(&f->cpu, (gva_t)i << 12, MMU_READ), SOFT_OK);
    assert_false(changed(f));
    assert_int_equal(mmu_fill(&f->cpu, (gva_t)i << 12, MMU_READ), SOFT_OK);
    assert_int_equal(table_entry(f, false, false, 0), 0);
    assert_true(changed(f));
    for (i = 0; !atomic_load(&f->cpu.attention); i++)
        mmu_fill(&f->cpu, i * MIB(2), MMU_READ);
    changed(f);
    mmu_maintain(&f->cpu);
    assert_true(changed(f));
}

/* A random history: no entry may ever outlive what flushes promise, and no code page may be writable. */
static void random_histories_keep_the_invariants(void **state)
{
    struct fixture *f = *state;
    uint64_t seed = 88172645463325252ULL;

    start_long(f);
    for (unsigned i = 0; i < 64; i++)
        map_long(f, i * PAGE_SIZE, DATA + i * PAGE_SIZE, PTE_P | PTE_W | PTE_U);
    for (unsigned round = 0; round < 20000; round++) {
        gva_t gva;
        gpa_t page;

        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        gva = (seed >> 8 & 63) * PAGE_SIZE;
        page = DATA + (seed >> 16 & 63) * PAGE_SIZE;
        f->cpu.cpl = seed & BIT(40) ? 3 : 0;
        switch (seed % 8) {
        case 0: /* remap, as an OS does it */
            map_long(f, gva, page, PTE_P | PTE_W | PTE_U | (seed & BIT(41) ? PTE_G : 0) | (seed & BIT(42) ? PTE_D : 0));
            mmu_flush_page(&f->cpu, gva);
            break;
        case 1: smc_protect(&f->cpu, page); break;
        case 2:
            smc_written(&f->svm, page, 1, SMC_GUEST);
            if (seed & BIT(45))
                smc_service(&f->cpu);
            break;
        case 3:
            if (seed & BIT(43))
                mmu_flush_nonglobal(&f->cpu);
            break;
        default: mmu_fill(&f->cpu, gva, seed & BIT(44) ? MMU_WRITE : MMU_READ);
        }
        if (round % 16)
            continue;
        for (gva = 0; gva < 64 * PAGE_SIZE; gva += PAGE_SIZE) {
            gpa_t mapped = entry_get(f, PAGING_4LEVEL, 1, gva) & PTE_ADDR;

            for (unsigned i = 0; i < 4; i++) {
                uint64_t addend = table_entry(f, i & 1, i & 2, gva);

                if (addend)
                    assert_ptr_equal((uint8_t *)(uintptr_t)(addend + gva), ram(f, mapped));
                if (addend && (i & 2))
                    assert_false(smc_has_code(&f->svm, mapped));
            }
        }
    }
}

#define MMU_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MMU_TEST(a_fill_makes_the_entry_an_addend),
        MMU_TEST(nothing_but_plain_ram_is_filled),
        MMU_TEST(the_apic_page_hides_ram),
        MMU_TEST(flushes_spare_global_entries_as_they_must),
        MMU_TEST(invlpg_takes_the_whole_large_page),
        MMU_TEST(invlpg_takes_both_halves_of_a_4m_page),
        MMU_TEST(protecting_a_page_revokes_every_write_entry),
        MMU_TEST(writing_to_a_code_page_drops_its_code_once),
        MMU_TEST(a_written_range_drops_the_code_of_all_its_pages),
        MMU_TEST(more_stale_pages_than_the_list_holds_are_all_dropped),
        MMU_TEST(a_stale_page_is_neither_written_directly_nor_translated),
        MMU_TEST(sparse_tables_are_given_back),
        MMU_TEST(tables_that_were_only_looked_at_are_given_back_too),
        MMU_TEST(looks_that_fault_count_too),
        MMU_TEST(a_full_list_is_flushed_and_still_revocable),
        MMU_TEST(code_may_be_jumped_to_where_it_was_asked_for),
        MMU_TEST(flushes_forbid_fetches),
        MMU_TEST(invlpg_forbids_fetches_of_the_page),
        MMU_TEST(invlpg_forbids_fetches_of_the_whole_large_page),
        MMU_TEST(a_full_list_of_fetches_is_flushed),
        MMU_TEST(fetch_tables_are_given_back_too),
        cmocka_unit_test(the_tables_know_large_pages_of_fetches_alone),
        MMU_TEST(whatever_takes_entries_away_is_counted),
        MMU_TEST(a_full_list_and_memory_given_back_are_counted),
        MMU_TEST(random_histories_keep_the_invariants),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
