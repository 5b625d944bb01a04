/* Where boot data stands in guest memory: all of it below 1 MiB, kernels at 1 MiB and above. */
#pragma once

#include "base/types.h"

#define BOOT_GDT_GPA 0x1000ULL
#define BOOT_ZERO_PAGE_GPA 0x2000ULL  /* struct boot_params */
#define BOOT_SETUP_DATA_GPA 0x3000ULL /* the random seed */
#define BOOT_INFO_GPA 0x4000ULL       /* hvm_start_info or multiboot information, with what they point to */
#define BOOT_INFO_END 0x8000ULL
#define BOOT_PAGE_TABLES_GPA 0x8000ULL /* PML4, PDPT, four page directories */
#define BOOT_STACK_TOP 0x10000ULL
#define BOOT_CMDLINE_GPA 0x20000ULL
#define BOOT_CMDLINE_MAX 0x10000ULL /* bytes, with the NUL */

#define BOOT_EBDA_GPA 0x9fc00ULL /* conventional memory ends here */
#define BOOT_KERNEL_MIN_GPA 0x100000ULL

/* The PCI configuration window, which no RAM and no BAR may use (MCFG, e820 and the DSDT's PNP0C02 device say so). */
#define BOOT_ECAM_GPA 0xe0000000ULL
#define BOOT_ECAM_SIZE 0x10000000ULL

/* Where the root bridge lets BARs lie (acpi/pci.asl). The upper one is within the 39 physical bits that the smallest hosts have. */
#define BOOT_PCI32_GPA 0xc0000000ULL
#define BOOT_PCI32_SIZE 0x20000000ULL
#define BOOT_PCI64_GPA 0x4000000000ULL
#define BOOT_PCI64_SIZE 0x2000000000ULL
#define BOOT_PCI_IO_PORT 0x1000ULL
#define BOOT_PCI_IO_SIZE 0xf000ULL

/* INTA of slot s is I/O APIC input BOOT_PCI_GSI + s % 4 (the _PRT in acpi/pci.asl). */
#define BOOT_PCI_GSI 16
