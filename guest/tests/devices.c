/* The machine's devices as a guest sees them: UART, PM timer, RTC, PIT read-back, i8259 registers, absent ports, reset vectors. */
#include "irq.h"
#include "paging.h"
#include "test.h"

#define COM1 0x3f8

static volatile unsigned uart_interrupts;

static void on_uart(struct trap_frame *f)
{
    (void)f;
    uart_interrupts++;
    (void)inb(COM1 + 2); /* IIR: takes a THR-empty interrupt back */
    pic_eoi(4);
}

/* Scratch, divisor latch, FIFO bits, loopback with its modem lines. */
static void uart_registers(void)
{
    outb(COM1 + 7, 0xa5);
    check_eq(inb(COM1 + 7), 0xa5);
    outb(COM1 + 7, 0x5a);
    check_eq(inb(COM1 + 7), 0x5a);
    uint8_t lcr = inb(COM1 + 3);
    outb(COM1 + 3, lcr | 0x80);
    uint8_t divisor = inb(COM1);
    outb(COM1 + 1, 0x12);
    check_eq(inb(COM1 + 1), 0x12);
    outb(COM1 + 1, 0);
    check_eq(inb(COM1), divisor);
    outb(COM1 + 3, lcr);
    check_eq(inb(COM1 + 3), lcr);
    check_eq(inb(COM1 + 2) & 0xc0, 0xc0); /* FIFOs are on */
    check_eq(inb(COM1 + 5) & 0x60, 0x60); /* all sent */
}

static void uart_loopback(void)
{
    uint8_t mcr = inb(COM1 + 4);

    outb(COM1 + 4, 0x10 | 0x0f); /* loop; DTR RTS OUT1 OUT2 come back as DSR CTS RI DCD */
    check_eq(inb(COM1 + 6) & 0xf0, 0xf0);
    for (unsigned i = 0; i < 8; i++)
        outb(COM1, (uint8_t)('a' + i));
    for (unsigned i = 0; i < 8; i++) {
        for (unsigned spins = 0; !(inb(COM1 + 5) & 1) && spins < 1000000; spins++)
            pause_cpu();
        check_eq(inb(COM1), 'a' + i);
    }
    check_eq(inb(COM1 + 5) & 1, 0);
    outb(COM1 + 4, 0x10);
    check_eq(inb(COM1 + 6) & 0xf0, 0);
    outb(COM1 + 4, mcr);
}

static void uart_interrupt(void)
{
    uart_interrupts = 0;
    pic_init(0x20);
    apic_enable();
    apic_write(APIC_LVT_LINT0, LVT_EXTINT);
    set_handler(0x24, on_uart);
    pic_unmask(4);
    outb(COM1 + 4, 0x08); /* OUT2 lets the line through */
    outb(COM1 + 1, 2);    /* THR empty: at once */
    sti();
    check(wait_count(&uart_interrupts, 1, 5000));
    outb(COM1 + 1, 0);
    cli();
    pic_mask_all();
    apic_disable_lvts();
}

/* The ACPI PM timer at 0x608 counts 3.579545 MHz in 24 or 32 bits. */
static void pm_timer(void)
{
    uint32_t first = inl(0x608), last = first;

    if (first == 0xffffffff && inl(0x608) == first)
        test_skip("no PM timer at 0x608");
    pit_delay_us(20000);
    last = inl(0x608);
    check(((last - first) & 0xffffff) > 3579 * 20 / 4);
}

