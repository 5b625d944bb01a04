/* Every exception of a 32-bit kernel: error code, saved EIP, the stack by the TSS, segment limits, double fault. */
#include "exceptions_common.h"

#define NO_LIMITS "segment limits and types are not checked"

static void overflow_bound_and_aam(void)
{
    static const uint32_t bounds[2] = {10, 20};

    TRY("movl $0x7fffffff, %%eax\naddl $1, %%eax\n" AT "into", : : : "memory", "eax");
    check_fault_rip(EXC_OF, 0, try_at + 1);
    TRY("xorl %%eax, %%eax\n" AT "into", : : : "memory", "eax");
    check_no_fault();
    TRY_USER("movl $0x7fffffff, %%eax\naddl $1, %%eax\n" AT "into", : : : "memory", "eax");
    check_fault_rip(EXC_OF, 0, try_at + 1);
    TRY("bound %%eax, (%%ecx)", : : "a"(15), "c"(bounds) : "memory");
    check_no_fault();
    TRY("bound %%eax, (%%ecx)", : : "a"(21), "c"(bounds) : "memory");
    check_fault(EXC_BR, 0);
    TRY_USER("bound %%eax, (%%ecx)", : : "a"(9), "c"(bounds) : "memory");
    check_fault(EXC_BR, 0);
    TRY("aam $0", : : : "memory", "eax");
    check_fault(EXC_DE, 0);
}

static void segment_limits(void)
{
    uint32_t base = (uint32_t)spare_stack(0) - 4096;

    gdt[SEL_TEST / 8] = desc(base, 0xff, DESC_P | DESC_DATA | DESC_DB);
    TRY("mov %0, %%fs\n" AT "movl %%fs:0xfc, %%eax", : : "r"(SEL_TEST) : "memory", "eax");
    check_no_fault();
    TRY("mov %0, %%fs\n" AT "movl %%fs:0xfd, %%eax", : : "r"(SEL_TEST) : "memory", "eax");
    check_fault_but_qemu(EXC_GP, 0, NO_LIMITS);
    TRY("mov %0, %%fs\n" AT "movb %%fs:0x100, %%al", : : "r"(SEL_TEST) : "memory", "eax");
    check_fault_but_qemu(EXC_GP, 0, NO_LIMITS);
    TRY("mov %0, %%fs\n" AT "movl %%fs:-4, %%eax", : : "r"(SEL_TEST) : "memory", "eax");
    check_fault_but_qemu(EXC_GP, 0, NO_LIMITS);
}

static void read_only_execute_only_expand_down(void)
{
    uint32_t base = (uint32_t)spare_stack(0) - 4096;

    gdt[SEL_TEST / 8] = desc(base, 0xfff, DESC_P | DESC_S | DESC_TYPE(1) | DESC_DB); /* read-only data */
    TRY("mov %0, %%fs\n" AT "movl %%fs:0, %%eax", : : "r"(SEL_TEST) : "memory", "eax");
    check_no_fault();
    TRY("mov %0, %%fs\n" AT "movl %%eax, %%fs:0", : : "r"(SEL_TEST) : "memory");
    check_fault_but_qemu(EXC_GP, 0, NO_LIMITS);
    TRY("mov %0, %%ss", : : "r"(SEL_TEST) : "memory");
    check_fault(EXC_GP, SEL_TEST);
    gdt[SEL_TEST / 8] = desc(base, 0xfff, DESC_P | DESC_S | DESC_TYPE(9) | DESC_DB); /* execute-only code */
    TRY("mov %0, %%fs", : : "r"(SEL_TEST) : "memory");
    check_fault(EXC_GP, SEL_TEST);
    gdt[SEL_TEST / 8] = desc(base, 0xff, DESC_P | DESC_S | DESC_TYPE(7) | DESC_DB); /* expands down */
    TRY("mov %0, %%fs\n" AT "movl %%fs:0x100, %%eax", : : "r"(SEL_TEST) : "memory", "eax");
    check_no_fault();
    TRY("mov %0, %%fs\n" AT "movl %%fs:0xff, %%eax", : : "r"(SEL_TEST) : "memory", "eax");
    check_fault_but_qemu(EXC_GP, 0, NO_LIMITS);
    TRY("mov %0, %%fs\n" AT "movl %%fs:0, %%eax", : : "r"(0) : "memory", "eax"); /* null */
    check_fault_but_qemu(EXC_GP, 0, NO_LIMITS);
}

