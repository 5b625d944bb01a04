/* Interrupts as devices see them: a line that is raised, whoever listens behind it; and messages that an eventfd sends. */
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

/*
 * Messages that the kernel delivers for an eventfd, so that whoever has the eventfd interrupts the guest, another process or the kernel too.
 * A source is where such a message comes from: it is told what to send, and connected to an eventfd while it may send. Any thread.
 */
struct irqfd_ops {
    int (*add)(void *opaque); /* a source that is not connected, or -errno */
    void (*remove)(void *opaque, int source);
    void (*route)(void *opaque, int source, uint64_t addr, uint32_t data); /* takes effect with the next commit() */
    int (*commit)(void *opaque);                                           /* once for all changes; 0 or -errno */
    /* Each write to the eventfd sends the message; or no longer, and writes stay in it until it is connected again. 0 or -errno. */
    int (*connect)(void *opaque, int source, int fd, bool on);
};
