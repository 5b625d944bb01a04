/* Guest paging and shadow tables against a naive model written from SDM vol. 3 chapter 4. */
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

void jump_flush_all(struct soft_cpu *cpu)
{
    (void)cpu;
}

void jump_flush_nonglobal(struct soft_cpu *cpu)
{
    (void)cpu;
}

void jump_flush_page(struct soft_cpu *cpu, gva_t gva)
{
    (void)cpu;
    (void)gva;
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

static void *map_pages(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(p != MAP_FAILED);
    return p;
}

static int setup(void **state)
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
    f->cpu.apic_base = APIC_BASE_DEFAULT | APIC_BASE_ENABLE;
    assert_int_equal(smc_init(&f->svm, &e), 0);
    assert_int_equal(mmu_init(&f->cpu, &e), 0);
    memset(&seen, 0, sizeof(seen));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    mmu_fini(&f->cpu);
    smc_fini(&f->svm);
    munmap(f->mem.regions[0].hva, f->mem.regions[0].size);
    munmap(f->mem.regions[1].hva, f->mem.regions[1].size);
    free(f);
    return 0;
}

static uint8_t *ram(struct fixture *f, gpa_t gpa)
{
    return f->mem.regions[0].hva + gpa;
}

static uint64_t get64(struct fixture *f, gpa_t gpa)
{
    uint64_t v;

    memcpy(&v, ram(f, gpa), 8);
    return v;
}

static void put64(struct fixture *f, gpa_t gpa, uint64_t value)
{
    memcpy(ram(f, gpa), &value, 8);
}

static void set_mode(struct fixture *f, enum paging_mode mode)
{
    f->cpu.cr0 = CR0_PE | (mode == PAGING_NONE ? 0 : CR0_PG);
    f->cpu.cr4 = mode == PAGING_PAE || mode == PAGING_4LEVEL ? CR4_PAE : CR4_PSE;
    f->cpu.efer = mode == PAGING_4LEVEL ? EFER_LME | EFER_LMA : 0;
    f->cpu.long_mode = mode == PAGING_4LEVEL;
    f->cpu.code_bits = mode == PAGING_4LEVEL ? 64 : 32;
    f->cpu.protected_mode = true;
}

static gpa_t table_of(unsigned level)
{
    return level == 4 ? T4 : level == 3 ? T3 : level == 2 ? T2 : T1;
}

static gpa_t entry_gpa(enum paging_mode mode, unsigned level, gva_t gva)
{
    return table_of(level) + (uint64_t)paging_index(mode, level, gva) * (mode == PAGING_32 ? 4 : 8);
}

static uint64_t entry_get(struct fixture *f, enum paging_mode mode, unsigned level, gva_t gva)
{
    uint64_t v = 0;

    memcpy(&v, ram(f, entry_gpa(mode, level, gva)), mode == PAGING_32 ? 4 : 8);
    return v;
}

static void entry_put(struct fixture *f, enum paging_mode mode, unsigned level, gva_t gva, uint64_t value)
{
    memcpy(ram(f, entry_gpa(mode, level, gva)), &value, mode == PAGING_32 ? 4 : 8);
}

/*
 * Maps gva by a page of leaf_level at page. upper goes into every entry above the leaf (PDPTEs of PAE get P
 * alone).
 */
static void build(struct fixture *f, enum paging_mode mode, unsigned leaf_level, gva_t gva, gpa_t page, uint64_t upper, uint64_t leaf)
{
    unsigned top = mode == PAGING_4LEVEL ? 4 : mode == PAGING_PAE ? 3 : 2;

    for (unsigned level = top; level > leaf_level; level--) {
        uint64_t flags = mode == PAGING_PAE && level == 3 ? PTE_P : upper;

        entry_put(f, mode, level, gva, table_of(level - 1) | flags);
    }
    entry_put(f, mode, leaf_level, gva, page | leaf | (leaf_level > 1 ? PTE_PS : 0));
    f->cpu.cr3 = table_of(top);
}

static void map_long(struct fixture *f, gva_t gva, gpa_t page, uint64_t leaf)
{
    build(f, PAGING_4LEVEL, 1, gva, page, PTE_P | PTE_W | PTE_U, leaf);
}

