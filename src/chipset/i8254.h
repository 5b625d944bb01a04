/* The 8254 interval timer and port 0x61: system tick, speaker channel, refresh toggle. */
#pragma once

#include <pthread.h>

#include "base/device.h"
#include "cpu/irq.h"
#include "event/loop.h"
#include "mem/bus.h"

#define I8254_HZ 1193182ULL

struct i8254_channel {
    uint64_t start_ns;    /* CLOCK_MONOTONIC when the count was loaded or the gate rose; saved as the time since then */
    uint64_t paused_ns;   /* time counted before the gate stopped it (modes 0, 2, 3, 4 with the gate low) */
    uint32_t reload;      /* 1-65536, as a binary number; 0 = never loaded */
    uint32_t next_reload; /* mode 2, 3: takes over at the end of the period; 0 = none */
    uint8_t mode;         /* 0-5 */
    uint8_t bcd;
    uint8_t access;       /* 1 = low byte, 2 = high byte, 3 = low then high */
    uint8_t gate;
    uint8_t counting;     /* loaded (and triggered, for modes 1 and 5), not stopped by the gate */
    uint8_t write_high;   /* access 3: the high byte comes next */
    uint8_t write_low;    /* access 3: the low byte that waits */
    uint8_t read_high;
    uint8_t latched;      /* bytes of the latched count that wait to be read */
    uint8_t status_latched;
    uint8_t status;
    uint16_t latch;
    uint64_t ticks_raised; /* channel 0: the periods whose interrupt was raised */
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
    struct loop_timer timer; /* the next edge of OUT0 */
    struct irq_line irq;
    bool irq_level;
};

/* pio: 0x40-0x43, 0x61. irq: OUT of channel 0, as a level. */
int i8254_init(struct i8254 *, struct bus *pio, struct loop *, struct irq_line irq, struct err *);
void i8254_fini(struct i8254 *); /* loop thread, or with no loop running */
void i8254_reset(struct i8254 *);

extern const struct device_ops i8254_device;
