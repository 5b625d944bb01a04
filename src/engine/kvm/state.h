/* Between struct cpu_state and KVM's structs: pure conversions, a pair for each. */
#pragma once

#include <linux/kvm.h>

#include "cpu/cpu_state.h"

void state_from_regs(struct cpu_state *, const struct kvm_regs *);
void state_to_regs(const struct cpu_state *, struct kvm_regs *);
void state_from_sregs(struct cpu_state *, const struct kvm_sregs *);
void state_to_sregs(const struct cpu_state *, struct kvm_sregs *);
void state_from_debugregs(struct cpu_state *, const struct kvm_debugregs *);
void state_to_debugregs(const struct cpu_state *, struct kvm_debugregs *);
/* Events of a vCPU and its mp_state. What KVM does not tell stays as it is in the structs. */
void state_from_events(struct cpu_state *, const struct kvm_vcpu_events *, const struct kvm_mp_state *);
void state_to_events(const struct cpu_state *, struct kvm_vcpu_events *, struct kvm_mp_state *);
/* The local APIC of the CPU with this id; the boot processor's is 0. A state whose version register is 0 has none in it: it becomes that of a reset. */
void state_from_lapic(struct cpu_state *, const struct kvm_lapic_state *, uint32_t apic_id);
void state_to_lapic(const struct cpu_state *, struct kvm_lapic_state *, uint32_t apic_id);
