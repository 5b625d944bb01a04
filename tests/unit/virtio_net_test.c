/* The virtio network device: features, frames both ways, and the buffers that are there for them or not. */
#include "virtio_net_fake.h"

/* --- features and configuration --- */

static void it_offers_what_its_backend_can(void **state)
{
    struct fixture *f = *state;
    struct recorder *r;
    struct virtio_device *plain;

    assert_int_equal(f->dev->features & (USUAL | OFFLOADS | F(MTU) | F(SPEED_DUPLEX)), USUAL | OFFLOADS | F(MTU) | F(SPEED_DUPLEX));
    assert_int_equal(f->dev->features & (F(HOST_UFO) | F(GUEST_UFO) | F(MQ) | F(CTRL_VLAN) | F(GUEST_ANNOUNCE) | F(RSS)), 0);
    plain = make_device(f, 0, &r);
    assert_int_equal(plain->features & OFFLOADS, 0);
    virtio_free(plain);
    plain = make_device(f, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4, &r);
    assert_int_equal(plain->features & OFFLOADS, F(CSUM) | F(GUEST_CSUM) | F(HOST_TSO4) | F(GUEST_TSO4) | F(CTRL_GUEST_OFFLOADS));
    backend_freed = false;
    virtio_free(plain);
    assert_true(backend_freed);
}

static void the_configuration_has_address_link_mtu_and_speed(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(virtio_config_read(f->dev, i, 1), mac[i]);
    assert_int_equal(virtio_config_read(f->dev, offsetof(struct virtio_net_config, status), 2), VIRTIO_NET_S_LINK_UP);
    assert_int_equal(virtio_config_read(f->dev, offsetof(struct virtio_net_config, mtu), 2), 9000);
    assert_int_equal(virtio_config_read(f->dev, offsetof(struct virtio_net_config, speed), 4), 10000);
    assert_int_equal(virtio_config_read(f->dev, offsetof(struct virtio_net_config, duplex), 1), 1);
    virtio_config_write(f->dev, 0, 4, 0);
    assert_int_equal(virtio_config_read(f->dev, 0, 4), 0x12005452);
}

static void the_backend_is_told_what_the_driver_takes(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL | F(GUEST_CSUM) | F(GUEST_TSO4));
    assert_int_equal(f->backend->offloads, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4);
    virtio_set_status(f->dev, 0);
    assert_int_equal(f->backend->offloads, 0);
    start_driver(f, USUAL | F(GUEST_TSO4)); /* forbidden without checksums */
    assert_int_equal(f->backend->offloads, 0);
}

/* --- receiving --- */

static void a_frame_lands_in_a_buffer_behind_its_header(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL);
    buffers(f, 4, 1600);
    put_frame(f, 60, 1);
    put_frame(f, 1514, 2);
    put_frame(f, 1588, 3); /* exactly */
    wire(f);
    assert_int_equal(f->interrupts[RX], 1); /* for all of them */
    assert_gets(f, 60, 1, 1);
    assert_gets(f, 1514, 2, 1);
    assert_gets(f, 1588, 3, 1);
    assert_gets_nothing(f);
    assert_true(f->backend->reading);
}

static void a_large_frame_is_spread_over_buffers_that_appear_together(void **state)
{
    static const uint64_t formats[] = {0, EVENT_IDX, PACKED, PACKED | EVENT_IDX};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        start_driver(f, USUAL | BIT(VIRTIO_F_INDIRECT_DESC) | formats[i]);
        f->queues[RX].piece = 700; /* chains of several segments */
        f->queues[RX].indirect = DRIVER_TABLE;
        buffers(f, 50, 1536);
        put_frame(f, 65550, i);
        put_frame(f, 1525, i + 10); /* a byte too large for one */
        put_frame(f, 14, i + 20);
        wire(f);
        assert_gets(f, 65550, i, 43);
        assert_gets(f, 1525, i + 10, 2);
        assert_gets(f, 14, i + 20, 1);
        assert_gets_nothing(f);
        virtio_set_status(f->dev, 0);
    }
}

