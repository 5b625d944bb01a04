/* Control and debug registers, the mode that follows from them, and the processor-control instructions. */
#include "engine/soft/cpuid.h"
#include "engine/soft/lapic.h"
#include "engine/soft/mmu.h"
#include "engine/soft/smp.h"
#include "engine/soft/sys.h"
#include "engine/soft/sys_desc.h"
#include "x86/paging.h"

#define CR0_DEFINED (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR3_NOFLUSH BIT(63)
#define CR3_PCID 0xfffULL

#define DR6_BD BIT(13)
#define DR6_WRITABLE (0xfULL | DR6_BD | BIT(14) | BIT(15))
#define DR7_GD BIT(13)
#define DR7_WRITABLE (0xffff03ffULL | DR7_GD)

/* Hypercall results of KVM (Documentation/virt/kvm/x86/hypercalls.rst). */
#define KVM_ENOSYS 1000
#define KVM_EPERM 1

static int gp0(struct soft_cpu *cpu)
{
    return soft_raise_err(cpu, EXC_GP, 0);
}

void soft_mode_update(struct soft_cpu *cpu)
{
    uint32_t cs = cpu->seg[SEG_CS].attr, ss = cpu->seg[SEG_SS].attr;

    cpu->protected_mode = cpu->cr0 & CR0_PE;
    cpu->long_mode = cpu->efer & EFER_LMA;
    if (!cpu->protected_mode)
        cpu->cpl = 0;
    else if (cpu->rflags & FLAG_VM)
        cpu->cpl = 3;
    else /* SS.DPL, not CS.RPL: that one may be anything right after CR0.PE is set (SDM vol. 3 24.4.1) */
        cpu->cpl = SEG_DPL(ss);
    if (cpu->long_mode && (cs & SEG_L))
        cpu->code_bits = cpu->stack_bits = 64;
    else {
        cpu->code_bits = cs & SEG_DB ? 32 : 16;
        cpu->stack_bits = ss & SEG_DB ? 32 : 16;
    }
}

/* --- CR0, CR3, CR4, CR8, EFER: SDM vol. 3 2.5, 4.1.2, 4.10.4.1; vol. 2 MOV to control registers --- */

/*
 * Where PAE paging without long mode comes on or changes, Intel's processors load the PDPTEs and fault on bad ones; AMD's read
 * them in the walk (SDM vol. 3 4.4.1).
 */
static bool pdptes_refused(struct soft_cpu *cpu, uint64_t cr0, uint64_t cr3, uint64_t cr4)
{
    return !cpu->svm->cpuid->amd && paging_mode(cr0, cr4, cpu->efer) == PAGING_PAE && !mmu_pdptes_valid(cpu, cr3);
}

/* Turning paging on with EFER.LME set enters IA-32e mode, turning it off leaves it (SDM vol. 3 9.8.5). */
static int check_paging_switch(struct soft_cpu *cpu, uint64_t value)
{
    if (value & CR0_PG) {
        if (!(cpu->efer & EFER_LME))
            return pdptes_refused(cpu, value, cpu->cr3, cpu->cr4) ? gp0(cpu) : SOFT_OK;
        uint32_t task = cpu->tr.attr & 0x1f;
        if (!(cpu->cr4 & CR4_PAE) || (cpu->seg[SEG_CS].attr & SEG_L) || task == DESC_TSS16 || task == DESC_TSS16_BUSY)
            return gp0(cpu);
        return SOFT_OK;
    }
    if (cpu->code_bits == 64 || (cpu->cr4 & CR4_PCIDE))
        return gp0(cpu);
    return SOFT_OK;
}

int sys_write_cr0(struct soft_cpu *cpu, uint64_t value)
{
    uint64_t changed;

    if (value >> 32)
        return gp0(cpu);
    value = (value & CR0_DEFINED) | CR0_ET;
    if ((value & CR0_PG) && !(value & CR0_PE))
        return gp0(cpu);
    if ((value & CR0_NW) && !(value & CR0_CD))
        return gp0(cpu);
    changed = value ^ cpu->cr0;
    if (changed & CR0_PG) {
        int result = check_paging_switch(cpu, value);
        if (result != SOFT_OK)
            return result;
        if (!(value & CR0_PG))
            cpu->efer &= ~EFER_LMA;
        else if (cpu->efer & EFER_LME)
            cpu->efer |= EFER_LMA;
    }
    cpu->cr0 = value;
    cpu->stats.cr_writes++;
    soft_mode_update(cpu);
    if (changed & (CR0_PG | CR0_WP | CR0_PE)) {
        cpu->stats.flushes[FLUSH_CR0]++;
        mmu_flush_all(cpu);
    }
    return SOFT_OK;
}

