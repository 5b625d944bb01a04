/* The block backend seam: where a disk's bytes go. */
#pragma once

#include <sys/uio.h>

#include "base/err.h"
#include "base/state.h"
#include "event/loop.h"

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

/* Embedded in the owner's request. */
struct block_request {
    enum block_op op;
    uint64_t offset, len; /* bytes; multiples of block_size, within size. FLUSH: none */
    bool unmap;           /* WRITE_ZEROES: the host may give the space back */
    bool durable;         /* whatever changes the disk: done() means on stable storage, as if a flush had followed */
    struct iovec *iov;    /* READ and WRITE: len bytes in all. The backend's until done(), which may find it changed */
    unsigned iov_count;
    /* Once per request, on the loop's thread and never from within submit(). error: 0 or -errno. */
    void (*done)(struct block_request *, int error);

    /* The backend's while it has the request. */
    struct block_request *next;
    uint64_t position; /* bytes that are done */
    uint8_t *bounce;   /* for memory that O_DIRECT cannot use */
    struct iovec bounce_iov;
    uint8_t step, retries;
    int error;
};

struct block_backend;

struct block_ops {
    const char *name; /* "io_uring", "threads" */
    /* Any thread, several at once; returns soon. A flush that is done() makes durable every write that was done() before it was submitted. */
    void (*submit)(struct block_backend *, struct block_request *);
    void (*flush_submissions)(struct block_backend *); /* after a batch of submit(), which may have been held back. Any thread */
    /* Returns when no request is under way: their done() have been called, on this thread, which is the loop's. */
    void (*drain)(struct block_backend *);
    void (*free)(struct block_backend *); /* after drain() */
};

struct block_backend {
    const struct block_ops *ops;
    /* The owner's: called after each batch of done(), on the same thread, so that it can tell the guest once. May be NULL. */
    void (*batch_done)(void *owner);
    void *owner;

    uint64_t size;       /* bytes, a multiple of block_size */
    uint32_t block_size; /* logical: 512 or 4096 */
    bool read_only;
    bool discard;   /* holes can be punched */
    char path[256]; /* for messages */
};

struct block_options {
    const char *path;
    bool read_only;
    bool direct;         /* O_DIRECT: the host caches nothing */
    uint32_t block_size; /* 0: 512, or what the device or O_DIRECT asks for */
    enum { BLOCK_ENGINE_AUTO, BLOCK_ENGINE_URING, BLOCK_ENGINE_THREADS } engine;
};

/*
 * Opens a raw image or a block device, locked against a second writer until block_free(). NULL with one sentence that names the file and
 * what would help (a directory, a qcow2 image, a file that is in use elsewhere, no right to write...).
 */
struct block_backend *block_open(const struct block_options *, struct loop *, struct err *);
void block_free(struct block_backend *); /* drains, on the loop's thread; NULL is fine */

/* Whether this host gives io_uring to us; why: if not, the end of a sentence. umbra probe says it. */
bool block_uring_usable(char why[128]);
