/* Interrupt hardware: the 8259 pair, the 8254, the I/O APIC, the local APIC. */
#pragma once

#include "cpu.h"

/* --- 8259 --- */
void pic_init(uint8_t base_vector); /* 16 vectors; all masked */
void pic_unmask(unsigned irq);
void pic_mask_all(void);
void pic_eoi(unsigned irq);

/* --- 8254 --- */
#define PIT_HZ 1193182u
void pit_oneshot(uint16_t count);  /* channel 0, mode 0 */
void pit_periodic(uint16_t count); /* channel 0, mode 2 */
void pit_stop(void);
/* Busy for that long, by channel 2. */
void pit_delay_us(unsigned us);

/* --- I/O APIC --- */
uint32_t ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, uint32_t v);
void ioapic_route(unsigned pin, uint64_t entry);
#define IOAPIC_MASKED BIT(16)
#define IOAPIC_LEVEL BIT(15)
#define IOAPIC_LOW BIT(13)

/* --- local APIC --- */
#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_TPR 0x80
#define APIC_PPR 0xa0
#define APIC_EOI 0xb0
#define APIC_LDR 0xd0
#define APIC_DFR 0xe0
#define APIC_SVR 0xf0
#define APIC_ISR 0x100
#define APIC_TMR 0x180
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR2 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_LVT_ERROR 0x370
#define APIC_TIMER_COUNT 0x380
#define APIC_TIMER_NOW 0x390
#define APIC_TIMER_DIVIDE 0x3e0

#define LVT_MASKED 0x10000u
#define LVT_PERIODIC 0x20000u
#define LVT_DEADLINE 0x40000u
#define LVT_EXTINT 0x700u
#define LVT_NMI 0x400u
#define ICR_SELF 0x40000u
#define ICR_NMI 0x400u
#define ICR_ASSERT 0x4000u

uint32_t apic_read(unsigned reg);
void apic_write(unsigned reg, uint32_t v);
static inline void apic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}
void apic_enable(void); /* software-enabled, TPR 0, spurious vector 0xff, all LVTs masked */
void apic_disable_lvts(void);
bool apic_irr(uint8_t vector);
bool apic_isr(uint8_t vector);
void apic_self_ipi(uint8_t vector);

/* Waits until *count reaches want, at most about that many milliseconds. Interrupts must be open. */
bool wait_count(const volatile unsigned *count, unsigned want, unsigned ms);
uint64_t tsc_per_ms(void); /* measured against the PIT; the shortest of some measurements */