int sys_write_cr3(struct soft_cpu *cpu, uint64_t value)
{
    if (cpu->cr4 & CR4_PCIDE)
        value &= ~CR3_NOFLUSH; /* to flush all the same is allowed (SDM vol. 3 4.10.4.1) */
    if (cpu->long_mode && (value & PTE_BITS(63, GUEST_PHYS_BITS)))
        return gp0(cpu);
    if (pdptes_refused(cpu, cpu->cr0, (uint32_t)value, cpu->cr4))
        return gp0(cpu);
    cpu->cr3 = cpu->long_mode ? value : (uint32_t)value;
    cpu->stats.cr_writes++;
    cpu->stats.cr3_writes++;
    cpu->stats.flushes[FLUSH_CR3]++;
    mmu_flush_nonglobal(cpu);
    return SOFT_OK;
}

int sys_write_cr4(struct soft_cpu *cpu, uint64_t value)
{
    uint64_t changed = value ^ cpu->cr4;

    if (value & ~cpu->svm->cpuid->cr4)
        return gp0(cpu);
    if (cpu->long_mode && (!(value & CR4_PAE) || (changed & CR4_LA57)))
        return gp0(cpu);
    if ((changed & value & CR4_PCIDE) && (!cpu->long_mode || (cpu->cr3 & CR3_PCID)))
        return gp0(cpu);
    if ((changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) && pdptes_refused(cpu, cpu->cr0, cpu->cr3, value))
        return gp0(cpu);
    cpu->cr4 = value;
    cpu->stats.cr_writes++;
    cpu->stats.cr4_writes++;
    soft_mode_update(cpu);
    if (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_LA57)) {
        cpu->stats.flushes[FLUSH_CR4]++;
        mmu_flush_all(cpu);
    }
    return SOFT_OK;
}

int sys_write_efer(struct soft_cpu *cpu, uint64_t value)
{
    uint64_t changed;

    value &= ~EFER_LMA; /* read-only: follows CR0.PG */
    if (value & ~cpu->svm->cpuid->efer)
        return gp0(cpu);
    changed = (value ^ cpu->efer) & ~EFER_LMA;
    if ((changed & EFER_LME) && (cpu->cr0 & CR0_PG))
        return gp0(cpu);
    cpu->efer = value | (cpu->efer & EFER_LMA);
    soft_mode_update(cpu);
    if (changed & EFER_NXE) {
        cpu->stats.flushes[FLUSH_EFER]++;
        mmu_flush_all(cpu);
    }
    return SOFT_OK;
}

static int write_cr8(struct soft_cpu *cpu, uint64_t value)
{
    if (value & ~0xfULL)
        return gp0(cpu);
    lapic_set_cr8(cpu, value);
    cpu->stats.cr_writes++;
    return SOFT_OK;
}

static int write_cr(struct soft_cpu *cpu, unsigned number, uint64_t value)
{
    switch (number) {
    case 0: return sys_write_cr0(cpu, value);
    case 2: cpu->cr2 = value; return SOFT_OK;
    case 3: return sys_write_cr3(cpu, value);
    case 4: return sys_write_cr4(cpu, value);
    default: return write_cr8(cpu, value);
    }
}

static uint64_t read_cr(const struct soft_cpu *cpu, unsigned number)
{
    switch (number) {
    case 0: return cpu->cr0;
    case 2: return cpu->cr2;
    case 3: return cpu->cr3;
    case 4: return cpu->cr4;
    default: return lapic_cr8(cpu);
    }
}

/* MOV with an OPERAND_CR */
int sys_mov_cr(struct soft_cpu *cpu, const struct insn *insn)
{
    bool store = insn->op[0].kind == OPERAND_CR;
    const struct insn_operand *cr = &insn->op[store ? 0 : 1], *gpr = &insn->op[store ? 1 : 0];
    unsigned size = cpu->code_bits == 64 ? 8 : 4;

    if (cr->reg != 0 && cr->reg != 2 && cr->reg != 3 && cr->reg != 4 && cr->reg != 8)
        return soft_raise(cpu, EXC_UD);
    if (cpu->cpl != 0)
        return gp0(cpu);
    if (store)
        return write_cr(cpu, cr->reg, soft_gpr_read(cpu, gpr->reg, false, size));
    soft_gpr_write(cpu, gpr->reg, false, size, read_cr(cpu, cr->reg));
    return SOFT_OK;
}

