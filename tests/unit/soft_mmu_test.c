/* Reads, writes and fetches of linear memory: page crossings, wrapping, devices, ROM, the APIC page, the fetch cache. */
#include "soft_paging.h"

/* --- reading and writing --- */

static void accesses_cross_pages(void **state)
{
    struct fixture *f = *state;
    uint8_t out[4096], in[4096];

    start_long(f);
    map_long(f, 0x1000, DATA + 0x5000, PTE_P | PTE_W);
    map_long(f, 0x2000, DATA + 0x1000, PTE_P | PTE_W);
    for (unsigned i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i * 7 + 3);
    for (unsigned n = 1; n < 70; n++)
        for (unsigned start = 0; start < 70; start++) {
            assert_int_equal(mmu_write(&f->cpu, 0x1fc0 + start, out + n, n, MMU_WRITE), SOFT_OK);
            assert_int_equal(mmu_read(&f->cpu, 0x1fc0 + start, in, n, MMU_READ), SOFT_OK);
            assert_memory_equal(in, out + n, n);
        }
    assert_int_equal(mmu_write(&f->cpu, 0x1800, out, 4096, MMU_WRITE), SOFT_OK);
    assert_memory_equal(ram(f, DATA + 0x5800), out, 0x800);
    assert_memory_equal(ram(f, DATA + 0x1000), out + 0x800, 0x800);
}

static void a_write_that_faults_on_its_second_page_writes_nothing(void **state)
{
    struct fixture *f = *state;
    uint64_t value = UINT64_MAX;

    start_long(f);
    map_long(f, 0x1000, DATA, PTE_P | PTE_W);
    map_long(f, 0x2000, DATA + 0x1000, PTE_P);
    assert_int_equal(mmu_write(&f->cpu, 0x1ffc, &value, 8, MMU_WRITE), SOFT_FAULT);
    assert_int_equal(f->cpu.exc.cr2, 0x2000);
    assert_int_equal(f->cpu.exc.error, PF_PRESENT | PF_WRITE);
    assert_int_equal(get64(f, DATA + 0xff8), 0);
}

static void accesses_end_where_the_canonical_addresses_do(void **state)
{
    const gva_t low = 0x7ffffffff000, high = 0xffff800000000000; /* neighbours in the tables, which know 48 bits */
    struct fixture *f = *state;
    uint64_t value[2] = {1, 2};
    void *hva;

    start_long(f);
    map_long(f, low, DATA, PTE_P | PTE_W);
    map_long(f, high, DATA + 0x1000, PTE_P | PTE_W);
    assert_int_equal(mmu_write(&f->cpu, high, value, 16, MMU_WRITE), SOFT_OK);
    assert_int_equal(mmu_read(&f->cpu, low + 0xff8, value, 16, MMU_READ | MMU_SUPERVISOR), SOFT_FAULT);
    assert_int_equal(f->cpu.exc.vector, EXC_GP);
    assert_int_equal(mmu_write(&f->cpu, low + 0xff8, value, 16, MMU_WRITE), SOFT_FAULT);
    assert_int_equal(f->cpu.exc.vector, EXC_GP);
    assert_int_equal(mmu_host(&f->cpu, low + 0x1000, 8, MMU_READ, &hva), SOFT_FAULT);
    assert_int_equal(get64(f, DATA + 0xff8), 0);
}

static void linear_addresses_wrap_outside_64_bit_code(void **state)
{
    struct fixture *f = *state;
    uint64_t value = 0x1122334455667788ULL;

    set_mode(f, PAGING_32);
    build(f, PAGING_32, 1, 0xfffff000, DATA, PTE_P | PTE_W, PTE_P | PTE_W);
    build(f, PAGING_32, 1, 0, DATA + 0x1000, PTE_P | PTE_W, PTE_P | PTE_W);
    entry_put(f, PAGING_32, 1, 0xfffff000, DATA | PTE_P | PTE_W);
    assert_int_equal(mmu_write(&f->cpu, 0xfffffffc, &value, 8, MMU_WRITE), SOFT_OK);
    assert_int_equal(get64(f, DATA + 0xff8) >> 32, 0x55667788);
    assert_int_equal(get64(f, DATA + 0x1000), 0x11223344);
    set_mode(f, PAGING_NONE);
    mmu_flush_all(&f->cpu);
    assert_int_equal(mmu_write(&f->cpu, 0xfffffffc, &value, 8, MMU_WRITE), SOFT_OK); /* its first half is ROM */
    assert_int_equal(get64(f, 0), 0x11223344);
}

