/* Translated code is interrupted at each of its host instructions, and meets a fault at each of its memory operands: it stands where step would. */
#include <errno.h>
#include <getopt.h>

#include "trap.h"

/*
 * Theory of operation
 *
 * A case is a piece of code with registers: one of the corpus, at some place near the end of a page, or random code. Step runs it first and leaves
 * the state after each instruction in a trail.
 *
 * Interruptions. Translated code runs once under the trap flag, which tells the host instructions that are executed. Then it runs once for each of
 * them, with INT3 in its place: the handler puts the byte back, makes something happen as another thread would (an interrupt, an NMI, a store
 * to the code by a device), and goes on at the instruction. An event is to be taken at a boundary of instructions, in a state of the trail, where
 * interrupts are allowed, and soon; and from there on the piece comes to the end that it has without.
 *
 * Faults. For each memory operand of each instruction some register is moved such that this operand is the first to touch a page, from its start,
 * across its end or at its end, and the page is made absent, read-only or a supervisor's. The fault is to be step's, and when the page is there
 * again the piece comes to its end.
 *
 * Flags that later code overwrites unread may be anything meanwhile; whether they were that, the end tells.
 */

#define REGION 4096 /* bytes about a pointer */

/* --- interruptions --- */

/* What a run finds: all that it needs, empty shadow tables, or that the first access that is not aligned has its block made anew. */
enum pass { PASS_WARM, PASS_COLD, PASS_UNALIGNED, PASS_COUNT };

/* A string that was interrupted between two of its iterations: which entry of the trail it began at, or none. */
static bool within_string(const struct trail *want)
{
    uint8_t byte = want->memory[want->at.rip - ARENA];

    if (want->at.rip != t.out.rip || (byte != 0xf3 && byte != 0xf2) || t.out.gpr[GPR_RCX] >= want->at.gpr[GPR_RCX])
        return false;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        if (t.out.gpr[i] != want->at.gpr[i] && i != GPR_RCX && i != GPR_RSI && i != GPR_RDI)
            return false;
    return true;
}

/* The entry of the trail that the machine stands at, or count + 1. */
static unsigned find_on_trail(void)
{
    unsigned first = t.count + 1;

    for (unsigned i = t.count + 1; i-- > 0;) {
        if (t.trail[i].at.rip != t.out.rip)
            continue;
        if (!difference(&t.trail[i], false))
            return i;
        if (within_string(&t.trail[i]))
            first = i;
    }
    return first;
}

/*
 * The instruction before which an event that comes up during number `begun` must have been taken: jumps that lead back, and those to anywhere,
 * look whether there is one. The first look may be under way, a jump back into the block that it leaves is none, and of a loop's own all but one
 * in BLOCK_MAX_ROUNDS are none, so that short loops one after the other need not look at all. count + 1 where it may come too late.
 */
static unsigned latest(unsigned begun, bool nmi)
{
    static uint8_t looks[ARENA_BYTES]; /* by where it leads */
    unsigned from = MAX(begun, 1U), i;

    for (i = from; i <= t.count; i++)
        looks[(t.trail[i].at.rip - ARENA) % ARENA_BYTES] = 0;
    for (i = from; i <= t.count; i++) {
        uint8_t *here = &looks[(t.trail[i].at.rip - ARENA) % ARENA_BYTES];
        bool back = t.trail[i].at.rip < t.trail[i - 1].at.rip;
        *here += back && (nmi ? !t.trail[i].shadow : t.trail[i].interruptible);
        if (*here == 2 + BLOCK_MAX_ROUNDS)
            return i;
    }
    return i;
}

