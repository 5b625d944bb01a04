/* Event delivery: gates, stacks, frames, error codes and double faults in every mode (SDM vol. 3 ch. 6). */
#include "soft_flat.h"

#define START FLAT_USER /* any code address */

static int raise_event(enum soft_event event, uint8_t vector)
{
    struct soft_exception e = {.vector = vector};

    return soft_deliver(cpu, event, &e);
}

static int raise_error(uint8_t vector, uint32_t error)
{
    struct soft_exception e = {.vector = vector, .has_error = true, .error = error};

    return soft_deliver(cpu, EVENT_EXCEPTION, &e);
}

static int raise_pf(gva_t gva)
{
    struct soft_exception e = {.vector = EXC_PF, .has_error = true, .error = 2, .cr2 = gva};

    return soft_deliver(cpu, EVENT_EXCEPTION, &e);
}

/* --- long mode --- */

static void long_frame_from_ring_3_is_on_the_tss_stack(void **state)
{
    (void)state;
    start_long(3);
    put_idt(0x40, 0xe, 0, CODE64, HANDLER + 0x7ULL, 0);
    cpu->rflags |= FLAG_TF | FLAG_NT | FLAG_AC | FLAG_ZF;
    uint64_t flags = cpu->rflags;

    assert_int_equal(raise_event(EVENT_EXTERNAL, 0x40), SOFT_OK);
    assert_int_equal(cpu->rip, HANDLER + 7);
    assert_int_equal(cpu->next_rip, HANDLER + 7);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->seg[SEG_CS].sel, CODE64);
    assert_int_equal(cpu->seg[SEG_SS].sel, 0);
    assert_true(cpu->seg[SEG_SS].attr & SEG_UNUSABLE);
    assert_int_equal(cpu->gpr[GPR_RSP], KERNEL_STACK - 40);
    assert_int_equal(peek(KERNEL_STACK - 8, 8), DATA_USER | 3);
    assert_int_equal(peek(KERNEL_STACK - 16, 8), USER_STACK);
    assert_int_equal(peek(KERNEL_STACK - 24, 8), flags);
    assert_int_equal(peek(KERNEL_STACK - 32, 8), CODE64_USER | 3);
    assert_int_equal(peek(KERNEL_STACK - 40, 8), 0x20000);
    assert_int_equal(cpu->rflags, FLAG_ONE | FLAG_AC | FLAG_ZF);
    assert_int_equal(cpu->stats.interrupts, 1);
}

static void long_same_ring_frame_is_aligned_and_keeps_ss(void **state)
{
    (void)state;
    start_long(0);
    put_idt(0x40, 0xe, 0, CODE64, HANDLER, 0);
    cpu->gpr[GPR_RSP] = KERNEL_STACK - 3;
    assert_int_equal(raise_event(EVENT_EXTERNAL, 0x40), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], KERNEL_STACK - 16 - 40);
    assert_int_equal(peek(KERNEL_STACK - 16 - 16, 8), KERNEL_STACK - 3);
    assert_int_equal(peek(KERNEL_STACK - 16 - 8, 8), DATA0);
    assert_int_equal(cpu->seg[SEG_SS].sel, DATA0);
}

static void ist_is_used_at_any_ring_and_aligned(void **state)
{
    (void)state;
    for (unsigned ring = 0; ring <= 3; ring += 3) {
        start_long(ring);
        put_idt(EXC_NMI, 0xe, 0, CODE64, HANDLER, 1);
        assert_int_equal(raise_event(EVENT_NMI, EXC_NMI), SOFT_OK);
        assert_int_equal(cpu->gpr[GPR_RSP], (IST_STACK & ~0xfULL) - 40);
        assert_int_equal(cpu->seg[SEG_SS].sel, ring ? 0 : DATA0);
        assert_int_equal(cpu->cpl, 0);
        assert_true(cpu->nmi_masked);
        assert_int_equal(cpu->stats.nmis, 1);
    }
}

static void trap_gate_leaves_if_and_interrupt_gate_clears_it(void **state)
{
    (void)state;
    start_long(0);
    put_idt(0x40, 0xf, 0, CODE64, HANDLER, 0);
    assert_int_equal(raise_event(EVENT_EXTERNAL, 0x40), SOFT_OK);
    assert_true(cpu->rflags & FLAG_IF);
    put_idt(0x40, 0xe, 0, CODE64, HANDLER, 0);
    assert_int_equal(raise_event(EVENT_EXTERNAL, 0x40), SOFT_OK);
    assert_false(cpu->rflags & FLAG_IF);
}

