/* Notifications of a queue of either format: as both sides want them, and none too few in long runs and between threads. */
#pragma once

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

#include "virtq_fixture.h"

/* --- notifications --- */

static void a_driver_kicks_when_kicks_are_on_and_the_device_has_seen_all(void **state)
{
    struct fixture *f = *state;

    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        start(f, 8, event_idx ? EVENT_IDX : 0);
        for (unsigned i = 0; i < 100; i++) {
            uint32_t len;

            driver_request(&f->d, "x", 1, 0);
            assert_true(driver_show(&f->d));
            assert_false(virtq_set_kicks(&f->q, false));
            driver_request(&f->d, "x", 1, 0);
            assert_false(driver_show(&f->d));
            serve(f, 0);
            assert_true(virtq_set_kicks(&f->q, true)); /* the second one came without a kick */
            serve(f, 0);
            assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
            assert_false(virtq_set_kicks(&f->q, false));
            assert_int_equal(virtq_pop(&f->q, &f->chain), 0); /* does not turn them on */
            driver_request(&f->d, "x", 1, 0);
            assert_false(driver_show(&f->d));
            serve(f, 0);
            assert_false(virtq_set_kicks(&f->q, true));
            virtq_publish(&f->q);
            for (unsigned n = 0; n < 3; n++)
                assert_true(driver_take(&f->d, &len) >= 0);
        }
    }
}

static void event_idx_saves_kicks_for_what_the_device_has_not_come_to(void **state)
{
    struct fixture *f = *state;

    start(f, 8, EVENT_IDX);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
    driver_request(&f->d, "x", 1, 0);
    assert_true(driver_show(&f->d));
    driver_request(&f->d, "x", 1, 0);
    assert_false(driver_show(&f->d));
    serve(f, 0);
    driver_request(&f->d, "x", 1, 0);
    assert_false(driver_show(&f->d));
    serve(f, 0);
    serve(f, 0);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
    driver_request(&f->d, "x", 1, 0);
    assert_true(driver_show(&f->d));
}

static void interrupts_come_when_the_driver_wants_them(void **state)
{
    struct fixture *f = *state;
    uint32_t len;

    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        start(f, 8, event_idx ? EVENT_IDX : 0);
        for (unsigned i = 0; i < 100; i++) {
            driver_set_interrupts(&f->d, false);
            for (unsigned n = 0; n < 3; n++)
                driver_request(&f->d, "x", 1, 0);
            driver_show(&f->d);
            serve(f, 0);
            assert_false(virtq_publish(&f->q));
            assert_true(driver_set_interrupts(&f->d, true)); /* that one was used meanwhile */
            assert_true(driver_take(&f->d, &len) >= 0);
            assert_false(driver_set_interrupts(&f->d, true));
            serve(f, 0);
            serve(f, 0);
            assert_true(virtq_publish(&f->q));
            assert_true(driver_take(&f->d, &len) >= 0);
            assert_true(driver_take(&f->d, &len) >= 0);
        }
        assert_int_equal(f->q.stats.interrupts, 100);
        assert_int_equal(f->q.stats.interrupts_suppressed, 100);
    }
}

static void event_idx_asks_for_an_interrupt_some_chains_on(void **state)
{
    struct fixture *f = *state;
    uint32_t len;

    for (unsigned ahead = 0; ahead < 6; ahead++) {
        start(f, 8, EVENT_IDX);
        f->d.interrupts = false;
        for (unsigned round = 0; round < 40; round++) {
            driver_interrupt_after(&f->d, (uint16_t)ahead);
            for (unsigned n = 0; n < 7; n++)
                driver_request(&f->d, "x", 1, 0);
            driver_show(&f->d);
            for (unsigned n = 0; n < 7; n++) {
                serve(f, 0);
                assert_int_equal(virtq_publish(&f->q), n == ahead);
            }
            for (unsigned n = 0; n < 7; n++)
                assert_true(driver_take(&f->d, &len) >= 0);
        }
    }
}

/* --- a long run, and one with threads --- */

static inline uint32_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(*seed >> 33);
}

struct busy {
    struct fixture *f;
    struct virtq_chain out[32];
    unsigned popped;
    uint32_t sum[VIRTQ_SIZE_MAX]; /* of the bytes of each token's request */
    uint64_t seed;
    bool kicked, interrupted;
    unsigned done;
};