static void judge_event(const struct place *p, enum kind kind, bool exact, const char *where)
{
    bool nmi = kind == KIND_NMI;
    unsigned limit = exact && kind != KIND_CHANGE ? latest(p->begun, nmi) : t.count + 1;

    if (!is_event()) {
        if (limit <= t.count) {
            fail("when it is taken: never,", where, &t.trail[limit]);
            return;
        }
    } else {
        machine_store(&t.machine, &t.out);
        unsigned i = find_on_trail();
        t.taken++;
        if (i > t.count) {
            fail("its state", where, &t.trail[MIN(p->begun, t.count)]);
            return;
        }
        if (i > limit || (nmi ? t.trail[i].shadow : !t.trail[i].interruptible)) {
            fail(i > limit ? "when it is taken: late," : "that it is taken:", where, &t.trail[i]);
            return;
        }
        lapic_mmio_write(t.machine.cpu, 0xb0, 0); /* EOI */
        if (!go_on()) {
            fail("that it ends:", where, NULL);
            return;
        }
    }
    const char *what = end_difference();
    if (what)
        fail(what, where, &t.end);
}

/* Everything translated anew, at the same addresses each time, the tables filled, and the stack's page as this piece leaves it. */
static void warm_up(void)
{
    mmu_flush_all(t.machine.cpu);
    cache_flush(t.machine.cpu->svm);
    memset(t.machine.cpu->svm->cache->unaligned, 0, sizeof(t.machine.cpu->svm->cache->unaligned));
    for (unsigned i = 0; i < 6; i++) {
        load();
        run_on();
    }
}

/* As at the start of a run. */
static void load_for(enum pass pass)
{
    load();
    if (pass == PASS_COLD)
        mmu_flush_all(t.machine.cpu);
    SLOT(t.machine.cpu, CTX_UNALIGNED) = pass == PASS_UNALIGNED ? 0 : CACHE_UNALIGNED_PERIOD;
}

/* Runs with INT3 at a host instruction; whether it ended. */
static bool run_with_trap(uint8_t *rw, enum kind kind, enum pass pass)
{
    load_for(pass);
    trap.kind = kind;
    trap.fired = false;
    trap.byte = *rw;
    trap.armed = rw;
    *rw = 0xcc;
    bool ended = run_on();
    if (trap.armed)
        *trap.armed = trap.byte;
    trap.armed = NULL;
    return ended;
}

static void interrupt_at(const struct place *p, enum kind kind, enum pass pass)
{
    struct soft_cache *cache = t.machine.cpu->svm->cache;
    uint8_t *rw = cache->mem.rw + (p->pc - cache->mem.rx);
    bool exact = pass == PASS_WARM && !(t.flags & PIECE_CHANGES);
    char where[120];

    bool ended = run_with_trap(rw, kind, pass);
    if (ended && !trap.fired) { /* what was interrupted before has left other entries in the jump caches */
        warm_up();
        ended = run_with_trap(rw, kind, pass);
    }
    t.interruptions += trap.fired;
    snprintf(where, sizeof(where), "%s at host byte %u of %u, guest instruction %u", kind_names[kind], (unsigned)(p->pc - cache->mem.rx),
             (unsigned)cache->used, p->begun);
    if (!ended)
        fail("that it ends:", where, NULL);
    else if (!trap.fired && exact)
        fail("that it comes by:", where, NULL);
    else
        judge_event(p, kind, exact, where);
}

static int by_pc(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->pc != y->pc)
        return x->pc < y->pc ? -1 : 1;
    return (int)x->begun - (int)y->begun;
}

/* The host instructions of a run, each as it is met first. */
static void find_places(enum pass pass)
{
    unsigned n = 0;

    load_for(pass);
    places.place_count = 0;
    trap.begun = 0;
    trap.steps = true;
    run_on();
    trap.steps = false;
    qsort(places.place, places.place_count, sizeof(places.place[0]), by_pc);
    for (unsigned i = 0; i < places.place_count; i++)
        if (n == 0 || places.place[i].pc != places.place[n - 1].pc)
            places.place[n++] = places.place[i];
    places.place_count = n;
}

