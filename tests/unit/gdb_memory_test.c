/* The debugger's walk of page tables: every paging mode, every page size, and what is mapped to nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "gdb/memory.h"
#include "x86/paging.h"

static struct mem mem;
static struct cpu_state cpu;

static int setup(void **state)
{
    (void)state;
    memset(&cpu, 0, sizeof(cpu));
    return mem_init(&mem, MIB(4), false, NULL);
}

static int teardown(void **state)
{
    (void)state;
    mem_fini(&mem);
    return 0;
}

static void put(gpa_t table, unsigned index, uint64_t entry, unsigned size)
{
    assert_int_equal(mem_write(&mem, table + index * size, &entry, size), 0);
}

static void maps(gva_t gva, gpa_t gpa, unsigned shift)
{
    struct gdb_mapping m;

    assert_int_equal(gdb_translate(&cpu, &mem, gva, &m), 0);
    assert_int_equal(m.gpa, gpa);
    assert_int_equal(m.shift, shift);
}

static void maps_not(gva_t gva)
{
    struct gdb_mapping m;

    assert_int_equal(gdb_translate(&cpu, &mem, gva, &m), -EFAULT);
}

static void without_paging_addresses_are_physical(void **state)
{
    (void)state;
    maps(0x12345, 0x12345, 12);
    cpu.cr0 = CR0_PE;
    maps(0xfffffff0, 0xfffffff0, 12);
    maps_not(0x100000000);
}

static void two_levels(void **state)
{
    (void)state;
    cpu.cr0 = CR0_PE | CR0_PG;
    cpu.cr3 = 0x1000;
    put(0x1000, 0x300, 0x2000 | PTE_P, 4);
    put(0x2000, 5, 0xabc000 | PTE_P, 4);
    put(0x1000, 0x301, 0x00c00000 | PTE_P | PTE_PS, 4);
    maps(0xc0005123, 0xabc123, 12);
    maps_not(0xc0006123);
    maps_not(0x5123);
    maps_not(0xffffffffc0005123);
    cpu.cr4 = CR4_PSE;
    maps(0xc0523456, 0xd23456, 22);
}

static void pae(void **state)
{
    (void)state;
    cpu.cr0 = CR0_PE | CR0_PG;
    cpu.cr4 = CR4_PAE;
    cpu.cr3 = 0x1020;
    put(0x1020, 3, 0x2000 | PTE_P, 8);
    put(0x2000, 1, 0x3000 | PTE_P, 8);
    put(0x2000, 2, 0x600000 | PTE_P | PTE_PS | PTE_NX, 8);
    put(0x3000, 7, 0x123456000 | PTE_P | PTE_NX, 8);
    maps(0xc0207abc, 0x123456abc, 12);
    maps(0xc0412345, 0x612345, 21);
    maps_not(0x40207abc);
}

static void four_levels_and_five(void **state)
{
    (void)state;
    cpu.cr0 = CR0_PE | CR0_PG;
    cpu.cr4 = CR4_PAE;
    cpu.efer = EFER_LME | EFER_LMA;
    cpu.cr3 = 0x1fff; /* PCID bits do not count */
    put(0x1000, 511, 0x2000 | PTE_P, 8);
    put(0x2000, 510, 0x3000 | PTE_P, 8);
    put(0x2000, 511, 0x40000000 | PTE_P | PTE_PS, 8);
    put(0x3000, 8, 0x4000 | PTE_P, 8);                      /* user bit or not, writable or not: a debugger may */
    put(0x3000, 9, 0x800000 | PTE_P | PTE_PS | BIT(12), 8); /* PAT is no address */
    put(0x4000, 1, 0x5000 | PTE_P | PTE_NX, 8);
    maps(0xffffffff81001234, 0x5234, 12);
    maps(0xffffffff81234567, 0x834567, 21);
    maps(0xffffffffc1234567, 0x41234567, 30);
    maps_not(0xffffffff81002000);
    maps_not(0x0000ffff81001234); /* not canonical */
    maps_not(0x1234);
    cpu.cr4 |= CR4_LA57;
    cpu.cr3 = 0x6000;
    put(0x6000, 511, 0x1000 | PTE_P, 8);
    maps(0xffffffff81001234, 0x5234, 12);
    maps_not(0x00ff000000000000);
}

static void tables_outside_of_memory_map_nothing(void **state)
{
    (void)state;
    cpu.cr0 = CR0_PE | CR0_PG;
    cpu.cr4 = CR4_PAE;
    cpu.efer = EFER_LME | EFER_LMA;
    cpu.cr3 = 0x80000000000;
    maps_not(0x1000);
    cpu.cr3 = 0x1000;
    put(0x1000, 0, 0xffffffffff000 | PTE_P, 8);
    maps_not(0x1000);
    put(0x1000, 0, 0x1000 | PTE_P, 8); /* a table in itself ends where there are no more levels */
    maps(0, 0x1000, 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(without_paging_addresses_are_physical, setup, teardown),
        cmocka_unit_test_setup_teardown(two_levels, setup, teardown),
        cmocka_unit_test_setup_teardown(pae, setup, teardown),
        cmocka_unit_test_setup_teardown(four_levels_and_five, setup, teardown),
        cmocka_unit_test_setup_teardown(tables_outside_of_memory_map_nothing, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
