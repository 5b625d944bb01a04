/* Control and debug registers: every #GP of the manuals, the modes that follow, what is flushed. */
#include "soft_fake.h"

#define CR(f, n, v) sys_write_cr##n(&(f)->cpu, v)

static void cr0_refuses_paging_without_protection_and_nw_without_cd(void **state)
{
    struct fake *f = *state;

    fake_protected_mode(f, 32);
    expect_fault(f, CR(f, 0, CR0_PG | CR0_ET), EXC_GP);
    expect_fault(f, CR(f, 0, CR0_PE | CR0_NW), EXC_GP);
    expect_fault(f, CR(f, 0, CR0_PE | BIT(32)), EXC_GP);
    assert_int_equal(CR(f, 0, CR0_PE | CR0_NW | CR0_CD), SOFT_OK);
    assert_int_equal(f->cpu.cr0, CR0_PE | CR0_NW | CR0_CD | CR0_ET); /* ET is hardwired */
}

static void cr0_reserved_bits_are_ignored(void **state)
{
    struct fake *f = *state;

    fake_protected_mode(f, 32);
    assert_int_equal(CR(f, 0, CR0_PE | BIT(6) | BIT(15) | BIT(28)), SOFT_OK);
    assert_int_equal(f->cpu.cr0, CR0_PE | CR0_ET);
}

static void paging_with_lme_enters_long_mode(void **state)
{
    struct fake *f = *state;

    fake_protected_mode(f, 32);
    f->cpu.cr4 = 0;
    assert_int_equal(sys_write_efer(&f->cpu, EFER_LME), SOFT_OK);
    expect_fault(f, CR(f, 0, CR0_PE | CR0_PG), EXC_GP); /* no PAE */
    assert_int_equal(CR(f, 4, CR4_PAE), SOFT_OK);
    assert_int_equal(CR(f, 0, CR0_PE | CR0_PG), SOFT_OK);
    assert_true(f->cpu.efer & EFER_LMA);
    assert_true(f->cpu.long_mode);
    assert_int_equal(f->cpu.code_bits, 32); /* compatibility mode until a far jump */
    expect_fault(f, CR(f, 4, 0), EXC_GP);   /* PAE must stay */
    expect_fault(f, sys_write_efer(&f->cpu, 0), EXC_GP);
    assert_int_equal(CR(f, 0, CR0_PE), SOFT_OK);
    assert_false(f->cpu.efer & EFER_LMA);
}

/* Intel's processors load the PDPTEs at once, AMD's look at them in the walk. */
static void bad_pdptes_refuse_pae_paging_on_intel(void **state)
{
    struct fake *f = *state;

    for (unsigned amd = 0; amd <= 1; amd++) {
        int expected = amd ? SOFT_OK : SOFT_FAULT;

        fake_protected_mode(f, 32);
        f->svm.cpuid->amd = amd;
        f->cpu.cr4 = CR4_PAE;
        fake_seen.pdptes_bad = true;
        assert_int_equal(CR(f, 3, 0x1000), SOFT_OK); /* not used yet */
        assert_int_equal(CR(f, 0, CR0_PE | CR0_PG), expected);
        f->cpu.cr0 |= CR0_PG;
        assert_int_equal(CR(f, 3, 0x2000), expected);
        assert_int_equal(CR(f, 4, CR4_PAE | CR4_PSE), expected);
        fake_long_mode(f);
        assert_int_equal(CR(f, 3, 0x3000), SOFT_OK); /* 4-level paging has none */
    }
}

static void long_mode_is_not_entered_from_a_64_bit_segment_nor_left_from_one(void **state)
{
    struct fake *f = *state;

    expect_fault(f, CR(f, 0, CR0_PE), EXC_GP);
    fake_protected_mode(f, 32);
    f->cpu.efer = EFER_LME;
    f->cpu.seg[SEG_CS].attr |= SEG_L;
    expect_fault(f, CR(f, 0, CR0_PE | CR0_PG), EXC_GP);
}

