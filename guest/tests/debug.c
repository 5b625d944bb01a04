/* Debug registers, breakpoints and single-step: what raises #DB, when, with which DR6. */
#include "paging.h"
#include "test.h"

#define DR6_CLEAR 0xffff0ff0UL
#define DR6_B(n) (1u << (n))
#define DR6_BD 0x2000u
#define DR6_BS 0x4000u
#define DR7_FIXED 0x400u
#define DR7_GD 0x2000u
#define DR7_L(n) (1u << 2 * (n))
#define DR7_RWLEN(n, rw, len) ((uint32_t)((rw) | (len) << 2) << (16 + 4 * (n)))
#define RW_EXECUTE 0u
#define RW_WRITE 1u
#define RW_ACCESS 3u
#define LEN_1 0u
#define LEN_2 1u
#define LEN_8 2u
#define LEN_4 3u

static struct {
    unsigned count;
    word rip[64], dr6[64], flags[64];
} traps;
extern uint64_t data[8];
uint64_t data[8] __attribute__((aligned(64)));

/* Counts the traps and lets the guest run on. */
static void on_debug(struct trap_frame *f)
{
    if (traps.count < ARRAY_SIZE(traps.rip)) {
        traps.rip[traps.count] = f->rip;
        traps.dr6[traps.count] = read_dr6();
        traps.flags[traps.count] = f->rflags;
    }
    traps.count++;
    write_dr6(DR6_CLEAR);
    f->rflags |= FLAG_RF; /* past an execution breakpoint (SDM vol. 3 17.3.1.1) */
    if (traps.count > 60)
        f->rflags &= ~(word)FLAG_TF;
}

static void begin(void)
{
    memset(&traps, 0, sizeof(traps));
    set_handler(EXC_DB, on_debug);
    write_dr6(DR6_CLEAR);
}

#define SET_TF "pushfq\n\torl $0x100, (%%rsp)\n\tpopfq\n\t"
#define CLEAR_TF "pushfq\n\tandl $~0x100, (%%rsp)\n\tpopfq\n\t"

static void single_step_after_each_instruction(void)
{
    word at = 0;

    begin();
    __asm__ volatile(SET_TF "1: nop\n\tnop\n\tmov %%eax, %%eax\n\t2: " CLEAR_TF "lea 1b(%%rip), %0" : "=r"(at) : : "memory", "rax");
    /* POPF's own setting counts from the next instruction on; PUSHF, AND and the POPF that clears TF still trap. */
    check_eq(traps.rip[0], at + 1);
    check_eq(traps.rip[1], at + 2);
    check_eq(traps.rip[2], at + 4);
    check_eq(traps.count, 6);
    for (unsigned i = 0; i < 6; i++)
        check_eq(traps.dr6[i] & 0xe00f, DR6_BS);
}

static void single_step_through_branches_and_strings(void)
{
    word at = 0;

    begin();
    memset(data, 0, sizeof(data));
    __asm__ volatile("movl $3, %%ecx\n\tmovq $data, %%rdi\n\t" SET_TF "1: jmp 2f\n\tnop\n2: rep stosb\n\t" CLEAR_TF "lea 1b(%%rip), %0"
                     : "=r"(at)
                     :
                     : "memory", "rcx", "rdi");
    check_eq(traps.rip[0], at + 3);
    /* Each iteration traps: two on the instruction itself, the last one behind it. */
    check_eq(traps.rip[1], at + 3);
    check_eq(traps.rip[2], at + 3);
    check_eq(traps.rip[3], at + 5);
    check_eq(traps.count, 7);
}

static void single_step_into_software_interrupts(void)
{
    begin();
    gate_set(&idt[0x90], vector_entry(0x90), SEL_KCODE, GATE_INT(0));
    TRY(SET_TF AT "int $0x90", : : : "memory");
    check_eq(fault.vector, 0x90);
    check_eq(fault.handler_flags & FLAG_TF, 0); /* the gate clears it, and nothing traps in the handler */
    check_eq(fault.rflags & FLAG_TF, FLAG_TF);
}

static void mov_ss_holds_the_trap_back(void)
{
    word at = 0;

    begin();
    __asm__ volatile("mov %%ss, %%eax\n\t" SET_TF "1: mov %%eax, %%ss\n\tnop\n\t2: " CLEAR_TF "lea 1b(%%rip), %0"
                     : "=r"(at)
                     :
                     : "memory", "rax");
    check_eq(traps.rip[0], at + 3); /* behind the NOP, not in front of it */
    check_eq(traps.count, 4);
}

static void execution_breakpoints(void)
{
    word at = 0;

    begin();
    __asm__ volatile("lea 1f(%%rip), %0\n\tmov %0, %%dr1\n\tmov %1, %%dr7\n\tnop\n1: nop\n\tnop"
                     : "=&r"(at)
                     : "r"((word)DR7_FIXED | DR7_L(1)));
    write_dr7(DR7_FIXED);
    check_eq(traps.count, 1);
    check_eq(traps.rip[0], at); /* a fault: in front of it */
    check_eq(traps.dr6[0] & 0xe00f, DR6_B(1));
    check_eq(traps.flags[0] & FLAG_RF, 0); /* the one fault that leaves that to the handler */
}

