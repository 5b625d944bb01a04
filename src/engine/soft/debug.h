/* Debug exceptions: single-step traps and the breakpoints of DR0 to DR3 (SDM vol. 3 17.2, 17.3). */
#pragma once

#include "engine/soft/soft.h"

#define DR7_ENABLES 0xffULL /* L0 G0 .. L3 G3 */
#define DR6_BS BIT(14)

/* An execute breakpoint at cpu->rip, unless RF holds it back: SOFT_FAULT with #DB, else SOFT_OK. */
int debug_check_fetch(struct soft_cpu *);
/* Notes data breakpoints that [gva, gva+size) meets in cpu->debug_hit; the trap comes after the instruction. */
void debug_check_data(struct soft_cpu *, gva_t gva, unsigned size, bool write);
/* The trap after an instruction; step: TF was set when it began. SOFT_FAULT with #DB, or SOFT_OK under MOV SS. */
int debug_trap(struct soft_cpu *, bool step);
