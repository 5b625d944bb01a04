/* The virtio disk: every request and what it comes to, many under way, batches, resets meanwhile, cache modes, what a hostile driver asks. */
#include "block_image.h"

#include "block_fake.h"
#include "virtio/blk.h"
#include "virtq_driver.h"

#define RAM MIB(4)
#define QUEUE_SIZE 64
#define AREA KIB(512) /* of each queue */
#define QUEUES 4
#define SECTORS 256
#define V1 BIT(VIRTIO_F_VERSION_1)
#define USUAL (V1 | BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES) | BIT(VIRTIO_BLK_F_CONFIG_WCE))
#define WRITEBACK 32 /* in the configuration */

struct fixture {
    struct mem mem;
    struct loop *loop;
    struct block_fake *fake;
    bool fake_freed;
    struct virtio_device *dev;
    struct virtq_driver d[QUEUES];
    unsigned interrupts[QUEUES], config_interrupts;
    unsigned notices; /* of changed memory */
    gpa_t noticed;
};

/* In the library's place: memory can run out. */
static bool no_memory;

int virtq_chain_init(struct virtq_chain *c, const struct virtq *q)
{
    if (no_memory)
        return -ENOMEM;
    *c = (struct virtq_chain){.capacity = q->state.max_size};
    c->iov = malloc(c->capacity * sizeof(*c->iov));
    c->gpas = malloc(c->capacity * sizeof(*c->gpas));
    assert_true(c->iov && c->gpas);
    return 0;
}

static bool on_interrupt(void *transport, int queue)
{
    struct fixture *f = transport;

    loop_stop(f->loop);
    if (queue < 0)
        f->config_interrupts++;
    else
        f->interrupts[queue]++;
    return false;
}

static void on_code_changed(void *opaque, gpa_t gpa, size_t len)
{
    struct fixture *f = opaque;

    assert_true(len > 0);
    f->notices++;
    f->noticed = gpa;
}

struct disk {
    uint32_t block_size;
    bool read_only, on_loop;
    unsigned queues;
};

static void make(struct fixture *f, const struct disk *disk)
{
    struct virtio_env env = {.mem = &f->mem, .loop = f->loop, .inline_work = !disk->on_loop};
    struct virtio_blk_options o = {.serial = "UMBRA-0123456789-ABC", .queues = disk->queues, .optimal_io = KIB(64)};
    struct err e = {""};

    f->fake = block_fake_new(SECTORS * 512, disk->block_size ? disk->block_size : 512, disk->read_only);
    f->fake->freed = &f->fake_freed;
    f->dev = virtio_blk_new(&env, "blk0", &f->fake->backend, &o, &e);
    if (!f->dev)
        fail_msg("%s", e.text);
    f->dev->interrupt = on_interrupt;
    f->dev->transport = f;
}

static void start(struct fixture *f, uint64_t features)
{
    virtio_set_status(f->dev, 0);
    assert_int_equal(f->dev->state.status, 0);
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    virtio_set_driver_features(f->dev, 0, (uint32_t)features);
    virtio_set_driver_features(f->dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(f->dev, VIRTIO_STATUS_FEATURES_OK);
    assert_true(f->dev->state.status & VIRTIO_STATUS_FEATURES_OK);
    for (unsigned q = 0; q < f->dev->queue_count; q++) {
        driver_init(&f->d[q], &f->mem, KIB(4) + q * AREA, AREA, QUEUE_SIZE, features);
        driver_connect(&f->d[q], &f->dev->queues[q].state);
        assert_int_equal(virtio_enable_queue(f->dev, q), 0);
    }
    virtio_set_status(f->dev, VIRTIO_STATUS_DRIVER_OK);
}

static void start_usual(struct fixture *f)
{
    make(f, &(struct disk){0});
    start(f, USUAL);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    assert_non_null(f);
    assert_int_equal(mem_init(&f->mem, RAM, false, &e), 0);
    f->mem.code_changed = on_code_changed;
    f->mem.code_changed_opaque = f;
    f->loop = loop_new(&e);
    assert_non_null(f->loop);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    if (f->dev) {
        virtio_free(f->dev);
        assert_true(!f->fake || f->fake_freed);
    }
    no_memory = false;
    loop_free(f->loop);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

/* --- the driver's requests --- */

static int ask_on(struct fixture *f, unsigned queue, uint32_t type, uint64_t sector, const void *out, uint32_t out_len, uint32_t in_len)
{
    uint8_t bytes[KIB(8)];
    struct virtio_blk_header header = {.type = type, .sector = sector};
    int token;

    memcpy(bytes, &header, sizeof(header));
    if (out_len)
        memcpy(bytes + sizeof(header), out, out_len);
    token = driver_request(&f->d[queue], bytes, (uint32_t)sizeof(header) + out_len, in_len + 1);
    assert_true(token >= 0);
    return token;
}

static int ask(struct fixture *f, uint32_t type, uint64_t sector, const void *out, uint32_t out_len, uint32_t in_len)
{
    return ask_on(f, 0, type, sector, out, out_len, in_len);
}

static void ring_bell(struct fixture *f, unsigned queue)
{
    if (driver_show(&f->d[queue]))
        virtio_doorbell(f->dev, queue);
}

/* The backend does all that it has, as one batch. */
static void finish_all(struct fixture *f)
{
    while (f->fake->first) {
        for (unsigned n = f->fake->waiting; n; n--)
            block_fake_done(f->fake, 0, 0);
        block_fake_batch_done(f->fake);
    }
}

static int taken(struct fixture *f, unsigned queue)
{
    uint32_t len;

    return driver_take(&f->d[queue], &len);
}

/* The status of a request that must be answered now, and be the only one. */
static uint8_t status_of(struct fixture *f, int token)
{
    uint32_t len;

    assert_int_equal(driver_take(&f->d[0], &len), token);
    assert_int_equal(len, f->d[0].slots[token].in_len);
    return driver_in(&f->d[0], token)[f->d[0].slots[token].in_len - 1];
}

static uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, const void *out, uint32_t out_len, uint32_t in_len)
{
    int token = ask(f, type, sector, out, out_len, in_len);

    ring_bell(f, 0);
    finish_all(f);
    return status_of(f, token);
}

/* The same when the backend fails with that error. */
static uint8_t request_fails(struct fixture *f, uint32_t type, const void *out, uint32_t out_len, uint32_t in_len, int error)
{
    int token = ask(f, type, 8, out, out_len, in_len);

    ring_bell(f, 0);
    assert_int_equal(f->fake->waiting, 1);
    block_fake_done(f->fake, 0, error);
    block_fake_batch_done(f->fake);
    return status_of(f, token);
}

static bool all_bytes(const uint8_t *bytes, uint8_t value, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != value)
            return false;
    return true;
}

