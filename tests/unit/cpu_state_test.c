/* The states in which a CPU starts: after RESET, and as the boot protocols want it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cpu/cpu_state.h"

static struct cpu_state s;

static int dirty(void **state)
{
    (void)state;
    memset(&s, 0xa5, sizeof(s));
    return 0;
}

static uint64_t le(const uint8_t *p, unsigned bytes)
{
    uint64_t value = 0;

    memcpy(&value, p, bytes);
    return value;
}

static bool all_zero(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i])
            return false;
    return true;
}

/* SDM vol. 3 table 9-1. */
static void reset_starts_in_real_mode_16_bytes_below_4_gib(void **state)
{
    (void)state;
    cpu_state_reset(&s);
    assert_true(s.seg[SEG_CS].base + s.rip == GIB(4) - 16);
    assert_int_equal(s.seg[SEG_CS].sel, 0xf000);
    assert_int_equal(s.seg[SEG_CS].limit, 0xffff);
    assert_true(s.rflags == 2);
    assert_true(s.cr0 == 0x60000010);
    assert_true(!s.cr2 && !s.cr3 && !s.cr4 && !s.efer && !s.cr8);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        assert_int_equal(s.seg[i].limit, 0xffff);
        assert_int_equal(s.seg[i].attr, i == SEG_CS ? 0x9b : 0x93);
        if (i != SEG_CS)
            assert_true(s.seg[i].base == 0 && s.seg[i].sel == 0);
    }
    assert_true(s.ldtr.limit == 0xffff && s.ldtr.attr == 0x82);
    assert_true(s.tr.limit == 0xffff && s.tr.attr == 0x8b);
    assert_true(s.gdtr.base == 0 && s.gdtr.limit == 0xffff && s.idtr.base == 0 && s.idtr.limit == 0xffff);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        assert_true((s.gpr[i] == 0) == (i != GPR_RDX));
    assert_true(s.dr6 == 0xffff0ff0 && s.dr7 == 0x400);
    assert_true(!s.dr[0] && !s.dr[1] && !s.dr[2] && !s.dr[3]);
    assert_true(s.pat == 0x0007040600070406 && s.apic_base == 0xfee00900);
    assert_false(s.halted || s.wait_for_sipi || s.interrupt_shadow || s.nmi_pending || s.nmi_masked);
    assert_true(!s.tsc_offset && !s.tsc_adjust && !s.tsc_deadline && !s.kvm_system_time && !s.kvm_wall_clock);
}

static void reset_leaves_the_fpu_as_after_power_on(void **state)
{
    (void)state;
    cpu_state_reset(&s);
    assert_true(s.xcr0 == 1);
    assert_true(le(s.xsave, 2) == 0x40);        /* FCW */
    assert_true(le(s.xsave + 2, 2) == 0);       /* FSW */
    assert_true(s.xsave[4] == 0xff);            /* the abridged tag word: all valid */
    assert_true(le(s.xsave + 24, 4) == 0x1f80); /* MXCSR */
    assert_true(le(s.xsave + 512, 8) == 3);     /* XSTATE_BV */
    assert_true(le(s.xsave + 520, 8) == 0);     /* XCOMP_BV: the standard form */
    assert_true(all_zero(s.xsave + 32, 512 - 32));
    assert_true(all_zero(s.xsave + 528, sizeof(s.xsave) - 528));
}

static void flat_32_is_protected_mode_without_paging(void **state)
{
    (void)state;
    cpu_state_flat32(&s, 0x100000);
    assert_true(s.rip == 0x100000 && s.rflags == 2);
    assert_true(s.cr0 & CR0_PE);
    assert_true(!(s.cr0 & CR0_PG) && !s.cr4 && !s.efer);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        assert_true(s.seg[i].base == 0 && s.seg[i].limit == 0xffffffff);
        assert_int_equal(s.seg[i].attr, i == SEG_CS ? 0xc09b : 0xc093);
    }
    assert_int_equal(s.seg[SEG_CS].sel, 0x10);
    assert_int_equal(s.seg[SEG_DS].sel, 0x18);
    assert_int_equal(s.tr.attr, 0x8b);
    assert_int_equal(s.tr.limit, 0x67);
    assert_true(s.ldtr.attr & SEG_UNUSABLE);
    assert_true(s.gpr[GPR_RDX] == 0);
}

static void long_64_is_paged_64_bit_code(void **state)
{
    (void)state;
    cpu_state_long64(&s, 0xffffffff81000000, 0x9000, 0x8000, 0x1f);
    assert_true(s.rip == 0xffffffff81000000 && s.rflags == 2);
    assert_true((s.cr0 & (CR0_PE | CR0_PG)) == (CR0_PE | CR0_PG));
    assert_true(s.cr3 == 0x9000 && (s.cr4 & CR4_PAE));
    assert_true((s.efer & (EFER_LME | EFER_LMA)) == (EFER_LME | EFER_LMA));
    assert_true(s.seg[SEG_CS].sel == 0x10 && (s.seg[SEG_CS].attr & SEG_L) && !(s.seg[SEG_CS].attr & SEG_DB));
    assert_int_equal(s.seg[SEG_CS].attr, 0xa09b);
    assert_true(s.seg[SEG_DS].sel == 0x18 && s.seg[SEG_ES].sel == 0x18 && s.seg[SEG_SS].sel == 0x18);
    assert_true(s.gdtr.base == 0x8000 && s.gdtr.limit == 0x1f);
    assert_int_equal(s.tr.attr, 0x8b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(reset_starts_in_real_mode_16_bytes_below_4_gib, dirty),
        cmocka_unit_test_setup(reset_leaves_the_fpu_as_after_power_on, dirty),
        cmocka_unit_test_setup(flat_32_is_protected_mode_without_paging, dirty),
        cmocka_unit_test_setup(long_64_is_paged_64_bit_code, dirty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