static void without_buffers_the_backend_is_not_read(void **state)
{
    static const uint64_t formats[] = {0, EVENT_IDX, PACKED, PACKED | EVENT_IDX};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        start_driver(f, USUAL | formats[i]);
        assert_true(f->backend->reading); /* it notices when a frame comes */
        for (unsigned n = 0; n < 5; n++)
            put_frame(f, 100, n);
        wire(f);
        assert_false(f->backend->reading);
        assert_int_equal(f->backend->waiting_count, 4); /* one is in the device */
        f->doorbells[RX] = 0;
        buffers(f, 2, 1536);
        assert_int_equal(f->doorbells[RX], 1);
        assert_gets(f, 100, 0, 1);
        assert_gets(f, 100, 1, 1);
        assert_gets_nothing(f);
        assert_false(f->backend->reading);
        buffers(f, 10, 1536);
        assert_int_equal(f->doorbells[RX], 2);
        for (unsigned n = 2; n < 5; n++)
            assert_gets(f, 100, n, 1);
        assert_true(f->backend->reading);
        buffers(f, 10, 1536);
        if (!(formats[i] & EVENT_IDX))
            assert_int_equal(f->doorbells[RX], 2); /* while it has buffers it needs no kicks */
        virtio_set_status(f->dev, 0);
        assert_false(f->backend->reading);
    }
}

/* The chains that were taken for it must not be lost, nor the kick that brings the rest. */
static void a_frame_waits_for_the_rest_of_its_buffers(void **state)
{
    static const uint64_t formats[] = {0, EVENT_IDX, PACKED, PACKED | EVENT_IDX};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        start_driver(f, USUAL | formats[i]);
        buffers(f, 3, 1000);
        put_frame(f, 4500, 1);
        put_frame(f, 50, 2);
        wire(f);
        assert_gets_nothing(f);
        buffers(f, 1, 1000);
        assert_gets_nothing(f);
        buffers(f, 1, 1000);
        assert_gets(f, 4500, 1, 5);
        buffers(f, 1, 1000);
        assert_gets(f, 50, 2, 1);
        assert_true(f->backend->reading || f->backend->waiting_count == 0);
        virtio_set_status(f->dev, 0);
    }
}

static void a_frame_too_large_for_unmerged_buffers_is_lost(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL & ~F(MRG_RXBUF));
    buffers(f, 1, 1526);
    put_frame(f, 1515, 1);
    put_frame(f, 1514, 2);
    wire(f);
    assert_gets(f, 1514, 2, 1);
    assert_gets_nothing(f);
}

static void a_frame_that_wants_more_buffers_than_anyone_gives_is_lost(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL);
    buffers(f, ENTRIES, 100);
    put_frame(f, 64 * 100, 1);
    wire(f);
    put_frame(f, 50, 2);
    put_frame(f, 150, 3);
    wire(f);
    assert_gets(f, 50, 2, 1);
    assert_gets(f, 150, 3, 2);
    assert_gets_nothing(f);
}

static void headers_that_the_driver_does_not_take_never_come(void **state)
{
    static const struct virtio_net_hdr_v1 segments = {.flags = 1, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1400},
                                          valid = {.flags = VIRTIO_NET_HDR_F_DATA_VALID}, partial = {.flags = 1, .csum_start = 34};
    struct fixture *f = *state;
    struct virtio_net_hdr_v1 header;
    uint8_t data[2048];
    size_t len;

    start_driver(f, USUAL);
    buffers(f, 8, 1536);
    put_frame_to(f, mac, 100, 1, segments);
    put_frame_to(f, mac, 100, 2, partial);
    put_frame_to(f, mac, 100, 3, valid);
    wire(f);
    assert_int_equal(take_frame(f, &header, data, &len), 1);
    assert_int_equal(data[50], pattern(3, 50));
    assert_int_equal(header.flags, 0);
    assert_gets_nothing(f);
    virtio_set_status(f->dev, 0);

    start_driver(f, USUAL | F(GUEST_CSUM) | F(GUEST_TSO4));
    buffers(f, 8, 1536);
    put_frame_to(f, mac, 100, 1, segments);
    put_frame_to(f, mac, 100, 3, valid);
    wire(f);
    assert_int_equal(take_frame(f, &header, data, &len), 1);
    assert_int_equal(header.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
    assert_int_equal(header.gso_size, 1400);
    assert_int_equal(take_frame(f, &header, data, &len), 1);
    assert_int_equal(header.flags, VIRTIO_NET_HDR_F_DATA_VALID);
}

static void what_is_no_frame_is_lost(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL);
    buffers(f, 8, 1536);
    put_frame(f, 13, 1);
    put_frame(f, 0, 1);
    put_frame(f, 14, 2);
    wire(f);
    assert_gets(f, 14, 2, 1);
    assert_gets_nothing(f);
}

