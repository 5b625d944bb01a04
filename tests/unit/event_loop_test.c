/* The I/O loop: timers in order, posts in order, descriptors that leave while their events are served, and all of it from several threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "event/loop.h"

#define SEED 0x5eed
#define THREADS 4

static int setup(void **state)
{
    struct err e;

    *state = loop_new(&e);
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    loop_free(*state);
    return 0;
}

static void stop(void *loop)
{
    loop_stop(loop);
}

static int make_ready_fd(void)
{
    int fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

/* --- stopping --- */

static void not_to_run(void *arg)
{
    (void)arg;
    fail_msg("work ran although the loop was stopped");
}

static void a_stop_from_before_ends_one_run_without_a_callback(void **state)
{
    struct loop *loop = *state;
    struct loop *other;

    other = loop_new(NULL);
    loop_post(other, not_to_run, NULL);
    loop_stop(other);
    assert_int_equal(loop_run(other), 0);
    loop_free(other);

    loop_stop(loop);
    loop_stop(loop);
    assert_int_equal(loop_run(loop), 0);
    loop_post(loop, stop, loop);
    assert_int_equal(loop_run(loop), 0);
}

static struct loop *signalled;
static int errno_after;

static void on_signal(int sig)
{
    (void)sig;
    errno = ERANGE;
    loop_stop(signalled);
    errno_after = errno;
}

static void raise_signal(void *arg)
{
    (void)arg;
    raise(SIGUSR1);
}

static void a_signal_handler_can_stop_it_and_keeps_its_errno(void **state)
{
    struct sigaction action = {.sa_handler = on_signal}, before;

    signalled = *state;
    sigaction(SIGUSR1, &action, &before);
    loop_post(*state, raise_signal, NULL);
    assert_int_equal(loop_run(*state), 0);
    assert_int_equal(errno_after, ERANGE);
    sigaction(SIGUSR1, &before, NULL);
}

/* --- posts --- */

struct post_record {
    struct loop *loop;
    unsigned expected;
};

struct numbered {
    struct post_record *record;
    unsigned number, last;
};

static void check_number(void *arg)
{
    struct numbered *n = arg;

    assert_int_equal(n->number, n->record->expected++);
    if (n->number == n->last)
        loop_stop(n->record->loop);
}

static void posts_run_in_their_order(void **state)
{
    struct numbered posts[1000];
    struct post_record record = {.loop = *state};

    for (unsigned i = 0; i < ARRAY_SIZE(posts); i++) {
        posts[i] = (struct numbered){&record, i, ARRAY_SIZE(posts) - 1};
        loop_post(*state, check_number, &posts[i]);
    }
    assert_int_equal(loop_run(*state), 0);
    assert_int_equal(record.expected, ARRAY_SIZE(posts));
}

struct poster {
    struct loop *loop;
    unsigned next[THREADS];
    unsigned done;
};

struct poster_item {
    struct poster *p;
    unsigned thread, number;
};

#define ITEMS 500

static void check_item(void *arg)
{
    struct poster_item *item = arg;

    assert_int_equal(item->number, item->p->next[item->thread]++);
    if (++item->p->done == THREADS * ITEMS)
        loop_stop(item->p->loop);
}

static void *post_items(void *arg)
{
    struct poster_item *items = arg;

    for (unsigned i = 0; i < ITEMS; i++)
        loop_post(items[i].p->loop, check_item, &items[i]);
    return NULL;
}

