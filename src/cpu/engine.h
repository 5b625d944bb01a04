/* The engine seam: who runs guest instructions. */
#pragma once

#include "base/err.h"
#include "cpu/cpu_state.h"
#include "mem/mem.h"

struct vm;
struct vcpu;
struct stats_out;

enum vm_exit_reason {
    VM_EXIT_PIO,
    VM_EXIT_MMIO,
    VM_EXIT_HLT,
    VM_EXIT_MSR,
    VM_EXIT_HYPERCALL,
    VM_EXIT_SHUTDOWN, /* triple fault */
    VM_EXIT_DEBUG,
    VM_EXIT_INTR, /* kicked; look at requests */
    VM_EXIT_EOI,
    VM_EXIT_INTERNAL, /* the engine cannot go on; text says why */
    VM_EXIT_REASON_COUNT,
};

extern const char *const vm_exit_names[VM_EXIT_REASON_COUNT];

/*
 * An engine may carry out PIO and MMIO itself, by vcpu_pio()/vcpu_mmio() in vcpu.h, when leaving
 * run() for them would cost more; it is counted the same.
 */
struct vm_exit {
    enum vm_exit_reason reason;
    union {
        struct {
            uint16_t port;
            uint8_t size;
            bool write;
            uint32_t value; /* in: filled by the run loop before the next run() */
        } pio;
        struct {
            gpa_t gpa;
            uint8_t size;
            bool write;
            uint64_t value;
        } mmio;
        struct {
            char text[256];
        } internal;
    };
};

struct engine_caps {
    bool usable;
    bool hardware_assisted;
    unsigned max_vcpus;
    char why[256]; /* why not usable or not assisted; else "" */
};

struct engine {
    const char *name;
    void (*probe)(struct engine_caps *);

    int (*vm_init)(struct vm *, struct err *);
    void (*vm_fini)(struct vm *);
    int (*vcpu_init)(struct vcpu *, struct err *); /* on the thread that will run it */
    void (*vcpu_fini)(struct vcpu *);

    int (*run)(struct vcpu *, struct vm_exit *); /* VM entry .. VM exit; 0 or -errno */
    void (*kick)(struct vcpu *);                 /* make run() return soon. Any thread */

    int (*get_state)(struct vcpu *, struct cpu_state *, unsigned groups); /* vCPU thread, outside run() */
    int (*set_state)(struct vcpu *, const struct cpu_state *, unsigned groups);

    int (*msi)(struct vm *, uint64_t addr, uint32_t data); /* deliver a message-signalled interrupt. Any thread */
    void (*extint)(struct vm *, bool level);               /* the 8259 pair's INTR line into the BSP's LINT0 */
    int (*nmi)(struct vcpu *);                             /* any thread */

    void (*stats)(struct vm *, struct stats_out *); /* the engine's own counters */
};

extern const struct engine engine_soft;
