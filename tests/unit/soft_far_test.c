/* Far jumps, calls and returns, IRET, and the system call instructions, in every mode and of both vendors. */
#include "soft_flat.h"

#define POINTER 0x10100ULL /* a far pointer in memory */
#define TARGET 0x12000ULL

static struct insn far_mem(unsigned opsize, uint16_t sel, uint64_t off)
{
    struct insn insn = mem_insn(opsize, POINTER, opsize + 2);

    poke(POINTER, opsize, off);
    poke(POINTER + opsize, 2, sel);
    return insn;
}

static struct insn far_direct(unsigned opsize, uint16_t sel, uint64_t off)
{
    struct insn insn = plain_insn(opsize);

    insn.op[0] = (struct insn_operand){.kind = OPERAND_FAR, .imm = off, .far_sel = sel};
    return insn;
}

static void put_call_gate(unsigned type, unsigned dpl, unsigned sel, uint64_t rip, unsigned params)
{
    put_gate(GDT + GATE, type, dpl, sel, rip, params);
}

/* --- JMP and CALL to code segments --- */

static void jump_to_code_segments(void **state)
{
    static const struct {
        unsigned ring, sel, result_sel;
        uint8_t vector;
        uint32_t error;
    } cases[] = {
        {0, CODE32, CODE32, 0, 0},
        {0, CODE32 | 3, 0, EXC_GP, CODE32}, /* RPL */
        {0, CODE32_USER | 3, 0, EXC_GP, CODE32_USER},
        {3, CODE32, 0, EXC_GP, CODE32},
        {3, CODE32_USER, CODE32_USER | 3, 0, 0}, /* RPL 0 becomes the CPL */
        {3, CODE32_CONFORMING, CODE32_CONFORMING | 3, 0, 0},
        {0, CODE_ABSENT, 0, EXC_NP, CODE_ABSENT},
        {0, DATA0, 0, EXC_GP, DATA0},
        {0, 0, 0, EXC_GP, 0},
        {0, 3, 0, EXC_GP, 0},
        {0, GDT_BYTES, 0, EXC_GP, GDT_BYTES},
        {0, CODE32 | 4, 0, EXC_GP, CODE32 | 4}, /* no LDT */
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_protected(cases[i].ring);
        struct insn insn = far_direct(4, (uint16_t)cases[i].sel, TARGET);
        insn.opcode = 0xea;
        if (cases[i].vector) {
            expect_clean_fault(sys_jmp, &insn, cases[i].vector, cases[i].error);
            continue;
        }
        assert_int_equal(sys_jmp(cpu, &insn), SOFT_OK);
        assert_int_equal(cpu->next_rip, TARGET);
        assert_int_equal(cpu->seg[SEG_CS].sel, cases[i].result_sel);
        assert_int_equal(cpu->cpl, cases[i].ring);
    }
}