/* --- configuration --- */

static void the_configuration_describes_the_disk(void **state)
{
    struct fixture *f = *state;

    make(f, &(struct disk){.queues = QUEUES});
    assert_int_equal(virtio_config_read(f->dev, 0, 8), SECTORS);
    assert_int_equal(virtio_config_read(f->dev, 12, 4), VIRTIO_BLK_QUEUE_SIZE - 2);
    assert_int_equal(virtio_config_read(f->dev, 20, 4), 512);
    assert_int_equal(virtio_config_read(f->dev, 24, 1), 3); /* 4096 */
    assert_int_equal(virtio_config_read(f->dev, 26, 2), 8);
    assert_int_equal(virtio_config_read(f->dev, 28, 4), 128);
    assert_int_equal(virtio_config_read(f->dev, 34, 2), QUEUES);
    assert_int_equal(virtio_config_read(f->dev, 36, 4), VIRTIO_BLK_RANGE_SECTORS_MAX);
    assert_int_equal(virtio_config_read(f->dev, 40, 4), VIRTIO_BLK_RANGES_MAX);
    assert_int_equal(virtio_config_read(f->dev, 44, 4), 8);
    assert_int_equal(virtio_config_read(f->dev, 56, 1), 1);
    assert_int_equal(virtio_config_read(f->dev, 60, 4), 0);
    assert_int_equal(f->dev->queue_count, QUEUES);
}

static void features_follow_what_the_disk_can(void **state)
{
    struct fixture *f = *state;

    make(f, &(struct disk){0});
    assert_true(f->dev->features & BIT(VIRTIO_BLK_F_DISCARD));
    assert_true(f->dev->features & BIT(VIRTIO_BLK_F_FLUSH));
    assert_false(f->dev->features & (BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_MQ)));
    virtio_free(f->dev);
    make(f, &(struct disk){.read_only = true, .queues = 2});
    assert_true(f->dev->features & BIT(VIRTIO_BLK_F_RO));
    assert_true(f->dev->features & BIT(VIRTIO_BLK_F_MQ));
    assert_false(f->dev->features & (BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES)));
}

static void impossible_options_are_refused_and_the_backend_is_freed(void **state)
{
    struct fixture *f = *state;
    struct virtio_env env = {.mem = &f->mem, .loop = f->loop};
    static const struct virtio_blk_options wrong[] = {{.queues = VIRTIO_QUEUES_MAX + 1}, {.physical_block = 256}, {.physical_block = 5000}};
    struct err e = {""};

    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct block_fake *fake = block_fake_new(SECTORS * 512, 512, false);

        f->fake_freed = false;
        fake->freed = &f->fake_freed;
        assert_null(virtio_blk_new(&env, "blk0", &fake->backend, &wrong[i], &e));
        assert_non_null(strstr(e.text, "disk fake: "));
        assert_true(f->fake_freed);
    }
}

/* --- requests --- */

