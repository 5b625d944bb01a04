/* The exceptions that 64-bit and 32-bit kernels raise alike: error code, saved RIP, flags, priority. */
#pragma once

#include "test.h"

#define NO_REGS : : : "memory"
#define TEST_VECTOR 0x90u
/* The error code of a fault on the IDT entry of a vector; TCG multiplies the vector by 16 in long mode and leaves out EXT. */
#define check_idt_fault(exception, v, ext) check_fault(exception, cpu_is_tcg() ? sizeof(struct gate) * (v) + 2 : 8 * (v) + 2 + (ext))

static void divide_errors(void)
{
    TRY("div %1", : : "a"(1), "r"(0), "d"(0) : "memory");
    check_fault(EXC_DE, 0);
    TRY("div %1", : : "a"(0), "r"(5), "d"(5) : "memory");
    check_fault(EXC_DE, 0);
    check_eq(fault.reg[2], 5);
    TRY("idiv %1", : : "a"(0x80000000), "r"(-1), "d"(-1) : "memory");
    check_fault(EXC_DE, 0);
    TRY("divb %b1", : : "a"(0x1000), "q"(1) : "memory");
    check_fault(EXC_DE, 0);
    TRY_USER("div %1", : : "a"(1), "r"(0), "d"(0) : "memory");
    check_fault(EXC_DE, 0);
    check_eq(fault.cs, SEL_UCODE);
}

static void breakpoint_is_a_trap(void)
{
    TRY("int3", NO_REGS);
    check_fault_rip(EXC_BP, 0, try_at + 1);
    check(!(fault.rflags & FLAG_RF));
    TRY(".byte 0xcd, 3", NO_REGS);
    check_fault_rip(EXC_BP, 0, try_at + 2);
    TRY_USER("int3", NO_REGS);
    check_fault_rip(EXC_BP, 0, try_at + 1);
    gate_set(&idt[EXC_BP], vector_entry(EXC_BP), SEL_KCODE, GATE_INT(0));
    TRY_USER("int3", NO_REGS);
    check_idt_fault(EXC_GP, EXC_BP, 0);
}

static void undefined_opcodes(void)
{
    TRY("ud2", NO_REGS);
    check_fault(EXC_UD, 0);
    TRY("ud1 %%eax, %%eax", NO_REGS);
    check_fault(EXC_UD, 0);
    TRY(".byte 0xf0, 0x90", NO_REGS); /* LOCK NOP */
    check_fault(EXC_UD, 0);
    TRY(".byte 0xf0, 0x01, 0xc0", NO_REGS); /* LOCK ADD EAX, EAX: no memory operand */
    check_fault(EXC_UD, 0);
    TRY(".byte 0xf0, 0x39, 0x00", : : "a"(&fault) : "memory"); /* LOCK CMP */
    check_fault(EXC_UD, 0);
    TRY(".byte 0x8e, 0xc8", : : "a"(SEL_KDATA) : "memory"); /* MOV CS, EAX */
    check_fault(EXC_UD, 0);
    TRY(".byte 0x8e, 0xf0", : : "a"(SEL_KDATA) : "memory"); /* MOV of segment register 6 */
    check_fault(EXC_UD, 0);
    TRY(".byte 0x0f, 0x20, 0xc8", : : : "memory", "eax"); /* MOV EAX, CR1 */
    check_fault(EXC_UD, 0);
    TRY(".byte 0x8d, 0xc0", : : : "memory", "eax"); /* LEA EAX, EAX */
    check_fault(EXC_UD, 0);
    TRY(".byte 0xfe, 0xd0", NO_REGS); /* group 4 /2 */
    check_fault(EXC_UD, 0);
    TRY_USER("ud2", NO_REGS);
    check_fault(EXC_UD, 0);
}

