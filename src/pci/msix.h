/* MSI-X: the vector table and the pending bits of one function (PCI 3.0 6.8.2). */
#pragma once

#include <pthread.h>

#include "base/log.h"
#include "base/state.h"
#include "pci/pci.h"

#define MSIX_MAX 256
#define MSIX_NO_VECTOR 0xffff

struct msix_state {
    uint32_t table[MSIX_MAX * 4]; /* address low and high, data, vector control */
    uint64_t pending[MSIX_MAX / 64];
};

/* A vector's second way to the guest, from its first use on: an eventfd that is connected while the vector may send. */
struct msix_irqfd {
    bool made, failed; /* failed: not tried again before a reset */
    bool connected;
    int fd, source;
    uint64_t addr; /* what source sends */
    uint32_t data;
};

struct msix {
    struct msix_state state;

    pthread_mutex_t lock;
    struct pci_device *dev;
    unsigned vectors, capability;
    struct msix_irqfd irqfd[MSIX_MAX];
    unsigned irqfd_count;           /* those made */
    const struct irqfd_ops *irqfds; /* the host's, kept for after pci_detach() */
    void *irqfd_opaque;
    struct log_limit complaints;
};

/*
 * Adds the capability to dev. The table and the PBA lie in the function's BAR bar at these offsets (multiples of 8); whoever has the BAR
 * forwards accesses to them. vectors: 1 to MSIX_MAX.
 */
void msix_init(struct msix *, struct pci_device *dev, unsigned vectors, unsigned bar, uint32_t table_off, uint32_t pba_off);
void msix_fini(struct msix *);
void msix_reset(struct msix *);

/* off: bytes from the table's or the PBA's start, below 16 * vectors or 8 * ((vectors + 63) / 64). vCPU threads. */
uint64_t msix_table_read(struct msix *, uint64_t off, unsigned size);
void msix_table_write(struct msix *, uint64_t off, unsigned size, uint64_t value);
uint64_t msix_pba_read(struct msix *, uint64_t off, unsigned size);

/* The device calls it from its config_written hook, for every write: enabling, unmasking and Bus Master send what is pending. */
void msix_config_written(struct msix *, unsigned off, unsigned size);

bool msix_enabled(struct msix *);

/*
 * True: the message went by an irqfd. Sends vector's message, or makes it pending while it is masked or Bus Master is off in the command register (PCI 3.0 6.2.2). Nothing for a
 * vector out of range or while disabled. Any thread; a device may hold its own lock.
 */
bool msix_notify(struct msix *, unsigned vector);

/* Loading comes after pci_device_load(); nothing is sent. */
int msix_save(struct msix *, struct state_writer *);
int msix_load(struct msix *, struct state_reader *, struct err *);