/* In pieces of that size: what is read is what was written. */
static void write_and_read(struct fixture *f, uint32_t piece, uint64_t sector)
{
    uint8_t bytes[1024];
    int token;

    f->d[0].piece = piece;
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7 + sector);
    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, sector, bytes, sizeof(bytes), 0), VIRTIO_BLK_S_OK);
    assert_memory_equal(f->fake->disk + sector * 512, bytes, sizeof(bytes));
    token = ask(f, VIRTIO_BLK_T_IN, sector, NULL, 0, sizeof(bytes));
    ring_bell(f, 0);
    finish_all(f);
    assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
    assert_memory_equal(driver_in(&f->d[0], token), bytes, sizeof(bytes));
}

static void header_data_and_status_may_lie_in_any_segments(void **state)
{
    static const uint32_t pieces[] = {0, 17, 20, 31, 100, 511, 512, 513, 1023, 1024};
    static const uint64_t rings[] = {0, BIT(VIRTIO_F_INDIRECT_DESC), BIT(VIRTIO_F_RING_PACKED),
                                     BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_INDIRECT_DESC)};
    struct fixture *f = *state;

    make(f, &(struct disk){0});
    for (unsigned r = 0; r < ARRAY_SIZE(rings); r++) {
        start(f, USUAL | rings[r]);
        f->d[0].indirect = rings[r] & BIT(VIRTIO_F_INDIRECT_DESC) ? DRIVER_TABLE : DRIVER_DIRECT;
        for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++)
            write_and_read(f, pieces[i], 10 * r + i);
        for (f->d[0].piece = 1; f->d[0].piece < 20; f->d[0].piece++) {
            int token = ask(f, VIRTIO_BLK_T_GET_ID, 0, NULL, 0, 20);

            ring_bell(f, 0);
            assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
            assert_memory_equal(driver_in(&f->d[0], token), "UMBRA-0123456789-ABC", 20);
        }
    }
}

static void the_serial_is_twenty_bytes_padded_with_zeros(void **state)
{
    struct fixture *f = *state;
    int token;

    start_usual(f);
    token = ask(f, VIRTIO_BLK_T_GET_ID, 0, NULL, 0, 30);
    ring_bell(f, 0);
    assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
    assert_memory_equal(driver_in(&f->d[0], token), "UMBRA-0123456789-ABC\0\0\0\0\0\0\0\0\0\0", 30);
    token = ask(f, VIRTIO_BLK_T_GET_ID, 0, NULL, 0, 5);
    ring_bell(f, 0);
    assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
    assert_memory_equal(driver_in(&f->d[0], token), "UMBRA", 5);
}

static void a_flush_goes_to_the_backend_and_its_error_comes_back(void **state)
{
    struct fixture *f = *state;

    start_usual(f);
    assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(f->fake->submissions, 1);
    assert_int_equal(request_fails(f, VIRTIO_BLK_T_FLUSH, NULL, 0, 0, -EIO), VIRTIO_BLK_S_IOERR);
}

static void an_unknown_request_is_unsupported(void **state)
{
    static const uint32_t types[] = {2, 3, 5, 9, 10, 12, 14, 0x80000000U, UINT32_MAX};
    struct fixture *f = *state;

    start_usual(f);
    for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
        assert_int_equal(request(f, types[i], 0, NULL, 0, 512), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(f->fake->submissions, 0);
}

static void what_leaves_the_disk_is_an_error(void **state)
{
    struct fixture *f = *state;
    uint8_t bytes[1024] = {0};

    start_usual(f);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, SECTORS - 1, NULL, 0, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, SECTORS - 1, NULL, 0, 1024), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, SECTORS, NULL, 0, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, SECTORS - 1, bytes, 1024, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, UINT64_MAX, NULL, 0, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, 1ULL << 55, NULL, 0, 512), VIRTIO_BLK_S_IOERR); /* times 512 it is 0 */
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, NULL, 0, 511), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, bytes, 100, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(f->fake->submissions, 1);
}

static void requests_are_of_whole_blocks(void **state)
{
    struct fixture *f = *state;
    uint8_t bytes[4096] = {0};

    make(f, &(struct disk){.block_size = 4096});
    start(f, USUAL);
    assert_int_equal(virtio_config_read(f->dev, 20, 4), 4096);
    assert_int_equal(virtio_config_read(f->dev, 24, 1), 0);
    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 8, bytes, 4096, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 9, bytes, 4096, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 8, bytes, 512, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(f->fake->submissions, 1);
}

static void a_read_only_disk_refuses_writes(void **state)
{
    struct fixture *f = *state;
    uint8_t bytes[512] = {0};

    make(f, &(struct disk){.read_only = true});
    start(f, V1 | BIT(VIRTIO_BLK_F_RO));
    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, bytes, 512, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(f->fake->submissions, 0);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, NULL, 0, 512), VIRTIO_BLK_S_OK);
}

