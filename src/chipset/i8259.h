/* The 8259A pair: ISA interrupts as ExtINT to the boot processor, with the edge/level registers of a PCI chipset. */
#pragma once

#include <pthread.h>

#include "base/device.h"
#include "mem/bus.h"

struct i8259_chip {
    uint8_t lines; /* the IR inputs as they stand */
    uint8_t irr;   /* requests: latched edges, or levels that stand */
    uint8_t imr;   /* OCW1 */
    uint8_t isr;
    uint8_t elcr;      /* 1 = level-triggered */
    uint8_t icw1;      /* bit 0: ICW4 comes, 1: single, 3: all inputs are level-triggered */
    uint8_t icw2;      /* vector base */
    uint8_t icw4;      /* bit 1: automatic EOI, 4: special fully nested */
    uint8_t init_step; /* the ICW that comes next: 2, 3, 4; 0 = none */
    uint8_t ready;     /* the sequence of ICWs was finished; before it no interrupt leaves the chip */
    uint8_t lowest;    /* the input of lowest priority: 7 unless rotated */
    uint8_t rotate_aeoi;
    uint8_t special_mask;
    uint8_t read_isr; /* OCW3: what a read of the even port gives */
    uint8_t poll;     /* OCW3: the next read is a poll */
};

struct i8259_state {
    struct i8259_chip chip[2]; /* master, slave */
};

struct i8259 {
    struct i8259_state state;

    pthread_mutex_t lock;
    struct bus *bus;
    struct bus_range ports[2], elcr;
    void (*intr)(void *opaque, bool level);
    void *opaque;
    bool intr_level;
};

/*
 * pio: 0x20, 0xa0, 0x4d0. intr: the INTR output, called on changes only, under this device's lock: it must not come back in here
 * (see isa_irq.h for the order of locks).
 */
int i8259_init(struct i8259 *, struct bus *pio, void (*intr)(void *opaque, bool level), void *opaque, struct err *);
void i8259_fini(struct i8259 *);
void i8259_reset(struct i8259 *);

/* IR input 0-15 as a level; edges are found in here. Any thread. */
void i8259_set_line(struct i8259 *, unsigned irq, bool level);

/*
 * The INTA cycle: the vector; a spurious one (input 7) when the request was withdrawn after the processor saw INTR; -1 from a pair that was
 * never initialized. Any thread.
 */
int i8259_ack(struct i8259 *);

extern const struct device_ops i8259_device;
