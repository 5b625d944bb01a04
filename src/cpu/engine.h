/* The engine seam: who runs guest instructions. */
#pragma once

#include "base/err.h"
#include "cpu/cpu_state.h"
#include "cpu/irq.h"
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

/* --- a debugger's wishes, and what came of them --- */

#define VCPU_DEBUG_POINTS 4        /* hardware breakpoints and watchpoints, as many as x86 has debug registers */
#define VCPU_DEBUG_BREAKPOINTS 256 /* software breakpoints */

enum vcpu_debug_kind {
    VCPU_DEBUG_EXECUTE, /* len is 1 */
    VCPU_DEBUG_WRITE,
    VCPU_DEBUG_READ, /* ENGINE_DEBUG_READS */
    VCPU_DEBUG_ACCESS,
};

struct vcpu_debug_point {
    gva_t gva;   /* linear, in whatever address space; a multiple of len */
    uint8_t len; /* 1, 2, 4 or 8 */
    enum vcpu_debug_kind kind;
};

/*
 * What makes a vCPU leave run() by VM_EXIT_DEBUG. All of it is beside the guest's own debugging: its DR0-DR7, TF and INT3 stay its own, and
 * it sees nothing of this as far as the engine can help it.
 */
struct vcpu_debug {
    /*
     * After one instruction, or the delivery of its exception, or one iteration of a repeated string instruction. Interrupts are held back
     * meanwhile, but that a halted vCPU waits for one, and stops before the handler's first instruction.
     */
    bool single_step;
    unsigned point_count;
    struct vcpu_debug_point point[VCPU_DEBUG_POINTS];
    /*
     * Linear addresses of software breakpoints. With ENGINE_DEBUG_BREAKPOINTS the engine compares with them; without, the debugger has put
     * an INT3 at each, those are reported, and any other INT3 is the guest's and becomes its #BP.
     */
    unsigned breakpoint_count;
    gva_t breakpoint[VCPU_DEBUG_BREAKPOINTS];
};

enum engine_debug_cap {
    ENGINE_DEBUG_BREAKPOINTS = 1 << 0, /* software breakpoints without a byte changed in guest memory */
    ENGINE_DEBUG_READS = 1 << 1,       /* VCPU_DEBUG_READ */
};

enum vcpu_debug_stop {
    DEBUG_STOP_STEP,
    DEBUG_STOP_BREAKPOINT, /* software; before the instruction, rip is its address */
    DEBUG_STOP_EXECUTE,    /* a point; before the instruction */
    DEBUG_STOP_WATCH,      /* a point; after the instruction that met it */
};

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
            enum vcpu_debug_stop stop;
            gva_t gva;     /* the breakpoint's, or for a watchpoint an address in the watched range that was met */
            uint8_t point; /* index in vcpu_debug.point[]; DEBUG_STOP_EXECUTE and DEBUG_STOP_WATCH */
        } debug;
        struct {
            char text[256];
        } internal;
    };
};

struct engine_caps {
    bool present; /* this host has it, usable or not */
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

    /* VM entry .. VM exit; 0 or -errno. It is the same struct each time, and the answer to the last exit stands in it until the next. */
    int (*run)(struct vcpu *, struct vm_exit *);
    void (*kick)(struct vcpu *); /* make run() return soon. Any thread */

    /*
     * vCPU thread, outside run(). An access that run() left for is finished before, by its answer; what the guest does next is not begun.
     * Groups of one call may depend on each other: the engine sets them in the order that it takes. 0 or -errno.
     */
    int (*get_state)(struct vcpu *, struct cpu_state *, unsigned groups);
    int (*set_state)(struct vcpu *, const struct cpu_state *, unsigned groups);

    int (*msi)(struct vm *, uint64_t addr, uint32_t data); /* deliver a message-signalled interrupt. Any thread */
    void (*extint)(struct vm *, bool level);               /* the 8259 pair's INTR line into the BSP's LINT0 */
    int (*nmi)(struct vcpu *);                             /* any thread */

    /*
     * The vCPU stood for a while, in which the guest's clocks ran on: tell the guest by its paravirtual clock, so that its watchdogs take no
     * offence. vCPU thread, outside run(). NULL: there is no such way.
     */
    void (*stood)(struct vcpu *);

    /*
     * From the next run() on; replaces what was asked before, and NULL asks for nothing. Copied. vCPU thread, outside run(). 0, -EINVAL for
     * what the engine does not do, or -errno, and then what was asked before stays. A NULL function: the engine has no debugging.
     */
    int (*debug)(struct vcpu *, const struct vcpu_debug *);
    unsigned debug_caps; /* enum engine_debug_cap */

    /*
     * Input pin of the IOAPIC sends this level-triggered message from now on, or none when data is 0: their ends are reported by
     * irqchip.eoi. Called on changes, under the IOAPIC's lock. NULL: the engine reports the end of every level-triggered vector.
     */
    void (*ioapic_level)(struct vm *, unsigned pin, uint64_t addr, uint32_t data);

    /*
     * A write of the guest's to gpa, of whatever width, adds 1 to the eventfd fd, without a VM exit that anybody here sees; or no longer.
     * vm is a struct vm. Any thread. 0 or -errno: then writes come by the bus. NULL: they always do.
     */
    int (*ioeventfd)(void *vm, gpa_t gpa, int fd, bool on);

    /* Interrupts by eventfds; their first argument is a struct vm. NULL: msi() is the only way. */
    const struct irqfd_ops *irqfds;

    /*
     * The log of pages that vCPUs write; the loop's thread, with the vCPUs standing for start and stop. fetch adds a bit to bitmap for each
     * page written since the fetch before (page: its index in [0, mem.page_count)). What is written by mem_write() and by devices is not in
     * it. 0 or -errno. NULL: the engine has no log.
     */
    int (*dirty_start)(struct vm *);
    int (*dirty_fetch)(struct vm *, uint64_t *bitmap);
    void (*dirty_stop)(struct vm *);

    void (*stats)(struct vm *, struct stats_out *); /* the engine's own counters */
};

extern const struct engine engine_soft;
extern const struct engine engine_kvm;
