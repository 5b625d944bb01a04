/* A disk in memory whose requests are done when the test says so: for the tests and the fuzzer of the block device. */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bug.h"
#include "block/backend.h"

struct block_fake {
    struct block_backend backend;
    uint8_t *disk;
    struct block_request *first, **last; /* submitted and not done */
    unsigned waiting, flushed;           /* how many are so; how many of these flush_submissions() has passed */
    unsigned submissions, batches;
    bool in_batch; /* done() was called, and not yet batch_done() */
    bool *freed;
};

static inline struct block_fake *block_fake_of(struct block_backend *b)
{
    return container_of(b, struct block_fake, backend);
}

static inline void block_fake_submit(struct block_backend *b, struct block_request *r)
{
    struct block_fake *f = block_fake_of(b);
    uint64_t len = 0;

    if (r->op != BLOCK_FLUSH) {
        BUG_ON(!r->len || (r->offset | r->len) % b->block_size || r->offset > b->size || r->len > b->size - r->offset);
        BUG_ON(r->op != BLOCK_READ && b->read_only);
    }
    if (r->op == BLOCK_READ || r->op == BLOCK_WRITE) {
        for (unsigned i = 0; i < r->iov_count; i++)
            len += r->iov[i].iov_len;
        BUG_ON(len != r->len);
    }
    r->next = NULL;
    *f->last = r;
    f->last = &r->next;
    f->waiting++;
    f->submissions++;
}

static inline void block_fake_flush_submissions(struct block_backend *b)
{
    block_fake_of(b)->flushed = block_fake_of(b)->waiting;
}

static inline void block_fake_do(struct block_fake *f, const struct block_request *r)
{
    uint8_t *at = f->disk + r->offset;

    for (unsigned i = 0; i < r->iov_count && r->op <= BLOCK_WRITE; i++) {
        if (r->op == BLOCK_READ)
            memcpy(r->iov[i].iov_base, at, r->iov[i].iov_len);
        else
            memcpy(at, r->iov[i].iov_base, r->iov[i].iov_len);
        at += r->iov[i].iov_len;
    }
    if (r->op == BLOCK_DISCARD || r->op == BLOCK_WRITE_ZEROES)
        memset(at, 0, r->len);
}

/* The nth of those that wait is done, without the end of a batch. An error leaves the disk alone, and of what was read nothing is there. */
static inline void block_fake_done(struct block_fake *f, unsigned nth, int error)
{
    struct block_request **link = &f->first, *r;

    BUG_ON(nth >= f->waiting);
    while (nth--)
        link = &(*link)->next;
    r = *link;
    *link = r->next;
    if (!*link)
        f->last = link;
    f->waiting--;
    f->flushed -= f->flushed != 0;
    if (!error)
        block_fake_do(f, r);
    f->in_batch = true;
    r->done(r, error);
}

static inline void block_fake_batch_done(struct block_fake *f)
{
    f->batches++;
    f->in_batch = false;
    if (f->backend.batch_done)
        f->backend.batch_done(f->backend.owner);
}

static inline void block_fake_drain(struct block_backend *b)
{
    struct block_fake *f = block_fake_of(b);

    while (f->first || f->in_batch) {
        while (f->first)
            block_fake_done(f, 0, 0);
        block_fake_batch_done(f);
    }
}

static inline void block_fake_free(struct block_backend *b)
{
    struct block_fake *f = block_fake_of(b);

    BUG_ON(f->first || f->in_batch);
    if (f->freed)
        *f->freed = true;
    free(f->disk);
    free(f);
}

static const struct block_ops block_fake_ops = {
    .name = "fake",
    .submit = block_fake_submit,
    .flush_submissions = block_fake_flush_submissions,
    .drain = block_fake_drain,
    .free = block_fake_free,
};

/* The disk's bytes at first are all 0x40 plus their sector's number. */
static inline struct block_fake *block_fake_new(uint64_t size, uint32_t block_size, bool read_only)
{
    struct block_fake *f = calloc(1, sizeof(*f));

    BUG_ON(!f);
    f->disk = malloc(size);
    BUG_ON(!f->disk);
    for (uint64_t i = 0; i < size; i++)
        f->disk[i] = (uint8_t)(0x40 + i / 512);
    f->last = &f->first;
    f->backend = (struct block_backend){
        .ops = &block_fake_ops, .size = size, .block_size = block_size, .read_only = read_only, .discard = !read_only, .path = "fake"};
    return f;
}
