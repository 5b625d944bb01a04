/* String instructions against the host's own: results, registers, flags, and how far they come before a fault. */
#include "soft_native.h"

#define DATA 0x8000ULL /* offset in the arena, in the middle of it */

static unsigned encode(uint8_t *code, uint8_t opcode, unsigned size, unsigned prefix, bool addr32)
{
    unsigned n = 0;

    if (prefix)
        code[n++] = (uint8_t)prefix;
    if (addr32)
        code[n++] = 0x67;
    if (size == 2)
        code[n++] = 0x66;
    if (size == 8)
        code[n++] = 0x48;
    code[n++] = size == 1 ? opcode : opcode | 1;
    code[n] = 0xc3;
    return n;
}

/* As the run loop would: again and again until the instruction is over. */
static int run_all(struct fake *f, const uint8_t *code, unsigned len)
{
    int result;

    do
        result = fake_run(f, code, len);
    while (result == SOFT_OK && f->cpu.rip == 0x1000);
    return result;
}

static const uint64_t flag_mask = FLAG_ARITH | FLAG_DF;

static void compare_with_native(struct fake *f, const uint8_t *code, unsigned len, const struct native *start)
{
    static uint8_t before[ARENA_BYTES], after[ARENA_BYTES];
    static struct native n;
    struct soft_cpu *cpu = &f->cpu;
    uint8_t *text = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int result;

    for (unsigned i = 0; i < ARENA_PAGES; i++)
        if (fake_seen.page[i] != PAGE_ABSENT)
            memcpy(before + i * PAGE_SIZE, arena(i * PAGE_SIZE), PAGE_SIZE);
    memcpy(text, code, len + 1);
    n = *start;
    native_run(&n, text);
    munmap(text, PAGE_SIZE);
    for (unsigned i = 0; i < ARENA_PAGES; i++) {
        if (fake_seen.page[i] == PAGE_ABSENT)
            continue;
        memcpy(after + i * PAGE_SIZE, arena(i * PAGE_SIZE), PAGE_SIZE);
        if (fake_seen.page[i] != PAGE_READONLY)
            memcpy(arena(i * PAGE_SIZE), before + i * PAGE_SIZE, PAGE_SIZE);
    }

    memcpy(cpu->gpr, start->gpr, sizeof(cpu->gpr));
    cpu->rflags = start->rflags | FLAG_ONE;
    result = run_all(f, code, len);
    assert_int_equal(result, n.faulted ? SOFT_FAULT : SOFT_OK);
    if (n.faulted) {
        assert_int_equal(cpu->exc.vector, EXC_PF);
        /* Where both operands of CMPS fault, which one is told is the model's choice. */
        if (f->insn.opcode >> 1 != 0xa6 >> 1)
            assert_true(ALIGN_DOWN(cpu->exc.cr2, PAGE_SIZE) == ALIGN_DOWN(n.fault_address, PAGE_SIZE));
    }
    for (unsigned i = 0; i < 8; i++)
        if (i != GPR_RSP && i != GPR_RBP)
            assert_true(cpu->gpr[i] == n.gpr[i]);
    assert_int_equal(cpu->rflags & flag_mask, n.rflags & flag_mask);
    for (unsigned i = 0; i < ARENA_PAGES; i++)
        if (fake_seen.page[i] != PAGE_ABSENT)
            assert_memory_equal(arena(i * PAGE_SIZE), after + i * PAGE_SIZE, PAGE_SIZE);
}

static void random_start(struct native *n, uint64_t count, bool down)
{
    memset(n, 0, offsetof(struct native, in));
    n->gpr[GPR_RAX] = random64();
    n->gpr[GPR_RCX] = count;
    n->gpr[GPR_RSI] = ARENA + DATA + random64() % (6 * PAGE_SIZE);
    n->gpr[GPR_RDI] = random64() & 1 ? n->gpr[GPR_RSI] + random64() % 64 - 32 : ARENA + DATA + random64() % (6 * PAGE_SIZE);
    n->rflags = FLAG_ONE | (random64() & FLAG_ARITH) | (down ? FLAG_DF : 0);
}

static void make_image(struct fake *f, struct native *n)
{
    random_image(f->svm.cpuid, n->in, 0);
    vec_put32(n->in + FX_MXCSR, MXCSR_INIT);
}