static void jump_checks_the_target_against_the_new_segment(void **state)
{
    (void)state;
    start_protected(0);
    struct insn insn = far_direct(4, CODE16, 0x10000);
    expect_clean_fault(sys_jmp_far, &insn, EXC_GP, 0);
    insn = far_direct(4, CODE16, 0xffff);
    assert_int_equal(sys_jmp_far(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->code_bits, 16);

    start_long(0);
    flat.cpuid.amd = false;
    insn = far_mem(8, CODE64, BIT(47));
    expect_clean_fault(sys_jmp_far, &insn, EXC_GP, 0);
    put_segment(FREE, 0xb, 0, SEG_L | SEG_DB, 0); /* L and D at once */
    insn = far_mem(4, FREE, TARGET);
    expect_clean_fault(sys_jmp_far, &insn, EXC_GP, FREE);
}

static void rex_w_pointers_are_16_64_on_intel_and_16_32_on_amd(void **state)
{
    (void)state;
    start_long(0);
    struct insn insn = far_mem(8, CODE64, 0x123456789000);
    assert_int_equal(sys_jmp_far(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x123456789000);

    start_long(0);
    flat.cpuid.amd = true;
    insn = far_mem(4, CODE64, 0x89abcdef);
    insn.opsize = 8;
    assert_int_equal(sys_jmp_far(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x89abcdef);
}

static void long_mode_enters_and_leaves_64_bit_code(void **state)
{
    (void)state;
    start_long(0);
    struct insn insn = far_mem(4, CODE32, TARGET);
    assert_int_equal(sys_jmp_far(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->code_bits, 32);
    insn = far_direct(4, CODE64, TARGET);
    assert_int_equal(sys_jmp_far(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->code_bits, 64);
}

static void far_call_pushes_cs_and_ip(void **state)
{
    (void)state;
    for (unsigned size = 2; size <= 4; size *= 2) {
        start_protected(3);
        struct insn insn = far_direct(size, CODE32_USER, TARGET);
        insn.opcode = 0x9a;
        assert_int_equal(sys_call(cpu, &insn), SOFT_OK);
        assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK - 2 * size);
        assert_int_equal(peek(USER_STACK - size, size), CODE32_USER | 3);
        assert_int_equal(peek(USER_STACK - 2 * size, size), size == 2 ? 0x0002 : 0x20002);
        assert_int_equal(cpu->next_rip, size == 2 ? TARGET & 0xffff : TARGET);
    }
    start_protected(3);
    struct insn insn = far_direct(4, CODE32_USER, TARGET);
    flat.absent = USER_STACK - PAGE_SIZE;
    assert_int_equal(sys_call_far(cpu, &insn), SOFT_FAULT);
    assert_int_equal(cpu->exc.vector, EXC_PF);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK);
    assert_int_equal(cpu->next_rip, 0x20002);
}

/* --- call gates --- */

static void call_gate_32_copies_parameters_to_the_inner_stack(void **state)
{
    (void)state;
    start_protected(3);
    put_call_gate(0xc, 3, CODE32, HANDLER, 2);
    poke(USER_STACK, 4, 0x11111111);
    poke(USER_STACK + 4, 4, 0x22222222);
    struct insn insn = far_direct(4, GATE | 3, 0xdead);
    assert_int_equal(sys_call_far(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->next_rip, HANDLER);
    assert_int_equal(cpu->seg[SEG_CS].sel, CODE32);
    assert_int_equal(cpu->seg[SEG_SS].sel, DATA0);
    assert_int_equal(cpu->gpr[GPR_RSP], KERNEL_STACK - 24);
    assert_int_equal(peek(KERNEL_STACK - 4, 4), DATA_USER | 3);
    assert_int_equal(peek(KERNEL_STACK - 8, 4), USER_STACK);
    assert_int_equal(peek(KERNEL_STACK - 12, 4), 0x22222222);
    assert_int_equal(peek(KERNEL_STACK - 16, 4), 0x11111111);
    assert_int_equal(peek(KERNEL_STACK - 20, 4), CODE32_USER | 3);
    assert_int_equal(peek(KERNEL_STACK - 24, 4), 0x20002);
}

static void call_gate_16_uses_words(void **state)
{
    (void)state;
    start_protected(3);
    put_call_gate(0x4, 3, CODE32, 0x5000, 1);
    poke(USER_STACK, 2, 0x3333);
    struct insn insn = far_direct(4, GATE | 3, 0);
    assert_int_equal(sys_call_far(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], KERNEL_STACK - 10);
    assert_int_equal(peek(KERNEL_STACK - 6, 2), 0x3333);
    assert_int_equal(peek(KERNEL_STACK - 10, 2), 0x0002);
    assert_int_equal(cpu->next_rip, 0x5000);
}

static void call_gate_64_has_no_parameters_and_a_null_stack(void **state)
{
    (void)state;
    start_long(3);
    put_call_gate(0xc, 3, CODE64, 0xffff800000001000, 0);
    struct insn insn = far_mem(4, GATE | 3, 0);
    assert_int_equal(sys_call_far(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0xffff800000001000);
    assert_int_equal(cpu->gpr[GPR_RSP], KERNEL_STACK - 32);
    assert_int_equal(peek(KERNEL_STACK - 8, 8), DATA_USER | 3);
    assert_int_equal(peek(KERNEL_STACK - 16, 8), USER_STACK);
    assert_int_equal(peek(KERNEL_STACK - 24, 8), CODE64_USER | 3);
    assert_int_equal(peek(KERNEL_STACK - 32, 8), 0x20002);
    assert_int_equal(cpu->seg[SEG_SS].sel, 0);
    assert_int_equal(cpu->cpl, 0);
}

static void call_gate_faults(void **state)
{
    struct insn insn;

    (void)state;
    start_protected(3);
    put_call_gate(0xc, 0, CODE32, HANDLER, 0);
    insn = far_direct(4, GATE | 3, 0);
    expect_clean_fault(sys_call_far, &insn, EXC_GP, GATE);
    put_call_gate(0xc, 3, CODE32, HANDLER, 0);
    flat.ram[GDT + GATE + 5] &= 0x7f;
    expect_clean_fault(sys_call_far, &insn, EXC_NP, GATE);
    put_call_gate(0xc, 3, 0, HANDLER, 0);
    expect_clean_fault(sys_call_far, &insn, EXC_GP, 0);
    put_call_gate(0xc, 3, DATA0, HANDLER, 0);
    expect_clean_fault(sys_call_far, &insn, EXC_GP, DATA0);
    put_call_gate(0xc, 3, CODE_ABSENT, HANDLER, 0);
    expect_clean_fault(sys_call_far, &insn, EXC_NP, CODE_ABSENT);
    put_call_gate(0xc, 3, CODE32, HANDLER, 0);
    expect_clean_fault(sys_jmp_far, &insn, EXC_GP, CODE32); /* a jump does not go inwards */
    poke(TSS + 8, 2, 0);
    expect_clean_fault(sys_call_far, &insn, EXC_TS, 0);

    start_long(3);
    put_call_gate(0xc, 3, CODE32, HANDLER, 0); /* not 64-bit */
    insn = far_mem(4, GATE | 3, 0);
    expect_clean_fault(sys_call_far, &insn, EXC_GP, CODE32);
    put_call_gate(0xc, 3, CODE64, HANDLER, 0);
    poke(GDT + GATE + 13, 1, 0xc); /* the second half has a type */
    expect_clean_fault(sys_call_far, &insn, EXC_GP, GATE);
    put_call_gate(0x4, 3, CODE64, HANDLER, 0);
    expect_clean_fault(sys_call_far, &insn, EXC_GP, GATE);
}

static void task_switches_do_not_exist_in_long_mode(void **state)
{
    (void)state;
    start_long(0);
    put_system(TSS_SEL, 9, 0, TSS, 0x67);
    struct insn insn = far_mem(4, TSS_SEL, 0);
    expect_clean_fault(sys_jmp_far, &insn, EXC_GP, TSS_SEL);
}

/* --- RETF --- */

static void put_words(uint64_t at, unsigned size, const uint64_t *values, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        poke(at + i * size, size, values[i]);
}

static void far_return_to_the_same_ring_drops_parameters(void **state)
{
    (void)state;
    start_protected(3);
    put_words(USER_STACK, 4, (uint64_t[]){TARGET, CODE32_USER | 3}, 2);
    struct insn insn = imm_insn(4, 12);
    insn.opcode = 0xca;
    assert_int_equal(sys_ret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, TARGET);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK + 8 + 12);
}

static void far_return_outwards_takes_the_stack_and_drops_inner_segments(void **state)
{
    (void)state;
    start_protected(0);
    set_segment(SEG_ES, DATA_USER);
    set_segment(SEG_FS, CODE32_CONFORMING);
    cpu->seg[SEG_GS] = (struct cpu_seg){.attr = SEG_UNUSABLE, .base = 0x1234};
    put_words(KERNEL_STACK, 4, (uint64_t[]){TARGET, CODE32_USER | 3}, 2);
    put_words(KERNEL_STACK + 8 + 4, 4, (uint64_t[]){USER_STACK, DATA_USER | 3}, 2);
    struct insn insn = imm_insn(4, 4);
    assert_int_equal(sys_ret_far(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK + 4);
    assert_int_equal(cpu->seg[SEG_SS].sel, DATA_USER | 3);
    assert_int_equal(cpu->seg[SEG_ES].sel, DATA_USER);
    assert_int_equal(cpu->seg[SEG_FS].sel, CODE32_CONFORMING);
    assert_int_equal(cpu->seg[SEG_DS].sel, 0);
    assert_true(cpu->seg[SEG_DS].attr & SEG_UNUSABLE);
    assert_int_equal(cpu->seg[SEG_GS].base, 0x1234); /* it was null already */
}

static void far_return_faults(void **state)
{
    static const struct {
        unsigned ring, cs, ss;
        uint8_t vector;
        uint32_t error;
    } cases[] = {
        {0, 0, DATA0, EXC_GP, 0},
        {0, DATA0, DATA0, EXC_GP, DATA0},
        {3, CODE32, DATA0, EXC_GP, CODE32},             /* inwards */
        {0, CODE32 | 3, DATA_USER | 3, EXC_GP, CODE32}, /* DPL is not the RPL */
        {0, CODE_ABSENT, DATA0, EXC_NP, CODE_ABSENT},
        {0, CODE32_USER | 3, 3, EXC_GP, 0},
        {0, CODE32_USER | 3, DATA_USER, EXC_GP, DATA_USER},
        {0, CODE32_USER | 3, DATA0 | 3, EXC_GP, DATA0},
        {0, CODE32_USER | 3, DATA_READONLY | 3, EXC_GP, DATA_READONLY},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_protected(cases[i].ring);
        put_words(cpu->gpr[GPR_RSP], 4, (uint64_t[]){TARGET, cases[i].cs, USER_STACK, cases[i].ss}, 4);
        struct insn insn = plain_insn(4);
        expect_clean_fault(sys_ret_far, &insn, cases[i].vector, cases[i].error);
    }
    start_protected(0);
    put_segment(FREE, 0x3, 3, SEG_DB, 0);
    flat.ram[GDT + FREE + 5] &= 0x7f;
    put_words(KERNEL_STACK, 4, (uint64_t[]){TARGET, CODE32_USER | 3, USER_STACK, FREE | 3}, 4);
    struct insn insn = plain_insn(4);
    expect_clean_fault(sys_ret_far, &insn, EXC_SS, FREE);
}

/* --- IRET --- */

static void put_iret(unsigned size, uint64_t rip, uint64_t cs, uint64_t flags, uint64_t sp, uint64_t ss)
{
    put_words(cpu->gpr[GPR_RSP], size, (uint64_t[]){rip, cs, flags, sp, ss}, 5);
}

static void iretq_returns_to_ring_3(void **state)
{
    (void)state;
    start_long(0);
    cpu->nmi_masked = true;
    cpu->rflags = FLAG_ONE;
    put_iret(8, TARGET, CODE64_USER | 3, 0xffffffff & ~(FLAG_NT | FLAG_VM), USER_STACK - 1, DATA_USER | 3);
    struct insn insn = plain_insn(8);
    assert_int_equal(sys_iret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->next_rip, TARGET);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK - 1);
    assert_int_equal(cpu->rflags, 0x3d3fd7); /* every flag but NT and VM, no reserved bit */
    assert_false(cpu->nmi_masked);
    assert_true(cpu->seg[SEG_DS].attr & SEG_UNUSABLE);
}

static void iretq_always_takes_the_stack(void **state)
{
    (void)state;
    start_long(0);
    put_iret(8, TARGET, CODE64, FLAG_ONE, 0x7123, 0); /* null SS for 64-bit code of ring 0 */
    struct insn insn = plain_insn(8);
    assert_int_equal(sys_iret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x7123);
    assert_int_equal(cpu->seg[SEG_SS].sel, 0);
    assert_int_equal(cpu->cpl, 0);

    start_long(0);
    put_iret(8, TARGET, CODE64_RING1 | 1, FLAG_ONE, 0x7123, 1);
    assert_int_equal(sys_iret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->cpl, 1);
}

static void iretq_faults(void **state)
{
    static const struct {
        uint64_t rip, cs, ss;
        uint32_t error;
    } cases[] = {
        {TARGET, CODE64_USER | 3, 3, 0},                 /* no null SS at ring 3 */
        {TARGET, CODE32, 0, 0},                          /* nor for compatibility mode */
        {TARGET, CODE64, 1, 0},                          /* nor with another RPL */
        {BIT(47), CODE64_USER | 3, DATA_USER | 3, 0},    /* not canonical */
        {TARGET, CODE64_USER | 3, DATA_USER, DATA_USER}, /* RPL of SS */
        {TARGET, 0, DATA0, 0},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_long(0);
        cpu->nmi_masked = true;
        put_iret(8, cases[i].rip, cases[i].cs, FLAG_ONE, USER_STACK, cases[i].ss);
        struct insn insn = plain_insn(8);
        expect_clean_fault(sys_iret, &insn, EXC_GP, cases[i].error);
        assert_false(cpu->nmi_masked); /* a handler that runs on a broken frame must not lock NMIs out for good */
    }
    start_long(0);
    cpu->rflags |= FLAG_NT;
    cpu->nmi_masked = true;
    struct insn insn = plain_insn(8);
    expect_clean_fault(sys_iret, &insn, EXC_GP, 0);
    assert_false(cpu->nmi_masked);

    start_long(0);
    cpu->nmi_masked = true;
    flat.absent = ALIGN_DOWN(KERNEL_STACK, PAGE_SIZE);
    assert_int_equal(sys_iret(cpu, &insn), SOFT_FAULT);
    assert_int_equal(cpu->exc.vector, EXC_PF);
    assert_false(cpu->nmi_masked);
}

static void iret_keeps_what_the_ring_may_not_change(void **state)
{
    (void)state;
    start_protected(3); /* IOPL 0 */
    cpu->rflags = FLAG_ONE | FLAG_IF;
    put_iret(4, TARGET, CODE32_USER | 3, FLAG_IOPL | FLAG_VIP | FLAG_VIF | FLAG_VM | FLAG_AC | FLAG_RF, 0, 0);
    struct insn insn = plain_insn(4);
    assert_int_equal(sys_iret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->rflags, FLAG_ONE | FLAG_IF | FLAG_AC | FLAG_RF);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK + 12);

    start_protected(3);
    cpu->rflags = FLAG_ONE | FLAG_IOPL | FLAG_IF;
    put_iret(4, TARGET, CODE32_USER | 3, 0, 0, 0);
    assert_int_equal(sys_iret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->rflags, FLAG_ONE | FLAG_IOPL);

    start_protected(0);
    cpu->rflags = FLAG_ONE | FLAG_AC | FLAG_ID;
    put_iret(2, 0x1000, CODE32, 0xffff & ~FLAG_NT, 0, 0);
    insn = plain_insn(2);
    assert_int_equal(sys_iret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->rflags, FLAG_AC | FLAG_ID | 0x3fd7);
    assert_int_equal(cpu->gpr[GPR_RSP], KERNEL_STACK + 6);
}

static void iret_to_a_16_bit_stack_loads_sp_alone(void **state)
{
    (void)state;
    start_protected(0);
    cpu->gpr[GPR_RSP] = 0x18000;
    put_iret(4, TARGET, CODE32_USER | 3, FLAG_ONE, 0x77775678, DATA16_USER | 3);
    struct insn insn = plain_insn(4);
    assert_int_equal(sys_iret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x15678);
}

static void iret_that_needs_vm86_ends_the_run(void **state)
{
    (void)state;
    start_protected(0);
    struct insn insn = plain_insn(4);
    put_iret(4, TARGET, 0x1000, FLAG_VM | FLAG_ONE, 0x1000, 0x2000);
    assert_int_equal(sys_iret(cpu, &insn), SOFT_EXIT);
    assert_true(flat.internal);
}

/* Ring 3 can set NT. */
static void iret_to_a_task_that_is_none_faults(void **state)
{
    static const struct {
        uint16_t link;
        uint8_t type, vector; /* of the descriptor at FREE */
        bool absent;
    } cases[] = {
        {0, 11, EXC_TS, false},   {FREE | 4, 11, EXC_TS, false}, {GDT_BYTES, 11, EXC_TS, false}, {FREE, 9, EXC_TS, false}, /* not busy */
        {FREE, 2, EXC_TS, false}, {DATA0, 11, EXC_TS, false},    {FREE, 11, EXC_NP, true},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_protected(3);
        struct insn insn = plain_insn(4);
        cpu->rflags |= FLAG_NT;
        put_system(FREE, cases[i].type, 0, 0x4000, 0x67);
        if (cases[i].absent)
            flat.ram[GDT + FREE + 5] &= 0x7f;
        poke(TSS, 2, cases[i].link);
        expect_clean_fault(sys_iret, &insn, cases[i].vector, cases[i].link & 0xfffc);
    }
}

static void iret_real_mode(void **state)
{
    (void)state;
    start_real();
    cpu->rflags = FLAG_ONE | FLAG_AC;
    put_words(0x31000, 2, (uint64_t[]){0x55, 0x1234, FLAG_IF | FLAG_CF | FLAG_IOPL}, 3);
    struct insn insn = plain_insn(2);
    assert_int_equal(sys_iret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x55);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x12340);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x1006);
    assert_int_equal(cpu->rflags, FLAG_ONE | FLAG_AC | FLAG_IF | FLAG_CF | FLAG_IOPL);
}

static void real_mode_far_transfers(void **state)
{
    (void)state;
    start_real();
    struct insn insn = far_direct(2, 0x1234, 0x10);
    assert_int_equal(sys_call_far(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x12340);
    assert_int_equal(cpu->next_rip, 0x10);
    assert_int_equal(peek(0x30ffe, 2), 0x2000);
    assert_int_equal(peek(0x30ffc, 2), 0x102);
    insn = plain_insn(2);
    assert_int_equal(sys_ret_far(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->seg[SEG_CS].sel, 0x2000);
    assert_int_equal(cpu->next_rip, 0x102);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x1000);
    insn = far_direct(4, 0x1234, 0x10000);
    expect_clean_fault(sys_jmp_far, &insn, EXC_GP, 0);
}

/* --- system calls --- */

#define STAR_VALUE (0x23ULL << 48 | 0x10ULL << 32 | 0x7000)

static void start_syscall(unsigned ring, bool amd)
{
    start_long(ring);
    flat.cpuid.amd = amd;
    cpu->star = STAR_VALUE;
    cpu->lstar = 0xffffffff81000000;
    cpu->cstar = 0xffffffff82000000;
    cpu->sfmask = FLAG_IF | FLAG_TF;
}

static void syscall_from_64_bit_code(void **state)
{
    (void)state;
    start_syscall(3, false);
    cpu->rflags |= FLAG_ZF;
    struct insn insn = plain_insn(8);
    assert_int_equal(sys_syscall(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, cpu->lstar);
    assert_int_equal(cpu->gpr[GPR_RCX], 0x20002);
    assert_int_equal(cpu->gpr[GPR_R11], FLAG_ONE | FLAG_IF | FLAG_ZF);
    assert_int_equal(cpu->rflags, FLAG_ONE | FLAG_ZF);
    assert_int_equal(cpu->seg[SEG_CS].sel, 0x10);
    assert_int_equal(cpu->seg[SEG_CS].attr, 0xa09b);
    assert_int_equal(cpu->seg[SEG_SS].sel, 0x18);
    assert_int_equal(cpu->seg[SEG_SS].attr, 0xc093);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->code_bits, 64);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK);
}

static void syscall_elsewhere_is_amds(void **state)
{
    struct insn insn;

    (void)state;
    start_syscall(3, true);
    cpu->efer &= ~EFER_SCE;
    insn = plain_insn(8);
    expect_ud(sys_syscall(cpu, &insn));

    start_syscall(3, false);
    set_segment(SEG_CS, CODE32_USER | 3);
    soft_mode_update(cpu);
    expect_ud(sys_syscall(cpu, &insn));
    flat.cpuid.amd = true;
    assert_int_equal(sys_syscall(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, cpu->cstar);
    assert_int_equal(cpu->code_bits, 64);

    start_protected(3);
    flat.cpuid.amd = true;
    cpu->efer = EFER_SCE;
    cpu->star = STAR_VALUE;
    assert_int_equal(sys_syscall(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x7000);
    assert_int_equal(cpu->gpr[GPR_RCX], 0x20002);
    assert_int_equal(cpu->gpr[GPR_R11], 0);
    assert_int_equal(cpu->rflags, FLAG_ONE);
    assert_int_equal(cpu->code_bits, 32);
}

static void sysret_to_64_and_32_bit_code(void **state)
{
    struct insn insn;

    (void)state;
    start_syscall(0, false);
    cpu->gpr[GPR_RCX] = 0x7fff12345678;
    cpu->gpr[GPR_R11] = UINT64_MAX;
    insn = plain_insn(8);
    assert_int_equal(sys_sysret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x7fff12345678);
    assert_int_equal(cpu->rflags, 0x3c7fd7);
    assert_int_equal(cpu->seg[SEG_CS].sel, 0x33);
    assert_int_equal(cpu->seg[SEG_CS].attr, 0xa0fb);
    assert_int_equal(cpu->seg[SEG_SS].sel, 0x2b);
    assert_int_equal(cpu->seg[SEG_SS].attr, 0xc0f3);
    assert_int_equal(cpu->cpl, 3);

    start_syscall(0, false);
    cpu->gpr[GPR_RCX] = 0x7fff12345678;
    insn = plain_insn(4);
    assert_int_equal(sys_sysret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x12345678);
    assert_int_equal(cpu->seg[SEG_CS].sel, 0x23);
    assert_int_equal(cpu->code_bits, 32);
}

static void sysret_faults(void **state)
{
    struct insn insn;

    (void)state;
    start_syscall(3, false);
    insn = plain_insn(8);
    expect_clean_fault(sys_sysret, &insn, EXC_GP, 0);

    start_syscall(0, false);
    cpu->gpr[GPR_RCX] = BIT(47);
    expect_clean_fault(sys_sysret, &insn, EXC_GP, 0);
    flat.cpuid.amd = true; /* AMD goes there and faults in ring 3 */
    assert_int_equal(sys_sysret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, BIT(47));
    assert_int_equal(cpu->cpl, 3);
}

static void sysenter_and_sysexit(void **state)
{
    struct insn insn;

    (void)state;
    start_long(3);
    insn = plain_insn(4);
    expect_clean_fault(sys_sysenter, &insn, EXC_GP, 0); /* CS is null */
    cpu->sysenter_cs = 0x13;
    cpu->sysenter_eip = 0xffffffff81000000;
    cpu->sysenter_esp = 0xffffc90000001000;
    assert_int_equal(sys_sysenter(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, cpu->sysenter_eip);
    assert_int_equal(cpu->gpr[GPR_RSP], cpu->sysenter_esp);
    assert_int_equal(cpu->seg[SEG_CS].sel, 0x10);
    assert_int_equal(cpu->seg[SEG_SS].sel, 0x18);
    assert_int_equal(cpu->cpl, 0);
    assert_false(cpu->rflags & FLAG_IF);

    cpu->gpr[GPR_RDX] = 0x7fff00001000;
    cpu->gpr[GPR_RCX] = 0x7fff00002000;
    insn = plain_insn(8);
    assert_int_equal(sys_sysexit(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x7fff00001000);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x7fff00002000);
    assert_int_equal(cpu->seg[SEG_CS].sel, 0x33);
    assert_int_equal(cpu->seg[SEG_SS].sel, 0x3b);
    expect_clean_fault(sys_sysexit, &insn, EXC_GP, 0); /* ring 3 */

    flat.cpuid.amd = true;
    expect_ud(sys_sysenter(cpu, &insn));
    expect_ud(sys_sysexit(cpu, &insn));

    start_protected(3);
    flat.cpuid.amd = true;
    cpu->sysenter_cs = CODE32;
    cpu->sysenter_eip = HANDLER;
    cpu->sysenter_esp = KERNEL_STACK;
    assert_int_equal(sys_sysenter(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->code_bits, 32);
    start_real();
    expect_clean_fault(sys_sysenter, &insn, EXC_GP, 0);
}

static void bound_compares_signed(void **state)
{
    static const struct {
        unsigned size;
        uint64_t index;
        bool inside;
    } cases[] = {{4, 0xfffffffb, true}, {4, 0xfffffffa, false}, {4, 7, true}, {4, 8, false}, {2, 0x1fffb, true}, {2, 0x10008, false}};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        unsigned size = cases[i].size;
        start_protected(3);
        struct insn insn = mem_insn(size, POINTER, size * 2);
        insn.op[1] = insn.op[0];
        insn.op[0] = (struct insn_operand){.kind = OPERAND_GPR, .reg = GPR_RDX, .size = (uint16_t)size};
        poke(POINTER, size, (uint64_t)-5);
        poke(POINTER + size, size, 7);
        cpu->gpr[GPR_RDX] = cases[i].index;
        assert_int_equal(sys_bound(cpu, &insn), cases[i].inside ? SOFT_OK : SOFT_FAULT);
        if (!cases[i].inside)
            assert_int_equal(cpu->exc.vector, EXC_BR);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jump_to_code_segments),
        cmocka_unit_test(jump_checks_the_target_against_the_new_segment),
        cmocka_unit_test(rex_w_pointers_are_16_64_on_intel_and_16_32_on_amd),
        cmocka_unit_test(long_mode_enters_and_leaves_64_bit_code),
        cmocka_unit_test(far_call_pushes_cs_and_ip),
        cmocka_unit_test(call_gate_32_copies_parameters_to_the_inner_stack),
        cmocka_unit_test(call_gate_16_uses_words),
        cmocka_unit_test(call_gate_64_has_no_parameters_and_a_null_stack),
        cmocka_unit_test(call_gate_faults),
        cmocka_unit_test(task_switches_do_not_exist_in_long_mode),
        cmocka_unit_test(far_return_to_the_same_ring_drops_parameters),
        cmocka_unit_test(far_return_outwards_takes_the_stack_and_drops_inner_segments),
        cmocka_unit_test(far_return_faults),
        cmocka_unit_test(iretq_returns_to_ring_3),
        cmocka_unit_test(iretq_always_takes_the_stack),
        cmocka_unit_test(iretq_faults),
        cmocka_unit_test(iret_keeps_what_the_ring_may_not_change),
        cmocka_unit_test(iret_to_a_16_bit_stack_loads_sp_alone),
        cmocka_unit_test(iret_that_needs_vm86_ends_the_run),
        cmocka_unit_test(iret_to_a_task_that_is_none_faults),
        cmocka_unit_test(iret_real_mode),
        cmocka_unit_test(real_mode_far_transfers),
        cmocka_unit_test(syscall_from_64_bit_code),
        cmocka_unit_test(syscall_elsewhere_is_amds),
        cmocka_unit_test(sysret_to_64_and_32_bit_code),
        cmocka_unit_test(sysret_faults),
        cmocka_unit_test(sysenter_and_sysexit),
        cmocka_unit_test(bound_compares_signed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
