/* Interrupts: local APIC timer in its three modes, IPIs, NMI, the 8259 and the I/O APIC, HLT, interrupt shadows, priorities. */
#include "irq.h"
#include "test.h"

#define TIMER 0x40
#define SELF 0x50
#define HIGH 0x90
#define PIC_BASE 0x20
#define RTC_IRQ 8
#define WAIT_MS 2000

static volatile unsigned count, nmi_count;
static volatile word at_rip;
static volatile unsigned order[4], order_count;

static void on_apic(struct trap_frame *f)
{
    count++;
    at_rip = f->rip;
    if (order_count < ARRAY_SIZE(order))
        order[order_count++] = (unsigned)f->vector;
    apic_eoi();
}

static void on_nmi(struct trap_frame *f)
{
    (void)f;
    nmi_count++;
}

static void on_pic_timer(struct trap_frame *f)
{
    (void)f;
    count++;
    pic_eoi(0);
}

static void on_rtc(struct trap_frame *f)
{
    (void)f;
    outb(0x70, 0x0c); /* register C: reading it lets the next one come */
    inb(0x71);
    count++;
    pic_eoi(RTC_IRQ);
}

static void begin(void)
{
    count = nmi_count = order_count = 0;
    pic_init(PIC_BASE);
    apic_enable();
    set_handler(TIMER, on_apic);
    set_handler(SELF, on_apic);
    set_handler(HIGH, on_apic);
}

static void one_shot_timer(void)
{
    begin();
    apic_write(APIC_TIMER_DIVIDE, 0xb); /* by 1 */
    apic_write(APIC_LVT_TIMER, TIMER);
    apic_write(APIC_TIMER_COUNT, 100000);
    sti();
    check(wait_count(&count, 1, WAIT_MS));
    check_eq(apic_read(APIC_TIMER_NOW), 0);
    pit_delay_us(3000);
    check_eq(count, 1);
}

static void periodic_timer(void)
{
    begin();
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, TIMER | LVT_PERIODIC);
    apic_write(APIC_TIMER_COUNT, 500000);
    sti();
    check(wait_count(&count, 5, WAIT_MS));
    apic_write(APIC_TIMER_COUNT, 0); /* stops it */
    pit_delay_us(2000);
    unsigned seen = count;
    pit_delay_us(5000);
    check_eq(count, seen);
}

static void masked_timer_is_silent(void)
{
    begin();
    apic_write(APIC_LVT_TIMER, TIMER | LVT_MASKED);
    apic_write(APIC_TIMER_COUNT, 1000);
    sti();
    pit_delay_us(3000);
    check_eq(count, 0);
}

static void deadline_timer(void)
{
    uint64_t deadline;

    if (!cpu_has(F_TSC_DEADLINE))
        test_skip("no TSC deadline");
    begin();
    apic_write(APIC_LVT_TIMER, TIMER | LVT_DEADLINE);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + tsc_per_ms());
    check(rdmsr(MSR_TSC_DEADLINE) != 0);
    sti();
    check(wait_count(&count, 1, WAIT_MS));
    check_eq(rdmsr(MSR_TSC_DEADLINE), 0);
    wrmsr(MSR_TSC_DEADLINE, 1); /* long past: at once */
    check(wait_count(&count, 2, WAIT_MS));
    do {
        deadline = rdtsc() + tsc_per_ms() * 3;
        wrmsr(MSR_TSC_DEADLINE, deadline);
        wrmsr(MSR_TSC_DEADLINE, 0); /* disarmed, unless the host ran something else for so long */
    } while (rdtsc() >= deadline);
    unsigned seen = count;
    pit_delay_us(8000);
    check_eq(count, seen);
}

static void self_ipi(void)
{
    begin();
    apic_self_ipi(SELF);
    check(apic_irr(SELF));
    check_eq(count, 0); /* IF is clear */
    sti();
    check(wait_count(&count, 1, WAIT_MS));
    check(!apic_irr(SELF) && !apic_isr(SELF));
}

static void higher_vectors_come_first(void)
{
    begin();
    apic_self_ipi(SELF);
    apic_self_ipi(HIGH);
    sti();
    check(wait_count(&count, 2, WAIT_MS));
    check_eq(order[0], HIGH);
    check_eq(order[1], SELF);
}

static void task_priority_holds_back(void)
{
    begin();
    write_cr8(SELF >> 4);
    check_eq(apic_read(APIC_TPR), SELF & 0xf0);
    apic_self_ipi(SELF);
    sti();
    pit_delay_us(1000);
    check_eq(count, 0);
    apic_self_ipi(HIGH);
    check(wait_count(&count, 1, WAIT_MS));
    check_eq(order[0], HIGH);
    write_cr8(0);
    check(wait_count(&count, 2, WAIT_MS));
}

static void nmi_needs_no_if(void)
{
    begin();
    set_handler(EXC_NMI, on_nmi);
    apic_write(APIC_ICR2, 0);
    apic_write(APIC_ICR, ICR_SELF | ICR_NMI | ICR_ASSERT);
    check(wait_count(&nmi_count, 1, WAIT_MS));
    check_eq(nmi_count, 1);
}