/* --- debug registers: SDM vol. 3 17.2 --- */

static int write_dr(struct soft_cpu *cpu, unsigned number, uint64_t value)
{
    if (number < 4) {
        cpu->dr[number] = value;
        return SOFT_OK;
    }
    if (value >> 32)
        return gp0(cpu);
    if (number == 6)
        cpu->dr6 = (value & DR6_WRITABLE) | DR6_FIXED;
    else
        cpu->dr7 = (value & DR7_WRITABLE) | DR7_FIXED;
    return SOFT_OK;
}

/* MOV with an OPERAND_DR */
int sys_mov_dr(struct soft_cpu *cpu, const struct insn *insn)
{
    bool store = insn->op[0].kind == OPERAND_DR;
    const struct insn_operand *dr = &insn->op[store ? 0 : 1], *gpr = &insn->op[store ? 1 : 0];
    unsigned size = cpu->code_bits == 64 ? 8 : 4, number = dr->reg;

    if (number > 7)
        return soft_raise(cpu, EXC_UD);
    if (number == 4 || number == 5) {
        if (cpu->cr4 & CR4_DE)
            return soft_raise(cpu, EXC_UD);
        number += 2;
    }
    if (cpu->cpl != 0)
        return gp0(cpu);
    if (cpu->dr7 & DR7_GD) {
        cpu->dr7 &= ~DR7_GD; /* cleared on the way into the handler, which may then look */
        soft_raise(cpu, EXC_DB);
        cpu->exc.dr6 = DR6_BD;
        return SOFT_FAULT;
    }
    if (store)
        return write_dr(cpu, number, soft_gpr_read(cpu, gpr->reg, false, size));
    soft_gpr_write(cpu, gpr->reg, false, size, number < 4 ? cpu->dr[number] : number == 6 ? cpu->dr6 : cpu->dr7);
    return SOFT_OK;
}

/* --- the machine status word --- */

/* CLTS */
int sys_clts(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (cpu->cpl != 0)
        return gp0(cpu);
    cpu->cr0 &= ~CR0_TS;
    cpu->stats.cr_writes++;
    return SOFT_OK;
}

/* LMSW: PE can be set but not cleared. */
int sys_lmsw(struct soft_cpu *cpu, const struct insn *insn)
{
    const uint64_t low = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
    uint64_t value;
    int result;

    if (cpu->cpl != 0)
        return gp0(cpu);
    result = soft_op_read(cpu, insn, 0, &value);
    if (result != SOFT_OK)
        return result;
    return sys_write_cr0(cpu, (cpu->cr0 & ~(low & ~CR0_PE)) | (value & low));
}

/* SMSW */
int sys_smsw(struct soft_cpu *cpu, const struct insn *insn)
{
    if ((cpu->cr4 & CR4_UMIP) && cpu->cpl != 0)
        return gp0(cpu);
    return soft_op_write(cpu, insn, 0, cpu->cr0);
}

/* --- TLBs and caches --- */

/* The linear address of an operand that is not accessed: no limit checks. */
static gva_t operand_address(const struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t off = soft_ea(cpu, insn);
    unsigned seg = insn->mem.seg;

    if (cpu->code_bits != 64)
        return (uint32_t)(cpu->seg[seg].base + off);
    return off + (seg == SEG_FS || seg == SEG_GS ? cpu->seg[seg].base : 0);
}

/* INVLPG */
int sys_invlpg(struct soft_cpu *cpu, const struct insn *insn)
{
    gva_t gva;

    if (cpu->cpl != 0)
        return gp0(cpu);
    gva = operand_address(cpu, insn);
    if (!gva_is_canonical(gva)) /* a no-op (SDM vol. 2 INVLPG) */
        return SOFT_OK;
    cpu->stats.flushes[FLUSH_INVLPG]++;
    mmu_flush_page(cpu, gva);
    return SOFT_OK;
}

enum invpcid_type { INVPCID_ADDRESS, INVPCID_ONE, INVPCID_ALL, INVPCID_ALL_NONGLOBAL };

