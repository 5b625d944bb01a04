/* The ISA interrupt lines: each goes to the 8259 pair and to the I/O APIC, where IRQ 0 is input 2. */
#pragma once

#include "cpu/irq.h"

/*
 * The order of locks, for all of src/chipset: a device's own lock -> (i8259 or ioapic) -> local APIC. A device may thus raise its line with
 * its lock held; nothing behind a line may call back to a device. The ways back, i8259_ack() and ioapic_eoi(), are called with no
 * local APIC's lock held.
 */
struct i8259;
struct ioapic;

#define ISA_IRQS 16
#define ISA_IRQ0_GSI 2

struct isa_irq {
    struct i8259 *pic;
    struct ioapic *ioapic;
};

void isa_irq_init(struct isa_irq *, struct i8259 *, struct ioapic *);

/* The line of ISA IRQ 0-15, but not 2 (the cascade). isa_irq must outlive it. */
struct irq_line isa_irq_line(struct isa_irq *, unsigned irq);