static void start_long(struct fixture *f)
{
    set_mode(f, PAGING_4LEVEL);
    f->cpu.cr0 |= CR0_WP;
    f->cpu.cr4 |= CR4_PGE;
    f->cpu.efer |= EFER_NXE;
}

static uint64_t table_entry(struct fixture *f, bool user, bool write, gva_t gva)
{
    return mmu_table(&f->cpu, user)[(write ? MMU_TABLE_ENTRIES : 0) + (gva >> 12 & (BIT(36) - 1))];
}

/* --- permissions --- */

struct question {
    enum paging_mode mode;
    uint64_t upper, leaf; /* flags of entries */
    bool has_upper;       /* the upper flags are on some level */
    bool wp, smep, nxe, user, write, fetch;
};

/* What SDM vol. 3 4.6.1 and 4.7 say, sentence by sentence. Returns true when allowed, else the error code. */
static bool model(const struct question *q, uint32_t *error)
{
    bool user_address, rw_everywhere, xd_somewhere, allowed;
    bool can_xd = q->mode == PAGING_PAE || q->mode == PAGING_4LEVEL;
    uint32_t base = (q->write ? 2 : 0) | (q->user ? 4 : 0);

    if (q->fetch && (q->smep || (can_xd && q->nxe)))
        base |= 16;
    if (q->has_upper) {
        if (!(q->upper & 1)) {
            *error = base;
            return false;
        }
        if (can_xd && !q->nxe && q->upper >> 63) {
            *error = base | 1 | 8;
            return false;
        }
    }
    if (!(q->leaf & 1)) {
        *error = base;
        return false;
    }
    if (can_xd && !q->nxe && q->leaf >> 63) {
        *error = base | 1 | 8;
        return false;
    }
    user_address = (q->leaf & 4) && (!q->has_upper || (q->upper & 4));
    rw_everywhere = (q->leaf & 2) && (!q->has_upper || (q->upper & 2));
    xd_somewhere = can_xd && (q->leaf >> 63 || (q->has_upper && q->upper >> 63));
    if (!q->user) {
        if (q->fetch)
            allowed = !xd_somewhere && !(user_address && q->smep);
        else if (q->write)
            allowed = !q->wp || rw_everywhere;
        else
            allowed = true;
    } else {
        if (q->fetch)
            allowed = user_address && !xd_somewhere;
        else if (q->write)
            allowed = user_address && rw_everywhere;
        else
            allowed = user_address;
    }
    *error = base | 1;
    return allowed;
}

static void ask(struct fixture *f, struct question *q, unsigned leaf_level, gva_t gva)
{
    unsigned access = q->fetch ? MMU_FETCH : q->write ? MMU_WRITE : MMU_READ;
    unsigned top = q->mode == PAGING_4LEVEL ? 4 : q->mode == PAGING_PAE ? 3 : 2;
    unsigned last_with_flags = q->mode == PAGING_PAE ? 2 : top;
    struct mmu_target t = {0};
    uint32_t error = 0;
    bool allowed;
    int rc;

    build(f, q->mode, leaf_level, gva, leaf_level > 2 ? 0 : leaf_level == 2 ? MIB(4) : DATA, q->upper, q->leaf);
    q->has_upper = last_with_flags > leaf_level;
    set_mode(f, q->mode);
    f->cpu.cr0 |= q->wp ? CR0_WP : 0;
    f->cpu.cr4 |= q->smep ? CR4_SMEP : 0;
    f->cpu.efer |= q->nxe ? EFER_NXE : 0;
    f->cpu.cpl = q->user ? 3 : 0;

    allowed = model(q, &error);
    rc = mmu_translate(&f->cpu, gva, access, &t);
    if (allowed != (rc == SOFT_OK))
        fail_msg("mode %d level %u upper %llx leaf %llx wp %d smep %d nxe %d user %d write %d fetch %d: rc %d", q->mode, leaf_level,
                 (unsigned long long)q->upper, (unsigned long long)q->leaf, q->wp, q->smep, q->nxe, q->user, q->write, q->fetch, rc);
    if (!allowed) {
        assert_int_equal(f->cpu.exc.vector, EXC_PF);
        assert_true(f->cpu.exc.has_error);
        assert_int_equal(f->cpu.exc.error, error);
        assert_int_equal(f->cpu.exc.cr2, gva);
    }
    for (unsigned level = top; level >= leaf_level; level--) {
        uint64_t entry = entry_get(f, q->mode, level, gva);
        bool has_a = q->mode != PAGING_PAE || level != 3;

        assert_int_equal(!!(entry & PTE_A), allowed && has_a);
        assert_int_equal(!!(entry & PTE_D), allowed && level == leaf_level && q->write);
    }
    /* mmu_fill() must agree, and fill exactly what the model allows. */
    mmu_flush_all(&f->cpu);
    if (!q->fetch) {
        assert_int_equal(mmu_fill(&f->cpu, gva, access), allowed ? SOFT_OK : SOFT_SLOW);
        assert_int_equal(table_entry(f, q->user, false, gva) != 0, allowed);
        assert_int_equal(table_entry(f, q->user, true, gva) != 0, allowed && q->write);
        assert_int_equal(table_entry(f, !q->user, false, gva), 0);
    }
}

