/* The engine of worker threads: each takes a request and makes its system calls one after the other. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bug.h"
#include "block/raw.h"

#define WORKERS 8

struct threads {
    struct raw raw;
    struct raw_list waiting; /* as the rest, under raw.lock */
    bool stop;
    pthread_cond_t work; /* waiting has grown, or stop */
    pthread_cond_t idle; /* nothing is in flight */
    pthread_t workers[WORKERS];
    unsigned worker_count;
};

static int64_t make_call(int fd, const struct raw_call *call)
{
    int64_t result;

    switch (call->what) {
    case RAW_READ: result = preadv2(fd, call->iov, (int)call->iov_count, (off_t)call->offset, call->flags); break;
    case RAW_WRITE: result = pwritev2(fd, call->iov, (int)call->iov_count, (off_t)call->offset, call->flags); break;
    case RAW_SYNC: result = fdatasync(fd); break;
    default: result = fallocate(fd, call->flags, (off_t)call->offset, (off_t)call->len); break;
    }
    return result < 0 ? -errno : result;
}

static void *worker_main(void *arg)
{
    struct threads *t = arg;
    struct block_request *r;
    struct raw_call call;

    pthread_mutex_lock(&t->raw.lock);
    for (;;) {
        while (!t->waiting.first && !t->stop)
            pthread_cond_wait(&t->work, &t->raw.lock);
        r = raw_list_take(&t->waiting);
        if (!r)
            break;
        pthread_mutex_unlock(&t->raw.lock);
        for (bool more = raw_begin(&t->raw, r, &call); more;)
            more = raw_continue(&t->raw, r, make_call(t->raw.fd, &call), &call);
        pthread_mutex_lock(&t->raw.lock);
        if (!t->raw.finished.first) /* else the loop has been woken for those before */
            raw_wake(&t->raw);
        raw_finished(&t->raw, r);
        if (!t->raw.in_flight)
            pthread_cond_broadcast(&t->idle);
    }
    pthread_mutex_unlock(&t->raw.lock);
    return NULL;
}

static void submit(struct block_backend *backend, struct block_request *r)
{
    struct threads *t = container_of(backend, struct threads, raw.backend);

    pthread_mutex_lock(&t->raw.lock);
    raw_submitted(&t->raw);
    raw_list_add(&t->waiting, r);
    pthread_cond_signal(&t->work);
    pthread_mutex_unlock(&t->raw.lock);
}

/* Nothing is ever held back. */
static void flush_submissions(struct block_backend *backend)
{
    (void)backend;
}

/* Until nothing is in flight. */
static void wait_idle(struct threads *t)
{
    pthread_mutex_lock(&t->raw.lock);
    while (t->raw.in_flight)
        pthread_cond_wait(&t->idle, &t->raw.lock);
    pthread_mutex_unlock(&t->raw.lock);
}

static void drain(struct block_backend *backend)
{
    struct threads *t = container_of(backend, struct threads, raw.backend);

    do
        wait_idle(t);
    while (raw_deliver(&t->raw)); /* done() may have submitted more */
}

static void on_event(struct loop_fd *event, uint32_t events)
{
    struct raw *raw = container_of(event, struct raw, event);
    uint64_t count;

    (void)events;
    if (read(event->fd, &count, sizeof(count)) < 0)
        return; /* nothing new */
    raw_deliver(raw);
}

static void stop_workers(struct threads *t)
{
    pthread_mutex_lock(&t->raw.lock);
    t->stop = true;
    pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->raw.lock);
    while (t->worker_count)
        pthread_join(t->workers[--t->worker_count], NULL);
}

static int start_workers(struct threads *t)
{
    sigset_t all, before;
    int error = 0;

    /* Signals are for the threads that expect them. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (!error && t->worker_count < WORKERS) {
        error = pthread_create(&t->workers[t->worker_count], NULL, worker_main, t);
        if (!error)
            pthread_setname_np(t->workers[t->worker_count++], "disk");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return t->worker_count ? 0 : -error; /* one is enough */
}

static void threads_free(struct block_backend *backend)
{
    struct threads *t = container_of(backend, struct threads, raw.backend);

    BUG_ON(t->raw.in_flight || t->raw.finished.first);
    loop_remove_fd(t->raw.loop, &t->raw.event);
    stop_workers(t);
    pthread_cond_destroy(&t->work);
    pthread_cond_destroy(&t->idle);
    raw_fini(&t->raw);
    free(t);
}

static const struct block_ops threads_ops = {
    .name = "threads",
    .submit = submit,
    .flush_submissions = flush_submissions,
    .drain = drain,
    .free = threads_free,
};

struct block_backend *threads_new(const struct raw_file *file, struct loop *loop, struct err *e)
{
    struct threads *t = calloc(1, sizeof(*t));
    int error;

    if (!t) {
        err_set(e, ENOMEM, "disk %s: no memory for its engine", file->backend.path);
        return NULL;
    }
    if (raw_init(&t->raw, &threads_ops, file, loop, e)) {
        free(t);
        return NULL;
    }
    raw_list_init(&t->waiting);
    pthread_cond_init(&t->work, NULL);
    pthread_cond_init(&t->idle, NULL);
    t->raw.event.ready = on_event;
    error = start_workers(t);
    if (!error)
        error = loop_add_fd(loop, &t->raw.event);
    if (error) {
        err_set(e, -error, "disk %s: cannot start its threads: %s", file->backend.path, strerror(-error));
        t->raw.fd = -1; /* stays the caller's */
        stop_workers(t);
        pthread_cond_destroy(&t->work);
        pthread_cond_destroy(&t->idle);
        raw_fini(&t->raw);
        free(t);
        return NULL;
    }
    return &t->raw.backend;
}
