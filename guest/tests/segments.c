/* Segments of a 64-bit kernel: loads, bases, call gates, far transfers between 64-bit, 32-bit and 16-bit code, LAR and its kin. */
#include "paging.h"
#include "test.h"

/* Descriptors of the tests, and selectors for them. */
#define SEL_A SEL_TEST
#define SEL_B (SEL_TEST + 8)
#define SEL_C (SEL_TEST + 16)
extern volatile uint64_t result[4];
volatile uint64_t result[4]; /* the gate's target writes it by name */

static void set_desc(unsigned selector, uint64_t d)
{
    gdt[selector / 8] = d;
}

static void loads_set_accessed(void)
{
    set_desc(SEL_A, desc(0, 0xfffff, DESC_P | DESC_S | DESC_TYPE(2) | DESC_DB | DESC_G));
    TRY("mov %0, %%es", : : "r"(SEL_A) : "memory");
    check_no_fault();
    check_eq(gdt[SEL_A / 8] >> 40 & 1, 1);
}

static void null_selectors_load(void)
{
    for (unsigned rpl = 0; rpl < 4; rpl++) {
        TRY("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs", : : "r"(rpl) : "memory");
        check_no_fault();
    }
    TRY("mov %0, %%ss", : : "r"(0) : "memory"); /* good in ring 0 of 64-bit mode */
    check_no_fault();
    TRY("mov %0, %%ss", : : "r"(3) : "memory"); /* RPL is not CPL */
    check_fault_but_qemu(EXC_GP, 0, "the RPL of a null SS is not checked");
    TRY_USER("mov %0, %%ss", : : "r"(3) : "memory");
    check_fault(EXC_GP, 0);
    TRY("movl (%0), %%eax", : : "r"(result) : "memory", "rax"); /* bases and limits do not matter */
    check_no_fault();
}

static void fs_and_gs_have_bases(void)
{
    uint64_t *page = page_alloc();

    page[3] = 0x1122334455667788;
    wrmsr(MSR_FS_BASE, (word)page);
    wrmsr(MSR_GS_BASE, (word)page + 8);
    wrmsr(MSR_KERNEL_GS_BASE, (word)page + 16);
    __asm__ volatile("mov %%fs:24, %0; mov %%gs:16, %1; swapgs; mov %%gs:8, %2; swapgs"
                     : "=&r"(result[0]), "=&r"(result[1]), "=&r"(result[2]));
    for (unsigned i = 0; i < 3; i++)
        check_eq(result[i], page[3]);
    check_eq(rdmsr(MSR_GS_BASE), (word)page + 8);
    /* A selector loads the descriptor's 32 bits. */
    set_desc(SEL_A, desc((uint32_t)(word)page, 0xfffff, DESC_P | DESC_DATA | DESC_DB | DESC_G));
    wrmsr(MSR_FS_BASE, 0xffff800000000000);
    __asm__ volatile("mov %1, %%fs; mov %%fs:24, %0" : "=r"(result[0]) : "r"(SEL_A));
    check_eq(result[0], page[3]);
    check_eq(rdmsr(MSR_FS_BASE), (word)page);
    TRY("wrmsr", : : "c"(MSR_FS_BASE), "a"(0), "d"(0x8000) : "memory");
    check_fault_but_qemu(EXC_GP, 0, "non-canonical bases are not refused");
    TRY_USER("swapgs", : : : "memory");
    check_fault(EXC_GP, 0);
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 0);
}

static void fsgsbase_instructions(void)
{
    uint64_t v = 0;

    if (!cpu_has(F_FSGSBASE))
        test_skip("no FSGSBASE");
    TRY("rdfsbase %0", : "=r"(v) : : "memory");
    check_fault(EXC_UD, 0);
    write_cr4(read_cr4() | CR4_FSGSBASE);
    TRY_USER("wrfsbase %1\nrdfsbase %0", : "=r"(v) : "r"(0x7ffffffff000UL) : "memory");
    check_no_fault();
    check_eq(v, 0x7ffffffff000);
    check_eq(rdmsr(MSR_FS_BASE), 0x7ffffffff000);
    TRY("wrgsbase %1\nrdgsbase %0", : "=r"(v) : "r"(0xffff888000000000UL) : "memory");
    check_eq(rdmsr(MSR_GS_BASE), 0xffff888000000000);
    TRY("wrgsbase %k0", : : "r"(0xffffffff12345678UL) : "memory");
    check_eq(rdmsr(MSR_GS_BASE), 0x12345678);
    TRY("wrgsbase %0", : : "r"(0x800000000000UL) : "memory");
    check_fault_but_qemu(EXC_GP, 0, "non-canonical bases are not refused");
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 0);
}

