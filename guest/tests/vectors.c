/* x87, SSE, AVX and AVX-512 state: what XSAVE and its kin keep, CR4 and XCR0 as gates, state across interrupts and ring changes. */
#include "irq.h"
#include "paging.h"
#include "test.h"

#define XCR0_X87 1u
#define XCR0_SSE 2u
#define XCR0_AVX 4u
#define XCR0_AVX512 0xe0u

static uint8_t area[4096] __attribute__((aligned(64))), second[4096] __attribute__((aligned(64)));
static uint8_t in[8][64] __attribute__((aligned(64))), out[8][64] __attribute__((aligned(64)));

static void fill(uint8_t seed)
{
    for (unsigned i = 0; i < sizeof(in); i++)
        (&in[0][0])[i] = (uint8_t)(seed + i * 7);
    memset(out, 0, sizeof(out));
}

/* XMM0-XMM7 from `in` and into `out`. */
#define EACH(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7)
#define LOAD_XMM(n) "movups " #n "*64(%0), %%xmm" #n "\n\t"
#define STORE_XMM(n) "movups %%xmm" #n ", " #n "*64(%0)\n\t"
#define LOAD_YMM(n) "vmovups " #n "*64(%0), %%ymm" #n "\n\t"
#define STORE_YMM(n) "vmovups %%ymm" #n ", " #n "*64(%0)\n\t"
#define LOAD_ZMM(n) "vmovups " #n "*64(%0), %%zmm" #n "\n\t"
#define STORE_ZMM(n) "vmovups %%zmm" #n ", " #n "*64(%0)\n\t"
#define VECTORS(ops, p) __asm__ volatile(EACH(ops) : : "r"(p) : "memory")

static void check_out(unsigned bytes)
{
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(in[i], out[i], bytes))
            test_fail(__FILE_NAME__, __LINE__, "register %u differs", i);
}

static void xsave_masked(void *to, uint32_t mask)
{
    __asm__ volatile("xsave64 (%0)" : : "r"(to), "a"(mask), "d"(0) : "memory");
}

static void xrstor_masked(const void *from, uint32_t mask)
{
    __asm__ volatile("xrstor64 (%0)" : : "r"(from), "a"(mask), "d"(0) : "memory");
}

static void fxsave_and_fxrstor(void)
{
    uint16_t control = 0x027f;
    double d = 0;

    fill(1);
    __asm__ volatile("fninit; fldpi; fld1; fldcw %0" : : "m"(control));
    VECTORS(LOAD_XMM, in);
    __asm__ volatile("fxsave64 (%0)" : : "r"(area) : "memory");
    check_eq(*(uint16_t *)area, 0x027f);
    check_eq(area[4], 0xc0); /* the abridged tag word: two registers */
    check_eq(*(uint32_t *)(area + 24), 0x1f80);
    check_eq(memcmp(area + 160, in[0], 16), 0);
    __asm__ volatile("fninit");
    fill(2);
    VECTORS(LOAD_XMM, in);
    __asm__ volatile("fxrstor64 (%0)" : : "r"(area) : "memory");
    fill(1);
    VECTORS(STORE_XMM, out);
    check_out(16);
    __asm__ volatile("fstpl %0; fnstcw %1; fninit" : "=m"(d), "=m"(control));
    check_eq(*(uint64_t *)&d, 0x3ff0000000000000);
    check_eq(control, 0x027f);
    TRY("fxsave64 (%0)", : : "r"(area + 8) : "memory");
    check_fault_but_qemu(EXC_GP, 0, "FXSAVE's alignment is not checked");
    *(uint32_t *)(area + 24) = 0x10000;
    TRY("fxrstor64 (%0)", : : "r"(area) : "memory");
    check_fault_but_qemu(EXC_GP, 0, "reserved bits of MXCSR are not checked");
}

static void x87_pointers_are_the_guests(void)
{
    static double one = 1;
    struct {
        uint16_t control, r0, status, r1, tag, r2;
        uint32_t fip;
        uint16_t fcs, opcode;
        uint32_t fdp;
        uint16_t fds, r3;
    } env;
    word at = 0;

    if (cpu_is_tcg())
        test_skip("TCG keeps no pointers");
    __asm__ volatile("fninit\n\tlea 1f(%%rip), %1\n1: fldl %2\n\tfldz\n\tfdivl %2\n\tfnstenv %0"
                     : "=m"(env), "=&r"(at)
                     : "m"(one)
                     : "memory");
    /* Some CPUs update the pointers only for unmasked errors: what they say must be a guest address. */
    check(env.fip == 0 || (env.fip >= at && env.fip < at + 32));
    check(env.fdp == 0 || env.fdp == (uint32_t)(word)&one);
    __asm__ volatile("fninit; fldl %1; fxsave64 (%0); fninit" : : "r"(area), "m"(one) : "memory");
    uint64_t fip = *(uint64_t *)(area + 8), fdp = *(uint64_t *)(area + 16);
    check(fip == 0 || (fip & ~0xfffffUL) == 0x100000);
    check(fdp == 0 || fdp == (word)&one);
}

