/* Gate 1: one instruction at a time, by the software engine and by the host CPU, on the same registers and memory. */
#include <errno.h>
#include <getopt.h>

#include "compare.h"
#include "machine.h"
#include "make_case.h"
#include "native.h"

/* What cases turn out to be; each must have happened to its end at least once. */
enum kind {
    KIND_GPR,
    KIND_X87,
    KIND_MMX,
    KIND_SSE,
    KIND_AVX,
    KIND_AVX512,
    KIND_STRING,
    KIND_LANES,
    KIND_STACK,
    KIND_BRANCH,
    KIND_FAULT,
    KIND_UNDEFINED,
    KIND_COUNT
};

static const char *const kind_names[KIND_COUNT] = {"gpr",    "x87",   "mmx",   "sse",    "avx",   "avx512",
                                                   "string", "lanes", "stack", "branch", "fault", "undefined"};

enum mode { BY_STEP, BY_TRANSLATION };

static struct test {
    struct machine machine;
    struct memory memory;
    struct insn_case c;
    struct outcome host, guest;
    enum mode mode;
    uint64_t passed, failed, skipped;
    uint64_t kinds[KIND_COUNT];
    uint64_t max_failures;
} t;

/* The segments' bases of this thread are the guest's too, so that neither has to change: libc's own, and the engine's tables'. */
static uint64_t host_base(bool gs)
{
    uint64_t base;

    if (gs)
        __asm__ volatile("rdgsbase %0" : "=r"(base));
    else
        __asm__ volatile("rdfsbase %0" : "=r"(base));
    return base;
}

/* --- memory --- */

static void memory_init(void)
{
    struct rng r;

    rng_start(&r, 1, 1);
    t.memory.guest = t.machine.arena;
    for (unsigned i = 0; i < ARENA_PAGES; i++) {
        uint8_t *page = t.memory.pristine + i * PAGE_SIZE;
        uint8_t *host = (uint8_t *)(ARENA + i * PAGE_SIZE);
        if (arena_page[i] == PAGE_ABSENT)
            continue;
        rng_fill(&r, page, PAGE_SIZE);
        if (arena_page[i] == PAGE_CODE)
            memset(page, 0xcc, PAGE_SIZE);
        mprotect(host, PAGE_SIZE, PROT_READ | PROT_WRITE);
        memcpy(host, page, PAGE_SIZE);
        mprotect(host, PAGE_SIZE,
                 arena_page[i] == PAGE_RO ? PROT_READ : PROT_READ | PROT_WRITE | (arena_page[i] == PAGE_CODE ? PROT_EXEC : 0));
        memcpy(t.memory.guest + i * PAGE_SIZE, page, PAGE_SIZE);
    }
}

static void memory_reset(void)
{
    for (unsigned i = 0; i < ARENA_PAGES; i++) {
        uint8_t *host = (uint8_t *)(ARENA + i * PAGE_SIZE), *guest = t.memory.guest + i * PAGE_SIZE;
        const uint8_t *page = t.memory.pristine + i * PAGE_SIZE;
        if (arena_page[i] != PAGE_RW)
            continue;
        if (memcmp(host, page, PAGE_SIZE) != 0)
            memcpy(host, page, PAGE_SIZE);
        if (memcmp(guest, page, PAGE_SIZE) != 0)
            memcpy(guest, page, PAGE_SIZE);
    }
}

/* Bytes of a stored x87 or XSAVE image that hold the last instruction's opcode and addresses. */
static void forget_pointers(void)
{
    static const uint8_t zero[32];
    unsigned from, to;

    switch (t.c.z.mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
        from = t.c.z.operand_width == 16 ? 6 : 12;
        to = t.c.z.operand_width == 16 ? 14 : 28;
        break;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
        from = FX_FOP;
        to = FX_MXCSR;
        break;
    default: return;
    }
    memory_put(&t.memory, linear_of(&t.c, &t.c.op[0]) + from, zero, to - from);
}

/* Several stores: how many of them happen before one faults is the CPU's affair. */
static bool may_store_partly(void)
{
    switch (t.c.z.meta.category) {
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
    case ZYDIS_CATEGORY_SCATTER: return true;
    default: break;
    }
    switch (t.c.z.mnemonic) {
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_ENTER: return true;
    default: return false;
    }
}

