/* Random sequences of instructions, by step and through translated code, on the same registers and memory: what a block does as a whole. */
#include <errno.h>
#include <getopt.h>

#include "compare.h"
#include "base/clock.h"
#include "sequence.h"

/*
 * A case is one piece of code (sequence.h). Flags that a block overwrites unread may be anything at a fault, so there they do not count. Nor
 * does a difference where a piece has changed its code, and so perhaps the very instruction that would have overwritten them: that is one in
 * millions, and more of them are a failure.
 */

#define STEPS_MAX 4000
#define CHANGED_MAX(cases) (1 + (cases) / 5000000)

static struct test {
    struct machine machine;
    uint8_t pristine[ARENA_PAGES * PAGE_SIZE], stepped[ARENA_PAGES * PAGE_SIZE];
    struct assembler a;
    struct outcome in, step, code;
    uint64_t passed, failed, skipped, changed, ended, faulted;
} t;

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

static bool changed_itself(void)
{
    const uint8_t *code = t.stepped + (t.in.rip - ARENA);

    return memcmp(code, t.a.bytes, t.a.len) != 0;
}

static void run_case(uint64_t seed, uint64_t number)
{
    struct rng r;

    rng_start(&r, seed, number);
    t.a.r = &r;
    t.a.supervisor = rng_one_in(&r, 2);
    make_state(&r, t.machine.cpu->svm->cpuid, &t.in);
    assemble(&t.a);
    if (!run_by_step(t.a.supervisor)) {
        t.skipped++; /* a jump back to somewhere, perhaps into an instruction */
        return;
    }
    const char *what = run_translated(t.a.supervisor) ? difference() : "that it ends";
    if (what && changed_itself()) {
        t.changed++;
        if (t.changed <= CHANGED_MAX(number))
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
    static const struct option options[] = {{"seed", required_argument, NULL, 's'},
                                            {"cases", required_argument, NULL, 'n'},
                                            {"case", required_argument, NULL, 'c'},
                                            {"seconds", required_argument, NULL, 't'},
                                            {0}};
    unsigned long long seed = 1, cases = 100000, first = 0;
    uint64_t end = UINT64_MAX;
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
        case 't': /* as many cases as there is time for */
            end = clock_monotonic_ns() + strtoull(optarg, NULL, 0) * NS_PER_SEC;
            cases = UINT64_MAX;
            break;
        default: fprintf(stderr, "usage: sequence_test [--seed S] [--cases N | --seconds N | --case NUMBER]\n"); return 2;
        }
    setvbuf(stdout, NULL, _IOLBF, 0); /* what differs is seen at once */
    if (machine_init(&t.machine, &e) != 0) {
        fprintf(stderr, "sequence_test: %s\n", e.text);
        return 1;
    }
    rng_start(&r, 1, 1);
    rng_fill(&r, t.pristine, sizeof(t.pristine));
    memset(t.pristine + CODE_FIRST * PAGE_SIZE, 0xcc, CODE_PAGES * PAGE_SIZE); /* a stray jump ends at INT3 */
    for (uint64_t i = 0; i < cases && t.failed < 10 && clock_monotonic_ns() < end; i++)
        run_case(seed, first + i);
    printf("sequences: %llu came to their end, %llu faulted\n", (unsigned long long)t.ended, (unsigned long long)t.faulted);
    printf("skip %llu that halt or have no end, %llu that differ after they changed their code\n", (unsigned long long)t.skipped,
           (unsigned long long)t.changed);
    printf("%llu passed, %llu failed, %llu skipped\n", (unsigned long long)t.passed, (unsigned long long)t.failed,
           (unsigned long long)(t.skipped + t.changed));
    machine_fini(&t.machine);
    return t.failed || !t.ended || !t.faulted ? 1 : 0;
}
