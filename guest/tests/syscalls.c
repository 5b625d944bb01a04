/* SYSCALL, SYSRET, SYSENTER and SYSEXIT, in 64-bit and compatibility mode. */
#include "paging.h"
#include "test.h"

extern volatile uint64_t seen[8];
volatile uint64_t seen[8]; /* what the entries saw: RCX, R11, RSP, flags, CS, SS */

/* STAR: SYSCALL loads CS 8 and SS 16; SYSRET CS 0x18 + 16 = 0x2b and SS 0x23, or CS 0x1b for 32-bit code. */
#define STAR_VALUE ((uint64_t)SEL_KCODE << 32 | (uint64_t)SEL_UCODE32 << 48)

void syscall_entry(void);
void syscall_entry32(void);
void sysenter_entry(void);
__asm__(".text\n"
        "syscall_entry:\n\t"
        "movq %rcx, seen\n\tmovq %r11, seen+8\n\tmovq %rsp, seen+16\n\t"
        "movq spare_top, %rsp\n\t"
        "pushfq\n\tpopq seen+24\n\t"
        "pushq %rax\n\tmov %cs, %eax\n\tmovq %rax, seen+32\n\tmov %ss, %eax\n\tmovq %rax, seen+40\n\tpopq %rax\n\t"
        "movq seen+16, %rsp\n\t"
        "sysretq\n"
        "syscall_entry32:\n\t"
        "movq %rcx, seen\n\tmovq %r11, seen+8\n\tmovq %rsp, seen+16\n\t"
        "sysretl\n"
        "sysenter_entry:\n\t"
        "movq %rsp, seen+16\n\t"
        "pushfq\n\tpopq seen+24\n\t"
        "mov %cs, %eax\n\tmovq %rax, seen+32\n\tmov %ss, %eax\n\tmovq %rax, seen+40\n\t"
        "testl %esi, %esi\n\tjz 1f\n\t"
        "sysexitq\n"
        "1: .byte 0x0f, 0x35\n"); /* SYSEXIT to 32-bit code */
extern word spare_top;
word spare_top;

static void set_up(void)
{
    spare_top = spare_stack(0);
    memset((void *)seen, 0, sizeof(seen));
    wrmsr(MSR_STAR, STAR_VALUE);
    wrmsr(MSR_LSTAR, (word)syscall_entry);
    wrmsr(MSR_CSTAR, (word)syscall_entry32);
    wrmsr(MSR_SFMASK, FLAG_IF | FLAG_DF | FLAG_AC);
    wrmsr(MSR_SYSENTER_CS, SEL_KCODE);
    wrmsr(MSR_SYSENTER_ESP, spare_stack(1));
    wrmsr(MSR_SYSENTER_EIP, (word)sysenter_entry);
}

/* Registers that ring 3 left, through memory of fixed address. */
extern volatile uint64_t left[4];
volatile uint64_t left[4];
#define STORE_USER "pushfq\n\tpopq left\n\tcld\n\tmov %%cs, %%eax\n\tmovq %%rax, left+8\n\tmov %%ss, %%eax\n\tmovq %%rax, left+16"

static void syscall_and_sysret(void)
{
    set_up();
    TRY_USER("std\nstc\n" AT "syscall\n" STORE_USER, : : : "memory", "rax", "rcx", "r11");
    check_no_fault();
    check_eq(seen[0], try_at + 2);
    check_eq(seen[1] & (FLAG_DF | FLAG_CF | FLAG_IF), FLAG_DF | FLAG_CF);
    check_eq(seen[2], try_sp);                  /* RSP is left alone */
    check_eq(seen[3] & (FLAG_DF | FLAG_IF), 0); /* SFMASK */
    check_but_qemu(seen[3] & FLAG_CF, "SYSCALL clears the arithmetic flags");
    check_eq(seen[4], SEL_KCODE);
    check_eq(seen[5], SEL_KDATA);
    check_eq(left[0] & (FLAG_DF | FLAG_CF), FLAG_DF | FLAG_CF);
    check_eq(left[1], SEL_UCODE64);
    check_eq(left[2], SEL_UDATA);
}

static void syscall_from_ring_0(void)
{
    set_up();
    TRY("syscall\nint $0x81\n", : : : "memory", "rax", "rcx", "r11"); /* and comes back in ring 3 */
    check_no_fault();
    check_eq(seen[0], try_at + 2);
}

static void syscall_needs_sce(void)
{
    set_up();
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SCE);
    TRY_USER("syscall", : : : "memory", "rcx", "r11");
    check_fault(EXC_UD, 0);
    TRY("sysretq", : : "c"(0) : "memory", "r11");
    check_fault(EXC_UD, 0);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    TRY_USER("sysretq", : : "c"(0) : "memory", "r11"); /* ring 0 only */
    check_fault(EXC_GP, 0);
}

static void sysret_to_compatibility_mode(void)
{
    set_up();
    /* SYSRET without REX.W goes to 32-bit code, at ECX. */
    TRY("leaq 1f, %%rcx\nmovl $2, %%r11d\n" AT "sysretl\n.code32\n1: movl $5, %%eax\n.byte 0x40\nmovl %%eax, left\nmov %%cs, %%eax\n"
        "movl %%eax, left+8\nint $0x81\n.code64",
        :
        :
        : "memory", "rax", "rcx", "r11");
    check_no_fault();
    check_eq((uint32_t)left[0], 6);
    check_eq((uint32_t)left[1], SEL_UCODE32);
}