/* INVPCID */
int sys_invpcid(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t pcid, gva, off, type;
    int result;

    if (!cpuid_offers(cpu->svm, X86_INVPCID))
        return soft_raise(cpu, EXC_UD);
    if (cpu->cpl != 0)
        return gp0(cpu);
    type = soft_gpr_read(cpu, insn->op[0].reg, false, cpu->code_bits == 64 ? 8 : 4);
    off = soft_ea(cpu, insn);
    result = soft_load(cpu, insn->mem.seg, off, 8, &pcid);
    if (result == SOFT_OK)
        result = soft_load(cpu, insn->mem.seg, off + 8, 8, &gva);
    if (result != SOFT_OK)
        return result;
    if (type > INVPCID_ALL_NONGLOBAL || (pcid & ~CR3_PCID))
        return gp0(cpu);
    if (type <= INVPCID_ONE && !(cpu->cr4 & CR4_PCIDE) && pcid)
        return gp0(cpu);
    if (type == INVPCID_ADDRESS && !gva_is_canonical(gva))
        return gp0(cpu);
    cpu->stats.invpcids++;
    cpu->stats.flushes[FLUSH_INVPCID_ADDRESS + type]++;
    switch (type) {
    case INVPCID_ADDRESS: mmu_flush_page(cpu, gva); break;
    case INVPCID_ALL: mmu_flush_all(cpu); break;
    default: mmu_flush_nonglobal(cpu); break;
    }
    return SOFT_OK;
}

/* INVD, WBINVD, WBNOINVD: the host's caches are coherent for everything that a guest can reach. */
int sys_cache_flush(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return cpu->cpl != 0 ? gp0(cpu) : SOFT_OK;
}

/* --- the rest --- */

#define PAUSES_A_YIELD 128

/*
 * PAUSE, where there are several vCPUs: whoever spins long enough lets the host's scheduler look for another thread, which may be
 * the vCPU that is waited for.
 */
int sys_pause(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (++cpu->pauses % PAUSES_A_YIELD == 0)
        smp_relax();
    return SOFT_OK;
}

/* HLT: the run loop sleeps. */
int sys_hlt(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (cpu->cpl != 0)
        return gp0(cpu);
    cpu->halted = true;
    cpu->stats.hlts++;
    return SOFT_OK;
}

/* XGETBV */
int sys_xgetbv(struct soft_cpu *cpu, const struct insn *insn)
{
    uint32_t index = (uint32_t)cpu->gpr[GPR_RCX];
    uint64_t value = cpu->xcr0;

    (void)insn;
    if (!(cpu->cr4 & CR4_OSXSAVE))
        return soft_raise(cpu, EXC_UD);
    if (index == 1 && cpuid_offers(cpu->svm, X86_XGETBV1)) { /* XINUSE */
        soft_vec_park(cpu);
        __builtin_memcpy(&value, cpu->xsave + XSAVE_HEADER, sizeof(value));
        value &= cpu->xcr0;
    } else if (index != 0) {
        return gp0(cpu);
    }
    cpu->gpr[GPR_RAX] = (uint32_t)value;
    cpu->gpr[GPR_RDX] = value >> 32;
    return SOFT_OK;
}

/* SDM vol. 1 13.3 */
static bool xcr0_is_valid(const struct soft_cpu *cpu, uint64_t value)
{
    uint64_t avx512 = value & XCR0_AVX512;

    if ((value & ~cpu->svm->cpuid->xcr0) || !(value & XCR0_X87))
        return false;
    if ((value & XCR0_AVX) && !(value & XCR0_SSE))
        return false;
    return !avx512 || (avx512 == XCR0_AVX512 && (value & XCR0_AVX));
}

/* XSETBV */
int sys_xsetbv(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t value = (uint32_t)cpu->gpr[GPR_RAX] | cpu->gpr[GPR_RDX] << 32;

    (void)insn;
    if (!(cpu->cr4 & CR4_OSXSAVE))
        return soft_raise(cpu, EXC_UD);
    if (cpu->cpl != 0 || (uint32_t)cpu->gpr[GPR_RCX] != 0 || !xcr0_is_valid(cpu, value))
        return gp0(cpu);
    cpu->xcr0 = value;
    return SOFT_OK;
}

/* VMCALL, VMMCALL: a KVM hypercall; none exists here. */
int sys_vmcall(struct soft_cpu *cpu, const struct insn *insn)
{
    int64_t result = cpu->cpl != 0 ? -KVM_EPERM : -KVM_ENOSYS;

    (void)insn;
    soft_gpr_write(cpu, GPR_RAX, false, cpu->code_bits == 64 ? 8 : 4, (uint64_t)result);
    return SOFT_OK;
}

/* RSM, and whatever decodes but is not offered. */
int sys_undefined(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return soft_raise(cpu, EXC_UD);
}