static void stack_limit_is_a_stack_fault(void)
{
    gdt[SEL_TEST / 8] = desc((uint32_t)spare_stack(0) - 4096, 0xff, DESC_P | DESC_DATA | DESC_DB);
    /* The handler's own stack: by ring 3. */
    gdt[SEL_TEST / 8] |= DESC_DPL(3);
    TRY_USER("mov %0, %%ss\nmov $0x104, %%esp\n" AT "push %%eax", : : "r"(SEL_TEST | 3) : "memory");
    check_fault_but_qemu(EXC_SS, 0, NO_LIMITS);
    TRY_USER("mov %0, %%ss\nmov $0x100, %%esp\n" AT "push %%eax\npop %%eax", : : "r"(SEL_TEST | 3) : "memory");
    check_no_fault();
    TRY_USER("mov %0, %%ss\nmov $0x100, %%esp\n" AT "ret", : : "r"(SEL_TEST | 3) : "memory");
    check_fault_but_qemu(EXC_SS, 0, NO_LIMITS);
    TRY_USER("mov %0, %%ss\nmov %%esp, %%edx\nmov %%ebp, %%esp\n" AT "movb %%ss:0x100, %%al\n",
             :
             : "r"(SEL_TEST | 3)
             : "memory", "eax", "edx");
    check_fault_but_qemu(EXC_SS, 0, NO_LIMITS);
}

static void handlers_stack_by_the_tss(void)
{
    TRY_USER("int $0x80", NO_REGS);
    check_fault_rip(0x80, 0, try_at + 2);
    check_eq(fault.handler_rsp, tss.esp0 - 24);
    check_eq(fault.handler_ss, SEL_KDATA);
    check_eq(fault.ss, SEL_UDATA);
}

/* The inner stack that the TSS names is bad: #TS with its selector, taken on the same bad stack unless the gate keeps ring 0. */
static void invalid_tss_stack(void)
{
    tss.ss0 = SEL_UDATA;
    TRY("int $0x80", NO_REGS); /* no change of ring: the TSS is not asked */
    check_fault_rip(0x80, 0, try_at + 2);
    /* A call gate to ring 1, whose stack is bad; #TS then goes to ring 0, whose stack is good. */
    tss.ss0 = SEL_KDATA;
    tss.ss1 = SEL_KDATA;
    tss.esp1 = spare_stack(0);
    gdt[SEL_TEST / 8] = desc(0, 0xfffff, DESC_P | DESC_CODE | DESC_DPL(1) | DESC_DB | DESC_G);
    gate_set(&idt[0x80], vector_entry(0x80), SEL_TEST | 1, GATE_INT(3));
    TRY_USER("int $0x80", NO_REGS);
    check_fault(EXC_TS, SEL_KDATA);
    tss.ss1 = 0;
    TRY_USER("int $0x80", NO_REGS);
    check_fault(EXC_TS, 0);
    gdt[SEL_TEST / 8 + 1] = desc(0, 0xfffff, DESC_DATA | DESC_DPL(1) | DESC_DB | DESC_G);
    tss.ss1 = (SEL_TEST + 8) | 1;
    TRY_USER("int $0x80", NO_REGS);
    check_fault_but_qemu(EXC_SS, SEL_TEST + 8, "#TS for a stack that is not present");
}

static void double_fault_without_handler(void)
{
    idt[EXC_GP].attr &= 0x7f;
    TRY_USER("hlt", NO_REGS);
    check(fault_is(EXC_DF, 0));
    check_eq(fault.cs, SEL_UCODE);
}

static void iret_faults(void)
{
    word flags = read_flags();

    TRY("push %0\npush $0\npush $1f\n" AT "iret\n1:", : : "r"(flags) : "memory");
    check_fault(EXC_GP, 0);
    TRY("push %0\npush $0x10\npush $1f\n" AT "iret\n1:", : : "r"(flags) : "memory");
    check_fault(EXC_GP, SEL_KDATA);
    TRY("push $0x10\npush try_sp\npush %0\npush $0x1b\npush $1f\n" AT "iret\n1:", : : "r"(flags) : "memory");
    check_fault(EXC_GP, SEL_KDATA); /* a stack of ring 0 for ring 3 */
    TRY("push %0\npush $0x1b\npush $1f\n" AT "iret\n1:", : : "r"(flags) : "memory");
    check(fault_count == 1);
    gdt[SEL_TEST / 8] = gdt[SEL_KCODE / 8] & ~DESC_P;
    TRY("push %0\npush $0x68\npush $1f\n" AT "iret\n1:", : : "r"(flags) : "memory");
    check_fault(EXC_NP, SEL_TEST);
    gdt[SEL_TEST / 8] = desc(0, 0xfff, DESC_P | DESC_CODE | DESC_DB);
    TRY("push %0\npush $0x68\npush $1f\n" AT "iret\n1:", : : "r"(flags) : "memory"); /* the target is behind its limit */
    check_fault_but_qemu(EXC_GP, 0, NO_LIMITS);
}

GUEST_TESTS(COMMON_EXCEPTIONS, {"#OF, #BR and AAM's #DE", overflow_bound_and_aam}, {"#GP behind a segment's limit", segment_limits},
            {"#GP by a segment's type", read_only_execute_only_expand_down}, {"#SS behind the stack's limit", stack_limit_is_a_stack_fault},
            {"the TSS gives the handler's stack", handlers_stack_by_the_tss}, {"#TS and #SS for the stacks in the TSS", invalid_tss_stack},
            {"#DF for a fault with no gate", double_fault_without_handler}, {"faults of IRET", iret_faults});
