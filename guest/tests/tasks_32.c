/* Hardware tasks of a 32-bit kernel: called, jumped to, entered by exceptions and interrupts, each with its own address space. */
#include "irq.h"
#include "test.h"

#define SEL_TASK SEL_TEST
#define SEL_SMALL (SEL_TEST + 8)
#define TICK 0x50
#define VA 0x40000000u

static struct tss task; /* the other one; the library's is the current one */
extern volatile uint32_t task_runs, task_error, task_in;
volatile uint32_t task_runs, task_error, task_in;
extern void (*volatile task_body)(void);
void (*volatile task_body)(void);

/* Comes back by IRET, and goes on behind it the next time; task_jumps goes back by a jump. An error code is popped by task_with_error. */
void task_start(void), task_jumps(void), task_with_error(void);
__asm__(".text\n"
        "task_start: str %ax; movzwl %ax, %eax; mov %eax, task_in; incl task_runs; call *task_body; iret; jmp task_start\n"
        "task_with_error: popl task_error; incl task_runs; call *task_body; iret; jmp task_with_error\n"
        "task_jumps: incl task_runs; ljmp $0x48, $0; jmp task_jumps\n");

static void nothing(void)
{
}

static void prepare(void (*entry)(void))
{
    memset(&task, 0, sizeof(task));
    task.esp0 = task.gpr[4] = spare_stack(0);
    task.ss0 = SEL_KDATA;
    task.eip = (word)entry;
    task.eflags = 2;
    for (unsigned i = 0; i < 6; i++)
        task.seg[i] = i == 1 ? SEL_KCODE : i == 2 ? SEL_KDATA : SEL_UDATA;
    task.cr3 = read_cr3();
    gdt[SEL_TASK / 8] = desc((word)&task, sizeof(task) - 1, DESC_P | DESC_TYPE(9));
    task_runs = 0;
    task_body = nothing;
}

static unsigned type_of(unsigned sel)
{
    return gdt[sel / 8] >> 40 & 0x1f;
}

static word current_task(void)
{
    word sel;

    __asm__ volatile("xor %0, %0; str %w0" : "=r"(sel));
    return sel;
}

static void called_tasks_return(void)
{
    uint32_t a = 0, d = 0;

    prepare(task_start);
    for (uint32_t i = 1; i <= 5; i++) {
        TRY("stc; lcall $0x68, $0; setc %%dl", : "=a"(a), "=d"(d) : "0"(0x1234), "1"(0) : "memory", "cc");
        check_no_fault();
        check_eq(task_runs, i);
        check_eq(a, 0x1234); /* each task has registers of its own */
        check_eq(d, 1);
        check_eq(task_in, SEL_TASK);
        check_eq(task.link, SEL_TSS);
        check_eq(type_of(SEL_TASK), 9);
        check_eq(type_of(SEL_TSS), 11);
        check_eq(current_task(), SEL_TSS);
        check(read_cr0() & CR0_TS);
        __asm__ volatile("clts");
    }
}

static void jumps_between_tasks(void)
{
    prepare(task_jumps);
    for (uint32_t i = 1; i <= 5; i++) {
        TRY("ljmp $0x68, $0", : : : "memory");
        check_no_fault();
        check_eq(task_runs, i);
        check_eq(type_of(SEL_TASK), 9);
        check_eq(current_task(), SEL_TSS);
    }
    __asm__ volatile("clts");
    TRY("ljmp $0x48, $0", : : : "memory"); /* the current one is busy */
    check_fault(EXC_GP, SEL_TSS);
}

static void skip_two_bytes(void)
{
    tss.eip += 2;
}

static void exceptions_by_a_task_gate(void)
{
    uint32_t a = 5;

    prepare(task_start);
    gate_set(&idt[EXC_UD], 0, SEL_TASK, 0x85);
    task_body = skip_two_bytes;
    TRY("ud2; inc %0; ud2; inc %0", : "+r"(a) : : "memory");
    check_no_fault();
    check_eq(a, 7);
    check_eq(task_runs, 2);
    check(tss.eflags & FLAG_RF);
    prepare(task_with_error);
    gate_set(&idt[EXC_GP], 0, SEL_TASK, 0x85);
    task_body = skip_two_bytes;
    TRY("mov %1, %%gs; inc %0", : "+r"(a) : "r"(0xfff8) : "memory"); /* two bytes */
    check_no_fault();
    check_eq(a, 8);
    check_eq(task_error, 0xfff8);
    TRY_USER("mov %1, %%gs; inc %0", : "+r"(a) : "r"(0xfff8) : "memory");
    check_no_fault();
    check_eq(a, 9);
    check_eq(tss.seg[1], SEL_UCODE);
    __asm__ volatile("clts");
}

