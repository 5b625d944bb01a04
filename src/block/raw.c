/* A request on a raw image, host call by host call: short transfers, fallbacks, bounce buffers; and the way back to the loop. */
#include "block/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bug.h"

#define ZERO_BYTES KIB(64)
#define ZERO_IOVS 64 /* of the same bytes: 4 MiB in one call */
#define BOUNCE_BYTES MIB(1)
#define RETRIES_MAX 100

/* Where a request stands: which call's result comes next. */
enum step { STEP_TRANSFER, STEP_SYNC, STEP_PUNCH, STEP_ZERO_RANGE, STEP_WRITE_ZEROS };

/* --- lists --- */

void raw_list_init(struct raw_list *list)
{
    list->first = NULL;
    list->last = &list->first;
}

void raw_list_add(struct raw_list *list, struct block_request *r)
{
    r->next = NULL;
    *list->last = r;
    list->last = &r->next;
}

struct block_request *raw_list_take(struct raw_list *list)
{
    struct block_request *r = list->first;

    if (!r)
        return NULL;
    list->first = r->next;
    if (!list->first)
        list->last = &list->first;
    return r;
}

/* --- bounce buffers --- */

static bool aligned(const struct raw *raw, const struct block_request *r)
{
    uintptr_t bases = 0, lens = 0;

    for (unsigned i = 0; i < r->iov_count; i++) {
        bases |= (uintptr_t)r->iov[i].iov_base;
        lens |= r->iov[i].iov_len;
    }
    return !(bases & (raw->memory_align - 1)) && !(lens & (raw->backend.block_size - 1));
}

/* n bytes of the owner's memory from where the request stands, to or from the bounce buffer. */
static void copy_bounce(const struct block_request *r, uint64_t n, bool to_owner)
{
    uint8_t *at = r->bounce;

    for (const struct iovec *iov = r->iov; n; iov++) {
        size_t len = MIN(iov->iov_len, n);

        if (to_owner)
            memcpy(iov->iov_base, at, len);
        else
            memcpy(at, iov->iov_base, len);
        at += len;
        n -= len;
    }
}

/* What does not fit goes through it piece by piece: a guest cannot make us allocate the sum of its descriptors. */
static int set_up_bounce(const struct raw *raw, struct block_request *r)
{
    if (!raw->direct || aligned(raw, r))
        return 0;
    if (posix_memalign((void **)&r->bounce, MAX(raw->memory_align, PAGE_SIZE), MIN(r->len, BOUNCE_BYTES))) {
        r->bounce = NULL;
        return -ENOMEM;
    }
    return 0;
}

/* --- the calls --- */

static bool finish(struct block_request *r, int error)
{
    free(r->bounce);
    r->bounce = NULL;
    r->error = error;
    return false;
}

/* The rest of a read or write, or what of it fits the bounce buffer. */
static bool transfer(struct block_request *r, struct raw_call *call)
{
    *call = (struct raw_call){.what = r->op == BLOCK_READ ? RAW_READ : RAW_WRITE,
                              .flags = r->op == BLOCK_WRITE && r->durable ? RWF_DSYNC : 0,
                              .offset = r->offset + r->position,
                              .iov = r->iov,
                              .iov_count = r->iov_count};
    if (r->bounce) {
        r->bounce_iov = (struct iovec){r->bounce, MIN(r->len - r->position, BOUNCE_BYTES)};
        if (r->op == BLOCK_WRITE)
            copy_bounce(r, r->bounce_iov.iov_len, false);
        call->iov = &r->bounce_iov;
        call->iov_count = 1;
    }
    return true;
}

static bool sync_call(struct block_request *r, struct raw_call *call)
{
    r->step = STEP_SYNC;
    *call = (struct raw_call){.what = RAW_SYNC};
    return true;
}

/* The host changed what a discard or a write of zeros asked for. */
static bool changed(struct block_request *r, struct raw_call *call)
{
    return r->durable ? sync_call(r, call) : finish(r, 0);
}

