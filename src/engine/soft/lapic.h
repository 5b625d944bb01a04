/* The local APIC of a vCPU: xAPIC and x2APIC, timer (one-shot, periodic, TSC-deadline), IPIs (SDM vol. 3 ch. 11). */
#pragma once

#include "engine/soft/soft.h"

int lapic_init(struct soft_cpu *, struct err *);
void lapic_fini(struct soft_cpu *);
void lapic_reset(struct soft_cpu *);
void lapic_get_state(struct soft_cpu *, struct cpu_state *);
void lapic_set_state(struct soft_cpu *, const struct cpu_state *);

/* Register page at apic_base, xAPIC mode. vCPU thread. off: bytes in the page. */
uint32_t lapic_mmio_read(struct soft_cpu *, unsigned off);
void lapic_mmio_write(struct soft_cpu *, unsigned off, uint32_t value);

/* x2APIC MSRs, APIC_BASE, TSC_DEADLINE. SOFT_OK, or SOFT_FAULT with #GP(0). */
int lapic_msr_read(struct soft_cpu *, uint32_t msr, uint64_t *value);
int lapic_msr_write(struct soft_cpu *, uint32_t msr, uint64_t value);

uint64_t lapic_cr8(const struct soft_cpu *);
void lapic_set_cr8(struct soft_cpu *, uint64_t value);

/* The vector that would be delivered now (priority above PPR; or ExtINT, after lapic_take() asked the 8259), else -1. Ignores IF. */
int lapic_pending(struct soft_cpu *);
/* Takes it: IRR to ISR, or the INTA cycle for ExtINT. -1 when it went away. */
int lapic_take(struct soft_cpu *);

/* A message-signalled interrupt (SDM vol. 3 10.11). Any thread. */
int lapic_msi(struct soft_vm *, uint64_t addr, uint32_t data);
/* The 8259's line changed. Any thread. */
void lapic_extint(struct soft_vm *, bool level);

/* Work that other threads left (INIT, SIPI): called when attention was set. vCPU thread. */
void lapic_service(struct soft_cpu *);
