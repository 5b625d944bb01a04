/* Gathers, scatters and masked moves against the host's own, page faults in the middle included. */
#include "soft_native.h"

#define BASE (ARENA + 0x10000)
#define SPAN 0x6000 /* bytes around BASE that indices reach */

#define SNIPPET(name, text)                                                                                                                \
    __asm__(".text\n" #name "_start: " text "\n" #name "_end: ret\n");                                                                     \
    extern const uint8_t name##_start[], name##_end[]

SNIPPET(v_gatherdps_x, "vgatherdps %xmm3,(%rdi,%xmm1,1),%xmm0");
SNIPPET(v_gatherdps_y, "vgatherdps %ymm3,16(%rdi,%ymm9,1),%ymm12");
SNIPPET(v_gatherdpd_x, "vgatherdpd %xmm3,(%rdi,%xmm1,1),%xmm0");
SNIPPET(v_gatherdpd_y, "vgatherdpd %ymm3,(%rdi,%xmm1,1),%ymm0");
SNIPPET(v_gatherqps_x, "vgatherqps %xmm3,(%rdi,%xmm1,1),%xmm0");
SNIPPET(v_gatherqps_y, "vgatherqps %xmm3,(%rdi,%ymm1,1),%xmm0");
SNIPPET(v_gatherqpd_x, "vgatherqpd %xmm3,-8(%rdi,%xmm1,1),%xmm0");
SNIPPET(v_gatherqpd_y, "vgatherqpd %ymm3,(%rdi,%ymm1,1),%ymm0");
SNIPPET(v_pgatherdd_y, "vpgatherdd %ymm3,(%rdi,%ymm1,1),%ymm0");
SNIPPET(v_pgatherdq_y, "vpgatherdq %ymm15,(%rdi,%xmm1,1),%ymm8");
SNIPPET(v_pgatherqd_y, "vpgatherqd %xmm3,(%rdi,%ymm1,1),%xmm0");
SNIPPET(v_pgatherqq_y, "vpgatherqq %ymm3,(%rdi,%ymm1,1),%ymm0");
SNIPPET(v_maskps_ld, "vmaskmovps (%rdi),%ymm1,%ymm0");
SNIPPET(v_maskps_ldx, "vmaskmovps (%rdi),%xmm1,%xmm0");
SNIPPET(v_maskpd_ld, "vmaskmovpd (%rdi),%ymm1,%ymm0");
SNIPPET(v_maskps_st, "vmaskmovps %ymm0,%ymm1,(%rdi)");
SNIPPET(v_maskpd_st, "vmaskmovpd %xmm0,%xmm1,(%rdi)");
SNIPPET(v_pmaskd_ld, "vpmaskmovd (%rdi),%ymm1,%ymm0");
SNIPPET(v_pmaskq_ld, "vpmaskmovq (%rdi),%ymm1,%ymm0");
SNIPPET(v_pmaskd_st, "vpmaskmovd %ymm0,%ymm1,(%rdi)");
SNIPPET(v_pmaskq_st, "vpmaskmovq %ymm0,%ymm1,(%rdi)");
SNIPPET(v_maskdqu, "maskmovdqu %xmm2,%xmm11");
SNIPPET(v_vmaskdqu, "vmaskmovdqu %xmm2,%xmm1");
SNIPPET(v_maskq, "maskmovq %mm3,%mm5");
SNIPPET(e_gatherdps, "vgatherdps (%rdi,%zmm1,1),%zmm0{%k1}");
SNIPPET(e_gatherdps_y, "vgatherdps 64(%rdi,%ymm1,1),%ymm20{%k2}");
SNIPPET(e_gatherdps_x, "vgatherdps (%rdi,%xmm31,1),%xmm0{%k7}");
SNIPPET(e_gatherdpd, "vgatherdpd (%rdi,%ymm1,1),%zmm0{%k1}");
SNIPPET(e_gatherqps, "vgatherqps (%rdi,%zmm1,1),%ymm0{%k1}");
SNIPPET(e_gatherqps_x, "vgatherqps (%rdi,%xmm1,1),%xmm0{%k1}");
SNIPPET(e_gatherqpd, "vgatherqpd (%rdi,%zmm1,1),%zmm0{%k3}");
SNIPPET(e_pgatherdd, "vpgatherdd (%rdi,%zmm1,1),%zmm30{%k1}");
SNIPPET(e_pgatherdq, "vpgatherdq (%rdi,%ymm1,1),%zmm0{%k1}");
SNIPPET(e_pgatherqd, "vpgatherqd (%rdi,%zmm1,1),%ymm0{%k1}");
SNIPPET(e_pgatherqq, "vpgatherqq (%rdi,%zmm1,1),%zmm0{%k1}");
SNIPPET(e_scatterdps, "vscatterdps %zmm0,(%rdi,%zmm1,1){%k1}");
SNIPPET(e_scatterdps_x, "vscatterdps %xmm19,(%rdi,%xmm1,1){%k1}");
SNIPPET(e_scatterdpd, "vscatterdpd %zmm0,(%rdi,%ymm1,1){%k1}");
SNIPPET(e_scatterqps, "vscatterqps %ymm0,(%rdi,%zmm1,1){%k1}");
SNIPPET(e_scatterqpd, "vscatterqpd %zmm0,(%rdi,%zmm1,1){%k1}");
SNIPPET(e_pscatterdd, "vpscatterdd %ymm0,8(%rdi,%ymm1,1){%k1}");
SNIPPET(e_pscatterdq, "vpscatterdq %zmm0,(%rdi,%ymm17,1){%k1}");
SNIPPET(e_pscatterqd, "vpscatterqd %ymm0,(%rdi,%zmm1,1){%k1}");
SNIPPET(e_pscatterqq, "vpscatterqq %zmm0,(%rdi,%zmm1,1){%k6}");

#define AVX2(name)                                                                                                                         \
    {                                                                                                                                      \
#name, name##_start, name##_end, false                                                                                             \
    }
#define EVEX(name)                                                                                                                         \
    {                                                                                                                                      \
#name, name##_start, name##_end, true                                                                                              \
    }

static const struct snippet snippets[] = {
    AVX2(v_gatherdps_x),  AVX2(v_gatherdps_y), AVX2(v_gatherdpd_x), AVX2(v_gatherdpd_y), AVX2(v_gatherqps_x), AVX2(v_gatherqps_y),
    AVX2(v_gatherqpd_x),  AVX2(v_gatherqpd_y), AVX2(v_pgatherdd_y), AVX2(v_pgatherdq_y), AVX2(v_pgatherqd_y), AVX2(v_pgatherqq_y),
    AVX2(v_maskps_ld),    AVX2(v_maskps_ldx),  AVX2(v_maskpd_ld),   AVX2(v_maskps_st),   AVX2(v_maskpd_st),   AVX2(v_pmaskd_ld),
    AVX2(v_pmaskq_ld),    AVX2(v_pmaskd_st),   AVX2(v_pmaskq_st),   AVX2(v_maskdqu),     AVX2(v_vmaskdqu),    AVX2(v_maskq),
    EVEX(e_gatherdps),    EVEX(e_gatherdps_y), EVEX(e_gatherdps_x), EVEX(e_gatherdpd),   EVEX(e_gatherqps),   EVEX(e_gatherqps_x),
    EVEX(e_gatherqpd),    EVEX(e_pgatherdd),   EVEX(e_pgatherdq),   EVEX(e_pgatherqd),   EVEX(e_pgatherqq),   EVEX(e_scatterdps),
    EVEX(e_scatterdps_x), EVEX(e_scatterdpd),  EVEX(e_scatterqps),  EVEX(e_scatterqpd),  EVEX(e_pscatterdd),  EVEX(e_pscatterdq),
    EVEX(e_pscatterqd),   EVEX(e_pscatterqq),
};

/* Indices that stay near BASE: every other vector register holds 4- or 8-byte ones. */
static void set_indices(struct soft_cpu *cpu, bool quad)
{
    static const uint8_t index_regs[] = {1, 9, 17, 31};

    for (unsigned r = 0; r < ARRAY_SIZE(index_regs); r++) {
        uint8_t bytes[VECTOR_BYTES];
        if (index_regs[r] >= 16 && !(cpu->svm->cpuid->xcr0 & XCR0_AVX512))
            continue;
        for (unsigned i = 0; i < (quad ? 8u : 16u); i++) {
            int64_t index = (int64_t)(random64() % SPAN) - SPAN / 2;
            if (quad)
                vec_put64(bytes + 8 * i, (uint64_t)index);
            else
                vec_put32(bytes + 4 * i, (uint32_t)index);
        }
        vec_image_write(cpu, index_regs[r], bytes, cpu->svm->cpuid->xcr0 & XCR0_AVX512 ? 64 : 32);
    }
}

static bool has_quad_indices(const char *name)
{
    return strstr(name, "gatherq") || strstr(name, "scatterq");
}

/* Masks reads like one; the index registers of masked moves are their masks and stay random. */
static bool has_indices(const char *name)
{
    return strstr(name, "gather") || strstr(name, "scatter");
}

/* limit: bytes of each vector that count. */
static void expect_same_registers(struct fake *f, const uint8_t *native, const char *name, unsigned limit)
{
    struct soft_cpu other = {.svm = &f->svm, .xsave = (uint8_t *)(uintptr_t)native};
    bool wide = f->svm.cpuid->xcr0 & XCR0_AVX512;

    for (unsigned i = 0; i < (wide ? 32u : 16u); i++) {
        uint8_t ours[VECTOR_BYTES], theirs[VECTOR_BYTES];
        vec_image_read(&f->cpu, i, ours);
        vec_image_read(&other, i, theirs);
        for (unsigned b = 0; b < limit; b++)
            if (ours[b] != theirs[b])
                fail_msg("%s: register %u byte %u is %02x, not %02x", name, i, b, ours[b], theirs[b]);
    }
    for (unsigned k = 0; k < 8 && wide; k++)
        if (vec_image_opmask(&f->cpu, k) != vec_image_opmask(&other, k))
            fail_msg("%s: k%u is %lx, not %lx", name, k, vec_image_opmask(&f->cpu, k), vec_image_opmask(&other, k));
}

/* Bytes that a gather's lanes fill: of its destination at a fault, the CPUs differ in what lies above them. */
static unsigned gathered_bytes(const char *name)
{
    unsigned elem = strstr(name, "pd") || strstr(name, "dq") || strstr(name, "qq") ? 8 : 4;
    unsigned vector = strstr(name, "_x") ? 16 : strstr(name, "_y") ? 32 : 64;

    return vector / (has_quad_indices(name) ? 8 : elem) * elem;
}

/*
 * Of an AVX2 gather's mask that a fault left behind only the signs of its lanes are architectural: the CPUs differ in the other bits, and
 * SDM vol. 2 VGATHERDPS in those again.
 */
static void keep_mask_signs(uint8_t *image, const struct fake *f, const char *name)
{
    struct soft_cpu at = {.svm = (struct soft_vm *)(uintptr_t)&f->svm, .xsave = image};
    unsigned reg = strcmp(name, "v_pgatherdq_y") == 0 ? 15 : 3;
    unsigned elem = strstr(name, "pd") || strstr(name, "dq") || strstr(name, "qq") ? 8 : 4;
    uint8_t bytes[VECTOR_BYTES];

    vec_image_read(&at, reg, bytes);
    for (unsigned i = 0; i < VECTOR_BYTES; i++)
        bytes[i] &= i < gathered_bytes(name) && i % elem == elem - 1 ? 0x80 : 0;
    vec_image_write(&at, reg, bytes, VECTOR_BYTES);
}

static void snapshot(uint8_t *to)
{
    for (unsigned i = 0; i < ARENA_PAGES; i++)
        if (fake_seen.page[i] != PAGE_ABSENT)
            memcpy(to + i * PAGE_SIZE, arena(i * PAGE_SIZE), PAGE_SIZE);
}

static void compare(struct fake *f, const struct snippet *t)
{
    static struct native n;
    static uint8_t before[ARENA_BYTES], after[ARENA_BYTES];
    int result;

    memset(&n, 0, offsetof(struct native, in));
    random_image(f->svm.cpuid, f->cpu.xsave, random64() % 8 ? UINT64_MAX : random64());
    if (has_indices(t->name))
        set_indices(&f->cpu, has_quad_indices(t->name));
    memcpy(n.in, f->cpu.xsave, XSAVE_MAX);
    n.rflags = FLAG_ONE;
    n.gpr[GPR_RDI] = BASE + (has_indices(t->name) ? 0 : random64() % SPAN - SPAN / 2);
    memcpy(f->cpu.gpr, n.gpr, sizeof(n.gpr));
    snapshot(before);
    native_run(&n, t->start);
    snapshot(after);
    for (unsigned i = 0; i < ARENA_PAGES; i++)
        if (fake_seen.page[i] == PAGE_RAM)
            memcpy(arena(i * PAGE_SIZE), before + i * PAGE_SIZE, PAGE_SIZE);
    result = fake_run(f, t->start, (unsigned)(t->end - t->start));
    /* MASKMOVDQU and MASKMOVQ may look at pages that no selected byte lies in, or not (SDM vol. 2). */
    if (n.faulted && result == SOFT_OK && (strstr(t->name, "maskdqu") || !strcmp(t->name, "v_maskq")))
        return;
    if ((result != SOFT_OK) != n.faulted)
        fail_msg("%s: ours %s", t->name, result == SOFT_OK ? "does not fault" : "faults");
    if (n.faulted && f->cpu.exc.vector == EXC_PF && ALIGN_DOWN(f->cpu.exc.cr2, 4096) != ALIGN_DOWN(n.fault_address, 4096))
        fail_msg("%s: fault at %lx, not %lx", t->name, f->cpu.exc.cr2, n.fault_address);
    if (n.faulted && strstr(t->name, "gather") && !t->avx512) {
        keep_mask_signs(n.out, f, t->name);
        keep_mask_signs(f->cpu.xsave, f, t->name);
    }
    expect_same_registers(f, n.out, t->name, n.faulted && strstr(t->name, "gather") ? gathered_bytes(t->name) : VECTOR_BYTES);
    if (!n.faulted && !strcmp(t->name, "v_maskq")) { /* a fault may leave x87's stack switched to MMX or not */
        assert_int_equal(vec_get16(f->cpu.xsave + FX_FSW), vec_get16(n.out + FX_FSW));
        assert_int_equal(f->cpu.xsave[FX_FTW], n.out[FX_FTW]);
        assert_memory_equal(f->cpu.xsave + FX_ST, n.out + FX_ST, 128);
    }
    for (unsigned i = 0; i < ARENA_PAGES; i++)
        if (fake_seen.page[i] != PAGE_ABSENT && memcmp(arena(i * PAGE_SIZE), after + i * PAGE_SIZE, PAGE_SIZE) != 0)
            fail_msg("%s: memory differs in page %u", t->name, i);
}

static void run_all(struct fake *f, unsigned rounds)
{
    for (unsigned i = 0; i < ARRAY_SIZE(snippets); i++) {
        if (snippets[i].avx512 && !cpuid_offers(&f->svm, X86_AVX512F))
            continue;
        if (!cpuid_offers(&f->svm, X86_AVX2))
            continue;
        for (unsigned round = 0; round < rounds; round++)
            compare(f, &snippets[i]);
    }
}

static void lanes_give_what_the_host_gives(void **state)
{
    random_fill(arena(0), ARENA_BYTES);
    run_all(*state, 100);
}

static void faulting_lanes_stop_where_the_host_stops(void **state)
{
    struct fake *f = *state;

    random_fill(arena(0), ARENA_BYTES);
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < ARENA_PAGES; i++)
            native_protect(i, random64() % 4 ? PAGE_RAM : random64() & 1 ? PAGE_ABSENT : PAGE_READONLY);
        run_all(f, 5);
    }
    for (unsigned i = 0; i < ARENA_PAGES; i++)
        native_protect(i, PAGE_RAM);
}