static void posts_of_each_thread_keep_their_order(void **state)
{
    static struct poster_item items[THREADS][ITEMS];
    struct poster p = {.loop = *state};
    pthread_t threads[THREADS];

    for (unsigned t = 0; t < THREADS; t++) {
        for (unsigned i = 0; i < ITEMS; i++)
            items[t][i] = (struct poster_item){&p, t, i};
        assert_int_equal(pthread_create(&threads[t], NULL, post_items, items[t]), 0);
    }
    assert_int_equal(loop_run(*state), 0);
    for (unsigned t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    assert_int_equal(p.done, THREADS * ITEMS);
}

static void post_not_to_run(void *loop)
{
    loop_stop(loop);
    loop_post(loop, not_to_run, NULL);
}

static void what_work_posts_waits_for_the_next_round_and_is_dropped_with_the_loop(void **state)
{
    loop_post(*state, post_not_to_run, *state);
    assert_int_equal(loop_run(*state), 0);
}

/* --- timers --- */

#define TIMERS 200

struct timer_record {
    struct loop *loop;
    uint64_t last_deadline;
    unsigned fired, wanted;
};

struct test_timer {
    struct loop_timer timer;
    struct timer_record *record;
    uint64_t deadline; /* what it should be; the timer's own is 0 by the time it fires */
    bool cancelled;
    unsigned fired;
};

static void on_expired(struct loop_timer *timer)
{
    struct test_timer *t = container_of(timer, struct test_timer, timer);
    struct timer_record *r = t->record;

    assert_false(t->cancelled);
    assert_true(clock_monotonic_ns() >= t->deadline);
    assert_true(t->deadline >= r->last_deadline);
    r->last_deadline = t->deadline;
    t->fired++;
    if (++r->fired == r->wanted)
        loop_stop(r->loop);
}

static void set(struct test_timer *t, uint64_t deadline)
{
    t->deadline = deadline;
    t->cancelled = false;
    loop_timer_set(&t->timer, deadline);
}

/* A heap of random deadlines, moved and cancelled at random, still fires each once and in order. */
static void timers_fire_once_in_the_order_of_their_deadlines(void **state)
{
    static struct test_timer timers[TIMERS];
    struct timer_record record = {.loop = *state};
    uint64_t base = clock_monotonic_ns() + 2 * NS_PER_MS;
    unsigned seed = SEED;

    print_message("seed %u\n", seed);
    for (unsigned i = 0; i < TIMERS; i++) {
        timers[i] = (struct test_timer){.record = &record};
        loop_timer_init(*state, &timers[i].timer, on_expired);
    }
    for (unsigned i = 0; i < 20 * TIMERS; i++) {
        struct test_timer *t = &timers[(unsigned)rand_r(&seed) % TIMERS];

        if (rand_r(&seed) % 4 == 0) {
            loop_timer_cancel(&t->timer);
            t->cancelled = true;
        } else {
            set(t, base + (uint64_t)rand_r(&seed) % (20 * NS_PER_MS));
        }
    }
    timers[0].cancelled = false;
    set(&timers[0], base);
    for (unsigned i = 0; i < TIMERS; i++)
        record.wanted += timers[i].deadline && !timers[i].cancelled;
    assert_int_equal(loop_run(*state), 0);
    for (unsigned i = 0; i < TIMERS; i++)
        assert_int_equal(timers[i].fired, timers[i].deadline && !timers[i].cancelled);
}

static void a_deadline_in_the_past_fires(void **state)
{
    struct timer_record record = {.loop = *state, .wanted = 3};
    struct test_timer t[3];
    const uint64_t deadlines[] = {0, 1, clock_monotonic_ns()};

    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        t[i] = (struct test_timer){.record = &record};
        loop_timer_init(*state, &t[i].timer, on_expired);
        set(&t[i], deadlines[i]);
    }
    t[0].deadline = 1; /* taken as the earliest time that there is */
    assert_int_equal(loop_run(*state), 0);
    assert_int_equal(record.fired, 3);
}

static void the_farthest_deadline_is_none_that_the_kernel_refuses(void **state)
{
    struct timer_record record = {.loop = *state, .wanted = 1};
    struct test_timer never = {.record = &record}, soon = {.record = &record};

    loop_timer_init(*state, &never.timer, on_expired);
    loop_timer_init(*state, &soon.timer, on_expired);
    set(&never, UINT64_MAX);
    set(&soon, clock_monotonic_ns() + NS_PER_MS);
    assert_int_equal(loop_run(*state), 0);
    assert_int_equal(soon.fired, 1);
    assert_int_equal(never.fired, 0);
    loop_timer_cancel(&never.timer);
}

