/* The engine of io_uring: calls are queued to the kernel in batches, and an eventfd tells the loop of results. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bug.h"
#include "base/clock.h"
#include "block/raw.h"

#define RING_ENTRIES 128
#define RETRY_NS (2 * NS_PER_MS)

/*
 * Theory of operation. One lock (raw.lock) guards the ring's both ends. submit() and every further call of a request go to the submission
 * queue when there is room, else to `waiting`; no more than RING_ENTRIES are with the kernel, so that the completion queue cannot overflow and
 * bounce buffers stay few. The loop's thread reaps: it continues the
 * requests and finishes them.
 */
struct uring {
    struct raw raw;
    struct io_uring ring;
    struct raw_list waiting;
    unsigned in_kernel;      /* calls with an entry in the ring */
    struct loop_timer retry; /* the kernel had no memory to take a batch, and no completion will bring us back */
};

/* --- to the kernel; with the lock held --- */

static void queue_call(struct uring *u, struct block_request *r, const struct raw_call *call)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

    BUG_ON(!sqe);
    switch (call->what) {
    case RAW_READ: io_uring_prep_readv2(sqe, u->raw.fd, call->iov, call->iov_count, call->offset, call->flags); break;
    case RAW_WRITE: io_uring_prep_writev2(sqe, u->raw.fd, call->iov, call->iov_count, call->offset, call->flags); break;
    case RAW_SYNC: io_uring_prep_fsync(sqe, u->raw.fd, IORING_FSYNC_DATASYNC); break;
    default: io_uring_prep_fallocate(sqe, u->raw.fd, call->flags, (off_t)call->offset, (off_t)call->len); break;
    }
    io_uring_sqe_set_data(sqe, r);
    u->in_kernel++;
}

/* False when the request was finished at once. */
static bool begin(struct uring *u, struct block_request *r)
{
    struct raw_call call;

    if (raw_begin(&u->raw, r, &call)) {
        queue_call(u, r, &call);
        return true;
    }
    raw_finished(&u->raw, r);
    raw_wake(&u->raw);
    return false;
}

static bool has_room(struct uring *u)
{
    return u->in_kernel < RING_ENTRIES && io_uring_sq_space_left(&u->ring) > 0;
}

/*
 * Hands over what is queued. EAGAIN and EBUSY: the kernel is short of memory; the entries stay in the ring for the next time, which a
 * completion brings, or the timer.
 */
static void enter(struct uring *u)
{
    while (u->waiting.first && has_room(u))
        begin(u, raw_list_take(&u->waiting));
    if (!io_uring_sq_ready(&u->ring))
        return;
    io_uring_submit(&u->ring);
    if (io_uring_sq_ready(&u->ring))
        loop_timer_set(&u->retry, clock_monotonic_ns() + RETRY_NS);
}

static bool reap(struct uring *u)
{
    struct io_uring_cqe *cqe;
    struct raw_call call;
    bool any = false;

    while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        struct block_request *r = io_uring_cqe_get_data(cqe);
        int result = cqe->res;

        io_uring_cqe_seen(&u->ring, cqe);
        u->in_kernel--;
        any = true;
        if (!raw_continue(&u->raw, r, result, &call)) {
            raw_finished(&u->raw, r);
            continue;
        }
        if (!io_uring_sq_space_left(&u->ring))
            io_uring_submit(&u->ring);
        queue_call(u, r, &call);
    }
    enter(u);
    return any;
}

/* --- the operations --- */

static void submit(struct block_backend *backend, struct block_request *r)
{
    struct uring *u = container_of(backend, struct uring, raw.backend);

    pthread_mutex_lock(&u->raw.lock);
    raw_submitted(&u->raw);
    if (u->waiting.first || !has_room(u))
        raw_list_add(&u->waiting, r);
    else
        begin(u, r);
    pthread_mutex_unlock(&u->raw.lock);
}

static void flush_submissions(struct block_backend *backend)
{
    struct uring *u = container_of(backend, struct uring, raw.backend);

    pthread_mutex_lock(&u->raw.lock);
    enter(u);
    pthread_mutex_unlock(&u->raw.lock);
}

/* Until nothing is in flight. */
static void wait_idle(struct uring *u)
{
    pthread_mutex_lock(&u->raw.lock);
    while (u->raw.in_flight) {
        enter(u);
        if (!reap(u) && u->in_kernel)
            io_uring_submit_and_wait(&u->ring, 1);
    }
    pthread_mutex_unlock(&u->raw.lock);
}

