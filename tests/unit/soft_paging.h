/* A vCPU with an MMU over 16 MiB of memory and a page of ROM, and page tables to put there. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "engine/soft/cache.h"
#include "engine/soft/lapic.h"
#include "engine/soft/lockstep.h"
#include "engine/soft/mmu.h"
#include "engine/soft/shadow.h"
#include "engine/soft/smc.h"
#include "x86/paging.h"

#define RAM_SIZE MIB(16)
#define ROM_GPA 0xfffff000ULL
#define HOLE_GPA 0xd0000000ULL

/* Where the tables of the tests lie. */
#define T4 0x1000ULL
#define T3 0x2000ULL
#define T2 0x3000ULL
#define T1 0x4000ULL
#define DATA 0x200000ULL /* a 2 MiB boundary */

struct fixture {
    struct vm vm;
    struct mem mem;
    struct soft_vm svm;
    struct vcpu vcpu;
    struct soft_cpu cpu;
    struct jump_cache jump[JUMP_CACHES]; /* never used, and so nothing to forget */
};

static struct {
    gpa_t dropped[64];
    unsigned drop_count;
    struct {
        gpa_t gpa;
        unsigned size;
        bool write;
        uint64_t value;
    } io[64];
    unsigned io_count;
    unsigned apic_off;
    uint32_t apic_value;
    unsigned apic_count;
} seen;

/* --- what the rest of Umbra would do --- */

void soft_vec_park(struct soft_cpu *cpu)
{
    cpu->vec_live = false;
}

void cache_drop_page(struct soft_vm *svm, gpa_t page)
{
    (void)svm;
    seen.dropped[seen.drop_count++ % 64] = page;
}

void lockstep_note(struct soft_cpu *cpu, uint8_t *hva, unsigned n)
{
    (void)cpu;
    (void)hva;
    (void)n;
}

uint64_t vcpu_mmio_read(struct vcpu *vcpu, gpa_t gpa, unsigned size)
{
    (void)vcpu;
    seen.io[seen.io_count].gpa = gpa;
    seen.io[seen.io_count].size = size;
    seen.io[seen.io_count++].write = false;
    return 0x8877665544332211ULL;
}

void vcpu_mmio_write(struct vcpu *vcpu, gpa_t gpa, unsigned size, uint64_t value)
{
    (void)vcpu;
    seen.io[seen.io_count].gpa = gpa;
    seen.io[seen.io_count].size = size;
    seen.io[seen.io_count].value = value;
    seen.io[seen.io_count++].write = true;
}

uint32_t lapic_mmio_read(struct soft_cpu *cpu, unsigned off)
{
    (void)cpu;
    seen.apic_off = off;
    seen.apic_count++;
    return 0xa1b2c3d4;
}

void lapic_mmio_write(struct soft_cpu *cpu, unsigned off, uint32_t value)
{
    (void)cpu;
    seen.apic_off = off;
    seen.apic_value = value;
    seen.apic_count++;
}

/* --- the fixture --- */

static inline void *map_pages(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(p != MAP_FAILED);
    return p;
}

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    f->mem.region_count = 2;
    f->mem.regions[0] = (struct mem_region){.gpa = 0, .size = RAM_SIZE, .hva = map_pages(RAM_SIZE)};
    f->mem.regions[1] = (struct mem_region){
        .gpa = ROM_GPA, .size = PAGE_SIZE, .hva = map_pages(PAGE_SIZE), .flags = MEM_READONLY, .first_page = RAM_SIZE / PAGE_SIZE};
    f->mem.page_count = RAM_SIZE / PAGE_SIZE + 1;
    f->svm.vm = &f->vm;
    f->svm.mem = &f->mem;
    f->svm.cpu_count = 1;
    f->svm.cpus[0] = &f->cpu;
    f->vcpu.vm = &f->vm;
    f->cpu.svm = &f->svm;
    f->cpu.vcpu = &f->vcpu;
    f->cpu.jump = f->jump;
    f->cpu.apic_base = APIC_BASE_DEFAULT | APIC_BASE_ENABLE;
    assert_int_equal(smc_init(&f->svm, &e), 0);
    assert_int_equal(mmu_init(&f->cpu, &e), 0);
    memset(&seen, 0, sizeof(seen));
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;

    mmu_fini(&f->cpu);
    smc_fini(&f->svm);
    munmap(f->mem.regions[0].hva, f->mem.regions[0].size);
    munmap(f->mem.regions[1].hva, f->mem.regions[1].size);
    free(f);
    return 0;
}

