/* The virtio disk: every request and what it comes to, and what a hostile driver asks. */
#include "virtio_blk_fake.h"

/* --- requests --- */

/* The answer when the backend fails with that error. */
static uint8_t request_fails(struct fixture *f, uint32_t type, const void *out, uint32_t out_len, uint32_t in_len, int error)
{
    int token = ask(f, type, 8, out, out_len, in_len);

    ring_bell(f, 0);
    assert_int_equal(f->fake->waiting, 1);
    block_fake_done(f->fake, 0, error);
    block_fake_batch_done(f->fake);
    return status_of(f, token);
}

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

/* A driver may offer gigabytes of room for it. */
static void an_answer_without_data_zeroes_no_more_than_it_says(void **state)
{
    struct virtio_blk_header header = {.type = 9};
    const struct virtq_segment segs[] = {
        {KIB(4) + AREA - 64, sizeof(header)}, {KIB(4) + 3 * AREA + KIB(256), KIB(80)}, {KIB(4) + AREA - 32, 1}};
    struct fixture *f = *state;
    uint8_t bytes[KIB(80)], status;
    uint32_t len;

    start_usual(f);
    memset(bytes, 0x55, sizeof(bytes));
    assert_int_equal(mem_write(&f->mem, segs[0].gpa, &header, sizeof(header)), 0);
    assert_int_equal(mem_write(&f->mem, segs[1].gpa, bytes, sizeof(bytes)), 0);
    int token = driver_add(&f->d[0], segs, 1, 2);
    assert_true(token >= 0);
    ring_bell(f, 0);
    assert_int_equal(driver_take(&f->d[0], &len), token);
    assert_int_equal(len, KIB(64));
    assert_int_equal(mem_read(&f->mem, segs[1].gpa, bytes, sizeof(bytes)), 0);
    assert_int_equal(bytes[len - 1], 0);
    assert_int_equal(bytes[len], 0x55);
    assert_int_equal(mem_read(&f->mem, segs[2].gpa, &status, 1), 0);
    assert_int_equal(status, VIRTIO_BLK_S_UNSUPP);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(header_data_and_status_may_lie_in_any_segments),
        TEST(the_serial_is_twenty_bytes_padded_with_zeros),
        TEST(a_flush_goes_to_the_backend_and_its_error_comes_back),
        TEST(an_unknown_request_is_unsupported),
        TEST(an_answer_without_data_zeroes_no_more_than_it_says),
        TEST(what_leaves_the_disk_is_an_error),
        TEST(requests_are_of_whole_blocks),
        TEST(a_read_only_disk_refuses_writes),
        TEST(a_failed_read_gives_an_error_and_no_old_memory),
        TEST(ranges_are_discarded_one_after_the_other),
        TEST(the_first_range_that_fails_ends_the_request),
        TEST(zeros_are_written_with_unmap_as_asked),
        TEST(wrong_ranges_are_refused_before_anything_is_done),
        TEST(what_was_not_agreed_on_is_unsupported),
        TEST(a_request_without_room_for_a_status_needs_a_reset),
        TEST(a_request_with_a_short_header_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
