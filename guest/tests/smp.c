/* Several CPUs: INIT and SIPI, every kind of IPI, locked instructions, TLB shootdowns, code that another CPU changes. */
#include "paging.h"
#include "smp.h"
#include "test.h"

#define VECTOR 0x51
#define WAIT_MS 5000
#define ROUNDS 20000u

static volatile unsigned taken[SMP_MAX], nmis[SMP_MAX];

static void on_ipi(struct trap_frame *f)
{
    (void)f;
    taken[smp_self()]++;
    apic_eoi();
}

static void on_nmi(struct trap_frame *f)
{
    (void)f;
    nmis[smp_self()]++;
}

/* All started, and two at least. */
static unsigned begin(void)
{
    unsigned count = smp_start();

    if (count < 2)
        test_skip("one CPU");
    for (unsigned i = 0; i < SMP_MAX; i++)
        taken[i] = nmis[i] = 0;
    set_handler(VECTOR, on_ipi);
    set_handler(EXC_NMI, on_nmi);
    return count;
}

static unsigned cmdline_cpus(void)
{
    const char *p = guest_cmdline();
    unsigned n = 0;

    while (*p && memcmp(p, "cpus=", 5) != 0)
        p++;
    for (p += *p ? 5 : 0; *p >= '0' && *p <= '9'; p++)
        n = n * 10 + (unsigned)(*p - '0');
    return n;
}

static void the_madt_lists_the_cpus_and_ids_agree_with_cpuid(void)
{
    if (cmdline_cpus())
        check_eq(smp_listed(), cmdline_cpus());
    check_eq(smp_apic_id(0), apic_read(APIC_ID) >> 24);
    check_eq(smp_apic_id(0), cpuid(1, 0).b >> 24);
    check_eq(smp_apic_id(0), cpuid(0xb, 0).d);
    for (unsigned i = 1; i < smp_listed(); i++)
        check(smp_apic_id(i) > smp_apic_id(i - 1));
}

/* --- starting --- */

static volatile uint32_t ids[SMP_MAX][3];
static volatile bool is_bsp[SMP_MAX];

static void report_ids(unsigned cpu)
{
    ids[cpu][0] = apic_read(APIC_ID) >> 24;
    ids[cpu][1] = cpuid(1, 0).b >> 24;
    ids[cpu][2] = cpuid(0xb, 1).d;
    is_bsp[cpu] = rdmsr(MSR_APIC_BASE) & BIT(8);
}

static void each_cpu_starts_at_its_sipi_and_knows_its_id(void)
{
    unsigned count = begin();

    smp_run(count, report_ids);
    for (unsigned i = 0; i < count; i++) {
        for (unsigned k = 0; k < 3; k++)
            check_eq(ids[i][k], smp_apic_id(i));
        check_eq(is_bsp[i], i == 0);
        check(i == 0 || (smp_starts(i) == 1 && smp_start_cs(i) == AP_PAGE >> 4));
    }
}

static volatile bool release;

static void spin_until_released(unsigned cpu)
{
    (void)cpu;
    while (!release)
        pause_cpu();
}

static void a_second_sipi_is_ignored_and_init_begins_anew(void)
{
    unsigned last = begin() - 1, starts = smp_starts(last);

    icr_send(smp_apic_id(last), ICR_STARTUP | AP_PAGE >> 12);
    pit_delay_us(2000);
    check_eq(smp_starts(last), starts);
    release = false;
    smp_give(last, spin_until_released); /* out of a loop with interrupts closed, too */
    smp_restart(last);
    check_eq(smp_starts(last), starts + 1);
    check(smp_idle(last));
}

static void init_waits_for_its_sipi(void)
{
    unsigned last = begin() - 1;

    icr_send(smp_apic_id(last), ICR_INIT);
    icr_send(smp_apic_id(last), VECTOR); /* its APIC is disabled now */
    pit_delay_us(3000);
    check_eq(taken[last], 0);
    unsigned starts = smp_starts(last);
    icr_send(smp_apic_id(last), ICR_STARTUP | AP_PAGE >> 12);
    for (unsigned ms = 0; smp_starts(last) == starts && ms < WAIT_MS; ms++)
        pit_delay_us(1000);
    check_eq(smp_starts(last), starts + 1);
}

