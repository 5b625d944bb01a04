/* The rows of cpu_bench that the kernel takes part in: system calls, processes, page faults, signals. */
#include "cpu_bench.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096UL

static uint64_t clock_reads(uint64_t count)
{
    struct timespec before = {0}, t;
    uint64_t backwards = 0;

    row_start();
    for (uint64_t i = 0; i < count; i++) {
        clock_gettime(CLOCK_MONOTONIC, &t);
        backwards += t.tv_sec < before.tv_sec || (t.tv_sec == before.tv_sec && t.tv_nsec < before.tv_nsec);
        before = t;
    }
    row_stop();
    return backwards;
}

static uint64_t getppids(uint64_t count)
{
    long parent = getppid();
    uint64_t wrong = 0;

    row_start();
    for (uint64_t i = 0; i < count; i++)
        wrong += syscall(SYS_getppid) != parent;
    row_stop();
    return wrong;
}

/* --- processes --- */

/* Sends back each byte plus one until the pipe is closed. */
static _Noreturn void echo(int from, int to)
{
    uint8_t byte;

    while (read(from, &byte, 1) == 1) {
        byte++;
        if (write(to, &byte, 1) != 1)
            _exit(1);
    }
    _exit(0);
}

static void wait_for(pid_t pid)
{
    int status;

    if (waitpid(pid, &status, 0) != pid || status != 0)
        fail("a child process");
}

static uint64_t pipe_round_trips(uint64_t count)
{
    uint64_t sum = 0;
    int out[2], in[2];
    uint8_t byte = 0;
    pid_t pid;

    if (pipe(out) != 0 || pipe(in) != 0)
        fail("pipe");
    pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid == 0) {
        close(out[1]);
        close(in[0]);
        echo(out[0], in[1]);
    }
    close(out[0]);
    close(in[1]);
    row_start();
    for (uint64_t i = 0; i < count; i++) {
        if (write(out[1], &byte, 1) != 1 || read(in[0], &byte, 1) != 1)
            fail("pipe");
        sum += byte;
    }
    row_stop();
    close(out[1]);
    close(in[0]);
    wait_for(pid);
    return sum;
}

static uint64_t forks(uint64_t count)
{
    row_start();
    for (uint64_t i = 0; i < count; i++) {
        pid_t pid = fork();

        if (pid < 0)
            fail("fork");
        if (pid == 0)
            _exit(0);
        wait_for(pid);
    }
    row_stop();
    return 0;
}

static uint64_t execs(uint64_t count)
{
    row_start();
    for (uint64_t i = 0; i < count; i++) {
        pid_t pid = fork();

        if (pid < 0)
            fail("fork");
        if (pid == 0) {
            execl("/proc/self/exe", "cpu_bench", "--exit", (char *)NULL);
            _exit(1);
        }
        wait_for(pid);
    }
    row_stop();
    return 0;
}

/* --- memory --- */

#define FAULT_PAGES 8192 /* at a time */
#define MAP_PAGES 16

/* Pages of their own, even where the kernel likes to give larger ones. */
static uint8_t *map(size_t pages)
{
    uint8_t *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        fail("mmap");
    return p;
}

/* A write: a read first would map the page of zeros, and the write after it be a second fault. */
static uint64_t touch(uint8_t *page)
{
    volatile uint8_t *byte = page;

    *byte = 1;
    return *byte;
}

static uint64_t first_touches(uint64_t count)
{
    uint64_t sum = 0;

    for (uint64_t done = 0; done < count; done += FAULT_PAGES) {
        uint8_t *p = map(FAULT_PAGES);

        madvise(p, FAULT_PAGES * PAGE, MADV_NOHUGEPAGE);
        row_start();
        for (size_t i = 0; i < FAULT_PAGES; i++)
            sum += touch(p + i * PAGE);
        row_stop();
        munmap(p, FAULT_PAGES * PAGE);
    }
    return sum;
}

static uint64_t maps(uint64_t count)
{
    uint64_t sum = 0;

    row_start();
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *p = map(MAP_PAGES);

        for (size_t k = 0; k < MAP_PAGES; k++)
            sum += touch(p + k * PAGE);
        munmap(p, MAP_PAGES * PAGE);
    }
    row_stop();
    return sum;
}

static volatile uint64_t signals_seen;

/* Goes on behind the three bytes of the store that faulted. */
static void on_segv(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 3;
    signals_seen++;
}

static uint64_t signals(uint64_t count)
{
    struct sigaction action = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO}, old;
    void *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED || sigaction(SIGSEGV, &action, &old) != 0)
        fail("SIGSEGV");
    signals_seen = 0;
    row_start();
    for (uint64_t i = 0; i < count; i++)
        __asm__ volatile(".byte 0xc6, 0x00, 0x01" : : "a"(page) : "memory"); /* movb $1, (%rax) */
    row_stop();
    sigaction(SIGSEGV, &old, NULL);
    munmap(page, PAGE);
    return signals_seen;
}

/*
 * These take 20 ms or more where entering a kernel costs a tenth of a microsecond, and a few seconds where the host is itself a virtual
 * machine whose page faults take fifty.
 */
const struct row rows_system[] = {
    {"clock_gettime", clock_reads, 3000000, 0},
    {"getppid", getppids, 500000, 0},
    {"pipe round trip", pipe_round_trips, 20000, 0x26db10},
    {"fork+wait", forks, 300, 0},
    {"fork+exec", execs, 100, 0},
    {"first-touch page fault", first_touches, 5 * FAULT_PAGES, 5 * FAULT_PAGES},
    {"mmap+touch+munmap", maps, 2000, 2000 * MAP_PAGES},
    {"SIGSEGV handler", signals, 20000, 20000},
    {0},
};