static void a_masked_out_lane_never_faults(void **state)
{
    struct fake *f = *state;

    if (!cpuid_offers(&f->svm, X86_AVX2))
        skip();
    random_image(f->svm.cpuid, f->cpu.xsave, 0);
    f->cpu.gpr[GPR_RDI] = BIT(50); /* not canonical, not mapped */
    assert_int_equal(fake_run(f, v_maskps_ld_start, (unsigned)(v_maskps_ld_end - v_maskps_ld_start)), SOFT_OK);
    assert_int_equal(fake_run(f, v_maskps_st_start, (unsigned)(v_maskps_st_end - v_maskps_st_start)), SOFT_OK);
    assert_int_equal(fake_run(f, v_gatherdps_y_start, (unsigned)(v_gatherdps_y_end - v_gatherdps_y_start)), SOFT_OK);
    assert_int_equal(fake_run(f, v_maskdqu_start, (unsigned)(v_maskdqu_end - v_maskdqu_start)), SOFT_OK);
}

/* --- bit tests and the 8086's heritage live beside them --- */

SNIPPET(b_btw, "btw %ax,(%rdi)");
SNIPPET(b_btl, "btl %eax,(%rdi)");
SNIPPET(b_btsw, "btsw %ax,(%rdi)");
SNIPPET(b_btsl, "lock btsl %eax,4(%rdi)");
SNIPPET(b_btsq, "btsq %rax,(%rdi)");
SNIPPET(b_btrl, "btrl %eax,(%rdi)");
SNIPPET(b_btrq, "lock btrq %rax,(%rdi)");
SNIPPET(b_btcw, "btcw %ax,(%rdi)");
SNIPPET(b_btcq, "btcq %rax,(%rdi)");