static void repair_the_stack(void)
{
    tss.seg[2] = SEL_KDATA;
    tss.gpr[4] = try_sp;
    tss.eip = try_resume;
}

/* No handler could run on such a stack. */
static void a_double_fault_is_survived(void)
{
    for (unsigned i = 0; i < 3; i++) {
        prepare(task_with_error);
        gate_set(&idt[EXC_DF], 0, SEL_TASK, 0x85);
        gdt[SEL_SMALL / 8] = desc(0, 0xfff, DESC_P | DESC_DATA | DESC_DB);
        task_body = repair_the_stack;
        task_error = 1;
        TRY("mov %0, %%ss; mov $0x2000, %%esp; push %%eax", : : "r"(SEL_SMALL) : "memory");
        check_no_fault();
        check_eq(task_runs, 1);
        check_eq(task_error, 0);
        __asm__ volatile("clts");
    }
}

static void end_of_interrupt(void)
{
    apic_eoi();
}

static void interrupts_by_a_task_gate(void)
{
    prepare(task_start);
    gate_set(&idt[TICK], 0, SEL_TASK, 0x85);
    task_body = end_of_interrupt;
    apic_enable();
    for (uint32_t i = 1; i <= 10; i++) {
        apic_self_ipi(TICK);
        sti();
        __asm__ volatile("nop");
        cli();
        check_eq(task_runs, i);
    }
    __asm__ volatile("clts");
}

static void faults_belong_to_the_task_that_they_strike(void)
{
    prepare(task_start);
    gdt[SEL_TASK / 8] = desc((word)&task, 0x66, DESC_P | DESC_TYPE(9));
    TRY("lcall $0x68, $0", : : : "memory");
    check_fault(EXC_TS, SEL_TASK);
    check_eq(current_task(), SEL_TSS);
    prepare(task_start);
    task.seg[3] = 0xfff8;
    TRY("lcall $0x68, $0", : : : "memory");
    check(fault_is(EXC_TS, 0xfff8));
    check_eq(fault.rip, (word)task_start);
    check_eq(current_task(), SEL_TASK);
    seg_reset(); /* the library's task again */
    __asm__ volatile("clts; pushfl; andl $~0x4000, (%%esp); popfl" : : : "memory", "cc");
}

static uint32_t directories[2][1024] __attribute__((aligned(4096)));
static volatile uint32_t task_saw;

static void look(void)
{
    task_saw = *(volatile uint32_t *)(word)(VA + 0x500);
    *(volatile uint32_t *)(word)(VA + 0x504) = 2;
}

/* 4 MiB pages; the window is another page in each. */
static void address_spaces(void)
{
    uint32_t mine;

    for (unsigned n = 0; n < 2; n++) {
        for (unsigned i = 0; i < 1024; i++)
            directories[n][i] = i < 4 || i >= 0x3fb ? i << 22 | 0x87 : 0;
        directories[n][VA >> 22] = (n + 2) << 22 | 0x87;
        *(volatile uint32_t *)(word)(((n + 2) << 22) + 0x500) = 0x100 + n;
        *(volatile uint32_t *)(word)(((n + 2) << 22) + 0x504) = 0;
    }
    prepare(task_start);
    task_body = look;
    task.cr3 = (word)directories[1];
    write_cr4(read_cr4() | CR4_PSE);
    write_cr3((word)directories[0]);
    tss.cr3 = read_cr3(); /* a switch does not save it */
    write_cr0(read_cr0() | CR0_PG);
    for (uint32_t i = 1; i <= 3; i++) {
        task_saw = 0;
        *(volatile uint32_t *)(word)(VA + 0x504) = 1;
        __asm__ volatile("lcall $0x68, $0" : : : "memory");
        mine = *(volatile uint32_t *)(word)(VA + 0x504) << 16 | *(volatile uint32_t *)(word)(VA + 0x500);
        check_eq(task_saw, 0x101);
        check_eq(mine, 0x10100);
        check_eq(read_cr3(), (word)directories[0]);
    }
    write_cr0(read_cr0() & ~(word)(CR0_PG | CR0_TS));
    write_cr4(read_cr4() & ~(word)CR4_PSE);
}

GUEST_TESTS({"called tasks return", called_tasks_return}, {"jumps between tasks", jumps_between_tasks},
            {"exceptions by a task gate", exceptions_by_a_task_gate}, {"a double fault is survived", a_double_fault_is_survived},
            {"interrupts by a task gate", interrupts_by_a_task_gate},
            {"faults belong to the task that they strike", faults_belong_to_the_task_that_they_strike}, {"address spaces", address_spaces});
