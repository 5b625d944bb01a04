/* The machine: a VM with its PC devices, built from a configuration, run to its end and taken apart. */
#pragma once

#include "boot/boot.h"
#include "chipset/acpi_pm.h"
#include "chipset/cmos.h"
#include "chipset/debug_exit.h"
#include "chipset/fw_cfg.h"
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
#include "pci/pci.h"
#include "virtio/console.h"
#include "virtio/transport_pci.h"

/* Who is at the other end of the guest's consoles. */
struct machine_consoles {
    struct uart16550_host serial;
    struct virtio_console_host virtio; /* when the configuration has one */
};

/* A virtio device in its PCI slot. */
struct machine_virtio {
    struct virtio_pci *pci;
    struct stats_reporter reporter;
};

/* What is reset, drained, saved and loaded. */
struct machine_device {
    const struct device_ops *ops;
    void *dev;
};
#define MACHINE_DEVICES_MAX 48

/* Who runs the guest. */
struct engine_choice {
    const struct engine *engine;
    struct engine_caps caps;
    char note[320]; /* why auto did not take the KVM that this host has, or "" */
};

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
    struct fw_cfg fw_cfg;
    uint8_t *fw_cfg_data[CONFIG_FW_CFG_MAX]; /* what is in its files; owned */
    struct pci_host pci;
    struct machine_virtio virtio[PCI_SLOTS];
    unsigned virtio_count;
    struct virtio_device *virtio_console; /* NULL: the configuration has none. For the host's end, on the loop's thread */

    struct machine_device devices[MACHINE_DEVICES_MAX]; /* in the order in which they were built; they are reset in the other */
    unsigned device_count;

    struct engine_choice engine;
    struct boot_image *image;
    struct machine_consoles consoles;
    struct panic_watch serial_panic, virtio_panic;
};

/* What --engine means on this host; auto takes KVM only where hardware assists it. The engine may be unusable: caps.why says why. */
void machine_choose_engine(enum config_engine, struct engine_choice *);

/*
 * machine_init() makes the loop (machine->vm.loop), machine_init_devices() builds everything else and places the kernel; both are called
 * on the thread that will run the loop. What the configuration points to is borrowed for the machine's life; the consoles are first called
 * when the machine runs. 0 or -errno with a sentence; after a failure only machine_fini() may follow.
 */
int machine_init(struct machine *, const struct config *, struct err *);
int machine_init_devices(struct machine *, const struct machine_consoles *, struct err *);
void machine_fini(struct machine *);

/*
 * Lets the vCPUs run and serves the loop until the VM ends; resets are carried out in here. The calling thread becomes the loop's.
 * vm.end then tells how it ended. 0, or -errno with a sentence when the host could not go on.
 */
int machine_run(struct machine *, struct err *);

/* --- for the machine's parts --- */

/* One more device. */
void machine_add_device(struct machine *, const struct device_ops *, void *dev);

/* The virtio devices of the configuration, on m->pci (machine/virtio.c). 0 or -errno, with nothing left behind. */
int machine_virtio_init(struct machine *, struct err *);
void machine_virtio_fini(struct machine *);

/* The firmware configuration device with its files (machine/fw_cfg.c). 0 or -errno, with nothing left behind. */
int machine_fw_cfg_init(struct machine *, struct err *);
void machine_fw_cfg_fini(struct machine *);

/* What its console devices call (machine/consoles.c): m->consoles, with a look for a panic. */
struct uart16550_host machine_serial_host(struct machine *);
struct virtio_console_host machine_virtio_host(struct machine *);

/* umbra's exit status for the way in which the VM ended. */
int machine_exit_status(const struct machine *);
