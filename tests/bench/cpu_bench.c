/* Measures a CPU and its kernel, the same work everywhere: cpu_bench [--touch] [ROW...]; as a guest's init it says so and goes on to /init. */
#include "cpu_bench.h"

#include <stdbool.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define REPETITIONS 5
#define ENOUGH_NS (3 * NS / 2) /* no further repetition after so long */
#define LEFT_BYTES (64UL << 20)

static uint64_t started_ns, spent_ns;

void row_start(void)
{
    started_ns = now_ns();
}

void row_stop(void)
{
    spent_ns += now_ns() - started_ns;
}

/* The best repetition's time in ns. A slow machine's first one is enough, for it disturbs itself less than others disturb a fast one. */
static uint64_t measure(const struct row *r)
{
    uint64_t best = UINT64_MAX, total = 0;

    for (unsigned i = 0; i < REPETITIONS && total < ENOUGH_NS; i++) {
        uint64_t sum;

        spent_ns = 0;
        sum = r->run(r->count);
        if (sum != r->expected) {
            fprintf(stderr, "cpu_bench: %s: checksum 0x%llx, not 0x%llx\n", r->name, (unsigned long long)sum,
                    (unsigned long long)r->expected);
            exit(1);
        }
        total += spent_ns;
        best = spent_ns < best ? spent_ns : best;
    }
    return best;
}

static bool is_wanted(const char *name, char **wanted)
{
    if (!*wanted)
        return true;
    for (; *wanted; wanted++)
        if (strcmp(*wanted, name) == 0)
            return true;
    return false;
}

static void run_rows(const struct row *rows, char **wanted)
{
    for (const struct row *r = rows; r->name; r++) {
        if (!is_wanted(r->name, wanted))
            continue;
        print_row(r->name, (double)measure(r) / (double)r->count, 3, "ns");
    }
}

/* A guest's memory is the host's only once it was written: all that is free is, so that no row pays for it. */
static void touch_memory(void)
{
    struct sysinfo info;
    size_t bytes;
    char *p;

    if (sysinfo(&info) != 0)
        fail("sysinfo");
    bytes = (size_t)info.freeram * info.mem_unit;
    if (bytes <= LEFT_BYTES)
        return;
    bytes -= LEFT_BYTES;
    p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p == MAP_FAILED)
        fail("touching the guest's memory");
    munmap(p, bytes);
}

int main(int argc, char **argv)
{
    if (getpid() == 1) {
        static const char line[] = "cpu_bench: init\n";

        if (write(STDOUT_FILENO, line, sizeof(line) - 1) < 0)
            fail("console");
        execl("/init", "/init", (char *)NULL);
        fail("/init");
    }
    argv++;
    if (argc > 1 && strcmp(*argv, "--exit") == 0) /* what the row of exec runs */
        _exit(0);
    if (argc > 1 && strcmp(*argv, "--touch") == 0) {
        touch_memory();
        argv++;
    }
    run_rows(rows_compute, argv);
    run_rows(rows_system, argv);
    return 0;
}