static void far_calls_in_64_bit_mode(void)
{
    static struct {
        uint32_t offset;
        uint16_t selector;
    } __attribute__((packed)) to = {0, SEL_KCODE};

    __asm__ volatile("movl $1f, %0\n\t"
                     "movq %%rsp, %%rbx\n\t"
                     "lcall *%0\n\t"
                     "movq %%rsp, %2\n\t"
                     "jmp 2f\n"
                     "1: movq %%rsp, %1\n\t"
                     "lretl\n"
                     "2: movq %%rbx, %3"
                     : "+m"(to), "=m"(result[0]), "=m"(result[1]), "=m"(result[2])
                     :
                     : "rbx", "memory");
    check_eq(result[0], result[2] - 8); /* two 4-byte pushes */
    check_eq(result[1], result[2]);
}

/* A call gate: 64-bit ones have 16 bytes and switch no parameters. */
static void set_call_gate(unsigned selector, word to, uint16_t code, uint8_t attr)
{
    gate_set((struct gate *)&gdt[selector / 8], to, code, attr);
}

void gate_target(void);
__asm__(".text\ngate_target:\n\t"
        "movq %rsp, result\n\t"
        "mov %ss, %eax\n\t"
        "movq %rax, result+8\n\t"
        "mov %cs, %eax\n\t"
        "movq %rax, result+16\n\t"
        "lretq\n");

static const struct {
    uint32_t offset;
    uint16_t selector;
} __attribute__((packed)) through_a = {0, SEL_A | 3};

static void call_gates(void)
{
    uint64_t sp[2] = {0};

    set_call_gate(SEL_A, (word)gate_target, SEL_KCODE, GATE_CALL(3));
    TRY("movq %%rsp, %0\nlcall *%2\nmovq %%rsp, %1", : "=m"(sp[0]), "=m"(sp[1]) : "m"(through_a) : "memory", "rax");
    check_no_fault();
    check_eq(result[0], sp[0] - 16); /* 8-byte pushes */
    check_eq(sp[1], sp[0]);
    /* From ring 3: the stack of the TSS, with SS null. */
    TRY_USER("movq %%rsp, %0\nlcall *%2\nmovq %%rsp, %1", : "=m"(sp[0]), "=m"(sp[1]) : "m"(through_a) : "memory", "rax");
    check_no_fault();
    check_eq(result[0], tss.rsp[0] - 32);
    check_eq(result[1], 0);
    check_eq(result[2], SEL_KCODE);
    check_eq(sp[1], sp[0]);
}

static void call_gate_faults(void)
{
    set_call_gate(SEL_A, (word)gate_target, SEL_KCODE, GATE_CALL(0));
    TRY_USER("lcall *%0", : : "m"(through_a) : "memory");
    check_fault(EXC_GP, SEL_A); /* the gate's DPL */
    set_call_gate(SEL_A, (word)gate_target, SEL_KCODE, GATE_CALL(3) & 0x7f);
    TRY_USER("lcall *%0", : : "m"(through_a) : "memory");
    check_fault(EXC_NP, SEL_A);
    set_call_gate(SEL_A, (word)gate_target, 0, GATE_CALL(3));
    TRY_USER("lcall *%0", : : "m"(through_a) : "memory");
    check_fault(EXC_GP, 0);
    set_call_gate(SEL_A, (word)gate_target, SEL_KDATA, GATE_CALL(3));
    TRY_USER("lcall *%0", : : "m"(through_a) : "memory");
    check_fault(EXC_GP, SEL_KDATA);
    set_call_gate(SEL_A, (word)gate_target, SEL_KCODE32, GATE_CALL(3)); /* must be 64-bit code */
    TRY_USER("lcall *%0", : : "m"(through_a) : "memory");
    check_fault_but_qemu(EXC_GP, SEL_KCODE32, "call gates to 32-bit code are taken");
    set_call_gate(SEL_A, (word)gate_target, SEL_KCODE, GATE_CALL(3));
    TRY_USER("ljmp *%0", : : "m"(through_a) : "memory"); /* JMP never goes inward */
    check_fault(EXC_GP, SEL_KCODE);
    gdt[SEL_B / 8] |= DESC_TYPE(1); /* the upper half has a type */
    TRY_USER("lcall *%0", : : "m"(through_a) : "memory");
    check_fault_but_qemu(EXC_GP, SEL_A, "the upper half's type is not checked");
}

