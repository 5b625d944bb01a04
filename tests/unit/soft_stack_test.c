/* Stack instructions, system flags and near control flow in every mode. */
#include "soft_flat.h"

#define AT 0x10100ULL

static struct insn seg_insn(unsigned opsize, unsigned seg)
{
    struct insn insn = plain_insn(opsize);

    insn.op[0] = (struct insn_operand){.kind = OPERAND_SEG, .reg = (uint8_t)seg, .size = 2};
    return insn;
}

static struct insn rel_insn(unsigned opsize, int64_t rel)
{
    struct insn insn = plain_insn(opsize);

    insn.op[0] = (struct insn_operand){.kind = OPERAND_REL, .imm = (uint64_t)rel};
    return insn;
}

/* --- push and pop --- */

static void push_of_each_operand(void **state)
{
    (void)state;
    start_long(3);
    struct insn insn = gpr_insn(8, GPR_RSP, 8);
    assert_int_equal(sys_push(cpu, &insn), SOFT_OK); /* the value before */
    assert_int_equal(peek(USER_STACK - 8, 8), USER_STACK);
    insn = imm_insn(8, (uint64_t)-2);
    assert_int_equal(sys_push(cpu, &insn), SOFT_OK);
    assert_int_equal(peek(USER_STACK - 16, 8), UINT64_MAX - 1);
    insn = seg_insn(8, SEG_FS);
    assert_int_equal(sys_push(cpu, &insn), SOFT_OK);
    assert_int_equal(peek(USER_STACK - 24, 8), DATA_USER | 3);
    insn = mem_insn(2, AT, 2);
    poke(AT, 2, 0xabcd);
    assert_int_equal(sys_push(cpu, &insn), SOFT_OK);
    assert_int_equal(peek(USER_STACK - 26, 2), 0xabcd);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK - 26);
}

static void pop_of_each_operand(void **state)
{
    (void)state;
    start_long(3);
    poke(USER_STACK, 8, 0x1122334455667788);
    struct insn insn = gpr_insn(8, GPR_RSP, 8);
    assert_int_equal(sys_pop(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x1122334455667788);

    start_long(3);
    poke(USER_STACK, 8, 0x1122334455667788);
    insn = mem_insn(8, 8, 8);
    insn.mem.base = GPR_RSP; /* by the stack pointer after the pop */
    insn.mem.seg = SEG_SS;
    assert_int_equal(sys_pop(cpu, &insn), SOFT_OK);
    assert_int_equal(peek(USER_STACK + 16, 8), 0x1122334455667788);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK + 8);

    flat.readonly = USER_STACK;
    expect_clean_fault(sys_pop, &insn, EXC_PF, PF_PRESENT | PF_WRITE | PF_USER);
}

static void pop_of_segments(void **state)
{
    (void)state;
    start_protected(3);
    poke(USER_STACK, 4, 0x12340000 | DATA_READONLY | 3); /* only 16 bits count */
    struct insn insn = seg_insn(4, SEG_DS);
    assert_int_equal(sys_pop(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->seg[SEG_DS].sel, DATA_READONLY | 3);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK + 4);
    assert_false(cpu->mov_ss_shadow);

    poke(USER_STACK + 4, 4, DATA_READONLY | 3);
    insn = seg_insn(4, SEG_SS);
    expect_clean_fault(sys_pop, &insn, EXC_GP, DATA_READONLY);
    poke(USER_STACK + 4, 4, DATA16_USER | 3);
    assert_int_equal(sys_pop(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK + 8);
    assert_true(cpu->mov_ss_shadow);
}

static void pusha_and_popa_leave_sp_out(void **state)
{
    (void)state;
    for (unsigned size = 2; size <= 4; size *= 2) {
        start_protected(3);
        struct insn insn = plain_insn(size);
        for (unsigned i = 0; i < 8; i++)
            if (i != GPR_RSP)
                cpu->gpr[i] = 0x11111111 * i;
        assert_int_equal(sys_pusha(cpu, &insn), SOFT_OK);
        assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK - 8 * size);
        assert_int_equal(peek(USER_STACK - size, size), 0);
        assert_int_equal(peek(USER_STACK - 2 * size, size), size == 2 ? 0x1111 : 0x11111111);
        assert_int_equal(peek(USER_STACK - 5 * size, size), size == 2 ? USER_STACK & 0xffff : USER_STACK);
        for (unsigned i = 0; i < 8; i++)
            if (i != GPR_RSP)
                cpu->gpr[i] = 0xffffffff;
        assert_int_equal(sys_popa(cpu, &insn), SOFT_OK);
        assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK);
        assert_int_equal(cpu->gpr[GPR_RDI], size == 2 ? 0xffff7777 : 0x77777777);
        assert_int_equal(cpu->gpr[GPR_RAX], size == 2 ? 0xffff0000 : 0);
    }
}

