/* Hardware task switches: what is saved and loaded, busy bits and links, and whose fault is whose (SDM vol. 3 ch. 7). */
#include "soft_flat.h"

#define NEW TSS_SEL /* the other task's TSS; the current one is OLD */
#define OLD FREE
#define NEW_TSS 0x4000ULL
#define NEW_STACK 0x9000ULL
#define NEW_RIP 0x30000ULL

static unsigned type_of(unsigned sel)
{
    return peek(GDT + sel + 5, 1) & 0x1f;
}

/* 32-bit: EIP, EFLAGS, EAX to EDI, ES CS SS DS FS GS, LDT. */
static void put_task(uint64_t at, uint64_t flags, unsigned code, unsigned data)
{
    memset(flat.ram + at, 0, 104);
    poke(at + 32, 4, NEW_RIP);
    poke(at + 36, 4, flags);
    for (unsigned i = 0; i < 8; i++)
        poke(at + 40 + 4 * i, 4, i == GPR_RSP ? NEW_STACK : 0xe0000000 + i);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        poke(at + 72 + 4 * i, 4, i == SEG_CS ? code : data);
}

static void start_tasks(unsigned ring)
{
    start_protected(ring);
    put_system(OLD, 11, 0, TSS, 0x67);
    put_system(NEW, 9, 3, NEW_TSS, 0x67);
    cpu->tr.sel = OLD;
    put_task(NEW_TSS, FLAG_ONE | FLAG_CF, CODE32, DATA0);
    for (unsigned i = 0; i < 8; i++)
        if (i != GPR_RSP)
            cpu->gpr[i] = 0xffffffff00000010 + i;
    cpu->dr7 |= 0xff;
}

static int jump(unsigned sel)
{
    struct insn insn = plain_insn(4);

    insn.op[0] = (struct insn_operand){.kind = OPERAND_FAR, .far_sel = (uint16_t)sel};
    insn.operand_count = 1;
    return sys_jmp_far(cpu, &insn);
}

static int call(unsigned sel)
{
    struct insn insn = plain_insn(4);

    insn.op[0] = (struct insn_operand){.kind = OPERAND_FAR, .far_sel = (uint16_t)sel};
    insn.operand_count = 1;
    return sys_call_far(cpu, &insn);
}

static int iret(void)
{
    struct insn insn = plain_insn(4);

    return sys_iret(cpu, &insn);
}

static void expect_new_task(void)
{
    assert_int_equal(cpu->rip, NEW_RIP);
    assert_int_equal(cpu->next_rip, NEW_RIP);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(cpu->gpr[i], i == GPR_RSP ? NEW_STACK : 0xe0000000 + i);
    assert_int_equal(cpu->seg[SEG_CS].sel, CODE32);
    assert_int_equal(cpu->seg[SEG_GS].sel, DATA0);
    assert_int_equal(cpu->seg[SEG_GS].limit, UINT32_MAX);
    assert_int_equal(cpu->tr.sel, NEW);
    assert_int_equal(cpu->tr.base, NEW_TSS);
    assert_true(cpu->cr0 & CR0_TS);
    assert_int_equal(cpu->dr7 & 0xff, 0xaa);
    assert_int_equal(cpu->cpl, 0);
}

static void a_jump_leaves_the_old_task_available(void **state)
{
    (void)state;
    start_tasks(0);
    cpu->rflags |= FLAG_NT | FLAG_ZF;
    assert_int_equal(jump(NEW), SOFT_OK);
    expect_new_task();
    assert_int_equal(cpu->rflags, FLAG_ONE | FLAG_CF);
    assert_int_equal(type_of(OLD), 9);
    assert_int_equal(type_of(NEW), 11);
    assert_int_equal(peek(NEW_TSS, 2), 0);
    assert_int_equal(peek(TSS + 32, 4), 0x20002);
    assert_int_equal(peek(TSS + 36, 4), FLAG_ONE | FLAG_IF | FLAG_NT | FLAG_ZF);
    assert_int_equal(peek(TSS + 40 + 4 * GPR_RDI, 4), 0x10 + GPR_RDI);
    assert_int_equal(peek(TSS + 40 + 4 * GPR_RSP, 4), KERNEL_STACK);
    assert_int_equal(peek(TSS + 76, 4), CODE32);
    assert_int_equal(peek(TSS + 92, 4), DATA0);
    assert_int_equal(peek(TSS + 4, 4), KERNEL_STACK); /* what lies below is not touched */
}

