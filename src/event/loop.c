/* The I/O loop: one epoll set, one timerfd for a heap of timers, one eventfd to wake it. */
#include "event/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/bug.h"
#include "base/clock.h"

#define EVENT_BATCH 32

struct loop_post {
    struct loop_post *next;
    void (*fn)(void *);
    void *arg;
};

/*
 * Callbacks run with the lock released. The timerfd is armed by whoever makes the earliest deadline earlier, so that setting a timer from
 * another thread costs one system call and wakes nobody.
 */
struct loop {
    int epoll_fd, timer_fd, wake_fd;
    atomic_bool stop;

    pthread_mutex_t lock;                  /* guards what follows */
    struct epoll_event batch[EVENT_BATCH]; /* being served; loop_remove_fd() takes its fd out. The kernel's while batch_count is 0 */
    int batch_count;
    struct loop_timer **heap; /* [0] is the earliest */
    unsigned heap_count, heap_capacity;
    uint64_t armed_ns; /* what the timerfd is set to; 0 = not */
    struct loop_post *first_post, **last_post;
};

/* --- life --- */

/* The loop's own: their events carry the address of the descriptor's member. */
static int watch(struct loop *loop, int *fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = fd};

    return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, *fd, &event) ? -errno : 0;
}

struct loop *loop_new(struct err *e)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    int error = 0;

    if (!loop) {
        err_set(e, ENOMEM, "no memory for an I/O loop");
        return NULL;
    }
    pthread_mutex_init(&loop->lock, NULL);
    loop->last_post = &loop->first_post;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (loop->epoll_fd < 0 || loop->timer_fd < 0 || loop->wake_fd < 0)
        error = -errno;
    if (!error)
        error = watch(loop, &loop->timer_fd);
    if (!error)
        error = watch(loop, &loop->wake_fd);
    if (error) {
        err_set(e, -error, "cannot create an I/O loop: %s", strerror(-error));
        loop_free(loop);
        return NULL;
    }
    return loop;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

void loop_free(struct loop *loop)
{
    struct loop_post *post;

    if (!loop)
        return;
    while ((post = loop->first_post)) {
        loop->first_post = post->next;
        free(post);
    }
    close_fd(loop->wake_fd);
    close_fd(loop->timer_fd);
    close_fd(loop->epoll_fd);
    pthread_mutex_destroy(&loop->lock);
    free(loop->heap);
    free(loop);
}

static void wake(struct loop *loop)
{
    uint64_t one = 1;

    if (write(loop->wake_fd, &one, sizeof(one)) < 0)
        return; /* EAGAIN: the counter is full, and the loop awake */
}

/* --- file descriptors --- */

static int control(struct loop *loop, int op, struct loop_fd *lfd)
{
    struct epoll_event event = {.events = lfd->events, .data.ptr = lfd};

    return epoll_ctl(loop->epoll_fd, op, lfd->fd, &event) ? -errno : 0;
}

int loop_add_fd(struct loop *loop, struct loop_fd *lfd)
{
    return control(loop, EPOLL_CTL_ADD, lfd);
}

int loop_modify_fd(struct loop *loop, struct loop_fd *lfd)
{
    return control(loop, EPOLL_CTL_MOD, lfd);
}

void loop_remove_fd(struct loop *loop, struct loop_fd *lfd)
{
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, lfd->fd, NULL);
    pthread_mutex_lock(&loop->lock);
    for (int i = 0; i < loop->batch_count; i++)
        if (loop->batch[i].data.ptr == lfd)
            loop->batch[i].events = 0;
    pthread_mutex_unlock(&loop->lock);
}

/* --- timers: a binary heap; all with the lock held --- */

static void place(struct loop *loop, unsigned i, struct loop_timer *t)
{
    loop->heap[i] = t;
    t->heap_index = i;
}