static void device_not_available(void)
{
    word cr0 = read_cr0();

    write_cr0(cr0 | CR0_TS);
    TRY("fld1", NO_REGS);
    check_fault(EXC_NM, 0);
    TRY("fwait", NO_REGS); /* TS and MP */
    check_fault(EXC_NM, 0);
    TRY("movaps %%xmm0, %%xmm1", NO_REGS);
    check_fault(EXC_NM, 0);
    TRY("emms", NO_REGS);
    check_fault_but_qemu(EXC_NM, 0, "EMMS does not look at CR0.TS");
    write_cr0((cr0 | CR0_TS) & ~(word)CR0_MP);
    TRY("fwait", NO_REGS);
    check_no_fault();
    write_cr0((cr0 | CR0_EM) & ~(word)CR0_MP);
    TRY("fninit", NO_REGS);
    check_fault(EXC_NM, 0);
    TRY("movaps %%xmm0, %%xmm1", NO_REGS);
    check_fault(EXC_UD, 0);
    TRY("emms", NO_REGS);
    check_fault_but_qemu(EXC_UD, 0, "EMMS does not look at CR0.EM");
    write_cr0(cr0 | CR0_TS);
    TRY("clts\n" AT "fld1", NO_REGS);
    check_no_fault();
    TRY("fninit", NO_REGS);
    check_no_fault();
}

static void not_present(void)
{
    gdt[SEL_TEST / 8] = desc(0, 0xfffff, DESC_DATA | DESC_G | DESC_DB);
    TRY("mov %0, %%es", : : "r"(SEL_TEST) : "memory");
    check_fault(EXC_NP, SEL_TEST);
    TRY("mov %0, %%ss", : : "r"(SEL_TEST) : "memory");
    check_fault(EXC_SS, SEL_TEST);
    TRY("lldt %w0", : : "r"(SEL_TEST) : "memory"); /* not an LDT: that comes before presence */
    check_fault(EXC_GP, SEL_TEST);
    gdt[SEL_TEST / 8] = desc(0, 7, DESC_TYPE(2));
    TRY("lldt %w0", : : "r"(SEL_TEST) : "memory");
    check_fault(EXC_NP, SEL_TEST);
    idt[TEST_VECTOR].attr &= 0x7f;
    TRY("int $0x90", NO_REGS);
    check_idt_fault(EXC_NP, TEST_VECTOR, 0);
}

static void bad_selectors(void)
{
    TRY("mov %0, %%es", : : "r"(0xfff8) : "memory");
    check_fault(EXC_GP, 0xfff8);
    TRY("mov %0, %%es", : : "r"(0xffff) : "memory");
    check_fault(EXC_GP, 0xfffc);                   /* RPL is not in an error code */
    TRY("mov %0, %%es", : : "r"(0x0c) : "memory"); /* the LDT, and there is none */
    check_fault(EXC_GP, 0x0c);
    TRY("mov %0, %%ss", : : "r"(SEL_UDATA) : "memory");
    check_fault(EXC_GP, SEL_UDATA & ~3);
    TRY("mov %0, %%ss", : : "r"(SEL_KCODE) : "memory");
    check_fault(EXC_GP, SEL_KCODE);
    TRY("mov %0, %%ds", : : "r"(SEL_TSS) : "memory");
    check_fault(EXC_GP, SEL_TSS);
    TRY("ltr %w0", : : "r"(SEL_TSS) : "memory"); /* busy */
    check_fault(EXC_GP, SEL_TSS);
    if (!cpu_is_tcg()) { /* which takes a null selector, and has no TSS then */
        TRY("ltr %w0", : : "r"(0) : "memory");
        check_fault(EXC_GP, 0);
    }
    TRY_USER("mov %0, %%ds", : : "r"(SEL_KDATA) : "memory");
    check_fault(EXC_GP, SEL_KDATA);
}

