/* Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst): zero page, random virtual base, entry state. */
#pragma once

#include <asm/bootparam.h>

#include "boot/elf.h"
#include "cpu/cpu_state.h"

struct boot_job;

/* Whether this is a vmlinux for x86-64: linked at the kernel's window, and it says "Linux version". */
bool linux64_recognize(const struct elf_image *);

/*
 * Loads the kernel and all that it is to find. data: the bytes that elf was parsed from when they may be changed, to give the kernel a
 * random virtual base; NULL = it stays where it was linked. header: as the kernel's file has it. 0 or -errno with a sentence.
 */
int linux64_place(const struct elf_image *, uint8_t *data, const struct setup_header *header, const struct boot_job *,
                  struct cpu_state *bsp, struct err *);