static void mmio_is_split_naturally(void **state)
{
    struct fixture *f = *state;
    uint8_t buf[32] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

    start_long(f);
    map_long(f, 0x1000, HOLE_GPA, PTE_P | PTE_W);
    f->cpu.vec_live = true;
    assert_int_equal(mmu_write(&f->cpu, 0x1003, buf, 14, MMU_WRITE), SOFT_OK);
    assert_false(f->cpu.vec_live);
    assert_int_equal(seen.io_count, 4); /* 3:1 4:4 8:8 16:1 */
    assert_int_equal(seen.io[0].gpa, HOLE_GPA + 3);
    assert_int_equal(seen.io[0].size, 1);
    assert_int_equal(seen.io[1].size, 4);
    assert_int_equal(seen.io[1].value, 0x05040302);
    assert_int_equal(seen.io[2].gpa, HOLE_GPA + 8);
    assert_int_equal(seen.io[2].size, 8);
    assert_int_equal(seen.io[3].size, 1);
    assert_int_equal(seen.io[3].value, 14);
    seen.io_count = 0;
    assert_int_equal(mmu_read(&f->cpu, 0x1000, buf, 4, MMU_READ), SOFT_OK);
    assert_int_equal(seen.io_count, 1);
    assert_int_equal(seen.io[0].size, 4);
    assert_memory_equal(buf, "\x11\x22\x33\x44\x05", 5);
}

static void rom_reads_as_memory_and_its_writes_go_to_the_bus(void **state)
{
    struct fixture *f = *state;
    uint32_t value = 0x12345678;
    void *hva;

    set_mode(f, PAGING_NONE);
    f->mem.regions[1].hva[0xff0] = 0xea;
    assert_int_equal(mmu_write(&f->cpu, 0xfffffff0, &value, 4, MMU_WRITE), SOFT_OK);
    assert_int_equal(seen.io_count, 1);
    assert_int_equal(seen.io[0].gpa, 0xfffffff0);
    assert_int_equal(mmu_read(&f->cpu, 0xfffffff0, &value, 1, MMU_READ), SOFT_OK);
    assert_int_equal(value & 0xff, 0xea);
    assert_int_equal(mmu_host(&f->cpu, 0xfffffff0, 4, MMU_WRITE, &hva), SOFT_OK);
    assert_null(hva);
    assert_int_equal(mmu_host(&f->cpu, 0xfffffff0, 4, MMU_READ, &hva), SOFT_OK);
    assert_ptr_equal(hva, f->mem.regions[1].hva + 0xff0);
    assert_int_equal(mmu_host(&f->cpu, 0x1ffd, 4, MMU_READ, &hva), SOFT_OK);
    assert_null(hva); /* crosses a page */
}

static void apic_registers_are_32_bit(void **state)
{
    struct fixture *f = *state;
    uint64_t value = 0x1111111122222222ULL;
    uint8_t byte;

    set_mode(f, PAGING_NONE);
    assert_int_equal(mmu_write(&f->cpu, APIC_BASE_DEFAULT + 0x80, &value, 4, MMU_WRITE), SOFT_OK);
    assert_int_equal(seen.apic_off, 0x80);
    assert_int_equal(seen.apic_value, 0x22222222);
    assert_int_equal(mmu_read(&f->cpu, APIC_BASE_DEFAULT + 0x21, &byte, 1, MMU_READ), SOFT_OK);
    assert_int_equal(byte, 0xc3);
    assert_int_equal(mmu_read(&f->cpu, APIC_BASE_DEFAULT + 0x24, &value, 4, MMU_READ), SOFT_OK);
    assert_int_equal((uint32_t)value, 0);
    assert_int_equal(seen.io_count, 0);
}

/* --- the instruction side --- */

