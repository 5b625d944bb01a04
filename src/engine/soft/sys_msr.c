/* Model-specific registers: one table row each; and the time-stamp counter's instructions. */
#include "base/log.h"
#include "engine/soft/cpuid.h"
#include "engine/soft/lapic.h"
#include "engine/soft/sys.h"
#include "engine/soft/tsc.h"

#define MSR_NB_CFG 0xc001001f
#define MSR_INT_PENDING_MSG 0xc0010055
#define MSR_MMIO_CONF_BASE 0xc0010058

/* IA32_MISC_ENABLE (SDM vol. 4 table 2-2) */
#define MISC_FAST_STRINGS BIT(0)
#define MISC_BTS_UNAVAILABLE BIT(11)
#define MISC_PEBS_UNAVAILABLE BIT(12)

/* AMD (APM vol. 2 3.2, 7.4; the families' PPRs) */
#define HWCR_IGNORED (BIT(3) | BIT(6) | BIT(8) | BIT(18))
#define HWCR_TSC_FREQ_SEL BIT(24)
#define DE_CFG_LFENCE_SERIALIZE BIT(1)

#define SPEC_CTRL_IBRS BIT(0)
#define PRED_CMD_IBPB BIT(0)

/* What a current microcode would report; guests only print it. */
#define INTEL_MICROCODE 0x100000000ULL
#define AMD_MICROCODE 0x01000065ULL

#define ARCH_CAPS                                                                                                                          \
    (ARCH_CAP_RDCL_NO | ARCH_CAP_IBRS_ALL | ARCH_CAP_SKIP_L1DFL | ARCH_CAP_SSB_NO | ARCH_CAP_MDS_NO | ARCH_CAP_PSCHANGE_MC_NO |            \
     ARCH_CAP_TAA_NO | ARCH_CAP_SBDR_SSDP_NO | ARCH_CAP_FBSDP_NO | ARCH_CAP_PSDP_NO | ARCH_CAP_BHI_NO | ARCH_CAP_PBRSB_NO |                \
     ARCH_CAP_GDS_NO | ARCH_CAP_RFDS_NO | ARCH_CAP_ITS_NO)

enum msr_vendor { ANY, AMD, INTEL };

/* What a plain register accepts. */
enum msr_rule {
    RULE_FUNCTION, /* read and write decide */
    RULE_ANY,
    RULE_CANONICAL, /* #GP(0) otherwise */
    RULE_LOW32,
    RULE_CONSTANT, /* reads a constant; a write is ignored: firmware registers that kernels poke */
    RULE_READONLY, /* reads a constant; a write is #GP(0) */
};

struct msr_row {
    uint32_t number;
    uint8_t rule, vendor;
    uint16_t feature; /* enum x86_feature that it belongs to, or 0 */
    size_t offset;    /* in struct soft_cpu, for plain registers */
    uint64_t constant;
    int (*read)(struct soft_cpu *, uint32_t msr, uint64_t *value);
    int (*write)(struct soft_cpu *, uint32_t msr, uint64_t value);
};

static int gp0(struct soft_cpu *cpu)
{
    return soft_raise_err(cpu, EXC_GP, 0);
}

static int read_efer(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
    (void)msr;
    *value = cpu->efer;
    return SOFT_OK;
}

static int write_efer(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    (void)msr;
    return sys_write_efer(cpu, value);
}

static int read_tsc(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
    (void)msr;
    *value = tsc_guest(cpu);
    return SOFT_OK;
}

/* A write to either register moves both (SDM vol. 3 17.17.3). */
static int write_tsc(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    uint64_t delta = msr == MSR_TSC ? value - tsc_guest(cpu) : value - cpu->tsc_adjust;

    cpu->tsc_offset += delta;
    cpu->tsc_adjust += delta;
    tsc_changed(cpu);
    return SOFT_OK;
}

/* Each byte names a memory type: UC, WC, WT, WP, WB, UC- (SDM vol. 3 table 11-10). */
static int write_pat(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    (void)msr;
    for (unsigned i = 0; i < 8; i++) {
        unsigned type = value >> (8 * i) & 0xff;
        if (type > 7 || type == 2 || type == 3)
            return gp0(cpu);
    }
    cpu->pat = value;
    return SOFT_OK;
}

static int read_misc_enable(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
    (void)msr;
    *value = cpu->misc_enable | MISC_BTS_UNAVAILABLE | MISC_PEBS_UNAVAILABLE;
    return SOFT_OK;
}

static int write_misc_enable(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    (void)msr;
    if (value & ~(MISC_FAST_STRINGS | MISC_BTS_UNAVAILABLE | MISC_PEBS_UNAVAILABLE))
        return gp0(cpu);
    cpu->misc_enable = value & MISC_FAST_STRINGS;
    return SOFT_OK;
}

static int write_spec_ctrl(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    (void)msr;
    if (value & ~SPEC_CTRL_IBRS)
        return gp0(cpu);
    cpu->spec_ctrl = value;
    return SOFT_OK;
}