static void drain(struct block_backend *backend)
{
    struct uring *u = container_of(backend, struct uring, raw.backend);

    do
        wait_idle(u);
    while (raw_deliver(&u->raw)); /* done() may have submitted more */
}

static void look(struct uring *u)
{
    pthread_mutex_lock(&u->raw.lock);
    reap(u);
    pthread_mutex_unlock(&u->raw.lock);
    raw_deliver(&u->raw);
}

static void on_event(struct loop_fd *event, uint32_t events)
{
    struct uring *u = container_of(event, struct uring, raw.event);
    uint64_t count;

    (void)events;
    if (read(event->fd, &count, sizeof(count)) < 0)
        return; /* nothing new */
    look(u);
}

static void on_retry(struct loop_timer *timer)
{
    look(container_of(timer, struct uring, retry));
}

static void uring_free(struct block_backend *backend)
{
    struct uring *u = container_of(backend, struct uring, raw.backend);

    BUG_ON(u->raw.in_flight || u->raw.finished.first);
    loop_timer_cancel(&u->retry);
    loop_remove_fd(u->raw.loop, &u->raw.event);
    io_uring_queue_exit(&u->ring);
    raw_fini(&u->raw);
    free(u);
}

static const struct block_ops uring_ops = {
    .name = "io_uring",
    .submit = submit,
    .flush_submissions = flush_submissions,
    .drain = drain,
    .free = uring_free,
};

/* --- life --- */

struct block_backend *uring_new(const struct raw_file *file, struct loop *loop, struct err *e)
{
    struct uring *u = calloc(1, sizeof(*u));
    int error;

    if (!u) {
        err_set(e, ENOMEM, "disk %s: no memory for its engine", file->backend.path);
        return NULL;
    }
    if (raw_init(&u->raw, &uring_ops, file, loop, e))
        goto free_struct;
    raw_list_init(&u->waiting);
    loop_timer_init(loop, &u->retry, on_retry);
    u->raw.event.ready = on_event;
    error = io_uring_queue_init(RING_ENTRIES, &u->ring, 0);
    if (error)
        goto complain;
    error = io_uring_register_eventfd(&u->ring, u->raw.event.fd);
    if (!error)
        error = loop_add_fd(loop, &u->raw.event);
    if (!error)
        return &u->raw.backend;
    io_uring_queue_exit(&u->ring);
complain:
    err_set(e, -error, "disk %s: cannot set up io_uring: %s", file->backend.path, strerror(-error));
    u->raw.fd = -1; /* stays the caller's */
    raw_fini(&u->raw);
free_struct:
    free(u);
    return NULL;
}

/* --- whether it can be had --- */

static long disabled_by_sysctl(void)
{
    FILE *f = fopen("/proc/sys/kernel/io_uring_disabled", "re");
    char line[16];
    long value = 0;

    if (!f)
        return 0;
    if (fgets(line, sizeof(line), f))
        value = strtol(line, NULL, 10);
    fclose(f);
    return value;
}

static void explain(int error, char why[128])
{
    long disabled = disabled_by_sysctl();

    if (error == -ENOSYS)
        snprintf(why, 128, "this kernel has no io_uring, or a seccomp filter hides it");
    else if (error == -EPERM && disabled)
        snprintf(why, 128, "sysctl kernel.io_uring_disabled is %ld", disabled);
    else if (error == -EPERM || error == -EACCES)
        snprintf(why, 128, "a seccomp filter, as containers have it, or a security policy forbids it");
    else if (error == -ENOMEM)
        snprintf(why, 128, "its memory is over the limit of locked memory (ulimit -l)");
    else
        snprintf(why, 128, "io_uring_setup: %s", strerror(-error));
}

bool block_uring_usable(char why[128])
{
    static const int needed[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
    struct io_uring ring;
    struct io_uring_probe *probe;
    bool usable = true;
    int error = io_uring_queue_init(2, &ring, 0);

    why[0] = '\0';
    if (error) {
        explain(error, why);
        return false;
    }
    probe = io_uring_get_probe_ring(&ring);
    for (unsigned i = 0; i < ARRAY_SIZE(needed); i++)
        usable = usable && probe && io_uring_opcode_supported(probe, needed[i]);
    if (!usable)
        snprintf(why, 128, "this kernel's io_uring has no fallocate: Linux 5.6 has it");
    io_uring_free_probe(probe);
    io_uring_queue_exit(&ring);
    return usable;
}
