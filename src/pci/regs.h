/* Registers of a function's configuration space, header type 0 (PCI 3.0 6.1, 6.2). */
#pragma once

#define PCI_VENDOR_ID 0x00
#define PCI_DEVICE_ID 0x02
#define PCI_COMMAND 0x04
#define PCI_STATUS 0x06
#define PCI_REVISION 0x08
#define PCI_CLASS 0x09 /* 3 bytes: interface, sub-class, base class */
#define PCI_CACHE_LINE_SIZE 0x0c
#define PCI_BAR(n) (0x10 + 4 * (n))
#define PCI_SUBSYSTEM_VENDOR_ID 0x2c
#define PCI_SUBSYSTEM_ID 0x2e
#define PCI_CAPABILITIES 0x34 /* where the first one is */
#define PCI_INTERRUPT_LINE 0x3c
#define PCI_INTERRUPT_PIN 0x3d
#define PCI_HEADER_END 0x40
#define PCI_CONVENTIONAL_END 0x100 /* capabilities lie before it, extended ones behind it */

#define PCI_COMMAND_IO 0x0001
#define PCI_COMMAND_MEMORY 0x0002
#define PCI_COMMAND_MASTER 0x0004
#define PCI_COMMAND_PARITY 0x0040
#define PCI_COMMAND_SERR 0x0100
#define PCI_COMMAND_INTX_DISABLE 0x0400

#define PCI_STATUS_INTERRUPT 0x0008
#define PCI_STATUS_CAPABILITIES 0x0010

#define PCI_BAR_IO_BIT 0x1
#define PCI_BAR_64BIT 0x4
#define PCI_BAR_IO_FLAGS 0x3U
#define PCI_BAR_MEM_FLAGS 0xfU

#define PCI_CAP_ID_MSIX 0x11
