/* virtio-blk's requests: from the queue to the block backend, many at once, and back as they are done. */
#include "virtio/blk_request.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

/*
 * Theory of operation. A kick pops what is in the queue. What needs no disk is answered on the spot; the rest goes to the backend as one
 * batch, reading and writing guest memory in place. Each done() takes the lock and makes a used entry; batch_done() then publishes those of
 * a batch, with at most one interrupt per queue.
 *
 * A reset does not wait for the host. Requests under way hold the queue (virtio_hold()), so that the driver sees the reset finished only when
 * none of them can write to its memory any more. A done() that finds the queue no longer enabled makes no used entry, but it still tells the
 * engine which memory a read has changed.
 *
 * Durability (5.2.6.2). A driver that took FLUSH has a write-back cache unless it switches that off by the configuration; one that took
 * neither FLUSH nor CONFIG_WCE has every write on disk when it is answered.
 */

/* --- the pool of requests: with the lock held, but for making and ending --- */

static void free_request(struct blk_request *r)
{
    virtq_chain_fini(&r->chain);
    free(r->data);
    free(r);
}

static void on_done(struct block_request *io, int error);

static struct blk_request *new_request(struct virtio_blk *blk)
{
    struct blk_request *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->blk = blk;
    r->io.done = on_done;
    r->data = calloc(VIRTIO_BLK_QUEUE_SIZE, sizeof(*r->data));
    if (!r->data || virtq_chain_init(&r->chain, &blk->dev.queues[0])) {
        free(r->data);
        free(r);
        return NULL;
    }
    return r;
}

/* NULL: no memory, and then at least one is under way. The pool only grows, to as many as the queues have entries. */
static struct blk_request *take_request(struct virtio_blk *blk)
{
    struct blk_request *r = blk->free_requests;

    if (!r)
        return new_request(blk);
    blk->free_requests = r->next_free;
    return r;
}

static void put_request(struct blk_request *r)
{
    r->next_free = r->blk->free_requests;
    r->blk->free_requests = r;
}

int blk_init_requests(struct virtio_blk *blk)
{
    blk->free_requests = new_request(blk);
    return blk->free_requests ? 0 : -ENOMEM;
}

void blk_fini_requests(struct virtio_blk *blk)
{
    struct blk_request *r;

    while ((r = blk->free_requests)) {
        blk->free_requests = r->next_free;
        free_request(r);
    }
}

/* --- answers --- */

/* Bytes that an answer without data zeroes. A driver may name the same memory again and again, so this is all, however much there is. */
#define FILL_MAX KIB(64)

/* A used entry says how much of the writable part was filled from its start on (2.7.8.2). From off on it is by zeros, mostly to the status: to where. */
static uint64_t fill_rest(const struct virtq_chain *c, uint64_t off)
{
    uint64_t end = MIN(c->writable_len - 1, off + FILL_MAX), at = 0;

    for (unsigned i = c->readable; i < c->readable + c->writable && at < end; i++) {
        uint64_t len = MIN(c->iov[i].iov_len, end - at);

        if (at + len > off) {
            uint64_t skip = off > at ? off - at : 0;

            memset((uint8_t *)c->iov[i].iov_base + skip, 0, len - skip);
        }
        at += len;
    }
    return end;
}

/* The status stands behind what the used entry says. */
static void tell_of_status(const struct mem *mem, const struct virtq_chain *c)
{
    unsigned last = c->readable + c->writable - 1;

    if (mem->code_changed)
        mem->code_changed(mem->code_changed_opaque, c->gpas[last] + c->iov[last].iov_len - 1, 1);
}

