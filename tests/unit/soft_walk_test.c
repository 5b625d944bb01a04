/* The walk of guest page tables against a naive model written from SDM vol. 3 chapter 4. */
#include "soft_paging.h"

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
    smc_protect(&f->cpu, T1);
    assert_int_equal(mmu_translate(&f->cpu, 0x1000, MMU_READ, &t), SOFT_OK);
    smc_service(&f->cpu);
    assert_int_equal(seen.drop_count, 1);
    assert_int_equal(seen.dropped[0], T1);
    assert_int_equal(mmu_translate(&f->cpu, 0x1000, MMU_READ, &t), SOFT_OK);
    smc_service(&f->cpu);
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