static void fault_pushes_error_code_and_rf(void **state)
{
    (void)state;
    start_long(3);
    put_idt(EXC_GP, 0xe, 0, CODE64, HANDLER, 0);
    assert_int_equal(raise_error(EXC_GP, 0x1230), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], KERNEL_STACK - 48);
    assert_int_equal(peek(KERNEL_STACK - 48, 8), 0x1230);
    assert_true(peek(KERNEL_STACK - 24, 8) & FLAG_RF);
    assert_false(cpu->rflags & FLAG_RF);
    assert_int_equal(cpu->stats.exceptions[EXC_GP], 1);
}

static void debug_exception_sets_dr6_and_clears_gd_without_rf(void **state)
{
    struct soft_exception e = {.vector = EXC_DB, .dr6 = BIT(14)};

    (void)state;
    start_long(0);
    put_idt(EXC_DB, 0xe, 0, CODE64, HANDLER, 0);
    cpu->dr7 |= BIT(13);
    assert_int_equal(soft_deliver(cpu, EVENT_EXCEPTION, &e), SOFT_OK);
    assert_int_equal(cpu->dr6, DR6_FIXED | BIT(14));
    assert_int_equal(cpu->dr7, DR7_FIXED);
    assert_false(peek(KERNEL_STACK - 24, 8) & FLAG_RF);

    e.dr6 = BIT(13); /* general detect is a fault */
    cpu->gpr[GPR_RSP] = KERNEL_STACK;
    assert_int_equal(soft_deliver(cpu, EVENT_EXCEPTION, &e), SOFT_OK);
    assert_true(peek(KERNEL_STACK - 24, 8) & FLAG_RF);
}

static void software_interrupt_returns_behind_the_instruction(void **state)
{
    (void)state;
    start_long(3);
    put_idt(0x80, 0xe, 3, CODE64, HANDLER, 0);
    assert_int_equal(raise_event(EVENT_SOFTWARE_INT, 0x80), SOFT_OK);
    assert_int_equal(peek(KERNEL_STACK - 40, 8), 0x20002);
    assert_int_equal(cpu->gpr[GPR_RSP], KERNEL_STACK - 40);
    assert_false(peek(KERNEL_STACK - 24, 8) & FLAG_RF);
    assert_int_equal(cpu->stats.software_interrupts, 1);
}

static void gate_faults_name_the_vector(void **state)
{
    (void)state;
    start_long(3);
    put_idt(0x80, 0xe, 0, CODE64, HANDLER, 0); /* DPL below CPL */
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_GP, 0x80 * 8 + 2);
    put_idt(0x80, 0xe, 3, CODE64, HANDLER, 0);
    flat.ram[IDT + 0x80 * 16 + 5] &= 0x7f;
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_NP, 0x80 * 8 + 2);
    put_idt(0x80, 0xc, 3, CODE64, HANDLER, 0); /* a call gate */
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_GP, 0x80 * 8 + 2);
    put_idt(0x80, 0x6, 3, CODE64, HANDLER, 0); /* 16-bit gates are not for long mode */
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_GP, 0x80 * 8 + 2);
    cpu->idtr.limit = 0x80 * 16 + 14;
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_GP, 0x80 * 8 + 2);
    assert_int_equal(cpu->rip, 0x20000);
    assert_int_equal(cpu->cpl, 3);
}

static void gate_code_segment_faults_name_the_selector(void **state)
{
    static const struct {
        unsigned sel;
        uint8_t vector;
        uint32_t error;
    } cases[] = {
        {0, EXC_GP, 0},           {3, EXC_GP, 0},
        {DATA0, EXC_GP, DATA0},   {GDT_BYTES, EXC_GP, GDT_BYTES},
        {CODE32, EXC_GP, CODE32}, {CODE_ABSENT, EXC_NP, CODE_ABSENT},
        {0xc, EXC_GP, 0xc}, /* there is no LDT */
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_long(3);
        put_idt(0x80, 0xe, 3, cases[i].sel, HANDLER, 0);
        expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), cases[i].vector, cases[i].error);
    }
    start_long(0);
    put_idt(0x80, 0xe, 3, CODE64_USER, HANDLER, 0); /* outwards */
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_GP, CODE64_USER);
    put_idt(0x80, 0xe, 3, CODE64, BIT(47), 0);
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_GP, 0);
}

