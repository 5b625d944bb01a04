/* The CPU model: what is offered, what never is, and that its leaves agree with each other. */
#include "soft_fake.h"
#include "x86/paging.h"

enum { EAX, EBX, ECX, EDX };

static void ask(struct fake *f, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    cpuid_guest(&f->cpu, leaf, sub, out);
}

static void what_a_64_bit_kernel_needs_is_offered(void **state)
{
    static const enum x86_feature needed[] = {
        X86_FPU,        X86_TSC,           X86_MSR,        X86_PAE,    X86_CX8,          X86_PGE,
        X86_CMOV,       X86_PAT,           X86_FXSR,       X86_SSE,    X86_SSE2,         X86_LM,
        X86_NX,         X86_SYSCALL,       X86_APIC,       X86_X2APIC, X86_TSC_DEADLINE, X86_ARAT,
        X86_TSC_ADJUST, X86_INVARIANT_TSC, X86_HYPERVISOR, X86_ERMS,   X86_FSRM,         X86_FSGSBASE,
        X86_SMEP,       X86_UMIP,          X86_PDPE1GB,    X86_RDTSCP, X86_XSAVE,        X86_XSAVEC,
        X86_XGETBV1,
    };
    struct fake *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(needed); i++)
        assert_true(cpuid_offers(&f->svm, needed[i]));
}

static void what_the_engine_cannot_do_is_never_offered(void **state)
{
    static const enum x86_feature absent[] = {
        X86_MONITOR, X86_VMX, X86_SMX, X86_PCID, X86_INVPCID, X86_VME,   X86_MCE,      X86_RTM,     X86_SMAP,  X86_PKU,     X86_LA57,
        X86_XSAVES,  X86_SVM, X86_XOP, X86_FMA4, X86_TBM,     X86_3DNOW, X86_3DNOWEXT, X86_INVLPGB, X86_RDPRU, X86_WAITPKG, X86_OSXSAVE,
    };
    struct fake *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(absent); i++)
        assert_false(cpuid_offers(&f->svm, absent[i]));
}

static void a_native_feature_needs_the_host(void **state)
{
    struct fake *f = *state;

    assert_int_equal(cpuid_offers(&f->svm, X86_AVX2), __builtin_cpu_supports("avx2") != 0);
    assert_int_equal(cpuid_offers(&f->svm, X86_AVX512F), __builtin_cpu_supports("avx512f") != 0);
    assert_int_equal(cpuid_offers(&f->svm, X86_AVX512_VBMI2), __builtin_cpu_supports("avx512vbmi2") != 0);
    assert_int_equal(cpuid_offers(&f->svm, X86_BMI2), __builtin_cpu_supports("bmi2") != 0);
    assert_int_equal(cpuid_offers(&f->svm, X86_POPCNT), __builtin_cpu_supports("popcnt") != 0);
}

static void leaf_1_mirrors_cr4_and_the_apic(void **state)
{
    struct fake *f = *state;
    uint32_t out[4];

    f->vcpu.apic_id = 5;
    ask(f, 1, 0, out);
    assert_true(out[ECX] & BIT(27));
    assert_true(out[EDX] & BIT(9));
    assert_int_equal(out[EBX] >> 24, 5);
    f->cpu.cr4 &= ~CR4_OSXSAVE;
    f->cpu.apic_base = 0xfee00000;
    ask(f, 1, 0, out);
    assert_false(out[ECX] & BIT(27));
    assert_false(out[EDX] & BIT(9));
}

static void the_hypervisor_leaf_is_kvms(void **state)
{
    struct fake *f = *state;
    uint32_t out[4];

    ask(f, 0x40000000, 0, out);
    assert_int_equal(out[EAX], 0x40000001);
    assert_memory_equal(&out[EBX], "KVMKVMKVM\0\0\0", 12);
    ask(f, 0x40000001, 0, out);
    assert_int_equal(out[EAX], BIT(1) | BIT(3) | BIT(24));
}

static void xsave_sizes_follow_xcr0(void **state)
{
    struct fake *f = *state;
    uint64_t all = f->svm.cpuid->xcr0;
    uint32_t out[4], sub[4];

    f->cpu.xcr0 = XCR0_X87;
    ask(f, 0xd, 0, out);
    assert_int_equal(out[EAX], (uint32_t)all);
    assert_int_equal(out[EBX], 576);
    f->cpu.xcr0 = all;
    ask(f, 0xd, 0, out);
    assert_int_equal(out[EBX], out[ECX]);
    assert_true(out[ECX] <= XSAVE_MAX);
    for (unsigned i = XSTATE_AVX; i < 63; i++) {
        ask(f, 0xd, i, sub);
        if (!(all & BIT(i))) {
            assert_int_equal(sub[EAX] | sub[EBX], 0);
            continue;
        }
        assert_true(sub[EAX] && sub[EBX] + sub[EAX] <= out[ECX]);
    }
    ask(f, 0xd, 1, sub);
    assert_true(sub[EBX] <= out[EBX]);
    assert_false(sub[EAX] & BIT(3)); /* XSAVES */
}

static void address_widths_agree_with_paging(void **state)
{
    struct fake *f = *state;
    uint32_t out[4];

    ask(f, 0x80000008, 0, out);
    assert_int_equal(out[EAX] & 0xff, GUEST_PHYS_BITS);
    assert_int_equal(out[EAX] >> 8 & 0xff, 48);
}

