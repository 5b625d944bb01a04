/* Inside the KVM engine: the handles of a VM and its vCPUs, and what the files of this folder offer each other. */
#pragma once

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "cpu/stats.h"
#include "cpu/vcpu.h"

#define KVM_IOAPIC_PINS 24 /* GSIs 0-23 are the IOAPIC's, those above are messages' */
#define KVM_ROUTES_MAX 1024

/* Where a GSI leads: to the message, if it is set. */
struct kvm_route {
    bool taken; /* by irqfd_add() */
    bool set;
    uint64_t addr;
    uint32_t data;
};

/* What the engine counts beside exits. Any thread. */
struct kvm_stats {
    atomic_ulong kick_signals; /* kicks that found their vCPU in the guest */
    atomic_ulong messages;     /* KVM_SIGNAL_MSI */
    atomic_ulong extints;
    atomic_ulong nmis;
    atomic_ulong routings;           /* KVM_SET_GSI_ROUTING */
    atomic_ulong irqfds, ioeventfds; /* bound now */
};

struct kvm_cpu;

struct kvm_vm {
    struct vm *vm;
    int fd;
    size_t run_bytes;
    struct kvm_cpuid2 *cpuid;      /* what every vCPU gets, but for its place in the topology */
    struct kvm_msr_list *msr_list; /* what KVM would save */
    struct kvm_msrs *reset_msrs;   /* those beyond the named ones, as the first vCPU came up with them */
    bool any_length;               /* an ioeventfd can match writes of every width */
    bool tsc_offset;               /* KVM_VCPU_TSC_OFFSET is there */
    bool step_blocks_irqs;         /* KVM_GUESTDBG_BLOCKIRQ is there (5.16) */
    unsigned slots;                /* regions that are memory slots */
    bool logging;                  /* of dirty pages */
    atomic_bool intr;              /* the 8259 pair's output */
    struct kvm_cpu *cpus[VCPU_MAX];

    pthread_mutex_t routes_lock; /* guards the routes */
    struct kvm_route routes[KVM_ROUTES_MAX];
    bool routes_changed;

    struct kvm_stats stats;
};

struct kvm_cpu {
    struct vcpu *vcpu;
    struct kvm_vm *kvm;
    int fd;
    struct kvm_run *run; /* shared with the kernel */
    pthread_t thread;
    atomic_bool inside; /* in KVM_RUN, or about to be: a kick takes a signal */
    atomic_bool nmi;    /* to be queued before the next entry */

    /* The rest is the thread's own. */
    struct vm_exit *exit;    /* the run loop's: the answer to the access that KVM waits for stands in it */
    bool unfinished;         /* KVM has yet to finish an access */
    bool ran;                /* the guest may have changed it since it was made */
    struct vcpu_debug debug; /* what was asked for last */
};

/* Like ioctl(), but -errno for a failure. */
int kvm_ioctl(int fd, unsigned long request, void *arg);
int kvm_ioctl_number(int fd, unsigned long request, unsigned long arg);

/* 0 where the kernel does not know the capability. fd: of /dev/kvm or of a VM. */
static inline int kvm_has(int fd, int capability)
{
    int n = kvm_ioctl_number(fd, KVM_CHECK_EXTENSION, (unsigned long)capability);

    return n > 0 ? n : 0;
}

/* The signal of kicks: blocked but for KVM_RUN. */
#define KVM_KICK_SIGNAL SIGRTMIN

/* --- probe.c --- */
void kvm_probe(struct engine_caps *);

/* --- memory.c: the loop's thread, with the vCPUs standing or not yet there --- */
int kvm_memory_init(struct kvm_vm *, struct err *);
int kvm_dirty_start(struct vm *);
int kvm_dirty_fetch(struct vm *, uint64_t *bitmap);
void kvm_dirty_stop(struct vm *);

/* --- run.c --- */
int kvm_run_vcpu(struct vcpu *, struct vm_exit *);
/* Has KVM finish an access whose answer is there, so that the vCPU's state is that of an instruction's end. vCPU thread. 0 or -errno. */
int kvm_settle(struct kvm_cpu *);

/* --- explain.c: why a vCPU cannot go on; fills exit->internal.text, and logs registers and the bytes at RIP --- */
void kvm_explain_exit(struct kvm_cpu *, struct vm_exit *);
void kvm_explain_errno(struct kvm_cpu *, struct vm_exit *, int error);
/* len bytes of the guest's at a linear address, which do not cross a page's end; NULL: nothing is mapped there. vCPU thread. */
const uint8_t *kvm_code(struct kvm_cpu *, gva_t, size_t len);

/* --- state.c: vCPU thread --- */
int kvm_get_state(struct vcpu *, struct cpu_state *, unsigned groups);
int kvm_set_state(struct vcpu *, const struct cpu_state *, unsigned groups);

/* --- msrs.c: vCPU thread --- */
int kvm_msrs_init(struct kvm_cpu *, struct err *); /* of the first vCPU, before it runs: the others take its values at a reset */
int kvm_msrs_get(struct kvm_cpu *, struct cpu_state *);
int kvm_msrs_set(struct kvm_cpu *, const struct cpu_state *);
/* The deadline goes with the local APIC: it needs the timer's mode. */
int kvm_deadline_get(struct kvm_cpu *, struct cpu_state *);
int kvm_deadline_set(struct kvm_cpu *, const struct cpu_state *);

/* --- interrupts.c: any thread --- */
int kvm_msi(struct vm *, uint64_t addr, uint32_t data);
void kvm_ioapic_level(struct vm *, unsigned pin, uint64_t addr, uint32_t data);
extern const struct irqfd_ops kvm_irqfds;
int kvm_ioeventfd(void *opaque, gpa_t gpa, int fd, bool on);

/* --- debug.c: vCPU thread --- */
int kvm_debug(struct vcpu *, const struct vcpu_debug *);
/* After KVM_EXIT_DEBUG. False: it was the guest's own, which gets it now. */
bool kvm_debug_exit(struct kvm_cpu *, struct vm_exit *);

/* --- stats.c --- */
void kvm_report_stats(struct vm *, struct stats_out *);