/* --- IPIs; the CPUs halt with interrupts open --- */

static void wait_taken(const volatile unsigned *counts, unsigned cpu, unsigned want)
{
    if (!wait_count(&counts[cpu], want, WAIT_MS))
        test_fail(__FILE_NAME__, __LINE__, "CPU %u has taken %u, not %u", cpu, counts[cpu], want);
}

static void fixed_ipis_reach_the_cpu_that_is_named(void)
{
    unsigned count = begin();

    for (unsigned i = 1; i < count; i++) {
        icr_send(smp_apic_id(i), VECTOR);
        wait_taken(taken, i, 1);
    }
    icr_send(0x77, VECTOR); /* nobody */
    pit_delay_us(2000);
    for (unsigned i = 0; i < count; i++)
        check_eq(taken[i], i != 0);
}

static void nmis_reach_the_cpu_that_is_named(void)
{
    unsigned count = begin();

    for (unsigned i = 1; i < count; i++) {
        icr_send(smp_apic_id(i), ICR_NMI);
        wait_taken(nmis, i, 1);
        check_eq(nmis[0], 0);
    }
    release = false;
    smp_give(1, spin_until_released); /* interrupts are closed, NMIs are not */
    icr_send(smp_apic_id(1), ICR_NMI);
    wait_taken(nmis, 1, 2);
    release = true;
    smp_wait();
}

static void shorthands_reach_all_or_all_others(void)
{
    unsigned count = begin();

    sti();
    icr_send(0, VECTOR | ICR_OTHERS);
    for (unsigned i = 1; i < count; i++)
        wait_taken(taken, i, 1);
    check_eq(taken[0], 0);
    icr_send(0, VECTOR | ICR_ALL);
    for (unsigned i = 0; i < count; i++)
        wait_taken(taken, i, i ? 2 : 1);
    icr_send(0, VECTOR | ICR_SELF);
    wait_taken(taken, 0, 2);
    icr_send(0xff, VECTOR); /* broadcast by its address */
    for (unsigned i = 0; i < count; i++)
        wait_taken(taken, i, 3);
}

static void set_logical_id(unsigned cpu)
{
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, BIT(24 + (cpu & 7)));
}

static void logical_addresses_name_sets(void)
{
    unsigned count = begin();

    if (count > 8)
        test_skip("more CPUs than the flat model has");
    smp_run(count, set_logical_id);
    icr_send(BIT(1), VECTOR | ICR_LOGICAL);
    wait_taken(taken, 1, 1);
    icr_send((BIT(count) - 1) & ~1U, VECTOR | ICR_LOGICAL);
    for (unsigned i = 1; i < count; i++)
        wait_taken(taken, i, i == 1 ? 2 : 1);
    pit_delay_us(2000);
    check_eq(taken[0], 0);
}

static unsigned sum_taken(unsigned count)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < count; i++)
        sum += taken[i];
    return sum;
}

static void lowest_priority_takes_one_of_the_set(void)
{
    unsigned count = begin();

    if (count > 8)
        test_skip("more CPUs than the flat model has");
    smp_run(count, set_logical_id);
    for (unsigned n = 1; n <= 10; n++) {
        icr_send((BIT(count) - 1) & ~1U, VECTOR | ICR_LOWEST | ICR_LOGICAL);
        for (unsigned ms = 0; sum_taken(count) < n && ms < WAIT_MS; ms++)
            pit_delay_us(100);
        check_eq(sum_taken(count), n);
    }
    check_eq(taken[0], 0);
}

/* To and fro between two CPUs: each waits in HLT for the other's. */
static volatile unsigned ping_rounds;

static void wait_for_ipi(unsigned cpu, unsigned want)
{
    while (taken[cpu] < want) /* STI holds the interrupt off until HLT */
        __asm__ volatile("sti; hlt; cli" : : : "memory");
}

