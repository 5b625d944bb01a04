/* Both block engines against a model: random requests at once, threads, drains, errors; and what a request asks of the host, call by call. */
#include "block_image.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "block/raw.h"

#define REQUESTS_MAX 400

struct fixture;

struct request {
    struct block_request r;
    struct fixture *f;
    bool busy, done;
    int error;
    uint8_t *memory;
    struct iovec iov[16];
};

struct how {
    int engine;
    bool direct;
};

struct fixture {
    const struct how *how;
    struct loop *loop;
    struct block_backend *b;
    pthread_t loop_thread;
    uint8_t *model;
    unsigned submitted, finished, batches, in_batch;
    unsigned resubmit; /* done() submits the request again as often */
    uint64_t random;
    struct request requests[REQUESTS_MAX];
};

static const struct how uring = {BLOCK_ENGINE_URING, false}, uring_direct = {BLOCK_ENGINE_URING, true};
static const struct how threads = {BLOCK_ENGINE_THREADS, false}, threads_direct = {BLOCK_ENGINE_THREADS, true};

/* done() may not come from within submit(). */
static _Thread_local bool in_submit;

static uint64_t seed = 1;

static uint64_t random_next(struct fixture *f)
{
    f->random ^= f->random << 13;
    f->random ^= f->random >> 7;
    f->random ^= f->random << 17;
    return f->random;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    assert_non_null(f);
    f->how = *state;
    f->random = seed * 0x9e3779b97f4a7c15ULL;
    f->loop = loop_new(&e);
    assert_non_null(f->loop);
    f->loop_thread = pthread_self();
    for (unsigned i = 0; i < REQUESTS_MAX; i++)
        f->requests[i].f = f;
    image_dir_make();
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    block_free(f->b);
    loop_free(f->loop);
    image_dir_remove();
    for (unsigned i = 0; i < REQUESTS_MAX; i++)
        free(f->requests[i].memory);
    free(f->model);
    free(f);
    return 0;
}

static void on_batch_done(void *owner)
{
    struct fixture *f = owner;

    assert_true(pthread_equal(pthread_self(), f->loop_thread));
    assert_true(f->in_batch > 0);
    f->in_batch = 0;
    f->batches++;
}

static void take(struct fixture *f, struct block_backend *b)
{
    f->b = b;
    b->owner = f;
    b->batch_done = on_batch_done;
}

static void open_file(struct fixture *f, const char *path, bool read_only)
{
    struct block_options o = {.path = path, .read_only = read_only, .direct = f->how->direct, .engine = f->how->engine};
    struct err e = {""};
    struct block_backend *b = block_open(&o, f->loop, &e);
    char why[128];

    if (!b && f->how->engine == BLOCK_ENGINE_URING && !block_uring_usable(why)) {
        print_message("skip no io_uring here: %s\n", why);
        skip();
    }
    if (!b && strstr(e.text, "leave out ,direct")) {
        print_message("skip no O_DIRECT in %s\n", image_dir);
        skip();
    }
    if (!b)
        fail_msg("%s", e.text);
    take(f, b);
}

static void open_image(struct fixture *f, uint64_t size)
{
    open_file(f, image_make("disk", size), false);
}

/* What block_open() would not take: a device without space, a file without a name. */
static void open_fd(struct fixture *f, int fd, uint64_t size)
{
    struct raw_file file = {.fd = fd, .memory_align = 512, .backend = {.size = size, .block_size = 512, .path = "fd"}};
    struct err e = {""};
    struct block_backend *b;
    char why[128];

    assert_true(fd >= 0);
    if (f->how->engine == BLOCK_ENGINE_URING && !block_uring_usable(why)) {
        close(fd);
        print_message("skip no io_uring here: %s\n", why);
        skip();
    }
    b = f->how->engine == BLOCK_ENGINE_URING ? uring_new(&file, f->loop, &e) : threads_new(&file, f->loop, &e);
    if (!b)
        fail_msg("%s", e.text);
    take(f, b);
}

/* --- requests --- */

static void submit(struct request *q)
{
    q->busy = true;
    q->done = false;
    in_submit = true;
    q->f->b->ops->submit(q->f->b, &q->r);
    in_submit = false;
}

