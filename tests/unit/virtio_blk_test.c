/* The virtio disk: configuration, cache modes, an image behind it, saved state, statistics. */
#include "virtio_blk_fake.h"

#include "block_image.h"

#define WRITEBACK 32 /* in the configuration */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_configuration_describes_the_disk),
        TEST(features_follow_what_the_disk_can),
        TEST(impossible_options_are_refused_and_the_backend_is_freed),
        TEST(without_flush_every_write_is_durable),
        TEST(the_driver_switches_the_cache_where_it_may),
        TEST(an_image_behind_either_engine_keeps_what_is_written),
        TEST(a_saved_disk_goes_on_where_it_was),
        TEST(requests_are_counted_by_kind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
