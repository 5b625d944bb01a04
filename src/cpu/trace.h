/* What happens at the borders of a guest: as static trace points for tools of the host, and in a window of the VM's own for "umbra trace". */
#pragma once

#include <stdatomic.h>
#include <sys/sdt.h>

#include "base/err.h"
#include "base/types.h"

/*
 * Theory of operation. Each function below is a static trace point (provider "umbra"; a nop until perf, bpftrace or gdb attaches to it) and a look
 * at whether a window is open, which costs a load and a branch. A window is an array that is filled once: writers on any thread take the next
 * place by an atomic addition, and the one who takes the last place closes it. Whoever closes a window waits until no writer is inside, and may
 * then read and free the array. A writer counts itself in before it looks a second time whether the window is open, so that it is either seen
 * or finds the window closed.
 */

enum trace_kind {
    TRACE_ENTRY,      /* a vCPU enters the guest */
    TRACE_EXIT,       /* and leaves it: why, and for PIO and MMIO where */
    TRACE_KICK,       /* a device looks at a queue that the driver rang for */
    TRACE_COMPLETION, /* a device shows the driver what it has done */
    TRACE_INTERRUPT,  /* a message goes to a local APIC */
    TRACE_INJECT,     /* a vCPU takes an interrupt; only engines that see it */
    TRACE_FILL,       /* a vCPU's shadow page tables get an entry; only engines that have them */
    TRACE_KIND_COUNT,
};

extern const char *const trace_kind_names[TRACE_KIND_COUNT];

#define TRACE_WHO_MAX 15 /* characters of a device's name that are kept */

struct trace_event {
    uint64_t ns;                 /* CLOCK_MONOTONIC */
    uint64_t address;            /* a port or guest-physical; of a fill guest-linear */
    uint32_t data;               /* of a message; 1 when a completion comes with an interrupt; the vector that is taken; a fill's page */
    uint16_t number;             /* the vCPU's or the queue's */
    uint8_t kind;                /* enum trace_kind */
    uint8_t reason;              /* enum vm_exit_reason */
    char who[TRACE_WHO_MAX + 1]; /* the device; "" for vCPUs */
};

#define TRACE_EVENTS_MAX 100000UL /* of a window: 40 bytes each */

struct trace {
    atomic_bool open;
    atomic_uint writers;
    atomic_ulong next;
    /* Written only while no window is open and no writer inside. */
    unsigned long room;
    struct trace_event *events;
};

/* --- for one thread at a time: the loop's --- */

/* A new window of 1 to TRACE_EVENTS_MAX events; what an earlier one held is forgotten. 0 or -ENOMEM. */
int trace_open(struct trace *, unsigned long events, struct err *);
/* What the window holds stays, in the order of time, until it is opened again or trace_free(). Closing twice is closing once. */
void trace_close(struct trace *);
void trace_free(struct trace *); /* closes, too */
/* How many events there are by now. */
unsigned long trace_count(const struct trace *);

/* --- for those who have something to tell: any thread. trace may be NULL: then there is only the trace point --- */

#define TRACE_POINT static inline __attribute__((always_inline)) /* a call would cost more than the nop */

static inline bool trace_is_open(const struct trace *t)
{
    return t && __builtin_expect(atomic_load_explicit(&t->open, memory_order_relaxed), 0);
}

/* Fills in the time. who may be NULL. */
void trace_add(struct trace *, struct trace_event, const char *who);

TRACE_POINT void trace_entry(struct trace *t, unsigned vcpu)
{
    DTRACE_PROBE1(umbra, vm_entry, vcpu);
    if (trace_is_open(t))
        trace_add(t, (struct trace_event){.kind = TRACE_ENTRY, .number = (uint16_t)vcpu}, NULL);
}

/* reason: enum vm_exit_reason. address: a port or a gpa, or 0. */
TRACE_POINT void trace_exit(struct trace *t, unsigned vcpu, unsigned reason, uint64_t address)
{
    DTRACE_PROBE3(umbra, vm_exit, vcpu, reason, address);
    if (trace_is_open(t))
        trace_add(t, (struct trace_event){.kind = TRACE_EXIT, .number = (uint16_t)vcpu, .reason = (uint8_t)reason, .address = address},
                  NULL);
}

TRACE_POINT void trace_kick(struct trace *t, const char *device, unsigned queue)
{
    DTRACE_PROBE2(umbra, kick, device, queue);
    if (trace_is_open(t))
        trace_add(t, (struct trace_event){.kind = TRACE_KICK, .number = (uint16_t)queue}, device);
}

TRACE_POINT void trace_completion(struct trace *t, const char *device, unsigned queue, bool interrupt)
{
    DTRACE_PROBE3(umbra, completion, device, queue, (int)interrupt);
    if (trace_is_open(t))
        trace_add(t, (struct trace_event){.kind = TRACE_COMPLETION, .number = (uint16_t)queue, .data = interrupt}, device);
}

/* A message-signalled interrupt: the low byte of data is the vector. */
TRACE_POINT void trace_interrupt(struct trace *t, const char *device, uint64_t address, uint32_t data)
{
    DTRACE_PROBE3(umbra, interrupt, device, address, data);
    if (trace_is_open(t))
        trace_add(t, (struct trace_event){.kind = TRACE_INTERRUPT, .address = address, .data = data}, device);
}

TRACE_POINT void trace_inject(struct trace *t, unsigned vcpu, unsigned vector)
{
    DTRACE_PROBE2(umbra, inject, vcpu, vector);
    if (trace_is_open(t))
        trace_add(t, (struct trace_event){.kind = TRACE_INJECT, .number = (uint16_t)vcpu, .data = vector}, NULL);
}

TRACE_POINT void trace_fill(struct trace *t, unsigned vcpu, uint64_t gva, gpa_t gpa)
{
    DTRACE_PROBE3(umbra, shadow_fill, vcpu, gva, gpa);
    if (trace_is_open(t))
        trace_add(t,
                  (struct trace_event){.kind = TRACE_FILL, .number = (uint16_t)vcpu, .address = gva, .data = (uint32_t)(gpa >> PAGE_SHIFT)},
                  NULL);
}
