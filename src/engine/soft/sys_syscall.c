/* SYSCALL, SYSRET, SYSENTER, SYSEXIT, as the CPU model's vendor has them (SDM vol. 2 and APM vol. 3, each). */
#include "engine/soft/cpuid.h"
#include "engine/soft/sys.h"
#include "engine/soft/sys_desc.h"

#define FLAT_CODE (SEG_P | SEG_S | DESC_CODE | DESC_WRITABLE | DESC_ACCESSED | SEG_G)
#define FLAT_DATA (SEG_P | SEG_S | DESC_WRITABLE | DESC_ACCESSED | SEG_G | SEG_DB)
#define SYSRET_FLAGS 0x3c7fd7ULL /* all but RF, VM and reserved ones */

/*
 * The fixed flat segments that these instructions load without a look at the descriptors. For SYSRET AMD's
 * processors leave base, limit and attributes of SS as they were, which after an interrupt can be an unusable
 * segment; this engine loads them.
 */
static void load_flat(struct soft_cpu *cpu, uint16_t cs, uint16_t ss, unsigned ring, bool code64)
{
    uint32_t attr = ring << SEG_DPL_SHIFT;

    cpu->seg[SEG_CS] = (struct cpu_seg){
        .limit = UINT32_MAX,
        .attr = FLAT_CODE | attr | (code64 ? SEG_L : SEG_DB),
        .sel = (uint16_t)((cs & 0xfffc) | ring),
    };
    cpu->seg[SEG_SS] = (struct cpu_seg){
        .limit = UINT32_MAX,
        .attr = FLAT_DATA | attr,
        .sel = (uint16_t)((ss & 0xfffc) | ring),
    };
    soft_mode_update(cpu);
}

/* SYSCALL and SYSRET: AMD has them in compatibility and legacy protected mode too. */
static bool syscall_offered(const struct soft_cpu *cpu)
{
    if (!(cpu->efer & EFER_SCE) || !cpu->protected_mode)
        return false;
    return cpu->code_bits == 64 || cpu->svm->cpuid->amd;
}

/* ZYDIS_MNEMONIC_SYSCALL */
int sys_syscall(struct soft_cpu *cpu, const struct insn *insn)
{
    uint16_t cs = (uint16_t)(cpu->star >> 32 & 0xfffc);

    (void)insn;
    if (!syscall_offered(cpu))
        return soft_raise(cpu, EXC_UD);
    cpu->stats.syscalls++;
    cpu->gpr[GPR_RCX] = cpu->next_rip;
    if (cpu->long_mode) {
        cpu->gpr[GPR_R11] = cpu->rflags & ~FLAG_RF;
        cpu->next_rip = cpu->code_bits == 64 ? cpu->lstar : cpu->cstar;
        cpu->rflags = (cpu->rflags & ~(cpu->sfmask | FLAG_RF)) | FLAG_ONE;
    } else {
        cpu->next_rip = (uint32_t)cpu->star;
        cpu->rflags &= ~(FLAG_VM | FLAG_IF | FLAG_RF);
    }
    load_flat(cpu, cs, (uint16_t)(cs + 8), 0, cpu->long_mode);
    return SOFT_OK;
}

/* ZYDIS_MNEMONIC_SYSRET */
int sys_sysret(struct soft_cpu *cpu, const struct insn *insn)
{
    uint16_t base = (uint16_t)(cpu->star >> 48);
    bool to64 = cpu->code_bits == 64 && insn->opsize == 8;

    if (!syscall_offered(cpu))
        return soft_raise(cpu, EXC_UD);
    if (cpu->cpl != 0)
        return soft_raise_err(cpu, EXC_GP, 0);
    /* AMD goes there, and the fetch at CPL 3 faults. */
    if (to64 && !gva_is_canonical(cpu->gpr[GPR_RCX]) && !cpu->svm->cpuid->amd)
        return soft_raise_err(cpu, EXC_GP, 0);
    cpu->next_rip = to64 ? cpu->gpr[GPR_RCX] : (uint32_t)cpu->gpr[GPR_RCX];
    if (cpu->long_mode)
        cpu->rflags = (cpu->gpr[GPR_R11] & SYSRET_FLAGS) | FLAG_ONE;
    else
        cpu->rflags |= FLAG_IF;
    load_flat(cpu, (uint16_t)(to64 ? base + 16 : base), (uint16_t)(base + 8), 3, to64);
    return SOFT_OK;
}

/* SYSENTER and SYSEXIT: AMD has them in legacy mode only. */
static bool sysenter_offered(const struct soft_cpu *cpu)
{
    return !(cpu->long_mode && cpu->svm->cpuid->amd);
}

/* ZYDIS_MNEMONIC_SYSENTER */
int sys_sysenter(struct soft_cpu *cpu, const struct insn *insn)
{
    uint16_t cs = (uint16_t)(cpu->sysenter_cs & 0xfffc);

    (void)insn;
    if (!sysenter_offered(cpu))
        return soft_raise(cpu, EXC_UD);
    if (!cpu->protected_mode || cs == 0)
        return soft_raise_err(cpu, EXC_GP, 0);
    cpu->stats.syscalls++;
    cpu->gpr[GPR_RSP] = cpu->long_mode ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
    cpu->next_rip = cpu->long_mode ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip;
    cpu->rflags &= ~(FLAG_VM | FLAG_IF | FLAG_RF);
    load_flat(cpu, cs, (uint16_t)(cs + 8), 0, cpu->long_mode);
    return SOFT_OK;
}

/* ZYDIS_MNEMONIC_SYSEXIT */
int sys_sysexit(struct soft_cpu *cpu, const struct insn *insn)
{
    uint16_t cs = (uint16_t)(cpu->sysenter_cs & 0xfffc);
    bool to64 = cpu->code_bits == 64 && insn->opsize == 8;
    uint64_t rip = cpu->gpr[GPR_RDX];
    uint64_t rsp = cpu->gpr[GPR_RCX];

    if (!sysenter_offered(cpu))
        return soft_raise(cpu, EXC_UD);
    if (!cpu->protected_mode || cs == 0 || cpu->cpl != 0)
        return soft_raise_err(cpu, EXC_GP, 0);
    if (to64 && (!gva_is_canonical(rip) || !gva_is_canonical(rsp)))
        return soft_raise_err(cpu, EXC_GP, 0);
    cpu->gpr[GPR_RSP] = to64 ? rsp : (uint32_t)rsp;
    cpu->next_rip = to64 ? rip : (uint32_t)rip;
    cs = (uint16_t)(cs + (to64 ? 32 : 16));
    load_flat(cpu, cs, (uint16_t)(cs + 8), 3, to64);
    return SOFT_OK;
}
