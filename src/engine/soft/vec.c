/* Guest vector state between the host's registers and memory. */
#include "engine/soft/soft.h"
#include "engine/soft/switch.h"

#define MXCSR_DEFAULT 0x1f80u

void soft_vec_park(struct soft_cpu *cpu)
{
    static const uint32_t mxcsr = MXCSR_DEFAULT;

    if (!cpu->vec_live)
        return;
    switch_xsave(cpu->xsave, cpu->vec_mask);
    cpu->vec_live = false;
    /* C code must not meet the guest's unmasked exceptions or its rounding. */
    __asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
}

void soft_vec_unpark(struct soft_cpu *cpu)
{
    if (cpu->vec_live)
        return;
    switch_xrstor(cpu->xsave, cpu->vec_mask);
    cpu->vec_live = true;
}
