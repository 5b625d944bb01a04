/* A raw image or block device behind an engine: what both engines share. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "block/backend.h"

/* One system call that a request needs; an engine makes it and tells the result. */
struct raw_call {
    enum { RAW_READ, RAW_WRITE, RAW_SYNC, RAW_FALLOCATE } what;
    int flags; /* READ, WRITE: RWF_*; FALLOCATE: its mode */
    uint64_t offset, len;
    const struct iovec *iov;
    unsigned iov_count;
};

struct raw_list {
    struct block_request *first, **last;
};

/*
 * Theory of operation. A request is a series of host calls: raw_begin() gives the first one, raw_continue() takes the result of one and gives
 * the next, so that short transfers, fallbacks and bounce buffers are written once for both engines. A request that needs no further call
 * goes to the finished list, from any thread and under the lock; the eventfd then brings the loop's thread to call done().
 */
struct raw {
    struct block_backend backend;
    int fd;
    bool direct;
    uint32_t memory_align; /* O_DIRECT: of buffers; a power of two */
    uint8_t *zeros;        /* RAW_ZERO_BYTES of them */
    struct iovec *zero_iov;
    atomic_bool lost; /* a flush failed: the host may have dropped what it should have written */

    struct loop *loop;
    struct loop_fd event; /* an eventfd */

    pthread_mutex_t lock; /* guards what follows, and the engine's own; innermost */
    unsigned in_flight;   /* submitted and not finished */
    struct raw_list finished;
};

/* What block_open() found out; the engine's constructor takes fd over, on success. */
struct raw_file {
    int fd;
    bool direct;
    uint32_t memory_align;
    struct block_backend backend; /* all but ops */
};

/* For the engines: the shared part. 0 or -errno with a sentence. raw_fini() closes the file. */
int raw_init(struct raw *, const struct block_ops *, const struct raw_file *, struct loop *, struct err *);
void raw_fini(struct raw *);

/* True: call is to be made. False: the request is finished with request->error. Any thread, without the lock or with it. */
bool raw_begin(struct raw *, struct block_request *, struct raw_call *call);
/* result: what the call returned, or -errno. */
bool raw_continue(struct raw *, struct block_request *, int64_t result, struct raw_call *call);

/* With the lock held. */
void raw_submitted(struct raw *);
void raw_finished(struct raw *, struct block_request *); /* out of flight */

/* Makes the loop's thread call raw_deliver() soon, by the eventfd. Any thread. */
void raw_wake(struct raw *);
/* Calls done() of all that is finished, and batch_done(). The loop's thread, without the lock. True when there was any. */
bool raw_deliver(struct raw *);

void raw_list_init(struct raw_list *);
void raw_list_add(struct raw_list *, struct block_request *);
struct block_request *raw_list_take(struct raw_list *); /* NULL when empty */

/* The engines. NULL with a sentence: the file is still the caller's. */
struct block_backend *uring_new(const struct raw_file *, struct loop *, struct err *);
struct block_backend *threads_new(const struct raw_file *, struct loop *, struct err *);