/* Write-only. No guest branch ever trained a predictor for itself: there is nothing to do. */
static int write_pred_cmd(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    (void)msr;
    return value & ~PRED_CMD_IBPB ? gp0(cpu) : SOFT_OK;
}

static int write_hwcr(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    (void)msr;
    return value & ~(HWCR_IGNORED | HWCR_TSC_FREQ_SEL) ? gp0(cpu) : SOFT_OK;
}

static int read_hwcr(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
    (void)cpu;
    (void)msr;
    *value = HWCR_TSC_FREQ_SEL; /* the TSC counts at the P0 frequency: Linux complains otherwise */
    return SOFT_OK;
}

static int read_kvm(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
    *value = msr == MSR_KVM_WALL_CLOCK_NEW ? cpu->kvm_wall_clock : cpu->kvm_system_time;
    return SOFT_OK;
}

/* 0x8b: Intel's kernels write 0 before they read the revision; AMD's register is read-only. */
static int read_microcode(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
    (void)msr;
    *value = cpu->svm->cpuid->amd ? AMD_MICROCODE : INTEL_MICROCODE;
    return SOFT_OK;
}

static int write_microcode(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    (void)msr;
    (void)value;
    return cpu->svm->cpuid->amd ? gp0(cpu) : SOFT_OK;
}

#define FIELD(name) offsetof(struct soft_cpu, name)

static const struct msr_row msrs[] = {
    {.number = MSR_TSC, .read = read_tsc, .write = write_tsc},
    {.number = MSR_PLATFORM_ID, .rule = RULE_READONLY, .vendor = INTEL},
    {.number = MSR_APIC_BASE, .read = lapic_msr_read, .write = lapic_msr_write},
    {.number = MSR_TSC_ADJUST, .rule = RULE_FUNCTION, .feature = X86_TSC_ADJUST, .offset = FIELD(tsc_adjust), .write = write_tsc},
    {.number = MSR_SPEC_CTRL, .feature = X86_SPEC_CTRL, .offset = FIELD(spec_ctrl), .write = write_spec_ctrl},
    {.number = MSR_PRED_CMD, .feature = X86_SPEC_CTRL, .write = write_pred_cmd},
    {.number = MSR_BIOS_SIGN_ID, .read = read_microcode, .write = write_microcode},
    {.number = MSR_ARCH_CAPABILITIES, .rule = RULE_READONLY, .feature = X86_ARCH_CAPABILITIES, .constant = ARCH_CAPS},
    {.number = MSR_SYSENTER_CS, .rule = RULE_LOW32, .offset = FIELD(sysenter_cs)},
    {.number = MSR_SYSENTER_ESP, .rule = RULE_CANONICAL, .offset = FIELD(sysenter_esp)},
    {.number = MSR_SYSENTER_EIP, .rule = RULE_CANONICAL, .offset = FIELD(sysenter_eip)},
    {.number = MSR_MISC_ENABLE, .vendor = INTEL, .read = read_misc_enable, .write = write_misc_enable},
    {.number = MSR_PAT, .offset = FIELD(pat), .write = write_pat},
    {.number = MSR_TSC_DEADLINE, .feature = X86_TSC_DEADLINE, .read = lapic_msr_read, .write = lapic_msr_write},
    {.number = MSR_KVM_WALL_CLOCK_NEW, .read = read_kvm, .write = kvmclock_msr_write},
    {.number = MSR_KVM_SYSTEM_TIME_NEW, .read = read_kvm, .write = kvmclock_msr_write},
    {.number = MSR_EFER, .read = read_efer, .write = write_efer},
    {.number = MSR_STAR, .rule = RULE_ANY, .offset = FIELD(star)},
    {.number = MSR_LSTAR, .rule = RULE_CANONICAL, .offset = FIELD(lstar)},
    {.number = MSR_CSTAR, .rule = RULE_CANONICAL, .offset = FIELD(cstar)},
    {.number = MSR_SFMASK, .rule = RULE_LOW32, .offset = FIELD(sfmask)},
    {.number = MSR_FS_BASE, .rule = RULE_CANONICAL, .offset = FIELD(seg[SEG_FS].base)},
    {.number = MSR_GS_BASE, .rule = RULE_CANONICAL, .offset = FIELD(seg[SEG_GS].base)},
    {.number = MSR_KERNEL_GS_BASE, .rule = RULE_CANONICAL, .offset = FIELD(kernel_gs_base)},
    {.number = MSR_TSC_AUX, .rule = RULE_LOW32, .feature = X86_RDTSCP, .offset = FIELD(tsc_aux)},
    {.number = MSR_SYSCFG, .rule = RULE_CONSTANT, .vendor = AMD},
    {.number = MSR_HWCR, .vendor = AMD, .read = read_hwcr, .write = write_hwcr},
    {.number = MSR_NB_CFG, .rule = RULE_CONSTANT, .vendor = AMD},
    {.number = MSR_INT_PENDING_MSG, .rule = RULE_CONSTANT, .vendor = AMD},
    {.number = MSR_MMIO_CONF_BASE, .rule = RULE_CONSTANT, .vendor = AMD},
    {.number = MSR_DE_CFG, .rule = RULE_CONSTANT, .vendor = AMD, .constant = DE_CFG_LFENCE_SERIALIZE},
};