static inline uint8_t *ram(struct fixture *f, gpa_t gpa)
{
    return f->mem.regions[0].hva + gpa;
}

static inline uint64_t get64(struct fixture *f, gpa_t gpa)
{
    uint64_t v;

    memcpy(&v, ram(f, gpa), 8);
    return v;
}

static inline void put64(struct fixture *f, gpa_t gpa, uint64_t value)
{
    memcpy(ram(f, gpa), &value, 8);
}

static inline void set_mode(struct fixture *f, enum paging_mode mode)
{
    f->cpu.cr0 = CR0_PE | (mode == PAGING_NONE ? 0 : CR0_PG);
    f->cpu.cr4 = mode == PAGING_PAE || mode == PAGING_4LEVEL ? CR4_PAE : CR4_PSE;
    f->cpu.efer = mode == PAGING_4LEVEL ? EFER_LME | EFER_LMA : 0;
    f->cpu.long_mode = mode == PAGING_4LEVEL;
    f->cpu.code_bits = mode == PAGING_4LEVEL ? 64 : 32;
    f->cpu.protected_mode = true;
}

static inline gpa_t table_of(unsigned level)
{
    return level == 4 ? T4 : level == 3 ? T3 : level == 2 ? T2 : T1;
}

static inline gpa_t entry_gpa(enum paging_mode mode, unsigned level, gva_t gva)
{
    return table_of(level) + (uint64_t)paging_index(mode, level, gva) * (mode == PAGING_32 ? 4 : 8);
}

static inline uint64_t entry_get(struct fixture *f, enum paging_mode mode, unsigned level, gva_t gva)
{
    uint64_t v = 0;

    memcpy(&v, ram(f, entry_gpa(mode, level, gva)), mode == PAGING_32 ? 4 : 8);
    return v;
}

static inline void entry_put(struct fixture *f, enum paging_mode mode, unsigned level, gva_t gva, uint64_t value)
{
    memcpy(ram(f, entry_gpa(mode, level, gva)), &value, mode == PAGING_32 ? 4 : 8);
}

/*
 * Maps gva by a page of leaf_level at page. upper goes into every entry above the leaf (PDPTEs of PAE get P
 * alone).
 */
static inline void build(struct fixture *f, enum paging_mode mode, unsigned leaf_level, gva_t gva, gpa_t page, uint64_t upper,
                         uint64_t leaf)
{
    unsigned top = mode == PAGING_4LEVEL ? 4 : mode == PAGING_PAE ? 3 : 2;

    for (unsigned level = top; level > leaf_level; level--) {
        uint64_t flags = mode == PAGING_PAE && level == 3 ? PTE_P : upper;

        entry_put(f, mode, level, gva, table_of(level - 1) | flags);
    }
    entry_put(f, mode, leaf_level, gva, page | leaf | (leaf_level > 1 ? PTE_PS : 0));
    f->cpu.cr3 = table_of(top);
}

static inline void map_long(struct fixture *f, gva_t gva, gpa_t page, uint64_t leaf)
{
    build(f, PAGING_4LEVEL, 1, gva, page, PTE_P | PTE_W | PTE_U, leaf);
}

static inline void start_long(struct fixture *f)
{
    set_mode(f, PAGING_4LEVEL);
    f->cpu.cr0 |= CR0_WP;
    f->cpu.cr4 |= CR4_PGE;
    f->cpu.efer |= EFER_NXE;
}

static inline uint64_t table_entry(struct fixture *f, bool user, bool write, gva_t gva)
{
    return mmu_table(&f->cpu, user)[(write ? MMU_TABLE_ENTRIES : 0) + (gva >> 12 & (BIT(36) - 1))];
}

/* What jumps of translated code look at: the number of the page that may be executed at gva, and 1. */
static inline uint32_t fetch_table_entry(struct fixture *f, bool user, gva_t gva)
{
    const uint32_t *tables = (const uint32_t *)(const void *)mmu_table(&f->cpu, true);

    return tables[mmu_fetch_distance(&f->cpu, user) + (gva >> 12 & (BIT(36) - 1))];
}

/* As the run loop does for a block at gva. */
static inline void allow_fetch(struct fixture *f, gva_t gva)
{
    const uint8_t *hva;
    gpa_t gpa;

    assert_int_equal(mmu_fetch(&f->cpu, gva, &gpa, &hva), SOFT_OK);
    assert_true(mmu_allow_fetch(&f->cpu, gva));
}
