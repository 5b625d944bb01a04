/* Inside boot: an opened image, and what each boot protocol does with it. */
#pragma once

#include "boot/boot.h"
#include "boot/bzimage.h"
#include "boot/elf.h"
#include "boot/file.h"
#include "boot/multiboot.h"

/* One boot. Everything is borrowed. */
struct boot_job {
    const struct boot_machine *machine;
    const char *cmdline;            /* never NULL */
    const struct boot_file *initrd; /* NULL = none */
    gpa_t rsdp;
};

struct boot_image {
    struct boot_file kernel, initrd;
    bool has_initrd;
    const struct boot_protocol *protocol;
    struct bzimage bzimage; /* of a bzImage only */
    struct elf_image elf;   /* of everything else; a multiboot image with addresses of its own is made to look like one */
    struct multiboot_header multiboot;
};

struct boot_protocol {
    const char *name;
    /* Fills guest memory but for the ACPI tables, and *bsp. */
    int (*place)(const struct boot_image *, const struct boot_job *, struct cpu_state *bsp, struct err *);
};

extern const struct boot_protocol bzimage_protocol, vmlinux_protocol, pvh_protocol, multiboot_protocol;

/* The initrd above floor with its last byte at or below last; *at and *len are 0 when there is none. */
int boot_place_initrd(const struct boot_job *, gpa_t floor, gpa_t last, gpa_t *at, uint64_t *len, struct err *);