/* Makes the used entry. filled: bytes of the answer before the status. */
static void answer(struct blk_request *r, uint8_t status, uint64_t filled)
{
    struct virtio_blk *blk = r->blk;

    uint64_t len = fill_rest(&r->chain, filled);
    virtq_write(&r->chain, r->chain.writable_len - 1, &status, 1);
    if (len == r->chain.writable_len - 1)
        len++;
    else
        tell_of_status(blk->dev.queues[r->queue].mem, &r->chain);
    virtq_push(&blk->dev.queues[r->queue], &r->chain, (uint32_t)len);
    blk->unpublished |= BIT(r->queue);
    blk->errors += status == VIRTIO_BLK_S_IOERR;
    put_request(r);
}

static void publish(struct virtio_blk *blk)
{
    while (blk->unpublished) {
        unsigned q = (unsigned)__builtin_ctzll(blk->unpublished);

        blk->unpublished &= blk->unpublished - 1;
        if (virtio_queue_ready(&blk->dev, q))
            virtio_publish(&blk->dev, q);
        else if (blk->dev.queues[q].state.enabled)
            virtq_publish(&blk->dev.queues[q]); /* broken: it gets what is its own, and no interrupt */
    }
}

/* --- to the backend --- */

static void submit(struct blk_request *r)
{
    r->io.durable = !blk_is_write_back(r->blk);
    r->blk->submitted = true;
    r->blk->backend->ops->submit(r->blk->backend, &r->io);
}

static void submit_first(struct blk_request *r)
{
    virtio_hold(&r->blk->dev, r->queue);
    submit(r);
}

static void flush_submissions(struct virtio_blk *blk)
{
    if (blk->submitted)
        blk->backend->ops->flush_submissions(blk->backend);
    blk->submitted = false;
}

static bool in_range(const struct virtio_blk *blk, uint64_t sector, uint64_t len)
{
    const struct block_backend *b = blk->backend;
    uint64_t mask = b->block_size - 1;

    if (sector > b->size / VIRTIO_BLK_SECTOR || ((sector * VIRTIO_BLK_SECTOR) & mask) || (len & mask))
        return false;
    return len <= b->size - sector * VIRTIO_BLK_SECTOR;
}

/* The len bytes from off on of some segments, as segments. */
static unsigned slice(struct iovec *to, const struct iovec *from, unsigned count, uint64_t off, uint64_t len)
{
    unsigned n = 0;

    for (unsigned i = 0; i < count && len; i++) {
        uint64_t here;

        if (off >= from[i].iov_len) {
            off -= from[i].iov_len;
            continue;
        }
        here = MIN(from[i].iov_len - off, len);
        to[n++] = (struct iovec){(uint8_t *)from[i].iov_base + off, here};
        len -= here;
        off = 0;
    }
    return n;
}

static void transfer(struct blk_request *r, uint64_t sector)
{
    const struct virtq_chain *c = &r->chain;
    bool read = r->type == VIRTIO_BLK_T_IN;
    uint64_t len = read ? c->writable_len - 1 : c->readable_len - sizeof(struct virtio_blk_header);

    if (!in_range(r->blk, sector, len) || (!read && r->blk->backend->read_only)) {
        answer(r, VIRTIO_BLK_S_IOERR, 0);
        return;
    }
    if (!len) {
        answer(r, VIRTIO_BLK_S_OK, 0);
        return;
    }
    if (read)
        r->io.iov_count = slice(r->data, c->iov + c->readable, c->writable, 0, len);
    else
        r->io.iov_count = slice(r->data, c->iov, c->readable, sizeof(struct virtio_blk_header), len);
    r->io.op = read ? BLOCK_READ : BLOCK_WRITE;
    r->io.iov = r->data;
    r->io.offset = sector * VIRTIO_BLK_SECTOR;
    r->io.len = len;
    submit_first(r);
}

/* --- discard and write zeroes: ranges one after the other --- */

/* The next range that is not empty. False: there is none. */
static bool next_range(struct blk_request *r)
{
    while (r->range_next < r->range_count) {
        const struct virtio_blk_range *range = &r->ranges[r->range_next++];

        if (!range->sectors)
            continue;
        r->io.offset = range->sector * VIRTIO_BLK_SECTOR;
        r->io.len = (uint64_t)range->sectors * VIRTIO_BLK_SECTOR;
        r->io.unmap = range->flags & VIRTIO_BLK_WRITE_ZEROES_UNMAP;
        return true;
    }
    return false;
}

