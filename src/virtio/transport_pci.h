/* virtio over PCI: the modern interface with MSI-X or INTx (virtio 1.2 4.1). */
#pragma once

#include "pci/msix.h"
#include "pci/pci.h"
#include "virtio/virtio.h"

struct virtio_pci;

/* Makes a PCI function of dev (which it then owns) and attaches it. slot as in pci_attach(). NULL with a sentence: dev is freed. */
struct virtio_pci *virtio_pci_new(struct pci_host *, struct virtio_device *dev, unsigned slot, struct err *);
void virtio_pci_free(struct virtio_pci *); /* detaches, and frees the device; the vCPUs stand */

struct virtio_device *virtio_pci_device(struct virtio_pci *);

/* dev is a struct virtio_pci: transport, function and device as one. */
extern const struct device_ops virtio_pci_device_ops;