static inline void busy_driver(struct busy *b)
{
    struct fixture *f = b->f;
    unsigned n = next_random(&b->seed) % 4;
    uint8_t bytes[64];
    uint32_t len;
    int token;

    while (n--) {
        unsigned out_len = 1 + next_random(&b->seed) % sizeof(bytes);
        uint32_t sum = 0;

        for (unsigned i = 0; i < out_len; i++)
            sum += bytes[i] = (uint8_t)next_random(&b->seed);
        f->d.piece = next_random(&b->seed) % 3 ? 0 : 32 + next_random(&b->seed) % 16;
        f->d.indirect = next_random(&b->seed) % (format ? 2 : 3);
        token = driver_request(&f->d, bytes, out_len, 4);
        if (token < 0)
            break;
        b->sum[token] = sum;
    }
    if (driver_show(&f->d))
        b->kicked = true;
    if (!b->interrupted)
        return;
    b->interrupted = false;
    driver_set_interrupts(&f->d, false);
    do {
        while ((token = driver_take(&f->d, &len)) >= 0) {
            uint32_t answer;

            memcpy(&answer, driver_in(&f->d, token), 4);
            assert_int_equal(len, 4);
            assert_int_equal(answer, b->sum[token]);
            b->done++;
        }
        assert_int_equal(token, DRIVER_NONE);
    } while (driver_set_interrupts(&f->d, true));
}

static inline void busy_push(struct busy *b)
{
    unsigned which = next_random(&b->seed) % b->popped;
    struct virtq_chain chain = b->out[which];
    uint8_t bytes[64];
    size_t len = virtq_read(&chain, 0, bytes, sizeof(bytes));
    uint32_t sum = 0;

    for (size_t i = 0; i < len; i++)
        sum += bytes[i];
    assert_int_equal(virtq_write(&chain, 0, &sum, 4), 4);
    virtq_push(&b->f->q, &chain, 4);
    b->out[which] = b->out[--b->popped];
    b->out[b->popped] = chain;
}

static inline void busy_device(struct busy *b)
{
    struct virtq *q = &b->f->q;

    while (b->kicked && b->popped < ARRAY_SIZE(b->out)) {
        int rc;

        if (next_random(&b->seed) % 4 == 0)
            virtq_set_kicks(q, false);
        rc = virtq_pop(q, &b->out[b->popped]);
        assert_true(rc >= 0);
        if (rc == 0) {
            b->kicked = virtq_set_kicks(q, true);
        } else if (next_random(&b->seed) % 8 == 0) {
            virtq_unpop(q, &b->out[b->popped]);
        } else {
            b->popped++;
        }
    }
    for (unsigned n = next_random(&b->seed) % 5; n && b->popped; n--)
        busy_push(b);
    if (virtq_publish(q))
        b->interrupted = true;
    assert_int_equal(q->in_use, b->popped);
}

/* Each side acts only when it was woken: a kick or an interrupt too few would end the run. */
static void nothing_is_lost_in_a_long_random_run(void **state)
{
    struct fixture *f = *state;
    uint64_t first_seed = 1;

    for (unsigned n = 0; n < 40; n++, first_seed++) {
        const uint16_t sizes[] = {4, 16, 64, 256, format ? 5 : 8, format ? 37 : 32};
        struct busy *b = calloc(1, sizeof(*b));

        assert_non_null(b);
        b->f = f;
        b->seed = first_seed;
        start(f, sizes[n % ARRAY_SIZE(sizes)], INDIRECT | (n & 1 ? EVENT_IDX : 0));
        for (unsigned i = 0; i < ARRAY_SIZE(b->out); i++)
            assert_int_equal(virtq_chain_init(&b->out[i], &f->q), 0);
        for (unsigned i = 0; i < 4000; i++) {
            busy_driver(b);
            busy_device(b);
        }
        if (b->done < 2000)
            fail_msg("seed %llu: only %u requests were done", (unsigned long long)first_seed, b->done);
        for (unsigned i = 0; i < ARRAY_SIZE(b->out); i++)
            virtq_chain_fini(&b->out[i]);
        free(b);
    }
}

#define THREAD_REQUESTS 20000U

struct threads {
    struct fixture *f;
    sem_t kick, interrupt;
};

static inline void *device_thread(void *opaque)
{
    struct threads *t = opaque;
    struct virtq *q = &t->f->q;
    unsigned served = 0;

    while (served < THREAD_REQUESTS) {
        sem_wait(&t->kick);
        do {
            virtq_set_kicks(q, false);
            while (virtq_pop(q, &t->f->chain) == 1) {
                uint32_t value = 0;

                virtq_read(&t->f->chain, 0, &value, 4);
                value ^= 0x55aa55aa;
                virtq_write(&t->f->chain, 0, &value, 4);
                virtq_push(q, &t->f->chain, 4);
                served++;
                if (served % 3 == 0 && virtq_publish(q))
                    sem_post(&t->interrupt);
            }
            if (virtq_publish(q))
                sem_post(&t->interrupt);
        } while (virtq_set_kicks(q, true));
    }
    return NULL;
}