static bool compare_memory(const char *who)
{
    bool bad = false;

    if (t.host.faulted && may_store_partly())
        return false;
    if (!t.host.faulted)
        forget_pointers();
    for (unsigned i = 0; i < ARENA_PAGES && !bad; i++) {
        uint8_t *host = (uint8_t *)(ARENA + i * PAGE_SIZE), *guest = t.memory.guest + i * PAGE_SIZE;
        if (arena_page[i] == PAGE_ABSENT || arena_page[i] == PAGE_CODE || memcmp(host, guest, PAGE_SIZE) == 0)
            continue;
        char text[32];
        for (unsigned k = 0; k < PAGE_SIZE && !bad; k++)
            if (host[k] != guest[k]) {
                snprintf(text, sizeof(text), "byte at 0x%llx", ARENA + i * PAGE_SIZE + k);
                bad = differ(text, host[k], guest[k], who);
            }
    }
    return bad;
}

/* --- one case --- */

static enum kind kind_of(bool offered)
{
    if (!offered)
        return KIND_UNDEFINED;
    if (t.host.faulted)
        return KIND_FAULT;
    if (is_branch(&t.c))
        return KIND_BRANCH;
    switch (t.c.source) {
    case SRC_STRING: return KIND_STRING;
    case SRC_LANES: return KIND_LANES;
    case SRC_STACK: return KIND_STACK;
    default: break;
    }
    if (t.c.z.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
        return KIND_AVX512;
    if (t.c.z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        return KIND_AVX;
    switch (t.c.z.meta.isa_ext) {
    case ZYDIS_ISA_EXT_X87: return KIND_X87;
    case ZYDIS_ISA_EXT_MMX: return KIND_MMX;
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4: return KIND_SSE;
    default: return KIND_GPR;
    }
}

/* Writes the instruction and what stops the run behind it. */
static void place_code(void)
{
    struct insn_case *c = &t.c;
    uint8_t code[2 * PAGE_SIZE];
    uint64_t end = c->in.rip + (c->decoded ? c->z.length : INSN_MAX_LEN);
    int32_t rel = (int32_t)(TRAMPOLINE - end - 5);
    uint8_t stop[5] = {0xe9};
    static const uint8_t ud2[2] = {0x0f, 0x0b};

    memset(code, 0xcc, sizeof(code));
    memory_put(&t.memory, ARENA + CODE_FIRST * PAGE_SIZE, code, sizeof(code));
    memory_put(&t.memory, c->in.rip, c->code.bytes, (unsigned)(end - c->in.rip));
    memcpy(stop + 1, &rel, 4);
    memory_put(&t.memory, end, stop, sizeof(stop));
    for (unsigned i = 0; i < 2 && t.mode == BY_TRANSLATION; i++)
        if (end + i < ARENA + (CODE_FIRST + CODE_PAGES) * PAGE_SIZE)
            t.memory.guest[end + i - ARENA] = ud2[i];
}

static bool run_guest(void)
{
    machine_mode(&t.machine, 64, t.c.fs_base, t.c.gs_base);
    return t.mode == BY_STEP ? machine_step(&t.machine, &t.c.in, &t.guest) : machine_translate(&t.machine, &t.c.in, &t.guest);
}

static void report(const char *what)
{
    if (shown_case)
        print_case(&t.c);
    printf("  %s; again: insn_test --engine %s --seed %llu --case %llu\n", what, t.mode == BY_STEP ? "step" : "translate",
           (unsigned long long)t.c.seed, (unsigned long long)t.c.number);
    t.failed++;
}

/* An instruction that the CPU model does not offer, or none at all: #UD (#GP when it is too long) whatever the host does. */
static void run_undefined(void)
{
    if (!run_guest())
        report(t.machine.exit.internal.text);
    else if (!t.guest.faulted || (t.guest.vector != EXC_UD && t.guest.vector != EXC_GP && t.guest.vector != EXC_PF))
        report("the CPU model does not have this instruction, but it was carried out");
    else
        t.passed++;
    t.kinds[KIND_UNDEFINED]++;
}

static void set_up(uint64_t seed, uint64_t number)
{
    memory_reset();
    make_case(&t.c, seed, number, &t.memory, t.machine.cpu->svm, host_base(false), host_base(true));
    place_code();
}

static void run_host(void)
{
    native_run(&t.c.in, t.c.in.rip + t.c.z.length, &t.host);
}

/*
 * A hypervisor below us may lose its way over an instruction that it has to emulate when it meets a page of its own making, and
 * then raises #UD, or stops between two instructions of the runner's. That does not happen twice.
 */
static bool host_stumbled(void)
{
    bool nowhere = t.host.rip >= ARENA + ZONE_BYTES && gva_is_canonical(t.host.rip) && t.host.rip != t.guest.rip;

    return nowhere || (t.host.faulted && t.host.vector == EXC_UD && (!t.guest.faulted || t.guest.vector != EXC_UD));
}

static bool run_both(uint64_t seed, uint64_t number)
{
    set_up(seed, number);
    if (!run_guest())
        return false;
    run_host();
    return true;
}

static void run_case(uint64_t seed, uint64_t number)
{
    struct soft_vm *svm = t.machine.cpu->svm;
    const char *who = t.mode == BY_STEP ? "step" : "translated";
    struct insn insn;

    set_up(seed, number);
    shown_case = &t.c;
    if (!t.c.decoded || !(insn_offered(svm, &t.c.z) || insn_is_hint(&t.c.z))) {
        run_undefined();
        return;
    }
    bool ran = run_guest();
    if (ran)
        run_host();
    if (ran && host_stumbled())
        ran = run_both(seed, number);
    if (!ran) {
        report(t.machine.exit.internal.text);
        return;
    }
    insn_decode(svm, &insn, t.c.code.bytes, INSN_MAX_LEN, t.c.code.bits);
    bool bad = compare_outcomes(&t.c, svm->cpuid, &t.host, &t.guest, insn.exec == NULL, t.mode == BY_TRANSLATION, who);
    bad |= compare_memory(who);
    t.kinds[kind_of(true)]++;
    if (bad)
        report("the host and the engine differ");
    else
        t.passed++;
}

/* --- the program --- */

static int usage(void)
{
    fprintf(stderr, "usage: insn_test [--engine step|translate] [--seed S] [--cases N] [--case NUMBER] [--max-failures N]\n");
    return 2;
}

static bool kinds_complete(void)
{
    bool complete = true;

    printf("insn %s:", t.mode == BY_STEP ? "step" : "translate");
    for (unsigned i = 0; i < KIND_COUNT; i++)
        printf(" %s %llu", kind_names[i], (unsigned long long)t.kinds[i]);
    printf("\n");
    for (unsigned i = 0; i < KIND_COUNT; i++) {
        bool needed = i != KIND_AVX512 || cpuid_offers(t.machine.cpu->svm, X86_AVX512F);
        if (needed && !t.kinds[i]) {
            printf("no case of kind %s\n", kind_names[i]);
            complete = false;
        }
    }
    return complete;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"engine", 1, NULL, 'e'}, {"seed", 1, NULL, 's'},         {"cases", 1, NULL, 'n'},
                                            {"case", 1, NULL, 'c'},   {"max-failures", 1, NULL, 'm'}, {NULL, 0, NULL, 0}};
    uint64_t seed = 1, cases = 200000, only = UINT64_MAX;
    struct err e;

