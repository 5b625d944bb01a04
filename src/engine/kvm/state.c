/* The state of a vCPU in and out of KVM, by groups, in the order in which KVM can take it. */
#include "engine/kvm/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm.h"

/* KVM_GET_XSAVE gives 4 KiB in the standard form, which is what struct cpu_state keeps; more components than fit are not offered (cpuid.c). */
_Static_assert(sizeof(struct kvm_xsave) == XSAVE_MAX, "the image is KVM's");

/* --- out of KVM --- */

static int get_gprs(struct kvm_cpu *cpu, struct cpu_state *s)
{
    struct kvm_regs regs;
    int error = kvm_ioctl(cpu->fd, KVM_GET_REGS, &regs);

    if (!error)
        state_from_regs(s, &regs);
    return error;
}

static int get_sregs(struct kvm_cpu *cpu, struct cpu_state *s)
{
    struct kvm_sregs sregs;
    int error = kvm_ioctl(cpu->fd, KVM_GET_SREGS, &sregs);

    if (!error)
        state_from_sregs(s, &sregs);
    return error;
}

static int get_fpu(struct kvm_cpu *cpu, struct cpu_state *s)
{
    struct kvm_xcrs xcrs = {0};
    struct kvm_xsave xsave;
    int error = kvm_ioctl(cpu->fd, KVM_GET_XSAVE, &xsave);

    if (error)
        return error;
    memcpy(s->xsave, &xsave, XSAVE_MAX);
    s->xcr0 = 1; /* x87, where the CPU has no XSAVE */
    if (kvm_ioctl(cpu->fd, KVM_GET_XCRS, &xcrs) == 0 && xcrs.nr_xcrs > 0)
        s->xcr0 = xcrs.xcrs[0].value;
    return 0;
}

static int get_debug(struct kvm_cpu *cpu, struct cpu_state *s)
{
    struct kvm_debugregs debugregs;
    int error = kvm_ioctl(cpu->fd, KVM_GET_DEBUGREGS, &debugregs);

    if (!error)
        state_from_debugregs(s, &debugregs);
    return error;
}

/* mp_state first: asking for it has KVM carry out an INIT or a SIPI that came. */
static int get_events(struct kvm_cpu *cpu, struct cpu_state *s)
{
    struct kvm_mp_state mp;
    struct kvm_vcpu_events events;
    int error = kvm_ioctl(cpu->fd, KVM_GET_MP_STATE, &mp);

    if (!error)
        error = kvm_ioctl(cpu->fd, KVM_GET_VCPU_EVENTS, &events);
    if (error)
        return error;
    state_from_events(s, &events, &mp);
    s->nmi_pending |= atomic_load(&cpu->nmi);
    return 0;
}

static int get_lapic(struct kvm_cpu *cpu, struct cpu_state *s, unsigned groups)
{
    struct kvm_lapic_state lapic;
    int error = kvm_ioctl(cpu->fd, KVM_GET_LAPIC, &lapic);

    if (!error && !(groups & CPU_SREGS)) { /* the mode is in the APIC base */
        struct kvm_sregs sregs;

        error = kvm_ioctl(cpu->fd, KVM_GET_SREGS, &sregs);
        s->apic_base = sregs.apic_base;
    }
    if (error)
        return error;
    state_from_lapic(s, &lapic, cpu->vcpu->apic_id);
    return kvm_deadline_get(cpu, s);
}

int kvm_get_state(struct vcpu *vcpu, struct cpu_state *s, unsigned groups)
{
    struct kvm_cpu *cpu = vcpu->engine_data;
    int error = kvm_settle(cpu);

    if (!error && (groups & CPU_EVENTS))
        error = get_events(cpu, s);
    if (!error && (groups & CPU_GPRS))
        error = get_gprs(cpu, s);
    if (!error && (groups & CPU_SREGS))
        error = get_sregs(cpu, s);
    if (!error && (groups & CPU_FPU))
        error = get_fpu(cpu, s);
    if (!error && (groups & CPU_DEBUG))
        error = get_debug(cpu, s);
    if (!error && (groups & CPU_MSRS))
        error = kvm_msrs_get(cpu, s);
    if (!error && (groups & CPU_LAPIC))
        error = get_lapic(cpu, s, groups);
    return error;
}

/* --- into KVM --- */

static int set_gprs(struct kvm_cpu *cpu, const struct cpu_state *s)
{
    struct kvm_regs regs;

    state_to_regs(s, &regs);
    return kvm_ioctl(cpu->fd, KVM_SET_REGS, &regs);
}

static int set_sregs(struct kvm_cpu *cpu, const struct cpu_state *s)
{
    struct kvm_sregs sregs;

    state_to_sregs(s, &sregs);
    return kvm_ioctl(cpu->fd, KVM_SET_SREGS, &sregs);
}

static int set_fpu(struct kvm_cpu *cpu, const struct cpu_state *s)
{
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = s->xcr0}}};
    struct kvm_xsave xsave;
    int error;

    if (kvm_has(cpu->kvm->fd, KVM_CAP_XCRS)) {
        error = kvm_ioctl(cpu->fd, KVM_SET_XCRS, &xcrs);
        if (error && s->xcr0 != 1)
            return error;
    }
    memcpy(&xsave, s->xsave, XSAVE_MAX);
    return kvm_ioctl(cpu->fd, KVM_SET_XSAVE, &xsave);
}

static int set_debug(struct kvm_cpu *cpu, const struct cpu_state *s)
{
    struct kvm_debugregs debugregs;

    state_to_debugregs(s, &debugregs);
    return kvm_ioctl(cpu->fd, KVM_SET_DEBUGREGS, &debugregs);
}

static int set_events(struct kvm_cpu *cpu, const struct cpu_state *s)
{
    struct kvm_mp_state mp;
    struct kvm_vcpu_events events;
    int error = kvm_ioctl(cpu->fd, KVM_GET_VCPU_EVENTS, &events);

    if (error)
        return error;
    atomic_store(&cpu->nmi, false);
    state_to_events(s, &events, &mp);
    error = kvm_ioctl(cpu->fd, KVM_SET_VCPU_EVENTS, &events);
    return error ? error : kvm_ioctl(cpu->fd, KVM_SET_MP_STATE, &mp);
}

static int set_lapic(struct kvm_cpu *cpu, const struct cpu_state *s)
{
    struct kvm_lapic_state lapic;
    int error;

    state_to_lapic(s, &lapic, cpu->vcpu->apic_id);
    error = kvm_ioctl(cpu->fd, KVM_SET_LAPIC, &lapic);
    return error ? error : kvm_deadline_set(cpu, s);
}

/*
 * The APIC base is among sregs, and the local APIC's registers depend on its mode; the deadline depends on the timer's mode and on the TSC.
 * Events come last: what came before could have queued some.
 */
int kvm_set_state(struct vcpu *vcpu, const struct cpu_state *s, unsigned groups)
{
    struct kvm_cpu *cpu = vcpu->engine_data;
    int error = kvm_settle(cpu);

    if (!error && (groups & CPU_SREGS))
        error = set_sregs(cpu, s);
    if (!error && (groups & CPU_GPRS))
        error = set_gprs(cpu, s);
    if (!error && (groups & CPU_FPU))
        error = set_fpu(cpu, s);
    if (!error && (groups & CPU_MSRS))
        error = kvm_msrs_set(cpu, s);
    if (!error && (groups & CPU_LAPIC))
        error = set_lapic(cpu, s);
    if (!error && (groups & CPU_DEBUG))
        error = set_debug(cpu, s);
    if (!error && (groups & CPU_EVENTS))
        error = set_events(cpu, s);
    return error;
}
