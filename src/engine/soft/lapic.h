/* The local APIC of a vCPU: xAPIC and x2APIC, its timer and inter-processor interrupts (SDM vol. 3 ch. 11). */
#pragma once

#include "engine/soft/soft.h"

#define APIC_BASE_BSP BIT(8)
#define APIC_BASE_X2APIC BIT(10)
#define APIC_BASE_ENABLE BIT(11)
#define APIC_BASE_DEFAULT 0xfee00000ULL

/*
 * What the timer counts at divide-by-1; a guest may learn it from CPUID 0x15 (crystal) or 0x40000010 (EBX,
 * kHz).
 */
#define LAPIC_TIMER_HZ NS_PER_SEC

int lapic_init(struct soft_cpu *, struct err *);
void lapic_fini(struct soft_cpu *); /* with no loop running, or on the loop's thread */

/*
 * Power-up or INIT. LINT0 of the BSP comes up as an unmasked ExtINT, as the firmware of PCs leaves it (and
 * QEMU has it from reset on), because no firmware runs here; every other LVT entry is masked as SDM vol.
 * 3 11.4.7.1 says. APIC_BASE is the caller's.
 */
void lapic_reset(struct soft_cpu *);
void lapic_get_state(struct soft_cpu *, struct cpu_state *);
/* cpu->apic_base comes first. A state whose version register is 0 has no LAPIC in it: that is a reset. */
void lapic_set_state(struct soft_cpu *, const struct cpu_state *);

/* Register page at apic_base, xAPIC mode. vCPU thread. off: bytes in the page. */
uint32_t lapic_mmio_read(struct soft_cpu *, unsigned off);
void lapic_mmio_write(struct soft_cpu *, unsigned off, uint32_t value);

/*
 * x2APIC MSRs, APIC_BASE, TSC_DEADLINE. SOFT_OK, or SOFT_FAULT with #GP(0). Park the vectors themselves where
 * they must.
 */
int lapic_msr_read(struct soft_cpu *, uint32_t msr, uint64_t *value);
int lapic_msr_write(struct soft_cpu *, uint32_t msr, uint64_t value);

uint64_t lapic_cr8(const struct soft_cpu *);
void lapic_set_cr8(struct soft_cpu *, uint64_t value);

/*
 * The vector that would be delivered now (priority above PPR), LAPIC_EXTINT when it is the 8259's turn, whose
 * vector only lapic_take() can ask for, else -1. Ignores IF. No libc.
 */
#define LAPIC_EXTINT 256
int lapic_pending(struct soft_cpu *);
/* Takes it: IRR to ISR, or the INTA cycle for ExtINT. -1 when it went away. */
int lapic_take(struct soft_cpu *);

/*
 * A message-signalled interrupt (SDM vol. 3 10.11). Any thread. 0, -ENOENT when no vCPU accepts it, -EINVAL.
 */
int lapic_msi(struct soft_vm *, uint64_t addr, uint32_t data);
/* The 8259's line changed. Any thread. */
void lapic_extint(struct soft_vm *, bool level);

/*
 * Work that other threads left (INIT, SIPI): called when attention was set. vCPU thread. INIT of the BSP asks for a reset of the
 * machine unless there is memory, that is firmware, at the reset vector.
 */
void lapic_service(struct soft_cpu *);