static void pong(unsigned cpu)
{
    for (unsigned n = 1; n <= ping_rounds; n++) {
        wait_for_ipi(cpu, n);
        icr_send(smp_apic_id(0), VECTOR);
    }
}

static void an_ipi_wakes_a_halted_cpu_every_time(void)
{
    begin();
    ping_rounds = 500;
    smp_give(1, pong);
    for (unsigned n = 1; n <= ping_rounds; n++) {
        icr_send(smp_apic_id(1), VECTOR);
        wait_for_ipi(0, n);
    }
    smp_wait();
    check_eq(taken[0], ping_rounds);
    check_eq(taken[1], ping_rounds);
}

/* --- locked instructions --- */

static volatile uint64_t counters[8] __attribute__((aligned(64)));
static volatile unsigned lock_word;
static volatile uint64_t guarded;
static volatile uint8_t *crossing; /* an operand in two pages */

static void count_by_lock_inc(unsigned cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < ROUNDS; i++)
        __asm__ volatile("lock incq %0" : "+m"(counters[0]) : : "cc");
}

static void count_by_xadd(unsigned cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t one = 1;
        __asm__ volatile("lock xaddq %1, %0" : "+m"(counters[1]), "+r"(one) : : "cc");
    }
}

static void count_by_cmpxchg(unsigned cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t old = counters[2];
        while (!__atomic_compare_exchange_n(&counters[2], &old, old + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            ;
    }
}

static void count_under_an_xchg_lock(unsigned cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < ROUNDS / 10; i++) {
        while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE))
            pause_cpu();
        guarded++;
        __atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
    }
}

/* Adds 1 and 3 to the two halves, unless another CPU was quicker: lo and hi are what it left then. */
static bool add_by_cmpxchg16b(uint64_t *lo, uint64_t *hi)
{
    bool done;

    __asm__ volatile("lock cmpxchg16b %0\n\tsete %3"
                     : "+m"(*(volatile unsigned __int128 *)&counters[4]), "+a"(*lo), "+d"(*hi), "=r"(done)
                     : "b"(*lo + 1), "c"(*hi + 3)
                     : "cc");
    return done;
}

static void count_by_cmpxchg16b(unsigned cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < ROUNDS / 10; i++) {
        uint64_t lo = counters[4], hi = counters[5];

        while (!add_by_cmpxchg16b(&lo, &hi))
            ;
    }
}

static void count_across_pages(unsigned cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < ROUNDS / 20; i++)
        __asm__ volatile("lock addl $1, %0" : "+m"(*(volatile uint32_t *)crossing) : : "cc");
}

static void locked_instructions_lose_no_count(void)
{
    unsigned count = begin();

    for (unsigned i = 0; i < 8; i++)
        counters[i] = 0;
    smp_run(count, count_by_lock_inc);
    check_eq(counters[0], (uint64_t)count * ROUNDS);
    smp_run(count, count_by_xadd);
    check_eq(counters[1], (uint64_t)count * ROUNDS);
    smp_run(count, count_by_cmpxchg);
    check_eq(counters[2], (uint64_t)count * ROUNDS);
    guarded = 0;
    smp_run(count, count_under_an_xchg_lock);
    check_eq(guarded, (uint64_t)count * (ROUNDS / 10));
    if (cpu_has(F_CX16)) {
        smp_run(count, count_by_cmpxchg16b);
        check_eq(counters[4], (uint64_t)count * (ROUNDS / 10));
        check_eq(counters[5], (uint64_t)count * (ROUNDS / 10) * 3);
    }
}

static void locked_instructions_are_whole_across_pages(void)
{
    unsigned count = begin();
    uint8_t *pages = page_alloc();

    page_alloc(); /* its neighbour */
    crossing = pages + PAGE_SIZE - 2;
    *(volatile uint32_t *)crossing = 0;
    smp_run(count, count_across_pages);
    check_eq(*(volatile uint32_t *)crossing, count * (ROUNDS / 20));
}

/* --- page tables that another CPU changes --- */

