/* EVEX instructions whose opmask switches lanes of their memory operand off, and with them those lanes' faults. */
#pragma once

#include "engine/soft/step.h"

/* SOFT_OK or SOFT_FAULT, as the active lanes alone would give (SDM vol. 2 2.7.5, and AVX-512 exceptions in 2.8). */
int masked_run(struct soft_cpu *, const struct step_entry *);