static void data_breakpoints(void)
{
    word at = 0;

    begin();
    write_dr0((word)&data[1]);
    write_dr7(DR7_FIXED | DR7_L(0) | DR7_RWLEN(0, RW_WRITE, LEN_4));
    __asm__ volatile("movl %%eax, data+8\n1: movl data+8, %%eax\n\tmovb %%al, data+11\n\tmovb %%al, data+12\n\tlea 1b(%%rip), %0"
                     : "=r"(at)
                     :
                     : "memory", "rax");
    write_dr7(DR7_FIXED);
    check_eq(traps.count, 2);   /* the store, and the one to its last byte */
    check_eq(traps.rip[0], at); /* a trap: behind it */
    check_eq(traps.dr6[0] & 0xe00f, DR6_B(0));
    begin();
    write_dr2((word)&data[2]);
    write_dr7(DR7_FIXED | DR7_L(2) | DR7_RWLEN(2, RW_ACCESS, LEN_8));
    __asm__ volatile("movq data+16, %%rax\n\tmovq %%rax, data+16\n\tmovb data+23, %%al\n\tmovb data+24, %%al\n\tmovw data+15, %%ax"
                     :
                     :
                     : "memory", "rax");
    write_dr7(DR7_FIXED);
    check_eq(traps.count, 4);
    check_eq(traps.dr6[3] & 0xe00f, DR6_B(2));
}

static void data_breakpoint_in_a_string_instruction(void)
{
    begin();
    write_dr0((word)data + 16);
    write_dr7(DR7_FIXED | DR7_L(0) | DR7_RWLEN(0, RW_WRITE, LEN_1));
    __asm__ volatile("movq $data, %%rdi\n\tmovl $32, %%ecx\n\trep stosb" : : : "memory", "rdi", "rcx");
    write_dr7(DR7_FIXED);
    check_eq(traps.count, 1);
}

static void general_detect(void)
{
    begin();
    set_handler(EXC_DB, NULL);
    write_dr7(DR7_FIXED | DR7_GD);
    if (cpu_is_tcg())
        test_skip("TCG lets DR7.GD pass");
    TRY("mov %%dr0, %%rax", : : : "memory", "rax");
    check_fault(EXC_DB, 0);
    check_eq(fault.dr6 & DR6_BD, DR6_BD);
    check_eq(read_dr7() & DR7_GD, 0); /* the delivery clears it */
}

static void breakpoint_instructions(void)
{
    begin();
    set_handler(EXC_DB, NULL);
    if (cpu_is_tcg())
        test_skip("TCG has no INT1");
    TRY(".byte 0xf1", : : : "memory"); /* INT1 */
    check_fault_rip(EXC_DB, 0, try_at + 1);
    check_eq(fault.dr6 & 0xe00f, 0);
    TRY_USER(".byte 0xf1", : : : "memory"); /* whatever the gate's DPL */
    check_fault_rip(EXC_DB, 0, try_at + 1);
}

static void registers(void)
{
    word v = 0;

    write_dr0(0x123456789abcdef0);
    check_eq(read_dr0(), 0x123456789abcdef0);
    write_dr6(0);
    check_eq(read_dr6() & ~0xe00fUL, DR6_CLEAR & ~0xe00fUL); /* fixed ones */
    write_dr7(0);
    check_eq(read_dr7(), DR7_FIXED);
    TRY("mov %%dr4, %0", : "=r"(v) : : "memory");
    check_fault(EXC_UD, 0); /* CR4.DE */
    write_cr4(read_cr4() & ~(word)CR4_DE);
    TRY("mov %%dr4, %0", : "=r"(v) : : "memory");
    check_no_fault();
    check_eq(v, read_dr6());
    TRY("mov %0, %%dr7", : : "r"(1UL << 32) : "memory");
    check_fault_but_qemu(EXC_GP, 0, "the upper half of DR7 is not checked");
    TRY("mov %0, %%dr6", : : "r"(1UL << 32) : "memory");
    check_fault_but_qemu(EXC_GP, 0, "the upper half of DR6 is not checked");
    write_cr4(read_cr4() | CR4_DE);
}

GUEST_TESTS({"TF traps behind each instruction", single_step_after_each_instruction},
            {"TF and branches, TF and REP", single_step_through_branches_and_strings},
            {"TF is off in a handler", single_step_into_software_interrupts}, {"MOV SS holds the trap back", mov_ss_holds_the_trap_back},
            {"execution breakpoints", execution_breakpoints}, {"data breakpoints", data_breakpoints},
            {"a data breakpoint in REP STOSB", data_breakpoint_in_a_string_instruction}, {"DR7.GD", general_detect},
            {"INT1", breakpoint_instructions}, {"the registers", registers});
