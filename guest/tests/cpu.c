/* CPUID that agrees with itself and with what the CPU does; MSRs; the time-stamp counter. */
#include "irq.h"
#include "paging.h"
#include "test.h"

#define MSR_KVM_SYSTEM_TIME 0x4b564d01u
#define LEAF_KVM 0x40000000u

static void leaves_are_in_range(void)
{
    struct cpuid max = cpuid(0, 0), extended = cpuid(0x80000000, 0);

    check(max.a >= 0xd && max.a < 0x100);
    check(extended.a >= 0x80000008 && extended.a < 0x80000100);
    check(cpu_is_amd() || max.c == 0x6c65746e); /* "GenuineIntel" */
    if (cpu_is_amd()) {
        check_eq(extended.b, max.b);
        check_eq(extended.c, max.c);
        check_eq(extended.d, max.d);
    }
    struct cpuid out = cpuid(0x8fffffff, 0);
    if (cpu_is_amd() && !cpu_is_tcg())
        check_eq(out.a | out.b | out.c | out.d, 0);
    check_eq(cpuid(1, 0).b >> 24, apic_read(APIC_ID) >> 24);
    check(cpuid(1, 0).c >> 31); /* a hypervisor */
}

static void needed_features_are_there(void)
{
    static const uint64_t needed[] = {F_CX16, F_POPCNT, F_PSE, F_APIC, F_PGE, F_LAHF_LM, F_RDTSCP};

    for (unsigned i = 0; i < ARRAY_SIZE(needed); i++)
        if (!cpu_has(needed[i]))
            test_fail(__FILE_NAME__, __LINE__, "feature %u is missing", i);
    check(cpuid(0x80000001, 0).d >> 29 & 1); /* long mode */
    check(cpuid(0x80000001, 0).d >> 20 & 1); /* NX */
    check((cpuid(0x80000008, 0).a & 0xff) >= 36);
    check((cpuid(0x80000008, 0).a >> 8 & 0xff) >= 48);
}

static void osxsave_mirrors_cr4(void)
{
    if (!cpu_has(F_XSAVE))
        test_skip("no XSAVE");
    check_eq(cpuid(1, 0).c >> 27 & 1, 1);
    write_cr4(read_cr4() & ~(word)CR4_OSXSAVE);
    check_eq(cpuid(1, 0).c >> 27 & 1, 0);
    write_cr4(read_cr4() | CR4_OSXSAVE);
    check_eq(cpuid(1, 0).c >> 27 & 1, 1);
}

static void xsave_leaf_agrees(void)
{
    uint32_t size = 576;

    if (!cpu_has(F_XSAVE))
        test_skip("no XSAVE");
    struct cpuid d = cpuid(0xd, 0);
    for (unsigned i = 2; i < 32; i++) {
        struct cpuid c = cpuid(0xd, i);
        if (!(d.a >> i & 1))
            continue;
        check(c.a != 0 && c.b >= 576);
        if (c.b + c.a > size)
            size = c.b + c.a;
    }
    check_eq(d.c, size);
    xsetbv(0, d.a & 7);
    check(cpuid(0xd, 0).b <= d.c);
    xsetbv(0, 1);
    check_eq(cpuid(0xd, 0).b, 576); /* by what is enabled */
    check_eq(cpuid(0xd, 0).c, d.c);
    xsetbv(0, d.a & 0xe7);
}