/* Copies and checks them all before the first one is done. The status. */
static uint8_t read_ranges(struct blk_request *r)
{
    uint64_t len = r->chain.readable_len - sizeof(struct virtio_blk_header);
    uint32_t known = r->type == VIRTIO_BLK_T_WRITE_ZEROES ? VIRTIO_BLK_WRITE_ZEROES_UNMAP : 0;

    if (!len || len > sizeof(r->ranges) || len % sizeof(r->ranges[0]))
        return VIRTIO_BLK_S_IOERR;
    virtq_read(&r->chain, sizeof(struct virtio_blk_header), r->ranges, len);
    r->range_count = (unsigned)(len / sizeof(r->ranges[0]));
    r->range_next = 0;
    for (unsigned i = 0; i < r->range_count; i++) {
        const struct virtio_blk_range *range = &r->ranges[i];

        if (range->flags & ~known)
            return VIRTIO_BLK_S_UNSUPP;
        if (range->sectors > VIRTIO_BLK_RANGE_SECTORS_MAX || !in_range(r->blk, range->sector, (uint64_t)range->sectors * VIRTIO_BLK_SECTOR))
            return VIRTIO_BLK_S_IOERR;
    }
    return VIRTIO_BLK_S_OK;
}

static void change_ranges(struct blk_request *r)
{
    bool discard = r->type == VIRTIO_BLK_T_DISCARD;
    uint8_t status;

    if (!virtio_has(&r->blk->dev, discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES)) {
        answer(r, VIRTIO_BLK_S_UNSUPP, 0);
        return;
    }
    status = read_ranges(r);
    r->io.op = discard ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES;
    if (status == VIRTIO_BLK_S_OK && next_range(r))
        submit_first(r);
    else
        answer(r, status, 0);
}

/* --- requests --- */

static void start_request(struct blk_request *r, const struct virtio_blk_header *header)
{
    struct virtio_blk *blk = r->blk;

    r->range_count = r->range_next = 0;
    r->type = header->type;
    switch (header->type) {
    case VIRTIO_BLK_T_IN:
        blk->reads++;
        transfer(r, header->sector);
        break;
    case VIRTIO_BLK_T_OUT:
        blk->writes++;
        transfer(r, header->sector);
        break;
    case VIRTIO_BLK_T_FLUSH:
        blk->flushes++;
        r->io.op = BLOCK_FLUSH;
        submit_first(r);
        break;
    case VIRTIO_BLK_T_GET_ID:
        answer(r, VIRTIO_BLK_S_OK, virtq_write(&r->chain, 0, blk->serial, MIN(r->chain.writable_len - 1, sizeof(blk->serial))));
        break;
    case VIRTIO_BLK_T_DISCARD:
        blk->discards++;
        change_ranges(r);
        break;
    case VIRTIO_BLK_T_WRITE_ZEROES:
        blk->write_zeroes++;
        change_ranges(r);
        break;
    default: answer(r, VIRTIO_BLK_S_UNSUPP, 0); break;
    }
}

/* A chain was popped into r. False: the device needs a reset now. */
static bool take_chain(struct blk_request *r)
{
    struct virtio_blk *blk = r->blk;
    struct virtio_blk_header header;

    if (!r->chain.writable_len) {
        virtq_push(&blk->dev.queues[r->queue], &r->chain, 0);
        blk->unpublished |= BIT(r->queue);
        virtio_broken(&blk->dev, "queue %u: the driver made a request without room for a status", r->queue);
        put_request(r);
        return false;
    }
    if (virtq_read(&r->chain, 0, &header, sizeof(header)) < sizeof(header))
        answer(r, VIRTIO_BLK_S_IOERR, 0);
    else
        start_request(r, &header);
    return true;
}

