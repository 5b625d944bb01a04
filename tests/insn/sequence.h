/* Random code of some dozen instructions, and random registers for it: what sequence_test and anywhere_test run. */
#pragma once

#include "machine.h"
#include "rng.h"
#include "state.h"

/*
 * A piece is arithmetic that makes and takes flags, accesses through base registers that stand near the ends of pages, the stack, short strings,
 * branches forward, calls of a routine behind it. It ends at its UD2, or at a fault, for some pages are read-only and others are not there.
 */

#define CODE_BYTES 1200
#define CODE_END (ARENA + (CODE_FIRST + CODE_PAGES) * PAGE_SIZE)

struct assembler {
    struct rng *r;
    uint8_t bytes[CODE_BYTES];
    unsigned len;
    bool supervisor;
    unsigned calls[8], call_count; /* where rel32s of calls stand */
};

/* Bases are moved by small constants only, and R15, an index, stays small; the others get results. */
static const uint8_t bases[] = {GPR_RBX, GPR_RBP, GPR_RSI, GPR_RDI, GPR_R8, GPR_R12, GPR_R9};
static const uint8_t results[] = {GPR_RAX, GPR_RCX, GPR_RDX, GPR_R10, GPR_R11, GPR_R13, GPR_R14};

/* --- assembling --- */

static inline void put(struct assembler *a, unsigned byte)
{
    a->bytes[a->len++] = (uint8_t)byte;
}

static inline void put32(struct assembler *a, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        put(a, value >> 8 * i & 0xff);
}

static inline unsigned result(struct assembler *a)
{
    return results[rng_below(a->r, sizeof(results))];
}

static inline unsigned base(struct assembler *a)
{
    return rng_one_in(a->r, 3) ? GPR_RSP : bases[rng_below(a->r, sizeof(bases))];
}

static inline void put_rex(struct assembler *a, bool wide, unsigned reg, unsigned index, unsigned rm)
{
    put(a, 0x40 | wide << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | rm >> 3);
}

/* [prefix] rex opcode, with a register or a memory operand: at a base and a constant, now and then with an index too. */
static inline void put_op(struct assembler *a, unsigned prefix, bool wide, const uint8_t *opcode, unsigned opcode_len, unsigned reg,
                          bool memory)
{
    unsigned rm = memory ? base(a) : result(a);
    bool indexed = memory && rng_one_in(a->r, 8);

    if (prefix)
        put(a, prefix);
    put_rex(a, wide, reg, indexed ? GPR_R15 : 0, rm);
    for (unsigned i = 0; i < opcode_len; i++)
        put(a, opcode[i]);
    if (!memory) {
        put(a, 0xc0 | (reg & 7) << 3 | (rm & 7));
        return;
    }
    put(a, 0x40 | (reg & 7) << 3 | (indexed || (rm & 7) == 4 ? 4 : rm & 7));
    if (indexed)
        put(a, 0x40 * rng_below(a->r, 4) | 7 << 3 | (rm & 7));
    else if ((rm & 7) == 4)
        put(a, 0x24);
    put(a, rng_below(a->r, 16) * 8 - 64 + (rng_one_in(a->r, 6) ? rng_below(a->r, 8) : 0));
}

static inline void put_op1(struct assembler *a, bool wide, unsigned opcode, unsigned reg, bool memory)
{
    uint8_t byte = (uint8_t)opcode;

    put_op(a, 0, wide, &byte, 1, reg, memory);
}

static inline void put_op2(struct assembler *a, unsigned prefix, bool wide, unsigned opcode, unsigned reg, bool memory)
{
    uint8_t bytes[] = {0x0f, (uint8_t)opcode};

    put_op(a, prefix, wide, bytes, 2, reg, memory);
}

static inline void arithmetic(struct assembler *a)
{
    unsigned op = rng_below(a->r, 8) * 8; /* ADD OR ADC SBB AND SUB XOR CMP */
    bool wide = rng_one_in(a->r, 2), memory = rng_one_in(a->r, 2);

    switch (rng_below(a->r, 4)) {
    case 0: put_op1(a, wide, op + 3, result(a), memory); break;                       /* r, r/m */
    case 1: put_op1(a, wide, op + 1, result(a), memory); break;                       /* r/m, r */
    case 2: put_op1(a, false, op + rng_below(a->r, 2) * 2, result(a), memory); break; /* bytes */
    default: put_op1(a, wide, 0x83, op / 8, memory); put(a, rng_below(a->r, 256));
    }
}