static void a_buffer_without_room_for_a_header_needs_a_reset(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL);
    buffers(f, 8, 11);
    put_frame(f, 60, 1);
    wire(f);
    assert_true(f->dev->state.status & VIRTIO_STATUS_NEEDS_RESET);
    assert_false(f->backend->reading);
    assert_int_equal(f->interrupts[QUEUES], 1);
    virtio_set_status(f->dev, 0);
    start_driver(f, USUAL);
    buffers(f, 8, 1536);
    put_frame(f, 70, 2);
    wire(f);
    assert_gets(f, 70, 2, 1);
}

/* --- sending --- */

static void frames_go_out_without_their_headers(void **state)
{
    static const uint64_t formats[] = {0, EVENT_IDX, PACKED, PACKED | EVENT_IDX};
    struct fixture *f = *state;
    unsigned nth = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        start_driver(f, USUAL | formats[i]);
        for (unsigned piece = 0; piece < 40; piece += 5) { /* headers in one segment with the frame, alone, cut in two */
            f->queues[TX].piece = piece;
            send_frame(f, 60 + piece, piece);
            show(f, TX);
            assert_sent(f, nth++, 60 + piece, piece);
            assert_int_equal(take_all(f, TX), 1);
        }
        virtio_set_status(f->dev, 0);
    }
}

static void many_frames_are_one_batch(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL);
    for (unsigned i = 0; i < ENTRIES; i++)
        send_frame(f, 60 + i, i);
    show(f, TX);
    assert_int_equal(f->backend->sent_count, ENTRIES);
    assert_int_equal(f->backend->flushes, 1);
    assert_int_equal(f->interrupts[TX], 1);
    assert_int_equal(take_all(f, TX), ENTRIES);
    send_frame(f, 60, 1);
    show(f, TX);
    assert_int_equal(f->doorbells[TX], 2); /* kicks are wanted again */
    assert_int_equal(f->backend->sent_count, ENTRIES + 1);
}

static void what_an_answer_brings_is_read_at_once(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL);
    buffers(f, 8, 1536);
    f->backend->answers = true;
    put_frame(f, 60, 9);
    send_frame(f, 60, 1);
    show(f, TX);
    assert_gets(f, 60, 9, 1);
}

static void a_backend_that_is_not_ready_gets_the_frames_later_and_in_order(void **state)
{
    static const uint64_t formats[] = {0, EVENT_IDX, PACKED, PACKED | EVENT_IDX};
    struct fixture *f = *state;
    unsigned nth = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        start_driver(f, USUAL | formats[i]);
        f->backend->send_result = -EAGAIN;
        f->queues[TX].piece = 30;
        for (unsigned n = 0; n < 4; n++) {
            send_frame(f, 100, n);
            show(f, TX);
        }
        assert_int_equal(take_all(f, TX), 0);
        f->backend->send_result = 0;
        send_frame(f, 100, 4);
        virtio_doorbell(f->dev, TX); /* says nothing about the backend */
        assert_int_equal(f->backend->sent_count, nth);
        f->backend->base.writable(f->backend->base.opaque);
        for (unsigned n = 0; n < 4; n++)
            assert_sent(f, nth++, 100, n);
        show(f, TX);
        assert_sent(f, nth++, 100, 4);
        assert_int_equal(take_all(f, TX), 5);
        virtio_set_status(f->dev, 0);
    }
}