static bool fallocate_call(struct block_request *r, enum step step, struct raw_call *call)
{
    int mode = step == STEP_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;

    r->step = (uint8_t)step;
    *call = (struct raw_call){.what = RAW_FALLOCATE, .flags = mode | FALLOC_FL_KEEP_SIZE, .offset = r->offset, .len = r->len};
    return true;
}

static bool zeros_call(const struct raw *raw, struct block_request *r, struct raw_call *call)
{
    uint64_t left = r->len - r->position;
    unsigned whole = (unsigned)MIN(left / ZERO_BYTES, ZERO_IOVS);

    r->step = STEP_WRITE_ZEROS;
    if (!whole)
        r->bounce_iov = (struct iovec){raw->zeros, left};
    *call = (struct raw_call){.what = RAW_WRITE,
                              .offset = r->offset + r->position,
                              .iov = whole ? raw->zero_iov : &r->bounce_iov,
                              .iov_count = whole ? whole : 1};
    return true;
}

static void check(const struct raw *raw, const struct block_request *r)
{
    uint64_t mask = raw->backend.block_size - 1;

    BUG_ON(((r->offset | r->len) & mask) || !r->len);
    BUG_ON(r->offset > raw->backend.size || r->len > raw->backend.size - r->offset);
}

bool raw_begin(struct raw *raw, struct block_request *r, struct raw_call *call)
{
    int error;

    r->position = 0;
    r->bounce = NULL;
    r->retries = 0;
    r->step = STEP_TRANSFER;
    if (r->op == BLOCK_FLUSH)
        return sync_call(r, call);
    check(raw, r);
    if (r->op != BLOCK_READ && raw->backend.read_only)
        return finish(r, -EROFS);
    switch (r->op) {
    case BLOCK_DISCARD: return fallocate_call(r, STEP_PUNCH, call);
    case BLOCK_WRITE_ZEROES: return fallocate_call(r, r->unmap ? STEP_PUNCH : STEP_ZERO_RANGE, call);
    default: error = set_up_bounce(raw, r); return error ? finish(r, error) : transfer(r, call);
    }
}

/* n bytes of a transfer are done. */
static void advance(struct block_request *r, uint64_t n)
{
    if (r->bounce && r->op == BLOCK_READ)
        copy_bounce(r, n, true);
    r->position += n;
    while (r->iov_count && n >= r->iov->iov_len) {
        n -= r->iov->iov_len;
        r->iov++;
        r->iov_count--;
    }
    if (n) {
        r->iov->iov_base = (uint8_t *)r->iov->iov_base + n;
        r->iov->iov_len -= n;
    }
}

/*
 * After a failed fdatasync the host takes the pages for clean, and the next one succeeds without them: so every later one fails, too, and no
 * flush that returned is a lie.
 */
static bool synced(struct raw *raw, struct block_request *r, int64_t result)
{
    if (result < 0)
        atomic_store(&raw->lost, true);
    else if (atomic_load(&raw->lost))
        result = -EIO;
    return finish(r, (int)result);
}

static bool unsupported(int64_t result)
{
    return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV;
}

static bool fallocated(struct raw *raw, struct block_request *r, int64_t result, struct raw_call *call)
{
    if (result >= 0)
        return changed(r, call);
    if (!unsupported(result))
        return finish(r, (int)result);
    if (r->op == BLOCK_DISCARD) /* advice, which this host cannot follow */
        return finish(r, 0);
    if (r->step == STEP_PUNCH)
        return fallocate_call(r, STEP_ZERO_RANGE, call);
    return zeros_call(raw, r, call);
}

static bool transferred(struct raw *raw, struct block_request *r, int64_t result, struct raw_call *call)
{
    if (result == 0)
        return finish(r, -EIO); /* the file was cut while we have it open */
    if (result < 0) {
        if (r->op == BLOCK_WRITE && r->durable && result == -EIO)
            atomic_store(&raw->lost, true);
        return finish(r, (int)result);
    }
    r->retries = 0;
    if (r->step == STEP_WRITE_ZEROS) {
        r->position += (uint64_t)result;
        return r->position < r->len ? zeros_call(raw, r, call) : changed(r, call);
    }
    advance(r, (uint64_t)result);
    return r->position < r->len ? transfer(r, call) : finish(r, 0);
}