static void a_call_links_back_and_iret_returns(void **state)
{
    (void)state;
    start_tasks(0);
    assert_int_equal(call(NEW), SOFT_OK);
    expect_new_task();
    assert_int_equal(cpu->rflags, FLAG_ONE | FLAG_CF | FLAG_NT);
    assert_int_equal(type_of(OLD), 11);
    assert_int_equal(type_of(NEW), 11);
    assert_int_equal(peek(NEW_TSS, 2), OLD);
    cpu->next_rip = 0x31234;
    assert_int_equal(iret(), SOFT_OK);
    assert_int_equal(cpu->rip, 0x20002);
    assert_int_equal(cpu->rflags, FLAG_ONE | FLAG_IF);
    assert_int_equal(cpu->gpr[GPR_RBX], 0x10 + GPR_RBX);
    assert_int_equal(cpu->tr.sel, OLD);
    assert_int_equal(type_of(OLD), 11);
    assert_int_equal(type_of(NEW), 9);
    assert_int_equal(peek(NEW_TSS + 32, 4), 0x31234);
    assert_int_equal(peek(NEW_TSS + 36, 4), FLAG_ONE | FLAG_CF); /* NT is gone: the next call starts anew */
}

static void a_task_of_ring_3_through_a_gate(void **state)
{
    (void)state;
    start_tasks(3);
    put_task(NEW_TSS, FLAG_ONE, CODE32_USER | 3, DATA_USER | 3);
    put_system(NEW, 9, 0, NEW_TSS, 0x67);
    expect_fault(jump(NEW | 3), EXC_GP, NEW);
    put_gate(GDT + GATE, 5, 3, NEW, 0, 0);
    assert_int_equal(call(GATE | 3), SOFT_OK);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->rip, NEW_RIP);
    start_tasks(3);
    put_gate(GDT + GATE, 5, 2, NEW, 0, 0);
    expect_fault(call(GATE | 3), EXC_GP, GATE);
    put_gate(GDT + GATE, 5, 3, NEW, 0, 0);
    flat.ram[GDT + GATE + 5] &= 0x7f;
    expect_fault(call(GATE | 3), EXC_NP, GATE);
}

static void a_16_bit_tss(void **state)
{
    (void)state;
    start_tasks(0);
    put_system(NEW, 1, 0, NEW_TSS, 0x2b);
    memset(flat.ram + NEW_TSS, 0, 104);
    poke(NEW_TSS + 14, 2, 0x1234);
    poke(NEW_TSS + 16, 2, FLAG_ONE | FLAG_PF);
    for (unsigned i = 0; i < 8; i++)
        poke(NEW_TSS + 18 + 2 * i, 2, 0x7700 + i);
    for (unsigned i = 0; i < 4; i++)
        poke(NEW_TSS + 34 + 2 * i, 2, i == SEG_CS ? CODE16 : DATA16);
    assert_int_equal(jump(NEW), SOFT_OK);
    assert_int_equal(cpu->rip, 0x1234);
    assert_int_equal(cpu->rflags, FLAG_ONE | FLAG_PF);
    assert_int_equal(cpu->gpr[GPR_RCX] & 0xffff, 0x7701);
    assert_int_equal(cpu->code_bits, 16);
    assert_true(cpu->seg[SEG_FS].attr & SEG_UNUSABLE);
    cpu->next_rip = 0x1240;
    cpu->gpr[GPR_RBX] = 0x9999;
    assert_int_equal(jump(OLD), SOFT_OK); /* and back */
    assert_int_equal(peek(NEW_TSS + 14, 2), 0x1240);
    assert_int_equal(peek(NEW_TSS + 18 + 2 * GPR_RBX, 2), 0x9999);
    assert_int_equal(peek(NEW_TSS + 36, 2), CODE16);
    assert_int_equal(cpu->rip, 0x20002);
    assert_int_equal(cpu->code_bits, 32);
}