static void fetches_are_cached_until_a_flush(void **state)
{
    struct fixture *f = *state;
    const uint8_t *hva;
    uint64_t walks;
    gpa_t gpa;

    start_long(f);
    map_long(f, 0x1000, DATA, PTE_P);
    map_long(f, 0x2000, DATA, PTE_P | PTE_G);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(mmu_fetch(&f->cpu, 0x1010, &gpa, &hva), SOFT_OK);
        assert_int_equal(gpa, DATA + 0x10);
        assert_ptr_equal(hva, ram(f, DATA + 0x10));
        assert_int_equal(mmu_fetch(&f->cpu, 0x2010, &gpa, &hva), SOFT_OK);
    }
    assert_int_equal(f->cpu.stats.page_walks, 2);
    mmu_flush_nonglobal(&f->cpu);
    assert_int_equal(mmu_fetch(&f->cpu, 0x1010, &gpa, &hva), SOFT_OK);
    assert_int_equal(mmu_fetch(&f->cpu, 0x2010, &gpa, &hva), SOFT_OK);
    assert_int_equal(f->cpu.stats.page_walks, 3);
    mmu_flush_page(&f->cpu, 0x2000);
    mmu_fetch(&f->cpu, 0x2010, &gpa, &hva);
    assert_int_equal(f->cpu.stats.page_walks, 4);
    mmu_flush_all(&f->cpu);
    mmu_fetch(&f->cpu, 0x2010, &gpa, &hva);
    assert_int_equal(f->cpu.stats.page_walks, 5);
    f->cpu.cpl = 3;
    walks = f->cpu.stats.page_walks;
    assert_int_equal(mmu_fetch(&f->cpu, 0x2010, &gpa, &hva), SOFT_FAULT);
    assert_int_equal(f->cpu.exc.error, PF_PRESENT | PF_USER | PF_FETCH);
    assert_int_equal(f->cpu.stats.page_walks, walks + 1);
}

static void invlpg_of_a_large_page_empties_the_fetch_cache(void **state)
{
    struct fixture *f = *state;
    const uint8_t *hva;
    gpa_t gpa;

    start_long(f);
    build(f, PAGING_4LEVEL, 2, 0x400000, MIB(4), PTE_P | PTE_W, PTE_P | PTE_W);
    assert_int_equal(mmu_fetch(&f->cpu, 0x407000, &gpa, &hva), SOFT_OK);
    build(f, PAGING_4LEVEL, 2, 0x400000, MIB(6), PTE_P | PTE_W, PTE_P | PTE_W);
    mmu_flush_page(&f->cpu, 0x400000);
    assert_int_equal(mmu_fetch(&f->cpu, 0x407000, &gpa, &hva), SOFT_OK);
    assert_int_equal(gpa, MIB(6) + 0x7000);
}

/* When memory goes back to the kernel, so does what was known of large pages. */
static void invlpg_of_a_large_page_does_so_after_tables_were_given_back(void **state)
{
    struct fixture *f = *state;
    const uint8_t *hva;
    gpa_t gpa;

    start_long(f);
    build(f, PAGING_4LEVEL, 2, 0x400000, MIB(4), PTE_P | PTE_W, PTE_P | PTE_W);
    assert_int_equal(mmu_fetch(&f->cpu, 0x407000, &gpa, &hva), SOFT_OK);
    for (unsigned i = 0; !atomic_load(&f->cpu.attention); i++)
        assert_int_equal(mmu_fill(&f->cpu, GIB(1) + i * MIB(2), MMU_READ), SOFT_SLOW); /* nothing is there */
    mmu_maintain(&f->cpu);
    build(f, PAGING_4LEVEL, 2, 0x400000, MIB(6), PTE_P | PTE_W, PTE_P | PTE_W);
    mmu_flush_page(&f->cpu, 0x400000);
    assert_int_equal(mmu_fetch(&f->cpu, 0x407000, &gpa, &hva), SOFT_OK);
    assert_int_equal(gpa, MIB(6) + 0x7000);
}

static void code_outside_memory_has_no_host_address(void **state)
{
    struct fixture *f = *state;
    const uint8_t *hva;
    gpa_t gpa;

    set_mode(f, PAGING_NONE);
    assert_int_equal(mmu_fetch(&f->cpu, HOLE_GPA + 5, &gpa, &hva), SOFT_OK);
    assert_int_equal(gpa, HOLE_GPA + 5);
    assert_null(hva);
}

#define MMU_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MMU_TEST(accesses_cross_pages),
        MMU_TEST(a_write_that_faults_on_its_second_page_writes_nothing),
        MMU_TEST(accesses_end_where_the_canonical_addresses_do),
        MMU_TEST(linear_addresses_wrap_outside_64_bit_code),
        MMU_TEST(mmio_is_split_naturally),
        MMU_TEST(rom_reads_as_memory_and_its_writes_go_to_the_bus),
        MMU_TEST(apic_registers_are_32_bit),
        MMU_TEST(fetches_are_cached_until_a_flush),
        MMU_TEST(invlpg_of_a_large_page_empties_the_fetch_cache),
        MMU_TEST(invlpg_of_a_large_page_does_so_after_tables_were_given_back),
        MMU_TEST(code_outside_memory_has_no_host_address),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