static void cancelling_a_timer_that_is_not_armed_does_nothing(void **state)
{
    struct timer_record record = {.loop = *state, .wanted = 1};
    struct test_timer t = {.record = &record}, zeroed = {0};

    loop_timer_cancel(&zeroed.timer); /* its owner failed before it was set up */
    loop_timer_init(*state, &t.timer, on_expired);
    loop_timer_cancel(&t.timer);
    loop_timer_cancel(&t.timer);
    set(&t, clock_monotonic_ns());
    assert_int_equal(loop_run(*state), 0);
    loop_timer_cancel(&t.timer);
    assert_int_equal(t.fired, 1);
}

struct starver {
    struct loop_timer timer;
    bool posted_ran;
    unsigned fired;
};

static void rearm_into_the_past(struct loop_timer *timer)
{
    struct starver *s = container_of(timer, struct starver, timer);

    s->fired++;
    assert_true(s->fired < 1000000);
    loop_timer_set(timer, 1);
}

static void mark_and_stop(void *arg)
{
    struct starver *s = arg;

    s->posted_ran = true;
    loop_stop(s->timer.loop);
}

static void a_timer_that_is_always_late_leaves_room_for_the_rest(void **state)
{
    struct starver s = {0};

    loop_timer_init(*state, &s.timer, rearm_into_the_past);
    loop_timer_set(&s.timer, 1);
    loop_post(*state, mark_and_stop, &s);
    assert_int_equal(loop_run(*state), 0);
    assert_true(s.posted_ran);
    loop_timer_cancel(&s.timer);
}

struct pair {
    struct loop_timer first, second;
    unsigned fired;
};

static void cancel_the_second(struct loop_timer *timer)
{
    struct pair *p = container_of(timer, struct pair, first);

    p->fired++;
    loop_timer_cancel(&p->second);
    loop_post(timer->loop, stop, timer->loop);
}

static void not_to_expire(struct loop_timer *timer)
{
    (void)timer;
    fail_msg("a cancelled timer fired");
}

static void a_callback_can_cancel_a_timer_that_is_due_too(void **state)
{
    struct pair p = {0};

    loop_timer_init(*state, &p.first, cancel_the_second);
    loop_timer_init(*state, &p.second, not_to_expire);
    loop_timer_set(&p.first, 1);
    loop_timer_set(&p.second, 2);
    assert_int_equal(loop_run(*state), 0);
    assert_int_equal(p.fired, 1);
}

/* Threads push each its own timer along while the loop serves them: what the local APIC of a vCPU does. */
struct pusher {
    struct loop_timer timer;
    atomic_uint fired, set;
    atomic_uint *finished;
};

static void on_pushed(struct loop_timer *timer)
{
    atomic_fetch_add(&container_of(timer, struct pusher, timer)->fired, 1);
}

static void *push(void *arg)
{
    struct pusher *p = arg;
    unsigned seed = SEED + (unsigned)(uintptr_t)arg;

    for (unsigned i = 0; i < 2000; i++) {
        uint64_t now = clock_monotonic_ns();

        if (i % 7 == 6)
            loop_timer_cancel(&p->timer);
        loop_timer_set(&p->timer, now + (uint64_t)rand_r(&seed) % 50000);
        atomic_fetch_add(&p->set, 1);
    }
    /* The last one fires in any case. */
    loop_timer_cancel(&p->timer);
    unsigned before = atomic_load(&p->fired);
    loop_timer_set(&p->timer, clock_monotonic_ns() + NS_PER_MS);
    atomic_fetch_add(&p->set, 1);
    while (atomic_load(&p->fired) == before)
        usleep(100);
    if (atomic_fetch_add(p->finished, 1) + 1 == THREADS)
        loop_stop(p->timer.loop);
    return NULL;
}

