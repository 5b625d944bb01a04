/* Guest time: the TSC with its offset, its frequency, and the KVM paravirtual clock. */
#pragma once

#include "engine/soft/soft.h"

int tsc_init(struct soft_vm *, struct err *); /* finds tsc_hz; the VM's clock starts here */
uint64_t tsc_host(void);
uint64_t tsc_guest(const struct soft_cpu *);
uint64_t tsc_to_ns(const struct soft_vm *, uint64_t ticks);
/* CLOCK_MONOTONIC ns at which the guest's TSC reaches value (now or earlier: a past time). */
uint64_t tsc_deadline_ns(const struct soft_cpu *, uint64_t value);

/*
 * KVM clock MSRs (Documentation/virt/kvm/x86/msr.rst): write the pvclock structure or the wall clock into
 * guest memory.
 */
int kvmclock_msr_write(struct soft_cpu *, uint32_t msr, uint64_t value);

/*
 * After a write to MSR_TSC or MSR_TSC_ADJUST changed tsc_offset: the deadline timer and the KVM clock follow.
 */
void tsc_changed(struct soft_cpu *);
