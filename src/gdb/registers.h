/* The registers that gdb knows of a 64-bit x86 CPU: their numbers and widths, and what they are in struct cpu_state. */
#pragma once

#include "cpu/cpu_state.h"

#define GDB_REGISTER_BYTES 16 /* of the widest */

/* The groups of the state that registers are made of. */
#define GDB_REGISTER_GROUPS (CPU_GPRS | CPU_SREGS | CPU_FPU | CPU_MSRS)

/* Numbers are 0 to this - 1, as in the target description. */
unsigned gdb_register_count(void);

/* Fills bytes, in the guest's byte order. Returns how many, 0 when there is no such register. */
unsigned gdb_register_read(const struct cpu_state *, unsigned number, uint8_t bytes[GDB_REGISTER_BYTES]);

/*
 * Changes the state; *groups gets those that are to be set. -ENOENT: no such register. -EPERM: it can only be looked at (selectors, control
 * registers, EFER), unless the value is what it has. -EINVAL: no CPU can have that value.
 */
int gdb_register_write(struct cpu_state *, unsigned number, const uint8_t bytes[GDB_REGISTER_BYTES], unsigned *groups);

/* The target description, as XML (GDB manual, appendix G). malloc'd, or NULL. */
char *gdb_target_description(void);