static void on_done(struct block_request *r, int error)
{
    struct request *q = container_of(r, struct request, r);
    struct fixture *f = q->f;

    assert_false(in_submit);
    assert_true(pthread_equal(pthread_self(), f->loop_thread));
    assert_true(q->busy && !q->done);
    f->in_batch++;
    q->error = error;
    if (f->resubmit) {
        f->resubmit--;
        submit(q);
        return;
    }
    q->done = true;
    f->finished++;
    loop_stop(f->loop);
}

static void flush_submissions(struct fixture *f)
{
    in_submit = true;
    f->b->ops->flush_submissions(f->b);
    in_submit = false;
}

static void wait_for(struct fixture *f, unsigned finished)
{
    flush_submissions(f);
    while (f->finished < finished)
        assert_int_equal(loop_run(f->loop), 0);
}

/* Memory in pieces: of any length where the host's page cache is between, and at any address. */
static void cut(struct fixture *f, struct request *q, uint8_t *memory, uint64_t len)
{
    unsigned n = 0;

    while (len && n < ARRAY_SIZE(q->iov) - 1 && random_next(f) % 4) {
        uint64_t piece = random_next(f) % 3 ? 512 * (1 + random_next(f) % 8) : random_next(f) % 3000;

        piece = MIN(piece, len);
        q->iov[n++] = (struct iovec){memory, piece};
        memory += piece;
        len -= piece;
    }
    q->iov[n++] = (struct iovec){memory, len};
    q->r.iov = q->iov;
    q->r.iov_count = n;
}

static void prepare(struct fixture *f, struct request *q, enum block_op op, uint64_t offset, uint64_t len)
{
    free(q->memory);
    q->memory = NULL;
    q->r = (struct block_request){.op = op, .offset = offset, .len = len, .done = on_done};
    if (op == BLOCK_READ || op == BLOCK_WRITE) {
        uint64_t shift = random_next(f) % 2 ? random_next(f) % 600 : 0;

        assert_int_equal(posix_memalign((void **)&q->memory, 4096, len + shift), 0);
        memset(q->memory, 0xa5, len + shift);
        cut(f, q, q->memory + shift, len);
    }
}

/* One request alone; its error. */
static int do_request(struct fixture *f, enum block_op op, uint64_t offset, uint64_t len)
{
    struct request *q = &f->requests[0];

    prepare(f, q, op, offset, len);
    submit(q);
    wait_for(f, f->finished + 1);
    return q->error;
}

/* --- the model --- */

static bool is_free(const struct fixture *f, uint64_t offset, uint64_t len, unsigned depth)
{
    for (unsigned i = 0; i < depth; i++) {
        const struct block_request *r = &f->requests[i].r;

        if (f->requests[i].busy && r->op != BLOCK_FLUSH && offset < r->offset + r->len && r->offset < offset + len)
            return false;
    }
    return true;
}

static void model_start(struct fixture *f, struct request *q)
{
    uint8_t *at = f->model + q->r.offset;

    if (q->r.op == BLOCK_WRITE) {
        for (unsigned i = 0; i < q->r.iov_count; i++) {
            uint8_t *bytes = q->r.iov[i].iov_base;

            for (size_t k = 0; k < q->r.iov[i].iov_len; k++)
                bytes[k] = (uint8_t)random_next(f);
            memcpy(at, bytes, q->r.iov[i].iov_len);
            at += q->r.iov[i].iov_len;
        }
    } else if (q->r.op == BLOCK_DISCARD || q->r.op == BLOCK_WRITE_ZEROES) {
        memset(at, 0, q->r.len);
    }
}

static void model_check(struct fixture *f, struct request *q, const struct iovec *iov, unsigned count)
{
    const uint8_t *at = f->model + q->r.offset;

    if (q->error)
        fail_msg("seed %lu: operation %d gave %s", (unsigned long)seed, q->r.op, strerror(-q->error));
    if (q->r.op != BLOCK_READ)
        return;
    for (unsigned i = 0; i < count; i++) {
        if (memcmp(iov[i].iov_base, at, iov[i].iov_len) != 0)
            fail_msg("seed %lu: wrong bytes at %lu", (unsigned long)seed, (unsigned long)q->r.offset);
        at += iov[i].iov_len;
    }
}