static void bit_offsets_reach_around_their_operand(void **state)
{
    static const struct snippet tests[] = {AVX2(b_btw),  AVX2(b_btl),  AVX2(b_btsw), AVX2(b_btsl), AVX2(b_btsq),
                                           AVX2(b_btrl), AVX2(b_btrq), AVX2(b_btcw), AVX2(b_btcq)};
    struct fake *f = *state;

    random_fill(arena(0), ARENA_BYTES);
    for (unsigned i = 0; i < 3000; i++) {
        const struct snippet *t = &tests[i % ARRAY_SIZE(tests)];
        static struct native n;
        uint8_t before[256], after[256];
        memset(&n, 0, offsetof(struct native, in));
        random_image(f->svm.cpuid, n.in, 0);
        n.rflags = FLAG_ONE | (random64() & FLAG_ARITH);
        n.gpr[GPR_RDI] = BASE + PAGE_SIZE - 16 + random64() % 32; /* some cross the page */
        n.gpr[GPR_RAX] = random64() % 512 - 256;
        memcpy(f->cpu.gpr, n.gpr, sizeof(n.gpr));
        f->cpu.rflags = n.rflags;
        memcpy(before, (void *)(BASE + PAGE_SIZE - 128), 256);
        native_run(&n, t->start);
        memcpy(after, (void *)(BASE + PAGE_SIZE - 128), 256);
        memcpy((void *)(BASE + PAGE_SIZE - 128), before, 256);
        assert_false(n.faulted);
        assert_int_equal(fake_run(f, t->start, (unsigned)(t->end - t->start)), SOFT_OK);
        assert_memory_equal((void *)(BASE + PAGE_SIZE - 128), after, 256);
        assert_int_equal(f->cpu.rflags & FLAG_CF, n.rflags & FLAG_CF);
    }
}