static void interrupts_through_the_idt(void)
{
    TRY("int $0x90", NO_REGS);
    check_fault_rip(TEST_VECTOR, 0, try_at + 2);
    TRY_USER("int $0x90", NO_REGS); /* DPL 0 */
    check_idt_fault(EXC_GP, TEST_VECTOR, 0);
    TRY_USER("int $0x80", NO_REGS);
    check_fault_rip(0x80, 0, try_at + 2);
    lidt(idt, TEST_VECTOR * sizeof(struct gate) + sizeof(struct gate) - 2);
    TRY("int $0x90", NO_REGS); /* the last byte is missing */
    check_idt_fault(EXC_GP, TEST_VECTOR, 0);
    lidt(idt, sizeof(idt) - 1);
    idt[TEST_VECTOR].attr = 0x82; /* an LDT descriptor is no gate */
    TRY("int $0x90", NO_REGS);
    check_idt_fault(EXC_GP, TEST_VECTOR, 0);
    gate_set(&idt[TEST_VECTOR], vector_entry(TEST_VECTOR), 0, GATE_INT(0));
    TRY("int $0x90", NO_REGS);
    check_fault(EXC_GP, 0);
    gate_set(&idt[TEST_VECTOR], vector_entry(TEST_VECTOR), SEL_KDATA, GATE_INT(0));
    TRY("int $0x90", NO_REGS);
    check_fault(EXC_GP, SEL_KDATA);
    gate_set(&idt[TEST_VECTOR], vector_entry(TEST_VECTOR), SEL_UCODE, GATE_INT(0));
    TRY("int $0x90", NO_REGS); /* to an outer ring */
    check_fault(EXC_GP, SEL_UCODE & ~3);
}

static void handler_flags_by_gate(void)
{
    word flags = read_flags() | FLAG_NT | FLAG_DF;

    gate_set(&idt[TEST_VECTOR], vector_entry(TEST_VECTOR), SEL_KCODE, GATE_TRAP(0));
    TRY("push %0\npopf\n" AT "int $0x90\npushf\n", : : "r"(flags | FLAG_IF) : "memory");
    check_fault_rip(TEST_VECTOR, 0, try_at + 2);
    check_eq(fault.rflags & (FLAG_IF | FLAG_NT | FLAG_DF), FLAG_IF | FLAG_NT | FLAG_DF);
    check_eq(fault.handler_flags & (FLAG_IF | FLAG_NT), FLAG_IF); /* a trap gate leaves IF */
    cli();
    gate_set(&idt[TEST_VECTOR], vector_entry(TEST_VECTOR), SEL_KCODE, GATE_INT(0));
    TRY("push %0\npopf\n" AT "int $0x90\n", : : "r"(flags | FLAG_IF) : "memory");
    check_eq(fault.rflags & FLAG_IF, FLAG_IF);
    check_eq(fault.handler_flags & (FLAG_IF | FLAG_NT), 0);
    cli();
}

static void faults_push_resume_flag(void)
{
    TRY("ud2", NO_REGS);
    check_but_qemu(fault.rflags & FLAG_RF, "faults push RF clear");
    TRY("int $0x90", NO_REGS);
    check_eq(fault.rflags & FLAG_RF, 0);
}

static void privileged_instructions_in_ring3(void)
{
    TRY_USER("hlt", NO_REGS);
    check_fault(EXC_GP, 0);
    TRY_USER("sti", NO_REGS);
    check_fault(EXC_GP, 0);
    TRY_USER("mov %%cr0, %0", : "=r"((word){0}) : : "memory");
    check_fault(EXC_GP, 0);
    TRY_USER("mov %0, %%cr3", : : "r"((word)0) : "memory");
    check_fault(EXC_GP, 0);
    TRY_USER("mov %%dr7, %0", : "=r"((word){0}) : : "memory");
    check_fault(EXC_GP, 0);
    TRY_USER("clts", NO_REGS);
    check_fault(EXC_GP, 0);
    TRY_USER("invlpg (%0)", : : "r"(&fault) : "memory");
    check_fault(EXC_GP, 0);
    TRY_USER("wbinvd", NO_REGS);
    check_fault(EXC_GP, 0);
    TRY_USER("rdmsr", : : "c"(MSR_EFER) : "memory", "eax", "edx");
    check_fault(EXC_GP, 0);
    TRY_USER("wrmsr", : : "c"(MSR_EFER), "a"(0), "d"(0) : "memory");
    check_fault(EXC_GP, 0);
    TRY_USER("lgdt (%0)", : : "r"((word)0x123456) : "memory");
    check_fault(EXC_GP, 0);
    TRY_USER("lmsw %w0", : : "r"(1) : "memory");
    check_fault(EXC_GP, 0);
    TRY_USER("in $0x80, %%al", : : : "memory", "eax");
    check_fault(EXC_GP, 0);
    TRY_USER("ltr %w0", : : "r"(SEL_TSS) : "memory");
    check_fault(EXC_GP, 0);
}

