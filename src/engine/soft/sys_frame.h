/* Frames: several words on a stack, which may be another ring's, pushed or read as a whole. */
#pragma once

#include "engine/soft/soft.h"

#define FRAME_MAX 36 /* words; a call gate's 31 parameters and its own four are the most */

struct frame_stack {
    struct cpu_seg ss;
    uint64_t sp;     /* all of RSP; pushes change the part that bits says */
    uint8_t bits;    /* 16, 32, 64 */
    unsigned access; /* MMU_SUPERVISOR for the stack of an inner ring */
    uint32_t error;  /* of #SS when the frame does not fit */
};

/* The current stack. */
void frame_current(const struct soft_cpu *, uint32_t ext, struct frame_stack *);

/* The stack of an inner ring, from the TSS; in long mode its SS is null. #TS, #SS, #GP (SDM vol.
 * 3 5.8.5, 6.12.1, 6.14.2). */
int frame_ring(struct soft_cpu *, unsigned ring, uint32_t ext, struct frame_stack *);

/* IST entry 1 to 7 as the stack pointer of a handler in that ring; long mode only. */
int frame_ist(struct soft_cpu *, unsigned ist, unsigned ring, uint32_t ext, struct frame_stack *);

/* The selector of the task that the current TSS links back to; not in long mode. */
int frame_task_link(struct soft_cpu *, uint64_t *sel);

/* Pushes n values of size bytes, the first one first. Nothing is written and sp stays unless the whole frame
 * fits. */
int frame_push(struct soft_cpu *, struct frame_stack *, unsigned size, const uint64_t *values, unsigned n);

/* Reads n values of size bytes at skip bytes above the current stack's top; the stack pointer stays. */
int frame_peek(struct soft_cpu *, unsigned skip, unsigned size, uint64_t *values, unsigned n);

/* RSP as it is after adding n to it in the current stack's width. */
uint64_t frame_pointer_plus(const struct soft_cpu *, uint64_t n);
