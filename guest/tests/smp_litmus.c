/* The memory model between CPUs, x86-TSO: outcomes that must never be seen (SDM vol. 3 8.2.3), and those that may be. */
#include "smp.h"
#include "test.h"

#define CELLS 4096u
#define TRIAL_MS 300u

/* One trial: variables and what the CPUs found, each in a cache line of its own. */
static struct cell {
    volatile uint32_t x;
    uint32_t pad0[15];
    volatile uint32_t y;
    uint32_t pad1[15];
    volatile uint32_t r[4];
    uint32_t pad2[12];
} cells[CELLS] __attribute__((aligned(64)));

static volatile unsigned ready, cpus_in_trial;

/* All begin together, and come together again now and then, so that they meet in the same cells. PAUSE would make the first one late. */
static void meet(unsigned target)
{
    unsigned spins = 0;

    __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
    while (ready < target)
        if (spins++ > 1000)
            pause_cpu();
}

typedef void trial_fn(unsigned cpu, struct cell *);
static trial_fn *trial;
static unsigned stride; /* cells between two meetings */

static void run_trials(unsigned cpu)
{
    for (unsigned i = 0; i < CELLS; i++) {
        if (i % stride == 0)
            meet(cpus_in_trial * (i / stride + 1));
        trial(cpu, &cells[i]);
    }
}

typedef bool outcome_fn(const struct cell *);

static unsigned trials; /* of the last count_outcome() */

/* How often the outcome was seen, in as many trials as the time allows. */
static unsigned count_outcome(unsigned cpus, trial_fn *fn, outcome_fn *outcome)
{
    unsigned seen = 0;

    if (smp_start() < cpus)
        test_skip("not enough CPUs");
    trial = fn;
    cpus_in_trial = cpus;
    stride = cpus == 2 ? 2 : 512; /* more CPUs than a host may have cores wait long for each other */
    trials = 0;
    for (uint64_t end = rdtsc() + tsc_per_ms() * TRIAL_MS; !trials || rdtsc() < end; trials += CELLS) {
        memset(cells, 0, sizeof(cells));
        ready = 0;
        smp_run(cpus, run_trials);
        for (unsigned i = 0; i < CELLS; i++)
            seen += outcome(&cells[i]);
    }
    return seen;
}

static void mfence(void)
{
    __asm__ volatile("mfence" : : : "memory");
}

/* --- SB: each stores, and loads what the other stores --- */

static void store_buffering(unsigned cpu, struct cell *c)
{
    if (cpu == 0) {
        c->x = 1;
        c->r[0] = c->y;
    } else {
        c->y = 1;
        c->r[1] = c->x;
    }
}

static void store_buffering_fenced(unsigned cpu, struct cell *c)
{
    if (cpu == 0) {
        c->x = 1;
        mfence();
        c->r[0] = c->y;
    } else {
        c->y = 1;
        mfence();
        c->r[1] = c->x;
    }
}

static void store_buffering_locked(unsigned cpu, struct cell *c)
{
    uint32_t one = 1;

    if (cpu == 0) {
        __asm__ volatile("xchgl %0, %1" : "+r"(one), "+m"(c->x) : : "memory");
        c->r[0] = c->y;
    } else {
        __asm__ volatile("xchgl %0, %1" : "+r"(one), "+m"(c->y) : : "memory");
        c->r[1] = c->x;
    }
}

static bool both_missed(const struct cell *c)
{
    return !c->r[0] && !c->r[1];
}

static void a_load_may_pass_an_older_store(void)
{
    unsigned seen = count_outcome(2, store_buffering, both_missed);

    print("# %u of %u trials\n", seen, trials);
}

static void no_load_passes_a_fence(void)
{
    check_eq(count_outcome(2, store_buffering_fenced, both_missed), 0);
}

static void no_load_passes_a_locked_instruction(void)
{
    check_eq(count_outcome(2, store_buffering_locked, both_missed), 0);
}

/* --- MP: a message and its flag --- */

static void message_passing(unsigned cpu, struct cell *c)
{
    if (cpu == 0) {
        c->x = 1;
        c->y = 1;
    } else {
        c->r[0] = c->y;
        c->r[1] = c->x;
    }
}

static bool flag_without_message(const struct cell *c)
{
    return c->r[0] && !c->r[1];
}