/* The same call again. */
static bool repeat(const struct raw *raw, struct block_request *r, struct raw_call *call)
{
    switch ((enum step)r->step) {
    case STEP_TRANSFER: return transfer(r, call);
    case STEP_SYNC: return sync_call(r, call);
    case STEP_WRITE_ZEROS: return zeros_call(raw, r, call);
    default: return fallocate_call(r, (enum step)r->step, call);
    }
}

bool raw_continue(struct raw *raw, struct block_request *r, int64_t result, struct raw_call *call)
{
    /* io_uring cancels what a thread began that then ended; a signal may interrupt fallocate. */
    if ((result == -EINTR || result == -EAGAIN || result == -ECANCELED) && r->retries++ < RETRIES_MAX)
        return repeat(raw, r, call);
    switch ((enum step)r->step) {
    case STEP_TRANSFER:
    case STEP_WRITE_ZEROS: return transferred(raw, r, result, call);
    case STEP_SYNC: return synced(raw, r, result);
    default: return fallocated(raw, r, result, call);
    }
}

/* --- the way back --- */

void raw_submitted(struct raw *raw)
{
    raw->in_flight++;
}

void raw_finished(struct raw *raw, struct block_request *r)
{
    BUG_ON(!raw->in_flight);
    raw->in_flight--;
    raw_list_add(&raw->finished, r);
}

void raw_wake(struct raw *raw)
{
    uint64_t one = 1;

    if (write(raw->event.fd, &one, sizeof(one)) < 0)
        return; /* the counter is full, and the loop awake */
}

bool raw_deliver(struct raw *raw)
{
    struct block_request *r;

    pthread_mutex_lock(&raw->lock);
    r = raw->finished.first;
    raw_list_init(&raw->finished);
    pthread_mutex_unlock(&raw->lock);
    if (!r)
        return false;
    while (r) {
        struct block_request *next = r->next; /* done() may free or submit it again */

        r->done(r, r->error);
        r = next;
    }
    if (raw->backend.batch_done)
        raw->backend.batch_done(raw->backend.owner);
    return true;
}

/* --- life --- */

static int make_zeros(struct raw *raw)
{
    raw->zeros = aligned_alloc(PAGE_SIZE, ZERO_BYTES);
    raw->zero_iov = calloc(ZERO_IOVS, sizeof(*raw->zero_iov));
    if (!raw->zeros || !raw->zero_iov)
        return -ENOMEM;
    memset(raw->zeros, 0, ZERO_BYTES);
    for (unsigned i = 0; i < ZERO_IOVS; i++)
        raw->zero_iov[i] = (struct iovec){raw->zeros, ZERO_BYTES};
    return 0;
}

int raw_init(struct raw *raw, const struct block_ops *ops, const struct raw_file *file, struct loop *loop, struct err *e)
{
    raw->backend = file->backend;
    raw->backend.ops = ops;
    raw->fd = -1;
    raw->direct = file->direct;
    raw->memory_align = file->memory_align;
    raw->loop = loop;
    pthread_mutex_init(&raw->lock, NULL);
    raw_list_init(&raw->finished);
    raw->event.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (raw->event.fd < 0 || make_zeros(raw)) {
        raw_fini(raw);
        return err_set(e, ENOMEM, "disk %s: no file descriptor or memory for its engine", file->backend.path);
    }
    raw->event.events = EPOLLIN;
    raw->fd = file->fd;
    return 0;
}

void raw_fini(struct raw *raw)
{
    if (raw->fd >= 0)
        close(raw->fd); /* which unlocks it */
    if (raw->event.fd >= 0)
        close(raw->event.fd);
    free(raw->zero_iov);
    free(raw->zeros);
    pthread_mutex_destroy(&raw->lock);
}