static int raise_event(enum soft_event event, uint8_t vector, bool has_error, uint32_t error)
{
    struct soft_exception e = {.vector = vector, .has_error = has_error, .error = error};

    return soft_deliver(cpu, event, &e);
}

static void events_reach_a_task_with_their_error_code(void **state)
{
    (void)state;
    start_tasks(0);
    put_idt(EXC_GP, 5, 0, NEW, 0, 0);
    assert_int_equal(raise_event(EVENT_EXCEPTION, EXC_GP, true, 0x1234), SOFT_OK);
    assert_int_equal(cpu->rip, NEW_RIP);
    assert_int_equal(cpu->gpr[GPR_RSP], NEW_STACK - 4);
    assert_int_equal(peek(NEW_STACK - 4, 4), 0x1234);
    assert_int_equal(peek(TSS + 32, 4), 0x20000); /* the instruction that faulted */
    assert_true(peek(TSS + 36, 4) & FLAG_RF);
    assert_true(cpu->rflags & FLAG_NT);

    start_tasks(3);
    put_idt(0x40, 5, 0, NEW, 0, 0);
    expect_fault(raise_event(EVENT_SOFTWARE_INT, 0x40, false, 0), EXC_GP, 0x40 * 8 + 2);
    assert_int_equal(raise_event(EVENT_EXTERNAL, 0x40, false, 0), SOFT_OK);
    expect_new_task();
    assert_int_equal(peek(TSS + 32, 4), 0x20000);
    assert_int_equal(peek(TSS + 76, 4), CODE32_USER | 3);
}

/* Whose stack is broken beyond a handler's use. */
static void double_faults_find_a_task(void **state)
{
    (void)state;
    start_tasks(0);
    put_idt(EXC_GP, 0xe, 0, CODE32, HANDLER, 0);
    put_idt(EXC_DF, 5, 0, NEW, 0, 0);
    cpu->gpr[GPR_RSP] = FLAT_BYTES + 0x1000;
    assert_int_equal(raise_event(EVENT_EXCEPTION, EXC_PF, true, 0), SOFT_OK);
    assert_int_equal(cpu->rip, NEW_RIP);
    assert_int_equal(peek(NEW_STACK - 4, 4), 0);
    assert_int_equal(peek(TSS + 40 + 4 * GPR_RSP, 4), FLAT_BYTES + 0x1000);
}

static void faults_of_the_old_task_change_nothing(void **state)
{
    static const struct {
        unsigned type;
        uint32_t limit;
        uint8_t vector;
    } cases[] = {{11, 0x67, EXC_GP}, {3, 0x67, EXC_GP}, {2, 0x67, EXC_GP}, {9, 0x66, EXC_TS}, {1, 0x2a, EXC_TS}};
    struct soft_cpu before;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_tasks(0);
        put_system(NEW, cases[i].type, 0, NEW_TSS, cases[i].limit);
        put_gate(GDT + GATE, 5, 0, NEW, 0, 0);
        before = *cpu;
        expect_fault(jump(GATE), cases[i].vector, NEW);
        assert_memory_equal(&before, cpu, offsetof(struct soft_cpu, exc));
        assert_int_equal(type_of(OLD), 11);
    }
    start_tasks(0);
    flat.ram[GDT + NEW + 5] &= 0x7f;
    expect_fault(jump(NEW), EXC_NP, NEW);
    start_tasks(0);
    cpu->tr.limit = 0x5e; /* no room for GS */
    expect_fault(jump(NEW), EXC_TS, OLD);
    start_tasks(0);
    flat.readonly = ALIGN_DOWN(TSS, PAGE_SIZE);
    before = *cpu;
    assert_int_equal(jump(NEW), SOFT_FAULT);
    assert_int_equal(cpu->exc.vector, EXC_PF);
    assert_memory_equal(&before, cpu, offsetof(struct soft_cpu, exc));
    assert_int_equal(type_of(NEW), 9);
    start_tasks(0);
    flat.absent = NEW_TSS;
    assert_int_equal(jump(NEW), SOFT_FAULT);
    assert_int_equal(cpu->exc.cr2, NEW_TSS);
    assert_int_equal(cpu->rip, 0x20000);
    start_tasks(0);
    put_task(NEW_TSS, FLAG_ONE | FLAG_VM, CODE32, DATA0);
    assert_int_equal(jump(NEW), SOFT_EXIT);
}

