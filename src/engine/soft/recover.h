/* Signals that guest instructions cause on the host, turned into what the engine can handle. */
#pragma once

#include "engine/soft/soft.h"

/* On the vCPU's thread, before it runs guest code: handlers (once a process), an alternate stack, GS, this thread's vCPU. 0 or -errno. */
int recover_attach(struct soft_cpu *, struct err *);
void recover_detach(struct soft_cpu *);
