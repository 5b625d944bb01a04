/* Event delivery beyond soft_deliver(): what only instructions ask for. */
#pragma once

#include "engine/soft/soft.h"

/* INT1 (ICEBP): #DB as if by hardware, with no look at the gate's DPL; returns to next_rip. SOFT_OK,
 * SOFT_FAULT or SOFT_EXIT. */
int event_int1(struct soft_cpu *);
