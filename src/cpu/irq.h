/* An interrupt line: what a device raises, whoever listens behind it. */
#pragma once

#include "base/types.h"

struct irq_line {
    void (*set)(void *opaque, unsigned line, bool level); /* any thread */
    void *opaque;
    unsigned line;
};

static inline void irq_set(const struct irq_line *irq, bool level)
{
    if (irq->set)
        irq->set(irq->opaque, irq->line, level);
}

/* An edge: up and down again. */
static inline void irq_pulse(const struct irq_line *irq)
{
    irq_set(irq, true);
    irq_set(irq, false);
}