static void conforming_handler_stays_in_the_ring(void **state)
{
    (void)state;
    start_long(3);
    put_idt(0x80, 0xe, 3, CODE64_CONFORMING, START, 0);
    assert_int_equal(raise_event(EVENT_SOFTWARE_INT, 0x80), SOFT_OK);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->seg[SEG_CS].sel, CODE64_CONFORMING | 3);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK - 40);
}

static void accessed_bit_of_the_handlers_segment_is_set(void **state)
{
    (void)state;
    start_long(3);
    put_segment(CODE64, 0xa, 0, SEG_L, 0);
    put_idt(0x80, 0xe, 3, CODE64, HANDLER, 0);
    assert_int_equal(raise_event(EVENT_SOFTWARE_INT, 0x80), SOFT_OK);
    assert_int_equal(flat.ram[GDT + CODE64 + 5] & 0xf, 0xb);
}

static void stack_beyond_the_tss_limit_is_ts(void **state)
{
    (void)state;
    start_long(3);
    put_idt(0x80, 0xe, 3, CODE64, HANDLER, 0);
    cpu->tr.limit = 10;
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_TS, TSS_SEL);
    cpu->tr.limit = 11;
    assert_int_equal(raise_event(EVENT_SOFTWARE_INT, 0x80), SOFT_OK);

    start_long(3);
    put_idt(0x80, 0xe, 3, CODE64, HANDLER, 7);
    cpu->tr.limit = 36 + 6 * 8 + 6;
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_TS, TSS_SEL);
}

static void noncanonical_stack_is_ss(void **state)
{
    (void)state;
    start_long(3);
    put_idt(0x80, 0xe, 3, CODE64, HANDLER, 0);
    poke(TSS + 4, 8, BIT(47));
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_SS, 0);
}

static void unwritable_frame_changes_nothing(void **state)
{
    (void)state;
    start_long(3);
    put_idt(0x80, 0xe, 3, CODE64, HANDLER, 0);
    poke(TSS + 4, 8, KERNEL_STACK + 0x10); /* the frame crosses a page */
    flat.readonly = KERNEL_STACK - PAGE_SIZE;
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_PF, PF_WRITE | PF_PRESENT);
    assert_int_equal(flat.writes, 0);
    assert_int_equal(cpu->gpr[GPR_RSP], USER_STACK);
    assert_int_equal(cpu->cpl, 3);
}

static void handler_in_compatibility_mode_gets_a_64_bit_frame(void **state)
{
    (void)state;
    start_long(3);
    set_segment(SEG_CS, CODE32_USER | 3);
    soft_mode_update(cpu);
    put_idt(0x80, 0xe, 3, CODE64, HANDLER, 0);
    assert_int_equal(raise_event(EVENT_SOFTWARE_INT, 0x80), SOFT_OK);
    assert_int_equal(cpu->code_bits, 64);
    assert_int_equal(peek(KERNEL_STACK - 32, 8), CODE32_USER | 3);
    assert_int_equal(cpu->gpr[GPR_RSP], KERNEL_STACK - 40);
}

/* --- faults during delivery --- */

static void contributory_pair_is_a_double_fault(void **state)
{
    (void)state;
    start_long(3);
    put_idt(EXC_DF, 0xe, 0, CODE64, HANDLER, 0);
    assert_int_equal(raise_error(EXC_GP, 5), SOFT_OK); /* its gate is empty: #GP */
    assert_int_equal(cpu->rip, HANDLER);
    assert_int_equal(peek(KERNEL_STACK - 48, 8), 0);
    assert_int_equal(cpu->stats.exceptions[EXC_DF], 1);
}

static void page_fault_pair_is_a_double_fault_with_the_second_cr2(void **state)
{
    (void)state;
    start_long(3);
    put_idt(EXC_PF, 0xe, 0, CODE64, HANDLER, 0);
    put_idt(EXC_DF, 0xe, 0, CODE64, HANDLER + 1, 1);
    poke(TSS + 4, 8, 0xc000);
    flat.absent = 0xb000;
    assert_int_equal(raise_pf(0x1234), SOFT_OK);
    assert_int_equal(cpu->rip, HANDLER + 1);
    assert_int_equal(ALIGN_DOWN(cpu->cr2, PAGE_SIZE), 0xb000);
}

static void benign_then_contributory_is_serial(void **state)
{
    (void)state;
    start_long(3);
    put_idt(EXC_GP, 0xe, 0, CODE64, HANDLER, 0);
    assert_int_equal(raise_event(EVENT_EXCEPTION, EXC_UD), SOFT_OK); /* empty gate: #GP with EXT */
    assert_int_equal(cpu->rip, HANDLER);
    assert_int_equal(peek(KERNEL_STACK - 48, 8), EXC_UD * 8 + 3);
}