static void stores_and_loads_keep_their_order(void)
{
    check_eq(count_outcome(2, message_passing, flag_without_message), 0);
}

/* --- LB: no store passes an older load --- */

static void load_buffering(unsigned cpu, struct cell *c)
{
    if (cpu == 0) {
        c->r[0] = c->x;
        c->y = 1;
    } else {
        c->r[1] = c->y;
        c->x = 1;
    }
}

static bool both_saw_the_future(const struct cell *c)
{
    return c->r[0] && c->r[1];
}

static void no_store_passes_an_older_load(void)
{
    check_eq(count_outcome(2, load_buffering, both_saw_the_future), 0);
}

/* --- CoRR: one variable is never read backwards --- */

static void read_twice(unsigned cpu, struct cell *c)
{
    if (cpu == 0) {
        c->x = 1;
    } else {
        c->r[0] = c->x;
        c->r[1] = c->x;
    }
}

static void one_variable_does_not_go_back(void)
{
    check_eq(count_outcome(2, read_twice, flag_without_message), 0);
}

/* --- 2+2W: stores of two CPUs to two variables --- */

static void crossed_stores(unsigned cpu, struct cell *c)
{
    if (cpu == 0) {
        c->x = 1;
        c->y = 2;
    } else {
        c->y = 1;
        c->x = 2;
    }
}

static bool first_stores_won(const struct cell *c)
{
    return c->x == 1 && c->y == 1;
}

static void stores_have_one_order(void)
{
    check_eq(count_outcome(2, crossed_stores, first_stores_won), 0);
}

/* --- WRC and IRIW: all see the stores of others in one order --- */

static void write_to_read(unsigned cpu, struct cell *c)
{
    if (cpu == 0) {
        c->x = 1;
    } else if (cpu == 1) {
        c->r[0] = c->x;
        c->y = 1;
        c->r[3] = c->r[0]; /* y says nothing unless x was seen before */
    } else {
        c->r[1] = c->y;
        c->r[2] = c->x;
    }
}

static bool cause_was_missed(const struct cell *c)
{
    return c->r[3] && c->r[1] && !c->r[2];
}

static void what_was_seen_is_seen_by_whoever_hears_of_it(void)
{
    check_eq(count_outcome(3, write_to_read, cause_was_missed), 0);
}

static void independent_reads(unsigned cpu, struct cell *c)
{
    switch (cpu) {
    case 0: c->x = 1; break;
    case 1: c->y = 1; break;
    case 2:
        c->r[0] = c->x;
        c->r[1] = c->y;
        break;
    default:
        c->r[2] = c->y;
        c->r[3] = c->x;
        break;
    }
}

static bool orders_differ(const struct cell *c)
{
    return c->r[0] && !c->r[1] && c->r[2] && !c->r[3];
}

static void independent_stores_are_seen_in_one_order(void)
{
    check_eq(count_outcome(4, independent_reads, orders_differ), 0);
}

/* --- aligned accesses are whole --- */

static volatile uint64_t whole __attribute__((aligned(64)));
static volatile unsigned torn;

static void write_and_read_whole(unsigned cpu)
{
    for (unsigned i = 0; i < 50000; i++) {
        if (cpu == 0) {
            whole = i & 1 ? UINT64_MAX : 0;
        } else {
            uint64_t v = whole;
            if (v && v != UINT64_MAX)
                torn++;
        }
    }
}

static void aligned_accesses_are_whole(void)
{
    if (smp_start() < 2)
        test_skip("one CPU");
    torn = 0;
    smp_run(2, write_and_read_whole);
    check_eq(torn, 0);
}

GUEST_TESTS({"SB: a load may pass an older store", a_load_may_pass_an_older_store}, {"SB: no load passes a fence", no_load_passes_a_fence},
            {"SB: no load passes a locked instruction", no_load_passes_a_locked_instruction},
            {"MP: stores and loads keep their order", stores_and_loads_keep_their_order},
            {"LB: no store passes an older load", no_store_passes_an_older_load},
            {"CoRR: one variable does not go back", one_variable_does_not_go_back}, {"2+2W: stores have one order", stores_have_one_order},
            {"WRC: what was seen is seen by whoever hears of it", what_was_seen_is_seen_by_whoever_hears_of_it},
            {"IRIW: independent stores are seen in one order", independent_stores_are_seen_in_one_order},
            {"aligned accesses are whole", aligned_accesses_are_whole});
