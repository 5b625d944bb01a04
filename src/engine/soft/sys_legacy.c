/* BCD arithmetic and other 8086 heritage, XLAT, bit tests that reach beyond their operand, CLZERO. */
#include "engine/soft/mmu.h"
#include "engine/soft/sys.h"
#include "engine/soft/sys_prefix.h"

static uint64_t size_mask(unsigned bytes)
{
    return bytes >= 8 ? UINT64_MAX : BIT(bytes * 8) - 1;
}

static uint8_t get_al(const struct soft_cpu *cpu)
{
    return (uint8_t)cpu->gpr[GPR_RAX];
}

static void set_al(struct soft_cpu *cpu, unsigned al)
{
    soft_gpr_write(cpu, GPR_RAX, false, 1, al);
}

static void set_ax(struct soft_cpu *cpu, unsigned ah, unsigned al)
{
    soft_gpr_write(cpu, GPR_RAX, false, 2, (ah & 0xff) << 8 | (al & 0xff));
}

static void set_flags(struct soft_cpu *cpu, uint64_t which, uint64_t value)
{
    cpu->rflags = (cpu->rflags & ~which) | (value & which);
}

/* SF, ZF and PF of a byte. */
static uint64_t byte_flags(uint8_t value)
{
    return (value & 0x80 ? FLAG_SF : 0) | (value ? 0 : FLAG_ZF) | (__builtin_parity(value) ? 0 : FLAG_PF);
}

/* --- BCD: SDM vol. 2. Flags that are undefined there stay as they are. --- */

static bool needs_adjust(const struct soft_cpu *cpu)
{
    return (get_al(cpu) & 0xf) > 9 || (cpu->rflags & FLAG_AF);
}

/* AAA */
int sys_aaa(struct soft_cpu *cpu, const struct insn *insn)
{
    bool adjust = needs_adjust(cpu);

    (void)insn;
    if (adjust)
        soft_gpr_write(cpu, GPR_RAX, false, 2, cpu->gpr[GPR_RAX] + 0x106);
    set_al(cpu, get_al(cpu) & 0xf);
    set_flags(cpu, FLAG_AF | FLAG_CF, adjust ? FLAG_AF | FLAG_CF : 0);
    return SOFT_OK;
}

/* AAS */
int sys_aas(struct soft_cpu *cpu, const struct insn *insn)
{
    bool adjust = needs_adjust(cpu);

    (void)insn;
    if (adjust)
        soft_gpr_write(cpu, GPR_RAX, false, 2, cpu->gpr[GPR_RAX] - 0x106);
    set_al(cpu, get_al(cpu) & 0xf);
    set_flags(cpu, FLAG_AF | FLAG_CF, adjust ? FLAG_AF | FLAG_CF : 0);
    return SOFT_OK;
}

/* AAM */
int sys_aam(struct soft_cpu *cpu, const struct insn *insn)
{
    uint8_t base = insn->bytes[insn->len - 1], al = get_al(cpu);

    if (!base)
        return soft_raise(cpu, EXC_DE);
    set_ax(cpu, al / base, al % base);
    set_flags(cpu, FLAG_SF | FLAG_ZF | FLAG_PF, byte_flags(get_al(cpu)));
    return SOFT_OK;
}

/* AAD */
int sys_aad(struct soft_cpu *cpu, const struct insn *insn)
{
    uint8_t base = insn->bytes[insn->len - 1], ah = (uint8_t)(cpu->gpr[GPR_RAX] >> 8);

    set_ax(cpu, 0, get_al(cpu) + ah * base);
    set_flags(cpu, FLAG_SF | FLAG_ZF | FLAG_PF, byte_flags(get_al(cpu)));
    return SOFT_OK;
}

/* DAA and DAS: sign +1 adds the corrections, -1 takes them away. */
static int decimal_adjust(struct soft_cpu *cpu, int sign)
{
    unsigned old = get_al(cpu), al = old;
    bool old_cf = cpu->rflags & FLAG_CF, low = needs_adjust(cpu), high = old > 0x99 || old_cf, cf = high;

    if (low) {
        al += (unsigned)(sign * 6);
        cf |= al > 0xff; /* a carry or a borrow out of the byte */
    }
    if (high)
        al += (unsigned)(sign * 0x60);
    if (sign > 0)
        cf = high; /* DAA decides anew */
    set_al(cpu, al);
    set_flags(cpu, FLAG_AF | FLAG_CF | FLAG_SF | FLAG_ZF | FLAG_PF, (low ? FLAG_AF : 0) | (cf ? FLAG_CF : 0) | byte_flags((uint8_t)al));
    return SOFT_OK;
}

/* DAA */
int sys_daa(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return decimal_adjust(cpu, 1);
}

/* DAS */
int sys_das(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return decimal_adjust(cpu, -1);
}

/* SALC */
int sys_salc(struct soft_cpu *cpu, const struct insn *insn)
{
    (void)insn;
    set_al(cpu, cpu->rflags & FLAG_CF ? 0xff : 0);
    return SOFT_OK;
}

