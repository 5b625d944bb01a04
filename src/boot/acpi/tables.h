/* ACPI tables in guest memory: RSDP, XSDT, FADT, FACS, MADT, DSDT and what devices add. */
#pragma once

#include "base/err.h"
#include "mem/mem.h"

#define ACPI_AREA_GPA 0xe0000ULL /* the RSDP stands here, where an OS without a boot protocol looks for it */
#define ACPI_AREA_END 0x100000ULL

#define ACPI_CPUS_MAX 64

/* A table that a device contributes. The header is made here; body is what follows it (AML for an SSDT). */
struct acpi_extra {
    char signature[5]; /* "SSDT", "HPET" ... */
    uint8_t revision;
    const void *body;
    size_t len;
};

struct acpi_machine {
    unsigned cpus;                  /* 1 to ACPI_CPUS_MAX */
    uint8_t apic_id[ACPI_CPUS_MAX]; /* of each; the boot processor first */
    bool pci;                       /* a PCI host bridge with ECAM: adds MCFG and the SSDT of the root bridge */
    const struct acpi_extra *extra;
    unsigned extra_count;
};

/* Writes all tables; *rsdp becomes the address of the RSDP. 0 or -ENOSPC with a sentence. */
int acpi_write_tables(struct mem *, const struct acpi_machine *, gpa_t *rsdp, struct err *);