static void a_failed_read_gives_an_error_and_no_old_memory(void **state)
{
    struct fixture *f = *state;
    int token;

    start_usual(f);
    token = ask(f, VIRTIO_BLK_T_IN, 0, NULL, 0, 512);
    ring_bell(f, 0);
    block_fake_done(f->fake, 0, -EIO);
    block_fake_batch_done(f->fake);
    assert_int_equal(status_of(f, token), VIRTIO_BLK_S_IOERR);
    assert_true(all_bytes(driver_in(&f->d[0], token), 0, 512));
}

/* --- discard and write zeroes --- */

static void ranges_are_discarded_one_after_the_other(void **state)
{
    struct virtio_blk_range ranges[] = {{2, 3, 0}, {100, 0, 0}, {10, 1, 0}};
    struct fixture *f = *state;
    int token;

    start_usual(f);
    token = ask(f, VIRTIO_BLK_T_DISCARD, 0, ranges, sizeof(ranges), 0);
    ring_bell(f, 0);
    assert_int_equal(f->fake->waiting, 1);
    assert_int_equal(f->fake->first->op, BLOCK_DISCARD);
    block_fake_done(f->fake, 0, 0);
    assert_int_equal(taken(f, 0), DRIVER_NONE);
    assert_int_equal(f->fake->waiting, 1); /* and not yet flushed: the end of the batch does it */
    assert_int_equal(f->fake->flushed, 0);
    block_fake_batch_done(f->fake);
    assert_int_equal(f->fake->flushed, 1);
    block_fake_done(f->fake, 0, 0);
    block_fake_batch_done(f->fake);
    assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
    assert_int_equal(f->fake->disk[512], 0x41);
    assert_true(all_bytes(f->fake->disk + 1024, 0, 1536));
    assert_int_equal(f->fake->disk[2560], 0x45);
    assert_true(all_bytes(f->fake->disk + 5120, 0, 512));
    assert_int_equal(f->fake->disk[5632], 0x4b);
}

static void the_first_range_that_fails_ends_the_request(void **state)
{
    struct virtio_blk_range ranges[] = {{2, 3, 0}, {10, 1, 0}};
    struct fixture *f = *state;

    start_usual(f);
    assert_int_equal(request_fails(f, VIRTIO_BLK_T_DISCARD, ranges, sizeof(ranges), 0, -EIO), VIRTIO_BLK_S_IOERR);
    assert_int_equal(f->fake->submissions, 1);
}

static void zeros_are_written_with_unmap_as_asked(void **state)
{
    struct virtio_blk_range range = {4, 2, VIRTIO_BLK_WRITE_ZEROES_UNMAP};
    struct fixture *f = *state;
    int token;

    start_usual(f);
    for (unsigned i = 0; i < 2; i++) {
        token = ask(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, &range, sizeof(range), 0);
        ring_bell(f, 0);
        assert_int_equal(f->fake->first->op, BLOCK_WRITE_ZEROES);
        assert_int_equal(f->fake->first->unmap, range.flags);
        finish_all(f);
        assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
        assert_true(all_bytes(f->fake->disk + 2048, 0, 1024));
        range.flags = 0;
    }
}

static void wrong_ranges_are_refused_before_anything_is_done(void **state)
{
    struct fixture *f = *state;
    struct virtio_blk_range many[VIRTIO_BLK_RANGES_MAX + 1] = {{0, 1, 0}};
    static const struct {
        struct virtio_blk_range range;
        uint8_t discard, zeroes;
    } rows[] = {
        {{0, 1, 1}, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_S_OK},
        {{0, 1, 2}, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_S_UNSUPP},
        {{SECTORS - 1, 2, 0}, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {{UINT64_MAX, 1, 0}, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {{0, VIRTIO_BLK_RANGE_SECTORS_MAX + 1, 0}, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
        {{0, UINT32_MAX, 0}, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_IOERR},
    };

    start_usual(f);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct virtio_blk_range two[2] = {{8, 1, 0}, rows[i].range};

        f->fake->submissions = 0;
        assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, two, sizeof(two), 0), rows[i].discard);
        assert_int_equal(f->fake->submissions, 0);
        assert_int_equal(request(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, two, sizeof(two), 0), rows[i].zeroes);
        assert_int_equal(f->fake->submissions, rows[i].zeroes == VIRTIO_BLK_S_OK ? 2 : 0);
    }
    f->fake->submissions = 0;
    assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, many, sizeof(many), 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, many, 15, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, many, 0, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(f->fake->submissions, 0);
}

static void what_was_not_agreed_on_is_unsupported(void **state)
{
    struct virtio_blk_range range = {0, 1, 0};
    struct fixture *f = *state;

    make(f, &(struct disk){0});
    start(f, V1);
    assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, &range, sizeof(range), 0), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(request(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, &range, sizeof(range), 0), VIRTIO_BLK_S_UNSUPP);
}

/* --- durability --- */