static void interrupt_everywhere(struct rng *r, bool every_kind)
{
    for (enum pass pass = 0; pass < PASS_COUNT && !t.failed; pass++) {
        bool anew = pass == PASS_UNALIGNED || (t.flags & PIECE_CHANGES); /* translations change in each run */
        uint64_t dropped = t.machine.cpu->svm->cache->blocks_dropped;
        warm_up();
        find_places(pass);
        if (pass == PASS_UNALIGNED && t.machine.cpu->svm->cache->blocks_dropped == dropped)
            continue; /* all accesses are aligned */
        for (unsigned i = 0; i < places.place_count && !t.failed; i++) {
            unsigned only = rng_below(r, 5);
            for (enum kind kind = 0; kind < KIND_COUNT; kind++) {
                if (!every_kind && kind != (only < 2 ? KIND_INTERRUPT : only < 4 ? KIND_NMI : KIND_CHANGE))
                    continue;
                if (anew)
                    warm_up();
                interrupt_at(&places.place[i], kind, pass);
                if (kind == KIND_CHANGE)
                    warm_up();
            }
        }
    }
}

/* --- faults --- */

struct operand {
    gva_t gva;
    unsigned size;
    bool write;
};

/* The memory operands of the instruction at rip; of a repeated one all elements. */
static unsigned find_operands(struct operand op[2])
{
    struct soft_cpu *cpu = t.machine.cpu;
    struct step_entry *entry;
    unsigned n = 0;

    if (step_fetch(cpu, &entry) != SOFT_OK)
        return 0;
    const struct insn *insn = &entry->insn;
    unsigned word = insn->mode_bits / 8;
    uint64_t low = insn->mode_bits == 64 ? UINT64_MAX : UINT32_MAX;
    cpu->next_rip = cpu->rip + insn->len;
    if (insn->has_mem && !insn->nop && insn->mem_size && insn->mnemonic != ZYDIS_MNEMONIC_LEA && insn->mnemonic != ZYDIS_MNEMONIC_INVLPG)
        op[n++] = (struct operand){cpu->seg[insn->mem.seg].base * (insn->mem.seg >= SEG_FS) + soft_ea(cpu, insn), insn->mem_size,
                                   insn->mem_written};
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_CALL: op[n++] = (struct operand){(cpu->gpr[GPR_RSP] - word) & low, word, true}; break;
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_RET: op[n++] = (struct operand){cpu->gpr[GPR_RSP] & low, word, false}; break;
    case ZYDIS_MNEMONIC_LEAVE: op[n++] = (struct operand){cpu->gpr[GPR_RBP] & low, word, false}; break;
    default: break;
    }
    if (insn->cls != INSN_STRING || (insn->rep && !cpu->gpr[GPR_RCX]))
        return n;
    unsigned element = insn->opcode & 1 ? insn->opsize : 1, kind = insn->opcode & 0xfe;
    unsigned size = element * (insn->rep ? (unsigned)cpu->gpr[GPR_RCX] : 1), below = cpu->rflags & FLAG_DF ? size - element : 0;
    if (kind != 0xaa && kind != 0xae)
        op[n++] = (struct operand){(cpu->gpr[GPR_RSI] - below) & low, size, false};
    if (kind != 0xac)
        op[n++] = (struct operand){(cpu->gpr[GPR_RDI] - below) & low, size, kind == 0xaa || kind == 0xa4};
    return n;
}