static void xsave_and_xrstor(void)
{
    if (!cpu_has(F_XSAVE) || !cpu_has(F_AVX))
        test_skip("no AVX");
    fill(3);
    memset(area, 0, sizeof(area));
    VECTORS(LOAD_YMM, in);
    xsave_masked(area, 7);
    check_eq(*(uint64_t *)(area + 512) & 6, 6);
    check_eq(memcmp(area + 160, in[0], 16), 0);
    check_eq(memcmp(area + 576, in[0] + 16, 16), 0);
    fill(4);
    VECTORS(LOAD_YMM, in);
    xrstor_masked(area, 7);
    fill(3);
    VECTORS(STORE_YMM, out);
    check_out(32);
    *(uint64_t *)(area + 512) &= ~4ull; /* initial state of the upper halves */
    xrstor_masked(area, 7);
    VECTORS(STORE_YMM, out);
    for (unsigned i = 0; i < 8; i++) {
        check_eq(memcmp(out[i], in[i], 16), 0);
        check_eq(*(uint64_t *)(out[i] + 16) | *(uint64_t *)(out[i] + 24), 0);
    }
    *(uint64_t *)(area + 512) |= BIT(62);
    TRY("xrstor64 (%0)", : : "r"(area), "a"(7), "d"(0) : "memory");
    check_fault(EXC_GP, 0);
    TRY("xsave64 (%0)", : : "r"(area + 16), "a"(7), "d"(0) : "memory");
    check_fault(EXC_GP, 0);
}

static void avx512_state(void)
{
    uint32_t k = 0;

    if (!cpu_has(F_AVX512F))
        test_skip("no AVX-512");
    fill(5);
    VECTORS(LOAD_ZMM, in);
    __asm__ volatile("kmovw %0, %%k3; vmovups (%1), %%zmm25" : : "r"(0x1234), "r"(in[2]));
    memset(area, 0, sizeof(area));
    xsave_masked(area, 0xe7);
    __asm__ volatile("vzeroall; kxorw %%k3, %%k3, %%k3; vpxord %%zmm25, %%zmm25, %%zmm25" : :);
    xrstor_masked(area, 0xe7);
    VECTORS(STORE_ZMM, out);
    check_out(64);
    __asm__ volatile("kmovw %%k3, %0; vmovups %%zmm25, (%1)" : "=r"(k) : "r"(out[2]) : "memory");
    check_eq(k, 0x1234);
    check_eq(memcmp(in[2], out[2], 64), 0);
    VECTORS(LOAD_XMM, in); /* legacy SSE keeps the upper parts, VEX clears them */
    VECTORS(STORE_ZMM, out);
    check_out(64);
    __asm__ volatile("vmovups (%0), %%xmm0; vmovups %%zmm0, (%1)" : : "r"(in[0]), "r"(out[0]) : "memory");
    check_eq(memcmp(in[0], out[0], 16), 0);
    for (unsigned i = 16; i < 64; i++)
        check_eq(out[0][i], 0);
}

static void compacted_form(void)
{
    if (!cpu_has(F_XSAVEC) || !cpu_has(F_AVX))
        test_skip("no XSAVEC");
    fill(6);
    VECTORS(LOAD_YMM, in);
    memset(second, 0, sizeof(second));
    __asm__ volatile("xsavec64 (%0)" : : "r"(second), "a"(6), "d"(0) : "memory");
    check_eq(*(uint64_t *)(second + 520), BIT(63) | 6);
    check_eq(memcmp(second + 576, in[0] + 16, 16), 0);
    fill(7);
    VECTORS(LOAD_YMM, in);
    xrstor_masked(second, 6);
    fill(6);
    VECTORS(STORE_YMM, out);
    check_out(32);
}

static void xsaveopt_and_xgetbv1(void)
{
    if (!cpu_has(F_XSAVEOPT) || !cpu_has(F_XGETBV1) || !cpu_has(F_AVX))
        test_skip("no XSAVEOPT or XGETBV with ECX = 1");
    __asm__ volatile("vzeroall");
    check_but_qemu(!(xgetbv(1) & XCR0_AVX), "what is used is not tracked");
    fill(8);
    VECTORS(LOAD_YMM, in);
    check_eq(xgetbv(1) & XCR0_AVX, XCR0_AVX);
    memset(area, 0, sizeof(area));
    __asm__ volatile("xsaveopt64 (%0)" : : "r"(area), "a"(7), "d"(0) : "memory");
    check_eq(*(uint64_t *)(area + 512) & 4, 4);
    check_eq(memcmp(area + 576, in[0] + 16, 16), 0);
}

