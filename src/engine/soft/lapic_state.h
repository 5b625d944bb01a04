/* The local APIC's state and what its three files (delivery, registers, timer) offer each other. */
#pragma once

#include "engine/soft/lapic.h"

/* Register offsets (SDM vol. 3 table 11-1). */
#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_TPR 0x80
#define APIC_PPR 0xa0
#define APIC_EOI 0xb0
#define APIC_LDR 0xd0
#define APIC_DFR 0xe0
#define APIC_SVR 0xf0
#define APIC_ISR 0x100
#define APIC_TMR 0x180
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR_HIGH 0x310
#define APIC_LVT 0x320 /* enum lapic_lvt, 16 bytes each */
#define APIC_LVT_LAST 0x370
#define APIC_INITIAL_COUNT 0x380
#define APIC_CURRENT_COUNT 0x390
#define APIC_DIVIDE 0x3e0
#define APIC_SELF_IPI 0x3f0 /* x2APIC only */

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

#define APIC_VERSION_VALUE (0x14 | (LVT_COUNT - 1) << 16) /* integrated, no EOI broadcast suppression */

#define SVR_ENABLE BIT(8)

#define LVT_MASKED BIT(16)
#define LVT_TIMER_MODE(lvt) (((lvt) >> 17) & 3)
enum lapic_timer_mode { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE };

/* Delivery modes of LVT entries, the ICR and messages (bits 10:8). */
#define DELIVERY(word) (((word) >> 8) & 7)
enum lapic_delivery { DELIVER_FIXED, DELIVER_LOWEST, DELIVER_SMI, DELIVER_NMI = 4, DELIVER_INIT, DELIVER_STARTUP, DELIVER_EXTINT };

#define ESR_SEND_ILLEGAL BIT(5)
#define ESR_RECEIVE_ILLEGAL BIT(6)
#define ESR_ILLEGAL_REGISTER BIT(7)

/*
 * Atomic fields are written or read by other threads, which deliver interrupts here. The timer's fields are
 * under lock. The rest belongs to the vCPU's thread.
 */
struct soft_lapic {
    struct soft_cpu *cpu;
    _Atomic uint64_t irr[4], tmr[4];
    uint64_t isr[4];
    _Atomic uint32_t tpr, ldr, dfr, svr;
    _Atomic uint32_t lvt[LVT_COUNT];
    _Atomic uint32_t esr_pending;
    uint32_t esr;
    uint32_t icr, icr_high; /* in x2APIC mode icr_high is the whole destination */
    atomic_bool init_pending;
    atomic_int sipi_vector; /* -1: none */

    pthread_mutex_t lock;
    struct loop_timer timer;
    uint32_t initial_count, divide;
    uint64_t start_ns;     /* when initial_count was written */
    bool expired;          /* one-shot: the count has reached 0 */
    uint64_t tsc_deadline; /* 0: none */
    uint64_t due_ns;       /* when timer is to fire; 0: it is not */
};

/* An interrupt on its way to local APICs. */
struct lapic_message {
    uint8_t vector;
    uint8_t delivery;
    bool level_triggered;
    bool logical;
    bool wide;                      /* dest has 32 bits (x2APIC), else 8 */
    bool to_self, to_all, but_self; /* shorthands, instead of dest */
    uint32_t dest;
};

/*
 * self, here and below: the vCPU whose thread this is, when it is one that runs guest code (its vectors may
 * be live); NULL for everybody else.
 */

/* Sends to all vCPUs that the message names. True when one accepted it. */
bool lapic_send(struct soft_vm *, const struct lapic_message *, struct soft_cpu *self);

/* The local interrupt's LVT entry decides what comes of it. */
void lapic_local(struct soft_lapic *, enum lapic_lvt, struct soft_cpu *self);

void lapic_error(struct soft_lapic *, uint32_t bits, struct soft_cpu *self);

void lapic_eoi(struct soft_lapic *);
uint8_t lapic_ppr(const struct soft_lapic *);
bool lapic_is_x2apic(const struct soft_cpu *);
bool lapic_is_enabled(const struct soft_cpu *); /* by APIC_BASE */
uint32_t lapic_ldr(const struct soft_lapic *);

/* More may be deliverable than before (TPR, EOI): have the run loop look. */
void lapic_recheck(struct soft_lapic *);

int lapic_timer_init(struct soft_lapic *, struct err *);
void lapic_timer_fini(struct soft_lapic *);
void lapic_timer_reset(struct soft_lapic *);
/* The vCPU's own thread, vectors parked. */
void lapic_timer_set_lvt(struct soft_lapic *, uint32_t value);
void lapic_timer_set_count(struct soft_lapic *, uint32_t value);
void lapic_timer_set_divide(struct soft_lapic *, uint32_t value);
void lapic_timer_set_deadline(struct soft_lapic *, uint64_t value);
uint32_t lapic_timer_count(struct soft_lapic *);
uint64_t lapic_timer_deadline(struct soft_lapic *);
void lapic_timer_rearm(struct soft_lapic *);
void lapic_timer_load(struct soft_lapic *, uint32_t initial, uint32_t current, uint32_t divide, uint64_t deadline);