/* Few different bytes, so that comparisons go on for a while. */
static void fill_arena(void)
{
    uint8_t common = (uint8_t)random64();

    for (unsigned i = 0; i < ARENA_PAGES; i++)
        if (fake_seen.page[i] == PAGE_RAM)
            for (unsigned j = 0; j < PAGE_SIZE; j++)
                arena(i * PAGE_SIZE)[j] = random64() % 300 ? common : (uint8_t)random64();
}

static const uint8_t opcodes[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae}; /* movs cmps stos lods scas */

static void random_cases(struct fake *f, unsigned cases)
{
    static struct native start;

    for (unsigned i = 0; i < cases; i++) {
        static const unsigned prefixes[] = {0, 0xf3, 0xf2};
        uint8_t code[8];
        uint8_t opcode = opcodes[random64() % ARRAY_SIZE(opcodes)];
        unsigned size = 1u << (random64() & 3), prefix = prefixes[random64() % 3];
        unsigned len = encode(code, opcode, size, prefix, random64() % 4 == 0);
        if (prefix && (opcode == 0xaa || opcode == 0xa4 || opcode == 0xac))
            code[0] = 0xf3; /* REPNE there is undefined */
        if (i % 16 == 0)
            fill_arena();
        random_start(&start, random64() % 16 ? random64() % 2500 / size : random64() % 3, random64() & 1);
        make_image(f, &start);
        if (opcode == 0xae && random64() & 1)
            memset(&start.gpr[GPR_RAX], arena(DATA)[0], 8);
        compare_with_native(f, code, len, &start);
    }
}

static void every_form_gives_what_the_host_gives(void **state)
{
    random_cases(*state, 4000);
}

static void faults_leave_the_registers_at_the_exact_element(void **state)
{
    struct fake *f = *state;

    for (unsigned round = 0; round < 12; round++) {
        for (unsigned i = 0; i < ARENA_PAGES; i++)
            native_protect(i, PAGE_RAM);
        fill_arena();
        for (unsigned i = DATA / PAGE_SIZE - 1; i < DATA / PAGE_SIZE + 7; i++)
            native_protect(i, random64() % 3 ? PAGE_RAM : random64() & 1 ? PAGE_ABSENT : PAGE_READONLY);
        for (unsigned i = 0; i < 200; i++) {
            static struct native start;
            uint8_t code[8];
            uint8_t opcode = opcodes[random64() % ARRAY_SIZE(opcodes)];
            unsigned size = 1u << (random64() & 3);
            unsigned len = encode(code, opcode, size, random64() & 1 ? 0xf3 : 0, false);
            random_start(&start, random64() % 9000 / size, random64() & 1);
            make_image(f, &start);
            compare_with_native(f, code, len, &start);
        }
    }
    for (unsigned i = 0; i < ARENA_PAGES; i++)
        native_protect(i, PAGE_RAM);
}

static void long_runs_stop_for_interrupts_and_go_on(void **state)
{
    struct fake *f = *state;
    struct soft_cpu *cpu = &f->cpu;

    cpu->gpr[GPR_RCX] = 0x12000;
    cpu->gpr[GPR_RDI] = ARENA;
    cpu->gpr[GPR_RAX] = 0x5a;
    assert_int_equal(RUN(f, 0xf3, 0xaa), SOFT_OK);
    assert_int_equal(cpu->rip, 0x1000);
    assert_int_equal(cpu->gpr[GPR_RCX], 0x2000);
    atomic_store(&cpu->attention, 1);
    assert_int_equal(RUN(f, 0xf3, 0xaa), SOFT_OK);
    assert_int_equal(cpu->rip, 0x1000);
    assert_int_equal(cpu->gpr[GPR_RCX], 0x1000); /* one page run */
    assert_int_equal(RUN(f, 0xf3, 0xaa), SOFT_OK);
    assert_int_equal(cpu->rip, 0x1002);
    assert_int_equal(cpu->gpr[GPR_RCX], 0);
    assert_int_equal(*arena(0x11fff), 0x5a);
    assert_int_equal(*arena(0x12000), 0);
}