/* The manual's algorithms, told by sums of decimal digits. */
static void decimal_adjustment_makes_decimal_sums(void **state)
{
    struct fake *f = *state;
    struct soft_cpu *cpu = &f->cpu;

    fake_protected_mode(f, 32);
    for (unsigned a = 0; a < 100; a++)
        for (unsigned b = 0; b < 100; b++) {
            unsigned x = a / 10 << 4 | a % 10, y = b / 10 << 4 | b % 10, sum = a + b, diff = 100 + a - b;
            cpu->gpr[GPR_RAX] = (x + y) & 0xff;
            cpu->rflags = FLAG_ONE | (x + y > 0xff ? FLAG_CF : 0) | ((x & 15) + (y & 15) > 15 ? FLAG_AF : 0);
            assert_int_equal(RUN(f, 0x27), SOFT_OK); /* daa */
            assert_int_equal(cpu->gpr[GPR_RAX] & 0xff, sum / 10 % 10 << 4 | sum % 10);
            assert_int_equal(cpu->rflags & FLAG_CF, sum > 99 ? FLAG_CF : 0);
            cpu->gpr[GPR_RAX] = (x - y) & 0xff;
            cpu->rflags = FLAG_ONE | (x < y ? FLAG_CF : 0) | ((x & 15) < (y & 15) ? FLAG_AF : 0);
            assert_int_equal(RUN(f, 0x2f), SOFT_OK); /* das */
            assert_int_equal(cpu->gpr[GPR_RAX] & 0xff, diff / 10 % 10 << 4 | diff % 10);
            assert_int_equal(cpu->rflags & FLAG_CF, a < b ? FLAG_CF : 0);
        }
}