static bool write_is_durable(struct fixture *f)
{
    uint8_t bytes[512] = {0};
    int token = ask(f, VIRTIO_BLK_T_OUT, 0, bytes, sizeof(bytes), 0);
    bool durable;

    ring_bell(f, 0);
    assert_non_null(f->fake->first);
    durable = f->fake->first->durable;
    finish_all(f);
    assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
    return durable;
}

static void without_flush_every_write_is_durable(void **state)
{
    struct fixture *f = *state;

    make(f, &(struct disk){0});
    start(f, V1);
    assert_true(write_is_durable(f));
    assert_int_equal(virtio_config_read(f->dev, WRITEBACK, 1), 0);
    start(f, V1 | BIT(VIRTIO_BLK_F_FLUSH));
    assert_false(write_is_durable(f));
    assert_int_equal(virtio_config_read(f->dev, WRITEBACK, 1), 1);
    start(f, V1 | BIT(VIRTIO_BLK_F_CONFIG_WCE));
    assert_true(write_is_durable(f));
}

static void the_driver_switches_the_cache_where_it_may(void **state)
{
    struct fixture *f = *state;

    start_usual(f);
    assert_false(write_is_durable(f));
    virtio_config_write(f->dev, WRITEBACK, 1, 0);
    assert_int_equal(virtio_config_read(f->dev, WRITEBACK, 1), 0);
    assert_true(write_is_durable(f));
    virtio_config_write(f->dev, WRITEBACK, 1, 2); /* is no mode */
    virtio_config_write(f->dev, WRITEBACK, 4, 1);
    virtio_config_write(f->dev, 0, 1, 1);
    assert_true(write_is_durable(f));
    assert_int_equal(virtio_config_read(f->dev, 0, 8), SECTORS);
    virtio_config_write(f->dev, WRITEBACK, 1, 1);
    assert_false(write_is_durable(f));
    virtio_config_write(f->dev, WRITEBACK, 1, 0);
    start(f, V1 | BIT(VIRTIO_BLK_F_FLUSH)); /* a reset forgets it */
    assert_false(write_is_durable(f));
    virtio_config_write(f->dev, WRITEBACK, 1, 0); /* not agreed on */
    assert_false(write_is_durable(f));
}

/* --- many at once --- */

static void many_are_under_way_and_are_answered_as_they_are_done(void **state)
{
    struct fixture *f = *state;
    int tokens[20];

    start_usual(f);
    for (unsigned i = 0; i < 20; i++)
        tokens[i] = ask(f, VIRTIO_BLK_T_IN, i, NULL, 0, 512);
    ring_bell(f, 0);
    assert_int_equal(f->fake->waiting, 20);
    assert_int_equal(f->fake->flushed, 20);
    for (unsigned i = 20; i-- > 0;) { /* the last first */
        block_fake_done(f->fake, i, 0);
        assert_int_equal(taken(f, 0), DRIVER_NONE); /* not before the batch is done */
        block_fake_batch_done(f->fake);
        assert_int_equal(taken(f, 0), tokens[i]);
        assert_true(all_bytes(driver_in(&f->d[0], tokens[i]), (uint8_t)(0x40 + i), 512));
    }
}

static void a_batch_is_one_interrupt_per_queue(void **state)
{
    struct fixture *f = *state;

    make(f, &(struct disk){.queues = QUEUES});
    start(f, USUAL | BIT(VIRTIO_BLK_F_MQ));
    for (unsigned q = 0; q < QUEUES; q++) {
        for (unsigned i = 0; i < 5; i++)
            ask_on(f, q, VIRTIO_BLK_T_IN, i, NULL, 0, 512);
        ring_bell(f, q);
    }
    assert_int_equal(f->fake->waiting, 5 * QUEUES);
    for (unsigned i = 0; i < 5 * QUEUES; i++)
        block_fake_done(f->fake, 0, 0);
    block_fake_batch_done(f->fake);
    for (unsigned q = 0; q < QUEUES; q++) {
        assert_int_equal(f->interrupts[q], 1);
        for (unsigned i = 0; i < 5; i++)
            assert_true(taken(f, q) >= 0);
        assert_int_equal(taken(f, q), DRIVER_NONE);
    }
}

static void what_comes_while_the_queue_is_run_is_run_too(void **state)
{
    struct fixture *f = *state;

    make(f, &(struct disk){0});
    for (unsigned packed = 0; packed < 2; packed++) {
        start(f, USUAL | BIT(VIRTIO_F_EVENT_IDX) | (packed ? BIT(VIRTIO_F_RING_PACKED) : 0));
        for (unsigned i = 0; i < 300; i++) {
            ask(f, VIRTIO_BLK_T_IN, i % SECTORS, NULL, 0, 512);
            ring_bell(f, 0); /* only when the device wants it */
            if (i % 3 == 0)
                finish_all(f);
            while (taken(f, 0) >= 0)
                continue;
        }
        finish_all(f);
        while (taken(f, 0) >= 0)
            continue;
        assert_int_equal(f->d[0].out, 0);
    }
}

