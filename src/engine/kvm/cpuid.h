/* The CPUID table of KVM's guests: what KVM offers, without what Umbra does not, and with the machine's topology. */
#pragma once

#include <linux/kvm.h>

#include "base/err.h"
#include "x86/topology.h"

/* What KVM_GET_SUPPORTED_CPUID says, on the heap. host: of /dev/kvm. 0 or -errno with a sentence. */
int cpuid_read(int host, struct kvm_cpuid2 **, struct err *);

/*
 * Makes a guest's table of it: the hypervisor's leaves, the deadline timer, room for the topology; no nested virtualization, no performance
 * counters, no state components beyond what struct cpu_state holds. The table may move; it stays the caller's. 0 or -ENOMEM.
 */
int cpuid_adapt(struct kvm_cpuid2 **, bool deadline_timer, struct err *);

/* Makes it the table of the CPU with this APIC id. */
void cpuid_place(struct kvm_cpuid2 *, const struct x86_topology *, uint32_t apic_id);

/* NULL: the table has no such leaf. index is looked at only where the leaf has several. */
struct kvm_cpuid_entry2 *cpuid_find(struct kvm_cpuid2 *, uint32_t function, uint32_t index);