#define SHOOT_ROUNDS 300u
static volatile uint64_t *const window = (volatile uint64_t *)TEST_HIGH;
static volatile unsigned shot, wrong_values;
static volatile uint64_t lowest_allowed;

static void on_shootdown(struct trap_frame *f)
{
    (void)f;
    invlpg(window);
    shot++;
    apic_eoi();
}

/* Reads the page as long as it is told to. What it sees may be late by a round, but never after the shootdown. */
static void read_the_window(unsigned cpu)
{
    (void)cpu;
    sti();
    while (!release) {
        uint64_t least = lowest_allowed;

        barrier();
        if (*window < least)
            wrong_values++;
    }
    cli();
}

static void a_shootdown_ends_the_use_of_the_old_page(void)
{
    uint64_t *page[2];

    begin();
    page[0] = page_alloc();
    page[1] = page_alloc();
    map_page((word)window, page[0], PTE_P | PTE_W);
    set_handler(VECTOR, on_shootdown);
    shot = wrong_values = 0;
    release = false;
    lowest_allowed = 0;
    smp_give(1, read_the_window);
    for (unsigned n = 1; n <= SHOOT_ROUNDS; n++) {
        *page[n & 1] = n;
        *pte_at((word)window, 1) = (word)page[n & 1] | PTE_P | PTE_W;
        icr_send(smp_apic_id(1), VECTOR);
        for (uint64_t end = rdtsc() + tsc_per_ms() * WAIT_MS; shot < n && rdtsc() < end;)
            pause_cpu();
        check_eq(shot, n);
        lowest_allowed = n;
        barrier();
        *page[~n & 1] = 0; /* would show */
    }
    release = true;
    smp_wait();
    check_eq(wrong_values, 0);
}

static volatile uint8_t *dirty_pages;
#define DIRTY_PAGES 64u

static void touch_pages(unsigned cpu)
{
    for (unsigned i = 0; i < DIRTY_PAGES; i++) {
        volatile uint8_t *p = dirty_pages + i * PAGE_SIZE;
        if (i % 2 == cpu % 2)
            p[cpu] = 1;
        else
            (void)*p;
    }
}

static void accessed_and_dirty_bits_of_all_cpus_add_up(void)
{
    unsigned count = begin();

    dirty_pages = (volatile uint8_t *)(TEST_HIGH + 0x200000);
    for (unsigned i = 0; i < DIRTY_PAGES; i++)
        map_page((word)dirty_pages + i * PAGE_SIZE, page_alloc(), PTE_P | PTE_W);
    smp_run(count, touch_pages);
    for (unsigned i = 0; i < DIRTY_PAGES; i++)
        check_eq(*pte_at((word)dirty_pages + i * PAGE_SIZE, 1) & (PTE_A | PTE_D), PTE_A | PTE_D);
}

/* --- code that another CPU changes --- */

