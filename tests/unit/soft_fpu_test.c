/* FXSAVE, XSAVE and their kin, FNSAVE, FNSTENV: memory and registers against the host's own. */
#include "soft_native.h"

#define AREA (ARENA + 0x4000)
#define AREA_BYTES 4096u

#define SNIPPET(name, text)                                                                                                                \
    __asm__(".text\n" #name "_start: " text "\n" #name "_end: ret\n");                                                                     \
    extern const uint8_t name##_start[], name##_end[]

SNIPPET(t_fxsave, "fxsave (%rdi)");
SNIPPET(t_fxsave64, "fxsave64 (%rdi)");
SNIPPET(t_fxrstor, "fxrstor (%rdi)");
SNIPPET(t_fxrstor64, "fxrstor64 (%rdi)");
SNIPPET(t_xsave, "xsave (%rdi)");
SNIPPET(t_xsave64, "xsave64 (%rdi)");
SNIPPET(t_xsaveopt, "xsaveopt64 (%rdi)");
SNIPPET(t_xsavec, "xsavec64 (%rdi)");
SNIPPET(t_xrstor, "xrstor (%rdi)");
SNIPPET(t_xrstor64, "xrstor64 (%rdi)");
SNIPPET(t_fnstenv, "fnstenv (%rdi)");
SNIPPET(t_fnstenv16, ".byte 0x66; fnstenv (%rdi)");
SNIPPET(t_fldenv, "fldenv (%rdi)");
SNIPPET(t_fldenv16, ".byte 0x66; fldenv (%rdi)");
SNIPPET(t_fnsave, "fnsave (%rdi)");
SNIPPET(t_fnsave16, ".byte 0x66; fnsave (%rdi)");
SNIPPET(t_frstor, "frstor (%rdi)");
SNIPPET(t_frstor16, ".byte 0x66; frstor (%rdi)");
SNIPPET(t_ldmxcsr, "ldmxcsr (%rdi)");
SNIPPET(t_stmxcsr, "stmxcsr (%rdi)");

#define T(name)                                                                                                                            \
    {                                                                                                                                      \
#name, name##_start, name##_end, false                                                                                             \
    }

/* The x87 registers of an image, those of an initial component as such. */
static void normal_x87(const uint8_t *image, uint8_t out[FX_XMM])
{
    memset(out, 0, FX_XMM);
    vec_put16(out, FCW_INIT);
    if (!(image[XSAVE_HEADER] & 1))
        return;
    memcpy(out, image, 5);
    for (unsigned i = 0; i < 8; i++)
        memcpy(out + FX_ST + 16 * i, image + FX_ST + 16 * i, 10);
}

/* Two parked images stand for the same registers. */
static void expect_same_state(struct fake *f, const uint8_t *ours, const uint8_t *native, const char *what)
{
    struct soft_cpu a = {.svm = &f->svm, .xsave = (uint8_t *)(uintptr_t)ours};
    struct soft_cpu b = {.svm = &f->svm, .xsave = (uint8_t *)(uintptr_t)native};
    uint8_t x[VECTOR_BYTES], y[VECTOR_BYTES], p[FX_XMM], q[FX_XMM];
    bool wide = f->svm.cpuid->xcr0 & XCR0_AVX512;

    for (unsigned i = 0; i < (wide ? 32u : 16u); i++) {
        vec_image_read(&a, i, x);
        vec_image_read(&b, i, y);
        if (memcmp(x, y, sizeof(x)) != 0)
            fail_msg("%s: vector register %u differs", what, i);
    }
    for (unsigned k = 0; k < 8 && wide; k++)
        if (vec_image_opmask(&a, k) != vec_image_opmask(&b, k))
            fail_msg("%s: k%u differs", what, k);
    normal_x87(ours, p);
    normal_x87(native, q);
    for (unsigned i = 0; i < sizeof(p); i++)
        if (p[i] != q[i])
            fail_msg("%s: x87 byte %u is %02x, not %02x", what, i, p[i], q[i]);
    if (vec_get32(ours + FX_MXCSR) != vec_get32(native + FX_MXCSR))
        fail_msg("%s: MXCSR is %x, not %x", what, vec_get32(ours + FX_MXCSR), vec_get32(native + FX_MXCSR));
}

/* The instruction on the host and here, from the same registers and the same memory. */
static void compare(struct fake *f, const struct snippet *t, uint64_t rfbm, uint64_t bv)
{
    static struct native n;
    static uint8_t before[AREA_BYTES], after[AREA_BYTES];
    int result;

    memset(&n, 0, offsetof(struct native, in));
    random_image(f->svm.cpuid, n.in, bv);
    n.rflags = FLAG_ONE;
    n.gpr[GPR_RAX] = (uint32_t)rfbm;
    n.gpr[GPR_RDX] = rfbm >> 32;
    n.gpr[GPR_RDI] = AREA;
    memcpy(before, (void *)AREA, AREA_BYTES);
    memcpy(f->cpu.xsave, n.in, XSAVE_MAX);
    memcpy(f->cpu.gpr, n.gpr, sizeof(n.gpr));
    native_run(&n, t->start);
    memcpy(after, (void *)AREA, AREA_BYTES);
    memcpy((void *)AREA, before, AREA_BYTES);
    result = fake_run(f, t->start, (unsigned)(t->end - t->start));
    if ((result != SOFT_OK) != n.faulted)
        fail_msg("%s: rfbm %lx bv %lx: ours %s", t->name, rfbm, bv, result == SOFT_OK ? "does not fault" : "faults");
    if (n.faulted) {
        assert_int_equal(f->cpu.exc.vector, EXC_GP);
        return;
    }
    for (unsigned i = 0; i < AREA_BYTES; i++)
        if (((uint8_t *)AREA)[i] != after[i])
            fail_msg("%s: rfbm %lx bv %lx: byte %u is %02x, not %02x", t->name, rfbm, bv, i, ((uint8_t *)AREA)[i], after[i]);
    expect_same_state(f, f->cpu.xsave, n.out, t->name);
}

static uint64_t random_mask(void)
{
    return random64() % 4 ? random64() & 0xff : UINT64_MAX;
}

static void saving_writes_what_the_host_writes(void **state)
{
    static const struct snippet tests[] = {T(t_fxsave),  T(t_fxsave64),  T(t_xsave),  T(t_xsave64),  T(t_xsaveopt), T(t_xsavec),
                                           T(t_fnstenv), T(t_fnstenv16), T(t_fnsave), T(t_fnsave16), T(t_stmxcsr)};

    for (unsigned i = 0; i < 4000; i++) {
        random_fill((void *)AREA, AREA_BYTES);
        compare(*state, &tests[i % ARRAY_SIZE(tests)], random_mask(), random_mask());
    }
}

/* An image to restore: standard or compacted, sometimes spoilt. */
static void make_area(struct fake *f)
{
    uint8_t *area = (void *)AREA;
    uint64_t bv = random_mask() & f->svm.cpuid->xcr0;

    random_image(f->svm.cpuid, area, bv);
    if (random64() & 1) {
        uint64_t xcomp = (bv | random_mask()) & f->svm.cpuid->xcr0;
        random_fill(area + XSAVE_EXTENDED, AREA_BYTES - XSAVE_EXTENDED);
        vec_put64(area + XSAVE_HEADER + 8, xcomp | XCOMP_COMPACTED);
    }
    if (random64() % 4 == 0) { /* a reserved bit somewhere in the header or MXCSR */
        unsigned bit = random64() % (24 * 8);
        area[XSAVE_HEADER + bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    if (random64() % 8 == 0)
        vec_put32(area + FX_MXCSR, (uint32_t)(random64() & 0x1ffff) | 0x1f80);
}

static void restoring_reads_what_the_host_reads_and_faults_where_it_does(void **state)
{
    static const struct snippet tests[] = {T(t_xrstor), T(t_xrstor64), T(t_fxrstor), T(t_fxrstor64)};
    struct fake *f = *state;

    for (unsigned i = 0; i < 8000; i++) {
        make_area(f);
        compare(f, &tests[i % ARRAY_SIZE(tests)], random_mask(), random_mask());
    }
}

static void environments_load_as_on_the_host(void **state)
{
    static const struct snippet tests[] = {T(t_fldenv), T(t_fldenv16), T(t_frstor), T(t_frstor16), T(t_ldmxcsr)};
    struct fake *f = *state;

    for (unsigned i = 0; i < 2000; i++) {
        random_fill((void *)AREA, AREA_BYTES);
        if (i % ARRAY_SIZE(tests) == 4)
            vec_put32((void *)AREA, (uint32_t)(random64() & 0x3ffff) | 0x1f80);
        compare(f, &tests[i % ARRAY_SIZE(tests)], 0, random_mask());
    }
}

static void pointers_of_the_host_are_never_shown(void **state)
{
    struct fake *f = *state;
    const uint8_t *area = (void *)AREA;

    random_image(f->svm.cpuid, f->cpu.xsave, UINT64_MAX);
    random_fill(f->cpu.xsave + FX_FOP, FX_MXCSR - FX_FOP);
    f->cpu.gpr[GPR_RDI] = AREA;
    assert_int_equal(fake_run(f, t_fxsave64_start, 4), SOFT_OK);
    for (unsigned i = FX_FOP; i < FX_MXCSR; i++)
        assert_int_equal(area[i], 0);
    f->cpu.gpr[GPR_RAX] = 1;
    memset((void *)AREA, 0xff, AREA_BYTES);
    assert_int_equal(fake_run(f, t_xsave64_start, 4), SOFT_OK);
    for (unsigned i = FX_FOP; i < FX_MXCSR; i++)
        assert_int_equal(area[i], 0);
}

static void alignment_and_mode_are_checked(void **state)
{
    struct fake *f = *state;

    f->cpu.gpr[GPR_RDI] = AREA + 16;
    assert_int_equal(fake_run(f, t_fxsave64_start, 4), SOFT_OK);
    expect_fault(f, fake_run(f, t_xsave64_start, 4), EXC_GP);
    expect_fault(f, fake_run(f, t_xrstor64_start, 4), EXC_GP);
    f->cpu.gpr[GPR_RDI] = AREA + 8;
    expect_fault(f, fake_run(f, t_fxsave64_start, 4), EXC_GP);
    f->cpu.cr0 |= CR0_TS;
    expect_fault(f, fake_run(f, t_fxsave64_start, 4), EXC_NM);
    expect_fault(f, fake_run(f, t_xsave64_start, 4), EXC_NM);
    f->cpu.cr4 &= ~CR4_OSXSAVE;
    expect_fault(f, fake_run(f, t_xsave64_start, 4), EXC_UD);
    f->cpu.cr0 = (f->cpu.cr0 & ~CR0_TS) | CR0_EM;
    expect_fault(f, fake_run(f, t_fxrstor64_start, 4), EXC_NM);
}

static void a_page_fault_changes_nothing(void **state)
{
    struct fake *f = *state;
    static uint8_t before[XSAVE_MAX], memory[PAGE_SIZE];
    uint64_t page = 0x5000;

    random_image(f->svm.cpuid, f->cpu.xsave, UINT64_MAX);
    memcpy(before, f->cpu.xsave, XSAVE_MAX);
    memcpy(memory, arena(page), PAGE_SIZE);
    fake_seen.page[6] = PAGE_ABSENT;
    f->cpu.gpr[GPR_RDI] = ARENA + page + PAGE_SIZE - 512; /* the header lies beyond */
    f->cpu.gpr[GPR_RAX] = f->cpu.gpr[GPR_RDX] = UINT32_MAX;
    expect_fault(f, fake_run(f, t_xsave64_start, 4), EXC_PF);
    assert_int_equal(f->cpu.exc.cr2, ARENA + page + PAGE_SIZE);
    expect_fault(f, fake_run(f, t_xrstor64_start, 4), EXC_PF);
    f->cpu.gpr[GPR_RDI] = ARENA + page + PAGE_SIZE - 20;
    expect_fault(f, fake_run(f, t_fnstenv_start, (unsigned)(t_fnstenv_end - t_fnstenv_start)), EXC_PF);
    assert_memory_equal(before, f->cpu.xsave, XSAVE_MAX);
    assert_memory_equal(memory, arena(page), PAGE_SIZE);
}

static void areas_across_pages_work(void **state)
{
    struct fake *f = *state;
    static uint8_t before[XSAVE_MAX];

    random_image(f->svm.cpuid, f->cpu.xsave, UINT64_MAX);
    memcpy(before, f->cpu.xsave, XSAVE_MAX);
    f->cpu.gpr[GPR_RDI] = ARENA + 0x5c40;
    f->cpu.gpr[GPR_RAX] = f->cpu.gpr[GPR_RDX] = UINT32_MAX;
    assert_int_equal(fake_run(f, t_xsavec_start, (unsigned)(t_xsavec_end - t_xsavec_start)), SOFT_OK);
    random_image(f->svm.cpuid, f->cpu.xsave, 0);
    assert_int_equal(fake_run(f, t_xrstor64_start, 4), SOFT_OK);
    expect_same_state(f, f->cpu.xsave, before, "across pages");
}

static void outside_64_bit_mode_the_upper_registers_stay(void **state)
{
    static const uint8_t xsave[] = {0x0f, 0xae, 0x27}, xrstor[] = {0x0f, 0xae, 0x2f}, fxrstor[] = {0x0f, 0xae, 0x0f};
    struct fake *f = *state;
    uint8_t before[VECTOR_BYTES], after[VECTOR_BYTES];

    random_image(f->svm.cpuid, f->cpu.xsave, UINT64_MAX);
    vec_image_read(&f->cpu, 8, before);
    fake_protected_mode(f, 32);
    f->cpu.gpr[GPR_RDI] = AREA;
    f->cpu.gpr[GPR_RAX] = f->cpu.gpr[GPR_RDX] = UINT32_MAX;
    memset((void *)AREA, 0xee, AREA_BYTES);
    assert_int_equal(fake_run(f, xsave, 3), SOFT_OK);
    assert_int_equal(((uint8_t *)AREA)[FX_XMM + 16 * 8], 0xee);
    memset((void *)AREA, 0, AREA_BYTES);
    assert_int_equal(fake_run(f, xrstor, 3), SOFT_OK); /* everything initial */
    vec_image_read(&f->cpu, 7, after);
    for (unsigned i = 0; i < VECTOR_BYTES; i++)
        assert_int_equal(after[i], 0);
    vec_image_read(&f->cpu, 8, after);
    assert_memory_equal(before, after, VECTOR_BYTES);
    assert_int_equal(fake_run(f, fxrstor, 3), SOFT_OK);
    vec_image_read(&f->cpu, 8, after);
    assert_memory_equal(before, after, VECTOR_BYTES);
}

static void waiting_instructions_report_a_pending_exception(void **state)
{
    struct fake *f = *state;

    random_image(f->svm.cpuid, f->cpu.xsave, UINT64_MAX);
    vec_put16(f->cpu.xsave + FX_FCW, 0x37e);
    vec_put16(f->cpu.xsave + FX_FSW, 0x8081);
    f->cpu.gpr[GPR_RDI] = AREA;
    expect_fault(f, fake_run(f, t_frstor_start, (unsigned)(t_frstor_end - t_frstor_start)), EXC_MF);
    assert_int_equal(fake_run(f, t_fnstenv_start, (unsigned)(t_fnstenv_end - t_fnstenv_start)), SOFT_OK);
    assert_int_equal(vec_get16(f->cpu.xsave + FX_FSW), 0x0001); /* masked now, nothing pends */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(saving_writes_what_the_host_writes),
        TEST(restoring_reads_what_the_host_reads_and_faults_where_it_does),
        TEST(environments_load_as_on_the_host),
        TEST(pointers_of_the_host_are_never_shown),
        TEST(alignment_and_mode_are_checked),
        TEST(a_page_fault_changes_nothing),
        TEST(areas_across_pages_work),
        TEST(outside_64_bit_mode_the_upper_registers_stay),
        TEST(waiting_instructions_report_a_pending_exception),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
