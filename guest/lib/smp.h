/* The other CPUs of the 64-bit guests: found in the MADT, started by INIT and SIPI, given work. */
#pragma once

#include "cpu.h"
#include "irq.h"

#define SMP_MAX 64
#define AP_PAGE 0x8000u      /* where they start, in real mode */
#define SMP_WAKE_VECTOR 0xf0 /* interrupts an idle CPU's HLT; nobody else uses it */

#define ICR_INIT 0x500u
#define ICR_STARTUP 0x600u
#define ICR_LOWEST 0x100u
#define ICR_LOGICAL 0x800u
#define ICR_ALL 0x80000u
#define ICR_OTHERS 0xc0000u

/* How many CPUs the MADT has, and the APIC id of each. This one, which booted, is 0. */
unsigned smp_listed(void);
uint32_t smp_apic_id(unsigned cpu);

/* Starts all others at the first call, and returns how many CPUs there are. Fails the test when one does not come. */
unsigned smp_start(void);
/* INIT, then SIPI: it begins anew, whatever it was at. */
void smp_restart(unsigned cpu);
/* How often the CPU has come up; what CS was at its start, in real mode. */
unsigned smp_starts(unsigned cpu);
unsigned smp_start_cs(unsigned cpu);

/* The CPU that runs this; only as long as its APIC is in xAPIC mode. */
unsigned smp_self(void);

/* Work for other CPUs: begins with interrupts closed, ends by returning. */
typedef void smp_work(unsigned cpu);
void smp_give(unsigned cpu, smp_work *);
bool smp_idle(unsigned cpu);
/* Until all are idle; fails the test after some seconds. */
void smp_wait(void);
/* On the first count CPUs, this one included, at the same time. */
void smp_run(unsigned count, smp_work *);

/* A message to an APIC by its id; bits are of the ICR's lower half. */
void icr_send(uint32_t id, uint32_t bits);