static void the_loop_does_the_work_when_it_is_not_inline(void **state)
{
    struct fixture *f = *state;
    int token;

    make(f, &(struct disk){.on_loop = true});
    start(f, USUAL);
    token = ask(f, VIRTIO_BLK_T_GET_ID, 0, NULL, 0, 20);
    ring_bell(f, 0);
    assert_int_equal(taken(f, 0), DRIVER_NONE);
    loop_post(f->loop, (void (*)(void *))loop_stop, f->loop);
    assert_int_equal(loop_run(f->loop), 0);
    if (f->d[0].out) { /* the post came first */
        loop_post(f->loop, (void (*)(void *))loop_stop, f->loop);
        assert_int_equal(loop_run(f->loop), 0);
    }
    assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
}

static void without_memory_for_more_at_once_requests_wait_for_their_turn(void **state)
{
    struct fixture *f = *state;
    int tokens[2][3];

    make(f, &(struct disk){.queues = 2});
    start(f, USUAL | BIT(VIRTIO_BLK_F_MQ));
    no_memory = true; /* but for the one that there is from the start */
    for (unsigned q = 0; q < 2; q++) {
        for (unsigned i = 0; i < 3; i++)
            tokens[q][i] = ask_on(f, q, VIRTIO_BLK_T_IN, i, NULL, 0, 512);
        ring_bell(f, q);
    }
    for (unsigned n = 0; n < 6; n++) {
        assert_int_equal(f->fake->waiting, 1);
        assert_int_equal(f->fake->flushed, 1);
        block_fake_done(f->fake, 0, 0);
        block_fake_batch_done(f->fake);
    }
    for (unsigned q = 0; q < 2; q++)
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(taken(f, q), tokens[q][i]);
}

static void a_disk_that_has_no_memory_at_all_is_not_made(void **state)
{
    struct fixture *f = *state;
    struct virtio_env env = {.mem = &f->mem, .loop = f->loop};
    struct block_fake *fake = block_fake_new(SECTORS * 512, 512, false);
    struct err e = {""};

    fake->freed = &f->fake_freed;
    no_memory = true;
    assert_null(virtio_blk_new(&env, "blk0", &fake->backend, &(struct virtio_blk_options){.queues = 1}, &e));
    assert_non_null(strstr(e.text, "no memory"));
    assert_true(f->fake_freed);
}

/* --- with a real backend --- */

static void make_with_image(struct fixture *f, const char *path, int engine)
{
    struct block_options bo = {.path = path, .engine = engine};
    struct virtio_env env = {.mem = &f->mem, .loop = f->loop};
    struct virtio_blk_options o = {.queues = 1};
    struct err e = {""};
    struct block_backend *b = block_open(&bo, f->loop, &e);

    if (!b)
        fail_msg("%s", e.text);
    f->dev = virtio_blk_new(&env, "blk0", b, &o, &e);
    if (!f->dev)
        fail_msg("%s", e.text);
    f->dev->interrupt = on_interrupt;
    f->dev->transport = f;
}

static void do_on_loop(struct fixture *f, uint32_t type, uint64_t sector, const void *out, uint32_t out_len, uint32_t in_len, uint8_t *in)
{
    int token = ask(f, type, sector, out, out_len, in_len);

    ring_bell(f, 0);
    while (!driver_has_used(&f->d[0]))
        assert_int_equal(loop_run(f->loop), 0);
    assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
    if (in_len)
        memcpy(in, driver_in(&f->d[0], token), in_len);
}

static void an_image_behind_either_engine_keeps_what_is_written(void **state)
{
    static const int engines[] = {BLOCK_ENGINE_AUTO, BLOCK_ENGINE_THREADS};
    struct fixture *f = *state;
    uint8_t bytes[1024], back[1024];

    image_dir_make();
    for (unsigned i = 0; i < ARRAY_SIZE(engines); i++) {
        make_with_image(f, image_make("disk", MIB(1)), engines[i]);
        start(f, USUAL);
        for (unsigned k = 0; k < 20; k++) {
            memset(bytes, (int)(k + 1), sizeof(bytes));
            do_on_loop(f, VIRTIO_BLK_T_OUT, 4ULL * k, bytes, sizeof(bytes), 0, NULL);
        }
        do_on_loop(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, 0, NULL);
        for (unsigned k = 0; k < 20; k++) {
            do_on_loop(f, VIRTIO_BLK_T_IN, 4ULL * k, NULL, 0, sizeof(back), back);
            assert_true(all_bytes(back, (uint8_t)(k + 1), sizeof(back)));
            image_read(image_path("disk"), 2048ULL * k, back, sizeof(back));
            assert_true(all_bytes(back, (uint8_t)(k + 1), sizeof(back)));
        }
        virtio_free(f->dev);
        f->dev = NULL;
    }
    image_dir_remove();
}

/* --- resets --- */