static inline void unary(struct assembler *a)
{
    bool memory = rng_one_in(a->r, 3), wide = rng_one_in(a->r, 2);

    switch (rng_below(a->r, 6)) {
    case 0: put_op1(a, wide, 0xff, rng_below(a->r, 2), memory); break;     /* INC, DEC */
    case 1: put_op1(a, wide, 0xf7, 2 + rng_below(a->r, 2), memory); break; /* NOT, NEG */
    case 2:                                                                /* shifts and rotates by a constant, now and then 0 */
        put_op1(a, wide, 0xc1, rng_below(a->r, 8), memory);
        put(a, rng_below(a->r, 33));
        break;
    case 3: put_op1(a, wide, 0xd3, rng_below(a->r, 8), memory); break; /* by CL */
    case 4: put_op2(a, 0, wide, 0xaf, result(a), memory); break;       /* IMUL */
    default: put_op1(a, wide, 0x85, result(a), memory);                /* TEST */
    }
}

static inline void moves(struct assembler *a)
{
    bool wide = rng_one_in(a->r, 2);

    switch (rng_below(a->r, 8)) {
    case 0:
    case 1: put_op1(a, wide, 0x8b, result(a), true); break;
    case 2:
    case 3: put_op1(a, wide, 0x89, result(a), true); break;
    case 4: put_op2(a, 0, wide, 0xb6 + rng_below(a->r, 2) * 8 + rng_below(a->r, 2), result(a), true); break; /* MOVZX, MOVSX */
    case 5: put_op1(a, true, 0x8d, result(a), true); break;                                                  /* LEA */
    case 6:                                                                                                  /* MOV of AH to DH */
        put(a, 0x88);
        put(a, 0x40 | (4 + rng_below(a->r, 3)) << 3 | GPR_RBX);
        put(a, rng_below(a->r, 64));
        break;
    default: put_op1(a, wide, 0xc7, 0, true); put32(a, (uint32_t)rng_next(a->r));
    }
}

static inline void flags_used(struct assembler *a)
{
    switch (rng_below(a->r, 3)) {
    case 0: put_op2(a, 0, false, 0x90 + rng_below(a->r, 16), 0, rng_one_in(a->r, 2)); break; /* SETcc */
    case 1: put_op2(a, 0, rng_one_in(a->r, 2), 0x40 + rng_below(a->r, 16), result(a), rng_one_in(a->r, 2)); break;
    default: put(a, rng_below(a->r, 2) ? 0xf5 : 0xf8 + rng_below(a->r, 2)); /* CMC, CLC, STC */
    }
}

static inline void vectors(struct assembler *a)
{
    unsigned reg = rng_below(a->r, 8);

    switch (rng_below(a->r, 4)) {
    case 0: put_op2(a, 0, false, 0x10, reg, true); break; /* MOVUPS */
    case 1: put_op2(a, 0, false, 0x11, reg, true); break;
    case 2: put_op2(a, 0x66, false, 0xd4, reg, false); break; /* PADDQ of registers: R13D is XMM13 */
    default: put_op2(a, 0xf3, false, 0x7e, reg, true);        /* MOVQ */
    }
}

static inline void stack(struct assembler *a)
{
    unsigned reg = result(a);

    switch (rng_below(a->r, 8)) {
    case 0:
        put(a, 0x6a);
        put(a, rng_below(a->r, 256));
        break;
    case 1:
        put(a, 0x48);
        put(a, 0x83);
        put(a, rng_one_in(a->r, 2) ? 0xc4 : 0xec);
        put(a, 8 * rng_below(a->r, 8));
        break; /* ADD, SUB RSP */
    case 2:
        put(a, 0x9c); /* PUSHFQ, and often POPFQ */
        if (rng_one_in(a->r, 2))
            put(a, 0x9d);
        break;
    default:
        if (reg & 8)
            put(a, 0x41);
        put(a, (rng_one_in(a->r, 2) ? 0x50 : 0x58) | (reg & 7));
    }
}

static inline void move_base(struct assembler *a)
{
    unsigned reg = base(a);

    put_rex(a, true, 0, 0, reg);
    put(a, 0x83);
    put(a, 0xc0 | (rng_one_in(a->r, 2) ? 5 : 0) << 3 | (reg & 7));
    put(a, 8 * rng_below(a->r, 5));
}

static inline void string(struct assembler *a)
{
    bool wide = rng_one_in(a->r, 2);

    put(a, 0xb9); /* MOV ECX */
    put32(a, rng_one_in(a->r, 8) ? 0 : rng_below(a->r, 40));
    put(a, 0xf3);
    if (wide)
        put(a, 0x48);
    put(a, (rng_one_in(a->r, 2) ? 0xa4 : 0xaa) + wide);
}

static inline void system_one(struct assembler *a)
{
    static const uint8_t user[] = {0xfc, 0xfc, 0x90, 0xfd}, supervisor[] = {0xfa, 0xfb, 0xfc, 0x90};

    put(a, a->supervisor ? supervisor[rng_below(a->r, 4)] : user[rng_below(a->r, rng_one_in(a->r, 20) ? 4 : 3)]);
}

