/* Work that only comes out right if CPUs see each other's memory, mappings and code: its checksums are the same on any number of CPUs. */
#include <cpuid.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define THREADS 4
#define ITEMS 4000
#define QUEUE 64
#define MAPPED_AT 0x70000000

/* Spins, so that the two meet; but not for long where one of them has no CPU. */
static void relax(unsigned *spins)
{
    if (++*spins % 64 == 0)
        usleep(50);
}

/* --- a queue between threads: a mutex and two conditions --- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t not_empty, not_full;
    uint64_t item[QUEUE];
    unsigned head, tail;
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER, .not_empty = PTHREAD_COND_INITIALIZER, .not_full = PTHREAD_COND_INITIALIZER};

static void put(uint64_t item)
{
    pthread_mutex_lock(&queue.lock);
    while (queue.head - queue.tail == QUEUE)
        pthread_cond_wait(&queue.not_full, &queue.lock);
    queue.item[queue.head++ % QUEUE] = item;
    pthread_cond_signal(&queue.not_empty);
    pthread_mutex_unlock(&queue.lock);
}

static uint64_t take(void)
{
    pthread_mutex_lock(&queue.lock);
    while (queue.head == queue.tail)
        pthread_cond_wait(&queue.not_empty, &queue.lock);
    uint64_t item = queue.item[queue.tail++ % QUEUE];
    pthread_cond_signal(&queue.not_full);
    pthread_mutex_unlock(&queue.lock);
    return item;
}

static atomic_ulong consumed;

static void *consumer(void *argument)
{
    for (uint64_t item; (item = take()) != 0;)
        atomic_fetch_add(&consumed, item * 0x9e3779b97f4a7c15ull); /* in any order */
    return argument;
}

static void queues(void)
{
    pthread_t threads[THREADS];
    uint64_t seed = 1;

    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, consumer, NULL) == 0);
    for (int i = 0; i < ITEMS; i++)
        put(random_next(&seed) | 1);
    for (int i = 0; i < THREADS; i++)
        put(0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    report("queue", consumed);
}

/* --- sorting in parallel, merged --- */

#define NUMBERS 40000
static uint32_t numbers[THREADS][NUMBERS];

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void *sorter(void *argument)
{
    uintptr_t id = (uintptr_t)argument;
    uint64_t seed = id + 7;

    for (int i = 0; i < NUMBERS; i++)
        numbers[id][i] = (uint32_t)(random_next(&seed) >> 32);
    qsort(numbers[id], NUMBERS, sizeof(numbers[id][0]), compare);
    return NULL;
}

static void sorts(void)
{
    pthread_t threads[THREADS];
    uint64_t sum = SUM_START;

    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, sorter, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    sum = sum_bytes(sum, numbers, sizeof(numbers));
    report("sorted", sum);
}

/* --- mappings that come and go under another thread's eyes --- */

static _Atomic(uint64_t *) offered;
static uint64_t mapped_sum = SUM_START;

static void *reader(void *argument)
{
    for (unsigned spins = 0;;) {
        uint64_t *page = atomic_load(&offered);
        if (!page) {
            relax(&spins);
            continue;
        }
        if (page == (uint64_t *)1)
            return argument;
        for (int i = 0; i < 512; i += 8)
            SUM(mapped_sum, page[i]);
        atomic_store(&offered, NULL);
    }
}

static void mappings(void)
{
    pthread_t thread;
    uint64_t seed = 99;

    CHECK(pthread_create(&thread, NULL, reader, NULL) == 0);
    for (int n = 0; n < 400; n++) {
        /* the same address each time: what the other CPU's TLB has of it is old */
        uint64_t *page = mmap((void *)MAPPED_AT, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        CHECK(page != MAP_FAILED);
        for (int i = 0; i < 512; i++)
            page[i] = random_next(&seed);
        if (n % 3 == 0)
            CHECK(mprotect(page, 4096, PROT_READ) == 0);
        atomic_store(&offered, page);
        for (unsigned spins = 0; atomic_load(&offered);)
            relax(&spins);
        if (n % 2)
            CHECK(munmap(page, 4096) == 0);
    }
    atomic_store(&offered, (uint64_t *)1);
    CHECK(pthread_join(thread, NULL) == 0);
    report("mappings", mapped_sum);
}

/* --- code that another thread writes --- */

static atomic_uint version;
static atomic_uint done;
static uint32_t (*code)(void);
static uint64_t code_sum = SUM_START;

static void *caller(void *argument)
{
    for (unsigned seen = 0, spins = 0; seen < 600;) {
        unsigned now = atomic_load(&version), a, b, c, d;
        if (now == seen) {
            relax(&spins);
            continue;
        }
        __cpuid(0, a, b, c, d); /* serializes */
        (void)(a + b + c + d);
        uint32_t value = code();
        SUM(code_sum, value);
        seen = now;
        atomic_store(&done, now);
    }
    return argument;
}

static void codes(void)
{
    int fd = memfd_create("code", 0);
    pthread_t thread;

    CHECK(fd >= 0 && ftruncate(fd, 4096) == 0);
    uint8_t *rw = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    code = (uint32_t(*)(void))mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    CHECK(rw != MAP_FAILED && (void *)code != MAP_FAILED);
    CHECK(pthread_create(&thread, NULL, caller, NULL) == 0);
    for (unsigned n = 1; n <= 600; n++) {
        uint32_t value = n * 2654435761u;
        rw[0] = 0xb8; /* mov $value, %eax; ret */
        memcpy(rw + 1, &value, 4);
        rw[5] = 0xc3;
        atomic_store(&version, n);
        for (unsigned spins = 0; atomic_load(&done) != n;)
            relax(&spins);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    report("code", code_sum);
}

/* --- copies of the address space while threads write to it --- */

static atomic_bool stop;
static uint64_t scratch[THREADS][512];

static void *scribbler(void *argument)
{
    uintptr_t id = (uintptr_t)argument;

    for (uint64_t n = 0; !atomic_load_explicit(&stop, memory_order_relaxed); n++)
        scratch[id][n % 512] += n;
    return NULL;
}

static void forks(void)
{
    static uint64_t data[8192];
    pthread_t threads[2];
    uint64_t seed = 5, sum = SUM_START;

    for (uintptr_t i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, scribbler, (void *)i) == 0);
    for (int n = 0; n < 40; n++) {
        int ends[2], status;
        uint64_t answer = 0;

        for (int i = 0; i < 8192; i += 64)
            data[i] = random_next(&seed);
        CHECK(pipe(ends) == 0);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            answer = sum_bytes(SUM_START, data, sizeof(data));
            _exit(write(ends[1], &answer, sizeof(answer)) != sizeof(answer));
        }
        data[0] = 0; /* the child's copy keeps it */
        CHECK(read(ends[0], &answer, sizeof(answer)) == sizeof(answer));
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        SUM(sum, answer);
        close(ends[0]);
        close(ends[1]);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    report("forks", sum);
}

int main(void)
{
    queues();
    sorts();
    mappings();
    codes();
    forks();
    return 0;
}