static void timers_can_be_set_from_any_thread_while_the_loop_runs(void **state)
{
    struct pusher p[THREADS];
    pthread_t threads[THREADS];
    atomic_uint finished = 0;

    for (unsigned i = 0; i < THREADS; i++) {
        atomic_init(&p[i].fired, 0);
        atomic_init(&p[i].set, 0);
        p[i].finished = &finished;
        loop_timer_init(*state, &p[i].timer, on_pushed);
        assert_int_equal(pthread_create(&threads[i], NULL, push, &p[i]), 0);
    }
    assert_int_equal(loop_run(*state), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_in_range(p[i].fired, 1, p[i].set);
    }
}

/* --- descriptors --- */

struct test_fd {
    struct loop_fd lfd;
    struct loop *loop;
    struct test_fd *victim;
    unsigned calls;
    uint32_t events;
};

static void count_and_stop(struct loop_fd *lfd, uint32_t events)
{
    struct test_fd *t = container_of(lfd, struct test_fd, lfd);

    t->calls++;
    t->events = events;
    loop_stop(t->loop);
}

static void a_ready_descriptor_reaches_its_callback(void **state)
{
    struct test_fd t = {.loop = *state};

    t.lfd = (struct loop_fd){.fd = make_ready_fd(), .events = EPOLLIN, .ready = count_and_stop};
    assert_int_equal(loop_add_fd(*state, &t.lfd), 0);
    assert_int_equal(loop_add_fd(*state, &t.lfd), -EEXIST);
    assert_int_equal(loop_run(*state), 0);
    assert_int_equal(t.calls, 1);
    assert_int_equal(t.events, EPOLLIN);
    t.lfd.events = EPOLLOUT;
    assert_int_equal(loop_modify_fd(*state, &t.lfd), 0);
    assert_int_equal(loop_run(*state), 0);
    assert_int_equal(t.events, EPOLLOUT);
    loop_remove_fd(*state, &t.lfd);
    assert_int_equal(loop_modify_fd(*state, &t.lfd), -ENOENT);
    close(t.lfd.fd);
    assert_int_equal(loop_add_fd(*state, &t.lfd), -EBADF);
}

static void remove_victim_and_stop(struct loop_fd *lfd, uint32_t events)
{
    struct test_fd *t = container_of(lfd, struct test_fd, lfd);

    (void)events;
    t->calls++;
    loop_remove_fd(t->loop, &t->victim->lfd);
    close(t->victim->lfd.fd);
    t->victim->lfd.fd = -1;
    loop_stop(t->loop);
}

/* Both are ready in the same round; whichever is served first takes the other, and frees it. */
static void a_descriptor_removed_while_its_round_is_served_is_not_called(void **state)
{
    struct test_fd *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));

    assert_non_null(a);
    assert_non_null(b);
    *a = (struct test_fd){.loop = *state, .victim = b};
    *b = (struct test_fd){.loop = *state, .victim = a};
    a->lfd = (struct loop_fd){.fd = make_ready_fd(), .events = EPOLLIN, .ready = remove_victim_and_stop};
    b->lfd = (struct loop_fd){.fd = make_ready_fd(), .events = EPOLLIN, .ready = remove_victim_and_stop};
    assert_int_equal(loop_add_fd(*state, &a->lfd), 0);
    assert_int_equal(loop_add_fd(*state, &b->lfd), 0);
    assert_int_equal(loop_run(*state), 0);
    assert_int_equal(a->calls + b->calls, 1);
    struct test_fd *left = a->calls ? a : b;
    loop_remove_fd(*state, &left->lfd);
    close(left->lfd.fd);
    free(a);
    free(b);
}

static void remove_itself(struct loop_fd *lfd, uint32_t events)
{
    struct test_fd *t = container_of(lfd, struct test_fd, lfd);
    struct loop *loop = t->loop;

    (void)events;
    t->calls++;
    loop_remove_fd(loop, lfd);
    loop_post(loop, stop, loop);
}

static void a_callback_can_remove_its_own_descriptor(void **state)
{
    struct test_fd t = {.loop = *state};

    t.lfd = (struct loop_fd){.fd = make_ready_fd(), .events = EPOLLIN, .ready = remove_itself};
    assert_int_equal(loop_add_fd(*state, &t.lfd), 0);
    assert_int_equal(loop_run(*state), 0);
    assert_int_equal(t.calls, 1);
    close(t.lfd.fd);
}

