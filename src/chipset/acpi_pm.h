/* ACPI fixed hardware: PM1 event and control blocks, PM timer, power button, soft-off (ACPI 6.4 4.8.3). */
#pragma once

#include <pthread.h>

#include "base/device.h"
#include "base/log.h"
#include "cpu/irq.h"
#include "event/loop.h"
#include "mem/bus.h"

/* What the FADT says: 32-bit timer (TMR_VAL_EXT), no SMI_CMD, FIX_RTC set, PWR_BUTTON clear. */
#define ACPI_PM1_EVENT_PORT 0x600   /* 4 bytes: status, enable */
#define ACPI_PM1_CONTROL_PORT 0x604 /* 2 bytes */
#define ACPI_PM_TIMER_PORT 0x608    /* 4 bytes */
#define ACPI_PM_TIMER_HZ 3579545ULL
#define ACPI_SLP_TYP_S5 5 /* what the DSDT's _S5 package gives */

struct acpi_pm_state {
    uint16_t status; /* without the timer's bit, which is computed */
    uint16_t enable;
    uint16_t control;       /* SCI_EN always set, SLP_EN never */
    uint64_t timer_zero_ns; /* CLOCK_MONOTONIC at which the timer was 0; saved as the time since then */
    uint64_t carries_seen;  /* how often bit 31 had changed when TMR_STS was last cleared */
};

struct acpi_pm {
    struct acpi_pm_state state;

    pthread_mutex_t lock;
    struct bus *bus;
    struct bus_range pm1, pm_timer;
    struct loop_timer carry; /* the next change of bit 31, when TMR_EN is set */
    struct irq_line sci;
    bool sci_level;
    void (*power_off)(void *opaque);
    void *opaque;
    struct log_limit complaints;
};

/* pio: the ports above. sci: level. power_off: the guest went to S5; called with no lock held, on the vCPU's thread. */
int acpi_pm_init(struct acpi_pm *, struct bus *pio, struct loop *, struct irq_line sci, void (*power_off)(void *opaque), void *opaque,
                 struct err *);
void acpi_pm_fini(struct acpi_pm *); /* loop thread, or with no loop running */
void acpi_pm_reset(struct acpi_pm *);

/* Somebody presses the power button: PWRBTN_STS, and the SCI when the guest enabled it. Any thread. */
void acpi_pm_power_button(struct acpi_pm *);
/* The guest listens to the button. Any thread. */
bool acpi_pm_power_button_enabled(struct acpi_pm *);

extern const struct device_ops acpi_pm_device;