static void ask_all(struct fixture *f, enum paging_mode mode, unsigned leaf_level, gva_t gva)
{
    static const uint64_t flags[] = {0,
                                     PTE_P,
                                     PTE_P | PTE_W,
                                     PTE_P | PTE_U,
                                     PTE_P | PTE_W | PTE_U,
                                     PTE_P | PTE_NX,
                                     PTE_P | PTE_W | PTE_NX,
                                     PTE_P | PTE_U | PTE_NX,
                                     PTE_P | PTE_W | PTE_U | PTE_NX};
    unsigned count = mode == PAGING_32 ? 5 : 9;

    for (unsigned i = 0; i < count * count; i++)
        for (unsigned bits = 0; bits < 48; bits++) {
            struct question q = {.mode = mode,
                                 .upper = flags[i / count],
                                 .leaf = flags[i % count],
                                 .wp = bits & 1,
                                 .smep = bits & 2,
                                 .nxe = bits & 4,
                                 .user = bits & 8,
                                 .write = bits >> 4 == 1,
                                 .fetch = bits >> 4 == 2};

            ask(f, &q, leaf_level, gva);
        }
}

static void four_level_permissions_are_the_models(void **state)
{
    for (unsigned level = 1; level <= 3; level++)
        ask_all(*state, PAGING_4LEVEL, level, 0xffff888000123000ULL);
}

static void pae_permissions_are_the_models(void **state)
{
    for (unsigned level = 1; level <= 2; level++)
        ask_all(*state, PAGING_PAE, level, 0xc0123000);
}

static void two_level_permissions_are_the_models(void **state)
{
    for (unsigned level = 1; level <= 2; level++)
        ask_all(*state, PAGING_32, level, 0xc0123000);
}

/* --- addresses --- */

static void expect_gpa(struct fixture *f, gva_t gva, gpa_t gpa, bool large)
{
    struct mmu_target t;

    assert_int_equal(mmu_translate(&f->cpu, gva, MMU_READ, &t), SOFT_OK);
    assert_int_equal(t.gpa, gpa);
    assert_int_equal(t.large, large);
    assert_ptr_equal(t.hva, gpa < RAM_SIZE ? ram(f, gpa) : NULL);
}

static void every_page_size_gives_its_address(void **state)
{
    struct fixture *f = *state;
    uint64_t all = PTE_P | PTE_W | PTE_U;

    set_mode(f, PAGING_NONE);
    expect_gpa(f, 0x12345, 0x12345, false);
    set_mode(f, PAGING_4LEVEL);
    build(f, PAGING_4LEVEL, 1, 0x7fff12345678, 0x5000, all, all);
    expect_gpa(f, 0x7fff12345678, 0x5678, false);
    build(f, PAGING_4LEVEL, 2, 0x7fff12345678, MIB(2), all, all);
    expect_gpa(f, 0x7fff12345678, MIB(2) + 0x145678, true);
    build(f, PAGING_4LEVEL, 3, 0x7fff12345678, GIB(1) * 5, all, all);
    expect_gpa(f, 0x7fff12345678, GIB(1) * 5 + (0x7fff12345678 & (GIB(1) - 1)), true);
    set_mode(f, PAGING_PAE);
    build(f, PAGING_PAE, 1, 0x92345678, 0x5000, all, all);
    expect_gpa(f, 0x92345678, 0x5678, false);
    build(f, PAGING_PAE, 2, 0x92345678, MIB(4), all, all);
    expect_gpa(f, 0x92345678, MIB(4) + 0x145678, true);
    f->cpu.cr4 &= ~CR4_PSE; /* PAE does not ask for it */
    expect_gpa(f, 0x92345678, MIB(4) + 0x145678, true);
    set_mode(f, PAGING_32);
    build(f, PAGING_32, 1, 0x92345678, 0x5000, all, all);
    expect_gpa(f, 0x92345678, 0x5678, false);
    build(f, PAGING_32, 2, 0x92345678, MIB(8), all, all);
    expect_gpa(f, 0x92345678, MIB(8) + 0x345678, true);
}