static void a_reset_is_not_finished_while_a_read_can_write_to_memory(void **state)
{
    struct fixture *f = *state;
    gpa_t answer;
    int token;

    start_usual(f);
    token = ask(f, VIRTIO_BLK_T_IN, 3, NULL, 0, 512);
    answer = driver_area(&f->d[0], token) + f->d[0].slots[token].in_off;
    ring_bell(f, 0);
    virtio_set_status(f->dev, 0);
    assert_int_not_equal(f->dev->state.status, 0);
    f->notices = 0;
    block_fake_done(f->fake, 0, 0);
    assert_int_equal(f->dev->state.status, 0);
    assert_int_equal(f->notices, 1); /* the engine is told of what changed, though nobody is answered */
    assert_int_equal(f->noticed, answer);
    block_fake_batch_done(f->fake);
    assert_int_equal(taken(f, 0), DRIVER_NONE);
    assert_int_equal(f->interrupts[0], 0);
    start(f, USUAL);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, NULL, 0, 512), VIRTIO_BLK_S_OK);
}

static void a_reset_ends_a_request_of_several_ranges_after_the_one_under_way(void **state)
{
    struct virtio_blk_range ranges[] = {{2, 3, 0}, {10, 1, 0}};
    struct fixture *f = *state;

    start_usual(f);
    ask(f, VIRTIO_BLK_T_DISCARD, 0, ranges, sizeof(ranges), 0);
    ring_bell(f, 0);
    virtio_set_status(f->dev, 0);
    block_fake_done(f->fake, 0, 0);
    assert_int_equal(f->fake->waiting, 0);
    assert_int_equal(f->dev->state.status, 0);
}

static void a_queue_reset_leaves_the_other_queues_requests_alone(void **state)
{
    struct fixture *f = *state;
    int token;

    make(f, &(struct disk){.queues = 2});
    start(f, USUAL | BIT(VIRTIO_BLK_F_MQ) | BIT(VIRTIO_F_RING_RESET));
    ask_on(f, 1, VIRTIO_BLK_T_IN, 1, NULL, 0, 512);
    ring_bell(f, 1);
    token = ask(f, VIRTIO_BLK_T_IN, 0, NULL, 0, 512);
    ring_bell(f, 0);
    virtio_reset_queue(f->dev, 1);
    assert_true(f->dev->kicks[1].reset_under_way);
    block_fake_done(f->fake, 1, 0);
    assert_true(f->dev->kicks[1].reset_under_way);
    block_fake_done(f->fake, 0, 0);
    assert_false(f->dev->kicks[1].reset_under_way);
    block_fake_batch_done(f->fake);
    assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
    assert_int_equal(taken(f, 1), DRIVER_NONE);
    driver_init(&f->d[1], &f->mem, KIB(4) + AREA, AREA, QUEUE_SIZE, USUAL);
    driver_connect(&f->d[1], &f->dev->queues[1].state);
    assert_int_equal(virtio_enable_queue(f->dev, 1), 0);
    token = ask_on(f, 1, VIRTIO_BLK_T_IN, 1, NULL, 0, 512);
    ring_bell(f, 1);
    finish_all(f);
    assert_int_equal(taken(f, 1), token);
}

static void freeing_waits_for_what_is_under_way(void **state)
{
    struct fixture *f = *state;

    start_usual(f);
    for (unsigned i = 0; i < 10; i++)
        ask(f, VIRTIO_BLK_T_IN, i, NULL, 0, 512);
    ring_bell(f, 0);
    assert_int_equal(f->fake->waiting, 10);
    virtio_free(f->dev);
    f->dev = NULL;
    assert_true(f->fake_freed);
}

/* --- a driver that breaks the rules --- */

static void a_request_without_room_for_a_status_needs_a_reset(void **state)
{
    struct fixture *f = *state;
    struct virtio_blk_header header = {.type = VIRTIO_BLK_T_IN};
    struct virtq_segment seg = {KIB(4) + AREA - 64, sizeof(header)};

    start_usual(f);
    ask(f, VIRTIO_BLK_T_IN, 0, NULL, 0, 512);
    ring_bell(f, 0);
    assert_int_equal(mem_write(&f->mem, seg.gpa, &header, sizeof(header)), 0);
    assert_true(driver_add(&f->d[0], &seg, 1, 0) >= 0);
    ring_bell(f, 0);
    assert_true(f->dev->state.status & VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->config_interrupts, 1);
    /* Neither this nor what was under way is left behind: it can be saved, and reset. */
    finish_all(f);
    assert_int_equal(f->dev->queues[0].in_use, 0);
    start(f, USUAL);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, NULL, 0, 512), VIRTIO_BLK_S_OK);
}

static void a_request_with_a_short_header_is_an_error(void **state)
{
    struct fixture *f = *state;
    int token;

    start_usual(f);
    for (uint32_t len = 0; len < sizeof(struct virtio_blk_header); len += 5) {
        uint8_t zeros[16] = {0};

        token = driver_request(&f->d[0], zeros, len, 513);
        assert_true(token >= 0);
        ring_bell(f, 0);
        assert_int_equal(status_of(f, token), VIRTIO_BLK_S_IOERR);
    }
    assert_int_equal(f->fake->submissions, 0);
}

