/* The MC146818 real-time clock with its battery-backed bytes. */
#pragma once

#include <pthread.h>

#include "base/device.h"
#include "cpu/irq.h"
#include "event/loop.h"
#include "mem/bus.h"

#define CMOS_BYTES 128

struct cmos_state {
    uint8_t index;
    uint8_t reg[CMOS_BYTES]; /* alarm, control and memory bytes; time and date only while the clock is halted */
    int64_t offset_ns;       /* guest's clock (UTC, ns since 1970) = CLOCK_REALTIME + offset_ns */
    int64_t second_seen;     /* the guest's second up to which updates and alarms were looked for */
    uint64_t tick_seen_ns;   /* CLOCK_MONOTONIC up to which periodic ticks were looked for; saved as the time since then */
};

struct cmos {
    struct cmos_state state;

    pthread_mutex_t lock;
    struct bus *bus;
    struct bus_range range;
    struct loop_timer timer;
    struct irq_line irq;
    bool irq_level;
};

/* pio: 0x70, 0x71. irq: ISA IRQ 8. memory_low, memory_high: bytes of RAM below and above 4 GiB, for the bytes in which BIOSes tell them. */
int cmos_init(struct cmos *, struct bus *pio, struct loop *, struct irq_line irq, uint64_t memory_low, uint64_t memory_high, struct err *);
void cmos_fini(struct cmos *); /* loop thread, or with no loop running */
/* The chip has a battery: date, alarm and memory bytes stay; interrupts are switched off. */
void cmos_reset(struct cmos *);

extern const struct device_ops cmos_device;