static void contributory_then_page_fault_is_serial(void **state)
{
    (void)state;
    start_long(3);
    put_idt(EXC_GP, 0xe, 0, CODE64, HANDLER, 1);
    put_idt(EXC_PF, 0xe, 0, CODE64, HANDLER + 1, 0);
    flat.absent = 0x9000; /* the IST stack */
    poke(TSS + 36, 8, 0xa000);
    assert_int_equal(raise_error(EXC_GP, 5), SOFT_OK);
    assert_int_equal(cpu->rip, HANDLER + 1);
    assert_int_equal(cpu->cr2, 0xa000 - 48);
}

static void fault_of_an_interrupts_delivery_has_ext_and_the_interrupted_rip(void **state)
{
    (void)state;
    start_long(3);
    put_idt(EXC_NP, 0xe, 0, CODE64, HANDLER, 0);
    put_idt(0x40, 0xe, 0, CODE_ABSENT, HANDLER, 0);
    assert_int_equal(raise_event(EVENT_EXTERNAL, 0x40), SOFT_OK);
    assert_int_equal(peek(KERNEL_STACK - 48, 8), CODE_ABSENT | 1);
    assert_int_equal(peek(KERNEL_STACK - 40, 8), 0x20000);
}

static void triple_fault_is_a_shutdown(void **state)
{
    (void)state;
    start_long(3);
    cpu->idtr.limit = 0;
    assert_int_equal(raise_pf(0x5678), SOFT_EXIT);
    assert_int_equal(cpu->exit->reason, VM_EXIT_SHUTDOWN);
    assert_int_equal(cpu->cr2, 0x5678);
}

/* --- protected mode --- */

static void protected_inner_frame_32(void **state)
{
    (void)state;
    start_protected(3);
    put_idt(0x40, 0xe, 0, CODE32, HANDLER, 0);
    assert_int_equal(raise_event(EVENT_EXTERNAL, 0x40), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], KERNEL_STACK - 20);
    assert_int_equal(peek(KERNEL_STACK - 4, 4), DATA_USER | 3);
    assert_int_equal(peek(KERNEL_STACK - 8, 4), USER_STACK);
    assert_int_equal(peek(KERNEL_STACK - 12, 4), FLAG_ONE | FLAG_IF);
    assert_int_equal(peek(KERNEL_STACK - 16, 4), CODE32_USER | 3);
    assert_int_equal(peek(KERNEL_STACK - 20, 4), 0x20000);
    assert_int_equal(cpu->seg[SEG_SS].sel, DATA0);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->code_bits, 32);
}

static void protected_same_ring_frame_has_no_stack_pointer(void **state)
{
    (void)state;
    start_protected(0);
    put_idt(EXC_GP, 0xf, 0, CODE32, HANDLER, 0);
    cpu->gpr[GPR_RSP] = KERNEL_STACK - 3; /* no alignment here */
    assert_int_equal(raise_error(EXC_GP, 0x77), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], KERNEL_STACK - 3 - 16);
    assert_int_equal(peek(KERNEL_STACK - 3 - 16, 4), 0x77);
    assert_true(cpu->rflags & FLAG_IF);
}

static void gate_16_pushes_words_and_jumps_within_64k(void **state)
{
    (void)state;
    start_protected(3);
    put_idt(0x80, 0x6, 3, CODE32, 0x12345000, 0);
    assert_int_equal(raise_event(EVENT_SOFTWARE_INT, 0x80), SOFT_OK);
    assert_int_equal(cpu->rip, 0x5000);
    assert_int_equal(cpu->gpr[GPR_RSP], KERNEL_STACK - 10);
    assert_int_equal(peek(KERNEL_STACK - 2, 2), DATA_USER | 3);
    assert_int_equal(peek(KERNEL_STACK - 4, 2), USER_STACK & 0xffff);
    assert_int_equal(peek(KERNEL_STACK - 10, 2), 0x0002);
}

static void tss_16_gives_the_stack(void **state)
{
    (void)state;
    start_protected(3);
    cpu->tr.attr = 0x83;
    cpu->tr.limit = 0x2b;
    poke(TSS + 2, 2, 0x7000);
    poke(TSS + 4, 2, DATA16);
    put_idt(0x80, 0xe, 3, CODE32, HANDLER, 0);
    assert_int_equal(raise_event(EVENT_SOFTWARE_INT, 0x80), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x7000 - 20);
    assert_int_equal(cpu->stack_bits, 16);
}

