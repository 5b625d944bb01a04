/* Interrupts within interrupts: priority, EOI, NMI masking, shadows, level triggering, REP, and HLT by NMI. */
#include "irq.h"
#include "paging.h"
#include "test.h"

#define LOW 0x41
#define HIGH 0x91

static volatile unsigned low, high, nmis, depth, deepest, order[8], orders;

static void note(unsigned v)
{
    if (orders < ARRAY_SIZE(order))
        order[orders++] = v;
}

static void on_low(struct trap_frame *f)
{
    (void)f;
    low++;
    note(LOW);
    apic_eoi();
}

static void on_high(struct trap_frame *f)
{
    (void)f;
    high++;
    note(HIGH);
    apic_eoi();
}

static void begin(void)
{
    low = high = nmis = depth = deepest = orders = 0;
    apic_enable();
    set_handler(LOW, on_low);
    set_handler(HIGH, on_high);
}

/* A handler that opens interrupts: only a higher priority class gets in before its EOI. */
static void on_low_nested(struct trap_frame *f)
{
    (void)f;
    low++;
    check(apic_isr(LOW));
    check_eq(apic_read(APIC_PPR) & 0xf0, LOW & 0xf0);
    apic_self_ipi(LOW + 1); /* the same class: waits */
    apic_self_ipi(HIGH);    /* a higher one */
    sti();
    for (unsigned i = 0; i < 1000 && !high; i++)
        pause_cpu();
    cli();
    check_eq(high, 1);
    check(apic_irr(LOW + 1));
    note(LOW);
    apic_eoi();
}

static void on_same_class(struct trap_frame *f)
{
    (void)f;
    note(LOW + 1);
    apic_eoi();
}

static void only_a_higher_class_nests(void)
{
    begin();
    set_handler(LOW, on_low_nested);
    set_handler(LOW + 1, on_same_class);
    apic_self_ipi(LOW);
    sti();
    for (unsigned i = 0; i < 1000; i++)
        pause_cpu();
    cli();
    check_eq(orders, 3);
    check_eq(order[0], HIGH);
    check_eq(order[1], LOW);
    check_eq(order[2], LOW + 1);
    check_eq(apic_read(APIC_PPR), 0);
}

static void one_request_is_kept_while_one_is_served(void)
{
    begin();
    for (unsigned i = 0; i < 5; i++)
        apic_self_ipi(LOW);
    sti();
    for (unsigned i = 0; i < 1000; i++)
        pause_cpu();
    cli();
    check_eq(low, 1); /* the same vector twice is one */
}

static void mov_ss_shadow(void)
{
    begin();
    apic_self_ipi(LOW);
    /* STI's shadow covers MOV SS, whose own covers the CLI. */
    for (unsigned i = 0; i < 50; i++) {
        __asm__ volatile("sti; mov %0, %%ss; cli" : : "r"(SEL_KDATA) : "memory");
        check(low <= 1);
    }
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
    check_eq(low, 1);
}

static void on_nmi(struct trap_frame *f)
{
    (void)f;
    nmis++;
    depth++;
    deepest = depth > deepest ? depth : deepest;
    if (nmis == 1) { /* another one must wait for IRET */
        apic_write(APIC_ICR, ICR_SELF | ICR_ASSERT | ICR_NMI);
        for (unsigned i = 0; i < 1000; i++)
            pause_cpu();
        check_eq(nmis, 1);
    }
    depth--;
}

static void nmis_do_not_nest(void)
{
    begin();
    set_handler(EXC_NMI, on_nmi);
    apic_write(APIC_ICR, ICR_SELF | ICR_ASSERT | ICR_NMI);
    for (unsigned i = 0; i < 1000 && nmis < 2; i++)
        pause_cpu();
    check_eq(nmis, 2);
    check_eq(deepest, 1);
}

/* IRET of any kind opens NMIs again: here that of an INT3 within the handler. */
static void on_nmi_with_exception(struct trap_frame *f)
{
    (void)f;
    nmis++;
    if (nmis > 1)
        return;
    apic_write(APIC_ICR, ICR_SELF | ICR_ASSERT | ICR_NMI);
    __asm__ volatile("int3");
    for (unsigned i = 0; i < 1000 && nmis < 2; i++)
        pause_cpu();
    check_eq(nmis, 2);
}

static void on_breakpoint(struct trap_frame *f)
{
    (void)f;
    note(EXC_BP);
}

static void any_iret_opens_nmis(void)
{
    begin();
    set_handler(EXC_NMI, on_nmi_with_exception);
    set_handler(EXC_BP, on_breakpoint);
    apic_write(APIC_ICR, ICR_SELF | ICR_ASSERT | ICR_NMI);
    for (unsigned i = 0; i < 1000 && nmis < 2; i++)
        pause_cpu();
    check_eq(nmis, 2);
    check_eq(orders, 1);
}

static void on_pit_nmi(struct trap_frame *f)
{
    (void)f;
    nmis++;
}