static void a_frame_that_the_host_loses_is_done(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL);
    f->backend->send_result = -EIO;
    send_frame(f, 60, 1);
    show(f, TX);
    assert_int_equal(take_all(f, TX), 1);
    f->backend->send_result = 0;
    send_frame(f, 60, 2);
    show(f, TX);
    assert_sent(f, 0, 60, 2);
}

static void a_frame_with_a_wrong_header_is_lost_and_no_more(void **state)
{
    enum { LEN = 100 };
    static const struct {
        uint64_t features;
        struct virtio_net_hdr_v1 header;
        size_t len;
        bool good;
    } cases[] = {
        {0, {.flags = 0}, LEN, true},
        {0, {.flags = 1, .csum_start = 34, .csum_offset = 16}, LEN, false},
        {F(CSUM), {.flags = 1, .csum_start = 34, .csum_offset = 16}, LEN, true},
        {F(CSUM), {.flags = 1, .csum_start = LEN - 18, .csum_offset = 16}, LEN, true},
        {F(CSUM), {.flags = 1, .csum_start = LEN - 17, .csum_offset = 16}, LEN, false},
        {F(CSUM), {.flags = 1, .csum_start = 0xffff, .csum_offset = 0xffff}, LEN, false},
        {F(CSUM), {.flags = 0, .csum_start = 0xffff, .csum_offset = 0xffff}, LEN, true},
        {F(CSUM), {.flags = 1, .csum_start = 0, .csum_offset = 16, .gso_type = 1, .gso_size = 9}, LEN, false},
        {F(CSUM) | F(HOST_TSO4), {.flags = 1, .csum_offset = 16, .gso_type = 1, .gso_size = 9}, LEN, true},
        {F(CSUM) | F(HOST_TSO4), {.flags = 1, .csum_offset = 16, .gso_type = 1, .gso_size = 0}, LEN, false},
        {F(CSUM) | F(HOST_TSO4), {.flags = 0, .csum_offset = 16, .gso_type = 1, .gso_size = 9}, LEN, false},
        {F(CSUM) | F(HOST_TSO4), {.flags = 1, .csum_offset = 16, .gso_type = 4, .gso_size = 9}, LEN, false},
        {F(CSUM) | F(HOST_TSO4), {.flags = 1, .csum_offset = 16, .gso_type = 3, .gso_size = 9}, LEN, false},
        {F(CSUM) | F(HOST_TSO4), {.flags = 1, .csum_offset = 16, .gso_type = 0x81, .gso_size = 9}, LEN, false},
        {F(CSUM) | F(HOST_TSO4), {.flags = 1, .csum_offset = 16, .gso_type = 0x80, .gso_size = 9}, LEN, false},
        {F(CSUM) | F(HOST_TSO4) | F(HOST_ECN), {.flags = 1, .csum_offset = 16, .gso_type = 0x81, .gso_size = 9}, LEN, true},
        {F(HOST_TSO4), {.flags = 0, .csum_offset = 16, .gso_type = 1, .gso_size = 9}, LEN, false},
        {F(CSUM) | F(HOST_TSO6), {.flags = 1, .csum_offset = 16, .gso_type = 4, .gso_size = 9}, NET_FRAME_MAX, true},
        {F(CSUM) | F(HOST_TSO6), {.flags = 1, .csum_offset = 16, .gso_type = 4, .gso_size = 9}, NET_FRAME_MAX + 1, false},
        {0, {.flags = 0}, 14, true},
        {0, {.flags = 0}, 13, false},
        {0, {.flags = 0}, 0, false},
    };
    struct fixture *f = *state;
    unsigned sent = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_driver(f, USUAL | cases[i].features);
        f->queues[TX].area_bytes = 66 * 1024; /* of the one that is used */
        send_with(f, cases[i].header, cases[i].len, i);
        show(f, TX);
        sent += cases[i].good;
        if (f->backend->sent_count != sent)
            fail_msg("case %u", i);
        if (cases[i].good)
            assert_sent(f, sent - 1, cases[i].len, i);
        assert_int_equal(take_all(f, TX), 1);
        assert_false(f->dev->state.status & VIRTIO_STATUS_NEEDS_RESET);
        virtio_set_status(f->dev, 0);
    }
}