static void far_jumps_between_code_sizes(void)
{
    TRY_COMPAT("movl $0x7fffffff, %%eax\nincl %%eax\n.byte 0x40\nmovl %%eax, result", : : : "memory", "rax");
    check_no_fault();
    check_eq((uint32_t)result[0], 0x80000001); /* 40 is INC EAX there */
    TRY_COMPAT("movl $0x12345678, %%eax\npushl %%eax\npopl result+8\nmovl %%esp, result+16", : : : "memory", "rax");
    check_no_fault();
    check_eq((uint32_t)result[1], 0x12345678);
    check_eq((uint32_t)result[2], try_sp);
}

/* 16-bit protected mode under long mode: compatibility mode with D clear. */
static void sixteen_bit_code(void)
{
    uint64_t ax = 0;

    set_desc(SEL_A, desc(0x100000, 0xffff, DESC_P | DESC_CODE));
    TRY("movl $0, %%eax\n"
        "pushq $0x68\n"
        "leaq 5f, %%rcx\nsubq $0x100000, %%rcx\npushq %%rcx\n"
        "lretq\n"
        ".code16\n"
        "5: movw $0x8001, %%ax\n"
        "addw %%ax, %%ax\n"
        "ljmpl $8, $6f\n"
        ".code64\n"
        "6: movq %%rax, %0",
        : "=m"(ax)
        :
        : "memory", "rax", "rcx");
    check_no_fault();
    check_eq(ax, 2);
}

static void conforming_code(void)
{
    uint64_t cs = 0;

    set_desc(SEL_A, desc(0, 0, DESC_P | DESC_S | DESC_TYPE(0xf) | DESC_L));
    TRY_USER("pushq $0x6b\npushq $1f\nlretq\n1: mov %%cs, %%eax\nmovq %%rax, %0", : "=m"(cs) : : "memory", "rax");
    check_no_fault();
    check_eq(cs, SEL_A | 3); /* ring 3 stays ring 3 */
}

static void far_transfer_faults(void)
{
    TRY("pushq $0\npushq $1f\n" AT "lretq\n1:", : : : "memory");
    check_fault(EXC_GP, 0);
    TRY("pushq $0xfff8\npushq $1f\n" AT "lretq\n1:", : : : "memory");
    check_fault(EXC_GP, 0xfff8);
    TRY("pushq $0x10\npushq $1f\n" AT "lretq\n1:", : : : "memory");
    check_fault(EXC_GP, SEL_KDATA);
    set_desc(SEL_A, desc(0, 0, DESC_CODE | DESC_L));
    TRY("pushq $0x68\npushq $1f\n" AT "lretq\n1:", : : : "memory");
    check_fault(EXC_NP, SEL_A);
    set_desc(SEL_A, desc(0, 0, DESC_P | DESC_CODE | DESC_L | DESC_DB)); /* L and D together */
    TRY("pushq $0x68\npushq $1f\n" AT "lretq\n1:", : : : "memory");
    check_fault_but_qemu(EXC_GP, SEL_A, "L with D is taken");
    TRY_USER("pushq $8\npushq $1f\n" AT "lretq\n1:", : : : "memory"); /* inward */
    check_fault(EXC_GP, SEL_KCODE);
}