/* LINT0 as NMI, from the 8259's output: HLT with IF clear ends by it. */
static void nmi_ends_hlt(void)
{
    begin();
    set_handler(EXC_NMI, on_pit_nmi);
    pic_init(0x20);
    pic_unmask(0);
    apic_write(APIC_LVT_LINT0, LVT_NMI);
    pit_oneshot(20000);
    cli();
    while (!nmis)
        __asm__ volatile("hlt");
    check_eq(nmis, 1);
    pic_mask_all();
    pit_stop();
    apic_disable_lvts();
}

static volatile word rep_rip, rep_count;

static void on_tick_in_rep(struct trap_frame *f)
{
    low++;
    rep_rip = f->rip;
    rep_count = f->reg[1];
    apic_eoi();
}

/* A long REP must not hold an interrupt back; its registers say how far it is. */
static void rep_is_interrupted(void)
{
    static uint8_t *const to = (uint8_t *)0x8000000;
    word at = 0;
    bool in_the_middle = false;

    begin();
    set_handler(LOW, on_tick_in_rep);
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, LOW | LVT_PERIODIC);
    apic_write(APIC_TIMER_COUNT, 100000);
    for (unsigned i = 0; i < 2000 && !(in_the_middle && i >= 3); i++) {
        word n = 0x4000000, target = (word)to;
        rep_rip = 0;
        __asm__ volatile("lea 1f(%%rip), %2; sti; nop\n1: rep stosb\n\tcli" : "+c"(n), "+D"(target), "=&r"(at) : "a"(i) : "memory");
        check_eq(n, 0);
        check_eq(target, (word)to + 0x4000000);
        check_eq(to[0x3ffffff], (uint8_t)i);
        in_the_middle |= rep_rip == at && rep_count < 0x4000000;
    }
    apic_disable_lvts();
    check(in_the_middle);
}

static void on_level(struct trap_frame *f)
{
    (void)f;
    low++;
    if (low >= 3)
        ioapic_route(2, IOAPIC_MASKED);
    apic_eoi();
}

/* A level-triggered pin whose line stays up comes again after each EOI. */
static void level_triggered_pin(void)
{
    begin();
    set_handler(LOW, on_level);
    pit_stop();
    ioapic_route(2, LOW | IOAPIC_LEVEL);
    pit_oneshot(100); /* mode 0: OUT stays high when it is through */
    sti();
    bool came = wait_count(&low, 3, 10000);
    cli();
    ioapic_route(2, IOAPIC_MASKED);
    pit_stop();
    check(came);
}

static void task_priority_and_ppr(void)
{
    begin();
    apic_write(APIC_TPR, 0x90);
    apic_self_ipi(HIGH);
    apic_self_ipi(0xa1);
    check_eq(apic_read(APIC_PPR), 0x90);
    check_eq(read_cr8(), 9);
    set_handler(0xa1, on_low);
    sti();
    for (unsigned i = 0; i < 1000; i++)
        pause_cpu();
    check_eq(low, 1);
    check_eq(high, 0);
    write_cr8(8); /* opens at once */
    __asm__ volatile("nop");
    check_eq(high, 1);
    cli();
    check_eq(apic_read(APIC_TPR), 0x80);
    write_cr8(0);
    TRY("mov %0, %%cr8", : : "r"(16UL) : "memory");
    check_fault_but_qemu(EXC_GP, 0, "reserved bits of CR8 are not checked");
}

static void spurious_when_disabled(void)
{
    begin();
    apic_self_ipi(LOW);
    apic_write(APIC_SVR, 0xff); /* software-disabled: LVTs are masked, what is in IRR stays */
    check_eq(apic_read(APIC_LVT_TIMER) & LVT_MASKED, LVT_MASKED);
    apic_write(APIC_LVT_TIMER, LOW);
    check_but_qemu(apic_read(APIC_LVT_TIMER) & LVT_MASKED, "LVTs can be unmasked while disabled");
    apic_write(APIC_SVR, 0x1ff);
    sti();
    __asm__ volatile("nop");
    cli();
    check_eq(low, 1);
}

static void illegal_vectors_are_errors(void)
{
    begin();
    apic_write(APIC_ESR, 0);
    apic_write(APIC_ESR, 0);
    apic_self_ipi(5);
    apic_write(APIC_ESR, 0);
    check_but_qemu(apic_read(APIC_ESR) & 0x60, "illegal vectors are no errors"); /* send or receive illegal vector */
    apic_write(APIC_ESR, 0);
    check_eq(apic_read(APIC_ESR), 0);
}

GUEST_TESTS({"only a higher class nests", only_a_higher_class_nests}, {"a vector is pending once", one_request_is_kept_while_one_is_served},
            {"MOV SS has a shadow", mov_ss_shadow}, {"NMIs do not nest", nmis_do_not_nest}, {"any IRET opens NMIs", any_iret_opens_nmis},
            {"an NMI ends HLT", nmi_ends_hlt}, {"REP is interrupted", rep_is_interrupted},
            {"a level-triggered pin comes again", level_triggered_pin}, {"TPR, PPR and CR8", task_priority_and_ppr},
            {"a disabled APIC", spurious_when_disabled}, {"illegal vectors", illegal_vectors_are_errors});