/* --- implicit memory --- */

/* XLAT: AL = [rBX + AL] */
int sys_xlat(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t off = (cpu->gpr[GPR_RBX] + get_al(cpu)) & size_mask(insn->addrsize), value;
    int result = soft_load(cpu, sys_prefix_scan(insn).seg, off, 1, &value);

    if (result == SOFT_OK)
        set_al(cpu, (unsigned)value);
    return result;
}

#define CLZERO_BYTES 64

/* CLZERO: the cache line at rAX */
int sys_clzero(struct soft_cpu *cpu, const struct insn *insn)
{
    static const uint64_t zero[CLZERO_BYTES / 8];
    uint64_t off = ALIGN_DOWN(cpu->gpr[GPR_RAX] & size_mask(insn->addrsize), CLZERO_BYTES);
    gva_t gva;
    int result = soft_linear(cpu, sys_prefix_scan(insn).seg, off, CLZERO_BYTES, true, &gva);

    return result != SOFT_OK ? result : mmu_write(cpu, gva, zero, CLZERO_BYTES, MMU_WRITE);
}

/* --- BT, BTS, BTR, BTC on memory by a register: the offset is signed and reaches any element around the operand --- */

#define HOST_BIT_OP(name)                                                                                                                  \
    static bool host_##name(void *host, unsigned size, uint64_t bit)                                                                       \
    {                                                                                                                                      \
        bool old;                                                                                                                          \
        if (size == 2)                                                                                                                     \
            __asm__ volatile("lock " #name "w %w2, %1" : "=@ccc"(old), "+m"(*(uint16_t *)host) : "r"(bit) : "memory");                     \
        else if (size == 4)                                                                                                                \
            __asm__ volatile("lock " #name "l %k2, %1" : "=@ccc"(old), "+m"(*(uint32_t *)host) : "r"(bit) : "memory");                     \
        else                                                                                                                               \
            __asm__ volatile("lock " #name "q %2, %1" : "=@ccc"(old), "+m"(*(uint64_t *)host) : "r"(bit) : "memory");                      \
        return old;                                                                                                                        \
    }

/* Locked whether the guest asks for it or not. */
HOST_BIT_OP(bts)
HOST_BIT_OP(btr)
HOST_BIT_OP(btc)

static bool host_bit_op(uint16_t mnemonic, void *host, unsigned size, uint64_t bit)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_BTS: return host_bts(host, size, bit);
    case ZYDIS_MNEMONIC_BTR: return host_btr(host, size, bit);
    default: return host_btc(host, size, bit);
    }
}

static uint64_t bit_result(uint16_t mnemonic, uint64_t value, uint64_t bit)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_BTS: return value | BIT(bit);
    case ZYDIS_MNEMONIC_BTR: return value & ~BIT(bit);
    default: return value ^ BIT(bit);
    }
}

/* The element that crosses a page or lies in a device: read and written in two steps. */
static int bit_modify(struct soft_cpu *cpu, uint16_t mnemonic, gva_t gva, unsigned size, uint64_t bit, bool *old)
{
    uint64_t value = 0;
    int result = soft_check_write(cpu, gva, size);

    if (result == SOFT_OK)
        result = mmu_read(cpu, gva, &value, size, MMU_READ);
    if (result != SOFT_OK)
        return result;
    *old = value >> bit & 1;
    value = bit_result(mnemonic, value, bit);
    return mmu_write(cpu, gva, &value, size, MMU_WRITE);
}

/* BT, BTS, BTR, BTC with a memory operand and a register offset */
int sys_bit_test(struct soft_cpu *cpu, const struct insn *insn)
{
    unsigned size = insn->op[0].size, spare = 64 - size * 8;
    int64_t offset = (int64_t)(soft_gpr_read(cpu, insn->op[1].reg, false, size) << spare) >> spare;
    uint64_t bit = (uint64_t)offset & (size * 8 - 1), value = 0;
    uint64_t ea = (soft_ea(cpu, insn) + (uint64_t)((offset - (int64_t)bit) / 8)) & size_mask(insn->addrsize);
    bool modifies = insn->mnemonic != ZYDIS_MNEMONIC_BT, old = false;
    void *host;
    gva_t gva;
    int result = soft_linear(cpu, insn->mem.seg, ea, size, modifies, &gva);

    if (result == SOFT_OK)
        result = soft_check_alignment(cpu, gva, size);
    if (result != SOFT_OK)
        return result;
    if (!modifies) {
        result = mmu_read(cpu, gva, &value, size, MMU_READ);
        old = value >> bit & 1;
    } else {
        result = mmu_host(cpu, gva, size, MMU_WRITE, &host);
        if (result == SOFT_OK && host)
            old = host_bit_op(insn->mnemonic, host, size, bit);
        else if (result == SOFT_OK)
            result = bit_modify(cpu, insn->mnemonic, gva, size, bit, &old);
    }
    if (result == SOFT_OK)
        set_flags(cpu, FLAG_CF, old ? FLAG_CF : 0);
    return result;
}