static void long_mode_is_not_entered_with_a_16_bit_task(void **state)
{
    static const struct {
        uint32_t tss; /* the descriptor's low byte of attributes */
        bool enters;
    } cases[] = {{0x81, false}, {0x83, false}, {0x89, true}, {0x8b, true}};
    struct fake *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        fake_protected_mode(f, 32);
        f->cpu.cr4 = CR4_PAE;
        f->cpu.tr.attr = cases[i].tss;
        assert_int_equal(CR(f, 0, CR0_PE | CR0_PG), SOFT_OK); /* paging alone does not mind */
        fake_protected_mode(f, 32);
        f->cpu.cr4 = CR4_PAE;
        f->cpu.efer = EFER_LME;
        f->cpu.tr.attr = cases[i].tss;
        if (cases[i].enters)
            assert_int_equal(CR(f, 0, CR0_PE | CR0_PG), SOFT_OK);
        else
            expect_fault(f, CR(f, 0, CR0_PE | CR0_PG), EXC_GP);
        assert_int_equal(f->cpu.long_mode, cases[i].enters);
    }
}

static void protection_on_keeps_cpl_0_whatever_cs_says(void **state)
{
    struct fake *f = *state;

    fake_protected_mode(f, 16);
    f->cpu.cr0 = CR0_ET;
    f->cpu.seg[SEG_CS] = (struct cpu_seg){.base = 0x7c30, .limit = 0xffff, .attr = 0x9b, .sel = 0x7c3};
    soft_mode_update(&f->cpu);
    assert_int_equal(f->cpu.cpl, 0);
    assert_int_equal(CR(f, 0, CR0_PE), SOFT_OK);
    assert_int_equal(f->cpu.cpl, 0);
    assert_int_equal(f->cpu.code_bits, 16);
    assert_true(f->cpu.protected_mode);
}

static void cr3_reserved_bits_fault_in_long_mode_only(void **state)
{
    struct fake *f = *state;

    expect_fault(f, CR(f, 3, BIT(46)), EXC_GP);
    expect_fault(f, CR(f, 3, BIT(63) | 0x1000), EXC_GP); /* no PCID, no "keep" bit */
    assert_int_equal(CR(f, 3, 0x12345018), SOFT_OK);
    assert_int_equal(f->cpu.cr3, 0x12345018);
    assert_int_equal(fake_seen.flush_nonglobal, 1);
    assert_int_equal(fake_seen.flush_all, 0);
}

static void cr4_takes_what_is_offered_and_nothing_else(void **state)
{
    struct fake *f = *state;
    uint64_t base = f->cpu.cr4;

    expect_fault(f, CR(f, 4, base | CR4_SMAP), EXC_GP);
    expect_fault(f, CR(f, 4, base | CR4_PCIDE), EXC_GP);
    expect_fault(f, CR(f, 4, base | CR4_VME), EXC_GP);
    expect_fault(f, CR(f, 4, base | CR4_LA57), EXC_GP);
    expect_fault(f, CR(f, 4, base | BIT(32)), EXC_GP);
    assert_int_equal(f->cpu.cr4, base);
    assert_int_equal(CR(f, 4, base | CR4_TSD), SOFT_OK);
    assert_int_equal(fake_seen.flush_all, 0);
    assert_int_equal(CR(f, 4, base | CR4_SMEP | CR4_UMIP | CR4_FSGSBASE), SOFT_OK);
    assert_int_equal(fake_seen.flush_all, 1);
}

static void efer_refuses_reserved_bits_and_lme_under_paging(void **state)
{
    struct fake *f = *state;
    uint64_t base = EFER_LME | EFER_SCE | EFER_NXE;

    expect_fault(f, sys_write_efer(&f->cpu, base | BIT(12)), EXC_GP);
    expect_fault(f, sys_write_efer(&f->cpu, base | BIT(1)), EXC_GP);
    expect_fault(f, sys_write_efer(&f->cpu, base & ~EFER_LME), EXC_GP);
    assert_int_equal(sys_write_efer(&f->cpu, base), SOFT_OK); /* LMA in the value does not matter */
    assert_int_equal(f->cpu.efer, base | EFER_LMA);
    assert_int_equal(fake_seen.flush_all, 0);
    assert_int_equal(sys_write_efer(&f->cpu, base & ~EFER_NXE), SOFT_OK);
    assert_int_equal(fake_seen.flush_all, 1);
}