static void ascii_adjustment_follows_the_manual(void **state)
{
    struct fake *f = *state;
    struct soft_cpu *cpu = &f->cpu;

    fake_protected_mode(f, 32);
    cpu->gpr[GPR_RAX] = 0x000b;
    assert_int_equal(RUN(f, 0x37), SOFT_OK); /* aaa */
    assert_int_equal(cpu->gpr[GPR_RAX], 0x0101);
    assert_true((cpu->rflags & (FLAG_CF | FLAG_AF)) == (FLAG_CF | FLAG_AF));
    cpu->rflags = FLAG_ONE;
    cpu->gpr[GPR_RAX] = 0x020b;
    assert_int_equal(RUN(f, 0x3f), SOFT_OK); /* aas */
    assert_int_equal(cpu->gpr[GPR_RAX], 0x0105);
    cpu->gpr[GPR_RAX] = 0x004f;
    assert_int_equal(RUN(f, 0xd4, 0x0a), SOFT_OK); /* aam */
    assert_int_equal(cpu->gpr[GPR_RAX], 0x0709);
    assert_int_equal(RUN(f, 0xd5, 0x0a), SOFT_OK); /* aad */
    assert_int_equal(cpu->gpr[GPR_RAX], 0x004f);
    expect_fault(f, RUN(f, 0xd4, 0x00), EXC_DE);
    cpu->rflags |= FLAG_CF;
    assert_int_equal(RUN(f, 0xd6), SOFT_OK); /* salc */
    assert_int_equal(cpu->gpr[GPR_RAX], 0x00ff);
}

