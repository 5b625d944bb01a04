/* The I/O loop: file descriptors, timers and posted work, run by one thread. */
#pragma once

#include "base/err.h"
#include "base/types.h"

struct loop;

/* Embedded in the owner; must stay valid until removed. The callback runs on the loop's thread. */
struct loop_fd {
    int fd;
    uint32_t events; /* EPOLLIN, EPOLLOUT ... */
    void (*ready)(struct loop_fd *, uint32_t events);
};

/* Embedded in the owner. The callback runs on the loop's thread, once per arming. */
struct loop_timer {
    struct loop *loop;
    void (*expired)(struct loop_timer *);
    uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0 = not armed. Owned by the loop's lock */
    unsigned heap_index;
};

struct loop *loop_new(struct err *e); /* NULL on failure */
void loop_free(struct loop *);

/* Any thread. 0 or -errno. After loop_remove_fd() returns on the loop's own thread, the callback is not called again. */
int loop_add_fd(struct loop *, struct loop_fd *);
int loop_modify_fd(struct loop *, struct loop_fd *);
void loop_remove_fd(struct loop *, struct loop_fd *);

/*
 * Any thread. A deadline in the past fires at once. Setting an armed timer moves it. After loop_timer_cancel() returns on the loop's own
 * thread, the callback is not called again; elsewhere it may just be running.
 */
void loop_timer_init(struct loop *, struct loop_timer *, void (*expired)(struct loop_timer *));
void loop_timer_set(struct loop_timer *, uint64_t deadline_ns);
void loop_timer_cancel(struct loop_timer *);

/* Any thread: runs fn(arg) on the loop's thread soon, in the order of posting. What loop_free() finds not yet run is dropped. */
void loop_post(struct loop *, void (*fn)(void *), void *arg);

/*
 * Runs until loop_stop(), which ends one run: a stop from before makes it return at once, without a callback. What was under way in that
 * round is finished first. The calling thread becomes the loop's thread. 0 or -errno.
 */
int loop_run(struct loop *);
void loop_stop(struct loop *); /* any thread, and a signal handler */