static void mov_cr_instructions_move(void **state)
{
    struct fake *f = *state;

    f->cpu.gpr[GPR_R9] = 0x5000;
    assert_int_equal(RUN(f, 0x41, 0x0f, 0x22, 0xd9), SOFT_OK); /* mov cr3, r9 */
    assert_int_equal(f->cpu.cr3, 0x5000);
    f->cpu.cr2 = 0xffff888812345678;
    assert_int_equal(RUN(f, 0x0f, 0x20, 0xd0), SOFT_OK); /* mov rax, cr2 */
    assert_true(f->cpu.gpr[GPR_RAX] == 0xffff888812345678);
    f->cpu.gpr[GPR_RCX] = 9;
    assert_int_equal(RUN(f, 0x44, 0x0f, 0x22, 0xc1), SOFT_OK); /* mov cr8, rcx */
    assert_int_equal(fake_seen.cr8, 9);
    f->cpu.gpr[GPR_RCX] = 16;
    expect_fault(f, RUN(f, 0x44, 0x0f, 0x22, 0xc1), EXC_GP);
    expect_fault(f, RUN(f, 0x0f, 0x22, 0xc8), EXC_UD); /* cr1 */
    fake_user(f);
    expect_fault(f, RUN(f, 0x0f, 0x20, 0xd0), EXC_GP);
}

static void debug_registers_have_fixed_bits_and_aliases(void **state)
{
    struct fake *f = *state;

    f->cpu.gpr[GPR_RAX] = 0xffffffff & ~BIT(13);
    assert_int_equal(RUN(f, 0x0f, 0x23, 0xf8), SOFT_OK); /* mov dr7, rax */
    assert_int_equal(f->cpu.dr7, 0xffff07ff);
    f->cpu.gpr[GPR_RAX] = 0;
    assert_int_equal(RUN(f, 0x0f, 0x23, 0xe8), SOFT_OK); /* mov dr5, rax: dr7 without CR4.DE */
    assert_int_equal(f->cpu.dr7, DR7_FIXED);
    assert_int_equal(RUN(f, 0x0f, 0x23, 0xf0), SOFT_OK); /* mov dr6, rax */
    assert_int_equal(f->cpu.dr6, DR6_FIXED);
    f->cpu.gpr[GPR_RAX] = BIT(32);
    expect_fault(f, RUN(f, 0x0f, 0x23, 0xf0), EXC_GP);
    f->cpu.cr4 |= CR4_DE;
    expect_fault(f, RUN(f, 0x0f, 0x21, 0xe8), EXC_UD); /* mov rax, dr5 */
}

static void general_detect_traps_debug_register_access(void **state)
{
    struct fake *f = *state;

    f->cpu.dr7 = DR7_FIXED | BIT(13);
    expect_fault(f, RUN(f, 0x0f, 0x21, 0xc0), EXC_DB); /* mov rax, dr0 */
    assert_int_equal(f->cpu.exc.dr6, BIT(13));
    assert_int_equal(f->cpu.dr7, DR7_FIXED);
    assert_int_equal(RUN(f, 0x0f, 0x21, 0xc0), SOFT_OK);
}

static void lmsw_sets_but_never_clears_pe(void **state)
{
    struct fake *f = *state;

    f->cpu.gpr[GPR_RAX] = 0xfff0 | CR0_TS;
    assert_int_equal(RUN(f, 0x0f, 0x01, 0xf0), SOFT_OK); /* lmsw ax */
    assert_true(f->cpu.cr0 & CR0_PE);
    assert_true(f->cpu.cr0 & CR0_TS);
    assert_true(f->cpu.cr0 & CR0_WP);
    assert_int_equal(RUN(f, 0x0f, 0x06), SOFT_OK); /* clts */
    assert_false(f->cpu.cr0 & CR0_TS);
}

static void smsw_is_open_to_users_without_umip(void **state)
{
    struct fake *f = *state;

    fake_user(f);
    assert_int_equal(RUN(f, 0x0f, 0x01, 0xe0), SOFT_OK); /* smsw eax */
    assert_int_equal(f->cpu.gpr[GPR_RAX], f->cpu.cr0);
    f->cpu.cr4 |= CR4_UMIP;
    expect_fault(f, RUN(f, 0x0f, 0x01, 0xe0), EXC_GP);
}

static void invlpg_flushes_one_page_and_ignores_non_canonical_addresses(void **state)
{
    struct fake *f = *state;

    f->cpu.gpr[GPR_RAX] = 0x1234567;
    assert_int_equal(RUN(f, 0x0f, 0x01, 0x38), SOFT_OK); /* invlpg [rax] */
    assert_int_equal(fake_seen.flushed, 0x1234567);
    f->cpu.gpr[GPR_RAX] = BIT(60);
    assert_int_equal(RUN(f, 0x0f, 0x01, 0x38), SOFT_OK);
    assert_int_equal(fake_seen.flush_page, 1);
    f->cpu.seg[SEG_GS].base = 0x1000;
    f->cpu.gpr[GPR_RAX] = 0x2000;
    assert_int_equal(RUN(f, 0x65, 0x0f, 0x01, 0x38), SOFT_OK);
    assert_int_equal(fake_seen.flushed, 0x3000);
    fake_user(f);
    expect_fault(f, RUN(f, 0x0f, 0x01, 0x38), EXC_GP);
}

