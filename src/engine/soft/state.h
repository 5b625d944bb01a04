/* Architectural state in and out of the software engine: reset, INIT, get and set by groups. */
#pragma once

#include "engine/soft/soft.h"

/* vCPU thread (or before it runs). groups: enum cpu_state_group. */
void state_get(struct soft_cpu *, struct cpu_state *, unsigned groups);
void state_set(struct soft_cpu *, const struct cpu_state *, unsigned groups);