static void random_request(struct fixture *f, struct request *q, unsigned depth)
{
    static const enum block_op ops[] = {BLOCK_READ, BLOCK_READ, BLOCK_READ, BLOCK_WRITE, BLOCK_WRITE, BLOCK_DISCARD, BLOCK_WRITE_ZEROES};
    uint32_t block = f->b->block_size;
    uint64_t blocks = f->b->size / block, offset, len;

    do {
        len = random_next(f) % 8 ? 1 + random_next(f) % (KIB(16) / block) : 1 + random_next(f) % (KIB(200) / block);
        offset = random_next(f) % (blocks - len);
    } while (!is_free(f, offset * block, len * block, depth));
    prepare(f, q, random_next(f) % 32 ? ops[random_next(f) % ARRAY_SIZE(ops)] : BLOCK_FLUSH, offset * block, len * block);
    q->r.unmap = random_next(f) % 2;
    q->r.durable = random_next(f) % 128 == 0;
    model_start(f, q);
}

static void random_requests_at_once_match_the_model(void **state)
{
    enum { DEPTH = 24, COUNT = 1000 };
    struct fixture *f = *state;
    static struct iovec iovs[DEPTH][16]; /* as they were: the backend uses up its own */
    static unsigned counts[DEPTH];
    uint8_t *image;

    open_image(f, MIB(8));
    f->model = calloc(1, MIB(8));
    assert_non_null(f->model);
    for (unsigned n = 0; n < COUNT || f->finished < f->submitted;) {
        for (unsigned i = 0; i < DEPTH; i++) {
            struct request *q = &f->requests[i];

            if (q->busy && q->done) {
                q->busy = false;
                model_check(f, q, iovs[i], counts[i]);
            }
            if (q->busy || n >= COUNT || random_next(f) % 3 == 0)
                continue;
            random_request(f, q, DEPTH);
            memcpy(iovs[i], q->iov, sizeof(iovs[i]));
            counts[i] = q->r.iov_count;
            submit(q);
            f->submitted++;
            n++;
        }
        if (random_next(f) % 50 == 0) {
            f->b->ops->drain(f->b);
            assert_int_equal(f->finished, f->submitted);
        } else if (f->finished < f->submitted) {
            wait_for(f, f->finished + 1);
        }
    }
    assert_int_equal(do_request(f, BLOCK_FLUSH, 0, 0), 0);
    image = malloc(MIB(8));
    assert_non_null(image);
    image_read(image_path("disk"), 0, image, MIB(8));
    assert_memory_equal(image, f->model, MIB(8));
    free(image);
    assert_true(f->batches > 0);
}

static void more_requests_than_the_engine_takes_at_once_are_all_done(void **state)
{
    struct fixture *f = *state;

    open_image(f, MIB(4));
    for (unsigned i = 0; i < REQUESTS_MAX; i++) {
        prepare(f, &f->requests[i], i % 2 ? BLOCK_READ : BLOCK_WRITE, 4096ULL * i, 4096);
        submit(&f->requests[i]);
    }
    wait_for(f, REQUESTS_MAX);
    for (unsigned i = 0; i < REQUESTS_MAX; i++)
        assert_int_equal(f->requests[i].error, 0);
}

static void drain_also_waits_for_what_done_submits(void **state)
{
    struct fixture *f = *state;

    open_image(f, MIB(1));
    f->resubmit = 50;
    prepare(f, &f->requests[0], BLOCK_FLUSH, 0, 0);
    submit(&f->requests[0]);
    f->b->ops->drain(f->b);
    assert_int_equal(f->resubmit, 0);
    assert_int_equal(f->finished, 1);
    assert_true(f->batches >= 51);
    f->b->ops->drain(f->b); /* nothing to do */
    assert_int_equal(f->finished, 1);
}

struct submitter {
    pthread_t thread;
    struct fixture *f;
    unsigned first, count;
};

static void *submitter_main(void *arg)
{
    struct submitter *s = arg;

    for (unsigned i = 0; i < s->count; i++)
        submit(&s->f->requests[s->first + i]);
    flush_submissions(s->f);
    return NULL; /* with its requests still under way */
}