/* A page is made such that accesses fail, and the case runs; false where step meets no fault of that page at instruction number at. */
static bool fault_with(unsigned page, enum page_kind kind, bool user, unsigned at, const char *where)
{
    bool reached = false;
    const char *what = NULL;

    load();
    map_page(page, kind, user);
    mmu_flush_all(t.machine.cpu);
    unsigned n = 0;
    while (n <= at && (soft_step(t.machine.cpu) != SOFT_EXIT || repaired()))
        n++;
    if (delivered.seen && delivered.exc.vector == EXC_PF && n == at && (delivered.exc.cr2 - ARENA) / PAGE_SIZE == page) {
        static struct trail fault;
        reached = true;
        note(&fault);
        load();
        mmu_flush_all(t.machine.cpu);
        if (!run_on())
            what = "that it ends:";
        else if (delivered.event != EVENT_EXCEPTION || delivered.exc.vector != EXC_PF || delivered.exc.error != fault.at.error ||
                 delivered.exc.cr2 != fault.at.cr2)
            what = "the fault";
        else
            what = difference(&fault, false);
        t.faults++;
        if (what)
            fail(what, where, &fault);
    }
    map_pages();
    if (!reached || what)
        return reached;
    what = go_on() ? end_difference() : "that it ends:";
    if (what)
        fail(what, where, &t.end);
    return true;
}

/* All ways to make the operand at gva fail. */
static bool fault_around(const struct operand *op, unsigned at, gva_t gva, const char *where)
{
    unsigned first = (unsigned)((gva - ARENA) / PAGE_SIZE), last = (unsigned)((gva + op->size - 1 - ARENA) / PAGE_SIZE);
    bool user = !(t.flags & PIECE_SUPERVISOR), reached = false;

    for (unsigned page = first; page <= last && page < ARENA_PAGES && !t.failed; page++) {
        if (t.pages[page] == PAGE_ABSENT || t.pages[page] == PAGE_CODE)
            continue;
        reached |= fault_with(page, PAGE_ABSENT, true, at, where);
        if (user && !t.failed)
            reached |= fault_with(page, t.pages[page], false, at, where);
        if (op->write && !t.failed)
            reached |= fault_with(page, PAGE_RO, true, at, where);
    }
    return reached;
}

/* Where an operand is to lie: as it does, or about the start of the next page or its own. */
static int64_t shift_of(const struct operand *op, unsigned way)
{
    int64_t next = (int64_t)(ALIGN_DOWN(op->gva, PAGE_SIZE) + PAGE_SIZE - op->gva);

    switch (way) {
    case 0: return 0;
    case 1: return next;
    case 2: return next - (int64_t)op->size;
    default: return next - (int64_t)op->size / 2;
    }
}

/* Whether earlier accesses of the same memory reach below and above it: none can fail that they did not meet. */
static bool among_earlier(const struct operand *op, const struct operand *earlier, unsigned count)
{
    gva_t low = UINT64_MAX, high = 0;

    for (unsigned i = 0; i < count; i++)
        if ((earlier[i].write || !op->write) && earlier[i].gva + REGION / 2 - op->gva < REGION) {
            low = MIN(low, earlier[i].gva);
            high = MAX(high, earlier[i].gva + earlier[i].size);
        }
    return op->gva >= low && op->gva + op->size <= high;
}

static void fault_operand(unsigned at, const struct operand *op, const struct operand *earlier, unsigned earlier_count, const char *where)
{
    static const uint8_t pointers[] = {GPR_RBX, GPR_RSP, GPR_RBP, GPR_RSI, GPR_RDI, GPR_R8, GPR_R9, GPR_R12, GPR_R13};
    bool wanders = t.flags & PIECE_CHANGES || op->gva - ARENA >= ARENA_BYTES;
    bool reached = wanders || t.pages[(op->gva - ARENA) / PAGE_SIZE] == PAGE_CODE; /* data among the code stay */
    struct outcome in = t.in;

    for (unsigned way = 0; way < (t.by_hand ? 4 : 1) && !t.failed; way++)
        for (unsigned k = 0; k < (way ? sizeof(pointers) : 1) && !t.failed; k++) {
            int64_t shift = shift_of(op, way);
            t.in.gpr[pointers[k]] += (uint64_t)shift;
            if (walk())
                reached |= fault_around(op, at, op->gva + (uint64_t)shift, where);
            t.in = in;
        }
    if (among_earlier(op, earlier, earlier_count))
        return;
    t.operands++;
    if (!reached && !t.failed && t.by_hand) {
        t.missed++;
        printf("%s: no fault reached %s\n", t.name, where);
    }
}

