/* Random sequences of instructions, by step and through translated code, on the same registers and memory: what a block does as a whole. */
#include <errno.h>
#include <getopt.h>

#include "compare.h"
#include "machine.h"
#include "rng.h"
#include "state.h"

/*
 * A case is one piece of code: arithmetic that makes and takes flags, accesses through base registers that stand near the ends of pages, the
 * stack, short strings, branches forward, calls of a routine behind it. It ends at its UD2, or at a fault, for some pages are read-only and
 * others are not there. Flags that a block overwrites unread may be anything at a fault, so there they do not count.
 */

#define CODE_BYTES 1200
#define STEPS_MAX 4000
#define CODE_END (ARENA + (CODE_FIRST + CODE_PAGES) * PAGE_SIZE)

struct assembler {
    struct rng *r;
    uint8_t bytes[CODE_BYTES];
    unsigned len;
    bool supervisor;
    unsigned calls[8], call_count; /* where rel32s of calls stand */
};

static struct test {
    struct machine machine;
    uint8_t pristine[ARENA_PAGES * PAGE_SIZE], stepped[ARENA_PAGES * PAGE_SIZE];
    struct assembler a;
    struct outcome in, step, code;
    uint64_t passed, failed, skipped, ended, faulted;
} t;

/* Bases are moved by small constants only, and R15, an index, stays small; the others get results. */
static const uint8_t bases[] = {GPR_RBX, GPR_RBP, GPR_RSI, GPR_RDI, GPR_R8, GPR_R12, GPR_R9};
static const uint8_t results[] = {GPR_RAX, GPR_RCX, GPR_RDX, GPR_R10, GPR_R11, GPR_R13, GPR_R14};

/* --- assembling --- */

static void put(struct assembler *a, unsigned byte)
{
    a->bytes[a->len++] = (uint8_t)byte;
}

static void put32(struct assembler *a, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        put(a, value >> 8 * i & 0xff);
}

static unsigned result(struct assembler *a)
{
    return results[rng_below(a->r, sizeof(results))];
}

static unsigned base(struct assembler *a)
{
    return rng_one_in(a->r, 3) ? GPR_RSP : bases[rng_below(a->r, sizeof(bases))];
}

static void put_rex(struct assembler *a, bool wide, unsigned reg, unsigned index, unsigned rm)
{
    put(a, 0x40 | wide << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | rm >> 3);
}

/* [prefix] rex opcode, with a register or a memory operand: at a base and a constant, now and then with an index too. */
static void put_op(struct assembler *a, unsigned prefix, bool wide, const uint8_t *opcode, unsigned opcode_len, unsigned reg, bool memory)
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

static void put_op1(struct assembler *a, bool wide, unsigned opcode, unsigned reg, bool memory)
{
    uint8_t byte = (uint8_t)opcode;

    put_op(a, 0, wide, &byte, 1, reg, memory);
}

static void put_op2(struct assembler *a, unsigned prefix, bool wide, unsigned opcode, unsigned reg, bool memory)
{
    uint8_t bytes[] = {0x0f, (uint8_t)opcode};

    put_op(a, prefix, wide, bytes, 2, reg, memory);
}

static void arithmetic(struct assembler *a)
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

static void unary(struct assembler *a)
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

static void moves(struct assembler *a)
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

static void flags_used(struct assembler *a)
{
    switch (rng_below(a->r, 3)) {
    case 0: put_op2(a, 0, false, 0x90 + rng_below(a->r, 16), 0, rng_one_in(a->r, 2)); break; /* SETcc */
    case 1: put_op2(a, 0, rng_one_in(a->r, 2), 0x40 + rng_below(a->r, 16), result(a), rng_one_in(a->r, 2)); break;
    default: put(a, rng_below(a->r, 2) ? 0xf5 : 0xf8 + rng_below(a->r, 2)); /* CMC, CLC, STC */
    }
}

static void vectors(struct assembler *a)
{
    unsigned reg = rng_below(a->r, 8);

    switch (rng_below(a->r, 4)) {
    case 0: put_op2(a, 0, false, 0x10, reg, true); break; /* MOVUPS */
    case 1: put_op2(a, 0, false, 0x11, reg, true); break;
    case 2: put_op2(a, 0x66, false, 0xd4, reg, false); break; /* PADDQ of registers: R13D is XMM13 */
    default: put_op2(a, 0xf3, false, 0x7e, reg, true);        /* MOVQ */
    }
}

static void stack(struct assembler *a)
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

static void move_base(struct assembler *a)
{
    unsigned reg = base(a);

    put_rex(a, true, 0, 0, reg);
    put(a, 0x83);
    put(a, 0xc0 | (rng_one_in(a->r, 2) ? 5 : 0) << 3 | (reg & 7));
    put(a, 8 * rng_below(a->r, 5));
}