static void what_threads_submit_is_done_even_when_they_end(void **state)
{
    struct fixture *f = *state;
    struct submitter s[4];
    uint8_t block[4096];

    open_image(f, MIB(4));
    for (unsigned round = 1; round <= 10; round++) {
        for (unsigned i = 0; i < 200; i++) {
            prepare(f, &f->requests[i], BLOCK_WRITE, 4096ULL * i, 4096);
            for (unsigned k = 0; k < f->requests[i].r.iov_count; k++)
                memset(f->requests[i].iov[k].iov_base, (int)(round + i), f->requests[i].iov[k].iov_len);
        }
        for (unsigned t = 0; t < ARRAY_SIZE(s); t++) {
            s[t] = (struct submitter){.f = f, .first = 50 * t, .count = 50};
            assert_int_equal(pthread_create(&s[t].thread, NULL, submitter_main, &s[t]), 0);
        }
        while (f->finished < 200 * round)
            assert_int_equal(loop_run(f->loop), 0);
        for (unsigned t = 0; t < ARRAY_SIZE(s); t++)
            pthread_join(s[t].thread, NULL);
        for (unsigned i = 0; i < 200; i++) {
            assert_int_equal(f->requests[i].error, 0);
            image_read(image_path("disk"), 4096ULL * i, block, sizeof(block));
            for (unsigned k = 0; k < sizeof(block); k++)
                assert_int_equal(block[k], (uint8_t)(round + i));
        }
    }
}

static void long_transfers_to_memory_at_odd_addresses_arrive(void **state)
{
    struct fixture *f = *state;
    struct request *q = &f->requests[0];
    uint64_t len = MIB(3) + 4096;
    uint8_t *memory = malloc(len + 1);

    open_image(f, MIB(4));
    assert_non_null(memory);
    q->r = (struct block_request){.op = BLOCK_WRITE, .offset = 4096, .len = len, .done = on_done, .iov = q->iov, .iov_count = 3};
    for (uint64_t i = 0; i < len; i++)
        memory[i + 1] = (uint8_t)(i / 4096 + i);
    for (unsigned round = 0; round < 2; round++) {
        q->iov[0] = (struct iovec){memory + 1, 100};
        q->iov[1] = (struct iovec){memory + 101, MIB(2)};
        q->iov[2] = (struct iovec){memory + 101 + MIB(2), len - MIB(2) - 100};
        q->r.iov = q->iov;
        q->r.iov_count = 3;
        submit(q);
        wait_for(f, round + 1);
        assert_int_equal(q->error, 0);
        for (uint64_t i = 0; i < len; i++)
            if (memory[i + 1] != (uint8_t)(i / 4096 + i))
                fail_msg("byte %lu of round %u", (unsigned long)i, round);
        if (round == 0)
            memset(memory, 0, len + 1);
        q->r.op = BLOCK_READ;
    }
    free(memory);
}

/* --- errors --- */

static void a_read_behind_the_end_of_a_cut_file_fails(void **state)
{
    struct fixture *f = *state;

    open_image(f, MIB(1));
    assert_int_equal(do_request(f, BLOCK_READ, KIB(512), 4096), 0);
    assert_int_equal(truncate(image_path("disk"), KIB(256)), 0);
    assert_int_equal(do_request(f, BLOCK_READ, KIB(512), 4096), -EIO);
    assert_int_equal(do_request(f, BLOCK_READ, KIB(252), KIB(8)), -EIO); /* half of it is there */
    assert_int_equal(do_request(f, BLOCK_READ, 0, 4096), 0);
}

static void a_write_without_space_gives_the_hosts_error(void **state)
{
    struct fixture *f = *state;

    open_fd(f, open("/dev/full", O_RDWR | O_CLOEXEC), MIB(1));
    assert_int_equal(do_request(f, BLOCK_WRITE, 0, 4096), -ENOSPC);
    assert_int_equal(do_request(f, BLOCK_WRITE_ZEROES, 0, 4096), -ENOSPC);
    assert_int_equal(do_request(f, BLOCK_READ, 0, 4096), 0);
}