    t.max_failures = 10;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'e':
            if (strcmp(optarg, "step") != 0 && strcmp(optarg, "translate") != 0)
                return usage();
            t.mode = strcmp(optarg, "step") == 0 ? BY_STEP : BY_TRANSLATION;
            break;
        case 's': seed = strtoull(optarg, NULL, 0); break;
        case 'n': cases = strtoull(optarg, NULL, 0); break;
        case 'c': only = strtoull(optarg, NULL, 0); break;
        case 'm': t.max_failures = strtoull(optarg, NULL, 0); break;
        default: return usage();
        }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (machine_init(&t.machine, &e) != 0) {
        fprintf(stderr, "insn_test: %s\n", e.text);
        return 1;
    }
    if (native_init(t.machine.cpu->svm->cpuid->xcr0) != 0) {
        perror("insn_test: the arena at 0x10000000");
        return 1;
    }
    memory_init();
    if (only != UINT64_MAX)
        run_case(seed, only);
    for (uint64_t i = 0; only == UINT64_MAX && i < cases && t.failed < t.max_failures; i++)
        run_case(seed, i);
    if (only == UINT64_MAX && cases >= 10000 && t.failed == 0 && !kinds_complete())
        t.failed++;
    machine_fini(&t.machine);
    printf("%llu passed, %llu failed, %llu skipped\n", (unsigned long long)t.passed, (unsigned long long)t.failed,
           (unsigned long long)t.skipped);
    return t.failed != 0;
}
