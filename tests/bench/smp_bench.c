/* What a second CPU gains: the same work by one thread and by two at a time. Prints a row for each kind of work. */
#include <pthread.h>

#include "bench.h"

#define WORDS 8192 /* 64 KiB a thread: within the first caches */
#define PASSES 6000

static _Atomic uint64_t shared_sum;

/* Loads, stores, multiplications and branches that data decides, on memory of its own. */
static void *private_work(void *memory)
{
    uint64_t *p = memory, h = 1;

    for (unsigned pass = 0; pass < PASSES; pass++)
        for (unsigned i = 0; i < WORDS; i++) {
            h = (h ^ p[i]) * 0x100000001b3;
            if (h & 1)
                p[i] += h >> 32;
        }
    shared_sum += h;
    return NULL;
}

/* The same with a locked addition to one word now and then. */
static void *sharing_work(void *memory)
{
    uint64_t *p = memory, h = 1;

    for (unsigned pass = 0; pass < PASSES; pass++)
        for (unsigned i = 0; i < WORDS; i++) {
            h = (h ^ p[i]) * 0x100000001b3;
            if (i % 256 == 0)
                shared_sum += h;
        }
    return NULL;
}

static double run(void *(*work)(void *), unsigned threads)
{
    pthread_t thread[2];
    static uint64_t memory[2][WORDS];
    uint64_t start = now_ns();

    for (unsigned i = 0; i < threads; i++)
        if (pthread_create(&thread[i], NULL, work, memory[i]) != 0)
            fail("thread");
    for (unsigned i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    return (double)(now_ns() - start);
}

static void row(const char *name, void *(*work)(void *))
{
    run(work, 2); /* memory is touched, and both CPUs are awake */
    double one = run(work, 1), two = run(work, 2);

    print_row(name, 2 * one / two, 3, "x");
}

int main(void)
{
    row("two threads, memory of their own", private_work);
    row("two threads, one word shared", sharing_work);
    return 0;
}
