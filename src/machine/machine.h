/* The machine: a VM with its PC devices, built from a configuration, run to its end and taken apart. */
#pragma once

#include "boot/boot.h"
#include "chipset/acpi_pm.h"
#include "chipset/cmos.h"
#include "chipset/debug_exit.h"
#include "chipset/i8042.h"
#include "chipset/i8254.h"
#include "chipset/i8259.h"
#include "chipset/ioapic.h"
#include "chipset/isa_irq.h"
#include "chipset/port92.h"
#include "chipset/reset_ctl.h"
#include "chipset/uart16550.h"
#include "cpu/vcpu.h"
#include "machine/panic_watch.h"

struct machine {
    struct vm vm;
    unsigned built; /* parts of the list in machine.c that are up */

    struct i8259 pic;
    struct ioapic ioapic;
    struct isa_irq isa;
    struct i8254 pit;
    struct cmos cmos;
    struct uart16550 uart;
    struct i8042 i8042;
    struct port92 port92;
    struct reset_ctl reset_ctl;
    struct acpi_pm acpi_pm;
    struct debug_exit debug_exit;

    struct boot_image *image;
    struct uart16550_host console; /* who is at the other end of the serial line */
    struct panic_watch panic;
};

/*
 * machine_init() makes the loop (machine->vm.loop), machine_init_devices() builds everything else and places the kernel; both are called
 * on the thread that will run the loop. The configuration's strings are borrowed for the machine's life; the console is first called when
 * the machine runs. 0 or -errno with a sentence; after a failure only machine_fini() may follow.
 */
int machine_init(struct machine *, const struct config *, struct err *);
int machine_init_devices(struct machine *, const struct uart16550_host *console, struct err *);
void machine_fini(struct machine *);

/*
 * Lets the vCPUs run and serves the loop until the VM ends; resets are carried out in here. The calling thread becomes the loop's.
 * vm.end then tells how it ended. 0, or -errno with a sentence when the host could not go on.
 */
int machine_run(struct machine *, struct err *);

/* umbra's exit status for the way in which the VM ended. */
int machine_exit_status(const struct machine *);
