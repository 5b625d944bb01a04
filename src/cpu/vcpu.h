/* The one run loop of a vCPU, for every engine. */
#pragma once

#include "cpu/vm.h"

/* Creates vCPU index with its thread, standing until vcpu_resume_all(). 0 or -errno. */
int vcpu_new(struct vm *, unsigned index, struct err *);
void vcpu_free(struct vcpu *); /* stops and joins the thread */

/* The architectural state of a vCPU that stands: carried out by its own thread, waited for. Loop thread. 0 or -errno. */
int vcpu_set_state(struct vcpu *, const struct cpu_state *, unsigned groups);
int vcpu_get_state(struct vcpu *, struct cpu_state *, unsigned groups);

/*
 * Stops all vCPUs at a boundary for one holder, and returns when they stand; lets go for that holder, after which they run unless somebody else
 * holds them. Neither counts: a holder pauses any number of times and resumes once. Loop thread.
 */
void vcpu_pause_all(struct vm *, enum vm_hold);
void vcpu_resume_all(struct vm *, enum vm_hold);

/*
 * A debugger's part, beside pause and resume: a vCPU runs when neither wants it to stand. vcpu_hold_all() returns when all stand;
 * vcpu_debug() arms one that stands (engine.h; 0 or -errno). Loop thread.
 */
void vcpu_hold_all(struct vm *);
void vcpu_release(struct vcpu *);
int vcpu_debug(struct vcpu *, const struct vcpu_debug *);

/*
 * Device accesses, counted as exits, on the vCPU's thread, for engines that carry them out inside
 * run(). The time is measured one access in 64 and scaled, so that counting costs less than a port.
 */
uint64_t vcpu_pio_read(struct vcpu *, uint16_t port, unsigned size);
void vcpu_pio_write(struct vcpu *, uint16_t port, unsigned size, uint64_t value);
uint64_t vcpu_mmio_read(struct vcpu *, gpa_t gpa, unsigned size);
void vcpu_mmio_write(struct vcpu *, gpa_t gpa, unsigned size, uint64_t value);