static void topology_has_a_core_for_each_vcpu(void **state)
{
    struct fake *f = *state;
    uint32_t out[4];

    f->vm.topology = (struct x86_topology){.sockets = 1, .cores = 6, .threads = 1};
    f->vcpu.apic_id = 4;
    ask(f, 0xb, 0, out);
    assert_int_equal(out[EAX], 0);
    assert_int_equal(out[EBX], 1);
    assert_int_equal(out[ECX], 0x100);
    assert_int_equal(out[EDX], 4);
    ask(f, 0xb, 1, out);
    assert_int_equal(out[EAX], 3);
    assert_int_equal(out[EBX], 6);
    assert_int_equal(out[ECX], 0x201);
    ask(f, 0xb, 2, out);
    assert_int_equal(out[EBX], 0);
    assert_int_equal(out[ECX], 2);
    assert_int_equal(out[EDX], 4);
    ask(f, 1, 0, out);
    assert_true(out[EDX] & BIT(28));
    assert_int_equal(out[EBX] >> 16 & 0xff, f->svm.cpuid->amd ? 6 : 8);
}

/* 0x80000005 and 0x80000006 as a Zen 4 has them. */
static void amd_caches_follow_from_the_older_leaves(void **state)
{
    static const uint32_t l1[4] = {0, 0, 0x20080140, 0x20080140}, l2_l3[4] = {0, 0, 0x04006140, 0x00409140};
    static const struct {
        uint32_t eax, ways, sets;
    } want[] = {
        {1 | 1 << 5 | 1 << 8, 8, 64}, {2 | 1 << 5 | 1 << 8, 8, 64}, {3 | 2 << 5 | 1 << 8, 8, 2048}, {3 | 3 << 5 | 1 << 8, 16, 8192}};
    uint32_t out[4], none[4] = {0}, full[4] = {0, 0, 0x20ff0140, 0};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
        assert_true(cpuid_amd_cache(l1, l2_l3, i, out));
        assert_int_equal(out[EAX], want[i].eax);
        assert_int_equal(out[EBX], 63 | (want[i].ways - 1) << 22);
        assert_int_equal(out[ECX], want[i].sets - 1);
    }
    assert_false(cpuid_amd_cache(l1, l2_l3, 4, out));
    assert_false(cpuid_amd_cache(none, none, 0, out));
    assert_true(cpuid_amd_cache(full, none, 0, out));
    assert_int_equal(out[EAX] >> 9 & 1, 1);
    assert_int_equal(out[EBX], 63 | 511u << 22);
}

static void leaves_that_do_not_exist_are_zero(void **state)
{
    static const uint32_t leaves[] = {3,    5,    0xa,        0xc,        0xf,        0x10,       0x12,       0x14,
                                      0x15, 0x1d, 0x40000002, 0x80000009, 0x8000000a, 0x8000001f, 0x90000000, 0xffffffff};
    struct fake *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
        uint32_t out[4];
        ask(f, leaves[i], 0, out);
        assert_int_equal(out[EAX] | out[EBX] | out[ECX] | out[EDX], 0);
    }
}

static void cpuid_zero_extends_its_registers(void **state)
{
    struct fake *f = *state;
    uint32_t out[4];

    f->cpu.gpr[GPR_RAX] = 0xffffffff00000007;
    f->cpu.gpr[GPR_RCX] = 0xffffffff00000000;
    f->cpu.gpr[GPR_RBX] = f->cpu.gpr[GPR_RDX] = UINT64_MAX;
    assert_int_equal(RUN(f, 0x0f, 0xa2), SOFT_OK);
    ask(f, 7, 0, out);
    assert_true(f->cpu.gpr[GPR_RAX] == out[EAX] && f->cpu.gpr[GPR_RBX] == out[EBX]);
    assert_true(f->cpu.gpr[GPR_RCX] == out[ECX] && f->cpu.gpr[GPR_RDX] == out[EDX]);
}

static void the_description_names_every_offered_feature_within_its_buffer(void **state)
{
    char whole[4096], small[8];
    int len = cpuid_describe(whole, sizeof(whole));

    (void)state;
    assert_int_equal(len, strlen(whole));
    assert_non_null(strstr(whole, "sse2 "));
    assert_non_null(strstr(whole, "x2apic"));
    assert_null(strstr(whole, "  "));
    assert_int_equal(cpuid_describe(small, sizeof(small)), len);
    assert_int_equal(strlen(small), sizeof(small) - 1);
    assert_int_equal(cpuid_describe(NULL, 0), len);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_a_64_bit_kernel_needs_is_offered),
        TEST(what_the_engine_cannot_do_is_never_offered),
        TEST(a_native_feature_needs_the_host),
        TEST(leaf_1_mirrors_cr4_and_the_apic),
        TEST(the_hypervisor_leaf_is_kvms),
        TEST(xsave_sizes_follow_xcr0),
        TEST(address_widths_agree_with_paging),
        TEST(topology_has_a_core_for_each_vcpu),
        TEST(amd_caches_follow_from_the_older_leaves),
        TEST(leaves_that_do_not_exist_are_zero),
        TEST(cpuid_zero_extends_its_registers),
        TEST(the_description_names_every_offered_feature_within_its_buffer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
