/* One virtual machine: everything hangs off struct vm, nothing is global. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "config/config.h"
#include "cpu/engine.h"
#include "event/loop.h"
#include "mem/bus.h"
#include "mem/mem.h"
#include "x86/topology.h"

/* How a VM ends, and what umbra's exit status becomes (cli/help.c documents it for users). */
enum vm_end {
    VM_RUNNING,
    VM_END_POWEROFF,     /* the guest switched itself off: 0 */
    VM_END_RESET,        /* reset requested; becomes an end with --no-reboot unless value is VM_RESET_BY_HOST: 0 */
    VM_END_QUIT,         /* somebody on the host ended it; value is the status: 0 for Ctrl-a x, 128 + a signal's number */
    VM_END_DEBUG_EXIT,   /* (value << 1) | 1 */
    VM_END_TRIPLE_FAULT, /* 3 */
    VM_END_PANIC,        /* the guest said that it panicked: 4 */
    VM_END_INTERNAL,     /* the engine gave up: 5 */
};

#define VM_RESET_BY_HOST 1

/* Who is told that a vCPU has left the guest for VM_EXIT_DEBUG, and that the machine was reset. */
struct vm_debugger {
    void *opaque;
    void (*reset)(void *opaque);                  /* loop thread, all vCPUs stand */
    void (*stopped)(void *opaque, struct vcpu *); /* vCPU thread; the vCPU stands from now on (vcpu_hold), vcpu->debug says why */
};

/* What the interrupt controllers outside the engine offer to it. */
struct vm_irqchip {
    void *opaque;
    int (*extint_ack)(void *opaque);           /* INTA cycle of the 8259 pair: a vector, or -1 when it is gone */
    void (*eoi)(void *opaque, uint8_t vector); /* a level-triggered vector was ended: IOAPIC */
};

#define VCPU_MAX 64

struct vcpu {
    struct vm *vm;
    unsigned index;
    uint32_t apic_id; /* by the VM's topology */
    pthread_t thread;
    bool thread_started;
    void *engine_data; /* the engine's own */

    /* Work for the vCPU's thread, set by anyone, who then calls engine->kick(). */
    atomic_uint requests; /* enum vcpu_request */

    /* Guarded by vm->lock. */
    bool ready;    /* its thread has set it up, or failed with init_error */
    bool standing; /* waits outside run(); counted in vm->paused */
    int init_error;
    struct err *init_err;                   /* the creator's, until ready */
    void (*call)(struct vcpu *, void *arg); /* to be run by its thread while it stands */
    void *call_arg;

    /* A debugger's: filled before debug_stopped is set, by the vCPU's thread; taken back by the debugger while the vCPU stands. */
    struct vm_exit debug; /* VM_EXIT_DEBUG */
    atomic_bool debug_stopped;

    /* Exits by reason and the time spent outside the guest; written by the vCPU thread only, read relaxed. */
    atomic_ulong exits[VM_EXIT_REASON_COUNT];
    atomic_ulong exit_ns[VM_EXIT_REASON_COUNT];
    /* VM entries and the time in run(); of that the time of device accesses that the engine carried out there. Likewise. */
    atomic_ulong entries, run_ns, access_ns;
    atomic_ulong entered_ns; /* CLOCK_MONOTONIC of the entry that is under way; 0: outside */
};

enum vcpu_request {
    VCPU_STOP = 1 << 0,  /* leave the run loop for good */
    VCPU_PAUSE = 1 << 1, /* stand until vcpu_resume_all(): somebody holds the VM */
    VCPU_HOLD = 1 << 2,  /* stand for the debugger, which holds and releases each vCPU by itself */
};

/*
 * Who keeps the vCPUs standing, each independent of the others: they run when nobody does. A bit each in vm->holds. Holding twice is holding
 * once, and only whoever holds lets go again.
 */
enum vm_hold {
    VM_HOLD_MACHINE = 1 << 0, /* before the first entry, while a reset is carried out, and from the end on */
    VM_HOLD_USER = 1 << 1,    /* "umbra pause", until "umbra resume"; a reset leaves it */
};

struct vm {
    struct config config;
    struct x86_topology topology; /* of the configuration's CPUs */
    struct mem mem;
    struct bus pio, mmio;
    struct loop *loop; /* runs on the main thread */
    const struct engine *engine;
    void *engine_data;
    struct vm_irqchip irqchip;
    struct vm_debugger debugger; /* set while no vCPU runs */
    struct vcpu *vcpus[VCPU_MAX];
    unsigned vcpu_count;
    struct stats_reporter *reporters; /* stats_add(); the loop's thread */

    pthread_mutex_t lock; /* guards the fields below */
    pthread_cond_t changed;
    enum vm_end end;
    int end_value;      /* VM_END_DEBUG_EXIT: the byte; VM_END_QUIT: the exit status */
    char end_text[256]; /* a sentence, when there is one to say */
    unsigned paused;    /* vCPUs waiting */
    unsigned holds;     /* enum vm_hold */

    uint64_t started_ns; /* CLOCK_MONOTONIC at the first VM entry */
};

/* The lock, the condition, VM_RUNNING, VM_HOLD_MACHINE and a topology of single cores; the rest is the machine's to fill in. vm is zeroed before. */
void vm_init(struct vm *);
void vm_fini(struct vm *);

/* Somebody of these (enum vm_hold) keeps the vCPUs standing. Any thread. */
bool vm_is_held(struct vm *, unsigned holds);

/*
 * Any thread. Ask for the end or a reset (the first one wins, but a quit takes the place of a reset); returns at once: the vCPUs are told to stand, and loop_run() returns on the
 * loop's thread, which looks at vm->end and carries it out.
 */
void vm_request_end(struct vm *, enum vm_end, int value, const char *text);