static void lar_lsl_verr_verw(void)
{
    uint64_t v = 0;
    uint8_t zf = 0;

    TRY("larl %2, %k0\nsetz %1", : "+r"(v), "=qm"(zf) : "r"(SEL_KDATA) : "memory");
    check_no_fault();
    check_eq(zf, 1);
    check_eq(v & 0xf0ff00, gdt[SEL_KDATA / 8] >> 32 & 0xf0ff00); /* CPUs differ in bits 16-19 */
    TRY("lsll %2, %k0\nsetz %1", : "+r"(v), "=qm"(zf) : "r"(SEL_KDATA) : "memory");
    check_eq(zf, 1);
    check_eq(v, 0xffffffff);
    TRY("lsll %2, %k0\nsetz %1", : "+r"(v), "=qm"(zf) : "r"(SEL_TSS) : "memory");
    check_eq(zf, 1);
    check_eq(v, sizeof(tss) - 1);
    v = 0x55;
    TRY("larl %2, %k0\nsetz %1", : "+r"(v), "=qm"(zf) : "r"(0xfff8) : "memory");
    check_no_fault();
    check_eq(zf, 0);
    check_eq(v, 0x55);
    TRY_USER("larl %2, %k0\nsetz %1", : "+r"(v), "=qm"(zf) : "r"(SEL_KDATA) : "memory"); /* not visible there */
    check_eq(zf, 0);
    TRY("verw %w1\nsetz %0", : "=qm"(zf) : "r"(SEL_KDATA) : "memory");
    check_eq(zf, 1);
    TRY("verw %w1\nsetz %0", : "=qm"(zf) : "r"(SEL_KCODE) : "memory");
    check_eq(zf, 0);
    TRY("verr %w1\nsetz %0", : "=qm"(zf) : "r"(SEL_KCODE) : "memory");
    check_eq(zf, 1);
    TRY_USER("verr %w1\nsetz %0", : "=qm"(zf) : "r"(SEL_KDATA) : "memory");
    check_eq(zf, 0);
}

static void umip(void)
{
    uint64_t v[2];

    TRY_USER("sidt %0", : "=m"(v) : : "memory");
    check_no_fault();
    check_eq(v[0] >> 16 | v[1] << 48, (word)idt);
    if (!cpu_has(F_UMIP))
        return;
    write_cr4(read_cr4() | CR4_UMIP);
    TRY_USER("sidt %0", : "=m"(v) : : "memory");
    check_fault_but_qemu(EXC_GP, 0, "no UMIP");
    TRY_USER("smsw %%ax", : : : "memory", "rax");
    check_fault_but_qemu(EXC_GP, 0, "no UMIP");
    TRY_USER("str %%ax", : : : "memory", "rax");
    check_fault_but_qemu(EXC_GP, 0, "no UMIP");
    TRY("sgdt %0", : "=m"(v) : : "memory");
    check_no_fault();
}

static void ldt(void)
{
    static uint64_t table[2] __attribute__((aligned(16)));
    uint64_t got = 0;

    table[1] = desc((uint32_t)(word)result, 0xfff, DESC_P | DESC_DATA | DESC_DB);
    set_desc(SEL_LDT, desc((uint32_t)(word)table, sizeof(table) - 1, DESC_P | DESC_TYPE(2)));
    result[1] = 0xabcdef;
    TRY("lldt %w1\nmov %2, %%fs\nmovq %%fs:8, %0", : "=&r"(got) : "r"(SEL_LDT), "r"(8 | 4) : "memory");
    check_no_fault();
    check_eq(got, 0xabcdef);
    TRY("mov %0, %%fs", : : "r"(0x10 | 4) : "memory"); /* behind its limit */
    check_fault(EXC_GP, 0x14);
    TRY("sldt %%ax\nmovq %%rax, %0", : "=m"(got) : "a"(0) : "memory");
    check_eq(got & 0xffff, SEL_LDT);
}

GUEST_TESTS({"loads set the accessed bit", loads_set_accessed}, {"null selectors", null_selectors_load},
            {"FS, GS and SWAPGS", fs_and_gs_have_bases}, {"RDFSBASE and its kin", fsgsbase_instructions},
            {"far calls and returns", far_calls_in_64_bit_mode}, {"call gates", call_gates}, {"faults of call gates", call_gate_faults},
            {"32-bit code in compatibility mode", far_jumps_between_code_sizes}, {"16-bit code in compatibility mode", sixteen_bit_code},
            {"conforming code keeps the ring", conforming_code}, {"faults of far returns", far_transfer_faults},
            {"LAR, LSL, VERR, VERW", lar_lsl_verr_verw}, {"UMIP", umip}, {"the LDT", ldt});