static void without_pse_the_ps_bit_is_ignored(void **state)
{
    struct fixture *f = *state;
    uint64_t all = PTE_P | PTE_W | PTE_U;

    set_mode(f, PAGING_32);
    f->cpu.cr4 = 0;
    build(f, PAGING_32, 1, 0x92345678, 0x5000, all | PTE_PS, all);
    expect_gpa(f, 0x92345678, 0x5678, false);
}

static void pat_bits_are_not_part_of_the_address(void **state)
{
    struct fixture *f = *state;
    uint64_t all = PTE_P | PTE_W | PTE_U;

    set_mode(f, PAGING_4LEVEL);
    build(f, PAGING_4LEVEL, 2, 0x12345678, MIB(2) | BIT(12), all, all);
    expect_gpa(f, 0x12345678, MIB(2) + 0x145678, true);
    build(f, PAGING_4LEVEL, 1, 0x12345678, 0x5000, all, all | PTE_PS); /* bit 7 of a PTE is PAT */
    expect_gpa(f, 0x12345678, 0x5678, false);
}

/* --- reserved bits --- */

/* From the tables of SDM vol. 3 4.3 to 4.5. NXE is on. */
static bool is_reserved(enum paging_mode mode, unsigned level, unsigned leaf_level, unsigned bit)
{
    bool leaf = level == leaf_level;

    if (mode == PAGING_32)
        return leaf && level == 2 && bit >= 13 && bit <= 21;
    if (mode == PAGING_PAE && level == 3)
        return bit >= GUEST_PHYS_BITS || bit == 1 || bit == 2 || (bit >= 5 && bit <= 8);
    if (mode == PAGING_PAE && bit >= GUEST_PHYS_BITS && bit <= 62)
        return true;
    if (mode == PAGING_4LEVEL && bit >= GUEST_PHYS_BITS && bit <= 51)
        return true;
    if (mode == PAGING_4LEVEL && level == 4 && bit == 7)
        return true;
    if (leaf && level == 2)
        return bit >= 13 && bit <= 20;
    if (leaf && level == 3)
        return bit >= 13 && bit <= 29;
    return false;
}

static void check_reserved(struct fixture *f, enum paging_mode mode, unsigned leaf_level)
{
    unsigned top = mode == PAGING_4LEVEL ? 4 : mode == PAGING_PAE ? 3 : 2;
    gva_t gva = 0x40201000;
    uint64_t all = PTE_P | PTE_W | PTE_U;

    for (unsigned level = top; level >= leaf_level; level--)
        for (unsigned bit = 1; bit < (mode == PAGING_32 ? 32 : 64); bit++) {
            bool leaf = level == leaf_level, reserved = is_reserved(mode, level, leaf_level, bit);
            struct mmu_target t;
            int rc;

            /* Bits that change the walk when they are not reserved. */
            if (!reserved && ((bit >= 12 && bit < GUEST_PHYS_BITS && !leaf) || (bit == 7 && !leaf) || bit == 1 || bit == 2))
                continue;
            set_mode(f, mode);
            f->cpu.efer |= EFER_NXE;
            build(f, mode, leaf_level, gva, 0, all, all);
            entry_put(f, mode, level, gva, entry_get(f, mode, level, gva) | BIT(bit));
            rc = mmu_translate(&f->cpu, gva, MMU_READ, &t);
            if ((rc == SOFT_FAULT) != reserved)
                fail_msg("mode %d leaf %u level %u bit %u: rc %d", mode, leaf_level, level, bit, rc);
            if (reserved)
                assert_int_equal(f->cpu.exc.error, PF_PRESENT | PF_RSVD);
        }
}