static void sift_up(struct loop *loop, unsigned i, struct loop_timer *t)
{
    while (i > 0 && loop->heap[(i - 1) / 2]->deadline_ns > t->deadline_ns) {
        place(loop, i, loop->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(loop, i, t);
}

static void sift_down(struct loop *loop, unsigned i, struct loop_timer *t)
{
    for (;;) {
        unsigned child = 2 * i + 1;

        if (child + 1 < loop->heap_count && loop->heap[child + 1]->deadline_ns < loop->heap[child]->deadline_ns)
            child++;
        if (child >= loop->heap_count || loop->heap[child]->deadline_ns >= t->deadline_ns)
            break;
        place(loop, i, loop->heap[child]);
        i = child;
    }
    place(loop, i, t);
}

static void heap_remove(struct loop *loop, struct loop_timer *t)
{
    unsigned i = t->heap_index;
    struct loop_timer *last = loop->heap[--loop->heap_count];

    t->deadline_ns = 0;
    if (last == t)
        return;
    sift_up(loop, i, last);
    sift_down(loop, last->heap_index, last);
}

static void heap_insert(struct loop *loop, struct loop_timer *t)
{
    if (loop->heap_count == loop->heap_capacity) {
        unsigned capacity = loop->heap_capacity ? loop->heap_capacity * 2 : 16;
        struct loop_timer **heap = reallocarray(loop->heap, capacity, sizeof(struct loop_timer *));

        BUG_ON(!heap); /* a few dozen pointers in the life of a VM */
        loop->heap = heap;
        loop->heap_capacity = capacity;
    }
    sift_up(loop, loop->heap_count++, t);
}

static void arm(struct loop *loop)
{
    uint64_t at = loop->heap_count ? loop->heap[0]->deadline_ns : 0;
    struct itimerspec spec = {.it_value = {.tv_sec = (time_t)(at / NS_PER_SEC), .tv_nsec = (long)(at % NS_PER_SEC)}};

    loop->armed_ns = at;
    if (!at) /* a timerfd that is still set costs one look at an empty heap */
        return;
    BUG_ON(timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL) != 0);
}

void loop_timer_init(struct loop *loop, struct loop_timer *t, void (*expired)(struct loop_timer *))
{
    *t = (struct loop_timer){.loop = loop, .expired = expired};
}

void loop_timer_set(struct loop_timer *t, uint64_t deadline_ns)
{
    struct loop *loop = t->loop;

    pthread_mutex_lock(&loop->lock);
    if (t->deadline_ns)
        heap_remove(loop, t);
    /* 0 means "not armed", and the kernel takes no times beyond 2^63 ns. */
    t->deadline_ns = MAX(MIN(deadline_ns, (uint64_t)INT64_MAX), 1);
    heap_insert(loop, t);
    /* A timerfd that fires too early costs one look at the heap; moving it later each time would cost more. */
    if (!loop->armed_ns || loop->heap[0]->deadline_ns < loop->armed_ns)
        arm(loop);
    pthread_mutex_unlock(&loop->lock);
}

void loop_timer_cancel(struct loop_timer *t)
{
    struct loop *loop = t->loop;

    if (!loop)
        return;
    pthread_mutex_lock(&loop->lock);
    if (t->deadline_ns)
        heap_remove(loop, t);
    pthread_mutex_unlock(&loop->lock);
}

/* What is due when the timerfd fires. No more than there were: a timer that its callback sets into the past again cannot keep the loop here. */
static void run_timers(struct loop *loop)
{
    uint64_t now = clock_monotonic_ns();

    pthread_mutex_lock(&loop->lock);
    for (unsigned left = loop->heap_count; left && loop->heap_count && loop->heap[0]->deadline_ns <= now; left--) {
        struct loop_timer *t = loop->heap[0];

        heap_remove(loop, t);
        pthread_mutex_unlock(&loop->lock);
        t->expired(t);
        pthread_mutex_lock(&loop->lock);
    }
    arm(loop);
    pthread_mutex_unlock(&loop->lock);
}

/* --- posted work --- */

void loop_post(struct loop *loop, void (*fn)(void *), void *arg)
{
    struct loop_post *post = malloc(sizeof(*post));

    BUG_ON(!post);
    *post = (struct loop_post){.fn = fn, .arg = arg};
    pthread_mutex_lock(&loop->lock);
    *loop->last_post = post;
    loop->last_post = &post->next;
    pthread_mutex_unlock(&loop->lock);
    wake(loop);
}

static void run_posts(struct loop *loop)
{
    struct loop_post *post;

    pthread_mutex_lock(&loop->lock);
    post = loop->first_post; /* what comes from here on waits for the next round */
    loop->first_post = NULL;
    loop->last_post = &loop->first_post;
    pthread_mutex_unlock(&loop->lock);
    while (post) {
        struct loop_post *next = post->next;

        post->fn(post->arg);
        free(post);
        post = next;
    }
}

/* --- running --- */

static void drain(int fd)
{
    uint64_t count;

    if (read(fd, &count, sizeof(count)) < 0)
        return; /* EAGAIN: somebody moved the timer meanwhile */
}

/* The i-th event of the batch, or false when its descriptor was removed meanwhile. */
static bool take_event(struct loop *loop, int i, void **ptr, uint32_t *events)
{
    pthread_mutex_lock(&loop->lock);
    *ptr = loop->batch[i].data.ptr;
    *events = loop->batch[i].events;
    pthread_mutex_unlock(&loop->lock);
    return *events != 0;
}

static void set_batch_count(struct loop *loop, int count)
{
    pthread_mutex_lock(&loop->lock);
    loop->batch_count = count;
    pthread_mutex_unlock(&loop->lock);
}

static void dispatch(struct loop *loop, int count)
{
    void *ptr;
    uint32_t events;

    set_batch_count(loop, count);
    for (int i = 0; i < count; i++) {
        if (!take_event(loop, i, &ptr, &events))
            continue;
        if (ptr == &loop->timer_fd) {
            drain(loop->timer_fd);
            run_timers(loop);
        } else if (ptr == &loop->wake_fd) {
            drain(loop->wake_fd); /* before the work is taken: what is posted later wakes again */
            run_posts(loop);
        } else {
            struct loop_fd *lfd = ptr;
            lfd->ready(lfd, events);
        }
    }
    set_batch_count(loop, 0);
}

int loop_run(struct loop *loop)
{
    while (!atomic_exchange(&loop->stop, false)) {
        int n = epoll_wait(loop->epoll_fd, loop->batch, EVENT_BATCH, -1);

        if (n < 0 && errno != EINTR)
            return -errno;
        dispatch(loop, MAX(n, 0));
    }
    return 0;
}

void loop_stop(struct loop *loop)
{
    int before = errno; /* a signal handler must leave it alone */

    atomic_store(&loop->stop, true);
    wake(loop);
    errno = before;
}
