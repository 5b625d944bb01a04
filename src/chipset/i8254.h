/* The 8254 interval timer and port 0x61: system tick, speaker channel, refresh toggle. */
#pragma once

#include <pthread.h>

#include "base/device.h"
#include "cpu/irq.h"
#include "event/loop.h"
#include "mem/bus.h"

#define I8254_HZ 1193182ULL

/* All times are in ticks of I8254_HZ since CLOCK_MONOTONIC's zero. */
struct i8254_channel {
    uint64_t start;       /* when the count was loaded: now - start ticks were counted. Saved as that difference */
    uint64_t paused;      /* gate low: the ticks that were counted before */
    uint32_t reload;      /* 1-65536; 0 = never loaded */
    uint32_t next_reload; /* takes over at the end of the period (modes 2, 3) or at the next trigger (1, 5); 0 = none */
    uint32_t backlog;     /* channel 0: interrupts that are due and not raised yet */
    uint8_t fired;        /* modes 0, 4: the terminal count was reached and told */
    uint8_t mode;         /* 0-5 */
    uint8_t bcd;
    uint8_t access; /* 1 = low byte, 2 = high byte, 3 = low then high */
    uint8_t gate;
    uint8_t counting;   /* loaded, and in modes 1 and 5 triggered */
    uint8_t write_high; /* access 3: the high byte comes next */
    uint8_t write_low;  /* ... and this low byte waits for it */
    uint8_t read_high;  /* access 3: the next read gives the high byte */
    uint8_t count_latched;
    uint16_t latch;
    uint8_t status_latched;
    uint8_t status;
};

struct i8254_state {
    struct i8254_channel channel[3];
    uint8_t port61; /* bits 0-3 as written: gate of channel 2, speaker data, parity and channel check enables */
};

struct i8254 {
    struct i8254_state state;

    pthread_mutex_t lock;
    struct bus *bus;
    struct bus_range ports, port61;
    struct loop_timer timer; /* the next interrupt of channel 0 */
    struct irq_line irq;
    bool irq_level;
    uint64_t earliest_ns; /* no interrupt before this: see BACKLOG_MAX */
};

/* pio: 0x40-0x43, 0x61. irq: OUT of channel 0, as a level. */
int i8254_init(struct i8254 *, struct bus *pio, struct loop *, struct irq_line irq, struct err *);
void i8254_fini(struct i8254 *); /* loop thread, or with no loop running */
void i8254_reset(struct i8254 *);

extern const struct device_ops i8254_device;