static void each_reserved_bit_faults_and_no_other(void **state)
{
    check_reserved(*state, PAGING_4LEVEL, 1);
    check_reserved(*state, PAGING_4LEVEL, 2);
    check_reserved(*state, PAGING_4LEVEL, 3);
    check_reserved(*state, PAGING_PAE, 1);
    check_reserved(*state, PAGING_PAE, 2);
    check_reserved(*state, PAGING_32, 1);
    check_reserved(*state, PAGING_32, 2);
}

static void tables_outside_memory_read_as_all_ones(void **state)
{
    struct fixture *f = *state;
    struct mmu_target t;

    set_mode(f, PAGING_4LEVEL);
    f->cpu.cpl = 3;
    f->cpu.cr3 = HOLE_GPA;
    assert_int_equal(mmu_translate(&f->cpu, 0x1000, MMU_WRITE, &t), SOFT_FAULT);
    assert_int_equal(f->cpu.exc.error, PF_PRESENT | PF_WRITE | PF_USER | PF_RSVD);
}

static void pae_pdptes_are_checked_for_mov_to_cr3(void **state)
{
    struct fixture *f = *state;

    set_mode(f, PAGING_PAE);
    for (unsigned i = 0; i < 4; i++)
        put64(f, T3 + 0x20 + i * 8, T2 | PTE_P);
    assert_true(mmu_pdptes_valid(&f->cpu, T3 + 0x20));
    put64(f, T3 + 0x38, T2 | PTE_P | PTE_W);
    assert_false(mmu_pdptes_valid(&f->cpu, T3 + 0x20));
    put64(f, T3 + 0x38, T2 | PTE_W); /* not present: nothing else counts */
    assert_true(mmu_pdptes_valid(&f->cpu, T3 + 0x20));
    assert_false(mmu_pdptes_valid(&f->cpu, HOLE_GPA));
}

/* --- who accesses --- */

static void access_flags_override_the_cpl(void **state)
{
    struct fixture *f = *state;
    struct mmu_target t;

    start_long(f);
    map_long(f, 0x1000, DATA, PTE_P | PTE_W);
    f->cpu.cpl = 3;
    assert_int_equal(mmu_translate(&f->cpu, 0x1000, MMU_WRITE | MMU_SUPERVISOR, &t), SOFT_OK);
    assert_int_equal(mmu_translate(&f->cpu, 0x1000, MMU_WRITE, &t), SOFT_FAULT);
    f->cpu.cpl = 0;
    assert_int_equal(mmu_translate(&f->cpu, 0x1000, MMU_WRITE | MMU_USER_STACK, &t), SOFT_FAULT);
    assert_int_equal(f->cpu.exc.error, PF_PRESENT | PF_WRITE | PF_USER);
}

static void a_page_table_that_holds_code_drops_it_when_a_is_set(void **state)
{
    struct fixture *f = *state;
    struct mmu_target t;

    start_long(f);
    map_long(f, 0x1000, DATA, PTE_P | PTE_W);
    smc_protect(&f->svm, T1);
    assert_int_equal(mmu_translate(&f->cpu, 0x1000, MMU_READ, &t), SOFT_OK);
    assert_int_equal(seen.drop_count, 1);
    assert_int_equal(seen.dropped[0], T1);
    assert_int_equal(mmu_translate(&f->cpu, 0x1000, MMU_READ, &t), SOFT_OK);
    assert_int_equal(seen.drop_count, 1);
}

static void recursive_tables_get_their_a_bits(void **state)
{
    struct fixture *f = *state;
    struct mmu_target t;

    start_long(f);
    put64(f, T4 + 511 * 8, T4 | PTE_P | PTE_W); /* all four levels are this one entry */
    f->cpu.cr3 = T4;
    assert_int_equal(mmu_translate(&f->cpu, 0xfffffffffffff000ULL, MMU_WRITE, &t), SOFT_OK);
    assert_int_equal(t.gpa, T4);
    assert_int_equal(get64(f, T4 + 511 * 8), T4 | PTE_P | PTE_W | PTE_A | PTE_D);
}

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
    smc_protect(&f->svm, DATA + 0x10);
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
    smc_protect(&f->svm, DATA);
    assert_int_equal(mmu_write(&f->cpu, 0x1004, &value, 8, MMU_WRITE), SOFT_OK);
    assert_int_equal(get64(f, DATA + 4), value);
    assert_int_equal(seen.drop_count, 1);
    assert_int_equal(seen.dropped[0], DATA);
    assert_false(smc_has_code(&f->svm, DATA));
    assert_int_equal(mmu_write(&f->cpu, 0x1004, &value, 8, MMU_WRITE), SOFT_OK);
    assert_int_equal(seen.drop_count, 1);
    assert_true(table_entry(f, false, true, 0x1000) != 0);
    smc_protect(&f->svm, DATA);
    assert_false(table_entry(f, false, true, 0x1000));
    assert_int_equal(mmu_host(&f->cpu, 0x1004, 4, MMU_WRITE, &hva), SOFT_OK);
    assert_ptr_equal(hva, ram(f, DATA + 4));
    assert_int_equal(seen.drop_count, 2);
}

