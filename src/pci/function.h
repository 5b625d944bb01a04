/* What the files of this folder share: a function's configuration accesses, and where its BARs lie. */
#pragma once

#include "pci/pci.h"

/* A guest's access within one dword: size 1, 2 or 4. The device's hooks are called, with no lock held. */
uint32_t pci_function_read(struct pci_device *, unsigned off, unsigned size);
void pci_function_write(struct pci_device *, unsigned off, unsigned size, uint32_t value);

/* The bytes alone. The host's lock is held, or the function is not attached. */
uint32_t pci_bytes_get(const struct pci_device *, unsigned off, unsigned size);
void pci_bytes_put(struct pci_device *, unsigned off, unsigned size, uint32_t value);

/* As pci_attach(), for slot 0 too. */
int pci_attach_at(struct pci_host *, struct pci_device *, unsigned slot, struct err *);

/*
 * Gives every BAR of the function, which is in its slot, an address in the host's windows where no other function's has its own: the first
 * that fits, a page apart at least; below 4 GiB where there is room. Writes it to configuration space. -ENOSPC with a sentence. Lock held.
 */
int pci_bars_assign(struct pci_device *, struct err *);

/* Puts on the buses what the command registers and addresses of all functions say, and takes off the rest. Lock held. */
void pci_bars_update(struct pci_host *);