static void string(struct assembler *a)
{
    bool wide = rng_one_in(a->r, 2);

    put(a, 0xb9); /* MOV ECX */
    put32(a, rng_one_in(a->r, 8) ? 0 : rng_below(a->r, 40));
    put(a, 0xf3);
    if (wide)
        put(a, 0x48);
    put(a, (rng_one_in(a->r, 2) ? 0xa4 : 0xaa) + wide);
}

static void system_one(struct assembler *a)
{
    static const uint8_t user[] = {0xfc, 0xfc, 0x90, 0xfd}, supervisor[] = {0xfa, 0xfb, 0xfc, 0x90};

    put(a, a->supervisor ? supervisor[rng_below(a->r, 4)] : user[rng_below(a->r, rng_one_in(a->r, 20) ? 4 : 3)]);
}

/* LEA RAX of what comes behind a jump through it. */
static void indirect_jump(struct assembler *a)
{
    static const uint8_t code[] = {0x48, 0x8d, 0x05, 2, 0, 0, 0, 0xff, 0xe0};

    for (unsigned i = 0; i < sizeof(code); i++)
        put(a, code[i]);
}

static void call(struct assembler *a)
{
    if (a->call_count == ARRAY_SIZE(a->calls))
        return;
    put(a, 0xe8);
    a->calls[a->call_count++] = a->len;
    put32(a, 0);
}

static void straight(struct assembler *a)
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
static void branch(struct assembler *a)
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

static void assemble(struct assembler *a)
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

/* --- running --- */

static uint64_t random_base(struct rng *r)
{
    static const uint8_t edges[] = {5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 8, 10, 12, 15, 15, 15, 15, 16, 16, 16, 16, 17};
    uint64_t edge = ARENA + edges[rng_below(r, sizeof(edges))] * PAGE_SIZE;

    if (rng_one_in(r, 3))
        return edge - 512 - 8 * rng_below(r, 256); /* well inside */
    return edge + 8 * rng_below(r, 32) - 128 + (rng_one_in(r, 8) ? rng_below(r, 8) : 0);
}

static void make_state(struct rng *r, struct outcome *in)
{
    for (unsigned i = 0; i < GPR_COUNT; i++)
        in->gpr[i] = random_value(r);
    for (unsigned i = 0; i < sizeof(bases); i++)
        in->gpr[bases[i]] = random_base(r);
    in->gpr[GPR_RSP] = random_base(r);
    in->gpr[GPR_R15] = rng_below(r, 40);
    in->rflags = rng_next(r) & FLAG_ARITH;
    random_image(r, t.machine.cpu->svm->cpuid, in->image);
    in->rip = rng_one_in(r, 2) ? ARENA + CODE_FIRST * PAGE_SIZE + rng_below(r, PAGE_SIZE) : CODE_END - PAGE_SIZE - rng_below(r, 300);
    if (in->rip + CODE_BYTES > CODE_END)
        in->rip = CODE_END - CODE_BYTES;
}

static void set_mode(struct machine *m, bool supervisor)
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

static void load(bool supervisor)
{
    struct machine *m = &t.machine;

    memcpy(m->arena, t.pristine, sizeof(t.pristine));
    memcpy(m->arena + (t.in.rip - ARENA), t.a.bytes, t.a.len);
    m->vm.mem.code_changed(m->vm.mem.code_changed_opaque, ARENA_GPA + CODE_FIRST * PAGE_SIZE, CODE_PAGES * PAGE_SIZE);
    set_mode(m, supervisor);
    machine_load(m, &t.in);
    m->cpu->halted = false;
}

static bool run_by_step(bool supervisor)
{
    load(supervisor);
    for (unsigned i = 0; i < STEPS_MAX && !delivered.seen && !t.machine.cpu->halted; i++)
        if (soft_step(t.machine.cpu) != SOFT_OK)
            break;
    machine_store(&t.machine, &t.step);
    memcpy(t.stepped, t.machine.arena, sizeof(t.stepped));
    return delivered.seen && t.machine.exit.reason != VM_EXIT_INTERNAL;
}

static bool run_translated(bool supervisor)
{
    load(supervisor);
    for (unsigned i = 0; i < STEPS_MAX && !delivered.seen && t.machine.exit.reason != VM_EXIT_INTERNAL; i++)
        run_vcpu(&t.machine.vcpu, &t.machine.exit);
    machine_store(&t.machine, &t.code);
    return delivered.seen;
}