/* An instruction that is offered works, one that is not is #UD (TCG decodes some of them all the same). */
#define check_offered(feature)                                                                                                             \
    do {                                                                                                                                   \
        if (cpu_has(feature))                                                                                                              \
            check_no_fault();                                                                                                              \
        else                                                                                                                               \
            check_fault_but_qemu(EXC_UD, 0, #feature " works without being offered");                                                      \
    } while (0)

static void offered_is_what_works(void)
{
    word v = 0;

    TRY("rdrand %0", : "=r"(v) : : "memory");
    check_offered(F_RDRAND);
    TRY("rdseed %0", : "=r"(v) : : "memory");
    check_offered(F_RDSEED);
    TRY("movbe %1, %0", : "=r"(v) : "m"(v) : "memory");
    check_offered(F_MOVBE);
    TRY("adcx %0, %0", : "+r"(v) : : "memory");
    check_offered(F_ADX);
    TRY("andn %0, %0, %0", : "+r"(v) : : "memory");
    check_offered(F_BMI1);
    TRY("pdep %0, %0, %0", : "+r"(v) : : "memory");
    check_offered(F_BMI2);
    TRY("crc32b %b0, %k0", : "+r"(v) : : "memory");
    check_offered(F_SSE42);
    TRY("aesenc %%xmm0, %%xmm0", : : : "memory");
    check_offered(F_AES);
    TRY("sha1msg1 %%xmm0, %%xmm0", : : : "memory");
    check_offered(F_SHA);
    TRY("vpaddd %%ymm0, %%ymm0, %%ymm0", : : : "memory");
    check_offered(F_AVX2);
    TRY("vpaddd %%zmm0, %%zmm0, %%zmm0", : : : "memory");
    check_offered(F_AVX512F);
    TRY("rdpid %0", : "=r"(v) : : "memory");
    check_offered(F_RDPID);
    if (!cpu_has(F_MONITOR)) {
        TRY("monitor", : : "a"(&v), "c"(0), "d"(0) : "memory");
        check_fault(EXC_UD, 0);
    }
    if (!cpu_has(F_SVM)) {
        TRY("vmsave", : : "a"(0) : "memory");
        check_fault(EXC_UD, 0);
    }
}

static void unknown_msrs_fault(void)
{
    static const uint32_t unknown[] = {0x12345678, 0xc0009999, 0x480, 0xffffffff};

    if (cpu_is_tcg())
        test_skip("TCG reads them as 0");
    for (unsigned i = 0; i < ARRAY_SIZE(unknown); i++) {
        TRY("rdmsr", : : "c"(unknown[i]) : "memory", "rax", "rdx");
        check_fault(EXC_GP, 0);
        TRY("wrmsr", : : "c"(unknown[i]), "a"(0), "d"(0) : "memory");
        check_fault(EXC_GP, 0);
    }
}

static void efer_and_pat(void)
{
    check_eq(rdmsr(MSR_EFER) & (EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE), EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE);
    if (!cpu_is_tcg()) {
        TRY("wrmsr", : : "c"(MSR_EFER), "a"((uint32_t)rdmsr(MSR_EFER) & ~(uint32_t)EFER_LME), "d"(0) : "memory");
        check_fault(EXC_GP, 0); /* not while paging is on */
        TRY("wrmsr", : : "c"(MSR_EFER), "a"((uint32_t)rdmsr(MSR_EFER)), "d"(1) : "memory");
        check_fault(EXC_GP, 0);
        TRY("wrmsr", : : "c"(MSR_PAT), "a"(0x02), "d"(0) : "memory"); /* type 2 is reserved */
        check_fault(EXC_GP, 0);
    }
    uint64_t pat = rdmsr(MSR_PAT);
    check_eq(pat, 0x0007040600070406);
    wrmsr(MSR_PAT, 0x0007010600070106);
    check_eq(rdmsr(MSR_PAT), 0x0007010600070106);
    wrmsr(MSR_PAT, pat);
}

static void tsc_goes_up(void)
{
    uint64_t last = rdtsc();

    for (unsigned i = 0; i < 100000; i++) {
        uint64_t now = rdtsc();
        check(now >= last);
        last = now;
    }
    if (cpu_has(F_RDTSCP)) {
        uint32_t lo, hi, aux;
        wrmsr(MSR_TSC_AUX, 0x1234);
        __asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
        check_eq(aux, 0x1234);
        check(((uint64_t)hi << 32 | lo) >= last);
    }
    if (cpu_has(F_RDPID)) {
        word pid;
        __asm__ volatile("rdpid %0" : "=r"(pid));
        check_eq(pid, 0x1234);
    }
}

static void tsc_disable(void)
{
    write_cr4(read_cr4() | CR4_TSD);
    TRY_USER("rdtsc", : : : "memory", "rax", "rdx");
    check_fault(EXC_GP, 0);
    TRY("rdtsc", : : : "memory", "rax", "rdx");
    check_no_fault();
    write_cr4(read_cr4() & ~(word)CR4_TSD);
    TRY_USER("rdtsc", : : : "memory", "rax", "rdx");
    check_no_fault();
}

static void tsc_adjust(void)
{
    if (!cpu_has(F_TSC_ADJUST))
        test_skip("no TSC_ADJUST");
    uint64_t before = rdmsr(MSR_TSC_ADJUST), big = 1ull << 50;

    wrmsr(MSR_TSC_ADJUST, before + big);
    check(rdtsc() >= big);
    wrmsr(MSR_TSC_ADJUST, before);
    check(rdtsc() < big);
    uint64_t now = rdtsc();
    wrmsr(MSR_TSC, now + big); /* a write to the TSC moves TSC_ADJUST along */
    uint64_t moved = rdmsr(MSR_TSC_ADJUST) - before;
    check(moved <= big && moved > big - big / 2);
    wrmsr(MSR_TSC_ADJUST, before);
    check(rdtsc() < big);
}

/* Against the PIT: only that both run, and at rates of one order. */
static void tsc_and_pit_agree(void)
{
    uint64_t start = rdtsc();

    pit_delay_us(20000);
    check((rdtsc() - start) / 20 > tsc_per_ms() / 4);
}

static void kvm_clock(void)
{
    static struct {
        uint32_t version, pad;
        uint64_t tsc, ns;
        uint32_t mul;
        int8_t shift;
        uint8_t flags, pad2[2];
    } clock __attribute__((aligned(64)));
    struct cpuid base = cpuid(LEAF_KVM, 0);

    if (base.b != 0x4b4d564b) /* "KVMKVMKVM" */
        test_skip("no KVM leaf");
    check(base.a >= 0x40000001);
    check(cpuid(0x40000001, 0).a >> 3 & 1); /* CLOCKSOURCE2 */
    wrmsr(MSR_KVM_SYSTEM_TIME, (word)&clock | 1);
    check(clock.version && !(clock.version & 1));
    check(clock.mul != 0);
    check(clock.tsc <= rdtsc());
    /* The frequency that it tells, against the one measured: a quarter off at most. */
    uint64_t khz = (1000000ull << 32) / clock.mul;
    khz = clock.shift < 0 ? khz << -clock.shift : khz >> clock.shift;
    uint64_t measured = tsc_per_ms();
    check(khz < measured * 2 && khz * 2 > measured);
    wrmsr(MSR_KVM_SYSTEM_TIME, 0);
    check_eq(rdmsr(MSR_KVM_SYSTEM_TIME), 0);
}

static void nops_and_hints_do_nothing(void)
{
    TRY("pause\nendbr64\nprefetcht0 (%0)\nnopl (%0)\nlfence\nmfence\nsfence", : : "r"(0x123456789UL) : "memory");
    check_no_fault();
    TRY("nopw (%0)", : : "r"(0x8000000000000000UL) : "memory"); /* not even a non-canonical address */
    check_no_fault();
    TRY("prefetchw (%0)", : : "r"(0x8000000000000000UL) : "memory");
    check_no_fault();
}

static void x2apic_mode(void)
{
    if (!cpu_has(F_X2APIC))
        test_skip("no x2APIC");
    uint64_t base = rdmsr(MSR_APIC_BASE);
    uint32_t id = apic_read(APIC_ID) >> 24, version = apic_read(APIC_VERSION);

    check_eq(base & 0xfffff000, 0xfee00000);
    check(base & BIT(8));                                  /* the BSP */
    TRY("rdmsr", : : "c"(0x802) : "memory", "rax", "rdx"); /* not yet */
    check_fault(EXC_GP, 0);
    wrmsr(MSR_APIC_BASE, base | BIT(10));
    check_eq(rdmsr(0x802), id);
    check_eq((uint32_t)rdmsr(0x803), version);
    TRY("wrmsr", : : "c"(0x802), "a"(0), "d"(0) : "memory"); /* read-only */
    check_fault(EXC_GP, 0);
    TRY("rdmsr", : : "c"(0x80b) : "memory", "rax", "rdx"); /* EOI is write-only */
    check_fault(EXC_GP, 0);
    TRY("wrmsr", : : "c"(0x80b), "a"(1), "d"(0) : "memory"); /* and takes only 0 */
    check_fault(EXC_GP, 0);
    TRY("wrmsr", : : "c"(MSR_APIC_BASE), "a"((uint32_t)base), "d"(0) : "memory"); /* back only by way of off */
    check_fault(EXC_GP, 0);
    wrmsr(MSR_APIC_BASE, base & ~(BIT(11) | BIT(10)));
    check_eq(cpuid(1, 0).d >> 9 & 1, 0);
    wrmsr(MSR_APIC_BASE, base);
    check_eq(apic_read(APIC_ID) >> 24, id);
}

GUEST_TESTS({"CPUID's leaves", leaves_are_in_range}, {"what every guest needs is offered", needed_features_are_there},
            {"OSXSAVE mirrors CR4", osxsave_mirrors_cr4}, {"leaf 0xd", xsave_leaf_agrees},
            {"what is offered works, the rest is #UD", offered_is_what_works}, {"#GP for unknown MSRs", unknown_msrs_fault},
            {"EFER and PAT", efer_and_pat}, {"the TSC goes up", tsc_goes_up}, {"CR4.TSD", tsc_disable}, {"TSC_ADJUST", tsc_adjust},
            {"the TSC and the PIT agree", tsc_and_pit_agree}, {"the KVM clock", kvm_clock}, {"hints do nothing", nops_and_hints_do_nothing},
            {"x2APIC mode", x2apic_mode});
