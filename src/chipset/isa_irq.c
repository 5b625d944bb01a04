/* The ISA interrupt lines to both interrupt controllers. */
#include "chipset/isa_irq.h"

#include "base/bug.h"
#include "chipset/i8259.h"
#include "chipset/ioapic.h"

void isa_irq_init(struct isa_irq *isa, struct i8259 *pic, struct ioapic *ioapic)
{
    *isa = (struct isa_irq){.pic = pic, .ioapic = ioapic};
}

static void set_line(void *opaque, unsigned irq, bool level)
{
    struct isa_irq *isa = opaque;

    i8259_set_line(isa->pic, irq, level);
    ioapic_set_line(isa->ioapic, irq == 0 ? ISA_IRQ0_GSI : irq, level);
}

struct irq_line isa_irq_line(struct isa_irq *isa, unsigned irq)
{
    BUG_ON(irq >= ISA_IRQS || irq == 2);
    return (struct irq_line){set_line, isa, irq};
}