static void a_read_only_disk_takes_no_change(void **state)
{
    struct fixture *f = *state;

    open_file(f, image_make("disk", MIB(1)), true);
    assert_int_equal(do_request(f, BLOCK_WRITE, 0, 4096), -EROFS);
    assert_int_equal(do_request(f, BLOCK_DISCARD, 0, 4096), -EROFS);
    assert_int_equal(do_request(f, BLOCK_WRITE_ZEROES, 0, 4096), -EROFS);
    assert_int_equal(do_request(f, BLOCK_READ, 0, 4096), 0);
    assert_int_equal(do_request(f, BLOCK_FLUSH, 0, 0), 0);
}

static void zeros_are_written_where_the_host_has_no_call_for_them(void **state)
{
    struct fixture *f = *state;
    int fd = memfd_create("disk", MFD_CLOEXEC); /* punches holes, but has no FALLOC_FL_ZERO_RANGE */
    uint64_t size = MIB(10);
    uint8_t *bytes = malloc(size);

    assert_non_null(bytes);
    memset(bytes, 0x77, size);
    assert_int_equal(pwrite(fd, bytes, size, 0), size);
    open_fd(f, fd, size);
    assert_int_equal(do_request(f, BLOCK_WRITE_ZEROES, 512, MIB(9) + 512), 0);
    assert_int_equal(pread(fd, bytes, size, 0), size);
    for (uint64_t i = 0; i < size; i++)
        if (bytes[i] != (i < 512 || i >= MIB(9) + 1024 ? 0x77 : 0))
            fail_msg("byte %lu is %#x", (unsigned long)i, bytes[i]);
    free(bytes);
}

static void a_discard_gives_space_back_and_zeros_without_unmap_do_not(void **state)
{
    struct fixture *f = *state;
    struct stat before, after;

    open_image(f, MIB(4));
    assert_int_equal(do_request(f, BLOCK_WRITE, 0, MIB(2)), 0);
    assert_int_equal(do_request(f, BLOCK_FLUSH, 0, 0), 0);
    assert_int_equal(stat(image_path("disk"), &before), 0);
    assert_int_equal(do_request(f, BLOCK_WRITE_ZEROES, 0, MIB(1)), 0);
    assert_int_equal(do_request(f, BLOCK_FLUSH, 0, 0), 0);
    assert_int_equal(stat(image_path("disk"), &after), 0);
    assert_true(after.st_blocks >= before.st_blocks);
    if (!f->b->discard)
        return;
    assert_int_equal(do_request(f, BLOCK_DISCARD, 0, MIB(2)), 0);
    assert_int_equal(stat(image_path("disk"), &after), 0);
    assert_true(after.st_blocks <= before.st_blocks - (long)(MIB(1) / 512));
    assert_int_equal(after.st_size, MIB(4));
}

/* --- call by call, with results that we invent --- */

struct core {
    struct raw raw;
    struct loop *loop;
    struct request q;
    struct raw_call call;
};

static void core_init(struct core *c)
{
    static const struct block_ops no_ops = {.name = "none"};
    struct raw_file file = {.fd = -1, .memory_align = 512, .backend = {.size = MIB(64), .block_size = 512, .path = "core"}};
    struct err e;

    memset(c, 0, sizeof(*c));
    c->loop = loop_new(&e);
    assert_non_null(c->loop);
    assert_int_equal(raw_init(&c->raw, &no_ops, &file, c->loop, &e), 0);
}

static void core_fini(struct core *c)
{
    raw_fini(&c->raw);
    loop_free(c->loop);
}

static bool core_begin(struct core *c, enum block_op op, uint64_t len)
{
    static uint8_t bytes[8192];

    c->q.iov[0] = (struct iovec){bytes, 1000};
    c->q.iov[1] = (struct iovec){bytes + 1000, len - 1000};
    c->q.r.op = op;
    c->q.r.offset = 4096;
    c->q.r.len = len;
    c->q.r.iov = c->q.iov;
    c->q.r.iov_count = 2;
    return raw_begin(&c->raw, &c->q.r, &c->call);
}

static bool core_result(struct core *c, int64_t result)
{
    return raw_continue(&c->raw, &c->q.r, result, &c->call);
}