/* All of x2APIC's registers. */
static const struct msr_row x2apic_row = {.read = lapic_msr_read, .write = lapic_msr_write};

static bool row_exists(const struct soft_cpu *cpu, const struct msr_row *row)
{
    if (row->feature && !cpuid_offers(cpu->svm, row->feature))
        return false;
    return row->vendor == ANY || (row->vendor == AMD) == cpu->svm->cpuid->amd;
}

static const struct msr_row *find_row(const struct soft_cpu *cpu, uint32_t msr)
{
    if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST)
        return &x2apic_row;
    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
        if (msrs[i].number == msr)
            return row_exists(cpu, &msrs[i]) ? &msrs[i] : NULL;
    return NULL;
}

/* Kernels probe for MSRs and expect this answer: it is counted, not complained about. */
static int unknown_msr(struct soft_cpu *cpu)
{
    cpu->stats.msr_faults++;
    return gp0(cpu);
}

static uint64_t *row_field(struct soft_cpu *cpu, const struct msr_row *row)
{
    return (uint64_t *)((char *)cpu + row->offset);
}

int sys_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
    const struct msr_row *row = find_row(cpu, msr);

    cpu->stats.msr_accesses++;
    if (!row)
        return unknown_msr(cpu);
    if (row->read)
        return row->read(cpu, msr, value);
    if (row->rule == RULE_CONSTANT || row->rule == RULE_READONLY)
        *value = row->constant;
    else if (row->offset)
        *value = *row_field(cpu, row);
    else /* write-only */
        return gp0(cpu);
    return SOFT_OK;
}

int sys_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    const struct msr_row *row = find_row(cpu, msr);

    cpu->stats.msr_accesses++;
    if (!row)
        return unknown_msr(cpu);
    if (row->write)
        return row->write(cpu, msr, value);
    switch ((enum msr_rule)row->rule) {
    case RULE_CONSTANT: return SOFT_OK;
    case RULE_CANONICAL:
        if (!gva_is_canonical(value))
            return gp0(cpu);
        break;
    case RULE_LOW32:
        if (value >> 32)
            return gp0(cpu);
        break;
    case RULE_ANY: break;
    case RULE_FUNCTION:
    case RULE_READONLY: return gp0(cpu);
    }
    *row_field(cpu, row) = value;
    return SOFT_OK;
}

/* RDMSR */
int sys_rdmsr(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t value = 0;
    int result;

    (void)insn;
    if (cpu->cpl != 0)
        return gp0(cpu);
    result = sys_msr_read(cpu, (uint32_t)cpu->gpr[GPR_RCX], &value);
    if (result != SOFT_OK)
        return result;
    cpu->gpr[GPR_RAX] = (uint32_t)value;
    cpu->gpr[GPR_RDX] = value >> 32;
    return SOFT_OK;
}

/* WRMSR */
int sys_wrmsr(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (cpu->cpl != 0)
        return gp0(cpu);
    return sys_msr_write(cpu, (uint32_t)cpu->gpr[GPR_RCX], (uint32_t)cpu->gpr[GPR_RAX] | cpu->gpr[GPR_RDX] << 32);
}

/* --- the time-stamp counter --- */

static bool tsc_disabled(const struct soft_cpu *cpu)
{
    return (cpu->cr4 & CR4_TSD) && cpu->cpl != 0;
}

/* RDTSC */
int sys_rdtsc(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t tsc;

    (void)insn;
    if (tsc_disabled(cpu))
        return gp0(cpu);
    tsc = tsc_guest(cpu);
    cpu->gpr[GPR_RAX] = (uint32_t)tsc;
    cpu->gpr[GPR_RDX] = tsc >> 32;
    return SOFT_OK;
}

/* RDTSCP */
int sys_rdtscp(struct soft_cpu *cpu, const struct insn *insn)
{
    int result = sys_rdtsc(cpu, insn);

    if (result == SOFT_OK)
        cpu->gpr[GPR_RCX] = (uint32_t)cpu->tsc_aux;
    return result;
}

/* RDPID: 64 bits wide in 64-bit mode whatever the operand size */
int sys_rdpid(struct soft_cpu *cpu, const struct insn *insn)
{
    soft_gpr_write(cpu, insn->op[0].reg, false, cpu->code_bits == 64 ? 8 : 4, cpu->tsc_aux);
    return SOFT_OK;
}

/* RDPMC: there are no counters. */
int sys_rdpmc(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return gp0(cpu);
}