/* Pops until there is nothing. What is pushed meanwhile is published by the caller, so the driver cannot keep us here. */
static void run_queue(struct virtio_blk *blk, unsigned queue)
{
    struct blk_request *r;

    blk->stalled &= ~BIT(queue);
    do {
        for (;;) {
            r = take_request(blk);
            if (!r) {
                blk->stalled |= BIT(queue);
                return;
            }
            r->queue = queue;
            if (virtio_pop(&blk->dev, queue, &r->chain) != 1) {
                put_request(r);
                break;
            }
            if (!take_chain(r))
                return;
        }
    } while (virtio_queue_ready(&blk->dev, queue) && virtq_set_kicks(&blk->dev.queues[queue], true));
}

void blk_on_kick(struct virtio_device *dev, unsigned queue)
{
    struct virtio_blk *blk = blk_of(dev);

    virtq_set_kicks(&dev->queues[queue], false);
    run_queue(blk, queue);
    publish(blk);
    flush_submissions(blk);
}

/* --- completions: on the loop's thread --- */

static void complain(struct virtio_blk *blk, const struct block_request *io, int error)
{
    static const char *const names[] = {
        [BLOCK_READ] = "a read",
        [BLOCK_WRITE] = "a write",
        [BLOCK_FLUSH] = "a flush",
        [BLOCK_DISCARD] = "a discard",
        [BLOCK_WRITE_ZEROES] = "a write of zeros",
    };
    uint64_t now = clock_monotonic_ns();

    if (now < blk->next_complaint_ns)
        return;
    blk->next_complaint_ns = now + NS_PER_SEC;
    log_warn("disk %s: %s at byte %" PRIu64 " failed: %s", blk->backend->path, names[io->op], io->op == BLOCK_FLUSH ? 0 : io->offset,
             strerror(-error));
}

/* A read that nobody waits for any more has changed guest memory nonetheless. */
static void tell_memory(const struct virtio_blk *blk, const struct blk_request *r)
{
    const struct mem *mem = blk->dev.env.mem;
    const struct virtq_chain *c = &r->chain;

    if (r->type != VIRTIO_BLK_T_IN || !mem->code_changed)
        return;
    for (unsigned i = c->readable; i < c->readable + c->writable; i++)
        mem->code_changed(mem->code_changed_opaque, c->gpas[i], c->iov[i].iov_len);
}

/* With the lock held. */
static void complete(struct virtio_blk *blk, struct blk_request *r, int error)
{
    uint64_t filled = r->type == VIRTIO_BLK_T_IN && !error ? r->chain.writable_len - 1 : 0;
    unsigned queue = r->queue;

    if (blk->dev.queues[queue].state.enabled) { /* else it was reset, and cannot be enabled again before the release */
        if (!error && next_range(r)) {
            submit(r);
            return;
        }
        answer(r, error ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK, filled);
    } else {
        tell_memory(blk, r);
        put_request(r);
    }
    virtio_release(&blk->dev, queue);
}

static void on_done(struct block_request *io, int error)
{
    struct blk_request *r = container_of(io, struct blk_request, io);
    struct virtio_blk *blk = r->blk;

    pthread_mutex_lock(&blk->dev.lock);
    if (error)
        complain(blk, io, error);
    complete(blk, r, error);
    pthread_mutex_unlock(&blk->dev.lock);
}

void blk_on_batch_done(void *owner)
{
    struct virtio_blk *blk = owner;
    uint64_t stalled;

    pthread_mutex_lock(&blk->dev.lock);
    stalled = blk->stalled;
    for (unsigned q = 0; stalled; q++, stalled >>= 1)
        if (stalled & 1)
            run_queue(blk, q);
    publish(blk);
    flush_submissions(blk);
    pthread_mutex_unlock(&blk->dev.lock);
}