static void protected_inner_stack_faults(void **state)
{
    static const struct {
        unsigned sel;
        uint8_t vector;
        uint32_t error;
    } cases[] = {
        {0, EXC_TS, 0},           {GDT_BYTES, EXC_TS, GDT_BYTES},     {DATA0 | 3, EXC_TS, DATA0}, {DATA_USER, EXC_TS, DATA_USER},
        {CODE32, EXC_TS, CODE32}, {DATA_ABSENT, EXC_SS, DATA_ABSENT},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_protected(3);
        put_idt(0x80, 0xe, 3, CODE32, HANDLER, 0);
        poke(TSS + 8, 2, cases[i].sel);
        expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), cases[i].vector, cases[i].error);
    }
    start_protected(3);
    put_idt(0x80, 0xe, 3, CODE32, HANDLER, 0);
    cpu->tr.limit = 8;
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_TS, TSS_SEL);

    start_protected(3);
    put_idt(0x80, 0xe, 3, CODE32, HANDLER, 0);
    put_segment(FREE, 0x3, 0, SEG_DB, KERNEL_STACK - 2); /* one byte too small */
    poke(TSS + 8, 2, FREE);
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_SS, FREE);
    put_segment(FREE, 0x3, 0, SEG_DB, KERNEL_STACK - 1);
    assert_int_equal(raise_event(EVENT_SOFTWARE_INT, 0x80), SOFT_OK);
}

static void handler_beyond_the_code_limit_is_gp(void **state)
{
    (void)state;
    start_protected(3);
    put_idt(0x80, 0xe, 3, CODE16, 0x10000, 0);
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_GP, 0);
}

static void task_gates_do_not_exist_in_long_mode(void **state)
{
    (void)state;
    start_long(0);
    put_idt(0x80, 0x5, 0, TSS_SEL, 0, 0);
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x80), EXC_GP, 0x80 * 8 + 2);
}

/* --- INT1 --- */

static void int1_needs_no_dpl_and_has_ext(void **state)
{
    struct insn insn;

    (void)state;
    start_long(3);
    put_idt(EXC_DB, 0xe, 0, CODE64, HANDLER, 0);
    insn = plain_insn(4);
    assert_int_equal(sys_int1(cpu, &insn), SOFT_OK);
    assert_int_equal(peek(KERNEL_STACK - 40, 8), 0x20002);
    assert_int_equal(cpu->dr6, DR6_FIXED);

    start_long(3);
    expect_clean_fault(sys_int1, &insn, EXC_GP, EXC_DB * 8 + 3);
}

static void int3_and_into_look_at_the_dpl(void **state)
{
    struct insn insn;

    (void)state;
    start_protected(3);
    insn = plain_insn(4);
    put_idt(EXC_BP, 0xe, 0, CODE32, HANDLER, 0);
    expect_clean_fault(sys_int3, &insn, EXC_GP, EXC_BP * 8 + 2);
    assert_int_equal(sys_into(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->cpl, 3);
    cpu->rflags |= FLAG_OF;
    put_idt(EXC_OF, 0xe, 3, CODE32, HANDLER, 0);
    assert_int_equal(sys_into(cpu, &insn), SOFT_OK);
    assert_int_equal(cpu->next_rip, HANDLER);
    assert_int_equal(peek(KERNEL_STACK - 20, 4), 0x20002);
}

/* --- real mode --- */

static void real_mode_goes_through_the_ivt(void **state)
{
    (void)state;
    start_real();
    poke(0x21 * 4, 4, 0x12340056);
    cpu->rflags |= FLAG_TF | FLAG_AC;
    uint64_t flags = cpu->rflags;
    assert_int_equal(raise_event(EVENT_SOFTWARE_INT, 0x21), SOFT_OK);
    assert_int_equal(cpu->rip, 0x56);
    assert_int_equal(cpu->seg[SEG_CS].sel, 0x1234);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x12340);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x1000 - 6);
    assert_int_equal(peek(0x30000 + 0xffe, 2), flags & 0xffff);
    assert_int_equal(peek(0x30000 + 0xffc, 2), 0x2000);
    assert_int_equal(peek(0x30000 + 0xffa, 2), 0x102);
    assert_int_equal(cpu->rflags, FLAG_ONE);
}