/* LEA RAX of what comes behind a jump through it. */
static inline void indirect_jump(struct assembler *a)
{
    static const uint8_t code[] = {0x48, 0x8d, 0x05, 2, 0, 0, 0, 0xff, 0xe0};

    for (unsigned i = 0; i < sizeof(code); i++)
        put(a, code[i]);
}

static inline void call(struct assembler *a)
{
    if (a->call_count == ARRAY_SIZE(a->calls))
        return;
    put(a, 0xe8);
    a->calls[a->call_count++] = a->len;
    put32(a, 0);
}

static inline void straight(struct assembler *a)
{
    switch (rng_below(a->r, 16)) {
    case 0:
    case 1:
    case 2:
    case 3: arithmetic(a); break;
    case 4:
    case 5: unary(a); break;
    case 6:
    case 7:
    case 8: moves(a); break;
    case 9: flags_used(a); break;
    case 10: vectors(a); break;
    case 11:
    case 12: stack(a); break;
    case 13: move_base(a); break;
    case 14: system_one(a); break;
    default: string(a);
    }
}

/* A branch over some instructions. */
static inline void branch(struct assembler *a)
{
    bool near = rng_one_in(a->r, 2);

    put(a, near ? 0x0f : 0x70 + rng_below(a->r, 16));
    if (near)
        put(a, 0x80 + rng_below(a->r, 16));
    unsigned at = a->len;
    for (unsigned i = 0; i < (near ? 4 : 1); i++)
        put(a, 0);
    unsigned from = a->len;
    for (unsigned n = rng_below(a->r, 4); n > 0; n--)
        straight(a);
    if (a->len - from > 127 && !near)
        abort();
    a->bytes[at] = (uint8_t)(a->len - from);
    if (near)
        a->bytes[at + 1] = (uint8_t)((a->len - from) >> 8);
}

static inline void assemble(struct assembler *a)
{
    unsigned count = 4 + rng_below(a->r, 40);

    a->len = a->call_count = 0;
    for (unsigned i = 0; i < count; i++)
        switch (rng_below(a->r, 16)) {
        case 0:
        case 1: branch(a); break;
        case 2: call(a); break;
        case 3: indirect_jump(a); break;
        default: straight(a);
        }
    put(a, 0x0f); /* UD2 */
    put(a, 0x0b);
    unsigned routine = a->len;
    for (unsigned n = rng_below(a->r, 5); n > 0; n--)
        straight(a);
    put(a, 0xc3);
    for (unsigned i = 0; i < a->call_count; i++) {
        uint32_t rel = routine - (a->calls[i] + 4);
        memcpy(a->bytes + a->calls[i], &rel, 4);
    }
}

/* --- registers --- */

static inline uint64_t random_base(struct rng *r)
{
    static const uint8_t edges[] = {5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 8, 10, 12, 15, 15, 15, 15, 16, 16, 16, 16, 17};
    uint64_t edge = ARENA + edges[rng_below(r, sizeof(edges))] * PAGE_SIZE;

    if (rng_one_in(r, 3))
        return edge - 512 - 8 * rng_below(r, 256); /* well inside */
    return edge + 8 * rng_below(r, 32) - 128 + (rng_one_in(r, 8) ? rng_below(r, 8) : 0);
}

static inline void make_state(struct rng *r, const struct soft_cpuid *model, struct outcome *in)
{
    for (unsigned i = 0; i < GPR_COUNT; i++)
        in->gpr[i] = random_value(r);
    for (unsigned i = 0; i < sizeof(bases); i++)
        in->gpr[bases[i]] = random_base(r);
    in->gpr[GPR_RSP] = random_base(r);
    in->gpr[GPR_R15] = rng_below(r, 40);
    in->rflags = rng_next(r) & FLAG_ARITH;
    random_image(r, model, in->image);
    in->rip = rng_one_in(r, 2) ? ARENA + CODE_FIRST * PAGE_SIZE + rng_below(r, PAGE_SIZE) : CODE_END - PAGE_SIZE - rng_below(r, 300);
    if (in->rip + CODE_BYTES > CODE_END)
        in->rip = CODE_END - CODE_BYTES;
}

static inline void set_mode(struct machine *m, bool supervisor)
{
    struct soft_cpu *cpu = m->cpu;

    machine_mode(m, 64, 0, 0);
    if (!supervisor)
        return;
    cpu->seg[SEG_CS].attr = 0x9b | SEG_G | SEG_L;
    cpu->seg[SEG_CS].sel = 0x10;
    cpu->seg[SEG_SS].attr = 0x93 | SEG_DB | SEG_G;
    cpu->seg[SEG_SS].sel = 0x18;
    soft_mode_update(cpu);
}