static const char *difference(void)
{
    bool fault = t.step.vector != EXC_UD;

    if (t.step.rip != t.code.rip || t.step.vector != t.code.vector || t.step.error != t.code.error || t.step.cr2 != t.code.cr2)
        return "where it ended";
    for (unsigned i = 0; i < GPR_COUNT; i++)
        if (t.step.gpr[i] != t.code.gpr[i])
            return "a register";
    if ((t.step.rflags ^ t.code.rflags) & ~(uint64_t)(fault ? FLAG_ARITH : 0))
        return "flags";
    if (memcmp(t.stepped, t.machine.arena, sizeof(t.stepped)) != 0)
        return "memory";
    canonical_image(t.machine.cpu->svm->cpuid, t.step.image);
    canonical_image(t.machine.cpu->svm->cpuid, t.code.image);
    return memcmp(t.step.image + FX_XMM, t.code.image + FX_XMM, 256) != 0 ? "a vector register" : NULL;
}

static void tell(uint64_t seed, uint64_t number, const char *what)
{
    printf("%s differs; again: sequence_test --seed %llu --case %llu\n  code at 0x%llx:", what, (unsigned long long)seed,
           (unsigned long long)number, (unsigned long long)t.in.rip);
    for (unsigned i = 0; i < t.a.len; i++)
        printf(" %02x", t.a.bytes[i]);
    printf("\n  step:       rip 0x%llx vector %u flags 0x%llx\n  translated: rip 0x%llx vector %u flags 0x%llx\n",
           (unsigned long long)t.step.rip, t.step.vector, (unsigned long long)t.step.rflags, (unsigned long long)t.code.rip, t.code.vector,
           (unsigned long long)t.code.rflags);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        printf("  gpr %2u: 0x%016llx, 0x%016llx, 0x%016llx%s\n", i, (unsigned long long)t.in.gpr[i], (unsigned long long)t.step.gpr[i],
               (unsigned long long)t.code.gpr[i], t.step.gpr[i] == t.code.gpr[i] ? "" : " !");
    for (unsigned i = 0; i < sizeof(t.stepped); i++)
        if (t.stepped[i] != t.machine.arena[i])
            printf("  byte at 0x%llx: %02x, %02x, %02x\n", ARENA + i, t.pristine[i], t.stepped[i], t.machine.arena[i]);
}

static void run_case(uint64_t seed, uint64_t number)
{
    struct rng r;

    rng_start(&r, seed, number);
    t.a.r = &r;
    t.a.supervisor = rng_one_in(&r, 2);
    make_state(&r, &t.in);
    assemble(&t.a);
    if (!run_by_step(t.a.supervisor)) {
        t.skipped++; /* a jump back to somewhere, perhaps into an instruction */
        return;
    }
    const char *what = run_translated(t.a.supervisor) ? difference() : "that it ends";
    if (!gva_is_canonical(t.code.rip)) {
        t.skipped++;
        return;
    }
    t.ended += t.step.vector == EXC_UD;
    t.faulted += t.step.vector != EXC_UD;
    t.passed += !what;
    t.failed += what != NULL;
    if (what)
        tell(seed, number, what);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'}, {"cases", required_argument, NULL, 'n'}, {"case", required_argument, NULL, 'c'}, {0}};
    unsigned long long seed = 1, cases = 100000, first = 0;
    struct err e;
    struct rng r;

    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (o) {
        case 's': seed = strtoull(optarg, NULL, 0); break;
        case 'n': cases = strtoull(optarg, NULL, 0); break;
        case 'c':
            first = strtoull(optarg, NULL, 0);
            cases = 1;
            break;
        default: fprintf(stderr, "usage: sequence_test [--seed S] [--cases N] [--case NUMBER]\n"); return 2;
        }
    if (machine_init(&t.machine, &e) != 0) {
        fprintf(stderr, "sequence_test: %s\n", e.text);
        return 1;
    }
    rng_start(&r, 1, 1);
    rng_fill(&r, t.pristine, sizeof(t.pristine));
    memset(t.pristine + CODE_FIRST * PAGE_SIZE, 0xcc, CODE_PAGES * PAGE_SIZE); /* a stray jump ends at INT3 */
    for (uint64_t i = first; i < first + cases && t.failed < 10; i++)
        run_case(seed, i);
    printf("sequences: %llu came to their end, %llu faulted\n", (unsigned long long)t.ended, (unsigned long long)t.faulted);
    printf("skip %llu that halt or have no end, or jump to a non-canonical address: translated code faults there, step at the jump\n",
           (unsigned long long)t.skipped);
    printf("%llu passed, %llu failed, %llu skipped\n", (unsigned long long)t.passed, (unsigned long long)t.failed,
           (unsigned long long)t.skipped);
    machine_fini(&t.machine);
    return t.failed || !t.ended || !t.faulted ? 1 : 0;
}
