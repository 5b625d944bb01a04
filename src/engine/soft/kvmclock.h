/* The KVM paravirtual clock of a vCPU (Linux Documentation/virt/kvm/x86/msr.rst). */
#pragma once

#include "engine/soft/tsc.h"

/* Writes the vCPU's clock structure again, where the guest has one. Vectors parked. */
void kvmclock_update(struct soft_cpu *);

/* The same, and says in it that the guest was stopped: its watchdogs start anew. */
void kvmclock_stopped(struct soft_cpu *);