/* Two threads that sleep until they are woken: with a barrier too few this hangs, sooner or later. */
static void threads_do_not_sleep_through_each_others_work(void **state)
{
    struct fixture *f = *state;
    struct threads t = {.f = f};

    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        unsigned sent = 0, done = 0;
        pthread_t thread;
        uint32_t sums[16];

        start(f, 16, event_idx ? EVENT_IDX : 0);
        sem_init(&t.kick, 0, 0);
        sem_init(&t.interrupt, 0, 0);
        assert_int_equal(pthread_create(&thread, NULL, device_thread, &t), 0);
        while (done < THREAD_REQUESTS) {
            uint32_t len, answer;
            int token;

            while (sent < THREAD_REQUESTS && (token = driver_request(&f->d, &sent, 4, 4)) >= 0)
                sums[token] = sent++ ^ 0x55aa55aaU;
            if (driver_show(&f->d))
                sem_post(&t.kick);
            if (!driver_set_interrupts(&f->d, true))
                sem_wait(&t.interrupt);
            driver_set_interrupts(&f->d, false);
            while ((token = driver_take(&f->d, &len)) >= 0) {
                memcpy(&answer, driver_in(&f->d, token), 4);
                assert_int_equal(answer, sums[token]);
                done++;
            }
        }
        pthread_join(thread, NULL);
        sem_destroy(&t.kick);
        sem_destroy(&t.interrupt);
        assert_int_equal(f->q.stats.chains, THREAD_REQUESTS);
    }
}

#define DUEL_ROUNDS 60000U

struct duel {
    struct fixture *f;
    unsigned ready, prepared, started, finished; /* rounds; atomic */
    unsigned popped;
    bool device_saw;
};

static inline void tell(unsigned *where, unsigned round)
{
    __atomic_store_n(where, round, __ATOMIC_RELEASE);
}

static inline void wait_for(const unsigned *where, unsigned round)
{
    while (__atomic_load_n(where, __ATOMIC_ACQUIRE) != round)
        sched_yield();
}

/* In turns: an entry is shown while the driver asks for interrupts, and kicks are asked for while the driver shows a chain. */
static inline void *duel_device(void *opaque)
{
    struct duel *duel = opaque;
    struct virtq *q = &duel->f->q;

    for (unsigned round = 1; round <= DUEL_ROUNDS; round++) {
        wait_for(&duel->ready, round);
        if (round % 2 == 0) {
            virtq_set_kicks(q, false);
        } else if (virtq_pop(q, &duel->f->chain) == 1) {
            duel->popped++;
            virtq_push(q, &duel->f->chain, 0);
        }
        tell(&duel->prepared, round);
        wait_for(&duel->started, round);
        duel->device_saw = round % 2 ? virtq_publish(q) : virtq_set_kicks(q, true);
        tell(&duel->finished, round);
    }
    return NULL;
}

/* Returns whether one of them saw the other. */
static inline bool duel_round(struct duel *duel, unsigned round)
{
    struct virtq_driver *d = &duel->f->d;
    bool driver_saw;
    uint32_t len;

    if (round % 2)
        driver_set_interrupts(d, false);
    else
        driver_request(d, "x", 1, 0);
    tell(&duel->ready, round);
    wait_for(&duel->prepared, round);
    tell(&duel->started, round);
    for (volatile unsigned wait = round / 2 % 128; wait; wait--) /* the moments shift against each other */
        ;
    driver_saw = round % 2 ? driver_set_interrupts(d, true) : driver_show(d);
    wait_for(&duel->finished, round);
    if (round % 2)
        driver_take(d, &len);
    return driver_saw || duel->device_saw;
}

/* Both tell and then look at the same time: if neither saw the other, both would go to sleep. */
static void one_side_always_sees_the_other(void **state)
{
    struct fixture *f = *state;

    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        struct duel duel = {.f = f};
        unsigned missed = 0;
        pthread_t thread;

        start(f, 4, event_idx ? EVENT_IDX : 0);
        driver_request(&f->d, "x", 1, 0);
        driver_show(&f->d);
        assert_int_equal(pthread_create(&thread, NULL, duel_device, &duel), 0);
        for (unsigned round = 1; round <= DUEL_ROUNDS; round++)
            missed += !duel_round(&duel, round);
        pthread_join(thread, NULL);
        assert_int_equal(duel.popped, DUEL_ROUNDS / 2);
        assert_int_equal(f->q.stats.chains, DUEL_ROUNDS / 2);
        assert_int_equal(missed, 0);
    }
}

#define NOTIFY_TESTS                                                                                                                       \
    TEST(a_driver_kicks_when_kicks_are_on_and_the_device_has_seen_all), TEST(event_idx_saves_kicks_for_what_the_device_has_not_come_to),   \
        TEST(interrupts_come_when_the_driver_wants_them), TEST(event_idx_asks_for_an_interrupt_some_chains_on),                            \
        TEST(nothing_is_lost_in_a_long_random_run), TEST(threads_do_not_sleep_through_each_others_work),                                   \
        TEST(one_side_always_sees_the_other)
