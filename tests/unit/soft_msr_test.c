/* Model-specific registers: what exists, what each accepts, where it lands; and the TSC's instructions. */
#include "soft_fake.h"

#define READ(f, msr, value) sys_msr_read(&(f)->cpu, msr, value)
#define WRITE(f, msr, value) sys_msr_write(&(f)->cpu, msr, value)

static void unknown_msrs_are_gp(void **state)
{
    static const uint32_t unknown[] = {0,     2,          MSR_MTRRCAP, MSR_MTRR_DEF_TYPE,   MSR_MCG_CAP,
                                       0xda0, 0xc0000104, 0x40000000,  MSR_KVM_SYSTEM_TIME, 0xffffffff};
    struct fake *f = *state;
    uint64_t value;

    for (unsigned i = 0; i < ARRAY_SIZE(unknown); i++) {
        expect_fault(f, READ(f, unknown[i], &value), EXC_GP);
        expect_fault(f, WRITE(f, unknown[i], 0), EXC_GP);
    }
}

static void address_registers_must_be_canonical(void **state)
{
    static const uint32_t msrs[] = {MSR_LSTAR, MSR_CSTAR, MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP};
    struct fake *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
        uint64_t value = 0;
        expect_fault(f, WRITE(f, msrs[i], BIT(47)), EXC_GP);
        assert_int_equal(WRITE(f, msrs[i], 0xffff800000001000 + i), SOFT_OK);
        assert_int_equal(READ(f, msrs[i], &value), SOFT_OK);
        assert_true(value == 0xffff800000001000 + i);
    }
    assert_true(f->cpu.seg[SEG_FS].base == 0xffff800000001002);
    assert_true(f->cpu.seg[SEG_GS].base == 0xffff800000001003);
}

static void reserved_upper_halves_are_gp(void **state)
{
    static const uint32_t msrs[] = {MSR_SFMASK, MSR_TSC_AUX, MSR_SYSENTER_CS};
    struct fake *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
        expect_fault(f, WRITE(f, msrs[i], BIT(32)), EXC_GP);
        assert_int_equal(WRITE(f, msrs[i], 0x47700 + i), SOFT_OK);
    }
    assert_int_equal(f->cpu.sfmask, 0x47700);
    assert_int_equal(WRITE(f, MSR_STAR, UINT64_MAX), SOFT_OK);
}

static void pat_takes_memory_types_only(void **state)
{
    struct fake *f = *state;

    for (unsigned type = 0; type < 256; type++) {
        bool valid = type == 0 || type == 1 || (type >= 4 && type <= 7);
        for (unsigned i = 0; i < 8; i++)
            assert_int_equal(WRITE(f, MSR_PAT, (uint64_t)type << (8 * i)), valid ? SOFT_OK : SOFT_FAULT);
    }
    assert_int_equal(WRITE(f, MSR_PAT, 0x0007040600070406), SOFT_OK);
    assert_true(f->cpu.pat == 0x0007040600070406);
}

static void tsc_and_its_adjustment_move_together(void **state)
{
    struct fake *f = *state;
    uint64_t value;

    fake_seen.tsc = 1000000;
    assert_int_equal(WRITE(f, MSR_TSC, 5000000), SOFT_OK);
    READ(f, MSR_TSC, &value);
    assert_int_equal(value, 5000000);
    READ(f, MSR_TSC_ADJUST, &value);
    assert_int_equal(value, 4000000);
    assert_int_equal(fake_seen.tsc_changes, 1); /* timers and the KVM clock are told */
    assert_int_equal(WRITE(f, MSR_TSC_ADJUST, 0), SOFT_OK);
    assert_int_equal(fake_seen.tsc_changes, 2);
    READ(f, MSR_TSC, &value);
    assert_int_equal(value, 1000000);
}

static void apic_registers_go_to_the_lapic(void **state)
{
    static const uint32_t msrs[] = {MSR_APIC_BASE, MSR_TSC_DEADLINE, MSR_X2APIC_FIRST + 0x30, MSR_X2APIC_LAST};
    struct fake *f = *state;
    uint64_t value;

    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
        assert_int_equal(WRITE(f, msrs[i], 77 + i), SOFT_OK);
        assert_int_equal(fake_seen.msr, msrs[i]);
        assert_int_equal(READ(f, msrs[i], &value), SOFT_OK);
        assert_int_equal(value, 77 + i);
    }
}