static void single_stepping_does_one_iteration(void **state)
{
    struct fake *f = *state;

    f->cpu.gpr[GPR_RCX] = 3;
    f->cpu.gpr[GPR_RDI] = ARENA;
    f->cpu.rflags |= FLAG_TF;
    for (unsigned left = 2;; left--) {
        assert_int_equal(RUN(f, 0xf3, 0xab), SOFT_OK);
        assert_int_equal(f->cpu.gpr[GPR_RCX], left);
        assert_int_equal(f->cpu.rip, left ? 0x1000 : 0x1002);
        if (!left)
            break;
    }
}

static void devices_are_written_element_by_element(void **state)
{
    struct fake *f = *state;

    fake_seen.page[3] = PAGE_DEVICE;
    f->cpu.gpr[GPR_RCX] = 8;
    f->cpu.gpr[GPR_RSI] = ARENA;
    f->cpu.gpr[GPR_RDI] = ARENA + 0x3000;
    assert_int_equal(run_all(f, (const uint8_t[]){0xf3, 0x66, 0xa5}, 3), SOFT_OK);
    assert_int_equal(fake_seen.device_writes, 8);
    f->cpu.gpr[GPR_RCX] = 4;
    f->cpu.gpr[GPR_RSI] = ARENA + 0x3000;
    f->cpu.gpr[GPR_RDI] = ARENA;
    assert_int_equal(run_all(f, (const uint8_t[]){0xf3, 0xa5}, 2), SOFT_OK);
    assert_int_equal(fake_seen.device_reads, 4);
}

static void sixteen_bit_addresses_wrap_within_their_segment(void **state)
{
    struct fake *f = *state;
    struct soft_cpu *cpu = &f->cpu;

    fake_protected_mode(f, 16);
    cpu->seg[SEG_ES].base = cpu->seg[SEG_DS].base = ARENA;
    cpu->seg[SEG_ES].limit = cpu->seg[SEG_DS].limit = 0xffff;
    cpu->gpr[GPR_RCX] = 0xdead0004;
    cpu->gpr[GPR_RDI] = 0xbeeffffe;
    cpu->gpr[GPR_RAX] = 0x77;
    assert_int_equal(run_all(f, (const uint8_t[]){0xf3, 0xaa}, 2), SOFT_OK); /* rep stosb */
    assert_int_equal(cpu->gpr[GPR_RDI], 0xbeef0002);
    assert_int_equal(cpu->gpr[GPR_RCX], 0xdead0000);
    assert_int_equal(*arena(0xffff), 0x77);
    assert_int_equal(*arena(1), 0x77);
    assert_int_equal(*arena(0x10000), 0);
    cpu->gpr[GPR_RCX] = 2;
    cpu->gpr[GPR_RDI] = 0xffff;
    expect_fault(f, run_all(f, (const uint8_t[]){0xf3, 0xab}, 2), EXC_GP); /* rep stosw across the top */
    assert_int_equal(cpu->gpr[GPR_RCX], 2);
}

static void a_segment_limit_stops_at_the_exact_element(void **state)
{
    struct fake *f = *state;
    struct soft_cpu *cpu = &f->cpu;

    fake_protected_mode(f, 32);
    cpu->seg[SEG_ES].base = ARENA;
    cpu->seg[SEG_ES].limit = 0x1235;
    cpu->gpr[GPR_RCX] = 0x1000;
    cpu->gpr[GPR_RDI] = 0x1200;
    expect_fault(f, run_all(f, (const uint8_t[]){0xf3, 0xab}, 2), EXC_GP);
    assert_int_equal(cpu->gpr[GPR_RDI], 0x1234);
    assert_int_equal(cpu->gpr[GPR_RCX], 0x1000 - 0xd);
}

static void segment_overrides_move_the_source_only(void **state)
{
    struct fake *f = *state;
    struct soft_cpu *cpu = &f->cpu;

    cpu->seg[SEG_FS].base = 0x100;
    *arena(0x100) = 0xaa;
    *arena(0) = 0x11;
    cpu->gpr[GPR_RSI] = ARENA;
    cpu->gpr[GPR_RDI] = ARENA + 0x200;
    assert_int_equal(RUN(f, 0x64, 0xa4), SOFT_OK);
    assert_int_equal(*arena(0x200), 0xaa);
    assert_int_equal(RUN(f, 0x2e, 0xac), SOFT_OK); /* CS is ignored */
    assert_int_equal(cpu->gpr[GPR_RSI], ARENA + 2);
}