static void fault_everywhere(void)
{
    static struct trail place;
    static struct operand op[2 * TRAIL_MAX + 4];
    unsigned count = t.count, found = 0;

    for (unsigned at = 0; at <= count && !t.failed; at++) {
        if (!walk())
            return;
        bool refused = at < count && t.trail[at + 1].at.rip == t.trail[at].at.rip &&
                       t.trail[at + 1].at.gpr[GPR_RCX] == t.trail[at].at.gpr[GPR_RCX];
        load();
        for (unsigned i = 0; i < at; i++) {
            soft_step(t.machine.cpu);
            repaired();
        }
        note(&place);
        unsigned n = find_operands(op + found);
        if (refused && soft_step(t.machine.cpu) == SOFT_EXIT && delivered.exc.vector != EXC_DE)
            n = 0; /* it did not come to its operands */
        for (unsigned k = 0; k < n && !refused && !t.failed; k++) {
            char where[120];
            snprintf(where, sizeof(where), "operand %u of guest instruction %u at 0x%llx", k, at, (unsigned long long)place.at.rip);
            fault_operand(at, &op[found + k], op, found, where);
        }
        found += n;
    }
    walk();
}

/* --- cases --- */

static void by_hand(struct rng *r, const struct piece *piece)
{
    static const struct {
        uint8_t gpr, page;
    } homes[] = {{GPR_RBX, 4}, {GPR_RSI, 6}, {GPR_RDI, 8},  {GPR_RBP, 10}, {GPR_RSP, 12},
                 {GPR_R9, 14}, {GPR_R8, 16}, {GPR_R12, 16}, {GPR_R13, 18}};

    for (unsigned i = 0; i < GPR_COUNT; i++)
        t.in.gpr[i] = random_value(r);
    for (unsigned i = 0; i < ARRAY_SIZE(homes); i++)
        t.in.gpr[homes[i].gpr] = ARENA + homes[i].page * PAGE_SIZE + 0x800 + (homes[i].gpr == GPR_R12 ? 0x100 : 0);
    t.in.gpr[GPR_RCX] = 3;
    t.in.gpr[GPR_R15] = 2;
    for (unsigned i = 0; piece->flags & PIECE_32 && i < GPR_COUNT; i++)
        t.in.gpr[i] = (uint32_t)t.in.gpr[i] | BIT(32) << i; /* 64-bit code may have left anything there */
    t.in.rflags = rng_next(r) & FLAG_ARITH;
    random_image(r, t.machine.cpu->svm->cpuid, t.in.image);
    vec_put16(t.in.image + FX_FSW, 0);
    vec_put32(t.in.image + FX_MXCSR, 0x1f80);
    for (unsigned i = 0; i < ARENA_PAGES; i++)
        t.pages[i] = i >= 4 ? PAGE_RW : arena_page[i];
    memset(t.pristine + 18 * PAGE_SIZE, 0, 2 * PAGE_SIZE);
    t.name = piece->name;
    t.code = piece->code;
    t.code_len = (unsigned)(piece->end - piece->code);
    t.flags = piece->flags;
}

static void by_chance(struct rng *r)
{
    t.a.r = r;
    t.a.supervisor = rng_one_in(r, 2);
    make_state(r, t.machine.cpu->svm->cpuid, &t.in);
    assemble(&t.a);
    memcpy(t.pages, arena_page, sizeof(t.pages));
    t.name = "random code";
    t.code = t.a.bytes;
    t.code_len = t.a.len;
    t.flags = t.a.supervisor ? PIECE_SUPERVISOR : 0;
}

static bool prepare(void)
{
    map_pages();
    if (!walk()) {
        if (t.by_hand)
            fail("that it ends:", "stepped", NULL);
        return false;
    }
    load();
    const char *what = run_on() ? end_difference() : "that it ends:";
    if (what)
        fail(what, "undisturbed", &t.end);
    return !what;
}