static void hlt_halts_at_cpl_0_only(void **state)
{
    struct fake *f = *state;

    assert_int_equal(RUN(f, 0xf4), SOFT_OK);
    assert_true(f->cpu.halted);
    fake_user(f);
    expect_fault(f, RUN(f, 0xf4), EXC_GP);
}

static void xsetbv_takes_valid_combinations_of_offered_components(void **state)
{
    struct fake *f = *state;
    uint64_t offered = f->svm.cpuid->xcr0;
    static const uint8_t xsetbv[] = {0x0f, 0x01, 0xd1};

    for (uint64_t value = 0; value < 0x400; value++) {
        uint64_t avx512 = value & XCR0_AVX512;
        bool valid = !(value & ~offered) && (value & 1) && (!(value & 4) || (value & 2)) &&
                     (!avx512 || (avx512 == XCR0_AVX512 && (value & 4)));
        f->cpu.gpr[GPR_RAX] = value;
        f->cpu.gpr[GPR_RCX] = f->cpu.gpr[GPR_RDX] = 0;
        int result = fake_run(f, xsetbv, sizeof(xsetbv));
        assert_int_equal(result, valid ? SOFT_OK : SOFT_FAULT);
        if (valid)
            assert_int_equal(f->cpu.xcr0, value);
    }
    f->cpu.gpr[GPR_RCX] = 1;
    expect_fault(f, RUN(f, 0x0f, 0x01, 0xd1), EXC_GP);
    f->cpu.cr4 &= ~CR4_OSXSAVE;
    expect_fault(f, RUN(f, 0x0f, 0x01, 0xd1), EXC_UD);
    expect_fault(f, RUN(f, 0x0f, 0x01, 0xd0), EXC_UD);
}

static void hypercalls_answer_as_kvm_does(void **state)
{
    struct fake *f = *state;

    assert_int_equal(RUN(f, 0x0f, 0x01, 0xc1), SOFT_OK); /* vmcall */
    assert_int_equal((int64_t)f->cpu.gpr[GPR_RAX], -1000);
    fake_user(f);
    assert_int_equal(RUN(f, 0x0f, 0x01, 0xd9), SOFT_OK); /* vmmcall */
    assert_int_equal((int64_t)f->cpu.gpr[GPR_RAX], -1);
}

static void absent_instructions_are_undefined(void **state)
{
    struct fake *f = *state;

    expect_fault(f, RUN(f, 0x0f, 0x01, 0xc8), EXC_UD);             /* monitor */
    expect_fault(f, RUN(f, 0x0f, 0x01, 0xc9), EXC_UD);             /* mwait */
    expect_fault(f, RUN(f, 0x66, 0x0f, 0x38, 0x82, 0x08), EXC_UD); /* invpcid */
    expect_fault(f, RUN(f, 0x0f, 0x01, 0xca), EXC_UD);             /* clac */
    expect_fault(f, RUN(f, 0x0f, 0xc7, 0x28), EXC_UD);             /* xsaves */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(cr0_refuses_paging_without_protection_and_nw_without_cd),
        TEST(cr0_reserved_bits_are_ignored),
        TEST(paging_with_lme_enters_long_mode),
        TEST(bad_pdptes_refuse_pae_paging_on_intel),
        TEST(long_mode_is_not_entered_from_a_64_bit_segment_nor_left_from_one),
        TEST(long_mode_is_not_entered_with_a_16_bit_task),
        TEST(protection_on_keeps_cpl_0_whatever_cs_says),
        TEST(cr3_reserved_bits_fault_in_long_mode_only),
        TEST(cr4_takes_what_is_offered_and_nothing_else),
        TEST(efer_refuses_reserved_bits_and_lme_under_paging),
        TEST(mov_cr_instructions_move),
        TEST(debug_registers_have_fixed_bits_and_aliases),
        TEST(general_detect_traps_debug_register_access),
        TEST(lmsw_sets_but_never_clears_pe),
        TEST(smsw_is_open_to_users_without_umip),
        TEST(invlpg_flushes_one_page_and_ignores_non_canonical_addresses),
        TEST(hlt_halts_at_cpl_0_only),
        TEST(xsetbv_takes_valid_combinations_of_offered_components),
        TEST(hypercalls_answer_as_kvm_does),
        TEST(absent_instructions_are_undefined),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
