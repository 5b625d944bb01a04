/* Hardware task switches, which 16- and 32-bit protected mode has and long mode has not. */
#pragma once

#include "engine/soft/sys_desc.h"

enum task_switch {
    TASK_JUMP,   /* JMP: the old task is left for good */
    TASK_CALL,   /* CALL and events: it is busy still, and linked to */
    TASK_RETURN, /* IRET with NT set */
};

/* What the old task keeps, and what an event brings along. */
struct task_old {
    uint64_t rip, flags;
    uint32_t ext; /* EXT bit of error codes */
    bool has_error;
    uint32_t error; /* goes onto the new task's stack */
};

/*
 * Switches to the task whose TSS the selector names (SDM vol. 3 7.3). SOFT_FAULT is the old task's with nothing changed, or, with cpu->rip
 * already there, one that the new task begins with: a segment that it cannot load, or its debug trap.
 */
int task_switch(struct soft_cpu *, enum task_switch, uint16_t sel, const struct task_old *);

/* The same through a task gate, whose own rights have been checked. */
static inline uint16_t task_gate_selector(const struct desc *gate)
{
    return (uint16_t)(gate->lo >> 16);
}