static void pit_through_the_8259(void)
{
    begin();
    apic_write(APIC_LVT_LINT0, LVT_EXTINT);
    set_handler(PIC_BASE, on_pic_timer);
    pic_unmask(0);
    pit_periodic(PIT_HZ / 200);
    sti();
    check(wait_count(&count, 5, WAIT_MS));
    pic_mask_all();
    pit_stop();
    pit_delay_us(1000);
    unsigned seen = count;
    pit_delay_us(12000);
    check_eq(count, seen);
}

static void pit_through_the_io_apic(void)
{
    begin();
    ioapic_route(2, TIMER);
    pit_periodic(PIT_HZ / 200);
    sti();
    check(wait_count(&count, 5, WAIT_MS));
    ioapic_route(2, IOAPIC_MASKED);
    pit_stop();
}

static void rtc_alarm_line(void)
{
    begin();
    apic_write(APIC_LVT_LINT0, LVT_EXTINT);
    set_handler(PIC_BASE + RTC_IRQ, on_rtc);
    pic_unmask(RTC_IRQ);
    outb(0x70, 0x0a);
    outb(0x71, 0x26); /* 1024 Hz */
    outb(0x70, 0x0b);
    uint8_t b = inb(0x71);
    outb(0x70, 0x0b);
    outb(0x71, b | 0x40); /* periodic interrupts */
    outb(0x70, 0x0c);
    inb(0x71);
    sti();
    check(wait_count(&count, 5, WAIT_MS));
    outb(0x70, 0x0b);
    outb(0x71, b & 0x8f);
}

static void hlt_wakes_up(void)
{
    begin();
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, TIMER);
    for (unsigned i = 1; i <= 20; i++) {
        apic_write(APIC_TIMER_COUNT, 200000);
        __asm__ volatile("sti; hlt" : : : "memory");
        cli();
        check_eq(count, i);
    }
}

/* SDM vol. 2 STI: the instruction behind STI runs before any interrupt. */
static void sti_shadow(void)
{
    word want, ran = 0;

    begin();
    apic_self_ipi(SELF);
    __asm__ volatile("lea 1f(%%rip), %1\n\tsti\n\tinc %0\n1:\tnop\n\tcli" : "+r"(ran), "=&r"(want) : : "memory");
    check_eq(ran, 1);
    check_eq(count, 1);
    check_eq(at_rip, want);
}

/* The same where the interrupt comes at any time, and the instruction is one that others interrupt. */
static void sti_shadows_strings(void)
{
    uint8_t from = 1, to;

    begin();
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, TIMER | LVT_PERIODIC);
    apic_write(APIC_TIMER_COUNT, 50000);
    while (count < 300) {
        word rep, one = 1, source = (word)&from, target = (word)&to;
        __asm__ volatile("cli\n\tlea 1f(%%rip), %3\n\tsti\n1:\trep movsb" : "+c"(one), "+S"(source), "+D"(target), "=&r"(rep) : : "memory");
        check(at_rip != rep);
    }
    apic_write(APIC_TIMER_COUNT, 0);
    cli();
}

static void sti_cli_lets_nothing_in(void)
{
    begin();
    apic_self_ipi(SELF);
    for (unsigned i = 0; i < 100; i++)
        __asm__ volatile("sti; cli" : : : "memory");
    check_eq(count, 0);
    __asm__ volatile("sti; nop; cli" : : : "memory");
    check_eq(count, 1);
}

static void popf_opens_at_once(void)
{
    begin();
    apic_self_ipi(SELF);
    write_flags(read_flags() | FLAG_IF);
    __asm__ volatile("nop");
    check_eq(count, 1);
    cli();
}

/* A loop that touches nothing must still be interrupted. */
static void tight_loops_are_interrupted(void)
{
    begin();
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, TIMER | LVT_PERIODIC);
    apic_write(APIC_TIMER_COUNT, 300000);
    sti();
    __asm__ volatile("1: cmpl $10, %0\n\tjb 1b" : : "m"(count) : "memory");
    apic_write(APIC_TIMER_COUNT, 0);
    cli();
    check(count >= 10);
}

GUEST_TESTS({"the APIC timer runs once", one_shot_timer}, {"the APIC timer runs periodically", periodic_timer},
            {"a masked timer is silent", masked_timer_is_silent}, {"the TSC deadline timer", deadline_timer},
            {"a self-IPI waits for IF", self_ipi}, {"higher vectors come first", higher_vectors_come_first},
            {"CR8 holds lower vectors back", task_priority_holds_back}, {"an NMI needs no IF", nmi_needs_no_if},
            {"the PIT through the 8259 pair", pit_through_the_8259}, {"the PIT through the I/O APIC", pit_through_the_io_apic},
            {"the RTC's periodic interrupt", rtc_alarm_line}, {"HLT wakes up", hlt_wakes_up}, {"STI has a shadow", sti_shadow},
            {"strings are in it whenever an interrupt comes", sti_shadows_strings}, {"STI CLI lets nothing in", sti_cli_lets_nothing_in},
            {"POPF opens at once", popf_opens_at_once}, {"tight loops are interrupted", tight_loops_are_interrupted});