static void pusha_across_an_unwritable_page_writes_nothing(void **state)
{
    (void)state;
    start_protected(3);
    cpu->gpr[GPR_RSP] = USER_STACK + 8;
    flat.readonly = USER_STACK - PAGE_SIZE;
    struct insn insn = plain_insn(4);
    expect_clean_fault(sys_pusha, &insn, EXC_PF, PF_PRESENT | PF_WRITE | PF_USER);
    assert_int_equal(flat.writes, 0);
}

static void stack_limits(void **state)
{
    (void)state;
    start_real();
    cpu->gpr[GPR_RSP] = 0xabcd0000; /* wraps to fffe, above stays */
    struct insn insn = gpr_insn(2, GPR_RAX, 2);
    assert_int_equal(sys_push(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], 0xabcdfffe);
    cpu->gpr[GPR_RSP] = 1;
    expect_clean_fault(sys_push, &insn, EXC_SS, 0);
    start_protected(0);
    cpu->seg[SEG_SS].attr |= 4; /* expand-down, up to 4 GiB */
    cpu->seg[SEG_SS].limit = KERNEL_STACK - 1;
    insn = plain_insn(4);
    expect_clean_fault(sys_pusha, &insn, EXC_SS, 0);
    cpu->seg[SEG_SS].limit = KERNEL_STACK - 33;
    assert_int_equal(sys_pusha(cpu, &insn), SOFT_OK);
}

static void enter_and_leave(void **state)
{
    (void)state;
    start_long(3);
    cpu->gpr[GPR_RBP] = USER_STACK + 0x100;
    poke(USER_STACK + 0x100 - 8, 8, 0xaaaa);
    poke(USER_STACK + 0x100 - 16, 8, 0xbbbb);
    struct insn insn = imm_insn(8, 0x20);
    insn.op[1] = (struct insn_operand){.kind = OPERAND_IMM, .imm = 3 + 32}; /* level modulo 32 */
    assert_int_equal(sys_enter(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RBP], USER_STACK - 8);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK - 32 - 0x20);
    assert_int_equal(peek(USER_STACK - 8, 8), USER_STACK + 0x100);
    assert_int_equal(peek(USER_STACK - 16, 8), 0xaaaa);
    assert_int_equal(peek(USER_STACK - 24, 8), 0xbbbb);
    assert_int_equal(peek(USER_STACK - 32, 8), USER_STACK - 8);
    insn = plain_insn(8);
    assert_int_equal(sys_leave(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK);
    assert_int_equal(cpu->gpr[GPR_RBP], USER_STACK + 0x100);

    flat.readonly = USER_STACK - 2 * PAGE_SIZE; /* where the new frame ends */
    insn = imm_insn(8, 0x1800);
    expect_clean_fault(sys_enter, &insn, EXC_PF, PF_PRESENT | PF_WRITE | PF_USER);

    start_long(3); /* 16-bit operands: BP alone, as processors do */
    cpu->gpr[GPR_RBP] = 0x1122334455667788;
    insn = imm_insn(2, 0x10);
    assert_int_equal(sys_enter(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RBP], 0x1122334455660000 | ((USER_STACK - 2) & 0xffff));
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK - 2 - 0x10);
}

/* --- flags --- */

static void pushf_hides_rf_and_vm(void **state)
{
    (void)state;
    start_long(3);
    cpu->rflags |= FLAG_RF | FLAG_AC;
    struct insn insn = plain_insn(8);
    assert_int_equal(sys_pushf(cpu, &insn), SOFT_OK);
    assert_int_equal(peek(USER_STACK - 8, 8), FLAG_ONE | FLAG_IF | FLAG_AC);
}

