/* Every exception of a 64-bit kernel: error code, saved RIP, the handler's stack, IST, double fault. */
#include "exceptions_common.h"
#include "paging.h"

#define NON_CANONICAL 0x800000000000UL

static void compat_only_exceptions(void)
{
    static const uint32_t bounds[2] = {10, 20};

    TRY_COMPAT("movl $0x7fffffff, %%eax\naddl $1, %%eax\n" AT32 "into", : : : "memory", "rax");
    check_fault_rip(EXC_OF, 0, try_at + 1);
    TRY_COMPAT("xorl %%eax, %%eax\n" AT32 "into", : : : "memory", "rax");
    check_no_fault();
    TRY_COMPAT("bound %%eax, (%%ecx)", : : "a"(15), "c"(bounds) : "memory");
    check_no_fault();
    TRY_COMPAT("bound %%eax, (%%ecx)", : : "a"(21), "c"(bounds) : "memory");
    check_fault(EXC_BR, 0);
    TRY_COMPAT_USER("bound %%eax, (%%ecx)", : : "a"(9), "c"(bounds) : "memory");
    check_fault(EXC_BR, 0);
    check_eq(fault.cs, SEL_UCODE32);
    TRY_COMPAT("aam $0", : : : "memory", "rax");
    check_fault(EXC_DE, 0);
}

static void invalid_in_64_bit_mode(void)
{
    static const uint8_t codes[] = {0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37,
                                    0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4, 0xd5, 0xd6, 0xea};
    static uint8_t code[8];

    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        code[0] = codes[i];
        memset(code + 1, 0x90, 6);
        code[7] = 0xc3;
        TRY("call *%0", : : "r"(code) : "memory");
        if (!fault_is(EXC_UD, 0))
            print("# opcode %x\n", codes[i]);
        check_fault_rip(EXC_UD, 0, code);
    }
}

static void non_canonical_addresses(void)
{
    TRY("movb (%0), %%al", : : "r"(NON_CANONICAL) : "memory", "rax");
    check_fault(EXC_GP, 0);
    TRY("movb %%al, (%0)", : : "r"(-NON_CANONICAL - 1) : "memory");
    check_fault(EXC_GP, 0);
    TRY("movq (%0), %%rax", : : "r"(NON_CANONICAL - 4) : "memory", "rax"); /* only its end is */
    check(fault_count == 1);
    __asm__ volatile(TRY_ARM "mov %%rbp, %%r12\n\tmov %0, %%rbp\n\t" AT "movb (%%rbp), %%al" TRY_DISARM "mov %%r12, %%rbp"
                     :
                     : "r"(NON_CANONICAL)
                     : "memory", "rax", "r12");
    check_fault_but_qemu(EXC_SS, 0, "#GP through RBP and RSP too");
}

/* A string instruction faults at its element, with the others done: also where the address's page, but for its upper bits, is there. */
static void non_canonical_strings(void)
{
    static uint64_t from[4] = {1, 2, 3, 4}, to[4];

    TRY("rep movsq", : : "D"((word)to), "S"((word)from ^ 1UL << 60), "c"(4) : "memory");
    check_fault(EXC_GP, 0);
    check_eq(fault.reg[1], 4);
    check_eq(fault.reg[6], (word)from ^ 1UL << 60);
    check_eq(fault.reg[7], (word)to);
    TRY("rep stosq", : : "D"((word)to ^ 1UL << 60), "a"(5), "c"(4) : "memory");
    check_fault(EXC_GP, 0);
    check_eq(fault.reg[1], 4);
    check_eq(fault.reg[7], (word)to ^ 1UL << 60);
    check_eq(to[0], 0);
}

/* A stack that is not canonical can't take the exception's frame: the handlers need an IST for it. */
static void non_canonical_stack_with_ist(void)
{
    tss.ist[1] = spare_stack(0);
    idt[EXC_SS].ist = 1;
    idt[EXC_GP].ist = 1;
    TRY("movq %0, %%rsp\n" AT "push %%rax", : : "r"(NON_CANONICAL + 0x100) : "memory");
    check_fault_but_qemu(EXC_SS, 0, "#GP through RBP and RSP too");
    check_eq(fault.rsp, NON_CANONICAL + 0x100); /* as it was in front of the instruction */
    TRY("movq %0, %%rsp\n" AT "ret", : : "r"(NON_CANONICAL + 0x100) : "memory");
    check_fault_but_qemu(EXC_SS, 0, "#GP through RBP and RSP too");
    TRY("jmp *%0", : : "r"(NON_CANONICAL) : "memory");
    check(fault_is(EXC_GP, 0));
    TRY("push %0\n" AT "ret", : : "r"(NON_CANONICAL) : "memory");
    check(fault_is(EXC_GP, 0));
}

static void stack_of_the_handler(void)
{
    word base = spare_stack(1);

    for (unsigned i = 0; i < 16; i++) {
        TRY("movq %0, %%rsp\n" AT "int $0x90", : : "r"(base - 512 - i) : "memory");
        check_fault_rip(TEST_VECTOR, 0, try_at + 2);
        check_eq(fault.rsp, base - 512 - i);
        check_eq(fault.handler_rsp, ((base - 512 - i) & ~15UL) - 48); /* aligned first (SDM vol. 3 6.14.2) */
        check_eq(fault.handler_ss, SEL_KDATA);
    }
    TRY_USER("int $0x80", NO_REGS);
    check_eq(fault.handler_rsp, tss.rsp[0] - 48);
    check_eq(fault.handler_ss, 0); /* null, with RPL = CPL */
    check_eq(fault.ss, SEL_UDATA);
}

