/* The keyboard controller without a keyboard: reset, A20, and answers that end a probe at once. */
#pragma once

#include <pthread.h>

#include "base/device.h"
#include "cpu/irq.h"
#include "mem/bus.h"

struct i8042_state {
    uint8_t config; /* the command byte */
    uint8_t output_port;
    uint8_t ram[32]; /* bytes 1-31; byte 0 is config */
    uint8_t command; /* the command whose data byte comes next; 0 = none */
    uint8_t data;    /* output buffer */
    uint8_t full;    /* OBF */
    uint8_t from_aux;
    uint8_t timeout;          /* status bit 6: the device did not answer */
    uint8_t last_was_command; /* status bit 3 */
};

struct i8042 {
    struct i8042_state state;

    pthread_mutex_t lock;
    struct bus *bus;
    struct bus_range data_port, command_port;
    struct irq_line keyboard_irq, aux_irq;
    void (*reset)(void *opaque);
    void *opaque;
};

/* pio: 0x60, 0x64. reset: the guest pulls the processor's reset line; called with no lock held, on the vCPU's thread. */
int i8042_init(struct i8042 *, struct bus *pio, struct irq_line keyboard_irq, struct irq_line aux_irq, void (*reset)(void *opaque),
               void *opaque, struct err *);
void i8042_fini(struct i8042 *);
void i8042_reset(struct i8042 *);

extern const struct device_ops i8042_device;