/* --- saved state --- */

static void a_saved_disk_goes_on_where_it_was(void **state)
{
    struct fixture *f = *state;
    struct virtio_device *first;
    struct state_writer w;
    struct state_reader r;
    struct err e = {""};
    int token;

    start_usual(f);
    virtio_config_write(f->dev, WRITEBACK, 1, 0);
    token = ask(f, VIRTIO_BLK_T_IN, 5, NULL, 0, 512);
    ring_bell(f, 0);
    virtio_drain(f->dev);
    assert_int_equal(f->fake->waiting, 0);
    assert_int_equal(status_of(f, token), VIRTIO_BLK_S_OK);
    state_writer_init(&w);
    assert_int_equal(virtio_save(f->dev, &w), 0);
    first = f->dev;
    make(f, &(struct disk){0});
    virtio_free(first);
    state_reader_init(&r, w.data, w.len);
    if (virtio_load(f->dev, &r, &e))
        fail_msg("%s", e.text);
    state_writer_fini(&w);
    assert_int_equal(virtio_config_read(f->dev, WRITEBACK, 1), 0);
    assert_true(write_is_durable(f));
}

static uint64_t counted;
static const char *counted_name;

static void on_number(struct stats_out *out, const char *group, const char *name, uint64_t value)
{
    (void)out;
    assert_string_equal(group, "blk0");
    if (strcmp(name, counted_name) == 0)
        counted = value;
}

static void requests_are_counted_by_kind(void **state)
{
    static const struct {
        const char *name;
        uint64_t count;
    } rows[] = {{"reads", 2}, {"writes", 1}, {"flushes", 3}, {"discards", 1}, {"writes of zeros", 1}, {"errors", 1}};
    struct virtio_blk_range range = {0, 1, 0};
    struct fixture *f = *state;
    struct stats_out out = {.number = on_number};
    uint8_t bytes[512] = {0};

    start_usual(f);
    request(f, VIRTIO_BLK_T_IN, 0, NULL, 0, 512);
    request(f, VIRTIO_BLK_T_IN, SECTORS, NULL, 0, 512);
    request(f, VIRTIO_BLK_T_OUT, 0, bytes, 512, 0);
    for (unsigned i = 0; i < 3; i++)
        request(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, 0);
    request(f, VIRTIO_BLK_T_DISCARD, 0, &range, sizeof(range), 0);
    request(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, &range, sizeof(range), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        counted_name = rows[i].name;
        counted = UINT64_MAX;
        virtio_stats(f->dev, &out);
        assert_int_equal(counted, rows[i].count);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_configuration_describes_the_disk),
        TEST(features_follow_what_the_disk_can),
        TEST(impossible_options_are_refused_and_the_backend_is_freed),
        TEST(header_data_and_status_may_lie_in_any_segments),
        TEST(the_serial_is_twenty_bytes_padded_with_zeros),
        TEST(a_flush_goes_to_the_backend_and_its_error_comes_back),
        TEST(an_unknown_request_is_unsupported),
        TEST(what_leaves_the_disk_is_an_error),
        TEST(requests_are_of_whole_blocks),
        TEST(a_read_only_disk_refuses_writes),
        TEST(a_failed_read_gives_an_error_and_no_old_memory),
        TEST(ranges_are_discarded_one_after_the_other),
        TEST(the_first_range_that_fails_ends_the_request),
        TEST(zeros_are_written_with_unmap_as_asked),
        TEST(wrong_ranges_are_refused_before_anything_is_done),
        TEST(what_was_not_agreed_on_is_unsupported),
        TEST(without_flush_every_write_is_durable),
        TEST(the_driver_switches_the_cache_where_it_may),
        TEST(many_are_under_way_and_are_answered_as_they_are_done),
        TEST(a_batch_is_one_interrupt_per_queue),
        TEST(what_comes_while_the_queue_is_run_is_run_too),
        TEST(the_loop_does_the_work_when_it_is_not_inline),
        TEST(without_memory_for_more_at_once_requests_wait_for_their_turn),
        TEST(a_disk_that_has_no_memory_at_all_is_not_made),
        TEST(an_image_behind_either_engine_keeps_what_is_written),
        TEST(a_reset_is_not_finished_while_a_read_can_write_to_memory),
        TEST(a_reset_ends_a_request_of_several_ranges_after_the_one_under_way),
        TEST(a_queue_reset_leaves_the_other_queues_requests_alone),
        TEST(freeing_waits_for_what_is_under_way),
        TEST(a_request_without_room_for_a_status_needs_a_reset),
        TEST(a_request_with_a_short_header_is_an_error),
        TEST(a_saved_disk_goes_on_where_it_was),
        TEST(requests_are_counted_by_kind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