static const uint8_t return_number[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov $n, %eax; ret */
static uint8_t *code;
static volatile unsigned code_version, code_seen, stale_runs;

static void write_number(unsigned n)
{
    *(volatile uint32_t *)(code + 1) = n;
}

static unsigned call_code(void)
{
    unsigned result;

    __asm__ volatile("call *%1" : "=a"(result) : "r"(code) : "memory", "cc");
    return result;
}

/* Sees the new version's number, serializes, and must run the new code (SDM vol. 3 8.1.3). */
static void follow_versions(unsigned cpu)
{
    (void)cpu;
    sti();
    while (!release) {
        unsigned version = code_version;

        cpuid(0, 0);
        if (call_code() < version)
            stale_runs++;
        code_seen = version;
    }
    cli();
}

static void code_page(void)
{
    code = page_alloc();
    memcpy(code, return_number, sizeof(return_number));
    code_version = code_seen = stale_runs = 0;
    release = false;
}

static void changed_code_is_run_once_a_flag_says_so(void)
{
    begin();
    code_page();
    smp_give(1, follow_versions);
    for (unsigned n = 1; n <= 500; n++) {
        write_number(n);
        barrier();
        code_version = n;
        for (uint64_t end = rdtsc() + tsc_per_ms() * WAIT_MS; code_seen < n && rdtsc() < end;)
            pause_cpu();
        check_eq(code_seen, n);
        check_eq(call_code(), n);
    }
    release = true;
    smp_wait();
    check_eq(stale_runs, 0);
}

static void on_sync(struct trap_frame *f)
{
    (void)f;
    cpuid(0, 0);
    code_seen = code_version;
    apic_eoi();
}

static void run_until_released(unsigned cpu)
{
    (void)cpu;
    sti();
    while (!release) {
        unsigned least = code_seen; /* of the last synchronization of this CPU */

        barrier();
        if (call_code() < least)
            stale_runs++;
    }
    cli();
}

/* As kernels patch their text: bytes, then an IPI that serializes. */
static void changed_code_is_run_after_an_ipi(void)
{
    begin();
    code_page();
    set_handler(VECTOR, on_sync);
    smp_give(1, run_until_released);
    for (unsigned n = 1; n <= 500; n++) {
        write_number(n);
        barrier();
        code_version = n;
        icr_send(smp_apic_id(1), VECTOR);
        for (uint64_t end = rdtsc() + tsc_per_ms() * WAIT_MS; code_seen < n && rdtsc() < end;)
            pause_cpu();
        check_eq(code_seen, n);
    }
    release = true;
    smp_wait();
    check_eq(stale_runs, 0);
}

static volatile unsigned calls;

static void call_many_times(unsigned cpu)
{
    (void)cpu;
    while (calls < ROUNDS && !release) {
        if (call_code() != 7)
            stale_runs++;
        calls++;
    }
    release = true;
}

/* Data beside the code: the one CPU comes on however often the other writes. */
static void code_comes_on_while_its_page_is_written_to(void)
{
    begin();
    code_page();
    write_number(7);
    calls = 0;
    smp_give(1, call_many_times);
    uint64_t end = rdtsc() + tsc_per_ms() * WAIT_MS * 2;
    uint64_t writes = 0;
    while (!release && rdtsc() < end)
        *(volatile uint64_t *)(code + 2048) = ++writes;
    release = true;
    smp_wait();
    check_eq(calls, ROUNDS);
    check_eq(stale_runs, 0);
    check_eq(*(volatile uint64_t *)(code + 2048), writes);
}

/* Every CPU makes its own code anew again and again, in pages that all run. */
static uint8_t *shared_code[SMP_MAX];
static volatile unsigned own_stale;

static void make_and_run(unsigned cpu)
{
    for (unsigned n = 1; n <= 300; n++) {
        unsigned result;

        memcpy(shared_code[cpu], return_number, sizeof(return_number));
        *(volatile uint32_t *)(shared_code[cpu] + 1) = n << 8 | cpu;
        __asm__ volatile("call *%1" : "=a"(result) : "r"(shared_code[cpu]) : "memory", "cc");
        if (result != (n << 8 | cpu))
            own_stale++;
    }
}

static void each_cpu_runs_what_it_has_just_written(void)
{
    unsigned count = begin();
    uint8_t *page = page_alloc();

    for (unsigned i = 0; i < count; i++) /* all in one page */
        shared_code[i] = page + i * 64;
    own_stale = 0;
    smp_run(count, make_and_run);
    check_eq(own_stale, 0);
}

/* --- time --- */

static volatile uint64_t last_tsc;
static volatile unsigned turn, backwards;

static void pass_the_time(unsigned cpu)
{
    for (unsigned n = 0; n < 1000; n++) {
        while (turn % 2 != cpu)
            pause_cpu();
        __asm__ volatile("lfence" : : : "memory"); /* RDTSC waits for nothing by itself */
        uint64_t now = rdtsc();
        if (now < last_tsc)
            backwards++;
        last_tsc = now;
        turn++;
    }
}

static void time_never_goes_back_from_cpu_to_cpu(void)
{
    begin();
    last_tsc = turn = backwards = 0;
    smp_run(2, pass_the_time);
    check_eq(backwards, 0);
}

/* --- x2APIC: last, for there is no way back --- */

#define X2APIC_ICR 0x830
#define X2APIC_LDR 0x80d

static volatile uint32_t ldrs[SMP_MAX];

static void on_x2_ipi(struct trap_frame *f)
{
    uint32_t id = cpuid(0xb, 0).d;

    (void)f;
    for (unsigned i = 0; i < SMP_MAX; i++)
        if (i < smp_listed() && smp_apic_id(i) == id)
            taken[i]++;
    wrmsr(0x80b, 0); /* EOI */
}

static void enter_x2apic(unsigned cpu)
{
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | BIT(10));
    ldrs[cpu] = (uint32_t)rdmsr(X2APIC_LDR);
}