static void popf_by_privilege(void **state)
{
    static const struct {
        unsigned ring, opsize;
        uint64_t before, expected;
    } cases[] = {
        {0, 8, 0, 0x247fd7},
        {0, 2, FLAG_AC, 0x7fd7 | FLAG_AC},
        {3, 8, 0, 0x244dd7},         /* neither IF nor IOPL */
        {3, 8, FLAG_IF, 0x244fd7},   /* IF stays */
        {3, 8, FLAG_IOPL, 0x247fd7}, /* IOPL 3 gives IF */
        {0, 8, FLAG_VIF | FLAG_VIP, 0x247fd7 | FLAG_VIF | FLAG_VIP},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_long(cases[i].ring);
        cpu->rflags = cases[i].before | FLAG_ONE;
        poke(cpu->gpr[GPR_RSP], 8, UINT64_MAX & ~(FLAG_VIF | FLAG_VIP));
        struct insn insn = plain_insn(cases[i].opsize);
        assert_int_equal(sys_popf(cpu, &insn), SOFT_OK);
        assert_int_equal(cpu->rflags, cases[i].expected);
    }
}

static void cli_and_sti_by_privilege(void **state)
{
    struct insn insn;

    (void)state;
    start_long(0);
    insn = plain_insn(4);
    assert_int_equal(sys_cli(cpu, &insn), SOFT_OK);
    assert_false(cpu->rflags & FLAG_IF);
    assert_int_equal(sys_sti(cpu, &insn), SOFT_OK);
    assert_true(cpu->rflags & FLAG_IF);
    assert_true(cpu->interrupt_shadow);
    assert_int_equal(sys_sti(cpu, &insn), SOFT_OK);
    assert_false(cpu->interrupt_shadow); /* IF was on already */

    start_long(3);
    expect_clean_fault(sys_cli, &insn, EXC_GP, 0);
    expect_clean_fault(sys_sti, &insn, EXC_GP, 0);
    cpu->cr4 |= CR4_PVI;
    assert_int_equal(sys_sti(cpu, &insn), SOFT_OK);
    assert_true(cpu->rflags & FLAG_VIF);
    assert_int_equal(sys_cli(cpu, &insn), SOFT_OK);
    assert_false(cpu->rflags & FLAG_VIF);
    cpu->rflags |= FLAG_VIP;
    expect_clean_fault(sys_sti, &insn, EXC_GP, 0);
    cpu->rflags |= FLAG_IOPL;
    assert_int_equal(sys_cli(cpu, &insn), SOFT_OK);
    assert_false(cpu->rflags & FLAG_IF);
    assert_int_equal(sys_std(cpu, &insn), SOFT_OK);
    assert_true(cpu->rflags & FLAG_DF);
    assert_int_equal(sys_cld(cpu, &insn), SOFT_OK);
    assert_false(cpu->rflags & FLAG_DF);
}

/* --- near control flow --- */

