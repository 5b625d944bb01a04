/* Which arithmetic flags instructions surely overwrite: what the manual says, and what it leaves open and this CPU does. */
#include "engine/soft/host_flags.h"

#include "x86/regs.h"

/*
 * Theory of operation. Compilers' code is full of AND, XOR and TEST, of which the manual says that they leave AF undefined: so a CPU might keep the
 * old value, and what stands before them would have to hand it on. No CPU does. An instruction that was run with all flags clear and with all set,
 * on the same operands, and left the same flags, has overwritten them.
 */

#define SAMPLES 16

/* Adds to kept the flags by which two runs on the same RAX and RDX differ. The compiler may use what lies below the stack pointer. */
#define TRY(kept, insn)                                                                                                                    \
    do {                                                                                                                                   \
        for (uint64_t n = 0; n < SAMPLES; n++) {                                                                                           \
            uint64_t flags[] = {FLAG_ONE, FLAG_ONE | FLAG_ARITH};                                                                          \
            for (unsigned k = 0; k < ARRAY_SIZE(flags); k++) {                                                                             \
                uint64_t rax = n * 0x9e3779b97f4a7c15ULL, rdx = (7 * n + 1) * 0xc2b2ae3d27d4eb4fULL;                                       \
                __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpush %0\n\tpopf\n\t" insn "\n\tpushf\n\tpop %0\n\tlea 128(%%rsp), %%rsp"       \
                                 : "+r"(flags[k]), "+a"(rax), "+d"(rdx)                                                                    \
                                 :                                                                                                         \
                                 : "cc", "memory");                                                                                        \
            }                                                                                                                              \
            (kept) |= (uint16_t)((flags[0] ^ flags[1]) & FLAG_ARITH);                                                                      \
        }                                                                                                                                  \
    } while (0)

#define TRY_LOGIC(kept, name)                                                                                                              \
    do {                                                                                                                                   \
        TRY(kept, name "b %%dl, %%al");                                                                                                    \
        TRY(kept, name "w %%dx, %%ax");                                                                                                    \
        TRY(kept, name "l %%edx, %%eax");                                                                                                  \
        TRY(kept, name "q %%rdx, %%rax");                                                                                                  \
    } while (0)

#define TRY_SHIFT(kept, name, count)                                                                                                       \
    do {                                                                                                                                   \
        TRY(kept, name "b $" count ", %%al");                                                                                              \
        TRY(kept, name "w $" count ", %%ax");                                                                                              \
        TRY(kept, name "l $" count ", %%eax");                                                                                             \
        TRY(kept, name "q $" count ", %%rax");                                                                                             \
    } while (0)

static uint16_t kept_by_logic(void)
{
    uint16_t kept = 0;

    TRY_LOGIC(kept, "and");
    TRY_LOGIC(kept, "or");
    TRY_LOGIC(kept, "xor");
    TRY_LOGIC(kept, "test");
    TRY(kept, "andn %%rdx, %%rax, %%rax");
    return kept;
}

static uint16_t kept_by_shifts(void)
{
    uint16_t kept = 0;

    TRY_SHIFT(kept, "shl", "1");
    TRY_SHIFT(kept, "shl", "7");
    TRY_SHIFT(kept, "shr", "1");
    TRY_SHIFT(kept, "shr", "7");
    TRY_SHIFT(kept, "sar", "1");
    TRY_SHIFT(kept, "sar", "7");
    return kept;
}

struct host_flags host_flags_probe(void)
{
    return (struct host_flags){.logic = kept_by_logic(), .shift = kept_by_shifts()};
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