static void a_short_transfer_goes_on_where_it_stopped(void **state)
{
    struct core c;
    uint8_t *start;

    (void)state;
    core_init(&c);
    assert_true(core_begin(&c, BLOCK_WRITE, 4096));
    assert_int_equal(c.call.what, RAW_WRITE);
    assert_int_equal(c.call.offset, 4096);
    assert_int_equal(c.call.iov_count, 2);
    start = c.call.iov[0].iov_base;
    assert_true(core_result(&c, 10));
    assert_int_equal(c.call.offset, 4106);
    assert_ptr_equal(c.call.iov[0].iov_base, start + 10);
    assert_int_equal(c.call.iov[0].iov_len, 990);
    assert_true(core_result(&c, 990)); /* to the end of the first piece */
    assert_int_equal(c.call.iov_count, 1);
    assert_ptr_equal(c.call.iov[0].iov_base, start + 1000);
    assert_true(core_result(&c, 3000));
    assert_int_equal(c.call.offset, 4096 + 4000);
    assert_int_equal(c.call.iov[0].iov_len, 96);
    assert_false(core_result(&c, 96));
    assert_int_equal(c.q.r.error, 0);
    core_fini(&c);
}

static void an_interrupted_or_cancelled_call_is_made_again_but_not_for_ever(void **state)
{
    static const int errors[] = {-EINTR, -EAGAIN, -ECANCELED};
    static const enum block_op ops[] = {BLOCK_READ, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES};
    struct core c;

    (void)state;
    core_init(&c);
    for (unsigned i = 0; i < ARRAY_SIZE(errors); i++)
        for (unsigned k = 0; k < ARRAY_SIZE(ops); k++) {
            struct raw_call first;
            unsigned tries = 0;

            assert_true(core_begin(&c, ops[k], 4096));
            first = c.call;
            while (tries < 1000 && core_result(&c, errors[i])) {
                assert_int_equal(c.call.what, first.what);
                assert_int_equal(c.call.offset, first.offset);
                assert_int_equal(c.call.flags, first.flags);
                tries++;
            }
            assert_in_range(tries, 1, 999);
            assert_int_equal(c.q.r.error, errors[i]);
            atomic_store(&c.raw.lost, false);
        }
    core_fini(&c);
}

static void a_durable_write_is_one_call_and_a_durable_discard_is_followed_by_a_flush(void **state)
{
    struct core c;

    (void)state;
    core_init(&c);
    assert_true(core_begin(&c, BLOCK_WRITE, 4096));
    assert_int_equal(c.call.flags, 0);
    c.q.r.durable = true;
    assert_true(core_begin(&c, BLOCK_WRITE, 4096));
    assert_int_equal(c.call.flags, RWF_DSYNC);
    assert_false(core_result(&c, 4096));
    assert_true(core_begin(&c, BLOCK_DISCARD, 4096));
    assert_int_equal(c.call.what, RAW_FALLOCATE);
    assert_true(core_result(&c, 0));
    assert_int_equal(c.call.what, RAW_SYNC);
    assert_false(core_result(&c, 0));
    assert_int_equal(c.q.r.error, 0);
    core_fini(&c);
}

