/* Threads: mutexes, condition variables, futex waits, thread-local storage and atomics count right. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "check.h"

#define THREADS 8
#define ROUNDS 20000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static unsigned long locked_count, turn;
static atomic_ulong atomic_count;
static __thread uint64_t own[64];

static void *work(void *argument)
{
    uintptr_t id = (uintptr_t)argument;
    uint64_t seed = id + 1;

    for (int i = 0; i < ROUNDS; i++) {
        own[random_next(&seed) % 64] += random_next(&seed) + id;
        atomic_fetch_add(&atomic_count, 1);
        pthread_mutex_lock(&lock);
        locked_count++;
        pthread_mutex_unlock(&lock);
    }
    pthread_barrier_wait(&barrier);
    /* Each in its turn, so everybody sleeps in a futex most of the time. */
    for (int i = 0; i < 100; i++) {
        pthread_mutex_lock(&lock);
        while (turn % THREADS != id)
            pthread_cond_wait(&turned, &lock);
        turn++;
        pthread_cond_broadcast(&turned);
        pthread_mutex_unlock(&lock);
    }
    return (void *)(uintptr_t)(uint32_t)(sum_bytes(SUM_START, own, sizeof(own)) >> 16);
}

static void *nothing(void *argument)
{
    sched_yield();
    return argument;
}

int main(void)
{
    pthread_t threads[THREADS];
    uint64_t sum = SUM_START;

    pthread_barrier_init(&barrier, NULL, THREADS);
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) {
        void *result;
        CHECK(pthread_join(threads[i], &result) == 0);
        uint32_t part = (uint32_t)(uintptr_t)result;
        SUM(sum, part);
    }
    CHECK(locked_count == THREADS * ROUNDS && atomic_count == THREADS * ROUNDS && turn == THREADS * 100);
    CHECK(own[0] == 0); /* the main thread's own */
    for (int i = 0; i < 500; i++) {
        void *result;
        CHECK(pthread_create(&threads[0], NULL, nothing, (void *)(uintptr_t)i) == 0);
        CHECK(pthread_join(threads[0], &result) == 0 && result == (void *)(uintptr_t)i);
    }
    report("threads", sum);
    return 0;
}
