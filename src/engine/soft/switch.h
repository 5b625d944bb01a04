/* Entry to and exit from host code that runs guest instructions (switch.S). */
#pragma once

#include "base/types.h"

struct soft_cpu;

/* One instruction's stub. 0, or 1 when it faulted: cpu->host_fault says how. */
int switch_to_stub(struct soft_cpu *, const void *stub);
/* Translated code; CTX_EXIT tells why it came back. */
void switch_to_code(struct soft_cpu *, const void *code);

void switch_xsave(void *image, uint64_t mask);
void switch_xrstor(const void *image, uint64_t mask);

/* Labels, not functions: where stubs and translated code jump to. */
extern const char switch_stub_done[], switch_stub_fault[], switch_code_exit[];