/* Whether stores reach a page that code was made from: that is translated anew in each run, and never at the same addresses. */
static bool changes_code(void)
{
    const struct soft_cache *cache = t.machine.cpu->svm->cache;

    warm_up();
    uint64_t dropped = cache->blocks_dropped;
    load();
    run_on();
    return cache->blocks_dropped != dropped;
}

/* The corpus comes first: each piece with the page's end nowhere near (place 0), or that many bytes behind its start. */
static void run_case(uint64_t seed, uint64_t number, bool every_kind)
{
    bool hand = t.by_hand = number / 1024 < ARRAY_SIZE(corpus);
    unsigned behind = number % 1024;
    struct rng r;

    t.seed = seed;
    t.number = number;
    rng_start(&r, 1, 1);
    rng_fill(&r, t.pristine, sizeof(t.pristine));
    memset(t.pristine + CODE_FIRST * PAGE_SIZE, 0xcc, CODE_PAGES * PAGE_SIZE);
    rng_start(&r, seed, number);
    if (hand) {
        by_hand(&r, &corpus[number / 1024]);
        t.in.rip = ARENA + (CODE_FIRST + 1) * PAGE_SIZE - (behind ? behind : 0x900);
    } else {
        by_chance(&r);
    }
    if (!prepare())
        return;
    if (!hand && changes_code())
        t.flags |= PIECE_CHANGES;
    t.pieces++;
    interrupt_everywhere(&r, every_kind);
    if ((hand || every_kind) && !t.failed)
        fault_everywhere();
}

/* --- the program --- */

int main(int argc, char **argv)
{
    static const struct option options[] = {{"seed", required_argument, NULL, 's'},
                                            {"cases", required_argument, NULL, 'n'},
                                            {"case", required_argument, NULL, 'c'},
                                            {"every", no_argument, NULL, 'e'},
                                            {0}};
    unsigned long long seed = 1, cases = 100, only = UINT64_MAX;
    uint64_t first_random = 1024 * ARRAY_SIZE(corpus);
    bool every = false;
    struct err e;

    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (o) {
        case 's': seed = strtoull(optarg, NULL, 0); break;
        case 'n': cases = strtoull(optarg, NULL, 0); break;
        case 'c': only = strtoull(optarg, NULL, 0); break;
        case 'e': every = true; break;
        default: fprintf(stderr, "usage: anywhere_test [--seed S] [--cases N] [--every] [--case NUMBER]\n"); return 2;
        }
    setvbuf(stdout, NULL, _IOLBF, 0); /* what differs is seen at once */
    if (machine_init(&t.machine, &e) != 0) {
        fprintf(stderr, "anywhere_test: %s\n", e.text);
        return 1;
    }
    catch_traps();
    if (only != UINT64_MAX)
        run_case(seed, only, true);
    for (unsigned i = 0; only == UINT64_MAX && i < ARRAY_SIZE(corpus) && !t.failed; i++)
        for (unsigned at = 0; at < (every ? (unsigned)(corpus[i].end - corpus[i].code) : 1) && !t.failed; at++)
            run_case(seed, i * 1024 + at, every);
    for (uint64_t i = 0; only == UINT64_MAX && i < cases && !t.failed; i++)
        run_case(seed, first_random + i, every);
    printf("%llu pieces: %llu interruptions, of which %llu were taken as events; %llu faults at %llu operands, %llu not reached\n",
           (unsigned long long)t.pieces, (unsigned long long)t.interruptions, (unsigned long long)t.taken, (unsigned long long)t.faults,
           (unsigned long long)t.operands, (unsigned long long)t.missed);
    printf("%llu passed, %llu failed\n", (unsigned long long)t.pieces, (unsigned long long)(t.failed + t.missed));
    machine_fini(&t.machine);
    return t.failed || t.missed || !t.pieces ? 1 : 0;
}
