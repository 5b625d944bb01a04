/* The I/O APIC: 24 inputs to message-signalled interrupts, version 0x20 (with the EOI register). */
#pragma once

#include <pthread.h>

#include "base/device.h"
#include "base/log.h"
#include "mem/bus.h"

#define IOAPIC_GPA 0xfec00000ULL
#define IOAPIC_PINS 24

struct ioapic_state {
    uint64_t redirection[IOAPIC_PINS]; /* as the guest reads them: remote IRR included, delivery status always idle */
    uint32_t lines;                    /* inputs that are asserted */
    uint8_t id;
    uint8_t select;
};

struct ioapic_message {
    uint64_t addr;
    uint32_t data;
};

struct ioapic {
    struct ioapic_state state;

    pthread_mutex_t lock;
    struct bus *bus;
    struct bus_range range;
    int (*msi)(void *opaque, uint64_t addr, uint32_t data);
    void (*level)(void *opaque, unsigned pin, uint64_t addr, uint32_t data); /* ioapic_watch_levels() */
    struct ioapic_message told[IOAPIC_PINS];                                 /* what it was last told */
    void *opaque;
    struct log_limit complaints;
};

/*
 * mmio: IOAPIC_GPA, 4 KiB. msi: delivers a message in the format of SDM vol. 3 10.11 (level-triggered ones carry bits 15:14 = 11); 0, or
 * -errno when nobody took it. Called under this device's lock; it must not come back in here.
 */
int ioapic_init(struct ioapic *, struct bus *mmio, int (*msi)(void *opaque, uint64_t addr, uint32_t data), void *opaque, struct err *);
void ioapic_fini(struct ioapic *);

/*
 * level is called with ioapic_init()'s opaque for each input that becomes level-triggered, with the message that it sends, for each change of
 * it, and with data 0 when it is no longer level-triggered: for who has to know which vectors are to be ended by ioapic_eoi(). Masked ones
 * too, for one in service may be masked. Under this device's lock. To be called before a guest runs.
 */
void ioapic_watch_levels(struct ioapic *, void (*level)(void *opaque, unsigned pin, uint64_t addr, uint32_t data));

void ioapic_reset(struct ioapic *);

/* Asserts or deasserts input 0-23 (logical level: the polarity bit changes nothing). Any thread. */
void ioapic_set_line(struct ioapic *, unsigned pin, bool level);

/* A local APIC ended a level-triggered vector: clears remote IRR, and sends again where the input still stands. Any thread. */
void ioapic_eoi(struct ioapic *, uint8_t vector);

extern const struct device_ops ioapic_device;