static void interrupt_stack_table(void)
{
    for (uint8_t n = 1; n < 8; n++) {
        tss.ist[n] = spare_stack(n & 3);
        idt[TEST_VECTOR].ist = n;
        TRY("int $0x90", NO_REGS);
        check_fault_rip(TEST_VECTOR, 0, try_at + 2);
        check_eq(fault.handler_rsp, spare_stack(n & 3) - 48);
    }
    idt[0x80].ist = 2;
    TRY_USER("int $0x80", NO_REGS);
    check_eq(fault.handler_rsp, spare_stack(2) - 48);
    tss.ist[3] = NON_CANONICAL;
    idt[TEST_VECTOR].ist = 3;
    TRY("int $0x90", NO_REGS);
    check_fault_but_qemu(EXC_SS, 0, "a stack that is not canonical is found late");
}

static void invalid_tss(void)
{
    /* The limit ends in front of IST7 (bytes 84-91). */
    gdt[SEL_TEST / 8] = desc((uint32_t)(word)&tss, 84, DESC_P | DESC_TYPE(9));
    __asm__ volatile("ltr %w0" : : "r"(SEL_TEST));
    idt[TEST_VECTOR].ist = 7;
    TRY("int $0x90", NO_REGS);
    check_fault(EXC_TS, SEL_TEST);
    idt[EXC_UD].ist = 7;
    TRY("ud2", NO_REGS); /* benign: the second one is served on its own */
    check_fault_but_qemu(EXC_TS, SEL_TEST | 1, "EXT is left out");
}

static void double_fault_by_page_faults(void)
{
    tss.ist[1] = spare_stack(0);
    tss.ist[2] = TEST_HIGH; /* not mapped */
    idt[EXC_DF].ist = 1;
    idt[EXC_PF].ist = 2;
    TRY("movb (%0), %%al", : : "r"(TEST_HIGH) : "memory", "rax");
    check(fault_is(EXC_DF, 0));
    check_eq(fault.handler_rsp, spare_stack(0) - 48);
    idt[EXC_PF].ist = 0;
    idt[EXC_GP].ist = 2; /* #GP, then #PF: served on its own */
    TRY("mov %0, %%es", : : "r"(0xfff8) : "memory");
    check_fault(EXC_PF, PF_W);
    check(fault.cr2 >= TEST_HIGH - 48 && fault.cr2 < TEST_HIGH); /* CPUs differ in which push comes first */
    idt[EXC_PF].attr &= 0x7f;                                    /* #PF, then #NP */
    TRY("movb (%0), %%al", : : "r"(TEST_HIGH) : "memory", "rax");
    check(fault_is(EXC_DF, 0));
}

static void page_fault_before_nothing(void)
{
    TRY("movb (%0), %%al", : : "r"(TEST_HIGH + 5) : "memory", "rax");
    check_pf(0, TEST_HIGH + 5);
    TRY_USER("movb %%al, (%0)", : : "r"(TEST_HIGH + 5) : "memory");
    check_pf(PF_W | PF_U, TEST_HIGH + 5);
    TRY_USER("lgdt (%0)", : : "r"(TEST_HIGH) : "memory"); /* the privilege comes first */
    check_fault(EXC_GP, 0);
    TRY(".byte 0xf0; movl %%eax, (%0)", : : "r"(TEST_HIGH) : "memory"); /* and LOCK before everything */
    check_fault_but_qemu(EXC_UD, 0, "LOCK is ignored");
}

static void iret_faults(void)
{
    word flags = read_flags();

    TRY("push %0\npopf\n" AT "iretq", : : "r"(flags | FLAG_NT) : "memory");
    check_fault(EXC_GP, 0);
    TRY("push $0x10\npush try_sp\npush %0\npush $0\npush $1f\n" AT "iretq\n1:", : : "r"(flags) : "memory");
    check_fault(EXC_GP, 0); /* null CS */
    TRY("push $0x10\npush try_sp\npush %0\npush $0x10\npush $1f\n" AT "iretq\n1:", : : "r"(flags) : "memory");
    check_fault(EXC_GP, SEL_KDATA); /* data in CS */
    TRY("push $0\npush try_sp\npush %0\npush $0x2b\npush $1f\n" AT "iretq\n1:", : : "r"(flags) : "memory");
    check_fault(EXC_GP, 0); /* null SS for ring 3 */
    TRY("push $0\npush try_sp\npush %0\npush $8\npush $1f\n" AT "iretq\n1:", : : "r"(flags) : "memory");
    check_no_fault(); /* null SS is good in ring 0 */
    __asm__ volatile("mov %0, %%ss" : : "r"(SEL_KDATA));
    gdt[SEL_TEST / 8] = gdt[SEL_KCODE / 8] & ~DESC_P;
    TRY("push $0x10\npush try_sp\npush %0\npush $0x68\npush $1f\n" AT "iretq\n1:", : : "r"(flags) : "memory");
    check_fault(EXC_NP, SEL_TEST);
}

GUEST_TESTS(COMMON_EXCEPTIONS, {"#OF, #BR and AAM's #DE in compatibility mode", compat_only_exceptions},
            {"#UD for what 64-bit mode has not", invalid_in_64_bit_mode},
            {"#GP and #SS for non-canonical addresses", non_canonical_addresses}, {"#GP for non-canonical strings", non_canonical_strings},
            {"#SS for a non-canonical stack, on an IST", non_canonical_stack_with_ist},
            {"the handler's stack is aligned and complete", stack_of_the_handler}, {"the interrupt stack table", interrupt_stack_table},
            {"#TS for an IST behind the TSS's limit", invalid_tss}, {"#DF by page faults", double_fault_by_page_faults},
            {"#PF comes after the privilege and LOCK", page_fault_before_nothing}, {"faults of IRET", iret_faults});
