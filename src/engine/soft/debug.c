/* Debug exceptions: single-step traps and the breakpoints of DR0 to DR3 (SDM vol. 3 17.2, 17.3). */
#include "engine/soft/debug.h"

enum dr7_kind { DR7_EXECUTE, DR7_WRITE, DR7_IO, DR7_ACCESS };

static bool enabled(const struct soft_cpu *cpu, unsigned n)
{
    return cpu->dr7 >> (2 * n) & 3;
}

static enum dr7_kind kind(const struct soft_cpu *cpu, unsigned n)
{
    return (enum dr7_kind)(cpu->dr7 >> (16 + 4 * n) & 3);
}

static unsigned length(const struct soft_cpu *cpu, unsigned n)
{
    static const uint8_t bytes[] = {1, 2, 8, 4};

    return bytes[cpu->dr7 >> (18 + 4 * n) & 3];
}

static int raise_db(struct soft_cpu *cpu, uint64_t dr6)
{
    soft_raise(cpu, EXC_DB);
    cpu->exc.dr6 = dr6;
    return SOFT_FAULT;
}

int debug_check_fetch(struct soft_cpu *cpu)
{
    uint64_t hit = 0;

    if (!(cpu->dr7 & DR7_ENABLES) || (cpu->rflags & FLAG_RF) || cpu->mov_ss_shadow)
        return SOFT_OK;
    uint64_t linear = cpu->code_bits == 64 ? cpu->rip : (uint32_t)(cpu->seg[SEG_CS].base + cpu->rip);
    for (unsigned n = 0; n < 4; n++)
        if (enabled(cpu, n) && kind(cpu, n) == DR7_EXECUTE && cpu->dr[n] == linear)
            hit |= BIT(n);
    return hit ? raise_db(cpu, hit) : SOFT_OK;
}

void debug_check_data(struct soft_cpu *cpu, gva_t gva, unsigned size, bool write)
{
    for (unsigned n = 0; n < 4; n++) {
        if (!enabled(cpu, n) || kind(cpu, n) == DR7_EXECUTE || kind(cpu, n) == DR7_IO)
            continue;
        if (kind(cpu, n) == DR7_WRITE && !write)
            continue;
        gva_t start = ALIGN_DOWN(cpu->dr[n], length(cpu, n));
        if (gva < start + length(cpu, n) && start < gva + size)
            cpu->debug_hit |= BIT(n);
    }
}

int debug_trap(struct soft_cpu *cpu, bool step)
{
    uint64_t dr6 = cpu->debug_hit | (step ? DR6_BS : 0);

    if (cpu->mov_ss_shadow) /* inhibited for one instruction; data breakpoints stay noted (SDM vol. 3 6.8.3) */
        return SOFT_OK;
    cpu->debug_hit = 0;
    return raise_db(cpu, dr6);
}