static void faults_of_segments_are_the_new_tasks(void **state)
{
    static const struct {
        unsigned off, sel;
        uint8_t vector;
    } cases[] = {
        {96, DATA0, EXC_TS},                                                                                   /* LDT */
        {96, LDT_SEL | 4, EXC_TS}, {76, 0, EXC_TS},       {76, DATA0, EXC_TS},       {76, CODE32 | 3, EXC_TS}, /* CS */
        {76, CODE_ABSENT, EXC_NP}, {80, 0, EXC_TS},       {80, DATA_USER, EXC_TS},                             /* SS */
        {80, DATA_ABSENT, EXC_SS}, {84, TSS_SEL, EXC_TS}, {72, DATA_ABSENT, EXC_NP},                           /* DS, ES */
        {92, GDT_BYTES, EXC_TS},                                                                               /* GS */
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_tasks(0);
        poke(NEW_TSS + cases[i].off, 2, cases[i].sel);
        expect_fault(jump(NEW), cases[i].vector, cases[i].sel & 0xfffc);
        assert_int_equal(cpu->rip, NEW_RIP);
        assert_int_equal(cpu->tr.sel, NEW);
        assert_int_equal(type_of(OLD), 9);
        assert_int_equal(peek(TSS + 32, 4), 0x20002);
    }
    start_tasks(0);
    poke(NEW_TSS + 76, 2, CODE16);
    poke(NEW_TSS + 32, 4, 0x10000); /* beyond its limit */
    expect_fault(jump(NEW), EXC_GP, 0);
    assert_int_equal(cpu->rip, 0x10000);
}

static void the_trap_bit_traps_in_the_new_task(void **state)
{
    (void)state;
    start_tasks(0);
    poke(NEW_TSS + 100, 1, 1);
    assert_int_equal(jump(NEW), SOFT_FAULT);
    assert_int_equal(cpu->exc.vector, EXC_DB);
    assert_int_equal(cpu->exc.dr6, BIT(15));
    expect_new_task();
}

/*
 * #DB's task is the running one. Its descriptor lies where the switch saves EAX and ECX, which say that the task is free: so it is entered for the
 * trap, and traps for it, without end.
 */
static void traps_without_end_are_a_shutdown(void **state)
{
    const uint64_t task = NEW_TSS, code = 0x00cf9b000000ffff, data = 0x00cf93000000ffff, available = 0x0000890000000067 | task << 16;

    (void)state;
    start_tasks(0);
    put_task(task, FLAG_ONE, 0x08, 0x10);
    poke(task + 100, 1, 1);
    cpu->gdtr = (struct cpu_table){.base = task + 8, .limit = 0x67};
    poke(task + 8 + 0x08, 8, code);
    poke(task + 8 + 0x10, 8, data);
    poke(task + 8 + 0x20, 8, available);
    poke(task + 8 + 0x60, 8, available);
    cpu->gpr[GPR_RAX] = (uint32_t)available;
    cpu->gpr[GPR_RCX] = available >> 32;
    cpu->tr = (struct cpu_seg){.base = task, .limit = 0x67, .attr = 0x8b, .sel = 0x60};
    put_idt(EXC_DB, 5, 0, 0x20, 0, 0);
    assert_int_equal(raise_event(EVENT_EXCEPTION, EXC_DB, false, 0), SOFT_EXIT);
    assert_int_equal(cpu->exit->reason, VM_EXIT_SHUTDOWN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_jump_leaves_the_old_task_available),      cmocka_unit_test(a_call_links_back_and_iret_returns),
        cmocka_unit_test(a_task_of_ring_3_through_a_gate),           cmocka_unit_test(a_16_bit_tss),
        cmocka_unit_test(events_reach_a_task_with_their_error_code), cmocka_unit_test(double_faults_find_a_task),
        cmocka_unit_test(faults_of_the_old_task_change_nothing),     cmocka_unit_test(faults_of_segments_are_the_new_tasks),
        cmocka_unit_test(the_trap_bit_traps_in_the_new_task),        cmocka_unit_test(traps_without_end_are_a_shutdown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