static void the_backend_sees_only_the_checked_part_of_a_header(void **state)
{
    static const struct virtio_net_hdr_v1 zeros = {0};
    struct fixture *f = *state;
    struct virtio_net_hdr_v1 h = {.flags = 0xfe, .hdr_len = 77, .gso_size = 7, .csum_start = 9, .csum_offset = 9, .num_buffers = 3};

    start_driver(f, USUAL | F(CSUM) | F(HOST_TSO4));
    send_with(f, h, 60, 1);
    h.flags = 0xff;
    h.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
    send_with(f, h, 60, 2);
    show(f, TX);
    assert_int_equal(f->backend->sent_count, 2);
    assert_memory_equal(&f->backend->sent[0].header, &zeros, sizeof(zeros));
    h.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    h.hdr_len = 60;
    h.num_buffers = 0;
    assert_memory_equal(&f->backend->sent[1].header, &h, sizeof(h));
}

static void an_endless_stream_leaves_the_loop_to_others(void **state)
{
    struct fixture *f = *state;
    unsigned total = 0;

    start_driver(f, USUAL);
    /* A queue of 256 fills the batch; what comes in meanwhile is for the next round. */
    driver_init(&f->queues[TX], &f->mem, 0x10000 + TX * AREA, AREA, 256, f->dev->state.driver_features);
    virtio_reset_queue(f->dev, TX);
    driver_connect(&f->queues[TX], &f->dev->queues[TX].state);
    assert_int_equal(virtio_enable_queue(f->dev, TX), 0);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 256; i++, total++)
            send_frame(f, 60, i);
        driver_show(&f->queues[TX]);
        virtio_doorbell(f->dev, TX);
        assert_int_equal(f->backend->sent_count, total);
        assert_int_equal(take_all(f, TX), 256);
    }
    send_frame(f, 60, 7);
    assert_false(driver_show(&f->queues[TX])); /* it will look by itself */
    run_loop(f);
    assert_sent(f, total, 60, 7);
    assert_int_equal(take_all(f, TX), 1);
    send_frame(f, 60, 8);
    assert_true(driver_show(&f->queues[TX]));
}

#define NET_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST(it_offers_what_its_backend_can),
        NET_TEST(the_configuration_has_address_link_mtu_and_speed),
        NET_TEST(the_backend_is_told_what_the_driver_takes),
        NET_TEST(a_frame_lands_in_a_buffer_behind_its_header),
        NET_TEST(a_large_frame_is_spread_over_buffers_that_appear_together),
        NET_TEST(without_buffers_the_backend_is_not_read),
        NET_TEST(a_frame_waits_for_the_rest_of_its_buffers),
        NET_TEST(a_frame_too_large_for_unmerged_buffers_is_lost),
        NET_TEST(a_frame_that_wants_more_buffers_than_anyone_gives_is_lost),
        NET_TEST(headers_that_the_driver_does_not_take_never_come),
        NET_TEST(what_is_no_frame_is_lost),
        NET_TEST(a_buffer_without_room_for_a_header_needs_a_reset),
        NET_TEST(frames_go_out_without_their_headers),
        NET_TEST(many_frames_are_one_batch),
        NET_TEST(what_an_answer_brings_is_read_at_once),
        NET_TEST(a_backend_that_is_not_ready_gets_the_frames_later_and_in_order),
        NET_TEST(a_frame_that_the_host_loses_is_done),
        NET_TEST(a_frame_with_a_wrong_header_is_lost_and_no_more),
        NET_TEST(the_backend_sees_only_the_checked_part_of_a_header),
        NET_TEST(an_endless_stream_leaves_the_loop_to_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