static void a_written_range_drops_the_code_of_all_its_pages(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 4; i++)
        smc_protect(&f->svm, DATA + i * PAGE_SIZE);
    smc_written(&f->svm, DATA + PAGE_SIZE - 1, 2);
    assert_int_equal(seen.drop_count, 2);
    assert_true(smc_has_code(&f->svm, DATA + 2 * PAGE_SIZE));
    smc_written(&f->svm, 0, UINT64_MAX);
    assert_int_equal(seen.drop_count, 4);
    smc_written(&f->svm, HOLE_GPA, 100);
    smc_written(&f->svm, DATA, 0);
    smc_protect(&f->svm, HOLE_GPA);
    assert_false(smc_has_code(&f->svm, HOLE_GPA));
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
    for (unsigned i = 0; i <= SHADOW_POPULATED_MAX / 2; i++, gva += MIB(2)) {
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
    smc_protect(&f->svm, 0);
    assert_int_equal(table_entry(f, false, true, 0), 0);
}

static void tables_that_were_only_looked_at_are_given_back_too(void **state)
{
    struct fixture *f = *state;

    start_long(f);
    f->cpu.cr3 = T4; /* nothing is mapped */
    for (unsigned i = 0; i < SHADOW_POPULATED_MAX; i++)
        assert_int_equal(mmu_fill(&f->cpu, i * MIB(2), MMU_WRITE), SOFT_SLOW);
    assert_int_equal(mmu_fill(&f->cpu, 0, MMU_WRITE), SOFT_SLOW); /* again: the same page */
    assert_int_equal(atomic_load(&f->cpu.attention), 0);
    assert_int_equal(mmu_fill(&f->cpu, 0, MMU_READ), SOFT_SLOW); /* of another table */
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
        smc_protect(&f->svm, page);
    for (unsigned i = 0; i < SHADOW_RECORDS + 10; i++)
        if (table_entry(f, false, true, (gva_t)i << 12))
            fail_msg("page %u can be written", i);
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
        case 1: smc_protect(&f->svm, page); break;
        case 2: smc_written(&f->svm, page, 1); break;
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
    bool global;
    gpa_t gpa;

    start_long(f);
    map_long(f, 0x1000, DATA, PTE_P);
    map_long(f, 0x2000, DATA, PTE_P | PTE_G);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(mmu_fetch(&f->cpu, 0x1010, &gpa, &hva, &global), SOFT_OK);
        assert_int_equal(gpa, DATA + 0x10);
        assert_ptr_equal(hva, ram(f, DATA + 0x10));
        assert_false(global);
        assert_int_equal(mmu_fetch(&f->cpu, 0x2010, &gpa, &hva, &global), SOFT_OK);
        assert_true(global);
    }
    assert_int_equal(f->cpu.stats.page_walks, 2);
    mmu_flush_nonglobal(&f->cpu);
    assert_int_equal(mmu_fetch(&f->cpu, 0x1010, &gpa, &hva, &global), SOFT_OK);
    assert_int_equal(mmu_fetch(&f->cpu, 0x2010, &gpa, &hva, &global), SOFT_OK);
    assert_int_equal(f->cpu.stats.page_walks, 3);
    mmu_flush_page(&f->cpu, 0x2000);
    mmu_fetch(&f->cpu, 0x2010, &gpa, &hva, &global);
    assert_int_equal(f->cpu.stats.page_walks, 4);
    mmu_flush_all(&f->cpu);
    mmu_fetch(&f->cpu, 0x2010, &gpa, &hva, &global);
    assert_int_equal(f->cpu.stats.page_walks, 5);
    f->cpu.cpl = 3;
    walks = f->cpu.stats.page_walks;
    assert_int_equal(mmu_fetch(&f->cpu, 0x2010, &gpa, &hva, &global), SOFT_FAULT);
    assert_int_equal(f->cpu.exc.error, PF_PRESENT | PF_USER | PF_FETCH);
    assert_int_equal(f->cpu.stats.page_walks, walks + 1);
}

