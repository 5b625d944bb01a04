/* The loop that runs guest code on the software engine: events first, then translated code or step. */
#pragma once

#include "engine/soft/ctx.h"
#include "engine/soft/soft.h"

int run_vcpu(struct vcpu *, struct vm_exit *);
/* Until attention; engine.c. */
void run_sleep(struct soft_cpu *);
/* The engine's counters; stats.c. */
void soft_stats_report(struct vm *, struct stats_out *);

/* The block mode of the vCPU's present state (cache.h), or RUN_STEP where only step can go on. */
#define RUN_STEP UINT32_MAX
uint32_t run_mode(const struct soft_cpu *);

/* Where the code at rip is, and whether all of it is mapped globally; false where step has to find out what is wrong. */
struct code_place;
bool run_find_code(struct soft_cpu *, struct code_place *);