static void count_ready(struct loop_fd *lfd, uint32_t events)
{
    (void)events;
    container_of(lfd, struct test_fd, lfd)->calls++;
}

static void *add_and_remove(void *arg)
{
    struct test_fd *t = arg;

    for (unsigned i = 0; i < 300; i++) {
        if (loop_add_fd(t->loop, &t->lfd) != 0)
            break;
        usleep(10);
        loop_remove_fd(t->loop, &t->lfd);
    }
    loop_post(t->loop, stop, t->loop);
    return NULL;
}

static void descriptors_come_and_go_from_another_thread(void **state)
{
    static struct test_fd t; /* outlives a callback that is under way */
    struct test_fd busy = {.loop = *state};
    pthread_t thread;

    t = (struct test_fd){.loop = *state, .lfd = {.fd = make_ready_fd(), .events = EPOLLIN, .ready = count_ready}};
    busy.lfd = (struct loop_fd){.fd = make_ready_fd(), .events = EPOLLIN, .ready = count_ready};
    assert_int_equal(loop_add_fd(*state, &busy.lfd), 0);
    assert_int_equal(pthread_create(&thread, NULL, add_and_remove, &t), 0);
    assert_int_equal(loop_run(*state), 0);
    pthread_join(thread, NULL);
    assert_true(busy.calls > 0);
    unsigned before = t.calls;
    loop_post(*state, stop, *state);
    assert_int_equal(loop_run(*state), 0);
    assert_int_equal(t.calls, before);
    loop_remove_fd(*state, &busy.lfd);
    close(busy.lfd.fd);
    close(t.lfd.fd);
}

static void more_descriptors_than_one_round_takes_are_all_served(void **state)
{
    static struct test_fd t[100];
    bool all = false;

    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        t[i] = (struct test_fd){.loop = *state, .lfd = {.fd = make_ready_fd(), .events = EPOLLIN, .ready = count_ready}};
        assert_int_equal(loop_add_fd(*state, &t[i].lfd), 0);
    }
    for (unsigned round = 0; round < 100 && !all; round++) {
        loop_post(*state, stop, *state);
        assert_int_equal(loop_run(*state), 0);
        all = true;
        for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
            all = all && t[i].calls > 0;
    }
    assert_true(all);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        loop_remove_fd(*state, &t[i].lfd);
        close(t[i].lfd.fd);
    }
}

static void no_loop_is_freed_quietly(void **state)
{
    (void)state;
    loop_free(NULL);
}

#define LOOP_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(a_stop_from_before_ends_one_run_without_a_callback),
        LOOP_TEST(a_signal_handler_can_stop_it_and_keeps_its_errno),
        LOOP_TEST(posts_run_in_their_order),
        LOOP_TEST(posts_of_each_thread_keep_their_order),
        LOOP_TEST(what_work_posts_waits_for_the_next_round_and_is_dropped_with_the_loop),
        LOOP_TEST(timers_fire_once_in_the_order_of_their_deadlines),
        LOOP_TEST(a_deadline_in_the_past_fires),
        LOOP_TEST(the_farthest_deadline_is_none_that_the_kernel_refuses),
        LOOP_TEST(cancelling_a_timer_that_is_not_armed_does_nothing),
        LOOP_TEST(a_timer_that_is_always_late_leaves_room_for_the_rest),
        LOOP_TEST(a_callback_can_cancel_a_timer_that_is_due_too),
        LOOP_TEST(timers_can_be_set_from_any_thread_while_the_loop_runs),
        LOOP_TEST(a_ready_descriptor_reaches_its_callback),
        LOOP_TEST(a_descriptor_removed_while_its_round_is_served_is_not_called),
        LOOP_TEST(a_callback_can_remove_its_own_descriptor),
        LOOP_TEST(descriptors_come_and_go_from_another_thread),
        LOOP_TEST(more_descriptors_than_one_round_takes_are_all_served),
        LOOP_TEST(no_loop_is_freed_quietly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