static void x2apic_clusters_follow_from_ids(void)
{
    unsigned count = begin();

    if (!cpu_has(F_X2APIC))
        test_skip("no x2APIC");
    smp_run(count, enter_x2apic);
    set_handler(VECTOR, on_x2_ipi);
    for (unsigned i = 0; i < count; i++)
        check_eq(ldrs[i], smp_apic_id(i) >> 4 << 16 | 1U << (smp_apic_id(i) & 15));
    for (unsigned i = 1; i < count; i++) {
        wrmsr(X2APIC_ICR, (uint64_t)smp_apic_id(i) << 32 | VECTOR);
        wait_taken(taken, i, 1);
        wrmsr(X2APIC_ICR, (uint64_t)ldrs[i] << 32 | ICR_LOGICAL | VECTOR);
        wait_taken(taken, i, 2);
    }
    uint32_t same_cluster = 0;
    for (unsigned i = 1; i < count; i++)
        same_cluster |= ldrs[i] >> 16 == ldrs[1] >> 16 ? ldrs[i] : 0;
    wrmsr(X2APIC_ICR, (uint64_t)same_cluster << 32 | ICR_LOGICAL | VECTOR);
    for (unsigned i = 1; i < count; i++)
        wait_taken(taken, i, ldrs[i] >> 16 == ldrs[1] >> 16 ? 3 : 2);
    check_eq(taken[0], 0);
}

GUEST_TESTS({"the MADT lists the CPUs, and ids agree with CPUID", the_madt_lists_the_cpus_and_ids_agree_with_cpuid},
            {"each CPU starts at its SIPI and knows its id", each_cpu_starts_at_its_sipi_and_knows_its_id},
            {"a second SIPI is ignored, and INIT begins anew", a_second_sipi_is_ignored_and_init_begins_anew},
            {"INIT waits for its SIPI", init_waits_for_its_sipi},
            {"fixed IPIs reach the CPU that is named", fixed_ipis_reach_the_cpu_that_is_named},
            {"NMIs reach the CPU that is named", nmis_reach_the_cpu_that_is_named},
            {"shorthands reach all, or all others", shorthands_reach_all_or_all_others},
            {"logical addresses name sets", logical_addresses_name_sets},
            {"lowest priority takes one of the set", lowest_priority_takes_one_of_the_set},
            {"an IPI wakes a halted CPU every time", an_ipi_wakes_a_halted_cpu_every_time},
            {"locked instructions lose no count", locked_instructions_lose_no_count},
            {"locked instructions are whole across pages", locked_instructions_are_whole_across_pages},
            {"a shootdown ends the use of the old page", a_shootdown_ends_the_use_of_the_old_page},
            {"accessed and dirty bits of all CPUs add up", accessed_and_dirty_bits_of_all_cpus_add_up},
            {"changed code is run once a flag says so", changed_code_is_run_once_a_flag_says_so},
            {"changed code is run after an IPI", changed_code_is_run_after_an_ipi},
            {"code comes on while its page is written to", code_comes_on_while_its_page_is_written_to},
            {"each CPU runs what it has just written", each_cpu_runs_what_it_has_just_written},
            {"time never goes back from CPU to CPU", time_never_goes_back_from_cpu_to_cpu},
            {"x2APIC clusters follow from ids", x2apic_clusters_follow_from_ids});
