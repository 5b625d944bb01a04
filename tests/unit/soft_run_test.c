/* Which translator mode a vCPU's state allows, and where only step can go on. */
#include "soft_fake.h"

#include "engine/soft/cache.h"
#include "engine/soft/run.h"

#define ALL_UNITS (0x3fU << BLOCK_UNITS_SHIFT)

static uint32_t segments_of(const struct fake *f)
{
    return run_mode(&f->cpu) & ~ALL_UNITS;
}

/* Segments as Linux gives them to a 32-bit program. */
static void flat_program(struct fake *f)
{
    fake_protected_mode(f, 32);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        if (i != SEG_CS)
            f->cpu.seg[i].attr = 0xf3 | SEG_DB | SEG_G;
    f->cpu.seg[SEG_CS].attr = 0xfb | SEG_DB | SEG_G;
    f->cpu.seg[SEG_FS] = (struct cpu_seg){.attr = SEG_UNUSABLE};
    f->cpu.seg[SEG_GS].base = 0xb7d00940;
    soft_mode_update(&f->cpu);
}

static void code_of_64_bits_has_no_segments(void **state)
{
    struct fake *f = *state;

    assert_int_equal(segments_of(f), 0);
    f->cpu.seg[SEG_DS] = (struct cpu_seg){.attr = SEG_UNUSABLE};
    f->cpu.seg[SEG_GS].limit = 5;
    assert_int_equal(segments_of(f), 0);
    fake_user(f);
    assert_int_equal(segments_of(f), BLOCK_USER);
}

static void flat_32_bit_code_is_translated(void **state)
{
    struct fake *f = *state;

    fake_protected_mode(f, 32);
    assert_int_equal(segments_of(f), BLOCK_CODE32 | BLOCK_FS | BLOCK_GS);
    flat_program(f);
    assert_int_equal(segments_of(f), BLOCK_CODE32 | BLOCK_USER | BLOCK_GS);
    f->cpu.efer = EFER_LMA | EFER_LME; /* compatibility mode */
    f->cpu.cr0 |= CR0_PG;
    soft_mode_update(&f->cpu);
    assert_int_equal(segments_of(f), BLOCK_CODE32 | BLOCK_USER | BLOCK_GS);
}

static void thread_segments_must_reach_everything(void **state)
{
    static const struct {
        uint32_t attr, limit;
        bool serves;
    } cases[] = {
        {0xf3 | SEG_DB | SEG_G, UINT32_MAX, true},  {0xf2 | SEG_G, UINT32_MAX, true}, {0xf3 | SEG_DB | SEG_G, UINT32_MAX - 1, false},
        {0xf1 | SEG_DB | SEG_G, UINT32_MAX, false}, /* read-only */
        {0xf7 | SEG_DB | SEG_G, UINT32_MAX, false}, /* expand-down */
        {0xfb | SEG_DB | SEG_G, UINT32_MAX, false}, /* code */
        {SEG_UNUSABLE, UINT32_MAX, false},
    };
    struct fake *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        flat_program(f);
        f->cpu.seg[SEG_FS] = (struct cpu_seg){.base = 5, .attr = cases[i].attr, .limit = cases[i].limit};
        assert_int_equal(segments_of(f), BLOCK_CODE32 | BLOCK_USER | BLOCK_GS | (cases[i].serves ? BLOCK_FS : 0));
        f->cpu.seg[SEG_GS] = f->cpu.seg[SEG_FS];
        assert_int_equal(segments_of(f), BLOCK_CODE32 | BLOCK_USER | (cases[i].serves ? BLOCK_FS | BLOCK_GS : 0));
    }
}

static void other_segments_are_left_to_step(void **state)
{
    static const uint8_t flat[] = {SEG_CS, SEG_SS, SEG_DS};
    struct fake *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(flat); i++) {
        flat_program(f);
        f->cpu.seg[flat[i]].base = 0x1000;
        assert_int_equal(run_mode(&f->cpu), RUN_STEP);
        flat_program(f);
        f->cpu.seg[flat[i]].limit = 0xbfffffff;
        assert_int_equal(run_mode(&f->cpu), RUN_STEP);
    }
    flat_program(f);
    f->cpu.seg[SEG_SS].attr &= ~(uint32_t)SEG_DB; /* SP alone */
    soft_mode_update(&f->cpu);
    assert_int_equal(run_mode(&f->cpu), RUN_STEP);
    flat_program(f);
    f->cpu.seg[SEG_DS] = (struct cpu_seg){.attr = SEG_UNUSABLE, .limit = UINT32_MAX};
    assert_int_equal(run_mode(&f->cpu), RUN_STEP);
    fake_protected_mode(f, 16);
    assert_int_equal(run_mode(&f->cpu), RUN_STEP);
    fake_protected_mode(f, 32);
    f->cpu.cr0 &= ~CR0_PE; /* real mode with the limits of before */
    soft_mode_update(&f->cpu);
    assert_int_equal(run_mode(&f->cpu), RUN_STEP);
}

static void traps_and_alignment_checks_are_left_to_step(void **state)
{
    static const uint64_t flags[] = {FLAG_TF, FLAG_RF};
    struct fake *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
        flat_program(f);
        f->cpu.rflags |= flags[i];
        assert_int_equal(run_mode(&f->cpu), RUN_STEP);
        f->cpu.rflags &= ~flags[i];
        assert_int_not_equal(run_mode(&f->cpu), RUN_STEP);
    }
    f->cpu.cr0 |= CR0_AM;
    assert_int_not_equal(run_mode(&f->cpu), RUN_STEP);
    f->cpu.rflags |= FLAG_AC;
    assert_int_equal(run_mode(&f->cpu), RUN_STEP);
    f->cpu.cr0 &= ~CR0_AM;
    f->cpu.dr7 |= 1;
    assert_int_equal(run_mode(&f->cpu), RUN_STEP);
}

#define RUN_TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN_TEST(code_of_64_bits_has_no_segments),
        RUN_TEST(flat_32_bit_code_is_translated),
        RUN_TEST(thread_segments_must_reach_everything),
        RUN_TEST(other_segments_are_left_to_step),
        RUN_TEST(traps_and_alignment_checks_are_left_to_step),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
