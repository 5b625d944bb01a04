/* Segment loads, bases, descriptor table registers and queries about descriptors, with every check. */
#include "soft_flat.h"

#define AT 0x10100ULL

static struct insn to_seg(unsigned seg)
{
    struct insn insn = plain_insn(4);

    insn.op[0] = (struct insn_operand){.kind = OPERAND_SEG, .reg = (uint8_t)seg, .size = 2};
    insn.op[1] = (struct insn_operand){.kind = OPERAND_GPR, .reg = GPR_RAX, .size = 2};
    return insn;
}

static void data_segment_loads(void **state)
{
    static const struct {
        unsigned ring, sel;
        uint8_t vector;
        uint32_t error;
    } cases[] = {
        {0, DATA0, 0, 0},
        {0, DATA_USER | 3, 0, 0},
        {3, DATA_USER, 0, 0},
        {3, DATA0, EXC_GP, DATA0},
        {0, DATA0 | 3, EXC_GP, DATA0}, /* the RPL counts as well */
        {3, DATA_READONLY | 3, 0, 0},
        {0, CODE32, 0, 0}, /* readable code */
        {3, CODE32, EXC_GP, CODE32},
        {3, CODE32_CONFORMING | 3, 0, 0},
        {3, CODE_NOREAD | 3, EXC_GP, CODE_NOREAD},
        {0, DATA_ABSENT, EXC_NP, DATA_ABSENT},
        {0, TSS_SEL, EXC_GP, TSS_SEL},
        {0, GDT_BYTES | 3, EXC_GP, GDT_BYTES},
        {0, 0xc, EXC_GP, 0xc},
        {3, 0, 0, 0},
        {3, 3, 0, 0},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_protected(cases[i].ring);
        put_system(TSS_SEL, 9, 0, TSS, 0x67);
        struct insn insn = to_seg(SEG_ES);
        cpu->gpr[GPR_RAX] = cases[i].sel;
        if (cases[i].vector) {
            expect_clean_fault(sys_mov_to_seg, &insn, cases[i].vector, cases[i].error);
            continue;
        }
        assert_int_equal(sys_mov_to_seg(cpu, &insn), SOFT_OK);
        assert_int_equal(cpu->seg[SEG_ES].sel, cases[i].sel);
        assert_int_equal(!!(cpu->seg[SEG_ES].attr & SEG_UNUSABLE), cases[i].sel < 4);
        assert_false(cpu->mov_ss_shadow);
    }
}

static void stack_segment_loads(void **state)
{
    static const struct {
        unsigned ring, sel;
        uint8_t vector;
        uint32_t error;
    } cases[] = {
        {0, DATA16, 0, 0},
        {3, DATA16_USER | 3, 0, 0},
        {0, 0, EXC_GP, 0},
        {0, DATA_USER, EXC_GP, DATA_USER},
        {3, DATA_USER, EXC_GP, DATA_USER}, /* RPL */
        {3, DATA_READONLY | 3, EXC_GP, DATA_READONLY},
        {0, CODE32, EXC_GP, CODE32},
        {0, DATA_ABSENT, EXC_SS, DATA_ABSENT},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_protected(cases[i].ring);
        struct insn insn = to_seg(SEG_SS);
        cpu->gpr[GPR_RAX] = cases[i].sel;
        if (cases[i].vector) {
            expect_clean_fault(sys_mov_to_seg, &insn, cases[i].vector, cases[i].error);
            continue;
        }
        assert_int_equal(sys_mov_to_seg(cpu, &insn), SOFT_OK);
        assert_int_equal(cpu->stack_bits, 16);
        assert_true(cpu->mov_ss_shadow);
    }
}

