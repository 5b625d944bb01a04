/* PCI functions: configuration space, BARs that move, INTx; and the host bridge that they hang on. */
#pragma once

#include <pthread.h>

#include "base/device.h"
#include "base/err.h"
#include "cpu/irq.h"
#include "mem/bus.h"

#define PCI_SLOTS 32 /* on bus 0, one function each; slot 0 is the host bridge */
#define PCI_CONFIG_BYTES 4096
#define PCI_BARS 6
#define PCI_INTX_LINES 4

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 /* takes the next one as well */ };

struct pci_host;
struct pci_device;
struct trace;

struct pci_ids {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* base class << 16 | sub-class << 8 | interface */
    uint8_t revision;
};

/* Any may be NULL. Called on a vCPU's thread, with no lock of the host's held. */
struct pci_device_ops {
    void (*config_read)(void *opaque, unsigned off, unsigned size);    /* before the bytes are read: they may be refreshed */
    void (*config_written)(void *opaque, unsigned off, unsigned size); /* after the bytes were written under the write mask */
};

struct pci_device_state {
    uint8_t config[PCI_CONFIG_BYTES]; /* as the guest reads it */
    uint8_t intx;                     /* the line's level, before Interrupt Disable */
};

struct pci_bar {
    enum pci_bar_kind kind;
    uint64_t size; /* a power of two */
    struct bus_range range;
    const struct bus_doorbell *doorbells; /* in it; NULL: none */
    unsigned doorbell_count;
    uint64_t home; /* the address after reset */
    bool mapped;   /* on the bus now: decoding is on, the address is in a window, and nobody else is there */
};

struct pci_device {
    struct pci_device_state state;

    const char *name;
    uint8_t writable[PCI_CONFIG_BYTES]; /* the bits that the guest may change */
    uint8_t reset_config[PCI_CONFIG_BYTES];
    struct pci_bar bars[PCI_BARS];
    unsigned next_capability; /* where the next one goes */
    unsigned last_capability; /* whose next pointer is to be set */
    const struct pci_device_ops *ops;
    void *opaque;
    struct pci_host *host; /* NULL: not attached */
    unsigned slot;
    bool asserted; /* it holds its line now */
};

/*
 * Setting up a function, in this order, before pci_attach(): all of it on one thread.
 * A BAR's ops are called on vCPU threads while it is mapped; off counts from its start.
 */
void pci_device_init(struct pci_device *, const char *name, const struct pci_ids *, const struct pci_device_ops *, void *opaque);
void pci_add_bar(struct pci_device *, unsigned index, enum pci_bar_kind, uint64_t size, const struct bus_ops *, void *opaque);
/* Addresses in the BAR that are doorbells (mem/bus.h); the array is borrowed for the function's life. */
void pci_set_doorbells(struct pci_device *, unsigned index, const struct bus_doorbell *, unsigned count);
/* body: what follows the id and the next pointer, len bytes; read-only until pci_set_writable(). Returns the capability's offset. */
unsigned pci_add_capability(struct pci_device *, uint8_t id, const void *body, unsigned len);
/* From here on the guest may write these bits (PCI 3.0 6.2). */
void pci_set_writable(struct pci_device *, unsigned off, const void *mask, unsigned len);

/*
 * slot: 1-31, or 0 for the first free one. 0, -ENOSPC or -EEXIST with a sentence. What configuration space holds now, it holds after every
 * reset, with the state that firmware leaves: BARs have addresses (all memory below 4 GiB where it fits), their decoding is on, Bus Master
 * is off. The function and its name must outlive its stay; pci_detach() while no vCPU runs.
 */
int pci_attach(struct pci_host *, struct pci_device *, unsigned slot, struct err *);
void pci_detach(struct pci_device *);

/* The function's INTA, level-triggered. Any thread; a device may hold its own lock. */
void pci_set_intx(struct pci_device *, bool level);

/*
 * Little-endian values in configuration space; size 1 to 4. Any thread, a device's lock may be held. What a device changes after
 * pci_attach() must be bits that the guest may write too, or they are not loaded.
 */
uint32_t pci_config_get(const struct pci_device *, unsigned off, unsigned size);
void pci_config_put(struct pci_device *, unsigned off, unsigned size, uint32_t value);

/*
 * What an attached function's own file uses for its device_ops: back to what pci_attach() made, with BARs where they were then and INTx down;
 * its section of the saved state. No hook is called.
 */
void pci_device_reset(struct pci_device *);
int pci_device_save(struct pci_device *, struct state_writer *);
int pci_device_load(struct pci_device *, struct state_reader *, struct err *);

/* --- the host bridge --- */

/* Where things lie in the guest's address spaces; the machine takes them from boot/layout.h. */
struct pci_windows {
    uint64_t ecam, ecam_size;
    uint64_t mem32, mem32_size;
    uint64_t mem64, mem64_size;
    uint64_t io, io_size;
};

struct reset_ctl;

struct pci_host_state {
    uint32_t address; /* 0xcf8 */
};

struct pci_host {
    struct pci_host_state state;

    pthread_mutex_t lock; /* guards every function's configuration space and which BARs are mapped */
    struct bus *pio, *mmio;
    struct pci_windows windows;
    struct bus_range config_ports, ecam;
    struct irq_line intx[PCI_INTX_LINES]; /* slot s, INTA -> line s % 4 */
    unsigned asserted[PCI_INTX_LINES];    /* functions that hold each line */
    struct pci_device *slots[PCI_SLOTS];
    struct pci_device bridge; /* slot 0 */
    int (*msi)(void *opaque, uint64_t addr, uint32_t data);
    void *msi_opaque;
    struct trace *trace;
    const struct irqfd_ops *irqfds;
    void *irqfd_opaque;
    uint8_t (*reset_read)(struct reset_ctl *); /* the byte at 0xcf9 belongs to the reset control register */
    void (*reset_write)(struct reset_ctl *, uint8_t value);
    struct reset_ctl *reset_ctl;
};

struct pci_host_options {
    struct bus *pio, *mmio;
    struct pci_windows windows;
    struct irq_line intx[PCI_INTX_LINES];
    int (*msi)(void *opaque, uint64_t addr, uint32_t data); /* any thread; as ioapic_init()'s */
    void *msi_opaque;
    struct trace *trace;            /* of the messages; may be NULL */
    const struct irqfd_ops *irqfds; /* a second way for messages; NULL: there is none */
    void *irqfd_opaque;
    uint8_t (*reset_read)(struct reset_ctl *);
    void (*reset_write)(struct reset_ctl *, uint8_t value);
    struct reset_ctl *reset_ctl;
};

int pci_host_init(struct pci_host *, const struct pci_host_options *, struct err *);
void pci_host_fini(struct pci_host *); /* every device is detached before */

extern const struct device_ops pci_host_device;