static void real_mode_pushes_no_error_code(void **state)
{
    (void)state;
    start_real();
    poke(EXC_GP * 4, 4, 0x12340056);
    assert_int_equal(raise_error(EXC_GP, 0x50), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], 0x1000 - 6);
    assert_int_equal(peek(0x30000 + 0xffa, 2), 0x100);
}

static void real_mode_frame_wraps_around_the_segment(void **state)
{
    (void)state;
    start_real();
    poke(0x21 * 4, 4, 0x12340056);
    cpu->gpr[GPR_RSP] = 0xabcd0002;
    assert_int_equal(raise_event(EVENT_SOFTWARE_INT, 0x21), SOFT_OK);
    assert_int_equal(cpu->gpr[GPR_RSP], 0xabcdfffc);
    assert_int_equal(peek(0x30000, 2), FLAG_ONE | FLAG_IF);
    assert_int_equal(peek(0x3fffe, 2), 0x2000);
    assert_int_equal(peek(0x3fffc, 2), 0x102);

    cpu->gpr[GPR_RSP] = 5; /* a word that itself crosses the end */
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x21), EXC_SS, 0);
}

static void real_mode_vector_beyond_the_limit_shuts_down(void **state)
{
    (void)state;
    start_real();
    cpu->idtr.limit = 0;
    assert_int_equal(raise_event(EVENT_EXCEPTION, EXC_UD), SOFT_EXIT);
    assert_int_equal(cpu->exit->reason, VM_EXIT_SHUTDOWN);
    cpu->idtr.limit = 0x3ff;
    poke(EXC_GP * 4, 4, 0x12340056);
    cpu->idtr.limit = EXC_GP * 4 + 3;
    assert_int_equal(raise_event(EVENT_EXTERNAL, 0x40), SOFT_OK); /* #GP instead */
    assert_int_equal(cpu->rip, 0x56);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_frame_from_ring_3_is_on_the_tss_stack),
        cmocka_unit_test(long_same_ring_frame_is_aligned_and_keeps_ss),
        cmocka_unit_test(ist_is_used_at_any_ring_and_aligned),
        cmocka_unit_test(trap_gate_leaves_if_and_interrupt_gate_clears_it),
        cmocka_unit_test(fault_pushes_error_code_and_rf),
        cmocka_unit_test(debug_exception_sets_dr6_and_clears_gd_without_rf),
        cmocka_unit_test(software_interrupt_returns_behind_the_instruction),
        cmocka_unit_test(gate_faults_name_the_vector),
        cmocka_unit_test(gate_code_segment_faults_name_the_selector),
        cmocka_unit_test(conforming_handler_stays_in_the_ring),
        cmocka_unit_test(accessed_bit_of_the_handlers_segment_is_set),
        cmocka_unit_test(stack_beyond_the_tss_limit_is_ts),
        cmocka_unit_test(noncanonical_stack_is_ss),
        cmocka_unit_test(unwritable_frame_changes_nothing),
        cmocka_unit_test(handler_in_compatibility_mode_gets_a_64_bit_frame),
        cmocka_unit_test(contributory_pair_is_a_double_fault),
        cmocka_unit_test(page_fault_pair_is_a_double_fault_with_the_second_cr2),
        cmocka_unit_test(benign_then_contributory_is_serial),
        cmocka_unit_test(contributory_then_page_fault_is_serial),
        cmocka_unit_test(fault_of_an_interrupts_delivery_has_ext_and_the_interrupted_rip),
        cmocka_unit_test(triple_fault_is_a_shutdown),
        cmocka_unit_test(protected_inner_frame_32),
        cmocka_unit_test(protected_same_ring_frame_has_no_stack_pointer),
        cmocka_unit_test(gate_16_pushes_words_and_jumps_within_64k),
        cmocka_unit_test(tss_16_gives_the_stack),
        cmocka_unit_test(protected_inner_stack_faults),
        cmocka_unit_test(handler_beyond_the_code_limit_is_gp),
        cmocka_unit_test(task_gates_do_not_exist_in_long_mode),
        cmocka_unit_test(int1_needs_no_dpl_and_has_ext),
        cmocka_unit_test(int3_and_into_look_at_the_dpl),
        cmocka_unit_test(real_mode_goes_through_the_ivt),
        cmocka_unit_test(real_mode_pushes_no_error_code),
        cmocka_unit_test(real_mode_frame_wraps_around_the_segment),
        cmocka_unit_test(real_mode_vector_beyond_the_limit_shuts_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