static void invlpg_of_a_large_page_empties_the_fetch_cache(void **state)
{
    struct fixture *f = *state;
    const uint8_t *hva;
    bool global;
    gpa_t gpa;

    start_long(f);
    build(f, PAGING_4LEVEL, 2, 0x400000, MIB(4), PTE_P | PTE_W, PTE_P | PTE_W);
    assert_int_equal(mmu_fetch(&f->cpu, 0x407000, &gpa, &hva, &global), SOFT_OK);
    build(f, PAGING_4LEVEL, 2, 0x400000, MIB(6), PTE_P | PTE_W, PTE_P | PTE_W);
    mmu_flush_page(&f->cpu, 0x400000);
    assert_int_equal(mmu_fetch(&f->cpu, 0x407000, &gpa, &hva, &global), SOFT_OK);
    assert_int_equal(gpa, MIB(6) + 0x7000);
}

static void code_outside_memory_has_no_host_address(void **state)
{
    struct fixture *f = *state;
    const uint8_t *hva;
    bool global;
    gpa_t gpa;

    set_mode(f, PAGING_NONE);
    assert_int_equal(mmu_fetch(&f->cpu, HOLE_GPA + 5, &gpa, &hva, &global), SOFT_OK);
    assert_int_equal(gpa, HOLE_GPA + 5);
    assert_null(hva);
}

#define MMU_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MMU_TEST(four_level_permissions_are_the_models),
        MMU_TEST(pae_permissions_are_the_models),
        MMU_TEST(two_level_permissions_are_the_models),
        MMU_TEST(every_page_size_gives_its_address),
        MMU_TEST(without_pse_the_ps_bit_is_ignored),
        MMU_TEST(pat_bits_are_not_part_of_the_address),
        MMU_TEST(each_reserved_bit_faults_and_no_other),
        MMU_TEST(tables_outside_memory_read_as_all_ones),
        MMU_TEST(pae_pdptes_are_checked_for_mov_to_cr3),
        MMU_TEST(access_flags_override_the_cpl),
        MMU_TEST(a_page_table_that_holds_code_drops_it_when_a_is_set),
        MMU_TEST(recursive_tables_get_their_a_bits),
        MMU_TEST(a_fill_makes_the_entry_an_addend),
        MMU_TEST(nothing_but_plain_ram_is_filled),
        MMU_TEST(the_apic_page_hides_ram),
        MMU_TEST(flushes_spare_global_entries_as_they_must),
        MMU_TEST(invlpg_takes_the_whole_large_page),
        MMU_TEST(invlpg_takes_both_halves_of_a_4m_page),
        MMU_TEST(protecting_a_page_revokes_every_write_entry),
        MMU_TEST(writing_to_a_code_page_drops_its_code_once),
        MMU_TEST(a_written_range_drops_the_code_of_all_its_pages),
        MMU_TEST(sparse_tables_are_given_back),
        MMU_TEST(tables_that_were_only_looked_at_are_given_back_too),
        MMU_TEST(a_full_list_is_flushed_and_still_revocable),
        MMU_TEST(random_histories_keep_the_invariants),
        MMU_TEST(accesses_cross_pages),
        MMU_TEST(a_write_that_faults_on_its_second_page_writes_nothing),
        MMU_TEST(accesses_end_where_the_canonical_addresses_do),
        MMU_TEST(linear_addresses_wrap_outside_64_bit_code),
        MMU_TEST(mmio_is_split_naturally),
        MMU_TEST(rom_reads_as_memory_and_its_writes_go_to_the_bus),
        MMU_TEST(apic_registers_are_32_bit),
        MMU_TEST(fetches_are_cached_until_a_flush),
        MMU_TEST(invlpg_of_a_large_page_empties_the_fetch_cache),
        MMU_TEST(code_outside_memory_has_no_host_address),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