/* --- port I/O --- */

static void rep_ins_and_outs_move_elements(void **state)
{
    struct fake *f = *state;

    fake_seen.port_value = 0x41;
    f->cpu.gpr[GPR_RDX] = 0x1f0;
    f->cpu.gpr[GPR_RCX] = 3;
    f->cpu.gpr[GPR_RDI] = ARENA + 0xfff;
    assert_int_equal(run_all(f, (const uint8_t[]){0xf3, 0x66, 0x6d}, 3), SOFT_OK); /* rep insw */
    assert_int_equal(fake_seen.port, 0x1f0);
    assert_int_equal(fake_seen.port_size, 2);
    assert_memory_equal(arena(0xfff), "A\0B\0C\0", 6);
    f->cpu.gpr[GPR_RCX] = 3;
    f->cpu.gpr[GPR_RSI] = ARENA + 0xfff;
    assert_int_equal(run_all(f, (const uint8_t[]){0xf3, 0x6e}, 2), SOFT_OK); /* rep outsb */
    assert_int_equal(fake_seen.port_writes, 3);
    assert_int_equal(fake_seen.port_value, 'B');
}

static void ins_does_not_read_the_port_when_memory_faults(void **state)
{
    struct fake *f = *state;

    fake_seen.page[2] = PAGE_READONLY;
    f->cpu.gpr[GPR_RCX] = 4;
    f->cpu.gpr[GPR_RDI] = ARENA + 0x1ffe;
    expect_fault(f, run_all(f, (const uint8_t[]){0xf3, 0x6c}, 2), EXC_PF);
    assert_int_equal(fake_seen.port_reads, 2);
    assert_int_equal(f->cpu.gpr[GPR_RCX], 2);
    assert_int_equal(f->cpu.gpr[GPR_RDI], ARENA + 0x2000);
}

static void ports_are_guarded_by_iopl_and_the_bitmap(void **state)
{
    struct fake *f = *state;
    struct soft_cpu *cpu = &f->cpu;

    fake_user(f);
    cpu->tr = (struct cpu_seg){.base = ARENA, .limit = 0x68 + 0x80, .attr = 0x8b, .sel = 0x40};
    vec_put16(arena(0x66), 0x68);
    memset(arena(0x68), 0xff, 0x81);
    expect_fault(f, RUN(f, 0xe4, 0x40), EXC_GP); /* in al, 40h */
    arena(0x68)[0x3f8 / 8] = 0x7f;               /* 3ffh alone */
    arena(0x68)[0x3f8 / 8 + 1] = 0xfe;
    cpu->gpr[GPR_RDX] = 0x3ff;
    assert_int_equal(RUN(f, 0xec), SOFT_OK); /* in al, dx */
    expect_fault(f, RUN(f, 0xed), EXC_GP);   /* in eax, dx: 401h and 402h are closed */
    cpu->gpr[GPR_RDX] = 0x408;
    expect_fault(f, RUN(f, 0xec), EXC_GP); /* beyond the limit */
    cpu->rflags |= FLAG_IOPL;
    assert_int_equal(RUN(f, 0xe6, 0x80), SOFT_OK); /* out 80h, al */
    assert_int_equal(RUN(f, 0xef), SOFT_OK);       /* out dx, eax */
    assert_int_equal(fake_seen.port_size, 4);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_form_gives_what_the_host_gives),
        TEST(faults_leave_the_registers_at_the_exact_element),
        TEST(long_runs_stop_for_interrupts_and_go_on),
        TEST(single_stepping_does_one_iteration),
        TEST(devices_are_written_element_by_element),
        TEST(sixteen_bit_addresses_wrap_within_their_segment),
        TEST(a_segment_limit_stops_at_the_exact_element),
        TEST(segment_overrides_move_the_source_only),
        TEST(rep_ins_and_outs_move_elements),
        TEST(ins_does_not_read_the_port_when_memory_faults),
        TEST(ports_are_guarded_by_iopl_and_the_bitmap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
