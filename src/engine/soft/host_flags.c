/* Which arithmetic flags instructions surely overwrite: what the manual says, and what it leaves open and this CPU does. */
#include "engine/soft/host_flags.h"

#include "x86/regs.h"

/*
 * Theory of operation. Compilers' code is full of AND, XOR and TEST, of which the manual says that they leave AF undefined: so a CPU might keep the
 * old value, and what stands before them would have to hand it on. No CPU does. An instruction that was run with all flags clear and with all set,
 * on the same operands, and left the same flags, has overwritten them.
 */

#define SAMPLES 16

/* Flags by which two runs on the same RAX and RDX differ that began with other ones. The compiler may use what lies below the stack pointer. */
#define KEPT_BY(insn)                                                                                                                      \
    ({                                                                                                                                     \
        uint64_t kept_ = 0;                                                                                                                \
        for (uint64_t n_ = 0; n_ < SAMPLES; n_++) {                                                                                        \
            uint64_t flags_[] = {FLAG_ONE, FLAG_ONE | FLAG_ARITH};                                                                         \
            for (unsigned k_ = 0; k_ < 2; k_++) {                                                                                          \
                uint64_t rax_ = n_ * 0x9e3779b97f4a7c15ULL, rdx_ = (7 * n_ + 1) * 0xc2b2ae3d27d4eb4fULL;                                   \
                __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpush %0\n\tpopf\n\t" insn "\n\tpushf\n\tpop %0\n\tlea 128(%%rsp), %%rsp"       \
                                 : "+r"(flags_[k_]), "+a"(rax_), "+d"(rdx_)                                                                \
                                 :                                                                                                         \
                                 : "cc", "memory");                                                                                        \
            }                                                                                                                              \
            kept_ |= flags_[0] ^ flags_[1];                                                                                                \
        }                                                                                                                                  \
        (uint16_t)(kept_ & FLAG_ARITH);                                                                                                    \
    })

#define KEPT_BY_LOGIC(name)                                                                                                                \
    (KEPT_BY(name "b %%dl, %%al") | KEPT_BY(name "w %%dx, %%ax") | KEPT_BY(name "l %%edx, %%eax") | KEPT_BY(name "q %%rdx, %%rax"))

#define KEPT_BY_SHIFT(name, count)                                                                                                         \
    (KEPT_BY(name "b $" count ", %%al") | KEPT_BY(name "w $" count ", %%ax") | KEPT_BY(name "l $" count ", %%eax") |                       \
     KEPT_BY(name "q $" count ", %%rax"))

#define KEPT_BY_SHIFTS(name) (KEPT_BY_SHIFT(name, "1") | KEPT_BY_SHIFT(name, "2") | KEPT_BY_SHIFT(name, "7"))

struct host_flags host_flags_probe(void)
{
    return (struct host_flags){
        .logic = KEPT_BY_LOGIC("and") | KEPT_BY_LOGIC("or") | KEPT_BY_LOGIC("xor") | KEPT_BY_LOGIC("test") |
                 KEPT_BY("andn %%rdx, %%rax, %%rax"),
        .shift = KEPT_BY_SHIFTS("shl") | KEPT_BY_SHIFTS("shr") | KEPT_BY_SHIFTS("sar"),
    };
}

/* By a constant that is neither 0, which leaves all flags, nor more than the operand has bits, where CF is undefined too (SDM vol. 2 SAL). */
static bool shifts_by_constant(const struct insn *insn)
{
    return insn->op[1].kind == OPERAND_IMM && insn->op[1].imm > 0 && insn->op[1].imm < insn->op[0].size * 8;
}

uint16_t host_flags_killed(const struct host_flags *host, const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_ANDN: return insn->cpuflags_written & ~host->logic;
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR: return shifts_by_constant(insn) ? insn->cpuflags_written & ~host->shift : 0;
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: return 0; /* by a count that may be 0 */
    default: return insn->cpuflags_written & ~insn->cpuflags_undefined;
    }
}