static void jump_targets_by_mode(void **state)
{
    struct insn insn;

    (void)state;
    start_long(3);
    insn = rel_insn(8, -0x10);
    assert_int_equal(sys_jmp(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x1fff2);
    insn = gpr_insn(8, GPR_RAX, 8);
    cpu->gpr[GPR_RAX] = BIT(47);
    expect_clean_fault(sys_jmp, &insn, EXC_GP, 0);

    start_protected(3);
    cpu->seg[SEG_CS].limit = 0x2ffff;
    insn = rel_insn(4, 0x10000);
    expect_clean_fault(sys_jmp, &insn, EXC_GP, 0);
    insn = rel_insn(2, 0x10); /* EIP is cut to 16 bits */
    assert_int_equal(sys_jmp(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x12);
    insn = rel_insn(4, -0x100);
    assert_int_equal(sys_jmp(cpu, &insn), SOFT_FAULT); /* wraps to the top of 4 GiB */
    assert_int_equal(cpu->exc.vector, EXC_GP);
}

static void every_condition(void **state)
{
    static const struct {
        uint64_t flags;
        uint16_t taken; /* bit n: condition n holds */
    } cases[] = {
        {0, 0xaaaa},       {FLAG_OF, 0x5aa9}, {FLAG_CF, 0xaa66},           {FLAG_ZF, 0x6a5a},
        {FLAG_SF, 0x59aa}, {FLAG_PF, 0xa6aa}, {FLAG_SF | FLAG_OF, 0xa9a9},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        for (unsigned code = 0; code < 16; code++) {
            start_long(3);
            cpu->rflags = FLAG_ONE | cases[i].flags;
            struct insn insn = rel_insn(8, 0x40);
            insn.opcode = (uint8_t)(0x70 + code);
            assert_int_equal(sys_jcc(cpu, &insn), SOFT_OK);
            assert_int_equal(cpu->next_rip == 0x20042, cases[i].taken >> code & 1);
        }
    }
}

static void call_and_return(void **state)
{
    struct insn insn;

    (void)state;
    start_long(3);
    insn = mem_insn(8, USER_STACK, 8);
    insn.mem.base = GPR_RSP; /* the address is computed before the push */
    insn.mem.disp = 0;
    insn.mem.seg = SEG_SS;
    poke(USER_STACK, 8, 0x12345);
    assert_int_equal(sys_call(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x12345);
    assert_int_equal(peek(USER_STACK - 8, 8), 0x20002);
    insn = imm_insn(8, 0x20);
    assert_int_equal(sys_ret(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x20002);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK + 0x20);

    poke(cpu->gpr[GPR_RSP], 8, BIT(63));
    expect_clean_fault(sys_ret, &insn, EXC_GP, 0);
    insn = gpr_insn(8, GPR_RAX, 8);
    cpu->gpr[GPR_RAX] = BIT(63);
    flat.writes = 0;
    expect_clean_fault(sys_call, &insn, EXC_GP, 0);
    assert_int_equal(flat.writes, 0);
    flat.readonly = USER_STACK;
    insn = rel_insn(8, 0);
    expect_clean_fault(sys_call, &insn, EXC_PF, PF_PRESENT | PF_WRITE | PF_USER);
}

static void loops_count_in_the_address_size(void **state)
{
    struct insn insn;

    (void)state;
    start_long(3);
    insn = rel_insn(8, 0x10);
    insn.mnemonic = ZYDIS_MNEMONIC_LOOP;
    insn.addrsize = 4;
    cpu->gpr[GPR_RCX] = 0xffffffff00000001;
    assert_int_equal(sys_loop(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RCX], 0);
    assert_int_equal(cpu->next_rip, 0x20002);
    insn.addrsize = 8;
    assert_int_equal(sys_loop(cpu, &insn), SOFT_OK); /* 0 becomes all ones */
    assert_int_equal(cpu->gpr[GPR_RCX], UINT64_MAX);
    assert_int_equal(cpu->next_rip, 0x20012);

    start_long(3);
    cpu->gpr[GPR_RCX] = 5;
    insn.mnemonic = ZYDIS_MNEMONIC_LOOPE;
    assert_int_equal(sys_loop(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x20002);
    insn.mnemonic = ZYDIS_MNEMONIC_LOOPNE;
    assert_int_equal(sys_loop(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x20012);
    assert_int_equal(cpu->gpr[GPR_RCX], 3);

    start_protected(3);
    cpu->seg[SEG_CS].limit = 0x20008;
    insn = rel_insn(4, 0x10);
    insn.mnemonic = ZYDIS_MNEMONIC_LOOP;
    cpu->gpr[GPR_RCX] = 5;
    expect_clean_fault(sys_loop, &insn, EXC_GP, 0); /* the count stays */
    cpu->gpr[GPR_RCX] = 0x10000;
    insn.addrsize = 2;
    cpu->seg[SEG_CS].limit = UINT32_MAX;
    assert_int_equal(sys_jrcxz(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x20012);
    insn.addrsize = 4;
    assert_int_equal(sys_jrcxz(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, 0x20012);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(push_of_each_operand),
        cmocka_unit_test(pop_of_each_operand),
        cmocka_unit_test(pop_of_segments),
        cmocka_unit_test(pusha_and_popa_leave_sp_out),
        cmocka_unit_test(pusha_across_an_unwritable_page_writes_nothing),
        cmocka_unit_test(stack_limits),
        cmocka_unit_test(enter_and_leave),
        cmocka_unit_test(pushf_hides_rf_and_vm),
        cmocka_unit_test(popf_by_privilege),
        cmocka_unit_test(cli_and_sti_by_privilege),
        cmocka_unit_test(jump_targets_by_mode),
        cmocka_unit_test(every_condition),
        cmocka_unit_test(call_and_return),
        cmocka_unit_test(loops_count_in_the_address_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