static void sysret_of_a_non_canonical_address(void)
{
    set_up();
    if (cpu_is_amd())
        test_skip("AMD's SYSRET does not look at RCX");
    TRY("sysretq", : : "c"(0x800000000000UL), "a"(0) : "memory", "r11");
    check_fault_but_qemu(EXC_GP, 0, "SYSRET does not look at RCX");
}

static void syscall_in_compatibility_mode(void)
{
    set_up();
    if (!cpu_is_amd())
        test_skip("Intel's SYSCALL is for 64-bit mode");
    TRY_COMPAT_USER("syscall\nmov %%cs, %%eax\nmovl %%eax, left", : : : "memory", "rax", "rcx", "r11");
    check_no_fault();
    check_eq(seen[0], try_at + 2); /* by CSTAR */
    check_eq((uint32_t)left[0], SEL_UCODE32);
}

static void syscall_of_intel_in_compatibility_mode(void)
{
    set_up();
    if (cpu_is_amd())
        test_skip("AMD has it, by CSTAR");
    TRY_COMPAT_USER("syscall", : : : "memory", "rax", "rcx", "r11");
    check_fault_but_qemu(EXC_UD, 0, "SYSCALL in compatibility mode whatever the vendor");
}

static void sysenter_of_amd_in_long_mode(void)
{
    set_up();
    if (!cpu_is_amd() || cpu_is_tcg())
        test_skip("Intel has it, and TCG for all vendors");
    TRY_USER("sysenter", : : : "memory");
    check_fault(EXC_UD, 0);
    TRY_COMPAT_USER("sysenter", : : : "memory");
    check_fault(EXC_UD, 0);
    TRY(".byte 0x0f, 0x35", : : "c"(0), "d"(0) : "memory");
    check_fault(EXC_UD, 0);
}

static void sysenter_of_intel(void)
{
    set_up();
    if (cpu_is_amd())
        test_skip("AMD has none in long mode");
    /* SYSEXIT's selectors follow SYSENTER_CS: +32 and +40 for 64-bit code are 0x2b and 0x33, so make SS there. */
    gdt[0x30 / 8] = gdt[SEL_UDATA / 8];
    TRY_USER("movq %%rsp, %%rcx\nleaq 1f, %%rdx\nmovl $1, %%esi\n" AT "sysenter\n1:" STORE_USER,
             :
             :
             : "memory", "rax", "rcx", "rdx", "rsi");
    check_no_fault();
    check_eq(seen[2], spare_stack(1));
    check_eq(seen[3] & FLAG_IF, 0);
    check_eq(seen[4], SEL_KCODE);
    check_eq(seen[5], SEL_KDATA);
    check_eq(left[1], SEL_UCODE64);
    wrmsr(MSR_SYSENTER_CS, 0);
    TRY_USER("sysenter", : : : "memory");
    check_fault(EXC_GP, 0);
    TRY("sysexitq", : : "c"(0), "d"(0) : "memory");
    check_fault(EXC_GP, 0);
    wrmsr(MSR_SYSENTER_CS, SEL_KCODE);
    TRY_USER("sysexitq", : : "c"(0), "d"(0) : "memory");
    check_fault(EXC_GP, 0);
}

static void msrs_refuse_non_canonical_addresses(void)
{
    static const uint32_t msrs[] = {MSR_LSTAR, MSR_CSTAR, MSR_SYSENTER_EIP, MSR_SYSENTER_ESP, MSR_KERNEL_GS_BASE};

    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
        TRY("wrmsr", : : "c"(msrs[i]), "a"(0), "d"(0x8000) : "memory");
        check_fault_but_qemu(EXC_GP, 0, "non-canonical values are taken");
        wrmsr(msrs[i], 0xffff800000000123);
        check_eq(rdmsr(msrs[i]), 0xffff800000000123);
    }
}

/* SYSCALL on a page's last bytes, and many of them: the return address is exact. */
static void many_syscalls(void)
{
    set_up();
    TRY_USER("movl $1000, %%r12d\n1: " AT "syscall\ndecl %%r12d\njnz 1b", : : : "memory", "rax", "rcx", "r11", "r12");
    check_no_fault();
    check_eq(seen[0], try_at + 2);
}

GUEST_TESTS({"SYSCALL and SYSRET", syscall_and_sysret}, {"SYSCALL from ring 0", syscall_from_ring_0},
            {"#UD without EFER.SCE, #GP in ring 3", syscall_needs_sce}, {"SYSRET to compatibility mode", sysret_to_compatibility_mode},
            {"SYSRET to a non-canonical address", sysret_of_a_non_canonical_address},
            {"SYSCALL in compatibility mode by CSTAR", syscall_in_compatibility_mode},
            {"SYSCALL in compatibility mode is #UD", syscall_of_intel_in_compatibility_mode},
            {"SYSENTER in long mode is #UD", sysenter_of_amd_in_long_mode}, {"SYSENTER and SYSEXIT", sysenter_of_intel},
            {"the MSRs refuse non-canonical addresses", msrs_refuse_non_canonical_addresses}, {"a thousand times", many_syscalls});