static uint8_t cmos(uint8_t reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

static unsigned number(uint8_t v)
{
    return cmos(0xb) & 4 ? v : (v >> 4) * 10u + (v & 15);
}

static void real_time_clock(void)
{
    while (cmos(0xa) & 0x80)
        pause_cpu();
    check(number(cmos(0)) < 60);
    check(number(cmos(2)) < 60);
    check(number(cmos(7)) >= 1 && number(cmos(7)) <= 31);
    check(number(cmos(8)) >= 1 && number(cmos(8)) <= 12);
    unsigned year = number(cmos(9));
    check(year < 100);
    check(cmos(0xd) & 0x80); /* the battery is good */
    /* Seconds move; a time-out is far above one. */
    uint8_t second = cmos(0);
    for (unsigned i = 0; i < 100 && cmos(0) == second; i++)
        pit_delay_us(50000);
    check(cmos(0) != second);
    outb(0x70, 0x50); /* free bytes are memory */
    uint8_t old = inb(0x71);
    outb(0x71, 0x3c);
    check_eq(cmos(0x50), 0x3c);
    outb(0x71, old);
}

static void pit_counts_down(void)
{
    pit_periodic(0xffff);
    outb(0x43, 0xc2); /* read-back of channel 0: status and count */
    uint8_t status = inb(0x40);
    check_eq(status & 0x3f, 0x34); /* both bytes, mode 2, binary */
    unsigned a = inb(0x40);
    a |= (unsigned)inb(0x40) << 8;
    outb(0x43, 0); /* latch */
    unsigned b = inb(0x40);
    b |= (unsigned)inb(0x40) << 8;
    check(a != 0 && b != 0);
    pit_delay_us(2000);
    outb(0x43, 0);
    unsigned c = inb(0x40);
    c |= (unsigned)inb(0x40) << 8;
    check(c != b);
    pit_stop();
}

static void pic_registers(void)
{
    pic_init(0x20);
    outb(0x21, 0x5a);
    check_eq(inb(0x21), 0x5a);
    outb(0xa1, 0xa5);
    check_eq(inb(0xa1), 0xa5);
    pic_mask_all();
    outb(0x20, 0x0a); /* IRR */
    pit_oneshot(100);
    for (unsigned i = 0; i < 5000 && !(inb(0x20) & 1); i++)
        pit_delay_us(1000);
    check_eq(inb(0x20) & 1, 1); /* a masked request is seen all the same */
    outb(0x20, 0x0b);           /* ISR */
    check_eq(inb(0x20), 0);
    pit_stop();
}

static void ioapic_registers(void)
{
    check_eq(ioapic_read(1) >> 16 & 0xff, 23);
    ioapic_write(0, 0x05000000);
    check_eq(ioapic_read(0), 0x05000000);
    ioapic_route(9, 0x1234000000000000 | IOAPIC_MASKED | IOAPIC_LEVEL | IOAPIC_LOW | 0x77);
    check_eq(ioapic_read(0x10 + 18), IOAPIC_MASKED | IOAPIC_LEVEL | IOAPIC_LOW | 0x77);
    check_eq(ioapic_read(0x11 + 18) >> 24, 0x12);
    ioapic_route(9, IOAPIC_MASKED);
    ioapic_write(0, 0);
}

static void absent_ports_read_ones(void)
{
    check_eq(inb(0x2f8), 0xff);
    check_eq(inb(0x3e8), 0xff);
    check_eq(inl(0x1234), 0xffffffff);
    outb(0x1234, 5);
    outl(0x1234, 5);
}

/* String I/O: OUTS to the scratch register, INS back. */
static void string_ports(void)
{
    static uint8_t from[4] = {1, 2, 3, 4}, to[4];
    const uint8_t *source = from;
    uint8_t *target = to;
    word n = 4;

    __asm__ volatile("rep outsb" : "+S"(source), "+c"(n) : "d"(COM1 + 7) : "memory");
    check_eq(n, 0);
    check_eq((word)(source - from), 4);
    n = 4;
    __asm__ volatile("rep insb" : "+D"(target), "+c"(n) : "d"(COM1 + 7) : "memory");
    check_eq(n, 0);
    for (unsigned i = 0; i < 4; i++)
        check_eq(to[i], 4); /* the last one written */
    /* INS into a page that is not there moves nothing on. */
    uint8_t *edge = map_edge(TEST_HIGH) + PAGE_SIZE - 2;
    target = edge;
    TRY("rep insb", : "+D"(target) : "d"(COM1 + 7), "c"(4) : "memory");
    check_pf(PF_W, TEST_HIGH + PAGE_SIZE);
    check_eq(fault.reg[1], 2);
    check_eq(fault.reg[7], TEST_HIGH + PAGE_SIZE);
    check_eq(edge[1], 4);
}

GUEST_TESTS({"the UART's registers", uart_registers}, {"the UART's loopback", uart_loopback}, {"the UART's interrupt", uart_interrupt},
            {"the PM timer", pm_timer}, {"the real-time clock", real_time_clock}, {"the PIT counts down", pit_counts_down},
            {"the 8259's registers", pic_registers}, {"the I/O APIC's registers", ioapic_registers},
            {"absent ports read as ones", absent_ports_read_ones}, {"string I/O", string_ports});