static void zeros_try_a_hole_then_a_range_then_bytes(void **state)
{
    struct core c;

    (void)state;
    core_init(&c);
    c.q.r.unmap = true;
    assert_true(core_begin(&c, BLOCK_WRITE_ZEROES, 4096));
    assert_int_equal(c.call.flags, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    assert_true(core_result(&c, -EOPNOTSUPP));
    assert_int_equal(c.call.flags, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
    assert_true(core_result(&c, -EOPNOTSUPP));
    assert_int_equal(c.call.what, RAW_WRITE);
    assert_true(core_result(&c, 1024));
    assert_int_equal(c.call.offset, 4096 + 1024);
    assert_false(core_result(&c, 3072));
    assert_int_equal(c.q.r.error, 0);
    assert_true(core_begin(&c, BLOCK_WRITE_ZEROES, 4096));
    assert_false(core_result(&c, -ENOSPC));
    assert_int_equal(c.q.r.error, -ENOSPC);
    core_fini(&c);
}

static void a_discard_that_the_host_cannot_do_is_no_error(void **state)
{
    struct core c;

    (void)state;
    core_init(&c);
    assert_true(core_begin(&c, BLOCK_DISCARD, 4096));
    assert_false(core_result(&c, -EOPNOTSUPP));
    assert_int_equal(c.q.r.error, 0);
    core_fini(&c);
}

static void after_a_flush_that_failed_none_succeeds(void **state)
{
    struct core c;

    (void)state;
    core_init(&c);
    assert_true(core_begin(&c, BLOCK_FLUSH, 4096));
    assert_false(core_result(&c, 0));
    assert_int_equal(c.q.r.error, 0);
    assert_true(core_begin(&c, BLOCK_FLUSH, 4096));
    assert_false(core_result(&c, -ENOSPC));
    assert_int_equal(c.q.r.error, -ENOSPC);
    assert_true(core_begin(&c, BLOCK_FLUSH, 4096));
    assert_false(core_result(&c, 0)); /* the host has forgotten what it lost */
    assert_int_equal(c.q.r.error, -EIO);
    core_fini(&c);
}

static void direct_transfers_bounce_only_when_they_must(void **state)
{
    struct core c;
    uint8_t *memory = NULL;

    (void)state;
    core_init(&c);
    c.raw.direct = true;
    assert_int_equal(posix_memalign((void **)&memory, 4096, 8192), 0);
    c.q.r = (struct block_request){.op = BLOCK_READ, .offset = 0, .len = 1024, .iov = c.q.iov, .iov_count = 1};
    c.q.iov[0] = (struct iovec){memory + 512, 1024};
    assert_true(raw_begin(&c.raw, &c.q.r, &c.call));
    assert_ptr_equal(c.call.iov[0].iov_base, memory + 512);
    assert_false(core_result(&c, 1024));
    memset(memory, 0, 8192);
    c.q.r.iov = c.q.iov;
    c.q.r.iov_count = 1;
    c.q.iov[0] = (struct iovec){memory + 513, 1024};
    assert_true(raw_begin(&c.raw, &c.q.r, &c.call));
    assert_int_equal((uintptr_t)c.call.iov[0].iov_base % 512, 0);
    assert_int_equal(c.call.iov[0].iov_len, 1024);
    memset(c.call.iov[0].iov_base, 0x5a, 1024);
    assert_false(core_result(&c, 1024));
    assert_int_equal(memory[512], 0);
    assert_int_equal(memory[513], 0x5a);
    assert_int_equal(memory[513 + 1023], 0x5a);
    assert_int_equal(memory[513 + 1024], 0);
    free(memory);
    core_fini(&c);
}

#define WITH(test, how)                                                                                                                    \
    {                                                                                                                                      \
#test " (" #how ")", test, setup, teardown, (void *)&(how)                                                                         \
    }
#define BOTH(test) WITH(test, uring), WITH(test, threads)
#define ALL(test) BOTH(test), WITH(test, uring_direct), WITH(test, threads_direct)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        ALL(random_requests_at_once_match_the_model),
        BOTH(more_requests_than_the_engine_takes_at_once_are_all_done),
        BOTH(drain_also_waits_for_what_done_submits),
        ALL(what_threads_submit_is_done_even_when_they_end),
        ALL(long_transfers_to_memory_at_odd_addresses_arrive),
        ALL(a_read_behind_the_end_of_a_cut_file_fails),
        BOTH(a_write_without_space_gives_the_hosts_error),
        BOTH(a_read_only_disk_takes_no_change),
        BOTH(zeros_are_written_where_the_host_has_no_call_for_them),
        ALL(a_discard_gives_space_back_and_zeros_without_unmap_do_not),
        cmocka_unit_test(a_short_transfer_goes_on_where_it_stopped),
        cmocka_unit_test(an_interrupted_or_cancelled_call_is_made_again_but_not_for_ever),
        cmocka_unit_test(a_durable_write_is_one_call_and_a_durable_discard_is_followed_by_a_flush),
        cmocka_unit_test(zeros_try_a_hole_then_a_range_then_bytes),
        cmocka_unit_test(a_discard_that_the_host_cannot_do_is_no_error),
        cmocka_unit_test(after_a_flush_that_failed_none_succeeds),
        cmocka_unit_test(direct_transfers_bounce_only_when_they_must),
    };

    if (argc > 1)
        seed = strtoull(argv[1], NULL, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