static void null_stack_segment_is_for_64_bit_inner_rings(void **state)
{
    struct insn insn;

    (void)state;
    start_long(0);
    insn = to_seg(SEG_SS);
    assert_int_equal(sys_mov_to_seg(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->cpl, 0);
    cpu->gpr[GPR_RAX] = 1;
    expect_clean_fault(sys_mov_to_seg, &insn, EXC_GP, 0);
    start_long(3);
    cpu->gpr[GPR_RAX] = 3;
    expect_clean_fault(sys_mov_to_seg, &insn, EXC_GP, 0);
}

static void descriptor_fields_and_accessed_bit(void **state)
{
    (void)state;
    start_protected(0);
    poke(GDT + FREE, 8, 0x12c0920034567890 | 0xfULL << 48); /* base 12003456, limit f7890 pages, writable, not accessed */
    struct insn insn = to_seg(SEG_FS);
    cpu->gpr[GPR_RAX] = FREE;
    assert_int_equal(sys_mov_to_seg(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->seg[SEG_FS].base, 0x12003456);
    assert_int_equal(cpu->seg[SEG_FS].limit, 0xf7890fff);
    assert_int_equal(cpu->seg[SEG_FS].attr, SEG_G | SEG_DB | SEG_P | SEG_S | 3);
    assert_int_equal(flat.ram[GDT + FREE + 5], 0x93);
}

static void accessed_bit_that_cannot_be_written_faults(void **state)
{
    (void)state;
    start_protected(0);
    put_segment(FREE, 0x2, 0, SEG_DB, 0);
    flat.readonly = GDT;
    struct insn insn = to_seg(SEG_FS);
    cpu->gpr[GPR_RAX] = FREE;
    expect_clean_fault(sys_mov_to_seg, &insn, EXC_PF, PF_PRESENT | PF_WRITE);
    cpu->gpr[GPR_RAX] = DATA0; /* set already: no write */
    assert_int_equal(sys_mov_to_seg(cpu, &insn), SOFT_OK);
}

static void local_table_is_used_with_ti(void **state)
{
    (void)state;
    start_protected(0);
    cpu->ldtr = (struct cpu_seg){.base = LDT, .limit = 15, .attr = 0x82, .sel = LDT_SEL};
    poke(LDT + 8, 8, peek(GDT + DATA0, 8));
    struct insn insn = to_seg(SEG_DS);
    cpu->gpr[GPR_RAX] = 0xc;
    assert_int_equal(sys_mov_to_seg(cpu, &insn), SOFT_OK);
    cpu->gpr[GPR_RAX] = 0x14;
    expect_clean_fault(sys_mov_to_seg, &insn, EXC_GP, 0x14);
}

static void real_mode_load_sets_the_base_only(void **state)
{
    (void)state;
    start_real();
    cpu->seg[SEG_DS].limit = UINT32_MAX; /* as protected mode left it */
    cpu->seg[SEG_ES].attr = SEG_UNUSABLE;
    struct insn insn = to_seg(SEG_DS);
    cpu->gpr[GPR_RAX] = 0xffff;
    assert_int_equal(sys_mov_to_seg(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->seg[SEG_DS].base, 0xffff0);
    assert_int_equal(cpu->seg[SEG_DS].limit, UINT32_MAX);
    insn = to_seg(SEG_ES);
    assert_int_equal(sys_mov_to_seg(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->seg[SEG_ES].attr, 0x93);
    insn = to_seg(SEG_CS);
    expect_ud(sys_mov_to_seg(cpu, &insn));
}

static void selectors_are_stored_by_operand_size(void **state)
{
    (void)state;
    start_long(3);
    for (unsigned size = 2; size <= 8; size *= 2) {
        struct insn insn = gpr_insn(size, GPR_RBX, size);
        insn.op[1] = (struct insn_operand){.kind = OPERAND_SEG, .reg = SEG_DS, .size = 2};
        cpu->gpr[GPR_RBX] = UINT64_MAX;
        assert_int_equal(sys_mov_from_seg(cpu, &insn), SOFT_OK);
        assert_int_equal(cpu->gpr[GPR_RBX], size == 2 ? 0xffffffffffff0000 | DATA_USER | 3 : DATA_USER | 3);
    }
}

static void far_pointer_loads_segment_and_register(void **state)
{
    (void)state;
    start_protected(3);
    struct insn insn = mem_insn(4, AT, 6);
    insn.op[1] = insn.op[0];
    insn.op[0] = (struct insn_operand){.kind = OPERAND_GPR, .reg = GPR_RSI, .size = 4};
    insn.mnemonic = ZYDIS_MNEMONIC_LES;
    poke(AT, 4, 0x12345678);
    poke(AT + 4, 2, DATA_READONLY | 3);
    assert_int_equal(sys_load_far_pointer(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSI], 0x12345678);
    assert_int_equal(cpu->seg[SEG_ES].sel, DATA_READONLY | 3);
    insn.mnemonic = ZYDIS_MNEMONIC_LSS;
    expect_clean_fault(sys_load_far_pointer, &insn, EXC_GP, DATA_READONLY);
}

/* --- bases --- */

static void base_instructions_need_64_bit_mode_and_their_bit(void **state)
{
    struct insn insn;

    (void)state;
    start_long(3);
    insn = gpr_insn(8, GPR_RAX, 8);
    expect_ud(sys_rdfsbase(cpu, &insn));
    cpu->cr4 |= CR4_FSGSBASE;
    cpu->gpr[GPR_RAX] = 0x7fff00001000;
    assert_int_equal(sys_wrgsbase(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->seg[SEG_GS].base, 0x7fff00001000);
    insn = gpr_insn(4, GPR_RBX, 4);
    assert_int_equal(sys_rdgsbase(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RBX], 0x00001000);
    insn = gpr_insn(8, GPR_RAX, 8);
    cpu->gpr[GPR_RAX] = BIT(47);
    expect_clean_fault(sys_wrfsbase, &insn, EXC_GP, 0);
    start_protected(3);
    cpu->cr4 |= CR4_FSGSBASE;
    expect_ud(sys_wrfsbase(cpu, &insn));
}

static void swapgs_swaps_in_ring_0(void **state)
{
    struct insn insn;

    (void)state;
    start_long(0);
    insn = plain_insn(4);
    cpu->kernel_gs_base = 1;
    cpu->seg[SEG_GS].base = 2;
    assert_int_equal(sys_swapgs(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->kernel_gs_base, 2);
    assert_int_equal(cpu->seg[SEG_GS].base, 1);
    start_long(3);
    expect_clean_fault(sys_swapgs, &insn, EXC_GP, 0);
    start_protected(0);
    expect_ud(sys_swapgs(cpu, &insn));
}

/* --- table registers --- */

static void lgdt_and_lidt_by_mode_and_operand_size(void **state)
{
    struct insn insn;

    (void)state;
    start_long(0);
    insn = mem_insn(8, AT, 10);
    poke(AT, 2, 0x1234);
    poke(AT + 2, 8, 0xffff800000001000);
    assert_int_equal(sys_lidt(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->idtr.limit, 0x1234);
    assert_int_equal(cpu->idtr.base, 0xffff800000001000);
    insn.opsize = 2; /* a 66 prefix: 64-bit mode has one size */
    assert_int_equal(sys_lgdt(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gdtr.base, 0xffff800000001000);
    poke(AT + 2, 8, BIT(47));
    expect_clean_fault(sys_lgdt, &insn, EXC_GP, 0);
    start_long(3);
    expect_clean_fault(sys_lgdt, &insn, EXC_GP, 0);

    start_protected(0);
    poke(AT + 2, 4, 0x89abcdef);
    insn = mem_insn(4, AT, 6);
    assert_int_equal(sys_lgdt(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gdtr.base, 0x89abcdef);
    insn.opsize = 2;
    assert_int_equal(sys_lgdt(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gdtr.base, 0xabcdef);
}

static void umip_hides_the_tables_from_outer_rings(void **state)
{
    struct insn insn;
    struct insn selector;

    (void)state;
    start_long(3);
    insn = mem_insn(8, AT, 10);
    selector = gpr_insn(4, GPR_RAX, 4);
    cpu->gpr[GPR_RAX] = UINT64_MAX;
    assert_int_equal(sys_sgdt(cpu, &insn), SOFT_OK);
    assert_int_equal(peek(AT, 2), GDT_BYTES - 1);
    assert_int_equal(peek(AT + 2, 8), GDT);
    assert_int_equal(sys_str(cpu, &selector), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RAX], TSS_SEL);
    cpu->cr4 |= CR4_UMIP;
    expect_clean_fault(sys_sgdt, &insn, EXC_GP, 0);
    expect_clean_fault(sys_sidt, &insn, EXC_GP, 0);
    expect_clean_fault(sys_str, &selector, EXC_GP, 0);
    expect_clean_fault(sys_sldt, &selector, EXC_GP, 0);
}

static void ltr_marks_busy_and_reads_16_bytes_in_long_mode(void **state)
{
    struct insn insn;

    (void)state;
    start_long(0);
    insn = gpr_insn(4, GPR_RAX, 2);
    put_system(TSS_SEL, 9, 0, 0xffff800000003000, 0x67);
    cpu->gpr[GPR_RAX] = TSS_SEL;
    assert_int_equal(sys_ltr(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->tr.base, 0xffff800000003000);
    assert_int_equal(cpu->tr.limit, 0x67);
    assert_int_equal(SEG_TYPE(cpu->tr.attr), 11);
    assert_int_equal(flat.ram[GDT + TSS_SEL + 5], 0x8b);
    struct cpu_seg before = cpu->tr;
    expect_clean_fault(sys_ltr, &insn, EXC_GP, TSS_SEL); /* busy */
    put_system(TSS_SEL, 9, 0, BIT(47), 0x67);
    expect_clean_fault(sys_ltr, &insn, EXC_GP, TSS_SEL);
    put_system(TSS_SEL, 1, 0, TSS, 0x67);
    expect_clean_fault(sys_ltr, &insn, EXC_GP, TSS_SEL);
    put_system(TSS_SEL, 9, 0, TSS, 0x67);
    flat.ram[GDT + TSS_SEL + 5] &= 0x7f;
    expect_clean_fault(sys_ltr, &insn, EXC_NP, TSS_SEL);
    cpu->gdtr.limit = TSS_SEL + 8; /* the second half is cut off */
    flat.ram[GDT + TSS_SEL + 5] |= 0x80;
    expect_clean_fault(sys_ltr, &insn, EXC_GP, TSS_SEL);
    cpu->gpr[GPR_RAX] = 0;
    expect_clean_fault(sys_ltr, &insn, EXC_GP, 0);
    cpu->gpr[GPR_RAX] = TSS_SEL | 4;
    expect_clean_fault(sys_ltr, &insn, EXC_GP, TSS_SEL | 4);
    assert_memory_equal(&before, &cpu->tr, sizeof(before));
    start_long(3);
    expect_clean_fault(sys_ltr, &insn, EXC_GP, 0);
    start_real();
    expect_ud(sys_ltr(cpu, &insn));
}

static void lldt_loads_or_disables(void **state)
{
    struct insn insn;

    (void)state;
    start_protected(0);
    insn = gpr_insn(4, GPR_RAX, 2);
    put_system(LDT_SEL, 2, 0, LDT, 0xf);
    cpu->gpr[GPR_RAX] = LDT_SEL;
    assert_int_equal(sys_lldt(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->ldtr.base, LDT);
    cpu->gpr[GPR_RAX] = DATA0;
    expect_clean_fault(sys_lldt, &insn, EXC_GP, DATA0);
    cpu->gpr[GPR_RAX] = 0;
    assert_int_equal(sys_lldt(cpu, &insn), SOFT_OK);
    assert_true(cpu->ldtr.attr & SEG_UNUSABLE);
}

/* --- queries --- */

static bool ask(int (*handler)(struct soft_cpu *, const struct insn *), uint16_t sel, uint64_t *value)
{
    struct insn insn = gpr_insn(4, GPR_RAX, handler == sys_verr || handler == sys_verw ? 2 : 4);

    insn.op[1] = (struct insn_operand){.kind = OPERAND_GPR, .reg = GPR_RCX, .size = 4};
    cpu->gpr[GPR_RAX] = handler == sys_verr || handler == sys_verw ? sel : 0x5555;
    cpu->gpr[GPR_RCX] = sel;
    assert_int_equal(handler(cpu, &insn), SOFT_OK);
    if (value)
        *value = cpu->gpr[GPR_RAX];
    return cpu->rflags & FLAG_ZF;
}

static void lar_and_lsl_tell_what_the_ring_may_know(void **state)
{
    uint64_t value;

    (void)state;
    start_protected(3);
    assert_true(ask(sys_lar, DATA_USER | 3, &value));
    assert_int_equal(value, 0xcff300);
    assert_true(ask(sys_lsl, DATA_USER | 3, &value));
    assert_int_equal(value, UINT32_MAX);
    assert_false(ask(sys_lar, DATA0, &value));
    assert_int_equal(value, 0x5555);
    assert_true(ask(sys_lar, CODE32_CONFORMING | 3, NULL));
    assert_false(ask(sys_lar, 0, NULL));
    assert_false(ask(sys_lsl, GDT_BYTES, NULL));

    put_system(FREE, 4, 3, 0, 0); /* a 16-bit call gate: attributes but no limit */
    assert_true(ask(sys_lar, FREE | 3, NULL));
    assert_false(ask(sys_lsl, FREE | 3, NULL));
    put_system(FREE, 1, 3, 0, 0x2b); /* a 16-bit TSS */
    assert_true(ask(sys_lsl, FREE | 3, &value));
    assert_int_equal(value, 0x2b);
    put_system(FREE, 14, 3, 0, 0); /* an interrupt gate */
    assert_false(ask(sys_lar, FREE | 3, NULL));
    start_long(3);
    put_system(FREE, 4, 3, 0, 0);
    assert_false(ask(sys_lar, FREE | 3, NULL));
    put_system(FREE, 12, 3, 0, 0);
    assert_true(ask(sys_lar, FREE | 3, NULL));
}

static void verr_and_verw(void **state)
{
    (void)state;
    start_protected(3);
    assert_true(ask(sys_verr, DATA_READONLY | 3, NULL));
    assert_false(ask(sys_verw, DATA_READONLY | 3, NULL));
    assert_true(ask(sys_verw, DATA_USER | 3, NULL));
    assert_false(ask(sys_verr, CODE_NOREAD | 3, NULL));
    assert_true(ask(sys_verr, CODE32_USER | 3, NULL));
    assert_false(ask(sys_verw, CODE32_USER | 3, NULL));
    assert_false(ask(sys_verr, DATA0, NULL));
    put_system(FREE, 2, 3, 0, 0);
    assert_false(ask(sys_verr, FREE | 3, NULL));
    struct insn insn = gpr_insn(4, GPR_RAX, 2);
    start_real();
    expect_ud(sys_verr(cpu, &insn));
}

static void arpl_raises_the_rpl(void **state)
{
    (void)state;
    start_protected(3);
    struct insn insn = gpr_insn(4, GPR_RAX, 2);
    insn.op[1] = (struct insn_operand){.kind = OPERAND_GPR, .reg = GPR_RCX, .size = 2};
    cpu->gpr[GPR_RAX] = 0x12340011;
    cpu->gpr[GPR_RCX] = 3;
    assert_int_equal(sys_arpl(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RAX], 0x12340013);
    assert_true(cpu->rflags & FLAG_ZF);
    cpu->gpr[GPR_RCX] = 2;
    assert_int_equal(sys_arpl(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RAX], 0x12340013);
    assert_false(cpu->rflags & FLAG_ZF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(data_segment_loads),
        cmocka_unit_test(stack_segment_loads),
        cmocka_unit_test(null_stack_segment_is_for_64_bit_inner_rings),
        cmocka_unit_test(descriptor_fields_and_accessed_bit),
        cmocka_unit_test(accessed_bit_that_cannot_be_written_faults),
        cmocka_unit_test(local_table_is_used_with_ti),
        cmocka_unit_test(real_mode_load_sets_the_base_only),
        cmocka_unit_test(selectors_are_stored_by_operand_size),
        cmocka_unit_test(far_pointer_loads_segment_and_register),
        cmocka_unit_test(base_instructions_need_64_bit_mode_and_their_bit),
        cmocka_unit_test(swapgs_swaps_in_ring_0),
        cmocka_unit_test(lgdt_and_lidt_by_mode_and_operand_size),
        cmocka_unit_test(umip_hides_the_tables_from_outer_rings),
        cmocka_unit_test(ltr_marks_busy_and_reads_16_bytes_in_long_mode),
        cmocka_unit_test(lldt_loads_or_disables),
        cmocka_unit_test(lar_and_lsl_tell_what_the_ring_may_know),
        cmocka_unit_test(verr_and_verw),
        cmocka_unit_test(arpl_raises_the_rpl),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