static void xlat_and_clzero_use_their_implicit_operands(void **state)
{
    struct fake *f = *state;

    random_fill(arena(0), PAGE_SIZE);
    f->cpu.gpr[GPR_RBX] = ARENA + 0x100;
    f->cpu.gpr[GPR_RAX] = 0xffffff42;
    assert_int_equal(RUN(f, 0xd7), SOFT_OK);
    assert_int_equal(f->cpu.gpr[GPR_RAX], 0xffffff00 | *arena(0x142));
    if (!cpuid_offers(&f->svm, X86_CLZERO))
        return;
    *arena(0x23f) = *arena(0x280) = 0xff;
    f->cpu.gpr[GPR_RAX] = ARENA + 0x251;
    assert_int_equal(RUN(f, 0x0f, 0x01, 0xfc), SOFT_OK);
    for (unsigned i = 0x240; i < 0x280; i++)
        assert_int_equal(*arena(i), 0);
    assert_int_equal(*arena(0x23f), 0xff);
    assert_int_equal(*arena(0x280), 0xff);
    f->cpu.seg[SEG_GS].base = ARENA;
    f->cpu.gpr[GPR_RAX] = 0x280;
    assert_int_equal(RUN(f, 0x65, 0x0f, 0x01, 0xfc), SOFT_OK);
    assert_int_equal(*arena(0x280), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(lanes_give_what_the_host_gives),
        TEST(faulting_lanes_stop_where_the_host_stops),
        TEST(a_masked_out_lane_never_faults),
        TEST(bit_offsets_reach_around_their_operand),
        TEST(decimal_adjustment_makes_decimal_sums),
        TEST(ascii_adjustment_follows_the_manual),
        TEST(xlat_and_clzero_use_their_implicit_operands),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
