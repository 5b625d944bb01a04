/* The complete architectural state of one vCPU, in engine-neutral form. */
#pragma once

#include "x86/regs.h"

#define XSAVE_MAX 4096 /* bytes; standard form of every component that Umbra offers (up to AVX-512) fits */

/* Groups for engine get_state/set_state. */
enum cpu_state_group {
    CPU_GPRS = 1 << 0,   /* gpr, rip, rflags */
    CPU_SREGS = 1 << 1,  /* segments, tables, control registers, EFER, APIC base */
    CPU_FPU = 1 << 2,    /* xsave image, XCR0 */
    CPU_DEBUG = 1 << 3,  /* DR0-3, DR6, DR7 */
    CPU_MSRS = 1 << 4,   /* the named MSRs below, and those beyond them */
    CPU_EVENTS = 1 << 5, /* halted, shadow, NMI, and events on their way */
    CPU_LAPIC = 1 << 6,
    CPU_ALL = (1 << 7) - 1,
};

#define CPU_MSRS_MAX 256

struct cpu_msr {
    uint32_t index;
    uint64_t value;
};

/* An exception that an instruction raised; injected: its delivery has begun. Engines that deliver within run() have none. */
struct cpu_exception {
    bool pending, injected, has_error, has_payload;
    uint8_t vector;
    uint32_t error;
    uint64_t payload; /* what DR6 or CR2 becomes with its delivery */
};

struct cpu_state {
    uint64_t gpr[GPR_COUNT];
    uint64_t rip;
    uint64_t rflags;

    struct cpu_seg seg[SEG_COUNT];
    struct cpu_seg ldtr, tr;
    struct cpu_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;

    uint64_t xcr0;
    uint8_t xsave[XSAVE_MAX] __attribute__((aligned(64)));

    uint64_t dr[4], dr6, dr7;

    uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, spec_ctrl, misc_enable;
    uint64_t tsc_offset, tsc_adjust, tsc_deadline; /* guest TSC = host TSC + tsc_offset */
    uint64_t kvm_system_time, kvm_wall_clock;
    struct cpu_msr msrs[CPU_MSRS_MAX]; /* those that the engine has beyond the named ones; msr_count of them */
    unsigned msr_count;

    bool halted;
    bool wait_for_sipi;
    bool interrupt_shadow; /* after STI or MOV SS */
    bool nmi_pending, nmi_masked;
    bool nmi_injected; /* its delivery has begun */
    struct cpu_exception exception;
    bool interrupt_injected, interrupt_soft; /* the delivery of interrupt_vector has begun; soft: by INT n */
    uint8_t interrupt_vector;

    uint32_t lapic[64]; /* xAPIC registers, one a 16-byte slot (SDM vol. 3 11.4.1) */
};

/* RESET as of SDM vol. 3 table 9-1: real mode at f000:fff0. */
void cpu_state_reset(struct cpu_state *);
/* The same of a processor that is not the boot processor: it waits for its SIPI (SDM vol. 3 9.4). */
void cpu_state_reset_ap(struct cpu_state *);

/* Entry states of the boot protocols; each builds on cpu_state_reset(). Paging and GDT are the caller's, in guest memory. */
void cpu_state_flat32(struct cpu_state *, uint32_t eip); /* protected mode, flat segments, no paging: multiboot, PVH */
void cpu_state_long64(struct cpu_state *, uint64_t rip, gpa_t cr3, gpa_t gdt, uint16_t gdt_limit); /* CS 0x10, DS 0x18 */