static void kvmclock_registers_exist_in_their_new_place(void **state)
{
    struct fake *f = *state;
    uint64_t value;

    assert_int_equal(WRITE(f, MSR_KVM_SYSTEM_TIME_NEW, 0x1001), SOFT_OK);
    assert_int_equal(fake_seen.kvm_msr, MSR_KVM_SYSTEM_TIME_NEW);
    assert_int_equal(READ(f, MSR_KVM_SYSTEM_TIME_NEW, &value), SOFT_OK);
    assert_int_equal(value, 0x1001);
}

static void vendor_registers_follow_the_vendor(void **state)
{
    struct fake *f = *state;
    bool amd = f->svm.cpuid->amd;
    uint64_t value = 0;

    assert_int_equal(READ(f, MSR_HWCR, &value), amd ? SOFT_OK : SOFT_FAULT);
    if (amd)
        assert_true(value & BIT(24)); /* or Linux calls it a firmware bug */
    assert_int_equal(READ(f, MSR_DE_CFG, &value), amd ? SOFT_OK : SOFT_FAULT);
    if (amd)
        assert_true(value & BIT(1)); /* LFENCE serializes */
    assert_int_equal(READ(f, MSR_MISC_ENABLE, &value), amd ? SOFT_FAULT : SOFT_OK);
    assert_int_equal(READ(f, MSR_ARCH_CAPABILITIES, &value), amd ? SOFT_FAULT : SOFT_OK);
    assert_int_equal(WRITE(f, MSR_PRED_CMD, 1), amd ? SOFT_FAULT : SOFT_OK);
    expect_fault(f, READ(f, MSR_PRED_CMD, &value), EXC_GP); /* write-only where it exists */
    assert_int_equal(READ(f, MSR_BIOS_SIGN_ID, &value), SOFT_OK);
}

static void rdmsr_and_wrmsr_use_edx_and_eax_at_cpl_0(void **state)
{
    struct fake *f = *state;

    f->cpu.gpr[GPR_RCX] = 0xffffffff00000000 | MSR_LSTAR;
    f->cpu.gpr[GPR_RAX] = 0xdeadbeef81234567;
    f->cpu.gpr[GPR_RDX] = 0xdeadbeefffffffff;
    assert_int_equal(RUN(f, 0x0f, 0x30), SOFT_OK);
    assert_true(f->cpu.lstar == 0xffffffff81234567);
    assert_int_equal(RUN(f, 0x0f, 0x32), SOFT_OK);
    assert_true(f->cpu.gpr[GPR_RAX] == 0x81234567);
    assert_true(f->cpu.gpr[GPR_RDX] == 0xffffffff);
    fake_user(f);
    expect_fault(f, RUN(f, 0x0f, 0x30), EXC_GP);
    expect_fault(f, RUN(f, 0x0f, 0x32), EXC_GP);
}

static void rdtsc_obeys_tsd(void **state)
{
    struct fake *f = *state;

    fake_seen.tsc = 0x1234567890;
    f->cpu.tsc_aux = 7;
    f->cpu.cr4 |= CR4_TSD;
    assert_int_equal(RUN(f, 0x0f, 0x31), SOFT_OK);
    assert_int_equal(f->cpu.gpr[GPR_RAX], 0x34567890);
    assert_int_equal(f->cpu.gpr[GPR_RDX], 0x12);
    fake_user(f);
    expect_fault(f, RUN(f, 0x0f, 0x31), EXC_GP);
    expect_fault(f, RUN(f, 0x0f, 0x01, 0xf9), EXC_GP);
    f->cpu.cr4 &= ~CR4_TSD;
    assert_int_equal(RUN(f, 0x0f, 0x01, 0xf9), SOFT_OK); /* rdtscp */
    assert_int_equal(f->cpu.gpr[GPR_RCX], 7);
    assert_int_equal(RUN(f, 0xf3, 0x0f, 0xc7, 0xf8), SOFT_OK); /* rdpid rax */
    assert_int_equal(f->cpu.gpr[GPR_RAX], 7);
    expect_fault(f, RUN(f, 0x0f, 0x33), EXC_GP); /* rdpmc */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(unknown_msrs_are_gp),
        TEST(address_registers_must_be_canonical),
        TEST(reserved_upper_halves_are_gp),
        TEST(pat_takes_memory_types_only),
        TEST(tsc_and_its_adjustment_move_together),
        TEST(apic_registers_go_to_the_lapic),
        TEST(kvmclock_registers_exist_in_their_new_place),
        TEST(vendor_registers_follow_the_vendor),
        TEST(rdmsr_and_wrmsr_use_edx_and_eax_at_cpl_0),
        TEST(rdtsc_obeys_tsd),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