static void port_permissions(void)
{
    tss.iomap = (uint16_t)((word)tss.io - (word)&tss);
    memset(tss.io, 0xff, sizeof(tss.io));
    tss.io[0x70 / 8] = 0xfd; /* only 0x71 */
    TRY_USER("inb $0x71, %%al", : : : "memory", "eax");
    check_no_fault();
    TRY_USER("inw $0x71, %%ax", : : : "memory", "eax");
    check_fault(EXC_GP, 0);
    TRY_USER("inb $0x70, %%al", : : : "memory", "eax");
    check_fault(EXC_GP, 0);
    TRY_USER("in %%dx, %%al", : : "d"(0x400) : "memory", "eax"); /* behind the limit */
    check_fault(EXC_GP, 0);
}

static void x87_error(void)
{
    uint16_t control = 0x037f & ~4; /* ZM clear */

    TRY("fninit\nfldcw %0\nfld1\nfldz\nfdivrp\nnop\n" AT "fwait", : : "m"(control) : "memory");
    check_fault(EXC_MF, 0);
    TRY("fnstsw %%ax", : : : "memory", "eax");
    check_no_fault();
    TRY("fld1", NO_REGS); /* still pending */
    check_fault_but_qemu(EXC_MF, 0, "only FWAIT looks for a pending error");
    TRY("fnclex\n" AT "fld1", NO_REGS);
    check_no_fault();
    TRY("fninit", NO_REGS);
}

static void simd_error(void)
{
    uint32_t mxcsr = 0x1f80 & ~0x200u; /* ZM clear */
    static const float values[8] __attribute__((aligned(16))) = {1, 1, 1, 1, 0, 0, 0, 0};

    TRY("ldmxcsr %0\nmovaps (%1), %%xmm0\n" AT "divps 16(%1), %%xmm0", : : "m"(mxcsr), "r"(values) : "memory");
    check_fault_but_qemu(EXC_XM, 0, "no SIMD exceptions");
    write_cr4(read_cr4() & ~(word)CR4_OSXMMEXCPT);
    TRY("movaps (%0), %%xmm0\n" AT "divps 16(%0), %%xmm0", : : "r"(values) : "memory");
    check_fault_but_qemu(EXC_UD, 0, "#XM whatever CR4.OSXMMEXCPT says");
    mxcsr = 0x10000;
    TRY("ldmxcsr %0", : : "m"(mxcsr) : "memory");
    check_fault_but_qemu(EXC_GP, 0, "reserved bits of MXCSR are not checked");
    write_cr4(read_cr4() & ~(word)CR4_OSFXSR);
    TRY("addps %%xmm0, %%xmm0", NO_REGS);
    check_fault(EXC_UD, 0);
}

static void misaligned_vectors(void)
{
    static uint8_t bytes[48] __attribute__((aligned(16)));

    TRY("movaps (%0), %%xmm0", : : "r"(bytes + 8) : "memory");
    check_fault_but_qemu(EXC_GP, 0, "MOVAPS does not check alignment");
    TRY("movups (%0), %%xmm0", : : "r"(bytes + 8) : "memory");
    check_no_fault();
}

