/* Architectural state in and out of the software engine: reset, INIT, get and set by groups. */
#include "engine/soft/state.h"

#include <string.h>

#include "engine/soft/lapic.h"
#include "engine/soft/mmu.h"

void state_get(struct soft_cpu *cpu, struct cpu_state *s, unsigned groups)
{
    if (groups & CPU_GPRS) {
        memcpy(s->gpr, cpu->gpr, sizeof(s->gpr));
        s->rip = cpu->rip;
        s->rflags = cpu->rflags;
    }
    if (groups & CPU_SREGS) {
        memcpy(s->seg, cpu->seg, sizeof(s->seg));
        s->ldtr = cpu->ldtr;
        s->tr = cpu->tr;
        s->gdtr = cpu->gdtr;
        s->idtr = cpu->idtr;
        s->cr0 = cpu->cr0;
        s->cr2 = cpu->cr2;
        s->cr3 = cpu->cr3;
        s->cr4 = cpu->cr4;
        s->cr8 = lapic_cr8(cpu);
        s->efer = cpu->efer;
        s->apic_base = cpu->apic_base;
    }
    if (groups & CPU_FPU) {
        soft_vec_park(cpu);
        s->xcr0 = cpu->xcr0;
        memcpy(s->xsave, cpu->xsave, XSAVE_MAX);
    }
    if (groups & CPU_DEBUG) {
        memcpy(s->dr, cpu->dr, sizeof(s->dr));
        s->dr6 = cpu->dr6;
        s->dr7 = cpu->dr7;
    }
    if (groups & CPU_MSRS) {
        s->star = cpu->star;
        s->lstar = cpu->lstar;
        s->cstar = cpu->cstar;
        s->sfmask = cpu->sfmask;
        s->kernel_gs_base = cpu->kernel_gs_base;
        s->sysenter_cs = cpu->sysenter_cs;
        s->sysenter_esp = cpu->sysenter_esp;
        s->sysenter_eip = cpu->sysenter_eip;
        s->pat = cpu->pat;
        s->tsc_aux = cpu->tsc_aux;
        s->spec_ctrl = cpu->spec_ctrl;
        s->misc_enable = cpu->misc_enable;
        s->tsc_offset = cpu->tsc_offset;
        s->tsc_adjust = cpu->tsc_adjust;
        s->kvm_system_time = cpu->kvm_system_time;
        s->kvm_wall_clock = cpu->kvm_wall_clock;
    }
    if (groups & CPU_EVENTS) {
        s->halted = cpu->halted;
        s->wait_for_sipi = cpu->wait_for_sipi;
        s->interrupt_shadow = cpu->interrupt_shadow;
        s->nmi_pending = atomic_load(&cpu->nmi_pending);
        s->nmi_masked = cpu->nmi_masked;
    }
    if (groups & CPU_LAPIC)
        lapic_get_state(cpu, s);
}

static void set_sregs(struct soft_cpu *cpu, const struct cpu_state *s)
{
    memcpy(cpu->seg, s->seg, sizeof(cpu->seg));
    cpu->ldtr = s->ldtr;
    cpu->tr = s->tr;
    cpu->gdtr = s->gdtr;
    cpu->idtr = s->idtr;
    cpu->cr0 = s->cr0;
    cpu->cr2 = s->cr2;
    cpu->cr3 = s->cr3;
    cpu->cr4 = s->cr4;
    cpu->efer = s->efer;
    __atomic_store_n(&cpu->apic_base, s->apic_base, __ATOMIC_RELAXED); /* who sends interrupts looks at it */
}

static void set_msrs(struct soft_cpu *cpu, const struct cpu_state *s)
{
    cpu->star = s->star;
    cpu->lstar = s->lstar;
    cpu->cstar = s->cstar;
    cpu->sfmask = s->sfmask;
    cpu->kernel_gs_base = s->kernel_gs_base;
    cpu->sysenter_cs = s->sysenter_cs;
    cpu->sysenter_esp = s->sysenter_esp;
    cpu->sysenter_eip = s->sysenter_eip;
    cpu->pat = s->pat;
    cpu->tsc_aux = s->tsc_aux;
    cpu->spec_ctrl = s->spec_ctrl;
    cpu->misc_enable = s->misc_enable;
    cpu->tsc_offset = s->tsc_offset;
    cpu->tsc_adjust = s->tsc_adjust;
    cpu->kvm_system_time = s->kvm_system_time;
    cpu->kvm_wall_clock = s->kvm_wall_clock;
}

void state_set(struct soft_cpu *cpu, const struct cpu_state *s, unsigned groups)
{
    if (groups & CPU_GPRS) {
        memcpy(cpu->gpr, s->gpr, sizeof(cpu->gpr));
        cpu->rip = s->rip;
        cpu->rflags = s->rflags | FLAG_ONE;
    }
    if (groups & CPU_SREGS)
        set_sregs(cpu, s);
    if (groups & CPU_FPU) {
        soft_vec_park(cpu);
        cpu->xcr0 = s->xcr0;
        memcpy(cpu->xsave, s->xsave, XSAVE_MAX);
    }
    if (groups & CPU_DEBUG) {
        memcpy(cpu->dr, s->dr, sizeof(cpu->dr));
        cpu->dr6 = s->dr6;
        cpu->dr7 = s->dr7;
    }
    if (groups & CPU_MSRS)
        set_msrs(cpu, s);
    if (groups & CPU_EVENTS) {
        cpu->halted = s->halted;
        cpu->wait_for_sipi = s->wait_for_sipi;
        cpu->interrupt_shadow = s->interrupt_shadow;
        cpu->mov_ss_shadow = false;
        atomic_store(&cpu->nmi_pending, s->nmi_pending);
        cpu->nmi_masked = s->nmi_masked;
    }
    if (groups & CPU_LAPIC) {
        lapic_set_state(cpu, s);
        if (groups & CPU_SREGS)
            lapic_set_cr8(cpu, s->cr8);
    }
    soft_mode_update(cpu);
    cpu->stats.flushes[FLUSH_STATE]++;
    mmu_flush_all(cpu);
}

void soft_cpu_init_reset(struct soft_cpu *cpu)
{
    struct cpu_state *s = cpu->init_state;

    soft_vec_park(cpu);
    state_get(cpu, s, CPU_ALL); /* INIT keeps the vectors, the TSC, most MSRs and CR0's cache bits (SDM vol. 3 table 9-1) */
    uint64_t cache_bits = s->cr0 & (CR0_CD | CR0_NW);
    uint64_t apic_base = s->apic_base;
    uint64_t xcr0 = s->xcr0;
    static const unsigned kept = CPU_MSRS | CPU_FPU;
    cpu_state_reset(s);
    state_get(cpu, s, kept);
    s->cr0 = (s->cr0 & ~(CR0_CD | CR0_NW)) | cache_bits;
    s->apic_base = apic_base;
    s->xcr0 = xcr0;
    state_set(cpu, s, CPU_GPRS | CPU_SREGS | CPU_DEBUG | CPU_EVENTS);
}
