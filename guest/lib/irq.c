/* Interrupt hardware: the 8259 pair, the 8254, the I/O APIC, the local APIC in xAPIC mode. */
#include "irq.h"
#include "test.h"

#define IOAPIC_BASE 0xfec00000u
#define APIC_BASE 0xfee00000u

void pic_init(uint8_t base_vector)
{
    outb(0x20, 0x11); /* ICW1: edge, cascade, ICW4 follows */
    outb(0xa0, 0x11);
    outb(0x21, base_vector);
    outb(0xa1, (uint8_t)(base_vector + 8));
    outb(0x21, 4); /* slave at IR2 */
    outb(0xa1, 2);
    outb(0x21, 1); /* 8086 mode, normal EOI */
    outb(0xa1, 1);
    pic_mask_all();
}

void pic_mask_all(void)
{
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

void pic_unmask(unsigned irq)
{
    if (irq >= 8) {
        outb(0xa1, (uint8_t)(inb(0xa1) & ~(1u << (irq - 8))));
        irq = 2;
    }
    outb(0x21, (uint8_t)(inb(0x21) & ~(1u << irq)));
}

void pic_eoi(unsigned irq)
{
    if (irq >= 8)
        outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

static void pit_load(uint8_t command, uint16_t port, uint16_t count)
{
    outb(0x43, command);
    outb(port, (uint8_t)count);
    outb(port, (uint8_t)(count >> 8));
}

void pit_oneshot(uint16_t count)
{
    pit_load(0x30, 0x40, count);
}

void pit_periodic(uint16_t count)
{
    pit_load(0x34, 0x40, count);
}

/* Mode 0 without a count: OUT is low and stays so. */
void pit_stop(void)
{
    outb(0x43, 0x30);
}

void pit_delay_us(unsigned us)
{
    while (us) {
        unsigned now = us > 50000 ? 50000 : us;
        outb(0x61, (uint8_t)((inb(0x61) & ~3u) | 1)); /* gate of channel 2 on, speaker off */
        pit_load(0xb0, 0x42, (uint16_t)(now * 1193 / 1000 + 1));
        while (!(inb(0x61) & 0x20))
            pause_cpu();
        us -= now;
    }
}

uint32_t ioapic_read(unsigned reg)
{
    *(volatile uint32_t *)(word)IOAPIC_BASE = reg;
    return *(volatile uint32_t *)(word)(IOAPIC_BASE + 0x10);
}

void ioapic_write(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(word)IOAPIC_BASE = reg;
    *(volatile uint32_t *)(word)(IOAPIC_BASE + 0x10) = v;
}

void ioapic_route(unsigned pin, uint64_t entry)
{
    ioapic_write(0x10 + 2 * pin, (uint32_t)IOAPIC_MASKED);
    ioapic_write(0x11 + 2 * pin, (uint32_t)(entry >> 32));
    ioapic_write(0x10 + 2 * pin, (uint32_t)entry);
}

uint32_t apic_read(unsigned reg)
{
    return *(volatile uint32_t *)(word)(APIC_BASE + reg);
}

void apic_write(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(word)(APIC_BASE + reg) = v;
}

void apic_disable_lvts(void)
{
    apic_write(APIC_TIMER_COUNT, 0);
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
    apic_write(APIC_LVT_LINT0, LVT_MASKED);
    apic_write(APIC_LVT_LINT1, LVT_MASKED);
    apic_write(APIC_LVT_ERROR, LVT_MASKED);
}

void apic_enable(void)
{
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_TPR, 0);
    apic_disable_lvts();
}

bool apic_irr(uint8_t vector)
{
    return apic_read(APIC_IRR + (vector >> 5) * 0x10u) >> (vector & 31) & 1;
}

bool apic_isr(uint8_t vector)
{
    return apic_read(APIC_ISR + (vector >> 5) * 0x10u) >> (vector & 31) & 1;
}

void apic_self_ipi(uint8_t vector)
{
    apic_write(APIC_ICR, ICR_SELF | ICR_ASSERT | vector);
}

uint64_t tsc_per_ms(void)
{
    static uint64_t measured;

    if (measured)
        return measured;
    /* A busy host holds a measurement up, and never makes it too short. */
    for (unsigned i = 0; i < 20; i++) {
        uint64_t start = rdtsc();
        pit_delay_us(500);
        uint64_t once = (uint32_t)(rdtsc() - start) * 2;
        if (!measured || once < measured)
            measured = once;
    }
    return measured;
}

bool wait_count(const volatile unsigned *count, unsigned want, unsigned ms)
{
    uint64_t end = rdtsc() + tsc_per_ms() * ms;

    while (*count < want)
        if (rdtsc() > end)
            return false;
    return true;
}