static void alignment_check(void)
{
    static uint32_t two[2];
    word flags = read_flags() | FLAG_AC;
    uint8_t *odd = (uint8_t *)two + 1;

    write_cr0(read_cr0() | CR0_AM);
    TRY_USER("push %1\npopf\n" AT "mov (%0), %%eax", : : "r"(odd), "r"(flags) : "memory", "eax");
    check_fault_but_qemu(EXC_AC, 0, "no alignment check");
    TRY_USER("push %1\npopf\n" AT "movb (%0), %%al", : : "r"(odd), "r"(flags) : "memory", "eax");
    check_no_fault();
    TRY_USER("push %1\npopf\n" AT "movl %%eax, (%0)", : : "r"(odd), "r"(flags) : "memory");
    check_fault_but_qemu(EXC_AC, 0, "no alignment check");
    TRY_USER("mov (%0), %%eax", : : "r"(odd) : "memory", "eax"); /* AC clear */
    check_no_fault();
    TRY("push %1\npopf\n" AT "mov (%0), %%eax\npush %2\npopf",
        :
        : "r"(odd), "r"(flags), "r"(flags & ~(word)FLAG_AC)
        : "memory", "eax"); /* ring 0 */
    check_no_fault();
    write_cr0(read_cr0() & ~(word)CR0_AM);
    TRY_USER("push %1\npopf\n" AT "mov (%0), %%eax", : : "r"(odd), "r"(flags) : "memory", "eax");
    check_no_fault();
}

static void instructions_longer_than_15_bytes(void)
{
    TRY(".fill 14, 1, 0x66\nnop", NO_REGS);
    check_no_fault();
    TRY(".fill 15, 1, 0x66\nnop", NO_REGS);
    check_fault_but_qemu(EXC_GP, 0, "an overlong instruction is #UD");
}

/* LOCK on what may not have it, a privilege and a device: #UD comes first, then the privilege, then the rest. */
static void priority_of_faults(void)
{
    write_cr0(read_cr0() | CR0_TS);
    TRY_USER(".byte 0xf0; fld1", NO_REGS); /* LOCK FLD1 */
    check_fault_but_qemu(EXC_UD, 0, "#NM in front of #UD");
    TRY_USER("wrmsr", : : "c"(0xdeadbeef) : "memory");
    check_fault(EXC_GP, 0);
    TRY(".byte 0xf0, 0xf7, 0xf1", : : "c"(0) : "memory"); /* LOCK DIV ECX */
    check_fault_but_qemu(EXC_UD, 0, "LOCK is ignored");
}

/* A second contributory exception while one is delivered; no vector of the first one's kind is left to take it. */
static void contributory_faults_double(void)
{
    idt[EXC_GP].attr &= 0x7f;
    TRY("mov %0, %%es", : : "r"(0xfff8) : "memory"); /* #GP, and #NP for its gate */
    check(fault_is(EXC_DF, 0));
    idt[EXC_DE].attr &= 0x7f;
    TRY("div %1", : : "a"(1), "r"(0), "d"(0) : "memory");
    check(fault_is(EXC_DF, 0));
    idt[EXC_UD].attr &= 0x7f; /* benign: the second one is served on its own */
    TRY("ud2", NO_REGS);
    check_idt_fault(EXC_NP, EXC_UD, 1);
}

#define COMMON_EXCEPTIONS                                                                                                                  \
    {"#DE by zero and by overflow, in each ring", divide_errors},                                                                          \
        {"#BP saves the next RIP and heeds the gate's DPL", breakpoint_is_a_trap}, {"#UD for what is no instruction", undefined_opcodes},  \
        {"#NM by CR0.TS and CR0.EM", device_not_available}, {"#NP and #SS for absent segments and gates", not_present},                    \
        {"#GP for bad selectors", bad_selectors}, {"INT n heeds the IDT's limit and the gate", interrupts_through_the_idt},                \
        {"interrupt gates clear IF, trap gates do not", handler_flags_by_gate},                                                            \
        {"faults push RF, INT n does not", faults_push_resume_flag},                                                                       \
        {"#GP for privileged instructions in ring 3", privileged_instructions_in_ring3},                                                   \
        {"the TSS opens ports to ring 3", port_permissions}, {"#MF waits for the next x87 instruction", x87_error},                        \
        {"#XM, and #UD without CR4.OSXMMEXCPT", simd_error}, {"#GP for a misaligned MOVAPS", misaligned_vectors},                          \
        {"#AC needs ring 3, AM and AC", alignment_check}, {"#GP for more than 15 bytes", instructions_longer_than_15_bytes},               \
        {"#UD before privilege before the operand", priority_of_faults},                                                                   \
    {                                                                                                                                      \
        "two contributory faults make a #DF", contributory_faults_double                                                                   \
    }
