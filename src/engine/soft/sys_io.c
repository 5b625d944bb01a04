/* IN, OUT, INS, OUTS: permission by IOPL and the TSS bitmap, then the port bus. */
#include "engine/soft/debugger.h"
#include "engine/soft/mmu.h"
#include "engine/soft/sys.h"
#include "engine/soft/sys_prefix.h"

#define TSS_IO_MAP_BASE 0x66 /* SDM vol. 3 figure 7-11; the same place in a 64-bit TSS */

/* Elements of one REP INS/OUTS before interrupts get their chance. */
#define IO_CHUNK 1024

static int gp0(struct soft_cpu *cpu)
{
    return soft_raise_err(cpu, EXC_GP, 0);
}

static uint64_t size_mask(unsigned bytes)
{
    return bytes >= 8 ? UINT64_MAX : BIT(bytes * 8) - 1;
}

static int tss_read16(struct soft_cpu *cpu, uint32_t off, uint16_t *value)
{
    gva_t gva = cpu->tr.base + off;

    return mmu_read(cpu, cpu->long_mode ? gva : (uint32_t)gva, value, sizeof(*value), MMU_READ | MMU_SUPERVISOR);
}

/* The I/O permission bit map (SDM vol. 1 18.5.2): every port of the access must be clear in it. */
static int check_bitmap(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
    const struct cpu_seg *tr = &cpu->tr;
    unsigned type = SEG_TYPE(tr->attr);
    uint16_t base, bits;
    uint32_t at;
    int result;

    /* A 16-bit TSS has no map. */
    if ((type != 9 && type != 11) || (tr->attr & SEG_UNUSABLE) || tr->limit < TSS_IO_MAP_BASE + 1)
        return gp0(cpu);
    result = tss_read16(cpu, TSS_IO_MAP_BASE, &base);
    if (result != SOFT_OK)
        return result;
    at = (uint32_t)base + port / 8;
    if (at + 1 > tr->limit) /* two bytes are always read */
        return gp0(cpu);
    result = tss_read16(cpu, at, &bits);
    if (result != SOFT_OK)
        return result;
    return bits >> (port & 7) & ((1u << size) - 1) ? gp0(cpu) : SOFT_OK;
}

static int check_port(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
    unsigned iopl = (cpu->rflags & FLAG_IOPL) >> FLAG_IOPL_SHIFT;

    if (!cpu->protected_mode || (!(cpu->rflags & FLAG_VM) && cpu->cpl <= iopl))
        return SOFT_OK;
    return check_bitmap(cpu, port, size);
}

/* The opcodes' low bit tells a byte from a word or doubleword; REX.W changes nothing. */
static unsigned io_size(const struct insn *insn)
{
    return insn->opcode & 1 ? MIN(insn->opsize, 4u) : 1;
}

static uint16_t io_port(const struct soft_cpu *cpu, const struct insn *insn)
{
    return insn->opcode & 8 ? (uint16_t)cpu->gpr[GPR_RDX] : insn->bytes[insn->len - 1];
}

/* IN */
int sys_in(struct soft_cpu *cpu, const struct insn *insn)
{
    unsigned size = io_size(insn);
    uint16_t port = io_port(cpu, insn);
    int result = check_port(cpu, port, size);

    if (result != SOFT_OK)
        return result;
    soft_vec_park(cpu);
    soft_gpr_write(cpu, GPR_RAX, false, size, vcpu_pio_read(cpu->vcpu, port, size));
    return SOFT_OK;
}

/* OUT */
int sys_out(struct soft_cpu *cpu, const struct insn *insn)
{
    unsigned size = io_size(insn);
    uint16_t port = io_port(cpu, insn);
    int result = check_port(cpu, port, size);

    if (result != SOFT_OK)
        return result;
    soft_vec_park(cpu);
    vcpu_pio_write(cpu->vcpu, port, size, cpu->gpr[GPR_RAX] & size_mask(size));
    return SOFT_OK;
}

/* One element from the port to ES:rDI. The store is known to succeed before the port is read. */
static int ins_one(struct soft_cpu *cpu, uint16_t port, unsigned size, uint64_t off)
{
    gva_t gva;
    uint64_t value;
    int result = soft_linear(cpu, SEG_ES, off, size, true, &gva);

    if (result == SOFT_OK)
        result = soft_check_write(cpu, gva, size);
    if (result != SOFT_OK)
        return result;
    value = vcpu_pio_read(cpu->vcpu, port, size);
    return mmu_write(cpu, gva, &value, size, MMU_WRITE);
}

static int outs_one(struct soft_cpu *cpu, uint16_t port, unsigned size, unsigned seg, uint64_t off)
{
    uint64_t value;
    int result = soft_load(cpu, seg, off, size, &value);

    if (result == SOFT_OK)
        vcpu_pio_write(cpu->vcpu, port, size, value);
    return result;
}

/* INS and OUTS, one element or a chunk of them; each element is committed by itself, so that a fault resumes there. */
static int string_io(struct soft_cpu *cpu, const struct insn *insn, bool input)
{
    struct sys_prefix prefix = sys_prefix_scan(insn);
    unsigned size = io_size(insn), reg = input ? GPR_RDI : GPR_RSI, left = IO_CHUNK;
    uint64_t mask = size_mask(insn->addrsize);
    uint16_t port = (uint16_t)cpu->gpr[GPR_RDX];
    int64_t step = cpu->rflags & FLAG_DF ? -(int64_t)size : (int64_t)size;
    int result;

    if (prefix.rep && !(cpu->gpr[GPR_RCX] & mask))
        return SOFT_OK;
    result = check_port(cpu, port, size);
    if (result != SOFT_OK)
        return result;
    if (cpu->rflags & FLAG_TF) /* a trap after every iteration (SDM vol. 3 17.3.1.4) */
        left = 1;
    soft_vec_park(cpu);
    do {
        uint64_t off = cpu->gpr[reg] & mask;
        result = input ? ins_one(cpu, port, size, off) : outs_one(cpu, port, size, prefix.seg, off);
        if (result != SOFT_OK)
            return result;
        soft_gpr_write(cpu, reg, false, insn->addrsize, off + (uint64_t)step);
        if (!prefix.rep)
            return SOFT_OK;
        soft_gpr_write(cpu, GPR_RCX, false, insn->addrsize, cpu->gpr[GPR_RCX] - 1);
        if (!(cpu->gpr[GPR_RCX] & mask))
            return SOFT_OK;
    } while (--left && !cpu->debug_hit && !debugger_one_iteration(cpu) && !atomic_load_explicit(&cpu->attention, memory_order_relaxed));
    cpu->next_rip = cpu->rip; /* goes on after pending interrupts */
    return SOFT_OK;
}

/* INSB, INSW, INSD */
int sys_ins(struct soft_cpu *cpu, const struct insn *insn)
{
    return string_io(cpu, insn, true);
}

/* OUTSB, OUTSW, OUTSD */
int sys_outs(struct soft_cpu *cpu, const struct insn *insn)
{
    return string_io(cpu, insn, false);
}