static void gates_of_cr4_and_xcr0(void)
{
    uint32_t all = (uint32_t)xgetbv(0);

    if (!cpu_has(F_AVX))
        test_skip("no AVX");
    write_cr0(read_cr0() | CR0_TS);
    TRY("vaddps %%ymm0, %%ymm0, %%ymm0", : : : "memory");
    check_fault(EXC_NM, 0);
    write_cr0(read_cr0() & ~(word)CR0_TS);
    xsetbv(0, XCR0_X87 | XCR0_SSE);
    TRY("vaddps %%ymm0, %%ymm0, %%ymm0", : : : "memory");
    check_fault(EXC_UD, 0);
    TRY("addps %%xmm0, %%xmm0", : : : "memory");
    check_no_fault();
    xsetbv(0, all);
    TRY("vaddps %%ymm0, %%ymm0, %%ymm0", : : : "memory");
    check_no_fault();
    TRY("xsetbv", : : "c"(0), "a"(XCR0_AVX | XCR0_X87), "d"(0) : "memory"); /* AVX needs SSE */
    check_fault(EXC_GP, 0);
    TRY("xsetbv", : : "c"(0), "a"(XCR0_SSE), "d"(0) : "memory"); /* x87 can't be off */
    check_fault(EXC_GP, 0);
    TRY("xsetbv", : : "c"(0), "a"(all), "d"(0x40000000) : "memory");
    check_fault(EXC_GP, 0);
    TRY("xsetbv", : : "c"(1), "a"(all), "d"(0) : "memory");
    check_fault(EXC_GP, 0);
    TRY_USER("xsetbv", : : "c"(0), "a"(all), "d"(0) : "memory");
    check_fault(EXC_GP, 0);
    TRY_USER("xgetbv", : : "c"(0) : "memory", "rax", "rdx");
    check_no_fault();
    write_cr4(read_cr4() & ~(word)CR4_OSXSAVE);
    check_eq(cpuid(1, 0).c >> 27 & 1, 0);
    TRY("xgetbv", : : "c"(0) : "memory", "rax", "rdx");
    check_fault(EXC_UD, 0);
    TRY("vaddps %%ymm0, %%ymm0, %%ymm0", : : : "memory");
    check_fault(EXC_UD, 0);
    write_cr4(read_cr4() | CR4_OSXSAVE);
}

/* Registers must come through interrupts, faults and ring changes untouched: the library uses no vectors. */
static void state_outlives_faults(void)
{
    if (!cpu_has(F_AVX))
        test_skip("no AVX");
    fill(9);
    VECTORS(LOAD_YMM, in);
    for (unsigned i = 0; i < 100; i++) {
        TRY("ud2", : : : "memory");
        TRY_USER("cpuid\nint $0x80", : : : "memory", "rax", "rbx", "rcx", "rdx");
        TRY("movb (%0), %%al", : : "r"(TEST_HIGH) : "memory", "rax");
    }
    VECTORS(STORE_YMM, out);
    check_out(32);
}

static volatile unsigned ticks;

static void on_tick(struct trap_frame *f)
{
    (void)f;
    ticks++;
    apic_eoi();
}

/* Sums in vector and x87 registers while a timer interrupts. */
static void state_outlives_interrupts(void)
{
    static const uint64_t ones[4] __attribute__((aligned(32))) = {1, 1, 1, 1};
    uint64_t sums[4], x87 = 0, rounds = 0;

    if (!cpu_has(F_AVX2))
        test_skip("no AVX2");
    ticks = 0;
    set_handler(0x50, on_tick);
    apic_enable();
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, 0x50 | LVT_PERIODIC);
    apic_write(APIC_TIMER_COUNT, 200000);
    sti();
    __asm__ volatile("fninit; fldz; vpxor %%ymm5, %%ymm5, %%ymm5; vmovdqa (%0), %%ymm6" : : "r"(ones));
    do {
        __asm__ volatile("movl $100000, %%ecx\n"
                         "1: vpaddq %%ymm6, %%ymm5, %%ymm5; fld1; faddp; decl %%ecx; jnz 1b"
                         :
                         :
                         : "memory", "rcx");
        rounds++;
    } while (ticks < 20);
    cli();
    __asm__ volatile("vmovdqu %%ymm5, (%1); fistpll %0" : "=m"(x87) : "r"(sums) : "memory");
    apic_disable_lvts();
    check_eq(x87, rounds * 100000);
    for (unsigned i = 0; i < 4; i++)
        check_eq(sums[i], rounds * 100000);
}

GUEST_TESTS({"FXSAVE and FXRSTOR", fxsave_and_fxrstor}, {"x87 pointers are guest addresses", x87_pointers_are_the_guests},
            {"XSAVE and XRSTOR", xsave_and_xrstor}, {"AVX-512 state", avx512_state}, {"XSAVEC", compacted_form},
            {"XSAVEOPT and XINUSE", xsaveopt_and_xgetbv1}, {"CR0.TS, CR4.OSXSAVE and XCR0", gates_of_cr4_and_xcr0},
            {"vectors outlive faults", state_outlives_faults}, {"vectors outlive interrupts", state_outlives_interrupts});
